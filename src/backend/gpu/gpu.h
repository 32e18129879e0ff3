/*
 * What the files of the GPU backend share: the device, its memory, and how an operation is
 * put together. Internal.
 *
 * An operation is argument structs of addresses, and dispatches that are encoded:
 *
 *     const kvf_norm_kernel_args k = {.in = kvf_gpu_at(gpu, args->in), ..};
 *     kvf_gpu_run(gpu, &(kvf_gpu_call){.kernel = KVF_KERNEL_norm, .groups = {n, 1, 1},
 *                                      .threads = 128, KVF_GPU_ARGUMENTS(k)});
 *
 * Nothing waits, and nothing of the device's memory is read here. Once the GPU failed nothing is
 * encoded any more, and every wait says why; once memory ran out, until a wait has said so.
 */
#ifndef KVF_BACKEND_GPU_GPU_H
#define KVF_BACKEND_GPU_GPU_H

#include "backend/backend.h"
#include "backend/gpu/dense.h"
#include "backend/gpu/driver.h"
#include "backend/gpu/kernels.h"

/* ---- Kernels ------------------------------------------------------------------- */

typedef enum kvf_gpu_file {
#define KVF_GPU_FILE(file) KVF_GPU_FILE_##file,
#define KVF_GPU_KERNEL(file, name)
#include "backend/gpu/kernels.def"
#undef KVF_GPU_FILE
#undef KVF_GPU_KERNEL
    KVF_GPU_FILE_COUNT
} kvf_gpu_file;

/* KVF_KERNEL_norm is kernel kvf_norm. */
typedef enum kvf_gpu_kernel {
#define KVF_GPU_FILE(file)
#define KVF_GPU_KERNEL(file, name) KVF_KERNEL_##name,
#include "backend/gpu/kernels.def"
#undef KVF_GPU_FILE
#undef KVF_GPU_KERNEL
    KVF_KERNEL_COUNT
} kvf_gpu_kernel;

typedef enum kvf_gpu_variant {
#define KVF_GPU_VARIANT(name, id) KVF_GPU_VARIANT_##name,
#include "backend/gpu/variants.def"
#undef KVF_GPU_VARIANT
    KVF_GPU_VARIANT_COUNT
} kvf_gpu_variant;

/* The kernels for weights of a type. */
kvf_gpu_variant kvf_gpu_variant_of(kvf_weight_id type);

/* ---- The device ---------------------------------------------------------------- */

/*
 * A buffer that is given out: as a whole or, so that small allocations do not take a page of
 * the GPU each, in 64 blocks of one size.
 */
typedef struct kvf_gpu_region {
    kvf_gpu_buffer buffer;
    uintptr_t given;      /* what alloc returns for its first byte */
    size_t block_bytes;   /* 0: as a whole */
    uint64_t free_blocks; /* a bit each */
    uint64_t n_waits;     /* of the device, when bytes were last brought there */
} kvf_gpu_region;

/* Regions of one place, by ascending address. */
typedef struct kvf_gpu_regions {
    kvf_gpu_region **all;
    uint32_t n;
    uint32_t capacity;
    kvf_gpu_region *last_blocks[16]; /* by size: where a block was free last; NULL: look */
} kvf_gpu_regions;

/* Memory of the host that kernels read where it lies. */
typedef struct kvf_gpu_mapping {
    uintptr_t start; /* the host's address of its first byte */
    kvf_gpu_buffer buffer;
} kvf_gpu_mapping;

/* What was asked for with `read`: done by wait. */
typedef struct kvf_gpu_fetch {
    void *to;
    const void *from; /* in a staging buffer */
    size_t bytes;
} kvf_gpu_fetch;

/* Memory that host and GPU share, for what is on its way; begins anew after a wait. */
typedef struct kvf_gpu_staging {
    kvf_gpu_buffer *buffers; /* the last one is given from */
    uint32_t n_buffers;
    uint32_t capacity;
    size_t used_bytes; /* of the last one */
    size_t all_bytes;  /* given since the last wait */
    kvf_gpu_fetch *fetches;
    uint32_t n_fetches;
    uint32_t fetches_capacity;
} kvf_gpu_staging;

