#include "server/prefixes.h"

#include <stdlib.h>
#include <string.h>

#include "error.h"
#include "server/common.h"

static uint64_t length(const kvf_held *held)
{
    return kvf_session_n_tokens(held->session);
}

/* How much of the text a session begins with. */
static uint64_t shared_with(const kvf_held *held, const int32_t *ids, uint64_t n)
{
    return kvf_common_tokens(kvf_session_tokens(held->session), length(held), ids, n);
}

void kvf_prefixes_drop(kvf_prefixes *prefixes, kvf_held *held)
{
    uint32_t at = 0;
    while (prefixes->list[at] != held)
        at++;
    if (held->file.stored)
        kvf_stored_hold(held->file.stored, NULL);
    kvf_session_close(held->session);
    free(held);
    prefixes->list[at] = prefixes->list[--prefixes->n];
}

void kvf_prefixes_close(kvf_prefixes *prefixes)
{
    while (prefixes->n > 0)
        kvf_prefixes_drop(prefixes, prefixes->list[prefixes->n - 1]);
    free(prefixes->list);
    memset(prefixes, 0, sizeof *prefixes);
}

/* ---- Resuming ------------------------------------------------------------------------------ */

kvf_resume kvf_prefixes_find(const kvf_prefixes *prefixes, const int32_t *ids, uint64_t n)
{
    kvf_resume best = {NULL, 0, 0};
    for (uint32_t i = 0; i < prefixes->n; i++) {
        kvf_held *held = prefixes->list[i];
        const uint64_t shared = shared_with(held, ids, n);
        const uint64_t covered = kvf_session_covered(held->session, shared);
        if (shared > best.shared_tokens)
            best.shared_tokens = shared;
        if (covered > best.n_tokens) {
            best.held = held;
            best.n_tokens = covered;
        }
    }
    return best;
}

kvf_status kvf_prefixes_add(kvf_prefixes *prefixes, kvf_session *session, kvf_held **out,
                            kvf_error *error)
{
    kvf_held *held = calloc(1, sizeof *held);
    *out = NULL;
    if (held && prefixes->n == prefixes->capacity) {
        const uint32_t capacity = prefixes->capacity ? 2 * prefixes->capacity : 64;
        kvf_held **list = realloc(prefixes->list, capacity * sizeof *list);
        if (!list) {
            free(held);
            held = NULL;
        } else {
            prefixes->list = list;
            prefixes->capacity = capacity;
        }
    }
    if (!held)
        return kvf_fail(error, KVF_OUT_OF_MEMORY, "no memory for one more session");
    held->session = session;
    held->runs = true;
    prefixes->list[prefixes->n++] = held;
    *out = held;
    return KVF_OK;
}

kvf_status kvf_prefixes_resume(kvf_prefixes *prefixes, const kvf_resume *resume, double now_seconds,
                               kvf_held **held, kvf_error *error)
{
    kvf_session *session;
    *held = NULL;
    kvf_status status = kvf_session_fork(resume->held->session, &session, error);
    if (status != KVF_OK)
        return status;
    status = kvf_session_truncate(session, resume->n_tokens, NULL, error);
    if (status == KVF_OK)
        status = kvf_prefixes_add(prefixes, session, held, error);
    if (status != KVF_OK) {
        kvf_session_close(session);
        return status;
    }
    resume->held->used_seconds = now_seconds;
    resume->held->n_hits++;
    return KVF_OK;
}

/* ---- Holding -------------------------------------------------------------------------------- */

/* Whether a text that goes on from `shorter` is served as well, but for a few tokens, by `longer`.
 */
static bool is_served(const kvf_held *shorter, const kvf_held *longer)
{
    const uint64_t n = length(shorter);
    return shorter != longer && !longer->runs && n <= length(longer) &&
           shared_with(longer, kvf_session_tokens(shorter->session), n) == n &&
           kvf_session_covered(longer->session, n) + KVF_PREFIX_TOKENS > n;
}

void kvf_prefixes_rest(kvf_prefixes *prefixes, kvf_held *held, double now_seconds)
{
    held->runs = false;
    held->used_seconds = now_seconds;
    bool is_needless = length(held) < KVF_PREFIX_TOKENS;
    for (uint32_t i = 0; i < prefixes->n && !is_needless; i++)
        is_needless = is_served(held, prefixes->list[i]);
    if (is_needless) {
        kvf_prefixes_drop(prefixes, held);
        return;
    }
    for (uint32_t i = prefixes->n; i > 0; i--) {
        kvf_held *other = prefixes->list[i - 1];
        if (other->runs || !is_served(other, held))
            continue;
        held->n_hits += other->n_hits; /* what was worth it goes on to be */
        if (other->file.stored && !held->file.stored) {
            /* The line goes on in its file: only what is new is written there. */
            kvf_session_share_save(held->session, other->session);
            kvf_stored_hold(other->file.stored, &held->file);
        }
        kvf_prefixes_drop(prefixes, other);
    }
}

bool kvf_held_is_unsaved(const kvf_held *held)
{
    const uint64_t done = held->file.stored ? held->file.stored->n_tokens : 0;
    const uint64_t given_up = held->file.given_up_tokens;
    return (done > given_up ? done : given_up) < length(held);
}

/*
 * What closing it gives back: pages that others hold too stay. Bytes are never 0, so that what is
 * free to keep is kept.
 */
static double own_bytes(const kvf_held *held)
{
    const uint64_t bytes =
        kvf_session_allocated_bytes(held->session) + kvf_session_checkpoint_bytes(held->session);
    const uint64_t shared = kvf_session_shared_bytes(held->session);
    return 1.0 + (double)(bytes > shared ? bytes - shared : 0);
}

/* Tokens that nobody else could be taken up at, for the next request that needs them. */
static uint64_t own_tokens(const kvf_prefixes *prefixes, const kvf_held *held)
{
    const uint64_t n = length(held);
    uint64_t most = 0;
    for (uint32_t i = 0; i < prefixes->n; i++) {
        const kvf_held *other = prefixes->list[i];
        if (other == held)
            continue;
        const uint64_t shared = shared_with(other, kvf_session_tokens(held->session), n);
        const uint64_t covered = kvf_session_covered(other->session, shared);
        if (covered > most)
            most = covered;
    }
    return n - most;
}

/* A session is restored so much sooner than it is read again, at the least. */
enum { RESTORED_SOONER = 8 };

kvf_held *kvf_prefixes_least(const kvf_prefixes *prefixes, const kvf_held *but, double now_seconds)
{
    kvf_held *least = NULL;
    double least_worth = 0;
    for (uint32_t i = 0; i < prefixes->n; i++) {
        kvf_held *held = prefixes->list[i];
        if (held->runs || held == but)
            continue;
        const double age = 1.0 + now_seconds - held->used_seconds;
        double worth = (double)own_tokens(prefixes, held) * (double)(1 + held->n_hits) /
                       (own_bytes(held) * age);
        if (!kvf_held_is_unsaved(held))
            worth /= RESTORED_SOONER;
        if (!least || worth < least_worth) {
            least = held;
            least_worth = worth;
        }
    }
    return least;
}
