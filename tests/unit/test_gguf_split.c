/* A GGUF in several parts, in a folder, and by names that say nothing. */
#include "gguf_files.h"

#include "file/metadata.h"

enum { U16 = 2, I32 = 5, TEXT = 8 }; /* of the format */

static kvf_tensor_set *opened;

static void close_gguf(void)
{
    kvf_tensor_set_close(opened);
    opened = NULL;
}

enum { N_PARTS = 3 };

/* What a part's keys say; a number below 0 leaves the key out. */
struct claims {
    int no;
    int count;
    int total;
    const char *architecture;
};

static void write_part(const char *folder, const char *name, const char *tensor,
                       const struct claims *claims)
{
    const uint64_t dims[] = {4};
    put_header(3, 1,
               (uint64_t)(claims->no >= 0) + (claims->count >= 0) + (claims->total >= 0) +
                   (claims->architecture != NULL));
    if (claims->architecture) {
        put_text("general.architecture");
        put(TEXT, 4);
        put_text(claims->architecture);
    }
    if (claims->no >= 0)
        put_key("split.no", U16, (uint64_t)claims->no, 2);
    if (claims->count >= 0)
        put_key("split.count", U16, (uint64_t)claims->count, 2);
    if (claims->total >= 0)
        put_key("split.tensors.count", I32, (uint64_t)claims->total, 4);
    put_info(tensor, 1, dims, 0, 0);
    put_padding(32);
    for (int i = 0; i < 4; i++)
        put_bytes(tensor, 4);
    write_file(folder, name, gguf.bytes, gguf.n);
}

static const char *const part_names[N_PARTS] = {"m-00001-of-00003.gguf", "m-00002-of-00003.gguf",
                                                "m-00003-of-00003.gguf"};

static void write_parts(const char *folder)
{
    const struct claims claims[N_PARTS] = {{0, 3, 3, "x"}, {1, 3, 3, NULL}, {2, 3, 3, NULL}};
    write_part(folder, part_names[0], "cccc", &claims[0]);
    write_part(folder, part_names[1], "aaaa", &claims[1]);
    write_part(folder, part_names[2], "bbbb", &claims[2]);
}

static void expect_parts(const char *folder, const char *name, kvf_status wanted, const char *parts)
{
    char path[512];
    kvf_error error = {0};
    kvf_tensor_set *set = NULL;
    snprintf(path, sizeof path, "%s/%s", folder, name);
    assert_failed(parts, kvf_tensor_set_open(path, &set, &error), wanted, &error, parts);
    assert_null(set);
}

static void test_any_part_and_the_folder_open_all_parts(void **state)
{
    char path[512];
    kvf_error error = {0};
    write_parts(*state);
    for (int i = 0; i <= N_PARTS; i++) {
        snprintf(path, sizeof path, "%s/%s", (char *)*state, i < N_PARTS ? part_names[i] : "");
        if (kvf_tensor_set_open(path, &opened, &error) != KVF_OK)
            fail_msg("%s", error.message);
        const kvf_tensor *first = kvf_tensor_set_at(opened, 0);
        assert_string_equal(first->name, "aaaa");
        assert_memory_equal(first->data, "aaaaaaaaaaaaaaaa", 16);
        assert_int_equal(first->file_index, 1);
        assert_string_equal(kvf_tensor_set_file(opened, 1)->path, first->file);
        assert_memory_equal(kvf_tensor_set_find(opened, "cccc")->data, "cccc", 4);
        assert_non_null(kvf_tensor_set_metadata(opened, "general.architecture"));
        assert_null(kvf_tensor_set_file(opened, 3));
        close_gguf();
    }
}

static void test_parts_that_are_missing_or_of_another_model_are_refused(void **state)
{
    char path[512];
    for (int i = 0; i < N_PARTS; i++) {
        char parts[128];
        write_parts(*state);
        snprintf(path, sizeof path, "%s/%s", (char *)*state, part_names[i]);
        assert_int_equal(unlink(path), 0);
        snprintf(parts, sizeof parts, "/%s: no such file; |is a part of the same model",
                 part_names[i]);
        expect_parts(*state, part_names[(i + 1) % N_PARTS], KVF_FILE_FORMAT, parts);
    }
    static const struct {
        struct claims claims;
        const char *tensor;
        const char *parts;
    } cases[] = {
        {{2, 3, 3, NULL}, "aaaa", "00002-of-00003.gguf: key \"split.no\" is 2; part 2 of 3 has 1"},
        {{0, 3, 3, NULL}, "aaaa", "\"split.no\" is 0; part 2 of 3 has 1"},
        {{1, 4, 3, NULL}, "aaaa", "\"split.count\" is 4; part 2 of 3 has 3"},
        {{1, 2, 3, NULL}, "aaaa", "\"split.count\" is 2; part 2 of 3 has 3"},
        {{1, 3, 4, NULL}, "aaaa", "\"split.tensors.count\" is 4; part 2 of 3 has 3"},
        {{-1, 3, 3, NULL}, "aaaa", "named as part 2 of 3|has no key \"split.no\""},
        {{1, -1, 3, NULL}, "aaaa", "has no key \"split.count\""},
        {{1, 3, -1, NULL}, "aaaa", "has no key \"split.tensors.count\""},
        {{-1, -1, -1, NULL}, "aaaa", "named as part 2 of 3 of a split file, but has no key"},
        {{1, 3, 3, "y"}, "aaaa", "00002-of-00003.gguf: is of another model than |00001-of-00003"},
        {{1, 3, 3, "xx"}, "aaaa", "is of another model"},
        {{1, 3, 3, NULL}, "cccc", "tensor \"cccc\" is in both |00001-of-00003.gguf and "},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        write_parts(*state);
        write_part(*state, part_names[1], cases[i].tensor, &cases[i].claims);
        expect_parts(*state, part_names[i % N_PARTS], KVF_FILE_FORMAT, cases[i].parts);
    }
    const struct claims same = {1, 3, 3, "x"};
    write_parts(*state);
    write_part(*state, part_names[1], "aaaa", &same);
    snprintf(path, sizeof path, "%s/%s", (char *)*state, part_names[0]);
    kvf_error error = {0};
    assert_int_equal(kvf_tensor_set_open(path, &opened, &error), KVF_OK);
    close_gguf();
}

