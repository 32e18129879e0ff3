/* A GGUF in one file or in several: each part is a whole GGUF and says which it is. */
#include "file/gguf.h"

#include "error.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* "-00002-of-00003.gguf" */
enum { SUFFIX_BYTES = 20, DIGITS = 5, NO_AT = 1, COUNT_AT = 10 };

static bool read_digits(const char *text, uint32_t *number)
{
    *number = 0;
    for (int i = 0; i < DIGITS; i++) {
        if (text[i] < '0' || text[i] > '9')
            return false;
        *number = *number * 10 + (uint32_t)(text[i] - '0');
    }
    return true;
}

bool kvf_gguf_split_name(const char *path, uint32_t *no, uint32_t *count, size_t *stem_bytes)
{
    const size_t bytes = strlen(path);
    if (bytes <= SUFFIX_BYTES)
        return false;
    const char *suffix = path + bytes - SUFFIX_BYTES;
    *stem_bytes = bytes - SUFFIX_BYTES;
    return suffix[0] == '-' && read_digits(suffix + NO_AT, no) &&
           strncmp(suffix + NO_AT + DIGITS, "-of-", 4) == 0 &&
           read_digits(suffix + COUNT_AT, count) &&
           strcmp(suffix + COUNT_AT + DIGITS, ".gguf") == 0 && *no >= 1 && *no <= *count;
}

/* The path of part `no` beside the one at path; NULL when memory is short. */
static char *part_path(const char *path, size_t stem_bytes, uint32_t no, uint32_t count)
{
    const size_t capacity = strlen(path) + 1;
    char *other = malloc(capacity);
    if (other)
        snprintf(other, capacity, "%.*s-%05u-of-%05u.gguf", (int)stem_bytes, path, no, count);
    return other;
}

/* What a part has to be, by its name. */
struct place {
    const char *path;
    uint32_t no; /* from 1; 0: it has no name of a part */
    uint32_t count;
};

static kvf_status fail_number(const struct place *place, const char *key, uint64_t number,
                              uint64_t wanted, kvf_error *error)
{
    return kvf_fail(error, KVF_FILE_FORMAT,
                    "%s: key \"%s\" is %llu; part %u of %u has %llu: is it a part of another file?",
                    kvf_printable(place->path).text, key, (unsigned long long)number, place->no,
                    place->count, (unsigned long long)wanted);
}

/* A whole number of a part's metadata. */
static kvf_status read_number(const struct place *place, const kvf_gguf_part *part, const char *key,
                              uint64_t *number, kvf_error *error)
{
    const kvf_metadata *found = kvf_metadata_find(part->metadata, part->n_metadata, key);
    if (!found)
        return kvf_fail(error, KVF_FILE_FORMAT,
                        "%s: is named as part %u of %u of a split file, but has no key \"%s\"",
                        kvf_printable(place->path).text, place->no, place->count, key);
    if (found->is_array || !kvf_metadata_u64(found, 0, number))
        return kvf_fail(error, KVF_FILE_FORMAT, "%s: key \"%s\" is %s; a whole number was expected",
                        kvf_printable(place->path).text, key, kvf_metadata_show(found).text);
    return KVF_OK;
}

/* The part's three keys against its name; *total is its split.tensors.count. */
static kvf_status check_part(const struct place *place, const kvf_gguf_part *part, uint64_t *total,
                             kvf_error *error)
{
    uint64_t no = 0;
    uint64_t count = 0;
    kvf_status status = read_number(place, part, "split.count", &count, error);
    if (status == KVF_OK && count != place->count)
        status = fail_number(place, "split.count", count, place->count, error);
    if (status == KVF_OK)
        status = read_number(place, part, "split.no", &no, error);
    if (status == KVF_OK && no != place->no - 1)
        status = fail_number(place, "split.no", no, place->no - 1, error);
    if (status == KVF_OK)
        status = read_number(place, part, "split.tensors.count", total, error);
    return status;
}

