/*
 * Saves that are taken in pieces while the session goes on, and loads in pieces: the file is that
 * of a save in one call where the session was as the save began, whatever became of it since; the
 * session knows what its file holds; nothing is left behind.
 */
#include "fake_disk.h"
#include "saving_beside.h"

#include <sys/stat.h>
#include <unistd.h>

static const uint64_t piece_bytes[] = {40000, UINT64_MAX, 1};

/* A page at a time is a wait for each, which takes long on `far` and under a sanitizer. */
static bool is_slow(void)
{
#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
    return true;
#endif
    return !snap_device->backend->addresses_host_memory;
}

static unsigned n_pieces_tried(void)
{
    return is_slow() ? 2 : 3;
}

static kvf_session *fork_of(kvf_session *session)
{
    kvf_session *fork;
    assert_int_equal(kvf_session_fork(session, &fork, NULL), KVF_OK);
    return fork;
}

static void assert_same_file(const char *a, const char *b)
{
    size_t a_bytes;
    size_t b_bytes;
    uint8_t *x = snap_read_file(a, &a_bytes);
    uint8_t *y = snap_read_file(b, &b_bytes);
    assert_int_equal(a_bytes, b_bytes);
    assert_memory_equal(x, y, a_bytes);
    free(x);
    free(y);
}

static void copy_file(const char *from, const char *to)
{
    size_t bytes;
    uint8_t *data = snap_read_file(from, &bytes);
    snap_write_file(to, data, bytes);
    free(data);
}

static uint64_t live_bytes(void)
{
    return snap_device->live_bytes[KVF_MEMORY_CACHE] +
           snap_device->live_bytes[KVF_MEMORY_CHECKPOINT];
}

static void save_beside(kvf_session *session, const char *path, const kvf_save_options *options,
                        uint64_t bytes, kvf_save_report *report)
{
    beside one;
    beside_begin(&one, session, path, options, &fake_disk);
    beside_finish(&one, bytes);
    *report = one.report;
    if (beside_end(&one, session) != KVF_OK)
        fail_msg("%s", one.error.message);
}

/* ---- The file ------------------------------------------------------------------------------ */

static void the_file_is_that_of_one_call(void **state)
{
    (void)state;
    static const kvf_save_options all[] = {{0}, {.compress = true}};
    for (int profile = is_slow() ? KVF_PROFILE_FOLD : 0; profile < KVF_PROFILE_COUNT; profile++)
        for (size_t i = 0; i < 2 * n_pieces_tried(); i++) {
            const kvf_save_options *options = &all[i % 2];
            const char *at_once = snap_path("at-once");
            const char *in_pieces = snap_path("in-pieces");
            kvf_save_report reports[2];
            if (options->compress && kvf_codec_bound(1) == 0)
                continue;
            kvf_session *session = snap_open(snap_device, (kvf_profile_id)profile, false);
            snap_grow(session, 1000);
            kvf_session *twin = fork_of(session);
            fake_disk_reset();
            /* A new one; what is added to it by a few tokens and by many; nothing new. */
            for (int save = 0; save < 4; save++) {
                assert_int_equal(
                    kvf_session_save_to(twin, at_once, options, &reports[0], &fake_disk, NULL),
                    KVF_OK);
                save_beside(session, in_pieces, options, piece_bytes[i / 2], &reports[1]);
                assert_int_equal(reports[1].generation, reports[0].generation);
                assert_int_equal(reports[1].file_bytes, reports[0].file_bytes);
                assert_int_equal(reports[1].unused_bytes, reports[0].unused_bytes);
                assert_int_equal(reports[1].written_bytes, reports[0].written_bytes);
                assert_int_equal(reports[1].appended, reports[0].appended);
                assert_int_equal(reports[1].appended, save > 0 && !options->compress);
                assert_same_file(at_once, in_pieces);
                snap_expect_same(in_pieces, session);
                for (uint32_t n = save == 0 ? 3 : save == 1 ? 90 : 0; n > 0; n = 0) {
                    assert_int_equal(snap_step(session, n, NULL, NULL), KVF_OK);
                    assert_int_equal(snap_step(twin, n, NULL, NULL), KVF_OK);
                }
            }
            kvf_session_close(session);
            kvf_session_close(twin);
            remove(at_once);
            remove(in_pieces);
        }
}

