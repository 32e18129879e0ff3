/*
 * What the host does to memory that queued work uses. While dispatches are queued, the pages of
 * shared buffers are closed to the host; the fault that follows a touch says where it was, and
 * how many dispatches were queued before it. When these run, a checked kernel's access to bytes
 * that the host wrote after it was queued, or a write to bytes that the host read, is a touch
 * that on hardware would have been a race.
 */
#include "machine.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <ucontext.h>

constexpr uint64_t page_size = 4096;
constexpr uint32_t most_open = 8192;
constexpr uint64_t same_write_bytes = 64; /* equal bytes between two that differ are of one write */

/* Bytes of the host's view that it touched when `queued` dispatches were queued. */
struct touch {
    uint64_t offset, end;
    uint32_t queued;
    bool wrote;
    bool told;
};

/* A page that was touched since the last dispatch was queued. */
struct open_page {
    uint64_t offset;
    bool may_write;
    unsigned char before[page_size];
};

template <class T> struct list {
    T *at;
    uint32_t n, room;

    void add(T value)
    {
        if (n == room) {
            room = room ? 2 * room : 64;
            at = static_cast<T *>(realloc(at, room * sizeof(T)));
            if (!at)
                abort();
        }
        at[n++] = value;
    }
};

static struct {
    bool watching;
    uint32_t queued;  /* dispatches, since the last wait */
    uint32_t running; /* the number of the one that runs; 0: none */
    list<allocation *> shared;
    list<touch> touches;
    open_page *open; /* [most_open], made when watching begins: faults cannot wait for memory */
    uint32_t n_open;
    uint64_t n_told;
    char last[256];
    struct sigaction old_action;
} state;

/* ---- Pages ------------------------------------------------------------------------------ */

static uint64_t end_of(const allocation *a)
{
    return (a->offset + (a->bytes ? a->bytes : 1) + page_size - 1) / page_size * page_size;
}

static void protect(uint64_t offset, uint64_t end, int rights)
{
    if (mprotect(memory().host + offset, end - offset, rights) != 0)
        abort();
}

static void protect_all(int rights)
{
    for (uint32_t i = 0; i < state.shared.n; i++)
        protect(state.shared.at[i]->offset, end_of(state.shared.at[i]), rights);
}

static open_page *find_open(uint64_t offset)
{
    for (uint32_t i = state.n_open; i > 0; i--)
        if (state.open[i - 1].offset == offset)
            return &state.open[i - 1];
    return nullptr;
}

static const allocation *find_shared(uint64_t offset)
{
    for (uint32_t i = 0; i < state.shared.n; i++)
        if (offset >= state.shared.at[i]->offset && offset < end_of(state.shared.at[i]))
            return state.shared.at[i];
    return nullptr;
}

/* Where the machine does not say, a fault is a read until the page faults again. */
static bool is_write(void *context)
{
#if defined(__x86_64__)
    return static_cast<ucontext_t *>(context)->uc_mcontext.gregs[REG_ERR] & 2;
#else
    (void)context;
    return false;
#endif
}

/* The rest of the page counts as read: its next bytes are read without another fault. */
static void on_touch(int number, siginfo_t *info, void *context)
{
    const uint64_t offset =
        static_cast<unsigned char *>(info->si_addr) - static_cast<unsigned char *>(memory().host);
    const uint64_t page = offset / page_size * page_size;
    if (!state.queued || !find_shared(offset) || state.n_open == most_open) {
        sigaction(number, &state.old_action, nullptr); /* not ours: it faults again */
        return;
    }
    open_page *open = find_open(page);
    if (!open) {
        open = &state.open[state.n_open++];
        open->offset = page;
        open->may_write = false;
        protect(page, page + page_size, PROT_READ);
        memcpy(open->before, memory().host + page, page_size);
        if (!is_write(context)) {
            state.touches.add({offset, page + page_size, state.queued, false, false});
            return;
        }
    }
    open->may_write = true;
    protect(page, page + page_size, PROT_READ | PROT_WRITE);
}

