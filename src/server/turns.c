#include "server/turns.h"

uint64_t kvf_turns_last(const kvf_turns *turns, uint64_t key)
{
    for (uint32_t i = 0; i < KVF_KEYS; i++)
        if (turns->keys[i].turn > 0 && turns->keys[i].key == key)
            return turns->keys[i].turn;
    return 0;
}

uint64_t kvf_turns_take(kvf_turns *turns, uint64_t key)
{
    uint32_t at = 0;
    for (uint32_t i = 0; i < KVF_KEYS; i++) {
        if (turns->keys[i].turn > 0 && turns->keys[i].key == key) {
            at = i;
            break;
        }
        if (turns->keys[i].turn < turns->keys[at].turn)
            at = i;
    }
    turns->keys[at].key = key;
    turns->keys[at].turn = ++turns->now;
    return turns->now;
}
