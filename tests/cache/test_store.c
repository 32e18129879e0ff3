/*
 * A store of prefixes: what it finds, what it removes, what is damaged, and several
 * processes in one folder.
 */
#include "fake_disk.h"
#include "store_support.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

/* As if the file had been used that many seconds after 2020. */
static void set_used(const char *name, time_t seconds)
{
    const struct timespec times[2] = {{1577836800 + seconds, 0}, {1577836800 + seconds, 0}};
    assert_int_equal(utimensat(AT_FDCWD, store_path(name), times, 0), 0);
}

/* ---- Finding ---------------------------------------------------------------------------- */

static void test_the_longest_prefix_is_found_and_goes_on_as_if_never_saved(void **state)
{
    (void)state;
    kvf_store *store = store_open(STORE_LARGE);
    kvf_store_found found;
    assert_null(store_find(store, 0, 300, &found));
    assert_int_equal(found.shared_tokens, 0);
    store_put(store, KVF_PROFILE_FOLD, 0, 50, NULL);
    store_put(store, KVF_PROFILE_FOLD, 0, 192, NULL);
    store_put(store, KVF_PROFILE_FOLD, 0, 288, NULL);
    store_put(store, KVF_PROFILE_FOLD, 5, 100, NULL);
    kvf_session *session = store_find(store, 0, 250, &found);
    assert_int_equal(found.n_tokens, 192);
    assert_int_equal(found.shared_tokens, 250); /* with the one of 288, which is too long */
    assert_int_equal(found.n_skipped, 0);
    kvf_session *plain = store_session(KVF_PROFILE_FOLD, 0, 192);
    assert_int_equal(snap_grow(session, 384), snap_grow(plain, 384));
    assert_int_equal(snap_digest(session, true), snap_digest(plain, true));
    kvf_session_close(plain);
    kvf_session_close(session);
    assert_int_equal(store_found_tokens(store, 0, 192), 192); /* all of the text */
    assert_int_equal(store_found_tokens(store, 0, 191), 50);
    assert_int_equal(store_found_tokens(store, 0, 49), 0);
    assert_int_equal(store_found_tokens(store, 7, 300), 0); /* another text */
    kvf_store_close(store);
}

static void test_only_sessions_of_the_model_are_found(void **state)
{
    (void)state;
    kvf_store *store = store_open(STORE_LARGE);
    kvf_store_found found;
    kvf_session *session = store_session(KVF_PROFILE_FOLD, 0, 60);
    kvf_session_set_model_fingerprint(session, STORE_MODEL + 1);
    assert_int_equal(kvf_store_put(store, session, NULL, NULL), KVF_OK);
    assert_null(store_find(store, 0, 100, &found));
    assert_int_equal(found.shared_tokens, 0);
    store_put(store, KVF_PROFILE_FOLD, 0, 60, NULL);
    assert_int_equal(store_found_tokens(store, 0, 100), 60);
    kvf_session_set_model_fingerprint(session, 0);
    assert_int_equal(kvf_store_put(store, session, NULL, NULL), KVF_INVALID_ARGUMENT);
    kvf_session_close(session);
    kvf_store_close(store);
}

static void test_another_profile_is_repacked_and_the_wanted_one_preferred(void **state)
{
    (void)state;
    kvf_store *store = store_open(STORE_LARGE);
    kvf_store_found found;
    store_put(store, KVF_PROFILE_LEGACY, 0, 100, NULL);
    kvf_session *repacked = store_find(store, 0, 120, &found);
    assert_int_equal(found.n_tokens, 100);
    assert_int_equal(kvf_session_mapped_bytes(repacked), 0);
    store_put(store, KVF_PROFILE_FOLD, 0, 100, NULL);
    store_put(store, KVF_PROFILE_PACKED, 0, 100, NULL);
    kvf_session *mapped = store_find(store, 0, 120, &found);
    assert_int_equal(kvf_session_mapped_bytes(mapped) > 0,
                     snap_device->backend->addresses_host_memory);
    assert_int_equal(snap_digest(repacked, false), snap_digest(mapped, false));
    kvf_session_close(repacked);
    kvf_session_close(mapped);
    kvf_store_close(store);
}

