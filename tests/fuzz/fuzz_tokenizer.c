/*
 * Text to tokens and back, and ids as text. The input's first byte says whether there is a
 * tokenizer.json; the next three are the vocabulary; the rest is text.
 */
#include "fuzz.h"

#include "cli/ids.h"
#include "error.h"
#include "text/decoder.h"
#include "text/encoder.h"

enum { HEAD_BYTES = 4, HAS_FILE = 4, N_BYTES = 256 };

/* Exactly as much memory as was asked for: a sanitizer sees a token too many. */
static int32_t *make_tokens(size_t n)
{
    int32_t *tokens = malloc(n ? n * sizeof *tokens : 1);
    FUZZ_REQUIRE(tokens);
    return tokens;
}

/* Without a tokenizer.json only a small vocabulary is one of bytes. */
static void check_refusal(uint32_t vocab, bool has_file)
{
    kvf_error error;
    kvf_tokenizer *tokenizer;
    fuzz_write("tokenizer.json", (fuzz_part){has_file ? (const uint8_t *)"{}" : NULL, 2});
    const kvf_status status = kvf_tokenizer_open_folder(fuzz_folder(), vocab, &tokenizer, &error);
    fuzz_check_error(status, &error);
    FUZZ_REQUIRE((status == KVF_OK) ==
                 (!has_file && vocab >= N_BYTES && vocab <= KVF_MAX_BYTE_VOCABULARY));
    FUZZ_REQUIRE((status == KVF_OK) == (tokenizer != NULL));
    kvf_tokenizer_close(tokenizer);
}

/* The ids have the bytes of the text. */
static void check_bytes(const kvf_tokenizer *tokenizer, const kvf_ids *ids, const char *text,
                        size_t bytes)
{
    size_t at = 0;
    for (size_t i = 0; i < ids->n; i++) {
        size_t n;
        const char *token = kvf_tokenizer_bytes(tokenizer, ids->ids[i], &n);
        FUZZ_REQUIRE(n > 0 && n <= bytes - at && memcmp(token, text + at, n) == 0);
        at += n;
    }
    FUZZ_REQUIRE(at == bytes);
}

/* Decoded in one piece or two, it is the same text, and it is UTF-8. */
static void check_text(const kvf_tokenizer *tokenizer, const kvf_ids *ids, const char *text,
                       size_t bytes)
{
    kvf_decoder decoder;
    kvf_buffer out = {.data = NULL};
    kvf_decoder_start(&decoder, tokenizer, false);
    for (size_t i = 0; i < ids->n; i++) {
        kvf_decoder_add(&decoder, ids->ids[i], &out);
        FUZZ_REQUIRE(decoder.n_held <= 3);
    }
    kvf_decoder_flush(&decoder, &out);
    bool valid = true;
    for (size_t at = 0, n; at < bytes && valid; at += n) {
        n = kvf_utf8_bytes(text + at, bytes - at);
        valid = n > 0;
    }
    FUZZ_REQUIRE(!valid ||
                 (out.bytes == bytes && memcmp(out.data ? out.data : "", text, bytes) == 0));
    for (size_t at = 0, n; at < out.bytes; at += n) {
        n = kvf_utf8_bytes(out.data + at, out.bytes - at);
        FUZZ_REQUIRE(n > 0);
    }
    kvf_buffer_free(&out);
}

/* Where it can be cut, both sides have the ids of the whole. */
static void check_cut(kvf_encoder *encoder, const kvf_ids *whole, const char *text, size_t bytes)
{
    kvf_error error;
    kvf_ids ids = {.n = 0};
    const size_t cut = kvf_text_cut(encoder, text, bytes / 2);
    FUZZ_REQUIRE(cut <= bytes / 2);
    FUZZ_REQUIRE(kvf_encode_text(encoder, text, cut, false, &ids, &error) == KVF_OK);
    FUZZ_REQUIRE(kvf_encode_text(encoder, text + cut, bytes - cut, false, &ids, &error) == KVF_OK);
    FUZZ_REQUIRE(ids.n == whole->n &&
                 (ids.n == 0 || memcmp(ids.ids, whole->ids, ids.n * sizeof *ids.ids) == 0));
    kvf_ids_free(&ids);
}

static void check_tokens(const kvf_tokenizer *tokenizer, const char *text, size_t bytes)
{
    kvf_encoder *encoder;
    kvf_error error;
    kvf_ids ids = {.n = 0};
    FUZZ_REQUIRE(kvf_encoder_open(tokenizer, &encoder, &error) == KVF_OK);
    FUZZ_REQUIRE(kvf_encode_text(encoder, text, bytes, true, &ids, &error) == KVF_OK);
    check_bytes(tokenizer, &ids, text, bytes);
    ids.n = 0;
    FUZZ_REQUIRE(kvf_encode_text(encoder, text, bytes, false, &ids, &error) == KVF_OK);
    check_bytes(tokenizer, &ids, text, bytes);
    for (size_t i = 0; i < ids.n; i++)
        FUZZ_REQUIRE(kvf_tokenizer_kind(tokenizer, ids.ids[i]) == KVF_TOKEN_TEXT);
    check_text(tokenizer, &ids, text, bytes);
    check_cut(encoder, &ids, text, bytes);
    kvf_ids_free(&ids);
    kvf_encoder_close(encoder);
}

