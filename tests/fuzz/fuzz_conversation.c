/*
 * What a session may hold, and a model may answer: any ids. The input's first byte says how it is
 * read, the second how many ids are held, the third the text that ends the answer; then ids, two
 * bytes each.
 */
#include "fuzz.h"

#include "engine/conversation.h"

enum { HEAD_BYTES = 3, IS_CHAT = 1, THINKING = 2, HAS_STOPS = 4 };

static kvf_tokenizer *tokenizer;
static kvf_encoder *encoder;
static kvf_conversation conversation;

static void open_once(void)
{
    kvf_error error;
    if (tokenizer)
        return;
    FUZZ_REQUIRE(kvf_tokenizer_open_json(KVF_FUZZ_TOKENIZER, 0, &tokenizer, &error) == KVF_OK);
    FUZZ_REQUIRE(kvf_encoder_open(tokenizer, &encoder, &error) == KVF_OK);
    kvf_conversation_of(tokenizer, encoder, &conversation);
    FUZZ_REQUIRE(conversation.has_chat);
}

/* ---- Places and turns ------------------------------------------------------------------- */

static void check_turn(const kvf_conversation_settings *settings, const kvf_ids *held)
{
    kvf_ids all = {.n = 0};
    kvf_error error;
    const kvf_standing place = kvf_conversation_place(&conversation, held->ids, held->n);
    FUZZ_REQUIRE(place.answer_at <= held->n && (!place.is_reasoning || place.has_thought));
    FUZZ_REQUIRE((place.kind == KVF_STANDS_AT_START) == (held->n == 0));
    FUZZ_REQUIRE(kvf_conversation_before_turn(&conversation, held->ids, held->n) <= held->n);
    FUZZ_REQUIRE(kvf_ids_reserve(&all, held->n + 1));
    if (held->n > 0)
        memcpy(all.ids, held->ids, held->n * sizeof *all.ids);
    all.n = held->n;
    FUZZ_REQUIRE(kvf_conversation_turn(&conversation, settings, held->ids, held->n,
                                       (kvf_span){NULL, 0}, KVF_SPAN("text"), &all,
                                       &error) == KVF_OK);
    const kvf_standing after = kvf_conversation_place(&conversation, all.ids, all.n);
    FUZZ_REQUIRE(after.kind == KVF_STANDS_IN_ANSWER && after.answer_at == all.n &&
                 !after.lacks_mode);
    FUZZ_REQUIRE(after.has_thought == settings->thinking);
    FUZZ_REQUIRE(kvf_conversation_before_turn(&conversation, all.ids, all.n) <= held->n);
    const size_t n = all.n;
    FUZZ_REQUIRE(kvf_conversation_go_on(&conversation, settings, all.ids, n, &all, &error) ==
                 KVF_OK);
    FUZZ_REQUIRE(all.n == n);
    kvf_ids_free(&all);
}

/* ---- Answers ----------------------------------------------------------------------------- */

static void see(void *user, const kvf_answer_event *event)
{
    FUZZ_REQUIRE(event->raw.bytes > 0);
    fuzz_touch(event->raw.data, event->raw.bytes);
    fuzz_touch(event->name.data, event->name.bytes);
    fuzz_touch(event->arguments.data, event->arguments.bytes);
    if (event->kind == KVF_ANSWER_CONTENT)
        kvf_buffer_add_span(user, event->raw);
}

static void check_answer(const kvf_conversation_settings *settings, const kvf_ids *held,
                         const kvf_ids *ids, const char *stop, bool has_stop)
{
    kvf_answer_stream *stream;
    kvf_buffer content = {.data = NULL};
    kvf_error error;
    FUZZ_REQUIRE(kvf_answer_stream_open(&conversation, settings, held->ids, held->n, see, &content,
                                        &stream, &error) == KVF_OK);
    kvf_answer_stream_stop_at(stream, &stop, has_stop);
    for (size_t i = 0; i < ids->n && !kvf_answer_stream_is_stopped(stream); i++) {
        kvf_answer_stream_add(stream, ids->ids[i]);
        FUZZ_REQUIRE(kvf_answer_stream_given_bytes(stream) <= kvf_answer_stream_fed_bytes(stream));
    }
    FUZZ_REQUIRE(kvf_answer_stream_finish(stream, &error) == KVF_OK);
    const size_t given = kvf_answer_stream_given_bytes(stream);
    const size_t fed = kvf_answer_stream_fed_bytes(stream);
    FUZZ_REQUIRE(kvf_answer_stream_is_stopped(stream) ? given < fed : given == fed);
    kvf_answer_stream_close(stream);
    kvf_buffer_free(&content);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    static char stop[2];
    kvf_ids ids = {.n = 0};
    open_once();
    if (bytes < HEAD_BYTES || bytes > 1 << 16)
        return 0;
    const kvf_conversation_settings settings = {.is_chat = data[0] & IS_CHAT,
                                                .thinking = data[0] & THINKING};
    FUZZ_REQUIRE(kvf_ids_reserve(&ids, bytes / 2 + 1));
    const uint32_t n_ids = kvf_tokenizer_n_ids(tokenizer);
    for (size_t at = HEAD_BYTES; at + 1 < bytes; at += 2)
        ids.ids[ids.n++] = (int32_t)((data[at] | (uint32_t)data[at + 1] << 8) % n_ids);
    const size_t n_held = data[1] < ids.n ? data[1] : ids.n;
    const kvf_ids held = {.ids = ids.ids, .n = n_held};
    const kvf_ids answer = {.ids = ids.ids + n_held, .n = ids.n - n_held};
    stop[0] = data[2] ? (char)data[2] : 'a';
    check_turn(&settings, &held);
    check_answer(&settings, &held, &answer, stop, data[0] & HAS_STOPS);
    kvf_ids_free(&ids);
    return 0;
}
