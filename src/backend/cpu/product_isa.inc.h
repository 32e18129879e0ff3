/*
 * What products_ISA.c defines and kernels_ISA.c points to: files of their own, since they
 * take longer to compile than all other kernels. Parameter: KVF_PRODUCT_ISA.
 */
#include "backend/cpu/kernels.h"

#define KVF_PRODUCT_JOIN_(a, b) a##_##b
#define KVF_PRODUCT_JOIN(a, b) KVF_PRODUCT_JOIN_(a, b)
#define KVF_PRODUCT_NAME(name) KVF_PRODUCT_JOIN(kvf_cpu_product_##name, KVF_PRODUCT_ISA)

/* The fields products, product_tile and swiglu of kvf_cpu_kernels. */
extern const kvf_product_kernels KVF_PRODUCT_NAME(types)[KVF_WEIGHT_COUNT];
void KVF_PRODUCT_NAME(tile)(const kvf_panel *panel, uint32_t begin, uint32_t end,
                            const float *const *tokens, uint32_t n_tokens, const kvf_tile_out *to);
void KVF_PRODUCT_NAME(swiglu)(float *gate, const float *up, float limit, size_t n);
