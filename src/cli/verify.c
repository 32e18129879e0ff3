/*
 * kvfold verify: the same prompt through several combinations of ISA, threads, chunks and
 * profile, logits compared bit by bit with those of the first, memory and speed side by side.
 * Where the user asks for no combinations they are legacy and the other profiles, with the
 * same chunks on one device.
 *
 * Combinations run one after another. Logits of the first are kept: of every prompt position
 * while they take at most 1 GiB, else of each chunk's last; where chunks differ, whose last
 * tokens are others, checksums of every position's; and of decode steps whose tokens come
 * from the text.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/commands.h"
#include "cli/events.h"
#include "cli/interrupt.h"
#include "cli/isa_names.h"
#include "cli/message.h"
#include "cli/progress.h"
#include "cli/reference.h"
#include "cli/table.h"
#include "cli/text.h"
#include "clock.h"
#include "engine/amounts.h"

static const uint64_t max_reference_bytes = UINT64_C(1) << 30;

/* One combination at one context, the rest of which is the device's. */
typedef struct result {
    kvf_profile_id profile;
    uint32_t chunk_tokens;
    bool is_first;          /* the one that the others are compared with */
    uint64_t session_bytes; /* held after the prompt, so that it equals the plan's */
    uint64_t scratch_peak_bytes;
    cli_comparison comparison; /* empty for the first */
    uint64_t inexact_rows;
    double prefill_tps;
    double decode_tps;
} result;

typedef struct verification {
    cli_options chosen; /* the user's, with ISA, threads and chunk of the combination that runs */
    const cli_options *options; /* of these */
    kvf_engine engine;
    cli_listener listener;
    const char *isas[CLI_ISA_COUNT]; /* one of NULL: the best */
    uint32_t n_isas;
    uint32_t vocab;
    int32_t *tokens;         /* [largest context + decode steps] */
    cli_reference reference; /* of the context that is worked on: the first one's logits */
    float *rows;             /* its memory, of either kind */
    cli_logits_digest *digests;
    float *chunk_logits; /* [chunk][vocab]; NULL when no context compares every position */
    cli_table table;
    /* Over all contexts, for the verdict. */
    uint64_t n_lines;
    uint64_t n_compared;
    uint64_t n_differing;
    uint64_t n_inexact_rows;
} verification;

/* One combination at one context. */
typedef struct pass {
    verification *v;
    kvf_batch *batch; /* of one */
    kvf_session *session;
    uint64_t context_tokens;
    uint64_t next_row; /* of the reference */
    cli_progress progress;
    result result;
} pass;

/* ---- Sizes ------------------------------------------------------------------------ */

static uint64_t session_tokens(const cli_options *options, uint64_t context_tokens)
{
    return context_tokens + options->decode_tokens;
}

static uint32_t chunk_of(const verification *v, uint64_t context_tokens)
{
    return kvf_engine_chunk_tokens(&v->options->engine, session_tokens(v->options, context_tokens));
}

static bool compares_every_position(const verification *v, uint64_t context_tokens)
{
    return context_tokens <= max_reference_bytes / (4 * (uint64_t)v->vocab);
}

/* Chunks of several sizes have few last tokens in common. */
static bool keeps_checksums(const verification *v, uint64_t context_tokens)
{
    return v->options->n_chunks > 1 && !compares_every_position(v, context_tokens);
}

/* Positions at which the first combination's logits are kept. */
static uint64_t reference_rows(const verification *v, uint64_t context_tokens, uint32_t chunk)
{
    const uint64_t prompt_rows =
        compares_every_position(v, context_tokens) || keeps_checksums(v, context_tokens)
            ? context_tokens
            : (context_tokens + chunk - 1) / chunk;
    return prompt_rows + v->options->decode_tokens;
}

