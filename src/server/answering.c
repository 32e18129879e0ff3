#include "server/answering.h"

#include "error.h"
#include "server/replay.h"
#include "text/decoder.h"
#include "text/json.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

/* ---- What is written ---------------------------------------------------------------------- */

void kvf_buffer_add_logprob(kvf_buffer *out, float logprob)
{
    /* JSON has no infinity; OpenAI writes this for what is never drawn. */
    kvf_buffer_print(out, "%.9g", isfinite(logprob) ? (double)logprob : -9999.0);
}

void kvf_buffer_add_token(kvf_buffer *out, const kvf_served *served, int32_t id)
{
    kvf_decoder decoder;
    kvf_buffer text = {.data = NULL};
    kvf_decoder_start(&decoder, served->conversation->tokenizer, false);
    kvf_decoder_add(&decoder, id, &text);
    kvf_decoder_flush(&decoder, &text);
    kvf_json_write_string(kvf_buffer_span(&text), out);
    out->failed = out->failed || text.failed;
    kvf_buffer_free(&text);
}

size_t kvf_choice_index(const kvf_answering *a, const kvf_choice *choice)
{
    return (size_t)(choice - a->choices);
}

uint64_t kvf_answering_answered(const kvf_answering *a)
{
    uint64_t n = 0;
    for (uint32_t i = 0; i < a->ask.n_choices; i++)
        n += a->choices[i].n_answered;
    return n;
}

uint64_t kvf_answering_reasoned(const kvf_answering *a)
{
    uint64_t n = 0;
    for (uint32_t i = 0; i < a->ask.n_choices; i++)
        n += a->choices[i].n_reasoning;
    return n;
}

/* Sends the pieces that were made. False: nobody reads them. */
static bool flush(kvf_answering *a)
{
    const bool sent =
        a->out.bytes == 0 || kvf_exchange_write(a->exchange, a->out.data, a->out.bytes);
    a->out.bytes = 0;
    return sent && !a->out.failed;
}

/* ---- Text --------------------------------------------------------------------------------- */

/* Of a block of calls, which no request can ask for yet, the text as it is. */
static void take_event(void *user, const kvf_answer_event *event)
{
    kvf_choice *choice = user;
    switch (event->kind) {
    case KVF_ANSWER_REASONING: kvf_buffer_add_span(&choice->reasoning, event->raw); break;
    case KVF_ANSWER_CONTENT:
    case KVF_ANSWER_CALL:
    case KVF_ANSWER_MALFORMED: kvf_buffer_add_span(&choice->content, event->raw); break;
    case KVF_ANSWER_FRAME: break;
    }
}

/* What is new of a choice, as pieces of a stream. */
static void give_new(kvf_answering *a, kvf_choice *choice)
{
    const kvf_span reasoning = kvf_span_after(
        (kvf_span){choice->reasoning.data, choice->reasoning.bytes}, choice->reasoning_given);
    const kvf_span content = kvf_span_after((kvf_span){choice->content.data, choice->content.bytes},
                                            choice->content_given);
    if (!a->ask.streams)
        return;
    if (reasoning.bytes > 0)
        a->form->text(a, choice, true, reasoning, &a->out);
    choice->reasoning_given += reasoning.bytes;
    if (content.bytes > 0)
        a->form->text(a, choice, false, content, &a->out);
    choice->content_given += content.bytes;
}

static size_t count_characters(kvf_span text)
{
    size_t n = 0;
    for (size_t i = 0; i < text.bytes; i++)
        n += (text.data[i] & 0xC0) != 0x80;
    return n;
}

static bool grow(void **data, size_t *capacity, size_t n, size_t item_bytes)
{
    if (n <= *capacity)
        return true;
    const size_t larger = n < 32 ? 64 : 2 * n;
    void *moved = realloc(*data, larger * item_bytes);
    if (!moved)
        return false;
    *data = moved;
    *capacity = larger;
    return true;
}

static void score(kvf_answering *a, kvf_choice *choice, const kvf_drawn *drawn)
{
    const uint32_t n_top = a->ask.draw.n_top;
    const kvf_tokenizer *tokenizer = a->host->served->conversation->tokenizer;
    void *scored = choice->scored;
    void *tops = choice->tops;
    kvf_span text;
    choice->failed =
        !grow(&scored, &choice->scored_capacity, choice->n_scored + 1, sizeof *choice->scored) ||
        !grow(&tops, &choice->tops_capacity, choice->n_tops + n_top, sizeof *choice->tops) ||
        choice->failed;
    choice->scored = scored;
    choice->tops = tops;
    if (choice->failed)
        return;
    choice->scored[choice->n_scored++] =
        (kvf_scored){.id = drawn->id,
                     .logprob = drawn->logprob,
                     .first_top = choice->n_tops,
                     .end_bytes = kvf_answer_stream_fed_bytes(choice->stream),
                     .at_character = choice->n_characters};
    if (n_top > 0)
        memcpy(choice->tops + choice->n_tops, drawn->top, n_top * sizeof *choice->tops);
    choice->n_tops += n_top;
    text.data = kvf_tokenizer_bytes(tokenizer, drawn->id, &text.bytes);
    choice->n_characters += count_characters(text);
}

