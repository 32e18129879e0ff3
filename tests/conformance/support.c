/* Memory, random input, views and comparison of the conformance suite. */
#include "conformance.h"

#include <math.h>
#include <sys/mman.h>
#include <unistd.h>

#include "backend/ref/ref.h"
#include "format/format.h"

#define GUARD_BYTES 64
#define GUARD 0xA5

/* ---- One run ------------------------------------------------------------------ */

/* realloc that ends the test when there is no memory. */
static void *grow(void *memory, size_t bytes)
{
    void *grown = realloc(memory, bytes);
    if (!grown)
        fail_msg("no memory for the test itself (%zu bytes)", bytes);
    return grown;
}

void cf_begin(cf_run *run, kvf_device *device, const char *target, const cf_operation *operation,
              uint32_t index)
{
    *run = (cf_run){.device = device, .target = target, .index = index, .random = index};
    for (const char *c = operation->name; *c; c++)
        run->random = run->random * 131 + (uint8_t)*c;
}

void *cf_alloc(cf_run *run, size_t bytes)
{
    const size_t all_bytes = bytes + 2 * (size_t)GUARD_BYTES;
    uint8_t *start = run->device->backend->alloc(run->device, all_bytes, KVF_PLACE_DEVICE);
    if (!start)
        fail_msg("no device memory (%zu bytes)", all_bytes);
    assert_int_equal((uintptr_t)start % 64, 0);
    memset(start, GUARD, all_bytes);
    memset(start + GUARD_BYTES, CF_FILL, bytes);
    run->blocks = grow(run->blocks, (run->n_blocks + 1) * sizeof *run->blocks);
    run->blocks[run->n_blocks++] = (struct cf_block){start, bytes};
    return start + GUARD_BYTES;
}

float *cf_floats(cf_run *run, size_t n)
{
    return cf_alloc(run, n * sizeof(float));
}

