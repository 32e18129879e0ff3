/*
 * kvfold: the folded KV cache of DeepSeek-V4-class models.
 *
 * One shared K=V row a token is pooled by 4 (CSA) or 128 (HCA) tokens, packed as
 * FP8 (584 bytes) or index FP4 (68 bytes), selected by an exact integer score and
 * attended. The model was trained with these grids, so nothing is lost by packing.
 * Bytes and arithmetic: docs/FORMAT.md. The four words compress, pack, select and
 * attend name the same stage everywhere.
 *
 * Two levels:
 *   - operations on plain memory described by views (kvf_pack .. kvf_attend), for
 *     engines that own their buffers;
 *   - sessions that own a cache (kvf_session_*).
 *
 * Conventions
 *   Sizes are in the unit their name ends with: _bytes, _rows, _tokens.
 *   Shapes are written [outer][inner]; all matrices are row-major and dense unless
 *   a stride is given. f32 is IEEE binary32.
 *   A function that can fail returns kvf_status and, where `error` is not NULL,
 *   fills *error with one sentence: what was wrong, where, what would be right.
 *   After a failure outputs are unspecified unless said otherwise; nothing leaks.
 *   The library keeps no global state, never prints, exits or reads the
 *   environment. Different devices may be used by different threads at once; one
 *   device and the sessions on it belong to one thread at a time.
 *   Numbers are computed in the default floating-point environment (round to nearest,
 *   subnormals kept, no traps), whatever the caller's is; the caller's is back when a
 *   function returns.
 */
#ifndef KVFOLD_H
#define KVFOLD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define KVF_VERSION_MAJOR 0
#define KVF_VERSION_MINOR 1
#define KVF_VERSION_PATCH 0

#if defined(_WIN32)
#define KVF_API
#else
#define KVF_API __attribute__((visibility("default")))
#endif

/* ---- Status ---------------------------------------------------------------- */

/* Numbers are stable and spaced so that new ones keep their family. */
typedef enum kvf_status {
    KVF_OK = 0,
    KVF_INVALID_ARGUMENT = 10, /* a value outside what the function documents */
    KVF_UNSUPPORTED = 11,      /* valid, but this build or device cannot do it */
    KVF_OUT_OF_MEMORY = 20,    /* an allocation failed; nothing changed */
    KVF_CONTEXT_FULL = 21,     /* more tokens than the session was opened for */
    KVF_NOT_COVERED = 22,      /* no checkpoint that old is kept */
    KVF_NONFINITE = 30,        /* NaN or infinity in a row, query or weight */
    KVF_RANGE = 31,   /* an index block with scale exponent outside -50..50, a value of 3.3e38 */
    KVF_INEXACT = 32, /* a row that the other profile cannot hold exactly */
    KVF_FILE_NOT_FOUND = 40, /* no such file or folder */
    KVF_FILE_IO = 41,        /* the system refused to read or write */
    KVF_FILE_FORMAT = 42,    /* the file's content contradicts its format or its checksums */
    KVF_FILE_BUSY = 43,      /* somebody else is writing it */
    KVF_WRONG_MODEL = 44,    /* a snapshot of another model */
    KVF_SESSION_FAILED = 50, /* not reported any more: a chunk that fails is undone */
    KVF_DEVICE_LOST = 60,    /* the device stopped; what the host's memory holds is intact */
    KVF_INTERNAL = 70        /* a fault of this library, not of what it was given */
} kvf_status;

/* One sentence for a status, English, static storage. Any value is accepted. */
KVF_API const char *kvf_status_string(kvf_status status);

/* Where a failure is described. Owned by the caller, no destructor. */
typedef struct kvf_error {
    kvf_status status;
    char message[512]; /* NUL-terminated, empty when status is KVF_OK */
} kvf_error;

/* "0.1.0". Static storage. */
KVF_API const char *kvf_version_string(void);

/* ---- Row formats ----------------------------------------------------------- */

#define KVF_ROW_WIDTH 512   /* one shared K=V row: 448 nope + 64 rope values */
#define KVF_NOPE_WIDTH 448  /* leading values, FP8 grid */
#define KVF_ROPE_WIDTH 64   /* trailing values, interleaved rope pairs, f16 grid */
#define KVF_INDEX_WIDTH 128 /* one index row or index query head, FP4 grid */
#define KVF_PAGE_ROWS 64    /* rows in each page that a session allocates */

typedef enum kvf_format_id {
    KVF_FORMAT_F32 = 0,      /* width 512 or 128; 4 bytes a value */
    KVF_FORMAT_F16 = 1,      /* width 512 or 128; 2 bytes a value */
    KVF_FORMAT_FP8_F16 = 2,  /* width 512; 584 bytes */
    KVF_FORMAT_FP8_BF16 = 3, /* width 512; 584 bytes, the layout of FlashMLA and vLLM */
    KVF_FORMAT_FP4 = 4,      /* width 128; 68 bytes, DeepGEMM's layout */
    KVF_FORMAT_COUNT = 5
} kvf_format_id;

