/*
 * One decode step's select and attend of a CSA layer at V4-Flash's geometry, as a profile has
 * it, on an NVIDIA GPU: legacy, packed or fold.
 *
 *     time_designs PROFILE ROWS
 *
 * Everything lies in the device's memory. Prints the bytes that the design needs at least, and
 * each kernel's least time.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "backend/backend.h"
#include "backend/gpu/cuda/cuda.h"

enum { HEADS = 64, INDEX_HEADS = 64, TOP_K = 512, WINDOW = 128, REPEATS = 20 };

static void *device_memory(kvf_device *device, size_t bytes)
{
    void *memory = kvf_device_alloc(device, KVF_MEMORY_CACHE, KVF_PLACE_DEVICE, bytes);
    if (!memory) {
        fprintf(stderr, "no memory for %zu bytes\n", bytes);
        exit(1);
    }
    device->backend->zero(device, memory, bytes);
    return memory;
}

static void expect_ok(kvf_status status, const kvf_error *error)
{
    if (status == KVF_OK)
        return;
    fprintf(stderr, "%s\n", error->message);
    exit(1);
}

static float *random_values(kvf_device *device, size_t n)
{
    static uint64_t state = 1;
    float *values = device_memory(device, n * sizeof *values);
    float piece[4096];
    for (size_t i = 0; i < n; i += 4096) {
        const size_t most = n - i < 4096 ? n - i : 4096;
        for (size_t j = 0; j < most; j++) {
            state = state * 6364136223846793005ull + 1442695040888963407ull;
            piece[j] = (float)(int32_t)(state >> 32) * 0x1p-31f;
        }
        device->backend->write(device, values + i, piece, most * sizeof piece[0]);
    }
    return values;
}

/* n random rows of the grid in that format. */
static kvf_rows random_rows(kvf_device *device, kvf_format_id format, uint32_t width, uint64_t n)
{
    const size_t page_bytes = kvf_format_page_bytes(format, width, KVF_PAGE_ROWS);
    const uint64_t n_pages = (n + KVF_PAGE_ROWS - 1) / KVF_PAGE_ROWS;
    kvf_error error = {0};
    kvf_pack_args args = {.rows = random_values(device, n * width),
                          .stride = width,
                          .n_rows = n,
                          .grid = width == KVF_ROW_WIDTH ? KVF_GRID_FP8 : KVF_GRID_FP4,
                          .out = {.format = format,
                                  .width = width,
                                  .page_rows = KVF_PAGE_ROWS,
                                  .n_rows = n,
                                  .base = device_memory(device, n_pages * page_bytes),
                                  .page_stride_bytes = page_bytes}};
    const kvf_finding nothing = {.first_bad = KVF_NOTHING_FOUND};
    kvf_finding *place = device_memory(device, sizeof *place);
    device->backend->write(device, place, &nothing, sizeof nothing);
    device->backend->pack(device, &args, &(kvf_findings){.place = place}, 1);
    expect_ok(device->backend->wait(device, &error), &error);
    return args.out;
}

typedef struct design {
    kvf_device *device;
    const kvf_profile *profile;
    kvf_select_args select;
    kvf_attend_args attend;
    float *scores;
    void *mask;
} design;

static void open_design(design *d, uint32_t n_rows)
{
    kvf_device *device = d->device;
    uint32_t *n_visible = device_memory(device, sizeof *n_visible);
    device->backend->write(device, n_visible, &n_rows, sizeof n_rows);
    d->select = (kvf_select_args){
        .n_queries = 1,
        .n_heads = INDEX_HEADS,
        .top_k = TOP_K,
        .queries = random_rows(device, d->profile->index_format, KVF_INDEX_WIDTH, INDEX_HEADS),
        .head_weights = random_values(device, INDEX_HEADS),
        .keys = random_rows(device, d->profile->index_format, KVF_INDEX_WIDTH, n_rows),
        .n_visible = n_visible,
        .list = device_memory(device, 4 * TOP_K),
        .list_len = device_memory(device, 4)};
    d->scores = device_memory(device, 4ull * n_rows);
    d->mask = device_memory(device, 4ull * n_rows);
    d->attend = (kvf_attend_args){
        .n_queries = 1,
        .n_heads = HEADS,
        .q = random_values(device, (size_t)HEADS * KVF_ROW_WIDTH),
        .sinks = random_values(device, HEADS),
        .scale = (float)(1.0 / sqrt(512.0)),
        .first_token = 4ull * n_rows - 1,
        .window_tokens = WINDOW,
        .window_first = 4ull * n_rows - WINDOW,
        .window = random_rows(device, d->profile->window_format, KVF_ROW_WIDTH, WINDOW),
        .rows = random_rows(device, d->profile->row_format, KVF_ROW_WIDTH, n_rows),
        .n_visible = n_visible,
        .out = device_memory(device, 4ull * HEADS * KVF_ROW_WIDTH)};
    if (d->profile->mask == KVF_MASK_NONE) {
        d->attend.list = d->select.list;
        d->attend.list_stride = TOP_K;
        d->attend.list_len = d->select.list_len;
    } else {
        d->attend.mask_f32 = d->profile->mask == KVF_MASK_F32 ? d->mask : NULL;
        d->attend.mask_f16 = d->profile->mask == KVF_MASK_F16 ? d->mask : NULL;
        d->attend.mask_stride = n_rows;
    }
}

