/*
 * kvfold plan: what a session costs, buffer by buffer, before anything is
 * allocated; the largest context that fits; a chart.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/commands.h"
#include "cli/events.h"
#include "cli/message.h"
#include "cli/outfile.h"
#include "cli/svg.h"
#include "cli/table.h"
#include "cli/weights.h"
#include "engine/amounts.h"
#include "engine/budget.h"
#include "model/model.h"

/* One profile at one context. */
typedef struct totals {
    uint64_t session_bytes;
    uint64_t allocated_bytes;
    uint64_t snapshot_bytes;
    uint64_t scratch_bytes;
    uint64_t table_bytes;
    uint64_t total_bytes;      /* allocated + tables + scratch + activations */
    uint64_t checkpoint_bytes; /* in no other number, like the next two */
    uint64_t chunk_undo_bytes;
    uint64_t pool_bytes;
} totals;

/* Which of them a table shows. */
typedef enum shown { SHOW_SESSION, SHOW_TOTAL, SHOW_ONCE, SHOW_CHECKPOINTS } shown;

typedef struct planning {
    const cli_options *options;
    kvf_model_config config;
    kvf_budget budget;
    bool built_in;       /* no checkpoint, only a geometry */
    cli_weights weights; /* all 0 where there are none beside a config.json */
    bool weights_known;
    kvf_error no_weights; /* why they are not known */
    uint64_t contexts[CLI_MAX_CONTEXTS];
    uint32_t n_contexts;
    totals results[CLI_MAX_CONTEXTS][KVF_PROFILE_COUNT];
    uint64_t n_records;
} planning;

/* ---- The model ---------------------------------------------------------------------- */

/* DeepSeek-V4-Flash, as far as memory depends on it (docs/FORMAT.md 1). */
static void fill_v4_flash(kvf_model_config *config)
{
    memset(config, 0, sizeof *config);
    kvf_geometry_v4_flash(&config->geometry);
    config->hidden = 4096;
    config->q_rank = 1024;
    config->n_out_groups = 8;
    config->out_rank = 1024;
    config->n_streams = 4;
    config->sinkhorn_rounds = 20;
    config->n_experts = 256;
    config->n_experts_used = 6;
    config->n_shared_experts = 1;
    config->expert_ffn = 2048;
    for (int i = 0; i < 3; i++)
        config->hash_routed[i] = true;
}

/* A folder may have a config.json alone: that is enough for all but its weights. */
static void count_weights(planning *p)
{
    kvf_tensor_set *files;
    p->weights_known = true;
    if (p->built_in) {
        cli_weights_of_v4_flash(&p->config, p->budget.takes_stored_weights, &p->weights);
    } else if (kvf_tensor_set_open(p->options->engine.model, &files, &p->no_weights) == KVF_OK) {
        cli_weights_count(files, &p->config, p->budget.takes_stored_weights, &p->weights);
        kvf_tensor_set_close(files);
    } else {
        p->weights_known = false;
        p->weights.copied_bytes = kvf_budget_weight_bytes(&p->budget);
        if (p->no_weights.status != KVF_FILE_NOT_FOUND && !p->options->memory_bytes)
            cli_note("plan", "the weights are not counted: %s", p->no_weights.message);
    }
    p->budget.mapped_bytes = p->weights.mapped_bytes;
}

static int load_config(planning *p)
{
    const cli_options *options = p->options;
    kvf_error error;
    int status = CLI_EXIT_OK;
    p->built_in = strcmp(options->engine.model, "v4-flash") == 0;
    if (p->built_in)
        fill_v4_flash(&p->config);
    else
        status = cli_config_load("plan", options->engine.model, &p->config);
    p->budget =
        (kvf_budget){.options = &options->engine,
                     .config = &p->config,
                     .n_threads = options->engine.n_threads ? options->engine.n_threads : 1};
    if (kvf_budget_of_backend(&p->budget, &error) != KVF_OK)
        return cli_error("plan", "%s", error.message);
    if (status != CLI_EXIT_OK)
        return status;
    count_weights(p);
    if (options->memory_bytes && !options->weights_given && !p->weights_known)
        return cli_error("plan", "--memory counts the checkpoint's files (or give --weights): %s",
                         p->no_weights.message);
    return CLI_EXIT_OK;
}

/* A context that was asked for must exist; of the default ones the model's maximum bounds the list.
 */
