/* The server: its endpoints, what it answers requests with, its start and end. docs/SERVER.md.
 * Internal. */
#ifndef KVF_SERVER_SERVER_H
#define KVF_SERVER_SERVER_H

#include "engine/defaults.h"
#include "server/access.h"
#include "server/scheduler.h"
#include "text/chat_texts.h"

typedef struct kvf_server kvf_server;

/* Plain data; all texts are the caller's and outlive the server. */
typedef struct kvf_server_options {
    const char *model;          /* the checkpoint's path: its last part names it .. */
    const char *const *aliases; /* .. where these, [n_aliases], do not */
    size_t n_aliases;
    kvf_access access;
    uint16_t port;
    const char *unix_socket; /* NULL: none */
    uint32_t connections;    /* 0: 512 */
    double idle_seconds;     /* 0: 120 */
    double body_seconds;     /* 0: 300 */
    /* Of http.h; 0: 30, 10, 10. */
    double head_seconds, body_grace_seconds, stir_seconds;
    bool thinking; /* where a request does not say */
    kvf_release release;
    void *user;
    /* A line for each request that is over, without anything of what it says. NULL: none. */
    void (*say)(void *user, const char *line);
    /* JSON, a line each, with all that was said. NULL: nothing of it goes anywhere. */
    void (*trace)(void *user, const char *line, size_t bytes);
} kvf_server_options;

/* Listens, and says that it loads. Errors are those of kvf_http_open. */
kvf_status kvf_server_open(const kvf_server_options *options, kvf_server **server,
                           kvf_error *error);
const char *kvf_server_address(const kvf_server *server);
/* What /health says while it loads: a stage, a literal, and how far that is, 0 to 1. Thread-safe.
 */
void kvf_server_say_loading(kvf_server *server, const char *stage, double share);
/*
 * From now on requests are answered. The engine's tokenizer is open; the scheduler runs with
 * sessions of context_tokens. Both outlive kvf_server_stop. defaults: of the draw.
 */
kvf_status kvf_server_begin(kvf_server *server, const kvf_engine *engine, kvf_scheduler *scheduler,
                            uint64_t context_tokens, const kvf_draw_defaults *defaults,
                            kvf_error *error);
/*
 * Takes no more requests. What runs is told to end, and gets a moment to say so. Afterwards the
 * scheduler may be closed, and has to be before kvf_server_close.
 */
void kvf_server_stop(kvf_server *server);
/* NULL is fine. */
void kvf_server_close(kvf_server *server);

#endif
