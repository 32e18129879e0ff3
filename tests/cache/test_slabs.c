/*
 * Slabs: pages are no allocations of their own, what is given back is taken again, empty slabs go,
 * and whatever sessions do, the counters say what there is, to the byte.
 */
#include "cache/compare.h"
#include "cache/small.h"

#include <stdio.h>

#define SLAB_BYTES ((size_t)320 << 10) /* 8 pages of rows in fold, 75 of index rows */
#define ROW_PAGE_BYTES 37440
#define INDEX_PAGE_BYTES 4352

/* ---- A device that counts ----------------------------------------------------------- */

static const kvf_backend *counted_backend;
static kvf_backend counting_backend;
static int64_t given_bytes;
static uint64_t n_given;
static uint64_t n_released;
static size_t watched_bytes; /* allocations of so many are counted in .. */
static uint64_t n_watched;
static uint64_t n_watched_back;
static size_t failing_bytes;   /* an allocation of so many fails, .. */
static uint32_t until_failure; /* .. the first at 1; 0: none */

static void *counted_alloc(kvf_device *device, size_t bytes, kvf_place place)
{
    const uint64_t limit = device->memory_bytes;
    if (bytes == failing_bytes && until_failure && --until_failure == 0)
        return NULL;
    if (limit && (uint64_t)given_bytes + bytes > limit)
        return NULL;
    void *memory = counted_backend->alloc(device, bytes, place);
    given_bytes += memory ? (int64_t)bytes : 0;
    n_given += memory != NULL;
    n_watched += memory && bytes == watched_bytes;
    return memory;
}

static void counted_release(kvf_device *device, void *memory, size_t bytes)
{
    given_bytes -= (int64_t)bytes;
    n_released++;
    n_watched_back += bytes == watched_bytes;
    counted_backend->release(device, memory, bytes);
}

static int setup(void **state)
{
    if (small_setup(state))
        return 1;
    counted_backend = small_device->backend;
    counting_backend = *counted_backend;
    counting_backend.alloc = counted_alloc;
    counting_backend.release = counted_release;
    small_device->backend = &counting_backend;
    small_device->slab_bytes = SLAB_BYTES;
    given_bytes = 0;
    return 0;
}

static int teardown(void **state)
{
    small_device->backend = counted_backend;
    return small_teardown(state);
}

/* All classes together are what the backend gave. */
static uint64_t live_bytes(void)
{
    uint64_t bytes = 0;
    for (int i = 0; i < KVF_MEMORY_CLASS_COUNT; i++)
        bytes += small_device->live_bytes[i];
    assert_int_equal(bytes, given_bytes);
    return bytes;
}

static size_t slab_bytes_of(size_t page_bytes)
{
    return kvf_slab_pages(small_device->slab_bytes, page_bytes) * page_bytes;
}

/* ---- What sessions hold -------------------------------------------------------------- */

typedef struct page_set {
    const kvf_page *pages[8192];
    size_t n;
} page_set;

static void add_page(page_set *set, const kvf_page *page)
{
    if (!page || page->place == KVF_PLACE_STAGING)
        return;
    assert_true(set->n < sizeof set->pages / sizeof *set->pages);
    set->pages[set->n++] = page;
}

static void add_rows(page_set *set, const kvf_paged_rows *rows)
{
    for (uint64_t i = 0; i < rows->n_pages; i++)
        add_page(set, rows->pages[i]); /* NULL: scratch */
}

static void add_checkpoint(page_set *set, const kvf_checkpoint *checkpoint)
{
    const size_t n = checkpoint ? (size_t)small_geometry.n_layers * checkpoint->n_pages : 0;
    for (size_t i = 0; i < n; i++)
        add_page(set, checkpoint->window[i]);
    add_page(set, checkpoint ? checkpoint->halves : NULL);
}

static int by_address(const void *a, const void *b)
{
    const uintptr_t x = (uintptr_t)(*(const kvf_page *const *)a)->memory;
    const uintptr_t y = (uintptr_t)(*(const kvf_page *const *)b)->memory;
    return (x > y) - (x < y);
}

