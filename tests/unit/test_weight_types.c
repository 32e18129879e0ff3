/*
 * Stored weight types. Values at the edges of each type are worked out by hand in the
 * comments, from the formulas of docs/WEIGHTS.md; block offsets are written as numbers,
 * not taken from weight_blocks.h. tests/oracle has the mass of cases.
 */
#include "test_support.h"

#include <math.h>

#include "weight/weight.h"

/* f16 codes of scales. */
enum {
    F16_HALF = 0x3800,
    F16_ONE = 0x3c00,
    F16_TWO = 0x4000,
    F16_MINUS_ONE = 0xbc00,
    F16_SMALLEST = 0x0001, /* 2^-24 */
    F16_INFINITY = 0x7c00,
    F16_NAN = 0x7e00
};

static void assert_value(float got, float expected, const char *what, size_t i)
{
    if (isnan(expected) ? !isnan(got) : test_bits(got) != test_bits(expected))
        fail_msg("%s: value %zu is %a, expected %a", what, i, (double)got, (double)expected);
}

static void set_u16(uint8_t *at, unsigned value)
{
    at[0] = (uint8_t)value;
    at[1] = (uint8_t)(value >> 8);
}

static void set_u32(uint8_t *at, uint32_t value)
{
    set_u16(at, value & 0xffff);
    set_u16(at + 2, value >> 16);
}

/* One row of one block, or of `cols` values where a block is one value. */
static void decode_row(kvf_weight_id id, uint32_t cols, const uint8_t *data, const uint8_t *scales,
                       float *out)
{
    const kvf_weight_type *type = kvf_weight_get(id);
    const kvf_matrix matrix = {
        .type = id,
        .rows = 1,
        .cols = cols,
        .row_bytes = kvf_weight_row_bytes(type, cols),
        .data = data,
        .scales = scales,
        .scale_stride = kvf_weight_scales_of(type, 1, cols).stride_bytes,
    };
    type->decode(&matrix, 0, out);
}

/* ---- Plain numbers ---------------------------------------------------------------- */

static void f32_is_itself(void **state)
{
    (void)state;
    const uint8_t data[] = {0, 0, 0x80, 0x3f, 1, 0, 0, 0x80, 0, 0, 0, 0x80, 0, 0, 0x80, 0xff};
    float out[4];
    decode_row(KVF_WEIGHT_F32, 4, data, NULL, out);
    assert_value(out[0], 1.0f, "f32", 0);
    assert_value(out[1], -0x1p-149f, "f32", 1);
    assert_value(out[2], -0.0f, "f32", 2);
    assert_value(out[3], -INFINITY, "f32", 3);
}

static void f16_codes(void **state)
{
    (void)state;
    /* Subnormals are m * 2^-24; the largest is (2 - 2^-10) * 2^15. */
    static const struct {
        unsigned code;
        float value;
    } cases[] = {{0x0000, 0.0f},        {0x8000, -0.0f},    {0x0001, 0x1p-24f},
                 {0x83ff, -0x3ffp-24f}, {0x0400, 0x1p-14f}, {0x3555, 0x1.554p-2f},
                 {0xbc00, -1.0f},       {0x7bff, 65504.0f}, {0x7c00, INFINITY},
                 {0xfc00, -INFINITY},   {0x7c01, NAN},      {0xffff, NAN}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        uint8_t data[2];
        float out;
        set_u16(data, cases[i].code);
        decode_row(KVF_WEIGHT_F16, 1, data, NULL, &out);
        assert_value(out, cases[i].value, "f16", i);
    }
}

static void bf16_codes(void **state)
{
    (void)state;
    const uint8_t data[] = {0x80, 0x3f, 0x00, 0x80, 0x01, 0x00, 0x80, 0x7f, 0xc1, 0xff};
    float out[5];
    decode_row(KVF_WEIGHT_BF16, 5, data, NULL, out);
    assert_value(out[0], 1.0f, "bf16", 0);
    assert_value(out[1], -0.0f, "bf16", 1);
    assert_value(out[2], 0x1p-133f, "bf16", 2); /* bit 16 of an f32: 2^(16 - 149) */
    assert_value(out[3], INFINITY, "bf16", 3);
    assert_value(out[4], NAN, "bf16", 4);
}

/* ---- DeepSeek's ------------------------------------------------------------------- */

/* e4m3: 1 sign, 4 exponent bits of bias 7, 3 mantissa bits; subnormals m * 2^-9. */
static const uint8_t e4m3_codes[] = {0x00, 0x80, 0x01, 0x87, 0x08, 0x38,
                                     0x40, 0x7e, 0xfe, 0x7f, 0xff};
