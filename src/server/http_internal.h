/* What http.c, http_exchange.c and http_watch.c share. Included by these alone. */
#ifndef KVF_SERVER_HTTP_INTERNAL_H
#define KVF_SERVER_HTTP_INTERNAL_H

#include "server/http.h"

#include <microhttpd.h>
#include <netinet/in.h>
#include <pthread.h>
#include <stdatomic.h>

/* A connection, with or without a request. */
typedef struct kvf_connection {
    int file;
    double since; /* opened, or its last request was over */
    bool is_busy; /* with a request whose head is there */
    bool saw_end; /* of what the other side sends, where no request is */
    struct kvf_connection *previous, *next;
} kvf_connection;

typedef enum kvf_phase {
    KVF_PHASE_BODY,      /* its body comes in */
    KVF_PHASE_DISCARDED, /* refused: what comes of its body is dropped; .. */
    KVF_PHASE_CUT,       /* .. and so that the connection ends then: the answer is out */
    KVF_PHASE_ANSWERING,
    KVF_PHASE_OVER /* its connection is not its any more */
} kvf_phase;

enum { KVF_EXTRA_HEADERS = 8 };

struct kvf_exchange {
    kvf_http *http;
    kvf_connection *connection_record;
    uint64_t number;
    atomic_int references;
    char *method;
    char *path;
    char *headers[KVF_HEADERS];
    const char *doubled; /* one of these that is there twice; NULL: none is */
    char local_address[INET6_ADDRSTRLEN];
    bool is_local;
    double started;
    kvf_buffer body;
    uint64_t counted_bytes; /* of the body, in http->bodies_bytes */
    void *data;
    void (*free_data)(void *data);
    struct {
        char *name;
        char *value;
    } extra[KVF_EXTRA_HEADERS];
    size_t n_extra;

    pthread_mutex_t lock; /* of all below */
    struct MHD_Connection *connection;
    int file;
    kvf_phase phase;
    double phase_began;
    bool is_suspended;
    bool is_whole; /* answered at once: out is all of it */
    bool is_begun; /* in pieces */
    bool is_sent;  /* to libmicrohttpd, so that nothing of its head can change */
    bool is_ended; /* nothing more comes */
    bool is_gone;  /* nobody reads it */
    unsigned status;
    const char *content_type;
    kvf_buffer out;
    size_t out_at;
    double said;  /* when something was written last */
    bool saw_end; /* of what the other side sends, and asked whether it is there */

    pthread_mutex_t watch_lock; /* of these two; held while they are called */
    kvf_http_watching watching;
    bool is_watched;

    kvf_exchange *previous, *next; /* http->lock */
};

struct kvf_http {
    kvf_http_options options;
    kvf_http_handler handler;
    struct MHD_Daemon *daemon;
    char *address;
    int listening; /* the socket, while no daemon has it; -1 */
    atomic_ullong body_bytes;
    atomic_ullong bodies_bytes; /* of all */
    atomic_ullong n_exchanges;  /* ever */
    atomic_bool is_closing;
    atomic_bool is_quiet; /* accepts nobody any more */

    pthread_mutex_t lock; /* of the lists, counts and stopped */
    pthread_cond_t changed;
    kvf_connection *connections;
    uint32_t n_connections;
    kvf_exchange *exchanges; /* each is kept by being in it */
    uint32_t n_requests;     /* whose connection is theirs yet */
    bool has_lost;           /* one of them is gone, and its watcher was not told yet */
    bool stopped;
    pthread_t watcher;
    bool has_watcher;
};

/* http_exchange.c. With its lock held: */
void kvf_exchange_resume_locked(kvf_exchange *exchange);
/*
 * Puts the answer, which is whole, on the wire while libmicrohttpd reads a body (it takes no answer
 * then), and ends what we send. What still comes is read and dropped, so that it reaches its
 * reader.
 */
void kvf_exchange_cut_locked(kvf_exchange *exchange);

/* Without it: gives the answer, or its beginning, to libmicrohttpd, on its thread. */
enum MHD_Result kvf_exchange_send(kvf_exchange *exchange);

/* NULL without memory. It is kept once. */
kvf_exchange *kvf_exchange_make(kvf_http *http, struct MHD_Connection *connection,
                                const char *method, const char *path);

/* http_watch.c */
kvf_status kvf_http_watch(kvf_http *http, kvf_error *error);
void kvf_http_unwatch(kvf_http *http);

#endif
