#include "error.h"
#include "file/json.h"
#include "file/set_build.h"

#include <stdlib.h>
#include <string.h>

/* The format's own limit. A file starts with the header's length, 8 bytes little endian. */
#define MAX_HEADER_BYTES KVF_JSON_MAX_BYTES
#define LENGTH_BYTES 8

/* ---- One tensor's header entry ------------------------------------------------ */

static kvf_status read_dtype(const cJSON *entry, kvf_tensor *tensor, kvf_error *error)
{
    const cJSON *item = kvf_json_get(entry, "dtype");
    if (!cJSON_IsString(item))
        return kvf_set_fail_tensor(tensor, "has no \"dtype\" that is a string", error);
    if (!kvf_stored_type_by_dtype(item->valuestring, &tensor->type))
        return kvf_fail(error, KVF_FILE_FORMAT, "%s: tensor \"%s\": unknown dtype %s",
                        kvf_printable(tensor->file).text, kvf_printable(tensor->name).text,
                        kvf_json_show(item).text);
    return KVF_OK;
}

/* Reads the shape; *elements is its product (1 for a scalar). */
static kvf_status read_shape(const cJSON *entry, kvf_tensor *tensor, uint64_t *elements,
                             kvf_error *error)
{
    const cJSON *shape = kvf_json_get(entry, "shape");
    if (!cJSON_IsArray(shape))
        return kvf_set_fail_tensor(tensor, "has no \"shape\" that is an array", error);
    *elements = 1;
    bool overflow = false;
    for (const cJSON *item = shape->child; item; item = item->next) {
        uint64_t dim = 0;
        if (!kvf_json_u64(item, &dim))
            return kvf_fail(error, KVF_FILE_FORMAT,
                            "%s: tensor \"%s\": a dimension is %s; whole numbers below 2^53 only",
                            kvf_printable(tensor->file).text, kvf_printable(tensor->name).text,
                            kvf_json_show(item).text);
        if (tensor->n_dims == KVF_TENSOR_DIMS)
            return kvf_set_fail_tensor(tensor, "has more than 8 dimensions", error);
        tensor->shape[tensor->n_dims++] = dim;
        overflow |= __builtin_mul_overflow(*elements, dim, elements);
    }
    return overflow ? kvf_set_fail_tensor(tensor, "the product of its shape overflows", error)
                    : KVF_OK;
}

static kvf_status read_offsets(const cJSON *entry, kvf_tensor *tensor, uint64_t *begin,
                               uint64_t *end, kvf_error *error)
{
    const cJSON *offsets = kvf_json_get(entry, "data_offsets");
    if (!cJSON_IsArray(offsets) || cJSON_GetArraySize(offsets) != 2 ||
        !kvf_json_u64(offsets->child, begin) || !kvf_json_u64(offsets->child->next, end))
        return kvf_set_fail_tensor(tensor, "\"data_offsets\" must be two whole numbers below 2^53",
                                   error);
    if (*begin > *end)
        return kvf_set_fail_tensor(tensor, "its data ends before it begins", error);
    return KVF_OK;
}