static const float e4m3_values[] = {0.0f, -0.0f,  0x1p-9f, -0x7p-9f, 0x1p-6f, 1.0f,
                                    2.0f, 448.0f, -448.0f, NAN,      NAN};
enum { E4M3_CODES = sizeof e4m3_codes };

static void fp8_with_powers_of_two(void **state)
{
    (void)state;
    /* 2^(byte - 127). 0: 2^-127, so that 2^-9 gives 2^-136. 254: 2^127, so that 2 and more
     * are infinite. 255 is NaN and gives NaN whatever the code, zeros included. */
    static const struct {
        uint8_t byte;
        float scale;
    } cases[] = {{127, 1.0f}, {128, 2.0f}, {1, 0x1p-126f}, {0, 0x1p-127f}};
    float out[E4M3_CODES];
    for (size_t c = 0; c < sizeof cases / sizeof *cases; c++) {
        decode_row(KVF_WEIGHT_FP8_E8M0, E4M3_CODES, e4m3_codes, &cases[c].byte, out);
        for (size_t i = 0; i < E4M3_CODES; i++)
            assert_value(out[i], e4m3_values[i] * cases[c].scale, "fp8_e8m0", i);
    }
    assert_value(out[2], 0x1p-136f, "fp8_e8m0, the smallest", 2);

    const uint8_t largest = 254;
    static const float overflown[E4M3_CODES] = {0.0f,      -0.0f,    0x1p118f, -0x7p118f,
                                                0x1p121f,  0x1p127f, INFINITY, INFINITY,
                                                -INFINITY, NAN,      NAN};
    decode_row(KVF_WEIGHT_FP8_E8M0, E4M3_CODES, e4m3_codes, &largest, out);
    for (size_t i = 0; i < E4M3_CODES; i++)
        assert_value(out[i], overflown[i], "fp8_e8m0, the largest scale", i);

    const uint8_t nan = 255;
    decode_row(KVF_WEIGHT_FP8_E8M0, E4M3_CODES, e4m3_codes, &nan, out);
    for (size_t i = 0; i < E4M3_CODES; i++)
        assert_value(out[i], NAN, "fp8_e8m0, the scale is NaN", i);
}

static void fp8_with_any_scale_rounds_once(void **state)
{
    (void)state;
    /*
     * Scale 1 + 2^-23. 1.125: 1.125 + 1.125 * 2^-23, the nearest is 1.125 + 2^-23. 1.5: 1.5 +
     * 1.5 * 2^-23 is a tie, which goes to the even 1.5 + 2 * 2^-23. 1.75: 1.75 + 1.75 * 2^-23,
     * the nearest is 1.75 + 2 * 2^-23. 2: exact.
     */
    const uint8_t codes[] = {0x39, 0x3c, 0xbe, 0x40, 0x00};
    uint8_t scale[4];
    float out[5];
    set_u32(scale, 0x3f800001);
    decode_row(KVF_WEIGHT_FP8_F32, 5, codes, scale, out);
    assert_value(out[0], 0x1.200002p+0f, "fp8_f32", 0);
    assert_value(out[1], 0x1.800004p+0f, "fp8_f32", 1);
    assert_value(out[2], -0x1.c00004p+0f, "fp8_f32", 2);
    assert_value(out[3], 0x1.000002p+1f, "fp8_f32", 3);
    assert_value(out[4], 0.0f, "fp8_f32", 4);

    set_u32(scale, 0xc0000000); /* -2: zeros change their sign, too */
    decode_row(KVF_WEIGHT_FP8_F32, 5, codes, scale, out);
    assert_value(out[0], -2.25f, "fp8_f32", 0);
    assert_value(out[4], -0.0f, "fp8_f32", 4);

    set_u32(scale, 0x7f800000); /* infinity: a zero times it is NaN */
    decode_row(KVF_WEIGHT_FP8_F32, 5, codes, scale, out);
    assert_value(out[2], -INFINITY, "fp8_f32", 2);
    assert_value(out[4], NAN, "fp8_f32", 4);

    set_u32(scale, 0x7fc00000);
    decode_row(KVF_WEIGHT_FP8_F32, 5, codes, scale, out);
    for (size_t i = 0; i < 5; i++)
        assert_value(out[i], NAN, "fp8_f32, the scale is NaN", i);
}

