/*
 * The thread that watches connections. libmicrohttpd does not look at one that is suspended, and
 * knows no limit for the whole of a head or a body.
 */
#if defined(__linux__) && !defined(_GNU_SOURCE)
#define _GNU_SOURCE /* POLLRDHUP */
#endif
#include "server/http_internal.h"

#include "clock.h"
#include "error.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>

#ifndef POLLRDHUP
#define POLLRDHUP 0
#endif

/* A socket that was closed is noticed within two of these: one to see its end, one to be told. */
static const double tick_seconds = 0.2;
/* What still comes after a refusal is dropped for so long. */
static const double cut_seconds = 2;

/* ---- The other side ----------------------------------------------------------------------- */

typedef enum peer { PEER_THERE, PEER_ENDED, PEER_GONE } peer;

/* Whether the other side has ended what it sends, or is not there at all. */
static peer look(int file)
{
    struct pollfd socket = {.fd = file, .events = POLLIN | POLLRDHUP};
    char byte;
    if (poll(&socket, 1, 0) <= 0)
        return PEER_THERE;
    if (socket.revents & (POLLERR | POLLHUP | POLLNVAL))
        return PEER_GONE;
    if (socket.revents & POLLRDHUP)
        return PEER_ENDED;
    return recv(file, &byte, 1, MSG_PEEK | MSG_DONTWAIT) == 0 ? PEER_ENDED : PEER_THERE;
}

/* ---- Where no request is ------------------------------------------------------------------ */

/* Whether it is over, and all that was sent before that is read. */
static bool has_left(int file)
{
    char byte;
    return recv(file, &byte, 1, MSG_PEEK | MSG_DONTWAIT) == 0;
}

/*
 * libmicrohttpd does not see the end of what is sent where it came with the last bytes. Between
 * these and their request's head there is a moment: seen twice, it is the end.
 */
static void look_at_idle_locked(kvf_http *http, double now)
{
    for (kvf_connection *c = http->connections; c; c = c->next) {
        const bool ended = !c->is_busy && has_left(c->file);
        const bool is_slow = !c->is_busy && now - c->since > http->options.head_seconds;
        if (is_slow || (ended && c->saw_end)) {
            shutdown(c->file, SHUT_RDWR); /* libmicrohttpd sees that, and closes it */
            c->since = now;
        }
        c->saw_end = ended;
    }
}

/* ---- A body ------------------------------------------------------------------------------- */

static bool is_slow(const kvf_exchange *exchange, double now)
{
    const kvf_http_options *options = &exchange->http->options;
    const double seconds = now - exchange->phase_began;
    return seconds > options->body_seconds ||
           (seconds > options->body_grace_seconds &&
            (double)exchange->body.bytes < seconds * options->body_rate);
}

static void refuse_slow(kvf_exchange *exchange)
{
    kvf_http *http = exchange->http;
    http->handler.refuse(http->handler.user, exchange, 408,
                         "the request's body came too slowly, and is not waited for any longer");
    pthread_mutex_lock(&exchange->lock);
    if (exchange->connection)
        kvf_exchange_cut_locked(exchange);
    pthread_mutex_unlock(&exchange->lock);
}

/* ---- An answer ---------------------------------------------------------------------------- */

/*
 * The end of what a peer sends may be that of a half-closed connection, whose answer it waits for,
 * or of a closed one: that shows when something is written. is_end: that is why; an answer that
 * comes whole is begun for it, and else is not.
 */
static void stir(kvf_exchange *exchange, bool is_end)
{
    pthread_mutex_lock(&exchange->watch_lock);
    const bool is_watched = exchange->is_watched;
    const bool has_own = is_watched && exchange->watching.stir;
    if (has_own)
        exchange->watching.stir(exchange->watching.user);
    pthread_mutex_unlock(&exchange->watch_lock);
    if (!is_watched || !is_end)
        return;
    pthread_mutex_lock(&exchange->lock);
    exchange->saw_end = true; /* once is enough */
    pthread_mutex_unlock(&exchange->lock);
    if (!has_own) {
        kvf_exchange_begin(exchange, 200, "application/json");
        kvf_exchange_write(exchange, " ", 1);
    }
}

static void tell_gone(kvf_exchange *exchange)
{
    pthread_mutex_lock(&exchange->lock);
    const bool tell = !exchange->is_ended;
    exchange->is_gone = true;
    exchange->is_ended = true;
    kvf_exchange_resume_locked(exchange); /* so that its connection is closed */
    pthread_mutex_unlock(&exchange->lock);
    pthread_mutex_lock(&exchange->watch_lock);
    if (tell && exchange->is_watched && exchange->watching.gone)
        exchange->watching.gone(exchange->watching.user);
    exchange->is_watched = false;
    pthread_mutex_unlock(&exchange->watch_lock);
}

typedef enum finding {
    FOUND_NOTHING,
    FOUND_SLOW,
    FOUND_SILENT,
    FOUND_ENDED,
    FOUND_GONE,
    FOUND_OVER
} finding;

