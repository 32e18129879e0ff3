/* Which texts a checkpoint's encoding file has, and what is too uncertain to be one. */
#include "text/chat_texts.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#define MISSING NULL

static void expect_text(kvf_span text, const char *want, const char *source)
{
    const bool is_same = want ? text.data && kvf_span_is(text, want) : !text.data;
    if (!is_same)
        fail_msg("%s\n-> %.*s, not %s", source, (int)text.bytes, text.data ? text.data : "(none)",
                 want ? want : "(none)");
}

static void check(const char *source, const char *tools, const char *first, const char *second)
{
    kvf_chat_texts texts;
    kvf_error error;
    assert_int_equal(kvf_chat_texts_of_python(source, strlen(source), &texts, &error), KVF_OK);
    expect_text(texts.tools, tools, source);
    expect_text(texts.efforts[0], first, source);
    expect_text(texts.efforts[1], second, source);
    assert_int_equal(texts.source, tools || first ? KVF_TEXTS_ENCODING_FILE : KVF_TEXTS_NOWHERE);
    assert_int_equal(kvf_chat_texts_release(&texts),
                     second ? KVF_RELEASE_0731 : KVF_RELEASE_PREVIEW);
    kvf_chat_texts_free(&texts);
}

/* A value of TOOLS_TEMPLATE behind an irrelevant line. */
static void check_value(const char *value, const char *want)
{
    char source[512];
    snprintf(source, sizeof source, "import re\nTOOLS_TEMPLATE = %s\nx = 1\n", value);
    check(source, want, MISSING, MISSING);
}

#define SLOT "{tool_schemas}"

static void test_strings_as_python_writes_them(void **state)
{
    (void)state;
    check_value("\"" SLOT "\"", SLOT);
    check_value("'a\"" SLOT "'", "a\"" SLOT);
    check_value("\"\"\"a\n\"b\"\"" SLOT "\"\"\"", "a\n\"b\"\"" SLOT);
    check_value("'''" SLOT "\\''''", SLOT "'");
    check_value("u'a' U\"" SLOT "\"", "a" SLOT);
    check_value("('a'  # c\n 'b'\n\n\"" SLOT "\"\n)", "ab" SLOT);
    check_value("'a' \\\n '" SLOT "'  # c", "a" SLOT);
    check_value("'" SLOT "\\\nb'", SLOT "b");
    check_value("'" SLOT "\\\\\\'\\\"\\a\\b\\f\\n\\r\\t\\v'", SLOT "\\'\"\a\b\f\n\r\t\v");
    check_value("'" SLOT "\\x41\\101\\60\\0617\\u00e9\\U0001F600'",
                SLOT "AA017\xc3\xa9\xf0\x9f\x98\x80");
    check_value("'" SLOT "\\d\\ \\8'", SLOT "\\d\\ \\8");
    check_value("'''a\r\nb\rc" SLOT "'''", "a\nb\nc" SLOT);
    check_value("'\xc3\xa9" SLOT "'", "\xc3\xa9" SLOT);
    check("\xef\xbb\xbfTOOLS_TEMPLATE: str='" SLOT "'", SLOT, MISSING, MISSING);
    check("TOOLS_TEMPLATE : Dict[str, 'x'] = '" SLOT "'", MISSING, MISSING, MISSING);
}

static void test_what_is_not_certain_is_missing(void **state)
{
    (void)state;
    static const char *const values[] = {"f'" SLOT "'",
                                         "r'" SLOT "'",
                                         "b'" SLOT "'",
                                         "rb'" SLOT "'",
                                         "'a' f'" SLOT "'",
                                         "'" SLOT "' % x",
                                         "'" SLOT "' + 'a'",
                                         "'" SLOT "'.strip()",
                                         "'" SLOT "' if x else 'a'",
                                         "('" SLOT "',)",
                                         "'" SLOT "',",
                                         "(('" SLOT "'))",
                                         "['" SLOT "']",
                                         "('" SLOT "'",
                                         "'" SLOT "')",
                                         "'" SLOT,
                                         "'''" SLOT "''",
                                         "x",
                                         "",
                                         "3",
                                         "'" SLOT "'; y = 1",
                                         "'" SLOT "\\N{BULLET}'",
                                         "'" SLOT "\\ud800'",
                                         "'" SLOT "\\U00110000'",
                                         "'" SLOT "\\x4'",
                                         "'" SLOT "\\u12'",
                                         "'\xff" SLOT "'",
                                         "'" SLOT "'\nTOOLS_TEMPLATE = '" SLOT "'",
                                         "'" SLOT "'\nTOOLS_TEMPLATE += 'a'",
                                         "'" SLOT "'\nif x:\n    TOOLS_TEMPLATE = 'a'",
                                         "'" SLOT "'\nif x: TOOLS_TEMPLATE = 'a'",
                                         "'" SLOT "'\nx = 1; TOOLS_TEMPLATE = 'a'",
                                         "'" SLOT "'\nTOOLS_TEMPLATE, x = 1, 2",
                                         "'" SLOT "'\n(",
                                         "'" SLOT "'\n)",
                                         "y = '" SLOT "'"};
    for (size_t i = 0; i < sizeof values / sizeof *values; i++)
        check_value(values[i], MISSING);
    check("", MISSING, MISSING, MISSING);
    check("if x:\n    TOOLS_TEMPLATE = '" SLOT "'\n", MISSING, MISSING, MISSING);
    check("TOOLS_TEMPLATE: str\n", MISSING, MISSING, MISSING);
    check("TOOLS_TEMPLATE2 = '" SLOT "'\n", MISSING, MISSING, MISSING);
    check("'''\nTOOLS_TEMPLATE = '" SLOT "'\n'''", MISSING, MISSING, MISSING);
    check("x = (\nTOOLS_TEMPLATE = '" SLOT "'\n)", MISSING, MISSING, MISSING);
}

