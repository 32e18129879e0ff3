/*
 * The system behind saves and stores, where it refuses: locks that a folder does not have,
 * syncs that a file system does not know, signals in the middle, files that cannot be removed,
 * times that are kept coarsely. The linker puts the functions below before the system's own.
 */
#include "store_support.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#ifdef KVF_TEST_WRAPPED_SYSTEM

typedef enum system_call {
    NO_CALL,
    CALL_FLOCK,
    CALL_FSYNC,
    CALL_FTRUNCATE,
    CALL_RENAME,
    CALL_UNLINK,
    CALL_FCHMOD,
    CALL_OPEN,
    CALL_UTIMENSAT,
    CALL_COUNT
} system_call;

static struct refusal {
    system_call call;
    int reason;
    unsigned n_times;       /* that it is refused, then it works again */
    const char *name;       /* only of a path that has this in it; NULL: of all */
    unsigned n_refused;     /* so far */
    time_t grain;           /* of times, in seconds; 0: the system's */
    bool done_all_the_same; /* the call does what it was asked for, and fails */
} refusal;

static void refuse(system_call call, int reason, unsigned n_times)
{
    refusal = (struct refusal){.call = call, .reason = reason, .n_times = n_times};
}

static bool refused(system_call call, const char *path)
{
    if (refusal.call != call || refusal.n_refused == refusal.n_times ||
        (refusal.name && !(path && strstr(path, refusal.name))))
        return false;
    refusal.n_refused++;
    return true;
}

static int refuse_now(void)
{
    errno = refusal.reason;
    return -1;
}

int __real_flock(int file, int operation);
int __wrap_flock(int file, int operation)
{
    return refused(CALL_FLOCK, NULL) ? refuse_now() : __real_flock(file, operation);
}

/* Never the disk's own: it takes its time. */
int __wrap_fsync(int file);
int __wrap_fsync(int file)
{
    (void)file;
    return refused(CALL_FSYNC, NULL) ? refuse_now() : 0;
}

int __real_ftruncate(int file, off_t bytes);
int __wrap_ftruncate(int file, off_t bytes)
{
    return refused(CALL_FTRUNCATE, NULL) ? refuse_now() : __real_ftruncate(file, bytes);
}

int __real_rename(const char *from, const char *to);
int __wrap_rename(const char *from, const char *to)
{
    if (!refused(CALL_RENAME, to))
        return __real_rename(from, to);
    if (refusal.done_all_the_same)
        __real_rename(from, to);
    return refuse_now();
}

int __real_unlink(const char *path);
int __wrap_unlink(const char *path)
{
    return refused(CALL_UNLINK, path) ? refuse_now() : __real_unlink(path);
}

int __real_fchmod(int file, mode_t mode);
int __wrap_fchmod(int file, mode_t mode)
{
    return refused(CALL_FCHMOD, NULL) ? refuse_now() : __real_fchmod(file, mode);
}

int __real_open(const char *path, int flags, mode_t mode);
int __wrap_open(const char *path, int flags, mode_t mode)
{
    return refused(CALL_OPEN, path) ? refuse_now() : __real_open(path, flags, mode);
}

int __real_utimensat(int folder, const char *path, const struct timespec times[2], int flags);
int __wrap_utimensat(int folder, const char *path, const struct timespec times[2], int flags)
{
    if (refused(CALL_UTIMENSAT, path))
        return refuse_now();
    if (refusal.grain == 0)
        return __real_utimensat(folder, path, times, flags);
    const struct timespec coarse = {times[1].tv_sec / refusal.grain * refusal.grain, 0};
    const struct timespec both[2] = {coarse, coarse};
    return __real_utimensat(folder, path, both, flags);
}

static int start(void **state)
{
    refuse(NO_CALL, 0, 0);
    return store_start(state);
}

static int finish(void **state)
{
    refuse(NO_CALL, 0, 0);
    unlink(snap_path("saved.kvfold"));
    unlink(snap_path("saved.kvfold.saving"));
    return store_finish(state);
}
#define SYSTEM_TEST(test) cmocka_unit_test_setup_teardown(test, start, finish)

/* The folder's own way to say no, which the user has to see, and where. */
static void expect_reason(const kvf_error *error, int reason, const char *name)
{
    assert_int_equal(error->status, KVF_FILE_IO);
    assert_non_null(strstr(error->message, strerror(reason)));
    assert_non_null(strstr(error->message, name));
}

static bool is_there(const char *path)
{
    return access(path, F_OK) == 0;
}