/* One entry of the header into *tensor; data is [data_bytes], what follows the header. */
static kvf_status read_tensor(const cJSON *entry, const unsigned char *data, uint64_t data_bytes,
                              kvf_tensor *tensor, kvf_error *error)
{
    if (!cJSON_IsObject(entry))
        return kvf_set_fail_tensor(tensor, "its header entry is not an object", error);
    uint64_t elements = 0;
    uint64_t bytes = 0;
    uint64_t begin = 0;
    uint64_t end = 0;
    kvf_status status = read_dtype(entry, tensor, error);
    if (status == KVF_OK)
        status = read_shape(entry, tensor, &elements, error);
    if (status == KVF_OK)
        status = read_offsets(entry, tensor, &begin, &end, error);
    if (status != KVF_OK)
        return status;
    const kvf_stored_info *type = kvf_stored_info_of(tensor->type);
    if (elements % type->block_values != 0 ||
        __builtin_mul_overflow(elements / type->block_values, (uint64_t)type->block_bytes, &bytes))
        return kvf_set_fail_tensor(tensor, "its shape times its dtype is not a number of bytes",
                                   error);
    if (end - begin != bytes)
        return kvf_fail(error, KVF_FILE_FORMAT,
                        "%s: tensor \"%s\": %llu bytes of data, but shape and dtype %s need %llu",
                        kvf_printable(tensor->file).text, kvf_printable(tensor->name).text,
                        (unsigned long long)(end - begin), type->name, (unsigned long long)bytes);
    if (end > data_bytes)
        return kvf_fail(error, KVF_FILE_FORMAT,
                        "%s: is truncated: tensor \"%s\" ends at byte %llu of the data, "
                        "the file has %llu",
                        kvf_printable(tensor->file).text, kvf_printable(tensor->name).text,
                        (unsigned long long)end, (unsigned long long)data_bytes);
    tensor->data = data + begin;
    tensor->bytes = end - begin;
    return KVF_OK;
}

/* ---- One shard ---------------------------------------------------------------- */

/* The tensors from number `first` on must cover the data of their file exactly once. */
static kvf_status check_cover(kvf_tensor_set *set, size_t first, const kvf_tensor_file *file,
                              uint64_t header_bytes, kvf_error *error)
{
    const char *end = (const char *)file->map.data + LENGTH_BYTES + header_bytes;
    kvf_status status = kvf_set_check_overlap(set, first, error);
    if (status != KVF_OK)
        return status;
    for (size_t i = first; i < set->n_tensors; i++) {
        const char *begin = set->tensors[i].data;
        if (begin > end)
            return kvf_fail(error, KVF_FILE_FORMAT,
                            "%s: %zu bytes before the data of \"%s\" belong to no tensor",
                            kvf_printable(file->path).text, (size_t)(begin - end),
                            kvf_printable(set->tensors[i].name).text);
        end = begin + set->tensors[i].bytes;
    }
    size_t left = (size_t)((const char *)file->map.data + file->map.bytes - end);
    if (left > 0)
        return kvf_fail(error, KVF_FILE_FORMAT, "%s: the last %zu bytes belong to no tensor",
                        kvf_printable(file->path).text, left);
    return KVF_OK;
}

static kvf_status check_metadata(const cJSON *metadata, const char *path, kvf_error *error)
{
    bool valid = cJSON_IsObject(metadata);
    for (const cJSON *item = valid ? metadata->child : NULL; item; item = item->next)
        valid = valid && cJSON_IsString(item);
    return valid ? KVF_OK
                 : kvf_fail(error, KVF_FILE_FORMAT, "%s: \"__metadata__\" must map names to texts",
                            kvf_printable(path).text);
}

/* Appends the tensors of a parsed header. */
static kvf_status add_tensors(kvf_tensor_set *set, const kvf_tensor_file *file, const cJSON *header,
                              uint64_t header_bytes, kvf_error *error)
{
    const unsigned char *data = (const unsigned char *)file->map.data + LENGTH_BYTES + header_bytes;
    const uint64_t data_bytes = file->map.bytes - LENGTH_BYTES - header_bytes;
    const size_t first = set->n_tensors;
    for (const cJSON *entry = header->child; entry; entry = entry->next) {
        kvf_tensor *tensor;
        kvf_status status;
        if (strcmp(entry->string, "__metadata__") == 0) {
            status = check_metadata(entry, file->path, error);
        } else {
            status = kvf_set_add(set, file, entry->string, strlen(entry->string), &tensor, error);
            if (status == KVF_OK)
                status = read_tensor(entry, data, data_bytes, tensor, error);
        }
        if (status != KVF_OK)
            return status;
    }
    return check_cover(set, first, file, header_bytes, error);
}

