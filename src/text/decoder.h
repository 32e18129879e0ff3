/* Token ids to text, as they come. Internal. */
#ifndef KVF_TEXT_DECODER_H
#define KVF_TEXT_DECODER_H

#include "text/buffer.h"
#include "text/tokenizer.h"

/* What a character may begin with and no token has ended yet. Nothing to free. */
typedef struct kvf_decoder {
    const kvf_tokenizer *tokenizer;
    bool skip_special;
    unsigned n_held;
    unsigned char held[4];
} kvf_decoder;

/* skip_special: tokens that are no part of a text (KVF_TOKEN_SPECIAL) give nothing. */
void kvf_decoder_start(kvf_decoder *decoder, const kvf_tokenizer *tokenizer, bool skip_special);
/*
 * Appends the whole characters that end in this token to `out`, always UTF-8. Bytes that can be no
 * character any more become U+FFFD: one for each longest part that could have begun one.
 */
void kvf_decoder_add(kvf_decoder *decoder, int32_t id, kvf_buffer *out);
/* The end of the text: what is held back becomes U+FFFD. The decoder begins anew. */
void kvf_decoder_flush(kvf_decoder *decoder, kvf_buffer *out);

#endif
