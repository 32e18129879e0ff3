/* The kernels of overrides.def; the tests' emulator has the same table. */
#include "backend/gpu/cuda/overrides.h"
#include "backend/gpu/cuda/vectors.h"

const kvf_gpu_override kvf_cuda_overrides[] = {
#define KVF_CUDA_OVERRIDE(isa_, kernel_, variant_, rows_, tokens_, slots_)                         \
    {.isa = #isa_,                                                                                 \
     .kernel = "kvf_" #kernel_,                                                                    \
     .variant = #variant_,                                                                         \
     .library = "vectors." #variant_ ".metal",                                                     \
     .source = "compiled before",                                                                  \
     .shape = {tokens_, rows_, KVF_VECTOR_THREADS,                                                 \
               KVF_STAGED_BYTES(slots_, KVF_SLOT_##variant_)}},
#include "backend/gpu/cuda/overrides.def"
#undef KVF_CUDA_OVERRIDE
    {0}};