static kvf_status check_header_length(const kvf_tensor_file *file, uint64_t *header_bytes,
                                      kvf_error *error)
{
    const unsigned char *start = file->map.data;
    uint64_t file_bytes = file->map.bytes;
    if (file_bytes < LENGTH_BYTES)
        return kvf_fail(error, KVF_FILE_FORMAT,
                        "%s: has %llu bytes; a safetensors file starts with 8 bytes of length",
                        kvf_printable(file->path).text, (unsigned long long)file_bytes);
    uint64_t bytes = 0;
    for (int i = LENGTH_BYTES - 1; i >= 0; i--)
        bytes = bytes << 8 | start[i];
    if (bytes > MAX_HEADER_BYTES)
        return kvf_fail(
            error, KVF_FILE_FORMAT,
            "%s: a header of %llu bytes; the format allows %d (not a safetensors file?)",
            kvf_printable(file->path).text, (unsigned long long)bytes, MAX_HEADER_BYTES);
    if (bytes > file_bytes - LENGTH_BYTES)
        return kvf_fail(error, KVF_FILE_FORMAT,
                        "%s: is truncated: a header of %llu bytes in a file of %llu",
                        kvf_printable(file->path).text, (unsigned long long)bytes,
                        (unsigned long long)file_bytes);
    *header_bytes = bytes;
    return KVF_OK;
}

/* Takes over path (NULL: out of memory) as the next file, and adds its tensors. */
static kvf_status add_shard(kvf_tensor_set *set, char *path, kvf_error *error)
{
    uint64_t header_bytes = 0;
    cJSON *header = NULL;
    kvf_tensor_file *file = NULL;
    kvf_status status = kvf_set_map(set, path, &file, error);
    if (status == KVF_OK)
        status = check_header_length(file, &header_bytes, error);
    if (status == KVF_OK)
        status = kvf_json_parse((const char *)file->map.data + LENGTH_BYTES, header_bytes,
                                file->path, &header, error);
    if (status == KVF_OK)
        status = add_tensors(set, file, header, header_bytes, error);
    if (header)
        kvf_file_advise(file->map.data, LENGTH_BYTES + header_bytes, KVF_ADVICE_DONE);
    cJSON_Delete(header);
    return status;
}

kvf_status kvf_safetensors_read(kvf_tensor_set *set, const char *path, kvf_error *error)
{
    kvf_status status = kvf_set_reserve_files(set, 1, error);
    if (status == KVF_OK)
        status = add_shard(set, strdup(path), error);
    return status == KVF_OK ? kvf_set_sort_names(set, error) : status;
}

/* ---- The index file ------------------------------------------------------------- */

static int compare_entry_keys(const void *a, const void *b)
{
    return strcmp((*(const cJSON *const *)a)->string, (*(const cJSON *const *)b)->string);
}

static int compare_entry_shards(const void *a, const void *b)
{
    return strcmp((*(const cJSON *const *)a)->valuestring, (*(const cJSON *const *)b)->valuestring);
}

/* Only a plain file name: the index must not lead out of its folder. */
static bool is_plain_name(const char *name)
{
    return *name && !strpbrk(name, "/\\") && strcmp(name, ".") != 0 && strcmp(name, "..") != 0;
}

/* The children of weight_map as an array of n (malloc'd), each checked. */
static kvf_status list_entries(const cJSON *weight_map, const char *index, const cJSON ***list,
                               size_t *n, kvf_error *error)
{
    *n = (size_t)cJSON_GetArraySize(weight_map);
    const cJSON **entries = calloc(*n + 1, sizeof *entries);
    if (!entries)
        return kvf_fail(error, KVF_OUT_OF_MEMORY, "%s: no memory for %zu entries",
                        kvf_printable(index).text, *n);
    *list = entries;
    size_t i = 0;
    for (const cJSON *entry = weight_map->child; entry; entry = entry->next) {
        if (!cJSON_IsString(entry) || !is_plain_name(entry->valuestring))
            return kvf_fail(error, KVF_FILE_FORMAT,
                            "%s: tensor \"%s\" is in %s; a plain file name was expected",
                            kvf_printable(index).text, kvf_printable(entry->string).text,
                            kvf_json_show(entry).text);
        entries[i++] = entry;
    }
    return KVF_OK;
}