/* The device's pages of all sessions, each once, by ascending address. */
static void collect(kvf_session *const *sessions, int n_sessions, page_set *set)
{
    set->n = 0;
    for (int i = 0; i < n_sessions; i++) {
        const kvf_session *session = sessions[i];
        if (!session)
            continue;
        for (uint32_t layer = 0; layer < small_geometry.n_layers; layer++) {
            const kvf_layer_cache *cache = &session->layers[layer];
            add_rows(set, &cache->window);
            add_rows(set, &cache->rows);
            add_rows(set, &cache->index_rows);
            add_page(set, cache->row_state);
            add_page(set, cache->index_state);
            for (int j = 0; j < KVF_LAYER_STATES; j++)
                add_page(set, session->before[layer * KVF_LAYER_STATES + j]);
        }
        for (uint32_t j = 0; j < session->checkpoints.n; j++)
            add_checkpoint(set, session->checkpoints.list[j]);
        add_checkpoint(set, session->checkpoints.pending);
    }
    qsort(set->pages, set->n, sizeof *set->pages, by_address);
    size_t n = 0;
    for (size_t i = 0; i < set->n; i++)
        if (i == 0 || set->pages[i] != set->pages[n - 1])
            set->pages[n++] = set->pages[i];
    set->n = n;
}

static uint64_t n_pages_of(const page_set *set, size_t bytes)
{
    uint64_t n = 0;
    for (size_t i = 0; i < set->n; i++)
        n += set->pages[i]->bytes == bytes;
    return n;
}

/* Slabs that hold a page of the set. */
static uint64_t slabs_bytes(const page_set *set)
{
    uint64_t bytes = 0;
    for (size_t i = 0; i < set->n; i++) {
        size_t j = 0;
        while (set->pages[j]->slab != set->pages[i]->slab)
            j++;
        if (j == i && set->pages[i]->slab)
            bytes += slab_bytes_of(set->pages[i]->bytes);
    }
    return bytes;
}

/* No page lies in another; without empty slabs the pool is what the slabs of these have besides. */
static void check_pages(kvf_session *const *sessions, int n_sessions)
{
    static page_set set;
    uint64_t in_slabs = 0;
    collect(sessions, n_sessions, &set);
    for (size_t i = 0; i < set.n; i++) {
        const kvf_page *page = set.pages[i];
        assert_int_equal((uintptr_t)page->memory % 64, 0);
        assert_int_equal(page->slab != NULL, slab_bytes_of(page->bytes) > 0);
        in_slabs += page->slab ? page->bytes : 0;
        if (i > 0)
            assert_true((uintptr_t)set.pages[i - 1]->memory + set.pages[i - 1]->bytes <=
                        (uintptr_t)page->memory);
    }
    live_bytes();
    kvf_device_trim(small_device);
    assert_int_equal(small_device->live_bytes[KVF_MEMORY_POOL], slabs_bytes(&set) - in_slabs);
    live_bytes();
}

/* ---- Pages alone ------------------------------------------------------------------------ */

typedef struct taken {
    void *page;
    kvf_slab *slab;
} taken;

static taken take(size_t bytes)
{
    taken t;
    t.page = kvf_device_take_page(small_device, KVF_MEMORY_CACHE, bytes, &t.slab);
    return t;
}

static void give(taken t, size_t bytes)
{
    kvf_device_give_page(small_device, KVF_MEMORY_CACHE, t.page, bytes, t.slab);
}

static void a_page_that_is_free_is_taken_before_a_slab_is(void **state)
{
    (void)state;
    enum { N = 17 }; /* two slabs and a page */
    taken pages[N];
    const uint64_t before = n_given;
    for (int i = 0; i < N; i++) {
        pages[i] = take(ROW_PAGE_BYTES);
        assert_int_equal(n_given - before, 1 + i / 8);
        assert_ptr_equal(pages[i].slab, pages[i / 8 * 8].slab);
    }
    assert_int_equal(small_device->live_bytes[KVF_MEMORY_CACHE], N * ROW_PAGE_BYTES);
    assert_int_equal(small_device->live_bytes[KVF_MEMORY_POOL], 7 * ROW_PAGE_BYTES);
    /* Of a slab that was full: it is filled up before the one that is nearly empty is. */
    give(pages[3], ROW_PAGE_BYTES);
    give(pages[12], ROW_PAGE_BYTES);
    pages[12] = take(ROW_PAGE_BYTES);
    pages[3] = take(ROW_PAGE_BYTES);
    assert_ptr_equal(pages[12].slab, pages[8].slab);
    assert_ptr_equal(pages[3].slab, pages[0].slab);
    assert_int_equal(n_given - before, 3);
    for (int i = 0; i < N; i++)
        give(pages[i], ROW_PAGE_BYTES);
    assert_int_equal(small_device->live_bytes[KVF_MEMORY_CACHE], 0);
    assert_int_equal(small_device->live_bytes[KVF_MEMORY_POOL], 3 * 8 * ROW_PAGE_BYTES);
    give(take(ROW_PAGE_BYTES), ROW_PAGE_BYTES); /* out of an empty one */
    assert_int_equal(n_given - before, 3);
    kvf_device_trim(small_device);
    assert_int_equal(live_bytes(), 0);
}

