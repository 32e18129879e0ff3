#include "far/far.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "backend/cpu/kernels.h"
#include "backend/ref/ref.h"
#include "error.h"
#include "shared/fp_environment.h"

#define ALIGNMENT_BYTES 64
#define FRESH 0xFF   /* NaN as floats, out of range as indices */
#define RUBBISH 0xA5 /* what a read has not yet replaced */

/* ---- Operations ---------------------------------------------------------------------- */

#define PLAIN_OPERATIONS(X)                                                                        \
    X(embed)                                                                                       \
    X(matmul)                                                                                      \
    X(norm)                                                                                        \
    X(rope) X(mix) X(unmix) X(route) X(experts) X(sample) X(unpack) X(mask)
/* Of several sessions at once. */
#define STAGE_OPERATIONS(X) X(select) X(attend)
#define FINDING_OPERATIONS(X) X(check) X(compress) X(pack)

typedef enum command_id {
#define X(name) RUN_##name,
    PLAIN_OPERATIONS(X) STAGE_OPERATIONS(X) FINDING_OPERATIONS(X)
#undef X
        RUN_score,
    RUN_zero,
    RUN_copy, /* write and read as well */
    RUN_release
} command_id;

typedef struct command {
    command_id id;
    void *to;
    const void *from;
    void *own;           /* malloc'd source of a write, or arguments of the sessions of a stage */
    kvf_findings *found; /* malloc'd */
    uint32_t n;          /* sessions */
    size_t bytes;
    kvf_select_args selected; /* what score points to */
    union {
#define X(name) kvf_##name##_args name;
        PLAIN_OPERATIONS(X)
#undef X
        kvf_score_args score;
    } args;
} command;

/* Device memory: whole pages, and one behind them that stays closed. */
typedef struct region {
    uint8_t *start;
    size_t bytes; /* of the pages that open */
    void *memory; /* what was given: it ends where they do, or less than 64 bytes before */
    bool open;
} region;

typedef struct far_device {
    kvf_device base;   /* first: the table's functions get its address */
    kvf_device *inner; /* whose operations they are */
    region *regions;
    size_t n_regions;
    command *queue;
    size_t n_queued;
    size_t queue_capacity;
    uint32_t waits_to_loss;
    uint64_t lost_work; /* its number, from 1; 0: none */
    uint64_t n_works;   /* queued since the device was opened */
    uint64_t n_done;    /* of these, done or given up */
    uint32_t allocations_to_failure;
    uint64_t n_given; /* allocations that were not released */
    uint32_t operations_to_lack;
    uint64_t n_waits;
    bool exposed;
    bool lacks; /* operations are not done until a wait has said so */
    bool lost;
} far_device;

static far_device *far_of(kvf_device *device)
{
    return (far_device *)device;
}

/* A test that runs out of memory, or a call that is wrong, ends the process. */
static void require(bool condition)
{
    if (!condition)
        abort();
}

/* ---- The queue ------------------------------------------------------------------------- */

static command *queue(kvf_device *device, command_id id)
{
    far_device *far = far_of(device);
    if (far->n_queued == far->queue_capacity) {
        far->queue_capacity = far->queue_capacity ? 2 * far->queue_capacity : 256;
        far->queue = realloc(far->queue, far->queue_capacity * sizeof *far->queue);
        require(far->queue != NULL);
    }
    command *queued = &far->queue[far->n_queued++];
    far->n_works++;
    memset(queued, 0, sizeof *queued);
    queued->id = id;
    return queued;
}

