/*
 * Fibers, and when they wait. A fiber runs until it waits in a simd operation or in a
 * barrier, or ends; then the next one of its simdgroup runs, then the next simdgroup. The
 * one that comes last lets all go on. Whatever could keep the others waiting for ever is
 * an error the moment it happens, so there is no deadlock to look for.
 */
#include "machine.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#if !defined(__x86_64__)
#include <ucontext.h>
#endif

static thread_local machine *this_machine;

machine *machine_current()
{
    return this_machine;
}

/* ---- Switching ------------------------------------------------------------------ */

static void run_thread();

#if defined(__x86_64__)

/* Saves what a call must keep, and the stack pointer; then takes another's. */
__asm__(".text\n"
        ".type kvf_emulated_switch,@function\n"
        "kvf_emulated_switch:\n"
        "  pushq %rbp\n  pushq %rbx\n  pushq %r12\n  pushq %r13\n  pushq %r14\n  pushq %r15\n"
        "  movq %rsp, (%rdi)\n"
        "  movq %rsi, %rsp\n"
        "  popq %r15\n  popq %r14\n  popq %r13\n  popq %r12\n  popq %rbx\n  popq %rbp\n"
        "  ret\n"
        ".size kvf_emulated_switch, .-kvf_emulated_switch\n");
extern "C" void kvf_emulated_switch(void **save, void *load) __asm__("kvf_emulated_switch");

static void switch_stack(void **save, void *load)
{
    kvf_emulated_switch(save, load);
}

/* A stack whose first switch calls run_thread. */
static void *fresh_stack(unsigned char *top, void *)
{
    void **words = reinterpret_cast<void **>(top);
    words[-1] = nullptr; /* run_thread does not return; keeps the stack aligned as by a call */
    words[-2] = reinterpret_cast<void *>(&run_thread);
    memset(words - 8, 0, 6 * sizeof(void *));
    return words - 8;
}

#else

/* Portable and slow. The context lies at the stack's top. */
static void switch_stack(void **save, void *load)
{
    ucontext_t here;
    *save = &here;
    swapcontext(&here, static_cast<ucontext_t *>(load));
}

static void *fresh_stack(unsigned char *top, void *bottom)
{
    ucontext_t *context = reinterpret_cast<ucontext_t *>(top) - 1;
    getcontext(context);
    context->uc_stack.ss_sp = bottom;
    context->uc_stack.ss_size = (size_t)(reinterpret_cast<unsigned char *>(context) -
                                         static_cast<unsigned char *>(bottom)) &
                                ~(size_t)63;
    context->uc_link = nullptr;
    makecontext(context, run_thread, 0);
    return context;
}

#endif

static void switch_to(machine *m, fiber *next)
{
    fiber *self = m->current;
    if (next == self)
        return;
    m->current = next;
    switch_stack(&self->stack_pointer, next->stack_pointer);
}

/* Another fiber that is ready: the lanes of this simdgroup first, in turn. */
static fiber *next_ready(machine *m)
{
    const uint32_t self = m->current->place.index;
    simdgroup *simd = m->current->simd;
    if (simd->at_barrier + simd->ended < simd->size) {
        const uint32_t first = self / simd_width * simd_width;
        for (uint32_t i = 1; i <= simd->size; i++) {
            fiber *next = &m->fibers[first + (self - first + i) % simd->size];
            if (next->state == thread_ready)
                return next;
        }
    }
    for (uint32_t i = 1; i <= m->n_simds; i++) {
        const uint32_t s = (self / simd_width + i) % m->n_simds;
        simdgroup *other = &m->simds[s];
        if (other->at_barrier + other->ended == other->size)
            continue;
        for (uint32_t lane = 0; lane < other->size; lane++) {
            fiber *next = &m->fibers[s * simd_width + lane];
            if (next->state == thread_ready)
                return next;
        }
    }
    return nullptr;
}

/* ---- Complaints ----------------------------------------------------------------- */

static const char *file_name(const char *path)
{
    const char *slash = path ? strrchr(path, '/') : nullptr;
    return slash ? slash + 1 : path ? path : "?";
}

void machine_fail(const char *format, ...)
{
    machine *m = this_machine;
    const kvf_emulated_thread *at = &m->current->place;
    const int used = snprintf(
        m->message, sizeof(m->message),
        "kernel %s of %s, threadgroup (%u, %u, %u), thread (%u, %u, %u): ", m->work->kernel->name,
        m->work->library->name, at->group[0], at->group[1], at->group[2], at->position[0],
        at->position[1], at->position[2]);
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(m->message + used, sizeof(m->message) - (size_t)used, format, arguments);
    va_end(arguments);
    m->running = false;
    siglongjmp(m->escape, 1);
}