/* ---- Locks ------------------------------------------------------------------------------- */

static const int no_locks[] = {ENOLCK, EOPNOTSUPP, EINVAL, ENOSYS, EBADF};

static void a_save_says_why_it_cannot_lock(void **state)
{
    (void)state;
    const char *path = snap_path("saved.kvfold");
    const kvf_save_options without = {.no_lock = true};
    kvf_session *session = store_session(KVF_PROFILE_FOLD, 0, 50);
    kvf_error error;
    for (size_t i = 0; i < sizeof no_locks / sizeof *no_locks; i++) {
        unlink(path);
        for (uint64_t n_tokens = 60; n_tokens <= 70; n_tokens += 10) { /* a new file; added to */
            const bool there = is_there(path);
            const uint64_t bytes = there ? snap_file_bytes(path) : 0;
            kvf_session_truncate(session, 0, NULL, NULL);
            snap_grow(session, n_tokens);
            refuse(CALL_FLOCK, no_locks[i], UINT32_MAX);
            assert_int_equal(kvf_session_save(session, path, NULL, NULL, &error), KVF_FILE_IO);
            expect_reason(&error, no_locks[i], "saved.kvfold");
            assert_non_null(strstr(error.message, "no-lock"));
            assert_int_equal(is_there(path), there);
            if (there)
                assert_int_equal(snap_file_bytes(path), bytes);
            assert_int_equal(kvf_session_save(session, path, &without, NULL, NULL), KVF_OK);
            assert_int_equal(kvf_snapshot_verify(path, NULL), KVF_OK);
        }
    }
    /* Asked for or not: what somebody does hold is left to them. */
    refuse(CALL_FLOCK, EWOULDBLOCK, UINT32_MAX);
    assert_int_equal(kvf_session_save(session, path, &without, NULL, NULL), KVF_FILE_BUSY);
    kvf_session_close(session);
}

static void a_store_says_why_it_cannot_lock(void **state)
{
    (void)state;
    const kvf_store_options without = {.no_lock = true};
    kvf_error error;
    kvf_store *store = store_open(STORE_LARGE);
    kvf_session *session = store_session(KVF_PROFILE_FOLD, 0, 60);
    for (size_t i = 0; i < sizeof no_locks / sizeof *no_locks; i++) {
        refuse(CALL_FLOCK, no_locks[i], UINT32_MAX);
        assert_int_equal(kvf_store_put(store, session, NULL, &error), KVF_FILE_IO);
        expect_reason(&error, no_locks[i], "store/lock");
    }
    kvf_store_close(store);
    assert_int_equal(kvf_store_open(store_folder(), STORE_LARGE, &without, &store, NULL), KVF_OK);
    snap_write_file(store_path("0123456789abcdef.kvfold.saving"), "half", 4);
    snap_write_file(store_path("fedcba9876543210.kvfold.saving"), "half", 4);
    const struct timespec old[2] = {{time(NULL) - 90000, 0}, {time(NULL) - 90000, 0}};
    utimensat(AT_FDCWD, store_path("0123456789abcdef.kvfold.saving"), old, 0);
    assert_int_equal(kvf_store_put(store, session, NULL, NULL), KVF_OK);
    assert_int_equal(store_found_tokens(store, 0, 60), 60);
    /* Who lives cannot be told; who has not gone on for a day does not. */
    assert_false(store_has("0123456789abcdef.kvfold.saving"));
    assert_true(store_has("fedcba9876543210.kvfold.saving"));
    kvf_session_close(session);
    kvf_store_close(store);
}

static double waited_seconds;
static pid_t holder;

/* Until half a second is over; then whoever holds the lock is stopped, or the wait ends. */
static bool wait_half_a_second(void *holder_ends, double seconds)
{
    assert_true(seconds >= waited_seconds);
    waited_seconds = seconds;
    if (seconds < 0.5)
        return true;
    if (!*(bool *)holder_ends)
        return false;
    kill(holder, SIGKILL);
    return true;
}

