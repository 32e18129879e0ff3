/* The GPU backend by the emulator's driver: backend "emulated" of test programs. */
#include "backend/gpu/gpu.h"
#include "metal_emulator/emulator.h"

extern const kvf_backend kvf_backend_emulated;

static kvf_status open_emulated(const kvf_device_options *options, kvf_device **device,
                                kvf_error *error)
{
    return kvf_gpu_open_device(&kvf_backend_emulated, &kvf_gpu_driver_emulated, options, device,
                               error);
}

const kvf_backend kvf_backend_emulated = {.name = "emulated",
                                          .open = open_emulated,
                                          .map = kvf_gpu_map,
                                          .unmap = kvf_gpu_unmap,
                                          KVF_GPU_OPERATIONS};
