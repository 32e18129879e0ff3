/* The daemon: what it is asked to do, and its requests as exchanges. */
#include "server/http_internal.h"

#include "clock.h"
#include "error.h"

#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

/*
 * libmicrohttpd answers a head that does not fit its memory in a form of its own, so there is more
 * of it than a head may have. It is also the buffer that bodies come through.
 */
enum { CONNECTION_BYTES = 131072, BACKLOG = 128 };
/* A body of a refused request is read up to here, so that its connection can be used again. */
enum { SMALL_BODY_BYTES = 65536 };

/* ---- Connections -------------------------------------------------------------------------- */

static void set_option(int file, int level, int name, int value)
{
    /* Each is a help; none is there on every kind of socket. */
    (void)setsockopt(file, level, name, &value, sizeof value);
}

/*
 * A peer that is not there any more, and whose system does not say so, is given up in idle_seconds.
 * Where nothing is sent the system asks it; what is sent, a sign of life after stir_seconds at the
 * latest, has to be acknowledged in what is left of the time.
 */
static void set_patience(int file, const kvf_http_options *options)
{
    const int seconds = options->idle_seconds < 2 ? 2 : (int)options->idle_seconds;
    const int before = seconds < 65536 ? seconds / 2 : 32767; /* Linux takes no more */
    const int between = seconds < 8 ? 1 : seconds / 8;
    const int stir = options->stir_seconds < seconds / 2 ? (int)options->stir_seconds : seconds / 2;
    set_option(file, IPPROTO_TCP, TCP_NODELAY, 1);
    set_option(file, SOL_SOCKET, SO_KEEPALIVE, 1);
#ifdef TCP_KEEPIDLE
    set_option(file, IPPROTO_TCP, TCP_KEEPIDLE, before);
#endif
#ifdef TCP_KEEPINTVL
    set_option(file, IPPROTO_TCP, TCP_KEEPINTVL, between);
#endif
#ifdef TCP_KEEPCNT
    set_option(file, IPPROTO_TCP, TCP_KEEPCNT, (seconds - before) / between);
#endif
#ifdef TCP_USER_TIMEOUT
    set_option(file, IPPROTO_TCP, TCP_USER_TIMEOUT, (seconds - stir) * 1000);
#endif
}

static void open_connection(kvf_http *http, struct MHD_Connection *connection, void **record)
{
    const union MHD_ConnectionInfo *file =
        MHD_get_connection_info(connection, MHD_CONNECTION_INFO_CONNECTION_FD);
    kvf_connection *c = file ? calloc(1, sizeof *c) : NULL;
    *record = c; /* NULL: its requests find no memory either */
    if (!c)
        return;
    c->file = file->connect_fd;
    c->since = kvf_seconds();
    set_patience(c->file, &http->options);
    pthread_mutex_lock(&http->lock);
    c->next = http->connections;
    if (c->next)
        c->next->previous = c;
    http->connections = c;
    http->n_connections++;
    pthread_mutex_unlock(&http->lock);
}

static void close_connection(kvf_http *http, kvf_connection *c)
{
    if (!c)
        return;
    pthread_mutex_lock(&http->lock);
    if (c->previous)
        c->previous->next = c->next;
    else
        http->connections = c->next;
    if (c->next)
        c->next->previous = c->previous;
    http->n_connections--;
    pthread_mutex_unlock(&http->lock);
    free(c);
}

static void on_connection(void *user, struct MHD_Connection *connection, void **record,
                          enum MHD_ConnectionNotificationCode code)
{
    if (code == MHD_CONNECTION_NOTIFY_STARTED)
        open_connection(user, connection, record);
    else
        close_connection(user, *record);
}

/* ---- Requests ----------------------------------------------------------------------------- */

static void begin_request(kvf_http *http, kvf_exchange *exchange)
{
    pthread_mutex_lock(&http->lock);
    exchange->connection_record->is_busy = true;
    kvf_exchange_keep(exchange);
    exchange->next = http->exchanges;
    if (exchange->next)
        exchange->next->previous = exchange;
    http->exchanges = exchange;
    http->n_requests++;
    pthread_mutex_unlock(&http->lock);
}

/* Whether there is more of a body than is read of a request that is refused. */
static bool has_large_body(const kvf_exchange *exchange)
{
    const char *length = exchange->headers[KVF_HEADER_CONTENT_LENGTH];
    return exchange->headers[KVF_HEADER_TRANSFER_ENCODING] ||
           (length && strtoull(length, NULL, 10) > SMALL_BODY_BYTES);
}

