/*
 * What tests ask of the emulated GPU beyond driver.h: its limits, faults, counters. State
 * of the process; tests run on one thread.
 */
#ifndef KVF_TEST_METAL_EMULATOR_H
#define KVF_TEST_METAL_EMULATOR_H

#include "kvfold.h"

#ifdef __cplusplus
extern "C" {
#endif

#include "backend/gpu/driver.h"

/* The emulated GPU; what tests may run as backend "emulated". */
extern const kvf_gpu_driver kvf_gpu_driver_emulated;

typedef struct kvf_emulator_counters {
    uint64_t dispatches; /* run to their end */
    uint64_t threadgroups;
    uint64_t waits;
    uint64_t compiles;
    uint64_t violations;   /* dispatches that broke a rule */
    uint64_t host_touches; /* see kvf_emulator_watch_host */
    uint64_t live_buffers;
    uint64_t live_bytes;
    uint64_t peak_bytes;
    uint64_t mapped_bytes; /* of the host's memory, in live buffers over it; in no number above */
    uint64_t live_objects; /* gpus, libraries and pipelines */
} kvf_emulator_counters;

/* All below as at the start, counters of what is live excepted. */
void kvf_emulator_reset(void);

/* Of GPUs opened from now on. Defaults: 16 GiB, 8 GiB. */
void kvf_emulator_set_working_set_bytes(uint64_t bytes);
void kvf_emulator_set_buffer_bytes(uint64_t bytes);
void kvf_emulator_set_page_bytes(uint32_t bytes); /* 0, the default: buffers are as asked */
void kvf_emulator_set_threadgroup_bytes(uint32_t bytes);
void kvf_emulator_set_threadgroup_threads(uint32_t threads);
/* Beside generic, the best first; kept by address. Default: none, which NULL stands for. */
void kvf_emulator_set_isas(const char *const *isas, uint32_t n);

/*
 * The n-th next call (1: the next one) fails; 0: none does.
 *   open     there is no GPU that has the features
 *   compile  with a compiler's message, "NAME.metal:12:5: error: .."
 *   pipeline the kernel is not found
 *   buffer   no memory
 *   wait     the device is lost; what was encoded does not run
 */
void kvf_emulator_fail_open(uint32_t n);
void kvf_emulator_fail_compile(uint32_t n);
void kvf_emulator_fail_pipeline(uint32_t n);
void kvf_emulator_fail_buffer(uint32_t n);
void kvf_emulator_fail_wait(uint32_t n);

const kvf_emulator_counters *kvf_emulator_get_counters(void);
/* Of the last dispatch that broke a rule; "" where none did since the reset. */
const char *kvf_emulator_last_violation(void);
/*
 * From now on: counts what the host does, between the first dispatch after a wait and the next
 * wait, to memory that dispatches queued before it use: bytes that it writes which one of them
 * reads or writes, bytes that it reads which one writes. To the byte for kernels built with
 * checks, which alone are seen. Where a buffer was made or a page was not touched, nothing.
 */
void kvf_emulator_watch_host(bool on);
/* The last such touch in words; "" where there was none since the reset. */
const char *kvf_emulator_last_touch(void);
/* Violations are printed to stderr too, unless the test provokes them. */
void kvf_emulator_set_quiet(bool quiet);
/* Host threads for threadgroups of kernels built without checks; 0: as many as cores. */
void kvf_emulator_set_host_threads(uint32_t n);
/* Runs threadgroups last to first: results must not depend on it. */
void kvf_emulator_set_reverse(bool reverse);

#ifdef __cplusplus
}
#endif

#endif
