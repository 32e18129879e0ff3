/*
 * GGUF: a header of metadata and tensor infos, then the data. Versions 2 and 3, little
 * endian. Nothing of a file is trusted: each number is read once and checked before use.
 */
#include "file/gguf.h"

#include "error.h"

#include <stdlib.h>
#include <string.h>

/* The least bytes of an entry (an empty key, a type, a byte) and of a tensor info. */
enum { HEADER_BYTES = 24, MIN_ENTRY_BYTES = 13, MIN_INFO_BYTES = 24 };
/* Limits of the format, and of llama.cpp where the format has none. */
enum { MAX_KEY_BYTES = 65535, MAX_NAME_BYTES = 63, MAX_DIMS = 4, DEFAULT_ALIGNMENT = 32 };

/* A file's header on the way through it. */
struct reader {
    kvf_tensor_set *set;
    kvf_tensor_file *file;
    const unsigned char *data; /* [bytes], the whole file */
    uint64_t bytes;
    uint64_t at;
    kvf_error *error;
};

/* ---- Numbers and texts of the header ------------------------------------------------- */

/* What follows `what` has this left of the file: too little. */
static kvf_status fail_cut(const struct reader *reader, const char *what)
{
    return kvf_fail(reader->error, KVF_FILE_FORMAT,
                    "%s: is truncated: %s needs more than the %llu bytes after byte %llu",
                    kvf_printable(reader->file->path).text, what,
                    (unsigned long long)(reader->bytes - reader->at),
                    (unsigned long long)reader->at);
}

static bool take(struct reader *reader, uint64_t bytes, const unsigned char **taken)
{
    if (bytes > reader->bytes - reader->at)
        return false;
    *taken = reader->data + reader->at;
    reader->at += bytes;
    return true;
}

static bool take_number(struct reader *reader, uint32_t bytes, uint64_t *number)
{
    const unsigned char *taken;
    if (!take(reader, bytes, &taken))
        return false;
    *number = 0;
    while (bytes > 0)
        *number = *number << 8 | taken[--bytes];
    return true;
}

static bool take_text(struct reader *reader, kvf_text *text)
{
    const uint64_t begin = reader->at;
    const unsigned char *taken;
    if (take_number(reader, 8, &text->bytes) && take(reader, text->bytes, &taken)) {
        text->data = (const char *)taken;
        return true;
    }
    reader->at = begin;
    return false;
}

/* ---- Metadata ---------------------------------------------------------------------- */

/* "FILE: key "KEY": " and what is wrong with it. */
static kvf_status fail_key(const struct reader *reader, const char *key, const char *what)
{
    return kvf_fail(reader->error, KVF_FILE_FORMAT, "%s: key \"%s\": %s",
                    kvf_printable(reader->file->path).text, kvf_printable(key).text, what);
}

static kvf_status read_key(struct reader *reader, kvf_metadata *entry)
{
    kvf_text key;
    if (!take_text(reader, &key))
        return fail_cut(reader, "a metadata key");
    if (key.bytes == 0 || key.bytes > MAX_KEY_BYTES)
        return kvf_fail(reader->error, KVF_FILE_FORMAT,
                        "%s: the key before byte %llu has %llu bytes; 1 to %d are allowed",
                        kvf_printable(reader->file->path).text, (unsigned long long)reader->at,
                        (unsigned long long)key.bytes, MAX_KEY_BYTES);
    entry->key = kvf_set_keep(reader->set, key.data, key.bytes);
    if (!entry->key)
        return kvf_fail(reader->error, KVF_OUT_OF_MEMORY, "%s: no memory for its metadata",
                        kvf_printable(reader->file->path).text);
    for (uint64_t i = 0; i < key.bytes; i++)
        if (entry->key[i] == '\0' || (unsigned char)entry->key[i] >= 0x80)
            return fail_key(reader, entry->key, "has a NUL, or a byte that is not ASCII");
    return KVF_OK;
}

