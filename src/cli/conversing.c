#include "cli/conversing.h"

#include <string.h>

#include "cli/events.h"
#include "cli/message.h"

/* ---- Settings -------------------------------------------------------------------------- */

static const char *effort_name(kvf_effort effort)
{
    static const char *const names[] = {"none", "low", "high", "max"};
    return names[effort];
}

static const char *release_name(kvf_release release)
{
    return release == KVF_RELEASE_0731 ? "0731" : "preview";
}

/* An effort without a word about thinking means it. */
static bool wants_thinking(const cli_options *options)
{
    return options->thinking_given ? options->thinking : options->effort != KVF_EFFORT_NONE;
}

/* Those of a session all of which was taken back, where the options say nothing else. */
static void take_saved(cli_conversation *c)
{
    const cli_options *options = c->options;
    kvf_conversation_settings saved = {.is_chat = false};
    kvf_error error;
    if (!c->saver->exists ||
        kvf_conversation_restore(c->saver->info.caller_state, &saved, &error) != KVF_OK ||
        !saved.is_chat)
        return;
    if (!options->thinking_given && !options->effort_given)
        c->settings.thinking = saved.thinking;
    if (!options->effort_given)
        c->settings.effort = saved.effort;
    if (options->release == KVF_RELEASE_BY_TEXTS)
        c->settings.release = saved.release;
}

/* Of a text that begins now. */
static int begin_settings(cli_conversation *c)
{
    const cli_options *options = c->options;
    const char *option = cli_chat_option(options);
    bool is_assumed = false;
    kvf_error error;
    c->settings.is_chat = c->format.has_chat && !options->raw && !options->ids_file;
    if (!c->settings.is_chat && option)
        return cli_error("run",
                         "%s is for conversations, and the model's vocabulary has no markers of "
                         "any: it goes on with plain text",
                         option);
    if (!c->settings.is_chat)
        return CLI_EXIT_OK;
    c->settings.thinking = wants_thinking(options);
    c->settings.effort = options->effort;
    c->settings.release = options->release;
    take_saved(c);
    if (kvf_conversation_settle(&c->format, &c->settings, &is_assumed, &error) != KVF_OK)
        return cli_fail("run", &error);
    if (is_assumed && options->effort != KVF_EFFORT_NONE)
        cli_note("run",
                 "nothing beside the checkpoint says which release it is; --effort is that of the "
                 "%s (--release says another)",
                 release_name(c->settings.release));
    return CLI_EXIT_OK;
}

/* The effort stands at the beginning of the text, in the words of a release. */
static int check_same(const cli_conversation *c)
{
    const cli_options *options = c->options;
    const char *session = options->engine.session;
    const kvf_conversation_settings *saved = &c->settings;
    if (c->has_request) /* which is written anew */
        return CLI_EXIT_OK;
    if (options->effort_given && options->effort != saved->effort)
        return cli_error("run", "the session %s was begun with --effort %s, which cannot change",
                         session, effort_name(saved->effort));
    if (options->release != KVF_RELEASE_BY_TEXTS && options->release != saved->release)
        return cli_error("run", "the session %s was begun with --release %s, which cannot change",
                         session, release_name(saved->release));
    return CLI_EXIT_OK;
}

static int resume_chat(cli_conversation *c)
{
    const cli_options *options = c->options;
    const char *session = options->engine.session;
    bool is_assumed;
    kvf_error error;
    if (options->raw)
        return cli_error(
            "run", "the session %s is a conversation; --raw would put plain text into it", session);
    if (!c->format.has_chat && !options->ids_file)
        return cli_error("run",
                         "the session %s is a conversation, and the model's vocabulary has no "
                         "markers of any; --ids FILE goes on with token ids",
                         session);
    const int status = check_same(c);
    if (status != CLI_EXIT_OK || options->ids_file)
        return status;
    if (c->has_request && options->effort_given)
        c->settings.effort = options->effort;
    if (c->has_request && options->release != KVF_RELEASE_BY_TEXTS)
        c->settings.release = options->release;
    if (options->thinking_given || (c->has_request && options->effort_given))
        c->settings.thinking = wants_thinking(options);
    if (c->has_request &&
        kvf_conversation_settle(&c->format, &c->settings, &is_assumed, &error) != KVF_OK)
        return cli_fail("run", &error);
    return CLI_EXIT_OK;
}

static int resume_settings(cli_conversation *c)
{
    const char *session = c->options->engine.session;
    const char *option = cli_chat_option(c->options);
    kvf_error error;
    if (kvf_conversation_restore(c->saver->info.caller_state, &c->settings, &error) != KVF_OK)
        return cli_error("run", "%s: %s", session, error.message);
    if (c->settings.is_chat)
        return resume_chat(c);
    if (option)
        return cli_error("run", "the session %s is plain text; %s is for conversations", session,
                         option);
    if (c->format.has_chat && !c->options->raw && !c->options->ids_file)
        cli_note("run", "the session %s is plain text, and goes on as such", session);
    return CLI_EXIT_OK;
}

/* A system's text begins a conversation: one that has begun has it, or another one. */
static int take_system(cli_conversation *c)
{
    const char *system = c->options->system;
    bool has_it = false;
    kvf_error error;
    if (!system)
        return CLI_EXIT_OK;
    const kvf_span text = {system, strlen(system)};
    if (kvf_saver_at_start(c->saver)) {
        c->system = text;
        return CLI_EXIT_OK;
    }
    if (kvf_conversation_has_system(&c->format, &c->settings, c->held.ids, c->held.n, text, &has_it,
                                    &error) != KVF_OK)
        return cli_fail("run", &error);
    if (!has_it)
        return cli_error("run",
                         "the session %s was begun without this --system; leave it out to go on, "
                         "or begin another",
                         c->options->engine.session);
    return CLI_EXIT_OK;
}

