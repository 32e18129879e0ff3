/*
 * Adding to a file while the system fails: where a new one would be due and there is no
 * room for it, after a save that failed, in a power cut over two saves; and what sessions
 * that lie in a file do while it changes, or memory runs out.
 */
#include "expected_save.h"
#include "failing_malloc.h"
#include "fake_disk.h"
#include "snapshot_support.h"

#include <sys/stat.h>
#include <unistd.h>

static kvf_session *fork_of(kvf_session *session)
{
    kvf_session *fork;
    assert_int_equal(kvf_session_fork(session, &fork, NULL), KVF_OK);
    return fork;
}

static void step(kvf_session *session, uint32_t n)
{
    assert_int_equal(snap_step(session, n, NULL, NULL), KVF_OK);
}

/*
 * A file, and a session that it was saved from. Each test of a failure writes the file
 * again and takes a fork, which knows the file as the session does.
 */
typedef struct start {
    const char *path;
    kvf_session *session;
    uint64_t digest;
    uint8_t *data;
    size_t bytes;
    ino_t inode;
    expected_file file;
} start;

static start first;

static void begin_at(const char *path, uint64_t n_tokens)
{
    const kvf_save_options whole = {.whole = true};
    first.path = path;
    first.session = snap_open(snap_device, KVF_PROFILE_FOLD, false);
    snap_grow(first.session, n_tokens);
    assert_int_equal(kvf_session_save(first.session, path, &whole, NULL, NULL), KVF_OK);
    expected_session = first.session;
    expected_new(&first.file, &snap_geometry, KVF_PROFILE_FOLD, n_tokens);
    expected_session = NULL; /* the one it has by now stays */
}

/* From here on the file is what it is now. */
static void remember_start(void)
{
    first.digest = snap_digest(first.session, true);
    first.data = snap_read_file(first.path, &first.bytes);
}

static kvf_session *start_again(void)
{
    struct stat info;
    remove(first.path); /* emptying it would wait for the disk */
    snap_write_file(first.path, first.data, first.bytes);
    assert_int_equal(stat(first.path, &info), 0);
    first.inode = info.st_ino;
    fake_disk_reset();
    return fork_of(first.session);
}

static void end_start(void)
{
    kvf_session_close(first.session);
    free(first.data);
    memset(&first, 0, sizeof first);
    fake_disk_reset();
}

static bool is_saving(const char *path)
{
    char name[500];
    snprintf(name, sizeof name, "%s.saving", path);
    return access(name, F_OK) == 0;
}

/* ---- No room for a second file ---------------------------------------------------------- */

/* A file of which so much is unused that one more token would be saved to a new one. */
static void begin_before_a_new_file(const char *path)
{
    static expected_file next;
    begin_at(path, 1000);
    for (;;) {
        const uint64_t held = kvf_session_n_tokens(first.session);
        next = first.file;
        expected_later(&next, held, held + 1, false);
        if (!next.report.appended)
            break;
        step(first.session, 1);
        const kvf_save_report report = fake_disk_save(first.session, path);
        expected_check(&next, &report);
        first.file = next;
    }
    remember_start();
}

/* How much the file grows by one more token that is added in spite of that. */
static uint64_t growth_of(expected_file *file)
{
    const uint64_t before = file->report.file_bytes;
    expected_later(file, file->n_tokens, file->n_tokens + 1, true);
    return file->report.file_bytes - before;
}

static void an_old_file_is_added_to_where_a_new_one_has_no_room(void **state)
{
    (void)state;
    static expected_file file;
    const char *path = snap_path("room");
    kvf_save_report report;
    kvf_error error;
    begin_before_a_new_file(path);
    file = first.file;
    kvf_session *session = start_again();
    for (int i = 0; i < 4; i++) {
        fake_disk_reset();
        fake.room_bytes = growth_of(&file); /* exactly */
        fake.tells_room = fake.recording = i % 2;
        assert_true(fake.room_bytes * 2 < file.report.file_bytes - file.report.unused_bytes);
        step(session, 1);
        if (kvf_session_save_to(session, path, NULL, &report, &fake_disk, &error) != KVF_OK)
            fail_msg("%s", error.message);
        expected_check(&file, &report);
        assert_true(report.appended);
        assert_true(report.unused_bytes * 2 > report.file_bytes);
        assert_int_equal(snap_file_bytes(path), report.file_bytes);
        assert_false(is_saving(path));
        /* A disk that tells how little room it has is not filled to find out. */
        for (size_t j = 0; j < fake.n_ops; j++)
            assert_int_not_equal(fake.ops[j].kind, OP_CREATE);
        assert_true(i % 2 == 0 || fake.n_ops > 0);
        snap_expect_same(path, session);
    }
    /* A disk with room again: small again. */
    step(session, 1);
    report = fake_disk_save(session, path);
    expected_new(&file, &snap_geometry, KVF_PROFILE_FOLD, kvf_session_n_tokens(session));
    expected_check(&file, &report);
    snap_expect_same(path, session);
    kvf_session_close(session);
    end_start();
}