static void test_other_uses_of_the_name_change_nothing(void **state)
{
    (void)state;
    static const char *const uses[] = {"def f():\n    return TOOLS_TEMPLATE.format(a=1)",
                                       "print(TOOLS_TEMPLATE)",
                                       "f(TOOLS_TEMPLATE='a')",
                                       "TOOLS_TEMPLATE == 'a'",
                                       "x = TOOLS_TEMPLATE <= 'a'",
                                       "MY_TOOLS_TEMPLATE = 'a'",
                                       "# TOOLS_TEMPLATE = 'a'",
                                       "'TOOLS_TEMPLATE = 1'",
                                       "assert TOOLS_TEMPLATE != '', \\\n    TOOLS_TEMPLATE",
                                       "TOOLS_TEMPLATE.strip()"};
    for (size_t i = 0; i < sizeof uses / sizeof *uses; i++) {
        char source[256];
        snprintf(source, sizeof source, "%s\nTOOLS_TEMPLATE = '" SLOT "'\n%s\n", uses[i], uses[i]);
        if (strncmp(uses[i], "TOOLS_TEMPLATE ==", 17) != 0)
            check(source, SLOT, MISSING, MISSING);
    }
}

static void test_templates_that_python_could_not_fill(void **state)
{
    (void)state;
    check_value("'{{a}} {dsml_token}{thinking_start_token}{thinking_end_token}" SLOT "'",
                "{{a}} {dsml_token}{thinking_start_token}{thinking_end_token}" SLOT);
    static const char *const bad[] = {"a",
                                      "{dsml_token}",
                                      "{{tool_schemas}}",
                                      SLOT "{x}",
                                      SLOT "{}",
                                      SLOT "{",
                                      SLOT "}",
                                      "{tool_schemas",
                                      "{ tool_schemas}",
                                      "{tool_schemas!r}",
                                      "{tool_schemas:3}",
                                      SLOT "{{{x}}}",
                                      SLOT "{dsml_token",
                                      SLOT "{{}",
                                      SLOT "{a{b}}"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        char value[128];
        snprintf(value, sizeof value, "'%s'", bad[i]);
        check_value(value, MISSING);
    }
}

