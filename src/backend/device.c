/* Opening backends by name, counted memory, and the public stages on plain memory. */
#include "backend/backend.h"
#include "backend/mirror.h"

#include <string.h>

#include "assertion.h"
#include "error.h"
#include "format/format.h"
#include "shared/fp_environment.h"
#include "shared/visible.h"

#define KVF_BACKEND(symbol) extern const kvf_backend symbol;
#include "backend/backends.def"
#undef KVF_BACKEND

static const kvf_backend *const kvf_backends[] = {
#define KVF_BACKEND(symbol) &symbol,
#include "backend/backends.def"
#undef KVF_BACKEND
};

const kvf_backend *kvf_backend_get(uint32_t i)
{
    return i < sizeof kvf_backends / sizeof kvf_backends[0] ? kvf_backends[i] : NULL;
}

const char *kvf_backend_name(uint32_t i)
{
    const kvf_backend *backend = kvf_backend_get(i);
    return backend ? backend->name : NULL;
}

/* "cpu, ref" */
static void list_backends(char *text, size_t text_bytes)
{
    text[0] = '\0';
    for (uint32_t i = 0; kvf_backend_get(i); i++) {
        if (i)
            strncat(text, ", ", text_bytes - strlen(text) - 1);
        strncat(text, kvf_backend_get(i)->name, text_bytes - strlen(text) - 1);
    }
}

kvf_status kvf_backend_find(const char *name, const kvf_backend **backend, kvf_error *error)
{
    uint32_t i = 0;
    *backend = kvf_backend_get(0);
    while (name && *backend && strcmp((*backend)->name, name) != 0)
        *backend = kvf_backend_get(++i);
    if (*backend)
        return KVF_OK;
    char names[128];
    list_backends(names, sizeof names);
    return kvf_fail(error, KVF_UNSUPPORTED, "no backend '%.40s' in this build; there are: %s", name,
                    names);
}

kvf_status kvf_backend_check(const kvf_backend *backend, kvf_error *error)
{
    const struct {
        const char *name;
        bool there;
    } functions[] = {
#define KVF_FUNCTION(name) {#name, backend->name != NULL}
        KVF_FUNCTION(open),
        KVF_FUNCTION(close),
        KVF_FUNCTION(alloc),
        KVF_FUNCTION(release),
        KVF_FUNCTION(zero),
        KVF_FUNCTION(write),
        KVF_FUNCTION(read),
        KVF_FUNCTION(copy),
        KVF_FUNCTION(wait),
        KVF_FUNCTION(embed),
        KVF_FUNCTION(matmul),
        KVF_FUNCTION(norm),
        KVF_FUNCTION(rope),
        KVF_FUNCTION(mix),
        KVF_FUNCTION(unmix),
        KVF_FUNCTION(route),
        KVF_FUNCTION(experts),
        KVF_FUNCTION(sample),
        KVF_FUNCTION(check),
        KVF_FUNCTION(compress),
        KVF_FUNCTION(pack),
        KVF_FUNCTION(unpack),
        KVF_FUNCTION(select),
        KVF_FUNCTION(score),
        KVF_FUNCTION(mask),
        KVF_FUNCTION(attend),
        KVF_FUNCTION(experts_workspace_bytes),
        KVF_FUNCTION(select_workspace_bytes),
        KVF_FUNCTION(attend_workspace_bytes),
#undef KVF_FUNCTION
    };
    for (size_t i = 0; i < sizeof functions / sizeof functions[0]; i++)
        if (!functions[i].there)
            return kvf_fail(error, KVF_UNSUPPORTED, "backend '%.40s' lacks %s", backend->name,
                            functions[i].name);
    if (!backend->addresses_host_memory && !backend->is_device_memory)
        return kvf_fail(error, KVF_UNSUPPORTED, "backend '%.40s' lacks is_device_memory",
                        backend->name);
    return kvf_ok(error);
}

kvf_status kvf_device_open(const kvf_device_options *options, kvf_device **device, kvf_error *error)
{
    static const kvf_device_options defaults = {0};
    if (!device)
        return kvf_fail(error, KVF_INVALID_ARGUMENT, "kvf_device_open: device is NULL");
    *device = NULL;
    if (!options)
        options = &defaults;
    const kvf_backend *backend;
    kvf_status status = kvf_backend_find(options->backend, &backend, error);
    if (status == KVF_OK)
        status = kvf_backend_check(backend, error);
    if (status == KVF_OK)
        status = backend->open(options, device, error);
    if (status != KVF_OK)
        return status;
    (*device)->finding = backend->alloc(*device, sizeof(kvf_finding), KVF_PLACE_STAGING);
    (*device)->slab_bytes = backend->slab_bytes;
    if ((*device)->finding)
        return kvf_ok(error);
    kvf_device_close(*device);
    *device = NULL;
    return kvf_fail(error, KVF_OUT_OF_MEMORY, "no memory on the device");
}

