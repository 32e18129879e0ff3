/*
 * A whole conversation as programs write it: JSON in the form of OpenAI's interface, an array of
 * messages, or an object with "messages" and perhaps "tools". Internal.
 */
#ifndef KVF_ENGINE_CHAT_REQUEST_H
#define KVF_ENGINE_CHAT_REQUEST_H

#include "text/chat.h"

typedef struct kvf_chat_request {
    kvf_tree tree;
    kvf_messages messages;
    char passed_over[128]; /* other keys of the object, "a, b" as many as it can hold; or "" */
} kvf_chat_request;

/*
 * Reads one, and sees that a model can answer it. The tools of the object become those of the
 * system's message, if that is the first, or of one without text that is put before all. `where`
 * names the text in messages.
 *   KVF_FILE_FORMAT: not JSON. KVF_INVALID_ARGUMENT: what kvf_messages_read and _check refuse;
 * tools of the object and of a message; a call without its result; nothing to answer: no message,
 * or the last is an assistant's that has ended, or a system's. KVF_OUT_OF_MEMORY.
 *   *request is to be freed after KVF_OK only. `text` may go.
 */
kvf_status kvf_chat_request_read(const char *text, size_t bytes, const char *where,
                                 kvf_chat_request *request, kvf_error *error);
void kvf_chat_request_free(kvf_chat_request *request);
/* That a model can answer messages which were read otherwise: the same, but for tools. */
kvf_status kvf_chat_messages_check(const kvf_messages *messages, kvf_error *error);

#endif
