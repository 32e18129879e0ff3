/*
 * Logits that others are compared with, bit by bit: kept whole, or, where they would be too
 * many, as a checksum of each position's.
 */
#ifndef KVF_CLI_REFERENCE_H
#define KVF_CLI_REFERENCE_H

#include <stdbool.h>
#include <stdint.h>

/* What is left of a position's logits. */
typedef struct cli_logits_digest {
    uint64_t checksum;
    uint32_t argmax;
    bool known; /* else they were not computed there, and nothing is compared */
} cli_logits_digest;

typedef struct cli_reference {
    uint32_t vocab;
    float *rows;                /* [positions][vocab], or NULL, and then .. */
    cli_logits_digest *digests; /* [positions] */
} cli_reference;

typedef struct cli_comparison {
    uint64_t n_compared;
    uint64_t n_differing;      /* with checksums all of a position whose checksum differs */
    double max_abs_difference; /* infinity where a NaN differs, or by how much is not known */
    bool argmax_differs;
} cli_comparison;

/* Takes the logits [vocab] of a position; they may be its own place in rows. */
void cli_reference_keep(cli_reference *reference, uint64_t position, const float *logits);
/* Adds what comparing them shows: +0 and -0 differ, a NaN equals itself. */
void cli_reference_compare(const cli_reference *reference, uint64_t position, const float *logits,
                           cli_comparison *comparison);

#endif
