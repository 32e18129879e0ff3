/* safetensors files: what is read, and that every malformed one is refused by name. */
#include "checkpoint_files.h"

#include "file/tensor_set.h"

#include <fcntl.h>
#include <time.h>

/* ---- Good files ------------------------------------------------------------------- */

static void test_tiny_checkpoint_opens_with_all_its_tensors_in_order(void **state)
{
    (void)state;
    kvf_tensor_set *files = NULL;
    kvf_error error = {0};
    assert_int_equal(kvf_tensor_set_open(KVF_TEST_MODEL, &files, &error), KVF_OK);
    uint32_t n = 0;
    uint64_t bytes = 0;
    for (const kvf_tensor *tensor; (tensor = kvf_tensor_set_at(files, n)); n++) {
        bytes += tensor->bytes;
        if (n > 0)
            assert_true(strcmp(kvf_tensor_set_at(files, n - 1)->name, tensor->name) < 0);
        assert_ptr_equal(kvf_tensor_set_find(files, tensor->name), tensor);
    }
    assert_int_equal(n, 304);          /* entries of the three headers, without __metadata__ */
    assert_int_equal(bytes, 30191236); /* total_size of the index */
    assert_int_equal(kvf_tensor_set_mapped_bytes(files), 11939636 + 11105080 + 7178184);
    const kvf_tensor *map = kvf_tensor_set_find(files, "model.layers.0.ffn.gate.tid2eid");
    assert_non_null(map);
    assert_int_equal(map->type, KVF_STORED_I64);
    assert_int_equal(map->n_dims, 2);
    assert_int_equal(map->shape[0], 320);
    assert_int_equal(map->shape[1], 2);
    assert_non_null(strstr(map->file, "model-00001-of-00003.safetensors"));
    assert_null(kvf_tensor_set_find(files, "model.layers.0.ffn.gate"));
    assert_null(kvf_tensor_set_at(files, n));
    kvf_tensor_set_close(files);
}

static void test_single_file_is_read_where_there_is_no_index(void **state)
{
    const float values[3] = {1, 2, 3};
    const tensor_entry entries[] = {{"b", "F32", 1, {2}, values, 8},
                                    {"empty", "F32", 2, {0, 7}, NULL, 0},
                                    {"a", "F32", 0, {0}, values + 2, 4}};
    kvf_tensor_set *files = NULL;
    kvf_error error = {0};
    write_entries(*state, "model.safetensors", entries, 3);
    assert_int_equal(kvf_tensor_set_open(*state, &files, &error), KVF_OK);
    const kvf_tensor *scalar = kvf_tensor_set_at(files, 0);
    assert_string_equal(scalar->name, "a");
    assert_int_equal(scalar->n_dims, 0);
    assert_memory_equal(scalar->data, values + 2, 4);
    assert_memory_equal(kvf_tensor_set_find(files, "b")->data, values, 8);
    assert_int_equal(kvf_tensor_set_find(files, "empty")->bytes, 0);
    kvf_tensor_set_close(files);
}

static void test_file_without_tensors_is_valid_and_close_takes_null(void **state)
{
    kvf_tensor_set *files = NULL;
    kvf_error error = {0};
    write_safetensors(*state, "model.safetensors", 2, "{}", 2, 0);
    assert_int_equal(kvf_tensor_set_open(*state, &files, &error), KVF_OK);
    assert_null(kvf_tensor_set_at(files, 0));
    assert_null(kvf_tensor_set_find(files, "a"));
    kvf_tensor_set_close(files);
    kvf_tensor_set_close(NULL);
}

/* ---- Bad files -------------------------------------------------------------------- */

#define T(dtype, shape, offsets)                                                                   \
    "{\"dtype\":\"" dtype "\",\"shape\":" shape ",\"data_offsets\":" offsets "}"

