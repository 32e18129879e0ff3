/*
 * Forks: what they share is there once, what one writes the others never see, and each
 * goes on as a session of its own would have.
 */
#include "cache/compare.h"
#include "cache/small.h"

/* ---- What is counted ------------------------------------------------------------ */

typedef struct page_set {
    const kvf_page *pages[4096];
    size_t n;
    uint64_t bytes;
} page_set;

static void add_page(page_set *set, const kvf_page *page)
{
    if (!page)
        return;
    for (size_t i = 0; i < set->n; i++)
        if (set->pages[i] == page)
            return;
    assert_true(set->n < 4096);
    set->pages[set->n++] = page;
    set->bytes += page->bytes;
}

static void add_rows(page_set *set, const kvf_paged_rows *rows)
{
    for (uint64_t i = 0; i < rows->n_pages; i++)
        add_page(set, rows->pages[i]);
}

/* The device's bytes are those of all different pages, and each session's own parts. */
static void check_live_bytes(kvf_session *const *sessions, int n)
{
    page_set *set = calloc(1, sizeof *set);
    for (int i = 0; i < n; i++) {
        if (!sessions[i])
            continue;
        add_page(set, sessions[i]->tokens);
        for (uint32_t layer = 0; layer < small_geometry.n_layers; layer++) {
            const kvf_layer_cache *cache = &sessions[i]->layers[layer];
            add_rows(set, &cache->window);
            add_rows(set, &cache->rows);
            add_rows(set, &cache->index_rows);
            add_page(set, cache->row_state);
            add_page(set, cache->index_state);
        }
        set->bytes += kvf_session_header_bytes(sessions[i]) + sizeof(float) * SMALL_VOCAB;
    }
    assert_int_equal(small_device->live_bytes[KVF_MEMORY_CACHE], set->bytes);
    free(set);
}

/* What each reports is what it would report alone. */
static void check_plan(const kvf_session *session, kvf_profile_id profile)
{
    kvf_plan plan;
    kvf_error error;
    const kvf_session_options options = {
        .profile = profile, .max_tokens = 8192, .chunk_tokens = SMALL_CHUNK};
    assert_int_equal(
        kvf_plan_make(&small_geometry, &options, kvf_session_n_tokens(session), &plan, &error),
        KVF_OK);
    assert_int_equal(kvf_session_allocated_bytes(session), plan.allocated_bytes);
    assert_int_equal(kvf_session_held_bytes(session), plan.session_bytes);
    kvf_plan_free(&plan);
}

/* ---- Tests ---------------------------------------------------------------------- */

#define N_FORKS 8

/*
 * What 20 tokens after 1165 make a fork's own: token ids, states, a page of every window
 * (rows 13 to 32 of it), and in the CSA layers the page that rows 291 to 295 lie in.
 */
static uint64_t written_bytes(const kvf_session *session)
{
    uint64_t bytes = sizeof(int32_t) * 4096;
    for (uint32_t layer = 0; layer < small_geometry.n_layers; layer++) {
        const kvf_layer_cache *cache = &session->layers[layer];
        bytes += kvf_paged_rows_page_bytes(&cache->window);
        bytes += cache->row_state ? cache->row_state->bytes : 0;
        if (small_geometry.layers[layer].kind == KVF_LAYER_CSA)
            bytes += cache->index_state->bytes + kvf_paged_rows_page_bytes(&cache->rows) +
                     kvf_paged_rows_page_bytes(&cache->index_rows);
    }
    return bytes;
}

