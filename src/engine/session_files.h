/*
 * Where saved sessions are, and how they are named: DIR/NAME.kvfold, with DIR from --store,
 * else $XDG_DATA_HOME/kvfold/sessions, else ~/.local/share/kvfold/sessions. Prefixes that
 * `run --store DIR` keeps are in DIR/prefixes, under names that the store makes.
 */
#ifndef KVF_ENGINE_SESSION_FILES_H
#define KVF_ENGINE_SESSION_FILES_H

#include "engine/options.h"

#define KVF_SESSION_SUFFIX ".kvfold"
#define KVF_LOCK_SUFFIX ".lock"
#define KVF_PREFIXES "prefixes"
enum { KVF_MAX_SESSION_NAME = 64 };

/* Letters, digits, '.', '_' and '-', no '.' or '-' first. Why not is a clause in *reason. */
bool kvf_session_name_check(const char *name, char *reason, size_t reason_bytes);

/* Of a failure the message names the path. Paths are malloc'd. */

kvf_status kvf_session_folder(const kvf_engine_options *options, char **folder, kvf_error *error);
/* Makes a folder and those above it, readable for nobody else. */
kvf_status kvf_make_folder(const char *folder, kvf_error *error);
/* A malloc'd "FOLDER/NAME" with a suffix. */
kvf_status kvf_session_path(const char *folder, const char *name, const char *suffix, char **path,
                            kvf_error *error);

/*
 * A named session is used by one process at a time. The lock is a file NAME.lock beside
 * it, which is removed when it is given back, and means nothing once its process is dead.
 * Where files cannot be locked that is an error, or with no_lock nothing is locked.
 */
typedef struct kvf_session_lock {
    int file; /* -1: not held */
    char *path;
} kvf_session_lock;
kvf_status kvf_session_lock_take(const kvf_engine_options *options, const kvf_engine_events *events,
                                 const char *folder, const char *name, kvf_session_lock *lock,
                                 kvf_error *error);
void kvf_session_lock_give(const kvf_engine_events *events, kvf_session_lock *lock);

/*
 * The file that a save to the path writes before it renames it, malloc'd, where nobody would
 * miss it: there is none now, or what a save left that was interrupted. NULL otherwise (errno
 * is EEXIST), and where memory is short. A path that is a link is saved to where it leads.
 */
char *kvf_saving_path(const char *path);

#endif
