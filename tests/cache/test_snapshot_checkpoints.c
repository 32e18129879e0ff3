/*
 * Checkpoints in files: a restored session goes back to them, as the one that was saved would;
 * each is written once; files of version 1, which have none, are read and saved as version 2.
 */
#include "snapshot_support.h"

static kvf_load_options in_profile(kvf_session_options *session, kvf_profile_id profile)
{
    *session = (kvf_session_options){.profile = profile, .chunk_tokens = SNAP_CHUNK};
    return (kvf_load_options){.session = session, .verify = true};
}

/* A session of n tokens with checkpoints that were asked for at the places. */
static kvf_session *session_with(kvf_profile_id profile, const uint64_t *places, size_t n_places,
                                 uint64_t n_tokens)
{
    kvf_session *session = snap_open(snap_device, profile, false);
    session->checkpoints.periodic = false; /* none by itself */
    for (size_t i = 0; i < n_places; i++) {
        snap_grow(session, places[i]);
        assert_int_equal(kvf_session_checkpoint(session, NULL), KVF_OK);
    }
    snap_grow(session, n_tokens);
    return session;
}

static void expect_places(const kvf_session *session, const uint64_t *places, uint32_t n)
{
    uint64_t there[64];
    assert_int_equal(kvf_session_checkpoints(session, there, 64), n);
    assert_memory_equal(there, places, n * sizeof *places);
}

/* What both hold and give from here on is the same, but for the logits before the first chunk. */
static void expect_alike(kvf_session *session, kvf_session *other, bool packed)
{
    uint64_t expected;
    uint64_t output;
    assert_int_equal(kvf_session_n_tokens(session), kvf_session_n_tokens(other));
    for (uint32_t n = 1; n <= 70; n += 69) {
        assert_int_equal(snap_step(other, n, &expected, NULL), KVF_OK);
        assert_int_equal(snap_step(session, n, &output, NULL), KVF_OK);
        assert_int_equal(output, expected);
    }
    assert_int_equal(snap_digest(session, packed), snap_digest(other, packed));
}

/* ---- Going back -------------------------------------------------------------------------- */

static void a_restored_session_goes_back_as_the_saved_one(void **state)
{
    (void)state;
    /* In the first page, at its end, with pages that are no checkpoint's, past the window. */
    static const uint64_t places[] = {16, 64, 160, 208};
    const char *path = snap_path("back");
    for (int from = 0; from < KVF_PROFILE_COUNT; from++)
        for (int to = 0; to < KVF_PROFILE_COUNT; to++)
            for (size_t i = 0; i < 4; i++) {
                kvf_session_options options;
                const kvf_load_options load = in_profile(&options, (kvf_profile_id)to);
                const kvf_save_options save = {.compress = kvf_codec_bound(1) && (from + i) % 2};
                if (from != to && i != 2)
                    continue;
                kvf_session *session = session_with((kvf_profile_id)from, places, 4, 300);
                assert_int_equal(kvf_session_save(session, path, &save, NULL, NULL), KVF_OK);
                kvf_session *restored = snap_load(snap_device, path, &load);
                assert_int_equal(kvf_session_truncate(session, places[i], NULL, NULL), KVF_OK);
                assert_int_equal(kvf_session_truncate(restored, places[i], NULL, NULL), KVF_OK);
                assert_true(kvf_session_logits_known(session));
                assert_false(kvf_session_logits_known(restored));
                expect_places(restored, places, (uint32_t)i + 1);
                snap_text = 1; /* another way from there */
                expect_alike(restored, session, from == to);
                snap_text = 0;
                assert_true(kvf_session_logits_known(restored));
                kvf_session_close(session);
                kvf_session_close(restored);
            }
    assert_int_equal(snap_device->live_bytes[KVF_MEMORY_CACHE], 0);
    assert_int_equal(snap_device->live_bytes[KVF_MEMORY_CHECKPOINT], 0);
}

