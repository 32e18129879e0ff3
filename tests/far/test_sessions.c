/*
 * Sessions on a device whose memory the host cannot touch and whose work is done late: they
 * hold what sessions on the CPU hold, in memory and in files; a device that is lost and memory
 * that runs out leave them as promised.
 */
#include "cache/store_support.h"

#include <math.h>

#include "far/far.h"
#include "model/alone.h"
#include "model/sample.h"

static kvf_device *open_far(void)
{
    const kvf_device_options options = {.backend = "far", .isa = "cpu"};
    kvf_device *device;
    kvf_error error;
    if (kvf_device_open(&options, &device, &error) != KVF_OK)
        fail_msg("%s", error.message);
    return device;
}

/* snap_device is the CPU's: both get the same tokens. */
static void a_session_holds_what_one_on_the_cpu_does(void **state)
{
    (void)state;
    static const uint32_t chunks[] = {1, 2, 61, 96, 1, 1, 30, 96};
    kvf_device *device = open_far();
    for (int profile = 0; profile < KVF_PROFILE_COUNT; profile++) {
        kvf_session *cpu = snap_open(snap_device, (kvf_profile_id)profile, false);
        kvf_session *far = snap_open(device, (kvf_profile_id)profile, false);
        for (size_t i = 0; i < sizeof chunks / sizeof *chunks; i++) {
            uint64_t outputs[2];
            assert_int_equal(snap_step(cpu, chunks[i], &outputs[0], NULL), KVF_OK);
            assert_int_equal(snap_step(far, chunks[i], &outputs[1], NULL), KVF_OK);
            assert_true(outputs[0] == outputs[1]);
        }
        assert_true(snap_digest(cpu, true) == snap_digest(far, true));
        kvf_session_close(cpu);
        kvf_session_close(far);
    }
    kvf_device_close(device);
}

static void a_file_goes_from_one_device_to_the_other(void **state)
{
    (void)state;
    const char *path = snap_path("travels");
    kvf_device *device = open_far();
    kvf_session *cpu = snap_open(snap_device, KVF_PROFILE_FOLD, false);
    snap_grow(cpu, 200);
    snap_save(cpu, path);
    kvf_session *far = snap_load(device, path, NULL);
    assert_int_equal(kvf_session_mapped_bytes(far), 0);
    assert_true(snap_digest(far, true) == snap_digest(cpu, true));
    /* It goes on, adds to the file, and the CPU goes on from there. */
    const uint64_t output = snap_grow(far, 300);
    assert_true(snap_grow(cpu, 300) == output);
    assert_true(snap_save(far, path).appended);
    kvf_session *back = snap_load(snap_device, path, NULL);
    assert_true(snap_digest(back, true) == snap_digest(cpu, true));
    kvf_session_close(back);
    kvf_session_close(far);
    kvf_session_close(cpu);
    kvf_device_close(device);
}

/* Rows of one profile as those of another are unpacked and packed on the device. */
static void a_file_is_restored_in_every_profile(void **state)
{
    (void)state;
    kvf_device *device = open_far();
    for (int from = 0; from < KVF_PROFILE_COUNT; from++) {
        const char *path = snap_path("repacked");
        kvf_session *saved = snap_open(device, (kvf_profile_id)from, false);
        snap_grow(saved, 150);
        snap_save(saved, path);
        for (int to = 0; to < KVF_PROFILE_COUNT; to++) {
            const kvf_session_options options = {.profile = (kvf_profile_id)to,
                                                 .chunk_tokens = SNAP_CHUNK};
            const kvf_load_options load = {.session = &options};
            kvf_session *restored = snap_load(device, path, &load);
            assert_true(snap_digest(restored, false) == snap_digest(saved, false));
            kvf_session_close(restored);
        }
        kvf_session_close(saved);
        remove(path);
    }
    kvf_device_close(device);
}