/* What differs in a page that may have been written. */
static void add_writes(const open_page *open)
{
    const unsigned char *now = memory().host + open->offset;
    touch found = {0, 0, state.queued, true, false};
    for (uint64_t i = 0; i < page_size; i++) {
        if (now[i] == open->before[i])
            continue;
        const uint64_t at = open->offset + i;
        if (found.end && at - found.end > same_write_bytes) {
            state.touches.add(found);
            found.end = 0;
        }
        found.offset = found.end ? found.offset : at;
        found.end = at + 1;
    }
    if (found.end)
        state.touches.add(found);
}

static void close_pages()
{
    for (uint32_t i = 0; i < state.n_open; i++) {
        if (state.open[i].may_write)
            add_writes(&state.open[i]);
        protect(state.open[i].offset, state.open[i].offset + page_size, PROT_NONE);
    }
    state.n_open = 0;
}

/* ---- What the emulator tells -------------------------------------------------------------- */

void touches_add_buffer(allocation *a)
{
    state.shared.add(a);
    if (state.watching && state.queued)
        protect(a->offset, end_of(a), PROT_NONE);
}

void touches_remove_buffer(const allocation *a)
{
    for (uint32_t i = 0; i < state.shared.n; i++) {
        if (state.shared.at[i] != a)
            continue;
        state.shared.at[i] = state.shared.at[--state.shared.n];
        protect(a->offset, end_of(a), PROT_READ | PROT_WRITE);
        for (uint32_t o = 0; o < state.n_open; o++)
            if (state.open[o].offset >= a->offset && state.open[o].offset < end_of(a))
                state.open[o--] = state.open[--state.n_open];
        return;
    }
}

void touches_queue()
{
    if (!state.watching)
        return;
    if (state.queued == 0)
        protect_all(PROT_NONE);
    else
        close_pages();
    state.queued++;
}

void touches_begin_wait()
{
    if (!state.watching || !state.queued)
        return;
    close_pages();
    protect_all(PROT_READ | PROT_WRITE);
}

void touches_run(uint32_t number)
{
    state.running = number;
}

void touches_end_wait()
{
    state.touches.n = 0;
    state.queued = 0;
    state.running = 0;
}

void touches_access(uint64_t offset, uint64_t bytes, bool writes, const char *kernel)
{
    for (uint32_t i = 0; i < state.touches.n; i++) {
        touch *t = &state.touches.at[i];
        if (t->told || t->queued < state.running || offset >= t->end ||
            offset + bytes <= t->offset || !(t->wrote || writes))
            continue;
        t->told = true;
        state.n_told++;
        snprintf(state.last, sizeof(state.last),
                 "the host %s byte %lu of a buffer that kernel %s, queued before, %s",
                 t->wrote ? "wrote" : "read",
                 (unsigned long)(t->offset -
                                 memory_find(reinterpret_cast<uintptr_t>(memory().gpu) + t->offset)
                                     ->offset),
                 kernel, writes ? "writes" : "reads");
    }
}

/* ---- What tests ask ----------------------------------------------------------------------- */

void touches_reset()
{
    state.n_told = 0;
    state.last[0] = '\0';
}

uint64_t touches_count()
{
    return state.n_told;
}

const char *touches_last()
{
    return state.last;
}

void touches_watch(bool on)
{
    if (on == state.watching)
        return;
    if (on) {
        struct sigaction action = {};
        action.sa_sigaction = on_touch;
        action.sa_flags = SA_SIGINFO;
        state.open = static_cast<open_page *>(calloc(most_open, sizeof(open_page)));
        if (!state.open || sigaction(SIGSEGV, &action, &state.old_action) != 0)
            abort();
    } else {
        touches_begin_wait();
        touches_end_wait();
        sigaction(SIGSEGV, &state.old_action, nullptr);
        free(state.open);
        state.open = nullptr;
    }
    state.watching = on;
}