/* ---- The session goes on ------------------------------------------------------------------- */

/* What becomes of a session while its save is open; the step is counted from 0. */
typedef void change(kvf_session **session, unsigned step);

static void appends_one(kvf_session **session, unsigned step)
{
    (void)step;
    assert_int_equal(snap_step(*session, 1, NULL, NULL), KVF_OK);
}

static void appends_many(kvf_session **session, unsigned step)
{
    assert_int_equal(snap_step(*session, step % 2 ? SNAP_CHUNK : 61, NULL, NULL), KVF_OK);
}

static void begins_and_drops(kvf_session **session, unsigned step)
{
    const int32_t tokens[80] = {0};
    assert_int_equal(kvf_session_begin(*session, tokens, step % 2 ? 80 : 1, NULL), KVF_OK);
    kvf_session_drop(*session);
}

static void goes_another_way(kvf_session **session, unsigned step)
{
    kvf_replay replay;
    const uint64_t held = kvf_session_n_tokens(*session);
    const uint64_t back = step % 3 == 2 ? 0 : held - (step % 3 ? 130 : 20);
    snap_text = step + 1;
    snap_values = step + 1;
    assert_int_equal(kvf_session_truncate(*session, back, &replay, NULL), KVF_OK);
    kvf_replay_free(&replay);
    snap_grow(*session, 900 + 17 * step);
    snap_text = snap_values = 0;
}

static void gives_up_checkpoints(kvf_session **session, unsigned step)
{
    (void)step;
    snap_grow(*session, (kvf_session_n_tokens(*session) / 16 + 1) * 16);
    assert_int_equal(kvf_session_checkpoint(*session, NULL), KVF_OK);
}

static void is_replaced_by_a_fork(kvf_session **session, unsigned step)
{
    kvf_session *fork = fork_of(*session);
    kvf_session_close(*session);
    *session = fork;
    snap_values = step + 1;
    assert_int_equal(snap_step(fork, 5, NULL, NULL), KVF_OK);
    snap_values = 0;
}

static void is_closed(kvf_session **session, unsigned step)
{
    if (step == 0) {
        kvf_session_close(*session);
        *session = NULL;
    }
}

static const struct {
    change *change;
    bool stays; /* it is the session that was saved, and learns what its file holds */
    bool adds;  /* a later save adds to the file */
} changes[] = {{appends_one, true, true},          {appends_many, true, true},
               {begins_and_drops, true, true},     {goes_another_way, true, false},
               {gives_up_checkpoints, true, true}, {is_replaced_by_a_fork, false, false},
               {is_closed, false, false}};
enum { CHANGES = sizeof changes / sizeof *changes };

/* The session that is saved has a file; `adds`: to which it is saved again. */
static void change_while_saving(unsigned number, bool adds, uint64_t bytes)
{
    const char *expected = snap_path("expected");
    const char *path = snap_path("path");
    const uint64_t live = live_bytes();
    beside one;
    kvf_session *session = snap_open(snap_device, KVF_PROFILE_FOLD, false);
    snap_grow(session, 950);
    assert_int_equal(kvf_session_checkpoint(session, NULL), KVF_INVALID_ARGUMENT);
    if (adds) {
        fake_disk_save(session, path);
        snap_grow(session, 1003);
        copy_file(path, expected);
    } else {
        snap_grow(session, 1003);
    }
    kvf_session *twin = fork_of(session);
    fake_disk_reset();
    assert_int_equal(kvf_session_save_to(twin, expected, NULL, NULL, &fake_disk, NULL), KVF_OK);
    kvf_session_close(twin);
    beside_begin(&one, session, path, NULL, &fake_disk);
    unsigned n_pieces = 0;
    for (; beside_piece(&one, bytes); n_pieces++)
        if (n_pieces < 6 && session)
            changes[number].change(&session, n_pieces);
    assert_true(n_pieces >= (bytes == UINT64_MAX ? 1 : 6));
    const kvf_status status = beside_end(&one, changes[number].stays ? session : NULL);
    if (status != KVF_OK)
        fail_msg("%s", one.error.message);
    assert_int_equal(one.report.appended, adds);
    assert_same_file(expected, path);
    if (session) {
        snap_grow(session, kvf_session_n_tokens(session) + 3);
        const kvf_save_report report = fake_disk_save(session, path);
        if (changes[number].adds && !adds) /* later most of a file this small is unused */
            assert_true(report.appended);
        if (!changes[number].stays)
            assert_false(report.appended); /* it knows the file as it was */
        snap_expect_same(path, session);
    }
    kvf_session_close(session);
    assert_int_equal(live_bytes(), live);
    remove(path);
    remove(expected);
}

