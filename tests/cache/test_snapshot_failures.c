/*
 * Saving and restoring while the system fails: every call of it in turn, short writes, a
 * full disk, a power cut that loses what was not synced, and every allocation. Afterwards
 * the file is the old state or the new one, nothing leaked, and the session goes on.
 */
#include "failing_malloc.h"
#include "snapshot_support.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>

#define KEPT_OLD 1
#define KEPT_NEW 2

/* ---- A disk that fails ------------------------------------------------------------- */

/* One call that changes something, as a power cut later sees it. */
typedef enum op_kind {
    OP_CREATE,
    OP_WRITE,
    OP_TRUNCATE,
    OP_SYNC,
    OP_RENAME,
    OP_SYNC_FOLDER
} op_kind;

typedef struct op {
    op_kind kind;
    ino_t inode;
    uint64_t offset; /* or the length */
    size_t bytes;
    uint8_t *data;
} op;

static struct disk {
    uint64_t calls;
    uint64_t fail_at;    /* number of the call that fails; 0: none */
    bool short_writes;   /* each writes half of what it was given */
    uint64_t room_bytes; /* writes beyond fail with ENOSPC; 0: there is room */
    uint64_t used_bytes;
    bool recording;
    size_t n_ops;
    op ops[2000];
} disk;

static bool fails(int reason)
{
    if (++disk.calls != disk.fail_at)
        return false;
    errno = reason;
    return true;
}

