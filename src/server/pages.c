/* What the server says of itself. */
#include "server/server_internal.h"

#include "text/json.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

/* Whether it answers requests; else why not, as fields behind the status. */
static const char *find_status(kvf_server *server, kvf_buffer *why)
{
    kvf_error lost;
    pthread_mutex_lock(&server->lock);
    const kvf_serving serving = server->serving;
    const char *stage = server->stage;
    const double share = server->share;
    pthread_mutex_unlock(&server->lock);
    switch (serving) {
    case KVF_SERVING_LOADS:
        kvf_buffer_add_string(why, ", \"stage\": ");
        kvf_json_write_chars(stage, why);
        kvf_buffer_print(why, ", \"progress\": %.3f", share);
        return "loading";
    case KVF_SERVING_STOPS: return "stopping";
    case KVF_SERVING_RUNS: break;
    }
    if (!kvf_scheduler_is_lost(server->scheduler, &lost))
        return "ok";
    kvf_buffer_add_string(why, ", \"error\": ");
    kvf_json_write_chars(lost.message, why);
    return "failed";
}

void kvf_page_health(kvf_server *server, kvf_exchange *exchange)
{
    kvf_buffer out = {.data = NULL};
    kvf_buffer why = {.data = NULL};
    const char *status = find_status(server, &why);
    const bool is_ok = strcmp(status, "ok") == 0;
    kvf_buffer_add_string(&out, "{\"status\": ");
    kvf_json_write_chars(status, &out);
    kvf_buffer_add_string(&out, ", \"model\": ");
    kvf_json_write_chars(server->name, &out);
    kvf_buffer_add_span(&out, kvf_buffer_span(&why));
    kvf_buffer_print(&out, ", \"version\": \"%s\"}", kvf_version_string());
    if (!is_ok)
        kvf_exchange_add_header(exchange, "Retry-After", "1");
    kvf_buffer_free(&why);
    kvf_server_answer(exchange, is_ok ? 200 : 503, "application/json", &out);
}

/* ---- Models ------------------------------------------------------------------------------- */

static size_t count_names(const kvf_server *server)
{
    return server->options.n_aliases > 0 ? server->options.n_aliases : 1;
}

static const char *name_of(const kvf_server *server, size_t i)
{
    return server->options.n_aliases > 0 ? server->options.aliases[i] : server->name;
}

/* 0 while it loads, when nobody knows. */
static unsigned long long context_of(kvf_server *server)
{
    return kvf_server_state(server) == KVF_SERVING_RUNS ? server->context_tokens : 0;
}

static void add_model(kvf_server *server, kvf_api api, const char *name, kvf_buffer *out)
{
    if (api == KVF_API_OPENAI) {
        kvf_buffer_add_string(out, "{\"id\": ");
        kvf_json_write_chars(name, out);
        kvf_buffer_print(out,
                         ", \"object\": \"model\", \"created\": %lld, \"owned_by\": \"kvfold\", "
                         "\"max_model_len\": %llu}",
                         (long long)server->started, context_of(server));
        return;
    }
    char created[32];
    struct tm utc;
    const time_t started = (time_t)server->started;
    strftime(created, sizeof created, "%Y-%m-%dT%H:%M:%SZ", gmtime_r(&started, &utc));
    kvf_buffer_add_string(out, "{\"type\": \"model\", \"id\": ");
    kvf_json_write_chars(name, out);
    kvf_buffer_add_string(out, ", \"display_name\": ");
    kvf_json_write_chars(name, out);
    kvf_buffer_print(out, ", \"created_at\": \"%s\", \"max_input_tokens\": %llu}", created,
                     context_of(server));
}

