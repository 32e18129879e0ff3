/*
 * A device that is lost, or an operation's or a session's memory that cannot be had, at every place
 * of what is done with sessions: tokens, batches, saves, restores, forks, going back.
 *
 *   test_far_loss [STRIDE]   at every STRIDE-th place; 1
 */
#include "far/scene.h"

#include "model/model.h"
#include "snapshot/snapshot.h"

static uint64_t stride = 1;

/* ---- What is done ------------------------------------------------------------------------ */

typedef kvf_status act_function(scene *s, kvf_error *error);

typedef struct action {
    const char *name;
    act_function *act;
    bool waits_last; /* nothing is queued behind its last wait */
    bool changes_files;
} action;

static kvf_status act_token(scene *s, kvf_error *error)
{
    int32_t ids[A_MORE];
    const uint64_t first = kvf_session_n_tokens(s->sessions[SCENE_A]);
    for (uint32_t i = 0; i < A_MORE; i++)
        ids[i] = small_token(first + i, 0);
    return small_chunk(s->sessions[SCENE_A], ids, A_MORE, error);
}

static void fill_items(const scene *s, kvf_batch_item *items)
{
    const small_part parts[] = {{s->sessions[SCENE_A], A_MORE, 0},
                                {s->sessions[SCENE_B], B_MORE, 1},
                                {s->sessions[SCENE_C], C_MORE, 0}};
    small_items(parts, 3, items);
}

static kvf_status act_batch(scene *s, kvf_error *error)
{
    kvf_batch_item items[3];
    fill_items(s, items);
    const kvf_status status = small_batch(s->batch, items, 3, SMALL_CHUNK, error);
    for (int i = 0; i < 3; i++) {
        assert_int_equal(items[i].status, status);
        if (status != KVF_OK)
            assert_string_equal(items[i].error.message, error->message);
    }
    return status;
}

static kvf_status act_save_new(scene *s, kvf_error *error)
{
    return kvf_session_save(s->sessions[SCENE_A], scene_path("new"), NULL, NULL, error);
}

static kvf_status act_save_more(scene *s, kvf_error *error)
{
    kvf_save_report report = {0};
    const kvf_status status =
        kvf_session_save(s->sessions[SCENE_A], scene_path("a"), NULL, &report, error);
    assert_int_equal(report.appended, status == KVF_OK);
    return status;
}

static kvf_status act_save_whole(scene *s, kvf_error *error)
{
    const kvf_save_options whole = {.whole = true};
    return kvf_session_save(s->sessions[SCENE_B], scene_path("a"), &whole, NULL, error);
}

/* The store has the state of c, and room. */
static kvf_status put(const scene *s, scene_name which, uint64_t max_bytes, kvf_error *error)
{
    kvf_store *store;
    scene_require(kvf_store_open(scene_path("store"), max_bytes, NULL, &store, error), error);
    const kvf_status status = kvf_store_put(store, s->sessions[which], NULL, error);
    kvf_store_close(store);
    return status;
}

static kvf_status act_put(scene *s, kvf_error *error)
{
    return put(s, SCENE_A, UINT64_MAX, error);
}

/* Instead of what was made before, which is not to be done at the end of an action. */
static kvf_session **make(scene *s)
{
    kvf_session_close(s->made);
    s->made = NULL;
    return &s->made;
}

static kvf_status made(const scene *s, kvf_status status)
{
    assert_int_equal(s->made != NULL, status == KVF_OK);
    return status;
}

static kvf_status load(scene *s, const char *path, const kvf_load_options *options,
                       kvf_error *error)
{
    return made(s, kvf_session_load(small_device, path, options, make(s), error));
}

static kvf_status act_load(scene *s, kvf_error *error)
{
    return load(s, scene_path("a"), NULL, error);
}

static kvf_status act_load_repacked(scene *s, kvf_error *error)
{
    const kvf_profile_id other =
        scene_profile == KVF_PROFILE_FOLD ? KVF_PROFILE_TILED : KVF_PROFILE_FOLD;
    const kvf_session_options options = {.profile = other, .chunk_tokens = SMALL_CHUNK};
    return load(s, scene_path("c"), &(kvf_load_options){.session = &options}, error);
}

static kvf_status act_load_version_1(scene *s, kvf_error *error)
{
    return load(s, KVF_TEST_V1 "/fold.kvfold", NULL, error);
}

static kvf_status act_find(scene *s, kvf_error *error)
{
    const kvf_session_options options = {.profile = scene_profile, .chunk_tokens = SMALL_CHUNK};
    const kvf_load_options wanted = {.session = &options, .model_fingerprint = MODEL};
    kvf_store *store;
    int32_t ids[C_SAVED + 9];
    for (uint32_t i = 0; i < C_SAVED + 9; i++)
        ids[i] = small_token(i, 0);
    scene_require(kvf_store_open(scene_path("store"), UINT64_MAX, NULL, &store, error), error);
    const kvf_status status =
        kvf_store_find(store, small_device, ids, C_SAVED + 9, &wanted, make(s), NULL, error);
    kvf_store_close(store);
    return made(s, status);
}

