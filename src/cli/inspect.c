/*
 * kvfold inspect: what a checkpoint is, what it takes, whether it runs here, and with --check
 * whether all of it is numbers.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/commands.h"
#include "cli/inspect_check.h"
#include "cli/lost_files.h"
#include "cli/message.h"
#include "cli/sha256.h"
#include "cli/table.h"
#include "cli/weights.h"
#include "engine/amounts.h"
#include "engine/budget.h"
#include "error.h"
#include "file/json.h"
#include "file/metadata.h"
#include "model/fingerprint.h"
#include "model/tensor_check.h"

enum { NAME_BYTES = 128, MAX_SHOWN_FAULTS = 20 };

typedef struct inspection {
    const cli_options *options;
    kvf_tensor_set *files;
    kvf_device *device;
    kvf_model_config config;
    bool has_config;
    kvf_error refused; /* why it does not run; KVF_OK: it does */
    char architecture[NAME_BYTES];
    char name[NAME_BYTES];
    cli_weights weights;
    kvf_token_bytes token;
    /* --memory */
    uint64_t memory_bytes;
    uint64_t largest_beside;    /* contexts: all of the weights in that memory */
    uint64_t largest_from_disk; /* only copies of them */
    /* --check, --sha256 */
    cli_check check;
    uint64_t fingerprint; /* 0: not known */
    uint64_t full_sum;
    uint32_t n_faulty; /* tensors */
} inspection;

/* ---- What it is ------------------------------------------------------------------------- */

static void copy_text(char out[NAME_BYTES], const char *text, size_t bytes)
{
    char whole[NAME_BYTES];
    snprintf(whole, sizeof whole, "%.*s", (int)(bytes < NAME_BYTES ? bytes : NAME_BYTES), text);
    kvf_print_line(out, NAME_BYTES, whole);
}

static void read_metadata(const kvf_tensor_set *files, const char *key, char out[NAME_BYTES])
{
    const kvf_metadata *entry = kvf_tensor_set_metadata(files, key);
    kvf_text text;
    uint64_t at = 0;
    if (entry && !entry->is_array && kvf_metadata_text(entry, &at, &text))
        copy_text(out, text.data, (size_t)text.bytes);
}

/* Of a config that may be of another architecture, and is refused then. */
static void read_model_type(const char *path, char out[NAME_BYTES])
{
    kvf_file file;
    cJSON *json = NULL;
    if (kvf_file_map(path, &file, NULL) != KVF_OK)
        return;
    if (file.data && kvf_json_parse(file.data, file.bytes, path, &json, NULL) == KVF_OK) {
        const cJSON *type = kvf_json_get(json, "model_type");
        if (cJSON_IsString(type))
            copy_text(out, type->valuestring, strlen(type->valuestring));
    }
    cJSON_Delete(json);
    kvf_file_unmap(&file);
}

static void name_it(inspection *i)
{
    if (kvf_tensor_set_container(i->files) == KVF_CONTAINER_GGUF) {
        read_metadata(i->files, "general.architecture", i->architecture);
        read_metadata(i->files, "general.name", i->name);
    } else {
        read_model_type(kvf_tensor_set_config_path(i->files), i->architecture);
    }
}

/* Loads the weights as a run does, for what that says, and lets them go. */
static void try_to_load(inspection *i)
{
    kvf_weights weights;
    if (kvf_weights_load(i->device, &i->config, i->options->engine.model, i->files, &weights,
                         &i->refused) != KVF_OK)
        return;
    kvf_weights_free(&weights);
}

static void find_fitting(inspection *i)
{
    const cli_options *options = i->options;
    const kvf_budget budget = {.options = &options->engine,
                               .config = &i->config,
                               .n_threads = kvf_device_n_threads(i->device),
                               .takes_stored_weights = true,
                               .mapped_bytes = i->weights.mapped_bytes};
    const uint64_t copied = i->weights.copied_bytes;
    const uint64_t all = i->weights.mapped_bytes + copied;
    kvf_limits limits;
    i->memory_bytes = options->memory_bytes;
    if (options->memory_auto) {
        kvf_limits_read(&limits);
        i->memory_bytes = limits.tightest[KVF_LIMIT_MEMORY].left_bytes;
    }
    if (i->memory_bytes >= all)
        i->largest_beside =
            kvf_budget_largest_context(&budget, options->engine.profile, i->memory_bytes - all);
    if (i->memory_bytes >= copied)
        i->largest_from_disk =
            kvf_budget_largest_context(&budget, options->engine.profile, i->memory_bytes - copied);
}

