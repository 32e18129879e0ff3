#include "text/python.h"

#include "text/json.h"

#include <string.h>

/* 0 past the end. */
static char byte_at(const kvf_python *python, size_t at)
{
    return at < python->source.bytes ? python->source.data[at] : '\0';
}

static bool is_name_byte(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' ||
           (unsigned char)c >= 0x80;
}

static bool is_quote(char c)
{
    return c == '"' || c == '\'';
}

/* ---- Skipping ------------------------------------------------------------------------ */

/* Bytes of the line break at `at`, 0 where there is none. */
static size_t break_bytes(const kvf_python *python, size_t at)
{
    const char c = byte_at(python, at);
    return c == '\r' && byte_at(python, at + 1) == '\n' ? 2 : c == '\r' || c == '\n';
}

static void skip_comment(kvf_python *python)
{
    if (byte_at(python, python->at) == '#')
        while (python->at < python->source.bytes && break_bytes(python, python->at) == 0)
            python->at++;
}

/* Space inside a statement. */
static void skip_space(kvf_python *python)
{
    const bool lines = python->depth > 0;
    for (;;) {
        const char c = byte_at(python, python->at);
        const size_t n_break = break_bytes(python, python->at + (c == '\\'));
        skip_comment(python);
        if (c == ' ' || c == '\t' || c == '\f')
            python->at++;
        else if (c == '\\' && n_break > 0)
            python->at += 1 + n_break;
        else if (lines && n_break > 0 && c != '#')
            python->at += n_break;
        else if (!(lines && c == '#'))
            return;
    }
}

/* The quotes that a string begins with: 3, 1, 0 for none. */
static size_t quotes_at(const kvf_python *python, size_t at)
{
    const char c = byte_at(python, at);
    if (!is_quote(c))
        return 0;
    return byte_at(python, at + 1) == c && byte_at(python, at + 2) == c ? 3 : 1;
}

/* Whether the string that began with n_quotes of `quote` ends here. */
static bool closes(const kvf_python *python, char quote, size_t n_quotes)
{
    for (size_t i = 0; i < n_quotes; i++)
        if (byte_at(python, python->at + i) != quote)
            return false;
    return true;
}

/* Over a string of any kind: a backslash keeps the next character from ending it in all. */
static bool skip_string(kvf_python *python)
{
    const char quote = byte_at(python, python->at);
    const size_t n_quotes = quotes_at(python, python->at);
    python->at += n_quotes;
    while (!closes(python, quote, n_quotes)) {
        if (python->at >= python->source.bytes ||
            (n_quotes == 1 && break_bytes(python, python->at) > 0))
            return false;
        if (byte_at(python, python->at) == '\\')
            python->at += break_bytes(python, python->at + 1) == 2 ? 2 : 1;
        python->at++;
    }
    python->at += n_quotes;
    return true;
}

/* ---- Assignments --------------------------------------------------------------------- */

enum target { NOT_IT, UNCERTAIN, ASSIGNED };

static bool takes_name(kvf_python *python, const char *name)
{
    const size_t n = strlen(name);
    const kvf_span rest = kvf_span_after(python->source, python->at);
    if (!kvf_span_begins(rest, name) || is_name_byte(byte_at(python, python->at + n)))
        return false;
    python->at += n;
    return true;
}

/* Behind `name: `: over the type, to its '='. */
static bool skip_type(kvf_python *python)
{
    size_t depth = 0;
    for (;; python->at++) {
        const char c = byte_at(python, python->at);
        const bool opens = c == '[' || c == '(';
        const bool shuts = c == ']' || c == ')';
        if (c == '=' && depth == 0)
            return true;
        if (!is_name_byte(c) && !opens && !shuts && !strchr(" ,.|", c))
            return false;
        if (c == '\0' || (shuts && depth == 0))
            return false;
        depth = depth + opens - shuts;
    }
}

/*
 * What the statement that begins here does to the name. Another statement that begins with it
 * and is no comparison or call may change it: a,b = .., name += ..
 */