static void fp8_scales_are_of_tiles(void **state)
{
    (void)state;
    /* 130 x 131: four tiles. All codes are 1, so a value is its tile's scale. */
    enum { ROWS = 130, COLS = 131 };
    static uint8_t codes[ROWS][COLS];
    memset(codes, 0x38, sizeof codes);
    const uint8_t bytes[4] = {127, 128, 129, 130}; /* 1, 2, 4, 8 */
    uint8_t floats[4][4];
    for (int i = 0; i < 4; i++)
        set_u32(floats[i], test_bits((float)(3 * (1 << i))));
    const kvf_weight_id ids[] = {KVF_WEIGHT_FP8_E8M0, KVF_WEIGHT_FP8_F32};
    for (int t = 0; t < 2; t++) {
        const kvf_weight_scales plane = kvf_weight_scales_of(kvf_weight_get(ids[t]), ROWS, COLS);
        assert_int_equal(plane.rows, 2);
        assert_int_equal(plane.cols, 2);
        assert_int_equal(plane.bytes, t == 0 ? 4 : 16);
        const kvf_matrix matrix = {
            .type = ids[t],
            .rows = ROWS,
            .cols = COLS,
            .row_bytes = COLS,
            .data = codes,
            .scales = t == 0 ? (const void *)bytes : (const void *)floats,
            .scale_stride = plane.stride_bytes,
        };
        for (uint32_t r = 0; r < ROWS; r++) {
            float out[COLS];
            kvf_weight_get(ids[t])->decode(&matrix, r, out);
            for (uint32_t c = 0; c < COLS; c++) {
                const float power = (float)(1 << (2 * (r >= 128) + (c >= 128)));
                assert_value(out[c], t == 0 ? power : 3 * power, "tile", c);
            }
        }
    }
}

static void fp4_low_nibble_first(void **state)
{
    (void)state;
    /* Bytes 0x10, 0x32 .. hold codes 0 to 15 in order, twice: 0 .5 1 1.5 2 3 4 6, then negative. */
    static const float values[16] = {0.0f,  0.5f,  1.0f,  1.5f,  2.0f,  3.0f,  4.0f,  6.0f,
                                     -0.0f, -0.5f, -1.0f, -1.5f, -2.0f, -3.0f, -4.0f, -6.0f};
    uint8_t codes[32];
    for (int j = 0; j < 32; j++)
        codes[j] = (uint8_t)((2 * j) % 16 | (2 * j + 1) % 16 << 4);
    /* 2^127: 1.5 is 1.5 * 2^127, 2 and more are infinite. 0: 2^-127. */
    static const uint8_t scales[2][2] = {{127, 254}, {0, 255}};
    float out[64];
    decode_row(KVF_WEIGHT_FP4, 64, codes, scales[0], out);
    for (size_t i = 0; i < 32; i++)
        assert_value(out[i], values[i % 16], "fp4", i);
    for (size_t i = 32; i < 64; i++)
        assert_value(out[i], values[i % 16] * 0x1p127f, "fp4, the largest scale", i);
    assert_value(out[32 + 3], 0x1.8p127f, "fp4", 35);
    assert_value(out[32 + 4], INFINITY, "fp4", 36);
    assert_value(out[32 + 8], -0.0f, "fp4", 40);
    decode_row(KVF_WEIGHT_FP4, 64, codes, scales[1], out);
    assert_value(out[1], 0x1p-128f, "fp4, the smallest scale", 1);
    assert_value(out[8], -0.0f, "fp4, the smallest scale", 8);
    for (size_t i = 32; i < 64; i++)
        assert_value(out[i], NAN, "fp4, the scale is NaN", i);
}

/* ---- ggml's blocks of 32 ---------------------------------------------------------- */

static void q8_0_codes(void **state)
{
    (void)state;
    uint8_t block[34] = {0};
    float out[32];
    block[2] = 1;
    block[3] = 0x80; /* -128 */
    block[4] = 0;
    block[33] = 0xff; /* -1 */
    set_u16(block, F16_HALF);
    decode_row(KVF_WEIGHT_Q8_0, 32, block, NULL, out);
    assert_value(out[0], 0.5f, "q8_0", 0);
    assert_value(out[1], -64.0f, "q8_0", 1);
    assert_value(out[2], 0.0f, "q8_0", 2);
    assert_value(out[31], -0.5f, "q8_0", 31);
    set_u16(block, 0x8001); /* -2^-24 */
    decode_row(KVF_WEIGHT_Q8_0, 32, block, NULL, out);
    assert_value(out[1], 0x1p-17f, "q8_0", 1); /* -128 * -2^-24 */
    assert_value(out[2], -0.0f, "q8_0", 2);    /* -2^-24 * 0 */
    set_u16(block, F16_INFINITY);
    decode_row(KVF_WEIGHT_Q8_0, 32, block, NULL, out);
    assert_value(out[1], -INFINITY, "q8_0", 1);
    assert_value(out[2], NAN, "q8_0", 2);
}

