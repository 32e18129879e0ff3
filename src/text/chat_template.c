/*
 * The texts inside a GGUF's tokenizer.chat_template. The template is not run: its constant texts
 * are read, in their order, and those are taken whose place in the structure says what they are.
 *
 *   The head of the tools: a constant that shows the grammar of calls. Set as NAME_header, what
 *   follows the tools is the constant NAME_footer; written out, it is what is written behind the
 *   loop over the tools. An empty line stands between each of them and the tools, and one line
 *   break at the end: as in the checkpoint's file, whichever of its parts the template has them in.
 *   An effort: a constant that begins with "Reasoning Effort: ", under a condition or a name
 *   that says which, if there are two. Two line breaks end it.
 */
#include "text/chat_texts.h"

#include "error.h"
#include "text/chat.h"

#include <string.h>

/*
 * Real ones have 10 to 20 kB and 20 names. A constant may be made of others: what all come to is
 * bounded, too.
 */
enum { MAX_SOURCE_BYTES = 1 << 20, MAX_NAMES = 256, MAX_CONSTANT_BYTES = 4 << 20 };

enum kind {
    TEXT,  /* a constant that is written */
    VALUE, /* something else that is written */
    SET,   /* a constant that a name is set to */
    LOOP,  /* over tools */
    END_LOOP,
    OTHER /* any other statement: its words say which effort follows */
};

struct item {
    enum kind kind;
    kvf_span text; /* of TEXT and SET; of others what stands between the braces */
    kvf_span name; /* of SET */
};

struct reader {
    kvf_span rest;
    kvf_arena *arena;
    struct item *items; /* [n], one a tag and one a text between two at most */
    size_t n;
    size_t names[MAX_NAMES]; /* [n_names] the items that set one */
    size_t n_names;
    size_t constant_bytes;
    bool is_trimmed; /* a tag before ate the white space that follows */
    bool eats_break; /* .. or just the line break, as statements do */
    bool failed;     /* memory is short */
};

/* ---- Expressions --------------------------------------------------------------------- */

static bool is_space(char c)
{
    return c == ' ' || c == '\t' || c == '\n' || c == '\r';
}

static kvf_span trim(kvf_span text)
{
    while (text.bytes > 0 && is_space(text.data[0]))
        text = kvf_span_after(text, 1);
    while (text.bytes > 0 && is_space(text.data[text.bytes - 1]))
        text.bytes--;
    return text;
}

static bool is_name(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' ||
           c == '.';
}

/* A name, with the dots of a namespace, and the space behind it. */
static kvf_span take_name(kvf_span *rest)
{
    kvf_span name = *rest;
    size_t n = 0;
    while (n < rest->bytes && is_name(rest->data[n]))
        n++;
    name.bytes = n;
    *rest = trim(kvf_span_after(*rest, n));
    return name;
}

static bool contains(kvf_span text, const char *part)
{
    for (; text.bytes > 0; text = kvf_span_after(text, 1))
        if (kvf_span_begins(text, part))
            return true;
    return false;
}

/* A string, appended to *out; of escapes only those that have one meaning everywhere. */
static bool take_string(kvf_span *rest, kvf_buffer *out)
{
    static const char letters[] = "nt\\'\"";
    static const char meant[] = "\n\t\\'\"";
    const char quote = rest->data[0];
    for (size_t i = 1; i < rest->bytes; i++) {
        const char c = rest->data[i];
        if (c == quote) {
            *rest = trim(kvf_span_after(*rest, i + 1));
            return true;
        }
        if (c != '\\') {
            kvf_buffer_add(out, &c, 1);
            continue;
        }
        i++;
        const char *found = i < rest->bytes ? strchr(letters, rest->data[i]) : NULL;
        if (!found || !*found)
            return false;
        kvf_buffer_add(out, &meant[found - letters], 1);
    }
    return false;
}

