/* A block of calls in an answer. Included by answer.c and answer_calls.c alone. */
#ifndef KVF_TEXT_ANSWER_CALLS_H
#define KVF_TEXT_ANSWER_CALLS_H

#include "text/answer.h"

/* Bytes, and where in them the marker of DSML stands. */
typedef struct kvf_marked {
    kvf_buffer text;
    size_t *marks; /* [n_marks], ascending */
    size_t n_marks;
    size_t capacity_marks;
    bool failed;
} kvf_marked;

void kvf_marked_add_mark(kvf_marked *marked);
void kvf_marked_free(kvf_marked *marked);

/*
 * Gives the calls of a block, from its two line breaks to its end, and the rest as frame. False,
 * and no event, where it is not exactly the form, or memory is short (marked->failed).
 */
bool kvf_answer_calls(kvf_marked *marked, kvf_answer_sink sink, void *user);

#endif
