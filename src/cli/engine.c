#include "cli/engine.h"

#include <stdio.h>
#include <string.h>

#include "cli/lost_files.h"
#include "cli/message.h"
#include "engine/amounts.h"
#include "model/fingerprint.h"

static void note_unknown_keys(const char *command, const kvf_model_config *config)
{
    if (config->n_unknown_keys > 0)
        cli_note(command, "config.json has %u key%s that nothing is known of, passed over: %s",
                 config->n_unknown_keys, config->n_unknown_keys > 1 ? "s" : "",
                 config->unknown_keys);
}

int cli_config_load(const char *command, const char *path, kvf_model_config *config)
{
    kvf_error error;
    if (kvf_config_load(path, config, &error) != KVF_OK)
        return cli_error(command, "%s", error.message);
    note_unknown_keys(command, config);
    return CLI_EXIT_OK;
}

static int open_files(cli_engine *engine)
{
    const cli_options *options = engine->options;
    kvf_error error;
    kvf_file json = {NULL, 0, {0}};
    /* Watched while it is opened, too. Without the watch a lost file ends the process, that is all.
     */
    cli_lost_files_watch(&engine->files);
    kvf_status status = kvf_tensor_set_open(options->model, &engine->files, &error);
    if (status == KVF_OK)
        status = kvf_config_of(engine->files, &json, &engine->config, &error);
    kvf_file_unmap(&json);
    if (status != KVF_OK)
        return cli_error(options->command, "%s", error.message);
    note_unknown_keys(options->command, &engine->config);
    return CLI_EXIT_OK;
}

static void close_device(cli_engine *engine)
{
    kvf_model_free(engine->model);
    kvf_device_close(engine->device);
    engine->model = NULL;
    engine->device = NULL;
}

static int load_weights(cli_engine *engine)
{
    const cli_options *options = engine->options;
    kvf_error error;
    if (kvf_model_open(engine->device, options->model, engine->files, &engine->model, &error) !=
        KVF_OK)
        return cli_error(options->command, "%s", error.message);
    /* Sizes are chosen by the first reading. */
    if (kvf_config_checksum(&engine->config) != kvf_config_checksum(&engine->model->config))
        return cli_error(options->command, "%s: config.json changed while the model was loaded",
                         options->model);
    return CLI_EXIT_OK;
}

int cli_engine_open_device(cli_engine *engine)
{
    const cli_options *options = engine->options;
    const kvf_device_options device_options = {
        .backend = options->backend, .isa = options->isa, .n_threads = options->n_threads};
    kvf_error error;
    close_device(engine);
    if (kvf_device_open(&device_options, &engine->device, &error) != KVF_OK)
        return cli_error(options->command, "%s%s", error.message,
                         options->isa_from_environment ? " (KVFOLD_ISA asked for it)" : "");
    /*
     * Where weights stay in their files, next to nothing is copied of them: what is wrong with
     * them is known before anything else is read, or written. Copies wait for the check of memory.
     */
    return engine->device->backend->takes_stored_weights ? load_weights(engine) : CLI_EXIT_OK;
}

int cli_engine_open(const cli_options *options, cli_engine *engine)
{
    memset(engine, 0, sizeof *engine);
    engine->options = options;
    const int status = open_files(engine);
    return status == CLI_EXIT_OK ? cli_engine_open_device(engine) : status;
}

void cli_engine_close(cli_engine *engine)
{
    close_device(engine);
    kvf_encoder_close(engine->encoder);
    kvf_tokenizer_close(engine->tokenizer);
    engine->encoder = NULL;
    engine->tokenizer = NULL;
    cli_lost_files_forget(&engine->files);
    kvf_tensor_set_close(engine->files);
    engine->files = NULL;
}

kvf_status cli_engine_open_tokenizer(cli_engine *engine, kvf_error *error)
{
    const uint32_t vocab = engine->config.geometry.vocab;
    kvf_status status = kvf_tokenizer_open(engine->files, vocab, &engine->tokenizer, error);
    if (status == KVF_OK)
        status = kvf_encoder_open(engine->tokenizer, &engine->encoder, error);
    return status;
}

