/*
 * Sessions in files of a folder: what is held outlives the memory that it took, and the process.
 * docs/SCHEDULER.md. Internal; the scheduler's thread alone.
 *
 * A file has one line of tokens. One that goes on is added to; a branch is a file of its own. What
 * is in the folder is what its files say; their ids are kept in memory, so that a search reads
 * none.
 */
#ifndef KVF_SERVER_SHELF_H
#define KVF_SERVER_SHELF_H

#include "engine/engine.h"
#include "engine/session_files.h"

typedef struct kvf_stored kvf_stored;

/* What a session in memory has of its line in a file. */
typedef struct kvf_holder {
    kvf_stored *stored;       /* NULL: no file */
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
} kvf_shelf;

/*
 * Takes the folder, which is made where there is none, and reads what is there. Files of other
 * models and damaged ones are left alone and noted; what saves left that did not end is removed.
 *   KVF_FILE_IO (another server has it, or the system refuses), KVF_OUT_OF_MEMORY.
 */
kvf_status kvf_shelf_open(kvf_engine *engine, const char *folder, uint64_t max_bytes, bool no_lock,
                          const kvf_session_options *session_options, kvf_shelf **shelf,
                          kvf_error *error);
/* NULL is fine. */
void kvf_shelf_close(kvf_shelf *shelf);

/* The file that a text can be taken up from, and how many tokens of it; NULL: none, 0. */
kvf_stored *kvf_shelf_find(const kvf_shelf *shelf, const int32_t *ids, uint64_t n,
                           uint64_t *n_tokens);
/* Restores it. A file that is damaged is forgotten and removed. */
kvf_status kvf_shelf_load(kvf_shelf *shelf, kvf_stored *stored, kvf_session **session,
                          kvf_error *error);
/*
 * Saves a session to the holder's file, or to a new one that it has then. The least useful files
 * leave for it. KVF_OUT_OF_MEMORY, or KVF_FILE_IO: nothing that could leave would do, or what the
 * system said; that is noted, once until a save works again.
 */
kvf_status kvf_shelf_save(kvf_shelf *shelf, kvf_session *session, kvf_holder *holder,
                          kvf_error *error);
/* The length of a new file of that session, about. KVF_OUT_OF_MEMORY. */
kvf_status kvf_shelf_plan_bytes(const kvf_shelf *shelf, const kvf_session *session, uint64_t *bytes,
                                kvf_error *error);
/* Whether a save may be tried: the last one worked, or it was a while ago. */
bool kvf_shelf_may_save(const kvf_shelf *shelf);
/* Another session goes on with the file; NULL: none does. */
void kvf_stored_hold(kvf_stored *stored, kvf_holder *holder);
/* Removes the file; its holder has none then. */
void kvf_shelf_forget(kvf_shelf *shelf, kvf_stored *stored);

#endif