static void test_effort_of_both_releases(void **state)
{
    (void)state;
    check("REASONING_EFFORT_MAX = 'a{x}'", MISSING, "a{x}", MISSING);
    check(
        "REASONING_EFFORT_PROMPTS: Dict[str, str] = {\n  'low': '',\n  'high': ('a'\n 'b'),  # c\n"
        "  \"max\":\n    (\n 'c'\n),\n}\n",
        MISSING, "ab", "c");
    check("REASONING_EFFORT_PROMPTS = {'max': 'c', 'high': 'a'}", MISSING, "a", "c");
    check("REASONING_EFFORT_HIGH = 'a'\nREASONING_EFFORT_MAX = 'c'\n", MISSING, "a", "c");
    static const char *const bad[] = {
        "REASONING_EFFORT_PROMPTS = {'high': 'a'}",
        "REASONING_EFFORT_PROMPTS = {}",
        "REASONING_EFFORT_PROMPTS = {'low': 'l', 'high': 'a', 'max': 'c'}",
        "REASONING_EFFORT_PROMPTS = {'high': 'a', 'max': 'c', 'more': 'd'}",
        "REASONING_EFFORT_PROMPTS = {'high': 'a', 'high': 'b', 'max': 'c'}",
        "REASONING_EFFORT_PROMPTS = {'high': 'a', 'max': S}",
        "REASONING_EFFORT_PROMPTS = {**x, 'high': 'a', 'max': 'c'}",
        "REASONING_EFFORT_PROMPTS = {'high': 'a' 'max': 'c'}",
        "REASONING_EFFORT_PROMPTS = {'high': 'a', 'max': 'c'",
        "REASONING_EFFORT_PROMPTS = {'high': 'a', 'max': 'c'} | x",
        "REASONING_EFFORT_PROMPTS = dict(high='a', max='c')",
        "REASONING_EFFORT_PROMPTS = {,}",
        "REASONING_EFFORT_PROMPTS = {'high': '', 'max': 'c'}",
        "REASONING_EFFORT_PROMPTS = {'high': 'a',, 'max': 'c'}",
        "REASONING_EFFORT_HIGH = 'a'",
        "REASONING_EFFORT_MAX = ''",
        "REASONING_EFFORT_MAX = 'm'\nREASONING_EFFORT_PROMPTS = {'high': 'a', 'max': 'c'}"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        check(bad[i], MISSING, MISSING, MISSING);
}

/* ---- Chat templates ------------------------------------------------------------------- */

#define DSML                                                                                       \
    "\xef\xbd\x9c"                                                                                 \
    "DSML\xef\xbd\x9c"
#define GRAMMAR(mark)                                                                              \
    "Call: <" mark "tool_calls>\\n<" mark "invoke name=\"F\">\\n<" mark                            \
    "parameter name=\"P\" string=\"true|false\">V</" mark "parameter>\\n</" mark                   \
    "invoke>\\n</" mark "tool_calls> {after <think>it</think>}"
#define GRAMMAR_SLOTS                                                                              \
    "Call: <{dsml_token}tool_calls>\n<{dsml_token}invoke name=\"F\">\n<{dsml_token}parameter "     \
    "name=\"P\" string=\"true|false\">V</{dsml_token}parameter>\n</{dsml_token}invoke>\n"          \
    "</{dsml_token}tool_calls> {{after {thinking_start_token}it{thinking_end_token}}}\n\n"         \
    "{tool_schemas}"
#define TOOL_LOOP "{%- for t in tools -%}\n {{ '\\n' }}{{- t.function | tojson -}}\n{% endfor -%}"

static void check_template(const char *source, const char *tools, const char *first,
                           const char *second)
{
    kvf_chat_texts texts;
    kvf_error error;
    assert_int_equal(kvf_chat_texts_of_template(source, strlen(source), &texts, &error), KVF_OK);
    expect_text(texts.tools, tools, source);
    expect_text(texts.efforts[0], first, source);
    expect_text(texts.efforts[1], second, source);
    assert_int_equal(texts.source, tools || first ? KVF_TEXTS_CHAT_TEMPLATE : KVF_TEXTS_NOWHERE);
    kvf_chat_texts_free(&texts);
}

static void test_tools_of_a_chat_template(void **state)
{
    (void)state;
    static const char want[] = GRAMMAR_SLOTS "\n\nOnly these.\n";
    check_template("{%- set tools_header = '" GRAMMAR(DSML) "\\n\\n' -%}{%- set tools_footer = "
                                                            "'\\nOnly these.' -%}",
                   want, MISSING, MISSING);
    check_template("{% set m='" DSML "' %}{%- set my.header = '" GRAMMAR(
                       "' + m ~ '") "' %}\n"
                                    "{%- set my.footer = \"Only \" + 'these.\\n' %}",
                   want, MISSING, MISSING);
    check_template("{% macro x(tools) -%}\n{%- set m = '" DSML
                   "' -%}{{ '" GRAMMAR("' + m + '") "' }}"
                                                    "{{ '\\n\\n' }}" TOOL_LOOP
                                                    "\nOnly {{ 'these' }}.{# c #}\n{% endmacro %}",
                   want, MISSING, MISSING);
    check_template("{{ x }}\n\n{{ '" GRAMMAR(DSML) "' }}" TOOL_LOOP "{% if y %}",
                   GRAMMAR_SLOTS "\n", MISSING, MISSING);
}

static void test_chat_templates_that_are_not_certain(void **state)
{
    (void)state;
    static const char *const bad[] = {
        "",
        "{{",
        "Reasoning Effort: \xff",
        "{{ 'Reasoning Effort: \xe4' }}",
        "{% set a = 'b",
        "text",
        "{%- set tools_header = '" GRAMMAR(DSML) "' -%}",
        "{%- set head = '" GRAMMAR(DSML) "' -%}{%- set foot = 'x' -%}",
        "{%- set tools_header = '" GRAMMAR(DSML) "' + x -%}{%- set tools_footer = 'x' -%}",
        "{%- set tools_header = '" GRAMMAR(DSML) "' -%}{%- set tools_footer = x -%}",
        "{%- set tools_header = '" GRAMMAR(DSML) "\\x41' -%}{%- set tools_footer = 'x' -%}",
        "{%- set tools_header = '" GRAMMAR(
            DSML) "' -%}{%- set tools_footer = 'x' -%}{%- set tools_footer = 'y' -%}",
        "{%- set tools_header = '" GRAMMAR(
            DSML) "' -%}{%- set tools_footer = '<\xef\xbd\x9cUser\xef\xbd\x9c>' -%}",
        "{{ '" GRAMMAR(DSML) "' }}",
        "{{ '" GRAMMAR(DSML) "' }}{% for t in tools %}{% endfor %}",
        "{{ '" GRAMMAR(DSML) "' }}{% for t in tools %}{{ t | tojson }}",
        "{{ '" GRAMMAR(DSML) "' }}{% for t in tools %}- {{ t | tojson }}{% endfor %}",
        "{{ '" GRAMMAR(DSML) "' }}" TOOL_LOOP "{% if x %}{{ '" GRAMMAR(DSML) "' }}" TOOL_LOOP,
        "{% raw %}{% endraw %}{{ '" GRAMMAR(DSML) "' }}" TOOL_LOOP};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        check_template(bad[i], MISSING, MISSING, MISSING);
}

#define EFFORT(text) "Reasoning Effort: " text

static void test_efforts_of_a_chat_template(void **state)
{
    (void)state;
    check_template("{%- if effort == 'max' -%}{{- '" EFFORT("a\\nb\\n\\n") "' -}}{%- endif -%}",
                   MISSING, EFFORT("a\nb\n\n"), MISSING);
    check_template("{% if x %}{{ \"" EFFORT("a") "\" }}{% endif %}", MISSING, EFFORT("a\n\n"),
                   MISSING);
    check_template("{%- set effort_max = '" EFFORT("c") "' -%}{%- set effort_high = '" EFFORT(
                       "a\\n") "' -%}{% if e == 'high' %}{{- effort_high -}}{% endif %}",
                   MISSING, EFFORT("a\n\n"), EFFORT("c\n\n"));
    check_template("{% if e == 'high' %}" EFFORT("a\n\n") "{% elif e == 'max' %}" EFFORT(
                       "c\n\n") "{% endif %}",
                   MISSING, EFFORT("a\n\n"), EFFORT("c\n\n"));
    check_template("{% if e %}" EFFORT("a") "{% elif f %}" EFFORT("c") "{% endif %}", MISSING,
                   MISSING, MISSING);
    check_template("{% if e == 'max' %}" EFFORT("a") "{% elif e in ['high', 'max'] %}" EFFORT(
                       "c") "{% endif %}",
                   MISSING, MISSING, MISSING);
    check_template(
        "{% if e == 'max' %}" EFFORT("a") "{% elif e == 'max' %}" EFFORT("c") "{% endif %}",
        MISSING, MISSING, MISSING);
    check_template("{% if e == 'high' %}" EFFORT("a") "{% elif e == 'max' %}" EFFORT(
                       "c") "{% else %}" EFFORT("d") "{% endif %}",
                   MISSING, MISSING, MISSING);
}

static void test_a_folder_with_and_without_the_file(void **state)
{
    (void)state;
    char folder[] = "/tmp/kvf_texts_XXXXXX";
    char path[128];
    kvf_chat_texts texts;
    kvf_error error;
    assert_non_null(mkdtemp(folder));
    assert_int_equal(kvf_chat_texts_read(folder, NULL, &texts, &error), KVF_OK);
    assert_int_equal(texts.source, KVF_TEXTS_NOWHERE);
    snprintf(path, sizeof path, "%s/encoding", folder);
    assert_int_equal(mkdir(path, 0700), 0);
    snprintf(path, sizeof path, "%s/" KVF_ENCODING_FILE, folder);
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    fputs("REASONING_EFFORT_MAX = \"a\\n\"\n", file);
    fclose(file);
    assert_int_equal(kvf_chat_texts_read(folder, NULL, &texts, &error), KVF_OK);
    expect_text(texts.efforts[0], "a\n", path);
    kvf_chat_texts_free(&texts);
    unlink(path);
    assert_int_equal(mkdir(path, 0700), 0); /* something is there, and cannot be read */
    assert_int_equal(kvf_chat_texts_read(folder, NULL, &texts, &error), KVF_FILE_IO);
    rmdir(path);
    snprintf(path, sizeof path, "%s/encoding", folder);
    rmdir(path);
    rmdir(folder);
}

static void put(FILE *file, uint64_t value, size_t bytes)
{
    for (size_t i = 0; i < bytes; i++)
        fputc((int)(value >> (8 * i) & 0xFF), file);
}

static void put_text(FILE *file, const char *text)
{
    put(file, strlen(text), 8);
    fputs(text, file);
}

/* One tensor of one value, and a key of the type (8: text, 4: u32). */
static void write_gguf(const char *path, uint32_t type, const char *text)
{
    FILE *file = fopen(path, "wb");
    assert_non_null(file);
    fputs("GGUF", file);
    put(file, 3, 4);
    put(file, 1, 8); /* tensors */
    put(file, 2, 8); /* keys */
    put_text(file, "general.architecture");
    put(file, 8, 4);
    put_text(file, "x");
    put_text(file, "tokenizer.chat_template");
    put(file, type, 4);
    if (type == 8)
        put_text(file, text);
    else
        put(file, 7, 4);
    put_text(file, "t");
    put(file, 1, 4); /* dimensions */
    put(file, 1, 8);
    put(file, 0, 4); /* F32 */
    put(file, 0, 8);
    while (ftell(file) % 32 != 0)
        fputc(0, file);
    put(file, 0, 4);
    fclose(file);
}

static kvf_texts_source read_gguf(const char *folder, uint32_t type, const char *text)
{
    char path[128];
    kvf_tensor_set *files;
    kvf_chat_texts texts;
    kvf_error error;
    snprintf(path, sizeof path, "%s/t.gguf", folder);
    write_gguf(path, type, text);
    if (kvf_tensor_set_open(path, &files, &error) != KVF_OK)
        fail_msg("%s", error.message);
    assert_int_equal(kvf_chat_texts_read(folder, files, &texts, &error), KVF_OK);
    const kvf_texts_source found = texts.source;
    if (found == KVF_TEXTS_CHAT_TEMPLATE)
        expect_text(texts.efforts[0], EFFORT("a\n\n"), path);
    kvf_chat_texts_free(&texts);
    kvf_tensor_set_close(files);
    unlink(path);
    return found;
}

static void test_a_gguf_with_and_without_a_template(void **state)
{
    (void)state;
    char folder[] = "/tmp/kvf_texts_XXXXXX";
    char path[128];
    assert_non_null(mkdtemp(folder));
    assert_int_equal(read_gguf(folder, 8, "{{ '" EFFORT("a") "' }}"), KVF_TEXTS_CHAT_TEMPLATE);
    assert_int_equal(read_gguf(folder, 8, "{{ x }}"), KVF_TEXTS_NOWHERE);
    assert_int_equal(read_gguf(folder, 4, ""), KVF_TEXTS_NOWHERE);
    /* The file beside it comes first, if it has any text. */
    snprintf(path, sizeof path, "%s/encoding", folder);
    assert_int_equal(mkdir(path, 0700), 0);
    snprintf(path, sizeof path, "%s/" KVF_ENCODING_FILE, folder);
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    fclose(file);
    assert_int_equal(read_gguf(folder, 8, "{{ '" EFFORT("a") "' }}"), KVF_TEXTS_CHAT_TEMPLATE);
    file = fopen(path, "w");
    assert_non_null(file);
    fputs("REASONING_EFFORT_MAX = 'b'\n", file);
    fclose(file);
    assert_int_equal(read_gguf(folder, 8, "{{ '" EFFORT("a") "' }}"), KVF_TEXTS_ENCODING_FILE);
    unlink(path);
    snprintf(path, sizeof path, "%s/encoding", folder);
    rmdir(path);
    rmdir(folder);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_strings_as_python_writes_them),
        cmocka_unit_test(test_what_is_not_certain_is_missing),
        cmocka_unit_test(test_other_uses_of_the_name_change_nothing),
        cmocka_unit_test(test_templates_that_python_could_not_fill),
        cmocka_unit_test(test_effort_of_both_releases),
        cmocka_unit_test(test_tools_of_a_chat_template),
        cmocka_unit_test(test_chat_templates_that_are_not_certain),
        cmocka_unit_test(test_efforts_of_a_chat_template),
        cmocka_unit_test(test_a_folder_with_and_without_the_file),
        cmocka_unit_test(test_a_gguf_with_and_without_a_template),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
