/*
 * Runs the conformance suite.
 *     test_conformance                             every backend but ref, every ISA there is
 *     test_conformance --backend cpu --isa avx2    that one; an error if it is not there
 *     test_conformance --backend cpu attend        that operation alone
 *     test_conformance --every 5                   each fifth case (under sanitizers)
 *     test_conformance --backend cuda --skip       status 77 where the machine has no such device
 */
#include "conformance.h"

#include "backend/ref/ref.h"

static const cf_operation *const operations[] = {
    &cf_embed, &cf_embed_stored, &cf_matmul,       &cf_product, &cf_norm,           &cf_rope,
    &cf_mix,   &cf_unmix,        &cf_route,        &cf_experts, &cf_experts_stored, &cf_check,
    &cf_pack,  &cf_unpack,       &cf_compress,     &cf_score,   &cf_score_plain,    &cf_select,
    &cf_mask,  &cf_attend,       &cf_attend_forms, &cf_sample,  &cf_draw,
};
#define N_OPERATIONS (sizeof operations / sizeof operations[0])

/* Every ISA name that a device may have; those that cannot be opened are left out. */
static const char *const isas[] = {"scalar",  "avx2", "avx512", "avx512vnni", "neon",
                                   "generic", "sm80", "ref",    "cpu"};
#define N_ISAS (sizeof isas / sizeof isas[0])

#if defined(KVF_FAR)
#include "far/far.h"
#endif

static const char *only_operation; /* NULL: all of them */
static uint32_t every = 1;         /* of how many cases one is run */

#define MOST_THREADS 3
#define SKIPPED 77

/* One ISA of a backend, with one thread and, where that makes a difference, with more. */
struct target {
    const char *isa;      /* that was asked for; NULL: any */
    char name[64];        /* "cpu/avx2" */
    const char *isa_name; /* that runs */
    kvf_device *devices[MOST_THREADS];
    uint32_t n_devices;
};

/* All that is compared with one run of the reference: a backend's targets. */
struct group {
    char names[160]; /* "cpu/scalar, cpu/avx2" */
    struct target targets[N_ISAS];
    uint32_t n_targets;
};

struct job {
    char name[256]; /* "attend is bit-identical on cpu/scalar, cpu/avx2" */
    const cf_operation *operation;
    const struct group *group;
    kvf_device *reference;
};

static void compare_target(const cf_operation *operation, const struct target *target,
                           const cf_run *expected)
{
    for (uint32_t d = 0; d < target->n_devices; d++) {
        if (d > 0 && d - 1 != expected->index % (target->n_devices - 1))
            continue; /* one thread always, more of them in turn */
        cf_run got;
        cf_begin(&got, target->devices[d], target->name, operation, expected->index);
        got.gpu = expected->gpu;
        operation->run(&got);
        cf_wait(&got);
        cf_compare(operation, expected, &got);
        cf_end(&got);
    }
}

static const kvf_backend *backend_of(const struct group *group)
{
    return group->targets[0].devices[0]->backend;
}

/* By an ISA of its own, or the kernels that all GPUs run. */
static bool is_gpu(const struct group *group)
{
    const char *isa = group->targets[0].isa_name;
    return strcmp(isa, "generic") == 0 || strncmp(isa, "sm", 2) == 0;
}

static void run_case(const struct job *job, uint32_t index)
{
    cf_run expected;
    cf_begin(&expected, job->reference, "ref", job->operation, index);
    expected.gpu = is_gpu(job->group);
    job->operation->run(&expected);
    for (uint32_t t = 0; t < job->group->n_targets; t++)
        compare_target(job->operation, &job->group->targets[t], &expected);
    cf_end(&expected);
}

