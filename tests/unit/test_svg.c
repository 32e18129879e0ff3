/* Charts: every tick is inside of the plot and says what stands there, at all sizes. */
#include "checkpoint_files.h"

#include "cli/svg.h"

#include <math.h>

/* The plot of one chart in its file. */
enum { LEFT = 84, RIGHT = 712, TOP = 72, BOTTOM = 456, MAX_MARKS = 512 };

typedef struct mark {
    double value;
    double at; /* pixels */
    char label[64];
} mark;

typedef struct marks {
    mark marks[MAX_MARKS];
    int n;
} marks;

/* What was drawn. */
typedef struct drawing {
    marks x_ticks;
    marks y_ticks;
    marks point_contexts; /* value: as its tooltip says, to 1 in 1024 */
    marks point_values;
    marks labels; /* at: y */
    bool no_numbers;
} drawing;

static mark *add(marks *list)
{
    assert_true(list->n < MAX_MARKS);
    return &list->marks[list->n++];
}

/* "8k", "1,000", "20 MB", "1,024 bytes", "0.5 us", "1e+06 s": the number meant. */
static double read_value(const char *text)
{
    static const struct {
        const char *unit;
        double factor;
    } units[] = {{"", 1},       {"k", 1024},   {"M", 0x1p20}, {"G", 0x1p30}, {"T", 0x1p40},
                 {" bytes", 1}, {" B", 1},     {" kB", 1e3},  {" MB", 1e6},  {" GB", 1e9},
                 {" TB", 1e12}, {" PB", 1e15}, {" EB", 1e18}, {" ns", 1e-3}, {" us", 1},
                 {" ms", 1e3},  {" s", 1e6}};
    char digits[64];
    size_t n = 0;
    for (const char *c = text; *c && n + 1 < sizeof digits; c++)
        if (*c != ',')
            digits[n++] = *c;
    digits[n] = '\0';
    char *end;
    const double number = strtod(digits, &end);
    assert_true(end > digits);
    for (size_t i = 0; i < sizeof units / sizeof *units; i++)
        if (strcmp(end, units[i].unit) == 0)
            return number * units[i].factor;
    fail_msg("no unit: %s", text);
    return 0;
}

static void read_tick(const char *line, drawing *d)
{
    mark tick;
    double x;
    double y;
    char anchor[16];
    assert_int_equal(sscanf(line,
                            "<text class=\"tick\" x=\"%lf\" y=\"%lf\" text-anchor=\"%15[a-z]\">"
                            "%63[^<]",
                            &x, &y, anchor, tick.label),
                     4);
    const bool is_y = strcmp(anchor, "end") == 0;
    tick.value = read_value(tick.label);
    tick.at = is_y ? y - 4.5 : x; /* text stands lower than its line */
    *add(is_y ? &d->y_ticks : &d->x_ticks) = tick;
}

static void read_point(const char *line, drawing *d)
{
    mark context;
    mark value;
    assert_int_equal(sscanf(line,
                            "<circle class=\"%*[a-z-]\" cx=\"%lf\" cy=\"%lf\" r=\"3.5\">"
                            "<title>%*s at %63[^:]: %63[^<]",
                            &context.at, &value.at, context.label, value.label),
                     4);
    context.value = read_value(context.label);
    value.value = read_value(value.label);
    *add(&d->point_contexts) = context;
    *add(&d->point_values) = value;
}

static void read_drawing(const char *path, drawing *d)
{
    char line[2048];
    FILE *file = fopen(path, "r");
    memset(d, 0, sizeof *d);
    assert_non_null(file);
    while (fgets(line, sizeof line, file)) {
        d->no_numbers =
            d->no_numbers || strstr(line, "nan") || strstr(line, "\"inf") || strstr(line, "\"-inf");
        if (strstr(line, "class=\"tick\""))
            read_tick(line, d);
        else if (strstr(line, "<circle"))
            read_point(line, d);
        else if (strstr(line, "class=\"label")) {
            mark *label = add(&d->labels);
            assert_int_equal(sscanf(line, "<text class=\"%*[^\"]\" x=\"%lf\" y=\"%lf\">%63[^<]",
                                    &label->value, &label->at, label->label),
                             3);
        }
    }
    fclose(file);
}

