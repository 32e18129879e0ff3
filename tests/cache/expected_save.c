#include "expected_save.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>
#include <cmocka.h>

#define PAGE 4096u
#define HEADERS (2 * PAGE)
#define MOST_PART_BYTES (4u << 20)
#define STATE_PART_BYTES 32768u

/* docs/FORMAT.md 10.4 */
enum { TOKENS = 1, LOGITS, WINDOW, ROWS, ROW_STATE, INDEX_ROWS, INDEX_STATE };

/* Bytes of a page of 64 rows: sections 3, 4 and 7. */
#define F32_512 (64u * 2048)
#define F32_128 (64u * 512)
#define F16_512 (64u * 1024)
#define FP8_512 (65u * 576) /* 64 rows of 584, in multiples of 576 */
#define FP4_128 (64u * 68)

static const struct {
    uint32_t rows, index_rows, window;
} page_bytes_of[] = {[KVF_PROFILE_LEGACY] = {F32_512, F32_128, F32_512},
                     [KVF_PROFILE_TILED] = {F16_512, F32_128, F32_512},
                     [KVF_PROFILE_PACKED] = {FP8_512, F32_128, F32_512},
                     [KVF_PROFILE_FOLD] = {FP8_512, FP4_128, FP8_512}};

static uint64_t divided_up(uint64_t a, uint64_t b)
{
    return (a + b - 1) / b;
}

static uint64_t padded(uint64_t bytes)
{
    return divided_up(bytes, PAGE) * PAGE;
}

/* ---- Streams ---------------------------------------------------------------------- */

/* A stream of a session of some tokens. */
typedef struct stream {
    uint32_t kind;
    uint32_t layer;
    uint32_t page_bytes;
    uint32_t part_pages; /* at most */
    uint32_t n_pages;
    uint32_t full_pages; /* leading ones that no token changes any more */
    uint64_t n_items;    /* rows or tokens */
    uint64_t slots;      /* of a ring; 0: it is none */
    uint64_t slot_bytes; /* of a ring of plain bytes */
} stream;

static void set_items(stream *s, uint64_t n_items, uint32_t page_items, uint32_t page_bytes)
{
    s->n_items = n_items;
    s->page_bytes = page_bytes;
    s->part_pages = MOST_PART_BYTES / page_bytes;
    s->n_pages = (uint32_t)divided_up(n_items, page_items);
    s->full_pages = (uint32_t)(n_items / page_items);
}

static void set_state(stream *s, kvf_layer layer, uint32_t width)
{
    const uint32_t parts = layer.kind == KVF_LAYER_CSA ? 2 : 1;
    s->slots = (uint64_t)parts * layer.ratio;
    s->slot_bytes = 2ull * parts * width * 4;
    set_items(s, s->slots * s->slot_bytes, PAGE, PAGE);
    s->full_pages = s->n_pages;
    s->part_pages = STATE_PART_BYTES / PAGE;
}

/* A stream of the file's geometry after n_tokens; one that the layer lacks has no pages. */
static stream stream_of(const expected_file *file, uint32_t kind, uint32_t layer, uint64_t n_tokens)
{
    const kvf_geometry *geometry = file->geometry;
    const kvf_layer about = geometry->layers[layer];
    const bool compressed = about.kind != KVF_LAYER_WINDOW;
    const bool indexed = about.kind == KVF_LAYER_CSA;
    const uint64_t n_rows = compressed ? n_tokens / about.ratio : 0;
    stream s = {.kind = kind, .layer = layer};
    if (kind == TOKENS) {
        set_items(&s, n_tokens, PAGE / 4, PAGE);
    } else if (kind == LOGITS) {
        set_items(&s, geometry->vocab, PAGE / 4, PAGE);
        s.full_pages = s.n_pages;
    } else if (kind == WINDOW) {
        s.slots = geometry->window_tokens;
        set_items(&s, n_tokens < s.slots ? n_tokens : s.slots, 64,
                  page_bytes_of[file->profile].window);
        s.full_pages = s.n_pages;
        s.part_pages = 1;
    } else if (kind == ROWS) {
        set_items(&s, n_rows, 64, page_bytes_of[file->profile].rows);
    } else if (kind == INDEX_ROWS) {
        set_items(&s, indexed ? n_rows : 0, 64, page_bytes_of[file->profile].index_rows);
    } else if (kind == ROW_STATE && compressed) {
        set_state(&s, about, 512);
    } else if (kind == INDEX_STATE && indexed) {
        set_state(&s, about, 128);
    }
    return s;
}

/* ---- Which parts stay ---------------------------------------------------------------- */

/* Whether one of these tokens has its slot in the pages of the part. */
static bool holds_new_slot(const stream *s, const expected_part *part, uint64_t first_token,
                           uint64_t end_token)
{
    const uint64_t begin = (uint64_t)part->first_page * PAGE;
    const uint64_t end = begin + (uint64_t)part->n_pages * PAGE;
    for (uint64_t token = first_token; token < end_token; token++) {
        const uint64_t slot = token % s->slots;
        if (s->kind == WINDOW ? slot / 64 == part->first_page
                              : slot * s->slot_bytes < end && (slot + 1) * s->slot_bytes > begin)
            return true;
        if (token - first_token > s->slots)
            break; /* all of them were seen */
    }
    return false;
}

