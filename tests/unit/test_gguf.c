/* GGUF files: what is read, and that every malformed one is refused by file, key or tensor. */
#include "gguf_files.h"

#include "file/metadata.h"

/* Type numbers of the format. */
enum { U8, I8, U16, I16, U32, I32, F32, BOOL, TEXT, ARRAY, U64, I64, F64 };

static kvf_tensor_set *opened;

static void open_gguf(const char *folder, const char *name)
{
    char path[512];
    kvf_error error = {0};
    write_file(folder, name, gguf.bytes, gguf.n);
    snprintf(path, sizeof path, "%s/%s", folder, name);
    if (kvf_tensor_set_open(path, &opened, &error) != KVF_OK)
        fail_msg("%s", error.message);
}

static void close_gguf(void)
{
    kvf_tensor_set_close(opened);
    opened = NULL;
}

static void expect(const char *folder, const char *label, kvf_status wanted, const char *parts)
{
    char path[512];
    kvf_error error = {0};
    kvf_tensor_set *set = NULL;
    write_file(folder, "x.gguf", gguf.bytes, gguf.n);
    snprintf(path, sizeof path, "%s/x.gguf", folder);
    const kvf_status status = kvf_tensor_set_open(path, &set, &error);
    assert_failed(label, status, wanted, &error, parts);
    assert_null(set);
    if (!strstr(error.message, "/x.gguf: "))
        fail_msg("%s: does not name the file: %s", label, error.message);
}

static void expect_good(const char *folder, const char *label)
{
    open_gguf(folder, "x.gguf");
    assert_non_null(label);
    close_gguf();
}

/* Two tensors of 32 f32 at these places, data_bytes of data. */
static void put_two(uint64_t first, uint64_t second, size_t data_bytes)
{
    const uint64_t dims[] = {32};
    put_header(3, 2, 0);
    put_info("a", 1, dims, 0, first);
    put_info("b", 1, dims, 0, second);
    put_padding(32);
    put_zeros(data_bytes);
}

/* ---- Good files --------------------------------------------------------------------- */

static void test_tensors_are_found_with_their_dimensions_turned_round(void **state)
{
    const uint64_t matrix[] = {64, 3};
    const uint64_t experts[] = {256, 2, 5, 1};
    const uint64_t vector[] = {7};
    for (uint32_t version = 2; version <= 3; version++) {
        put_header(version, 3, 1);
        put_key("general.architecture", TEXT, 1, 8);
        put_bytes("x", 1);
        put_info("m", 2, matrix, 8, 0);               /* Q8_0: 3 rows of 2 blocks of 34 */
        put_info("e", 4, experts, 10, 224);           /* Q2_K: 10 rows of a block of 84 */
        put_info("v", 1, vector, 30, 224 + 840 + 24); /* BF16 */
        put_padding(32);
        const size_t data_begin = gguf.n;
        for (size_t i = 0; i < 224 + 840 + 24 + 14; i++)
            put(i, 1);
        open_gguf(*state, "x.gguf");
        const kvf_tensor *m = kvf_tensor_set_find(opened, "m");
        const kvf_tensor *e = kvf_tensor_set_find(opened, "e");
        const kvf_tensor *v = kvf_tensor_set_find(opened, "v");
        assert_true(m && e && v && !kvf_tensor_set_find(opened, "M"));
        assert_ptr_equal(kvf_tensor_set_at(opened, 0), e);
        assert_null(kvf_tensor_set_at(opened, 3));
        assert_int_equal(m->type, KVF_STORED_Q8_0);
        assert_true(m->n_dims == 2 && m->shape[0] == 3 && m->shape[1] == 64 && m->bytes == 204);
        assert_int_equal(e->type, KVF_STORED_Q2_K);
        assert_true(e->n_dims == 4 && e->shape[0] == 1 && e->shape[1] == 5 && e->shape[2] == 2 &&
                    e->shape[3] == 256 && e->bytes == 840);
        assert_true(v->type == KVF_STORED_BF16 && v->n_dims == 1 && v->bytes == 14);
        assert_memory_equal(v->data, gguf.bytes + data_begin + 1088, 14);
        assert_int_equal(kvf_tensor_set_container(opened), KVF_CONTAINER_GGUF);
        assert_null(kvf_tensor_set_config_path(opened));
        assert_int_equal(kvf_tensor_set_mapped_bytes(opened), gguf.n);
        assert_int_equal(kvf_tensor_set_file(opened, 0)->surplus_bytes, 0);
        close_gguf();
    }
}

