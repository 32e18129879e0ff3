/* Whose turn it is: of API keys, the one that was served longest ago. Internal. */
#ifndef KVF_SERVER_TURNS_H
#define KVF_SERVER_TURNS_H

#include <stdint.h>

/* When a key was served last; few are remembered, and one that is not is served first. */
enum { KVF_KEYS = 64 };
typedef struct kvf_turns {
    struct {
        uint64_t key;
        uint64_t turn;
    } keys[KVF_KEYS];
    uint64_t now;
} kvf_turns;
/* The turn that the key had last; 0: none that is known. */
uint64_t kvf_turns_last(const kvf_turns *turns, uint64_t key);
/* The key is served now; its turn's number. */
uint64_t kvf_turns_take(kvf_turns *turns, uint64_t key);

#endif
