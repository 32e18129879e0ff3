#include "cli/reference.h"

#include <math.h>
#include <string.h>

#include "checksum.h"
#include "model/sample.h"

static cli_logits_digest digest_of(const float *logits, uint32_t vocab)
{
    return (cli_logits_digest){.checksum = kvf_checksum(logits, vocab * sizeof *logits),
                               .argmax = kvf_argmax(logits, vocab),
                               .known = true};
}

void cli_reference_keep(cli_reference *reference, uint64_t position, const float *logits)
{
    const size_t vocab = reference->vocab;
    if (!reference->rows)
        reference->digests[position] = digest_of(logits, reference->vocab);
    else if (logits != reference->rows + position * vocab)
        memcpy(reference->rows + position * vocab, logits, vocab * sizeof *logits);
}

static void compare_digests(const cli_logits_digest *expected, const float *logits, uint32_t vocab,
                            cli_comparison *comparison)
{
    if (!expected->known)
        return;
    const cli_logits_digest actual = digest_of(logits, vocab);
    comparison->n_compared += vocab;
    if (actual.checksum == expected->checksum)
        return;
    comparison->n_differing += vocab;
    comparison->max_abs_difference = INFINITY;
    comparison->argmax_differs |= actual.argmax != expected->argmax;
}

static void compare_values(const float *expected, const float *actual, uint32_t vocab,
                           cli_comparison *comparison)
{
    comparison->n_compared += vocab;
    if (memcmp(expected, actual, vocab * sizeof *expected) == 0)
        return;
    for (uint32_t i = 0; i < vocab; i++) {
        if (memcmp(expected + i, actual + i, sizeof *expected) == 0)
            continue;
        const double difference = fabs((double)expected[i] - (double)actual[i]);
        comparison->n_differing++;
        if (isnan(difference))
            comparison->max_abs_difference = INFINITY;
        else if (difference > comparison->max_abs_difference)
            comparison->max_abs_difference = difference;
    }
    comparison->argmax_differs |= kvf_argmax(expected, vocab) != kvf_argmax(actual, vocab);
}

void cli_reference_compare(const cli_reference *reference, uint64_t position, const float *logits,
                           cli_comparison *comparison)
{
    const size_t vocab = reference->vocab;
    if (reference->rows)
        compare_values(reference->rows + position * vocab, logits, reference->vocab, comparison);
    else
        compare_digests(&reference->digests[position], logits, reference->vocab, comparison);
}
