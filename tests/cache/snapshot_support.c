#include "snapshot_support.h"

#include <dirent.h>
#include <sys/stat.h>
#include <unistd.h>

kvf_geometry snap_geometry = {
    .n_layers = 4,
    .vocab = 97,
    .n_heads = 2,
    .n_index_heads = 8,
    .top_k = 16,
    .window_tokens = 64,
    .max_tokens = 1 << 20,
    .layers = {[1] = {KVF_LAYER_CSA, 4}, [2] = {KVF_LAYER_HCA, 16}, [3] = {KVF_LAYER_CSA, 4}}};
kvf_device *snap_device;
uint64_t snap_text;
uint64_t snap_values;

static char folder[64];

/* ---- Files ------------------------------------------------------------------------ */

int snap_setup(void **state)
{
    (void)state;
    const kvf_device_options options = {
        .backend = getenv("KVF_TEST_BACKEND"), .isa = getenv("KVF_TEST_ISA"), .n_threads = 1};
    snprintf(folder, sizeof folder, "/tmp/kvfold-snapshot-XXXXXX");
    return !mkdtemp(folder) || kvf_device_open(&options, &snap_device, NULL) != KVF_OK;
}

int snap_teardown(void **state)
{
    (void)state;
    kvf_device_close(snap_device);
    DIR *listing = opendir(folder);
    for (struct dirent *entry; listing && (entry = readdir(listing));)
        if (entry->d_name[0] != '.') {
            unlink(snap_path(entry->d_name));
            rmdir(snap_path(entry->d_name));
        }
    closedir(listing);
    return rmdir(folder);
}

const char *snap_path(const char *name)
{
    static char paths[16][400];
    static unsigned next;
    char *path = paths[next++ % 16];
    snprintf(path, sizeof *paths, "%s/%s", folder, name);
    return path;
}

uint64_t snap_file_bytes(const char *path)
{
    struct stat info;
    if (stat(path, &info) != 0)
        fail_msg("%s is not there", path);
    return (uint64_t)info.st_size;
}

uint8_t *snap_read_file(const char *path, size_t *bytes)
{
    FILE *file = fopen(path, "rb");
    assert_non_null(file);
    *bytes = snap_file_bytes(path);
    uint8_t *data = malloc(*bytes + 1);
    assert_int_equal(fread(data, 1, *bytes, file), *bytes);
    fclose(file);
    return data;
}

void snap_write_file(const char *path, const void *data, size_t bytes)
{
    FILE *file = fopen(path, "wb");
    assert_non_null(file);
    assert_int_equal(fwrite(data, 1, bytes, file), bytes);
    assert_int_equal(fclose(file), 0);
}