/* ---- What was sampled --------------------------------------------------------------------- */

static void remember_part(kvf_answering *a, kvf_replay_role role, const kvf_buffer *text,
                          const int32_t *ids, size_t n)
{
    const kvf_replay_key key = {.before = a->ask.prompt.ids,
                                .n_before = a->ask.answer_at,
                                .role = role,
                                .text = text->data,
                                .text_bytes = text->bytes};
    if (text->bytes > 0 && n > 0)
        kvf_replays_add(a->host->served->replays, &key, ids, n);
}

/*
 * The ids of its reasoning and of its content. Where a stop ended it in the middle of a token, or
 * the prompt has a part of the answer, its text is no ids' own, and would not be found.
 */
static void remember(kvf_answering *a, const kvf_choice *choice)
{
    const kvf_conversation *conversation = a->host->served->conversation;
    const int32_t *ids = choice->sampled.ids;
    const size_t n = choice->sampled.n;
    const kvf_standing place =
        kvf_conversation_place(conversation, a->ask.prompt.ids, a->ask.prompt.n);
    const bool is_whole = kvf_answer_stream_fed_bytes(choice->stream) ==
                              kvf_answer_stream_given_bytes(choice->stream) &&
                          a->ask.prompt.n == place.answer_at;
    size_t at = 0;
    if (!is_whole || n == 0 || choice->end == KVF_JOB_FAILED)
        return;
    if (place.is_reasoning) {
        while (at < n && ids[at] != conversation->marks[KVF_MARK_END_THINK])
            at++;
        if (at == n)
            return; /* it has not ended, and is not sent back as it is */
        remember_part(a, KVF_REPLAY_REASONING, &choice->reasoning, ids, at);
        at++;
    }
    remember_part(a, KVF_REPLAY_CONTENT, &choice->content, ids + at, n - at);
}

/* ---- On the scheduler's thread ------------------------------------------------------------ */

static void begin(kvf_answering *a)
{
    if (a->has_begun)
        return;
    a->has_begun = true;
    if (!a->ask.streams)
        return;
    a->form->begin(a, &a->out);
    kvf_exchange_begin(a->exchange, 200, "text/event-stream; charset=utf-8");
    flush(a);
}

/* It left the queue, with what is held already. */
static void progress(void *user, uint64_t n_read, uint64_t n_prompt)
{
    kvf_answering *a = user;
    (void)n_prompt;
    if (!a->has_begun)
        a->n_cached = n_read;
    begin(a);
}

static kvf_taken take(void *user, uint32_t index, const kvf_drawn *drawn)
{
    kvf_answering *a = user;
    kvf_choice *choice = &a->choices[index];
    const kvf_conversation *conversation = a->host->served->conversation;
    const bool is_chat = a->ask.settings.is_chat;
    if (is_chat && kvf_conversation_ends(conversation, drawn->id))
        return KVF_TAKEN_AS_END;
    begin(a);
    const bool ends_reasoning =
        is_chat && choice->is_reasoning && drawn->id == conversation->marks[KVF_MARK_END_THINK];
    choice->n_reasoning += choice->is_reasoning;
    kvf_answer_stream_add(choice->stream, drawn->id);
    const kvf_token_kind kind = kvf_tokenizer_kind(conversation->tokenizer, drawn->id);
    if (a->ask.draw.logprobs && !choice->is_reasoning && kind != KVF_TOKEN_ADDED &&
        kind != KVF_TOKEN_SPECIAL)
        score(a, choice, drawn);
    if (ends_reasoning)
        choice->is_reasoning = false;
    give_new(a, choice);
    if (!flush(a))
        return KVF_TAKEN_BY_NOBODY;
    if (kvf_answer_stream_is_stopped(choice->stream))
        return KVF_TAKEN_AS_STOP;
    if (kvf_ids_reserve(&choice->sampled, 1))
        choice->sampled.ids[choice->sampled.n++] = drawn->id;
    else
        choice->failed = true;
    return KVF_TAKEN;
}

