/*
 * Tokens drawn from what a pass sampled on the device are those that the rows of logits give, for
 * every way to draw, through a batch that goes on; and the rows are there for who asks. On the
 * backend `far`, or on the one that is named:
 *
 *     test_far_sampling
 *     test_metal_sampling emulated
 */
#include "model/golden.h"

#include "model/sample.h"

#define PROMPT 17
#define STEPS 10
#define MOST_TOKENS 256
#define CHECKPOINT 128 /* tokens between places where one can be taken */

static const char *backend = "far";

/* Every second token; every token but these can be drawn. */
static const uint32_t half_allowed[VOCAB / 32] = {0x55555555, 0x55555555, 0x55555555, 0x55555555,
                                                  0x55555555, 0x55555555, 0x55555555, 0x55555555,
                                                  0x55555555, 0x55555555};
static const kvf_bias biases[] = {{101, 4}, {32, -INFINITY}, {97, -0.5f}, {300, 2}};

/* top_p, min_p, top_k, then what changes logits; some need the row, which is to be the same. */
static const struct way {
    kvf_sampler sampler;
    kvf_logit_changes changes;
} ways[] = {
    {{0, 1, 0, 1, 0}, {.repeat_penalty = 1}},
    {{1, 0.9f, 0, 2, 0}, {.repeat_penalty = 1}},
    {{1, 1, 0.05f, 3, 0}, {.repeat_penalty = 1}},
    {{1.5f, 0.95f, 0, 4, 40}, {.repeat_penalty = 1}},
    {{1, 1, 0, 5, 0}, {.repeat_penalty = 1}},
    {{0, 1, 0, 6, 0}, {.repeat_penalty = 1.5f}},
    {{0.7f, 0.9f, 0, 7, 20},
     {.repeat_penalty = 1, .presence_penalty = 0.5f, .frequency_penalty = 0.25f}},
    {{0.8f, 1, 0.1f, 8, 0}, {.repeat_penalty = 1, .bias = biases, .n_bias = 4}},
    {{1, 0.9f, 0, 9, 0}, {.repeat_penalty = 1, .allowed = half_allowed}},
    {{0, 1, 0, 10, 0},
     {.repeat_penalty = 1.2f, .bias = biases, .n_bias = 4, .allowed = half_allowed}},
};
enum { N_WAYS = sizeof ways / sizeof ways[0] };

/* Sessions that answer in one batch, each in its way. */
typedef struct answers {
    kvf_session *sessions[N_WAYS];
    kvf_sampler samplers[N_WAYS];
    kvf_sampling samplings[N_WAYS];
    kvf_token_use uses[N_WAYS][VOCAB];
    int32_t pending[N_WAYS];
} answers;

static const kvf_session_options options = {.profile = KVF_PROFILE_FOLD,
                                            .max_tokens = MOST_TOKENS,
                                            .chunk_tokens = N_WAYS * PROMPT,
                                            .batch_sessions = N_WAYS};

static kvf_model *load(kvf_device **device)
{
    kvf_error error;
    kvf_model *model;
    const bool far = strcmp(backend, "far") == 0;
    const kvf_device_options device_options = {.backend = backend, .isa = far ? "cpu" : NULL};
    require(kvf_device_open(&device_options, device, &error), &error);
    require(kvf_model_load(*device, KVF_TEST_MODEL, options.chunk_tokens, &model, &error), &error);
    return model;
}

static answers *answers_open(kvf_model *model)
{
    kvf_error error;
    answers *a = calloc(1, sizeof *a);
    assert_non_null(a);
    for (uint32_t i = 0; i < N_WAYS; i++) {
        require(kvf_model_open_session(model, &options, &a->sessions[i], &error), &error);
        a->samplers[i] = ways[i].sampler;
        a->samplings[i].temperature = ways[i].sampler.temperature;
        a->samplings[i].changes = ways[i].changes;
        a->samplings[i].changes.uses = a->uses[i];
    }
    return a;
}

static void answers_close(answers *a)
{
    for (uint32_t i = 0; i < N_WAYS; i++)
        kvf_session_close(a->sessions[i]);
    free(a);
}

