/* Numbers as people write them. */
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

#endif
