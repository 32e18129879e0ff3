/*
 * A store whose memory runs out at every allocation in turn: each time an error, nothing
 * leaks, no file is half there, and the next try succeeds. And files that are replaced while
 * they are looked at: allocations are the moments at which that is done.
 */
#include "failing_malloc.h"
#include "store_support.h"

#include <sys/stat.h>
#include <unistd.h>

#ifdef KVF_TEST_WRAPPED_MALLOC

static void expect_out_of_memory(kvf_status status, const kvf_error *error)
{
    assert_int_equal(status, KVF_OUT_OF_MEMORY);
    assert_int_equal(error->status, KVF_OUT_OF_MEMORY);
    assert_true(error->message[0] != '\0');
}

/* ---- Opening and finding ------------------------------------------------------------- */

static void opening_fails_at_every_allocation(void **state)
{
    (void)state;
    const malloc_counts before = failing_malloc_count(snap_device);
    kvf_store *store;
    kvf_error error;
    kvf_status status;
    uint64_t bytes;
    uint64_t n = 0;
    for (;; n++) {
        failing_malloc_begin(n);
        status = kvf_store_open(store_folder(), STORE_LARGE, NULL, &store, &error);
        if (!failing_malloc_end())
            break;
        expect_out_of_memory(status, &error);
        assert_null(store);
        failing_malloc_expect(snap_device, &before);
    }
    assert_int_equal(status, KVF_OK);
    assert_true(n >= 2);
    assert_int_equal(store_count_files(&bytes), 0);
    kvf_store_close(store);
    failing_malloc_expect(snap_device, &before);
}

/* More files than the first list of them has room for; a search leaves them alone. */
static void leave_dead_saves(void)
{
    char name[KVF_STORE_NAME_BYTES];
    for (unsigned i = 0; i < 65; i++) {
        snprintf(name, sizeof name, "%016x.kvfold.saving", i);
        snap_write_file(store_path(name), "half", 4);
    }
}

static void finding_fails_at_every_allocation(void **state)
{
    (void)state;
    kvf_store *store = store_open(STORE_LARGE);
    kvf_session *found_session;
    kvf_store_found found;
    kvf_error error;
    kvf_status status;
    uint64_t bytes;
    uint64_t bytes_now;
    uint64_t n = 0;
    store_put(store, KVF_PROFILE_FOLD, 0, 60, NULL);
    store_put(store, KVF_PROFILE_LEGACY, 0, 100, NULL);
    store_put(store, KVF_PROFILE_FOLD, 5, 80, NULL);
    leave_dead_saves();
    const unsigned n_files = store_count_files(&bytes);
    kvf_session *session = store_session(KVF_PROFILE_LEGACY, 0, 100);
    const malloc_counts before = failing_malloc_count(snap_device);
    for (;; n++) {
        failing_malloc_begin(n);
        status = store_try_find(store, 0, 120, &found_session, &found, &error);
        if (!failing_malloc_end())
            break;
        expect_out_of_memory(status, &error);
        assert_null(found_session);
        assert_int_equal(found.n_tokens, 0);
        failing_malloc_expect(snap_device, &before);
        assert_int_equal(store_count_files(&bytes_now), n_files);
        assert_int_equal(bytes_now, bytes);
    }
    assert_int_equal(status, KVF_OK);
    assert_true(n > 60);
    assert_int_equal(found.n_tokens, 100);
    assert_int_equal(found.n_skipped, 0);
    assert_int_equal(snap_digest(found_session, false), snap_digest(session, false));
    kvf_session_close(found_session);
    failing_malloc_expect(snap_device, &before);
    kvf_session_close(session);
    kvf_store_close(store);
}

