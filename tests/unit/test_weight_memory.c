/*
 * What all stored weight types promise of memory: any alignment, strides, no byte read or
 * written besides those of the row. And of sizes: no overflow.
 */
#include "test_support.h"

#include <math.h>
#include <sys/mman.h>
#include <unistd.h>

#include "weight/weight.h"

/* Memory whose neighbours on both sides cannot be touched. */
typedef struct guarded {
    uint8_t *mapping;
    uint8_t *start;
    size_t bytes; /* between the guards, whole pages */
    size_t mapping_bytes;
} guarded;

static guarded guarded_new(size_t bytes)
{
    const size_t page = (size_t)sysconf(_SC_PAGESIZE);
    guarded memory = {.bytes = (bytes + page - 1) / page * page};
    memory.mapping_bytes = memory.bytes + 2 * page;
    memory.mapping =
        mmap(NULL, memory.mapping_bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    assert_true(memory.mapping != MAP_FAILED);
    memory.start = memory.mapping + page;
    assert_int_equal(mprotect(memory.start, memory.bytes, PROT_READ | PROT_WRITE), 0);
    return memory;
}

static void guarded_free(guarded *memory)
{
    munmap(memory->mapping, memory->mapping_bytes);
}

enum { ROWS = 3, BLOCKS = 5, OFFSETS = 64, ROW_GAP = 13, SCALE_GAP = 5 };

/* Three rows of five blocks, or of 5 + 2 x 128 values where a block is one value, densely stored.
 */
typedef struct sample {
    const kvf_weight_type *type;
    uint32_t cols;
    size_t row_bytes;
    size_t scale_row_bytes;
    size_t scale_rows;
    uint8_t *data;
    uint8_t *scales;
    float *values; /* [ROWS][cols] */
} sample;

static void decode_all(const sample *s, kvf_matrix matrix, float *out)
{
    matrix.rows = ROWS;
    matrix.cols = s->cols;
    for (uint32_t r = 0; r < ROWS; r++)
        s->type->decode(&matrix, r, out + (size_t)r * s->cols);
}

static sample sample_new(kvf_weight_id id)
{
    const kvf_weight_type *type = kvf_weight_get(id);
    sample s = {.type = type};
    s.cols = type->block_values == 1 ? BLOCKS + 2 * 128 : BLOCKS * type->block_values;
    s.row_bytes = (size_t)kvf_weight_row_bytes(type, s.cols);
    const kvf_weight_scales plane = kvf_weight_scales_of(type, ROWS, s.cols);
    s.scale_row_bytes = plane.stride_bytes;
    s.scale_rows = plane.rows;
    s.data = malloc(ROWS * s.row_bytes);
    s.scales = malloc(plane.bytes ? (size_t)plane.bytes : 1);
    s.values = malloc(ROWS * s.cols * sizeof *s.values);
    assert_true(s.data && s.scales && s.values);
    uint64_t seed = 7 + (uint64_t)id;
    for (size_t i = 0; i < ROWS * s.row_bytes; i++)
        s.data[i] = (uint8_t)test_random(&seed);
    for (size_t i = 0; i < plane.bytes; i++)
        s.scales[i] = (uint8_t)test_random(&seed);
    const kvf_matrix dense = {.type = id,
                              .row_bytes = s.row_bytes,
                              .data = s.data,
                              .scales = s.scales,
                              .scale_stride = plane.stride_bytes};
    decode_all(&s, dense, s.values);
    return s;
}

static void sample_free(sample *s)
{
    free(s->data);
    free(s->scales);
    free(s->values);
}

static void assert_sample_values(const sample *s, const float *got, const char *where)
{
    for (size_t i = 0; i < ROWS * (size_t)s->cols; i++)
        if (!(isnan(got[i]) && isnan(s->values[i])) && test_bits(got[i]) != test_bits(s->values[i]))
            fail_msg("%s, %s: value %zu is %a, expected %a", s->type->name, where, i,
                     (double)got[i], (double)s->values[i]);
}

/* The planes at the given addresses with the given strides; the values must be the same. */
static void check_placed(const sample *s, kvf_weight_id id, uint8_t *data, size_t row_bytes,
                         uint8_t *scales, size_t scale_stride, float *out, const char *where)
{
    for (size_t r = 0; r < ROWS; r++)
        memcpy(data + r * row_bytes, s->data + r * s->row_bytes, s->row_bytes);
    for (size_t r = 0; r < s->scale_rows; r++)
        memcpy(scales + r * scale_stride, s->scales + r * s->scale_row_bytes, s->scale_row_bytes);
    const kvf_matrix matrix = {.type = id,
                               .row_bytes = row_bytes,
                               .data = data,
                               .scales = s->type->scale_bytes ? scales : NULL,
                               .scale_stride = (uint32_t)scale_stride};
    decode_all(s, matrix, out);
    assert_sample_values(s, out, where);
}

static void any_alignment_any_stride_and_no_byte_besides(void **state)
{
    (void)state;
    for (unsigned i = 0; i < KVF_WEIGHT_COUNT; i++) {
        const kvf_weight_id id = (kvf_weight_id)i;
        sample s = sample_new(id);
        /* Between two rows lies a gap; the last one ends with its last byte. */
        const size_t row_stride = s.row_bytes + ROW_GAP;
        const size_t scale_stride = s.scale_row_bytes + SCALE_GAP;
        const size_t data_bytes = (ROWS - 1) * row_stride + s.row_bytes;
        const size_t scale_bytes =
            s.scale_rows ? (s.scale_rows - 1) * scale_stride + s.scale_row_bytes : 0;
        const size_t out_bytes = ROWS * (size_t)s.cols * sizeof(float);
        guarded data = guarded_new(data_bytes + OFFSETS);
        guarded scales = guarded_new(scale_bytes + OFFSETS);
        guarded out = guarded_new(out_bytes);
        uint8_t *const data_end = data.start + data.bytes - data_bytes;
        uint8_t *const scales_end = scales.start + scales.bytes - scale_bytes;
        float *const out_end = (float *)(void *)(out.start + out.bytes - out_bytes);

        check_placed(&s, id, data.start, row_stride, scales.start, scale_stride,
                     (float *)(void *)out.start, "behind a guard page");
        check_placed(&s, id, data_end, row_stride, scales_end, scale_stride, out_end,
                     "before a guard page");
        for (size_t offset = 0; offset < OFFSETS; offset++) {
            /* Scales at offsets that are not the data's. */
            const size_t other = (offset * 5 + 3) % OFFSETS;
            check_placed(&s, id, data.start + offset, row_stride, scales.start + other,
                         scale_stride, out_end, "at an offset");
        }
        guarded_free(&data);
        guarded_free(&scales);
        guarded_free(&out);
        sample_free(&s);
    }
}

static void types_by_id_and_by_name(void **state)
{
    (void)state;
    for (unsigned i = 0; i < KVF_WEIGHT_COUNT; i++) {
        const kvf_weight_type *type = kvf_weight_get((kvf_weight_id)i);
        assert_non_null(type);
        kvf_weight_id id = KVF_WEIGHT_COUNT;
        assert_true(kvf_weight_find(type->name, &id));
        assert_int_equal(id, i);
    }
    assert_null(kvf_weight_get(KVF_WEIGHT_COUNT));
    assert_null(kvf_weight_get((kvf_weight_id)-1));
    kvf_weight_id id = KVF_WEIGHT_Q8_0;
    assert_false(kvf_weight_find("q4_1", &id));
    assert_false(kvf_weight_find("", &id));
    assert_int_equal(id, KVF_WEIGHT_Q8_0);
}

static void sizes_that_overflow(void **state)
{
    (void)state;
    /* f32, 2^32 - 1 each way: 4 (2^32 - 1)^2 is more than 2^64. With f16 it is 2^65 less a little.
     */
    const uint64_t most = UINT32_MAX;
    assert_int_equal(kvf_weight_bytes(kvf_weight_get(KVF_WEIGHT_F32), most, most), 0);
    assert_int_equal(kvf_weight_bytes(kvf_weight_get(KVF_WEIGHT_F16), most, most), 0);
    assert_int_equal(kvf_weight_bytes(kvf_weight_get(KVF_WEIGHT_F32), 1u << 31, 1u << 31), 0);
    assert_int_equal(kvf_weight_bytes(kvf_weight_get(KVF_WEIGHT_F16), 1u << 31, 1u << 31),
                     (uint64_t)1 << 63);
    assert_int_equal(kvf_weight_bytes(kvf_weight_get(KVF_WEIGHT_FP8_F32), most, most), most * most);
    const kvf_weight_scales plane =
        kvf_weight_scales_of(kvf_weight_get(KVF_WEIGHT_FP8_F32), most, most);
    assert_int_equal(plane.rows, 1u << 25); /* ceil((2^32 - 1) / 128) */
    assert_int_equal(plane.stride_bytes, 1u << 27);
    assert_int_equal(plane.bytes, (uint64_t)1 << 52);
    assert_int_equal(kvf_weight_scales_of(kvf_weight_get(KVF_WEIGHT_FP8_F32), most + 1, 1).bytes,
                     0);
    assert_int_equal(kvf_weight_row_bytes(kvf_weight_get(KVF_WEIGHT_Q2_K), 255), 0);
    assert_int_equal(kvf_weight_row_bytes(kvf_weight_get(KVF_WEIGHT_FP4), 48), 0);
    assert_int_equal(kvf_weight_row_bytes(kvf_weight_get(KVF_WEIGHT_FP4), 96), 48);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(any_alignment_any_stride_and_no_byte_besides),
        cmocka_unit_test(types_by_id_and_by_name),
        cmocka_unit_test(sizes_that_overflow),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
