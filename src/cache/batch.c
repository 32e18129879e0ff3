/*
 * Batches: which sessions go through the layers together, and what becomes of each. Stages are
 * in stages.c, one session's tokens in chunks.c.
 */
#include "cache/batch.h"

#include <stdlib.h>
#include <string.h>

#include "error.h"

/* ---- Opening ------------------------------------------------------------------ */

static kvf_status open_host_side(kvf_batch *batch, kvf_error *error)
{
    const size_t n = batch->options.batch_sessions;
    batch->found = malloc(batch->size.found_bytes);
    kvf_stage_args *stage = &batch->stage;
    stage->found = calloc(n, sizeof *stage->found);
    stage->check = calloc(n, sizeof *stage->check);
    stage->pack = calloc(n, sizeof *stage->pack);
    stage->compress = calloc(n, sizeof *stage->compress);
    stage->select = calloc(n, sizeof *stage->select);
    stage->attend = calloc(n, sizeof *stage->attend);
    batch->sessions = calloc(n, sizeof *batch->sessions);
    batch->spans = calloc(n, sizeof *batch->spans);
    if (!batch->found || !stage->found || !stage->check || !stage->pack || !stage->compress ||
        !stage->select || !stage->attend || !batch->sessions || !batch->spans)
        return kvf_fail(error, KVF_OUT_OF_MEMORY, "no memory for a batch of %zu sessions", n);
    return KVF_OK;
}

kvf_status kvf_batch_open(kvf_device *device, const kvf_geometry *geometry,
                          const kvf_session_options *options, kvf_batch **out, kvf_error *error)
{
    *out = NULL;
    kvf_session_options resolved;
    kvf_status status = kvf_options_resolve(geometry, options, &resolved, error);
    if (status != KVF_OK)
        return status;
    resolved.backend = device->backend->name;
    resolved.n_threads = device->n_threads;
    status = kvf_batch_check_memory(device, geometry, &resolved, error);
    if (status != KVF_OK)
        return status;
    kvf_batch *batch = calloc(1, sizeof *batch);
    if (!batch)
        return kvf_fail(error, KVF_OUT_OF_MEMORY, "no memory for a batch");
    batch->device = device;
    batch->profile = kvf_profile_get(resolved.profile);
    batch->geometry = *geometry;
    batch->options = resolved;
    kvf_scratch_sizes(geometry, &resolved, device->backend, &batch->size);
    status = open_host_side(batch, error);
    if (status == KVF_OK)
        status = kvf_scratch_open(batch, error);
    if (status != KVF_OK) {
        kvf_batch_close(batch);
        return status;
    }
    *out = batch;
    return kvf_ok(error);
}

void kvf_batch_close(kvf_batch *batch)
{
    if (!batch)
        return;
    kvf_batch_drop(batch);
    kvf_scratch_close(batch);
    free(batch->found);
    free(batch->stage.found);
    free(batch->stage.check);
    free(batch->stage.pack);
    free(batch->stage.compress);
    free(batch->stage.select);
    free(batch->stage.attend);
    free(batch->sessions);
    free(batch->spans);
    free(batch);
}

/* ---- Items ---------------------------------------------------------------------- */

kvf_status kvf_session_check_free(const kvf_session *session, const char *what, kvf_error *error)
{
    if (!session->batch)
        return KVF_OK;
    return kvf_fail(error, KVF_INVALID_ARGUMENT,
                    "%s: the session is in an open batch, with %u tokens: commit or drop it first",
                    what, session->chunk_tokens);
}

kvf_status kvf_session_check_ready(const kvf_session *session, const char *what, kvf_error *error)
{
    const kvf_status status = kvf_session_check_free(session, what, error);
    return status == KVF_OK ? session->device->backend->wait(session->device, error) : status;
}

static void leave(kvf_batch *batch, uint32_t item)
{
    batch->sessions[item]->batch = NULL;
    batch->sessions[item] = NULL;
}

