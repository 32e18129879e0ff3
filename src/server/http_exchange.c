/* One request, and its answer. */
#include "server/http_internal.h"

#include "clock.h"
#include "error.h"

#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>

/* ---- What it is --------------------------------------------------------------------------- */

static const char *const header_names[KVF_HEADERS] = {
    "Host",         "Origin",         "Authorization",     "x-api-key",
    "Content-Type", "Content-Length", "Transfer-Encoding", "anthropic-version"};

/* Takes a header that anybody asks for. */
static enum MHD_Result take_header(void *user, enum MHD_ValueKind kind, const char *name,
                                   const char *value)
{
    kvf_exchange *exchange = user;
    (void)kind;
    for (int i = 0; i < KVF_HEADERS; i++) {
        if (strcasecmp(name, header_names[i]) != 0)
            continue;
        if (exchange->headers[i]) {
            exchange->doubled = header_names[i];
            return MHD_YES;
        }
        exchange->headers[i] = strdup(value ? value : "");
        return exchange->headers[i] ? MHD_YES : MHD_NO;
    }
    return MHD_YES;
}

/* Where the connection came to. */
static void find_address(kvf_exchange *exchange)
{
    struct sockaddr_storage address;
    socklen_t bytes = sizeof address;
    if (getsockname(exchange->file, (struct sockaddr *)&address, &bytes) != 0)
        return;
    exchange->is_local = address.ss_family == AF_UNIX;
    if (address.ss_family == AF_INET)
        inet_ntop(AF_INET, &((struct sockaddr_in *)&address)->sin_addr, exchange->local_address,
                  sizeof exchange->local_address);
    else if (address.ss_family == AF_INET6)
        inet_ntop(AF_INET6, &((struct sockaddr_in6 *)&address)->sin6_addr, exchange->local_address,
                  sizeof exchange->local_address);
}

static bool copy_texts(kvf_exchange *exchange, const char *method, const char *path)
{
    exchange->method = strdup(method);
    exchange->path = strdup(path);
    const int n = MHD_get_connection_values(exchange->connection, MHD_HEADER_KIND, NULL, NULL);
    /* It ends where there is no memory for one. */
    return exchange->method && exchange->path &&
           MHD_get_connection_values(exchange->connection, MHD_HEADER_KIND, take_header,
                                     exchange) == n;
}

kvf_exchange *kvf_exchange_make(kvf_http *http, struct MHD_Connection *connection,
                                const char *method, const char *path)
{
    const union MHD_ConnectionInfo *file =
        MHD_get_connection_info(connection, MHD_CONNECTION_INFO_CONNECTION_FD);
    const union MHD_ConnectionInfo *record =
        MHD_get_connection_info(connection, MHD_CONNECTION_INFO_SOCKET_CONTEXT);
    kvf_exchange *exchange = file && record ? calloc(1, sizeof *exchange) : NULL;
    if (!exchange)
        return NULL;
    exchange->http = http;
    exchange->connection = connection;
    exchange->connection_record = record->socket_context;
    exchange->file = file->connect_fd;
    exchange->number = atomic_fetch_add(&http->n_exchanges, 1) + 1;
    exchange->started = kvf_seconds();
    exchange->phase_began = exchange->said = exchange->started;
    atomic_init(&exchange->references, 1);
    pthread_mutex_init(&exchange->lock, NULL);
    pthread_mutex_init(&exchange->watch_lock, NULL);
    if (!copy_texts(exchange, method, path)) {
        kvf_exchange_release(exchange);
        return NULL;
    }
    find_address(exchange);
    return exchange;
}

void kvf_exchange_keep(kvf_exchange *exchange)
{
    atomic_fetch_add(&exchange->references, 1);
}

void kvf_exchange_release(kvf_exchange *exchange)
{
    if (atomic_fetch_sub(&exchange->references, 1) > 1)
        return;
    if (exchange->free_data)
        exchange->free_data(exchange->data);
    kvf_exchange_drop_body(exchange);
    kvf_buffer_free(&exchange->out);
    for (size_t i = 0; i < exchange->n_extra; i++) {
        free(exchange->extra[i].name);
        free(exchange->extra[i].value);
    }
    for (int i = 0; i < KVF_HEADERS; i++)
        free(exchange->headers[i]);
    free(exchange->method);
    free(exchange->path);
    pthread_mutex_destroy(&exchange->lock);
    pthread_mutex_destroy(&exchange->watch_lock);
    free(exchange);
}

const char *kvf_exchange_method(const kvf_exchange *exchange)
{
    return exchange->method;
}

const char *kvf_exchange_path(const kvf_exchange *exchange)
{
    return exchange->path;
}

const char *kvf_exchange_header(const kvf_exchange *exchange, kvf_header header)
{
    return exchange->headers[header];
}

uint64_t kvf_exchange_number(const kvf_exchange *exchange)
{
    return exchange->number;
}

const char *kvf_exchange_local_address(const kvf_exchange *exchange)
{
    return exchange->local_address;
}

bool kvf_exchange_is_local(const kvf_exchange *exchange)
{
    return exchange->is_local;
}

