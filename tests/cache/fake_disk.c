#include "fake_disk.h"

#include <errno.h>
#include <fcntl.h>

#include "snapshot_support.h"

fake_disk_state fake;

static bool fails(int reason)
{
    const uint64_t call = ++fake.calls;
    if (fake.fail_at == 0 || call < fake.fail_at || (call > fake.fail_at && !fake.fail_from))
        return false;
    errno = reason;
    return true;
}

static void record(op_kind kind, int file, uint64_t offset, const void *data, size_t bytes)
{
    struct stat info = {0};
    if (!fake.recording)
        return;
    assert_true(fake.n_ops < sizeof fake.ops / sizeof *fake.ops);
    if (file >= 0)
        fstat(file, &info);
    op *next = &fake.ops[fake.n_ops++];
    *next = (op){.kind = kind, .inode = info.st_ino, .offset = offset, .bytes = bytes};
    if (bytes) {
        next->data = malloc(bytes);
        memcpy(next->data, data, bytes);
    }
}

static int disk_open(const kvf_io *io, const char *path, int flags, mode_t mode)
{
    if (fails(EACCES))
        return -1;
    const int file = kvf_io_system.open(io, path, flags, mode);
    if (file >= 0 && flags & O_CREAT)
        record(OP_CREATE, file, 0, NULL, 0);
    return file;
}

static int disk_follow(const kvf_io *io, const char *path, char **target)
{
    *target = NULL;
    return fails(EIO) ? -1 : kvf_io_system.follow(io, path, target);
}

static uint64_t disk_free_bytes(const kvf_io *io, const char *path)
{
    (void)io;
    (void)path;
    return fake.tells_room ? fake.room_bytes - fake.used_bytes : UINT64_MAX;
}

static int disk_set_mode(const kvf_io *io, int file, mode_t mode)
{
    return fails(EPERM) ? -1 : kvf_io_system.set_mode(io, file, mode);
}

static int disk_lock(const kvf_io *io, int file)
{
    return fails(EIO) ? -1 : kvf_io_system.lock(io, file);
}

static int disk_stat(const kvf_io *io, int file, struct stat *info)
{
    return fails(EIO) ? -1 : kvf_io_system.stat(io, file, info);
}

static int disk_stat_path(const kvf_io *io, const char *path, struct stat *info)
{
    return fails(EIO) ? -1 : kvf_io_system.stat_path(io, path, info);
}

static ssize_t disk_read(const kvf_io *io, int file, void *data, size_t bytes, uint64_t offset)
{
    return fails(EIO) ? -1 : kvf_io_system.read(io, file, data, bytes, offset);
}

/* ---- Room -------------------------------------------------------------------------- */

static uint64_t bytes_of(int file)
{
    struct stat info = {0};
    fstat(file, &info);
    return (uint64_t)info.st_size;
}

static void give_back(uint64_t bytes)
{
    fake.used_bytes -= bytes < fake.used_bytes ? bytes : fake.used_bytes;
}

static void give_back_file(const char *path)
{
    struct stat info;
    if (stat(path, &info) == 0)
        give_back((uint64_t)info.st_size);
}

/* How many of the bytes there is room for. What a file holds already needs none. */
static size_t take_room(int file, size_t bytes, uint64_t offset)
{
    const uint64_t held = bytes_of(file);
    const uint64_t growth = offset + bytes > held ? offset + bytes - held : 0;
    const uint64_t used = fake.used_bytes + growth;
    const uint64_t excess = fake.room_bytes && used > fake.room_bytes ? used - fake.room_bytes : 0;
    if (excess >= bytes && bytes > 0)
        return 0;
    fake.used_bytes = used - excess;
    return bytes - excess;
}

static ssize_t disk_write(const kvf_io *io, int file, const void *data, size_t bytes,
                          uint64_t offset)
{
    if (fails(EIO))
        return -1;
    bytes = take_room(file, fake.short_writes ? (bytes + 1) / 2 : bytes, offset);
    if (bytes == 0) {
        errno = ENOSPC;
        return -1;
    }
    record(OP_WRITE, file, offset, data, bytes);
    return kvf_io_system.write(io, file, data, bytes, offset);
}

static int disk_truncate(const kvf_io *io, int file, uint64_t bytes)
{
    if (fails(EIO))
        return -1;
    const uint64_t held = bytes_of(file);
    if (held > bytes)
        give_back(held - bytes);
    record(OP_TRUNCATE, file, bytes, NULL, 0);
    return kvf_io_system.truncate(io, file, bytes);
}

static int disk_sync(const kvf_io *io, int file)
{
    (void)io;
    if (fails(EIO))
        return -1;
    record(OP_SYNC, file, 0, NULL, 0); /* what a real one keeps is simulated */
    return 0;
}

static int disk_rename(const kvf_io *io, const char *from, const char *to)
{
    if (fails(EIO))
        return -1;
    record(OP_RENAME, -1, 0, NULL, 0);
    give_back_file(to);
    return kvf_io_system.rename(io, from, to);
}

static int disk_unlink(const kvf_io *io, const char *path)
{
    if (fails(EIO))
        return -1;
    give_back_file(path);
    return kvf_io_system.unlink(io, path);
}

static int disk_sync_folder(const kvf_io *io, const char *folder)
{
    (void)io;
    (void)folder;
    if (fails(EIO))
        return -1;
    record(OP_SYNC_FOLDER, -1, 0, NULL, 0);
    return 0;
}

