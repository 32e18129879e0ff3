/* Answers as OpenAI's API has them. */
#include "server/answering.h"

#include "text/json.h"

#include <string.h>

static const char *finish_reason(const kvf_choice *choice)
{
    return choice->end == KVF_JOB_MAX_TOKENS || choice->end == KVF_JOB_CONTEXT_FULL ? "length"
                                                                                    : "stop";
}

/* ---- What both endpoints have ------------------------------------------------------------- */

static void add_head(const kvf_answering *a, const char *object, kvf_buffer *out)
{
    kvf_buffer_print(out,
                     "{\"id\": \"%s\", \"object\": \"%s\", \"created\": %lld, \"model\": ", a->id,
                     object, (long long)a->created);
    kvf_json_write_chars(a->model, out);
    kvf_buffer_print(out, ", \"system_fingerprint\": \"kvfold-%s\"", kvf_version_string());
}

/* DeepSeek's names of the cached and the other tokens are beside OpenAI's. */
static void add_usage(const kvf_answering *a, kvf_buffer *out)
{
    const unsigned long long prompt = a->ask.prompt.n;
    const unsigned long long cached = a->n_cached;
    const unsigned long long answered = kvf_answering_answered(a);
    kvf_buffer_print(out,
                     "{\"prompt_tokens\": %llu, \"completion_tokens\": %llu, "
                     "\"total_tokens\": %llu, ",
                     prompt, answered, prompt + answered);
    kvf_buffer_print(out, "\"prompt_tokens_details\": {\"cached_tokens\": %llu}, ", cached);
    kvf_buffer_print(out, "\"completion_tokens_details\": {\"reasoning_tokens\": %llu}, ",
                     (unsigned long long)kvf_answering_reasoned(a));
    kvf_buffer_print(out, "\"prompt_cache_hit_tokens\": %llu, \"prompt_cache_miss_tokens\": %llu}",
                     cached, prompt - cached);
}

static void ping(const kvf_answering *a, kvf_buffer *out)
{
    (void)a;
    kvf_buffer_add_string(out, ": still here\n\n");
}

static void begin_nothing(const kvf_answering *a, kvf_buffer *out)
{
    (void)a;
    (void)out;
}

/* The end of a stream's piece; OpenAI has usage null in all but the last where it is asked for. */
static void end_piece(const kvf_answering *a, kvf_buffer *out)
{
    if (a->ask.includes_usage)
        kvf_buffer_add_string(out, ", \"usage\": null");
    kvf_buffer_add_string(out, "}\n\n");
}

static void end_stream(const kvf_answering *a, kvf_buffer *out)
{
    if (a->ask.includes_usage) {
        kvf_buffer_add_string(out, "data: ");
        add_head(a, a->ask.kind == KVF_ASK_COMPLETION ? "text_completion" : "chat.completion.chunk",
                 out);
        kvf_buffer_add_string(out, ", \"choices\": [], \"usage\": ");
        add_usage(a, out);
        kvf_buffer_add_string(out, "}\n\n");
    }
    kvf_buffer_add_string(out, "data: [DONE]\n\n");
}

/* An answer that comes whole. add_choice: what an endpoint says of each. */
static void add_whole(const kvf_answering *a, const char *object,
                      void (*add_choice)(const kvf_answering *a, const kvf_choice *choice,
                                         kvf_buffer *out),
                      kvf_buffer *out)
{
    add_head(a, object, out);
    kvf_buffer_add_string(out, ", \"choices\": [");
    for (uint32_t i = 0; i < a->ask.n_choices; i++) {
        kvf_buffer_print(out, "%s{\"index\": %u, ", i > 0 ? ", " : "", i);
        add_choice(a, &a->choices[i], out);
        kvf_buffer_print(out, ", \"finish_reason\": \"%s\"}", finish_reason(&a->choices[i]));
    }
    kvf_buffer_add_string(out, "], \"usage\": ");
    add_usage(a, out);
    kvf_buffer_add_string(out, "}");
}

/* ---- Logprobs ----------------------------------------------------------------------------- */

/* Tokens of which all that they read as is given now: [from, to). At the end, of a stop none more.
 */
static size_t scored_until(const kvf_choice *choice)
{
    const size_t given = kvf_answer_stream_given_bytes(choice->stream);
    size_t to = choice->scored_given;
    while (to < choice->n_scored && choice->scored[to].end_bytes <= given)
        to++;
    return to;
}

static void add_token(const kvf_answering *a, int32_t id, float logprob, kvf_buffer *out)
{
    kvf_span text;
    text.data = kvf_tokenizer_bytes(a->host->served->conversation->tokenizer, id, &text.bytes);
    kvf_buffer_add_string(out, "{\"token\": ");
    kvf_buffer_add_token(out, a->host->served, id);
    kvf_buffer_add_string(out, ", \"logprob\": ");
    kvf_buffer_add_logprob(out, logprob);
    kvf_buffer_add_string(out, ", \"bytes\": [");
    for (size_t i = 0; i < text.bytes; i++)
        kvf_buffer_print(out, i > 0 ? ", %u" : "%u", (unsigned char)text.data[i]);
    kvf_buffer_add_string(out, "]");
}

