/* Mapped files that are shortened or changed: what is noticed, and what is left alone. */
#include "checkpoint_files.h"

#include "cli/lost_files.h"

#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/time.h>
#include <sys/wait.h>

/* One tensor of so many bytes that pages of any machine can be cut off. */
enum { TENSOR_BYTES = 1 << 20, N_THREADS = 4, EXIT_HANDLED = 42 };

static const char *const shards[] = {"one.st", "two.st"};

/* Two shards, "a" and "b", every byte a 7. */
static void write_checkpoint(const char *folder)
{
    char *data = malloc(TENSOR_BYTES);
    assert_non_null(data);
    memset(data, 7, TENSOR_BYTES);
    for (int i = 0; i < 2; i++) {
        tensor_entry entry = {"a", "U8", 1, {TENSOR_BYTES}, data, TENSOR_BYTES};
        entry.name[0] = (char)('a' + i);
        write_entries(folder, shards[i], &entry, 1);
    }
    free(data);
    write_text(folder, "model.safetensors.index.json",
               "{\"weight_map\":{\"a\":\"one.st\",\"b\":\"two.st\"}}");
}

static kvf_tensor_set *open_checkpoint(const char *folder)
{
    kvf_tensor_set *set = NULL;
    kvf_error error = {0};
    write_checkpoint(folder);
    if (kvf_tensor_set_open(folder, &set, &error) != KVF_OK)
        fail_msg("%s", error.message);
    return set;
}

static const char *path_of(const char *folder, const char *name)
{
    static char path[512];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    return path;
}

static uint64_t sum(const kvf_tensor *tensor)
{
    const volatile unsigned char *data = tensor->data;
    uint64_t total = 0;
    for (uint64_t i = 0; i < tensor->bytes; i++)
        total += data[i];
    return total;
}

/* ---- What happens in a process of its own: its exit status, or less a signal's number ---- */

static int run_child(void (*child)(const char *), const char *folder)
{
    const pid_t id = fork();
    assert_true(id >= 0);
    if (id == 0) {
        const struct rlimit no_core = {0, 0};
        setrlimit(RLIMIT_CORE, &no_core);
        signal(SIGBUS, SIG_DFL); /* a sanitizer has its own */
        alarm(60);
        child(folder);
        _exit(0);
    }
    int status;
    assert_int_equal(waitpid(id, &status, 0), id);
    return WIFSIGNALED(status) ? -WTERMSIG(status) : WEXITSTATUS(status);
}

#define CHILD_REQUIRE(condition) ((condition) ? (void)0 : _exit(__LINE__ % 90 + 100))

static void read_a_lost_file(const char *folder)
{
    kvf_error error = {0};
    kvf_tensor_set *set = open_checkpoint(folder);
    CHILD_REQUIRE(cli_lost_files_watch(&set));
    CHILD_REQUIRE(kvf_tensor_set_check_lost(set, &error) == KVF_OK);
    CHILD_REQUIRE(truncate(path_of(folder, "two.st"), 0) == 0);
    CHILD_REQUIRE(sum(kvf_tensor_set_find(set, "b")) == 0);
    CHILD_REQUIRE(sum(kvf_tensor_set_find(set, "a")) == 7ull * TENSOR_BYTES);
    CHILD_REQUIRE(strstr(kvf_tensor_set_lost(set), "/two.st"));
    CHILD_REQUIRE(kvf_tensor_set_check_lost(set, &error) == KVF_FILE_IO);
    CHILD_REQUIRE(strstr(error.message, "/two.st: became shorter while it was in use"));
    /* For good, even where the file comes back. */
    CHILD_REQUIRE(truncate(path_of(folder, "two.st"), 2 * TENSOR_BYTES) == 0);
    CHILD_REQUIRE(kvf_tensor_set_check_lost(set, &error) == KVF_FILE_IO);
    CHILD_REQUIRE(strstr(error.message, "/two.st: could not be read any more"));
    cli_lost_files_forget(&set);
    kvf_tensor_set_close(set);
}

static void read_half_a_file(const char *folder)
{
    kvf_tensor_set *set = open_checkpoint(folder);
    const kvf_tensor *tensor = kvf_tensor_set_find(set, "a");
    CHILD_REQUIRE(cli_lost_files_watch(&set));
    CHILD_REQUIRE(truncate(path_of(folder, "one.st"), TENSOR_BYTES / 2) == 0);
    CHILD_REQUIRE(((const volatile char *)tensor->data)[0] == 7);
    CHILD_REQUIRE(!kvf_tensor_set_lost(set));
    CHILD_REQUIRE(((const volatile char *)tensor->data)[TENSOR_BYTES - 1] == 0);
    CHILD_REQUIRE(kvf_tensor_set_lost(set));
}

