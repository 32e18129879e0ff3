/*
 * HTTP/1.1 by libmicrohttpd: one thread for all connections, one that watches them. A request is an
 * exchange: it comes whole, and is answered at once or piece by piece, by any thread.
 * docs/SERVER.md. Internal.
 */
#ifndef KVF_SERVER_HTTP_H
#define KVF_SERVER_HTTP_H

#include "kvfold.h"
#include "text/buffer.h"
#include "text/span.h"

typedef struct kvf_http kvf_http;
typedef struct kvf_exchange kvf_exchange;

/* ---- A request, and its answer ------------------------------------------------------------ */

/* Headers that anybody here asks for. */
typedef enum kvf_header {
    KVF_HEADER_HOST,
    KVF_HEADER_ORIGIN,
    KVF_HEADER_AUTHORIZATION,
    KVF_HEADER_API_KEY,
    KVF_HEADER_CONTENT_TYPE,
    KVF_HEADER_CONTENT_LENGTH,
    KVF_HEADER_TRANSFER_ENCODING,
    KVF_HEADER_ANTHROPIC_VERSION,
    KVF_HEADERS
} kvf_header;

/* Owned by the exchange, and the same all the time. */
const char *kvf_exchange_method(const kvf_exchange *exchange);
const char *kvf_exchange_path(const kvf_exchange *exchange); /* without what is behind a '?' */
/* NULL: it is not there. */
const char *kvf_exchange_header(const kvf_exchange *exchange, kvf_header header);
uint64_t kvf_exchange_number(const kvf_exchange *exchange); /* counted from 1 */
/* An IP address of this machine that the connection came to, "127.0.0.1"; "" of a Unix socket. */
const char *kvf_exchange_local_address(const kvf_exchange *exchange);
/* Whether it came by a Unix socket. */
bool kvf_exchange_is_local(const kvf_exchange *exchange);
/* When its head came, by kvf_seconds(). */
double kvf_exchange_started(const kvf_exchange *exchange);
/* Of a request that has come whole. */
kvf_span kvf_exchange_body(const kvf_exchange *exchange);
/* Gives the body's memory back. */
void kvf_exchange_drop_body(kvf_exchange *exchange);

/* What belongs to it besides: set by those that handle it, freed by `free` with the exchange. */
void kvf_exchange_set_data(kvf_exchange *exchange, void *data, void (*free)(void *data));
void *kvf_exchange_data(const kvf_exchange *exchange);

/* Whoever keeps an exchange behind the call that it came with. Thread-safe. */
void kvf_exchange_keep(kvf_exchange *exchange);
void kvf_exchange_release(kvf_exchange *exchange);

/* A header of the answer, of use before it is begun; both are copied. Thread-safe. */
void kvf_exchange_add_header(kvf_exchange *exchange, const char *name, const char *value);

/* All below are thread-safe. */

/*
 * Ends an answer: with the whole of it where it has not begun, else with `piece`, or, where that is
 * NULL, with the whole all the same, whose status is 200 then (kvf_http_watching says why a whole
 * answer may have begun). Takes both buffers over.
 */
void kvf_exchange_conclude(kvf_exchange *exchange, unsigned status, const char *content_type,
                           kvf_buffer *whole, kvf_buffer *piece);
/* The head of an answer that comes in pieces; the content type has to be a literal. */
void kvf_exchange_begin(kvf_exchange *exchange, unsigned status, const char *content_type);
/* A piece, copied. False: nobody reads it any more, or too much is waiting for who reads. */
bool kvf_exchange_write(kvf_exchange *exchange, const void *data, size_t bytes);
void kvf_exchange_end(kvf_exchange *exchange);
/* Whether the head of the answer is out, so that its status is decided. */
bool kvf_exchange_has_begun(kvf_exchange *exchange);

/* How one that takes long is watched. Called by the watching thread; quick, never blocking. */
typedef struct kvf_http_watching {
    /* The other side is gone: once; where it has left already, from kvf_exchange_watch. */
    void (*gone)(void *user);
    /*
     * Something has to be said, because nothing was for ten seconds or to see whether the other
     * side is there: writes a comment. It begins the answer where it has not begun. NULL: an answer
     * that comes whole; a space is written, which no JSON minds.
     */
    void (*stir)(void *user);
    void *user;
} kvf_http_watching;
/* Nothing is called any more once _unwatch has returned. */
void kvf_exchange_watch(kvf_exchange *exchange, const kvf_http_watching *watching);
void kvf_exchange_unwatch(kvf_exchange *exchange);

/* ---- The server --------------------------------------------------------------------------- */

/* All of the thread for connections; quick, but for what is said. */
typedef struct kvf_http_handler {
    void *user;
    /* The head is there. Answering it here refuses the request: its body is not read. */
    void (*head)(void *user, kvf_exchange *exchange);
    /* All of it is there. It is answered then or later. */
    void (*request)(void *user, kvf_exchange *exchange);
    /* Answers one that cannot go on for a reason of this layer's: its status and a sentence. */
    void (*refuse)(void *user, kvf_exchange *exchange, unsigned status, const char *message);
    /* It is over: the status that was sent; 0 where none was. Before its data is freed. */
    void (*over)(void *user, kvf_exchange *exchange, unsigned status);
} kvf_http_handler;

typedef struct kvf_http_options {
    const char *host;        /* a name or an address */
    uint16_t port;           /* 0: one that is free */
    const char *unix_socket; /* a path instead of both; NULL: none */
    uint32_t connections;    /* at once */
    double idle_seconds;     /* a connection where nothing moves, and a peer that is silent */
    double head_seconds;     /* from a connection's or an answer's end to the next whole head */
    double body_seconds;     /* for a whole body, .. */
    double body_rate;        /* .. and the least bytes a second after body_grace_seconds */
    double body_grace_seconds;
    double stir_seconds;       /* between two signs of life */
    size_t head_bytes;         /* the most; a larger one is 431 */
    size_t waiting_bytes;      /* of an answer that nobody fetches; with more its reader is gone */
    uint64_t all_bodies_bytes; /* of all requests that come in at once; above that they are 503 */
} kvf_http_options;

/*
 * Listens. KVF_INVALID_ARGUMENT: no such host; KVF_FILE_IO: it cannot listen there, for instance
 * since somebody does already. The options' texts and the handler's user outlive it.
 */
kvf_status kvf_http_open(const kvf_http_options *options, const kvf_http_handler *handler,
                         kvf_http **http, kvf_error *error);
/* "127.0.0.1:8080", "[::1]:8080", or the path of the socket. Owned by it. */
const char *kvf_http_address(const kvf_http *http);
/* The most bytes that a body may have; at first none. Thread-safe. */
void kvf_http_set_body_bytes(kvf_http *http, uint64_t bytes);
/* Connections that are open, and requests that have come and are not over. Thread-safe. */
void kvf_http_count(kvf_http *http, uint32_t *connections, uint32_t *requests);
/* Accepts no more connections, and waits until all requests are over, or so long. */
void kvf_http_drain(kvf_http *http, double seconds);
/* Ends all of it; requests that are not over are cut off. NULL is fine. */
void kvf_http_close(kvf_http *http);

#endif
