/*
 * Saving and restoring while the system fails: every call of it in turn, short writes, a
 * full disk, a power cut that loses what was not synced, and every allocation. Afterwards
 * the file is the old state or the new one, nothing leaked, and the session goes on.
 */
#include "failing_malloc.h"
#include "fake_disk.h"
#include "snapshot_support.h"

#include <sys/stat.h>

#define KEPT_OLD 1
#define KEPT_NEW 2

/* ---- The state of a file -------------------------------------------------------------- */

/* Which of two states the file holds; anything else fails the test. */
static int state_of(const char *path, uint64_t old_digest, uint64_t new_digest)
{
    const uint64_t digests[] = {new_digest, old_digest};
    return snap_find_state(path, digests, 2) == 0 ? KEPT_NEW : KEPT_OLD;
}

static bool exists(const char *path)
{
    struct stat info;
    return stat(path, &info) == 0;
}

/* A session of 250 tokens, saved twice so that the file has room for more. */
static kvf_session *saved_session(const char *path)
{
    kvf_session *session = snap_open(snap_device, KVF_PROFILE_FOLD, false);
    const kvf_save_options whole = {.whole = true};
    snap_grow(session, 250);
    assert_int_equal(kvf_session_save(session, path, &whole, NULL, NULL), KVF_OK);
    return session;
}

/*
 * Saves one more token on the failing disk, and looks what is left. Then the session is
 * saved on a good one and must be there. Returns the status of the failing save.
 */
static kvf_status save_on_disk(kvf_session *session, const char *path, bool whole, bool first)
{
    static const kvf_save_options anew = {.whole = true};
    const uint64_t old_digest = snap_digest(session, true);
    kvf_error error;
    if (first)
        remove(path);
    assert_int_equal(snap_step(session, 1, NULL, NULL), KVF_OK);
    const uint64_t new_digest = snap_digest(session, true);
    fake.calls = 0;
    fake.used_bytes = 0;
    const kvf_status status =
        kvf_session_save_to(session, path, whole || first ? &anew : NULL, NULL, &fake_disk, &error);
    assert_int_equal(snap_digest(session, true), new_digest);
    if (first && !exists(path))
        assert_int_not_equal(status, KVF_OK);
    else if (state_of(path, old_digest, new_digest) == KEPT_OLD)
        assert_int_not_equal(status, KVF_OK);
    if (status != KVF_OK)
        assert_true(error.message[0] != '\0');
    assert_int_equal(kvf_session_save(session, path, &anew, NULL, &error), KVF_OK);
    assert_int_equal(state_of(path, new_digest, new_digest), KEPT_NEW);
    return status;
}

static void any_call_may_fail(void **state)
{
    (void)state;
    const char *path = snap_path("calls");
    for (int mode = 0; mode < 3; mode++) {
        kvf_session *session = saved_session(path);
        unsigned n_failed = 0;
        uint64_t fail_at = 1;
        do {
            fake_disk_reset();
            fake.fail_at = fail_at;
            n_failed += save_on_disk(session, path, mode == 1, mode == 2) != KVF_OK;
        } while (fake.calls >= fail_at++);
        /* Nearly all of them matter: only cleaning up and the second header do not. */
        assert_true(n_failed >= 15 && n_failed + 8 >= fail_at - 2);
        kvf_session_close(session);
    }
    fake_disk_reset();
}

static void short_writes_are_continued(void **state)
{
    (void)state;
    const char *path = snap_path("short");
    kvf_session *session = saved_session(path);
    fake_disk_reset();
    fake.short_writes = true;
    for (int mode = 0; mode < 3; mode++)
        assert_int_equal(save_on_disk(session, path, mode == 1, mode == 2), KVF_OK);
    kvf_session_close(session);
    fake_disk_reset();
}

static void a_full_disk_keeps_the_old_state(void **state)
{
    (void)state;
    const char *path = snap_path("full");
    kvf_session *session = saved_session(path);
    const uint64_t bytes = snap_file_bytes(path);
    for (int mode = 0; mode < 3; mode++)
        for (uint64_t room = 1; room < bytes; room += bytes / 12) {
            fake_disk_reset();
            fake.room_bytes = room;
            const kvf_status status = save_on_disk(session, path, mode == 1, mode == 2);
            if (mode > 0)
                assert_int_equal(status, KVF_FILE_IO);
        }
    kvf_session_close(session);
    fake_disk_reset();
}

static void any_call_of_a_load_may_fail(void **state)
{
    (void)state;
    const char *path = snap_path("load");
    kvf_session *session = saved_session(path);
    kvf_session *restored;
    kvf_error error;
    kvf_status status;
    uint64_t fail_at = 1;
    do {
        fake_disk_reset();
        fake.fail_at = fail_at++;
        status = kvf_session_load_from(snap_device, path, NULL, &restored, &fake_disk, &error);
        assert_true((status == KVF_OK) == (restored != NULL));
    } while (status != KVF_OK);
    assert_true(fail_at > 6);
    kvf_session_close(restored);
    kvf_session_close(session);
    fake_disk_reset();
}

/* ---- A power cut ------------------------------------------------------------------------ */

