/*
 * The messages of format_probe: framing, and reading fields and blobs with every size
 * checked. Included by probe.c alone.
 *
 * Message, all integers little-endian:
 *   u32 magic, u32 word, u32 n_fields, u32 n_blobs,
 *   u64 field[n_fields], u64 blob_bytes[n_blobs], the blobs one after another.
 * In a request `word` is the operation, in a response the kvf_status. A response's
 * blob 0 is always the error message; the rest follow only when documented at the
 * operation. Every size is derived from the fields and compared with the blob that
 * came, so the library is never handed memory smaller than it was told.
 *
 * A view of rows is six fields (format, width, page_rows, n_rows,
 * page_stride_bytes, use_table) and one blob, its pages. With use_table the pages
 * are reached through kvf_rows.pages, in reverse order of their place in the blob.
 */
#ifndef KVF_TESTS_ORACLE_PROBE_WIRE_H
#define KVF_TESTS_ORACLE_PROBE_WIRE_H

#include "kvfold.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define REQUEST_MAGIC 0x5146564bu  /* "KVFQ" */
#define RESPONSE_MAGIC 0x5246564bu /* "KVFR" */
#define MAX_FIELDS 32
#define MAX_BLOBS 24
#define MAX_BLOB_BYTES ((uint64_t)1 << 30)
#define MAX_OWNED 64

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "the protocol is written for a little-endian machine"
#endif

typedef struct blob {
    void *data;
    uint64_t bytes;
} blob;

/* A message; the cursors are used while a request is read. */
typedef struct message {
    uint32_t word;
    uint32_t n_fields;
    uint32_t n_blobs;
    uint32_t next_field;
    uint32_t next_blob;
    uint64_t fields[MAX_FIELDS];
    blob blobs[MAX_BLOBS];
} message;

/* One request being answered. All memory of it is in `owned`. */
typedef struct exchange {
    kvf_device *device;
    message request;
    message response;
    kvf_error error;
    void *owned[MAX_OWNED];
    uint32_t n_owned;
} exchange;

__attribute__((noreturn, format(printf, 1, 2))) static void nonsense(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    fputs("format_probe: ", stderr);
    vfprintf(stderr, format, arguments);
    fputc('\n', stderr);
    va_end(arguments);
    exit(2);
}

static uint64_t product(uint64_t a, uint64_t b)
{
    uint64_t result;
    if (__builtin_mul_overflow(a, b, &result)) {
        nonsense("a size overflows: %" PRIu64 " * %" PRIu64, a, b);
    }
    return result;
}

/* Exactly `bytes` long, so that a sanitizer sees one byte too many. */
static void *own(exchange *x, uint64_t bytes)
{
    void *memory = NULL;
    if (bytes > 4 * MAX_BLOB_BYTES || x->n_owned == MAX_OWNED) {
        nonsense("too much memory asked for: %" PRIu64 " bytes", bytes);
    }
    if (posix_memalign(&memory, 64, bytes ? (size_t)bytes : 1) != 0) {
        nonsense("out of memory");
    }
    x->owned[x->n_owned++] = memory;
    return memory;
}

/* ---- Framing --------------------------------------------------------------- */

static void read_exactly(void *to, uint64_t bytes)
{
    if (fread(to, 1, (size_t)bytes, stdin) != bytes) {
        nonsense("the request ends early");
    }
}

/* False at the end of stdin. */
static bool read_request(exchange *x)
{
    message *request = &x->request;
    uint32_t head[4];
    size_t got = fread(head, 1, sizeof head, stdin);
    if (got == 0 && feof(stdin)) {
        return false;
    }
    if (got != sizeof head || head[0] != REQUEST_MAGIC) {
        nonsense("not a request");
    }
    if (head[2] > MAX_FIELDS || head[3] > MAX_BLOBS) {
        nonsense("%u fields and %u blobs are too many", head[2], head[3]);
    }
    request->word = head[1];
    request->n_fields = head[2];
    request->n_blobs = head[3];
    read_exactly(request->fields, head[2] * sizeof(uint64_t));
    uint64_t sizes[MAX_BLOBS];
    read_exactly(sizes, head[3] * sizeof(uint64_t));
    for (uint32_t i = 0; i < request->n_blobs; i++) {
        if (sizes[i] > MAX_BLOB_BYTES) {
            nonsense("blob %u has %" PRIu64 " bytes", i, sizes[i]);
        }
        request->blobs[i] = (blob){own(x, sizes[i]), sizes[i]};
        read_exactly(request->blobs[i].data, sizes[i]);
    }
    return true;
}

static void write_exactly(const void *from, uint64_t bytes)
{
    if (fwrite(from, 1, (size_t)bytes, stdout) != bytes) {
        nonsense("stdout is closed");
    }
}