/* ---- The budget ------------------------------------------------------------------------- */

static void test_what_was_used_least_recently_leaves(void **state)
{
    (void)state;
    char names[3][KVF_STORE_NAME_BYTES];
    char last[KVF_STORE_NAME_BYTES];
    kvf_store *store = store_open(STORE_LARGE);
    uint64_t bytes;
    for (uint64_t i = 0; i < 3; i++) {
        store_put(store, KVF_PROFILE_FOLD, i, 100, names[i]);
        set_used(names[i], (time_t)i);
    }
    kvf_store_close(store);
    assert_int_equal(store_count_files(&bytes), 3);
    store = store_open(bytes); /* room for three */
    assert_int_equal(store_found_tokens(store, 0, 100), 100);
    const kvf_store_put_report report = store_put(store, KVF_PROFILE_FOLD, 3, 100, last);
    assert_true(report.stored && !report.was_there);
    assert_int_equal(report.n_removed, 1);
    assert_int_equal(report.removed_bytes, bytes / 3);
    assert_int_equal(report.file_bytes, bytes / 3);
    assert_int_equal(report.held_bytes, bytes);
    assert_true(store_has(names[0]) && !store_has(names[1]) && store_has(names[2]));
    /* Putting what is there counts as a use and removes nothing. */
    set_used(names[0], 10);
    const kvf_store_put_report again = store_put(store, KVF_PROFILE_FOLD, 2, 100, NULL);
    assert_true(again.stored && again.was_there && again.n_removed == 0);
    store_put(store, KVF_PROFILE_FOLD, 4, 100, NULL);
    assert_true(!store_has(names[0]) && store_has(names[2]) && store_has(last));
    kvf_store_close(store);
}

/* A prompt of so many tokens, as the command puts it; how many of them were found. */
static uint64_t ask(kvf_store *store, uint64_t text, uint64_t n_tokens)
{
    kvf_store_found found;
    kvf_session_close(store_find(store, text, n_tokens, &found));
    if (found.shared_tokens > found.n_tokens && found.shared_tokens < n_tokens)
        store_put(store, KVF_PROFILE_FOLD, text, found.shared_tokens, NULL);
    if (found.n_tokens < n_tokens)
        store_put(store, KVF_PROFILE_FOLD, text, n_tokens, NULL);
    return found.n_tokens;
}

static uint64_t bytes_of_one(uint64_t n_tokens)
{
    kvf_store *store = store_open(STORE_LARGE);
    char name[KVF_STORE_NAME_BYTES];
    const uint64_t bytes = store_put(store, KVF_PROFILE_FOLD, 0, n_tokens, name).file_bytes;
    unlink(store_path(name));
    kvf_store_close(store);
    return bytes;
}

/* What the texts have in common is found from the third on, however little room there is. */
static void test_what_texts_share_stays_in_the_smallest_store(void **state)
{
    (void)state;
    const uint64_t bytes = bytes_of_one(200);
    store_shared_tokens = 100;
    for (uint64_t room = 1; room <= 3; room++) {
        for (uint64_t text = 1; text <= 5; text++) {
            kvf_store *store = store_open(room * bytes); /* each run opens it */
            assert_int_equal(ask(store, text, 200), text > 2 ? 100 : 0);
            kvf_store_close(store);
        }
        store_finish(NULL);
    }
    /* It leaves for what is used later. */
    kvf_store *store = store_open(bytes);
    for (uint64_t text = 1; text <= 3; text++)
        ask(store, text, 200);
    store_shared_tokens = 0;
    assert_int_equal(ask(store, 9, 200), 0);
    assert_int_equal(ask(store, 9, 200), 200);
    kvf_store_close(store);
}

static void test_a_text_that_goes_on_takes_its_own_place(void **state)
{
    (void)state;
    kvf_store *store = store_open(bytes_of_one(300));
    assert_int_equal(ask(store, 1, 100), 0);
    assert_int_equal(ask(store, 1, 200), 100);
    assert_int_equal(ask(store, 1, 300), 200);
    /* The same text again has shown that it is wanted as it is. */
    assert_int_equal(ask(store, 1, 300), 300);
    kvf_store_put_report report = store_put(store, KVF_PROFILE_FOLD, 1, 310, NULL);
    assert_true(!report.stored && report.kept_tokens == 300 && report.n_removed == 0);
    kvf_store_close(store);
}

