/*
 * Every allocation of open, of chunks, of fork and of truncate fails once: each time an
 * error, nothing is lost or changed, and the next try succeeds. The linker puts the
 * functions below before malloc and the others (tests/CMakeLists.txt).
 */
#include "cache/compare.h"
#include "cache/small.h"

#ifdef KVF_TEST_WRAPPED_MALLOC

static kvf_device *device;
static kvf_geometry geometry;

/* ---- Allocations that fail ------------------------------------------------------ */

static long until_failure = -1; /* allocations that still succeed; negative: all do */
static long n_live;             /* allocations not freed, of this program and the library */
static bool failed;

static bool fails(void)
{
    if (until_failure < 0 || until_failure-- > 0)
        return false;
    failed = true;
    return true;
}

/* Declared for the linker's names. */
void *__real_malloc(size_t bytes);
void *__real_calloc(size_t n, size_t bytes);
void *__real_realloc(void *memory, size_t bytes);
int __real_posix_memalign(void **memory, size_t alignment, size_t bytes);
void __real_free(void *memory);
void *__wrap_malloc(size_t bytes);
void *__wrap_calloc(size_t n, size_t bytes);
void *__wrap_realloc(void *memory, size_t bytes);
int __wrap_posix_memalign(void **memory, size_t alignment, size_t bytes);
void __wrap_free(void *memory);

void *__wrap_malloc(size_t bytes)
{
    void *memory = fails() ? NULL : __real_malloc(bytes);
    n_live += memory != NULL;
    return memory;
}

void *__wrap_calloc(size_t n, size_t bytes)
{
    void *memory = fails() ? NULL : __real_calloc(n, bytes);
    n_live += memory != NULL;
    return memory;
}

void *__wrap_realloc(void *memory, size_t bytes)
{
    void *moved = fails() ? NULL : __real_realloc(memory, bytes);
    n_live += moved != NULL && memory == NULL;
    return moved;
}

int __wrap_posix_memalign(void **memory, size_t alignment, size_t bytes)
{
    if (fails())
        return 12; /* ENOMEM */
    const int result = __real_posix_memalign(memory, alignment, bytes);
    n_live += result == 0;
    return result;
}

void __wrap_free(void *memory)
{
    n_live -= memory != NULL;
    __real_free(memory);
}

/* ---- What is live --------------------------------------------------------------- */

typedef struct counts {
    long n_live;
    uint64_t bytes[KVF_MEMORY_CLASS_COUNT];
} counts;

static counts count(void)
{
    counts now = {.n_live = n_live};
    memcpy(now.bytes, device->live_bytes, sizeof now.bytes);
    return now;
}

static void check_counts(const counts *before)
{
    const counts now = count();
    assert_int_equal(now.n_live, before->n_live);
    assert_memory_equal(now.bytes, before->bytes, sizeof now.bytes);
}

/* ---- Tests ---------------------------------------------------------------------- */

static void open_fails_at_every_allocation(void **state)
{
    (void)state;
    const kvf_session_options options = {
        .profile = KVF_PROFILE_FOLD, .max_tokens = 8192, .chunk_tokens = SMALL_CHUNK};
    const counts before = count();
    kvf_session *session;
    kvf_error error;
    kvf_status status = KVF_OUT_OF_MEMORY;
    long n = 0;
    for (; status != KVF_OK; n++) {
        until_failure = n;
        failed = false;
        status = kvf_session_open(device, &geometry, &options, &session, &error);
        until_failure = -1;
        if (!failed)
            break;
        assert_int_equal(status, KVF_OUT_OF_MEMORY);
        assert_true(strlen(error.message) > 0);
        assert_null(session);
        check_counts(&before);
    }
    assert_int_equal(status, KVF_OK);
    assert_true(n >= 20); /* tables, states, header, logits */
    kvf_session_close(session);
    check_counts(&before);
}

/* One chunk, failing at every allocation; then a clean session goes the same way. */
static long fail_chunk(kvf_session *session, kvf_session *clean, uint32_t n_tokens, uint32_t text)
{
    int32_t tokens[SMALL_CHUNK];
    kvf_error error;
    kvf_status status = KVF_OUT_OF_MEMORY;
    const uint64_t first = kvf_session_n_tokens(session);
    const uint64_t others =
        device->live_bytes[KVF_MEMORY_CHECKPOINT] - kvf_session_checkpoint_bytes(session);
    long n = 0;
    for (uint32_t i = 0; i < n_tokens; i++)
        tokens[i] = small_token(first + i, text);
    for (;; n++) {
        until_failure = n;
        failed = false;
        status = small_chunk(session, &geometry, tokens, n_tokens, &error);
        until_failure = -1;
        if (!failed)
            break;
        assert_int_equal(status, KVF_OUT_OF_MEMORY);
        assert_true(strlen(error.message) > 0);
        /* nothing but checkpoints is held there: neither a chunk's nor one not taken */
        assert_int_equal(device->live_bytes[KVF_MEMORY_CHECKPOINT],
                         others + kvf_session_checkpoint_bytes(session));
        assert_same_session(clean, session);
    }
    assert_int_equal(status, KVF_OK);
    small_feed(clean, &geometry, n_tokens, text);
    assert_same_session(clean, session);
    return n;
}

