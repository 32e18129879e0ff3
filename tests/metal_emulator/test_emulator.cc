/*
 * The emulator itself: every kind of bug it is there to find, beside a kernel without it.
 * (test_values.cc: what its functions compute.)
 *
 * usage: test_emulator      exit status 1 where something failed
 */
#include "test_emulator.h"

const kvf_gpu_driver *const test_driver = &kvf_gpu_driver_emulated;

/* ---- Bugs -------------------------------------------------------------------------- */

/* A run of one kernel of bugs.metal: 64 threads, and what the message says, or NULL. */
struct bug {
    const char *kernel;
    uint32_t other;
    const char *says[3];
    bool faults_unchecked; /* guard pages find it too */
};

static const bug bugs[] = {
    {"with_barrier", 0, {}, false},
    {"missing_barrier", 0, {"kernel missing_barrier of bugs.metal", "not written"}, false},
    {"missing_barrier", 1, {"not written", "threadgroup(0)"}, false},
    {"barrier_of_other_memory", 0, {"data race: read of byte", "threadgroup(0)"}, false},
    {"neighbours_in_simdgroup", 0, {}, false},
    {"neighbours_in_simdgroup", 1, {"threadgroup(0)", "not written"}, false},
    {"neighbours_in_simdgroup", 2, {"data race: read of byte 124", "by thread 31"}, false},
    {"write_after_read", 0, {}, false},
    {"write_after_read", 1, {"data race: write of byte", "after a read by thread"}, false},
    {"atomic_sum", 0, {}, false},
    {"plain_sum",
     0,
     {"data race", "byte 0 of the memory of argument byte 16", "by thread 0"},
     false},
    {"bytes_of_a_word", 1, {}, false},
    {"bytes_of_a_word", 2, {"data race: write of byte 0", "after a write by thread 0"}, false},
    {"across_threadgroups", 1, {}, false},
    {"across_threadgroups", 0, {"data race", "by threadgroup 0 of the grid"}, false},
    {"read_beyond", 0, {}, false},
    {"read_beyond",
     1,
     {"read of 4 bytes out of bounds: 0 bytes past the end", "argument byte 16"},
     false},
    {"read_beyond", 4096, {"out of bounds", "past the end"}, true},
    {"read_before", 0, {}, false},
    {"read_before", 1, {"out of bounds: 4 bytes before the start", "argument byte 16"}, true},
    {"write_beyond", 0, {}, false},
    {"write_beyond",
     193,
     {"write of 1 bytes out of bounds: 0 bytes past", "argument byte 16"},
     false},
    {"write_beyond", 8192, {"out of bounds", "past the end"}, true},
    {"shared_beyond", 0, {}, false},
    {"shared_beyond", 1, {"write of 4 bytes out of bounds", "byte 256 of threadgroup(0)"}, false},
    {"table_beyond", 0, {}, false},
    {"table_beyond", 1, {"index out of bounds"}, false},
    {"unwritten_shared", 0, {}, false},
    {"unwritten_shared", 1, {"threadgroup memory that was not written", "byte 252"}, false},
    {"divergent_barrier", 0, {}, false},
    {"divergent_barrier", 1, {"ended while thread", "waits in threadgroup_barrier"}, true},
    {"divergent_barrier", 2, {"threadgroup_barrier", "waits in threadgroup_barrier"}, true},
    {"divergent_barrier", 3, {"thread (7, 0, 0): the thread ended while thread 0"}, false},
    {"divergent_simd", 0, {}, false},
    {"divergent_simd", 1, {"ended while thread", "waits in simd_sum"}, true},
    {"divergent_simd", 2, {"simd_sum", "waits in simd_sum"}, true},
    {"divergent_simd", 3, {"threadgroup_barrier", "waits in simd_sum"}, true},
    {"divergent_load", 0, {}, false},
    {"divergent_load", 1, {"different simdgroup_load", "simdgroup_multiply_accumulate"}, true},
    {"missing_lane", 31, {}, false},
    {"missing_lane", 32, {"simd_shuffle from a lane that does not exist"}, true},
    {"deep_stack", 100, {"a thread's stack"}, true},
};

static void check_message(const bug *b, kvf_status status, const char *message)
{
    char what[128];
    snprintf(what, sizeof(what), "%s(%u)", b->kernel, b->other);
    if (!b->says[0]) {
        expect(status == KVF_OK, what, message);
        expect(kvf_emulator_get_counters()->violations == 0, what, "a violation counted");
        expect(kvf_emulator_get_counters()->dispatches == 1, what, "one dispatch counted");
        return;
    }
    expect(status == KVF_DEVICE_LOST, what, "not caught");
    expect(kvf_emulator_get_counters()->violations == 1, what, "no violation counted");
    expect(strcmp(kvf_emulator_last_violation(), message) == 0, what, "another last violation");
    expect(strstr(message, b->kernel) && strstr(message, "threadgroup (") &&
               strstr(message, "thread ("),
           what, message);
    for (const char *part : b->says)
        expect(!part || strstr(message, part), what, message);
}

