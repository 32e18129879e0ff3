/*
 * A saved session. The input is a recipe: which session is saved, and what is then done to
 * the file. So inputs are small, and edits get past the checksums, which are made right
 * again (sealed) where the recipe says so.
 *   byte 0      the session: its profile, how far it is, how it was saved (make_base)
 *   byte 1      bit 0: seal; bits 1, 2: another profile to restore it in
 *   12 bytes    for each edit: operation, flags, u16 place, u64 value (apply)
 * Whatever the file is by then, each function reports an error or gives what the file
 * says: a session that goes on, and that comes back from the files it is saved to.
 */
#include "fuzz.h"

#include <unistd.h>

#include "snapshot/snapshot.h"
#include "checksum.h"

enum {
    MAX_EDITS = 16,
    EDIT_BYTES = 12,
    N_BASES = 9,
    N_LATER_BASES = 3, /* by first bytes from 240 on, so that older inputs mean what they did */
    FIRST_LATER = 240,
    HEADERS_BYTES = KVF_SNAPSHOT_HEADERS * KVF_SNAPSHOT_PAGE_BYTES,
    MAX_FILE_BYTES = 2 << 20,
    MAX_BOMB_BYTES = 16 << 20,
    CHUNK_TOKENS = 80
};
/* A file may name a model that is too large to be tried thousands of times. */
static const uint64_t max_session_bytes = 64 << 20;
static const uint64_t max_context_tokens = 1 << 20;

/* An edit acts on one header page or, with neither flag or both, on both of them. */
enum { FIRST_HEADER = 1, SECOND_HEADER = 2, AFTER_SEAL = 4, LONGER = 8 };

static const kvf_geometry tiny = {.n_layers = 2,
                                  .vocab = 97,
                                  .n_heads = 1,
                                  .n_index_heads = 8,
                                  .top_k = 4,
                                  .window_tokens = 64,
                                  .max_tokens = 4096,
                                  .layers = {{KVF_LAYER_CSA, 2}, {KVF_LAYER_HCA, 4}}};
static const uint64_t tiny_fingerprint = 0x6b76666f6c64;

static kvf_device *device;
static char path[256];
static char copy_path[256];

static void start(void)
{
    const kvf_device_options options = {.n_threads = 1};
    if (device)
        return;
    FUZZ_REQUIRE(kvf_device_open(&options, &device, NULL) == KVF_OK);
    snprintf(path, sizeof path, "%s/in.kvfold", fuzz_folder());
    snprintf(copy_path, sizeof copy_path, "%s/copy.kvfold", fuzz_folder());
}

/* ---- Sessions that go on ------------------------------------------------------------- */

/* n values of -1 .. 1 that follow from the seed, malloc'd. */
static float *make_values(size_t n, uint32_t seed)
{
    float *values = malloc(n * sizeof *values);
    FUZZ_REQUIRE(values);
    for (size_t i = 0; i < n; i++) {
        seed = seed * 1664525u + 1013904223u;
        values[i] = (float)(int32_t)(seed & 0xffffff00u) / 2147483648.0f;
    }
    return values;
}

static kvf_status step_layer(kvf_session *session, const kvf_geometry *geometry, uint32_t i,
                             uint32_t n, kvf_error *error)
{
    const uint32_t ratio = geometry->layers[i].ratio;
    const size_t n_values = (size_t)n * 1024;
    const size_t n_bias = (size_t)(ratio > 0 ? ratio : 1) * 1024;
    float *values = make_values(n_values > n_bias ? n_values : n_bias, i + 1);
    float *heads = make_values((size_t)n * geometry->n_heads * 512, i + 2);
    float *out = calloc((size_t)n * geometry->n_heads * 512, sizeof *out);
    float *index_q = make_values((size_t)n * geometry->n_index_heads * 128 + 1, i + 3);
    FUZZ_REQUIRE(out);
    const kvf_append_args args = {.window = values,
                                  .rows = {values, values, values, values, 1e-6f},
                                  .index = {values, values, values, values, 1e-6f},
                                  .row_rope = {values, values}};
    kvf_status status = kvf_session_append(session, i, &args, error);
    if (status == KVF_OK && geometry->layers[i].kind == KVF_LAYER_CSA)
        status = kvf_session_select(session, i, (kvf_chunk_span){0, n}, index_q, values, error);
    if (status == KVF_OK)
        status = kvf_session_attend(session, i, (kvf_chunk_span){0, n}, heads, NULL, out, error);
    free(values);
    free(heads);
    free(out);
    free(index_q);
    return status;
}