/* To remove it is a service to others: the search goes on. */
static void a_damaged_file_stays_where_there_is_no_memory_to_remove_it(void **state)
{
    (void)state;
    char name[KVF_STORE_NAME_BYTES];
    kvf_store *store = store_open(STORE_LARGE);
    kvf_session *session;
    kvf_store_found found;
    kvf_error error;
    unsigned n_stayed = 0;
    bool failed = true;
    store_put(store, KVF_PROFILE_FOLD, 0, 60, NULL);
    store_put(store, KVF_PROFILE_FOLD, 0, 100, name);
    const malloc_counts before = failing_malloc_count(snap_device);
    for (uint64_t n = 0; failed; n++) {
        snap_write_file(store_path(name), "kvfold", 6);
        failing_malloc_begin(n);
        const kvf_status status = store_try_find(store, 0, 120, &session, &found, &error);
        failed = failing_malloc_end();
        if (status != KVF_OK) {
            assert_true(failed);
            expect_out_of_memory(status, &error);
        } else {
            assert_int_equal(found.n_tokens, 60);
            assert_int_equal(found.n_skipped, 1);
            assert_int_equal(store_has(name), failed);
            n_stayed += failed;
        }
        kvf_session_close(session);
        failing_malloc_expect(snap_device, &before);
    }
    assert_int_equal(n_stayed, 1);
    kvf_store_close(store);
}

/* ---- Putting ------------------------------------------------------------------------- */

static const char dead[] = "0123456789abcdef.kvfold.saving";

/* A file's name and content. */
typedef struct stored {
    char name[KVF_STORE_NAME_BYTES];
    uint8_t *data;
    size_t bytes;
} stored;

/* What the store makes of a session of the text; the file is gone afterwards. */
static stored make_file(kvf_store *store, uint64_t text, uint64_t n_tokens)
{
    stored file;
    store_put(store, KVF_PROFILE_FOLD, text, n_tokens, file.name);
    file.data = snap_read_file(store_path(file.name), &file.bytes);
    unlink(store_path(file.name));
    return file;
}

/*
 * Puts `session`, whose file is `own`, failing at every allocation, into a store that has
 * room for it or for `other`. own->bytes is what of it is there before: 0, none.
 */
static void fail_put(kvf_session *session, const stored *own, const stored *other,
                     uint64_t max_bytes)
{
    kvf_store *store = store_open(max_bytes);
    const uint64_t digest = snap_digest(session, true);
    const malloc_counts before = failing_malloc_count(snap_device);
    kvf_store_put_report report;
    kvf_error error;
    kvf_status status;
    uint64_t bytes;
    uint64_t n = 0;
    for (;; n++) {
        unlink(store_path(own->name));
        if (own->bytes > 0)
            snap_write_file(store_path(own->name), own->data, own->bytes);
        snap_write_file(store_path(other->name), other->data, other->bytes);
        snap_write_file(store_path(dead), "half", 4);
        failing_malloc_begin(n);
        status = kvf_store_put(store, session, &report, &error);
        if (!failing_malloc_end())
            break;
        expect_out_of_memory(status, &error);
        assert_false(report.stored);
        failing_malloc_expect(snap_device, &before);
        assert_int_equal(snap_digest(session, true), digest);
        /* Whole files went or stayed: a damaged one, the other, the dead. */
        assert_int_equal(report.n_removed, !store_has(other->name));
        assert_int_equal(report.removed_bytes, report.n_removed * other->bytes);
        assert_int_equal(store_count_files(&bytes),
                         store_has(own->name) + store_has(other->name) + store_has(dead));
        assert_int_equal(bytes, store_has(own->name) * own->bytes +
                                    store_has(other->name) * other->bytes + store_has(dead) * 4);
        if (own->bytes == max_bytes)
            assert_true(store_has(own->name));
    }
    assert_int_equal(status, KVF_OK);
    assert_true(report.stored);
    assert_int_equal(report.was_there, own->bytes == max_bytes);
    assert_true(n >= 10);
    kvf_store_close(store);
}