/* The present chunk's logits that are looked at: all of them, or 0, the last one's alone. */
static uint32_t chunk_rows(const verification *v, uint64_t context_tokens, uint32_t chunk)
{
    if (compares_every_position(v, context_tokens))
        return chunk;
    return keeps_checksums(v, context_tokens) && compares_every_position(v, chunk) ? chunk : 0;
}

/* What the comparison itself needs. */
typedef struct comparison_size {
    uint64_t n_rows;
    uint64_t n_digests;
    uint64_t n_chunk_rows;
} comparison_size;

static uint64_t larger(uint64_t a, uint64_t b)
{
    return a > b ? a : b;
}

/*
 * Over all chunks and contexts, up to that of a session, in chunks of at most so many tokens.
 * Context times vocabulary was bounded.
 */
static comparison_size size_of_comparison(const verification *v, uint64_t most_session_tokens,
                                          uint32_t most_chunk_tokens)
{
    comparison_size size = {0, 0, 0};
    verification with = *v; /* whose chunk is each of them in turn */
    with.options = &with.chosen;
    const uint32_t n_chunks = v->options->n_chunks ? v->options->n_chunks : 1;
    for (uint32_t i = 0; i < v->options->n_contexts * n_chunks; i++) {
        uint64_t context_tokens = v->options->contexts[i / n_chunks];
        if (session_tokens(v->options, context_tokens) > most_session_tokens)
            context_tokens = most_session_tokens > v->options->decode_tokens
                                 ? most_session_tokens - v->options->decode_tokens
                                 : 1;
        if (v->options->n_chunks)
            with.chosen.engine.chunk_tokens = (uint32_t)v->options->chunks[i % n_chunks];
        const uint32_t longest = chunk_of(&with, context_tokens);
        const uint32_t chunk = longest < most_chunk_tokens ? longest : most_chunk_tokens;
        uint64_t *kept = keeps_checksums(v, context_tokens) ? &size.n_digests : &size.n_rows;
        *kept = larger(*kept, reference_rows(v, context_tokens, chunk));
        size.n_chunk_rows = larger(size.n_chunk_rows, chunk_rows(v, context_tokens, chunk));
    }
    return size;
}

/* Logits that are kept, and the tokens of the prompt, twice (kvf_request). */
static uint64_t comparison_bytes(const void *command, uint64_t context_tokens,
                                 uint32_t chunk_tokens)
{
    const verification *v = command;
    const comparison_size size = size_of_comparison(v, context_tokens, chunk_tokens);
    return sizeof(float) * (size.n_rows + size.n_chunk_rows) * v->vocab +
           sizeof(cli_logits_digest) * size.n_digests + 2 * sizeof(int32_t) * context_tokens;
}

/* The model is loaded for chunks of up to that, and memory looked for. */
static void choose_largest_chunk(verification *v)
{
    for (uint32_t i = 0; i < v->chosen.n_chunks; i++) {
        const uint32_t chunk = (uint32_t)v->chosen.chunks[i];
        v->chosen.engine.chunk_tokens =
            i == 0 || chunk > v->chosen.engine.chunk_tokens ? chunk : v->chosen.engine.chunk_tokens;
    }
}

static uint64_t largest_context(const cli_options *options)
{
    uint64_t largest = 0;
    for (uint32_t i = 0; i < options->n_contexts; i++)
        largest = options->contexts[i] > largest ? options->contexts[i] : largest;
    return largest;
}

/* ---- Comparing -------------------------------------------------------------------- */

/* Keeps (of the first combination) or compares n_rows of logits that follow those before. */
static void take_rows(pass *p, const float *logits, uint64_t n_rows)
{
    const size_t vocab = p->v->vocab;
    for (uint64_t i = 0; i < n_rows; i++) {
        if (p->result.is_first)
            cli_reference_keep(&p->v->reference, p->next_row + i, logits + i * vocab);
        else
            cli_reference_compare(&p->v->reference, p->next_row + i, logits + i * vocab,
                                  &p->result.comparison);
    }
    p->next_row += n_rows;
}

