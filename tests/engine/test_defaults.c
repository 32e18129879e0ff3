/* How answers are to be drawn, by generation_config.json and by a GGUF's keys. */
#include "engine/defaults.h"

#include "unit/gguf_files.h"

static kvf_draw_defaults parsed(const char *json)
{
    kvf_draw_defaults defaults;
    kvf_error error;
    if (kvf_draw_defaults_parse(json, strlen(json), "FILE", &defaults, &error) != KVF_OK)
        fail_msg("%s: %s", json, error.message);
    return defaults;
}

static void assert_defaults(const kvf_draw_defaults *defaults, double temperature, double top_p,
                            double min_p)
{
    assert_true((double)defaults->temperature > temperature - 1e-6 &&
                (double)defaults->temperature < temperature + 1e-6);
    assert_true((double)defaults->top_p > top_p - 1e-6 && (double)defaults->top_p < top_p + 1e-6);
    assert_true((double)defaults->min_p > min_p - 1e-6 && (double)defaults->min_p < min_p + 1e-6);
}

static void test_settings_and_what_is_left_out(void **state)
{
    (void)state;
    const struct {
        const char *json;
        double temperature, top_p, min_p;
        bool are_there;
    } cases[] = {
        {"{}", 0, 1, 0, false},
        {"{\"eos_token_id\": 1, \"temperature\": null}", 0, 1, 0, false},
        {"{\"do_sample\": true, \"temperature\": 1.0, \"top_p\": 0.95}", 1, 0.95, 0, true},
        {"{\"temperature\": 0.6, \"min_p\": 0.05}", 0.6, 1, 0.05, true},
        {"{\"do_sample\": true}", 1, 1, 0, true},
        {"{\"do_sample\": false, \"temperature\": 0.6, \"top_p\": 0.9, \"top_k\": 5}", 0, 1, 0,
         true},
        {"{\"do_sample\": true, \"temperature\": 0}", 0, 1, 0, true},
        {"{\"temperature\": 100, \"top_p\": 0, \"min_p\": 1}", 100, 0, 1, true},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const kvf_draw_defaults defaults = parsed(cases[i].json);
        assert_defaults(&defaults, cases[i].temperature, cases[i].top_p, cases[i].min_p);
        assert_int_equal(defaults.are_there, cases[i].are_there);
        assert_string_equal(defaults.passed_over, "");
    }
}

static void test_what_nothing_here_follows_is_named(void **state)
{
    (void)state;
    assert_string_equal(parsed("{\"temperature\": 1, \"top_k\": 50, \"num_beams\": 4}").passed_over,
                        "top_k, num_beams");
    assert_string_equal(parsed("{\"temperature\": 1, \"top_k\": 0, \"num_beams\": 1,"
                               "\"repetition_penalty\": 1.0}")
                            .passed_over,
                        "");
    const kvf_draw_defaults all = parsed(
        "{\"temperature\": 1, \"top_k\": 1, \"typical_p\": 0, \"epsilon_cutoff\": 1,"
        "\"eta_cutoff\": 1, \"repetition_penalty\": 2, \"no_repeat_ngram_size\": 1, \"num_beams\":"
        "2, \"presence_penalty\": 1, \"frequency_penalty\": \"x\"}");
    assert_non_null(strstr(all.passed_over, "frequency_penalty"));
}

