#include "engine/amounts.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

const char *kvf_show_bytes(uint64_t bytes, char text[KVF_NUMBER_BYTES])
{
    static const char *const units[] = {"B", "kB", "MB", "GB", "TB", "PB", "EB"};
    double value = (double)bytes;
    unsigned unit = 0;
    /* 999.95 would be shown as 1000.0; the next unit shows it as 1.000. */
    while (value >= 999.95 && unit < 6) {
        value /= 1000;
        unit++;
    }
    if (unit == 0)
        snprintf(text, KVF_NUMBER_BYTES, "%u B", (unsigned)bytes);
    else
        snprintf(text, KVF_NUMBER_BYTES, "%.*f %s",
                 value < 9.9995   ? 3
                 : value < 99.995 ? 2
                                  : 1,
                 value, units[unit]);
    return text;
}

const char *kvf_show_count(uint64_t count, char text[KVF_NUMBER_BYTES])
{
    char digits[24];
    const int length = snprintf(digits, sizeof digits, "%llu", (unsigned long long)count);
    char *out = text;
    for (int i = 0; i < length; i++) {
        if (i && (length - i) % 3 == 0)
            *out++ = ',';
        *out++ = digits[i];
    }
    *out = '\0';
    return text;
}

const char *kvf_show_context(uint64_t tokens, char text[KVF_NUMBER_BYTES])
{
    static const char suffixes[] = "kMGT";
    int unit = -1;
    while (tokens && tokens % 1024 == 0 && unit < 3) {
        tokens /= 1024;
        unit++;
    }
    kvf_show_count(tokens, text);
    if (unit >= 0)
        strncat(text, (const char[]){suffixes[unit], '\0'}, 2);
    return text;
}

const char *kvf_show_microseconds(double microseconds, char text[KVF_NUMBER_BYTES])
{
    static const char *const units[] = {"us", "ms", "s"};
    double value = microseconds;
    unsigned unit = 0;
    while (value >= 999.95 && unit < 2) {
        value /= 1000;
        unit++;
    }
    snprintf(text, KVF_NUMBER_BYTES, "%.*f %s",
             value < 9.9995   ? 3
             : value < 99.995 ? 2
                              : 1,
             value, units[unit]);
    return text;
}

const char *kvf_show_rate(double tokens_per_second, char text[KVF_NUMBER_BYTES])
{
    if (!(tokens_per_second > 0) || !isfinite(tokens_per_second) || tokens_per_second > 1e15)
        snprintf(text, KVF_NUMBER_BYTES, "-");
    else if (tokens_per_second < 99.95)
        snprintf(text, KVF_NUMBER_BYTES, "%.1f", tokens_per_second);
    else
        kvf_show_count((uint64_t)(tokens_per_second + 0.5), text);
    return text;
}