/* Appends n tokens. */
static kvf_status step(kvf_session *session, const kvf_geometry *geometry, uint32_t n,
                       kvf_error *error)
{
    int32_t tokens[CHUNK_TOKENS];
    const uint64_t held = kvf_session_n_tokens(session);
    for (uint32_t i = 0; i < n; i++)
        tokens[i] = (int32_t)((held + i) * 7 % geometry->vocab);
    kvf_status status = kvf_session_begin(session, tokens, n, error);
    for (uint32_t i = 0; i < geometry->n_layers && status == KVF_OK; i++)
        status = step_layer(session, geometry, i, n, error);
    if (status == KVF_OK)
        status = kvf_session_commit(session, error);
    FUZZ_REQUIRE(kvf_session_n_tokens(session) == held + (status == KVF_OK ? n : 0));
    return status;
}

/* ---- Files that are right -------------------------------------------------------------- */

typedef struct base {
    uint8_t *data; /* NULL: not made yet */
    size_t bytes;
} base;

static base read_base(const char *file_path)
{
    base read = {malloc(MAX_FILE_BYTES), 0};
    FILE *file = fopen(file_path, "rb");
    FUZZ_REQUIRE(read.data && file);
    read.bytes = fread(read.data, 1, MAX_FILE_BYTES, file);
    FUZZ_REQUIRE(read.bytes > HEADERS_BYTES && read.bytes < MAX_FILE_BYTES);
    fclose(file);
    return read;
}

/* At 72 and 140 tokens, and one that commit takes. */
static void add_checkpoints(kvf_session *session)
{
    static const uint32_t steps[] = {2, 60, 8};
    kvf_error error;
    for (int i = 0; i < 3; i++) {
        FUZZ_REQUIRE(step(session, &tiny, steps[i], &error) == KVF_OK);
        if (i != 1)
            FUZZ_REQUIRE(kvf_session_checkpoint(session, &error) == KVF_OK);
    }
    FUZZ_REQUIRE(kvf_session_checkpoints(session, NULL, 0) == 3);
}

static void make_version_1(base *file)
{
    for (uint32_t slot = 0; slot < KVF_SNAPSHOT_HEADERS; slot++) {
        kvf_snapshot_header *header =
            (kvf_snapshot_header *)(file->data + slot * KVF_SNAPSHOT_PAGE_BYTES);
        header->session.version = 1;
        header->state = 0;
        header->checksum = kvf_checksum(header, offsetof(kvf_snapshot_header, checksum));
    }
}

/*
 * 0 to 3: the four profiles; 4: compressed; 5: without the grid; 6: nothing in it; 7: longer
 * and saved a second time; 8: the same, but interrupted before the second header was written.
 * 9: with checkpoints, of either sort; 10: the same, longer and saved a second time; 11: as a build
 * of version 1 wrote it, which before a window is full differs in the version alone.
 */
static base make_base(unsigned number)
{
    const bool twice = number == 7 || number == 8 || number == 10;
    const kvf_session_options options = {.profile = number < 4    ? (kvf_profile_id)number
                                                    : number == 5 ? 0
                                                                  : KVF_PROFILE_FOLD,
                                         .max_tokens = tiny.max_tokens,
                                         .chunk_tokens = CHUNK_TOKENS,
                                         .grid_off = number == 5};
    const kvf_save_options how = {.compress = number == 4 && kvf_codec_bound(1) > 0,
                                  .checkpoint_spacing_tokens = 1};
    kvf_session *session;
    kvf_error error;
    FUZZ_REQUIRE(kvf_session_open(device, &tiny, &options, &session, &error) == KVF_OK);
    kvf_session_set_model_fingerprint(session, tiny_fingerprint);
    if (number == 11)
        FUZZ_REQUIRE(step(session, &tiny, 60, &error) == KVF_OK);
    else if (number != 6)
        FUZZ_REQUIRE(step(session, &tiny, 70, &error) == KVF_OK);
    if (number == 9 || number == 10)
        add_checkpoints(session);
    if (twice)
        FUZZ_REQUIRE(step(session, &tiny, CHUNK_TOKENS, &error) == KVF_OK);
    FUZZ_REQUIRE(kvf_session_save(session, copy_path, &how, NULL, &error) == KVF_OK);
    base made = read_base(copy_path);
    if (number == 11)
        make_version_1(&made);
    if (twice) {
        uint8_t header[KVF_SNAPSHOT_PAGE_BYTES];
        memcpy(header, made.data, sizeof header);
        free(made.data);
        FUZZ_REQUIRE(step(session, &tiny, 3, &error) == KVF_OK);
        FUZZ_REQUIRE(kvf_session_save(session, copy_path, &how, NULL, &error) == KVF_OK);
        made = read_base(copy_path);
        if (number == 8)
            memcpy(made.data + KVF_SNAPSHOT_PAGE_BYTES, header, sizeof header);
    }
    kvf_session_close(session);
    FUZZ_REQUIRE(unlink(copy_path) == 0);
    return made;
}