/* Loads every shard that the entries name, in order of name. Sorts the entries so. */
static kvf_status load_named_shards(kvf_tensor_set *set, const cJSON **entries, size_t n,
                                    const char *dir, const char *index, kvf_error *error)
{
    qsort(entries, n, sizeof *entries, compare_entry_shards);
    size_t n_shards = 0;
    for (size_t i = 0; i < n; i++)
        n_shards += i == 0 || compare_entry_shards(&entries[i - 1], &entries[i]) != 0;
    kvf_status status = kvf_set_reserve_files(set, n_shards + 1, error);
    for (size_t i = 0; i < n && status == KVF_OK; i++) {
        if (i > 0 && compare_entry_shards(&entries[i - 1], &entries[i]) == 0)
            continue;
        const char *name = entries[i]->valuestring;
        status = add_shard(set, kvf_path_join(dir, name), error);
        if (status == KVF_FILE_NOT_FOUND)
            return kvf_fail(error, KVF_FILE_FORMAT,
                            "%s/%s: no such file, but %s says it holds \"%s\"",
                            kvf_printable(dir).text, kvf_printable(name).text,
                            kvf_printable(index).text, kvf_printable(entries[i]->string).text);
    }
    return status;
}

/* The index and the shards must name the same tensors in the same shards. */
static kvf_status check_entries(const kvf_tensor_set *set, const cJSON **entries, size_t n,
                                const char *index, kvf_error *error)
{
    qsort(entries, n, sizeof *entries, compare_entry_keys);
    size_t at = 0;
    for (size_t i = 0; i < set->n_tensors; i++) {
        const kvf_tensor *tensor = &set->tensors[i];
        int order = at < n ? strcmp(entries[at]->string, tensor->name) : 1;
        if (order < 0)
            break;
        if (order > 0)
            return kvf_fail(error, KVF_FILE_FORMAT, "%s: tensor \"%s\" of %s is not in the index",
                            kvf_printable(index).text, kvf_printable(tensor->name).text,
                            kvf_printable(tensor->file).text);
        const char *file = strrchr(tensor->file, '/') + 1;
        if (strcmp(entries[at]->valuestring, file) != 0)
            return kvf_fail(error, KVF_FILE_FORMAT,
                            "%s: tensor \"%s\" is said to be in %s, but is in %s",
                            kvf_printable(index).text, kvf_printable(tensor->name).text,
                            kvf_printable(entries[at]->valuestring).text, kvf_printable(file).text);
        at++;
    }
    if (at < n)
        return kvf_fail(error, KVF_FILE_FORMAT, "%s: tensor \"%s\" is not in %s nor elsewhere",
                        kvf_printable(index).text, kvf_printable(entries[at]->string).text,
                        kvf_printable(entries[at]->valuestring).text);
    return KVF_OK;
}

kvf_status kvf_safetensors_read_index(kvf_tensor_set *set, const char *dir, const char *index,
                                      const kvf_file *file, kvf_error *error)
{
    cJSON *json = NULL;
    const cJSON **entries = NULL;
    size_t n = 0;
    kvf_status status = kvf_json_parse(file->data, file->bytes, index, &json, error);
    if (status != KVF_OK)
        return status;
    kvf_file_advise(file->data, file->bytes, KVF_ADVICE_DONE);
    const cJSON *weight_map = kvf_json_get(json, "weight_map");
    if (!cJSON_IsObject(weight_map))
        status = kvf_fail(error, KVF_FILE_FORMAT, "%s: has no \"weight_map\" that is an object",
                          kvf_printable(index).text);
    if (status == KVF_OK)
        status = list_entries(weight_map, index, &entries, &n, error);
    if (status == KVF_OK)
        status = load_named_shards(set, entries, n, dir, index, error);
    if (status == KVF_OK)
        status = kvf_set_sort_names(set, error);
    if (status == KVF_OK)
        status = check_entries(set, entries, n, index, error);
    free(entries);
    cJSON_Delete(json);
    return status;
}
