/* Why a request is not answered, and how each API says so. docs/SERVER.md. Internal. */
#ifndef KVF_SERVER_REFUSAL_H
#define KVF_SERVER_REFUSAL_H

#include "kvfold.h"
#include "text/span.h"

/* Whose form an error has. */
typedef enum kvf_api { KVF_API_OPENAI, KVF_API_ANTHROPIC } kvf_api;

typedef struct kvf_refusal {
    unsigned status;              /* of HTTP; 0: there is none */
    const char *code;             /* "context_length_exceeded"; NULL: that of the status */
    unsigned retry_after_seconds; /* 0: nothing better is known than the status says */
    char param[96];               /* the field, "messages[2].content"; "" where it is none's */
    char message[512];
} kvf_refusal;

/*
 * Fills it, the first of several counts, and returns false. param may be NULL; texts of a request
 * in either are shown as kvf_printable does.
 */
bool kvf_refuse(kvf_refusal *refusal, unsigned status, const char *param, const char *format, ...)
    __attribute__((format(printf, 4, 5)));
/* The same of a kvf_error: what is no fault of the request's is 500, or 503 without memory. */
bool kvf_refuse_error(kvf_refusal *refusal, const char *param, const kvf_error *error);

/* What Retry-After says: seconds, where a repeat is of use; else 0. */
unsigned kvf_refusal_retry_after(const kvf_refusal *refusal);

/* The error object of an API. request_id goes into Anthropic's. */
void kvf_refusal_write(const kvf_refusal *refusal, kvf_api api, const char *request_id,
                       kvf_buffer *out);
/* The same as the last event of a stream. */
void kvf_refusal_write_event(const kvf_refusal *refusal, kvf_api api, const char *request_id,
                             kvf_buffer *out);

/* Digits, and what else is no text of anybody's. A line of at most 255 bytes. */
void kvf_buffer_print(kvf_buffer *buffer, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

#endif