static void add_chat_logprobs(const kvf_answering *a, const kvf_choice *choice, size_t from,
                              size_t to, kvf_buffer *out)
{
    kvf_buffer_add_string(out, ", \"logprobs\": ");
    if (!a->ask.draw.logprobs) {
        kvf_buffer_add_string(out, "null");
        return;
    }
    kvf_buffer_add_string(out, "{\"content\": [");
    for (size_t i = from; i < to; i++) {
        const kvf_scored *scored = &choice->scored[i];
        kvf_buffer_add_string(out, i > from ? ", " : "");
        add_token(a, scored->id, scored->logprob, out);
        kvf_buffer_add_string(out, ", \"top_logprobs\": [");
        for (uint32_t j = 0; j < a->ask.draw.n_top; j++) {
            const kvf_logprob *top = &choice->tops[scored->first_top + j];
            kvf_buffer_add_string(out, j > 0 ? ", " : "");
            add_token(a, top->id, top->logprob, out);
            kvf_buffer_add_string(out, "}");
        }
        kvf_buffer_add_string(out, "]}");
    }
    kvf_buffer_add_string(out, "], \"refusal\": null}");
}

static bool same_texts(const kvf_answering *a, int32_t one, int32_t other)
{
    kvf_buffer left = {.data = NULL};
    kvf_buffer right = {.data = NULL};
    kvf_buffer_add_token(&left, a->host->served, one);
    kvf_buffer_add_token(&right, a->host->served, other);
    const bool same = !left.failed && !right.failed &&
                      kvf_span_equal(kvf_buffer_span(&left), kvf_buffer_span(&right));
    kvf_buffer_free(&left);
    kvf_buffer_free(&right);
    return same;
}

/* An object with the likeliest texts; of two tokens with one text the likelier counts. */
static void add_top_texts(const kvf_answering *a, const kvf_choice *choice,
                          const kvf_scored *scored, kvf_buffer *out)
{
    const kvf_logprob *tops = a->ask.draw.n_top > 0 ? choice->tops + scored->first_top : NULL;
    bool is_first = true;
    kvf_buffer_add_string(out, "{");
    for (uint32_t j = 0; j < a->ask.draw.n_top; j++) {
        bool is_there = false;
        for (uint32_t i = 0; i < j && !is_there; i++)
            is_there = same_texts(a, tops[i].id, tops[j].id);
        if (is_there)
            continue;
        kvf_buffer_add_string(out, is_first ? "" : ", ");
        kvf_buffer_add_token(out, a->host->served, tops[j].id);
        kvf_buffer_add_string(out, ": ");
        kvf_buffer_add_logprob(out, tops[j].logprob);
        is_first = false;
    }
    kvf_buffer_add_string(out, "}");
}

static void add_text_logprobs(const kvf_answering *a, const kvf_choice *choice, size_t from,
                              size_t to, kvf_buffer *out)
{
    kvf_buffer_add_string(out, ", \"logprobs\": ");
    if (!a->ask.draw.logprobs) {
        kvf_buffer_add_string(out, "null");
        return;
    }
    kvf_buffer_add_string(out, "{\"tokens\": [");
    for (size_t i = from; i < to; i++) {
        kvf_buffer_add_string(out, i > from ? ", " : "");
        kvf_buffer_add_token(out, a->host->served, choice->scored[i].id);
    }
    kvf_buffer_add_string(out, "], \"token_logprobs\": [");
    for (size_t i = from; i < to; i++) {
        kvf_buffer_add_string(out, i > from ? ", " : "");
        kvf_buffer_add_logprob(out, choice->scored[i].logprob);
    }
    kvf_buffer_add_string(out, "], \"top_logprobs\": [");
    for (size_t i = from; i < to; i++) {
        kvf_buffer_add_string(out, i > from ? ", " : "");
        add_top_texts(a, choice, &choice->scored[i], out);
    }
    kvf_buffer_add_string(out, "], \"text_offset\": [");
    for (size_t i = from; i < to; i++)
        kvf_buffer_print(out, i > from ? ", %zu" : "%zu", choice->scored[i].at_character);
    kvf_buffer_add_string(out, "]}");
}

/* ---- /v1/chat/completions ----------------------------------------------------------------- */

static void begin_chat_piece(const kvf_answering *a, kvf_choice *choice, kvf_buffer *out)
{
    kvf_buffer_add_string(out, "data: ");
    add_head(a, "chat.completion.chunk", out);
    kvf_buffer_print(out, ", \"choices\": [{\"index\": %zu, \"delta\": {",
                     kvf_choice_index(a, choice));
    if (!choice->has_role)
        kvf_buffer_add_string(out, "\"role\": \"assistant\"");
}

