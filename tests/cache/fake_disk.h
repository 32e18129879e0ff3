/*
 * A disk that fails as it is told to, has little room, and records what was changed on
 * it, so that a test can stop the machine at any moment. Its files are real ones.
 */
#ifndef KVF_TEST_FAKE_DISK_H
#define KVF_TEST_FAKE_DISK_H

#include "snapshot/io.h"

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

typedef struct fake_disk_state {
    uint64_t calls;
    uint64_t fail_at;    /* number of the call that fails; 0: none */
    bool fail_from;      /* those after it do, too */
    bool short_writes;   /* each writes half of what it was given */
    uint64_t room_bytes; /* by which files can grow before ENOSPC; 0: there is room */
    uint64_t used_bytes; /* of it */
    bool tells_room;     /* whoever asks is told how much of it is left */
    bool recording;
    size_t n_ops; /* recorded so far */
    op ops[2000];
} fake_disk_state;

extern fake_disk_state fake;
extern const kvf_io fake_disk;

/* A disk that works, with nothing recorded. */
void fake_disk_reset(void);
/* Resets it and saves there, which must succeed: the real one takes its time for a sync. */
kvf_save_report fake_disk_save(kvf_session *session, const char *path);
/*
 * The machine stops before op `end` of what was recorded. What of the unsynced is there
 * follows from the seed. `before`: what the file of that inode held when the recording
 * began, 0 bytes where it was not there. Returns whether a file of that name is there
 * afterwards; its content is then written to `survivor`.
 */
bool fake_disk_cut_power(size_t end, const uint8_t *before, size_t before_bytes, ino_t before_inode,
                         uint64_t seed, const char *survivor);

#endif
