/* Python's form of JSON. Only digits go through the C library: they know no locale. */
#include "text/json.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* A double has at most 17 significant digits that count, and an exponent of 4 characters. */
enum { MAX_DIGITS = 17, NUMBER_ROOM = 48 };

/* A decimal number 0.DIGITS * 10^point. */
struct decimal {
    char digits[MAX_DIGITS + 2];
    int n;
    int point;
};

void kvf_json_write_string(kvf_span text, kvf_buffer *buffer)
{
    size_t start = 0;
    kvf_buffer_add(buffer, "\"", 1);
    for (size_t i = 0; i < text.bytes; i++) {
        static const char escaped[] = "\"\\\b\f\n\r\t";
        static const char letters[] = "\"\\bfnrt";
        char escape[8];
        const unsigned char c = (unsigned char)text.data[i];
        if (c >= ' ' && c != '"' && c != '\\')
            continue;
        kvf_buffer_add(buffer, text.data + start, i - start);
        start = i + 1;
        const char *found = c ? strchr(escaped, c) : NULL;
        if (found)
            snprintf(escape, sizeof escape, "\\%c", letters[found - escaped]);
        else
            snprintf(escape, sizeof escape, "\\u%04x", c);
        kvf_buffer_add_string(buffer, escape);
    }
    if (text.bytes > start)
        kvf_buffer_add(buffer, text.data + start, text.bytes - start);
    kvf_buffer_add(buffer, "\"", 1);
}

void kvf_json_write_chars(const char *text, kvf_buffer *buffer)
{
    kvf_json_write_string((kvf_span){text, strlen(text)}, buffer);
}

/* ---- Numbers ------------------------------------------------------------------------- */

/* The digits, then e and the exponent: without a point, which another locale reads otherwise. */
static double nearest_double(const char *digits, size_t n_digits, long long exponent,
                             kvf_buffer *scratch)
{
    char tail[NUMBER_ROOM];
    scratch->bytes = 0;
    snprintf(tail, sizeof tail, "e%lld", exponent);
    kvf_buffer_add(scratch, digits, n_digits);
    kvf_buffer_add(scratch, tail, strlen(tail) + 1);
    return scratch->failed ? 0 : strtod(scratch->data, NULL);
}

/* The value of a number of JSON without its sign. */
static double number_value(kvf_span text, kvf_buffer *scratch)
{
    const long long far = 1000000000000; /* past any double, whatever digits stand before */
    kvf_buffer digits = {0};
    size_t i = text.data[0] == '-';
    long long exponent = 0;
    long long written = 0;
    bool in_fraction = false;
    for (; i < text.bytes && text.data[i] != 'e' && text.data[i] != 'E'; i++) {
        if (text.data[i] == '.') {
            in_fraction = true;
            continue;
        }
        kvf_buffer_add(&digits, text.data + i, 1);
        exponent -= in_fraction;
    }
    i++;
    const bool is_negative = i < text.bytes && text.data[i] == '-';
    for (i += i < text.bytes && (is_negative || text.data[i] == '+'); i < text.bytes; i++)
        written = written < far ? 10 * written + (text.data[i] - '0') : far;
    exponent += is_negative ? -written : written;
    const double value = nearest_double(digits.data, digits.bytes, exponent, scratch);
    scratch->failed |= digits.failed;
    kvf_buffer_free(&digits);
    return value;
}

/* The n digits nearest to value > 0. */
static struct decimal round_to(double value, int n)
{
    char printed[NUMBER_ROOM];
    struct decimal decimal = {.n = 0};
    snprintf(printed, sizeof printed, "%.*e", n - 1, value);
    const char *exponent = strchr(printed, 'e');
    for (const char *c = printed; c < exponent; c++)
        if (*c >= '0' && *c <= '9' && decimal.n < MAX_DIGITS)
            decimal.digits[decimal.n++] = *c;
    decimal.point = atoi(exponent + 1) + 1;
    return decimal;
}

/* The next number above of as many digits. */
static struct decimal next_above(struct decimal decimal)
{
    int i = decimal.n - 1;
    while (i >= 0 && decimal.digits[i] == '9')
        decimal.digits[i--] = '0';
    if (i >= 0) {
        decimal.digits[i]++;
    } else {
        decimal.digits[0] = '1';
        decimal.point++;
    }
    return decimal;
}

static bool is_same(struct decimal decimal, double value, kvf_buffer *scratch)
{
    return nearest_double(decimal.digits, (size_t)decimal.n, decimal.point - decimal.n, scratch) ==
           value;
}

