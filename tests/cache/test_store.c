/*
 * A store of prefixes: what it finds, what it removes, what is damaged, and several
 * processes in one folder.
 */
#include "snapshot_support.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "cache/store.h"

#define MODEL 0x1234u
#define MOST_TOKENS 400
#define LARGE ((uint64_t)1 << 40)

static char folder[400];

/* ---- Helpers ------------------------------------------------------------------------- */

static const char *in_store(const char *name)
{
    static char path[500];
    snprintf(path, sizeof path, "%.390s/%.60s", folder, name);
    return path;
}

/* Files of the store (without its lock): their number, and the sum of their bytes. */
static unsigned count_files(uint64_t *bytes)
{
    unsigned n = 0;
    DIR *listing = opendir(folder);
    *bytes = 0;
    for (struct dirent *entry; listing && (entry = readdir(listing));) {
        struct stat info;
        if (entry->d_name[0] == '.' || strcmp(entry->d_name, "lock") == 0 ||
            stat(in_store(entry->d_name), &info) != 0)
            continue;
        n++;
        *bytes += (uint64_t)info.st_size;
    }
    closedir(listing);
    return n;
}

static int start(void **state)
{
    (void)state;
    snprintf(folder, sizeof folder, "%s", snap_path("store"));
    snap_text = 0;
    return 0;
}

static int finish(void **state)
{
    (void)state;
    DIR *listing = opendir(folder);
    for (struct dirent *entry; listing && (entry = readdir(listing));)
        if (entry->d_name[0] != '.')
            unlink(in_store(entry->d_name));
    if (listing)
        closedir(listing);
    return listing ? rmdir(folder) : 0;
}

static kvf_store *open_store(uint64_t max_bytes)
{
    kvf_store *store;
    kvf_error error;
    if (kvf_store_open(folder, max_bytes, &store, &error) != KVF_OK)
        fail_msg("%s", error.message);
    return store;
}

static kvf_session *new_session(kvf_profile_id profile, uint64_t text, uint64_t n_tokens)
{
    kvf_session *session = snap_open(snap_device, profile, false);
    kvf_session_set_model_fingerprint(session, MODEL);
    snap_text = text;
    snap_grow(session, n_tokens);
    return session;
}

/* Puts a session of a text; *name (may be NULL) is its file's. */
static kvf_store_put_report put(kvf_store *store, kvf_profile_id profile, uint64_t text,
                                uint64_t n_tokens, char name[KVF_STORE_NAME_BYTES])
{
    kvf_store_put_report report;
    kvf_error error;
    kvf_session *session = new_session(profile, text, n_tokens);
    if (kvf_store_put(store, session, &report, &error) != KVF_OK)
        fail_msg("%s", error.message);
    if (name)
        kvf_store_name(session, name);
    kvf_session_close(session);
    return report;
}

static void text_tokens(uint64_t text, uint64_t n_tokens, int32_t *tokens)
{
    for (uint64_t i = 0; i < n_tokens; i++) {
        uint64_t seed = i + (text << 32);
        tokens[i] = (int32_t)(snap_random(&seed) % snap_geometry.vocab);
    }
}

/* Looks for a text of n_tokens in fold, checking all of each file. */
static kvf_session *find(kvf_store *store, uint64_t text, uint64_t n_tokens, kvf_store_found *found)
{
    int32_t tokens[MOST_TOKENS];
    kvf_session *session;
    kvf_error error;
    const kvf_session_options options = {.profile = KVF_PROFILE_FOLD, .chunk_tokens = SNAP_CHUNK};
    const kvf_load_options load = {.session = &options, .model_fingerprint = MODEL, .verify = true};
    text_tokens(text, n_tokens, tokens);
    if (kvf_store_find(store, snap_device, tokens, n_tokens, &load, &session, found, &error) !=
        KVF_OK)
        fail_msg("%s", error.message);
    assert_int_equal(found->n_tokens, session ? kvf_session_n_tokens(session) : 0);
    return session;
}

/* The length that is found. */
static uint64_t found_tokens(kvf_store *store, uint64_t text, uint64_t n_tokens)
{
    kvf_store_found found;
    kvf_session_close(find(store, text, n_tokens, &found));
    return found.n_tokens;
}

/* As if the file had been used that many seconds after 2020. */
static void set_used(const char *name, time_t seconds)
{
    const struct timespec times[2] = {{1577836800 + seconds, 0}, {1577836800 + seconds, 0}};
    assert_int_equal(utimensat(AT_FDCWD, in_store(name), times, 0), 0);
}

static void damage(const char *name, uint64_t offset)
{
    size_t bytes;
    uint8_t *data = snap_read_file(in_store(name), &bytes);
    assert_true(offset < bytes);
    data[offset] ^= 1;
    snap_write_file(in_store(name), data, bytes);
    free(data);
}

