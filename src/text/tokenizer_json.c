/*
 * tokenizer.json, as the tokenizers library writes it. Of the many kinds of tokenizers that such a
 * file can describe one is read: what says anything else is refused, and named.
 */
#include "text/vocabulary.h"

#include "error.h"
#include "file/json.h"
#include "text/pull.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* What the parts that are small in every file of the kind may have; a larger one is another kind.
 */
enum { MAX_PART_BYTES = 1 << 16 };

typedef struct reader {
    kvf_pull pull;
    kvf_vocabulary vocabulary;
    kvf_buffer text;  /* strings */
    kvf_buffer other; /* the second of two */
    kvf_pull_part added;
    kvf_pull_part merges;
    uint32_t seen; /* a bit for each of known_keys */
} reader;

/* ---- The file ------------------------------------------------------------------------------- */

static kvf_status fail_io(const char *path, const char *what, kvf_error *error)
{
    return kvf_fail(error, KVF_FILE_IO, "%s: %s", kvf_printable(path).text, what);
}

/* Read, not mapped: whoever shortens it meanwhile changes nothing of what was read. */
static kvf_status read_open(const char *path, int file, kvf_buffer *text, kvf_error *error)
{
    struct stat info;
    char block[1 << 16];
    ssize_t n = 1;
    if (fstat(file, &info) != 0)
        return fail_io(path, strerror(errno), error);
    if (!S_ISREG(info.st_mode))
        return fail_io(path, "is no regular file", error);
    if (info.st_size > KVF_JSON_MAX_BYTES)
        return kvf_fail(error, KVF_FILE_FORMAT, "%s: %lld bytes of JSON; at most %d are read",
                        kvf_printable(path).text, (long long)info.st_size, KVF_JSON_MAX_BYTES);
    while (n != 0 && text->bytes <= KVF_JSON_MAX_BYTES) {
        n = read(file, block, sizeof block);
        if (n < 0 && errno != EINTR)
            return fail_io(path, strerror(errno), error);
        kvf_buffer_add(text, block, n > 0 ? (size_t)n : 0);
    }
    if (text->failed)
        return kvf_fail(error, KVF_OUT_OF_MEMORY, "%s: no memory for its text",
                        kvf_printable(path).text);
    return KVF_OK;
}

static kvf_status read_file(const char *path, kvf_buffer *text, kvf_error *error)
{
    struct stat info;
    /* O_NONBLOCK: a pipe in place of a file is refused, not waited for. */
    const int file = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (file < 0 && errno == ENOENT && lstat(path, &info) == 0)
        return fail_io(path, "is a link to a file that is not there", error);
    if (file < 0)
        return kvf_fail(error, errno == ENOENT ? KVF_FILE_NOT_FOUND : KVF_FILE_IO, "%s: %s",
                        kvf_printable(path).text, strerror(errno));
    const kvf_status status = read_open(path, file, text, error);
    close(file);
    return status;
}

/* What is in the place of a file that was not fetched. */
static kvf_status check_fetched(const char *path, const kvf_buffer *text, kvf_error *error)
{
    static const char pointer[] = "version https://git-lfs";
    if (text->bytes == 0)
        return kvf_fail(error, KVF_FILE_FORMAT, "%s: is empty: it is not all there",
                        kvf_printable(path).text);
    if (text->bytes >= sizeof pointer - 1 && memcmp(text->data, pointer, sizeof pointer - 1) == 0)
        return kvf_fail(error, KVF_FILE_FORMAT,
                        "%s: is a pointer of git-lfs and not the file itself, which `git lfs pull` "
                        "fetches",
                        kvf_printable(path).text);
    return KVF_OK;
}

/* ---- Parts that must be the known ones ----------------------------------------------------------
 */

/* Where two values differ. */
typedef struct difference {
    char path[96];
    const cJSON *found;    /* NULL: it is missing */
    const cJSON *expected; /* NULL: nothing is */
} difference;

static bool differ(const cJSON *found, const cJSON *expected, difference *d);

