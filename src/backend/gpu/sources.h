/* The kernels' sources, made by scripts/embed_kernels.py when the library is built. */
#ifndef KVF_BACKEND_GPU_SOURCES_H
#define KVF_BACKEND_GPU_SOURCES_H

#include "backend/gpu/gpu.h"

/* Each file's text, the headers it includes inlined: only <metal_..> is left to find. */
extern const char *const kvf_gpu_sources[KVF_GPU_FILE_COUNT];

#endif
