/*
 * kvfold verify: the same prompt through legacy and the other profiles, logits
 * compared bit by bit, memory and speed side by side.
 *
 * Profiles run one after another with the same chunks on the same device. Logits
 * of legacy are kept: of every prompt position while they take at most 1 GiB, else
 * of each chunk's last, and of decode steps whose tokens come from the text.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/clock.h"
#include "cli/commands.h"
#include "cli/engine.h"
#include "cli/interrupt.h"
#include "cli/message.h"
#include "cli/progress.h"
#include "cli/table.h"
#include "cli/text.h"
#include "cli/units.h"
#include "model/sample.h"
#include "model/tokenizer.h"

static const uint64_t max_reference_bytes = UINT64_C(1) << 30;

typedef struct result {
    kvf_profile_id profile;
    uint64_t session_bytes; /* held after the prompt, so that it equals the plan's */
    uint64_t scratch_peak_bytes;
    double max_abs_difference; /* infinity where a NaN differs */
    uint64_t n_compared;       /* logits; 0 for legacy, which the others are compared with */
    uint64_t n_differing;
    uint64_t inexact_rows;
    bool argmax_equal;
    double prefill_tps;
    double decode_tps;
} result;

typedef struct verification {
    const cli_options *options;
    cli_engine engine;
    uint32_t vocab;
    int32_t *tokens;     /* [largest context + decode steps] */
    float *reference;    /* legacy's logits [reference_rows(context)][vocab] */
    float *chunk_logits; /* [chunk][vocab]; NULL when no context compares every position */
    cli_table table;
    /* Over all contexts, for the verdict. */
    uint64_t n_lines;
    uint64_t n_compared;
    uint64_t n_differing;
    uint64_t n_inexact_rows;
} verification;

/* One profile at one context. */
typedef struct pass {
    verification *v;
    kvf_session *session;
    uint64_t context_tokens;
    bool every_position;
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
    return cli_options_chunk_tokens(v->options, session_tokens(v->options, context_tokens));
}

static bool compares_every_position(const verification *v, uint64_t context_tokens)
{
    return context_tokens <= max_reference_bytes / (4 * (uint64_t)v->vocab);
}

static uint64_t reference_rows(const verification *v, uint64_t context_tokens, uint32_t chunk)
{
    const uint64_t prompt_rows = compares_every_position(v, context_tokens)
                                     ? context_tokens
                                     : (context_tokens + chunk - 1) / chunk;
    return prompt_rows + v->options->decode_tokens;
}

/*
 * What the comparison itself needs, over all contexts up to that of a session, in chunks of at
 * most so many tokens. Context times vocabulary was bounded.
 */
static void comparison_rows(const verification *v, uint64_t most_session_tokens,
                            uint32_t chunk_tokens, uint64_t *n_reference_rows,
                            uint64_t *n_chunk_rows)
{
    *n_reference_rows = 0;
    *n_chunk_rows = 0;
    for (uint32_t i = 0; i < v->options->n_contexts; i++) {
        uint64_t context_tokens = v->options->contexts[i];
        if (session_tokens(v->options, context_tokens) > most_session_tokens)
            context_tokens = most_session_tokens > v->options->decode_tokens
                                 ? most_session_tokens - v->options->decode_tokens
                                 : 1;
        const uint32_t longest = chunk_of(v, context_tokens);
        const uint32_t chunk = longest < chunk_tokens ? longest : chunk_tokens;
        const uint64_t rows = reference_rows(v, context_tokens, chunk);
        if (rows > *n_reference_rows)
            *n_reference_rows = rows;
        if (compares_every_position(v, context_tokens) && chunk > *n_chunk_rows)
            *n_chunk_rows = chunk;
    }
}

/* Logits that are kept, and the tokens of the prompt, twice (cli_request). */
static uint64_t comparison_bytes(const void *command, uint64_t context_tokens,
                                 uint32_t chunk_tokens)
{
    const verification *v = command;
    uint64_t n_reference_rows;
    uint64_t n_chunk_rows;
    comparison_rows(v, context_tokens, chunk_tokens, &n_reference_rows, &n_chunk_rows);
    return sizeof(float) * (n_reference_rows + n_chunk_rows) * v->vocab +
           2 * sizeof(int32_t) * context_tokens;
}

static uint64_t largest_context(const cli_options *options)
{
    uint64_t largest = 0;
    for (uint32_t i = 0; i < options->n_contexts; i++)
        largest = options->contexts[i] > largest ? options->contexts[i] : largest;
    return largest;
}

/* ---- Comparing -------------------------------------------------------------------- */