/* What a name is always set to; NULL where that is no one constant. */
static const kvf_span *constant_of(const struct reader *reader, kvf_span name)
{
    const kvf_span *found = NULL;
    for (size_t i = 0; i < reader->n_names; i++) {
        const struct item *item = &reader->items[reader->names[i]];
        if (!kvf_span_equal(item->name, name))
            continue;
        if (found || item->kind != SET)
            return NULL;
        found = &item->text;
    }
    return found;
}

/* Strings and names of constants with + or ~ between; false for any other expression. */
static bool evaluate(struct reader *reader, kvf_span rest, kvf_span *value)
{
    kvf_buffer out = {0};
    bool good = true;
    bool more = true;
    for (rest = trim(rest); good && more;) {
        if (rest.bytes > 0 && (rest.data[0] == '\'' || rest.data[0] == '"')) {
            good = take_string(&rest, &out);
        } else {
            const kvf_span *constant = constant_of(reader, take_name(&rest));
            good = constant != NULL;
            if (good)
                kvf_buffer_add_span(&out, *constant);
        }
        good = good && out.bytes <= MAX_CONSTANT_BYTES;
        more = good && rest.bytes > 0 && (rest.data[0] == '+' || rest.data[0] == '~');
        if (more)
            rest = trim(kvf_span_after(rest, 1));
    }
    good = good && rest.bytes == 0;
    reader->constant_bytes += out.bytes; /* also those that were made in vain */
    char *copy = good ? kvf_arena_alloc(reader->arena, out.bytes + 1) : NULL;
    reader->failed = reader->failed || out.failed || (good && !copy);
    if (copy && out.bytes > 0)
        memcpy(copy, out.data, out.bytes);
    *value = (kvf_span){copy, out.bytes};
    kvf_buffer_free(&out);
    return copy && !reader->failed;
}

/* ---- Items --------------------------------------------------------------------------- */

static void add(struct reader *reader, enum kind kind, kvf_span text, kvf_span name)
{
    reader->items[reader->n++] = (struct item){kind, text, name};
}

/* False where what follows cannot be told from here. */
static bool add_statement(struct reader *reader, kvf_span inside)
{
    kvf_span rest = trim(inside);
    const kvf_span word = take_name(&rest);
    kvf_span value;
    if (kvf_span_is(word, "set")) {
        const kvf_span name = take_name(&rest);
        const bool is_constant =
            kvf_span_begins(rest, "=") && evaluate(reader, kvf_span_after(rest, 1), &value);
        if (reader->n_names == MAX_NAMES)
            return false;
        reader->names[reader->n_names++] = reader->n;
        add(reader, is_constant ? SET : OTHER, is_constant ? value : inside, name);
    } else if (kvf_span_is(word, "for")) {
        take_name(&rest);
        const bool is_in = kvf_span_is(take_name(&rest), "in");
        add(reader, is_in && contains(rest, "tools") ? LOOP : OTHER, inside, (kvf_span){0});
    } else {
        add(reader, kvf_span_is(word, "endfor") ? END_LOOP : OTHER, inside, (kvf_span){0});
    }
    return !kvf_span_is(word, "raw");
}

static void add_output(struct reader *reader, kvf_span inside)
{
    kvf_span value;
    if (evaluate(reader, inside, &value))
        add(reader, TEXT, value, (kvf_span){0});
    else
        add(reader, VALUE, inside, (kvf_span){0});
}

/* The text up to the next tag, without the white space that tags on its sides take. */
static void add_text(struct reader *reader, kvf_span text, kvf_span tag)
{
    if (reader->is_trimmed)
        while (text.bytes > 0 && is_space(text.data[0]))
            text = kvf_span_after(text, 1);
    else if (reader->eats_break && kvf_span_begins(text, "\n"))
        text = kvf_span_after(text, 1);
    if (tag.bytes > 2 && tag.data[2] == '-') {
        while (text.bytes > 0 && is_space(text.data[text.bytes - 1]))
            text.bytes--;
    } else if (tag.bytes > 2 && tag.data[1] != '{') { /* a statement's own indentation */
        kvf_span before = text;
        while (before.bytes > 0 &&
               (before.data[before.bytes - 1] == ' ' || before.data[before.bytes - 1] == '\t'))
            before.bytes--;
        if (before.bytes == 0 || before.data[before.bytes - 1] == '\n')
            text = before;
    }
    if (text.bytes > 0)
        add(reader, TEXT, text, (kvf_span){0});
}