/* The members of two objects or the elements of two arrays. */
static bool members_differ(const cJSON *found, const cJSON *expected, difference *d)
{
    const size_t base = strlen(d->path);
    const bool is_array = cJSON_IsArray(expected);
    int no = 0;
    for (const cJSON *e = expected->child; e; e = e->next, no++) {
        const cJSON *f = is_array ? cJSON_GetArrayItem(found, no)
                                  : cJSON_GetObjectItemCaseSensitive(found, e->string);
        if (is_array)
            snprintf(d->path + base, sizeof d->path - base, "[%d]", no);
        else
            snprintf(d->path + base, sizeof d->path - base, ".%s", e->string);
        if (differ(f, e, d))
            return true;
    }
    no = 0;
    for (const cJSON *f = found->child; f; f = f->next, no++) {
        const cJSON *e = is_array ? cJSON_GetArrayItem(expected, no)
                                  : cJSON_GetObjectItemCaseSensitive(expected, f->string);
        if (e)
            continue;
        if (is_array)
            snprintf(d->path + base, sizeof d->path - base, "[%d]", no);
        else
            snprintf(d->path + base, sizeof d->path - base, ".%s", kvf_printable(f->string).text);
        d->found = f;
        d->expected = NULL;
        return true;
    }
    d->path[base] = '\0';
    return false;
}

/* As deep as `expected` is, which is ours. */
static bool differ(const cJSON *found, const cJSON *expected, difference *d)
{
    d->found = found;
    d->expected = expected;
    if (!found || (found->type & 0xff) != (expected->type & 0xff))
        return true;
    if (cJSON_IsString(expected))
        return strcmp(found->valuestring, expected->valuestring) != 0;
    if (cJSON_IsObject(expected) || cJSON_IsArray(expected))
        return members_differ(found, expected, d);
    return false; /* true, false, null: the type is the value */
}

static kvf_status fail_different(const char *where, const difference *d, kvf_error *error)
{
    kvf_shown shown = {"missing"};
    if (d->found)
        shown = kvf_json_show(d->found);
    if (!d->expected)
        return kvf_fail(error, KVF_UNSUPPORTED,
                        "%s: \"%s\" is %s; DeepSeek's tokenizer has no such thing, and no other is "
                        "read",
                        kvf_printable(where).text, d->path, shown.text);
    return kvf_fail(error, KVF_UNSUPPORTED,
                    "%s: \"%s\" is %s; only DeepSeek's tokenizer is read, where it is %s",
                    kvf_printable(where).text, d->path, shown.text,
                    kvf_json_show(d->expected).text);
}

/* One value as cJSON has it: *root is to be deleted, *value is in it. */
static kvf_status parse_part(const reader *r, kvf_pull_part part, cJSON **root, const cJSON **value)
{
    static const char before[] = "{\"part\":";
    kvf_buffer text = {.data = NULL};
    *root = NULL;
    *value = NULL;
    kvf_buffer_add(&text, before, sizeof before - 1);
    kvf_buffer_add(&text, part.text, part.bytes);
    kvf_buffer_add(&text, "}", 1);
    const kvf_status status =
        text.failed ? kvf_fail(r->pull.error, KVF_OUT_OF_MEMORY, "%s: no memory for a part of it",
                               kvf_printable(r->pull.where).text)
                    : kvf_json_parse(text.data, text.bytes, r->pull.where, root, r->pull.error);
    if (status == KVF_OK)
        *value = cJSON_GetObjectItemCaseSensitive(*root, "part");
    kvf_buffer_free(&text);
    return status;
}

/* A key, and what is done with it. */
typedef struct known_key {
    const char *name;
    bool in_model;
    /* JSON texts of which its value must be one; a text that is a string may also be the value's
     * "type". None: */
    const char *values[2];
    void (*read)(struct reader *r); /* NULL: passed over */
    bool required;
} known_key;

#define SPLIT(pattern)                                                                             \
    "{\"type\":\"Split\",\"pattern\":{\"Regex\":\"" pattern                                        \
    "\"},\"behavior\":\"Isolated\",\"invert\":false}"

/* clang-format off */
static void read_model(reader *r);
static void read_vocab(reader *r);
static void keep_merges(reader *r);
static void keep_added(reader *r);

