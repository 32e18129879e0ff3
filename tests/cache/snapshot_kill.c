/*
 * A process that saves again and again is killed at random moments. What it had saved
 * last, or was just saving, must be there each time, and nothing else.
 *
 * The program runs itself as the process that saves: NAME --child PATH. It tells of each
 * finished save by writing the number of tokens to its standard output.
 */
#include "saving_beside.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define MOST_TOKENS 3000
/* Up to a few saves after the first; on a slow disk the kill falls into the first. */
#define LONGEST_LIFE_US 12000

static const char *program;
static unsigned kills;

static struct timespec changed_of(const struct stat *info)
{
#ifdef __APPLE__
    return info->st_mtimespec;
#else
    return info->st_mtim;
#endif
}

/* The next chunk of a session of n tokens, and how it is saved then. */
static uint32_t next_chunk(uint64_t n_tokens)
{
    return (uint32_t)(1 + n_tokens % 3);
}

static kvf_save_options next_options(uint64_t n_tokens)
{
    return (kvf_save_options){.whole = n_tokens % 4 == 0,
                              .compress = n_tokens % 16 == 0 && kvf_codec_bound(1) > 0};
}

/* In one call, or in pieces by a thread of its own. */
static kvf_status save(kvf_session *session, const char *path, const kvf_save_options *how,
                       bool in_pieces)
{
    beside one;
    if (!in_pieces)
        return kvf_session_save(session, path, how, NULL, NULL);
    beside_begin(&one, session, path, how, &kvf_io_system);
    beside_finish(&one, 20000);
    return beside_end(&one, session);
}

static int child(const char *path)
{
    const kvf_device_options options = {.n_threads = 1};
    kvf_session *session;
    if (kvf_device_open(&options, &snap_device, NULL) != KVF_OK)
        return 2;
    if (access(path, F_OK) != 0)
        session = snap_open(snap_device, KVF_PROFILE_FOLD, false);
    else if (kvf_session_load(snap_device, path, NULL, &session, NULL) != KVF_OK)
        return 3;
    for (;;) {
        if (snap_step(session, next_chunk(kvf_session_n_tokens(session)), NULL, NULL) != KVF_OK)
            return 4;
        const uint64_t n_tokens = kvf_session_n_tokens(session);
        const kvf_save_options how = next_options(n_tokens);
        if (save(session, path, &how, n_tokens % 3 == 1) != KVF_OK)
            return 5;
        if (write(STDOUT_FILENO, &n_tokens, sizeof n_tokens) != sizeof n_tokens)
            return 6;
    }
}

/* Lets a child save for a random while; *acknowledged is its last finished save, if any. */
static void live_and_die(const char *path, uint64_t *random, uint64_t *acknowledged)
{
    int ends[2];
    uint64_t n_tokens;
    assert_int_equal(pipe(ends), 0);
    const pid_t process = fork();
    assert_true(process >= 0);
    if (process == 0) {
        dup2(ends[1], STDOUT_FILENO);
        close(ends[0]);
        close(ends[1]);
        execl(program, program, "--child", path, (char *)NULL);
        _exit(9);
    }
    close(ends[1]);
    /* One in eight dies while it starts, or at its first save. */
    if (snap_random(random) % 8 != 0 &&
        read(ends[0], &n_tokens, sizeof n_tokens) == sizeof n_tokens)
        *acknowledged = n_tokens;
    const struct timespec life = {.tv_nsec = (long)(snap_random(random) % LONGEST_LIFE_US) * 1000};
    nanosleep(&life, NULL);
    kill(process, SIGKILL);
    int status;
    assert_int_equal(waitpid(process, &status, 0), process);
    assert_true(WIFSIGNALED(status)); /* it had not ended by itself */
    while (read(ends[0], &n_tokens, sizeof n_tokens) == sizeof n_tokens)
        *acknowledged = n_tokens;
    close(ends[0]);
}

/* ---- What a kill left ------------------------------------------------------------------- */

/* Kills that fell into a save, seen by what it left. */
static struct interrupted {
    unsigned new_files; /* PATH.saving */
    unsigned additions; /* bytes behind the end, or one header alone */
} interrupted;

/* Whether the file is there and was written since the last look: what lay there is known. */
static bool is_changed(const char *path, struct timespec *known)
{
    struct stat info;
    if (stat(path, &info) != 0)
        return false;
    const struct timespec now = changed_of(&info);
    const bool changed = now.tv_sec != known->tv_sec || now.tv_nsec != known->tv_nsec;
    *known = now;
    return changed;
}

static void look_for_new_file(const char *path)
{
    static struct timespec known;
    char name[410];
    snprintf(name, sizeof name, "%s.saving", path);
    interrupted.new_files += is_changed(name, &known);
}

static void look_for_addition(const char *path)
{
    static struct timespec known;
    kvf_snapshot_index index;
    if (!is_changed(path, &known))
        return;
    const int file = open(path, O_RDONLY);
    assert_true(file >= 0);
    assert_int_equal(kvf_snapshot_read_index(&kvf_io_system, file, path, &index, NULL), KVF_OK);
    interrupted.additions += index.file_bytes > index.header.end_bytes || !index.in_both;
    close(file);
    kvf_snapshot_free_index(&index);
}

static void what_was_saved_survives_a_kill(void **state)
{
    (void)state;
    char path[400];
    uint64_t random = 20261125;
    uint64_t acknowledged = 0;
    unsigned n_later = 0;
    snprintf(path, sizeof path, "%s", snap_path("killed"));
    kvf_session *expected = snap_open(snap_device, KVF_PROFILE_FOLD, false);
    for (unsigned i = 0; i < kills; i++) {
        live_and_die(path, &random, &acknowledged);
        look_for_new_file(path);
        if (acknowledged == 0 && access(path, F_OK) != 0)
            continue; /* it had not saved yet */
        const kvf_load_options verify = {.verify = true};
        kvf_session *restored = snap_load(snap_device, path, &verify);
        const uint64_t n_tokens = kvf_session_n_tokens(restored);
        assert_true(n_tokens == acknowledged ||
                    n_tokens == acknowledged + next_chunk(acknowledged));
        look_for_addition(path);
        n_later += n_tokens != acknowledged;
        acknowledged = n_tokens;
        while (kvf_session_n_tokens(expected) < n_tokens)
            assert_int_equal(
                snap_step(expected, next_chunk(kvf_session_n_tokens(expected)), NULL, NULL),
                KVF_OK);
        assert_int_equal(snap_digest(restored, true), snap_digest(expected, true));
        kvf_session_close(restored);
        if (n_tokens > MOST_TOKENS) {
            assert_int_equal(remove(path), 0);
            kvf_session_close(expected);
            expected = snap_open(snap_device, KVF_PROFILE_FOLD, false);
            acknowledged = 0;
        }
    }
    print_message("%u kills: %u in a new file, %u in an addition, %u after a save that was not "
                  "told of yet\n",
                  kills, interrupted.new_files, interrupted.additions, n_later);
    /* Others fall while tokens come, or before a save has written anything. */
    assert_true(interrupted.new_files * 20 >= kills && interrupted.additions * 20 >= kills);
    kvf_session_close(expected);
}

int snap_kill_main(int argc, char **argv, unsigned n_kills)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(what_was_saved_survives_a_kill)};
    if (argc == 3 && strcmp(argv[1], "--child") == 0)
        return child(argv[2]);
    program = argv[0];
    kills = n_kills;
    return cmocka_run_group_tests(tests, snap_setup, snap_teardown);
}
