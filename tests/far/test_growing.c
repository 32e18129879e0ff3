/*
 * After a session's first token nothing is allocated but pages, copies on write and checkpoints:
 * calls of the backend's alloc, and of malloc on the CPU, are counted against arithmetic of the
 * test's own, on the CPU and on a device whose memory the host cannot touch.
 */
#include "cache/small_batch.h"

#include "cache/failing_malloc.h"
#include "cache/session.h"
#include "far/far.h"
#include "model/model.h"

#define N_ITEMS 3
#define MODEL_VOCAB 320

/* ---- A backend that counts --------------------------------------------------------------- */

static const kvf_backend *counted_backend;
static kvf_backend counting_backend;
static uint64_t n_allocations;

static void *counted_alloc(kvf_device *device, size_t bytes, kvf_place place)
{
    n_allocations++;
    return counted_backend->alloc(device, bytes, place);
}

static kvf_device *open_counted(const char *backend, const char *isa)
{
    const kvf_device_options options = {.backend = backend, .isa = isa, .n_threads = 1};
    kvf_device *device;
    kvf_error error;
    if (kvf_device_open(&options, &device, &error) != KVF_OK)
        fail_msg("%s", error.message);
    counted_backend = device->backend;
    counting_backend = *counted_backend;
    counting_backend.alloc = counted_alloc;
    device->backend = &counting_backend;
    device->slab_bytes = 0; /* every page is an allocation: they are counted */
    return device;
}

/* 0 where nobody counts: far itself calls malloc for its queue. */
static uint64_t n_mallocs(void)
{
#ifdef KVF_TEST_WRAPPED_MALLOC
    return counted_backend->addresses_host_memory ? failing_malloc_calls() : 0;
#else
    return 0;
#endif
}

/* ---- What a step may allocate ------------------------------------------------------------- */

typedef struct growth {
    uint64_t pages;       /* of the device, each with a record on the host */
    uint64_t checkpoints; /* each a page, logits and a record */
} growth;

/* Pages that rows first .. end come to lie in, of 64 rows each, without those that begin earlier.
 */
static uint64_t fresh_pages(uint64_t first, uint64_t end)
{
    return (end + 63) / 64 - (first + 63) / 64;
}

/* And the one that the first lies in, where it is another session's as well. */
static uint64_t row_pages(uint64_t first, uint64_t end, bool shared)
{
    return fresh_pages(first, end) + (shared && end > first && first % 64 != 0);
}

/* Of n more tokens of a session that holds `first`; `shared`: all its pages are a fork's too. */
static void add_growth(const kvf_geometry *geometry, uint64_t first, uint32_t n, bool shared,
                       bool checkpoints, growth *sum)
{
    const uint64_t end = first + n;
    sum->pages += (end + 4095) / 4096 - (first + 4095) / 4096 + (shared && first % 4096 != 0);
    for (uint32_t i = 0; i < geometry->n_layers; i++) {
        const kvf_layer layer = geometry->layers[i];
        const uint64_t streams = layer.kind == KVF_LAYER_CSA ? 2 : 1; /* index rows too */
        sum->pages += row_pages(first, end, shared);
        /* Window pages that the chunk fills and leaves behind are the batch's scratch. */
        for (uint64_t page = (first + 63) / 64; end > 128 && (page + 1) * 64 <= end - 128; page++)
            sum->pages--;
        if (layer.kind == KVF_LAYER_WINDOW)
            continue;
        sum->pages += streams * row_pages(first / layer.ratio, end / layer.ratio, shared);
        /* A state that is written, where it is not alone; or that dropping the chunk needs. */
        const uint64_t in_window = first % layer.ratio;
        const bool undone =
            n > 1 && in_window + n > layer.ratio && (layer.kind == KVF_LAYER_CSA || in_window != 0);
        sum->pages += shared || undone ? streams : 0;
    }
    sum->checkpoints += checkpoints && end % 128 == 0;
}

