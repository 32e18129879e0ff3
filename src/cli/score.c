/*
 * kvfold score: how well the model predicts a text, in windows of equal length,
 * each through a session of its own.
 */
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/clock.h"
#include "cli/commands.h"
#include "cli/engine.h"
#include "cli/ids.h"
#include "cli/interrupt.h"
#include "cli/message.h"
#include "cli/outfile.h"
#include "cli/progress.h"
#include "cli/table.h"
#include "cli/text.h"
#include "cli/units.h"
#include "model/tokenizer.h"

/* --logits writes floats as they lie in memory and promises little-endian. */
_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "a big-endian machine must swap bytes");

typedef struct scoring {
    const cli_options *options;
    cli_engine engine;
    uint32_t vocab;
    int32_t *tokens; /* all windows one after another, each with its BOS */
    uint64_t window_tokens;
    uint64_t n_windows;
    uint64_t n_dropped;  /* bytes or ids past the last whole window */
    float *chunk_logits; /* [chunk][vocab] */
    cli_outfile logits_file;
    cli_progress progress;
    /* What comes out. */
    double nats; /* sum of -ln p over all predicted tokens */
    uint64_t n_predicted;
    uint64_t n_bytes; /* of the predicted tokens */
    double seconds;
} scoring;

/* ---- The sequence ------------------------------------------------------------------ */

/* Cuts n items into windows of that many; less than one window is a window by itself. */
static uint64_t cut(scoring *s, uint64_t n_items, uint64_t window_items)
{
    const uint64_t items = n_items < window_items ? n_items : window_items;
    s->n_windows = n_items / items;
    s->n_dropped = n_items % items;
    return items;
}

static int take_text(scoring *s, const cli_text *text)
{
    const kvf_model_config *config = &s->engine.config;
    const uint64_t n_bos = config->bos_token >= 0;
    if (text->bytes == 0)
        return cli_error("score", "'%s' is empty", s->options->file);
    const uint64_t window_bytes = cut(s, text->bytes, s->options->window_tokens - n_bos);
    s->window_tokens = window_bytes + n_bos;
    s->tokens = malloc(s->n_windows * s->window_tokens * sizeof *s->tokens);
    if (!s->tokens)
        return cli_error("score", "out of memory for the tokens of %zu bytes", text->bytes);
    for (uint64_t i = 0; i < s->n_windows; i++)
        kvf_tokenize(config, text->data + i * window_bytes, window_bytes, true,
                     s->tokens + i * s->window_tokens);
    if (s->window_tokens < 2)
        return cli_error("score", "'%s' has %zu byte; 2 are needed to predict one",
                         s->options->file, text->bytes);
    return CLI_EXIT_OK;
}

static int take_ids(scoring *s, const cli_text *text)
{
    uint64_t n_ids;
    cli_ids_fault fault;
    s->tokens = malloc(cli_ids_most(text->bytes) * sizeof *s->tokens);
    if (!s->tokens)
        return cli_error("score", "out of memory for the ids of %zu bytes", text->bytes);
    if (!cli_ids_parse(text->data, text->bytes, s->vocab, s->tokens, &n_ids, &fault))
        return cli_error(
            "score", "'%s' line %llu, '%s', is not a token id; each holds one, 0 to %u",
            s->options->ids_file, (unsigned long long)fault.line, fault.text, s->vocab - 1);
    if (n_ids < 2)
        return cli_error("score", "'%s' has %llu ids; 2 are needed to predict one",
                         s->options->ids_file, (unsigned long long)n_ids);
    s->window_tokens = cut(s, n_ids, s->options->window_tokens);
    return CLI_EXIT_OK;
}