static void forks_go_their_own_ways_while_work_is_queued(void **state)
{
    (void)state;
    kvf_device *device = open_far();
    kvf_session *first = snap_open(device, KVF_PROFILE_FOLD, false);
    snap_grow(first, 130);
    kvf_session *forks[3];
    for (int i = 0; i < 3; i++)
        assert_int_equal(kvf_session_fork(first, &forks[i], NULL), KVF_OK);
    for (int i = 0; i < 3; i++) {
        snap_text = (uint64_t)i + 1;
        snap_grow(forks[i], 230);
    }
    kvf_session_close(first); /* what it held is the forks' */
    for (int i = 0; i < 3; i++) {
        snap_text = 0;
        kvf_session *alone = snap_open(snap_device, KVF_PROFILE_FOLD, false);
        snap_grow(alone, 130);
        snap_text = (uint64_t)i + 1;
        snap_grow(alone, 230);
        assert_true(snap_digest(alone, true) == snap_digest(forks[i], true));
        kvf_session_close(alone);
        kvf_session_close(forks[i]);
    }
    snap_text = 0;
    assert_int_equal(device->live_bytes[KVF_MEMORY_CACHE], 0);
    kvf_device_close(device);
}

/* Back to a checkpoint and forward again. */
static void truncate_is_as_on_the_cpu(void **state)
{
    (void)state;
    kvf_device *device = open_far();
    kvf_session *far = snap_open(device, KVF_PROFILE_FOLD, false);
    kvf_session *cpu = snap_open(snap_device, KVF_PROFILE_FOLD, false);
    for (int i = 0; i < 2; i++) {
        kvf_session *session = i ? far : cpu;
        kvf_replay replay;
        kvf_error error;
        snap_grow(session, 192);
        snap_grow(session, 300);
        if (kvf_session_truncate(session, 200, &replay, &error) != KVF_OK)
            fail_msg("%s", error.message);
        assert_int_equal(replay.first_token, 192);
        kvf_replay_free(&replay);
    }
    assert_true(snap_digest(far, true) == snap_digest(cpu, true));
    assert_true(snap_grow(far, 260) == snap_grow(cpu, 260));
    kvf_session_close(far);
    kvf_session_close(cpu);
    kvf_device_close(device);
}

/* ---- A device that is lost ------------------------------------------------------------- */

/* What of a session the host has for good. */
typedef struct kept {
    uint64_t n_tokens;
    uint64_t digest;
} kept;

static kept keep(kvf_session *session)
{
    kept k = {.n_tokens = kvf_session_n_tokens(session)};
    k.digest = kvf_checksum(kvf_session_tokens(session), 4 * k.n_tokens) ^
               kvf_checksum(kvf_session_logits(session), 4 * snap_geometry.vocab);
    return k;
}

static void expect_kept(kvf_session *session, kept before)
{
    const kept now = keep(session);
    assert_int_equal(now.n_tokens, before.n_tokens);
    assert_true(now.digest == before.digest);
}

typedef kvf_status action(kvf_session *session, const char *path, kvf_error *error);

static kvf_status act_step(kvf_session *session, const char *path, kvf_error *error)
{
    (void)path;
    return snap_step(session, 40, NULL, error);
}

static kvf_status act_save(kvf_session *session, const char *path, kvf_error *error)
{
    return kvf_session_save(session, path, NULL, NULL, error);
}

static kvf_status load_as(kvf_session *session, const char *path, kvf_profile_id profile,
                          kvf_error *error)
{
    kvf_session *restored;
    const kvf_session_options options = {.profile = profile, .chunk_tokens = SNAP_CHUNK};
    const kvf_load_options load = {.session = &options};
    const kvf_status status = kvf_session_load(session->device, path, &load, &restored, error);
    if (status == KVF_OK)
        kvf_session_close(restored);
    return status;
}

static kvf_status act_load(kvf_session *session, const char *path, kvf_error *error)
{
    return load_as(session, path, KVF_PROFILE_FOLD, error);
}

static kvf_status act_repack(kvf_session *session, const char *path, kvf_error *error)
{
    return load_as(session, path, KVF_PROFILE_TILED, error);
}

