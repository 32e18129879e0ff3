/*
 * What a checked kernel's loads and stores are held to. The compiler calls in before each
 * one (-fsanitize-coverage=trace-loads,trace-stores); what threads keep for themselves is
 * on their stacks and passes.
 *
 * Every 4 bytes of memory (every byte of a page where smaller accesses happen) have a cell:
 * the last write and up to two reads since, each with who and in which epoch. Two accesses
 * by different threads, one of them a write, not both atomic, are ordered only where a
 * barrier ended the epoch of the first: one of the threadgroup with the flag of this memory,
 * or one of the simdgroup that both are in. Nothing orders the threadgroups of a dispatch.
 */
#include "machine.h"

#include <link.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

constexpr uint32_t page_size = 4096;

/* 0: no access. Else who, when. */
typedef uint64_t record;
constexpr record record_valid = 1, record_atomic = 2;

static record make_record(uint32_t group, uint32_t thread, uint32_t epoch, uint32_t simd_epoch,
                          bool atomic)
{
    return record_valid | (atomic ? record_atomic : 0) | (record)(thread & 1023) << 2 |
           (record)(simd_epoch & 4095) << 12 | (record)(epoch & 65535) << 24 |
           (record)(group & 0xffffff) << 40;
}
static uint32_t thread_of(record r)
{
    return (uint32_t)(r >> 2) & 1023;
}
static uint32_t simd_epoch_of(record r)
{
    return (uint32_t)(r >> 12) & 4095;
}
static uint32_t group_of(record r)
{
    return (uint32_t)(r >> 40);
}
/* Group and epoch alone. */
static uint64_t span_of(record r)
{
    return r >> 24;
}

struct cell {
    record write;
    record reads[2];
    uint32_t reading_group; /* 1 + the first threadgroup that read */
    uint32_t many_groups;   /* others did too */
};

struct shadow_page {
    uint64_t generation; /* of the grid or threadgroup whose accesses these are */
    uint32_t n_cells;    /* one a word, or one a byte */
    cell *cells;
};

static struct {
    shadow_page *device; /* by page of the GPU's view */
    shadow_page arena[arena_bytes / page_size + 2];
    uint64_t grid;
    uint64_t group;
    struct {
        uintptr_t start, end;
    } images[256];
    uint32_t n_images;
} state;

static int add_image(struct dl_phdr_info *info, size_t, void *)
{
    for (int i = 0; i < info->dlpi_phnum; i++) {
        const ElfW(Phdr) *header = &info->dlpi_phdr[i];
        if (header->p_type != PT_LOAD || state.n_images == 256)
            continue;
        const uintptr_t start = info->dlpi_addr + header->p_vaddr;
        state.images[state.n_images++] = {start, start + header->p_memsz};
    }
    return 0;
}