/* ---- What is done to them ---------------------------------------------------------------- */

typedef struct edited {
    uint8_t *data; /* [MAX_FILE_BYTES] */
    size_t bytes;
} edited;

typedef struct edit {
    uint8_t operation;
    uint8_t flags;
    uint16_t place;
    uint64_t value;
} edit;

static kvf_snapshot_header *header_of(const edited *file, uint32_t slot)
{
    return (kvf_snapshot_header *)(file->data + slot * KVF_SNAPSHOT_PAGE_BYTES);
}

static bool lies_inside(const edited *file, uint64_t offset, uint64_t bytes)
{
    return offset <= file->bytes && bytes <= file->bytes - offset;
}

/* The parts that a header speaks of, and the layers, which with checkpoints are before them; NULL:
 * not in the file. */
static kvf_part *parts_of(const edited *file, uint32_t slot, kvf_snapshot_layer **layers)
{
    const kvf_snapshot_header *header = header_of(file, slot);
    const uint64_t n_checkpoints = header->session.version > 1 ? header->n_checkpoints : 0;
    const uint64_t layers_bytes = (uint64_t)header->session.n_layers * sizeof **layers +
                                  n_checkpoints * sizeof(kvf_snapshot_checkpoint);
    const uint64_t bytes = layers_bytes + (uint64_t)header->n_parts * sizeof(kvf_part);
    if (header->n_parts == 0 || header->index_offset < HEADERS_BYTES ||
        !lies_inside(file, header->index_offset, bytes))
        return NULL;
    *layers = (kvf_snapshot_layer *)(file->data + header->index_offset);
    return (kvf_part *)(file->data + header->index_offset + layers_bytes);
}

/* Makes the checksums of parts, index and header right, wherever what they are of is there. */
static void seal(const edited *file, uint32_t slot)
{
    kvf_snapshot_header *header = header_of(file, slot);
    kvf_snapshot_layer *layers;
    kvf_part *parts = parts_of(file, slot, &layers);
    for (uint32_t i = 0; parts && i < header->n_parts; i++)
        if (lies_inside(file, parts[i].offset, parts[i].stored_bytes))
            parts[i].checksum = kvf_checksum(file->data + parts[i].offset, parts[i].stored_bytes);
    if (lies_inside(file, header->index_offset, header->index_bytes))
        header->index_checksum =
            kvf_checksum(file->data + header->index_offset, header->index_bytes);
    header->checksum = kvf_checksum(header, offsetof(kvf_snapshot_header, checksum));
}

static void edit_part(kvf_part *part, uint32_t field, uint64_t value)
{
    if (field < 6)
        memcpy((uint8_t *)part + field * 4, &value, 4);
    else
        memcpy((uint8_t *)part + 24 + (field - 6) * 8, &value, 8);
}

/* The part becomes a zstd frame that unpacks to value bytes (and one). */
static void plant_bomb(const edited *file, kvf_part *part, uint64_t value)
{
    const size_t bytes = value % MAX_BOMB_BYTES + 1;
    if (part->offset < HEADERS_BYTES || part->offset > file->bytes)
        return;
    uint8_t *zeros = calloc(1, bytes);
    FUZZ_REQUIRE(zeros);
    const size_t n =
        kvf_codec_compress(file->data + part->offset, file->bytes - part->offset, zeros, bytes);
    free(zeros);
    if (n == 0)
        return;
    part->codec = KVF_CODEC_ZSTD;
    part->stored_bytes = n;
}

