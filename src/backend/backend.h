/*
 * A backend: the operations that model/ and cache/ are written against, on one
 * kind of device. One folder and one line in backends.def each. The reference
 * (ref/) is the specification in code; the conformance suite holds every other
 * backend against it.
 *
 * Memory and operations form a queue (docs/QUEUE.md): what is asked for is done in order, and
 * at the latest when `wait` returns. All sizes were checked by the caller; what the data itself
 * can get wrong (non-finite rows, ranges) is left in findings, and a lost device shows in wait. A
 * backend has every operation; nothing falls back, and one that lacks any does not open.
 */
#ifndef KVF_BACKEND_BACKEND_H
#define KVF_BACKEND_BACKEND_H

#include "shared/args.h"
#include "shared/finding.h"
#include "weight/weight.h"

typedef struct kvf_backend kvf_backend;

/* Where memory lies. */
typedef enum kvf_place {
    KVF_PLACE_DEVICE, /* only operations address it, and zero, write, read and copy */
    KVF_PLACE_STAGING /* the host's, which operations address as well */
} kvf_place;

/*
 * Does items first .. end of some work. Threads do others at the same time; `thread`, below
 * the device's n_threads, is that of no other one.
 */
typedef void kvf_task(void *context, size_t first, size_t end, uint32_t thread);

/* Memory of a device in which pages of one size lie. */
typedef struct kvf_slab kvf_slab;

/* Slabs of a device with pages of one size. */
typedef struct kvf_slab_size {
    size_t page_bytes;
    uint64_t n_slabs; /* 0: the entry is not used */
    uint64_t n_free;  /* pages that nobody holds, of all slabs */
    kvf_slab *partly; /* those with pages that are held and pages that are free */
    kvf_slab *empty;  /* those of which no page is held */
} kvf_slab_size;

/* Pages of a model have at most 9 sizes: 5 of rows over all profiles, 3 of states, of checkpoints.
 */
#define KVF_SLAB_SIZES 16

/* A stretch of the host's memory. */
typedef struct kvf_host_part {
    const void *memory;
    size_t bytes;
} kvf_host_part;

/* First member of every backend's own device struct. */
struct kvf_device {
    const kvf_backend *backend;
    const char *isa;
    uint32_t n_threads;
    uint64_t memory_bytes; /* what may be allocated in all; 0: what the host gives */
    uint64_t buffer_bytes; /* the largest allocation; 0: any */
    uint64_t live_bytes[KVF_MEMORY_CLASS_COUNT]; /* given and not yet freed */
    uint64_t mapped_bytes;                       /* of `map`, whole pages: used besides */
    uint64_t peak_bytes[KVF_MEMORY_CLASS_COUNT];
    size_t slab_bytes; /* the backend's */
    kvf_slab_size slab_sizes[KVF_SLAB_SIZES];
    uint64_t n_shortages; /* waits that said KVF_OUT_OF_MEMORY; counted by the backend */
    kvf_finding *finding; /* of the public stages, staging memory */
};

struct kvf_backend {
    const char *name;
    /*
     * Operations can read memory that the host has from elsewhere, such as a mapped file, and
     * the host all that alloc gave: what is asked for has been done when the call returns.
     * Where not, a restored session is copied into memory that alloc gave.
     */
    bool addresses_host_memory;

    /*
     * Products are computed with weights as they are stored: where they lie, in memory that the
     * host has from elsewhere, if addresses_host_memory, or mapped, or else copied to memory that
     * alloc gave. Where not, a matrix is f32 in memory that alloc gave.
     */
    bool takes_stored_weights;

    /* The most that a slab of pages takes; 0: every page is an allocation of its own. */
    size_t slab_bytes;

    /*
     * Where host and device have one memory but not one address: from map to unmap operations read
     * the parts where they lie, as weights as they are stored. They ascend, lie in one shared
     * mapping of a file, and each is at one address of the device throughout. unmap ends it for all
     * parts in the stretch. Both NULL: weights are copied. KVF_OUT_OF_MEMORY: they are too large
     * for the device, or one is for a buffer; parts that were mapped before stay so.
     */
    kvf_status (*map)(kvf_device *device, const kvf_host_part *parts, size_t n, kvf_error *error);
    void (*unmap)(kvf_device *device, const void *memory, size_t bytes);