/* What ggml's own library says of its types: number, values and bytes of a block. */
static const struct ggml_type {
    uint32_t id;
    uint64_t values;
    uint64_t bytes;
} ggml_types[] = {{0, 1, 4},      {1, 1, 2},      {2, 32, 18},    {3, 32, 20},    {6, 32, 22},
                  {7, 32, 24},    {8, 32, 34},    {9, 32, 36},    {10, 256, 84},  {11, 256, 110},
                  {12, 256, 144}, {13, 256, 176}, {14, 256, 210}, {15, 256, 292}, {16, 256, 66},
                  {17, 256, 74},  {18, 256, 98},  {19, 256, 50},  {20, 32, 18},   {21, 256, 110},
                  {22, 256, 82},  {23, 256, 136}, {24, 1, 1},     {25, 1, 2},     {26, 1, 4},
                  {27, 1, 8},     {28, 1, 8},     {29, 256, 56},  {30, 1, 2},     {34, 256, 54},
                  {35, 256, 66},  {39, 32, 17},   {40, 64, 36},   {41, 128, 18},  {42, 64, 18}};
enum { N_GGML_TYPES = sizeof ggml_types / sizeof *ggml_types };

static void test_every_type_of_ggml_has_its_size_and_no_other_is_known(void **state)
{
    size_t next = 0;
    for (uint32_t id = 0; id < 100; id++) {
        const bool known = next < N_GGML_TYPES && ggml_types[next].id == id;
        const uint64_t dims[] = {known ? ggml_types[next].values : 256, 3};
        put_header(3, 1, 0);
        put_info("t", 2, dims, id, 0);
        put_padding(32);
        put_zeros(2048);
        if (!known) {
            char parts[64];
            snprintf(parts, sizeof parts, "\"t\"|unknown type %u:", id);
            expect(*state, "dead type", KVF_UNSUPPORTED, parts);
            continue;
        }
        open_gguf(*state, "x.gguf");
        assert_int_equal(kvf_tensor_set_at(opened, 0)->bytes, 3 * ggml_types[next].bytes);
        close_gguf();
        if (ggml_types[next].values > 1) {
            const uint64_t odd[] = {ggml_types[next].values + 1, ggml_types[next].values};
            put_header(3, 1, 0);
            put_info("t", 2, odd, id, 0);
            put_padding(32);
            put_zeros(1 << 17);
            expect(*state, "a row that ends in a block", KVF_FILE_FORMAT,
                   "\"t\": rows of|blocks of");
        }
        next++;
    }
    assert_int_equal(next, N_GGML_TYPES);
}

