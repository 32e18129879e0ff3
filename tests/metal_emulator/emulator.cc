/*
 * A driver over the emulated machine. Dispatches are kept until the wait, so that a host
 * that looks at results before it waited sees none.
 */
#include "machine.h"

#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "emulator.h"

extern "C" {
#include "error.h"
}

constexpr uint32_t max_host_threads = 16;

struct kvf_gpu_library {
    const kvf_emulated_library *library;
};

struct kvf_gpu_pipeline {
    const kvf_emulated_library *library;
    const kvf_emulated_kernel *kernel;
};

struct queued {
    grid work;
    queued *next;
    char complaint[256]; /* of the dispatch itself: its shape, its arguments */
    alignas(16) unsigned char arguments[];
};

struct kvf_gpu {
    kvf_gpu_limits limits;
    queued *first;
    queued **last;
    machine *machines[max_host_threads];
};

struct faults {
    uint32_t open, compile, pipeline, buffer, wait;
};

static struct {
    kvf_emulator_counters counters;
    uint64_t working_set_bytes, buffer_bytes;
    uint32_t page_bytes, threadgroup_bytes, threadgroup_threads;
    faults fail;
    bool quiet;
    bool reverse;
    uint32_t host_threads;
    char violation[512];
    const char *isas[KVF_GPU_MAX_ISAS];
} state = {{},    16ull << 30, 8ull << 30, 0, max_threadgroup_bytes, max_threads, {}, false,
           false, 0,           "", {}};

/* Every kernel object has a pointer in this section; its ends are the linker's. */
extern "C" const kvf_emulated_library *const __start_kvf_emulated[] __attribute__((weak));
extern "C" const kvf_emulated_library *const __stop_kvf_emulated[] __attribute__((weak));

/* ---- What tests ask --------------------------------------------------------------- */

extern "C" void kvf_emulator_reset(void)
{
    kvf_emulator_counters *c = &state.counters;
    *c = {0, 0, 0, 0, 0, 0, c->live_buffers, c->live_bytes, c->live_bytes, c->mapped_bytes,
          c->live_objects};
    state.working_set_bytes = 16ull << 30;
    state.buffer_bytes = 8ull << 30;
    state.page_bytes = 0;
    state.threadgroup_bytes = max_threadgroup_bytes;
    state.threadgroup_threads = max_threads;
    state.fail = {};
    state.quiet = state.reverse = false;
    state.host_threads = 0;
    state.violation[0] = '\0';
    touches_reset();
    kvf_emulator_set_isas(nullptr, 0);
}
extern "C" void kvf_emulator_set_working_set_bytes(uint64_t bytes)
{
    state.working_set_bytes = bytes;
}
extern "C" void kvf_emulator_set_buffer_bytes(uint64_t bytes)
{
    state.buffer_bytes = bytes;
}
extern "C" void kvf_emulator_set_page_bytes(uint32_t bytes)
{
    state.page_bytes = bytes;
}
extern "C" void kvf_emulator_set_threadgroup_bytes(uint32_t bytes)
{
    state.threadgroup_bytes = bytes < max_threadgroup_bytes ? bytes : max_threadgroup_bytes;
}
extern "C" void kvf_emulator_set_threadgroup_threads(uint32_t threads)
{
    state.threadgroup_threads = threads < max_threads ? threads : max_threads;
}
extern "C" void kvf_emulator_set_isas(const char *const *isas, uint32_t n)
{
    for (uint32_t i = 0; i < KVF_GPU_MAX_ISAS; i++)
        state.isas[i] = i < n ? isas[i] : nullptr;
}
extern "C" void kvf_emulator_fail_open(uint32_t n)
{
    state.fail.open = n;
}
extern "C" void kvf_emulator_fail_compile(uint32_t n)
{
    state.fail.compile = n;
}
extern "C" void kvf_emulator_fail_pipeline(uint32_t n)
{
    state.fail.pipeline = n;
}
extern "C" void kvf_emulator_fail_buffer(uint32_t n)
{
    state.fail.buffer = n;
}
extern "C" void kvf_emulator_fail_wait(uint32_t n)
{
    state.fail.wait = n;
}
extern "C" const kvf_emulator_counters *kvf_emulator_get_counters(void)
{
    state.counters.host_touches = touches_count();
    return &state.counters;
}
extern "C" const char *kvf_emulator_last_violation(void)
{
    return state.violation;
}
extern "C" void kvf_emulator_watch_host(bool on)
{
    touches_watch(on);
}
extern "C" const char *kvf_emulator_last_touch(void)
{
    return touches_last();
}
extern "C" void kvf_emulator_set_quiet(bool quiet)
{
    state.quiet = quiet;
}
extern "C" void kvf_emulator_set_host_threads(uint32_t n)
{
    state.host_threads = n;
}
extern "C" void kvf_emulator_set_reverse(bool reverse)
{
    state.reverse = reverse;
}