int cli_engine_encode(cli_engine *engine, const char *text, size_t bytes, bool bos, kvf_ids *ids)
{
    const char *command = engine->options->command;
    kvf_error error;
    if (!kvf_ids_reserve(ids, 1))
        return cli_error(command, "out of memory for a token");
    if (bos && engine->config.bos_token >= 0)
        ids->ids[ids->n++] = engine->config.bos_token;
    if (kvf_encode_text(engine->encoder, text, bytes, false, ids, &error) != KVF_OK)
        return cli_error(command, "%s", error.message);
    return CLI_EXIT_OK;
}

/* Chunks below this are slow: a smaller one is advised only where nothing else helps. */
static const uint32_t least_quick_chunk = 128;
/* What others take between this run and the one that is advised: a part of what is left. */
enum { ADVICE_RESERVE_SHARE = 32 };

static bool fits(const cli_budget *budget, const cli_request *request, uint32_t chunk_tokens,
                 const kvf_limits *limits, cli_need *need)
{
    return cli_budget_need(budget, request, request->context_tokens, chunk_tokens, need, NULL) ==
               KVF_OK &&
           cli_need_beyond(need, limits) == KVF_LIMIT_KINDS;
}

/*
 * A context and a chunk that fit: the request's context, else the largest. False where no
 * context does that the command has a use for.
 */