static void test_metadata_is_read_by_class_of_type(void **state)
{
    uint64_t number = 0;
    double real = 0;
    bool truth = false;
    kvf_text text;
    put_header(3, 0, 13);
    put_key("u8", U8, 200, 1);
    put_key("i8", I8, 0x80, 1); /* -128 */
    put_key("u16", U16, 65535, 2);
    put_key("i16", I16, 32767, 2);
    put_key("u32", U32, UINT32_MAX, 4);
    put_key("i32", I32, 0x80000000, 4);
    put_key("u64", U64, UINT64_MAX, 8);
    put_key("i64", I64, INT64_MAX, 8);
    put_key("f32", F32, 0x3fc00000, 4);         /* 1.5 */
    put_key("f64", F64, 0xbff8000000000000, 8); /* -1.5 */
    put_key("bool", BOOL, 1, 1);
    put_key("text", TEXT, 3, 8);
    put_bytes("a\0\xff", 3);
    put_key("none", ARRAY, U32, 4);
    put(0, 8);
    open_gguf(*state, "x.gguf");
#define KEY(name) kvf_tensor_set_metadata(opened, name)
    assert_true(kvf_metadata_u64(KEY("u8"), 0, &number) && number == 200);
    assert_false(kvf_metadata_u64(KEY("i8"), 0, &number));
    assert_true(kvf_metadata_u64(KEY("u16"), 0, &number) && number == 65535);
    assert_true(kvf_metadata_u64(KEY("i16"), 0, &number) && number == 32767);
    assert_true(kvf_metadata_u64(KEY("u32"), 0, &number) && number == UINT32_MAX);
    assert_false(kvf_metadata_u64(KEY("i32"), 0, &number));
    assert_true(kvf_metadata_u64(KEY("u64"), 0, &number) && number == UINT64_MAX);
    assert_true(kvf_metadata_u64(KEY("i64"), 0, &number) && number == INT64_MAX);
    assert_false(kvf_metadata_u64(KEY("f32"), 0, &number) ||
                 kvf_metadata_u64(KEY("bool"), 0, &number) ||
                 kvf_metadata_u64(KEY("text"), 0, &number));
    assert_true(kvf_metadata_f64(KEY("f32"), 0, &real) && real == 1.5);
    assert_true(kvf_metadata_f64(KEY("f64"), 0, &real) && real == -1.5);
    assert_false(kvf_metadata_f64(KEY("u32"), 0, &real));
    assert_true(kvf_metadata_bool(KEY("bool"), 0, &truth) && truth);
    assert_false(kvf_metadata_bool(KEY("u8"), 0, &truth));
    uint64_t at = 0;
    assert_true(kvf_metadata_text(KEY("text"), &at, &text) && text.bytes == 3);
    assert_memory_equal(text.data, "a\0\xff", 3);
    assert_false(kvf_metadata_text(KEY("text"), &at, &text));
    assert_true(KEY("none")->is_array && KEY("none")->n_values == 0);
    assert_string_equal(kvf_metadata_show(KEY("none")).text, "an array of 0 u32");
    assert_string_equal(kvf_metadata_show(KEY("text")).text, "of type string");
    assert_null(KEY("Text"));
    assert_string_equal(kvf_tensor_set_metadata_at(opened, 0)->key, "bool");
    assert_null(kvf_tensor_set_metadata_at(opened, 13));
    close_gguf();
}

static void test_arrays_are_read_where_they_lie(void **state)
{
    const char *const words[] = {"", "one", "\xe2\x82\xac", "four"};
    put_header(3, 0, 2);
    put_key("numbers", ARRAY, I32, 4);
    put(300, 8);
    for (uint64_t i = 0; i < 300; i++)
        put(i == 299 ? UINT32_MAX : 7 * i, 4);
    put_key("words", ARRAY, TEXT, 4);
    put(4, 8);
    for (int i = 0; i < 4; i++)
        put_text(words[i]);
    open_gguf(*state, "x.gguf");
    const kvf_metadata *numbers = KEY("numbers");
    uint64_t number = 0;
    assert_true(numbers->is_array && numbers->n_values == 300 && numbers->bytes == 1200);
    for (uint64_t i = 0; i < 299; i++)
        assert_true(kvf_metadata_u64(numbers, i, &number) && number == 7 * i);
    assert_false(kvf_metadata_u64(numbers, 299, &number)); /* -1 */
    kvf_text text;
    uint64_t at = 0;
    const unsigned char *file = kvf_tensor_set_file(opened, 0)->map.data;
    for (int i = 0; i < 4; i++) {
        assert_true(kvf_metadata_text(KEY("words"), &at, &text));
        assert_int_equal(text.bytes, strlen(words[i]));
        assert_memory_equal(text.data, words[i], text.bytes);
        assert_true((const unsigned char *)text.data > file &&
                    (const unsigned char *)text.data <= file + gguf.n);
    }
    assert_false(kvf_metadata_text(KEY("words"), &at, &text));
    close_gguf();
}