/* The grid that values are rounded to before they are stored (FORMAT.md 3, 4). */
typedef enum kvf_grid {
    KVF_GRID_NONE = 0, /* as they are */
    KVF_GRID_FP8 = 1,  /* rows of 512: e4m3 in blocks of 64, tail f16 */
    KVF_GRID_FP4 = 2   /* rows of 128: e2m1 in blocks of 32 */
} kvf_grid;

/* Name ("fp8_f16") of a format; NULL for an unknown id. */
KVF_API const char *kvf_format_name(kvf_format_id format);

/* Bytes of one row without page padding; 0 if the format does not exist in that width. */
KVF_API size_t kvf_format_row_bytes(kvf_format_id format, uint32_t width);

/* Bytes of a page of page_rows rows, padding included; 0 as above or on overflow. */
KVF_API size_t kvf_format_page_bytes(kvf_format_id format, uint32_t width, uint32_t page_rows);

/*
 * Rows in memory that somebody owns. Row r is row r % page_rows of page
 * r / page_rows. Page p is at pages[p] or, when pages is NULL, at
 * base + p * page_stride_bytes. A paged pool with physical row indices is a view
 * over the whole pool. Pages need 4-byte alignment; 64 is faster.
 */
typedef struct kvf_rows {
    kvf_format_id format;
    uint32_t width;           /* values a row: 512 or 128 */
    uint32_t page_rows;       /* rows a page, at least 1 */
    uint64_t n_rows;          /* rows that may be addressed */
    void *const *pages;       /* [ceil(n_rows / page_rows)], or NULL */
    void *base;               /* used when pages is NULL */
    size_t page_stride_bytes; /* used when pages is NULL; >= kvf_format_page_bytes() */
} kvf_rows;

/* ---- Devices --------------------------------------------------------------- */

typedef struct kvf_device kvf_device;

typedef struct kvf_device_options {
    /* "cpu" (NULL means that), "ref"; on macOS "metal"; where CUDA was at hand, "cuda" */
    const char *backend;
    /* Of cpu: "scalar", "avx2", "avx512", "avx512vnni", "neon"; of GPUs: "generic". NULL: best */
    const char *isa;
    uint32_t n_threads; /* of cpu, 1 .. KVF_MAX_THREADS; 0: all this process may use */
} kvf_device_options;

#define KVF_MAX_THREADS 1024

/*
 * Opens a backend by name. Fails with KVF_UNSUPPORTED for a name that was not
 * built in or an ISA this machine lacks; never falls back to another one.
 * *device is owned by the caller: kvf_device_close.
 *
 * Threads: a cpu device starts n_threads - 1 of its own, which belong to no other device;
 * who calls its functions is the other one. They sleep when nothing is to be done, and block
 * the signals that are sent to the process. n_threads 0 means the processors of the affinity
 * mask, or fewer where a control group's CPU quota allows fewer. Where the system refuses a
 * thread, opening fails (KVF_OUT_OF_MEMORY) and says how many it gives.
 * fork: in the child, a device opened before works on, alone: its operations run on the one
 * thread that called fork, with the same results. That holds where no function of the device
 * was running during the fork.
 */
KVF_API kvf_status kvf_device_open(const kvf_device_options *options, kvf_device **device,
                                   kvf_error *error);
/* Closes a device; every session on it must be closed before. NULL is ignored. */
KVF_API void kvf_device_close(kvf_device *device);
KVF_API const char *kvf_device_backend_name(const kvf_device *device);
/* The ISA whose kernels run, never "auto". */
KVF_API const char *kvf_device_isa_name(const kvf_device *device);
KVF_API uint32_t kvf_device_n_threads(const kvf_device *device);
/*
 * What may be allocated on the device in all, weights included; 0 where only the host's
 * memory is the bound. A session that could not be filled in what is left is not opened.
 */
KVF_API uint64_t kvf_device_memory_bytes(const kvf_device *device);
/* Name of the i-th backend built into the library, NULL past the last. */
KVF_API const char *kvf_backend_name(uint32_t i);

/* ---- Stages on plain memory ------------------------------------------------ */

/*
 * pack: f32 rows to bytes, by the grid of FORMAT.md 3 or 4.
 * For f32 and f16 output the value stored is the grid's value (KVF_GRID_NONE: the
 * input's own). FP8 and FP4 formats contain their grid; `grid` must name it.
 */
typedef struct kvf_pack_args {
    const float *rows; /* [n_rows][stride] */
    size_t stride;     /* values from one row to the next, >= out.width */
    uint64_t n_rows;   /* rows to pack */
    kvf_grid grid;
    bool hadamard; /* width 128 only: Hadamard-128 before the grid */
    kvf_rows out;
    uint64_t first_row;    /* row i is stored at (first_row + i) % out.n_rows */
    uint64_t inexact_rows; /* out: rows that the format could not hold exactly */
    uint64_t bad_row;      /* out, on KVF_NONFINITE or KVF_RANGE: the input row .. */
    uint32_t bad_dim;      /* .. and the dimension (block start for KVF_RANGE) */
} kvf_pack_args;

