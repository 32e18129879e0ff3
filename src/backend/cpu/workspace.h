/* Workspace of select and attend. Every part is rounded up to 64 bytes, a cache line. */
#ifndef KVF_BACKEND_CPU_WORKSPACE_H
#define KVF_BACKEND_CPU_WORKSPACE_H

#include "kvfold.h"

/* Index rows scored at a time: 512 rows of 68 bytes stay in the L1 and L2 caches. */
#define KVF_SELECT_BLOCK_ROWS 512
/* Rows decoded and scored at a time: 16 rows of 512 f32 are 32 KiB, the L1 cache or most of it. */
#define KVF_ATTEND_SCORE_ROWS 16
/* Queries that share decoded window rows: 127 of 128 rows are the next query's too. */
#define KVF_ATTEND_RUN_QUERIES 16
/* Compressed rows decoded once for a run of queries that see all; with more, tile by tile. */
#define KVF_ATTEND_DECODED_ROWS 1024
/* Heads whose scores are kept at a time; 16 are a vector. */
#define KVF_ATTEND_BLOCK_HEADS 64

static inline uint64_t kvf_round_up_64(uint64_t bytes)
{
    return (bytes + 63) / 64 * 64;
}

/* Queries scored together, so that a tile of rows is unpacked once for all of them. */
#define KVF_SELECT_GROUP_QUERIES 8

/* Candidates kept before they are thinned to top_k. */
static inline uint32_t kvf_select_key_capacity(uint32_t top_k)
{
    return 2 * top_k + KVF_SELECT_BLOCK_ROWS;
}

/*
 * One query in select: candidates (8 bytes: score and row), of which the best top_k
 * are kept, a block of scores, and its heads: 512 bytes of f32, or codes, shifted
 * codes and scales, which are fewer; and a weight.
 */
static inline uint64_t kvf_select_query_bytes(uint32_t n_heads, uint32_t top_k)
{
    return kvf_round_up_64(4ull * KVF_SELECT_BLOCK_ROWS) +
           kvf_round_up_64(8ull * kvf_select_key_capacity(top_k)) +
           kvf_round_up_64(n_heads * (KVF_INDEX_WIDTH * 4ull + 16));
}

static inline uint64_t kvf_select_thread_bytes(uint32_t n_heads, uint32_t top_k)
{
    /* and one more set of candidates, which thinning reorders */
    return KVF_SELECT_GROUP_QUERIES * kvf_select_query_bytes(n_heads, top_k) +
           kvf_round_up_64(8ull * kvf_select_key_capacity(top_k));
}

/* Heads that one piece of attend's work covers. */
static inline uint32_t kvf_attend_block_heads(uint32_t n_heads)
{
    const uint32_t padded = (n_heads + 15) / 16 * 16;
    return padded < KVF_ATTEND_BLOCK_HEADS ? padded : KVF_ATTEND_BLOCK_HEADS;
}

/* What one call of attend needs of its workspace, apart from the number of threads. */
typedef struct kvf_attend_size {
    uint32_t n_heads;
    uint32_t window_tokens;
    uint64_t n_rows;     /* the most compressed rows that a query attends */
    bool window_decoded; /* the format is not f32 */
    bool rows_decoded;   /* nor is it here, and queries see all rows: no list, no f16 mask */
} kvf_attend_size;

/* Parts of one thread's workspace, in bytes, in this order. */
typedef struct kvf_attend_parts {
    uint64_t scores; /* [rows][block heads] */
    uint64_t window; /* decoded window rows of a run */
    uint64_t rows;   /* decoded compressed rows of a run */
    uint64_t tile;   /* rows being decoded */
    uint64_t list;   /* rows of the query */
    uint64_t heads;  /* maxima, denominators */
    uint64_t total;
} kvf_attend_parts;

static inline kvf_attend_parts kvf_attend_thread_parts(const kvf_attend_size *size)
{
    const uint64_t total_rows = size->window_tokens + size->n_rows;
    const uint64_t run_rows = (uint64_t)size->window_tokens + KVF_ATTEND_RUN_QUERIES;
    const uint64_t row_bytes = 4ull * KVF_ROW_WIDTH;
    const bool all_fit = size->n_rows <= KVF_ATTEND_DECODED_ROWS;
    kvf_attend_parts parts = {0};
    parts.scores = kvf_round_up_64(4ull * kvf_attend_block_heads(size->n_heads) * total_rows);
    parts.window = size->window_decoded ? run_rows * row_bytes : 0;
    parts.rows =
        size->rows_decoded ? (all_fit ? size->n_rows : KVF_ATTEND_DECODED_ROWS) * row_bytes : 0;
    parts.tile = KVF_ATTEND_SCORE_ROWS * row_bytes;
    parts.list = kvf_round_up_64(4 * size->n_rows);
    parts.heads = 2ull * 4 * KVF_ATTEND_BLOCK_HEADS;
    parts.total = parts.scores + parts.window + parts.rows + parts.tile + parts.list + parts.heads;
    return parts;
}

#endif