/* Of an end that is none of an answer. */
static void refuse_end(kvf_answering *a, kvf_job_end end, const kvf_error *error)
{
    switch (end) {
    case KVF_JOB_EOS:
    case KVF_JOB_MAX_TOKENS:
    case KVF_JOB_CONTEXT_FULL:
    case KVF_JOB_STOP:
    case KVF_JOB_CANCELLED: break;
    case KVF_JOB_TIMED_OUT:
        a->refusal.retry_after_seconds = 10;
        kvf_refuse(&a->refusal, 429, NULL,
                   "other requests took too long, so that this one could not begin; what was read "
                   "of its prompt is kept");
        break;
    case KVF_JOB_FAILED: kvf_refuse_error(&a->refusal, NULL, error); break;
    case KVF_JOB_SHUTDOWN: kvf_refuse(&a->refusal, 503, NULL, "the server is being stopped"); break;
    }
}

static void conclude(kvf_answering *a)
{
    kvf_buffer whole = {.data = NULL};
    kvf_buffer piece = {.data = NULL};
    unsigned status = 200;
    if (a->refusal.status) {
        char seconds[16];
        status = a->refusal.status;
        kvf_refusal_write(&a->refusal, a->form->api, a->request_id, &whole);
        kvf_refusal_write_event(&a->refusal, a->form->api, a->request_id, &piece);
        const unsigned again = kvf_refusal_retry_after(&a->refusal);
        snprintf(seconds, sizeof seconds, "%u", again);
        if (again)
            kvf_exchange_add_header(a->exchange, "Retry-After", seconds);
    } else if (a->ask.streams) {
        begin(a);
        a->form->end(a, &piece);
    } else {
        a->form->whole(a, &whole);
    }
    kvf_exchange_conclude(a->exchange, status, "application/json", &whole,
                          a->ask.streams ? &piece : NULL);
    kvf_buffer_free(&piece);
}

static void end(void *user, uint32_t index, kvf_job_end how, const kvf_job_usage *usage,
                const kvf_error *error)
{
    kvf_answering *a = user;
    kvf_choice *choice = &a->choices[index];
    kvf_error memory;
    choice->end = how;
    choice->n_answered = usage->n_answered;
    choice->is_ended = true;
    a->usage = *usage;
    a->n_cached = usage->n_cached;
    refuse_end(a, how, error);
    if (kvf_answer_stream_finish(choice->stream, &memory) != KVF_OK)
        kvf_refuse_error(&a->refusal, NULL, &memory);
    if (choice->failed || choice->content.failed || choice->reasoning.failed)
        kvf_refuse(&a->refusal, 503, NULL, "no memory for the answer");
    if (!a->refusal.status) {
        give_new(a, choice);
        if (a->ask.streams) {
            begin(a);
            a->form->end_choice(a, choice, &a->out);
        }
        flush(a);
    }
    if (!a->refusal.status && a->host->served->replays && a->ask.settings.is_chat)
        remember(a, choice); /* before anybody who has read it can ask on */
    if (++a->n_ended < a->ask.n_choices)
        return;
    conclude(a);
    a->host->done(a->host->user, a);
}

/* ---- On the watching thread --------------------------------------------------------------- */

static void on_gone(void *user)
{
    kvf_answering *a = user;
    pthread_mutex_lock(&a->job_lock);
    a->is_gone = true;
    if (a->job)
        kvf_job_cancel(a->job);
    pthread_mutex_unlock(&a->job_lock);
}

static void on_stir(void *user)
{
    kvf_answering *a = user;
    kvf_buffer out = {.data = NULL};
    a->form->ping(a, &out);
    kvf_exchange_begin(a->exchange, 200, "text/event-stream; charset=utf-8");
    if (!out.failed)
        kvf_exchange_write(a->exchange, out.data, out.bytes);
    kvf_buffer_free(&out);
}

/* ---- Opening ------------------------------------------------------------------------------ */

/* 24 digits that nobody guesses and nobody has twice. */
static void name_answer(kvf_answering *a)
{
    unsigned char random[12] = {0};
    char digits[25];
    if (getentropy(random, sizeof random) != 0) {
        const uint64_t number = kvf_exchange_number(a->exchange);
        memcpy(random, &number, sizeof number);
    }
    for (size_t i = 0; i < sizeof random; i++)
        snprintf(digits + 2 * i, 3, "%02x", random[i]);
    snprintf(a->id, sizeof a->id, "%s%s", a->form->id_prefix, digits);
}

static bool open_choices(kvf_answering *a, kvf_refusal *refusal)
{
    const kvf_conversation *conversation = a->host->served->conversation;
    const kvf_ids *prompt = &a->ask.prompt;
    kvf_error error;
    a->choices = calloc(a->ask.n_choices, sizeof *a->choices);
    if (!a->choices)
        return kvf_refuse(refusal, 503, NULL, "no memory for an answer");
    for (uint32_t i = 0; i < a->ask.n_choices; i++) {
        kvf_choice *choice = &a->choices[i];
        if (a->ask.settings.is_chat)
            choice->is_reasoning =
                kvf_conversation_place(conversation, prompt->ids, prompt->n).is_reasoning;
        if (kvf_answer_stream_open(conversation, &a->ask.settings, prompt->ids, prompt->n,
                                   take_event, choice, &choice->stream, &error) != KVF_OK)
            return kvf_refuse_error(refusal, NULL, &error);
        kvf_answer_stream_stop_at(choice->stream, a->ask.stops, a->ask.n_stops);
    }
    return true;
}

