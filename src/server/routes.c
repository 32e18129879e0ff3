/* Endpoints: who answers what, and what every request has to be like. */
#include "server/server_internal.h"

#include "clock.h"
#include "error.h"
#include "text/json.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

/* ---- Answers ------------------------------------------------------------------------------ */

/* Whose form its errors have. */
static kvf_api api_of(const kvf_exchange *exchange)
{
    const char *path = kvf_exchange_path(exchange);
    const bool is_anthropic = strncmp(path, "/v1/messages", strlen("/v1/messages")) == 0 ||
                              (strncmp(path, "/v1/models", strlen("/v1/models")) == 0 &&
                               kvf_exchange_header(exchange, KVF_HEADER_ANTHROPIC_VERSION));
    return is_anthropic ? KVF_API_ANTHROPIC : KVF_API_OPENAI;
}

void kvf_server_answer(kvf_exchange *exchange, unsigned status, const char *content_type,
                       kvf_buffer *content)
{
    kvf_exchange_conclude(exchange, status, content_type, content, NULL);
}

void kvf_server_refuse(kvf_server *server, kvf_exchange *exchange, const kvf_refusal *refusal)
{
    const kvf_request_data *request = kvf_exchange_data(exchange);
    kvf_buffer out = {.data = NULL};
    char seconds[16];
    const unsigned again = kvf_refusal_retry_after(refusal);
    (void)server;
    snprintf(seconds, sizeof seconds, "%u", again);
    if (again)
        kvf_exchange_add_header(exchange, "Retry-After", seconds);
    kvf_refusal_write(refusal, api_of(exchange), request ? request->id : "", &out);
    kvf_server_answer(exchange, refusal->status, "application/json", &out);
}

/* ---- Endpoints of the model --------------------------------------------------------------- */

static void answer_ask(kvf_server *server, kvf_exchange *exchange, kvf_ask_kind kind,
                       const kvf_form *form)
{
    const kvf_request_data *request = kvf_exchange_data(exchange);
    kvf_refusal refusal = {.status = 0};
    kvf_ask ask;
    kvf_server_trace_request(server, exchange);
    bool opened = kvf_ask_read(&server->served, kind, kvf_exchange_body(exchange), &ask, &refusal);
    kvf_exchange_drop_body(exchange);
    if (opened) {
        pthread_mutex_lock(&server->lock);
        server->n_answering++; /* before it can be done */
        pthread_mutex_unlock(&server->lock);
        opened = kvf_answering_open(&server->host, exchange, form, &ask, server->name, request->id,
                                    request->key, &refusal);
        pthread_mutex_lock(&server->lock);
        server->n_answering -= !opened;
        pthread_mutex_unlock(&server->lock);
    } else {
        kvf_ask_free(&ask);
    }
    if (!opened)
        kvf_server_refuse(server, exchange, &refusal);
}

static void answer_chat(kvf_server *server, kvf_exchange *exchange)
{
    answer_ask(server, exchange, KVF_ASK_CHAT, &kvf_form_chat);
}

static void answer_completion(kvf_server *server, kvf_exchange *exchange)
{
    answer_ask(server, exchange, KVF_ASK_COMPLETION, &kvf_form_completion);
}

static void answer_messages(kvf_server *server, kvf_exchange *exchange)
{
    answer_ask(server, exchange, KVF_ASK_MESSAGES, &kvf_form_messages);
}

static void answer_count(kvf_server *server, kvf_exchange *exchange)
{
    kvf_refusal refusal = {.status = 0};
    kvf_buffer out = {.data = NULL};
    kvf_ask ask;
    if (kvf_ask_read(&server->served, KVF_ASK_COUNT, kvf_exchange_body(exchange), &ask, &refusal)) {
        kvf_buffer_print(&out, "{\"input_tokens\": %zu}", ask.prompt.n);
        kvf_server_answer(exchange, 200, "application/json", &out);
    } else {
        kvf_server_refuse(server, exchange, &refusal);
    }
    kvf_ask_free(&ask);
}

/* ---- Text and ids ------------------------------------------------------------------------- */

static void write_ids(const kvf_ids *ids, kvf_buffer *out)
{
    kvf_buffer_add_string(out, "{\"tokens\": [");
    for (size_t i = 0; i < ids->n; i++)
        kvf_buffer_print(out, i > 0 ? ", %d" : "%d", ids->ids[i]);
    kvf_buffer_print(out, "], \"count\": %zu}", ids->n);
}