/*
 * KVF_NONFINITE (any non-finite value) and KVF_RANGE (FP4 grid: a nonzero block with
 * scale exponent outside -50..50; FP8 grid: a value of 248 * 2^120 or more) name the first
 * bad row. What the rows of this call hold is then undefined, and no other row has changed:
 * reading every row twice to know would halve the speed. (A session undoes the chunk.)
 *   Equal input gives equal bytes on every backend, ISA and thread count.
 */
KVF_API kvf_status kvf_pack(kvf_device *device, kvf_pack_args *args, kvf_error *error);

/*
 * unpack: bytes to f32, exact. rows[i] (or first_row + i where row_list is NULL)
 * goes to out[i][stride]. An index outside the view is KVF_INVALID_ARGUMENT.
 */
typedef struct kvf_unpack_args {
    kvf_rows in;
    const int32_t *row_list; /* [n_rows] or NULL */
    uint64_t first_row;
    uint64_t n_rows;
    float *out; /* [n_rows][stride] */
    size_t stride;
} kvf_unpack_args;
KVF_API kvf_status kvf_unpack(kvf_device *device, const kvf_unpack_args *args, kvf_error *error);

/*
 * select: for each query the top_k visible index rows by the exact score of
 * FORMAT.md 5; equal scores: lower row first; output ascending by row. The set is
 * the same on every backend, ISA, thread count and tile size.
 * Query i's head h is row i * n_heads + h of `queries` (fp4, or f32 grid values).
 * Row r of `keys` is visible to query i iff r < n_visible[i]; where ratio is not 0, n_visible is
 * not looked at: query i is token first_token + i and sees (first_token + i + 1) / ratio rows.
 */
typedef struct kvf_select_args {
    uint32_t n_queries;
    uint32_t n_heads; /* index heads; a multiple of 8 */
    uint32_t top_k;
    kvf_rows queries;          /* width 128, fp4 or f32 */
    const float *head_weights; /* [n_queries][n_heads], unscaled */
    kvf_rows keys;             /* width 128, fp4 or f32; blocks within the range of pack */
    const uint32_t *n_visible; /* [n_queries], each <= keys.n_rows; or .. */
    uint64_t first_token;
    uint32_t ratio;     /* .. tokens a row */
    int32_t *list;      /* out [n_queries][top_k]; unused places are -1 */
    uint32_t *list_len; /* out [n_queries] */
    void *workspace;    /* kvf_select_workspace_bytes(), 64-byte aligned */
    size_t workspace_bytes;
} kvf_select_args;
/* Bytes of workspace that these args need; does not depend on keys.n_rows. */
KVF_API size_t kvf_select_workspace_bytes(const kvf_device *device, const kvf_select_args *args);
KVF_API kvf_status kvf_select(kvf_device *device, const kvf_select_args *args, kvf_error *error);

/*
 * attend: softmax over a window of recent rows, rows of a list (or a mask, or the
 * first n_visible) and one sink logit a head; output = sum p * value(row)
 * (FORMAT.md 6). On CPU backends bit-identical across formats, ISAs and threads.
 *
 * Window: query i is token first_token + i and sees the last `window_tokens`
 * tokens up to itself, oldest first; token t is row t - window_first of the view,
 * which holds all that the queries see: window_first is at most the first token that
 * query 0 sees.
 * Rows: exactly one of
 *   list      rows list[i][0 .. list_len[i]), ascending; -1 entries are skipped
 *   mask_f32  [n_queries][mask_stride]: every row r < n_visible[i] is computed and
 *             mask_f32[i][r] (0 or -infinity) added: the dense form
 *   mask_f16  the same values as f16; masked rows are skipped
 *   none      all rows r < n_visible[i]
 * Where ratio is not 0, (first_token + i + 1) / ratio rows are visible and n_visible is not
 * looked at.
 * With rows.n_rows == 0 only the window is attended and all of them may be NULL.
 */
typedef struct kvf_attend_args {
    uint32_t n_queries;
    uint32_t n_heads;
    const float *q;     /* [n_queries][n_heads][512], rope applied */
    const float *sinks; /* [n_heads] logits, or NULL for no sink */
    float scale;        /* (float)(1/sqrt(512.0)) for DeepSeek-V4 */
    uint64_t first_token;
    uint32_t window_tokens;
    uint64_t window_first;     /* token of the window's row 0 */
    kvf_rows window;           /* width 512 */
    kvf_rows rows;             /* width 512 */
    const uint32_t *n_visible; /* [n_queries]; or .. */
    uint32_t ratio;            /* .. tokens a row */
    const int32_t *list;       /* [n_queries][list_stride] */
    size_t list_stride;
    const uint32_t *list_len; /* [n_queries] */
    const float *mask_f32;
    const uint16_t *mask_f16;
    size_t mask_stride;
    float *out;      /* out [n_queries][n_heads][512]; the tail is still rotated */
    float *lse;      /* out [n_queries][n_heads] log of the denominator, or NULL */
    void *workspace; /* kvf_attend_workspace_bytes(), 64-byte aligned */
    size_t workspace_bytes;
} kvf_attend_args;
/* Does not depend on rows.n_rows for a list; 4 bytes a row, head and thread otherwise. */
KVF_API size_t kvf_attend_workspace_bytes(const kvf_device *device, const kvf_attend_args *args);
KVF_API kvf_status kvf_attend(kvf_device *device, const kvf_attend_args *args, kvf_error *error);