/* Bit by bit: +0 and -0 differ, a NaN equals itself. */
static void compare_row(pass *p, const float *expected, const float *actual)
{
    const uint32_t vocab = p->v->vocab;
    result *r = &p->result;
    r->n_compared += vocab;
    if (memcmp(expected, actual, vocab * sizeof *expected) == 0)
        return;
    for (uint32_t i = 0; i < vocab; i++) {
        if (memcmp(expected + i, actual + i, sizeof *expected) == 0)
            continue;
        const double difference = fabs((double)expected[i] - (double)actual[i]);
        r->n_differing++;
        if (isnan(difference))
            r->max_abs_difference = INFINITY;
        else if (difference > r->max_abs_difference)
            r->max_abs_difference = difference;
    }
    if (kvf_argmax(expected, vocab) != kvf_argmax(actual, vocab))
        r->argmax_equal = false;
}

/* Keeps (legacy) or compares n_rows of logits that follow those before. */
static void take_rows(pass *p, const float *logits, uint64_t n_rows)
{
    const size_t vocab = p->v->vocab;
    float *reference = p->v->reference + p->next_row * vocab;
    if (p->result.profile != KVF_PROFILE_LEGACY) {
        for (uint64_t i = 0; i < n_rows; i++)
            compare_row(p, reference + i * vocab, logits + i * vocab);
    } else if (logits != reference) {
        memcpy(reference, logits, n_rows * vocab * sizeof *reference);
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
    const double started = cli_seconds();
    const kvf_status status =
        kvf_model_forward(p->v->engine.model, p->session, tokens, n_tokens, all_logits, &error);
    *seconds += cli_seconds() - started;
    if (status != KVF_OK)
        return cli_engine_error(&p->v->engine, &error, p->result.profile,
                                session_tokens(p->v->options, p->context_tokens));
    return CLI_EXIT_OK;
}

static int prefill(pass *p)
{
    const uint32_t chunk = chunk_of(p->v, p->context_tokens);
    double seconds = 0;
    for (uint64_t first = 0; first < p->context_tokens; first += chunk) {
        const uint64_t left = p->context_tokens - first;
        const uint32_t n = left < chunk ? (uint32_t)left : chunk;
        float *all_logits = NULL;
        if (p->every_position && p->result.profile == KVF_PROFILE_LEGACY)
            all_logits = p->v->reference + p->next_row * p->v->vocab;
        else if (p->every_position)
            all_logits = p->v->chunk_logits;
        const int status = forward(p, p->v->tokens + first, n, all_logits, &seconds);
        if (status != CLI_EXIT_OK)
            return status;
        if (p->every_position)
            take_rows(p, all_logits, n);
        else
            take_rows(p, kvf_session_logits(p->session), 1);
        cli_progress_update(&p->progress, first + n);
    }
    p->result.prefill_tps = cli_rate((double)p->context_tokens, seconds);
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
    p->result.decode_tps = cli_rate(p->v->options->decode_tokens, seconds);
    return CLI_EXIT_OK;
}

static int run_pass(verification *v, uint64_t context_tokens, kvf_profile_id profile, result *out)
{
    pass p = {.v = v,
              .context_tokens = context_tokens,
              .every_position = compares_every_position(v, context_tokens),
              .result = {.profile = profile, .argmax_equal = true}};
    int status = cli_engine_open_session(&v->engine, profile,
                                         session_tokens(v->options, context_tokens), &p.session);
    if (status != CLI_EXIT_OK)
        return status;
    char context[CLI_NUMBER_BYTES];
    char label[48];
    snprintf(label, sizeof label, "%s %s", kvf_profile_get(profile)->name,
             cli_format_context(context_tokens, context));
    cli_progress_start(&p.progress, label, session_tokens(v->options, context_tokens));
    status = prefill(&p);
    if (status == CLI_EXIT_OK)
        status = decode(&p);
    cli_progress_finish(&p.progress);
    p.result.scratch_peak_bytes = kvf_session_scratch_bytes(p.session);
    p.result.inexact_rows = kvf_session_inexact_rows(p.session);
    kvf_session_close(p.session);
    *out = p.result;
    return status;
}

/* ---- Reporting -------------------------------------------------------------------- */

/* The share of legacy's bytes that is saved. */
static double reduction(const result *r, const result *legacy)
{
    return 1 - (double)r->session_bytes / (double)legacy->session_bytes;
}

static int print_record(verification *v, uint64_t context_tokens, const result *r,
                        const result *legacy)
{
    cli_record record = cli_record_new();
    cli_record_count(&record, "ctx", context_tokens);
    cli_record_text(&record, "profile", kvf_profile_get(r->profile)->name);
    cli_record_text(&record, "isa", kvf_device_isa_name(v->engine.device));
    cli_record_text(&record, "backend", kvf_device_backend_name(v->engine.device));
    cli_record_count(&record, "session_bytes", r->session_bytes);
    cli_record_number(&record, "reduction", reduction(r, legacy));
    cli_record_count(&record, "scratch_peak_bytes", r->scratch_peak_bytes);
    cli_record_number(&record, "max_abs_logit_diff", r->max_abs_difference);
    cli_record_count(&record, "compared_logits", r->n_compared);
    cli_record_count(&record, "differing_logits", r->n_differing);
    cli_record_count(&record, "inexact_rows", r->inexact_rows);
    cli_record_bool(&record, "argmax_equal", r->argmax_equal);
    cli_record_number(&record, "prefill_tps", r->prefill_tps);
    cli_record_number(&record, "decode_tps", r->decode_tps);
    return cli_record_print("verify", &record, v->options->output, v->n_lines++ == 0);
}

static const cli_column columns[] = {
    {"context", 7, false},     {"profile", 7, true},        {"session", 8, false},
    {"reduction", 9, false},   {"scratch", 8, false},       {"differing", 9, false},
    {"max |diff|", 10, false}, {"argmax", 6, true},         {"prefill tok/s", 13, false},
    {"x", 5, false},           {"decode tok/s", 12, false}, {"x", 5, false},
};
enum { N_COLUMNS = sizeof columns / sizeof columns[0] };

static void format_ratio(double value, double base, char cell[CLI_CELL_BYTES])
{
    if (value > 0 && base > 0)
        snprintf(cell, CLI_CELL_BYTES, "%.2f", value / base);
    else
        snprintf(cell, CLI_CELL_BYTES, "-");
}

static int add_row(verification *v, uint64_t context_tokens, const result *r, const result *legacy)
{
    char(*cells)[CLI_CELL_BYTES] = cli_table_row(&v->table);
    if (!cells)
        return cli_error("verify", "out of memory for a line of results");
    const bool base = r->profile == KVF_PROFILE_LEGACY;
    if (base)
        cli_format_context(context_tokens, cells[0]);
    snprintf(cells[1], CLI_CELL_BYTES, "%s", kvf_profile_get(r->profile)->name);
    cli_format_bytes(r->session_bytes, cells[2]);
    cli_format_bytes(r->scratch_peak_bytes, cells[4]);
    if (!base) {
        snprintf(cells[3], CLI_CELL_BYTES, "%.1f%%", 100 * reduction(r, legacy));
        cli_format_count(r->n_differing, cells[5]);
        snprintf(cells[6], CLI_CELL_BYTES, "%.3g", r->max_abs_difference);
        snprintf(cells[7], CLI_CELL_BYTES, "%s", r->argmax_equal ? "equal" : "DIFFER");
    }
    cli_format_rate(r->prefill_tps, cells[8]);
    format_ratio(r->prefill_tps, legacy->prefill_tps, cells[9]);
    cli_format_rate(r->decode_tps, cells[10]);
    format_ratio(r->decode_tps, legacy->decode_tps, cells[11]);
    return CLI_EXIT_OK;
}

/* Which inputs and implementations the table is about. */
static void print_heading(const verification *v)
{
    const kvf_device *device = v->engine.device;
    printf("%s: %s/%s, %u thread%s, chunks of up to %u tokens; %s repeated to length\n",
           v->options->model, kvf_device_backend_name(device), kvf_device_isa_name(device),
           kvf_device_n_threads(device), kvf_device_n_threads(device) == 1 ? "" : "s",
           v->options->chunk_tokens, v->options->file ? v->options->file : "the bundled text");
    printf("reduction and x (speed) are against legacy; 1 MB = 1,000,000 bytes\n\n");
    fflush(stdout);
}

static void print_verdict(const verification *v)
{
    char compared[CLI_NUMBER_BYTES];
    char differing[CLI_NUMBER_BYTES];
    char inexact[CLI_NUMBER_BYTES];
    cli_format_count(v->n_compared, compared);
    cli_format_count(v->n_differing, differing);
    putchar('\n');
    if (v->n_inexact_rows)
        printf("tiled could not hold %s rows exactly in f16 (a block scale outside -15..7).\n",
               cli_format_count(v->n_inexact_rows, inexact));
    if (v->n_differing)
        printf("DIFFERENT: %s of %s logits compared differ from legacy's.\n", differing, compared);
    else if (v->n_compared)
        printf("Equal: all %s logits compared have the same bits as legacy's.\n", compared);
    else
        printf("Nothing was compared: legacy ran alone.\n");
}

/* ---- The command ------------------------------------------------------------------ */

static int verify_context(verification *v, uint64_t context_tokens)
{
    result legacy = {.profile = KVF_PROFILE_LEGACY};
    int status = CLI_EXIT_OK;
    for (int i = 0; i < KVF_PROFILE_COUNT && status == CLI_EXIT_OK; i++) {
        result r;
        if (!v->options->profiles[i])
            continue;
        status = run_pass(v, context_tokens, (kvf_profile_id)i, &r);
        if (status != CLI_EXIT_OK)
            return status;
        if (i == KVF_PROFILE_LEGACY) /* the first, which the others are compared with */
            legacy = r;
        v->n_compared += r.n_compared;
        v->n_differing += r.n_differing;
        v->n_inexact_rows += r.inexact_rows;
        status = v->options->output == CLI_OUTPUT_TABLE
                     ? add_row(v, context_tokens, &r, &legacy)
                     : print_record(v, context_tokens, &r, &legacy);
    }
    if (v->options->output == CLI_OUTPUT_TABLE)
        cli_table_print(&v->table, v->n_lines++ == 0);
    return status;
}

static int check_contexts(verification *v)
{
    const cli_options *options = v->options;
    const uint64_t model_tokens = v->engine.config.geometry.max_tokens;
    cli_request request = {.context_tokens = session_tokens(options, largest_context(options)),
                           .least_tokens = session_tokens(options, 1),
                           .own_bytes = comparison_bytes,
                           .command = v};
    int status = CLI_EXIT_OK;
    for (uint32_t i = 0; i < options->n_contexts; i++) {
        char context[CLI_NUMBER_BYTES];
        char limit[CLI_NUMBER_BYTES];
        if (session_tokens(options, options->contexts[i]) > model_tokens)
            return cli_error("verify",
                             "--ctx %s and %u decode steps are more than the model's maximum of "
                             "%s tokens",
                             cli_format_count(options->contexts[i], context),
                             options->decode_tokens, cli_format_count(model_tokens, limit));
    }
    for (int i = 0; i < KVF_PROFILE_COUNT && status == CLI_EXIT_OK; i++) {
        request.profile = (kvf_profile_id)i;
        if (options->profiles[i])
            status = cli_engine_check_memory(&v->engine, &request);
    }
    return status;
}

/* BOS, then the text again and again. */
static int make_tokens(verification *v)
{
    const size_t n_tokens = session_tokens(v->options, largest_context(v->options));
    const kvf_model_config *config = &v->engine.config;
    cli_text text;
    int status = v->options->file
                     ? cli_text_read("verify", v->options->file, n_tokens, false, &text)
                     : cli_text_copy("verify", cli_bundled_text, cli_bundled_text_bytes, &text);
    if (status != CLI_EXIT_OK)
        return status;
    int32_t *once = malloc((text.bytes + 1) * sizeof *once);
    v->tokens = malloc(n_tokens * sizeof *v->tokens);
    if (text.bytes == 0) {
        status = cli_error("verify", "'%s' is empty; there is no text to repeat", v->options->file);
    } else if (!once || !v->tokens) {
        status = cli_error("verify", "out of memory for %zu tokens", n_tokens);
    } else {
        const size_t n_once = kvf_tokenize(config, text.data, text.bytes, true, once);
        const size_t n_bos = n_once - text.bytes; /* one token a byte */
        for (size_t i = 0; i < n_tokens; i++)
            v->tokens[i] = once[i < n_bos ? i : n_bos + (i - n_bos) % text.bytes];
    }
    free(once);
    cli_text_free(&text);
    return status;
}

static int allocate(verification *v)
{
    uint64_t n_reference_rows;
    uint64_t n_chunk_rows;
    comparison_rows(v, UINT64_MAX, UINT32_MAX, &n_reference_rows, &n_chunk_rows);
    const size_t row_bytes = sizeof(float) * v->vocab;
    v->reference = malloc(n_reference_rows * row_bytes);
    v->chunk_logits = n_chunk_rows ? malloc(n_chunk_rows * row_bytes) : NULL;
    if (!v->reference || (n_chunk_rows && !v->chunk_logits)) {
        char bytes[CLI_NUMBER_BYTES];
        return cli_error("verify", "out of memory for %s of logits to compare",
                         cli_format_bytes((n_reference_rows + n_chunk_rows) * row_bytes, bytes));
    }
    return CLI_EXIT_OK;
}

static int prepare(verification *v)
{
    kvf_error error;
    int status = cli_engine_open(v->options, &v->engine);
    if (status != CLI_EXIT_OK)
        return status;
    v->vocab = v->engine.config.geometry.vocab;
    if (kvf_tokenizer_check_files(v->engine.files, &v->engine.config, &error) != KVF_OK)
        return cli_error("verify", "%s", error.message);
    status = check_contexts(v);
    if (status == CLI_EXIT_OK)
        status = make_tokens(v);
    if (status == CLI_EXIT_OK)
        status = allocate(v);
    if (status == CLI_EXIT_OK)
        status =
            cli_engine_load(&v->engine, session_tokens(v->options, largest_context(v->options)));
    return status;
}

int cli_verify(const cli_options *options)
{
    verification v = {.options = options};
    cli_table_start(&v.table, columns, N_COLUMNS);
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
    free(v.reference);
    free(v.chunk_logits);
    cli_engine_close(&v.engine);
    return status;
}
