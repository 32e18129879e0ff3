/* Joining the bytes of a piece to tokens. Internal to src/text. */
#ifndef KVF_TEXT_BPE_H
#define KVF_TEXT_BPE_H

#include "text/vocabulary.h"

/* Scratch memory; all zero has none yet. */
typedef struct kvf_bpe {
    struct kvf_bpe_symbol *symbols; /* [capacity] */
    uint64_t *heap;                 /* [2 capacity] */
    size_t capacity;
    uint64_t most_bytes; /* of it; 0: as many as there are */
} kvf_bpe;

void kvf_bpe_free(kvf_bpe *bpe);

/*
 * The ids of a piece of 1 to UINT32_MAX - 1 bytes into ids[..bytes), their number into *n: of all
 * neighbours that can be joined those of the lowest rank are, the leftmost first, until none can.
 * In O(bytes log bytes). False without memory.
 */
bool kvf_bpe_encode(kvf_bpe *bpe, const kvf_tokenizer *tokenizer, const unsigned char *piece,
                    size_t bytes, int32_t *ids, size_t *n);

#endif
