/*
 * A backend for tests: the reference's operations behind a queue, on memory that the host can
 * never touch; with isa "cpu" those of the CPU's backend, for what would take too long. It takes
 * every liberty that docs/QUEUE.md gives a backend, so that whoever relies on more fails on any
 * machine, without a GPU:
 *
 *   - device memory has no permissions but while wait runs the queue; a page without any comes
 *     after each allocation; fresh memory is NaN
 *   - nothing is done before wait
 *   - targets of read hold rubbish until then
 *   - argument structs and the sources of write are copied when they are given, and only then
 *
 * A device is lost, in the middle of what is queued, once the file that the environment names as
 * KVF_FAR_LOST_WHEN is there: for tests of other processes. Only tests are linked with it: device.c
 * once more, with KVF_FAR, so that it has a name.
 */
#ifndef KVF_TEST_FAR_H
#define KVF_TEST_FAR_H

#include "backend/backend.h"

extern const kvf_backend kvf_backend_far;

/*
 * The n-th wait from now on (1: the next) does half of what is queued, and the device is lost;
 * 0: none.
 */
void far_lose(kvf_device *device, uint32_t nth_wait);
/* The n-th piece of work that is queued from now on (1: the next) is not done, nor any after it. */
void far_lose_at(kvf_device *device, uint64_t nth_work);
/* Work that was queued since the device was opened. */
uint64_t far_works(const kvf_device *device);
/* The n-th allocation from now on fails; 0: none. */
void far_fail_alloc(kvf_device *device, uint32_t nth);
/*
 * The n-th operation from now on (1: the next) finds no memory for itself: neither it is done nor
 * any operation after it, until one wait says so; 0: none. Bytes are moved all the same.
 */
void far_lack_at(kvf_device *device, uint32_t nth_operation);
/* Allocations that were not released. */
uint64_t far_given(const kvf_device *device);
/* Waits since the device was opened. */
uint64_t far_waits(const kvf_device *device);
/*
 * From now on the host may read and write device memory, to prepare and to look at what single
 * operations do. They are queued all the same.
 */
void far_expose(kvf_device *device);

#endif
