#include "cli/events.h"

#include "cli/interrupt.h"
#include "cli/lost_files.h"
#include "cli/message.h"

/* Shorter prompts are over before a bar could be read. */
static const uint64_t min_progress_tokens = 256;

static void note(void *user, bool is_warning, const char *text)
{
    const cli_listener *listener = user;
    if (is_warning)
        cli_warn(listener->command, "%s", text);
    else
        cli_note(listener->command, "%s", text);
}

static bool stopped(void *user)
{
    (void)user;
    return cli_interrupted();
}

static void progress(void *user, uint64_t done, uint64_t n_tokens)
{
    cli_listener *listener = user;
    if (n_tokens < min_progress_tokens)
        return;
    if (done == 0)
        cli_progress_start(&listener->progress, "prefill", n_tokens);
    cli_progress_update(&listener->progress, done);
}

static void temporary(void *user, const char *path, bool is_there)
{
    (void)user;
    if (is_there)
        cli_interrupt_remove(path);
    else
        cli_interrupt_keep(path);
}

/* Without the watch a lost file ends the process, that is all. */
static void watch(void *user, kvf_tensor_set **files, bool begins)
{
    (void)user;
    if (begins)
        cli_lost_files_watch(files);
    else
        cli_lost_files_forget(files);
}

kvf_engine_events cli_events(cli_listener *listener, const char *command)
{
    *listener = (cli_listener){.command = command};
    return (kvf_engine_events){.user = listener,
                               .note = note,
                               .stopped = stopped,
                               .progress = progress,
                               .temporary = temporary,
                               .watch = watch};
}

int cli_fail(const char *command, const kvf_error *error)
{
    return cli_error(command, "%s", error->message);
}

int cli_result(const char *command, kvf_status status, const kvf_error *error)
{
    return status == KVF_OK ? CLI_EXIT_OK : cli_fail(command, error);
}

int cli_config_load(const char *command, const char *path, kvf_model_config *config)
{
    cli_listener listener;
    const kvf_engine_events events = cli_events(&listener, command);
    kvf_error error;
    if (kvf_config_load(path, config, &error) != KVF_OK)
        return cli_fail(command, &error);
    kvf_engine_note_unknown_keys(&events, config);
    return CLI_EXIT_OK;
}

int cli_open_device(const cli_options *options, kvf_engine *engine)
{
    kvf_error error;
    if (kvf_engine_open_device(engine, &error) == KVF_OK)
        return CLI_EXIT_OK;
    return cli_error(options->command, "%s%s", error.message,
                     options->isa_from_environment && !engine->device ? " (KVFOLD_ISA asked for it)"
                                                                      : "");
}

int cli_open_engine(const cli_options *options, cli_listener *listener, kvf_engine *engine)
{
    const kvf_engine_events events = cli_events(listener, options->command);
    kvf_error error;
    if (kvf_engine_open(&options->engine, &events, engine, &error) != KVF_OK)
        return cli_fail(options->command, &error);
    return cli_open_device(options, engine);
}