static void without_room_for_either_the_old_state_stays(void **state)
{
    (void)state;
    static expected_file file;
    const char *path = snap_path("full");
    kvf_error error;
    begin_before_a_new_file(path);
    file = first.file;
    const uint64_t growth = growth_of(&file);
    const uint64_t rooms[] = {1, 4096, 30000, growth / 2, growth - 4096, growth - 1};
    for (size_t i = 0; i < sizeof rooms / sizeof *rooms; i++) {
        kvf_session *session = start_again();
        step(session, 1);
        const uint64_t digest = snap_digest(session, true);
        fake.room_bytes = rooms[i];
        assert_int_equal(kvf_session_save_to(session, path, NULL, NULL, &fake_disk, &error),
                         KVF_FILE_IO);
        assert_non_null(strstr(error.message, "full.saving: cannot write"));
        assert_int_equal(snap_find_state(path, &first.digest, 1), 0);
        /* Nothing is left that takes what little room there is. */
        assert_int_equal(snap_file_bytes(path), first.bytes);
        assert_false(is_saving(path));
        assert_int_equal(snap_digest(session, true), digest);
        step(session, 1);
        assert_false(fake_disk_save(session, path).appended);
        snap_expect_same(path, session);
        kvf_session_close(session);
    }
    end_start();
}

/* Any call fails too, of the new file or of the adding. */
static void fail_without_room(bool fail_from, uint64_t room_bytes)
{
    kvf_error error;
    unsigned n_added = 0;
    unsigned n_failed = 0;
    bool reached = true;
    for (uint64_t fail_at = 1; reached; fail_at++) {
        kvf_save_report report = {.appended = false};
        kvf_session *session = start_again();
        step(session, 1);
        const uint64_t digests[] = {first.digest, snap_digest(session, true)};
        fake.room_bytes = room_bytes;
        fake.fail_at = fail_at;
        fake.fail_from = fail_from;
        const kvf_status status =
            kvf_session_save_to(session, first.path, NULL, &report, &fake_disk, &error);
        reached = fake.calls >= fail_at;
        const int kept = snap_find_state(first.path, digests, 2);
        assert_true(status != KVF_OK || (kept == 1 && report.appended));
        assert_true(status == KVF_OK || error.message[0]);
        assert_int_equal(snap_digest(session, true), digests[1]);
        n_added += status == KVF_OK;
        n_failed += status != KVF_OK;
        step(session, 1);
        fake_disk_save(session, first.path);
        snap_expect_same(first.path, session);
        kvf_session_close(session);
    }
    /* What fails for another reason than room is not tried again another way. */
    assert_true(n_failed >= 15 && n_added >= 2);
}

static void any_call_may_fail_besides(void **state)
{
    (void)state;
    static expected_file file;
    begin_before_a_new_file(snap_path("besides"));
    file = first.file;
    const uint64_t growth = growth_of(&file);
    for (int fail_from = 0; fail_from < 2; fail_from++)
        fail_without_room(fail_from, growth);
    end_start();
}

/* ---- After a save that failed ------------------------------------------------------------ */