/* Logits are asked for: from an earlier checkpoint, and refused where there is none. */
static void a_replay_brings_the_logits(void **state)
{
    (void)state;
    static const uint64_t places[] = {64, 128};
    const char *path = snap_path("replay");
    kvf_session *session = session_with(KVF_PROFILE_FOLD, places, 2, 300);
    kvf_session *fresh = snap_open(snap_device, KVF_PROFILE_FOLD, false);
    kvf_replay replay;
    kvf_error error;
    session->checkpoints.from_start = false; /* as if others had been given up */
    snap_save(session, path);
    kvf_session_close(session);
    session = snap_load(snap_device, path, NULL);
    assert_int_equal(kvf_session_first_covered(session), 65);
    assert_int_equal(kvf_session_truncate(session, 64, &replay, &error), KVF_NOT_COVERED);
    assert_non_null(strstr(error.message, "without logits"));
    assert_int_equal(kvf_session_truncate(session, 63, &replay, &error), KVF_NOT_COVERED);
    assert_int_equal(kvf_session_n_tokens(session), 300);
    /* At the second one: 64 tokens are to be appended for its logits. */
    assert_int_equal(kvf_session_truncate(session, 128, &replay, &error), KVF_OK);
    assert_int_equal(replay.first_token, 64);
    assert_int_equal(replay.n_tokens, 64);
    kvf_replay_free(&replay);
    snap_grow(session, 128);
    snap_grow(fresh, 64); /* in the same chunks: values of HCA layers follow from those */
    snap_grow(fresh, 128);
    expect_alike(session, fresh, true);
    kvf_session_close(session);
    /* Gone back without: what was asked for then is had by a replay, too. */
    session = snap_load(snap_device, path, NULL);
    assert_int_equal(kvf_session_truncate(session, 128, NULL, &error), KVF_OK);
    assert_int_equal(kvf_session_truncate(session, 128, NULL, &error), KVF_OK);
    assert_int_equal(kvf_session_logits(session)[0] == 0, 1);
    assert_int_equal(kvf_session_truncate(session, 128, &replay, &error), KVF_OK);
    assert_int_equal(replay.first_token, 64);
    kvf_replay_free(&replay);
    kvf_session_close(session);
    kvf_session_close(fresh);
}

/* The start counts as a checkpoint for as long as none was given up, in a file as well. */
static void the_start_is_remembered(void **state)
{
    (void)state;
    static const uint64_t places[] = {128};
    const char *path = snap_path("start");
    kvf_session *session = session_with(KVF_PROFILE_FOLD, places, 1, 200);
    kvf_replay replay;
    snap_save(session, path);
    kvf_session_close(session);
    session = snap_load(snap_device, path, NULL);
    assert_int_equal(kvf_session_first_covered(session), 0);
    assert_int_equal(kvf_session_truncate(session, 100, &replay, NULL), KVF_OK);
    assert_int_equal(replay.first_token, 0);
    assert_int_equal(replay.n_tokens, 100);
    kvf_replay_free(&replay);
    kvf_session_close(session);
}

/* A session that went back and was saved before anything was appended says so when it is back. */
static void unknown_logits_stay_unknown_in_a_file(void **state)
{
    (void)state;
    static const uint64_t places[] = {64, 128};
    const char *path = snap_path("unknown");
    kvf_session *session = session_with(KVF_PROFILE_FOLD, places, 2, 200);
    kvf_snapshot_info info;
    uint64_t there[2];
    snap_save(session, path);
    kvf_session_close(session);
    session = snap_load(snap_device, path, NULL);
    assert_int_equal(kvf_session_truncate(session, 128, NULL, NULL), KVF_OK);
    snap_save(session, path);
    kvf_session_close(session);
    assert_int_equal(kvf_snapshot_info_read(path, &info, NULL), KVF_OK);
    assert_false(info.logits_known);
    assert_int_equal(info.n_checkpoints, 2);
    assert_int_equal(kvf_snapshot_checkpoints(path, there, 2, NULL), KVF_OK);
    assert_memory_equal(there, places, sizeof there);
    session = snap_load(snap_device, path, NULL);
    assert_false(kvf_session_logits_known(session));
    expect_places(session, places, 2);
    snap_grow(session, 129);
    assert_true(kvf_session_logits_known(session));
    kvf_session_close(session);
}

/* ---- Which there are ------------------------------------------------------------------------ */

