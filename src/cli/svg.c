#include "cli/svg.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "cli/message.h"
#include "cli/outfile.h"
#include "engine/amounts.h"

/* Pixels. The right margin holds the lines' labels. */
enum { WIDTH = 880, HEIGHT = 520, LEFT = 84, RIGHT = 168, TOP = 72, BOTTOM = 64, LABEL_GAP = 19 };

/* An axis from low to high, both above 0 and different, over pixels first .. last. */
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

/* What can be drawn on a logarithmic axis and said as a whole number of 64 bits. */
static bool is_drawn(double value)
{
    return value > 0 && value < 0x1p63;
}

/* Round values are numbered: 3 * e + 0, 1, 2 are 1, 2, 5 times 10^e, for negative e too. */
static int decade_of(int number)
{
    return (number - (number % 3 + 3) % 3) / 3;
}

static int digit_of(int number)
{
    static const int digits[] = {1, 2, 5};
    return digits[number - 3 * decade_of(number)];
}

static double round_value(int number)
{
    return digit_of(number) * pow(10, decade_of(number));
}

/* The last round value at or below value. */
static int round_down(double value)
{
    int number = 3 * (int)floor(log10(value));
    while (round_value(number) > value)
        number--;
    while (round_value(number + 1) <= value)
        number++;
    return number;
}

/* The values' axis: numbers of the round values at its ends. */
typedef struct round_range {
    int low;
    int high;
} round_range;

static round_range find_range(const cli_chart *chart)
{
    double low = INFINITY;
    double high = 0;
    for (uint32_t l = 0; l < chart->n_lines; l++) {
        for (uint32_t i = 0; i < chart->n_contexts; i++) {
            if (is_drawn(chart->lines[l].values[i])) {
                low = fmin(low, chart->lines[l].values[i]);
                high = fmax(high, chart->lines[l].values[i]);
            }
        }
    }
    if (!is_drawn(high))
        return (round_range){0, 3}; /* an empty chart: 1 to 10 */
    round_range range = {round_down(low), round_down(high)};
    if (round_value(range.high) < high || range.high == range.low)
        range.high++;
    return range;
}

/* The first power of two at or above value, which is at least 2^-1. */
static int power_up(double value)
{
    int power = 0;
    while (ldexp(1, power) < value)
        power++;
    return power;
}

/* The last power of two at or below value, and a context has at least one token. */
static int power_down(double value)
{
    const int power = power_up(value);
    return power > 0 && ldexp(1, power) > value ? power - 1 : power;
}

/* Ends at the contexts where two powers of two lie between them, else at such powers. */
static axis make_x_axis(const cli_chart *chart)
{
    axis x = {1, 2, LEFT, WIDTH - RIGHT};
    if (chart->n_contexts > 0) {
        x.low = (double)chart->contexts[0];
        x.high = (double)chart->contexts[chart->n_contexts - 1];
    }
    if (x.high <= x.low) { /* a single context stands in the middle */
        x.low /= 2;
        x.high *= 2;
    }
    if (power_down(x.high) <= power_up(x.low)) {
        x.low = ldexp(1, power_down(x.low));
        x.high = ldexp(1, power_up(x.high));
    }
    return x;
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
    enum { SHOWN_BYTES = 40 }; /* beside the longest title */
    const size_t bytes = strlen(chart->subject);
    fprintf(out, "<text class=\"title\" x=\"%d\" y=\"32\">%s: ", LEFT, chart->title);
    if (bytes > SHOWN_BYTES) /* a path's end says more */
        fputs("...", out);
    print_escaped(out, chart->subject + (bytes > SHOWN_BYTES ? bytes - SHOWN_BYTES : 0));
    fprintf(out,
            "</text>\n<text class=\"note\" x=\"%d\" y=\"54\">%s; both axes logarithmic</text>\n",
            LEFT, chart->note);
}

/* "20 MB", "500 us": a round value with its unit. */
static void print_tick(FILE *out, cli_chart_unit unit, int number)
{
    static const char *const bytes[] = {"B", "kB", "MB", "GB", "TB", "PB", "EB"};
    static const char *const seconds[] = {"ns", "us", "ms", "s"};
    const bool counts_bytes = unit == CLI_CHART_BYTES;
    const int last = counts_bytes ? 6 : 3;
    const int decade = decade_of(number) + (counts_bytes ? 0 : 3); /* of the smallest unit */
    const int i = decade < 0 ? 0 : decade / 3 > last ? last : decade / 3;
    fprintf(out, "%g %s", digit_of(number) * pow(10, decade - 3 * i),
            counts_bytes ? bytes[i] : seconds[i]);
}

/* All round values, or powers of ten alone, some left out, where there is no room for more. */
static void print_y_axis(FILE *out, cli_chart_unit unit, const axis *y, round_range range)
{
    enum { LABEL_PIXELS = 16 };
    const double decade_pixels = (y->first - y->last) / log10(y->high / y->low);
    const bool all = decade_pixels * log10(2) >= LABEL_PIXELS; /* 1, 2 and 5, 10 are as near */
    const int step = all ? 1 : 3 * (1 + (int)(LABEL_PIXELS / decade_pixels));
    for (int number = range.low; number <= range.high; number++) {
        if (number % step != 0)
            continue;
        const double at = place(y, round_value(number));
        fprintf(out, "<line class=\"grid\" x1=\"%d\" x2=\"%d\" y1=\"%.1f\" y2=\"%.1f\"/>\n", LEFT,
                WIDTH - RIGHT, at, at);
        fprintf(out, "<text class=\"tick\" x=\"%d\" y=\"%.1f\" text-anchor=\"end\">", LEFT - 10,
                at + 4.5);
        print_tick(out, unit, number);
        fputs("</text>\n", out);
    }
}

