/*
 * Every allocation of open, of chunks, of batches, of fork, of truncate, of a checkpoint and of a
 * restore with checkpoints fails once: each time an error, nothing is lost or changed, and the next
 * try succeeds.
 */
#include "cache/compare.h"
#include "cache/failing_malloc.h"
#include "cache/small_batch.h"

#include <stdio.h>
#include <unistd.h>

#ifdef KVF_TEST_WRAPPED_MALLOC

static void open_fails_at_every_allocation(void **state)
{
    (void)state;
    const kvf_session_options options = {
        .profile = KVF_PROFILE_FOLD, .max_tokens = 8192, .chunk_tokens = SMALL_CHUNK};
    const malloc_counts before = failing_malloc_count(small_device);
    kvf_session *session;
    kvf_error error;
    kvf_status status = KVF_OUT_OF_MEMORY;
    uint64_t n = 0;
    for (; status != KVF_OK; n++) {
        failing_malloc_begin(n);
        status = kvf_session_open(small_device, &small_geometry, &options, &session, &error);
        if (!failing_malloc_end())
            break;
        assert_int_equal(status, KVF_OUT_OF_MEMORY);
        assert_true(strlen(error.message) > 0);
        assert_null(session);
        failing_malloc_expect(small_device, &before);
    }
    assert_int_equal(status, KVF_OK);
    assert_true(n >= 20); /* tables, states, header, logits */
    kvf_session_close(session);
    failing_malloc_expect(small_device, &before);
}

/* One chunk, failing at every allocation; then a clean session goes the same way. */
static uint64_t fail_chunk(kvf_session *session, kvf_session *clean, uint32_t n_tokens,
                           uint32_t text)
{
    int32_t tokens[SMALL_CHUNK];
    kvf_error error;
    kvf_status status = KVF_OUT_OF_MEMORY;
    const uint64_t first = kvf_session_n_tokens(session);
    const uint64_t others =
        small_device->live_bytes[KVF_MEMORY_CHECKPOINT] - kvf_session_checkpoint_bytes(session);
    uint64_t n = 0;
    for (uint32_t i = 0; i < n_tokens; i++)
        tokens[i] = small_token(first + i, text);
    for (;; n++) {
        kvf_device_trim(small_device); /* no empty slab helps out */
        failing_malloc_begin(n);
        status = small_chunk(session, tokens, n_tokens, &error);
        if (!failing_malloc_end())
            break;
        assert_int_equal(status, KVF_OUT_OF_MEMORY);
        assert_true(strlen(error.message) > 0);
        /* nothing but checkpoints is held there: neither a chunk's nor one not taken */
        assert_int_equal(small_device->live_bytes[KVF_MEMORY_CHECKPOINT],
                         others + kvf_session_checkpoint_bytes(session));
        assert_same_session(clean, session);
    }
    assert_int_equal(status, KVF_OK);
    small_feed(clean, n_tokens, text);
    assert_same_session(clean, session);
    return n;
}

static void chunks_fail_at_every_allocation(void **state)
{
    (void)state;
    static const uint32_t chunks[] = {1, 2, 125, 128, 1, 7, 300, 76, 1, 255};
    for (int profile = 0; profile < KVF_PROFILE_COUNT; profile++) {
        const malloc_counts before = failing_malloc_count(small_device);
        kvf_session *session = small_open((kvf_profile_id)profile, 2);
        kvf_session *clean = small_open((kvf_profile_id)profile, 2);
        uint64_t n = 0;
        for (size_t i = 0; i < sizeof chunks / sizeof *chunks; i++)
            n += fail_chunk(session, clean, chunks[i], 0);
        assert_true(n > 100);
        kvf_session_close(session);
        kvf_session_close(clean);
        failing_malloc_expect(small_device, &before);
    }
}

/* fork, and then chunks of the fork and of the session that copy what they share. */
static void fork_fails_at_every_allocation(void **state)
{
    (void)state;
    const malloc_counts before = failing_malloc_count(small_device);
    kvf_session *session = small_open(KVF_PROFILE_FOLD, 2);
    kvf_session *clean = small_open(KVF_PROFILE_FOLD, 2);
    kvf_session *fork;
    kvf_error error;
    kvf_status status = KVF_OUT_OF_MEMORY;
    small_feed(session, 256, 0);
    small_feed(session, 3, 0);
    small_feed(clean, 256, 0);
    small_feed(clean, 3, 0);
    const malloc_counts opened = failing_malloc_count(small_device);
    uint64_t n = 0;
    for (;; n++) {
        failing_malloc_begin(n);
        status = kvf_session_fork(session, &fork, &error);
        if (!failing_malloc_end())
            break;
        assert_int_equal(status, KVF_OUT_OF_MEMORY);
        assert_true(strlen(error.message) > 0);
        assert_null(fork);
        failing_malloc_expect(small_device, &opened);
        assert_same_session(clean, session);
    }
    assert_int_equal(status, KVF_OK);
    assert_true(n >= 15);
    assert_true(fail_chunk(fork, clean, 5, 1) >= 10);
    kvf_session_close(clean);
    clean = small_open(KVF_PROFILE_FOLD, 2);
    small_feed(clean, 256, 0);
    small_feed(clean, 3, 0);
    assert_same_session(clean, session);
    fail_chunk(session, clean, 9, 0);
    kvf_session_close(session);
    kvf_session_close(clean);
    kvf_session_close(fork);
    failing_malloc_expect(small_device, &before);
}

