/*
 * Saving: a new file beside the old one, renamed when it is on the disk; or what is new
 * behind the end of the old one, and then a header that speaks of it.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

#include "error.h"
#include "snapshot/snapshot.h"

#define SUFFIX ".saving"
/* How often a file that is renamed away while it is being locked is looked for again. */
#define OPEN_ATTEMPTS 8

/* One save under way. */
typedef struct saving {
    kvf_save *save;
    kvf_saved before; /* what the file that is added to holds */
    bool no_lock;     /* goes on where files cannot be locked */
    kvf_part *parts;  /* of the next index; new ones have offset 0 */
    uint32_t n_parts;
    size_t largest_bytes; /* of a new part */
    uint64_t new_bytes;   /* of all new parts, padded */
    uint64_t kept_bytes;  /* of the others */
    kvf_snapshot_writer writer;
    kvf_snapshot_header header;
} saving;

/* ---- Which parts are new -------------------------------------------------------------- */

/* Whether slots first .. end - 1 of a ring lie in any of n pages from `page` on. */
static bool slots_meet_pages(uint64_t first, uint64_t end, const kvf_stream *ring, uint32_t page,
                             uint32_t n)
{
    const uint64_t slots = ring->ring_slots;
    return first < end && first * ring->end_page / slots < (uint64_t)page + n &&
           (end * ring->end_page - 1) / slots >= page;
}

/* Whether tokens that came since the last save wrote to these pages of a ring. */
static bool ring_changed(const saving *save, const kvf_stream *ring, uint32_t page, uint32_t n)
{
    const uint64_t slots = ring->ring_slots;
    const uint64_t n_new = save->save->source.shape.n_tokens - save->before.kept_tokens;
    if (save->before.kept_tokens < save->before.n_tokens || n_new >= slots)
        return true;
    const uint64_t first = save->before.n_tokens % slots;
    const uint64_t end = first + n_new;
    if (end <= slots)
        return slots_meet_pages(first, end, ring, page, n);
    return slots_meet_pages(first, slots, ring, page, n) ||
           slots_meet_pages(0, end - slots, ring, page, n);
}

/* `kept` is the stream as it was with the fewest tokens held since the last save. */
static bool pages_changed(const saving *save, const kvf_stream *stream, const kvf_stream *kept,
                          uint32_t page, uint32_t n)
{
    if (stream->kind == KVF_STREAM_LOGITS)
        return true;
    if (stream->ring_slots > 0)
        return ring_changed(save, stream, page, n);
    /* The last page grows, unless no row came since and none was given up. */
    if (save->before.kept_tokens == save->before.n_tokens && kept->n_items == stream->n_items)
        return false;
    return page + n > kept->full_pages;
}

/* The next part of the stream, the old one where it still holds. */
static void add_part(saving *save, const kvf_stream *stream, const kvf_stream *kept, uint32_t page,
                     const kvf_part *old)
{
    kvf_part *part = &save->parts[save->n_parts++];
    if (old && old->n_pages <= stream->end_page - page &&
        !pages_changed(save, stream, kept, page, old->n_pages)) {
        *part = *old;
        part->number = stream->number;
        save->kept_bytes += kvf_snapshot_padded(old->stored_bytes);
        return;
    }
    *part = (kvf_part){.kind = stream->kind,
                       .number = stream->number,
                       .first_page = page,
                       .n_pages = kvf_stream_part_pages(stream, page)};
    const size_t bytes = (size_t)part->n_pages * stream->page_bytes;
    save->new_bytes += kvf_snapshot_padded(bytes);
    if (bytes > save->largest_bytes)
        save->largest_bytes = bytes;
}

/*
 * What a checkpoint's streams are numbered by in the old file; false where it is not there. Old
 * ones are those at or before kept_checkpoint: what is there now has the same content.
 */
