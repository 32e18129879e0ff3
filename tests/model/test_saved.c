/*
 * The model's sessions through files: the logits that follow are those of a session that
 * was never saved, in every profile; a model with other weights does not get them.
 */
#include "model/golden.h"

#include <dirent.h>
#include <fcntl.h>
#include <float.h>
#include <sys/stat.h>
#include <unistd.h>

#include "model/fingerprint.h"
#include "model/sample.h"

#define N_SAVED 300
#define N_AFTER 8

static engine cpu;
static char folder[] = "/tmp/kvfold-saved-XXXXXX";

static const char *in_folder(const char *name)
{
    static char paths[4][300];
    static unsigned next;
    char *path = paths[next++ % 4];
    snprintf(path, sizeof *paths, "%s/%s", folder, name);
    return path;
}

static void every_profile_goes_on_bit_for_bit(void **state)
{
    (void)state;
    const int32_t *ids = golden(NULL, "p700.ids");
    const char *path = in_folder("session");
    float *expected = malloc(N_AFTER * VOCAB * sizeof *expected);
    float *logits = malloc(N_AFTER * VOCAB * sizeof *logits);
    kvf_error error;
    for (int from = 0; from < KVF_PROFILE_COUNT; from++) {
        kvf_session *session = session_open(&cpu, (kvf_profile_id)from, false, 1024, 128);
        feed(&cpu, session, ids, N_SAVED, 128, NULL);
        require(kvf_model_save_session(cpu.model, session, path, NULL, NULL, &error), &error);
        feed(&cpu, session, ids + N_SAVED, N_AFTER, 1, expected);
        for (int to = 0; to < KVF_PROFILE_COUNT; to++) {
            const kvf_session_options options = {
                .profile = (kvf_profile_id)to, .max_tokens = 1024, .chunk_tokens = 128};
            kvf_session *restored;
            require(kvf_model_load_session(cpu.model, path, &options, to % 2, &restored, &error),
                    &error);
            assert_memory_equal(kvf_session_tokens(restored), ids, N_SAVED * sizeof *ids);
            feed(&cpu, restored, ids + N_SAVED, N_AFTER, 1, logits);
            assert_memory_equal(logits, expected, N_AFTER * VOCAB * sizeof *logits);
            kvf_session_close(restored);
        }
        kvf_session_close(session);
    }
    free(expected);
    free(logits);
}

/* Copies the checkpoint; where `change` is not NULL, the middle byte of that file is another. */
static void copy_checkpoint(const char *change)
{
    DIR *listing = opendir(KVF_TEST_MODEL);
    assert_non_null(listing);
    for (struct dirent *entry; (entry = readdir(listing));) {
        char from[400];
        if (entry->d_name[0] == '.')
            continue;
        snprintf(from, sizeof from, "%s/%s", KVF_TEST_MODEL, entry->d_name);
        FILE *in = fopen(from, "rb");
        assert_non_null(in);
        assert_int_equal(fseek(in, 0, SEEK_END), 0);
        const size_t bytes = (size_t)ftell(in);
        uint8_t *data = malloc(bytes);
        rewind(in);
        assert_int_equal(fread(data, 1, bytes, in), bytes);
        fclose(in);
        if (change && strcmp(entry->d_name, change) == 0)
            data[bytes / 2] ^= 1;
        FILE *out = fopen(in_folder(entry->d_name), "wb");
        assert_non_null(out);
        assert_int_equal(fwrite(data, 1, bytes, out), bytes);
        assert_int_equal(fclose(out), 0);
        free(data);
    }
    closedir(listing);
}

static uint64_t fingerprint_of(const char *dir, const kvf_model_config *config, uint32_t n_threads)
{
    const kvf_device_options options = {.n_threads = n_threads};
    kvf_tensor_set *files;
    kvf_device *device;
    kvf_error error;
    uint64_t fingerprint;
    require(kvf_device_open(&options, &device, &error), &error);
    require(kvf_tensor_set_open(dir, &files, &error), &error);
    require(kvf_fingerprint(config, files, device, &fingerprint, &error), &error);
    kvf_device_close(device);
    kvf_tensor_set_close(files);
    return fingerprint;
}