void kvf_batch_fail(kvf_batch *batch, uint32_t item, kvf_status status)
{
    batch->items[item].status = status;
    kvf_chunk_drop(batch->sessions[item]);
    leave(batch, item);
}

static void close_items(kvf_batch *batch)
{
    batch->items = NULL;
    batch->n_items = 0;
    batch->n_tokens = 0;
    batch->settled = false;
}

void kvf_batch_drop(kvf_batch *batch)
{
    kvf_device *device = batch->device;
    /* What its operations lack is told here, to nobody, or the next batch would be told. */
    if (batch->n_items > 0)
        device->backend->wait(device, NULL);
    for (uint32_t i = 0; i < batch->n_items; i++)
        if (batch->sessions[i]) {
            kvf_chunk_drop(batch->sessions[i]);
            leave(batch, i);
        }
    close_items(batch);
}

/* The first of n items that failed; there is one. */
static kvf_status first_failure(const kvf_batch_item *items, uint32_t n, kvf_error *error)
{
    uint32_t i = 0;
    while (i + 1 < n && items[i].status == KVF_OK)
        i++;
    if (error)
        *error = items[i].error;
    return items[i].status;
}

kvf_status kvf_batch_left(kvf_batch *batch, kvf_error *error)
{
    for (uint32_t i = 0; i < batch->n_items; i++)
        if (batch->sessions[i])
            return kvf_ok(error);
    const kvf_status status = first_failure(batch->items, batch->n_items, error);
    close_items(batch);
    return status;
}

/* ---- begin ------------------------------------------------------------------------ */

static kvf_status check_counts(const kvf_batch *batch, const kvf_batch_item *items,
                               uint32_t n_items, kvf_error *error)
{
    uint64_t n_tokens = 0;
    if (n_items == 0 || n_items > batch->options.batch_sessions)
        return kvf_fail(error, KVF_INVALID_ARGUMENT,
                        "a batch of %u sessions; it was opened for 1 to %u", n_items,
                        batch->options.batch_sessions);
    for (uint32_t i = 0; i < n_items; i++) {
        n_tokens += items[i].n;
        if (!items[i].session || !items[i].ids)
            return kvf_fail(error, KVF_INVALID_ARGUMENT, "item %u of the batch has no %s", i,
                            items[i].session ? "token ids" : "session");
        if (items[i].n == 0)
            return kvf_fail(error, KVF_INVALID_ARGUMENT, "item %u of the batch has no tokens", i);
    }
    if (n_tokens > batch->options.chunk_tokens)
        return kvf_fail(error, KVF_INVALID_ARGUMENT,
                        "a batch of %llu tokens; it was opened for 1 to %u",
                        (unsigned long long)n_tokens, batch->options.chunk_tokens);
    return KVF_OK;
}

/* Whether a session is of the kind that the batch was opened for. */
static kvf_status check_kind(const kvf_batch *batch, const kvf_session *session, uint32_t i,
                             kvf_error *error)
{
    if (session->device != batch->device)
        return kvf_fail(error, KVF_INVALID_ARGUMENT,
                        "the session of item %u is on another device than the batch", i);
    if (memcmp(&session->geometry, &batch->geometry, sizeof session->geometry) != 0)
        return kvf_fail(error, KVF_INVALID_ARGUMENT,
                        "the session of item %u has the geometry of another model", i);
    if (session->profile != batch->profile)
        return kvf_fail(error, KVF_INVALID_ARGUMENT,
                        "the session of item %u has profile %s; the batch was opened for %s", i,
                        session->profile->name, batch->profile->name);
    if (session->options.grid_off != batch->options.grid_off)
        return kvf_fail(error, KVF_INVALID_ARGUMENT,
                        "the session of item %u has its grid %s; the batch was opened with it %s",
                        i, session->options.grid_off ? "off" : "on",
                        batch->options.grid_off ? "off" : "on");
    return KVF_OK;
}

