/*
 * Sessions of damaged files in a batch with others: the one that meets the damage fails alone, with
 * the message that names the place, and is as it was; what the others hold is to the bit what they
 * would hold without it. Where a file stays mapped damage is met when a page is first needed; on
 * other devices nothing of such a file is restored.
 */
#define SMALL_CHUNK 140
#include "cache/small_batch.h"

#include <stdio.h>
#include <unistd.h>

#include "cache/compare.h"
#include "cache/snapshot_support.h"

#define HELD 200 /* tokens of the damaged one: full pages in every stream, and open ones */
#define OTHER 70
#define N_ITEMS 3
#define DAMAGED 1 /* its item */

static char path[64];

/* What each item brings: one token, or a piece that ends a page. */
static const uint32_t sizes[][N_ITEMS] = {{1, 1, 1}, {66, 3, 2}, {1, 120, 5}};
#define N_SIZES (sizeof sizes / sizeof *sizes)

static uint32_t text_of(uint32_t item)
{
    return item == DAMAGED ? 0 : item + 1;
}

/* Sessions that nothing is wrong with; the one that will be damaged is saved. */
static void open_good(kvf_profile_id profile, kvf_session **good)
{
    kvf_error error;
    for (uint32_t i = 0; i < N_ITEMS; i++) {
        good[i] = small_open(profile, 2);
        small_feed(good[i], i == DAMAGED ? 128 : OTHER, text_of(i));
    }
    small_feed(good[DAMAGED], HELD - 128, text_of(DAMAGED));
    if (kvf_session_save(good[DAMAGED], path, NULL, NULL, &error) != KVF_OK)
        fail_msg("%s", error.message);
}

static void close_all(kvf_session **sessions)
{
    for (uint32_t i = 0; i < N_ITEMS; i++)
        assert_int_equal(kvf_session_close(sessions[i]), KVF_OK);
}

/* Forks of those that are not there yet. */
static void fork_others(kvf_session *const *good, kvf_session **forks)
{
    for (uint32_t i = 0; i < N_ITEMS; i++)
        if (!forks[i])
            assert_int_equal(kvf_session_fork(good[i], &forks[i], NULL), KVF_OK);
}

static kvf_status restore(kvf_profile_id profile, kvf_session **session, kvf_error *error)
{
    const kvf_session_options options = {
        .profile = profile, .max_tokens = 8192, .chunk_tokens = SMALL_CHUNK};
    return kvf_session_load(small_device, path, &(kvf_load_options){.session = &options}, session,
                            error);
}

static void expect_in_batch(kvf_batch *batch, kvf_session **sessions, kvf_session **clean,
                            const uint32_t *n, bool *failed, kvf_error *why)
{
    small_part parts[N_ITEMS];
    kvf_batch_item items[N_ITEMS];
    kvf_error error;
    for (uint32_t i = 0; i < N_ITEMS; i++)
        parts[i] = (small_part){sessions[i], n[i], text_of(i)};
    small_items(parts, N_ITEMS, items);
    assert_int_equal(small_batch(batch, items, N_ITEMS, 50, &error), KVF_OK);
    *failed = items[DAMAGED].status != KVF_OK;
    *why = items[DAMAGED].error;
    for (uint32_t i = 0; i < N_ITEMS; i++) {
        if (i == DAMAGED && *failed) {
            assert_int_equal(items[i].status, KVF_FILE_FORMAT);
            assert_int_equal(kvf_session_n_tokens(sessions[i]), HELD);
            continue;
        }
        assert_int_equal(items[i].status, KVF_OK);
        small_feed(clean[i], n[i], text_of(i));
        assert_memory_equal(kvf_session_logits(sessions[i]), kvf_session_logits(clean[i]),
                            SMALL_VOCAB * sizeof(float));
        if (i != DAMAGED) /* pages of its that were not needed are not checked */
            assert_same_session(sessions[i], clean[i]);
    }
}

/* One part is damaged; whether the batch met it. */
static bool run_with_damage(kvf_profile_id profile, const char *title, const uint32_t *n,
                            kvf_session *const *good)
{
    kvf_session *sessions[N_ITEMS] = {NULL};
    kvf_session *clean[N_ITEMS] = {NULL};
    kvf_error error;
    bool failed;
    const kvf_status status = restore(profile, &sessions[DAMAGED], &error);
    if (status != KVF_OK) { /* small parts are copied at once, on some devices all */
        assert_int_equal(status, KVF_FILE_FORMAT);
        assert_non_null(strstr(error.message, title));
        return false;
    }
    assert_true(small_device->backend->addresses_host_memory);
    fork_others(good, sessions);
    fork_others(good, clean);
    kvf_batch *batch = small_open_batch(profile, N_ITEMS);
    expect_in_batch(batch, sessions, clean, n, &failed, &error);
    if (failed) {
        assert_non_null(strstr(error.message, title));
        assert_non_null(strstr(error.message, path));
        /* It is as it was, and fails again; the others go on. */
        assert_memory_equal(kvf_session_logits(sessions[DAMAGED]),
                            kvf_session_logits(good[DAMAGED]), SMALL_VOCAB * sizeof(float));
        expect_in_batch(batch, sessions, clean, n, &failed, &error);
        assert_true(failed);
        assert_non_null(strstr(error.message, title));
    }
    kvf_batch_close(batch);
    close_all(sessions);
    close_all(clean);
    return failed;
}

/* Every part of the file, one after the other. */
static void an_item_that_meets_damage_fails_alone(void **state)
{
    (void)state;
    for (int profile = 0; profile < KVF_PROFILE_COUNT; profile += 3) {
        kvf_session *good[N_ITEMS];
        size_t bytes;
        uint32_t n_met[N_SIZES] = {0};
        open_good((kvf_profile_id)profile, good);
        uint8_t *data = snap_read_file(path, &bytes);
        const kvf_snapshot_header *header = (const kvf_snapshot_header *)data;
        const kvf_part *parts = snap_parts(data, header);
        for (uint32_t i = 0; i < header->n_parts; i++) {
            const kvf_stream_title title = kvf_stream_title_of(parts[i].kind, parts[i].number);
            uint8_t *byte = &data[parts[i].offset + parts[i].stored_bytes / 2];
            *byte ^= 0x10;
            snap_write_file(path, data, bytes);
            *byte ^= 0x10;
            for (size_t k = 0; k < N_SIZES; k++)
                n_met[k] += run_with_damage((kvf_profile_id)profile, title.text, sizes[k], good);
        }
        /* Windows of four layers, three pages each; rows of three, index rows of two. */
        for (size_t k = 0; small_device->backend->addresses_host_memory && k < N_SIZES; k++)
            assert_int_equal(n_met[k], 3 * 4 + 3 + 2);
        close_all(good);
        free(data);
        for (int i = 0; i < KVF_MEMORY_CLASS_COUNT; i++)
            assert_int_equal(small_device->live_bytes[i], 0);
    }
}

static int setup(void **state)
{
    snprintf(path, sizeof path, "/tmp/kvfold-damage-%d.kvfold", (int)getpid());
    return small_batch_setup(state);
}

static int teardown(void **state)
{
    remove(path);
    return small_batch_teardown(state);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_item_that_meets_damage_fails_alone),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
