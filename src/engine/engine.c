#include "engine/engine.h"

#include <stdio.h>
#include <string.h>

#include "engine/amounts.h"
#include "error.h"
#include "model/fingerprint.h"

/* ---- Files, device, weights ---------------------------------------------------------- */

void kvf_engine_note_unknown_keys(const kvf_engine_events *events, const kvf_model_config *config)
{
    if (config->n_unknown_keys > 0)
        kvf_engine_note(
            events, false, "config.json has %u key%s that nothing is known of, passed over: %s",
            config->n_unknown_keys, config->n_unknown_keys > 1 ? "s" : "", config->unknown_keys);
}

static void watch(kvf_engine *engine, bool begins)
{
    if (engine->events.watch)
        engine->events.watch(engine->events.user, &engine->files, begins);
}

kvf_status kvf_engine_open(const kvf_engine_options *options, const kvf_engine_events *events,
                           kvf_engine *engine, kvf_error *error)
{
    kvf_file json = {NULL, 0, {0}};
    memset(engine, 0, sizeof *engine);
    engine->options = options;
    engine->events = *events;
    watch(engine, true); /* also while it is opened */
    kvf_status status = kvf_tensor_set_open(options->model, &engine->files, error);
    if (status == KVF_OK)
        status = kvf_config_of(engine->files, &json, &engine->config, error);
    kvf_file_unmap(&json);
    if (status == KVF_OK)
        kvf_engine_note_unknown_keys(events, &engine->config);
    return status;
}

static void close_device(kvf_engine *engine)
{
    kvf_model_free(engine->model);
    kvf_device_close(engine->device);
    engine->model = NULL;
    engine->device = NULL;
}

static kvf_status load_weights(kvf_engine *engine, kvf_error *error)
{
    const kvf_status status = kvf_model_open(engine->device, engine->options->model, engine->files,
                                             &engine->model, error);
    /* Sizes are chosen by the first reading. */
    if (status == KVF_OK &&
        kvf_config_checksum(&engine->config) != kvf_config_checksum(&engine->model->config))
        return kvf_fail(error, KVF_FILE_IO, "%s: config.json changed while the model was loaded",
                        kvf_printable(engine->options->model).text);
    return status;
}

kvf_status kvf_engine_open_device(kvf_engine *engine, kvf_error *error)
{
    const kvf_engine_options *options = engine->options;
    const kvf_device_options device_options = {
        .backend = options->backend, .isa = options->isa, .n_threads = options->n_threads};
    close_device(engine);
    const kvf_status status = kvf_device_open(&device_options, &engine->device, error);
    /*
     * Where weights stay in their files, next to nothing is copied of them: what is wrong with
     * them is known before anything else is read, or written. Copies wait for the check of memory.
     */
    if (status == KVF_OK && kvf_backend_maps_weights(engine->device->backend))
        return load_weights(engine, error);
    return status;
}

void kvf_engine_close(kvf_engine *engine)
{
    kvf_encoder_close(engine->encoder);
    kvf_tokenizer_close(engine->tokenizer);
    close_device(engine);
    watch(engine, false);
    kvf_tensor_set_close(engine->files);
    engine->encoder = NULL;
    engine->tokenizer = NULL;
    engine->files = NULL;
}

/* What fewer bytes of text take, 40 MB at the most, is left out of account (kvf_encoder_limit). */
enum { long_text_bytes = 1 << 20 };

/* ---- Text ------------------------------------------------------------------------------ */

/*
 * An id that begins or ends a text is of no token that text is made of: it would end answers in
 * the middle of a word. The tokenizer is another model's then, or the id is.
 */
static kvf_status check_mark(const kvf_engine *engine, const char *key, int32_t id,
                             kvf_error *error)
{
    size_t bytes;
    if (kvf_tokenizer_is_bytes(engine->tokenizer) ||
        kvf_tokenizer_kind(engine->tokenizer, id) != KVF_TOKEN_TEXT)
        return KVF_OK;
    const char *text = kvf_tokenizer_bytes(engine->tokenizer, id, &bytes);
    return kvf_fail(error, KVF_FILE_FORMAT,
                    "%s: the %s is %d, and that is \"%s\" in the tokenizer, a token of plain text",
                    kvf_printable(engine->options->model).text, key, id,
                    kvf_printable_bytes(text, bytes < 60 ? bytes : 60).text);
}

