/*
 * Later saves: what each of them writes, to the byte, and that the file is the session
 * afterwards.
 */
#include "expected_save.h"
#include "fake_disk.h"
#include "snapshot_support.h"

static expected_file file; /* what the test's file must consist of */

/* A save that must be the one that the file expects. */
static void save_as_expected(kvf_session *session, const char *path)
{
    const kvf_save_report report = fake_disk_save(session, path);
    expected_check(&file, &report);
    assert_int_equal(snap_file_bytes(path), report.file_bytes);
}

static void first_save(kvf_session *session, const char *path)
{
    expected_session = session;
    expected_new(&file, &snap_geometry, (kvf_profile_id)session->header->profile,
                 kvf_session_n_tokens(session));
    save_as_expected(session, path);
}

static void later_save(kvf_session *session, const char *path, uint64_t kept_tokens)
{
    expected_session = session;
    expected_later(&file, kept_tokens, kvf_session_n_tokens(session), false);
    save_as_expected(session, path);
}

/* ---- What was added ---------------------------------------------------------------------- */

static void a_later_save_writes_what_was_added(void **state)
{
    (void)state;
    /* Nothing; one token; one that fills pages of rows and ids (2048); a lot; one again. */
    static const uint64_t counts[] = {2000, 2001, 2003, 2047, 2048, 2049, 2300, 2301};
    const char *path = snap_path("later");
    for (int profile = 0; profile < KVF_PROFILE_COUNT; profile++) {
        kvf_session *session = snap_open(snap_device, (kvf_profile_id)profile, false);
        unsigned n_appended = 0;
        snap_grow(session, 2000);
        first_save(session, path);
        const uint64_t first_bytes = file.report.written_bytes;
        for (size_t i = 0; i < sizeof counts / sizeof *counts; i++) {
            const uint64_t held = kvf_session_n_tokens(session);
            snap_grow(session, counts[i]);
            later_save(session, path, held);
            n_appended += file.report.appended;
            if (file.report.appended)
                assert_true(file.report.written_bytes * 2 < first_bytes);
        }
        assert_true(n_appended >= 6); /* the rings of some fill half of the file by then */
        snap_expect_same(path, session);
        kvf_session_close(session);
    }
}

/* From nothing on: streams that get their first pages, files that are written anew. */
static void every_save_of_a_growing_session_is_the_expected_one(void **state)
{
    (void)state;
    const char *path = snap_path("growing");
    uint64_t random = 3;
    unsigned n_appended = 0;
    unsigned n_saves = 0;
    for (int profile = 0; profile < KVF_PROFILE_COUNT; profile += 3) {
        kvf_session *session = snap_open(snap_device, (kvf_profile_id)profile, false);
        first_save(session, path);
        for (int i = 0; i < 16; i++, n_saves++) {
            const uint64_t held = kvf_session_n_tokens(session);
            const uint32_t n = (uint32_t)(snap_random(&random) % (i % 2 ? 4 : SNAP_CHUNK) + 1);
            assert_int_equal(snap_step(session, n, NULL, NULL), KVF_OK);
            later_save(session, path, held);
            snap_expect_same(path, session);
            n_appended += file.report.appended;
        }
        kvf_session_close(session);
    }
    assert_true(n_appended >= 8 && n_saves - n_appended >= 8);
}

/* Tokens that were given up: rows of full pages before them stay, rings are all new. */
static void a_save_after_a_truncation_keeps_the_rows_before_it(void **state)
{
    (void)state;
    const char *path = snap_path("cut");
    for (int profile = 0; profile < KVF_PROFILE_COUNT; profile += 3) {
        kvf_session *session = snap_open(snap_device, (kvf_profile_id)profile, false);
        kvf_replay replay;
        snap_grow(session, 3840);
        first_save(session, path);
        snap_grow(session, 3900);
        later_save(session, path, 3840);
        assert_int_equal(kvf_session_truncate(session, 3850, &replay, NULL), KVF_OK);
        const uint64_t kept = replay.first_token;
        kvf_replay_free(&replay);
        assert_true(kept <= 3840 && kept > 3000);
        snap_text = 1;
        snap_grow(session, 3910);
        snap_text = 0;
        later_save(session, path, kept);
        assert_true(file.report.appended);
        snap_expect_same(path, session);
        kvf_session_close(session);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_later_save_writes_what_was_added),
        cmocka_unit_test(every_save_of_a_growing_session_is_the_expected_one),
        cmocka_unit_test(a_save_after_a_truncation_keeps_the_rows_before_it),
    };
    return cmocka_run_group_tests(tests, snap_setup, snap_teardown);
}
