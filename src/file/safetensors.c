#include "file/safetensors.h"

#include "error.h"
#include "file/file.h"
#include "file/json.h"

#include <stdlib.h>
#include <string.h>

/* The format's own limit. A file starts with the header's length, 8 bytes little endian. */
#define MAX_HEADER_BYTES KVF_JSON_MAX_BYTES
#define LENGTH_BYTES 8

static const char index_name[] = "model.safetensors.index.json";
static const char single_name[] = "model.safetensors";

struct shard {
    char *path;
    kvf_file file;
    char *names; /* of its tensors, one after the other, NUL-terminated */
};

struct kvf_safetensors {
    struct shard *shards;
    size_t n_shards;
    kvf_tensor *tensors; /* in order of name */
    size_t n_tensors;
    size_t capacity;
};

/* ---- One tensor's header entry ------------------------------------------------ */

static const struct dtype_info {
    const char *name;
    kvf_dtype dtype;
    uint32_t bits;
} dtypes[] = {
    {"F32", KVF_DTYPE_F32, 32},      {"F16", KVF_DTYPE_F16, 16},
    {"BF16", KVF_DTYPE_BF16, 16},    {"I64", KVF_DTYPE_I64, 64},
    {"I32", KVF_DTYPE_I32, 32},      {"BOOL", KVF_DTYPE_OTHER, 8},
    {"U8", KVF_DTYPE_OTHER, 8},      {"I8", KVF_DTYPE_OTHER, 8},
    {"F8_E4M3", KVF_DTYPE_OTHER, 8}, {"F8_E5M2", KVF_DTYPE_OTHER, 8},
    {"F8_E8M0", KVF_DTYPE_OTHER, 8}, {"F8_E4M3FNUZ", KVF_DTYPE_OTHER, 8},
    {"F4", KVF_DTYPE_OTHER, 4},      {"F8_E5M2FNUZ", KVF_DTYPE_OTHER, 8},
    {"F6_E2M3", KVF_DTYPE_OTHER, 6}, {"F6_E3M2", KVF_DTYPE_OTHER, 6},
    {"I16", KVF_DTYPE_OTHER, 16},    {"U16", KVF_DTYPE_OTHER, 16},
    {"U32", KVF_DTYPE_OTHER, 32},    {"U64", KVF_DTYPE_OTHER, 64},
    {"F64", KVF_DTYPE_OTHER, 64},    {"C64", KVF_DTYPE_OTHER, 64},
};

static const struct dtype_info *find_dtype(const char *name)
{
    for (size_t i = 0; i < sizeof dtypes / sizeof *dtypes; i++)
        if (strcmp(dtypes[i].name, name) == 0)
            return &dtypes[i];
    return NULL;
}

/* "FILE: tensor "NAME": " and what is wrong with it. */
static kvf_status fail_tensor(const kvf_tensor *tensor, const char *what, kvf_error *error)
{
    return kvf_fail(error, KVF_FILE_FORMAT, "%s: tensor \"%s\": %s",
                    kvf_printable(tensor->file).text, kvf_printable(tensor->name).text, what);
}

static kvf_status read_dtype(const cJSON *entry, kvf_tensor *tensor, uint32_t *bits,
                             kvf_error *error)
{
    const cJSON *item = kvf_json_get(entry, "dtype");
    if (!cJSON_IsString(item))
        return fail_tensor(tensor, "has no \"dtype\" that is a string", error);
    const struct dtype_info *info = find_dtype(item->valuestring);
    if (!info)
        return kvf_fail(error, KVF_FILE_FORMAT, "%s: tensor \"%s\": unknown dtype %s",
                        kvf_printable(tensor->file).text, kvf_printable(tensor->name).text,
                        kvf_json_show(item).text);
    tensor->dtype = info->dtype;
    strcpy(tensor->dtype_name, info->name);
    *bits = info->bits;
    return KVF_OK;
}