static void test_surplus_bytes_are_told_and_the_last_padding_may_be_missing(void **state)
{
    static const struct {
        size_t data_bytes;
        uint64_t surplus;
    } cases[] = {{256, 0}, {257, 1}, {288, 32}, {1000, 744}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        put_two(0, 128, cases[i].data_bytes);
        open_gguf(*state, "x.gguf");
        assert_int_equal(kvf_tensor_set_file(opened, 0)->surplus_bytes, cases[i].surplus);
        close_gguf();
    }
    const uint64_t dims[] = {3};
    for (size_t bytes = 12; bytes <= 33; bytes++) { /* 12 bytes of data, padded to 32 */
        put_header(3, 1, 0);
        put_info("a", 1, dims, 0, 0);
        put_padding(32);
        put_zeros(bytes);
        open_gguf(*state, "x.gguf");
        assert_int_equal(kvf_tensor_set_file(opened, 0)->surplus_bytes, bytes > 32 ? 1 : 0);
        close_gguf();
    }
    put_header(3, 0, 0); /* nothing at all, and then something */
    expect_good(*state, "no tensors");
    put_padding(32);
    put_zeros(5);
    open_gguf(*state, "x.gguf");
    assert_int_equal(kvf_tensor_set_file(opened, 0)->surplus_bytes, 5);
    close_gguf();
}

static void test_gaps_and_any_order_are_read(void **state)
{
    put_two(0, 160, 288);
    expect_good(*state, "a gap");
    put_two(64, 192, 320);
    expect_good(*state, "a gap before the first");
    put_two(128, 0, 256);
    expect_good(*state, "the second one first");
    static const uint32_t alignments[] = {1, 2, 8, 64, 4096};
    for (size_t i = 0; i < sizeof alignments / sizeof *alignments; i++) {
        const uint64_t dims[] = {1024};
        put_header(3, 2, 1);
        put_key("general.alignment", U32, alignments[i], 4);
        put_info("a", 1, dims, 24, 0);
        put_info("b", 1, dims, 24, alignments[i] < 1024 ? 1024 : 4096);
        put_padding(alignments[i]);
        put_zeros(8192);
        expect_good(*state, "an alignment");
    }
}

/* ---- Bad files ------------------------------------------------------------------------ */

static void test_bad_headers_are_refused(void **state)
{
    put_header(3, 0, 0);
    gguf.n = 0;
    expect(*state, "empty", KVF_FILE_FORMAT, "has 0 bytes; a GGUF file starts with a header of 24");
    put_header(3, 0, 0);
    gguf.n = 23;
    expect(*state, "23 bytes", KVF_FILE_FORMAT, "has 23 bytes");
    put_header(3, 0, 0);
    gguf.bytes[3] = 'E';
    expect(*state, "magic", KVF_FILE_FORMAT, "starts with the bytes 47 47 55 45");
    put_header(1, 0, 0);
    expect(*state, "version 1", KVF_UNSUPPORTED, "GGUF version 1; 2 and 3 are read");
    put_header(4, 0, 0);
    expect(*state, "version 4", KVF_UNSUPPORTED, "GGUF version 4; 2 and 3 are read");
    put_header(3u << 24, 0, 0);
    expect(*state, "big endian", KVF_UNSUPPORTED, "big-endian");
    put_header(2u << 24, 0, 0);
    expect(*state, "big endian, version 2", KVF_UNSUPPORTED, "big-endian");
    put_header(0, 0, 0);
    expect(*state, "version 0", KVF_UNSUPPORTED, "version 0");
    put_header(0x10003, 0, 0);
    expect(*state, "version 65539", KVF_UNSUPPORTED, "version 65539");
}

