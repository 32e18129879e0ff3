#include "text/vocabulary.h"

#include "error.h"
#include "file/metadata.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

enum { N_BYTES = 256 };

kvf_status kvf_tokenizer_open_bytes(uint32_t vocab, kvf_tokenizer **tokenizer, kvf_error *error)
{
    *tokenizer = NULL;
    if (vocab < N_BYTES)
        return kvf_fail(error, KVF_UNSUPPORTED,
                        "a vocabulary of %u; one of bytes has at least 256 tokens", vocab);
    kvf_tokenizer *t = calloc(1, sizeof *t);
    char bytes[N_BYTES];
    if (t)
        t->tokens = calloc(N_BYTES, sizeof *t->tokens);
    for (uint32_t i = 0; i < N_BYTES && t && t->tokens; i++) {
        bytes[i] = (char)i;
        t->byte_ids[i] = (int32_t)i;
        t->tokens[i] = (kvf_token){.at = i, .bytes = 1, .kind = KVF_TOKEN_TEXT};
    }
    if (t)
        kvf_buffer_add(&t->bytes, bytes, sizeof bytes);
    if (!t || !t->tokens || t->bytes.failed) {
        kvf_tokenizer_close(t);
        return kvf_fail(error, KVF_OUT_OF_MEMORY, "no memory for a tokenizer");
    }
    t->is_bytes = true;
    t->n_ids = vocab;
    t->capacity = N_BYTES;
    t->longest = 1;
    *tokenizer = t;
    return kvf_ok(error);
}

static bool add_mark(kvf_tokenizer *t, int32_t id, const char *text)
{
    const size_t bytes = strlen(text);
    t->tokens[id] = (kvf_token){
        .at = (uint32_t)t->bytes.bytes, .bytes = (uint32_t)bytes, .kind = KVF_TOKEN_SPECIAL};
    kvf_buffer_add(&t->bytes, text, bytes);
    t->longest = bytes > t->longest ? bytes : t->longest;
    return !t->bytes.failed && kvf_added_add(&t->added[0], text, bytes, id);
}

kvf_status kvf_tokenizer_mark_bytes(kvf_tokenizer *tokenizer, const int32_t *ids,
                                    const char *const *texts, size_t n, kvf_error *error)
{
    if (!tokenizer->is_bytes)
        return kvf_fail(error, KVF_INVALID_ARGUMENT, "the tokenizer has marks of its own");
    /* Bytes alone, or all ids where it has marks already. */
    kvf_token *tokens = calloc(tokenizer->n_ids, sizeof *tokens);
    if (!tokens)
        return kvf_fail(error, KVF_OUT_OF_MEMORY, "no memory for a tokenizer");
    memcpy(tokens, tokenizer->tokens, tokenizer->capacity * sizeof *tokens);
    free(tokenizer->tokens);
    tokenizer->tokens = tokens;
    tokenizer->capacity = tokenizer->n_ids;
    for (size_t i = 0; i < n; i++) {
        if (ids[i] < N_BYTES || (uint32_t)ids[i] >= tokenizer->n_ids ||
            tokens[ids[i]].kind != KVF_TOKEN_NONE)
            return kvf_fail(error, KVF_INVALID_ARGUMENT, "the id %d is not free for a mark",
                            ids[i]);
        if (!add_mark(tokenizer, ids[i], texts[i]))
            return kvf_fail(error, KVF_OUT_OF_MEMORY, "no memory for a tokenizer");
    }
    return kvf_ok(error);
}

/* ---- Of a checkpoint ------------------------------------------------------------------------ */

/* A checkpoint without a tokenizer; `what` there would be at `where`. */
static kvf_status open_without(const char *where, const char *what, uint32_t vocab,
                               kvf_tokenizer **tokenizer, kvf_error *error)
{
    if (vocab >= N_BYTES && vocab <= KVF_MAX_BYTE_VOCABULARY)
        return kvf_tokenizer_open_bytes(vocab, tokenizer, error);
    if (vocab < N_BYTES)
        return kvf_fail(error, KVF_UNSUPPORTED,
                        "%s: no tokenizer (%s), and a vocabulary of %u; one of bytes has at least "
                        "256 tokens",
                        kvf_printable(where).text, what, vocab);
    return kvf_fail(error, KVF_FILE_NOT_FOUND,
                    "%s: its tokenizer is missing (%s); only a vocabulary of 256 to %d tokens can "
                    "be one of bytes, and this one has %u",
                    kvf_printable(where).text, what, KVF_MAX_BYTE_VOCABULARY, vocab);
}

