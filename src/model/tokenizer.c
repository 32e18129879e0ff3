#include "model/tokenizer.h"

#include "error.h"
#include "file/file.h"

#include "file/metadata.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define N_BYTES 256

static kvf_status check_vocabulary(const char *where, const kvf_model_config *config,
                                   kvf_error *error)
{
    if (config->geometry.vocab < N_BYTES)
        return kvf_fail(error, KVF_UNSUPPORTED,
                        "%s: a vocabulary of %u; a byte-level one has at least 256 tokens",
                        kvf_printable(where).text, config->geometry.vocab);
    return kvf_ok(error);
}

kvf_status kvf_tokenizer_check(const char *dir, const kvf_model_config *config, kvf_error *error)
{
    char *path = kvf_path_join(dir, "tokenizer.json");
    if (!path)
        return kvf_fail(error, KVF_OUT_OF_MEMORY, "no memory for a path");
    bool has_tokenizer = access(path, F_OK) == 0;
    free(path);
    if (has_tokenizer)
        return kvf_fail(error, KVF_UNSUPPORTED,
                        "%s: has a tokenizer.json, which is not read yet; only byte-level models "
                        "take text",
                        kvf_printable(dir).text);
    return check_vocabulary(dir, config, error);
}

/* "none" or nothing: whoever wrote the file had no tokenizer to put into it. */
static kvf_status check_gguf(const kvf_tensor_set *files, const kvf_model_config *config,
                             kvf_error *error)
{
    static const char none[] = "none";
    const char *path = kvf_tensor_set_file(files, 0)->path;
    const kvf_metadata *model = kvf_tensor_set_metadata(files, "tokenizer.ggml.model");
    kvf_text text;
    uint64_t at = 0;
    if (model && (model->is_array || !kvf_metadata_text(model, &at, &text) ||
                  text.bytes != strlen(none) || memcmp(text.data, none, strlen(none)) != 0))
        return kvf_fail(error, KVF_UNSUPPORTED,
                        "%s: has a tokenizer (\"tokenizer.ggml.model\"), which is not read yet; "
                        "only byte-level models take text",
                        kvf_printable(path).text);
    return check_vocabulary(path, config, error);
}

kvf_status kvf_tokenizer_check_files(const kvf_tensor_set *files, const kvf_model_config *config,
                                     kvf_error *error)
{
    const char *config_path = kvf_tensor_set_config_path(files);
    if (!config_path)
        return check_gguf(files, config, error);
    char *dir = strdup(config_path);
    if (!dir)
        return kvf_fail(error, KVF_OUT_OF_MEMORY, "no memory for a path");
    *strrchr(dir, '/') = '\0'; /* it ends in "/config.json" */
    const kvf_status status = kvf_tokenizer_check(dir, config, error);
    free(dir);
    return status;
}

size_t kvf_tokenize(const kvf_model_config *config, const char *text, size_t text_bytes,
                    bool add_bos, int32_t *tokens)
{
    size_t n = 0;
    if (add_bos && config->bos_token >= 0)
        tokens[n++] = config->bos_token;
    for (size_t i = 0; i < text_bytes; i++)
        tokens[n++] = (unsigned char)text[i];
    return n;
}

int kvf_token_byte(int32_t token)
{
    return token >= 0 && token < N_BYTES ? token : -1;
}
