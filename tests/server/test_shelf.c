/* Sessions in files: the same after a restart, after a kill, where there is little room. */
#include "support.h"

#include <dirent.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

enum { LONG = 420, TURN = 60, ANSWER = 24, TEXT = LONG + 8 * (TURN + ANSWER) };

static char folder[] = "/tmp/kvfold_shelf_XXXXXX";

static int make_folder(void **state)
{
    (void)state;
    strcpy(folder + sizeof folder - 7, "XXXXXX");
    return mkdtemp(folder) ? 0 : -1;
}

/* Calls `with` for each file of the folder, NULL for none; returns how many there are. */
static int each_file(void (*with)(const char *path))
{
    char path[512];
    int n = 0;
    DIR *entries = opendir(folder);
    assert_non_null(entries);
    for (const struct dirent *entry; (entry = readdir(entries));) {
        if (entry->d_name[0] == '.')
            continue;
        snprintf(path, sizeof path, "%s/%s", folder, entry->d_name);
        n++;
        if (with)
            with(path);
    }
    closedir(entries);
    return n;
}

static void remove_file(const char *path)
{
    unlink(path);
}

static int remove_folder(void **state)
{
    (void)state;
    each_file(remove_file);
    return rmdir(folder);
}

static kvf_scheduler_options on_disk(void)
{
    return (kvf_scheduler_options){.folder = folder, .spacing_tokens = 384};
}

static void check_mode(const char *path)
{
    struct stat info;
    assert_int_equal(stat(path, &info), 0);
    assert_int_equal(info.st_mode & 0777, S_IRUSR | S_IWUSR);
}

static void test_a_conversation_goes_on_after_a_restart(void **state)
{
    (void)state;
    int32_t text[TEXT];
    served server;
    asked *one = calloc(1, sizeof *one);
    size_t n = LONG;
    const kvf_scheduler_options options = on_disk();
    make_prompt(text, n, 1);
    for (uint64_t turn = 1; turn < 4; turn++) {
        serve(&server, &options);
        assert_int_equal(report_of(&server).stored_files, turn > 1);
        ask_as_alone(&server, one, text, n, sampled(turn), ANSWER);
        assert_true(turn == 1 || read_again(one) <= TURN + 1);
        n = append_turn(text, n, one, TURN, turn);
        serve_end(&server);
        each_file(check_mode);

        /* One line of tokens is one file, beside those that the server itself has. */
        assert_int_equal(each_file(NULL), 1);
    }
    free(one);
}

static void test_a_branch_is_a_file_of_its_own(void **state)
{
    (void)state;
    int32_t text[TEXT];
    served server;
    asked *one = calloc(1, sizeof *one);
    const kvf_scheduler_options options = on_disk();
    make_prompt(text, LONG, 1);
    serve(&server, &options);
    ask_as_alone(&server, one, text, LONG, greedy(), ANSWER);
    make_prompt(text + 330, LONG - 330, 2);
    ask_as_alone(&server, one, text, LONG, greedy(), ANSWER);
    const size_t second = append_turn(text, LONG, one, TURN, 3);
    serve_end(&server);
    assert_int_equal(each_file(NULL), 2);
    serve(&server, &options);
    ask_as_alone(&server, one, text, second, greedy(), ANSWER);
    assert_true(read_again(one) <= TURN + 1);
    make_prompt(text, LONG, 1);
    ask_as_alone(&server, one, text, LONG, greedy(), ANSWER);
    assert_true(read_again(one) <= 128); /* the same question: from its checkpoint */
    serve_end(&server);
    assert_int_equal(each_file(NULL), 2);
    free(one);
}

/* What was edited is read again from the checkpoint before it, as in the memory. */
static void test_an_edited_text_is_taken_up_after_a_restart(void **state)
{
    (void)state;
    int32_t text[TEXT];
    served server;
    asked *one = calloc(1, sizeof *one);
    kvf_scheduler_options options = on_disk();
    options.spacing_tokens = 256;
    make_prompt(text, LONG, 1);
    serve(&server, &options);
    ask_as_alone(&server, one, text, LONG, greedy(), ANSWER);
    serve_end(&server);
    static const size_t edited[] = {LONG - 20, 300};
    static const uint64_t from[] = {LONG / 128 * 128, 256};
    for (int i = 0; i < 2; i++) {
        serve(&server, &options);
        make_prompt(text + edited[i], LONG - edited[i], 77);
        ask_as_alone(&server, one, text, LONG, sampled(3), ANSWER);
        assert_int_equal(one->choices[0].usage.n_cached, from[i]);
        serve_end(&server);
    }
    free(one);
}

static long damaged_place;

static void damage(const char *path)
{
    FILE *file = fopen(path, "r+b");
    assert_non_null(file);
    fseek(file, damaged_place, SEEK_SET);
    const int byte = fgetc(file);
    fseek(file, damaged_place, SEEK_SET);
    fputc(byte ^ 0x55, file);
    fclose(file);
}

