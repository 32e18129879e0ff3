/*
 * Whether two sessions hold the same bytes: rows, live compressor state, token ids,
 * logits, header, inexact rows. Reads the inside of sessions.
 */
#ifndef KVF_TESTS_CACHE_COMPARE_H
#define KVF_TESTS_CACHE_COMPARE_H

#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>
#include <stdlib.h>
#include <string.h>

#include "cache/session.h"

/* Device memory as the host sees it: itself, or a copy that is malloc'd and put into *copy. */
static inline const void *fetch(kvf_device *device, const void *memory, size_t bytes, void **copy)
{
    *copy = NULL;
    if (device->backend->addresses_host_memory)
        return memory;
    *copy = malloc(bytes);
    assert_non_null(*copy);
    device->backend->read(device, *copy, memory, bytes);
    assert_int_equal(device->backend->wait(device, NULL), KVF_OK);
    return *copy;
}

/* One row in its page: two pieces, the second of the scales (docs/FORMAT.md 3, 4). */
static inline int same_row(kvf_format_id format, uint32_t width, const uint8_t *a, const uint8_t *b,
                           size_t row)
{
    const size_t bytes = kvf_format_row_bytes(format, width);
    size_t scales = 0;
    if (format == KVF_FORMAT_FP8_F16 || format == KVF_FORMAT_FP8_BF16)
        scales = 8;
    else if (format == KVF_FORMAT_FP4)
        scales = 4;
    const size_t values = bytes - scales;
    const size_t behind = KVF_PAGE_ROWS * values + row * scales;
    return memcmp(a + row * values, b + row * values, values) == 0 &&
           memcmp(a + behind, b + behind, scales) == 0;
}

/* Rows first .. end of a page of both. */
static inline void assert_same_page(const char *what, uint32_t layer, kvf_device *device,
                                    const kvf_paged_rows *a, const kvf_paged_rows *b, uint64_t page,
                                    uint64_t first, uint64_t end)
{
    void *copies[2];
    const size_t bytes = kvf_paged_rows_page_bytes(a);
    const void *x = fetch(device, a->memory[page], bytes, &copies[0]);
    const void *y = fetch(device, b->memory[page], bytes, &copies[1]);
    for (uint64_t row = first; row < end; row++)
        if (!same_row(a->format, a->width, x, y, row))
            fail_msg("layer %u: %s row %llu differs", layer, what,
                     (unsigned long long)(a->first_row + page * KVF_PAGE_ROWS + row));
    free(copies[0]);
    free(copies[1]);
}

/* Rows first .. end, in the same pages of both. */
static inline void assert_same_rows(const char *what, uint32_t layer, kvf_device *device,
                                    const kvf_paged_rows *a, const kvf_paged_rows *b,
                                    uint64_t first, uint64_t end)
{
    assert_int_equal(a->first_row, b->first_row);
    for (uint64_t page = 0; a->first_row + page * KVF_PAGE_ROWS < end; page++) {
        const uint64_t row = a->first_row + page * KVF_PAGE_ROWS;
        assert_same_page(what, layer, device, a, b, page, first > row ? first - row : 0,
                         end - row < KVF_PAGE_ROWS ? end - row : KVF_PAGE_ROWS);
    }
}

/* Values of one token in the state, from a column on, kv and gate. */
static inline void assert_same_slot(const char *what, uint32_t layer, const float *a,
                                    const float *b, size_t slot, size_t columns,
                                    size_t first_column, size_t n, uint64_t token)
{
    for (size_t part = 0; part < 2; part++) {
        const size_t at = (slot * 2 + part) * columns + first_column;
        if (memcmp(a + at, b + at, n * sizeof(float)) != 0)
            fail_msg("layer %u: %s of token %llu differs", layer, what, (unsigned long long)token);
    }
}

/* Tokens that are still to be pooled: of the open window, and Ca of the one before. */
static inline void assert_same_state(const char *what, uint32_t i, kvf_device *device,
                                     kvf_layer layer, uint32_t width, const kvf_page *x,
                                     const kvf_page *y, uint64_t n_tokens)
{
    void *copies[2];
    const float *a = fetch(device, x->memory, x->bytes, &copies[0]);
    const float *b = fetch(device, y->memory, y->bytes, &copies[1]);
    const uint64_t window = n_tokens / layer.ratio * layer.ratio;
    const size_t columns = (size_t)kvf_layer_parts(layer) * width;
    for (uint64_t token = window; token < n_tokens; token++)
        assert_same_slot(what, i, a, b, token % kvf_layer_slots(layer), columns, 0, columns, token);
    if (layer.kind == KVF_LAYER_CSA && window > 0)
        for (uint64_t token = window - layer.ratio; token < window; token++)
            assert_same_slot(what, i, a, b, token % kvf_layer_slots(layer), columns, 0, width,
                             token);
    free(copies[0]);
    free(copies[1]);
}

static inline void assert_same_session(const kvf_session *a, const kvf_session *b)
{
    const uint64_t n_tokens = a->header->n_tokens;
    const uint64_t window = a->geometry.window_tokens;
    assert_int_equal(n_tokens, b->header->n_tokens);
    assert_memory_equal(a->header, b->header, kvf_session_header_bytes(a));
    if (n_tokens)
        assert_memory_equal(kvf_session_tokens(a), kvf_session_tokens(b), 4 * n_tokens);
    assert_memory_equal(a->logits, b->logits, sizeof(float) * a->geometry.vocab);
    assert_int_equal(a->inexact_rows, b->inexact_rows);
    assert_int_equal(kvf_session_held_bytes(a), kvf_session_held_bytes(b));
    for (uint32_t i = 0; i < a->geometry.n_layers; i++) {
        const kvf_layer layer = a->geometry.layers[i];
        const kvf_layer_cache *x = &a->layers[i];
        const kvf_layer_cache *y = &b->layers[i];
        assert_int_equal(x->window.n_pages, y->window.n_pages);
        assert_same_rows("window", i, a->device, &x->window, &y->window,
                         n_tokens < window ? 0 : n_tokens - window, n_tokens);
        assert_same_rows("compressed", i, a->device, &x->rows, &y->rows, 0, a->row_counts[i].rows);
        assert_same_rows("index", i, a->device, &x->index_rows, &y->index_rows, 0,
                         a->row_counts[i].index_rows);
        if (x->row_state)
            assert_same_state("row state", i, a->device, layer, KVF_ROW_WIDTH, x->row_state,
                              y->row_state, n_tokens);
        if (x->index_state)
            assert_same_state("index state", i, a->device, layer, KVF_INDEX_WIDTH, x->index_state,
                              y->index_state, n_tokens);
    }
}

#endif