static bool is_answered(kvf_exchange *exchange)
{
    pthread_mutex_lock(&exchange->lock);
    const bool answered = exchange->is_whole || exchange->is_begun;
    pthread_mutex_unlock(&exchange->lock);
    return answered;
}

static void refuse(kvf_exchange *exchange, unsigned status, const char *message)
{
    const kvf_http_handler *handler = &exchange->http->handler;
    handler->refuse(handler->user, exchange, status, message);
}

/*
 * Whether its headers say one thing alone: a proxy in front of this server might have gone by
 * another of two hosts, or seen another end of the body.
 */
static bool check_framing(kvf_exchange *exchange)
{
    const char *transfer = exchange->headers[KVF_HEADER_TRANSFER_ENCODING];
    char message[128];
    if (exchange->doubled) {
        snprintf(message, sizeof message, "the request has the header %s twice", exchange->doubled);
        refuse(exchange, 400, message);
    } else if (transfer && strcasecmp(transfer, "chunked") != 0) {
        refuse(exchange, 501, "the only Transfer-Encoding that this server knows is chunked");
    } else if (transfer && exchange->headers[KVF_HEADER_CONTENT_LENGTH]) {
        refuse(exchange, 400, "the request has both Content-Length and Transfer-Encoding");
    } else {
        return true;
    }
    return false;
}

static void check_head(kvf_exchange *exchange)
{
    kvf_http *http = exchange->http;
    const union MHD_ConnectionInfo *head =
        MHD_get_connection_info(exchange->connection, MHD_CONNECTION_INFO_REQUEST_HEADER_SIZE);
    const char *length = exchange->headers[KVF_HEADER_CONTENT_LENGTH];
    const uint64_t most = atomic_load(&http->body_bytes);
    char message[128];
    if (head && head->header_size > http->options.head_bytes) {
        snprintf(message, sizeof message, "the request's head has %zu bytes; %zu are the most",
                 head->header_size, http->options.head_bytes);
        refuse(exchange, 431, message);
        return;
    }
    if (!check_framing(exchange))
        return;
    http->handler.head(http->handler.user, exchange);
    if (!is_answered(exchange) && length && strtoull(length, NULL, 10) > most) {
        snprintf(message, sizeof message, "the request's body has %.20s bytes; %llu are the most",
                 length, (unsigned long long)most);
        refuse(exchange, 413, message);
    }
}

/* The head of a request is there. */
static enum MHD_Result take_head(kvf_http *http, struct MHD_Connection *connection,
                                 const char *path, const char *method, void **user)
{
    kvf_exchange *exchange = kvf_exchange_make(http, connection, method, path);
    if (!exchange)
        return MHD_NO;
    if (!exchange->connection_record) {
        kvf_exchange_release(exchange);
        return MHD_NO;
    }
    *user = exchange;
    begin_request(http, exchange);
    check_head(exchange);
    if (!is_answered(exchange))
        return MHD_YES;
    pthread_mutex_lock(&exchange->lock);
    exchange->phase = KVF_PHASE_DISCARDED;
    if (has_large_body(exchange))
        kvf_exchange_cut_locked(exchange);
    pthread_mutex_unlock(&exchange->lock);
    return MHD_YES;
}

/* Refuses a request in the middle of its body. */
static void cut(kvf_exchange *exchange, unsigned status, const char *message)
{
    refuse(exchange, status, message);
    pthread_mutex_lock(&exchange->lock);
    kvf_exchange_cut_locked(exchange);
    kvf_exchange_drop_body(exchange); /* the watcher looks at it no more */
    pthread_mutex_unlock(&exchange->lock);
}

/* Some of its body. */
static void take_body(kvf_exchange *exchange, const char *data, size_t bytes)
{
    kvf_http *http = exchange->http;
    const uint64_t most = atomic_load(&http->body_bytes);
    char message[96];
    pthread_mutex_lock(&exchange->lock); /* the watcher reads how many there are */
    const bool taken = exchange->phase == KVF_PHASE_BODY;
    const bool fits = exchange->body.bytes + bytes <= most;
    if (taken && fits)
        kvf_buffer_add(&exchange->body, data, bytes);
    pthread_mutex_unlock(&exchange->lock);
    if (!taken)
        return;
    exchange->counted_bytes += bytes;
    const uint64_t all = atomic_fetch_add(&http->bodies_bytes, bytes) + bytes;
    if (!fits) {
        snprintf(message, sizeof message, "the request's body has more than %llu bytes",
                 (unsigned long long)most);
        cut(exchange, 413, message);
    } else if (exchange->body.failed || all > http->options.all_bodies_bytes) {
        cut(exchange, 503, "too many large requests come in at once; try again in a moment");
    }
}

