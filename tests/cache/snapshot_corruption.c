/*
 * Files with one byte or one block changed at random. Each is refused, or fails with
 * KVF_FILE_FORMAT when the damage is met, or is restored and goes on as the original
 * does, to the bit: where the bytes were padding, or the other header had them too.
 */
#include "snapshot_support.h"

#include <fcntl.h>
#include <unistd.h>

#define BLOCK_BYTES 4096

/* The file that is damaged, what its session holds, and what its next token gives. */
typedef struct original {
    char path[400];
    int file;
    uint8_t *data;
    size_t bytes;
    uint64_t digest;
    uint64_t output;
} original;

/* An ordinary file: saved, and once more with tokens added. Or a compressed one. */
static void make_original(original *file, const char *name, bool compress)
{
    const kvf_save_options options = {.compress = compress};
    kvf_session *session = snap_open(snap_device, KVF_PROFILE_FOLD, false);
    kvf_save_report report;
    snprintf(file->path, sizeof file->path, "%s", snap_path(name));
    for (uint64_t place = 128; place <= 256; place += 128) {
        snap_grow(session, place);
        assert_int_equal(kvf_session_checkpoint(session, NULL), KVF_OK);
    }
    snap_grow(session, 265);
    assert_int_equal(kvf_session_save(session, file->path, &options, NULL, NULL), KVF_OK);
    if (!compress) {
        assert_int_equal(snap_step(session, 3, NULL, NULL), KVF_OK);
        assert_int_equal(kvf_session_save(session, file->path, NULL, &report, NULL), KVF_OK);
        assert_true(report.appended);
    }
    file->digest = snap_digest(session, true);
    assert_int_equal(snap_step(session, 1, &file->output, NULL), KVF_OK);
    kvf_session_close(session);
    file->data = snap_read_file(file->path, &file->bytes);
    file->file = open(file->path, O_RDWR);
    assert_true(file->file >= 0);
}

/* Changes one byte, or a block: noise, zeros, or what stands elsewhere in the file. */
static size_t damage(const original *file, uint64_t *random, uint8_t *block, size_t *bytes)
{
    const uint64_t sort = snap_random(random) % 8;
    *bytes = sort < 5 ? 1 : 1 + snap_random(random) % BLOCK_BYTES;
    const size_t offset = snap_random(random) % (file->bytes - *bytes + 1);
    memcpy(block, file->data + offset, *bytes);
    if (sort < 5) {
        block[0] ^= (uint8_t)(1 + snap_random(random) % 255);
    } else if (sort == 5) {
        memset(block, 0, *bytes);
    } else if (sort == 6) {
        memcpy(block, file->data + snap_random(random) % (file->bytes - *bytes + 1), *bytes);
    } else {
        for (size_t i = 0; i < *bytes; i++)
            block[i] = (uint8_t)snap_random(random);
    }
    return offset;
}

/* What came of a damaged file: 0 refused at once, 1 when it was met, 2 it did no harm. */
static int outcome(const original *file, bool goes_on)
{
    kvf_session *session;
    kvf_error error;
    uint64_t output = 0;
    kvf_status status = kvf_session_load(snap_device, file->path, NULL, &session, &error);
    if (status != KVF_OK) {
        assert_true(status == KVF_FILE_FORMAT);
        return 0;
    }
    if (goes_on)
        status = snap_step(session, 1, &output, &error);
    else
        status = kvf_session_check(session, &error);
    if (status == KVF_OK && goes_on)
        assert_int_equal(output, file->output);
    else if (status == KVF_OK)
        assert_int_equal(snap_digest(session, true), file->digest);
    else
        assert_true(status == KVF_FILE_FORMAT);
    kvf_session_close(session);
    return status == KVF_OK ? 2 : 1;
}

static void corrupt_one(const char *name, bool compress, unsigned n_corruptions, uint64_t random)
{
    original file;
    unsigned seen[3] = {0};
    uint8_t block[BLOCK_BYTES];
    make_original(&file, name, compress);
    for (unsigned i = 0; i < n_corruptions; i++) {
        size_t bytes;
        const size_t offset = damage(&file, &random, block, &bytes);
        assert_int_equal(pwrite(file.file, block, bytes, (off_t)offset), bytes);
        seen[outcome(&file, i % 4 == 0)]++;
        assert_int_equal(pwrite(file.file, file.data + offset, bytes, (off_t)offset), bytes);
    }
    assert_int_equal(outcome(&file, true), 2);
    print_message("%s: %u corruptions: %u refused at once, %u when met, %u without harm\n", name,
                  n_corruptions, seen[0], seen[1], seen[2]);
    /* Where rows cannot stay in the file all of it is checked at once. */
    const bool lazy = !compress && snap_device->backend->addresses_host_memory;
    assert_true(seen[0] > 0 && seen[2] > 0 && (seen[1] > 0) == lazy);
    close(file.file);
    free(file.data);
}

