/*
 * config.json, and generation_config.json behind a byte 0xFF where there is one.
 * What is read must be usable: every plan can be made, sizes are the sums that they are
 * said to be, and rope frequencies are those of a rotation.
 */
#include "fuzz.h"

#include "model/model.h"
#include "model/rope.h"
#include "model/weight_names.h"

enum { MAX_ACTIVATIONS = 64, MAX_WALKED_TENSORS = 2000 };

static kvf_status add_values(void *user, const kvf_weight *weight)
{
    fuzz_wide *values = user;
    *values += (fuzz_wide)weight->shape[0] * weight->shape[1];
    return KVF_OK;
}

/* kvf_model_weight_bytes is a formula; here the tensors are counted one by one. */
static void check_weight_bytes(const kvf_model_config *config)
{
    fuzz_wide values = 0;
    if ((uint64_t)config->geometry.n_layers * config->n_experts > MAX_WALKED_TENSORS)
        return; /* that would take too long */
    FUZZ_REQUIRE(kvf_weight_walk(config, NULL, add_values, &values) == KVF_OK);
    FUZZ_REQUIRE(4 * values == kvf_model_weight_bytes(config, false));
    FUZZ_REQUIRE(4 * values > kvf_model_weight_bytes(config, true));
}

static void check_activations(const kvf_model_config *config)
{
    kvf_plan_buffer buffers[MAX_ACTIVATIONS];
    const uint32_t n = kvf_model_activations(config, 65536, buffers, MAX_ACTIVATIONS);
    FUZZ_REQUIRE(n <= MAX_ACTIVATIONS);
    for (uint32_t i = 0; i < n; i++) {
        const fuzz_wide values =
            (fuzz_wide)buffers[i].shape[0] * buffers[i].shape[1] * buffers[i].shape[2];
        FUZZ_REQUIRE(4 * values == buffers[i].bytes);
    }
}

static void check_plan(const kvf_geometry *geometry, kvf_profile_id profile)
{
    const kvf_session_options options = {
        .profile = profile, .max_tokens = geometry->max_tokens, .n_threads = 64};
    kvf_error error;
    kvf_plan plan;
    fuzz_wide cache_bytes = 0;
    fuzz_wide scratch_bytes = 0;
    fuzz_wide table_bytes = 0;
    fuzz_wide held_bytes = 0;
    const kvf_status status =
        kvf_plan_make(geometry, &options, geometry->max_tokens, &plan, &error);
    fuzz_check_error(status, &error);
    FUZZ_REQUIRE(status == KVF_OK);
    for (uint32_t i = 0; i < plan.n_buffers; i++) {
        const kvf_plan_buffer *buffer = &plan.buffers[i];
        FUZZ_REQUIRE(buffer->bytes < UINT64_C(1) << 60 && buffer->held_bytes <= buffer->bytes);
        held_bytes += buffer->held_bytes;
        *(buffer->klass == KVF_MEMORY_CACHE   ? &cache_bytes
          : buffer->klass == KVF_MEMORY_TABLE ? &table_bytes
                                              : &scratch_bytes) += buffer->bytes;
    }
    FUZZ_REQUIRE(cache_bytes == plan.allocated_bytes && scratch_bytes == plan.scratch_bytes);
    FUZZ_REQUIRE(held_bytes == plan.session_bytes && table_bytes == plan.table_bytes);
    kvf_plan_free(&plan);
}

static void check_rope(const kvf_rope_config *rope)
{
    float frequencies[KVF_ROPE_PAIRS];
    kvf_rope_frequencies(rope, frequencies);
    for (int i = 0; i < KVF_ROPE_PAIRS; i++)
        FUZZ_REQUIRE(frequencies[i] > 0 && frequencies[i] <= 1); /* and no NaN */
}

static void check_config(const kvf_model_config *config)
{
    FUZZ_REQUIRE(config->bos_token >= -1 && config->n_eos_tokens <= 8);
    for (uint32_t i = 0; i < config->n_eos_tokens; i++)
        FUZZ_REQUIRE((uint32_t)config->eos_tokens[i] < config->geometry.vocab);
    for (int profile = 0; profile < KVF_PROFILE_COUNT; profile++)
        check_plan(&config->geometry, (kvf_profile_id)profile);
    check_rope(&config->rope_window);
    check_rope(&config->rope_compress);
    check_activations(config);
    check_weight_bytes(config);
}

static kvf_status parse(fuzz_part text, kvf_model_config *config, kvf_error *error)
{
    fuzz_guarded guarded = fuzz_guard(text.data, text.bytes);
    const kvf_status status =
        kvf_config_parse(guarded.data, guarded.bytes, "config.json", config, error);
    fuzz_unguard(&guarded);
    return status;
}

static kvf_status load(fuzz_part main_text, fuzz_part generation_text, kvf_model_config *config,
                       kvf_error *error)
{
    fuzz_write("config.json", main_text);
    fuzz_write("generation_config.json", generation_text);
    return kvf_config_load(fuzz_folder(), config, error);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    static kvf_model_config config;
    kvf_error error;
    fuzz_part rest = {data, bytes};
    fuzz_part main_text = {0};
    fuzz_next_part(&rest, 0xFF, &main_text);
    const kvf_status status =
        rest.data ? load(main_text, rest, &config, &error) : parse(main_text, &config, &error);
    fuzz_check_error(status, &error);
    if (status == KVF_OK)
        check_config(&config);
    else
        FUZZ_REQUIRE(status == KVF_FILE_FORMAT || status == KVF_UNSUPPORTED);
    return 0;
}