/* {"content": TEXT}, or "prompt" as others call it; "add_special": BOS before it. */
static bool encode_text(kvf_server *server, const kvf_node *root, kvf_ids *ids,
                        kvf_refusal *refusal)
{
    const kvf_fields fields = {.object = root, .where = "", .refusal = refusal};
    const kvf_served *served = &server->served;
    kvf_span text;
    bool special = false;
    bool parses = false;
    kvf_error error;
    kvf_field_bool(&fields, "add_special", &special);
    kvf_field_bool(&fields, "add_special_tokens", &special);
    kvf_field_bool(&fields, "parse_special", &parses);
    const bool there =
        kvf_field_string(&fields, "content", &text) || kvf_field_string(&fields, "prompt", &text);
    if (refusal->status)
        return false;
    if (!there)
        return kvf_refuse(refusal, 400, "content", "content is missing; a string is needed");
    if (special && served->bos >= 0 && kvf_ids_reserve(ids, 1))
        ids->ids[ids->n++] = served->bos;
    return kvf_encode_text(server->encoder, text.data, text.bytes, parses, ids, &error) == KVF_OK ||
           kvf_refuse_error(refusal, "content", &error);
}

static bool read_object(kvf_exchange *exchange, kvf_tree *tree, kvf_refusal *refusal)
{
    const kvf_span body = kvf_exchange_body(exchange);
    kvf_error error;
    *tree = (kvf_tree){.root = NULL};
    if (kvf_tree_read(body.data, body.bytes, KVF_JSON_STRICT, "the body", tree, &error) != KVF_OK)
        return kvf_refuse_error(refusal, NULL, &error);
    return tree->root->type == KVF_NODE_OBJECT ||
           kvf_refuse(refusal, 400, NULL, "the body is %s; an object is needed",
                      kvf_node_what(tree->root));
}

static void answer_tokenize(kvf_server *server, kvf_exchange *exchange)
{
    kvf_refusal refusal = {.status = 0};
    kvf_buffer out = {.data = NULL};
    kvf_ask ask = {.n_choices = 0};
    kvf_ids ids = {.n = 0};
    kvf_tree tree;
    bool done = read_object(exchange, &tree, &refusal);
    if (done && kvf_node_member(tree.root, "messages")) {
        done = kvf_ask_read(&server->served, KVF_ASK_TOKENIZE, kvf_exchange_body(exchange), &ask,
                            &refusal);
        write_ids(&ask.prompt, &out);
    } else if (done) {
        done = encode_text(server, tree.root, &ids, &refusal);
        write_ids(&ids, &out);
    }
    if (done)
        kvf_server_answer(exchange, 200, "application/json", &out);
    else
        kvf_server_refuse(server, exchange, &refusal);
    kvf_buffer_free(&out);
    kvf_ids_free(&ids);
    kvf_ask_free(&ask);
    kvf_tree_free(&tree);
}

static bool decode_ids(const kvf_server *server, const kvf_node *root, kvf_buffer *text,
                       kvf_refusal *refusal)
{
    const kvf_node *tokens = kvf_node_member(root, "tokens");
    kvf_decoder decoder;
    size_t i = 0;
    if (!tokens || tokens->type != KVF_NODE_ARRAY)
        return kvf_refuse(refusal, 400, "tokens", "tokens is %s; an array of ids is needed",
                          kvf_node_what(tokens));
    kvf_decoder_start(&decoder, server->conversation.tokenizer, false);
    for (const kvf_node *one = tokens->first; one; one = one->next, i++) {
        int64_t id;
        if (!kvf_node_whole(one, &id) || id < 0 || id >= server->served.n_ids)
            return kvf_refuse(refusal, 400, "tokens",
                              "tokens[%zu] is no id of a token; 0 to %u are", i,
                              server->served.n_ids - 1);
        kvf_decoder_add(&decoder, (int32_t)id, text);
    }
    kvf_decoder_flush(&decoder, text);
    return !text->failed || kvf_refuse(refusal, 503, NULL, "no memory for the text");
}

