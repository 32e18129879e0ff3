/*
 * What the GPU backend does when the GPU fails it, by faults that the emulated GPU is
 * told to have: a status, a sentence that says what happened, nothing left behind, and the
 * session's tokens and rows as they were.
 */
#include "model/golden.h"

#include "backend/gpu/gpu.h"
#include "emulator.h"
#include "model/sample.h"

#include <unistd.h>

#define PROMPT 17 /* 4 rows of the layers that pool 4 tokens */

static kvf_emulator_counters before; /* the test */

static int reset(void **state)
{
    (void)state;
    kvf_emulator_reset();
    before = *kvf_emulator_get_counters();
    kvf_emulator_set_quiet(true);
    return 0;
}

static int nothing_is_left(void **state)
{
    (void)state;
    const kvf_emulator_counters *now = kvf_emulator_get_counters();
    assert_int_equal(now->live_objects, before.live_objects);
    assert_int_equal(now->live_buffers, before.live_buffers);
    assert_int_equal(now->live_bytes, before.live_bytes);
    assert_int_equal(now->mapped_bytes, before.mapped_bytes);
    return 0;
}

static kvf_status open_device(kvf_device **device, kvf_error *error)
{
    return kvf_device_open(&(kvf_device_options){.backend = "emulated"}, device, error);
}

static kvf_device *must_open(void)
{
    kvf_device *device;
    kvf_error error;
    require(open_device(&device, &error), &error);
    return device;
}

/* In one line. */
static void assert_says(const kvf_error *error, const char *part)
{
    assert_null(strchr(error->message, '\n'));
    if (!strstr(error->message, part))
        fail_msg("\"%s\" does not say \"%s\"", error->message, part);
}

/* ---- Opening ------------------------------------------------------------------------ */

static void assert_refused(kvf_status expected, const char *part)
{
    kvf_device *device;
    kvf_error error;
    assert_int_equal(open_device(&device, &error), expected);
    assert_int_equal(error.status, expected);
    assert_null(device);
    assert_says(&error, part);
    nothing_is_left(NULL);
}

static void a_gpu_without_the_features_is_refused(void **state)
{
    (void)state;
    kvf_emulator_fail_open(1);
    assert_refused(KVF_UNSUPPORTED, "simdgroup matrices");
    kvf_emulator_set_threadgroup_bytes(16384);
    assert_refused(KVF_UNSUPPORTED, "16384 bytes");
    kvf_emulator_reset();
    kvf_emulator_set_threadgroup_threads(256);
    assert_refused(KVF_UNSUPPORTED, "256 threads");
    kvf_emulator_reset();
    kvf_emulator_fail_buffer(1);
    assert_refused(KVF_OUT_OF_MEMORY, "no memory");
}

static void a_kernel_that_does_not_compile_is_named_with_its_line(void **state)
{
    (void)state;
    for (uint32_t file = 1; file <= KVF_GPU_FILE_COUNT; file++) {
        kvf_emulator_fail_compile(file);
        assert_refused(KVF_UNSUPPORTED, ".metal:12:5: error: ");
    }
    for (uint32_t kernel = 1; kernel <= KVF_KERNEL_COUNT; kernel++) {
        kvf_emulator_fail_pipeline(kernel);
        assert_refused(KVF_UNSUPPORTED, "has no kernel kvf_");
    }
}

/* Kernels of a type of weights are compiled when it is first met. */
static void a_kernel_of_the_weights_that_does_not_compile_is_named_too(void **state)
{
    (void)state;
    engine e = engine_open("emulated", 64);
    kvf_session *session = session_open(&e, KVF_PROFILE_FOLD, false, 256, 64);
    const int32_t id = 97;
    kvf_error error;
    kvf_emulator_fail_compile(1);
    assert_int_equal(forward_alone(e.model, session, &id, 1, NULL, &error), KVF_UNSUPPORTED);
    assert_int_equal(error.status, KVF_UNSUPPORTED);
    assert_says(&error, ".metal:12:5: error: ");
    assert_says(&error, "products.");
    assert_int_equal(kvf_session_n_tokens(session), 0);
    kvf_session_close(session);
    engine_close(&e);
}