void kvf_device_close(kvf_device *device)
{
    if (!device)
        return;
    kvf_device_trim(device);
    if (device->finding)
        device->backend->release(device, device->finding, sizeof(kvf_finding));
    device->backend->close(device);
}

const char *kvf_device_backend_name(const kvf_device *device)
{
    return device->backend->name;
}

const char *kvf_device_isa_name(const kvf_device *device)
{
    return device->isa;
}

uint32_t kvf_device_n_threads(const kvf_device *device)
{
    return device->n_threads;
}

uint64_t kvf_device_memory_bytes(const kvf_device *device)
{
    return device->memory_bytes;
}

void kvf_device_run(kvf_device *device, size_t n_items, size_t chunk_items, kvf_task *task,
                    void *context)
{
    if (device->backend->run)
        device->backend->run(device, n_items, chunk_items, task, context);
    else if (n_items)
        task(context, 0, n_items, 0);
}

static void count_bytes(kvf_device *device, kvf_memory_class klass, size_t bytes)
{
    device->live_bytes[klass] += bytes;
    if (device->live_bytes[klass] > device->peak_bytes[klass])
        device->peak_bytes[klass] = device->live_bytes[klass];
}

static bool has_empty_slabs(const kvf_device *device)
{
    bool has = false;
    for (int i = 0; i < KVF_SLAB_SIZES; i++)
        has = has || device->slab_sizes[i].empty;
    return has;
}

void *kvf_device_alloc(kvf_device *device, kvf_memory_class klass, kvf_place place, size_t bytes)
{
    void *memory = device->backend->alloc(device, bytes, place);
    if (!memory && has_empty_slabs(device)) {
        kvf_device_trim(device);
        memory = device->backend->alloc(device, bytes, place);
    }
    if (memory)
        count_bytes(device, klass, bytes);
    return memory;
}

void kvf_device_reclassify(kvf_device *device, kvf_memory_class from, kvf_memory_class to,
                           size_t bytes)
{
    KVF_ASSERT(device->live_bytes[from] >= bytes);
    device->live_bytes[from] -= bytes;
    count_bytes(device, to, bytes);
}

void kvf_device_release(kvf_device *device, kvf_memory_class klass, void *memory, size_t bytes)
{
    if (!memory)
        return;
    KVF_ASSERT(device->live_bytes[klass] >= bytes);
    device->live_bytes[klass] -= bytes;
    device->backend->release(device, memory, bytes);
}

/* ---- Public stages: arguments are checked here, once, for all backends ------- */

static kvf_status check_rows(const kvf_rows *rows, uint32_t width, const char *what,
                             kvf_error *error)
{
    const size_t row_bytes = kvf_format_row_bytes(rows->format, rows->width);
    if (rows->width != width || row_bytes == 0)
        return kvf_fail(error, KVF_INVALID_ARGUMENT,
                        "%s: no format %d in width %u; width %u is needed", what, (int)rows->format,
                        rows->width, width);
    if (rows->page_rows == 0)
        return kvf_fail(error, KVF_INVALID_ARGUMENT, "%s: page_rows is 0", what);
    if (rows->n_rows == 0 || rows->pages)
        return KVF_OK;
    const size_t page_bytes = kvf_format_page_bytes(rows->format, rows->width, rows->page_rows);
    if (!rows->base || page_bytes == 0)
        return kvf_fail(error, KVF_INVALID_ARGUMENT, "%s: neither pages nor base is given", what);
    if (rows->n_rows > rows->page_rows && rows->page_stride_bytes < page_bytes)
        return kvf_fail(error, KVF_INVALID_ARGUMENT,
                        "%s: page_stride_bytes is %zu; a page of %u rows has %zu bytes", what,
                        rows->page_stride_bytes, rows->page_rows, page_bytes);
    return KVF_OK;
}

