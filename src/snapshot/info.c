/* What a file says of itself, without a session. */
#include <stdlib.h>
#include <string.h>

#include "error.h"
#include "snapshot/snapshot.h"

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
                              .n_checkpoints = header->n_checkpoints,
                              .logits_known = !(header->state & KVF_SNAPSHOT_LOGITS_UNKNOWN),
                              .geometry = index->geometry};
    if (index->live_bytes < index->file_bytes)
        info.unused_bytes = index->file_bytes - index->live_bytes;
    memcpy(info.caller_state, header->caller_state, sizeof info.caller_state);
    for (uint32_t i = 0; i < header->n_parts; i++)
        info.compressed = info.compressed || index->parts[i].codec != KVF_CODEC_NONE;
    return info;
}

/* Opens the file and reads its index, which is to be freed. */
static kvf_status read_file_index(const char *path, const kvf_io *io, kvf_snapshot_index *index,
                                  kvf_error *error)
{
    int file;
    kvf_status status = kvf_snapshot_open_file(io, path, false, &file, error);
    if (status != KVF_OK)
        return status;
    status = kvf_snapshot_read_index(io, file, path, index, error);
    io->close(io, file);
    return status;
}

kvf_status kvf_snapshot_info_from(const char *path, kvf_snapshot_info *info, const kvf_io *io,
                                  kvf_error *error)
{
    kvf_snapshot_index index;
    memset(info, 0, sizeof *info);
    const kvf_status status = read_file_index(path, io, &index, error);
    if (status != KVF_OK)
        return status;
    *info = describe(&index);
    kvf_snapshot_free_index(&index);
    return kvf_ok(error);
}

kvf_status kvf_snapshot_checkpoints_from(const char *path, uint64_t *n_tokens, uint32_t capacity,
                                         const kvf_io *io, kvf_error *error)
{
    kvf_snapshot_index index;
    const kvf_status status = read_file_index(path, io, &index, error);
    if (status != KVF_OK)
        return status;
    for (uint32_t i = 0; i < index.header.n_checkpoints && i < capacity; i++)
        n_tokens[i] = index.checkpoints[i].n_tokens;
    kvf_snapshot_free_index(&index);
    return kvf_ok(error);
}

kvf_status kvf_snapshot_checkpoints(const char *path, uint64_t *n_tokens, uint32_t capacity,
                                    kvf_error *error)
{
    return kvf_snapshot_checkpoints_from(path, n_tokens, capacity, &kvf_io_system, error);
}

kvf_status kvf_snapshot_info_read(const char *path, kvf_snapshot_info *info, kvf_error *error)
{
    return kvf_snapshot_info_from(path, info, &kvf_io_system, error);
}

/* What is to be done with the content of a part; KVF_OK goes on. */
typedef kvf_status (*part_visitor)(void *user, const kvf_snapshot_map *map, const kvf_part *part,
                                   const uint8_t *data, kvf_error *error);

/* Opens the file and brings all its parts, or those of token ids alone, to the visitor. */
static kvf_status visit_parts(const char *path, const kvf_io *io, bool tokens_alone,
                              part_visitor visit, void *user, kvf_error *error)
{
    kvf_snapshot_map *map;
    kvf_status status = kvf_snapshot_open(io, path, !tokens_alone, &map, error);
    if (status != KVF_OK)
        return status;
    const kvf_snapshot_shape shape = kvf_snapshot_shape_of(&map->index);
    uint8_t *unpacked = malloc(KVF_SNAPSHOT_PART_BYTES);
    if (!unpacked)
        status = kvf_fail(error, KVF_OUT_OF_MEMORY, "%s: no memory to unpack parts",
                          kvf_printable(path).text);
    for (uint32_t i = 0; i < map->index.header.n_parts && status == KVF_OK; i++) {
        const kvf_part *part = &map->index.parts[i];
        const uint8_t *data;
        kvf_stream stream;
        if (tokens_alone && part->kind != KVF_STREAM_TOKENS)
            continue;
        kvf_stream_of(&shape, part, &stream);
        status = kvf_snapshot_part_data(map, i, (uint64_t)part->n_pages * stream.page_bytes,
                                        unpacked, &data, error);
        if (status == KVF_OK)
            status = visit(user, map, part, data, error);
    }
    free(unpacked);
    kvf_page_owner_release(&map->owner);
    return status == KVF_OK ? kvf_ok(error) : status;
}

/* Parts that were packed unpack, and token ids are of the vocabulary: all that a load refuses. */
static kvf_status check_content(void *user, const kvf_snapshot_map *map, const kvf_part *part,
                                const uint8_t *data, kvf_error *error)
{
    (void)user;
    return part->kind == KVF_STREAM_TOKENS ? kvf_snapshot_check_tokens(map, part, data, error)
                                           : KVF_OK;
}

kvf_status kvf_snapshot_verify_on(const char *path, const kvf_io *io, kvf_error *error)
{
    return visit_parts(path, io, false, check_content, NULL, error);
}

kvf_status kvf_snapshot_verify(const char *path, kvf_error *error)
{
    return kvf_snapshot_verify_on(path, &kvf_io_system, error);
}

typedef struct wanted_tokens {
    int32_t *tokens;
    uint64_t capacity;
} wanted_tokens;

/* The ids of one part, as many as there is room for. */
static kvf_status copy_tokens(void *user, const kvf_snapshot_map *map, const kvf_part *part,
                              const uint8_t *data, kvf_error *error)
{
    (void)error;
    const wanted_tokens *wanted = user;
    const uint64_t held = map->index.header.session.n_tokens;
    const uint64_t end = (held < wanted->capacity ? held : wanted->capacity) * sizeof(int32_t);
    const uint64_t first = (uint64_t)part->first_page * KVF_SNAPSHOT_PAGE_BYTES;
    const uint64_t bytes = (uint64_t)part->n_pages * KVF_SNAPSHOT_PAGE_BYTES;
    if (end > first)
        memcpy((uint8_t *)wanted->tokens + first, data, end - first < bytes ? end - first : bytes);
    return KVF_OK;
}

kvf_status kvf_snapshot_tokens_from(const char *path, int32_t *tokens, uint64_t capacity,
                                    const kvf_io *io, kvf_error *error)
{
    wanted_tokens wanted = {tokens, capacity};
    return visit_parts(path, io, true, copy_tokens, &wanted, error);
}

kvf_status kvf_snapshot_tokens(const char *path, int32_t *tokens, uint64_t capacity,
                               kvf_error *error)
{
    return kvf_snapshot_tokens_from(path, tokens, capacity, &kvf_io_system, error);
}
