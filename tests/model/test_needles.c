/* Needles in `make check`: 1k in every profile, 4k and 16k in fold; and that they can be lost. */
#include "model/needle.h"

static engine cpu;

static void needles_of_1k_are_found_in_every_profile(void **state)
{
    (void)state;
    for (int profile = 0; profile < KVF_PROFILE_COUNT; profile++)
        all_needles_are_found(&cpu, 1024, (kvf_profile_id)profile);
}

static void needles_of_4k_are_found_in_fold(void **state)
{
    (void)state;
    all_needles_are_found(&cpu, 4096, KVF_PROFILE_FOLD);
}

static void needles_of_16k_are_found_in_fold(void **state)
{
    (void)state;
    all_needles_are_found(&cpu, 16384, KVF_PROFILE_FOLD);
}

static void needles_are_found_with_every_chunk_size(void **state)
{
    (void)state;
    static const uint32_t chunks[] = {1, 7, 128};
    for (int i = 0; i < 3; i++) {
        int n;
        assert_int_equal(count_needles(&cpu, 1024, 2, KVF_PROFILE_FOLD, chunks[i], &n), 2);
    }
}

/* The proof that these tests can fail: an indexer that prefers the wrong rows finds nothing. */
static void negated_index_weights_lose_the_needles(void **state)
{
    (void)state;
    kvf_model *model = cpu.model;
    uint16_t *copies[64] = {NULL};
    assert_true(model->config.geometry.n_layers <= 64);
    for (uint32_t i = 0; i < model->config.geometry.n_layers; i++) {
        kvf_matrix *weights = &model->weights.layers[i].index_weights;
        const size_t n_values = (size_t)weights->rows * weights->cols;
        if (!weights->data)
            continue;
        assert_int_equal(weights->type, KVF_WEIGHT_BF16);
        copies[i] = malloc(n_values * sizeof *copies[i]); /* the file is mapped to be read only */
        assert_non_null(copies[i]);
        for (size_t j = 0; j < n_values; j++)
            copies[i][j] = ((const uint16_t *)weights->data)[j] ^ 0x8000; /* bf16's sign */
        weights->data = copies[i];
    }
    int n;
    const int right = count_needles(&cpu, 4096, 3, KVF_PROFILE_FOLD, 4096, &n);
    print_message("4096 tokens, index weights negated: %d of %d numbers found\n", right, n);
    for (size_t i = 0; i < 64; i++)
        free(copies[i]);
    assert_true(n >= 3);
    assert_int_equal(right, 0);
}

static int setup(void **state)
{
    (void)state;
    cpu = engine_open("cpu", 4096);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    engine_close(&cpu);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(needles_of_1k_are_found_in_every_profile),
        cmocka_unit_test(needles_are_found_with_every_chunk_size),
        cmocka_unit_test(needles_of_4k_are_found_in_fold),
        cmocka_unit_test(needles_of_16k_are_found_in_fold),
        cmocka_unit_test(negated_index_weights_lose_the_needles), /* last: it breaks the model */
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