static void each_size_has_slabs_of_its_own_and_large_pages_none(void **state)
{
    (void)state;
    static const size_t sizes[] = {ROW_PAGE_BYTES, INDEX_PAGE_BYTES,    64,
                                   40960,          SLAB_BYTES / 8 + 64, 100}; /* 40960: 8 exactly */
    enum { N = sizeof sizes / sizeof *sizes };
    taken pages[N];
    for (int i = 0; i < N; i++) {
        pages[i] = take(sizes[i]);
        assert_non_null(pages[i].page);
        assert_int_equal(pages[i].slab != NULL, i < 4);
        for (int j = 0; j < i && pages[i].slab; j++)
            assert_ptr_not_equal(pages[i].slab, pages[j].slab);
    }
    assert_int_equal(kvf_slab_pages(SLAB_BYTES, 40960), 8);
    assert_int_equal(kvf_slab_pages(SLAB_BYTES, INDEX_PAGE_BYTES), 75);
    assert_int_equal(kvf_slab_pages(SLAB_BYTES, 0), 0);
    assert_int_equal(kvf_slab_pages(0, 64), 0);
    for (int i = 0; i < N; i++)
        give(pages[i], sizes[i]);
    kvf_device_trim(small_device);
    assert_int_equal(live_bytes(), 0);
}

/* More sizes than there are places for: the others are allocations of their own, until one is free.
 */
static void there_may_be_pages_of_any_number_of_sizes(void **state)
{
    (void)state;
    enum { N = KVF_SLAB_SIZES + 3 };
    taken pages[N];
    for (int i = 0; i < N; i++) {
        pages[i] = take(64 * (size_t)(i + 1));
        assert_int_equal(pages[i].slab != NULL, i < KVF_SLAB_SIZES);
    }
    give(pages[5], 64 * 6);
    kvf_device_trim(small_device);
    pages[5] = take(64 * (N + 1));
    assert_non_null(pages[5].slab);
    for (int i = 0; i < N; i++)
        give(pages[i], i == 5 ? 64 * (N + 1) : 64 * (size_t)(i + 1));
    kvf_device_trim(small_device);
    assert_int_equal(live_bytes(), 0);
}

static void an_allocation_that_fails_gets_what_empty_slabs_have(void **state)
{
    (void)state;
    taken page = take(INDEX_PAGE_BYTES);
    taken other = take(ROW_PAGE_BYTES);
    give(page, INDEX_PAGE_BYTES);
    failing_bytes = 4096;
    until_failure = 1;
    const uint64_t released = n_released;
    void *memory = kvf_device_alloc(small_device, KVF_MEMORY_SCRATCH, KVF_PLACE_DEVICE, 4096);
    assert_non_null(memory); /* the second time, .. */
    assert_int_equal(n_released - released, 1);
    until_failure = 1;
    assert_null(kvf_device_alloc(small_device, KVF_MEMORY_SCRATCH, KVF_PLACE_DEVICE, 4096));
    assert_int_equal(n_released - released, 1); /* .. and there is no empty one any more */
    failing_bytes = slab_bytes_of(INDEX_PAGE_BYTES);
    until_failure = 1;
    page = take(INDEX_PAGE_BYTES);
    assert_null(page.page);
    assert_null(page.slab);
    assert_int_equal(small_device->live_bytes[KVF_MEMORY_POOL],
                     slab_bytes_of(ROW_PAGE_BYTES) - ROW_PAGE_BYTES);
    kvf_device_release(small_device, KVF_MEMORY_SCRATCH, memory, 4096);
    give(other, ROW_PAGE_BYTES);
    kvf_device_trim(small_device);
    assert_int_equal(live_bytes(), 0);
}

