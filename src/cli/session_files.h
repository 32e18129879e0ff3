/*
 * Where saved sessions are, and how they are named: DIR/NAME.kvfold, with DIR from --store,
 * else $XDG_DATA_HOME/kvfold/sessions, else ~/.local/share/kvfold/sessions. Prefixes that
 * `run --store DIR` keeps are in DIR/prefixes, under names that the store makes.
 */
#ifndef KVF_CLI_SESSION_FILES_H
#define KVF_CLI_SESSION_FILES_H

#include "cli/options.h"

#define CLI_SESSION_SUFFIX ".kvfold"
#define CLI_LOCK_SUFFIX ".lock"
#define CLI_PREFIXES "prefixes"
enum { CLI_MAX_SESSION_NAME = 64 };

/* Letters, digits, '.', '_' and '-', no '.' or '-' first. Why not is a clause in *reason. */
bool cli_session_name_check(const char *name, char *reason, size_t reason_bytes);

/* All below return 0, or print why not and return the exit status. Paths are malloc'd. */

int cli_session_folder(const cli_options *options, char **folder);
/* Makes a folder and those above it, readable for nobody else. */
int cli_make_folder(const cli_options *options, const char *folder);
/* A malloc'd "FOLDER/NAME" with a suffix. */
int cli_path(const cli_options *options, const char *folder, const char *name, const char *suffix,
             char **path);

/*
 * A named session is used by one process at a time. The lock is a file NAME.lock beside
 * it, which is removed when it is given back, and means nothing once its process is dead.
 * Where files cannot be locked that is an error, or with --no-lock nothing is locked.
 */
typedef struct cli_lock {
    int file; /* -1: not held */
    char *path;
} cli_lock;
int cli_session_lock(const cli_options *options, const char *folder, const char *name,
                     cli_lock *lock);
void cli_session_unlock(cli_lock *lock);

/*
 * The file that a save to the path writes before it renames it, malloc'd, where nobody would
 * miss it: there is none now, or what a save left that was interrupted. NULL otherwise (errno
 * is EEXIST), and where memory is short. A path that is a link is saved to where it leads.
 */
char *cli_saving_path(const char *path);

#endif
