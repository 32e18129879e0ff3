/*
 * What operations find wrong with the data of a chunk, on the device: one kvf_finding a place,
 * lowered by whoever finds something, so that the first one wins on every schedule
 * (docs/QUEUE.md).
 */
#ifndef KVF_SHARED_FINDING_H
#define KVF_SHARED_FINDING_H

#include "kvfold.h"

typedef struct kvf_finding {
    uint64_t first_bad;    /* the least word that was found; KVF_NOTHING_FOUND */
    uint64_t inexact_rows; /* rows that the format could not hold exactly, added up */
} kvf_finding;
#define KVF_NOTHING_FOUND UINT64_MAX

/* Where an operation is to tell, and what it adds to the indices of what it finds. */
typedef struct kvf_findings {
    kvf_finding *place; /* memory that the device addresses */
    uint64_t first;
} kvf_findings;

/*
 * A word: what was made comes after all that was given (bit 63), then the lower index (43
 * bits), then the lower dimension (16), then the reason, a kvf_status below 64 (4 bits are
 * enough for those two that there are, 30 and 31, less 30).
 */
#define KVF_FOUND_DIM_BITS 16
#define KVF_FOUND_REASON_BITS 4

static inline uint64_t kvf_found_word(bool made, uint64_t index, uint32_t dim, kvf_status reason)
{
    return (uint64_t)made << 63 | index << (KVF_FOUND_DIM_BITS + KVF_FOUND_REASON_BITS) |
           (uint64_t)dim << KVF_FOUND_REASON_BITS | ((uint64_t)reason - KVF_NONFINITE);
}

/* A word in its parts. */
typedef struct kvf_found {
    bool made; /* of the rows that compress made; else of what an operation was given */
    uint64_t index;
    uint32_t dim;
    kvf_status reason; /* KVF_OK: nothing was found */
} kvf_found;

static inline kvf_found kvf_found_of(uint64_t word)
{
    if (word == KVF_NOTHING_FOUND)
        return (kvf_found){.reason = KVF_OK};
    return (kvf_found){
        .made = word >> 63,
        .index = word << 1 >> (1 + KVF_FOUND_DIM_BITS + KVF_FOUND_REASON_BITS),
        .dim = (uint32_t)(word >> KVF_FOUND_REASON_BITS) & ((1u << KVF_FOUND_DIM_BITS) - 1),
        .reason = (kvf_status)(KVF_NONFINITE + (word & ((1u << KVF_FOUND_REASON_BITS) - 1)))};
}

/* For one thread that has the least of what an operation found. */
static inline void kvf_found_lower(kvf_findings found, bool made, uint64_t index, uint32_t dim,
                                   kvf_status reason)
{
    const uint64_t word = kvf_found_word(made, found.first + index, dim, reason);
    if (word < found.place->first_bad)
        found.place->first_bad = word;
}

#endif
