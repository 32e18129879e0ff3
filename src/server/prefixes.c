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
    kvf_holder_leave(&held->file);
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

/* ---- Resuming ----------------------------------------------------------------------------- */

/* The latest checkpoint of a session within n tokens; 0: there is none. */
static uint64_t latest_checkpoint(const kvf_session *session, uint64_t n)
{
    enum { FEW = 256 };
    uint64_t few[FEW];
    uint64_t *places = few;
    uint32_t count = kvf_session_checkpoints(session, few, FEW);
    if (count > FEW) {
        places = malloc(count * sizeof *places);
        if (!places)
            return 0;
        count = kvf_session_checkpoints(session, places, count);
    }
    while (count > 0 && places[count - 1] > n)
        count--;
    const uint64_t latest = count > 0 ? places[count - 1] : 0;
    if (places != few)
        free(places);
    return latest;
}

/*
 * The latest place of a held session for a text of n tokens, of which it begins with `shared`.
 * Where all of the text is there, its next token is drawn from logits, and those are missing in
 * checkpoints of files: so one token at the least is read behind any.
 */
static uint64_t place_for(const kvf_held *held, uint64_t shared, uint64_t n)
{
    if (shared == length(held) && (shared < n || kvf_session_logits_known(held->session)))
        return shared;
    return latest_checkpoint(held->session, shared < n ? shared : n - 1);
}

kvf_resume kvf_prefixes_find(const kvf_prefixes *prefixes, const int32_t *ids, uint64_t n)
{
    kvf_resume best = {NULL, 0, 0};
    for (uint32_t i = 0; i < prefixes->n; i++) {
        kvf_held *held = prefixes->list[i];
        const uint64_t shared = shared_with(held, ids, n);
        const uint64_t place = place_for(held, shared, n);
        if (shared > best.shared_tokens)
            best.shared_tokens = shared;
        if (place > best.n_tokens) {
            best.held = held;
            best.n_tokens = place;
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

/* ---- Holding ------------------------------------------------------------------------------ */

static bool is_beginning(const kvf_held *shorter, const kvf_held *longer)
{
    const uint64_t n = length(shorter);
    return shorter != longer && n <= length(longer) &&
           shared_with(longer, kvf_session_tokens(shorter->session), n) == n;
}

/*
 * The line goes on in its file: only what is new is written there. The shorter one is not saved
 * again for itself: what its end is worth beside the checkpoints is not worth all of a file.
 */
static void take_file(kvf_held *longer, kvf_held *shorter)
{
    kvf_session_share_save(longer->session, shorter->session);
    kvf_stored_hold(shorter->file.stored, &longer->file);
    shorter->file.given_up_tokens = length(shorter);
}

/* Whether a text that goes on from `shorter` is served as well, but for a few tokens, by `longer`.
 */
static bool is_served(const kvf_held *shorter, const kvf_held *longer)
{
    const uint64_t n = length(shorter);
    return !longer->runs && is_beginning(shorter, longer) &&
           place_for(longer, n, n) + KVF_PREFIX_TOKENS >= n;
}

/* Of a longer one and a beginning of it. What its file will hold is not known while it is saved. */
static void take_place(kvf_prefixes *prefixes, kvf_held *longer, kvf_held *shorter)
{
    if (shorter->file.saving || longer->file.saving)
        return;
    if (shorter->file.stored && !longer->file.stored)
        take_file(longer, shorter);
    if (!is_served(shorter, longer))
        return;
    longer->n_hits += shorter->n_hits; /* what was worth it goes on to be */
    kvf_prefixes_drop(prefixes, shorter);
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
        if (!other->runs && is_beginning(other, held))
            take_place(prefixes, held, other);
    }
}

void kvf_prefixes_settle(kvf_prefixes *prefixes, kvf_held *held)
{
    for (uint32_t i = 0; i < prefixes->n; i++) {
        kvf_held *other = prefixes->list[i];
        if (other != held && !other->runs && is_beginning(held, other)) {
            take_place(prefixes, other, held);
            return;
        }
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
        const uint64_t place = place_for(other, shared, n);
        if (place > most)
            most = place;
    }
    return n - most;
}

/* A session is restored so much sooner than it is read again, at the least. */
enum { RESTORED_SOONER = 8 };

static double worth(const kvf_prefixes *prefixes, const kvf_held *held, double now_seconds)
{
    const double age = 1.0 + now_seconds - held->used_seconds;
    const double read =
        (double)own_tokens(prefixes, held) * (double)(1 + held->n_hits) / (own_bytes(held) * age);
    return kvf_held_is_unsaved(held) ? read : read / RESTORED_SOONER;
}

/* Of those used longest ago so many are compared with all: it is done while answers wait. */
enum { WEIGHED = 16 };

/* Puts one among the n oldest so far; returns how many there are then. */
static uint32_t insert_oldest(kvf_held *oldest[WEIGHED], uint32_t n, kvf_held *held)
{
    if (n == WEIGHED && held->used_seconds >= oldest[n - 1]->used_seconds)
        return n;
    uint32_t at = n < WEIGHED ? n : n - 1;
    for (; at > 0 && held->used_seconds < oldest[at - 1]->used_seconds; at--)
        oldest[at] = oldest[at - 1];
    oldest[at] = held;
    return n < WEIGHED ? n + 1 : n;
}

kvf_held *kvf_prefixes_least(const kvf_prefixes *prefixes, const kvf_held *but, double now_seconds)
{
    kvf_held *oldest[WEIGHED];
    uint32_t n = 0;
    for (uint32_t i = 0; i < prefixes->n; i++)
        if (!prefixes->list[i]->runs && prefixes->list[i] != but)
            n = insert_oldest(oldest, n, prefixes->list[i]);
    kvf_held *least = NULL;
    double least_worth = 0;
    for (uint32_t i = 0; i < n; i++) {
        const double w = worth(prefixes, oldest[i], now_seconds);
        if (!least || w < least_worth) {
            least = oldest[i];
            least_worth = w;
        }
    }
    return least;
}
