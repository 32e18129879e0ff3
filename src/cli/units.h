/* Numbers as people write and read them. */
#ifndef KVF_CLI_UNITS_H
#define KVF_CLI_UNITS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/*
 * Parses "8192", "8k", "1M", "96G", "2T": digits, as many as there are, and at most one
 * suffix, a power of 1024 in either case. Nothing else: no space, fraction or second
 * suffix; "-1" is a number, outside of every range. On failure, or outside min .. max,
 * returns false and says why in *reason, a clause that starts with the text itself.
 */
bool cli_parse_size(const char *text, uint64_t min, uint64_t max, uint64_t *value, char *reason,
                    size_t reason_bytes);

/*
 * The same for a decimal number such as 0.7 or 1e-3 in min .. max. One that a float holds
 * as 0 only because it is so small is refused.
 */
bool cli_parse_fraction(const char *text, double min, double max, float *value, char *reason,
                        size_t reason_bytes);

enum { CLI_NUMBER_BYTES = 32 }; /* room for any of the texts below */

/* "44.76 MB": decimal units (1 MB = 1,000,000 bytes), four digits; below 1000 "640 B". */
const char *cli_format_bytes(uint64_t bytes, char text[CLI_NUMBER_BYTES]);
/* "12,206,080". */
const char *cli_format_count(uint64_t count, char text[CLI_NUMBER_BYTES]);
/* "8k", "1M", "96G" where it is a whole multiple of 1024, else "8,000". */
const char *cli_format_context(uint64_t tokens, char text[CLI_NUMBER_BYTES]);
/* "12.34 us", "1.234 ms", "5.678 s": four digits. */
const char *cli_format_microseconds(double microseconds, char text[CLI_NUMBER_BYTES]);
/* Tokens a second: "1,234" from 100 on, else "12.3"; "-" for none. */
const char *cli_format_rate(double tokens_per_second, char text[CLI_NUMBER_BYTES]);

#endif
