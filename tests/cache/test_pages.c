/*
 * Pages that lie in somebody else's memory, as a restored session's do: no byte of them is
 * read before it was checked, none is ever written, and a check that fails ends the chunk
 * with the session as it was. The owner here puts the content in place when it is asked to
 * check: who reads before gets rows of NaN and index rows that select wrongly.
 */
#include "cache/compare.h"
#include "cache/small.h"

#include <stdio.h>

/* ---- An owner -------------------------------------------------------------------- */

#define MAX_PIECES 512

typedef struct piece {
    uint8_t *memory;        /* what pages refer to; nonsense before the check */
    const uint8_t *content; /* what was saved */
    uint64_t bytes;
    bool checked;
} piece;

typedef struct owner {
    kvf_page_owner base;
    piece pieces[MAX_PIECES];
    uint32_t n_pieces;
    uint32_t n_checks;
    uint32_t fail_at; /* the check that fails; 0: none */
    bool released;
} owner;

static kvf_status check_piece(kvf_page_owner *base, const void *memory, uint64_t bytes,
                              kvf_error *error)
{
    owner *o = (owner *)base;
    if (++o->n_checks == o->fail_at) {
        snprintf(error->message, sizeof error->message, "the file is damaged");
        return error->status = KVF_FILE_FORMAT;
    }
    for (uint32_t i = 0; i < o->n_pieces; i++) {
        piece *p = &o->pieces[i];
        if (p->memory != memory)
            continue;
        assert_int_equal(p->bytes, bytes);
        assert_false(p->checked); /* once is enough */
        p->checked = true;
        memcpy(p->memory, p->content, bytes);
        return KVF_OK;
    }
    fail_msg("a check of memory that is not the owner's");
    return KVF_INVALID_ARGUMENT;
}

static void release_owner(kvf_page_owner *base)
{
    ((owner *)base)->released = true;
}

/* A page of the owner's with the content of `page`. */
static kvf_page *mapped(owner *o, kvf_session *session, const kvf_page *page)
{
    assert_true(o->n_pieces < MAX_PIECES);
    piece *p = &o->pieces[o->n_pieces++];
    uint8_t *content = malloc(page->bytes);
    memcpy(content, page->memory, page->bytes);
    *p = (piece){.memory = aligned_alloc(64, (page->bytes + 63) / 64 * 64),
                 .content = content,
                 .bytes = page->bytes};
    memset(p->memory, 0xff, page->bytes);
    return kvf_session_map_page(session, &o->base, p->memory, p->bytes);
}

static void map_rows(owner *o, kvf_session *session, kvf_paged_rows *rows)
{
    for (uint64_t i = 0; i < rows->n_pages; i++) {
        kvf_page *page = mapped(o, session, rows->pages[i]);
        kvf_session_drop_page(session, rows->pages[i]);
        rows->pages[i] = page;
        rows->memory[i] = page->memory;
    }
    rows->n_checked = 0;
    kvf_paged_rows_write(session, rows, 0);
}

static void map_page(owner *o, kvf_session *session, kvf_page **page)
{
    if (!*page)
        return;
    kvf_page *in_owner = mapped(o, session, *page);
    kvf_session_drop_page(session, *page);
    *page = in_owner;
}

/* All pages of the session in the owner's memory, as after a restore. */
static owner *map_session(kvf_session *session)
{
    owner *o = calloc(1, sizeof *o);
    o->base = (kvf_page_owner){1, check_piece, release_owner};
    for (uint32_t i = 0; i < small_geometry.n_layers; i++) {
        kvf_layer_cache *cache = &session->layers[i];
        map_rows(o, session, &cache->window);
        map_rows(o, session, &cache->rows);
        map_rows(o, session, &cache->index_rows);
        map_page(o, session, &cache->row_state);
        map_page(o, session, &cache->index_state);
    }
    map_page(o, session, &session->tokens);
    kvf_page_owner_release(&o->base);
    return o;
}

/* Nothing wrote into the owner's memory, and nobody refers to it any more. */
static void close_owner(owner *o)
{
    assert_true(o->released);
    for (uint32_t i = 0; i < o->n_pieces; i++) {
        if (o->pieces[i].checked)
            assert_memory_equal(o->pieces[i].memory, o->pieces[i].content, o->pieces[i].bytes);
        free(o->pieces[i].memory);
        free((void *)(uintptr_t)o->pieces[i].content);
    }
    free(o);
}

/* ---- Tests ----------------------------------------------------------------------- */

static void feed(kvf_session *session)
{
    small_feed(session, 300, 0);
    small_feed(session, 300, 0);
    small_feed(session, 93, 0);
}