/* ---- One pass --------------------------------------------------------------------- */

static int forward(pass *p, const int32_t *tokens, uint32_t n_tokens, float *all_logits,
                   double *seconds)
{
    kvf_error error;
    if (cli_interrupted())
        return CLI_EXIT_INTERRUPTED;
    const double started = kvf_seconds();
    kvf_batch_item item = {
        .session = p->session, .ids = tokens, .n = n_tokens, .all_logits = all_logits};
    const kvf_status status = kvf_model_forward(p->v->engine.model, p->batch, &item, 1, &error);
    *seconds += kvf_seconds() - started;
    if (status == KVF_OK)
        return CLI_EXIT_OK;
    kvf_engine_explain(p->result.profile, session_tokens(p->v->options, p->context_tokens), &error);
    return cli_fail("verify", &error);
}

static int prefill(pass *p)
{
    const verification *v = p->v;
    const uint32_t chunk = chunk_of(v, p->context_tokens);
    const bool every_position = chunk_rows(v, p->context_tokens, chunk) > 0;
    double seconds = 0;
    for (uint64_t first = 0; first < p->context_tokens; first += chunk) {
        const uint64_t left = p->context_tokens - first;
        const uint32_t n = left < chunk ? (uint32_t)left : chunk;
        float *all_logits = NULL;
        if (every_position)
            all_logits = p->result.is_first && v->reference.rows
                             ? v->reference.rows + p->next_row * v->vocab
                             : v->chunk_logits;
        const int status = forward(p, v->tokens + first, n, all_logits, &seconds);
        if (status != CLI_EXIT_OK)
            return status;
        if (!every_position && keeps_checksums(v, p->context_tokens))
            p->next_row = first + n - 1;
        if (every_position)
            take_rows(p, all_logits, n);
        else
            take_rows(p, kvf_session_logits(p->session), 1);
        cli_progress_update(&p->progress, first + n);
    }
    p->result.prefill_tps = kvf_rate((double)p->context_tokens, seconds);
    p->result.session_bytes = kvf_session_held_bytes(p->session);
    return CLI_EXIT_OK;
}

static int decode(pass *p)
{
    double seconds = 0;
    for (uint32_t i = 0; i < p->v->options->decode_tokens; i++) {
        const int status = forward(p, p->v->tokens + p->context_tokens + i, 1, NULL, &seconds);
        if (status != CLI_EXIT_OK)
            return status;
        take_rows(p, kvf_session_logits(p->session), 1);
        cli_progress_update(&p->progress, p->context_tokens + i + 1);
    }
    p->result.decode_tps = kvf_rate(p->v->options->decode_tokens, seconds);
    return CLI_EXIT_OK;
}

/* What a terminal is shown meanwhile. */
static void label_pass(const pass *p, char *label, size_t label_bytes)
{
    const char *profile = kvf_profile_get(p->result.profile)->name;
    const kvf_device *device = p->v->engine.device;
    char context[KVF_NUMBER_BYTES];
    kvf_show_context(p->context_tokens, context);
    if (p->v->options->combines)
        snprintf(label, label_bytes, "%s, %u thread%s, %u: %s %s", kvf_device_isa_name(device),
                 kvf_device_n_threads(device), kvf_device_n_threads(device) == 1 ? "" : "s",
                 p->result.chunk_tokens, profile, context);
    else
        snprintf(label, label_bytes, "%s %s", profile, context);
}

