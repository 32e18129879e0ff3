/*
 * Snapshots: what is saved comes back, in the file that the plan predicted, under every
 * backend and profile; later saves add to it; what cannot be right is refused.
 */
#include "snapshot_support.h"

#include <fcntl.h>
#include <unistd.h>

static kvf_session_options options_of(kvf_profile_id profile)
{
    return (kvf_session_options){
        .profile = profile, .max_tokens = 4096, .chunk_tokens = SNAP_CHUNK, .checkpoint_count = 64};
}

static void the_file_has_the_planned_bytes(void **state)
{
    (void)state;
    static const uint64_t counts[] = {0, 1, 3, 4, 63, 64, 65, 128, 255, 256, 257, 700, 1024, 1025};
    const char *path = snap_path("planned");
    for (int profile = 0; profile < KVF_PROFILE_COUNT; profile++) {
        kvf_session *session = snap_open(snap_device, (kvf_profile_id)profile, false);
        for (size_t i = 0; i < sizeof counts / sizeof *counts; i++) {
            const kvf_session_options options = options_of((kvf_profile_id)profile);
            const kvf_save_options whole = {.whole = true};
            kvf_plan plan;
            kvf_save_report report;
            snap_grow(session, counts[i]);
            assert_int_equal(kvf_plan_make(&snap_geometry, &options, counts[i], &plan, NULL),
                             KVF_OK);
            assert_int_equal(kvf_session_save(session, path, &whole, &report, NULL), KVF_OK);
            assert_int_equal(snap_file_bytes(path), plan.snapshot_bytes);
            assert_int_equal(report.file_bytes, plan.snapshot_bytes);
            assert_int_equal(report.written_bytes, plan.snapshot_bytes);
            assert_int_equal(report.unused_bytes, 0);
            assert_false(report.appended);
            kvf_plan_free(&plan);
        }
        kvf_session_close(session);
    }
}

/* Saves under one backend, restores under another; both go on alike on the same backend. */
static void round_trip(kvf_device *from, kvf_device *to, kvf_profile_id profile, uint64_t n_tokens)
{
    const char *path = snap_path("round");
    kvf_session *session = snap_open(from, profile, false);
    kvf_session_set_model_fingerprint(session, 0x1234567890abcdefu);
    snap_grow(session, n_tokens);
    snap_save(session, path);
    kvf_session *restored = snap_load(to, path, NULL);
    assert_int_equal(kvf_session_n_tokens(restored), n_tokens);
    assert_int_equal(kvf_session_model_fingerprint(restored), 0x1234567890abcdefu);
    assert_int_equal(snap_digest(restored, true), snap_digest(session, true));
    assert_int_equal(kvf_session_held_bytes(restored), kvf_session_held_bytes(session));
    assert_int_equal(kvf_session_allocated_bytes(restored) + kvf_session_mapped_bytes(restored),
                     kvf_session_allocated_bytes(session));
    for (int i = 0; i < 3; i++) {
        const uint32_t n = i == 1 ? 70 : 1;
        uint64_t expected;
        uint64_t output;
        assert_int_equal(snap_step(session, n, &expected, NULL), KVF_OK);
        assert_int_equal(snap_step(restored, n, &output, NULL), KVF_OK);
        if (from == to)
            assert_int_equal(output, expected);
    }
    if (from == to)
        assert_int_equal(snap_digest(restored, true), snap_digest(session, true));
    kvf_session_close(session);
    kvf_session_close(restored);
}

static void every_profile_comes_back_byte_for_byte_under_every_backend(void **state)
{
    (void)state;
    static const uint64_t counts[] = {0, 1, 63, 65, 128, 333};
    const kvf_device_options options = {.backend = "ref"};
    kvf_device *ref;
    assert_int_equal(kvf_device_open(&options, &ref, NULL), KVF_OK);
    for (int profile = 0; profile < KVF_PROFILE_COUNT; profile++)
        for (size_t i = 0; i < sizeof counts / sizeof *counts; i++) {
            round_trip(snap_device, snap_device, (kvf_profile_id)profile, counts[i]);
            if (counts[i] != 65 && counts[i] != 1)
                continue; /* the reference takes its time */
            round_trip(ref, snap_device, (kvf_profile_id)profile, counts[i]);
            round_trip(snap_device, ref, (kvf_profile_id)profile, counts[i]);
        }
    assert_int_equal(snap_device->live_bytes[KVF_MEMORY_CACHE], 0);
    assert_int_equal(snap_device->live_bytes[KVF_MEMORY_CHECKPOINT], 0);
    assert_int_equal(ref->live_bytes[KVF_MEMORY_CACHE], 0);
    kvf_device_close(ref);
}

