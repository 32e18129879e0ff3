/* Random weights of every stored type. Nothing here knows a type: blocks are drawn and decoded. */
#include "conformance.h"

#include <math.h>

/* What is asked of a calm block's largest value. */
#define CALM_LOWEST 0x1p-10f
#define CALM_HIGHEST 0x1p+10f
/* A block of the narrowest type, f32, is calm in one of 12 draws. */
#define MOST_DRAWS 4096
#define WIDEST_BLOCK 256
/* Blocks that a matrix is made of; prime, so that rows differ. */
#define POOL_BLOCKS 61
#define POOL_VALUES 1021 /* of a type without blocks */

/* Bytes with which infinities, NaNs, zeros and subnormals begin or end. */
static uint8_t wild_byte(uint64_t *random)
{
    static const uint8_t edges[] = {0x00, 0x7f, 0xff, 0x80, 0x7c, 0xfc, 0x01, 0x03};
    const uint64_t bits = cf_random(random);
    return bits & 1 ? edges[bits >> 8 & 7] : (uint8_t)(bits >> 16);
}

static void draw_bytes(uint64_t *random, uint8_t *out, size_t n)
{
    for (size_t i = 0; i < n; i += 8) {
        const uint64_t bits = cf_random(random);
        memcpy(out + i, &bits, n - i < 8 ? n - i : 8);
    }
}

static bool is_calm(const float *values, uint32_t n)
{
    float largest = 0.0f;
    for (uint32_t i = 0; i < n; i++) {
        if (!(fabsf(values[i]) <= CALM_HIGHEST))
            return false;
        largest = fmaxf(largest, fabsf(values[i]));
    }
    return largest == 0.0f || largest >= CALM_LOWEST;
}

static uint8_t *block_at(const kvf_matrix *matrix, uint32_t row, uint32_t b)
{
    return (uint8_t *)matrix->data + row * matrix->row_bytes +
           (size_t)b * kvf_weight_get(matrix->type)->block_bytes;
}

/* A block that is calm with a scale of 1. */
static void draw_calm_block(uint64_t *random, kvf_weight_id id, uint8_t *bytes)
{
    static const float one = 1.0f;
    static const uint8_t one_e8m0 = 127;
    const kvf_weight_type *type = kvf_weight_get(id);
    assert_true(type->block_values <= WIDEST_BLOCK);
    const kvf_matrix block = {.type = id,
                              .rows = 1,
                              .cols = type->block_values,
                              .row_bytes = type->block_bytes,
                              .data = bytes,
                              .scales = type->scale_bytes == 1 ? (const void *)&one_e8m0 : &one};
    float values[WIDEST_BLOCK];
    for (int draw = 0; draw < MOST_DRAWS; draw++) {
        draw_bytes(random, bytes, type->block_bytes);
        type->decode(&block, 0, values);
        if (is_calm(values, type->block_values))
            return;
    }
    fail_msg("no calm block of type %s in %d draws", type->name, MOST_DRAWS);
}

static void draw_calm_blocks(cf_run *run, const kvf_matrix *matrix)
{
    const kvf_weight_type *type = kvf_weight_get(matrix->type);
    const size_t bytes = type->block_bytes;
    const uint32_t n_pool = type->block_values == 1 ? POOL_VALUES : POOL_BLOCKS;
    uint8_t *pool = cf_alloc(run, n_pool * bytes);
    for (uint32_t i = 0; i < n_pool; i++)
        draw_calm_block(&run->random, matrix->type, pool + i * bytes);
    uint32_t next = cf_pick(&run->random, n_pool);
    for (uint32_t r = 0; r < matrix->rows; r++)
        for (uint32_t b = 0; b < matrix->cols / type->block_values; b++) {
            memcpy(block_at(matrix, r, b), pool + next * bytes, bytes);
            next = next + 1 < n_pool ? next + 1 : cf_pick(&run->random, n_pool);
        }
}

/* A power of two or a float around 1: what the planes of all types have. */
static void draw_calm_scale(uint64_t *random, uint8_t *scale, uint32_t scale_bytes)
{
    const float value = ldexpf(1.0f + 0.5f * cf_unit(random), (int)cf_pick(random, 9) - 4);
    assert_true(scale_bytes == 1 || scale_bytes == sizeof value);
    if (scale_bytes == 1)
        *scale = (uint8_t)(123 + cf_pick(random, 9));
    else
        memcpy(scale, &value, sizeof value);
}

