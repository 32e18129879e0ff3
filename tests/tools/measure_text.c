/*
 * Times the tokenizer: opening it, and encoding a text paragraph by paragraph.
 *
 * usage: measure_text TOKENIZER_JSON FILE [ROUNDS]
 *
 * A paragraph is what two line breaks end; added tokens are looked for, which the library that this
 * is compared with (compare_tokenizers.py) always does. Prints open_s, paragraphs, bytes, ids and
 * the least seconds of a round, of all rounds with one encoder (a round after the first finds its
 * pieces in the cache) and of the first; one "name value" a line.
 */
#include "text/encoder.h"

#include "file/file.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static double seconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

static void require(bool condition, const char *what)
{
    if (condition)
        return;
    fprintf(stderr, "measure_text: %s\n", what);
    exit(1);
}

/* Where the paragraph that begins at `at` ends. */
static size_t paragraph_end(const char *text, size_t at, size_t bytes)
{
    for (; at + 1 < bytes; at++)
        if (text[at] == '\n' && text[at + 1] == '\n')
            return at + 2;
    return bytes;
}

int main(int argc, char **argv)
{
    kvf_error error;
    kvf_tokenizer *tokenizer;
    kvf_encoder *encoder;
    kvf_file file;
    kvf_ids ids = {.n = 0};
    require(argc >= 3, "usage: measure_text TOKENIZER_JSON FILE [ROUNDS]");
    const int rounds = argc > 3 ? atoi(argv[3]) : 3;
    double started = seconds();
    require(kvf_tokenizer_open_json(argv[1], 0, &tokenizer, &error) == KVF_OK, error.message);
    printf("open_s %.4f\n", seconds() - started);
    require(kvf_encoder_open(tokenizer, &encoder, &error) == KVF_OK, error.message);
    require(kvf_file_map(argv[2], &file, &error) == KVF_OK, error.message);
    const char *text = file.data;
    double least = 0;
    size_t n_paragraphs = 0;
    size_t n_ids = 0;
    for (int round = 0; round < rounds; round++) {
        n_paragraphs = n_ids = 0;
        started = seconds();
        for (size_t at = 0, end; at < file.bytes; at = end) {
            end = paragraph_end(text, at, file.bytes);
            ids.n = 0;
            require(kvf_encode_text(encoder, text + at, end - at, true, &ids, &error) == KVF_OK,
                    error.message);
            n_ids += ids.n;
            n_paragraphs++;
        }
        const double taken = seconds() - started;
        if (round == 0)
            printf("first_s %.4f\n", taken);
        least = round == 0 || taken < least ? taken : least;
    }
    printf("least_s %.4f\nparagraphs %zu\nbytes %zu\nids %zu\n", least, n_paragraphs, file.bytes,
           n_ids);
    kvf_encoder_close(encoder);
    kvf_tokenizer_close(tokenizer);
    kvf_file_unmap(&file);
    kvf_ids_free(&ids);
    return 0;
}