static int look(inspection *i)
{
    const cli_options *options = i->options;
    const kvf_device_options device = {.n_threads = options->engine.n_threads};
    kvf_error error;
    kvf_file json = {NULL, 0, {0}};
    cli_lost_files_watch(&i->files);
    if (kvf_tensor_set_open(options->engine.model, &i->files, &error) != KVF_OK ||
        kvf_device_open(&device, &i->device, &error) != KVF_OK)
        return cli_error("inspect", "%s", error.message);
    name_it(i);
    i->has_config = kvf_config_of(i->files, &json, &i->config, &i->refused) == KVF_OK;
    kvf_file_unmap(&json);
    cli_weights_count(i->files, i->has_config ? &i->config : NULL, true, &i->weights);
    if (i->has_config) {
        i->token = kvf_model_token_bytes(&i->config, i->files);
        try_to_load(i);
    }
    if (i->has_config && (options->memory_bytes || options->memory_auto))
        find_fitting(i);
    if (kvf_tensor_set_check_lost(i->files, &error) != KVF_OK)
        return cli_error("inspect", "%s", error.message);
    return CLI_EXIT_OK;
}

/* ---- --check, --sha256 ------------------------------------------------------------------- */

static int check_all(inspection *i)
{
    const cli_options *options = i->options;
    kvf_error error;
    const kvf_tensor *tensor;
    const int status =
        cli_check_run(i->files, i->device, options->check_values, options->print_sha256, &i->check);
    if (status != CLI_EXIT_OK || !options->check_values)
        return status;
    for (uint32_t n = 0; (tensor = kvf_tensor_set_at(i->files, n)); n++)
        i->n_faulty += i->check.n_faults[n] > 0;
    /* Samples may be gigabytes, and are in memory now. */
    if (i->has_config &&
        (kvf_fingerprint_of_sums(&i->config, i->files, i->check.sums, &i->full_sum, &error) !=
             KVF_OK ||
         kvf_fingerprint(&i->config, i->files, i->device, &i->fingerprint, &error) != KVF_OK))
        return cli_error("inspect", "%s", error.message);
    return CLI_EXIT_OK;
}

/* ---- For people ---------------------------------------------------------------------------- */

static const char *container_name(const inspection *i)
{
    return kvf_tensor_set_container(i->files) == KVF_CONTAINER_GGUF ? "gguf" : "safetensors";
}

static void print_geometry(const inspection *i)
{
    const kvf_model_config *config = &i->config;
    const kvf_geometry *geometry = &config->geometry;
    uint32_t kinds[3] = {0, 0, 0};
    char vocab[KVF_NUMBER_BYTES];
    char context[KVF_NUMBER_BYTES];
    for (uint32_t n = 0; n < geometry->n_layers; n++)
        kinds[geometry->layers[n].kind]++;
    printf("%u layers (%u window, %u CSA, %u HCA), hidden %u, %u heads, %u experts of %u (%u used, "
           "%u shared),\nvocabulary %s, context %s\n",
           geometry->n_layers, kinds[KVF_LAYER_WINDOW], kinds[KVF_LAYER_CSA], kinds[KVF_LAYER_HCA],
           config->hidden, geometry->n_heads, config->n_experts, config->expert_ffn,
           config->n_experts_used, config->n_shared_experts, kvf_show_count(geometry->vocab, vocab),
           kvf_show_count(geometry->max_tokens, context));
}

static uint64_t token_total(const kvf_token_bytes *token)
{
    return token->layers + token->experts + token->head;
}

static void print_use(const inspection *i)
{
    char total[KVF_NUMBER_BYTES];
    char layers[KVF_NUMBER_BYTES];
    char experts[KVF_NUMBER_BYTES];
    char head[KVF_NUMBER_BYTES];
    printf("a token reads %s: %s of attention and what all tokens use, %s of %u experts a layer,\n"
           "%s of the head\n",
           kvf_show_bytes(token_total(&i->token), total), kvf_show_bytes(i->token.layers, layers),
           kvf_show_bytes(i->token.experts, experts), i->config.n_experts_used,
           kvf_show_bytes(i->token.head, head));
    printf("copied into memory: %s; all else is used where it lies in the mapped files\n",
           kvf_show_bytes(i->weights.copied_bytes, total));
}

