/*
 * Sessions in files, and a store of prefixes. Part of kvfold.h, which includes it: what is said
 * there of ownership, errors and threads holds here.
 */
#ifndef KVFOLD_FILES_H
#define KVFOLD_FILES_H

#include "kvfold.h"

#ifdef __cplusplus
extern "C" {
#endif

/* ---- Sessions in files ------------------------------------------------------ */

/*
 * A session can be saved under any backend and restored under any other. Rows come
 * back byte for byte in the same profile, and with equal values in another one. The
 * file is docs/FORMAT.md 10; kvf_plan.snapshot_bytes predicts a first save to the byte.
 */

#define KVF_CALLER_STATE_BYTES 64
/*
 * [KVF_CALLER_STATE_BYTES] for the caller (a sampler's settings and seed): zero at
 * first, saved and restored with the session, which does not look at them.
 */
KVF_API uint8_t *kvf_session_caller_state(kvf_session *session);

/*
 * What the rows were computed with: a number that no other model has; 0: not known.
 * Saved with the session, and compared when it is restored.
 */
KVF_API void kvf_session_set_model_fingerprint(kvf_session *session, uint64_t fingerprint);
KVF_API uint64_t kvf_session_model_fingerprint(const kvf_session *session);

typedef struct kvf_save_options {
    bool whole;    /* write a new file even where adding to the old one would do */
    bool compress; /* zstd, for files to be put away: smaller, read slower; implies whole */
    bool no_lock;  /* save where files cannot be locked, too, see kvf_session_save */
    /*
     * Of the checkpoints that commit took, those go into the file that are so far apart, beginning
     * with the oldest; 0: KVF_SAVED_SPACING_TOKENS. Those that were asked for all do.
     */
    uint64_t checkpoint_spacing_tokens;
} kvf_save_options;
/* A checkpoint of DeepSeek-V4-Flash has 3.6 MB, 8,192 tokens in fold 29 MB. */
#define KVF_SAVED_SPACING_TOKENS 8192

typedef struct kvf_save_report {
    uint64_t generation;    /* how often this file was saved */
    uint64_t file_bytes;    /* its length now */
    uint64_t unused_bytes;  /* of these, parts that later saves replaced */
    uint64_t written_bytes; /* by this save */
    bool appended;          /* to the file as it was */
} kvf_save_report;

/*
 * Saves what was committed. When this returns KVF_OK the file is on the disk; when it
 * fails, or the process or the machine stops on the way, path holds what it held before,
 * or the new state, never a mixture. The session is unchanged in every case.
 *   The first save writes PATH.saving beside the file and renames it. A later save of a
 * session to the file that it was last saved to or loaded from appends what is new,
 * unless more than half of the file would be unused: then it is written anew, if there is
 * room for that.
 * A path that is a link is saved to where it leads; a file keeps its permissions, a new one
 * is its owner's alone.
 *   A file has one session that goes on with it. Where two were loaded from one file, the
 * second to save replaces what the first saved, and both get KVF_OK; whether that may happen
 * is the caller's to know (the command takes a lock file for as long as it has a session).
 *   What was read from a file and never checked is checked before it goes to another.
 *   A save locks the file (flock). Some network and FUSE folders have no locks: that is
 * KVF_FILE_IO, with the system's reason, or with options->no_lock it goes on without; of two
 * saves of one path at once the first may then be lost, or PATH.saving be of both and neither
 * be there. Where a folder knows no fsync either, "on the disk" is as far as it goes by itself.
 *   Fails with KVF_INVALID_ARGUMENT (no path, or the session is in an open batch), KVF_DEVICE_LOST,
 * KVF_FILE_BUSY (another save of this path runs), KVF_FILE_NOT_FOUND (no such folder),
 * KVF_FILE_IO (no space, no permission, or path is something else than a snapshot or
 * PATH.saving a link or somebody's own file; they are not overwritten), KVF_FILE_FORMAT (a
 * damaged part of a restored session), KVF_UNSUPPORTED (compress without zstd), KVF_OUT_OF_MEMORY.
 * options and report may be NULL.
 */
KVF_API kvf_status kvf_session_save(kvf_session *session, const char *path,
                                    const kvf_save_options *options, kvf_save_report *report,
                                    kvf_error *error);
/*
 * The bytes of a new file of this session, to the byte (but for `compress`); options may be NULL.
 * KVF_OUT_OF_MEMORY.
 */
KVF_API kvf_status kvf_session_snapshot_bytes(const kvf_session *session,
                                              const kvf_save_options *options, uint64_t *bytes,
                                              kvf_error *error);

/* ---- Saving beside other work ---- */

/*
 * The same save while the session's device goes on with other work, the session itself included:
 * one thread has the device, another one writes (docs/SAVING.md).
 *
 *     device's thread: kvf_save_begin; then, again and again until the other has returned,
 *                      kvf_save_read and kvf_save_hand; at last kvf_save_end
 *     other thread:    kvf_save_write, once
 */
typedef struct kvf_save kvf_save;

/* Host memory that an open save takes at most, beside a copy of the logits and the file's index. */
#define KVF_SAVE_STAGING_BYTES (8u << 20)

/*
 * From here on it is fixed what is written: the session as it is now. It may be appended to,
 * truncated, forked and closed while the save is open; what it writes into then is copied before
 * (the last page of each kind of rows, the states, the token ids), and pages that it gives up stay
 * until the save lets them go. options are copied and may be NULL.
 *   Fails with KVF_INVALID_ARGUMENT (no path, the session is in an open batch, or a save of it is
 * not ended yet), KVF_DEVICE_LOST, KVF_OUT_OF_MEMORY. *save is owned by the caller: kvf_save_end.
 */
KVF_API kvf_status kvf_save_begin(kvf_session *session, const char *path,
                                  const kvf_save_options *options, kvf_save **save,
                                  kvf_error *error);
/*
 * Writes the file, with the promises and the errors of kvf_session_save; on any thread, once. It
 * waits for the disk, and for the bytes that it wants from the device's thread: `wants`, which may
 * be NULL, is called on this thread whenever it has come to want some. After kvf_save_stop, or
 * where a read failed, it returns with what happened, and the file is as it was. report may be
 * NULL.
 */
KVF_API kvf_status kvf_save_write(kvf_save *save, void (*wants)(void *context), void *context,
                                  kvf_save_report *report, kvf_error *error);
/*
 * On the device's thread: queues reads of what is wanted, of at most max_bytes, or one page.
 * Returns their bytes; 0: nothing is wanted now. Never waits for the disk, but where pages lie in a
 * mapped file that the system does not have in memory.
 */
KVF_API uint64_t kvf_save_read(kvf_save *save, uint64_t max_bytes);
/*
 * On the device's thread: waits for these reads (which is at once where a pass of the model came
 * between and waited) and gives the writer what is complete. Where nothing was queued it does
 * nothing.
 */
KVF_API void kvf_save_hand(kvf_save *save);
/*
 * On the device's thread: lets the session's pages go at once, whatever the writer does; it fails,
 * unless it had all bytes.
 */
KVF_API void kvf_save_stop(kvf_save *save);
/*
 * On the device's thread, after kvf_save_write has returned, or where it was never called. Tells
 * the session what the file holds, so that its next save adds to it; NULL where it was closed.
 * A save of NULL is ignored.
 */
KVF_API void kvf_save_end(kvf_save *save, kvf_session *session);

/* ---- Restoring ---- */

typedef struct kvf_load_options {
    const kvf_session_options *session; /* NULL: profile and context as saved, default chunk */
    const kvf_geometry *geometry;       /* the model's, compared with the file's; NULL: not */
    uint64_t model_fingerprint;         /* compared with the file's; 0: not */
    bool verify;                        /* check every part before returning */
} kvf_load_options;

/*
 * Restores a session. Pages of rows stay in the file, which is mapped: each part of at
 * most 4 MiB is compared with its checksum before its first row is used, and a page is
 * copied before it is written. Whatever function meets a damaged part fails with
 * KVF_FILE_FORMAT and names it. Where the profile is another one, the file is compressed
 * or the backend cannot address the host's memory, all rows are checked and copied here.
 *   The file may be saved to, replaced or removed while it is in use, not shortened.
 *   A file of somebody else's: give options->geometry, so that memory is the model's. Without
 * it a file may ask for as much as 1,024 times its length (parts of 4 MiB compressed to one
 * page each). Nothing in a file makes a stage read or write outside its memory.
 * The session has the checkpoints of the file, all of them, and can be truncated to these
 * (without logits, see kvf_session_truncate) and to what it takes from here on. Files of version 1
 * have none.
 *   session->max_tokens may be 0 (as saved) and must hold the tokens there are.
 *   Fails with KVF_FILE_NOT_FOUND, KVF_FILE_IO, KVF_FILE_FORMAT, KVF_WRONG_MODEL (names
 * both fingerprints, or what differs in the geometry), KVF_INEXACT (names layer and row),
 * KVF_UNSUPPORTED (a newer version, or a profile or flag of one; a compressed file without zstd; a
 * session without grid in another profile), KVF_INVALID_ARGUMENT, KVF_OUT_OF_MEMORY,
 * KVF_DEVICE_LOST. options may be NULL. *session is owned by the caller: kvf_session_close.
 */
KVF_API kvf_status kvf_session_load(kvf_device *device, const char *path,
                                    const kvf_load_options *options, kvf_session **session,
                                    kvf_error *error);

/*
 * The same in pieces. open reads headers and index and maps the file; with options->verify it
 * checks all of it, which is where the disk is waited for: on any thread. step, on the device's
 * thread, brings so many bytes at the most (or one part of the file) into a session, which is the
 * caller's as soon as *session is not NULL; a page that stays in the file counts as 1 kB. The
 * file may be replaced or removed meanwhile, not shortened. What options point to outlives the
 * load. The errors are those of kvf_session_load; after one, and after the session was given, the
 * load can only be closed, on the device's thread if a step was made. NULL is ignored.
 */
typedef struct kvf_load kvf_load;
KVF_API kvf_status kvf_load_open(const char *path, const kvf_load_options *options, kvf_load **load,
                                 kvf_error *error);
KVF_API kvf_status kvf_load_step(kvf_load *load, kvf_device *device, uint64_t max_bytes,
                                 kvf_session **session, kvf_error *error);
KVF_API void kvf_load_close(kvf_load *load);

/*
 * Checks all of a restored session that was not checked yet, for callers that read rows
 * through kvf_session_rows. KVF_FILE_FORMAT names what is damaged.
 */
KVF_API kvf_status kvf_session_check(kvf_session *session, kvf_error *error);

/* What a file says of itself. */
typedef struct kvf_snapshot_info {
    uint32_t version;
    kvf_profile_id profile;
    bool grid_off;
    bool compressed; /* at least one part is */
    uint64_t n_tokens;
    uint64_t max_tokens; /* the context that the session was opened for */
    uint64_t model_fingerprint;
    uint64_t generation;
    uint64_t file_bytes;
    uint64_t unused_bytes;
    uint32_t n_parts;
    uint32_t n_headers; /* that hold this state: 2, or 1 after a save that was interrupted */
    uint32_t n_checkpoints;
    bool logits_known; /* see kvf_session_logits_known */
    uint8_t caller_state[KVF_CALLER_STATE_BYTES];
    kvf_geometry geometry;
} kvf_snapshot_info;

/* Reads and checks headers and index, not the parts. Needs no device. */
KVF_API kvf_status kvf_snapshot_info_read(const char *path, kvf_snapshot_info *info,
                                          kvf_error *error);
/*
 * Checks all of the file as well: every part, that what is compressed unpacks, that token ids
 * are of the vocabulary. KVF_FILE_FORMAT names the first that is wrong.
 */
KVF_API kvf_status kvf_snapshot_verify(const char *path, kvf_error *error);
/*
 * Whether a file is what a save that was interrupted left, under the name PATH.saving: the
 * beginning of a snapshot, or nothing yet. The next save to PATH uses its place. Any other
 * file of that name is somebody's own: a save refuses to overwrite it.
 */
KVF_API bool kvf_snapshot_is_unfinished(const char *path);
/* The places of its checkpoints, ascending: writes at most `capacity` of info's n_checkpoints. */
KVF_API kvf_status kvf_snapshot_checkpoints(const char *path, uint64_t *n_tokens, uint32_t capacity,
                                            kvf_error *error);
/* The token ids: writes at most `capacity` of them (their part is checked). */
KVF_API kvf_status kvf_snapshot_tokens(const char *path, int32_t *tokens, uint64_t capacity,
                                       kvf_error *error);

/* ---- A store of prefixes ------------------------------------------------------ */

/*
 * A folder of saved sessions, in which a new text finds the longest one that is its
 * beginning. What is in it is what its files say; there is no index beside them that could
 * be out of date. Any number of processes may use one folder at once: they wait for each
 * other where something is written, by a lock that ends with its process. The store only
 * ever touches files named as it names them itself: 16 hexadecimal digits, made from a
 * checksum of what is in them, and ".kvfold", what interrupted saves left of these, the same
 * digits and ".used" or ".shared" (empty files, whose times say when a state was used last),
 * and its file "lock". A store belongs to one thread at a time.
 */
typedef struct kvf_store kvf_store;

typedef struct kvf_store_options {
    bool no_lock; /* go on where the folder cannot lock files, too, see kvf_session_save */
    /*
     * Called again and again while another process writes, with the seconds that were waited;
     * false ends the wait. NULL: a signal ends it.
     */
    bool (*wait)(void *wait_context, double seconds);
    void *wait_context;
} kvf_store_options;

/*
 * max_bytes: all files together, at any moment, those being written included. Where
 * there is no such folder it is made, its parent has to be there. options may be NULL.
 *   Fails with KVF_INVALID_ARGUMENT, KVF_FILE_NOT_FOUND, KVF_FILE_IO, KVF_OUT_OF_MEMORY.
 */
KVF_API kvf_status kvf_store_open(const char *folder, uint64_t max_bytes,
                                  const kvf_store_options *options, kvf_store **store,
                                  kvf_error *error);
/* NULL is ignored. Sessions that were found stay usable. */
KVF_API void kvf_store_close(kvf_store *store);

typedef struct kvf_store_found {
    uint64_t n_tokens;      /* held by the session that was restored; 0: there is none */
    uint64_t shared_tokens; /* the most that the text and any session of the model begin with */
    uint32_t n_skipped;     /* files that could not be used .. */
    kvf_error skipped;      /* .. and what was wrong with the first of them */
} kvf_store_found;

/*
 * Restores the stored session from which most of `tokens` is taken up: one whose token ids are
 * the first of them, all of them at most, or one that goes another way, at its last checkpoint
 * before that, if it is before the end of `tokens` (there are no logits then, and a token is to
 * be appended: kvf_session_logits_known). Ids are compared, not their checksums. Only sessions of
 * the model that options->model_fingerprint names (not 0) are looked at; options->session as in
 * kvf_session_load: with another profile rows are repacked, and one that does not allow
 * it is passed over. Of places equally far the wanted profile is preferred.
 *   A file that is damaged is skipped, the next best taken, and the damaged one removed:
 * it could be used for nothing. With options->verify that is seen here, all of the file
 * being read; without, a stage may meet a damaged part later. The file that was restored
 * counts as used now.
 *   *session is NULL, with KVF_OK, where nothing fits. Whatever the session shares with a file
 * beyond its end or checkpoint is not used.
 *   Fails with KVF_INVALID_ARGUMENT, KVF_FILE_IO (the folder), KVF_OUT_OF_MEMORY,
 * KVF_DEVICE_LOST. `found` may be NULL.
 */
KVF_API kvf_status kvf_store_find(kvf_store *store, kvf_device *device, const int32_t *tokens,
                                  uint64_t n_tokens, const kvf_load_options *options,
                                  kvf_session **session, kvf_store_found *found, kvf_error *error);

typedef struct kvf_store_put_report {
    bool stored;            /* false: there is no room for it; nothing was removed */
    bool was_there;         /* and was read and is good: nothing had to be written */
    uint64_t file_bytes;    /* of this session; more than max_bytes: it alone is too large */
    uint32_t n_removed;     /* files that were used least recently and had to leave .. */
    uint64_t removed_bytes; /* .. for it */
    uint64_t held_bytes;    /* of all files now */
    uint64_t kept_tokens;   /* not stored: of the state that would have had to leave and stays */
} kvf_store_put_report;

/*
 * Saves the session, which has tokens and a model fingerprint, and counts it as used now.
 * Before anything is written, others are removed until it fits, those used least recently
 * first, where
 *   - one that was used again after a longer one was stored that begins with it stays as long
 *     as that one: it serves other texts too;
 *   - what was put since kvf_store_find was called last, and begins this session, stays; so does
 *     the longest stored state that it begins with, if texts were seen to part there. Where it
 *     does not fit beside these it is not stored, and nothing is removed.
 * Sessions restored from removed files, in any process, stay usable. An interrupted put leaves
 * the store as it was, but for files removed.
 *   Waits while another process puts; KVF_FILE_BUSY where a signal or options->wait ends that.
 *   Is a save: the next kvf_session_save to another file writes all of that anew.
 * Otherwise fails as kvf_session_save does, also where a file cannot be removed and no other
 * would do. `report` may be NULL.
 */
KVF_API kvf_status kvf_store_put(kvf_store *store, kvf_session *session,
                                 kvf_store_put_report *report, kvf_error *error);

#ifdef __cplusplus
}
#endif
#endif