static const known_key known_keys[] = {
    {"version", false, {NULL}, NULL, false},
    {"truncation", false, {"null"}, NULL, false},
    {"padding", false, {"null"}, NULL, false},
    {"added_tokens", false, {NULL}, keep_added, false},
    {"normalizer", false, {"{\"type\":\"Sequence\",\"normalizers\":[]}", "null"}, NULL, false},
    /* split.c is written for these patterns. */
    {"pre_tokenizer", false,
     {"{\"type\":\"Sequence\",\"pretokenizers\":[" SPLIT("\\\\p{N}{1,3}") "," SPLIT(
          "[\\u4e00-\\u9fa5\\u3040-\\u309f\\u30a0-\\u30ff]+") ","
      SPLIT("[!\\\"#$%&'()*+,\\\\-./:;<=>?@\\\\[\\\\\\\\\\\\]^_`{|}~][A-Za-z]+"
            "|[^\\r\\n\\\\p{L}\\\\p{P}\\\\p{S}]?[\\\\p{L}\\\\p{M}]+| ?[\\\\p{P}\\\\p{S}]+[\\r\\n]*"
            "|\\\\s*[\\r\\n]+|\\\\s+(?!\\\\S)|\\\\s+") ","
      "{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"trim_offsets\":true,"
      "\"use_regex\":false}]}"}, NULL, true},
    /* These two add no ids and change no text of bytes, whatever else they say. */
    {"post_processor", false, {"\"ByteLevel\"", "null"}, NULL, false},
    {"decoder", false, {"\"ByteLevel\""}, NULL, true},
    {"model", false, {NULL}, read_model, true},

    {"type", true, {"\"BPE\""}, NULL, true},
    {"dropout", true, {"null"}, NULL, false},
    {"unk_token", true, {"null"}, NULL, false},
    {"continuing_subword_prefix", true, {"null", "\"\""}, NULL, false},
    {"end_of_word_suffix", true, {"null", "\"\""}, NULL, false},
    {"fuse_unk", true, {NULL}, NULL, false}, /* of what is in no vocabulary, which every byte is */
    {"byte_fallback", true, {"false"}, NULL, false},
    {"ignore_merges", true, {"false"}, NULL, false},
    {"vocab", true, {NULL}, read_vocab, true},
    {"merges", true, {NULL}, keep_merges, true},
};
/* clang-format on */
enum { N_KEYS = sizeof known_keys / sizeof *known_keys };

/* Checks a value against one text; *d says where it differs. */
static bool is_known(const char *name, const cJSON *found, const char *text, difference *d)
{
    cJSON *expected = cJSON_Parse(text);
    const cJSON *compared = found;
    snprintf(d->path, sizeof d->path, "%s", name);
    if (cJSON_IsString(expected) && cJSON_IsObject(found)) {
        compared = cJSON_GetObjectItemCaseSensitive(found, "type");
        snprintf(d->path, sizeof d->path, "%s.type", name);
    }
    const bool same = expected && !differ(compared, expected, d);
    cJSON_Delete(expected);
    return same;
}

static kvf_status check_part(const reader *r, const known_key *known, const cJSON *found)
{
    difference d;
    for (int i = 1; i >= 0; i--) /* the first one is the one that messages name */
        if (known->values[i] && is_known(known->name, found, known->values[i], &d))
            return KVF_OK;
    /* What d points to is gone: once more, to show it. */
    cJSON *expected = cJSON_Parse(known->values[0]);
    if (!expected)
        return kvf_fail(r->pull.error, KVF_OUT_OF_MEMORY, "no memory to compare a tokenizer");
    const cJSON *compared = found;
    if (cJSON_IsString(expected) && cJSON_IsObject(found))
        compared = cJSON_GetObjectItemCaseSensitive(found, "type");
    snprintf(d.path, sizeof d.path, "%s%s", known->name, compared == found ? "" : ".type");
    differ(compared, expected, &d);
    const kvf_status status = fail_different(r->pull.where, &d, r->pull.error);
    cJSON_Delete(expected);
    return status;
}

/* A value that must be one of the known ones. */
static void take_part(reader *r, const known_key *known)
{
    cJSON *root = NULL;
    const cJSON *value;
    kvf_pull *p = &r->pull;
    const kvf_pull_part part = kvf_pull_skip(p);
    if (p->status == KVF_OK && part.bytes > MAX_PART_BYTES)
        p->status = kvf_fail(p->error, KVF_UNSUPPORTED,
                             "%s: \"%s\" has %zu bytes; only DeepSeek's tokenizer is read",
                             kvf_printable(p->where).text, known->name, part.bytes);
    if (p->status == KVF_OK)
        p->status = parse_part(r, part, &root, &value);
    if (p->status == KVF_OK)
        p->status = check_part(r, known, value);
    cJSON_Delete(root);
}

/* ---- Keys ---------------------------------------------------------------------------------------
 */

/* The place of a key in known_keys, or N_KEYS. It has no NUL of its own. */
static size_t find_key(const kvf_buffer *key, bool in_model)
{
    size_t i = 0;
    while (i < N_KEYS &&
           (known_keys[i].in_model != in_model || strlen(known_keys[i].name) != key->bytes ||
            memcmp(known_keys[i].name, key->data, key->bytes) != 0))
        i++;
    return i;
}