static void edit_index(const edited *file, uint32_t slot, const edit *e)
{
    kvf_snapshot_layer *layers;
    kvf_part *parts = parts_of(file, slot, &layers);
    if (!parts)
        return;
    const uint32_t n_parts = header_of(file, slot)->n_parts;
    kvf_part *part = &parts[e->place / 16 % n_parts];
    const size_t layer_words = (size_t)((uint8_t *)parts - (uint8_t *)layers) / 4;
    switch (e->operation) {
    case 2:
        if (layer_words > 0)
            memcpy((uint8_t *)layers + e->place % layer_words * 4, &e->value, 4);
        break;
    case 3: edit_part(part, e->place % 16 % 9, e->value); break;
    case 6: plant_bomb(file, part, e->value); break;
    default: *part = parts[e->value % n_parts]; break;
    }
}

static void set_length(edited *file, const edit *e)
{
    const size_t before = file->bytes;
    if (e->flags & LONGER) {
        const size_t more = e->value % 65536;
        file->bytes = before + more < MAX_FILE_BYTES ? before + more : MAX_FILE_BYTES;
        memset(file->data + before, 0, file->bytes - before);
    } else
        file->bytes = e->value % (before + 1);
}

/*
 * 0, 1: four or eight bytes of a header; 2: four of an index's layers and checkpoints; 3: a field
 * of a part; 4: eight bytes anywhere; 5: the length; 6: a part that is compressed; 7: another part.
 */
static void apply(edited *file, const edit *e)
{
    const size_t in_header = e->place % 50 * 4u;
    if (e->operation == 4) {
        if (lies_inside(file, e->place * 8u, 8))
            memcpy(file->data + e->place * 8u, &e->value, 8);
        return;
    }
    if (e->operation == 5) {
        set_length(file, e);
        return;
    }
    for (uint32_t slot = 0; slot < KVF_SNAPSHOT_HEADERS; slot++) {
        const unsigned which = e->flags & (FIRST_HEADER | SECOND_HEADER);
        if (file->bytes < HEADERS_BYTES || which == (slot ? FIRST_HEADER : SECOND_HEADER))
            continue;
        if (e->operation < 2)
            memcpy((uint8_t *)header_of(file, slot) + in_header, &e->value, e->operation ? 8 : 4);
        else
            edit_index(file, slot, e);
    }
}

static uint32_t read_edits(const uint8_t *data, size_t bytes, edit edits[MAX_EDITS])
{
    uint32_t n = 0;
    for (; n < MAX_EDITS && bytes >= EDIT_BYTES; n++, data += EDIT_BYTES, bytes -= EDIT_BYTES) {
        edits[n] = (edit){.operation = data[0] % 8, .flags = data[1]};
        memcpy(&edits[n].place, data + 2, 2);
        memcpy(&edits[n].value, data + 4, 8);
    }
    return n;
}

static void apply_all(edited *file, const edit *edits, uint32_t n, bool sealed)
{
    for (uint32_t i = 0; i < n; i++)
        if (!(edits[i].flags & AFTER_SEAL))
            apply(file, &edits[i]);
    for (uint32_t slot = 0; sealed && slot < KVF_SNAPSHOT_HEADERS; slot++)
        if (file->bytes >= HEADERS_BYTES)
            seal(file, slot);
    for (uint32_t i = 0; i < n; i++)
        if (edits[i].flags & AFTER_SEAL)
            apply(file, &edits[i]);
}

/* ---- What is promised ---------------------------------------------------------------------- */

/* Whether the file's geometry and context are small enough to be tried. */
static bool is_small(const kvf_snapshot_info *info)
{
    const kvf_session_options options = {.profile = info->profile,
                                         .max_tokens = info->max_tokens,
                                         .chunk_tokens = 1,
                                         .grid_off = info->grid_off};
    kvf_plan plan;
    kvf_error error;
    const kvf_status status =
        kvf_plan_make(&info->geometry, &options, info->n_tokens, &plan, &error);
    if (status != KVF_OK)
        return true; /* then it must be refused */
    const uint64_t bytes = plan.allocated_bytes + plan.table_bytes + plan.scratch_bytes;
    kvf_plan_free(&plan);
    return info->max_tokens <= max_context_tokens && bytes <= max_session_bytes;
}

