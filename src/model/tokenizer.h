/*
 * The byte-level tokenizer: id 0..255 is that byte; BOS and EOS from the config.
 * A checkpoint with a tokenizer of its own needs another one, which is not read yet.
 */
#ifndef KVF_MODEL_TOKENIZER_H
#define KVF_MODEL_TOKENIZER_H

#include "model/config.h"

/* KVF_UNSUPPORTED where DIR has a tokenizer.json or the vocabulary is under 256. */
kvf_status kvf_tokenizer_check(const char *dir, const kvf_model_config *config, kvf_error *error);
/* The same of open files: tokenizer.json beside safetensors; a GGUF says what its tokenizer is. */
kvf_status kvf_tokenizer_check_files(const kvf_tensor_set *files, const kvf_model_config *config,
                                     kvf_error *error);

/* Writes (bos, if add_bos and the model has one,) and one id a byte; returns their number. */
size_t kvf_tokenize(const kvf_model_config *config, const char *text, size_t text_bytes,
                    bool add_bos, int32_t *tokens);

/* The byte of a token, or -1 for one that has no text. */
int kvf_token_byte(int32_t token);

#endif