static void truncate_fails_at_every_allocation(void **state)
{
    (void)state;
    static const uint64_t places[] = {0, 128, 300, 500, 600};
    for (size_t i = 0; i < sizeof places / sizeof *places; i++) {
        const malloc_counts before = failing_malloc_count(small_device);
        kvf_session *session = small_open(KVF_PROFILE_FOLD, 8);
        kvf_session *clean = small_open(KVF_PROFILE_FOLD, 8);
        kvf_replay replay;
        kvf_error error;
        kvf_status status = KVF_OUT_OF_MEMORY;
        for (int j = 0; j < 5; j++) {
            small_feed(session, 128, 0);
            small_feed(clean, 128, 0);
        }
        const malloc_counts fed = failing_malloc_count(small_device);
        uint64_t n = 0;
        for (;; n++) {
            failing_malloc_begin(n);
            status = kvf_session_truncate(session, places[i], &replay, &error);
            if (!failing_malloc_end())
                break;
            assert_int_equal(status, KVF_OUT_OF_MEMORY);
            assert_true(strlen(error.message) > 0);
            failing_malloc_expect(small_device, &fed);
            assert_same_session(clean, session);
        }
        assert_int_equal(status, KVF_OK);
        assert_true(n >= 5);
        const uint64_t reached = places[i] / 128 * 128;
        assert_int_equal(replay.first_token, reached);
        assert_int_equal(kvf_session_n_tokens(session), reached);
        kvf_replay_free(&replay);
        kvf_session_close(clean);
        clean = small_open(KVF_PROFILE_FOLD, 8);
        for (uint64_t at = 0; at < reached; at += 128)
            small_feed(clean, 128, 0);
        assert_same_session(clean, session);
        fail_chunk(session, clean, 40, 2);
        kvf_session_close(session);
        kvf_session_close(clean);
        failing_malloc_expect(small_device, &before);
    }
}

#define N_ITEMS 3

/* Forks, so that everything that they write has to be copied; `more`: with the batch's tokens. */
static void fork_all(kvf_session *const *sessions, kvf_session **forks, const uint32_t *more)
{
    kvf_error error;
    for (uint32_t i = 0; i < N_ITEMS; i++) {
        if (kvf_session_fork(sessions[i], &forks[i], &error) != KVF_OK)
            fail_msg("%s", error.message);
        if (more)
            small_feed(forks[i], more[i], i);
    }
}

static void close_all(kvf_session **sessions)
{
    for (uint32_t i = 0; i < N_ITEMS; i++)
        kvf_session_close(sessions[i]);
}

/* One item says so and is as it was, the others are taken. */
static void batches_fail_at_every_allocation(void **state)
{
    (void)state;
    static const uint32_t held[N_ITEMS] = {70, 126, 1};
    static const uint32_t more[N_ITEMS] = {60, 2, 1};
    kvf_session *base[N_ITEMS];
    kvf_session *fed[N_ITEMS];
    uint32_t n_failures[N_ITEMS] = {0};
    const malloc_counts before = failing_malloc_count(small_device);
    for (uint32_t i = 0; i < N_ITEMS; i++) {
        base[i] = small_open(KVF_PROFILE_FOLD, 2);
        small_feed(base[i], held[i], i);
    }
    fork_all(base, fed, more);
    kvf_batch *batch = small_open_batch(KVF_PROFILE_FOLD, N_ITEMS);
    const malloc_counts opened = failing_malloc_count(small_device);
    bool failed = true;
    for (uint64_t n = 0; failed; n++) {
        kvf_session *forks[N_ITEMS];
        small_part parts[N_ITEMS];
        kvf_batch_item items[N_ITEMS];
        kvf_error error;
        uint32_t n_failed = 0;
        fork_all(base, forks, NULL);
        for (uint32_t i = 0; i < N_ITEMS; i++)
            parts[i] = (small_part){forks[i], more[i], i};
        small_items(parts, N_ITEMS, items);
        failing_malloc_begin(n);
        const kvf_status status = small_batch(batch, items, N_ITEMS, SMALL_CHUNK, &error);
        failed = failing_malloc_end();
        assert_int_equal(status, KVF_OK);
        for (uint32_t i = 0; i < N_ITEMS; i++) {
            const bool taken = items[i].status == KVF_OK;
            assert_true(taken || items[i].status == KVF_OUT_OF_MEMORY);
            assert_same_session(forks[i], taken ? fed[i] : base[i]);
            n_failed += !taken;
            n_failures[i] += !taken;
        }
        assert_int_equal(n_failed, failed);
        close_all(forks);
        failing_malloc_expect(small_device, &opened);
    }
    for (uint32_t i = 0; i < N_ITEMS; i++)
        assert_true(n_failures[i] >= (small_device->slab_bytes ? 1 : 20));
    kvf_batch_close(batch);
    close_all(base);
    close_all(fed);
    failing_malloc_expect(small_device, &before);
}