static void q4_0_codes(void **state)
{
    (void)state;
    uint8_t block[18] = {0};
    float out[32];
    set_u16(block, F16_TWO);
    memset(block + 2, 0x88, 16); /* 8 is the zero */
    block[2] = 0x0f;             /* value 0: 15 - 8; value 16: 0 - 8 */
    block[17] = 0x90;            /* value 15: 0 - 8; value 31: 9 - 8 */
    decode_row(KVF_WEIGHT_Q4_0, 32, block, NULL, out);
    assert_value(out[0], 14.0f, "q4_0", 0);
    assert_value(out[16], -16.0f, "q4_0", 16);
    assert_value(out[15], -16.0f, "q4_0", 15);
    assert_value(out[31], 2.0f, "q4_0", 31);
    assert_value(out[1], 0.0f, "q4_0", 1);
    set_u16(block, F16_MINUS_ONE);
    decode_row(KVF_WEIGHT_Q4_0, 32, block, NULL, out);
    assert_value(out[0], -7.0f, "q4_0", 0);
    assert_value(out[17], -0.0f, "q4_0", 17);
}

static void iq4_nl_codes(void **state)
{
    (void)state;
    uint8_t block[18] = {0};
    float out[32];
    set_u16(block, F16_HALF);
    block[2] = 0x8f; /* value 0: T[15] = 113; value 16: T[8] = 1 */
    block[3] = 0x70; /* value 1: T[0] = -127; value 17: T[7] = -10 */
    decode_row(KVF_WEIGHT_IQ4_NL, 32, block, NULL, out);
    assert_value(out[0], 56.5f, "iq4_nl", 0);
    assert_value(out[16], 0.5f, "iq4_nl", 16);
    assert_value(out[1], -63.5f, "iq4_nl", 1);
    assert_value(out[17], -5.0f, "iq4_nl", 17);
    set_u16(block, F16_NAN);
    decode_row(KVF_WEIGHT_IQ4_NL, 32, block, NULL, out);
    assert_value(out[0], NAN, "iq4_nl", 0);
}

static void mxfp4_codes(void **state)
{
    (void)state;
    /*
     * 2^(byte - 128) times 0 1 2 3 4 6 8 12 and negatives; code 8 is a zero without a sign.
     * Nibbles of byte i are values i and i + 16.
     */
    uint8_t block[17];
    float out[32];
    for (int i = 0; i < 16; i++)
        block[1 + i] = (uint8_t)(i | (15 - i) << 4);
    static const float doubled[16] = {0.0f, 1.0f,  2.0f,  3.0f,  4.0f,  6.0f,  8.0f,  12.0f,
                                      0.0f, -1.0f, -2.0f, -3.0f, -4.0f, -6.0f, -8.0f, -12.0f};
    block[0] = 128;
    decode_row(KVF_WEIGHT_MXFP4, 32, block, NULL, out);
    for (size_t i = 0; i < 16; i++) {
        assert_value(out[i], doubled[i], "mxfp4", i);
        assert_value(out[16 + i], doubled[15 - i], "mxfp4", 16 + i);
    }
    block[0] = 0;
    decode_row(KVF_WEIGHT_MXFP4, 32, block, NULL, out);
    assert_value(out[1], 0x1p-128f, "mxfp4, byte 0", 1);
    assert_value(out[8], 0.0f, "mxfp4, byte 0", 8);
    block[0] = 1;
    decode_row(KVF_WEIGHT_MXFP4, 32, block, NULL, out);
    assert_value(out[15], -0xcp-127f, "mxfp4, byte 1", 15);
    block[0] = 254; /* 2^126: 3 * 2^126 is finite, 4 * 2^126 is not */
    decode_row(KVF_WEIGHT_MXFP4, 32, block, NULL, out);
    assert_value(out[3], 0x1.8p127f, "mxfp4, byte 254", 3);
    assert_value(out[4], INFINITY, "mxfp4, byte 254", 4);
    block[0] = 255; /* no NaN here: 2^127 */
    decode_row(KVF_WEIGHT_MXFP4, 32, block, NULL, out);
    assert_value(out[0], 0.0f, "mxfp4, byte 255", 0);
    assert_value(out[9], -0x1p127f, "mxfp4, byte 255", 9);
    assert_value(out[10], -INFINITY, "mxfp4, byte 255", 10);
}