void snap_corrupt(unsigned n_corruptions, uint64_t seed)
{
    corrupt_one("plain", false, n_corruptions - n_corruptions / 4, seed);
    if (kvf_codec_bound(1) > 0)
        corrupt_one("zstd", true, n_corruptions / 4, seed + 1);
}

/* ---- Forged files ---------------------------------------------------------------------- */

kvf_part *snap_parts(uint8_t *data, const kvf_snapshot_header *header)
{
    return (kvf_part *)(data + header->index_offset + header->session.n_layers * (size_t)16 +
                        header->n_checkpoints * (size_t)24);
}

void snap_seal(uint8_t *data, size_t bytes, const kvf_snapshot_header *header)
{
    kvf_snapshot_header *headers = (kvf_snapshot_header *)data;
    const uint8_t *index = data + header->index_offset;
    kvf_part *parts = snap_parts(data, header);
    for (uint32_t i = 0; i < header->n_parts; i++)
        if (parts[i].offset <= bytes && parts[i].stored_bytes <= bytes - parts[i].offset)
            parts[i].checksum = kvf_checksum(data + parts[i].offset, parts[i].stored_bytes);
    for (int i = 0; i < 2; i++) {
        headers[i].index_checksum = kvf_checksum(index, header->index_bytes);
        headers[i].checksum = kvf_checksum(&headers[i], offsetof(kvf_snapshot_header, checksum));
    }
}

/* Changes fields of the headers, of the index, or bytes of a part. */
static void forge(uint8_t *data, size_t bytes, const kvf_snapshot_header *header, uint64_t *random)
{
    static const uint32_t small[] = {0, 1, 2, 3, 4096, 0x7fffffff, 0x80000000, 0xffffffff};
    for (uint64_t n = 1 + snap_random(random) % 3; n > 0; n--) {
        const uint64_t sort = snap_random(random) % 4;
        const uint32_t value = snap_random(random) % 2 ? small[snap_random(random) % 8]
                                                       : (uint32_t)snap_random(random);
        /* Both headers alike; the fields that are there. */
        const size_t field = snap_random(random) % 50 * 4;
        const size_t in_index = snap_random(random) % (header->index_bytes / 4);
        if (sort == 0) {
            memcpy(data + field, &value, 4);
            memcpy(data + KVF_SNAPSHOT_PAGE_BYTES + field, &value, 4);
        } else if (sort == 1) {
            memcpy(data + header->index_offset + in_index * 4, &value, 4);
        } else {
            data[8192 + snap_random(random) % (bytes - 8192)] = (uint8_t)value;
        }
    }
    snap_seal(data, bytes, header);
}

/* Goes back to its checkpoints, whatever is in them, and on from there. */
static void try_checkpoints(kvf_session *session)
{
    uint64_t places[64];
    kvf_error error;
    const uint32_t n = kvf_session_checkpoints(session, places, 64);
    for (uint32_t i = n < 64 ? n : 64; i > 0; i--)
        if (kvf_session_truncate(session, places[i - 1], NULL, &error) == KVF_OK) {
            assert_int_equal(kvf_session_n_tokens(session), places[i - 1]);
            snap_step(session, 1, NULL, &error);
        }
}

void snap_forge(unsigned n_forgeries, uint64_t seed)
{
    original file;
    unsigned seen[3] = {0};
    const kvf_load_options options = {.geometry = &snap_geometry};
    make_original(&file, "forged", false);
    const kvf_snapshot_header header = *(kvf_snapshot_header *)file.data;
    uint8_t *data = malloc(file.bytes);
    for (unsigned i = 0; i < n_forgeries; i++) {
        kvf_session *session;
        kvf_error error;
        memcpy(data, file.data, file.bytes);
        forge(data, file.bytes, &header, &seed);
        assert_int_equal(pwrite(file.file, data, file.bytes, 0), file.bytes);
        if (kvf_session_load(snap_device, file.path, &options, &session, &error) != KVF_OK) {
            assert_true(error.message[0] != '\0');
            seen[0]++;
            continue;
        }
        /* Whatever comes of it: no crash, and it can be saved. */
        seen[snap_step(session, 1, NULL, &error) == KVF_OK ? 2 : 1]++;
        if (i % 8 == 0)
            kvf_session_save(session, snap_path("forged-saved"), NULL, NULL, &error);
        try_checkpoints(session);
        kvf_session_close(session);
    }
    print_message("%u forgeries: %u refused, %u failed later, %u went on\n", n_forgeries, seen[0],
                  seen[1], seen[2]);
    assert_true(seen[0] > 0 && seen[2] > 0);
    assert_int_equal(snap_device->live_bytes[KVF_MEMORY_CACHE], 0);
    assert_int_equal(snap_device->live_bytes[KVF_MEMORY_CHECKPOINT], 0);
    free(data);
    close(file.file);
    free(file.data);
}