static void what_becomes_of_the_session_does_not_reach_the_file(void **state)
{
    (void)state;
    for (unsigned number = 0; number < CHANGES; number++)
        for (int adds = 0; adds < 2; adds++)
            for (unsigned i = 0; i < n_pieces_tried(); i++)
                change_while_saving(number, adds, piece_bytes[i]);
}

static void a_session_restored_from_a_file_goes_on_while_it_is_saved(void **state)
{
    (void)state;
    const char *from = snap_path("from");
    const char *to = snap_path("to");
    kvf_session *session = snap_open(snap_device, KVF_PROFILE_FOLD, false);
    snap_grow(session, 700);
    fake_disk_save(session, from);
    kvf_session *restored = snap_load(snap_device, from, NULL);
    beside one;
    beside_begin(&one, restored, to, NULL, &fake_disk);
    remove(from);
    for (unsigned step = 0; beside_piece(&one, 40000); step++)
        assert_int_equal(snap_step(restored, 7, NULL, NULL), KVF_OK);
    const uint64_t n_tokens = kvf_session_n_tokens(restored);
    kvf_session_close(restored); /* the mapping stays for what is still read, and is not for long */
    assert_int_equal(beside_end(&one, NULL), KVF_OK);
    assert_true(n_tokens > 714);
    snap_expect_same(to, session);
    kvf_session_close(session);
    assert_int_equal(live_bytes(), 0);
}

static void one_save_of_a_session_is_open_at_a_time(void **state)
{
    (void)state;
    const char *path = snap_path("one");
    kvf_error error;
    kvf_save *second;
    kvf_session *session = snap_open(snap_device, KVF_PROFILE_FOLD, false);
    snap_grow(session, 200);
    beside one;
    beside_begin(&one, session, path, NULL, &fake_disk);
    assert_int_equal(kvf_save_begin(session, snap_path("two"), NULL, &second, &error),
                     KVF_INVALID_ARGUMENT);
    assert_non_null(strstr(error.message, "not ended"));
    assert_null(second);
    assert_int_equal(kvf_session_save(session, path, NULL, NULL, NULL), KVF_INVALID_ARGUMENT);
    beside_finish(&one, UINT64_MAX);
    assert_int_equal(beside_end(&one, session), KVF_OK);
    assert_true(fake_disk_save(session, path).appended);
    /* One that is never written is no save. */
    assert_int_equal(kvf_save_begin(session, snap_path("two"), NULL, &second, &error), KVF_OK);
    kvf_save_end(second, session);
    assert_int_not_equal(access(snap_path("two"), F_OK), 0);
    assert_true(fake_disk_save(session, path).appended);
    const int32_t token = 1;
    assert_int_equal(kvf_session_begin(session, &token, 1, NULL), KVF_OK);
    assert_int_equal(kvf_save_begin(session, path, NULL, &second, &error), KVF_INVALID_ARGUMENT);
    kvf_session_close(session);
}

/* ---- Failures ------------------------------------------------------------------------------- */

/* A file of 250 tokens, and a session of a few more that knows it. */
static kvf_session *saved_session(const char *path, uint64_t digests[2])
{
    const kvf_save_options whole = {.whole = true};
    kvf_session *session = snap_open(snap_device, KVF_PROFILE_FOLD, false);
    snap_grow(session, 250);
    fake_disk_reset();
    assert_int_equal(kvf_session_save_to(session, path, &whole, NULL, &fake_disk, NULL), KVF_OK);
    digests[0] = snap_digest(session, true);
    assert_int_equal(snap_step(session, 5, NULL, NULL), KVF_OK);
    digests[1] = snap_digest(session, true);
    return session;
}