static void run_design(design *d, uint32_t n_rows)
{
    const kvf_backend *backend = d->device->backend;
    kvf_error error = {0};
    if (d->profile->mask == KVF_MASK_NONE) {
        backend->select(d->device, &d->select, 1);
    } else {
        const kvf_score_args score = {.select = &d->select,
                                      .n_queries = 1,
                                      .n_rows = n_rows,
                                      .scores = d->scores,
                                      .stride = n_rows};
        const bool is_f32 = d->profile->mask == KVF_MASK_F32;
        const kvf_mask_args mask = {.n_queries = 1,
                                    .top_k = TOP_K,
                                    .n_rows = n_rows,
                                    .scores = d->scores,
                                    .score_stride = n_rows,
                                    .n_visible = d->select.n_visible,
                                    .mask_f32 = is_f32 ? d->mask : NULL,
                                    .mask_f16 = is_f32 ? NULL : d->mask,
                                    .mask_stride = n_rows};
        backend->score(d->device, &score);
        backend->mask(d->device, &mask);
    }
    backend->attend(d->device, &d->attend, 1);
    expect_ok(backend->wait(d->device, &error), &error);
}

/* Index rows, scores written and read, mask written and read, rows attended. */
static uint64_t least_bytes(const kvf_profile *profile, uint64_t n_rows)
{
    const uint64_t mask_bytes = profile->mask == KVF_MASK_NONE  ? 0
                                : profile->mask == KVF_MASK_F32 ? 4
                                                                : 2;
    const uint64_t score_bytes = profile->mask == KVF_MASK_NONE ? 0 : 4;
    return n_rows * (kvf_format_row_bytes(profile->index_format, KVF_INDEX_WIDTH) +
                     2 * score_bytes + 2 * mask_bytes) +
           TOP_K * kvf_format_row_bytes(profile->row_format, KVF_ROW_WIDTH) +
           WINDOW * kvf_format_row_bytes(profile->window_format, KVF_ROW_WIDTH);
}

int main(int argc, char **argv)
{
    design d = {0};
    kvf_profile_id id;
    kvf_error error = {0};
    const long n_rows = argc == 3 ? strtol(argv[2], NULL, 10) : 0;
    if (n_rows < TOP_K || n_rows > 1 << 20 || kvf_profile_find(argv[1], &id, &error) != KVF_OK) {
        fprintf(stderr, "usage: time_designs legacy|tiled|packed|fold ROWS (512 .. 1048576)\n");
        return 2;
    }
    const kvf_device_options options = {.backend = "cuda"};
    d.profile = kvf_profile_get(id);
    expect_ok(kvf_device_open(&options, &d.device, &error), &error);
    open_design(&d, (uint32_t)n_rows);
    printf("%s, %ld rows: %.2f MB a step at least, %d steps\n", d.profile->name, n_rows,
           (double)least_bytes(d.profile, (uint64_t)n_rows) / 1e6, REPEATS);
    fflush(stdout);
    kvf_cuda_time(true);
    for (int i = 0; i < REPEATS; i++)
        run_design(&d, (uint32_t)n_rows);
    const kvf_cuda_times *t;
    for (unsigned i = 0; (t = kvf_cuda_get_times(i)); i++)
        printf("%-24s %4lu runs, least %.4f ms\n", t->kernel, t->n, t->least_ms);
    return 0; /* the process ends: its memory goes with it */
}
