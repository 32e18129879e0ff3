/* What the sources of the server share. Included by server.c, routes.c, pages.c and metrics.c
 * alone. */
#ifndef KVF_SERVER_SERVER_INTERNAL_H
#define KVF_SERVER_SERVER_INTERNAL_H

#include "server/answering.h"
#include "server/server.h"

#include <stdatomic.h>

typedef enum kvf_serving { KVF_SERVING_LOADS, KVF_SERVING_RUNS, KVF_SERVING_STOPS } kvf_serving;

/* Of all requests by what they ask for and how that ended. */
enum { KVF_ROUTES = 12, KVF_STATUSES = 17 };

typedef struct kvf_route {
    const char *method;
    const char *path; /* one that ends in '/' is a prefix */
    kvf_api api;
    /* GET: on the connections' thread; POST: on the worker's. It answers, or sees to that. */
    void (*answer)(kvf_server *server, kvf_exchange *exchange);
} kvf_route;
extern const kvf_route kvf_routes[KVF_ROUTES];

/* The data of an exchange. */
typedef struct kvf_request_data {
    const kvf_route *route; /* NULL: there is none */
    kvf_api api;
    uint64_t key;
    char id[40];
    kvf_exchange *next; /* in the worker's queue */
} kvf_request_data;

struct kvf_server {
    kvf_server_options options;
    kvf_http *http;
    char *name; /* of the model */
    uint32_t salt;
    int64_t started;
    atomic_ullong counts[KVF_ROUTES + 1][KVF_STATUSES];

    pthread_mutex_t lock;
    pthread_cond_t changed;
    kvf_serving serving;
    const char *stage;
    double share;
    /* The worker: it reads requests, and closes what was answered. */
    pthread_t worker;
    bool has_worker;
    bool worker_stops;
    bool is_working;
    kvf_exchange *first, *last; /* requests, each kept */
    kvf_answering *done;
    uint32_t n_answering;

    /* Since kvf_server_begin. */
    kvf_scheduler *scheduler;
    uint64_t context_tokens;
    kvf_conversation conversation;
    kvf_encoder *encoder;
    kvf_served served;
    kvf_answering_host host;
};

/* server.c */
kvf_serving kvf_server_state(kvf_server *server);
/* Hands it to the worker; false: the server stops. */
bool kvf_server_push(kvf_server *server, kvf_exchange *exchange);
/* routes.c: the handler for HTTP. */
kvf_http_handler kvf_server_handler(kvf_server *server);
void kvf_server_answer(kvf_exchange *exchange, unsigned status, const char *content_type,
                       kvf_buffer *content);
void kvf_server_refuse(kvf_server *server, kvf_exchange *exchange, const kvf_refusal *refusal);
/* pages.c: answers that need no model. */
void kvf_page_health(kvf_server *server, kvf_exchange *exchange);
void kvf_page_models(kvf_server *server, kvf_exchange *exchange);
void kvf_page_model(kvf_server *server, kvf_exchange *exchange);
void kvf_page_slots(kvf_server *server, kvf_exchange *exchange);
/* trace.c: what was asked, and what was answered, where it is wanted. On the worker's thread. */
void kvf_server_trace_request(kvf_server *server, const kvf_exchange *exchange);
void kvf_server_trace_answer(kvf_server *server, const kvf_answering *answering);
/* metrics.c */
void kvf_page_metrics(kvf_server *server, kvf_exchange *exchange);
size_t kvf_status_index(unsigned status);

#endif
