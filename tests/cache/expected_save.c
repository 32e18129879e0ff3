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
enum {
    TOKENS = 1,
    LOGITS,
    WINDOW,
    ROWS,
    ROW_STATE,
    INDEX_ROWS,
    INDEX_STATE,
    CHECKPOINT_WINDOWS,
    CHECKPOINT_HALVES
};
/* Checkpoints in a file are so far apart. */
#define CHECKPOINT_TOKENS 8192

const kvf_session *expected_session;
uint64_t expected_kept_window = UINT64_MAX;
uint64_t expected_kept_checkpoint = UINT64_MAX;

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
    uint32_t number; /* of the layer or checkpoint */
    uint32_t page_bytes;
    uint32_t part_pages; /* at most */
    uint32_t first_page;
    uint32_t n_pages;    /* with those before the first */
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

static uint64_t window_first(const kvf_geometry *geometry, uint64_t n_tokens)
{
    return n_tokens < geometry->window_tokens ? 0 : (n_tokens - geometry->window_tokens) / 64;
}

/* Of a checkpoint at n_tokens. */
static stream checkpoint_stream(const expected_file *file, uint32_t kind, uint32_t number,
                                uint64_t n_tokens)
{
    const kvf_geometry *geometry = file->geometry;
    stream s = {.kind = kind, .number = number};
    uint64_t bytes = 0;
    for (uint32_t i = 0; i < geometry->n_layers; i++)
        if (geometry->layers[i].kind == KVF_LAYER_CSA)
            bytes += geometry->layers[i].ratio * 2ull * (512 + 128) * 4;
    if (kind == CHECKPOINT_WINDOWS)
        set_items(
            &s, geometry->n_layers * (divided_up(n_tokens, 64) - window_first(geometry, n_tokens)),
            1, page_bytes_of[file->profile].window);
    else
        set_items(&s, bytes, PAGE, PAGE);
    s.full_pages = s.n_pages;
    return s;
}

/* A stream of the file's geometry after n_tokens; one that the layer lacks has no pages. */
static stream stream_of(const expected_file *file, uint32_t kind, uint32_t layer, uint64_t n_tokens)
{
    const kvf_geometry *geometry = file->geometry;
    const kvf_layer about = geometry->layers[layer];
    const bool compressed = about.kind != KVF_LAYER_WINDOW;
    const bool indexed = about.kind == KVF_LAYER_CSA;
    const uint64_t n_rows = compressed ? n_tokens / about.ratio : 0;
    stream s = {.kind = kind, .number = layer};
    if (kind == TOKENS) {
        set_items(&s, n_tokens, PAGE / 4, PAGE);
    } else if (kind == LOGITS) {
        set_items(&s, geometry->vocab, PAGE / 4, PAGE);
        s.full_pages = s.n_pages;
    } else if (kind == WINDOW) {
        set_items(&s, n_tokens, 64, page_bytes_of[file->profile].window);
        s.first_page = (uint32_t)window_first(geometry, n_tokens);
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
        if (slot * s->slot_bytes < end && (slot + 1) * s->slot_bytes > begin)
            return true;
        if (token - first_token > s->slots)
            break; /* all of them were seen */
    }
    return false;
}

static bool stays(const expected_file *file, const expected_part *part, const stream *now,
                  uint64_t kept_tokens, uint64_t n_tokens)
{
    if (now->kind >= CHECKPOINT_WINDOWS)
        return true; /* part_at looked for the place */
    const stream kept = stream_of(file, now->kind, now->number, kept_tokens);
    const bool given_up = kept_tokens < file->n_tokens;
    if (now->kind == LOGITS || part->first_page + part->n_pages > now->n_pages)
        return false;
    if (now->slots)
        return !given_up && !holds_new_slot(now, part, file->n_tokens, n_tokens);
    if (!given_up && kept.n_items == now->n_items)
        return true;
    return part->first_page + part->n_pages <= kept.full_pages &&
           (now->kind != WINDOW || part->first_page < expected_kept_window / 64);
}

