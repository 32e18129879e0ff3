/*
 * Batches on a device whose memory the host cannot touch: what runs out of memory fails alone, a
 * lost device fails all and takes none, and what the host has of the sessions stays usable.
 */
#define SMALL_CHUNK 140 /* what a step brings: a device is opened again and again */
#include "cache/small_batch.h"

#include <stdio.h>
#include <unistd.h>

#include "cache/compare.h"
#include "far/far.h"
#include "model/alone.h"

#define N_ITEMS 3
#define VOCAB 320
#define HELD 62 /* tokens that the sessions begin with, or two more */

static void open_far(void)
{
    const kvf_device_options options = {.backend = "far", .isa = "cpu"};
    small_piece = calloc(1, sizeof *small_piece);
    small_in = calloc(1, sizeof *small_in);
    assert_int_equal(kvf_device_open(&options, &small_device, NULL), KVF_OK);
    small_there = small_device->backend->alloc(small_device, sizeof *small_in, KVF_PLACE_DEVICE);
    assert_true(small_piece && small_in && small_there);
    small_fill(small_in->bias, sizeof small_in->bias / sizeof(float), 1);
    small_fill(small_in->norm, 512, 2);
    SMALL_SEND(bias, sizeof small_in->bias / sizeof(float));
    SMALL_SEND(norm, 512);
}

static void close_far(void)
{
    small_device->backend->release(small_device, small_there, sizeof *small_there);
    for (int i = 0; i < KVF_MEMORY_CLASS_COUNT; i++)
        assert_int_equal(small_device->live_bytes[i], 0);
    kvf_device_close(small_device);
    free(small_in);
    free(small_piece);
}

/* A session, a fork of it and another one; parts of a step. */
static void open_sessions(small_part *parts)
{
    static const uint32_t sizes[N_ITEMS] = {70, 1, 66};
    kvf_error error;
    for (uint32_t i = 0; i < N_ITEMS; i++) {
        parts[i] = (small_part){.n = sizes[i], .text = i};
        if (i == 1) {
            assert_int_equal(kvf_session_fork(parts[0].session, &parts[1].session, &error), KVF_OK);
            continue;
        }
        parts[i].session = small_open(KVF_PROFILE_FOLD, 2);
        small_feed(parts[i].session, HELD + i, i);
    }
}

/* Every allocation of a batch fails once: one item says so, the others hold what they should. */
static void an_item_without_memory_fails_alone(void **state)
{
    (void)state;
    uint32_t failures[N_ITEMS] = {0};
    open_far();
    for (uint32_t nth = 1; nth < 1000; nth++) {
        kvf_batch *batch = small_open_batch(KVF_PROFILE_FOLD, N_ITEMS);
        small_part parts[N_ITEMS];
        kvf_batch_item items[N_ITEMS];
        kvf_error error;
        uint32_t n_failed = 0;
        open_sessions(parts);
        small_items(parts, N_ITEMS, items);
        kvf_device_trim(small_device); /* no empty slab helps out */
        far_fail_alloc(small_device, nth);
        assert_int_equal(small_batch(batch, items, N_ITEMS, 300, &error), KVF_OK);
        far_fail_alloc(small_device, 0);
        for (uint32_t i = 0; i < N_ITEMS; i++) {
            kvf_session *clean = small_open(KVF_PROFILE_FOLD, 2);
            small_feed(clean, i == 1 ? HELD : HELD + i, i == 1 ? 0 : i);
            if (items[i].status == KVF_OK) {
                small_feed(clean, parts[i].n, i);
            } else {
                assert_int_equal(items[i].status, KVF_OUT_OF_MEMORY);
                assert_non_null(strstr(items[i].error.message, "no memory"));
                n_failed++;
                failures[i]++;
            }
            assert_same_session(parts[i].session, clean);
            kvf_session_close(clean);
        }
        assert_true(n_failed <= 1);
        for (uint32_t i = 0; i < N_ITEMS; i++)
            kvf_session_close(parts[i].session);
        kvf_batch_close(batch);
        if (n_failed == 0)
            break;
    }
    for (uint32_t i = 0; i < N_ITEMS; i++)
        assert_true(failures[i] > 2);
    close_far();
}

