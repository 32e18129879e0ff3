#include "text/answer.h"

#include "error.h"
#include "text/answer_calls.h"
#include "text/chat.h"

#include <stdlib.h>
#include <string.h>

/*
 * A block of calls begins with a line break, a line break, '<', the mark, "tool_calls". What has
 * come of that is known by how many of its characters have, the mark being one.
 */
static const char before_mark[] = "\n\n<";
static const char after_mark[] = "tool_calls";
enum { N_BEFORE = 3, N_AFTER = 10, N_HEAD = N_BEFORE + 1 + N_AFTER };

/* The longest spelled marker, the end of sentence, has 25. */
enum { MAX_SPELLED_BYTES = 32 };

enum state { IN_REASONING, IN_CONTENT, IN_BLOCK };

struct kvf_answer {
    kvf_answer_sink sink;
    void *user;
    bool markers_in_text;
    enum state state;
    bool in_reasoning; /* where the block began, it is out of place */
    size_t n_head;     /* of the head of a block that have come: 0 .. N_HEAD - 1 */
    bool has_ended;    /* an end of sentence has come; what follows makes it a part of the text */
    char spelled[MAX_SPELLED_BYTES]; /* [n_spelled] what may become a marker */
    size_t n_spelled;
    kvf_marked block;
};

kvf_answer *kvf_answer_open(bool thinking, bool markers_in_text, kvf_answer_sink sink, void *user)
{
    kvf_answer *answer = calloc(1, sizeof *answer);
    if (answer) {
        answer->sink = sink;
        answer->user = user;
        answer->markers_in_text = markers_in_text;
        answer->state = thinking ? IN_REASONING : IN_CONTENT;
    }
    return answer;
}

void kvf_answer_close(kvf_answer *answer)
{
    if (answer)
        kvf_marked_free(&answer->block);
    free(answer);
}

/* ---- Reasoning and content ----------------------------------------------------------- */

static void give(kvf_answer *answer, kvf_answer_kind kind, const char *data, size_t bytes)
{
    const kvf_answer_event event = {.kind = kind, .raw = {data, bytes}};
    if (bytes > 0)
        answer->sink(answer->user, &event);
}

/* Text of the part that the answer is in. */
static void give_text(kvf_answer *answer, const char *data, size_t bytes)
{
    give(answer, answer->state == IN_REASONING ? KVF_ANSWER_REASONING : KVF_ANSWER_CONTENT, data,
         bytes);
}

/* The first n characters of a block's head as bytes; the number of bytes. */
static size_t head_bytes(size_t n, char *out)
{
    static const char head[] = "\n\n<" KVF_CHAT_DSML "tool_calls";
    const size_t bytes = n <= N_BEFORE ? n : n - 1 + sizeof KVF_CHAT_DSML - 1;
    memcpy(out, head, bytes);
    return bytes;
}

/* What was held back as a block's head is none. */
static void give_head(kvf_answer *answer)
{
    char head[MAX_SPELLED_BYTES];
    const size_t bytes = head_bytes(answer->n_head, head);
    answer->n_head = 0;
    give_text(answer, head, bytes);
}

static void begin_block(kvf_answer *answer)
{
    kvf_marked *block = &answer->block;
    answer->in_reasoning = answer->state == IN_REASONING;
    answer->state = IN_BLOCK;
    answer->n_head = 0;
    kvf_buffer_add_string(&block->text, before_mark);
    kvf_marked_add_mark(block);
    kvf_buffer_add_string(&block->text, after_mark);
}

/* Takes a character of a block's head, if it is the next one. */
static bool take_head(kvf_answer *answer, char c)
{
    const size_t n = answer->n_head;
    if (n < N_BEFORE ? c != before_mark[n] : n == N_BEFORE || c != after_mark[n - N_BEFORE - 1])
        return false;
    if (++answer->n_head == N_HEAD)
        begin_block(answer);
    return true;
}

/* Text outside of a block; the bytes up to the block that begins in it, or all. */
static size_t take_outside(kvf_answer *answer, const char *text, size_t bytes)
{
    size_t start = 0; /* of what is no head */
    size_t at = 0;
    while (at < bytes && answer->state != IN_BLOCK) {
        const bool was_head = answer->n_head > 0;
        if (text[at] == '\n' && answer->n_head == 2) { /* of three line breaks the last two */
            give_text(answer, before_mark, 1);
            start = ++at;
        } else if (was_head && !take_head(answer, text[at])) {
            give_head(answer);
            start = at; /* the character is looked at again */
        } else if (was_head) {
            start = ++at;
        } else if (text[at] == before_mark[0]) {
            give_text(answer, text + start, at - start);
            take_head(answer, text[at]);
            start = ++at;
        } else {
            at++;
        }
    }
    if (answer->state != IN_BLOCK)
        give_text(answer, text + start, at - start);
    return at;
}

static void take_text(kvf_answer *answer, const char *text, size_t bytes);

