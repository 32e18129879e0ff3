/*
 * A disk that is slow, stuck or full: those that are answered do not wait for it, what has to leave
 * the memory is on it before, or is dropped and counted. The linker puts the functions below
 * before pwrite and fsync.
 */
#include "support.h"

#include <dirent.h>
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "clock.h"

#ifdef KVF_TEST_WRAPPED_SYSTEM

enum { TEXT = 300, ANSWER = 8, LONG = 2200 / SHORTER, MANY = 500 };

/* ---- The disk ----------------------------------------------------------------------------- */

static atomic_int write_milliseconds;
static atomic_int sync_milliseconds;
static atomic_bool is_stuck;       /* in fsync, until it is not */
static atomic_bool is_stuck_early; /* in pwrite, too */
static atomic_bool is_full;
static atomic_int n_stuck; /* calls that wait now */

ssize_t __real_pwrite(int file, const void *data, size_t bytes, off_t offset);
ssize_t __wrap_pwrite(int file, const void *data, size_t bytes, off_t offset);
int __real_fsync(int file);
int __wrap_fsync(int file);

static void pause_for(int milliseconds)
{
    const struct timespec time = {milliseconds / 1000, milliseconds % 1000 * 1000000L};
    nanosleep(&time, NULL);
}

ssize_t __wrap_pwrite(int file, const void *data, size_t bytes, off_t offset)
{
    pause_for(write_milliseconds);
    n_stuck++;
    while (is_stuck_early)
        pause_for(1);
    n_stuck--;
    if (is_full) {
        errno = ENOSPC;
        return -1;
    }
    return __real_pwrite(file, data, bytes, offset);
}

int __wrap_fsync(int file)
{
    pause_for(sync_milliseconds);
    n_stuck++;
    while (is_stuck)
        pause_for(1);
    n_stuck--;
    return __real_fsync(file);
}

static void heal(void)
{
    write_milliseconds = 0;
    sync_milliseconds = 0;
    is_stuck = is_stuck_early = false;
    is_full = false;
}

/* ---- Its folder --------------------------------------------------------------------------- */

static char folder[] = "/tmp/kvfold_saving_XXXXXX";

static int make_folder(void **state)
{
    (void)state;
    strcpy(folder + sizeof folder - 7, "XXXXXX");
    return mkdtemp(folder) ? 0 : -1;
}

/* How many files of sessions there are; they may be removed. */
static int count_files(bool removes)
{
    char path[512];
    int n = 0;
    DIR *entries = opendir(folder);
    assert_non_null(entries);
    for (const struct dirent *entry; (entry = readdir(entries));) {
        if (entry->d_name[0] == '.')
            continue;
        snprintf(path, sizeof path, "%s/%s", folder, entry->d_name);
        n += strstr(entry->d_name, ".kvfold") != NULL;
        if (removes)
            unlink(path);
    }
    closedir(entries);
    return n;
}

static int remove_folder(void **state)
{
    (void)state;
    heal();
    count_files(true);
    return rmdir(folder);
}

/* ---- A server on it ------------------------------------------------------------------------ */

static void ask_for(served *server, asked *one, const int32_t *text, size_t n, uint64_t most)
{
    memset(one, 0, sizeof *one);
    ask(server, one, text, n, (kvf_job_options){.max_tokens = most});
}

/* Greedy, and no end of it. */
static kvf_draw endless(void)
{
    static const kvf_bias no_end = {257, -1e30f};
    kvf_draw draw = greedy();
    draw.bias = &no_end;
    draw.n_bias = 1;
    return draw;
}

/* Until it is so; the disk's threads need some time. */
#define WAIT_UNTIL(condition)                                                                      \
    for (double began = kvf_seconds(); !(condition); pause_for(1))                                 \
    assert_true(kvf_seconds() - began < 20.0 * SHORTER)