static const struct bad_file {
    const char *label;
    const char *header;
    size_t data_bytes;
    const char *parts; /* of the message */
} bad_files[] = {
    {"not JSON", "{\"a\":", 0, "not valid JSON at line 1, column"},
    {"array as header", "[]", 0, "an array; an object was expected"},
    {"text after the header", "{} x", 0, "not valid JSON at line 1, column 4"},
    {"entry is a number", "{\"a\":1}", 0, "\"a\"|not an object"},
    {"entry is null", "{\"a\":null}", 0, "\"a\"|not an object"},
    {"no dtype", "{\"a\":{\"shape\":[1],\"data_offsets\":[0,4]}}", 4, "\"a\"|no \"dtype\""},
    {"dtype is a number", "{\"a\":{\"dtype\":1,\"shape\":[1],\"data_offsets\":[0,4]}}", 4,
     "\"a\"|no \"dtype\""},
    {"unknown dtype", "{\"a\":" T("F33", "[1]", "[0,4]") "}", 4, "\"a\"|unknown dtype \"F33\""},
    {"no shape", "{\"a\":{\"dtype\":\"F32\",\"data_offsets\":[0,4]}}", 4, "\"a\"|no \"shape\""},
    {"shape is a number", "{\"a\":" T("F32", "1", "[0,4]") "}", 4, "\"a\"|no \"shape\""},
    {"negative dimension", "{\"a\":" T("F32", "[-1]", "[0,4]") "}", 4, "\"a\"|a dimension is -1"},
    {"fractional dimension", "{\"a\":" T("F32", "[1.5]", "[0,4]") "}", 4, "a dimension is 1.5"},
    {"dimension 1e300", "{\"a\":" T("F32", "[1e300]", "[0,4]") "}", 4, "a dimension is 1e+300"},
    {"dimension 1e999", "{\"a\":" T("F32", "[1e999]", "[0,4]") "}", 4, "a dimension is inf"},
    {"dimension is a text", "{\"a\":" T("F32", "[\"1\"]", "[0,4]") "}", 4, "a dimension is \"1\""},
    {"nine dimensions", "{\"a\":" T("F32", "[1,1,1,1,1,1,1,1,1]", "[0,4]") "}", 4,
     "more than 8 dimensions"},
    {"product overflows", "{\"a\":" T("F32", "[4294967296,4294967296,2]", "[0,4]") "}", 4,
     "\"a\"|product of its shape overflows"},
    {"bits overflow", "{\"a\":" T("F64", "[4503599627370496,1024]", "[0,4]") "}", 4,
     "\"a\"|not a number of bytes"},
    {"half a byte", "{\"a\":" T("F4", "[3]", "[0,2]") "}", 2, "\"a\"|not a number of bytes"},
    {"no offsets", "{\"a\":{\"dtype\":\"F32\",\"shape\":[1]}}", 4, "\"a\"|two whole numbers"},
    {"one offset", "{\"a\":" T("F32", "[1]", "[0]") "}", 4, "\"a\"|two whole numbers"},
    {"three offsets", "{\"a\":" T("F32", "[1]", "[0,4,8]") "}", 4, "\"a\"|two whole numbers"},
    {"fractional offset", "{\"a\":" T("F32", "[1]", "[0.5,4.5]") "}", 8, "two whole numbers"},
    {"offset of 2^53", "{\"a\":" T("F32", "[1]", "[9007199254740992,9007199254740996]") "}", 4,
     "\"a\"|two whole numbers below 2^53"},
    {"ends at 2^53", "{\"a\":" T("F32", "[1]", "[0,9007199254740992]") "}", 4,
     "two whole numbers below 2^53"},
    {"ends before it begins", "{\"a\":" T("F32", "[1]", "[4,0]") "}", 4, "ends before it begins"},
    {"shape larger than data", "{\"a\":" T("F32", "[2]", "[0,4]") "}", 4,
     "4 bytes of data, but shape and dtype F32 need 8"},
    {"data cut off", "{\"a\":" T("F32", "[2]", "[0,8]") "}", 7,
     "truncated: tensor \"a\" ends at byte 8|has 7"},
    {"overlap", "{\"a\":" T("F32", "[2]", "[0,8]") ",\"b\":" T("F32", "[2]", "[4,12]") "}", 12,
     "the data of \"a\" and \"b\" overlap"},
    {"the same data twice",
     "{\"a\":" T("F32", "[1]", "[0,4]") ",\"b\":" T("F32", "[1]", "[0,4]") "}", 4, "overlap"},
    {"gap", "{\"a\":" T("F32", "[1]", "[0,4]") ",\"b\":" T("F32", "[1]", "[8,12]") "}", 12,
     "4 bytes before the data of \"b\""},
    {"gap at the start", "{\"a\":" T("F32", "[1]", "[4,8]") "}", 8,
     "4 bytes before the data of \"a\""},
    {"bytes left over", "{\"a\":" T("F32", "[1]", "[0,4]") "}", 9, "the last 5 bytes"},
    {"bytes of no tensor", "{}", 1, "the last 1 bytes"},
    {"the same name twice",
     "{\"a\":" T("F32", "[1]", "[0,4]") ",\"a\":" T("F32", "[1]", "[4,8]") "}", 8,
     "\"a\" is there twice"},
    {"the same key twice",
     "{\"a\":{\"dtype\":\"F32\",\"dtype\":\"F16\",\"shape\":[1],"
     "\"data_offsets\":[0,4]}}",
     4, "\"dtype\" is there twice"},
    {"metadata of numbers", "{\"__metadata__\":{\"a\":1}}", 0, "__metadata__"},
    {"metadata is a text", "{\"__metadata__\":\"a\"}", 0, "__metadata__"},
    {"not UTF-8", "{\"a\xff\":" T("F32", "[1]", "[0,4]") "}", 4, "byte 3 of the JSON is not UTF-8"},
    {"overlong UTF-8", "{\"a\xc0\x80\":1}", 0, "not UTF-8"},
    {"overlong, 3 bytes", "{\"a\xe0\x80\x80\":1}", 0, "byte 3 of the JSON is not UTF-8"},
    {"overlong, 4 bytes", "{\"a\xf0\x80\x80\x80\":1}", 0, "byte 3 of the JSON is not UTF-8"},
    {"a surrogate", "{\"a\xed\xa0\x80\":1}", 0, "byte 3 of the JSON is not UTF-8"},
    {"past U+10FFFF", "{\"a\xf4\x90\x80\x80\":1}", 0, "byte 3 of the JSON is not UTF-8"},
    {"cut character", "{\"a\xe2\x82", 0, "byte 3 of the JSON is not UTF-8"},
    {"valid UTF-8", "{\"a\xe2\x82\xac\xf0\x9f\x98\x80\":1}", 0,
     "\"a\xe2\x82\xac\xf0\x9f\x98\x80\"|not an object"},
    {"escaped NUL in a name", "{\"a\\u0000b\":" T("F32", "[1]", "[0,4]") "}", 4, "NUL character"},
    {"control characters in a name", "{\"a\\n%s\\u001b[31m\":1}", 0, "\"a?%s?[31m\"|not an object"},
};

