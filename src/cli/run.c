/* kvfold run: a prompt in, an answer out. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/answers.h"
#include "cli/chat.h"
#include "cli/commands.h"
#include "cli/ids.h"
#include "cli/interrupt.h"
#include "cli/message.h"
#include "cli/table.h"
#include "cli/text.h"
#include "clock.h"
#include "engine/amounts.h"
#include "engine/defaults.h"

/* A context that nobody asked for is rounded up to this, so that it reads well. */
static const uint64_t context_step_tokens = 1024;
/* A conversation's context where none was given; its cache grows only as it is used. */
static const uint64_t chat_context_tokens = 65536;

/* Of a file of ids: seven digits, a few zeros before them, the ends of other systems. */
enum { ID_LINE_BYTES = 16 };

typedef struct running {
    cli_options options; /* a session that is resumed brings its own */
    cli_listener listener;
    kvf_engine engine;
    kvf_saver saver;
    /* What is asked. */
    cli_text text; /* or the file of ids; no data: none was given */
    bool is_ids;
    bool shows_ids; /* the answer is shown as ids, too */
    cli_conversation conversation;
    cli_prompt prompt;
} running;

static uint64_t min_u64(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

static uint64_t max_u64(uint64_t a, uint64_t b)
{
    return a > b ? a : b;
}

/*
 * The context of the session: --ctx, or what the text so far, the prompt and the answer
 * need, and no less than it was saved with.
 */
static int choose_context(const running *r, uint64_t n_prompt_tokens, uint64_t *context)
{
    const cli_options *options = &r->options;
    const kvf_saver *saver = &r->saver;
    const uint64_t model_tokens = r->engine.config.geometry.max_tokens;
    const char *what = kvf_saver_held_tokens(saver) ? "session with the prompt" : "prompt";
    char prompt[KVF_NUMBER_BYTES];
    char limit[KVF_NUMBER_BYTES];
    n_prompt_tokens += kvf_saver_held_tokens(saver);
    if (n_prompt_tokens > model_tokens)
        return cli_error("run", "the %s has %s tokens, the model takes at most %s", what,
                         kvf_show_count(n_prompt_tokens, prompt),
                         kvf_show_count(model_tokens, limit));
    if (options->n_contexts == 0) {
        const uint64_t wanted =
            n_prompt_tokens + options->engine.max_tokens + context_step_tokens - 1;
        *context = min_u64(wanted - wanted % context_step_tokens, model_tokens);
        if (options->interactive)
            *context = min_u64(max_u64(*context, chat_context_tokens), model_tokens);
        *context = max_u64(*context, min_u64(saver->info.max_tokens, model_tokens));
        return CLI_EXIT_OK;
    }
    *context = options->contexts[0];
    if (*context > model_tokens)
        return cli_error("run", "--ctx %s is more than the model's maximum of %s tokens",
                         kvf_show_count(*context, prompt), kvf_show_count(model_tokens, limit));
    if (n_prompt_tokens > *context)
        return cli_error("run", "the %s has %s tokens and --ctx holds %s", what,
                         kvf_show_count(n_prompt_tokens, prompt), kvf_show_count(*context, limit));
    return CLI_EXIT_OK;
}

/* ---- One answer ----------------------------------------------------------------- */

/* An answer's parts, for JSON. */
typedef struct parts {
    kvf_buffer text; /* all of it, as the model wrote it */
    kvf_buffer reasoning;
    kvf_buffer content;
    cJSON *calls;
    bool failed; /* memory was short */
} parts;

/* As messages of a later --messages have them; ids are by their order. */
static void add_call(parts *p, const kvf_answer_event *event)
{
    cli_record call = cli_record_new();
    cli_record function = cli_record_new();
    char id[24];
    snprintf(id, sizeof id, "call_%d", cJSON_GetArraySize(p->calls));
    cli_record_text(&call, "id", id);
    cli_record_text(&call, "type", "function");
    cli_record_bytes(&function, "name", event->name.data, event->name.bytes);
    cli_record_bytes(&function, "arguments", event->arguments.data, event->arguments.bytes);
    p->failed = p->failed || function.failed;
    cli_record_list(&call, "function", function.object);
    p->failed = p->failed || call.failed || !cJSON_AddItemToArray(p->calls, call.object);
}

static void take_part(void *user, const kvf_answer_event *event)
{
    parts *p = user;
    kvf_buffer_add(&p->text, event->raw.data, event->raw.bytes);
    if (event->kind == KVF_ANSWER_REASONING)
        kvf_buffer_add(&p->reasoning, event->raw.data, event->raw.bytes);
    else if (event->kind == KVF_ANSWER_CALL)
        add_call(p, event);
    else if (event->kind != KVF_ANSWER_FRAME)
        kvf_buffer_add(&p->content, event->raw.data, event->raw.bytes);
}

static void free_parts(parts *p)
{
    kvf_buffer_free(&p->text);
    kvf_buffer_free(&p->reasoning);
    kvf_buffer_free(&p->content);
    cJSON_Delete(p->calls);
}

/* A text, or null where it does not apply. */
static void add_part(cli_record *record, const char *key, const kvf_buffer *text, bool applies)
{
    if (applies)
        cli_record_bytes(record, key, text->data ? text->data : "", text->bytes);
    else
        cli_record_list(record, key, cJSON_CreateNull());
    record->failed = record->failed || text->failed;
}

/* null where tokens are shown by their ids; what only a conversation has, elsewhere. */
static void add_parts(const running *r, parts *p, cli_record *record)
{
    const bool is_chat = r->conversation.settings.is_chat && !r->shows_ids;
    add_part(record, "text", &p->text, !r->shows_ids);
    add_part(record, "reasoning", &p->reasoning, is_chat);
    add_part(record, "content", &p->content, is_chat);
    cli_record_list(record, "calls", is_chat ? p->calls : cJSON_CreateNull());
    if (is_chat)
        p->calls = NULL;
    record->failed = record->failed || p->failed;
}

static int print_json(const running *r, const kvf_generator *generator, uint64_t n_resumed_tokens,
                      const kvf_generation *answer, parts *p)
{
    const uint64_t n_decoded = answer->n_tokens ? answer->n_tokens - 1 : 0;
    const kvf_device *device = r->engine.device;
    cli_record record = cli_record_new();
    cli_record_count(&record, "ctx", generator->context_tokens);
    cli_record_text(&record, "profile", kvf_profile_get(r->options.engine.profile)->name);
    cli_record_text(&record, "isa", kvf_device_isa_name(device));
    cli_record_text(&record, "backend", kvf_device_backend_name(device));
    cli_record_count(&record, "resumed_tokens", n_resumed_tokens);
    cli_record_count(&record, "prompt_tokens", answer->n_prompt_tokens);
    cli_record_count(&record, "answer_tokens", answer->n_tokens);
    cli_record_text(&record, "ended", cli_ending_name(answer->ending));
    cli_record_number(&record, "prefill_tps",
                      kvf_rate((double)answer->n_prompt_tokens, answer->prefill_seconds));
    cli_record_number(&record, "decode_tps", kvf_rate((double)n_decoded, answer->decode_seconds));
    cli_record_count(&record, "session_bytes", kvf_session_held_bytes(generator->session));
    cJSON *tokens = cJSON_CreateArray();
    for (uint64_t i = 0; tokens && i < answer->n_tokens; i++)
        cJSON_AddItemToArray(tokens, cJSON_CreateNumber(answer->tokens[i]));
    cli_record_list(&record, "tokens", tokens);
    add_parts(r, p, &record);
    const int status = cli_record_print("run", &record, CLI_OUTPUT_JSON, false);
    if (status == CLI_EXIT_OK && (fflush(stdout) != 0 || ferror(stdout)))
        return cli_error("run", "cannot write to standard output: %s", strerror(errno));
    return status;
}

static void say_resumed(const kvf_generator *generator, uint64_t n_resumed_tokens,
                        uint64_t n_prompt_tokens)
{
    char resumed[KVF_NUMBER_BYTES];
    char prompt[KVF_NUMBER_BYTES];
    kvf_show_count(n_resumed_tokens, resumed);
    if (generator->saver->store)
        fprintf(stderr, "found in the store: the first %s of %s tokens\n", resumed,
                kvf_show_count(n_prompt_tokens, prompt));
    else
        fprintf(stderr, "resumed %s: %s tokens so far\n", generator->engine->options->session,
                resumed);
}

/* Takes the answer apart; nothing is saved before it got out. */
static kvf_status answer_apart(const running *r, kvf_generator *generator, parts *p,
                               kvf_generation *answer, kvf_error *error)
{
    kvf_reply_options options = cli_reply_options(&r->conversation);
    options.sink = take_part;
    options.user = p;
    return r->shows_ids ? kvf_generator_answer(generator, NULL, answer, error)
                        : kvf_reply(generator, &options, answer, error);
}

/*
 * Answers as one JSON object, which is all that anybody sees of it: where it does not get
 * out, the answer is taken back.
 */
static int answer_as_json(const running *r, kvf_generator *generator, uint64_t n_resumed,
                          bool prompt_read, kvf_generation *answer)
{
    kvf_error error;
    const kvf_sampler sampler = generator->sampler;
    kvf_kept before = {.session = NULL};
    parts p = {.calls = cJSON_CreateArray()};
    int status = CLI_EXIT_OK;
    if (generator->saver->path)
        kvf_generator_keep(generator, &before);
    if (prompt_read)
        status = cli_result("run", answer_apart(r, generator, &p, answer, &error), &error);
    if (status == CLI_EXIT_OK)
        status = print_json(r, generator, n_resumed, answer, &p);
    if (status != CLI_EXIT_OK && before.session) {
        kvf_generator_take_back(generator, &before);
        generator->sampler = sampler;
    }
    kvf_kept_free(&before);
    free_parts(&p);
    return status;
}

/* tokens: all of the prompt, of which a stored session may hold the first. */
static int answer_once(running *r, kvf_generator *generator, const int32_t *tokens,
                       uint64_t n_tokens)
{
    cli_stream stream;
    const bool json = r->options.output == CLI_OUTPUT_JSON;
    const uint64_t n_resumed = kvf_generator_n_tokens(generator);
    const uint64_t n_found = generator->saver->store ? n_resumed : 0;
    kvf_generation answer;
    cli_stream_start(&r->conversation, r->shows_ids, &stream);
    if (n_resumed > 0)
        say_resumed(generator, n_resumed, n_tokens);
    int status =
        cli_read_prompt(generator, &r->listener, tokens + n_found, n_tokens - n_found, &answer);
    const bool read = answer.n_prompt_tokens == n_tokens - n_found;
    if (status == CLI_EXIT_OK && json)
        status = answer_as_json(r, generator, n_resumed, read, &answer);
    else if (status == CLI_EXIT_OK && read)
        status = cli_stream_answer(generator, &stream, &answer);
    if (!json) {
        if (!r->shows_ids)
            putchar('\n');
        fflush(stdout);
    }
    if (status == CLI_EXIT_OK) {
        cli_summarise_answer(generator, &answer);
        status = cli_save(generator);
    } else {
        cli_save_rest(generator);
    }
    cli_summarise_saved(generator->saver);
    if (status == CLI_EXIT_OK && answer.ending == KVF_ENDED_INTERRUPTED)
        status = CLI_EXIT_INTERRUPTED;
    free(answer.tokens);
    return status;
}

/* ---- The command ------------------------------------------------------------------ */

/* The record of an answer: a node of cJSON and some digits a token, its text, escaped. */
static uint64_t record_bytes(const void *command, uint64_t context_tokens, uint32_t chunk_tokens)
{
    static const uint64_t token_bytes = 128;
    const cli_options *options = command;
    (void)chunk_tokens;
    return options->output == CLI_OUTPUT_JSON
               ? token_bytes * min_u64(context_tokens, options->engine.max_tokens)
               : 0;
}

static int check_memory(running *r, uint64_t context_tokens, uint64_t n_held_tokens)
{
    const cli_options *options = &r->options;
    const kvf_request request = {.profile = options->engine.profile,
                                 .context_tokens = context_tokens,
                                 .least_tokens = n_held_tokens,
                                 .n_forks = (options->interactive ? CLI_CHAT_FORKS : 0) +
                                            (options->n_stops > 0),
                                 .own_bytes = record_bytes,
                                 .command = options};
    kvf_error error;
    return cli_result("run", kvf_engine_check_memory(&r->engine, &request, &error), &error);
}

/*
 * Goes back to what the session has in common with a conversation that is written anew; where it
 * cannot, nothing is kept, and all of it is read.
 */
static int go_back(running *r, kvf_generator *generator)
{
    cli_prompt *prompt = &r->prompt;
    kvf_error error;
    if (!r->conversation.has_request || prompt->n_kept == kvf_generator_n_tokens(generator))
        return CLI_EXIT_OK;
    const kvf_status status = kvf_generator_rewind(generator, prompt->n_kept, &error);
    if (status != KVF_NOT_COVERED)
        return cli_result("run", status, &error);
    cli_note("run",
             "the session went on otherwise than this conversation from token %llu on; all of it "
             "is read anew",
             (unsigned long long)prompt->n_kept);
    kvf_generator_reset(generator);
    prompt->n_held = 0;
    return CLI_EXIT_OK;
}

/* A conversation takes its text turn by turn. */
static int converse(running *r, kvf_generator *generator)
{
    cli_conversation *conversation = &r->conversation;
    cli_prompt *prompt = &r->prompt;
    const uint64_t n_before = kvf_generator_n_tokens(generator);
    int status = r->saver.store ? CLI_EXIT_OK : go_back(r, generator);
    cli_conversation_keep(conversation, generator);
    const int32_t *tokens = prompt->ids.ids + prompt->n_held;
    const uint64_t n_tokens = prompt->ids.n - prompt->n_held;
    if (status != CLI_EXIT_OK)
        return status;
    if (!r->options.interactive)
        return answer_once(r, generator, tokens, n_tokens);
    if (r->saver.exists)
        say_resumed(generator, n_before, 0);
    const cli_first_turn first = {.text = r->text.bytes > 0 ? &r->text : NULL,
                                  .ids = conversation->has_request ? tokens : NULL,
                                  .n_ids = n_tokens};
    status = cli_chat(generator, &r->listener, conversation, &first);
    cli_summarise_saved(&r->saver);
    return status;
}

static int run_with(running *r)
{
    const cli_prompt *prompt = &r->prompt;
    const int32_t *tokens = prompt->ids.ids + prompt->n_held;
    const uint64_t n_held = kvf_saver_held_tokens(&r->saver);
    /* What a session goes back from makes room. */
    const uint64_t n_all = prompt->ids.n - prompt->n_held + prompt->n_kept;
    const uint64_t n_tokens = n_all > n_held ? n_all - n_held : 0;
    uint64_t context = 0;
    kvf_error error;
    int status = choose_context(r, n_tokens, &context);
    if (status == CLI_EXIT_OK)
        status = check_memory(r, context, max_u64(n_tokens + n_held, 1));
    if (status == CLI_EXIT_OK)
        status = cli_result("run", kvf_engine_load(&r->engine, context, &error), &error);
    if (status != CLI_EXIT_OK)
        return status;
    kvf_generator generator;
    status = cli_result("run",
                        kvf_generator_open(&r->engine, &r->saver, context, tokens,
                                           prompt->ids.n - prompt->n_held, &generator, &error),
                        &error);
    if (status == CLI_EXIT_OK)
        status = converse(r, &generator);
    kvf_generator_close(&generator);
    return status;
}

/* The most tokens that a prompt can have. */
static uint64_t most_tokens(const running *r)
{
    const uint64_t model_tokens = r->engine.config.geometry.max_tokens;
    return r->options.n_contexts > 0 ? min_u64(r->options.contexts[0], model_tokens) : model_tokens;
}

static int refuse_longer(const running *r, const char *path)
{
    char limit[KVF_NUMBER_BYTES];
    const bool given = most_tokens(r) < r->engine.config.geometry.max_tokens;
    return cli_error("run", "the prompt in '%s' has more than %s tokens, and %s", path,
                     kvf_show_count(most_tokens(r), limit),
                     given ? "--ctx holds no more" : "the model takes no more");
}

/* More bytes than the longest tokens of a context have, or lines of ids, are of no use. */
static int read_prompt(running *r)
{
    const cli_options *options = &r->options;
    if (!options->prompt && !options->file && !options->ids_file)
        return CLI_EXIT_OK;
    const char *path = options->ids_file ? options->ids_file : options->file;
    const uint64_t token_bytes =
        options->ids_file ? ID_LINE_BYTES : kvf_tokenizer_longest(r->engine.tokenizer);
    const uint64_t most = most_tokens(r) * token_bytes;
    if (options->prompt)
        return cli_text_copy("run", options->prompt, strlen(options->prompt), &r->text);
    const int status = cli_text_read("run", path, most, true, &r->text);
    return status == CLI_EXIT_OK && r->text.longer ? refuse_longer(r, path) : status;
}

/* Text needs a tokenizer that is read; ids do not, nor does going on where a session ended. */
static int open_tokenizer(running *r)
{
    const cli_options *options = &r->options;
    kvf_error error;
    const bool opened = kvf_engine_open_tokenizer(&r->engine, &error) == KVF_OK;
    r->is_ids = options->ids_file != NULL;
    r->shows_ids = r->is_ids || !opened;
    if (opened || !(options->prompt || options->file || options->messages_file ||
                    options->interactive || options->n_stops > 0))
        return CLI_EXIT_OK;
    return cli_error("run", "%s; --ids FILE takes token ids and answers with such", error.message);
}

/* Neither a prompt nor a text that could go on: there is nothing to answer. */
static int refuse_nothing(const running *r)
{
    const char *session = r->options.engine.session;
    const char *what = r->saver.exists ? "empty" : "not there yet";
    if (!r->text.data)
        return cli_error("run", "the session %s is %s; give a prompt to begin it", session, what);
    if (session)
        return cli_error("run", "the prompt is empty, and the session %s is %s", session, what);
    return cli_error("run", "the prompt is empty; there is nothing to answer");
}

static int take_ids(const running *r, kvf_ids *taken)
{
    const cli_text *text = &r->text;
    const char *path = r->options.ids_file;
    const uint32_t vocab = r->engine.config.geometry.vocab;
    const uint64_t most = most_tokens(r);
    uint64_t n = 0;
    uint64_t n_last = 0;
    size_t used = 0;
    cli_ids ids;
    if (!kvf_ids_reserve(taken, cli_ids_most(text->bytes) + 1)) /* the last id */
        return cli_error("run", "out of memory for a prompt of %zu bytes", text->bytes);
    cli_ids_start(&ids, vocab);
    if (!cli_ids_take(&ids, text->data, text->bytes, taken->ids, most, &n, &used) ||
        (used == text->bytes && !cli_ids_end(&ids, taken->ids + n, &n_last)))
        return cli_error("run", "'%s' line %llu, '%s', is not a token id; each holds one, 0 to %u",
                         path, (unsigned long long)ids.line_number, ids.line, vocab - 1);
    taken->n = n + n_last;
    return used < text->bytes || taken->n > most ? refuse_longer(r, path) : CLI_EXIT_OK;
}

/* Plain text, or ids, without what the named session holds of it already. */
static int plain_prompt(running *r)
{
    const cli_text *text = &r->text;
    const kvf_engine *engine = &r->engine;
    kvf_ids *ids = &r->prompt.ids;
    uint64_t n_held = 0;
    kvf_error error;
    const bool bos = !r->is_ids && kvf_saver_at_start(&r->saver) && text->bytes > 0;
    int status = CLI_EXIT_OK;
    r->prompt.n_kept = kvf_saver_held_tokens(&r->saver);
    if (r->is_ids)
        status = take_ids(r, ids);
    else if (text->bytes > 0)
        status = cli_result(
            "run", kvf_engine_encode(&r->engine, text->data, text->bytes, bos, ids, &error),
            &error);
    if (status == CLI_EXIT_OK && !r->options.interactive)
        status =
            cli_result("run", kvf_saver_skip(&r->saver, ids->ids, ids->n, &n_held, &error), &error);
    /* Another prompt than the one that was interrupted comes after what is there, without BOS. */
    const bool drops_bos =
        bos && n_held == 0 && kvf_saver_held_tokens(&r->saver) > 0 && engine->config.bos_token >= 0;
    r->prompt.n_held = n_held + drops_bos;
    return status;
}

static int run_prompt(running *r)
{
    const bool has_request = r->conversation.has_request;
    int status = CLI_EXIT_OK;
    if (r->text.bytes == 0 && !has_request && !r->options.interactive &&
        kvf_saver_held_tokens(&r->saver) == 0)
        return refuse_nothing(r);
    if (!kvf_ids_reserve(&r->prompt.ids, 1)) /* so that there is an array, of none too */
        return cli_error("run", "out of memory for a prompt");
    if (!r->conversation.settings.is_chat || r->is_ids)
        status = plain_prompt(r);
    else if (r->text.bytes > 0 || has_request || !r->options.interactive)
        status = cli_conversation_prompt(&r->conversation, &r->saver, &r->text, &r->prompt);
    else
        r->prompt.n_kept = kvf_saver_held_tokens(&r->saver);
    return status == CLI_EXIT_OK ? run_with(r) : status;
}

/* How the checkpoint's makers mean its answers to be drawn, where the options do not say. */
static int take_defaults(running *r)
{
    kvf_engine_options *options = &r->options.engine;
    const bool given = options->top_p_given || options->min_p_given || options->seed_given;
    kvf_draw_defaults defaults;
    kvf_error error;
    if (kvf_draw_defaults_read(r->engine.files, &defaults, &error) != KVF_OK)
        return cli_fail("run", &error);
    if (!options->temperature_given)
        options->temperature = defaults.temperature;
    if (!options->top_p_given)
        options->top_p = defaults.top_p;
    if (!options->min_p_given)
        options->min_p = defaults.min_p;
    if (options->temperature <= 0 && given && (!options->session || options->temperature_given))
        return cli_error("run", "--top-p, --min-p and --seed need --temperature above 0 (at 0 the "
                                "likeliest token is taken)");
    if (defaults.passed_over[0] && !options->temperature_given)
        cli_note("run", "the checkpoint asks for ways to draw that are not followed: %s",
                 defaults.passed_over);
    return CLI_EXIT_OK;
}

int cli_run(const cli_options *options)
{
    running r = {.options = *options, .saver = {.lock = {-1, NULL}}};
    kvf_error error;
    if (options->engine.session || options->engine.store)
        cli_interrupt_save_first();
    int status = cli_open_engine(&r.options, &r.listener, &r.engine);
    if (status == CLI_EXIT_OK)
        status = take_defaults(&r);
    if (status == CLI_EXIT_OK)
        status = open_tokenizer(&r);
    if (status == CLI_EXIT_OK)
        status = read_prompt(&r);
    if (status == CLI_EXIT_OK)
        status = cli_result(
            "run", kvf_saver_open(&r.options.engine, &r.engine.events, &r.saver, &error), &error);
    if (status == CLI_EXIT_OK)
        status = cli_conversation_open(&r.options, &r.engine, &r.saver, &r.conversation);
    if (status == CLI_EXIT_OK)
        status = run_prompt(&r);
    cli_prompt_free(&r.prompt);
    cli_conversation_close(&r.conversation);
    kvf_saver_close(&r.saver);
    cli_text_free(&r.text);
    kvf_engine_close(&r.engine);
    return status;
}