/* Powers of two, thinned out until they stand 44 pixels apart. */
static void print_x_axis(FILE *out, const axis *x)
{
    const double octaves = log2(x->high / x->low);
    const int step = 1 + (int)(44 * octaves / (x->last - x->first));
    for (int power = power_up(x->low); power <= power_down(x->high); power += step) {
        char context[KVF_NUMBER_BYTES];
        const double at = place(x, ldexp(1, power));
        fprintf(out, "<line class=\"grid\" x1=\"%.1f\" x2=\"%.1f\" y1=\"%d\" y2=\"%d\"/>\n", at, at,
                TOP, HEIGHT - BOTTOM);
        fprintf(out, "<text class=\"tick\" x=\"%.1f\" y=\"%d\" text-anchor=\"middle\">%s</text>\n",
                at, HEIGHT - BOTTOM + 22, kvf_show_context(UINT64_C(1) << power, context));
    }
    fprintf(out,
            "<text class=\"note\" x=\"%.1f\" y=\"%d\" text-anchor=\"middle\">context, tokens"
            "</text>\n",
            (x->first + x->last) / 2, HEIGHT - 18);
}

/* A value as text: every byte of a count, a time in microseconds. */
static const char *value_text(const cli_chart *chart, double value, char text[KVF_NUMBER_BYTES])
{
    if (chart->unit == CLI_CHART_MICROSECONDS) {
        snprintf(text, KVF_NUMBER_BYTES, "%.4g us", value);
        return text;
    }
    kvf_show_count((uint64_t)value, text);
    strncat(text, " bytes", KVF_NUMBER_BYTES - strlen(text) - 1);
    return text;
}

static void print_line(FILE *out, const cli_chart *chart, const cli_chart_line *line, const axis *x,
                       const axis *y)
{
    const char *space = "";
    fprintf(out, "<polyline class=\"line %s\" points=\"", line->name);
    for (uint32_t i = 0; i < chart->n_contexts; i++) {
        if (!is_drawn(line->values[i]))
            continue;
        fprintf(out, "%s%.1f,%.1f", space, place(x, (double)chart->contexts[i]),
                place(y, line->values[i]));
        space = " ";
    }
    fputs("\"/>\n", out);
    for (uint32_t i = 0; i < chart->n_contexts; i++) {
        char context[KVF_NUMBER_BYTES];
        char value[KVF_NUMBER_BYTES];
        if (!is_drawn(line->values[i]))
            continue;
        fprintf(out,
                "<circle class=\"%s-fill\" cx=\"%.1f\" cy=\"%.1f\" r=\"3.5\"><title>%s at %s: "
                "%s</title></circle>\n",
                line->name, place(x, (double)chart->contexts[i]), place(y, line->values[i]),
                line->name, kvf_show_context(chart->contexts[i], context),
                value_text(chart, line->values[i], value));
    }
}

/* The last value of a line; n_contexts where it has none. */
static uint32_t last_value(const cli_chart *chart, const cli_chart_line *line)
{
    for (uint32_t i = chart->n_contexts; i-- > 0;) {
        if (is_drawn(line->values[i]))
            return i;
    }
    return chart->n_contexts;
}

/* The lines that have a value, by their last ones, the largest first; returns their number. */
static uint32_t sort_lines(const cli_chart *chart,
                           const cli_chart_line *sorted[CLI_MAX_CHART_LINES])
{
    double values[CLI_MAX_CHART_LINES];
    uint32_t n = 0;
    for (uint32_t l = 0; l < chart->n_lines; l++) {
        const cli_chart_line *line = &chart->lines[l];
        const uint32_t last = last_value(chart, line);
        if (last == chart->n_contexts)
            continue;
        uint32_t at = n++;
        for (; at > 0 && values[at - 1] < line->values[last]; at--) {
            sorted[at] = sorted[at - 1];
            values[at] = values[at - 1];
        }
        sorted[at] = line;
        values[at] = line->values[last];
    }
    return n;
}

/*
 * Names and last values at the right, from the largest value down. A label that would touch
 * the one above it moves down, and those that would leave the plot then move up again.
 */
static void print_labels(FILE *out, const cli_chart *chart, const axis *x, const axis *y)
{
    const cli_chart_line *sorted[CLI_MAX_CHART_LINES];
    double at[CLI_MAX_CHART_LINES];
    const uint32_t n = sort_lines(chart, sorted);
    for (uint32_t i = 0; i < n; i++) {
        at[i] = place(y, sorted[i]->values[last_value(chart, sorted[i])]) + 4.5;
        if (i > 0)
            at[i] = fmax(at[i], at[i - 1] + LABEL_GAP);
    }
    for (uint32_t i = n; i-- > 0;)
        at[i] = fmin(at[i], i + 1 < n ? at[i + 1] - LABEL_GAP : HEIGHT - BOTTOM + 4.5);
    for (uint32_t i = 0; i < n; i++) {
        char text[KVF_NUMBER_BYTES];
        const double value = sorted[i]->values[last_value(chart, sorted[i])];
        if (chart->unit == CLI_CHART_BYTES)
            kvf_show_bytes((uint64_t)value, text);
        else
            kvf_show_microseconds(value, text);
        fprintf(out, "<text class=\"label %s-fill\" x=\"%.1f\" y=\"%.1f\">%s, %s</text>\n",
                sorted[i]->name, x->last + 12, at[i], sorted[i]->name, text);
    }
}

static void print_chart(FILE *out, const cli_chart *chart)
{
    const round_range range = find_range(chart);
    const axis x = make_x_axis(chart);
    const axis y = {round_value(range.low), round_value(range.high), HEIGHT - BOTTOM, TOP};
    print_title(out, chart);
    print_y_axis(out, chart->unit, &y, range);
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