static void putting_fails_at_every_allocation(void **state)
{
    (void)state;
    kvf_store *store = store_open(STORE_LARGE);
    kvf_store_found found;
    stored own = make_file(store, 0, 100);
    const stored other = make_file(store, 1, 60);
    kvf_session *session = store_session(KVF_PROFILE_FOLD, 0, 100);
    const size_t whole_bytes = own.bytes;
    /* Its own file is not there, is damaged, is there and good. */
    for (int sort = 0; sort < 3; sort++) {
        own.bytes = sort == 0 ? 0 : sort == 1 ? whole_bytes / 2 : whole_bytes;
        fail_put(session, &own, &other, whole_bytes);
        assert_false(store_has(dead));
        assert_int_equal(store_has(other.name), sort == 2);
        kvf_session *restored = store_find(store, 0, 100, &found);
        assert_non_null(restored);
        assert_int_equal(found.n_skipped, 0);
        assert_int_equal(snap_digest(restored, true), snap_digest(session, true));
        kvf_session_close(restored);
    }
    kvf_session_close(session);
    kvf_store_close(store);
    free(own.data);
    free(other.data);
}

/* ---- Files that are replaced --------------------------------------------------------- */

static const stored *good; /* the file that takes the place of a damaged one */

/* What another process does that puts it anew. */
static void replace_by_another_file(void)
{
    snap_write_file(snap_path("good"), good->data, good->bytes);
    assert_int_equal(rename(snap_path("good"), store_path(good->name)), 0);
}

/* What one does that adds to it: the file is the same, until its time of change is seen. */
static void replace_content(void)
{
    struct stat before;
    struct stat now;
    assert_int_equal(stat(store_path(good->name), &before), 0);
    do {
        snap_write_file(store_path(good->name), good->data, good->bytes);
        assert_int_equal(stat(store_path(good->name), &now), 0);
    } while (now.st_ctim.tv_sec == before.st_ctim.tv_sec &&
             now.st_ctim.tv_nsec == before.st_ctim.tv_nsec);
    assert_int_equal(now.st_ino, before.st_ino);
}

/* The file is damaged, and replaced during the search, at each moment in turn. */
static void replace_during_search(kvf_store *store, bool no_header, void (*replace)(void))
{
    kvf_session *session;
    kvf_store_found found;
    kvf_error error;
    unsigned n_seen = 0;
    bool replaced = true;
    for (uint64_t n = 0; replaced; n++) {
        snap_write_file(store_path(good->name), no_header ? "kvfold" : (const char *)good->data,
                        no_header ? 6 : good->bytes);
        if (!no_header)
            store_damage(good->name, good->bytes / 2);
        failing_malloc_begin_calling(n, replace);
        const kvf_status status = store_try_find(store, 0, 120, &session, &found, &error);
        replaced = failing_malloc_end();
        assert_int_equal(status, KVF_OK);
        assert_true(replaced || found.n_skipped == 1);
        assert_int_equal(store_has(good->name), replaced);
        if (replaced)
            assert_int_equal(kvf_snapshot_verify(store_path(good->name), NULL), KVF_OK);
        n_seen += replaced && found.n_skipped > 0;
        kvf_session_close(session);
    }
    assert_true(n_seen > 0); /* damaged when it was read, good when it would be removed */
}

static void a_good_file_in_the_place_of_a_damaged_one_stays(void **state)
{
    (void)state;
    kvf_store *store = store_open(STORE_LARGE);
    const stored file = make_file(store, 0, 100);
    good = &file;
    for (int no_header = 0; no_header < 2; no_header++) {
        replace_during_search(store, no_header, replace_by_another_file);
        replace_during_search(store, no_header, replace_content);
    }
    free(file.data);
    kvf_store_close(store);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        STORE_TEST(opening_fails_at_every_allocation),
        STORE_TEST(finding_fails_at_every_allocation),
        STORE_TEST(a_damaged_file_stays_where_there_is_no_memory_to_remove_it),
        STORE_TEST(putting_fails_at_every_allocation),
        STORE_TEST(a_good_file_in_the_place_of_a_damaged_one_stays),
    };
    return cmocka_run_group_tests(tests, snap_setup, snap_teardown);
}

#else

int main(void)
{
    print_message("this linker cannot put functions before malloc: nothing tested\n");
    return 0;
}

#endif
