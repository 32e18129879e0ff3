#include "text/answer_calls.h"

#include "text/chat.h"

#include <stdlib.h>
#include <string.h>

#define DSML_BYTES (sizeof(KVF_CHAT_DSML) - 1)

void kvf_marked_add_mark(kvf_marked *marked)
{
    if (marked->n_marks == marked->capacity_marks) {
        const size_t capacity = marked->n_marks ? 2 * marked->n_marks : 32;
        size_t *grown = realloc(marked->marks, capacity * sizeof *grown);
        if (!grown) {
            marked->failed = true;
            return;
        }
        marked->marks = grown;
        marked->capacity_marks = capacity;
    }
    marked->marks[marked->n_marks++] = marked->text.bytes;
    kvf_buffer_add_string(&marked->text, KVF_CHAT_DSML);
}

void kvf_marked_free(kvf_marked *marked)
{
    kvf_buffer_free(&marked->text);
    free(marked->marks);
    *marked = (kvf_marked){.marks = NULL};
}

/* ---- Reading ------------------------------------------------------------------------- */

struct parameter {
    kvf_span key;
    kvf_span value;
    bool is_string;
};

/* A call: spans of the block, and which of all parameters are its own. */
struct call {
    kvf_span raw;
    kvf_span name;
    size_t first_parameter;
    size_t n_parameters;
};

struct reader {
    const kvf_marked *marked;
    kvf_span text;
    size_t at;
    size_t next_mark;      /* the first that is not before `at` */
    kvf_buffer calls;      /* struct call */
    kvf_buffer parameters; /* struct parameter */
    bool failed;
};

/* Plain text that has to come next. */
static bool take(struct reader *reader, const char *text)
{
    if (!kvf_span_begins(kvf_span_after(reader->text, reader->at), text))
        return false;
    reader->at += strlen(text);
    return true;
}

/* BEFORE MARK NAME: no other text can be a tag, whatever it spells. */
static bool take_tag(struct reader *reader, const char *before, const char *name)
{
    const size_t start = reader->at;
    const size_t *marks = reader->marked->marks;
    while (reader->next_mark < reader->marked->n_marks && marks[reader->next_mark] < start)
        reader->next_mark++;
    if (take(reader, before) && reader->next_mark < reader->marked->n_marks &&
        marks[reader->next_mark] == reader->at) {
        reader->at += DSML_BYTES;
        if (take(reader, name))
            return true;
    }
    reader->at = start;
    return false;
}

/* Splits the text before the first `end` off *rest; false where there is none. */
static bool split(kvf_span *rest, const char *end, kvf_span *before)
{
    const size_t n_end = strlen(end);
    const char *from = rest->data;
    const char *last = rest->data + rest->bytes;
    while ((size_t)(last - from) >= n_end) {
        const char *found = memchr(from, end[0], (size_t)(last - from) - n_end + 1);
        if (!found)
            return false;
        if (memcmp(found, end, n_end) == 0) {
            *before = (kvf_span){rest->data, (size_t)(found - rest->data)};
            *rest = kvf_span_after(*rest, before->bytes + n_end);
            return true;
        }
        from = found + 1;
    }
    return false;
}

/* Whether a mark stands in a part of the text that begins at reader->at. */
static bool has_mark(struct reader *reader, size_t bytes)
{
    const kvf_marked *marked = reader->marked;
    while (reader->next_mark < marked->n_marks && marked->marks[reader->next_mark] < reader->at)
        reader->next_mark++;
    return reader->next_mark < marked->n_marks &&
           marked->marks[reader->next_mark] < reader->at + bytes;
}

/* Text up to the tag that ends a parameter, which is passed over; other marks are part of it. */
static bool take_inside(struct reader *reader, kvf_span *inside)
{
    const size_t start = reader->at;
    const kvf_marked *marked = reader->marked;
    for (size_t i = reader->next_mark; i < marked->n_marks; i++) {
        if (marked->marks[i] < start + 2)
            continue;
        reader->at = marked->marks[i] - 2;
        reader->next_mark = i;
        if (take_tag(reader, "</", "parameter")) {
            *inside = (kvf_span){reader->text.data + start, marked->marks[i] - 2 - start};
            return true;
        }
    }
    return false;
}

/* Behind `parameter name="`: KEY" string="true|false">VALUE</ MARK parameter> */
static bool take_parameter(struct reader *reader)
{
    struct parameter parameter = {{0}, {0}, false};
    struct reader start = *reader;
    kvf_span is_string;
    if (!take_inside(reader, &parameter.value) || !take(reader, ">\n") ||
        !split(&parameter.value, "\" string=\"", &parameter.key) ||
        !split(&parameter.value, "\">", &is_string) || has_mark(&start, parameter.key.bytes))
        return false;
    parameter.is_string = kvf_span_is(is_string, "true");
    if (!parameter.is_string && !kvf_span_is(is_string, "false"))
        return false;
    kvf_buffer_add(&reader->parameters, &parameter, sizeof parameter);
    return !reader->parameters.failed;
}