/* ---- Opening ---------------------------------------------------------------------------- */

static int read_messages(cli_conversation *c)
{
    const char *path = c->options->messages_file;
    const char *name = strcmp(path, "-") == 0 ? "standard input" : path;
    cli_text text;
    kvf_error error;
    int status = cli_text_read("run", path, KVF_TREE_MAX_BYTES, true, &text);
    if (status == CLI_EXIT_OK && text.longer)
        status = cli_error("run", "%s: more than %d bytes are no conversation", name,
                           KVF_TREE_MAX_BYTES);
    else if (status == CLI_EXIT_OK)
        status = cli_result(
            "run", kvf_chat_request_read(text.data, text.bytes, name, &c->request, &error), &error);
    cli_text_free(&text);
    if (status != CLI_EXIT_OK)
        return status;
    c->has_request = true;
    if (c->request.passed_over[0])
        cli_note("run", "%s has besides messages and tools, passed over: %s", name,
                 c->request.passed_over);
    return status;
}

int cli_conversation_open(const cli_options *options, kvf_engine *engine, const kvf_saver *saver,
                          cli_conversation *conversation)
{
    kvf_error error;
    cli_conversation *c = conversation;
    *c = (cli_conversation){.options = options, .saver = saver};
    if (engine->tokenizer && kvf_conversation_open(engine->files, engine->tokenizer,
                                                   engine->encoder, &c->format, &error) != KVF_OK) {
        c->format = (kvf_conversation){.encoder = NULL};
        return cli_fail("run", &error);
    }
    const bool is_resumed = kvf_saver_held_tokens(saver) > 0;
    int status = CLI_EXIT_OK;
    if (options->messages_file)
        status = read_messages(c);
    if (status == CLI_EXIT_OK)
        status = is_resumed ? resume_settings(c) : begin_settings(c);
    if (status == CLI_EXIT_OK && is_resumed && c->settings.is_chat)
        status = cli_result("run", kvf_saver_ids(saver, &c->held, &error), &error);
    return status == CLI_EXIT_OK ? take_system(c) : status;
}

void cli_conversation_close(cli_conversation *conversation)
{
    kvf_conversation_close(&conversation->format);
    if (conversation->has_request)
        kvf_chat_request_free(&conversation->request);
    kvf_ids_free(&conversation->held);
    *conversation = (cli_conversation){.has_request = false};
}

/* ---- Prompts ----------------------------------------------------------------------------- */

void cli_prompt_free(cli_prompt *prompt)
{
    kvf_ids_free(&prompt->ids);
}

static int messages_prompt(cli_conversation *c, cli_prompt *prompt)
{
    const kvf_messages *messages = &c->request.messages;
    kvf_chat_report report;
    kvf_error error;
    size_t n = 0;
    if (kvf_conversation_messages(&c->format, &c->settings, messages->list, messages->n,
                                  &prompt->ids, &report, &error) != KVF_OK)
        return cli_fail("run", &error);
    if (report.tools_in_own_words)
        cli_note("run", "the checkpoint brings no text that introduces tools: kvfold's own words "
                        "are used");
    while (n < prompt->ids.n && n < c->held.n && prompt->ids.ids[n] == c->held.ids[n])
        n++;
    prompt->n_held = n;
    prompt->n_kept = n;
    return CLI_EXIT_OK;
}

/* The next turn behind the first n_held ids of the session. */
static int turn_prompt(const cli_conversation *c, size_t n_held, const cli_text *text,
                       cli_prompt *prompt)
{
    const kvf_span user = {text->data, text->bytes};
    kvf_error error;
    return cli_result("run",
                      kvf_conversation_turn(&c->format, &c->settings, c->held.ids, n_held,
                                            c->system, user, &prompt->ids, &error),
                      &error);
}

int cli_conversation_prompt(cli_conversation *conversation, kvf_saver *saver, const cli_text *text,
                            cli_prompt *prompt)
{
    const cli_conversation *c = conversation;
    uint64_t n_held = 0;
    kvf_error error;
    prompt->n_kept = c->held.n;
    if (c->has_request)
        return messages_prompt(conversation, prompt);
    if (text->bytes == 0)
        return cli_result("run",
                          kvf_conversation_go_on(&c->format, &c->settings, c->held.ids, c->held.n,
                                                 &prompt->ids, &error),
                          &error);
    /* With -i a turn is what comes now, whatever was interrupted. */
    const bool is_begun = saver->unfinished.there && !c->options->interactive;
    int status = turn_prompt(c, is_begun ? saver->unfinished.from : c->held.n, text, prompt);
    if (status == CLI_EXIT_OK && is_begun)
        status = cli_result(
            "run", kvf_saver_skip(saver, prompt->ids.ids, prompt->ids.n, &n_held, &error), &error);
    prompt->n_held = n_held;
    if (status != CLI_EXIT_OK || !is_begun || saver->unfinished.there)
        return status;
    /* Another prompt than the one that was interrupted: it joins what is there of that. */
    prompt->ids.n = 0;
    return turn_prompt(c, c->held.n, text, prompt);
}

void cli_conversation_keep(const cli_conversation *conversation, kvf_generator *generator)
{
    if (generator->saver->path)
        kvf_conversation_store(&conversation->settings,
                               kvf_session_caller_state(generator->session));
}