void checks_begin_grid()
{
    if (!state.device) {
        const size_t bytes = memory().bytes / page_size * sizeof(shadow_page);
        void *table = mmap(nullptr, bytes, PROT_READ | PROT_WRITE,
                           MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (table == MAP_FAILED)
            abort();
        state.device = static_cast<shadow_page *>(table);
        dl_iterate_phdr(add_image, nullptr);
    }
    state.grid++;
}

void checks_forget(uint64_t offset, uint64_t bytes)
{
    for (uint64_t i = offset / page_size; state.device && i * page_size < offset + bytes; i++) {
        free(state.device[i].cells);
        state.device[i] = {0, 0, nullptr};
    }
}

void checks_begin_group()
{
    state.group++;
}

/* ---- Messages ------------------------------------------------------------------- */

static const char *const kind_names[] = {"read", "write", "atomic operation", "atomic store"};

/* "x.metal:12", or nothing where the source is not known. */
static void source_line(const void *code, char *text, size_t text_bytes)
{
    text[0] = '\0';
    Dl_info info;
    if (!dladdr(code, &info) || !info.dli_fname)
        return;
    struct link_map *map = nullptr;
    dladdr1(code, &info, reinterpret_cast<void **>(&map), RTLD_DL_LINKMAP);
    char command[600];
    snprintf(command, sizeof(command), "addr2line -i -e '%s' 0x%lx 2>&1", info.dli_fname,
             (unsigned long)((uintptr_t)code - 1 - (map ? map->l_addr : 0)));
    FILE *lines = popen(command, "r");
    if (!lines)
        return;
    char line[600];
    /* The innermost line that is not the emulator's own header. */
    while (fgets(line, sizeof(line), lines)) {
        char *name = strrchr(line, '/');
        if (!name || strstr(line, "/emulated/") || strchr(line, '?') || text[0])
            continue;
        name[strcspn(name, " \n")] = '\0';
        snprintf(text, text_bytes, "%s: ", name + 1);
    }
    pclose(lines);
}

/* By the word of the argument struct that leads there. */
static const char *argument_name(const allocation *a, char *text, size_t text_bytes)
{
    const machine *m = machine_current();
    const uintptr_t start = reinterpret_cast<uintptr_t>(memory().gpu) + a->offset;
    for (uint32_t i = 0; m && i + 8 <= m->work->argument_bytes; i += 8) {
        uintptr_t given;
        memcpy(&given, static_cast<const unsigned char *>(m->work->arguments) + i, sizeof(given));
        if (given >= start && given <= start + a->bytes) {
            snprintf(text, text_bytes, "the memory of argument byte %u", i);
            return text;
        }
    }
    snprintf(text, text_bytes, "a buffer that is no argument of the kernel");
    return text;
}

static void describe_device(uintptr_t address, const allocation *a, char *text, size_t text_bytes)
{
    /* Between two buffers: of the nearer one. */
    const unsigned long gap = 4096 - address % 4096;
    const allocation *next = memory_find(address + gap);
    if (next && next != a && next->live) {
        char name[64];
        argument_name(next, name, sizeof(name));
        snprintf(text, text_bytes, "%lu bytes before the start of %s (%lu bytes)", gap, name,
                 next->bytes);
        return;
    }
    const uintptr_t start = reinterpret_cast<uintptr_t>(memory().gpu) + a->offset;
    char name[64];
    argument_name(a, name, sizeof(name));
    const unsigned long at = address - start;
    if (!a->live)
        snprintf(text, text_bytes, "byte %lu of a released buffer of %lu bytes", at, a->bytes);
    else if (at >= a->bytes)
        snprintf(text, text_bytes, "%lu bytes past the end of %s (%lu bytes)", at - a->bytes, name,
                 a->bytes);
    else
        snprintf(text, text_bytes, "byte %lu of %s (%lu bytes)", at, name, a->bytes);
}

static void describe_arena(const machine *m, uintptr_t address, char *text, size_t text_bytes)
{
    const uint32_t at = (uint32_t)(address - reinterpret_cast<uintptr_t>(m->arena));
    uint32_t array = 0;
    while (array + 1 < m->work->n_threadgroup_arrays &&
           at + arena_gap / 2 > m->array_offset[array + 1])
        array++;
    const long in = (long)at - (long)m->array_offset[array];
    snprintf(text, text_bytes, "byte %ld of threadgroup(%u) (%u bytes)", in, array,
             m->work->n_threadgroup_arrays ? m->work->threadgroup_bytes[array] : 0);
}

static bool within(uintptr_t address, const void *start, uint64_t bytes)
{
    return address - reinterpret_cast<uintptr_t>(start) < bytes;
}

void checks_describe(uintptr_t address, char *text, size_t text_bytes)
{
    const machine *m = machine_current();
    const allocation *a = memory_find(address);
    if (!a && within(address, memory().gpu, memory().bytes))
        snprintf(text, text_bytes, "address 0x%lx, far from every buffer", (unsigned long)address);
    else if (a)
        describe_device(address, a, text, text_bytes);
    else if (m && within(address, m->arena, arena_bytes))
        describe_arena(m, address, text, text_bytes);
    else if (m && within(address, m->arguments, 8192))
        snprintf(text, text_bytes, "byte %ld of the arguments (%u bytes)",
                 (long)(address - reinterpret_cast<uintptr_t>(m->arguments) - 4096),
                 m->work->argument_bytes);
    else if (within(address, memory().host, memory().bytes))
        snprintf(text, text_bytes, "a buffer's contents by the host's address, not the GPU's");
    else if (m && within(address, m->stacks, max_threads * stack_bytes))
        snprintf(text, text_bytes, "a thread's stack (%zu bytes each)", stack_bytes);
    else
        snprintf(text, text_bytes, "address 0x%lx, in no buffer", (unsigned long)address);
}

__attribute__((noreturn)) static void fail_outside(const void *address, uint32_t bytes,
                                                   access_kind kind, const void *code)
{
    char where[160], line[64];
    checks_describe(reinterpret_cast<uintptr_t>(address), where, sizeof(where));
    source_line(code, line, sizeof(line));
    machine_fail("%s%s of %u bytes out of bounds: %s", line, kind_names[kind], bytes, where);
}

__attribute__((noreturn)) static void fail_race(uintptr_t address, access_kind kind, record other,
                                                const char *other_kind, const void *code)
{
    char where[160], line[64], who[64];
    checks_describe(address, where, sizeof(where));
    source_line(code, line, sizeof(line));
    const machine *m = machine_current();
    if (group_of(other) != (m->group_index & 0xffffff))
        snprintf(who, sizeof(who), "threadgroup %u of the grid", group_of(other));
    else
        snprintf(who, sizeof(who), "thread %u of the threadgroup", thread_of(other));
    machine_fail("%sdata race: %s of %s, after a%s %s by %s with no barrier between", line,
                 kind_names[kind], where, (other & record_atomic) ? "n atomic" : "", other_kind,
                 who);
}

/* ---- Cells ------------------------------------------------------------------------ */

/* Whether a barrier, or being one thread, puts `before` before `now`; or both are atomic. */
static bool ordered(record before, record now)
{
    if (before == 0 || (before & now & record_atomic))
        return true;
    if (group_of(before) != group_of(now))
        return false;
    if (thread_of(before) == thread_of(now) || span_of(before) != span_of(now))
        return true;
    return thread_of(before) / simd_width == thread_of(now) / simd_width &&
           simd_epoch_of(before) != simd_epoch_of(now);
}

static void note_read(cell *c, record now)
{
    if (c->reading_group == 0)
        c->reading_group = group_of(now) + 1;
    else if (c->reading_group != group_of(now) + 1)
        c->many_groups = 1;
    if (c->reads[0] == 0 || span_of(c->reads[0]) != span_of(now)) {
        c->reads[0] = now;
        c->reads[1] = 0;
        return;
    }
    if (thread_of(c->reads[0]) == thread_of(now)) {
        c->reads[0] = now;
        return;
    }
    /* One in another simdgroup than the first says more: no simdgroup barrier orders both. */
    const bool other_simd = thread_of(c->reads[0]) / simd_width != thread_of(now) / simd_width;
    if (c->reads[1] == 0 || other_simd ||
        thread_of(c->reads[1]) / simd_width == thread_of(now) / simd_width)
        c->reads[1] = now;
}

/* What is in conflict with this access, or 0. */
static record conflict(const cell *c, record now, bool writes, const char **kind)
{
    *kind = "write";
    if (!ordered(c->write, now))
        return c->write;
    if (!writes)
        return 0;
    *kind = "read";
    if (c->reading_group != 0 && (c->many_groups || c->reading_group != group_of(now) + 1)) {
        const uint32_t group =
            c->reading_group != group_of(now) + 1 ? c->reading_group - 1 : group_of(c->reads[0]);
        return make_record(group, 0, 0, 0, false);
    }
    for (record read : c->reads) {
        if (!ordered(read, now))
            return read;
    }
    return 0;
}

/* The cells of a page, forgotten if they were another generation's. */
static shadow_page *fresh_page(shadow_page *page, uint64_t generation, bool by_byte)
{
    if (page->generation != generation || !page->cells) {
        const uint32_t n = by_byte ? page_size : page->n_cells ? page->n_cells : page_size / 4;
        if (n != page->n_cells) {
            free(page->cells);
            page->cells = static_cast<cell *>(calloc(n, sizeof(cell)));
        } else {
            memset(page->cells, 0, n * sizeof(cell));
        }
        page->n_cells = n;
        page->generation = generation;
    } else if (by_byte && page->n_cells != page_size) {
        cell *cells = static_cast<cell *>(malloc(page_size * sizeof(cell)));
        for (uint32_t i = 0; cells && i < page_size; i++)
            cells[i] = page->cells[i / 4];
        free(page->cells);
        page->cells = cells;
        page->n_cells = page_size;
    }
    if (!page->cells)
        abort();
    return page;
}

static void fail_unwritten(uintptr_t address, uint32_t bytes, const void *code)
{
    char where[160], line[64];
    checks_describe(address, where, sizeof(where));
    source_line(code, line, sizeof(line));
    machine_fail("%sread of %u bytes of threadgroup memory that was not written: %s", line, bytes,
                 where);
}

/* `base` is where pages begin to count: page i's shadow is pages[i]. */
static void access_cells(shadow_page *pages, uint64_t generation, const void *base, bool shared,
                         uintptr_t address, uint32_t bytes, access_kind kind, const void *code)
{
    const machine *m = machine_current();
    const bool by_byte = ((address | bytes) & 3) != 0;
    const bool writes = kind != access_read;
    const bool reads = kind == access_read || kind == access_atomic;
    const record now = make_record(m->group_index, m->current->place.index, m->epochs[shared],
                                   m->current->simd->epoch, kind >= access_atomic);
    const uint64_t start = address - reinterpret_cast<uintptr_t>(base);
    for (uint64_t at = start; at < start + bytes;) {
        shadow_page *page = fresh_page(&pages[at / page_size], generation, by_byte);
        const uint32_t step = page->n_cells == page_size ? 1 : 4;
        cell *c = &page->cells[at % page_size / step];
        const char *other_kind;
        const record other = conflict(c, now, writes, &other_kind);
        if (__builtin_expect(other != 0, 0))
            fail_race(reinterpret_cast<uintptr_t>(base) + at, kind, other, other_kind, code);
        if (shared && reads && c->write == 0)
            fail_unwritten(reinterpret_cast<uintptr_t>(base) + at, bytes, code);
        if (writes)
            c->write = now;
        else
            note_read(c, now);
        at += step;
    }
}

/* ---- Accesses ----------------------------------------------------------------------- */

static void access_arena(const machine *m, uintptr_t address, uint32_t bytes, access_kind kind,
                         const void *code)
{
    const uint32_t at = (uint32_t)(address - reinterpret_cast<uintptr_t>(m->arena));
    for (uint32_t i = 0; i < m->work->n_threadgroup_arrays; i++) {
        if (at >= m->array_offset[i] &&
            at + bytes <= m->array_offset[i] + m->work->threadgroup_bytes[i]) {
            access_cells(state.arena, state.group, m->arena, true, address, bytes, kind, code);
            return;
        }
    }
    fail_outside(reinterpret_cast<void *>(address), bytes, kind, code);
}

static void access_elsewhere(const machine *m, const void *address, uint32_t bytes,
                             access_kind kind, const void *code)
{
    const uintptr_t at = reinterpret_cast<uintptr_t>(address);
    const unsigned char *arguments = m->arguments + 4096;
    /* Vectors of three are read as four; struct tails are the kernel's. */
    if (kind == access_read && within(at, arguments, m->work->argument_bytes) &&
        within(at + bytes - 1, arguments, m->work->argument_bytes))
        return;
    /* Constant tables, and whatever the compiler keeps beside code. */
    for (uint32_t i = 0; kind == access_read && i < state.n_images; i++) {
        if (at >= state.images[i].start && at + bytes <= state.images[i].end)
            return;
    }
    fail_outside(address, bytes, kind, code);
}

void checks_access(const void *address, uint32_t bytes, access_kind kind, const void *code)
{
    const machine *m = machine_current();
    const uintptr_t at = reinterpret_cast<uintptr_t>(address);
    if (!m || !m->checked || within(at, m->stacks, max_threads * stack_bytes) ||
        within(at, m->simds, sizeof(m->simds)) || within(at, m->fibers, sizeof(m->fibers)) ||
        within(at, &m->call, sizeof(m->call)))
        return;
    if (within(at, m->arena, arena_bytes)) {
        access_arena(m, at, bytes, kind, code);
        return;
    }
    if (!within(at, memory().gpu, memory().bytes)) {
        access_elsewhere(m, address, bytes, kind, code);
        return;
    }
    const allocation *a = memory_find(at);
    const uint64_t offset = at - reinterpret_cast<uintptr_t>(memory().gpu);
    if (!a || !a->live || offset < a->offset || offset + bytes > a->offset + a->bytes)
        fail_outside(address, bytes, kind, code);
    touches_access(offset, bytes, kind != access_read, m->work->kernel->name);
    access_cells(state.device, state.grid, memory().gpu, false, at, bytes, kind, code);
}

/* What the compiler calls. */
#define KVF_CALLBACK(bytes)                                                                        \
    extern "C" void __sanitizer_cov_load##bytes(const void *address)                               \
    {                                                                                              \
        checks_access(address, bytes, access_read, __builtin_return_address(0));                   \
    }                                                                                              \
    extern "C" void __sanitizer_cov_store##bytes(const void *address)                              \
    {                                                                                              \
        checks_access(address, bytes, access_write, __builtin_return_address(0));                  \
    }
KVF_CALLBACK(1)
KVF_CALLBACK(2)
KVF_CALLBACK(4)
KVF_CALLBACK(8)
KVF_CALLBACK(16)

/* And where an index is outside an array whose size it knows (-fsanitize=bounds). */
extern "C" void __ubsan_handle_out_of_bounds_minimal(void)
{
    char line[64];
    source_line(__builtin_return_address(0), line, sizeof(line));
    if (machine_current())
        machine_fail("%sindex out of bounds of an array in thread or constant memory", line);
}

/* ---- Atomics -------------------------------------------------------------------------- */

extern "C" unsigned kvf_emulated_atomic(kvf_emulated_atomic_op op, volatile void *address,
                                        unsigned value)
{
    volatile unsigned *word = static_cast<volatile unsigned *>(address);
    checks_access(const_cast<void *>(address), 4,
                  op == KVF_ATOMIC_STORE ? access_atomic_store : access_atomic,
                  __builtin_return_address(0));
    if (reinterpret_cast<uintptr_t>(address) % 4 != 0)
        machine_fail("an atomic at an address that is no multiple of 4");
    unsigned before = __atomic_load_n(word, __ATOMIC_RELAXED);
    if (op == KVF_ATOMIC_LOAD)
        return before;
    for (;;) {
        unsigned after = value;
        switch (op) {
        case KVF_ATOMIC_ADD: after = before + value; break;
        case KVF_ATOMIC_SUB: after = before - value; break;
        case KVF_ATOMIC_MIN_SIGNED: after = (int)value < (int)before ? value : before; break;
        case KVF_ATOMIC_MAX_SIGNED: after = (int)value > (int)before ? value : before; break;
        case KVF_ATOMIC_MIN_UNSIGNED: after = value < before ? value : before; break;
        case KVF_ATOMIC_MAX_UNSIGNED: after = value > before ? value : before; break;
        case KVF_ATOMIC_AND: after = before & value; break;
        case KVF_ATOMIC_OR: after = before | value; break;
        case KVF_ATOMIC_XOR: after = before ^ value; break;
        default: break;
        }
        if (__atomic_compare_exchange_n(word, &before, after, true, __ATOMIC_RELAXED,
                                        __ATOMIC_RELAXED))
            return before;
    }
}

extern "C" bool kvf_emulated_atomic_swap(volatile void *address, unsigned *expected,
                                         unsigned desired)
{
    checks_access(const_cast<void *>(address), 4, access_atomic, __builtin_return_address(0));
    return __atomic_compare_exchange_n(static_cast<volatile unsigned *>(address), expected, desired,
                                       false, __ATOMIC_RELAXED, __ATOMIC_RELAXED);
}
