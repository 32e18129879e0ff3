/*
 * The vocabulary of a checkpoint: what its tokens are made of. docs/TEXT.md describes all of
 * src/text. Internal.
 */
#ifndef KVF_TEXT_TOKENIZER_H
#define KVF_TEXT_TOKENIZER_H

#include "file/tensor_set.h"

/* Does not change once it is open: any number of threads may use it. */
typedef struct kvf_tokenizer kvf_tokenizer;

typedef enum kvf_token_kind {
    KVF_TOKEN_NONE,   /* it has no text: padding of the vocabulary, or no id of it */
    KVF_TOKEN_TEXT,   /* what text is made of */
    KVF_TOKEN_ADDED,  /* taken by its exact text where that is asked for, never made of text */
    KVF_TOKEN_SPECIAL /* the same, and no part of a text: end of sentence, placeholders */
} kvf_token_kind;

/*
 * Without a tokenizer a vocabulary up to this is one of bytes (docs/TEXT.md); a larger one has
 * lost its tokenizer.
 */
#define KVF_MAX_BYTE_VOCABULARY 512

/*
 * The tokenizer of a checkpoint whose embedding has `vocab` rows: of tokenizer.json beside
 * safetensors, of a GGUF's tokenizer.ggml keys, or, where neither is there and vocab is
 * small enough, the one of bytes.
 *   KVF_FILE_NOT_FOUND: there is none and vocab is too large for bytes. KVF_FILE_IO,
 * KVF_FILE_FORMAT: it is not all there, says what cannot be, or is not of vocab ids (both
 * numbers are named). KVF_UNSUPPORTED: another kind; what differs is named. KVF_OUT_OF_MEMORY.
 */
kvf_status kvf_tokenizer_open(const kvf_tensor_set *files, uint32_t vocab,
                              kvf_tokenizer **tokenizer, kvf_error *error);
/* That of a folder (no weights needed), as above; `vocab` 0: any number of ids. */
kvf_status kvf_tokenizer_open_folder(const char *dir, uint32_t vocab, kvf_tokenizer **tokenizer,
                                     kvf_error *error);
/* That of one file; `vocab` 0: any number of ids. */
kvf_status kvf_tokenizer_open_json(const char *path, uint32_t vocab, kvf_tokenizer **tokenizer,
                                   kvf_error *error);
/* The tokenizer of bytes: id 0 to 255 is that byte, the others up to vocab have no text. */
kvf_status kvf_tokenizer_open_bytes(uint32_t vocab, kvf_tokenizer **tokenizer, kvf_error *error);
/*
 * Gives ids that have no text the texts of special tokens, one each: marks of a chat format, in a
 * vocabulary of bytes. Before anybody else has the tokenizer. KVF_INVALID_ARGUMENT: one of bytes
 * has no such id, or another kind of tokenizer has its own; KVF_OUT_OF_MEMORY: it is to be closed.
 */
kvf_status kvf_tokenizer_mark_bytes(kvf_tokenizer *tokenizer, const int32_t *ids,
                                    const char *const *texts, size_t n, kvf_error *error);
/* NULL is fine. */
void kvf_tokenizer_close(kvf_tokenizer *tokenizer);

/* Ids are 0 to that, exclusive. */
uint32_t kvf_tokenizer_n_ids(const kvf_tokenizer *tokenizer);
/* Whether a token is a byte, and no added token is there. */
bool kvf_tokenizer_is_bytes(const kvf_tokenizer *tokenizer);
/* The most bytes that a token has. */
size_t kvf_tokenizer_longest(const kvf_tokenizer *tokenizer);
/* Of any number. */
kvf_token_kind kvf_tokenizer_kind(const kvf_tokenizer *tokenizer, int32_t id);
/*
 * The bytes of any id, *bytes of them, which may be the middle of a character; 0 of
 * KVF_TOKEN_NONE. Owned by the tokenizer.
 */
const char *kvf_tokenizer_bytes(const kvf_tokenizer *tokenizer, int32_t id, size_t *bytes);
/* The added token of exactly that text ("<think>"); -1: there is none. */
int32_t kvf_tokenizer_find(const kvf_tokenizer *tokenizer, const char *text);

#endif
