/*
 * kvf_session_share_save: a fork that takes the place of the session that was saved adds
 * to its file what the two do not share. Whatever they share or not, the file is the one
 * that was saved last.
 */
#include "expected_save.h"
#include "fake_disk.h"
#include "snapshot_support.h"

#define BASE_TOKENS (31 * SNAP_CHUNK) /* chunks end where a checkpoint can be */

static expected_file file; /* what the test's file must consist of */

/* ---- One fork, one save ---------------------------------------------------------------- */

static kvf_session *fork_of(kvf_session *session)
{
    kvf_session *fork;
    kvf_error error;
    if (kvf_session_fork(session, &fork, &error) != KVF_OK)
        fail_msg("%s", error.message);
    return fork;
}

static void grow_with(kvf_session *session, uint64_t n_tokens, uint64_t text, uint64_t values)
{
    snap_text = text;
    snap_values = values;
    snap_grow(session, n_tokens);
    snap_text = snap_values = 0;
}

static uint64_t common_ids(const kvf_session *a, const kvf_session *b)
{
    uint64_t n = 0;
    while (n < kvf_session_n_tokens(a) && n < kvf_session_n_tokens(b) &&
           kvf_session_tokens(a)[n] == kvf_session_tokens(b)[n])
        n++;
    return n;
}

/* The file is written anew, so that there is room for more to be added. */
static void save_whole(kvf_session *session, const char *path)
{
    const kvf_save_options whole = {.whole = true};
    kvf_save_report report;
    assert_int_equal(kvf_session_save_to(session, path, &whole, &report, &fake_disk, NULL), KVF_OK);
    expected_session = session;
    expected_new(&file, &snap_geometry, (kvf_profile_id)session->header->profile,
                 kvf_session_n_tokens(session));
    expected_check(&file, &report);
}

static kvf_session *base; /* what the long sessions of fold begin with, made once */

static kvf_session *begin_session(kvf_profile_id profile, uint64_t n_tokens)
{
    if (profile != KVF_PROFILE_FOLD || n_tokens < BASE_TOKENS)
        return snap_open(snap_device, profile, false);
    if (!base) {
        base = snap_open(snap_device, profile, false);
        snap_grow(base, BASE_TOKENS);
    }
    return fork_of(base);
}

/* A session of n tokens in a file. */
static kvf_session *saved_session(const char *path, kvf_profile_id profile, uint64_t n_tokens)
{
    kvf_session *session = begin_session(profile, n_tokens);
    snap_grow(session, n_tokens);
    save_whole(session, path);
    return session;
}

/* The session goes on and adds that to the file. */
static void go_on(kvf_session *session, const char *path, uint64_t n_tokens)
{
    const uint64_t held = kvf_session_n_tokens(session);
    grow_with(session, n_tokens, 0, 0);
    const kvf_save_report report = fake_disk_save(session, path);
    expected_session = session;
    expected_later(&file, held, n_tokens, false);
    expected_check(&file, &report);
}

/* The file holds the session, and what is restored from it goes on as the session does. */
static void expect_alike(kvf_session *session, const char *path)
{
    const kvf_load_options verify = {.verify = true};
    kvf_session *restored = snap_load(snap_device, path, &verify);
    kvf_session *fork = fork_of(session);
    uint64_t expected;
    uint64_t output;
    assert_int_equal(snap_digest(restored, true), snap_digest(session, true));
    assert_int_equal(snap_step(fork, 70, &expected, NULL), KVF_OK);
    assert_int_equal(snap_step(restored, 70, &output, NULL), KVF_OK);
    assert_int_equal(output, expected);
    assert_int_equal(snap_digest(restored, true), snap_digest(fork, true));
    kvf_session_close(restored);
    kvf_session_close(fork);
}

/* The fork takes the place of the other, of which the file holds kept_tokens of its own. */
static void take_place(kvf_session *fork, kvf_session *other, const char *path,
                       uint64_t kept_tokens)
{
    const uint64_t whole_bytes = file.report.file_bytes;
    kvf_session_share_save(fork, other);
    expected_kept_window = fork->saved.kept_window;
    expected_kept_checkpoint = fork->saved.kept_checkpoint;
    const kvf_save_report report = fake_disk_save(fork, path);
    expected_session = fork;
    expected_later(&file, kept_tokens, kvf_session_n_tokens(fork), false);
    expected_kept_window = expected_kept_checkpoint = UINT64_MAX;
    expected_check(&file, &report);
    assert_true(report.appended);
    assert_true(report.written_bytes <= whole_bytes);
    expect_alike(fork, path);
}

