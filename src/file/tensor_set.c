#include "file/tensor_set.h"

#include "checksum.h"
#include "error.h"
#include "file/gguf.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

static const char index_name[] = "model.safetensors.index.json";
static const char single_name[] = "model.safetensors";

/* Where a name is not within so many slots of its own, it is looked for by its order. */
enum { MAX_PROBES = 32 };

/* ---- Filling a set ---------------------------------------------------------------- */

/* Names lie one after the other in blocks of this size, a longer one in a block of its own. */
enum { KEPT_BYTES = 65536 };

struct kvf_kept_text {
    struct kvf_kept_text *next;
    size_t used;
    size_t capacity;
    char text[];
};

const char *kvf_set_keep(kvf_tensor_set *set, const char *text, size_t bytes)
{
    struct kvf_kept_text *block = set->kept;
    if (!block || block->capacity - block->used <= bytes) {
        const size_t capacity = bytes < KEPT_BYTES ? KEPT_BYTES : bytes + 1;
        block = malloc(sizeof *block + capacity);
        if (!block)
            return NULL;
        *block = (struct kvf_kept_text){set->kept, 0, capacity};
        set->kept = block;
    }
    char *kept = block->text + block->used;
    memcpy(kept, text, bytes);
    kept[bytes] = '\0';
    block->used += bytes + 1;
    return kept;
}

kvf_status kvf_set_reserve_files(kvf_tensor_set *set, size_t n, kvf_error *error)
{
    set->files = calloc(n, sizeof *set->files);
    if (!set->files)
        return kvf_fail(error, KVF_OUT_OF_MEMORY, "no memory for %zu files", n);
    set->file_capacity = n;
    return KVF_OK;
}

kvf_status kvf_set_map(kvf_tensor_set *set, char *path, kvf_tensor_file **file, kvf_error *error)
{
    if (!path)
        return kvf_fail(error, KVF_OUT_OF_MEMORY, "no memory for a file's path");
    const size_t n = atomic_load(&set->n_files);
    *file = &set->files[n];
    (*file)->path = path;
    kvf_status status = kvf_file_map(path, &(*file)->map, error);
    atomic_store(&set->n_files, n + 1); /* also where it failed: the path is to be freed */
    return status;
}

kvf_status kvf_set_add(kvf_tensor_set *set, const kvf_tensor_file *file, const char *name,
                       size_t name_bytes, kvf_tensor **tensor, kvf_error *error)
{
    if (set->n_tensors == KVF_MAX_TENSORS)
        return kvf_fail(error, KVF_FILE_FORMAT, "%s: more than %u tensors; so many are not read",
                        kvf_printable(file->path).text, KVF_MAX_TENSORS);
    if (set->n_tensors == set->tensor_capacity) {
        const size_t capacity = set->tensor_capacity ? 2 * set->tensor_capacity : 1024;
        kvf_tensor *tensors = realloc(set->tensors, capacity * sizeof *tensors);
        if (!tensors)
            return kvf_fail(error, KVF_OUT_OF_MEMORY, "%s: no memory for %zu tensors",
                            kvf_printable(file->path).text, capacity);
        set->tensors = tensors;
        set->tensor_capacity = capacity;
    }
    name = kvf_set_keep(set, name, name_bytes);
    if (!name)
        return kvf_fail(error, KVF_OUT_OF_MEMORY, "%s: no memory for a tensor's name",
                        kvf_printable(file->path).text);
    *tensor = &set->tensors[set->n_tensors++];
    **tensor =
        (kvf_tensor){.name = name, .file = file->path, .file_index = (uint32_t)(file - set->files)};
    return KVF_OK;
}

kvf_status kvf_set_fail_tensor(const kvf_tensor *tensor, const char *what, kvf_error *error)
{
    return kvf_fail(error, KVF_FILE_FORMAT, "%s: tensor \"%s\": %s",
                    kvf_printable(tensor->file).text, kvf_printable(tensor->name).text, what);
}

static int compare_places(const void *a, const void *b)
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

kvf_status kvf_set_check_overlap(kvf_tensor_set *set, size_t first, kvf_error *error)
{
    const size_t n = set->n_tensors - first;
    if (n == 0)
        return KVF_OK;
    kvf_tensor *tensors = set->tensors + first;
    qsort(tensors, n, sizeof *tensors, compare_places);
    for (size_t i = 1; i < n; i++)
        if ((const char *)tensors[i].data <
            (const char *)tensors[i - 1].data + tensors[i - 1].bytes)
            return kvf_fail(error, KVF_FILE_FORMAT, "%s: the data of \"%s\" and \"%s\" overlap",
                            kvf_printable(tensors[i].file).text,
                            kvf_printable(tensors[i - 1].name).text,
                            kvf_printable(tensors[i].name).text);
    return KVF_OK;
}