void *cf_fenced(cf_run *run, size_t bytes)
{
    const size_t page = (size_t)sysconf(_SC_PAGESIZE);
    const size_t all_bytes = (bytes + page - 1) / page * page + page;
    uint8_t *mapping =
        mmap(NULL, all_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (mapping == MAP_FAILED || mprotect(mapping + all_bytes - page, page, PROT_NONE) != 0)
        fail_msg("no memory for the test itself (%zu bytes)", all_bytes);
    run->fences = grow(run->fences, (run->n_fences + 1) * sizeof *run->fences);
    run->fences[run->n_fences++] = (struct cf_fence){mapping, all_bytes};
    return mapping + all_bytes - page - bytes;
}

static void check_guards(const cf_run *run, size_t block)
{
    const uint8_t *start = run->blocks[block].start;
    const uint8_t *end = start + GUARD_BYTES + run->blocks[block].bytes;
    for (size_t i = 0; i < GUARD_BYTES; i++)
        if (start[i] != GUARD || end[i] != GUARD)
            fail_msg("case %u on %s: written outside block %zu of %zu bytes, %zu bytes %s",
                     run->index, run->target, block, run->blocks[block].bytes,
                     end[i] != GUARD ? i : GUARD_BYTES - i,
                     end[i] != GUARD ? "after its end" : "before its start");
}

void cf_end(cf_run *run)
{
    for (size_t b = 0; b < run->n_blocks; b++) {
        check_guards(run, b);
        run->device->backend->release(run->device, run->blocks[b].start,
                                      run->blocks[b].bytes + 2 * (size_t)GUARD_BYTES);
    }
    for (size_t f = 0; f < run->n_fences; f++)
        munmap(run->fences[f].mapping, run->fences[f].bytes);
    free(run->blocks);
    free(run->fences);
    free(run->segments);
    free(run->results);
}

void cf_begin_reference(cf_run *run, uint32_t seed)
{
    static const cf_operation proof = {"reference", "", 1, NULL, NULL};
    static kvf_device device; /* no state but its table */
    device.backend = &kvf_backend_ref;
    cf_begin(run, &device, "ref", &proof, seed);
}

void cf_assert_close(const char *what, size_t i, float got, double expected, double tolerance)
{
    if (!(fabs((double)got - expected) <= tolerance))
        fail_msg("%s[%zu] is %.9g, expected %.9g within %.3g", what, i, (double)got, expected,
                 tolerance);
}

/* ---- Reports ------------------------------------------------------------------ */

static void append(cf_run *run, const void *data, size_t bytes)
{
    if (!bytes)
        return;
    run->results = grow(run->results, run->results_bytes + bytes);
    memcpy(run->results + run->results_bytes, data, bytes);
    run->results_bytes += bytes;
}

static void add_segment(cf_run *run, const char *what, size_t bytes, bool close)
{
    run->segments = grow(run->segments, (run->n_segments + 1) * sizeof *run->segments);
    run->segments[run->n_segments++] = (struct cf_segment){what, run->results_bytes, bytes, close};
}

void cf_report(cf_run *run, const char *what, const void *data, size_t bytes)
{
    add_segment(run, what, bytes, false);
    append(run, data, bytes);
}

void cf_report_floats(cf_run *run, const char *what, const float *values, size_t n)
{
    add_segment(run, what, n * sizeof *values, false);
    const size_t first = run->results_bytes;
    append(run, values, n * sizeof *values);
    for (size_t i = 0; i < n; i++)
        if (values[i] != values[i])
            memset(run->results + first + i * sizeof *values, 0xff, sizeof *values);
}

void cf_wait(cf_run *run)
{
    kvf_error error;
    if (run->device->backend->wait(run->device, &error) != KVF_OK)
        fail_msg("case %u on %s: %s", run->index, run->target, error.message);
}

kvf_findings cf_findings(cf_run *run)
{
    const kvf_findings found = {.place = cf_alloc(run, sizeof(kvf_finding)),
                                .first = cf_pick(&run->random, 1000)};
    *found.place = (kvf_finding){.first_bad = KVF_NOTHING_FOUND};
    return found;
}

kvf_status cf_found(const kvf_findings *found)
{
    return kvf_found_of(found->place->first_bad).reason;
}

kvf_status cf_report_finding(cf_run *run, const kvf_findings *found)
{
    const kvf_finding *finding = found->place;
    const kvf_status status = cf_found(found);
    cf_report(run, "first_bad", &finding->first_bad, sizeof finding->first_bad);
    if (status == KVF_OK)
        cf_report(run, "inexact_rows", &finding->inexact_rows, sizeof finding->inexact_rows);
    return status;
}

void cf_report_close(cf_run *run, const char *what, const float *values, const double *bounds,
                     size_t n)
{
    add_segment(run, what, n * sizeof *values, true);
    append(run, values, n * sizeof *values);
    append(run, bounds, n * sizeof *bounds);
}

/* where: "attend on cpu/avx2, case 7". */
static void compare_bytes(const char *where, const struct cf_segment *segment,
                          const uint8_t *expected, const uint8_t *got)
{
    if (segment->bytes == 0 || memcmp(expected, got, segment->bytes) == 0)
        return;
    size_t at = 0;
    while (expected[at] == got[at])
        at++;
    float floats[2];
    at -= at % sizeof(float);
    if (at + sizeof(float) > segment->bytes)
        fail_msg("%s: %s differs at byte %zu", where, segment->what, at);
    memcpy(&floats[0], expected + at, sizeof(float));
    memcpy(&floats[1], got + at, sizeof(float));
    fail_msg("%s: %s differs at byte %zu of %zu: %a, the reference has %a", where, segment->what,
             at, segment->bytes, (double)floats[1], (double)floats[0]);
}

static void compare_close(const char *where, const struct cf_segment *segment,
                          const uint8_t *expected, const uint8_t *got)
{
    for (size_t i = 0; i < segment->bytes / sizeof(float); i++) {
        float a, b;
        double bound;
        memcpy(&a, expected + i * sizeof a, sizeof a);
        memcpy(&b, got + i * sizeof b, sizeof b);
        memcpy(&bound, expected + segment->bytes + i * sizeof bound, sizeof bound);
        if (!isfinite(bound))
            continue;
        /* Not "> bound": a NaN must not pass. */
        if (!(fabs((double)a - (double)b) <= bound))
            fail_msg("%s: %s[%zu] is %.9g, the reference has %.9g; %.3g is allowed", where,
                     segment->what, i, (double)b, (double)a, bound);
    }
}

void cf_compare(const cf_operation *operation, const cf_run *expected, const cf_run *got)
{
    char where[128];
    snprintf(where, sizeof where, "%s on %s, case %u", operation->name, got->target, got->index);
    assert_int_equal(expected->n_segments, got->n_segments);
    assert_int_equal(expected->results_bytes, got->results_bytes);
    for (size_t s = 0; s < expected->n_segments; s++) {
        const struct cf_segment *segment = &expected->segments[s];
        (segment->close ? compare_close : compare_bytes)(
            where, segment, expected->results + segment->offset, got->results + segment->offset);
    }
}

/* ---- Random input --------------------------------------------------------------- */

/* splitmix64: the same sequence on every machine. */
uint64_t cf_random(uint64_t *state)
{
    uint64_t z = *state += 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

uint32_t cf_pick(uint64_t *state, uint32_t n)
{
    return (uint32_t)((cf_random(state) >> 32) * n >> 32);
}

bool cf_chance(uint64_t *state, uint32_t one_in)
{
    return cf_pick(state, one_in) == 0;
}

float cf_unit(uint64_t *state)
{
    return (float)((int32_t)(cf_random(state) >> 40) - (1 << 23)) * 0x1p-23f;
}

static float from_bits(uint64_t sign, uint32_t exponent, uint32_t mantissa)
{
    const uint32_t bits = (uint32_t)(sign & 1) << 31 | exponent << 23 | mantissa;
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static float draw(uint64_t *state, cf_pattern pattern)
{
    const uint64_t bits = cf_random(state);
    const uint32_t mantissa = (uint32_t)(bits >> 8) & 0x7fffff;
    const uint32_t pick = (uint32_t)(bits >> 32) & 0xffff;
    /* Bits just below, at and above 1.5 and 1.75, and around 1. */
    static const uint32_t edges[] = {0,        1,        0x7fffff, 0x3fffff, 0x400000,
                                     0x400001, 0x5fffff, 0x600000, 0x600001};
    switch (pattern) {
    case CF_WIDE: return from_bits(bits, 107 + pick % 41, mantissa);
    case CF_TINY: return from_bits(bits, pick % 3, mantissa);
    case CF_LARGE: return from_bits(bits, 240 + pick % 15, mantissa);
    case CF_SPARSE: return pick % 8 ? from_bits(bits, 0, 0) : from_bits(bits, 126, mantissa);
    case CF_BOUNDARY: return from_bits(bits, 117 + pick % 21, edges[mantissa % 9]);
    default: return cf_unit(state) + cf_unit(state);
    }
}

void cf_values(uint64_t *state, cf_pattern pattern, float *values, size_t n)
{
    const float constant = cf_unit(state);
    for (size_t i = 0; i < n; i++)
        values[i] = pattern == CF_CONSTANT ? constant : draw(state, pattern);
}

float *cf_random_floats(cf_run *run, cf_pattern pattern, size_t n)
{
    float *values = cf_floats(run, n);
    cf_values(&run->random, pattern, values, n);
    return values;
}

kvf_rope_table cf_rope_table(cf_run *run, uint64_t n)
{
    float *cosines = cf_floats(run, (size_t)n * (KVF_ROPE_WIDTH / 2));
    float *sines = cf_floats(run, (size_t)n * (KVF_ROPE_WIDTH / 2));
    for (size_t i = 0; i < n * (KVF_ROPE_WIDTH / 2); i++) {
        const float angle = 4.0f * cf_unit(&run->random);
        cosines[i] = cosf(angle);
        sines[i] = sinf(angle);
    }
    return (kvf_rope_table){cosines, sines};
}

uint32_t cf_n_rows(uint32_t i)
{
    static const uint32_t sizes[CF_N_SIZES] = {1, 2, 63, 64, 65, 127, 128, 129, 1000};
    return sizes[i % CF_N_SIZES];
}

uint32_t cf_cut(uint64_t *random, uint32_t n, uint32_t firsts[CF_MOST_SESSIONS + 1])
{
    const uint32_t wanted = CF_ONE_OF(random, 2, 3, 7, CF_MOST_SESSIONS);
    const uint32_t n_sessions = wanted < n ? wanted : n;
    firsts[0] = 0;
    for (uint32_t i = 1; i <= n_sessions; i++) {
        const uint32_t spare = n - firsts[i - 1] - (n_sessions - i + 1); /* one for each to come */
        const uint32_t most = cf_chance(random, 2) ? spare : 0;
        firsts[i] = i == n_sessions ? n : firsts[i - 1] + 1 + cf_pick(random, most + 1);
    }
    return n_sessions;
}

/* ---- Views ------------------------------------------------------------------------ */

kvf_grid cf_grid(uint32_t width)
{
    return width == KVF_INDEX_WIDTH ? KVF_GRID_FP4 : KVF_GRID_FP8;
}

static size_t n_pages(const kvf_rows *view)
{
    return (size_t)((view->n_rows + view->page_rows - 1) / view->page_rows);
}

static size_t view_page_bytes(const kvf_rows *view)
{
    return kvf_format_page_bytes(view->format, view->width, view->page_rows);
}

kvf_rows cf_rows(cf_run *run, kvf_format_id format, uint32_t width, uint64_t n_rows)
{
    kvf_rows view = {.format = format, .width = width, .n_rows = n_rows};
    view.page_rows = CF_ONE_OF(&run->random, 64, 64, 1, 3, 16, 128, 256);
    const size_t page_bytes = view_page_bytes(&view);
    if (cf_chance(&run->random, 2)) {
        void **pages = malloc((n_pages(&view) + 1) * sizeof *pages);
        assert_non_null(pages);
        for (size_t p = 0; p < n_pages(&view); p++)
            pages[p] = cf_alloc(run, page_bytes);
        void **kept = cf_alloc(run, n_pages(&view) * sizeof *kept);
        memcpy(kept, pages, n_pages(&view) * sizeof *kept);
        free(pages);
        view.pages = kept;
    } else {
        /* Pages 4 bytes off a cache line, as the view's contract allows. */
        view.page_stride_bytes = page_bytes + 4 * (size_t)cf_pick(&run->random, 20);
        view.base = (uint8_t *)cf_alloc(run, n_pages(&view) * view.page_stride_bytes + 4) + 4;
    }
    return view;
}

void cf_store(const kvf_rows *view, kvf_grid grid, const float *values)
{
    const kvf_pack_args args = {
        .rows = values, .stride = view->width, .n_rows = view->n_rows, .grid = grid, .out = *view};
    kvf_finding finding = {.first_bad = KVF_NOTHING_FOUND};
    kvf_ref_pack(NULL, &args, &(kvf_findings){.place = &finding}, 1);
    assert_true(finding.first_bad == KVF_NOTHING_FOUND);
}

void cf_report_rows(cf_run *run, const kvf_rows *view)
{
    if (!view->pages) {
        cf_report(run, "packed rows", view->base, n_pages(view) * view->page_stride_bytes);
        return;
    }
    for (size_t p = 0; p < n_pages(view); p++)
        cf_report(run, "packed rows", view->pages[p], view_page_bytes(view));
}

/* FNV-1a over 4-byte words; every page is a whole number of them. */
uint64_t cf_rows_checksum(const kvf_rows *view)
{
    uint64_t checksum = 0xcbf29ce484222325u;
    for (size_t p = 0; p < n_pages(view); p++) {
        const uint8_t *page = kvf_rows_page(view, p * view->page_rows);
        for (size_t i = 0; i < view_page_bytes(view); i += 4) {
            uint32_t word;
            memcpy(&word, page + i, sizeof word);
            checksum = (checksum ^ word) * 0x100000001b3u;
        }
    }
    return checksum;
}

void cf_assert_untouched(const kvf_rows *view)
{
    for (size_t p = 0; p < n_pages(view); p++) {
        const uint8_t *page = kvf_rows_page(view, p * view->page_rows);
        for (size_t i = 0; i < view_page_bytes(view); i++)
            if (page[i] != CF_FILL)
                fail_msg("byte %zu of page %zu was written", i, p);
    }
}