/* Bytes up to the first of {{ {% {#. */
static size_t bytes_to_tag(kvf_span text)
{
    size_t n = 0;
    while (n < text.bytes && (text.data[n] != '{' || n + 1 == text.bytes ||
                              !strchr("{%#", text.data[n + 1]) || text.data[n + 1] == '\0'))
        n++;
    return n;
}

/* Bytes of a tag with its braces, over strings that have some in them; 0: it has no end. */
static size_t tag_bytes(kvf_span tag)
{
    const char end = tag.data[1] == '{' ? '}' : tag.data[1];
    char quote = '\0';
    for (size_t i = 2; i + 1 < tag.bytes; i++) {
        const char c = tag.data[i];
        if (quote && c == '\\')
            i++;
        else if (quote)
            quote = c == quote ? '\0' : quote;
        else if ((c == '\'' || c == '"') && tag.data[1] != '#')
            quote = c;
        else if (c == end && tag.data[i + 1] == '}')
            return i + 2;
    }
    return 0;
}

/* Text, then a tag. False where the template breaks off in a tag, or is none that is read. */
static bool read_next(struct reader *reader)
{
    const size_t n_text = bytes_to_tag(reader->rest);
    kvf_span tag = kvf_span_after(reader->rest, n_text);
    add_text(reader, (kvf_span){reader->rest.data, n_text}, tag);
    if (tag.bytes == 0) {
        reader->rest = tag;
        return true;
    }
    const size_t n = tag_bytes(tag);
    if (n < 4)
        return false;
    kvf_span inside = {tag.data + 2, n - 4};
    reader->is_trimmed = inside.bytes > 0 && inside.data[inside.bytes - 1] == '-';
    reader->eats_break = tag.data[1] != '{';
    inside.bytes -= reader->is_trimmed;
    if (inside.bytes > 0 && (inside.data[0] == '-' || inside.data[0] == '+'))
        inside = kvf_span_after(inside, 1);
    reader->rest = kvf_span_after(tag, n);
    if (tag.data[1] == '{')
        add_output(reader, inside);
    return (tag.data[1] != '%' || add_statement(reader, inside)) &&
           reader->constant_bytes <= MAX_CONSTANT_BYTES;
}

/* ---- Tools --------------------------------------------------------------------------- */

static bool shows_grammar(kvf_span text)
{
    return contains(text, "<" KVF_CHAT_DSML "tool_calls>") &&
           contains(text, "</" KVF_CHAT_DSML "tool_calls>") &&
           contains(text, "<" KVF_CHAT_DSML "invoke name=\"") &&
           contains(text, "<" KVF_CHAT_DSML "parameter name=\"");
}

/* As str.format would have it: markers are slots, braces are doubled. */
static void add_slots(kvf_buffer *out, kvf_span text)
{
    static const char *const slots[][2] = {{KVF_CHAT_DSML, "{dsml_token}"},
                                           {KVF_CHAT_THINK, "{thinking_start_token}"},
                                           {KVF_CHAT_END_THINK, "{thinking_end_token}"},
                                           {"{", "{{"},
                                           {"}", "}}"}};
    while (text.bytes > 0) {
        size_t i = 0;
        while (i < 5 && !kvf_span_begins(text, slots[i][0]))
            i++;
        if (i < 5)
            kvf_buffer_add_string(out, slots[i][1]);
        else
            kvf_buffer_add(out, text.data, 1);
        text = kvf_span_after(text, i < 5 ? strlen(slots[i][0]) : 1);
    }
}

