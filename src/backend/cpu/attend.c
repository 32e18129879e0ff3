/* attend: which rows a query walks, and pieces of work over threads; attend.inc.h computes. */
#include <math.h>

#include "backend/cpu/kernels.h"
#include "shared/layout.h"
#include "shared/math64.h"
#include "shared/visible.h"
#include "backend/cpu/workspace.h"

static bool sees_all_rows(const kvf_attend_args *args)
{
    return args->rows.n_rows && !args->list && !args->mask_f16;
}

static kvf_attend_size size_of(const kvf_attend_args *args)
{
    return (kvf_attend_size){
        .n_heads = args->n_heads,
        .window_tokens = args->window_tokens,
        .n_rows = args->list ? args->list_stride : args->rows.n_rows,
        .window_decoded = args->window_tokens && args->window.format != KVF_FORMAT_F32,
        .rows_decoded = sees_all_rows(args) && args->rows.format != KVF_FORMAT_F32};
}

static size_t thread_bytes_of(const kvf_attend_args *args)
{
    const kvf_attend_size size = size_of(args);
    return kvf_attend_thread_parts(&size).total;
}

size_t kvf_cpu_attend_workspace(uint32_t n_threads, const kvf_attend_args *args)
{
    return n_threads * thread_bytes_of(args);
}

/* One thread's workspace, cut as kvf_attend_thread_parts says. */
typedef struct attend_space {
    float *scores;
    float *window;
    float *rows;
    float *tile;
    int32_t *list;
    float *maxima;
    float *denominators;
    uint32_t block_heads; /* heads a row of scores has room for */
} attend_space;

/* thread_bytes: of one thread, the same for all who share the workspace. */
static attend_space space_of_thread(const kvf_attend_args *args, size_t thread_bytes,
                                    uint32_t thread)
{
    const kvf_attend_size size = size_of(args);
    const kvf_attend_parts parts = kvf_attend_thread_parts(&size);
    uint8_t *place = (uint8_t *)args->workspace + thread * thread_bytes;
    attend_space space;
    space.scores = (float *)place;
    space.window = (float *)(place += parts.scores);
    space.rows = (float *)(place += parts.window);
    space.tile = (float *)(place += parts.rows);
    space.list = (int32_t *)(place += parts.tile);
    space.maxima = (float *)(place += parts.list);
    space.denominators = space.maxima + KVF_ATTEND_BLOCK_HEADS;
    space.block_heads = kvf_attend_block_heads(size.n_heads);
    return space;
}

/* ---- Rows of a query ------------------------------------------------------------ */

/* The first row of a query's window. */
static uint64_t window_begin(const kvf_attend_args *args, uint32_t query)
{
    const uint64_t end = args->first_token + query + 1;
    const uint64_t token = end < args->window_tokens ? 0 : end - args->window_tokens;
    return token - args->window_first;
}

/* The rows that a query attends; `list` is workspace for as many as there are. */
static kvf_attend_walk make_walk(const kvf_attend_args *args, uint32_t query, int32_t *list)
{
    kvf_attend_walk walk = {.window = &args->window, .rows = &args->rows};
    if (args->window_tokens) {
        walk.window_first = window_begin(args, query);
        walk.n_window =
            (uint32_t)(args->first_token + query + 1 - args->window_first - walk.window_first);
    }
    if (args->rows.n_rows == 0)
        return walk;
    if (args->list) {
        const int32_t *given = args->list + query * args->list_stride;
        for (uint32_t i = 0; i < args->list_len[query]; i++)
            if (given[i] >= 0)
                list[walk.n_rows++] = given[i];
        walk.list = list;
    } else if (args->mask_f16) {
        const uint16_t *mask = args->mask_f16 + query * args->mask_stride;
        const uint32_t n_visible = kvf_attend_visible(args, query);
        for (uint32_t row = 0; row < n_visible; row++)
            if ((mask[row] & 0x7fff) == 0)
                list[walk.n_rows++] = (int32_t)row;
        walk.list = list;
    } else {
        walk.n_rows = kvf_attend_visible(args, query);
        walk.mask = args->mask_f32 ? args->mask_f32 + query * args->mask_stride : NULL;
    }
    return walk;
}

static uint32_t walk_rows(const kvf_attend_walk *walk)
{
    return walk->n_window + walk->n_rows;
}

