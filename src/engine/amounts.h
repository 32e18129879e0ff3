/* Numbers as people read them. */
#ifndef KVF_ENGINE_AMOUNTS_H
#define KVF_ENGINE_AMOUNTS_H

#include <stdint.h>

enum { KVF_NUMBER_BYTES = 32 }; /* room for any of the texts below */

/* "44.76 MB": decimal units (1 MB = 1,000,000 bytes), four digits; below 1000 "640 B". */
const char *kvf_show_bytes(uint64_t bytes, char text[KVF_NUMBER_BYTES]);
/* "12,206,080". */
const char *kvf_show_count(uint64_t count, char text[KVF_NUMBER_BYTES]);
/* "8k", "1M", "96G" where it is a whole multiple of 1024, else "8,000". */
const char *kvf_show_context(uint64_t tokens, char text[KVF_NUMBER_BYTES]);
/* "12.34 us", "1.234 ms", "5.678 s": four digits. */
const char *kvf_show_microseconds(double microseconds, char text[KVF_NUMBER_BYTES]);
/* Tokens a second: "1,234" from 100 on, else "12.3"; "-" for none. */
const char *kvf_show_rate(double tokens_per_second, char text[KVF_NUMBER_BYTES]);

#endif
