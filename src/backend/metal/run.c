/* Running kernels: one dispatch, the end of an operation, and the error that stays. */
#include "backend/metal/metal.h"

#include "error.h"

void kvf_metal_lose(kvf_metal_device *metal, kvf_status status, const char *what)
{
    if (metal->lost.status == KVF_OK)
        kvf_fail(&metal->lost, status, "%s: %s", metal->limits.name, what);
}

kvf_status kvf_metal_state(kvf_device *device, kvf_error *error)
{
    const kvf_metal_device *metal = kvf_metal_of(device);
    if (error)
        *error = metal->lost;
    return metal->lost.status;
}

void kvf_metal_run(kvf_metal_device *metal, const kvf_metal_call *call)
{
    if (metal->lost.status != KVF_OK || call->groups[0] == 0 || call->groups[1] == 0 ||
        call->groups[2] == 0)
        return;
    kvf_gpu_dispatch dispatch = {
        .pipeline = metal->pipelines[call->kernel],
        .groups = {call->groups[0], call->groups[1], call->groups[2]},
        .threads = {call->threads, 1, 1},
        .arguments = call->arguments,
        .argument_bytes = call->argument_bytes,
    };
    while (dispatch.n_buffers < KVF_GPU_MAX_BUFFERS && call->spans[dispatch.n_buffers].buffer) {
        const kvf_metal_span span = call->spans[dispatch.n_buffers];
        dispatch.buffers[dispatch.n_buffers] = span.buffer;
        dispatch.offsets[dispatch.n_buffers++] = span.offset;
    }
    while (dispatch.n_threadgroup_arrays < KVF_GPU_MAX_THREADGROUP_ARRAYS &&
           call->threadgroup_bytes[dispatch.n_threadgroup_arrays]) {
        dispatch.threadgroup_bytes[dispatch.n_threadgroup_arrays] =
            call->threadgroup_bytes[dispatch.n_threadgroup_arrays];
        dispatch.n_threadgroup_arrays++;
    }
    kvf_gpu_run(metal->gpu, &dispatch);
}

kvf_status kvf_metal_wait(kvf_metal_device *metal)
{
    kvf_error error;
    if (metal->lost.status != KVF_OK)
        return metal->lost.status;
    if (kvf_gpu_wait(metal->gpu, &error) != KVF_OK)
        kvf_metal_lose(metal, error.status, error.message);
    return metal->lost.status;
}

kvf_status kvf_metal_finish(kvf_metal_device *metal)
{
    const kvf_status status = kvf_metal_wait(metal);
    kvf_metal_end_staging(metal, status == KVF_OK);
    return status;
}