/* Not even for what is behind it: a prompt is found by itself. */
static void test_a_run_does_not_remove_what_it_made(void **state)
{
    (void)state;
    kvf_store *store = store_open(bytes_of_one(200));
    kvf_store_found found;
    char name[KVF_STORE_NAME_BYTES];
    assert_null(store_find(store, 1, 100, &found));
    assert_true(store_put(store, KVF_PROFILE_FOLD, 1, 100, name).stored);
    const kvf_store_put_report report = store_put(store, KVF_PROFILE_FOLD, 1, 200, NULL);
    assert_true(!report.stored && report.kept_tokens == 100 && report.n_removed == 0);
    assert_true(report.held_bytes > 0 && store_has(name));
    /* The next one may. */
    assert_int_equal(ask(store, 2, 100), 0);
    assert_false(store_has(name));
    kvf_store_close(store);
}

/* A text parted from it after the longer one was stored; that one was used after that. */
static void test_a_shorter_one_that_was_used_again_outlives_the_longer_one(void **state)
{
    (void)state;
    for (int again = 0; again < 2; again++) {
        char names[2][KVF_STORE_NAME_BYTES];
        uint64_t bytes;
        kvf_store *store = store_open(STORE_LARGE);
        store_shared_tokens = 100;
        store_put(store, KVF_PROFILE_FOLD, 1, 100, names[0]);
        store_put(store, KVF_PROFILE_FOLD, 1, 200, names[1]);
        if (again)
            assert_int_equal(store_found_tokens(store, 2, 120), 100);
        assert_int_equal(store_found_tokens(store, 1, 210), 200);
        store_count_files(&bytes);
        kvf_store_close(store);
        store = store_open(bytes);
        store_put(store, KVF_PROFILE_FOLD, 7, 40, NULL);
        assert_int_equal(store_has(names[0]), again);
        assert_int_equal(store_has(names[1]), !again);
        kvf_store_close(store);
        store_finish(NULL);
    }
}

/* Times are an order that the store makes, whatever clock and file system say. */
static void test_uses_are_told_apart_whatever_the_clock_says(void **state)
{
    (void)state;
    static const time_t ahead[] = {0, 3600, 400ll * 86400};
    for (size_t i = 0; i < sizeof ahead / sizeof *ahead; i++) {
        char names[4][KVF_STORE_NAME_BYTES];
        char last[KVF_STORE_NAME_BYTES];
        uint64_t bytes;
        kvf_store *store = store_open(STORE_LARGE);
        for (uint64_t text = 0; text < 4; text++) {
            store_put(store, KVF_PROFILE_FOLD, text, 100, names[text]);
            if (ahead[i]) /* written while the clock was ahead; and all at once */
                set_used(names[text], time(NULL) - 1577836800 + ahead[i]);
        }
        for (uint64_t text = 4; text-- > 1;)
            assert_int_equal(store_found_tokens(store, text, 120), 100);
        store_count_files(&bytes);
        kvf_store_close(store);
        store = store_open(bytes);
        /* Never used again; then in the order of their uses; what is stored is the newest. */
        static const size_t order[] = {0, 3, 2, 1};
        for (size_t n = 0; n < 4; n++) {
            assert_true(store_has(names[order[n]]));
            store_put(store, KVF_PROFILE_FOLD, 10 + n, 100, last);
            assert_false(store_has(names[order[n]]));
            assert_true(store_has(last));
        }
        kvf_store_close(store);
        store_finish(NULL);
    }
}

/* Of a state that is not there any more, of another one of its name; not those of others. */
static void test_notes_go_with_their_state(void **state)
{
    (void)state;
    static const char lone[] = "0123456789abcdef.shared";
    char name[KVF_STORE_NAME_BYTES];
    char used[KVF_STORE_NAME_BYTES];
    kvf_store *store = store_open(STORE_LARGE);
    const uint64_t bytes = store_put(store, KVF_PROFILE_FOLD, 0, 100, name).file_bytes;
    snprintf(used, sizeof used, "%.16s" KVF_STORE_USED, name);
    assert_false(store_has(used));
    assert_int_equal(store_found_tokens(store, 0, 120), 100);
    assert_true(store_has(used));
    snap_write_file(store_path(lone), "", 0);
    snap_write_file(store_path("notes.used"), "", 0);
    kvf_store_close(store);
    store = store_open(bytes);
    store_put(store, KVF_PROFILE_FOLD, 1, 100, NULL);
    assert_false(store_has(name) || store_has(used) || store_has(lone));
    assert_true(store_has("notes.used"));
    kvf_store_close(store);
}