static enum target look_at(kvf_python *python, const char *name)
{
    if (!takes_name(python, name))
        return NOT_IT;
    skip_space(python);
    const char c = byte_at(python, python->at);
    if (c == '(' || c == '.' || c == '[')
        return NOT_IT;
    if (c == ':') {
        python->at++;
        if (!skip_type(python))
            return UNCERTAIN;
    }
    if (byte_at(python, python->at) != '=' || byte_at(python, python->at + 1) == '=')
        return UNCERTAIN;
    python->at++;
    return ASSIGNED;
}

/* Python reads none with one. */
static bool has_nul(kvf_span source)
{
    return source.bytes > 0 && memchr(source.data, '\0', source.bytes);
}

/* Whether the name that ends at `at` is given a value there: = += .., not == <= >= !=. */
static bool is_assigned(const kvf_python *python, size_t at)
{
    while (byte_at(python, at) == ' ' || byte_at(python, at) == '\t')
        at++;
    const size_t start = at;
    while (byte_at(python, at) && strchr("+-*/%&|^@<>", byte_at(python, at)))
        at++;
    return byte_at(python, at) == '=' && byte_at(python, at + 1) != '=' &&
           (at != start + 1 || !strchr("<>", byte_at(python, start)));
}

/*
 * To the line break that ends the statement, over brackets and strings with breaks in them.
 * Counts how often it assigns to the name, wherever in the statement.
 */
static bool skip_statement(kvf_python *python, const char *name, size_t *n_assigned)
{
    size_t depth = 0;
    while (python->at < python->source.bytes) {
        const char c = byte_at(python, python->at);
        if (c == '#') {
            skip_comment(python);
        } else if (is_quote(c)) {
            if (!skip_string(python))
                return false;
        } else if (c == '\\') {
            python->at += 1 + break_bytes(python, python->at + 1);
        } else if (is_name_byte(c)) {
            if (takes_name(python, name))
                *n_assigned += depth == 0 && is_assigned(python, python->at);
            while (is_name_byte(byte_at(python, python->at)))
                python->at++;
        } else if (break_bytes(python, python->at) > 0 && depth == 0) {
            return true;
        } else {
            const bool shuts = c == ')' || c == ']' || c == '}';
            if (shuts && depth == 0)
                return false;
            depth = depth + (c == '(' || c == '[' || c == '{') - shuts;
            python->at++;
        }
    }
    return depth == 0;
}

bool kvf_python_find(kvf_python *python, const char *name)
{
    size_t found = 0;
    size_t n_found = 0;
    size_t n_assigned = 0;
    python->depth = 0;
    python->at = kvf_span_begins(python->source, "\xef\xbb\xbf") ? 3 : 0;
    if (!kvf_span_is_utf8(python->source) || has_nul(python->source))
        return false;
    while (python->at < python->source.bytes) {
        const size_t line = python->at;
        skip_space(python);
        const size_t start = python->at;
        const enum target target = start == line ? look_at(python, name) : NOT_IT;
        if (target == UNCERTAIN)
            return false;
        if (target == ASSIGNED) {
            found = python->at;
            n_found++;
        }
        python->at = start;
        if (!skip_statement(python, name, &n_assigned))
            return false;
        python->at += break_bytes(python, python->at);
    }
    python->at = found;
    return n_found == 1 && n_assigned <= 1; /* 0 where there is a type */
}

/* ---- Strings ------------------------------------------------------------------------- */