/* What is found in a store is the session's first 150 tokens, put there by another device. */
static kvf_status act_find(kvf_session *session, const char *path, kvf_error *error)
{
    const kvf_load_options load = {.model_fingerprint = STORE_MODEL};
    kvf_store_found found;
    kvf_session *restored;
    kvf_session *cpu = snap_load(snap_device, path, NULL);
    kvf_store *store = store_open(STORE_LARGE);
    kvf_session_set_model_fingerprint(cpu, STORE_MODEL);
    assert_int_equal(kvf_store_put(store, cpu, NULL, NULL), KVF_OK);
    kvf_session_close(cpu);
    const kvf_status status =
        kvf_store_find(store, session->device, kvf_session_tokens(session),
                       kvf_session_n_tokens(session), &load, &restored, &found, error);
    if (status == KVF_OK)
        assert_int_equal(found.n_tokens, 150);
    assert_int_equal(restored != NULL, status == KVF_OK);
    kvf_session_close(restored);
    kvf_store_close(store);
    store_finish(NULL);
    return status;
}

/* Every wait of the action once: it says so, and the host's memory and the file are as before. */
static void lose_in(action *act)
{
    uint64_t n_waits = UINT64_MAX; /* known after the first time, which loses nothing */
    const char *path = snap_path("kept");
    for (uint32_t nth = 0; nth <= n_waits && nth < 1000; nth++) {
        kvf_device *device = open_far();
        kvf_session *session = snap_open(device, KVF_PROFILE_FOLD, false);
        kvf_error error;
        snap_grow(session, 128);
        assert_int_equal(kvf_session_checkpoint(session, NULL), KVF_OK);
        snap_grow(session, 150);
        remove(path);
        snap_save(session, path);
        snap_grow(session, 170);
        size_t bytes[2];
        uint8_t *file = snap_read_file(path, &bytes[0]);
        const kept before = keep(session);
        const uint64_t waits = far_waits(device);
        far_lose(device, nth);
        const kvf_status status = act(session, path, &error);
        if (nth == 0) {
            assert_int_equal(status, KVF_OK);
            n_waits = far_waits(device) - waits;
            assert_true(n_waits > 0);
        } else {
            if (status != KVF_DEVICE_LOST)
                fail_msg("wait %u: status %d: %s", nth, (int)status, error.message);
            assert_non_null(strstr(error.message, "lost"));
            expect_kept(session, before);
            uint8_t *now = snap_read_file(path, &bytes[1]);
            assert_true(bytes[1] >= bytes[0]); /* an append may have begun; the state is the old */
            free(now);
            kvf_session *old = snap_load(snap_device, path, &(kvf_load_options){.verify = true});
            assert_int_equal(kvf_session_n_tokens(old), 150);
            kvf_session_close(old);
            /* No chunk was left open. */
            assert_int_equal(kvf_session_commit(session, &error), KVF_INVALID_ARGUMENT);
            assert_int_equal(act(session, path, &error), KVF_DEVICE_LOST);
        }
        free(file);
        kvf_session_close(session);
        assert_int_equal(device->live_bytes[KVF_MEMORY_CACHE], 0);
        kvf_device_close(device);
    }
}

static void a_device_lost_in_a_chunk_leaves_the_session(void **state)
{
    (void)state;
    lose_in(act_step);
}

/* By list and by mask, at every wait; it is not said that nothing was selected. */
static void a_lost_device_has_no_selection(void **state)
{
    (void)state;
    for (int profile = 0; profile < KVF_PROFILE_COUNT; profile++)
        for (uint32_t nth = 1;; nth++) {
            kvf_device *device = open_far();
            kvf_session *session = snap_open(device, (kvf_profile_id)profile, false);
            kvf_error error;
            int32_t list[64];
            uint32_t n = 7;
            snap_grow(session, 90);
            uint64_t waits = far_waits(device);
            assert_int_equal(kvf_session_selection(session, 3, list, &n, &error), KVF_OK);
            waits = far_waits(device) - waits;
            assert_true(n > 0);
            far_lose(device, nth);
            const kvf_status status = kvf_session_selection(session, 3, list, &n, &error);
            assert_int_equal(status, nth > waits ? KVF_OK : KVF_DEVICE_LOST);
            if (status != KVF_OK)
                assert_non_null(strstr(error.message, "lost"));
            kvf_session_close(session);
            kvf_device_close(device);
            if (status == KVF_OK)
                break;
        }
}

static void a_device_lost_in_a_save_leaves_the_file(void **state)
{
    (void)state;
    lose_in(act_save);
}

static void a_device_lost_in_a_restore_is_not_something_else(void **state)
{
    (void)state;
    lose_in(act_load);
    lose_in(act_repack);
    lose_in(act_find);
}