static void test_counts_that_the_file_cannot_hold_are_refused(void **state)
{
    static const uint64_t counts[] = {2, 1ull << 60, UINT64_MAX, UINT64_MAX / 13 + 1};
    for (size_t i = 0; i < sizeof counts / sizeof *counts; i++) {
        put_header(3, 0, counts[i]);
        put_zeros(25); /* a byte less than two entries need */
        expect(*state, "entries", KVF_FILE_FORMAT, "keys do not fit in a file of 49 bytes");
        put_header(3, counts[i], 0);
        put_zeros(47);
        expect(*state, "tensors", KVF_FILE_FORMAT, "tensors and 0 keys do not fit");
    }
    /* As many as could be there are looked for. */
    put_header(3, 2, 0);
    put_zeros(48);
    expect(*state, "tensors that are not there", KVF_FILE_FORMAT,
           "name before byte 32 has 0 bytes");
    put_header(3, 0, 2);
    put_zeros(26);
    expect(*state, "keys that are not there", KVF_FILE_FORMAT, "key before byte 32 has 0 bytes");
}

static void test_bad_keys_are_refused(void **state)
{
    static char long_key[70000];
    put_header(3, 0, 1);
    put(100, 8);
    put_zeros(99);
    expect(*state, "a key past the end", KVF_FILE_FORMAT,
           "truncated: a metadata key needs more than the 107 bytes after byte 24");
    put_header(3, 0, 1);
    put(UINT64_MAX - 3, 8);
    put_zeros(64);
    expect(*state, "a key of 2^64 bytes", KVF_FILE_FORMAT, "truncated: a metadata key");
    put_header(3, 0, 1);
    put_key("", U32, 1, 4);
    expect(*state, "empty", KVF_FILE_FORMAT, "has 0 bytes; 1 to 65535");
    memset(long_key, 'k', 65536);
    put_header(3, 0, 1);
    put_key(long_key, U8, 1, 1);
    expect(*state, "65536 bytes", KVF_FILE_FORMAT, "has 65536 bytes; 1 to 65535 are allowed");
    long_key[65535] = '\0';
    put_header(3, 0, 1);
    put_key(long_key, U8, 1, 1);
    expect_good(*state, "65535 bytes");
    put_header(3, 0, 1);
    put_key("caf\xc3\xa9", U8, 1, 1);
    expect(*state, "not ASCII", KVF_FILE_FORMAT, "key \"caf\xc3\xa9\": has a NUL, or");
    put_header(3, 0, 1);
    put(3, 8);
    put_bytes("a\0b", 3);
    put(U8, 4);
    put(1, 1);
    expect(*state, "NUL", KVF_FILE_FORMAT, "key \"a\": has a NUL");
    put_header(3, 0, 3);
    put_key("same", U8, 1, 1);
    put_key("other", U8, 1, 1);
    put_key("same", U32, 1, 4);
    expect(*state, "twice", KVF_FILE_FORMAT, "key \"same\": is there twice");
    put_header(3, 0, 1);
    put_key("a\n\x1b[31m", U8 + 13, 1, 1);
    expect(*state, "controls", KVF_FILE_FORMAT, "key \"a??[31m\": unknown value type 13");
}

