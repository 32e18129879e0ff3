#include "cli/units.h"

#include "engine/amounts.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* How far a suffix shifts; -1 for none that is known. */
static int suffix_shift(char suffix)
{
    switch (suffix) {
    case 'k':
    case 'K': return 10;
    case 'm':
    case 'M': return 20;
    case 'g':
    case 'G': return 30;
    case 't':
    case 'T': return 40;
    default: return -1;
    }
}

/* Digits from *text on, all of them; false when there are none. */
static bool parse_digits(const char **text, uint64_t *value, bool *overflow)
{
    const char *c = *text;
    *value = 0;
    *overflow = false;
    for (; *c >= '0' && *c <= '9'; c++) {
        const uint64_t digit = (uint64_t)(*c - '0');
        *overflow = *overflow || *value > (UINT64_MAX - digit) / 10;
        *value = *overflow ? 0 : *value * 10 + digit;
    }
    const bool any = c != *text;
    *text = c;
    return any;
}

/* What was read, for a message: the beginning of it where it is long. */
typedef struct shown {
    char text[48];
} shown;

static shown show(const char *text)
{
    shown s;
    const bool whole = strlen(text) <= 40;
    snprintf(s.text, sizeof s.text, "'%.40s%s'", text, whole ? "" : "...");
    return s;
}

bool cli_parse_size(const char *text, uint64_t min, uint64_t max, uint64_t *value, char *reason,
                    size_t reason_bytes)
{
    /* A number below 0 is a number: what is wrong with it is where it lies. */
    const bool negative = text[0] == '-';
    const char *rest = text + negative;
    bool overflow;
    uint64_t number;
    bool valid = parse_digits(&rest, &number, &overflow);
    if (valid && *rest) {
        const int shift = suffix_shift(*rest);
        valid = shift > 0 && rest[1] == '\0';
        if (valid && number > UINT64_MAX >> shift)
            overflow = true;
        else if (valid)
            number <<= shift;
    }
    if (!valid) {
        snprintf(reason, reason_bytes,
                 "%s is not a number; write digits and at most one of k, M, G, T "
                 "(powers of 1024), like 8k",
                 show(text).text);
        return false;
    }
    if (overflow || negative || number < min || number > max) {
        char low[KVF_NUMBER_BYTES];
        char high[KVF_NUMBER_BYTES];
        snprintf(reason, reason_bytes, "%s is outside %s .. %s", show(text).text,
                 kvf_show_context(min, low), kvf_show_context(max, high));
        return false;
    }
    *value = number;
    return true;
}

/*
 * Whether all of the text is a decimal number: "0.7", "-1", "1e-3", ".5". strtod alone
 * would also take " 1", "0x1", "nan" and the beginning of "1,5".
 */
static bool is_decimal(const char *text, bool *is_zero)
{
    static const char digits[] = "0123456789";
    const char *c = text + (text[0] == '-');
    const char *mantissa = c;
    const size_t whole = strspn(c, digits);
    c += whole + (c[whole] == '.');
    const size_t part = strspn(c, digits);
    c += part;
    *is_zero = strspn(mantissa, "0.") == (size_t)(c - mantissa);
    if (whole + part > 0 && (*c == 'e' || *c == 'E')) {
        c += c[1] == '-' || c[1] == '+' ? 2 : 1;
        const size_t exponent = strspn(c, digits);
        if (exponent == 0)
            return false;
        c += exponent;
    }
    return whole + part > 0 && *c == '\0';
}

bool cli_parse_fraction(const char *text, double min, double max, float *value, char *reason,
                        size_t reason_bytes)
{
    bool is_zero;
    if (!is_decimal(text, &is_zero)) {
        snprintf(reason, reason_bytes, "%s is not a number; write it like 0.7 or 1e-3",
                 show(text).text);
        return false;
    }
    const double number = strtod(text, NULL); /* beyond its range: infinity, or 0 */
    const bool below_zero = text[0] == '-' && !is_zero;
    if (!(number >= min && number <= max) || (below_zero && min >= 0)) {
        snprintf(reason, reason_bytes, "%s is outside %g .. %g", show(text).text, min, max);
        return false;
    }
    *value = (float)number + 0.0f; /* -0 is 0 */
    if (!(*value > 0) && !(*value < 0) && !is_zero) {
        snprintf(reason, reason_bytes, "%s is nearer to 0 than any number that is held",
                 show(text).text);
        return false;
    }
    return true;
}