static void *sum_of(void *tensor)
{
    return (void *)(uintptr_t)sum(tensor);
}

static void read_by_threads(const char *folder)
{
    pthread_t threads[N_THREADS];
    kvf_tensor_set *set = open_checkpoint(folder);
    CHILD_REQUIRE(cli_lost_files_watch(&set));
    CHILD_REQUIRE(truncate(path_of(folder, "one.st"), 0) == 0);
    CHILD_REQUIRE(truncate(path_of(folder, "two.st"), 4096) == 0);
    for (int i = 0; i < N_THREADS; i++)
        CHILD_REQUIRE(pthread_create(&threads[i], NULL, sum_of,
                                     (void *)(uintptr_t)kvf_tensor_set_at(set, i % 2)) == 0);
    for (int i = 0; i < N_THREADS; i++)
        CHILD_REQUIRE(pthread_join(threads[i], NULL) == 0);
    CHILD_REQUIRE(kvf_tensor_set_lost(set));
}

static void read_what_is_not_watched(const char *folder)
{
    kvf_tensor_set *set = open_checkpoint(folder);
    kvf_file other;
    kvf_error error;
    CHILD_REQUIRE(kvf_file_map(path_of(folder, "two.st"), &other, &error) == KVF_OK);
    CHILD_REQUIRE(cli_lost_files_watch(&set));
    CHILD_REQUIRE(truncate(path_of(folder, "two.st"), 0) == 0);
    (void)((const volatile char *)other.data)[0];
}

static void read_after_it_was_forgotten(const char *folder)
{
    kvf_tensor_set *set = open_checkpoint(folder);
    CHILD_REQUIRE(cli_lost_files_watch(&set));
    cli_lost_files_forget(&set);
    CHILD_REQUIRE(truncate(path_of(folder, "two.st"), 0) == 0);
    sum(kvf_tensor_set_find(set, "b"));
}

static void send_a_signal(const char *folder)
{
    kvf_tensor_set *set = open_checkpoint(folder);
    CHILD_REQUIRE(cli_lost_files_watch(&set));
    kill(getpid(), SIGBUS);
}

/* ---- Handlers that were there before ------------------------------------------------------ */

static void handle(int signal_number)
{
    _exit(signal_number == SIGBUS ? EXIT_HANDLED : 1);
}

static void handle_with_address(int signal_number, siginfo_t *info, void *context)
{
    _exit(signal_number == SIGBUS && info && context ? EXIT_HANDLED : 1);
}

static void (*what_then)(const char *);

static void with_handler(const char *folder)
{
    signal(SIGBUS, handle);
    what_then(folder);
}

static void with_action(const char *folder)
{
    struct sigaction action = {.sa_flags = SA_SIGINFO};
    action.sa_sigaction = handle_with_address;
    CHILD_REQUIRE(sigaction(SIGBUS, &action, NULL) == 0);
    what_then(folder);
}

static void with_signal_ignored(const char *folder)
{
    signal(SIGBUS, SIG_IGN);
    what_then(folder);
}

static void test_a_lost_file_reads_as_zeros_and_is_named(void **state)
{
    assert_int_equal(run_child(read_a_lost_file, *state), 0);
    assert_int_equal(run_child(read_half_a_file, *state), 0);
    assert_int_equal(run_child(read_by_threads, *state), 0);
    what_then = read_a_lost_file;
    assert_int_equal(run_child(with_handler, *state), 0);
    assert_int_equal(run_child(with_signal_ignored, *state), 0);
}

static void test_any_other_signal_goes_where_it_went_before(void **state)
{
    void (*const others[])(const char *) = {read_what_is_not_watched, read_after_it_was_forgotten,
                                            send_a_signal};
    for (int i = 0; i < 3; i++) {
        what_then = others[i];
        assert_int_equal(run_child(what_then, *state), -SIGBUS);
        assert_int_equal(run_child(with_handler, *state), EXIT_HANDLED);
        assert_int_equal(run_child(with_action, *state), EXIT_HANDLED);
        /* Faults cannot be ignored, signals that were sent can. */
        assert_int_equal(run_child(with_signal_ignored, *state),
                         what_then == send_a_signal ? 0 : -SIGBUS);
    }
}