static finding look_at_answer_locked(kvf_exchange *exchange, double now)
{
    if (exchange->is_gone)
        return FOUND_GONE;
    if (exchange->is_ended)
        return FOUND_NOTHING;
    const peer there = look(exchange->file);
    if (there == PEER_GONE)
        return FOUND_GONE;
    if (there == PEER_ENDED && !exchange->saw_end)
        return FOUND_ENDED;
    return now - exchange->said > exchange->http->options.stir_seconds ? FOUND_SILENT
                                                                       : FOUND_NOTHING;
}

/* As of a connection without a request: where it ends within a body, nothing more comes. */
static finding look_at_body_locked(kvf_exchange *exchange, double now)
{
    const bool ended = has_left(exchange->file);
    if (ended && exchange->saw_end)
        shutdown(exchange->file, SHUT_RDWR);
    exchange->saw_end = ended;
    if (!is_slow(exchange, now))
        return FOUND_NOTHING;
    exchange->phase = KVF_PHASE_DISCARDED;
    return FOUND_SLOW;
}

static finding look_at(kvf_exchange *exchange, double now)
{
    finding found = FOUND_NOTHING;
    pthread_mutex_lock(&exchange->lock);
    switch (exchange->phase) {
    case KVF_PHASE_BODY: found = look_at_body_locked(exchange, now); break;
    case KVF_PHASE_DISCARDED:
        if (is_slow(exchange, now))
            shutdown(exchange->file, SHUT_RDWR);
        break;
    case KVF_PHASE_CUT:
        if (now - exchange->phase_began > cut_seconds)
            shutdown(exchange->file, SHUT_RDWR);
        break;
    case KVF_PHASE_ANSWERING: found = look_at_answer_locked(exchange, now); break;
    case KVF_PHASE_OVER: found = exchange->is_gone ? FOUND_GONE : FOUND_OVER; break;
    }
    pthread_mutex_unlock(&exchange->lock);
    return found;
}

static bool is_over(kvf_exchange *exchange)
{
    pthread_mutex_lock(&exchange->lock);
    const bool over = exchange->phase == KVF_PHASE_OVER;
    pthread_mutex_unlock(&exchange->lock);
    return over;
}

/* ---- All of them -------------------------------------------------------------------------- */

static void watch_one(kvf_exchange *exchange, double now)
{
    switch (look_at(exchange, now)) {
    case FOUND_SLOW: refuse_slow(exchange); break;
    case FOUND_SILENT: stir(exchange, false); break;
    case FOUND_ENDED: stir(exchange, true); break;
    case FOUND_GONE: tell_gone(exchange); break;
    case FOUND_NOTHING:
    case FOUND_OVER: break;
    }
}

static void forget_locked(kvf_http *http, kvf_exchange *exchange)
{
    if (exchange->previous)
        exchange->previous->next = exchange->next;
    else
        http->exchanges = exchange->next;
    if (exchange->next)
        exchange->next->previous = exchange->previous;
}

/* One after the other, none of the lists' locks held: what is called may take its time. */
static void watch_all(kvf_http *http, double now)
{
    pthread_mutex_lock(&http->lock);
    kvf_exchange *exchange = http->exchanges;
    if (exchange)
        kvf_exchange_keep(exchange);
    pthread_mutex_unlock(&http->lock);
    while (exchange) {
        /* Asked before: what it does in between is seen at the next time. */
        const bool over = is_over(exchange);
        watch_one(exchange, now);
        pthread_mutex_lock(&http->lock);
        kvf_exchange *next = exchange->next;
        if (next)
            kvf_exchange_keep(next);
        if (over)
            forget_locked(http, exchange);
        pthread_mutex_unlock(&http->lock);
        if (over)
            kvf_exchange_release(exchange);
        kvf_exchange_release(exchange);
        exchange = next;
    }
}

static void wait_locked(kvf_http *http)
{
    struct timespec until;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_nsec += (long)(tick_seconds * 1e9);
    if (until.tv_nsec >= 1000000000) {
        until.tv_nsec -= 1000000000;
        until.tv_sec++;
    }
    if (!http->stopped && !http->has_lost)
        pthread_cond_timedwait(&http->changed, &http->lock, &until);
    http->has_lost = false;
}

static void *watch(void *user)
{
    kvf_http *http = user;
    pthread_mutex_lock(&http->lock);
    while (!http->stopped) {
        wait_locked(http);
        const double now = kvf_seconds();
        look_at_idle_locked(http, now);
        pthread_mutex_unlock(&http->lock);
        watch_all(http, now);
        pthread_mutex_lock(&http->lock);
    }
    pthread_mutex_unlock(&http->lock);
    return NULL;
}

kvf_status kvf_http_watch(kvf_http *http, kvf_error *error)
{
    const int failed = pthread_create(&http->watcher, NULL, watch, http);
    if (failed)
        return kvf_fail(error, KVF_OUT_OF_MEMORY, "no thread for connections: %s",
                        strerror(failed));
    http->has_watcher = true;
    return kvf_ok(error);
}

void kvf_http_unwatch(kvf_http *http)
{
    if (!http->has_watcher)
        return;
    pthread_mutex_lock(&http->lock);
    http->stopped = true;
    pthread_cond_broadcast(&http->changed);
    pthread_mutex_unlock(&http->lock);
    pthread_join(http->watcher, NULL);
    http->has_watcher = false;
    watch_all(http, kvf_seconds()); /* those that ended last are told, and forgotten */
}