static void a_failed_addition_is_followed_by_another(void **state)
{
    (void)state;
    static expected_file file;
    const char *path = snap_path("again");
    unsigned n_added = 0;
    begin_at(path, 1400);
    remember_start();
    for (int fail_from = 0; fail_from < 2; fail_from++) {
        bool reached = true;
        for (uint64_t fail_at = 1; reached; fail_at++) {
            kvf_session *session = start_again();
            step(session, 5);
            fake.fail_at = fail_at;
            fake.fail_from = fail_from;
            const kvf_status status =
                kvf_session_save_to(session, path, NULL, NULL, &fake_disk, NULL);
            reached = fake.calls >= fail_at;
            const bool known = session->saved.known;
            /* The next one knows nothing of it. */
            step(session, 3);
            const kvf_save_report report = fake_disk_save(session, path);
            assert_int_equal(report.appended, known);
            if (status != KVF_OK && known) {
                file = first.file;
                expected_later(&file, 1400, 1408, false);
                expected_check(&file, &report);
                n_added++;
            }
            assert_int_equal(snap_file_bytes(path), report.file_bytes);
            snap_expect_same(path, session);
            kvf_session_close(session);
            /* Nor does a session that begins with the file. */
            session = snap_load(snap_device, path, NULL);
            step(session, 1);
            fake_disk_save(session, path);
            snap_expect_same(path, session);
            kvf_session_close(session);
        }
    }
    assert_true(n_added >= 30);
    end_start();
}

/* A process that died in a save left more behind the end than the next save adds. */
static void what_an_interrupted_addition_left_is_cut_off(void **state)
{
    (void)state;
    static expected_file file;
    const char *path = snap_path("rest");
    unsigned n_longer = 0;
    begin_at(path, 1400);
    remember_start();
    bool reached = true;
    for (uint64_t fail_at = 1; reached; fail_at++) {
        kvf_session *session = start_again();
        step(session, 90);
        const uint64_t digests[] = {first.digest, snap_digest(session, true)};
        fake.fail_at = fail_at;
        fake.fail_from = true;
        kvf_session_save_to(session, path, NULL, NULL, &fake_disk, NULL);
        reached = fake.calls >= fail_at;
        kvf_session_close(session);
        const bool old = snap_find_state(path, digests, 2) == 0;
        const uint64_t left_bytes = snap_file_bytes(path);
        session = fork_of(first.session);
        step(session, 1);
        const kvf_save_report report = fake_disk_save(session, path);
        file = first.file;
        expected_later(&file, 1400, 1401, false);
        if (!old) /* the file is another's */
            expected_new(&file, &snap_geometry, KVF_PROFILE_FOLD, 1401);
        expected_check(&file, &report);
        assert_int_equal(snap_file_bytes(path), report.file_bytes);
        n_longer += old && left_bytes > report.file_bytes;
        snap_expect_same(path, session);
        kvf_session_close(session);
    }
    assert_true(n_longer > 0);
    end_start();
}

/* ---- Power cuts ------------------------------------------------------------------------------ */

/* Two saves in a row that the disk records; where the first ended, and three states. */
typedef struct two_saves {
    size_t first_ops;
    uint64_t first_calls;
    kvf_status first_status;
    uint64_t digests[3];
    bool known; /* whether the second one added */
} two_saves;

/* The first one fails at that call; 0: it does not. */
static two_saves record_two_saves(uint64_t fail_at)
{
    two_saves saves = {.digests = {first.digest}};
    kvf_save_report report;
    kvf_session *session = start_again();
    fake.recording = true;
    fake.fail_at = fail_at;
    step(session, 5);
    saves.digests[1] = snap_digest(session, true);
    saves.first_status = kvf_session_save_to(session, first.path, NULL, NULL, &fake_disk, NULL);
    saves.first_ops = fake.n_ops;
    saves.first_calls = fake.calls;
    saves.known = session->saved.known;
    fake.fail_at = 0;
    step(session, 3);
    saves.digests[2] = snap_digest(session, true);
    assert_int_equal(kvf_session_save_to(session, first.path, NULL, &report, &fake_disk, NULL),
                     KVF_OK);
    assert_int_equal(report.appended, saves.known);
    fake.recording = false;
    kvf_session_close(session);
    return saves;
}

/* The state that is there after a power cut before op `end`. */
static int state_after_cut(const two_saves *saves, size_t end, uint64_t seed)
{
    const char *survivor = snap_path("survivor");
    assert_true(fake_disk_cut_power(end, first.data, first.bytes, first.inode, seed * 1000 + end,
                                    survivor));
    return snap_find_state(survivor, saves->digests, 3);
}