static int choose_contexts(planning *p)
{
    const cli_options *options = p->options;
    const uint64_t model_tokens = p->config.geometry.max_tokens;
    for (uint32_t i = 0; i < options->n_contexts; i++) {
        char context[KVF_NUMBER_BYTES];
        char limit[KVF_NUMBER_BYTES];
        if (options->contexts[i] <= model_tokens)
            p->contexts[p->n_contexts++] = options->contexts[i];
        else if (options->contexts_given)
            return cli_error("plan", "--ctx %s is more than the model's maximum of %s tokens",
                             kvf_show_count(options->contexts[i], context),
                             kvf_show_count(model_tokens, limit));
    }
    if (p->n_contexts == 0)
        p->contexts[p->n_contexts++] = model_tokens;
    return CLI_EXIT_OK;
}

/* ---- One plan ----------------------------------------------------------------------- */

static const char *class_name(kvf_memory_class klass)
{
    switch (klass) {
    case KVF_MEMORY_CACHE: return "cache";
    case KVF_MEMORY_POOL: return "pool"; /* no buffer is in it */
    case KVF_MEMORY_SCRATCH: return "scratch";
    case KVF_MEMORY_TABLE: return "table";
    case KVF_MEMORY_ACTIVATION: return "activation";
    default: return "weight";
    }
}

/*
 * The plan of the session with the activations of the dense layers appended to its
 * buffers. Free plan->buffers with kvf_plan_free.
 */
static int make_plan(const planning *p, kvf_profile_id profile, uint64_t context_tokens,
                     kvf_plan *plan, totals *t)
{
    kvf_error error;
    if (kvf_budget_plan(&p->budget, profile, context_tokens, plan, &error) != KVF_OK)
        return cli_error("plan", "%s", error.message);
    const uint32_t chunk = kvf_engine_chunk_tokens(&p->options->engine, context_tokens);
    const uint32_t n = kvf_model_activations(&p->config, chunk, NULL, 0);
    const uint32_t n_session = plan->n_buffers;
    kvf_plan_buffer *all = realloc(plan->buffers, ((size_t)n_session + n) * sizeof *all);
    if (!all) {
        kvf_plan_free(plan);
        return cli_error("plan", "out of memory for %u buffers", n_session + n);
    }
    plan->buffers = all;
    plan->n_buffers = n_session + kvf_model_activations(&p->config, chunk, all + n_session, n);
    *t = (totals){.session_bytes = plan->session_bytes,
                  .allocated_bytes = plan->allocated_bytes,
                  .snapshot_bytes = plan->snapshot_bytes,
                  .scratch_bytes = plan->scratch_bytes,
                  .table_bytes = plan->table_bytes,
                  .total_bytes = plan->allocated_bytes + plan->table_bytes + plan->scratch_bytes,
                  .checkpoint_bytes = plan->checkpoint_bytes,
                  .chunk_undo_bytes = plan->chunk_undo_bytes,
                  .pool_bytes = plan->pool_bytes};
    for (uint32_t i = n_session; i < plan->n_buffers; i++)
        t->total_bytes += plan->buffers[i].bytes;
    return CLI_EXIT_OK;
}

/* ---- For machines ------------------------------------------------------------------- */

static cJSON *buffer_list(const kvf_plan *plan)
{
    cJSON *list = cJSON_CreateArray();
    for (uint32_t i = 0; i < plan->n_buffers; i++) {
        const kvf_plan_buffer *buffer = &plan->buffers[i];
        cli_record entry = cli_record_new();
        cJSON *shape = cJSON_CreateArray();
        cli_record_text(&entry, "name", buffer->name);
        cli_record_text(&entry, "dtype", buffer->dtype);
        for (uint32_t d = 0; d < buffer->n_dims; d++)
            cJSON_AddItemToArray(shape, cJSON_CreateNumber((double)buffer->shape[d]));
        cli_record_list(&entry, "shape", shape);
        cli_record_count(&entry, "bytes", buffer->bytes);
        if (entry.failed || !cJSON_AddItemToArray(list, entry.object)) {
            cli_record_free(&entry);
            cJSON_Delete(list);
            return NULL;
        }
    }
    return list;
}

