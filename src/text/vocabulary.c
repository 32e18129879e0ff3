#include "text/vocabulary.h"

#include "error.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- Bytes as characters ------------------------------------------------------------- */

/*
 * GPT-2's table: 33..126, 161..172 and 174..255 are written as themselves, the 68 others, in
 * rising order, as U+0100 and so on. The byte of a character; -1: it is none's.
 */
static int byte_of_character(uint32_t code)
{
    if ((code >= 33 && code <= 126) || (code >= 161 && code <= 172) || (code >= 174 && code <= 255))
        return (int)code;
    if (code < 0x100 || code >= 0x100 + 68)
        return -1;
    const int no = (int)code - 0x100; /* 0..32, 127..160 and 173 */
    return no < 33 ? no : no < 33 + 34 ? no - 33 + 127 : 173;
}

/* Writes the bytes into out[..bytes); false where `written` is no writing of bytes. */
static bool bytes_of(const char *written, size_t bytes, char *out, size_t *n)
{
    *n = 0;
    for (size_t at = 0; at < bytes; (*n)++) {
        const unsigned char c = (unsigned char)written[at];
        uint32_t code = c;
        /* No character of the table has more than two bytes. */
        if (c >= 0x80) {
            if (kvf_utf8_bytes(written + at, bytes - at) != 2)
                return false;
            code = (c & 0x1fu) << 6 | ((unsigned char)written[at + 1] & 0x3fu);
        }
        const int byte = byte_of_character(code);
        if (byte < 0)
            return false;
        out[*n] = (char)byte;
        at += c >= 0x80 ? 2 : 1;
    }
    return true;
}

/* ---- Tokens by their bytes --------------------------------------------------------------- */

static uint32_t hash_of(const char *text, size_t bytes)
{
    const uint64_t factor = UINT64_C(0x9e3779b97f4a7c15); /* 2^64 / phi */
    uint64_t hash = bytes * factor;
    uint64_t word;
    for (; bytes >= sizeof word; text += sizeof word, bytes -= sizeof word) {
        memcpy(&word, text, sizeof word);
        hash = (hash ^ word) * factor;
        hash ^= hash >> 29;
    }
    for (word = 0; bytes > 0; bytes--)
        word = word << 8 | (unsigned char)text[bytes - 1];
    hash = (hash ^ word) * factor;
    return (uint32_t)(hash >> 32);
}

static bool has_text(const kvf_tokenizer *t, uint32_t id, const char *text, size_t bytes)
{
    return t->tokens[id].bytes == bytes &&
           memcmp(t->bytes.data + t->tokens[id].at, text, bytes) == 0;
}

/* The slot of the token of these bytes, or the free one where it would be. */
static kvf_vocabulary_slot *slot_of(const kvf_vocabulary *v, const char *text, size_t bytes,
                                    uint32_t hash)
{
    uint32_t at = hash & v->slot_mask;
    while (v->slots[at].id &&
           (v->slots[at].hash != hash || !has_text(v->tokenizer, v->slots[at].id - 1, text, bytes)))
        at = (at + 1) & v->slot_mask;
    return &v->slots[at];
}

/* The id of the token of these bytes; -1: there is none. */
static int64_t find_bytes(const kvf_vocabulary *v, const char *text, size_t bytes)
{
    return (int64_t)slot_of(v, text, bytes, hash_of(text, bytes))->id - 1;
}

static kvf_status fail_memory(const kvf_vocabulary *v, kvf_error *error)
{
    return kvf_fail(error, KVF_OUT_OF_MEMORY, "%s: no memory for the tokenizer",
                    kvf_printable(v->where).text);
}

/* Twice as many slots, and all tokens into them. */
static bool grow_slots(kvf_vocabulary *v)
{
    const uint32_t n_old = v->slots ? v->slot_mask + 1 : 0;
    const uint32_t n = n_old ? 2 * n_old : 1u << 10;
    kvf_vocabulary_slot *larger = calloc(n, sizeof *larger);
    if (!larger)
        return false;
    for (uint32_t i = 0; i < n_old; i++) {
        uint32_t at = v->slots[i].hash & (n - 1);
        while (v->slots[i].id && larger[at].id)
            at = (at + 1) & (n - 1);
        if (v->slots[i].id)
            larger[at] = v->slots[i];
    }
    free(v->slots);
    v->slots = larger;
    v->slot_mask = n - 1;
    return true;
}