static void test_a_session_larger_than_the_budget_removes_nothing(void **state)
{
    (void)state;
    char name[KVF_STORE_NAME_BYTES];
    uint64_t bytes;
    kvf_store *store = store_open(STORE_LARGE);
    const uint64_t small_bytes = store_put(store, KVF_PROFILE_FOLD, 0, 40, name).file_bytes;
    kvf_store_close(store);
    store = store_open(small_bytes);
    const kvf_store_put_report report = store_put(store, KVF_PROFILE_LEGACY, 1, 300, NULL);
    assert_false(report.stored);
    assert_true(report.file_bytes > small_bytes);
    assert_int_equal(report.n_removed, 0);
    assert_int_equal(report.held_bytes, small_bytes);
    assert_int_equal(store_count_files(&bytes), 1);
    assert_true(store_has(name));
    kvf_store_close(store);
}

static void test_files_of_others_are_left_alone(void **state)
{
    (void)state;
    static const char *const others[] = {"notes.txt", "0123456789abcdef", "name.kvfold",
                                         "0123456789ABCDEF.kvfold", "0123456789abcdef.kvfold.old"};
    kvf_store *store = store_open(STORE_LARGE);
    const uint64_t bytes = store_put(store, KVF_PROFILE_FOLD, 0, 100, NULL).file_bytes;
    kvf_store_close(store);
    for (size_t i = 0; i < sizeof others / sizeof *others; i++) {
        snap_write_file(store_path(others[i]), "somebody's", 10);
        set_used(others[i], 0);
    }
    store = store_open(bytes);
    assert_int_equal(store_put(store, KVF_PROFILE_FOLD, 1, 100, NULL).held_bytes, bytes);
    assert_int_equal(store_found_tokens(store, 1, 100), 100);
    for (size_t i = 0; i < sizeof others / sizeof *others; i++)
        assert_int_equal(snap_file_bytes(store_path(others[i])), 10);
    kvf_store_close(store);
}

/* ---- Damage ------------------------------------------------------------------------------- */

static void test_a_damaged_file_is_skipped_and_removed(void **state)
{
    (void)state;
    char names[3][KVF_STORE_NAME_BYTES];
    kvf_store *store = store_open(STORE_LARGE);
    kvf_store_found found;
    kvf_session *session;
    for (uint64_t i = 0; i < 3; i++)
        store_put(store, KVF_PROFILE_FOLD, 0, 100 + 64 * i, names[i]);
    store_damage(names[2], snap_file_bytes(store_path(names[2])) / 2);
    session = store_find(store, 0, 300, &found);
    assert_int_equal(found.n_tokens, 164);
    assert_int_equal(found.n_skipped, 1);
    assert_int_equal(found.skipped.status, KVF_FILE_FORMAT);
    assert_non_null(strstr(found.skipped.message, names[2]));
    assert_false(store_has(names[2]));
    /* Removed while it is in use: what was found stays whole. */
    unlink(store_path(names[1]));
    assert_int_equal(kvf_session_check(session, NULL), KVF_OK);
    kvf_session_close(session);
    snap_write_file(store_path(names[1]), "kvfold", 6);
    session = store_find(store, 0, 300, &found);
    assert_int_equal(found.n_tokens, 100);
    assert_int_equal(found.n_skipped, 1);
    assert_false(store_has(names[1]));
    kvf_session_close(session);
    kvf_store_close(store);
}