extern "C" void kvf_emulated_fail(const char *what, const char *file, int line)
{
    machine_fail("%s:%d: %s", file_name(file), line, what);
}

/* A thread got somewhere, or ended, from where it cannot reach what others wait in. */
static void fail_waiting(machine *m, const char *here, const char *file, int line,
                         const kvf_emulated_site *there, uint32_t waiting)
{
    char place[96] = "";
    if (file)
        snprintf(place, sizeof(place), " (%s:%d)", file_name(file), line);
    (void)m;
    machine_fail("%s%s while thread %u of the threadgroup waits in %s (%s:%d)", here, place,
                 waiting, there->what, file_name(there->file), there->line);
}

static bool same_site(const kvf_emulated_site *a, const char *what, int line)
{
    return a->line == line && (a->what == what || strcmp(a->what, what) == 0);
}

/* Lanes that meet have loaded and stored the same matrices, in the same places. */
static void check_passed(machine *m, bool first, const char *what, const char *file, int line)
{
    const fiber *self = m->current;
    if (first)
        self->simd->passed = self->passed;
    else if (__builtin_expect(self->simd->passed != self->passed, 0))
        machine_fail("at %s (%s:%d) lanes of the simdgroup have passed different "
                     "simdgroup_load or simdgroup_store",
                     what, file_name(file), line);
}

/* ---- The life of a thread --------------------------------------------------------- */

static void run_thread()
{
    machine *m = this_machine;
    m->work->kernel->launch(&m->call, &m->current->place);
    fiber *self = m->current;
    simdgroup *simd = self->simd;
    if (simd->arrived > 0)
        fail_waiting(m, "the thread ended", nullptr, 0, &simd->site,
                     self->place.simd * simd_width + simd->first_waiting);
    if (m->at_barrier > 0)
        fail_waiting(m, "the thread ended", nullptr, 0, &m->barrier,
                     m->first_at_barrier->place.index);
    check_passed(m, simd->ended == 0, "the thread's end", nullptr, 0);
    self->state = thread_ended;
    simd->ended++;
    m->ended++;
    fiber *next = next_ready(m);
    if (next)
        switch_to(m, next);
    switch_stack(&self->stack_pointer, m->host_stack_pointer);
    __builtin_unreachable();
}

static void wait_for_others(machine *m)
{
    fiber *next = next_ready(m);
    if (!next)
        machine_fail("no thread can go on");
    switch_to(m, next);
}

/* Lanes that have ended, or wait in a barrier, will not come to a simd operation. */
static void check_all_lanes_come(machine *m, const char *what, const char *file, int line)
{
    simdgroup *simd = m->current->simd;
    if (simd->at_barrier > 0)
        fail_waiting(m, what, file, line, &m->barrier, m->first_at_barrier->place.index);
    if (simd->ended > 0)
        machine_fail("%s (%s:%d) though %u lanes of its simdgroup have ended", what,
                     file_name(file), line, simd->ended);
}

/* True once all lanes have come. */
static void meet_lanes(machine *m, const char *what, const char *file, int line)
{
    fiber *self = m->current;
    simdgroup *simd = self->simd;
    if (__builtin_expect(simd->at_barrier + simd->ended > 0, 0))
        check_all_lanes_come(m, what, file, line);
    check_passed(m, simd->arrived == 0, what, file, line);
    if (simd->arrived == 0) {
        simd->site = {what, file, line};
        simd->first_waiting = self->place.lane;
    } else if (__builtin_expect(!same_site(&simd->site, what, line), 0)) {
        fail_waiting(m, what, file, line, &simd->site,
                     self->place.simd * simd_width + simd->first_waiting);
    }
    if (++simd->arrived < simd->size) {
        self->state = thread_in_simd;
        const uint32_t lane = self->place.lane + 1 < simd->size ? self->place.lane + 1 : 0;
        fiber *next = self + lane - self->place.lane;
        if (__builtin_expect(next->state == thread_ready, 1))
            switch_to(m, next);
        else
            wait_for_others(m);
        return;
    }
    simd->arrived = 0;
    fiber *first = self - self->place.lane;
    for (uint32_t i = 0; i < simd->size; i++)
        first[i].state = thread_ready;
}

