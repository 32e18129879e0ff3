#include "text/encoder.h"

#include "error.h"
#include "text/bpe.h"

#include <stdlib.h>
#include <string.h>

/*
 * Words come again and again. An entry is 64 bytes, a line of the processor's cache: a piece of at
 * most 30 bytes that became at most 8 ids. 2^15 of them are 2 MiB; where two pieces want one
 * place, the later one has it.
 */
enum { CACHED_BYTES = 30, CACHED_IDS = 8, CACHE_BITS = 15 };

typedef struct cache_entry {
    uint8_t bytes; /* 0: nothing is here */
    uint8_t n_ids;
    unsigned char piece[CACHED_BYTES]; /* zeros behind it */
    int32_t ids[CACHED_IDS];
} cache_entry;

struct kvf_encoder {
    const kvf_tokenizer *tokenizer;
    cache_entry *cache; /* [1 << CACHE_BITS] */
    kvf_bpe bpe;
    uint64_t most_bytes; /* 0: as many as there are */
};

kvf_status kvf_encoder_open(const kvf_tokenizer *tokenizer, kvf_encoder **encoder, kvf_error *error)
{
    kvf_encoder *e = calloc(1, sizeof *e);
    cache_entry *cache = calloc((size_t)1 << CACHE_BITS, sizeof *cache);
    *encoder = NULL;
    if (!e || !cache) {
        free(e);
        free(cache);
        return kvf_fail(error, KVF_OUT_OF_MEMORY, "no memory for an encoder of text");
    }
    e->tokenizer = tokenizer;
    e->cache = cache;
    *encoder = e;
    return kvf_ok(error);
}

void kvf_encoder_close(kvf_encoder *encoder)
{
    if (!encoder)
        return;
    kvf_bpe_free(&encoder->bpe);
    free(encoder->cache);
    free(encoder);
}

void kvf_encoder_limit(kvf_encoder *encoder, uint64_t most_bytes)
{
    encoder->most_bytes = most_bytes;
}

/* ---- Pieces --------------------------------------------------------------------------------- */

static size_t place_of(const cache_entry *wanted)
{
    const uint64_t factors[] = {UINT64_C(0x9e3779b97f4a7c15), UINT64_C(0xbf58476d1ce4e5b9),
                                UINT64_C(0x94d049bb133111eb), UINT64_C(0xd6e8feb86659fd93)};
    uint64_t words[4]; /* lengths and all of the piece */
    uint64_t hash = 0;
    memcpy(words, wanted, sizeof words);
    for (int i = 0; i < 4; i++)
        hash = (hash ^ words[i]) * factors[i] ^ hash >> 31;
    return hash >> (64 - CACHE_BITS);
}
_Static_assert(sizeof(cache_entry) == 64 && offsetof(cache_entry, ids) == 32, "two halves");

/* Appends the ids of a piece; there is room for one a byte. False without memory. */
static bool encode_piece(kvf_encoder *e, const unsigned char *piece, size_t bytes, kvf_ids *ids)
{
    cache_entry wanted = {.bytes = (uint8_t)bytes};
    int32_t *out = ids->ids + ids->n;
    size_t n;
    if (bytes > CACHED_BYTES) {
        if (!kvf_bpe_encode(&e->bpe, e->tokenizer, piece, bytes, out, &n))
            return false;
        ids->n += n;
        return true;
    }
    memcpy(wanted.piece, piece, bytes);
    cache_entry *entry = &e->cache[place_of(&wanted)];
    if (entry->bytes == bytes && memcmp(entry->piece, wanted.piece, CACHED_BYTES) == 0) {
        n = entry->n_ids;
        for (size_t i = 0; i < n; i++)
            out[i] = entry->ids[i];
        ids->n += n;
        return true;
    }
    if (!kvf_bpe_encode(&e->bpe, e->tokenizer, piece, bytes, out, &n))
        return false;
    ids->n += n;
    if (n <= CACHED_IDS) {
        wanted.n_ids = (uint8_t)n;
        memcpy(wanted.ids, out, n * sizeof *out);
        *entry = wanted;
    }
    return true;
}

/* A text in which no added token is looked for; room for one id a byte is there. */
static bool encode_plain(kvf_encoder *e, const char *text, size_t bytes, kvf_ids *ids)
{
    const unsigned char *c = (const unsigned char *)text;
    if (e->tokenizer->is_bytes) {
        for (size_t i = 0; i < bytes; i++)
            ids->ids[ids->n++] = c[i];
        return true;
    }
    for (size_t at = 0; at < bytes;) {
        const size_t end = kvf_split_next(&e->tokenizer->classes, c, at, bytes);
        /* Places in a piece are 32 bits wide. */
        if (end - at >= UINT32_MAX || !encode_piece(e, c + at, end - at, ids))
            return false;
        at = end;
    }
    return true;
}

