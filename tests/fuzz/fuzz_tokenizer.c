/*
 * Text to tokens and back, and ids as text. The input's first byte says whether the model
 * has a BOS token, whether it is asked for, and whether there is a tokenizer.json; the next
 * three are the vocabulary; the rest is text.
 */
#include "fuzz.h"

#include "cli/ids.h"
#include "model/tokenizer.h"

enum { HEAD_BYTES = 4, HAS_BOS = 1, ADD_BOS = 2, HAS_FILE = 4, N_BYTES = 256 };

/* Exactly as much memory as was asked for: a sanitizer sees a token too many. */
static int32_t *make_tokens(size_t n)
{
    int32_t *tokens = malloc(n ? n * sizeof *tokens : 1);
    FUZZ_REQUIRE(tokens);
    return tokens;
}

/* Only a byte-level model's text is read: one id a byte, and no other tokenizer. */
static void check_refusal(const kvf_model_config *config, bool has_file)
{
    kvf_error error;
    fuzz_write("tokenizer.json", (fuzz_part){has_file ? (const uint8_t *)"{}" : NULL, 2});
    const kvf_status status = kvf_tokenizer_check(fuzz_folder(), config, &error);
    fuzz_check_error(status, &error);
    FUZZ_REQUIRE((status == KVF_OK) == (!has_file && config->geometry.vocab >= N_BYTES));
}

static void check_tokens(const kvf_model_config *config, bool add_bos, const char *text,
                         size_t bytes)
{
    const size_t n_bos = add_bos && config->bos_token >= 0;
    int32_t *tokens = make_tokens(bytes + n_bos);
    FUZZ_REQUIRE(kvf_tokenize(config, text, bytes, add_bos, tokens) == bytes + n_bos);
    FUZZ_REQUIRE(n_bos == 0 || tokens[0] == config->bos_token);
    for (size_t i = 0; i < bytes; i++)
        FUZZ_REQUIRE(kvf_token_byte(tokens[n_bos + i]) == (unsigned char)text[i]);
    free(tokens);
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
    const kvf_model_config config = {.geometry = {.vocab = vocab},
                                     .bos_token = data[0] & HAS_BOS ? (int32_t)vocab - 1 : -1};
    fuzz_guarded text = fuzz_guard(data + HEAD_BYTES, bytes - HEAD_BYTES);
    check_refusal(&config, data[0] & HAS_FILE);
    check_tokens(&config, data[0] & ADD_BOS, text.data, text.bytes);
    check_ids(text.data, text.bytes, vocab);
    fuzz_unguard(&text);
    return 0;
}