static kvf_status check_marks(const kvf_engine *engine, kvf_error *error)
{
    const kvf_model_config *config = &engine->config;
    kvf_status status = check_mark(engine, "bos_token_id", config->bos_token, error);
    for (uint32_t i = 0; i < config->n_eos_tokens && status == KVF_OK; i++)
        status = check_mark(engine, "eos_token_id", config->eos_tokens[i], error);
    return status;
}

kvf_status kvf_engine_open_tokenizer(kvf_engine *engine, kvf_error *error)
{
    const uint32_t vocab = engine->config.geometry.vocab;
    kvf_status status = kvf_tokenizer_open(engine->files, vocab, &engine->tokenizer, error);
    if (status == KVF_OK)
        status = check_marks(engine, error);
    if (status == KVF_OK)
        status = kvf_encoder_open(engine->tokenizer, &engine->encoder, error);
    return status;
}

kvf_status kvf_engine_encode(kvf_engine *engine, const char *text, size_t bytes, bool bos,
                             kvf_ids *ids, kvf_error *error)
{
    if (!kvf_ids_reserve(ids, 1))
        return kvf_fail(error, KVF_OUT_OF_MEMORY, "out of memory for a token");
    /* A short one is not worth looking at the system for. */
    kvf_encoder_limit(engine->encoder, bytes >= long_text_bytes ? kvf_limits_left() : 0);
    if (bos && engine->config.bos_token >= 0)
        ids->ids[ids->n++] = engine->config.bos_token;
    return kvf_encode_text(engine->encoder, text, bytes, false, ids, error);
}

/* ---- Memory ---------------------------------------------------------------------------- */

/* Chunks below this are slow: a smaller one is advised only where nothing else helps. */
static const uint32_t least_quick_chunk = 128;
/* What others take between this run and the one that is advised: a part of what is left. */
enum { ADVICE_RESERVE_SHARE = 32 };

static bool fits(const kvf_budget *budget, const kvf_request *request, uint32_t chunk_tokens,
                 const kvf_limits *limits, kvf_need *need)
{
    return kvf_budget_need(budget, request, request->context_tokens, chunk_tokens, need, NULL) ==
               KVF_OK &&
           kvf_need_beyond(need, limits) == KVF_LIMIT_KINDS;
}

/*
 * A context and a chunk that fit: the request's context, else the largest. False where no
 * context does that the command has a use for.
 */
static bool find_fitting(const kvf_budget *budget, const kvf_request *request,
                         const kvf_limits *limits, uint64_t *context_tokens, uint32_t *chunk_tokens)
{
    const uint32_t chunk = kvf_engine_chunk_tokens(budget->options, request->context_tokens);
    kvf_need need;
    *context_tokens = request->context_tokens;
    for (*chunk_tokens = chunk; *chunk_tokens >= least_quick_chunk; *chunk_tokens /= 2)
        if (fits(budget, request, *chunk_tokens, limits, &need))
            return true;
    *chunk_tokens = chunk < least_quick_chunk ? chunk : least_quick_chunk;
    *context_tokens = kvf_budget_fitting_context(budget, request, *chunk_tokens, limits);
    if (*context_tokens >= request->least_tokens && *context_tokens > 0)
        return true;
    *chunk_tokens = 1;
    *context_tokens = kvf_budget_fitting_context(budget, request, 1, limits);
    return *context_tokens >= request->least_tokens && *context_tokens > 0;
}

/* As an option takes it: "64k", "5000". */
static const char *option_number(uint64_t tokens, char text[KVF_NUMBER_BYTES])
{
    if (!strchr(kvf_show_context(tokens, text), ','))
        return text;
    snprintf(text, KVF_NUMBER_BYTES, "%llu", (unsigned long long)tokens);
    return text;
}