double kvf_exchange_started(const kvf_exchange *exchange)
{
    return exchange->started;
}

kvf_span kvf_exchange_body(const kvf_exchange *exchange)
{
    return (kvf_span){exchange->body.data, exchange->body.bytes};
}

void kvf_exchange_drop_body(kvf_exchange *exchange)
{
    atomic_fetch_sub(&exchange->http->bodies_bytes, exchange->counted_bytes);
    exchange->counted_bytes = 0;
    kvf_buffer_free(&exchange->body);
}

void kvf_exchange_set_data(kvf_exchange *exchange, void *data, void (*free_data)(void *data))
{
    exchange->data = data;
    exchange->free_data = free_data;
}

void *kvf_exchange_data(const kvf_exchange *exchange)
{
    return exchange->data;
}

void kvf_exchange_add_header(kvf_exchange *exchange, const char *name, const char *value)
{
    char *name_copy = strdup(name);
    char *value_copy = strdup(value);
    pthread_mutex_lock(&exchange->lock);
    const bool has_room = exchange->n_extra < KVF_EXTRA_HEADERS && name_copy && value_copy;
    if (has_room) {
        exchange->extra[exchange->n_extra].name = name_copy;
        exchange->extra[exchange->n_extra++].value = value_copy;
    }
    pthread_mutex_unlock(&exchange->lock);
    if (!has_room) { /* the answer says enough without */
        free(name_copy);
        free(value_copy);
    }
}

/* ---- Its answer --------------------------------------------------------------------------- */

void kvf_exchange_resume_locked(kvf_exchange *exchange)
{
    if (exchange->is_suspended && exchange->connection)
        MHD_resume_connection(exchange->connection);
    exchange->is_suspended = false;
}

/* Whether something may still be written. */
static bool is_open_locked(const kvf_exchange *exchange)
{
    return !exchange->is_gone && !exchange->is_ended && exchange->phase != KVF_PHASE_OVER;
}

static void begin_locked(kvf_exchange *exchange, unsigned status, const char *content_type)
{
    if (!is_open_locked(exchange) || exchange->is_begun || exchange->is_whole)
        return;
    exchange->is_begun = true;
    exchange->status = status;
    exchange->content_type = content_type;
    kvf_exchange_resume_locked(exchange);
}

static bool write_locked(kvf_exchange *exchange, const void *data, size_t bytes)
{
    if (!is_open_locked(exchange))
        return false;
    kvf_buffer_add(&exchange->out, data, bytes);
    exchange->said = kvf_seconds();
    /* Half an answer is none: its reader sees that the connection breaks. */
    exchange->is_gone = exchange->out.failed || exchange->out.bytes - exchange->out_at >
                                                    exchange->http->options.waiting_bytes;
    kvf_exchange_resume_locked(exchange);
    return !exchange->is_gone;
}

void kvf_exchange_conclude(kvf_exchange *exchange, unsigned status, const char *content_type,
                           kvf_buffer *whole, kvf_buffer *piece)
{
    pthread_mutex_lock(&exchange->lock);
    if (exchange->is_begun) {
        const kvf_buffer *rest = piece ? piece : whole;
        write_locked(exchange, rest->data, rest->bytes);
        exchange->is_ended = true;
    } else if (is_open_locked(exchange)) {
        exchange->is_whole = exchange->is_ended = true;
        exchange->is_gone = whole->failed;
        exchange->status = status;
        exchange->content_type = content_type;
        exchange->out = *whole;
        *whole = (kvf_buffer){.data = NULL};
    }
    kvf_exchange_resume_locked(exchange);
    pthread_mutex_unlock(&exchange->lock);
    kvf_buffer_free(whole);
    if (piece)
        kvf_buffer_free(piece);
}

void kvf_exchange_begin(kvf_exchange *exchange, unsigned status, const char *content_type)
{
    pthread_mutex_lock(&exchange->lock);
    begin_locked(exchange, status, content_type);
    pthread_mutex_unlock(&exchange->lock);
}

bool kvf_exchange_write(kvf_exchange *exchange, const void *data, size_t bytes)
{
    pthread_mutex_lock(&exchange->lock);
    const bool written = write_locked(exchange, data, bytes);
    pthread_mutex_unlock(&exchange->lock);
    return written;
}

void kvf_exchange_end(kvf_exchange *exchange)
{
    pthread_mutex_lock(&exchange->lock);
    exchange->is_ended = true;
    kvf_exchange_resume_locked(exchange);
    pthread_mutex_unlock(&exchange->lock);
}

bool kvf_exchange_has_begun(kvf_exchange *exchange)
{
    pthread_mutex_lock(&exchange->lock);
    const bool begun = exchange->is_begun;
    pthread_mutex_unlock(&exchange->lock);
    return begun;
}

void kvf_exchange_watch(kvf_exchange *exchange, const kvf_http_watching *watching)
{
    pthread_mutex_lock(&exchange->watch_lock);
    exchange->watching = *watching;
    exchange->is_watched = true;
    /* It may have left while nobody watched, which the watching thread tells once. */
    pthread_mutex_lock(&exchange->lock);
    const bool is_gone = exchange->is_gone;
    pthread_mutex_unlock(&exchange->lock);
    if (is_gone) {
        exchange->is_watched = false;
        if (watching->gone)
            watching->gone(watching->user);
    }
    pthread_mutex_unlock(&exchange->watch_lock);
}

