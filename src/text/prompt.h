/* A prompt: text, and in it markers that are tokens of their own. Internal. */
#ifndef KVF_TEXT_PROMPT_H
#define KVF_TEXT_PROMPT_H

#include "text/buffer.h"

typedef struct kvf_marker {
    size_t at; /* where its text begins in the prompt's */
    size_t bytes;
} kvf_marker;

/*
 * All zero is an empty one. Markers rise and do not overlap; all that lies between two is plain
 * text, in which no added token is found, whatever it says.
 */
typedef struct kvf_prompt {
    kvf_buffer text;
    kvf_marker *markers; /* [n_markers], malloc'd */
    size_t n_markers;
    size_t capacity;
    bool failed; /* memory ran out: kvf_encode_prompt says so, nothing else need */
} kvf_prompt;

void kvf_prompt_text(kvf_prompt *prompt, const void *text, size_t bytes);
/* marker: the exact text of an added token, like "<think>"; kvf_encode_prompt looks it up. */
void kvf_prompt_marker(kvf_prompt *prompt, const char *marker);
/* The prompt is an empty one then. */
void kvf_prompt_free(kvf_prompt *prompt);

#endif
