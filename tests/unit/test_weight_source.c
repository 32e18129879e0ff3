/* Where weights lie: DeepSeek's pairs of tensors, GGUF's stacks of experts, what does not fit. */
#include "gguf_files.h"

#include "model/weight_source.h"
#include "weight/weight.h"

static unsigned char data[1 << 16];

/* A matrix of that shape, by all of its names. */
static kvf_weight matrix_of(uint64_t rows, uint64_t cols)
{
    return (kvf_weight){.names = {"layers.0.attn.wq_a.weight", "model.layers.0.attn.wq_a.weight",
                                  "blk.0.attn_q_a.weight"},
                        .kind = KVF_TENSOR_MATRIX,
                        .n_dims = 2,
                        .shape = {rows, cols}};
}

static tensor_entry entry_of(const char *name, const char *dtype, uint64_t rows, uint64_t cols,
                             uint64_t bytes)
{
    tensor_entry entry = {
        .n_dims = cols ? 2 : 1, .shape = {rows, cols}, .data = data, .bytes = bytes};
    snprintf(entry.name, sizeof entry.name, "%s", name);
    snprintf(entry.dtype, sizeof entry.dtype, "%s", dtype);
    return entry;
}

static kvf_tensor_set *open_entries(const char *folder, const tensor_entry *entries, size_t n)
{
    kvf_tensor_set *set = NULL;
    kvf_error error = {0};
    write_entries(folder, "model.safetensors", entries, n);
    if (kvf_tensor_set_open(folder, &set, &error) != KVF_OK)
        fail_msg("%s", error.message);
    return set;
}

static void expect_in(const char *folder, const tensor_entry *entries, size_t n,
                      const kvf_weight *weight, kvf_status wanted, const char *parts)
{
    kvf_weight_place place;
    kvf_error error = {0};
    kvf_tensor_set *set = open_entries(folder, entries, n);
    assert_failed(parts, kvf_weight_locate(set, folder, weight, &place, &error), wanted, &error,
                  parts);
    kvf_tensor_set_close(set);
}

/* ---- DeepSeek's FP8 and FP4 ------------------------------------------------------------- */

static const struct scaled {
    const char *dtype;
    const char *scale_dtype;
    kvf_weight_id id;
} scaled_types[] = {{"F8_E4M3", "F8_E8M0", KVF_WEIGHT_FP8_E8M0},
                    {"F8_E4M3", "U8", KVF_WEIGHT_FP8_E8M0},
                    {"F8_E4M3", "F32", KVF_WEIGHT_FP8_F32},
                    {"I8", "F8_E8M0", KVF_WEIGHT_FP4},
                    {"U8", "U8", KVF_WEIGHT_FP4},
                    {"U8", "F8_E8M0", KVF_WEIGHT_FP4}};
enum { N_SCALED_TYPES = sizeof scaled_types / sizeof *scaled_types };

/* The pair of a matrix [rows][cols] with scales of that shape. */
static void make_pair(const struct scaled *type, uint64_t rows, uint64_t cols, uint64_t scale_rows,
                      uint64_t scale_cols, tensor_entry *pair)
{
    const uint64_t packed_cols = type->id == KVF_WEIGHT_FP4 ? cols / 2 : cols;
    const uint64_t scale_bytes = strcmp(type->scale_dtype, "F32") == 0 ? 4 : 1;
    pair[0] =
        entry_of("layers.0.attn.wq_a.weight", type->dtype, rows, packed_cols, rows * packed_cols);
    pair[1] = entry_of("layers.0.attn.wq_a.scale", type->scale_dtype, scale_rows, scale_cols,
                       scale_rows * (scale_cols ? scale_cols : 1) * scale_bytes);
}