/*
 * The fewest digits that are read as this double, and of those the nearest to it. Below a
 * power of two doubles are twice as dense as above it, so there the number that is nearest may
 * be another double's while the one above it still is this one's.
 */
static struct decimal shortest(double value, kvf_buffer *scratch)
{
    for (int n = 1; n < MAX_DIGITS; n++) {
        const struct decimal nearest = round_to(value, n);
        if (is_same(nearest, value, scratch))
            return nearest;
        const struct decimal above = next_above(nearest);
        if (is_same(above, value, scratch))
            return above;
    }
    return round_to(value, MAX_DIGITS);
}

/* repr of a float: with an exponent from 1e16 up and below 1e-4. */
static void write_decimal(struct decimal decimal, kvf_buffer *buffer)
{
    while (decimal.n > 1 && decimal.digits[decimal.n - 1] == '0')
        decimal.n--;
    const int n = decimal.n;
    const int point = decimal.point;
    if (point > 16 || point < -3) {
        char tail[NUMBER_ROOM];
        kvf_buffer_add(buffer, decimal.digits, 1);
        if (n > 1)
            kvf_buffer_add(buffer, ".", 1);
        kvf_buffer_add(buffer, decimal.digits + 1, (size_t)(n - 1));
        snprintf(tail, sizeof tail, "e%c%02d", point > 0 ? '+' : '-', abs(point - 1));
        kvf_buffer_add_string(buffer, tail);
        return;
    }
    if (point <= 0)
        kvf_buffer_add(buffer, "0", 1);
    for (int i = 0; i < point; i++)
        kvf_buffer_add(buffer, i < n ? decimal.digits + i : "0", 1);
    kvf_buffer_add(buffer, ".", 1);
    for (int i = point; i < 0; i++)
        kvf_buffer_add(buffer, "0", 1);
    const int first = point > 0 ? point : 0;
    if (first < n)
        kvf_buffer_add(buffer, decimal.digits + first, (size_t)(n - first));
    else
        kvf_buffer_add(buffer, "0", 1);
}

static bool is_whole(kvf_span text)
{
    for (size_t i = 0; i < text.bytes; i++)
        if (strchr(".eE", text.data[i]))
            return false;
    return true;
}

static void write_number(kvf_span text, kvf_buffer *buffer)
{
    const bool is_negative = text.data[0] == '-';
    const char first = text.data[is_negative];
    if (first < '0' || first > '9') { /* NaN, Infinity */
        kvf_buffer_add_span(buffer, text);
        return;
    }
    if (is_whole(text)) {
        if (kvf_span_is(text, "-0"))
            text = KVF_SPAN("0");
        kvf_buffer_add_span(buffer, text);
        return;
    }
    kvf_buffer scratch = {0};
    const double value = number_value(text, &scratch);
    if (is_negative)
        kvf_buffer_add(buffer, "-", 1);
    if (isinf(value))
        kvf_buffer_add_string(buffer, "Infinity");
    else if (value == 0)
        kvf_buffer_add_string(buffer, "0.0");
    else
        write_decimal(shortest(value, &scratch), buffer);
    buffer->failed |= scratch.failed;
    kvf_buffer_free(&scratch);
}

/* ---- Values -------------------------------------------------------------------------- */

void kvf_json_write(const kvf_node *node, kvf_buffer *buffer)
{
    const bool is_object = node->type == KVF_NODE_OBJECT;
    switch (node->type) {
    case KVF_NODE_NULL: kvf_buffer_add_string(buffer, "null"); return;
    case KVF_NODE_FALSE: kvf_buffer_add_string(buffer, "false"); return;
    case KVF_NODE_TRUE: kvf_buffer_add_string(buffer, "true"); return;
    case KVF_NODE_NUMBER: write_number(node->text, buffer); return;
    case KVF_NODE_STRING: kvf_json_write_string(node->text, buffer); return;
    case KVF_NODE_ARRAY:
    case KVF_NODE_OBJECT: break;
    }
    kvf_buffer_add(buffer, is_object ? "{" : "[", 1);
    for (const kvf_node *child = node->first; child; child = child->next) {
        if (child != node->first)
            kvf_buffer_add(buffer, ", ", 2);
        if (is_object) {
            kvf_json_write_string(child->key, buffer);
            kvf_buffer_add(buffer, ": ", 2);
        }
        kvf_json_write(child, buffer);
    }
    kvf_buffer_add(buffer, is_object ? "}" : "]", 1);
}