static void a_kept_fork_adds_what_the_other_does_not_have(void **state)
{
    (void)state;
    const char *path = snap_path("kept");
    for (int profile = 0; profile < KVF_PROFILE_COUNT; profile += 3) {
        kvf_session *session = saved_session(path, (kvf_profile_id)profile, 3000);
        kvf_session *fork = fork_of(session);
        kvf_session *second = fork_of(session);
        const uint64_t first_bytes = file.report.file_bytes;
        go_on(session, path, 3100);
        /* Gone back, without a token more. */
        take_place(fork, session, path, 3000);
        assert_true(file.report.written_bytes * 2 < first_bytes);
        /* Then its own way, which the file's present state is the beginning of. */
        grow_with(fork, 3010, 1, 0);
        const kvf_save_report report = fake_disk_save(fork, path);
        expected_later(&file, 3000, 3010, false);
        expected_check(&file, &report);
        expect_alike(fork, path);
        kvf_session_close(session);
        /* Its file may be another one by now: what counts is what is shared with it. */
        save_whole(fork, path);
        grow_with(second, 3005, 0, 1);
        take_place(second, fork, path, common_ids(second, fork));
        kvf_session_close(fork);
        kvf_session_close(second);
    }
}

/*
 * Both went on from token 3000, in page 11 of CSA rows (2816 to 3071) and 2 of HCA ones
 * (2048 to 3071): what lies before that is common, full pages of it are in the file.
 */
static void diverged_forks_share_what_lies_before(void **state)
{
    (void)state;
    static const struct {
        uint64_t saved, fork, text, values, kept;
    } all[] = {
        {3300, 3200, 1, 0, 3000}, /* another text: ids tell where */
        {3300, 3200, 0, 1, 2816}, /* the same ids, other values: pages tell */
        {3300, 3200, 0, 0, 2816}, /* the same values in pages of their own */
        {3200, 3300, 0, 1, 2816}, /* the fork is longer */
        {3200, 3200, 0, 1, 2816}, /* as long */
        {3200, 3200, 1, 0, 3000},
        {3050, 3040, 0, 1, 3040}, /* no page that differs is full: all ids are the same */
        {3040, 3040, 0, 1, 3039}, /* one token less, for the rings' sake */
    };
    const char *path = snap_path("diverged");
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        kvf_session *session = saved_session(path, KVF_PROFILE_FOLD, 3000);
        kvf_session *fork = fork_of(session);
        go_on(session, path, all[i].saved);
        grow_with(fork, all[i].fork, all[i].text, all[i].values);
        const uint64_t kept = all[i].text ? common_ids(fork, session) : all[i].kept;
        assert_true(kept - all[i].kept < 5); /* texts may have a few ids in common by chance */
        take_place(fork, session, path, kept);
        kvf_session_close(session);
        kvf_session_close(fork);
    }
}

/* Layers whose rows are all in rings tell nothing of what was common: the ids do. */
static void without_rows_the_ids_are_compared(void **state)
{
    (void)state;
    const char *path = snap_path("window");
    const uint32_t n_layers = snap_geometry.n_layers;
    snap_geometry.n_layers = 1;
    kvf_session *session = saved_session(path, KVF_PROFILE_FOLD, 2000);
    kvf_session *fork = fork_of(session);
    grow_with(session, 3100, 0, 0);
    save_whole(session, path);
    grow_with(fork, 3100, 1, 0);
    take_place(fork, session, path, common_ids(fork, session));
    kvf_session_close(session);
    kvf_session_close(fork);
    snap_geometry.n_layers = n_layers;
}