/* ---- Sessions ---------------------------------------------------------------------------- */

/* n more tokens; the most pages of that size that it ever held. */
static void feed(kvf_session *session, uint32_t n, size_t page_bytes, uint64_t *most)
{
    static page_set set;
    int32_t tokens[SMALL_CHUNK] = {0};
    for (uint32_t i = 0; i < n; i++)
        tokens[i] = small_token(kvf_session_n_tokens(session) + i, 0);
    assert_int_equal(kvf_session_begin(session, tokens, n, NULL), KVF_OK);
    collect(&session, 1, &set);
    if (n_pages_of(&set, page_bytes) > *most)
        *most = n_pages_of(&set, page_bytes);
    kvf_session_drop(session);
    small_feed(session, n, 0);
}

/* A session alone has as many slabs as its pages ever needed, and no page is an allocation. */
static void pages_of_sessions_come_out_of_slabs(void **state)
{
    (void)state;
    static const struct {
        kvf_profile_id profile;
        size_t page_bytes;
        uint64_t least;
    } cases[] = {{KVF_PROFILE_FOLD, ROW_PAGE_BYTES, 17}, /* three slabs */
                 {KVF_PROFILE_FOLD, INDEX_PAGE_BYTES, 6},
                 {KVF_PROFILE_PACKED, ROW_PAGE_BYTES, 6}};
    static const uint32_t chunks[] = {1, 200, 63, 300, 1, 1, 129};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        for (int whole = 0; whole < 2; whole++) {
            const size_t page_bytes = cases[i].page_bytes;
            const size_t slab_bytes = slab_bytes_of(page_bytes);
            uint64_t most = 0;
            watched_bytes = whole ? slab_bytes : page_bytes;
            n_watched = 0;
            kvf_session *session = small_open(cases[i].profile, KVF_NO_CHECKPOINTS);
            for (size_t j = 0; j < sizeof chunks / sizeof *chunks; j++)
                feed(session, chunks[j], page_bytes, &most);
            assert_true(most >= cases[i].least);
            assert_int_equal(n_watched, whole ? kvf_ceil_div(most, slab_bytes / page_bytes) : 0);
            check_pages(&session, 1);
            kvf_session_close(session);
            assert_int_equal(live_bytes(), 0);
        }
}

/* Windows that a chunk let go are there for the next one, until somebody wants the memory. */
static void chunks_take_what_those_before_gave_back(void **state)
{
    (void)state;
    small_device->slab_bytes = KVF_HOST_SLAB_BYTES; /* 8 pages of f32 rows, as windows have here */
    kvf_session *session = small_open(KVF_PROFILE_PACKED, KVF_NO_CHECKPOINTS);
    small_feed(session, 300, 0);
    small_feed(session, 300, 0);
    watched_bytes = slab_bytes_of(64 * 512 * sizeof(float));
    n_watched = 0;
    n_watched_back = 0;
    for (int i = 0; i < 4; i++)
        small_feed(session, 300, 0);
    assert_int_equal(n_watched, 0);
    assert_int_equal(n_watched_back, 0);
    check_pages(&session, 1);
    assert_true(n_watched_back > 0);
    kvf_session_close(session);
    assert_int_equal(live_bytes(), 0);
    small_device->slab_bytes = SLAB_BYTES;
}