static void test_scales_are_found_beside_their_weight(void **state)
{
    static const uint64_t shapes[][2] = {{1, 32}, {128, 128}, {129, 160}, {130, 256}, {3, 64}};
    for (int t = 0; t < N_SCALED_TYPES; t++) {
        const struct scaled *type = &scaled_types[t];
        const bool is_fp4 = type->id == KVF_WEIGHT_FP4;
        for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
            const uint64_t rows = shapes[i][0];
            const uint64_t cols = shapes[i][1];
            const uint64_t scale_rows = is_fp4 ? rows : (rows + 127) / 128;
            const uint64_t scale_cols = is_fp4 ? cols / 32 : (cols + 127) / 128;
            tensor_entry pair[2];
            kvf_weight_place place;
            kvf_error error = {0};
            const kvf_weight weight = matrix_of(rows, cols);
            make_pair(type, rows, cols, scale_rows, scale_cols, pair);
            kvf_tensor_set *set = open_entries(*state, pair, 2);
            if (kvf_weight_locate(set, "x", &weight, &place, &error) != KVF_OK)
                fail_msg("%s", error.message);
            const kvf_matrix *matrix = &place.matrix;
            assert_int_equal(matrix->type, type->id);
            assert_true(matrix->rows == rows && matrix->cols == cols);
            assert_int_equal(matrix->row_bytes, is_fp4 ? cols / 2 : cols);
            assert_ptr_equal(matrix->data, kvf_tensor_set_find(set, pair[0].name)->data);
            assert_ptr_equal(matrix->scales, kvf_tensor_set_find(set, pair[1].name)->data);
            assert_ptr_equal(place.scales, kvf_tensor_set_find(set, pair[1].name));
            assert_int_equal(matrix->scale_stride,
                             scale_cols * (type->id == KVF_WEIGHT_FP8_F32 ? 4 : 1));
            kvf_tensor_set_close(set);
        }
    }
}

static void test_scale_planes_of_a_wrong_size_are_refused(void **state)
{
    static const uint64_t fp8_planes[][2] = {{1, 2}, {2, 1}, {3, 2}, {2, 3}, {4, 1}, {4, 0}};
    static const uint64_t fp4_planes[][2] = {{129, 4},  {130, 3}, {131, 5},
                                             {130, 10}, {2, 2},   {650, 0}};
    for (int t = 0; t < N_SCALED_TYPES; t++) {
        const bool is_fp4 = scaled_types[t].id == KVF_WEIGHT_FP4;
        const kvf_weight weight = matrix_of(130, 160);
        for (size_t i = 0; i < 6; i++) {
            const uint64_t *plane = is_fp4 ? fp4_planes[i] : fp8_planes[i];
            tensor_entry pair[2];
            make_pair(&scaled_types[t], 130, 160, plane[0], plane[1], pair);
            expect_in(*state, pair, 2, &weight, KVF_FILE_FORMAT,
                      is_fp4 ? "wq_a.scale\" has shape |asks for [130, 5]"
                             : "wq_a.scale\" has shape |asks for [2, 2]");
        }
    }
}

static void test_scales_that_are_missing_or_of_other_types_are_refused(void **state)
{
    const kvf_weight weight = matrix_of(4, 64);
    static const char *const others[] = {"F16", "BF16", "I64", "F8_E4M3", "I8", "F64"};
    static const uint64_t sizes[] = {2, 2, 8, 1, 1, 8};
    for (int t = 0; t < N_SCALED_TYPES; t++) {
        const bool is_fp4 = scaled_types[t].id == KVF_WEIGHT_FP4;
        tensor_entry pair[2];
        make_pair(&scaled_types[t], 4, 64, is_fp4 ? 4 : 1, is_fp4 ? 2 : 1, pair);
        expect_in(*state, pair, 1, &weight, KVF_FILE_FORMAT,
                  "wq_a.weight\" is stored as |no scales");
        for (int i = 0; i < 6; i++) {
            snprintf(pair[1].dtype, sizeof pair[1].dtype, "%s", others[i]);
            pair[1].bytes = (is_fp4 ? 8 : 1) * sizes[i];
            expect_in(*state, pair, 2, &weight, KVF_UNSUPPORTED,
                      "wq_a.scale\" is stored as |scales of");
        }
    }
    /* FP4 has no scales of F32. */
    const struct scaled fp4 = {"I8", "F32", KVF_WEIGHT_FP4};
    tensor_entry pair[2];
    make_pair(&fp4, 4, 64, 4, 2, pair);
    expect_in(*state, pair, 2, &weight, KVF_UNSUPPORTED, "is stored as F32; scales of FP4 are");
}

static void test_fp4_rows_have_whole_blocks_of_two_values_a_byte(void **state)
{
    const struct scaled fp4 = scaled_types[3];
    tensor_entry pair[2];
    kvf_weight weight = matrix_of(4, 48);
    make_pair(&fp4, 4, 48, 4, 2, pair);
    expect_in(*state, pair, 2, &weight, KVF_FILE_FORMAT,
              "in blocks of 32 values, which rows of 48");
    weight = matrix_of(4, 64); /* a byte a value */
    make_pair(&fp4, 4, 128, 4, 2, pair);
    expect_in(*state, pair, 2, &weight, KVF_FILE_FORMAT,
              "shape [4, 64]; the config asks for [4, 32]");
}