static bool is_there(const char *name)
{
    return access(in_store(name), F_OK) == 0;
}

/* ---- Finding ---------------------------------------------------------------------------- */

static void test_the_longest_prefix_is_found_and_goes_on_as_if_never_saved(void **state)
{
    (void)state;
    kvf_store *store = open_store(LARGE);
    kvf_store_found found;
    assert_null(find(store, 0, 300, &found));
    assert_int_equal(found.shared_tokens, 0);
    put(store, KVF_PROFILE_FOLD, 0, 50, NULL);
    put(store, KVF_PROFILE_FOLD, 0, 192, NULL);
    put(store, KVF_PROFILE_FOLD, 0, 288, NULL);
    put(store, KVF_PROFILE_FOLD, 5, 100, NULL);
    kvf_session *session = find(store, 0, 250, &found);
    assert_int_equal(found.n_tokens, 192);
    assert_int_equal(found.shared_tokens, 250); /* with the one of 288, which is too long */
    assert_int_equal(found.n_skipped, 0);
    kvf_session *plain = new_session(KVF_PROFILE_FOLD, 0, 192);
    assert_int_equal(snap_grow(session, 384), snap_grow(plain, 384));
    assert_int_equal(snap_digest(session, true), snap_digest(plain, true));
    kvf_session_close(plain);
    kvf_session_close(session);
    assert_int_equal(found_tokens(store, 0, 192), 192); /* all of the text */
    assert_int_equal(found_tokens(store, 0, 191), 50);
    assert_int_equal(found_tokens(store, 0, 49), 0);
    assert_int_equal(found_tokens(store, 7, 300), 0); /* another text */
    kvf_store_close(store);
}

static void test_only_sessions_of_the_model_are_found(void **state)
{
    (void)state;
    kvf_store *store = open_store(LARGE);
    kvf_store_found found;
    kvf_session *session = new_session(KVF_PROFILE_FOLD, 0, 60);
    kvf_session_set_model_fingerprint(session, MODEL + 1);
    assert_int_equal(kvf_store_put(store, session, NULL, NULL), KVF_OK);
    assert_null(find(store, 0, 100, &found));
    assert_int_equal(found.shared_tokens, 0);
    put(store, KVF_PROFILE_FOLD, 0, 60, NULL);
    assert_int_equal(found_tokens(store, 0, 100), 60);
    kvf_session_set_model_fingerprint(session, 0);
    assert_int_equal(kvf_store_put(store, session, NULL, NULL), KVF_INVALID_ARGUMENT);
    kvf_session_close(session);
    kvf_store_close(store);
}

static void test_another_profile_is_repacked_and_the_wanted_one_preferred(void **state)
{
    (void)state;
    kvf_store *store = open_store(LARGE);
    kvf_store_found found;
    put(store, KVF_PROFILE_LEGACY, 0, 100, NULL);
    kvf_session *repacked = find(store, 0, 120, &found);
    assert_int_equal(found.n_tokens, 100);
    assert_int_equal(kvf_session_mapped_bytes(repacked), 0);
    put(store, KVF_PROFILE_FOLD, 0, 100, NULL);
    put(store, KVF_PROFILE_PACKED, 0, 100, NULL);
    kvf_session *mapped = find(store, 0, 120, &found);
    assert_true(kvf_session_mapped_bytes(mapped) > 0);
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
    kvf_store *store = open_store(LARGE);
    uint64_t bytes;
    for (uint64_t i = 0; i < 3; i++) {
        put(store, KVF_PROFILE_FOLD, i, 100, names[i]);
        set_used(names[i], (time_t)i);
    }
    kvf_store_close(store);
    assert_int_equal(count_files(&bytes), 3);
    store = open_store(bytes); /* room for three */
    assert_int_equal(found_tokens(store, 0, 100), 100);
    const kvf_store_put_report report = put(store, KVF_PROFILE_FOLD, 3, 100, last);
    assert_true(report.stored && !report.was_there);
    assert_int_equal(report.n_removed, 1);
    assert_int_equal(report.removed_bytes, bytes / 3);
    assert_int_equal(report.file_bytes, bytes / 3);
    assert_int_equal(report.held_bytes, bytes);
    assert_true(is_there(names[0]) && !is_there(names[1]) && is_there(names[2]));
    /* Putting what is there counts as a use and removes nothing. */
    set_used(names[0], 10);
    const kvf_store_put_report again = put(store, KVF_PROFILE_FOLD, 2, 100, NULL);
    assert_true(again.stored && again.was_there && again.n_removed == 0);
    put(store, KVF_PROFILE_FOLD, 4, 100, NULL);
    assert_true(!is_there(names[0]) && is_there(names[2]) && is_there(last));
    kvf_store_close(store);
}