/* A newer build may read it. */
static void test_a_file_that_is_not_supported_is_skipped_and_stays(void **state)
{
    (void)state;
    static const uint32_t unknown[][3] = {{3, 3, 0}, {2, 9, 0}, {2, 3, 4}};
    char newer[KVF_STORE_NAME_BYTES];
    char older[KVF_STORE_NAME_BYTES];
    kvf_store *store = store_open(STORE_LARGE);
    kvf_store_found found;
    store_put(store, KVF_PROFILE_FOLD, 0, 100, newer);
    store_put(store, KVF_PROFILE_FOLD, 0, 60, older);
    for (size_t i = 0; i < sizeof unknown / sizeof *unknown; i++) {
        snap_patch_headers(store_path(newer), unknown[i][0], unknown[i][1], unknown[i][2]);
        for (int search = 0; search < 2; search++) {
            kvf_session_close(store_find(store, 0, 200, &found));
            assert_int_equal(found.n_tokens, 60);
            assert_int_equal(found.n_skipped, 0); /* nothing is wrong with it */
        }
        store_put(store, KVF_PROFILE_FOLD, 1, 40, NULL);
        assert_true(store_has(newer) && store_has(older));
    }
    snap_patch_headers(store_path(newer), KVF_SNAPSHOT_VERSION, KVF_PROFILE_FOLD, 0);
    assert_int_equal(store_found_tokens(store, 0, 200), 100);
    kvf_store_close(store);
}

static void test_a_damaged_file_is_written_again(void **state)
{
    (void)state;
    char name[KVF_STORE_NAME_BYTES];
    kvf_store *store = store_open(STORE_LARGE);
    store_put(store, KVF_PROFILE_FOLD, 0, 100, name);
    snap_write_file(store_path(name), "nothing of this can be read", 27);
    assert_false(store_put(store, KVF_PROFILE_FOLD, 0, 100, NULL).was_there);
    assert_int_equal(store_found_tokens(store, 0, 100), 100);
    assert_true(store_put(store, KVF_PROFILE_FOLD, 0, 100, NULL).was_there);
    /* Headers and index are good, rows are not: who restored it only sees that later. */
    store_damage(name, 30000);
    assert_int_equal(kvf_snapshot_verify(store_path(name), NULL), KVF_FILE_FORMAT);
    assert_false(store_put(store, KVF_PROFILE_FOLD, 0, 100, NULL).was_there);
    assert_int_equal(kvf_snapshot_verify(store_path(name), NULL), KVF_OK);
    kvf_store_close(store);
}

/* ---- Several processes ---------------------------------------------------------------------- */

static void on_alarm(int signal_number)
{
    (void)signal_number;
}

/* A child that holds an exclusive lock on a file until it is killed, or this process ends. */
static pid_t hold_lock(const char *path)
{
    int ready[2];
    int life[2]; /* nothing is ever written to it; this process keeps it open */
    char byte;
    assert_int_equal(pipe(ready), 0);
    assert_int_equal(pipe(life), 0);
    const pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        const int file = open(path, O_RDWR | O_CREAT, 0600);
        close(life[1]);
        if (file < 0 || flock(file, LOCK_EX) != 0 || write(ready[1], "!", 1) != 1)
            _exit(1);
        while (read(life[0], &byte, 1) < 0)
            continue;
        _exit(0);
    }
    assert_int_equal(read(ready[0], &byte, 1), 1);
    close(ready[0]);
    close(ready[1]);
    close(life[0]);
    return child;
}

static void kill_and_wait(pid_t child)
{
    assert_int_equal(kill(child, SIGKILL), 0);
    assert_int_equal(waitpid(child, NULL, 0), child);
}

static void test_a_lock_dies_with_its_process(void **state)
{
    (void)state;
    const struct sigaction action = {.sa_handler = on_alarm};
    const struct itimerval soon = {.it_value = {0, 100000}, .it_interval = {0, 100000}};
    const struct itimerval never = {.it_value = {0, 0}};
    kvf_store *store = store_open(STORE_LARGE);
    kvf_session *session = store_session(KVF_PROFILE_FOLD, 0, 60);
    const pid_t child = hold_lock(store_path("lock"));
    sigaction(SIGALRM, &action, NULL);
    setitimer(ITIMER_REAL, &soon, NULL);
    assert_int_equal(kvf_store_put(store, session, NULL, NULL), KVF_FILE_BUSY);
    setitimer(ITIMER_REAL, &never, NULL);
    kill_and_wait(child);
    assert_int_equal(kvf_store_put(store, session, NULL, NULL), KVF_OK);
    assert_int_equal(store_found_tokens(store, 0, 60), 60);
    kvf_session_close(session);
    kvf_store_close(store);
}

