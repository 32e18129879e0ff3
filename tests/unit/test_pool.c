/*
 * The threads of a device (src/backend/cpu/pool.h): every item once, each thread's number its
 * own, as many threads as were asked for, and what a program around them may do: signals,
 * fork, limits, two devices at once.
 */
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "backend/cpu/pool.h"
#include "backend/cpu/product.h"
#include "shared/fp_environment.h"
#include "test_support.h"

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SANITIZED 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define SANITIZED 1
#endif
#endif
#ifndef SANITIZED
#define SANITIZED 0
#endif

#define MOST_ITEMS 5000
#define MOST_THREADS 40
#define PATIENCE_MS 20000

static void sleep_us(long microseconds)
{
    const struct timespec time = {0, microseconds * 1000};
    nanosleep(&time, NULL);
}

static kvf_pool *open_pool(uint32_t n_threads)
{
    kvf_pool *pool;
    kvf_error error;
    if (kvf_pool_open(n_threads, &pool, &error) != KVF_OK)
        fail_msg("%s", error.message);
    return pool;
}

/* ---- Items ----------------------------------------------------------------------- */

/* cmocka's assertions are for the main thread: tasks count what is wrong. */
typedef struct tally {
    uint32_t n_threads;
    size_t n_items;
    size_t chunk_items;
    _Atomic uint32_t visits[MOST_ITEMS];
    _Atomic bool busy[MOST_THREADS]; /* the number is in use at this moment */
    _Atomic uint32_t n_wrong;
} tally;

static void count_items(void *context, size_t first, size_t end, uint32_t thread)
{
    tally *t = context;
    if (thread >= t->n_threads || end > t->n_items || first >= end) {
        t->n_wrong++;
        return;
    }
    t->n_wrong += atomic_exchange(&t->busy[thread], true);
    /* One chunk of the grid, or all items in a plain call. */
    t->n_wrong +=
        first % t->chunk_items != 0 ||
        (end - first != t->chunk_items && end != t->n_items && !(first == 0 && end == t->n_items));
    for (size_t i = first; i < end; i++)
        t->visits[i]++;
    t->busy[thread] = false;
}

static void every_item_is_done_once(void **state)
{
    (void)state;
    static const uint32_t threads[] = {1, 2, 3, 8, MOST_THREADS};
    static const size_t items[] = {0, 1, 2, 3, 64, 999, MOST_ITEMS};
    static const size_t chunks[] = {1, 2, 7, 1000, 2 * MOST_ITEMS};
    static tally t;
    for (size_t i = 0; i < sizeof threads / sizeof *threads; i++) {
        kvf_pool *pool = open_pool(threads[i]);
        for (size_t k = 0; k < 35; k++) {
            memset(&t, 0, sizeof t);
            t.n_threads = threads[i];
            t.n_items = items[k % 7];
            t.chunk_items = chunks[k / 7];
            kvf_pool_run(pool, t.n_items, t.chunk_items, count_items, &t);
            for (size_t item = 0; item < MOST_ITEMS; item++)
                t.n_wrong += t.visits[item] != (item < t.n_items);
            if (t.n_wrong)
                fail_msg("%u threads, %zu items in chunks of %zu: %u are wrong", t.n_threads,
                         t.n_items, t.chunk_items, t.n_wrong);
        }
        kvf_pool_close(pool);
    }
}

static void add_items(void *context, size_t first, size_t end, uint32_t thread)
{
    _Atomic uint64_t *sum = context;
    uint64_t part = 0;
    (void)thread;
    for (size_t i = first; i < end; i++)
        part += i;
    *sum += part;
}

static uint64_t sum_below(kvf_pool *pool, size_t n)
{
    _Atomic uint64_t sum = 0;
    kvf_pool_run(pool, n, 1, add_items, &sum);
    return sum;
}

/* Runs right after each other, after a moment, and when all threads have gone to sleep. */
static void a_run_is_whole_whatever_was_before_it(void **state)
{
    (void)state;
    kvf_pool *pools[] = {open_pool(2), open_pool(5)};
    for (uint32_t i = 0; i < 4000; i++) {
        const size_t n = 2 + i % 9;
        assert_int_equal(sum_below(pools[i % 2], n), n * (n - 1) / 2);
        if (i % 16 == 0)
            sleep_us(i % 32 ? 20 : 300);
    }
    kvf_pool_close(pools[0]);
    kvf_pool_close(pools[1]);
}

/* ---- Threads --------------------------------------------------------------------- */

typedef struct meeting {
    uint32_t n_threads;
    _Atomic uint32_t n_there;
    _Atomic uint32_t n_late;
    _Atomic uint32_t n_wrong;
    void (*look)(struct meeting *meeting, uint32_t thread);
} meeting;

