#include "cli/engine.h"

#include <stdio.h>
#include <string.h>

#include "cli/budget.h"
#include "cli/message.h"
#include "cli/units.h"
#include "model/fingerprint.h"

int cli_config_load(const char *command, const char *folder, kvf_model_config *config)
{
    kvf_error error;
    if (kvf_config_load(folder, config, &error) != KVF_OK)
        return cli_error(command, "%s", error.message);
    if (config->n_unknown_keys > 0)
        cli_note(command, "config.json has %u key%s that nothing is known of, passed over: %s",
                 config->n_unknown_keys, config->n_unknown_keys > 1 ? "s" : "",
                 config->unknown_keys);
    return CLI_EXIT_OK;
}

static void close_device(cli_engine *engine)
{
    kvf_model_free(engine->model);
    kvf_device_close(engine->device);
    engine->model = NULL;
    engine->device = NULL;
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
    return CLI_EXIT_OK;
}

int cli_engine_open(const cli_options *options, cli_engine *engine)
{
    memset(engine, 0, sizeof *engine);
    engine->options = options;
    const int status = cli_config_load(options->command, options->model, &engine->config);
    return status == CLI_EXIT_OK ? cli_engine_open_device(engine) : status;
}

void cli_engine_close(cli_engine *engine)
{
    close_device(engine);
}

/* What to do instead, as the end of a sentence; empty when nothing helps. */
static void advise(const cli_budget *budget, kvf_profile_id profile, uint64_t context_tokens,
                   uint64_t available_bytes, char *advice, size_t advice_bytes)
{
    char number[CLI_NUMBER_BYTES];
    uint64_t fold_bytes;
    const uint64_t largest = cli_budget_largest_context(budget, profile, available_bytes);
    advice[0] = '\0';
    if (profile != KVF_PROFILE_FOLD && strcmp(budget->options->command, "verify") != 0 &&
        !budget->options->grid_off &&
        cli_budget_total_bytes(budget, KVF_PROFILE_FOLD, context_tokens, &fold_bytes, NULL) ==
            KVF_OK &&
        fold_bytes <= available_bytes)
        snprintf(advice, advice_bytes, "; --profile fold needs %s",
                 cli_format_bytes(fold_bytes, number));
    else if (largest > 0)
        snprintf(advice, advice_bytes, "; the largest context that fits is %s",
                 cli_format_count(largest, number));
}

int cli_engine_check_memory(const cli_engine *engine, kvf_profile_id profile,
                            uint64_t context_tokens, uint64_t extra_bytes)
{
    const cli_options *options = engine->options;
    const cli_budget budget = {options, &engine->config, kvf_device_n_threads(engine->device)};
    const uint64_t weight_bytes = kvf_model_weight_bytes(&engine->config, true);
    uint64_t memory_bytes = cli_physical_memory_bytes();
    const uint64_t device_bytes = kvf_device_memory_bytes(engine->device);
    const bool on_device = device_bytes && device_bytes < memory_bytes;
    if (on_device)
        memory_bytes = device_bytes;
    kvf_error error;
    uint64_t session_bytes;
    if (cli_budget_total_bytes(&budget, profile, context_tokens, &session_bytes, &error) != KVF_OK)
        return cli_error(options->command, "%s", error.message);
    const uint64_t other_bytes = weight_bytes + extra_bytes;
    if (other_bytes <= memory_bytes && session_bytes <= memory_bytes - other_bytes)
        return CLI_EXIT_OK;
    char needed[CLI_NUMBER_BYTES];
    char weights[CLI_NUMBER_BYTES];
    char machine[CLI_NUMBER_BYTES];
    char context[CLI_NUMBER_BYTES];
    char advice[128] = "";
    if (other_bytes <= memory_bytes)
        advise(&budget, profile, context_tokens, memory_bytes - other_bytes, advice, sizeof advice);
    return cli_error(options->command, "%s at %s needs %s and %s of weights, %s %s%s",
                     kvf_profile_get(profile)->name, cli_format_context(context_tokens, context),
                     cli_format_bytes(session_bytes + extra_bytes, needed),
                     cli_format_bytes(weight_bytes, weights),
                     on_device ? "the GPU may have" : "this machine has",
                     cli_format_bytes(memory_bytes, machine), advice);
}

int cli_engine_load(cli_engine *engine, uint64_t context_tokens)
{
    const cli_options *options = engine->options;
    kvf_error error;
    if (kvf_model_load(engine->device, options->model,
                       cli_options_chunk_tokens(options, context_tokens), &engine->model,
                       &error) != KVF_OK)
        return cli_error(options->command, "%s", error.message);
    /* Sizes were chosen by the first reading. */
    if (kvf_config_checksum(&engine->config) != kvf_config_checksum(&engine->model->config))
        return cli_error(options->command, "%s: config.json changed while the model was loaded",
                         options->model);
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
    char context[CLI_NUMBER_BYTES];
    if (error->status != KVF_OUT_OF_MEMORY)
        return cli_error(engine->options->command, "%s", error->message);
    return cli_error(engine->options->command,
                     "%s at %s: %s; a smaller --ctx or --chunk, or another --profile, needs less",
                     kvf_profile_get(profile)->name, cli_format_context(context_tokens, context),
                     error->message);
}
