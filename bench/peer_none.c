/* In place of peer.c where the build has no OpenBLAS: there is no peer, and nobody asks it. */
#include "bench/peer.h"

bool bench_peer_available(void)
{
    return false;
}

const char *bench_peer_version(char *text, size_t text_bytes)
{
    if (text_bytes)
        text[0] = '\0';
    return text;
}

const char *bench_peer_core(void)
{
    return "";
}

void bench_peer_select(const bench_peer_select_args *args)
{
    (void)args;
}

void bench_peer_attend(const bench_peer_attend_args *args)
{
    (void)args;
}

void bench_peer_matmul(const bench_peer_matmul_args *args)
{
    (void)args;
}
