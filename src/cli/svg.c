#include "cli/svg.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

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
    for (uint32_t l = 0; l < chart->n_lines; l++) {
        for (uint32_t i = 0; i < chart->n_contexts; i++) {
            low = fmin(low, chart->lines[l].values[i]); /* NAN is the other one */
            high = fmax(high, chart->lines[l].values[i]);
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
    ".list{stroke:#8250df;stroke-dasharray:12 3 3 3}.openblas{stroke:#bf3989;"
    "stroke-dasharray:2 5}\n"
    ".legacy-fill{fill:#656d76}.tiled-fill{fill:#bc4c00}.packed-fill{fill:#0969da}\n"
    ".fold-fill{fill:#1a7f37}.list-fill{fill:#8250df}.openblas-fill{fill:#bf3989}\n"
    "@media (prefers-color-scheme:dark){\n"
    "text{fill:#e6edf3}.note,.tick{fill:#9198a1}.page{fill:#0d1117}.grid{stroke:#30363d}\n"
    ".legacy{stroke:#8b949e}.tiled{stroke:#f0883e}.packed{stroke:#58a6ff}.fold{stroke:#3fb950}\n"
    ".list{stroke:#a371f7}.openblas{stroke:#f778ba}\n"
    ".legacy-fill{fill:#a5adb6}.tiled-fill{fill:#f0883e}.packed-fill{fill:#58a6ff}\n"
    ".fold-fill{fill:#3fb950}.list-fill{fill:#a371f7}.openblas-fill{fill:#f778ba}\n"
    "}\n"
    "</style>\n";

/* The outermost element: a page that holds the charts, two in a row. */
static void print_start(FILE *out, const cli_chart *charts, uint32_t n_charts)
{
    const int width = n_charts > 1 ? 2 * WIDTH : WIDTH;
    const int height = (int)(n_charts + 1) / 2 * HEIGHT;
    fprintf(out,
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 %d %d\" width=\"%d\" "
            "height=\"%d\" role=\"img\" aria-labelledby=\"title description\">\n",
            width, height, width, height);
    fputs("<title id=\"title\">", out);
    if (n_charts > 1)
        fprintf(out, "%u charts, ", n_charts);
    else
        fprintf(out, "%s, ", charts[0].title);
    print_escaped(out, charts[0].subject);
    fputs("</title>\n<desc id=\"description\">One line for each profile; both axes are "
          "logarithmic.",
          out);
    for (uint32_t i = 0; i < n_charts; i++)
        fprintf(out, " %s: %s.", charts[i].title, charts[i].note);
    fputs("</desc>\n", out);
    fputs(style, out);
    fprintf(out, "<rect class=\"page\" width=\"%d\" height=\"%d\"/>\n", width, height);
}

static void print_title(FILE *out, const cli_chart *chart)
{
    fprintf(out, "<text class=\"title\" x=\"%d\" y=\"32\">%s: ", LEFT, chart->title);
    print_escaped(out, chart->subject);
    fprintf(out,
            "</text>\n<text class=\"note\" x=\"%d\" y=\"54\">%s; both axes logarithmic</text>\n",
            LEFT, chart->note);
}

/* "20 MB", "500 us": a value of one digit, with its unit. */
static void print_tick(FILE *out, cli_chart_unit unit, double value)
{
    static const char *const bytes[] = {"B", "kB", "MB", "GB", "TB", "PB", "EB"};
    static const char *const seconds[] = {"ns", "us", "ms", "s"};
    const double smallest = unit == CLI_CHART_BYTES ? 1 : 1e-3; /* in the chart's values */
    const int last = unit == CLI_CHART_BYTES ? 6 : 3;
    const int thousands = (int)(log10(value / smallest * 1.001) / 3);
    const int i = thousands < 0 ? 0 : thousands > last ? last : thousands;
    fprintf(out, "%g %s", value / smallest / pow(1000, i),
            unit == CLI_CHART_BYTES ? bytes[i] : seconds[i]);
}

static void print_y_axis(FILE *out, cli_chart_unit unit, const axis *y)
{
    for (double value = y->low; value <= y->high * 1.001; value = next_value(value)) {
        fprintf(out, "<line class=\"grid\" x1=\"%d\" x2=\"%d\" y1=\"%.1f\" y2=\"%.1f\"/>\n", LEFT,
                WIDTH - RIGHT, place(y, value), place(y, value));
        fprintf(out, "<text class=\"tick\" x=\"%d\" y=\"%.1f\" text-anchor=\"end\">", LEFT - 10,
                place(y, value) + 4.5);
        print_tick(out, unit, value);
        fputs("</text>\n", out);
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

/* A value as text: every byte of a count, a time in microseconds. */
static const char *value_text(const cli_chart *chart, double value, char text[CLI_NUMBER_BYTES])
{
    if (chart->unit == CLI_CHART_MICROSECONDS) {
        snprintf(text, CLI_NUMBER_BYTES, "%.4g us", value);
        return text;
    }
    cli_format_count((uint64_t)value, text);
    strncat(text, " bytes", CLI_NUMBER_BYTES - strlen(text) - 1);
    return text;
}

static void print_line(FILE *out, const cli_chart *chart, const cli_chart_line *line, const axis *x,
                       const axis *y)
{
    const char *space = "";
    fprintf(out, "<polyline class=\"line %s\" points=\"", line->name);
    for (uint32_t i = 0; i < chart->n_contexts; i++) {
        if (isnan(line->values[i]))
            continue;
        fprintf(out, "%s%.1f,%.1f", space, place(x, (double)chart->contexts[i]),
                place(y, line->values[i]));
        space = " ";
    }
    fputs("\"/>\n", out);
    for (uint32_t i = 0; i < chart->n_contexts; i++) {
        char context[CLI_NUMBER_BYTES];
        char value[CLI_NUMBER_BYTES];
        if (isnan(line->values[i]))
            continue;
        fprintf(out,
                "<circle class=\"%s-fill\" cx=\"%.1f\" cy=\"%.1f\" r=\"3.5\"><title>%s at %s: "
                "%s</title></circle>\n",
                line->name, place(x, (double)chart->contexts[i]), place(y, line->values[i]),
                line->name, cli_format_context(chart->contexts[i], context),
                value_text(chart, line->values[i], value));
    }
}

/* The last value of a line; n_contexts where it has none. */
static uint32_t last_value(const cli_chart *chart, const cli_chart_line *line)
{
    for (uint32_t i = chart->n_contexts; i-- > 0;) {
        if (!isnan(line->values[i]))
            return i;
    }
    return chart->n_contexts;
}

/*
 * Names and last values at the right, from the top down, that is from the largest value to
 * the smallest, so a label that would touch the one above it moves down.
 */
static void print_labels(FILE *out, const cli_chart *chart, const axis *x, const axis *y)
{
    bool printed[CLI_MAX_CHART_LINES] = {false};
    double lowest = 0;
    for (uint32_t n = 0; n < chart->n_lines; n++) {
        const cli_chart_line *highest = NULL;
        double value = 0;
        uint32_t chosen = 0;
        for (uint32_t l = 0; l < chart->n_lines; l++) {
            const uint32_t last = last_value(chart, &chart->lines[l]);
            if (printed[l] || last == chart->n_contexts || chart->lines[l].values[last] <= value)
                continue;
            highest = &chart->lines[l];
            value = highest->values[last];
            chosen = l;
        }
        if (!highest)
            return;
        char text[CLI_NUMBER_BYTES];
        printed[chosen] = true;
        if (chart->unit == CLI_CHART_BYTES)
            cli_format_bytes((uint64_t)value, text);
        else
            cli_format_microseconds(value, text);
        lowest = fmax(lowest + LABEL_GAP, place(y, value) + 4.5);
        fprintf(out, "<text class=\"label %s-fill\" x=\"%.1f\" y=\"%.1f\">%s, %s</text>\n",
                highest->name, x->last + 12, lowest, highest->name, text);
    }
}

static void print_chart(FILE *out, const cli_chart *chart)
{
    axis x;
    axis y;
    make_axes(chart, &x, &y);
    print_title(out, chart);
    print_y_axis(out, chart->unit, &y);
    print_x_axis(out, &x);
    for (uint32_t l = 0; l < chart->n_lines; l++) {
        if (last_value(chart, &chart->lines[l]) < chart->n_contexts)
            print_line(out, chart, &chart->lines[l], &x, &y);
    }
    print_labels(out, chart, &x, &y);
}

int cli_svg_write(const char *command, const char *path, const cli_chart *charts, uint32_t n_charts)
{
    cli_outfile file;
    const int status = cli_outfile_open(command, path, &file);
    if (status != CLI_EXIT_OK)
        return status;
    print_start(file.stream, charts, n_charts);
    for (uint32_t i = 0; i < n_charts; i++) {
        if (n_charts > 1)
            fprintf(file.stream, "<g transform=\"translate(%u %u)\">\n", i % 2 * WIDTH,
                    i / 2 * HEIGHT);
        print_chart(file.stream, &charts[i]);
        if (n_charts > 1)
            fputs("</g>\n", file.stream);
    }
    fputs("</svg>\n", file.stream);
    return cli_outfile_commit(command, &file);
}
