#include "text/decoder.h"

#include "error.h"

#include <string.h>

/* U+FFFD */
static const char replacement[] = "\xef\xbf\xbd";

void kvf_decoder_start(kvf_decoder *decoder, const kvf_tokenizer *tokenizer, bool skip_special)
{
    *decoder = (kvf_decoder){.tokenizer = tokenizer, .skip_special = skip_special};
}

/*
 * Whether n bytes, 1 to 3, may go on to a character: the first says how many follow, and,
 * for some, more of the second than that it is one that follows (the Unicode standard, table 3-7).
 */
static bool may_begin(const unsigned char *c, unsigned n)
{
    const unsigned whole = c[0] >= 0xf0 ? 4 : c[0] >= 0xe0 ? 3 : 2;
    if (c[0] < 0xc2 || c[0] > 0xf4 || n >= whole)
        return false;
    if (n == 1)
        return true;
    const unsigned first = c[0] == 0xe0 ? 0xa0 : c[0] == 0xf0 ? 0x90 : 0x80;
    const unsigned last = c[0] == 0xed ? 0x9f : c[0] == 0xf4 ? 0x8f : 0xbf;
    return c[1] >= first && c[1] <= last && (n == 2 || (c[2] & 0xc0) == 0x80);
}

static void add_byte(kvf_decoder *d, unsigned char byte, kvf_buffer *out)
{
    d->held[d->n_held++] = byte;
    if (kvf_utf8_bytes((const char *)d->held, d->n_held) == d->n_held) {
        kvf_buffer_add(out, d->held, d->n_held);
        d->n_held = 0;
    } else if (!may_begin(d->held, d->n_held)) {
        /* The byte that broke it may begin another one. */
        const bool alone = d->n_held == 1;
        kvf_buffer_add(out, replacement, sizeof replacement - 1);
        d->n_held = 0;
        if (!alone)
            add_byte(d, byte, out); /* once: it is alone then */
    }
}

void kvf_decoder_add(kvf_decoder *decoder, int32_t id, kvf_buffer *out)
{
    size_t bytes;
    const char *text = kvf_tokenizer_bytes(decoder->tokenizer, id, &bytes);
    if (decoder->skip_special && kvf_tokenizer_kind(decoder->tokenizer, id) == KVF_TOKEN_SPECIAL)
        return;
    for (size_t i = 0; i < bytes; i++)
        add_byte(decoder, (unsigned char)text[i], out);
}

void kvf_decoder_flush(kvf_decoder *decoder, kvf_buffer *out)
{
    if (decoder->n_held > 0)
        kvf_buffer_add(out, replacement, sizeof replacement - 1);
    decoder->n_held = 0;
}