static void run_bug(const bug *b, bool reverse)
{
    test_rig rig;
    test_rig_open(&rig, "bugs.metal");
    kvf_emulator_set_quiet(true);
    kvf_emulator_set_reverse(reverse);
    rig.arguments.n = 64;
    rig.arguments.other = b->other;
    rig.dispatch.threads[0] = strcmp(b->kernel, "divergent_load") == 0 ? 32 : 64;
    if (strcmp(b->kernel, "across_threadgroups") == 0)
        rig.dispatch.groups[0] = 3;
    test_rig_buffer(&rig, 256);
    if (strncmp(b->kernel, "read_be", 7) == 0)
        test_rig_buffer(&rig, 256);
    if (strstr("missing_barrier with_barrier barrier_of_other_memory neighbours_in_simdgroup "
               "write_after_read shared_beyond unwritten_shared",
               b->kernel)) {
        rig.dispatch.n_threadgroup_arrays = 1;
        rig.dispatch.threadgroup_bytes[0] = 256;
    }
    kvf_error error;
    check_message(b, test_rig_run(&rig, b->kernel, &error), error.message);
    test_rig_close(&rig);
}

static void test_bugs(void)
{
    for (const bug &b : bugs) {
#if KVF_EMULATOR_CHECKED
        run_bug(&b, false);
#else
        if (!b.says[0] || b.faults_unchecked)
            run_bug(&b, false);
#endif
    }
}

/* Pages by address: a live buffer's, its host address, a released buffer's. */
static void test_pages(void)
{
    static const char *const says[] = {nullptr, "by the host's address", "of a released buffer",
                                       "in no buffer"};
    for (int i = 0; i < 4; i++) {
#if !KVF_EMULATOR_CHECKED
        if (i == 1) /* both views are there; only checks tell them apart */
            continue;
#endif
        test_rig rig;
        test_rig_open(&rig, "bugs.metal");
        kvf_emulator_set_quiet(true);
        rig.dispatch.threads[0] = 8;
        const uint32_t *out = static_cast<uint32_t *>(test_rig_buffer(&rig, 32));
        kvf_gpu_buffer page;
        expect(test_driver->make_buffer(rig.gpu, 32, true, &page), "a page", "");
        const uint32_t values[8] = {3, 1, 4, 1, 5, 9, 2, 6};
        memcpy(page.contents, values, sizeof(values));
        rig.arguments.page = i == 1   ? reinterpret_cast<uintptr_t>(page.contents)
                             : i == 3 ? 4096
                                      : page.gpu_address;
        if (i == 2)
            test_driver->release_buffer(rig.gpu, &page);
        kvf_error error;
        const kvf_status status = test_rig_run(&rig, "read_page", &error);
        if (says[i])
            expect(status == KVF_DEVICE_LOST && strstr(error.message, says[i]), "read_page",
                   error.message);
        else
            expect(status == KVF_OK && memcmp(out, values, sizeof(values)) == 0, "read_page",
                   error.message);
        test_driver->release_buffer(rig.gpu, &page);
        test_rig_close(&rig);
    }
}

/* ---- The host, while dispatches are queued ---------------------------------------------- */

/* A dispatch reads words 0 .. 7 of a buffer and writes them to another; then the host does this. */
struct host_act {
    const char *what;
    uint64_t touches;
    void (*act)(volatile uint32_t *in, volatile uint32_t *out);
};

static const host_act host_acts[] = {
    {"nothing", 0, [](volatile uint32_t *, volatile uint32_t *) {}},
    {"writes what it reads", 1, [](volatile uint32_t *in, volatile uint32_t *) { in[7] = 99; }},
    {"writes beside it", 0, [](volatile uint32_t *in, volatile uint32_t *) { in[8] = 99; }},
    {"reads what it reads", 0, [](volatile uint32_t *in, volatile uint32_t *) { (void)in[3]; }},
    {"reads what it writes", 1, [](volatile uint32_t *, volatile uint32_t *out) { (void)out[0]; }},
    {"reads behind it", 0, [](volatile uint32_t *, volatile uint32_t *out) { (void)out[8]; }},
    {"writes what it writes", 1, [](volatile uint32_t *, volatile uint32_t *out) { out[2] = 7; }},
    {"reads and writes", 2,
     [](volatile uint32_t *in, volatile uint32_t *out) { in[0] = in[1] + out[1] + 1; }},
};