static kvf_status act_fork(scene *s, kvf_error *error)
{
    return made(s, kvf_session_fork(s->sessions[SCENE_A], make(s), error));
}

static kvf_status act_truncate(scene *s, kvf_error *error)
{
    return kvf_session_truncate(s->sessions[SCENE_A], CHECKPOINT, NULL, error);
}

static kvf_status act_truncate_to_start(scene *s, kvf_error *error)
{
    return kvf_session_truncate(s->sessions[SCENE_D], 0, NULL, error);
}

static kvf_status act_checkpoint(scene *s, kvf_error *error)
{
    return kvf_session_checkpoint(s->sessions[SCENE_D], error);
}

static kvf_status act_open(scene *s, kvf_error *error)
{
    const kvf_session_options options = {.profile = scene_profile, .chunk_tokens = SMALL_CHUNK};
    return made(s, kvf_session_open(small_device, &small_geometry, &options, make(s), error));
}

static const action actions[] = {
    {"a token", act_token, false, false},
    {"a batch", act_batch, false, false},
    {"a first save", act_save_new, true, true},
    {"a save of what is new", act_save_more, true, true},
    {"a save in place of another", act_save_whole, true, true},
    {"a state put into a store", act_put, true, true},
    {"a restore", act_load, true, false},
    {"a restore in another profile", act_load_repacked, true, false},
    {"a restore of version 1", act_load_version_1, true, false},
    {"a state found in a store", act_find, true, true},
    {"a fork", act_fork, false, false},
    {"going back to a checkpoint", act_truncate, false, false},
    {"going back to the start", act_truncate_to_start, false, false},
    {"a checkpoint", act_checkpoint, false, false},
    {"a new session", act_open, false, false},
};
#define N_ACTIONS (sizeof actions / sizeof *actions)

/* ---- Files that are as they were ------------------------------------------------------------ */

/* The store has the state of c alone. */
static void begin(kvf_profile_id profile)
{
    kvf_error error;
    scene cpu = {0};
    scene_begin(profile);
    cpu.sessions[SCENE_C] = scene_load("c", 2);
    scene_require(put(&cpu, SCENE_C, UINT64_MAX, &error), &error);
    kvf_session_close(cpu.sessions[SCENE_C]);
}

static void end(void)
{
    scene_empty_folder(scene_path("store"));
    rmdir(scene_path("store"));
    scene_empty_folder(scene_folder);
}

/* As begin made them. */
static void restore_files(void)
{
    kvf_device *device = small_device;
    small_inputs *there = small_there;
    end();
    begin(scene_profile);
    scene_use(device, there);
}

static uint64_t digest_files(void)
{
    return scene_digest_folder(scene_folder) + 31 * scene_digest_folder(scene_path("store"));
}

/* ---- A device that is lost ------------------------------------------------------------------- */

static void expect_lost(const char *what, kvf_status status, const kvf_error *error)
{
    if (status != KVF_DEVICE_LOST)
        fail_msg("%s: status %d: %s", what, (int)status, error->message);
    assert_int_equal(error->status, KVF_DEVICE_LOST);
    assert_non_null(strstr(error->message, "lost"));
}

/* Whatever is asked of it says so, and no file is touched, nor any room made for one. */
static void expect_closed_doors(scene *s)
{
    kvf_error error;
    kvf_session *fork;
    uint64_t bytes;
    const uint64_t files = digest_files();
    scene_kept before[SCENE_SESSIONS];
    scene_kept after[SCENE_SESSIONS];
    scene_keep(s, before);
    expect_lost("wait", small_device->backend->wait(small_device, &error), &error);
    for (int i = 0; i < SCENE_SESSIONS; i++) {
        kvf_session *session = s->sessions[i];
        const int32_t id = 5;
        expect_lost("fork", kvf_session_fork(session, &fork, &error), &error);
        assert_null(fork);
        expect_lost("save", kvf_session_save(session, scene_path("a"), NULL, NULL, &error), &error);
        expect_lost("save", kvf_session_save(session, scene_path("x"), NULL, NULL, &error), &error);
        expect_lost("token", small_chunk(session, &id, 1, &error), &error);
        if (kvf_session_n_tokens(session) == 0)
            continue;
        /* No more room than for this one: others would have to leave. */
        scene_require(kvf_session_snapshot_bytes(session, NULL, &bytes, &error), &error);
        expect_lost("put", put(s, (scene_name)i, bytes, &error), &error);
        if (kvf_session_n_tokens(session) % CHECKPOINT == 0)
            expect_lost("checkpoint", kvf_session_checkpoint(session, &error), &error);
        if (kvf_session_first_covered(session) == 0)
            expect_lost("truncate", kvf_session_truncate(session, 0, NULL, &error), &error);
    }
    for (size_t i = 0; i < N_ACTIONS; i++)
        if (actions[i].waits_last)
            expect_lost(actions[i].name, actions[i].act(s, &error), &error);
    assert_true(digest_files() == files);
    scene_keep(s, after);
    assert_memory_equal(before, after, sizeof before);
}

