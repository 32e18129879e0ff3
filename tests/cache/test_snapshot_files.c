/*
 * Which file a save writes: a snapshot, through links to it, with the permissions it had;
 * never one that is something else, and none by two writers.
 */
#include "snapshot_support.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

static bool is_link(const char *path)
{
    struct stat info;
    return lstat(path, &info) == 0 && S_ISLNK(info.st_mode);
}

static bool is_there(const char *path)
{
    struct stat info;
    return lstat(path, &info) == 0;
}

/* ---- Links ------------------------------------------------------------------------------- */

/* Saved through the link: it is still one, and the file it leads to has the new state. */
static void save_through(kvf_session *session, const kvf_save_options *options, bool appended)
{
    const char *link = snap_path("link");
    const char *target = snap_path("elsewhere/state");
    kvf_save_report report;
    kvf_error error;
    assert_int_equal(snap_step(session, 1, NULL, NULL), KVF_OK);
    if (kvf_session_save(session, link, options, &report, &error) != KVF_OK)
        fail_msg("%s", error.message);
    assert_int_equal(report.appended, appended);
    assert_true(is_link(link));
    assert_false(is_link(target));
    assert_int_equal(snap_file_bytes(target), report.file_bytes);
    snap_expect_same(target, session);
    assert_false(is_there(snap_path("link.saving")));
    assert_false(is_there(snap_path("elsewhere/state.saving")));
}

static void a_link_stays_and_what_it_leads_to_is_saved(void **state)
{
    (void)state;
    static const kvf_save_options whole = {.whole = true};
    static const char *const leads[] = {"elsewhere/state", NULL, "second"};
    assert_int_equal(mkdir(snap_path("elsewhere"), 0700), 0);
    assert_int_equal(symlink("elsewhere/state", snap_path("second")), 0);
    /* Relative, absolute, and to another link. */
    for (size_t i = 0; i < sizeof leads / sizeof *leads; i++) {
        kvf_session *session = snap_open(snap_device, KVF_PROFILE_FOLD, false);
        kvf_session *other = snap_open(snap_device, KVF_PROFILE_FOLD, false);
        snap_grow(session, 1000);
        snap_save(other, snap_path("elsewhere/state"));
        const char *target = leads[i] ? leads[i] : snap_path("elsewhere/state");
        assert_int_equal(symlink(target, snap_path("link")), 0);
        save_through(session, NULL, false);
        save_through(session, NULL, true);
        save_through(session, &whole, false);
        save_through(session, NULL, true);
        assert_true(is_link(snap_path("second")));
        kvf_session_close(other);
        kvf_session_close(session);
        assert_int_equal(unlink(snap_path("link")), 0);
    }
    assert_int_equal(unlink(snap_path("second")), 0);
    assert_int_equal(unlink(snap_path("elsewhere/state")), 0);
    assert_int_equal(rmdir(snap_path("elsewhere")), 0); /* and nothing else was there */
}

static void a_link_that_leads_nowhere_is_an_error_that_names_it(void **state)
{
    (void)state;
    const char *link = snap_path("dangling");
    kvf_session *session = snap_open(snap_device, KVF_PROFILE_FOLD, false);
    kvf_error error;
    snap_grow(session, 10);
    assert_int_equal(symlink("nothing", link), 0);
    assert_int_equal(kvf_session_save(session, link, NULL, NULL, &error), KVF_FILE_NOT_FOUND);
    assert_non_null(strstr(error.message, link));
    assert_non_null(strstr(error.message, "link:"));
    assert_true(is_link(link));
    assert_false(is_there(snap_path("nothing")));
    assert_false(is_there(snap_path("nothing.saving")));
    assert_false(is_there(snap_path("dangling.saving")));
    /* One that leads to itself. */
    assert_int_equal(unlink(link), 0);
    assert_int_equal(symlink("dangling", link), 0);
    assert_int_equal(kvf_session_save(session, link, NULL, NULL, &error), KVF_FILE_IO);
    assert_non_null(strstr(error.message, link));
    kvf_session_close(session);
}