/* Where a value stands, by the first and the last tick; a pixel's tenth is printed. */
static double place_by_ticks(const marks *ticks, double value)
{
    const mark *a = &ticks->marks[0];
    const mark *b = &ticks->marks[ticks->n - 1];
    return a->at + (b->at - a->at) * log(value / a->value) / log(b->value / a->value);
}

static void check_ticks(const marks *ticks, double low, double high, double least_gap)
{
    const double direction = high > low ? 1 : -1;
    assert_in_range(ticks->n, 2, 30);
    for (int i = 0; i < ticks->n; i++) {
        const mark *tick = &ticks->marks[i];
        const double inside = (tick->at - low) * direction;
        assert_true(inside >= -0.1 && inside <= fabs(high - low) + 0.1);
        if (i == 0)
            continue;
        assert_true(tick->value > tick[-1].value);
        assert_true((tick->at - tick[-1].at) * direction >= least_gap);
        for (int j = 0; j < i; j++)
            assert_string_not_equal(tick->label, ticks->marks[j].label);
        if (fabs(place_by_ticks(ticks, tick->value) - tick->at) > 0.3)
            fail_msg("the tick %s is at %.1f", tick->label, tick->at);
    }
}

/* Points stand where the ticks beside them say. */
static void check_points(const marks *points, const marks *ticks, double low, double high)
{
    for (int i = 0; i < points->n; i++) {
        const mark *point = &points->marks[i];
        assert_true(point->at >= fmin(low, high) - 0.1 && point->at <= fmax(low, high) + 0.1);
        /* Over many octaves two ticks that are near each other say little of a far point. */
        if (fabs(place_by_ticks(ticks, point->value) - point->at) > 1.5)
            fail_msg("the point %s is at %.1f and not %.1f", point->label, point->at,
                     place_by_ticks(ticks, point->value));
    }
}

static void check_labels(const marks *labels)
{
    for (int i = 0; i < labels->n; i++) {
        assert_true(labels->marks[i].at >= TOP && labels->marks[i].at <= BOTTOM + 5);
        for (int j = 0; j < i; j++)
            assert_true(fabs(labels->marks[i].at - labels->marks[j].at) >= 18.5);
    }
}

static void draw(const char *folder, const cli_chart *chart, drawing *d)
{
    char path[512];
    snprintf(path, sizeof path, "%s/chart.svg", folder);
    assert_int_equal(cli_svg_write("plan", path, chart, 1), 0);
    read_drawing(path, d);
    assert_false(d->no_numbers);
    check_ticks(&d->x_ticks, LEFT, RIGHT, 40);
    check_ticks(&d->y_ticks, BOTTOM, TOP, 15);
    check_points(&d->point_contexts, &d->x_ticks, LEFT, RIGHT);
    check_points(&d->point_values, &d->y_ticks, BOTTOM, TOP);
    check_labels(&d->labels);
}

/* n contexts from low to high, and lines that lie between two values. */
static void check_chart(const char *folder, uint64_t low, uint64_t high, uint32_t n, double bottom,
                        double top, cli_chart_unit unit)
{
    static const char *const names[] = {"legacy", "tiled", "packed", "fold", "list", "openblas"};
    enum { N_LINES = 6, MOST = 64 };
    uint64_t contexts[MOST];
    double values[N_LINES][MOST];
    drawing *d = malloc(sizeof *d);
    cli_chart chart = {.title = "Title",
                       .subject = "model",
                       .note = "note",
                       .unit = unit,
                       .contexts = contexts,
                       .n_lines = N_LINES};
    assert_non_null(d);
    for (uint32_t i = 0; i < n; i++) {
        const double share = n > 1 ? (double)i / (n - 1) : 0;
        uint64_t context = (uint64_t)((double)low * pow((double)high / (double)low, share) + 0.5);
        if (i == n - 1)
            context = n > 1 ? high : low;
        if (chart.n_contexts == 0 || context > contexts[chart.n_contexts - 1])
            contexts[chart.n_contexts++] = context;
    }
    for (int l = 0; l < N_LINES; l++) {
        for (uint32_t i = 0; i < chart.n_contexts; i++) {
            const double share = (double)(i * N_LINES + l) / (chart.n_contexts * N_LINES);
            const double value = fmin(fmax(bottom * pow(top / bottom, share), bottom), top);
            values[l][i] = unit == CLI_CHART_BYTES ? floor(value) : value; /* as its tooltip */
        }
        chart.lines[l] = (cli_chart_line){names[l], values[l]};
    }
    draw(folder, &chart, d);
    assert_int_equal(d->point_values.n, N_LINES * chart.n_contexts);
    assert_int_equal(d->labels.n, N_LINES);
    free(d);
}

