/*
 * Workspace of the CPU's select and attend, so that the plan can count it without
 * a device. Every part is rounded up to 64 bytes, a cache line.
 */
#ifndef KVF_SHARED_WORKSPACE_H
#define KVF_SHARED_WORKSPACE_H

#include "kvfold.h"

/* Index rows scored at a time: 512 rows of 68 bytes stay in the L1 and L2 caches. */
#define KVF_SELECT_BLOCK_ROWS 512
/* Cached rows decoded at a time: 32 rows of 512 f32 are 64 KiB. */
#define KVF_ATTEND_TILE_ROWS 32
/* Heads whose scores are kept at a time; 16 are a vector. */
#define KVF_ATTEND_BLOCK_HEADS 64
#define KVF_ATTEND_DENSE_BLOCK_HEADS 16

static inline uint64_t kvf_round_up_64(uint64_t bytes)
{
    return (bytes + 63) / 64 * 64;
}

/*
 * One thread of select: a block of scores, candidates (8 bytes: score and row) of
 * which the best top_k are kept, and the query's heads as codes and as f32.
 */
static inline uint64_t kvf_select_thread_bytes(uint32_t n_heads, uint32_t top_k)
{
    return kvf_round_up_64(4ull * KVF_SELECT_BLOCK_ROWS) +
           kvf_round_up_64(8ull * (2ull * top_k + KVF_SELECT_BLOCK_ROWS)) +
           kvf_round_up_64(n_heads * (KVF_INDEX_WIDTH * 5ull + 64));
}

/* Heads that one piece of attend's work covers. */
static inline uint32_t kvf_attend_block_heads(uint32_t n_heads, bool dense)
{
    const uint32_t most = dense ? KVF_ATTEND_DENSE_BLOCK_HEADS : KVF_ATTEND_BLOCK_HEADS;
    const uint32_t padded = (n_heads + 15) / 16 * 16;
    return padded < most ? padded : most;
}

/*
 * One thread of attend: scores of every row for a block of heads, a tile of
 * decoded rows, the list of rows, and maxima and denominators of the heads.
 */
static inline uint64_t kvf_attend_thread_bytes(uint32_t n_heads, uint64_t n_rows, bool dense)
{
    const uint64_t block_heads = kvf_attend_block_heads(n_heads, dense);
    return kvf_round_up_64(4ull * block_heads * n_rows) +
           4ull * KVF_ATTEND_TILE_ROWS * KVF_ROW_WIDTH + kvf_round_up_64(4ull * n_rows) +
           2ull * 4 * KVF_ATTEND_BLOCK_HEADS;
}

#endif
