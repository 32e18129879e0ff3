/* A file in memory: parts are compared with their checksums before their first use. */
#include <stdlib.h>
#include <string.h>

#include "cache/snapshot.h"
#include "checksum.h"
#include "error.h"

kvf_status kvf_snapshot_map_check(kvf_snapshot_map *map, uint32_t i, kvf_error *error)
{
    if (map->checked[i])
        return KVF_OK;
    const kvf_part *part = &map->parts[i];
    if (kvf_checksum(map->view + part->offset, part->stored_bytes) != part->checksum)
        return kvf_fail(error, KVF_FILE_FORMAT,
                        "%s: the %s of layer %u, pages %u to %u (%llu bytes at %llu), are "
                        "damaged",
                        kvf_printable(map->path).text, kvf_stream_name(part->kind), part->layer,
                        part->first_page, part->first_page + part->n_pages - 1,
                        (unsigned long long)part->stored_bytes, (unsigned long long)part->offset);
    map->checked[i] = true;
    return KVF_OK;
}

/* The last part that begins at or before the offset. */
static uint32_t part_at(const kvf_snapshot_map *map, uint64_t offset)
{
    uint32_t first = 0;
    uint32_t end = map->n_parts;
    while (end - first > 1) {
        const uint32_t middle = first + (end - first) / 2;
        if (map->parts[map->by_offset[middle]].offset <= offset)
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
    return kvf_snapshot_map_check(map, part_at(map, offset), error);
}

static void release(kvf_page_owner *owner)
{
    kvf_snapshot_map *map = (kvf_snapshot_map *)owner;
    if (map->view)
        map->io->unmap(map->io, map->view, map->view_bytes);
    free(map->by_offset);
    free(map->checked);
    free(map->parts);
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
    place *places = malloc(map->n_parts * sizeof *places + 1);
    map->by_offset = malloc(map->n_parts * sizeof *map->by_offset + 1);
    map->checked = calloc(map->n_parts + 1, sizeof *map->checked);
    kvf_status status = KVF_OK;
    if (!places || !map->by_offset || !map->checked)
        status = kvf_fail(error, KVF_OUT_OF_MEMORY, "%s: no memory for %u parts",
                          kvf_printable(map->path).text, map->n_parts);
    for (uint32_t i = 0; status == KVF_OK && i < map->n_parts; i++)
        places[i] = (place){map->parts[i].offset, i};
    if (status == KVF_OK)
        qsort(places, map->n_parts, sizeof *places, compare_places);
    for (uint32_t i = 0; status == KVF_OK && i < map->n_parts; i++) {
        map->by_offset[i] = places[i].part;
        if (i > 0 &&
            places[i].offset - places[i - 1].offset < map->parts[places[i - 1].part].stored_bytes)
            status = kvf_fail(error, KVF_FILE_FORMAT, "%s: parts %u and %u overlap",
                              kvf_printable(map->path).text, places[i - 1].part, places[i].part);
    }
    free(places);
    return status;
}

kvf_status kvf_snapshot_map_open(const kvf_io *io, int file, const char *path,
                                 kvf_snapshot_index *index, kvf_snapshot_map **out,
                                 kvf_error *error)
{
    const size_t path_bytes = strlen(path) + 1;
    kvf_snapshot_map *map = calloc(1, sizeof *map + path_bytes);
    *out = NULL;
    if (!map)
        return kvf_fail(error, KVF_OUT_OF_MEMORY, "%s: no memory to map it",
                        kvf_printable(path).text);
    map->owner = (kvf_page_owner){.n_references = 1, .check = check_page, .release = release};
    map->io = io;
    map->n_parts = index->header.n_parts;
    map->parts = index->parts;
    index->parts = NULL;
    memcpy(map->path, path, path_bytes);
    kvf_status status = sort_parts(map, error);
    if (status == KVF_OK) {
        map->view_bytes = index->header.end_bytes;
        map->view = io->map(io, file, map->view_bytes);
        if (!map->view)
            status = kvf_io_fail(path, "map", error);
    }
    if (status == KVF_OK)
        *out = map;
    else
        kvf_page_owner_release(&map->owner);
    return status;
}