/* ---- Names ------------------------------------------------------------------------ */

static int compare_names(const void *a, const void *b)
{
    const kvf_tensor *x = a;
    const kvf_tensor *y = b;
    return strcmp(x->name, y->name);
}

kvf_status kvf_set_sort_names(kvf_tensor_set *set, kvf_error *error)
{
    if (set->n_tensors > 0)
        qsort(set->tensors, set->n_tensors, sizeof *set->tensors, compare_names);
    for (size_t i = 1; i < set->n_tensors; i++) {
        const kvf_tensor *pair = &set->tensors[i - 1];
        if (strcmp(pair[0].name, pair[1].name) != 0)
            continue;
        if (pair[0].file_index == pair[1].file_index)
            return kvf_set_fail_tensor(pair, "is there twice", error);
        return kvf_fail(error, KVF_FILE_FORMAT, "tensor \"%s\" is in both %s and %s",
                        kvf_printable(pair[0].name).text, kvf_printable(pair[0].file).text,
                        kvf_printable(pair[1].file).text);
    }
    return KVF_OK;
}

static uint64_t first_slot(const kvf_tensor_set *set, const char *name)
{
    return kvf_checksum(name, strlen(name)) & set->slot_mask;
}

static kvf_status make_slots(kvf_tensor_set *set, kvf_error *error)
{
    uint64_t n_slots = 2;
    while (n_slots < 2 * set->n_tensors)
        n_slots *= 2;
    set->slots = calloc(n_slots, sizeof *set->slots);
    if (!set->slots)
        return kvf_fail(error, KVF_OUT_OF_MEMORY, "no memory for %zu names", set->n_tensors);
    set->slot_mask = n_slots - 1;
    for (size_t i = 0; i < set->n_tensors; i++) {
        uint64_t slot = first_slot(set, set->tensors[i].name);
        for (int probe = 0; probe < MAX_PROBES; probe++, slot = (slot + 1) & set->slot_mask) {
            if (set->slots[slot] == 0) {
                set->slots[slot] = (uint32_t)i + 1;
                break;
            }
        }
    }
    return KVF_OK;
}

static int compare_name_to_tensor(const void *name, const void *tensor)
{
    return strcmp(name, ((const kvf_tensor *)tensor)->name);
}

const kvf_tensor *kvf_tensor_set_find(const kvf_tensor_set *set, const char *name)
{
    if (set->n_tensors == 0)
        return NULL;
    uint64_t slot = first_slot(set, name);
    for (int probe = 0; probe < MAX_PROBES; probe++, slot = (slot + 1) & set->slot_mask) {
        if (set->slots[slot] == 0)
            return NULL;
        const kvf_tensor *tensor = &set->tensors[set->slots[slot] - 1];
        if (strcmp(tensor->name, name) == 0)
            return tensor;
    }
    return bsearch(name, set->tensors, set->n_tensors, sizeof *set->tensors,
                   compare_name_to_tensor);
}

/* ---- Opening ------------------------------------------------------------------------ */

static bool ends_with(const char *text, const char *suffix)
{
    const size_t bytes = strlen(text);
    const size_t suffix_bytes = strlen(suffix);
    return bytes >= suffix_bytes && strcmp(text + bytes - suffix_bytes, suffix) == 0;
}

/* Through a descriptor: what is not mapped cannot fault. False where it cannot be read. */
static bool begins_as_gguf(const char *path)
{
    char magic[4] = "";
    const int descriptor = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (descriptor < 0)
        return false;
    const bool is_read = read(descriptor, magic, sizeof magic) == (ssize_t)sizeof magic;
    close(descriptor);
    return is_read && memcmp(magic, "GGUF", sizeof magic) == 0;
}

/* The folder's config.json: path is the folder, or a file in it. */
static kvf_status find_config(kvf_tensor_set *set, const char *path, bool is_dir, kvf_error *error)
{
    const char *slash = strrchr(path, '/');
    char *dir = is_dir ? strdup(path) : slash ? strndup(path, (size_t)(slash - path)) : strdup(".");
    set->config_path = dir ? kvf_path_join(dir, "config.json") : NULL;
    free(dir);
    return set->config_path
               ? KVF_OK
               : kvf_fail(error, KVF_OUT_OF_MEMORY, "no memory for the path of config.json");
}

