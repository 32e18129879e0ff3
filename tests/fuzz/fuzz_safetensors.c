/*
 * One safetensors file. The input is the file.
 * Opening it either fails with a reason, or gives tensors that lie inside of the file,
 * fill it and do not overlap, each of which is found by its name.
 */
#include "fuzz.h"

#include "file/tensor_set.h"

#define LENGTH_BYTES 8

static uint64_t read_length(const uint8_t *data)
{
    uint64_t length = 0;
    for (int i = LENGTH_BYTES - 1; i >= 0; i--)
        length = length << 8 | data[i];
    return length;
}

/* Bytes of data that shape and dtype name ask for, counted apart from the reader. */
static bool has_its_size(const kvf_tensor *tensor)
{
    fuzz_wide elements = 1;
    for (uint32_t i = 0; i < tensor->n_dims; i++) {
        elements *= tensor->shape[i];
        if (elements > UINT64_MAX)
            return false;
    }
    const char *dtype = kvf_stored_info_of(tensor->type)->name;
    const bool is_complex = *dtype == 'C'; /* C64: two floats */
    const bool is_bool = strcmp(dtype, "BOOL") == 0;
    const size_t letters = strcspn(dtype, "0123456789");
    const unsigned long bits = is_bool ? 8 : strtoul(dtype + letters, NULL, 10);
    FUZZ_REQUIRE(is_complex ? bits == 64 : bits >= 4 && bits <= 64);
    return elements * bits == (fuzz_wide)tensor->bytes * 8;
}

static void check_tensors(const kvf_tensor_set *files, uint64_t data_bytes)
{
    uint64_t bytes = 0;
    const kvf_tensor *previous = NULL;
    const kvf_tensor *tensor;
    for (uint32_t i = 0; (tensor = kvf_tensor_set_at(files, i)); i++) {
        FUZZ_REQUIRE(tensor->n_dims <= 8);
        FUZZ_REQUIRE(has_its_size(tensor));
        FUZZ_REQUIRE(!previous || strcmp(previous->name, tensor->name) < 0);
        FUZZ_REQUIRE(kvf_tensor_set_find(files, tensor->name) == tensor);
        fuzz_touch(tensor->data, tensor->bytes);
        bytes += tensor->bytes;
        previous = tensor;
    }
    FUZZ_REQUIRE(bytes == data_bytes);
    FUZZ_REQUIRE(!kvf_tensor_set_find(files, "no such tensor"));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    char path[256];
    kvf_error error;
    kvf_tensor_set *files;
    if (bytes >= 4 && memcmp(data, "GGUF", 4) == 0)
        return 0; /* the other container, whatever the file is called */
    fuzz_write("model.safetensors", (fuzz_part){data, bytes});
    snprintf(path, sizeof path, "%s/model.safetensors", fuzz_folder());
    const kvf_status status = kvf_tensor_set_open(path, &files, &error);
    fuzz_check_error(status, &error);
    if (status != KVF_OK) {
        FUZZ_REQUIRE(status == KVF_FILE_FORMAT && !files);
        return 0;
    }
    const uint64_t header_bytes = read_length(data);
    FUZZ_REQUIRE(bytes >= LENGTH_BYTES && header_bytes <= bytes - LENGTH_BYTES);
    FUZZ_REQUIRE(kvf_tensor_set_mapped_bytes(files) == bytes);
    check_tensors(files, bytes - LENGTH_BYTES - header_bytes);
    kvf_tensor_set_close(files);
    return 0;
}
