/*
 * JSON, and messages of it as a prompt. The input's first byte has the settings, the second how
 * many messages are context; the rest is text.
 */
#include "fuzz.h"

#include "text/chat.h"

enum {
    HEAD_BYTES = 2,
    THINKING = 1,
    KEEPING = 2,
    EFFORTS = 4,
    RELEASES = 16,
    HAS_TEXTS = 64,
    PYTHON = 128
};

/* What was written is read again as the same, by either rules. */
static void check_written(const kvf_tree *tree, const char *text, size_t bytes)
{
    kvf_buffer once = {0};
    kvf_buffer twice = {0};
    kvf_tree again;
    kvf_error error;
    kvf_json_write(tree->root, &once);
    FUZZ_REQUIRE(!once.failed && once.bytes > 0);
    if (kvf_tree_read(once.data, once.bytes, KVF_JSON_PYTHON, "written", &again, &error) != KVF_OK)
        fuzz_broken(__FILE__, __LINE__, error.message);
    kvf_json_write(again.root, &twice);
    FUZZ_REQUIRE(once.bytes == twice.bytes && memcmp(once.data, twice.data, once.bytes) == 0);
    kvf_tree_free(&again);
    kvf_buffer_free(&once);
    kvf_buffer_free(&twice);
    /* Python's rules take all that the strict ones do, but for a byte order mark. */
    if (bytes < 3 || memcmp(text, "\xef\xbb\xbf", 3) != 0) {
        FUZZ_REQUIRE(kvf_tree_read(text, bytes, KVF_JSON_PYTHON, "again", &again, &error) ==
                     KVF_OK);
        kvf_tree_free(&again);
    }
}

/* Markers ascend, do not overlap, and are those of the format. */
static void check_prompt(const kvf_prompt *prompt)
{
    size_t end = 0;
    for (size_t i = 0; i < prompt->n_markers; i++) {
        const kvf_marker marker = prompt->markers[i];
        FUZZ_REQUIRE(marker.at >= end && marker.bytes >= strlen(KVF_CHAT_THINK));
        FUZZ_REQUIRE(marker.bytes <= prompt->text.bytes - marker.at);
        const char first = prompt->text.data[marker.at];
        FUZZ_REQUIRE(first == '<' || memcmp(prompt->text.data + marker.at, KVF_CHAT_BAR, 3) == 0);
        end = marker.at + marker.bytes;
    }
    fuzz_touch(prompt->text.data, prompt->text.bytes);
}

static kvf_status render(const kvf_messages *messages, const kvf_chat_settings *settings)
{
    kvf_prompt prompt = {0};
    kvf_chat_report report;
    kvf_error error;
    kvf_status status = kvf_chat_render(messages->list, messages->n, "messages", settings, &prompt,
                                        &report, &error);
    fuzz_check_error(status, &error);
    FUZZ_REQUIRE(status != KVF_OUT_OF_MEMORY);
    check_prompt(&prompt);
    if (status == KVF_OK && settings->n_context == 0) {
        FUZZ_REQUIRE(prompt.n_markers > 0 && prompt.markers[0].at == 0);
        FUZZ_REQUIRE(report.release != KVF_RELEASE_BY_TEXTS);
    }
    kvf_prompt_free(&prompt);
    return status;
}

static void check_messages(const kvf_tree *tree, unsigned flags, size_t n_context)
{
    const kvf_chat_texts texts = {.source = KVF_TEXTS_ENCODING_FILE,
                                  .tools = KVF_SPAN("a{dsml_token}{{{tool_schemas}"),
                                  .efforts = {KVF_SPAN("S"), KVF_SPAN("X")}};
    kvf_messages messages;
    kvf_error error;
    kvf_status status = kvf_messages_read(tree->root, "messages", &messages, &error);
    fuzz_check_error(status, &error);
    if (status != KVF_OK)
        return;
    kvf_chat_settings settings = {.thinking = flags & THINKING,
                                  .keep_thinking = flags & KEEPING,
                                  .effort = (kvf_effort)(flags / EFFORTS % 4),
                                  .release = (kvf_release)(flags / RELEASES % 3),
                                  .texts = flags & HAS_TEXTS ? &texts : NULL};
    status = render(&messages, &settings);
    settings.n_context = n_context;
    FUZZ_REQUIRE(status != KVF_OK || render(&messages, &settings) == KVF_OK);
    status = kvf_messages_check(messages.list, messages.n, "messages", &error);
    fuzz_check_error(status, &error);
    kvf_messages_free(&messages);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    if (bytes < HEAD_BYTES)
        return 0;
    fuzz_guarded text = fuzz_guard(data + HEAD_BYTES, bytes - HEAD_BYTES);
    kvf_tree tree;
    kvf_error error;
    kvf_status status =
        kvf_tree_read(text.data, text.bytes, data[0] & PYTHON ? KVF_JSON_PYTHON : KVF_JSON_STRICT,
                      "text", &tree, &error);
    fuzz_check_error(status, &error);
    if (status == KVF_OK) {
        check_written(&tree, text.data, text.bytes);
        check_messages(&tree, data[0], data[1]);
        kvf_tree_free(&tree);
    }
    fuzz_unguard(&text);
    return 0;
}