/* Fails the running test unless what was forced is what runs. */
static void check_isas(const struct group *group)
{
    for (uint32_t t = 0; t < group->n_targets; t++) {
        const char *isa = group->targets[t].isa;
        const char *opened = kvf_device_isa_name(group->targets[t].devices[0]);
        if (isa && strcmp(isa, opened) != 0)
            fail_msg("asked for ISA %s, got %s", isa, opened);
    }
}

static void run_job(void **state)
{
    const struct job *job = *state;
    const cf_operation *operation = job->operation;
    check_isas(job->group);
    if (operation->stored && !backend_of(job->group)->takes_stored_weights) {
        printf("%-12s %s: matrices are f32 there\n", operation->name, job->group->names);
        skip();
    }
    uint32_t n_run = 0;
    for (uint32_t i = 0; i < operation->n_cases; i += every, n_run++)
        run_case(job, i);
    printf("%-13s %4u cases  %-36s %s\n", operation->name, n_run, operation->promise,
           job->group->names);
}

static void close_target(const struct target *target)
{
    for (uint32_t d = 0; d < target->n_devices; d++)
        kvf_device_close(target->devices[d]);
}

static kvf_status open_target(struct target *target, const char *backend, const char *isa,
                              kvf_error *error)
{
    *target = (struct target){.isa = isa};
    for (uint32_t threads = 1; threads <= MOST_THREADS; threads++) {
        const kvf_device_options options = {backend, isa, threads};
        kvf_device *device = NULL;
        const kvf_status status = kvf_device_open(&options, &device, error);
        if (status != KVF_OK) {
            close_target(target);
            return status;
        }
#if defined(KVF_FAR) /* cases prepare and look at memory themselves */
        if (strcmp(kvf_device_backend_name(device), "far") == 0)
            far_expose(device);
        else if (!device->backend->addresses_host_memory && !(device = cf_mirrored(device)))
            return KVF_OUT_OF_MEMORY;
#else
        if (!device->backend->addresses_host_memory && !(device = cf_mirrored(device)))
            return KVF_OUT_OF_MEMORY;
#endif
        if (kvf_device_n_threads(device) != threads) {
            kvf_device_close(device);
            break; /* one thread is all that this backend has */
        }
        target->devices[target->n_devices++] = device;
    }
    target->isa_name = kvf_device_isa_name(target->devices[0]);
    snprintf(target->name, sizeof target->name, "%s/%s",
             kvf_device_backend_name(target->devices[0]), kvf_device_isa_name(target->devices[0]));
    return KVF_OK;
}

static void close_group(const struct group *group)
{
    for (uint32_t t = 0; t < group->n_targets; t++)
        close_target(&group->targets[t]);
}

/* The ISA that was asked for, or every one of the backend that this machine has; one at least. */
static bool open_group(struct group *group, const char *backend, const char *isa)
{
    kvf_error error = {0};
    *group = (struct group){.n_targets = 0};
    for (size_t i = 0; i < (isa ? 1 : N_ISAS); i++) {
        struct target target;
        const kvf_status status = open_target(&target, backend, isa ? isa : isas[i], &error);
        if (status == KVF_UNSUPPORTED && !isa)
            continue;
        if (status != KVF_OK) {
            fprintf(stderr, "%s\n", error.message);
            close_group(group);
            return false;
        }
        const size_t used = strlen(group->names);
        snprintf(group->names + used, sizeof group->names - used, "%s%s", used ? ", " : "",
                 target.name);
        group->targets[group->n_targets++] = target;
    }
    if (group->n_targets == 0)
        fprintf(stderr, "backend %s: nothing could be run: %s\n", backend, error.message);
    return group->n_targets > 0;
}