void kvf_page_models(kvf_server *server, kvf_exchange *exchange)
{
    const kvf_request_data *request = kvf_exchange_data(exchange);
    const size_t n = count_names(server);
    kvf_buffer out = {.data = NULL};
    kvf_buffer_add_string(&out, request->api == KVF_API_OPENAI
                                    ? "{\"object\": \"list\", \"data\": ["
                                    : "{\"data\": [");
    for (size_t i = 0; i < n; i++) {
        kvf_buffer_add_string(&out, i > 0 ? ", " : "");
        add_model(server, request->api, name_of(server, i), &out);
    }
    kvf_buffer_add_string(&out, "]");
    if (request->api == KVF_API_ANTHROPIC) {
        kvf_buffer_add_string(&out, ", \"has_more\": false, \"first_id\": ");
        kvf_json_write_chars(name_of(server, 0), &out);
        kvf_buffer_add_string(&out, ", \"last_id\": ");
        kvf_json_write_chars(name_of(server, n - 1), &out);
    }
    kvf_buffer_add_string(&out, "}");
    kvf_server_answer(exchange, 200, "application/json", &out);
}

void kvf_page_model(kvf_server *server, kvf_exchange *exchange)
{
    const kvf_request_data *request = kvf_exchange_data(exchange);
    const char *name = kvf_exchange_path(exchange) + strlen(request->route->path);
    kvf_refusal refusal = {.status = 0};
    kvf_buffer out = {.data = NULL};
    for (size_t i = 0; i < count_names(server); i++)
        if (strcmp(name, name_of(server, i)) == 0) {
            add_model(server, request->api, name, &out);
            kvf_server_answer(exchange, 200, "application/json", &out);
            return;
        }
    refusal.code = "model_not_found";
    kvf_refuse(&refusal, 404, "model",
               "there is no model of this name here; /v1/models lists what there is (requests may "
               "call it anything)");
    kvf_server_refuse(server, exchange, &refusal);
}

/* ---- What runs ---------------------------------------------------------------------------- */

static void add_slot(const kvf_slot *slot, kvf_buffer *out)
{
    kvf_buffer_print(out, "{\"job\": %llu, \"choice\": %u, \"state\": \"%s\", ",
                     (unsigned long long)slot->job, slot->choice,
                     slot->is_reading ? "reading" : "answering");
    kvf_buffer_print(out,
                     "\"prompt_tokens\": %llu, \"cached_tokens\": %llu, \"read_tokens\": %llu, "
                     "\"answered_tokens\": %llu, \"max_tokens\": %llu, \"seconds\": %.3f}",
                     (unsigned long long)slot->n_prompt, (unsigned long long)slot->n_cached,
                     (unsigned long long)slot->n_read, (unsigned long long)slot->n_answered,
                     (unsigned long long)slot->max_tokens, slot->seconds);
}

void kvf_page_slots(kvf_server *server, kvf_exchange *exchange)
{
    kvf_buffer out = {.data = NULL};
    kvf_scheduler_report report;
    kvf_refusal refusal = {.status = 0};
    if (kvf_server_state(server) != KVF_SERVING_RUNS) {
        kvf_refuse(&refusal, 503, NULL, "the model is being loaded");
        kvf_server_refuse(server, exchange, &refusal);
        return;
    }
    kvf_scheduler_read_report(server->scheduler, &report);
    kvf_slot *slots = calloc(report.parallel + 1, sizeof *slots);
    uint32_t n = slots ? kvf_scheduler_slots(server->scheduler, slots, report.parallel) : 0;
    n = n < report.parallel ? n : report.parallel;
    kvf_buffer_print(&out,
                     "{\"parallel\": %u, \"running\": %u, \"queued\": %u, \"held_sessions\": %u, "
                     "\"slots\": [",
                     report.parallel, report.n_running, report.n_queued, report.n_held);
    for (uint32_t i = 0; i < n; i++) {
        kvf_buffer_add_string(&out, i > 0 ? ", " : "");
        add_slot(&slots[i], &out);
    }
    kvf_buffer_add_string(&out, "]}");
    free(slots);
    kvf_server_answer(exchange, 200, "application/json", &out);
}