/* The type of an entry or of an array's elements. */
static kvf_status read_type(struct reader *reader, const kvf_metadata *entry, kvf_value_type *type)
{
    uint64_t number;
    if (!take_number(reader, 4, &number))
        return fail_cut(reader, "the type of a metadata entry");
    if (number > KVF_VALUE_F64)
        return kvf_fail(reader->error, KVF_FILE_FORMAT,
                        "%s: key \"%s\": unknown value type %llu; there are 0 to %d",
                        kvf_printable(reader->file->path).text, kvf_printable(entry->key).text,
                        (unsigned long long)number, KVF_VALUE_F64);
    *type = (kvf_value_type)number;
    return KVF_OK;
}

static kvf_status skip_texts(struct reader *reader, const kvf_metadata *entry)
{
    kvf_text text;
    for (uint64_t i = 0; i < entry->n_values; i++)
        if (!take_text(reader, &text))
            return kvf_fail(reader->error, KVF_FILE_FORMAT,
                            "%s: key \"%s\": text %llu of %llu ends after the file",
                            kvf_printable(reader->file->path).text, kvf_printable(entry->key).text,
                            (unsigned long long)i, (unsigned long long)entry->n_values);
    return KVF_OK;
}

/* entry->n_values values of entry->type. */
static kvf_status read_values(struct reader *reader, kvf_metadata *entry)
{
    const uint64_t begin = reader->at;
    const uint32_t width = kvf_value_bytes(entry->type);
    const uint64_t left = reader->bytes - begin;
    entry->data = reader->data + begin;
    if (entry->n_values > left / (width ? width : 8)) /* a text has 8 bytes of length */
        return kvf_fail(reader->error, KVF_FILE_FORMAT,
                        "%s: key \"%s\": %llu values do not fit in the %llu bytes that are left "
                        "of the file",
                        kvf_printable(reader->file->path).text, kvf_printable(entry->key).text,
                        (unsigned long long)entry->n_values, (unsigned long long)left);
    if (width == 0) {
        kvf_status status = skip_texts(reader, entry);
        if (status != KVF_OK)
            return status;
    } else {
        reader->at += entry->n_values * width;
    }
    for (uint64_t i = 0; entry->type == KVF_VALUE_BOOL && i < entry->n_values; i++)
        if (entry->data[i] > 1)
            return fail_key(reader, entry->key, "has a bool that is neither 0 nor 1");
    entry->bytes = reader->at - begin;
    return KVF_OK;
}

static kvf_status read_entry(struct reader *reader, kvf_metadata *entry)
{
    kvf_status status = read_key(reader, entry);
    entry->n_values = 1;
    if (status == KVF_OK)
        status = read_type(reader, entry, &entry->type);
    entry->is_array = status == KVF_OK && entry->type == KVF_VALUE_ARRAY;
    if (entry->is_array) {
        status = read_type(reader, entry, &entry->type);
        if (status == KVF_OK && entry->type == KVF_VALUE_ARRAY)
            status = fail_key(reader, entry->key, "is an array of arrays, which are not read");
        if (status == KVF_OK && !take_number(reader, 8, &entry->n_values))
            status = fail_cut(reader, "the length of an array");
    }
    return status == KVF_OK ? read_values(reader, entry) : status;
}

static int compare_keys(const void *a, const void *b)
{
    const kvf_metadata *x = a;
    const kvf_metadata *y = b;
    return strcmp(x->key, y->key);
}

/* The n entries, sorted by key. */
static kvf_status read_metadata(struct reader *reader, uint64_t n, kvf_gguf_part *part)
{
    size_t capacity = 0;
    kvf_status status = KVF_OK;
    while (part->n_metadata < n && status == KVF_OK) {
        if (part->n_metadata == capacity) {
            capacity = capacity ? 2 * capacity : 128;
            kvf_metadata *more = realloc(part->metadata, capacity * sizeof *more);
            if (!more)
                return kvf_fail(reader->error, KVF_OUT_OF_MEMORY, "%s: no memory for %zu keys",
                                kvf_printable(reader->file->path).text, capacity);
            part->metadata = more;
        }
        part->metadata[part->n_metadata] = (kvf_metadata){0};
        status = read_entry(reader, &part->metadata[part->n_metadata++]);
    }
    if (status != KVF_OK || part->n_metadata == 0)
        return status;
    qsort(part->metadata, part->n_metadata, sizeof *part->metadata, compare_keys);
    for (size_t i = 1; i < part->n_metadata; i++)
        if (strcmp(part->metadata[i - 1].key, part->metadata[i].key) == 0)
            return fail_key(reader, part->metadata[i].key, "is there twice");
    return KVF_OK;
}