static void an_isa_of_another_backend_is_refused(void **state)
{
    (void)state;
    kvf_device *device;
    kvf_error error;
    const kvf_device_options options = {.backend = "emulated", .isa = "avx2"};
    assert_int_equal(kvf_device_open(&options, &device, &error), KVF_UNSUPPORTED);
    assert_says(&error, "avx2");
}

/* ---- Memory --------------------------------------------------------------------------- */

static void an_allocation_beyond_the_limits_is_refused(void **state)
{
    (void)state;
    kvf_emulator_set_buffer_bytes(1 << 20);
    kvf_emulator_set_working_set_bytes((1 << 20) + (1 << 15)); /* a 64th is for operations */
    kvf_device *device = must_open();
    assert_null(kvf_device_alloc(device, KVF_MEMORY_CACHE, KVF_PLACE_DEVICE, (1 << 20) + 1));
    void *large = kvf_device_alloc(device, KVF_MEMORY_CACHE, KVF_PLACE_DEVICE, 1 << 20);
    assert_non_null(large);
    assert_null(kvf_device_alloc(device, KVF_MEMORY_CACHE, KVF_PLACE_DEVICE, 15872 + 1));
    assert_int_equal(device->live_bytes[KVF_MEMORY_CACHE], 1 << 20);
    kvf_device_release(device, KVF_MEMORY_CACHE, large, 1 << 20);
    kvf_device_close(device);
}

typedef kvf_status opener(kvf_device *device, kvf_profile_id profile, uint64_t max_tokens,
                          kvf_error *error);

static kvf_status open_batch(kvf_device *device, kvf_profile_id profile, uint64_t max_tokens,
                             kvf_error *error)
{
    kvf_geometry geometry;
    kvf_geometry_v4_flash(&geometry);
    const kvf_session_options options = {.profile = profile, .max_tokens = max_tokens};
    kvf_batch *batch;
    const kvf_status status = kvf_batch_open(device, &geometry, &options, &batch, error);
    kvf_batch_close(batch);
    return status;
}

static kvf_status open_session(kvf_device *device, kvf_profile_id profile, uint64_t max_tokens,
                               kvf_error *error)
{
    kvf_geometry geometry;
    kvf_geometry_v4_flash(&geometry);
    const kvf_session_options options = {.profile = profile, .max_tokens = max_tokens};
    kvf_session *session;
    const kvf_status status = kvf_session_open(device, &geometry, &options, &session, error);
    kvf_session_close(session);
    return status;
}

/* The context that a refusal named opens, and one more token does not. */
static void check_named_context(opener *open, kvf_device *device, kvf_profile_id profile,
                                const char *why)
{
    kvf_error error;
    assert_int_equal(open(device, profile, 1 << 20, &error), KVF_OUT_OF_MEMORY);
    assert_says(&error, why);
    const char *named = strstr(error.message, "the largest context that fits is ");
    assert_non_null(named);
    const unsigned long long largest = strtoull(named + 33, NULL, 10);
    assert_true(largest > 1000 && largest < 1 << 20);
    require(open(device, profile, largest, &error), &error);
    assert_int_equal(open(device, profile, largest + 1, &error), KVF_OUT_OF_MEMORY);
}

