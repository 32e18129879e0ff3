/* Python source with the chat's texts; where the first byte is odd, a chat template. */
#include "fuzz.h"

#include "text/chat.h"

/* A template that was taken can be filled. */
static void check_template(kvf_span rest)
{
    bool has_schemas = false;
    while (rest.bytes > 0) {
        const size_t before = rest.bytes;
        kvf_span part;
        const kvf_text_slot slot = kvf_slot_next(&rest, &part);
        FUZZ_REQUIRE(slot != KVF_SLOT_BAD && rest.bytes < before);
        fuzz_touch(part.data, part.bytes);
        has_schemas = has_schemas || slot == KVF_SLOT_SCHEMAS;
    }
    FUZZ_REQUIRE(has_schemas);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    if (bytes < 1)
        return 0;
    fuzz_guarded source = fuzz_guard(data + 1, bytes - 1);
    kvf_chat_texts texts;
    kvf_error error;
    kvf_status status = data[0] & 1
                            ? kvf_chat_texts_of_template(source.data, source.bytes, &texts, &error)
                            : kvf_chat_texts_of_python(source.data, source.bytes, &texts, &error);
    fuzz_check_error(status, &error);
    FUZZ_REQUIRE(status == KVF_OK);
    if (texts.tools.data)
        check_template(texts.tools);
    FUZZ_REQUIRE(texts.efforts[0].data || !texts.efforts[1].data);
    FUZZ_REQUIRE((texts.source == KVF_TEXTS_NOWHERE) ==
                 (!texts.tools.data && !texts.efforts[0].data));
    FUZZ_REQUIRE(kvf_span_is_utf8(texts.tools));
    FUZZ_REQUIRE(kvf_span_is_utf8(texts.efforts[0]) && kvf_span_is_utf8(texts.efforts[1]));
    kvf_chat_texts_free(&texts);
    fuzz_unguard(&source);
    return 0;
}