static void record(op_kind kind, int file, uint64_t offset, const void *data, size_t bytes)
{
    struct stat info = {0};
    if (!disk.recording)
        return;
    assert_true(disk.n_ops < sizeof disk.ops / sizeof *disk.ops);
    if (file >= 0)
        fstat(file, &info);
    op *next = &disk.ops[disk.n_ops++];
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

static ssize_t disk_write(const kvf_io *io, int file, const void *data, size_t bytes,
                          uint64_t offset)
{
    if (fails(EIO))
        return -1;
    if (disk.short_writes)
        bytes = (bytes + 1) / 2;
    if (disk.room_bytes && disk.used_bytes + bytes > disk.room_bytes) {
        bytes = disk.room_bytes - disk.used_bytes;
        errno = ENOSPC;
        if (bytes == 0)
            return -1;
    }
    disk.used_bytes += bytes;
    record(OP_WRITE, file, offset, data, bytes);
    return kvf_io_system.write(io, file, data, bytes, offset);
}

static int disk_truncate(const kvf_io *io, int file, uint64_t bytes)
{
    if (fails(EIO))
        return -1;
    record(OP_TRUNCATE, file, bytes, NULL, 0);
    return kvf_io_system.truncate(io, file, bytes);
}

static int disk_sync(const kvf_io *io, int file)
{
    (void)io;
    record(OP_SYNC, file, 0, NULL, 0);
    return fails(EIO) ? -1 : 0; /* what a real one keeps is simulated */
}

static int disk_rename(const kvf_io *io, const char *from, const char *to)
{
    if (fails(EIO))
        return -1;
    record(OP_RENAME, -1, 0, NULL, 0);
    return kvf_io_system.rename(io, from, to);
}

static int disk_unlink(const kvf_io *io, const char *path)
{
    return fails(EIO) ? -1 : kvf_io_system.unlink(io, path);
}

static int disk_sync_folder(const kvf_io *io, const char *folder)
{
    (void)io;
    (void)folder;
    record(OP_SYNC_FOLDER, -1, 0, NULL, 0);
    return fails(EIO) ? -1 : 0;
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

static const kvf_io disk_io = {.open = disk_open,
                               .follow = disk_follow,
                               .set_mode = disk_set_mode,
                               .close = disk_close,
                               .lock = disk_lock,
                               .stat = disk_stat,
                               .stat_path = disk_stat_path,
                               .read = disk_read,
                               .write = disk_write,
                               .truncate = disk_truncate,
                               .sync = disk_sync,
                               .rename = disk_rename,
                               .unlink = disk_unlink,
                               .sync_folder = disk_sync_folder,
                               .map = disk_map,
                               .unmap = disk_unmap};

static void reset_disk(void)
{
    for (size_t i = 0; i < disk.n_ops; i++)
        free(disk.ops[i].data);
    memset(&disk, 0, sizeof disk);
}

/* ---- The state of a file -------------------------------------------------------------- */

/* Which of two states the file holds; anything else fails the test. */
static int state_of(const char *path, uint64_t old_digest, uint64_t new_digest)
{
    const kvf_load_options verify = {.verify = true};
    kvf_session *restored;
    kvf_error error;
    const kvf_status status = kvf_session_load(snap_device, path, &verify, &restored, &error);
    if (status != KVF_OK)
        fail_msg("the file cannot be read any more: %s", error.message);
    const uint64_t digest = snap_digest(restored, true);
    kvf_session_close(restored);
    assert_true(digest == old_digest || digest == new_digest);
    return digest == new_digest ? KEPT_NEW : KEPT_OLD;
}

static bool exists(const char *path)
{
    struct stat info;
    return stat(path, &info) == 0;
}

/* A session of 250 tokens, saved twice so that the file has room for more. */
static kvf_session *saved_session(const char *path)
{
    kvf_session *session = snap_open(snap_device, KVF_PROFILE_FOLD, false);
    const kvf_save_options whole = {.whole = true};
    snap_grow(session, 250);
    assert_int_equal(kvf_session_save(session, path, &whole, NULL, NULL), KVF_OK);
    return session;
}

/*
 * Saves one more token on the failing disk, and looks what is left. Then the session is
 * saved on a good one and must be there. Returns the status of the failing save.
 */
static kvf_status save_on_disk(kvf_session *session, const char *path, bool whole, bool first)
{
    static const kvf_save_options anew = {.whole = true};
    const uint64_t old_digest = snap_digest(session, true);
    kvf_error error;
    if (first)
        remove(path);
    assert_int_equal(snap_step(session, 1, NULL, NULL), KVF_OK);
    const uint64_t new_digest = snap_digest(session, true);
    disk.calls = 0;
    disk.used_bytes = 0;
    const kvf_status status =
        kvf_session_save_to(session, path, whole || first ? &anew : NULL, NULL, &disk_io, &error);
    assert_int_equal(snap_digest(session, true), new_digest);
    if (first && !exists(path))
        assert_int_not_equal(status, KVF_OK);
    else if (state_of(path, old_digest, new_digest) == KEPT_OLD)
        assert_int_not_equal(status, KVF_OK);
    if (status != KVF_OK)
        assert_true(error.message[0] != '\0');
    assert_int_equal(kvf_session_save(session, path, &anew, NULL, &error), KVF_OK);
    assert_int_equal(state_of(path, new_digest, new_digest), KEPT_NEW);
    return status;
}

static void any_call_may_fail(void **state)
{
    (void)state;
    const char *path = snap_path("calls");
    for (int mode = 0; mode < 3; mode++) {
        kvf_session *session = saved_session(path);
        unsigned n_failed = 0;
        uint64_t fail_at = 1;
        do {
            reset_disk();
            disk.fail_at = fail_at;
            n_failed += save_on_disk(session, path, mode == 1, mode == 2) != KVF_OK;
        } while (disk.calls >= fail_at++);
        /* Nearly all of them matter: only cleaning up and the second header do not. */
        assert_true(n_failed >= 15 && n_failed + 8 >= fail_at - 2);
        kvf_session_close(session);
    }
    reset_disk();
}

static void short_writes_are_continued(void **state)
{
    (void)state;
    const char *path = snap_path("short");
    kvf_session *session = saved_session(path);
    reset_disk();
    disk.short_writes = true;
    for (int mode = 0; mode < 3; mode++)
        assert_int_equal(save_on_disk(session, path, mode == 1, mode == 2), KVF_OK);
    kvf_session_close(session);
    reset_disk();
}

static void a_full_disk_keeps_the_old_state(void **state)
{
    (void)state;
    const char *path = snap_path("full");
    kvf_session *session = saved_session(path);
    const uint64_t bytes = snap_file_bytes(path);
    for (int mode = 0; mode < 3; mode++)
        for (uint64_t room = 1; room < bytes; room += bytes / 12) {
            reset_disk();
            disk.room_bytes = room;
            const kvf_status status = save_on_disk(session, path, mode == 1, mode == 2);
            if (mode > 0)
                assert_int_equal(status, KVF_FILE_IO);
        }
    kvf_session_close(session);
    reset_disk();
}

static void any_call_of_a_load_may_fail(void **state)
{
    (void)state;
    const char *path = snap_path("load");
    kvf_session *session = saved_session(path);
    kvf_session *restored;
    kvf_error error;
    kvf_status status;
    uint64_t fail_at = 1;
    do {
        reset_disk();
        disk.fail_at = fail_at++;
        status = kvf_session_load_from(snap_device, path, NULL, &restored, &disk_io, &error);
        assert_true((status == KVF_OK) == (restored != NULL));
    } while (status != KVF_OK);
    assert_true(fail_at > 6);
    kvf_session_close(restored);
    kvf_session_close(session);
    reset_disk();
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
        memset(file->data + change->offset, 0, CONTENT_BYTES - change->offset);
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
        if (disk.ops[i].kind == OP_SYNC && disk.ops[i].inode == file->inode)
            synced = i;
    for (size_t i = 0; i < end; i++) {
        const op *change = &disk.ops[i];
        if (change->inode != file->inode ||
            (change->kind != OP_WRITE && change->kind != OP_TRUNCATE))
            continue;
        const uint64_t luck = i < synced ? 0 : snap_random(random) % 3;
        if (luck != 2)
            apply(file, change, luck == 1 ? random : NULL);
    }
}

/*
 * The machine stops before op `end` of the recorded save. What of the unsynced is there
 * follows from the seed. Returns whether a file of that name is there, as `survivor`.
 */
static bool cut_power(size_t end, const uint8_t *before, size_t before_bytes, ino_t before_inode,
                      uint64_t seed, const char *survivor)
{
    content file = {.inode = before_inode, .data = calloc(1, CONTENT_BYTES)};
    ino_t created = 0;
    bool renamed = false;
    for (size_t i = 0; i < end; i++) {
        if (disk.ops[i].kind == OP_CREATE)
            created = disk.ops[i].inode;
        /* A rename that was not followed by a sync of the folder may be lost. */
        if (disk.ops[i].kind == OP_RENAME)
            renamed = snap_random(&seed) % 2;
        if (disk.ops[i].kind == OP_SYNC_FOLDER)
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
        snap_write_file(survivor, file.data, file.bytes);
    }
    free(file.data);
    return there;
}

static void a_power_cut_keeps_the_old_state_or_the_new_one(void **state)
{
    (void)state;
    const char *path = snap_path("power");
    const char *survivor = snap_path("survivor");
    unsigned seen = 0;
    for (int mode = 0; mode < 3; mode++) {
        kvf_session *session = saved_session(path);
        struct stat info;
        size_t before_bytes = 0;
        uint8_t *before = snap_read_file(path, &before_bytes);
        assert_int_equal(stat(path, &info), 0);
        if (mode == 2)
            before_bytes = 0;
        const uint64_t old_digest = snap_digest(session, true);
        assert_int_equal(snap_step(session, 5, NULL, NULL), KVF_OK);
        const uint64_t new_digest = snap_digest(session, true);
        const kvf_save_options options = {.whole = mode > 0};
        if (mode == 2)
            remove(path);
        reset_disk();
        disk.recording = true;
        assert_int_equal(kvf_session_save_to(session, path, &options, NULL, &disk_io, NULL),
                         KVF_OK);
        disk.recording = false;
        for (size_t end = 0; end <= disk.n_ops; end++)
            for (uint64_t seed = 0; seed < 30; seed++) {
                const bool there =
                    cut_power(end, before, before_bytes, info.st_ino, seed * 1000 + end, survivor);
                assert_true(there || mode == 2);
                const int kept = there ? state_of(survivor, old_digest, new_digest) : KEPT_OLD;
                if (end == disk.n_ops)
                    assert_int_equal(kept, KEPT_NEW);
                if (end == 0)
                    assert_int_equal(kept, KEPT_OLD);
                seen |= (unsigned)kept << 2 * mode;
            }
        free(before);
        kvf_session_close(session);
    }
    assert_int_equal(seen, 0x3f); /* both, in all three */
    reset_disk();
}

/* ---- Memory that runs out ------------------------------------------------------------------ */

#ifdef KVF_TEST_WRAPPED_MALLOC

static kvf_status save_short_of_memory(kvf_session *session, const char *path,
                                       const kvf_save_options *options, uint64_t fail_at)
{
    kvf_error error;
    const malloc_counts before = failing_malloc_count(snap_device);
    failing_malloc_begin(fail_at);
    const kvf_status status = kvf_session_save(session, path, options, NULL, &error);
    const bool failed = failing_malloc_end();
    failing_malloc_expect(snap_device, &before);
    assert_true(status == (failed ? KVF_OUT_OF_MEMORY : KVF_OK));
    return status;
}

static void any_allocation_of_a_save_may_fail(void **state)
{
    (void)state;
    const char *path = snap_path("memory");
    static const kvf_save_options all[] = {{0}, {.whole = true}, {.compress = true}};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        if (all[i].compress && kvf_codec_bound(1) == 0)
            continue;
        kvf_session *session = saved_session(path);
        const uint64_t old_digest = snap_digest(session, true);
        assert_int_equal(snap_step(session, 1, NULL, NULL), KVF_OK);
        const uint64_t new_digest = snap_digest(session, true);
        uint64_t fail_at = 0;
        while (save_short_of_memory(session, path, &all[i], fail_at) != KVF_OK) {
            assert_int_equal(snap_digest(session, true), new_digest);
            assert_int_equal(state_of(path, old_digest, new_digest), KEPT_OLD);
            fail_at++;
        }
        assert_true(fail_at >= 4);
        assert_int_equal(state_of(path, old_digest, new_digest), KEPT_NEW);
        kvf_session_close(session);
    }
}

static void any_allocation_of_a_load_may_fail(void **state)
{
    (void)state;
    const char *path = snap_path("memory");
    kvf_session *session = saved_session(path);
    const malloc_counts before = failing_malloc_count(snap_device);
    for (int profile = 0; profile < KVF_PROFILE_COUNT; profile++) {
        const kvf_session_options wanted = {
            .profile = (kvf_profile_id)profile, .max_tokens = 4096, .chunk_tokens = SNAP_CHUNK};
        const kvf_load_options options = {.session = &wanted};
        kvf_session *restored = NULL;
        kvf_error error;
        uint64_t fail_at = 0;
        for (; !restored; fail_at++) {
            failing_malloc_begin(fail_at);
            const kvf_status status =
                kvf_session_load(snap_device, path, &options, &restored, &error);
            assert_true(failing_malloc_end() == !restored);
            assert_true(status == (restored ? KVF_OK : KVF_OUT_OF_MEMORY));
            if (!restored)
                failing_malloc_expect(snap_device, &before);
        }
        assert_true(fail_at > 20);
        assert_int_equal(snap_digest(restored, false), snap_digest(session, false));
        kvf_session_close(restored);
        failing_malloc_expect(snap_device, &before);
    }
    kvf_session_close(session);
}

#endif

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(any_call_may_fail),
        cmocka_unit_test(short_writes_are_continued),
        cmocka_unit_test(a_full_disk_keeps_the_old_state),
        cmocka_unit_test(any_call_of_a_load_may_fail),
        cmocka_unit_test(a_power_cut_keeps_the_old_state_or_the_new_one),
#ifdef KVF_TEST_WRAPPED_MALLOC
        cmocka_unit_test(any_allocation_of_a_save_may_fail),
        cmocka_unit_test(any_allocation_of_a_load_may_fail),
#endif
    };
    return cmocka_run_group_tests(tests, snap_setup, snap_teardown);
}