extern "C" unsigned char *kvf_emulated_exchange(unsigned long low, unsigned long high,
                                                const char *what, const char *file, int line)
{
    machine *m = this_machine;
    fiber *self = m->current;
    slot *slots = self->simd->slots[self->exchanges++ & 1];
    slots[self->place.lane] = {{low, high}};
    slots[simd_width + 1].words[0] = 0;
    meet_lanes(m, what, file, line);
    return reinterpret_cast<unsigned char *>(slots);
}

extern "C" void kvf_emulated_pass(unsigned long detail, const char *what, const char *, int line)
{
    fiber *self = this_machine->current;
    self->passed =
        (self->passed ^ detail ^ (uint64_t)line << 32 ^ (uint64_t)what[10]) * 0x9e3779b97f4a7c15ull;
}

static void multiply(simdgroup *simd, float d[8][8])
{
    for (uint32_t row = 0; row < 8; row++) {
        float sums[8];
        memcpy(sums, simd->c[row], sizeof(sums));
        for (uint32_t k = 0; k < 8; k++) {
            for (uint32_t column = 0; column < 8; column++)
                sums[column] = __builtin_fmaf(simd->a[row][k], simd->b[k][column], sums[column]);
        }
        memcpy(d[row], sums, sizeof(sums));
    }
}

extern "C" const float *kvf_emulated_multiply(unsigned row, unsigned column, const float a[2],
                                              const float b[2], const float c[2], const char *file,
                                              int line)
{
    machine *m = this_machine;
    fiber *self = m->current;
    simdgroup *simd = self->simd;
    float(*d)[8] = simd->d[self->exchanges++ & 1];
    for (uint32_t i = 0; i < 2; i++) {
        simd->a[row][column + i] = a[i];
        simd->b[row][column + i] = b[i];
        simd->c[row][column + i] = c[i];
    }
    /* The last lane computes before the others go on. */
    if (simd->arrived + 1 == simd->size)
        multiply(simd, d);
    meet_lanes(m, "simdgroup_multiply_accumulate", file, line);
    return &d[row][column];
}

extern "C" unsigned kvf_emulated_lane(void)
{
    return this_machine->current->place.lane;
}

extern "C" unsigned kvf_emulated_n_lanes(void)
{
    return this_machine->current->simd->size;
}

extern "C" void kvf_emulated_simdgroup_barrier(unsigned flags, const char *file, int line)
{
    machine *m = this_machine;
    simdgroup *simd = m->current->simd;
    const bool last = simd->arrived + 1 == simd->size;
    /* What all lanes did before is over when the last one comes. */
    if (last && flags != 0)
        simd->epoch++;
    meet_lanes(m, "simdgroup_barrier", file, line);
}

extern "C" void kvf_emulated_threadgroup_barrier(unsigned flags, const char *file, int line)
{
    machine *m = this_machine;
    fiber *self = m->current;
    if (self->simd->arrived > 0)
        fail_waiting(m, "threadgroup_barrier", file, line, &self->simd->site,
                     self->place.simd * simd_width + self->simd->first_waiting);
    if (m->ended > 0)
        machine_fail("threadgroup_barrier (%s:%d) though %u threads of the threadgroup have ended",
                     file_name(file), line, m->ended);
    if (m->at_barrier == 0) {
        m->barrier = {"threadgroup_barrier", file, line};
        m->barrier_flags = flags;
        m->first_at_barrier = self;
    } else if (m->barrier.line != line) {
        fail_waiting(m, "threadgroup_barrier", file, line, &m->barrier,
                     m->first_at_barrier->place.index);
    }
    m->at_barrier++;
    self->simd->at_barrier++;
    if (m->at_barrier < m->n_threads) {
        self->state = thread_in_barrier;
        wait_for_others(m);
        return;
    }
    m->epochs[0] += (m->barrier_flags & 1) != 0;
    m->epochs[1] += (m->barrier_flags & 2) != 0;
    m->at_barrier = 0;
    for (uint32_t i = 0; i < m->n_simds; i++)
        m->simds[i].at_barrier = 0;
    for (uint32_t i = 0; i < m->n_threads; i++)
        m->fibers[i].state = thread_ready;
}

/* ---- Threadgroups ----------------------------------------------------------------- */