/* All operations, as one cmocka group. Returns the failures. */
static int run_group(const struct group *group, kvf_device *reference)
{
    struct job jobs[N_OPERATIONS];
    struct CMUnitTest tests[N_OPERATIONS];
    size_t n = 0;
    for (size_t i = 0; i < N_OPERATIONS; i++) {
        if (only_operation && strcmp(operations[i]->name, only_operation) != 0)
            continue;
        jobs[n] = (struct job){"", operations[i], group, reference};
        snprintf(jobs[n].name, sizeof jobs[n].name, "%s is %s on %s", operations[i]->name,
                 operations[i]->promise, group->names);
        tests[n] = (struct CMUnitTest){jobs[n].name, run_job, NULL, NULL, &jobs[n]};
        n++;
    }
    return n ? _cmocka_run_group_tests(backend_of(group)->name, tests, n, NULL, NULL) : 1;
}

/* isa: NULL for all. backend: NULL for the one that a device has if nothing is said. */
static int run_backend(const char *backend, const char *isa, kvf_device *reference)
{
    struct group group;
    if (!open_group(&group, backend, isa))
        return 1;
    const int n_failures = run_group(&group, reference);
    close_group(&group);
    return n_failures;
}

/* The library may have a backend that the machine has no device for. */
static bool machine_has(const char *backend)
{
    const kvf_device_options options = {.backend = backend};
    kvf_device *device = NULL;
    kvf_error error;
    const kvf_status status = kvf_device_open(&options, &device, &error);
    kvf_device_close(device);
    if (status == KVF_UNSUPPORTED)
        printf("%-12s not run: %s\n", backend, error.message);
    return status != KVF_UNSUPPORTED;
}

/* One without an operation does not open, which is not to be taken for a machine without it. */
static bool all_complete(void)
{
    bool complete = true;
    for (uint32_t i = 0; kvf_backend_get(i); i++) {
        kvf_error error;
        if (kvf_backend_check(kvf_backend_get(i), &error) == KVF_OK)
            continue;
        fprintf(stderr, "%s\n", error.message);
        complete = false;
    }
    return complete;
}

int main(int argc, char **argv)
{
    const char *backend = NULL;
    const char *isa = NULL;
    bool may_skip = false;
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--skip") == 0) {
            may_skip = true;
        } else if (strcmp(argv[i], "--backend") == 0 && i + 1 < argc) {
            backend = argv[++i];
        } else if (strcmp(argv[i], "--isa") == 0 && i + 1 < argc) {
            isa = argv[++i];
        } else if (strcmp(argv[i], "--every") == 0 && i + 1 < argc && atoi(argv[i + 1]) > 0) {
            every = (uint32_t)atoi(argv[++i]);
        } else if (argv[i][0] != '-' && !only_operation) {
            only_operation = argv[i];
        } else {
            fprintf(stderr,
                    "usage: %s [--backend NAME] [--isa NAME] [--every N] [--skip] [OPERATION]\n",
                    argv[0]);
            return EXIT_FAILURE;
        }
    }

    if (!all_complete())
        return EXIT_FAILURE;
    if (may_skip && backend && !machine_has(backend))
        return SKIPPED;
    kvf_device *reference;
    if (kvf_backend_ref.open(&(kvf_device_options){0}, &reference, NULL) != KVF_OK)
        return EXIT_FAILURE;
    int n_failures = 0;
    if (!only_operation)
        n_failures =
            cf_run_math_tests() + cf_run_reference_tests() + cf_run_reference_stage_tests();
    bool compared = isa || backend;
    if (compared)
        n_failures += run_backend(backend, isa, reference);
    for (uint32_t i = 0; !isa && !backend && kvf_backend_name(i); i++) {
        /* The reference compared with itself would show nothing, and takes the longest. */
        if (strcmp(kvf_backend_name(i), kvf_backend_ref.name) == 0 ||
            !machine_has(kvf_backend_name(i)))
            continue;
        n_failures += run_backend(kvf_backend_name(i), NULL, reference);
        compared = true;
    }
    if (!compared) {
        fprintf(stderr, "no backend but the reference\n");
        n_failures++;
    }
    kvf_device_close(reference);
    return n_failures ? EXIT_FAILURE : EXIT_SUCCESS;
}
