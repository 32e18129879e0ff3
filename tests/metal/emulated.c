/*
 * The GPU backend by the emulator's driver: backend "emulated" of test programs. Its kernels are
 * generic unless another ISA is asked for: sm80 has those for NVIDIA's GPUs, so that every access
 * of theirs is checked as well.
 */
#include "backend/gpu/cuda/overrides.h"
#include "backend/gpu/gpu.h"
#include "metal_emulator/emulator.h"

extern const kvf_backend kvf_backend_emulated;

static kvf_status open_emulated(const kvf_device_options *options, kvf_device **device,
                                kvf_error *error)
{
    static kvf_gpu_driver driver;
    static const char *const isas[] = {"sm80"};
    kvf_device_options chosen = *options;
    driver = kvf_gpu_driver_emulated;
    driver.overrides = kvf_cuda_overrides;
    chosen.isa = chosen.isa ? chosen.isa : "generic";
    kvf_emulator_set_isas(isas, 1);
    const kvf_status status =
        kvf_gpu_open_device(&kvf_backend_emulated, &driver, &chosen, device, error);
    kvf_emulator_set_isas(NULL, 0);
    return status;
}

const kvf_backend kvf_backend_emulated = {.name = "emulated",
                                          .open = open_emulated,
                                          .map = kvf_gpu_map,
                                          .unmap = kvf_gpu_unmap,
                                          KVF_GPU_OPERATIONS};
