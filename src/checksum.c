/* xxHash is compiled in here and nowhere else, so that there is no library to link. */
#include "checksum.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

_Static_assert(sizeof(kvf_checksum_state) == sizeof(XXH3_state_t) &&
                   _Alignof(kvf_checksum_state) >= _Alignof(XXH3_state_t),
               "the bytes of checksum.h hold xxHash's state");

uint64_t kvf_checksum(const void *data, size_t bytes)
{
    return XXH3_64bits(data, bytes);
}

void kvf_checksum_begin(kvf_checksum_state *state)
{
    XXH3_64bits_reset((XXH3_state_t *)state);
}

void kvf_checksum_add(kvf_checksum_state *state, const void *data, size_t bytes)
{
    XXH3_64bits_update((XXH3_state_t *)state, data, bytes);
}

uint64_t kvf_checksum_of(const kvf_checksum_state *state)
{
    return XXH3_64bits_digest((const XXH3_state_t *)state);
}
