#include "cli/generate.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "clock.h"
#include "cli/interrupt.h"
#include "cli/message.h"
#include "cli/progress.h"
#include "engine/amounts.h"

/* Shorter prompts are over before a bar could be read. */
static const uint64_t min_progress_tokens = 256;

static kvf_profile_id profile_of(const cli_generator *generator)
{
    return generator->engine->options->profile;
}

static uint32_t vocab_of(const cli_generator *generator)
{
    return generator->engine->config.geometry.vocab;
}

int cli_generator_open(cli_engine *engine, cli_saver *saver, uint64_t context_tokens,
                       const int32_t *tokens, uint64_t n_tokens, cli_generator *generator)
{
    const cli_options *options = engine->options;
    memset(generator, 0, sizeof *generator);
    generator->engine = engine;
    generator->saver = saver;
    generator->context_tokens = context_tokens;
    generator->sampler =
        (kvf_sampler){options->temperature, options->top_p, options->min_p, options->seed};
    generator->pending = -1;
    generator->candidates = malloc(vocab_of(generator) * sizeof *generator->candidates);
    if (!generator->candidates)
        return cli_error(options->command, "out of memory for %u candidates", vocab_of(generator));
    const int status =
        cli_saver_restore(saver, engine, context_tokens, tokens, n_tokens, &generator->session,
                          &generator->sampler, &generator->pending);
    if (status != CLI_EXIT_OK || generator->session)
        return status;
    return cli_engine_open_session(engine, options->profile, context_tokens, &generator->session);
}

void cli_generator_close(cli_generator *generator)
{
    kvf_session_close(generator->session);
    free(generator->candidates);
    generator->session = NULL;
    generator->candidates = NULL;
}

void cli_generator_reset(cli_generator *generator)
{
    kvf_session_truncate(generator->session, 0, NULL, NULL); /* always works */
    generator->pending = -1;
    generator->pending_failed = false;
    cli_saver_end_prompt(generator->saver);
}

void cli_generator_keep(cli_generator *generator, cli_kept *kept)
{
    kvf_error error;
    *kept = (cli_kept){.pending = generator->pending, .unfinished = generator->saver->unfinished};
    if (kvf_session_fork(generator->session, &kept->session, &error) != KVF_OK)
        fprintf(stderr, "kvfold: run: warning: this cannot be taken back later: %s\n",
                error.message);
}

void cli_generator_take_back(cli_generator *generator, cli_kept *kept)
{
    /* What the file holds of it need not be written again. */
    kvf_session_share_save(kept->session, generator->session);
    kvf_session_close(generator->session);
    generator->session = kept->session;
    generator->pending = kept->pending;
    generator->pending_failed = false;
    generator->saver->unfinished = kept->unfinished;
    kept->session = NULL;
}

void cli_kept_free(cli_kept *kept)
{
    kvf_session_close(kept->session);
    kept->session = NULL;
}

/* A file of the model was shortened: every step and every save fails from then on. */
static bool weights_are_lost(const cli_generator *generator)
{
    return kvf_tensor_set_lost(generator->engine->files) != NULL;
}

static int forward(cli_generator *generator, const int32_t *tokens, uint32_t n_tokens)
{
    kvf_error error;
    if (kvf_model_forward(generator->engine->model, generator->session, tokens, n_tokens, NULL,
                          &error) == KVF_OK)
        return CLI_EXIT_OK;
    /* Nothing can be saved any more, which is said here and then no more. */
    if (weights_are_lost(generator) && (generator->saver->path || generator->saver->store)) {
        generator->saver->failed = true;
        return cli_error(generator->engine->options->command,
                         "%s; what came after the last save is not saved", error.message);
    }
    return cli_engine_error(generator->engine, &error, profile_of(generator),
                            generator->context_tokens);
}

/* The token that was answered last comes first: it was shown, so it is part of the text. */
static int append_pending(cli_generator *generator)
{
    if (generator->pending < 0)
        return CLI_EXIT_OK;
    const int status = forward(generator, &generator->pending, 1);
    generator->pending_failed = status != CLI_EXIT_OK;
    if (status == CLI_EXIT_OK)
        generator->pending = -1;
    return status;
}

uint64_t cli_generator_n_tokens(const cli_generator *generator)
{
    return kvf_session_n_tokens(generator->session) + (generator->pending >= 0);
}

int cli_generator_save(cli_generator *generator)
{
    int status = CLI_EXIT_OK;
    if (!generator->saver->path && !generator->saver->store)
        return status;
    if (!generator->pending_failed)
        status = append_pending(generator);
    if (weights_are_lost(generator) && status != CLI_EXIT_OK)
        return status;
    const int saved = cli_saver_save(generator->saver, generator->engine, generator->session,
                                     &generator->sampler, generator->pending);
    return status == CLI_EXIT_OK ? saved : status;
}