static void test_bad_files_are_refused_by_file_and_tensor(void **state)
{
    for (size_t i = 0; i < sizeof bad_files / sizeof *bad_files; i++) {
        const struct bad_file *bad = &bad_files[i];
        kvf_tensor_set *files = NULL;
        kvf_error error = {0};
        size_t bytes = strlen(bad->header);
        write_safetensors(*state, "model.safetensors", bytes, bad->header, bytes, bad->data_bytes);
        kvf_status status = kvf_tensor_set_open(*state, &files, &error);
        assert_failed(bad->label, status, KVF_FILE_FORMAT, &error, bad->parts);
        assert_failed(bad->label, status, KVF_FILE_FORMAT, &error, "/model.safetensors: ");
        assert_null(files);
    }
}

static void open_and_expect(const char *folder, const char *label, kvf_status wanted,
                            const char *parts)
{
    kvf_tensor_set *files = NULL;
    kvf_error error = {0};
    kvf_status status = kvf_tensor_set_open(folder, &files, &error);
    assert_failed(label, status, wanted, &error, parts);
    assert_null(files);
}

static void test_bad_header_lengths_are_refused(void **state)
{
    const char *name = "model.safetensors";
    write_file(*state, name, NULL, 0);
    open_and_expect(*state, "empty file", KVF_FILE_FORMAT, "has 0 bytes");
    write_file(*state, name, "1234567", 7);
    open_and_expect(*state, "7 bytes", KVF_FILE_FORMAT, "has 7 bytes");
    write_safetensors(*state, name, 0, "", 0, 0);
    open_and_expect(*state, "no header", KVF_FILE_FORMAT, "is empty");
    write_safetensors(*state, name, 3, "{}", 2, 0);
    open_and_expect(*state, "header cut off", KVF_FILE_FORMAT,
                    "truncated: a header of 3 bytes in a file of 10");
    write_safetensors(*state, name, 100000001, "{}", 2, 0);
    open_and_expect(*state, "absurd length", KVF_FILE_FORMAT, "a header of 100000001 bytes");
    write_safetensors(*state, name, UINT64_MAX, "{}", 2, 0);
    open_and_expect(*state, "2^64 - 1", KVF_FILE_FORMAT, "a header of 18446744073709551615 bytes");
    write_safetensors(*state, name, 3, "{}", 3, 0);
    open_and_expect(*state, "NUL in the header", KVF_FILE_FORMAT, "byte 2 of the JSON is a NUL");
}