/* The file at file_path holds this session and nothing else. */
static void check_saved(const char *file_path, const kvf_session *session)
{
    const kvf_load_options load = {.verify = true};
    const uint64_t n_tokens = kvf_session_n_tokens(session);
    kvf_snapshot_info info;
    kvf_session *again;
    kvf_error error;
    FUZZ_REQUIRE(kvf_snapshot_info_read(file_path, &info, &error) == KVF_OK);
    FUZZ_REQUIRE(info.n_tokens == n_tokens && info.n_headers == 2);
    FUZZ_REQUIRE(kvf_snapshot_verify(file_path, &error) == KVF_OK);
    FUZZ_REQUIRE(kvf_session_load(device, file_path, &load, &again, &error) == KVF_OK);
    FUZZ_REQUIRE(kvf_session_n_tokens(again) == n_tokens);
    FUZZ_REQUIRE(n_tokens == 0 ||
                 memcmp(kvf_session_tokens(again), kvf_session_tokens(session), 4 * n_tokens) == 0);
    FUZZ_REQUIRE(kvf_session_held_bytes(again) == kvf_session_held_bytes(session));
    kvf_session_close(again);
}

/* Saves it to another file, which it always can where all that it holds is right. */
static void check_save(kvf_session *session, const char *file_path, bool is_right)
{
    kvf_error error;
    kvf_save_report report;
    const kvf_status status = kvf_session_save(session, file_path, NULL, &report, &error);
    fuzz_check_error(status, &error);
    FUZZ_REQUIRE(status == KVF_OK || (!is_right && status == KVF_FILE_FORMAT));
    if (status != KVF_OK)
        return;
    FUZZ_REQUIRE(report.unused_bytes <= (report.appended ? report.file_bytes / 2 : 0));
    if (is_right)
        check_saved(file_path, session);
}

/* Whether the file names this model, but for its longest context. */
static bool is_of(const kvf_snapshot_info *info, const kvf_geometry *model)
{
    kvf_geometry same = *model;
    same.max_tokens = info->geometry.max_tokens;
    for (uint32_t i = same.n_layers; i < KVF_MAX_LAYERS; i++)
        same.layers[i] = (kvf_layer){KVF_LAYER_WINDOW, 0};
    return memcmp(&same, &info->geometry, sizeof same) == 0;
}

/* A session that came from the file: it is what the file says, goes on and can be saved. */
static void check_session(kvf_session *session, const kvf_snapshot_info *info, bool goes_on)
{
    kvf_error error;
    int32_t *tokens = malloc(4 * info->n_tokens + 4);
    FUZZ_REQUIRE(tokens && kvf_session_n_tokens(session) == info->n_tokens);
    FUZZ_REQUIRE(kvf_snapshot_tokens(path, tokens, info->n_tokens, &error) == KVF_OK);
    FUZZ_REQUIRE(info->n_tokens == 0 ||
                 memcmp(tokens, kvf_session_tokens(session), 4 * info->n_tokens) == 0);
    for (uint64_t i = 0; i < info->n_tokens; i++)
        FUZZ_REQUIRE(tokens[i] >= 0 && (uint32_t)tokens[i] < info->geometry.vocab);
    free(tokens);
    FUZZ_REQUIRE(kvf_session_model_fingerprint(session) == info->model_fingerprint);
    FUZZ_REQUIRE(
        memcmp(kvf_session_caller_state(session), info->caller_state, KVF_CALLER_STATE_BYTES) == 0);
    if (goes_on)
        fuzz_check_error(step(session, &info->geometry, 1, &error), &error);
    const kvf_status checked = kvf_session_check(session, &error);
    fuzz_check_error(checked, &error);
    FUZZ_REQUIRE(checked == KVF_OK || checked == KVF_FILE_FORMAT);
    check_save(session, copy_path, checked == KVF_OK);
    unlink(copy_path);
}

/* Restores it as it was saved; with the model it says itself, or with the tiny one. */
static void try_as_saved(const kvf_snapshot_info *info, const kvf_geometry *geometry,
                         bool must_load)
{
    const kvf_session_options options = {
        .profile = info->profile, .chunk_tokens = 2, .grid_off = info->grid_off};
    const kvf_load_options load = {.session = &options, .geometry = geometry, .verify = must_load};
    kvf_session *session;
    kvf_error error;
    const kvf_status status = kvf_session_load(device, path, &load, &session, &error);
    fuzz_check_error(status, &error);
    FUZZ_REQUIRE((status == KVF_OK) == (session != NULL));
    /* What a file says of itself fits together, or it is not to be read. */
    FUZZ_REQUIRE(geometry || (status != KVF_INVALID_ARGUMENT && status != KVF_WRONG_MODEL));
    FUZZ_REQUIRE(status == KVF_OK || !must_load);
    FUZZ_REQUIRE(status != KVF_OK || !geometry || is_of(info, geometry));
    if (session)
        check_session(session, info, info->n_tokens < info->max_tokens);
    kvf_session_close(session);
}