/* True when this is the call that was to fail. */
static bool comes_due(uint32_t *countdown)
{
    return *countdown > 0 && --*countdown == 0;
}

/* ---- driver.h: the GPU, libraries, pipelines, buffers --------------------------------- */

static kvf_status  emulated_open(kvf_gpu **gpu, kvf_error *error)
{
    *gpu = nullptr;
    if (comes_due(&state.fail.open))
        return kvf_fail(error, KVF_UNSUPPORTED,
                    "the GPU \"Emulated GPU\" is not of the Apple7 family; the kernels need "
                    "simdgroup matrices");
    if (!memory_open())
        return kvf_fail(error, KVF_OUT_OF_MEMORY, "no address space for the emulated GPU's memory");
    kvf_gpu *g = static_cast<kvf_gpu *>(calloc(1, sizeof(kvf_gpu)));
    if (!g)
        return kvf_fail(error, KVF_OUT_OF_MEMORY, "no memory for the emulated GPU");
    snprintf(g->limits.name, sizeof(g->limits.name), "Emulated GPU");
    g->limits.working_set_bytes = state.working_set_bytes;
    g->limits.buffer_bytes = state.buffer_bytes;
    g->limits.page_bytes = state.page_bytes;
    g->limits.map_bytes = (uint32_t)sysconf(_SC_PAGESIZE);
    g->limits.threadgroup_bytes = state.threadgroup_bytes;
    g->limits.threadgroup_threads = state.threadgroup_threads;
    memcpy(g->limits.isas, state.isas, sizeof(state.isas));
    g->last = &g->first;
    state.counters.live_objects++;
    *gpu = g;
    return kvf_ok(error);
}

static void drop_queue(kvf_gpu *gpu)
{
    while (gpu->first) {
        queued *next = gpu->first->next;
        free(gpu->first);
        gpu->first = next;
    }
    gpu->last = &gpu->first;
}

static void  emulated_close(kvf_gpu *gpu)
{
    if (!gpu)
        return;
    drop_queue(gpu);
    for (machine *m : gpu->machines)
        machine_free(m);
    free(gpu);
    state.counters.live_objects--;
}

static const kvf_gpu_limits *emulated_limits(const kvf_gpu *gpu)
{
    return &gpu->limits;
}

static kvf_status  emulated_compile(kvf_gpu *, const char *name, const char *source,
                                      kvf_gpu_library **library, kvf_error *error)
{
    *library = nullptr;
    state.counters.compiles++;
    if (comes_due(&state.fail.compile))
        return kvf_fail(error, KVF_UNSUPPORTED, "%s:12:5: error: use of undeclared identifier 'tile'",
                    name);
    if (!source || source[0] == '\0')
        return kvf_fail(error, KVF_UNSUPPORTED, "%s: the source is empty", name);
    for (const kvf_emulated_library *const *l = __start_kvf_emulated; l != __stop_kvf_emulated;
         l++) {
        if (strcmp((*l)->name, name) != 0)
            continue;
        *library = static_cast<kvf_gpu_library *>(calloc(1, sizeof(kvf_gpu_library)));
        if (!*library)
            return kvf_fail(error, KVF_OUT_OF_MEMORY, "no memory for library %s", name);
        (*library)->library = *l;
        state.counters.live_objects++;
        return kvf_ok(error);
    }
    return kvf_fail(error, KVF_UNSUPPORTED, "%s was not linked into the emulator", name);
}

static void  emulated_release_library(kvf_gpu *, kvf_gpu_library *library)
{
    state.counters.live_objects -= library != nullptr;
    free(library);
}