static void test_deep_nesting_and_too_many_values_are_refused(void **state)
{
    const size_t depth = 100000;
    char *header = malloc(depth * 100);
    assert_non_null(header);
    memset(header, '[', depth);
    memcpy(header, "{\"a\":", 5);
    write_safetensors(*state, "model.safetensors", depth, header, depth, 0);
    open_and_expect(*state, "deep nesting", KVF_FILE_FORMAT, "not valid JSON at line 1");
    memset(header, ',', depth * 100);
    write_safetensors(*state, "model.safetensors", depth * 100, header, depth * 100, 0);
    open_and_expect(*state, "many values", KVF_FILE_FORMAT, "at most 4000000");
    free(header);
}

/* 400 characters of 3 bytes: the middle goes, no character is cut. */
static void test_long_names_are_shortened_between_characters(void **state)
{
    char header[2048] = "{\"start";
    for (int i = 0; i < 400; i++)
        strcat(header, "\xe2\x82\xac");
    strcat(header, "end\":1}");
    write_safetensors(*state, "model.safetensors", strlen(header), header, strlen(header), 0);
    open_and_expect(*state, "long name", KVF_FILE_FORMAT,
                    "\"start\xe2\x82\xac|\xe2\x82\xac...\xe2\x82\xac|\xe2\x82\xac"
                    "end\": its header");
}

static void test_things_that_are_no_files_are_refused(void **state)
{
    char path[256];
    open_and_expect(*state, "nothing there", KVF_FILE_NOT_FOUND,
                    "has neither model.safetensors.index.json nor model.safetensors");
    open_and_expect("/nonexistent/\n%n", "no folder", KVF_FILE_NOT_FOUND,
                    "/nonexistent/?%n: No such file");
    snprintf(path, sizeof path, "%s/model.safetensors", (char *)*state);
    assert_int_equal(mkdir(path, 0700), 0);
    open_and_expect(*state, "a folder", KVF_FILE_IO, "is a directory; a regular file was expected");
    assert_int_equal(rmdir(path), 0);
    assert_int_equal(mkfifo(path, 0600), 0);
    open_and_expect(*state, "a pipe", KVF_FILE_IO, "not a regular file");
    kvf_tensor_set *files = NULL;
    kvf_error error = {0};
    assert_failed("one file", kvf_tensor_set_open("/nonexistent", &files, &error),
                  KVF_FILE_NOT_FOUND, &error, "/nonexistent: ");
}

/* ---- The index ------------------------------------------------------------------- */

static const struct bad_index {
    const char *label;
    const char *index;
    kvf_status status;
    const char *parts;
} bad_indexes[] = {
    {"no weight_map", "{}", KVF_FILE_FORMAT, "no \"weight_map\""},
    {"weight_map is an array", "{\"weight_map\":[]}", KVF_FILE_FORMAT, "no \"weight_map\""},
    {"shard is a number", "{\"weight_map\":{\"a\":1}}", KVF_FILE_FORMAT, "\"a\" is in 1"},
    {"separator", "{\"weight_map\":{\"a\":\"../one.st\"}}", KVF_FILE_FORMAT,
     "\"a\" is in \"../one.st\"; a plain file name"},
    {"absolute", "{\"weight_map\":{\"a\":\"/etc/passwd\"}}", KVF_FILE_FORMAT, "/etc/passwd"},
    {"backslash", "{\"weight_map\":{\"a\":\"x\\\\one.st\"}}", KVF_FILE_FORMAT, "plain file name"},
    {"dots", "{\"weight_map\":{\"a\":\"..\"}}", KVF_FILE_FORMAT, "plain file name"},
    {"empty name", "{\"weight_map\":{\"a\":\"\"}}", KVF_FILE_FORMAT, "plain file name"},
    {"missing shard", "{\"weight_map\":{\"a\":\"one.st\",\"c\":\"three.st\"}}", KVF_FILE_FORMAT,
     "three.st: no such file|index.json says it holds \"c\""},
    {"tensor missing in the index", "{\"weight_map\":{\"a\":\"one.st\",\"c\":\"two.st\"}}",
     KVF_FILE_FORMAT, "tensor \"b\" of |one.st is not in the index"},
    {"tensor missing in its shard",
     "{\"weight_map\":{\"a\":\"one.st\",\"b\":\"one.st\",\"bb\":\"one.st\",\"c\":\"two.st\"}}",
     KVF_FILE_FORMAT, "tensor \"bb\" is not in one.st"},
    {"last tensor missing",
     "{\"weight_map\":{\"a\":\"one.st\",\"b\":\"one.st\",\"c\":\"two.st\",\"d\":\"two.st\"}}",
     KVF_FILE_FORMAT, "tensor \"d\" is not in two.st"},
    {"wrong shard", "{\"weight_map\":{\"a\":\"one.st\",\"b\":\"two.st\",\"c\":\"two.st\"}}",
     KVF_FILE_FORMAT, "tensor \"b\" is said to be in two.st, but is in one.st"},
    {"named twice", "{\"weight_map\":{\"a\":\"one.st\",\"a\":\"two.st\"}}", KVF_FILE_FORMAT,
     "\"a\" is there twice"},
    {"in two shards",
     "{\"weight_map\":{\"a\":\"one.st\",\"b\":\"one.st\",\"c\":\"two.st\",\"x\":\"dup.st\"}}",
     KVF_FILE_FORMAT, "tensor \"a\" is in both|dup.st and |one.st"},
    {"truncated shard", "{\"weight_map\":{\"x\":\"cut.st\"}}", KVF_FILE_FORMAT,
     "cut.st: is truncated"},
    {"not JSON", "{\"weight_map\"", KVF_FILE_FORMAT, "index.json: not valid JSON"},
    {"empty", "", KVF_FILE_FORMAT, "index.json: is empty"},
};

