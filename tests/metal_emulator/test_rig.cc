/* What the emulator's tests share. */
#include "test_emulator.h"

#include <stdlib.h>

static int n_failed;
static int n_checks;

void expect(bool holds, const char *what, const char *detail)
{
    n_checks++;
    if (holds)
        return;
    n_failed++;
    printf("FAILED: %s%s%s\n", what, detail[0] ? ": " : "", detail);
}

void test_rig_open(test_rig *rig, const char *library)
{
    kvf_error error;
    *rig = {};
    kvf_emulator_reset();
    if (kvf_gpu_open(&rig->gpu, &error) != KVF_OK ||
        kvf_gpu_compile(rig->gpu, library, "source", &rig->library, &error) != KVF_OK) {
        printf("FAILED: %s\n", error.message);
        exit(1);
    }
    rig->dispatch.arguments = &rig->arguments;
    rig->dispatch.argument_bytes = sizeof(rig->arguments);
    for (int d = 0; d < 3; d++)
        rig->dispatch.groups[d] = rig->dispatch.threads[d] = 1;
}

void *test_rig_buffer(test_rig *rig, size_t bytes)
{
    kvf_gpu_dispatch *d = &rig->dispatch;
    kvf_gpu_buffer *buffer = &rig->buffers[d->n_buffers];
    if (!kvf_gpu_make_buffer(rig->gpu, bytes, buffer)) {
        printf("FAILED: no buffer of %zu bytes\n", bytes);
        exit(1);
    }
    memset(buffer->contents, 0, bytes);
    d->buffers[d->n_buffers++] = buffer;
    return buffer->contents;
}

kvf_status test_rig_run(test_rig *rig, const char *kernel, kvf_error *error)
{
    kvf_gpu_pipeline *pipeline;
    if (kvf_gpu_make_pipeline(rig->gpu, rig->library, kernel, &pipeline, error) != KVF_OK) {
        printf("FAILED: %s\n", error->message);
        exit(1);
    }
    rig->dispatch.pipeline = pipeline;
    kvf_gpu_run(rig->gpu, &rig->dispatch);
    const kvf_status status = kvf_gpu_wait(rig->gpu, error);
    kvf_gpu_release_pipeline(rig->gpu, pipeline);
    return status;
}

void test_rig_close(test_rig *rig)
{
    for (uint32_t i = 0; i < rig->dispatch.n_buffers; i++)
        kvf_gpu_release_buffer(rig->gpu, &rig->buffers[i]);
    kvf_gpu_release_library(rig->gpu, rig->library);
    kvf_gpu_close(rig->gpu);
    expect(kvf_emulator_get_counters()->live_objects == 0, "objects are released", "");
    expect(kvf_emulator_get_counters()->live_buffers == 0, "buffers are released", "");
}

int test_summary(void)
{
    printf("%d checks, %d failed\n", n_checks, n_failed);
    return n_failed > 0;
}
