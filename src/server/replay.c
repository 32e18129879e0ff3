/*
 * A table of parts by a checksum of role and text. What is found is compared byte for byte; only
 * `before`, which may be a million ids, is known by its checksum and length alone.
 */
#include "server/replay.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

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
    bool is_saved;
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
    /* Of the file: */
    bool is_complete; /* it has all that is saved; else it is written anew */
    uint64_t file_bytes;
    uint64_t n_unsaved;
};

enum { FIRST_BUCKETS = 1024 };

/* ---- Parts -------------------------------------------------------------------------------- */

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
    replays->n_unsaved -= !p->is_saved;
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

/* ---- Find and add ------------------------------------------------------------------------- */

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
static int match(part *p, const kvf_replay_key *key)
{
    /* A conversation asks for each of its messages: all that is before it is read where it may be
     * the same, and else is not. */
    const bool continues = p->n_before == key->n_before && p->before_hash == before_of(key);
    const bool called = p->call_bytes > 0 && same_call(p, key);
    return 2 * called + continues;
}

static part *find(const kvf_replays *replays, const kvf_replay_key *key, uint64_t hash)
{
    part *best = NULL;
    int best_match = 0;
    for (part *p = *bucket_of(replays, hash); p; p = p->next) {
        if (p->hash != hash || !same_text(p, key))
            continue;
        const int m = match(p, key);
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
    pthread_mutex_lock(&replays->mutex);
    part *p = find(replays, key, hash);
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

/* Takes the part, or frees it where it alone is too large. Under the mutex. */
static void add(kvf_replays *replays, part *p)
{
    const uint64_t bytes = bytes_of(p);
    if (bytes > replays->max_bytes) {
        free(p);
        return;
    }
    while (replays->oldest && replays->bytes > replays->max_bytes - bytes)
        remove_part(replays, replays->oldest);
    if (replays->n >= replays->n_buckets)
        grow(replays);
    part **at = bucket_of(replays, p->hash);
    p->next = *at;
    *at = p;
    link_use(replays, p);
    replays->bytes += bytes;
    replays->n++;
    replays->n_unsaved += !p->is_saved;
}

void kvf_replays_add(kvf_replays *replays, const kvf_replay_key *key, const int32_t *ids, size_t n)
{
    part *p = n > 0 ? new_part(key, ids, n) : NULL;
    if (!p)
        return;
    pthread_mutex_lock(&replays->mutex);
    part *same = find_equal(replays, p, key);
    if (same) { /* the newer takes its place: it is the latest now */
        p->is_saved = same->is_saved;
        remove_part(replays, same);
    }
    add(replays, p);
    pthread_mutex_unlock(&replays->mutex);
}

void kvf_replays_count(kvf_replays *replays, uint64_t *n, uint64_t *bytes)
{
    pthread_mutex_lock(&replays->mutex);
    *n = replays->n;
    *bytes = replays->bytes;
    pthread_mutex_unlock(&replays->mutex);
}

/* ---- In a file ---------------------------------------------------------------------------- */

/*
 * The magic, then records one behind the other, each with a checksum over the rest of it: what a
 * kill or a power cut leaves unfinished is at the end, and is not one.
 */
static const char magic[8] = "kvfrepl";
enum { MAGIC_BYTES = 8 };

typedef struct record {
    uint64_t checksum; /* of all that follows, ids, text and call id included */
    uint64_t before_hash;
    uint64_t n_before;
    uint64_t n_ids;
    uint64_t text_bytes;
    uint64_t call_bytes;
    uint64_t role;
} record;
_Static_assert(sizeof(record) == 56, "a record has no padding");

static size_t tail_bytes(const part *p)
{
    return p->n_ids * sizeof *p->ids + p->text_bytes + p->call_bytes;
}

/* Writes the part's record; returns its end. */
static uint8_t *write_record(uint8_t *at, part *p)
{
    record r = {.before_hash = p->before_hash,
                .n_before = p->n_before,
                .n_ids = p->n_ids,
                .text_bytes = p->text_bytes,
                .call_bytes = p->call_bytes,
                .role = p->role};
    memcpy(at + sizeof r, p->ids, tail_bytes(p));
    memcpy(at, &r, sizeof r);
    r.checksum = kvf_checksum(at + sizeof r.checksum, sizeof r - sizeof r.checksum + tail_bytes(p));
    memcpy(at, &r.checksum, sizeof r.checksum);
    return at + sizeof r + tail_bytes(p);
}

/* The part of the record at `at`, and its end; NULL: there is none that is whole, or no memory. */
static part *read_record(const uint8_t *at, size_t bytes, size_t *used)
{
    record r;
    if (bytes < sizeof r)
        return NULL;
    memcpy(&r, at, sizeof r);
    const size_t left = bytes - sizeof r;
    if (r.role >= KVF_REPLAY_ROLES || r.n_ids == 0 || r.n_ids > left / sizeof(int32_t) ||
        r.text_bytes > left - r.n_ids * sizeof(int32_t) ||
        r.call_bytes > left - r.n_ids * sizeof(int32_t) - r.text_bytes)
        return NULL;
    const part sizes = {
        .n_ids = r.n_ids, .text_bytes = r.text_bytes, .call_bytes = r.call_bytes, .is_saved = true};
    *used = sizeof r + tail_bytes(&sizes);
    if (kvf_checksum(at + sizeof r.checksum, *used - sizeof r.checksum) != r.checksum)
        return NULL;
    part *p = malloc(bytes_of(&sizes));
    if (!p)
        return NULL;
    *p = sizes;
    memcpy(p->ids, at + sizeof r, tail_bytes(p));
    p->before_hash = r.before_hash;
    p->n_before = r.n_before;
    p->role = (kvf_replay_role)r.role;
    p->hash = kvf_checksum(text_of(p), p->text_bytes) + r.role;
    return p;
}

static kvf_status fail_file(const char *path, const char *what, kvf_error *error)
{
    return kvf_fail(error, KVF_FILE_IO, "%s: cannot %s: %s", kvf_printable(path).text, what,
                    strerror(errno));
}

static kvf_status read_file(const char *path, uint8_t **data, size_t *bytes, kvf_error *error)
{
    struct stat info;
    *data = NULL;
    *bytes = 0;
    const int file = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    if (file < 0)
        return errno == ENOENT ? kvf_ok(error) : fail_file(path, "open it", error);
    if (fstat(file, &info) != 0 || !S_ISREG(info.st_mode)) {
        close(file);
        return kvf_fail(error, KVF_FILE_FORMAT, "%s: not a file of sampled ids",
                        kvf_printable(path).text);
    }
    kvf_status status = KVF_OK;
    *data = malloc((size_t)info.st_size + 1);
    if (!*data)
        status =
            kvf_fail(error, KVF_OUT_OF_MEMORY, "no memory to read %s", kvf_printable(path).text);
    while (status == KVF_OK && *bytes < (size_t)info.st_size) {
        const ssize_t n = read(file, *data + *bytes, (size_t)info.st_size - *bytes);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            break; /* shorter than it was: what is there counts */
        *bytes += (size_t)n;
    }
    close(file);
    return status;
}

kvf_status kvf_replays_load(kvf_replays *replays, const char *path, kvf_error *error)
{
    uint8_t *data;
    size_t bytes;
    kvf_status status = read_file(path, &data, &bytes, error);
    if (status == KVF_OK && bytes >= MAGIC_BYTES && memcmp(data, magic, MAGIC_BYTES) != 0)
        status = kvf_fail(error, KVF_FILE_FORMAT, "%s: not a file of sampled ids",
                          kvf_printable(path).text);
    if (status != KVF_OK) {
        free(data);
        return status;
    }
    size_t at = MAGIC_BYTES;
    size_t used;
    pthread_mutex_lock(&replays->mutex);
    for (part *p; at < bytes && (p = read_record(data + at, bytes - at, &used)); at += used)
        add(replays, p);
    replays->is_complete = at == bytes;
    replays->file_bytes = bytes;
    pthread_mutex_unlock(&replays->mutex);
    free(data);
    return kvf_ok(error);
}

/* Records of all parts, or of those that are not saved, from the oldest on; NULL: no memory. */
static uint8_t *records_of(kvf_replays *replays, bool all, size_t *bytes)
{
    *bytes = all ? MAGIC_BYTES : 0;
    for (part *p = replays->oldest; p; p = p->newer)
        if (all || !p->is_saved)
            *bytes += sizeof(record) + tail_bytes(p);
    uint8_t *data = malloc(*bytes + 1);
    if (!data)
        return NULL;
    uint8_t *at = data;
    if (all) {
        memcpy(at, magic, MAGIC_BYTES);
        at += MAGIC_BYTES;
    }
    for (part *p = replays->oldest; p; p = p->newer)
        if (all || !p->is_saved)
            at = write_record(at, p);
    return data;
}

static bool write_all(int file, const uint8_t *data, size_t bytes)
{
    while (bytes > 0) {
        const ssize_t n = write(file, data, bytes);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return false;
        data += n;
        bytes -= (size_t)n;
    }
    return true;
}

/* A disk that knows no fsync is as good as it gets. */
static bool sync_file(int file)
{
    return fsync(file) == 0 || errno == EINVAL || errno == ENOTSUP || errno == ENOSYS;
}

static kvf_status append_file(const char *path, const uint8_t *data, size_t bytes, kvf_error *error)
{
    const int file = open(path, O_WRONLY | O_APPEND | O_CLOEXEC | O_NOFOLLOW);
    if (file < 0)
        return fail_file(path, "open it", error);
    const bool written = write_all(file, data, bytes) && sync_file(file);
    const kvf_status status = written ? KVF_OK : fail_file(path, "write it", error);
    close(file);
    return status;
}

static kvf_status replace_file(const char *path, const uint8_t *data, size_t bytes,
                               kvf_error *error)
{
    char *saving = malloc(strlen(path) + sizeof ".saving");
    if (!saving)
        return kvf_fail(error, KVF_OUT_OF_MEMORY, "no memory to write %s",
                        kvf_printable(path).text);
    strcat(strcpy(saving, path), ".saving");
    kvf_status status = KVF_OK;
    const int file =
        open(saving, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, S_IRUSR | S_IWUSR);
    if (file < 0)
        status = fail_file(saving, "make it", error);
    else if (!write_all(file, data, bytes) || !sync_file(file))
        status = fail_file(saving, "write it", error);
    if (file >= 0)
        close(file);
    if (status == KVF_OK && rename(saving, path) != 0)
        status = fail_file(path, "replace it", error);
    if (status != KVF_OK && file >= 0)
        unlink(saving);
    free(saving);
    return status;
}

/* What was written is saved; parts that came meanwhile are behind the last of these. */
static void mark_saved(kvf_replays *replays, bool all, size_t bytes)
{
    for (part *p = replays->oldest; p; p = p->newer)
        p->is_saved = true;
    replays->n_unsaved = 0;
    replays->is_complete = true;
    replays->file_bytes = all ? bytes : replays->file_bytes + bytes;
}

kvf_status kvf_replays_save(kvf_replays *replays, const char *path, kvf_error *error)
{
    size_t bytes;
    pthread_mutex_lock(&replays->mutex);
    if (replays->n_unsaved == 0 && (replays->is_complete || replays->n == 0)) {
        pthread_mutex_unlock(&replays->mutex);
        return kvf_ok(error);
    }
    const bool all = !replays->is_complete || replays->file_bytes == 0 ||
                     replays->file_bytes / 2 > replays->bytes + sizeof(record) * replays->n;
    uint8_t *data = records_of(replays, all, &bytes);
    kvf_status status = KVF_OK;
    if (data)
        mark_saved(replays, all, bytes);
    else
        status =
            kvf_fail(error, KVF_OUT_OF_MEMORY, "no memory to write %s", kvf_printable(path).text);
    pthread_mutex_unlock(&replays->mutex);
    if (status == KVF_OK)
        status =
            all ? replace_file(path, data, bytes, error) : append_file(path, data, bytes, error);
    if (status != KVF_OK) {
        /* Part of it may be there: the next one begins the file anew. */
        pthread_mutex_lock(&replays->mutex);
        replays->is_complete = false;
        replays->n_unsaved = data ? replays->n : replays->n_unsaved;
        pthread_mutex_unlock(&replays->mutex);
    }
    free(data);
    return status == KVF_OK ? kvf_ok(error) : status;
}