void cli_generator_save_rest(cli_generator *generator)
{
    const cli_saver *saver = generator->saver;
    if (weights_are_lost(generator))
        return;
    if (saver->path && cli_generator_n_tokens(generator) != saver->saved_tokens)
        cli_generator_save(generator);
}

/* One chunk of the prompt, whose first *done tokens are in the session. */
static int prefill_chunk(cli_generator *generator, const int32_t *tokens, uint64_t n_tokens,
                         uint32_t chunk, uint64_t *done)
{
    const uint64_t held = kvf_session_n_tokens(generator->session);
    const uint64_t left = cli_saver_limit(generator->saver, held, held + n_tokens - *done);
    const uint32_t n = left < chunk ? (uint32_t)left : chunk;
    const int status = forward(generator, tokens + *done, n);
    if (status != CLI_EXIT_OK)
        return status;
    *done += n;
    if (*done == n_tokens)
        cli_saver_end_prompt(generator->saver);
    return cli_saver_tick(generator->saver, generator->engine, generator->session,
                          &generator->sampler);
}

int cli_read_prompt(cli_generator *generator, const int32_t *tokens, uint64_t n_tokens,
                    cli_answer *answer)
{
    memset(answer, 0, sizeof *answer);
    const uint32_t chunk =
        cli_options_chunk_tokens(generator->engine->options, generator->context_tokens);
    cli_progress progress = {0};
    const double started = kvf_seconds();
    int status = append_pending(generator);
    if (n_tokens >= min_progress_tokens)
        cli_progress_start(&progress, "prefill", n_tokens);
    if (status == CLI_EXIT_OK && n_tokens > 0)
        cli_saver_begin_prompt(generator->saver, generator->session);
    while (status == CLI_EXIT_OK && answer->n_prompt_tokens < n_tokens && !cli_interrupted()) {
        status = prefill_chunk(generator, tokens, n_tokens, chunk, &answer->n_prompt_tokens);
        cli_progress_update(&progress, answer->n_prompt_tokens);
    }
    cli_progress_finish(&progress);
    answer->prefill_seconds = kvf_seconds() - started;
    if (answer->n_prompt_tokens < n_tokens)
        answer->ending = CLI_ENDED_INTERRUPTED;
    /* A prompt is found again by itself, whatever its answer is. */
    if (status == CLI_EXIT_OK && generator->saver->store)
        status = cli_generator_save(generator);
    return status;
}

static bool is_eos(const kvf_model_config *config, int32_t token)
{
    for (uint32_t i = 0; i < config->n_eos_tokens; i++) {
        if (config->eos_tokens[i] == token)
            return true;
    }
    return false;
}

/* What a token is shown as: the characters that end in it, or a line with its id. */
static void show_token(cli_generator *generator, int32_t token, kvf_buffer *text)
{
    char line[16];
    if (generator->shows_ids)
        kvf_buffer_add(text, line, (size_t)snprintf(line, sizeof line, "%d\n", token));
    else
        kvf_decoder_add(&generator->decoder, token, text);
}

/*
 * Writes past stdio: what that could not write it would write later, when the token is not part
 * of the text any more. False where Ctrl-C came while nobody read; *status where it cannot be
 * written at all. A line that is begun is ended.
 */
static bool stream_text(const kvf_buffer *text, int *status)
{
    size_t done = 0;
    if (text->failed)
        *status = cli_error("run", "out of memory for the text of a token");
    while (!text->failed && done < text->bytes && (done > 0 || !cli_interrupted())) {
        const ssize_t written = write(STDOUT_FILENO, text->data + done, text->bytes - done);
        if (written > 0) {
            done += (size_t)written;
        } else if (written < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) {
            poll(&(struct pollfd){STDOUT_FILENO, POLLOUT, 0}, 1, -1);
        } else if (written < 0 && errno != EINTR) {
            *status = cli_error("run", "cannot write to standard output: %s", strerror(errno));
            break;
        }
    }
    return done == text->bytes && !text->failed;
}

/* Shows a token; as stream_text. One that was not shown leaves nothing behind. */
static bool stream_token(cli_generator *generator, int32_t token, int *status)
{
    const kvf_decoder before = generator->decoder;
    kvf_buffer text = {.data = NULL};
    show_token(generator, token, &text);
    const bool shown = stream_text(&text, status);
    if (!shown)
        generator->decoder = before;
    kvf_buffer_free(&text);
    return shown;
}

/* Half a character at the end of an answer shows that it is one. */
static void stream_rest(cli_generator *generator, int *status)
{
    kvf_buffer text = {.data = NULL};
    kvf_decoder_flush(&generator->decoder, &text);
    stream_text(&text, status);
    kvf_buffer_free(&text);
}