/* One pass; ids [N_WAYS][n]. */
static void forward(kvf_model *model, kvf_batch *batch, answers *a, const int32_t *ids, uint32_t n,
                    bool samples)
{
    kvf_batch_item items[N_WAYS];
    kvf_error error;
    for (uint32_t i = 0; i < N_WAYS; i++)
        items[i] = (kvf_batch_item){.session = a->sessions[i],
                                    .ids = ids + (size_t)i * n,
                                    .n = n,
                                    .sampling = samples ? &a->samplings[i] : NULL};
    require(kvf_model_forward(model, batch, items, N_WAYS, &error), &error);
    for (uint32_t i = 0; i < N_WAYS; i++) {
        require(items[i].status, &items[i].error);
        assert_int_equal(a->samplings[i].is_sampled, samples);
    }
}

static void use(answers *a, uint32_t i, uint32_t id)
{
    kvf_logit_changes *changes = &a->samplings[i].changes;
    uint32_t at = 0;
    while (at < changes->n_uses && a->uses[i][at].id != id)
        at++;
    if (at == changes->n_uses)
        a->uses[i][changes->n_uses++] = (kvf_token_use){id, 0};
    a->uses[i][at].count++;
}

static void draw(answers *a, const kvf_drawing *drawing)
{
    kvf_error error;
    uint32_t id;
    for (uint32_t i = 0; i < N_WAYS; i++) {
        require(
            kvf_draw_token(&a->samplers[i], a->sessions[i], &a->samplings[i], drawing, &id, &error),
            &error);
        a->pending[i] = (int32_t)id;
        use(a, i, id);
    }
}

static void fill_prompts(int32_t ids[N_WAYS][PROMPT])
{
    for (int i = 0; i < N_WAYS; i++)
        for (int t = 0; t < PROMPT; t++)
            ids[i][t] = 97 + (i * 5 + t * 7) % 26;
}

static void assert_same_logits(kvf_session *sampled, kvf_session *whole)
{
    assert_memory_equal(kvf_session_logits(sampled), kvf_session_logits(whole),
                        VOCAB * sizeof(float));
}

static void a_sampled_batch_draws_what_the_rows_give(void **state)
{
    (void)state;
    kvf_device *device;
    kvf_batch *batch;
    kvf_error error;
    kvf_candidate candidates[VOCAB];
    float changed[VOCAB];
    int32_t ids[N_WAYS][PROMPT];
    const kvf_drawing drawing = {candidates, changed, VOCAB};
    kvf_model *model = load(&device);
    require(kvf_batch_open(device, &model->config.geometry, &options, &batch, &error), &error);
    answers *sampled = answers_open(model);
    answers *whole = answers_open(model);
    fill_prompts(ids);
    forward(model, batch, sampled, &ids[0][0], PROMPT, true);
    forward(model, batch, whole, &ids[0][0], PROMPT, false);
    for (int step = 0; step < STEPS; step++) {
        draw(sampled, &drawing);
        draw(whole, &drawing);
        assert_memory_equal(sampled->pending, whole->pending, sizeof whole->pending);
        assert_memory_equal(sampled->samplers, whole->samplers, sizeof whole->samplers);
        forward(model, batch, sampled, sampled->pending, 1, true);
        forward(model, batch, whole, whole->pending, 1, false);
        if (step % 5 == 4) /* one that was not waited for, and one that was */
            assert_same_logits(sampled->sessions[step % N_WAYS], whole->sessions[step % N_WAYS]);
    }
    for (uint32_t i = 0; i < N_WAYS; i++)
        assert_same_logits(sampled->sessions[i], whole->sessions[i]);
    answers_close(sampled);
    answers_close(whole);
    kvf_batch_close(batch);
    kvf_model_free(model);
    kvf_device_close(device);
}

