#include "backend/cpu/pool.h"

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "backend/cpu/cpus.h"
#include "error.h"
#include "shared/fp_environment.h"

/*
 * Looks at the state before a thread sleeps: 15 to 50 microseconds, by how long the processor
 * makes of a pause, which is about what a sleep and a wake-up cost.
 */
#define SPINS 1000

/*
 * A worker's stack: half for frames, of which the largest is select.c's mask_query, 1.1 MB at
 * the largest k (65536), and half for the thread-local variables of the process' libraries,
 * which the C library puts there too. What is never touched is address space only.
 */
#define STACK_BYTES (4u << 20)
#define GUARD_BYTES (64u << 10)

/*
 * The state of a pool is one word, so that joining, leaving and closing a run are one
 * atomic step each: how many workers are in the run (bits 0 to 15), three flags, and the
 * number of the run (from bit 32), by which a worker knows one that it has been in.
 */
#define JOINED UINT64_C(0xffff)
#define OPEN (UINT64_C(1) << 16)         /* the run may be joined */
#define OWNER_SLEEPS (UINT64_C(1) << 17) /* the last to leave wakes the caller */
#define STOP (UINT64_C(1) << 18)         /* the pool is being closed */
#define RUN_SHIFT 32

typedef struct pool_worker {
    kvf_pool *pool;
    pthread_t thread;
    uint32_t index;
} pool_worker;

struct kvf_pool {
    uint32_t n_threads;
    uint32_t n_workers; /* started */
    uint32_t spins;
    pid_t process;
    pool_worker *workers;
    pthread_mutex_t mutex;
    pthread_cond_t work; /* workers wait for a run */
    pthread_cond_t done; /* the caller waits for workers */
    /* The run; written while nobody can join, read by who has joined. */
    kvf_task *task;
    void *context;
    size_t n_items;
    size_t chunk_items;
    /* Each in a cache line of its own: they are written by all threads. */
    _Alignas(64) _Atomic uint64_t state;
    _Alignas(64) _Atomic size_t next_chunk;
    _Alignas(64) _Atomic uint32_t n_asleep;
};

static void pause_briefly(void)
{
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("isb"); /* `yield` does nothing on most processors */
#endif
}

/* ---- A run -------------------------------------------------------------------- */

static void take_chunks(kvf_pool *pool, uint32_t thread)
{
    const size_t chunk = pool->chunk_items;
    const size_t n_chunks = (pool->n_items - 1) / chunk + 1;
    size_t i;
    while ((i = atomic_fetch_add_explicit(&pool->next_chunk, 1, memory_order_relaxed)) < n_chunks) {
        const size_t first = i * chunk;
        const size_t left = pool->n_items - first;
        pool->task(pool->context, first, first + (left < chunk ? left : chunk), thread);
    }
}

/* Opens a run; its numbers are set. Sequential consistency: see sleep_until_run. */
static void open_run(kvf_pool *pool, size_t n_helpers)
{
    const uint64_t before = atomic_load_explicit(&pool->state, memory_order_relaxed);
    atomic_store_explicit(&pool->next_chunk, 0, memory_order_relaxed);
    atomic_store(&pool->state, ((before >> RUN_SHIFT) + 1) << RUN_SHIFT | OPEN);
    const uint32_t n_asleep = atomic_load(&pool->n_asleep);
    if (n_asleep == 0)
        return;
    pthread_mutex_lock(&pool->mutex);
    if (n_helpers >= n_asleep)
        pthread_cond_broadcast(&pool->work);
    for (size_t i = 0; n_helpers < n_asleep && i < n_helpers; i++)
        pthread_cond_signal(&pool->work);
    pthread_mutex_unlock(&pool->mutex);
}

/* Nobody joins any more; returns when all have left. */
static void close_run(kvf_pool *pool)
{
    uint64_t state = atomic_fetch_and(&pool->state, ~OPEN);
    for (uint32_t i = 0; i < pool->spins && state & JOINED; i++) {
        pause_briefly();
        state = atomic_load_explicit(&pool->state, memory_order_acquire);
    }
    if (!(state & JOINED) || !(atomic_fetch_or(&pool->state, OWNER_SLEEPS) & JOINED))
        return;
    pthread_mutex_lock(&pool->mutex);
    while (atomic_load_explicit(&pool->state, memory_order_acquire) & JOINED)
        pthread_cond_wait(&pool->done, &pool->mutex);
    pthread_mutex_unlock(&pool->mutex);
}

void kvf_pool_run(kvf_pool *pool, size_t n_items, size_t chunk_items, kvf_task *task, void *context)
{
    if (n_items == 0)
        return;
    if (pool->n_threads == 1 || n_items <= chunk_items || getpid() != pool->process) {
        task(context, 0, n_items, 0);
        return;
    }
    pool->task = task;
    pool->context = context;
    pool->n_items = n_items;
    pool->chunk_items = chunk_items;
    open_run(pool, (n_items - 1) / chunk_items);
    take_chunks(pool, 0);
    close_run(pool);
}

/* ---- Workers ------------------------------------------------------------------ */

/* A run to join, or the end of the pool. */
static bool is_called(uint64_t state, uint32_t last_run)
{
    return state & STOP || (state & OPEN && state >> RUN_SHIFT != last_run);
}

/*
 * A worker counts itself asleep and looks at the state, the caller opens a run and looks at
 * who is asleep: in the one order that all these operations have, at least one of them sees
 * the other. The mutex keeps the wake-up from coming between the look and the sleep.
 */