static void the_last_that_were_asked_for_are_kept(void **state)
{
    (void)state;
    static const uint64_t places[] = {48, 64, 80, 96, 112, 128, 144, 160};
    kvf_session *session = snap_open(snap_device, KVF_PROFILE_FOLD, false);
    kvf_error error;
    assert_int_equal(kvf_session_checkpoint_alignment(session), 16);
    assert_int_equal(kvf_session_checkpoint(session, &error), KVF_INVALID_ARGUMENT);
    for (uint64_t n = 16; n <= 160; n += 16) {
        snap_grow(session, n - 1);
        assert_int_equal(kvf_session_checkpoint(session, &error), KVF_INVALID_ARGUMENT);
        assert_non_null(strstr(error.message, "multiples of 16"));
        snap_grow(session, n);
        for (int twice = 0; twice < 2; twice++)
            assert_int_equal(kvf_session_checkpoint(session, &error), KVF_OK);
    }
    expect_places(session, places, KVF_REQUESTED_CHECKPOINTS); /* 128 is commit's own, too */
    for (uint64_t n = 176; n <= 320; n += 16) {
        snap_grow(session, n);
        assert_int_equal(kvf_session_checkpoint(session, &error), KVF_OK);
    }
    static const uint64_t later[] = {128, 208, 224, 240, 256, 272, 288, 304, 320};
    expect_places(session, later, 9);
    const int32_t token = 1;
    assert_int_equal(kvf_session_begin(session, &token, 1, NULL), KVF_OK);
    assert_int_equal(kvf_session_checkpoint(session, &error), KVF_INVALID_ARGUMENT);
    kvf_session_drop(session);
    kvf_session_close(session);
}

/* Commit's own are thinned; those that were asked for are not. A reader keeps all that is there. */
static void a_file_has_some_of_those_that_commit_took(void **state)
{
    (void)state;
    static const uint64_t thinned[] = {128, 400}, all[] = {128, 256, 384, 400},
                          some[] = {128, 384, 400};
    static const struct {
        uint64_t spacing;
        const uint64_t *places;
        uint32_t n;
    } cases[] = {{0, thinned, 2}, {1, all, 4}, {129, some, 3}, {256, some, 3}};
    const char *path = snap_path("some");
    kvf_session *session = snap_open(snap_device, KVF_PROFILE_FOLD, false);
    for (uint64_t n = 128; n <= 384; n += 128)
        snap_grow(session, n - 32), snap_grow(session, n);
    snap_grow(session, 400);
    assert_int_equal(kvf_session_checkpoint(session, NULL), KVF_OK);
    expect_places(session, all, 4);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const kvf_session_options fewer = {.checkpoint_count = i % 2 ? 1 : KVF_NO_CHECKPOINTS,
                                           .profile = KVF_PROFILE_FOLD};
        const kvf_load_options load = {.session = &fewer};
        const kvf_save_options save = {.whole = true,
                                       .checkpoint_spacing_tokens = cases[i].spacing};
        uint64_t bytes;
        assert_int_equal(kvf_session_snapshot_bytes(session, &save, &bytes, NULL), KVF_OK);
        assert_int_equal(kvf_session_save(session, path, &save, NULL, NULL), KVF_OK);
        assert_int_equal(snap_file_bytes(path), bytes);
        kvf_session *restored = snap_load(snap_device, path, &load);
        expect_places(restored, cases[i].places, cases[i].n);
        kvf_session_close(restored);
    }
    kvf_session_close(session);
}

/* ---- Later saves ------------------------------------------------------------------------------
 */

/* Parts of checkpoints in the file: how many, their bytes, and the sum of their places. */
static uint64_t checkpoint_parts(const char *path, uint64_t *offsets)
{
    size_t bytes;
    uint8_t *data = snap_read_file(path, &bytes);
    const kvf_snapshot_header *pages = (const kvf_snapshot_header *)data;
    const kvf_snapshot_header *header = &pages[pages[1].generation > pages[0].generation];
    const kvf_part *parts = snap_parts(data, header);
    uint64_t n = 0;
    for (uint32_t i = 0; i < header->n_parts; i++)
        if (parts[i].kind >= KVF_STREAM_CHECKPOINT_WINDOWS)
            offsets[n++] = parts[i].offset;
    free(data);
    return n;
}

