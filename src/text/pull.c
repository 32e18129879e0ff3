#include "text/pull.h"

#include "error.h"

#include <string.h>

enum { MAX_DEPTH = 64 };

kvf_pull kvf_pull_start(const char *text, size_t bytes, const char *where, kvf_error *error)
{
    kvf_pull p = {.text = text, .bytes = bytes, .where = where, .error = error, .status = KVF_OK};
    if (bytes >= 3 && memcmp(text, "\xef\xbb\xbf", 3) == 0)
        p.at = 3;
    return p;
}

void kvf_pull_fail(kvf_pull *p, const char *expected)
{
    size_t line = 1;
    size_t line_at = 0;
    if (p->status != KVF_OK)
        return;
    for (size_t i = 0; i < p->at && i < p->bytes; i++) {
        line += p->text[i] == '\n';
        line_at = p->text[i] == '\n' ? i + 1 : line_at;
    }
    if (p->at >= p->bytes)
        p->status = kvf_fail(p->error, KVF_FILE_FORMAT,
                             "%s: ends after %zu bytes, where %s was expected: it is not all there",
                             kvf_printable(p->where).text, p->bytes, expected);
    else
        p->status = kvf_fail(p->error, KVF_FILE_FORMAT, "%s: line %zu, column %zu: %s was expected",
                             kvf_printable(p->where).text, line, p->at - line_at + 1, expected);
}

static void skip_space(kvf_pull *p)
{
    while (p->at < p->bytes && (p->text[p->at] == ' ' || p->text[p->at] == '\n' ||
                                p->text[p->at] == '\r' || p->text[p->at] == '\t'))
        p->at++;
}

char kvf_pull_peek(kvf_pull *p)
{
    skip_space(p);
    return p->status == KVF_OK && p->at < p->bytes ? p->text[p->at] : '\0';
}

static void take(kvf_pull *p, char c, const char *name)
{
    if (kvf_pull_peek(p) != c)
        kvf_pull_fail(p, name);
    else
        p->at++;
}

void kvf_pull_enter(kvf_pull *p, char open)
{
    take(p, open, open == '{' ? "an object" : "an array");
    p->first = true;
}

bool kvf_pull_next(kvf_pull *p, char open)
{
    const char close = open == '{' ? '}' : ']';
    const bool first = p->first;
    p->first = false;
    const char c = kvf_pull_peek(p);
    if (p->status != KVF_OK)
        return false;
    if (c == close) {
        p->at++;
        return false;
    }
    if (!first)
        take(p, ',', open == '{' ? "',' or '}'" : "',' or ']'");
    return p->status == KVF_OK;
}

/* ---- Strings ------------------------------------------------------------------------------- */

/* Four hexadecimal digits; -1: something else. */
static int32_t hex4(const kvf_pull *p, size_t at)
{
    int32_t value = 0;
    if (p->bytes - at < 4)
        return -1;
    for (size_t i = at; i < at + 4; i++) {
        const char c = p->text[i];
        const int digit = c >= '0' && c <= '9'   ? c - '0'
                          : c >= 'a' && c <= 'f' ? c - 'a' + 10
                          : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                                 : -1;
        if (digit < 0)
            return -1;
        value = value << 4 | digit;
    }
    return value;
}

static void add_code(kvf_buffer *out, uint32_t code)
{
    char utf8[4];
    size_t n = code < 0x80 ? 1 : code < 0x800 ? 2 : code < 0x10000 ? 3 : 4;
    static const unsigned char leads[] = {0, 0, 0xc0, 0xe0, 0xf0};
    for (size_t i = n; i-- > 1; code >>= 6)
        utf8[i] = (char)(0x80 | (code & 0x3f));
    utf8[0] = (char)(leads[n] | code);
    kvf_buffer_add(out, utf8, n);
}

/* \uXXXX, p->at at the 'u'; two where one is half of a character. False: it is no character. */
static bool take_unicode(kvf_pull *p, kvf_buffer *out)
{
    int32_t code = hex4(p, p->at + 1);
    size_t taken = 5;
    if (code >= 0xd800 && code < 0xdc00) {
        const size_t second = p->at + 5;
        const bool follows = p->bytes - second >= 6 && memcmp(p->text + second, "\\u", 2) == 0;
        const int32_t low = follows ? hex4(p, second + 2) : -1;
        if (low < 0xdc00 || low > 0xdfff)
            return false;
        code = 0x10000 + ((code - 0xd800) << 10) + (low - 0xdc00);
        taken = 11;
    } else if (code >= 0xdc00 && code <= 0xdfff) {
        return false;
    }
    if (code <= 0) /* a NUL would cut it where it is read as a string */
        return false;
    add_code(out, (uint32_t)code);
    p->at += taken;
    return true;
}

/* p->at behind the backslash. */
static bool take_escape(kvf_pull *p, kvf_buffer *out)
{
    static const char names[] = "\"\\/bfnrt";
    static const char values[] = "\"\\/\b\f\n\r\t";
    if (p->at >= p->bytes)
        return false;
    if (p->text[p->at] == 'u')
        return take_unicode(p, out);
    const char *name = memchr(names, p->text[p->at], sizeof names - 1);
    if (!name)
        return false;
    kvf_buffer_add(out, &values[name - names], 1);
    p->at++;
    return true;
}

/* The bytes from p->at on that stand for themselves, checked. */
static size_t plain_bytes(const kvf_pull *p)
{
    size_t at = p->at;
    while (at < p->bytes) {
        const unsigned char c = (unsigned char)p->text[at];
        if (c < ' ' || c == '"' || c == '\\')
            break;
        const size_t n = c < 0x80 ? 1 : kvf_utf8_bytes(p->text + at, p->bytes - at);
        if (n == 0)
            break;
        at += n;
    }
    return at - p->at;
}