static int read_sequence(scoring *s)
{
    kvf_error error;
    cli_text text;
    const char *path = s->options->ids_file ? s->options->ids_file : s->options->file;
    if (!s->options->ids_file &&
        kvf_tokenizer_check(s->options->model, &s->engine.config, &error) != KVF_OK)
        return cli_error("score", "%s", error.message);
    int status = cli_text_read("score", path, &text);
    if (status != CLI_EXIT_OK)
        return status;
    status = s->options->ids_file ? take_ids(s, &text) : take_text(s, &text);
    cli_text_free(&text);
    if (status == CLI_EXIT_OK && s->window_tokens > s->engine.config.geometry.max_tokens) {
        char window[CLI_NUMBER_BYTES];
        char limit[CLI_NUMBER_BYTES];
        return cli_error("score", "a window of %s tokens is more than the model's maximum of %s",
                         cli_format_count(s->window_tokens, window),
                         cli_format_count(s->engine.config.geometry.max_tokens, limit));
    }
    return status;
}

/* ---- Scoring ------------------------------------------------------------------------ */

/* -ln of the token's probability, in double: the logits' maximum taken out first. */
static double negative_log_likelihood(const float *logits, uint32_t vocab, int32_t token)
{
    double max = -INFINITY;
    double sum = 0;
    for (uint32_t i = 0; i < vocab; i++)
        max = logits[i] > max ? logits[i] : max;
    for (uint32_t i = 0; i < vocab; i++)
        sum += exp(logits[i] - max);
    return max + log(sum) - logits[token];
}

/* n rows of logits for the window's tokens first .. first + n. */
static int take_logits(scoring *s, const int32_t *window, uint64_t first, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++) {
        const uint64_t next = first + i + 1;
        if (next == s->window_tokens)
            break;
        s->nats +=
            negative_log_likelihood(s->chunk_logits + (size_t)i * s->vocab, s->vocab, window[next]);
        s->n_predicted++;
        s->n_bytes += kvf_token_byte(window[next]) >= 0;
    }
    const size_t n_floats = (size_t)n * s->vocab;
    if (s->logits_file.stream &&
        fwrite(s->chunk_logits, sizeof(float), n_floats, s->logits_file.stream) != n_floats)
        return cli_error("score", "cannot write '%s': %s", s->options->logits_file,
                         strerror(errno));
    return CLI_EXIT_OK;
}

static int score_window(scoring *s, uint64_t index)
{
    const int32_t *window = s->tokens + index * s->window_tokens;
    const uint32_t chunk = cli_options_chunk_tokens(s->options, s->window_tokens);
    kvf_session *session;
    kvf_error error;
    int status =
        cli_engine_open_session(&s->engine, s->options->profile, s->window_tokens, &session);
    if (status != CLI_EXIT_OK)
        return status;
    for (uint64_t first = 0; first < s->window_tokens && status == CLI_EXIT_OK; first += chunk) {
        const uint64_t left = s->window_tokens - first;
        const uint32_t n = left < chunk ? (uint32_t)left : chunk;
        const double started = cli_seconds();
        if (cli_interrupted())
            status = CLI_EXIT_INTERRUPTED;
        else if (kvf_model_forward(s->engine.model, session, window + first, n, s->chunk_logits,
                                   &error) != KVF_OK)
            status = cli_engine_error(&s->engine, &error, s->options->profile, s->window_tokens);
        s->seconds += cli_seconds() - started;
        if (status == CLI_EXIT_OK)
            status = take_logits(s, window, first, n);
        cli_progress_update(&s->progress, index * s->window_tokens + first + n);
    }
    kvf_session_close(session);
    return status;
}

/* ---- Reporting ----------------------------------------------------------------------- */

static double bits_per_byte(const scoring *s)
{
    return s->n_bytes ? s->nats / log(2) / (double)s->n_bytes : NAN;
}

