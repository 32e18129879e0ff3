/*
 * A GGUF, whole or split. The first byte of the input says which: 0, and the file follows;
 * anything else, and two bytes of length, the first part and the second part follow.
 * Opening either fails with a reason, or gives metadata and tensors that lie inside of the
 * file, each found by its name, no two of them over each other. So does reading a config
 * from it, and finding the weights that the config asks for.
 */
#include "fuzz.h"

#include "file/metadata.h"
#include "model/weight_source.h"
#include "text/encoder.h"

enum { MAX_WALKED_TENSORS = 2000 };

static const char *write_files(const uint8_t *data, size_t bytes)
{
    size_t first = 0;
    if (bytes < 1 || data[0] == 0) {
        fuzz_write("x.gguf", (fuzz_part){data + (bytes > 0), bytes > 0 ? bytes - 1 : 0});
        return "x.gguf";
    }
    if (bytes >= 3)
        first = (size_t)data[1] | (size_t)data[2] << 8;
    data += bytes < 3 ? bytes : 3;
    bytes -= bytes < 3 ? bytes : 3;
    first = first < bytes ? first : bytes;
    fuzz_write("x-00001-of-00002.gguf", (fuzz_part){data, first});
    fuzz_write("x-00002-of-00002.gguf", (fuzz_part){data + first, bytes - first});
    return "x-00002-of-00002.gguf";
}

static void check_metadata(const kvf_tensor_set *set)
{
    const kvf_metadata *entry;
    const kvf_metadata *previous = NULL;
    for (uint32_t i = 0; (entry = kvf_tensor_set_metadata_at(set, i)); i++) {
        uint64_t n_texts = 0;
        uint64_t at = 0;
        kvf_text text;
        FUZZ_REQUIRE(!previous || strcmp(previous->key, entry->key) < 0);
        FUZZ_REQUIRE(kvf_tensor_set_metadata(set, entry->key) == entry);
        FUZZ_REQUIRE(entry->is_array || entry->n_values == 1);
        for (uint64_t j = 0; j < entry->n_values; j++) {
            uint64_t number;
            double real;
            bool truth;
            const int classes = kvf_metadata_u64(entry, j, &number) +
                                kvf_metadata_f64(entry, j, &real) +
                                kvf_metadata_bool(entry, j, &truth);
            FUZZ_REQUIRE(classes <= 1);
            FUZZ_REQUIRE(classes == 0 || entry->type != KVF_VALUE_TEXT);
        }
        for (; kvf_metadata_text(entry, &at, &text); n_texts++)
            fuzz_touch(text.data, text.bytes);
        FUZZ_REQUIRE(n_texts == (entry->type == KVF_VALUE_TEXT ? entry->n_values : 0));
        FUZZ_REQUIRE(strlen(kvf_metadata_show(entry).text) > 0);
        fuzz_touch(entry->data, entry->bytes);
        previous = entry;
    }
}

/* Bytes of the shape, counted apart from the reader. */
static fuzz_wide bytes_of(const kvf_tensor *tensor)
{
    const kvf_stored_info *type = kvf_stored_info_of(tensor->type);
    fuzz_wide rows = 1;
    FUZZ_REQUIRE(tensor->n_dims >= 1 && tensor->n_dims <= 4);
    for (uint32_t i = 0; i + 1 < tensor->n_dims; i++)
        rows *= tensor->shape[i];
    const uint64_t row_values = tensor->shape[tensor->n_dims - 1];
    FUZZ_REQUIRE(rows * row_values > 0 && rows * row_values <= INT64_MAX);
    FUZZ_REQUIRE(row_values % type->block_values == 0 && type->ggml_id >= 0);
    return rows * (row_values / type->block_values) * type->block_bytes;
}