/* Slabs that sessions share: what one leaves in them is the next one's. */
static void who_comes_takes_what_who_went_left(void **state)
{
    (void)state;
    kvf_session *sessions[3];
    for (int i = 0; i < 3; i++)
        sessions[i] = small_open(KVF_PROFILE_FOLD, KVF_NO_CHECKPOINTS);
    for (int j = 0; j < 20; j++)
        for (int i = 0; i < 3; i++)
            small_feed(sessions[i], 32, (uint32_t)i);
    check_pages(sessions, 3);
    watched_bytes = slab_bytes_of(ROW_PAGE_BYTES);
    for (int round = 0; round < 3; round++) {
        const uint64_t live = live_bytes();
        const uint64_t pool = small_device->live_bytes[KVF_MEMORY_POOL];
        kvf_session_close(sessions[round]);
        sessions[round] = NULL;
        check_pages(sessions, 3);
        assert_true(small_device->live_bytes[KVF_MEMORY_POOL] > pool);
        n_watched = 0;
        sessions[round] = small_open(KVF_PROFILE_FOLD, KVF_NO_CHECKPOINTS);
        for (int j = 0; j < 20; j++)
            small_feed(sessions[round], 32, (uint32_t)round);
        check_pages(sessions, 3);
        assert_true(n_watched <= 1); /* a page more than before while a chunk is open */
        assert_true(live_bytes() <= live + watched_bytes);
    }
    for (int i = 0; i < 3; i++)
        kvf_session_close(sessions[i]);
    assert_int_equal(live_bytes(), 0);
}

/* Cut back to nothing it gives back all but its states, in any order of the others. */
static void slabs_go_when_sessions_are_cut_back_or_closed(void **state)
{
    (void)state;
    kvf_session *sessions[3] = {small_open(KVF_PROFILE_FOLD, 8)};
    kvf_error error;
    const uint64_t opened = live_bytes();
    for (int i = 0; i < 8; i++)
        small_feed(sessions[0], 128, 0);
    assert_int_equal(kvf_session_fork(sessions[0], &sessions[1], &error), KVF_OK);
    assert_int_equal(kvf_session_fork(sessions[0], &sessions[2], &error), KVF_OK);
    for (int i = 0; i < 3; i++)
        small_feed(sessions[i], 70, (uint32_t)i);
    check_pages(sessions, 3);
    kvf_session_close(sessions[1]);
    sessions[1] = NULL;
    check_pages(sessions, 3);
    kvf_replay replay;
    for (int i = 0; i < 3; i += 2) {
        assert_int_equal(kvf_session_truncate(sessions[i], 0, &replay, &error), KVF_OK);
        kvf_replay_free(&replay);
        check_pages(sessions, 3);
    }
    kvf_session_close(sessions[2]);
    const uint64_t scratch = small_device->live_bytes[KVF_MEMORY_SCRATCH];
    assert_int_equal(live_bytes(), opened + scratch);
    kvf_session_close(sessions[0]);
    assert_int_equal(live_bytes(), 0);
}

/* ---- Devices with a limit ------------------------------------------------------------ */

typedef struct limited {
    uint32_t chunk_tokens; /* 1: nothing is kept to go back to but windows' last pages */
    uint64_t max_tokens;
    bool alone;
} limited;

static kvf_session_options options_of(const limited *l, uint64_t max_tokens)
{
    return (kvf_session_options){.profile = KVF_PROFILE_LEGACY,
                                 .max_tokens = max_tokens,
                                 .chunk_tokens = l->chunk_tokens,
                                 .backend = kvf_device_backend_name(small_device),
                                 .checkpoint_count = l->chunk_tokens > 1 ? 2 : KVF_NO_CHECKPOINTS};
}

static kvf_status open_limited(const limited *l, uint64_t max_tokens, kvf_session **session,
                               kvf_error *error)
{
    const kvf_session_options options = options_of(l, max_tokens);
    return kvf_session_open(small_device, &small_geometry, &options, session, error);
}

static uint64_t planned_bytes(const limited *l)
{
    const kvf_session_options options = options_of(l, l->max_tokens);
    kvf_plan plan;
    assert_int_equal(kvf_plan_make(&small_geometry, &options, l->max_tokens, &plan, NULL), KVF_OK);
    const uint64_t bytes = plan.allocated_bytes + plan.table_bytes + plan.checkpoint_bytes +
                           plan.chunk_undo_bytes + plan.pool_bytes;
    kvf_plan_free(&plan);
    return bytes;
}

