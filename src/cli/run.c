/* kvfold run: a prompt in, an answer out. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/chat.h"
#include "clock.h"
#include "cli/commands.h"
#include "cli/generate.h"
#include "cli/ids.h"
#include "cli/interrupt.h"
#include "cli/message.h"
#include "cli/table.h"
#include "cli/text.h"
#include "engine/amounts.h"

/* A context that nobody asked for is rounded up to this, so that it reads well. */
static const uint64_t context_step_tokens = 1024;
/* A conversation's context where none was given; its cache grows only as it is used. */
static const uint64_t chat_context_tokens = 65536;

/* Of a file of ids: seven digits, a few zeros before them, the ends of other systems. */
enum { ID_LINE_BYTES = 16 };

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
static int choose_context(const cli_engine *engine, const cli_saver *saver,
                          uint64_t n_prompt_tokens, uint64_t *context)
{
    const cli_options *options = engine->options;
    const uint64_t model_tokens = engine->config.geometry.max_tokens;
    const char *what = cli_saver_held_tokens(saver) ? "session with the prompt" : "prompt";
    char prompt[KVF_NUMBER_BYTES];
    char limit[KVF_NUMBER_BYTES];
    n_prompt_tokens += cli_saver_held_tokens(saver);
    if (n_prompt_tokens > model_tokens)
        return cli_error("run", "the %s has %s tokens, the model takes at most %s", what,
                         kvf_show_count(n_prompt_tokens, prompt),
                         kvf_show_count(model_tokens, limit));
    if (options->n_contexts == 0) {
        const uint64_t wanted = n_prompt_tokens + options->max_tokens + context_step_tokens - 1;
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
                         kvf_show_count(n_prompt_tokens, prompt),
                         kvf_show_count(*context, limit));
    return CLI_EXIT_OK;
}

/* ---- One answer ----------------------------------------------------------------- */

/* null where tokens are shown by their ids. */
static void add_text(const cli_generator *generator, const cli_answer *answer, cli_record *record)
{
    kvf_buffer text = {.data = NULL};
    kvf_decoder decoder;
    if (generator->shows_ids) {
        cli_record_list(record, "text", cJSON_CreateNull());
        return;
    }
    kvf_decoder_start(&decoder, generator->engine->tokenizer, true);
    for (uint64_t i = 0; i < answer->n_tokens; i++)
        kvf_decoder_add(&decoder, answer->tokens[i], &text);
    kvf_decoder_flush(&decoder, &text);
    cli_record_bytes(record, "text", text.data, text.bytes);
    record->failed = record->failed || text.failed;
    kvf_buffer_free(&text);
}

static int print_json(const cli_generator *generator, uint64_t n_resumed_tokens,
                      const cli_answer *answer)
{
    const uint64_t n_decoded = answer->n_tokens ? answer->n_tokens - 1 : 0;
    const kvf_device *device = generator->engine->device;
    cli_record record = cli_record_new();
    cli_record_count(&record, "ctx", generator->context_tokens);
    cli_record_text(&record, "profile", kvf_profile_get(generator->engine->options->profile)->name);
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
    add_text(generator, answer, &record);
    const int status = cli_record_print("run", &record, CLI_OUTPUT_JSON, false);
    if (status == CLI_EXIT_OK && (fflush(stdout) != 0 || ferror(stdout)))
        return cli_error("run", "cannot write to standard output: %s", strerror(errno));
    return status;
}