static void test_ticks_are_right_at_all_sizes(void **state)
{
    static const uint64_t contexts[] = {1,
                                        2,
                                        3,
                                        1023,
                                        1024,
                                        1025,
                                        100000,
                                        1048575,
                                        1048576,
                                        UINT64_C(1) << 40,
                                        (UINT64_C(1) << 40) + 1,
                                        UINT64_C(1) << 62};
    const int n_contexts = sizeof contexts / sizeof contexts[0];
    for (int i = 0; i < n_contexts; i++) {
        check_chart(*state, contexts[i], contexts[i], 1, 5e6, 5e6, CLI_CHART_BYTES);
        for (int j = i + 1; j < n_contexts; j++) {
            check_chart(*state, contexts[i], contexts[j], 2, 44e6, 3.7e9, CLI_CHART_BYTES);
            check_chart(*state, contexts[i], contexts[j], 9, 1, 9e18, CLI_CHART_BYTES);
        }
    }
}

static void test_ticks_are_right_for_all_values(void **state)
{
    static const double bytes[] = {1, 1.5, 999, 1000, 1001, 1e6, 2e6, 5e9 + 1, 1e15, 9.2e18};
    static const double times[] = {1e-9, 4e-4, 1e-3,    0.1, 0.7,   1,
                                   9.99, 1e3,  12345.6, 1e6, 3.6e9, 1e15};
    for (size_t i = 0; i < sizeof bytes / sizeof *bytes; i++)
        for (size_t j = i; j < sizeof bytes / sizeof *bytes; j++)
            check_chart(*state, 8192, 1048576, 3, bytes[i], bytes[j], CLI_CHART_BYTES);
    for (size_t i = 0; i < sizeof times / sizeof *times; i++)
        for (size_t j = i; j < sizeof times / sizeof *times; j++)
            check_chart(*state, 8192, 98304, 5, times[i], times[j], CLI_CHART_MICROSECONDS);
}

static void test_what_cannot_be_drawn_is_left_out(void **state)
{
    const uint64_t contexts[] = {1024, 2048, 4096, 8192};
    const double some[] = {NAN, 2000, INFINITY, 0};
    const double none[] = {-1, NAN, 1e300, -INFINITY};
    const double last[] = {NAN, NAN, NAN, 5};
    drawing *d = malloc(sizeof *d);
    assert_non_null(d);
    cli_chart chart = {.title = "T",
                       .subject = "s",
                       .note = "n",
                       .contexts = contexts,
                       .n_contexts = 4,
                       .n_lines = 3,
                       .lines = {{"legacy", some}, {"tiled", none}, {"fold", last}}};
    draw(*state, &chart, d);
    assert_int_equal(d->point_values.n, 2);
    assert_int_equal(d->labels.n, 2);
    chart.lines[0] = chart.lines[1];
    chart.n_lines = 2; /* nothing at all */
    draw(*state, &chart, d);
    assert_int_equal(d->point_values.n, 0);
    chart.n_contexts = chart.n_lines = 0;
    draw(*state, &chart, d);
    free(d);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_ticks_are_right_at_all_sizes, make_folder,
                                        remove_folder),
        cmocka_unit_test_setup_teardown(test_ticks_are_right_for_all_values, make_folder,
                                        remove_folder),
        cmocka_unit_test_setup_teardown(test_what_cannot_be_drawn_is_left_out, make_folder,
                                        remove_folder),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
