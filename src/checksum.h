/* The one checksum of the project: XXH3, 64 bits, seed 0. Internal. */
#ifndef KVF_CHECKSUM_H
#define KVF_CHECKSUM_H

#include <stddef.h>
#include <stdint.h>

uint64_t kvf_checksum(const void *data, size_t bytes);

/* The same of data that comes in pieces: begin, add each, then the sum of all so far. */
typedef struct kvf_checksum_state {
    _Alignas(64) unsigned char bytes[576]; /* xxHash's own, which checksum.c alone knows */
} kvf_checksum_state;
void kvf_checksum_begin(kvf_checksum_state *state);
void kvf_checksum_add(kvf_checksum_state *state, const void *data, size_t bytes);
uint64_t kvf_checksum_of(const kvf_checksum_state *state);

#endif