/* The host's ids are those that were appended; from the last file they bring what they should. */
static void expect_to_go_on_elsewhere(const scene *s)
{
    static const char *const files[SCENE_SESSIONS] = {"a", "a", "c", "d"};
    kvf_device *device = small_device;
    small_inputs *there = small_there;
    for (int i = 0; i < SCENE_SESSIONS; i++) {
        kvf_session *session = s->sessions[i];
        const uint64_t n_tokens = kvf_session_n_tokens(session);
        const uint64_t own = i == SCENE_B ? A_SAVED + UNSAVED : UINT64_MAX; /* its own text */
        for (uint64_t t = 0; t < n_tokens; t++)
            assert_int_equal(kvf_session_tokens(session)[t], small_token(t, t >= own));
        scene_use_cpu();
        kvf_session *restored = scene_load(files[i], 2);
        assert_int_equal(kvf_session_caller_state(restored)[3], 77);
        scene_finish_on_cpu(restored, (scene_name)i);
        assert_memory_equal(kvf_session_logits(restored), scene_logits[i], sizeof scene_logits[i]);
        kvf_session_close(restored);
        scene_use(device, there);
    }
}

/* Lost before the nth piece of work that the action queues; 0: not. How many there are. */
static uint64_t lose_at(const action *a, uint64_t nth, bool *late)
{
    scene s;
    scene_kept before[SCENE_SESSIONS];
    scene_kept after[SCENE_SESSIONS];
    kvf_error error;
    scene_open_device("far");
    scene_open(&s);
    scene_require(small_device->backend->wait(small_device, &error), &error);
    scene_keep(&s, before);
    const uint64_t files = digest_files();
    const uint64_t works = far_works(small_device);
    far_lose_at(small_device, nth);
    const kvf_status status = a->act(&s, &error);
    const uint64_t n_works = far_works(small_device) - works;
    *late = status == KVF_OK;
    if (nth == 0) {
        scene_require(status, &error);
        assert_true(a->changes_files == (digest_files() != files));
        if (a->changes_files)
            restore_files();
    } else {
        if (status != KVF_OK || a->waits_last)
            expect_lost(a->name, status, &error);
        scene_keep(&s, after);
        if (status != KVF_OK)
            assert_memory_equal(before, after, sizeof before);
        assert_true(digest_files() == files);
        expect_closed_doors(&s);
        expect_to_go_on_elsewhere(&s);
    }
    scene_close(&s);
    scene_close_device();
    return n_works;
}

static void lose_in(const action *a)
{
    bool late;
    uint64_t n_late = 0;
    uint64_t tried = 0;
    const uint64_t n_works = lose_at(a, 0, &late);
    assert_true(n_works > 0);
    for (uint64_t nth = 1; nth <= n_works; nth += stride, tried++) {
        lose_at(a, nth, &late);
        n_late += late;
    }
    print_message("%s: %llu of %llu places, %llu after its last wait\n", a->name,
                  (unsigned long long)tried, (unsigned long long)n_works,
                  (unsigned long long)n_late);
}

static void a_device_is_lost_in_fold(void **state)
{
    (void)state;
    begin(KVF_PROFILE_FOLD);
    for (size_t i = 0; i < N_ACTIONS; i++)
        lose_in(&actions[i]);
    end();
}

/* Masks in place of lists. */
static void a_device_is_lost_in_tiled(void **state)
{
    (void)state;
    begin(KVF_PROFILE_TILED);
    lose_in(&actions[0]);
    lose_in(&actions[1]);
    end();
}

/* ---- Memory that cannot be had ----------------------------------------------------------------
 */

/* All sessions of both hold the same. */
static void expect_same_sessions(const scene *s, const scene *twins)
{
    for (int i = 0; i < SCENE_SESSIONS; i++)
        assert_same_session(s->sessions[i], twins->sessions[i]);
}

typedef void inject_function(kvf_device *device, uint32_t nth);

/*
 * What is injected comes at the nth place, until there is none: the action says that there is no
 * memory, and all is as before; the same device goes on. How often it failed.
 */
