/* plan --svg: bytes against context, both axes logarithmic, one labelled line a profile. */
#ifndef KVF_CLI_SVG_H
#define KVF_CLI_SVG_H

#include "cli/options.h"

typedef struct cli_chart {
    const char *model; /* for the title */
    uint32_t n_contexts;
    const uint64_t *contexts; /* [n_contexts], ascending, different */
    bool drawn[KVF_PROFILE_COUNT];
    const uint64_t *bytes[KVF_PROFILE_COUNT]; /* [n_contexts] each, above 0, where drawn */
} cli_chart;

/* Writes the file whole or not at all. Returns 0, or reports why not and returns the exit status.
 */
int cli_svg_write(const char *command, const char *path, const cli_chart *chart);

#endif
