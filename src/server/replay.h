/*
 * Exact replay: the ids that the model sampled, found again by what they read as.
 * docs/SCHEDULER.md. Internal.
 *
 * A client sends an answer back as text. Encoded anew, it may be other ids than those that were
 * drawn, and the session that holds them would be of no use from there on. So each part of an
 * answer is remembered by what comes before its message and by its text, and taken from here when
 * a conversation is rendered.
 */
#ifndef KVF_SERVER_REPLAY_H
#define KVF_SERVER_REPLAY_H

#include "text/encoder.h"

/* What is remembered of answers. All functions are thread-safe. */
typedef struct kvf_replays kvf_replays;

/* Part of an assistant's message that may be rendered without the others. */
typedef enum kvf_replay_role {
    KVF_REPLAY_REASONING,
    KVF_REPLAY_CONTENT, /* with the calls behind it where `calls` is one of the keys */
    KVF_REPLAY_PLAIN,   /* an answer to /v1/completions */
    KVF_REPLAY_ROLES
} kvf_replay_role;

/*
 * How a part is found. `before` are the ids up to and with the assistant's marker, without what
 * says whether it reasons: so the content is found as well where old reasoning is dropped. `text`
 * is in one form for all clients: calls in it have their arguments as canonical JSON. call_id is
 * that of its first call, "" where it has none.
 */
typedef struct kvf_replay_key {
    const int32_t *before;
    size_t n_before;
    kvf_replay_role role;
    const char *text;
    size_t text_bytes;
    const char *call_id; /* NULL is "" */
} kvf_replay_key;

/* max_bytes bounds texts and ids together; those that were found or added longest ago leave. */
kvf_status kvf_replays_open(uint64_t max_bytes, kvf_replays **replays, kvf_error *error);
void kvf_replays_close(kvf_replays *replays);

/*
 * Remembers ids[n] of a part that the model sampled; one of the same key, call id and ids is
 * counted as used. Without memory for it, or where it alone is larger than all may be, it is not.
 */
void kvf_replays_add(kvf_replays *replays, const kvf_replay_key *key, const int32_t *ids, size_t n);
/*
 * Appends the ids of a part to `ids`, and returns true, where there is one: of the same call id,
 * role and text, whatever came before; else of the same `before`, role and text. Of several the one
 * with the same `before`, and of these the latest.
 */
bool kvf_replays_find(kvf_replays *replays, const kvf_replay_key *key, kvf_ids *ids);
/*
 * In a file, to be there after a restart. load takes what is in it, as if it had been added in that
 * order, and passes over what an interrupted save left; no file is an empty one. save adds what
 * came since the last of either, or writes the file anew where most of it is of parts that have
 * left. KVF_FILE_IO, KVF_FILE_FORMAT (it is something else: it is not touched), KVF_OUT_OF_MEMORY.
 */
kvf_status kvf_replays_load(kvf_replays *replays, const char *path, kvf_error *error);
kvf_status kvf_replays_save(kvf_replays *replays, const char *path, kvf_error *error);

/* How many parts there are, and their bytes. */
void kvf_replays_count(kvf_replays *replays, uint64_t *n, uint64_t *bytes);

#endif
