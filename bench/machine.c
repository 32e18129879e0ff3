#include "bench/machine.h"

#include <stdio.h>
#include <string.h>

#include "backend/cpu/cpus.h"
#include "backend/cpu/pool.h"
#include "bench/peak.h"
#include "clock.h"
#include "error.h"

/* ---- What it is ---------------------------------------------------------------- */

/* The value of the first line "key : value" in a file of the system; false for none. */
static bool read_field(const char *path, const char *key, char *value, size_t value_bytes)
{
    FILE *file = fopen(path, "r");
    char line[512];
    bool found = false;
    if (!file)
        return false;
    while (!found && fgets(line, sizeof line, file)) {
        const char *colon = strchr(line, ':');
        if (!colon || strncmp(line, key, strlen(key)) != 0)
            continue;
        const char *begin = colon + 1 + strspn(colon + 1, " \t");
        snprintf(value, value_bytes, "%.*s", (int)strcspn(begin, "\r\n"), begin);
        found = true;
    }
    fclose(file);
    return found;
}

/* Bytes of a size such as "491520K" that a file of the system holds; 0 for none. */
static uint64_t read_cache_size(const char *path)
{
    FILE *file = fopen(path, "r");
    unsigned long long size = 0;
    char suffix = 0;
    if (!file)
        return 0;
    if (fscanf(file, "%llu%c", &size, &suffix) < 1)
        size = 0;
    fclose(file);
    return suffix == 'K' ? size << 10 : suffix == 'M' ? size << 20 : size;
}

static uint64_t largest_cache_bytes(void)
{
    uint64_t largest = 0;
    for (int i = 0; i < 8; i++) {
        char path[64];
        snprintf(path, sizeof path, "/sys/devices/system/cpu/cpu0/cache/index%d/size", i);
        const uint64_t bytes = read_cache_size(path);
        largest = bytes > largest ? bytes : largest;
    }
    return largest;
}

void bench_machine_describe(bench_machine *machine)
{
    static const uint64_t guessed_l3_bytes = 32u << 20;
    memset(machine, 0, sizeof *machine);
    if (!read_field("/proc/cpuinfo", "model name", machine->cpu, sizeof machine->cpu))
        snprintf(machine->cpu, sizeof machine->cpu, "unknown");
    machine->n_cores = kvf_cpus_available();
    machine->l3_bytes = largest_cache_bytes();
    machine->l3_known = machine->l3_bytes > 0;
    if (!machine->l3_known)
        machine->l3_bytes = guessed_l3_bytes;
}

/* ---- What it can do ------------------------------------------------------------ */

const bench_peak_kernels *bench_peak_find(const char *isa)
{
    static const bench_peak_kernels *const all[] = {
        &bench_peak_scalar,
#if defined(__x86_64__)
        &bench_peak_avx2,
        &bench_peak_avx512,
        &bench_peak_avx512vnni,
#endif
#if defined(__aarch64__)
        &bench_peak_neon,
#endif
    };
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++)
        if (strcmp(all[i]->isa, isa) == 0)
            return all[i];
    return NULL;
}

typedef enum peak_kind { PEAK_FMA, PEAK_INT8, PEAK_READ } peak_kind;

typedef struct peak_work {
    const bench_peak_kernels *kernels;
    peak_kind kind;
    uint64_t rounds;
    const uint8_t *memory;
    size_t memory_bytes;
    uint32_t n_threads;
    kvf_pool *pool;
    _Atomic uint64_t count; /* operations or bytes of a run */
} peak_work;

/* One thread's part; returns the operations or bytes. */
static uint64_t run_part(const peak_work *work, uint32_t thread)
{
    volatile int32_t kept; /* a result that is stored is a result that is computed */
    int32_t bits = 0;
    uint64_t count;
    if (work->kind == PEAK_FMA) {
        float sum;
        count = work->kernels->fma(work->rounds, &sum);
        memcpy(&bits, &sum, sizeof bits);
    } else if (work->kind == PEAK_INT8) {
        count = work->kernels->int8(work->rounds, &bits);
    } else {
        const size_t share = work->memory_bytes / work->n_threads / 512 * 512;
        work->kernels->read(work->memory + thread * share, share, &bits);
        count = share;
    }
    kept = bits;
    (void)kept;
    return count;
}

static void run_parts(void *context, size_t first, size_t end, uint32_t thread)
{
    peak_work *work = context;
    (void)thread;
    for (size_t part = first; part < end; part++)
        work->count += run_part(work, (uint32_t)part);
}

/* All threads at once; returns operations or bytes a second. */
static double run_all(peak_work *work)
{
    work->count = 0;
    const double started = kvf_seconds();
    kvf_pool_run(work->pool, work->n_threads, 1, run_parts, work);
    return (double)work->count / (kvf_seconds() - started);
}

/* The best of several tries that together last `seconds`. */
static double best_of(peak_work *work, double seconds)
{
    static const int n_tries = 20;
    double best = 0;
    /* As many rounds as take one try's time. */
    work->rounds = 1000;
    while (work->kind != PEAK_READ) {
        const double started = kvf_seconds();
        run_all(work);
        const double taken = kvf_seconds() - started;
        if (taken >= seconds / n_tries / 2)
            break;
        work->rounds *= 2;
    }
    for (int i = 0; i < n_tries; i++) {
        const double rate = run_all(work);
        best = rate > best ? rate : best;
    }
    return best;
}

kvf_status bench_peaks_measure(const char *isa, uint32_t n_threads, const void *memory,
                               size_t memory_bytes, bool quick, bench_peaks *peaks,
                               kvf_error *error)
{
    const bench_peak_kernels *kernels = bench_peak_find(isa);
    const double seconds = quick ? 0.02 : 0.5;
    if (!kernels)
        return kvf_fail(error, KVF_UNSUPPORTED, "no peak loops for the ISA '%.40s'", isa);
    peak_work work = {
        .kernels = kernels, .memory = memory, .memory_bytes = memory_bytes, .n_threads = n_threads};
    const kvf_status status = kvf_pool_open(n_threads, &work.pool, error);
    if (status != KVF_OK)
        return status;
    *peaks = (bench_peaks){.int8_instruction = kernels->int8_instruction, .n_threads = n_threads};
    work.kind = PEAK_FMA;
    peaks->fma_ops = best_of(&work, seconds);
    work.kind = PEAK_INT8;
    peaks->int8_ops = best_of(&work, seconds);
    work.kind = PEAK_READ;
    peaks->read_bytes = best_of(&work, seconds);
    kvf_pool_close(work.pool);
    return kvf_ok(error);
}