/* ---- K-quants --------------------------------------------------------------------- */

static void q2_k_codes(void **state)
{
    (void)state;
    uint8_t block[84] = {0};
    float out[256];
    set_u16(block + 80, F16_ONE);
    set_u16(block + 82, F16_HALF);
    /* Values 144 to 159 are sub-block 9: scale 3, minimum 5. Value 146 is in the second half, at
     * byte 32 + 146 % 32 of the codes, bits 0 and 1 as 146 % 128 < 32. */
    block[9] = 0x53;
    block[16 + 32 + 18] = 0x02;
    /* Value 101 is in sub-block 6: scale 15. Byte 101 % 32 = 5, bits 6 and 7 as 101 / 32 = 3. */
    block[6] = 0x0f;
    block[16 + 5] = 0xc0;
    decode_row(KVF_WEIGHT_Q2_K, 256, block, NULL, out);
    assert_value(out[146], 3.5f, "q2_K", 146); /* 3 * 2 - 0.5 * 5 */
    assert_value(out[147], -2.5f, "q2_K", 147);
    assert_value(out[101], 45.0f, "q2_K", 101);
    assert_value(out[5], 0.0f, "q2_K", 5); /* 0 - 0 */
    /* 45 - 15 * 2^-24: half a step at 45 is 2^-19, which is more. And -0 - 0 is -0. */
    set_u16(block + 82, F16_SMALLEST);
    block[6] = 0xff;
    decode_row(KVF_WEIGHT_Q2_K, 256, block, NULL, out);
    assert_value(out[101], 45.0f, "q2_K", 101);
    assert_value(out[102], -0xfp-24f, "q2_K", 102);
    set_u16(block + 80, F16_MINUS_ONE);
    decode_row(KVF_WEIGHT_Q2_K, 256, block, NULL, out);
    assert_value(out[5], -0.0f, "q2_K", 5);
    set_u16(block + 80, F16_INFINITY);
    set_u16(block + 82, F16_INFINITY);
    decode_row(KVF_WEIGHT_Q2_K, 256, block, NULL, out);
    assert_value(out[101], NAN, "q2_K", 101); /* infinity - infinity */
}

static void q3_k_codes(void **state)
{
    (void)state;
    uint8_t block[110] = {0};
    float out[256];
    set_u16(block + 108, F16_HALF);
    /* All bytes are 0: scale -32, code 0, high bit 0, so -4: 0.5 * -32 * -4. */
    decode_row(KVF_WEIGHT_Q3_K, 256, block, NULL, out);
    assert_value(out[0], 64.0f, "q3_K", 0);
    /*
     * Value 250: sub-block 15, whose scale is the high nibble of s[7] and bits 6, 7 of s[11]:
     * 5 + 16 * 3 = 53, less 32 is 21. Code at byte 32 + 250 % 32 = 58, bits 6, 7 (250 % 128 is
     * 122): 1. High bit: bit 7 of byte 26. 0.5 * 21 * 1; its neighbour 251: 0.5 * 21 * -4.
     */
    block[96 + 7] = 0x50;
    block[96 + 11] = 0xc0;
    block[32 + 58] = 0x40;
    block[26] = 0x80;
    decode_row(KVF_WEIGHT_Q3_K, 256, block, NULL, out);
    assert_value(out[250], 10.5f, "q3_K", 250);
    assert_value(out[251], -42.0f, "q3_K", 251);
    /* Sub-block 7 (values 112 to 127): low nibble of s[7] and bits 2, 3 of s[11]: still 0 - 32. */
    assert_value(out[112], 64.0f, "q3_K", 112);
    /*
     * Zeros: value 0 with scale 32 - 32 and code 3 of 0 to 3 with its high bit: 0.5 * 0 * 3 is 0,
     * without the bit 0.5 * 0 * -1 is -0. Scale 0: bits 4, 5 from s[8]: 2.
     */
    block[96 + 8] = 0x02;
    block[32] = 0x03;
    block[0] = 0x01;
    block[32 + 1] = 0x03;
    decode_row(KVF_WEIGHT_Q3_K, 256, block, NULL, out);
    assert_value(out[0], 0.0f, "q3_K", 0);
    assert_value(out[1], -0.0f, "q3_K", 1);
}