/* It may be the one that is being written. */
static void test_a_damaged_file_stays_while_another_process_writes(void **state)
{
    (void)state;
    char name[KVF_STORE_NAME_BYTES];
    kvf_store *store = store_open(STORE_LARGE);
    kvf_store_found found;
    store_put(store, KVF_PROFILE_FOLD, 0, 60, name);
    store_damage(name, snap_file_bytes(store_path(name)) / 2);
    const pid_t child = hold_lock(store_path("lock"));
    assert_null(store_find(store, 0, 100, &found));
    assert_int_equal(found.n_skipped, 1);
    assert_true(store_has(name));
    kill_and_wait(child);
    assert_null(store_find(store, 0, 100, &found));
    assert_int_equal(found.n_skipped, 1);
    assert_false(store_has(name));
    kvf_store_close(store);
}

static void test_what_dead_saves_left_is_removed(void **state)
{
    (void)state;
    static const char dead[] = "0123456789abcdef.kvfold.saving";
    static const char living[] = "fedcba9876543210.kvfold.saving";
    kvf_store *store = store_open(STORE_LARGE);
    snap_write_file(store_path(dead), "half", 4);
    const pid_t child = hold_lock(store_path(living));
    store_put(store, KVF_PROFILE_FOLD, 0, 60, NULL);
    assert_false(store_has(dead));
    assert_true(store_has(living));
    kill_and_wait(child);
    store_put(store, KVF_PROFILE_FOLD, 0, 60, NULL);
    assert_false(store_has(living));
    kvf_store_close(store);
}

/* The oldest and largest of all, but somebody writes it: the others make room. */
static void test_making_room_leaves_what_is_being_written(void **state)
{
    (void)state;
    static const char living[] = "fedcba9876543210.kvfold.saving";
    char names[2][KVF_STORE_NAME_BYTES];
    kvf_store *store = store_open(STORE_LARGE);
    uint64_t bytes;
    for (uint64_t i = 0; i < 2; i++) {
        store_put(store, KVF_PROFILE_FOLD, i, 100, names[i]);
        set_used(names[i], 10 + (time_t)i);
    }
    kvf_store_close(store);
    store_count_files(&bytes);
    const pid_t child = hold_lock(store_path(living));
    assert_int_equal(truncate(store_path(living), (off_t)(bytes / 2)), 0);
    set_used(living, 0);
    store = store_open(bytes + bytes / 2); /* of three */
    const kvf_store_put_report report = store_put(store, KVF_PROFILE_FOLD, 2, 100, NULL);
    assert_int_equal(report.n_removed, 1);
    assert_true(report.stored && report.held_bytes == bytes + bytes / 2);
    assert_true(store_has(living) && !store_has(names[0]) && store_has(names[1]));
    /* Where the others are not enough they stay: nothing would be gained. */
    assert_int_equal(truncate(store_path(living), (off_t)(5 * bytes)), 0);
    const kvf_store_put_report none = store_put(store, KVF_PROFILE_FOLD, 3, 100, NULL);
    assert_true(!none.stored && none.n_removed == 0 && none.kept_tokens == 0);
    assert_true(store_has(living) && store_has(names[1]));
    assert_int_equal(snap_file_bytes(store_path(living)), 5 * bytes);
    kill_and_wait(child);
    /* Dead, it is the first to go, and counts for nothing. */
    const kvf_store_put_report last = store_put(store, KVF_PROFILE_FOLD, 4, 100, NULL);
    assert_int_equal(last.n_removed, 0);
    assert_false(store_has(living));
    kvf_store_close(store);
}