/* Opens the largest context that fits, and fills it; the limit holds, scratch aside. */
static void fill_what_fits(const limited *l)
{
    kvf_session *session;
    kvf_error error;
    unsigned long long fits = 0;
    small_device->memory_bytes = live_bytes() + planned_bytes(l);
    assert_int_equal(open_limited(l, 1 << 20, &session, &error), KVF_OUT_OF_MEMORY);
    assert_int_equal(sscanf(strstr(error.message, "fits is"), "fits is %llu", &fits), 1);
    assert_true(l->alone ? fits >= l->max_tokens : fits > l->max_tokens); /* in free pages */
    assert_int_equal(open_limited(l, fits + 1, &session, &error), KVF_OUT_OF_MEMORY);
    assert_int_equal(open_limited(l, fits, &session, &error), KVF_OK);
    small_device->memory_bytes += 8 << 20;
    small_feed(session, 1, 0);
    small_device->memory_bytes -= (8 << 20) - kvf_session_scratch_bytes(session);
    while (kvf_session_n_tokens(session) < fits) {
        const uint64_t left = fits - kvf_session_n_tokens(session);
        small_feed(session, left < l->chunk_tokens ? (uint32_t)left : l->chunk_tokens, 0);
    }
    kvf_session_close(session);
    small_device->memory_bytes = 0;
}

static void what_a_device_promises_it_has(void **state)
{
    (void)state;
    static const limited beside = {SMALL_CHUNK, 500, false};
    static const limited alone = {1, 250, true};
    kvf_session *others[4];
    small_device->slab_bytes = small_device->backend->slab_bytes; /* which the plan counts with */
    fill_what_fits(&alone);
    assert_int_equal(live_bytes(), 0);
    for (int j = 0; j < 4; j++)
        others[j] = small_open(KVF_PROFILE_LEGACY, 2);
    for (int k = 0; k < 5; k++)
        for (int j = 0; j < 4; j++)
            small_feed(others[j], 64, (uint32_t)j);
    kvf_session_close(others[1]);
    kvf_session_close(others[3]);
    /* But where all pages are too large for slabs: of far, even those of index rows. */
    if (slab_bytes_of(64 * 128 * sizeof(float)) > 0)
        assert_true(small_device->live_bytes[KVF_MEMORY_POOL] > 0);
    fill_what_fits(&beside);
    kvf_session_close(others[0]);
    kvf_session_close(others[2]);
    assert_int_equal(live_bytes(), 0);
    small_device->slab_bytes = SLAB_BYTES;
}

/* ---- Slabs that cannot be had --------------------------------------------------------------- */

typedef kvf_status action(kvf_session *session, kvf_error *error);

static kvf_status act_chunk(kvf_session *session, kvf_error *error)
{
    int32_t tokens[SMALL_CHUNK];
    for (uint32_t i = 0; i < SMALL_CHUNK; i++)
        tokens[i] = small_token(kvf_session_n_tokens(session) + i, 0);
    return small_chunk(session, tokens, SMALL_CHUNK, error);
}

static kvf_status act_copy(kvf_session *session, kvf_error *error)
{
    int32_t token = small_token(kvf_session_n_tokens(session), 0);
    return small_chunk(session, &token, 1, error);
}

static kvf_status act_truncate(kvf_session *session, kvf_error *error)
{
    kvf_replay replay;
    const kvf_status status = kvf_session_truncate(session, 100, &replay, error);
    kvf_replay_free(&replay);
    return status;
}

/* Each slab that the action needs cannot be had once: it is undone, then it is done. */
static uint32_t fail_at_each_slab(action *act, size_t page_bytes)
{
    kvf_session *sessions[3];
    kvf_error error;
    kvf_status status = KVF_OUT_OF_MEMORY;
    uint32_t n_failures = 0;
    for (int i = 0; i < 2; i++) {
        sessions[i] = small_open(KVF_PROFILE_FOLD, 4);
        small_feed(sessions[i], 256, 0);
        small_feed(sessions[i], 3, 0);
    }
    assert_int_equal(kvf_session_fork(sessions[0], &sessions[2], &error), KVF_OK);
    failing_bytes = slab_bytes_of(page_bytes);
    for (;;) {
        check_pages(sessions, 3); /* and no empty slab helps out */
        until_failure = n_failures + 1;
        status = act(sessions[0], &error);
        if (until_failure == 0 && status == KVF_OK)
            fail_msg("a slab could not be had, and nobody said so");
        until_failure = 0;
        if (status == KVF_OK)
            break;
        n_failures++;
        assert_int_equal(status, KVF_OUT_OF_MEMORY);
        assert_non_null(strstr(error.message, "no memory"));
        assert_same_session(sessions[1], sessions[0]);
    }
    assert_same_session(sessions[1], sessions[2]);
    check_pages(sessions, 3);
    for (int i = 0; i < 3; i++)
        kvf_session_close(sessions[(i + 1) % 3]);
    assert_int_equal(live_bytes(), 0);
    return n_failures;
}