/* Heads first_head .. + n_heads of a query. */
static kvf_attend_part make_part(const kvf_attend_args *args, const kvf_attend_walk *walk,
                                 uint32_t query, uint32_t first_head, uint32_t n_heads,
                                 const attend_space *space)
{
    const size_t first = ((size_t)query * args->n_heads + first_head) * KVF_ROW_WIDTH;
    return (kvf_attend_part){.walk = walk,
                             .q = args->q + first,
                             .sinks = args->sinks ? args->sinks + first_head : NULL,
                             .scale = args->scale,
                             .n_heads = n_heads,
                             .stride = space->block_heads,
                             .scores = space->scores,
                             .maxima = space->maxima,
                             .denominators = space->denominators,
                             .out = args->out + first};
}

static void store_lse(const kvf_attend_args *args, const kvf_attend_part *part, uint32_t query,
                      uint32_t first_head)
{
    for (uint32_t h = 0; args->lse && h < part->n_heads; h++)
        args->lse[(size_t)query * args->n_heads + first_head + h] =
            part->maxima[h] + (float)kvf_log_f64((double)part->denominators[h]);
}

static uint32_t lesser(uint32_t a, uint32_t b)
{
    return a < b ? a : b;
}

/* ---- Few queries: all threads work on each --------------------------------------- */

/*
 * Pieces of the output, some of its dimensions for some of the heads: more than there are
 * threads, so that one that was held up does not hold up the others.
 */
typedef struct output_pieces {
    uint32_t dims;
    uint32_t heads;
    uint32_t dim_pieces;
    uint32_t n;
} output_pieces;

static output_pieces cut_output(uint32_t n_heads, uint32_t n_threads)
{
    output_pieces pieces = {.dims = KVF_ROW_WIDTH};
    while (pieces.dims > KVF_FP8_BLOCK_VALUES && KVF_ROW_WIDTH / pieces.dims < 2 * n_threads)
        pieces.dims /= 2;
    pieces.dim_pieces = KVF_ROW_WIDTH / pieces.dims;
    const uint32_t head_pieces = (2 * n_threads + pieces.dim_pieces - 1) / pieces.dim_pieces;
    /* register blocks hold up to 4 heads */
    pieces.heads =
        n_threads == 1 ? n_heads : ((n_heads + head_pieces - 1) / head_pieces + 3) / 4 * 4;
    pieces.n = pieces.dim_pieces * ((n_heads + pieces.heads - 1) / pieces.heads);
    return pieces;
}

typedef struct shared_part {
    const kvf_cpu_kernels *kernels;
    const kvf_attend_args *args;
    kvf_attend_part part;
    uint32_t n_rows;
    output_pieces pieces;
} shared_part;

/* Tiles of rows. */
static void score_tiles(void *context, size_t first, size_t end, uint32_t thread)
{
    const shared_part *shared = context;
    float *tile = space_of_thread(shared->args, thread_bytes_of(shared->args), thread).tile;
    for (size_t i = first; i < end; i++) {
        const uint32_t row = (uint32_t)i * KVF_ATTEND_SCORE_ROWS;
        shared->kernels->attend_scores(&shared->part, row,
                                       lesser(row + KVF_ATTEND_SCORE_ROWS, shared->n_rows), tile);
    }
}

/* Sixteen heads each. */
static void softmax_heads(void *context, size_t first, size_t end, uint32_t thread)
{
    const shared_part *shared = context;
    (void)thread;
    for (size_t i = first; i < end; i++)
        shared->kernels->attend_softmax(&shared->part, (uint32_t)i * 16);
}

static void output_piece(void *context, size_t first, size_t end, uint32_t thread)
{
    const shared_part *shared = context;
    const output_pieces *pieces = &shared->pieces;
    float *tile = space_of_thread(shared->args, thread_bytes_of(shared->args), thread).tile;
    for (uint32_t i = (uint32_t)first; i < end; i++) {
        const uint32_t head = i / pieces->dim_pieces * pieces->heads;
        const uint32_t dim = i % pieces->dim_pieces * pieces->dims;
        shared->kernels->attend_output(&shared->part, head,
                                       lesser(pieces->heads, shared->part.n_heads - head), dim,
                                       dim + pieces->dims, tile);
    }
}

/*
 * Threads share the rows for scores, then the heads for the softmax, then dimensions for the
 * output: none of them decodes a row, or half a row, that another one decodes too.
 */
static void attend_part_together(kvf_device *device, bool threaded, shared_part *shared)
{
    const uint32_t n_tiles = (shared->n_rows + KVF_ATTEND_SCORE_ROWS - 1) / KVF_ATTEND_SCORE_ROWS;
    kvf_cpu_loop(device, threaded, n_tiles, 0, score_tiles, shared);
    kvf_cpu_loop(device, threaded, (shared->part.n_heads + 15) / 16, 0, softmax_heads, shared);
    kvf_cpu_loop(device, threaded, shared->pieces.n, 1, output_piece, shared);
}