static void test_parts_hold_as_many_tensors_as_they_say(void **state)
{
    const struct claims claims[N_PARTS] = {{0, 3, 4, "x"}, {1, 3, 4, NULL}, {2, 3, 4, NULL}};
    write_part(*state, part_names[0], "cccc", &claims[0]);
    write_part(*state, part_names[1], "aaaa", &claims[1]);
    write_part(*state, part_names[2], "bbbb", &claims[2]);
    expect_parts(*state, part_names[0], KVF_FILE_FORMAT,
                 "the 3 parts have 3 tensors in all; \"split.tensors.count\" is 4");
}

static void test_a_part_by_another_name_is_refused(void **state)
{
    const struct claims claims = {1, 3, 3, "x"};
    write_part(*state, "renamed.gguf", "aaaa", &claims);
    expect_parts(*state, "renamed.gguf", KVF_FILE_FORMAT,
                 "renamed.gguf: is part 2 of 3|NAME-00002-of-00003.gguf");
    static const char *const names[] = {"m-0002-of-0003.gguf", "m-00002-of-00003.GGUF",
                                        "m-00004-of-00003.gguf", "m-00000-of-00003.gguf",
                                        "m_00002-of-00003.gguf"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        write_part(*state, names[i], "aaaa", &claims);
        expect_parts(*state, names[i], KVF_FILE_FORMAT, "is part 2 of 3");
    }
    const struct claims only = {0, 1, 1, "x"};
    char path[512];
    kvf_error error = {0};
    write_part(*state, "m-00001-of-00001.gguf", "aaaa", &only);
    snprintf(path, sizeof path, "%s/m-00001-of-00001.gguf", (char *)*state);
    assert_int_equal(kvf_tensor_set_open(path, &opened, &error), KVF_OK);
    close_gguf();
}

static void test_a_folder_must_have_one_model(void **state)
{
    put_header(3, 0, 0);
    write_file(*state, "a.gguf", gguf.bytes, gguf.n);
    kvf_error error = {0};
    assert_int_equal(kvf_tensor_set_open(*state, &opened, &error), KVF_OK);
    close_gguf();
    write_file(*state, "b.gguf", gguf.bytes, gguf.n);
    write_text(*state, "c.txt", "");
    expect_parts(*state, "", KVF_INVALID_ARGUMENT, "has 2 GGUF files, \"a.gguf\" and others");
    write_safetensors(*state, "model.safetensors", 2, "{}", 2, 0);
    assert_int_equal(kvf_tensor_set_open(*state, &opened, &error), KVF_OK);
    assert_int_equal(kvf_tensor_set_container(opened), KVF_CONTAINER_SAFETENSORS);
    assert_non_null(strstr(kvf_tensor_set_config_path(opened), "/config.json"));
    close_gguf();
}

/* A GGUF by any name is one; a safetensors file that is called a GGUF is none. */
static void test_the_content_decides_what_a_file_is(void **state)
{
    char path[512];
    kvf_error error = {0};
    put_header(3, 0, 0);
    write_file(*state, "blob", gguf.bytes, gguf.n);
    snprintf(path, sizeof path, "%s/blob", (char *)*state);
    assert_int_equal(kvf_tensor_set_open(path, &opened, &error), KVF_OK);
    assert_int_equal(kvf_tensor_set_container(opened), KVF_CONTAINER_GGUF);
    close_gguf();
    write_safetensors(*state, "x.gguf", 2, "{}", 2, 16);
    expect_parts(*state, "x.gguf", KVF_FILE_FORMAT, "starts with the bytes 02 00 00 00");
}

#define IN_FOLDER(test) cmocka_unit_test_setup_teardown(test, make_folder, remove_folder)

int main(void)
{
    const struct CMUnitTest tests[] = {
        IN_FOLDER(test_any_part_and_the_folder_open_all_parts),
        IN_FOLDER(test_parts_that_are_missing_or_of_another_model_are_refused),
        IN_FOLDER(test_parts_hold_as_many_tensors_as_they_say),
        IN_FOLDER(test_a_part_by_another_name_is_refused),
        IN_FOLDER(test_a_folder_must_have_one_model),
        IN_FOLDER(test_the_content_decides_what_a_file_is),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