static kvf_status find_alignment(const struct reader *reader, const kvf_gguf_part *part,
                                 uint64_t *alignment)
{
    const char *key = "general.alignment";
    const kvf_metadata *found = kvf_metadata_find(part->metadata, part->n_metadata, key);
    *alignment = DEFAULT_ALIGNMENT;
    if (!found)
        return KVF_OK;
    if (found->is_array || found->type != KVF_VALUE_U32)
        return kvf_fail(reader->error, KVF_FILE_FORMAT, "%s: key \"%s\": is %s; u32 was expected",
                        kvf_printable(reader->file->path).text, key, kvf_metadata_show(found).text);
    kvf_metadata_u64(found, 0, alignment);
    if (*alignment == 0 || (*alignment & (*alignment - 1)) != 0)
        return kvf_fail(
            reader->error, KVF_FILE_FORMAT, "%s: key \"%s\": is %llu; a power of two was expected",
            kvf_printable(reader->file->path).text, key, (unsigned long long)*alignment);
    return KVF_OK;
}

/* ---- Tensor infos ------------------------------------------------------------------- */

static kvf_status read_name(struct reader *reader, kvf_tensor **tensor)
{
    kvf_text name;
    if (!take_text(reader, &name))
        return fail_cut(reader, "a tensor's name");
    if (name.bytes == 0 || name.bytes > MAX_NAME_BYTES || memchr(name.data, 0, name.bytes))
        return kvf_fail(reader->error, KVF_FILE_FORMAT,
                        "%s: the tensor's name before byte %llu has %llu bytes; 1 to %d without "
                        "a NUL are allowed",
                        kvf_printable(reader->file->path).text, (unsigned long long)reader->at,
                        (unsigned long long)name.bytes, MAX_NAME_BYTES);
    return kvf_set_add(reader->set, reader->file, name.data, name.bytes, tensor, reader->error);
}

/* The file has the fastest dimension first; *elements is their product. */
static kvf_status read_shape(struct reader *reader, kvf_tensor *tensor, uint64_t *elements)
{
    uint64_t n_dims;
    if (!take_number(reader, 4, &n_dims))
        return fail_cut(reader, "a tensor's number of dimensions");
    if (n_dims < 1 || n_dims > MAX_DIMS)
        return kvf_fail(reader->error, KVF_FILE_FORMAT,
                        "%s: tensor \"%s\": has %llu dimensions; 1 to %d are allowed",
                        kvf_printable(tensor->file).text, kvf_printable(tensor->name).text,
                        (unsigned long long)n_dims, MAX_DIMS);
    tensor->n_dims = (uint32_t)n_dims;
    *elements = 1;
    for (uint32_t i = tensor->n_dims; i > 0; i--) {
        uint64_t *dim = &tensor->shape[i - 1];
        if (!take_number(reader, 8, dim))
            return fail_cut(reader, "a tensor's dimension");
        if (*dim == 0)
            return kvf_set_fail_tensor(tensor, "has a dimension of 0", reader->error);
        if (__builtin_mul_overflow(*elements, *dim, elements) || *elements > INT64_MAX)
            return kvf_set_fail_tensor(tensor, "the product of its dimensions is 2^63 or more",
                                       reader->error);
    }
    return KVF_OK;
}