/* Profile, chunk and whether it is the first are in *out already. */
static int run_pass(verification *v, uint64_t context_tokens, result *out)
{
    pass p = {.v = v, .context_tokens = context_tokens, .result = *out};
    kvf_error error;
    const uint64_t most_tokens = session_tokens(v->options, context_tokens);
    if (kvf_engine_open_batch(&v->engine, out->profile, most_tokens, &p.batch, &error) != KVF_OK)
        return cli_fail("verify", &error);
    if (kvf_engine_open_session(&v->engine, out->profile, most_tokens, &p.session, &error) !=
        KVF_OK) {
        kvf_batch_close(p.batch);
        return cli_fail("verify", &error);
    }
    char label[80];
    label_pass(&p, label, sizeof label);
    cli_progress_start(&p.progress, label, most_tokens);
    int status = prefill(&p);
    if (status == CLI_EXIT_OK)
        status = decode(&p);
    cli_progress_finish(&p.progress);
    p.result.scratch_peak_bytes = kvf_batch_scratch_bytes(p.batch);
    p.result.inexact_rows = kvf_session_inexact_rows(p.session);
    kvf_session_close(p.session);
    kvf_batch_close(p.batch);
    *out = p.result;
    return status;
}

/* ---- Reporting -------------------------------------------------------------------- */

/* The share of the first one's bytes that is saved. */
static double reduction(const result *r, const result *first)
{
    return 1 - (double)r->session_bytes / (double)first->session_bytes;
}

static int print_record(verification *v, uint64_t context_tokens, const result *r,
                        const result *first)
{
    const cli_comparison *comparison = &r->comparison;
    cli_record record = cli_record_new();
    cli_record_count(&record, "ctx", context_tokens);
    cli_record_text(&record, "profile", kvf_profile_get(r->profile)->name);
    cli_record_text(&record, "isa", kvf_device_isa_name(v->engine.device));
    cli_record_text(&record, "backend", kvf_device_backend_name(v->engine.device));
    cli_record_count(&record, "threads", kvf_device_n_threads(v->engine.device));
    cli_record_count(&record, "chunk", r->chunk_tokens);
    cli_record_count(&record, "session_bytes", r->session_bytes);
    cli_record_number(&record, "reduction", reduction(r, first));
    cli_record_count(&record, "scratch_peak_bytes", r->scratch_peak_bytes);
    cli_record_number(&record, "max_abs_logit_diff", comparison->max_abs_difference);
    cli_record_count(&record, "compared_logits", comparison->n_compared);
    cli_record_count(&record, "differing_logits", comparison->n_differing);
    cli_record_count(&record, "inexact_rows", r->inexact_rows);
    cli_record_bool(&record, "argmax_equal", !comparison->argmax_differs);
    cli_record_number(&record, "prefill_tps", r->prefill_tps);
    cli_record_number(&record, "decode_tps", r->decode_tps);
    return cli_record_print("verify", &record, v->options->output, v->n_lines++ == 0);
}

/* Of profiles that are compared with legacy. */
static const cli_column profile_columns[] = {
    {"context", 7, false},     {"profile", 7, true},        {"session", 8, false},
    {"reduction", 9, false},   {"scratch", 8, false},       {"differing", 9, false},
    {"max |diff|", 10, false}, {"argmax", 6, true},         {"prefill tok/s", 13, false},
    {"x", 5, false},           {"decode tok/s", 12, false}, {"x", 5, false},
};
/* Of combinations that are compared with the first. */
static const cli_column combination_columns[] = {
    {"context", 7, false},       {"isa", 10, true},    {"threads", 7, false},
    {"chunk", 5, false},         {"profile", 7, true}, {"differing", 9, false},
    {"max |diff|", 10, false},   {"argmax", 6, true},  {"prefill tok/s", 13, false},
    {"decode tok/s", 12, false},
};
#define LENGTH(array) (sizeof(array) / sizeof *(array))

static void format_ratio(double value, double base, char cell[CLI_CELL_BYTES])
{
    if (value > 0 && base > 0)
        snprintf(cell, CLI_CELL_BYTES, "%.2f", value / base);
    else
        snprintf(cell, CLI_CELL_BYTES, "-");
}