static bool submit(kvf_answering *a, uint64_t key, kvf_refusal *refusal)
{
    const kvf_job_options options = {.prompt = a->ask.prompt.ids,
                                     .n_prompt = a->ask.prompt.n,
                                     .turn_at = a->ask.turn_at,
                                     .max_tokens = a->ask.max_tokens,
                                     .draw = a->ask.draw,
                                     .n_choices = a->ask.n_choices,
                                     .key = key,
                                     .progress = progress,
                                     .take = take,
                                     .end = end,
                                     .user = a};
    kvf_job *job = NULL;
    kvf_error error;
    switch (kvf_scheduler_submit(a->host->scheduler, &options, &job, &error)) {
    case KVF_SUBMITTED: break;
    case KVF_SUBMIT_INVALID: return kvf_refuse(refusal, 400, NULL, "%s", error.message);
    case KVF_SUBMIT_TOO_LARGE:
        refusal->code = "context_length_exceeded";
        return kvf_refuse(refusal, 400, a->form == &kvf_form_completion ? "prompt" : "messages",
                          "%s", error.message);
    case KVF_SUBMIT_BUSY: return kvf_refuse(refusal, 429, NULL, "%s", error.message);
    case KVF_SUBMIT_STOPPING:
    case KVF_SUBMIT_NO_MEMORY: return kvf_refuse(refusal, 503, NULL, "%s", error.message);
    }
    /* It may have ended already; it is released by whoever closes this, later than here. */
    pthread_mutex_lock(&a->job_lock);
    a->job = job;
    if (a->is_gone)
        kvf_job_cancel(job);
    pthread_mutex_unlock(&a->job_lock);
    return true;
}

static void close_answering(kvf_answering *a)
{
    for (uint32_t i = 0; a->choices && i < a->ask.n_choices; i++) {
        kvf_answer_stream_close(a->choices[i].stream);
        kvf_ids_free(&a->choices[i].sampled);
        kvf_buffer_free(&a->choices[i].reasoning);
        kvf_buffer_free(&a->choices[i].content);
        free(a->choices[i].scored);
        free(a->choices[i].tops);
    }
    free(a->choices);
    free(a->model);
    kvf_buffer_free(&a->out);
    kvf_ask_free(&a->ask);
    pthread_mutex_destroy(&a->job_lock);
    kvf_exchange_release(a->exchange);
    free(a);
}

bool kvf_answering_open(const kvf_answering_host *host, kvf_exchange *exchange,
                        const kvf_form *form, kvf_ask *ask, const char *name,
                        const char *request_id, uint64_t key, kvf_refusal *refusal)
{
    kvf_answering *a = calloc(1, sizeof *a);
    if (!a) {
        kvf_ask_free(ask);
        return kvf_refuse(refusal, 503, NULL, "no memory for an answer");
    }
    a->host = host;
    a->exchange = exchange;
    a->form = form;
    a->ask = *ask;
    *ask = (kvf_ask){.n_choices = 0};
    kvf_exchange_keep(exchange);
    pthread_mutex_init(&a->job_lock, NULL);
    a->created = (int64_t)time(NULL);
    name_answer(a);
    snprintf(a->request_id, sizeof a->request_id, "%s", request_id);
    a->model =
        a->ask.model.bytes > 0 ? strndup(a->ask.model.data, a->ask.model.bytes) : strdup(name);
    bool opened = a->model != NULL || kvf_refuse(refusal, 503, NULL, "no memory for an answer");
    opened = opened && open_choices(a, refusal);
    /* The tree has served; a prompt is many times smaller. */
    kvf_tree_free(&a->ask.tree);
    a->ask.model = (kvf_span){"", 0};
    if (opened) {
        const kvf_http_watching watching = {
            .gone = on_gone, .stir = a->ask.streams ? on_stir : NULL, .user = a};
        kvf_exchange_watch(exchange, &watching);
        opened = submit(a, key, refusal);
    }
    if (!opened) {
        kvf_exchange_unwatch(exchange);
        close_answering(a);
    }
    return opened;
}

void kvf_answering_close(kvf_answering *a)
{
    kvf_exchange_unwatch(a->exchange);
    pthread_mutex_lock(&a->job_lock);
    kvf_job *job = a->job;
    pthread_mutex_unlock(&a->job_lock);
    kvf_job_release(job);
    close_answering(a);
}
