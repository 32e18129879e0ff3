#include "text/json.h"

#include "error.h"

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct reader {
    const char *text;
    size_t bytes;
    size_t at;
    size_t n_nodes;
    unsigned depth;
    kvf_json_rules rules;
    kvf_arena *arena;
    const char *where;
    kvf_error *error;
};

/* ---- Where something is wrong -------------------------------------------------------- */

static kvf_status fail_at(const struct reader *reader, size_t at, const char *what)
{
    size_t line = 1;
    size_t column = 1;
    for (size_t i = 0; i < at; i++) {
        const unsigned char c = (unsigned char)reader->text[i];
        if (c == '\n') {
            line++;
            column = 1;
        } else {
            column += (c & 0xC0) != 0x80; /* a character is counted by its first byte */
        }
    }
    return kvf_fail(reader->error, KVF_FILE_FORMAT, "%s: line %zu, column %zu: %s",
                    kvf_printable(reader->where).text, line, column, what);
}

/* What stands there is not what should. */
static kvf_status fail_expected(const struct reader *reader, const char *expected)
{
    char shown[8] = "";
    char what[200];
    if (reader->at == reader->bytes) {
        snprintf(what, sizeof what, "the JSON ends; %s was expected", expected);
        return fail_at(reader, reader->at, what);
    }
    const size_t n = kvf_utf8_bytes(reader->text + reader->at, reader->bytes - reader->at);
    if (n == 0)
        return fail_at(reader, reader->at, "not UTF-8");
    memcpy(shown, reader->text + reader->at, n);
    if (shown[0] == '\0')
        shown[0] = '\1'; /* shown as a control character, too */
    snprintf(what, sizeof what, "'%s' instead of %s", kvf_printable(shown).text, expected);
    return fail_at(reader, reader->at, what);
}

static kvf_status fail_memory(const struct reader *reader)
{
    return kvf_fail(reader->error, KVF_OUT_OF_MEMORY, "%s: no memory for its JSON",
                    kvf_printable(reader->where).text);
}

/* ---- Tokens -------------------------------------------------------------------------- */

static void skip_space(struct reader *reader)
{
    while (reader->at < reader->bytes) {
        const char c = reader->text[reader->at];
        if (c != ' ' && c != '\t' && c != '\n' && c != '\r')
            break;
        reader->at++;
    }
}

/* The byte that comes next, 0 at the end (or where it is 0: no token begins so). */
static char next_byte(const struct reader *reader)
{
    return reader->at < reader->bytes ? reader->text[reader->at] : '\0';
}

static bool take_word(struct reader *reader, const char *word)
{
    const size_t n = strlen(word);
    if (n > reader->bytes - reader->at || memcmp(reader->text + reader->at, word, n) != 0)
        return false;
    reader->at += n;
    return true;
}

static size_t digits_at(const struct reader *reader, size_t at)
{
    size_t n = 0;
    while (at + n < reader->bytes && reader->text[at + n] >= '0' && reader->text[at + n] <= '9')
        n++;
    return n;
}

/* Bytes of the number that comes next, 0 where it is none. */
static size_t number_bytes(const struct reader *reader)
{
    const char *text = reader->text;
    size_t end = reader->at + (next_byte(reader) == '-');
    const size_t whole = digits_at(reader, end);
    if (whole == 0 || (whole > 1 && text[end] == '0'))
        return 0;
    end += whole;
    if (end < reader->bytes && text[end] == '.') {
        const size_t part = digits_at(reader, end + 1);
        if (part == 0)
            return 0;
        end += 1 + part;
    }
    if (end < reader->bytes && (text[end] == 'e' || text[end] == 'E')) {
        end++;
        end += end < reader->bytes && (text[end] == '-' || text[end] == '+');
        const size_t exponent = digits_at(reader, end);
        if (exponent == 0)
            return 0;
        end += exponent;
    }
    return end - reader->at;
}

