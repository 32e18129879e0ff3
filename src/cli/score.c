/*
 * kvfold score: how well the model predicts a text, in windows of equal length,
 * each through a session of its own. A text of any length is read window by window.
 */
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/commands.h"
#include "cli/events.h"
#include "cli/ids.h"
#include "cli/interrupt.h"
#include "cli/message.h"
#include "cli/outfile.h"
#include "cli/progress.h"
#include "cli/table.h"
#include "cli/text.h"
#include "clock.h"
#include "engine/amounts.h"

/* --logits writes floats as they lie in memory and promises little-endian. */
_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "a big-endian machine must swap bytes");

enum { BLOCK_BYTES = 64 * 1024 };
/* Of a text with no place to cut it: more than any that is read by people, less than memory. */
enum { MAX_UNCUT_BYTES = 64 << 20 };

typedef struct scoring {
    const cli_options *options;
    kvf_engine engine;
    kvf_batch *batch; /* of one, of every window in its turn */
    cli_listener listener;
    uint32_t vocab;
    /* The sequence, of which one window is in memory at a time. Items are tokens. */
    cli_source source;
    cli_ids ids;
    char *block; /* [BLOCK_BYTES], read and not yet taken from block_at to block_end */
    size_t block_at;
    size_t block_end;
    bool ended;
    kvf_buffer text; /* read and not yet encoded: what follows may change its tokens */
    kvf_ids encoded; /* of a text; those from encoded_at on are not yet taken */
    size_t encoded_at;
    int32_t *tokens; /* [window_tokens], with BOS in front of a text's */
    uint64_t n_bos;
    uint64_t window_tokens;
    uint64_t expected_windows; /* for the bar; 0: not known */
    uint64_t n_windows;
    uint64_t n_dropped;  /* items past the last whole window */
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

static int fill_block(scoring *s)
{
    if (cli_interrupted()) /* a line of ids may have no end */
        return CLI_EXIT_INTERRUPTED;
    const int status = cli_source_read(&s->source, s->block, BLOCK_BYTES, &s->block_end);
    s->block_at = 0;
    s->ended = s->block_end < BLOCK_BYTES;
    return status;
}

static int refuse_line(const scoring *s)
{
    return cli_error("score", "'%s' line %llu, '%s', is not a token id; each holds one, 0 to %u",
                     s->source.path, (unsigned long long)s->ids.line_number, s->ids.line,
                     s->vocab - 1);
}

/* Of a file of ids into out[0..most), *n of them; fewer at its end. */
static int next_ids(scoring *s, int32_t *out, uint64_t most, uint64_t *n)
{
    int status = CLI_EXIT_OK;
    uint64_t got = 0;
    while (status == CLI_EXIT_OK && *n < most && (s->block_at < s->block_end || !s->ended)) {
        size_t used = 0;
        if (s->block_at == s->block_end)
            status = fill_block(s);
        if (status == CLI_EXIT_OK &&
            !cli_ids_take(&s->ids, s->block + s->block_at, s->block_end - s->block_at, out + *n,
                          most - *n, &got, &used))
            return refuse_line(s);
        s->block_at += used;
        *n += got;
        got = 0;
    }
    if (status == CLI_EXIT_OK && *n < most && !cli_ids_end(&s->ids, out + *n, &got))
        return refuse_line(s);
    *n += got;
    return status;
}

/* Reads on and encodes what it can, up to where the text can be cut; all of it at the end. */
static int encode_more(scoring *s)
{
    size_t cut = 0;
    size_t wanted = 0; /* doubled, as all of it is looked through each time */
    s->encoded.n = s->encoded_at = 0;
    while (cut == 0 && !s->ended) {
        const int status = fill_block(s);
        if (status != CLI_EXIT_OK)
            return status;
        kvf_buffer_add(&s->text, s->block, s->block_end);
        if (s->text.failed)
            return cli_error("score", "out of memory for a text");
        if (s->text.bytes < wanted && !s->ended)
            continue;
        wanted = 2 * s->text.bytes;
        cut =
            s->ended ? s->text.bytes : kvf_text_cut(s->engine.encoder, s->text.data, s->text.bytes);
        if (cut == 0 && s->text.bytes > MAX_UNCUT_BYTES)
            return cli_error("score",
                             "'%s' has %zu bytes that nothing divides, neither a line end nor a "
                             "space behind a word; at most %d are encoded at once",
                             s->source.path, s->text.bytes, MAX_UNCUT_BYTES);
    }
    kvf_error error;
    const int status = cli_result(
        "score", kvf_engine_encode(&s->engine, s->text.data, cut, false, &s->encoded, &error),
        &error);
    if (cut > 0)
        memmove(s->text.data, s->text.data + cut, s->text.bytes - cut);
    s->text.bytes -= cut;
    return status;
}

/* Of a text into out[0..most), *n of them; fewer at its end. */
static int next_of_text(scoring *s, int32_t *out, uint64_t most, uint64_t *n)
{
    int status = CLI_EXIT_OK;
    while (status == CLI_EXIT_OK && *n < most) {
        const size_t left = s->encoded.n - s->encoded_at;
        const size_t taken = left < most - *n ? left : (size_t)(most - *n);
        for (size_t i = 0; i < taken; i++)
            out[*n + i] = s->encoded.ids[s->encoded_at + i];
        s->encoded_at += taken;
        *n += taken;
        if (taken == 0 && s->ended)
            break;
        if (taken == 0)
            status = encode_more(s);
    }
    return status;
}

/* The next items into out[0..most), *n of them; fewer at the end of the sequence. */
static int next_items(scoring *s, int32_t *out, uint64_t most, uint64_t *n)
{
    const int status = cli_source_check(&s->source);
    *n = 0;
    if (status != CLI_EXIT_OK)
        return status;
    return s->options->ids_file ? next_ids(s, out, most, n) : next_of_text(s, out, most, n);
}

/* Reads all of a file of ids: a line that is none is found now, and not hours later. */
static int count_ids(scoring *s, uint64_t *n_ids)
{
    enum { FEW = 4096 };
    int32_t few[FEW];
    uint64_t n = FEW;
    int status = CLI_EXIT_OK;
    *n_ids = 0;
    while (status == CLI_EXIT_OK && n == FEW) {
        status = cli_interrupted() ? CLI_EXIT_INTERRUPTED : next_items(s, few, FEW, &n);
        *n_ids += n;
    }
    cli_ids_start(&s->ids, s->vocab);
    s->block_at = s->block_end = 0;
    s->ended = false;
    return status == CLI_EXIT_OK ? cli_source_rewind(&s->source) : status;
}

/* The window that all have the length of, or what there is where that is less. */
static int read_first_window(scoring *s)
{
    const uint64_t model_tokens = s->engine.config.geometry.max_tokens;
    const uint64_t wanted = s->options->window_tokens - s->n_bos;
    const uint64_t limit = model_tokens + 1 > s->n_bos ? model_tokens + 1 - s->n_bos : 1;
    const uint64_t most = wanted < limit ? wanted : limit;
    uint64_t capacity = BLOCK_BYTES;
    uint64_t n = 0;
    uint64_t got;
    do {
        capacity = n + capacity < most ? n + capacity : most;
        int32_t *larger = realloc(s->tokens, (capacity + s->n_bos) * sizeof *larger);
        if (!larger)
            return cli_error("score", "out of memory for a window of %llu tokens",
                             (unsigned long long)capacity);
        s->tokens = larger;
        const int status = next_items(s, s->tokens + s->n_bos + n, capacity - n, &got);
        if (status != CLI_EXIT_OK)
            return status;
        n += got;
    } while (n == capacity && n < most);
    s->window_tokens = n + s->n_bos;
    if (s->n_bos > 0)
        s->tokens[0] = s->engine.config.bos_token;
    return CLI_EXIT_OK;
}

static const char *item_name(const scoring *s, bool many)
{
    if (s->options->ids_file)
        return many ? "ids" : "id";
    if (kvf_tokenizer_is_bytes(s->engine.tokenizer))
        return many ? "bytes" : "byte";
    return many ? "tokens" : "token";
}

static int check_window(const scoring *s)
{
    const uint64_t model_tokens = s->engine.config.geometry.max_tokens;
    const uint64_t n_items = s->window_tokens - s->n_bos;
    const bool whole = s->window_tokens == s->options->window_tokens;
    char window[KVF_NUMBER_BYTES];
    char limit[KVF_NUMBER_BYTES];
    if (s->window_tokens > model_tokens)
        return cli_error("score", "a window of %s tokens is more than the model's maximum of %s",
                         kvf_show_count(s->options->window_tokens, window),
                         kvf_show_count(model_tokens, limit));
    if (n_items == 0)
        return cli_error("score", "'%s' is empty", s->source.path);
    if (s->window_tokens < 2)
        return cli_error("score", "'%s' has %llu %s; 2 are needed to predict one", s->source.path,
                         (unsigned long long)n_items, item_name(s, n_items != 1));
    if (whole && s->source.device)
        return cli_error("score", "'%s' is a device, which may have no end; give a file or a pipe",
                         s->source.path);
    return CLI_EXIT_OK;
}

static int open_sequence(scoring *s)
{
    kvf_error error;
    const char *path = s->options->ids_file ? s->options->ids_file : s->options->file;
    uint64_t n_items = 0;
    if (kvf_engine_open_tokenizer(&s->engine, &error) != KVF_OK && !s->options->ids_file)
        return cli_error("score", "%s; --ids FILE takes token ids", error.message);
    s->n_bos = !s->options->ids_file && s->engine.config.bos_token >= 0;
    s->block = malloc(BLOCK_BYTES);
    if (!s->block)
        return cli_error("score", "out of memory");
    int status = cli_source_open("score", path, &s->source);
    cli_ids_start(&s->ids, s->vocab);
    if (status == CLI_EXIT_OK && s->source.regular && s->engine.tokenizer &&
        kvf_tokenizer_is_bytes(s->engine.tokenizer))
        n_items = s->source.left_bytes;
    if (status == CLI_EXIT_OK && s->source.regular && s->options->ids_file)
        status = count_ids(s, &n_items);
    if (status == CLI_EXIT_OK)
        status = read_first_window(s);
    if (status == CLI_EXIT_OK)
        status = check_window(s);
    if (status == CLI_EXIT_OK)
        s->expected_windows = n_items / (s->window_tokens - s->n_bos);
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

/* Of the text that a token is; none where the vocabulary is not known. */
static size_t token_bytes(const scoring *s, int32_t token)
{
    size_t bytes = 0;
    if (s->engine.tokenizer && kvf_tokenizer_kind(s->engine.tokenizer, token) != KVF_TOKEN_SPECIAL)
        kvf_tokenizer_bytes(s->engine.tokenizer, token, &bytes);
    return bytes;
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
        s->n_bytes += token_bytes(s, window[next]);
    }
    const size_t n_floats = (size_t)n * s->vocab;
    if (s->logits_file.stream &&
        fwrite(s->chunk_logits, sizeof(float), n_floats, s->logits_file.stream) != n_floats)
        return cli_error("score", "cannot write '%s': %s", s->options->logits_file,
                         strerror(errno));
    return CLI_EXIT_OK;
}

static int score_window(scoring *s)
{
    const uint32_t chunk = kvf_engine_chunk_tokens(&s->options->engine, s->window_tokens);
    kvf_session *session;
    kvf_error error;
    const kvf_profile_id profile = s->options->engine.profile;
    int status = CLI_EXIT_OK;
    if (kvf_engine_open_session(&s->engine, profile, s->window_tokens, &session, &error) != KVF_OK)
        return cli_fail("score", &error);
    for (uint64_t first = 0; first < s->window_tokens && status == CLI_EXIT_OK; first += chunk) {
        const uint64_t left = s->window_tokens - first;
        const uint32_t n = left < chunk ? (uint32_t)left : chunk;
        kvf_batch_item item = {
            .session = session, .ids = s->tokens + first, .n = n, .all_logits = s->chunk_logits};
        const double started = kvf_seconds();
        if (cli_interrupted())
            status = CLI_EXIT_INTERRUPTED;
        else if (kvf_model_forward(s->engine.model, s->batch, &item, 1, &error) != KVF_OK)
            status =
                cli_result("score", kvf_engine_explain(profile, s->window_tokens, &error), &error);
        s->seconds += kvf_seconds() - started;
        if (status == CLI_EXIT_OK)
            status = take_logits(s, s->tokens, first, n);
        cli_progress_update(&s->progress, s->n_windows * s->window_tokens + first + n);
    }
    kvf_session_close(session);
    s->n_windows += status == CLI_EXIT_OK;
    return status;
}

/* The first window is there already. */
static int score_windows(scoring *s)
{
    const uint64_t window_items = s->window_tokens - s->n_bos;
    uint64_t n = window_items;
    int status = CLI_EXIT_OK;
    cli_progress_start(&s->progress, "score", s->expected_windows * s->window_tokens);
    while (status == CLI_EXIT_OK && n == window_items) {
        status = score_window(s);
        if (status == CLI_EXIT_OK)
            status = next_items(s, s->tokens + s->n_bos, window_items, &n);
    }
    s->n_dropped = n;
    cli_progress_finish(&s->progress);
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
    cli_record_text(&record, "profile", kvf_profile_get(s->options->engine.profile)->name);
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
                      kvf_rate((double)(s->n_windows * s->window_tokens), s->seconds));
    return cli_record_print("score", &record, s->options->output, true);
}