static void take_marker(kvf_answer *answer, kvf_span marker)
{
    if (kvf_span_is(marker, KVF_CHAT_EOS) && !answer->has_ended) {
        answer->has_ended = true;
        return;
    }
    if (answer->has_ended) {
        answer->has_ended = false;
        take_text(answer, KVF_CHAT_EOS, sizeof KVF_CHAT_EOS - 1);
        answer->has_ended = kvf_span_is(marker, KVF_CHAT_EOS);
        if (answer->has_ended)
            return;
    }
    if (answer->state == IN_BLOCK) {
        if (kvf_span_is(marker, KVF_CHAT_DSML))
            kvf_marked_add_mark(&answer->block);
        else
            kvf_buffer_add_span(&answer->block.text, marker);
        return;
    }
    if (kvf_span_is(marker, KVF_CHAT_DSML) && answer->n_head == N_BEFORE) {
        answer->n_head++;
        return;
    }
    give_head(answer);
    if (kvf_span_is(marker, KVF_CHAT_END_THINK) && answer->state == IN_REASONING) {
        give(answer, KVF_ANSWER_FRAME, marker.data, marker.bytes);
        answer->state = IN_CONTENT;
    } else {
        give_text(answer, marker.data, marker.bytes);
    }
}

static void take_text(kvf_answer *answer, const char *text, size_t bytes)
{
    if (answer->has_ended && bytes > 0) {
        answer->has_ended = false;
        take_text(answer, KVF_CHAT_EOS, sizeof KVF_CHAT_EOS - 1);
    }
    const size_t n = answer->state == IN_BLOCK ? 0 : take_outside(answer, text, bytes);
    kvf_buffer_add(&answer->block.text, text + n, bytes - n);
}

/* ---- Markers that are spelled -------------------------------------------------------- */

static const char *const spelled_markers[] = {KVF_CHAT_END_THINK, KVF_CHAT_EOS, KVF_CHAT_DSML};
enum { N_SPELLED = sizeof spelled_markers / sizeof *spelled_markers };

/* Whether what is held, and then c, may become a marker; *whole: it is one. */
static bool is_spelled(const kvf_answer *answer, char c, bool *whole)
{
    const size_t n = answer->n_spelled;
    for (size_t i = 0; i < N_SPELLED; i++) {
        const char *marker = spelled_markers[i];
        if (n < strlen(marker) && memcmp(marker, answer->spelled, n) == 0 && marker[n] == c) {
            *whole = strlen(marker) == n + 1;
            return true;
        }
    }
    return false;
}

/* What is held is no marker from its first byte on; it may have one further on. */
static void give_first_spelled(kvf_answer *answer)
{
    char held[MAX_SPELLED_BYTES];
    const size_t n = answer->n_spelled;
    bool whole = false;
    memcpy(held, answer->spelled, n);
    answer->n_spelled = 0;
    size_t start = 1;
    for (; start < n; start++) { /* no marker is whole inside of another */
        answer->n_spelled = 0;
        while (start + answer->n_spelled < n &&
               is_spelled(answer, held[start + answer->n_spelled], &whole)) {
            answer->spelled[answer->n_spelled] = held[start + answer->n_spelled];
            answer->n_spelled++;
        }
        if (start + answer->n_spelled == n)
            break;
    }
    if (start == n)
        answer->n_spelled = 0;
    take_text(answer, held, start);
}

static void take_spelled(kvf_answer *answer, const char *text, size_t bytes)
{
    size_t start = 0; /* of what is no marker */
    for (size_t at = 0; at < bytes;) {
        bool whole = false;
        if (is_spelled(answer, text[at], &whole)) {
            if (answer->n_spelled == 0)
                take_text(answer, text + start, at - start);
            answer->spelled[answer->n_spelled++] = text[at];
            start = ++at;
        } else if (answer->n_spelled > 0) {
            give_first_spelled(answer); /* and the byte is looked at again */
            start = at;
        } else {
            at++;
        }
        if (whole) {
            take_marker(answer, (kvf_span){answer->spelled, answer->n_spelled});
            answer->n_spelled = 0;
        }
    }
    take_text(answer, text + start, bytes - start);
}

/* ---- The interface ------------------------------------------------------------------- */

void kvf_answer_text(kvf_answer *answer, const char *text, size_t bytes)
{
    if (answer->markers_in_text)
        take_spelled(answer, text, bytes);
    else
        take_text(answer, text, bytes);
}

void kvf_answer_marker(kvf_answer *answer, const char *text, size_t bytes)
{
    const size_t n = answer->n_spelled;
    answer->n_spelled = 0;
    take_text(answer, answer->spelled, n);
    take_marker(answer, (kvf_span){text, bytes});
}

kvf_status kvf_answer_finish(kvf_answer *answer, kvf_error *error)
{
    kvf_marked *block = &answer->block;
    const size_t n = answer->n_spelled;
    answer->n_spelled = 0;
    take_text(answer, answer->spelled, n);
    if (answer->state != IN_BLOCK) {
        give_head(answer);
    } else if (!block->failed && !block->text.failed) {
        const bool is_good =
            !answer->in_reasoning && kvf_answer_calls(block, answer->sink, answer->user);
        if (!is_good && !block->failed)
            give(answer, KVF_ANSWER_MALFORMED, block->text.data, block->text.bytes);
    }
    if (answer->has_ended)
        give(answer, KVF_ANSWER_FRAME, KVF_CHAT_EOS, sizeof KVF_CHAT_EOS - 1);
    answer->has_ended = false;
    if (block->failed || block->text.failed)
        return kvf_fail(error, KVF_OUT_OF_MEMORY, "no memory for the calls of an answer");
    return kvf_ok(error);
}
