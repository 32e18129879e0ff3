/* The backend for Apple's GPUs: the GPU backend by device_apple.m. */
#include "backend/gpu/metal/metal.h"
#include "backend/gpu/gpu.h"

static kvf_status open_metal(const kvf_device_options *options, kvf_device **device,
                             kvf_error *error)
{
    return kvf_gpu_open_device(&kvf_backend_metal, &kvf_gpu_driver_metal, options, device, error);
}

const kvf_backend kvf_backend_metal = {.name = "metal",
                                       .open = open_metal,
                                       .map = kvf_gpu_map,
                                       .unmap = kvf_gpu_unmap,
                                       KVF_GPU_OPERATIONS};
