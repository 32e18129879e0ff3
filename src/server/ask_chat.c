/* OpenAI's requests, with what DeepSeek's, llama.cpp's and others' servers have besides. */
#include "server/ask.h"

#include "engine/chat_request.h"
#include "error.h"

#include <stdio.h>

/* The most that max_tokens may say; what fits is the scheduler's to know. */
#define MAX_TOKENS (INT64_C(1) << 40)
enum { MAX_BIASES = 4096 };

/* ---- How it is drawn ---------------------------------------------------------------------- */

static bool read_seed(const kvf_fields *fields, kvf_draw *draw)
{
    int64_t seed;
    if (kvf_field_whole(fields, "seed", INT64_MIN, INT64_MAX, &seed))
        draw->seed = (uint64_t)seed;
    return fields->refusal->status == 0;
}

static bool read_drawing(const kvf_fields *fields, kvf_ask *ask)
{
    kvf_draw *draw = &ask->draw;
    int64_t top_k;
    kvf_field_float(fields, "temperature", 0, 2, &draw->temperature);
    kvf_field_float(fields, "top_p", 0, 1, &draw->top_p);
    kvf_field_float(fields, "min_p", 0, 1, &draw->min_p);
    if (kvf_field_whole(fields, "top_k", -1, INT32_MAX, &top_k))
        draw->top_k = top_k < 0 ? 0 : (uint32_t)top_k; /* -1 is off to others */
    kvf_field_float(fields, "presence_penalty", -2, 2, &draw->presence_penalty);
    kvf_field_float(fields, "frequency_penalty", -2, 2, &draw->frequency_penalty);
    kvf_field_float(fields, "repeat_penalty", 0.01, 100, &draw->repeat_penalty);
    kvf_field_float(fields, "repetition_penalty", 0.01, 100, &draw->repeat_penalty);
    return read_seed(fields, draw);
}

/* Digits alone. */
static bool read_id(kvf_span text, uint32_t n_ids, uint32_t *id)
{
    uint64_t number = 0;
    for (size_t i = 0; i < text.bytes && number < n_ids; i++) {
        if (text.data[i] < '0' || text.data[i] > '9')
            return false;
        number = 10 * number + (uint64_t)(text.data[i] - '0');
    }
    *id = (uint32_t)number;
    return text.bytes > 0 && number < n_ids;
}

/* {"1234": -100, ..}: keys are ids. */
static bool read_bias(const kvf_served *served, const kvf_fields *fields, kvf_ask *ask)
{
    const kvf_node *node = kvf_field(fields, "logit_bias");
    if (!node)
        return fields->refusal->status == 0;
    if (node->type != KVF_NODE_OBJECT || node->n > MAX_BIASES)
        return kvf_field_refuse(fields, "logit_bias", node,
                                "an object with at most 4096 ids of tokens");
    kvf_bias *bias = kvf_arena_array(&ask->arena, node->n + 1, sizeof *bias);
    if (!bias)
        return kvf_refuse(fields->refusal, 503, NULL, "no memory for the request");
    for (const kvf_node *one = node->first; one; one = one->next) {
        uint32_t id;
        double value;
        if (!read_id(one->key, served->n_ids, &id))
            return kvf_refuse(fields->refusal, 400, "logit_bias",
                              "logit_bias: \"%s\" is no id of a token; 0 to %u are",
                              kvf_span_printable(one->key).text, served->n_ids - 1);
        if (!kvf_node_number(one, &value) || !(value >= -100 && value <= 100))
            return kvf_refuse(fields->refusal, 400, "logit_bias",
                              "logit_bias: of the id %u it has to be a number from -100 to 100",
                              id);
        bias[ask->draw.n_bias++] = (kvf_bias){(int32_t)id, (float)value};
    }
    ask->draw.bias = bias;
    return true;
}

static bool read_stops(const kvf_fields *fields, kvf_ask *ask)
{
    const kvf_node *node = kvf_field(fields, "stop");
    if (!node)
        return fields->refusal->status == 0;
    if (node->type == KVF_NODE_STRING)
        return kvf_ask_add_stop(ask, node->text, "stop", fields->refusal);
    if (node->type != KVF_NODE_ARRAY)
        return kvf_field_refuse(fields, "stop", node, "a string or an array of strings");
    for (const kvf_node *one = node->first; one; one = one->next) {
        if (one->type != KVF_NODE_STRING)
            return kvf_refuse(fields->refusal, 400, "stop", "stop has %s; strings are needed",
                              kvf_node_what(one));
        if (!kvf_ask_add_stop(ask, one->text, "stop", fields->refusal))
            return false;
    }
    return true;
}