static kvf_span without_breaks(kvf_span text, bool at_start)
{
    while (at_start && text.bytes > 0 && text.data[0] == '\n')
        text = kvf_span_after(text, 1);
    while (!at_start && text.bytes > 0 && text.data[text.bytes - 1] == '\n')
        text.bytes--;
    return text;
}

static kvf_span tools_text(struct reader *reader, kvf_span head, kvf_span foot)
{
    kvf_buffer out = {0};
    add_slots(&out, without_breaks(without_breaks(head, true), false));
    kvf_buffer_add_string(&out, "\n\n{tool_schemas}");
    foot = without_breaks(without_breaks(foot, true), false);
    if (foot.bytes > 0)
        kvf_buffer_add_string(&out, "\n\n");
    add_slots(&out, foot);
    kvf_buffer_add_string(&out, "\n");
    char *copy = out.failed ? NULL : kvf_arena_alloc(reader->arena, out.bytes);
    reader->failed = reader->failed || !copy;
    if (copy)
        memcpy(copy, out.data, out.bytes);
    const kvf_span text = {copy, copy ? out.bytes : 0};
    kvf_buffer_free(&out);
    /* Another marker begins something else: a turn is written behind the tools. */
    return contains(text, KVF_CHAT_BAR) ? (kvf_span){0} : text;
}

/* The texts from item i on that are written one after the other, as one; *end: behind them. */
static kvf_span written_from(struct reader *reader, size_t i, size_t *end)
{
    size_t bytes = 0;
    for (*end = i; *end < reader->n && reader->items[*end].kind == TEXT; ++*end)
        bytes += reader->items[*end].text.bytes;
    char *copy = kvf_arena_alloc(reader->arena, bytes + 1);
    reader->failed = reader->failed || !copy;
    if (!copy)
        return (kvf_span){0};
    const kvf_span text = {copy, bytes};
    for (; i < *end; copy += reader->items[i++].text.bytes)
        memcpy(copy, reader->items[i].text.data, reader->items[i].text.bytes);
    return text;
}

/* NAME_footer of NAME_header; NULL where there is none. */
static const kvf_span *foot_of(const struct reader *reader, kvf_span head_name)
{
    static const char head[] = "header";
    char name[64];
    const size_t n = sizeof head - 1;
    if (head_name.bytes < n || head_name.bytes >= sizeof name)
        return NULL;
    memcpy(name, head_name.data, head_name.bytes);
    if (memcmp(name + head_name.bytes - n, head, n) != 0)
        return NULL;
    memcpy(name + head_name.bytes - n, "footer", n);
    return constant_of(reader, (kvf_span){name, head_name.bytes});
}

/* Behind a head that is written: the loop over the tools, and then what is written. */
static bool find_written_foot(struct reader *reader, size_t i, kvf_span *foot)
{
    bool has_value = false;
    if (i == reader->n || reader->items[i].kind != LOOP)
        return false;
    for (i++; i < reader->n && reader->items[i].kind != END_LOOP; i++) {
        const struct item *item = &reader->items[i];
        if (item->kind == LOOP || (item->kind == TEXT && trim(item->text).bytes > 0))
            return false;
        has_value = has_value || (item->kind == VALUE && contains(item->text, "tojson"));
    }
    size_t end;
    if (i < reader->n)
        *foot = written_from(reader, i + 1, &end);
    return i < reader->n && has_value;
}

static void find_tools(struct reader *reader, kvf_chat_texts *texts)
{
    size_t n_found = 0;
    for (size_t i = 0; i < reader->n;) {
        const struct item *item = &reader->items[i];
        size_t end = i + 1;
        kvf_span head = item->text;
        kvf_span foot = {0};
        bool good = false;
        if (item->kind == TEXT)
            head = written_from(reader, i, &end);
        if (item->kind <= SET && item->kind != VALUE && shows_grammar(head)) {
            const kvf_span *set_foot = item->kind == SET ? foot_of(reader, item->name) : NULL;
            good = set_foot || (item->kind == TEXT && find_written_foot(reader, end, &foot));
            texts->tools = (kvf_span){0};
            if (good)
                texts->tools = tools_text(reader, head, set_foot ? *set_foot : foot);
            n_found++;
        }
        i = end;
    }
    if (n_found != 1)
        texts->tools = (kvf_span){0};
}