static int print_record(planning *p, kvf_profile_id profile, uint64_t context_tokens,
                        const kvf_plan *plan, const totals *t)
{
    cli_record record = cli_record_new();
    cli_record_count(&record, "ctx", context_tokens);
    cli_record_text(&record, "profile", kvf_profile_get(profile)->name);
    cli_record_count(&record, "session_bytes", t->session_bytes);
    cli_record_count(&record, "allocated_bytes", t->allocated_bytes);
    cli_record_count(&record, "snapshot_bytes", t->snapshot_bytes);
    cli_record_count(&record, "scratch_bytes", t->scratch_bytes);
    cli_record_count(&record, "table_bytes", t->table_bytes);
    cli_record_count(&record, "total_bytes", t->total_bytes);
    cli_record_count(&record, "checkpoint_bytes", t->checkpoint_bytes);
    cli_record_count(&record, "chunk_undo_bytes", t->chunk_undo_bytes);
    cli_record_count(&record, "pool_bytes", t->pool_bytes);
    cli_record_count(&record, "weights_mapped_bytes", p->weights.mapped_bytes);
    cli_record_count(&record, "weights_copied_bytes", p->weights.copied_bytes);
    if (p->options->output == CLI_OUTPUT_JSON) {
        cli_record_list(&record, "weights", cli_weights_list(&p->weights));
        cli_record_list(&record, "buffers", buffer_list(plan));
    }
    return cli_record_print("plan", &record, p->options->output, p->n_records++ == 0);
}

/* ---- For people --------------------------------------------------------------------- */

static int print_buffers(kvf_profile_id profile, uint64_t context_tokens, const kvf_plan *plan)
{
    static const cli_column columns[] = {{"buffer", 24, true},
                                         {"class", 10, true},
                                         {"dtype", 8, true},
                                         {"shape", 20, true},
                                         {"bytes", 15, false}};
    cli_table table;
    char context[KVF_NUMBER_BYTES];
    cli_table_start(&table, columns, 5);
    for (uint32_t i = 0; i < plan->n_buffers; i++) {
        const kvf_plan_buffer *buffer = &plan->buffers[i];
        char(*cells)[CLI_CELL_BYTES] = cli_table_row(&table);
        if (!cells) {
            cli_table_free(&table);
            return cli_error("plan", "out of memory for a table of %u buffers", plan->n_buffers);
        }
        snprintf(cells[0], CLI_CELL_BYTES, "%.47s", buffer->name);
        snprintf(cells[1], CLI_CELL_BYTES, "%s", class_name(buffer->klass));
        snprintf(cells[2], CLI_CELL_BYTES, "%.11s", buffer->dtype);
        size_t used = 0;
        for (uint32_t d = 0; d < buffer->n_dims && used < CLI_CELL_BYTES; d++)
            used += (size_t)snprintf(cells[3] + used, CLI_CELL_BYTES - used, "%s%llu",
                                     d ? " x " : "", (unsigned long long)buffer->shape[d]);
        kvf_show_count(buffer->bytes, cells[4]);
    }
    printf("%s at %s\n", kvf_profile_get(profile)->name, kvf_show_context(context_tokens, context));
    cli_table_print(&table, true);
    putchar('\n');
    cli_table_free(&table);
    return CLI_EXIT_OK;
}

/* Columns: the context, each profile asked for, and what fold saves of legacy. */
static uint32_t make_columns(const planning *p, cli_column columns[CLI_MAX_COLUMNS])
{
    uint32_t n = 0;
    columns[n++] = (cli_column){"context", 9, false};
    for (int i = 0; i < KVF_PROFILE_COUNT; i++) {
        if (p->options->profiles[i])
            columns[n++] = (cli_column){kvf_profile_get((kvf_profile_id)i)->name, 15, false};
    }
    if (p->options->profiles[KVF_PROFILE_LEGACY] && p->options->profiles[KVF_PROFILE_FOLD])
        columns[n++] = (cli_column){"fold saves", 10, false};
    return n;
}

static uint64_t shown_bytes(const totals *t, shown what)
{
    switch (what) {
    case SHOW_SESSION: return t->session_bytes;
    case SHOW_TOTAL: return t->total_bytes;
    case SHOW_ONCE: return t->total_bytes - t->allocated_bytes - t->table_bytes;
    default: return t->checkpoint_bytes + t->chunk_undo_bytes + t->pool_bytes;
    }
}

