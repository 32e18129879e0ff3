/*
 * A conversation in a session: turns become ids behind those that are held, answers become
 * reasoning, content and calls. Internal.
 *
 * What is held says by itself where a conversation stands: the markers among the ids are the
 * format's alone. No text that is encoded has them, and an answer ends before an id that would
 * begin something else (kvf_conversation_ends). Only the settings lie beside the ids.
 */
#ifndef KVF_ENGINE_CONVERSATION_H
#define KVF_ENGINE_CONVERSATION_H

#include "text/answer.h"
#include "text/chat.h"
#include "text/encoder.h"

/* Markers that the ids of a conversation are looked through for. */
typedef enum kvf_mark {
    KVF_MARK_BOS,
    KVF_MARK_EOS,
    KVF_MARK_USER,
    KVF_MARK_ASSISTANT,
    KVF_MARK_THINK,
    KVF_MARK_END_THINK,
    KVF_MARKS_NEEDED, /* a vocabulary that lacks one of those before has no chat format */
    KVF_MARK_DSML = KVF_MARKS_NEEDED,
    KVF_MARK_REMINDER,
    KVF_MARK_TASKS, /* one each but for KVF_CHAT_TASK_NONE */
    KVF_MARKS = KVF_MARK_TASKS + KVF_CHAT_TASKS - 1
} kvf_mark;

/* The chat format of a checkpoint. It holds an encoder's pointer: one thread's. */
typedef struct kvf_conversation {
    kvf_encoder *encoder; /* with its tokenizer not owned */
    const kvf_tokenizer *tokenizer;
    bool has_chat;            /* the vocabulary has the markers; without them nothing else is set */
    int32_t marks[KVF_MARKS]; /* -1: not in the vocabulary */
    kvf_chat_texts texts;
} kvf_conversation;

/* All zero: plain text that goes on. */
typedef struct kvf_conversation_settings {
    bool is_chat;
    bool thinking; /* of the next answer */
    kvf_effort effort;
    kvf_release release;
} kvf_conversation_settings;

/*
 * That of a checkpoint. The fixed texts come from encoding/encoding_dsv4.py beside the files, else
 * from the chat template of a GGUF; without either there are none. Errors are those of
 * kvf_chat_texts_read. *conversation is to be closed after KVF_OK only.
 */
kvf_status kvf_conversation_open(const kvf_tensor_set *files, const kvf_tokenizer *tokenizer,
                                 kvf_encoder *encoder, kvf_conversation *conversation,
                                 kvf_error *error);
/* The same without files: there are no texts but those that the caller puts there. */
void kvf_conversation_of(const kvf_tokenizer *tokenizer, kvf_encoder *encoder,
                         kvf_conversation *conversation);
/*
 * Gives a vocabulary of bytes the marks of the chat format: BOS and EOS are the config's ids, the
 * others the lowest ids that are no byte and neither of these, in the order of kvf_mark. So a
 * checkpoint without a tokenizer can hold a conversation, as far as it has learnt what one is
 * (docs/CHAT.md). *has_room is false, and nothing changed, where it has not that many ids, or no
 * EOS. Before anybody else has the tokenizer. Errors are those of kvf_tokenizer_mark_bytes.
 */
kvf_status kvf_conversation_mark_bytes(kvf_tokenizer *tokenizer, int32_t bos, int32_t eos,
                                       bool *has_room, kvf_error *error);
/* A zeroed one is accepted. */
void kvf_conversation_close(kvf_conversation *conversation);

/* ---- Settings -------------------------------------------------------------------------- */

/*
 * Decides the release where the settings leave it to the texts, and sees that the effort can be
 * asked for. *is_assumed: there are no texts, so that the release may be another one. Errors:
 * kvf_chat_render's of an effort.
 */
kvf_status kvf_conversation_settle(const kvf_conversation *conversation,
                                   kvf_conversation_settings *settings, bool *is_assumed,
                                   kvf_error *error);

/*
 * Settings in the 64 bytes that a session has for its program (docs/FORMAT.md 10.7); nothing else
 * in them is touched. KVF_UNSUPPORTED: bytes that no version up to this one writes.
 */
void kvf_conversation_store(const kvf_conversation_settings *settings,
                            uint8_t state[KVF_CALLER_STATE_BYTES]);
kvf_status kvf_conversation_restore(const uint8_t state[KVF_CALLER_STATE_BYTES],
                                    kvf_conversation_settings *settings, kvf_error *error);

/* ---- Where a conversation stands -------------------------------------------------------- */

typedef enum kvf_standing_kind {
    KVF_STANDS_AT_START,    /* nothing is held */
    KVF_STANDS_BETWEEN,     /* a system's text, or the end of an answer: a turn can begin */
    KVF_STANDS_IN_QUESTION, /* in a user's turn, behind which nothing asks for an answer yet */
    KVF_STANDS_IN_ANSWER    /* in an answer, or right before it */
} kvf_standing_kind;

