#include "snapshot/eviction.h"

/*
 * When each state counts as used last: with every longer one that was there already when it
 * was used itself, and with what that one counts with. Again until nothing changes, which is
 * as often as states begin with each other, few times.
 */
static void count_uses(kvf_kept_state *states, size_t n)
{
    bool changed = true;
    for (size_t i = 0; i < n; i++)
        states[i].counts = states[i].used;
    while (changed) {
        changed = false;
        for (size_t longer = 0; longer < n; longer++) {
            if (states[longer].leaves)
                continue;
            for (size_t at = states[longer].parent; at != KVF_NO_STATE; at = states[at].parent)
                if (states[longer].stored < states[at].used &&
                    states[longer].counts > states[at].counts) {
                    states[at].counts = states[longer].counts;
                    changed = true;
                }
        }
    }
}

/* The next to leave, or KVF_NO_STATE. Of two that count the same it is the longer one. */
static size_t next_leaving(kvf_kept_state *states, size_t n)
{
    size_t next = KVF_NO_STATE;
    count_uses(states, n);
    for (size_t i = 0; i < n; i++) {
        if (states[i].leaves || states[i].kept)
            continue;
        if (next == KVF_NO_STATE || states[i].counts < states[next].counts ||
            (states[i].counts == states[next].counts && states[i].n_tokens > states[next].n_tokens))
            next = i;
    }
    return next;
}

bool kvf_choose_leaving(kvf_kept_state *states, size_t n, const kvf_kept_state *fresh,
                        uint64_t max_bytes)
{
    uint64_t held_bytes = 0;
    for (size_t i = 0; i < n; i++) {
        states[i].leaves = false;
        states[i].kept = states[i].stays && fresh->bytes <= max_bytes;
        held_bytes += states[i].bytes;
    }
    if (fresh->bytes > max_bytes)
        return false;
    for (size_t at = fresh->parent; at != KVF_NO_STATE; at = states[at].parent)
        if (states[at].made_now || (at == fresh->parent && states[at].shared))
            states[at].kept = true;
    while (held_bytes > max_bytes - fresh->bytes) {
        const size_t leaving = next_leaving(states, n);
        if (leaving == KVF_NO_STATE)
            break;
        states[leaving].leaves = true;
        held_bytes -= states[leaving].bytes;
    }
    if (held_bytes <= max_bytes - fresh->bytes)
        return true;
    for (size_t i = 0; i < n; i++)
        states[i].leaves = false;
    return false;
}
