/*
 * measure_open PATH: opens a checkpoint as every command does, reads no weights, and says in
 * one JSON line how long that took and what memory it left. Made for sparse files of
 * make_checkpoint, whose holes are true headers' data.
 *   seconds          of kvf_model_load, with its device already open
 *   resident_bytes   the most that the process had in memory
 *   planned_bytes    of that, what was asked of the device: vectors, tables, activations
 *   beyond_bytes     the rest: program, headers, names, pages of files that were read
 *   fingerprint_seconds  of the samples that a save needs, afterwards
 */
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>

#include "clock.h"
#include "model/fingerprint.h"
#include "model/model.h"

static unsigned long long peak_resident_bytes(void)
{
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
#if defined(__APPLE__)
    return (unsigned long long)usage.ru_maxrss;
#else
    return (unsigned long long)usage.ru_maxrss * 1024;
#endif
}

static unsigned long long planned_bytes(const kvf_model *model)
{
    kvf_plan_buffer buffers[64];
    unsigned long long bytes = model->weights.device_bytes;
    const uint32_t n = kvf_model_activations(&model->config, 1, buffers, 64);
    for (uint32_t i = 0; i < n && i < 64; i++)
        bytes += buffers[i].bytes;
    return bytes;
}

int main(int argc, char **argv)
{
    kvf_device *device;
    kvf_model *model;
    kvf_error error;
    if (argc != 2) {
        fprintf(stderr, "usage: measure_open PATH\n");
        return 2;
    }
    if (kvf_device_open(NULL, &device, &error) != KVF_OK) {
        fprintf(stderr, "measure_open: %s\n", error.message);
        return 2;
    }
    const double started = kvf_seconds();
    const kvf_status status = kvf_model_load(device, argv[1], 1, &model, &error);
    const double seconds = kvf_seconds() - started;
    if (status != KVF_OK) {
        fprintf(stderr, "measure_open: %s\n", error.message);
        kvf_device_close(device);
        return 2;
    }
    const unsigned long long resident = peak_resident_bytes();
    const unsigned long long planned = planned_bytes(model);
    uint64_t fingerprint;
    const double summed = kvf_seconds();
    if (kvf_fingerprint(&model->config, model->files, device, &fingerprint, &error) != KVF_OK)
        fprintf(stderr, "measure_open: %s\n", error.message);
    printf(
        "{\"path\": \"%s\", \"mapped_bytes\": %llu, \"seconds\": %.3f, \"resident_bytes\": %llu, "
        "\"planned_bytes\": %llu, \"beyond_bytes\": %lld, \"fingerprint_seconds\": %.3f}\n",
        argv[1], (unsigned long long)kvf_tensor_set_mapped_bytes(model->files), seconds, resident,
        planned, (long long)(resident - planned), kvf_seconds() - summed);
    kvf_model_free(model);
    kvf_device_close(device);
    return 0;
}