/* ---- Memory that runs out ----------------------------------------------------------------- */

static kvf_status act_fork(kvf_session *session, const char *path, kvf_error *error)
{
    kvf_session *fork;
    (void)path;
    const kvf_status status = kvf_session_fork(session, &fork, error);
    if (status == KVF_OK)
        kvf_session_close(fork);
    return status;
}

static kvf_status act_truncate(kvf_session *session, const char *path, kvf_error *error)
{
    kvf_replay replay;
    (void)path;
    const kvf_status status = kvf_session_truncate(session, 100, &replay, error);
    kvf_replay_free(&replay);
    return status;
}

/* Each allocation of the action fails once; then it is done. */
static void run_short_in(action *act)
{
    kvf_device *device = open_far();
    kvf_session *session = snap_open(device, KVF_PROFILE_FOLD, false);
    const char *path = snap_path("short");
    kvf_error error;
    snap_grow(session, 96);
    snap_grow(session, 150);
    snap_save(session, path);
    const uint64_t digest = snap_digest(session, true);
    uint64_t live[KVF_MEMORY_CLASS_COUNT];
    kvf_status status = KVF_OUT_OF_MEMORY;
    uint32_t nth = 0;
    while (status == KVF_OUT_OF_MEMORY && nth < 10000) {
        kvf_device_trim(device); /* no empty slab helps out */
        memcpy(live, device->live_bytes, sizeof live);
        far_fail_alloc(device, ++nth);
        status = act(session, path, &error);
        if (status == KVF_OUT_OF_MEMORY) {
            far_fail_alloc(device, 0);
            assert_true(snap_digest(session, true) == digest);
            assert_int_equal(device->live_bytes[KVF_MEMORY_CHECKPOINT],
                             live[KVF_MEMORY_CHECKPOINT]);
        }
    }
    far_fail_alloc(device, 0);
    if (status != KVF_OK)
        fail_msg("%s", error.message);
    assert_true(nth > 1);
    kvf_session_close(session);
    for (int i = 0; i < KVF_MEMORY_CLASS_COUNT; i++)
        assert_int_equal(device->live_bytes[i], 0);
    kvf_device_close(device);
}

static void memory_that_runs_out_changes_nothing(void **state)
{
    (void)state;
    run_short_in(act_step);
    run_short_in(act_fork);
    run_short_in(act_load);
    run_short_in(act_repack);
    run_short_in(act_truncate);
}

/* ---- A model -------------------------------------------------------------------------------- */

#define PROMPT 70
#define VOCAB 320

static kvf_model *load_model(kvf_device *device, kvf_session **session)
{
    kvf_model *model;
    kvf_error error;
    const kvf_session_options options = {
        .profile = KVF_PROFILE_FOLD, .max_tokens = 256, .chunk_tokens = PROMPT};
    if (kvf_model_load(device, KVF_TEST_MODEL, PROMPT, &model, &error) != KVF_OK ||
        kvf_model_open_session(model, &options, session, &error) != KVF_OK)
        fail_msg("%s", error.message);
    return model;
}

static void fill_prompt(int32_t *ids)
{
    for (int i = 0; i < PROMPT; i++)
        ids[i] = 97 + i * 7 % 26;
}

static void a_model_gives_the_same_logits(void **state)
{
    (void)state;
    static float logits[2][PROMPT * VOCAB];
    float last[2][VOCAB];
    int32_t ids[PROMPT];
    fill_prompt(ids);
    for (int i = 0; i < 2; i++) {
        kvf_device *device = i ? open_far() : snap_device;
        kvf_session *session;
        kvf_error error;
        kvf_model *model = load_model(device, &session);
        if (forward_alone(model, session, ids, PROMPT, logits[i], &error) != KVF_OK ||
            forward_alone(model, session, ids, 1, NULL, &error) != KVF_OK)
            fail_msg("%s", error.message);
        memcpy(last[i], kvf_session_logits(session), sizeof last[i]);
        kvf_session_close(session);
        kvf_model_free(model);
        if (i)
            kvf_device_close(device);
    }
    assert_memory_equal(logits[0], logits[1], sizeof logits[0]);
    assert_memory_equal(last[0], last[1], sizeof last[0]);
}

