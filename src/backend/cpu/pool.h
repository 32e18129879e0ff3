/*
 * The threads of one device. A pool belongs to who opened it and shares nothing with another
 * one: there is no state of the process.
 *
 * A run does not wait for threads that have not woken up by the time all items are taken:
 * the caller takes items too, so on a machine whose cores are busy elsewhere it does the
 * work alone rather than wait. No result may therefore depend on how many threads take
 * part; there are never more than the pool was opened with.
 */
#ifndef KVF_CPU_POOL_H
#define KVF_CPU_POOL_H

#include "backend/backend.h"

typedef struct kvf_pool kvf_pool;

/*
 * Starts n_threads - 1 threads (1 <= n_threads <= KVF_MAX_THREADS); who calls kvf_pool_run
 * is the other one. They block all signals that are sent to the process, and compute in the
 * default floating-point environment. KVF_OUT_OF_MEMORY where the system gives fewer
 * threads: none is left then.
 */
kvf_status kvf_pool_open(uint32_t n_threads, kvf_pool **pool, kvf_error *error);

/* Ends the threads. NULL is ignored. In a child of fork(), where they are not, frees alone. */
void kvf_pool_close(kvf_pool *pool);

/*
 * Calls task(context, first, end, thread) until items 0 .. n_items are done, and returns
 * then. Free threads take chunk_items (at least 1) at a time; the caller is thread 0. With
 * one thread or one chunk, and in a child of fork(), it is the plain call
 * task(context, 0, n_items, 0). One caller at a time; a task must not run another.
 */
void kvf_pool_run(kvf_pool *pool, size_t n_items, size_t chunk_items, kvf_task *task,
                  void *context);

#endif