static kvf_status open_file(kvf_tensor_set *set, const char *path, kvf_error *error)
{
    /* What is only called a GGUF gets the message that it is none. */
    if (begins_as_gguf(path) || ends_with(path, ".gguf")) {
        set->container = KVF_CONTAINER_GGUF;
        return kvf_gguf_read(set, path, error);
    }
    kvf_status status = find_config(set, path, false, error);
    return status == KVF_OK ? kvf_safetensors_read(set, path, error) : status;
}

/* The one GGUF of a folder, of a split one its first part or what is there of it, malloc'd. */
static kvf_status find_gguf(const char *dir, char **path, kvf_error *error)
{
    char first[256] = "";
    char later[256] = "";
    DIR *folder = opendir(dir);
    size_t n = 0;
    for (struct dirent *entry; folder && (entry = readdir(folder));) {
        uint32_t no = 1;
        uint32_t count;
        size_t stem_bytes;
        if (!ends_with(entry->d_name, ".gguf"))
            continue;
        const bool is_later =
            kvf_gguf_split_name(entry->d_name, &no, &count, &stem_bytes) && no != 1;
        /* The first in order of name, so that the message is always the same. */
        char *name = is_later ? later : first;
        if (!*name || strcmp(entry->d_name, name) < 0)
            snprintf(name, sizeof first, "%s", entry->d_name);
        n += !is_later;
    }
    if (folder)
        closedir(folder);
    if (n == 0 && !*later)
        return kvf_fail(error, KVF_FILE_NOT_FOUND, "%s: has neither %s nor %s nor a .gguf file",
                        kvf_printable(dir).text, index_name, single_name);
    if (n > 1)
        return kvf_fail(error, KVF_INVALID_ARGUMENT,
                        "%s: has %zu GGUF files, \"%s\" and others; name the one that is meant",
                        kvf_printable(dir).text, n, kvf_printable(first).text);
    *path = kvf_path_join(dir, n == 1 ? first : later);
    return *path ? KVF_OK : kvf_fail(error, KVF_OUT_OF_MEMORY, "no memory for a file's path");
}

static kvf_status open_gguf_of(kvf_tensor_set *set, const char *dir, kvf_error *error)
{
    char *path = NULL;
    kvf_status status = find_gguf(dir, &path, error);
    if (status == KVF_OK)
        status = open_file(set, path, error);
    free(path);
    return status;
}

static kvf_status open_dir(kvf_tensor_set *set, const char *dir, const char *index,
                           const char *single, kvf_error *error)
{
    struct stat info;
    kvf_status status = kvf_file_map(index, &set->index, error);
    if (status == KVF_OK) {
        set->index_path = strdup(index);
        status = set->index_path ? find_config(set, dir, true, error)
                                 : kvf_fail(error, KVF_OUT_OF_MEMORY, "no memory for a path");
        if (status == KVF_OK)
            status = kvf_safetensors_read_index(set, dir, index, &set->index, error);
        return status;
    }
    if (status != KVF_FILE_NOT_FOUND)
        return status;
    if (stat(single, &info) != 0 && errno == ENOENT)
        return open_gguf_of(set, dir, error);
    return open_file(set, single, error);
}

static kvf_status open_path(kvf_tensor_set *set, const char *path, kvf_error *error)
{
    struct stat info;
    if (stat(path, &info) != 0 || !S_ISDIR(info.st_mode))
        return open_file(set, path, error);
    char *index = kvf_path_join(path, index_name);
    char *single = kvf_path_join(path, single_name);
    kvf_status status = index && single
                            ? open_dir(set, path, index, single, error)
                            : kvf_fail(error, KVF_OUT_OF_MEMORY, "no memory for a file's path");
    free(index);
    free(single);
    return status;
}

kvf_status kvf_tensor_set_open(const char *path, kvf_tensor_set **set, kvf_error *error)
{
    *set = calloc(1, sizeof **set);
    if (!*set)
        return kvf_fail(error, KVF_OUT_OF_MEMORY, "no memory for a set of tensors");
    kvf_status status = open_path(*set, path, error);
    if (status == KVF_OK)
        status = make_slots(*set, error);
    const char *lost = kvf_tensor_set_lost(*set);
    if (lost) /* what the header was said to be wrong with may have been zeros */
        status = kvf_fail(error, KVF_FILE_IO, "%s: became shorter while it was read",
                          kvf_printable(lost).text);
    if (status == KVF_OK)
        return kvf_ok(error);
    kvf_tensor_set *failed = *set;
    *set = NULL;
    kvf_tensor_set_close(failed);
    return status;
}