/* Makes room for the id. */
static bool grow_tokens(kvf_tokenizer *t, uint32_t id)
{
    if (id >= t->capacity) {
        uint32_t larger = t->capacity ? t->capacity : 1024;
        while (larger <= id)
            larger *= 2;
        kvf_token *moved = realloc(t->tokens, larger * sizeof *moved);
        if (!moved)
            return false;
        memset(moved + t->capacity, 0, (larger - t->capacity) * sizeof *moved);
        t->tokens = moved;
        t->capacity = larger;
    }
    if (id >= t->n_ids)
        t->n_ids = id + 1;
    return true;
}

/* Of a token that had no text. */
static kvf_status set_text(kvf_vocabulary *v, uint32_t id, const char *text, size_t bytes,
                           kvf_error *error)
{
    kvf_tokenizer *t = v->tokenizer;
    if (t->bytes.bytes + bytes > UINT32_MAX)
        return kvf_fail(error, KVF_FILE_FORMAT, "%s: the tokens have more than 4 GiB of text",
                        kvf_printable(v->where).text);
    const uint32_t at = (uint32_t)t->bytes.bytes;
    kvf_buffer_add(&t->bytes, text, bytes);
    if (t->bytes.failed)
        return fail_memory(v, error);
    t->tokens[id].at = at;
    t->tokens[id].bytes = (uint32_t)bytes;
    return KVF_OK;
}

kvf_status kvf_vocabulary_start(kvf_vocabulary *v, const char *where, kvf_error *error)
{
    *v = (kvf_vocabulary){.where = where};
    v->tokenizer = calloc(1, sizeof *v->tokenizer);
    if (!v->tokenizer || !grow_slots(v))
        return fail_memory(v, error);
    for (int byte = 0; byte < 256; byte++)
        v->tokenizer->byte_ids[byte] = -1;
    kvf_classes_make(&v->tokenizer->classes);
    return KVF_OK;
}

/* Texts, of which many come with no NUL behind them, for messages. */
static kvf_printed print_text(const char *text, size_t bytes)
{
    return kvf_printable_bytes(text, bytes < 60 ? bytes : 60);
}

/* A token's text as bytes, to be found by them. */
static kvf_status index_token(kvf_vocabulary *v, uint32_t id, const char *written, size_t bytes,
                              kvf_error *error)
{
    kvf_tokenizer *t = v->tokenizer;
    const kvf_token *token = &t->tokens[id];
    const char *text = t->bytes.data + token->at;
    if (2 * (uint64_t)v->n_indexed > v->slot_mask && !grow_slots(v))
        return fail_memory(v, error);
    const uint32_t hash = hash_of(text, token->bytes);
    kvf_vocabulary_slot *slot = slot_of(v, text, token->bytes, hash);
    if (slot->id)
        return kvf_fail(
            error, KVF_FILE_FORMAT, "%s: the vocabulary has \"%s\" twice (ids %u and %u)",
            kvf_printable(v->where).text, print_text(written, bytes).text, slot->id - 1, id);
    *slot = (kvf_vocabulary_slot){id + 1, hash};
    v->n_indexed++;
    if (token->bytes == 1)
        t->byte_ids[(unsigned char)text[0]] = (int32_t)id;
    return KVF_OK;
}

/* Makes room for an id of a file. */
static kvf_status take_id(kvf_vocabulary *v, uint64_t id, kvf_error *error)
{
    if (id >= KVF_MAX_IDS)
        return kvf_fail(error, KVF_FILE_FORMAT,
                        "%s: a token has the id %llu; ids below %u are read",
                        kvf_printable(v->where).text, (unsigned long long)id, KVF_MAX_IDS);
    return grow_tokens(v->tokenizer, (uint32_t)id) ? KVF_OK : fail_memory(v, error);
}