void kvf_exchange_unwatch(kvf_exchange *exchange)
{
    pthread_mutex_lock(&exchange->watch_lock);
    exchange->is_watched = false;
    pthread_mutex_unlock(&exchange->watch_lock);
}

/* ---- To libmicrohttpd --------------------------------------------------------------------- */

/* Takes what was written out of the buffer. On libmicrohttpd's thread. */
static ssize_t read_piece(void *user, uint64_t at, char *piece, size_t most)
{
    kvf_exchange *exchange = user;
    kvf_buffer *out = &exchange->out;
    ssize_t result = 0;
    (void)at;
    pthread_mutex_lock(&exchange->lock);
    const size_t left = out->bytes - exchange->out_at;
    if (exchange->is_gone || (atomic_load(&exchange->http->is_closing) && !exchange->is_ended)) {
        result = MHD_CONTENT_READER_END_WITH_ERROR;
    } else if (left > 0) {
        const size_t n = left < most ? left : most;
        memcpy(piece, out->data + exchange->out_at, n);
        exchange->out_at += n;
        if (n == left)
            out->bytes = exchange->out_at = 0;
        result = (ssize_t)n;
    } else if (exchange->is_ended) {
        result = MHD_CONTENT_READER_END_OF_STREAM;
    } else {
        exchange->is_suspended = true;
        MHD_suspend_connection(exchange->connection);
    }
    pthread_mutex_unlock(&exchange->lock);
    return result;
}

static void release_read(void *user)
{
    kvf_exchange_release(user);
}

static struct MHD_Response *make_response(kvf_exchange *exchange)
{
    enum { PIECE_BYTES = 32768 };
    if (!exchange->is_whole) {
        struct MHD_Response *pieces = MHD_create_response_from_callback(
            MHD_SIZE_UNKNOWN, PIECE_BYTES, read_piece, exchange, release_read);
        if (pieces)
            kvf_exchange_keep(exchange);
        return pieces;
    }
    struct MHD_Response *whole = MHD_create_response_from_buffer(
        exchange->out.bytes, exchange->out.data,
        exchange->out.data ? MHD_RESPMEM_MUST_FREE : MHD_RESPMEM_PERSISTENT);
    if (whole)
        exchange->out = (kvf_buffer){.data = NULL};
    return whole;
}

/* NULL: nobody is there, or there is no memory. */
static struct MHD_Response *take_response_locked(kvf_exchange *exchange)
{
    struct MHD_Response *response = exchange->is_gone ? NULL : make_response(exchange);
    if (!response)
        return NULL;
    if (exchange->content_type)
        MHD_add_response_header(response, "Content-Type", exchange->content_type);
    for (size_t i = 0; i < exchange->n_extra; i++)
        MHD_add_response_header(response, exchange->extra[i].name, exchange->extra[i].value);
    if (atomic_load(&exchange->http->is_quiet))
        MHD_add_response_header(response, "Connection", "close");
    exchange->is_sent = true;
    return response;
}

enum MHD_Result kvf_exchange_send(kvf_exchange *exchange)
{
    pthread_mutex_lock(&exchange->lock);
    struct MHD_Response *response = take_response_locked(exchange);
    const unsigned status = exchange->status;
    pthread_mutex_unlock(&exchange->lock);
    if (!response)
        return MHD_NO;
    /* The library's lock of a response is held where read_piece takes the exchange's. */
    const enum MHD_Result queued = MHD_queue_response(exchange->connection, status, response);
    MHD_destroy_response(response);
    return queued;
}

void kvf_exchange_cut_locked(kvf_exchange *exchange)
{
    char head[192];
    kvf_buffer text = {.data = NULL};
    exchange->phase = KVF_PHASE_CUT;
    exchange->phase_began = kvf_seconds();
    snprintf(head, sizeof head,
             "HTTP/1.1 %u %s\r\nContent-Type: %s\r\nContent-Length: %zu\r\nConnection: close\r\n",
             exchange->status, MHD_get_reason_phrase_for(exchange->status), exchange->content_type,
             exchange->out.bytes);
    kvf_buffer_add_string(&text, head);
    for (size_t i = 0; i < exchange->n_extra; i++) {
        kvf_buffer_add_string(&text, exchange->extra[i].name);
        kvf_buffer_add_string(&text, ": ");
        kvf_buffer_add_string(&text, exchange->extra[i].value);
        kvf_buffer_add_string(&text, "\r\n");
    }
    kvf_buffer_add_string(&text, "\r\n");
    kvf_buffer_add(&text, exchange->out.data, exchange->out.bytes);
    /* Nothing was written before it: it fits the socket's buffer, or nobody is there. */
    if (!text.failed &&
        send(exchange->file, text.data, text.bytes, MSG_DONTWAIT | MSG_NOSIGNAL) < 0)
        exchange->is_gone = true;
    shutdown(exchange->file, SHUT_WR);
    kvf_buffer_free(&text);
}
