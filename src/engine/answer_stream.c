/* Ids of an answer to events. */
#include "engine/conversation.h"

#include "error.h"
#include "text/decoder.h"

#include <stdlib.h>
#include <string.h>

struct kvf_answer_stream {
    const kvf_conversation *conversation;
    kvf_decoder decoder;
    kvf_answer *answer; /* NULL: plain text */
    kvf_answer_sink sink;
    void *user;
    bool failed;        /* memory was short */
    size_t fed_bytes;   /* of all ids, .. */
    size_t given_bytes; /* .. and of all events */
    /* What is held of an answer is fed again, and given to nobody: */
    bool is_replay;
    size_t shown_bytes; /* of what was held back then, and has been shown when it was left */
    /* Texts that end it: */
    const char *const *stops; /* [n_stops] */
    size_t n_stops;
    kvf_buffer kept; /* content that may be the beginning of one */
    bool is_stopped;
    const char *stopped_by;
};

/* ---- Texts that end an answer ------------------------------------------------------------ */

static void give_content(const kvf_answer_stream *stream, size_t bytes)
{
    const kvf_answer_event event = {.kind = KVF_ANSWER_CONTENT, .raw = {stream->kept.data, bytes}};
    if (bytes > 0)
        stream->sink(stream->user, &event);
}

static void drop_kept(kvf_answer_stream *stream, size_t bytes)
{
    kvf_buffer *kept = &stream->kept;
    if (bytes > 0)
        memmove(kept->data, kept->data + bytes, kept->bytes - bytes);
    kept->bytes -= bytes;
}

/* The text that stands at this place, or NULL; *begins: all that is there may become one. */
static const char *stop_at(const kvf_answer_stream *stream, size_t at, bool *begins)
{
    const size_t left = stream->kept.bytes - at;
    for (size_t i = 0; i < stream->n_stops; i++) {
        const size_t bytes = strlen(stream->stops[i]);
        const bool equal =
            memcmp(stream->kept.data + at, stream->stops[i], bytes < left ? bytes : left) == 0;
        if (equal && bytes <= left)
            return stream->stops[i];
        *begins = *begins || equal;
    }
    return NULL;
}

/*
 * Gives what was kept up to where an answer stops, or may stop; is_all: nothing follows. What it
 * stops at stays there.
 */
static void give_kept(kvf_answer_stream *stream, bool is_all)
{
    size_t at = 0;
    while (at < stream->kept.bytes) {
        bool begins = false;
        stream->stopped_by = stop_at(stream, at, &begins);
        stream->is_stopped = stream->stopped_by != NULL;
        if (stream->is_stopped || (begins && !is_all))
            break;
        at++;
    }
    give_content(stream, at);
    drop_kept(stream, at);
}

void kvf_answer_stream_stop_at(kvf_answer_stream *stream, const char *const *stops, size_t n_stops)
{
    stream->stops = stops;
    stream->n_stops = n_stops;
}

/* ---- Ids ---------------------------------------------------------------------------------- */

/* Cuts off what was shown already; false where nothing is left of a text. */
static bool cut_shown(kvf_answer_stream *stream, kvf_answer_event *event)
{
    const size_t bytes = event->raw.bytes;
    const size_t n = bytes < stream->shown_bytes ? bytes : stream->shown_bytes;
    stream->shown_bytes -= n;
    if (event->kind == KVF_ANSWER_CALL || event->kind == KVF_ANSWER_FRAME)
        return true;
    event->raw = kvf_span_after(event->raw, n);
    return n < bytes;
}

static void take_event(void *user, const kvf_answer_event *event)
{
    kvf_answer_stream *stream = user;
    kvf_answer_event rest = *event;
    const bool may_stop = event->kind == KVF_ANSWER_CONTENT && stream->n_stops > 0;
    if (!stream->is_stopped && !may_stop)
        give_kept(stream, true);
    if (stream->is_stopped)
        return;
    stream->given_bytes += event->raw.bytes;
    if (stream->is_replay || !cut_shown(stream, &rest))
        return;
    if (!may_stop) {
        stream->sink(stream->user, &rest);
        return;
    }
    kvf_buffer_add_span(&stream->kept, rest.raw);
    stream->failed = stream->failed || stream->kept.failed;
    give_kept(stream, false);
}

static void feed_text(kvf_answer_stream *stream, const kvf_buffer *text)
{
    const kvf_answer_event event = {.kind = KVF_ANSWER_CONTENT, .raw = {text->data, text->bytes}};
    stream->failed = stream->failed || text->failed;
    stream->fed_bytes += text->bytes;
    if (text->bytes == 0)
        return;
    if (stream->answer)
        kvf_answer_text(stream->answer, text->data, text->bytes);
    else
        take_event(stream, &event);
}