/* What to do with a connection whose request is there. */
typedef enum next_thing { NEXT_CUT, NEXT_SEND, NEXT_ASK_AGAIN, NEXT_WAIT } next_thing;

static next_thing find_next_locked(kvf_exchange *exchange, bool is_first)
{
    const bool is_closing = atomic_load(&exchange->http->is_closing);
    if (exchange->is_gone || (is_closing && !exchange->is_whole))
        return NEXT_CUT;
    if (exchange->is_whole || exchange->is_begun)
        return NEXT_SEND;
    /*
     * Suspended at once, it would be read from when it is resumed, and closed where the other side
     * has ended what it sends.
     */
    return is_first ? NEXT_ASK_AGAIN : NEXT_WAIT;
}

/* All of it is there: an answer, or the wait for one. */
static enum MHD_Result take_end(kvf_exchange *exchange)
{
    kvf_http *http = exchange->http;
    pthread_mutex_lock(&exchange->lock);
    const kvf_phase phase = exchange->phase;
    if (phase == KVF_PHASE_BODY || phase == KVF_PHASE_DISCARDED) {
        exchange->phase = KVF_PHASE_ANSWERING;
        exchange->saw_end = false; /* that of its body; the peer may wait for the answer */
        exchange->phase_began = exchange->said = kvf_seconds();
    }
    pthread_mutex_unlock(&exchange->lock);
    if (phase == KVF_PHASE_CUT)
        return MHD_NO;
    if (phase == KVF_PHASE_BODY)
        http->handler.request(http->handler.user, exchange);
    pthread_mutex_lock(&exchange->lock);
    const next_thing next = find_next_locked(exchange, phase != KVF_PHASE_ANSWERING);
    if (next == NEXT_WAIT) {
        exchange->is_suspended = true;
        MHD_suspend_connection(exchange->connection);
    }
    pthread_mutex_unlock(&exchange->lock);
    if (next == NEXT_SEND)
        return kvf_exchange_send(exchange);
    return next == NEXT_CUT ? MHD_NO : MHD_YES;
}

static enum MHD_Result on_request(void *http, struct MHD_Connection *connection, const char *path,
                                  const char *method, const char *version, const char *data,
                                  size_t *bytes, void **user)
{
    (void)version;
    if (!*user)
        return take_head(http, connection, path, method, user);
    kvf_exchange *exchange = *user;
    if (*bytes == 0)
        return take_end(exchange);
    take_body(exchange, data, *bytes);
    *bytes = 0;
    return MHD_YES;
}

static void on_completed(void *user, struct MHD_Connection *connection, void **request,
                         enum MHD_RequestTerminationCode code)
{
    kvf_http *http = user;
    kvf_exchange *exchange = *request;
    (void)connection;
    if (!exchange)
        return;
    *request = NULL;
    pthread_mutex_lock(&exchange->lock);
    const bool was_cut = exchange->phase == KVF_PHASE_CUT;
    exchange->phase = KVF_PHASE_OVER;
    exchange->connection = NULL;
    exchange->is_suspended = false;
    const bool lost =
        !was_cut && (code != MHD_REQUEST_TERMINATED_COMPLETED_OK || !exchange->is_ended);
    exchange->is_gone = exchange->is_gone || lost;
    const unsigned status = exchange->is_sent || was_cut ? exchange->status : 0;
    pthread_mutex_unlock(&exchange->lock);
    http->handler.over(http->handler.user, exchange, status);
    pthread_mutex_lock(&http->lock);
    exchange->connection_record->is_busy = false;
    exchange->connection_record->since = kvf_seconds();
    http->n_requests--;
    http->has_lost = true;
    pthread_cond_broadcast(&http->changed);
    pthread_mutex_unlock(&http->lock);
    kvf_exchange_release(exchange);
}

/* ---- Listening ---------------------------------------------------------------------------- */

static kvf_status fail_to_listen(const char *where, const char *why, kvf_error *error)
{
    return kvf_fail(error, KVF_FILE_IO, "cannot listen on %s: %s", kvf_printable(where).text, why);
}