/* What was released, until work that may use it is done. */
typedef struct kvf_gpu_releases {
    kvf_gpu_buffer *buffers;
    uint32_t n_buffers;
    uint32_t buffers_capacity;
    void **blocks; /* of shared memory, which the host may write to at once */
    uint32_t n_blocks;
    uint32_t blocks_capacity;
} kvf_gpu_releases;

/* A layer's experts on the device: kvf_expert_entry [n_experts + 1]. */
typedef struct kvf_gpu_expert_table {
    const kvf_expert_weights *routed; /* where the host has them */
    kvf_expert_weights *copy;         /* [n_experts + 1] as they were, then the shared one */
    uint32_t n_experts;
    void *entries;
    kvf_gpu_variant up[2]; /* kernels for gate and up, of routed experts and of the shared one */
    kvf_gpu_variant down[2];
} kvf_gpu_expert_table;

/* What runs as a kernel. */
typedef struct kvf_gpu_ready {
    kvf_gpu_pipeline *pipeline;       /* NULL: not compiled yet */
    const kvf_gpu_override *override; /* what runs in its place; NULL: the generic one does */
    kvf_gpu_library *library;         /* the override's; NULL: in `libraries` */
} kvf_gpu_ready;

typedef struct kvf_gpu_device {
    kvf_device base; /* first: the table's functions get its address */
    const kvf_gpu_driver *driver;
    kvf_gpu *gpu;
    kvf_gpu_limits limits;
    kvf_gpu_library *libraries[KVF_GPU_FILE_COUNT][KVF_GPU_VARIANT_COUNT];
    kvf_gpu_ready kernels[KVF_KERNEL_COUNT][KVF_GPU_VARIANT_COUNT];
    kvf_gpu_regions regions[2]; /* by kvf_place */
    uint64_t region_bytes;      /* of regions and mappings: at most base.memory_bytes */
    uint64_t allocated_bytes;   /* staging and scratch too: at most the working set */
    kvf_gpu_mapping *mappings;  /* by ascending address */
    uint32_t n_mappings;
    uint32_t mappings_capacity;
    kvf_gpu_staging staging;
    kvf_gpu_releases releases;
    kvf_gpu_buffer scratch; /* arrays of one operation; the next one uses it again */
    kvf_gpu_buffer found;   /* what an operation's checks find: KVF_FOUND_WORDS a span .. */
    uint32_t n_found;       /* .. of so many */
    uint8_t *table;         /* spans of an operation, until they are on their way */
    size_t table_bytes;
    kvf_gpu_expert_table *tables;
    uint32_t n_tables;
    uint32_t tables_capacity;
    uint64_t n_waits; /* done, and one more */
    bool is_busy;     /* something was encoded since the last wait */
    kvf_error lost;   /* not KVF_OK: what ended this device */
    kvf_error lacks;  /* not KVF_OK: what memory an operation could not have; the next wait tells */
} kvf_gpu_device;

static inline kvf_gpu_device *kvf_gpu_of(kvf_device *device)
{
    return (kvf_gpu_device *)device;
}

/* A backend's open: by its driver. */
kvf_status kvf_gpu_open_device(const kvf_backend *backend, const kvf_gpu_driver *driver,
                               const kvf_device_options *options, kvf_device **device,
                               kvf_error *error);
void kvf_gpu_close_device(kvf_device *device);
/* The pipeline of a kernel; compiled when it is first asked for. NULL: the device is lost. */
const kvf_gpu_pipeline *kvf_gpu_pipeline_of(kvf_gpu_device *gpu, kvf_gpu_kernel kernel,
                                            kvf_gpu_variant variant);