static void test_index_must_agree_with_its_shards(void **state)
{
    const uint32_t zero = 0;
    const tensor_entry one[] = {{"a", "F32", 1, {1}, &zero, 4}, {"b", "F32", 1, {1}, &zero, 4}};
    const tensor_entry two[] = {{"c", "F32", 1, {1}, &zero, 4}};
    const char *index = "model.safetensors.index.json";
    write_entries(*state, "one.st", one, 2);
    write_entries(*state, "two.st", two, 1);
    write_entries(*state, "dup.st", one, 1);
    write_safetensors(*state, "cut.st", 288, "{}", 2, 0);
    for (size_t i = 0; i < sizeof bad_indexes / sizeof *bad_indexes; i++) {
        write_text(*state, index, bad_indexes[i].index);
        open_and_expect(*state, bad_indexes[i].label, bad_indexes[i].status, bad_indexes[i].parts);
    }
    kvf_tensor_set *files = NULL;
    kvf_error error = {0};
    write_text(*state, index,
               "{\"weight_map\":{\"c\":\"two.st\",\"a\":\"one.st\",\"b\":\"one.st\"}}");
    assert_int_equal(kvf_tensor_set_open(*state, &files, &error), KVF_OK);
    assert_string_equal(kvf_tensor_set_at(files, 2)->name, "c");
    kvf_tensor_set_close(files);
}

/* ---- Files that change while they are open ------------------------------------------- */

/* Another tick of the clock that file systems stamp files with: they take the kernel's, 10 ms at
 * most. */
static void let_time_pass(void)
{
    const struct timespec tick = {.tv_nsec = 30000000};
    nanosleep(&tick, NULL);
}

static void put_bytes(const char *path, off_t offset, const void *data, size_t bytes)
{
    const int file = open(path, O_WRONLY);
    assert_true(file >= 0);
    assert_int_equal(pwrite(file, data, bytes, offset), bytes);
    close(file);
}

/* Takes what the path leads to away and puts the same content there, as `cp` to a new name does. */
static void replace(const char *path)
{
    char other[700];
    size_t bytes;
    char *content = read_text(path, &bytes);
    snprintf(other, sizeof other, "%s.new", path);
    FILE *file = fopen(other, "wb");
    assert_non_null(file);
    assert_int_equal(fwrite(content, 1, bytes, file), bytes);
    assert_int_equal(fclose(file), 0);
    assert_int_equal(rename(other, path), 0);
    free(content);
}

typedef enum change { WRITE, WRITE_BACK, GROW, SHORTEN, TOUCH, REPLACE, REMOVE, N_CHANGES } change;
static const char *const change_words[N_CHANGES] = {
    "has been written to", "has been changed", "has grown",       "has been shortened",
    "has been written to", "replaced by",      "has been removed"};

