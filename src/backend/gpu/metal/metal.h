/* Apple's GPUs. */
#ifndef KVF_BACKEND_GPU_METAL_METAL_H
#define KVF_BACKEND_GPU_METAL_METAL_H

#include "backend/gpu/driver.h"

extern const struct kvf_backend kvf_backend_metal;
extern const kvf_gpu_driver kvf_gpu_driver_metal;

#endif