/* ---- Geometry, profiles, plan ---------------------------------------------- */

#define KVF_MAX_LAYERS 256

typedef enum kvf_layer_kind {
    KVF_LAYER_WINDOW = 0, /* window rows only */
    KVF_LAYER_CSA = 1,    /* overlapping compressor, indexer, top-k */
    KVF_LAYER_HCA = 2     /* plain compressor, all rows attended */
} kvf_layer_kind;

typedef struct kvf_layer {
    kvf_layer_kind kind;
    uint32_t ratio; /* tokens a compressed row; 0 for window layers */
} kvf_layer;

/* What of a model decides its cache. */
typedef struct kvf_geometry {
    uint32_t n_layers; /* 1 .. KVF_MAX_LAYERS */
    uint32_t vocab;
    uint32_t n_heads;
    uint32_t n_index_heads; /* a multiple of 8 */
    uint32_t top_k;
    uint32_t window_tokens; /* a multiple of KVF_PAGE_ROWS */
    uint64_t max_tokens;    /* the model's longest context */
    kvf_layer layers[KVF_MAX_LAYERS];
} kvf_geometry;

/* DeepSeek-V4-Flash (FORMAT.md 1). */
KVF_API void kvf_geometry_v4_flash(kvf_geometry *geometry);

typedef enum kvf_profile_id {
    KVF_PROFILE_LEGACY = 0,
    KVF_PROFILE_TILED = 1,
    KVF_PROFILE_PACKED = 2,
    KVF_PROFILE_FOLD = 3,
    KVF_PROFILE_COUNT = 4
} kvf_profile_id;

typedef enum kvf_mask_kind { KVF_MASK_NONE = 0, KVF_MASK_F32 = 1, KVF_MASK_F16 = 2 } kvf_mask_kind;

/* What a profile stores and how it selects (FORMAT.md 7). */
typedef struct kvf_profile {
    const char *name;
    kvf_format_id row_format;    /* compressed rows */
    kvf_format_id index_format;  /* index rows */
    kvf_format_id window_format; /* window rows */
    kvf_mask_kind mask;
    uint32_t score_tile_tokens; /* 0: the whole chunk; ignored without a mask */
} kvf_profile;

/* The profile of that id, static storage; NULL for an unknown id. */
KVF_API const kvf_profile *kvf_profile_get(kvf_profile_id id);
/* Finds a profile by name; KVF_INVALID_ARGUMENT lists the names there are. */
KVF_API kvf_status kvf_profile_find(const char *name, kvf_profile_id *id, kvf_error *error);

typedef enum kvf_memory_class {
    KVF_MEMORY_CACHE = 0,      /* belongs to the session, counted in allocated_bytes */
    KVF_MEMORY_SCRATCH = 1,    /* of a batch, reused by every layer */
    KVF_MEMORY_ACTIVATION = 2, /* of the dense layers */
    KVF_MEMORY_WEIGHT = 3,
    KVF_MEMORY_CHECKPOINT = 4, /* held by checkpoints, or by an open chunk to go back, alone */
    KVF_MEMORY_TABLE = 5,      /* addresses of pages, for the whole context, of every session */
    KVF_MEMORY_POOL = 6,       /* of slabs of pages, what nobody holds */
    KVF_MEMORY_CLASS_COUNT = 7
} kvf_memory_class;

typedef struct kvf_plan_buffer {
    char name[48];  /* "layer.2.rows" */
    char dtype[12]; /* "fp8_f16", "f32", "i32" */
    kvf_memory_class klass;
    uint32_t n_dims;
    uint64_t shape[4];   /* of what is allocated */
    uint64_t bytes;      /* allocated, padding included */
    uint64_t held_bytes; /* counted in session_bytes; 0 for scratch */
    uint64_t page_bytes; /* of each page of the device that it lies in; 0: it lies in none */
} kvf_plan_buffer;