/* One table: a line a context, exact session bytes or a rounded sum. */
static int print_totals(const planning *p, shown what)
{
    cli_column columns[CLI_MAX_COLUMNS];
    cli_table table;
    cli_table_start(&table, columns, make_columns(p, columns));
    for (uint32_t i = 0; i < p->n_contexts; i++) {
        char(*cells)[CLI_CELL_BYTES] = cli_table_row(&table);
        uint64_t bytes[KVF_PROFILE_COUNT];
        uint32_t n = 0;
        if (!cells) {
            cli_table_free(&table);
            return cli_error("plan", "out of memory for a table");
        }
        kvf_show_context(p->contexts[i], cells[n++]);
        for (int profile = 0; profile < KVF_PROFILE_COUNT; profile++) {
            bytes[profile] = shown_bytes(&p->results[i][profile], what);
            if (p->options->profiles[profile] && what == SHOW_SESSION)
                kvf_show_count(bytes[profile], cells[n++]);
            else if (p->options->profiles[profile])
                kvf_show_bytes(bytes[profile], cells[n++]);
        }
        if (n < table.n_columns)
            snprintf(cells[n], CLI_CELL_BYTES, "%.1f%%",
                     100 *
                         (1 - (double)bytes[KVF_PROFILE_FOLD] / (double)bytes[KVF_PROFILE_LEGACY]));
    }
    cli_table_print(&table, true);
    cli_table_free(&table);
    return CLI_EXIT_OK;
}

static int print_weights(const planning *p)
{
    const cli_tensors *skipped = &p->weights.skipped[CLI_SKIPPED_MTP];
    char mapped[KVF_NUMBER_BYTES];
    char copied[KVF_NUMBER_BYTES];
    char bytes[KVF_NUMBER_BYTES];
    printf("Weights as they are stored%s\n", p->built_in ? " in the release of April 2026" : "");
    const int status = cli_weights_print("plan", &p->weights);
    for (int i = 0; i < CLI_SKIPPED_KINDS; i++, skipped++)
        if (skipped->n > 0)
            printf("not run: %s, %s of them\n", cli_skipped_name((cli_skipped)i),
                   kvf_show_bytes(skipped->bytes, bytes));
    printf("Used where they lie in the mapped files, %s; copied into memory: %s\n\n",
           kvf_show_bytes(p->weights.mapped_bytes, mapped),
           kvf_show_bytes(p->weights.copied_bytes, copied));
    return status;
}

static int print_tables(const planning *p)
{
    cli_put_path(p->options->engine.model);
    printf(", prefill in chunks of up to %u tokens\n\n", p->options->engine.chunk_tokens);
    int status = p->weights_known ? print_weights(p) : CLI_EXIT_OK;
    printf("Session bytes: rows held, no page padding\n");
    if (status == CLI_EXIT_OK)
        status = print_totals(p, SHOW_SESSION);
    printf("\nMemory in all without weights: pages, tables, scratch and activations "
           "(1 MB = 1,000,000 bytes)\n");
    if (status == CLI_EXIT_OK)
        status = print_totals(p, SHOW_TOTAL);
    printf("\nOf that, once for all sessions that take turns: scratch and activations; the rest "
           "each\n");
    if (status == CLI_EXIT_OK)
        status = print_totals(p, SHOW_ONCE);
    printf("\nIn no number above: checkpoints to go back to, what an open chunk takes so that it "
           "can be\ndropped, and what slabs of pages have free, at most\n");
    if (status == CLI_EXIT_OK)
        status = print_totals(p, SHOW_CHECKPOINTS);
    return status;
}

/* ---- --memory ----------------------------------------------------------------------- */

/* A profile's largest contexts in some memory. */
typedef struct largest {
    uint64_t beside;  /* all of the weights are in it too */
    uint64_t without; /* only what is copied of them is: the rest is read from the disk */
} largest;

static int print_largest_record(const planning *p, kvf_profile_id profile, uint64_t memory_bytes,
                                uint64_t weights_bytes, const largest *found, bool first)
{
    cli_record record = cli_record_new();
    cli_record_text(&record, "profile", kvf_profile_get(profile)->name);
    cli_record_count(&record, "memory_bytes", memory_bytes);
    cli_record_count(&record, "weights_bytes", weights_bytes);
    cli_record_count(&record, "largest_ctx", found->beside);
    cli_record_count(&record, "largest_ctx_from_disk", found->without);
    if (p->options->output == CLI_OUTPUT_CSV && first)
        putchar('\n'); /* another table, with a header of its own */
    return cli_record_print("plan", &record, p->options->output, first);
}