static void test_bad_values_are_refused(void **state)
{
    static const struct {
        uint32_t type;
        size_t bytes;
    } widths[] = {{U8, 1},  {I8, 1},   {U16, 2}, {I16, 2}, {U32, 4}, {I32, 4},
                  {F32, 4}, {BOOL, 1}, {U64, 8}, {I64, 8}, {F64, 8}};
    for (size_t i = 0; i < sizeof widths / sizeof *widths; i++) {
        put_header(3, 0, 1);
        put_key("key", widths[i].type, 0, widths[i].bytes);
        expect_good(*state, "a value");
        gguf.n--;
        expect(*state, "a value cut", KVF_FILE_FORMAT, "key \"key\": 1 values do not fit");
        const uint64_t many[] = {3, 1ull << 62, UINT64_MAX, UINT64_MAX / widths[i].bytes + 1};
        for (size_t j = 0; j < 4 && many[j] > 2; j++) {
            put_header(3, 0, 1);
            put_key("key", ARRAY, widths[i].type, 4);
            put(many[j], 8);
            put_zeros(3 * widths[i].bytes - 1);
            expect(*state, "an array", KVF_FILE_FORMAT, "key \"key\": |values do not fit");
        }
    }
    put_header(3, 0, 1);
    put_text("key");
    put(U32, 3); /* a type of 3 bytes */
    expect(*state, "type cut", KVF_FILE_FORMAT, "truncated: the type of a metadata entry");
    put_header(3, 0, 1);
    put_key("key", 13, 0, 8);
    expect(*state, "type 13", KVF_FILE_FORMAT,
           "key \"key\": unknown value type 13; there are 0 to 12");
    put_header(3, 0, 1);
    put_key("key", UINT32_MAX, 0, 8);
    expect(*state, "type 2^32 - 1", KVF_FILE_FORMAT, "unknown value type 4294967295");
    put_header(3, 0, 1);
    put_key("key", ARRAY, 13, 4);
    put(0, 8);
    expect(*state, "array of type 13", KVF_FILE_FORMAT, "unknown value type 13");
    put_header(3, 0, 1);
    put_key("key", ARRAY, ARRAY, 4);
    put(0, 8);
    expect(*state, "nested, empty", KVF_FILE_FORMAT, "key \"key\": is an array of arrays");
    put_header(3, 0, 1);
    put_key("key", ARRAY, U8, 4);
    put(1, 7);
    expect(*state, "length cut", KVF_FILE_FORMAT, "truncated: the length of an array");
}

static void test_bad_bools_and_texts_are_refused(void **state)
{
    static const uint8_t bools[] = {2, 3, 255};
    for (size_t i = 0; i < 3; i++) {
        put_header(3, 0, 1);
        put_key("key", BOOL, bools[i], 1);
        expect(*state, "a bool", KVF_FILE_FORMAT,
               "key \"key\": has a bool that is neither 0 nor 1");
        put_header(3, 0, 1);
        put_key("key", ARRAY, BOOL, 4);
        put(3, 8);
        put(1, 1);
        put(0, 1);
        put(bools[i], 1);
        expect(*state, "a bool in an array", KVF_FILE_FORMAT, "has a bool");
    }
    put_header(3, 0, 1);
    put_key("key", TEXT, 5, 8);
    put_bytes("four", 4);
    expect(*state, "text", KVF_FILE_FORMAT, "key \"key\": text 0 of 1 ends after the file");
    put_header(3, 0, 1);
    put_key("key", TEXT, UINT64_MAX, 8);
    put_zeros(16);
    expect(*state, "text of 2^64", KVF_FILE_FORMAT, "text 0 of 1 ends after the file");
    put_header(3, 0, 1);
    put_key("key", ARRAY, TEXT, 4);
    put(2, 8);
    put_text("first");
    put(5, 8);
    put_bytes("four", 4);
    expect(*state, "second text", KVF_FILE_FORMAT, "key \"key\": text 1 of 2 ends after the file");
    put_header(3, 0, 1);
    put_key("key", ARRAY, TEXT, 4);
    put(1ull << 61, 8);
    put_zeros(64);
    expect(*state, "2^61 texts", KVF_FILE_FORMAT, "2305843009213693952 values do not fit");
}

static void test_bad_alignments_are_refused(void **state)
{
    static const uint32_t numbers[] = {0, 3, 24, 48, UINT32_MAX};
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++) {
        put_header(3, 0, 1);
        put_key("general.alignment", U32, numbers[i], 4);
        expect(*state, "a number", KVF_FILE_FORMAT, "\"general.alignment\": is |a power of two");
    }
    put_header(3, 0, 1);
    put_key("general.alignment", U64, 32, 8);
    expect(*state, "u64", KVF_FILE_FORMAT, "\"general.alignment\": is of type u64; u32 was");
    put_header(3, 0, 1);
    put_key("general.alignment", I32, 32, 4);
    expect(*state, "i32", KVF_FILE_FORMAT, "is of type i32; u32 was expected");
    put_header(3, 0, 1);
    put_key("general.alignment", ARRAY, U32, 4);
    put(1, 8);
    put(32, 4);
    expect(*state, "an array", KVF_FILE_FORMAT, "is an array of 1 u32; u32 was expected");
    put_header(3, 0, 1);
    put_key("general.alignment", U32, 1u << 31, 4);
    expect_good(*state, "2^31 and no tensors");
}