static const expected_part *part_at(const expected_part *parts, uint32_t n, const stream *s,
                                    uint32_t number, uint32_t page)
{
    for (uint32_t i = 0; i < n; i++)
        if (parts[i].stream == s->kind && parts[i].number == number && parts[i].first_page == page)
            return &parts[i];
    return NULL;
}

/* ---- A save ----------------------------------------------------------------------------- */

typedef struct sums {
    uint64_t written_bytes;
    uint64_t live_bytes;
} sums;

/* By which number a stream goes in the file before; UINT32_MAX: not in it. */
static uint32_t number_before(const expected_file *before, const expected_file *after,
                              const stream *s, uint64_t kept_tokens)
{
    if (s->kind < CHECKPOINT_WINDOWS)
        return s->number;
    for (uint32_t i = 0; i < before->n_checkpoints; i++)
        if (before->checkpoints[i] == after->checkpoints[s->number] &&
            before->checkpoints[i] <= kept_tokens &&
            before->checkpoints[i] <= expected_kept_checkpoint)
            return i;
    return UINT32_MAX;
}

/* The parts of one stream behind those of the new file; `before` has those there were. */
static void add_stream(const expected_file *before, expected_file *after, const stream *s,
                       uint64_t kept_tokens, uint64_t n_tokens, sums *sum)
{
    const uint32_t number = number_before(before, after, s, kept_tokens);
    for (uint32_t page = s->first_page; page < s->n_pages;) {
        const expected_part *old = part_at(before->parts, before->n_parts, s, number, page);
        const bool kept = old && stays(before, old, s, kept_tokens, n_tokens);
        const uint32_t left = s->full_pages - page;
        expected_part part = {.stream = s->kind, .number = s->number, .first_page = page};
        part.n_pages = page >= s->full_pages ? 1 : left < s->part_pages ? left : s->part_pages;
        if (kept)
            part = *old;
        part.number = s->number;
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
    for (uint32_t i = 0; i < after->n_checkpoints; i++)
        for (uint32_t kind = CHECKPOINT_WINDOWS; kind <= CHECKPOINT_HALVES; kind++) {
            const stream s = checkpoint_stream(after, kind, i, after->checkpoints[i]);
            add_stream(before, after, &s, kept_tokens, n_tokens, &sum);
        }
    const uint64_t index = padded(16ull * after->geometry->n_layers + 24ull * after->n_checkpoints +
                                  48ull * after->n_parts);
    sum.written_bytes += index;
    sum.live_bytes += index;
    return sum;
}

/* Those of expected_session that go into the file. */
static void take_checkpoints(expected_file *file)
{
    uint64_t places[1024];
    uint64_t next = 0;
    if (!expected_session)
        return;
    const uint32_t n = kvf_session_checkpoints(expected_session, places, 1024);
    file->n_checkpoints = 0;
    for (uint32_t i = 0; i < n; i++)
        if (places[i] >= next) {
            assert_true(file->n_checkpoints < EXPECTED_MOST_CHECKPOINTS);
            file->checkpoints[file->n_checkpoints++] = places[i];
            next = places[i] + CHECKPOINT_TOKENS;
        }
}

void expected_new(expected_file *file, const kvf_geometry *geometry, kvf_profile_id profile,
                  uint64_t n_tokens)
{
    static const expected_file nothing;
    static uint64_t places[EXPECTED_MOST_CHECKPOINTS];
    const uint32_t n_checkpoints = file->n_checkpoints;
    memcpy(places, file->checkpoints, sizeof places);
    memset(file, 0, sizeof *file);
    file->n_checkpoints = n_checkpoints;
    memcpy(file->checkpoints, places, sizeof places);
    file->geometry = geometry;
    file->profile = profile;
    file->n_tokens = n_tokens;
    take_checkpoints(file);
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
    take_checkpoints(file);
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