static void test_types_of_safetensors_that_are_not_read_are_named(void **state)
{
    static const struct {
        const char *dtype;
        uint64_t bits;
    } others[] = {{"F4", 4},      {"F8_E5M2", 8}, {"F8_E8M0", 8}, {"I64", 64}, {"I32", 32},
                  {"F6_E2M3", 6}, {"F64", 64},    {"BOOL", 8},    {"U16", 16}};
    const kvf_weight weight = matrix_of(4, 64);
    for (size_t i = 0; i < sizeof others / sizeof *others; i++) {
        char parts[64];
        const tensor_entry entry =
            entry_of("layers.0.attn.wq_a.weight", others[i].dtype, 4, 64, 256 * others[i].bits / 8);
        snprintf(parts, sizeof parts, "wq_a.weight\" is stored as %s; ", others[i].dtype);
        expect_in(*state, &entry, 1, &weight, KVF_UNSUPPORTED, parts);
    }
}

/* ---- Plain types and names ------------------------------------------------------------------ */

static void test_both_names_are_found_and_missing_ones_told(void **state)
{
    kvf_weight_place place;
    kvf_error error = {0};
    const kvf_weight weight = matrix_of(4, 8);
    for (int style = 0; style < 2; style++) {
        const tensor_entry entry = entry_of(weight.names[style], "BF16", 4, 8, 64);
        kvf_tensor_set *set = open_entries(*state, &entry, 1);
        assert_int_equal(kvf_weight_locate(set, "x", &weight, &place, &error), KVF_OK);
        assert_true(place.matrix.type == KVF_WEIGHT_BF16 && place.matrix.row_bytes == 16);
        assert_true(!place.matrix.scales && !place.scales && place.bytes == 64);
        kvf_tensor_set_close(set);
    }
    tensor_entry entry = entry_of(weight.names[KVF_NAMES_GGUF], "BF16", 4, 8, 64);
    expect_in(
        *state, &entry, 1, &weight, KVF_FILE_FORMAT,
        "no tensor \"model.layers.0.attn.wq_a.weight\" (nor \"layers.0|shape would be [4, 8]");
    entry = entry_of(weight.names[0], "BF16", 8, 4, 64);
    expect_in(*state, &entry, 1, &weight, KVF_FILE_FORMAT,
              "has shape [8, 4]; the config asks for [4, 8]");
    entry = entry_of(weight.names[0], "BF16", 32, 0, 64);
    expect_in(*state, &entry, 1, &weight, KVF_FILE_FORMAT,
              "has shape [32]; the config asks for [4, 8]");
}

static void test_vectors_and_maps_have_types_of_their_own(void **state)
{
    static const struct {
        const char *dtype;
        uint64_t value_bytes;
        bool is_vector;
        bool is_map;
    } cases[] = {{"F32", 4, true, false},  {"F16", 2, true, false}, {"BF16", 2, true, false},
                 {"I64", 8, false, true},  {"I32", 4, false, true}, {"F64", 8, false, false},
                 {"U8", 1, false, false},  {"I8", 1, false, false}, {"F8_E4M3", 1, false, false},
                 {"I16", 2, false, false}, {"U32", 4, false, false}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        for (int map = 0; map < 2; map++) {
            kvf_weight weight = matrix_of(8, map ? 2 : 1);
            weight.kind = map ? KVF_TENSOR_MAP : KVF_TENSOR_VALUES;
            weight.n_dims = map ? 2 : 1;
            kvf_weight_place place;
            kvf_error error = {0};
            const tensor_entry entry = entry_of(weight.names[0], cases[i].dtype, 8, map ? 2 : 0,
                                                (map ? 16 : 8) * cases[i].value_bytes);
            kvf_tensor_set *set = open_entries(*state, &entry, 1);
            const kvf_status status = kvf_weight_locate(set, "x", &weight, &place, &error);
            if (map ? cases[i].is_map : cases[i].is_vector)
                assert_int_equal(status, KVF_OK);
            else
                assert_failed(cases[i].dtype, status, KVF_UNSUPPORTED, &error,
                              map ? "I64 or I32 is needed" : "F32, F16 or BF16 is needed");
            kvf_tensor_set_close(set);
        }
    }
}