/* Scales of q4_K and q5_K at byte 4: sub-block 1 gets 37 and 22, sub-block 6 gets 59 and 44. */
static void set_six_bit_scales(uint8_t *s)
{
    s[1] = 37; /* j < 4: s[j] & 63, s[j + 4] & 63 */
    s[5] = 22;
    /* 6: 59 = 11 + 16 * 3, the 3 in the top of s[2]; 44 = 12 + 16 * 2, the 2 in the top of s[6]. */
    s[10] = 11 | 12 << 4;
    s[2] = 3 << 6;
    s[6] = 2 << 6;
}

static void q4_k_codes(void **state)
{
    (void)state;
    uint8_t block[144] = {0};
    float out[256];
    set_u16(block, F16_ONE);
    set_u16(block + 2, F16_TWO);
    set_six_bit_scales(block + 4);
    block[16 + 7] = 0x9a;       /* value 7: 10 of sub-block 0; value 39: 9 of sub-block 1 */
    block[16 + 96 + 31] = 0x5f; /* value 223: 15 of sub-block 6; value 255: 5 of sub-block 7 */
    decode_row(KVF_WEIGHT_Q4_K, 256, block, NULL, out);
    assert_value(out[7], 0.0f, "q4_K", 7);       /* scale and minimum 0 */
    assert_value(out[39], 289.0f, "q4_K", 39);   /* 37 * 9 - 2 * 22 */
    assert_value(out[223], 797.0f, "q4_K", 223); /* 59 * 15 - 2 * 44 */
    assert_value(out[222], -88.0f, "q4_K", 222);
    assert_value(out[64], 0.0f, "q4_K", 64); /* sub-block 2: s[2] & 63 is 0, the top is not its */
    /* Rounds once: 59 * 15 - 44 * 2^-24 is 885 - 2.6e-6, half a step at 885 is 2^-15 = 3e-5. */
    set_u16(block + 2, F16_SMALLEST);
    decode_row(KVF_WEIGHT_Q4_K, 256, block, NULL, out);
    assert_value(out[223], 885.0f, "q4_K", 223);
    assert_value(out[222], -0x2cp-24f, "q4_K", 222);
    set_u16(block, F16_MINUS_ONE);
    set_u16(block + 2, 0);
    decode_row(KVF_WEIGHT_Q4_K, 256, block, NULL, out);
    assert_value(out[7], -0.0f, "q4_K", 7);
    set_u16(block + 2, 0x8000); /* -0 - -0 is 0 */
    decode_row(KVF_WEIGHT_Q4_K, 256, block, NULL, out);
    assert_value(out[7], 0.0f, "q4_K", 7);
}

static void q5_k_codes(void **state)
{
    (void)state;
    uint8_t block[176] = {0};
    float out[256];
    set_u16(block, F16_ONE);
    set_u16(block + 2, F16_HALF);
    set_six_bit_scales(block + 4);
    block[16 + 7] = 0x02;       /* bit 1: value 39 has 16 more */
    block[16 + 31] = 0x40;      /* bit 6: value 223 */
    block[48 + 7] = 0x90;       /* value 39: 9 */
    block[48 + 96 + 31] = 0x0f; /* value 223: 15 */
    decode_row(KVF_WEIGHT_Q5_K, 256, block, NULL, out);
    assert_value(out[39], 914.0f, "q5_K", 39);    /* 37 * 25 - 22 / 2 */
    assert_value(out[223], 1807.0f, "q5_K", 223); /* 59 * 31 - 44 / 2 */
    assert_value(out[255], 0.0f, "q5_K", 255);
}

static void q6_k_codes(void **state)
{
    (void)state;
    uint8_t block[210] = {0};
    float out[256];
    set_u16(block + 208, F16_HALF);
    /* Value 200: second half, 200 % 128 = 72: g 2, k 8. Low four: high nibble (g / 2 = 1) of
     * byte 64 + 8: 13. High two: bits 4, 5 of byte 32 + 8: 2. 13 + 32 - 32 = 13. Scale 12: -7. */
    block[64 + 8] = 0xd0;
    block[128 + 32 + 8] = 0x20;
    block[192 + 12] = 0xf9;
    /* Value 50: g 1, k 18. Low nibble of byte 32 + 18: 1. Bits 2, 3 of byte 18: 3. Scale 3: 2. */
    block[32 + 18] = 0x01;
    block[128 + 18] = 0x0c;
    block[192 + 3] = 2;
    decode_row(KVF_WEIGHT_Q6_K, 256, block, NULL, out);
    assert_value(out[200], -45.5f, "q6_K", 200); /* 0.5 * -7 * 13 */
    assert_value(out[50], 17.0f, "q6_K", 50);    /* 0.5 * 2 * (1 + 48 - 32) */
    assert_value(out[51], -32.0f, "q6_K", 51);   /* 0.5 * 2 * -32 */
    assert_value(out[0], -0.0f, "q6_K", 0);      /* 0.5 * 0 * -32 */
    set_u16(block + 208, F16_INFINITY);
    decode_row(KVF_WEIGHT_Q6_K, 256, block, NULL, out);
    assert_value(out[50], INFINITY, "q6_K", 50);
    assert_value(out[0], NAN, "q6_K", 0);
}

