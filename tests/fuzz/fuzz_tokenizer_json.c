/* tokenizer.json: the input is all of the file. */
#include "fuzz.h"

#include "text/decoder.h"
#include "text/encoder.h"

/* Tokens of every byte, some of them side by side, and of what the file may call added. */
static void check_encoding(const kvf_tokenizer *tokenizer, const uint8_t *data, size_t bytes)
{
    kvf_encoder *encoder;
    kvf_error error;
    kvf_ids ids = {.n = 0};
    FUZZ_REQUIRE(kvf_encoder_open(tokenizer, &encoder, &error) == KVF_OK);
    for (int added = 0; added < 2; added++) {
        size_t at = 0;
        ids.n = 0;
        FUZZ_REQUIRE(kvf_encode_text(encoder, (const char *)data, bytes, added, &ids, &error) ==
                     KVF_OK);
        for (size_t i = 0; i < ids.n; i++) {
            size_t n;
            const char *text = kvf_tokenizer_bytes(tokenizer, ids.ids[i], &n);
            FUZZ_REQUIRE(ids.ids[i] >= 0 && (uint32_t)ids.ids[i] < kvf_tokenizer_n_ids(tokenizer));
            fuzz_touch(text, n);
            at += n;
        }
        FUZZ_REQUIRE(at == bytes);
    }
    kvf_ids_free(&ids);
    kvf_encoder_close(encoder);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    kvf_error error;
    kvf_tokenizer *tokenizer;
    uint8_t all[512];
    char path[4096];
    for (size_t i = 0; i < sizeof all; i++)
        all[i] = (uint8_t)(i < 256 ? i : i * 97 ^ i >> 3);
    fuzz_write("tokenizer.json", (fuzz_part){data, bytes});
    snprintf(path, sizeof path, "%s/tokenizer.json", fuzz_folder());
    const kvf_status status = kvf_tokenizer_open_json(path, 0, &tokenizer, &error);
    fuzz_check_error(status, &error);
    FUZZ_REQUIRE((status == KVF_OK) == (tokenizer != NULL));
    if (status != KVF_OK)
        return 0;
    for (uint32_t id = 0; id < kvf_tokenizer_n_ids(tokenizer); id++) {
        size_t n;
        const char *text = kvf_tokenizer_bytes(tokenizer, (int32_t)id, &n);
        FUZZ_REQUIRE(kvf_tokenizer_kind(tokenizer, (int32_t)id) != KVF_TOKEN_NONE);
        FUZZ_REQUIRE(n > 0 && n <= kvf_tokenizer_longest(tokenizer));
        fuzz_touch(text, n);
    }
    check_encoding(tokenizer, all, sizeof all);
    check_encoding(tokenizer, data, bytes < 4096 ? bytes : 4096);
    kvf_tokenizer_close(tokenizer);
    return 0;
}
