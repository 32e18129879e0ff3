#include "bench/weight_file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "bench/stages.h"
#include "error.h"
#include "shared/weight_blocks.h"
#include "weight/weight.h"

/* ---- Values --------------------------------------------------------------------------- */

/* Where a block of ggml's has its f16 scales; both the same where it has one. */
static const struct scale_places {
    uint16_t first;
    uint16_t second;
} places_of[KVF_WEIGHT_COUNT] = {
    [KVF_WEIGHT_Q8_0] = {KVF_Q8_0_D, KVF_Q8_0_D},
    [KVF_WEIGHT_Q4_0] = {KVF_Q4_0_D, KVF_Q4_0_D},
    [KVF_WEIGHT_Q2_K] = {KVF_Q2_K_D, KVF_Q2_K_DMIN},
    [KVF_WEIGHT_Q3_K] = {KVF_Q3_K_D, KVF_Q3_K_D},
    [KVF_WEIGHT_Q4_K] = {KVF_Q4_K_D, KVF_Q4_K_DMIN},
    [KVF_WEIGHT_Q5_K] = {KVF_Q5_K_D, KVF_Q5_K_DMIN},
    [KVF_WEIGHT_Q6_K] = {KVF_Q6_K_D, KVF_Q6_K_D},
    [KVF_WEIGHT_IQ4_NL] = {KVF_IQ4_NL_D, KVF_IQ4_NL_D},
};

static uint64_t draw(uint64_t *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state;
}

/* A multiple of 8 bytes. */
static void fill_random(uint8_t *out, uint64_t bytes, uint64_t *state)
{
    for (uint64_t i = 0; i + 8 <= bytes; i += 8) {
        const uint64_t random = draw(state);
        memcpy(out + i, &random, sizeof random);
    }
}

/* Keeps sign and mantissa; the exponent is one of the four below 1. */
static void limit_numbers(kvf_weight_id type, uint8_t *out, uint64_t n)
{
    for (uint64_t i = 0; i < n; i++) {
        uint32_t wide;
        uint16_t narrow;
        if (type == KVF_WEIGHT_F32) {
            memcpy(&wide, out + 4 * i, sizeof wide);
            wide = (wide & 0x81ffffffu) | 0x3e000000u;
            memcpy(out + 4 * i, &wide, sizeof wide);
            continue;
        }
        memcpy(&narrow, out + 2 * i, sizeof narrow);
        narrow = (uint16_t)(type == KVF_WEIGHT_F16 ? (narrow & 0x8fffu) | 0x3000u
                                                   : (narrow & 0x81ffu) | 0x3e00u);
        memcpy(out + 2 * i, &narrow, sizeof narrow);
    }
}

/* f16 of 2^-4 to 2^-3. */
static void limit_half(uint8_t *out)
{
    out[1] = (uint8_t)((out[1] & 0x03) | 0x2c);
}

static void limit_blocks(kvf_weight_id type, uint8_t *out, uint64_t n)
{
    const uint32_t width = kvf_weight_get(type)->block_bytes;
    for (uint64_t i = 0; i < n; i++) {
        uint8_t *block = out + i * width;
        if (type == KVF_WEIGHT_MXFP4) {
            block[KVF_MXFP4_SCALE] = (uint8_t)(124 + block[KVF_MXFP4_SCALE] % 4);
            continue;
        }
        limit_half(block + places_of[type].first);
        limit_half(block + places_of[type].second);
    }
}

/* Codes of e4m3 that are no number. */
static void limit_fp8(uint8_t *out, uint64_t n)
{
    for (uint64_t i = 0; i < n; i++)
        out[i] = (uint8_t)(out[i] - ((out[i] & 0x7f) == 0x7f));
}

/* One of 2^-3 .. 2^0 as E8M0, or about 2^-1 as f32. */
static void limit_scales(uint32_t scale_bytes, uint8_t *out, uint64_t bytes)
{
    for (uint64_t i = 0; i < bytes; i++) {
        if (scale_bytes == 1)
            out[i] = (uint8_t)(124 + out[i] % 4);
        else if (i % 4 == 3)
            out[i] = 0x3f;
        else if (i % 4 == 2)
            out[i] &= 0x7f;
    }
}

static uint64_t round_up(uint64_t bytes)
{
    return (bytes + 511) / 512 * 512;
}

uint64_t bench_weight_bytes(kvf_weight_id type, uint32_t rows, uint32_t cols)
{
    const kvf_weight_type *stored = kvf_weight_get(type);
    return round_up(kvf_weight_bytes(stored, rows, cols)) +
           round_up(kvf_weight_scales_of(stored, rows, cols).bytes);
}