static kvf_status  emulated_make_pipeline(kvf_gpu *, kvf_gpu_library *library, const char *kernel,
                                            kvf_gpu_pipeline **pipeline, kvf_error *error)
{
    *pipeline = nullptr;
    const kvf_emulated_library *l = library->library;
    const bool missing = comes_due(&state.fail.pipeline);
    for (unsigned i = 0; i < l->n_kernels && !missing; i++) {
        if (strcmp(l->kernels[i].name, kernel) != 0)
            continue;
        *pipeline = static_cast<kvf_gpu_pipeline *>(calloc(1, sizeof(kvf_gpu_pipeline)));
        if (!*pipeline)
            return kvf_fail(error, KVF_OUT_OF_MEMORY, "no memory for kernel %s", kernel);
        (*pipeline)->library = l;
        (*pipeline)->kernel = &l->kernels[i];
        state.counters.live_objects++;
        return kvf_ok(error);
    }
    return kvf_fail(error, KVF_UNSUPPORTED, "%s has no kernel %s", l->name, kernel);
}

static void  emulated_release_pipeline(kvf_gpu *, kvf_gpu_pipeline *pipeline)
{
    state.counters.live_objects -= pipeline != nullptr;
    free(pipeline);
}

static bool  emulated_make_buffer(kvf_gpu *gpu, size_t bytes, bool shared,
                                 kvf_gpu_buffer *buffer)
{
    *buffer = {};
    if (comes_due(&state.fail.buffer) || bytes == 0 || bytes > gpu->limits.buffer_bytes)
        return false;
    allocation *a = memory_allocate(bytes);
    if (!a)
        return false;
    buffer->handle = a;
    /* The host can reach all of it here; a backend is to know of what is shared alone. */
    buffer->contents = shared ? memory().host + a->offset : nullptr;
    buffer->gpu_address = reinterpret_cast<uintptr_t>(memory().gpu + a->offset);
    buffer->bytes = bytes;
    /* What nobody wrote should not look like zeros; large ones stay untouched pages. */
    if (bytes <= (16u << 20))
        memset(memory().host + a->offset, 0xff, bytes);
    if (shared)
        touches_add_buffer(a);
    kvf_emulator_counters *c = &state.counters;
    c->live_buffers++;
    c->live_bytes += bytes;
    if (c->live_bytes > c->peak_bytes)
        c->peak_bytes = c->live_bytes;
    return true;
}

/* Refuses what Apple's does: parts of pages, what is not of one mapping, or a private one. */
static bool  emulated_map_buffer(kvf_gpu *gpu, const void *pages, size_t bytes,
                                kvf_gpu_buffer *buffer)
{
    *buffer = {};
    if (comes_due(&state.fail.buffer) || bytes == 0 || bytes > gpu->limits.buffer_bytes ||
        bytes % gpu->limits.map_bytes != 0 ||
        reinterpret_cast<uintptr_t>(pages) % gpu->limits.map_bytes != 0)
        return false;
    allocation *a = memory_map(pages, bytes);
    if (!a)
        return false;
    buffer->handle = a;
    buffer->gpu_address = reinterpret_cast<uintptr_t>(memory().gpu + a->offset);
    buffer->bytes = bytes;
    a->of_host = true;
    state.counters.live_buffers++;
    state.counters.mapped_bytes += bytes;
    return true;
}

static void  emulated_release_buffer(kvf_gpu *, kvf_gpu_buffer *buffer)
{
    if (!buffer->handle)
        return;
    const bool of_host = static_cast<allocation *>(buffer->handle)->of_host;
    state.counters.live_buffers--;
    (of_host ? state.counters.mapped_bytes : state.counters.live_bytes) -= buffer->bytes;
    touches_remove_buffer(static_cast<allocation *>(buffer->handle));
    memory_release(static_cast<allocation *>(buffer->handle));
    *buffer = {};
}

/* ---- Dispatches ------------------------------------------------------------------------ */

#define COMPLAIN(...)                                                                              \
    do {                                                                                           \
        snprintf(text, text_bytes, __VA_ARGS__);                                                   \
        return;                                                                                    \
    } while (0)

/* However many registers a kernel needs, Apple's GPUs can have so many of its threads. */
static const uint32_t sure_threads = 256;
static const uint32_t most_groups = 65535;

