/*
 * What compiled kernels and the emulated machine know of each other. Plain C++, no
 * headers: kernels see nothing of the host's library.
 */
#ifndef KVF_EMULATED_ABI_H
#define KVF_EMULATED_ABI_H

extern "C" {

/* Where a thread stands: what the attributes of a kernel's parameters ask for. */
struct kvf_emulated_thread {
    unsigned group[3];    /* threadgroup_position_in_grid */
    unsigned groups[3];   /* threadgroups_per_grid */
    unsigned position[3]; /* thread_position_in_threadgroup */
    unsigned threads[3];  /* threads_per_threadgroup */
    unsigned index;       /* thread_index_in_threadgroup */
    unsigned lane;        /* thread_index_in_simdgroup */
    unsigned simd;        /* simdgroup_index_in_threadgroup */
};

/* What a dispatch gives to all its threads. */
struct kvf_emulated_call {
    const void *arguments;
    void *shared[4];
};

typedef void (*kvf_emulated_launch)(const kvf_emulated_call *call, const kvf_emulated_thread *at);

struct kvf_emulated_kernel {
    const char *name;
    kvf_emulated_launch launch;
    unsigned argument_bytes;
    unsigned n_threadgroup_arrays;
    unsigned max_threads; /* of a threadgroup, as its attribute says; 0: it has none */
};

/* One .metal file. Its objects put a pointer to this in the section kvf_emulated. */
struct kvf_emulated_library {
    const char *name; /* "attend.metal" */
    const kvf_emulated_kernel *kernels;
    unsigned n_kernels;
    bool checked; /* built with every access reported */
};

/* A place in a kernel's source, and the function that it calls there. */
struct kvf_emulated_site {
    const char *what;
    const char *file;
    int line;
};

/*
 * Gives 16 bytes to the other lanes of the simdgroup, waits for all of them, and returns
 * what each gave: lane i's at 16 * i. Valid until the lane's next exchange but one. What
 * the first lane to go on makes of it for all can be kept behind: KVF_EMULATED_RESULT is
 * where, and the word at KVF_EMULATED_HAS_RESULT is 0 until a lane sets it.
 */
#define KVF_EMULATED_RESULT (16 * 32)
#define KVF_EMULATED_HAS_RESULT (16 * 33)
unsigned char *kvf_emulated_exchange(unsigned long low, unsigned long high, const char *what,
                                     const char *file, int line);
/*
 * For operations of a simdgroup whose lanes need nothing of each other: does not wait. The
 * next meeting finds out when not all lanes passed the same ones.
 */
void kvf_emulated_pass(unsigned long detail, const char *what, const char *file, int line);
/*
 * One simdgroup_multiply_accumulate: row, column: of the first of two values of each of a,
 * b and c that the lane gives. Returns the two of the result.
 */
const float *kvf_emulated_multiply(unsigned row, unsigned column, const float a[2],
                                   const float b[2], const float c[2], const char *file, int line);
unsigned kvf_emulated_lane(void);
unsigned kvf_emulated_n_lanes(void);

/* flags: 1 orders device memory, 2 threadgroup memory. */
void kvf_emulated_threadgroup_barrier(unsigned flags, const char *file, int line);
void kvf_emulated_simdgroup_barrier(unsigned flags, const char *file, int line);

enum kvf_emulated_atomic_op {
    KVF_ATOMIC_LOAD,
    KVF_ATOMIC_STORE,
    KVF_ATOMIC_EXCHANGE,
    KVF_ATOMIC_ADD,
    KVF_ATOMIC_SUB,
    KVF_ATOMIC_MIN_SIGNED,
    KVF_ATOMIC_MAX_SIGNED,
    KVF_ATOMIC_MIN_UNSIGNED,
    KVF_ATOMIC_MAX_UNSIGNED,
    KVF_ATOMIC_AND,
    KVF_ATOMIC_OR,
    KVF_ATOMIC_XOR
};
/* Returns the value before. */
unsigned kvf_emulated_atomic(kvf_emulated_atomic_op op, volatile void *address, unsigned value);
/* Stores desired where the value is *expected; else leaves the value in *expected. */
bool kvf_emulated_atomic_swap(volatile void *address, unsigned *expected, unsigned desired);

/* Ends the dispatch with this complaint. */
__attribute__((noreturn)) void kvf_emulated_fail(const char *what, const char *file, int line);
}

#endif