static void take_member(reader *r, bool in_model)
{
    kvf_pull *p = &r->pull;
    kvf_pull_key(p, &r->text);
    if (p->status != KVF_OK)
        return;
    const size_t no = r->text.bytes > 0 ? find_key(&r->text, in_model) : N_KEYS;
    char name[64];
    snprintf(name, sizeof name, "%.*s", (int)(r->text.bytes < 60 ? r->text.bytes : 60),
             r->text.bytes > 0 ? r->text.data : "");
    if (no == N_KEYS)
        p->status = kvf_fail(p->error, KVF_UNSUPPORTED,
                             "%s: %s has \"%s\", of which nothing is known; it could change the "
                             "tokens",
                             kvf_printable(p->where).text, in_model ? "its model" : "it",
                             kvf_printable(name).text);
    else if (r->seen & UINT32_C(1) << no)
        p->status = kvf_fail(p->error, KVF_FILE_FORMAT, "%s: \"%s\" is there twice",
                             kvf_printable(p->where).text, name);
    if (p->status != KVF_OK)
        return;
    r->seen |= UINT32_C(1) << no;
    if (known_keys[no].read)
        known_keys[no].read(r);
    else if (known_keys[no].values[0])
        take_part(r, &known_keys[no]);
    else
        kvf_pull_skip(p);
}

static void take_members(reader *r, bool in_model)
{
    kvf_pull_enter(&r->pull, '{');
    while (kvf_pull_next(&r->pull, '{'))
        take_member(r, in_model);
    for (size_t i = 0; i < N_KEYS && r->pull.status == KVF_OK; i++)
        if (known_keys[i].required && known_keys[i].in_model == in_model &&
            !(r->seen & UINT32_C(1) << i))
            r->pull.status = kvf_fail(r->pull.error, KVF_FILE_FORMAT, "%s: has no \"%s%s\"",
                                      kvf_printable(r->pull.where).text, in_model ? "model." : "",
                                      known_keys[i].name);
}

/* ---- The model
 * ------------------------------------------------------------------------------------ */

static void read_vocab(reader *r)
{
    kvf_pull_enter(&r->pull, '{');
    while (kvf_pull_next(&r->pull, '{')) {
        kvf_pull_key(&r->pull, &r->text);
        const uint64_t id = kvf_pull_u64(&r->pull);
        /* No entry has less than five bytes ("a":1), so that memory stays in proportion. */
        if (r->pull.status == KVF_OK && id >= r->pull.bytes / 5)
            kvf_pull_fail(&r->pull, "(before this) an id that there are tokens for");
        if (r->pull.status == KVF_OK)
            r->pull.status =
                kvf_vocabulary_add(&r->vocabulary, id, r->text.data, r->text.bytes, r->pull.error);
    }
}

static void read_model(reader *r)
{
    take_members(r, true);
}

/* Merges are read when all tokens are there, added ones when the vocabulary is. */
static void keep_merges(reader *r)
{
    r->merges = kvf_pull_skip(&r->pull);
}

static void keep_added(reader *r)
{
    r->added = kvf_pull_skip(&r->pull);
}

/* A pull over a part, with the reader's messages. */
static kvf_pull pull_of(const reader *r, kvf_pull_part part)
{
    kvf_pull pull = r->pull;
    pull.bytes = (size_t)(part.text - pull.text) + part.bytes; /* lines are those of the file */
    pull.at = (size_t)(part.text - pull.text);
    return pull;
}

/* "a b", or ["a", "b"]. */
static void read_merge(reader *r, kvf_pull *p)
{
    if (kvf_pull_peek(p) == '"') {
        kvf_pull_string(p, &r->text);
        if (p->status == KVF_OK)
            p->status =
                kvf_vocabulary_add_merge(&r->vocabulary, r->text.data, r->text.bytes, p->error);
        return;
    }
    kvf_pull_enter(p, '[');
    for (int i = 0; i < 2; i++) {
        if (!kvf_pull_next(p, '['))
            kvf_pull_fail(p, "a merge of two tokens");
        kvf_pull_string(p, i ? &r->other : &r->text);
    }
    if (kvf_pull_next(p, '['))
        kvf_pull_fail(p, "a merge of two tokens");
    if (p->status == KVF_OK)
        p->status = kvf_vocabulary_add_pair(&r->vocabulary, r->text.data, r->text.bytes,
                                            r->other.data, r->other.bytes, p->error);
}

static void read_merges(reader *r)
{
    kvf_pull p = pull_of(r, r->merges);
    kvf_pull_enter(&p, '[');
    while (kvf_pull_next(&p, '['))
        read_merge(r, &p);
    r->pull.status = p.status;
}

/* ---- Added tokens
 * ------------------------------------------------------------------------------------ */