static bool number_before(const saving *save, const kvf_snapshot_index *old, uint32_t *number)
{
    const uint64_t n_tokens = save->save->source.entries[*number].n_tokens;
    uint32_t i = 0;
    while (i < old->header.n_checkpoints && old->checkpoints[i].n_tokens < n_tokens)
        i++;
    *number = i;
    return i < old->header.n_checkpoints && old->checkpoints[i].n_tokens == n_tokens &&
           n_tokens <= save->before.kept_checkpoint;
}

/* The part that begins at this place, if it is there; *at only goes forward. */
static const kvf_part *find_old(const saving *save, const kvf_snapshot_index *old, uint32_t *at,
                                const kvf_stream *stream, uint32_t page)
{
    uint32_t number = stream->number;
    if (!old || (kvf_stream_of_checkpoint(stream->kind) && !number_before(save, old, &number)))
        return NULL;
    const uint64_t wanted = kvf_stream_order(stream->kind, number);
    for (; *at < old->header.n_parts; ++*at) {
        const kvf_part *part = &old->parts[*at];
        const uint64_t order = kvf_stream_order(part->kind, part->number);
        if (order > wanted || (order == wanted && part->first_page >= page))
            return order == wanted && part->first_page == page ? part : NULL;
    }
    return NULL;
}

/* Lists the parts of the next index; old is NULL for a new file. */
static kvf_status choose_parts(saving *save, const kvf_snapshot_index *old, kvf_error *error)
{
    kvf_snapshot_shape kept_shape = save->save->source.shape;
    kept_shape.n_tokens = save->before.kept_tokens;
    const size_t capacity =
        (size_t)kvf_snapshot_n_parts(&save->save->source.shape) + (old ? old->header.n_parts : 0);
    save->parts = malloc(capacity * sizeof *save->parts);
    if (!save->parts)
        return kvf_fail(error, KVF_OUT_OF_MEMORY, "%s: no memory for an index of %zu parts",
                        kvf_printable(save->writer.path).text, capacity);
    uint32_t at = 0;
    kvf_stream stream;
    kvf_stream kept;
    for (uint64_t i = 0; kvf_stream_at(&save->save->source.shape, i, &stream); i++) {
        kvf_stream_at(&kept_shape, i, &kept);
        if (stream.kind == KVF_STREAM_WINDOW &&
            kept.full_pages > save->before.kept_window / KVF_PAGE_ROWS)
            kept.full_pages = (uint32_t)(save->before.kept_window / KVF_PAGE_ROWS);
        for (uint32_t page = stream.first_page; page < stream.end_page;) {
            add_part(save, &stream, &kept, page, find_old(save, old, &at, &stream, page));
            page += save->parts[save->n_parts - 1].n_pages;
        }
    }
    return KVF_OK;
}

/* ---- Writing --------------------------------------------------------------------------- */

/* A place in the list of parts. */
typedef struct part_cursor {
    uint64_t number; /* of the stream */
    kvf_stream stream;
    uint32_t page;
    uint32_t at; /* in parts */
} part_cursor;

/* The next part that is new, or NULL; the cursor's stream is then the part's. */
static kvf_part *next_new(saving *save, part_cursor *cursor)
{
    while (cursor->at < save->n_parts) {
        if (cursor->page >= cursor->stream.end_page) {
            kvf_stream_at(&save->save->source.shape, ++cursor->number, &cursor->stream);
            cursor->page = cursor->stream.first_page;
            continue;
        }
        kvf_part *part = &save->parts[cursor->at++];
        cursor->page += part->n_pages;
        if (part->offset == 0)
            return part;
    }
    return NULL;
}