void kvf_tensor_set_close(kvf_tensor_set *set)
{
    if (!set)
        return;
    const size_t n_files = atomic_load(&set->n_files);
    for (size_t i = 0; i < n_files; i++) {
        kvf_file_unmap(&set->files[i].map);
        free(set->files[i].path);
    }
    for (struct kvf_kept_text *block = set->kept; block;) {
        struct kvf_kept_text *next = block->next;
        free(block);
        block = next;
    }
    free(set->files);
    free(set->tensors);
    free(set->slots);
    free(set->metadata);
    free(set->config_path);
    kvf_file_unmap(&set->index);
    free(set->index_path);
    free(set);
}

/* ---- Reading ------------------------------------------------------------------------ */

kvf_container kvf_tensor_set_container(const kvf_tensor_set *set)
{
    return set->container;
}

const char *kvf_tensor_set_config_path(const kvf_tensor_set *set)
{
    return set->config_path;
}

const kvf_tensor *kvf_tensor_set_at(const kvf_tensor_set *set, uint32_t i)
{
    return i < set->n_tensors ? &set->tensors[i] : NULL;
}

const kvf_tensor_file *kvf_tensor_set_file(const kvf_tensor_set *set, uint32_t i)
{
    return i < atomic_load(&set->n_files) ? &set->files[i] : NULL;
}

uint64_t kvf_tensor_set_mapped_bytes(const kvf_tensor_set *set)
{
    uint64_t bytes = 0;
    const kvf_tensor_file *file;
    for (uint32_t i = 0; (file = kvf_tensor_set_file(set, i)); i++)
        bytes += file->map.bytes;
    return bytes;
}

/* ---- Files that change while they are mapped ------------------------------------------ */

kvf_status kvf_tensor_set_check_unchanged(const kvf_tensor_set *set, kvf_error *error)
{
    const kvf_tensor_file *file;
    kvf_status status = KVF_OK;
    if (set->index_path)
        status = kvf_file_check_unchanged(set->index_path, &set->index, error);
    for (uint32_t i = 0; status == KVF_OK && (file = kvf_tensor_set_file(set, i)); i++)
        status = kvf_file_check_unchanged(file->path, &file->map, error);
    return status == KVF_OK ? kvf_ok(error) : status;
}

bool kvf_tensor_set_fault(kvf_tensor_set *set, const void *address)
{
    const size_t page_bytes = (size_t)sysconf(_SC_PAGESIZE);
    const size_t n_files = atomic_load(&set->n_files);
    for (size_t i = 0; i < n_files; i++) {
        kvf_tensor_file *file = &set->files[i];
        void *data = (void *)(uintptr_t)file->map.data;
        /* The rest of the last page faults with it. */
        const size_t mapped_bytes = (file->map.bytes + page_bytes - 1) / page_bytes * page_bytes;
        if (!data || (uintptr_t)address - (uintptr_t)data >= mapped_bytes)
            continue;
        /*
         * All of it at once: page by page would be a signal each, of a file that has
         * millions. Another thread that does the same does no harm. Pages that cannot be
         * written ask for no memory.
         */
        atomic_store(&file->lost, true);
        return mmap(data, mapped_bytes, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1,
                    0) != MAP_FAILED;
    }
    return false;
}

const char *kvf_tensor_set_lost(const kvf_tensor_set *set)
{
    const kvf_tensor_file *file;
    for (uint32_t i = 0; (file = kvf_tensor_set_file(set, i)); i++)
        if (atomic_load(&file->lost))
            return file->path;
    return NULL;
}

kvf_status kvf_tensor_set_check_lost(kvf_tensor_set *set, kvf_error *error)
{
    const size_t n_files = atomic_load(&set->n_files);
    for (size_t i = 0; i < n_files; i++) {
        kvf_tensor_file *file = &set->files[i];
        const bool cut = kvf_file_is_cut(file->path, &file->map);
        if (cut)
            atomic_store(&file->lost, true);
        if (atomic_load(&file->lost))
            return kvf_fail(error, KVF_FILE_IO,
                            "%s: %s while it was in use; the model must be opened again",
                            kvf_printable(file->path).text,
                            cut ? "became shorter" : "could not be read any more");
    }
    return kvf_ok(error);
}
