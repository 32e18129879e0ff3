/*
 * The emulated GPU, inside. Threads of a threadgroup are fibers of one host thread, which
 * is a machine; memory.cc has what all machines share.
 */
#ifndef KVF_EMULATED_MACHINE_H
#define KVF_EMULATED_MACHINE_H

#include <setjmp.h>
#include <stddef.h>
#include <stdint.h>

#include "include/emulated/abi.h"

constexpr uint32_t simd_width = 32;
constexpr uint32_t max_threads = 1024;
constexpr uint32_t max_simds = max_threads / simd_width;
constexpr uint32_t max_threadgroup_bytes = 32768;
constexpr size_t stack_bytes = 256 * 1024; /* with its guard page */

/* ---- memory.cc ----------------------------------------------------------------- */

/* A live or released stretch of GPU memory, guard pages on both sides. */
struct allocation {
    uint64_t offset; /* in both views */
    uint64_t bytes;
    bool live;
    bool of_host;       /* pages of the host's memory, to be read alone */
    allocation *before; /* all there ever were */
};

/* GPU addresses are another mapping of the bytes than the host's. */
struct memory_views {
    unsigned char *gpu;
    unsigned char *host;
    uint64_t bytes; /* of address space, each */
};

bool memory_open();
const memory_views &memory();
/* NULL where it cannot be had. Addresses are never used twice. */
allocation *memory_allocate(uint64_t bytes);
/* The same pages as a shared mapping's, to be read; NULL where they are no such pages. */
allocation *memory_map(const void *pages, uint64_t bytes);
void memory_release(allocation *allocation);
/* The allocation whose pages, or guard pages behind, hold a GPU address; else NULL. */
allocation *memory_find(uintptr_t gpu_address);

/* ---- machine.cc ---------------------------------------------------------------- */

enum thread_state : uint8_t { thread_ready, thread_in_simd, thread_in_barrier, thread_ended };

struct alignas(16) slot {
    unsigned long words[2];
};

struct simdgroup {
    slot slots[2][simd_width + 2];   /* then KVF_EMULATED_RESULT, KVF_EMULATED_HAS_RESULT */
    float a[8][8], b[8][8], c[8][8]; /* of the matrix product that lanes come to */
    float d[2][8][8];
    uint64_t passed;        /* what the first lane to come, or to end, has passed */
    kvf_emulated_site site; /* where its first lane waits */
    uint32_t first_waiting; /* that lane */
    uint32_t size;
    uint32_t arrived; /* lanes that wait in a simd operation */
    uint32_t at_barrier;
    uint32_t ended;
    uint32_t epoch; /* counts simdgroup barriers */
};

struct fiber {
    void *stack_pointer;
    simdgroup *simd;
    uint64_t passed; /* operations that do not wait: a hash of which */
    uint32_t exchanges;
    thread_state state;
    kvf_emulated_thread place;
};

/* What one dispatch is, for all machines that run its threadgroups. */
struct grid {
    const kvf_emulated_library *library;
    const kvf_emulated_kernel *kernel;
    uint32_t groups[3];
    uint32_t threads[3];
    const void *arguments;
    uint32_t argument_bytes;
    uint32_t n_threadgroup_arrays;
    uint32_t threadgroup_bytes[4];
};

struct machine {
    const grid *work;
    kvf_emulated_call call;
    kvf_emulated_site barrier; /* where threads wait */
    fiber *current;
    fiber *first_at_barrier;
    void *host_stack_pointer;
    sigjmp_buf escape;
    uint32_t group_index;
    uint32_t n_threads;
    uint32_t n_simds;
    uint32_t at_barrier;
    uint32_t ended;
    uint32_t barrier_flags;
    uint32_t epochs[2]; /* barriers that ordered device, threadgroup memory */
    bool checked;
    bool running; /* fibers are; a fault is a kernel's */
    char message[448];
    unsigned char *stacks;
    unsigned char *arena; /* threadgroup memory with gaps */
    uint32_t array_offset[4];
    unsigned char *arguments; /* a copy, at the end of its page */
    unsigned char signal_stack[65536];
    simdgroup simds[max_simds];
    fiber fibers[max_threads];
};

constexpr uint32_t arena_gap = 256;
constexpr uint32_t arena_bytes = max_threadgroup_bytes + 8 * arena_gap;

/* The machine of this host thread while it runs; NULL else. */
machine *machine_current();
machine *machine_make();
void machine_free(machine *machine);
/* Runs one threadgroup. False, with a message, where it broke a rule. */
bool machine_run_group(machine *machine, const grid *work, uint32_t group_index);
/* Ends the dispatch: does not return. The message gets kernel, threadgroup, thread. */
__attribute__((noreturn, format(printf, 1, 2))) void machine_fail(const char *format, ...);

/* ---- touches.cc ---------------------------------------------------------------- */

/* Buffers that the host shares. */
void touches_add_buffer(allocation *allocation);
void touches_remove_buffer(const allocation *allocation);
/* A dispatch was queued; those queued are about to run; the number-th, from 1, runs; all have. */
void touches_queue();
void touches_begin_wait();
void touches_run(uint32_t number);
void touches_end_wait();
/* A checked kernel's access, by place in the views. */
void touches_access(uint64_t offset, uint64_t bytes, bool writes, const char *kernel);
/* What emulator.h gives tests. */
void touches_watch(bool on);
void touches_reset();
uint64_t touches_count();
const char *touches_last();

/* ---- checks.cc ----------------------------------------------------------------- */

enum access_kind { access_read, access_write, access_atomic, access_atomic_store };

/* Forgets what earlier dispatches, earlier threadgroups did. */
void checks_begin_grid();
/* Frees what is kept of a buffer's bytes. */
void checks_forget(uint64_t offset, uint64_t bytes);
void checks_begin_group();
/* `code`: where in the program; the message names its source line where it can. */
void checks_access(const void *address, uint32_t bytes, access_kind kind, const void *code);
/* Says where an address is, for messages. */
void checks_describe(uintptr_t address, char *text, size_t text_bytes);

#endif