/* Waits until as many items are being done as there are threads. */
static void meet(void *context, size_t first, size_t end, uint32_t thread)
{
    meeting *m = context;
    if (m->look)
        m->look(m, thread);
    for (size_t i = first; i < end; i++)
        m->n_there++;
    for (int ms = 0; m->n_there < m->n_threads; ms++) {
        if (ms == PATIENCE_MS) {
            m->n_late++;
            return;
        }
        sleep_us(1000);
    }
}

static void meet_all(kvf_pool *pool, meeting *m)
{
    kvf_pool_run(pool, m->n_threads, 1, meet, m);
    if (m->n_late || m->n_wrong)
        fail_msg("of %u threads %u came, %u are wrong", m->n_threads, m->n_there, m->n_wrong);
}

static void as_many_threads_work_as_were_asked_for(void **state)
{
    (void)state;
    static const uint32_t threads[] = {2, 3, MOST_THREADS};
    for (size_t i = 0; i < sizeof threads / sizeof *threads; i++) {
        kvf_pool *pool = open_pool(threads[i]);
        for (int run = 0; run < 3; run++) {
            meeting m = {.n_threads = threads[i]};
            meet_all(pool, &m);
        }
        kvf_pool_close(pool);
    }
}

static void look_at_signals(meeting *m, uint32_t thread)
{
    static const int of_the_process[] = {SIGINT, SIGTERM, SIGALRM, SIGWINCH, SIGUSR1};
    static const int of_the_thread[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL};
    sigset_t blocked;
    pthread_sigmask(SIG_SETMASK, NULL, &blocked);
    for (size_t i = 0; i < 5; i++)
        m->n_wrong += sigismember(&blocked, of_the_process[i]) != (thread != 0);
    for (size_t i = 0; i < 4; i++)
        m->n_wrong += sigismember(&blocked, of_the_thread[i]);
}

static void signals_of_the_process_are_for_the_callers_thread(void **state)
{
    (void)state;
    sigset_t before;
    sigset_t after;
    pthread_sigmask(SIG_SETMASK, NULL, &before);
    kvf_pool *pool = open_pool(4);
    pthread_sigmask(SIG_SETMASK, NULL, &after);
    for (int number = 1; number < 32; number++)
        assert_int_equal(sigismember(&before, number), sigismember(&after, number));
    meeting m = {.n_threads = 4, .look = look_at_signals};
    meet_all(pool, &m);
    kvf_pool_close(pool);
}

static void look_at_environment(meeting *m, uint32_t thread)
{
    m->n_wrong += thread != 0 && !kvf_fp_is_default(kvf_fp_read());
}

static void threads_compute_in_the_default_environment(void **state)
{
    (void)state;
#if defined(__x86_64__)
    const kvf_fp_environment flushed = KVF_FP_DEFAULT | 0x8040;
#elif defined(__aarch64__)
    const kvf_fp_environment flushed = 1u << 24;
#else
    const kvf_fp_environment flushed = KVF_FP_DEFAULT;
#endif
    const kvf_fp_environment before = kvf_fp_read();
    kvf_fp_write(flushed); /* a thread begins with that of who starts it */
    kvf_pool *pool = open_pool(4);
    kvf_fp_write(before);
    meeting m = {.n_threads = 4, .look = look_at_environment};
    meet_all(pool, &m);
    kvf_pool_close(pool);
}

/* Frames as large as the largest of any kernel fit the stacks of the threads. */
static void look_at_stack(meeting *m, uint32_t thread)
{
    volatile uint8_t frame[3 << 19]; /* 1.5 MB */
    (void)thread;
    for (size_t i = 0; i < sizeof frame; i += 4096)
        frame[i] = (uint8_t)i;
    m->n_wrong += frame[4096 * 3] != 0;
}

static void the_largest_frames_fit(void **state)
{
    (void)state;
    kvf_pool *pool = open_pool(3);
    meeting m = {.n_threads = 3, .look = look_at_stack};
    meet_all(pool, &m);
    kvf_pool_close(pool);
}

/* ---- The program around them ------------------------------------------------------- */

static void *use_a_pool(void *argument)
{
    _Atomic uint32_t *n_wrong = argument;
    for (int i = 0; i < 20; i++) {
        kvf_pool *pool;
        if (kvf_pool_open(3, &pool, NULL) != KVF_OK) {
            ++*n_wrong;
            continue;
        }
        for (size_t n = 0; n < 100; n++)
            *n_wrong += sum_below(pool, n) != (n ? n * (n - 1) / 2 : 0);
        kvf_pool_close(pool);
    }
    return NULL;
}