static void answer_detokenize(kvf_server *server, kvf_exchange *exchange)
{
    kvf_refusal refusal = {.status = 0};
    kvf_buffer text = {.data = NULL};
    kvf_buffer out = {.data = NULL};
    kvf_tree tree;
    if (read_object(exchange, &tree, &refusal) && decode_ids(server, tree.root, &text, &refusal)) {
        kvf_buffer_add_string(&out, "{\"content\": ");
        kvf_json_write_string(kvf_buffer_span(&text), &out);
        kvf_buffer_add_string(&out, "}");
        kvf_server_answer(exchange, 200, "application/json", &out);
    } else {
        kvf_server_refuse(server, exchange, &refusal);
    }
    kvf_buffer_free(&text);
    kvf_tree_free(&tree);
}

/* ---- The table ---------------------------------------------------------------------------- */

const kvf_route kvf_routes[KVF_ROUTES] = {
    {"GET", "/health", KVF_API_OPENAI, kvf_page_health},
    {"GET", "/metrics", KVF_API_OPENAI, kvf_page_metrics},
    {"GET", "/slots", KVF_API_OPENAI, kvf_page_slots},
    {"GET", "/v1/models", KVF_API_OPENAI, kvf_page_models},
    {"GET", "/v1/models/", KVF_API_OPENAI, kvf_page_model},
    {"POST", "/v1/chat/completions", KVF_API_OPENAI, answer_chat},
    {"POST", "/v1/completions", KVF_API_OPENAI, answer_completion},
    {"POST", "/v1/messages", KVF_API_ANTHROPIC, answer_messages},
    {"POST", "/v1/messages/count_tokens", KVF_API_ANTHROPIC, answer_count},
    {"POST", "/tokenize", KVF_API_OPENAI, answer_tokenize},
    {"POST", "/detokenize", KVF_API_OPENAI, answer_detokenize},
    {"GET", "/v1/health", KVF_API_OPENAI, kvf_page_health}};

static bool matches(const kvf_route *route, const char *path)
{
    const size_t n = strlen(route->path);
    if (route->path[n - 1] == '/')
        return strncmp(path, route->path, n) == 0 && path[n] != '\0';
    return strcmp(path, route->path) == 0;
}

/* ---- Every request ------------------------------------------------------------------------ */

static bool find_route(kvf_request_data *request, kvf_exchange *exchange, kvf_refusal *refusal)
{
    const char *path = kvf_exchange_path(exchange);
    const char *method = kvf_exchange_method(exchange);
    const char *other = NULL;
    if (strcmp(method, "HEAD") == 0) /* its answer has no body; the rest is that of a GET */
        method = "GET";
    for (size_t i = 0; i < KVF_ROUTES && !request->route; i++) {
        const bool is_path = matches(&kvf_routes[i], path);
        if (is_path && strcmp(kvf_routes[i].method, method) == 0)
            request->route = &kvf_routes[i];
        else if (is_path)
            other = kvf_routes[i].method;
    }
    if (request->route)
        return true;
    if (!other)
        return kvf_refuse(refusal, 404, NULL, "there is no %s here", kvf_printable(path).text);
    kvf_exchange_add_header(exchange, "Allow", other);
    return kvf_refuse(refusal, 405, NULL, "%s of %s is not possible; %s is",
                      kvf_printable(method).text, kvf_printable(path).text, other);
}

/* A form of a web page can send other types to any server; this one only after a question. */
static bool check_type(const kvf_exchange *exchange, kvf_refusal *refusal)
{
    static const char json[] = "application/json";
    const char *type = kvf_exchange_header(exchange, KVF_HEADER_CONTENT_TYPE);
    const size_t n = sizeof json - 1;
    if (type && strncasecmp(type, json, n) == 0 &&
        (type[n] == '\0' || type[n] == ';' || type[n] == ' '))
        return true;
    return kvf_refuse(refusal, 415, NULL, "Content-Type is %s; application/json is needed",
                      type ? kvf_printable(type).text : "missing");
}

static bool check_state(kvf_server *server, kvf_refusal *refusal)
{
    const kvf_serving serving = kvf_server_state(server);
    if (serving == KVF_SERVING_RUNS)
        return true;
    refusal->retry_after_seconds = serving == KVF_SERVING_LOADS ? 2 : 10;
    return kvf_refuse(refusal, 503, NULL,
                      serving == KVF_SERVING_LOADS ? "the model is being loaded"
                                                   : "the server is being stopped");
}