/* Room for one session of TEXT tokens that runs, and not for another one that is held beside. */
static kvf_scheduler_options for_one(void)
{
    return (kvf_scheduler_options){
        .folder = folder, .context_tokens = 1024, .memory_bytes = 6u << 20};
}

/* ---- Beside answers ----------------------------------------------------------------------- */

static void test_answers_go_on_while_a_large_session_is_saved(void **state)
{
    (void)state;
    int32_t *text = calloc(LONG, sizeof *text);
    int32_t other[TEXT];
    served server;
    asked *jobs = calloc(2, sizeof *jobs);
    make_prompt(text, LONG, 1);
    make_prompt(other, TEXT, 2);
    serve(&server, &(kvf_scheduler_options){.folder = folder});
    is_stuck_early = true;
    ask_for(&server, &jobs[1], text, LONG, 2);
    wait_for(&jobs[1]);
    WAIT_UNTIL(n_stuck == 1);
    /* None of its file is there when the other one begins, which answers all the same. */
    jobs[0].slow_seconds = 0.005;
    ask(&server, &jobs[0], other, TEXT, (kvf_job_options){.max_tokens = MANY, .draw = endless()});
    wait_for_tokens(&jobs[0], 20);
    assert_int_equal(report_of(&server).stored_files, 0);
    write_milliseconds = 5;
    is_stuck_early = false;
    WAIT_UNTIL(report_of(&server).stored_files == 1);
    assert_int_equal(jobs[0].n_ended, 0);
    assert_true(report_of(&server).stored_tokens >= LONG);
    assert_true(report_of(&server).longest_pause_seconds < 0.5 * SHORTER);
    heal();
    kvf_job_cancel(jobs[0].job);
    wait_for(&jobs[0]);
    serve_end(&server);
    assert_int_equal(count_files(false), 2);
    free(jobs);
    free(text);
}

static void test_a_file_is_restored_while_another_is_answered(void **state)
{
    (void)state;
    int32_t text[2][TEXT];
    served server;
    asked *jobs = calloc(3, sizeof *jobs);
    const kvf_scheduler_options options = {.folder = folder};
    make_prompt(text[0], TEXT, 1);
    make_prompt(text[1], TEXT, 2);
    serve(&server, &options);
    ask_as_alone(&server, &jobs[1], text[0], TEXT, greedy(), ANSWER);
    serve_end(&server);
    serve(&server, &options);
    memset(jobs, 0, 3 * sizeof *jobs);
    jobs[0].slow_seconds = 0.002;
    ask(&server, &jobs[0], text[1], TEXT, (kvf_job_options){.max_tokens = 60});
    wait_for_tokens(&jobs[0], 1);
    /* Both wait for the one file, and go on from it. */
    ask_for(&server, &jobs[1], text[0], TEXT, ANSWER);
    ask_for(&server, &jobs[2], text[0], TEXT, ANSWER);
    for (int i = 1; i < 3; i++) {
        wait_for(&jobs[i]);
        assert_as_alone(&jobs[i], 0, text[0], TEXT, greedy(), ANSWER);
        assert_true(jobs[i].choices[0].usage.n_cached >= TEXT - 128);
    }
    wait_for(&jobs[0]);
    assert_as_alone(&jobs[0], 0, text[1], TEXT, greedy(), 60);
    serve_end(&server);
    free(jobs);
}

/* ---- What leaves the memory ----------------------------------------------------------------- */

static void test_what_leaves_is_on_the_disk_before(void **state)
{
    (void)state;
    int32_t text[TEXT];
    served server;
    asked *one = calloc(1, sizeof *one);
    const kvf_scheduler_options options = for_one();
    serve(&server, &options);
    sync_milliseconds = 100;
    for (uint64_t i = 0; i < 4; i++) {
        make_prompt(text, TEXT, i);
        ask_as_alone(&server, one, text, TEXT, greedy(), ANSWER);
        assert_true(report_of(&server).live_bytes <= options.memory_bytes);
    }
    assert_true(report_of(&server).n_evicted >= 3);
    assert_int_equal(report_of(&server).n_dropped, 0);
    assert_true(report_of(&server).stored_files >= 3);
    assert_true(report_of(&server).most_bytes <= options.memory_bytes);
    heal();
    serve_end(&server);
    assert_int_equal(count_files(false), 4);
    serve(&server, &(kvf_scheduler_options){.folder = folder});
    for (uint64_t i = 0; i < 4; i++) {
        make_prompt(text, TEXT, i);
        ask_as_alone(&server, one, text, TEXT, greedy(), ANSWER);
        assert_true(one->choices[0].usage.n_cached >= TEXT - 128);
    }
    serve_end(&server);
    free(one);
}

