/*
 * src/text for tests in other languages.
 *
 * usage: text_probe PATH [VOCAB]      PATH is a tokenizer.json, a checkpoint's folder or a GGUF;
 * VOCAB the embedding's rows (0: any)
 *
 * Prints "ok" and the number of ids, or what was refused, as one line. Then it answers requests
 * from stdin, each a byte that says what it is, a byte of flags, the bytes that follow as u32 (all
 * little-endian) and those. An answer is the number of its bytes as u32 and those.
 *   'e'  text: its ids as i32; flag 1: added tokens are looked for
 *   'p'  text with markers between bytes 0x01 and 0x02: the ids of the prompt
 *   'd'  ids: their text, added to the decoder one by one; flag 1: without special ones
 *   'c'  text: u32, where kvf_text_cut cuts it
 *   'k'  ids: the kind of each as a byte
 */
#include "text/decoder.h"
#include "text/encoder.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

typedef struct probe {
    kvf_tokenizer *tokenizer;
    kvf_encoder *encoder;
    kvf_buffer request;
    kvf_buffer answer;
    kvf_ids ids;
    kvf_error error;
} probe;

static void require(bool condition, const char *what)
{
    if (condition)
        return;
    fprintf(stderr, "text_probe: %s\n", what);
    exit(1);
}

static kvf_status open_path(probe *p, const char *path, uint32_t vocab)
{
    struct stat info;
    kvf_tensor_set *set = NULL;
    const size_t n = strlen(path);
    if (n >= 5 && strcmp(path + n - 5, ".json") == 0)
        return kvf_tokenizer_open_json(path, vocab, &p->tokenizer, &p->error);
    if (stat(path, &info) == 0 && S_ISDIR(info.st_mode))
        return kvf_tokenizer_open_folder(path, vocab, &p->tokenizer, &p->error);
    kvf_status status = kvf_tensor_set_open(path, &set, &p->error);
    if (status == KVF_OK)
        status = kvf_tokenizer_open(set, vocab, &p->tokenizer, &p->error);
    kvf_tensor_set_close(set); /* the tokenizer needs it no more */
    return status;
}

static void answer_ids(probe *p)
{
    kvf_buffer_add(&p->answer, p->ids.ids, p->ids.n * sizeof *p->ids.ids);
}

static void encode_prompt(probe *p)
{
    kvf_prompt prompt = {.failed = false};
    const char *text = p->request.data;
    size_t begin = 0;
    for (size_t at = 0; at < p->request.bytes; at++) {
        if (text[at] == 1)
            kvf_prompt_text(&prompt, text + begin, at - begin);
        if (text[at] == 2) {
            kvf_buffer marker = {.data = NULL};
            kvf_buffer_add(&marker, text + begin, at - begin);
            kvf_buffer_add(&marker, "", 1);
            kvf_prompt_marker(&prompt, marker.data);
            kvf_buffer_free(&marker);
        }
        if (text[at] == 1 || text[at] == 2)
            begin = at + 1;
    }
    kvf_prompt_text(&prompt, text + begin, p->request.bytes - begin);
    require(kvf_encode_prompt(p->encoder, &prompt, &p->ids, &p->error) == KVF_OK, p->error.message);
    kvf_prompt_free(&prompt);
    answer_ids(p);
}

static void decode(probe *p, bool skip_special)
{
    kvf_decoder decoder;
    kvf_decoder_start(&decoder, p->tokenizer, skip_special);
    for (size_t at = 0; at + 4 <= p->request.bytes; at += 4) {
        int32_t id;
        memcpy(&id, p->request.data + at, sizeof id);
        kvf_decoder_add(&decoder, id, &p->answer);
    }
    kvf_decoder_flush(&decoder, &p->answer);
}

static void kinds(probe *p)
{
    for (size_t at = 0; at + 4 <= p->request.bytes; at += 4) {
        int32_t id;
        memcpy(&id, p->request.data + at, sizeof id);
        const char kind = (char)kvf_tokenizer_kind(p->tokenizer, id);
        kvf_buffer_add(&p->answer, &kind, 1);
    }
}

static void answer(probe *p, int what, int flags)
{
    p->answer.bytes = 0;
    p->ids.n = 0;
    switch (what) {
    case 'e':
        require(kvf_encode_text(p->encoder, p->request.data, p->request.bytes, flags & 1, &p->ids,
                                &p->error) == KVF_OK,
                p->error.message);
        answer_ids(p);
        break;
    case 'p': encode_prompt(p); break;
    case 'd': decode(p, flags & 1); break;
    case 'k': kinds(p); break;
    case 'c': {
        const uint32_t cut = (uint32_t)kvf_text_cut(p->encoder, p->request.data, p->request.bytes);
        kvf_buffer_add(&p->answer, &cut, sizeof cut);
        break;
    }
    default: require(false, "an unknown request");
    }
    const uint32_t bytes = (uint32_t)p->answer.bytes;
    require(!p->answer.failed, "out of memory");
    fwrite(&bytes, sizeof bytes, 1, stdout);
    fwrite(p->answer.data, 1, bytes, stdout);
    fflush(stdout);
}

/* Exactly as much memory as the text has bytes: a sanitizer sees one too many. */
static bool read_request(probe *p, int *what, int *flags)
{
    uint32_t bytes;
    *what = getchar();
    *flags = getchar();
    if (*flags == EOF)
        return false;
    require(fread(&bytes, sizeof bytes, 1, stdin) == 1, "half a request");
    free(p->request.data);
    p->request.data = malloc(bytes ? bytes : 1);
    require(p->request.data && fread(p->request.data, 1, bytes, stdin) == bytes, "half a request");
    p->request.bytes = bytes;
    return true;
}

int main(int argc, char **argv)
{
    probe p = {.tokenizer = NULL};
    int what;
    int flags;
    require(argc >= 2, "usage: text_probe PATH [VOCAB]");
    const uint32_t vocab = argc > 2 ? (uint32_t)strtoul(argv[2], NULL, 10) : 0;
    if (open_path(&p, argv[1], vocab) != KVF_OK) {
        printf("%s\n", p.error.message);
        return 0;
    }
    require(kvf_encoder_open(p.tokenizer, &p.encoder, &p.error) == KVF_OK, p.error.message);
    printf("ok %u\n", kvf_tokenizer_n_ids(p.tokenizer));
    fflush(stdout);
    while (read_request(&p, &what, &flags))
        answer(&p, what, flags);
    kvf_encoder_close(p.encoder);
    kvf_tokenizer_close(p.tokenizer);
    kvf_buffer_free(&p.answer);
    kvf_ids_free(&p.ids);
    free(p.request.data);
    return 0;
}
