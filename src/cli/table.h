/*
 * Results: aligned tables for people, --csv and --json for machines.
 *
 * A record is one result by key. As JSON it is one object on one line; as CSV a
 * line under a header of the keys (lists are left out: CSV has no place for them).
 * Tables have their own columns, because people read other things than machines.
 */
#ifndef KVF_CLI_TABLE_H
#define KVF_CLI_TABLE_H

#include <cjson/cJSON.h>
#include <stdbool.h>
#include <stdint.h>

#include "cli/options.h"

/* ---- Records ---------------------------------------------------------------- */

typedef struct cli_record {
    cJSON *object;
    bool failed; /* memory ran out; printing reports it */
} cli_record;

cli_record cli_record_new(void);
void cli_record_free(cli_record *record);
/* What is no UTF-8, which JSON cannot carry, becomes U+FFFD: a path can have any bytes. */
void cli_record_text(cli_record *record, const char *key, const char *value);
void cli_record_bytes(cli_record *record, const char *key, const char *bytes, size_t n_bytes);
void cli_record_count(cli_record *record, const char *key, uint64_t value);
/* Shortest decimal that reads back equal; null for NaN and infinity. */
void cli_record_number(cli_record *record, const char *key, double value);
void cli_record_bool(cli_record *record, const char *key, bool value);
/* Hands an array (or NULL: failed) over to the record. */
void cli_record_list(cli_record *record, const char *key, cJSON *list);

/*
 * Prints to stdout and frees the record. header: print CSV's line of keys first.
 * Returns 0, or reports that memory ran out and returns the exit status.
 */
int cli_record_print(const char *command, cli_record *record, cli_output output, bool header);

/* ---- Tables ----------------------------------------------------------------- */

enum { CLI_MAX_COLUMNS = 16, CLI_CELL_BYTES = 80 };

typedef struct cli_column {
    const char *heading;
    int min_width; /* keeps tables that are printed one after another in line */
    bool left;     /* text; numbers are aligned right */
} cli_column;

typedef struct cli_table {
    const cli_column *columns;
    uint32_t n_columns;
    uint32_t n_rows;
    uint32_t capacity;
    char (*cells)[CLI_MAX_COLUMNS][CLI_CELL_BYTES]; /* [capacity] */
} cli_table;

void cli_table_start(cli_table *table, const cli_column *columns, uint32_t n_columns);
/* A new row of empty cells, or NULL when memory ran out. Valid until the next call. */
char (*cli_table_row(cli_table *table))[CLI_CELL_BYTES];
/* Prints to stdout, with headings where `headings`, and empties the table. */
void cli_table_print(cli_table *table, bool headings);
void cli_table_free(cli_table *table);

#endif
