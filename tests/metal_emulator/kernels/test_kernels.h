/* Arguments of the emulator's own test kernels, for both sides. */
#ifndef KVF_TEST_KERNELS_H
#define KVF_TEST_KERNELS_H

#include <stdint.h>

typedef struct kvf_test_kernel_args {
    uint32_t n;
    uint32_t other;
    uint64_t page;  /* a gpu address */
    uint64_t at[4]; /* gpu addresses of the kernel's arrays */
} kvf_test_kernel_args;

#endif