static void a_session_that_does_not_fit_names_the_context_that_would(void **state)
{
    (void)state;
    kvf_emulator_set_working_set_bytes(3ull << 30);
    kvf_device *device = must_open();
    assert_int_equal(kvf_device_memory_bytes(device), (3ull << 30) / 64 * 63);
    check_named_context(open_session, device, KVF_PROFILE_FOLD, "profile fold needs");
    check_named_context(open_session, device, KVF_PROFILE_LEGACY, "profile legacy needs");
    check_named_context(open_batch, device, KVF_PROFILE_LEGACY, " bytes for a batch; the device");
    /* What is in use already counts. */
    void *weights = kvf_device_alloc(device, KVF_MEMORY_WEIGHT, KVF_PLACE_DEVICE, 1 << 30);
    check_named_context(open_session, device, KVF_PROFILE_FOLD, "left of 3170893824");
    kvf_device_release(device, KVF_MEMORY_WEIGHT, weights, 1 << 30);
    kvf_device_close(device);

    kvf_emulator_set_working_set_bytes(64ull << 30);
    kvf_emulator_set_buffer_bytes(1ull << 28);
    device = must_open();
    check_named_context(open_batch, device, KVF_PROFILE_LEGACY, "in one piece (select.");
    kvf_device_close(device);
}

static void a_model_that_does_not_fit_says_why(void **state)
{
    (void)state;
    kvf_emulator_set_working_set_bytes(1 << 20);
    kvf_device *device = must_open();
    kvf_model *model;
    kvf_error error;
    assert_int_equal(kvf_model_load(device, KVF_TEST_MODEL, 64, &model, &error), KVF_OUT_OF_MEMORY);
    assert_says(&error, "of the weights do not fit");
    kvf_device_close(device);

    kvf_emulator_reset();
    kvf_emulator_set_buffer_bytes(1 << 18);
    device = must_open();
    assert_int_equal(kvf_model_load(device, KVF_TEST_MODEL, 64, &model, &error), KVF_OUT_OF_MEMORY);
    assert_says(&error, "in one piece; a buffer of Emulated GPU has at most 262144");
    assert_int_equal(device->mapped_bytes, 0);
    kvf_device_close(device);

    kvf_emulator_reset();
    device = must_open();
    bool refused = false; /* buffers for vectors come before, some of which can do with less */
    for (uint32_t nth = 1; nth < 100 && !refused; nth++) {
        kvf_emulator_fail_buffer(nth);
        if (kvf_model_load(device, KVF_TEST_MODEL, 64, &model, &error) == KVF_OK)
            kvf_model_free(model);
        else
            refused = strstr(error.message, "does not take") != NULL;
        assert_int_equal(device->mapped_bytes, 0);
    }
    assert_true(refused);
    kvf_device_close(device);
}

#define FEW 12 /* tokens of a chunk, whose activations fit a small buffer */

/* Logits of a prompt, in chunks of a few. */
static void feed_prompt(engine *e, float logits[PROMPT * VOCAB])
{
    int32_t ids[PROMPT];
    kvf_session *session = session_open(e, KVF_PROFILE_FOLD, false, 64, FEW);
    for (int i = 0; i < PROMPT; i++)
        ids[i] = 97 + i % 26;
    feed(e, session, ids, PROMPT, FEW, logits);
    kvf_session_close(session);
}