/* What to do instead, as the end of a sentence. */
static void advise(const kvf_budget *budget, const kvf_request *request, kvf_limit_kind kind,
                   kvf_limits limits, char *advice, size_t advice_bytes)
{
    const char *option = request->context_option ? request->context_option : "ctx";
    const uint32_t chunk = budget->options->chunk_tokens;
    char number[KVF_NUMBER_BYTES];
    uint64_t context_tokens;
    uint32_t chunk_tokens;
    kvf_need need;
    kvf_request fold = *request;
    fold.profile = KVF_PROFILE_FOLD;
    for (int i = 0; i < KVF_LIMIT_KINDS; i++)
        limits.tightest[i].left_bytes -= limits.tightest[i].left_bytes / ADVICE_RESERVE_SHARE;
    if (request->profile != KVF_PROFILE_FOLD && !request->fixed_profile &&
        !budget->options->grid_off && fits(budget, &fold, chunk, &limits, &need)) {
        snprintf(advice, advice_bytes, "; --profile fold needs %s",
                 kvf_show_bytes(need.bytes[kind], number));
    } else if (find_fitting(budget, request, &limits, &context_tokens, &chunk_tokens)) {
        context_tokens -= request->decode_tokens;
        snprintf(advice, advice_bytes, "; --%s %s --chunk %u fits", option,
                 option_number(context_tokens, number), chunk_tokens);
    } else {
        snprintf(advice, advice_bytes, "; no --%s that would do fits, whatever --chunk is", option);
    }
}

/* Memory that others have a part in, or a limit that this process has used a part of. */
static const char *describe_left(const kvf_limit *limit, char *text, size_t text_bytes)
{
    char left[KVF_NUMBER_BYTES];
    text[0] = '\0';
    if (limit->left_bytes < limit->bytes)
        snprintf(text, text_bytes, ", of which %s are left",
                 kvf_show_bytes(limit->left_bytes, left));
    return text;
}

static kvf_status refuse(const kvf_budget *budget, const kvf_request *request, const kvf_need *need,
                         kvf_limit_kind kind, const kvf_limits *limits, kvf_error *error)
{
    const kvf_limit *limit = &limits->tightest[kind];
    char context[KVF_NUMBER_BYTES];
    char needed[KVF_NUMBER_BYTES];
    char weights[KVF_NUMBER_BYTES];
    char allowed[KVF_NUMBER_BYTES];
    char left[64];
    char advice[128];
    advise(budget, request, kind, *limits, advice, sizeof advice);
    return kvf_fail(
        error, KVF_OUT_OF_MEMORY,
        "%s at %s needs %s%s, %s of them for the weights; %s allows %s%s%s",
        kvf_profile_get(request->profile)->name, kvf_show_context(request->context_tokens, context),
        kvf_show_bytes(need->bytes[kind], needed),
        kind == KVF_LIMIT_ADDRESSES ? " of addresses" : "",
        kvf_show_bytes(kvf_budget_weight_bytes(budget), weights), kvf_printable(limit->name).text,
        kvf_show_bytes(limit->bytes, allowed), describe_left(limit, left, sizeof left), advice);
}

kvf_status kvf_engine_check_memory(kvf_engine *engine, const kvf_request *request, kvf_error *error)
{
    const kvf_engine_options *options = engine->options;
    const kvf_backend *backend = engine->device->backend;
    const uint64_t mapped_bytes = kvf_tensor_set_mapped_bytes(engine->files);
    const bool copies = backend->takes_stored_weights && !kvf_backend_maps_weights(backend);
    const kvf_budget budget = {options,
                               &engine->config,
                               kvf_device_n_threads(engine->device),
                               backend->takes_stored_weights,
                               mapped_bytes,
                               copies ? mapped_bytes : 0};
    const uint64_t device_bytes = kvf_device_memory_bytes(engine->device);
    kvf_limits limits;
    kvf_need need;
    const kvf_status status = kvf_budget_need(&budget, request, request->context_tokens,
                                              options->chunk_tokens, &need, error);
    if (status != KVF_OK)
        return status;
    if (need.bytes[KVF_LIMIT_MEMORY] > engine->needed_bytes)
        engine->needed_bytes = need.bytes[KVF_LIMIT_MEMORY];
    kvf_limits_read(&limits);
    /* Weights that it reads where they lie are in no need: it has them already. */
    const uint64_t mapped = engine->device->mapped_bytes;
    if (device_bytes)
        kvf_limits_lower(&limits, KVF_LIMIT_MEMORY, "the GPU", device_bytes,
                         device_bytes > mapped ? device_bytes - mapped : 0);
    const kvf_limit_kind beyond = kvf_need_beyond(&need, &limits);
    if (beyond != KVF_LIMIT_KINDS)
        return refuse(&budget, request, &need, beyond, &limits, error);
    if (need.bytes[KVF_LIMIT_MEMORY] > limits.slow.left_bytes && !engine->warned) {
        char needed[KVF_NUMBER_BYTES];
        char allowed[KVF_NUMBER_BYTES];
        kvf_engine_note(&engine->events, true,
                        "up to %s are needed; %s is %s, above which the system slows a process "
                        "down",
                        kvf_show_bytes(need.bytes[KVF_LIMIT_MEMORY], needed), limits.slow.name,
                        kvf_show_bytes(limits.slow.bytes, allowed));
        engine->warned = true;
    }
    return kvf_ok(error);
}