/* The shape of what runs as this kernel: the override's, or else `generic`. */
kvf_gpu_shape kvf_gpu_shape_of(const kvf_gpu_device *gpu, kvf_gpu_kernel kernel,
                               kvf_gpu_variant variant, kvf_gpu_shape generic);

/* ---- Memory: memory.c ------------------------------------------------------------ */

/*
 * The table's alloc: of the device, gpu addresses with KVF_DEVICE_BIT, which the host cannot
 * follow; staging, the host's own addresses.
 */
void *kvf_gpu_alloc(kvf_device *device, size_t bytes, kvf_place place);
void kvf_gpu_release(kvf_device *device, void *memory, size_t bytes);
bool kvf_gpu_is_device_memory(const kvf_device *device, const void *memory);
/* Does what waited for the end of all work: releases. */
void kvf_gpu_end_releases(kvf_gpu_device *gpu);
/* Releases whatever is left. */
void kvf_gpu_close_memory(kvf_gpu_device *gpu);

/*
 * mapped.c: the table's map and unmap, for drivers with map_buffer, and where an address of the
 * host lies for kernels; 0: it is not mapped.
 */
kvf_status kvf_gpu_map(kvf_device *device, const kvf_host_part *parts, size_t n, kvf_error *error);
void kvf_gpu_unmap(kvf_device *device, const void *memory, size_t bytes);
uint64_t kvf_gpu_mapped_at(const kvf_gpu_device *gpu, uintptr_t address);
void kvf_gpu_close_mapped(kvf_gpu_device *gpu);

/*
 * The kernels' address of memory that alloc gave, or that is mapped; NULL: 0. Any other pointer is
 * a mistake of the caller, and ends the device.
 */
uint64_t kvf_gpu_at(kvf_gpu_device *gpu, const void *memory);

/*
 * Whether nothing that is encoded since the last wait brings bytes to where this memory is: zero,
 * write or copy, which say so by kvf_gpu_note. Operations do not write weights. NULL: yes.
 */
bool kvf_gpu_is_old(kvf_gpu_device *gpu, const void *memory);
void kvf_gpu_note(kvf_gpu_device *gpu, const void *memory);

/* Bytes for the running operation, aligned to 256, undefined: one piece an operation. */
uint64_t kvf_gpu_scratch(kvf_gpu_device *gpu, size_t bytes);
/* Words for what checks find in n spans, as report leaves them. */
uint64_t kvf_gpu_found(kvf_gpu_device *gpu, uint32_t n);

/* A buffer within the working set; false where it cannot be had. */
bool kvf_gpu_make_buffer(kvf_gpu_device *gpu, size_t bytes, bool shared, kvf_gpu_buffer *buffer);
void kvf_gpu_release_buffer(kvf_gpu_device *gpu, kvf_gpu_buffer *buffer);

/* Room for one more in an array of n; false without memory. */
bool kvf_gpu_reserve(void **array, uint32_t n, uint32_t *capacity, size_t element_bytes);

/* ---- The queue: queue.c ------------------------------------------------------------ */

typedef struct kvf_gpu_call {
    kvf_gpu_kernel kernel;
    kvf_gpu_variant variant; /* of products */
    uint32_t groups[3];      /* none of them if one is 0 */
    uint32_t threads;        /* a threadgroup */
    const void *arguments;
    size_t argument_bytes;
    uint32_t threadgroup_bytes[KVF_GPU_MAX_THREADGROUP_ARRAYS]; /* the first 0 ends them */
} kvf_gpu_call;
#define KVF_GPU_ARGUMENTS(k) .arguments = &(k), .argument_bytes = sizeof(k)

/* Encodes one dispatch; the argument struct is copied. */
void kvf_gpu_run(kvf_gpu_device *gpu, const kvf_gpu_call *call);

/*
 * Memory that host and GPU share, until the next wait, which may come here; the address is the
 * GPU's. NULL: the device is lost, or there is none.
 */
void *kvf_gpu_stage(kvf_gpu_device *gpu, size_t bytes, uint64_t *address);

