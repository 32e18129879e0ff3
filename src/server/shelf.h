/*
 * Sessions in files of a folder: what is held outlives the memory that it took, and the process.
 * docs/SCHEDULER.md. Internal; the scheduler's thread alone, which never waits for the disk here
 * once the folder is open: threads of the shelf do, one that writes and one that reads.
 *
 * A file has one line of tokens. One that goes on is added to; a branch is a file of its own. What
 * is in the folder is what its files say; their ids are kept in memory, so that a search reads
 * none.
 */
#ifndef KVF_SERVER_SHELF_H
#define KVF_SERVER_SHELF_H

#include "engine/engine.h"
#include "engine/session_files.h"
#include "server/disk.h"

typedef struct kvf_stored kvf_stored;
typedef struct kvf_saving kvf_saving;
typedef struct kvf_restoring kvf_restoring;

/* What a session in memory has of its line in a file. */
typedef struct kvf_holder {
    kvf_stored *stored;       /* NULL: no file */
    kvf_saving *saving;       /* a save of it that is under way; NULL: none is */
    uint64_t given_up_tokens; /* as long as this it found no room: it is tried again when longer */
} kvf_holder;

struct kvf_stored {
    char name[KVF_MAX_SESSION_NAME]; /* without suffix */
    int32_t *ids;                    /* [n_tokens] */
    uint64_t n_tokens;
    uint64_t bytes;
    uint64_t *places; /* [n_places] of its checkpoints, ascending */
    uint32_t n_places;
    double used_seconds; /* by kvf_seconds(); before this process began where it was used then */
    uint64_t n_hits;
    kvf_holder *holder; /* of the session in memory that goes on with it; NULL: none does */
    bool is_busy;       /* it is being written or restored: it stays */
};

typedef struct kvf_shelf {
    kvf_engine *engine;
    kvf_session_options session_options;
    char *folder;
    kvf_session_lock lock;
    uint64_t max_bytes; /* 0: any */
    bool no_lock;
    uint64_t bytes;    /* of all files */
    uint64_t n_tokens; /* in them */
    kvf_stored **list; /* [n] */
    uint32_t n;
    uint32_t capacity;
    uint64_t next_name;
    bool noted_room;       /* a session found no room, and that was said */
    double failed_seconds; /* when a save failed last; 0: none did since one worked */
    kvf_disk *writing;     /* saves, and removes files */
    kvf_disk *reading;     /* checks those that are restored */
    kvf_saving *saving;    /* under way; NULL: none is */
    kvf_restoring *restoring;
    void (*wake)(void *user); /* there is something to do here */
    void *wake_user;
} kvf_shelf;

/*
 * Takes the folder, which is made where there is none, and reads what is there. Files of other
 * models and damaged ones are left alone and noted; what saves left that did not end is removed.
 * `wake` is called by threads of the shelf.
 *   KVF_FILE_IO (another server has it, or the system refuses), KVF_OUT_OF_MEMORY.
 */
kvf_status kvf_shelf_open(kvf_engine *engine, const char *folder, uint64_t max_bytes, bool no_lock,
                          const kvf_session_options *session_options, void (*wake)(void *user),
                          void *wake_user, kvf_shelf **shelf, kvf_error *error);
/* A save and a restore that are under way are given up. NULL is fine. */
void kvf_shelf_close(kvf_shelf *shelf);

/* The file that a text can be taken up from, and how many tokens of it; NULL: none, 0. */
kvf_stored *kvf_shelf_find(const kvf_shelf *shelf, const int32_t *ids, uint64_t n,
                           uint64_t *n_tokens);
/*
 * Restoring, one file at a time, not one that is busy. begin has it checked; step brings so many
 * bytes of it into a session. A file that is damaged is forgotten and removed.
 */
kvf_status kvf_shelf_load_begin(kvf_shelf *shelf, kvf_stored *stored, kvf_error *error);
typedef enum kvf_load_state {
    KVF_LOAD_NONE,  /* nothing is restored */
    KVF_LOAD_WAITS, /* for the disk: wake is called */
    KVF_LOAD_GOES_ON,
    KVF_LOAD_OVER /* *session is the caller's, or NULL: it failed; *stored is gone then if it was
                     bad */
} kvf_load_state;
kvf_load_state kvf_shelf_load_step(kvf_shelf *shelf, uint64_t max_bytes, kvf_session **session,
                                   kvf_stored **stored);

/*
 * Saving, one session at a time. begin fixes what is written: to the holder's file, or to a new one
 * that it has once that is done. The least useful files leave for it. It then takes kvf_shelf_read
 * and kvf_shelf_hand (as kvf_save_read, kvf_save_hand) until kvf_shelf_save_end says true: what
 * came of it is known, and the session's pages are let go. The holder is NULL where it left
 * meanwhile. begin fails with KVF_OUT_OF_MEMORY, or KVF_FILE_IO: nothing that could leave would do.
 * Failures are noted, once until a save works again.
 */
kvf_status kvf_shelf_save_begin(kvf_shelf *shelf, kvf_session *session, kvf_holder *holder,
                                kvf_error *error);
uint64_t kvf_shelf_read(kvf_shelf *shelf, uint64_t max_bytes);
void kvf_shelf_hand(kvf_shelf *shelf);
bool kvf_shelf_save_end(kvf_shelf *shelf, kvf_holder **holder, kvf_status *status);
/* The disk takes too long: pages are let go now, and none is saved for a while. */
void kvf_shelf_save_stop(kvf_shelf *shelf);
/* The length of a new file of what is saved and keeps its pages; 0: nothing is. */
uint64_t kvf_shelf_saving_bytes(const kvf_shelf *shelf);
/* The session is closed next. Its file stays, and a save of it goes on. */
void kvf_holder_leave(kvf_holder *holder);
/* The length of a new file of that session, about. KVF_OUT_OF_MEMORY. */
kvf_status kvf_shelf_plan_bytes(const kvf_shelf *shelf, const kvf_session *session, uint64_t *bytes,
                                kvf_error *error);
/* Whether saves work, as far as is known: the last one did, or it was a while ago. */
bool kvf_shelf_works(const kvf_shelf *shelf);
/* Whether one may be tried now: that, and none is under way. */
bool kvf_shelf_may_save(const kvf_shelf *shelf);
/* Another session goes on with the file; NULL: none does. */
void kvf_stored_hold(kvf_stored *stored, kvf_holder *holder);
/* Removes the file; its holder has none then. */
void kvf_shelf_forget(kvf_shelf *shelf, kvf_stored *stored);

#endif