/* All profiles hold the same values, so a converted session goes on as one of its own would. */
static void every_profile_comes_back_in_every_other(void **state)
{
    (void)state;
    const char *path = snap_path("across");
    kvf_session *all[KVF_PROFILE_COUNT];
    uint64_t expected = 0;
    uint64_t output;
    for (int to = 0; to < KVF_PROFILE_COUNT; to++) {
        all[to] = snap_open(snap_device, (kvf_profile_id)to, false);
        snap_grow(all[to], 333);
    }
    for (int from = 0; from < KVF_PROFILE_COUNT; from++) {
        snap_save(all[from], path);
        for (int to = 0; to < KVF_PROFILE_COUNT; to++) {
            const kvf_session_options wanted = options_of((kvf_profile_id)to);
            const kvf_load_options options = {.session = &wanted};
            kvf_session *restored = snap_load(snap_device, path, &options);
            assert_string_equal(restored->profile->name, kvf_profile_get(to)->name);
            assert_int_equal(snap_digest(restored, false), snap_digest(all[from], false));
            assert_int_equal(snap_step(restored, 50, &output, NULL), KVF_OK);
            if (expected == 0)
                expected = output;
            assert_int_equal(output, expected);
            kvf_session_close(restored);
        }
    }
    for (int to = 0; to < KVF_PROFILE_COUNT; to++) {
        assert_int_equal(snap_step(all[to], 50, &output, NULL), KVF_OK);
        assert_int_equal(output, expected);
        kvf_session_close(all[to]);
    }
    assert_int_equal(snap_device->live_bytes[KVF_MEMORY_SCRATCH], 0);
}

static void a_row_that_f16_cannot_hold_is_refused_by_name(void **state)
{
    (void)state;
    const char *path = snap_path("inexact");
    const kvf_session_options tiled = options_of(KVF_PROFILE_TILED);
    const kvf_load_options options = {.session = &tiled};
    kvf_session *session = snap_open(snap_device, KVF_PROFILE_LEGACY, false);
    kvf_session *restored;
    kvf_error error;
    snap_grow(session, 300);
    /* Row 70 of layer 3 gets a value of the grid whose exponent f16 lacks. */
    float *row = (float *)session->layers[3].rows.memory[1] + 6 * 512;
    row[17] = 0x1p+20f;
    snap_save(session, path);
    assert_int_equal(kvf_session_load(snap_device, path, &options, &restored, &error), KVF_INEXACT);
    assert_null(restored);
    assert_non_null(strstr(error.message, "row 70 of the rows of layer 3, dimension 17"));
    assert_non_null(strstr(error.message, "tiled"));
    /* One that is on no grid can be kept by legacy alone. */
    row[17] = 1.001f;
    snap_save(session, path);
    for (int to = 1; to < KVF_PROFILE_COUNT; to++) {
        const kvf_session_options wanted = options_of((kvf_profile_id)to);
        const kvf_load_options other = {.session = &wanted};
        assert_int_equal(kvf_session_load(snap_device, path, &other, &restored, &error),
                         KVF_INEXACT);
    }
    kvf_session_close(snap_load(snap_device, path, NULL));
    kvf_session_close(session);
    assert_int_equal(snap_device->live_bytes[KVF_MEMORY_CACHE], 0);
}

static void rows_without_the_grid_stay_in_legacy(void **state)
{
    (void)state;
    const char *path = snap_path("grid");
    kvf_session *session = snap_open(snap_device, KVF_PROFILE_LEGACY, true);
    kvf_session *restored;
    kvf_error error;
    snap_grow(session, 100);
    snap_save(session, path);
    const kvf_session_options fold = options_of(KVF_PROFILE_FOLD);
    const kvf_load_options options = {.session = &fold};
    assert_int_equal(kvf_session_load(snap_device, path, &options, &restored, &error),
                     KVF_UNSUPPORTED);
    restored = snap_load(snap_device, path, NULL);
    assert_int_equal(snap_digest(restored, true), snap_digest(session, true));
    kvf_session_close(restored);
    kvf_session_close(session);
}

/* ---- Later saves ------------------------------------------------------------------------- */

