#include "engine/reply.h"

#include <stdlib.h>
#include <string.h>

#include "error.h"

/*
 * Where a stop may have begun, the session as it was before the first token of which not all was
 * given, and that token and those after it. A stop that comes true goes back there.
 */
typedef struct reply {
    kvf_generator *generator;
    const kvf_reply_options *options;
    kvf_answer_stream *stream;
    kvf_ids ids;      /* of the answer */
    size_t begin;     /* bytes of the answer that were held before */
    size_t *ends;     /* [ids.capacity] bytes of the answer up to the end of each */
    kvf_kept before;  /* session NULL: all was given */
    size_t n_before;  /* of the answer's ids that are in it */
    bool was_refused; /* the last token: what the stream has of it is none of the text */
    bool failed;      /* memory was short */
} reply;

static bool add_id(reply *r, int32_t token)
{
    const size_t capacity = r->ids.capacity;
    if (!kvf_ids_reserve(&r->ids, 1))
        return false;
    if (r->ids.capacity != capacity) {
        size_t *larger = realloc(r->ends, r->ids.capacity * sizeof *larger);
        if (!larger)
            return false;
        r->ends = larger;
    }
    r->ids.ids[r->ids.n] = token;
    r->ends[r->ids.n] = kvf_answer_stream_fed_bytes(r->stream);
    r->ids.n++;
    return true;
}

/* Keeps the state before the token that was added last, the first of which not all was given. */
static void keep_before(reply *r)
{
    kvf_kept_free(&r->before);
    kvf_generator_keep(r->generator, &r->before);
    r->n_before = r->ids.n - 1;
}

static bool all_given(const reply *r)
{
    return kvf_answer_stream_given_bytes(r->stream) == kvf_answer_stream_fed_bytes(r->stream);
}

static kvf_taken take(void *user, int32_t token)
{
    reply *r = user;
    const kvf_reply_options *options = r->options;
    if (options->settings.is_chat && kvf_conversation_ends(options->conversation, token))
        return KVF_TAKEN_AS_END;
    const bool was_all_given = all_given(r);
    kvf_answer_stream_add(r->stream, token);
    if (!add_id(r, token)) {
        r->failed = true;
        return KVF_TAKEN_BY_NOBODY;
    }
    if (options->n_stops > 0 && all_given(r))
        kvf_kept_free(&r->before);
    else if (options->n_stops > 0 && (was_all_given || r->ids.n == 1))
        keep_before(r);
    if (options->flush && !options->flush(options->user)) {
        r->was_refused = true;
        r->ids.n--;
        return KVF_TAKEN_BY_NOBODY;
    }
    return kvf_answer_stream_is_stopped(r->stream) ? KVF_TAKEN_AS_STOP : KVF_TAKEN;
}

/* The bytes of a token that were given, as text of its own. */
static kvf_status encode_part(const reply *r, int32_t token, size_t given_bytes, kvf_ids *ids,
                              kvf_error *error)
{
    const kvf_conversation *conversation = r->options->conversation;
    size_t bytes;
    const char *text = kvf_tokenizer_bytes(conversation->tokenizer, token, &bytes);
    return kvf_encode_text(conversation->encoder, text, given_bytes < bytes ? given_bytes : bytes,
                           false, ids, error);
}

/* Appends a part of a token's text, if it fits. */
static kvf_status append_part(reply *r, const kvf_ids *part, kvf_error *error)
{
    kvf_generator *generator = r->generator;
    const uint64_t left = generator->context_tokens - kvf_session_n_tokens(generator->session);
    if (part->n > left) {
        kvf_engine_note(&generator->engine->events, true,
                        "the last characters of the answer are not in the session: its context is "
                        "full");
        return kvf_ok(error);
    }
    kvf_status status = kvf_generator_append(generator, part->ids, part->n, error);
    for (size_t i = 0; i < part->n && status == KVF_OK; i++)
        if (!add_id(r, part->ids[i]))
            status = kvf_fail(error, KVF_OUT_OF_MEMORY, "out of memory for an answer's tokens");
    return status;
}

/* Takes back what was not shown. */
static kvf_status go_back(reply *r, kvf_error *error)
{
    const size_t given = kvf_answer_stream_given_bytes(r->stream);
    size_t n = r->n_before;
    kvf_ids part = {.n = 0};
    while (n < r->ids.n && r->ends[n] <= given)
        n++;
    const size_t begin = n > 0 ? r->ends[n - 1] : r->begin;
    kvf_status status = kvf_ok(error);
    if (n < r->ids.n && given > begin)
        status = encode_part(r, r->ids.ids[n], given - begin, &part, error);
    if (status != KVF_OK)
        return status;
    kvf_generator_take_back(r->generator, &r->before);
    status = kvf_generator_append(r->generator, r->ids.ids + r->n_before, n - r->n_before, error);
    r->ids.n = n;
    if (status == KVF_OK)
        status = append_part(r, &part, error);
    kvf_ids_free(&part);
    return status;
}

static kvf_status stop(reply *r, kvf_generation *generation, kvf_error *error)
{
    kvf_status status = kvf_ok(error);
    generation->ending = KVF_ENDED_STOP;
    if (r->before.session) {
        status = go_back(r, error);
    } else {
        r->ids.n = generation->n_tokens;
        kvf_engine_note(&r->generator->engine->events, true,
                        "what ended the answer is in the session, too: there was no memory to go "
                        "back with");
    }
    generation->n_tokens = r->ids.n;
    return status;
}

/* What the stream still holds back. */
static kvf_status finish(reply *r, kvf_generation *generation, kvf_error *error)
{
    const kvf_reply_options *options = r->options;
    kvf_status status = kvf_answer_stream_finish(r->stream, error);
    if (options->flush)
        options->flush(options->user);
    if (status == KVF_OK && kvf_answer_stream_is_stopped(r->stream))
        status = stop(r, generation, error);
    return status;
}

static kvf_status open_stream(reply *r, kvf_error *error)
{
    const kvf_reply_options *options = r->options;
    kvf_ids held = {.n = 0};
    kvf_status status = kvf_generator_ids(r->generator, &held, error);
    if (status == KVF_OK)
        status = kvf_answer_stream_open(options->conversation, &options->settings, held.ids, held.n,
                                        options->sink, options->user, &r->stream, error);
    if (status == KVF_OK)
        kvf_answer_stream_stop_at(r->stream, options->stops, options->n_stops);
    r->begin = status == KVF_OK ? kvf_answer_stream_fed_bytes(r->stream) : 0;
    kvf_ids_free(&held);
    return status;
}

kvf_status kvf_reply(kvf_generator *generator, const kvf_reply_options *options,
                     kvf_generation *generation, kvf_error *error)
{
    reply r = {.generator = generator, .options = options};
    const kvf_token_sink sink = {.take = take, .user = &r, .saves_between = options->saves_between};
    kvf_status status = open_stream(&r, error);
    if (status == KVF_OK)
        status = kvf_generator_answer(generator, &sink, generation, error);
    if (status == KVF_OK && r.failed)
        status = kvf_fail(error, KVF_OUT_OF_MEMORY, "out of memory for an answer's tokens");
    if (status == KVF_OK && !r.was_refused)
        status = finish(&r, generation, error);
    kvf_answer_stream_close(r.stream);
    kvf_kept_free(&r.before);
    free(r.ends);
    generation->tokens = r.ids.ids;
    return status;
}