/* What both endpoints have. */
static bool read_common(const kvf_served *served, const kvf_fields *fields, kvf_ask *ask)
{
    static const kvf_refused_field refused[] = {{"best_of", "1"},
                                                {"use_beam_search", ""},
                                                {"length_penalty", "1|1.0"},
                                                {"typical_p", "1|1.0"},
                                                {"typ_p", "1|1.0"},
                                                {"tfs_z", "1|1.0"},
                                                {"mirostat", ""},
                                                {"dynatemp_range", ""},
                                                {"dry_multiplier", ""},
                                                {"xtc_probability", ""},
                                                {"no_repeat_ngram_size", ""},
                                                {"min_tokens", ""},
                                                {"ignore_eos", ""},
                                                {"stop_token_ids", ""},
                                                {"bad_words", ""},
                                                {"allowed_token_ids", ""},
                                                {"grammar", ""},
                                                {"json_schema", ""},
                                                {"guided_json", ""},
                                                {"guided_regex", ""},
                                                {"guided_choice", ""},
                                                {"guided_grammar", ""},
                                                {"structured_outputs", ""},
                                                {"echo", ""},
                                                {"suffix", ""},
                                                {"samplers", ""},
                                                {"lora", ""},
                                                {"prompt_logprobs", ""},
                                                {"n_predict", "-1"},
                                                {"n_probs", ""},
                                                {"top_a", ""},
                                                {"top_n_sigma", "-1|-1.0"},
                                                {"logits_processors", ""},
                                                {"include_stop_str_in_output", ""},
                                                {"truncate_prompt_tokens", ""}};
    kvf_fields stream = {.refusal = fields->refusal};
    int64_t number;
    if (!kvf_ask_refuse_fields(fields, refused, sizeof refused / sizeof *refused))
        return false;
    if (kvf_field_whole(fields, "n", 1, served->n_choices, &number))
        ask->n_choices = (uint32_t)number;
    if (kvf_field_whole(fields, "max_tokens", 1, MAX_TOKENS, &number))
        ask->max_tokens = (uint64_t)number;
    if (kvf_field_whole(fields, "max_completion_tokens", 1, MAX_TOKENS, &number))
        ask->max_tokens = (uint64_t)number;
    if (kvf_field_object(fields, "stream_options", "stream_options.", &stream))
        kvf_field_bool(&stream, "include_usage", &ask->includes_usage);
    return read_drawing(fields, ask) && read_bias(served, fields, ask) && read_stops(fields, ask);
}

/* ---- Thinking ----------------------------------------------------------------------------- */

static void read_template_arguments(const kvf_fields *fields, kvf_ask *ask)
{
    kvf_fields arguments;
    if (!kvf_field_object(fields, "chat_template_kwargs", "chat_template_kwargs.", &arguments))
        return;
    kvf_field_bool(&arguments, "thinking", &ask->wants_thinking);
    kvf_field_bool(&arguments, "enable_thinking", &ask->wants_thinking);
    kvf_ask_take_effort(ask, &arguments, "reasoning_effort");
}

/* true, false, or {"type": "enabled"}. */
static void read_thinking_field(const kvf_fields *fields, kvf_ask *ask)
{
    const kvf_node *node = kvf_field(fields, "thinking");
    kvf_fields inner;
    kvf_span type = {.bytes = 0};
    if (!node)
        return;
    if (node->type == KVF_NODE_OBJECT &&
        kvf_field_object(fields, "thinking", "thinking.", &inner) &&
        kvf_field_string(&inner, "type", &type)) {
        ask->wants_thinking = !kvf_span_is(type, "disabled");
        if (ask->wants_thinking && !kvf_span_is(type, "enabled") &&
            !kvf_span_is(type, "adaptive") && !kvf_span_is(type, "auto"))
            kvf_field_refuse(&inner, "type", kvf_field(&inner, "type"),
                             "enabled, adaptive, auto or disabled");
    } else if (node->type != KVF_NODE_OBJECT) {
        kvf_field_bool(fields, "thinking", &ask->wants_thinking);
    }
}