static int keep_token(const cli_generator *generator, cli_answer *answer, int32_t token)
{
    /* The array doubles whenever the count reaches a power of two. */
    if ((answer->n_tokens & (answer->n_tokens - 1)) == 0) {
        const size_t capacity = answer->n_tokens ? 2 * answer->n_tokens : 1;
        int32_t *larger = realloc(answer->tokens, capacity * sizeof *larger);
        if (!larger)
            return cli_error(generator->engine->options->command, "out of memory for %zu tokens",
                             capacity);
        answer->tokens = larger;
    }
    answer->tokens[answer->n_tokens] = token;
    return CLI_EXIT_OK;
}

/* True when the answer ends before another token is computed. */
static bool ended(const cli_generator *generator, cli_answer *answer)
{
    if (cli_interrupted())
        answer->ending = CLI_ENDED_INTERRUPTED;
    else if (answer->n_tokens == generator->engine->options->max_tokens)
        answer->ending = CLI_ENDED_MAX_TOKENS;
    else if (cli_generator_n_tokens(generator) >= generator->context_tokens)
        answer->ending = CLI_ENDED_CONTEXT_FULL; /* one more would be shown and not held */
    else
        return false;
    return true;
}

/* Draws a token and shows it. False where the answer ends without it, or with *status. */
static bool answer_token(cli_generator *generator, bool stream, cli_answer *answer, int *status)
{
    const kvf_sampler before = generator->sampler;
    const int32_t token =
        (int32_t)kvf_sample(&generator->sampler, kvf_session_logits(generator->session),
                            vocab_of(generator), generator->candidates);
    if (is_eos(&generator->engine->config, token)) {
        answer->ending = CLI_ENDED_EOS;
        return false;
    }
    if (!stream)
        *status = keep_token(generator, answer, token);
    if (stream ? !stream_token(generator, token, status) : *status != CLI_EXIT_OK) {
        generator->sampler = before; /* it is drawn again when the text goes on */
        answer->ending = CLI_ENDED_INTERRUPTED;
        return false;
    }
    answer->n_tokens++;
    generator->pending = token;
    return true;
}

int cli_answer_prompt(cli_generator *generator, bool stream, cli_answer *answer)
{
    const double started = kvf_seconds();
    int status = CLI_EXIT_OK;
    kvf_decoder_start(&generator->decoder, generator->engine->tokenizer, true);
    if (stream)
        fflush(stdout);
    while (status == CLI_EXIT_OK && !ended(generator, answer) &&
           answer_token(generator, stream, answer, &status) && !ended(generator, answer)) {
        status = append_pending(generator);
        if (status == CLI_EXIT_OK && stream)
            status = cli_saver_tick(generator->saver, generator->engine, generator->session,
                                    &generator->sampler);
    }
    if (status == CLI_EXIT_OK && stream)
        stream_rest(generator, &status);
    answer->decode_seconds = kvf_seconds() - started;
    return status;
}

const char *cli_ending_name(cli_ending ending)
{
    switch (ending) {
    case CLI_ENDED_EOS: return "eos";
    case CLI_ENDED_MAX_TOKENS: return "max_tokens";
    case CLI_ENDED_CONTEXT_FULL: return "context_full";
    default: return "interrupted";
    }
}

static const char *describe_ending(cli_ending ending)
{
    switch (ending) {
    case CLI_ENDED_EOS: return "ended by the model";
    case CLI_ENDED_MAX_TOKENS: return "ended by --max-tokens";
    case CLI_ENDED_CONTEXT_FULL: return "the context is full";
    default: return "interrupted";
    }
}

void cli_answer_summarise(const cli_generator *generator, const cli_answer *answer)
{
    const kvf_device *device = generator->engine->device;
    const uint64_t n_decoded = answer->n_tokens ? answer->n_tokens - 1 : 0;
    char prompt[KVF_NUMBER_BYTES];
    char tokens[KVF_NUMBER_BYTES];
    char prefill_rate[KVF_NUMBER_BYTES];
    char decode_rate[KVF_NUMBER_BYTES];
    char cache[KVF_NUMBER_BYTES];
    fprintf(stderr,
            "%s on %s/%s: %s + %s tokens, prefill %s tok/s, decode %s tok/s, cache %s; %s\n",
            kvf_profile_get(profile_of(generator))->name, kvf_device_backend_name(device),
            kvf_device_isa_name(device), kvf_show_count(answer->n_prompt_tokens, prompt),
            kvf_show_count(answer->n_tokens, tokens),
            kvf_show_rate(kvf_rate((double)answer->n_prompt_tokens, answer->prefill_seconds),
                            prefill_rate),
            kvf_show_rate(kvf_rate((double)n_decoded, answer->decode_seconds), decode_rate),
            kvf_show_bytes(kvf_session_held_bytes(generator->session), cache),
            describe_ending(answer->ending));
}