/* Every allocation of kvf_batch_open fails once. */
static void a_batch_that_finds_no_memory_leaves_nothing(void **state)
{
    (void)state;
    const kvf_session_options options = {
        .profile = KVF_PROFILE_TILED, .max_tokens = 512, .batch_sessions = 4};
    kvf_batch *batch = NULL;
    kvf_error error;
    open_far();
    uint32_t nth = 0;
    while (!batch && nth < 100) {
        far_fail_alloc(small_device, ++nth);
        const kvf_status status =
            kvf_batch_open(small_device, &small_geometry, &options, &batch, &error);
        far_fail_alloc(small_device, 0);
        if (status == KVF_OK)
            break;
        assert_int_equal(status, KVF_OUT_OF_MEMORY);
        assert_non_null(strstr(error.message, "of 4 sessions"));
        assert_int_equal(small_device->live_bytes[KVF_MEMORY_SCRATCH], 0);
    }
    assert_true(nth > 5);
    kvf_batch_close(batch);
    close_far();
}

/*
 * Lost before each of the first pieces of work of a batch, and before every third of the others:
 * nothing is committed, ids and logits are as they were. What commit queues comes after the wait:
 * that is the last round, in which nothing is lost.
 */
static void a_lost_device_fails_all_and_commits_none(void **state)
{
    (void)state;
    kvf_status status = KVF_DEVICE_LOST;
    uint64_t nth = 0;
    while (status == KVF_DEVICE_LOST) {
        small_part parts[N_ITEMS];
        kvf_batch_item items[N_ITEMS];
        float before[N_ITEMS][SMALL_VOCAB];
        kvf_error error;
        open_far();
        kvf_batch *batch = small_open_batch(KVF_PROFILE_FOLD, N_ITEMS);
        open_sessions(parts);
        small_items(parts, N_ITEMS, items);
        for (uint32_t i = 0; i < N_ITEMS; i++)
            memcpy(before[i], kvf_session_logits(parts[i].session), sizeof before[i]);
        const uint64_t waits = far_waits(small_device);
        nth += nth < 12 ? 1 : 3;
        far_lose_at(small_device, nth);
        status = small_batch(batch, items, N_ITEMS, 300, &error);
        assert_int_equal(far_waits(small_device) - waits, 1);
        assert_true(status == KVF_OK || status == KVF_DEVICE_LOST);
        for (uint32_t i = 0; status == KVF_DEVICE_LOST && i < N_ITEMS; i++) {
            kvf_session *fork;
            assert_int_equal(items[i].status, KVF_DEVICE_LOST);
            assert_non_null(strstr(items[i].error.message, "lost"));
            const uint64_t n = i == 2 ? HELD + 2 : HELD;
            assert_int_equal(kvf_session_n_tokens(parts[i].session), n);
            assert_int_equal(kvf_session_tokens(parts[i].session)[n - 1],
                             small_token(n - 1, i == 1 ? 0 : i));
            assert_memory_equal(kvf_session_logits(parts[i].session), before[i], sizeof before[i]);
            assert_int_equal(kvf_session_fork(parts[i].session, &fork, &error), KVF_DEVICE_LOST);
            assert_null(fork);
        }
        for (uint32_t i = 0; i < N_ITEMS; i++)
            assert_int_equal(kvf_session_close(parts[i].session), KVF_OK);
        kvf_batch_close(batch);
        close_far();
    }
    assert_true(nth > 50);
}

/* ---- A model ----------------------------------------------------------------------------------
 */

typedef struct engine {
    kvf_device *device;
    kvf_model *model;
    kvf_batch *batch;
    kvf_session *sessions[N_ITEMS];
} engine;

static const kvf_session_options model_options = {
    .profile = KVF_PROFILE_FOLD, .max_tokens = 256, .chunk_tokens = 64, .batch_sessions = N_ITEMS};

static void require(kvf_status status, const kvf_error *error)
{
    if (status != KVF_OK)
        fail_msg("%s", error->message);
}

static int32_t id_of(uint32_t session, uint64_t t)
{
    return (int32_t)(97 + (t * 7 + session * 5) % 26);
}