/* Links in the place of the file that is written lead to what is not the library's. */
static void links_to_other_files_are_not_followed(void **state)
{
    (void)state;
    const char *path = snap_path("linked");
    const char *temporary = snap_path("linked.saving");
    const char *mine = snap_path("mine.txt");
    kvf_session *session = snap_open(snap_device, KVF_PROFILE_FOLD, false);
    kvf_error error;
    snap_grow(session, 10);
    snap_write_file(mine, "mine", 4);
    assert_int_equal(symlink(mine, temporary), 0);
    assert_int_equal(kvf_session_save(session, path, NULL, NULL, &error), KVF_FILE_IO);
    assert_non_null(strstr(error.message, "is a link"));
    assert_int_equal(unlink(temporary), 0);
    assert_int_equal(link(mine, temporary), 0);
    assert_int_equal(kvf_session_save(session, path, NULL, NULL, &error), KVF_FILE_IO);
    assert_int_equal(snap_file_bytes(mine), 4);
    assert_int_equal(unlink(temporary), 0);
    snap_save(session, path);
    kvf_session_close(session);
}

/* ---- Permissions ------------------------------------------------------------------------- */

static unsigned mode_of(const char *path)
{
    struct stat info;
    assert_int_equal(stat(path, &info), 0);
    return info.st_mode & 07777;
}

static int refuse_mode(const kvf_io *io, int file, mode_t mode)
{
    (void)io;
    (void)file;
    (void)mode;
    errno = EPERM;
    return -1;
}

static void a_file_keeps_its_permissions_and_a_new_one_is_the_owner_s(void **state)
{
    (void)state;
    static const kvf_save_options all[] = {{0}, {.whole = true}};
    const char *path = snap_path("mode");
    const char *temporary = snap_path("mode.saving");
    kvf_session *session = snap_open(snap_device, KVF_PROFILE_FOLD, false);
    snap_grow(session, 1000);
    /* Whatever the process lets other files have. */
    const mode_t usual = umask(0);
    snap_save(session, path);
    assert_int_equal(mode_of(path), 0600);
    /* Not even for a moment, nor where they cannot be changed. */
    kvf_io io = kvf_io_system;
    io.set_mode = refuse_mode;
    assert_int_equal(kvf_session_save_to(session, snap_path("fixed"), NULL, NULL, &io, NULL),
                     KVF_OK);
    assert_int_equal(mode_of(snap_path("fixed")), 0600);
    umask(077);
    assert_int_equal(chmod(path, 0640), 0);
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        kvf_save_report report;
        assert_int_equal(snap_step(session, 1, NULL, NULL), KVF_OK);
        assert_int_equal(kvf_session_save(session, path, &all[i], &report, NULL), KVF_OK);
        assert_int_equal(report.appended, !all[i].whole);
        assert_int_equal(mode_of(path), 0640);
    }
    /* What an interrupted save left is used again, but not its permissions. */
    assert_int_equal(unlink(path), 0);
    snap_write_file(temporary, "", 0);
    assert_int_equal(chmod(temporary, 0644), 0);
    snap_save(session, path);
    assert_int_equal(mode_of(path), 0600);
    umask(usual);
    kvf_session_close(session);
}

/* ---- What is not replaced ---------------------------------------------------------------- */

static void only_snapshots_are_replaced_and_by_one_writer(void **state)
{
    (void)state;
    const char *path = snap_path("notes.txt");
    kvf_session *session = snap_open(snap_device, KVF_PROFILE_FOLD, false);
    kvf_error error;
    snap_grow(session, 10);
    snap_write_file(path, "mine", 4);
    assert_int_equal(kvf_session_save(session, path, NULL, NULL, &error), KVF_FILE_IO);
    assert_int_equal(snap_file_bytes(path), 4);
    snap_write_file(path, "", 0);
    snap_save(session, path);
    /* Somebody holds the lock: of the file itself, then of what would replace it. */
    int file = open(path, O_RDONLY);
    assert_int_equal(flock(file, LOCK_EX), 0);
    assert_int_equal(kvf_session_save(session, path, NULL, NULL, &error), KVF_FILE_BUSY);
    close(file);
    const kvf_save_options whole = {.whole = true};
    const char *temporary = snap_path("notes.txt.saving");
    file = open(temporary, O_RDWR | O_CREAT, 0600);
    assert_int_equal(flock(file, LOCK_EX), 0);
    assert_int_equal(kvf_session_save(session, path, &whole, NULL, &error), KVF_FILE_BUSY);
    close(file);
    assert_int_equal(kvf_session_save(session, path, &whole, NULL, &error), KVF_OK);
    assert_int_not_equal(access(temporary, F_OK), 0);
    assert_int_equal(kvf_session_save(session, snap_path("none/x"), NULL, NULL, &error),
                     KVF_FILE_NOT_FOUND);
    assert_int_equal(mkdir(snap_path("folder"), 0700), 0);
    assert_int_equal(kvf_session_save(session, snap_path("folder"), NULL, NULL, &error),
                     KVF_FILE_IO);
    assert_int_equal(kvf_session_save(session, "", NULL, NULL, &error), KVF_INVALID_ARGUMENT);
    const int32_t token = 1;
    assert_int_equal(kvf_session_begin(session, &token, 1, &error), KVF_OK);
    assert_int_equal(kvf_session_save(session, path, NULL, NULL, &error), KVF_INVALID_ARGUMENT);
    kvf_session_close(session);
}