static void test_a_session_larger_than_the_budget_removes_nothing(void **state)
{
    (void)state;
    char name[KVF_STORE_NAME_BYTES];
    uint64_t bytes;
    kvf_store *store = open_store(LARGE);
    const uint64_t small_bytes = put(store, KVF_PROFILE_FOLD, 0, 40, name).file_bytes;
    kvf_store_close(store);
    store = open_store(small_bytes);
    const kvf_store_put_report report = put(store, KVF_PROFILE_LEGACY, 1, 300, NULL);
    assert_false(report.stored);
    assert_true(report.file_bytes > small_bytes);
    assert_int_equal(report.n_removed, 0);
    assert_int_equal(report.held_bytes, small_bytes);
    assert_int_equal(count_files(&bytes), 1);
    assert_true(is_there(name));
    kvf_store_close(store);
}

static void test_files_of_others_are_left_alone(void **state)
{
    (void)state;
    static const char *const others[] = {"notes.txt", "0123456789abcdef", "name.kvfold",
                                         "0123456789ABCDEF.kvfold", "0123456789abcdef.kvfold.old"};
    kvf_store *store = open_store(LARGE);
    const uint64_t bytes = put(store, KVF_PROFILE_FOLD, 0, 100, NULL).file_bytes;
    kvf_store_close(store);
    for (size_t i = 0; i < sizeof others / sizeof *others; i++) {
        snap_write_file(in_store(others[i]), "somebody's", 10);
        set_used(others[i], 0);
    }
    store = open_store(bytes);
    assert_int_equal(put(store, KVF_PROFILE_FOLD, 1, 100, NULL).held_bytes, bytes);
    assert_int_equal(found_tokens(store, 1, 100), 100);
    for (size_t i = 0; i < sizeof others / sizeof *others; i++)
        assert_int_equal(snap_file_bytes(in_store(others[i])), 10);
    kvf_store_close(store);
}

/* ---- Damage ------------------------------------------------------------------------------- */

static void test_a_damaged_file_is_skipped_and_removed(void **state)
{
    (void)state;
    char names[3][KVF_STORE_NAME_BYTES];
    kvf_store *store = open_store(LARGE);
    kvf_store_found found;
    kvf_session *session;
    for (uint64_t i = 0; i < 3; i++)
        put(store, KVF_PROFILE_FOLD, 0, 100 + 64 * i, names[i]);
    damage(names[2], snap_file_bytes(in_store(names[2])) / 2);
    session = find(store, 0, 300, &found);
    assert_int_equal(found.n_tokens, 164);
    assert_int_equal(found.n_skipped, 1);
    assert_int_equal(found.skipped.status, KVF_FILE_FORMAT);
    assert_non_null(strstr(found.skipped.message, names[2]));
    assert_false(is_there(names[2]));
    /* Removed while it is in use: what was found stays whole. */
    unlink(in_store(names[1]));
    assert_int_equal(kvf_session_check(session, NULL), KVF_OK);
    kvf_session_close(session);
    snap_write_file(in_store(names[1]), "kvfold", 6);
    session = find(store, 0, 300, &found);
    assert_int_equal(found.n_tokens, 100);
    assert_int_equal(found.n_skipped, 1);
    assert_false(is_there(names[1]));
    kvf_session_close(session);
    kvf_store_close(store);
}

static void test_a_damaged_file_is_written_again(void **state)
{
    (void)state;
    char name[KVF_STORE_NAME_BYTES];
    kvf_store *store = open_store(LARGE);
    put(store, KVF_PROFILE_FOLD, 0, 100, name);
    snap_write_file(in_store(name), "nothing of this can be read", 27);
    assert_false(put(store, KVF_PROFILE_FOLD, 0, 100, NULL).was_there);
    assert_int_equal(found_tokens(store, 0, 100), 100);
    assert_true(put(store, KVF_PROFILE_FOLD, 0, 100, NULL).was_there);
    /* Headers and index are good, rows are not: who restored it only sees that later. */
    damage(name, 30000);
    assert_int_equal(kvf_snapshot_verify(in_store(name), NULL), KVF_FILE_FORMAT);
    assert_false(put(store, KVF_PROFILE_FOLD, 0, 100, NULL).was_there);
    assert_int_equal(kvf_snapshot_verify(in_store(name), NULL), KVF_OK);
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
    kvf_store *store = open_store(LARGE);
    kvf_session *session = new_session(KVF_PROFILE_FOLD, 0, 60);
    const pid_t child = hold_lock(in_store("lock"));
    sigaction(SIGALRM, &action, NULL);
    setitimer(ITIMER_REAL, &soon, NULL);
    assert_int_equal(kvf_store_put(store, session, NULL, NULL), KVF_FILE_BUSY);
    setitimer(ITIMER_REAL, &never, NULL);
    kill_and_wait(child);
    assert_int_equal(kvf_store_put(store, session, NULL, NULL), KVF_OK);
    assert_int_equal(found_tokens(store, 0, 60), 60);
    kvf_session_close(session);
    kvf_store_close(store);
}