static void a_checkpoint_is_written_once(void **state)
{
    (void)state;
    static const uint64_t places[] = {1008, 1072, 1136};
    const char *path = snap_path("once");
    uint64_t before[64];
    uint64_t after[64];
    kvf_session *session = session_with(KVF_PROFILE_FOLD, places, 3, 1200);
    const kvf_save_report first = snap_save(session, path);
    assert_int_equal(checkpoint_parts(path, before), 6);
    assert_int_equal(snap_step(session, 1, NULL, NULL), KVF_OK);
    const kvf_save_report one = snap_save(session, path);
    assert_true(one.appended);
    assert_int_equal(checkpoint_parts(path, after), 6);
    assert_memory_equal(after, before, 6 * sizeof *before);
    /* One more: its bytes and no other's. */
    snap_grow(session, 1216);
    assert_int_equal(kvf_session_checkpoint(session, NULL), KVF_OK);
    assert_true(snap_save(session, path).appended);
    assert_int_equal(checkpoint_parts(path, after), 8);
    assert_memory_equal(after, before, 6 * sizeof *before);
    /* Given up: unused, and the others stay, under other numbers. */
    kvf_session *restored = snap_load(snap_device, path, NULL);
    kvf_session_close(session);
    for (uint64_t n = 1232; n <= 1312; n += 16) { /* six more: 1008 and 1072 leave */
        snap_grow(restored, n);
        assert_int_equal(kvf_session_checkpoint(restored, NULL), KVF_OK);
    }
    assert_true(snap_save(restored, path).appended);
    assert_int_equal(checkpoint_parts(path, after), 2 * KVF_REQUESTED_CHECKPOINTS);
    assert_memory_equal(after, before + 4, 2 * sizeof *before);
    assert_true(first.written_bytes > 2 * one.written_bytes);
    snap_expect_same(path, restored);
    kvf_session_close(restored);
}

/* Gone back and another way: a checkpoint at the same place has another content. */
static void a_checkpoint_of_another_way_is_written_anew(void **state)
{
    (void)state;
    static const uint64_t places[] = {1024, 1088};
    const char *path = snap_path("anew");
    uint64_t before[64];
    uint64_t after[64];
    kvf_session *session = session_with(KVF_PROFILE_FOLD, places, 2, 1100);
    snap_save(session, path);
    assert_int_equal(checkpoint_parts(path, before), 4);
    assert_int_equal(kvf_session_truncate(session, 1024, NULL, NULL), KVF_OK);
    snap_text = 1;
    snap_grow(session, 1088);
    assert_int_equal(kvf_session_checkpoint(session, NULL), KVF_OK);
    snap_grow(session, 1100);
    const kvf_save_report report = snap_save(session, path);
    assert_true(report.appended);
    assert_int_equal(checkpoint_parts(path, after), 4);
    assert_memory_equal(after, before, 2 * sizeof *before);
    assert_true(after[2] != before[2] && after[3] != before[3]);
    kvf_session *restored = snap_load(snap_device, path, NULL);
    assert_int_equal(kvf_session_truncate(restored, 1088, NULL, NULL), KVF_OK);
    assert_int_equal(kvf_session_truncate(session, 1088, NULL, NULL), KVF_OK);
    expect_alike(restored, session, true);
    snap_text = 0;
    kvf_session_close(restored);
    kvf_session_close(session);
}

/* A damaged checkpoint is met by whoever goes back to it, or saves it elsewhere; not by others. */
static void a_damaged_checkpoint_harms_nothing_else(void **state)
{
    (void)state;
    static const uint64_t places[] = {128, 192};
    const char *path = snap_path("damaged");
    uint64_t offsets[64];
    size_t bytes;
    kvf_error error;
    kvf_session *session = session_with(KVF_PROFILE_FOLD, places, 2, 300);
    snap_save(session, path);
    assert_int_equal(checkpoint_parts(path, offsets), 4);
    uint8_t *data = snap_read_file(path, &bytes);
    for (int part = 0; part < 4; part++) {
        const bool halves = part % 2;
        const uint64_t place = places[part / 2];
        kvf_session *restored;
        data[offsets[part] + 100] ^= 1;
        snap_write_file(path, data, bytes);
        assert_int_equal(kvf_snapshot_verify(path, &error), KVF_FILE_FORMAT);
        assert_non_null(strstr(error.message, part / 2 ? "of checkpoint 1" : "of checkpoint 0"));
        kvf_status status = kvf_session_load(snap_device, path, NULL, &restored, &error);
        if (snap_device->backend->addresses_host_memory) {
            assert_int_equal(status, KVF_OK);
            assert_int_equal(kvf_session_check(restored, &error), KVF_FILE_FORMAT);
            status = kvf_session_save(restored, snap_path("copy"), NULL, NULL, &error);
            assert_int_equal(status, KVF_FILE_FORMAT);
            assert_int_equal(snap_step(restored, 3, NULL, &error), KVF_OK);
            assert_int_equal(kvf_session_truncate(restored, places[1 - part / 2], NULL, &error),
                             KVF_OK);
            kvf_session_close(restored);
            restored = snap_load(snap_device, path, NULL);
            status = kvf_session_truncate(restored, place, NULL, &error);
            assert_int_equal(status, halves ? KVF_FILE_FORMAT : KVF_OK);
            assert_int_equal(kvf_session_n_tokens(restored), halves ? 300 : place);
            if (!halves)
                status = snap_step(restored, 1, NULL, &error);
            kvf_session_close(restored);
        }
        assert_int_equal(status, KVF_FILE_FORMAT);
        assert_non_null(strstr(error.message, "of checkpoint"));
        data[offsets[part] + 100] ^= 1;
    }
    free(data);
    kvf_session_close(session);
}