/* Restores it with other rows, or for a model that it was not saved with. */
static void try_otherwise(const kvf_snapshot_info *info, kvf_profile_id profile)
{
    kvf_geometry other = tiny;
    const kvf_session_options options = {.profile = profile, .chunk_tokens = 2};
    kvf_load_options load = {.session = &options, .geometry = &tiny};
    kvf_session *session;
    kvf_error error;
    kvf_status status = kvf_session_load(device, path, &load, &session, &error);
    fuzz_check_error(status, &error);
    FUZZ_REQUIRE(!session || is_of(info, &tiny));
    if (session)
        check_session(session, info, info->n_tokens < tiny.max_tokens);
    kvf_session_close(session);
    other.layers[1].ratio *= 2;
    load.geometry = &other;
    status = kvf_session_load(device, path, &load, &session, &error);
    fuzz_check_error(status, &error);
    FUZZ_REQUIRE(!session || is_of(info, &other));
    if (session)
        check_session(session, info, false);
    kvf_session_close(session);
}

/* Goes on in the file itself, twice: what was added is found again. */
static void try_append(const kvf_snapshot_info *info)
{
    const kvf_session_options options = {
        .profile = info->profile, .chunk_tokens = 1, .grid_off = info->grid_off};
    const kvf_load_options load = {.session = &options, .verify = true};
    kvf_session *session;
    kvf_error error;
    if (kvf_session_load(device, path, &load, &session, &error) != KVF_OK)
        return;
    for (int i = 0; i < 2; i++) {
        if (kvf_session_n_tokens(session) < info->max_tokens)
            step(session, &info->geometry, 1, &error);
        kvf_session_caller_state(session)[i]++;
        check_save(session, path, true);
    }
    kvf_session_close(session);
}

/* Goes back to each of its checkpoints, the last first, and on from there. */
static void try_checkpoints(const kvf_snapshot_info *info)
{
    const kvf_session_options options = {
        .profile = info->profile, .chunk_tokens = 1, .grid_off = info->grid_off};
    const kvf_load_options load = {.session = &options};
    uint64_t places[64];
    kvf_session *session;
    kvf_error error;
    if (info->n_checkpoints == 0 || info->n_checkpoints > 64 ||
        kvf_session_load(device, path, &load, &session, &error) != KVF_OK)
        return;
    FUZZ_REQUIRE(kvf_snapshot_checkpoints(path, places, 64, &error) == KVF_OK);
    FUZZ_REQUIRE(kvf_session_checkpoints(session, NULL, 0) >= info->n_checkpoints);
    for (uint32_t i = info->n_checkpoints; i > 0; i--) {
        const uint64_t held = kvf_session_n_tokens(session);
        const kvf_status status = kvf_session_truncate(session, places[i - 1], NULL, &error);
        fuzz_check_error(status, &error);
        FUZZ_REQUIRE(status == KVF_OK || status == KVF_FILE_FORMAT);
        FUZZ_REQUIRE(kvf_session_n_tokens(session) == (status == KVF_OK ? places[i - 1] : held));
        if (kvf_session_n_tokens(session) < info->max_tokens)
            fuzz_check_error(step(session, &info->geometry, 1, &error), &error);
    }
    kvf_session_close(session);
}

/* Rows that follow from the tokens are as many as the file says. */
static void check_layers(const kvf_snapshot_layer *layers, const kvf_snapshot_info *info)
{
    for (uint32_t i = 0; i < info->geometry.n_layers; i++) {
        const kvf_layer layer = info->geometry.layers[i];
        const uint64_t rows = layer.ratio && layer.kind ? info->n_tokens / layer.ratio : 0;
        FUZZ_REQUIRE(layers[i].kind == layer.kind && layers[i].ratio == layer.ratio);
        FUZZ_REQUIRE(layers[i].counts.rows == rows);
        FUZZ_REQUIRE(layers[i].counts.index_rows == (layer.kind == KVF_LAYER_CSA ? rows : 0));
    }
}