static void a_file_never_has_more_unused_bytes_than_used_ones(void **state)
{
    (void)state;
    const char *path = snap_path("garbage");
    kvf_session *session = snap_open(snap_device, KVF_PROFILE_FOLD, false);
    unsigned n_whole = 0;
    snap_grow(session, 200);
    for (int i = 0; i < 60; i++) {
        assert_int_equal(snap_step(session, 1, NULL, NULL), KVF_OK);
        const kvf_save_report report = snap_save(session, path);
        n_whole += !report.appended;
        assert_true(report.unused_bytes * 2 <= report.file_bytes + 8192);
        kvf_snapshot_info info;
        assert_int_equal(kvf_snapshot_info_read(path, &info, NULL), KVF_OK);
        assert_int_equal(info.unused_bytes, report.unused_bytes);
        assert_int_equal(info.n_tokens, 201 + i);
        assert_int_equal(info.n_headers, 2);
    }
    /* This session is small and its rings are large: half of the saves are new files. */
    assert_true(n_whole >= 2 && n_whole <= 30);
    snap_expect_same(path, session);
    kvf_session_close(session);
}

static void a_restored_session_goes_on_in_its_file(void **state)
{
    (void)state;
    const char *path = snap_path("chain");
    kvf_session *original = snap_open(snap_device, KVF_PROFILE_FOLD, false);
    snap_grow(original, 3500);
    snap_save(original, path);
    for (int i = 0; i < 3; i++) {
        kvf_session *restored = snap_load(snap_device, path, NULL);
        assert_int_equal(snap_step(restored, 37, NULL, NULL), KVF_OK);
        assert_int_equal(snap_step(original, 37, NULL, NULL), KVF_OK);
        assert_true(snap_save(restored, path).appended);
        assert_int_equal(snap_digest(restored, true), snap_digest(original, true));
        kvf_session_close(restored);
    }
    snap_expect_same(path, original);
    /* The file is not what the original knows any more: a new one is written. */
    assert_false(snap_save(original, path).appended);
    snap_expect_same(path, original);
    kvf_session_close(original);
}

static void truncated_and_forked_sessions_save_what_they_hold(void **state)
{
    (void)state;
    const char *path = snap_path("back");
    kvf_session *session = snap_open(snap_device, KVF_PROFILE_FOLD, false);
    kvf_session *fork;
    kvf_replay replay;
    snap_grow(session, 3840);
    snap_save(session, path);
    uint8_t caller_state[KVF_CALLER_STATE_BYTES];
    memcpy(caller_state, kvf_session_caller_state(session), sizeof caller_state);
    const uint64_t digest = snap_digest(session, true);
    snap_grow(session, 3900);
    snap_save(session, path);
    assert_int_equal(kvf_session_truncate(session, 3840, &replay, NULL), KVF_OK);
    kvf_replay_free(&replay);
    snap_grow(session, 3840);
    memcpy(kvf_session_caller_state(session), caller_state, sizeof caller_state);
    assert_int_equal(snap_digest(session, true), digest);
    assert_true(snap_save(session, path).appended);
    snap_expect_same(path, session);
    /* Back in a longer one, and on with another text past where it was saved. */
    const kvf_save_options whole = {.whole = true};
    snap_grow(session, 3900);
    assert_int_equal(kvf_session_save(session, path, &whole, NULL, NULL), KVF_OK);
    assert_int_equal(kvf_session_truncate(session, 3840, &replay, NULL), KVF_OK);
    kvf_replay_free(&replay);
    snap_text = 1;
    snap_grow(session, 3950);
    assert_true(snap_save(session, path).appended);
    snap_expect_same(path, session);
    snap_text = 0;
    assert_int_equal(kvf_session_save(session, path, &whole, NULL, NULL), KVF_OK);
    /* The fork knows the file too; what its parent knew is over when it has saved. */
    assert_int_equal(kvf_session_fork(session, &fork, NULL), KVF_OK);
    snap_grow(fork, 4000);
    snap_grow(session, 3960);
    assert_true(snap_save(fork, path).appended);
    snap_expect_same(path, fork);
    assert_false(snap_save(session, path).appended);
    snap_expect_same(path, session);
    kvf_session_close(fork);
    kvf_session_close(session);
}