static void a_fork_of_a_restored_session_does_so_too(void **state)
{
    (void)state;
    const char *path = snap_path("mapped");
    kvf_session *session = saved_session(path, KVF_PROFILE_FOLD, 3000);
    kvf_session_close(session);
    session = snap_load(snap_device, path, NULL);
    kvf_session *fork = fork_of(session);
    go_on(session, path, 3100);
    grow_with(fork, 3020, 1, 0);
    take_place(fork, session, path, 3000);
    kvf_session_close(session);
    /* Restored twice, two sessions have no memory in common: the second takes no part. */
    kvf_session *first = snap_load(snap_device, path, NULL);
    session = snap_load(snap_device, path, NULL);
    go_on(session, path, 3100);
    kvf_session_share_save(first, session);
    grow_with(first, 3150, 1, 0);
    fake_disk_save(first, path);
    expect_alike(first, path);
    kvf_session_close(first);
    kvf_session_close(session);
    kvf_session_close(fork);
}

static void a_truncated_session_shares_what_it_kept(void **state)
{
    (void)state;
    const char *path = snap_path("truncated");
    kvf_session *session = saved_session(path, KVF_PROFILE_FOLD, 3840);
    kvf_session *fork = fork_of(session);
    kvf_replay replay;
    grow_with(session, 3900, 0, 0);
    save_whole(session, path);
    /* The file still holds the text that the session has given up from here on. */
    assert_int_equal(kvf_session_truncate(session, 3800, &replay, NULL), KVF_OK);
    const uint64_t kept = replay.first_token;
    kvf_replay_free(&replay);
    assert_true(kept > 3000 && kept <= 3800);
    grow_with(session, 3950, 1, 0);
    take_place(fork, session, path, kept);
    kvf_session_close(session);
    /* Now the fork is the truncated one, with nothing left; then with another text. */
    save_whole(fork, path);
    session = fork_of(fork);
    assert_int_equal(kvf_session_truncate(fork, 0, NULL, NULL), KVF_OK);
    memset(kvf_session_caller_state(fork), 0, KVF_CALLER_STATE_BYTES);
    kvf_session_share_save(fork, session);
    fake_disk_save(fork, path);
    expect_alike(fork, path);
    save_whole(session, path);
    grow_with(fork, 3900, 0, 1);
    kvf_session_share_save(fork, session);
    assert_false(fake_disk_save(fork, path).appended); /* the same ids, and no page in common */
    expect_alike(fork, path);
    kvf_session_close(session);
    kvf_session_close(fork);
}

/* What does not fit is left as it was: the next save is what it would have been. */
static void expect_nothing_shared(kvf_session *session, const kvf_session *other, const char *path)
{
    const kvf_saved before = session->saved;
    kvf_session_share_save(session, other);
    assert_int_equal(session->saved.known, before.known);
    assert_int_equal(session->saved.header_checksum, before.header_checksum);
    assert_int_equal(session->saved.kept_tokens, before.kept_tokens);
    assert_false(fake_disk_save(session, path).appended);
    snap_expect_same(path, session);
    kvf_session_close(session);
}

static void what_does_not_belong_together_shares_nothing(void **state)
{
    (void)state;
    const char *path = snap_path("apart");
    const kvf_device_options one_thread = {.n_threads = 1};
    kvf_device *device;
    kvf_session *session = begin_session(KVF_PROFILE_FOLD, 3000);
    snap_grow(session, 3000);
    kvf_session *fork = fork_of(session);
    expect_nothing_shared(fork, session, path); /* never saved */
    kvf_session_close(session);
    session = saved_session(path, KVF_PROFILE_FOLD, 3000);
    kvf_session *other = snap_open(snap_device, KVF_PROFILE_FOLD, false);
    expect_nothing_shared(other, session, path); /* without a token */
    kvf_session_close(session);
    /* Without a full page, and with one. */
    for (uint64_t n_tokens = 40; n_tokens <= 300; n_tokens += 260)
        for (int profile = 0; profile < KVF_PROFILE_FOLD; profile++) {
            session = saved_session(path, KVF_PROFILE_FOLD, n_tokens);
            other = snap_open(snap_device, (kvf_profile_id)profile, false);
            snap_grow(other, n_tokens);
            expect_nothing_shared(other, session, path);
            kvf_session_close(session);
        }
    session = saved_session(path, KVF_PROFILE_FOLD, 40);
    snap_geometry.top_k *= 2;
    other = snap_open(snap_device, KVF_PROFILE_FOLD, false);
    snap_geometry.top_k /= 2;
    snap_grow(other, 40);
    expect_nothing_shared(other, session, path); /* of another model */
    kvf_session_close(session);
    session = saved_session(path, KVF_PROFILE_LEGACY, 40);
    other = snap_open(snap_device, KVF_PROFILE_LEGACY, true);
    snap_grow(other, 40);
    expect_nothing_shared(other, session, path); /* without the grid */
    assert_int_equal(kvf_device_open(&one_thread, &device, NULL), KVF_OK);
    other = snap_open(device, KVF_PROFILE_LEGACY, false);
    snap_grow(other, 40);
    fake_disk_save(session, path);
    expect_nothing_shared(other, session, path);
    kvf_device_close(device);
    kvf_session_close(session);
}

