/*
 * What the fuzz targets share. A target is a file fuzz_NAME.c with a function that takes
 * any bytes at all: it must return, and what it read must hold what the reader promises.
 * The file says what its input looks like. libFuzzer calls it with new inputs
 * (CONTRIBUTING.md); replay.c calls it with the saved ones of corpus/NAME.
 */
#ifndef KVF_TESTS_FUZZ_H
#define KVF_TESTS_FUZZ_H

#include "kvfold.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* For sums and products that cannot overflow. */
__extension__ typedef unsigned __int128 fuzz_wide;

/* The target. Returns 0. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

/* Ends the process where a promise is broken: an assert that no option takes away. */
#define FUZZ_REQUIRE(condition)                                                                    \
    ((condition) ? (void)0 : fuzz_broken(__FILE__, __LINE__, #condition))
_Noreturn void fuzz_broken(const char *file, int line, const char *condition);

/* A failure must be one of kvf_status's, with one line of UTF-8 that describes it. */
void fuzz_check_error(kvf_status status, const kvf_error *error);

/* Reads every byte, so that a sanitizer or the system sees those that are not there. */
void fuzz_touch(const void *data, size_t bytes);

/* ---- Input in memory -------------------------------------------------------------- */

/*
 * A copy that ends where unreadable memory begins: reading one byte past it is a fault,
 * also in libraries that no sanitizer was compiled into. Freed with fuzz_unguard.
 */
typedef struct fuzz_guarded {
    const char *data;
    size_t bytes;
    void *pages;
    size_t pages_bytes;
} fuzz_guarded;
fuzz_guarded fuzz_guard(const void *data, size_t bytes);
void fuzz_unguard(fuzz_guarded *guarded);

/*
 * Takes the input up to the next `separator` (or all of it) from *rest; the separator is
 * gone. False when nothing is left, that is after the last part.
 */
typedef struct fuzz_part {
    const uint8_t *data; /* NULL: there is no such part */
    size_t bytes;
} fuzz_part;
bool fuzz_next_part(fuzz_part *rest, uint8_t separator, fuzz_part *part);

/* ---- Input in files --------------------------------------------------------------- */

/* A temporary folder, made by the first call and removed at exit. */
const char *fuzz_folder(void);
/* Writes DIR/NAME; a part that is not there removes the file. Files are kept for rewriting. */
void fuzz_write(const char *name, fuzz_part content);

#endif
