/*
 * A file that is read: header pages and the index, whether they can be believed (docs/FORMAT.md
 * 10.2 to 10.4), and the whole in memory, whose parts are compared with their checksums before
 * their first use.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

#include "cache/plan.h"
#include "snapshot/snapshot.h"
#include "checksum.h"
#include "error.h"

kvf_status kvf_snapshot_open_file(const kvf_io *io, const char *path, bool writable, int *file,
                                  kvf_error *error)
{
    struct stat info;
    /* O_NONBLOCK: a pipe in place of a file is refused, not waited for. */
    *file = io->open(io, path, (writable ? O_RDWR : O_RDONLY) | O_NONBLOCK, 0);
    if (*file < 0)
        return kvf_io_fail(path, "open", errno, error);
    kvf_status status = KVF_OK;
    if (io->stat(io, *file, &info) != 0)
        status = kvf_io_fail(path, "look at", errno, error);
    else if (!S_ISREG(info.st_mode))
        status =
            kvf_fail(error, KVF_FILE_IO, "%s: is not a regular file", kvf_printable(path).text);
    if (status != KVF_OK) {
        io->close(io, *file);
        *file = -1;
    }
    return status;
}

/* ---- Header pages ------------------------------------------------------------- */

static bool has_magic(const kvf_snapshot_header *header)
{
    return memcmp(header->session.magic, KVF_SNAPSHOT_MAGIC, 8) == 0;
}

static bool is_whole(const kvf_snapshot_header *header)
{
    return has_magic(header) &&
           kvf_checksum(header, offsetof(kvf_snapshot_header, checksum)) == header->checksum;
}

/*
 * The newer of the two that are whole. A header is written after what it speaks of is
 * on the disk, so one that is whole is to be believed: what it speaks of was damaged
 * later if it is not there, and the older state must not be passed off as the last.
 */
static kvf_status choose_header(const kvf_snapshot_header pages[KVF_SNAPSHOT_HEADERS],
                                const char *path, kvf_snapshot_index *index, kvf_error *error)
{
    const bool whole[] = {is_whole(&pages[0]), is_whole(&pages[1])};
    if (!whole[0] && !whole[1])
        return has_magic(&pages[0]) || has_magic(&pages[1])
                   ? kvf_fail(error, KVF_FILE_FORMAT, "%s: both headers are damaged",
                              kvf_printable(path).text)
                   : kvf_fail(error, KVF_FILE_FORMAT, "%s: is not a kvfold snapshot",
                              kvf_printable(path).text);
    index->in_both = memcmp(&pages[0], &pages[1], sizeof pages[0]) == 0;
    if (whole[0] && whole[1] && pages[0].generation == pages[1].generation && !index->in_both)
        return kvf_fail(error, KVF_FILE_FORMAT, "%s: two headers both say that they are save %llu",
                        kvf_printable(path).text, (unsigned long long)pages[0].generation);
    index->slot = !whole[0] || (whole[1] && pages[1].generation > pages[0].generation);
    index->header = pages[index->slot];
    const uint32_t version = index->header.session.version;
    if (version < 1 || version > KVF_SNAPSHOT_VERSION)
        return kvf_fail(error, KVF_UNSUPPORTED, "%s: snapshot version %u; this build reads 1 to %u",
                        kvf_printable(path).text, version, KVF_SNAPSHOT_VERSION);
    if (version == 1) /* which had no numbers there */
        index->header.n_checkpoints = index->header.state = 0;
    return KVF_OK;
}

