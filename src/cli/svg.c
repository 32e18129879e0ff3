#include "cli/svg.h"

#include <math.h>
#include <stdio.h>

#include "cli/message.h"
#include "cli/outfile.h"
#include "cli/units.h"

/* Pixels. The right margin holds the lines' labels. */
enum { WIDTH = 880, HEIGHT = 520, LEFT = 84, RIGHT = 168, TOP = 72, BOTTOM = 64, LABEL_GAP = 19 };

/* An axis from low to high, both above 0, over pixels first .. last. */
typedef struct axis {
    double low;
    double high;
    double first;
    double last;
} axis;

static double place(const axis *a, double value)
{
    return a->first + (a->last - a->first) * log(value / a->low) / log(a->high / a->low);
}

/* The nearest of 1, 2, 5 times a power of ten at or beyond value, downwards or upwards. */
static double round_value(double value, bool up)
{
    static const double steps[] = {1, 2, 5, 10};
    const double decade = pow(10, floor(log10(value)));
    double below = decade;
    for (int i = 0; i < 4; i++) {
        if (up && steps[i] * decade >= value)
            return steps[i] * decade;
        if (steps[i] * decade <= value)
            below = steps[i] * decade;
    }
    return below;
}

static double next_value(double value)
{
    return round_value(value * 1.5, true); /* 1 -> 2 -> 5 -> 10 */
}

static void make_axes(const cli_chart *chart, axis *x, axis *y)
{
    double low = INFINITY;
    double high = 0;
    for (int p = 0; p < KVF_PROFILE_COUNT; p++) {
        for (uint32_t i = 0; chart->drawn[p] && i < chart->n_contexts; i++) {
            low = fmin(low, (double)chart->bytes[p][i]);
            high = fmax(high, (double)chart->bytes[p][i]);
        }
    }
    *y = (axis){round_value(low, false), round_value(high, true), HEIGHT - BOTTOM, TOP};
    if (y->high <= y->low)
        y->high = next_value(y->low);
    *x = (axis){(double)chart->contexts[0], (double)chart->contexts[chart->n_contexts - 1], LEFT,
                WIDTH - RIGHT};
    if (x->high <= x->low) { /* a single context stands in the middle */
        x->low /= 2;
        x->high *= 2;
    }
}

/* Text as XML may carry it: markup escaped, everything but printable ASCII as '?'. */
static void print_escaped(FILE *out, const char *text)
{
    for (; *text; text++) {
        switch (*text) {
        case '&': fputs("&amp;", out); break;
        case '<': fputs("&lt;", out); break;
        case '>': fputs("&gt;", out); break;
        default: fputc(*text < ' ' || *text > '~' ? '?' : *text, out); break;
        }
    }
}

/*
 * Colours keep their order of lightness for readers who cannot tell hues apart, and
 * each line has its own dashes. Plain classes instead of CSS variables, which several
 * renderers of SVG lack.
 */
static const char style[] =
    "<style>\n"
    "text{font:14px system-ui,-apple-system,'Segoe UI',Helvetica,Arial,sans-serif;fill:#1f2328}\n"
    ".title{font-size:19px;font-weight:600}.note,.tick{font-size:13px;fill:#59636e}\n"
    ".label{font-weight:600}.page{fill:#ffffff}.grid{stroke:#d8dee4;stroke-width:1}\n"
    ".line{fill:none;stroke-width:2.5;stroke-linejoin:round}\n"
    ".legacy{stroke:#8b949e}.tiled{stroke:#bc4c00;stroke-dasharray:9 4}\n"
    ".packed{stroke:#0969da;stroke-dasharray:3 3}.fold{stroke:#1a7f37;stroke-width:3.5}\n"
    ".legacy-fill{fill:#656d76}.tiled-fill{fill:#bc4c00}.packed-fill{fill:#0969da}\n"
    ".fold-fill{fill:#1a7f37}\n"
    "@media (prefers-color-scheme:dark){\n"
    "text{fill:#e6edf3}.note,.tick{fill:#9198a1}.page{fill:#0d1117}.grid{stroke:#30363d}\n"
    ".legacy{stroke:#8b949e}.tiled{stroke:#f0883e}.packed{stroke:#58a6ff}.fold{stroke:#3fb950}\n"
    ".legacy-fill{fill:#a5adb6}.tiled-fill{fill:#f0883e}.packed-fill{fill:#58a6ff}\n"
    ".fold-fill{fill:#3fb950}\n"
    "}\n"
    "</style>\n";

static void print_start(FILE *out, const cli_chart *chart)
{
    fprintf(out,
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 %d %d\" width=\"%d\" "
            "height=\"%d\" role=\"img\" aria-labelledby=\"title description\">\n",
            WIDTH, HEIGHT, WIDTH, HEIGHT);
    fputs("<title id=\"title\">Session bytes against context, ", out);
    print_escaped(out, chart->model);
    fputs("</title>\n<desc id=\"description\">One line for each cache profile; both axes are "
          "logarithmic. Rows held, without page padding.</desc>\n",
          out);
    fputs(style, out);
    fprintf(out, "<rect class=\"page\" width=\"%d\" height=\"%d\"/>\n", WIDTH, HEIGHT);
    fprintf(out, "<text class=\"title\" x=\"%d\" y=\"32\">Session bytes against context: ", LEFT);
    print_escaped(out, chart->model);
    fprintf(out,
            "</text>\n<text class=\"note\" x=\"%d\" y=\"54\">rows held, without page padding; "
            "1 MB = 1,000,000 bytes; both axes logarithmic</text>\n",
            LEFT);
}