kvf_status kvf_vocabulary_add_unused(kvf_vocabulary *v, uint64_t id, kvf_error *error)
{
    const kvf_status status = take_id(v, id, error);
    if (status == KVF_OK)
        v->tokenizer->tokens[id].unused = true;
    return status;
}

kvf_status kvf_vocabulary_add(kvf_vocabulary *v, uint64_t id, const char *written, size_t bytes,
                              kvf_error *error)
{
    kvf_tokenizer *t = v->tokenizer;
    kvf_status status = take_id(v, id, error);
    if (status != KVF_OK)
        return status;
    if (bytes == 0 || bytes > KVF_MAX_TOKEN_BYTES)
        return kvf_fail(error, KVF_FILE_FORMAT,
                        "%s: the token with the id %llu has %zu bytes; 1 to %d are read",
                        kvf_printable(v->where).text, (unsigned long long)id, bytes,
                        KVF_MAX_TOKEN_BYTES);
    kvf_token *token = &t->tokens[id];
    if (token->kind != KVF_TOKEN_NONE)
        return kvf_fail(error, KVF_FILE_FORMAT, "%s: two tokens of the vocabulary have the id %llu",
                        kvf_printable(v->where).text, (unsigned long long)id);
    status = set_text(v, (uint32_t)id, written, bytes, error);
    if (status != KVF_OK)
        return status;
    token->kind = KVF_TOKEN_TEXT;
    /* Bytes are no more than their writing: in its place. */
    size_t n;
    char *text = t->bytes.data + token->at;
    token->verbatim = !bytes_of(written, bytes, text, &n);
    if (token->verbatim) {
        memcpy(text, written, bytes);
        return KVF_OK;
    }
    token->bytes = (uint32_t)n;
    t->bytes.bytes = token->at + n;
    return index_token(v, (uint32_t)id, written, bytes, error);
}

/* Whether the vocabulary's token of that id was written as the added one is. */
static bool is_same_text(const kvf_tokenizer *t, const kvf_token *token,
                         const kvf_added_token *added)
{
    char bytes[KVF_MAX_ADDED_BYTES];
    size_t n;
    const char *text = t->bytes.data + token->at;
    if (token->verbatim)
        return token->bytes == added->bytes && memcmp(text, added->text, added->bytes) == 0;
    return bytes_of(added->text, added->bytes, bytes, &n) && n == token->bytes &&
           memcmp(text, bytes, n) == 0;
}

/* The id of the vocabulary's token that is written as the added one; -1: there is none. */
static int64_t find_same(const kvf_vocabulary *v, const kvf_added_token *added)
{
    char bytes[KVF_MAX_ADDED_BYTES];
    size_t n;
    return bytes_of(added->text, added->bytes, bytes, &n) && n > 0 ? find_bytes(v, bytes, n) : -1;
}

static kvf_status check_added(const kvf_vocabulary *v, const kvf_added_token *added,
                              kvf_error *error)
{
    const kvf_tokenizer *t = v->tokenizer;
    const char *where = v->where;
    const kvf_printed shown = print_text(added->text, added->bytes);
    if (added->id < 0 || added->id >= KVF_MAX_IDS)
        return kvf_fail(error, KVF_FILE_FORMAT, "%s: the added token \"%s\" has the id %lld",
                        kvf_printable(where).text, shown.text, (long long)added->id);
    if (added->bytes == 0 || added->bytes > KVF_MAX_ADDED_BYTES)
        return kvf_fail(error, added->bytes ? KVF_UNSUPPORTED : KVF_FILE_FORMAT,
                        "%s: the added token with the id %lld has %zu bytes; 1 to %d are read",
                        kvf_printable(where).text, (long long)added->id, added->bytes,
                        KVF_MAX_ADDED_BYTES);
    for (int pass = 0; pass < 2; pass++)
        if (kvf_added_find(&t->added[pass], added->text, added->bytes) >= 0)
            return kvf_fail(error, KVF_FILE_FORMAT, "%s: the added token \"%s\" is there twice",
                            kvf_printable(where).text, shown.text);
    /* The tokenizers library gives it the vocabulary's id then, llama.cpp the later one. */
    const int64_t other = find_same(v, added);
    if (other >= 0 && other != added->id)
        return kvf_fail(
            error, KVF_FILE_FORMAT,
            "%s: the added token \"%s\" has the id %lld, and the vocabulary has the same "
            "text with the id %lld",
            kvf_printable(where).text, shown.text, (long long)added->id, (long long)other);
    if (added->id >= t->n_ids || t->tokens[added->id].kind == KVF_TOKEN_NONE)
        return KVF_OK;
    const kvf_token *token = &t->tokens[added->id];
    if (token->kind != KVF_TOKEN_TEXT || !is_same_text(t, token, added))
        return kvf_fail(error, KVF_FILE_FORMAT,
                        "%s: the id %lld is that of two tokens, one of them the added \"%s\"",
                        kvf_printable(where).text, (long long)added->id, shown.text);
    return KVF_OK;
}

