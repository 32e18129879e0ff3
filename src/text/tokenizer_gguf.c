/* The tokenizer that a GGUF carries: the keys tokenizer.ggml.*, of a split file those of its first
 * part. */
#include "text/vocabulary.h"

#include "error.h"
#include "file/metadata.h"

#include <stdlib.h>
#include <string.h>

/* The numbers of tokenizer.ggml.token_type. */
enum { TYPE_NORMAL = 1, TYPE_CONTROL = 3, TYPE_USER_DEFINED = 4, TYPE_UNUSED = 5 };

typedef struct keys {
    const char *path;
    const kvf_metadata *tokens;
    const kvf_metadata *types;
    const kvf_metadata *merges;
} keys;

static bool is_one_of(kvf_text text, const char *const *names)
{
    for (; *names; names++)
        if (strlen(*names) == text.bytes && memcmp(*names, text.data, text.bytes) == 0)
            return true;
    return false;
}

/* A key whose text must be one of those. */
static kvf_status check_text(const kvf_tensor_set *files, const char *path, const char *key,
                             const char *const *names, kvf_error *error)
{
    const kvf_metadata *metadata = kvf_tensor_set_metadata(files, key);
    kvf_text text;
    uint64_t at = 0;
    if (!metadata)
        return kvf_fail(error, KVF_UNSUPPORTED, "%s: has a tokenizer without \"%s\"",
                        kvf_printable(path).text, key);
    if (!metadata->is_array && kvf_metadata_text(metadata, &at, &text) && is_one_of(text, names))
        return KVF_OK;
    return kvf_fail(error, KVF_UNSUPPORTED,
                    "%s: \"%s\" is %s; only DeepSeek's tokenizer is read, where it is \"%s\"",
                    kvf_printable(path).text, key,
                    metadata->is_array ? kvf_metadata_show(metadata).text
                                       : kvf_metadata_show_value(metadata, 0).text,
                    names[0]);
}

static kvf_status find_array(const kvf_tensor_set *files, const char *path, const char *key,
                             bool of_text, const kvf_metadata **array, kvf_error *error)
{
    const kvf_metadata *found = kvf_tensor_set_metadata(files, key);
    *array = found;
    if (!found)
        return kvf_fail(error, KVF_FILE_FORMAT, "%s: has a tokenizer without \"%s\"",
                        kvf_printable(path).text, key);
    if (!found->is_array || (found->type == KVF_VALUE_TEXT) != of_text)
        return kvf_fail(error, KVF_FILE_FORMAT, "%s: \"%s\" is %s; an array of %s was expected",
                        kvf_printable(path).text, key, kvf_metadata_show(found).text,
                        of_text ? "strings" : "whole numbers");
    return KVF_OK;
}

static kvf_status find_keys(const kvf_tensor_set *files, keys *k, kvf_error *error)
{
    static const char *const models[] = {"gpt2", NULL};
    static const char *const splits[] = {"joyai-llm", "deepseek-v3", NULL}; /* the same splitting */
    k->path = kvf_tensor_set_file(files, 0)->path;
    kvf_status status = check_text(files, k->path, "tokenizer.ggml.model", models, error);
    if (status == KVF_OK)
        status = check_text(files, k->path, "tokenizer.ggml.pre", splits, error);
    if (status == KVF_OK)
        status = find_array(files, k->path, "tokenizer.ggml.tokens", true, &k->tokens, error);
    if (status == KVF_OK)
        status = find_array(files, k->path, "tokenizer.ggml.token_type", false, &k->types, error);
    if (status == KVF_OK)
        status = find_array(files, k->path, "tokenizer.ggml.merges", true, &k->merges, error);
    if (status == KVF_OK && k->types->n_values != k->tokens->n_values)
        status = kvf_fail(error, KVF_FILE_FORMAT,
                          "%s: \"tokenizer.ggml.token_type\" has %llu values, and there are %llu "
                          "tokens",
                          kvf_printable(k->path).text, (unsigned long long)k->types->n_values,
                          (unsigned long long)k->tokens->n_values);
    return status;
}

/*
 * The file does not say which tokens are looked for first (tokenizer.json's "normalized"): those
 * that are no text are, as with every file of DeepSeek's.
 */
