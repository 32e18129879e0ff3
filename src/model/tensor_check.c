#include "model/tensor_check.h"

#include <stddef.h>
#include <string.h>

#include "shared/weight_blocks.h"

/* ---- Plain types ------------------------------------------------------------------- */

/* Counters of n values at any address. An exponent of all ones is infinity or NaN. */
typedef uint64_t counter(const unsigned char *data, uint64_t n);

static uint64_t count_u16(const unsigned char *data, uint64_t n, uint16_t exponent)
{
    uint64_t found = 0;
    for (uint64_t i = 0; i < n; i++) {
        uint16_t bits;
        memcpy(&bits, data + 2 * i, sizeof bits);
        found += (bits & exponent) == exponent;
    }
    return found;
}

static uint64_t count_f16(const unsigned char *data, uint64_t n)
{
    return count_u16(data, n, 0x7c00);
}

static uint64_t count_bf16(const unsigned char *data, uint64_t n)
{
    return count_u16(data, n, 0x7f80);
}

static uint64_t count_f32(const unsigned char *data, uint64_t n)
{
    uint64_t found = 0;
    for (uint64_t i = 0; i < n; i++) {
        uint32_t bits;
        memcpy(&bits, data + 4 * i, sizeof bits);
        found += (bits & 0x7f800000) == 0x7f800000;
    }
    return found;
}

static uint64_t count_f64(const unsigned char *data, uint64_t n)
{
    const uint64_t exponent = UINT64_C(0x7ff) << 52;
    uint64_t found = 0;
    for (uint64_t i = 0; i < n; i++) {
        uint64_t bits;
        memcpy(&bits, data + 8 * i, sizeof bits);
        found += (bits & exponent) == exponent;
    }
    return found;
}

/* 0x7f and 0xff; there is no infinity. */
static uint64_t count_e4m3(const unsigned char *data, uint64_t n)
{
    uint64_t found = 0;
    for (uint64_t i = 0; i < n; i++)
        found += (data[i] & 0x7f) == 0x7f;
    return found;
}

static uint64_t count_e8m0(const unsigned char *data, uint64_t n)
{
    uint64_t found = 0;
    for (uint64_t i = 0; i < n; i++)
        found += data[i] == 0xff;
    return found;
}

/* ---- Blocks ------------------------------------------------------------------------ */

/* Where a block has its f16 scales; the second equals the first where there is one. */
static uint64_t count_scales(const unsigned char *data, uint64_t n, size_t block_bytes, size_t d,
                             size_t dmin)
{
    uint64_t found = 0;
    for (uint64_t i = 0; i < n; i++, data += block_bytes)
        found += count_f16(data + d, 1) + (dmin != d ? count_f16(data + dmin, 1) : 0);
    return found;
}

static uint64_t count_mxfp4(const unsigned char *data, uint64_t n)
{
    uint64_t found = 0;
    for (uint64_t i = 0; i < n; i++, data += KVF_MXFP4_BYTES)
        found += data[KVF_MXFP4_SCALE] == 0xff;
    return found;
}

/* ---- All types ---------------------------------------------------------------------- */

static const char not_finite[] = "values that are not finite";
static const char nan_codes[] = "NaN codes";
static const char nan_scales[] = "scales of 255, NaN";
static const char bad_scales[] = "f16 scales that are not finite";
/* A number in ggml's arithmetic; no encoder writes it. */
static const char odd_scales[] = "scales of 255, which no encoder writes";

static const struct check {
    kvf_stored_type type;
    const char *what;
    counter *count; /* NULL: f16 scales in blocks */
    size_t d;
    size_t dmin;
} checks[] = {
    {KVF_STORED_F32, not_finite, count_f32, 0, 0},
    {KVF_STORED_F64, not_finite, count_f64, 0, 0},
    {KVF_STORED_F16, not_finite, count_f16, 0, 0},
    {KVF_STORED_BF16, not_finite, count_bf16, 0, 0},
    {KVF_STORED_F8_E4M3, nan_codes, count_e4m3, 0, 0},
    {KVF_STORED_F8_E8M0, nan_scales, count_e8m0, 0, 0},
    {KVF_STORED_MXFP4, odd_scales, count_mxfp4, 0, 0},
    {KVF_STORED_Q4_0, bad_scales, NULL, KVF_Q4_0_D, KVF_Q4_0_D},
    {KVF_STORED_Q8_0, bad_scales, NULL, KVF_Q8_0_D, KVF_Q8_0_D},
    {KVF_STORED_Q2_K, bad_scales, NULL, KVF_Q2_K_D, KVF_Q2_K_DMIN},
    {KVF_STORED_Q3_K, bad_scales, NULL, KVF_Q3_K_D, KVF_Q3_K_D},
    {KVF_STORED_Q4_K, bad_scales, NULL, KVF_Q4_K_D, KVF_Q4_K_DMIN},
    {KVF_STORED_Q5_K, bad_scales, NULL, KVF_Q5_K_D, KVF_Q5_K_DMIN},
    {KVF_STORED_Q6_K, bad_scales, NULL, KVF_Q6_K_D, KVF_Q6_K_D},
    {KVF_STORED_IQ2_XXS, bad_scales, NULL, KVF_IQ2_XXS_D, KVF_IQ2_XXS_D},
    {KVF_STORED_IQ2_XS, bad_scales, NULL, KVF_IQ2_XS_D, KVF_IQ2_XS_D},
    {KVF_STORED_IQ2_S, bad_scales, NULL, KVF_IQ2_S_D, KVF_IQ2_S_D},
    {KVF_STORED_IQ3_XXS, bad_scales, NULL, KVF_IQ3_XXS_D, KVF_IQ3_XXS_D},
    {KVF_STORED_IQ3_S, bad_scales, NULL, KVF_IQ3_S_D, KVF_IQ3_S_D},
    {KVF_STORED_IQ4_NL, bad_scales, NULL, KVF_IQ4_NL_D, KVF_IQ4_NL_D},
    {KVF_STORED_IQ4_XS, bad_scales, NULL, KVF_IQ4_XS_D, KVF_IQ4_XS_D},
};

/* Some writers call E8M0 scales U8; the name says which they are, as it does for the loader. */
static bool is_u8_scale(const kvf_tensor *tensor)
{
    static const char suffix[] = ".scale";
    const size_t bytes = strlen(tensor->name);
    return tensor->type == KVF_STORED_U8 && bytes >= sizeof suffix &&
           strcmp(tensor->name + bytes - (sizeof suffix - 1), suffix) == 0;
}

static const struct check *check_of(const kvf_tensor *tensor)
{
    const kvf_stored_type type = is_u8_scale(tensor) ? KVF_STORED_F8_E8M0 : tensor->type;
    for (size_t i = 0; i < sizeof checks / sizeof *checks; i++)
        if (checks[i].type == type)
            return &checks[i];
    return NULL;
}

const char *kvf_tensor_check_what(const kvf_tensor *tensor)
{
    const struct check *check = check_of(tensor);
    return check ? check->what : NULL;
}

uint64_t kvf_tensor_check_count(const kvf_tensor *tensor, uint64_t first, uint64_t n)
{
    const struct check *check = check_of(tensor);
    const size_t block_bytes = kvf_stored_info_of(tensor->type)->block_bytes;
    const unsigned char *data = (const unsigned char *)tensor->data + first * block_bytes;
    if (!check)
        return 0;
    return check->count ? check->count(data, n)
                        : count_scales(data, n, block_bytes, check->d, check->dmin);
}