/* How a combination's logits compare; those of the first are left empty. */
static void fill_comparison(const result *r, char (*cells)[CLI_CELL_BYTES])
{
    if (r->is_first)
        return;
    kvf_show_count(r->comparison.n_differing, cells[0]);
    snprintf(cells[1], CLI_CELL_BYTES, "%.3g", r->comparison.max_abs_difference);
    snprintf(cells[2], CLI_CELL_BYTES, "%s", r->comparison.argmax_differs ? "DIFFER" : "equal");
}

static void fill_profile(char (*cells)[CLI_CELL_BYTES], const result *r, const result *first)
{
    snprintf(cells[1], CLI_CELL_BYTES, "%s", kvf_profile_get(r->profile)->name);
    kvf_show_bytes(r->session_bytes, cells[2]);
    kvf_show_bytes(r->scratch_peak_bytes, cells[4]);
    if (!r->is_first)
        snprintf(cells[3], CLI_CELL_BYTES, "%.1f%%", 100 * reduction(r, first));
    fill_comparison(r, cells + 5);
    kvf_show_rate(r->prefill_tps, cells[8]);
    format_ratio(r->prefill_tps, first->prefill_tps, cells[9]);
    kvf_show_rate(r->decode_tps, cells[10]);
    format_ratio(r->decode_tps, first->decode_tps, cells[11]);
}

static void fill_combination(const verification *v, char (*cells)[CLI_CELL_BYTES], const result *r)
{
    const kvf_device *device = v->engine.device;
    snprintf(cells[1], CLI_CELL_BYTES, "%s", kvf_device_isa_name(device));
    snprintf(cells[2], CLI_CELL_BYTES, "%u", kvf_device_n_threads(device));
    snprintf(cells[3], CLI_CELL_BYTES, "%u", r->chunk_tokens);
    snprintf(cells[4], CLI_CELL_BYTES, "%s", kvf_profile_get(r->profile)->name);
    fill_comparison(r, cells + 5);
    kvf_show_rate(r->prefill_tps, cells[8]);
    kvf_show_rate(r->decode_tps, cells[9]);
}

static int add_row(verification *v, uint64_t context_tokens, const result *r, const result *first)
{
    char(*cells)[CLI_CELL_BYTES] = cli_table_row(&v->table);
    if (!cells)
        return cli_error("verify", "out of memory for a line of results");
    if (r->is_first)
        kvf_show_context(context_tokens, cells[0]);
    if (v->options->combines)
        fill_combination(v, cells, r);
    else
        fill_profile(cells, r, first);
    return CLI_EXIT_OK;
}

/* Which inputs and implementations the table is about. */
static void print_heading(const verification *v)
{
    const kvf_device *device = v->engine.device;
    const char *text = v->options->file ? v->options->file : "the bundled text";
    const uint32_t n_threads = kvf_device_n_threads(device);
    cli_put_path(v->options->engine.model);
    if (v->options->combines)
        printf(": %s; ", kvf_device_backend_name(device));
    else
        printf(": %s/%s, %u thread%s, chunks of up to %u tokens; ", kvf_device_backend_name(device),
               kvf_device_isa_name(device), n_threads, n_threads == 1 ? "" : "s",
               v->options->engine.chunk_tokens);
    cli_put_path(text);
    fputs(v->options->combines
              ? " repeated to length\nEach line's logits are compared with the first's\n\n"
              : " repeated to length\n"
                "reduction and x (speed) are against legacy; 1 MB = 1,000,000 bytes\n\n",
          stdout);
    fflush(stdout);
}

static void print_verdict(const verification *v)
{
    char compared[KVF_NUMBER_BYTES];
    char differing[KVF_NUMBER_BYTES];
    char inexact[KVF_NUMBER_BYTES];
    const char *first = v->options->combines ? "the first combination" : "legacy";
    kvf_show_count(v->n_compared, compared);
    kvf_show_count(v->n_differing, differing);
    putchar('\n');
    if (v->n_inexact_rows)
        printf("tiled could not hold %s rows exactly in f16 (a block scale outside -15..7).\n",
               kvf_show_count(v->n_inexact_rows, inexact));
    if (v->n_differing)
        printf("DIFFERENT: %s of %s logits compared differ from %s's.\n", differing, compared,
               first);
    else if (v->n_compared)
        printf("Equal: all %s logits compared have the same bits as %s's.\n", compared, first);
    else
        printf("Nothing was compared: %s ran alone.\n", first);
}

