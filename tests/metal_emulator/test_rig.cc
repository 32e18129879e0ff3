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
    if (test_driver->open(&rig->gpu, &error) != KVF_OK ||
        test_driver->compile(rig->gpu, library, "source", &rig->library, &error) != KVF_OK) {
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
    kvf_gpu_buffer *buffer = &rig->buffers[rig->n_buffers];
    if (!test_driver->make_buffer(rig->gpu, bytes, true, buffer)) {
        printf("FAILED: no buffer of %zu bytes\n", bytes);
        exit(1);
    }
    memset(buffer->contents, 0, bytes);
    rig->arguments.at[rig->n_buffers++] = buffer->gpu_address;
    return buffer->contents;
}

void test_rig_queue(test_rig *rig, const char *kernel)
{
    kvf_error error;
    kvf_gpu_pipeline *pipeline;
    if (test_driver->make_pipeline(rig->gpu, rig->library, kernel, &pipeline, &error) != KVF_OK) {
        printf("FAILED: %s\n", error.message);
        exit(1);
    }
    rig->dispatch.pipeline = pipeline;
    test_driver->run(rig->gpu, &rig->dispatch);
    test_driver->release_pipeline(rig->gpu, pipeline);
}

kvf_status test_rig_run(test_rig *rig, const char *kernel, kvf_error *error)
{
    test_rig_queue(rig, kernel);
    return test_driver->wait(rig->gpu, error);
}

void test_rig_close(test_rig *rig)
{
    for (uint32_t i = 0; i < rig->n_buffers; i++)
        test_driver->release_buffer(rig->gpu, &rig->buffers[i]);
    test_driver->release_library(rig->gpu, rig->library);
    test_driver->close(rig->gpu);
    expect(kvf_emulator_get_counters()->live_objects == 0, "objects are released", "");
    expect(kvf_emulator_get_counters()->live_buffers == 0, "buffers are released", "");
}

int test_summary(void)
{
    printf("%d checks, %d failed\n", n_checks, n_failed);
    return n_failed > 0;
}
