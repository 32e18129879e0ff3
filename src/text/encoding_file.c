/* The texts of encoding/encoding_dsv4.py, and what a template of tools is made of. */
#include "text/chat_texts.h"

#include "error.h"
#include "file/file.h"
#include "text/python.h"

#include <stdlib.h>
#include <string.h>

/* The released files have 28 and 29 kB. */
#define MAX_SOURCE_BYTES (1 << 20)

/* ---- Slots --------------------------------------------------------------------------- */

/* Bytes up to the next brace. */
static size_t plain_bytes(kvf_span text)
{
    size_t n = 0;
    while (n < text.bytes && text.data[n] != '{' && text.data[n] != '}')
        n++;
    return n;
}

static kvf_text_slot named_slot(kvf_span name)
{
    if (kvf_span_is(name, "{tool_schemas}"))
        return KVF_SLOT_SCHEMAS;
    if (kvf_span_is(name, "{dsml_token}"))
        return KVF_SLOT_DSML;
    if (kvf_span_is(name, "{thinking_start_token}"))
        return KVF_SLOT_THINK;
    return kvf_span_is(name, "{thinking_end_token}") ? KVF_SLOT_END_THINK : KVF_SLOT_BAD;
}

kvf_text_slot kvf_slot_next(kvf_span *rest, kvf_span *part)
{
    const kvf_span text = *rest;
    size_t n = plain_bytes(text);
    *part = (kvf_span){text.data, n};
    if (n > 0) {
        *rest = kvf_span_after(text, n);
        return KVF_SLOT_TEXT;
    }
    if (kvf_span_begins(text, "{{") || kvf_span_begins(text, "}}")) {
        part->bytes = 1;
        *rest = kvf_span_after(text, 2);
        return KVF_SLOT_TEXT;
    }
    n = 1;
    if (text.data[0] == '{')
        n += plain_bytes(kvf_span_after(text, 1));
    n += n < text.bytes && text.data[0] == '{'; /* the brace behind the name */
    part->bytes = n;
    *rest = kvf_span_after(text, n);
    return named_slot(*part);
}

/* Whether str.format takes it, and the tools have a place in it. */
static bool is_tools_template(kvf_span text)
{
    bool has_schemas = false;
    kvf_span part;
    while (text.bytes > 0) {
        const kvf_text_slot slot = kvf_slot_next(&text, &part);
        has_schemas = has_schemas || slot == KVF_SLOT_SCHEMAS;
        if (slot == KVF_SLOT_BAD)
            return false;
    }
    return has_schemas;
}

/* ---- The file ------------------------------------------------------------------------ */

static bool read_assigned(kvf_python *python, const char *name, kvf_span *text)
{
    return kvf_python_find(python, name) && kvf_python_string(python, text) &&
           kvf_python_ends(python);
}

/* {"low": "", "high": .., "max": ..}, in any order, and nothing else. */
static bool read_levels(kvf_python *python, kvf_span efforts[2])
{
    static const char *const names[] = {"low", "high", "max"};
    kvf_span found[3] = {{0}};
    if (!kvf_python_take(python, '{'))
        return false;
    bool more = !kvf_python_take(python, '}');
    while (more) {
        kvf_span key;
        kvf_span text;
        size_t i = 0;
        if (!kvf_python_string(python, &key) || !kvf_python_take(python, ':') ||
            !kvf_python_string(python, &text))
            return false;
        while (i < 3 && !kvf_span_is(key, names[i]))
            i++;
        if (i == 3 || found[i].data)
            return false;
        found[i] = text;
        const bool has_comma = kvf_python_take(python, ',');
        more = !kvf_python_take(python, '}');
        if (more && !has_comma)
            return false;
    }
    efforts[0] = found[1];
    efforts[1] = found[2];
    return found[0].bytes == 0 && found[1].bytes > 0 && found[2].bytes > 0 &&
           kvf_python_ends(python);
}