static kvf_status read_tensor_type(struct reader *reader, kvf_tensor *tensor, uint64_t elements)
{
    uint64_t id;
    if (!take_number(reader, 4, &id))
        return fail_cut(reader, "a tensor's type");
    if (!kvf_stored_type_by_ggml_id((uint32_t)id, &tensor->type))
        return kvf_fail(reader->error, KVF_UNSUPPORTED,
                        "%s: tensor \"%s\": unknown type %llu: no type of ggml, or one that it "
                        "gave up",
                        kvf_printable(tensor->file).text, kvf_printable(tensor->name).text,
                        (unsigned long long)id);
    const kvf_stored_info *type = kvf_stored_info_of(tensor->type);
    const uint64_t row_values = tensor->shape[tensor->n_dims - 1];
    if (row_values % type->block_values != 0)
        return kvf_fail(reader->error, KVF_FILE_FORMAT,
                        "%s: tensor \"%s\": rows of %llu values in type %s, which has blocks of %u",
                        kvf_printable(tensor->file).text, kvf_printable(tensor->name).text,
                        (unsigned long long)row_values, type->name, type->block_values);
    if (__builtin_mul_overflow(elements / type->block_values, (uint64_t)type->block_bytes,
                               &tensor->bytes))
        return kvf_set_fail_tensor(tensor, "its bytes are 2^64 or more", reader->error);
    return KVF_OK;
}

/* One info; the data's place is left in *offset, as the data section's begin is not known. */
static kvf_status read_info(struct reader *reader, uint64_t alignment, uint64_t *offset)
{
    kvf_tensor *tensor = NULL;
    uint64_t elements = 0;
    kvf_status status = read_name(reader, &tensor);
    if (status == KVF_OK)
        status = read_shape(reader, tensor, &elements);
    if (status == KVF_OK)
        status = read_tensor_type(reader, tensor, elements);
    if (status != KVF_OK)
        return status;
    if (!take_number(reader, 8, offset))
        return fail_cut(reader, "a tensor's offset");
    if (*offset % alignment != 0)
        return kvf_fail(reader->error, KVF_FILE_FORMAT,
                        "%s: tensor \"%s\": its offset %llu is no multiple of the alignment %llu",
                        kvf_printable(tensor->file).text, kvf_printable(tensor->name).text,
                        (unsigned long long)*offset, (unsigned long long)alignment);
    return KVF_OK;
}

/* Gives the tensors from number `first` on their data, which are inside of the file. */
static kvf_status place_tensors(const struct reader *reader, size_t first, const uint64_t *offsets,
                                uint64_t data_begin)
{
    for (size_t i = first; i < reader->set->n_tensors; i++) {
        kvf_tensor *tensor = &reader->set->tensors[i];
        const uint64_t offset = offsets[i - first];
        uint64_t end;
        if (__builtin_add_overflow(data_begin, offset, &end) ||
            __builtin_add_overflow(end, tensor->bytes, &end) || end > reader->bytes)
            return kvf_fail(reader->error, KVF_FILE_FORMAT,
                            "%s: is truncated: tensor \"%s\" has %llu bytes from byte %llu of the "
                            "data, which begin at byte %llu of %llu",
                            kvf_printable(tensor->file).text, kvf_printable(tensor->name).text,
                            (unsigned long long)tensor->bytes, (unsigned long long)offset,
                            (unsigned long long)data_begin, (unsigned long long)reader->bytes);
        tensor->data = reader->data + data_begin + offset;
    }
    return KVF_OK;
}

static uint64_t align_up(uint64_t bytes, uint64_t alignment)
{
    return (bytes + alignment - 1) & ~(alignment - 1);
}