/*
 * Mapped weights are refused nowhere: they need no memory of their own. Where there is too
 * little to keep them in, each token reads its part again.
 */
static void tell_of_disk(kvf_engine *engine)
{
    kvf_model *model = engine->model;
    const kvf_token_bytes token = kvf_model_token_bytes(&model->config, model->files);
    const uint64_t used_bytes = token.layers + token.all_experts + token.head;
    char weights[KVF_NUMBER_BYTES];
    char left[KVF_NUMBER_BYTES];
    char reads[KVF_NUMBER_BYTES];
    kvf_limits limits;
    kvf_limits_read(&limits);
    const uint64_t all_bytes = limits.tightest[KVF_LIMIT_MEMORY].left_bytes;
    const uint64_t left_bytes =
        all_bytes > engine->needed_bytes ? all_bytes - engine->needed_bytes : 0;
    /* A GPU has all that it maps in memory while it works. */
    model->from_disk = kvf_backend_maps_weights(engine->device->backend) &&
                       !engine->device->backend->map && used_bytes > left_bytes;
    if (model->from_disk)
        kvf_engine_note(&engine->events, false,
                        "%s of weights do not fit the %s of memory that are left: a token reads "
                        "%s of them, from the disk",
                        kvf_show_bytes(used_bytes, weights), kvf_show_bytes(left_bytes, left),
                        kvf_show_bytes(token.layers + token.experts + token.head, reads));
}

/* ---- Sessions --------------------------------------------------------------------------- */

kvf_status kvf_engine_load(kvf_engine *engine, uint64_t context_tokens, kvf_error *error)
{
    kvf_status status = engine->model ? KVF_OK : load_weights(engine, error);
    if (status == KVF_OK)
        status = kvf_model_reserve(engine->model,
                                   kvf_engine_chunk_tokens(engine->options, context_tokens), error);
    if (status == KVF_OK)
        tell_of_disk(engine);
    return status;
}

kvf_status kvf_engine_open_session(kvf_engine *engine, kvf_profile_id profile,
                                   uint64_t context_tokens, kvf_session **session, kvf_error *error)
{
    const kvf_session_options options =
        kvf_engine_session_options(engine->options, profile, context_tokens);
    if (kvf_model_open_session(engine->model, &options, session, error) != KVF_OK)
        return kvf_engine_explain(profile, context_tokens, error);
    return KVF_OK;
}

kvf_status kvf_engine_open_batch(kvf_engine *engine, kvf_profile_id profile,
                                 uint64_t context_tokens, kvf_batch **batch, kvf_error *error)
{
    const kvf_session_options options =
        kvf_engine_session_options(engine->options, profile, context_tokens);
    if (kvf_batch_open(engine->device, &engine->config.geometry, &options, batch, error) != KVF_OK)
        return kvf_engine_explain(profile, context_tokens, error);
    return KVF_OK;
}

kvf_status kvf_engine_explain(kvf_profile_id profile, uint64_t context_tokens, kvf_error *error)
{
    char context[KVF_NUMBER_BYTES];
    const kvf_error said = *error;
    if (said.status != KVF_OUT_OF_MEMORY)
        return said.status;
    return kvf_fail(error, KVF_OUT_OF_MEMORY,
                    "%s at %s: %s; a smaller --ctx or --chunk, or another --profile, needs less",
                    kvf_profile_get(profile)->name, kvf_show_context(context_tokens, context),
                    said.message);
}