static kvf_status check_header(const kvf_snapshot_index *index, const char *path, kvf_error *error)
{
    const kvf_snapshot_header *header = &index->header;
    const kvf_session_header *session = &header->session;
    /* Not damage: a newer build may have more of them. */
    if (!kvf_profile_get((kvf_profile_id)session->profile) ||
        session->flags & ~KVF_SNAPSHOT_GRID_OFF)
        return kvf_fail(error, KVF_UNSUPPORTED,
                        "%s: profile %u, flags %u; this build reads profiles 0 to %d and flag "
                        "%u",
                        kvf_printable(path).text, session->profile, session->flags,
                        KVF_PROFILE_COUNT - 1, KVF_SNAPSHOT_GRID_OFF);
    if (session->n_layers == 0 || session->n_layers > KVF_MAX_LAYERS)
        return kvf_fail(error, KVF_FILE_FORMAT, "%s: %u layers; 1 to %d are possible",
                        kvf_printable(path).text, session->n_layers, KVF_MAX_LAYERS);
    if (session->flags & KVF_SNAPSHOT_GRID_OFF && session->profile != KVF_PROFILE_LEGACY)
        return kvf_fail(error, KVF_FILE_FORMAT,
                        "%s: rows without the grid in profile %u; only %d has them",
                        kvf_printable(path).text, session->profile, KVF_PROFILE_LEGACY);
    if (session->n_tokens > session->max_tokens || session->max_tokens > header->model_max_tokens)
        return kvf_fail(
            error, KVF_FILE_FORMAT, "%s: %llu tokens in a context of %llu of a model's %llu",
            kvf_printable(path).text, (unsigned long long)session->n_tokens,
            (unsigned long long)session->max_tokens, (unsigned long long)header->model_max_tokens);
    if (header->state & ~(KVF_SNAPSHOT_FROM_START | KVF_SNAPSHOT_LOGITS_UNKNOWN) ||
        header->n_checkpoints > KVF_SNAPSHOT_MAX_CHECKPOINTS)
        return kvf_fail(error, KVF_UNSUPPORTED,
                        "%s: %u checkpoints, state %u; this build reads %u and states 0 to 3",
                        kvf_printable(path).text, header->n_checkpoints, header->state,
                        (unsigned)KVF_SNAPSHOT_MAX_CHECKPOINTS);
    if (header->end_bytes > index->file_bytes)
        return kvf_fail(error, KVF_FILE_FORMAT, "%s: has %llu bytes of %llu",
                        kvf_printable(path).text, (unsigned long long)index->file_bytes,
                        (unsigned long long)header->end_bytes);
    if (header->end_bytes % KVF_SNAPSHOT_PAGE_BYTES || header->generation == 0 ||
        header->generation == UINT64_MAX)
        return kvf_fail(error, KVF_FILE_FORMAT, "%s: save %llu that ends at %llu",
                        kvf_printable(path).text, (unsigned long long)header->generation,
                        (unsigned long long)header->end_bytes);
    const uint64_t bytes =
        kvf_snapshot_index_bytes(session->n_layers, header->n_checkpoints, header->n_parts);
    if (header->index_bytes != bytes || header->index_offset % KVF_SNAPSHOT_PAGE_BYTES ||
        header->index_offset < KVF_SNAPSHOT_HEADERS * KVF_SNAPSHOT_PAGE_BYTES ||
        header->index_offset > header->end_bytes ||
        kvf_snapshot_padded(bytes) > header->end_bytes - header->index_offset)
        return kvf_fail(
            error, KVF_FILE_FORMAT, "%s: an index of %llu bytes at %llu in a file of %llu",
            kvf_printable(path).text, (unsigned long long)header->index_bytes,
            (unsigned long long)header->index_offset, (unsigned long long)header->end_bytes);
    return KVF_OK;
}

/* ---- The index ------------------------------------------------------------------ */

static kvf_status take_layers(const kvf_snapshot_layer *layers, const char *path,
                              kvf_snapshot_index *index, kvf_error *error)
{
    const kvf_snapshot_header *header = &index->header;
    const uint64_t n_tokens = header->session.n_tokens;
    kvf_geometry *geometry = &index->geometry;
    *geometry = (kvf_geometry){.n_layers = header->session.n_layers,
                               .vocab = header->session.vocab,
                               .n_heads = header->n_heads,
                               .n_index_heads = header->n_index_heads,
                               .top_k = header->top_k,
                               .window_tokens = header->window_tokens,
                               .max_tokens = header->model_max_tokens};
    for (uint32_t i = 0; i < geometry->n_layers; i++)
        geometry->layers[i] =
            (kvf_layer){.kind = (kvf_layer_kind)layers[i].kind, .ratio = layers[i].ratio};
    kvf_error found;
    if (kvf_geometry_check(geometry, &found) != KVF_OK)
        return kvf_fail(error, KVF_FILE_FORMAT, "%s: %.250s", kvf_printable(path).text,
                        found.message);
    for (uint32_t i = 0; i < geometry->n_layers; i++) {
        const kvf_layer layer = geometry->layers[i];
        if (layers[i].counts.rows != kvf_layer_rows(layer, n_tokens) ||
            layers[i].counts.index_rows != kvf_layer_index_rows(layer, n_tokens))
            return kvf_fail(error, KVF_FILE_FORMAT,
                            "%s: layer %u has %u rows and %u index rows after %llu tokens",
                            kvf_printable(path).text, i, layers[i].counts.rows,
                            layers[i].counts.index_rows, (unsigned long long)n_tokens);
    }
    return KVF_OK;
}

