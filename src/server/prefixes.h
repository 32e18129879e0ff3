/*
 * Sessions that are held: those that run, and those that a later request may go on from. They form
 * a tree by the pages that they share. Internal; the scheduler's thread alone.
 *
 * A text resumes where a held session has a state of its beginning: at that session's end, or at
 * one of its checkpoints.
 */
#ifndef KVF_SERVER_PREFIXES_H
#define KVF_SERVER_PREFIXES_H

#include "server/shelf.h"

/* Fewer tokens than this are read again sooner than kept. */
enum { KVF_PREFIX_TOKENS = 128 };

typedef struct kvf_held {
    kvf_session *session;
    bool runs; /* a request appends to it: it is never given up, and may be gone on from */
    double used_seconds; /* when it was taken up last, or came to be held */
    uint64_t n_hits;     /* how often it was */
    kvf_holder file;     /* that it is saved to, where there is one */
    bool is_wanted;      /* it is saved before others: its memory is waited for */
} kvf_held;

typedef struct kvf_prefixes {
    kvf_held **list; /* [n] */
    uint32_t n;
    uint32_t capacity;
    uint64_t n_evicted; /* since the start */
} kvf_prefixes;

/* All zero is one that holds nothing. Closes every session. */
void kvf_prefixes_close(kvf_prefixes *prefixes);

/* Where a text can be taken up. */
typedef struct kvf_resume {
    kvf_held *held;         /* NULL: nowhere, it begins anew */
    uint64_t n_tokens;      /* of the text, that need not be read */
    uint64_t shared_tokens; /* the longest beginning that it has in common with anything held */
} kvf_resume;
kvf_resume kvf_prefixes_find(const kvf_prefixes *prefixes, const int32_t *ids, uint64_t n);

/*
 * A session of its own that is at resume->n_tokens, which runs; resume->held counts as used now.
 * Its errors are those of kvf_session_fork and kvf_session_truncate, and KVF_OUT_OF_MEMORY.
 */
kvf_status kvf_prefixes_resume(kvf_prefixes *prefixes, const kvf_resume *resume, double now_seconds,
                               kvf_held **held, kvf_error *error);
/* Takes a session that runs from now on; where it cannot, the session is still the caller's. */
kvf_status kvf_prefixes_add(kvf_prefixes *prefixes, kvf_session *session, kvf_held **held,
                            kvf_error *error);
/*
 * It does not run any more. It is held from now on, and those that it makes needless are not: the
 * beginnings of it that it can be taken back to. One that is too short, or is a beginning of
 * another itself, is gone.
 */
void kvf_prefixes_rest(kvf_prefixes *prefixes, kvf_held *held, double now_seconds);
/*
 * A save of it has ended: a longer one that came to rest meanwhile goes on with its file, and takes
 * its place where it serves as well. *held may be gone then.
 */
void kvf_prefixes_settle(kvf_prefixes *prefixes, kvf_held *held);
/* Whether it has tokens that its file has not, and that may find room there. */
bool kvf_held_is_unsaved(const kvf_held *held);
/* Closes and forgets it. Its file stays. */
void kvf_prefixes_drop(kvf_prefixes *prefixes, kvf_held *held);
/* The one that is least worth its memory, of those that do not run; NULL: there is none. */
kvf_held *kvf_prefixes_least(const kvf_prefixes *prefixes, const kvf_held *but, double now_seconds);

#endif