/* ---- Added tokens ------------------------------------------------------------------------------
 */

/* Added tokens of the second pass, in what the first one left, and the text between them. */
static bool encode_left(kvf_encoder *e, const char *text, size_t bytes, kvf_ids *ids)
{
    for (size_t at = 0; at < bytes;) {
        const kvf_added_match found = kvf_added_next(&e->tokenizer->added[1], text, at, bytes);
        if (!encode_plain(e, text + at, found.at - at, ids))
            return false;
        if (found.id >= 0)
            ids->ids[ids->n++] = found.id;
        at = found.at + found.bytes;
    }
    return true;
}

static bool encode_added(kvf_encoder *e, const char *text, size_t bytes, kvf_ids *ids)
{
    for (size_t at = 0; at < bytes;) {
        const kvf_added_match found = kvf_added_next(&e->tokenizer->added[0], text, at, bytes);
        if (!encode_left(e, text + at, found.at - at, ids))
            return false;
        if (found.id >= 0)
            ids->ids[ids->n++] = found.id;
        at = found.at + found.bytes;
    }
    return true;
}

/* ---- Texts
 * --------------------------------------------------------------------------------------- */

static kvf_status fail_memory(const kvf_encoder *e, size_t bytes, kvf_error *error)
{
    if (e->most_bytes > 0)
        return kvf_fail(error, KVF_OUT_OF_MEMORY,
                        "no memory for the tokens of %zu bytes of text: %llu bytes are left for "
                        "them; words that have an end take less",
                        bytes, (unsigned long long)e->most_bytes);
    return kvf_fail(error, KVF_OUT_OF_MEMORY, "no memory for the tokens of %zu bytes of text",
                    bytes);
}

/* Room for an id a byte, and what is left of the limit for pieces. */
static bool reserve(kvf_encoder *e, size_t bytes, kvf_ids *ids)
{
    const uint64_t ids_bytes = (uint64_t)bytes * sizeof *ids->ids;
    if (e->most_bytes > 0 && ids_bytes >= e->most_bytes)
        return false;
    e->bpe.most_bytes = e->most_bytes > 0 ? e->most_bytes - ids_bytes : 0;
    return kvf_ids_reserve(ids, bytes);
}

kvf_status kvf_encode_text(kvf_encoder *encoder, const char *text, size_t bytes, bool added_tokens,
                           kvf_ids *ids, kvf_error *error)
{
    const size_t n_before = ids->n;
    const bool encoded =
        reserve(encoder, bytes, ids) && (added_tokens ? encode_added(encoder, text, bytes, ids)
                                                      : encode_plain(encoder, text, bytes, ids));
    if (encoded)
        return kvf_ok(error);
    ids->n = n_before;
    return fail_memory(encoder, bytes, error);
}

kvf_status kvf_encode_prompt(kvf_encoder *encoder, const kvf_prompt *prompt, kvf_ids *ids,
                             kvf_error *error)
{
    const kvf_tokenizer *t = encoder->tokenizer;
    const kvf_buffer *text = &prompt->text;
    const size_t n_before = ids->n;
    size_t at = 0;
    bool encoded = !prompt->failed && reserve(encoder, text->bytes, ids);
    for (size_t i = 0; i < prompt->n_markers && encoded; i++) {
        const kvf_marker *marker = &prompt->markers[i];
        const char *name = text->data + marker->at;
        int32_t id = -1;
        for (int pass = 0; pass < 2 && id < 0; pass++)
            id = kvf_added_find(&t->added[pass], name, marker->bytes);
        if (id < 0) {
            char shown[64] = {0};
            memcpy(shown, name, marker->bytes < sizeof shown ? marker->bytes : sizeof shown - 1);
            ids->n = n_before;
            return kvf_fail(error, KVF_UNSUPPORTED, "the tokenizer has no token \"%s\"",
                            kvf_printable(shown).text);
        }
        encoded = encode_plain(encoder, text->data + at, marker->at - at, ids);
        if (encoded)
            ids->ids[ids->n++] = id; /* its text has a byte at the least: there is room */
        at = marker->at + marker->bytes;
    }
    if (encoded && encode_plain(encoder, text->data + at, text->bytes - at, ids))
        return kvf_ok(error);
    ids->n = n_before;
    return fail_memory(encoder, text->bytes, error);
}

size_t kvf_text_cut(const kvf_encoder *encoder, const char *text, size_t bytes)
{
    if (encoder->tokenizer->is_bytes)
        return bytes;
    return kvf_split_cut(&encoder->tokenizer->classes, (const unsigned char *)text, bytes);
}