static void who_waits_for_a_store_is_asked_whether_to(void **state)
{
    (void)state;
    kvf_session *session = store_session(KVF_PROFILE_FOLD, 0, 60);
    for (int ends = 0; ends < 2; ends++) {
        bool holder_ends = ends;
        const kvf_store_options options = {.wait = wait_half_a_second,
                                           .wait_context = &holder_ends};
        kvf_error error;
        kvf_store *store;
        assert_int_equal(kvf_store_open(store_folder(), STORE_LARGE, &options, &store, NULL),
                         KVF_OK);
        const int lock = open(store_path("lock"), O_RDWR | O_CREAT, 0600);
        assert_int_equal(__real_flock(lock, LOCK_EX), 0);
        holder = fork(); /* it inherits the lock */
        if (holder == 0)
            for (;;)
                pause();
        close(lock);
        waited_seconds = 0;
        assert_int_equal(kvf_store_put(store, session, NULL, &error),
                         ends ? KVF_OK : KVF_FILE_BUSY);
        assert_true(waited_seconds >= 0.5 && waited_seconds < 30);
        kill(holder, SIGKILL);
        waitpid(holder, NULL, 0);
        kvf_store_close(store);
    }
    kvf_session_close(session);
}

/* ---- Syncs and signals --------------------------------------------------------------------- */

static void a_file_system_without_syncs_does_not_fail_a_save(void **state)
{
    (void)state;
    static const int unknown[] = {EINVAL, ENOTSUP, EOPNOTSUPP, ENOSYS};
    static const int failures[] = {EIO, ENOSPC, EDQUOT, EROFS};
    const char *path = snap_path("saved.kvfold");
    const kvf_save_options whole = {.whole = true};
    kvf_error error;
    kvf_session *session = store_session(KVF_PROFILE_FOLD, 0, 50);
    for (size_t i = 0; i < sizeof unknown / sizeof *unknown; i++) {
        refuse(CALL_FSYNC, unknown[i], UINT32_MAX);
        assert_int_equal(kvf_session_save(session, path, &whole, NULL, NULL), KVF_OK);
        assert_int_equal(refusal.n_refused, 2); /* the file's, the folder's */
        assert_int_equal(kvf_snapshot_verify(path, NULL), KVF_OK);
    }
    for (size_t i = 0; i < sizeof failures / sizeof *failures; i++) {
        snap_grow(session, 60 + i);
        refuse(CALL_FSYNC, failures[i], UINT32_MAX);
        assert_int_equal(kvf_session_save(session, path, &whole, NULL, &error), KVF_FILE_IO);
        expect_reason(&error, failures[i], "saved.kvfold");
        kvf_snapshot_info info;
        assert_int_equal(kvf_snapshot_info_read(path, &info, NULL), KVF_OK);
        assert_int_equal(info.n_tokens, 50); /* the old one is there */
    }
    kvf_session_close(session);
}

static void a_signal_ends_no_call(void **state)
{
    (void)state;
    char path[128]; /* snap_path's is not there for that long */
    snprintf(path, sizeof path, "%s", snap_path("saved.kvfold"));
    kvf_session *session = store_session(KVF_PROFILE_FOLD, 0, 50);
    unsigned n_refused = 0;
    for (system_call call = CALL_FLOCK; call <= CALL_OPEN; call++) {
        const kvf_save_options whole = {.whole = true};
        refuse(call, EINTR, 3);
        assert_int_equal(kvf_session_save(session, path, &whole, NULL, NULL), KVF_OK);
        n_refused += refusal.n_refused;
        kvf_store *store = store_open(STORE_LARGE);
        refuse(call, EINTR, 3);
        assert_int_equal(kvf_store_put(store, session, NULL, NULL), KVF_OK);
        kvf_store_close(store);
        assert_int_equal(kvf_snapshot_verify(path, NULL), KVF_OK);
        refuse(NO_CALL, 0, 0);
        store_finish(NULL);
    }
    assert_true(n_refused >= 6 * 3); /* all but unlink */
    /* The server had renamed it before the signal came. */
    const kvf_save_options whole = {.whole = true};
    snap_grow(session, 60);
    refuse(CALL_RENAME, EINTR, 1);
    refusal.done_all_the_same = true;
    assert_int_equal(kvf_session_save(session, path, &whole, NULL, NULL), KVF_OK);
    kvf_snapshot_info info;
    assert_int_equal(kvf_snapshot_info_read(path, &info, NULL), KVF_OK);
    assert_int_equal(info.n_tokens, 60);
    kvf_session_close(session);
}

/* ---- Files that stay ------------------------------------------------------------------------ */

