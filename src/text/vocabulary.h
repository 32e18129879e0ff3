/* How the readers fill a tokenizer, and what the encoder takes from it. Internal to src/text. */
#ifndef KVF_TEXT_VOCABULARY_H
#define KVF_TEXT_VOCABULARY_H

#include "text/added.h"
#include "text/buffer.h"
#include "text/split.h"
#include "text/tokenizer.h"
#include "text/whole.h"

/* More than the largest vocabulary that a config may have (2^24): sizes have a bound. */
#define KVF_MAX_IDS (1u << 24)
/* As written; V4's longest has 128. What callers multiply by a token's bytes has a bound. */
#define KVF_MAX_TOKEN_BYTES (1 << 16)
/*
 * Far above what is of any use (V4's longest has 44 bytes): looking for added tokens takes at most
 * so many steps a byte of text.
 */
#define KVF_MAX_ADDED_BYTES 256

typedef struct kvf_token {
    uint32_t at; /* in the tokenizer's bytes */
    uint32_t bytes;
    unsigned char kind; /* kvf_token_kind */
    bool verbatim;      /* its text is no writing of bytes: only an added token may be so */
    bool unused;        /* it has no text, and need not */
} kvf_token;

/* Two neighbours that are joined. Rank is the pair's own; the lowest is joined first. */
typedef struct kvf_pair {
    uint32_t left; /* UINT32_MAX: the slot is free */
    uint32_t right;
    uint32_t rank;
    uint32_t joined; /* the id of both together */
} kvf_pair;

struct kvf_tokenizer {
    bool is_bytes;
    uint32_t n_ids;
    size_t longest;
    kvf_buffer bytes;  /* of all tokens */
    kvf_token *tokens; /* [capacity], 0 to n_ids used */
    uint32_t capacity;
    int32_t byte_ids[256];
    kvf_pair *pairs; /* [pair_mask + 1], at most half of them used */
    uint32_t pair_mask;
    int32_t *whole;     /* [KVF_WHOLE_COUNT] (whole.h); NULL: no character is known to be so */
    kvf_added added[2]; /* the passes that look for added tokens, one after the other */
    kvf_classes classes;
};

/* The pair's slot, or the free one where it would be. */
static inline kvf_pair *kvf_pair_slot(kvf_pair *pairs, uint32_t mask, uint32_t left, uint32_t right)
{
    uint64_t mixed = ((uint64_t)left << 32 | right) * UINT64_C(0x9e3779b97f4a7c15); /* 2^64 / phi */
    uint32_t at = (uint32_t)(mixed >> 32) & mask;
    while (pairs[at].left != UINT32_MAX && (pairs[at].left != left || pairs[at].right != right))
        at = (at + 1) & mask;
    return &pairs[at];
}

/* What a file says of an added token. */
typedef struct kvf_added_token {
    int64_t id;
    const char *text;
    size_t bytes;
    bool special;
    int pass; /* 0 or 1 */
} kvf_added_token;

/* A token to be found by its bytes. */
typedef struct kvf_vocabulary_slot {
    uint32_t id;   /* and 1; 0: the slot is free */
    uint32_t hash; /* of the bytes: most others are told apart by it */
} kvf_vocabulary_slot;

/* A tokenizer that is being made. `where` names the file in messages. */
typedef struct kvf_vocabulary {
    kvf_tokenizer *tokenizer;
    const char *where;
    kvf_vocabulary_slot *slots; /* [slot_mask + 1], at most half of them used */
    uint32_t slot_mask;
    uint32_t n_indexed;
    uint32_t n_pairs;
    uint32_t last_joined; /* the token of the last pair */
} kvf_vocabulary;

/* An empty one. To be freed also after a failure. */
kvf_status kvf_vocabulary_start(kvf_vocabulary *v, const char *where, kvf_error *error);
/*
 * A token of the vocabulary, as files write it: each byte as one printable character. One that
 * is written otherwise must turn out to be an added token. KVF_FILE_FORMAT for what was there
 * before.
 */
kvf_status kvf_vocabulary_add(kvf_vocabulary *v, uint64_t id, const char *written, size_t bytes,
                              kvf_error *error);
/* After all of those. */
kvf_status kvf_vocabulary_add_added(kvf_vocabulary *v, const kvf_added_token *added,
                                    kvf_error *error);
/* An id that is there to fill the vocabulary up, whatever text its file shows for it. */
kvf_status kvf_vocabulary_add_unused(kvf_vocabulary *v, uint64_t id, kvf_error *error);
/* After all tokens: that none is missing, no byte, and none is left that nothing can take. */
kvf_status kvf_vocabulary_check(kvf_vocabulary *v, kvf_error *error);
/* After the check: the next pair in order of rank, its sides as files write them. */
kvf_status kvf_vocabulary_add_pair(kvf_vocabulary *v, const char *left, size_t left_bytes,
                                   const char *right, size_t right_bytes, kvf_error *error);
/* The same, both with one space between them. */
kvf_status kvf_vocabulary_add_merge(kvf_vocabulary *v, const char *written, size_t bytes,
                                    kvf_error *error);
/* After all pairs: hands the tokenizer over; v is empty then. */
kvf_status kvf_vocabulary_finish(kvf_vocabulary *v, kvf_tokenizer **tokenizer, kvf_error *error);
void kvf_vocabulary_free(kvf_vocabulary *v);

/* The readers of files; as kvf_tokenizer_open_json. */
kvf_status kvf_tokenizer_read_gguf(const kvf_tensor_set *files, uint32_t vocab,
                                   kvf_tokenizer **tokenizer, kvf_error *error);

#endif