static void test_bad_tensor_infos_are_refused(void **state)
{
    const uint64_t one[] = {32, 1, 1, 1, 1};
    char name[80];
    memset(name, 'n', sizeof name);
    name[64] = '\0';
    put_header(3, 1, 0);
    put_info(name, 1, one, 0, 0);
    put_padding(32);
    put_zeros(128);
    expect(*state, "name of 64", KVF_FILE_FORMAT, "name before byte 96 has 64 bytes; 1 to 63");
    name[63] = '\0';
    put_header(3, 1, 0);
    put_info(name, 1, one, 0, 0);
    put_padding(32);
    put_zeros(128);
    expect_good(*state, "name of 63");
    put_header(3, 1, 0);
    put_info("", 1, one, 0, 0);
    put_zeros(256);
    expect(*state, "no name", KVF_FILE_FORMAT, "has 0 bytes; 1 to 63");
    put_header(3, 1, 0);
    put(3, 8);
    put_bytes("a\0b", 3);
    put_zeros(256);
    expect(*state, "NUL", KVF_FILE_FORMAT, "1 to 63 without a NUL");
    put_header(3, 1, 0);
    put(1ull << 63, 8);
    put_zeros(64);
    expect(*state, "a name of 2^63", KVF_FILE_FORMAT, "truncated: a tensor's name");
    for (uint32_t n_dims = 0; n_dims <= 6; n_dims++) {
        const uint32_t claimed = n_dims == 6 ? UINT32_MAX : n_dims;
        put_header(3, 1, 0);
        put_info("t", n_dims > 5 ? 5 : n_dims, one, 0, 0);
        gguf.bytes[24 + 9] = (unsigned char)claimed;
        gguf.bytes[24 + 12] = (unsigned char)(claimed >> 24);
        put_padding(32);
        put_zeros(128);
        if (n_dims >= 1 && n_dims <= 4)
            expect_good(*state, "dimensions");
        else
            expect(*state, "dimensions", KVF_FILE_FORMAT, "\"t\": has |dimensions; 1 to 4");
    }
    /* Cut at every byte: as many as 3 tensors need are there, the third one is cut. */
    for (size_t cut = 1; cut < 33; cut++) {
        put_header(3, 1, 0);
        put_info("t", 1, one, 0, 0);
        gguf.n -= cut;
        expect(*state, "cut", KVF_FILE_FORMAT, cut > 9 ? "do not fit" : "truncated: a tensor's ");
    }
}