/* The small tokenizer of the tests, which is opened once. */
static const kvf_tokenizer *fixture(void)
{
    static kvf_tokenizer *tokenizer;
    kvf_error error;
    if (!tokenizer)
        FUZZ_REQUIRE(kvf_tokenizer_open_json(KVF_FUZZ_TOKENIZER, 0, &tokenizer, &error) == KVF_OK);
    return tokenizer;
}

/* The ids, written as text again, must be the text up to line breaks and leading zeros. */
static void check_same_text(const int32_t *ids, uint64_t n_ids, const char *text, size_t bytes)
{
    const char *end = text + bytes;
    char line[16];
    if (bytes >= 3 && memcmp(text, "\xef\xbb\xbf", 3) == 0)
        text += 3;
    for (uint64_t i = 0; i < n_ids; i++) {
        const size_t digits = (size_t)snprintf(line, sizeof line, "%d", ids[i]);
        const char *start = text;
        while (text < end && *text >= '0' && *text <= '9')
            text++;
        const size_t length = (size_t)(text - start);
        FUZZ_REQUIRE(length >= digits && memcmp(text - digits, line, digits) == 0);
        for (size_t zero = 0; zero < length - digits; zero++)
            FUZZ_REQUIRE(start[zero] == '0');
        FUZZ_REQUIRE(text == end || *text == '\n' || *text == '\r');
        text += end - text >= 2 && text[0] == '\r' && text[1] == '\n';
        text += text < end;
    }
    FUZZ_REQUIRE(text == end);
}

/* In pieces of three bytes with room for one id, the text says the same. */
static bool take_pieces(cli_ids *pieces, const char *text, size_t bytes, const int32_t *ids,
                        uint64_t n_ids)
{
    uint64_t n = 0;
    uint64_t got = 0;
    size_t at = 0;
    bool good = true;
    int32_t id;
    while (good && at < bytes) {
        size_t used;
        const size_t piece = bytes - at < 3 ? bytes - at : 3;
        good = cli_ids_take(pieces, text + at, piece, &id, 1, &got, &used);
        FUZZ_REQUIRE(got == 0 || (n < n_ids && id == ids[n]));
        FUZZ_REQUIRE(!good || got > 0 || used == piece);
        n += got;
        at += used;
    }
    good = good && cli_ids_end(pieces, &id, &got);
    if (good && got > 0)
        FUZZ_REQUIRE(n < n_ids && id == ids[n++]);
    FUZZ_REQUIRE(!good || n == n_ids);
    return good;
}

static void check_ids(const char *text, size_t bytes, uint32_t vocab)
{
    cli_ids whole;
    cli_ids pieces;
    uint64_t n_ids = 0;
    uint64_t n_last = 0;
    size_t used = 0;
    const uint64_t most = cli_ids_most(bytes);
    int32_t *ids = make_tokens(most);
    cli_ids_start(&whole, vocab);
    cli_ids_start(&pieces, vocab);
    bool good = cli_ids_take(&whole, text, bytes, ids, most, &n_ids, &used);
    FUZZ_REQUIRE(!good || used == bytes);
    FUZZ_REQUIRE(n_ids < most); /* there is room for a last line without its end */
    good = good && cli_ids_end(&whole, ids + n_ids, &n_last);
    n_ids += good ? n_last : 0;
    FUZZ_REQUIRE(take_pieces(&pieces, text, bytes, ids, n_ids) == good);
    FUZZ_REQUIRE(pieces.line_number == whole.line_number);
    if (good) {
        for (uint64_t i = 0; i < n_ids; i++)
            FUZZ_REQUIRE(ids[i] >= 0 && (uint32_t)ids[i] < vocab);
        check_same_text(ids, n_ids, text, bytes);
    } else {
        FUZZ_REQUIRE(whole.line_number >= 1 && whole.line_number <= bytes);
        FUZZ_REQUIRE(strcmp(whole.line, pieces.line) == 0);
        FUZZ_REQUIRE(strlen(whole.line) < sizeof whole.line);
    }
    free(ids);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    if (bytes < HEAD_BYTES)
        return 0;
    const uint32_t vocab = 1u + data[1] + ((uint32_t)data[2] << 8) + ((uint32_t)data[3] << 16);
    kvf_tokenizer *of_bytes;
    kvf_error error;
    fuzz_guarded text = fuzz_guard(data + HEAD_BYTES, bytes - HEAD_BYTES);
    check_refusal(vocab, data[0] & HAS_FILE);
    FUZZ_REQUIRE(kvf_tokenizer_open_bytes(N_BYTES + vocab, &of_bytes, &error) == KVF_OK);
    check_tokens(of_bytes, text.data, text.bytes);
    check_tokens(fixture(), text.data, text.bytes);
    kvf_tokenizer_close(of_bytes);
    check_ids(text.data, text.bytes, vocab);
    fuzz_unguard(&text);
    return 0;
}