/* Two waits a token: the layers' findings with the logits, and nothing after them. */
static void a_forward_pass_waits_for_its_end_alone(void **state)
{
    (void)state;
    int32_t ids[PROMPT];
    fill_prompt(ids);
    kvf_session *session;
    kvf_error error;
    kvf_device *device = open_far();
    kvf_model *model = load_model(device, &session);
    assert_int_equal(forward_alone(model, session, ids, PROMPT, NULL, &error), KVF_OK);
    const uint64_t waits = far_waits(device);
    for (int i = 0; i < 3; i++)
        assert_int_equal(forward_alone(model, session, ids, 1, NULL, &error), KVF_OK);
    assert_true(far_waits(device) - waits <= 2 * 3);
    /* Lost in either: logits and tokens stay, no chunk is open. */
    float before[VOCAB];
    memcpy(before, kvf_session_logits(session), sizeof before);
    far_lose(device, 1);
    assert_int_equal(forward_alone(model, session, ids, 1, NULL, &error), KVF_DEVICE_LOST);
    assert_int_equal(kvf_session_n_tokens(session), PROMPT + 3);
    assert_memory_equal(kvf_session_logits(session), before, sizeof before);
    assert_int_equal(kvf_session_commit(session, &error), KVF_INVALID_ARGUMENT);
    kvf_session_close(session);
    kvf_model_free(model);
    kvf_device_close(device);
}

/* The device has the logits alone, and is lost before somebody asks: nothing is drawn from them. */
static void logits_that_were_lost_are_not_drawn_from(void **state)
{
    (void)state;
    int32_t ids[PROMPT];
    kvf_candidate candidates[VOCAB];
    fill_prompt(ids);
    kvf_session *session;
    kvf_error error;
    kvf_device *device = open_far();
    kvf_model *model = load_model(device, &session);
    kvf_sampling sampling = {.changes = {.repeat_penalty = 1}, .temperature = 1};
    kvf_batch_item item = {.session = session, .ids = ids, .n = PROMPT, .sampling = &sampling};
    assert_int_equal(kvf_model_forward(model, batch_of(session, &error), &item, 1, &error), KVF_OK);
    assert_true(sampling.is_sampled);
    const uint64_t waits = far_waits(device);
    const kvf_drawing drawing = {candidates, NULL, VOCAB};
    uint32_t id;
    kvf_sampler sampler = {.temperature = 1, .top_p = 1, .top_k = 40, .state = 3};
    assert_int_equal(kvf_draw_token(&sampler, session, &sampling, &drawing, &id, &error), KVF_OK);
    assert_int_equal(far_waits(device), waits);
    far_lose(device, 1);
    sampler.top_k = 0; /* of all tokens: they are in the row alone */
    const kvf_sampler before = sampler;
    assert_int_equal(kvf_draw_token(&sampler, session, &sampling, &drawing, &id, &error),
                     KVF_DEVICE_LOST);
    assert_memory_equal(&sampler, &before, sizeof before);
    assert_true(isnan(kvf_session_logits(session)[0]));
    kvf_session_close(session);
    kvf_model_free(model);
    kvf_device_close(device);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_session_holds_what_one_on_the_cpu_does),
        cmocka_unit_test(a_file_goes_from_one_device_to_the_other),
        cmocka_unit_test(a_file_is_restored_in_every_profile),
        cmocka_unit_test(forks_go_their_own_ways_while_work_is_queued),
        cmocka_unit_test(truncate_is_as_on_the_cpu),
        cmocka_unit_test(a_device_lost_in_a_chunk_leaves_the_session),
        cmocka_unit_test(a_lost_device_has_no_selection),
        cmocka_unit_test(a_device_lost_in_a_save_leaves_the_file),
        cmocka_unit_test(a_device_lost_in_a_restore_is_not_something_else),
        cmocka_unit_test(memory_that_runs_out_changes_nothing),
        cmocka_unit_test(a_model_gives_the_same_logits),
        cmocka_unit_test(a_forward_pass_waits_for_its_end_alone),
        cmocka_unit_test(logits_that_were_lost_are_not_drawn_from),
    };
    return cmocka_run_group_tests(tests, snap_setup, snap_teardown);
}