static void check_dispatch(const kvf_gpu *gpu, const kvf_gpu_dispatch *d, char *text,
                           size_t text_bytes)
{
    const kvf_emulated_kernel *k = d->pipeline->kernel;
    uint64_t threads = 1, threadgroup_bytes = 0;
    for (int i = 0; i < 3; i++) {
        threads *= d->threads[i];
        if (d->threads[i] > max_threads)
            COMPLAIN("%u threads in a threadgroup", d->threads[i]);
    }
    if (threads == 0 || threads > gpu->limits.threadgroup_threads)
        COMPLAIN("%lu threads in a threadgroup, 1 to %u can be", (unsigned long)threads,
                 gpu->limits.threadgroup_threads);
    if (threads > (k->max_threads ? k->max_threads : sure_threads))
        COMPLAIN("%lu threads in a threadgroup, more than its "
                 "[[max_total_threads_per_threadgroup]], without which %u are sure",
                 (unsigned long)threads, sure_threads);
    if ((uint64_t)d->groups[0] * d->groups[1] * d->groups[2] == 0 ||
        (uint64_t)d->groups[0] * d->groups[1] > UINT32_MAX ||
        (uint64_t)d->groups[0] * d->groups[1] * d->groups[2] > UINT32_MAX)
        COMPLAIN("a grid of (%u, %u, %u) threadgroups", d->groups[0], d->groups[1], d->groups[2]);
    if (d->groups[1] > most_groups || d->groups[2] > most_groups)
        COMPLAIN("a grid of (%u, %u, %u) threadgroups; CUDA has at most %u in the last two",
                 d->groups[0], d->groups[1], d->groups[2], most_groups);
    if (d->argument_bytes != k->argument_bytes || d->argument_bytes > KVF_GPU_MAX_ARGUMENT_BYTES)
        COMPLAIN("%zu bytes of arguments, the kernel's have %u", d->argument_bytes,
                 k->argument_bytes);
    if (d->n_threadgroup_arrays != k->n_threadgroup_arrays)
        COMPLAIN("%u threadgroup arrays given, the kernel has %u", d->n_threadgroup_arrays,
                 k->n_threadgroup_arrays);
    for (uint32_t i = 0; i < d->n_threadgroup_arrays; i++) {
        if (d->threadgroup_bytes[i] == 0 || d->threadgroup_bytes[i] % 16 != 0)
            COMPLAIN("threadgroup(%u): %u bytes, not a multiple of 16", i, d->threadgroup_bytes[i]);
        threadgroup_bytes += d->threadgroup_bytes[i];
    }
    if (threadgroup_bytes > gpu->limits.threadgroup_bytes)
        COMPLAIN("%lu bytes of threadgroup memory, at most %u can be",
                 (unsigned long)threadgroup_bytes, gpu->limits.threadgroup_bytes);
}

static void  emulated_run(kvf_gpu *gpu, const kvf_gpu_dispatch *d)
{
    queued *q = static_cast<queued *>(calloc(1, sizeof(queued) + d->argument_bytes));
    if (!q)
        abort();
    grid *work = &q->work;
    work->library = d->pipeline->library;
    work->kernel = d->pipeline->kernel;
    char text[160] = "";
    check_dispatch(gpu, d, text, sizeof(text));
    if (text[0])
        snprintf(q->complaint, sizeof(q->complaint), "kernel %s of %s, the dispatch: %s",
                 work->kernel->name, work->library->name, text);
    memcpy(work->groups, d->groups, sizeof(work->groups));
    memcpy(work->threads, d->threads, sizeof(work->threads));
    memcpy(q->arguments, d->arguments, d->argument_bytes);
    work->arguments = q->arguments;
    work->argument_bytes = (uint32_t)d->argument_bytes;
    work->n_threadgroup_arrays = d->n_threadgroup_arrays;
    memcpy(work->threadgroup_bytes, d->threadgroup_bytes, sizeof(work->threadgroup_bytes));
    *gpu->last = q;
    gpu->last = &q->next;
    touches_queue();
}

/* One dispatch, for the host threads that run it. */
struct team {
    const grid *work;
    uint32_t n_groups;
    uint32_t next; /* atomic */
    const char *failed;
};

struct member {
    team *shared;
    machine *m;
};

static void *run_groups(void *argument)
{
    member *self = static_cast<member *>(argument);
    team *t = self->shared;
    /* A fault can be that of a full stack: its handler has its own. */
    stack_t old_stack;
    stack_t signal_stack = {};
    signal_stack.ss_sp = self->m->signal_stack;
    signal_stack.ss_size = sizeof(self->m->signal_stack);
    sigaltstack(&signal_stack, &old_stack);
    while (!__atomic_load_n(&t->failed, __ATOMIC_RELAXED)) {
        const uint32_t i = __atomic_fetch_add(&t->next, 1, __ATOMIC_RELAXED);
        if (i >= t->n_groups)
            break;
        if (!machine_run_group(self->m, t->work, state.reverse ? t->n_groups - 1 - i : i)) {
            const char *none = nullptr;
            __atomic_compare_exchange_n(&t->failed, &none, (const char *)self->m->message, false,
                                        __ATOMIC_RELAXED, __ATOMIC_RELAXED);
        }
    }
    sigaltstack(&old_stack, nullptr);
    return nullptr;
}

