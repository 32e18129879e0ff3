#include "cli/table.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/message.h"

/* ---- Records ---------------------------------------------------------------- */

cli_record cli_record_new(void)
{
    cli_record record = {cJSON_CreateObject(), false};
    record.failed = record.object == NULL;
    return record;
}

void cli_record_free(cli_record *record)
{
    cJSON_Delete(record->object);
    record->object = NULL;
}

/* Bytes of a UTF-8 character at text, 0 where there is no valid one. */
static size_t utf8_length(const unsigned char *text, size_t text_bytes)
{
    static const uint32_t smallest[] = {0, 0, 0x80, 0x800, 0x10000};
    const size_t length = text[0] < 0x80             ? 1
                          : (text[0] & 0xe0) == 0xc0 ? 2
                          : (text[0] & 0xf0) == 0xe0 ? 3
                          : (text[0] & 0xf8) == 0xf0 ? 4
                                                     : 0;
    if (length == 1)
        return text[0] != 0; /* a NUL would end the string */
    if (length == 0 || length > text_bytes)
        return 0;
    uint32_t code = text[0] & (0x7fu >> length);
    for (size_t i = 1; i < length; i++) {
        if ((text[i] & 0xc0) != 0x80)
            return 0;
        code = code << 6 | (text[i] & 0x3fu);
    }
    const bool surrogate = code >= 0xd800 && code <= 0xdfff;
    return code < smallest[length] || code > 0x10ffff || surrogate ? 0 : length;
}

void cli_record_bytes(cli_record *record, const char *key, const char *bytes, size_t n_bytes)
{
    char *text = malloc(3 * n_bytes + 1); /* U+FFFD has three bytes */
    size_t length = 0;
    for (size_t i = 0; text && i < n_bytes;) {
        const size_t n = utf8_length((const unsigned char *)bytes + i, n_bytes - i);
        memcpy(text + length, n ? bytes + i : "\xef\xbf\xbd", n ? n : 3);
        length += n ? n : 3;
        i += n ? n : 1;
    }
    if (text)
        text[length] = '\0';
    if (!text || !cJSON_AddStringToObject(record->object, key, text))
        record->failed = true;
    free(text);
}

void cli_record_text(cli_record *record, const char *key, const char *value)
{
    cli_record_bytes(record, key, value, strlen(value));
}

void cli_record_count(cli_record *record, const char *key, uint64_t value)
{
    /* Raw text: a cJSON number is a double, which ends at 2^53. */
    char digits[24];
    snprintf(digits, sizeof digits, "%llu", (unsigned long long)value);
    if (!cJSON_AddRawToObject(record->object, key, digits))
        record->failed = true;
}

void cli_record_number(cli_record *record, const char *key, double value)
{
    if (!cJSON_AddNumberToObject(record->object, key, value))
        record->failed = true;
}

void cli_record_bool(cli_record *record, const char *key, bool value)
{
    if (!cJSON_AddBoolToObject(record->object, key, value))
        record->failed = true;
}

void cli_record_list(cli_record *record, const char *key, cJSON *list)
{
    if (!list || !cJSON_AddItemToObject(record->object, key, list)) {
        cJSON_Delete(list);
        record->failed = true;
    }
}

/* A CSV field; quoted where it holds a comma, a quote or a line break. */
static void print_field(const char *text)
{
    if (!strpbrk(text, ",\"\r\n")) {
        fputs(text, stdout);
        return;
    }
    putchar('"');
    for (; *text; text++) {
        if (*text == '"')
            putchar('"');
        putchar(*text);
    }
    putchar('"');
}

/* The keys (heading) or the values of a record as one CSV line. */
static bool print_csv_line(const cJSON *object, bool heading)
{
    bool first = true;
    for (const cJSON *item = object->child; item; item = item->next) {
        if (cJSON_IsArray(item))
            continue;
        if (!first)
            putchar(',');
        first = false;
        if (heading || cJSON_IsString(item)) {
            print_field(heading ? item->string : item->valuestring);
            continue;
        }
        char *text = cJSON_IsNull(item) ? NULL : cJSON_PrintUnformatted(item);
        if (!text && !cJSON_IsNull(item))
            return false;
        fputs(text ? text : "", stdout);
        cJSON_free(text);
    }
    putchar('\n');
    return true;
}

static bool print_json_line(const cJSON *object)
{
    char *text = cJSON_PrintUnformatted(object);
    if (!text)
        return false;
    puts(text);
    cJSON_free(text);
    return true;
}

int cli_record_print(const char *command, cli_record *record, cli_output output, bool header)
{
    bool printed = !record->failed;
    errno = 0; /* of a line that is longer than the buffer, parts are written at once */
    if (printed && output == CLI_OUTPUT_JSON)
        printed = print_json_line(record->object);
    else if (printed)
        printed = (!header || print_csv_line(record->object, true)) &&
                  print_csv_line(record->object, false);
    const int earlier = ferror(stdout) ? errno : 0;
    cli_record_free(record);
    if (!printed)
        return cli_error(command, "out of memory for a line of results");
    errno = earlier;
    /* A line is a finished result, and the next may take long: not for nobody to read. */
    if (fflush(stdout) != 0 || ferror(stdout))
        return cli_error(command, "cannot write to standard output%s%s", errno ? ": " : "",
                         errno ? strerror(errno) : "");
    return CLI_EXIT_OK;
}

/* ---- Tables ----------------------------------------------------------------- */

void cli_table_start(cli_table *table, const cli_column *columns, uint32_t n_columns)
{
    memset(table, 0, sizeof *table);
    table->columns = columns;
    table->n_columns = n_columns;
}

char (*cli_table_row(cli_table *table))[CLI_CELL_BYTES]
{
    if (table->n_rows == table->capacity) {
        const uint32_t capacity = table->capacity ? 2 * table->capacity : 16;
        void *larger = realloc(table->cells, capacity * sizeof *table->cells);
        if (!larger)
            return NULL;
        table->cells = larger;
        table->capacity = capacity;
    }
    char(*row)[CLI_CELL_BYTES] = table->cells[table->n_rows++];
    memset(row, 0, sizeof *table->cells);
    return row;
}

static int column_width(const cli_table *table, uint32_t column)
{
    int width = table->columns[column].min_width;
    const int heading = (int)strlen(table->columns[column].heading);
    width = heading > width ? heading : width;
    for (uint32_t i = 0; i < table->n_rows; i++) {
        const int cell = (int)strlen(table->cells[i][column]);
        width = cell > width ? cell : width;
    }
    return width;
}

/* Two spaces between columns, none at the end of a line. */
static void print_cell(const cli_table *table, uint32_t column, int width, const char *text)
{
    const bool last = column + 1 == table->n_columns;
    if (table->columns[column].left)
        printf("%-*s", last ? 0 : width, text);
    else
        printf("%*s", width, text);
    fputs(last ? "\n" : "  ", stdout);
}

void cli_table_print(cli_table *table, bool headings)
{
    int widths[CLI_MAX_COLUMNS];
    for (uint32_t c = 0; c < table->n_columns; c++)
        widths[c] = column_width(table, c);
    for (uint32_t c = 0; headings && c < table->n_columns; c++)
        print_cell(table, c, widths[c], table->columns[c].heading);
    for (uint32_t i = 0; i < table->n_rows; i++) {
        for (uint32_t c = 0; c < table->n_columns; c++)
            print_cell(table, c, widths[c], table->cells[i][c]);
    }
    fflush(stdout);
    table->n_rows = 0;
}

void cli_table_free(cli_table *table)
{
    free(table->cells);
    memset(table, 0, sizeof *table);
}