static void a_power_cut_keeps_the_old_state_or_the_new_one(void **state)
{
    (void)state;
    const char *path = snap_path("power");
    const char *survivor = snap_path("survivor");
    unsigned seen = 0;
    for (int mode = 0; mode < 3; mode++) {
        kvf_session *session = saved_session(path);
        struct stat info;
        size_t before_bytes = 0;
        uint8_t *before = snap_read_file(path, &before_bytes);
        assert_int_equal(stat(path, &info), 0);
        if (mode == 2)
            before_bytes = 0;
        const uint64_t old_digest = snap_digest(session, true);
        assert_int_equal(snap_step(session, 5, NULL, NULL), KVF_OK);
        const uint64_t new_digest = snap_digest(session, true);
        const kvf_save_options options = {.whole = mode > 0};
        if (mode == 2)
            remove(path);
        fake_disk_reset();
        fake.recording = true;
        assert_int_equal(kvf_session_save_to(session, path, &options, NULL, &fake_disk, NULL),
                         KVF_OK);
        fake.recording = false;
        for (size_t end = 0; end <= fake.n_ops; end++)
            for (uint64_t seed = 0; seed < 30; seed++) {
                const bool there = fake_disk_cut_power(end, before, before_bytes, info.st_ino,
                                                       seed * 1000 + end, survivor);
                assert_true(there || mode == 2);
                const int kept = there ? state_of(survivor, old_digest, new_digest) : KEPT_OLD;
                if (end == fake.n_ops)
                    assert_int_equal(kept, KEPT_NEW);
                if (end == 0)
                    assert_int_equal(kept, KEPT_OLD);
                seen |= (unsigned)kept << 2 * mode;
            }
        free(before);
        kvf_session_close(session);
    }
    assert_int_equal(seen, 0x3f); /* both, in all three */
    fake_disk_reset();
}

/* ---- Memory that runs out ------------------------------------------------------------------ */

#ifdef KVF_TEST_WRAPPED_MALLOC

static kvf_status save_short_of_memory(kvf_session *session, const char *path,
                                       const kvf_save_options *options, uint64_t fail_at)
{
    kvf_error error;
    const malloc_counts before = failing_malloc_count(snap_device);
    failing_malloc_begin(fail_at);
    const kvf_status status = kvf_session_save(session, path, options, NULL, &error);
    const bool failed = failing_malloc_end();
    failing_malloc_expect(snap_device, &before);
    assert_true(status == (failed ? KVF_OUT_OF_MEMORY : KVF_OK));
    return status;
}

static void any_allocation_of_a_save_may_fail(void **state)
{
    (void)state;
    const char *path = snap_path("memory");
    static const kvf_save_options all[] = {{0}, {.whole = true}, {.compress = true}};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        if (all[i].compress && kvf_codec_bound(1) == 0)
            continue;
        kvf_session *session = saved_session(path);
        const uint64_t old_digest = snap_digest(session, true);
        assert_int_equal(snap_step(session, 1, NULL, NULL), KVF_OK);
        const uint64_t new_digest = snap_digest(session, true);
        uint64_t fail_at = 0;
        while (save_short_of_memory(session, path, &all[i], fail_at) != KVF_OK) {
            assert_int_equal(snap_digest(session, true), new_digest);
            assert_int_equal(state_of(path, old_digest, new_digest), KEPT_OLD);
            fail_at++;
        }
        assert_true(fail_at >= 4);
        assert_int_equal(state_of(path, old_digest, new_digest), KEPT_NEW);
        kvf_session_close(session);
    }
}

static void any_allocation_of_a_load_may_fail(void **state)
{
    (void)state;
    const char *path = snap_path("memory");
    kvf_session *session = saved_session(path);
    const malloc_counts before = failing_malloc_count(snap_device);
    for (int profile = 0; profile < KVF_PROFILE_COUNT; profile++) {
        const kvf_session_options wanted = {
            .profile = (kvf_profile_id)profile, .max_tokens = 4096, .chunk_tokens = SNAP_CHUNK};
        const kvf_load_options options = {.session = &wanted};
        kvf_session *restored = NULL;
        kvf_error error;
        uint64_t fail_at = 0;
        for (; !restored; fail_at++) {
            failing_malloc_begin(fail_at);
            const kvf_status status =
                kvf_session_load(snap_device, path, &options, &restored, &error);
            assert_true(failing_malloc_end() == !restored);
            assert_true(status == (restored ? KVF_OK : KVF_OUT_OF_MEMORY));
            if (!restored)
                failing_malloc_expect(snap_device, &before);
        }
        assert_true(fail_at > 20);
        assert_int_equal(snap_digest(restored, false), snap_digest(session, false));
        kvf_session_close(restored);
        failing_malloc_expect(snap_device, &before);
    }
    kvf_session_close(session);
}

#endif

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(any_call_may_fail),
        cmocka_unit_test(short_writes_are_continued),
        cmocka_unit_test(a_full_disk_keeps_the_old_state),
        cmocka_unit_test(any_call_of_a_load_may_fail),
        cmocka_unit_test(a_power_cut_keeps_the_old_state_or_the_new_one),
#ifdef KVF_TEST_WRAPPED_MALLOC
        cmocka_unit_test(any_allocation_of_a_save_may_fail),
        cmocka_unit_test(any_allocation_of_a_load_may_fail),
#endif
    };
    return cmocka_run_group_tests(tests, snap_setup, snap_teardown);
}
