/* The one checksum of the project: XXH3, 64 bits, seed 0. Internal. */
#ifndef KVF_CHECKSUM_H
#define KVF_CHECKSUM_H

#include <stddef.h>
#include <stdint.h>

uint64_t kvf_checksum(const void *data, size_t bytes);

#endif