static void iq4_xs_codes(void **state)
{
    (void)state;
    uint8_t block[136] = {0};
    float out[256];
    set_u16(block, F16_HALF);
    /* Group 5: low four bits in the high nibble of byte 2 of sl: 9; high two in bits 10, 11 of
     * sh: 2. 9 + 32 - 32 = 9. Group 0: 0 - 32. Group 2: 0 + 32 - 32 = 0. */
    set_u16(block + 2, 2 << 10 | 2 << 4);
    block[4 + 2] = 0x90;
    block[8 + 16 * 5 + 3] = 0xf8; /* value 163: T[8] = 1; value 179: T[15] = 113 */
    decode_row(KVF_WEIGHT_IQ4_XS, 256, block, NULL, out);
    assert_value(out[163], 4.5f, "iq4_xs", 163);
    assert_value(out[179], 508.5f, "iq4_xs", 179);
    assert_value(out[0], 2032.0f, "iq4_xs", 0); /* 0.5 * -32 * -127 */
    assert_value(out[64], -0.0f, "iq4_xs", 64); /* 0.5 * 0 * -127 */
}

/* ---- Code books ------------------------------------------------------------------- */

/* Entry 1 of iq2_xxs and iq2_xs is 0002: index 2 of 8 25 43 first, then zeros; of iq2_s, too. */
static void assert_entry_1(const float *got, float scale, unsigned negative, const char *what)
{
    for (size_t j = 0; j < 8; j++)
        assert_value(got[j], (j == 0 ? 43.0f : 8.0f) * ((negative >> j) & 1 ? -scale : scale), what,
                     j);
}

static void iq2_xxs_codes(void **state)
{
    (void)state;
    uint8_t block[66] = {0};
    float out[256];
    set_u16(block, F16_ONE);
    /* Group 3, second eight: index 1. Its signs are bits 7 to 13 of the word: 0x45 has three
     * bits, so the eighth is set: 0xc5. Scale 13: 1 * 13.5 * 0.25 = 3.375. */
    block[2 + 8 * 3 + 1] = 1;
    set_u32(block + 2 + 8 * 3 + 4, 13u << 28 | 0x45 << 7);
    decode_row(KVF_WEIGHT_IQ2_XXS, 256, block, NULL, out);
    assert_entry_1(out + 104, 3.375f, 0xc5, "iq2_xxs");
    assert_value(out[96], 27.0f, "iq2_xxs", 96); /* the first eight: 8 * 3.375, no sign */
    assert_value(out[0], 1.0f, "iq2_xxs", 0);    /* 8 * 0.5 * 0.25 */
    set_u16(block, 0x8000); /* a zero with a sign: changed where the sign bit is set */
    decode_row(KVF_WEIGHT_IQ2_XXS, 256, block, NULL, out);
    assert_value(out[104], 0.0f, "iq2_xxs", 104);
    assert_value(out[105], -0.0f, "iq2_xxs", 105);
}

static void iq2_xs_codes(void **state)
{
    (void)state;
    uint8_t block[74] = {0};
    float out[256];
    set_u16(block, F16_TWO);
    /* Eight 30 (values 240 to 247): index 1, signs 0x03, whose parity is even. Scales: byte 7,
     * high nibble for values 240 to 255: 6. 2 * 6.5 * 0.25 = 3.25. */
    set_u16(block + 2 + 60, 1 | 0x03 << 9);
    block[66 + 7] = 0x60;
    decode_row(KVF_WEIGHT_IQ2_XS, 256, block, NULL, out);
    assert_entry_1(out + 240, 3.25f, 0x03, "iq2_xs");
    assert_value(out[224], 2.0f, "iq2_xs", 224); /* low nibble 0: 8 * 2 * 0.5 * 0.25 */
}