static bool is_preflight(const kvf_exchange *exchange)
{
    return strcmp(kvf_exchange_method(exchange), "OPTIONS") == 0;
}

/* A browser asks what a page of another origin may send. */
static void answer_preflight(kvf_exchange *exchange)
{
    kvf_buffer none = {.data = NULL};
    kvf_exchange_add_header(exchange, "Access-Control-Allow-Methods", "GET, POST");
    kvf_exchange_add_header(exchange, "Access-Control-Allow-Headers",
                            "Authorization, Content-Type, x-api-key, anthropic-version, "
                            "anthropic-beta, anthropic-dangerous-direct-browser-access, "
                            "x-stainless-arch, x-stainless-lang, x-stainless-os, "
                            "x-stainless-package-version, x-stainless-retry-count, "
                            "x-stainless-runtime, x-stainless-runtime-version, "
                            "x-stainless-timeout, x-stainless-helper-method");
    kvf_exchange_add_header(exchange, "Access-Control-Max-Age", "600");
    kvf_server_answer(exchange, 204, NULL, &none);
}

static void take_head(void *user, kvf_exchange *exchange)
{
    kvf_server *server = user;
    kvf_refusal refusal = {.status = 0};
    kvf_request_data *request = calloc(1, sizeof *request);
    if (!request) {
        kvf_refuse(&refusal, 503, NULL, "no memory for the request");
        kvf_server_refuse(server, exchange, &refusal);
        return;
    }
    request->api = api_of(exchange);
    snprintf(request->id, sizeof request->id, "req_%08x%012llx", server->salt,
             (unsigned long long)kvf_exchange_number(exchange));
    kvf_exchange_set_data(exchange, request, free);
    kvf_exchange_add_header(exchange, "x-request-id", request->id);
    kvf_exchange_add_header(exchange, "request-id", request->id);
    kvf_exchange_add_header(exchange, "Cache-Control", "no-store");
    if (!kvf_access_check(&server->options.access, exchange, &request->key, &refusal)) {
        if (refusal.status == 401)
            kvf_exchange_add_header(exchange, "WWW-Authenticate", "Bearer");
        kvf_server_refuse(server, exchange, &refusal);
    } else if (is_preflight(exchange)) {
        answer_preflight(exchange);
    } else if (!find_route(request, exchange, &refusal) ||
               (strcmp(request->route->method, "POST") == 0 &&
                (!check_type(exchange, &refusal) || !check_state(server, &refusal)))) {
        kvf_server_refuse(server, exchange, &refusal);
    }
}

static void take_request(void *user, kvf_exchange *exchange)
{
    kvf_server *server = user;
    const kvf_request_data *request = kvf_exchange_data(exchange);
    kvf_refusal refusal = {.retry_after_seconds = 10};
    if (strcmp(request->route->method, "POST") != 0) {
        request->route->answer(server, exchange);
    } else if (!kvf_server_push(server, exchange)) {
        kvf_refuse(&refusal, 503, NULL, "the server is being stopped");
        kvf_server_refuse(server, exchange, &refusal);
    }
}

static void refuse(void *user, kvf_exchange *exchange, unsigned status, const char *message)
{
    kvf_refusal refusal = {.status = 0};
    kvf_refuse(&refusal, status, NULL, "%s", message);
    if (status == 503)
        refusal.retry_after_seconds = 2;
    kvf_server_refuse(user, exchange, &refusal);
}

static void take_end(void *user, kvf_exchange *exchange, unsigned status)
{
    kvf_server *server = user;
    const kvf_request_data *request = kvf_exchange_data(exchange);
    const size_t route =
        request && request->route ? (size_t)(request->route - kvf_routes) : KVF_ROUTES;
    char line[320];
    atomic_fetch_add(&server->counts[route][kvf_status_index(status)], 1);
    if (!server->options.say)
        return;
    snprintf(line, sizeof line, "%s %s %u %.3f s",
             kvf_printable(kvf_exchange_method(exchange)).text,
             kvf_printable(kvf_exchange_path(exchange)).text, status,
             kvf_seconds() - kvf_exchange_started(exchange));
    server->options.say(server->options.user, line);
}

kvf_http_handler kvf_server_handler(kvf_server *server)
{
    return (kvf_http_handler){.user = server,
                              .head = take_head,
                              .request = take_request,
                              .refuse = refuse,
                              .over = take_end};
}