static bool stays(const expected_file *file, const expected_part *part, const stream *now,
                  uint64_t kept_tokens, uint64_t n_tokens)
{
    const stream kept = stream_of(file, now->kind, now->layer, kept_tokens);
    const bool given_up = kept_tokens < file->n_tokens;
    if (now->kind == LOGITS || part->first_page + part->n_pages > now->n_pages)
        return false;
    if (now->slots)
        return !given_up && !holds_new_slot(now, part, file->n_tokens, n_tokens);
    return (!given_up && kept.n_items == now->n_items) ||
           part->first_page + part->n_pages <= kept.full_pages;
}

static const expected_part *part_at(const expected_part *parts, uint32_t n, const stream *s,
                                    uint32_t page)
{
    for (uint32_t i = 0; i < n; i++)
        if (parts[i].stream == s->kind && parts[i].layer == s->layer && parts[i].first_page == page)
            return &parts[i];
    return NULL;
}

/* ---- A save ----------------------------------------------------------------------------- */

typedef struct sums {
    uint64_t written_bytes;
    uint64_t live_bytes;
} sums;

/* The parts of one stream behind those of the new file; `before` has those there were. */
static void add_stream(const expected_file *before, expected_file *after, const stream *s,
                       uint64_t kept_tokens, uint64_t n_tokens, sums *sum)
{
    for (uint32_t page = 0; page < s->n_pages;) {
        const expected_part *old = part_at(before->parts, before->n_parts, s, page);
        const bool kept = old && stays(before, old, s, kept_tokens, n_tokens);
        const uint32_t left = s->full_pages - page;
        expected_part part = {.stream = s->kind, .layer = s->layer, .first_page = page};
        part.n_pages = page >= s->full_pages ? 1 : left < s->part_pages ? left : s->part_pages;
        if (kept)
            part = *old;
        const uint64_t bytes = padded((uint64_t)part.n_pages * s->page_bytes);
        sum->live_bytes += bytes;
        sum->written_bytes += kept ? 0 : bytes;
        assert_true(after->n_parts < EXPECTED_MOST_PARTS);
        after->parts[after->n_parts++] = part;
        page += part.n_pages;
    }
}

static sums add_all(const expected_file *before, expected_file *after, uint64_t kept_tokens,
                    uint64_t n_tokens)
{
    sums sum = {HEADERS, HEADERS};
    for (uint32_t kind = TOKENS; kind <= LOGITS; kind++) {
        const stream s = stream_of(after, kind, 0, n_tokens);
        add_stream(before, after, &s, kept_tokens, n_tokens, &sum);
    }
    for (uint32_t layer = 0; layer < after->geometry->n_layers; layer++)
        for (uint32_t kind = WINDOW; kind <= INDEX_STATE; kind++) {
            const stream s = stream_of(after, kind, layer, n_tokens);
            add_stream(before, after, &s, kept_tokens, n_tokens, &sum);
        }
    const uint64_t index = padded(16ull * after->geometry->n_layers + 48ull * after->n_parts);
    sum.written_bytes += index;
    sum.live_bytes += index;
    return sum;
}

void expected_new(expected_file *file, const kvf_geometry *geometry, kvf_profile_id profile,
                  uint64_t n_tokens)
{
    static const expected_file nothing;
    memset(file, 0, sizeof *file);
    file->geometry = geometry;
    file->profile = profile;
    file->n_tokens = n_tokens;
    const sums sum = add_all(&nothing, file, 0, n_tokens);
    assert_int_equal(sum.written_bytes, sum.live_bytes);
    file->report = (kvf_save_report){
        .generation = 1, .file_bytes = sum.live_bytes, .written_bytes = sum.live_bytes};
}

void expected_later(expected_file *file, uint64_t kept_tokens, uint64_t n_tokens, bool always)
{
    static expected_file before;
    before = *file;
    file->n_parts = 0;
    const sums sum = add_all(&before, file, kept_tokens, n_tokens);
    /* Both headers are written over what was there. */
    const uint64_t file_bytes = before.report.file_bytes + sum.written_bytes - HEADERS;
    const uint64_t unused_bytes = file_bytes - sum.live_bytes;
    if (!always && unused_bytes * 2 > file_bytes) {
        expected_new(file, before.geometry, before.profile, n_tokens);
        return;
    }
    file->n_tokens = n_tokens;
    file->report = (kvf_save_report){.generation = before.report.generation + 1,
                                     .file_bytes = file_bytes,
                                     .unused_bytes = unused_bytes,
                                     .written_bytes = sum.written_bytes,
                                     .appended = true};
}

void expected_check(const expected_file *file, const kvf_save_report *report)
{
    const kvf_save_report *want = &file->report;
    if (report->generation != want->generation || report->appended != want->appended ||
        report->file_bytes != want->file_bytes || report->unused_bytes != want->unused_bytes ||
        report->written_bytes != want->written_bytes)
        fail_msg("save %llu of %llu bytes, %llu unused, %llu written, appended %d; expected save "
                 "%llu of %llu bytes, %llu unused, %llu written, appended %d",
                 (unsigned long long)report->generation, (unsigned long long)report->file_bytes,
                 (unsigned long long)report->unused_bytes,
                 (unsigned long long)report->written_bytes, report->appended,
                 (unsigned long long)want->generation, (unsigned long long)want->file_bytes,
                 (unsigned long long)want->unused_bytes, (unsigned long long)want->written_bytes,
                 want->appended);
}