static void iq2_s_codes(void **state)
{
    (void)state;
    uint8_t block[82] = {0};
    float out[256];
    set_u16(block, F16_ONE);
    /* Eight 5 (values 40 to 47): index 1, signs 0x80 as they are. Scale of values 32 to 47: the
     * low nibble of byte 1: 15. 15.5 * 0.25 = 3.875. */
    block[2 + 5] = 1;
    block[34 + 5] = 0x80;
    block[74 + 1] = 0x0f;
    decode_row(KVF_WEIGHT_IQ2_S, 256, block, NULL, out);
    assert_entry_1(out + 40, 3.875f, 0x80, "iq2_s");
    /* The high bits of eight 5 are bits 2, 3 of byte 1 of qh: index 1 + 512 is another entry. */
    block[66 + 1] = 2 << 2;
    float other[256];
    decode_row(KVF_WEIGHT_IQ2_S, 256, block, NULL, other);
    assert_memory_not_equal(out + 40, other + 40, 8 * sizeof(float));
    assert_memory_equal(out, other, 40 * sizeof(float));
    assert_memory_equal(out + 48, other + 48, 208 * sizeof(float));
}

static void iq3_xxs_codes(void **state)
{
    (void)state;
    uint8_t block[98] = {0};
    float out[256];
    set_u16(block, F16_ONE);
    /* Entry 0 is four times 4; entry 1 is 0002: 20 4 4 4. Group 7, third eight: indices at
     * bytes 2 + 56 + 4, 5. Signs bits 14 to 20: 0x10, so 0x90. Scale 3: 3.5 * 0.5 = 1.75. */
    block[2 + 56 + 5] = 1;
    set_u32(block + 66 + 28, 3u << 28 | 0x10 << 14);
    decode_row(KVF_WEIGHT_IQ3_XXS, 256, block, NULL, out);
    static const float expected[8] = {7.0f, 7.0f, 7.0f, 7.0f, -35.0f, 7.0f, 7.0f, -7.0f};
    for (size_t j = 0; j < 8; j++)
        assert_value(out[240 + j], expected[j], "iq3_xxs", 240 + j);
    assert_value(out[0], 1.0f, "iq3_xxs", 0); /* 4 * 0.5 * 0.5 */
}

static void iq3_s_codes(void **state)
{
    (void)state;
    uint8_t block[110] = {0};
    float out[256];
    set_u16(block, F16_HALF);
    /* Entry 0 is four ones; entry 1 is 0001: 3 1 1 1. Four 41 (values 164 to 167): signs in the
     * high nibble of byte 20. Scale of values 160 to 191: high nibble of byte 2: 7, so 15. */
    block[2 + 41] = 1;
    block[74 + 20] = 0x90;
    block[106 + 2] = 0x70;
    decode_row(KVF_WEIGHT_IQ3_S, 256, block, NULL, out);
    static const float expected[4] = {-22.5f, 7.5f, 7.5f, -7.5f};
    for (size_t j = 0; j < 4; j++)
        assert_value(out[164 + j], expected[j], "iq3_s", 164 + j);
    assert_value(out[160], 7.5f, "iq3_s", 160);
    assert_value(out[0], 0.5f, "iq3_s", 0);
    /* Bit 1 of byte 5 of qh is the ninth bit of four 41. */
    block[66 + 5] = 1 << 1;
    float other[256];
    decode_row(KVF_WEIGHT_IQ3_S, 256, block, NULL, other);
    assert_memory_not_equal(out + 164, other + 164, 4 * sizeof(float));
    assert_memory_equal(out, other, 164 * sizeof(float));
    assert_memory_equal(out + 168, other + 168, 88 * sizeof(float));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(f32_is_itself),
        cmocka_unit_test(f16_codes),
        cmocka_unit_test(bf16_codes),
        cmocka_unit_test(fp8_with_powers_of_two),
        cmocka_unit_test(fp8_with_any_scale_rounds_once),
        cmocka_unit_test(fp8_scales_are_of_tiles),
        cmocka_unit_test(fp4_low_nibble_first),
        cmocka_unit_test(q8_0_codes),
        cmocka_unit_test(q4_0_codes),
        cmocka_unit_test(iq4_nl_codes),
        cmocka_unit_test(mxfp4_codes),
        cmocka_unit_test(q2_k_codes),
        cmocka_unit_test(q3_k_codes),
        cmocka_unit_test(q4_k_codes),
        cmocka_unit_test(q5_k_codes),
        cmocka_unit_test(q6_k_codes),
        cmocka_unit_test(iq4_xs_codes),
        cmocka_unit_test(iq2_xxs_codes),
        cmocka_unit_test(iq2_xs_codes),
        cmocka_unit_test(iq2_s_codes),
        cmocka_unit_test(iq3_xxs_codes),
        cmocka_unit_test(iq3_s_codes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