/* ---- GGUF -------------------------------------------------------------------------------------
 */

static kvf_tensor_set *open_one(const char *folder, const char *name, uint32_t n_dims,
                                const uint64_t *dims, uint32_t type, size_t data_bytes)
{
    char path[512];
    kvf_tensor_set *set = NULL;
    kvf_error error = {0};
    put_header(3, 1, 0);
    put_info(name, n_dims, dims, type, 0);
    put_padding(32);
    put_zeros(data_bytes);
    write_file(folder, "x.gguf", gguf.bytes, gguf.n);
    snprintf(path, sizeof path, "%s/x.gguf", folder);
    if (kvf_tensor_set_open(path, &set, &error) != KVF_OK)
        fail_msg("%s", error.message);
    return set;
}

static void test_every_type_of_ggml_is_a_matrix_or_refused_by_name(void **state)
{
    size_t n_read = 0;
    for (kvf_stored_type type = 0; type < KVF_STORED_COUNT; type++) {
        const kvf_stored_info *info = kvf_stored_info_of(type);
        if (info->ggml_id < 0)
            continue;
        kvf_weight_place place;
        kvf_error error = {0};
        const uint64_t dims[] = {512, 3};
        const kvf_weight weight = matrix_of(3, 512);
        kvf_tensor_set *set = open_one(*state, weight.names[KVF_NAMES_GGUF], 2, dims,
                                       (uint32_t)info->ggml_id, 1 << 14);
        const kvf_status status = kvf_weight_locate(set, "x", &weight, &place, &error);
        if (status == KVF_OK) {
            const kvf_weight_type *read = kvf_weight_get(place.matrix.type);
            assert_int_equal(read->block_values, info->block_values);
            assert_int_equal(read->block_bytes, info->block_bytes);
            assert_int_equal(place.matrix.row_bytes * 3, place.bytes);
            char upper[16] = "";
            for (size_t i = 0; read->name[i]; i++)
                upper[i] = (char)(read->name[i] >= 'a' ? read->name[i] - 32 : read->name[i]);
            assert_string_equal(upper, info->name);
            n_read++;
        } else {
            char parts[64];
            snprintf(parts, sizeof parts,
                     "x.gguf: tensor \"blk.0.attn_q_a.weight\" is stored as %s; ", info->name);
            assert_failed(info->name, status, KVF_UNSUPPORTED, &error, parts);
        }
        kvf_tensor_set_close(set);
    }
    assert_int_equal(n_read, 18); /* f32, f16, bf16 and ggml's fifteen */
}

static void test_experts_are_parts_of_one_tensor(void **state)
{
    enum { N_EXPERTS = 5, ROWS = 3, COLS = 256, BYTES = ROWS * 84 }; /* Q2_K */
    const uint64_t dims[] = {COLS, ROWS, N_EXPERTS};
    kvf_weight weight = matrix_of(ROWS, COLS);
    kvf_weight_place place;
    kvf_error error = {0};
    weight.n_stacked = N_EXPERTS;
    kvf_tensor_set *set =
        open_one(*state, weight.names[KVF_NAMES_GGUF], 3, dims, 10, N_EXPERTS * BYTES);
    const char *begin = kvf_tensor_set_at(set, 0)->data;
    for (weight.place = 0; weight.place < N_EXPERTS; weight.place++) {
        assert_int_equal(kvf_weight_locate(set, "x", &weight, &place, &error), KVF_OK);
        assert_ptr_equal(place.matrix.data, begin + weight.place * BYTES);
        assert_ptr_equal(place.data, place.matrix.data);
        assert_true(place.bytes == BYTES && place.matrix.rows == ROWS && place.matrix.cols == COLS);
    }
    for (uint32_t n = 4; n <= 6; n += 2) {
        weight.n_stacked = n;
        weight.place = 0;
        assert_failed("experts", kvf_weight_locate(set, "x", &weight, &place, &error),
                      KVF_FILE_FORMAT, &error, "has shape [5, 3, 256]; the config asks for [");
    }
    kvf_tensor_set_close(set);
    /* One expert: the dimension of 1 is left out, or is not. */
    weight.n_stacked = 1;
    for (uint32_t n_dims = 2; n_dims <= 4; n_dims++) {
        const uint64_t one[] = {COLS, ROWS, 1, 1};
        set = open_one(*state, weight.names[KVF_NAMES_GGUF], n_dims, one, 10, BYTES);
        assert_int_equal(kvf_weight_locate(set, "x", &weight, &place, &error), KVF_OK);
        assert_int_equal(place.bytes, BYTES);
        kvf_tensor_set_close(set);
    }
}