static void test_a_damaged_file_is_read_again_not_used(void **state)
{
    (void)state;
    int32_t text[TEXT];
    served server;
    asked *one = calloc(1, sizeof *one);
    const kvf_scheduler_options options = on_disk();
    make_prompt(text, LONG, 1);
    serve(&server, &options);
    ask_as_alone(&server, one, text, LONG, greedy(), ANSWER);
    const size_t n = append_turn(text, LONG, one, TURN, 3);
    serve_end(&server);
    for (damaged_place = 40; damaged_place < 300000; damaged_place += 71003) {
        each_file(damage);
        serve(&server, &options);
        ask_as_alone(&server, one, text, n, greedy(), ANSWER);
        serve_end(&server);
    }
    free(one);
}

static void test_files_leave_where_there_is_little_room(void **state)
{
    (void)state;
    int32_t text[TEXT];
    served server;
    asked *one = calloc(1, sizeof *one);
    kvf_scheduler_options options = on_disk();
    options.folder_max_bytes = 8u << 20;
    serve(&server, &options);
    for (uint64_t i = 0; i < 8; i++) {
        make_prompt(text, 300, i);
        ask_as_alone(&server, one, text, 300, greedy(), ANSWER);
    }
    serve_end(&server);
    serve(&server, &options);
    const kvf_scheduler_report report = report_of(&server);
    assert_true(report.stored_files > 0 && report.stored_files < 8);
    assert_true(report.stored_bytes <= options.folder_max_bytes);
    const size_t n = append_turn(text, 300, one, TURN, 3);
    ask_as_alone(&server, one, text, n, greedy(), ANSWER);
    assert_true(read_again(one) <= TURN + 1); /* what was used last stays */
    serve_end(&server);
    free(one);
}

static void test_a_folder_serves_one_at_a_time(void **state)
{
    (void)state;
    served server;
    served second;
    kvf_error error;
    const kvf_scheduler_options options = on_disk();
    kvf_scheduler_options same = options;
    kvf_scheduler *scheduler;
    serve(&server, &options);
    serve(&second, &(kvf_scheduler_options){0});
    same.context_tokens = 4096;
    same.memory_bytes = 1 << 30;
    same.profile = KVF_PROFILE_FOLD;
    assert_int_equal(kvf_scheduler_open(&second.engine, &same, &scheduler, &error), KVF_FILE_IO);
    assert_non_null(strstr(error.message, "in use"));
    assert_null(scheduler);
    serve_end(&second);
    serve_end(&server);
}

/* ---- Killed ------------------------------------------------------------------------------- */

/* What the child has told before it was killed. */
typedef struct told_before {
    volatile uint64_t stored_tokens;
    volatile uint32_t n_asked;
} told_before;

/* Texts that part from each other, one after the other; never returns. */
static void serve_until_killed(told_before *told, uint64_t seed)
{
    int32_t text[TEXT];
    served server;
    const kvf_scheduler_options options = on_disk();
    asked *one = calloc(1, sizeof *one);
    serve(&server, &options);
    for (uint64_t i = 0;; i++) {
        make_prompt(text, 200, 1);
        make_prompt(text + 200, 100, seed + i);
        memset(one, 0, sizeof *one);
        ask(&server, one, text, 300, (kvf_job_options){.max_tokens = 8});
        wait_for(one);
        told->stored_tokens = report_of(&server).stored_tokens;
        told->n_asked++;
    }
}

static void test_what_was_counted_is_there_after_a_kill(void **state)
{
    (void)state;
#if defined(__SANITIZE_THREAD__) /* which has a thread of its own: a child may start none */
    skip();
#endif
    enum { KILLS = 2 }; /* tests/http/test_kill.py has more */
    told_before *told =
        mmap(NULL, sizeof *told, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    served server;
    int32_t text[TEXT];
    asked *one = calloc(1, sizeof *one);
    const kvf_scheduler_options options = on_disk();
    assert_true(told != MAP_FAILED);
    for (uint32_t i = 0; i < KILLS; i++) {
        told->n_asked = 0;
        const pid_t child = fork();
        if (child == 0)
            serve_until_killed(told, 1000 * (i + 1));
        while (told->n_asked < 2) {
            assert_int_equal(waitpid(child, NULL, WNOHANG), 0);
            usleep(1000);
        }
        usleep(1000 * (7 * i + 1)); /* somewhere in a step or a save */
        kill(child, SIGKILL);
        assert_int_equal(waitpid(child, NULL, 0), child);
        serve(&server, &options);
        assert_true(report_of(&server).stored_tokens >= told->stored_tokens);
        make_prompt(text, 200, 1);
        make_prompt(text + 200, 100, 1000 * (i + 1));
        ask_as_alone(&server, one, text, 300, greedy(), ANSWER);
        serve_end(&server);
    }
    munmap(told, sizeof *told);
    free(one);
}

#define IN_FOLDER(test) cmocka_unit_test_setup_teardown(test, make_folder, remove_folder)

int main(void)
{
    const struct CMUnitTest tests[] = {
        IN_FOLDER(test_what_was_counted_is_there_after_a_kill),
        IN_FOLDER(test_a_conversation_goes_on_after_a_restart),
        IN_FOLDER(test_a_branch_is_a_file_of_its_own),
        IN_FOLDER(test_an_edited_text_is_taken_up_after_a_restart),
        IN_FOLDER(test_a_damaged_file_is_read_again_not_used),
        IN_FOLDER(test_files_leave_where_there_is_little_room),
        IN_FOLDER(test_a_folder_serves_one_at_a_time),
    };
    return cmocka_run_group_tests_name("shelf", tests, NULL, NULL);
}