static void draw_scales(uint64_t *random, const kvf_matrix *matrix, bool calm)
{
    const kvf_weight_type *type = kvf_weight_get(matrix->type);
    const kvf_weight_scales plane = kvf_weight_scales_of(type, matrix->rows, matrix->cols);
    for (uint32_t r = 0; r < plane.rows; r++)
        for (uint32_t c = 0; c < plane.cols; c++) {
            uint8_t *scale = (uint8_t *)matrix->scales + (size_t)r * matrix->scale_stride +
                             c * type->scale_bytes;
            if (calm)
                draw_calm_scale(random, scale, type->scale_bytes);
            else if (cf_chance(random, 16))
                for (uint32_t i = 0; i < type->scale_bytes; i++)
                    scale[i] = wild_byte(random);
        }
}

/* In some rows, one block. */
static void draw_wild_blocks(uint64_t *random, const kvf_matrix *matrix)
{
    const kvf_weight_type *type = kvf_weight_get(matrix->type);
    for (uint32_t r = 0; r < matrix->rows; r++) {
        if (!cf_chance(random, 4))
            continue;
        uint8_t *block = block_at(matrix, r, cf_pick(random, matrix->cols / type->block_values));
        for (uint32_t i = 0; i < type->block_bytes; i++)
            block[i] = wild_byte(random);
    }
}

/* Ends at the fence, or somewhere before it. */
static uint8_t *unaligned(cf_run *run, size_t bytes)
{
    const size_t gap = cf_chance(&run->random, 2) ? 0 : cf_pick(&run->random, 64);
    return cf_fenced(run, bytes + gap);
}

kvf_matrix cf_matrix(cf_run *run, kvf_weight_id id, uint32_t rows, uint32_t cols, bool calm)
{
    uint64_t *random = &run->random;
    const kvf_weight_type *type = kvf_weight_get(id);
    const size_t row_bytes = (size_t)kvf_weight_row_bytes(type, cols);
    const kvf_weight_scales plane = kvf_weight_scales_of(type, rows, cols);
    assert_true(row_bytes > 0);
    kvf_matrix matrix = {.type = id, .rows = rows, .cols = cols};
    matrix.row_bytes = row_bytes + cf_pick(random, 4);
    matrix.data = unaligned(run, (rows - 1) * (size_t)matrix.row_bytes + row_bytes);
    if (type->scale_bytes) {
        matrix.scale_stride = plane.stride_bytes + cf_pick(random, 3);
        matrix.scales =
            unaligned(run, (plane.rows - 1) * (size_t)matrix.scale_stride + plane.stride_bytes);
        draw_scales(random, &matrix, true);
    }
    draw_calm_blocks(run, &matrix);
    if (!calm) {
        draw_wild_blocks(random, &matrix);
        draw_scales(random, &matrix, false);
    }
    return matrix;
}

const float *cf_decoded(cf_run *run, const kvf_matrix *matrix)
{
    float *values = cf_alloc(run, (size_t)matrix->rows * matrix->cols * sizeof *values);
    for (uint32_t r = 0; r < matrix->rows; r++)
        kvf_weight_get(matrix->type)->decode(matrix, r, values + (size_t)r * matrix->cols);
    return values;
}

kvf_matrix cf_f32_matrix(cf_run *run, uint32_t rows, uint32_t cols)
{
    float *data = cf_random_floats(run, CF_NORMAL, (size_t)rows * cols);
    for (size_t i = 0; i < (size_t)rows * cols; i++)
        data[i] *= 2.0f / sqrtf((float)cols);
    return kvf_matrix_of_f32(data, rows, cols);
}

kvf_weight_id cf_type(uint64_t *random)
{
    return (kvf_weight_id)cf_pick(random, KVF_WEIGHT_COUNT);
}

uint32_t cf_cols(uint64_t *random, kvf_weight_id type)
{
    const uint32_t block = kvf_weight_get(type)->block_values;
    if (block == 1 && cf_chance(random, 2))
        return CF_ONE_OF(random, 1, 15, 16, 17, 96, 127, 128, 129, 1023, 1025, 1317);
    const uint32_t few = block < 32 ? 32 : block;
    return CF_ONE_OF(random, few, 2 * few, 5 * few, 1024, 1024 + few, 4096);
}

float *cf_activations(cf_run *run, size_t n, bool *calm)
{
    float *values = cf_fenced(run, n * sizeof *values);
    *calm = !cf_chance(&run->random, 4);
    cf_values(&run->random, *calm ? CF_NORMAL : (cf_pattern)cf_pick(&run->random, CF_PATTERN_COUNT),
              values, n);
    return values;
}