static bool set_flags(int file)
{
    return fcntl(file, F_SETFL, O_NONBLOCK) == 0 && fcntl(file, F_SETFD, FD_CLOEXEC) == 0;
}

/* Whether a socket's file is left of somebody who is not there any more. */
static bool is_abandoned(const struct sockaddr_un *address)
{
    struct stat info;
    if (lstat(address->sun_path, &info) != 0 || !S_ISSOCK(info.st_mode))
        return false;
    const int file = socket(AF_UNIX, SOCK_STREAM, 0);
    const bool refused = file >= 0 &&
                         connect(file, (const struct sockaddr *)address, sizeof *address) != 0 &&
                         errno == ECONNREFUSED;
    if (file >= 0)
        close(file);
    return refused;
}

static kvf_status listen_unix(kvf_http *http, kvf_error *error)
{
    const char *path = http->options.unix_socket;
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    if (strlen(path) >= sizeof address.sun_path)
        return kvf_fail(error, KVF_INVALID_ARGUMENT,
                        "the path of a Unix socket has at most %zu bytes, %s has %zu",
                        sizeof address.sun_path - 1, kvf_printable(path).text, strlen(path));
    strcpy(address.sun_path, path);
    if (is_abandoned(&address))
        unlink(path);
    http->listening = socket(AF_UNIX, SOCK_STREAM, 0);
    /* Nobody can connect before its mode is set: it does not listen yet. */
    if (http->listening < 0 || !set_flags(http->listening) ||
        bind(http->listening, (const struct sockaddr *)&address, sizeof address) != 0)
        return fail_to_listen(path, strerror(errno), error);
    http->address = strdup(path);
    if (!http->address || chmod(path, S_IRUSR | S_IWUSR) != 0 ||
        listen(http->listening, BACKLOG) != 0) {
        const int why = errno;
        unlink(path);
        return fail_to_listen(path, strerror(why), error);
    }
    return kvf_ok(error);
}

static bool listen_at(kvf_http *http, const struct addrinfo *found)
{
    http->listening = socket(found->ai_family, found->ai_socktype, found->ai_protocol);
    if (http->listening < 0)
        return false;
    set_option(http->listening, SOL_SOCKET, SO_REUSEADDR, 1);
    if (found->ai_family == AF_INET6)
        set_option(http->listening, IPPROTO_IPV6, IPV6_V6ONLY, 0);
    if (set_flags(http->listening) &&
        bind(http->listening, found->ai_addr, found->ai_addrlen) == 0 &&
        listen(http->listening, BACKLOG) == 0)
        return true;
    const int why = errno;
    close(http->listening);
    http->listening = -1;
    errno = why;
    return false;
}

static void name_address(kvf_http *http)
{
    struct sockaddr_storage address;
    socklen_t bytes = sizeof address;
    char host[NI_MAXHOST] = "?";
    char port[NI_MAXSERV] = "?";
    char all[NI_MAXHOST + NI_MAXSERV + 4];
    if (getsockname(http->listening, (struct sockaddr *)&address, &bytes) == 0)
        getnameinfo((struct sockaddr *)&address, bytes, host, sizeof host, port, sizeof port,
                    NI_NUMERICHOST | NI_NUMERICSERV);
    snprintf(all, sizeof all, strchr(host, ':') ? "[%s]:%s" : "%s:%s", host, port);
    http->address = strdup(all);
}

static kvf_status listen_tcp(kvf_http *http, kvf_error *error)
{
    const struct addrinfo hints = {.ai_socktype = SOCK_STREAM,
                                   .ai_flags = AI_PASSIVE | AI_NUMERICSERV};
    struct addrinfo *found = NULL;
    char port[8];
    char where[176];
    snprintf(port, sizeof port, "%u", http->options.port);
    snprintf(where, sizeof where, "%s port %s", kvf_printable(http->options.host).text, port);
    const int failed = getaddrinfo(http->options.host, port, &hints, &found);
    if (failed)
        return kvf_fail(error, KVF_INVALID_ARGUMENT, "there is no host %s: %s",
                        kvf_printable(http->options.host).text, gai_strerror(failed));
    bool listens = false;
    for (const struct addrinfo *one = found; one && !listens; one = one->ai_next)
        listens = listen_at(http, one);
    const int why = errno;
    freeaddrinfo(found);
    if (!listens)
        return fail_to_listen(where, strerror(why), error);
    name_address(http);
    return http->address ? kvf_ok(error)
                         : kvf_fail(error, KVF_OUT_OF_MEMORY, "no memory for an address");
}