/* No byte of a matrix is copied: what the device gives is for vectors and tables alone. */
static void weights_are_read_where_they_are_mapped(void **state)
{
    (void)state;
    static float whole[PROMPT * VOCAB];
    static float parts[PROMPT * VOCAB];
    engine e = engine_open("emulated", FEW);
    const kvf_tensor_file *file;
    uint64_t matrix_bytes = 0;
    for (uint32_t i = 0; (file = kvf_tensor_set_file(e.model->files, i)); i++)
        matrix_bytes += file->map.bytes;
    const uint64_t copied = kvf_model_weight_bytes(&e.model->config, true);
    const uint64_t n_buffers = kvf_emulator_get_counters()->live_buffers;
    assert_int_equal(e.device->live_bytes[KVF_MEMORY_WEIGHT], copied);
    assert_int_equal(e.device->mapped_bytes, kvf_emulator_get_counters()->mapped_bytes);
    assert_true(e.device->mapped_bytes + copied > matrix_bytes - matrix_bytes / 64);
    assert_true(e.device->mapped_bytes < matrix_bytes + matrix_bytes / 64);
    feed_prompt(&e, whole);
    engine_close(&e);
    assert_int_equal(kvf_emulator_get_counters()->mapped_bytes, 0);

    /*
     * By buffers that are smaller than a file: tensors on both sides of each border. The largest
     * matrix has 1 MiB, and need not begin with a page. What operations need is larger.
     */
    kvf_error error;
    e.device = must_open();
    kvf_gpu_limits *limits = &((kvf_gpu_device *)e.device)->limits;
    const uint64_t buffer_bytes = limits->buffer_bytes;
    limits->buffer_bytes = (1 << 20) + (uint64_t)sysconf(_SC_PAGESIZE);
    require(kvf_model_load(e.device, KVF_TEST_MODEL, FEW, &e.model, &error), &error);
    limits->buffer_bytes = buffer_bytes;
    assert_true(kvf_emulator_get_counters()->live_buffers > n_buffers + 16);
    assert_int_equal(e.device->live_bytes[KVF_MEMORY_WEIGHT], copied);
    feed_prompt(&e, parts);
    assert_memory_equal(parts, whole, sizeof whole);
    engine_close(&e);
    assert_int_equal(kvf_emulator_get_counters()->mapped_bytes, 0);
}

/* What is not one shared mapping of a file, or no whole pages, Apple's driver would refuse. */
static void memory_that_cannot_be_mapped_is_refused(void **state)
{
    (void)state;
    kvf_error error;
    kvf_device *device = must_open();
    kvf_gpu *gpu = ((kvf_gpu_device *)device)->gpu;
    const size_t page = (size_t)sysconf(_SC_PAGESIZE);
    kvf_gpu_buffer buffer;
    kvf_file file;
    require(kvf_file_map(KVF_TEST_GOLDENS, &file, &error), &error);
    const uint8_t *bytes = file.data;
    assert_true(file.bytes > 3 * page);
    assert_false(kvf_gpu_driver_emulated.map_buffer(gpu, bytes, page, &buffer)); /* private */
    require(kvf_file_share(KVF_TEST_GOLDENS, &file, &error), &error);
    assert_false(kvf_gpu_driver_emulated.map_buffer(gpu, bytes + 64, page, &buffer));
    assert_false(kvf_gpu_driver_emulated.map_buffer(gpu, bytes, page + 64, &buffer));
    assert_false(kvf_gpu_driver_emulated.map_buffer(
        gpu, bytes, (file.bytes + page - 1) / page * page + page, &buffer));
    assert_true(kvf_gpu_driver_emulated.map_buffer(gpu, bytes + page, 2 * page, &buffer));
    assert_null(buffer.contents);
    /* The same bytes at another address, which no host's pointer is. */
    assert_memory_equal((const void *)(uintptr_t)buffer.gpu_address, bytes + page, 2 * page);
    assert_true(buffer.gpu_address != (uintptr_t)(bytes + page));
    kvf_gpu_driver_emulated.release_buffer(gpu, &buffer);
    kvf_file_unmap(&file);
    kvf_device_close(device);
}

/* The context that is named is that beside the weights, and it is what opens. */
static void mapped_weights_count_as_used(void **state)
{
    (void)state;
    kvf_emulator_set_working_set_bytes(3ull << 30);
    engine e = engine_open("emulated", 64);
    const uint64_t left = kvf_device_memory_bytes(e.device) - kvf_device_used_bytes(e.device);
    char text[64];
    snprintf(text, sizeof text, "the device has %llu left of", (unsigned long long)left);
    assert_true(e.device->mapped_bytes > 20u << 20);
    check_named_context(open_session, e.device, KVF_PROFILE_LEGACY, text);
    engine_close(&e);
}

#define N_SMALL 150
#define SMALL_BYTES 4352 /* a page of fp4 rows */

