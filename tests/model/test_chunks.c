/*
 * Prefill in chunks of 1, 7, 128, 4096 and all at once. The dense products belong
 * to the library and change their last bits with the number of rows, so different
 * chunkings agree like two implementations do (tests/model/README.txt, qat), while
 * the same chunking gives the same bits every time and with any number of threads
 * of ours.
 */
#include "model/golden.h"

static engine cpu;

#define N_CHUNKINGS 5
static const uint32_t chunkings[N_CHUNKINGS] = {1, 7, 128, 4096, 8192};
/*
 * Tokens of p13001 that are fed: over one chunk of 4096, so that the last two differ;
 * fewer in small chunks, which take long. Pairs are compared over what both have.
 */
static const int n_tokens[N_CHUNKINGS] = {1500, 1500, 4500, 4500, 4500};

static float *prefill(const int32_t *ids, uint64_t n, uint32_t chunk_tokens, kvf_profile_id profile)
{
    float *logits = malloc(n * VOCAB * sizeof *logits);
    kvf_session *session = session_open(&cpu, profile, false, n, chunk_tokens);
    feed(&cpu, session, ids, n, chunk_tokens, logits);
    kvf_session_close(session);
    return logits;
}

static void every_chunking_agrees_within_the_noise_floor(void **state)
{
    (void)state;
    const int32_t *ids = golden(NULL, "p13001.ids");
    float *logits[N_CHUNKINGS];
    for (int i = 0; i < N_CHUNKINGS; i++)
        logits[i] = prefill(ids, (uint64_t)n_tokens[i], chunkings[i], KVF_PROFILE_FOLD);
    for (int a = 0; a < N_CHUNKINGS; a++)
        for (int b = a + 1; b < N_CHUNKINGS; b++) {
            const int n = (n_tokens[a] < n_tokens[b] ? n_tokens[a] : n_tokens[b]) - 1;
            double sum = 0;
            int equal = 0;
            for (int i = 0; i < n; i++) {
                const float *x = logits[a] + (size_t)i * VOCAB;
                const float *y = logits[b] + (size_t)i * VOCAB;
                sum += fabs(nll(x, ids[i + 1]) - nll(y, ids[i + 1]));
                equal += argmax(x) == argmax(y);
            }
            print_message("chunks of %u and %u: mean |dNLL| %.2g, argmax equal %.4f\n",
                          chunkings[a], chunkings[b], sum / n, equal / (double)n);
            assert_true(sum / n <= 3e-3);
            assert_true(equal >= 0.995 * n);
        }
    for (int i = 0; i < N_CHUNKINGS; i++)
        free(logits[i]);
}

static void the_same_chunks_give_the_same_bits(void **state)
{
    (void)state;
    const int32_t *ids = golden(NULL, "p700.ids");
    static const uint32_t chunks[] = {1, 7, 128, 700};
    for (int i = 0; i < 4; i++) {
        float *first = prefill(ids, 700, chunks[i], KVF_PROFILE_FOLD);
        float *again = prefill(ids, 700, chunks[i], KVF_PROFILE_FOLD);
        float *legacy = prefill(ids, 700, chunks[i], KVF_PROFILE_LEGACY);
        assert_memory_equal(first, again, 700 * VOCAB * sizeof(float));
        assert_memory_equal(first, legacy, 700 * VOCAB * sizeof(float));
        free(first);
        free(again);
        free(legacy);
    }
}

static int setup(void **state)
{
    (void)state;
    golden_open();
    cpu = engine_open("cpu", 8192);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    engine_close(&cpu);
    kvf_tensor_set_close(golden_files);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_same_chunks_give_the_same_bits),
        cmocka_unit_test(every_chunking_agrees_within_the_noise_floor),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