static void test_a_stuck_disk_is_not_waited_for(void **state)
{
    (void)state;
    int32_t text[TEXT];
    served server;
    asked *one = calloc(1, sizeof *one);
    const kvf_scheduler_options options = for_one();
    serve(&server, &options);
    is_stuck = true;
    for (uint64_t i = 0; i < 3; i++) {
        make_prompt(text, TEXT, i);
        ask_as_alone(&server, one, text, TEXT, greedy(), ANSWER);
        if (i == 0)
            WAIT_UNTIL(n_stuck == 1);
        /* What the disk has not confirmed does not count, and what left was counted. */
        assert_int_equal(report_of(&server).stored_files, 0);
        assert_int_equal(report_of(&server).n_dropped, i);
        assert_int_equal(report_of(&server).n_evicted, i);
    }
    heal();
    serve_end(&server);
    free(one);
}

static void test_a_full_disk_is_not_waited_for(void **state)
{
    (void)state;
    int32_t text[TEXT];
    served server;
    asked *one = calloc(1, sizeof *one);
    const kvf_scheduler_options options = for_one();
    serve(&server, &options);
    is_full = true;
    for (uint64_t i = 0; i < 3; i++) {
        make_prompt(text, TEXT, i);
        ask_as_alone(&server, one, text, TEXT, greedy(), ANSWER);
        assert_int_equal(report_of(&server).n_dropped, i);
    }
    serve_end(&server);
    assert_int_equal(count_files(false), 0);
    heal();
    /* Nothing of it is remembered: with room, all is kept. */
    serve(&server, &options);
    ask_as_alone(&server, one, text, TEXT, greedy(), ANSWER);
    serve_end(&server);
    assert_int_equal(count_files(false), 1);
    free(one);
}

static void test_stopping_waits_until_all_is_saved(void **state)
{
    (void)state;
    int32_t text[TEXT];
    served server;
    asked *one = calloc(1, sizeof *one);
    const kvf_scheduler_options options = {.folder = folder};
    serve(&server, &options);
    write_milliseconds = 2;
    sync_milliseconds = 50;
    for (uint64_t i = 0; i < 3; i++) {
        make_prompt(text, TEXT, i);
        ask_as_alone(&server, one, text, TEXT, greedy(), ANSWER);
    }
    serve_end(&server);
    heal();
    serve(&server, &options);
    assert_int_equal(report_of(&server).stored_files, 3);
    serve_end(&server);
    free(one);
}

#define IN_FOLDER(test) cmocka_unit_test_setup_teardown(test, make_folder, remove_folder)

int main(void)
{
    const struct CMUnitTest tests[] = {
        IN_FOLDER(test_answers_go_on_while_a_large_session_is_saved),
        IN_FOLDER(test_a_file_is_restored_while_another_is_answered),
        IN_FOLDER(test_what_leaves_is_on_the_disk_before),
        IN_FOLDER(test_a_stuck_disk_is_not_waited_for),
        IN_FOLDER(test_a_full_disk_is_not_waited_for),
        IN_FOLDER(test_stopping_waits_until_all_is_saved),
    };
    return cmocka_run_group_tests_name("saving", tests, NULL, NULL);
}

#else

int main(void)
{
    print_message("this linker cannot put functions before the system's: nothing tested\n");
    return 0;
}

#endif