static void test_bad_shapes_are_refused(void **state)
{
    static const struct {
        uint64_t dims[4];
        const char *parts;
    } cases[] = {
        {{0, 1, 1, 1}, "\"t\": has a dimension of 0"},
        {{32, 0, 1, 1}, "\"t\": has a dimension of 0"},
        {{1ull << 62, 4, 0, 1}, "2^63 or more"},
        {{32, 1, 1, 0}, "\"t\": has a dimension of 0"},
        {{1ull << 63, 1, 1, 1}, "\"t\": the product of its dimensions is 2^63 or more"},
        {{UINT64_MAX, 1, 1, 1}, "2^63 or more"},
        {{1ull << 32, 1ull << 31, 1, 1}, "2^63 or more"},
        {{1ull << 32, 1ull << 32, 1, 1}, "2^63 or more"},
        {{1ull << 32, 1ull << 32, 1ull << 32, 1ull << 32}, "2^63 or more"},
        {{1ull << 62, 1, 1, 1}, "\"t\": its bytes are 2^64 or more"},
        {{1ull << 61, 1, 1, 1}, "is truncated: tensor \"t\" has 9223372036854775808 bytes"},
        {{(1ull << 62) - 1, 1, 1, 1}, "is truncated: tensor \"t\" has 18446744073709551612 bytes"},
        {{33, 1, 1, 1}, "is truncated: tensor \"t\" has 132 bytes from byte 0"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        put_header(3, 1, 0);
        put_info("t", 4, cases[i].dims, 0, 0);
        put_padding(32);
        put_zeros(128);
        expect(*state, cases[i].parts, KVF_FILE_FORMAT, cases[i].parts);
    }
}

static void test_data_at_wrong_places_are_refused(void **state)
{
    static const struct {
        uint64_t a;
        uint64_t b;
        size_t data_bytes;
        const char *parts; /* NULL: it is good */
    } cases[] = {
        {0, 0, 256, "the data of \"a\" and \"b\" overlap"},
        {0, 96, 256, "the data of \"a\" and \"b\" overlap"},
        {96, 0, 256, "the data of \"b\" and \"a\" overlap"},
        {0, 128, 256, NULL},
        {0, 128, 255, "is truncated: tensor \"b\" has 128 bytes from byte 128 of the data|of 351"},
        {0, 160, 287, "is truncated: tensor \"b\""},
        {0, 160, 288, NULL},
        {0, 129, 512, "tensor \"b\": its offset 129 is no multiple of the alignment 32"},
        {16, 160, 512, "tensor \"a\": its offset 16 is no multiple of the alignment 32"},
        {0, UINT64_MAX - 31, 256, "is truncated: tensor \"b\""},
        {0, UINT64_MAX - 127, 256, "is truncated: tensor \"b\""},
        {0, 1ull << 63, 256, "is truncated: tensor \"b\""},
        {0, 128, 0, "is truncated: tensor \"a\""},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        put_two(cases[i].a, cases[i].b, cases[i].data_bytes);
        if (cases[i].parts)
            expect(*state, cases[i].parts, KVF_FILE_FORMAT, cases[i].parts);
        else
            expect_good(*state, "good");
    }
    const uint64_t dims[] = {32};
    put_header(3, 2, 0);
    put_info("same", 1, dims, 0, 0);
    put_info("same", 1, dims, 0, 128);
    put_padding(32);
    put_zeros(256);
    expect(*state, "the same name", KVF_FILE_FORMAT, "tensor \"same\": is there twice");
    put_header(3, 1, 1); /* the alignment is the file's own, above and below 32 */
    put_key("general.alignment", U32, 64, 4);
    put_info("t", 1, dims, 0, 32);
    put_padding(64);
    put_zeros(256);
    expect(*state, "aligned to 32 of 64", KVF_FILE_FORMAT, "offset 32 is no multiple|alignment 64");
    put_header(3, 1, 0); /* the header's padding is missing, and with it all data */
    put_info("t", 1, dims, 0, 0);
    expect(*state, "no padding", KVF_FILE_FORMAT, "is truncated: tensor \"t\"");
}

#define IN_FOLDER(test) cmocka_unit_test_setup_teardown(test, make_folder, remove_folder)

int main(void)
{
    const struct CMUnitTest tests[] = {
        IN_FOLDER(test_tensors_are_found_with_their_dimensions_turned_round),
        IN_FOLDER(test_every_type_of_ggml_has_its_size_and_no_other_is_known),
        IN_FOLDER(test_metadata_is_read_by_class_of_type),
        IN_FOLDER(test_arrays_are_read_where_they_lie),
        IN_FOLDER(test_surplus_bytes_are_told_and_the_last_padding_may_be_missing),
        IN_FOLDER(test_gaps_and_any_order_are_read),
        IN_FOLDER(test_bad_headers_are_refused),
        IN_FOLDER(test_counts_that_the_file_cannot_hold_are_refused),
        IN_FOLDER(test_bad_keys_are_refused),
        IN_FOLDER(test_bad_values_are_refused),
        IN_FOLDER(test_bad_bools_and_texts_are_refused),
        IN_FOLDER(test_bad_alignments_are_refused),
        IN_FOLDER(test_bad_tensor_infos_are_refused),
        IN_FOLDER(test_bad_shapes_are_refused),
        IN_FOLDER(test_data_at_wrong_places_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
