#include "model/tokenizer.h"

#include "error.h"
#include "file/file.h"

#include <stdlib.h>
#include <unistd.h>

#define N_BYTES 256

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
    if (config->geometry.vocab < N_BYTES)
        return kvf_fail(error, KVF_UNSUPPORTED,
                        "%s: a vocabulary of %u; a byte-level one has at least 256 tokens",
                        kvf_printable(dir).text, config->geometry.vocab);
    return kvf_ok(error);
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
