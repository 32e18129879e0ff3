/*
 * The chat format of DeepSeek V4: a conversation becomes a prompt. Internal.
 *
 * A conversation is an array of messages; kvf_messages_read takes it from JSON as OpenAI's
 * interface has it, a program may also fill it itself. kvf_chat_render writes all of it.
 * Nothing here keeps state: threads may do what they want with arguments of their own.
 *
 * A conversation that goes on, with a session that holds its earlier turns:
 *   - Append: n_context says how many messages the session holds already; only the others are
 *     written, without BOS. The session goes on with what was really said, reasoning included.
 *     What ended the answer has to be in it: an answer that the model ended has its end of
 *     sentence (KVF_CHAT_EOS) before the next turn; a sampled one that was not fed yet has to be
 *     fed first. Of an answer that was cut off the caller adds it, too, or sets without_eos.
 *   - Render anew: the whole conversation is rendered, its tokens are compared with those that the
 *     session holds, and the session is truncated to what both begin with. How much that is:
 *       chat mode, or thinking that is kept (settings, or any message with tools): all up to the
 *         answer, and the answer too if it was read back as it was written (a call's arguments
 *         may have had other spaces);
 *       thinking mode otherwise: all up to the mark that ends the last question but one. Behind
 *         it stands </think> instead of <think> now, and the reasoning is gone; a developer
 *         message before the last question is gone altogether.
 *     A user's message behind one that was not answered fuses with it into one turn: what was
 *     rendered before is a prefix then up to the end of that turn's text, without its mark.
 */
#ifndef KVF_TEXT_CHAT_H
#define KVF_TEXT_CHAT_H

#include "text/chat_texts.h"
#include "text/json.h"
#include "text/prompt.h"

/* Markers, by their exact text: U+FF5C bars, U+2581 for a space. */
#define KVF_CHAT_BAR "\xef\xbd\x9c"
#define KVF_CHAT_BOS "<" KVF_CHAT_BAR "begin\xe2\x96\x81of\xe2\x96\x81sentence" KVF_CHAT_BAR ">"
#define KVF_CHAT_EOS "<" KVF_CHAT_BAR "end\xe2\x96\x81of\xe2\x96\x81sentence" KVF_CHAT_BAR ">"
#define KVF_CHAT_THINK "<think>"
#define KVF_CHAT_END_THINK "</think>"
#define KVF_CHAT_DSML KVF_CHAT_BAR "DSML" KVF_CHAT_BAR

/* ---- Messages ------------------------------------------------------------------------ */

typedef enum kvf_role {
    KVF_ROLE_SYSTEM,
    KVF_ROLE_DEVELOPER,
    KVF_ROLE_USER,
    KVF_ROLE_ASSISTANT,
    KVF_ROLE_TOOL,
    KVF_ROLE_LATEST_REMINDER,
    KVF_ROLE_UNKNOWN /* one that the format does not have */
} kvf_role;

/* DeepSeek's own short questions, asked behind a message. */
typedef enum kvf_chat_task {
    KVF_CHAT_TASK_NONE,
    KVF_CHAT_TASK_ACTION,
    KVF_CHAT_TASK_QUERY,
    KVF_CHAT_TASK_AUTHORITY,
    KVF_CHAT_TASK_DOMAIN,
    KVF_CHAT_TASK_TITLE,
    KVF_CHAT_TASK_READ_URL
} kvf_chat_task;

typedef struct kvf_call {
    kvf_span id; /* may be empty */
    kvf_span name;
    kvf_span arguments; /* JSON text; what is none is passed on as it is */
} kvf_call;