/* Parts are wanted ahead of the one that is written, as far as there are buffers. */
static kvf_status write_new_parts(saving *save, kvf_error *error)
{
    kvf_feed *feed = &save->save->feed;
    part_cursor cursor = {0};
    kvf_status status = KVF_OK;
    kvf_stream_at(&save->save->source.shape, 0, &cursor.stream);
    cursor.page = cursor.stream.first_page;
    kvf_part *next = next_new(save, &cursor);
    while (status == KVF_OK && (next || feed->n_wanted > 0)) {
        kvf_wanted taken;
        while (next && kvf_feed_want(feed, cursor.number, &cursor.stream, next))
            next = next_new(save, &cursor);
        status = kvf_feed_take(feed, &taken, error);
        if (status == KVF_OK)
            status = kvf_snapshot_write_part(&save->writer, taken.data,
                                             (size_t)taken.n_pages * taken.stream.page_bytes,
                                             taken.part, error);
        kvf_feed_release(feed, &taken);
    }
    return status;
}

/* New parts and the index behind the writer's end; the header is filled in. */
static kvf_status write_parts(saving *save, kvf_error *error)
{
    kvf_status status = kvf_snapshot_writer_open(&save->writer, save->largest_bytes, error);
    if (status == KVF_OK)
        status = kvf_feed_begin(&save->save->feed, save->largest_bytes, save->new_bytes, error);
    if (status == KVF_OK)
        status = write_new_parts(save, error);
    save->header.n_parts = save->n_parts;
    if (status == KVF_OK)
        status = kvf_snapshot_write_index(&save->writer, &save->save->source, save->parts,
                                          &save->header, error);
    return status;
}

/* From now on it is known what the file holds. */
static void remember(saving *save, kvf_save_report *report, bool appended)
{
    const uint64_t n_tokens = save->save->source.shape.n_tokens;
    save->save->after = (kvf_saved){.known = true,
                                    .header_checksum = save->header.checksum,
                                    .n_tokens = n_tokens,
                                    .kept_tokens = n_tokens,
                                    .kept_window = n_tokens,
                                    .kept_checkpoint = n_tokens};
    if (!report)
        return;
    uint64_t live_bytes = KVF_SNAPSHOT_HEADERS * KVF_SNAPSHOT_PAGE_BYTES +
                          kvf_snapshot_padded(save->header.index_bytes);
    for (uint32_t i = 0; i < save->n_parts; i++)
        live_bytes += kvf_snapshot_padded(save->parts[i].stored_bytes);
    *report = (kvf_save_report){.generation = save->header.generation,
                                .file_bytes = save->header.end_bytes,
                                .unused_bytes = save->header.end_bytes - live_bytes,
                                .written_bytes = save->writer.written_bytes,
                                .appended = appended};
}

/* ---- A new file -------------------------------------------------------------------------- */

static bool same_file(const struct stat *a, const struct stat *b)
{
    return a->st_dev == b->st_dev && a->st_ino == b->st_ino;
}

/* What it leads to is somebody's data, and would be emptied. */
static kvf_status refuse_link(const char *path, kvf_error *error)
{
    return kvf_fail(error, KVF_FILE_IO, "%s: is a link to another file; remove it to save",
                    kvf_printable(path).text);
}

/*
 * Parts are written first, behind the place of the headers, which begins with zeros until
 * then. A new file is of generation 1; one of a later generation is a copy somebody made.
 */
static bool is_unfinished(const kvf_snapshot_header pages[KVF_SNAPSHOT_HEADERS])
{
    static const uint8_t zeros[sizeof KVF_SNAPSHOT_MAGIC];
    for (uint32_t slot = 0; slot < KVF_SNAPSHOT_HEADERS; slot++)
        if (memcmp(&pages[slot], zeros, sizeof zeros) != 0 &&
            (memcmp(&pages[slot], KVF_SNAPSHOT_MAGIC, sizeof zeros) != 0 ||
             pages[slot].generation != 1))
            return false;
    return true;
}