    /* Fills *device (malloc'd by the backend) or fails with a message. */
    kvf_status (*open)(const kvf_device_options *options, kvf_device **device, kvf_error *error);
    void (*close)(kvf_device *device);

    /*
     * Memory, 64-byte aligned, undefined at first. NULL: there is none. release may be called
     * while work that uses the memory is queued: that is done before it is given again.
     */
    void *(*alloc)(kvf_device *device, size_t bytes, kvf_place place);
    void (*release)(kvf_device *device, void *memory, size_t bytes);
    /*
     * Whether this lies in memory that alloc gave in KVF_PLACE_DEVICE. Any address may be asked
     * for. NULL where the backend addresses the host's memory: nobody asks there.
     */
    bool (*is_device_memory)(const kvf_device *device, const void *memory);

    /*
     * Queued, in order with the operations; `device` memory is of either place. What write
     * reads may be reused at once; what read writes may be looked at after wait. They lack no
     * memory: what they need is the device's from the start, where more cannot be had.
     */
    void (*zero)(kvf_device *device, void *to, size_t bytes);
    void (*write)(kvf_device *device, void *to, const void *from_host, size_t bytes);
    void (*read)(kvf_device *device, void *to_host, const void *from, size_t bytes);
    void (*copy)(kvf_device *device, void *to, const void *from, size_t bytes);
    /*
     * Until all that was queued is done. KVF_OK; or what ended the device, with its message:
     * nothing that is asked for is done then; or, once, KVF_OUT_OF_MEMORY of an operation: neither
     * it was done nor any operation after it. Bytes are moved in every case but the second.
     */
    kvf_status (*wait)(kvf_device *device, kvf_error *error);

    /* kvf_device_run by the threads of the device. NULL: on the caller's alone. */
    void (*run)(kvf_device *device, size_t n_items, size_t chunk_items, kvf_task *task,
                void *context);

    /* Dense layers. */
    void (*embed)(kvf_device *device, const kvf_embed_args *args);
    void (*matmul)(kvf_device *device, const kvf_matmul_args *args);
    void (*norm)(kvf_device *device, const kvf_norm_args *args);
    void (*rope)(kvf_device *device, const kvf_rope_args *args);
    void (*mix)(kvf_device *device, const kvf_mix_args *args);
    void (*unmix)(kvf_device *device, const kvf_unmix_args *args);
    void (*route)(kvf_device *device, const kvf_route_args *args);
    void (*experts)(kvf_device *device, const kvf_experts_args *args);
    void (*sample)(kvf_device *device, const kvf_sample_args *args);

    /*
     * The stages, of n sessions at once, at least one: args[i] and found[i] are one's, which of
     * several brings some rows, tokens or queries, and what is done for it does not depend on the
     * others, to the bit. Of all n the same are: widths, strides,
     * grids, ratios and formats; heads, top k, scale, sinks and the length of the window; weights
     * of the compressor; whether there is a list or which mask, and lse; the workspace, which is
     * large enough for each. No two write to the same memory.
     *
     * pack leaves rows that cannot be stored as they were; what it has to say is in `found`, not
     * in the fields of its arguments, and so for compress.
     */
    void (*check)(kvf_device *device, const kvf_check_args *args, const kvf_findings *found,
                  uint32_t n);
    void (*compress)(kvf_device *device, const kvf_compress_args *args, const kvf_findings *found,
                     uint32_t n);
    void (*pack)(kvf_device *device, const kvf_pack_args *args, const kvf_findings *found,
                 uint32_t n);
    void (*select)(kvf_device *device, const kvf_select_args *args, uint32_t n);
    void (*attend)(kvf_device *device, const kvf_attend_args *args, uint32_t n);
    /* Of one session: the masked profiles', and what is no stage. */
    void (*unpack)(kvf_device *device, const kvf_unpack_args *args);
    void (*score)(kvf_device *device, const kvf_score_args *args);
    void (*mask)(kvf_device *device, const kvf_mask_args *args);

    /*
     * Workspace that experts, select and attend ask of the caller. Those of select and attend are
     * asked without a device, by the plan: of the arguments they look at shapes, formats, and
     * which pointers are there.
     */
    size_t (*experts_workspace_bytes)(const kvf_device *device, const kvf_experts_args *args);
    size_t (*select_workspace_bytes)(uint32_t n_threads, const kvf_select_args *args);
    size_t (*attend_workspace_bytes)(uint32_t n_threads, const kvf_attend_args *args);
};