static void attend_together(kvf_device *device, const kvf_attend_args *args,
                            const kvf_cpu_kernels *kernels, bool threaded)
{
    const attend_space space = space_of_thread(args, thread_bytes_of(args), 0);
    for (uint32_t query = 0; query < args->n_queries; query++) {
        const kvf_attend_walk walk = make_walk(args, query, space.list);
        for (uint32_t head = 0; head < args->n_heads; head += space.block_heads) {
            const uint32_t n = lesser(space.block_heads, args->n_heads - head);
            shared_part shared = {.kernels = kernels,
                                  .args = args,
                                  .part = make_part(args, &walk, query, head, n, &space),
                                  .n_rows = walk_rows(&walk),
                                  .pieces = cut_output(n, threaded ? device->n_threads : 1)};
            attend_part_together(device, threaded, &shared);
            store_lse(args, &shared.part, query, head);
        }
    }
}

/* ---- Many queries: each thread takes runs of them --------------------------------- */

/* Some heads of a run of queries. */
typedef struct attend_run {
    uint32_t first_query;
    uint32_t n_queries; /* at most KVF_ATTEND_RUN_QUERIES */
    uint32_t first_head;
    uint32_t n_heads;
} attend_run;

/* The most compressed rows that a query of the run sees; they need not ascend. */
static uint32_t most_visible(const kvf_attend_args *args, const attend_run *run)
{
    uint32_t most = 0;
    for (uint32_t i = 0; i < run->n_queries; i++)
        if (kvf_attend_visible(args, run->first_query + i) > most)
            most = kvf_attend_visible(args, run->first_query + i);
    return most;
}

/* Decodes what all queries of the run share: the windows' rows, and rows without a list. */
static bool decode_shared(const kvf_attend_args *args, const attend_run *run,
                          const kvf_cpu_kernels *kernels, const attend_space *space)
{
    if (args->window_tokens && args->window.format != KVF_FORMAT_F32) {
        const uint64_t begin = window_begin(args, run->first_query);
        const uint64_t end =
            args->first_token + run->first_query + run->n_queries - args->window_first;
        const kvf_unpack_args window = {
            .in = args->window, .first_row = begin, .out = space->window, .stride = KVF_ROW_WIDTH};
        kernels->unpack(&window, 0, end - begin);
    }
    if (!sees_all_rows(args) || args->rows.format == KVF_FORMAT_F32)
        return false;
    const uint32_t most = most_visible(args, run);
    if (most > KVF_ATTEND_DECODED_ROWS)
        return false;
    const kvf_unpack_args rows = {.in = args->rows, .out = space->rows, .stride = KVF_ROW_WIDTH};
    kernels->unpack(&rows, 0, most);
    return true;
}

static void attend_run_alone(const kvf_attend_args *args, const attend_run *run,
                             const kvf_cpu_kernels *kernels, const attend_space *space)
{
    const bool rows_decoded = decode_shared(args, run, kernels, space);
    for (uint32_t i = 0; i < run->n_queries; i++) {
        const uint32_t query = run->first_query + i;
        kvf_attend_walk walk = make_walk(args, query, space->list);
        if (walk.n_window && args->window.format != KVF_FORMAT_F32)
            walk.decoded_window =
                space->window +
                (walk.window_first - window_begin(args, run->first_query)) * KVF_ROW_WIDTH;
        walk.decoded_rows = rows_decoded ? space->rows : NULL;
        const kvf_attend_part part =
            make_part(args, &walk, query, run->first_head, run->n_heads, space);
        const uint32_t n_rows = walk_rows(&walk);
        for (uint32_t row = 0; row < n_rows; row += KVF_ATTEND_SCORE_ROWS)
            kernels->attend_scores(&part, row, lesser(row + KVF_ATTEND_SCORE_ROWS, n_rows),
                                   space->tile);
        for (uint32_t head = 0; head < run->n_heads; head += 16)
            kernels->attend_softmax(&part, head);
        kernels->attend_output(&part, 0, run->n_heads, 0, KVF_ROW_WIDTH, space->tile);
        store_lse(args, &part, query, run->first_head);
    }
}

/* Queries a run: it shares decoded rows, but every thread should have several runs. */
static uint32_t queries_per_run(uint32_t n_threads, const kvf_attend_args *args)
{
    const uint32_t share = args->n_queries / (4 * n_threads);
    return share < 1 ? 1 : lesser(share, KVF_ATTEND_RUN_QUERIES);
}