kvf_status kvf_vocabulary_add_added(kvf_vocabulary *v, const kvf_added_token *added,
                                    kvf_error *error)
{
    kvf_tokenizer *t = v->tokenizer;
    kvf_status status = check_added(v, added, error);
    if (status != KVF_OK)
        return status;
    const uint32_t id = (uint32_t)added->id;
    if (!grow_tokens(t, id) ||
        !kvf_added_add(&t->added[added->pass], added->text, added->bytes, (int32_t)id))
        return fail_memory(v, error);
    kvf_token *token = &t->tokens[id];
    if (token->kind == KVF_TOKEN_NONE)
        status = set_text(v, id, added->text, added->bytes, error);
    token->verbatim = false;
    token->kind = added->special ? KVF_TOKEN_SPECIAL : KVF_TOKEN_ADDED;
    return status;
}

/* Twice as many slots, and all pairs into them. */
static bool grow_pairs(kvf_tokenizer *t)
{
    const uint32_t n = t->pairs ? 2 * (t->pair_mask + 1) : 1u << 10; /* a few kB at the least */
    kvf_pair *larger = malloc(n * sizeof *larger);
    if (!larger)
        return false;
    memset(larger, 0xff, n * sizeof *larger);
    for (uint32_t i = 0; t->pairs && i <= t->pair_mask; i++)
        if (t->pairs[i].left != UINT32_MAX)
            *kvf_pair_slot(larger, n - 1, t->pairs[i].left, t->pairs[i].right) = t->pairs[i];
    free(t->pairs);
    t->pairs = larger;
    t->pair_mask = n - 1;
    return true;
}

kvf_status kvf_vocabulary_check(kvf_vocabulary *v, kvf_error *error)
{
    kvf_tokenizer *t = v->tokenizer;
    const char *where = v->where;
    for (uint32_t id = 0; id < t->n_ids; id++) {
        const kvf_token *token = &t->tokens[id];
        if (token->kind == KVF_TOKEN_NONE && !token->unused)
            return kvf_fail(error, KVF_FILE_FORMAT,
                            "%s: no token has the id %u, and others have larger ones up to %u",
                            kvf_printable(where).text, id, t->n_ids - 1);
        if (token->verbatim)
            return kvf_fail(error, KVF_UNSUPPORTED,
                            "%s: the token %u (\"%s\") is not written as bytes, and is no added "
                            "token",
                            kvf_printable(where).text, id,
                            print_text(t->bytes.data + token->at, token->bytes).text);
        t->longest = token->bytes > t->longest ? token->bytes : t->longest;
    }
    for (int byte = 0; byte < 256; byte++)
        if (t->byte_ids[byte] < 0)
            return kvf_fail(error, KVF_UNSUPPORTED,
                            "%s: the vocabulary has no token for the byte 0x%02x",
                            kvf_printable(where).text, (unsigned)byte);
    return grow_pairs(t) ? KVF_OK : fail_memory(v, error);
}

/* ---- Pairs ---------------------------------------------------------------------------------- */

/* The id of one side of a merge, or -1. */
static int64_t find_written(const kvf_vocabulary *v, const char *written, size_t bytes, char *out,
                            size_t *n)
{
    if (!bytes_of(written, bytes, out, n) || *n == 0)
        return -1;
    return find_bytes(v, out, *n);
}