static void make_change(const char *path, change what)
{
    struct stat before;
    assert_int_equal(stat(path, &before), 0);
    const struct timespec times[] = {before.st_atim, before.st_mtim};
    const struct timespec earlier[] = {{1, 0}, {1, 0}};
    let_time_pass();
    switch (what) {
    case WRITE_BACK:
    case WRITE: put_bytes(path, before.st_size - 1, "}", 1); break;
    case GROW: put_bytes(path, before.st_size, "}", 1); break;
    case SHORTEN: assert_int_equal(truncate(path, before.st_size - 1), 0); break;
    case TOUCH: assert_int_equal(utimensat(AT_FDCWD, path, earlier, 0), 0); break;
    case REPLACE: replace(path); break;
    default: assert_int_equal(unlink(path), 0); break;
    }
    if (what == WRITE_BACK) /* as somebody would who sets the time back */
        assert_int_equal(utimensat(AT_FDCWD, path, times, 0), 0);
}

static void write_three_files(const char *folder)
{
    const uint32_t zero = 0;
    const tensor_entry one[] = {{"a", "F32", 1, {1}, &zero, 4}};
    const tensor_entry two[] = {{"c", "F32", 1, {1}, &zero, 4}};
    write_entries(folder, "one.st", one, 1);
    write_entries(folder, "two.st", two, 1);
    write_text(folder, "model.safetensors.index.json",
               "{\"weight_map\":{\"c\":\"two.st\",\"a\":\"one.st\"}}");
}

static void test_a_file_that_changed_since_it_was_opened_is_named(void **state)
{
    static const char *const names[] = {"model.safetensors.index.json", "one.st", "two.st"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        for (int what = 0; what < N_CHANGES; what++) {
            char parts[600];
            kvf_tensor_set *files = NULL;
            kvf_error error = {0};
            write_three_files(*state);
            assert_int_equal(kvf_tensor_set_open(*state, &files, &error), KVF_OK);
            assert_int_equal(kvf_tensor_set_check_unchanged(files, &error), KVF_OK);
            snprintf(parts, sizeof parts, "%s/%s", (const char *)*state, names[i]);
            make_change(parts, what);
            snprintf(parts, sizeof parts, "%s: |%s|since it was opened", names[i],
                     change_words[what]);
            assert_failed(change_words[what], kvf_tensor_set_check_unchanged(files, &error),
                          KVF_FILE_IO, &error, parts);
            kvf_tensor_set_close(files);
        }
}

static void test_a_file_that_was_only_read_is_unchanged(void **state)
{
    kvf_tensor_set *files = NULL;
    kvf_error error = {0};
    size_t bytes;
    char path[600];
    write_three_files(*state);
    assert_int_equal(kvf_tensor_set_open(*state, &files, &error), KVF_OK);
    snprintf(path, sizeof path, "%s/one.st", (const char *)*state);
    let_time_pass();
    free(read_text(path, &bytes));
    assert_int_equal(kvf_tensor_set_check_unchanged(files, &error), KVF_OK);
    kvf_tensor_set_close(files);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_tiny_checkpoint_opens_with_all_its_tensors_in_order),
        cmocka_unit_test_setup_teardown(test_single_file_is_read_where_there_is_no_index,
                                        make_folder, remove_folder),
        cmocka_unit_test_setup_teardown(test_file_without_tensors_is_valid_and_close_takes_null,
                                        make_folder, remove_folder),
        cmocka_unit_test_setup_teardown(test_bad_files_are_refused_by_file_and_tensor, make_folder,
                                        remove_folder),
        cmocka_unit_test_setup_teardown(test_bad_header_lengths_are_refused, make_folder,
                                        remove_folder),
        cmocka_unit_test_setup_teardown(test_deep_nesting_and_too_many_values_are_refused,
                                        make_folder, remove_folder),
        cmocka_unit_test_setup_teardown(test_long_names_are_shortened_between_characters,
                                        make_folder, remove_folder),
        cmocka_unit_test_setup_teardown(test_things_that_are_no_files_are_refused, make_folder,
                                        remove_folder),
        cmocka_unit_test_setup_teardown(test_index_must_agree_with_its_shards, make_folder,
                                        remove_folder),
        cmocka_unit_test_setup_teardown(test_a_file_that_changed_since_it_was_opened_is_named,
                                        make_folder, remove_folder),
        cmocka_unit_test_setup_teardown(test_a_file_that_was_only_read_is_unchanged, make_folder,
                                        remove_folder),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