static kvf_status step(engine *e, const uint32_t *n, kvf_batch_item *items, kvf_error *error)
{
    static int32_t ids[N_ITEMS][64];
    for (uint32_t i = 0; i < N_ITEMS; i++) {
        const uint64_t first = kvf_session_n_tokens(e->sessions[i]);
        for (uint32_t t = 0; t < n[i]; t++)
            ids[i][t] = id_of(i, first + t);
        items[i] = (kvf_batch_item){.session = e->sessions[i], .ids = ids[i], .n = n[i]};
    }
    return kvf_model_forward(e->model, e->batch, items, N_ITEMS, error);
}

/* Three sessions of different lengths, the second a fork of the first that goes its own way. */
static void open_engine(const char *backend, const char *isa, engine *e)
{
    const kvf_device_options options = {.backend = backend, .isa = isa, .n_threads = 1};
    kvf_error error;
    kvf_batch_item items[N_ITEMS];
    require(kvf_device_open(&options, &e->device, &error), &error);
    require(kvf_model_load(e->device, KVF_TEST_MODEL, 64, &e->model, &error), &error);
    require(
        kvf_batch_open(e->device, &e->model->config.geometry, &model_options, &e->batch, &error),
        &error);
    for (int i = 0; i < N_ITEMS; i++)
        require(kvf_model_open_session(e->model, &model_options, &e->sessions[i], &error), &error);
    static const uint32_t begin[N_ITEMS] = {40, 7, 1};
    require(step(e, begin, items, &error), &error);
}

static void close_engine(engine *e)
{
    for (int i = 0; i < N_ITEMS; i++)
        kvf_session_close(e->sessions[i]);
    kvf_batch_close(e->batch);
    kvf_model_free(e->model);
    kvf_device_close(e->device);
}

static void logits_are_those_of_the_cpu(void **state)
{
    (void)state;
    static const uint32_t sizes[][N_ITEMS] = {{1, 1, 1}, {1, 30, 2}, {1, 1, 61}, {2, 1, 1}};
    engine cpu;
    engine far;
    kvf_batch_item items[N_ITEMS];
    kvf_error error;
    open_engine("cpu", NULL, &cpu);
    open_engine("far", "cpu", &far);
    for (size_t k = 0; k < sizeof sizes / sizeof *sizes; k++) {
        require(step(&cpu, sizes[k], items, &error), &error);
        require(step(&far, sizes[k], items, &error), &error);
        for (int i = 0; i < N_ITEMS; i++)
            assert_memory_equal(kvf_session_logits(cpu.sessions[i]),
                                kvf_session_logits(far.sessions[i]), VOCAB * sizeof(float));
    }
    for (int i = 0; i < N_ITEMS; i++)
        assert_true(kvf_session_n_tokens(cpu.sessions[i]) == kvf_session_n_tokens(far.sessions[i]));
    close_engine(&cpu);
    close_engine(&far);
}

/* The ids of a session of the host, into a session of another device. */
static void append_rest(engine *e, kvf_session *session, const int32_t *ids, uint64_t n)
{
    kvf_error error;
    for (uint64_t at = kvf_session_n_tokens(session); at < n; at++) {
        kvf_batch_item item = {.session = session, .ids = ids + at, .n = 1};
        require(kvf_model_forward(e->model, e->batch, &item, 1, &error), &error);
    }
}

/*
 * The device is lost in a batch, at every wait: saves and forks say so and touch no file; the last
 * file, restored elsewhere and fed the ids that the host still has, goes on as if nothing was.
 */