static uint32_t host_threads(const grid *work, uint32_t n_groups)
{
    long n = state.host_threads ? (long)state.host_threads : sysconf(_SC_NPROCESSORS_ONLN);
    if (work->library->checked || n < 1)
        n = 1;
    if (n > (long)max_host_threads)
        n = max_host_threads;
    return n > (long)n_groups ? n_groups : (uint32_t)n;
}

static const char *run_grid(kvf_gpu *gpu, const grid *work)
{
    team t = {work, work->groups[0] * work->groups[1] * work->groups[2], 0, nullptr};
    const uint32_t n = host_threads(work, t.n_groups);
    member members[max_host_threads];
    pthread_t threads[max_host_threads];
    uint32_t started = 1;
    for (uint32_t i = 0; i < n; i++) {
        if (!gpu->machines[i])
            gpu->machines[i] = machine_make();
        members[i] = {&t, gpu->machines[i]};
    }
    if (!members[0].m)
        return "no memory for the emulated machine";
    if (work->library->checked)
        checks_begin_grid();
    while (started < n && members[started].m &&
           pthread_create(&threads[started], nullptr, run_groups, &members[started]) == 0)
        started++;
    run_groups(&members[0]);
    for (uint32_t i = 1; i < started; i++)
        pthread_join(threads[i], nullptr);
    if (!t.failed) {
        state.counters.dispatches++;
        state.counters.threadgroups += t.n_groups;
    }
    return t.failed;
}

/* Guard pages: what a kernel that is not checked did, or a stack that is full. */
static struct sigaction old_segv, old_bus;
static void on_fault(int number, siginfo_t *info, void *context)
{
    machine *m = machine_current();
    if (!m || !m->running) {
        sigaction(number, number == SIGSEGV ? &old_segv : &old_bus, nullptr);
        return;
    }
    (void)context;
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, number);
    pthread_sigmask(SIG_UNBLOCK, &set, nullptr);
    char where[160];
    checks_describe(reinterpret_cast<uintptr_t>(info->si_addr), where, sizeof(where));
    machine_fail("out of bounds: %s", where);
}

static const char *run_queue(kvf_gpu *gpu)
{
    uint32_t number = 0;
    for (queued *q = gpu->first; q; q = q->next) {
        touches_run(++number);
        const char *complaint = q->complaint[0] ? q->complaint : run_grid(gpu, &q->work);
        if (complaint)
            return complaint;
    }
    return nullptr;
}

static kvf_status  emulated_wait(kvf_gpu *gpu, kvf_error *error)
{
    state.counters.waits++;
    touches_begin_wait();
    if (comes_due(&state.fail.wait)) {
        touches_end_wait();
        drop_queue(gpu);
        return kvf_fail(error, KVF_DEVICE_LOST, "the GPU stopped: caused GPU hang error (injected)");
    }
    struct sigaction action = {};
    action.sa_sigaction = on_fault;
    action.sa_flags = SA_SIGINFO | SA_ONSTACK;
    sigaction(SIGSEGV, &action, &old_segv);
    sigaction(SIGBUS, &action, &old_bus);
    const char *complaint = run_queue(gpu);
    touches_end_wait();
    sigaction(SIGSEGV, &old_segv, nullptr);
    sigaction(SIGBUS, &old_bus, nullptr);
    if (!complaint) {
        drop_queue(gpu);
        return kvf_ok(error);
    }
    state.counters.violations++;
    snprintf(state.violation, sizeof(state.violation), "%s", complaint);
    drop_queue(gpu);
    if (!state.quiet)
        fprintf(stderr, "metal emulator: %s\n", state.violation);
    return kvf_fail(error, KVF_DEVICE_LOST, "%s", state.violation);
}

extern "C" {
extern const kvf_gpu_driver kvf_gpu_driver_emulated;
const kvf_gpu_driver kvf_gpu_driver_emulated = {nullptr,
                                                emulated_open,
                                                emulated_close,
                                                emulated_limits,
                                                emulated_compile,
                                                emulated_release_library,
                                                emulated_make_pipeline,
                                                emulated_release_pipeline,
                                                emulated_make_buffer,
                                                emulated_release_buffer,
                                                emulated_run,
                                                emulated_wait,
                                                emulated_map_buffer};
}