/* The more special a field is, the later it is read: the last word counts. */
static bool read_thinking(const kvf_fields *fields, kvf_ask *ask)
{
    kvf_fields reasoning;
    const kvf_node *think = kvf_field(fields, "think");
    if (kvf_span_is(ask->model, "deepseek-chat"))
        ask->wants_thinking = false;
    else if (kvf_span_is(ask->model, "deepseek-reasoner"))
        ask->wants_thinking = true;
    kvf_ask_take_effort(ask, fields, "reasoning_effort");
    if (kvf_field_object(fields, "reasoning", "reasoning.", &reasoning)) {
        kvf_field_bool(&reasoning, "enabled", &ask->wants_thinking);
        kvf_ask_take_effort(ask, &reasoning, "effort");
    }
    read_template_arguments(fields, ask);
    kvf_field_bool(fields, "enable_thinking", &ask->wants_thinking);
    if (think && think->type == KVF_NODE_STRING)
        kvf_ask_take_effort(ask, fields, "think");
    else
        kvf_field_bool(fields, "think", &ask->wants_thinking);
    read_thinking_field(fields, ask);
    return fields->refusal->status == 0;
}

/* ---- Messages ----------------------------------------------------------------------------- */

/* The format would write "[Unsupported image_url]" in the place of one, and the model guess. */
static bool check_parts(const kvf_node *messages, kvf_refusal *refusal)
{
    size_t i = 0;
    char param[96];
    if (!messages || messages->type != KVF_NODE_ARRAY)
        return true; /* said by others */
    for (const kvf_node *message = messages->first; message; message = message->next, i++) {
        const kvf_node *content = kvf_node_member(message, "content");
        size_t j = 0;
        if (!content || content->type != KVF_NODE_ARRAY)
            continue;
        for (const kvf_node *part = content->first; part; part = part->next, j++) {
            const kvf_node *type = kvf_node_member(part, "type");
            if (!type || type->type != KVF_NODE_STRING || kvf_span_is(type->text, "text"))
                continue;
            snprintf(param, sizeof param, "messages[%zu].content[%zu].type", i, j);
            return kvf_refuse(refusal, 400, param,
                              "%s is \"%s\"; this model reads text, and nothing else", param,
                              kvf_span_printable(type->text).text);
        }
    }
    return true;
}

/*
 * A developer's message is a system's: the format's own developer is for DeepSeek's search. An
 * assistant's that is the last goes on.
 */
static void adapt(kvf_messages *messages)
{
    for (size_t i = 0; i < messages->n; i++)
        if (messages->list[i].role == KVF_ROLE_DEVELOPER)
            messages->list[i].role = KVF_ROLE_SYSTEM;
    if (messages->n > 0 && messages->list[messages->n - 1].role == KVF_ROLE_ASSISTANT)
        messages->list[messages->n - 1].without_eos = true;
}

static bool read_messages(const kvf_served *served, const kvf_fields *fields, kvf_ask *ask)
{
    const kvf_node *node = kvf_field(fields, "messages");
    kvf_messages messages;
    kvf_error error;
    if (!node)
        return kvf_refuse(fields->refusal, 400, "messages",
                          "messages is missing; an array of messages is needed");
    if (!check_parts(node, fields->refusal))
        return false;
    if (kvf_messages_read(node, "messages", &messages, &error) != KVF_OK)
        return kvf_refuse_error(fields->refusal, "messages", &error);
    adapt(&messages);
    bool read = kvf_chat_messages_check(&messages, &error) == KVF_OK ||
                kvf_refuse_error(fields->refusal, "messages", &error);
    for (size_t i = 0; i < messages.n && read; i++)
        if (messages.list[i].tools || messages.list[i].response_format)
            read = kvf_refuse(fields->refusal, 400, "messages",
                              "messages[%zu] has tools or response_format, which this server does "
                              "not support yet",
                              i);
    read = read && kvf_ask_render(served, ask, messages.list, messages.n, fields->refusal);
    kvf_messages_free(&messages);
    return read;
}

/* Of the endpoint for conversations alone. */
static bool refuse_others(const kvf_fields *fields)
{
    static const kvf_refused_field refused[] = {{"tools", ""},
                                                {"functions", ""},
                                                {"tool_choice", "\"none\"|\"auto\""},
                                                {"function_call", "\"none\"|\"auto\""},
                                                {"response_format", "{\"type\": \"text\"}"},
                                                {"modalities", "[\"text\"]"},
                                                {"audio", ""},
                                                {"web_search_options", ""},
                                                {"verbosity", "\"medium\""},
                                                {"chat_template", ""},
                                                {"documents", ""}};
    return kvf_ask_refuse_fields(fields, refused, sizeof refused / sizeof *refused);
}

