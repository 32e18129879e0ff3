/*
 * An index and its shards. The input is text in parts, with a byte 0xFF between them
 * (which no JSON contains): the index, the header of shard "a", the header of shard "b".
 * A part that is missing is a file that is missing. The shards have no data, so their
 * tensors must be empty ones; fuzz_safetensors is for the others.
 */
#include "fuzz.h"

#include "file/tensor_set.h"

enum { LENGTH_BYTES = 8, MAX_SHARD_BYTES = 1 << 16 };

/* A file with that header and its length before it. */
static void write_shard(const char *name, fuzz_part header)
{
    static uint8_t file[MAX_SHARD_BYTES];
    if (!header.data || header.bytes > sizeof file - LENGTH_BYTES) {
        fuzz_write(name, (fuzz_part){0});
        return;
    }
    for (int i = 0; i < LENGTH_BYTES; i++)
        file[i] = (uint8_t)((uint64_t)header.bytes >> (8 * i));
    if (header.bytes > 0)
        memcpy(file + LENGTH_BYTES, header.data, header.bytes);
    fuzz_write(name, (fuzz_part){file, LENGTH_BYTES + header.bytes});
}

static void check_tensors(const kvf_tensor_set *files)
{
    const kvf_tensor *previous = NULL;
    const kvf_tensor *tensor;
    for (uint32_t i = 0; (tensor = kvf_tensor_set_at(files, i)); i++) {
        FUZZ_REQUIRE(tensor->bytes == 0);
        FUZZ_REQUIRE(!previous || strcmp(previous->name, tensor->name) < 0);
        FUZZ_REQUIRE(kvf_tensor_set_find(files, tensor->name) == tensor);
        const char *file = strrchr(tensor->file, '/') + 1;
        FUZZ_REQUIRE(strcmp(file, "a") == 0 || strcmp(file, "b") == 0);
        previous = tensor;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    fuzz_part rest = {data, bytes};
    fuzz_part index = {0};
    fuzz_part a = {0};
    fuzz_part b = {0};
    fuzz_next_part(&rest, 0xFF, &index);
    fuzz_next_part(&rest, 0xFF, &a);
    fuzz_next_part(&rest, 0xFF, &b);
    fuzz_write("model.safetensors.index.json", index);
    write_shard("a", a);
    write_shard("b", b);

    kvf_error error;
    kvf_tensor_set *files;
    const kvf_status status = kvf_tensor_set_open(fuzz_folder(), &files, &error);
    fuzz_check_error(status, &error);
    if (status != KVF_OK) {
        /* KVF_FILE_IO: a shard's name that no file system takes */
        FUZZ_REQUIRE(status == KVF_FILE_FORMAT || status == KVF_FILE_NOT_FOUND ||
                     status == KVF_FILE_IO);
        FUZZ_REQUIRE(!files);
        return 0;
    }
    check_tensors(files);
    kvf_tensor_set_close(files);
    return 0;
}