static void print_largest_line(const planning *p, kvf_profile_id profile, uint64_t largest_context)
{
    char context[KVF_NUMBER_BYTES];
    const char *name = kvf_profile_get(profile)->name;
    if (largest_context == 0)
        printf("  %-6s  does not fit\n", name);
    else
        printf("  %-6s  %11s tokens%s\n", name, kvf_show_count(largest_context, context),
               largest_context == p->config.geometry.max_tokens ? " (the model's maximum)" : "");
}

static int print_largest_records(const planning *p, uint64_t memory_bytes, uint64_t weights_bytes,
                                 const largest found[KVF_PROFILE_COUNT])
{
    int status = CLI_EXIT_OK;
    bool first = true;
    for (int i = 0; i < KVF_PROFILE_COUNT && status == CLI_EXIT_OK; i++) {
        if (!p->options->profiles[i])
            continue;
        status = print_largest_record(p, (kvf_profile_id)i, memory_bytes, weights_bytes, &found[i],
                                      first);
        first = false;
    }
    return status;
}

static void print_largest_lines(const planning *p, const largest found[KVF_PROFILE_COUNT],
                                bool from_disk)
{
    for (int i = 0; i < KVF_PROFILE_COUNT; i++)
        if (p->options->profiles[i])
            print_largest_line(p, (kvf_profile_id)i,
                               from_disk ? found[i].without : found[i].beside);
}

static int print_largest(const planning *p)
{
    const uint64_t memory_bytes = p->options->memory_bytes;
    const uint64_t copied_bytes = p->weights.copied_bytes;
    char memory[KVF_NUMBER_BYTES];
    char weights[KVF_NUMBER_BYTES];
    largest found[KVF_PROFILE_COUNT];
    uint64_t weights_bytes = p->options->weights_bytes;
    if (!p->options->weights_given)
        weights_bytes = p->weights.mapped_bytes + copied_bytes;
    const uint64_t least_bytes = weights_bytes < copied_bytes ? weights_bytes : copied_bytes;
    for (int i = 0; i < KVF_PROFILE_COUNT; i++) {
        const kvf_profile_id id = (kvf_profile_id)i;
        found[i].beside =
            memory_bytes < weights_bytes
                ? 0
                : kvf_budget_largest_context(&p->budget, id, memory_bytes - weights_bytes);
        found[i].without =
            memory_bytes < least_bytes
                ? 0
                : kvf_budget_largest_context(&p->budget, id, memory_bytes - least_bytes);
    }
    if (p->options->output != CLI_OUTPUT_TABLE)
        return print_largest_records(p, memory_bytes, weights_bytes, found);
    printf("\nLargest context in %s bytes beside %s of weights\n",
           kvf_show_context(memory_bytes, memory), kvf_show_bytes(weights_bytes, weights));
    print_largest_lines(p, found, false);
    printf("\nLargest context in %s bytes with weights that are read from the disk as they are\n"
           "needed, %s of copies beside them\n",
           memory, kvf_show_bytes(least_bytes, weights));
    print_largest_lines(p, found, true);
    return CLI_EXIT_OK;
}

/*
 * What a run has taken for its device before it asks what is left, where this opens none: a
 * thread's workspace (src/backend/cpu, 1.8 MB) and the rest of what it opens.
 */
static uint64_t device_bytes(const void *command, uint64_t context_tokens, uint32_t chunk_tokens)
{
    (void)command;
    (void)context_tokens;
    (void)chunk_tokens;
    return 2u << 20;
}

/* --memory auto: what a run started here and now would not be refused. */
static int print_allowed(const planning *p)
{
    cli_options options = *p->options;
    options.engine.counts_checkpoints = false; /* a run keeps none */
    kvf_budget budget = p->budget;
    budget.options = &options.engine;
    const uint64_t weights_bytes = p->weights.copied_bytes;
    char left[KVF_NUMBER_BYTES];
    char weights[KVF_NUMBER_BYTES];
    largest found[KVF_PROFILE_COUNT];
    kvf_limits limits;
    kvf_limits_read(&limits);
    const kvf_limit *limit = &limits.tightest[KVF_LIMIT_MEMORY];
    for (int i = 0; i < KVF_PROFILE_COUNT; i++) {
        const kvf_request request = {.profile = (kvf_profile_id)i,
                                     .context_tokens = p->config.geometry.max_tokens,
                                     .own_bytes = device_bytes};
        found[i].without =
            kvf_budget_fitting_context(&budget, &request, options.engine.chunk_tokens, &limits);
        found[i].beside = found[i].without; /* mapped files are refused nowhere */
    }
    if (options.output != CLI_OUTPUT_TABLE)
        return print_largest_records(p, limit->left_bytes, weights_bytes, found);
    printf("\nLargest context that a run may have here (%s leaves %s of memory), with %s of "
           "weights copied\n",
           limit->name, kvf_show_bytes(limit->left_bytes, left),
           kvf_show_bytes(weights_bytes, weights));
    print_largest_lines(p, found, true);
    return CLI_EXIT_OK;
}