static void test_a_fault_elsewhere_is_not_the_sets(void **state)
{
    kvf_tensor_set *set = open_checkpoint(*state);
    const kvf_tensor *tensor = kvf_tensor_set_find(set, "a");
    const kvf_file *file = &kvf_tensor_set_file(set, 0)->map;
    const size_t page_bytes = (size_t)sysconf(_SC_PAGESIZE);
    const size_t mapped_bytes = (file->bytes + page_bytes - 1) / page_bytes * page_bytes;
    assert_false(kvf_tensor_set_fault(set, NULL));
    assert_false(kvf_tensor_set_fault(set, &set));
    assert_false(kvf_tensor_set_fault(set, (const char *)file->data - 1) &&
                 kvf_tensor_set_file(set, 0)->lost);
    assert_false(kvf_tensor_set_fault(set, (const char *)file->data + mapped_bytes) &&
                 kvf_tensor_set_file(set, 0)->lost);
    assert_int_equal(((const char *)tensor->data)[0], 7);
    assert_true(kvf_tensor_set_fault(set, (const char *)file->data + mapped_bytes - 1));
    assert_int_equal(((const char *)tensor->data)[0], 0);
    assert_string_equal(kvf_tensor_set_lost(set), tensor->file);
    kvf_tensor_set_close(set);
}

/* The rest of a file's last page reads as zeros without any signal. */
static void test_a_file_that_is_a_byte_shorter_is_noticed_at_the_end_of_a_step(void **state)
{
    kvf_error error = {0};
    for (int i = 0; i < 2; i++) {
        kvf_tensor_set *set = open_checkpoint(*state);
        const kvf_tensor_file *file = kvf_tensor_set_file(set, (uint32_t)i);
        assert_int_equal(truncate(file->path, (off_t)file->map.bytes - 1), 0);
        assert_failed("a byte", kvf_tensor_set_check_lost(set, &error), KVF_FILE_IO, &error,
                      i ? "/two.st: became shorter" : "/one.st: became shorter");
        kvf_tensor_set_close(set);
    }
    kvf_tensor_set *set = open_checkpoint(*state); /* growing does no harm to a step */
    assert_int_equal(truncate(path_of(*state, shards[0]), 3 * TENSOR_BYTES), 0);
    assert_int_equal(kvf_tensor_set_check_lost(set, &error), KVF_OK);
    assert_int_equal(unlink(path_of(*state, shards[0])), 0); /* nor does removing it */
    assert_int_equal(kvf_tensor_set_check_lost(set, &error), KVF_OK);
    kvf_tensor_set_close(set);
}

/* ---- Changes of any kind ------------------------------------------------------------------- */

static void expect_changed(kvf_tensor_set *set, const char *parts)
{
    kvf_error error = {0};
    assert_failed(parts, kvf_tensor_set_check_unchanged(set, &error), KVF_FILE_IO, &error, parts);
    kvf_tensor_set_close(set);
}

static void test_changes_of_any_kind_are_told_apart(void **state)
{
    kvf_error error = {0};
    char path[512];
    kvf_tensor_set *set = open_checkpoint(*state);
    snprintf(path, sizeof path, "%s", path_of(*state, shards[1]));
    assert_int_equal(kvf_tensor_set_check_unchanged(set, &error), KVF_OK);
    assert_int_equal(truncate(path, 100), 0);
    expect_changed(set, "/two.st: has been shortened since it was opened");
    set = open_checkpoint(*state);
    assert_int_equal(unlink(path), 0);
    expect_changed(set, "/two.st: has been removed since it was opened: No such file");
    set = open_checkpoint(*state);
    write_text(*state, "new", "{}");
    assert_int_equal(rename(path_of(*state, "new"), path), 0);
    expect_changed(set, "/two.st: has been replaced by another file since it was opened");
    set = open_checkpoint(*state); /* a byte, and the time of the content put back */
    const struct timespec zero[2] = {{1, 0}, {1, 0}};
    assert_int_equal(utimensat(AT_FDCWD, path, zero, 0), 0);
    kvf_tensor_set_close(set);
    assert_int_equal(kvf_tensor_set_open(*state, &set, &error), KVF_OK);
    usleep(20000); /* the clock of files ticks every 10 ms at most */
    FILE *file = fopen(path, "r+b");
    assert_non_null(file);
    fputc('x', file);
    fclose(file);
    assert_int_equal(utimensat(AT_FDCWD, path, zero, 0), 0);
    expect_changed(set, "/two.st: has been changed (|since it was opened");
}

#define IN_FOLDER(test) cmocka_unit_test_setup_teardown(test, make_folder, remove_folder)

int main(void)
{
    const struct CMUnitTest tests[] = {
        IN_FOLDER(test_a_lost_file_reads_as_zeros_and_is_named),
        IN_FOLDER(test_any_other_signal_goes_where_it_went_before),
        IN_FOLDER(test_a_fault_elsewhere_is_not_the_sets),
        IN_FOLDER(test_a_file_that_is_a_byte_shorter_is_noticed_at_the_end_of_a_step),
        IN_FOLDER(test_changes_of_any_kind_are_told_apart),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
