/*
 * The code books of ggml's IQ types with the values of an entry as bytes, and signs likewise:
 * 19 KB, of which a type takes 2 to 10, for loads instead of arithmetic.
 */
#ifndef KVF_CPU_IQ_BYTES_H
#define KVF_CPU_IQ_BYTES_H

#include <stdint.h>

extern const uint8_t kvf_iq2_xxs_bytes[256][8];
extern const uint8_t kvf_iq2_xs_bytes[512][8];
extern const uint8_t kvf_iq2_s_bytes[1024][8];
extern const uint8_t kvf_iq3_xxs_bytes[256][4];
extern const uint8_t kvf_iq3_s_bytes[512][4];

/* Byte j is -1 where bit j is set, else 1; the second table is by seven bits (kvf_iq_signs). */
extern const int8_t kvf_iq_signs_of_8[256][8];
extern const int8_t kvf_iq_signs_of_7[128][8];

#endif
