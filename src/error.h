/* Filling kvf_error. Internal. */
#ifndef KVF_ERROR_H
#define KVF_ERROR_H

#include "kvfold.h"

/*
 * Stores status and a printf-style message (truncated to fit) and returns status:
 *     return kvf_fail(error, KVF_INVALID_ARGUMENT, "top_k is 0; ...");
 * error may be NULL. The format is always a literal of ours, never data.
 */
kvf_status kvf_fail(kvf_error *error, kvf_status status, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* Clears *error (if any) and returns KVF_OK. */
kvf_status kvf_ok(kvf_error *error);

#endif
