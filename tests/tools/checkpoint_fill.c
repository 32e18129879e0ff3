/*
 * Random data of a tensor. Codes are uniformly random, scales about what gives the values the
 * rms that is asked for: they are no weights of anything, but what a product makes of
 * them stays as large as its input.
 */
#include <math.h>
#include <string.h>

#include "tools/checkpoint.h"

enum { PIECE_BYTES = 1 << 20 };

/* ---- Random numbers ------------------------------------------------------------------- */

/* FNV-1a of the name, so that data depend on neither the order nor the number of files. */
static uint64_t state_of(const char *name, uint64_t seed)
{
    uint64_t hash = 0xcbf29ce484222325u ^ seed * 0x9e3779b97f4a7c15u;
    for (; *name; name++)
        hash = (hash ^ (uint8_t)*name) * 0x100000001b3u;
    return hash ? hash : 1;
}

/* xorshift64* */
static uint64_t draw(uint64_t *state)
{
    *state ^= *state >> 12;
    *state ^= *state << 25;
    *state ^= *state >> 27;
    return *state * 0x2545f4914f6cdd1du;
}

/* ---- Numbers ---------------------------------------------------------------------------- */

/* Rounds towards zero; what would be subnormal becomes 0. */
static uint16_t f16_of(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    const uint32_t sign = bits >> 16 & 0x8000;
    const int exponent = (int)(bits >> 23 & 0xff) - 127 + 15;
    if (exponent <= 0)
        return (uint16_t)sign;
    return (uint16_t)(sign | (uint32_t)exponent << 10 | (bits >> 13 & 0x3ff));
}

static void put_number(stored type, float value, uint8_t *out)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    const uint16_t half = type == STORED_F16 ? f16_of(value) : (uint16_t)(bits >> 16);
    if (type == STORED_F32)
        memcpy(out, &bits, sizeof bits);
    else
        memcpy(out, &half, sizeof half);
}

static void fill_numbers(const tensor *t, uint64_t *state, uint8_t *out, size_t n)
{
    const size_t width = stored_types[t->type].bytes;
    const double reach = t->rms * sqrt(3.0); /* of uniform values with that rms */
    for (size_t i = 0; i < n; i++) {
        const double uniform = (double)(draw(state) >> 11) * 0x1p-52 - 1;
        put_number(t->type, (float)(t->mean + reach * uniform), out + i * width);
    }
}

static void fill_maps(const tensor *t, uint64_t *state, uint8_t *out, size_t n)
{
    const size_t width = stored_types[t->type].bytes;
    for (size_t i = 0; i < n; i++) {
        const uint64_t number = draw(state) % t->map_limit;
        memcpy(out + i * width, &number, width);
    }
}

/* ---- Codes and scales -------------------------------------------------------------------- */

/* 2^n nearest below rms / code_rms, as E8M0's byte, and now and then the half of it. */
static uint8_t power_byte(double rms, double code_rms, uint8_t random)
{
    return (uint8_t)(127 + (int)floor(log2(rms / code_rms)) - (random % 8 == 0));
}

/* A scale of 0.75 to 1.25 times `scale`. */
static void put_scale(double scale, uint8_t random, uint8_t *out)
{
    const uint16_t half = f16_of((float)(scale * (0.75 + random / 512.0)));
    memcpy(out, &half, sizeof half);
}

/* Puts scales where random bytes are. */
static void finish_block(const tensor *t, uint8_t *block)
{
    const double scale = t->rms / stored_types[t->type].rms;
    switch (t->type) {
    case STORED_Q8_0:
    case STORED_IQ2_XXS: put_scale(scale, block[0], block); break;
    case STORED_Q2_K:
        put_scale(1.5 * scale, block[80], block + 82);
        put_scale(scale, block[80], block + 80);
        break;
    case STORED_Q4_K:
        put_scale(7.5 * scale, block[0], block + 2);
        put_scale(scale, block[0], block);
        break;
    case STORED_MXFP4: block[0] = (uint8_t)(power_byte(2 * t->rms, 5.9, block[0])); break;
    case STORED_E8M0: block[0] = power_byte(t->rms, stored_types[t->scaled].rms, block[0]); break;
    case STORED_FP8: /* 0x7f and 0xff are no numbers */
        block[0] = (uint8_t)(block[0] - ((block[0] & 0x7f) == 0x7f));
        break;
    default: break;
    }
}

static void fill_blocks(const tensor *t, uint64_t *state, uint8_t *out, size_t n)
{
    const size_t width = stored_types[t->type].bytes;
    for (size_t i = 0; i < n * width; i += sizeof(uint64_t)) { /* room for the last one is there */
        const uint64_t random = draw(state);
        memcpy(out + i, &random, sizeof random);
    }
    if (t->type != STORED_FP4)
        for (size_t i = 0; i < n; i++)
            finish_block(t, out + i * width);
}

void fill_tensor(const tensor *t, uint64_t seed, FILE *file)
{
    static uint8_t piece[PIECE_BYTES + sizeof(uint64_t)];
    const size_t width = stored_types[t->type].bytes;
    uint64_t state = state_of(t->name, seed);
    for (uint64_t done = 0; done < t->bytes;) {
        const uint64_t left = (t->bytes - done) / width;
        const size_t n = left < PIECE_BYTES / width ? (size_t)left : PIECE_BYTES / width;
        switch (t->type) {
        case STORED_F32:
        case STORED_F16:
        case STORED_BF16: fill_numbers(t, &state, piece, n); break;
        case STORED_I32:
        case STORED_I64: fill_maps(t, &state, piece, n); break;
        default: fill_blocks(t, &state, piece, n); break;
        }
        fwrite(piece, width, n, file); /* errors stay with the file: looked for at its end */
        done += n * width;
    }
}