/* Every buffer of one session of n_tokens tokens (FORMAT.md 8). */
typedef struct kvf_plan {
    uint64_t session_bytes;   /* rows held, no page padding */
    uint64_t allocated_bytes; /* what the allocator gives for them */
    /* A first file that saves them, with the checkpoints that commit took. */
    uint64_t snapshot_bytes;
    uint64_t scratch_bytes; /* of a batch, which any number of sessions take turns in */
    /* Addresses of all pages that the context may have: taken at open, never shared. */
    uint64_t table_bytes;
    /* In no other total: the most that the checkpoints kept at n_tokens hold, .. */
    uint64_t checkpoint_bytes;
    /* .. and what an open chunk takes besides, so that it can be dropped. */
    uint64_t chunk_undo_bytes;
    /* .. and what slabs have free, of each size of page that the session has, if it is alone. */
    uint64_t pool_bytes;
    uint32_t n_buffers;
    kvf_plan_buffer *buffers; /* owned by the plan: kvf_plan_free */
} kvf_plan;

/* Of sessions, and of the batches that they are in. */
typedef struct kvf_session_options {
    kvf_profile_id profile;
    uint64_t max_tokens;        /* the context that may be held; <= geometry.max_tokens */
    uint32_t chunk_tokens;      /* the most tokens of a batch, and of a session in one; 0: 4096 */
    uint32_t batch_sessions;    /* the most items of a batch; 0: 1 */
    uint32_t score_tile_tokens; /* 0: the profile's own */
    bool grid_off;              /* no grid, no Hadamard; legacy only (for comparisons) */
    /* plan only: the backend whose workspace is counted, NULL: the default; its threads, 0: 1 */
    const char *backend;
    uint32_t n_threads;
    uint32_t checkpoint_count; /* the last ones are kept; 0: 8; KVF_NO_CHECKPOINTS: none */
    /* Tokens from one checkpoint to the next, at least 128; 0: as close as they can be. */
    uint64_t checkpoint_spacing_tokens;
} kvf_session_options;
#define KVF_NO_CHECKPOINTS UINT32_MAX
/* Of those that kvf_session_checkpoint took, so many are kept besides. */
#define KVF_REQUESTED_CHECKPOINTS 8

/*
 * Computes the plan of a session that holds n_tokens (<= options->max_tokens).
 * Pure arithmetic: allocates nothing but plan->buffers. Overflow and values the
 * library could not serve are KVF_INVALID_ARGUMENT.
 */
KVF_API kvf_status kvf_plan_make(const kvf_geometry *geometry, const kvf_session_options *options,
                                 uint64_t n_tokens, kvf_plan *plan, kvf_error *error);
KVF_API void kvf_plan_free(kvf_plan *plan);

/* ---- Sessions -------------------------------------------------------------- */

typedef struct kvf_session kvf_session;

/*
 * Opens an empty session. Costs the compressor state and no more: rows are
 * allocated in pages as tokens come, and scratch belongs to batches. The device outlives it.
 * KVF_OUT_OF_MEMORY names the context that would fit a device with memory of its own.
 */
KVF_API kvf_status kvf_session_open(kvf_device *device, const kvf_geometry *geometry,
                                    const kvf_session_options *options, kvf_session **session,
                                    kvf_error *error);
/*
 * KVF_INVALID_ARGUMENT, and nothing changes, while it is in an open batch of the caller's; else
 * KVF_OK. NULL is ignored.
 */
KVF_API kvf_status kvf_session_close(kvf_session *session);

/* Cosines and sines of consecutive positions first, first + step, .. : [n][32] each. */
typedef struct kvf_rope_table {
    const float *cosines;
    const float *sines;
} kvf_rope_table;

/* The learnt parts of one compressor and the token values it pools. */
typedef struct kvf_compressor_input {
    const float *kv;            /* [n_tokens][parts * width]; CSA: parts = 2 (Ca, Cb), HCA: 1 */
    const float *gate;          /* the same shape */
    const float *position_bias; /* [ratio][parts * width], added to the gate only */
    const float *norm_weight;   /* [width] */
    float norm_eps;
} kvf_compressor_input;

/* What one layer appends for a batch's tokens. */
typedef struct kvf_append_args {
    const float *window;        /* [n_tokens][512], norm and rope applied */
    kvf_compressor_input rows;  /* width 512; ignored by window layers */
    kvf_compressor_input index; /* width 128; CSA layers only */
    kvf_rope_table row_rope;    /* positions of the rows this chunk emits: row * ratio */
} kvf_append_args;

/* Tokens first .. + n_tokens of a batch: select and attend may take it in pieces. */
typedef struct kvf_chunk_span {
    uint32_t first;
    uint32_t n_tokens; /* at least 1 */
} kvf_chunk_span;

/* ---- Batches ---------------------------------------------------------------- */