static void *disk_map(const kvf_io *io, int file, size_t bytes)
{
    return fails(ENOMEM) ? NULL : kvf_io_system.map(io, file, bytes);
}

static int disk_close(const kvf_io *io, int file)
{
    return kvf_io_system.close(io, file);
}

static void disk_unmap(const kvf_io *io, void *view, size_t bytes)
{
    kvf_io_system.unmap(io, view, bytes);
}

static int disk_stat_link(const kvf_io *io, const char *path, struct stat *info)
{
    return fails(EIO) ? -1 : kvf_io_system.stat_link(io, path, info);
}

static int disk_set_time(const kvf_io *io, const char *path, struct timespec time)
{
    return fails(EPERM) ? -1 : kvf_io_system.set_time(io, path, time);
}

static int disk_make_folder(const kvf_io *io, const char *path)
{
    return fails(EACCES) ? -1 : kvf_io_system.make_folder(io, path);
}

static int disk_list(const kvf_io *io, const char *folder, kvf_io_taker take, void *user)
{
    return fails(EACCES) ? -1 : kvf_io_system.list(io, folder, take, user);
}

static struct timespec disk_now(const kvf_io *io)
{
    return kvf_io_system.now(io);
}

const kvf_io fake_disk = {.open = disk_open,
                          .follow = disk_follow,
                          .free_bytes = disk_free_bytes,
                          .set_mode = disk_set_mode,
                          .close = disk_close,
                          .lock = disk_lock,
                          .stat = disk_stat,
                          .stat_path = disk_stat_path,
                          .stat_link = disk_stat_link,
                          .set_time = disk_set_time,
                          .make_folder = disk_make_folder,
                          .list = disk_list,
                          .now = disk_now,
                          .read = disk_read,
                          .write = disk_write,
                          .truncate = disk_truncate,
                          .sync = disk_sync,
                          .rename = disk_rename,
                          .unlink = disk_unlink,
                          .sync_folder = disk_sync_folder,
                          .map = disk_map,
                          .unmap = disk_unmap};

void fake_disk_reset(void)
{
    for (size_t i = 0; i < fake.n_ops; i++)
        free(fake.ops[i].data);
    memset(&fake, 0, sizeof fake);
}

kvf_save_report fake_disk_save(kvf_session *session, const char *path)
{
    kvf_save_report report;
    kvf_error error;
    fake_disk_reset();
    if (kvf_session_save_to(session, path, NULL, &report, &fake_disk, &error) != KVF_OK)
        fail_msg("%s", error.message);
    return report;
}

/* ---- A power cut ------------------------------------------------------------------------ */

typedef struct content {
    ino_t inode;
    uint8_t *data;
    size_t bytes;
} content;

/* Files are far below this. */
#define CONTENT_BYTES (8u << 20)

static void apply(content *file, const op *change, uint64_t *random)
{
    if (change->kind == OP_TRUNCATE) {
        if (change->offset < file->bytes)
            memset(file->data + change->offset, 0, file->bytes - change->offset);
        file->bytes = change->offset;
        return;
    }
    /* By sectors, each of which arrives or does not. */
    for (size_t at = 0; at < change->bytes; at += 512) {
        const size_t n = change->bytes - at < 512 ? change->bytes - at : 512;
        if (random && snap_random(random) % 2)
            continue;
        memcpy(file->data + change->offset + at, change->data + at, n);
        if (change->offset + at + n > file->bytes)
            file->bytes = change->offset + at + n;
    }
}

/* Brings to the file what is behind its last sync before op `end`: all, some or nothing. */
static void lose(content *file, size_t end, uint64_t *random)
{
    size_t synced = 0;
    for (size_t i = 0; i < end; i++)
        if (fake.ops[i].kind == OP_SYNC && fake.ops[i].inode == file->inode)
            synced = i;
    for (size_t i = 0; i < end; i++) {
        const op *change = &fake.ops[i];
        if (change->inode != file->inode ||
            (change->kind != OP_WRITE && change->kind != OP_TRUNCATE))
            continue;
        const uint64_t luck = i < synced ? 0 : snap_random(random) % 3;
        if (luck != 2)
            apply(file, change, luck == 1 ? random : NULL);
    }
}

bool fake_disk_cut_power(size_t end, const uint8_t *before, size_t before_bytes, ino_t before_inode,
                         uint64_t seed, const char *survivor)
{
    content file = {.inode = before_inode, .data = calloc(1, CONTENT_BYTES)};
    ino_t created = 0;
    bool renamed = false;
    for (size_t i = 0; i < end; i++) {
        if (fake.ops[i].kind == OP_CREATE)
            created = fake.ops[i].inode;
        /* A rename that was not followed by a sync of the folder may be lost. */
        if (fake.ops[i].kind == OP_RENAME)
            renamed = snap_random(&seed) % 2;
        if (fake.ops[i].kind == OP_SYNC_FOLDER)
            renamed = true;
    }
    if (renamed) {
        file.inode = created;
    } else {
        memcpy(file.data, before, before_bytes);
        file.bytes = before_bytes;
    }
    const bool there = renamed || before_bytes > 0;
    if (there) {
        lose(&file, end, &seed);
        remove(survivor); /* emptying a file waits for the disk */
        snap_write_file(survivor, file.data, file.bytes);
    }
    free(file.data);
    return there;
}