machine *machine_make()
{
    machine *m = static_cast<machine *>(calloc(1, sizeof(machine)));
    if (!m)
        return nullptr;
    const size_t page = (size_t)sysconf(_SC_PAGESIZE);
    const size_t bytes = max_threads * stack_bytes;
    void *stacks = mmap(nullptr, bytes, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    void *arena = aligned_alloc(4096, (arena_bytes + 4095) / 4096 * 4096);
    void *arguments = aligned_alloc(4096, 8192);
    if (stacks == MAP_FAILED || !arena || !arguments) {
        if (stacks != MAP_FAILED)
            munmap(stacks, bytes);
        free(arena);
        free(arguments);
        free(m);
        return nullptr;
    }
    m->stacks = static_cast<unsigned char *>(stacks);
    m->arena = static_cast<unsigned char *>(arena);
    m->arguments = static_cast<unsigned char *>(arguments);
    for (uint32_t i = 0; i < max_threads; i++)
        mprotect(m->stacks + i * stack_bytes, page, PROT_NONE);
    return m;
}

void machine_free(machine *m)
{
    if (!m)
        return;
    munmap(m->stacks, max_threads * stack_bytes);
    free(m->arena);
    free(m->arguments);
    free(m);
}

static void place_threads(machine *m, const grid *work, const uint32_t group[3])
{
    const uint32_t *n = work->threads;
    for (uint32_t i = 0; i < m->n_threads; i++) {
        fiber *f = &m->fibers[i];
        kvf_emulated_thread *at = &f->place;
        const uint32_t thread[3] = {i % n[0], i / n[0] % n[1], i / n[0] / n[1]};
        for (int d = 0; d < 3; d++) {
            at->group[d] = group[d];
            at->groups[d] = work->groups[d];
            at->position[d] = thread[d];
            at->threads[d] = n[d];
        }
        at->index = i;
        at->lane = i % simd_width;
        at->simd = i / simd_width;
        f->simd = &m->simds[at->simd];
        f->exchanges = 0;
        f->passed = 0;
        f->state = thread_ready;
        /* Tops at one place of their pages would share a few sets of the cache. */
        unsigned char *bottom = m->stacks + (size_t)i * stack_bytes;
        f->stack_pointer = fresh_stack(bottom + stack_bytes - (i % 32) * 448, bottom + 4096);
    }
}

static void prepare_group(machine *m, const grid *work, uint32_t group_index)
{
    m->work = work;
    m->group_index = group_index;
    m->checked = work->library->checked;
    m->n_threads = work->threads[0] * work->threads[1] * work->threads[2];
    m->n_simds = (m->n_threads + simd_width - 1) / simd_width;
    m->at_barrier = 0;
    m->ended = 0;
    m->epochs[0] = m->epochs[1] = 0;
    for (uint32_t i = 0; i < m->n_simds; i++) {
        simdgroup *simd = &m->simds[i];
        const uint32_t left = m->n_threads - i * simd_width;
        simd->size = left < simd_width ? left : simd_width;
        simd->arrived = simd->at_barrier = simd->ended = simd->epoch = 0;
    }
    const uint32_t group[3] = {group_index % work->groups[0],
                               group_index / work->groups[0] % work->groups[1],
                               group_index / work->groups[0] / work->groups[1]};
    place_threads(m, work, group);
    /* Structs begin at addresses that are multiples of 16. */
    unsigned char *arguments = m->arguments + 4096;
    memcpy(arguments, work->arguments, work->argument_bytes);
    m->call.arguments = arguments;
    uint32_t at = arena_gap;
    for (uint32_t i = 0; i < work->n_threadgroup_arrays; i++) {
        m->array_offset[i] = at;
        m->call.shared[i] = m->arena + at;
        at += (work->threadgroup_bytes[i] + arena_gap - 1) / arena_gap * arena_gap + arena_gap;
    }
    /* Not zeros: unwritten memory has to show. */
    memset(m->arena, 0xff, at);
}

bool machine_run_group(machine *m, const grid *work, uint32_t group_index)
{
    prepare_group(m, work, group_index);
    this_machine = m;
    if (m->checked)
        checks_begin_group();
    bool good = true;
    if (sigsetjmp(m->escape, 0) == 0) {
        m->running = true;
        m->current = &m->fibers[0];
        switch_stack(&m->host_stack_pointer, m->fibers[0].stack_pointer);
    } else {
        good = false;
    }
    m->running = false;
    this_machine = nullptr;
    return good;
}