/* Enters the sessions, so that one that comes twice is seen; *n of them were. */
static kvf_status enter_sessions(kvf_batch *batch, const kvf_batch_item *items, uint32_t n_items,
                                 uint32_t *n, kvf_error *error)
{
    uint64_t fingerprint = 0;
    for (*n = 0; *n < n_items; ++*n) {
        kvf_session *session = items[*n].session;
        const kvf_status status = check_kind(batch, session, *n, error);
        if (status != KVF_OK)
            return status;
        if (session->batch == batch)
            return kvf_fail(error, KVF_INVALID_ARGUMENT,
                            "the session of item %u is in the batch twice", *n);
        if (session->batch)
            return kvf_fail(error, KVF_INVALID_ARGUMENT,
                            "the session of item %u is in another open batch", *n);
        const uint64_t own = session->header->model_fingerprint;
        if (own && fingerprint && own != fingerprint)
            return kvf_fail(error, KVF_INVALID_ARGUMENT,
                            "the session of item %u is of model %016llx, others of the batch of "
                            "%016llx",
                            *n, (unsigned long long)own, (unsigned long long)fingerprint);
        fingerprint = own ? own : fingerprint;
        session->batch = batch;
    }
    return KVF_OK;
}

static kvf_status check_request(kvf_batch *batch, const kvf_batch_item *items, uint32_t n_items,
                                kvf_error *error)
{
    uint32_t n_entered = 0;
    kvf_status status = check_counts(batch, items, n_items, error);
    if (status == KVF_OK)
        status = enter_sessions(batch, items, n_items, &n_entered, error);
    for (uint32_t i = 0; i < n_entered && status != KVF_OK; i++)
        items[i].session->batch = NULL;
    return status;
}

/* What an item alone may lack. A shorter context of the batch: its masks and workspaces. */
static kvf_status begin_item(const kvf_batch *batch, kvf_batch_item *item, uint8_t *passing)
{
    kvf_session *session = item->session;
    const uint64_t held = session->header->n_tokens;
    if (item->n > batch->options.max_tokens -
                      (held < batch->options.max_tokens ? held : batch->options.max_tokens))
        return kvf_fail(&item->error, KVF_CONTEXT_FULL,
                        "%llu tokens and %u more do not fit the context of %llu that the batch "
                        "was opened for",
                        (unsigned long long)held, item->n,
                        (unsigned long long)batch->options.max_tokens);
    return kvf_chunk_begin(session, item->ids, item->n, passing, &item->error);
}

static void begin_items(kvf_batch *batch)
{
    const uint64_t page_bytes =
        kvf_format_page_bytes(batch->profile->window_format, KVF_ROW_WIDTH, KVF_PAGE_ROWS);
    uint8_t *passing = batch->scratch.window; /* parts together have no more than the whole */
    for (uint32_t i = 0; i < batch->n_items; i++) {
        kvf_batch_item *item = &batch->items[i];
        batch->sessions[i] = item->session;
        batch->spans[i] =
            (kvf_item_span){.first = batch->n_tokens, .position = item->session->header->n_tokens};
        item->status = begin_item(batch, item, passing);
        if (item->status != KVF_OK) {
            leave(batch, i);
            continue;
        }
        memcpy(batch->scratch.tokens + batch->n_tokens, item->ids, item->n * sizeof *item->ids);
        passing += kvf_window_passing_pages(batch->geometry.window_tokens, item->n) * page_bytes;
        batch->spans[i].n = item->n;
        batch->n_tokens += item->n;
    }
}

kvf_status kvf_batch_begin(kvf_batch *batch, kvf_batch_item *items, uint32_t n_items,
                           kvf_error *error)
{
    kvf_batch_drop(batch);
    kvf_error why;
    const kvf_status status = check_request(batch, items, n_items, &why);
    for (uint32_t i = 0; i < n_items; i++) {
        items[i].status = status;
        items[i].error = why;
    }
    if (status != KVF_OK) {
        if (error)
            *error = why;
        return status;
    }
    batch->items = items;
    batch->n_items = n_items;
    batch->n_shortages = batch->device->n_shortages;
    batch->select_tokens = 0;
    begin_items(batch);
    kvf_batch_clear_found(batch);
    return kvf_batch_left(batch, error);
}