bool kvf_ask_read_chat(const kvf_served *served, const kvf_fields *fields, kvf_ask *ask)
{
    int64_t top = 0;
    if (!refuse_others(fields) || !read_common(served, fields, ask) ||
        !read_thinking(fields, ask) || !kvf_ask_settle(served, ask, fields->refusal))
        return false;
    kvf_field_bool(fields, "logprobs", &ask->draw.logprobs);
    if (kvf_field_whole(fields, "top_logprobs", 0, KVF_MAX_TOP_LOGPROBS, &top) && top > 0 &&
        !ask->draw.logprobs)
        return kvf_refuse(fields->refusal, 400, "top_logprobs",
                          "top_logprobs needs logprobs to be true");
    ask->draw.n_top = (uint32_t)top;
    return read_messages(served, fields, ask);
}

/* ---- Plain text --------------------------------------------------------------------------- */

static bool take_ids(const kvf_served *served, const kvf_fields *fields, const kvf_node *prompt,
                     kvf_ask *ask)
{
    if (!kvf_ids_reserve(&ask->prompt, prompt->n))
        return kvf_refuse(fields->refusal, 503, NULL, "no memory for the request");
    for (const kvf_node *one = prompt->first; one; one = one->next) {
        int64_t id;
        if (!kvf_node_whole(one, &id) || id < 0 || id >= served->n_ids)
            return kvf_refuse(fields->refusal, 400, "prompt",
                              "prompt[%zu] is no id of a token; 0 to %u are", ask->prompt.n,
                              served->n_ids - 1);
        ask->prompt.ids[ask->prompt.n++] = (int32_t)id;
    }
    return true;
}

static bool take_text(const kvf_served *served, kvf_span text, kvf_ask *ask, kvf_refusal *refusal)
{
    kvf_error error;
    if (!kvf_ids_reserve(&ask->prompt, 1))
        return kvf_refuse(refusal, 503, NULL, "no memory for the request");
    if (served->bos >= 0)
        ask->prompt.ids[ask->prompt.n++] = served->bos;
    return kvf_encode_text(served->conversation->encoder, text.data, text.bytes, false,
                           &ask->prompt, &error) == KVF_OK ||
           kvf_refuse_error(refusal, "prompt", &error);
}

/* A text, ids, or an array with one of these: several at once are several requests. */
static bool read_prompt(const kvf_served *served, const kvf_fields *fields, kvf_ask *ask)
{
    const kvf_node *prompt = kvf_field(fields, "prompt");
    if (prompt && prompt->type == KVF_NODE_ARRAY && prompt->n == 1 &&
        prompt->first->type != KVF_NODE_NUMBER)
        prompt = prompt->first;
    if (prompt && prompt->type == KVF_NODE_STRING)
        return take_text(served, prompt->text, ask, fields->refusal);
    if (prompt && prompt->type == KVF_NODE_ARRAY && prompt->n > 1 &&
        prompt->first->type != KVF_NODE_NUMBER)
        return kvf_refuse(fields->refusal, 400, "prompt",
                          "prompt has %zu prompts; one a request is supported", prompt->n);
    if (prompt && prompt->type == KVF_NODE_ARRAY)
        return take_ids(served, fields, prompt, ask);
    return kvf_refuse(fields->refusal, 400, "prompt",
                      "prompt is %s; a string or an array of ids is needed", kvf_node_what(prompt));
}

bool kvf_ask_read_completion(const kvf_served *served, const kvf_fields *fields, kvf_ask *ask)
{
    int64_t top = 0;
    if (!read_common(served, fields, ask))
        return false;
    if (kvf_field_whole(fields, "logprobs", 0, KVF_MAX_TOP_LOGPROBS, &top)) {
        ask->draw.logprobs = true;
        ask->draw.n_top = (uint32_t)top;
    }
    if (fields->refusal->status != 0 || !read_prompt(served, fields, ask))
        return false;
    ask->turn_at = ask->prompt.n;
    return ask->prompt.n > 0 || kvf_refuse(fields->refusal, 400, "prompt",
                                           "prompt is empty; there is nothing to go on from");
}
