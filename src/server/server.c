#include "server/server_internal.h"

#include "error.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

/* Of a body: the least that its limit is, and what a token takes in JSON at the most, nearly
 * always. */
#define LEAST_BODY_BYTES (UINT64_C(64) << 20)
#define TOKEN_BODY_BYTES 96
/* Of all bodies that come in at once. */
#define ALL_BODIES_BYTES (UINT64_C(4) << 28)
/* What a reader may have waiting: 32,768 tokens, of a piece of some 300 bytes each, and as much
 * again. */
#define WAITING_BYTES ((size_t)32 << 20)
/* For what runs, to say that it ends. */
static const double stop_seconds = 3;

/* ---- The worker --------------------------------------------------------------------------- */

bool kvf_server_push(kvf_server *server, kvf_exchange *exchange)
{
    kvf_request_data *request = kvf_exchange_data(exchange);
    pthread_mutex_lock(&server->lock);
    const bool runs = server->serving == KVF_SERVING_RUNS;
    if (runs) {
        kvf_exchange_keep(exchange);
        request->next = NULL;
        if (server->last)
            ((kvf_request_data *)kvf_exchange_data(server->last))->next = exchange;
        else
            server->first = exchange;
        server->last = exchange;
        pthread_cond_broadcast(&server->changed);
    }
    pthread_mutex_unlock(&server->lock);
    return runs;
}

/* On the scheduler's thread. */
static void take_done(void *user, kvf_answering *answering)
{
    kvf_server *server = user;
    pthread_mutex_lock(&server->lock);
    answering->next = server->done;
    server->done = answering;
    pthread_cond_broadcast(&server->changed);
    pthread_mutex_unlock(&server->lock);
}

static kvf_exchange *pop_locked(kvf_server *server)
{
    kvf_exchange *exchange = server->first;
    if (!exchange)
        return NULL;
    server->first = ((kvf_request_data *)kvf_exchange_data(exchange))->next;
    if (!server->first)
        server->last = NULL;
    return exchange;
}

/* With the lock held, which it gives away while it does something. False: there was nothing. */
static bool work_locked(kvf_server *server)
{
    kvf_answering *done = server->done;
    kvf_exchange *exchange = done ? NULL : pop_locked(server);
    if (done)
        server->done = done->next;
    if (!done && !exchange)
        return false;
    server->is_working = true;
    pthread_mutex_unlock(&server->lock);
    if (done) {
        kvf_server_trace_answer(server, done);
        kvf_answering_close(done);
    } else {
        const kvf_request_data *request = kvf_exchange_data(exchange);
        kvf_refusal refusal = {.retry_after_seconds = 10};
        if (kvf_server_state(server) == KVF_SERVING_RUNS) {
            request->route->answer(server, exchange);
        } else {
            kvf_refuse(&refusal, 503, NULL, "the server is being stopped");
            kvf_server_refuse(server, exchange, &refusal);
        }
        kvf_exchange_release(exchange);
    }
    pthread_mutex_lock(&server->lock);
    if (done)
        server->n_answering--;
    server->is_working = false;
    pthread_cond_broadcast(&server->changed);
    return true;
}

static void *work(void *user)
{
    kvf_server *server = user;
    pthread_mutex_lock(&server->lock);
    while (!server->worker_stops)
        if (!work_locked(server))
            pthread_cond_wait(&server->changed, &server->lock);
    pthread_mutex_unlock(&server->lock);
    return NULL;
}

/* ---- Opening ------------------------------------------------------------------------------ */

/* "DeepSeek-V4-Flash" of "/models/DeepSeek-V4-Flash/" or of a file with ".gguf" behind it. */
static char *name_of(const char *path)
{
    static const char suffix[] = ".gguf";
    size_t end = strlen(path);
    while (end > 1 && path[end - 1] == '/')
        end--;
    size_t start = end;
    while (start > 0 && path[start - 1] != '/')
        start--;
    if (end - start > sizeof suffix - 1 &&
        memcmp(path + end - (sizeof suffix - 1), suffix, sizeof suffix - 1) == 0)
        end -= sizeof suffix - 1;
    char *name = strndup(path + start, end - start);
    for (char *c = name; c && *c; c++) /* it stands in JSON and in paths */
        if ((unsigned char)*c < ' ' || (unsigned char)*c >= 0x7f)
            *c = '_';
    return name;
}

static kvf_status start(kvf_server *server, kvf_error *error)
{
    const kvf_server_options *options = &server->options;
    const kvf_http_options http = {
        .host = options->access.host,
        .port = options->port,
        .unix_socket = options->unix_socket,
        .connections = options->connections ? options->connections : 512,
        .idle_seconds = options->idle_seconds > 0 ? options->idle_seconds : 120,
        .head_seconds = options->head_seconds > 0 ? options->head_seconds : 30,
        .body_seconds = options->body_seconds > 0 ? options->body_seconds : 300,
        .body_rate = 1000,
        .body_grace_seconds = options->body_grace_seconds > 0 ? options->body_grace_seconds : 10,
        .stir_seconds = options->stir_seconds > 0 ? options->stir_seconds : 10,
        .head_bytes = 32768,
        .waiting_bytes = WAITING_BYTES,
        .all_bodies_bytes = ALL_BODIES_BYTES};
    const kvf_http_handler handler = kvf_server_handler(server);
    if (getentropy(&server->salt, sizeof server->salt) != 0)
        server->salt = (uint32_t)time(NULL);
    server->started = (int64_t)time(NULL);
    server->name = options->n_aliases > 0 ? strdup(options->aliases[0]) : name_of(options->model);
    if (!server->name)
        return kvf_fail(error, KVF_OUT_OF_MEMORY, "no memory for a server");
    const int failed = pthread_create(&server->worker, NULL, work, server);
    if (failed)
        return kvf_fail(error, KVF_OUT_OF_MEMORY, "no thread for requests: %s", strerror(failed));
    server->has_worker = true;
    return kvf_http_open(&http, &handler, &server->http, error);
}

