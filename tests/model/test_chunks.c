/*
 * The logits of every position are the same bits whatever chunks the tokens come in, with any
 * number of threads and any ISA, and are those of the reference backend (docs/FORMAT.md 9.8).
 */
#include "model/golden.h"

#define N_TOKENS 4500 /* over one chunk of 4096 */

static const int32_t *ids;

/* One way to come by the logits of the first n_tokens tokens. */
typedef struct way {
    const char *backend;
    const char *isa; /* NULL: the best here */
    uint32_t n_threads;
    uint32_t chunk_tokens;
    uint64_t n_tokens; /* fewer where it takes long */
    kvf_profile_id profile;
} way;

/* False where the machine lacks the ISA. */
static bool prefill(const way *w, float *logits)
{
    const kvf_device_options options = {
        .backend = w->backend, .isa = w->isa, .n_threads = w->n_threads};
    engine e;
    kvf_error error;
    const kvf_status status = kvf_device_open(&options, &e.device, &error);
    if (status == KVF_UNSUPPORTED && w->isa)
        return false;
    require(status, &error);
    require(kvf_model_load(e.device, KVF_TEST_MODEL, w->chunk_tokens, &e.model, &error), &error);
    kvf_session *session = session_open(&e, w->profile, false, w->n_tokens, w->chunk_tokens);
    feed(&e, session, ids, w->n_tokens, w->chunk_tokens, logits);
    kvf_session_close(session);
    engine_close(&e);
    return true;
}

/* All ways against the logits of one prefill in chunks of 512. */
static void compare(const way *ways, size_t n_ways, uint64_t n_tokens)
{
    const way first = {"cpu", NULL, 2, 512, n_tokens, KVF_PROFILE_FOLD};
    float *expected = malloc(n_tokens * VOCAB * sizeof *expected);
    float *actual = malloc(n_tokens * VOCAB * sizeof *actual);
    assert_true(prefill(&first, expected));
    for (size_t i = 0; i < n_ways; i++) {
        const way *w = &ways[i];
        assert_true(w->n_tokens <= n_tokens);
        if (!prefill(w, actual)) {
            print_message("this machine has no %s\n", w->isa);
            continue;
        }
        for (uint64_t t = 0; t < w->n_tokens; t++)
            if (memcmp(expected + t * VOCAB, actual + t * VOCAB, VOCAB * sizeof(float)) != 0)
                fail_msg("%s %s, %u threads, chunks of %u, %s: logits of token %llu differ",
                         w->backend, w->isa ? w->isa : "", w->n_threads, w->chunk_tokens,
                         kvf_profile_get(w->profile)->name, (unsigned long long)t);
    }
    free(expected);
    free(actual);
}

static void no_chunking_touches_a_bit(void **state)
{
    (void)state;
    static const way ways[] = {
        {"cpu", NULL, 1, 1, 700, KVF_PROFILE_FOLD},
        {"cpu", NULL, 2, 7, 1500, KVF_PROFILE_FOLD},
        {"cpu", NULL, 1, 97, 1500, KVF_PROFILE_LEGACY}, /* one more than attention takes at once */
        {"cpu", NULL, 2, 128, N_TOKENS, KVF_PROFILE_PACKED},
        {"cpu", NULL, 2, 4096, N_TOKENS, KVF_PROFILE_FOLD},
        {"cpu", NULL, 2, 8192, N_TOKENS, KVF_PROFILE_TILED}};
    compare(ways, sizeof ways / sizeof *ways, N_TOKENS);
}

static void no_number_of_threads_touches_a_bit(void **state)
{
    (void)state;
    static const way ways[] = {{"cpu", NULL, 1, 300, 300, KVF_PROFILE_FOLD},
                               {"cpu", NULL, 3, 300, 300, KVF_PROFILE_LEGACY},
                               {"cpu", NULL, 5, 61, 300, KVF_PROFILE_FOLD},
                               {"cpu", NULL, 7, 1, 140, KVF_PROFILE_FOLD}};
    compare(ways, sizeof ways / sizeof *ways, 300);
}

/* The plain ones call fma as a function: fewer tokens. */
static void no_isa_touches_a_bit(void **state)
{
    (void)state;
    static const way ways[] = {{"cpu", "scalar", 2, 137, 137, KVF_PROFILE_FOLD},
                               {"cpu", "scalar", 2, 1, 20, KVF_PROFILE_LEGACY},
                               {"cpu", "avx2", 1, 1, 140, KVF_PROFILE_FOLD},
                               {"cpu", "avx2", 2, 61, 300, KVF_PROFILE_PACKED},
                               {"cpu", "avx512", 1, 1, 140, KVF_PROFILE_FOLD},
                               {"cpu", "avx512", 2, 300, 300, KVF_PROFILE_TILED},
                               {"cpu", "avx512vnni", 1, 140, 300, KVF_PROFILE_FOLD},
                               {"cpu", "neon", 1, 1, 140, KVF_PROFILE_FOLD},
                               {"cpu", "neon", 2, 61, 300, KVF_PROFILE_PACKED}};
    compare(ways, sizeof ways / sizeof *ways, 300);
}

static void the_reference_backend_gives_the_same_bits(void **state)
{
    (void)state;
    static const way ways[] = {{"ref", NULL, 1, 135, 135, KVF_PROFILE_FOLD},
                               {"ref", NULL, 1, 3, 20, KVF_PROFILE_LEGACY}};
    compare(ways, sizeof ways / sizeof *ways, 135);
}

static int setup(void **state)
{
    (void)state;
    golden_open();
    ids = golden(NULL, "p13001.ids");
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    kvf_tensor_set_close(golden_files);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(no_chunking_touches_a_bit),
        cmocka_unit_test(no_number_of_threads_touches_a_bit),
        cmocka_unit_test(no_isa_touches_a_bit),
        cmocka_unit_test(the_reference_backend_gives_the_same_bits),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
