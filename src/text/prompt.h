/*
 * A prompt before it is tokens: bytes, and which of them are markers. A marker is an added
 * token, taken by its exact text (<think>, the end of a sentence). Everything between two
 * markers is encoded without added tokens, so that no text of a user or a tool becomes a
 * role's mark, whatever it spells. Internal.
 */
#ifndef KVF_TEXT_PROMPT_H
#define KVF_TEXT_PROMPT_H

#include "text/arena.h"

typedef struct kvf_marker {
    size_t at; /* in the prompt's bytes */
    size_t bytes;
} kvf_marker;

/* Starts as {0}. Where memory is short, text.failed is set (arena.h). */
typedef struct kvf_prompt {
    kvf_buffer text;
    kvf_marker *markers; /* [n_markers], ascending, none overlaps another */
    size_t n_markers;
    size_t capacity_markers;
} kvf_prompt;

void kvf_prompt_add_text(kvf_prompt *prompt, kvf_span text);
void kvf_prompt_add_marker(kvf_prompt *prompt, kvf_span marker);
void kvf_prompt_free(kvf_prompt *prompt);

#endif