/* ---- The daemon --------------------------------------------------------------------------- */

static kvf_status start(kvf_http *http, kvf_error *error)
{
    /* A socket of a listener that is shut down is polled by all, whatever they can. */
#ifdef __linux__
    const unsigned poll = MHD_USE_EPOLL_INTERNAL_THREAD;
#else
    const unsigned poll = MHD_USE_AUTO_INTERNAL_THREAD;
#endif
    http->daemon = MHD_start_daemon(
        poll | MHD_ALLOW_SUSPEND_RESUME | MHD_USE_ITC, 0, NULL, NULL, on_request, http,
        MHD_OPTION_LISTEN_SOCKET, http->listening, MHD_OPTION_CONNECTION_LIMIT,
        (unsigned)http->options.connections, MHD_OPTION_CONNECTION_TIMEOUT,
        (unsigned)(http->options.idle_seconds < 1 ? 1 : http->options.idle_seconds),
        MHD_OPTION_CONNECTION_MEMORY_LIMIT, (size_t)CONNECTION_BYTES, MHD_OPTION_NOTIFY_COMPLETED,
        on_completed, http, MHD_OPTION_NOTIFY_CONNECTION, on_connection, http, MHD_OPTION_END);
    if (!http->daemon)
        return fail_to_listen(http->address, "the HTTP server did not start", error);
    http->listening = -1;
    return kvf_ok(error);
}

kvf_status kvf_http_open(const kvf_http_options *options, const kvf_http_handler *handler,
                         kvf_http **opened, kvf_error *error)
{
    kvf_http *http = calloc(1, sizeof *http);
    *opened = NULL;
    if (!http)
        return kvf_fail(error, KVF_OUT_OF_MEMORY, "no memory for an HTTP server");
    http->options = *options;
    http->handler = *handler;
    http->listening = -1;
    pthread_mutex_init(&http->lock, NULL);
    pthread_cond_init(&http->changed, NULL);
    kvf_status status = options->unix_socket ? listen_unix(http, error) : listen_tcp(http, error);
    if (status == KVF_OK)
        status = kvf_http_watch(http, error);
    if (status == KVF_OK)
        status = start(http, error);
    if (status != KVF_OK) {
        kvf_http_close(http);
        return status;
    }
    *opened = http;
    return KVF_OK;
}

const char *kvf_http_address(const kvf_http *http)
{
    return http->address;
}

void kvf_http_set_body_bytes(kvf_http *http, uint64_t bytes)
{
    atomic_store(&http->body_bytes, bytes);
}

void kvf_http_count(kvf_http *http, uint32_t *connections, uint32_t *requests)
{
    pthread_mutex_lock(&http->lock);
    *connections = http->n_connections;
    *requests = http->n_requests;
    pthread_mutex_unlock(&http->lock);
}

void kvf_http_drain(kvf_http *http, double seconds)
{
    const double until = kvf_seconds() + seconds;
    const struct timespec moment = {.tv_nsec = 10000000};
    uint32_t connections;
    uint32_t requests;
    if (!atomic_exchange(&http->is_quiet, true))
        http->listening = MHD_quiesce_daemon(http->daemon); /* ours again, to be closed */
    for (kvf_http_count(http, &connections, &requests); requests > 0 && kvf_seconds() < until;
         kvf_http_count(http, &connections, &requests))
        nanosleep(&moment, NULL);
}

/* What is suspended goes on, to be told that nothing comes: libmicrohttpd insists. */
static void end_all(kvf_http *http)
{
    atomic_store(&http->is_closing, true);
    pthread_mutex_lock(&http->lock);
    for (kvf_exchange *exchange = http->exchanges; exchange; exchange = exchange->next) {
        pthread_mutex_lock(&exchange->lock);
        kvf_exchange_resume_locked(exchange);
        pthread_mutex_unlock(&exchange->lock);
    }
    pthread_mutex_unlock(&http->lock);
}

void kvf_http_close(kvf_http *http)
{
    if (!http)
        return;
    if (http->daemon) {
        kvf_http_drain(http, 0);
        end_all(http);
        MHD_stop_daemon(http->daemon);
    }
    kvf_http_unwatch(http);
    if (http->listening >= 0)
        close(http->listening);
    if (http->options.unix_socket && http->address)
        unlink(http->address);
    free(http->address);
    pthread_mutex_destroy(&http->lock);
    pthread_cond_destroy(&http->changed);
    free(http);
}