static void small_allocations_share_the_pages_of_the_gpu(void **state)
{
    (void)state;
    kvf_emulator_set_page_bytes(16384);
    kvf_device *device = must_open();
    const uint64_t n_before = kvf_emulator_get_counters()->live_buffers;
    uint8_t *small[N_SMALL];
    uint8_t bytes[SMALL_BYTES];
    for (int i = 0; i < N_SMALL; i++) {
        small[i] = kvf_device_alloc(device, KVF_MEMORY_CACHE, KVF_PLACE_DEVICE, SMALL_BYTES);
        assert_int_equal((uintptr_t)small[i] % 64, 0);
        memset(bytes, i, sizeof bytes);
        device->backend->write(device, small[i], bytes, sizeof bytes);
    }
    for (int i = 0; i < N_SMALL; i++) {
        kvf_error error;
        device->backend->read(device, bytes, small[i], sizeof bytes);
        require(device->backend->wait(device, &error), &error);
        for (int b = 0; b < SMALL_BYTES; b++)
            assert_int_equal(bytes[b], i);
    }
    /* Of 64 blocks; one for bytes on their way was there before. */
    assert_int_equal(kvf_emulator_get_counters()->live_buffers - n_before, 3);
    /* A freed block is used again; a size of its own gets a region of its own. */
    kvf_device_release(device, KVF_MEMORY_CACHE, small[7], SMALL_BYTES);
    small[7] = kvf_device_alloc(device, KVF_MEMORY_CACHE, KVF_PLACE_DEVICE, SMALL_BYTES);
    void *other = kvf_device_alloc(device, KVF_MEMORY_CACHE, KVF_PLACE_DEVICE, 1024);
    void *large = kvf_device_alloc(device, KVF_MEMORY_CACHE, KVF_PLACE_DEVICE, 8 * 16384);
    assert_int_equal(kvf_emulator_get_counters()->live_buffers - n_before, 5);
    kvf_device_release(device, KVF_MEMORY_CACHE, other, 1024);
    kvf_device_release(device, KVF_MEMORY_CACHE, large, 8 * 16384);
    for (int i = N_SMALL - 1; i >= 0; i--)
        kvf_device_release(device, KVF_MEMORY_CACHE, small[i], SMALL_BYTES);
    device->backend->wait(device, NULL); /* before that, work may use what was released */
    assert_int_equal(kvf_emulator_get_counters()->live_buffers, n_before);
    kvf_device_close(device);
}

/* All of the GPU's memory but a little is given: bytes go there and back in small pieces. */
static void bytes_get_on_their_way_without_memory(void **state)
{
    (void)state;
    const size_t bytes = 1 << 20;
    kvf_emulator_set_buffer_bytes(bytes);
    kvf_emulator_set_working_set_bytes(bytes + (1 << 15));
    kvf_device *device = must_open();
    kvf_error error;
    uint8_t *there = kvf_device_alloc(device, KVF_MEMORY_CACHE, KVF_PLACE_DEVICE, bytes);
    uint8_t *sent = malloc(bytes);
    uint8_t *back = calloc(1, bytes);
    assert_true(there && sent && back);
    for (size_t i = 0; i < bytes; i++)
        sent[i] = (uint8_t)(i % 251);
    device->backend->write(device, there, sent, bytes);
    device->backend->copy(device, there, there + bytes / 2, 1000);
    device->backend->zero(device, there + 1000, 24);
    device->backend->read(device, back, there, bytes);
    require(device->backend->wait(device, &error), &error);
    memcpy(sent, sent + bytes / 2, 1000);
    memset(sent + 1000, 0, 24);
    assert_memory_equal(sent, back, bytes);
    free(sent);
    free(back);
    kvf_device_release(device, KVF_MEMORY_CACHE, there, bytes);
    kvf_device_close(device);
}

/* ---- While it runs ---------------------------------------------------------------------- */

#define N_ROWS 700 /* more than the first staging buffer holds */

