/*
 * A model's answer. The input's first byte says how it is read, the second where it is cut; in
 * the rest FF begins and ends a marker where markers are tokens.
 */
#include "fuzz.h"

#include "text/answer.h"
#include "text/json.h"

enum { HEAD_BYTES = 2, THINKING = 1, IN_TEXT = 2 };

/* All events, the texts of one kind joined. */
struct seen {
    kvf_buffer events;
    kvf_buffer raw;
    int last;
};

static void see(void *user, const kvf_answer_event *event)
{
    struct seen *seen = user;
    const bool is_text = event->kind <= KVF_ANSWER_CONTENT;
    const char mark[2] = {(char)('0' + event->kind), event->arguments_are_json ? '1' : '0'};
    FUZZ_REQUIRE(event->raw.bytes > 0);
    kvf_buffer_add_span(&seen->raw, event->raw);
    if (!is_text || seen->last != (int)event->kind)
        kvf_buffer_add(&seen->events, mark, 2);
    seen->last = (int)event->kind;
    kvf_buffer_add_span(&seen->events, event->raw);
    kvf_buffer_add_span(&seen->events, event->name);
    kvf_buffer_add_span(&seen->events, event->arguments);
    if (event->arguments_are_json) {
        kvf_tree tree;
        FUZZ_REQUIRE(kvf_tree_read(event->arguments.data, event->arguments.bytes, KVF_JSON_STRICT,
                                   "arguments", &tree, NULL) == KVF_OK);
        FUZZ_REQUIRE(tree.root->type == KVF_NODE_OBJECT);
        kvf_tree_free(&tree);
    }
}

static void feed_text(kvf_answer *answer, const char *text, size_t bytes, size_t step)
{
    for (size_t at = 0; at < bytes; at += step)
        kvf_answer_text(answer, text + at, bytes - at < step ? bytes - at : step);
}

/* Takes the answer apart, its text in pieces of `step`; what was fed must have come. */
static struct seen take(const char *text, size_t bytes, unsigned flags, size_t step)
{
    struct seen seen = {.last = -1};
    kvf_buffer fed = {0};
    kvf_error error;
    bool is_marker = false;
    kvf_answer *answer = kvf_answer_open(flags & THINKING, flags & IN_TEXT, see, &seen);
    FUZZ_REQUIRE(answer);
    for (size_t at = 0; at < bytes || at == 0; is_marker = !is_marker) {
        const char *end = bytes > at ? memchr(text + at, 0xFF, bytes - at) : NULL;
        const size_t n = flags & IN_TEXT || !end ? bytes - at : (size_t)(end - text) - at;
        if (is_marker && n > 0)
            kvf_answer_marker(answer, text + at, n);
        else
            feed_text(answer, text + at, n, step);
        kvf_buffer_add(&fed, text + at, n);
        at += n + 1;
    }
    FUZZ_REQUIRE(kvf_answer_finish(answer, &error) == KVF_OK);
    kvf_answer_close(answer);
    FUZZ_REQUIRE(!seen.events.failed && !seen.raw.failed && !fed.failed);
    FUZZ_REQUIRE(fed.bytes == seen.raw.bytes);
    FUZZ_REQUIRE(fed.bytes == 0 || memcmp(fed.data, seen.raw.data, fed.bytes) == 0);
    kvf_buffer_free(&fed);
    return seen;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    if (bytes < HEAD_BYTES)
        return 0;
    fuzz_guarded text = fuzz_guard(data + HEAD_BYTES, bytes - HEAD_BYTES);
    struct seen whole = take(text.data, text.bytes, data[0], text.bytes + 1);
    struct seen pieces = take(text.data, text.bytes, data[0], 1u + data[1]);
    FUZZ_REQUIRE(whole.events.bytes == pieces.events.bytes);
    FUZZ_REQUIRE(whole.events.bytes == 0 ||
                 memcmp(whole.events.data, pieces.events.data, whole.events.bytes) == 0);
    kvf_buffer_free(&whole.events);
    kvf_buffer_free(&whole.raw);
    kvf_buffer_free(&pieces.events);
    kvf_buffer_free(&pieces.raw);
    fuzz_unguard(&text);
    return 0;
}