static void expect_growth(const growth *sum, uint64_t allocations, uint64_t mallocs)
{
    const uint64_t records = sum->pages + 2 * sum->checkpoints; /* its halves are a page */
    const uint64_t device = sum->pages + 2 * sum->checkpoints;
    assert_int_equal(n_allocations - allocations, device);
    if (mallocs) /* the CPU's own memory is malloc's as well */
        assert_int_equal(n_mallocs() - mallocs, device + records);
}

/* ---- Sessions ------------------------------------------------------------------------------ */

static const char *const devices[][2] = {{"cpu", NULL}, {"far", "cpu"}};

static void open_small(const char *backend, const char *isa)
{
    small_device = open_counted(backend, isa);
    small_piece = calloc(1, sizeof *small_piece);
    small_in = calloc(1, sizeof *small_in);
    small_there = small_device->backend->alloc(small_device, sizeof *small_in, KVF_PLACE_DEVICE);
    assert_true(small_piece && small_in && small_there);
    small_fill(small_in->bias, sizeof small_in->bias / sizeof(float), 1);
    small_fill(small_in->norm, 512, 2);
    SMALL_SEND(bias, sizeof small_in->bias / sizeof(float));
    SMALL_SEND(norm, 512);
}

static void close_small(void)
{
    small_device->backend->release(small_device, small_there, sizeof *small_there);
    kvf_device_close(small_device);
    free(small_in);
    free(small_piece);
}

static bool is_checkpointed(const kvf_session *session)
{
    return session->options.checkpoint_count != KVF_NO_CHECKPOINTS;
}

/* n[i] more tokens of each in one batch, nothing allocated but what they need. */
static void grow(kvf_batch *batch, small_part *parts, const uint32_t *n, const bool *shared)
{
    kvf_batch_item items[N_ITEMS];
    kvf_error error;
    growth sum = {0};
    for (uint32_t i = 0; i < N_ITEMS; i++) {
        parts[i].n = n[i];
        add_growth(&small_geometry, kvf_session_n_tokens(parts[i].session), n[i],
                   shared && shared[i], is_checkpointed(parts[i].session), &sum);
    }
    small_items(parts, N_ITEMS, items);
    const uint64_t allocations = n_allocations;
    const uint64_t mallocs = n_mallocs();
    if (small_batch(batch, items, N_ITEMS, 300, &error) != KVF_OK)
        fail_msg("%s", error.message);
    expect_growth(&sum, allocations, mallocs);
}

static void sessions_allocate_pages_alone(void **state)
{
    (void)state;
    static const uint32_t pieces[][N_ITEMS] = {
        {1, 1, 1}, {62, 2, 5}, {1, 61, 200}, {64, 64, 50}, {128, 100, 1}, {3, 290, 7}, {1, 1, 259}};
    for (size_t d = 0; d < sizeof devices / sizeof *devices; d++)
        for (int profile = 0; profile < KVF_PROFILE_COUNT; profile++) {
            small_part parts[N_ITEMS];
            open_small(devices[d][0], devices[d][1]);
            kvf_batch *batch = small_open_batch((kvf_profile_id)profile, N_ITEMS);
            for (uint32_t i = 0; i < N_ITEMS; i++)
                parts[i] = (small_part){
                    .session = small_open((kvf_profile_id)profile, i ? KVF_NO_CHECKPOINTS : 2),
                    .text = i};
            for (size_t i = 0; i < sizeof pieces / sizeof *pieces; i++)
                grow(batch, parts, pieces[i], NULL);
            for (int i = 0; i < 70; i++)
                grow(batch, parts, pieces[0], NULL);
            for (uint32_t i = 0; i < N_ITEMS; i++)
                kvf_session_close(parts[i].session);
            kvf_batch_close(batch);
            close_small();
        }
}

/*
 * The first to write, in every stream, copies what is shared; then both are alone. Windows of four
 * tokens end with the chunks: else what dropping needs of a state is kept, and the other copies it.
 */