static void write_response(const exchange *x)
{
    const message *response = &x->response;
    uint32_t head[4] = {RESPONSE_MAGIC, response->word, response->n_fields, response->n_blobs};
    write_exactly(head, sizeof head);
    write_exactly(response->fields, response->n_fields * sizeof(uint64_t));
    for (uint32_t i = 0; i < response->n_blobs; i++) {
        write_exactly(&response->blobs[i].bytes, sizeof(uint64_t));
    }
    for (uint32_t i = 0; i < response->n_blobs; i++) {
        write_exactly(response->blobs[i].data, response->blobs[i].bytes);
    }
    fflush(stdout);
}

static void put_field(exchange *x, uint64_t value)
{
    x->response.fields[x->response.n_fields++] = value;
}

static void put_blob(exchange *x, const void *data, uint64_t bytes)
{
    x->response.blobs[x->response.n_blobs++] = (blob){(void *)(uintptr_t)data, bytes};
}

static void put_text(exchange *x, const char *text)
{
    put_blob(x, text ? text : "", text ? strlen(text) : 0);
}

/* Starts the response; further blobs come after it. */
static void put_status(exchange *x, kvf_status status)
{
    x->response.word = (uint32_t)status;
    put_text(x, x->error.message);
}

/* ---- Reading fields and blobs ------------------------------------------------ */

static uint64_t next_u64(exchange *x)
{
    if (x->request.next_field == x->request.n_fields) {
        nonsense("operation %u needs more fields", x->request.word);
    }
    return x->request.fields[x->request.next_field++];
}

static uint32_t next_u32(exchange *x)
{
    uint64_t value = next_u64(x);
    if (value > UINT32_MAX) {
        nonsense("field %u is not a u32: %" PRIu64, x->request.next_field - 1, value);
    }
    return (uint32_t)value;
}

static bool next_bool(exchange *x)
{
    uint64_t value = next_u64(x);
    if (value > 1) {
        nonsense("field %u is not 0 or 1: %" PRIu64, x->request.next_field - 1, value);
    }
    return value == 1;
}

/* f32 values travel as their bits. */
static float next_f32(exchange *x)
{
    uint32_t bits = next_u32(x);
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static blob next_blob(exchange *x)
{
    if (x->request.next_blob == x->request.n_blobs) {
        nonsense("operation %u needs more blobs", x->request.word);
    }
    return x->request.blobs[x->request.next_blob++];
}

static void *next_blob_of(exchange *x, uint64_t bytes)
{
    blob b = next_blob(x);
    if (b.bytes != bytes) {
        nonsense("blob %u has %" PRIu64 " bytes, not %" PRIu64, x->request.next_blob - 1, b.bytes,
                 bytes);
    }
    return b.data;
}

/* NULL for an empty blob, for arguments that may be left out. */
static void *next_optional_blob_of(exchange *x, uint64_t bytes)
{
    blob b = next_blob(x);
    if (b.bytes != 0 && b.bytes != bytes) {
        nonsense("blob %u has %" PRIu64 " bytes, not 0 or %" PRIu64, x->request.next_blob - 1,
                 b.bytes, bytes);
    }
    return b.bytes ? b.data : NULL;
}

static void expect_end(const exchange *x)
{
    if (x->request.next_field != x->request.n_fields ||
        x->request.next_blob != x->request.n_blobs) {
        nonsense("operation %u was given more than it takes", x->request.word);
    }
}

static kvf_rows next_rows(exchange *x)
{
    kvf_rows rows = {0};
    rows.format = (kvf_format_id)next_u32(x);
    rows.width = next_u32(x);
    rows.page_rows = next_u32(x);
    rows.n_rows = next_u64(x);
    rows.page_stride_bytes = next_u64(x);
    bool use_table = next_bool(x);
    if (rows.page_rows == 0) {
        nonsense("a page has no rows");
    }
    uint64_t n_pages = rows.n_rows / rows.page_rows + (rows.n_rows % rows.page_rows != 0);
    size_t page_bytes = kvf_format_page_bytes(rows.format, rows.width, rows.page_rows);
    if (n_pages && (page_bytes == 0 || rows.page_stride_bytes < page_bytes)) {
        nonsense("a page stride of %zu bytes for pages of %zu", rows.page_stride_bytes, page_bytes);
    }
    uint8_t *memory = next_blob_of(x, product(n_pages, rows.page_stride_bytes));
    if (n_pages == 0) {
        return rows;
    }
    rows.base = memory;
    if (use_table) {
        void **pages = own(x, product(n_pages, sizeof *pages));
        for (uint64_t p = 0; p < n_pages; p++) {
            pages[p] = memory + (n_pages - 1 - p) * rows.page_stride_bytes;
        }
        rows.pages = pages;
        rows.base = NULL;
    }
    return rows;
}

static uint64_t rows_bytes(const kvf_rows *rows)
{
    uint64_t n_pages = rows->n_rows / rows->page_rows + (rows->n_rows % rows->page_rows != 0);
    return n_pages * rows->page_stride_bytes;
}

#endif