void kvf_gpu_zero(kvf_device *device, void *to, size_t bytes);
void kvf_gpu_write(kvf_device *device, void *to, const void *from_host, size_t bytes);
void kvf_gpu_read(kvf_device *device, void *to_host, const void *from, size_t bytes);
void kvf_gpu_copy(kvf_device *device, void *to, const void *from, size_t bytes);
kvf_status kvf_gpu_wait(kvf_device *device, kvf_error *error);
/* Until all that was encoded is done; errors stay for the caller's wait. */
kvf_status kvf_gpu_flush(kvf_gpu_device *gpu);
/* What bytes need on their way where no more memory can be had. */
kvf_status kvf_gpu_open_queue(kvf_gpu_device *gpu, kvf_error *error);
void kvf_gpu_close_queue(kvf_gpu_device *gpu);

/*
 * Nothing is encoded from now on; the first error stays. KVF_OUT_OF_MEMORY: no operation is, until
 * a wait has told it.
 */
void kvf_gpu_lose(kvf_gpu_device *gpu, kvf_status status, const char *what);

/* ---- Arguments ------------------------------------------------------------------------ */

static inline uint32_t kvf_gpu_pieces(uint64_t n, uint32_t piece)
{
    return (uint32_t)((n + piece - 1) / piece);
}

/* A view of rows; rows.c. */
kvf_kernel_rows kvf_gpu_rows(kvf_gpu_device *gpu, const kvf_rows *view);

/*
 * The spans of an operation (kernels.h: kvf_kernel_spans), spans.c. Begun in scratch of the
 * operation, filled in the host's memory, sent as a whole:
 *
 *     kvf_gpu_table table;
 *     if (!kvf_gpu_begin_table(gpu, there, kvf_gpu_spans_bytes(n, sizeof *spans, 1), &table))
 *         return;
 *     kvf_row_span *spans = kvf_gpu_add_spans(&table, n, sizeof *spans, 1, &k.spans, &firsts);
 *     ..
 *     kvf_gpu_send_table(gpu, &table);
 *     k.one = spans[0];
 */
typedef struct kvf_gpu_table {
    uint8_t *host;
    uint64_t there;
    size_t bytes; /* added so far */
    uint32_t n;   /* spans */
} kvf_gpu_table;

/* What n structs take, with n_numberings arrays of numbers; a multiple of 16. */
size_t kvf_gpu_spans_bytes(uint32_t n, size_t span_bytes, uint32_t n_numberings);
/* False: the device is lost, or has no memory for this. */
bool kvf_gpu_begin_table(kvf_gpu_device *gpu, uint64_t there, size_t bytes, kvf_gpu_table *table);
/* The structs, to be filled, and their numbers [n_numberings][n]; until the table is sent. */
void *kvf_gpu_add_spans(kvf_gpu_table *table, uint32_t n, size_t span_bytes, uint32_t n_numberings,
                        kvf_kernel_spans *spans, uint32_t **firsts);
/* Queues what several spans need; one is in the argument struct. */
void kvf_gpu_send_table(kvf_gpu_device *gpu, const kvf_gpu_table *table);

/* ---- Operations ------------------------------------------------------------------ */

/* dense.c */
kvf_kernel_matrix kvf_gpu_matrix(kvf_gpu_device *gpu, const kvf_matrix *matrix);
void kvf_gpu_embed(kvf_device *device, const kvf_embed_args *args);
void kvf_gpu_matmul(kvf_device *device, const kvf_matmul_args *args);
void kvf_gpu_norm(kvf_device *device, const kvf_norm_args *args);
void kvf_gpu_rope(kvf_device *device, const kvf_rope_args *args);
void kvf_gpu_mix(kvf_device *device, const kvf_mix_args *args);
void kvf_gpu_unmix(kvf_device *device, const kvf_unmix_args *args);
void kvf_gpu_route(kvf_device *device, const kvf_route_args *args);

