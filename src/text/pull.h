/*
 * JSON that is too long for a tree of it: read once, from the first byte to the last. Of any text
 * at all; what is wrong is one message, after which everything does nothing. Internal to src/text.
 *
 *     kvf_pull_enter(&p, '{');
 *     while (kvf_pull_next(&p))
 *         if (kvf_pull_key(&p, &key)) .. one value ..
 */
#ifndef KVF_TEXT_PULL_H
#define KVF_TEXT_PULL_H

#include "text/buffer.h"

#include "kvfold.h"

typedef struct kvf_pull {
    const char *text;
    size_t bytes;
    size_t at;
    const char *where; /* names the text in messages */
    kvf_error *error;
    kvf_status status; /* KVF_OK: nothing was wrong so far */
    bool first;        /* nothing was read since the last '{' or '[' */
} kvf_pull;

/* A part of the text. */
typedef struct kvf_pull_part {
    const char *text;
    size_t bytes;
} kvf_pull_part;

kvf_pull kvf_pull_start(const char *text, size_t bytes, const char *where, kvf_error *error);

/* The first byte of the next value, without taking it; 0 after an error. */
char kvf_pull_peek(kvf_pull *p);
/* Takes the '{' or '[' that must be next. */
void kvf_pull_enter(kvf_pull *p, char open);
/* Whether another member follows; otherwise the end is taken. False after an error. */
bool kvf_pull_next(kvf_pull *p, char open);
/* Takes a member's name and the colon behind it. */
void kvf_pull_key(kvf_pull *p, kvf_buffer *key);
/* A string into *text, in the place of what it held. It has no NUL character. */
void kvf_pull_string(kvf_pull *p, kvf_buffer *text);
/* A whole number that is not negative, below 2^53. */
uint64_t kvf_pull_u64(kvf_pull *p);
/* Any value, checked; nested in up to 64 others. */
kvf_pull_part kvf_pull_skip(kvf_pull *p);
/* Nothing but space may be left. */
void kvf_pull_end(kvf_pull *p);

/* Fails with what was found instead of `expected`, at the place where it is read. */
void kvf_pull_fail(kvf_pull *p, const char *expected);

#endif