static kvf_status check_unfinished(const kvf_io *io, int file, const struct stat *info,
                                   const char *path, kvf_error *error)
{
    kvf_snapshot_header pages[KVF_SNAPSHOT_HEADERS] = {0};
    const size_t n = info->st_size < (off_t)sizeof pages ? (size_t)info->st_size : sizeof pages;
    const kvf_status status = kvf_io_read_all(io, file, path, pages, n, 0, error);
    if (status == KVF_OK && !is_unfinished(pages))
        return kvf_fail(error, KVF_FILE_IO,
                        "%s: is there and no save left it; it is not overwritten, move it away",
                        kvf_printable(path).text);
    return status;
}

/*
 * Opens and locks the file that is written. What an interrupted save left of it is used
 * again. Between opening and locking another save may have renamed it: then it is the
 * snapshot, and must not be touched.
 */
static kvf_status open_temporary(const kvf_io *io, const char *path, bool no_lock, int *file,
                                 kvf_error *error)
{
    for (int attempt = 0; attempt < OPEN_ATTEMPTS; attempt++) {
        struct stat opened;
        struct stat named;
        *file = io->open(io, path, O_RDWR | O_CREAT | O_NONBLOCK | O_NOFOLLOW, S_IRUSR | S_IWUSR);
        if (*file < 0)
            return errno == ELOOP ? refuse_link(path, error)
                                  : kvf_io_fail(path, "create", errno, error);
        kvf_status status = kvf_io_lock(io, *file, path, no_lock, error);
        if (status == KVF_OK && io->stat(io, *file, &opened) != 0)
            status = kvf_io_fail(path, "look at", errno, error);
        else if (status == KVF_OK && !S_ISREG(opened.st_mode))
            status =
                kvf_fail(error, KVF_FILE_IO, "%s: is not a regular file", kvf_printable(path).text);
        else if (status == KVF_OK && opened.st_nlink > 1)
            status = refuse_link(path, error);
        else if (status == KVF_OK && io->stat_path(io, path, &named) == 0 &&
                 same_file(&opened, &named)) {
            status = check_unfinished(io, *file, &opened, path, error);
            if (status == KVF_OK)
                return KVF_OK;
        }
        io->close(io, *file);
        *file = -1;
        if (status != KVF_OK)
            return status;
    }
    return kvf_fail(error, KVF_FILE_BUSY, "%s: other saves keep replacing it",
                    kvf_printable(path).text);
}

/* Opens what is saved to, for both, and locks it. */
static kvf_status open_locked(const kvf_io *io, const char *path, bool no_lock, int *file,
                              kvf_error *error)
{
    kvf_status status = kvf_snapshot_open_file(io, path, true, file, error);
    if (status == KVF_OK)
        status = kvf_io_lock(io, *file, path, no_lock, error);
    if (status != KVF_OK && *file >= 0) {
        io->close(io, *file);
        *file = -1;
    }
    return status;
}

/* A file that is no snapshot is somebody's data: it is not replaced. */
static kvf_status check_replaced(const kvf_io *io, int file, const char *path, kvf_error *error)
{
    struct stat info;
    uint8_t bytes[KVF_SNAPSHOT_PAGE_BYTES + 8] = {0};
    if (io->stat(io, file, &info) != 0)
        return kvf_io_fail(path, "look at", errno, error);
    const size_t n = info.st_size < (off_t)sizeof bytes ? (size_t)info.st_size : sizeof bytes;
    const kvf_status status = kvf_io_read_all(io, file, path, bytes, n, 0, error);
    if (status != KVF_OK || n == 0)
        return status;
    if (memcmp(bytes, KVF_SNAPSHOT_MAGIC, 8) != 0 &&
        memcmp(bytes + KVF_SNAPSHOT_PAGE_BYTES, KVF_SNAPSHOT_MAGIC, 8) != 0)
        return kvf_fail(error, KVF_FILE_IO,
                        "%s: is there and is not a kvfold snapshot; it is not replaced",
                        kvf_printable(path).text);
    return KVF_OK;
}

