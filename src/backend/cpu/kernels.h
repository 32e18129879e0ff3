/*
 * What differs by instruction set. Every ISA fills one table from the templates
 * (attend.inc.h, score.inc.h, compress.inc.h) over its own 16-lane vector type
 * (v16_*.h). Lanes and order of every sum are the templates', so all tables give the
 * same bits.
 *
 * All functions are single-threaded; threads are the drivers' (attend.c, select.c ..).
 */
#ifndef KVF_CPU_KERNELS_H
#define KVF_CPU_KERNELS_H

#include "backend/backend.h"
#include "shared/workspace.h"

/*
 * Multiply-adds of a stage below which it stays on one thread: about 50 microseconds,
 * which is what waking the others can cost on a machine that is not idle.
 */
#define KVF_LEAST_THREADED_WORK (1u << 22)

/* One piece of attend's work: some heads of a run of queries. */
typedef struct kvf_attend_item {
    uint32_t first_query;
    uint32_t n_queries; /* at most KVF_ATTEND_RUN_QUERIES */
    uint32_t first_head;
    uint32_t n_heads; /* at most kvf_attend_block_heads() */
} kvf_attend_item;

/* One query's index heads, ready to be scored against many rows. */
typedef struct kvf_index_query {
    uint32_t n_heads;
    bool packed;          /* codes and scales are filled; otherwise values */
    int8_t *codes;        /* [n_heads][32][4] doubled codes in the order of the key tile */
    float *scales;        /* [n_heads][4] 2^(e_b - 1) */
    int32_t *sums;        /* [n_heads][4] sum of a block's codes */
    float *values;        /* [n_heads][128] */
    const float *weights; /* [n_heads], times c */
} kvf_index_query;

/* 16 index rows across the lanes. */
#define KVF_TILE_ROWS 16
typedef struct kvf_key_tile {
    _Alignas(64) union {
        uint8_t codes[32][KVF_TILE_ROWS][4]; /* four codes of a row beside each other */
        float values[KVF_INDEX_WIDTH][KVF_TILE_ROWS];
    };
    _Alignas(64) float scales[4][KVF_TILE_ROWS]; /* 2^(e_b - 1) */
} kvf_key_tile;

typedef struct kvf_cpu_kernels {
    const char *isa;
    /* Attends one item; workspace is one thread's. */
    void (*attend)(const kvf_attend_args *args, const kvf_attend_item *item, void *workspace);
    /* Loads n (1 .. 16) index rows into a tile of codes or of f32; the rest is arbitrary. */
    void (*load_keys)(const kvf_rows *keys, uint64_t first_row, uint32_t n, bool packed,
                      kvf_key_tile *tile);
    /* scores[16] of one query against a tile of the same kind (packed or f32). */
    void (*score)(const kvf_index_query *query, const kvf_key_tile *tile, float *scores);
    /* RMS norm of one row (docs/FORMAT.md 9.7); weight may be NULL; width % 16 == 0 is faster. */
    void (*norm)(const float *in, float *out, const float *weight, uint32_t width, float eps);
    /*
     * Pools n candidates into out[width] (docs/FORMAT.md 9.3). bias[i] is added to
     * gate[i]. All pointers have width values; width is a multiple of 16.
     */
    void (*pool)(const float *const *kv, const float *const *gate, const float *const *bias,
                 uint32_t n, uint32_t width, float *out);
    /* Decodes n_rows rows of a view, row_list as in kvf_unpack_args. */
    void (*unpack)(const kvf_unpack_args *args, uint64_t begin, uint64_t end);
} kvf_cpu_kernels;

/* The tables that were built; NULL where the ISA is not of this processor family. */
extern const kvf_cpu_kernels kvf_cpu_kernels_scalar;
#if defined(__x86_64__)
extern const kvf_cpu_kernels kvf_cpu_kernels_avx2;
extern const kvf_cpu_kernels kvf_cpu_kernels_avx512;
extern const kvf_cpu_kernels kvf_cpu_kernels_avx512vnni;
#endif
#if defined(__aarch64__)
extern const kvf_cpu_kernels kvf_cpu_kernels_neon;
#endif

/* attend.c: what a call needs of its workspace. */
kvf_attend_size kvf_attend_size_of(const kvf_attend_args *args);

/* The backend's device. */
typedef struct kvf_cpu_device {
    struct kvf_device base;
    const kvf_cpu_kernels *kernels;
} kvf_cpu_device;

static inline const kvf_cpu_kernels *kvf_kernels_of(const kvf_device *device)
{
    return ((const kvf_cpu_device *)device)->kernels;
}

extern const kvf_backend kvf_backend_cpu;

/* dense.c, compress.c, pack.c, select.c, attend.c: the operations of backend.h. */
void kvf_cpu_embed(kvf_device *device, const kvf_embed_args *args);
void kvf_cpu_matmul(kvf_device *device, const kvf_matmul_args *args);
void kvf_cpu_norm(kvf_device *device, const kvf_norm_args *args);
void kvf_cpu_rope(kvf_device *device, const kvf_rope_args *args);
void kvf_cpu_mix(kvf_device *device, const kvf_mix_args *args);
void kvf_cpu_unmix(kvf_device *device, const kvf_unmix_args *args);
void kvf_cpu_route(kvf_device *device, const kvf_route_args *args);
void kvf_cpu_experts(kvf_device *device, const kvf_experts_args *args);
kvf_status kvf_cpu_compress(kvf_device *device, kvf_compress_args *args);
kvf_status kvf_cpu_pack(kvf_device *device, kvf_pack_args *args);
void kvf_cpu_unpack(kvf_device *device, const kvf_unpack_args *args);
kvf_status kvf_cpu_select(kvf_device *device, const kvf_select_args *args);
kvf_status kvf_cpu_score(kvf_device *device, const kvf_score_args *args);
void kvf_cpu_mask(kvf_device *device, const kvf_mask_args *args);
void kvf_cpu_attend(kvf_device *device, const kvf_attend_args *args);
size_t kvf_cpu_select_workspace(const kvf_device *device, const kvf_select_args *args);
size_t kvf_cpu_attend_workspace(const kvf_device *device, const kvf_attend_args *args);

#endif