static kvf_pack_args rows_of_the_host(float *rows, void *page)
{
    for (int i = 0; i < N_ROWS * KVF_ROW_WIDTH; i++)
        rows[i] = (float)(i % 1000) / 500.0f - 1.0f;
    return (kvf_pack_args){.rows = rows,
                           .stride = KVF_ROW_WIDTH,
                           .n_rows = N_ROWS,
                           .grid = KVF_GRID_FP8,
                           .out = {.format = KVF_FORMAT_FP8_F16,
                                   .width = KVF_ROW_WIDTH,
                                   .page_rows = N_ROWS,
                                   .n_rows = N_ROWS,
                                   .base = page,
                                   .page_stride_bytes = kvf_format_page_bytes(
                                       KVF_FORMAT_FP8_F16, KVF_ROW_WIDTH, N_ROWS)}};
}

/* The operation says why it failed, and memory of the host was not touched. */
static void check_failed(kvf_device *device, kvf_pack_args *args, kvf_status expected,
                         const char *part)
{
    kvf_error error;
    const uint8_t *page = args->out.base;
    assert_int_equal(kvf_pack(device, args, &error), expected);
    assert_int_equal(error.status, expected);
    assert_says(&error, part);
    for (size_t i = 0; i < args->out.page_stride_bytes; i++)
        assert_int_equal(page[i], 0x5a);
}

static void an_operation_that_fails_leaves_the_hosts_memory_and_says_why(void **state)
{
    (void)state;
    float *rows = malloc(N_ROWS * KVF_ROW_WIDTH * sizeof *rows);
    const size_t page_bytes = kvf_format_page_bytes(KVF_FORMAT_FP8_F16, KVF_ROW_WIDTH, N_ROWS);
    uint8_t *page = malloc(page_bytes);
    kvf_pack_args args = rows_of_the_host(rows, page);

    memset(page, 0x5a, page_bytes);
    kvf_device *device = must_open();
    kvf_emulator_fail_wait(1);
    for (int again = 0; again < 3; again++) /* it stays lost */
        check_failed(device, &args, KVF_DEVICE_LOST, "the GPU stopped");
    kvf_device_close(device);

    /* A copy of the page, what brings it there, the same for the rows, the operation's array. */
    kvf_error error;
    for (uint32_t nth = 1; nth <= 5; nth += 2) {
        device = must_open();
        memset(page, 0x5a, page_bytes);
        kvf_emulator_fail_buffer(nth);
        check_failed(device, &args, KVF_OUT_OF_MEMORY, "no memory");
        require(kvf_pack(device, &args, &error), &error);
        kvf_device_close(device);
    }
    free(rows);
    free(page);
}

/* ---- A model's session -------------------------------------------------------------------- */

/*
 * A chunk of so many tokens whose only wait fails: nothing of it is committed, the ids that are
 * the host's are as they were, and the device stays lost.
 */
static void lose_in_chunk(uint32_t n_tokens)
{
    engine e = engine_open("emulated", 64);
    kvf_session *session = session_open(&e, KVF_PROFILE_FOLD, false, 256, 64);
    int32_t ids[PROMPT];
    for (int i = 0; i < PROMPT; i++)
        ids[i] = 97 + i % 26;
    feed(&e, session, ids, PROMPT, PROMPT, NULL);
    const uint64_t held = kvf_session_held_bytes(session);

    kvf_error error;
    kvf_emulator_fail_wait(1);
    assert_int_equal(forward_alone(e.model, session, ids, n_tokens, NULL, &error), KVF_DEVICE_LOST);
    assert_int_equal(error.status, KVF_DEVICE_LOST);
    assert_says(&error, "the GPU stopped");
    assert_int_equal(kvf_session_n_tokens(session), PROMPT);
    assert_int_equal(kvf_session_held_bytes(session), held);
    assert_memory_equal(kvf_session_tokens(session), ids, sizeof ids);
    assert_int_equal(forward_alone(e.model, session, ids, 1, NULL, &error), KVF_DEVICE_LOST);
    kvf_session_close(session);
    engine_close(&e);
}

