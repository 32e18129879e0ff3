/* The CPU backend: opening, choice of the ISA, memory. */
#include "backend/cpu/kernels.h"

#include <stdlib.h>
#include <string.h>

#include "backend/cpu/cpus.h"
#include "backend/cpu/product.h"
#include "error.h"

typedef struct isa_entry {
    const kvf_cpu_kernels *kernels;
    bool (*available)(void);
} isa_entry;

static bool always(void)
{
    return true;
}

#if defined(__x86_64__)
static bool has_avx2(void)
{
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
           __builtin_cpu_supports("bmi2"); /* and f16c, which clang 14 cannot ask for */
}

static bool has_avx512(void)
{
    return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
}

static bool has_avx512vnni(void)
{
    return has_avx512() && __builtin_cpu_supports("avx512vnni");
}
#endif

#if defined(__aarch64__)
#if defined(__linux__)
#include <sys/auxv.h>
/* HWCAP_ASIMDDP of Linux's arm64 ABI. */
static bool has_dotprod(void)
{
    return getauxval(AT_HWCAP) & 1ul << 20;
}
#elif defined(__APPLE__)
/* Every Apple processor that runs macOS has it. */
static bool has_dotprod(void)
{
    return true;
}
#else
/* Nobody is asked: it is there where the compiler was told so of every processor it builds for. */
static bool has_dotprod(void)
{
#if defined(__ARM_FEATURE_DOTPROD)
    return true;
#else
    return false;
#endif
}
#endif
#endif

/* From the plainest to the best; the last that is available is the default. */
static const isa_entry isa_entries[] = {
    {&kvf_cpu_kernels_scalar, always},
#if defined(__x86_64__)
    {&kvf_cpu_kernels_avx2, has_avx2},
    {&kvf_cpu_kernels_avx512, has_avx512},
    {&kvf_cpu_kernels_avx512vnni, has_avx512vnni},
#endif
#if defined(__aarch64__)
    {&kvf_cpu_kernels_neon, has_dotprod},
#endif
};
#define N_ISAS (sizeof isa_entries / sizeof isa_entries[0])

static const kvf_cpu_kernels *find_isa(const char *name, kvf_error *error)
{
    const kvf_cpu_kernels *best = NULL;
    char known[128] = "";
    for (size_t i = 0; i < N_ISAS; i++) {
        const bool available = isa_entries[i].available();
        const char *isa = isa_entries[i].kernels->isa;
        if (available) {
            strncat(known, known[0] ? ", " : "", sizeof known - strlen(known) - 1);
            strncat(known, isa, sizeof known - strlen(known) - 1);
        }
        if (available && (!name || strcmp(isa, name) == 0))
            best = isa_entries[i].kernels;
    }
    if (!best)
        kvf_fail(error, KVF_UNSUPPORTED, "this processor has no ISA '%.40s'; it has: %s", name,
                 known);
    return best;
}

static void *cpu_alloc(kvf_device *device, size_t bytes, kvf_place place)
{
    (void)device;
    (void)place;
    void *memory = NULL;
    return posix_memalign(&memory, 64, bytes ? bytes : 1) == 0 ? memory : NULL;
}

static void cpu_close(kvf_device *device)
{
    kvf_cpu_device *cpu = (kvf_cpu_device *)device;
    kvf_pool_close(cpu->pool);
    free(cpu->spaces);
    free(cpu->stage_spaces);
    free(device);
}

static kvf_status cpu_open(const kvf_device_options *options, kvf_device **device, kvf_error *error)
{
    const kvf_cpu_kernels *kernels = find_isa(options->isa, error);
    if (!kernels)
        return KVF_UNSUPPORTED;
    if (options->n_threads > KVF_MAX_THREADS)
        return kvf_fail(error, KVF_INVALID_ARGUMENT, "%u threads; 1 to %d are served",
                        options->n_threads, KVF_MAX_THREADS);
    kvf_cpu_device *cpu = calloc(1, sizeof *cpu);
    if (!cpu)
        return kvf_fail(error, KVF_OUT_OF_MEMORY, "no memory for a device");
    cpu->base.backend = &kvf_backend_cpu;
    cpu->base.isa = kernels->isa;
    cpu->base.n_threads = options->n_threads;
    if (options->n_threads == 0) {
        const uint32_t n_cpus = kvf_cpus_available();
        cpu->base.n_threads = n_cpus < KVF_MAX_THREADS ? n_cpus : KVF_MAX_THREADS;
    }
    cpu->kernels = kernels;
    kvf_status status = kvf_pool_open(cpu->base.n_threads, &cpu->pool, error);
    /* Large, and touched as far as it is needed: pages that are not cost nothing. */
    if (status == KVF_OK) {
        cpu->spaces =
            cpu_alloc(&cpu->base, cpu->base.n_threads * sizeof *cpu->spaces, KVF_PLACE_DEVICE);
        cpu->stage_spaces = cpu_alloc(&cpu->base, cpu->base.n_threads * sizeof *cpu->stage_spaces,
                                      KVF_PLACE_DEVICE);
        if (!cpu->spaces || !cpu->stage_spaces)
            status = kvf_fail(error, KVF_OUT_OF_MEMORY, "no memory for the workspace of %u threads",
                              cpu->base.n_threads);
    }
    if (status != KVF_OK) {
        cpu_close(&cpu->base);
        return status;
    }
    *device = &cpu->base;
    return KVF_OK;
}

static void cpu_run(kvf_device *device, size_t n_items, size_t chunk_items, kvf_task *task,
                    void *context)
{
    kvf_pool_run(((kvf_cpu_device *)device)->pool, n_items, chunk_items, task, context);
}

static void cpu_release(kvf_device *device, void *memory, size_t bytes)
{
    (void)device;
    (void)bytes;
    free(memory);
}

const kvf_backend kvf_backend_cpu = {
    .name = "cpu",
    .addresses_host_memory = true,
    .takes_stored_weights = true,
    .slab_bytes = KVF_HOST_SLAB_BYTES,
    .open = cpu_open,
    .close = cpu_close,
    .alloc = cpu_alloc,
    .release = cpu_release,
    .zero = kvf_host_zero,
    .write = kvf_host_write,
    .read = kvf_host_read,
    .copy = kvf_host_copy,
    .wait = kvf_host_wait,
    .run = cpu_run,
    .embed = kvf_cpu_embed,
    .matmul = kvf_cpu_matmul,
    .norm = kvf_cpu_norm,
    .rope = kvf_cpu_rope,
    .mix = kvf_cpu_mix,
    .unmix = kvf_cpu_unmix,
    .route = kvf_cpu_route,
    .experts = kvf_cpu_experts,
    .sample = kvf_host_sample,
    .check = kvf_cpu_check,
    .compress = kvf_cpu_compress,
    .pack = kvf_cpu_pack,
    .unpack = kvf_cpu_unpack,
    .select = kvf_cpu_select,
    .score = kvf_cpu_score,
    .mask = kvf_cpu_mask,
    .attend = kvf_cpu_attend,
    .experts_workspace_bytes = kvf_cpu_experts_workspace,
    .select_workspace_bytes = kvf_cpu_select_workspace,
    .attend_workspace_bytes = kvf_cpu_attend_workspace,
};