/* Later parts need not name the architecture; one that does names the first part's. */
static kvf_status check_architecture(const kvf_tensor_set *set, const char *path,
                                     const kvf_gguf_part *part, kvf_error *error)
{
    const char *key = "general.architecture";
    const kvf_metadata *mine = kvf_metadata_find(part->metadata, part->n_metadata, key);
    const kvf_metadata *first = kvf_tensor_set_metadata(set, key);
    if (!mine || (first && first->type == mine->type && first->bytes == mine->bytes &&
                  memcmp(first->data, mine->data, mine->bytes) == 0))
        return KVF_OK;
    return kvf_fail(error, KVF_FILE_FORMAT, "%s: is of another model than %s: key \"%s\" differs",
                    kvf_printable(path).text, kvf_printable(set->files[0].path).text, key);
}

static kvf_status read_split(kvf_tensor_set *set, const char *path, uint32_t count,
                             size_t stem_bytes, kvf_error *error)
{
    uint64_t total = 0;
    uint64_t first_total = 0;
    kvf_status status = kvf_set_reserve_files(set, count, error);
    for (uint32_t no = 1; no <= count && status == KVF_OK; no++) {
        kvf_gguf_part part = {0};
        status = kvf_gguf_read_part(set, part_path(path, stem_bytes, no, count), &part, error);
        const struct place place = {set->files[no - 1].path, no, count};
        if (status == KVF_FILE_NOT_FOUND)
            status =
                kvf_fail(error, KVF_FILE_FORMAT, "%s: no such file; %s is a part of the same model",
                         kvf_printable(place.path).text, kvf_printable(path).text);
        if (status == KVF_OK)
            status = check_part(&place, &part, &total, error);
        if (no == 1) {
            first_total = total;
            set->metadata = part.metadata;
            set->n_metadata = part.n_metadata;
            continue;
        }
        if (status == KVF_OK && total != first_total)
            status = fail_number(&place, "split.tensors.count", total, first_total, error);
        if (status == KVF_OK)
            status = check_architecture(set, place.path, &part, error);
        free(part.metadata);
    }
    if (status == KVF_OK && set->n_tensors != first_total)
        return kvf_fail(error, KVF_FILE_FORMAT,
                        "%s: the %u parts have %zu tensors in all; \"split.tensors.count\" is %llu",
                        kvf_printable(set->files[0].path).text, count, set->n_tensors,
                        (unsigned long long)first_total);
    return status;
}

/* One file, which may say that it is one of several only by its name. */
static kvf_status read_whole(kvf_tensor_set *set, const char *path, kvf_error *error)
{
    kvf_gguf_part part = {0};
    uint64_t count = 0;
    uint64_t no = 0;
    kvf_status status = kvf_set_reserve_files(set, 1, error);
    if (status == KVF_OK)
        status = kvf_gguf_read_part(set, strdup(path), &part, error);
    set->metadata = part.metadata;
    set->n_metadata = part.n_metadata;
    if (status != KVF_OK)
        return status;
    const kvf_metadata *key = kvf_tensor_set_metadata(set, "split.count");
    if (!key || key->is_array || !kvf_metadata_u64(key, 0, &count) || count < 2)
        return KVF_OK;
    key = kvf_tensor_set_metadata(set, "split.no");
    if (key && !key->is_array)
        kvf_metadata_u64(key, 0, &no);
    return kvf_fail(error, KVF_FILE_FORMAT,
                    "%s: is part %llu of %llu of a split file; its name must be that of a part, "
                    "NAME-%05llu-of-%05llu.gguf, or the others cannot be found",
                    kvf_printable(path).text, (unsigned long long)no + 1, (unsigned long long)count,
                    (unsigned long long)no + 1, (unsigned long long)count);
}

kvf_status kvf_gguf_read(kvf_tensor_set *set, const char *path, kvf_error *error)
{
    uint32_t no = 0;
    uint32_t count = 0;
    size_t stem_bytes = 0;
    const bool is_part = kvf_gguf_split_name(path, &no, &count, &stem_bytes) && count > 1;
    kvf_status status =
        is_part ? read_split(set, path, count, stem_bytes, error) : read_whole(set, path, error);
    return status == KVF_OK ? kvf_set_sort_names(set, error) : status;
}