static void sleep_until_run(kvf_pool *pool, uint32_t last_run)
{
    pthread_mutex_lock(&pool->mutex);
    atomic_fetch_add(&pool->n_asleep, 1);
    while (!is_called(atomic_load(&pool->state), last_run))
        pthread_cond_wait(&pool->work, &pool->mutex);
    atomic_fetch_sub(&pool->n_asleep, 1);
    pthread_mutex_unlock(&pool->mutex);
}

static uint64_t wait_for_run(kvf_pool *pool, uint32_t last_run)
{
    uint64_t state;
    for (uint32_t i = 0; i < pool->spins; i++) {
        state = atomic_load_explicit(&pool->state, memory_order_acquire);
        if (is_called(state, last_run))
            return state;
        pause_briefly();
    }
    sleep_until_run(pool, last_run);
    return atomic_load_explicit(&pool->state, memory_order_acquire);
}

static void leave_run(kvf_pool *pool)
{
    const uint64_t before = atomic_fetch_sub(&pool->state, 1);
    if ((before & JOINED) != 1 || !(before & OWNER_SLEEPS))
        return;
    pthread_mutex_lock(&pool->mutex);
    pthread_cond_signal(&pool->done);
    pthread_mutex_unlock(&pool->mutex);
}

static void *work(void *argument)
{
    const pool_worker *worker = argument;
    kvf_pool *pool = worker->pool;
    uint32_t last_run = 0;
    kvf_fp_enter(); /* it was the creator's; nothing changes it from here on */
    for (;;) {
        uint64_t state = wait_for_run(pool, last_run);
        if (state & STOP)
            return NULL;
        /* The run may close, or another one open, before this joins: then it waits again. */
        if (!is_called(state, last_run) ||
            !atomic_compare_exchange_strong(&pool->state, &state, state + 1))
            continue;
        last_run = (uint32_t)(state >> RUN_SHIFT);
        take_chunks(pool, worker->index);
        leave_run(pool);
    }
}

/* ---- Opening and closing -------------------------------------------------------- */

/*
 * Signals that are sent to the process are for the program's own threads. Those that an
 * instruction of the thread itself raises are left as they are: blocked, they would end the
 * process even where the program handles them.
 */
static void block_signals(sigset_t *before)
{
    static const int own[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP, SIGSYS, SIGABRT};
    sigset_t blocked;
    sigfillset(&blocked);
    for (size_t i = 0; i < sizeof own / sizeof own[0]; i++)
        sigdelset(&blocked, own[i]);
    pthread_sigmask(SIG_SETMASK, &blocked, before);
}

/* Returns 0, or why a thread could not be started. */
static int start_workers(kvf_pool *pool)
{
    pthread_attr_t attributes;
    sigset_t before;
    int failure = pthread_attr_init(&attributes);
    if (failure)
        return failure;
    pthread_attr_setstacksize(&attributes, STACK_BYTES);
    pthread_attr_setguardsize(&attributes, GUARD_BYTES);
    block_signals(&before);
    while (!failure && pool->n_workers + 1 < pool->n_threads) {
        pool_worker *worker = &pool->workers[pool->n_workers];
        *worker = (pool_worker){.pool = pool, .index = pool->n_workers + 1};
        failure = pthread_create(&worker->thread, &attributes, work, worker);
        pool->n_workers += !failure;
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    pthread_attr_destroy(&attributes);
    return failure;
}

kvf_status kvf_pool_open(uint32_t n_threads, kvf_pool **out, kvf_error *error)
{
    void *memory = NULL;
    *out = NULL;
    if (posix_memalign(&memory, 64, sizeof(kvf_pool)) != 0)
        return kvf_fail(error, KVF_OUT_OF_MEMORY, "no memory for %u threads", n_threads);
    kvf_pool *pool = memory;
    *pool = (kvf_pool){.n_threads = n_threads, .process = getpid()};
    /* Where threads share a processor, one that spins keeps another from its work. */
    pool->spins = n_threads <= kvf_cpus_available() ? SPINS : 0;
    pool->workers = calloc(n_threads, sizeof *pool->workers);
    if (!pool->workers) {
        free(pool);
        return kvf_fail(error, KVF_OUT_OF_MEMORY, "no memory for %u threads", n_threads);
    }
    pthread_mutex_init(&pool->mutex, NULL);
    pthread_cond_init(&pool->work, NULL);
    pthread_cond_init(&pool->done, NULL);
    const int failure = start_workers(pool);
    if (failure) {
        const uint32_t n_started = pool->n_workers + 1; /* with the caller */
        kvf_pool_close(pool);
        return kvf_fail(error, KVF_OUT_OF_MEMORY,
                        "the system gives %u of %u threads (%s); ask for no more than that",
                        n_started, n_threads, strerror(failure));
    }
    *out = pool;
    return kvf_ok(error);
}

void kvf_pool_close(kvf_pool *pool)
{
    if (!pool)
        return;
    if (getpid() == pool->process) {
        atomic_fetch_or(&pool->state, STOP);
        pthread_mutex_lock(&pool->mutex);
        pthread_cond_broadcast(&pool->work);
        pthread_mutex_unlock(&pool->mutex);
        for (uint32_t i = 0; i < pool->n_workers; i++)
            pthread_join(pool->workers[i].thread, NULL);
        pthread_cond_destroy(&pool->done);
        pthread_cond_destroy(&pool->work);
        pthread_mutex_destroy(&pool->mutex);
    }
    free(pool->workers);
    free(pool);
}