/* One whose last save failed knows no file; a fork that knows one keeps to it. */
static void a_file_that_is_not_known_takes_no_place(void **state)
{
    (void)state;
    const char *path = snap_path("unknown");
    kvf_session *session = saved_session(path, KVF_PROFILE_FOLD, 1000);
    kvf_session *fork = fork_of(session);
    session->saved.known = false;
    kvf_session_share_save(fork, session);
    go_on(fork, path, 1001);
    assert_true(file.report.appended);
    expect_alike(fork, path);
    kvf_session_close(session);
    kvf_session_close(fork);
}

/* ---- Anything in any order ---------------------------------------------------------------- */

#define N_ROUNDS 6
#define N_STEPS 45
#define N_LANES 4

/* States of sessions that were never saved, each one chunk after its parent. */
typedef struct tree {
    kvf_session *session;
    uint64_t digest;
    int parent;
} tree;

static tree nodes[N_STEPS * 2 + 2];
static int n_nodes;

/* A session that is saved and restored, and the state that it must have. */
static struct lane {
    kvf_session *session;
    int node;
} lanes[N_LANES];

static struct counts {
    unsigned appended, shared, shared_appended, restored, truncated;
} counts;

static void add_node(int parent, uint32_t n_tokens)
{
    tree *node = &nodes[n_nodes++];
    *node = (tree){.parent = parent};
    node->session = parent < 0 ? snap_open(snap_device, KVF_PROFILE_FOLD, false)
                               : fork_of(nodes[parent].session);
    if (n_tokens)
        assert_int_equal(snap_step(node->session, n_tokens, NULL, NULL), KVF_OK);
    node->digest = snap_digest(node->session, true);
}

static void append_to(struct lane *lane, uint64_t *random)
{
    const uint32_t n = (uint32_t)(snap_random(random) % (snap_random(random) % 2 ? 5 : 96) + 1);
    snap_text = snap_random(random) % 2;
    snap_values = snap_random(random) % 2;
    add_node(lane->node, n);
    assert_int_equal(snap_step(lane->session, n, NULL, NULL), KVF_OK);
    lane->node = n_nodes - 1;
    snap_text = snap_values = 0;
}

/* Back to a checkpoint, which is where some chunk ended, or to the start. */
static void truncate_lane(struct lane *lane, uint64_t *random)
{
    const uint64_t first = kvf_session_first_covered(lane->session);
    const uint64_t held = kvf_session_n_tokens(lane->session);
    const uint64_t wanted =
        snap_random(random) % 8 ? first + snap_random(random) % (held - first + 1) : 0;
    kvf_replay replay;
    assert_int_equal(kvf_session_truncate(lane->session, wanted, &replay, NULL), KVF_OK);
    const uint64_t reached = replay.first_token;
    kvf_replay_free(&replay);
    while (kvf_session_n_tokens(nodes[lane->node].session) > reached)
        lane->node = nodes[lane->node].parent;
    assert_int_equal(kvf_session_n_tokens(nodes[lane->node].session), reached);
    memcpy(kvf_session_caller_state(lane->session),
           kvf_session_caller_state(nodes[lane->node].session), KVF_CALLER_STATE_BYTES);
    counts.truncated += reached < held;
}

static void replace_lane(struct lane *lane, kvf_session *session, int node)
{
    kvf_session_close(lane->session);
    *lane = (struct lane){session, node};
}