void kvf_pull_string(kvf_pull *p, kvf_buffer *text)
{
    text->bytes = 0;
    take(p, '"', "a string");
    while (p->status == KVF_OK) {
        const size_t n = plain_bytes(p);
        kvf_buffer_add(text, p->text + p->at, n);
        p->at += n;
        const char c = p->at < p->bytes ? p->text[p->at] : '\0';
        if (c == '"') {
            p->at++;
            break;
        }
        const char *wrong = NULL;
        if (c != '\\')
            wrong = "the rest of a string in UTF-8";
        else if (p->at++, !take_escape(p, text))
            wrong = "an escape of JSON that is a character";
        /* Half a character before the end is the end. */
        if (wrong && !memchr(p->text + p->at, '"', p->bytes - p->at))
            p->at = p->bytes;
        if (wrong)
            kvf_pull_fail(p, wrong);
    }
    if (p->status == KVF_OK && text->failed)
        p->status = kvf_fail(p->error, KVF_OUT_OF_MEMORY, "%s: no memory for a string",
                             kvf_printable(p->where).text);
}

void kvf_pull_key(kvf_pull *p, kvf_buffer *key)
{
    kvf_pull_string(p, key);
    take(p, ':', "':'");
}

/* ---- Other values ------------------------------------------------------------------------------
 */

static bool is_digit(const kvf_pull *p, size_t at)
{
    return at < p->bytes && p->text[at] >= '0' && p->text[at] <= '9';
}

uint64_t kvf_pull_u64(kvf_pull *p)
{
    static const char expected[] = "a whole number below 2^53";
    uint64_t value = 0;
    kvf_pull_peek(p);
    size_t at = p->at;
    while (is_digit(p, at) && value < UINT64_C(1) << 53)
        value = 10 * value + (uint64_t)(p->text[at++] - '0');
    const size_t digits = at - p->at;
    const bool goes_on = at < p->bytes && strchr("0123456789.eE", p->text[at]) && p->text[at];
    if (p->status != KVF_OK)
        return 0;
    if (at >= p->bytes) /* it is in something that would have to end; it may be half a number */
        p->at = at;
    if (at >= p->bytes || digits == 0 || value >= UINT64_C(1) << 53 || goes_on ||
        (digits > 1 && p->text[p->at] == '0')) {
        kvf_pull_fail(p, expected);
        return 0;
    }
    p->at = at;
    return value;
}

static size_t skip_digits(const kvf_pull *p, size_t at)
{
    while (is_digit(p, at))
        at++;
    return at;
}

static void skip_number(kvf_pull *p)
{
    size_t at = p->at + (p->text[p->at] == '-');
    const size_t whole = at;
    at = skip_digits(p, at);
    bool good = at > whole && (at == whole + 1 || p->text[whole] != '0');
    if (at < p->bytes && p->text[at] == '.') {
        good = good && is_digit(p, at + 1);
        at = skip_digits(p, at + 1);
    }
    if (at < p->bytes && (p->text[at] == 'e' || p->text[at] == 'E')) {
        at += 1 + (at + 1 < p->bytes && (p->text[at + 1] == '-' || p->text[at + 1] == '+'));
        good = good && is_digit(p, at);
        at = skip_digits(p, at);
    }
    if (good || at >= p->bytes) /* what is no number before the end may be the half of one */
        p->at = at;
    if (!good)
        kvf_pull_fail(p, "a number");
}

/* A value that holds no others. */
static void skip_scalar(kvf_pull *p, kvf_buffer *scratch)
{
    static const char *const words[] = {"true", "false", "null"};
    const char c = kvf_pull_peek(p);
    if (c == '"') {
        kvf_pull_string(p, scratch);
        return;
    }
    if (c == '-' || (c >= '0' && c <= '9')) {
        skip_number(p);
        return;
    }
    for (size_t i = 0; i < sizeof words / sizeof *words; i++) {
        const size_t n = strlen(words[i]);
        const size_t left = p->bytes - p->at;
        if (p->status != KVF_OK || memcmp(p->text + p->at, words[i], left < n ? left : n) != 0)
            continue;
        p->at += left < n ? left : n; /* half a word is the end, which is none of a value */
        if (left >= n)
            return;
        break;
    }
    kvf_pull_fail(p, "a value");
}

kvf_pull_part kvf_pull_skip(kvf_pull *p)
{
    kvf_buffer scratch = {.data = NULL};
    char open[MAX_DEPTH]; /* of what the value is in */
    int depth = 0;
    kvf_pull_peek(p);
    const size_t begin = p->at;
    do {
        const char c = kvf_pull_peek(p);
        if (c != '{' && c != '[') {
            skip_scalar(p, &scratch);
        } else if (depth == MAX_DEPTH) {
            kvf_pull_fail(p, "less nesting");
        } else {
            kvf_pull_enter(p, c);
            open[depth++] = c;
        }
        while (depth > 0 && !kvf_pull_next(p, open[depth - 1]))
            depth--; /* its end, or an error, which ends all of them */
        if (depth > 0 && open[depth - 1] == '{')
            kvf_pull_key(p, &scratch);
    } while (depth > 0);
    kvf_buffer_free(&scratch);
    return (kvf_pull_part){p->text + begin, p->at - begin};
}

void kvf_pull_end(kvf_pull *p)
{
    if (kvf_pull_peek(p))
        kvf_pull_fail(p, "the end");
    else if (p->status == KVF_OK && p->at < p->bytes)
        kvf_pull_fail(p, "the end"); /* a NUL */
}
