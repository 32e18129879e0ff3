/*
 * A table of parts by a checksum of role and text. What is found is compared byte for byte; only
 * `before`, which may be a million ids, is known by its checksum and length alone.
 */
#include "server/replay.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "checksum.h"
#include "error.h"

typedef struct part {
    struct part *next;  /* of the same bucket */
    struct part *older; /* by time of use */
    struct part *newer;
    uint64_t hash; /* of role and text */
    uint64_t before_hash;
    size_t n_before;
    kvf_replay_role role;
    size_t text_bytes;
    size_t call_bytes;
    size_t n_ids;
    int32_t ids[]; /* then the text, then the call id */
} part;

struct kvf_replays {
    pthread_mutex_t mutex;
    uint64_t max_bytes;
    uint64_t bytes;
    uint64_t n;
    part **buckets; /* [n_buckets], a power of two */
    size_t n_buckets;
    part *oldest;
    part *newest;
};

enum { FIRST_BUCKETS = 1024 };

/* ---- Parts ------------------------------------------------------------------------------- */

static char *text_of(part *p)
{
    return (char *)(p->ids + p->n_ids);
}

static uint64_t bytes_of(const part *p)
{
    return sizeof *p + p->n_ids * sizeof *p->ids + p->text_bytes + p->call_bytes;
}

static uint64_t hash_of(const kvf_replay_key *key)
{
    return kvf_checksum(key->text, key->text_bytes) + (uint64_t)key->role;
}

static uint64_t before_of(const kvf_replay_key *key)
{
    return kvf_checksum(key->before, key->n_before * sizeof *key->before);
}

static part **bucket_of(const kvf_replays *replays, uint64_t hash)
{
    return &replays->buckets[hash & (replays->n_buckets - 1)];
}

static void unlink_use(kvf_replays *replays, part *p)
{
    *(p->older ? &p->older->newer : &replays->oldest) = p->newer;
    *(p->newer ? &p->newer->older : &replays->newest) = p->older;
}

static void link_use(kvf_replays *replays, part *p)
{
    p->older = replays->newest;
    p->newer = NULL;
    *(replays->newest ? &replays->newest->newer : &replays->oldest) = p;
    replays->newest = p;
}

static void remove_part(kvf_replays *replays, part *p)
{
    part **at = bucket_of(replays, p->hash);
    while (*at != p)
        at = &(*at)->next;
    *at = p->next;
    unlink_use(replays, p);
    replays->bytes -= bytes_of(p);
    replays->n--;
    free(p);
}

/* Chains stay short; without memory for it they grow. */
static void grow(kvf_replays *replays)
{
    const size_t n_buckets = 2 * replays->n_buckets;
    part **buckets = calloc(n_buckets, sizeof *buckets);
    if (!buckets)
        return;
    free(replays->buckets);
    replays->buckets = buckets;
    replays->n_buckets = n_buckets;
    /* From the oldest on, so that the latest of a bucket comes first in it. */
    for (part *p = replays->oldest; p; p = p->newer) {
        part **at = bucket_of(replays, p->hash);
        p->next = *at;
        *at = p;
    }
}

/* ---- Open and close ----------------------------------------------------------------------- */

kvf_status kvf_replays_open(uint64_t max_bytes, kvf_replays **out, kvf_error *error)
{
    kvf_replays *replays = calloc(1, sizeof *replays);
    *out = NULL;
    if (replays)
        replays->buckets = calloc(FIRST_BUCKETS, sizeof *replays->buckets);
    if (!replays || !replays->buckets || pthread_mutex_init(&replays->mutex, NULL) != 0) {
        if (replays)
            free(replays->buckets);
        free(replays);
        return kvf_fail(error, KVF_OUT_OF_MEMORY, "no memory for the map of sampled ids");
    }
    replays->n_buckets = FIRST_BUCKETS;
    replays->max_bytes = max_bytes;
    *out = replays;
    return kvf_ok(error);
}

void kvf_replays_close(kvf_replays *replays)
{
    if (!replays)
        return;
    while (replays->oldest)
        remove_part(replays, replays->oldest);
    pthread_mutex_destroy(&replays->mutex);
    free(replays->buckets);
    free(replays);
}

/* ---- Find and add -------------------------------------------------------------------------- */

static size_t call_bytes(const kvf_replay_key *key)
{
    return key->call_id ? strlen(key->call_id) : 0;
}

static bool same_text(part *p, const kvf_replay_key *key)
{
    return p->role == key->role && p->text_bytes == key->text_bytes &&
           (key->text_bytes == 0 || memcmp(text_of(p), key->text, key->text_bytes) == 0);
}

