/* Text to token ids. Internal. */
#ifndef KVF_TEXT_ENCODER_H
#define KVF_TEXT_ENCODER_H

#include "text/prompt.h"
#include "text/tokenizer.h"

/*
 * Scratch memory and a cache of pieces that were encoded before, of bounded size: one
 * thread's. The tokenizer outlives it.
 */
typedef struct kvf_encoder kvf_encoder;

/* KVF_OUT_OF_MEMORY. */
kvf_status kvf_encoder_open(const kvf_tokenizer *tokenizer, kvf_encoder **encoder,
                            kvf_error *error);
/* NULL is fine. */
void kvf_encoder_close(kvf_encoder *encoder);

/*
 * The most memory that the next texts may take in all, ids included: what needs more is
 * KVF_OUT_OF_MEMORY before it is asked for. A text of one word takes some 40 bytes a byte, any
 * other little more than its ids. 0: as much as there is.
 */
void kvf_encoder_limit(kvf_encoder *encoder, uint64_t most_bytes);

/*
 * Appends the ids of all of the prompt. KVF_UNSUPPORTED where the vocabulary lacks a marker,
 * which is named; KVF_OUT_OF_MEMORY (also the prompt's own). After a failure `ids` holds what it
 * held before.
 */
kvf_status kvf_encode_prompt(kvf_encoder *encoder, const kvf_prompt *prompt, kvf_ids *ids,
                             kvf_error *error);
/*
 * The same of a text. added_tokens: those are found in it by their text; otherwise it is plain text
 * whatever it says, which that of a user always is.
 */
kvf_status kvf_encode_text(kvf_encoder *encoder, const char *text, size_t bytes, bool added_tokens,
                           kvf_ids *ids, kvf_error *error);

/*
 * The most bytes of a text after which it can be cut: encoded without added tokens, both sides
 * together give the ids of the whole, whatever comes after `bytes`. 0: nowhere.
 */
size_t kvf_text_cut(const kvf_encoder *encoder, const char *text, size_t bytes);

#endif