/* ---- Efforts ------------------------------------------------------------------------- */

static bool says(kvf_span words, const char *level)
{
    return contains(words, level) && !contains(words, level[0] == 'm' ? "high" : "max");
}

/* The words before an item that say when it is written: the condition, or its name. */
static kvf_span words_of(const struct reader *reader, size_t i)
{
    if (reader->items[i].kind == SET)
        return reader->items[i].name;
    return i > 0 && reader->items[i - 1].kind == OTHER ? reader->items[i - 1].text : (kvf_span){0};
}

static kvf_span effort_text(struct reader *reader, kvf_span text)
{
    text = without_breaks(text, false);
    char *copy = kvf_arena_alloc(reader->arena, text.bytes + 2);
    reader->failed = reader->failed || !copy;
    if (!copy)
        return (kvf_span){0};
    memcpy(copy, text.data, text.bytes);
    memcpy(copy + text.bytes, "\n\n", 2);
    return (kvf_span){copy, text.bytes + 2};
}

static void find_efforts(struct reader *reader, kvf_chat_texts *texts)
{
    kvf_span found[3];
    bool is_max[3] = {false, false, false};
    bool is_high[3] = {false, false, false};
    size_t n = 0;
    for (size_t i = 0; i < reader->n && n < 3; i++) {
        const struct item *item = &reader->items[i];
        const kvf_span words = words_of(reader, i);
        size_t which = 0;
        if ((item->kind != TEXT && item->kind != SET) ||
            !kvf_span_begins(item->text, "Reasoning Effort: "))
            continue;
        while (which < n && !kvf_span_equal(found[which], item->text))
            which++; /* it may be set, and then written */
        found[which] = item->text;
        is_max[which] = is_max[which] || says(words, "max");
        is_high[which] = is_high[which] || says(words, "high");
        n += which == n;
    }
    const bool is_both =
        n == 2 && is_max[0] != is_high[0] && is_max[1] != is_high[1] && is_max[0] != is_max[1];
    if (n == 1 || is_both)
        texts->efforts[0] = effort_text(reader, found[is_both && is_max[0]]);
    if (is_both)
        texts->efforts[1] = effort_text(reader, found[!is_max[0]]);
}

kvf_status kvf_chat_texts_of_template(const char *source, size_t bytes, kvf_chat_texts *texts,
                                      kvf_error *error)
{
    *texts = (kvf_chat_texts){.source = KVF_TEXTS_NOWHERE};
    if (bytes > MAX_SOURCE_BYTES || !kvf_span_is_utf8((kvf_span){source, bytes}))
        return kvf_ok(error);
    kvf_arena scratch = {0};
    struct reader reader = {.rest = {source, bytes}, .arena = &texts->arena};
    /* A tag has 4 bytes at least, and one text stands before each and behind the last. */
    reader.items = kvf_arena_array(&scratch, bytes / 2 + 2, sizeof *reader.items);
    bool good = reader.items != NULL;
    reader.failed = !good;
    while (good && !reader.failed && reader.rest.bytes > 0)
        good = read_next(&reader);
    if (good && !reader.failed) {
        find_tools(&reader, texts);
        find_efforts(&reader, texts);
    }
    kvf_arena_free(&scratch);
    if (reader.failed) {
        kvf_chat_texts_free(texts);
        return kvf_fail(error, KVF_OUT_OF_MEMORY, "no memory for the texts of a chat template");
    }
    if (texts->tools.data || texts->efforts[0].data)
        texts->source = KVF_TEXTS_CHAT_TEMPLATE;
    return kvf_ok(error);
}