/* Rows of everything checked, so that sessions can be compared. */
static void check_all(kvf_session *session)
{
    kvf_error error;
    for (uint32_t i = 0; i < small_geometry.n_layers; i++) {
        kvf_layer_cache *cache = &session->layers[i];
        assert_int_equal(kvf_paged_rows_check(&cache->window, session->header->n_tokens, &error),
                         KVF_OK);
        assert_int_equal(kvf_paged_rows_check(&cache->rows, session->row_counts[i].rows, &error),
                         KVF_OK);
        assert_int_equal(
            kvf_paged_rows_check(&cache->index_rows, session->row_counts[i].index_rows, &error),
            KVF_OK);
    }
}

static void nothing_is_read_before_it_is_checked(void **state)
{
    (void)state;
    static const uint32_t chunks[] = {1, 2, 200, 1, 130};
    for (int profile = 0; profile < KVF_PROFILE_COUNT; profile++)
        for (size_t i = 0; i < sizeof chunks / sizeof *chunks; i++) {
            kvf_session *session = small_open((kvf_profile_id)profile, 0);
            kvf_session *clean = small_open((kvf_profile_id)profile, 0);
            feed(session);
            feed(clean);
            owner *o = map_session(session);
            assert_int_equal(kvf_session_mapped_bytes(session) +
                                 kvf_session_allocated_bytes(session),
                             kvf_session_allocated_bytes(clean));
            small_feed(session, chunks[i], 1); /* attend's output is its logits */
            small_feed(clean, chunks[i], 1);
            assert_memory_equal(kvf_session_logits(session), kvf_session_logits(clean),
                                SMALL_VOCAB * sizeof(float));
            check_all(session);
            assert_same_session(clean, session);
            small_feed(session, 40, 1);
            small_feed(clean, 40, 1);
            assert_same_session(clean, session);
            kvf_session_close(session);
            kvf_session_close(clean);
            close_owner(o);
        }
}

/* The chunk with check number fail_at failing; false where it asks for fewer. */
static bool fail_check(kvf_session *base, const int32_t *tokens, uint32_t n, uint32_t fail_at)
{
    kvf_session *session;
    kvf_session *clean;
    kvf_error error;
    assert_int_equal(kvf_session_fork(base, &session, &error), KVF_OK);
    assert_int_equal(kvf_session_fork(base, &clean, &error), KVF_OK);
    owner *o = map_session(session);
    o->fail_at = fail_at;
    const kvf_status status = small_chunk(session, tokens, n, &error);
    const bool failed = o->n_checks >= fail_at;
    assert_int_equal(status, failed ? KVF_FILE_FORMAT : KVF_OK);
    if (failed) {
        assert_string_equal(error.message, "the file is damaged");
        assert_int_equal(o->n_checks, fail_at); /* nothing went on after it */
        assert_int_equal(kvf_session_n_tokens(session), 693);
        check_all(session);
        assert_int_equal(kvf_page_check(session->tokens, &error), KVF_OK);
        for (uint32_t i = 0; i < small_geometry.n_layers; i++) {
            if (session->layers[i].row_state)
                assert_int_equal(kvf_page_check(session->layers[i].row_state, &error), KVF_OK);
            if (session->layers[i].index_state)
                assert_int_equal(kvf_page_check(session->layers[i].index_state, &error), KVF_OK);
        }
        assert_same_session(clean, session);
        assert_int_equal(small_chunk(session, tokens, n, &error), KVF_OK);
    }
    assert_int_equal(small_chunk(clean, tokens, n, &error), KVF_OK);
    check_all(session);
    assert_same_session(clean, session);
    kvf_session_close(session);
    kvf_session_close(clean);
    close_owner(o);
    return failed;
}

static void a_check_that_fails_leaves_the_session_as_it_was(void **state)
{
    (void)state;
    static const uint32_t chunks[] = {1, 9};
    int32_t tokens[SMALL_CHUNK];
    for (uint32_t t = 0; t < SMALL_CHUNK; t++)
        tokens[t] = small_token(693 + t, 1);
    for (int profile = 0; profile < KVF_PROFILE_COUNT; profile += 3)
        for (size_t i = 0; i < 2; i++) {
            kvf_session *base = small_open((kvf_profile_id)profile, 0);
            uint32_t fail_at = 1;
            feed(base);
            while (fail_check(base, tokens, chunks[i], fail_at))
                fail_at++;
            assert_true(fail_at > 10);
            kvf_session_close(base);
            assert_int_equal(small_device->live_bytes[KVF_MEMORY_CACHE], 0);
            assert_int_equal(small_device->live_bytes[KVF_MEMORY_CHECKPOINT], 0);
        }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(nothing_is_read_before_it_is_checked),
        cmocka_unit_test(a_check_that_fails_leaves_the_session_as_it_was),
    };
    return cmocka_run_group_tests(tests, small_setup, small_teardown);
}