static bool find_fitting(const cli_budget *budget, const cli_request *request,
                         const kvf_limits *limits, uint64_t *context_tokens, uint32_t *chunk_tokens)
{
    const uint32_t chunk = cli_options_chunk_tokens(budget->options, request->context_tokens);
    cli_need need;
    *context_tokens = request->context_tokens;
    for (*chunk_tokens = chunk; *chunk_tokens >= least_quick_chunk; *chunk_tokens /= 2)
        if (fits(budget, request, *chunk_tokens, limits, &need))
            return true;
    *chunk_tokens = chunk < least_quick_chunk ? chunk : least_quick_chunk;
    *context_tokens = cli_budget_fitting_context(budget, request, *chunk_tokens, limits);
    if (*context_tokens >= request->least_tokens && *context_tokens > 0)
        return true;
    *chunk_tokens = 1;
    *context_tokens = cli_budget_fitting_context(budget, request, 1, limits);
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
static void advise(const cli_budget *budget, const cli_request *request, kvf_limit_kind kind,
                   kvf_limits limits, char *advice, size_t advice_bytes)
{
    const bool verify = strcmp(budget->options->command, "verify") == 0;
    const bool score = strcmp(budget->options->command, "score") == 0;
    const uint32_t chunk = budget->options->chunk_tokens;
    char number[KVF_NUMBER_BYTES];
    uint64_t context_tokens;
    uint32_t chunk_tokens;
    cli_need need;
    cli_request fold = *request;
    fold.profile = KVF_PROFILE_FOLD;
    for (int i = 0; i < KVF_LIMIT_KINDS; i++)
        limits.tightest[i].left_bytes -= limits.tightest[i].left_bytes / ADVICE_RESERVE_SHARE;
    if (request->profile != KVF_PROFILE_FOLD && !verify && !budget->options->grid_off &&
        fits(budget, &fold, chunk, &limits, &need)) {
        snprintf(advice, advice_bytes, "; --profile fold needs %s",
                 kvf_show_bytes(need.bytes[kind], number));
    } else if (find_fitting(budget, request, &limits, &context_tokens, &chunk_tokens)) {
        if (verify)
            context_tokens -= budget->options->decode_tokens;
        snprintf(advice, advice_bytes, "; --%s %s --chunk %u fits", score ? "window" : "ctx",
                 option_number(context_tokens, number), chunk_tokens);
    } else {
        snprintf(advice, advice_bytes, "; no --%s that would do fits, whatever --chunk is",
                 score ? "window" : "ctx");
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

static int refuse(const cli_budget *budget, const cli_request *request, const cli_need *need,
                  kvf_limit_kind kind, const kvf_limits *limits)
{
    const kvf_limit *limit = &limits->tightest[kind];
    char context[KVF_NUMBER_BYTES];
    char needed[KVF_NUMBER_BYTES];
    char weights[KVF_NUMBER_BYTES];
    char allowed[KVF_NUMBER_BYTES];
    char left[64];
    char advice[128];
    advise(budget, request, kind, *limits, advice, sizeof advice);
    return cli_error(budget->options->command,
                     "%s at %s needs %s%s, %s of them for the weights; %s allows %s%s%s",
                     kvf_profile_get(request->profile)->name,
                     kvf_show_context(request->context_tokens, context),
                     kvf_show_bytes(need->bytes[kind], needed),
                     kind == KVF_LIMIT_ADDRESSES ? " of addresses" : "",
                     kvf_show_bytes(cli_budget_weight_bytes(budget), weights), limit->name,
                     kvf_show_bytes(limit->bytes, allowed),
                     describe_left(limit, left, sizeof left), advice);
}

int cli_engine_check_memory(cli_engine *engine, const cli_request *request)
{
    const cli_options *options = engine->options;
    const cli_budget budget = {options, &engine->config, kvf_device_n_threads(engine->device),
                               engine->device->backend->takes_stored_weights,
                               kvf_tensor_set_mapped_bytes(engine->files)};
    const uint64_t device_bytes = kvf_device_memory_bytes(engine->device);
    kvf_error error;
    kvf_limits limits;
    cli_need need;
    if (cli_budget_need(&budget, request, request->context_tokens, options->chunk_tokens, &need,
                        &error) != KVF_OK)
        return cli_error(options->command, "%s", error.message);
    if (need.bytes[KVF_LIMIT_MEMORY] > engine->needed_bytes)
        engine->needed_bytes = need.bytes[KVF_LIMIT_MEMORY];
    kvf_limits_read(&limits);
    if (device_bytes)
        kvf_limits_lower(&limits, KVF_LIMIT_MEMORY, "the GPU", device_bytes, device_bytes);
    const kvf_limit_kind beyond = cli_need_beyond(&need, &limits);
    if (beyond != KVF_LIMIT_KINDS)
        return refuse(&budget, request, &need, beyond, &limits);
    if (need.bytes[KVF_LIMIT_MEMORY] > limits.slow.left_bytes && !engine->warned) {
        char needed[KVF_NUMBER_BYTES];
        char allowed[KVF_NUMBER_BYTES];
        fprintf(stderr,
                "kvfold: %s: warning: up to %s are needed; %s is %s, above which the system slows "
                "a process down\n",
                options->command, kvf_show_bytes(need.bytes[KVF_LIMIT_MEMORY], needed),
                limits.slow.name, kvf_show_bytes(limits.slow.bytes, allowed));
        engine->warned = true;
    }
    return CLI_EXIT_OK;
}

/*
 * Mapped weights are refused nowhere: they need no memory of their own. Where there is too
 * little to keep them in, each token reads its part again.
 */
static void tell_of_disk(cli_engine *engine)
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
    model->from_disk = engine->device->backend->takes_stored_weights && used_bytes > left_bytes;
    if (model->from_disk)
        cli_note(engine->options->command,
                 "%s of weights do not fit the %s of memory that are left: a token reads %s of "
                 "them, from the disk",
                 kvf_show_bytes(used_bytes, weights), kvf_show_bytes(left_bytes, left),
                 kvf_show_bytes(token.layers + token.experts + token.head, reads));
}

int cli_engine_load(cli_engine *engine, uint64_t context_tokens)
{
    const cli_options *options = engine->options;
    kvf_error error;
    const int status = engine->model ? CLI_EXIT_OK : load_weights(engine);
    if (status != CLI_EXIT_OK)
        return status;
    if (kvf_model_reserve(engine->model, cli_options_chunk_tokens(options, context_tokens),
                          &error) != KVF_OK)
        return cli_error(options->command, "%s", error.message);
    tell_of_disk(engine);
    return CLI_EXIT_OK;
}

int cli_engine_open_session(cli_engine *engine, kvf_profile_id profile, uint64_t context_tokens,
                            kvf_session **session)
{
    kvf_error error;
    const kvf_session_options options =
        cli_options_session(engine->options, profile, context_tokens);
    if (kvf_model_open_session(engine->model, &options, session, &error) != KVF_OK)
        return cli_engine_error(engine, &error, profile, context_tokens);
    return CLI_EXIT_OK;
}

int cli_engine_error(const cli_engine *engine, const kvf_error *error, kvf_profile_id profile,
                     uint64_t context_tokens)
{
    char context[KVF_NUMBER_BYTES];
    if (error->status != KVF_OUT_OF_MEMORY)
        return cli_error(engine->options->command, "%s", error->message);
    return cli_error(engine->options->command,
                     "%s at %s: %s; a smaller --ctx or --chunk, or another --profile, needs less",
                     kvf_profile_get(profile)->name, kvf_show_context(context_tokens, context),
                     error->message);
}