static int print_result(const scoring *s)
{
    if (s->options->output != CLI_OUTPUT_TABLE)
        return print_record(s);
    const double nats = s->nats / (double)s->n_predicted;
    char text[KVF_NUMBER_BYTES];
    printf("profile         %s on %s/%s\n", kvf_profile_get(s->options->engine.profile)->name,
           kvf_device_backend_name(s->engine.device), kvf_device_isa_name(s->engine.device));
    printf("windows         %s", kvf_show_count(s->n_windows, text));
    printf(" of %s tokens", kvf_show_count(s->window_tokens, text));
    printf(", %s %s dropped at the end\n", kvf_show_count(s->n_dropped, text), item_name(s, true));
    printf("predicted       %s tokens", kvf_show_count(s->n_predicted, text));
    printf(", %s bytes\n", kvf_show_count(s->n_bytes, text));
    if (s->n_bytes)
        printf("bits per byte   %.4f\n", bits_per_byte(s));
    printf("perplexity      %.4f per token (%.5f nats)\n", exp(nats), nats);
    printf("speed           %s tok/s\n",
           kvf_show_rate(kvf_rate((double)(s->n_windows * s->window_tokens), s->seconds), text));
    return CLI_EXIT_OK;
}

/* ---- The command ----------------------------------------------------------------------- */

