/* All that is said, for --trace: two lines of JSON a request. Nothing else writes any of it down.
 */
#include "server/server_internal.h"

#include "text/json.h"

#include <string.h>

static void add_text(kvf_buffer *out, const char *key, kvf_span text)
{
    kvf_buffer_print(out, ", \"%s\": ", key);
    if (text.bytes > 0 && !kvf_span_is_utf8(text))
        kvf_buffer_add_string(out, "null"); /* it was refused for that */
    else
        kvf_json_write_string(text, out);
}

static void write_line(kvf_server *server, kvf_buffer *out)
{
    if (!out->failed)
        server->options.trace(server->options.user, out->data, out->bytes);
    kvf_buffer_free(out);
}

void kvf_server_trace_request(kvf_server *server, const kvf_exchange *exchange)
{
    const kvf_request_data *request = kvf_exchange_data(exchange);
    kvf_buffer out = {.data = NULL};
    if (!server->options.trace)
        return;
    kvf_buffer_print(&out, "{\"event\": \"request\", \"request\": \"%s\", \"path\": \"%s\"",
                     request->id, request->route->path);
    add_text(&out, "body", kvf_exchange_body(exchange));
    kvf_buffer_add_string(&out, "}");
    write_line(server, &out);
}

static const char *name_end(kvf_job_end end)
{
    switch (end) {
    case KVF_JOB_EOS: return "eos";
    case KVF_JOB_MAX_TOKENS: return "max_tokens";
    case KVF_JOB_CONTEXT_FULL: return "context_full";
    case KVF_JOB_STOP: return "stop";
    case KVF_JOB_CANCELLED: return "cancelled";
    case KVF_JOB_TIMED_OUT: return "timed_out";
    case KVF_JOB_FAILED: return "failed";
    case KVF_JOB_SHUTDOWN: return "shutdown";
    }
    return "";
}

void kvf_server_trace_answer(kvf_server *server, const kvf_answering *a)
{
    kvf_buffer out = {.data = NULL};
    if (!server->options.trace)
        return;
    kvf_buffer_print(&out, "{\"event\": \"answer\", \"request\": \"%s\", \"id\": \"%s\"",
                     a->request_id, a->id);
    kvf_buffer_print(&out, ", \"prompt_tokens\": %zu, \"cached_tokens\": %llu, \"turn_at\": %zu",
                     a->ask.prompt.n, (unsigned long long)a->n_cached, a->ask.turn_at);
    kvf_buffer_print(&out,
                     ", \"queued_seconds\": %.6f, \"prefill_seconds\": %.6f, "
                     "\"decode_seconds\": %.6f, \"choices\": [",
                     a->usage.queued_seconds, a->usage.prefill_seconds, a->usage.decode_seconds);
    for (uint32_t i = 0; i < a->ask.n_choices; i++) {
        const kvf_choice *choice = &a->choices[i];
        kvf_buffer_print(&out, "%s{\"end\": \"%s\", \"answered_tokens\": %llu", i > 0 ? ", " : "",
                         name_end(choice->end), (unsigned long long)choice->n_answered);
        add_text(&out, "reasoning", kvf_buffer_span(&choice->reasoning));
        add_text(&out, "content", kvf_buffer_span(&choice->content));
        kvf_buffer_add_string(&out, "}");
    }
    kvf_buffer_add_string(&out, "]}");
    write_line(server, &out);
}