/* ---- The command ------------------------------------------------------------------ */

/* The device of an ISA and a number of threads, with the model, if it is not there already. */
static int choose_device(verification *v, uint32_t isa, uint32_t threads)
{
    cli_options *chosen = &v->chosen;
    const uint32_t n_threads = chosen->n_thread_counts ? (uint32_t)chosen->thread_counts[threads]
                                                       : chosen->engine.n_threads;
    const bool is_loaded = v->engine.model && v->engine.model->chunk_tokens > 0;
    if (is_loaded && chosen->engine.isa == v->isas[isa] && chosen->engine.n_threads == n_threads)
        return CLI_EXIT_OK;
    chosen->engine.isa = v->isas[isa];
    chosen->engine.n_threads = n_threads;
    choose_largest_chunk(v);
    const int status = cli_open_device(chosen, &v->engine);
    if (status != CLI_EXIT_OK)
        return status;
    kvf_error error;
    const uint64_t context_tokens = session_tokens(chosen, largest_context(chosen));
    return cli_result("verify", kvf_engine_load(&v->engine, context_tokens, &error), &error);
}

/* *first: the results of the first combination, which may be this one. */
static int verify_profile(verification *v, uint64_t context_tokens, kvf_profile_id profile,
                          bool is_first, result *first)
{
    result r = {
        .profile = profile, .chunk_tokens = v->chosen.engine.chunk_tokens, .is_first = is_first};
    const int status = run_pass(v, context_tokens, &r);
    if (status != CLI_EXIT_OK)
        return status;
    if (is_first)
        *first = r;
    v->n_compared += r.comparison.n_compared;
    v->n_differing += r.comparison.n_differing;
    v->n_inexact_rows += r.inexact_rows;
    return v->options->output == CLI_OUTPUT_TABLE ? add_row(v, context_tokens, &r, first)
                                                  : print_record(v, context_tokens, &r, first);
}

/* Chunks and profiles on the device that is open. */
static int verify_device(verification *v, uint64_t context_tokens, bool is_first, result *first)
{
    const uint32_t n_chunks = v->chosen.n_chunks ? v->chosen.n_chunks : 1;
    int status = CLI_EXIT_OK;
    for (uint32_t i = 0; i < n_chunks * KVF_PROFILE_COUNT && status == CLI_EXIT_OK; i++) {
        const int profile = (int)(i % KVF_PROFILE_COUNT);
        if (!v->chosen.profiles[profile])
            continue;
        if (v->chosen.n_chunks)
            v->chosen.engine.chunk_tokens = (uint32_t)v->chosen.chunks[i / KVF_PROFILE_COUNT];
        status = verify_profile(v, context_tokens, (kvf_profile_id)profile, is_first, first);
        is_first = false;
    }
    return status;
}

static int verify_context(verification *v, uint64_t context_tokens)
{
    const uint32_t n_threads = v->chosen.n_thread_counts ? v->chosen.n_thread_counts : 1;
    result first = {.is_first = true};
    int status = CLI_EXIT_OK;
    v->reference = (cli_reference){.vocab = v->vocab, .rows = v->rows};
    if (keeps_checksums(v, context_tokens)) {
        v->reference = (cli_reference){.vocab = v->vocab, .digests = v->digests};
        memset(v->digests, 0,
               reference_rows(v, context_tokens, chunk_of(v, context_tokens)) * sizeof *v->digests);
    }
    for (uint32_t i = 0; i < v->n_isas * n_threads && status == CLI_EXIT_OK; i++) {
        status = choose_device(v, i / n_threads, i % n_threads);
        if (status == CLI_EXIT_OK)
            status = verify_device(v, context_tokens, i == 0, &first);
    }
    if (status == CLI_EXIT_OK && v->options->output == CLI_OUTPUT_TABLE)
        cli_table_print(&v->table, v->n_lines++ == 0);
    return status;
}