static void every_weight_and_every_value_of_the_config_count(void **state)
{
    (void)state;
    uint64_t known;
    kvf_error error;
    require(kvf_model_fingerprint(cpu.model, &known, &error), &error);
    kvf_model_config config = cpu.model->config;
    assert_int_equal(fingerprint_of(KVF_TEST_MODEL, &config, 1), known);
    copy_checkpoint(NULL);
    assert_int_equal(fingerprint_of(folder, &config, 3), known);
    static const char *const shards[] = {"model-00001-of-00003.safetensors",
                                         "model-00002-of-00003.safetensors",
                                         "model-00003-of-00003.safetensors"};
    for (int i = 0; i < 3; i++) {
        copy_checkpoint(shards[i]);
        assert_int_not_equal(fingerprint_of(folder, &config, 2), known);
    }
    config.norm_eps *= 2;
    assert_int_not_equal(fingerprint_of(KVF_TEST_MODEL, &config, 1), known);
    config = cpu.model->config;
    config.rope_compress.factor += 1;
    assert_int_not_equal(fingerprint_of(KVF_TEST_MODEL, &config, 1), known);
    config = cpu.model->config;
    config.geometry.max_tokens /= 2;
    assert_int_equal(fingerprint_of(KVF_TEST_MODEL, &config, 1), known);
}

static void a_session_of_other_weights_is_refused(void **state)
{
    (void)state;
    const int32_t *ids = golden(NULL, "p700.ids");
    const char *path = in_folder("session");
    kvf_session *session = session_open(&cpu, KVF_PROFILE_FOLD, false, 1024, 128);
    kvf_session *restored;
    kvf_error error;
    feed(&cpu, session, ids, 10, 128, NULL);
    require(kvf_model_save_session(cpu.model, session, path, NULL, NULL, &error), &error);
    const uint64_t fingerprint = cpu.model->fingerprint;
    cpu.model->fingerprint ^= 1;
    assert_int_equal(kvf_model_load_session(cpu.model, path, NULL, false, &restored, &error),
                     KVF_WRONG_MODEL);
    char text[20];
    snprintf(text, sizeof text, "%016llx", (unsigned long long)fingerprint);
    assert_non_null(strstr(error.message, text));
    cpu.model->fingerprint = fingerprint;
    /* One that says nothing of its model is refused as well. */
    kvf_session_set_model_fingerprint(session, 0);
    require(kvf_session_save(session, path, NULL, NULL, &error), &error);
    assert_int_equal(kvf_model_load_session(cpu.model, path, NULL, false, &restored, &error),
                     KVF_WRONG_MODEL);
    kvf_session_close(session);
}

/* Flips a bit of a byte of the file in its place. */
static void write_in_place(const char *path)
{
    FILE *file = fopen(path, "r+b");
    assert_non_null(file);
    assert_int_equal(fseek(file, -1, SEEK_END), 0);
    const int byte = getc(file);
    assert_int_equal(fseek(file, -1, SEEK_END), 0);
    assert_int_equal(putc(byte ^ 1, file), byte ^ 1);
    assert_int_equal(fclose(file), 0);
}

static void touch(const char *path)
{
    static const struct timespec long_ago[] = {{1, 0}, {1, 0}};
    assert_int_equal(utimensat(AT_FDCWD, path, long_ago, 0), 0);
}

/* Neither before nor after its fingerprint is known. */
static void a_model_whose_files_changed_saves_and_restores_nothing(void **state)
{
    (void)state;
    static const struct {
        const char *name;
        void (*change)(const char *path);
    } cases[] = {{"model-00001-of-00003.safetensors", write_in_place},
                 {"model-00003-of-00003.safetensors", touch},
                 {"config.json", touch}};
    const int32_t *ids = golden(NULL, "p700.ids");
    char path[300];
    kvf_session *restored;
    kvf_save_report report;
    kvf_error error;
    snprintf(path, sizeof path, "%s/session", folder);
    unlink(path);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        uint64_t fingerprint;
        engine other = {.device = cpu.device};
        copy_checkpoint(NULL);
        require(kvf_model_load(cpu.device, folder, 128, &other.model, &error), &error);
        kvf_session *session = session_open(&other, KVF_PROFILE_FOLD, false, 1024, 128);
        feed(&other, session, ids, 10, 128, NULL);
        if (i > 0) /* known, and a session there: neither is of use any more */
            require(kvf_model_save_session(other.model, session, path, NULL, &report, &error),
                    &error);
        cases[i].change(in_folder(cases[i].name));
        feed(&other, session, ids + 10, 1, 1, NULL);
        assert_int_equal(kvf_model_fingerprint(other.model, &fingerprint, &error), KVF_FILE_IO);
        assert_int_equal(fingerprint, 0);
        assert_int_equal(kvf_model_save_session(other.model, session, path, NULL, NULL, &error),
                         KVF_FILE_IO);
        assert_non_null(strstr(error.message, cases[i].name));
        assert_int_equal(kvf_model_load_session(other.model, path, NULL, false, &restored, &error),
                         KVF_FILE_IO);
        assert_non_null(strstr(error.message, cases[i].name));
        kvf_snapshot_info info;
        const kvf_status there = kvf_snapshot_info_read(path, &info, &error);
        assert_int_equal(there, i > 0 ? KVF_OK : KVF_FILE_NOT_FOUND);
        assert_int_equal(info.n_tokens, i > 0 ? 10 : 0);
        kvf_session_close(session);
        kvf_model_free(other.model);
    }
}

