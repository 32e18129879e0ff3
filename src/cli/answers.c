#include "cli/answers.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "cli/interrupt.h"
#include "cli/message.h"
#include "clock.h"
#include "engine/amounts.h"

/* What a token is shown as: the characters that end in it, or a line with its id. */
static void show_token(cli_stream *stream, int32_t token, kvf_buffer *text)
{
    char line[16];
    if (stream->shows_ids)
        kvf_buffer_add(text, line, (size_t)snprintf(line, sizeof line, "%d\n", token));
    else
        kvf_decoder_add(&stream->decoder, token, text);
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

/* A kvf_token_sink. One that was not shown leaves nothing behind. */
static bool stream_token(void *user, int32_t token)
{
    cli_stream *stream = user;
    const kvf_decoder before = stream->decoder;
    kvf_buffer text = {.data = NULL};
    show_token(stream, token, &text);
    const bool shown = stream_text(&text, &stream->status);
    if (!shown)
        stream->decoder = before;
    kvf_buffer_free(&text);
    return shown;
}

/* Half a character at the end of an answer shows that it is one. */
static void stream_rest(cli_stream *stream)
{
    kvf_buffer text = {.data = NULL};
    kvf_decoder_flush(&stream->decoder, &text);
    stream_text(&text, &stream->status);
    kvf_buffer_free(&text);
}

int cli_stream_answer(kvf_generator *generator, cli_stream *stream, kvf_generation *generation)
{
    kvf_error error;
    stream->status = CLI_EXIT_OK;
    kvf_decoder_start(&stream->decoder, generator->engine->tokenizer, true);
    fflush(stdout);
    if (kvf_generator_answer(generator, stream_token, stream, generation, &error) != KVF_OK)
        return cli_fail("run", &error);
    if (stream->status == CLI_EXIT_OK)
        stream_rest(stream);
    return stream->status;
}

int cli_read_prompt(kvf_generator *generator, cli_listener *listener, const int32_t *tokens,
                    uint64_t n_tokens, kvf_generation *generation)
{
    kvf_error error;
    const kvf_status status = kvf_generator_read(generator, tokens, n_tokens, generation, &error);
    cli_progress_finish(&listener->progress);
    return status == KVF_OK ? CLI_EXIT_OK : cli_fail("run", &error);
}

int cli_save(kvf_generator *generator)
{
    kvf_error error;
    return kvf_generator_save(generator, &error) == KVF_OK ? CLI_EXIT_OK : cli_fail("run", &error);
}

void cli_save_rest(kvf_generator *generator)
{
    kvf_error error;
    if (kvf_generator_save_rest(generator, &error) != KVF_OK)
        cli_fail("run", &error);
}

const char *cli_ending_name(kvf_ending ending)
{
    switch (ending) {
    case KVF_ENDED_EOS: return "eos";
    case KVF_ENDED_MAX_TOKENS: return "max_tokens";
    case KVF_ENDED_CONTEXT_FULL: return "context_full";
    default: return "interrupted";
    }
}

static const char *describe_ending(kvf_ending ending)
{
    switch (ending) {
    case KVF_ENDED_EOS: return "ended by the model";
    case KVF_ENDED_MAX_TOKENS: return "ended by --max-tokens";
    case KVF_ENDED_CONTEXT_FULL: return "the context is full";
    default: return "interrupted";
    }
}

void cli_summarise_answer(const kvf_generator *generator, const kvf_generation *generation)
{
    const kvf_device *device = generator->engine->device;
    const uint64_t n_decoded = generation->n_tokens ? generation->n_tokens - 1 : 0;
    char prompt[KVF_NUMBER_BYTES];
    char tokens[KVF_NUMBER_BYTES];
    char prefill_rate[KVF_NUMBER_BYTES];
    char decode_rate[KVF_NUMBER_BYTES];
    char cache[KVF_NUMBER_BYTES];
    fprintf(
        stderr, "%s on %s/%s: %s + %s tokens, prefill %s tok/s, decode %s tok/s, cache %s; %s\n",
        kvf_profile_get(generator->engine->options->profile)->name, kvf_device_backend_name(device),
        kvf_device_isa_name(device), kvf_show_count(generation->n_prompt_tokens, prompt),
        kvf_show_count(generation->n_tokens, tokens),
        kvf_show_rate(kvf_rate((double)generation->n_prompt_tokens, generation->prefill_seconds),
                      prefill_rate),
        kvf_show_rate(kvf_rate((double)n_decoded, generation->decode_seconds), decode_rate),
        kvf_show_bytes(kvf_session_held_bytes(generator->session), cache),
        describe_ending(generation->ending));
}

static void summarise_store(const kvf_saver *saver)
{
    char tokens[KVF_NUMBER_BYTES];
    char kept[KVF_NUMBER_BYTES];
    char bytes[KVF_NUMBER_BYTES];
    char held[KVF_NUMBER_BYTES];
    char most[KVF_NUMBER_BYTES];
    const kvf_store_put_report *refused = &saver->refused;
    kvf_show_bytes(saver->options->store_max_bytes, most);
    if (saver->put.stored)
        fprintf(stderr, "stored: the first %s tokens in %s; the store holds %s of %s\n",
                kvf_show_count(saver->put_tokens, tokens),
                kvf_show_bytes(saver->put.file_bytes, bytes),
                kvf_show_bytes(saver->put.held_bytes, held), most);
    kvf_show_count(saver->refused_tokens, tokens);
    kvf_show_bytes(refused->file_bytes, bytes);
    if (refused->file_bytes > saver->options->store_max_bytes)
        fprintf(stderr, "not stored: %s are more than --store-max, %s\n", bytes, most);
    else if (refused->kept_tokens > 0)
        fprintf(stderr,
                "not stored: the first %s tokens; %s do not fit into --store-max, %s, beside the "
                "first %s, which stay for other prompts\n",
                tokens, bytes, most, kvf_show_count(refused->kept_tokens, kept));
    else if (refused->file_bytes > 0)
        fprintf(stderr,
                "not stored: %s do not fit into --store-max, %s, while another process writes\n",
                bytes, most);
}

void cli_summarise_saved(const kvf_saver *saver)
{
    char tokens[KVF_NUMBER_BYTES];
    char bytes[KVF_NUMBER_BYTES];
    char written[KVF_NUMBER_BYTES];
    kvf_show_count(saver->saved_tokens, tokens);
    if (saver->saved && !saver->failed)
        fprintf(stderr, "saved as %s: %s tokens in %s, %s of them written now%s\n",
                saver->options->session, tokens, kvf_show_bytes(saver->report.file_bytes, bytes),
                kvf_show_bytes(saver->report.written_bytes, written),
                saver->unfinished.there ? "; the prompt is not all there: give it again to go on"
                                        : "");
    summarise_store(saver);
}
