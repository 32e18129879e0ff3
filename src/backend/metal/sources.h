/* The kernels' sources, made by scripts/embed_metal.py when the library is built. */
#ifndef KVF_BACKEND_METAL_SOURCES_H
#define KVF_BACKEND_METAL_SOURCES_H

#include "backend/metal/metal.h"

/* Each file's text, the headers it includes inlined: only <metal_..> is left to find. */
extern const char *const kvf_metal_sources[KVF_METAL_FILE_COUNT];

#endif