static void print_skipped(const inspection *i)
{
    char count[KVF_NUMBER_BYTES];
    char bytes[KVF_NUMBER_BYTES];
    const kvf_tensor_file *file;
    for (int kind = 0; kind < CLI_SKIPPED_KINDS; kind++) {
        const cli_tensors *skipped = &i->weights.skipped[kind];
        if (skipped->n > 0)
            printf("not run: %s, %s tensors, %s\n", cli_skipped_name((cli_skipped)kind),
                   kvf_show_count(skipped->n, count), kvf_show_bytes(skipped->bytes, bytes));
    }
    for (uint32_t n = 0; (file = kvf_tensor_set_file(i->files, n)); n++) {
        if (file->surplus_bytes == 0)
            continue;
        printf("behind the last tensor: %s bytes of ", kvf_show_count(file->surplus_bytes, bytes));
        cli_put_path(file->path);
        putchar('\n');
    }
}

static void print_context(uint64_t tokens, const char *how)
{
    char number[KVF_NUMBER_BYTES];
    printf("  %11s tokens %s\n", tokens ? kvf_show_count(tokens, number) : "no", how);
}

static void print_fitting(const inspection *i)
{
    char memory[KVF_NUMBER_BYTES];
    if (!i->has_config || i->memory_bytes == 0)
        return;
    printf("largest context of %s in %s of memory\n",
           kvf_profile_get(i->options->engine.profile)->name,
           kvf_show_bytes(i->memory_bytes, memory));
    print_context(i->largest_beside, "with all weights in memory");
    print_context(i->largest_from_disk, "with weights read from the disk as they are needed");
}

static void print_faults(const inspection *i)
{
    const kvf_tensor *tensor;
    char count[KVF_NUMBER_BYTES];
    uint32_t shown = 0;
    for (uint32_t n = 0; i->check.n_faults && (tensor = kvf_tensor_set_at(i->files, n)); n++) {
        if (i->check.n_faults[n] == 0 || shown++ >= MAX_SHOWN_FAULTS)
            continue;
        printf("%s: %s %s, in ", kvf_printable(tensor->name).text,
               kvf_show_count(i->check.n_faults[n], count), kvf_tensor_check_what(tensor));
        cli_put_path(tensor->file);
        putchar('\n');
    }
    if (shown > MAX_SHOWN_FAULTS)
        printf("and %u tensors more\n", shown - MAX_SHOWN_FAULTS);
    if (i->check.n_faults && i->n_faulty == 0)
        printf("checked: every value and scale is a number\n");
}

static void print_sums(const inspection *i)
{
    const kvf_tensor_file *file;
    if (i->fingerprint)
        printf("fingerprint %016llx\n", (unsigned long long)i->fingerprint);
    if (i->full_sum)
        printf("sum of all weights %016llx\n", (unsigned long long)i->full_sum);
    for (uint32_t n = 0; i->check.sha256 && (file = kvf_tensor_set_file(i->files, n)); n++) {
        printf("%s  ", i->check.sha256[n]);
        cli_put_path(file->path);
        putchar('\n');
    }
}

static int print_report(const inspection *i)
{
    char bytes[KVF_NUMBER_BYTES];
    cli_put_path(i->options->engine.model);
    printf(": %s", container_name(i));
    if (i->architecture[0])
        printf(", %s", i->architecture);
    if (i->name[0])
        printf(", \"%s\"", i->name);
    printf(", %u file%s, %s\n", i->weights.n_files, i->weights.n_files == 1 ? "" : "s",
           kvf_show_bytes(i->weights.mapped_bytes, bytes));
    if (i->has_config)
        print_geometry(i);
    putchar('\n');
    const int status = cli_weights_print("inspect", &i->weights);
    putchar('\n');
    if (i->has_config)
        print_use(i);
    print_skipped(i);
    print_fitting(i);
    print_faults(i);
    print_sums(i);
    if (i->refused.status == KVF_OK)
        printf("runs here\n");
    else if (i->token.n_unusable > 1)
        printf("does not run; %u weights are missing or refused\n", i->token.n_unusable);
    else
        printf("does not run\n");
    return status;
}