static int compare_keys(const void *a, const void *b)
{
    const kvf_span x = ((const struct parameter *)a)->key;
    const kvf_span y = ((const struct parameter *)b)->key;
    const size_t n = x.bytes < y.bytes ? x.bytes : y.bytes;
    const int order = n ? memcmp(x.data, y.data, n) : 0;
    return order ? order : (x.bytes > y.bytes) - (x.bytes < y.bytes);
}

/* Of the last n parameters. */
static bool has_key_twice(struct reader *reader, size_t n)
{
    bool twice = false;
    struct parameter *sorted = malloc(n * sizeof *sorted);
    reader->failed = reader->failed || !sorted;
    if (!sorted)
        return false;
    memcpy(sorted, reader->parameters.data + reader->parameters.bytes - n * sizeof *sorted,
           n * sizeof *sorted);
    qsort(sorted, n, sizeof *sorted, compare_keys);
    for (size_t i = 1; i < n; i++)
        twice = twice || compare_keys(&sorted[i - 1], &sorted[i]) == 0;
    free(sorted);
    return twice;
}

/* Behind `invoke name="`. */
static bool take_call(struct reader *reader, size_t start)
{
    const size_t first = reader->parameters.bytes / sizeof(struct parameter);
    struct call call = {.first_parameter = first};
    kvf_span rest = kvf_span_after(reader->text, reader->at);
    if (!split(&rest, "\">\n", &call.name) || has_mark(reader, call.name.bytes))
        return false;
    reader->at = reader->text.bytes - rest.bytes;
    take(reader, "\n"); /* written where there are no parameters; the official parser needs none */
    while (take_tag(reader, "<", "parameter name=\"")) {
        if (!take_parameter(reader))
            return false;
        call.n_parameters++;
    }
    if (!take_tag(reader, "</", "invoke>\n"))
        return false;
    if (call.n_parameters > 1 && has_key_twice(reader, call.n_parameters))
        return false;
    call.raw = (kvf_span){reader->text.data + start, reader->at - start};
    kvf_buffer_add(&reader->calls, &call, sizeof call);
    return true;
}

static bool take_block(struct reader *reader)
{
    size_t start = 0; /* the head of the block is the first call's, to keep its bytes */
    if (!take(reader, "\n\n") || !take_tag(reader, "<", "tool_calls>\n"))
        return false;
    while (take_tag(reader, "<", "invoke name=\"")) {
        if (!take_call(reader, start))
            return false;
        start = reader->at;
    }
    return take_tag(reader, "</", "tool_calls>") && reader->at == reader->text.bytes;
}

/* ---- Giving -------------------------------------------------------------------------- */

static bool is_json(kvf_span text, bool *failed)
{
    kvf_tree tree;
    kvf_status status = kvf_tree_read(text.data, text.bytes, KVF_JSON_STRICT, "", &tree, NULL);
    if (status == KVF_OK)
        kvf_tree_free(&tree);
    *failed = *failed || status == KVF_OUT_OF_MEMORY;
    return status == KVF_OK;
}

static void write_arguments(const struct parameter *parameters, size_t n, kvf_buffer *out)
{
    out->bytes = 0;
    kvf_buffer_add_string(out, "{");
    for (size_t i = 0; i < n; i++) {
        if (i > 0)
            kvf_buffer_add_string(out, ", ");
        kvf_json_write_string(parameters[i].key, out);
        kvf_buffer_add_string(out, ": ");
        if (parameters[i].is_string)
            kvf_json_write_string(parameters[i].value, out);
        else
            kvf_buffer_add_span(out, parameters[i].value);
    }
    kvf_buffer_add_string(out, "}");
}

static void give_calls(struct reader *reader, kvf_answer_sink sink, void *user)
{
    const struct call *calls = (const struct call *)reader->calls.data;
    const struct parameter *parameters = (const struct parameter *)reader->parameters.data;
    const size_t n_calls = reader->calls.bytes / sizeof *calls;
    kvf_buffer arguments = {0};
    kvf_answer_event rest = {.kind = KVF_ANSWER_FRAME, .raw = reader->text};
    for (size_t i = 0; i < n_calls && !reader->failed; i++) {
        kvf_answer_event event = {
            .kind = KVF_ANSWER_CALL, .raw = calls[i].raw, .name = calls[i].name};
        write_arguments(parameters ? parameters + calls[i].first_parameter : NULL,
                        calls[i].n_parameters, &arguments);
        event.arguments = (kvf_span){arguments.data, arguments.bytes};
        event.arguments_are_json = is_json(event.arguments, &reader->failed);
        reader->failed = reader->failed || arguments.failed;
        if (!reader->failed)
            sink(user, &event);
        rest.raw = kvf_span_after(rest.raw, event.raw.bytes);
    }
    if (!reader->failed)
        sink(user, &rest);
    kvf_buffer_free(&arguments);
}

bool kvf_answer_calls(kvf_marked *marked, kvf_answer_sink sink, void *user)
{
    struct reader reader = {.marked = marked, .text = {marked->text.data, marked->text.bytes}};
    bool good = take_block(&reader);
    reader.failed = reader.failed || reader.calls.failed || reader.parameters.failed;
    if (good && !reader.failed)
        give_calls(&reader, sink, user);
    marked->failed = marked->failed || reader.failed;
    kvf_buffer_free(&reader.calls);
    kvf_buffer_free(&reader.parameters);
    return good && !marked->failed;
}