static void any_call_may_fail_while_the_session_goes_on(void **state)
{
    (void)state;
    const char *path = snap_path("fails");
    const uint64_t live = live_bytes();
    if (is_slow())
        skip();
    for (int whole = 0; whole < 2; whole++) {
        unsigned n_failed = 0;
        bool reached = true;
        for (uint64_t fail_at = 1; reached; fail_at++) {
            const kvf_save_options options = {.whole = whole};
            uint64_t digests[2];
            beside one;
            kvf_session *session = saved_session(path, digests);
            fake_disk_reset();
            fake.fail_at = fail_at;
            fake.fail_from = fail_at % 2;
            beside_begin(&one, session, path, &options, &fake_disk);
            while (beside_piece(&one, 30000))
                assert_int_equal(snap_step(session, 3, NULL, NULL), KVF_OK);
            const kvf_status status = beside_end(&one, session);
            reached = fake.calls >= fail_at;
            fake_disk_reset();
            const int kept = snap_find_state(path, digests, 2);
            assert_true(kept == 1 || status != KVF_OK);
            assert_true(status == KVF_OK || one.error.message[0]);
            n_failed += status != KVF_OK;
            assert_int_equal(snap_step(session, 1, NULL, NULL), KVF_OK);
            fake_disk_save(session, path);
            snap_expect_same(path, session);
            kvf_session_close(session);
            assert_int_equal(live_bytes(), live);
        }
        assert_true(n_failed >= 15);
    }
}

static void a_power_cut_keeps_the_old_state_or_the_new_one(void **state)
{
    (void)state;
    const char *path = snap_path("power");
    const char *survivor = snap_path("survivor");
    if (is_slow())
        skip();
    for (int whole = 0; whole < 2; whole++) {
        const kvf_save_options options = {.whole = whole};
        uint64_t digests[2];
        size_t before_bytes;
        struct stat info;
        unsigned seen = 0;
        beside one;
        kvf_session *session = saved_session(path, digests);
        uint8_t *before = snap_read_file(path, &before_bytes);
        assert_int_equal(stat(path, &info), 0);
        fake_disk_reset();
        fake.recording = true;
        beside_begin(&one, session, path, &options, &fake_disk);
        while (beside_piece(&one, 30000))
            assert_int_equal(snap_step(session, 3, NULL, NULL), KVF_OK);
        assert_int_equal(beside_end(&one, session), KVF_OK);
        fake.recording = false;
        for (size_t end = 0; end <= fake.n_ops; end++)
            for (uint64_t seed = 0; seed < 16; seed++) {
                assert_true(fake_disk_cut_power(end, before, before_bytes, info.st_ino,
                                                seed * 1000 + end, survivor));
                const int kept = snap_find_state(survivor, digests, 2);
                assert_true(end > 0 || kept == 0);
                assert_true(end < fake.n_ops || kept == 1);
                seen |= 1u << kept;
            }
        assert_int_equal(seen, 3);
        free(before);
        kvf_session_close(session);
    }
    fake_disk_reset();
}

static void a_save_that_is_stopped_lets_go_and_leaves_the_file(void **state)
{
    (void)state;
    const char *path = snap_path("stopped");
    const uint64_t live = live_bytes();
    for (unsigned after = 0; after < 5; after++) {
        uint64_t digests[2];
        beside one;
        kvf_session *session = saved_session(path, digests);
        const kvf_save_options whole = {.whole = true};
        beside_begin(&one, session, path, &whole, &fake_disk);
        for (unsigned i = 0; i < after; i++)
            assert_true(beside_piece(&one, 1));
        kvf_save_read(one.save, 4096); /* and is not handed over */
        kvf_session_close(session);
        kvf_save_stop(one.save);
        assert_int_equal(live_bytes(), live); /* while the writer may still be at it */
        assert_int_equal(kvf_save_read(one.save, 4096), 0);
        assert_int_equal(beside_end(&one, NULL), KVF_FILE_IO);
        assert_non_null(strstr(one.error.message, "given up"));
        assert_int_equal(snap_find_state(path, digests, 1), 0);
        assert_int_not_equal(access(snap_path("stopped.saving"), F_OK), 0);
    }
}