/* Added tokens; of those that are no part of a text (a GGUF may call all of the format's so) these.
 */
static bool is_marker_token(const kvf_conversation *conversation, int32_t id)
{
    if (kvf_tokenizer_kind(conversation->tokenizer, id) == KVF_TOKEN_ADDED)
        return true;
    for (int mark = 0; mark < KVF_MARKS; mark++)
        if (id >= 0 && conversation->marks[mark] == id)
            return true;
    return false;
}

void kvf_answer_stream_add(kvf_answer_stream *stream, int32_t id)
{
    const kvf_tokenizer *tokenizer = stream->conversation->tokenizer;
    const bool is_marker = stream->answer && is_marker_token(stream->conversation, id);
    kvf_buffer text = {.data = NULL};
    if (is_marker)
        kvf_decoder_flush(&stream->decoder, &text);
    else
        kvf_decoder_add(&stream->decoder, id, &text);
    feed_text(stream, &text);
    kvf_buffer_free(&text);
    if (is_marker) {
        size_t bytes;
        const char *marker = kvf_tokenizer_bytes(tokenizer, id, &bytes);
        stream->fed_bytes += bytes;
        kvf_answer_marker(stream->answer, marker, bytes);
    }
}

bool kvf_answer_stream_is_stopped(const kvf_answer_stream *stream)
{
    return stream->is_stopped;
}

const char *kvf_answer_stream_stopped_by(const kvf_answer_stream *stream)
{
    return stream->stopped_by;
}

/* Bytes that a character may begin with are of the id that they came with. */
size_t kvf_answer_stream_fed_bytes(const kvf_answer_stream *stream)
{
    return stream->fed_bytes + stream->decoder.n_held;
}

size_t kvf_answer_stream_given_bytes(const kvf_answer_stream *stream)
{
    return stream->given_bytes - stream->kept.bytes;
}

static void replay(kvf_answer_stream *stream, const int32_t *ids, size_t n)
{
    stream->is_replay = true;
    for (size_t i = 0; i < n; i++)
        kvf_answer_stream_add(stream, ids[i]);
    stream->is_replay = false;
    stream->shown_bytes = stream->fed_bytes - stream->given_bytes;
}

kvf_status kvf_answer_stream_open(const kvf_conversation *conversation,
                                  const kvf_conversation_settings *settings, const int32_t *held,
                                  size_t n_held, kvf_answer_sink sink, void *user,
                                  kvf_answer_stream **stream, kvf_error *error)
{
    kvf_answer_stream *opened = calloc(1, sizeof *opened);
    *stream = opened;
    if (!opened)
        return kvf_fail(error, KVF_OUT_OF_MEMORY, "no memory for an answer");
    opened->conversation = conversation;
    opened->sink = sink;
    opened->user = user;
    kvf_decoder_start(&opened->decoder, conversation->tokenizer, true);
    if (!settings->is_chat)
        return kvf_ok(error);
    const kvf_standing place = kvf_conversation_place(conversation, held, n_held);
    opened->answer = kvf_answer_open(place.has_thought, false, take_event, opened);
    if (!opened->answer) {
        kvf_answer_stream_close(opened);
        *stream = NULL;
        return kvf_fail(error, KVF_OUT_OF_MEMORY, "no memory for an answer");
    }
    if (place.kind == KVF_STANDS_IN_ANSWER)
        replay(opened, held + place.answer_at, n_held - place.answer_at);
    return kvf_ok(error);
}

kvf_status kvf_answer_stream_finish(kvf_answer_stream *stream, kvf_error *error)
{
    kvf_buffer text = {.data = NULL};
    kvf_decoder_flush(&stream->decoder, &text);
    feed_text(stream, &text);
    kvf_buffer_free(&text);
    kvf_status status = stream->answer ? kvf_answer_finish(stream->answer, error) : kvf_ok(error);
    if (!stream->is_stopped)
        give_kept(stream, true);
    if (status == KVF_OK && stream->failed)
        status = kvf_fail(error, KVF_OUT_OF_MEMORY, "no memory for the text of an answer");
    return status;
}

void kvf_answer_stream_close(kvf_answer_stream *stream)
{
    if (stream) {
        kvf_answer_close(stream->answer);
        kvf_buffer_free(&stream->kept);
    }
    free(stream);
}