/* Locks what is to be replaced, if there is something; *file is -1 otherwise. */
static kvf_status open_replaced(const kvf_io *io, const char *path, bool no_lock, int *file,
                                kvf_error *error)
{
    kvf_error found;
    *file = -1;
    kvf_status status = open_locked(io, path, no_lock, file, &found);
    if (status == KVF_FILE_NOT_FOUND)
        return KVF_OK;
    if (status != KVF_OK)
        return kvf_fail(error, status, "%s", found.message);
    status = check_replaced(io, *file, path, error);
    if (status != KVF_OK) {
        io->close(io, *file);
        *file = -1;
    }
    return status;
}

static kvf_status write_new_file(saving *save, kvf_error *error)
{
    kvf_snapshot_writer *writer = &save->writer;
    const kvf_io *io = writer->io;
    if (io->truncate(io, writer->file, 0) != 0)
        return kvf_io_fail(writer->path, "empty", errno, error);
    writer->end_bytes = KVF_SNAPSHOT_HEADERS * KVF_SNAPSHOT_PAGE_BYTES;
    save->header.generation = 1;
    kvf_status status = choose_parts(save, NULL, error);
    if (status == KVF_OK)
        status = write_parts(save, error);
    for (uint32_t slot = 0; slot < KVF_SNAPSHOT_HEADERS && status == KVF_OK; slot++)
        status = kvf_snapshot_write_header(writer, &save->header, slot, error);
    return status == KVF_OK ? kvf_snapshot_sync(writer, error) : status;
}

/*
 * The new file may be read by whom the old one could (its group, if that is the same one), one
 * without an old one by its owner.
 * What an interrupted save left, which is used again, may have had another one's permissions.
 */
static void set_mode(const kvf_io *io, int replaced, int file)
{
    struct stat info;
    struct stat made;
    mode_t mode = S_IRUSR | S_IWUSR;
    if (replaced >= 0 && io->stat(io, replaced, &info) == 0 && io->stat(io, file, &made) == 0)
        mode = info.st_mode & (S_IRWXU | (made.st_gid == info.st_gid ? S_IRWXG : 0) | S_IRWXO);
    io->set_mode(io, file, mode);
}

/* Writes `temporary` and gives it its name. Both files are open and locked. */
static kvf_status replace_file(saving *save, const char *path, const char *temporary,
                               const char *folder, kvf_error *error)
{
    const kvf_io *io = save->writer.io;
    kvf_status status = write_new_file(save, error);
    if (status == KVF_OK && io->rename(io, temporary, path) != 0)
        status = kvf_io_fail(path, "rename to it", errno, error);
    if (status != KVF_OK) {
        io->unlink(io, temporary);
        return status;
    }
    /* Should the folder fail now, either file may be there after a crash. */
    save->save->before.known = false;
    if (io->sync_folder(io, folder) != 0)
        return kvf_io_fail(folder, "put on the disk", errno, error);
    return KVF_OK;
}

static kvf_status save_new(saving *save, const char *path, kvf_error *error)
{
    const kvf_io *io = save->writer.io;
    char *folder = kvf_io_folder_of(path);
    char *temporary = malloc(strlen(path) + sizeof SUFFIX);
    int replaced = -1;
    kvf_status status = KVF_OK;
    if (!folder || !temporary)
        status = kvf_fail(error, KVF_OUT_OF_MEMORY, "%s: no memory for its name",
                          kvf_printable(path).text);
    if (status == KVF_OK) {
        strcpy(temporary, path);
        strcat(temporary, SUFFIX);
        status = open_replaced(io, path, save->no_lock, &replaced, error);
    }
    if (status == KVF_OK)
        status = open_temporary(io, temporary, save->no_lock, &save->writer.file, error);
    if (status == KVF_OK) {
        save->writer.path = temporary;
        set_mode(io, replaced, save->writer.file);
        status = replace_file(save, path, temporary, folder, error);
        io->close(io, save->writer.file);
    }
    if (replaced >= 0)
        io->close(io, replaced);
    free(temporary);
    free(folder);
    return status;
}