/* ---- --svg -------------------------------------------------------------------------- */

static int compare_contexts(const void *a, const void *b)
{
    const uint64_t x = *(const uint64_t *)a;
    const uint64_t y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

/* The chart wants its contexts ascending and each once; the option may bring them in any order. */
static int write_svg(const planning *p)
{
    const cli_options *options = p->options;
    uint64_t contexts[CLI_MAX_CONTEXTS];
    double bytes[KVF_PROFILE_COUNT][CLI_MAX_CONTEXTS];
    cli_chart chart = {.title = "Session bytes against context",
                       .subject = options->engine.model,
                       .note = "rows held, without page padding; 1 MB = 1,000,000 bytes",
                       .unit = CLI_CHART_BYTES,
                       .contexts = contexts};
    memcpy(contexts, p->contexts, p->n_contexts * sizeof contexts[0]);
    qsort(contexts, p->n_contexts, sizeof contexts[0], compare_contexts);
    for (uint32_t i = 0; i < p->n_contexts; i++) {
        if (i == 0 || contexts[i] != contexts[i - 1])
            contexts[chart.n_contexts++] = contexts[i];
    }
    for (int profile = 0; profile < KVF_PROFILE_COUNT; profile++) {
        if (!options->profiles[profile])
            continue;
        for (uint32_t i = 0; i < chart.n_contexts; i++) {
            uint32_t found = 0;
            while (p->contexts[found] != contexts[i])
                found++;
            bytes[profile][i] = (double)p->results[found][profile].session_bytes;
        }
        chart.lines[chart.n_lines++] =
            (cli_chart_line){kvf_profile_get((kvf_profile_id)profile)->name, bytes[profile]};
    }
    return cli_svg_write("plan", options->svg_file, &chart, 1);
}

/* ---- The command -------------------------------------------------------------------- */

static int plan_all(planning *p)
{
    const cli_options *options = p->options;
    int status = CLI_EXIT_OK;
    for (uint32_t i = 0; i < p->n_contexts; i++) {
        for (int profile = 0; profile < KVF_PROFILE_COUNT && status == CLI_EXIT_OK; profile++) {
            const kvf_profile_id id = (kvf_profile_id)profile;
            const uint64_t context = p->contexts[i];
            totals *t = &p->results[i][profile];
            kvf_plan plan;
            if (!options->profiles[profile])
                continue;
            status = make_plan(p, id, context, &plan, t);
            if (status != CLI_EXIT_OK)
                return status;
            if (options->output != CLI_OUTPUT_TABLE)
                status = print_record(p, id, context, &plan, t);
            else if (options->list_buffers)
                status = print_buffers(id, context, &plan);
            kvf_plan_free(&plan);
        }
    }
    return status;
}

int cli_plan(const cli_options *options)
{
    planning *p = calloc(1, sizeof *p);
    if (!p)
        return cli_error("plan", "out of memory");
    p->options = options;
    int status = load_config(p);
    if (status == CLI_EXIT_OK && options->svg_file)
        status = cli_outfile_try("plan", options->svg_file);
    if (status == CLI_EXIT_OK)
        status = choose_contexts(p);
    if (status == CLI_EXIT_OK)
        status = plan_all(p);
    if (status == CLI_EXIT_OK && options->output == CLI_OUTPUT_TABLE)
        status = print_tables(p);
    if (status == CLI_EXIT_OK && options->memory_bytes)
        status = print_largest(p);
    if (status == CLI_EXIT_OK && options->memory_auto)
        status = print_allowed(p);
    if (status == CLI_EXIT_OK && options->svg_file)
        status = write_svg(p);
    free(p);
    return status;
}