static bool same_call(part *p, const kvf_replay_key *key)
{
    const size_t bytes = call_bytes(key);
    return p->call_bytes == bytes &&
           (bytes == 0 || memcmp(text_of(p) + p->text_bytes, key->call_id, bytes) == 0);
}

/*
 * How well a part of this text answers: 0 not at all. The same `before` alone is enough, so that a
 * client that makes up call ids of its own is served; the same call id alone is, because no two
 * answers have one.
 */
static int match(part *p, const kvf_replay_key *key, uint64_t before_hash)
{
    const bool continues = p->before_hash == before_hash && p->n_before == key->n_before;
    const bool called = p->call_bytes > 0 && same_call(p, key);
    return 2 * called + continues;
}

static part *find(const kvf_replays *replays, const kvf_replay_key *key, uint64_t hash,
                  uint64_t before_hash)
{
    part *best = NULL;
    int best_match = 0;
    for (part *p = *bucket_of(replays, hash); p; p = p->next) {
        if (p->hash != hash || !same_text(p, key))
            continue;
        const int m = match(p, key, before_hash);
        if (m > best_match) { /* of equal ones the first, which is the latest */
            best = p;
            best_match = m;
        }
    }
    return best;
}

bool kvf_replays_find(kvf_replays *replays, const kvf_replay_key *key, kvf_ids *ids)
{
    const uint64_t hash = hash_of(key);
    const uint64_t before_hash = before_of(key);
    pthread_mutex_lock(&replays->mutex);
    part *p = find(replays, key, hash, before_hash);
    const bool found = p && kvf_ids_reserve(ids, p->n_ids);
    if (found) {
        memcpy(ids->ids + ids->n, p->ids, p->n_ids * sizeof *p->ids);
        ids->n += p->n_ids;
        unlink_use(replays, p);
        link_use(replays, p);
    }
    pthread_mutex_unlock(&replays->mutex);
    return found;
}

static part *new_part(const kvf_replay_key *key, const int32_t *ids, size_t n)
{
    const part sizes = {.n_ids = n, .text_bytes = key->text_bytes, .call_bytes = call_bytes(key)};
    part *p = malloc(bytes_of(&sizes));
    if (!p)
        return NULL;
    *p = sizes;
    p->hash = hash_of(key);
    p->before_hash = before_of(key);
    p->n_before = key->n_before;
    p->role = key->role;
    memcpy(p->ids, ids, n * sizeof *ids);
    if (p->text_bytes > 0)
        memcpy(text_of(p), key->text, p->text_bytes);
    if (p->call_bytes > 0)
        memcpy(text_of(p) + p->text_bytes, key->call_id, p->call_bytes);
    return p;
}

/* One that says the same already, in the whole key and all ids. */
static part *find_equal(const kvf_replays *replays, const part *wanted, const kvf_replay_key *key)
{
    for (part *p = *bucket_of(replays, wanted->hash); p; p = p->next)
        if (p->hash == wanted->hash && p->before_hash == wanted->before_hash &&
            p->n_before == wanted->n_before && p->n_ids == wanted->n_ids && same_text(p, key) &&
            same_call(p, key) && memcmp(p->ids, wanted->ids, p->n_ids * sizeof *p->ids) == 0)
            return p;
    return NULL;
}

void kvf_replays_add(kvf_replays *replays, const kvf_replay_key *key, const int32_t *ids, size_t n)
{
    if (n == 0)
        return;
    part *p = new_part(key, ids, n);
    if (!p)
        return;
    pthread_mutex_lock(&replays->mutex);
    part *same = find_equal(replays, p, key);
    if (same) /* the newer takes its place: it is the latest now */
        remove_part(replays, same);
    const uint64_t bytes = bytes_of(p);
    const bool fits = bytes <= replays->max_bytes;
    while (fits && replays->oldest && replays->bytes > replays->max_bytes - bytes)
        remove_part(replays, replays->oldest);
    if (fits) {
        if (replays->n >= replays->n_buckets)
            grow(replays);
        part **at = bucket_of(replays, p->hash);
        p->next = *at;
        *at = p;
        link_use(replays, p);
        replays->bytes += bytes;
        replays->n++;
    }
    pthread_mutex_unlock(&replays->mutex);
    if (!fits)
        free(p);
}

void kvf_replays_count(kvf_replays *replays, uint64_t *n, uint64_t *bytes)
{
    pthread_mutex_lock(&replays->mutex);
    *n = replays->n;
    *bytes = replays->bytes;
    pthread_mutex_unlock(&replays->mutex);
}
