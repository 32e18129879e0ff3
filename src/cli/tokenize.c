/* kvfold tokenize: text to token ids, and back. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "cli/commands.h"
#include "cli/lost_files.h"
#include "cli/message.h"
#include "cli/table.h"
#include "cli/text.h"
#include "engine/limits.h"
#include "error.h"
#include "model/config.h"
#include "text/decoder.h"
#include "text/encoder.h"

/* All of it is in memory, with four bytes a token. */
static const size_t max_text_bytes = (size_t)1 << 30;

/* ---- The tokenizer ------------------------------------------------------------------------ */

/* A name in the folder, whatever is behind it. */
static bool has_name(const char *dir, const char *name)
{
    struct stat info;
    char *path = kvf_path_join(dir, name);
    const bool has = path && lstat(path, &info) == 0;
    free(path);
    return has;
}

static kvf_status open_checkpoint(const char *path, kvf_tokenizer **tokenizer, kvf_error *error)
{
    kvf_tensor_set *files = NULL;
    kvf_file json = {NULL, 0, {0, 0, 0, 0, 0}};
    kvf_model_config config;
    cli_lost_files_watch(&files);
    kvf_status status = kvf_tensor_set_open(path, &files, error);
    if (status == KVF_OK)
        status = kvf_config_of(files, &json, &config, error);
    if (status == KVF_OK)
        status = kvf_tokenizer_open(files, config.geometry.vocab, tokenizer, error);
    kvf_file_unmap(&json);
    cli_lost_files_forget(&files);
    kvf_tensor_set_close(files);
    return status;
}

/* A folder needs no weights for it, and a tokenizer.json no model. */
static kvf_status open_path(const char *path, kvf_tokenizer **tokenizer, kvf_error *error)
{
    static const char suffix[] = ".json";
    struct stat info;
    kvf_model_config config;
    const size_t n = strlen(path);
    const bool folder = stat(path, &info) == 0 && S_ISDIR(info.st_mode);
    if (!folder && n >= sizeof suffix && strcmp(path + n - (sizeof suffix - 1), suffix) == 0)
        return kvf_tokenizer_open_json(path, 0, tokenizer, error);
    if (!folder || !has_name(path, "config.json"))
        return open_checkpoint(path, tokenizer, error);
    const kvf_status status = kvf_config_load(path, &config, error);
    return status == KVF_OK
               ? kvf_tokenizer_open_folder(path, config.geometry.vocab, tokenizer, error)
               : status;
}

/* ---- Text to ids ---------------------------------------------------------------------------- */

static void print_ids(const kvf_ids *ids, bool json)
{
    if (json)
        printf("{\"ids\":[");
    for (size_t i = 0; i < ids->n && !ferror(stdout); i++)
        printf(json ? "%s%d" : "%s%d\n", json && i > 0 ? "," : "", ids->ids[i]);
    if (json)
        printf("]}\n");
}

static int encode(const cli_options *options, const kvf_tokenizer *tokenizer, const cli_text *text)
{
    kvf_encoder *encoder = NULL;
    kvf_ids ids = {.n = 0};
    kvf_error error;
    int status = CLI_EXIT_OK;
    kvf_status encoded = kvf_encoder_open(tokenizer, &encoder, &error);
    if (encoded == KVF_OK) {
        kvf_encoder_limit(encoder, kvf_limits_left());
        encoded =
            kvf_encode_text(encoder, text->data, text->bytes, options->added_tokens, &ids, &error);
    }
    if (encoded != KVF_OK)
        status = cli_error("tokenize", "%s", error.message);
    else
        print_ids(&ids, options->output == CLI_OUTPUT_JSON);
    kvf_encoder_close(encoder);
    kvf_ids_free(&ids);
    return status;
}

/* ---- Ids to text ------------------------------------------------------------------------------
 */

static bool is_between(char c)
{
    return c == ' ' || c == ',' || c == '\t' || c == '\r' || c == '\n';
}

/* Of the byte order mark, which editors of other systems put before ids. */
static size_t mark_bytes(const cli_text *text)
{
    static const char mark[] = "\xef\xbb\xbf";
    const size_t bytes = sizeof mark - 1;
    return text->bytes >= bytes && memcmp(text->data, mark, bytes) == 0 ? bytes : 0;
}

/* A word as an id below n_ids; -1: it is none. */
static int32_t id_of(const char *word, size_t bytes, uint32_t n_ids)
{
    uint64_t id = 0;
    for (size_t i = 0; i < bytes; i++) {
        if (word[i] < '0' || word[i] > '9' || id >= n_ids)
            return -1;
        id = 10 * id + (uint64_t)(word[i] - '0');
    }
    return id < n_ids ? (int32_t)id : -1;
}

static int print_text(const kvf_buffer *text, bool json)
{
    if (text->failed)
        return cli_error("tokenize", "out of memory for the text");
    if (!json) {
        if (text->bytes > 0) /* of no text there is no array either */
            fwrite(text->data, 1, text->bytes, stdout);
        return CLI_EXIT_OK;
    }
    cli_record record = cli_record_new();
    cli_record_bytes(&record, "text", text->data, text->bytes);
    return cli_record_print("tokenize", &record, CLI_OUTPUT_JSON, false);
}

static int decode(const cli_options *options, const kvf_tokenizer *tokenizer, const cli_text *text)
{
    const uint32_t n_ids = kvf_tokenizer_n_ids(tokenizer);
    kvf_buffer out = {.data = NULL};
    kvf_decoder decoder;
    int status = CLI_EXIT_OK;
    kvf_decoder_start(&decoder, tokenizer, false);
    for (size_t at = mark_bytes(text), end; at < text->bytes && status == CLI_EXIT_OK; at = end) {
        for (end = at; end < text->bytes && !is_between(text->data[end]);)
            end++;
        const int32_t id = id_of(text->data + at, end - at, n_ids);
        if (end == at)
            end++;
        else if (id < 0)
            status =
                cli_error("tokenize", "'%s' is not a token id; those of this model are 0 to %u",
                          kvf_printable_bytes(text->data + at, end - at < 40 ? end - at : 40).text,
                          n_ids - 1);
        else
            kvf_decoder_add(&decoder, id, &out);
    }
    kvf_decoder_flush(&decoder, &out);
    if (status == CLI_EXIT_OK)
        status = print_text(&out, options->output == CLI_OUTPUT_JSON);
    kvf_buffer_free(&out);
    return status;
}

/* ---- The command --------------------------------------------------------------------------------
 */

static int read_text(const cli_options *options, cli_text *text)
{
    if (options->prompt)
        return cli_text_copy("tokenize", options->prompt, strlen(options->prompt), text);
    const int status = cli_text_read("tokenize", options->file, max_text_bytes, true, text);
    if (status == CLI_EXIT_OK && text->longer)
        return cli_error("tokenize", "'%s' has more than the %zu bytes that are read at once",
                         options->file, max_text_bytes);
    return status;
}

int cli_tokenize(const cli_options *options)
{
    kvf_tokenizer *tokenizer = NULL;
    cli_text text = {NULL, 0, false};
    kvf_error error;
    int status = CLI_EXIT_OK;
    if (open_path(options->engine.model, &tokenizer, &error) != KVF_OK)
        status = cli_error("tokenize", "%s", error.message);
    if (status == CLI_EXIT_OK)
        status = read_text(options, &text);
    if (status == CLI_EXIT_OK)
        status = options->decode_ids ? decode(options, tokenizer, &text)
                                     : encode(options, tokenizer, &text);
    cli_text_free(&text);
    kvf_tokenizer_close(tokenizer);
    return status;
}