static void compressed_files_hold_the_same_in_fewer_bytes(void **state)
{
    (void)state;
    const char *path = snap_path("zstd");
    const kvf_save_options compress = {.compress = true};
    if (kvf_codec_bound(1) == 0)
        skip();
    for (int profile = 0; profile < KVF_PROFILE_COUNT; profile++) {
        kvf_session *session = snap_open(snap_device, (kvf_profile_id)profile, false);
        kvf_save_report report;
        kvf_snapshot_info info;
        snap_grow(session, 500);
        const uint64_t plain_bytes = snap_save(session, path).file_bytes;
        assert_int_equal(kvf_session_save(session, path, &compress, &report, NULL), KVF_OK);
        assert_int_equal(report.file_bytes, snap_file_bytes(path));
        assert_true(report.file_bytes < plain_bytes);
        assert_int_equal(kvf_snapshot_info_read(path, &info, NULL), KVF_OK);
        assert_true(info.compressed);
        snap_expect_same(path, session);
        assert_int_equal(snap_step(session, 1, NULL, NULL), KVF_OK);
        snap_save(session, path); /* appends parts that are not compressed */
        snap_expect_same(path, session);
        kvf_session_close(session);
    }
}

/* ---- What is refused ----------------------------------------------------------------------- */

static void a_damaged_part_is_met_when_it_is_used(void **state)
{
    (void)state;
    const char *path = snap_path("lazy");
    const char *other = snap_path("other");
    const kvf_load_options verify = {.verify = true};
    kvf_session *session = snap_open(snap_device, KVF_PROFILE_FOLD, false);
    kvf_session *restored;
    kvf_snapshot_index index;
    kvf_error error;
    snap_grow(session, 700);
    snap_save(session, path);
    snap_save(session, other);
    const uint64_t old_bytes = snap_file_bytes(other);
    const int file = open(path, O_RDWR);
    assert_int_equal(kvf_snapshot_read_index(&kvf_io_system, file, path, &index, NULL), KVF_OK);
    for (uint32_t i = 0; i < index.header.n_parts; i++)
        if (index.parts[i].kind == KVF_STREAM_INDEX_ROWS && index.parts[i].number == 3 &&
            index.parts[i].first_page == 0) {
            const uint8_t byte = 0x5a;
            assert_int_equal(pwrite(file, &byte, 1, (off_t)index.parts[i].offset + 100), 1);
        }
    close(file);
    kvf_snapshot_free_index(&index);
    assert_int_equal(kvf_session_load(snap_device, path, &verify, &restored, &error),
                     KVF_FILE_FORMAT);
    assert_int_equal(kvf_snapshot_verify(path, &error), KVF_FILE_FORMAT);
    assert_non_null(strstr(error.message, "index rows of layer 3, pages 0"));
    restored = snap_load(snap_device, path, NULL);
    assert_int_equal(snap_step(restored, 1, NULL, &error), KVF_FILE_FORMAT);
    assert_non_null(strstr(error.message, "index rows of layer 3"));
    assert_int_equal(kvf_session_n_tokens(restored), 700);
    /* Nor does it get a new checksum by being saved elsewhere. */
    const kvf_save_options whole = {.whole = true};
    assert_int_equal(kvf_session_save(restored, other, &whole, NULL, &error), KVF_FILE_FORMAT);
    assert_int_equal(snap_file_bytes(other), old_bytes);
    snap_expect_same(other, session);
    kvf_session_close(restored);
    kvf_session_close(session);
}

static void a_session_of_another_model_is_refused(void **state)
{
    (void)state;
    const char *path = snap_path("model");
    kvf_session *session = snap_open(snap_device, KVF_PROFILE_FOLD, false);
    kvf_session *restored;
    kvf_error error;
    kvf_session_set_model_fingerprint(session, 0xabcu);
    snap_grow(session, 10);
    snap_save(session, path);
    kvf_load_options options = {.model_fingerprint = 0xdefu, .geometry = &snap_geometry};
    assert_int_equal(kvf_session_load(snap_device, path, &options, &restored, &error),
                     KVF_WRONG_MODEL);
    assert_non_null(strstr(error.message, "0000000000000abc"));
    assert_non_null(strstr(error.message, "0000000000000def"));
    options.model_fingerprint = 0xabcu;
    kvf_session_close(snap_load(snap_device, path, &options));
    kvf_geometry other = snap_geometry;
    other.layers[2].ratio = 32;
    options.geometry = &other;
    assert_int_equal(kvf_session_load(snap_device, path, &options, &restored, &error),
                     KVF_WRONG_MODEL);
    assert_non_null(strstr(error.message, "layer 2"));
    other = snap_geometry;
    other.vocab = 98;
    assert_int_equal(kvf_session_load(snap_device, path, &options, &restored, &error),
                     KVF_WRONG_MODEL);
    kvf_session_options small = options_of(KVF_PROFILE_FOLD);
    small.max_tokens = 9;
    options = (kvf_load_options){.session = &small};
    assert_int_equal(kvf_session_load(snap_device, path, &options, &restored, &error),
                     KVF_INVALID_ARGUMENT);
    kvf_session_close(session);
}