static void cut_power_over(const two_saves *saves)
{
    unsigned seen[2] = {0, 0};
    assert_int_equal(saves->first_status, KVF_OK);
    assert_true(saves->known);
    for (size_t end = 0; end <= fake.n_ops; end++)
        for (uint64_t seed = 0; seed < 6; seed++) {
            const int kept = state_after_cut(saves, end, seed);
            const bool second = end >= saves->first_ops;
            /* What the first save had put on the disk is not lost by the second. */
            assert_true(second ? kept >= 1 : kept <= 1);
            if (end == 0 || end == fake.n_ops)
                assert_int_equal(kept, end == 0 ? 0 : 2);
            seen[second] |= 1u << kept;
        }
    assert_int_equal(seen[0], 3);
    assert_int_equal(seen[1], 6);
}

static void a_power_cut_over_two_additions_keeps_one_of_the_states(void **state)
{
    (void)state;
    begin_at(snap_path("power"), 1400);
    remember_start();
    const two_saves saves = record_two_saves(0);
    cut_power_over(&saves);
    /* The first one's last call is its second header, which it can do without. */
    const two_saves one_header = record_two_saves(saves.first_calls);
    cut_power_over(&one_header);
    end_start();
}

static void a_power_cut_after_a_failed_addition_keeps_one_of_the_states(void **state)
{
    (void)state;
    unsigned n_known = 0;
    unsigned seen = 0;
    begin_at(snap_path("power"), 1400);
    remember_start();
    const two_saves good = record_two_saves(0);
    assert_true(good.known && good.first_calls > 20);
    for (uint64_t fail_at = 5; fail_at < good.first_calls; fail_at += 2) {
        const two_saves saves = record_two_saves(fail_at);
        n_known += saves.known;
        for (size_t end = 0; end <= fake.n_ops; end++) {
            const int kept = state_after_cut(&saves, end, fail_at);
            if (end == fake.n_ops)
                assert_int_equal(kept, 2);
            seen |= 1u << kept;
        }
    }
    assert_true(n_known >= 8);
    assert_int_equal(seen & 5, 5);
    end_start();
}

/* ---- Sessions that lie in a file ----------------------------------------------------------- */

static int n_maps;

static void *counted_map(const kvf_io *io, int file, size_t bytes)
{
    void *view = kvf_io_system.map(io, file, bytes);
    n_maps += view != NULL;
    return view;
}

static void counted_unmap(const kvf_io *io, void *view, size_t bytes)
{
    kvf_io_system.unmap(io, view, bytes);
    n_maps--;
}

static void grow_text(kvf_session *session, uint64_t n_tokens, uint64_t text)
{
    snap_text = text;
    snap_grow(session, n_tokens);
    snap_text = 0;
}

/* Two sessions in one mapped file: both go on, the file changes and is replaced, one closes. */
static void part_ways(const kvf_io *io, bool close_fork, bool add)
{
    const kvf_save_options whole = {.whole = true};
    kvf_session *restored;
    kvf_session *twins[2] = {fork_of(first.session), fork_of(first.session)};
    kvf_session *fork = start_again();
    kvf_session_close(fork);
    assert_int_equal(kvf_session_load_from(snap_device, first.path, NULL, &restored, io, NULL),
                     KVF_OK);
    assert_true(kvf_session_mapped_bytes(restored) > 0);
    fork = fork_of(restored);
    assert_int_equal(kvf_session_mapped_bytes(fork), kvf_session_mapped_bytes(restored));
    kvf_session *sessions[2] = {restored, fork};
    for (int i = 0; i < 2; i++) {
        grow_text(sessions[i], 610, (uint64_t)i + 1);
        grow_text(twins[i], 610, (uint64_t)i + 1);
    }
    if (add)
        assert_true(fake_disk_save(restored, first.path).appended);
    kvf_session *other = snap_open(snap_device, KVF_PROFILE_FOLD, false);
    grow_text(other, 300, 9);
    assert_int_equal(kvf_session_save_to(other, first.path, &whole, NULL, &fake_disk, NULL),
                     KVF_OK);
    kvf_session_close(other);
    kvf_session_close(sessions[close_fork]);
    assert_int_equal(n_maps, 1);
    kvf_session *left = sessions[!close_fork];
    kvf_session *twin = twins[!close_fork];
    assert_int_equal(snap_digest(left, true), snap_digest(twin, true));
    grow_text(left, 800, 3);
    grow_text(twin, 800, 3);
    assert_int_equal(snap_digest(left, true), snap_digest(twin, true));
    assert_false(fake_disk_save(left, first.path).appended); /* the file is another's */
    snap_expect_same(first.path, twin);
    kvf_session_close(left);
    assert_int_equal(n_maps, 0);
    for (int i = 0; i < 2; i++)
        kvf_session_close(twins[i]);
}