/*
 * Parts that were believed lie between the headers and the end that the header names; of
 * a file that is good they lie apart from each other, and their checksums are right.
 */
static void check_index(const edited *file, const kvf_snapshot_info *info, bool is_good)
{
    const kvf_snapshot_header *first = header_of(file, 0);
    const bool is_first =
        first->generation == info->generation &&
        memcmp(first->session.magic, KVF_SNAPSHOT_MAGIC, 8) == 0 &&
        first->checksum == kvf_checksum(first, offsetof(kvf_snapshot_header, checksum));
    const uint32_t slot = is_first ? 0 : 1;
    const uint64_t end_bytes = header_of(file, slot)->end_bytes;
    kvf_snapshot_layer *layers;
    const kvf_part *parts = parts_of(file, slot, &layers);
    FUZZ_REQUIRE(header_of(file, slot)->generation == info->generation);
    FUZZ_REQUIRE(parts && end_bytes <= file->bytes);
    check_layers(layers, info);
    for (uint32_t i = 0; i < info->n_parts; i++) {
        const kvf_part *part = &parts[i];
        FUZZ_REQUIRE(part->offset >= HEADERS_BYTES && part->offset <= end_bytes);
        FUZZ_REQUIRE(part->stored_bytes <= end_bytes - part->offset);
        if (!is_good)
            continue;
        FUZZ_REQUIRE(kvf_checksum(file->data + part->offset, part->stored_bytes) == part->checksum);
        for (uint32_t j = 0; j < i; j++)
            FUZZ_REQUIRE(part->offset + part->stored_bytes <= parts[j].offset ||
                         parts[j].offset + parts[j].stored_bytes <= part->offset);
    }
}

static void try_file(const edited *file, bool is_unchanged, kvf_profile_id other)
{
    kvf_snapshot_info info;
    kvf_error error;
    int32_t first[2] = {-1, -1};
    const kvf_status status = kvf_snapshot_info_read(path, &info, &error);
    fuzz_check_error(status, &error);
    FUZZ_REQUIRE(status == KVF_OK || !is_unchanged);
    const kvf_status verified = kvf_snapshot_verify(path, &error);
    fuzz_check_error(verified, &error);
    FUZZ_REQUIRE(status == KVF_OK || verified == status);
    fuzz_check_error(kvf_snapshot_tokens(path, first, 1, &error), &error);
    FUZZ_REQUIRE(first[1] == -1);
    if (status != KVF_OK) {
        kvf_session *session;
        FUZZ_REQUIRE(kvf_session_load(device, path, NULL, &session, &error) == status && !session);
        return;
    }
    FUZZ_REQUIRE(info.n_tokens <= info.max_tokens && info.unused_bytes <= info.file_bytes);
    check_index(file, &info, verified == KVF_OK);
    try_as_saved(&info, &tiny, is_unchanged);
    if (!is_small(&info))
        return;
    try_as_saved(&info, NULL, is_unchanged);
    try_otherwise(&info, other);
    try_checkpoints(&info);
    try_append(&info);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    static base bases[N_BASES + N_LATER_BASES];
    edit edits[MAX_EDITS];
    if (bytes < 2)
        return 0;
    start();
    const unsigned number =
        data[0] < FIRST_LATER ? data[0] % N_BASES : N_BASES + data[0] % N_LATER_BASES;
    base *from = &bases[number];
    if (!from->data)
        *from = make_base(number);
    edited file = {malloc(MAX_FILE_BYTES), from->bytes};
    FUZZ_REQUIRE(file.data);
    memcpy(file.data, from->data, from->bytes);
    const uint32_t n_edits = read_edits(data + 2, bytes - 2, edits);
    apply_all(&file, edits, n_edits, data[1] & 1);
    fuzz_write("in.kvfold", (fuzz_part){file.data, file.bytes});
    try_file(&file, n_edits == 0, (kvf_profile_id)(data[1] >> 1 & 3));
    fuzz_write("in.kvfold", (fuzz_part){NULL, 0});
    free(file.data);
    for (int i = 0; i < KVF_MEMORY_CLASS_COUNT; i++)
        FUZZ_REQUIRE(device->live_bytes[i] == 0);
    return 0;
}
