/* The files of a store: names, times, the folder's lock. Internal to snapshot/ and its tests. */
#ifndef KVF_SNAPSHOT_STORE_H
#define KVF_SNAPSHOT_STORE_H

#include <sys/types.h>
#include <time.h>

#include "snapshot/io.h"

#define KVF_STORE_DIGITS 16
#define KVF_STORE_SUFFIX ".kvfold"
#define KVF_STORE_NAME_BYTES 40 /* with ".saving" behind it */

/*
 * Beside DIGITS.kvfold there may be one empty file, whose time says when the state was used
 * last: DIGITS.used, or DIGITS.shared where `shared` of snapshot/eviction.h holds as well. The
 * time of the state's own file is when it was stored. All times are set, never left to the
 * system: whatever its clock, its mount options and its grain, each is later than those that
 * were there, so that they tell an order.
 */
#define KVF_STORE_USED ".used"
#define KVF_STORE_SHARED ".shared"

struct kvf_store {
    const kvf_io *io;
    char *folder;
    char *note; /* room for a path in the folder: a hint needs no memory */
    uint64_t max_bytes;
    kvf_store_options options;
    uint64_t begun; /* the newest time in the folder when a text was looked for last */
};

typedef enum kvf_store_kind {
    KVF_STORE_STATE,
    KVF_STORE_SAVING, /* what a save has not finished */
    KVF_STORE_NOTE    /* a time of a state that is not there */
} kvf_store_kind;

typedef struct kvf_store_file {
    char name[KVF_STORE_NAME_BYTES];
    kvf_store_kind kind;
    uint64_t bytes;
    uint64_t stored; /* nanoseconds since 1970, 0: not known */
    uint64_t used;   /* or `stored` */
    bool shared;
    dev_t device; /* which file the name led to .. */
    ino_t inode;
    struct timespec changed; /* .. and as of when */

    /* A search fills these in. */
    kvf_profile_id profile;
    uint64_t n_tokens;
    uint64_t common_tokens; /* with the text */
    uint64_t resumed_at;    /* its end, or the last checkpoint within them; 0: none, not usable */
} kvf_store_file;

typedef struct kvf_store_list {
    kvf_store_file *files;
    size_t n;
    size_t capacity;
    uint64_t newest; /* of all times */
} kvf_store_list;

/* As kvf_store_open, on any disk. */
kvf_status kvf_store_open_on(const char *folder, uint64_t max_bytes,
                             const kvf_store_options *options, const kvf_io *io, kvf_store **store,
                             kvf_error *error);

/*
 * The name of a session's file: digits of a checksum over the model, the profile, whether
 * there is a grid, and the token ids. Sessions of equal names are told apart by their ids.
 */
void kvf_store_name(const kvf_session *session, char name[KVF_STORE_NAME_BYTES]);

/* "FOLDER/NAME", malloc'd, or NULL. */
char *kvf_store_path(const kvf_store *store, const char *name);
kvf_status kvf_store_no_memory(const kvf_store *store, kvf_error *error);

/* All files of the store by name, with what notes say of them. list->files is to be freed. */
kvf_status kvf_store_list_files(const kvf_store *store, kvf_store_list *list, kvf_error *error);
/* Whether the name still leads to the file that was listed, unchanged. */
bool kvf_store_same_file(const kvf_store *store, const kvf_store_file *file, const char *path);

/*
 * Both note a time later than list->newest, which it becomes. They are hints: where the folder
 * does not take them, states leave in another order.
 */
void kvf_store_note_stored(const kvf_store *store, kvf_store_list *list, const char *name,
                           bool shared);
void kvf_store_note_used(const kvf_store *store, kvf_store_list *list, const char *name,
                         bool shared);
/* Removes the notes of a state. */
void kvf_store_forget(const kvf_store *store, const char *name);

/* The folder's lock, which is given back by closing *lock. Waits for it as the options say. */
kvf_status kvf_store_lock(const kvf_store *store, int *lock, kvf_error *error);
/* Does not wait: whether it is held. */
bool kvf_store_try_lock(const kvf_store *store, int *lock);
/* Whether a process that died left this file of a save. The folder is locked. */
bool kvf_store_is_dead(const kvf_store *store, const char *path);

#endif