/*
 * The preview has REASONING_EFFORT_MAX; 0731 has REASONING_EFFORT_PROMPTS, a text a level (a name
 * a level says the same). What a file with more than that means is not certain.
 */
static void read_efforts(kvf_python *python, kvf_chat_texts *texts)
{
    kvf_span single;
    kvf_span levels[2] = {{0}};
    const bool has_single = read_assigned(python, "REASONING_EFFORT_MAX", &single);
    const bool has_high = read_assigned(python, "REASONING_EFFORT_HIGH", &levels[0]);
    const bool has_levels =
        kvf_python_find(python, "REASONING_EFFORT_PROMPTS") && read_levels(python, levels);
    if (has_levels && !has_single && !has_high) {
        texts->efforts[0] = levels[0];
        texts->efforts[1] = levels[1];
    } else if (has_single && has_high && !has_levels) {
        texts->efforts[0] = levels[0];
        texts->efforts[1] = single;
    } else if (has_single && !has_levels && single.bytes > 0) {
        texts->efforts[0] = single;
    }
}

kvf_status kvf_chat_texts_of_python(const char *source, size_t bytes, kvf_chat_texts *texts,
                                    kvf_error *error)
{
    *texts = (kvf_chat_texts){0};
    kvf_python python = {.source = {source, bytes}, .arena = &texts->arena};
    kvf_span tools;
    if (bytes > MAX_SOURCE_BYTES)
        return kvf_ok(error);
    if (read_assigned(&python, "TOOLS_TEMPLATE", &tools) && is_tools_template(tools))
        texts->tools = tools;
    read_efforts(&python, texts);
    if (python.failed) {
        kvf_chat_texts_free(texts);
        return kvf_fail(error, KVF_OUT_OF_MEMORY, "no memory for the texts of %s",
                        KVF_ENCODING_FILE);
    }
    if (texts->tools.data || texts->efforts[0].data)
        texts->source = KVF_TEXTS_ENCODING_FILE;
    return kvf_ok(error);
}

/* Nothing where there is no such file. */
static kvf_status read_file(const char *dir, kvf_chat_texts *texts, kvf_error *error)
{
    kvf_file file = {0};
    char *path = kvf_path_join(dir, KVF_ENCODING_FILE);
    if (!path)
        return kvf_fail(error, KVF_OUT_OF_MEMORY, "no memory for a path");
    kvf_status status = kvf_file_map(path, &file, error);
    free(path);
    if (status == KVF_FILE_NOT_FOUND)
        return kvf_ok(error);
    if (status != KVF_OK)
        return status;
    status = kvf_chat_texts_of_python(file.data, file.bytes, texts, error);
    kvf_file_unmap(&file);
    return status;
}

kvf_status kvf_chat_texts_read(const char *dir, const kvf_tensor_set *files, kvf_chat_texts *texts,
                               kvf_error *error)
{
    *texts = (kvf_chat_texts){.source = KVF_TEXTS_NOWHERE};
    kvf_status status = read_file(dir, texts, error);
    const kvf_metadata *metadata =
        files ? kvf_tensor_set_metadata(files, "tokenizer.chat_template") : NULL;
    kvf_text template;
    uint64_t at = 0;
    if (status != KVF_OK || texts->source != KVF_TEXTS_NOWHERE || !metadata ||
        !kvf_metadata_text(metadata, &at, &template))
        return status;
    kvf_chat_texts_free(texts);
    return kvf_chat_texts_of_template(template.data, template.bytes, texts, error);
}

void kvf_chat_texts_free(kvf_chat_texts *texts)
{
    kvf_arena_free(&texts->arena);
    *texts = (kvf_chat_texts){0};
}

kvf_release kvf_chat_texts_release(const kvf_chat_texts *texts)
{
    return texts && texts->efforts[1].data ? KVF_RELEASE_0731 : KVF_RELEASE_PREVIEW;
}
