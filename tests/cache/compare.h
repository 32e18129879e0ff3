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
#include <string.h>

#include "cache/session.h"

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

static inline void assert_same_rows(const char *what, uint32_t layer, const kvf_paged_rows *a,
                                    const kvf_paged_rows *b, uint64_t first, uint64_t n)
{
    for (uint64_t row = first; row < first + n; row++)
        if (!same_row(a->format, a->width, a->memory[row / KVF_PAGE_ROWS],
                      b->memory[row / KVF_PAGE_ROWS], row % KVF_PAGE_ROWS))
            fail_msg("layer %u: %s row %llu differs", layer, what, (unsigned long long)row);
}

/* Values of one token in the state, from a column on, kv and gate. */
static inline void assert_same_slot(const char *what, uint32_t layer, const kvf_page *a,
                                    const kvf_page *b, size_t slot, size_t columns,
                                    size_t first_column, size_t n, uint64_t token)
{
    for (size_t part = 0; part < 2; part++) {
        const size_t at = (slot * 2 + part) * columns + first_column;
        if (memcmp((float *)a->memory + at, (float *)b->memory + at, n * sizeof(float)) != 0)
            fail_msg("layer %u: %s of token %llu differs", layer, what, (unsigned long long)token);
    }
}

/* Tokens that are still to be pooled: of the open window, and Ca of the one before. */
static inline void assert_same_state(const char *what, uint32_t i, kvf_layer layer, uint32_t width,
                                     const kvf_page *a, const kvf_page *b, uint64_t n_tokens)
{
    const uint64_t window = n_tokens / layer.ratio * layer.ratio;
    const size_t columns = (size_t)kvf_layer_parts(layer) * width;
    for (uint64_t token = window; token < n_tokens; token++)
        assert_same_slot(what, i, a, b, token % kvf_layer_slots(layer), columns, 0, columns, token);
    if (layer.kind == KVF_LAYER_CSA && window > 0)
        for (uint64_t token = window - layer.ratio; token < window; token++)
            assert_same_slot(what, i, a, b, token % kvf_layer_slots(layer), columns, 0, width,
                             token);
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
        /* The next token's window: all but the oldest row of a full ring. */
        for (uint64_t t = n_tokens < window ? 0 : n_tokens - window + 1; t < n_tokens; t++)
            assert_same_rows("window", i, &x->window, &y->window, t % window, 1);
        assert_same_rows("compressed", i, &x->rows, &y->rows, 0, a->row_counts[i].rows);
        assert_same_rows("index", i, &x->index_rows, &y->index_rows, 0,
                         a->row_counts[i].index_rows);
        if (x->row_state)
            assert_same_state("row state", i, layer, KVF_ROW_WIDTH, x->row_state, y->row_state,
                              n_tokens);
        if (x->index_state)
            assert_same_state("index state", i, layer, KVF_INDEX_WIDTH, x->index_state,
                              y->index_state, n_tokens);
    }
}

#endif