static void what_cannot_be_removed_stays_and_another_leaves(void **state)
{
    (void)state;
    char names[3][KVF_STORE_NAME_BYTES];
    uint64_t bytes;
    kvf_error error;
    kvf_store *store = store_open(STORE_LARGE);
    for (uint64_t i = 0; i < 3; i++)
        store_put(store, KVF_PROFILE_FOLD, i, 100, names[i]);
    store_count_files(&bytes);
    kvf_store_close(store);
    store = store_open(bytes);
    kvf_session *session = store_session(KVF_PROFILE_FOLD, 7, 100);
    kvf_store_put_report report;
    refuse(CALL_UNLINK, EACCES, UINT32_MAX);
    assert_int_equal(kvf_store_put(store, session, &report, &error), KVF_FILE_IO);
    expect_reason(&error, EACCES, "cannot remove");
    assert_true(!report.stored && report.n_removed == 0 && report.held_bytes == bytes);
    assert_int_equal(store_count_files(&bytes), 3);
    refusal.name = names[0];
    assert_int_equal(kvf_store_put(store, session, &report, &error), KVF_OK);
    assert_true(report.stored && report.n_removed == 1 && report.held_bytes == bytes);
    assert_true(store_has(names[0]) && !store_has(names[1]) && store_has(names[2]));
    kvf_session_close(session);
    session = store_session(KVF_PROFILE_FOLD, 8, 100); /* a signal is no refusal */
    refuse(CALL_UNLINK, EINTR, 3);
    assert_int_equal(kvf_store_put(store, session, &report, &error), KVF_OK);
    assert_true(report.stored && !store_has(names[0]) && store_has(names[2]));
    kvf_session_close(session);
    kvf_store_close(store);
}

/* Prefixes can be used that cannot be changed. */
static void a_store_that_cannot_be_written_to_can_be_searched(void **state)
{
    (void)state;
    kvf_store *store = store_open(STORE_LARGE);
    kvf_error error;
    char note[KVF_STORE_NAME_BYTES];
    store_put(store, KVF_PROFILE_FOLD, 0, 60, note);
    strcpy(note + KVF_STORE_DIGITS, KVF_STORE_USED);
    kvf_session *session = store_session(KVF_PROFILE_FOLD, 0, 100);
    refuse(CALL_OPEN, EROFS, UINT32_MAX);
    refusal.name = note;
    assert_int_equal(store_found_tokens(store, 0, 80), 60);
    assert_int_equal(refusal.n_refused, 1);
    assert_false(store_has(note));
    refusal.name = "store/lock";
    assert_int_equal(kvf_store_put(store, session, NULL, &error), KVF_FILE_IO);
    expect_reason(&error, EROFS, "store/lock");
    refuse(CALL_UTIMENSAT, EPERM, UINT32_MAX); /* of somebody else's file */
    assert_int_equal(store_found_tokens(store, 0, 80), 60);
    assert_int_equal(kvf_store_put(store, session, NULL, NULL), KVF_OK);
    kvf_session_close(session);
    kvf_store_close(store);
}

/* FAT keeps even seconds: all of this happens in one of them. */
static void uses_are_told_apart_by_coarse_times(void **state)
{
    (void)state;
    char names[4][KVF_STORE_NAME_BYTES];
    uint64_t bytes;
    kvf_store *store = store_open(STORE_LARGE);
    refusal.grain = 2;
    for (uint64_t i = 0; i < 4; i++)
        store_put(store, KVF_PROFILE_FOLD, i, 100, names[i]);
    for (uint64_t i = 4; i-- > 0;)
        assert_int_equal(store_found_tokens(store, i, 120), 100);
    store_count_files(&bytes);
    kvf_store_close(store);
    store = store_open(bytes);
    for (uint64_t i = 4; i-- > 0;) {
        assert_true(store_has(names[i]));
        store_put(store, KVF_PROFILE_FOLD, 10 + i, 100, NULL);
        assert_false(store_has(names[i]));
    }
    kvf_store_close(store);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        SYSTEM_TEST(a_save_says_why_it_cannot_lock),
        SYSTEM_TEST(a_store_says_why_it_cannot_lock),
        SYSTEM_TEST(who_waits_for_a_store_is_asked_whether_to),
        SYSTEM_TEST(a_file_system_without_syncs_does_not_fail_a_save),
        SYSTEM_TEST(a_signal_ends_no_call),
        SYSTEM_TEST(what_cannot_be_removed_stays_and_another_leaves),
        SYSTEM_TEST(a_store_that_cannot_be_written_to_can_be_searched),
        SYSTEM_TEST(uses_are_told_apart_by_coarse_times),
    };
    return cmocka_run_group_tests(tests, snap_setup, snap_teardown);
}

#else

int main(void)
{
    print_message("this linker cannot put functions before the system's: nothing tested\n");
    return 0;
}

#endif