static void test_what_dead_saves_left_is_removed(void **state)
{
    (void)state;
    static const char dead[] = "0123456789abcdef.kvfold.saving";
    static const char living[] = "fedcba9876543210.kvfold.saving";
    kvf_store *store = open_store(LARGE);
    snap_write_file(in_store(dead), "half", 4);
    const pid_t child = hold_lock(in_store(living));
    put(store, KVF_PROFILE_FOLD, 0, 60, NULL);
    assert_false(is_there(dead));
    assert_true(is_there(living));
    kill_and_wait(child);
    put(store, KVF_PROFILE_FOLD, 0, 60, NULL);
    assert_false(is_there(living));
    kvf_store_close(store);
}

/* Puts and looks for texts of its own and of the other; the exit status of a child. */
static int use_store(uint64_t self, uint64_t max_bytes)
{
    kvf_store *store;
    if (kvf_store_open(folder, max_bytes, &store, NULL) != KVF_OK)
        return 2;
    for (uint64_t i = 0; i < 12; i++) {
        kvf_store_found found;
        kvf_session *session = new_session(KVF_PROFILE_FOLD, i % 5 + self, 40 + 30 * (i % 3));
        if (kvf_store_put(store, session, NULL, NULL) != KVF_OK)
            return 3;
        kvf_session *other = find(store, i % 5 + 1, 200, &found);
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
    kvf_store *store = open_store(LARGE);
    const uint64_t max_bytes = 4 * put(store, KVF_PROFILE_FOLD, 0, 100, NULL).file_bytes;
    for (uint64_t i = 0; i < 2; i++) {
        children[i] = fork();
        assert_true(children[i] >= 0);
        if (children[i] == 0)
            _exit(use_store(i, max_bytes));
    }
    for (unsigned n_ended = 0; n_ended < 2;) {
        /* One that is renamed while they are counted counts twice: then again. */
        unsigned n = count_files(&bytes);
        for (int attempt = 0; attempt < 5 && bytes > max_bytes; attempt++)
            n = count_files(&bytes);
        assert_true(bytes <= max_bytes);
        most_files = n > most_files ? n : most_files;
        const pid_t ended = waitpid(-1, &status, WNOHANG);
        n_ended += ended > 0;
        if (ended > 0 && (!WIFEXITED(status) || WEXITSTATUS(status) != 0))
            fail_msg("a process ended with %d", status);
    }
    assert_true(most_files > 1);
    assert_true(count_files(&bytes) > 1);
    kvf_store_close(store);
}

static void test_impossible_folders_are_refused(void **state)
{
    (void)state;
    kvf_store *store;
    assert_int_equal(kvf_store_open("", 1, &store, NULL), KVF_INVALID_ARGUMENT);
    assert_int_equal(kvf_store_open(folder, 0, &store, NULL), KVF_INVALID_ARGUMENT);
    assert_int_equal(kvf_store_open(snap_path("no/such/parent"), 1, &store, NULL),
                     KVF_FILE_NOT_FOUND);
    snap_write_file(snap_path("file"), "x", 1);
    assert_int_equal(kvf_store_open(snap_path("file"), 1, &store, NULL), KVF_FILE_IO);
    assert_null(store);
}

#define STORE_TEST(test) cmocka_unit_test_setup_teardown(test, start, finish)

int main(void)
{
    const struct CMUnitTest tests[] = {
        STORE_TEST(test_the_longest_prefix_is_found_and_goes_on_as_if_never_saved),
        STORE_TEST(test_only_sessions_of_the_model_are_found),
        STORE_TEST(test_another_profile_is_repacked_and_the_wanted_one_preferred),
        STORE_TEST(test_what_was_used_least_recently_leaves),
        STORE_TEST(test_a_session_larger_than_the_budget_removes_nothing),
        STORE_TEST(test_files_of_others_are_left_alone),
        STORE_TEST(test_a_damaged_file_is_skipped_and_removed),
        STORE_TEST(test_a_damaged_file_is_written_again),
        STORE_TEST(test_a_lock_dies_with_its_process),
        STORE_TEST(test_what_dead_saves_left_is_removed),
        STORE_TEST(test_two_processes_use_one_folder),
        STORE_TEST(test_impossible_folders_are_refused),
    };
    return cmocka_run_group_tests(tests, snap_setup, snap_teardown);
}