kvf_status kvf_tokenizer_open_folder(const char *dir, uint32_t vocab, kvf_tokenizer **tokenizer,
                                     kvf_error *error)
{
    struct stat info;
    *tokenizer = NULL;
    char *path = kvf_path_join(dir, "tokenizer.json");
    if (!path)
        return kvf_fail(error, KVF_OUT_OF_MEMORY, "no memory for a path");
    /* The name counts: a link to nothing is a tokenizer that cannot be read. */
    const bool missing = lstat(path, &info) != 0 && errno == ENOENT;
    const kvf_status status =
        missing ? open_without(dir, "there is no tokenizer.json", vocab, tokenizer, error)
                : kvf_tokenizer_open_json(path, vocab, tokenizer, error);
    free(path);
    return status;
}

/* "none" or nothing, and no tokens: whoever wrote the file had no tokenizer to put into it. */
static bool has_gguf_tokenizer(const kvf_tensor_set *files)
{
    static const char none[] = "none";
    const kvf_metadata *model = kvf_tensor_set_metadata(files, "tokenizer.ggml.model");
    kvf_text text;
    uint64_t at = 0;
    if (kvf_tensor_set_metadata(files, "tokenizer.ggml.tokens"))
        return true;
    if (!model)
        return false;
    return model->is_array || !kvf_metadata_text(model, &at, &text) || text.bytes != strlen(none) ||
           memcmp(text.data, none, strlen(none)) != 0;
}

kvf_status kvf_tokenizer_open(const kvf_tensor_set *files, uint32_t vocab,
                              kvf_tokenizer **tokenizer, kvf_error *error)
{
    const char *config_path = kvf_tensor_set_config_path(files);
    *tokenizer = NULL;
    if (!config_path && has_gguf_tokenizer(files))
        return kvf_tokenizer_read_gguf(files, vocab, tokenizer, error);
    if (!config_path)
        return open_without(kvf_tensor_set_file(files, 0)->path, "there are no tokenizer.ggml keys",
                            vocab, tokenizer, error);
    char *dir = strdup(config_path);
    if (!dir)
        return kvf_fail(error, KVF_OUT_OF_MEMORY, "no memory for a path");
    *strrchr(dir, '/') = '\0'; /* it ends in "/config.json" */
    const kvf_status status = kvf_tokenizer_open_folder(*dir ? dir : "/", vocab, tokenizer, error);
    free(dir);
    return status;
}

void kvf_tokenizer_close(kvf_tokenizer *tokenizer)
{
    if (!tokenizer)
        return;
    kvf_buffer_free(&tokenizer->bytes);
    free(tokenizer->tokens);
    free(tokenizer->pairs);
    free(tokenizer->whole);
    kvf_added_free(&tokenizer->added[0]);
    kvf_added_free(&tokenizer->added[1]);
    free(tokenizer);
}

/* ---- What is asked of it -----------------------------------------------------------------------
 */

uint32_t kvf_tokenizer_n_ids(const kvf_tokenizer *tokenizer)
{
    return tokenizer->n_ids;
}

bool kvf_tokenizer_is_bytes(const kvf_tokenizer *tokenizer)
{
    return tokenizer->is_bytes;
}

size_t kvf_tokenizer_longest(const kvf_tokenizer *tokenizer)
{
    return tokenizer->longest;
}

kvf_token_kind kvf_tokenizer_kind(const kvf_tokenizer *tokenizer, int32_t id)
{
    /* A vocabulary of bytes has ids without tokens. */
    return id >= 0 && (uint32_t)id < tokenizer->n_ids && (uint32_t)id < tokenizer->capacity
               ? (kvf_token_kind)tokenizer->tokens[id].kind
               : KVF_TOKEN_NONE;
}

const char *kvf_tokenizer_bytes(const kvf_tokenizer *tokenizer, int32_t id, size_t *bytes)
{
    *bytes = 0;
    if (kvf_tokenizer_kind(tokenizer, id) == KVF_TOKEN_NONE)
        return "";
    *bytes = tokenizer->tokens[id].bytes;
    return tokenizer->bytes.data + tokenizer->tokens[id].at;
}

int32_t kvf_tokenizer_find(const kvf_tokenizer *tokenizer, const char *text)
{
    const int32_t first = kvf_added_find(&tokenizer->added[0], text, strlen(text));
    return first >= 0 ? first : kvf_added_find(&tokenizer->added[1], text, strlen(text));
}