static void chunks_fail_at_every_allocation(void **state)
{
    (void)state;
    static const uint32_t chunks[] = {1, 2, 125, 128, 1, 7, 300, 76, 1, 255};
    for (int profile = 0; profile < KVF_PROFILE_COUNT; profile++) {
        const counts before = count();
        kvf_session *session = small_open(device, &geometry, (kvf_profile_id)profile, 2);
        kvf_session *clean = small_open(device, &geometry, (kvf_profile_id)profile, 2);
        long n = 0;
        for (size_t i = 0; i < sizeof chunks / sizeof *chunks; i++)
            n += fail_chunk(session, clean, chunks[i], 0);
        assert_true(n > 100);
        kvf_session_close(session);
        kvf_session_close(clean);
        check_counts(&before);
    }
}

/* fork, and then chunks of the fork and of the session that copy what they share. */
static void fork_fails_at_every_allocation(void **state)
{
    (void)state;
    const counts before = count();
    kvf_session *session = small_open(device, &geometry, KVF_PROFILE_FOLD, 2);
    kvf_session *clean = small_open(device, &geometry, KVF_PROFILE_FOLD, 2);
    kvf_session *fork;
    kvf_error error;
    kvf_status status = KVF_OUT_OF_MEMORY;
    small_feed(session, &geometry, 256, 0);
    small_feed(session, &geometry, 3, 0);
    small_feed(clean, &geometry, 256, 0);
    small_feed(clean, &geometry, 3, 0);
    const counts opened = count();
    long n = 0;
    for (;; n++) {
        until_failure = n;
        failed = false;
        status = kvf_session_fork(session, &fork, &error);
        until_failure = -1;
        if (!failed)
            break;
        assert_int_equal(status, KVF_OUT_OF_MEMORY);
        assert_true(strlen(error.message) > 0);
        assert_null(fork);
        check_counts(&opened);
        assert_same_session(clean, session);
    }
    assert_int_equal(status, KVF_OK);
    assert_true(n >= 15);
    assert_true(fail_chunk(fork, clean, 5, 1) >= 10);
    kvf_session_close(clean);
    clean = small_open(device, &geometry, KVF_PROFILE_FOLD, 2);
    small_feed(clean, &geometry, 256, 0);
    small_feed(clean, &geometry, 3, 0);
    assert_same_session(clean, session);
    fail_chunk(session, clean, 9, 0);
    kvf_session_close(session);
    kvf_session_close(clean);
    kvf_session_close(fork);
    check_counts(&before);
}

static void truncate_fails_at_every_allocation(void **state)
{
    (void)state;
    static const uint64_t places[] = {0, 128, 300, 500, 600};
    for (size_t i = 0; i < sizeof places / sizeof *places; i++) {
        const counts before = count();
        kvf_session *session = small_open(device, &geometry, KVF_PROFILE_FOLD, 8);
        kvf_session *clean = small_open(device, &geometry, KVF_PROFILE_FOLD, 8);
        kvf_replay replay;
        kvf_error error;
        kvf_status status = KVF_OUT_OF_MEMORY;
        for (int j = 0; j < 5; j++) {
            small_feed(session, &geometry, 128, 0);
            small_feed(clean, &geometry, 128, 0);
        }
        const counts fed = count();
        long n = 0;
        for (;; n++) {
            until_failure = n;
            failed = false;
            status = kvf_session_truncate(session, places[i], &replay, &error);
            until_failure = -1;
            if (!failed)
                break;
            assert_int_equal(status, KVF_OUT_OF_MEMORY);
            assert_true(strlen(error.message) > 0);
            check_counts(&fed);
            assert_same_session(clean, session);
        }
        assert_int_equal(status, KVF_OK);
        assert_true(n >= 5);
        const uint64_t reached = places[i] / 128 * 128;
        assert_int_equal(replay.first_token, reached);
        assert_int_equal(kvf_session_n_tokens(session), reached);
        kvf_replay_free(&replay);
        kvf_session_close(clean);
        clean = small_open(device, &geometry, KVF_PROFILE_FOLD, 8);
        for (uint64_t at = 0; at < reached; at += 128)
            small_feed(clean, &geometry, 128, 0);
        assert_same_session(clean, session);
        fail_chunk(session, clean, 40, 2);
        kvf_session_close(session);
        kvf_session_close(clean);
        check_counts(&before);
    }
}

static int setup(void **state)
{
    (void)state;
    geometry = small_geometry();
    return small_setup(&device);
}

static int teardown(void **state)
{
    (void)state;
    small_teardown(device);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(open_fails_at_every_allocation),
        cmocka_unit_test(chunks_fail_at_every_allocation),
        cmocka_unit_test(fork_fails_at_every_allocation),
        cmocka_unit_test(truncate_fails_at_every_allocation),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}

#else

int main(void)
{
    print_message("this linker cannot put functions before malloc: nothing tested\n");
    return 0;
}

#endif