static void damage_in_the_file_it_lies_in_fails_the_save(void **state)
{
    (void)state;
    if (!snap_device->backend->addresses_host_memory)
        skip(); /* a load has found it there */
    const char *from = snap_path("damaged");
    size_t bytes;
    beside one;
    kvf_session *session = snap_open(snap_device, KVF_PROFILE_FOLD, false);
    snap_grow(session, 900);
    fake_disk_save(session, from);
    kvf_session_close(session);
    uint8_t *data = snap_read_file(from, &bytes);
    const kvf_snapshot_header header = *(const kvf_snapshot_header *)data;
    const kvf_part *parts = snap_parts(data, &header);
    for (uint32_t i = 0; i < header.n_parts; i++)
        if (parts[i].kind == KVF_STREAM_INDEX_ROWS && parts[i].first_page == 0)
            data[parts[i].offset + 77] ^= 1;
    snap_write_file(from, data, bytes);
    free(data);
    session = snap_load(snap_device, from, NULL);
    beside_begin(&one, session, snap_path("copy"), NULL, &fake_disk);
    beside_finish(&one, 10000);
    assert_int_equal(beside_end(&one, session), KVF_FILE_FORMAT);
    assert_non_null(strstr(one.error.message, "index rows of layer 1"));
    assert_int_not_equal(access(snap_path("copy"), F_OK), 0);
    kvf_session_close(session);
}

/* ---- Loads ---------------------------------------------------------------------------------- */

static void a_load_in_pieces_is_that_in_one_call(void **state)
{
    (void)state;
    const char *path = snap_path("load");
    for (int profile = 0; profile < KVF_PROFILE_COUNT; profile++) {
        kvf_session *session = snap_open(snap_device, KVF_PROFILE_FOLD, false);
        snap_grow(session, 800);
        fake_disk_save(session, path);
        const uint64_t digest = snap_digest(session, false);
        kvf_session_close(session);
        for (unsigned i = 0; i < n_pieces_tried(); i++) {
            const kvf_session_options wanted = {
                .profile = (kvf_profile_id)profile, .max_tokens = 4096, .chunk_tokens = SNAP_CHUNK};
            const kvf_load_options options = {.session = &wanted, .verify = true};
            kvf_load *load;
            kvf_session *restored = NULL;
            kvf_session *other;
            kvf_error error;
            unsigned n_steps = 0;
            assert_int_equal(kvf_load_open(path, &options, &load, &error), KVF_OK);
            for (; !restored; n_steps++)
                if (kvf_load_step(load, snap_device, piece_bytes[i], &restored, &error) != KVF_OK)
                    fail_msg("%s", error.message);
            assert_true(piece_bytes[i] == UINT64_MAX ? n_steps == 1 : n_steps > 3);
            assert_int_equal(kvf_load_step(load, snap_device, 1, &other, &error),
                             KVF_INVALID_ARGUMENT);
            kvf_load_close(load);
            assert_int_equal(snap_digest(restored, false), digest);
            kvf_session_close(restored);
        }
    }
    assert_int_equal(live_bytes(), 0);
}

static void a_load_can_be_given_up_anywhere(void **state)
{
    (void)state;
    const char *path = snap_path("given-up");
    kvf_session *session = snap_open(snap_device, KVF_PROFILE_FOLD, false);
    snap_grow(session, 500);
    fake_disk_save(session, path);
    kvf_session_close(session);
    bool is_over = false;
    for (unsigned after = 0; !is_over; after++) {
        kvf_load *load;
        kvf_session *restored = NULL;
        assert_int_equal(kvf_load_open(path, NULL, &load, NULL), KVF_OK);
        for (unsigned i = 0; i < after && !restored; i++)
            assert_int_equal(kvf_load_step(load, snap_device, 1, &restored, NULL), KVF_OK);
        is_over = restored != NULL;
        kvf_load_close(load);
        kvf_session_close(restored);
        assert_int_equal(live_bytes(), 0);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_file_is_that_of_one_call),
        cmocka_unit_test(what_becomes_of_the_session_does_not_reach_the_file),
        cmocka_unit_test(a_session_restored_from_a_file_goes_on_while_it_is_saved),
        cmocka_unit_test(one_save_of_a_session_is_open_at_a_time),
        cmocka_unit_test(any_call_may_fail_while_the_session_goes_on),
        cmocka_unit_test(a_power_cut_keeps_the_old_state_or_the_new_one),
        cmocka_unit_test(a_save_that_is_stopped_lets_go_and_leaves_the_file),
        cmocka_unit_test(damage_in_the_file_it_lies_in_fails_the_save),
        cmocka_unit_test(a_load_in_pieces_is_that_in_one_call),
        cmocka_unit_test(a_load_can_be_given_up_anywhere),
    };
    return cmocka_run_group_tests(tests, snap_setup, snap_teardown);
}