static void the_sampler_goes_on_where_it_was(void **state)
{
    (void)state;
    kvf_session *session = session_open(&cpu, KVF_PROFILE_FOLD, false, 1024, 128);
    kvf_sampler sampler = {.temperature = 0.8f, .top_p = 0.9f, .min_p = 0.05f, .state = 12345};
    kvf_sampler other = {0};
    assert_false(kvf_sampler_restore(&other, kvf_session_caller_state(session)));
    kvf_sampler_store(&sampler, kvf_session_caller_state(session));
    assert_true(kvf_sampler_restore(&other, kvf_session_caller_state(session)));
    assert_true(other.temperature == 0.8f && other.top_p == 0.9f && other.min_p == 0.05f &&
                other.state == 12345);
    sampler.top_p = NAN;
    kvf_sampler_store(&sampler, kvf_session_caller_state(session));
    assert_false(kvf_sampler_restore(&other, kvf_session_caller_state(session)));
    kvf_session_close(session);
}

static void every_setting_of_a_sampler_comes_back(void **state)
{
    (void)state;
    static const float temperatures[] = {0, FLT_TRUE_MIN, 1e-6f, 0.1f, 1, 100, FLT_MAX};
    static const float shares[] = {0, FLT_TRUE_MIN, 1e-6f, 0.1f, 0.99999994f, 1};
    static const uint64_t seeds[] = {0, 1, UINT64_MAX};
    enum { N_SHARES = sizeof shares / sizeof *shares };
    uint8_t bytes[KVF_CALLER_STATE_BYTES];
    for (size_t i = 0; i < sizeof temperatures / sizeof *temperatures; i++)
        for (size_t j = 0; j < (size_t)N_SHARES * N_SHARES * 3; j++) {
            const kvf_sampler sampler = {.temperature = temperatures[i],
                                         .top_p = shares[j % N_SHARES],
                                         .min_p = shares[j / N_SHARES % N_SHARES],
                                         .state = seeds[j / N_SHARES / N_SHARES]};
            kvf_sampler other = {-1, -1, -1, 7, 0};
            kvf_sampler_store(&sampler, bytes);
            assert_true(kvf_sampler_restore(&other, bytes));
            assert_memory_equal(&other, &sampler, 3 * sizeof(float));
            assert_int_equal(other.state, sampler.state);
        }
}

static int setup(void **state)
{
    (void)state;
    golden_open();
    cpu = engine_open("cpu", 128);
    return mkdtemp(folder) == NULL;
}

static int teardown(void **state)
{
    (void)state;
    DIR *listing = opendir(folder);
    for (struct dirent *entry; listing && (entry = readdir(listing));)
        unlink(in_folder(entry->d_name));
    closedir(listing);
    engine_close(&cpu);
    kvf_tensor_set_close(golden_files);
    return rmdir(folder);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_profile_goes_on_bit_for_bit),
        cmocka_unit_test(every_weight_and_every_value_of_the_config_count),
        cmocka_unit_test(a_session_of_other_weights_is_refused),
        cmocka_unit_test(a_model_whose_files_changed_saves_and_restores_nothing),
        cmocka_unit_test(every_setting_of_a_sampler_comes_back),
        cmocka_unit_test(the_sampler_goes_on_where_it_was),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