static void forks_of_a_restored_session_part_ways(void **state)
{
    (void)state;
    kvf_io io = kvf_io_system;
    io.map = counted_map;
    io.unmap = counted_unmap;
    begin_at(snap_path("ways"), 600);
    remember_start();
    for (int i = 0; i < 4; i++)
        part_ways(&io, i % 2, i / 2);
    end_start();
    assert_int_equal(snap_device->live_bytes[KVF_MEMORY_CACHE], 0);
}

#ifdef KVF_TEST_WRAPPED_MALLOC

/* Tokens to a session just restored, or to a fork of one, failing at every allocation. */
static void fail_step(uint32_t n_tokens, bool of_fork)
{
    uint64_t expected;
    uint64_t output;
    kvf_session *twin = fork_of(first.session);
    assert_int_equal(snap_step(twin, n_tokens, &expected, NULL), KVF_OK);
    const uint64_t new_digest = snap_digest(twin, true);
    kvf_session_close(twin);
    const malloc_counts before = failing_malloc_count(snap_device);
    bool failed = true;
    uint64_t n = 0;
    for (; failed; n++) {
        kvf_session *restored = snap_load(snap_device, first.path, NULL);
        kvf_session *fork = of_fork ? fork_of(restored) : NULL;
        kvf_session *session = of_fork ? fork : restored;
        kvf_error error;
        failing_malloc_begin(n);
        const kvf_status status = snap_step(session, n_tokens, &output, &error);
        failed = failing_malloc_end();
        assert_int_equal(status, failed ? KVF_OUT_OF_MEMORY : KVF_OK);
        if (failed) {
            assert_true(error.message[0] != '\0');
            if (n % 2) /* else the next chunk drops it */
                kvf_session_drop(session);
            assert_int_equal(kvf_session_n_tokens(session), kvf_session_n_tokens(first.session));
            if (n % 4 > 1) /* else nothing of it is checked before it is used */
                assert_int_equal(snap_digest(session, true), first.digest);
            assert_int_equal(snap_step(session, n_tokens, &output, NULL), KVF_OK);
        }
        assert_int_equal(output, expected);
        assert_int_equal(snap_digest(session, true), new_digest);
        if (of_fork)
            assert_int_equal(snap_digest(restored, true), first.digest);
        kvf_session_close(restored);
        kvf_session_close(fork);
        failing_malloc_expect(snap_device, &before);
    }
    assert_true(n > 15);
}

static void a_restored_session_goes_on_after_every_allocation_that_fails(void **state)
{
    (void)state;
    begin_at(snap_path("memory"), 255);
    remember_start();
    fail_step(1, false); /* the last row of a page */
    fail_step(3, true);  /* the first of the next, too */
    fail_step(90, true);
    end_start();
}

#endif

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_old_file_is_added_to_where_a_new_one_has_no_room),
        cmocka_unit_test(without_room_for_either_the_old_state_stays),
        cmocka_unit_test(any_call_may_fail_besides),
        cmocka_unit_test(a_failed_addition_is_followed_by_another),
        cmocka_unit_test(what_an_interrupted_addition_left_is_cut_off),
        cmocka_unit_test(a_power_cut_over_two_additions_keeps_one_of_the_states),
        cmocka_unit_test(a_power_cut_after_a_failed_addition_keeps_one_of_the_states),
        cmocka_unit_test(forks_of_a_restored_session_part_ways),
#ifdef KVF_TEST_WRAPPED_MALLOC
        cmocka_unit_test(a_restored_session_goes_on_after_every_allocation_that_fails),
#endif
    };
    return cmocka_run_group_tests(tests, snap_setup, snap_teardown);
}