static kvf_status add_token(kvf_vocabulary *v, const keys *k, uint64_t id, kvf_text text,
                            bool added_too, kvf_error *error)
{
    uint64_t type = 0;
    if (!kvf_metadata_u64(k->types, id, &type))
        type = 0;
    const bool added = type == TYPE_CONTROL || type == TYPE_USER_DEFINED || type == TYPE_UNUSED;
    if (!added && type != TYPE_NORMAL)
        return kvf_fail(error, KVF_UNSUPPORTED,
                        "%s: the token %llu has the type %s; normal (1), control (3), user-defined "
                        "(4) and unused (5) ones are read",
                        kvf_printable(k->path).text, (unsigned long long)id,
                        kvf_metadata_show_value(k->types, id).text);
    if (added != added_too)
        return KVF_OK;
    if (!added)
        return kvf_vocabulary_add(v, id, text.data, text.bytes, error);
    if (type == TYPE_UNUSED)
        return kvf_vocabulary_add_unused(v, id, error);
    const kvf_added_token token = {(int64_t)id, text.data, text.bytes, type != TYPE_USER_DEFINED,
                                   type == TYPE_USER_DEFINED};
    return kvf_vocabulary_add_added(v, &token, error);
}

/* The tokens that are added ones, or all others. */
static kvf_status add_tokens(kvf_vocabulary *v, const keys *k, bool added, kvf_error *error)
{
    uint64_t at = 0;
    kvf_text text;
    kvf_status status = KVF_OK;
    for (uint64_t id = 0; id < k->tokens->n_values && status == KVF_OK; id++) {
        if (!kvf_metadata_text(k->tokens, &at, &text))
            return kvf_fail(error, KVF_FILE_FORMAT, "%s: \"tokenizer.ggml.tokens\" ends too early",
                            kvf_printable(k->path).text);
        status = add_token(v, k, id, text, added, error);
    }
    return status;
}

static kvf_status add_merges(kvf_vocabulary *v, const keys *k, kvf_error *error)
{
    uint64_t at = 0;
    kvf_text text;
    kvf_status status = KVF_OK;
    for (uint64_t i = 0; i < k->merges->n_values && status == KVF_OK; i++) {
        if (!kvf_metadata_text(k->merges, &at, &text))
            return kvf_fail(error, KVF_FILE_FORMAT, "%s: \"tokenizer.ggml.merges\" ends too early",
                            kvf_printable(k->path).text);
        status = kvf_vocabulary_add_merge(v, text.data, text.bytes, error);
    }
    return status;
}

static kvf_status check_size(const keys *k, uint32_t vocab, kvf_error *error)
{
    if (k->tokens->n_values <= vocab)
        return KVF_OK;
    return kvf_fail(error, KVF_FILE_FORMAT,
                    "%s: has %llu tokens and the model's embedding %u rows: it is another model's "
                    "tokenizer",
                    kvf_printable(k->path).text, (unsigned long long)k->tokens->n_values, vocab);
}

kvf_status kvf_tokenizer_read_gguf(const kvf_tensor_set *files, uint32_t vocab,
                                   kvf_tokenizer **tokenizer, kvf_error *error)
{
    keys k = {.path = NULL};
    kvf_vocabulary v = {.where = NULL};
    *tokenizer = NULL;
    kvf_status status = find_keys(files, &k, error);
    if (status == KVF_OK)
        status = check_size(&k, vocab, error);
    if (status == KVF_OK)
        status = kvf_vocabulary_start(&v, k.path, error);
    if (status == KVF_OK)
        status = add_tokens(&v, &k, false, error);
    if (status == KVF_OK)
        status = add_tokens(&v, &k, true, error);
    if (status == KVF_OK)
        status = kvf_vocabulary_check(&v, error);
    if (status == KVF_OK)
        status = add_merges(&v, &k, error);
    if (status == KVF_OK)
        status = kvf_vocabulary_finish(&v, tokenizer, error);
    if (status == KVF_OK)
        (*tokenizer)->n_ids = vocab; /* the rows of the embedding that are left have no text */
    /* Zeros in the place of what was there are no fault of the file. */
    const char *lost = kvf_tensor_set_lost(files);
    if (lost) {
        kvf_tokenizer_close(*tokenizer);
        *tokenizer = NULL;
        status = kvf_fail(error, KVF_FILE_IO, "%s: could not be read to its end any more",
                          kvf_printable(lost).text);
    }
    kvf_vocabulary_free(&v);
    return status == KVF_OK ? kvf_ok(error) : status;
}