typedef struct kvf_standing {
    kvf_standing_kind kind;
    /* Of an answer: */
    size_t answer_at;  /* where it begins in the ids */
    bool has_thought;  /* it began with reasoning */
    bool is_reasoning; /* which has not ended */
    bool lacks_mode;   /* the marker that says whether it reasons is not there yet */
} kvf_standing;

kvf_standing kvf_conversation_place(const kvf_conversation *conversation, const int32_t *ids,
                                    size_t n);
/*
 * The ids before the last turn: a user's text, what stands before it and belongs to it (the end
 * of the answer before, a system's text), and its answer. n where there is no turn.
 */
size_t kvf_conversation_before_turn(const kvf_conversation *conversation, const int32_t *ids,
                                    size_t n);
/* Whether an answer ends before this id: an end of sentence, or what begins something else. */
bool kvf_conversation_ends(const kvf_conversation *conversation, int32_t id);

/* ---- Ids -------------------------------------------------------------------------------- */

/*
 * All below append to `ids` what comes behind held[n_held]; after a failure `ids` has what it had.
 * KVF_OUT_OF_MEMORY, and the errors of kvf_chat_render and kvf_encode_prompt.
 */

/*
 * A user's turn, up to where the model answers in the mode of the settings: with BOS and effort
 * where nothing is held, with an end of sentence behind an answer. Behind a turn that was
 * interrupted it is more of that turn, as the format joins two of a user. system: text of the
 * system before it; data NULL is none.
 */
kvf_status kvf_conversation_turn(const kvf_conversation *conversation,
                                 const kvf_conversation_settings *settings, const int32_t *held,
                                 size_t n_held, kvf_span system, kvf_span user, kvf_ids *ids,
                                 kvf_error *error);
/* What is missing until the model goes on: nothing inside an answer. Something is held. */
kvf_status kvf_conversation_go_on(const kvf_conversation *conversation,
                                  const kvf_conversation_settings *settings, const int32_t *held,
                                  size_t n_held, kvf_ids *ids, kvf_error *error);
/* A whole conversation; what a session holds of it is the caller's to compare. */
kvf_status kvf_conversation_messages(const kvf_conversation *conversation,
                                     const kvf_conversation_settings *settings,
                                     const kvf_message *messages, size_t n, kvf_ids *ids,
                                     kvf_chat_report *report, kvf_error *error);
/* Whether what is held begins with just this text of the system, and a user's turn behind it. */
kvf_status kvf_conversation_has_system(const kvf_conversation *conversation,
                                       const kvf_conversation_settings *settings,
                                       const int32_t *held, size_t n_held, kvf_span system,
                                       bool *has_it, kvf_error *error);

/* ---- Answers ---------------------------------------------------------------------------- */

/*
 * Ids of an answer become events (text/answer.h), whose texts are whole characters. Of an answer
 * that goes on, what is held of it was shown already: only a call that ends now is given whole.
 */
typedef struct kvf_answer_stream kvf_answer_stream;

/* held[n_held] is what comes before. Plain text (settings->is_chat false) is all content. */
kvf_status kvf_answer_stream_open(const kvf_conversation *conversation,
                                  const kvf_conversation_settings *settings, const int32_t *held,
                                  size_t n_held, kvf_answer_sink sink, void *user,
                                  kvf_answer_stream **stream, kvf_error *error);
/*
 * Texts, none of them empty, before the first of which the answer ends. They are looked for in
 * its content, not in reasoning and calls. What may be the beginning of one is held back.
 * stops[n_stops] stays the caller's and outlives the stream.
 */
void kvf_answer_stream_stop_at(kvf_answer_stream *stream, const char *const *stops, size_t n_stops);
/* Whether one of these texts has come: nothing is given any more. */
bool kvf_answer_stream_is_stopped(const kvf_answer_stream *stream);
/* Which, as stop_at was given it; NULL: none has. */
const char *kvf_answer_stream_stopped_by(const kvf_answer_stream *stream);
void kvf_answer_stream_add(kvf_answer_stream *stream, int32_t id);
/*
 * Bytes of the answer's ids, all parts of it, markers too; and as many of them as were given. Both
 * are equal where nothing is held back.
 */
size_t kvf_answer_stream_fed_bytes(const kvf_answer_stream *stream);
size_t kvf_answer_stream_given_bytes(const kvf_answer_stream *stream);
/* The answer ends; what was held back is given. KVF_OUT_OF_MEMORY: events are missing. */
kvf_status kvf_answer_stream_finish(kvf_answer_stream *stream, kvf_error *error);
/* NULL is fine. Without kvf_answer_stream_finish what is held back is given to nobody. */
void kvf_answer_stream_close(kvf_answer_stream *stream);

#endif
