/* The backend for NVIDIA's GPUs: the GPU backend by driver.cu. */
#include "backend/gpu/cuda/cuda.h"
#include "backend/gpu/gpu.h"

static kvf_status open_cuda(const kvf_device_options *options, kvf_device **device,
                            kvf_error *error)
{
    return kvf_gpu_open_device(&kvf_backend_cuda, &kvf_gpu_driver_cuda, options, device, error);
}

const kvf_backend kvf_backend_cuda = {.name = "cuda", .open = open_cuda, KVF_GPU_OPERATIONS};
