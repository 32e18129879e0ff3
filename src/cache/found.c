/*
 * What the operations of a batch found wrong with the data of each item: emptied by begin, read
 * once, at the end, and told as an error that names the place.
 */
#include "cache/batch.h"
#include "error.h"

size_t kvf_batch_item_found_bytes(const kvf_batch *batch)
{
    return (size_t)batch->geometry.n_layers * KVF_FOUND_PLACES * sizeof(kvf_finding);
}

void kvf_batch_clear_found(kvf_batch *batch)
{
    const size_t bytes = batch->n_items * kvf_batch_item_found_bytes(batch);
    for (size_t i = 0; i < bytes / sizeof(kvf_finding); i++)
        batch->found[i] = (kvf_finding){.first_bad = KVF_NOTHING_FOUND};
    batch->device->backend->write(batch->device, batch->scratch.found, batch->found, bytes);
}

uint64_t kvf_batch_inexact_rows(const kvf_batch *batch, uint32_t item)
{
    uint64_t n = 0;
    for (uint32_t layer = 0; layer < batch->geometry.n_layers; layer++) {
        const kvf_finding *found = kvf_batch_found(batch, batch->found, item, layer);
        n += found[KVF_FOUND_ROWS].inexact_rows + found[KVF_FOUND_INDEX_ROWS].inexact_rows;
    }
    return n;
}

/* A row of those that compress was to make: by its number, or by a token that it pools. */
static kvf_status fail_compressed(const kvf_session *session, uint32_t layer, const char *what,
                                  uint32_t width, kvf_found found, kvf_error *error)
{
    const uint64_t first = session->header->n_tokens;
    const kvf_layer kind = session->geometry.layers[layer];
    uint64_t row = first / kind.ratio + found.index;
    if (!found.made) {
        const bool next = kind.kind == KVF_LAYER_CSA && found.dim < width; /* Ca: the row after */
        row = (first + found.index) / kind.ratio + next;
    }
    return kvf_fail(error, found.reason, "layer %u, %s row %llu, dimension %u: %s", layer, what,
                    (unsigned long long)row, found.dim % width, kvf_status_string(found.reason));
}

static kvf_status fail_query(const kvf_session *session, uint32_t layer, const char *what,
                             uint32_t n_heads, kvf_found found, kvf_error *error)
{
    return kvf_fail(error, found.reason, "layer %u, %s of token %llu, head %u, dimension %u: %s",
                    layer, what,
                    (unsigned long long)(session->header->n_tokens + found.index / n_heads),
                    (uint32_t)(found.index % n_heads), found.dim, kvf_status_string(found.reason));
}

static kvf_status fail(const kvf_session *session, uint32_t layer, kvf_found_place place,
                       kvf_found found, kvf_error *error)
{
    const kvf_geometry *geometry = &session->geometry;
    switch (place) {
    case KVF_FOUND_WINDOW:
        return kvf_fail(error, found.reason, "layer %u, window row %llu, dimension %u: %s", layer,
                        (unsigned long long)found.index, found.dim,
                        kvf_status_string(found.reason));
    case KVF_FOUND_ROWS:
        return fail_compressed(session, layer, "compressed", KVF_ROW_WIDTH, found, error);
    case KVF_FOUND_INDEX_ROWS:
        return fail_compressed(session, layer, "index", KVF_INDEX_WIDTH, found, error);
    case KVF_FOUND_INDEX_QUERIES:
        return fail_query(session, layer, "index query", geometry->n_index_heads, found, error);
    case KVF_FOUND_INDEX_WEIGHTS:
        return kvf_fail(error, found.reason, "layer %u, index weight of token %llu, head %u: %s",
                        layer, (unsigned long long)(session->header->n_tokens + found.index),
                        found.dim, kvf_status_string(found.reason));
    case KVF_FOUND_QUERIES:
        return fail_query(session, layer, "query", geometry->n_heads, found, error);
    case KVF_FOUND_PLACES: break;
    }
    return KVF_OK;
}

kvf_status kvf_batch_first_found(const kvf_batch *batch, uint32_t item, kvf_error *error)
{
    for (uint32_t layer = 0; layer < batch->geometry.n_layers; layer++)
        for (int place = 0; place < KVF_FOUND_PLACES; place++) {
            const kvf_found found =
                kvf_found_of(kvf_batch_found(batch, batch->found, item, layer)[place].first_bad);
            if (found.reason != KVF_OK)
                return fail(batch->sessions[item], layer, (kvf_found_place)place, found, error);
        }
    return KVF_OK;
}