static void print_y_axis(FILE *out, const axis *y)
{
    for (double value = y->low; value <= y->high * 1.001; value = next_value(value)) {
        static const char *const units[] = {"B", "kB", "MB", "GB", "TB", "PB", "EB"};
        const int thousands = (int)(log10(value * 1.001) / 3);
        const int unit = thousands < 0 ? 0 : thousands > 6 ? 6 : thousands;
        fprintf(out, "<line class=\"grid\" x1=\"%d\" x2=\"%d\" y1=\"%.1f\" y2=\"%.1f\"/>\n", LEFT,
                WIDTH - RIGHT, place(y, value), place(y, value));
        fprintf(out, "<text class=\"tick\" x=\"%d\" y=\"%.1f\" text-anchor=\"end\">%g %s</text>\n",
                LEFT - 10, place(y, value) + 4.5, value / pow(1000, unit), units[unit]);
    }
}

/* Powers of two, thinned out until they stand 44 pixels apart. */
static void print_x_axis(FILE *out, const axis *x)
{
    const double octaves = log2(x->high / x->low);
    const int step = 1 + (int)(44 * octaves / (x->last - x->first));
    for (int power = (int)ceil(log2(x->low) - 1e-9); power <= log2(x->high) + 1e-9; power += step) {
        char context[CLI_NUMBER_BYTES];
        const double at = place(x, ldexp(1, power));
        fprintf(out, "<line class=\"grid\" x1=\"%.1f\" x2=\"%.1f\" y1=\"%d\" y2=\"%d\"/>\n", at, at,
                TOP, HEIGHT - BOTTOM);
        fprintf(out, "<text class=\"tick\" x=\"%.1f\" y=\"%d\" text-anchor=\"middle\">%s</text>\n",
                at, HEIGHT - BOTTOM + 22, cli_format_context(UINT64_C(1) << power, context));
    }
    fprintf(out,
            "<text class=\"note\" x=\"%.1f\" y=\"%d\" text-anchor=\"middle\">context, tokens"
            "</text>\n",
            (x->first + x->last) / 2, HEIGHT - 18);
}

static void print_line(FILE *out, const cli_chart *chart, int profile, const axis *x, const axis *y)
{
    const char *name = kvf_profile_get((kvf_profile_id)profile)->name;
    fprintf(out, "<polyline class=\"line %s\" points=\"", name);
    for (uint32_t i = 0; i < chart->n_contexts; i++)
        fprintf(out, "%s%.1f,%.1f", i ? " " : "", place(x, (double)chart->contexts[i]),
                place(y, (double)chart->bytes[profile][i]));
    fputs("\"/>\n", out);
    for (uint32_t i = 0; i < chart->n_contexts; i++) {
        char context[CLI_NUMBER_BYTES];
        char count[CLI_NUMBER_BYTES];
        fprintf(out,
                "<circle class=\"%s-fill\" cx=\"%.1f\" cy=\"%.1f\" r=\"3.5\"><title>%s at %s: "
                "%s bytes</title></circle>\n",
                name, place(x, (double)chart->contexts[i]),
                place(y, (double)chart->bytes[profile][i]), name,
                cli_format_context(chart->contexts[i], context),
                cli_format_count(chart->bytes[profile][i], count));
    }
}

/*
 * Names and last values at the lines' ends. Profiles come from the most bytes to the
 * fewest, that is from the top down, so a label that would touch the one above it
 * moves down.
 */
static void print_labels(FILE *out, const cli_chart *chart, const axis *x, const axis *y)
{
    const uint32_t last = chart->n_contexts - 1;
    const double at = place(x, (double)chart->contexts[last]) + 12;
    double lowest = 0;
    for (int p = 0; p < KVF_PROFILE_COUNT; p++) {
        if (!chart->drawn[p])
            continue;
        char bytes[CLI_NUMBER_BYTES];
        const char *name = kvf_profile_get((kvf_profile_id)p)->name;
        lowest = fmax(lowest + LABEL_GAP, place(y, (double)chart->bytes[p][last]) + 4.5);
        fprintf(out, "<text class=\"label %s-fill\" x=\"%.1f\" y=\"%.1f\">%s, %s</text>\n", name,
                at, lowest, name, cli_format_bytes(chart->bytes[p][last], bytes));
    }
}

int cli_svg_write(const char *command, const char *path, const cli_chart *chart)
{
    cli_outfile file;
    axis x;
    axis y;
    const int status = cli_outfile_open(command, path, &file);
    if (status != CLI_EXIT_OK)
        return status;
    make_axes(chart, &x, &y);
    print_start(file.stream, chart);
    print_y_axis(file.stream, &y);
    print_x_axis(file.stream, &x);
    for (int p = 0; p < KVF_PROFILE_COUNT; p++) {
        if (chart->drawn[p])
            print_line(file.stream, chart, p, &x, &y);
    }
    print_labels(file.stream, chart, &x, &y);
    fputs("</svg>\n", file.stream);
    return cli_outfile_commit(command, &file);
}