/* ---- Behind the old end ------------------------------------------------------------------- */

/*
 * The header goes to the page that does not hold the only good one; then to the other,
 * so that damage to either page later costs nothing. That second write needs no place on
 * the disk now: the next save waits for it before it touches the first page again.
 */
static kvf_status write_headers(saving *save, const kvf_snapshot_index *old, kvf_error *error)
{
    const uint32_t first = old->in_both ? (uint32_t)(save->header.generation & 1) : !old->slot;
    kvf_status status = kvf_snapshot_write_header(&save->writer, &save->header, first, error);
    if (status == KVF_OK)
        status = kvf_snapshot_sync(&save->writer, error);
    if (status == KVF_OK)
        kvf_snapshot_write_header(&save->writer, &save->header, !first, NULL);
    return status;
}

/* Adds to the file; *worth is false where it should be written anew instead, unless `always`. */
static kvf_status append(saving *save, const kvf_snapshot_index *old, bool always, bool *worth,
                         kvf_error *error)
{
    kvf_snapshot_writer *writer = &save->writer;
    const kvf_io *io = writer->io;
    kvf_status status = choose_parts(save, old, error);
    if (status != KVF_OK)
        return status;
    const uint64_t index_bytes = kvf_snapshot_padded(
        kvf_snapshot_index_bytes(save->save->source.shape.geometry->n_layers,
                                 save->save->source.shape.n_checkpoints, save->n_parts));
    const uint64_t live_bytes = KVF_SNAPSHOT_HEADERS * KVF_SNAPSHOT_PAGE_BYTES + save->kept_bytes +
                                save->new_bytes + index_bytes;
    const uint64_t end_bytes = old->header.end_bytes + save->new_bytes + index_bytes;
    /* A generation of 2^64 - 1 would be refused when it is read. */
    *worth = (always || end_bytes / 2 <= live_bytes) && old->header.generation < UINT64_MAX - 1;
    if (!*worth)
        return KVF_OK;
    /* What a save that was interrupted left behind. */
    if (old->file_bytes > old->header.end_bytes &&
        io->truncate(io, writer->file, old->header.end_bytes) != 0)
        return kvf_io_fail(writer->path, "shorten", errno, error);
    writer->end_bytes = old->header.end_bytes;
    save->header.generation = old->header.generation + 1;
    status = write_parts(save, error);
    if (status == KVF_OK)
        status = kvf_snapshot_sync(&save->writer, error);
    if (status != KVF_OK) {
        /* Gives a full disk its room back; the old header speaks of nothing behind its end. */
        io->truncate(io, writer->file, old->header.end_bytes);
        return status;
    }
    save->save->before.known = false; /* until the header is known to be there */
    return write_headers(save, old, error);
}

/*
 * Whether the open file is still the one of that name and holds what was last saved. A
 * file that cannot be read any more is not: a new one takes its place.
 */
static kvf_status compare_with_saved(saving *save, const char *path, kvf_snapshot_index *old,
                                     bool *same, kvf_error *error)
{
    const kvf_io *io = save->writer.io;
    struct stat opened;
    struct stat named;
    kvf_error found;
    *same = false;
    if (io->stat(io, save->writer.file, &opened) != 0 || io->stat_path(io, path, &named) != 0 ||
        !same_file(&opened, &named))
        return KVF_OK;
    const kvf_status status = kvf_snapshot_read_index(io, save->writer.file, path, old, &found);
    if (status == KVF_OUT_OF_MEMORY)
        return kvf_fail(error, status, "%s", found.message);
    if (status != KVF_OK)
        return KVF_OK;
    *same = old->header.checksum == save->before.header_checksum;
    if (!*same)
        kvf_snapshot_free_index(old);
    return KVF_OK;
}