static void test_what_is_no_setting_is_refused(void **state)
{
    (void)state;
    const char *const cases[][2] = {
        {"{\"temperature\": -0.1}", "\"temperature\" is -0.1; a number from 0 to 100"},
        {"{\"temperature\": 101}", "\"temperature\""},
        {"{\"temperature\": \"1\"}", "\"temperature\" is \"1\""},
        {"{\"temperature\": true}", "\"temperature\""},
        {"{\"temperature\": 1e999}", "\"temperature\""},
        {"{\"top_p\": 1.01}", "\"top_p\" is 1.01; a number from 0 to 1"},
        {"{\"top_p\": [0.9]}", "\"top_p\" is an array"},
        {"{\"min_p\": -1}", "\"min_p\""},
        {"{\"do_sample\": 1}", "\"do_sample\" is 1; true or false"},
        {"{\"do_sample\": false, \"temperature\": -1}", "\"temperature\""},
        {"{\"temperature\": 1", "FILE"},
        {"[]", "FILE"},
        {"", "FILE"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        kvf_draw_defaults defaults;
        kvf_error error;
        assert_int_equal(
            kvf_draw_defaults_parse(cases[i][0], strlen(cases[i][0]), "FILE", &defaults, &error),
            KVF_FILE_FORMAT);
        if (!strstr(error.message, cases[i][1]) || !strstr(error.message, "FILE"))
            fail_msg("%s: %s", cases[i][0], error.message);
    }
}

static kvf_status read_at(const char *folder, const char *name, kvf_draw_defaults *defaults,
                          kvf_error *error)
{
    char path[512];
    kvf_tensor_set *files;
    snprintf(path, sizeof path, "%s/%s", folder, name);
    kvf_status status = kvf_tensor_set_open(path, &files, error);
    if (status != KVF_OK)
        fail_msg("%s", error->message);
    status = kvf_draw_defaults_read(files, defaults, error);
    kvf_tensor_set_close(files);
    return status;
}

static void test_the_file_beside_safetensors(void **state)
{
    static const char tensors[] = "\x40\0\0\0\0\0\0\0"
                                  "{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}"
                                  "          \0\0\0";
    static const char good[] = "{\"temperature\": 0.5}";
    static const char bad[] = "{\"top_p\": 7}";
    kvf_draw_defaults defaults;
    kvf_error error;
    write_file(*state, "model.safetensors", tensors, 8 + 64 + 4);
    assert_int_equal(read_at(*state, "", &defaults, &error), KVF_OK);
    assert_false(defaults.are_there);
    assert_defaults(&defaults, 0, 1, 0);
    write_file(*state, "generation_config.json", good, sizeof good - 1);
    assert_int_equal(read_at(*state, "model.safetensors", &defaults, &error), KVF_OK);
    assert_defaults(&defaults, 0.5, 1, 0);
    write_file(*state, "generation_config.json", bad, sizeof bad - 1);
    assert_int_equal(read_at(*state, "", &defaults, &error), KVF_FILE_FORMAT);
    assert_non_null(strstr(error.message, "generation_config.json"));
}

/* A GGUF of one tensor and one key. */
static void write_gguf(const char *folder, const char *key, uint32_t type, uint64_t value,
                       size_t bytes)
{
    put_header(3, 1, 1);
    put_key(key, type, value, bytes);
    put_info("a", 1, (const uint64_t[]){1}, 0, 0);
    put_padding(32);
    put_zeros(32);
    write_file(folder, "model.gguf", gguf.bytes, gguf.n);
}

static uint64_t bits_of(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

static void test_the_keys_of_a_gguf(void **state)
{
    enum { U32 = 4, F32 = 6 };
    kvf_draw_defaults defaults;
    kvf_error error;
    write_gguf(*state, "general.sampling.temp", F32, bits_of(0.7f), 4);
    assert_int_equal(read_at(*state, "model.gguf", &defaults, &error), KVF_OK);
    assert_true(defaults.are_there);
    assert_defaults(&defaults, (double)0.7f, 1, 0);
    write_gguf(*state, "general.sampling.other", F32, bits_of(0.7f), 4);
    assert_int_equal(read_at(*state, "model.gguf", &defaults, &error), KVF_OK);
    assert_false(defaults.are_there);
    write_gguf(*state, "general.sampling.top_p", F32, bits_of(1.5f), 4);
    assert_int_equal(read_at(*state, "model.gguf", &defaults, &error), KVF_FILE_FORMAT);
    assert_non_null(strstr(error.message, "general.sampling.top_p is 1.5; a float from 0 to 1"));
    write_gguf(*state, "general.sampling.min_p", U32, 1, 4);
    assert_int_equal(read_at(*state, "model.gguf", &defaults, &error), KVF_FILE_FORMAT);
    assert_non_null(strstr(error.message, "general.sampling.min_p is of type u32"));
    write_gguf(*state, "general.sampling.temp", F32, 0x7fc00000, 4);
    assert_int_equal(read_at(*state, "model.gguf", &defaults, &error), KVF_FILE_FORMAT);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_settings_and_what_is_left_out),
        cmocka_unit_test(test_what_nothing_here_follows_is_named),
        cmocka_unit_test(test_what_is_no_setting_is_refused),
        cmocka_unit_test_setup_teardown(test_the_file_beside_safetensors, make_folder,
                                        remove_folder),
        cmocka_unit_test_setup_teardown(test_the_keys_of_a_gguf, make_folder, remove_folder),
    };
    return cmocka_run_group_tests_name("defaults", tests, NULL, NULL);
}