static kvf_status read_tensors(struct reader *reader, uint64_t n, uint64_t alignment)
{
    kvf_tensor_set *set = reader->set;
    const size_t first = set->n_tensors;
    size_t capacity = 0;
    uint64_t *offsets = NULL;
    kvf_status status = KVF_OK;
    for (uint64_t i = 0; i < n && status == KVF_OK; i++) {
        if (i == capacity) {
            capacity = capacity ? 2 * capacity : 2048;
            uint64_t *more = realloc(offsets, capacity * sizeof *offsets);
            if (!more) {
                status = kvf_fail(reader->error, KVF_OUT_OF_MEMORY, "%s: no memory for %zu tensors",
                                  kvf_printable(reader->file->path).text, capacity);
                break;
            }
            offsets = more;
        }
        status = read_info(reader, alignment, &offsets[i]);
    }
    const uint64_t data_begin = align_up(reader->at, alignment);
    if (status == KVF_OK)
        status = place_tensors(reader, first, offsets, data_begin);
    free(offsets);
    if (status == KVF_OK)
        status = kvf_set_check_overlap(set, first, reader->error);
    if (status != KVF_OK)
        return status;
    uint64_t end = reader->at;
    if (set->n_tensors > first) {
        const kvf_tensor *last = &set->tensors[set->n_tensors - 1];
        end = (uint64_t)((const unsigned char *)last->data - reader->data) + last->bytes;
    }
    end = align_up(end, alignment); /* the padding after the last one may be missing */
    reader->file->surplus_bytes = reader->bytes > end ? reader->bytes - end : 0;
    return KVF_OK;
}

/* ---- One file ------------------------------------------------------------------------ */

static kvf_status check_version(const struct reader *reader, uint64_t version)
{
    if (version == 2 || version == 3)
        return KVF_OK;
    if ((version & 0xFFFF) == 0)
        return kvf_fail(reader->error, KVF_UNSUPPORTED,
                        "%s: is a big-endian GGUF (version %llu); little-endian ones are read",
                        kvf_printable(reader->file->path).text, (unsigned long long)version);
    return kvf_fail(reader->error, KVF_UNSUPPORTED, "%s: GGUF version %llu; 2 and 3 are read",
                    kvf_printable(reader->file->path).text, (unsigned long long)version);
}

static kvf_status read_counts(struct reader *reader, uint64_t *n_tensors, uint64_t *n_entries)
{
    const char *path = reader->file->path;
    const unsigned char *magic = NULL;
    uint64_t version = 0;
    if (reader->bytes < HEADER_BYTES || !take(reader, 4, &magic) ||
        !take_number(reader, 4, &version) || !take_number(reader, 8, n_tensors) ||
        !take_number(reader, 8, n_entries))
        return kvf_fail(reader->error, KVF_FILE_FORMAT,
                        "%s: has %llu bytes; a GGUF file starts with a header of %d",
                        kvf_printable(path).text, (unsigned long long)reader->bytes, HEADER_BYTES);
    if (memcmp(magic, "GGUF", 4) != 0)
        return kvf_fail(reader->error, KVF_FILE_FORMAT,
                        "%s: starts with the bytes %02x %02x %02x %02x; a GGUF file starts with "
                        "the letters GGUF",
                        kvf_printable(path).text, magic[0], magic[1], magic[2], magic[3]);
    kvf_status status = check_version(reader, version);
    if (status != KVF_OK)
        return status;
    const uint64_t left = reader->bytes - reader->at;
    if (*n_tensors > left / MIN_INFO_BYTES || *n_entries > left / MIN_ENTRY_BYTES)
        return kvf_fail(reader->error, KVF_FILE_FORMAT,
                        "%s: %llu tensors and %llu keys do not fit in a file of %llu bytes",
                        kvf_printable(path).text, (unsigned long long)*n_tensors,
                        (unsigned long long)*n_entries, (unsigned long long)reader->bytes);
    return KVF_OK;
}

kvf_status kvf_gguf_read_part(kvf_tensor_set *set, char *path, kvf_gguf_part *part,
                              kvf_error *error)
{
    struct reader reader = {.set = set, .error = error};
    uint64_t n_entries = 0;
    uint64_t alignment = 0;
    kvf_status status = kvf_set_map(set, path, &reader.file, error);
    if (status != KVF_OK)
        return status;
    reader.data = reader.file->map.data;
    reader.bytes = reader.file->map.bytes;
    status = read_counts(&reader, &part->n_tensors, &n_entries);
    if (status == KVF_OK)
        status = read_metadata(&reader, n_entries, part);
    if (status == KVF_OK)
        status = find_alignment(&reader, part, &alignment);
    return status == KVF_OK ? read_tensors(&reader, part->n_tensors, alignment) : status;
}