/* Puts and looks for texts of its own and of the other; the exit status of a child. */
static int use_store(uint64_t self, uint64_t max_bytes)
{
    kvf_store *store;
    if (kvf_store_open(store_folder(), max_bytes, NULL, &store, NULL) != KVF_OK)
        return 2;
    for (uint64_t i = 0; i < 12; i++) {
        kvf_store_found found;
        kvf_session *session = store_session(KVF_PROFILE_FOLD, i % 5 + self, 40 + 30 * (i % 3));
        if (kvf_store_put(store, session, NULL, NULL) != KVF_OK)
            return 3;
        kvf_session *other = store_find(store, i % 5 + 1, 200, &found);
        if (found.n_skipped > 0)
            return 4;
        if (other && kvf_session_check(other, NULL) != KVF_OK)
            return 5;
        kvf_session_close(other);
        kvf_session_close(session);
    }
    kvf_store_close(store);
    return 0;
}

static void test_two_processes_use_one_folder(void **state)
{
    (void)state;
    uint64_t bytes;
    unsigned most_files = 0;
    pid_t children[2];
    int status;
    kvf_store *store = store_open(STORE_LARGE);
    const uint64_t max_bytes = 4 * store_put(store, KVF_PROFILE_FOLD, 0, 100, NULL).file_bytes;
    for (uint64_t i = 0; i < 2; i++) {
        children[i] = fork();
        assert_true(children[i] >= 0);
        if (children[i] == 0)
            _exit(use_store(i, max_bytes));
    }
    for (unsigned n_ended = 0; n_ended < 2;) {
        /* One that is renamed while they are counted counts twice: then again. */
        unsigned n = store_count_files(&bytes);
        for (int attempt = 0; attempt < 5 && bytes > max_bytes; attempt++)
            n = store_count_files(&bytes);
        assert_true(bytes <= max_bytes);
        most_files = n > most_files ? n : most_files;
        const pid_t ended = waitpid(-1, &status, WNOHANG);
        n_ended += ended > 0;
        if (ended > 0 && (!WIFEXITED(status) || WEXITSTATUS(status) != 0))
            fail_msg("a process ended with %d", status);
    }
    assert_true(most_files > 1);
    assert_true(store_count_files(&bytes) > 1);
    kvf_store_close(store);
}

static void test_impossible_folders_are_refused(void **state)
{
    (void)state;
    kvf_store *store;
    assert_int_equal(kvf_store_open("", 1, NULL, &store, NULL), KVF_INVALID_ARGUMENT);
    assert_int_equal(kvf_store_open(store_folder(), 0, NULL, &store, NULL), KVF_INVALID_ARGUMENT);
    assert_int_equal(kvf_store_open(snap_path("no/such/parent"), 1, NULL, &store, NULL),
                     KVF_FILE_NOT_FOUND);
    snap_write_file(snap_path("file"), "x", 1);
    assert_int_equal(kvf_store_open(snap_path("file"), 1, NULL, &store, NULL), KVF_FILE_IO);
    assert_null(store);
}

/* A text that parts from a stored one is taken up at the last checkpoint before that. */
static void a_text_is_taken_up_at_a_checkpoint(void **state)
{
    (void)state;
    static const struct {
        uint64_t n_tokens;
        uint64_t found;
    } texts[] = {{300, 208}, {209, 208}, {208, 144}, {150, 144}, {144, 0}, {100, 0}};
    kvf_store *store = store_open(STORE_LARGE);
    kvf_session *session = snap_open(snap_device, KVF_PROFILE_FOLD, false);
    kvf_store_found found;
    kvf_error error;
    session->checkpoints.periodic = false;
    kvf_session_set_model_fingerprint(session, STORE_MODEL);
    for (uint64_t place = 144; place <= 208; place += 64) {
        snap_grow(session, place);
        assert_int_equal(kvf_session_checkpoint(session, NULL), KVF_OK);
    }
    store_shared_tokens = 230; /* of all texts */
    snap_grow(session, store_shared_tokens);
    snap_text = 1;
    snap_grow(session, 300);
    assert_int_equal(kvf_store_put(store, session, NULL, &error), KVF_OK);
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        kvf_session *restored = store_find(store, 2, texts[i].n_tokens, &found);
        assert_int_equal(found.n_tokens, texts[i].found);
        assert_int_equal(restored ? kvf_session_n_tokens(restored) : 0, texts[i].found);
        assert_true(!restored || !kvf_session_logits_known(restored));
        if (restored && i == 0) { /* and goes on as the saved one does from there */
            uint64_t outputs[2];
            assert_int_equal(kvf_session_truncate(session, 208, NULL, NULL), KVF_OK);
            snap_text = 2;
            for (int step = 0; step < 2; step++)
                for (int which = 0; which < 2; which++)
                    assert_int_equal(
                        snap_step(which ? restored : session, 40, &outputs[which], NULL), KVF_OK);
            assert_int_equal(outputs[0], outputs[1]);
            assert_int_equal(snap_digest(restored, true), snap_digest(session, true));
        }
        kvf_session_close(restored);
    }
    assert_int_equal(store_found_tokens(store, 1, 300), 300); /* its own */
    kvf_session_close(session);
    kvf_store_close(store);
}