/*
 * A batch takes tokens of any number of sessions through every layer together: a prompt's piece
 * of one, the next token of each of many. The caller's dense layers see all tokens at once, and
 * what the stages need besides a session's own rows belongs to the batch, once for all sessions
 * that take turns in it. A session alone is a batch of one.
 *   kvf_batch_begin
 *   for each layer: kvf_batch_append, [kvf_batch_select], kvf_batch_attend
 *   kvf_batch_settle, logits, kvf_batch_commit
 *
 * Each item is committed or undone for itself. Whatever goes wrong with one (memory, token ids, a
 * full context, a damaged page of its file, values that cannot be stored) is in its status and
 * error, the item is undone, and the others go on; its tokens keep their places, and what stages
 * write there is undefined. So the functions below return KVF_OK as long as any item is left,
 * and otherwise the status and message of the first: then nothing is open any more. For a
 * batch of one that is the item's own. KVF_DEVICE_LOST fails all items.
 *   What a session holds in the end does not depend on what else was in the batch.
 *   While it is in an open batch a session cannot be saved, forked, truncated, closed, or be in
 * another one (KVF_INVALID_ARGUMENT). A batch belongs to the thread of its device.
 */
typedef struct kvf_batch kvf_batch;

typedef struct kvf_batch_item {
    kvf_session *session;
    const int32_t *ids; /* [n], for begin */
    uint32_t n;         /* at least 1 */
    float *all_logits;  /* the caller's: [n][vocab], where logits of all tokens are wanted */
    struct kvf_sampling *sampling; /* of the model's forward pass alone (src/model/sample.h) */
    kvf_status status;             /* out: KVF_OK, .. */
    kvf_error error;               /* .. or why this one was, or will be, undone */
} kvf_batch_item;

/* Where an item's tokens are. */
typedef struct kvf_item_span {
    uint32_t first;    /* in the batch; items follow each other in their order */
    uint32_t n;        /* 0: begin left it out */
    uint64_t position; /* of the first in its session: tokens held before it */
} kvf_item_span;

/*
 * Takes all memory that a batch of the options' chunk_tokens and batch_sessions needs, for
 * sessions of that profile and grid that hold up to max_tokens: kvf_plan.scratch_bytes, to the
 * byte. KVF_OUT_OF_MEMORY names the buffer, and the context that would fit a device with memory
 * of its own. The device outlives it. close drops what is open; NULL is ignored.
 */
KVF_API kvf_status kvf_batch_open(kvf_device *device, const kvf_geometry *geometry,
                                  const kvf_session_options *options, kvf_batch **batch,
                                  kvf_error *error);
KVF_API void kvf_batch_close(kvf_batch *batch);
/* What it was opened with, defaults filled in. */
KVF_API const kvf_session_options *kvf_batch_options(const kvf_batch *batch);

/*
 * Takes the memory that every item needs, in their order: pages, and own copies of pages that
 * it will write and others hold, so that forks of each other may be in one batch. A
 * batch that is open is dropped. The items stay where they are, the caller's, until commit or drop.
 *   As a whole it is refused with KVF_INVALID_ARGUMENT, before anything changes and with that
 * status in all items: no items or more than the batch was opened for, an item without tokens,
 * more tokens in all, a session twice or in another open batch, or of another device, model
 * (geometry or fingerprint), profile or grid.
 *   Of an item alone: KVF_INVALID_ARGUMENT (a token id; more tokens than its session takes),
 * KVF_CONTEXT_FULL, KVF_OUT_OF_MEMORY, KVF_FILE_FORMAT.
 */
KVF_API kvf_status kvf_batch_begin(kvf_batch *batch, kvf_batch_item *items, uint32_t n_items,
                                   kvf_error *error);
/* Where item i lies in the open batch, also after it has failed. */
KVF_API kvf_item_span kvf_batch_span(const kvf_batch *batch, uint32_t item);
/* Tokens in the open batch; 0: none is open. Their ids, where operations can read them too. */
KVF_API uint32_t kvf_batch_n_tokens(const kvf_batch *batch);
KVF_API const int32_t *kvf_batch_tokens(const kvf_batch *batch);
/*
 * Values of all tokens of the batch. args->row_rope has a row for each compressed row that the
 * items complete, one item's after the other's: rows position / ratio .. (position + n) / ratio.
 */
KVF_API kvf_status kvf_batch_append(kvf_batch *batch, uint32_t layer, const kvf_append_args *args,
                                    kvf_error *error);
/*
 * CSA layers: index_q is [span.n_tokens][n_index_heads][128], rope applied, and is
 * overwritten; head_weights [span.n_tokens][n_index_heads]. The selection stays in the
 * batch for kvf_batch_attend of the same layer and tokens.
 */
KVF_API kvf_status kvf_batch_select(kvf_batch *batch, uint32_t layer, kvf_chunk_span span,
                                    float *index_q, const float *head_weights, kvf_error *error);
/* q and out are [span.n_tokens][n_heads][512]; q has rope applied, out is still rotated. */
KVF_API kvf_status kvf_batch_attend(kvf_batch *batch, uint32_t layer, kvf_chunk_span span,
                                    const float *q, const float *sinks, float *out,
                                    kvf_error *error);
/*
 * Waits for the stages, and tells what they found wrong with the data (KVF_NONFINITE, KVF_RANGE:
 * an item's message names the first layer, row and dimension) and a lost device. After it the
 * caller writes the logits of items that are left to kvf_session_logits; one that it gives
 * another status than KVF_OK is undone by commit.
 */