static void n_continuations_of_a_prompt_hold_it_once(void **state)
{
    (void)state;
    for (int profile = 0; profile < KVF_PROFILE_COUNT; profile += 3) {
        kvf_session *sessions[N_FORKS + 1] = {
            small_open((kvf_profile_id)profile, KVF_NO_CHECKPOINTS)};
        kvf_error error;
        for (int i = 0; i < 5; i++)
            small_feed(sessions[0], 233, 0); /* 1165 tokens */
        const uint64_t prompt = small_device->live_bytes[KVF_MEMORY_CACHE];
        for (int i = 1; i <= N_FORKS; i++)
            assert_int_equal(kvf_session_fork(sessions[0], &sessions[i], &error), KVF_OK);
        const uint64_t own = kvf_session_header_bytes(sessions[0]) + sizeof(float) * SMALL_VOCAB;
        assert_int_equal(small_device->live_bytes[KVF_MEMORY_CACHE], prompt + N_FORKS * own);
        assert_int_equal(kvf_session_shared_bytes(sessions[1]),
                         kvf_session_allocated_bytes(sessions[1]) - own);
        for (int i = 0; i <= N_FORKS; i++) {
            assert_same_session(sessions[0], sessions[i]);
            check_plan(sessions[i], (kvf_profile_id)profile);
        }
        for (int i = 1; i <= N_FORKS; i++)
            for (int j = 0; j < 20; j++)
                small_feed(sessions[i], 1, (uint32_t)i);
        check_live_bytes(sessions, N_FORKS + 1);
        assert_int_equal(small_device->live_bytes[KVF_MEMORY_CACHE],
                         prompt + N_FORKS * (own + written_bytes(sessions[1])));
        for (int i = 0; i <= N_FORKS; i++) {
            check_plan(sessions[i], (kvf_profile_id)profile);
            kvf_session_close(sessions[i]);
            sessions[i] = NULL;
            check_live_bytes(sessions, N_FORKS + 1);
        }
        assert_int_equal(small_device->live_bytes[KVF_MEMORY_CACHE], 0);
        assert_int_equal(small_device->live_bytes[KVF_MEMORY_CHECKPOINT], 0);
    }
}

/* A session of its own that was fed what the fork was. */
static kvf_session *alone(kvf_profile_id profile, const uint32_t *chunks, int n, uint32_t text)
{
    kvf_session *session = small_open(profile, 3);
    for (int i = 0; i < n; i++)
        small_feed(session, chunks[i], i < 3 ? 0 : text);
    return session;
}

static void what_one_writes_no_other_sees(void **state)
{
    (void)state;
    static const uint32_t chunks[] = {200, 55, 3, 1, 1, 7, 130, 1, 257, 1, 2};
    const int n = sizeof chunks / sizeof *chunks;
    for (int profile = 0; profile < KVF_PROFILE_COUNT; profile++) {
        kvf_session *forks[4] = {alone((kvf_profile_id)profile, chunks, 3, 0)};
        kvf_error error;
        for (int i = 1; i < 4; i++)
            assert_int_equal(kvf_session_fork(forks[i - 1], &forks[i], &error), KVF_OK);
        for (int step = 3; step < n; step++)
            for (uint32_t i = 0; i < 4; i++) /* in turns, each its own text */
                small_feed(forks[i], chunks[step], i);
        check_live_bytes(forks, 4);
        for (uint32_t i = 0; i < 4; i++) {
            kvf_session *clean = alone((kvf_profile_id)profile, chunks, n, i);
            assert_same_session(clean, forks[i]);
            kvf_session_close(clean);
        }
        for (int i = 0; i < 4; i++)
            kvf_session_close(forks[(i * 3 + 1) % 4]);
        assert_int_equal(small_device->live_bytes[KVF_MEMORY_CACHE], 0);
        assert_int_equal(small_device->live_bytes[KVF_MEMORY_CHECKPOINT], 0);
    }
}