static void pools_of_different_threads_do_not_meet(void **state)
{
    (void)state;
    pthread_t threads[3];
    _Atomic uint32_t n_wrong = 0;
    for (int i = 0; i < 3; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, use_a_pool, (void *)&n_wrong), 0);
    for (int i = 0; i < 3; i++)
        pthread_join(threads[i], NULL);
    assert_int_equal(n_wrong, 0);
}

/* Ends the child by a signal where a wait has no end. */
static int status_of_child(pid_t child)
{
    int status;
    for (int ms = 0; ms < PATIENCE_MS; ms++) {
        if (waitpid(child, &status, WNOHANG) == child)
            return WIFEXITED(status) ? WEXITSTATUS(status) : 1000 + WTERMSIG(status);
        sleep_us(1000);
    }
    kill(child, SIGKILL);
    waitpid(child, &status, 0);
    return -1;
}

/* Whether the threads spin, are about to sleep or sleep when the process is copied. */
static void a_child_of_fork_goes_on_alone(void **state)
{
    (void)state;
    kvf_pool *pool = open_pool(4);
    for (int i = 0; i < 30; i++) {
        assert_int_equal(sum_below(pool, 100), 4950);
        sleep_us(i % 3 * 40);
        const pid_t child = fork();
        if (child == 0) {
            const bool right = sum_below(pool, 100) == 4950 && sum_below(pool, 7) == 21;
            kvf_pool_close(pool);
            _exit(right ? 0 : 1);
        }
        assert_true(child > 0);
        assert_int_equal(status_of_child(child), 0);
    }
    kvf_pool_close(pool);
}

static uint64_t address_space_bytes(void)
{
    FILE *file = fopen("/proc/self/statm", "r");
    unsigned long long pages = 0;
    if (file) {
        assert_int_equal(fscanf(file, "%llu", &pages), 1);
        fclose(file);
    }
    return pages * (uint64_t)sysconf(_SC_PAGESIZE);
}

static void a_thread_that_the_system_refuses_is_said(void **state)
{
    (void)state;
    const uint64_t bytes = address_space_bytes();
    struct rlimit before;
    if (SANITIZED || bytes == 0)
        skip();
    assert_int_equal(getrlimit(RLIMIT_AS, &before), 0);
    /* Room for some stacks: threads come before what the device has for each of them. */
    const struct rlimit low = {bytes + (40u << 20), before.rlim_max};
    assert_int_equal(setrlimit(RLIMIT_AS, &low), 0);
    const kvf_device_options options = {.n_threads = 1000};
    kvf_device *device;
    kvf_error error;
    const kvf_status status = kvf_device_open(&options, &device, &error);
    assert_int_equal(setrlimit(RLIMIT_AS, &before), 0);
    assert_int_equal(status, KVF_OUT_OF_MEMORY);
    assert_null(device);
    unsigned n_given;
    assert_int_equal(sscanf(error.message, "the system gives %u of 1000 threads", &n_given), 1);
    assert_true(n_given >= 2 && n_given < 40);
    const kvf_device_options fewer = {.n_threads = n_given};
    assert_int_equal(kvf_device_open(&fewer, &device, &error), KVF_OK);
    kvf_device_close(device);
}

static void numbers_of_threads_have_a_limit(void **state)
{
    (void)state;
    const kvf_device_options most = {.n_threads = KVF_MAX_THREADS + 1};
    kvf_device *device;
    kvf_error error;
    assert_int_equal(kvf_device_open(&most, &device, &error), KVF_INVALID_ARGUMENT);
    assert_non_null(strstr(error.message, "1 to 1024"));
    assert_int_equal(kvf_device_open(NULL, &device, &error), KVF_OK);
    assert_true(kvf_device_n_threads(device) >= 1);
    kvf_device_close(device);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_item_is_done_once),
        cmocka_unit_test(a_run_is_whole_whatever_was_before_it),
        cmocka_unit_test(as_many_threads_work_as_were_asked_for),
        cmocka_unit_test(signals_of_the_process_are_for_the_callers_thread),
        cmocka_unit_test(threads_compute_in_the_default_environment),
        cmocka_unit_test(the_largest_frames_fit),
        cmocka_unit_test(pools_of_different_threads_do_not_meet),
        cmocka_unit_test(a_child_of_fork_goes_on_alone),
        cmocka_unit_test(a_thread_that_the_system_refuses_is_said),
        cmocka_unit_test(numbers_of_threads_have_a_limit),
    };
    return cmocka_run_group_tests_name("pool", tests, NULL, NULL);
}