/* A lane saves, perhaps in the place of another; the file is what it must hold then. */
static void save_lane(struct lane *lane, const char *path, uint64_t *random, int *saved_node)
{
    const struct lane *other = &lanes[snap_random(random) % N_LANES];
    const bool shares = other != lane && snap_random(random) % 4 != 0;
    if (shares)
        kvf_session_share_save(lane->session, other->session);
    const kvf_saved before = lane->session->saved;
    const kvf_save_report report = fake_disk_save(lane->session, path);
    expected_session = lane->session;
    expected_kept_window = before.kept_window;
    expected_kept_checkpoint = before.kept_checkpoint;
    if (report.appended) {
        expected_later(&file, before.kept_tokens, kvf_session_n_tokens(lane->session), false);
        expected_check(&file, &report);
    } else {
        expected_new(&file, &snap_geometry, KVF_PROFILE_FOLD, kvf_session_n_tokens(lane->session));
        expected_check(&file, &report);
    }
    expected_kept_window = expected_kept_checkpoint = UINT64_MAX;
    *saved_node = lane->node;
    counts.appended += report.appended;
    counts.shared += shares;
    counts.shared_appended += shares && report.appended;
    kvf_session *restored = snap_load(snap_device, path, NULL);
    assert_int_equal(snap_digest(restored, true), nodes[lane->node].digest);
    kvf_session_close(restored);
}

static void one_round(const char *path, uint64_t *random)
{
    int saved_node = -1;
    add_node(-1, 0);
    for (int i = 0; i < N_LANES; i++)
        lanes[i] = (struct lane){fork_of(nodes[0].session), 0};
    for (int i = 0; i < 8; i++) /* far enough that there is something to keep */
        append_to(&lanes[0], random);
    for (int i = 0; i < N_STEPS; i++) {
        struct lane *lane = &lanes[snap_random(random) % N_LANES];
        const struct lane *from = &lanes[snap_random(random) % N_LANES];
        const uint64_t what = snap_random(random) % 16;
        if (what < 4) {
            append_to(lane, random);
        } else if (what < 8 && from != lane) {
            replace_lane(lane, fork_of(from->session), from->node);
        } else if (what == 8) {
            truncate_lane(lane, random);
        } else if (what == 9 && saved_node >= 0) {
            replace_lane(lane, snap_load(snap_device, path, NULL), saved_node);
            counts.restored++;
        } else if (what >= 10) {
            save_lane(lane, path, random, &saved_node);
        }
        assert_int_equal(kvf_session_n_tokens(lane->session),
                         kvf_session_n_tokens(nodes[lane->node].session));
    }
    for (int i = 0; i < N_LANES; i++) {
        assert_int_equal(snap_digest(lanes[i].session, true), nodes[lanes[i].node].digest);
        kvf_session_close(lanes[i].session);
    }
    while (n_nodes > 0)
        kvf_session_close(nodes[--n_nodes].session);
    remove(path);
}

static void any_order_of_forks_and_saves_leaves_what_was_saved_last(void **state)
{
    (void)state;
    const char *path = snap_path("random");
    uint64_t random = 20261126;
    for (int round = 0; round < N_ROUNDS; round++)
        one_round(path, &random);
    print_message("%u saves appended, %u after sharing, of which %u appended; %u restored, %u "
                  "truncated\n",
                  counts.appended, counts.shared, counts.shared_appended, counts.restored,
                  counts.truncated);
    assert_true(counts.shared_appended > 10 && counts.appended > counts.shared_appended);
    assert_true(counts.restored > 5 && counts.truncated > 2);
    kvf_session_close(base);
    assert_int_equal(snap_device->live_bytes[KVF_MEMORY_CACHE], 0);
    assert_int_equal(snap_device->live_bytes[KVF_MEMORY_CHECKPOINT], 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_kept_fork_adds_what_the_other_does_not_have),
        cmocka_unit_test(diverged_forks_share_what_lies_before),
        cmocka_unit_test(without_rows_the_ids_are_compared),
        cmocka_unit_test(a_fork_of_a_restored_session_does_so_too),
        cmocka_unit_test(a_truncated_session_shares_what_it_kept),
        cmocka_unit_test(what_does_not_belong_together_shares_nothing),
        cmocka_unit_test(a_file_that_is_not_known_takes_no_place),
        cmocka_unit_test(any_order_of_forks_and_saves_leaves_what_was_saved_last),
    };
    return cmocka_run_group_tests(tests, snap_setup, snap_teardown);
}