KVF_API kvf_status kvf_batch_settle(kvf_batch *batch, kvf_error *error);
/* settle, where that was not done; then every item that is left is taken into its session. */
KVF_API kvf_status kvf_batch_commit(kvf_batch *batch, kvf_error *error);
/* Undoes all items, whose status stays as it is. */
KVF_API void kvf_batch_drop(kvf_batch *batch);
/*
 * The selection that kvf_batch_select left for token `query` of the batch: ascending rows into
 * list (room for top_k), their number into *n. Waits: KVF_DEVICE_LOST may come of it. Where the
 * batch that was begun last has no such token, or nothing was selected, it is KVF_INVALID_ARGUMENT.
 */
KVF_API kvf_status kvf_batch_selection(const kvf_batch *batch, uint32_t query, int32_t *list,
                                       uint32_t *n, kvf_error *error);
/* What is allocated: kvf_plan.scratch_bytes. */
KVF_API uint64_t kvf_batch_scratch_bytes(const kvf_batch *batch);

/*
 * The same for one session, in a batch of one that it opens with its first chunk and closes with
 * itself, of its own options' chunk_tokens. begin drops a chunk that is open, so does drop.
 */
KVF_API kvf_status kvf_session_begin(kvf_session *session, const int32_t *tokens, uint32_t n_tokens,
                                     kvf_error *error);
KVF_API kvf_status kvf_session_append(kvf_session *session, uint32_t layer,
                                      const kvf_append_args *args, kvf_error *error);
KVF_API kvf_status kvf_session_select(kvf_session *session, uint32_t layer, kvf_chunk_span span,
                                      float *index_q, const float *head_weights, kvf_error *error);
KVF_API kvf_status kvf_session_attend(kvf_session *session, uint32_t layer, kvf_chunk_span span,
                                      const float *q, const float *sinks, float *out,
                                      kvf_error *error);
KVF_API kvf_status kvf_session_settle(kvf_session *session, kvf_error *error);
KVF_API kvf_status kvf_session_commit(kvf_session *session, kvf_error *error);
KVF_API void kvf_session_drop(kvf_session *session);
KVF_API kvf_status kvf_session_selection(const kvf_session *session, uint32_t query, int32_t *list,
                                         uint32_t *n, kvf_error *error);
KVF_API uint64_t kvf_session_scratch_bytes(const kvf_session *session);

/* ---- What a session holds ---------------------------------------------------- */

/* Tokens held (committed). */
KVF_API uint64_t kvf_session_n_tokens(const kvf_session *session);
/* Their ids, then those of the open chunk; until the next begin, truncate or close. Or NULL. */
KVF_API const int32_t *kvf_session_tokens(const kvf_session *session);
/*
 * [vocab] f32 of the last committed token; the caller writes them, after settle, before commit.
 * Where they were queued this waits; NaN, if the device was lost that has them.
 */
KVF_API float *kvf_session_logits(kvf_session *session);
/*
 * The caller's way to write them where they lie in memory of the device: copied in order with what
 * else it does, without a wait.
 */
KVF_API void kvf_session_queue_logits(kvf_session *session, const float *logits);
/* Until they are where kvf_session_logits says. KVF_DEVICE_LOST: they are gone. */
KVF_API kvf_status kvf_session_wait_logits(kvf_session *session, kvf_error *error);
/*
 * Whether they are: not in a session that went back to a checkpoint of a file (see
 * kvf_session_truncate), until a chunk is committed. They are zeros then.
 */
KVF_API bool kvf_session_logits_known(const kvf_session *session);
/* Rows that `tiled` could not hold exactly in f16 (FORMAT.md 7); 0 in other profiles. */
KVF_API uint64_t kvf_session_inexact_rows(const kvf_session *session);
/* Counted from what is held now, not from the plan. */
KVF_API uint64_t kvf_session_held_bytes(const kvf_session *session);
/*
 * What the device's allocator has given for what this session holds. Pages that it shares
 * with others count in full in each of them; the device counts each once.
 */
KVF_API uint64_t kvf_session_allocated_bytes(const kvf_session *session);
/* Of these, pages that other sessions hold too. Walks through all pages. */
KVF_API uint64_t kvf_session_shared_bytes(const kvf_session *session);
/* Pages that still lie in a saved session's file. With allocated_bytes: all that it holds. */
KVF_API uint64_t kvf_session_mapped_bytes(const kvf_session *session);
/*
 * What this session's checkpoints hold and no session does. Those that it shares with
 * forks count in each of them.
 */
KVF_API uint64_t kvf_session_checkpoint_bytes(const kvf_session *session);
/*
 * Rows layer holds: view of compressed or index rows (n_rows = committed + in the chunk),
 * to be read, until the next begin, truncate or close. Pages may be shared with other
 * sessions; those of a restored one are not checked before a stage needed them
 * (kvf_session_check does it).
 */
KVF_API kvf_rows kvf_session_rows(const kvf_session *session, uint32_t layer);
KVF_API kvf_rows kvf_session_index_rows(const kvf_session *session, uint32_t layer);