/* ---- The end ---------------------------------------------------------------------- */

static kvf_status check_open(const kvf_batch *batch, kvf_error *error)
{
    return batch->n_tokens
               ? KVF_OK
               : kvf_fail(error, KVF_INVALID_ARGUMENT, "no chunk is open: call begin first");
}

/* Another wait may have been told of what operations of the batch lacked. */
static kvf_status check_shortages(const kvf_batch *batch, kvf_error *error)
{
    if (batch->device->n_shortages == batch->n_shortages)
        return KVF_OK;
    return kvf_fail(error, KVF_OUT_OF_MEMORY, "an operation of the batch had no memory");
}

kvf_status kvf_batch_check_done(kvf_batch *batch, kvf_error *error)
{
    kvf_error why;
    if (check_shortages(batch, &why) == KVF_OK)
        return KVF_OK;
    for (uint32_t i = 0; i < batch->n_items; i++)
        if (batch->sessions[i]) {
            batch->items[i].error = why;
            kvf_batch_fail(batch, i, why.status);
        }
    return kvf_batch_left(batch, error);
}

kvf_status kvf_batch_settle(kvf_batch *batch, kvf_error *error)
{
    kvf_device *device = batch->device;
    kvf_error why;
    kvf_status status = check_open(batch, error);
    if (status != KVF_OK || batch->settled)
        return status == KVF_OK ? kvf_ok(error) : status;
    device->backend->read(device, batch->found, batch->scratch.found,
                          batch->n_items * kvf_batch_item_found_bytes(batch));
    status = device->backend->wait(device, &why);
    if (status == KVF_OK)
        status = check_shortages(batch, &why);
    for (uint32_t i = 0; i < batch->n_items; i++) {
        if (!batch->sessions[i])
            continue;
        kvf_status found = status;
        if (status != KVF_OK)
            batch->items[i].error = why;
        else
            found = kvf_batch_first_found(batch, i, &batch->items[i].error);
        if (found != KVF_OK)
            kvf_batch_fail(batch, i, found);
    }
    batch->settled = true;
    return kvf_batch_left(batch, error);
}

kvf_status kvf_batch_commit(kvf_batch *batch, kvf_error *error)
{
    kvf_status status = kvf_batch_settle(batch, error);
    if (status != KVF_OK)
        return status;
    for (uint32_t i = 0; i < batch->n_items; i++)
        if (batch->sessions[i] && batch->items[i].status != KVF_OK) /* the caller's */
            kvf_batch_fail(batch, i, batch->items[i].status);
    status = kvf_batch_left(batch, error);
    for (uint32_t i = 0; i < batch->n_items; i++) {
        if (!batch->sessions[i])
            continue;
        batch->sessions[i]->inexact_rows += kvf_batch_inexact_rows(batch, i);
        kvf_chunk_commit(batch->sessions[i]);
        leave(batch, i);
    }
    close_items(batch);
    return status;
}

/* ---- Reports ------------------------------------------------------------------------ */

const kvf_session_options *kvf_batch_options(const kvf_batch *batch)
{
    return &batch->options;
}

kvf_item_span kvf_batch_span(const kvf_batch *batch, uint32_t item)
{
    return item < batch->n_items ? batch->spans[item] : (kvf_item_span){0};
}

uint32_t kvf_batch_n_tokens(const kvf_batch *batch)
{
    return batch->n_tokens;
}

const int32_t *kvf_batch_tokens(const kvf_batch *batch)
{
    return batch->scratch.tokens;
}

uint64_t kvf_batch_scratch_bytes(const kvf_batch *batch)
{
    return batch->scratch_bytes;
}
