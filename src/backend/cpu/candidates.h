/*
 * The best k of a stream of scored rows, without a buffer that grows: candidates
 * are kept as one 64-bit key (score, then lower row) and thinned to the best k when the
 * buffer is full. The order is total, so the set does not depend on the order in which
 * rows come nor on who brings them. Keys stay in the order in which they came: rows are
 * pushed ascending, so the list that comes out is ascending without a sort.
 */
#ifndef KVF_CPU_CANDIDATES_H
#define KVF_CPU_CANDIDATES_H

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

typedef struct kvf_candidates {
    uint64_t *keys;  /* [capacity] */
    uint64_t *spare; /* [capacity], for thinning; several may share it on one thread */
    uint32_t n;
    uint32_t top_k;
    uint32_t capacity; /* at least top_k + 16, the rows that are pushed together */
    uint64_t floor;    /* keys below it cannot be among the best k; 0 at first */
    float floor_score; /* scores below it cannot either: a quick test */
} kvf_candidates;

/* Higher score first, then lower row: larger key. -0 counts as +0. */
static inline uint64_t kvf_candidate_key(float score, uint32_t row)
{
    uint32_t bits;
    score += 0.0f; /* -0 + 0 = +0 */
    memcpy(&bits, &score, sizeof bits);
    bits = bits & 0x80000000u ? ~bits : bits | 0x80000000u;
    return (uint64_t)bits << 32 | (uint32_t)~row;
}

static inline uint32_t kvf_candidate_row(uint64_t key)
{
    return ~(uint32_t)key;
}

static inline float kvf_candidate_score(uint64_t key)
{
    uint32_t bits = (uint32_t)(key >> 32);
    bits = bits & 0x80000000u ? bits & 0x7fffffffu : ~bits;
    float score;
    memcpy(&score, &bits, sizeof score);
    return score;
}

/* Stores a row if it is not below the floor; there must be room. */
static inline void kvf_candidates_keep(kvf_candidates *candidates, float score, uint32_t row)
{
    const uint64_t key = kvf_candidate_key(score, row);
    candidates->keys[candidates->n] = key;
    candidates->n += key >= candidates->floor;
}

void kvf_candidates_start(kvf_candidates *candidates, uint64_t *keys, uint64_t *spare,
                          uint32_t capacity, uint32_t top_k);
/* Keeps the best top_k only and raises the floor. */
void kvf_candidates_thin(kvf_candidates *candidates);
/* Takes keys of rows above all before, ascending by row. */
void kvf_candidates_merge(kvf_candidates *candidates, const uint64_t *keys, uint32_t n);
/* Writes the best rows ascending, pads to top_k with -1; returns their number. */
uint32_t kvf_candidates_finish(kvf_candidates *candidates, int32_t *list);

#endif
