#include "cli/weights.h"

#include <stdio.h>
#include <string.h>

#include "cli/message.h"
#include "engine/amounts.h"
#include "model/weight_source.h"

/* ---- Counting ------------------------------------------------------------------------- */

static bool begins_with(const char *text, const char *prefix)
{
    return strncmp(text, prefix, strlen(prefix)) == 0;
}

static cli_skipped kind_of(const char *name)
{
    if (begins_with(name, "model."))
        name += strlen("model.");
    if (begins_with(name, "mtp."))
        return CLI_SKIPPED_MTP;
    return begins_with(name, "dspark.") ? CLI_SKIPPED_DSPARK : CLI_SKIPPED_LAYERS;
}

static void add(cli_tensors *tensors, uint64_t bytes)
{
    tensors->n++;
    tensors->bytes += bytes;
}

void cli_weights_count(const kvf_tensor_set *files, const kvf_model_config *config,
                       bool takes_stored_weights, cli_weights *weights)
{
    const kvf_tensor *tensor;
    const kvf_tensor_file *file;
    memset(weights, 0, sizeof *weights);
    for (uint32_t i = 0; (tensor = kvf_tensor_set_at(files, i)); i++) {
        add(&weights->types[tensor->type], tensor->bytes);
        add(&weights->all, tensor->bytes);
        if (config && kvf_weight_is_ignored(config, tensor->name))
            add(&weights->skipped[kind_of(tensor->name)], tensor->bytes);
    }
    for (; (file = kvf_tensor_set_file(files, weights->n_files)); weights->n_files++)
        weights->surplus_bytes += file->surplus_bytes;
    weights->mapped_bytes = kvf_tensor_set_mapped_bytes(files);
    if (config)
        weights->copied_bytes = kvf_model_weight_bytes(config, takes_stored_weights);
}

void cli_weights_of_v4_flash(const kvf_model_config *config, bool takes_stored_weights,
                             cli_weights *weights)
{
    /*
     * Names, shapes and types of the release: 43 layers and one that predicts a further token.
     * Headers, about 111 bytes a tensor, are not in it. tests/cli/test_plan.py adds them up.
     */
    static const struct {
        kvf_stored_type type;
        cli_tensors all;
    } types[] = {
        {KVF_STORED_BF16, {433, 2830518528}},    {KVF_STORED_F32, {417, 144672072}},
        {KVF_STORED_F8_E4M3, {375, 6023020544}}, {KVF_STORED_F8_E8M0, {34167, 8858737664}},
        {KVF_STORED_I64, {3, 18616320}},         {KVF_STORED_I8, {33792, 141733920768}},
    };
    memset(weights, 0, sizeof *weights);
    for (size_t i = 0; i < sizeof types / sizeof *types; i++) {
        weights->types[types[i].type] = types[i].all;
        weights->all.n += types[i].all.n;
        weights->all.bytes += types[i].all.bytes;
    }
    weights->skipped[CLI_SKIPPED_MTP] = (cli_tensors){1575, 3593787756};
    weights->mapped_bytes = weights->all.bytes;
    weights->copied_bytes = kvf_model_weight_bytes(config, takes_stored_weights);
}

const char *cli_skipped_name(cli_skipped kind)
{
    static const char *const names[] = {[CLI_SKIPPED_MTP] = "mtp",
                                        [CLI_SKIPPED_DSPARK] = "dspark",
                                        [CLI_SKIPPED_LAYERS] = "layers past the last"};
    return names[kind];
}

/* ---- Printing ------------------------------------------------------------------------- */

static bool add_row(cli_table *table, const char *name, const cli_tensors *tensors)
{
    char number[KVF_NUMBER_BYTES];
    char(*cells)[CLI_CELL_BYTES] = cli_table_row(table);
    if (!cells)
        return false;
    snprintf(cells[0], CLI_CELL_BYTES, "%s", name);
    strcpy(cells[1], kvf_show_count(tensors->n, number));
    strcpy(cells[2], kvf_show_count(tensors->bytes, number));
    strcpy(cells[3], kvf_show_bytes(tensors->bytes, number));
    return true;
}

int cli_weights_print(const char *command, const cli_weights *weights)
{
    static const cli_column columns[] = {
        {"stored as", 10, true}, {"tensors", 8, false}, {"bytes", 15, false}, {"", 8, false}};
    cli_table table;
    bool enough = true;
    cli_table_start(&table, columns, sizeof columns / sizeof *columns);
    for (int i = 0; i < KVF_STORED_COUNT && enough; i++)
        if (weights->types[i].n > 0)
            enough =
                add_row(&table, kvf_stored_info_of((kvf_stored_type)i)->name, &weights->types[i]);
    enough = enough && add_row(&table, "all", &weights->all);
    if (enough)
        cli_table_print(&table, true);
    cli_table_free(&table);
    return enough ? CLI_EXIT_OK : cli_error(command, "out of memory for a table");
}

cJSON *cli_weights_list(const cli_weights *weights)
{
    cJSON *list = cJSON_CreateArray();
    for (int i = 0; i < KVF_STORED_COUNT; i++) {
        if (weights->types[i].n == 0)
            continue;
        cli_record entry = cli_record_new();
        cli_record_text(&entry, "type", kvf_stored_info_of((kvf_stored_type)i)->name);
        cli_record_count(&entry, "tensors", weights->types[i].n);
        cli_record_count(&entry, "bytes", weights->types[i].bytes);
        if (entry.failed || !cJSON_AddItemToArray(list, entry.object)) {
            cli_record_free(&entry);
            cJSON_Delete(list);
            return NULL;
        }
    }
    return list;
}
