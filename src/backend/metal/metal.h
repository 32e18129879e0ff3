/*
 * What the files of the Metal backend share: the device, its memory, and how an operation
 * is put together. Internal.
 *
 * An operation is: spans of its arguments, kernels run over them, finish.
 *
 *     const kvf_metal_span in = kvf_metal_input(metal, args->in, in_bytes);
 *     const kvf_metal_span out = kvf_metal_output(metal, args->out, out_bytes);
 *     kvf_metal_run(metal, &(kvf_metal_call){.kernel = KVF_KERNEL_norm,
 *                                            .groups = {n, 1, 1}, .threads = 128,
 *                                            .arguments = &k, .argument_bytes = sizeof k,
 *                                            .spans = {in, out}});
 *     return kvf_metal_finish(metal);
 *
 * Errors are sticky: once memory ran out or the GPU failed, spans are dummies, runs do
 * nothing and every finish returns the same status. So only finish is looked at.
 */
#ifndef KVF_BACKEND_METAL_METAL_H
#define KVF_BACKEND_METAL_METAL_H

#include "backend/backend.h"
#include "backend/metal/device.h"
#include "backend/metal/kernels.h"

extern const kvf_backend kvf_backend_metal;

/* ---- Kernels ------------------------------------------------------------------- */

typedef enum kvf_metal_file {
#define KVF_METAL_FILE(file) KVF_METAL_FILE_##file,
#define KVF_METAL_KERNEL(file, name)
#include "backend/metal/kernels.def"
#undef KVF_METAL_FILE
#undef KVF_METAL_KERNEL
    KVF_METAL_FILE_COUNT
} kvf_metal_file;

/* KVF_KERNEL_norm is kernel kvf_norm. */
typedef enum kvf_metal_kernel {
#define KVF_METAL_FILE(file)
#define KVF_METAL_KERNEL(file, name) KVF_KERNEL_##name,
#include "backend/metal/kernels.def"
#undef KVF_METAL_FILE
#undef KVF_METAL_KERNEL
    KVF_KERNEL_COUNT
} kvf_metal_kernel;

/* ---- The device ---------------------------------------------------------------- */

/* Bytes somewhere in a live buffer. */
typedef struct kvf_metal_span {
    const kvf_gpu_buffer *buffer;
    size_t offset;
} kvf_metal_span;

/*
 * A buffer that is given out: as a whole or, so that small allocations do not take a page of
 * the GPU each, in 64 blocks of one size.
 */
typedef struct kvf_metal_region {
    kvf_gpu_buffer buffer;
    size_t block_bytes;   /* 0: as a whole */
    uint64_t free_blocks; /* a bit each */
} kvf_metal_region;

/* An output that the GPU writes to a copy, and where finish copies it. */
typedef struct kvf_metal_copy {
    void *to;
    const void *from;
    size_t bytes;
} kvf_metal_copy;

/* Memory of one operation: given from the start, taken back as a whole by finish. */
typedef struct kvf_metal_staging {
    kvf_gpu_buffer **buffers; /* the last one is given from */
    uint32_t n_buffers;
    size_t used_bytes; /* of the last one */
    kvf_metal_copy *copies;
    uint32_t n_copies;
    uint32_t copies_capacity;
} kvf_metal_staging;

typedef struct kvf_metal_device {
    kvf_device base; /* first: the table's functions get its address */
    kvf_gpu *gpu;
    kvf_gpu_limits limits;
    kvf_gpu_library *libraries[KVF_METAL_FILE_COUNT];
    kvf_gpu_pipeline *pipelines[KVF_KERNEL_COUNT];
    kvf_metal_region **regions; /* live ones, by ascending address */
    uint32_t n_regions;
    uint32_t regions_capacity;
    kvf_metal_region *last_blocks[16]; /* by size: where a block was free last; NULL: look */
    uint64_t region_bytes;             /* of regions: at most base.memory_bytes */
    uint64_t allocated_bytes;          /* staging too: at most the working set */
    kvf_gpu_buffer nothing;            /* stands in where there is nothing to address */
    kvf_metal_staging staging;
    kvf_error lost; /* not KVF_OK: what ended this device */
} kvf_metal_device;

static inline kvf_metal_device *kvf_metal_of(kvf_device *device)
{
    return (kvf_metal_device *)device;
}

/* ---- Memory: memory.c ------------------------------------------------------------ */

/* The table's alloc and release: shared memory, registered so that find knows it. */
void *kvf_metal_alloc(kvf_device *device, size_t bytes, kvf_place place);
void kvf_metal_release(kvf_device *device, void *memory, size_t bytes);
/* Copies outputs back, if asked, and takes the operation's memory back: finish does it. */
void kvf_metal_end_staging(kvf_metal_device *metal, bool copy_back);
/* Releases staging and whatever the caller forgot. */
void kvf_metal_close_memory(kvf_metal_device *metal);

/* Where [pointer, pointer + bytes) lies in memory of this device; false: elsewhere. */
bool kvf_metal_find(const kvf_metal_device *metal, const void *pointer, size_t bytes,
                    kvf_metal_span *span);

/* Memory for the running operation, aligned to 256 bytes, undefined. */
kvf_metal_span kvf_metal_temporary(kvf_metal_device *metal, size_t bytes);
/* A copy of host bytes, made now: small arrays, argument tables. */
kvf_metal_span kvf_metal_upload(kvf_metal_device *metal, const void *data, size_t bytes);
/* The memory itself if it is the device's, else (slow) a copy. NULL or 0 bytes: a dummy. */
kvf_metal_span kvf_metal_input(kvf_metal_device *metal, const void *data, size_t bytes);
/*
 * The same for what kernels write. A copy begins as `data` is (so what kernels leave alone
 * is kept) and finish writes it back.
 */