/* ---- For machines ---------------------------------------------------------------------------- */

/* Hands the parts over to a list, which is NULL where memory ran out. */
static cJSON *add_entry(cJSON *list, cli_record *entry)
{
    if (list && !entry->failed && cJSON_AddItemToArray(list, entry->object))
        return list;
    cli_record_free(entry);
    cJSON_Delete(list);
    return NULL;
}

static cJSON *skipped_list(const inspection *i)
{
    cJSON *list = cJSON_CreateArray();
    for (int kind = 0; kind < CLI_SKIPPED_KINDS && list; kind++) {
        const cli_tensors *skipped = &i->weights.skipped[kind];
        if (skipped->n == 0)
            continue;
        cli_record entry = cli_record_new();
        cli_record_text(&entry, "what", cli_skipped_name((cli_skipped)kind));
        cli_record_count(&entry, "tensors", skipped->n);
        cli_record_count(&entry, "bytes", skipped->bytes);
        list = add_entry(list, &entry);
    }
    return list;
}

static cJSON *surplus_list(const inspection *i)
{
    cJSON *list = cJSON_CreateArray();
    const kvf_tensor_file *file;
    for (uint32_t n = 0; list && (file = kvf_tensor_set_file(i->files, n)); n++) {
        if (file->surplus_bytes == 0)
            continue;
        cli_record entry = cli_record_new();
        cli_record_text(&entry, "file", file->path);
        cli_record_count(&entry, "bytes", file->surplus_bytes);
        list = add_entry(list, &entry);
    }
    return list;
}

static cJSON *fault_list(const inspection *i)
{
    cJSON *list = cJSON_CreateArray();
    const kvf_tensor *tensor;
    for (uint32_t n = 0; list && (tensor = kvf_tensor_set_at(i->files, n)); n++) {
        if (i->check.n_faults[n] == 0)
            continue;
        cli_record entry = cli_record_new();
        cli_record_text(&entry, "tensor", tensor->name);
        cli_record_text(&entry, "file", tensor->file);
        cli_record_count(&entry, "count", i->check.n_faults[n]);
        cli_record_text(&entry, "what", kvf_tensor_check_what(tensor));
        list = add_entry(list, &entry);
    }
    return list;
}

static cJSON *sha256_list(const inspection *i)
{
    cJSON *list = cJSON_CreateArray();
    const kvf_tensor_file *file;
    for (uint32_t n = 0; list && (file = kvf_tensor_set_file(i->files, n)); n++) {
        cli_record entry = cli_record_new();
        cli_record_text(&entry, "file", file->path);
        cli_record_text(&entry, "sha256", i->check.sha256[n]);
        list = add_entry(list, &entry);
    }
    return list;
}

static cJSON *geometry_object(const kvf_model_config *config)
{
    static const char *const kinds[] = {"window", "csa", "hca"};
    const kvf_geometry *geometry = &config->geometry;
    cli_record object = cli_record_new();
    cJSON *layers = cJSON_CreateArray();
    for (uint32_t n = 0; layers && n < geometry->n_layers; n++)
        cJSON_AddItemToArray(layers, cJSON_CreateString(kinds[geometry->layers[n].kind]));
    cli_record_list(&object, "layers", layers);
    cli_record_count(&object, "hidden", config->hidden);
    cli_record_count(&object, "heads", geometry->n_heads);
    cli_record_count(&object, "q_rank", config->q_rank);
    cli_record_count(&object, "experts", config->n_experts);
    cli_record_count(&object, "experts_used", config->n_experts_used);
    cli_record_count(&object, "shared_experts", config->n_shared_experts);
    cli_record_count(&object, "expert_width", config->expert_ffn);
    cli_record_count(&object, "top_k", geometry->top_k);
    cli_record_count(&object, "vocabulary", geometry->vocab);
    cli_record_count(&object, "ctx", geometry->max_tokens);
    if (object.failed) {
        cli_record_free(&object);
        return NULL;
    }
    return object.object;
}

