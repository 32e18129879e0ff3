/*
 * --svg: charts of a value against context, both axes logarithmic, one labelled line a
 * profile. A file holds one chart or several, two in a row.
 */
#ifndef KVF_CLI_SVG_H
#define KVF_CLI_SVG_H

#include "cli/options.h"

typedef enum cli_chart_unit { CLI_CHART_BYTES, CLI_CHART_MICROSECONDS } cli_chart_unit;

typedef struct cli_chart_line {
    const char *name;     /* a profile's, or one more that svg.c has colours for */
    const double *values; /* [n_contexts]; drawn where above 0 and below 2^63: NAN for none */
} cli_chart_line;

enum { CLI_MAX_CHART_LINES = 8 };

typedef struct cli_chart {
    const char *title;
    const char *subject; /* the model, after the title; escaped, its end where it is long */
    const char *note;    /* what is drawn, a line below the title */
    cli_chart_unit unit;
    uint32_t n_contexts;
    const uint64_t *contexts; /* [n_contexts], 1 to 2^62, ascending, different */
    uint32_t n_lines;
    cli_chart_line lines[CLI_MAX_CHART_LINES];
} cli_chart;

/*
 * Writes the file whole or not at all. Returns 0, or reports why not and returns the
 * exit status.
 */
int cli_svg_write(const char *command, const char *path, const cli_chart *charts,
                  uint32_t n_charts);

#endif