/* Ascending, each where one can be. */
static kvf_status check_checkpoints(const kvf_snapshot_index *index, const char *path,
                                    kvf_error *error)
{
    const uint64_t alignment = kvf_checkpoint_alignment(&index->geometry);
    const uint32_t reasons = KVF_CHECKPOINT_PERIODIC | KVF_CHECKPOINT_REQUESTED;
    uint64_t before = 0;
    for (uint32_t i = 0; i < index->header.n_checkpoints; i++) {
        const kvf_snapshot_checkpoint *checkpoint = &index->checkpoints[i];
        if (checkpoint->n_tokens <= before || checkpoint->n_tokens % alignment != 0 ||
            checkpoint->n_tokens > index->header.session.n_tokens || checkpoint->why == 0 ||
            checkpoint->why & ~reasons || checkpoint->zero != 0)
            return kvf_fail(error, KVF_FILE_FORMAT,
                            "%s: checkpoint %u of %u is at %llu tokens of %llu (reasons %u), after "
                            "one at %llu; they are at multiples of %llu",
                            kvf_printable(path).text, i, index->header.n_checkpoints,
                            (unsigned long long)checkpoint->n_tokens,
                            (unsigned long long)index->header.session.n_tokens, checkpoint->why,
                            (unsigned long long)before, (unsigned long long)alignment);
        before = checkpoint->n_tokens;
    }
    return KVF_OK;
}

/* Whether the part may stand at this place of the stream. */
static bool part_fits(const kvf_part *part, const kvf_stream *stream, uint32_t page,
                      uint64_t end_bytes)
{
    const uint64_t bytes = (uint64_t)part->n_pages * stream->page_bytes;
    if (part->kind != stream->kind || part->number != stream->number || part->first_page != page ||
        part->n_pages == 0 || part->n_pages > stream->end_page - page ||
        part->n_pages > KVF_SNAPSHOT_PART_BYTES / stream->page_bytes)
        return false;
    if (part->offset % KVF_SNAPSHOT_PAGE_BYTES || part->offset > end_bytes ||
        part->offset < KVF_SNAPSHOT_HEADERS * KVF_SNAPSHOT_PAGE_BYTES ||
        part->stored_bytes > end_bytes - part->offset)
        return false;
    return part->codec == KVF_CODEC_NONE ? part->stored_bytes == bytes
                                         : part->codec == KVF_CODEC_ZSTD &&
                                               part->stored_bytes > 0 && part->stored_bytes < bytes;
}

/* Every page of every stream in exactly one part, in the order of the streams. */
static kvf_status check_parts(kvf_snapshot_index *index, const char *path, kvf_error *error)
{
    const kvf_snapshot_shape shape = kvf_snapshot_shape_of(index);
    const uint32_t n_parts = index->header.n_parts;
    index->live_bytes = KVF_SNAPSHOT_HEADERS * KVF_SNAPSHOT_PAGE_BYTES +
                        kvf_snapshot_padded(index->header.index_bytes);
    uint32_t at = 0;
    kvf_stream stream;
    for (uint64_t i = 0; kvf_stream_at(&shape, i, &stream); i++)
        for (uint32_t page = stream.first_page; page < stream.end_page;
             page += index->parts[at++].n_pages) {
            if (at == n_parts ||
                !part_fits(&index->parts[at], &stream, page, index->header.end_bytes))
                return kvf_fail(error, KVF_FILE_FORMAT,
                                "%s: part %u of %u is not what continues page %u of %u of "
                                "the %s",
                                kvf_printable(path).text, at, n_parts, page, stream.end_page,
                                kvf_stream_title_of(stream.kind, stream.number).text);
            index->live_bytes += kvf_snapshot_padded(index->parts[at].stored_bytes);
        }
    if (at != n_parts)
        return kvf_fail(error, KVF_FILE_FORMAT, "%s: %u parts; %u belong to its streams",
                        kvf_printable(path).text, n_parts, at);
    return KVF_OK;
}