static kvf_status fail_added(const reader *r, const cJSON *token, const char *key)
{
    return kvf_fail(r->pull.error, KVF_FILE_FORMAT,
                    "%s: \"%s\" of an added token (\"content\" %s) is missing or of a wrong type",
                    kvf_printable(r->pull.where).text, key,
                    kvf_json_show(cJSON_GetObjectItemCaseSensitive(token, "content")).text);
}

static kvf_status add_token(reader *r, const cJSON *token)
{
    static const char *const flags[] = {"special", "normalized", "lstrip", "rstrip", "single_word"};
    bool set[5];
    uint64_t id;
    const cJSON *content = cJSON_GetObjectItemCaseSensitive(token, "content");
    if (!kvf_json_u64(cJSON_GetObjectItemCaseSensitive(token, "id"), &id))
        return fail_added(r, token, "id");
    if (!cJSON_IsString(content))
        return fail_added(r, token, "content");
    for (size_t i = 0; i < sizeof flags / sizeof *flags; i++) {
        const cJSON *flag = cJSON_GetObjectItemCaseSensitive(token, flags[i]);
        if (!cJSON_IsBool(flag))
            return fail_added(r, token, flags[i]);
        set[i] = cJSON_IsTrue(flag);
        if (set[i] && i >= 2)
            return kvf_fail(r->pull.error, KVF_UNSUPPORTED,
                            "%s: the added token %s has \"%s\"; only those taken by their exact "
                            "text alone are read",
                            kvf_printable(r->pull.where).text, kvf_json_show(content).text,
                            flags[i]);
    }
    /* Memory in proportion to the file: after the vocabulary they are numbered on. */
    if (id >= r->vocabulary.tokenizer->n_ids + (uint64_t)r->added.bytes)
        return fail_added(r, token, "id");
    const kvf_added_token added = {(int64_t)id, content->valuestring, strlen(content->valuestring),
                                   set[0], set[1] ? 1 : 0};
    return kvf_vocabulary_add_added(&r->vocabulary, &added, r->pull.error);
}

static void read_added(reader *r)
{
    kvf_pull p = pull_of(r, r->added);
    kvf_pull_enter(&p, '[');
    while (kvf_pull_next(&p, '[')) {
        cJSON *root = NULL;
        const kvf_pull_part part = kvf_pull_skip(&p);
        const cJSON *token = NULL;
        if (p.status == KVF_OK)
            p.status = parse_part(r, part, &root, &token);
        if (p.status == KVF_OK)
            p.status = add_token(r, token);
        cJSON_Delete(root);
    }
    r->pull.status = p.status;
}

/* ---- All of it
 * ------------------------------------------------------------------------------------------ */

static kvf_status read_all(reader *r, uint32_t vocab)
{
    kvf_error *error = r->pull.error;
    kvf_status status = kvf_vocabulary_start(&r->vocabulary, r->pull.where, error);
    if (status != KVF_OK)
        return status;
    take_members(r, false);
    if (r->pull.status == KVF_OK)
        kvf_pull_end(&r->pull);
    if (r->pull.status == KVF_OK && r->added.text)
        read_added(r);
    if (r->pull.status != KVF_OK)
        return r->pull.status;
    const uint32_t n_ids = r->vocabulary.tokenizer->n_ids;
    if (vocab > 0 && n_ids != vocab)
        return kvf_fail(error, KVF_FILE_FORMAT,
                        "%s: has %u tokens and the model's embedding %u rows: it is another "
                        "model's tokenizer",
                        kvf_printable(r->pull.where).text, n_ids, vocab);
    status = kvf_vocabulary_check(&r->vocabulary, error);
    if (status != KVF_OK)
        return status;
    read_merges(r);
    return r->pull.status;
}

kvf_status kvf_tokenizer_open_json(const char *path, uint32_t vocab, kvf_tokenizer **tokenizer,
                                   kvf_error *error)
{
    kvf_buffer text = {.data = NULL};
    reader r = {.seen = 0};
    *tokenizer = NULL;
    kvf_status status = read_file(path, &text, error);
    if (status == KVF_OK)
        status = check_fetched(path, &text, error);
    if (status == KVF_OK) {
        r.pull = kvf_pull_start(text.data, text.bytes, path, error);
        status = read_all(&r, vocab);
    }
    if (status == KVF_OK)
        status = kvf_vocabulary_finish(&r.vocabulary, tokenizer, error);
    kvf_vocabulary_free(&r.vocabulary);
    kvf_buffer_free(&r.text);
    kvf_buffer_free(&r.other);
    kvf_buffer_free(&text);
    return status == KVF_OK ? kvf_ok(error) : status;
}