/* Reads the shape; *elements is its product (1 for a scalar). */
static kvf_status read_shape(const cJSON *entry, kvf_tensor *tensor, uint64_t *elements,
                             kvf_error *error)
{
    const cJSON *shape = kvf_json_get(entry, "shape");
    const uint32_t max_dims = sizeof tensor->shape / sizeof *tensor->shape;
    if (!cJSON_IsArray(shape))
        return fail_tensor(tensor, "has no \"shape\" that is an array", error);
    *elements = 1;
    bool overflow = false;
    for (const cJSON *item = shape->child; item; item = item->next) {
        uint64_t dim = 0;
        if (!kvf_json_u64(item, &dim))
            return kvf_fail(error, KVF_FILE_FORMAT,
                            "%s: tensor \"%s\": a dimension is %s; whole numbers below 2^53 only",
                            kvf_printable(tensor->file).text, kvf_printable(tensor->name).text,
                            kvf_json_show(item).text);
        if (tensor->n_dims == max_dims)
            return fail_tensor(tensor, "has more than 8 dimensions", error);
        tensor->shape[tensor->n_dims++] = dim;
        overflow |= __builtin_mul_overflow(*elements, dim, elements);
    }
    return overflow ? fail_tensor(tensor, "the product of its shape overflows", error) : KVF_OK;
}

static kvf_status read_offsets(const cJSON *entry, kvf_tensor *tensor, uint64_t *begin,
                               uint64_t *end, kvf_error *error)
{
    const cJSON *offsets = kvf_json_get(entry, "data_offsets");
    if (!cJSON_IsArray(offsets) || cJSON_GetArraySize(offsets) != 2 ||
        !kvf_json_u64(offsets->child, begin) || !kvf_json_u64(offsets->child->next, end))
        return fail_tensor(tensor, "\"data_offsets\" must be two whole numbers below 2^53", error);
    if (*begin > *end)
        return fail_tensor(tensor, "its data ends before it begins", error);
    return KVF_OK;
}

