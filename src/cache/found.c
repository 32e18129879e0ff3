/*
 * What the operations of a chunk found wrong with its data: emptied by begin, read once, at
 * the chunk's end, and told as an error that names the place.
 */
#include "cache/session.h"
#include "error.h"

void kvf_session_clear_found(kvf_session *session)
{
    const size_t n = (size_t)session->geometry.n_layers * KVF_FOUND_PLACES;
    for (size_t i = 0; i < n; i++)
        session->found[i] = (kvf_finding){.first_bad = KVF_NOTHING_FOUND};
    session->device->backend->write(session->device, session->scratch.found, session->found,
                                    session->size.found_bytes);
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

static kvf_status first_found(const kvf_session *session, kvf_error *error)
{
    for (uint32_t layer = 0; layer < session->geometry.n_layers; layer++)
        for (int place = 0; place < KVF_FOUND_PLACES; place++) {
            const kvf_found found =
                kvf_found_of(session->found[(size_t)layer * KVF_FOUND_PLACES + place].first_bad);
            if (found.reason != KVF_OK)
                return fail(session, layer, (kvf_found_place)place, found, error);
        }
    return KVF_OK;
}

kvf_status kvf_session_settle(kvf_session *session, kvf_error *error)
{
    kvf_device *device = session->device;
    if (session->chunk_tokens == 0)
        return kvf_fail(error, KVF_INVALID_ARGUMENT, "no chunk is open: call begin first");
    if (session->settled)
        return kvf_ok(error);
    device->backend->read(device, session->found, session->scratch.found,
                          session->size.found_bytes);
    kvf_status status = device->backend->wait(device, error);
    if (status == KVF_OK)
        status = first_found(session, error);
    if (status != KVF_OK) {
        kvf_session_drop(session);
        return status;
    }
    session->settled = true;
    return kvf_ok(error);
}