kvf_matrix bench_weight_fill(kvf_weight_id type, uint32_t rows, uint32_t cols, uint64_t seed,
                             void *memory)
{
    const kvf_weight_type *stored = kvf_weight_get(type);
    const uint64_t data_bytes = kvf_weight_bytes(stored, rows, cols);
    const kvf_weight_scales scales = kvf_weight_scales_of(stored, rows, cols);
    uint8_t *data = memory;
    uint8_t *plane = data + round_up(data_bytes);
    fill_random(data, bench_weight_bytes(type, rows, cols), &seed);
    if (type <= KVF_WEIGHT_BF16)
        limit_numbers(type, data, (uint64_t)rows * cols);
    else if (type == KVF_WEIGHT_FP8_E8M0 || type == KVF_WEIGHT_FP8_F32)
        limit_fp8(data, data_bytes);
    else if (type != KVF_WEIGHT_FP4)
        limit_blocks(type, data, data_bytes / stored->block_bytes);
    limit_scales(stored->scale_bytes, plane, scales.bytes);
    return (kvf_matrix){.type = type,
                        .rows = rows,
                        .cols = cols,
                        .row_bytes = kvf_weight_row_bytes(stored, cols),
                        .data = data,
                        .scales = scales.bytes ? plane : NULL,
                        .scale_stride = scales.stride_bytes};
}

/* ---- The file --------------------------------------------------------------------------- */

static bool write_whole(int fd, const uint8_t *data, uint64_t bytes)
{
    while (bytes) {
        const ssize_t written = write(fd, data, bytes);
        if (written <= 0 && errno != EINTR)
            return false;
        if (written > 0) {
            data += written;
            bytes -= (uint64_t)written;
        }
    }
    return true;
}

static kvf_status fail_file(const char *folder, uint64_t bytes, kvf_error *error)
{
    return kvf_fail(error, KVF_FILE_IO, "%s: a file of %llu bytes could not be made there: %s",
                    kvf_printable(folder).text, (unsigned long long)bytes, strerror(errno));
}

/* Fills and maps it; the matrices are copies of one, as caches know addresses alone. */
static kvf_status fill_file(int fd, const char *folder, const uint8_t *matrix,
                            bench_weight_file *file, kvf_error *error)
{
    for (uint32_t i = 0; i < file->n_matrices; i++)
        if (!write_whole(fd, matrix, file->stride))
            return fail_file(folder, file->map_bytes, error);
    void *map = mmap(NULL, file->map_bytes, PROT_READ, MAP_SHARED, fd, 0);
    if (map == MAP_FAILED)
        return fail_file(folder, file->map_bytes, error);
    file->map = map;
    return kvf_ok(error);
}

kvf_status bench_weight_file_open(const char *folder, kvf_weight_id type, uint32_t rows,
                                  uint32_t cols, uint64_t least_bytes, bench_weight_file *file,
                                  kvf_error *error)
{
    const kvf_weight_type *stored = kvf_weight_get(type);
    char path[4096];
    memset(file, 0, sizeof *file);
    file->stride = bench_weight_bytes(type, rows, cols);
    file->matrix_bytes =
        kvf_weight_bytes(stored, rows, cols) + kvf_weight_scales_of(stored, rows, cols).bytes;
    file->n_matrices = (uint32_t)((least_bytes + file->matrix_bytes - 1) / file->matrix_bytes);
    file->map_bytes = file->n_matrices * file->stride;
    const int length = snprintf(path, sizeof path, "%s/kvfold-bench-XXXXXX", folder);
    if (length < 0 || (size_t)length >= sizeof path) {
        errno = ENAMETOOLONG;
        return fail_file(folder, file->map_bytes, error);
    }
    uint8_t *matrix = bench_alloc(file->stride, error);
    if (!matrix)
        return KVF_OUT_OF_MEMORY;
    file->first = bench_weight_fill(type, rows, cols, 1, matrix);
    const int fd = mkstemp(path);
    kvf_status status = fd < 0 ? fail_file(folder, file->map_bytes, error) : KVF_OK;
    if (fd >= 0) {
        unlink(path);
        status = fill_file(fd, folder, matrix, file, error);
        close(fd);
    }
    if (status == KVF_OK) {
        const uint8_t *scales = file->first.scales;
        file->first.scales = scales ? file->map + (scales - matrix) : NULL;
        file->first.data = file->map;
    }
    free(matrix);
    return status;
}

void bench_weight_file_close(bench_weight_file *file)
{
    if (file->map)
        munmap((void *)file->map, file->map_bytes);
    memset(file, 0, sizeof *file);
}

kvf_matrix bench_weight_file_at(const bench_weight_file *file, uint32_t i)
{
    kvf_matrix matrix = file->first;
    matrix.data = (const uint8_t *)matrix.data + i * file->stride;
    if (matrix.scales)
        matrix.scales = (const uint8_t *)matrix.scales + i * file->stride;
    return matrix;
}