static kvf_status take_index(const uint8_t *bytes, const char *path, kvf_snapshot_index *index,
                             kvf_error *error)
{
    const kvf_snapshot_header *header = &index->header;
    if (kvf_checksum(bytes, header->index_bytes) != header->index_checksum)
        return kvf_fail(error, KVF_FILE_FORMAT, "%s: the index (%llu bytes at %llu) is damaged",
                        kvf_printable(path).text, (unsigned long long)header->index_bytes,
                        (unsigned long long)header->index_offset);
    kvf_snapshot_layer layers[KVF_MAX_LAYERS];
    const size_t layers_bytes = header->session.n_layers * sizeof *layers;
    memcpy(layers, bytes, layers_bytes);
    kvf_status status = take_layers(layers, path, index, error);
    if (status != KVF_OK)
        return status;
    const size_t checkpoints_bytes = header->n_checkpoints * sizeof *index->checkpoints;
    const size_t parts_bytes = header->n_parts * sizeof *index->parts;
    index->checkpoints = malloc(checkpoints_bytes + parts_bytes + 1);
    if (!index->checkpoints)
        return kvf_fail(error, KVF_OUT_OF_MEMORY, "%s: no memory for an index of %u parts",
                        kvf_printable(path).text, header->n_parts);
    index->parts = (kvf_part *)(index->checkpoints + header->n_checkpoints);
    memcpy(index->checkpoints, bytes + layers_bytes, checkpoints_bytes + parts_bytes);
    status = check_checkpoints(index, path, error);
    if (status != KVF_OK)
        return status;
    return check_parts(index, path, error);
}

static kvf_status read_headers(const kvf_io *io, int file, const char *path,
                               kvf_snapshot_index *index, kvf_error *error)
{
    struct stat info;
    if (io->stat(io, file, &info) != 0)
        return kvf_io_fail(path, "look at", errno, error);
    index->file_bytes = (uint64_t)info.st_size;
    if (index->file_bytes < KVF_SNAPSHOT_HEADERS * KVF_SNAPSHOT_PAGE_BYTES)
        return kvf_fail(error, KVF_FILE_FORMAT,
                        "%s: is not a kvfold snapshot: %llu bytes are too few",
                        kvf_printable(path).text, (unsigned long long)index->file_bytes);
    kvf_snapshot_header pages[KVF_SNAPSHOT_HEADERS];
    kvf_status status = kvf_io_read_all(io, file, path, pages, sizeof pages, 0, error);
    if (status == KVF_OK)
        status = choose_header(pages, path, index, error);
    return status == KVF_OK ? check_header(index, path, error) : status;
}

kvf_status kvf_snapshot_read_index(const kvf_io *io, int file, const char *path,
                                   kvf_snapshot_index *index, kvf_error *error)
{
    memset(index, 0, sizeof *index);
    kvf_status status = read_headers(io, file, path, index, error);
    if (status != KVF_OK)
        return status;
    uint8_t *bytes = malloc(index->header.index_bytes);
    if (!bytes)
        return kvf_fail(error, KVF_OUT_OF_MEMORY, "%s: no memory for an index of %llu bytes",
                        kvf_printable(path).text, (unsigned long long)index->header.index_bytes);
    status = kvf_io_read_all(io, file, path, bytes, index->header.index_bytes,
                             index->header.index_offset, error);
    if (status == KVF_OK)
        status = take_index(bytes, path, index, error);
    free(bytes);
    if (status != KVF_OK)
        kvf_snapshot_free_index(index);
    return status;
}

void kvf_snapshot_free_index(kvf_snapshot_index *index)
{
    free(index->checkpoints);
    index->checkpoints = NULL;
    index->parts = NULL;
}