static void test_dimensions_of_one_may_be_missing_in_a_gguf_alone(void **state)
{
    kvf_weight_place place;
    kvf_error error = {0};
    const uint64_t dims[] = {8, 1};
    kvf_weight weight = matrix_of(1, 8);
    for (uint32_t n_dims = 1; n_dims <= 2; n_dims++) {
        kvf_tensor_set *set = open_one(*state, weight.names[KVF_NAMES_GGUF], n_dims, dims, 0, 32);
        assert_int_equal(kvf_weight_locate(set, "x", &weight, &place, &error), KVF_OK);
        assert_true(place.matrix.rows == 1 && place.matrix.cols == 8);
        kvf_tensor_set_close(set);
    }
    const uint64_t turned[] = {1, 8};
    kvf_tensor_set *set = open_one(*state, weight.names[KVF_NAMES_GGUF], 2, turned, 0, 32);
    assert_failed("turned", kvf_weight_locate(set, "x", &weight, &place, &error), KVF_FILE_FORMAT,
                  &error, "has shape [8, 1]; the config asks for [1, 8]");
    kvf_tensor_set_close(set);
    set = open_one(*state, "blk.0.attn_q_b.weight", 2, dims, 0, 32);
    assert_failed("missing", kvf_weight_locate(set, "dir/x", &weight, &place, &error),
                  KVF_FILE_FORMAT, &error,
                  "dir/x: no tensor \"blk.0.attn_q_a.weight\"; its shape would be [1, 8]");
    kvf_tensor_set_close(set);
    const tensor_entry entry = entry_of(weight.names[0], "F32", 8, 0, 32);
    expect_in(*state, &entry, 1, &weight, KVF_FILE_FORMAT,
              "has shape [8]; the config asks for [1, 8]");
}

static void test_what_is_not_run_is_counted(void **state)
{
    const kvf_model_config config = {.geometry = {.n_layers = 2}};
    const tensor_entry entries[] = {entry_of("layers.1.attn_norm.weight", "F32", 4, 0, 16),
                                    entry_of("layers.2.attn_norm.weight", "F32", 4, 0, 16),
                                    entry_of("mtp.0.attn_norm.weight", "F32", 8, 0, 32),
                                    entry_of("embed.weight", "F32", 8, 0, 32),
                                    entry_of("blk.2.nextn.enorm.weight", "F32", 1, 0, 4),
                                    entry_of("dspark.main_proj.weight", "F32", 2, 0, 8)};
    kvf_tensor_set *set = open_entries(*state, entries, 6);
    const kvf_weights_ignored ignored = kvf_weights_count_ignored(set, &config);
    assert_int_equal(ignored.n_tensors, 4);
    assert_int_equal(ignored.bytes, 16 + 32 + 4 + 8);
    kvf_tensor_set_close(set);
}

#define IN_FOLDER(test) cmocka_unit_test_setup_teardown(test, make_folder, remove_folder)

int main(void)
{
    const struct CMUnitTest tests[] = {
        IN_FOLDER(test_scales_are_found_beside_their_weight),
        IN_FOLDER(test_scale_planes_of_a_wrong_size_are_refused),
        IN_FOLDER(test_scales_that_are_missing_or_of_other_types_are_refused),
        IN_FOLDER(test_fp4_rows_have_whole_blocks_of_two_values_a_byte),
        IN_FOLDER(test_types_of_safetensors_that_are_not_read_are_named),
        IN_FOLDER(test_both_names_are_found_and_missing_ones_told),
        IN_FOLDER(test_vectors_and_maps_have_types_of_their_own),
        IN_FOLDER(test_every_type_of_ggml_is_a_matrix_or_refused_by_name),
        IN_FOLDER(test_experts_are_parts_of_one_tensor),
        IN_FOLDER(test_dimensions_of_one_may_be_missing_in_a_gguf_alone),
        IN_FOLDER(test_what_is_not_run_is_counted),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