/* Four hexadecimal digits at `at`; -1 where they are not. */
static int32_t hex4(const struct reader *reader, size_t at)
{
    int32_t value = 0;
    if (reader->bytes - at < 4)
        return -1;
    for (size_t i = at; i < at + 4; i++) {
        const char c = reader->text[i];
        if (c >= '0' && c <= '9')
            value = 16 * value + (c - '0');
        else if ((c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F'))
            value = 16 * value + ((c | 0x20) - 'a' + 10);
        else
            return -1;
    }
    return value;
}

/* ---- Strings ------------------------------------------------------------------------- */

size_t kvf_utf8_write(uint32_t code, char *out)
{
    if (code < 0x80) {
        out[0] = (char)code;
        return 1;
    }
    const size_t n = code < 0x800 ? 2 : code < 0x10000 ? 3 : 4;
    static const unsigned char first[] = {0, 0, 0xC0, 0xE0, 0xF0};
    for (size_t i = n - 1; i > 0; i--, code >>= 6)
        out[i] = (char)(0x80 | (code & 0x3F));
    out[0] = (char)(first[n] | code);
    return n;
}

/* A \u escape, reader->at behind its u: appends the character to *out. */
static kvf_status read_code(struct reader *reader, char **out)
{
    const size_t start = reader->at - 2;
    int32_t code = hex4(reader, reader->at);
    if (code < 0)
        return fail_at(reader, start, "\\u without four hexadecimal digits");
    reader->at += 4;
    if (code >= 0xD800 && code < 0xE000) {
        int32_t low = -1;
        if (code < 0xDC00 && take_word(reader, "\\u"))
            low = hex4(reader, reader->at);
        if (low < 0xDC00 || low >= 0xE000)
            return fail_at(reader, start, "half of a surrogate pair, which is no character");
        reader->at += 4;
        code = 0x10000 + ((code - 0xD800) << 10) + (low - 0xDC00);
    }
    *out += kvf_utf8_write((uint32_t)code, *out);
    return KVF_OK;
}

static kvf_status read_escape(struct reader *reader, char **out)
{
    static const char letters[] = "\"\\/bfnrt";
    static const char meant[] = "\"\\/\b\f\n\r\t";
    reader->at++;
    const char c = next_byte(reader);
    const char *found = c ? strchr(letters, c) : NULL;
    if (!found && c != 'u')
        return fail_at(reader, reader->at - 1, "a \\ that begins no escape of JSON");
    reader->at++;
    if (c == 'u')
        return read_code(reader, out);
    *(*out)++ = meant[found - letters];
    return KVF_OK;
}

/* Bytes up to the quote that ends the string; no character grows when it is decoded. */
static size_t raw_string_bytes(const struct reader *reader)
{
    size_t at = reader->at;
    while (at < reader->bytes && reader->text[at] != '"')
        at += reader->text[at] == '\\' && at + 1 < reader->bytes ? 2 : 1;
    return at - reader->at;
}

static kvf_status read_string(struct reader *reader, kvf_span *string)
{
    const size_t start = reader->at++;
    char *place = kvf_arena_alloc(reader->arena, raw_string_bytes(reader) + 1);
    char *out = place;
    kvf_status status = KVF_OK;
    if (!place)
        return fail_memory(reader);
    while (status == KVF_OK) {
        if (reader->at == reader->bytes)
            return fail_at(reader, start, "a string that does not end");
        const char c = reader->text[reader->at];
        const size_t n = kvf_utf8_bytes(reader->text + reader->at, reader->bytes - reader->at);
        if (c == '"')
            break;
        if (n == 0)
            return fail_at(reader, reader->at, "not UTF-8");
        if ((unsigned char)c < ' ')
            return fail_at(reader, reader->at,
                           c == '\n' ? "a line break in a string (\\n is meant, or the string has "
                                       "no end)"
                                     : "a control character in a string; it has to be escaped");
        if (c == '\\') {
            status = read_escape(reader, &out);
        } else {
            memcpy(out, reader->text + reader->at, n);
            out += n;
            reader->at += n;
        }
    }
    reader->at++;
    *string = (kvf_span){place, (size_t)(out - place)};
    return status;
}

/* ---- Values -------------------------------------------------------------------------- */

static kvf_status read_value(struct reader *reader, kvf_node **result);

static kvf_status read_number(struct reader *reader, kvf_node *node)
{
    const size_t start = reader->at;
    size_t n = number_bytes(reader);
    if (n == 0 && reader->rules == KVF_JSON_PYTHON && take_word(reader, "-Infinity"))
        n = reader->at - start;
    if (n == 0)
        return fail_at(reader, start, "no number as JSON writes it");
    char *copy = kvf_arena_alloc(reader->arena, n);
    if (!copy)
        return fail_memory(reader);
    memcpy(copy, reader->text + start, n);
    node->type = KVF_NODE_NUMBER;
    node->text = (kvf_span){copy, n};
    reader->at = start + n;
    return KVF_OK;
}

static kvf_status read_word(struct reader *reader, kvf_node *node)
{
    const bool python = reader->rules == KVF_JSON_PYTHON;
    if (take_word(reader, "null"))
        node->type = KVF_NODE_NULL;
    else if (take_word(reader, "true"))
        node->type = KVF_NODE_TRUE;
    else if (take_word(reader, "false"))
        node->type = KVF_NODE_FALSE;
    else if (python && take_word(reader, "NaN"))
        *node = (kvf_node){.type = KVF_NODE_NUMBER, .text = KVF_SPAN("NaN")};
    else if (python && take_word(reader, "Infinity"))
        *node = (kvf_node){.type = KVF_NODE_NUMBER, .text = KVF_SPAN("Infinity")};
    else
        return fail_expected(reader, "a value");
    return KVF_OK;
}

struct keyed {
    kvf_node *node;
    size_t place;
};

static int compare_keys(const void *a, const void *b)
{
    const struct keyed *left = a;
    const struct keyed *right = b;
    const kvf_span x = left->node->key;
    const kvf_span y = right->node->key;
    const size_t n = x.bytes < y.bytes ? x.bytes : y.bytes;
    const int order = n ? memcmp(x.data, y.data, n) : 0;
    if (order != 0)
        return order;
    if (x.bytes != y.bytes)
        return x.bytes < y.bytes ? -1 : 1;
    return left->place < right->place ? -1 : left->place > right->place;
}

/* Unlinks the members that an earlier one has the place of. */
static void drop_doubled(kvf_node *object, const struct keyed *members, size_t n)
{
    kvf_node **link = &object->first;
    for (size_t i = n - 1; i > 0; i--) /* downwards: the one before it still has its key */
        if (kvf_span_equal(members[i - 1].node->key, members[i].node->key))
            members[i].node->key.data = NULL; /* no key's own is NULL */
    while (*link) {
        if ((*link)->key.data) {
            link = &(*link)->next;
        } else {
            *link = (*link)->next;
            object->n--;
        }
    }
}

/* The last value of each key goes to the first place of it. Members are sorted. */
static void keep_last_values(kvf_node *object, const struct keyed *members, size_t n)
{
    for (size_t i = 0; i < n;) {
        size_t end = i + 1;
        while (end < n && kvf_span_equal(members[i].node->key, members[end].node->key))
            end++;
        kvf_node *kept = members[i].node;
        const kvf_node last = *members[end - 1].node;
        kept->type = last.type;
        kept->text = last.text;
        kept->first = last.first;
        kept->n = last.n;
        i = end;
    }
    drop_doubled(object, members, n);
}

static kvf_status check_keys(struct reader *reader, kvf_node *object, size_t start)
{
    struct keyed few[16]; /* nearly every object has that few */
    struct keyed *members = few;
    if (object->n > sizeof few / sizeof *few)
        members = malloc(object->n * sizeof *members);
    if (!members)
        return fail_memory(reader);
    size_t n = 0;
    for (kvf_node *node = object->first; node; node = node->next, n++)
        members[n] = (struct keyed){node, n};
    qsort(members, n, sizeof *members, compare_keys);
    size_t i = 1;
    while (i < n && !kvf_span_equal(members[i - 1].node->key, members[i].node->key))
        i++;
    kvf_status status = KVF_OK;
    if (i < n && reader->rules == KVF_JSON_STRICT) {
        char what[200];
        snprintf(what, sizeof what, "the object that begins here has \"%s\" twice",
                 kvf_span_printable(members[i].node->key).text);
        status = fail_at(reader, start, what);
    } else if (i < n) {
        keep_last_values(object, members, n);
    }
    if (members != few)
        free(members);
    return status;
}

static kvf_status read_key(struct reader *reader, kvf_span *key)
{
    if (next_byte(reader) != '"')
        return fail_expected(reader, "a key in quotes");
    kvf_status status = read_string(reader, key);
    if (status != KVF_OK)
        return status;
    skip_space(reader);
    if (next_byte(reader) != ':')
        return fail_expected(reader, "a ':'");
    reader->at++;
    return KVF_OK;
}

/* The values of an array or the members of an object, reader->at at its bracket. */
static kvf_status read_children(struct reader *reader, kvf_node *node)
{
    const bool is_object = node->type == KVF_NODE_OBJECT;
    const char end = is_object ? '}' : ']';
    const size_t start = reader->at++;
    kvf_node **link = &node->first;
    if (++reader->depth > KVF_TREE_MAX_DEPTH)
        return fail_at(reader, start, "nested deeper than 500 levels");
    skip_space(reader);
    bool more = next_byte(reader) != end;
    while (more) {
        kvf_span key = {0};
        skip_space(reader);
        kvf_status status = is_object ? read_key(reader, &key) : KVF_OK;
        if (status == KVF_OK)
            status = read_value(reader, link);
        if (status != KVF_OK)
            return status;
        (*link)->key = key;
        link = &(*link)->next;
        node->n++;
        skip_space(reader);
        more = next_byte(reader) == ',';
        reader->at += more;
    }
    if (next_byte(reader) != end)
        return fail_expected(reader, is_object ? "',' or '}'" : "',' or ']'");
    reader->at++;
    reader->depth--;
    return is_object && node->n > 1 ? check_keys(reader, node, start) : KVF_OK;
}

/* With the white space before it. */
static kvf_status read_value(struct reader *reader, kvf_node **result)
{
    skip_space(reader);
    if (++reader->n_nodes > KVF_TREE_MAX_NODES)
        return fail_at(reader, reader->at, "more than 4000000 values");
    kvf_node *node = kvf_arena_array(reader->arena, 1, sizeof *node);
    if (!node)
        return fail_memory(reader);
    *result = node;
    const char c = next_byte(reader);
    if (c == '"') {
        node->type = KVF_NODE_STRING;
        return read_string(reader, &node->text);
    }
    if (c == '{' || c == '[') {
        node->type = c == '{' ? KVF_NODE_OBJECT : KVF_NODE_ARRAY;
        return read_children(reader, node);
    }
    if (c == '-' || (c >= '0' && c <= '9'))
        return read_number(reader, node);
    return read_word(reader, node);
}

kvf_status kvf_tree_read(const char *text, size_t bytes, kvf_json_rules rules, const char *where,
                         kvf_tree *tree, kvf_error *error)
{
    *tree = (kvf_tree){0};
    struct reader reader = {text, bytes, 0, 0, 0, rules, &tree->arena, where, error};
    if (bytes > KVF_TREE_MAX_BYTES)
        return kvf_fail(error, KVF_FILE_FORMAT, "%s: %zu bytes of JSON; at most %d are read",
                        kvf_printable(where).text, bytes, KVF_TREE_MAX_BYTES);
    if (rules == KVF_JSON_STRICT)
        take_word(&reader, "\xef\xbb\xbf");
    kvf_status status = read_value(&reader, &tree->root);
    if (status == KVF_OK) {
        skip_space(&reader);
        if (reader.at < bytes)
            status = fail_expected(&reader, "the end");
    }
    if (status != KVF_OK) {
        kvf_tree_free(tree);
        return status;
    }
    return kvf_ok(error);
}

void kvf_tree_free(kvf_tree *tree)
{
    kvf_arena_free(&tree->arena);
    tree->root = NULL;
}

/* ---- Looking at it ------------------------------------------------------------------- */

const kvf_node *kvf_node_member(const kvf_node *node, const char *key)
{
    if (!node || node->type != KVF_NODE_OBJECT)
        return NULL;
    const kvf_node *member = node->first;
    while (member && !kvf_span_is(member->key, key))
        member = member->next;
    return member;
}

bool kvf_node_is_true(const kvf_node *node)
{
    if (!node)
        return false;
    switch (node->type) {
    case KVF_NODE_NULL:
    case KVF_NODE_FALSE: return false;
    case KVF_NODE_TRUE: return true;
    case KVF_NODE_STRING: return node->text.bytes > 0;
    case KVF_NODE_ARRAY:
    case KVF_NODE_OBJECT: return node->n > 0;
    case KVF_NODE_NUMBER: break;
    }
    size_t n = 0; /* of a number that is not zero up to a digit that is not */
    while (n < node->text.bytes && strchr("-0.", node->text.data[n]))
        n++;
    return n < node->text.bytes && node->text.data[n] != 'e' && node->text.data[n] != 'E';
}

const char *kvf_node_what(const kvf_node *node)
{
    static const char *const names[] = {"null",     "false",    "true",     "a number",
                                        "a string", "an array", "an object"};
    return node ? names[node->type] : "missing";
}