kvf_snapshot_shape kvf_snapshot_shape_of(const kvf_snapshot_index *index)
{
    const kvf_session_header *header = &index->header.session;
    return (kvf_snapshot_shape){.geometry = &index->geometry,
                                .profile = kvf_profile_get((kvf_profile_id)header->profile),
                                .version = header->version,
                                .n_tokens = header->n_tokens,
                                .n_checkpoints = index->header.n_checkpoints,
                                .checkpoints = index->checkpoints};
}

/* ---- The file in memory -------------------------------------------------------- */

/* Compares part i with its checksum, unless that was done. */
static kvf_status check_part(kvf_snapshot_map *map, uint32_t i, kvf_error *error)
{
    if (map->checked[i])
        return KVF_OK;
    const kvf_part *part = &map->index.parts[i];
    if (kvf_checksum(map->view + part->offset, part->stored_bytes) != part->checksum)
        return kvf_fail(
            error, KVF_FILE_FORMAT, "%s: the %s, pages %u to %u (%llu bytes at %llu), are damaged",
            kvf_printable(map->path).text, kvf_stream_title_of(part->kind, part->number).text,
            part->first_page, part->first_page + part->n_pages - 1,
            (unsigned long long)part->stored_bytes, (unsigned long long)part->offset);
    map->checked[i] = true;
    return KVF_OK;
}

/* The last part that begins at or before the offset. */
static uint32_t part_at(const kvf_snapshot_map *map, uint64_t offset)
{
    uint32_t first = 0;
    uint32_t end = map->index.header.n_parts;
    while (end - first > 1) {
        const uint32_t middle = first + (end - first) / 2;
        if (map->index.parts[map->by_offset[middle]].offset <= offset)
            first = middle;
        else
            end = middle;
    }
    return map->by_offset[first];
}

/* A page lies in one part. */
static kvf_status check_page(kvf_page_owner *owner, const void *memory, uint64_t bytes,
                             kvf_error *error)
{
    (void)bytes;
    kvf_snapshot_map *map = (kvf_snapshot_map *)owner;
    const uint64_t offset = (uint64_t)((const uint8_t *)memory - map->view);
    return check_part(map, part_at(map, offset), error);
}

static void release(kvf_page_owner *owner)
{
    kvf_snapshot_map *map = (kvf_snapshot_map *)owner;
    if (map->view)
        map->io->unmap(map->io, map->view, map->view_bytes);
    free(map->by_offset);
    free(map->checked);
    kvf_snapshot_free_index(&map->index);
    free(map);
}

typedef struct place {
    uint64_t offset;
    uint32_t part;
} place;

static int compare_places(const void *a, const void *b)
{
    const uint64_t x = ((const place *)a)->offset;
    const uint64_t y = ((const place *)b)->offset;
    return (x > y) - (x < y);
}

/* Sorts the parts by their place; parts that overlap would be found by the wrong one. */
static kvf_status sort_parts(kvf_snapshot_map *map, kvf_error *error)
{
    place *places = malloc(map->index.header.n_parts * sizeof *places + 1);
    map->by_offset = malloc(map->index.header.n_parts * sizeof *map->by_offset + 1);
    map->checked = calloc(map->index.header.n_parts + 1, sizeof *map->checked);
    kvf_status status = KVF_OK;
    if (!places || !map->by_offset || !map->checked)
        status = kvf_fail(error, KVF_OUT_OF_MEMORY, "%s: no memory for %u parts",
                          kvf_printable(map->path).text, map->index.header.n_parts);
    for (uint32_t i = 0; status == KVF_OK && i < map->index.header.n_parts; i++)
        places[i] = (place){map->index.parts[i].offset, i};
    if (status == KVF_OK)
        qsort(places, map->index.header.n_parts, sizeof *places, compare_places);
    for (uint32_t i = 0; status == KVF_OK && i < map->index.header.n_parts; i++) {
        map->by_offset[i] = places[i].part;
        if (i > 0 && places[i].offset - places[i - 1].offset <
                         map->index.parts[places[i - 1].part].stored_bytes)
            status = kvf_fail(error, KVF_FILE_FORMAT, "%s: parts %u and %u overlap",
                              kvf_printable(map->path).text, places[i - 1].part, places[i].part);
    }
    free(places);
    return status;
}

