/*
 * Every allocation of open, of chunks, of fork and of truncate fails once: each time an
 * error, nothing is lost or changed, and the next try succeeds.
 */
#include "cache/compare.h"
#include "cache/failing_malloc.h"
#include "cache/small.h"

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

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(open_fails_at_every_allocation),
        cmocka_unit_test(chunks_fail_at_every_allocation),
        cmocka_unit_test(fork_fails_at_every_allocation),
        cmocka_unit_test(truncate_fails_at_every_allocation),
    };
    return cmocka_run_group_tests(tests, small_setup, small_teardown);
}

#else

int main(void)
{
    print_message("this linker cannot put functions before malloc: nothing tested\n");
    return 0;
}

#endif