static void forks_copy_what_they_write_and_no_more(void **state)
{
    (void)state;
    static const uint32_t begin[N_ITEMS] = {70, 100, 1};
    static const uint32_t split[N_ITEMS] = {4, 1, 1};
    static const uint32_t alone[N_ITEMS] = {1, 3, 1};
    static const bool first[N_ITEMS] = {true, false, false};
    for (size_t d = 0; d < sizeof devices / sizeof *devices; d++) {
        small_part parts[N_ITEMS];
        kvf_error error;
        open_small(devices[d][0], devices[d][1]);
        kvf_batch *batch = small_open_batch(KVF_PROFILE_FOLD, N_ITEMS);
        for (uint32_t i = 0; i < N_ITEMS; i++)
            parts[i] = (small_part){.session = small_open(KVF_PROFILE_FOLD, KVF_NO_CHECKPOINTS),
                                    .text = i};
        grow(batch, parts, begin, NULL);
        for (int i = 0; i < 12; i++) {
            kvf_session_close(parts[0].session);
            assert_int_equal(kvf_session_fork(parts[1].session, &parts[0].session, &error), KVF_OK);
            grow(batch, parts, split, first);
            grow(batch, parts, alone, NULL);
        }
        for (uint32_t i = 0; i < N_ITEMS; i++)
            kvf_session_close(parts[i].session);
        kvf_batch_close(batch);
        close_small();
    }
}

/* ---- A model -------------------------------------------------------------------------------- */

static void require(kvf_status status, const kvf_error *error)
{
    if (status != KVF_OK)
        fail_msg("%s", error->message);
}

/* The first n_items sessions get a token each. */
static void decode(kvf_model *model, kvf_batch *batch, kvf_session **sessions, uint32_t n_items)
{
    static int32_t ids[N_ITEMS];
    kvf_batch_item items[N_ITEMS];
    kvf_error error;
    growth sum = {0};
    for (uint32_t i = 0; i < n_items; i++) {
        const uint64_t first = kvf_session_n_tokens(sessions[i]);
        ids[i] = (int32_t)((first * 7 + i) % MODEL_VOCAB);
        items[i] = (kvf_batch_item){.session = sessions[i], .ids = &ids[i], .n = 1};
        add_growth(&model->config.geometry, first, 1, false, true, &sum);
    }
    const uint64_t allocations = n_allocations;
    const uint64_t mallocs = n_mallocs();
    require(kvf_model_forward(model, batch, items, n_items, &error), &error);
    expect_growth(&sum, allocations, mallocs);
}

static void a_model_allocates_nothing_of_its_own(void **state)
{
    (void)state;
    const kvf_session_options options = {.profile = KVF_PROFILE_FOLD,
                                         .max_tokens = 256,
                                         .chunk_tokens = 8,
                                         .batch_sessions = N_ITEMS};
    for (size_t d = 0; d < sizeof devices / sizeof *devices; d++) {
        kvf_device *device = open_counted(devices[d][0], devices[d][1]);
        kvf_model *model;
        kvf_batch *batch;
        kvf_session *sessions[N_ITEMS];
        kvf_error error;
        require(kvf_model_load(device, KVF_TEST_MODEL, 8, &model, &error), &error);
        model->from_disk = device->backend->addresses_host_memory;
        require(kvf_batch_open(device, &model->config.geometry, &options, &batch, &error), &error);
        for (int i = 0; i < N_ITEMS; i++)
            require(kvf_model_open_session(model, &options, &sessions[i], &error), &error);
        int32_t id = 5;
        kvf_batch_item item = {.session = sessions[0], .ids = &id, .n = 1};
        require(kvf_model_forward(model, batch, &item, 1, &error), &error);
        for (int i = 0; i < 140; i++)
            decode(model, batch, sessions, i < 4 ? 1 : i < 8 ? 2 : N_ITEMS);
        for (int i = 0; i < N_ITEMS; i++)
            kvf_session_close(sessions[i]);
        kvf_batch_close(batch);
        kvf_model_free(model);
        kvf_device_close(device);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sessions_allocate_pages_alone),
        cmocka_unit_test(forks_copy_what_they_write_and_no_more),
        cmocka_unit_test(a_model_allocates_nothing_of_its_own),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
