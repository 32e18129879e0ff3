/* What the sources of the chat format share. Included by chat.c, chat_read.c and turns.c alone. */
#ifndef KVF_TEXT_TURNS_H
#define KVF_TEXT_TURNS_H

#include "text/chat.h"

/* A text of a user, or a result of a tool, in a user's turn. */
typedef struct kvf_block {
    bool is_result;
    kvf_span text;
    kvf_span call_id;
} kvf_block;

typedef struct kvf_turn {
    const kvf_message *message; /* the first of a user's turn; there only its task counts */
    size_t message_index;
    kvf_role role; /* never KVF_ROLE_TOOL */
    kvf_chat_task task;
    kvf_block *blocks; /* [n_blocks] of a user's turn */
    size_t n_blocks;
} kvf_turn;

/* Also the turns of messages that are rendered already; those are first. */
typedef struct kvf_turns {
    kvf_arena arena;
    kvf_turn *list; /* [n] */
    size_t n;
    size_t n_context;
    bool has_tools;
    ptrdiff_t last_question; /* the index of the last turn of a user or developer, -1: none */
} kvf_turns;

/* Users' and tools' messages fused, results in the order of the calls. KVF_OUT_OF_MEMORY. */
kvf_status kvf_turns_make(const kvf_message *messages, size_t n, size_t n_context, kvf_turns *turns,
                          kvf_error *error);
/* Takes developers' turns, and those of unknown roles, before the last question away. */
void kvf_turns_drop_old(kvf_turns *turns);
void kvf_turns_free(kvf_turns *turns);

/* chat_read.c: message i has an unknown role, or a developer's has no content. */
kvf_status kvf_message_fail_role(const kvf_message *message, size_t i, const char *where,
                                 kvf_error *error);
kvf_status kvf_message_fail_empty(size_t i, const char *where, kvf_error *error);

#endif