/* Under the name that is written first. */
static void what_no_save_left_is_not_overwritten(void **state)
{
    (void)state;
    const char *path = snap_path("state");
    const char *temporary = snap_path("state.saving");
    const kvf_save_options whole = {.whole = true};
    kvf_session *session = snap_open(snap_device, KVF_PROFILE_FOLD, false);
    kvf_error error;
    snap_grow(session, 10);
    snap_save(session, path);
    snap_grow(session, 11);
    assert_true(snap_save(session, path).appended);
    size_t bytes;
    uint8_t *copy =
        snap_read_file(path, &bytes); /* of the second generation: no save's beginning */
    uint8_t *long_text = malloc(20000);
    memset(long_text, 'x', 20000);
    const struct {
        const void *data;
        size_t bytes;
    } mine[] = {{"m", 1}, {"mine", 4}, {long_text, 20000}, {copy, bytes}, {"kvfold notes", 12}};
    for (size_t i = 0; i < sizeof mine / sizeof *mine; i++) {
        snap_write_file(temporary, mine[i].data, mine[i].bytes);
        assert_false(kvf_snapshot_is_unfinished(temporary));
        assert_int_equal(kvf_session_save(session, path, &whole, NULL, &error), KVF_FILE_IO);
        assert_non_null(strstr(error.message, "state.saving: is there and no save left it"));
        size_t kept_bytes;
        uint8_t *kept = snap_read_file(temporary, &kept_bytes);
        assert_int_equal(kept_bytes, mine[i].bytes);
        assert_memory_equal(kept, mine[i].data, kept_bytes);
        free(kept);
    }
    /* What a save leaves at any of its steps is not in the way of the next. */
    assert_int_equal(unlink(path), 0);
    assert_int_equal(unlink(temporary), 0);
    snap_save(session, path);
    for (int headers = 0; headers <= 3; headers++) {
        uint8_t *left = snap_read_file(path, &bytes);
        for (unsigned slot = 0; slot < KVF_SNAPSHOT_HEADERS; slot++)
            if (!(headers >> slot & 1))
                memset(left + slot * KVF_SNAPSHOT_PAGE_BYTES, 0, KVF_SNAPSHOT_PAGE_BYTES);
        snap_write_file(temporary, left, bytes - 100 * (headers == 0));
        assert_true(kvf_snapshot_is_unfinished(temporary));
        assert_int_equal(kvf_session_save(session, path, &whole, NULL, &error), KVF_OK);
        free(left);
    }
    snap_expect_same(path, session);
    free(long_text);
    free(copy);
    kvf_session_close(session);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_link_stays_and_what_it_leads_to_is_saved),
        cmocka_unit_test(a_link_that_leads_nowhere_is_an_error_that_names_it),
        cmocka_unit_test(links_to_other_files_are_not_followed),
        cmocka_unit_test(a_file_keeps_its_permissions_and_a_new_one_is_the_owner_s),
        cmocka_unit_test(what_no_save_left_is_not_overwritten),
        cmocka_unit_test(only_snapshots_are_replaced_and_by_one_writer),
    };
    return cmocka_run_group_tests(tests, snap_setup, snap_teardown);
}