#define X(name)                                                                                    \
    static void far_##name(kvf_device *device, const kvf_##name##_args *args)                      \
    {                                                                                              \
        queue(device, RUN_##name)->args.name = *args;                                              \
    }
PLAIN_OPERATIONS(X)
#undef X

static void *copy_of(const void *from, size_t bytes)
{
    void *copy = malloc(bytes + 1);
    require(copy != NULL);
    memcpy(copy, from, bytes);
    return copy;
}

static command *queue_stage(kvf_device *device, command_id id, const void *args, size_t args_bytes,
                            uint32_t n)
{
    command *queued = queue(device, id);
    queued->own = copy_of(args, n * args_bytes);
    queued->n = n;
    return queued;
}

#define X(name)                                                                                    \
    static void far_##name(kvf_device *device, const kvf_##name##_args *args, uint32_t n)          \
    {                                                                                              \
        queue_stage(device, RUN_##name, args, sizeof *args, n);                                    \
    }
STAGE_OPERATIONS(X)
#undef X
#define X(name)                                                                                    \
    static void far_##name(kvf_device *device, const kvf_##name##_args *args,                      \
                           const kvf_findings *found, uint32_t n)                                  \
    {                                                                                              \
        queue_stage(device, RUN_##name, args, sizeof *args, n)->found =                            \
            copy_of(found, n * sizeof *found);                                                     \
    }
FINDING_OPERATIONS(X)
#undef X

static void far_score(kvf_device *device, const kvf_score_args *args)
{
    command *queued = queue(device, RUN_score);
    queued->args.score = *args;
    queued->selected = *args->select;
}

static void far_zero(kvf_device *device, void *to, size_t bytes)
{
    command *queued = queue(device, RUN_zero);
    queued->to = to;
    queued->bytes = bytes;
}

static void far_write(kvf_device *device, void *to, const void *from_host, size_t bytes)
{
    command *queued = queue(device, RUN_copy);
    queued->own = copy_of(from_host, bytes);
    queued->to = to;
    queued->from = queued->own;
    queued->bytes = bytes;
}

static void far_read(kvf_device *device, void *to_host, const void *from, size_t bytes)
{
    command *queued = queue(device, RUN_copy);
    memset(to_host, RUBBISH, bytes);
    queued->to = to_host;
    queued->from = from;
    queued->bytes = bytes;
}

static void far_copy(kvf_device *device, void *to, const void *from, size_t bytes)
{
    command *queued = queue(device, RUN_copy);
    queued->to = to;
    queued->from = from;
    queued->bytes = bytes;
}

static void far_release(kvf_device *device, void *memory, size_t bytes)
{
    command *queued = queue(device, RUN_release);
    queued->to = memory;
    queued->bytes = bytes;
    far_of(device)->n_given--;
}

/* ---- Memory ---------------------------------------------------------------------------- */

static size_t page_bytes(void)
{
    return (size_t)sysconf(_SC_PAGESIZE);
}

static void *alloc_device(far_device *far, size_t bytes)
{
    const size_t page = page_bytes();
    const size_t rounded = (bytes + ALIGNMENT_BYTES - 1) / ALIGNMENT_BYTES * ALIGNMENT_BYTES;
    const size_t open_bytes = (rounded + page - 1) / page * page;
    uint8_t *start =
        mmap(NULL, open_bytes + page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (start == MAP_FAILED)
        return NULL;
    memset(start, FRESH, open_bytes);
    require(mprotect(start + open_bytes, page, PROT_NONE) == 0);
    if (!far->exposed)
        require(mprotect(start, open_bytes, PROT_NONE) == 0);
    far->regions = realloc(far->regions, (far->n_regions + 1) * sizeof *far->regions);
    require(far->regions != NULL);
    region *added = &far->regions[far->n_regions++];
    *added = (region){start, open_bytes, start + open_bytes - rounded, far->exposed};
    return added->memory;
}

static void *far_alloc(kvf_device *device, size_t bytes, kvf_place place)
{
    far_device *far = far_of(device);
    void *memory = NULL;
    bytes = bytes ? bytes : 1;
    if (far->allocations_to_failure && --far->allocations_to_failure == 0)
        return NULL;
    if (place == KVF_PLACE_DEVICE)
        memory = alloc_device(far, bytes);
    else if (posix_memalign(&memory, ALIGNMENT_BYTES, bytes) != 0)
        memory = NULL;
    far->n_given += memory != NULL;
    return memory;
}

static void run_release(far_device *far, void *memory)
{
    for (size_t i = 0; i < far->n_regions; i++)
        if (far->regions[i].memory == memory) {
            munmap(far->regions[i].start, far->regions[i].bytes + page_bytes());
            far->regions[i] = far->regions[--far->n_regions];
            return;
        }
    free(memory); /* staging */
}

static bool far_is_device_memory(const kvf_device *device, const void *memory)
{
    const far_device *far = (const far_device *)device;
    for (size_t i = 0; i < far->n_regions; i++)
        if ((uintptr_t)memory - (uintptr_t)far->regions[i].start < far->regions[i].bytes)
            return true;
    return false;
}

static void set_open(region *one, bool open)
{
    const int protection = open ? PROT_READ | PROT_WRITE : PROT_NONE;
    if (one->open != open)
        require(mprotect(one->start, one->bytes, protection) == 0);
    one->open = open;
}

static void set_all_open(far_device *far, bool open)
{
    for (size_t i = 0; i < far->n_regions; i++)
        set_open(&far->regions[i], open);
}

static void open_at(far_device *far, const void *pointer)
{
    for (size_t i = 0; i < far->n_regions; i++) {
        const uintptr_t offset = (uintptr_t)pointer - (uintptr_t)far->regions[i].start;
        if (offset < far->regions[i].bytes)
            set_open(&far->regions[i], true);
    }
}

/* What the queue touches: all, but for copies alone, whose places are known. */
static void open_needed(far_device *far)
{
    for (size_t i = 0; i < far->n_queued; i++)
        if (far->queue[i].id < RUN_zero) {
            set_all_open(far, true);
            return;
        }
    for (size_t i = 0; i < far->n_queued; i++) {
        open_at(far, far->queue[i].to);
        open_at(far, far->queue[i].from);
    }
}

/* ---- wait ------------------------------------------------------------------------------- */

static void run_operation(kvf_device *inner, command *c)
{
    switch (c->id) {
#define X(name)                                                                                    \
    case RUN_##name: inner->backend->name(inner, &c->args.name); break;
        PLAIN_OPERATIONS(X)
#undef X
#define X(name)                                                                                    \
    case RUN_##name: inner->backend->name(inner, c->own, c->n); break;
        STAGE_OPERATIONS(X)
#undef X
#define X(name)                                                                                    \
    case RUN_##name: inner->backend->name(inner, c->own, c->found, c->n); break;
        FINDING_OPERATIONS(X)
#undef X
    case RUN_score:
        c->args.score.select = &c->selected;
        inner->backend->score(inner, &c->args.score);
        break;
    case RUN_zero: memset(c->to, 0, c->bytes); break;
    case RUN_copy: memcpy(c->to, c->from, c->bytes); break;
    case RUN_release: break;
    }
}

/* Whether the operation is done: it has the memory that it needs, as all before it had. */
static bool has_memory(far_device *far, const command *c)
{
    const bool is_operation = c->id < RUN_zero;
    if (is_operation && far->operations_to_lack && --far->operations_to_lack == 0)
        far->lacks = true;
    return !is_operation || !far->lacks;
}

/* Does the first n commands; memory is released in every case. */
static void run_queue(far_device *far, size_t n)
{
    KVF_FP_DOOR();
    open_needed(far);
    for (size_t i = 0; i < far->n_queued; i++) {
        command *c = &far->queue[i];
        if (i < n && has_memory(far, c))
            run_operation(far->inner, c);
        if (c->id == RUN_release)
            run_release(far, c->to);
        free(c->own);
        free(c->found);
    }
    far->n_done += far->n_queued;
    far->n_queued = 0;
    if (!far->exposed)
        set_all_open(far, false);
}

static kvf_status far_wait(kvf_device *device, kvf_error *error)
{
    far_device *far = far_of(device);
    far->n_waits++;
    const char *when = getenv("KVF_FAR_LOST_WHEN");
    if (!far->lost && when && access(when, F_OK) == 0)
        far->waits_to_loss = 1;
    if (!far->lost && far->waits_to_loss && --far->waits_to_loss == 0) {
        run_queue(far, far->n_queued / 2);
        far->lost = true;
    }
    if (!far->lost && far->lost_work && far->lost_work <= far->n_works) {
        run_queue(far, far->lost_work - 1 - far->n_done);
        far->lost = true;
    }
    run_queue(far, far->lost ? 0 : far->n_queued);
    if (far->lost)
        return kvf_fail(error, KVF_DEVICE_LOST, "far: the device was lost (injected)");
    if (!far->lacks)
        return kvf_ok(error);
    far->lacks = false;
    device->n_shortages++;
    return kvf_fail(error, KVF_OUT_OF_MEMORY, "far: no memory for an operation (injected)");
}

/* ---- The device ---------------------------------------------------------------------------- */

static kvf_status far_open(const kvf_device_options *options, kvf_device **device, kvf_error *error)
{
    const kvf_backend *const inner[] = {&kvf_backend_ref, &kvf_backend_cpu};
    const char *isa = options->isa ? options->isa : inner[0]->name;
    const bool is_cpu = strcmp(isa, inner[1]->name) == 0;
    if (!is_cpu && strcmp(isa, inner[0]->name) != 0)
        return kvf_fail(error, KVF_UNSUPPORTED, "backend far has no ISA \"%s\", but ref and cpu",
                        isa);
    far_device *far = calloc(1, sizeof *far);
    if (!far)
        return kvf_fail(error, KVF_OUT_OF_MEMORY, "no memory for a device");
    const kvf_device_options alone = {.n_threads = 1};
    const kvf_status status = inner[is_cpu]->open(&alone, &far->inner, error);
    if (status != KVF_OK) {
        free(far);
        return status;
    }
    far->base.backend = &kvf_backend_far;
    far->base.isa = inner[is_cpu]->name;
    far->base.n_threads = 1;
    *device = &far->base;
    return kvf_ok(error);
}

static void far_close(kvf_device *device)
{
    far_device *far = far_of(device);
    run_queue(far, 0);
    while (far->n_regions > 0)
        run_release(far, far->regions[0].memory);
    far->inner->backend->close(far->inner);
    free(far->regions);
    free(far->queue);
    free(far);
}

/* The plan asks without a device: enough for either. */
static size_t experts_workspace_bytes(const kvf_device *device, const kvf_experts_args *args)
{
    const size_t ref = kvf_ref_experts_workspace_bytes(NULL, args);
    const size_t cpu = kvf_cpu_experts_workspace(NULL, args);
    (void)device;
    return ref > cpu ? ref : cpu;
}

static size_t select_workspace_bytes(uint32_t n_threads, const kvf_select_args *args)
{
    const size_t ref = kvf_ref_select_workspace_bytes(n_threads, args);
    const size_t cpu = kvf_cpu_select_workspace(n_threads, args);
    return ref > cpu ? ref : cpu;
}

static size_t attend_workspace_bytes(uint32_t n_threads, const kvf_attend_args *args)
{
    const size_t ref = kvf_ref_attend_workspace_bytes(n_threads, args);
    const size_t cpu = kvf_cpu_attend_workspace(n_threads, args);
    return ref > cpu ? ref : cpu;
}

void far_lose(kvf_device *device, uint32_t nth_wait)
{
    far_of(device)->waits_to_loss = nth_wait;
}

void far_lose_at(kvf_device *device, uint64_t nth_work)
{
    far_device *far = far_of(device);
    far->lost_work = nth_work ? far->n_works + nth_work : 0;
}

uint64_t far_works(const kvf_device *device)
{
    return ((const far_device *)device)->n_works;
}

void far_fail_alloc(kvf_device *device, uint32_t nth)
{
    far_of(device)->allocations_to_failure = nth;
}

void far_lack_at(kvf_device *device, uint32_t nth_operation)
{
    far_of(device)->operations_to_lack = nth_operation;
}

uint64_t far_given(const kvf_device *device)
{
    return ((const far_device *)device)->n_given;
}

uint64_t far_waits(const kvf_device *device)
{
    return ((const far_device *)device)->n_waits;
}

void far_expose(kvf_device *device)
{
    set_all_open(far_of(device), true);
    far_of(device)->exposed = true;
}

const kvf_backend kvf_backend_far = {
    .name = "far",
    /* Of small pages alone: those of rows keep a closed page of the system's behind each. */
    .slab_bytes = 64 << 10,
    .open = far_open,
    .close = far_close,
    .alloc = far_alloc,
    .release = far_release,
    .zero = far_zero,
    .write = far_write,
    .read = far_read,
    .copy = far_copy,
    .is_device_memory = far_is_device_memory,
    .wait = far_wait,
#define X(name) .name = far_##name,
    PLAIN_OPERATIONS(X) STAGE_OPERATIONS(X) FINDING_OPERATIONS(X)
#undef X
        .score = far_score,
    .experts_workspace_bytes = experts_workspace_bytes,
    .select_workspace_bytes = select_workspace_bytes,
    .attend_workspace_bytes = attend_workspace_bytes,
};