static void check_tensors(const kvf_tensor_set *set)
{
    const kvf_tensor *tensor;
    const kvf_tensor *other;
    const kvf_tensor *previous = NULL;
    for (uint32_t i = 0; (tensor = kvf_tensor_set_at(set, i)); i++) {
        const kvf_file *file = &kvf_tensor_set_file(set, tensor->file_index)->map;
        const uint64_t begin = (uint64_t)((const char *)tensor->data - (const char *)file->data);
        FUZZ_REQUIRE(tensor->bytes == bytes_of(tensor));
        FUZZ_REQUIRE(begin < file->bytes && tensor->bytes <= file->bytes - begin);
        FUZZ_REQUIRE(!previous || strcmp(previous->name, tensor->name) < 0);
        FUZZ_REQUIRE(kvf_tensor_set_find(set, tensor->name) == tensor);
        for (uint32_t j = 0; j < i && j < 64; j++) {
            other = kvf_tensor_set_at(set, j);
            FUZZ_REQUIRE((const char *)other->data + other->bytes <= (const char *)tensor->data ||
                         (const char *)tensor->data + tensor->bytes <= (const char *)other->data);
        }
        fuzz_touch(tensor->data, tensor->bytes);
        previous = tensor;
    }
    FUZZ_REQUIRE(!kvf_tensor_set_find(set, "no such tensor"));
}

static kvf_status locate(void *user, const kvf_weight *weight)
{
    const kvf_tensor_set *set = user;
    kvf_weight_place place;
    kvf_error error;
    const kvf_status status = kvf_weight_locate(set, "x", weight, &place, &error);
    fuzz_check_error(status, &error);
    if (status == KVF_OK) {
        const char *begin = place.tensor->data;
        const char *end = begin + place.tensor->bytes;
        FUZZ_REQUIRE((const char *)place.data >= begin &&
                     place.bytes <= (uint64_t)(end - (const char *)place.data));
        FUZZ_REQUIRE(weight->kind != KVF_TENSOR_MATRIX ||
                     (fuzz_wide)place.matrix.row_bytes * place.matrix.rows == place.bytes);
    }
    return KVF_OK;
}

static void check_config(kvf_tensor_set *set)
{
    kvf_model_config config;
    kvf_error error;
    const kvf_status status = kvf_config_from_gguf(set, &config, &error);
    fuzz_check_error(status, &error);
    FUZZ_REQUIRE(status == KVF_OK || status == KVF_FILE_FORMAT || status == KVF_UNSUPPORTED);
    if (status == KVF_OK &&
        (uint64_t)config.geometry.n_layers * config.n_experts <= MAX_WALKED_TENSORS)
        FUZZ_REQUIRE(kvf_weight_walk(&config, NULL, locate, set) == KVF_OK);
}

/* A tokenizer that is read encodes every byte. */
static void check_tokenizer(const kvf_tensor_set *set)
{
    enum { ROWS = 300 };
    kvf_tokenizer *tokenizer;
    kvf_encoder *encoder;
    kvf_error error;
    kvf_ids ids = {.n = 0};
    const kvf_status status = kvf_tokenizer_open(set, ROWS, &tokenizer, &error);
    fuzz_check_error(status, &error);
    FUZZ_REQUIRE((status == KVF_OK) == (tokenizer != NULL));
    if (status != KVF_OK)
        return;
    FUZZ_REQUIRE(kvf_encoder_open(tokenizer, &encoder, &error) == KVF_OK);
    for (int byte = 0; byte < 256; byte++) {
        const char text[2] = {(char)byte, (char)byte};
        ids.n = 0;
        FUZZ_REQUIRE(kvf_encode_text(encoder, text, 2, byte % 2, &ids, &error) == KVF_OK);
        FUZZ_REQUIRE(ids.n == 1 || ids.n == 2);
        FUZZ_REQUIRE(ids.ids[0] >= 0 && ids.ids[0] < ROWS);
    }
    kvf_ids_free(&ids);
    kvf_encoder_close(encoder);
    kvf_tokenizer_close(tokenizer);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    char path[256];
    kvf_error error;
    kvf_tensor_set *set;
    snprintf(path, sizeof path, "%s/%s", fuzz_folder(), write_files(data, bytes));
    const kvf_status status = kvf_tensor_set_open(path, &set, &error);
    fuzz_check_error(status, &error);
    if (status != KVF_OK) {
        FUZZ_REQUIRE((status == KVF_FILE_FORMAT || status == KVF_UNSUPPORTED) && !set);
        return 0;
    }
    FUZZ_REQUIRE(kvf_tensor_set_container(set) == KVF_CONTAINER_GGUF);
    check_metadata(set);
    check_tensors(set);
    check_config(set);
    check_tokenizer(set);
    kvf_tensor_set_close(set);
    return 0;
}