uint64_t snap_random(uint64_t *state)
{
    uint64_t z = *state += 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

/* ---- Content that follows from the place of a token ----------------------------------- */

typedef struct inputs {
    float window[SNAP_CHUNK * 512], kv[SNAP_CHUNK * 1024], gate[SNAP_CHUNK * 1024];
    float index_kv[SNAP_CHUNK * 256], index_gate[SNAP_CHUNK * 256];
    float q[SNAP_CHUNK * 2 * 512], out[SNAP_CHUNK * 2 * 512];
    float index_q[SNAP_CHUNK * 8 * 128], index_q_used[SNAP_CHUNK * 8 * 128];
    float head_weights[SNAP_CHUNK * 8];
    float bias[16 * 1024], norm[512];
    float cosines[SNAP_CHUNK * 32], sines[SNAP_CHUNK * 32];
} inputs;

static inputs in;

/* What stages are given: `in`, or a copy on a device that the host does not address. */
static inputs *send_inputs(kvf_device *device)
{
    if (device->backend->addresses_host_memory)
        return &in;
    inputs *there = device->backend->alloc(device, sizeof in, KVF_PLACE_DEVICE);
    if (there)
        device->backend->write(device, there, &in, sizeof in);
    return there;
}

/* In -2 .. 2, of few bits: what is a row's block maximum differs from row to row. */
static void fill(float *values, size_t n, uint64_t seed)
{
    for (size_t i = 0; i < n; i++)
        values[i] = (float)((double)(snap_random(&seed) >> 11) / 9007199254740992.0 * 4.0 - 2.0);
}

static void fill_token(uint64_t token, size_t i)
{
    const uint64_t seed = (token + (snap_text << 32) + (snap_values << 44)) << 8;
    fill(in.window + i * 512, 512, seed + 1);
    fill(in.kv + i * 1024, 1024, seed + 2);
    fill(in.gate + i * 1024, 1024, seed + 3);
    fill(in.index_kv + i * 256, 256, seed + 4);
    fill(in.index_gate + i * 256, 256, seed + 5);
    fill(in.q + i * 1024, 1024, seed + 6);
    fill(in.index_q + i * 1024, 1024, seed + 7);
    fill(in.head_weights + i * 8, 8, seed + 8);
}

/* The learnt parts, and an angle that is the same for all rows. */
static void fill_weights(void)
{
    fill(in.bias, sizeof in.bias / sizeof(float), 77);
    fill(in.norm, 512, 78);
    for (size_t i = 0; i < SNAP_CHUNK * 32; i++) {
        in.cosines[i] = 0.6f;
        in.sines[i] = 0.8f;
    }
}

static uint64_t mix(uint64_t digest, const void *data, size_t bytes)
{
    const uint64_t both[] = {digest, kvf_checksum(data, bytes)};
    return kvf_checksum(both, sizeof both);
}

static kvf_status step_layer(kvf_session *session, uint32_t layer, uint32_t n, uint64_t *output,
                             kvf_error *error)
{
    kvf_device *device = session->device;
    memcpy(in.index_q_used, in.index_q, sizeof in.index_q);
    inputs *at = send_inputs(device);
    if (!at) {
        kvf_session_drop(session);
        return KVF_OUT_OF_MEMORY;
    }
    const kvf_append_args args = {
        .window = at->window,
        .rows = {at->kv, at->gate, at->bias, at->norm, 1e-6f},
        .index = {at->index_kv, at->index_gate, at->bias, at->norm, 1e-6f},
        .row_rope = {at->cosines, at->sines}};
    kvf_status status = kvf_session_append(session, layer, &args, error);
    if (status == KVF_OK && session->geometry.layers[layer].kind == KVF_LAYER_CSA) {
        status = kvf_session_select(session, layer, (kvf_chunk_span){0, n}, at->index_q_used,
                                    at->head_weights, error);
        int32_t list[64] = {0};
        for (uint32_t i = 0; status == KVF_OK && i < n; i++) {
            uint32_t len;
            status = kvf_session_selection(session, i, list, &len, error);
            *output = mix(*output, list, 4 * len);
        }
    }
    if (status == KVF_OK)
        status =
            kvf_session_attend(session, layer, (kvf_chunk_span){0, n}, at->q, NULL, at->out, error);
    if (at != &in) {
        device->backend->read(device, in.out, at->out, sizeof in.out);
        device->backend->release(device, at, sizeof in);
        if (status == KVF_OK)
            status = device->backend->wait(device, error);
    }
    if (status == KVF_OK)
        *output = mix(*output, in.out, (size_t)n * 2 * 512 * sizeof(float));
    return status;
}

kvf_status snap_step(kvf_session *session, uint32_t n, uint64_t *output, kvf_error *error)
{
    const uint64_t first = kvf_session_n_tokens(session);
    int32_t tokens[SNAP_CHUNK];
    uint64_t found = first;
    for (uint32_t i = 0; i < n; i++) {
        uint64_t seed = first + i + (snap_text << 32);
        tokens[i] = (int32_t)(snap_random(&seed) % session->geometry.vocab);
        fill_token(first + i, i);
    }
    fill_weights();
    kvf_status status = kvf_session_begin(session, tokens, n, error);
    for (uint32_t layer = 0; layer < session->geometry.n_layers && status == KVF_OK; layer++)
        status = step_layer(session, layer, n, &found, error);
    if (status == KVF_OK)
        status = kvf_session_settle(session, error);
    if (status != KVF_OK)
        kvf_session_drop(session);
    if (status == KVF_OK) {
        memcpy(kvf_session_logits(session), in.out, session->geometry.vocab * sizeof(float));
        status = kvf_session_commit(session, error);
    }
    if (status == KVF_OK) {
        memcpy(kvf_session_caller_state(session), &found, sizeof found);
        if (output)
            *output = found;
    }
    return status;
}

uint64_t snap_grow(kvf_session *session, uint64_t n_tokens)
{
    uint64_t output = 0;
    kvf_error error;
    for (uint64_t held; (held = kvf_session_n_tokens(session)) < n_tokens;) {
        const uint64_t left = n_tokens - held;
        if (snap_step(session, left < SNAP_CHUNK ? (uint32_t)left : SNAP_CHUNK, &output, &error) !=
            KVF_OK)
            fail_msg("%s", error.message);
    }
    return output;
}

/* ---- What a session holds --------------------------------------------------------------- */

/* Device memory as the host sees it, until the next call. */
static const void *fetch(kvf_device *device, const void *memory, size_t bytes)
{
    static uint8_t copy[1 << 20];
    if (device->backend->addresses_host_memory)
        return memory;
    assert_true(bytes <= sizeof copy);
    device->backend->read(device, copy, memory, bytes);
    assert_int_equal(device->backend->wait(device, NULL), KVF_OK);
    return copy;
}

/* The values of rows first .. end; packed: and the bytes of pages that have no others. */
static uint64_t mix_rows(uint64_t digest, kvf_device *device, kvf_paged_rows *rows, uint64_t first,
                         uint64_t end, bool packed)
{
    static float values[KVF_PAGE_ROWS * KVF_ROW_WIDTH];
    for (uint64_t row = first; row < end; row += KVF_PAGE_ROWS) {
        const kvf_unpack_args args = {.in = kvf_paged_rows_view(rows, end),
                                      .first_row = row - rows->first_row,
                                      .n_rows =
                                          end - row < KVF_PAGE_ROWS ? end - row : KVF_PAGE_ROWS,
                                      .out = values,
                                      .stride = rows->width};
        assert_int_equal(kvf_unpack(device, &args, NULL), KVF_OK);
        digest = mix(digest, values, args.n_rows * rows->width * sizeof *values);
    }
    for (uint64_t page = (first - rows->first_row + KVF_PAGE_ROWS - 1) / KVF_PAGE_ROWS;
         packed && page < (end - rows->first_row) / KVF_PAGE_ROWS; page++)
        digest = mix(digest, fetch(device, rows->memory[page], kvf_paged_rows_page_bytes(rows)),
                     kvf_paged_rows_page_bytes(rows));
    return digest;
}

/*
 * What of a compressor's state will be read again: the tokens of the window that is
 * open, and with overlap the first halves of the one before.
 */
static uint64_t mix_state(uint64_t digest, const kvf_session *session, kvf_layer layer,
                          const kvf_page *state)
{
    if (!state)
        return digest;
    const float *values = fetch(session->device, state->memory, state->bytes);
    const uint64_t n_tokens = kvf_session_n_tokens(session);
    const uint64_t slots = kvf_layer_slots(layer);
    const size_t slot_floats = state->bytes / slots / sizeof(float);
    const uint64_t open = n_tokens / layer.ratio * layer.ratio;
    for (uint64_t token = open; token < n_tokens; token++)
        digest = mix(digest, values + token % slots * slot_floats, slot_floats * sizeof(float));
    if (layer.kind != KVF_LAYER_CSA || open == 0)
        return digest;
    for (uint64_t token = open - layer.ratio; token < open; token++) {
        const float *slot = values + token % slots * slot_floats;
        digest = mix(digest, slot, slot_floats / 4 * sizeof(float));
        digest = mix(digest, slot + slot_floats / 2, slot_floats / 4 * sizeof(float));
    }
    return digest;
}

uint64_t snap_digest(kvf_session *session, bool packed)
{
    const uint64_t n_tokens = kvf_session_n_tokens(session);
    const uint64_t window = session->geometry.window_tokens;
    kvf_error error;
    if (kvf_session_check(session, &error) != KVF_OK)
        fail_msg("%s", error.message);
    uint64_t digest = mix(n_tokens, kvf_session_tokens(session), 4 * n_tokens);
    digest = mix(digest, kvf_session_logits(session), 4 * session->geometry.vocab);
    digest = mix(digest, kvf_session_caller_state(session), KVF_CALLER_STATE_BYTES);
    digest = mix(digest, &session->header->model_fingerprint, sizeof(uint64_t));
    for (uint32_t i = 0; i < session->geometry.n_layers; i++) {
        const kvf_layer layer = session->geometry.layers[i];
        kvf_layer_cache *cache = &session->layers[i];
        kvf_device *device = session->device;
        digest = mix_rows(digest, device, &cache->window, n_tokens < window ? 0 : n_tokens - window,
                          n_tokens, packed);
        digest = mix_rows(digest, device, &cache->rows, 0, kvf_layer_rows(layer, n_tokens), packed);
        digest = mix_rows(digest, device, &cache->index_rows, 0,
                          kvf_layer_index_rows(layer, n_tokens), packed);
        digest = mix_state(digest, session, layer, cache->row_state);
        digest = mix_state(digest, session, layer, cache->index_state);
    }
    return digest;
}

/* ---- Sessions ------------------------------------------------------------------------------ */

kvf_session *snap_open(kvf_device *device, kvf_profile_id profile, bool grid_off)
{
    kvf_session *session;
    kvf_error error;
    const kvf_session_options options = {.profile = profile,
                                         .max_tokens = 4096,
                                         .chunk_tokens = SNAP_CHUNK,
                                         .grid_off = grid_off,
                                         .checkpoint_count = 64};
    if (kvf_session_open(device, &snap_geometry, &options, &session, &error) != KVF_OK)
        fail_msg("%s", error.message);
    return session;
}

kvf_save_report snap_save(kvf_session *session, const char *path)
{
    kvf_save_report report;
    kvf_error error;
    if (kvf_session_save(session, path, NULL, &report, &error) != KVF_OK)
        fail_msg("%s", error.message);
    return report;
}

kvf_session *snap_load(kvf_device *device, const char *path, const kvf_load_options *options)
{
    kvf_session *session;
    kvf_error error;
    if (kvf_session_load(device, path, options, &session, &error) != KVF_OK)
        fail_msg("%s", error.message);
    return session;
}

void snap_expect_same(const char *path, kvf_session *session)
{
    const kvf_load_options verify = {.verify = true};
    kvf_session *restored = snap_load(snap_device, path, &verify);
    assert_int_equal(snap_digest(restored, true), snap_digest(session, true));
    kvf_session_close(restored);
}

int snap_find_state(const char *path, const uint64_t *digests, int n)
{
    const kvf_load_options verify = {.verify = true};
    kvf_session *restored = snap_load(snap_device, path, &verify);
    const uint64_t digest = snap_digest(restored, true);
    kvf_session_close(restored);
    for (int i = 0; i < n; i++)
        if (digest == digests[i])
            return i;
    fail_msg("%s holds none of the %d states that were saved", path, n);
    return -1;
}

void snap_patch_headers(const char *path, uint32_t version, uint32_t profile, uint32_t flags)
{
    size_t bytes;
    uint8_t *data = snap_read_file(path, &bytes);
    kvf_snapshot_header *headers = (kvf_snapshot_header *)data;
    for (int i = 0; i < 2; i++) {
        headers[i].session.version = version;
        headers[i].session.profile = profile;
        headers[i].session.flags = flags;
        headers[i].checksum = kvf_checksum(&headers[i], offsetof(kvf_snapshot_header, checksum));
    }
    snap_write_file(path, data, bytes);
    free(data);
}
