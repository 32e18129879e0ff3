/* Parts, index and header pages into a file. Every write is whole pages, zeros included. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "snapshot/snapshot.h"
#include "checksum.h"
#include "error.h"

kvf_status kvf_snapshot_writer_open(kvf_snapshot_writer *writer, size_t largest_part_bytes,
                                    kvf_error *error)
{
    if (!writer->compress)
        return KVF_OK;
    writer->packed_bytes = kvf_snapshot_padded(kvf_codec_bound(largest_part_bytes));
    if (writer->packed_bytes == 0)
        return kvf_fail(error, KVF_UNSUPPORTED, "%s: this build has no zstd to compress with",
                        kvf_printable(writer->path).text);
    writer->packed = malloc(writer->packed_bytes + 1);
    if (!writer->packed)
        return kvf_fail(error, KVF_OUT_OF_MEMORY, "%s: no memory to compress parts of %zu bytes",
                        kvf_printable(writer->path).text, largest_part_bytes);
    return KVF_OK;
}

void kvf_snapshot_writer_close(kvf_snapshot_writer *writer)
{
    free(writer->packed);
    writer->packed = NULL;
}

/* ---- Writing ------------------------------------------------------------------------- */

static kvf_status write_at(kvf_snapshot_writer *writer, const void *data, uint64_t bytes,
                           uint64_t offset, kvf_error *error)
{
    const int reason = kvf_io_write_all(writer->io, writer->file, data, bytes, offset);
    if (reason != 0) {
        writer->no_room = kvf_io_no_room(reason);
        return kvf_io_fail(writer->path, "write", reason, error);
    }
    writer->written_bytes += bytes;
    return KVF_OK;
}

/* Writes the bytes and zeros up to the next page; data has room for them. */
static kvf_status write_padded(kvf_snapshot_writer *writer, uint8_t *data, uint64_t bytes,
                               kvf_error *error)
{
    const uint64_t padded = kvf_snapshot_padded(bytes);
    memset(data + bytes, 0, padded - bytes);
    const kvf_status status = write_at(writer, data, padded, writer->end_bytes, error);
    if (status == KVF_OK)
        writer->end_bytes += padded;
    return status;
}

kvf_status kvf_snapshot_write_part(kvf_snapshot_writer *writer, uint8_t *data, size_t bytes,
                                   kvf_part *part, kvf_error *error)
{
    part->stored_bytes = bytes;
    if (writer->compress) {
        const size_t n = kvf_codec_compress(writer->packed, writer->packed_bytes, data, bytes);
        if (n > 0 && n < bytes) {
            data = writer->packed;
            part->stored_bytes = n;
            part->codec = KVF_CODEC_ZSTD;
        }
    }
    part->offset = writer->end_bytes;
    part->checksum = kvf_checksum(data, part->stored_bytes);
    return write_padded(writer, data, part->stored_bytes, error);
}

kvf_status kvf_snapshot_write_index(kvf_snapshot_writer *writer, const kvf_snapshot_source *source,
                                    const kvf_part *parts, kvf_snapshot_header *header,
                                    kvf_error *error)
{
    const uint32_t n_layers = source->geometry.n_layers;
    const uint32_t n_checkpoints = source->shape.n_checkpoints;
    const uint64_t bytes = kvf_snapshot_index_bytes(n_layers, n_checkpoints, header->n_parts);
    uint8_t *index = malloc(kvf_snapshot_padded(bytes));
    if (!index)
        return kvf_fail(error, KVF_OUT_OF_MEMORY, "%s: no memory for an index of %u parts",
                        kvf_printable(writer->path).text, header->n_parts);
    kvf_snapshot_layer *layers = (kvf_snapshot_layer *)index;
    memcpy(layers, source->layers, n_layers * sizeof *layers);
    kvf_snapshot_checkpoint *checkpoints = (kvf_snapshot_checkpoint *)(layers + n_layers);
    memcpy(checkpoints, source->entries, n_checkpoints * sizeof *checkpoints);
    memcpy(checkpoints + n_checkpoints, parts, header->n_parts * sizeof *parts);
    header->index_offset = writer->end_bytes;
    header->index_bytes = bytes;
    header->index_checksum = kvf_checksum(index, bytes);
    const kvf_status status = write_padded(writer, index, bytes, error);
    free(index);
    header->end_bytes = writer->end_bytes;
    header->checksum = kvf_checksum(header, offsetof(kvf_snapshot_header, checksum));
    return status;
}

kvf_status kvf_snapshot_write_header(kvf_snapshot_writer *writer, const kvf_snapshot_header *header,
                                     uint32_t slot, kvf_error *error)
{
    return write_at(writer, header, sizeof *header, slot * sizeof *header, error);
}

kvf_status kvf_snapshot_sync(kvf_snapshot_writer *writer, kvf_error *error)
{
    if (writer->io->sync(writer->io, writer->file) == 0)
        return KVF_OK;
    const int reason = errno;
    writer->no_room = kvf_io_no_room(reason);
    return kvf_io_fail(writer->path, "put on the disk", reason, error);
}