static void forks_are_closed_in_any_order(void **state)
{
    (void)state;
    static const int orders[6][3] = {{0, 1, 2}, {0, 2, 1}, {1, 0, 2},
                                     {1, 2, 0}, {2, 0, 1}, {2, 1, 0}};
    for (int order = 0; order < 6; order++) {
        kvf_session *sessions[3] = {small_open(KVF_PROFILE_FOLD, 2)};
        kvf_error error;
        small_feed(sessions[0], 256, 0);
        assert_int_equal(kvf_session_fork(sessions[0], &sessions[1], &error), KVF_OK);
        small_feed(sessions[1], 128, 1);
        assert_int_equal(kvf_session_fork(sessions[1], &sessions[2], &error), KVF_OK);
        small_feed(sessions[2], 5, 2);
        for (int i = 0; i < 3; i++) {
            kvf_session *last = sessions[orders[order][2]];
            kvf_session_close(sessions[orders[order][i]]);
            sessions[orders[order][i]] = NULL;
            if (i < 2)
                small_feed(last, 40, 3);
            check_live_bytes(sessions, 3);
        }
        assert_int_equal(small_device->live_bytes[KVF_MEMORY_CACHE], 0);
        assert_int_equal(small_device->live_bytes[KVF_MEMORY_CHECKPOINT], 0);
        assert_int_equal(small_device->live_bytes[KVF_MEMORY_SCRATCH], 0);
    }
}

static void a_fork_inside_a_chunk_is_refused(void **state)
{
    (void)state;
    kvf_session *session = small_open(KVF_PROFILE_FOLD, 0);
    kvf_session *fork;
    kvf_error error;
    const int32_t tokens[2] = {1, 2};
    assert_int_equal(kvf_session_fork(session, &fork, &error), KVF_OK); /* an empty one */
    small_feed(fork, 3, 0);
    kvf_session_close(fork);
    assert_int_equal(kvf_session_begin(session, tokens, 2, &error), KVF_OK);
    assert_int_equal(kvf_session_fork(session, &fork, &error), KVF_INVALID_ARGUMENT);
    assert_non_null(strstr(error.message, "2 tokens"));
    assert_null(fork);
    kvf_session_drop(session);
    assert_int_equal(kvf_session_fork(session, &fork, &error), KVF_OK);
    kvf_session_close(session);
    small_feed(fork, 3, 0);
    kvf_session_close(fork);
}

/* Pages that only a dropped chunk needed stay with their session. */
static void a_fork_after_a_dropped_chunk_shares_none_of_its_pages(void **state)
{
    (void)state;
    static const uint32_t chunks[] = {200, 55,  3,
                                      300, 300, 40}; /* the fourth begins a page of rows */
    int32_t tokens[SMALL_CHUNK];
    for (uint32_t i = 0; i < SMALL_CHUNK; i++)
        tokens[i] = small_token(258 + i, 9);
    for (int profile = 0; profile < KVF_PROFILE_COUNT; profile++) {
        kvf_session *forks[2] = {alone((kvf_profile_id)profile, chunks, 3, 0)};
        kvf_error error;
        assert_int_equal(kvf_session_begin(forks[0], tokens, SMALL_CHUNK, &error), KVF_OK);
        kvf_session_drop(forks[0]);
        assert_int_equal(kvf_session_fork(forks[0], &forks[1], &error), KVF_OK);
        for (int step = 3; step < 6; step++)
            for (uint32_t i = 0; i < 2; i++)
                small_feed(forks[i], chunks[step], i);
        for (uint32_t i = 0; i < 2; i++) {
            kvf_session *clean = alone((kvf_profile_id)profile, chunks, 6, i);
            assert_same_session(clean, forks[i]);
            kvf_session_close(clean);
        }
        kvf_session_close(forks[0]);
        kvf_session_close(forks[1]);
        assert_int_equal(small_device->live_bytes[KVF_MEMORY_CACHE], 0);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(n_continuations_of_a_prompt_hold_it_once),
        cmocka_unit_test(what_one_writes_no_other_sees),
        cmocka_unit_test(forks_are_closed_in_any_order),
        cmocka_unit_test(a_fork_inside_a_chunk_is_refused),
        cmocka_unit_test(a_fork_after_a_dropped_chunk_shares_none_of_its_pages),
    };
    return cmocka_run_group_tests(tests, small_setup, small_teardown);
}