/* Runs of queries of several args, for blocks of heads: those of one args after another's. */
typedef struct runs_work {
    const kvf_cpu_kernels *kernels;
    const kvf_attend_args *args;
    uint32_t share_threads; /* that share the queries of each args */
    size_t thread_bytes;
} runs_work;

/* How the queries of one args are cut. */
typedef struct runs_of_args {
    uint32_t heads; /* of a block */
    uint32_t blocks;
    uint32_t queries; /* of a run */
    size_t n;         /* runs x blocks */
} runs_of_args;

static runs_of_args cut_runs(const kvf_attend_args *args, uint32_t n_threads)
{
    runs_of_args runs = {.heads = kvf_attend_block_heads(args->n_heads),
                         .queries = queries_per_run(n_threads, args)};
    runs.blocks = (args->n_heads + runs.heads - 1) / runs.heads;
    runs.n = (size_t)((args->n_queries + runs.queries - 1) / runs.queries) * runs.blocks;
    return runs;
}

static void attend_some_runs(void *context, size_t first, size_t end, uint32_t thread)
{
    const runs_work *work = context;
    const kvf_attend_args *args = work->args;
    runs_of_args runs = cut_runs(args, work->share_threads);
    size_t begin = 0; /* of the runs of args */
    for (size_t i = first; i < end; i++) {
        while (i - begin >= runs.n) {
            begin += runs.n;
            args++;
            runs = cut_runs(args, work->share_threads);
        }
        const attend_space space = space_of_thread(args, work->thread_bytes, thread);
        const uint32_t head = (uint32_t)((i - begin) % runs.blocks) * runs.heads;
        const uint32_t query = (uint32_t)((i - begin) / runs.blocks) * runs.queries;
        const attend_run run = {.first_query = query,
                                .n_queries = lesser(runs.queries, args->n_queries - query),
                                .first_head = head,
                                .n_heads = lesser(runs.heads, args->n_heads - head)};
        attend_run_alone(args, &run, work->kernels, &space);
    }
}

static void attend_runs(kvf_device *device, const kvf_attend_args *args, uint32_t n_args,
                        bool threaded)
{
    runs_work work = {.kernels = kvf_kernels_of(device), .args = args};
    size_t n_runs = 0;
    /* Several args are work for several threads as they are. */
    work.share_threads = (device->n_threads + n_args - 1) / n_args;
    for (uint32_t i = 0; i < n_args; i++) {
        const size_t bytes = thread_bytes_of(&args[i]);
        work.thread_bytes = bytes > work.thread_bytes ? bytes : work.thread_bytes;
        n_runs += cut_runs(&args[i], work.share_threads).n;
    }
    kvf_cpu_loop(device, threaded, n_runs, 1, attend_some_runs, &work);
}

/* Rows that the last query attends, to estimate the work. */
static uint64_t rows_of_query(const kvf_attend_args *args)
{
    const uint32_t last = args->n_queries - 1;
    const uint64_t rows = args->rows.n_rows == 0 ? 0
                          : args->list           ? args->list_len[last]
                                                 : kvf_attend_visible(args, last);
    return args->window_tokens + rows;
}

static uint64_t multiply_adds(const kvf_attend_args *args)
{
    return (uint64_t)args->n_queries * args->n_heads * rows_of_query(args) * 2 * KVF_ROW_WIDTH;
}

static void attend_session(kvf_device *device, const kvf_attend_args *args)
{
    if (args->n_queries == 0)
        return;
    const bool threaded = multiply_adds(args) >= KVF_LEAST_THREADED_WORK;
    if (args->n_queries == 1 || args->n_queries < device->n_threads)
        attend_together(device, args, kvf_kernels_of(device), threaded);
    else
        attend_runs(device, args, 1, threaded);
}

void kvf_cpu_attend(kvf_device *device, const kvf_attend_args *args, uint32_t n)
{
    uint64_t work = 0;
    uint64_t n_queries = 0;
    for (uint32_t i = 0; i < n; i++) {
        work += args[i].n_queries ? multiply_adds(&args[i]) : 0;
        n_queries += args[i].n_queries;
    }
    /* Fewer leave threads without work at the end: they had better share each. */
    if (n > 1 && n_queries >= 4 * (uint64_t)device->n_threads) {
        attend_runs(device, args, n, work >= KVF_LEAST_THREADED_WORK);
        return;
    }
    for (uint32_t i = 0; i < n; i++)
        attend_session(device, &args[i]);
}