/* What keeps logits has those of the pass, though nobody waited for them before. */
static void forks_and_checkpoints_have_the_logits_of_a_sampled_pass(void **state)
{
    (void)state;
    kvf_device *device;
    kvf_error error;
    int32_t ids[CHECKPOINT];
    kvf_session *fork[2];
    kvf_model *model = load(&device);
    answers *a = answers_open(model);
    for (int t = 0; t < CHECKPOINT; t++)
        ids[t] = 97 + t * 7 % 26;
    for (int i = 0; i < 2; i++) {
        kvf_session *session = a->sessions[i];
        kvf_batch_item item = {.session = session,
                               .ids = ids,
                               .n = CHECKPOINT,
                               .sampling = i == 0 ? &a->samplings[0] : NULL};
        kvf_batch *batch = batch_of(session, &error);
        require(kvf_model_forward(model, batch, &item, 1, &error), &error);
        require(kvf_session_checkpoint(session, &error), &error);
        item.n = 5;
        require(kvf_model_forward(model, batch, &item, 1, &error), &error);
        require(kvf_session_fork(session, &fork[i], &error), &error);
        item.n = 3;
        require(kvf_model_forward(model, batch, &item, 1, &error), &error);
        /* From the checkpoint, which the queued copy must not come after. */
        require(kvf_session_truncate(session, CHECKPOINT, NULL, &error), &error);
    }
    assert_true(a->samplings[0].is_sampled);
    assert_same_logits(a->sessions[0], a->sessions[1]);
    assert_same_logits(fork[0], fork[1]);
    for (int i = 0; i < 2; i++)
        require(kvf_session_truncate(fork[i], 0, NULL, &error), &error);
    assert_true(kvf_session_logits(fork[0])[7] <= 0 && kvf_session_logits(fork[0])[7] >= 0);
    kvf_session_close(fork[0]);
    kvf_session_close(fork[1]);
    answers_close(a);
    kvf_model_free(model);
    kvf_device_close(device);
}

/* As of a file whose head is damaged: the item says so, and its session is as it was. */
static void logits_that_are_not_finite_fail_a_sampled_item(void **state)
{
    (void)state;
    kvf_device *device;
    kvf_error error;
    int32_t ids[N_WAYS][PROMPT];
    float before[VOCAB];
    kvf_model *model = load(&device);
    answers *a = answers_open(model);
    kvf_session *session = a->sessions[0];
    fill_prompts(ids);
    kvf_batch_item item = {
        .session = session, .ids = ids[0], .n = PROMPT, .sampling = &a->samplings[0]};
    kvf_batch *batch = batch_of(session, &error);
    require(kvf_model_forward(model, batch, &item, 1, &error), &error);
    memcpy(before, kvf_session_logits(session), sizeof before);

    const size_t head_bytes = (size_t)VOCAB * model->config.hidden * sizeof(float);
    float *values = calloc(1, head_bytes);
    void *head = kvf_device_alloc(device, KVF_MEMORY_WEIGHT, KVF_PLACE_DEVICE, head_bytes);
    values[5 * model->config.hidden] = INFINITY;
    device->backend->write(device, head, values, head_bytes);
    free(values);
    model->weights.head = kvf_matrix_of_f32(head, VOCAB, model->config.hidden);
    item.n = 1;
    for (int again = 0; again < 2; again++) {
        item.sampling = again ? NULL : &a->samplings[0];
        assert_int_equal(kvf_model_forward(model, batch, &item, 1, &error), KVF_NONFINITE);
        assert_non_null(strstr(error.message, "logits of token 17: "));
        assert_false(a->samplings[0].is_sampled);
        assert_int_equal(kvf_session_n_tokens(session), PROMPT);
        assert_memory_equal(kvf_session_logits(session), before, sizeof before);
    }
    answers_close(a);
    kvf_device_release(device, KVF_MEMORY_WEIGHT, head, head_bytes);
    kvf_model_free(model);
    kvf_device_close(device);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_sampled_batch_draws_what_the_rows_give),
        cmocka_unit_test(forks_and_checkpoints_have_the_logits_of_a_sampled_pass),
        cmocka_unit_test(logits_that_are_not_finite_fail_a_sampled_item),
    };
    if (argc > 1)
        backend = argv[1];
    return cmocka_run_group_tests(tests, NULL, NULL);
}