static void a_lost_device_leaves_the_session_as_it_was(void **state)
{
    (void)state;
    lose_in_chunk(1);
    lose_in_chunk(5);
    lose_in_chunk(17);
}

/* ---- The queue --------------------------------------------------------------------------- */

/* Of the 30 likeliest: what the pass brought is enough. */
static void draw_few(const kvf_sampling *sampling, kvf_session *session)
{
    kvf_candidate candidates[VOCAB];
    kvf_sampler sampler = {.temperature = sampling->temperature, .top_p = 0.9f, .top_k = 30};
    const kvf_drawing drawing = {candidates, NULL, VOCAB};
    kvf_error error;
    uint32_t id;
    assert_true(sampling->is_sampled);
    require(kvf_draw_token(&sampler, session, sampling, &drawing, &id, &error), &error);
}

/*
 * One wait a chunk and a token that is drawn after it, whether it has a token or many, and once it
 * is under way no new buffers.
 */
static void a_chunk_waits_once_and_allocates_nothing_but_pages(void **state)
{
    (void)state;
    static const uint32_t chunks[] = {17, 1, 1, 1, 5, 9, 1, 1};
    engine e = engine_open("emulated", 64);
    int32_t ids[64];
    for (int i = 0; i < 64; i++)
        ids[i] = 97 + i % 26;
    for (int profile = 0; profile < KVF_PROFILE_COUNT; profile++) {
        kvf_session *session = session_open(&e, (kvf_profile_id)profile, false, 256, 64);
        uint64_t n_buffers = 0;
        kvf_sampling sampling = {.changes = {.repeat_penalty = 1}, .temperature = 0.7f};
        for (size_t i = 0; i < sizeof chunks / sizeof chunks[0]; i++) {
            kvf_error error;
            const uint64_t waits = kvf_emulator_get_counters()->waits;
            kvf_batch_item item = {.session = session,
                                   .ids = ids,
                                   .n = chunks[i],
                                   .sampling = profile % 2 ? &sampling : NULL};
            kvf_batch *batch = batch_of(session, &error);
            require(kvf_model_forward(e.model, batch, &item, 1, &error), &error);
            if (item.sampling)
                draw_few(&sampling, session);
            assert_int_equal(kvf_emulator_get_counters()->waits - waits, 1);
            if (i > 0 && chunks[i] == 1 && chunks[i - 1] == 1) /* the pages have room */
                assert_int_equal(kvf_emulator_get_counters()->live_buffers, n_buffers);
            n_buffers = kvf_emulator_get_counters()->live_buffers;
        }
        kvf_session_close(session);
    }
    engine_close(&e);
}

int main(void)
{
#define CASE(test) cmocka_unit_test_setup_teardown(test, reset, nothing_is_left)
    const struct CMUnitTest tests[] = {
        CASE(a_gpu_without_the_features_is_refused),
        CASE(a_kernel_that_does_not_compile_is_named_with_its_line),
        CASE(a_kernel_of_the_weights_that_does_not_compile_is_named_too),
        CASE(an_isa_of_another_backend_is_refused),
        CASE(an_allocation_beyond_the_limits_is_refused),
        CASE(a_session_that_does_not_fit_names_the_context_that_would),
        CASE(a_model_that_does_not_fit_says_why),
        CASE(weights_are_read_where_they_are_mapped),
        CASE(memory_that_cannot_be_mapped_is_refused),
        CASE(mapped_weights_count_as_used),
        CASE(small_allocations_share_the_pages_of_the_gpu),
        CASE(bytes_get_on_their_way_without_memory),
        CASE(an_operation_that_fails_leaves_the_hosts_memory_and_says_why),
        CASE(a_lost_device_leaves_the_session_as_it_was),
        CASE(a_chunk_waits_once_and_allocates_nothing_but_pages),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