static int check_contexts(verification *v)
{
    const cli_options *options = v->options;
    const uint64_t model_tokens = v->engine.config.geometry.max_tokens;
    kvf_request request = {.context_tokens = session_tokens(options, largest_context(options)),
                           .least_tokens = session_tokens(options, 1),
                           .decode_tokens = options->decode_tokens,
                           .fixed_profile = true,
                           .own_bytes = comparison_bytes,
                           .command = v};
    int status = CLI_EXIT_OK;
    kvf_error error;
    for (uint32_t i = 0; i < options->n_contexts; i++) {
        char context[KVF_NUMBER_BYTES];
        char limit[KVF_NUMBER_BYTES];
        if (session_tokens(options, options->contexts[i]) > model_tokens)
            return cli_error("verify",
                             "--ctx %s and %u decode steps are more than the model's maximum of "
                             "%s tokens",
                             kvf_show_count(options->contexts[i], context), options->decode_tokens,
                             kvf_show_count(model_tokens, limit));
    }
    for (int i = 0; i < KVF_PROFILE_COUNT && status == CLI_EXIT_OK; i++) {
        request.profile = (kvf_profile_id)i;
        if (options->profiles[i])
            status =
                cli_result("verify", kvf_engine_check_memory(&v->engine, &request, &error), &error);
    }
    return status;
}

/* BOS, then the text again and again. */
static int make_tokens(verification *v)
{
    const size_t n_tokens = session_tokens(v->options, largest_context(v->options));
    const size_t most_bytes = n_tokens * kvf_tokenizer_longest(v->engine.tokenizer);
    kvf_ids once = {.n = 0};
    cli_text text;
    int status = v->options->file
                     ? cli_text_read("verify", v->options->file, most_bytes, false, &text)
                     : cli_text_copy("verify", cli_bundled_text, cli_bundled_text_bytes, &text);
    if (status != CLI_EXIT_OK)
        return status;
    v->tokens = malloc(n_tokens * sizeof *v->tokens);
    if (text.bytes == 0) {
        status = cli_error("verify", "'%s' is empty; there is no text to repeat", v->options->file);
    } else if (!v->tokens) {
        status = cli_error("verify", "out of memory for %zu tokens", n_tokens);
    } else {
        kvf_error error;
        status = cli_result(
            "verify", kvf_engine_encode(&v->engine, text.data, text.bytes, true, &once, &error),
            &error);
    }
    if (status == CLI_EXIT_OK) {
        const size_t n_bos = v->engine.config.bos_token >= 0;
        for (size_t i = 0; i < n_tokens; i++)
            v->tokens[i] = once.ids[i < n_bos ? i : n_bos + (i - n_bos) % (once.n - n_bos)];
    }
    kvf_ids_free(&once);
    cli_text_free(&text);
    return status;
}

/* At least one byte, so that NULL is out of memory. */
static void *allocate_zeros(uint64_t n, size_t bytes)
{
    return calloc(n ? n : 1, bytes);
}

static int allocate(verification *v)
{
    const comparison_size size = size_of_comparison(v, UINT64_MAX, UINT32_MAX);
    const size_t row_bytes = sizeof(float) * v->vocab;
    v->rows = allocate_zeros(size.n_rows, row_bytes);
    v->chunk_logits = allocate_zeros(size.n_chunk_rows, row_bytes);
    v->digests = allocate_zeros(size.n_digests, sizeof *v->digests);
    if (v->rows && v->chunk_logits && v->digests)
        return CLI_EXIT_OK;
    char bytes[KVF_NUMBER_BYTES];
    return cli_error("verify", "out of memory for %s of logits to compare",
                     kvf_show_bytes(comparison_bytes(v, 0, UINT32_MAX), bytes));
}