/*
 * Adds to the file that was saved last. *done is false where a new one has to be written: the file
 * is another one, or not worth adding to unless `always`. Nothing was written then.
 */
static kvf_status save_appending(saving *save, const char *path, bool always, bool *done,
                                 kvf_error *error)
{
    const kvf_io *io = save->writer.io;
    kvf_snapshot_index old;
    kvf_error found;
    bool same;
    kvf_status status = open_locked(io, path, save->no_lock, &save->writer.file, &found);
    if (status == KVF_FILE_NOT_FOUND)
        return KVF_OK;
    if (status != KVF_OK)
        return kvf_fail(error, status, "%s", found.message);
    status = compare_with_saved(save, path, &old, &same, error);
    if (same) {
        status = append(save, &old, always, done, error);
        kvf_snapshot_free_index(&old);
    }
    io->close(io, save->writer.file);
    return status;
}

/* ---- The whole --------------------------------------------------------------------------- */

typedef enum save_way { ADD_IF_WORTH, ADD_ALWAYS, WRITE_NEW } save_way;

/* One attempt; *done where the file holds the session now. */
static kvf_status attempt(kvf_save *whole, const char *path, save_way way, kvf_save_report *report,
                          bool *done, bool *no_room, kvf_error *error)
{
    const kvf_save_options *wanted = &whole->options;
    saving save = {
        .save = whole,
        .no_lock = wanted->no_lock,
        .header = whole->source.header,
        .writer = {.io = whole->io, .path = path, .file = -1, .compress = wanted->compress}};
    kvf_status status;
    *done = false;
    if (way == WRITE_NEW) {
        status = save_new(&save, path, error);
        *done = status == KVF_OK;
    } else {
        save.before = whole->before;
        status = save_appending(&save, path, way == ADD_ALWAYS, done, error);
    }
    if (status == KVF_OK && *done)
        remember(&save, report, way != WRITE_NEW);
    *no_room = save.writer.no_room;
    kvf_snapshot_writer_close(&save.writer);
    free(save.parts);
    return status;
}

/* Whether a whole file has room beside the old one: it need not be written to find out. */
static bool has_room(const kvf_save *save, const char *path)
{
    return kvf_snapshot_file_bytes(&save->source.shape) <= save->io->free_bytes(save->io, path);
}

kvf_status kvf_save_to_path(kvf_save *save, const char *path, kvf_save_report *report,
                            kvf_error *error)
{
    bool done = false;
    bool no_room = false;
    kvf_status status = KVF_OK;
    const bool may_append = !save->options.whole && !save->options.compress && save->before.known;
    if (may_append)
        status = attempt(save, path, ADD_IF_WORTH, report, &done, &no_room, error);
    if (status == KVF_OK && !done && may_append && save->before.known && !has_room(save, path))
        status = attempt(save, path, ADD_ALWAYS, report, &done, &no_room, error);
    if (status == KVF_OK && !done) {
        status = attempt(save, path, WRITE_NEW, report, &done, &no_room, error);
        /* A quota, or a limit of the process: what is new may fit yet. */
        if (no_room && may_append && save->before.known &&
            attempt(save, path, ADD_ALWAYS, report, &done, &no_room, NULL) == KVF_OK && done)
            status = KVF_OK;
    }
    return status == KVF_OK ? kvf_ok(error) : status;
}

bool kvf_snapshot_is_unfinished(const char *path)
{
    const kvf_io *io = &kvf_io_system;
    struct stat info;
    kvf_error error;
    const int file = io->open(io, path, O_RDONLY | O_NONBLOCK | O_NOFOLLOW, 0);
    if (file < 0)
        return false;
    const bool unfinished = io->stat(io, file, &info) == 0 && S_ISREG(info.st_mode) &&
                            check_unfinished(io, file, &info, path, &error) == KVF_OK;
    io->close(io, file);
    return unfinished;
}