static void a_lost_devices_sessions_go_on_from_their_files(void **state)
{
    (void)state;
    static const uint32_t one[N_ITEMS] = {1, 1, 1};
    char path[64];
    engine cpu;
    kvf_batch_item items[N_ITEMS];
    kvf_error error;
    snprintf(path, sizeof path, "/tmp/kvf_far_batch_%d.kvfold", (int)getpid());
    open_engine("cpu", NULL, &cpu);
    for (int i = 0; i < 6; i++)
        require(step(&cpu, one, items, &error), &error);
    for (uint32_t nth = 1; nth <= 2; nth++) {
        engine far;
        kvf_session *fork;
        kvf_session *restored;
        open_engine("far", "cpu", &far);
        require(step(&far, one, items, &error), &error);
        kvf_session_caller_state(far.sessions[1])[3] = 77;
        require(kvf_session_save(far.sessions[1], path, NULL, NULL, &error), &error);
        for (int i = 0; i < 4; i++)
            require(step(&far, one, items, &error), &error);
        far_lose(far.device, nth);
        assert_int_equal(step(&far, one, items, &error), KVF_DEVICE_LOST);
        assert_non_null(strstr(error.message, "lost"));
        assert_int_equal(kvf_session_n_tokens(far.sessions[1]), 7 + 5);
        assert_int_equal(kvf_session_caller_state(far.sessions[1])[3], 77);
        assert_int_equal(kvf_session_fork(far.sessions[1], &fork, &error), KVF_DEVICE_LOST);
        assert_int_equal(kvf_session_save(far.sessions[1], path, NULL, NULL, &error),
                         KVF_DEVICE_LOST);
        char other[80];
        snprintf(other, sizeof other, "%s.other", path);
        assert_int_equal(kvf_session_save(far.sessions[0], other, NULL, NULL, &error),
                         KVF_DEVICE_LOST);
        assert_int_not_equal(access(other, F_OK), 0);
        /* From the file, on another device, with the ids that are still there. */
        int32_t ids[13];
        memcpy(ids, kvf_session_tokens(far.sessions[1]), 12 * sizeof *ids);
        ids[12] = id_of(1, 12);
        require(kvf_session_load(cpu.device, path, NULL, &restored, &error), &error);
        assert_int_equal(kvf_session_n_tokens(restored), 8);
        assert_int_equal(kvf_session_caller_state(restored)[3], 77);
        append_rest(&cpu, restored, ids, 13);
        assert_memory_equal(kvf_session_logits(restored), kvf_session_logits(cpu.sessions[1]),
                            VOCAB * sizeof(float));
        kvf_session_close(restored);
        close_engine(&far);
        remove(path);
    }
    close_engine(&cpu);
}

static void look(void *user, const char *name, uint32_t layer, const void *values, uint64_t n,
                 uint64_t width)
{
    ++*(uint64_t *)user;
    (void)name, (void)layer, (void)values, (void)n, (void)width;
}

/*
 * An operation finds no memory, and the wait that is told is one of those in the middle of the
 * pass, for an observer: the pass fails all the same, and the next one gives what it should.
 */
static void a_pass_that_is_looked_at_is_not_taken_with_what_was_not_done(void **state)
{
    (void)state;
    static const uint32_t sizes[N_ITEMS] = {1, 30, 2};
    engine cpu;
    engine far;
    kvf_batch_item items[N_ITEMS];
    kvf_error error;
    uint64_t n_seen = 0;
    open_engine("cpu", NULL, &cpu);
    open_engine("far", "cpu", &far);
    far.model->observe = look;
    far.model->observe_user = &n_seen;
    for (uint32_t nth = 1; nth < 40; nth += 6) {
        far_lack_at(far.device, nth);
        assert_int_equal(step(&far, sizes, items, &error), KVF_OUT_OF_MEMORY);
        assert_non_null(strstr(error.message, "no memory"));
        for (int i = 0; i < N_ITEMS; i++) {
            assert_int_equal(items[i].status, KVF_OUT_OF_MEMORY);
            assert_int_equal(kvf_session_n_tokens(far.sessions[i]),
                             kvf_session_n_tokens(cpu.sessions[i]));
        }
    }
    assert_true(n_seen > 0);
    require(step(&cpu, sizes, items, &error), &error);
    require(step(&far, sizes, items, &error), &error);
    for (int i = 0; i < N_ITEMS; i++)
        assert_memory_equal(kvf_session_logits(cpu.sessions[i]),
                            kvf_session_logits(far.sessions[i]), VOCAB * sizeof(float));
    close_engine(&cpu);
    close_engine(&far);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_item_without_memory_fails_alone),
        cmocka_unit_test(a_batch_that_finds_no_memory_leaves_nothing),
        cmocka_unit_test(a_lost_device_fails_all_and_commits_none),
        cmocka_unit_test(logits_are_those_of_the_cpu),
        cmocka_unit_test(a_lost_devices_sessions_go_on_from_their_files),
        cmocka_unit_test(a_pass_that_is_looked_at_is_not_taken_with_what_was_not_done),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
