/* GET /metrics: Prometheus' text. */
#include "server/server_internal.h"

static const unsigned statuses[KVF_STATUSES] = {200, 204, 400, 401, 403, 404, 405, 408,
                                                413, 415, 429, 431, 500, 501, 503, 0 /* cut off */};

size_t kvf_status_index(unsigned status)
{
    for (size_t i = 0; i < KVF_STATUSES - 1; i++)
        if (statuses[i] == status)
            return i;
    return KVF_STATUSES - 1; /* any other */
}

static void add_requests(kvf_server *server, kvf_buffer *out)
{
    kvf_buffer_add_string(out, "# HELP kvfold_http_requests_total Requests that are over, by path "
                               "and status; 0: cut off before an answer.\n"
                               "# TYPE kvfold_http_requests_total counter\n");
    for (size_t route = 0; route <= KVF_ROUTES; route++)
        for (size_t i = 0; i < KVF_STATUSES; i++) {
            const unsigned long long n = atomic_load(&server->counts[route][i]);
            if (n == 0)
                continue;
            kvf_buffer_print(out, "kvfold_http_requests_total{method=\"%s\",path=\"%s\",",
                             route < KVF_ROUTES ? kvf_routes[route].method : "other",
                             route < KVF_ROUTES ? kvf_routes[route].path : "other");
            if (i < KVF_STATUSES - 1)
                kvf_buffer_print(out, "status=\"%u\"} %llu\n", statuses[i], n);
            else
                kvf_buffer_print(out, "status=\"other\"} %llu\n", n);
        }
}

static void add_whole(kvf_buffer *out, const char *name, const char *kind, const char *help,
                      uint64_t value)
{
    kvf_buffer_print(out, "# HELP kvfold_%s %s\n", name, help);
    kvf_buffer_print(out, "# TYPE kvfold_%s %s\nkvfold_%s %llu\n", name, kind, name,
                     (unsigned long long)value);
}

static void add_seconds(kvf_buffer *out, const char *name, const char *kind, const char *help,
                        double value)
{
    kvf_buffer_print(out, "# HELP kvfold_%s %s\n", name, help);
    kvf_buffer_print(out, "# TYPE kvfold_%s %s\nkvfold_%s %.9g\n", name, kind, name, value);
}

static void add_gauges(const kvf_scheduler_report *r, kvf_buffer *out)
{
    add_whole(out, "parallel", "gauge", "Answers that may run at once.", r->parallel);
    add_whole(out, "running", "gauge", "Answers that run.", r->n_running);
    add_whole(out, "queue", "gauge", "Requests that may wait.", r->queue);
    add_whole(out, "queued", "gauge", "Requests that wait.", r->n_queued);
    add_whole(out, "restoring", "gauge",
              "Of these, that wait for a file of their prompt's beginning.", r->n_restoring);
    add_whole(out, "held_sessions", "gauge", "Sessions in memory that nobody runs.", r->n_held);
    add_whole(out, "held_tokens", "gauge", "Tokens in these.", r->held_tokens);
    add_whole(out, "memory_bytes", "gauge", "Memory that sessions may take.", r->memory_bytes);
    add_whole(out, "live_bytes", "gauge", "Memory that sessions have.", r->live_bytes);
    add_whole(out, "most_bytes", "gauge", "Memory that they ever had.", r->most_bytes);
    add_whole(out, "stored_files", "gauge", "Sessions on the disk.", r->stored_files);
    add_whole(out, "stored_tokens", "gauge",
              "Tokens in these, which are there after any end of this process.", r->stored_tokens);
    add_whole(out, "stored_bytes", "gauge", "Bytes of these files.", r->stored_bytes);
    add_seconds(out, "step_seconds", "gauge", "Median of the last second's steps.",
                r->step_seconds);
    add_seconds(out, "longest_pause_seconds", "gauge", "Between two tokens of one answer.",
                r->longest_pause_seconds);
}

static void add_counters(const kvf_scheduler_report *r, kvf_buffer *out)
{
    add_whole(out, "jobs_total", "counter", "Requests that were accepted.", r->n_jobs);
    add_whole(out, "refused_total", "counter", "Requests that found no place.", r->n_refused);
    add_whole(out, "timed_out_total", "counter", "Requests that waited too long.", r->n_timed_out);
    add_whole(out, "failed_total", "counter", "Requests that failed.", r->n_failed);
    add_whole(out, "cancelled_total", "counter", "Requests whose reader left.", r->n_cancelled);
    add_whole(out, "steps_total", "counter", "Steps of the model.", r->n_steps);
    add_whole(out, "prompt_tokens_total", "counter", "Tokens of prompts.", r->prompt_tokens);
    add_whole(out, "cached_tokens_total", "counter", "Of these, not read again.", r->cached_tokens);
    add_whole(out, "read_tokens_total", "counter", "Tokens that were read.", r->read_tokens);
    add_whole(out, "answered_tokens_total", "counter", "Tokens that were answered.",
              r->answered_tokens);
    add_whole(out, "evicted_total", "counter", "Held sessions that left the memory.", r->n_evicted);
    add_whole(out, "dropped_total", "counter", "Of these, that the disk could not keep.",
              r->n_dropped);
    add_seconds(out, "busy_seconds_total", "counter", "Time in steps.", r->busy_seconds);
}

void kvf_page_metrics(kvf_server *server, kvf_exchange *exchange)
{
    kvf_buffer out = {.data = NULL};
    kvf_scheduler_report report;
    uint32_t connections;
    uint32_t requests;
    kvf_http_count(server->http, &connections, &requests);
    add_requests(server, &out);
    add_whole(&out, "http_connections", "gauge", "Connections that are open.", connections);
    add_whole(&out, "http_requests", "gauge", "Requests that are not over.", requests);
    add_whole(&out, "ready", "gauge", "Whether the model is loaded.",
              kvf_server_state(server) == KVF_SERVING_RUNS);
    if (kvf_server_state(server) == KVF_SERVING_RUNS) {
        kvf_scheduler_read_report(server->scheduler, &report);
        add_gauges(&report, &out);
        add_counters(&report, &out);
    }
    kvf_server_answer(exchange, 200, "text/plain; version=0.0.4; charset=utf-8", &out);
}
