/*
 * What a model answers, taken apart while it comes: reasoning, content, calls of tools. Internal.
 *
 * The form: in thinking mode reasoning up to </think>; content up to the end of sentence or to
 * "\n\n<" MARK "tool_calls"; then, to the end, calls as kvf_chat_render writes them. Nothing is
 * lost: the raw bytes of all events, in their order, are what was fed. How the answer is cut into
 * pieces changes only into how many events a text comes. An answer belongs to one thread at a
 * time.
 */
#ifndef KVF_TEXT_ANSWER_H
#define KVF_TEXT_ANSWER_H

#include "kvfold.h"
#include "text/span.h"

typedef enum kvf_answer_kind {
    KVF_ANSWER_REASONING, /* some of its text */
    KVF_ANSWER_CONTENT,   /* some of its text */
    KVF_ANSWER_CALL,      /* a whole call */
    KVF_ANSWER_FRAME,     /* what belongs to the form alone: </think>, the end of sentence */
    /*
     * From where calls begin to the end, where that is not exactly the form: it deviates, is cut
     * off, or begins before the reasoning has ended. One event, the last but for the frame.
     */
    KVF_ANSWER_MALFORMED
} kvf_answer_kind;

typedef struct kvf_answer_event {
    kvf_answer_kind kind;
    kvf_span raw;       /* the bytes that were fed for it */
    kvf_span name;      /* of a call */
    kvf_span arguments; /* of a call: {"KEY": VALUE, ..}, a value that is no string as the model
                           wrote it: JSON only if that is */
    bool arguments_are_json;
} kvf_answer_event;

/* The spans of an event are valid during the call. */
typedef void (*kvf_answer_sink)(void *user, const kvf_answer_event *event);

typedef struct kvf_answer kvf_answer;

/*
 * In thinking mode the prompt ended with <think>, so the answer begins with reasoning.
 * `markers_in_text`: there are no tokens, and what is spelled like a marker is one; without it,
 * only kvf_answer_marker is, and nothing that a model spells ends its reasoning. NULL when
 * memory is short.
 */
kvf_answer *kvf_answer_open(bool thinking, bool markers_in_text, kvf_answer_sink sink, void *user);
/*
 * A piece of text, in bytes that may end inside a character: events have whole characters if the
 * pieces do. Text of which it is not known yet what it belongs to is held back; a block of calls
 * to its end.
 */
void kvf_answer_text(kvf_answer *answer, const char *text, size_t bytes);
/* The text of an added token. Any may come; those of the form are taken for it in their place. */
void kvf_answer_marker(kvf_answer *answer, const char *text, size_t bytes);
/*
 * The answer ends: with an end of sentence as the last marker, or cut off. All that was held
 * back is given. KVF_OUT_OF_MEMORY: memory was short at any time, and events are missing.
 */
kvf_status kvf_answer_finish(kvf_answer *answer, kvf_error *error);
void kvf_answer_close(kvf_answer *answer);

#endif