/* A file at the highest number that a header may have is not given one that is refused. */
static void the_last_generation_is_followed_by_the_first(void **state)
{
    (void)state;
    size_t bytes;
    const char *path = snap_path("last");
    kvf_session *session = snap_open(snap_device, KVF_PROFILE_FOLD, false);
    snap_grow(session, 10);
    snap_save(session, path);
    kvf_session_close(session);
    uint8_t *data = snap_read_file(path, &bytes);
    kvf_snapshot_header *headers = (kvf_snapshot_header *)data;
    headers[0].generation = UINT64_MAX - 1;
    headers[0].checksum = kvf_checksum(headers, offsetof(kvf_snapshot_header, checksum));
    headers[1] = headers[0];
    snap_write_file(path, data, bytes);
    free(data);
    session = snap_load(snap_device, path, NULL);
    snap_grow(session, 11);
    const kvf_save_report report = snap_save(session, path);
    assert_false(report.appended);
    assert_int_equal(report.generation, 1);
    snap_expect_same(path, session);
    kvf_session_close(session);
}

static void files_of_every_shorter_length_are_refused(void **state)
{
    (void)state;
    const char *path = snap_path("whole");
    const char *cut = snap_path("cut");
    kvf_session *session = snap_open(snap_device, KVF_PROFILE_FOLD, false);
    kvf_session *restored;
    kvf_error error;
    size_t bytes;
    snap_grow(session, 100);
    snap_save(session, path);
    uint8_t *data = snap_read_file(path, &bytes);
    for (size_t n = 0; n < bytes; n += n < 9000 ? 333 : 20011) {
        snap_write_file(cut, data, n);
        assert_int_equal(kvf_session_load(snap_device, cut, NULL, &restored, &error),
                         KVF_FILE_FORMAT);
    }
    assert_int_equal(kvf_session_load(snap_device, snap_path("absent"), NULL, &restored, &error),
                     KVF_FILE_NOT_FOUND);
    assert_int_equal(kvf_session_load(snap_device, "/", NULL, &restored, &error), KVF_FILE_IO);
    free(data);
    kvf_session_close(session);
}

/* With the right checksums: not damage, but what a newer build may have written. */
static void what_is_not_known_yet_is_unsupported_not_damaged(void **state)
{
    (void)state;
    static const struct {
        uint32_t version, profile, flags;
        const char *said;
    } all[] = {{3, 3, 0, "snapshot version 3"},
               {0, 3, 0, "snapshot version 0"},
               {2, KVF_PROFILE_COUNT, 0, "profile 4, flags 0"},
               {2, UINT32_MAX, 0, "profile 4294967295"},
               {2, 3, 2, "profile 3, flags 2"},
               {2, 0, 1u << 31, "flags 2147483648"}};
    const char *path = snap_path("newer");
    kvf_session *session = snap_open(snap_device, KVF_PROFILE_FOLD, false);
    kvf_session *restored;
    kvf_snapshot_info info;
    kvf_error error;
    int32_t token;
    snap_grow(session, 100);
    snap_save(session, path);
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        snap_patch_headers(path, all[i].version, all[i].profile, all[i].flags);
        assert_int_equal(kvf_session_load(snap_device, path, NULL, &restored, &error),
                         KVF_UNSUPPORTED);
        assert_non_null(strstr(error.message, all[i].said));
        assert_null(restored);
        assert_int_equal(kvf_snapshot_info_read(path, &info, NULL), KVF_UNSUPPORTED);
        assert_int_equal(kvf_snapshot_verify(path, NULL), KVF_UNSUPPORTED);
        assert_int_equal(kvf_snapshot_tokens(path, &token, 1, NULL), KVF_UNSUPPORTED);
    }
    snap_patch_headers(path, KVF_SNAPSHOT_VERSION, KVF_PROFILE_FOLD, 0);
    snap_expect_same(path, session);
    kvf_session_close(session);
}

