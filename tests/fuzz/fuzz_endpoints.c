/*
 * Requests as they come from libmicrohttpd, and all that is answered: who may ask, endpoints,
 * bodies, answers and errors of both APIs. In the place of src/server/http.c and of the scheduler
 * stand small ones, below. The input's first byte has the flags below; then come lines, the first
 * "METHOD PATH", the others headers, up to one that is empty; the rest is the body.
 */
#include "fuzz.h"

#include "engine/conversation.h"
#include "engine/engine.h"
#include "error.h"
#include "server/replay.h"
#include "server/server.h"
#include "text/json.h"

#include <pthread.h>
#include <strings.h>

enum { KEYED = 1, LOCAL = 2, LOADING = 4, LEAVING = 8 };
enum { N_IDS = 320, MOST_TOKENS = 40, LEAVES_AFTER_BYTES = 300 };

#define KEY "one-key"
#define ALLOWED_HOST "kvfold.example"
#define ALLOWED_ORIGIN "https://chat.example"

/* ---- In the place of http.c --------------------------------------------------------------- */

struct kvf_http {
    int nothing;
};
static kvf_http_handler opened; /* of the last one */

struct kvf_exchange {
    char *method, *path, *headers[KVF_HEADERS];
    bool is_local, leaves;
    kvf_buffer body;
    void *data;
    void (*free_data)(void *data);
    /* Under the lock. */
    int references;
    bool is_begun, is_ended;
    unsigned status;
    const char *content_type;
    bool has_retry_after;
    kvf_buffer out;
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;

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
    (void)exchange;
    return 1;
}

const char *kvf_exchange_local_address(const kvf_exchange *exchange)
{
    return exchange->is_local ? "" : "127.0.0.1";
}

bool kvf_exchange_is_local(const kvf_exchange *exchange)
{
    return exchange->is_local;
}

double kvf_exchange_started(const kvf_exchange *exchange)
{
    (void)exchange;
    return 0;
}

kvf_span kvf_exchange_body(const kvf_exchange *exchange)
{
    return kvf_buffer_span(&exchange->body);
}