/* Those of the set that are here; what "all" stands for may be elsewhere, and is said to be. */
static int find_isas(verification *v)
{
    const uint32_t set = v->chosen.isas;
    char missing[80] = "";
    kvf_error error = {.message = ""};
    v->isas[0] = v->chosen.engine.isa;
    v->n_isas = set ? 0 : 1;
    for (uint32_t i = 0; i < CLI_ISA_COUNT; i++) {
        const kvf_device_options options = {
            .backend = v->chosen.engine.backend, .isa = cli_isa_name(i), .n_threads = 1};
        kvf_device *device = NULL;
        if (!(set & 1u << i))
            continue;
        const kvf_status status = kvf_device_open(&options, &device, &error);
        kvf_device_close(device);
        if (status == KVF_OK)
            v->isas[v->n_isas++] = options.isa;
        else if (status != KVF_UNSUPPORTED || !(set & CLI_ISAS_ALL))
            return cli_error("verify", "--isas: %s", error.message);
        else
            snprintf(missing + strlen(missing), sizeof missing - strlen(missing), "%s%s",
                     missing[0] ? ", " : "", options.isa);
    }
    if (v->n_isas == 0)
        return cli_error("verify", "--isas: %s", error.message);
    if (missing[0])
        cli_note("verify", "this machine lacks %s: not compared", missing);
    return CLI_EXIT_OK;
}

/* Every number of threads takes its own workspace. */
static int check_devices(verification *v)
{
    int status = check_contexts(v);
    for (uint32_t i = 1; i < v->chosen.n_thread_counts && status == CLI_EXIT_OK; i++) {
        v->chosen.engine.n_threads = (uint32_t)v->chosen.thread_counts[i];
        status = cli_open_device(&v->chosen, &v->engine);
        if (status == CLI_EXIT_OK)
            status = check_contexts(v);
    }
    return status;
}

static int prepare(verification *v)
{
    kvf_error error;
    choose_largest_chunk(v);
    int status = cli_open_engine(v->options, &v->listener, &v->engine);
    if (status == CLI_EXIT_OK)
        status = find_isas(v);
    if (status != CLI_EXIT_OK)
        return status;
    v->vocab = v->engine.config.geometry.vocab;
    if (kvf_engine_open_tokenizer(&v->engine, &error) != KVF_OK)
        return cli_fail("verify", &error);
    status = check_devices(v);
    if (status == CLI_EXIT_OK)
        status = make_tokens(v);
    if (status == CLI_EXIT_OK)
        status = allocate(v);
    return status == CLI_EXIT_OK ? choose_device(v, 0, 0) : status;
}

int cli_verify(const cli_options *options)
{
    verification v = {.chosen = *options};
    v.options = &v.chosen;
    if (options->combines)
        cli_table_start(&v.table, combination_columns, LENGTH(combination_columns));
    else
        cli_table_start(&v.table, profile_columns, LENGTH(profile_columns));
    const bool human = options->output == CLI_OUTPUT_TABLE;
    int status = prepare(&v);
    if (status == CLI_EXIT_OK && human)
        print_heading(&v);
    for (uint32_t i = 0; i < options->n_contexts && status == CLI_EXIT_OK; i++)
        status = verify_context(&v, options->contexts[i]);
    if (status == CLI_EXIT_OK && human)
        print_verdict(&v);
    if (status == CLI_EXIT_INTERRUPTED)
        cli_error("verify", "interrupted");
    if (status == CLI_EXIT_OK && v.n_differing)
        status = CLI_EXIT_DIFFERENT;
    cli_table_free(&v.table);
    free(v.tokens);
    free(v.rows);
    free(v.digests);
    free(v.chunk_logits);
    kvf_engine_close(&v.engine);
    return status;
}
