/*
 * The emulator's value tests on a GPU, and single kernels of bugs.metal for
 * compute-sanitizer to find something in.
 *
 * usage: test_cuda [KERNEL OTHER]     exit status 1 where something failed
 */
#include "../metal_emulator/test_emulator.h"
#include "backend/gpu/cuda/cuda.h"

#include <stdlib.h>

static int run_kernel(const char *kernel, unsigned other)
{
    test_rig rig;
    test_rig_open(&rig, "bugs.metal");
    rig.arguments.n = 64;
    rig.arguments.other = other;
    rig.dispatch.threads[0] = 64;
    test_rig_buffer(&rig, 256);
    if (strncmp(kernel, "read_be", 7) == 0)
        test_rig_buffer(&rig, 256);
    if (strcmp(kernel, "with_barrier") == 0 || strcmp(kernel, "missing_barrier") == 0) {
        rig.dispatch.n_threadgroup_arrays = 1;
        rig.dispatch.threadgroup_bytes[0] = 256;
    }
    kvf_error error;
    const kvf_status status = test_rig_run(&rig, kernel, &error);
    test_rig_close(&rig);
    return status != KVF_OK;
}

int main(int argc, char **argv)
{
    if (argc == 3)
        return run_kernel(argv[1], (unsigned)strtoul(argv[2], nullptr, 10));
    test_values();
    return test_summary();
}