static void a_slab_that_cannot_be_had_undoes_the_step(void **state)
{
    (void)state;
    assert_true(fail_at_each_slab(act_chunk, ROW_PAGE_BYTES) > 0);
    fail_at_each_slab(act_chunk, INDEX_PAGE_BYTES);
    assert_true(fail_at_each_slab(act_copy, ROW_PAGE_BYTES) > 0);
    fail_at_each_slab(act_copy, INDEX_PAGE_BYTES);
    small_device->slab_bytes = KVF_HOST_SLAB_BYTES;
    fail_at_each_slab(act_truncate, 16384);
    fail_at_each_slab(act_copy, 65536);
    small_device->slab_bytes = SLAB_BYTES;
}

/* ---- Anything, a thousand times ---------------------------------------------------------------
 */

static uint32_t random_below(uint64_t *state, uint32_t n)
{
    *state = *state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)((*state >> 33) % n);
}

/* One step of one of the sessions, which may come to be or to be no more. */
static void step(kvf_session **sessions, uint32_t n_sessions, uint64_t *random)
{
    static const uint32_t chunks[] = {1, 1, 1, 2, 3, 20, 130};
    kvf_session **session = &sessions[random_below(random, n_sessions)];
    kvf_session **other = &sessions[random_below(random, n_sessions)];
    kvf_replay replay;
    kvf_error error;
    const uint32_t what = random_below(random, 16);
    if (!*session) {
        *session = small_open((kvf_profile_id)random_below(random, KVF_PROFILE_COUNT),
                              random_below(random, 2) ? KVF_NO_CHECKPOINTS : 2);
    } else if (what == 0) {
        kvf_session_close(*session);
        *session = NULL;
    } else if (what < 3 && !*other) {
        assert_int_equal(kvf_session_fork(*session, other, &error), KVF_OK);
    } else if (what < 5) {
        const uint64_t n_tokens = kvf_session_n_tokens(*session);
        const uint64_t to = random_below(random, (uint32_t)n_tokens + 1);
        const kvf_status status = kvf_session_truncate(*session, to, &replay, &error);
        assert_true(status == KVF_OK || status == KVF_NOT_COVERED);
        kvf_replay_free(&replay);
    } else {
        small_feed(*session, chunks[random_below(random, 7)], random_below(random, 3));
    }
}

static void whatever_sessions_do_the_counters_are_exact(void **state)
{
    (void)state;
    enum { N = 6 };
    kvf_session *sessions[N] = {NULL};
    uint64_t random = 1;
    /* far is slow. */
    const int n_steps = small_device->backend->addresses_host_memory ? 1000 : 150;
    for (int i = 0; i < n_steps; i++) {
        step(sessions, N, &random);
        live_bytes();
        if (i % 3 == 0)
            check_pages(sessions, N);
    }
    for (int i = 0; i < N; i++) {
        kvf_session_close(sessions[i]);
        sessions[i] = NULL;
        check_pages(sessions, N);
    }
    for (int i = 0; i < KVF_MEMORY_CLASS_COUNT; i++)
        assert_int_equal(small_device->live_bytes[i], 0);
    assert_int_equal(given_bytes, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_page_that_is_free_is_taken_before_a_slab_is),
        cmocka_unit_test(each_size_has_slabs_of_its_own_and_large_pages_none),
        cmocka_unit_test(there_may_be_pages_of_any_number_of_sizes),
        cmocka_unit_test(an_allocation_that_fails_gets_what_empty_slabs_have),
        cmocka_unit_test(pages_of_sessions_come_out_of_slabs),
        cmocka_unit_test(chunks_take_what_those_before_gave_back),
        cmocka_unit_test(who_comes_takes_what_who_went_left),
        cmocka_unit_test(slabs_go_when_sessions_are_cut_back_or_closed),
        cmocka_unit_test(what_a_device_promises_it_has),
        cmocka_unit_test(a_slab_that_cannot_be_had_undoes_the_step),
        cmocka_unit_test(whatever_sessions_do_the_counters_are_exact),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
