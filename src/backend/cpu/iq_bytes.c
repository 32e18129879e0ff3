#include "backend/cpu/iq_bytes.h"

#include "shared/iq_grids.h"

/* As kvf_iq2_expand, kvf_iq3_xxs_expand and kvf_iq3_s_expand (shared/iquant.h) have them. */
#define TWO(entry, j) ((entry) >> (2 * (j)) & 3)
#define IQ2(entry, j) (8 + 17 * TWO(entry, j) + TWO(entry, j) / 2)
#define IQ2_ENTRY(e)                                                                               \
    {IQ2(e, 0), IQ2(e, 1), IQ2(e, 2), IQ2(e, 3), IQ2(e, 4), IQ2(e, 5), IQ2(e, 6), IQ2(e, 7)},
#define THREE(entry, j) ((entry) >> (3 * (j)) & 7)
#define IQ3_XXS(entry, j) (4 + 8 * THREE(entry, j) + 2 * (THREE(entry, j) == 7))
#define IQ3_XXS_ENTRY(e) {IQ3_XXS(e, 0), IQ3_XXS(e, 1), IQ3_XXS(e, 2), IQ3_XXS(e, 3)},
#define IQ3_S(entry, j) (1 + 2 * THREE(entry, j))
#define IQ3_S_ENTRY(e) {IQ3_S(e, 0), IQ3_S(e, 1), IQ3_S(e, 2), IQ3_S(e, 3)},

const uint8_t kvf_iq2_xxs_bytes[256][8] = {KVF_IQ2_XXS_ENTRIES(IQ2_ENTRY)};
const uint8_t kvf_iq2_xs_bytes[512][8] = {KVF_IQ2_XS_ENTRIES(IQ2_ENTRY)};
const uint8_t kvf_iq2_s_bytes[1024][8] = {KVF_IQ2_S_ENTRIES(IQ2_ENTRY)};
const uint8_t kvf_iq3_xxs_bytes[256][4] = {KVF_IQ3_XXS_ENTRIES(IQ3_XXS_ENTRY)};
const uint8_t kvf_iq3_s_bytes[512][4] = {KVF_IQ3_S_ENTRIES(IQ3_S_ENTRY)};

#define SIGN(bits, j) ((bits) >> (j)&1 ? -1 : 1)
#define PARITY(bits)                                                                               \
    (((bits) ^ (bits) >> 1 ^ (bits) >> 2 ^ (bits) >> 3 ^ (bits) >> 4 ^ (bits) >> 5 ^               \
      (bits) >> 6) &                                                                               \
     1)
#define SIGNS(b, last)                                                                             \
    {SIGN(b, 0), SIGN(b, 1), SIGN(b, 2), SIGN(b, 3), SIGN(b, 4), SIGN(b, 5), SIGN(b, 6), last},
#define SIGNS_OF_8(b) SIGNS(b, SIGN(b, 7))
#define SIGNS_OF_7(b) SIGNS(b, SIGN(PARITY(b), 0))
#define TIMES_4(E, b) E(b) E((b) + 1) E((b) + 2) E((b) + 3)
#define TIMES_16(E, b) TIMES_4(E, b) TIMES_4(E, (b) + 4) TIMES_4(E, (b) + 8) TIMES_4(E, (b) + 12)
#define TIMES_64(E, b)                                                                             \
    TIMES_16(E, b) TIMES_16(E, (b) + 16) TIMES_16(E, (b) + 32) TIMES_16(E, (b) + 48)
const int8_t kvf_iq_signs_of_8[256][8] = {TIMES_64(SIGNS_OF_8, 0) TIMES_64(SIGNS_OF_8, 64)
                                              TIMES_64(SIGNS_OF_8, 128) TIMES_64(SIGNS_OF_8, 192)};
const int8_t kvf_iq_signs_of_7[128][8] = {TIMES_64(SIGNS_OF_7, 0) TIMES_64(SIGNS_OF_7, 64)};