kvf_status kvf_server_open(const kvf_server_options *options, kvf_server **opened, kvf_error *error)
{
    kvf_server *server = calloc(1, sizeof *server);
    *opened = NULL;
    if (!server)
        return kvf_fail(error, KVF_OUT_OF_MEMORY, "no memory for a server");
    server->options = *options;
    server->stage = "starting";
    pthread_mutex_init(&server->lock, NULL);
    pthread_cond_init(&server->changed, NULL);
    kvf_status status = kvf_ok(error);
    if (options->access.n_keys == 0 && !options->unix_socket &&
        !kvf_access_is_loopback(options->access.host))
        status =
            kvf_fail(error, KVF_INVALID_ARGUMENT, "a host that other machines reach needs keys");
    if (status == KVF_OK)
        status = start(server, error);
    if (status == KVF_OK)
        *opened = server;
    else
        kvf_server_close(server);
    return status;
}

const char *kvf_server_address(const kvf_server *server)
{
    return kvf_http_address(server->http);
}

kvf_serving kvf_server_state(kvf_server *server)
{
    pthread_mutex_lock(&server->lock);
    const kvf_serving serving = server->serving;
    pthread_mutex_unlock(&server->lock);
    return serving;
}

static void set_state(kvf_server *server, kvf_serving serving)
{
    pthread_mutex_lock(&server->lock);
    server->serving = serving;
    pthread_mutex_unlock(&server->lock);
}

void kvf_server_say_loading(kvf_server *server, const char *stage, double share)
{
    pthread_mutex_lock(&server->lock);
    server->stage = stage;
    server->share = share;
    pthread_mutex_unlock(&server->lock);
}

/* ---- Serving ------------------------------------------------------------------------------ */

static uint64_t body_bytes(uint64_t context_tokens)
{
    const uint64_t most = KVF_TREE_MAX_BYTES;
    if (context_tokens > most / TOKEN_BODY_BYTES)
        return most;
    const uint64_t bytes = context_tokens * TOKEN_BODY_BYTES;
    return bytes < LEAST_BODY_BYTES ? LEAST_BODY_BYTES : bytes;
}

static uint32_t most_choices(kvf_scheduler *scheduler)
{
    kvf_scheduler_report report;
    kvf_scheduler_read_report(scheduler, &report);
    return report.parallel < KVF_MAX_CHOICES ? report.parallel : KVF_MAX_CHOICES;
}

kvf_status kvf_server_begin(kvf_server *server, const kvf_engine *engine, kvf_scheduler *scheduler,
                            uint64_t context_tokens, const kvf_draw_defaults *defaults,
                            kvf_error *error)
{
    kvf_status status = kvf_encoder_open(engine->tokenizer, &server->encoder, error);
    if (status == KVF_OK)
        status = kvf_conversation_open(engine->files, engine->tokenizer, server->encoder,
                                       &server->conversation, error);
    if (status != KVF_OK)
        return status;
    server->scheduler = scheduler;
    server->context_tokens = context_tokens;
    server->served = (kvf_served){.conversation = &server->conversation,
                                  .replays = kvf_scheduler_replays(scheduler),
                                  .draw = {.temperature = defaults->temperature,
                                           .top_p = defaults->top_p,
                                           .min_p = defaults->min_p,
                                           .repeat_penalty = 1},
                                  .thinking = server->options.thinking,
                                  .release = server->options.release,
                                  .bos = engine->config.bos_token,
                                  .n_ids = engine->config.geometry.vocab,
                                  .context = context_tokens,
                                  .n_choices = most_choices(scheduler)};
    server->host = (kvf_answering_host){
        .served = &server->served, .scheduler = scheduler, .user = server, .done = take_done};
    kvf_http_set_body_bytes(server->http, body_bytes(context_tokens));
    set_state(server, KVF_SERVING_RUNS);
    return kvf_ok(error);
}

void kvf_server_stop(kvf_server *server)
{
    const bool ran = kvf_server_state(server) == KVF_SERVING_RUNS;
    set_state(server, KVF_SERVING_STOPS);
    if (ran)
        kvf_scheduler_stop(server->scheduler);
    kvf_http_drain(server->http, stop_seconds);
    /* Answers end with the scheduler's step that runs; what they sampled is its to keep. */
    pthread_mutex_lock(&server->lock);
    while (server->n_answering > 0 || server->first || server->is_working)
        pthread_cond_wait(&server->changed, &server->lock);
    pthread_mutex_unlock(&server->lock);
    /* A step may have taken longer than that wait, and what its answers said is still to be sent.
     */
    kvf_http_drain(server->http, stop_seconds);
}

void kvf_server_close(kvf_server *server)
{
    if (!server)
        return;
    set_state(server, KVF_SERVING_STOPS);
    pthread_mutex_lock(&server->lock);
    server->worker_stops = true;
    pthread_cond_broadcast(&server->changed);
    pthread_mutex_unlock(&server->lock);
    if (server->has_worker)
        pthread_join(server->worker, NULL);
    kvf_http_close(server->http);
    kvf_conversation_close(&server->conversation);
    kvf_encoder_close(server->encoder);
    free(server->name);
    pthread_mutex_destroy(&server->lock);
    pthread_cond_destroy(&server->changed);
    free(server);
}