/* ---- Version 1 ---------------------------------------------------------------------------------
 */

/*
 * tests/cache/v1 has 150 tokens in each profile, as the last build that wrote version 1 saved
 * them; legacy and packed compressed. The window of 128 goes round in its ring.
 */
static void files_of_version_1_are_read_and_saved_as_version_2(void **state)
{
    (void)state;
    static const char *const names[] = {"legacy", "tiled", "packed", "fold"};
    const kvf_geometry usual = snap_geometry;
    snap_geometry.n_layers = 1;
    snap_geometry.window_tokens = 128;
    snap_geometry.layers[0] = (kvf_layer){KVF_LAYER_CSA, 4};
    memset(snap_geometry.layers + 1, 0, 3 * sizeof *snap_geometry.layers);
    for (int profile = 0; profile < KVF_PROFILE_COUNT; profile++) {
        char fixture[400];
        size_t bytes;
        kvf_snapshot_info info;
        const kvf_load_options load = {.geometry = &snap_geometry, .verify = profile % 2};
        const char *path = snap_path("v1");
        snprintf(fixture, sizeof fixture, "%s/%s.kvfold", KVF_TEST_V1, names[profile]);
        uint8_t *data = snap_read_file(fixture, &bytes);
        snap_write_file(path, data, bytes);
        free(data);
        assert_int_equal(kvf_snapshot_info_read(path, &info, NULL), KVF_OK);
        assert_int_equal(info.version, 1);
        assert_int_equal(info.n_checkpoints, 0);
        if (info.compressed && kvf_codec_bound(1) == 0)
            continue;
        assert_int_equal(kvf_snapshot_verify(path, NULL), KVF_OK);
        kvf_session *fresh = snap_open(snap_device, (kvf_profile_id)profile, false);
        kvf_session_set_model_fingerprint(fresh, 0x1234567890abcdefu);
        snap_grow(fresh, 150);
        for (int to = 0; to < KVF_PROFILE_COUNT; to++) { /* into every profile */
            kvf_session_options options;
            const kvf_load_options other = in_profile(&options, (kvf_profile_id)to);
            kvf_session *restored = snap_load(snap_device, path, &other);
            assert_int_equal(snap_digest(restored, false), snap_digest(fresh, false));
            kvf_session_close(restored);
        }
        kvf_session *restored = snap_load(snap_device, path, &load);
        assert_int_equal(snap_digest(restored, false), snap_digest(fresh, false));
        assert_true(kvf_session_logits_known(restored));
        expect_alike(restored, fresh, false);
        assert_false(snap_save(restored, path).appended);
        assert_int_equal(kvf_snapshot_info_read(path, &info, NULL), KVF_OK);
        assert_int_equal(info.version, 2);
        assert_int_equal(info.generation, 1);
        snap_expect_same(path, restored);
        kvf_session_close(restored);
        kvf_session_close(fresh);
    }
    snap_geometry = usual;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_restored_session_goes_back_as_the_saved_one),
        cmocka_unit_test(a_replay_brings_the_logits),
        cmocka_unit_test(the_start_is_remembered),
        cmocka_unit_test(unknown_logits_stay_unknown_in_a_file),
        cmocka_unit_test(the_last_that_were_asked_for_are_kept),
        cmocka_unit_test(a_file_has_some_of_those_that_commit_took),
        cmocka_unit_test(a_checkpoint_is_written_once),
        cmocka_unit_test(a_checkpoint_of_another_way_is_written_anew),
        cmocka_unit_test(a_damaged_checkpoint_harms_nothing_else),
        cmocka_unit_test(files_of_version_1_are_read_and_saved_as_version_2),
    };
    return cmocka_run_group_tests(tests, snap_setup, snap_teardown);
}
