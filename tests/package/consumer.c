/* A program of another project: built against the installed package alone. */
#include <kvfold.h>

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

int main(void)
{
    kvf_error error;
    kvf_device *device = NULL;
    if (kvf_device_open(&(kvf_device_options){.backend = "cpu"}, &device, &error) != KVF_OK)
        return fprintf(stderr, "%s\n", error.message), 1;

    /* Multiples of 1/4 up to 8 and ones in the tail: all on the grid, so nothing is lost. */
    float row[KVF_ROW_WIDTH], back[KVF_ROW_WIDTH];
    for (int i = 0; i < KVF_ROW_WIDTH; i++)
        row[i] = i < KVF_NOPE_WIDTH ? (float)(i % 8) * 0.25f : 1.0f;
    _Alignas(64) unsigned char page[1152] = {0};
    kvf_rows rows = {KVF_FORMAT_FP8_F16, KVF_ROW_WIDTH, 1, 1, NULL, page, sizeof page};
    kvf_pack_args pack = {
        .rows = row, .stride = KVF_ROW_WIDTH, .n_rows = 1, .grid = KVF_GRID_FP8, .out = rows};
    kvf_unpack_args unpack = {.in = rows, .n_rows = 1, .out = back, .stride = KVF_ROW_WIDTH};
    if (kvf_pack(device, &pack, &error) != KVF_OK || kvf_unpack(device, &unpack, &error) != KVF_OK)
        return fprintf(stderr, "%s\n", error.message), 1;
    kvf_device_close(device);

    kvf_geometry flash;
    kvf_plan plan;
    kvf_geometry_v4_flash(&flash);
    kvf_session_options options = {.profile = KVF_PROFILE_FOLD, .max_tokens = 8192};
    if (kvf_plan_make(&flash, &options, 8192, &plan, &error) != KVF_OK)
        return fprintf(stderr, "%s\n", error.message), 1;
    printf("kvfold %s, row %s, session bytes %" PRIu64 "\n", kvf_version_string(),
           memcmp(row, back, sizeof row) ? "changed" : "unchanged", plan.session_bytes);
    kvf_plan_free(&plan);
    return 0;
}