static int print_record(const scoring *s)
{
    cli_record record = cli_record_new();
    const double n_predicted = (double)s->n_predicted;
    cli_record_text(&record, "profile", kvf_profile_get(s->options->profile)->name);
    cli_record_text(&record, "isa", kvf_device_isa_name(s->engine.device));
    cli_record_text(&record, "backend", kvf_device_backend_name(s->engine.device));
    cli_record_count(&record, "window", s->window_tokens);
    cli_record_count(&record, "windows", s->n_windows);
    cli_record_count(&record, "dropped", s->n_dropped);
    cli_record_count(&record, "tokens", s->n_predicted);
    cli_record_count(&record, "bytes", s->n_bytes);
    cli_record_number(&record, "nats", s->nats / n_predicted);
    cli_record_number(&record, "perplexity", exp(s->nats / n_predicted));
    cli_record_number(&record, "bits_per_byte", bits_per_byte(s));
    cli_record_number(&record, "tps",
                      cli_rate((double)(s->n_windows * s->window_tokens), s->seconds));
    return cli_record_print("score", &record, s->options->output, true);
}

static int print_result(const scoring *s)
{
    if (s->options->output != CLI_OUTPUT_TABLE)
        return print_record(s);
    const double nats = s->nats / (double)s->n_predicted;
    char text[CLI_NUMBER_BYTES];
    printf("profile         %s on %s/%s\n", kvf_profile_get(s->options->profile)->name,
           kvf_device_backend_name(s->engine.device), kvf_device_isa_name(s->engine.device));
    printf("windows         %s", cli_format_count(s->n_windows, text));
    printf(" of %s tokens", cli_format_count(s->window_tokens, text));
    printf(", %s %s dropped at the end\n", cli_format_count(s->n_dropped, text),
           s->options->ids_file ? "ids" : "bytes");
    printf("predicted       %s tokens", cli_format_count(s->n_predicted, text));
    printf(", %s bytes\n", cli_format_count(s->n_bytes, text));
    if (s->n_bytes)
        printf("bits per byte   %.4f\n", bits_per_byte(s));
    printf("perplexity      %.4f per token (%.5f nats)\n", exp(nats), nats);
    printf("speed           %s tok/s\n",
           cli_format_rate(cli_rate((double)(s->n_windows * s->window_tokens), s->seconds), text));
    return CLI_EXIT_OK;
}

/* ---- The command ----------------------------------------------------------------------- */

static int prepare(scoring *s)
{
    const cli_options *options = s->options;
    int status = cli_engine_open(options, &s->engine);
    if (status != CLI_EXIT_OK)
        return status;
    s->vocab = s->engine.config.geometry.vocab;
    status = read_sequence(s);
    if (status != CLI_EXIT_OK)
        return status;
    const size_t chunk = cli_options_chunk_tokens(options, s->window_tokens);
    const size_t logits_bytes = chunk * s->vocab * sizeof(float);
    status = cli_engine_check_memory(&s->engine, options->profile, s->window_tokens, logits_bytes);
    if (status == CLI_EXIT_OK && options->logits_file)
        status = cli_outfile_open("score", options->logits_file, &s->logits_file);
    if (status == CLI_EXIT_OK)
        status = cli_engine_load(&s->engine, s->window_tokens);
    if (status != CLI_EXIT_OK)
        return status;
    s->chunk_logits = malloc(logits_bytes);
    if (!s->chunk_logits)
        return cli_error("score", "out of memory for %zu bytes of logits; a smaller --chunk helps",
                         logits_bytes);
    return CLI_EXIT_OK;
}

int cli_score(const cli_options *options)
{
    scoring s = {.options = options};
    int status = prepare(&s);
    if (status == CLI_EXIT_OK)
        cli_progress_start(&s.progress, "score", s.n_windows * s.window_tokens);
    for (uint64_t i = 0; i < s.n_windows && status == CLI_EXIT_OK; i++)
        status = score_window(&s, i);
    cli_progress_finish(&s.progress);
    if (status == CLI_EXIT_INTERRUPTED)
        cli_error("score", "interrupted%s", options->logits_file ? "; no logits were written" : "");
    if (status == CLI_EXIT_OK && s.logits_file.stream)
        status = cli_outfile_commit("score", &s.logits_file);
    if (status == CLI_EXIT_OK)
        status = print_result(&s);
    cli_outfile_discard(&s.logits_file);
    free(s.tokens);
    free(s.chunk_logits);
    cli_engine_close(&s.engine);
    return status;
}