/* Files that were trained number tokens as they were made: it is the next one, nearly always. */
static int64_t find_joined(const kvf_vocabulary *v, const char *text, size_t bytes)
{
    const kvf_tokenizer *t = v->tokenizer;
    const uint32_t next = v->last_joined + 1;
    return next < t->n_ids && t->tokens[next].kind == KVF_TOKEN_TEXT &&
                   has_text(t, next, text, bytes)
               ? (int64_t)next
               : find_bytes(v, text, bytes);
}

kvf_status kvf_vocabulary_add_pair(kvf_vocabulary *v, const char *left, size_t left_bytes,
                                   const char *right, size_t right_bytes, kvf_error *error)
{
    kvf_tokenizer *t = v->tokenizer;
    char few[512];
    const bool fits = left_bytes <= sizeof few && right_bytes <= sizeof few - left_bytes;
    char *both = fits ? few : malloc(left_bytes + right_bytes);
    size_t n_left;
    size_t n_right = 0;
    if (!both)
        return fail_memory(v, error);
    const int64_t a = find_written(v, left, left_bytes, both, &n_left);
    const int64_t b = a < 0 ? -1 : find_written(v, right, right_bytes, both + n_left, &n_right);
    const int64_t joined = b < 0 ? -1 : find_joined(v, both, n_left + n_right);
    if (!fits)
        free(both);
    if (joined < 0)
        return kvf_fail(error, KVF_FILE_FORMAT,
                        "%s: merge %u, \"%s\" and \"%s\": the vocabulary does not have %s",
                        kvf_printable(v->where).text, v->n_pairs, print_text(left, left_bytes).text,
                        print_text(right, right_bytes).text,
                        a < 0   ? "the first"
                        : b < 0 ? "the second"
                                : "both joined");
    if (v->n_pairs == KVF_MAX_IDS)
        return kvf_fail(error, KVF_FILE_FORMAT, "%s: more than %u merges",
                        kvf_printable(v->where).text, KVF_MAX_IDS);
    if (2 * v->n_pairs > t->pair_mask && !grow_pairs(t))
        return fail_memory(v, error);
    kvf_pair *slot = kvf_pair_slot(t->pairs, t->pair_mask, (uint32_t)a, (uint32_t)b);
    if (slot->left != UINT32_MAX)
        return kvf_fail(error, KVF_FILE_FORMAT, "%s: merge %u, \"%s\" and \"%s\", is there twice",
                        kvf_printable(v->where).text, v->n_pairs, print_text(left, left_bytes).text,
                        print_text(right, right_bytes).text);
    *slot = (kvf_pair){(uint32_t)a, (uint32_t)b, v->n_pairs++, (uint32_t)joined};
    v->last_joined = (uint32_t)joined;
    return KVF_OK;
}

kvf_status kvf_vocabulary_add_merge(kvf_vocabulary *v, const char *written, size_t bytes,
                                    kvf_error *error)
{
    const char *space = memchr(written, ' ', bytes);
    if (!space || memchr(space + 1, ' ', bytes - (size_t)(space + 1 - written)))
        return kvf_fail(error, KVF_FILE_FORMAT, "%s: merge %u, \"%s\", is not two tokens",
                        kvf_printable(v->where).text, v->n_pairs, print_text(written, bytes).text);
    const size_t left_bytes = (size_t)(space - written);
    return kvf_vocabulary_add_pair(v, written, left_bytes, space + 1, bytes - left_bytes - 1,
                                   error);
}

kvf_status kvf_vocabulary_finish(kvf_vocabulary *v, kvf_tokenizer **tokenizer, kvf_error *error)
{
    if (!kvf_whole_make(v->tokenizer))
        return fail_memory(v, error);
    *tokenizer = v->tokenizer;
    v->tokenizer = NULL;
    kvf_vocabulary_free(v);
    return KVF_OK;
}

void kvf_vocabulary_free(kvf_vocabulary *v)
{
    kvf_tokenizer_close(v->tokenizer);
    free(v->slots);
    v->tokenizer = NULL;
    v->slots = NULL;
}