kvf_metal_span kvf_metal_output(kvf_metal_device *metal, void *data, size_t bytes);

/* The host's and the kernels' address of a span. */
static inline void *kvf_metal_contents(kvf_metal_span span)
{
    return (uint8_t *)span.buffer->contents + span.offset;
}

static inline uint64_t kvf_metal_address(kvf_metal_span span)
{
    return span.buffer->gpu_address + span.offset;
}

/* ---- Views of rows: rows.c -------------------------------------------------------- */

/*
 * What kernels are given of a view. Rows in memory of the device are read and written in
 * place; other pages are copies, as with kvf_metal_input and kvf_metal_output, so a view
 * that is written is asked for once an operation.
 */
kvf_kernel_rows kvf_metal_input_rows(kvf_metal_device *metal, const kvf_rows *view);
kvf_kernel_rows kvf_metal_output_rows(kvf_metal_device *metal, const kvf_rows *view);

/* ---- Running kernels: run.c ------------------------------------------------------ */

typedef struct kvf_metal_call {
    kvf_metal_kernel kernel;
    uint32_t groups[3]; /* none of them if one is 0 */
    uint32_t threads;   /* a threadgroup */
    const void *arguments;
    size_t argument_bytes;
    kvf_metal_span spans[KVF_GPU_MAX_BUFFERS]; /* [[buffer(1 + i)]]; the first NULL ends them */
    uint32_t threadgroup_bytes[KVF_GPU_MAX_THREADGROUP_ARRAYS]; /* the first 0 ends them */
} kvf_metal_call;

void kvf_metal_run(kvf_metal_device *metal, const kvf_metal_call *call);

/* Encoded work to its end, then the host may read: see kvf_metal_finish. */
kvf_status kvf_metal_wait(kvf_metal_device *metal);

/*
 * Ends an operation: waits, copies outputs back, takes staging back. KVF_OK, or why the
 * device is lost; then outputs are unspecified.
 */
kvf_status kvf_metal_finish(kvf_metal_device *metal);

/* Makes an error sticky; the first one stays. */
void kvf_metal_lose(kvf_metal_device *metal, kvf_status status, const char *what);

/* The table's wait, operations having ended: what ended the device, KVF_OK while it works. */
kvf_status kvf_metal_state(kvf_device *device, kvf_error *error);

/* ---- Operations ------------------------------------------------------------------ */

/* dense.c */
void kvf_metal_embed(kvf_device *device, const kvf_embed_args *args);
void kvf_metal_matmul(kvf_device *device, const kvf_matmul_args *args);
void kvf_metal_norm(kvf_device *device, const kvf_norm_args *args);
void kvf_metal_rope(kvf_device *device, const kvf_rope_args *args);
void kvf_metal_mix(kvf_device *device, const kvf_mix_args *args);
void kvf_metal_unmix(kvf_device *device, const kvf_unmix_args *args);
void kvf_metal_route(kvf_device *device, const kvf_route_args *args);
void kvf_metal_experts(kvf_device *device, const kvf_experts_args *args);

/* pack.c */
void kvf_metal_check(kvf_device *device, const kvf_check_args *args, kvf_findings found);
void kvf_metal_pack(kvf_device *device, const kvf_pack_args *args, kvf_findings found);
void kvf_metal_unpack(kvf_device *device, const kvf_unpack_args *args);

/* compress.c */
void kvf_metal_compress(kvf_device *device, const kvf_compress_args *args, kvf_findings found);

/* select.c */
void kvf_metal_select(kvf_device *device, const kvf_select_args *args);
void kvf_metal_score(kvf_device *device, const kvf_score_args *args);
void kvf_metal_mask(kvf_device *device, const kvf_mask_args *args);
size_t kvf_metal_experts_workspace_bytes(const kvf_device *device, const kvf_experts_args *args);
size_t kvf_metal_select_workspace_bytes(uint32_t n_threads, const kvf_select_args *args);

/* Ascending lists of rows, one a query, made on the GPU and read there. */
typedef struct kvf_metal_lists {
    kvf_metal_span rows;   /* int32: query i's list begins i * stride entries on */
    kvf_metal_span counts; /* uint32 a query: entries of its list */
    uint64_t stride;       /* no list may be longer */
} kvf_metal_lists;

/*
 * Encodes the making of lists 0 .. n_queries of `out`, whose memory the caller gives (so
 * that batches can share it): query i's is what query first_query + i of args attends, the
 * entries of args->list that are not -1, or the rows < n_visible that mask_f32 or mask_f16
 * lets through (0, not -infinity). A longer list than out->stride is cut.
 */
void kvf_metal_compact(kvf_metal_device *metal, const kvf_attend_args *args, uint32_t first_query,
                       uint32_t n_queries, const kvf_metal_lists *out);

/*
 * The counts of visible rows of n queries: what is given, or (ratio not 0) made here. The kernels
 * had better compute them.
 */
kvf_metal_span kvf_metal_visible(kvf_metal_device *metal, const uint32_t *n_visible,
                                 uint64_t first_token, uint32_t ratio, size_t n);

/* attend.c */
void kvf_metal_attend(kvf_device *device, const kvf_attend_args *args);
size_t kvf_metal_attend_workspace_bytes(uint32_t n_threads, const kvf_attend_args *args);

#endif
