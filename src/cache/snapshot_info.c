/* What a file says of itself, without a session. */
#include <stdlib.h>
#include <string.h>

#include "cache/session.h"
#include "cache/snapshot.h"
#include "error.h"

static kvf_snapshot_info describe(const kvf_snapshot_index *index)
{
    const kvf_snapshot_header *header = &index->header;
    kvf_snapshot_info info = {.version = header->session.version,
                              .profile = (kvf_profile_id)header->session.profile,
                              .grid_off = header->session.flags & KVF_SNAPSHOT_GRID_OFF,
                              .n_tokens = header->session.n_tokens,
                              .max_tokens = header->session.max_tokens,
                              .model_fingerprint = header->session.model_fingerprint,
                              .generation = header->generation,
                              .file_bytes = index->file_bytes,
                              .n_parts = header->n_parts,
                              .n_headers = index->in_both ? 2 : 1,
                              .geometry = index->geometry};
    if (index->live_bytes < index->file_bytes)
        info.unused_bytes = index->file_bytes - index->live_bytes;
    memcpy(info.caller_state, header->caller_state, sizeof info.caller_state);
    for (uint32_t i = 0; i < header->n_parts; i++)
        info.compressed = info.compressed || index->parts[i].codec != KVF_CODEC_NONE;
    return info;
}

kvf_status kvf_snapshot_info_read(const char *path, kvf_snapshot_info *info, kvf_error *error)
{
    const kvf_io *io = &kvf_io_system;
    kvf_snapshot_index index;
    int file;
    memset(info, 0, sizeof *info);
    kvf_status status = kvf_snapshot_open_file(io, path, false, &file, error);
    if (status != KVF_OK)
        return status;
    status = kvf_snapshot_read_index(io, file, path, &index, error);
    io->close(io, file);
    if (status != KVF_OK)
        return status;
    *info = describe(&index);
    kvf_snapshot_free_index(&index);
    return kvf_ok(error);
}

/* Parts that were packed unpack, and token ids are of the vocabulary: all that a load refuses. */
static kvf_status check_content(kvf_snapshot_map *map, const kvf_snapshot_index *index,
                                kvf_error *error)
{
    const kvf_snapshot_shape shape = kvf_snapshot_shape_of(index);
    uint8_t *unpacked = malloc(KVF_SNAPSHOT_PART_BYTES);
    if (!unpacked)
        return kvf_fail(error, KVF_OUT_OF_MEMORY, "%s: no memory to unpack parts",
                        kvf_printable(map->path).text);
    kvf_status status = KVF_OK;
    for (uint32_t i = 0; i < map->n_parts && status == KVF_OK; i++) {
        const kvf_part *part = &map->parts[i];
        const uint8_t *data;
        kvf_stream stream;
        kvf_stream_of(&shape, part, &stream);
        status = kvf_snapshot_part_data(map, i, (uint64_t)part->n_pages * stream.page_bytes,
                                        unpacked, &data, error);
        if (status == KVF_OK && part->kind == KVF_STREAM_TOKENS)
            status = kvf_snapshot_check_tokens(map->path, shape.geometry->vocab, part, data,
                                               shape.n_tokens, error);
    }
    free(unpacked);
    return status;
}

kvf_status kvf_snapshot_verify(const char *path, kvf_error *error)
{
    kvf_snapshot_index index;
    kvf_snapshot_map *map;
    kvf_status status = kvf_snapshot_open(&kvf_io_system, path, &index, &map, true, error);
    if (status != KVF_OK)
        return status;
    status = check_content(map, &index, error);
    kvf_page_owner_release(&map->owner);
    return status == KVF_OK ? kvf_ok(error) : status;
}

/* The ids of one part, as many as there is room for. */
static kvf_status copy_tokens(kvf_snapshot_map *map, uint32_t i, uint8_t *unpacked, int32_t *tokens,
                              uint64_t n_tokens, kvf_error *error)
{
    const kvf_part *part = &map->parts[i];
    const uint64_t first = (uint64_t)part->first_page * KVF_SNAPSHOT_PAGE_BYTES;
    const uint64_t bytes = (uint64_t)part->n_pages * KVF_SNAPSHOT_PAGE_BYTES;
    const uint64_t wanted = n_tokens * sizeof *tokens;
    const uint8_t *data;
    const kvf_status status = kvf_snapshot_part_data(map, i, bytes, unpacked, &data, error);
    if (status == KVF_OK && wanted > first)
        memcpy((uint8_t *)tokens + first, data, wanted - first < bytes ? wanted - first : bytes);
    return status;
}

kvf_status kvf_snapshot_tokens(const char *path, int32_t *tokens, uint64_t capacity,
                               kvf_error *error)
{
    kvf_snapshot_index index;
    kvf_snapshot_map *map;
    kvf_status status = kvf_snapshot_open(&kvf_io_system, path, &index, &map, false, error);
    if (status != KVF_OK)
        return status;
    const uint64_t held = index.header.session.n_tokens;
    uint8_t *unpacked = malloc(KVF_SNAPSHOT_PART_BYTES);
    if (!unpacked)
        status = kvf_fail(error, KVF_OUT_OF_MEMORY, "%s: no memory to unpack parts",
                          kvf_printable(path).text);
    for (uint32_t i = 0; status == KVF_OK && i < map->n_parts; i++)
        if (map->parts[i].kind == KVF_STREAM_TOKENS)
            status =
                copy_tokens(map, i, unpacked, tokens, held < capacity ? held : capacity, error);
    free(unpacked);
    kvf_page_owner_release(&map->owner);
    return status == KVF_OK ? kvf_ok(error) : status;
}

/* ---- What a session carries into its file ---------------------------------------------- */

uint8_t *kvf_session_caller_state(kvf_session *session)
{
    return session->caller_state;
}

void kvf_session_set_model_fingerprint(kvf_session *session, uint64_t fingerprint)
{
    session->header->model_fingerprint = fingerprint;
}

uint64_t kvf_session_model_fingerprint(const kvf_session *session)
{
    return session->header->model_fingerprint;
}

kvf_status kvf_session_check(kvf_session *session, kvf_error *error)
{
    for (uint32_t i = 0; i < session->geometry.n_layers; i++) {
        kvf_layer_cache *layer = &session->layers[i];
        kvf_paged_rows *const all[] = {&layer->window, &layer->rows, &layer->index_rows};
        for (size_t j = 0; j < sizeof all / sizeof *all; j++) {
            const kvf_status status = kvf_paged_rows_check(
                all[j], all[j]->first_row + all[j]->n_pages * KVF_PAGE_ROWS, error);
            if (status != KVF_OK)
                return status;
        }
    }
    return kvf_ok(error);
}