/* experts.c */
void kvf_gpu_experts(kvf_device *device, const kvf_experts_args *args);
size_t kvf_gpu_experts_workspace_bytes(const kvf_device *device, const kvf_experts_args *args);
void kvf_gpu_close_experts(kvf_gpu_device *gpu);

/* sample.c */
void kvf_gpu_sample(kvf_device *device, const kvf_sample_args *args);

/* pack.c */
void kvf_gpu_check(kvf_device *device, const kvf_check_args *args, const kvf_findings *found,
                   uint32_t n);
void kvf_gpu_pack(kvf_device *device, const kvf_pack_args *args, const kvf_findings *found,
                  uint32_t n);
void kvf_gpu_unpack(kvf_device *device, const kvf_unpack_args *args);
/* A span of rows that go to out, from row first_row of the view on; `first` is the caller's. */
kvf_row_span kvf_gpu_row_span(kvf_gpu_device *gpu, const kvf_rows *out, uint64_t first_row,
                              kvf_findings found);
/* Encodes the checks of all rows and their stores, which spare spans with findings. */
void kvf_gpu_run_pack(kvf_gpu_device *gpu, const kvf_row_kernel_args *args);
/* Tells what was found. */
void kvf_gpu_run_report(kvf_gpu_device *gpu, const kvf_row_kernel_args *args);

/* compress.c */
void kvf_gpu_compress(kvf_device *device, const kvf_compress_args *args, const kvf_findings *found,
                      uint32_t n);

/* select.c */
void kvf_gpu_select(kvf_device *device, const kvf_select_args *args, uint32_t n);
void kvf_gpu_score(kvf_device *device, const kvf_score_args *args);
void kvf_gpu_mask(kvf_device *device, const kvf_mask_args *args);
size_t kvf_gpu_select_workspace_bytes(uint32_t n_threads, const kvf_select_args *args);

/* attend.c */
void kvf_gpu_attend(kvf_device *device, const kvf_attend_args *args, uint32_t n);
/*
 * Encodes the making of the lists of n queries from args->first_query on: what their spans
 * choose, cut at list_stride; and how many entries each has.
 */
void kvf_gpu_run_compact(kvf_gpu_device *gpu, const kvf_attend_kernel_args *args, uint32_t n);
size_t kvf_gpu_attend_workspace_bytes(uint32_t n_threads, const kvf_attend_args *args);

/*
 * What the backends have in common: all but name and open. A slab is two of the largest pages that
 * a driver gives, 2 MiB, and eight of V4-Flash's largest states.
 */
#define KVF_GPU_OPERATIONS                                                                         \
    .takes_stored_weights = true, .slab_bytes = (size_t)4 << 20, .close = kvf_gpu_close_device,    \
    .alloc = kvf_gpu_alloc, .release = kvf_gpu_release, .zero = kvf_gpu_zero,                      \
    .write = kvf_gpu_write, .read = kvf_gpu_read, .copy = kvf_gpu_copy, .wait = kvf_gpu_wait,      \
    .is_device_memory = kvf_gpu_is_device_memory, .embed = kvf_gpu_embed,                          \
    .matmul = kvf_gpu_matmul, .norm = kvf_gpu_norm, .rope = kvf_gpu_rope, .mix = kvf_gpu_mix,      \
    .unmix = kvf_gpu_unmix, .route = kvf_gpu_route, .experts = kvf_gpu_experts,                    \
    .sample = kvf_gpu_sample, .check = kvf_gpu_check, .compress = kvf_gpu_compress,                \
    .pack = kvf_gpu_pack, .unpack = kvf_gpu_unpack, .select = kvf_gpu_select,                      \
    .score = kvf_gpu_score, .mask = kvf_gpu_mask, .attend = kvf_gpu_attend,                        \
    .experts_workspace_bytes = kvf_gpu_experts_workspace_bytes,                                    \
    .select_workspace_bytes = kvf_gpu_select_workspace_bytes,                                      \
    .attend_workspace_bytes = kvf_gpu_attend_workspace_bytes

#endif
