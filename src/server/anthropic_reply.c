/* Answers as Anthropic's API has them. */
#include "server/answering.h"

#include "checksum.h"
#include "text/json.h"

#include <string.h>

enum { BLOCK_NONE, BLOCK_THINKING, BLOCK_TEXT };

static const char *stop_reason(const kvf_choice *choice)
{
    return choice->end == KVF_JOB_MAX_TOKENS || choice->end == KVF_JOB_CONTEXT_FULL ? "max_tokens"
           : choice->end == KVF_JOB_STOP ? "stop_sequence"
                                         : "end_turn";
}

static void add_stop(const kvf_choice *choice, kvf_buffer *out)
{
    const char *stop =
        choice->end == KVF_JOB_STOP ? kvf_answer_stream_stopped_by(choice->stream) : NULL;
    kvf_buffer_print(out, "\"stop_reason\": \"%s\", \"stop_sequence\": ", stop_reason(choice));
    if (stop)
        kvf_json_write_string((kvf_span){stop, strlen(stop)}, out);
    else
        kvf_buffer_add_string(out, "null");
}

/* Cached tokens are no input tokens there. */
static void add_usage(const kvf_answering *a, kvf_buffer *out)
{
    kvf_buffer_print(out,
                     "{\"input_tokens\": %llu, \"cache_creation_input_tokens\": 0, "
                     "\"cache_read_input_tokens\": %llu, \"output_tokens\": %llu}",
                     (unsigned long long)(a->ask.prompt.n - a->n_cached),
                     (unsigned long long)a->n_cached,
                     (unsigned long long)kvf_answering_answered(a));
}

static void add_head(const kvf_answering *a, kvf_buffer *out)
{
    kvf_buffer_print(out,
                     "{\"id\": \"%s\", \"type\": \"message\", \"role\": \"assistant\", "
                     "\"model\": ",
                     a->id);
    kvf_json_write_string((kvf_span){a->model, strlen(a->model)}, out);
    kvf_buffer_add_string(out, ", \"content\": [");
}

/* What clients have to send back with reasoning. Nobody checks it: the text says what it is. */
static void add_signature(const kvf_choice *choice, kvf_buffer *out)
{
    kvf_buffer_print(
        out, "\"kvfold%016llx\"",
        (unsigned long long)kvf_checksum(choice->reasoning.data, choice->reasoning.bytes));
}

/* ---- A stream ----------------------------------------------------------------------------- */

static void ping(const kvf_answering *a, kvf_buffer *out)
{
    (void)a;
    kvf_buffer_add_string(out, "event: ping\ndata: {\"type\": \"ping\"}\n\n");
}

static void begin(const kvf_answering *a, kvf_buffer *out)
{
    kvf_buffer_add_string(out, "event: message_start\ndata: {\"type\": \"message_start\", "
                               "\"message\": ");
    add_head(a, out);
    kvf_buffer_add_string(out, "], \"stop_reason\": null, \"stop_sequence\": null, \"usage\": ");
    add_usage(a, out);
    kvf_buffer_add_string(out, "}}\n\n");
}

static void begin_delta(const kvf_choice *choice, const char *type, kvf_buffer *out)
{
    kvf_buffer_print(out,
                     "event: content_block_delta\ndata: {\"type\": \"content_block_delta\", "
                     "\"index\": %u, \"delta\": {\"type\": \"%s\", ",
                     choice->n_blocks - 1, type);
}

static void close_block(kvf_choice *choice, kvf_buffer *out)
{
    if (choice->open_block == BLOCK_THINKING) {
        begin_delta(choice, "signature_delta", out);
        kvf_buffer_add_string(out, "\"signature\": ");
        add_signature(choice, out);
        kvf_buffer_add_string(out, "}}\n\n");
    }
    if (choice->open_block != BLOCK_NONE)
        kvf_buffer_print(out,
                         "event: content_block_stop\ndata: {\"type\": \"content_block_stop\", "
                         "\"index\": %u}\n\n",
                         choice->n_blocks - 1);
    choice->open_block = BLOCK_NONE;
}

static void open_block(kvf_choice *choice, int block, kvf_buffer *out)
{
    if (choice->open_block == block)
        return;
    close_block(choice, out);
    choice->open_block = block;
    kvf_buffer_print(out,
                     "event: content_block_start\ndata: {\"type\": \"content_block_start\", "
                     "\"index\": %u, \"content_block\": %s}\n\n",
                     choice->n_blocks++,
                     block == BLOCK_THINKING
                         ? "{\"type\": \"thinking\", \"thinking\": \"\", \"signature\": \"\"}"
                         : "{\"type\": \"text\", \"text\": \"\"}");
}

static void text(const kvf_answering *a, kvf_choice *choice, bool is_reasoning, kvf_span new_text,
                 kvf_buffer *out)
{
    open_block(choice, is_reasoning ? BLOCK_THINKING : BLOCK_TEXT, out);
    if (is_reasoning && !a->ask.shows_thinking)
        return;
    begin_delta(choice, is_reasoning ? "thinking_delta" : "text_delta", out);
    kvf_buffer_add_string(out, is_reasoning ? "\"thinking\": " : "\"text\": ");
    kvf_json_write_string(new_text, out);
    kvf_buffer_add_string(out, "}}\n\n");
}

static void end_choice(const kvf_answering *a, kvf_choice *choice, kvf_buffer *out)
{
    close_block(choice, out);
    kvf_buffer_add_string(out, "event: message_delta\ndata: {\"type\": \"message_delta\", "
                               "\"delta\": {");
    add_stop(choice, out);
    kvf_buffer_add_string(out, "}, \"usage\": ");
    add_usage(a, out);
    kvf_buffer_add_string(out, "}\n\n");
}

static void end(const kvf_answering *a, kvf_buffer *out)
{
    (void)a;
    kvf_buffer_add_string(out, "event: message_stop\ndata: {\"type\": \"message_stop\"}\n\n");
}

/* ---- The whole ---------------------------------------------------------------------------- */

static void whole(const kvf_answering *a, kvf_buffer *out)
{
    const kvf_choice *choice = &a->choices[0];
    add_head(a, out);
    if (choice->reasoning.bytes > 0) {
        kvf_buffer_add_string(out, "{\"type\": \"thinking\", \"thinking\": ");
        kvf_json_write_string(
            a->ask.shows_thinking ? kvf_buffer_span(&choice->reasoning) : (kvf_span){"", 0}, out);
        kvf_buffer_add_string(out, ", \"signature\": ");
        add_signature(choice, out);
        kvf_buffer_add_string(out, choice->content.bytes > 0 ? "}, " : "}");
    }
    if (choice->content.bytes > 0) {
        kvf_buffer_add_string(out, "{\"type\": \"text\", \"text\": ");
        kvf_json_write_string(kvf_buffer_span(&choice->content), out);
        kvf_buffer_add_string(out, "}");
    }
    kvf_buffer_add_string(out, "], ");
    add_stop(choice, out);
    kvf_buffer_add_string(out, ", \"usage\": ");
    add_usage(a, out);
    kvf_buffer_add_string(out, "}");
}

const kvf_form kvf_form_messages = {.api = KVF_API_ANTHROPIC,
                                    .id_prefix = "msg_",
                                    .ping = ping,
                                    .begin = begin,
                                    .text = text,
                                    .end_choice = end_choice,
                                    .end = end,
                                    .whole = whole};