/* The i-th backend that was built in; NULL past the last. */
const kvf_backend *kvf_backend_get(uint32_t i);
/* By name, NULL: the first. KVF_UNSUPPORTED names those that there are. */
kvf_status kvf_backend_find(const char *name, const kvf_backend **backend, kvf_error *error);

/* Matrices stay in the files that they are mapped from. */
static inline bool kvf_backend_maps_weights(const kvf_backend *backend)
{
    return backend->takes_stored_weights && (backend->addresses_host_memory || backend->map);
}

/* Of the device's memory_bytes. */
static inline uint64_t kvf_device_used_bytes(const kvf_device *device)
{
    uint64_t used = device->mapped_bytes;
    for (int i = 0; i < KVF_MEMORY_CLASS_COUNT; i++)
        used += device->live_bytes[i];
    return used;
}

/* KVF_UNSUPPORTED names the first function that the backend lacks; `run` may be missing. */
kvf_status kvf_backend_check(const kvf_backend *backend, kvf_error *error);

/*
 * Host work that is not an operation: returns when the task has done items 0 .. n_items,
 * by the threads that the device has; each takes chunk_items (at least 1) at a time.
 */
void kvf_device_run(kvf_device *device, size_t n_items, size_t chunk_items, kvf_task *task,
                    void *context);

/*
 * Counted allocation on a device. NULL when the memory cannot be had, not even after
 * kvf_device_trim. Zero bytes give a valid pointer. Release with the same size and class.
 */
void *kvf_device_alloc(kvf_device *device, kvf_memory_class klass, kvf_place place, size_t bytes);
void kvf_device_release(kvf_device *device, kvf_memory_class klass, void *memory, size_t bytes);
/* Counts bytes that were given in one class in another from now on. */
void kvf_device_reclassify(kvf_device *device, kvf_memory_class from, kvf_memory_class to,
                           size_t bytes);

/*
 * A page out of a slab of pages of that size, undefined at first, 64-byte aligned, of the device;
 * counted in that class, and the rest of the slab in KVF_MEMORY_POOL. Where such pages are not put
 * into slabs it is an allocation of its own, and *slab NULL. NULL when there is no memory.
 */
void *kvf_device_take_page(kvf_device *device, kvf_memory_class klass, size_t bytes,
                           kvf_slab **slab);
/* With what take_page gave; the class may be another by now. Work that uses it may be queued. */
void kvf_device_give_page(kvf_device *device, kvf_memory_class klass, void *page, size_t bytes,
                          kvf_slab *slab);
/* Releases the slabs of which no page is held. */
void kvf_device_trim(kvf_device *device);

/*
 * Pages of that size in a slab; 0: they are not put into any. Fewer than eight to a slab are so
 * large that each is worth a call, and what they would leave over of slab_bytes up to an eighth.
 */
static inline uint32_t kvf_slab_pages(size_t slab_bytes, uint64_t page_bytes)
{
    const bool fits = page_bytes > 0 && page_bytes % 64 == 0 && page_bytes <= slab_bytes / 8;
    return fits ? (uint32_t)(slab_bytes / page_bytes) : 0;
}

/* ---- For backends whose memory the host addresses, and that do what is asked at once ------ */

void kvf_host_zero(kvf_device *device, void *to, size_t bytes);
void kvf_host_write(kvf_device *device, void *to, const void *from_host, size_t bytes);
void kvf_host_read(kvf_device *device, void *to_host, const void *from, size_t bytes);
void kvf_host_copy(kvf_device *device, void *to, const void *from, size_t bytes);
/*
 * Their slabs: eight pages of the largest rows (64 of 512 f32, 131,072 bytes). An allocator takes
 * what is larger than 128 KiB from the system and has it back, page by page of 4096, as it is used.
 */
#define KVF_HOST_SLAB_BYTES ((size_t)1 << 20)
/* For those that cannot be lost. */
kvf_status kvf_host_wait(kvf_device *device, kvf_error *error);
void kvf_host_sample(kvf_device *device, const kvf_sample_args *args);

/*
 * logits[vocab] with their changes to changed[vocab]; uses and biases of other ids are passed
 * over, and of a bias that comes twice both count. Thread-safe.
 */
void kvf_change_logits(const kvf_logit_changes *changes, const float *logits, uint32_t vocab,
                       float *changed);

#endif
