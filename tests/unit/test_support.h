/* Helpers of the unit tests: cmocka, repeatable random numbers, golden tensors. */
#ifndef KVF_TEST_SUPPORT_H
#define KVF_TEST_SUPPORT_H

#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <cjson/cJSON.h>

/* Bit casts of the tests' own, so that a test never trusts the code it tests. */
static inline uint32_t test_bits(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

static inline float test_float(uint32_t bits)
{
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

/* splitmix64: the same sequence on every machine. */
static inline uint64_t test_random(uint64_t *state)
{
    uint64_t z = *state += 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

/* Uniform in [-1, 1). */
static inline float test_random_unit(uint64_t *state)
{
    return (float)((double)(test_random(state) >> 11) * 0x1p-52 - 1.0);
}

/* Fails at the first value whose bits differ, and says which. */
static inline void test_assert_same_bits(const float *got, const float *expected, size_t n,
                                         const char *what)
{
    for (size_t i = 0; i < n; i++)
        if (test_bits(got[i]) != test_bits(expected[i]))
            fail_msg("%s: value %zu is %a, expected %a", what, i, (double)got[i],
                     (double)expected[i]);
}

/* A safetensors file in memory; enough of a reader for trusted golden files. */
typedef struct test_goldens {
    uint8_t *bytes;
    uint64_t n_bytes;
    const uint8_t *data; /* after the header */
    cJSON *header;
} test_goldens;

static inline void test_goldens_close(test_goldens *goldens)
{
    cJSON_Delete(goldens->header);
    free(goldens->bytes);
    memset(goldens, 0, sizeof *goldens);
}

/* Fails the running test when the file cannot be read. */
static inline void test_goldens_open(test_goldens *goldens, const char *path)
{
    memset(goldens, 0, sizeof *goldens);
    FILE *file = fopen(path, "rb");
    if (!file)
        fail_msg("cannot open %s", path);
    assert_int_equal(fseek(file, 0, SEEK_END), 0);
    const long size = ftell(file);
    assert_true(size > 8);
    rewind(file);
    goldens->n_bytes = (uint64_t)size;
    goldens->bytes = malloc((size_t)size);
    assert_non_null(goldens->bytes);
    assert_int_equal(fread(goldens->bytes, 1, (size_t)size, file), (size_t)size);
    fclose(file);

    uint64_t header_bytes = 0;
    memcpy(&header_bytes, goldens->bytes, sizeof header_bytes);
    assert_true(header_bytes <= goldens->n_bytes - 8);
    goldens->data = goldens->bytes + 8 + header_bytes;
    goldens->header = cJSON_ParseWithLength((const char *)goldens->bytes + 8, header_bytes);
    assert_non_null(goldens->header);
}

/*
 * Copies tensor `name`, which must be of `dtype` ("F32", "I32") and hold n values of
 * 4 bytes, to out. Fails the running test otherwise.
 */
static inline void test_goldens_read(const test_goldens *goldens, const char *name,
                                     const char *dtype, size_t n, void *out)
{
    const cJSON *tensor = cJSON_GetObjectItemCaseSensitive(goldens->header, name);
    if (!tensor)
        fail_msg("no tensor %s among the goldens", name);
    const cJSON *type = cJSON_GetObjectItemCaseSensitive(tensor, "dtype");
    assert_string_equal(cJSON_GetStringValue(type), dtype);
    const cJSON *offsets = cJSON_GetObjectItemCaseSensitive(tensor, "data_offsets");
    const double first = cJSON_GetNumberValue(cJSON_GetArrayItem(offsets, 0));
    const double end = cJSON_GetNumberValue(cJSON_GetArrayItem(offsets, 1));
    assert_true(first >= 0 && end - first == 4.0 * (double)n);
    assert_true(end <= (double)(goldens->bytes + goldens->n_bytes - goldens->data));
    memcpy(out, goldens->data + (size_t)first, n * 4);
}

#endif