/* One message; what a role has no use for is ignored. All texts are the caller's. */
typedef struct kvf_message {
    kvf_role role;
    kvf_span role_name; /* as it was written; only errors show it */
    kvf_span content;   /* the parts of a list joined, as the format does it */
    kvf_span reasoning; /* of an assistant */
    kvf_span call_id;   /* of a tool: the call that it answers */
    kvf_chat_task task;
    bool without_eos;      /* an assistant's answer that goes on */
    const kvf_call *calls; /* [n_calls] of an assistant */
    size_t n_calls;
    const kvf_node *tools;           /* an array, each with its object "function"; NULL: none */
    const kvf_node *response_format; /* NULL: none */
} kvf_message;

/* Messages and their memory. */
typedef struct kvf_messages {
    kvf_arena arena;
    kvf_message *list; /* [n] */
    size_t n;
} kvf_messages;

/*
 * Reads the array of messages; it refers to the tree, which has to live as long. `where` is
 * what errors call it, a short literal: "messages" gives "messages[3].role is ..". Keys that the
 * format does not know are passed over, a null is as if the key were not there, and so is what
 * Python takes for false in tools, tool_calls and response_format. KVF_INVALID_ARGUMENT: a message
 * that is no object, no role, an unknown task, content that is neither a string nor a list of
 * parts, a call without its function, .. *messages is to be freed after KVF_OK only.
 */
kvf_status kvf_messages_read(const kvf_node *node, const char *where, kvf_messages *messages,
                             kvf_error *error);
void kvf_messages_free(kvf_messages *messages);

/*
 * What the format passes over and the one who wrote the messages should hear of:
 * KVF_INVALID_ARGUMENT for an unknown role (before the last question it would vanish), a
 * developer's message without content (likewise), a tool's result whose id is none of the
 * calls of the last assistant's message with calls (it would count as the first one's); no
 * ids at all are fine.
 */
kvf_status kvf_messages_check(const kvf_message *messages, size_t n, const char *where,
                              kvf_error *error);

/* ---- A prompt ------------------------------------------------------------------------ */

typedef enum kvf_effort {
    KVF_EFFORT_NONE, /* not asked for */
    KVF_EFFORT_LOW,
    KVF_EFFORT_HIGH,
    KVF_EFFORT_MAX
} kvf_effort;

/* All zero: chat mode, a whole conversation, what the texts say. */
typedef struct kvf_chat_settings {
    bool thinking;               /* the model reasons before it answers */
    bool keep_thinking;          /* the reasoning of earlier turns stays in the prompt */
    kvf_effort effort;           /* how long it reasons; in chat mode of no effect, but checked */
    kvf_release release;         /* KVF_RELEASE_BY_TEXTS, or the caller's word */
    const kvf_chat_texts *texts; /* of the checkpoint; NULL: it has none */
    size_t n_context; /* messages at the beginning that are rendered already; no BOS then */
} kvf_chat_settings;

typedef enum kvf_decided_by {
    KVF_DECIDED_BY_DEFAULT, /* there is no text of effort: it may be wrong */
    KVF_DECIDED_BY_TEXTS,
    KVF_DECIDED_BY_CALLER
} kvf_decided_by;

/* What was decided. */
typedef struct kvf_chat_report {
    kvf_release release; /* never KVF_RELEASE_BY_TEXTS */
    kvf_decided_by release_by;
    bool thinking_kept;      /* reasoning of earlier turns is in the prompt, if there is any */
    bool tools_in_own_words; /* tools are described, and not in the checkpoint's words */
} kvf_chat_report;

/*
 * Appends the prompt of messages[n]; an empty conversation is BOS alone. `where` as in
 * kvf_messages_read; report may be NULL. KVF_INVALID_ARGUMENT: an unknown role or a
 * developer's message without content, where it does not vanish; arguments that are JSON but
 * no object; an effort that the release does not have. KVF_FILE_NOT_FOUND: an effort whose text
 * the checkpoint does not bring. After a failure the prompt may have a part of it.
 */
kvf_status kvf_chat_render(const kvf_message *messages, size_t n, const char *where,
                           const kvf_chat_settings *settings, kvf_prompt *prompt,
                           kvf_chat_report *report, kvf_error *error);

#endif