static cJSON *token_object(const kvf_token_bytes *token)
{
    cli_record object = cli_record_new();
    cli_record_count(&object, "layers", token->layers);
    cli_record_count(&object, "experts", token->experts);
    cli_record_count(&object, "head", token->head);
    cli_record_count(&object, "total", token_total(token));
    if (object.failed) {
        cli_record_free(&object);
        return NULL;
    }
    return object.object;
}

/* null where there is no text. */
static void add_text(cli_record *record, const char *key, const char *text)
{
    if (text[0])
        cli_record_text(record, key, text);
    else
        cli_record_list(record, key, cJSON_CreateNull());
}

static void add_sum(cli_record *record, const char *key, uint64_t sum)
{
    char text[20] = "";
    if (sum)
        snprintf(text, sizeof text, "%016llx", (unsigned long long)sum);
    add_text(record, key, text);
}

static void add_answers(const inspection *i, cli_record *record)
{
    if (i->memory_bytes) {
        cli_record_count(record, "memory_bytes", i->memory_bytes);
        cli_record_count(record, "largest_ctx", i->largest_beside);
        cli_record_count(record, "largest_ctx_from_disk", i->largest_from_disk);
    }
    if (i->check.n_faults) {
        cli_record_list(record, "faults", fault_list(i));
        add_sum(record, "fingerprint", i->fingerprint);
        add_sum(record, "full_sum", i->full_sum);
    }
    if (i->check.sha256)
        cli_record_list(record, "sha256", sha256_list(i));
}

static int print_object(const inspection *i)
{
    cli_record record = cli_record_new();
    cli_record_text(&record, "path", i->options->engine.model);
    cli_record_text(&record, "container", container_name(i));
    add_text(&record, "architecture", i->architecture);
    add_text(&record, "name", i->name);
    cli_record_bool(&record, "runs", i->refused.status == KVF_OK);
    add_text(&record, "refused", i->refused.status == KVF_OK ? "" : i->refused.message);
    cli_record_count(&record, "files", i->weights.n_files);
    cli_record_count(&record, "mapped_bytes", i->weights.mapped_bytes);
    cli_record_count(&record, "tensors", i->weights.all.n);
    cli_record_count(&record, "tensor_bytes", i->weights.all.bytes);
    cli_record_list(&record, "types", cli_weights_list(&i->weights));
    cli_record_list(&record, "skipped", skipped_list(i));
    cli_record_list(&record, "surplus", surplus_list(i));
    cli_record_list(&record, "geometry",
                    i->has_config ? geometry_object(&i->config) : cJSON_CreateNull());
    cli_record_list(&record, "token_bytes",
                    i->has_config ? token_object(&i->token) : cJSON_CreateNull());
    cli_record_count(&record, "copied_bytes", i->weights.copied_bytes);
    add_answers(i, &record);
    return cli_record_print("inspect", &record, CLI_OUTPUT_JSON, false);
}

/* ---- The command ------------------------------------------------------------------------------
 */

static bool found_something(const inspection *i)
{
    return i->options->check_values && (i->n_faulty > 0 || i->weights.surplus_bytes > 0);
}

static int inspect(inspection *i)
{
    const cli_options *options = i->options;
    int status = look(i);
    if (status == CLI_EXIT_OK && (options->check_values || options->print_sha256))
        status = check_all(i);
    if (status == CLI_EXIT_OK)
        status = options->output == CLI_OUTPUT_JSON ? print_object(i) : print_report(i);
    if (status == CLI_EXIT_OK && i->refused.status != KVF_OK)
        return cli_error("inspect", "%s", i->refused.message);
    return status == CLI_EXIT_OK && found_something(i) ? CLI_EXIT_DIFFERENT : status;
}

int cli_inspect(const cli_options *options)
{
    if (options->print_sha256 && !cli_sha256_is_there())
        return cli_error("inspect", "--sha256: this build has no SHA-256; it is built with nettle "
                                    "(Debian: nettle-dev)");
    inspection *i = calloc(1, sizeof *i);
    if (!i)
        return cli_error("inspect", "out of memory");
    i->options = options;
    const int status = inspect(i);
    cli_check_free(&i->check);
    kvf_device_close(i->device);
    cli_lost_files_forget(&i->files);
    kvf_tensor_set_close(i->files);
    free(i);
    return status;
}
