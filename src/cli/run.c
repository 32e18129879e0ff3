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

/* null where tokens are shown by their ids. */
static void add_text(const running *r, const kvf_generation *answer, cli_record *record)
{
    kvf_buffer text = {.data = NULL};
    kvf_decoder decoder;
    if (r->shows_ids) {
        cli_record_list(record, "text", cJSON_CreateNull());
        return;
    }
    kvf_decoder_start(&decoder, r->engine.tokenizer, true);
    for (uint64_t i = 0; i < answer->n_tokens; i++)
        kvf_decoder_add(&decoder, answer->tokens[i], &text);
    kvf_decoder_flush(&decoder, &text);
    cli_record_bytes(record, "text", text.data, text.bytes);
    record->failed = record->failed || text.failed;
    kvf_buffer_free(&text);
}

static int print_json(const running *r, const kvf_generator *generator, uint64_t n_resumed_tokens,
                      const kvf_generation *answer)
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
    add_text(r, answer, &record);
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
    int status = CLI_EXIT_OK;
    if (generator->saver->path)
        kvf_generator_keep(generator, &before);
    if (prompt_read)
        status =
            cli_result("run", kvf_generator_answer(generator, NULL, NULL, answer, &error), &error);
    if (status == CLI_EXIT_OK)
        status = print_json(r, generator, n_resumed, answer);
    if (status != CLI_EXIT_OK && before.session) {
        kvf_generator_take_back(generator, &before);
        generator->sampler = sampler;
    }
    kvf_kept_free(&before);
    return status;
}

/* tokens: all of the prompt, of which a stored session may hold the first. */
static int answer_once(running *r, kvf_generator *generator, const int32_t *tokens,
                       uint64_t n_tokens)
{
    cli_stream stream = {.shows_ids = r->shows_ids};
    const bool json = r->options.output == CLI_OUTPUT_JSON;
    const uint64_t n_resumed = kvf_generator_n_tokens(generator);
    const uint64_t n_found = generator->saver->store ? n_resumed : 0;
    kvf_generation answer;
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
                                 .n_forks = options->interactive ? CLI_CHAT_FORKS : 0,
                                 .own_bytes = record_bytes,
                                 .command = options};
    kvf_error error;
    return cli_result("run", kvf_engine_check_memory(&r->engine, &request, &error), &error);
}

/* tokens: of the prompt; a conversation takes the text instead, turn by turn. */
static int converse(running *r, kvf_generator *generator, const int32_t *tokens, uint64_t n_tokens)
{
    if (!r->options.interactive)
        return answer_once(r, generator, tokens, n_tokens);
    if (r->saver.exists)
        say_resumed(generator, kvf_generator_n_tokens(generator), 0);
    const int status = cli_chat(generator, &r->listener, r->text.bytes > 0 ? &r->text : NULL);
    cli_summarise_saved(&r->saver);
    return status;
}

static int run_with(running *r, const int32_t *tokens, uint64_t n_tokens)
{
    const uint64_t n_held = kvf_saver_held_tokens(&r->saver);
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
    status = cli_result(
        "run",
        kvf_generator_open(&r->engine, &r->saver, context, tokens, n_tokens, &generator, &error),
        &error);
    if (status == CLI_EXIT_OK)
        status = converse(r, &generator, tokens, n_tokens);
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
    if (!(options->prompt || options->file || options->interactive))
        return CLI_EXIT_OK;
    if (!opened)
        return cli_error("run", "%s; --ids FILE takes token ids and answers with such",
                         error.message);
    if (!options->raw && !kvf_tokenizer_is_bytes(r->engine.tokenizer))
        return cli_error("run", "the chat format of this model is not written yet; --raw takes "
                                "the text as it is");
    return CLI_EXIT_OK;
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

/* The prompt as tokens, without those that the named session holds of it already. */
static int run_tokens(running *r, kvf_ids *ids)
{
    const cli_text *text = &r->text;
    const kvf_engine *engine = &r->engine;
    uint64_t n_held = 0;
    kvf_error error;
    const bool bos = !r->is_ids && kvf_saver_at_start(&r->saver) && text->bytes > 0;
    int status = CLI_EXIT_OK;
    if (r->is_ids)
        status = take_ids(r, ids);
    else if (text->bytes > 0)
        status = cli_result(
            "run", kvf_engine_encode(&r->engine, text->data, text->bytes, bos, ids, &error),
            &error);
    if (status == CLI_EXIT_OK && text->bytes == 0 && !r->options.interactive &&
        kvf_saver_held_tokens(&r->saver) == 0)
        status = refuse_nothing(r);
    else if (status == CLI_EXIT_OK && !r->options.interactive)
        status =
            cli_result("run", kvf_saver_skip(&r->saver, ids->ids, ids->n, &n_held, &error), &error);
    /* Another prompt than the one that was interrupted comes after what is there, without BOS. */
    const bool drops_bos =
        bos && n_held == 0 && kvf_saver_held_tokens(&r->saver) > 0 && engine->config.bos_token >= 0;
    const uint64_t n_passed = n_held + drops_bos;
    return status == CLI_EXIT_OK ? run_with(r, ids->ids + n_passed, ids->n - n_passed) : status;
}

static int run_prompt(running *r)
{
    kvf_ids ids = {.n = 0};
    const int status = kvf_ids_reserve(&ids, 1) /* so that there is an array, of none too */
                           ? run_tokens(r, &ids)
                           : cli_error("run", "out of memory for a prompt");
    kvf_ids_free(&ids);
    return status;
}

int cli_run(const cli_options *options)
{
    running r = {.options = *options, .saver = {.lock = {-1, NULL}}};
    kvf_error error;
    if (options->engine.session || options->engine.store)
        cli_interrupt_save_first();
    int status = cli_open_engine(&r.options, &r.listener, &r.engine);
    if (status == CLI_EXIT_OK)
        status = open_tokenizer(&r);
    if (status == CLI_EXIT_OK)
        status = read_prompt(&r);
    if (status == CLI_EXIT_OK)
        status = cli_result(
            "run", kvf_saver_open(&r.options.engine, &r.engine.events, &r.saver, &error), &error);
    if (status == CLI_EXIT_OK)
        status = run_prompt(&r);
    kvf_saver_close(&r.saver);
    cli_text_free(&r.text);
    kvf_engine_close(&r.engine);
    return status;
}
