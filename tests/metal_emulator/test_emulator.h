/* What the emulator's tests share. */
#ifndef KVF_TEST_EMULATOR_H
#define KVF_TEST_EMULATOR_H

#include <stdio.h>
#include <string.h>

#include "emulator.h"
#include "kernels/test_kernels.h"

/* What the program was linked with. */
extern const kvf_gpu_driver *const test_driver;

/* Counts a check, and prints it where it fails. */
void expect(bool holds, const char *what, const char *detail);

/* A GPU, one library, and a dispatch to fill in. */
struct test_rig {
    kvf_gpu *gpu;
    kvf_gpu_library *library;
    kvf_gpu_dispatch dispatch;
    kvf_gpu_buffer buffers[4]; /* shared with the host; arguments.at */
    uint32_t n_buffers;
    kvf_test_kernel_args arguments;
};

void test_rig_open(test_rig *rig, const char *library);
/* The next array of the kernel, zeros. */
void *test_rig_buffer(test_rig *rig, size_t bytes);
/* One dispatch, which runs in the next wait. */
void test_rig_queue(test_rig *rig, const char *kernel);
/* One dispatch and a wait. */
kvf_status test_rig_run(test_rig *rig, const char *kernel, kvf_error *error);
/* Checks that nothing is left. */
void test_rig_close(test_rig *rig);

/* Prints how many checks were made; the exit status. */
int test_summary(void);

/* test_values.cc */
void test_values(void);

#endif