static void test_touches(void)
{
    for (const host_act &a : host_acts) {
        const uint64_t seen =
            KVF_EMULATOR_CHECKED ? a.touches : 0; /* of kernels without checks none */
        test_rig rig;
        kvf_error error;
        test_rig_open(&rig, "bugs.metal");
        volatile uint32_t *out = static_cast<uint32_t *>(test_rig_buffer(&rig, 64));
        volatile uint32_t *in = static_cast<uint32_t *>(test_rig_buffer(&rig, 128));
        rig.arguments.page = rig.buffers[1].gpu_address;
        rig.dispatch.threads[0] = 8;
        kvf_emulator_watch_host(true);
        in[0] = 5; /* before: it is seen */
        test_rig_queue(&rig, "read_page");
        a.act(in, out);
        /* For the next dispatch, beside what the first one uses. */
        for (int i = 16; i < 24; i++)
            in[i] = (uint32_t)i;
        rig.arguments.page += 64;
        rig.arguments.at[0] += 32;
        test_rig_queue(&rig, "read_page");
        expect(test_driver->wait(rig.gpu, &error) == KVF_OK, a.what, error.message);
        expect(out[8] == 16 && out[15] == 23, a.what, "another result");
        expect(kvf_emulator_get_counters()->host_touches == seen, a.what,
               kvf_emulator_last_touch());
        expect(!seen == !kvf_emulator_last_touch()[0], a.what, "no words for it");
        kvf_emulator_watch_host(false);
        test_rig_close(&rig);
    }
}

/* ---- Dispatches that do not fit their kernel ----------------------------------------- */

static void test_dispatches(void)
{
    static const char *const says[] = {"1025 threads",
                                       "a grid of (0, 1, 1)",
                                       "8 bytes of arguments",
                                       "0 threadgroup arrays given",
                                       "40 bytes, not a multiple of 16",
                                       "32784 bytes of threadgroup memory",
                                       "(1, 65536, 1) threadgroups",
                                       "257 threads in a threadgroup, more than"};
    for (int i = 0; i < 8; i++) {
        test_rig rig;
        test_rig_open(&rig, "bugs.metal");
        kvf_emulator_set_quiet(true);
        test_rig_buffer(&rig, 256);
        kvf_gpu_dispatch *d = &rig.dispatch;
        rig.arguments.n = 1;
        d->n_threadgroup_arrays = i == 3 ? 0 : 1;
        d->threadgroup_bytes[0] = i == 4 ? 40 : i == 5 ? 32784 : 16;
        d->threads[0] = i == 0 ? 1025 : i == 7 ? 257 : 1;
        d->groups[0] = i == 1 ? 0 : 1;
        d->groups[1] = i == 6 ? 65536 : 1;
        d->argument_bytes = i == 2 ? 8 : sizeof(rig.arguments);
        kvf_error error;
        const kvf_status status = test_rig_run(&rig, "with_barrier", &error);
        expect(status == KVF_DEVICE_LOST && strstr(error.message, says[i]), says[i], error.message);
        test_rig_close(&rig);
    }
}

/* ---- Injected faults ------------------------------------------------------------------- */

static void test_faults(void)
{
    kvf_error error;
    kvf_gpu *gpu;
    kvf_emulator_reset();
    kvf_emulator_fail_open(2);
    kvf_emulator_set_working_set_bytes(1 << 20);
    kvf_emulator_set_buffer_bytes(4096);
    expect(test_driver->open(&gpu, &error) == KVF_OK, "the first open", error.message);
    expect(test_driver->limits(gpu)->working_set_bytes == 1 << 20, "working set", "");
    kvf_gpu *none;
    expect(test_driver->open(&none, &error) == KVF_UNSUPPORTED && !none && error.message[0],
           "the second open fails", error.message);
    kvf_gpu_buffer buffer;
    expect(!test_driver->make_buffer(gpu, 4097, true, &buffer), "a buffer over the limit", "");
    kvf_emulator_fail_buffer(1);
    expect(!test_driver->make_buffer(gpu, 16, true, &buffer), "a buffer that fails", "");
    expect(test_driver->make_buffer(gpu, 16, true, &buffer), "the next buffer", "");
    expect(kvf_emulator_get_counters()->live_bytes == 16, "live bytes", "");
    test_driver->release_buffer(gpu, &buffer);
    kvf_gpu_library *library;
    kvf_emulator_fail_compile(1);
    expect(test_driver->compile(gpu, "bugs.metal", "x", &library, &error) == KVF_UNSUPPORTED &&
               strstr(error.message, "bugs.metal:12:5: error: "),
           "a compile that fails", error.message);
    expect(test_driver->compile(gpu, "none.metal", "x", &library, &error) == KVF_UNSUPPORTED,
           "a source that is not there", "");
    expect(test_driver->compile(gpu, "bugs.metal", "x", &library, &error) == KVF_OK, "compile",
           error.message);
    kvf_gpu_pipeline *pipeline;
    expect(test_driver->make_pipeline(gpu, library, "none", &pipeline, &error) == KVF_UNSUPPORTED,
           "a kernel that is not there", "");
    kvf_emulator_fail_wait(1);
    expect(test_driver->wait(gpu, &error) == KVF_DEVICE_LOST && error.message[0], "a lost device",
           "");
    expect(test_driver->wait(gpu, &error) == KVF_OK, "the wait after it", error.message);
    test_driver->release_library(gpu, library);
    test_driver->close(gpu);
    kvf_emulator_reset();
}

int main(void)
{
    test_bugs();
    test_pages();
    test_touches();
    test_dispatches();
    test_faults();
    test_values();
    return test_summary();
}