/* Takes the index, whatever comes of it. */
static kvf_status map_file(const kvf_io *io, int file, const char *path, kvf_snapshot_index *index,
                           kvf_snapshot_map **out, kvf_error *error)
{
    const size_t path_bytes = strlen(path) + 1;
    kvf_snapshot_map *map = calloc(1, sizeof *map + path_bytes);
    if (!map) {
        kvf_snapshot_free_index(index);
        return kvf_fail(error, KVF_OUT_OF_MEMORY, "%s: no memory to map it",
                        kvf_printable(path).text);
    }
    map->owner = (kvf_page_owner){.n_references = 1, .check = check_page, .release = release};
    map->io = io;
    map->index = *index;
    memcpy(map->path, path, path_bytes);
    kvf_status status = sort_parts(map, error);
    if (status == KVF_OK) {
        map->view_bytes = index->header.end_bytes;
        map->view = io->map(io, file, map->view_bytes);
        if (!map->view)
            status = kvf_io_fail(path, "map", errno, error);
    }
    if (status == KVF_OK)
        *out = map;
    else
        kvf_page_owner_release(&map->owner);
    return status;
}

static kvf_status check_all(kvf_snapshot_map *map, kvf_error *error)
{
    kvf_status status = KVF_OK;
    for (uint32_t i = 0; i < map->index.header.n_parts && status == KVF_OK; i++)
        status = check_part(map, i, error);
    return status;
}

kvf_status kvf_snapshot_open(const kvf_io *io, const char *path, bool verify,
                             kvf_snapshot_map **map, kvf_error *error)
{
    int file;
    kvf_snapshot_index index;
    *map = NULL;
    kvf_status status = kvf_snapshot_open_file(io, path, false, &file, error);
    if (status != KVF_OK)
        return status;
    status = kvf_snapshot_read_index(io, file, path, &index, error);
    if (status == KVF_OK)
        status = map_file(io, file, path, &index, map, error);
    io->close(io, file);
    if (status == KVF_OK && verify)
        status = check_all(*map, error);
    if (status != KVF_OK && *map) {
        kvf_page_owner_release(&(*map)->owner);
        *map = NULL;
    }
    return status;
}

/* ---- Content of parts ----------------------------------------------------------- */

kvf_status kvf_snapshot_part_data(kvf_snapshot_map *map, uint32_t i, uint64_t bytes,
                                  uint8_t *unpacked, const uint8_t **data, kvf_error *error)
{
    const kvf_part *part = &map->index.parts[i];
    const kvf_status status = check_part(map, i, error);
    if (status != KVF_OK)
        return status;
    *data = map->view + part->offset;
    if (part->codec == KVF_CODEC_NONE)
        return KVF_OK;
    if (kvf_codec_bound(bytes) == 0)
        return kvf_fail(error, KVF_UNSUPPORTED, "%s: is compressed; this build has no zstd",
                        kvf_printable(map->path).text);
    if (!kvf_codec_decompress(unpacked, bytes, *data, part->stored_bytes))
        return kvf_fail(
            error, KVF_FILE_FORMAT, "%s: the %s, pages from %u on, do not unpack to %llu bytes",
            kvf_printable(map->path).text, kvf_stream_title_of(part->kind, part->number).text,
            part->first_page, (unsigned long long)bytes);
    *data = unpacked;
    return KVF_OK;
}

kvf_status kvf_snapshot_check_tokens(const kvf_snapshot_map *map, const kvf_part *part,
                                     const uint8_t *data, kvf_error *error)
{
    const uint32_t vocab = map->index.geometry.vocab;
    const uint64_t n_tokens = map->index.header.session.n_tokens;
    const uint64_t page_tokens = KVF_SNAPSHOT_PAGE_BYTES / sizeof(int32_t);
    const uint64_t first = part->first_page * page_tokens;
    const uint64_t end = first + part->n_pages * page_tokens;
    for (uint64_t i = first; i < end && i < n_tokens; i++) {
        int32_t token;
        memcpy(&token, data + (i - first) * sizeof token, sizeof token);
        if (token < 0 || (uint32_t)token >= vocab)
            return kvf_fail(error, KVF_FILE_FORMAT,
                            "%s: token %llu has id %d; the vocabulary is 0 to %u",
                            kvf_printable(map->path).text, (unsigned long long)i, token, vocab - 1);
    }
    return KVF_OK;
}