/* One entry of the header into *tensor; data is [data_bytes], what follows the header. */
static kvf_status read_tensor(const cJSON *entry, const unsigned char *data, uint64_t data_bytes,
                              kvf_tensor *tensor, kvf_error *error)
{
    if (!cJSON_IsObject(entry))
        return fail_tensor(tensor, "its header entry is not an object", error);
    uint32_t bits = 0;
    uint64_t elements = 0;
    uint64_t all_bits = 0;
    uint64_t begin = 0;
    uint64_t end = 0;
    kvf_status status = read_dtype(entry, tensor, &bits, error);
    if (status == KVF_OK)
        status = read_shape(entry, tensor, &elements, error);
    if (status == KVF_OK)
        status = read_offsets(entry, tensor, &begin, &end, error);
    if (status != KVF_OK)
        return status;
    if (__builtin_mul_overflow(elements, (uint64_t)bits, &all_bits) || all_bits % 8 != 0)
        return fail_tensor(tensor, "its shape times its dtype is not a number of bytes", error);
    if (end - begin != all_bits / 8)
        return kvf_fail(error, KVF_FILE_FORMAT,
                        "%s: tensor \"%s\": %llu bytes of data, but shape and dtype %s need %llu",
                        kvf_printable(tensor->file).text, kvf_printable(tensor->name).text,
                        (unsigned long long)(end - begin), tensor->dtype_name,
                        (unsigned long long)(all_bits / 8));
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

static int compare_data(const void *a, const void *b)
{
    const kvf_tensor *x = a;
    const kvf_tensor *y = b;
    uintptr_t x_begin = (uintptr_t)x->data;
    uintptr_t y_begin = (uintptr_t)y->data;
    if (x_begin != y_begin)
        return x_begin < y_begin ? -1 : 1;
    if (x->bytes != y->bytes) /* an empty tensor comes before the one that starts there */
        return x->bytes < y->bytes ? -1 : 1;
    return strcmp(x->name, y->name);
}

/* The tensors of a shard must cover its data exactly once. Sorts them by offset. */
static kvf_status check_cover(kvf_tensor *tensors, size_t n, const unsigned char *data,
                              uint64_t data_bytes, const char *path, kvf_error *error)
{
    if (n > 0)
        qsort(tensors, n, sizeof *tensors, compare_data);
    const unsigned char *end = data;
    for (size_t i = 0; i < n; i++) {
        const unsigned char *begin = tensors[i].data;
        if (begin < end)
            return kvf_fail(error, KVF_FILE_FORMAT, "%s: the data of \"%s\" and \"%s\" overlap",
                            kvf_printable(path).text, kvf_printable(tensors[i - 1].name).text,
                            kvf_printable(tensors[i].name).text);
        if (begin > end)
            return kvf_fail(error, KVF_FILE_FORMAT,
                            "%s: %zu bytes before the data of \"%s\" belong to no tensor",
                            kvf_printable(path).text, (size_t)(begin - end),
                            kvf_printable(tensors[i].name).text);
        end = begin + tensors[i].bytes;
    }
    size_t left = (size_t)(data + data_bytes - end);
    if (left > 0)
        return kvf_fail(error, KVF_FILE_FORMAT, "%s: the last %zu bytes belong to no tensor",
                        kvf_printable(path).text, left);
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

/* Room for n more tensors at the end of files->tensors, and for the shard's names. */
static kvf_status reserve(kvf_safetensors *files, struct shard *shard, const cJSON *header,
                          kvf_error *error)
{
    size_t n = 0;
    size_t name_bytes = 1;
    for (const cJSON *entry = header->child; entry; entry = entry->next) {
        name_bytes += strlen(entry->string) + 1;
        n++;
    }
    size_t needed = files->n_tensors + n;
    if (needed > files->capacity) {
        size_t capacity = needed > 2 * files->capacity ? needed : 2 * files->capacity;
        kvf_tensor *tensors = realloc(files->tensors, capacity * sizeof *tensors);
        if (!tensors)
            return kvf_fail(error, KVF_OUT_OF_MEMORY, "%s: no memory for %zu tensors",
                            kvf_printable(shard->path).text, capacity);
        files->tensors = tensors;
        files->capacity = capacity;
    }
    shard->names = malloc(name_bytes);
    if (!shard->names)
        return kvf_fail(error, KVF_OUT_OF_MEMORY, "%s: no memory for %zu bytes of names",
                        kvf_printable(shard->path).text, name_bytes);
    return KVF_OK;
}

/* Appends the tensors of a parsed header to files->tensors. */
static kvf_status add_tensors(kvf_safetensors *files, struct shard *shard, const cJSON *header,
                              uint64_t header_bytes, kvf_error *error)
{
    const unsigned char *data =
        (const unsigned char *)shard->file.data + LENGTH_BYTES + header_bytes;
    uint64_t data_bytes = shard->file.bytes - LENGTH_BYTES - header_bytes;
    size_t first = files->n_tensors;
    kvf_status status = reserve(files, shard, header, error);
    if (status != KVF_OK)
        return status;
    char *name = shard->names;
    for (const cJSON *entry = header->child; entry; entry = entry->next) {
        if (strcmp(entry->string, "__metadata__") == 0) {
            status = check_metadata(entry, shard->path, error);
        } else {
            size_t name_bytes = strlen(entry->string) + 1;
            memcpy(name, entry->string, name_bytes);
            kvf_tensor *tensor = &files->tensors[files->n_tensors++];
            *tensor = (kvf_tensor){.name = name, .file = shard->path};
            name += name_bytes;
            status = read_tensor(entry, data, data_bytes, tensor, error);
        }
        if (status != KVF_OK)
            return status;
    }
    size_t n = files->n_tensors - first;
    kvf_tensor *tensors = n > 0 ? files->tensors + first : NULL;
    return check_cover(tensors, n, data, data_bytes, shard->path, error);
}

static kvf_status check_header_length(const struct shard *shard, uint64_t *header_bytes,
                                      kvf_error *error)
{
    const unsigned char *start = shard->file.data;
    uint64_t file_bytes = shard->file.bytes;
    if (file_bytes < LENGTH_BYTES)
        return kvf_fail(error, KVF_FILE_FORMAT,
                        "%s: has %llu bytes; a safetensors file starts with 8 bytes of length",
                        kvf_printable(shard->path).text, (unsigned long long)file_bytes);
    uint64_t bytes = 0;
    for (int i = LENGTH_BYTES - 1; i >= 0; i--)
        bytes = bytes << 8 | start[i];
    if (bytes > MAX_HEADER_BYTES)
        return kvf_fail(
            error, KVF_FILE_FORMAT,
            "%s: a header of %llu bytes; the format allows %d (not a safetensors file?)",
            kvf_printable(shard->path).text, (unsigned long long)bytes, MAX_HEADER_BYTES);
    if (bytes > file_bytes - LENGTH_BYTES)
        return kvf_fail(error, KVF_FILE_FORMAT,
                        "%s: is truncated: a header of %llu bytes in a file of %llu",
                        kvf_printable(shard->path).text, (unsigned long long)bytes,
                        (unsigned long long)file_bytes);
    *header_bytes = bytes;
    return KVF_OK;
}

/* Maps the file at shard->path and adds its tensors. */
static kvf_status load_shard(kvf_safetensors *files, struct shard *shard, kvf_error *error)
{
    uint64_t header_bytes = 0;
    cJSON *header = NULL;
    kvf_status status = kvf_file_map(shard->path, &shard->file, error);
    if (status == KVF_OK)
        status = check_header_length(shard, &header_bytes, error);
    if (status == KVF_OK)
        status = kvf_json_parse((const char *)shard->file.data + LENGTH_BYTES, header_bytes,
                                shard->path, &header, error);
    if (status == KVF_OK)
        status = add_tensors(files, shard, header, header_bytes, error);
    cJSON_Delete(header);
    return status;
}

/* ---- The set of shards ---------------------------------------------------------- */

static int compare_names(const void *a, const void *b)
{
    const kvf_tensor *x = a;
    const kvf_tensor *y = b;
    return strcmp(x->name, y->name);
}

static kvf_status sort_tensors(kvf_safetensors *files, kvf_error *error)
{
    if (files->n_tensors > 0)
        qsort(files->tensors, files->n_tensors, sizeof *files->tensors, compare_names);
    for (size_t i = 1; i < files->n_tensors; i++) {
        const kvf_tensor *pair = &files->tensors[i - 1];
        if (strcmp(pair[0].name, pair[1].name) == 0)
            return kvf_fail(error, KVF_FILE_FORMAT, "tensor \"%s\" is in both %s and %s",
                            kvf_printable(pair[0].name).text, kvf_printable(pair[0].file).text,
                            kvf_printable(pair[1].file).text);
    }
    return KVF_OK;
}

/* Takes over path (NULL: out of memory) as the next shard; the array has room for it. */
static kvf_status add_shard(kvf_safetensors *files, char *path, kvf_error *error)
{
    if (!path)
        return kvf_fail(error, KVF_OUT_OF_MEMORY, "no memory for a shard's path");
    struct shard *shard = &files->shards[files->n_shards++];
    shard->path = path;
    return load_shard(files, shard, error);
}

static kvf_status open_single(kvf_safetensors *files, char *path, kvf_error *error)
{
    files->shards = calloc(1, sizeof *files->shards);
    if (!files->shards) {
        free(path);
        return kvf_fail(error, KVF_OUT_OF_MEMORY, "no memory for a file set");
    }
    kvf_status status = add_shard(files, path, error);
    return status == KVF_OK ? sort_tensors(files, error) : status;
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
static kvf_status load_named_shards(kvf_safetensors *files, const cJSON **entries, size_t n,
                                    const char *dir, const char *index, kvf_error *error)
{
    qsort(entries, n, sizeof *entries, compare_entry_shards);
    size_t n_shards = 0;
    for (size_t i = 0; i < n; i++)
        n_shards += i == 0 || compare_entry_shards(&entries[i - 1], &entries[i]) != 0;
    files->shards = calloc(n_shards + 1, sizeof *files->shards);
    if (!files->shards)
        return kvf_fail(error, KVF_OUT_OF_MEMORY, "no memory for %zu shards", n_shards);
    for (size_t i = 0; i < n; i++) {
        if (i > 0 && compare_entry_shards(&entries[i - 1], &entries[i]) == 0)
            continue;
        kvf_status status = add_shard(files, kvf_path_join(dir, entries[i]->valuestring), error);
        if (status == KVF_FILE_NOT_FOUND)
            return kvf_fail(error, status, "%s: no such file, but %s says it holds \"%s\"",
                            kvf_printable(files->shards[files->n_shards - 1].path).text,
                            kvf_printable(index).text, kvf_printable(entries[i]->string).text);
        if (status != KVF_OK)
            return status;
    }
    return KVF_OK;
}

/* The index and the shards must name the same tensors in the same shards. */
static kvf_status check_entries(const kvf_safetensors *files, const cJSON **entries, size_t n,
                                const char *index, kvf_error *error)
{
    qsort(entries, n, sizeof *entries, compare_entry_keys);
    size_t at = 0;
    for (size_t i = 0; i < files->n_tensors; i++) {
        const kvf_tensor *tensor = &files->tensors[i];
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

static kvf_status open_indexed(kvf_safetensors *files, const kvf_file *file, const char *dir,
                               const char *index, kvf_error *error)
{
    cJSON *json = NULL;
    const cJSON **entries = NULL;
    size_t n = 0;
    kvf_status status = kvf_json_parse(file->data, file->bytes, index, &json, error);
    if (status != KVF_OK)
        return status;
    const cJSON *weight_map = kvf_json_get(json, "weight_map");
    if (!cJSON_IsObject(weight_map))
        status = kvf_fail(error, KVF_FILE_FORMAT, "%s: has no \"weight_map\" that is an object",
                          kvf_printable(index).text);
    if (status == KVF_OK)
        status = list_entries(weight_map, index, &entries, &n, error);
    if (status == KVF_OK)
        status = load_named_shards(files, entries, n, dir, index, error);
    if (status == KVF_OK)
        status = sort_tensors(files, error);
    if (status == KVF_OK)
        status = check_entries(files, entries, n, index, error);
    free(entries);
    cJSON_Delete(json);
    return status;
}

/* ---- Opening and reading ---------------------------------------------------------- */

static kvf_status open_dir(kvf_safetensors *files, const char *dir, const char *index,
                           const char *single, kvf_error *error)
{
    kvf_file file;
    kvf_status status = kvf_file_map(index, &file, error);
    if (status == KVF_OK) {
        status = open_indexed(files, &file, dir, index, error);
        kvf_file_unmap(&file);
        return status;
    }
    if (status != KVF_FILE_NOT_FOUND)
        return status;
    status = open_single(files, strdup(single), error);
    if (status == KVF_FILE_NOT_FOUND)
        return kvf_fail(error, status, "%s: has neither %s nor %s", kvf_printable(dir).text,
                        index_name, single_name);
    return status;
}

/* Ends an open: hands the set over, or closes it. */
static kvf_status finish_open(kvf_safetensors *opened, kvf_status status, kvf_safetensors **files,
                              kvf_error *error)
{
    if (status != KVF_OK) {
        kvf_safetensors_close(opened);
        return status;
    }
    *files = opened;
    return kvf_ok(error);
}

kvf_status kvf_safetensors_open(const char *dir, kvf_safetensors **files, kvf_error *error)
{
    *files = NULL;
    kvf_safetensors *opened = calloc(1, sizeof *opened);
    char *index = kvf_path_join(dir, index_name);
    char *single = kvf_path_join(dir, single_name);
    kvf_status status = opened && index && single
                            ? open_dir(opened, dir, index, single, error)
                            : kvf_fail(error, KVF_OUT_OF_MEMORY, "no memory for a file set");
    free(index);
    free(single);
    return finish_open(opened, status, files, error);
}

kvf_status kvf_safetensors_open_file(const char *path, kvf_safetensors **files, kvf_error *error)
{
    *files = NULL;
    kvf_safetensors *opened = calloc(1, sizeof *opened);
    if (!opened)
        return kvf_fail(error, KVF_OUT_OF_MEMORY, "no memory for a file set");
    return finish_open(opened, open_single(opened, strdup(path), error), files, error);
}

void kvf_safetensors_close(kvf_safetensors *files)
{
    if (!files)
        return;
    for (size_t i = 0; i < files->n_shards; i++) {
        kvf_file_unmap(&files->shards[i].file);
        free(files->shards[i].names);
        free(files->shards[i].path);
    }
    free(files->shards);
    free(files->tensors);
    free(files);
}

static int compare_name_to_tensor(const void *name, const void *tensor)
{
    return strcmp(name, ((const kvf_tensor *)tensor)->name);
}

const kvf_tensor *kvf_safetensors_find(const kvf_safetensors *files, const char *name)
{
    if (files->n_tensors == 0)
        return NULL;
    return bsearch(name, files->tensors, files->n_tensors, sizeof *files->tensors,
                   compare_name_to_tensor);
}

const kvf_tensor *kvf_safetensors_at(const kvf_safetensors *files, uint32_t i)
{
    return i < files->n_tensors ? &files->tensors[i] : NULL;
}

uint64_t kvf_safetensors_mapped_bytes(const kvf_safetensors *files)
{
    uint64_t bytes = 0;
    for (size_t i = 0; i < files->n_shards; i++)
        bytes += files->shards[i].file.bytes;
    return bytes;
}
