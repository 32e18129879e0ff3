/*
 * 20,000 corruptions, a quarter of them of a compressed file; 3,000 forgeries. And forgeries
 * made on purpose: kvf_snapshot_verify refuses what kvf_session_load refuses.
 */
#include "snapshot_support.h"

/* A device with a queue takes its time: it gets a part of them. */
static unsigned share(void)
{
    return snap_device->backend->addresses_host_memory ? 1 : 20;
}

static void no_corruption_goes_unnoticed(void **state)
{
    (void)state;
    snap_corrupt(20000 / share(), 1);
}

static void no_forgery_crashes(void **state)
{
    (void)state;
    snap_forge(3000 / share(), 3);
}

/* ---- Files that are wrong under the right checksums -------------------------------------- */

/* A saved file in memory, to be changed. */
typedef struct forgery {
    const char *path;
    uint8_t *data;
    size_t bytes;
    kvf_snapshot_header header; /* as it was */
} forgery;

static forgery save_for_forging(uint64_t n_tokens, bool compress)
{
    const kvf_save_options options = {.compress = compress};
    forgery file = {.path = snap_path("purpose")};
    kvf_session *session = snap_open(snap_device, KVF_PROFILE_FOLD, false);
    snap_grow(session, n_tokens);
    assert_int_equal(kvf_session_save(session, file.path, &options, NULL, NULL), KVF_OK);
    kvf_session_close(session);
    file.data = snap_read_file(file.path, &file.bytes);
    file.header = *(const kvf_snapshot_header *)file.data;
    return file;
}

/* The part of the stream that has this page of it. */
static kvf_part *part_of(const forgery *file, kvf_stream_kind kind, uint32_t number, uint32_t page)
{
    kvf_part *parts = snap_parts(file->data, &file->header);
    for (uint32_t i = 0; i < file->header.n_parts; i++)
        if (parts[i].kind == kind && parts[i].number == number &&
            page - parts[i].first_page < parts[i].n_pages)
            return &parts[i];
    fail_msg("no %s", kvf_stream_title_of(kind, number).text);
    return NULL;
}

/* Writes the file with checksums that are right. Both refuse it in these words, or neither. */
static void expect_refused(const forgery *file, const char *words)
{
    kvf_session *session;
    kvf_error error;
    snap_seal(file->data, file->bytes, &file->header);
    snap_write_file(file->path, file->data, file->bytes);
    const kvf_status expected = words ? KVF_FILE_FORMAT : KVF_OK;
    assert_int_equal(kvf_session_load(snap_device, file->path, NULL, &session, &error), expected);
    if (words)
        assert_non_null(strstr(error.message, words));
    kvf_session_close(session);
    assert_int_equal(kvf_snapshot_verify(file->path, &error), expected);
    if (words)
        assert_non_null(strstr(error.message, words));
}

static void a_token_outside_the_vocabulary_is_refused(void **state)
{
    (void)state;
    /* The first and the last of a part, in a full page and in the one that grows. */
    static const uint64_t places[] = {0, 1023, 1024, 1099};
    forgery file = save_for_forging(1100, false);
    for (size_t i = 0; i < sizeof places / sizeof *places; i++) {
        char words[40];
        const kvf_part *part = part_of(&file, KVF_STREAM_TOKENS, 0, (uint32_t)(places[i] / 1024));
        const uint64_t first = part->first_page * UINT64_C(1024);
        int32_t *token = (int32_t *)(file.data + part->offset) + (places[i] - first);
        const int32_t kept = *token;
        *token = (int32_t)snap_geometry.vocab - 1;
        expect_refused(&file, NULL);
        *token = (int32_t)snap_geometry.vocab;
        snprintf(words, sizeof words, "token %u has id 97", (unsigned)places[i]);
        expect_refused(&file, words);
        *token = -1;
        snprintf(words, sizeof words, "token %u has id -1", (unsigned)places[i]);
        expect_refused(&file, words);
        *token = kept;
    }
    expect_refused(&file, NULL);
    free(file.data);
}

/* Puts a frame of n_bytes zeros in the place of the part's. */
static void put_frame(const forgery *file, kvf_part *part, size_t n_bytes)
{
    const size_t capacity = kvf_codec_bound(n_bytes);
    uint8_t *zeros = calloc(1, n_bytes);
    uint8_t *frame = malloc(capacity);
    const size_t frame_bytes = kvf_codec_compress(frame, capacity, zeros, n_bytes);
    assert_true(frame_bytes > 0 && frame_bytes <= part->stored_bytes);
    memcpy(file->data + part->offset, frame, frame_bytes);
    part->stored_bytes = frame_bytes;
    free(frame);
    free(zeros);
}

static void a_frame_that_does_not_unpack_to_its_part_is_refused(void **state)
{
    (void)state;
    static const struct {
        kvf_stream_kind kind;
        uint32_t layer;
    } all[] = {{KVF_STREAM_TOKENS, 0}, {KVF_STREAM_LOGITS, 0}, {KVF_STREAM_ROW_STATE, 2}};
    if (kvf_codec_bound(1) == 0)
        skip();
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        forgery file = save_for_forging(500, true);
        kvf_part *part = part_of(&file, all[i].kind, all[i].layer, 0);
        uint8_t *frame = file.data + part->offset;
        const size_t bytes = (size_t)part->n_pages * KVF_SNAPSHOT_PAGE_BYTES;
        assert_int_equal(part->codec, KVF_CODEC_ZSTD);
        put_frame(&file, part, bytes);
        expect_refused(&file, NULL);
        put_frame(&file, part, bytes - 1);
        expect_refused(&file, "do not unpack");
        put_frame(&file, part, bytes + 1);
        expect_refused(&file, "do not unpack");
        put_frame(&file, part, bytes);
        part->stored_bytes--; /* a frame that was cut */
        expect_refused(&file, "do not unpack");
        part->stored_bytes++;
        frame[0] ^= 1; /* no frame at all */
        expect_refused(&file, "do not unpack");
        free(file.data);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(no_corruption_goes_unnoticed),
        cmocka_unit_test(no_forgery_crashes),
        cmocka_unit_test(a_token_outside_the_vocabulary_is_refused),
        cmocka_unit_test(a_frame_that_does_not_unpack_to_its_part_is_refused),
    };
    return cmocka_run_group_tests(tests, snap_setup, snap_teardown);
}
