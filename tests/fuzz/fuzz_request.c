/*
 * Bodies of requests. The input's first byte says which endpoint's, whether it thinks where the
 * body does not say, and whether it is read twice; the rest is the body.
 */
#include "fuzz.h"

#include "error.h"
#include "server/ask.h"
#include "server/replay.h"

enum { KINDS = KVF_ASK_TOKENIZE + 1, THINKS = 16, REPLAYS = 32, N_IDS = 320 };

static kvf_tokenizer *tokenizer;
static kvf_encoder *encoder;
static kvf_conversation conversation;

static void open_once(void)
{
    kvf_error error;
    bool has_room;
    if (tokenizer)
        return;
    FUZZ_REQUIRE(kvf_tokenizer_open_bytes(N_IDS, &tokenizer, &error) == KVF_OK);
    FUZZ_REQUIRE(kvf_conversation_mark_bytes(tokenizer, 256, 257, &has_room, &error) == KVF_OK);
    FUZZ_REQUIRE(has_room);
    FUZZ_REQUIRE(kvf_encoder_open(tokenizer, &encoder, &error) == KVF_OK);
    kvf_conversation_of(tokenizer, encoder, &conversation);
    FUZZ_REQUIRE(conversation.has_chat);
}

/* What is said of a request that is refused is JSON of one line, in both forms. */
static void check_refusal(const kvf_refusal *refusal)
{
    FUZZ_REQUIRE(refusal->status == 400);
    FUZZ_REQUIRE(refusal->message[0] && strlen(refusal->message) < sizeof refusal->message);
    for (int api = KVF_API_OPENAI; api <= KVF_API_ANTHROPIC; api++) {
        kvf_buffer text = {.data = NULL};
        kvf_tree tree;
        kvf_error error;
        kvf_refusal_write(refusal, (kvf_api)api, "req_1", &text);
        FUZZ_REQUIRE(!text.failed && !memchr(text.data, '\n', text.bytes));
        if (kvf_tree_read(text.data, text.bytes, KVF_JSON_STRICT, "refusal", &tree, &error) !=
            KVF_OK)
            fuzz_broken(__FILE__, __LINE__, error.message);
        FUZZ_REQUIRE(kvf_node_member(kvf_node_member(tree.root, "error"), "message"));
        kvf_tree_free(&tree);
        kvf_buffer_free(&text);
    }
}

static void check_ask(const kvf_ask *ask)
{
    const kvf_draw *draw = &ask->draw;
    FUZZ_REQUIRE(ask->prompt.n > 0);
    for (size_t i = 0; i < ask->prompt.n; i++)
        FUZZ_REQUIRE(ask->prompt.ids[i] >= 0 && ask->prompt.ids[i] < N_IDS);
    FUZZ_REQUIRE(ask->turn_at <= ask->prompt.n && ask->answer_at <= ask->prompt.n);
    FUZZ_REQUIRE(ask->n_choices >= 1 && ask->n_choices <= KVF_MAX_CHOICES);
    FUZZ_REQUIRE(ask->n_stops <= KVF_MAX_STOPS);
    for (size_t i = 0; i < ask->n_stops; i++)
        FUZZ_REQUIRE(strlen(ask->stops[i]) > 0 && strlen(ask->stops[i]) <= KVF_MAX_STOP_BYTES);
    FUZZ_REQUIRE(draw->temperature >= 0 && draw->temperature <= 2);
    FUZZ_REQUIRE(draw->top_p >= 0 && draw->top_p <= 1 && draw->min_p >= 0 && draw->min_p <= 1);
    FUZZ_REQUIRE(draw->repeat_penalty > 0 && draw->n_top <= KVF_MAX_TOP_LOGPROBS);
    for (uint32_t i = 0; i < draw->n_bias; i++)
        FUZZ_REQUIRE(draw->bias[i].id >= 0 && draw->bias[i].id < N_IDS &&
                     draw->bias[i].value >= -100 && draw->bias[i].value <= 100);
    if (ask->kind != KVF_ASK_COMPLETION)
        FUZZ_REQUIRE(ask->settings.is_chat);
    fuzz_touch(ask->model.data, ask->model.bytes);
}

/* Where nothing was sampled, a map of what was changes nothing. */
static void check_replays(kvf_served *served, kvf_ask_kind kind, kvf_span body, const kvf_ask *once)
{
    kvf_refusal refusal = {.status = 0};
    kvf_ask again;
    kvf_error error;
    FUZZ_REQUIRE(kvf_replays_open(1 << 20, &served->replays, &error) == KVF_OK);
    FUZZ_REQUIRE(kvf_ask_read(served, kind, body, &again, &refusal));
    FUZZ_REQUIRE(
        again.prompt.n == once->prompt.n && again.turn_at == once->turn_at &&
        memcmp(again.prompt.ids, once->prompt.ids, once->prompt.n * sizeof *once->prompt.ids) == 0);
    kvf_ask_free(&again);
    kvf_replays_close(served->replays);
    served->replays = NULL;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    if (bytes == 0)
        return 0;
    open_once();
    kvf_served served = {.conversation = &conversation,
                         .draw = {.top_p = 1, .repeat_penalty = 1},
                         .thinking = data[0] & THINKS,
                         .bos = 256,
                         .n_ids = N_IDS,
                         .context = 4096,
                         .n_choices = KVF_MAX_CHOICES};
    const kvf_ask_kind kind = (kvf_ask_kind)((data[0] & 15) % KINDS);
    fuzz_guarded body = fuzz_guard(data + 1, bytes - 1);
    const kvf_span text = {body.data, body.bytes};
    kvf_refusal refusal = {.status = 0};
    kvf_ask ask;
    if (!kvf_ask_read(&served, kind, text, &ask, &refusal)) {
        check_refusal(&refusal);
    } else {
        FUZZ_REQUIRE(refusal.status == 0);
        check_ask(&ask);
        if (data[0] & REPLAYS)
            check_replays(&served, kind, text, &ask);
    }
    kvf_ask_free(&ask);
    fuzz_unguard(&body);
    return 0;
}