void kvf_exchange_drop_body(kvf_exchange *exchange)
{
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

void kvf_exchange_keep(kvf_exchange *exchange)
{
    pthread_mutex_lock(&lock);
    exchange->references++;
    pthread_mutex_unlock(&lock);
}

void kvf_exchange_release(kvf_exchange *exchange)
{
    pthread_mutex_lock(&lock);
    exchange->references--;
    pthread_cond_broadcast(&changed);
    pthread_mutex_unlock(&lock);
}

/* Nothing of a request may begin a header of its own. */
void kvf_exchange_add_header(kvf_exchange *exchange, const char *name, const char *value)
{
    FUZZ_REQUIRE(*name && !strpbrk(name, "\r\n: ") && !strpbrk(value, "\r\n"));
    if (strcmp(name, "Retry-After") == 0)
        exchange->has_retry_after = true;
}

void kvf_exchange_conclude(kvf_exchange *exchange, unsigned status, const char *content_type,
                           kvf_buffer *whole, kvf_buffer *piece)
{
    pthread_mutex_lock(&lock);
    FUZZ_REQUIRE(!exchange->is_ended);
    const kvf_buffer *text = exchange->is_begun && piece ? piece : whole;
    FUZZ_REQUIRE(!text->failed);
    kvf_buffer_add(&exchange->out, text->data, text->bytes);
    exchange->is_ended = true;
    if (!exchange->is_begun) {
        exchange->status = status;
        exchange->content_type = content_type;
    }
    pthread_cond_broadcast(&changed);
    pthread_mutex_unlock(&lock);
    kvf_buffer_free(whole);
    if (piece)
        kvf_buffer_free(piece);
}

void kvf_exchange_begin(kvf_exchange *exchange, unsigned status, const char *content_type)
{
    FUZZ_REQUIRE(!exchange->is_begun && !exchange->is_ended);
    exchange->is_begun = true;
    exchange->status = status;
    exchange->content_type = content_type;
}

bool kvf_exchange_write(kvf_exchange *exchange, const void *data, size_t bytes)
{
    FUZZ_REQUIRE(exchange->is_begun && !exchange->is_ended);
    kvf_buffer_add(&exchange->out, data, bytes);
    return !exchange->leaves || exchange->out.bytes < LEAVES_AFTER_BYTES;
}

void kvf_exchange_end(kvf_exchange *exchange)
{
    exchange->is_ended = true;
}

bool kvf_exchange_has_begun(kvf_exchange *exchange)
{
    return exchange->is_begun;
}

void kvf_exchange_watch(kvf_exchange *exchange, const kvf_http_watching *watching)
{
    (void)exchange;
    FUZZ_REQUIRE(watching->gone);
}

void kvf_exchange_unwatch(kvf_exchange *exchange)
{
    (void)exchange;
}

kvf_status kvf_http_open(const kvf_http_options *options, const kvf_http_handler *handler,
                         kvf_http **http, kvf_error *error)
{
    (void)options;
    *http = malloc(sizeof **http);
    FUZZ_REQUIRE(*http);
    opened = *handler;
    return kvf_ok(error);
}

const char *kvf_http_address(const kvf_http *http)
{
    (void)http;
    return "127.0.0.1:8080";
}

void kvf_http_set_body_bytes(kvf_http *http, uint64_t bytes)
{
    (void)http;
    (void)bytes;
}

void kvf_http_count(kvf_http *http, uint32_t *connections, uint32_t *requests)
{
    (void)http;
    *connections = *requests = 1;
}

void kvf_http_drain(kvf_http *http, double seconds)
{
    (void)http;
    (void)seconds;
}

void kvf_http_close(kvf_http *http)
{
    free(http);
}

/* ---- In the place of the scheduler -------------------------------------------------------- */

struct kvf_scheduler {
    kvf_replays *replays;
};

struct kvf_job {
    int nothing;
};

kvf_replays *kvf_scheduler_replays(kvf_scheduler *scheduler)
{
    return scheduler->replays;
}

void kvf_scheduler_stop(kvf_scheduler *scheduler)
{
    (void)scheduler;
}

bool kvf_scheduler_is_lost(kvf_scheduler *scheduler, kvf_error *why)
{
    (void)scheduler;
    kvf_ok(why);
    return false;
}

void kvf_scheduler_read_report(kvf_scheduler *scheduler, kvf_scheduler_report *report)
{
    (void)scheduler;
    *report = (kvf_scheduler_report){.parallel = 8};
}

uint32_t kvf_scheduler_slots(kvf_scheduler *scheduler, kvf_slot *slots, uint32_t capacity)
{
    (void)scheduler;
    if (capacity > 0)
        slots[0] = (kvf_slot){.job = 1};
    return 1;
}

void kvf_job_cancel(kvf_job *job)
{
    (void)job;
}

void kvf_job_release(kvf_job *job)
{
    free(job);
}

/* Of the prompt's own ids, so that the input says what is answered, and how that ends. */
static kvf_job_end answer(const kvf_job_options *options, uint32_t choice, uint64_t *n)
{
    static const kvf_job_end ends[] = {KVF_JOB_EOS, KVF_JOB_CONTEXT_FULL, KVF_JOB_FAILED,
                                       KVF_JOB_SHUTDOWN};
    kvf_logprob top[KVF_MAX_TOP_LOGPROBS];
    for (uint32_t i = 0; i < options->draw.n_top; i++)
        top[i] = (kvf_logprob){.id = (int32_t)((options->draw.seed + i) % N_IDS),
                               .logprob = i > 2 ? -1.0f / 0.0f : -0.5f - (float)i};
    const uint64_t most = options->max_tokens && options->max_tokens < MOST_TOKENS
                              ? options->max_tokens
                              : MOST_TOKENS;
    for (*n = 0; *n < most; ++*n) {
        const size_t at = (size_t)(*n + choice) % options->n_prompt;
        const kvf_drawn drawn = {.id = options->prompt[options->n_prompt - 1 - at],
                                 .logprob = -0.25f,
                                 .top = options->draw.n_top ? top : NULL};
        switch (options->take(options->user, choice, &drawn)) {
        case KVF_TAKEN: break;
        case KVF_TAKEN_AS_END: return KVF_JOB_EOS;
        case KVF_TAKEN_AS_STOP: return KVF_JOB_STOP;
        case KVF_TAKEN_BY_NOBODY: return KVF_JOB_CANCELLED;
        }
    }
    return *n == options->max_tokens ? KVF_JOB_MAX_TOKENS : ends[options->prompt[0] % 4];
}

static void check_options(const kvf_job_options *options)
{
    const kvf_draw *draw = &options->draw;
    FUZZ_REQUIRE(options->n_prompt > 0 && options->turn_at <= options->n_prompt);
    for (size_t i = 0; i < options->n_prompt; i++)
        FUZZ_REQUIRE(options->prompt[i] >= 0 && options->prompt[i] < N_IDS);
    FUZZ_REQUIRE(options->n_choices >= 1 && options->n_choices <= 8);
    FUZZ_REQUIRE(draw->temperature >= 0 && draw->temperature <= 2);
    FUZZ_REQUIRE(draw->top_p >= 0 && draw->top_p <= 1 && draw->min_p >= 0 && draw->min_p <= 1);
    FUZZ_REQUIRE(draw->repeat_penalty > 0 && draw->n_top <= KVF_MAX_TOP_LOGPROBS);
    for (uint32_t i = 0; i < draw->n_bias; i++)
        FUZZ_REQUIRE(draw->bias[i].id >= 0 && draw->bias[i].id < N_IDS &&
                     draw->bias[i].value >= -100 && draw->bias[i].value <= 100);
}

kvf_submitted kvf_scheduler_submit(kvf_scheduler *scheduler, const kvf_job_options *options,
                                   kvf_job **job, kvf_error *error)
{
    static const kvf_submitted refusals[] = {KVF_SUBMIT_BUSY, KVF_SUBMIT_TOO_LARGE,
                                             KVF_SUBMIT_NO_MEMORY, KVF_SUBMIT_STOPPING};
    kvf_error failed;
    (void)scheduler;
    check_options(options);
    *job = NULL;
    if (options->n_prompt % 16 == 15) {
        kvf_fail(error, KVF_FILE_BUSY, "refused, as the prompt's length says");
        return refusals[options->n_prompt / 16 % 4];
    }
    *job = malloc(sizeof **job);
    FUZZ_REQUIRE(*job);
    kvf_fail(&failed, KVF_NONFINITE, "a value that is not finite");
    kvf_job_usage usage = {.n_prompt = options->n_prompt, .n_cached = options->n_prompt / 2};
    options->progress(options->user, usage.n_cached, options->n_prompt);
    options->progress(options->user, options->n_prompt, options->n_prompt);
    for (uint32_t i = 0; i < options->n_choices; i++) {
        const kvf_job_end end = answer(options, i, &usage.n_answered);
        options->end(options->user, i, end, &usage, end == KVF_JOB_FAILED ? &failed : NULL);
    }
    return KVF_SUBMITTED;
}

/* ---- The servers -------------------------------------------------------------------------- */

/* By KEYED and LOADING; their threads are never ended. */
static kvf_server *servers[KEYED + LOADING + 1];
static kvf_http_handler handlers[KEYED + LOADING + 1];

static void open_engine(kvf_engine *engine)
{
    static kvf_engine_options options = {.model = KVF_FUZZ_MODEL};
    const kvf_engine_events events = {.user = NULL};
    kvf_error error;
    bool has_room;
    if (kvf_engine_open(&options, &events, engine, &error) != KVF_OK ||
        kvf_engine_open_tokenizer(engine, &error) != KVF_OK)
        fuzz_broken(__FILE__, __LINE__, error.message);
    FUZZ_REQUIRE(engine->config.geometry.vocab == N_IDS);
    FUZZ_REQUIRE(kvf_conversation_mark_bytes(engine->tokenizer, engine->config.bos_token,
                                             engine->config.eos_tokens[0], &has_room,
                                             &error) == KVF_OK);
}

static const kvf_http_handler *handler_for(unsigned flags)
{
    static const char *const keys[] = {"other", KEY};
    static const char *const hosts[] = {ALLOWED_HOST};
    static const char *const origins[] = {ALLOWED_ORIGIN};
    static kvf_engine engine;
    static kvf_scheduler scheduler;
    const kvf_draw_defaults defaults = {.top_p = 1};
    const unsigned kind = flags & (KEYED | LOADING);
    kvf_server_options options = {.model = KVF_FUZZ_MODEL,
                                  .access = {.host = "127.0.0.1",
                                             .allow_hosts = hosts,
                                             .n_allow_hosts = 1,
                                             .origins = origins,
                                             .n_origins = 1,
                                             .keys = keys,
                                             .n_keys = flags & KEYED ? 2 : 0}};
    kvf_error error;
    if (servers[kind])
        return &handlers[kind];
    if (!engine.tokenizer) {
        open_engine(&engine);
        FUZZ_REQUIRE(kvf_replays_open(1 << 16, &scheduler.replays, &error) == KVF_OK);
    }
    FUZZ_REQUIRE(kvf_server_open(&options, &servers[kind], &error) == KVF_OK);
    handlers[kind] = opened;
    FUZZ_REQUIRE(flags & LOADING || kvf_server_begin(servers[kind], &engine, &scheduler, 4096,
                                                     &defaults, &error) == KVF_OK);
    return &handlers[kind];
}

/* ---- What was answered -------------------------------------------------------------------- */

static void check_json(kvf_span text, bool is_error, bool is_anthropic)
{
    kvf_tree tree;
    kvf_error error;
    if (kvf_tree_read(text.data, text.bytes, KVF_JSON_STRICT, "answer", &tree, &error) != KVF_OK)
        fuzz_broken(__FILE__, __LINE__, error.message);
    const kvf_node *refusal = kvf_node_member(tree.root, "error");
    if (is_error) {
        FUZZ_REQUIRE(kvf_node_is_true(kvf_node_member(refusal, "message")));
        FUZZ_REQUIRE(kvf_node_is_true(kvf_node_member(refusal, "type")));
        FUZZ_REQUIRE(kvf_node_member(refusal, "param"));
        FUZZ_REQUIRE(!kvf_node_member(tree.root, "type") == !is_anthropic);
    }
    kvf_tree_free(&tree);
}

/* Each line is one of an event's; the last event is the stream's end, or says what went wrong. */
static void check_stream(kvf_span text, bool is_anthropic)
{
    fuzz_part rest = {(const uint8_t *)text.data, text.bytes};
    fuzz_part line;
    kvf_span last = {"", 0};
    while (fuzz_next_part(&rest, '\n', &line)) {
        kvf_span data = {(const char *)line.data, line.bytes};
        if (data.bytes == 0 || kvf_span_begins(data, ": ") || kvf_span_begins(data, "event: "))
            continue;
        FUZZ_REQUIRE(kvf_span_begins(data, "data: "));
        data = kvf_span_after(data, strlen("data: "));
        if (!kvf_span_is(data, "[DONE]"))
            check_json(data,
                       kvf_span_begins(data, "{\"error\"") ||
                           kvf_span_begins(data, "{\"type\": \"error\""),
                       is_anthropic);
        FUZZ_REQUIRE(!kvf_span_is(last, "[DONE]"));
        last = data;
    }
    FUZZ_REQUIRE(is_anthropic ? kvf_span_begins(last, "{\"type\": \"message_stop\"") ||
                                    kvf_span_begins(last, "{\"type\": \"error\"")
                              : kvf_span_is(last, "[DONE]"));
}

static bool has_text(const char *header, const char *text)
{
    for (; header && *header; header++)
        if (strncasecmp(header, text, strlen(text)) == 0)
            return true;
    return false;
}

/* Whoever gets more than a refusal has named a host of this server, no foreign page, and a key. */
static void check_access(const kvf_exchange *exchange, unsigned flags)
{
    const char *host = exchange->headers[KVF_HEADER_HOST];
    const char *origin = exchange->headers[KVF_HEADER_ORIGIN];
    const char *bearer = exchange->headers[KVF_HEADER_AUTHORIZATION];
    const char *key = exchange->headers[KVF_HEADER_API_KEY];
    FUZZ_REQUIRE(exchange->is_local || has_text(host, "localhost") || has_text(host, "127.") ||
                 has_text(host, "1]") || has_text(host, ALLOWED_HOST));
    if (origin && strcasecmp(origin, ALLOWED_ORIGIN) != 0) {
        FUZZ_REQUIRE(strncmp(origin, "http", 4) == 0 && host && strstr(origin, "://"));
        FUZZ_REQUIRE(strcasecmp(strstr(origin, "://") + 3, host) == 0);
    }
    if (flags & KEYED && strcmp(exchange->path, "/health") != 0 &&
        strcmp(exchange->method, "OPTIONS") != 0)
        FUZZ_REQUIRE(
            (key && (strcmp(key, KEY) == 0 || strcmp(key, "other") == 0)) ||
            (bearer && strncasecmp(bearer, "bearer ", 7) == 0 &&
             (strcmp(bearer + strlen(bearer) - 7, KEY) == 0 || has_text(bearer, " other"))));
}

static void check_answer(const kvf_exchange *exchange, unsigned flags)
{
    const bool is_messages = strncmp(exchange->path, "/v1/messages", 12) == 0;
    const bool is_anthropic = is_messages || (strncmp(exchange->path, "/v1/models", 10) == 0 &&
                                              exchange->headers[KVF_HEADER_ANTHROPIC_VERSION]);
    const unsigned status = exchange->status;
    const bool again = status == 429 || status == 503;
    FUZZ_REQUIRE(exchange->is_ended && !exchange->out.failed);
    FUZZ_REQUIRE(status == 200 || status == 204 || (status >= 400 && status < 504));
    FUZZ_REQUIRE(!again || exchange->has_retry_after);
    if (status != 401 && status != 403)
        check_access(exchange, flags);
    if (status == 204) {
        FUZZ_REQUIRE(exchange->out.bytes == 0);
    } else if (strncmp(exchange->content_type, "text/event-stream", 17) == 0) {
        FUZZ_REQUIRE(status == 200);
        check_stream(kvf_buffer_span(&exchange->out), is_anthropic);
    } else if (strcmp(exchange->content_type, "application/json") == 0) {
        /* /health says in its own form that it loads. */
        const bool is_health = strstr(exchange->path, "/health") && status == 503;
        check_json(kvf_buffer_span(&exchange->out), status >= 400 && !is_health, is_anthropic);
    } else {
        FUZZ_REQUIRE(strcmp(exchange->path, "/metrics") == 0);
    }
}

/* ---- A request ---------------------------------------------------------------------------- */

static char *text_of(const uint8_t *data, size_t bytes)
{
    char *text = malloc(bytes + 1);
    FUZZ_REQUIRE(text);
    memcpy(text, data, bytes);
    text[bytes] = '\0';
    return text;
}

static void take_header(kvf_exchange *exchange, const char *line)
{
    static const char *const names[KVF_HEADERS] = {
        "Host",         "Origin",         "Authorization",     "x-api-key",
        "Content-Type", "Content-Length", "Transfer-Encoding", "anthropic-version"};
    for (int i = 0; i < KVF_HEADERS; i++) {
        const size_t n = strlen(names[i]);
        if (strncasecmp(line, names[i], n) != 0 || line[n] != ':' || exchange->headers[i])
            continue;
        const char *value = line + n + 1;
        value += strspn(value, " \t");
        exchange->headers[i] = text_of((const uint8_t *)value, strlen(value));
    }
}

/* "METHOD PATH": what MHD gives of the request's line. */
static void take_line(kvf_exchange *exchange, const char *line)
{
    const size_t n = strcspn(line, " ");
    const char *path = line[n] ? line + n + 1 : "";
    exchange->method = text_of((const uint8_t *)line, n);
    exchange->path = text_of((const uint8_t *)path, strcspn(path, "? "));
}

static void take_input(kvf_exchange *exchange, const uint8_t *data, size_t bytes)
{
    fuzz_part rest = {data, bytes};
    fuzz_part part;
    while (fuzz_next_part(&rest, '\n', &part)) {
        char *line = text_of(part.data, part.bytes);
        line[strcspn(line, "\r")] = '\0';
        if (!exchange->method)
            take_line(exchange, line);
        else
            take_header(exchange, line);
        free(line);
        if (part.bytes == 0 && exchange->method)
            break;
    }
    if (rest.data)
        kvf_buffer_add(&exchange->body, rest.data, rest.bytes);
    FUZZ_REQUIRE(!exchange->body.failed && exchange->method);
}

static void serve(kvf_exchange *exchange, const kvf_http_handler *handler)
{
    handler->head(handler->user, exchange);
    if (!exchange->is_ended)
        handler->request(handler->user, exchange);
    pthread_mutex_lock(&lock);
    while (!exchange->is_ended || exchange->references > 1)
        pthread_cond_wait(&changed, &lock);
    pthread_mutex_unlock(&lock);
    handler->over(handler->user, exchange, exchange->status);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    if (bytes < 2)
        return 0;
    const unsigned flags = data[0];
    kvf_exchange exchange = {.references = 1, .is_local = flags & LOCAL, .leaves = flags & LEAVING};
    take_input(&exchange, data + 1, bytes - 1);
    serve(&exchange, handler_for(flags));
    if (!exchange.leaves)
        check_answer(&exchange, flags);
    if (exchange.free_data)
        exchange.free_data(exchange.data);
    for (int i = 0; i < KVF_HEADERS; i++)
        free(exchange.headers[i]);
    free(exchange.method);
    free(exchange.path);
    kvf_buffer_free(&exchange.body);
    kvf_buffer_free(&exchange.out);
    return 0;
}