/* The value of up to `most` digits of base 8 or 16 at python->at, at least `least`; -1 if not. */
static int32_t read_digits(kvf_python *python, int base, size_t least, size_t most)
{
    int32_t value = 0;
    size_t n = 0;
    for (; n < most; n++, python->at++) {
        const char c = byte_at(python, python->at);
        int digit = c >= '0' && c <= '9' ? c - '0' : -1;
        if ((c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F'))
            digit = (c | 0x20) - 'a' + 10;
        if (digit < 0 || digit >= base)
            break;
        value = value > 0x10FFFF ? value : base * value + digit;
    }
    return n < least ? -1 : value;
}

/* The character of \ooo, \xhh, \uhhhh or \Uhhhhhhhh, python->at behind the backslash. */
static int32_t read_code(kvf_python *python)
{
    const char c = byte_at(python, python->at);
    if (c >= '0' && c <= '7')
        return read_digits(python, 8, 1, 3);
    const size_t n = c == 'x' ? 2 : c == 'u' ? 4 : 8;
    python->at++;
    return read_digits(python, 16, n, n);
}

/* An escape, python->at behind its backslash. Unknown ones are two characters to Python. */
static bool read_escape(kvf_python *python, char **out)
{
    static const char letters[] = "\\'\"abfnrtv";
    static const char meant[] = "\\'\"\a\b\f\n\r\t\v";
    const char c = byte_at(python, python->at);
    const char *found = c ? strchr(letters, c) : NULL;
    if (found) {
        *(*out)++ = meant[found - letters];
        python->at++;
        return true;
    }
    if (break_bytes(python, python->at) > 0) {
        python->at += break_bytes(python, python->at);
        return true;
    }
    if (c == 'N' || c == '\0')
        return false;
    if (c != 'x' && c != 'u' && c != 'U' && !(c >= '0' && c <= '7')) {
        *(*out)++ = '\\';
        return true;
    }
    const int32_t code = read_code(python);
    if (code < 0 || code > 0x10FFFF || (code >= 0xD800 && code < 0xE000))
        return false;
    *out += kvf_utf8_write((uint32_t)code, *out);
    return true;
}

/* One literal without a prefix, which ends at `end`: no escape is shorter than its character. */
static bool read_literal(kvf_python *python, size_t end, char **out)
{
    const char quote = byte_at(python, python->at);
    const size_t n_quotes = quotes_at(python, python->at);
    python->at += n_quotes;
    while (python->at < end - n_quotes) {
        const size_t n_break = break_bytes(python, python->at);
        if (byte_at(python, python->at) == '\\') {
            python->at++;
            if (!read_escape(python, out))
                return false;
        } else if (n_break > 0) { /* all kinds are \n to Python */
            *(*out)++ = '\n';
            python->at += n_break;
        } else {
            *(*out)++ = byte_at(python, python->at++);
        }
    }
    return python->at == end - n_quotes && closes(python, quote, n_quotes);
}

static bool begins_string(const kvf_python *python)
{
    const char c = byte_at(python, python->at);
    return is_quote(c) || ((c == 'u' || c == 'U') && is_quote(byte_at(python, python->at + 1)));
}

bool kvf_python_string(kvf_python *python, kvf_span *string)
{
    const bool in_parentheses = kvf_python_take(python, '(');
    kvf_buffer joined = {0};
    size_t n = 0;
    bool good = true;
    for (skip_space(python); good && begins_string(python); n++) {
        python->at += !is_quote(byte_at(python, python->at));
        kvf_python end = *python;
        good = skip_string(&end);
        char *literal = good ? kvf_arena_alloc(python->arena, end.at - python->at) : NULL;
        char *out = literal;
        python->failed = python->failed || (good && !literal);
        good = good && literal && read_literal(python, end.at, &out);
        if (good)
            kvf_buffer_add(&joined, literal, (size_t)(out - literal));
        python->at = end.at;
        skip_space(python);
    }
    good = good && n > 0 && (!in_parentheses || kvf_python_take(python, ')'));
    char *copy = good ? kvf_arena_alloc(python->arena, joined.bytes + 1) : NULL;
    python->failed = python->failed || joined.failed || (good && !copy);
    if (copy && joined.bytes > 0)
        memcpy(copy, joined.data, joined.bytes);
    *string = (kvf_span){copy, joined.bytes};
    kvf_buffer_free(&joined);
    return copy && !python->failed;
}

bool kvf_python_take(kvf_python *python, char character)
{
    const size_t before = python->at;
    skip_space(python);
    if (byte_at(python, python->at) != character) {
        python->at = before;
        return false;
    }
    python->at++;
    if (character == '(' || character == '{')
        python->depth++;
    else if (character == ')' || character == '}')
        python->depth--;
    return true;
}

bool kvf_python_ends(kvf_python *python)
{
    skip_space(python);
    return python->at >= python->source.bytes || break_bytes(python, python->at) > 0;
}