static void say_resumed(const cli_generator *generator, uint64_t n_resumed_tokens,
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
static int answer_as_json(cli_generator *generator, uint64_t n_resumed, bool prompt_read,
                          cli_answer *answer)
{
    const kvf_sampler sampler = generator->sampler;
    cli_kept before = {.session = NULL};
    int status = CLI_EXIT_OK;
    if (generator->saver->path)
        cli_generator_keep(generator, &before);
    if (prompt_read)
        status = cli_answer_prompt(generator, false, answer);
    if (status == CLI_EXIT_OK)
        status = print_json(generator, n_resumed, answer);
    if (status != CLI_EXIT_OK && before.session) {
        cli_generator_take_back(generator, &before);
        generator->sampler = sampler;
    }
    cli_kept_free(&before);
    return status;
}

/* tokens: all of the prompt, of which a stored session may hold the first. */
static int answer_once(cli_generator *generator, const int32_t *tokens, uint64_t n_tokens)
{
    const bool json = generator->engine->options->output == CLI_OUTPUT_JSON;
    const uint64_t n_resumed = cli_generator_n_tokens(generator);
    const uint64_t n_found = generator->saver->store ? n_resumed : 0;
    cli_answer answer;
    if (n_resumed > 0)
        say_resumed(generator, n_resumed, n_tokens);
    int status = cli_read_prompt(generator, tokens + n_found, n_tokens - n_found, &answer);
    const bool read = answer.n_prompt_tokens == n_tokens - n_found;
    if (status == CLI_EXIT_OK && json)
        status = answer_as_json(generator, n_resumed, read, &answer);
    else if (status == CLI_EXIT_OK && read)
        status = cli_answer_prompt(generator, true, &answer);
    if (!json) {
        if (!generator->shows_ids)
            putchar('\n');
        fflush(stdout);
    }
    if (status == CLI_EXIT_OK) {
        cli_answer_summarise(generator, &answer);
        status = cli_generator_save(generator);
    } else {
        cli_generator_save_rest(generator);
    }
    cli_saver_summarise(generator->saver);
    if (status == CLI_EXIT_OK && answer.ending == CLI_ENDED_INTERRUPTED)
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
               ? token_bytes * min_u64(context_tokens, options->max_tokens)
               : 0;
}

static int check_memory(cli_engine *engine, uint64_t context_tokens, uint64_t n_held_tokens)
{
    const cli_options *options = engine->options;
    const cli_request request = {.profile = options->profile,
                                 .context_tokens = context_tokens,
                                 .least_tokens = n_held_tokens,
                                 .n_forks = options->interactive ? CLI_CHAT_FORKS : 0,
                                 .own_bytes = record_bytes,
                                 .command = options};
    return cli_engine_check_memory(engine, &request);
}

/* What is asked. */
typedef struct prompt {
    cli_text text; /* or the file of ids; no data: none was given */
    bool is_ids;
    bool shows_ids; /* the answer is shown as ids, too */
} prompt;

/* tokens: of the prompt; a conversation takes the text instead, turn by turn. */
static int run_with(cli_engine *engine, cli_saver *saver, const prompt *asked,
                    const int32_t *tokens, uint64_t n_tokens)
{
    const cli_text *text = &asked->text;
    const cli_options *options = engine->options;
    uint64_t context = 0;
    int status = choose_context(engine, saver, n_tokens, &context);
    if (status == CLI_EXIT_OK)
        status = check_memory(engine, context, max_u64(n_tokens + cli_saver_held_tokens(saver), 1));
    if (status == CLI_EXIT_OK)
        status = cli_engine_load(engine, context);
    if (status != CLI_EXIT_OK)
        return status;
    cli_generator generator;
    status = cli_generator_open(engine, saver, context, tokens, n_tokens, &generator);
    generator.shows_ids = asked->shows_ids;
    if (status == CLI_EXIT_OK && options->interactive) {
        if (saver->exists)
            say_resumed(&generator, cli_generator_n_tokens(&generator), 0);
        status = cli_chat(&generator, text->bytes > 0 ? text : NULL);
        cli_saver_summarise(saver);
    } else if (status == CLI_EXIT_OK) {
        status = answer_once(&generator, tokens, n_tokens);
    }
    cli_generator_close(&generator);
    return status;
}

/* The most tokens that a prompt can have. */
static uint64_t most_tokens(const cli_engine *engine)
{
    const cli_options *options = engine->options;
    const uint64_t model_tokens = engine->config.geometry.max_tokens;
    return options->n_contexts > 0 ? min_u64(options->contexts[0], model_tokens) : model_tokens;
}

static int refuse_longer(const cli_engine *engine, const char *path)
{
    char limit[KVF_NUMBER_BYTES];
    const bool given = most_tokens(engine) < engine->config.geometry.max_tokens;
    return cli_error("run", "the prompt in '%s' has more than %s tokens, and %s", path,
                     kvf_show_count(most_tokens(engine), limit),
                     given ? "--ctx holds no more" : "the model takes no more");
}

/* More bytes than the longest tokens of a context have, or lines of ids, are of no use. */
static int read_prompt(const cli_engine *engine, prompt *asked)
{
    const cli_options *options = engine->options;
    if (!options->prompt && !options->file && !options->ids_file)
        return CLI_EXIT_OK;
    const char *path = options->ids_file ? options->ids_file : options->file;
    const uint64_t token_bytes =
        options->ids_file ? ID_LINE_BYTES : kvf_tokenizer_longest(engine->tokenizer);
    const uint64_t most = most_tokens(engine) * token_bytes;
    if (options->prompt)
        return cli_text_copy("run", options->prompt, strlen(options->prompt), &asked->text);
    const int status = cli_text_read("run", path, most, true, &asked->text);
    return status == CLI_EXIT_OK && asked->text.longer ? refuse_longer(engine, path) : status;
}

/* Text needs a tokenizer that is read; ids do not, nor does going on where a session ended. */
static int open_tokenizer(cli_engine *engine, prompt *asked)
{
    const cli_options *options = engine->options;
    kvf_error error;
    const bool opened = cli_engine_open_tokenizer(engine, &error) == KVF_OK;
    asked->is_ids = options->ids_file != NULL;
    asked->shows_ids = asked->is_ids || !opened;
    if (!(options->prompt || options->file || options->interactive))
        return CLI_EXIT_OK;
    if (!opened)
        return cli_error("run", "%s; --ids FILE takes token ids and answers with such",
                         error.message);
    if (!options->raw && !kvf_tokenizer_is_bytes(engine->tokenizer))
        return cli_error("run", "the chat format of this model is not written yet; --raw takes "
                                "the text as it is");
    return CLI_EXIT_OK;
}

/* Neither a prompt nor a text that could go on: there is nothing to answer. */
static int refuse_nothing(const cli_options *options, const cli_saver *saver, const cli_text *text)
{
    const char *what = saver->exists ? "empty" : "not there yet";
    if (!text->data)
        return cli_error("run", "the session %s is %s; give a prompt to begin it", options->session,
                         what);
    if (options->session)
        return cli_error("run", "the prompt is empty, and the session %s is %s", options->session,
                         what);
    return cli_error("run", "the prompt is empty; there is nothing to answer");
}

static int take_ids(const cli_engine *engine, const cli_text *text, kvf_ids *taken)
{
    const char *path = engine->options->ids_file;
    const uint64_t most = most_tokens(engine);
    uint64_t n = 0;
    uint64_t n_last = 0;
    size_t used = 0;
    cli_ids ids;
    if (!kvf_ids_reserve(taken, cli_ids_most(text->bytes) + 1)) /* the last id */
        return cli_error("run", "out of memory for a prompt of %zu bytes", text->bytes);
    cli_ids_start(&ids, engine->config.geometry.vocab);
    if (!cli_ids_take(&ids, text->data, text->bytes, taken->ids, most, &n, &used) ||
        (used == text->bytes && !cli_ids_end(&ids, taken->ids + n, &n_last)))
        return cli_error("run", "'%s' line %llu, '%s', is not a token id; each holds one, 0 to %u",
                         path, (unsigned long long)ids.line_number, ids.line,
                         engine->config.geometry.vocab - 1);
    taken->n = n + n_last;
    return used < text->bytes || taken->n > most ? refuse_longer(engine, path) : CLI_EXIT_OK;
}

/* The prompt as tokens, without those that the named session holds of it already. */
static int run_tokens(cli_engine *engine, cli_saver *saver, const prompt *asked, kvf_ids *ids)
{
    const cli_options *options = engine->options;
    const cli_text *text = &asked->text;
    uint64_t n_held = 0;
    const bool bos = !asked->is_ids && cli_saver_at_start(saver) && text->bytes > 0;
    int status = CLI_EXIT_OK;
    if (asked->is_ids)
        status = take_ids(engine, text, ids);
    else if (text->bytes > 0)
        status = cli_engine_encode(engine, text->data, text->bytes, bos, ids);
    if (status == CLI_EXIT_OK && text->bytes == 0 && !options->interactive &&
        cli_saver_held_tokens(saver) == 0)
        status = refuse_nothing(options, saver, text);
    else if (status == CLI_EXIT_OK && !options->interactive)
        status = cli_saver_skip(saver, ids->ids, ids->n, &n_held);
    /* Another prompt than the one that was interrupted comes after what is there, without BOS. */
    const bool drops_bos =
        bos && n_held == 0 && cli_saver_held_tokens(saver) > 0 && engine->config.bos_token >= 0;
    const uint64_t n_passed = n_held + drops_bos;
    return status == CLI_EXIT_OK
               ? run_with(engine, saver, asked, ids->ids + n_passed, ids->n - n_passed)
               : status;
}

static int run_prompt(cli_engine *engine, cli_saver *saver, const prompt *asked)
{
    kvf_ids ids = {.n = 0};
    const int status = kvf_ids_reserve(&ids, 1) /* so that there is an array, of none too */
                           ? run_tokens(engine, saver, asked, &ids)
                           : cli_error("run", "out of memory for a prompt");
    kvf_ids_free(&ids);
    return status;
}

int cli_run(const cli_options *options)
{
    prompt asked = {.text = {NULL, 0, false}};
    cli_options resolved = *options; /* a session that is resumed brings its own */
    cli_engine engine;
    cli_saver saver = {.lock = {-1, NULL}};
    if (options->session || options->store)
        cli_interrupt_save_first();
    int status = cli_engine_open(&resolved, &engine);
    if (status == CLI_EXIT_OK)
        status = open_tokenizer(&engine, &asked);
    if (status == CLI_EXIT_OK)
        status = read_prompt(&engine, &asked);
    if (status == CLI_EXIT_OK)
        status = cli_saver_open(&resolved, &saver);
    if (status == CLI_EXIT_OK)
        status = run_prompt(&engine, &saver, &asked);
    cli_saver_close(&saver);
    cli_text_free(&asked.text);
    cli_engine_close(&engine);
    return status;
}