/* This one's memory is the host's, so the public stages may take any of it where it lies. */
static bool is_any_memory(const kvf_device *device, const void *memory)
{
    (void)device;
    (void)memory;
    return true;
}

/* A device that cannot read the host's memory gets copies, checked when they are made. */
static void a_device_with_its_own_memory_gets_copies(void **state)
{
    (void)state;
    const char *path = snap_path("copies");
    kvf_backend other = *snap_device->backend;
    const kvf_backend *const usual = snap_device->backend;
    kvf_session *session = snap_open(snap_device, KVF_PROFILE_FOLD, false);
    snap_grow(session, 400);
    snap_save(session, path);
    kvf_session *restored = snap_load(snap_device, path, NULL);
    assert_true(kvf_session_mapped_bytes(restored) > 0);
    kvf_session_close(restored);
    other.addresses_host_memory = false;
    other.is_device_memory = is_any_memory;
    snap_device->backend = &other;
    restored = snap_load(snap_device, path, NULL);
    assert_int_equal(kvf_session_mapped_bytes(restored), 0);
    assert_int_equal(snap_digest(restored, true), snap_digest(session, true));
    kvf_session_close(restored);
    snap_device->backend = usual;
    kvf_session_close(session);
}

static void a_file_tells_what_it_holds(void **state)
{
    (void)state;
    const char *path = snap_path("info");
    kvf_session *session = snap_open(snap_device, KVF_PROFILE_PACKED, false);
    kvf_snapshot_info info;
    int32_t tokens[1100] = {0};
    kvf_session_set_model_fingerprint(session, 42);
    snap_grow(session, 1090);
    snap_save(session, path);
    assert_int_equal(kvf_snapshot_info_read(path, &info, NULL), KVF_OK);
    assert_int_equal(info.profile, KVF_PROFILE_PACKED);
    assert_int_equal(info.n_tokens, 1090);
    assert_int_equal(info.max_tokens, 4096);
    assert_int_equal(info.model_fingerprint, 42);
    assert_int_equal(info.generation, 1);
    assert_int_equal(info.file_bytes, snap_file_bytes(path));
    assert_memory_equal(&info.geometry, &snap_geometry, sizeof snap_geometry);
    assert_memory_equal(info.caller_state, kvf_session_caller_state(session),
                        KVF_CALLER_STATE_BYTES);
    assert_int_equal(kvf_snapshot_tokens(path, tokens, 1100, NULL), KVF_OK);
    assert_memory_equal(tokens, kvf_session_tokens(session), 1090 * sizeof *tokens);
    assert_int_equal(tokens[1090], 0);
    memset(tokens, 0, sizeof tokens);
    assert_int_equal(kvf_snapshot_tokens(path, tokens, 7, NULL), KVF_OK);
    assert_int_equal(tokens[7], 0);
    assert_memory_equal(tokens, kvf_session_tokens(session), 7 * sizeof *tokens);
    kvf_session_close(session);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_file_has_the_planned_bytes),
        cmocka_unit_test(every_profile_comes_back_byte_for_byte_under_every_backend),
        cmocka_unit_test(every_profile_comes_back_in_every_other),
        cmocka_unit_test(a_row_that_f16_cannot_hold_is_refused_by_name),
        cmocka_unit_test(rows_without_the_grid_stay_in_legacy),
        cmocka_unit_test(a_file_never_has_more_unused_bytes_than_used_ones),
        cmocka_unit_test(a_restored_session_goes_on_in_its_file),
        cmocka_unit_test(truncated_and_forked_sessions_save_what_they_hold),
        cmocka_unit_test(compressed_files_hold_the_same_in_fewer_bytes),
        cmocka_unit_test(a_damaged_part_is_met_when_it_is_used),
        cmocka_unit_test(a_session_of_another_model_is_refused),
        cmocka_unit_test(the_last_generation_is_followed_by_the_first),
        cmocka_unit_test(files_of_every_shorter_length_are_refused),
        cmocka_unit_test(what_is_not_known_yet_is_unsupported_not_damaged),
        cmocka_unit_test(a_device_with_its_own_memory_gets_copies),
        cmocka_unit_test(a_file_tells_what_it_holds),
    };
    return cmocka_run_group_tests(tests, snap_setup, snap_teardown);
}