static void a_checkpoint_fails_at_every_allocation(void **state)
{
    (void)state;
    kvf_session *session = small_open(KVF_PROFILE_FOLD, KVF_NO_CHECKPOINTS);
    kvf_session *clean = small_open(KVF_PROFILE_FOLD, KVF_NO_CHECKPOINTS);
    kvf_error error;
    small_feed(session, 128, 0);
    small_feed(clean, 128, 0);
    const malloc_counts fed = failing_malloc_count(small_device);
    uint64_t n = 0;
    for (;; n++) {
        failing_malloc_begin(n);
        const kvf_status status = kvf_session_checkpoint(session, &error);
        if (!failing_malloc_end()) {
            assert_int_equal(status, KVF_OK);
            break;
        }
        assert_int_equal(status, KVF_OUT_OF_MEMORY);
        assert_int_equal(kvf_session_checkpoints(session, NULL, 0), 0);
        failing_malloc_expect(small_device, &fed);
        assert_same_session(clean, session);
    }
    /* Its record, a page's, the page, logits; the page may lie in a slab that is there. */
    assert_true(n >= (small_device->slab_bytes ? 3 : 4));
    small_feed(session, 9, 0);
    assert_int_equal(kvf_session_truncate(session, 128, NULL, &error), KVF_OK);
    assert_same_session(clean, session);
    kvf_session_close(session);
    kvf_session_close(clean);
}

/* Of several, the memory of one in the middle too. */
static void a_restore_of_checkpoints_fails_at_every_allocation(void **state)
{
    (void)state;
    const kvf_save_options every = {.checkpoint_spacing_tokens = 1};
    kvf_session *session = small_open(KVF_PROFILE_FOLD, 8);
    kvf_session *restored = NULL;
    kvf_error error;
    char path[64];
    snprintf(path, sizeof path, "/tmp/kvfold-allocation-%d.kvfold", (int)getpid());
    for (int i = 0; i < 4; i++)
        small_feed(session, 128, 0);
    small_feed(session, 5, 0);
    assert_int_equal(kvf_session_save(session, path, &every, NULL, &error), KVF_OK);
    const malloc_counts saved = failing_malloc_count(small_device);
    for (uint64_t n = 0; !restored; n++) {
        failing_malloc_begin(n);
        const kvf_status status = kvf_session_load(small_device, path, NULL, &restored, &error);
        assert_true(failing_malloc_end() == !restored);
        assert_int_equal(status, restored ? KVF_OK : KVF_OUT_OF_MEMORY);
        if (!restored)
            failing_malloc_expect(small_device, &saved);
    }
    assert_int_equal(kvf_session_checkpoints(restored, NULL, 0), 4);
    assert_same_session(session, restored);
    kvf_session_close(restored);
    kvf_session_close(session);
    remove(path);
}

static int setup_without_slabs(void **state)
{
    const int failed = small_batch_setup(state);
    if (failed == 0)
        small_device->slab_bytes = 0;
    return failed;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(open_fails_at_every_allocation),
        cmocka_unit_test(chunks_fail_at_every_allocation),
        cmocka_unit_test(fork_fails_at_every_allocation),
        cmocka_unit_test(truncate_fails_at_every_allocation),
        cmocka_unit_test(batches_fail_at_every_allocation),
        cmocka_unit_test(a_checkpoint_fails_at_every_allocation),
        cmocka_unit_test(a_restore_of_checkpoints_fails_at_every_allocation),
    };
    return cmocka_run_group_tests_name("pages in slabs", tests, small_batch_setup,
                                       small_batch_teardown) +
           cmocka_run_group_tests_name("each page alone", tests, setup_without_slabs,
                                       small_batch_teardown);
}

#else

int main(void)
{
    print_message("this linker cannot put functions before malloc: nothing tested\n");
    return 0;
}

#endif