/* ---- Fork and truncate ------------------------------------------------------ */

/*
 * Another session with the same content, in time and memory for a table of pages: rows,
 * states, token ids and checkpoints are shared and copied page by page when one of the
 * sessions writes. So continuations of one prompt hold it once, and what one appends is
 * never seen by another. Each is closed for itself, in any order. All sessions on a
 * device, forks or not, belong to one thread at a time.
 *   Fails with KVF_OUT_OF_MEMORY, with KVF_DEVICE_LOST, and with KVF_INVALID_ARGUMENT while the
 * session is in an open batch.
 * The session itself is unchanged in every case.
 */
KVF_API kvf_status kvf_session_fork(kvf_session *session, kvf_session **fork, kvf_error *error);

/*
 * For a session that takes the place of `other`, which was saved or restored: a fork that was
 * kept while the other went on. From here on the file that is added to is the other's: the
 * session's next save there writes only what the two do not share (pages in memory, compared
 * by address), instead of all. Does nothing where they have no tokens in common, or where
 * `other` was never saved.
 */
KVF_API void kvf_session_share_save(kvf_session *session, const kvf_session *other);

/* What has to be appended to reach the place that truncate was asked for. */
typedef struct kvf_replay {
    uint64_t first_token;  /* tokens that the session holds after truncate */
    uint64_t n_tokens;     /* tokens to append again; 0: it is there */
    int32_t *tokens;       /* [n_tokens] */
    uint32_t chunk_tokens; /* the most of them that the session takes at a time */
} kvf_replay;
/* Frees what kvf_session_truncate put there; a zeroed one is accepted. */
KVF_API void kvf_replay_free(kvf_replay *replay);

/*
 * Goes back to n_tokens tokens. The state of a session can be taken up again at
 * checkpoints only: commit takes one where the tokens held are a multiple of the least
 * common multiple of the ratios (128 in DeepSeek-V4) and lie checkpoint_spacing_tokens or
 * more after the one before, and keeps the last checkpoint_count. The start counts as one
 * more until the first is given up.
 *   So the session goes back to the latest checkpoint at or before n_tokens, and *replay
 * (kvf_replay_free) says what to append from there: those tokens, in chunks of any size.
 * Nothing that the session stores depends on the chunks, so where the bits of what is
 * appended do not (on the CPU: docs/FORMAT.md 9.8), all rows, states and logits are to the
 * bit those of a session that was never longer. kvf_session_logits are those of the last
 * token held, as ever (zero where none is). Compressor state that no row will pool any more
 * is zero.
 *   replay may be NULL where n_tokens is a checkpoint's place, 0 or all tokens held.
 *   A checkpoint that came from a file (kvf_session_load) has no logits. With a replay the session
 * goes to an earlier one where n_tokens is just there, so that appending gives the logits; without,
 * for callers that append other tokens next, it goes there, and has none until then
 * (kvf_session_logits_known).
 *   Fails, with the session unchanged, with KVF_INVALID_ARGUMENT (more tokens than are
 * held; it is in an open batch), KVF_NOT_COVERED (before the oldest checkpoint, or replay is NULL
 * and needed), KVF_FILE_FORMAT (the checkpoint's part of the file is damaged),
 * KVF_OUT_OF_MEMORY and KVF_DEVICE_LOST. Truncating to 0 is always covered.
 */
KVF_API kvf_status kvf_session_truncate(kvf_session *session, uint64_t n_tokens, kvf_replay *replay,
                                        kvf_error *error);
/* The smallest n_tokens but 0 that truncate can go back to with a replay; 0: any. */
KVF_API uint64_t kvf_session_first_covered(const kvf_session *session);

/*
 * Takes a checkpoint of the present state, besides those that commit takes by itself: for a place
 * that will be gone back to, as the end of a prompt. The tokens held must be a multiple of
 * kvf_session_checkpoint_alignment (a caller ends a chunk there), and no chunk be open. The last
 * KVF_REQUESTED_CHECKPOINTS are kept, whatever the options say; one that is there already is
 * marked. Forks that are made later have it too.
 *   Fails with KVF_INVALID_ARGUMENT, KVF_FILE_FORMAT, KVF_OUT_OF_MEMORY, KVF_DEVICE_LOST, the
 * session unchanged.
 */
KVF_API kvf_status kvf_session_checkpoint(kvf_session *session, kvf_error *error);
/* The least common multiple of the ratios; more than any context: there are no checkpoints. */
KVF_API uint64_t kvf_session_checkpoint_alignment(const kvf_session *session);
/* Returns how many checkpoints there are; writes the places of at most `capacity`, ascending. */
KVF_API uint32_t kvf_session_checkpoints(const kvf_session *session, uint64_t *n_tokens,
                                         uint32_t capacity);

#ifdef __cplusplus
}
#endif

#include "kvfold_files.h" /* sessions in files, and a store of them */
#endif