static kvf_status check_workspace(size_t needed, const void *workspace, size_t given,
                                  const char *what, kvf_error *error)
{
    if (given < needed || (needed && !workspace) || (uintptr_t)workspace % 64)
        return kvf_fail(error, KVF_INVALID_ARGUMENT,
                        "%s: workspace has %zu bytes; %zu are needed, 64-byte aligned", what, given,
                        needed);
    return KVF_OK;
}

/*
 * An operation on the arguments as they are, or on copies where the device cannot address
 * what the caller has; until it is done. With `found`: where it is to tell, empty.
 */
#define KVF_RUN(operation, args)                                                                   \
    (device->backend->addresses_host_memory                                                        \
         ? (device->backend->operation(device, args, 1), device->backend->wait(device, error))     \
         : kvf_mirror_##operation(device, args, error))
#define KVF_RUN_FOUND(operation, args, found)                                                      \
    (*(found).place = (kvf_finding){.first_bad = KVF_NOTHING_FOUND},                               \
     device->backend->addresses_host_memory                                                        \
         ? (device->backend->operation(device, args, &(found), 1),                                 \
            device->backend->wait(device, error))                                                  \
         : kvf_mirror_##operation(device, args, found, error))

kvf_status kvf_pack(kvf_device *device, kvf_pack_args *args, kvf_error *error)
{
    KVF_FP_DOOR();
    const uint32_t width = args->out.width == KVF_INDEX_WIDTH ? KVF_INDEX_WIDTH : KVF_ROW_WIDTH;
    const kvf_grid row_grid = width == KVF_INDEX_WIDTH ? KVF_GRID_FP4 : KVF_GRID_FP8;
    kvf_status status = check_rows(&args->out, width, "kvf_pack: out", error);
    if (status != KVF_OK)
        return status;
    if (args->n_rows && (!args->rows || args->stride < width))
        return kvf_fail(error, KVF_INVALID_ARGUMENT, "kvf_pack: rows is NULL or stride %zu < %u",
                        args->stride, width);
    const kvf_grid contained = kvf_format_get(args->out.format)->grid;
    if ((args->grid != KVF_GRID_NONE && args->grid != row_grid) ||
        (contained != KVF_GRID_NONE && args->grid != contained))
        return kvf_fail(error, KVF_INVALID_ARGUMENT,
                        "kvf_pack: grid %d does not fit format %s in width %u", (int)args->grid,
                        kvf_format_name(args->out.format), width);
    if (args->hadamard && width != KVF_INDEX_WIDTH)
        return kvf_fail(error, KVF_INVALID_ARGUMENT, "kvf_pack: hadamard needs width 128, not %u",
                        width);
    if (args->n_rows > args->out.n_rows)
        return kvf_fail(error, KVF_INVALID_ARGUMENT, "kvf_pack: %llu rows into a view of %llu",
                        (unsigned long long)args->n_rows, (unsigned long long)args->out.n_rows);
    args->inexact_rows = 0;
    const kvf_findings place = {.place = device->finding};
    status = KVF_RUN_FOUND(pack, args, place);
    if (status != KVF_OK)
        return status;
    const kvf_found found = kvf_found_of(device->finding->first_bad);
    if (found.reason == KVF_OK) {
        args->inexact_rows = device->finding->inexact_rows;
        return kvf_ok(error);
    }
    args->bad_row = found.index;
    args->bad_dim = found.dim;
    return kvf_fail(error, found.reason, "kvf_pack: row %llu, dimension %u: %s",
                    (unsigned long long)found.index, found.dim, kvf_status_string(found.reason));
}

kvf_status kvf_unpack(kvf_device *device, const kvf_unpack_args *args, kvf_error *error)
{
    KVF_FP_DOOR();
    const uint32_t width = args->in.width == KVF_INDEX_WIDTH ? KVF_INDEX_WIDTH : KVF_ROW_WIDTH;
    const kvf_status status = check_rows(&args->in, width, "kvf_unpack: in", error);
    if (status != KVF_OK)
        return status;
    if (args->n_rows && (!args->out || args->stride < width))
        return kvf_fail(error, KVF_INVALID_ARGUMENT, "kvf_unpack: out is NULL or stride %zu < %u",
                        args->stride, width);
    for (uint64_t i = 0; args->row_list && i < args->n_rows; i++)
        if (args->row_list[i] < 0 || (uint64_t)args->row_list[i] >= args->in.n_rows)
            return kvf_fail(error, KVF_INVALID_ARGUMENT,
                            "kvf_unpack: row_list[%llu] is %d; the view has %llu rows",
                            (unsigned long long)i, args->row_list[i],
                            (unsigned long long)args->in.n_rows);
    if (!args->row_list &&
        (args->first_row > args->in.n_rows || args->n_rows > args->in.n_rows - args->first_row))
        return kvf_fail(error, KVF_INVALID_ARGUMENT,
                        "kvf_unpack: rows %llu + %llu of a view of %llu",
                        (unsigned long long)args->first_row, (unsigned long long)args->n_rows,
                        (unsigned long long)args->in.n_rows);
    if (!device->backend->addresses_host_memory)
        return kvf_mirror_unpack(device, args, error);
    device->backend->unpack(device, args);
    return device->backend->wait(device, error);
}

/* Whether query i would see more rows than there are; a count that is computed may need 64 bits. */
static bool sees_more(const uint32_t *n_visible, uint64_t first_token, uint32_t ratio, uint32_t i,
                      uint64_t n_rows)
{
    const uint64_t end = first_token + i + 1;
    return ratio ? end <= first_token || end / ratio > n_rows : n_visible[i] > n_rows;
}

size_t kvf_select_workspace_bytes(const kvf_device *device, const kvf_select_args *args)
{
    return device->backend->select_workspace_bytes(device->n_threads, args);
}

/* What select scores: codes, or f32 of the same grid. */
static bool is_index_format(kvf_format_id format)
{
    return format == KVF_FORMAT_FP4 || format == KVF_FORMAT_F32;
}

kvf_status kvf_select(kvf_device *device, const kvf_select_args *args, kvf_error *error)
{
    KVF_FP_DOOR();
    kvf_status status = check_rows(&args->queries, KVF_INDEX_WIDTH, "kvf_select: queries", error);
    if (status == KVF_OK)
        status = check_rows(&args->keys, KVF_INDEX_WIDTH, "kvf_select: keys", error);
    if (status != KVF_OK)
        return status;
    if (args->n_queries && (!args->head_weights || (!args->n_visible && !args->ratio) ||
                            !args->list || !args->list_len))
        return kvf_fail(error, KVF_INVALID_ARGUMENT,
                        "kvf_select: head_weights, n_visible, list or list_len is NULL");
    if (args->n_heads == 0 || args->n_heads % 8 || args->top_k == 0)
        return kvf_fail(
            error, KVF_INVALID_ARGUMENT,
            "kvf_select: n_heads %u, top_k %u; heads come in eights and k is at least 1",
            args->n_heads, args->top_k);
    if (args->queries.n_rows < (uint64_t)args->n_queries * args->n_heads ||
        args->keys.n_rows > INT32_MAX)
        return kvf_fail(error, KVF_INVALID_ARGUMENT,
                        "kvf_select: %llu query rows for %u queries of %u heads, %llu keys",
                        (unsigned long long)args->queries.n_rows, args->n_queries, args->n_heads,
                        (unsigned long long)args->keys.n_rows);
    if (!is_index_format(args->queries.format) || !is_index_format(args->keys.format))
        return kvf_fail(error, KVF_INVALID_ARGUMENT,
                        "kvf_select: index rows are fp4 or f32, not queries %s with keys %s",
                        kvf_format_name(args->queries.format), kvf_format_name(args->keys.format));
    for (uint32_t i = 0; i < args->n_queries; i++)
        if (sees_more(args->n_visible, args->first_token, args->ratio, i, args->keys.n_rows))
            return kvf_fail(error, KVF_INVALID_ARGUMENT,
                            "kvf_select: query %u sees %u rows; there are %llu keys", i,
                            kvf_select_visible(args, i), (unsigned long long)args->keys.n_rows);
    status = check_workspace(kvf_select_workspace_bytes(device, args), args->workspace,
                             args->workspace_bytes, "kvf_select", error);
    if (status != KVF_OK)
        return status;
    const kvf_check_args weights = {
        .n_rows = args->n_queries, .width = args->n_heads, .values = args->head_weights};
    const kvf_findings place = {.place = device->finding};
    status = KVF_RUN_FOUND(check, &weights, place);
    if (status == KVF_OK)
        status = KVF_RUN(select, args);
    const kvf_found found = kvf_found_of(device->finding->first_bad);
    if (status != KVF_OK || found.reason == KVF_OK)
        return status;
    return kvf_fail(error, found.reason,
                    "kvf_select: a head weight is not finite: query %llu, "
                    "head %u",
                    (unsigned long long)found.index, found.dim);
}

size_t kvf_attend_workspace_bytes(const kvf_device *device, const kvf_attend_args *args)
{
    return device->backend->attend_workspace_bytes(device->n_threads, args);
}

static kvf_status check_list(const kvf_attend_args *args, kvf_error *error)
{
    for (uint32_t i = 0; i < args->n_queries; i++) {
        if (args->list_len[i] > args->list_stride)
            return kvf_fail(error, KVF_INVALID_ARGUMENT,
                            "kvf_attend: list_len[%u] is %u; list_stride is %zu", i,
                            args->list_len[i], args->list_stride);
        const int32_t *list = args->list + i * args->list_stride;
        for (uint32_t j = 0; j < args->list_len[i]; j++)
            if (list[j] < -1 || (list[j] >= 0 && (uint64_t)list[j] >= args->rows.n_rows))
                return kvf_fail(error, KVF_INVALID_ARGUMENT,
                                "kvf_attend: list[%u][%u] is %d; there are %llu rows", i, j,
                                list[j], (unsigned long long)args->rows.n_rows);
    }
    return KVF_OK;
}

static kvf_status check_attend_rows(const kvf_attend_args *args, kvf_error *error)
{
    kvf_status status = check_rows(&args->rows, KVF_ROW_WIDTH, "kvf_attend: rows", error);
    if (status != KVF_OK)
        return status;
    const int modes = (args->list != NULL) + (args->mask_f32 != NULL) + (args->mask_f16 != NULL);
    if (modes > 1)
        return kvf_fail(error, KVF_INVALID_ARGUMENT,
                        "kvf_attend: %d of list, mask_f32 and mask_f16 are given; one at most",
                        modes);
    if (args->list)
        return args->list_len ? check_list(args, error)
                              : kvf_fail(error, KVF_INVALID_ARGUMENT, "kvf_attend: no list_len");
    if (!args->n_visible && !args->ratio)
        return kvf_fail(error, KVF_INVALID_ARGUMENT,
                        "kvf_attend: n_visible is NULL and ratio is 0");
    for (uint32_t i = 0; i < args->n_queries; i++)
        if (sees_more(args->n_visible, args->first_token, args->ratio, i,
                      modes && args->mask_stride < args->rows.n_rows ? args->mask_stride
                                                                     : args->rows.n_rows))
            return kvf_fail(error, KVF_INVALID_ARGUMENT,
                            "kvf_attend: query %u sees %u rows; there are %llu, mask stride %zu", i,
                            kvf_attend_visible(args, i), (unsigned long long)args->rows.n_rows,
                            args->mask_stride);
    return KVF_OK;
}

/* Whether the view has every token that the queries see. */
static kvf_status check_window(const kvf_attend_args *args, kvf_error *error)
{
    const uint64_t last = args->first_token + (args->n_queries - 1);
    const uint64_t oldest =
        args->first_token < args->window_tokens ? 0 : args->first_token - args->window_tokens + 1;
    if (last >= args->first_token && args->window_first <= oldest &&
        last - args->window_first < args->window.n_rows)
        return KVF_OK;
    return kvf_fail(error, KVF_INVALID_ARGUMENT,
                    "kvf_attend: a window of %llu rows from token %llu on; %u queries from token "
                    "%llu on see %u tokens each",
                    (unsigned long long)args->window.n_rows, (unsigned long long)args->window_first,
                    args->n_queries, (unsigned long long)args->first_token, args->window_tokens);
}

kvf_status kvf_attend(kvf_device *device, const kvf_attend_args *args, kvf_error *error)
{
    KVF_FP_DOOR();
    kvf_status status = KVF_OK;
    if (args->window_tokens)
        status = check_rows(&args->window, KVF_ROW_WIDTH, "kvf_attend: window", error);
    if (status == KVF_OK && args->rows.n_rows)
        status = check_attend_rows(args, error);
    if (status != KVF_OK)
        return status;
    if (args->n_heads == 0 || (args->n_queries && (!args->q || !args->out)))
        return kvf_fail(error, KVF_INVALID_ARGUMENT,
                        "kvf_attend: n_heads is 0, or q or out is NULL");
    if (args->window_tokens && args->n_queries)
        status = check_window(args, error);
    if (status != KVF_OK)
        return status;
    status = check_workspace(kvf_attend_workspace_bytes(device, args), args->workspace,
                             args->workspace_bytes, "kvf_attend", error);
    if (status != KVF_OK)
        return status;
    return KVF_RUN(attend, args);
}