static uint32_t run_short_in(const action *a, inject_function *inject)
{
    scene s;
    scene twins;
    kvf_error error;
    uint64_t live[KVF_MEMORY_CLASS_COUNT];
    uint64_t files;
    uint32_t n_failures = 0;
    scene_open_device("far");
    scene_open(&s);
    scene_open(&twins);
    for (uint32_t nth = 1;; nth += (uint32_t)stride) {
        files = digest_files();
        memcpy(live, small_device->live_bytes, sizeof live);
        inject(small_device, nth);
        const kvf_status status = a->act(&s, &error);
        inject(small_device, 0);
        if (status == KVF_OK)
            break;
        n_failures++;
        if (status != KVF_OUT_OF_MEMORY || !strstr(error.message, "no memory"))
            fail_msg("%s: status %d: %s", a->name, (int)status, error.message);
        expect_same_sessions(&s, &twins);
        assert_int_equal(small_device->live_bytes[KVF_MEMORY_CHECKPOINT],
                         live[KVF_MEMORY_CHECKPOINT]);
        assert_true(digest_files() == files);
    }
    scene_require(a->act(&twins, &error), &error);
    expect_same_sessions(&s, &twins);
    scene_close(&twins);
    scene_close(&s);
    scene_close_device();
    return n_failures;
}

/* A temporary, which the device tells in a wait. */
static void operations_find_no_memory(void **state)
{
    (void)state;
    static const size_t which[] = {0, 1, 7}; /* the only ones that compute */
    for (int profile = KVF_PROFILE_TILED; profile <= KVF_PROFILE_FOLD; profile += 2) {
        begin((kvf_profile_id)profile);
        for (size_t i = 0; i < sizeof which / sizeof *which; i++)
            assert_true(run_short_in(&actions[which[i]], far_lack_at) >= 20 / stride);
        end();
    }
}

/* What sessions and batches hold; a batch has a test of its own, in which one item fails. */
static void allocations_of_the_device_fail(void **state)
{
    (void)state;
    static const size_t which[] = {0, 6, 7, 8, 9, 10, 11, 12, 13, 14};
    begin(KVF_PROFILE_FOLD);
    for (size_t i = 0; i < sizeof which / sizeof *which; i++)
        assert_true(run_short_in(&actions[which[i]], far_fail_alloc) >= 1);
    end();
}

/*
 * An operation of one batch finds no memory, and somebody else's wait is told: a look at a
 * selection, and another batch that begins in its place or beside it.
 */
static void who_is_told_is_not_who_lacks(void **state)
{
    (void)state;
    scene s;
    scene twins;
    kvf_batch_item items[3];
    kvf_error error;
    int32_t list[64];
    uint32_t n;
    begin(KVF_PROFILE_FOLD);
    scene_open_device("far");
    scene_open(&s);
    scene_open(&twins);
    for (int way = 0; way < 3; way++) {
        fill_items(&s, items);
        scene_require(kvf_batch_begin(s.batch, items, 3, &error), &error);
        far_lack_at(small_device, 3);
        kvf_status status = KVF_OK;
        for (uint32_t layer = 0; layer < 2 && status == KVF_OK; layer++)
            status = small_batch_layer(s.batch, 3, layer, SMALL_CHUNK, &error);
        scene_require(status, &error);
        if (way ==
            0) { /* who looks does not see the status; lists that are not there are not followed */
            kvf_batch_selection(s.batch, 0, list, &n, NULL);
            assert_int_equal(small_batch_layer(s.batch, 3, 2, SMALL_CHUNK, &error),
                             KVF_OUT_OF_MEMORY);
        } else if (way == 1) { /* a batch of another session waits meanwhile, and fails */
            assert_int_equal(act_token(&twins, &error), KVF_OUT_OF_MEMORY);
            assert_int_equal(kvf_batch_commit(s.batch, &error), KVF_OUT_OF_MEMORY);
        } else { /* it is given up */
            kvf_batch_drop(s.batch);
            expect_same_sessions(&s, &twins);
            scene_require(act_batch(&s, &error), &error);
            scene_require(act_batch(&twins, &error), &error);
        }
        for (int i = 0; way < 2 && i < 3; i++)
            assert_int_equal(items[i].status, KVF_OUT_OF_MEMORY);
        expect_same_sessions(&s, &twins);
    }
    for (int i = 0; i < 3; i++)
        assert_memory_equal(kvf_session_logits(s.sessions[i]), scene_logits[i],
                            sizeof scene_logits[i]);
    scene_close(&twins);
    scene_close(&s);
    scene_close_device();
    end();
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_device_is_lost_in_fold),
        cmocka_unit_test(a_device_is_lost_in_tiled),
        cmocka_unit_test(operations_find_no_memory),
        cmocka_unit_test(allocations_of_the_device_fail),
        cmocka_unit_test(who_is_told_is_not_who_lacks),
    };
    if (argc > 1)
        stride = strtoull(argv[1], NULL, 10);
    return cmocka_run_group_tests(tests, scene_setup, scene_teardown);
}