static void chat_text(const kvf_answering *a, kvf_choice *choice, bool is_reasoning, kvf_span text,
                      kvf_buffer *out)
{
    const size_t to = is_reasoning ? choice->scored_given : scored_until(choice);
    begin_chat_piece(a, choice, out);
    kvf_buffer_add_string(out, choice->has_role ? "" : ", ");
    kvf_buffer_add_string(out, is_reasoning ? "\"reasoning_content\": " : "\"content\": ");
    kvf_json_write_string(text, out);
    kvf_buffer_add_string(out, "}");
    add_chat_logprobs(a, choice, choice->scored_given, to, out);
    kvf_buffer_add_string(out, ", \"finish_reason\": null}]");
    end_piece(a, out);
    choice->scored_given = to;
    choice->has_role = true;
}

static void chat_end_choice(const kvf_answering *a, kvf_choice *choice, kvf_buffer *out)
{
    const size_t to = scored_until(choice);
    begin_chat_piece(a, choice, out);
    if (!choice->has_role)
        kvf_buffer_add_string(out, ", \"content\": \"\"");
    kvf_buffer_add_string(out, "}");
    if (to > choice->scored_given)
        add_chat_logprobs(a, choice, choice->scored_given, to, out);
    else
        kvf_buffer_add_string(out, ", \"logprobs\": null");
    kvf_buffer_print(out, ", \"finish_reason\": \"%s\"}]", finish_reason(choice));
    end_piece(a, out);
    choice->scored_given = to;
    choice->has_role = true;
}

static void chat_choice(const kvf_answering *a, const kvf_choice *choice, kvf_buffer *out)
{
    kvf_buffer_add_string(out, "\"message\": {\"role\": \"assistant\", \"content\": ");
    kvf_json_write_string(kvf_buffer_span(&choice->content), out);
    if (a->ask.settings.thinking) {
        kvf_buffer_add_string(out, ", \"reasoning_content\": ");
        kvf_json_write_string(kvf_buffer_span(&choice->reasoning), out);
    }
    kvf_buffer_add_string(out, ", \"refusal\": null}");
    add_chat_logprobs(a, choice, 0, scored_until(choice), out);
}

static void chat_whole(const kvf_answering *a, kvf_buffer *out)
{
    add_whole(a, "chat.completion", chat_choice, out);
}

const kvf_form kvf_form_chat = {.api = KVF_API_OPENAI,
                                .id_prefix = "chatcmpl-",
                                .ping = ping,
                                .begin = begin_nothing,
                                .text = chat_text,
                                .end_choice = chat_end_choice,
                                .end = end_stream,
                                .whole = chat_whole};

/* ---- /v1/completions ---------------------------------------------------------------------- */

static void completion_piece(const kvf_answering *a, kvf_choice *choice, kvf_span text,
                             const char *finish, kvf_buffer *out)
{
    const size_t to = scored_until(choice);
    kvf_buffer_add_string(out, "data: ");
    add_head(a, "text_completion", out);
    kvf_buffer_print(out,
                     ", \"choices\": [{\"index\": %zu, \"text\": ", kvf_choice_index(a, choice));
    kvf_json_write_string(text, out);
    add_text_logprobs(a, choice, choice->scored_given, to, out);
    kvf_buffer_print(out, ", \"finish_reason\": %s}]", finish);
    end_piece(a, out);
    choice->scored_given = to;
}

static void completion_text(const kvf_answering *a, kvf_choice *choice, bool is_reasoning,
                            kvf_span text, kvf_buffer *out)
{
    (void)is_reasoning;
    completion_piece(a, choice, text, "null", out);
}

static void completion_end_choice(const kvf_answering *a, kvf_choice *choice, kvf_buffer *out)
{
    const bool is_long = strcmp(finish_reason(choice), "length") == 0;
    completion_piece(a, choice, (kvf_span){"", 0}, is_long ? "\"length\"" : "\"stop\"", out);
}

static void completion_choice(const kvf_answering *a, const kvf_choice *choice, kvf_buffer *out)
{
    kvf_buffer_add_string(out, "\"text\": ");
    kvf_json_write_string(kvf_buffer_span(&choice->content), out);
    add_text_logprobs(a, choice, 0, scored_until(choice), out);
}

static void completion_whole(const kvf_answering *a, kvf_buffer *out)
{
    add_whole(a, "text_completion", completion_choice, out);
}

const kvf_form kvf_form_completion = {.api = KVF_API_OPENAI,
                                      .id_prefix = "cmpl-",
                                      .ping = ping,
                                      .begin = begin_nothing,
                                      .text = completion_text,
                                      .end_choice = completion_end_choice,
                                      .end = end_stream,
                                      .whole = completion_whole};