/* Logits of a chunk, and a window's tokens (kvf_request). */
static uint64_t scoring_bytes(const void *command, uint64_t context_tokens, uint32_t chunk_tokens)
{
    const scoring *s = command;
    return (uint64_t)chunk_tokens * s->vocab * sizeof(float) + context_tokens * sizeof(int32_t);
}

static int prepare(scoring *s)
{
    const cli_options *options = s->options;
    kvf_error error;
    int status = cli_open_engine(options, &s->listener, &s->engine);
    if (status != CLI_EXIT_OK)
        return status;
    s->vocab = s->engine.config.geometry.vocab;
    status = open_sequence(s);
    if (status != CLI_EXIT_OK)
        return status;
    const kvf_request request = {.profile = options->engine.profile,
                                 .context_tokens = s->window_tokens,
                                 .least_tokens = 2,
                                 .context_option = "window",
                                 .own_bytes = scoring_bytes,
                                 .command = s};
    status = cli_result("score", kvf_engine_check_memory(&s->engine, &request, &error), &error);
    if (status == CLI_EXIT_OK && options->logits_file)
        status = cli_outfile_open("score", options->logits_file, &s->logits_file);
    if (status == CLI_EXIT_OK)
        status = cli_result("score", kvf_engine_load(&s->engine, s->window_tokens, &error), &error);
    if (status == CLI_EXIT_OK)
        status = cli_result("score",
                            kvf_engine_open_batch(&s->engine, options->engine.profile,
                                                  s->window_tokens, &s->batch, &error),
                            &error);
    if (status != CLI_EXIT_OK)
        return status;
    const size_t chunk = kvf_engine_chunk_tokens(&options->engine, s->window_tokens);
    const size_t logits_bytes = chunk * s->vocab * sizeof(float);
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
        status = score_windows(&s);
    if (status == CLI_EXIT_INTERRUPTED)
        cli_error("score", "interrupted%s", options->logits_file ? "; no logits were written" : "");
    if (status == CLI_EXIT_OK && s.logits_file.stream)
        status = cli_outfile_commit("score", &s.logits_file);
    if (status == CLI_EXIT_OK)
        status = print_result(&s);
    cli_outfile_discard(&s.logits_file);
    cli_source_close(&s.source);
    free(s.block);
    kvf_buffer_free(&s.text);
    kvf_ids_free(&s.encoded);
    free(s.tokens);
    free(s.chunk_logits);
    kvf_batch_close(s.batch);
    kvf_engine_close(&s.engine);
    return status;
}