/* ---- A disk that fails ---------------------------------------------------------------------- */

/* Every call to the system fails once, in a put and in a search: nothing half is there. */
static void every_call_of_a_store_may_fail(void **state)
{
    (void)state;
    kvf_session *session = store_session(KVF_PROFILE_FOLD, 1, 100);
    unsigned n_failed = 0;
    bool reached = true;
    for (uint64_t fail_at = 1; reached; fail_at++) {
        kvf_store *store;
        kvf_session *found = NULL;
        kvf_error error;
        fake_disk_reset();
        fake.fail_at = fail_at;
        kvf_status status =
            kvf_store_open_on(store_folder(), STORE_LARGE, NULL, &fake_disk, &store, &error);
        if (status != KVF_OK) {
            assert_true(error.message[0] != '\0');
            n_failed++;
            continue;
        }
        status = kvf_store_put(store, session, NULL, &error);
        if (status == KVF_OK)
            status = store_try_find(store, 1, 120, &found, NULL, &error);
        reached = fake.calls >= fail_at;
        if (status != KVF_OK) {
            assert_true(status == KVF_FILE_IO || status == KVF_OUT_OF_MEMORY);
            n_failed++;
        }
        kvf_session_close(found);
        kvf_store_close(store);
        /* Whatever failed, it is done now. */
        fake_disk_reset();
        store = store_open(STORE_LARGE);
        assert_int_equal(kvf_store_put(store, session, NULL, &error), KVF_OK);
        assert_int_equal(store_found_tokens(store, 1, 120), 100);
        kvf_store_close(store);
        store_finish(state);
    }
    assert_true(n_failed >= 10);
    kvf_session_close(session);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        STORE_TEST(test_the_longest_prefix_is_found_and_goes_on_as_if_never_saved),
        STORE_TEST(test_only_sessions_of_the_model_are_found),
        STORE_TEST(test_another_profile_is_repacked_and_the_wanted_one_preferred),
        STORE_TEST(test_what_was_used_least_recently_leaves),
        STORE_TEST(test_what_texts_share_stays_in_the_smallest_store),
        STORE_TEST(test_a_text_that_goes_on_takes_its_own_place),
        STORE_TEST(test_a_run_does_not_remove_what_it_made),
        STORE_TEST(test_a_shorter_one_that_was_used_again_outlives_the_longer_one),
        STORE_TEST(test_uses_are_told_apart_whatever_the_clock_says),
        STORE_TEST(test_notes_go_with_their_state),
        STORE_TEST(test_a_session_larger_than_the_budget_removes_nothing),
        STORE_TEST(test_files_of_others_are_left_alone),
        STORE_TEST(test_a_damaged_file_is_skipped_and_removed),
        STORE_TEST(test_a_file_that_is_not_supported_is_skipped_and_stays),
        STORE_TEST(test_a_damaged_file_is_written_again),
        STORE_TEST(test_a_lock_dies_with_its_process),
        STORE_TEST(test_a_damaged_file_stays_while_another_process_writes),
        STORE_TEST(test_what_dead_saves_left_is_removed),
        STORE_TEST(test_making_room_leaves_what_is_being_written),
        STORE_TEST(test_two_processes_use_one_folder),
        STORE_TEST(test_impossible_folders_are_refused),
        STORE_TEST(a_text_is_taken_up_at_a_checkpoint),
        STORE_TEST(every_call_of_a_store_may_fail),
    };
    return cmocka_run_group_tests(tests, snap_setup, snap_teardown);
}
