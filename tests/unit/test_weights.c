/* Loading weights: both naming styles, all dtypes, and every wrong tensor refused by name. */
#include "checkpoint_files.h"

#include "model/model.h"
#include "model/weight_names.h"
#include "model/weights.h"

#include <math.h>

/* ---- A device of the C library's memory ---------------------------------------------- */

typedef struct test_device {
    kvf_device device;
    int allocations_left; /* then memory is short */
} test_device;

static void *test_alloc(kvf_device *device, size_t bytes, kvf_place place)
{
    (void)place;
    test_device *self = (test_device *)device;
    return self->allocations_left-- > 0 ? aligned_alloc(64, (bytes + 63) / 64 * 64) : NULL;
}

static void test_release(kvf_device *device, void *memory, size_t bytes)
{
    (void)device;
    (void)bytes;
    free(memory);
}

static const kvf_backend test_backend = {.name = "test",
                                         .alloc = test_alloc,
                                         .release = test_release,
                                         .write = kvf_host_write,
                                         .wait = kvf_host_wait};

/* One that takes matrices where they lie in the files. */
static const kvf_backend stored_backend = {.name = "stored",
                                           .addresses_host_memory = true,
                                           .takes_stored_weights = true,
                                           .alloc = test_alloc,
                                           .release = test_release};

static test_device make_device_of(const kvf_backend *backend)
{
    return (test_device){{.backend = backend, .isa = "none", .n_threads = 2}, 1000000};
}

static test_device make_device(void)
{
    return make_device_of(&test_backend);
}

/* ---- The tiny checkpoint ---------------------------------------------------------------- */

typedef struct loaded {
    test_device device;
    kvf_model_config config;
    kvf_tensor_set *files;
    kvf_weights weights;
} loaded;

static void load_tiny_by(loaded *l, const kvf_backend *backend, const char *dir)
{
    kvf_error error = {0};
    l->device = make_device_of(backend);
    assert_int_equal(kvf_config_load(KVF_TEST_MODEL, &l->config, &error), KVF_OK);
    if (kvf_tensor_set_open(dir, &l->files, &error) != KVF_OK ||
        kvf_weights_load(&l->device.device, &l->config, dir, l->files, &l->weights, &error) !=
            KVF_OK)
        fail_msg("%s", error.message);
}

static void load_tiny(loaded *l, const char *dir)
{
    load_tiny_by(l, &test_backend, dir);
}

static void unload(loaded *l)
{
    kvf_weights_free(&l->weights);
    kvf_tensor_set_close(l->files);
}

/* The value of a float tensor of the file, decoded here and not by the loader. */
static float file_value(const kvf_tensor *tensor, uint64_t i)
{
    const unsigned char *data = tensor->data;
    uint32_t bits = 0;
    float value;
    if (tensor->type == KVF_STORED_BF16)
        bits = (uint32_t)data[2 * i] << 16 | (uint32_t)data[2 * i + 1] << 24;
    else
        memcpy(&bits, data + 4 * i, 4);
    memcpy(&value, &bits, 4);
    return value;
}

#define COUNT(array) (sizeof(array) / sizeof *(array))

/* One tensor, by the checkpoint's name, and where it must have gone. */
typedef struct placed {
    const char *name;
    const float *values;
    const kvf_matrix *matrix; /* instead of values */
} placed;

static void assert_matrix(const loaded *l, const kvf_matrix *matrix, const kvf_tensor *tensor)
{
    static float row[1 << 16];
    assert_int_equal(matrix->rows, tensor->shape[0]);
    assert_int_equal(matrix->cols, tensor->shape[1]);
    assert_true(matrix->cols <= COUNT(row));
    for (uint32_t r = 0; r < matrix->rows; r++) {
        kvf_weight_get(matrix->type)->decode(matrix, r, row);
        for (uint32_t i = 0; i < matrix->cols; i++)
            assert_true(row[i] == file_value(tensor, (uint64_t)r * matrix->cols + i));
    }
    if (l->device.device.backend->takes_stored_weights)
        assert_ptr_equal(matrix->data, tensor->data);
    else
        assert_int_equal(matrix->type, KVF_WEIGHT_F32);
}

static void assert_placed(const loaded *l, const char *prefix, const placed *list, size_t n)
{
    char name[128];
    for (size_t i = 0; i < n; i++) {
        snprintf(name, sizeof name, "%s%s", prefix, list[i].name);
        const kvf_tensor *tensor = kvf_tensor_set_find(l->files, name);
        assert_non_null(tensor);
        if (list[i].matrix)
            assert_matrix(l, list[i].matrix, tensor);
        uint64_t n_values = list[i].matrix ? 0 : 1;
        for (uint32_t d = 0; d < tensor->n_dims; d++)
            n_values *= tensor->shape[d];
        for (uint64_t v = 0; v < n_values; v++)
            assert_true(list[i].values[v] == file_value(tensor, v));
    }
}

#define MATRIX(matrix) NULL, &(matrix)
static void assert_csa_layer(const kvf_backend *backend)
{
    loaded l;
    load_tiny_by(&l, backend, KVF_TEST_MODEL);
    const kvf_layer_weights *w = &l.weights.layers[2];
    const placed list[] = {
        {"attn_norm.weight", w->attn_norm, NULL},
        {"ffn_norm.weight", w->ffn_norm, NULL},
        {"hc_attn_fn", MATRIX(w->hc_attn.fn)},
        {"hc_attn_base", w->hc_attn.base, NULL},
        {"hc_attn_scale", w->hc_attn.scale, NULL},
        {"hc_ffn_fn", MATRIX(w->hc_ffn.fn)},
        {"hc_ffn_base", w->hc_ffn.base, NULL},
        {"hc_ffn_scale", w->hc_ffn.scale, NULL},
        {"attn.wq_a.weight", MATRIX(w->wq_a)},
        {"attn.q_norm.weight", w->q_norm, NULL},
        {"attn.wq_b.weight", MATRIX(w->wq_b)},
        {"attn.wkv.weight", MATRIX(w->wkv)},
        {"attn.norm.weight", w->kv_norm, NULL},
        {"attn.wo_a.weight", MATRIX(w->wo_a)},
        {"attn.wo_b.weight", MATRIX(w->wo_b)},
        {"attn.attn_sink", w->sinks, NULL},
        {"attn.compressor.wkv.weight", MATRIX(w->rows.wkv)},
        {"attn.compressor.wgate.weight", MATRIX(w->rows.wgate)},
        {"attn.compressor.ape", w->rows.ape, NULL},
        {"attn.compressor.norm.weight", w->rows.norm, NULL},
        {"attn.indexer.compressor.wkv.weight", MATRIX(w->index.wkv)},
        {"attn.indexer.compressor.wgate.weight", MATRIX(w->index.wgate)},
        {"attn.indexer.compressor.ape", w->index.ape, NULL},
        {"attn.indexer.compressor.norm.weight", w->index.norm, NULL},
        {"attn.indexer.wq_b.weight", MATRIX(w->index_wq_b)},
        {"attn.indexer.weights_proj.weight", MATRIX(w->index_weights)},
        {"ffn.gate.weight", MATRIX(w->gate)},
        {"ffn.gate.bias", w->gate_bias, NULL},
        {"ffn.experts.0.w1.weight", MATRIX(w->routed[0].w1)},
        {"ffn.experts.0.w2.weight", MATRIX(w->routed[0].w2)},
        {"ffn.experts.7.w3.weight", MATRIX(w->routed[7].w3)},
        {"ffn.shared_experts.w1.weight", MATRIX(w->shared.w1)},
        {"ffn.shared_experts.w3.weight", MATRIX(w->shared.w3)},
        {"ffn.shared_experts.w2.weight", MATRIX(w->shared.w2)},
    };
    assert_placed(&l, "model.layers.2.", list, COUNT(list));
    assert_null(w->token_map);
    unload(&l);
}

static void test_every_tensor_of_a_csa_layer_is_in_its_place(void **state)
{
    (void)state;
    assert_csa_layer(&test_backend);
    assert_csa_layer(&stored_backend);
}

static void assert_other_tensors(const kvf_backend *backend)
{
    loaded l;
    load_tiny_by(&l, backend, KVF_TEST_MODEL);
    const kvf_layer_weights *hca = &l.weights.layers[5];
    const placed list[] = {
        {"model.embed_tokens.weight", MATRIX(l.weights.embed)},
        {"head.weight", MATRIX(l.weights.head)},
        {"model.norm.weight", l.weights.norm, NULL},
        {"model.hc_head.hc_fn", MATRIX(l.weights.hc_head.fn)},
        {"model.hc_head.hc_base", l.weights.hc_head.base, NULL},
        {"model.hc_head.hc_scale", l.weights.hc_head.scale, NULL},
        {"model.layers.5.attn.compressor.wkv.weight", MATRIX(hca->rows.wkv)},
        {"model.layers.5.attn.compressor.ape", hca->rows.ape, NULL},
        {"model.layers.5.ffn.experts.7.w2.weight", MATRIX(hca->routed[7].w2)},
    };
    assert_placed(&l, "", list, COUNT(list));
    assert_null(hca->index_wq_b.data);
    assert_null(hca->index.ape);
    assert_null(l.weights.layers[1].rows.ape);
    unload(&l);
}

static void test_tensors_outside_of_layers_and_of_other_layers_are_in_their_place(void **state)
{
    (void)state;
    assert_other_tensors(&test_backend);
    assert_other_tensors(&stored_backend);
}

static void test_token_map_is_the_files_as_i32(void **state)
{
    (void)state;
    loaded l;
    load_tiny(&l, KVF_TEST_MODEL);
    const kvf_tensor *tensor = kvf_tensor_set_find(l.files, "model.layers.0.ffn.gate.tid2eid");
    assert_null(l.weights.layers[0].gate_bias);
    for (uint64_t i = 0; i < 640; i++) {
        int64_t expert;
        memcpy(&expert, (const char *)tensor->data + 8 * i, 8);
        assert_int_equal(l.weights.layers[0].token_map[i], expert);
    }
    unload(&l);
}

static void test_device_bytes_are_what_the_device_gave_and_gets_back(void **state)
{
    (void)state;
    const kvf_backend *backends[] = {&test_backend, &stored_backend};
    for (size_t i = 0; i < COUNT(backends); i++) {
        const bool stored = backends[i]->takes_stored_weights;
        loaded l;
        load_tiny_by(&l, backends[i], KVF_TEST_MODEL);
        /* total_parameters of the index leaves out the token map (640) and the router biases
           (40). */
        if (!stored)
            assert_int_equal(l.weights.device_bytes, (14642809 + 640 + 40) * 4);
        assert_int_equal(l.weights.device_bytes, kvf_model_weight_bytes(&l.config, stored));
        assert_int_equal(l.device.device.live_bytes[KVF_MEMORY_WEIGHT], l.weights.device_bytes);
        unload(&l);
        assert_int_equal(l.device.device.live_bytes[KVF_MEMORY_WEIGHT], 0);
        assert_null(l.weights.layers);
        kvf_weights_free(&l.weights); /* a second time is harmless */
    }
}

/* ---- DeepSeek's own names ---------------------------------------------------------------- */

/* The tiny checkpoint's name of a tensor to DeepSeek's. */
static void original_name(const char *name, char *out, size_t capacity)
{
    const char *norm = strstr(name, ".attn.norm.weight");
    if (strncmp(name, "model.", 6) == 0)
        name += 6;
    if (strcmp(name, "embed_tokens.weight") == 0)
        snprintf(out, capacity, "embed.weight");
    else if (strncmp(name, "hc_head.hc_", 11) == 0)
        snprintf(out, capacity, "hc_head_%s", name + 11);
    else if (norm)
        snprintf(out, capacity, "%.*s.attn.kv_norm.weight", (int)(norm - name), name);
    else
        snprintf(out, capacity, "%s", name);
}

typedef struct pointer_list {
    const void *data[512];
    uint64_t bytes[512];
    size_t n;
} pointer_list;

static kvf_status list_pointer(void *user, const kvf_weight *weight)
{
    pointer_list *list = user;
    list->data[list->n] = weight->kind == KVF_TENSOR_MATRIX
                              ? (const void *)((kvf_matrix *)weight->target)->data
                              : *(const void **)weight->target;
    list->bytes[list->n++] = weight->shape[0] * weight->shape[1] * 4;
    return KVF_OK;
}

static void assert_same_weights(loaded *a, loaded *b)
{
    static pointer_list x;
    static pointer_list y;
    x.n = y.n = 0;
    kvf_weight_walk(&a->config, &a->weights, list_pointer, &x);
    kvf_weight_walk(&b->config, &b->weights, list_pointer, &y);
    assert_int_equal(x.n, 304);
    assert_int_equal(y.n, 304);
    for (size_t i = 0; i < x.n; i++) {
        assert_int_equal(x.bytes[i], y.bytes[i]);
        assert_memory_equal(x.data[i], y.data[i], x.bytes[i]);
    }
}

static void test_original_names_load_to_identical_weights(void **state)
{
    static tensor_entry entries[512];
    const float zero = 0;
    loaded tiny;
    loaded renamed;
    load_tiny(&tiny, KVF_TEST_MODEL);
    size_t n = 0;
    for (const kvf_tensor *tensor; (tensor = kvf_tensor_set_at(tiny.files, (uint32_t)n)); n++) {
        tensor_entry *entry = &entries[n];
        original_name(tensor->name, entry->name, sizeof entry->name);
        strcpy(entry->dtype, kvf_stored_info_of(tensor->type)->name);
        entry->n_dims = tensor->n_dims;
        memcpy(entry->shape, tensor->shape, sizeof entry->shape);
        entry->data = tensor->data;
        entry->bytes = tensor->bytes;
    }
    assert_int_equal(n, 304);
    /* What prediction heads bring is not looked at, whatever it is. */
    entries[n++] = (tensor_entry){"mtp.0.e_proj.weight", "F8_E4M3", 1, {4}, &zero, 4};
    entries[n++] = (tensor_entry){"mtp.0.e_proj.scale", "F32", 1, {1}, &zero, 4};
    entries[n++] = (tensor_entry){"layers.6.attn_norm.weight", "F32", 1, {1}, &zero, 4};
    entries[n++] = (tensor_entry){"layers.6.enorm.weight", "F32", 1, {1}, &zero, 4};
    write_entries(*state, "model.safetensors", entries, n);
    load_tiny(&renamed, *state);
    assert_int_equal(renamed.weights.device_bytes, tiny.weights.device_bytes);
    assert_same_weights(&tiny, &renamed);
    unload(&tiny);
    unload(&renamed);
}

static void test_only_names_of_prediction_heads_are_ignored(void **state)
{
    (void)state;
    const kvf_model_config config = {.geometry = {.n_layers = 6}};
    const char *ignored[] = {"mtp.0.x", "model.mtp.0.x", "layers.6.x", "model.layers.10.x",
                             "layers.99999999999999999999.x"};
    const char *kept[] = {
        "layers.5.x",  "model.layers.0.x", "mtpx.0",       "layers.x", "layers.6", "layers.-1.x",
        "layers. 7.x", "xmtp.0.x",         "embed.weight", "model.",   ""};
    for (size_t i = 0; i < sizeof ignored / sizeof *ignored; i++)
        assert_true(kvf_weight_is_ignored(&config, ignored[i]));
    for (size_t i = 0; i < sizeof kept / sizeof *kept; i++)
        assert_false(kvf_weight_is_ignored(&config, kept[i]));
}

static void test_a_layer_past_the_last_predicts_or_is_cut_off(void **state)
{
    (void)state;
    const kvf_model_config config = {.geometry = {.n_layers = 6}};
    const char *predicting[] = {"model.layers.6.eh_proj.weight", "layers.6.enorm.weight",
                                "blk.6.nextn.hnorm.weight", "layers.6.shared_head.head.weight"};
    const char *plain[] = {"model.layers.6.attn_norm.weight", "layers.6.ffn.enorm.weight",
                           "blk.6.attn_q_a.weight"};
    const char *others[] = {"layers.5.enorm.weight", "layers.7.attn_norm.weight",
                            "mtp.0.enorm.weight", "norm.weight", "layers.6"};
    for (size_t i = 0; i < sizeof predicting / sizeof *predicting; i++)
        assert_int_equal(kvf_weight_next_layer(&config, predicting[i]), KVF_NEXT_PREDICTS);
    for (size_t i = 0; i < sizeof plain / sizeof *plain; i++)
        assert_int_equal(kvf_weight_next_layer(&config, plain[i]), KVF_NEXT_LAYER);
    for (size_t i = 0; i < sizeof others / sizeof *others; i++)
        assert_int_equal(kvf_weight_next_layer(&config, others[i]), KVF_NEXT_NOT);
}

/* ---- A small made-up checkpoint to break ---------------------------------------------------- */

enum { MAX_ENTRIES = 128 };

typedef struct made_up {
    kvf_model_config config;
    tensor_entry entries[MAX_ENTRIES];
    size_t n;
    float *values;    /* of every float tensor: as many as the largest has */
    int64_t *experts; /* of the token map */
    kvf_tensor_set *files;
} made_up;

enum { MADE_UP_VALUES = 1024 * 16 * 8 };

static kvf_status add_entry(void *user, const kvf_weight *weight)
{
    made_up *m = user;
    assert_true(m->n < MAX_ENTRIES);
    tensor_entry *entry = &m->entries[m->n++];
    const bool is_map = weight->kind == KVF_TENSOR_MAP;
    strcpy(entry->name, weight->names[0]);
    strcpy(entry->dtype, is_map ? "I64" : "F32");
    entry->n_dims = weight->n_dims;
    memcpy(entry->shape, weight->shape, sizeof weight->shape);
    entry->bytes = weight->shape[0] * weight->shape[1] * (is_map ? 8 : 4);
    entry->data = is_map ? (void *)m->experts : (void *)m->values;
    assert_true(entry->bytes <= MADE_UP_VALUES * 4);
    return KVF_OK;
}

/* Three layers: window with hash routing, CSA, HCA; everything as small as it may be. */
static void make_up(made_up *m)
{
    *m = (made_up){
        .config = {
            .geometry = {.n_layers = 3,
                         .vocab = 16,
                         .n_heads = 2,
                         .n_index_heads = 8,
                         .top_k = 4,
                         .window_tokens = 64,
                         .max_tokens = 1024,
                         .layers = {{KVF_LAYER_WINDOW, 0}, {KVF_LAYER_CSA, 4}, {KVF_LAYER_HCA, 8}}},
            .hidden = 8,
            .q_rank = 4,
            .n_out_groups = 2,
            .out_rank = 4,
            .n_streams = 2,
            .sinkhorn_rounds = 1,
            .n_experts = 2,
            .n_experts_used = 1,
            .n_shared_experts = 2,
            .expert_ffn = 8,
            .hash_routed = {true}}};
    m->values = malloc(MADE_UP_VALUES * sizeof *m->values);
    m->experts = calloc(16, sizeof *m->experts);
    assert_non_null(m->values);
    assert_non_null(m->experts);
    for (int i = 0; i < MADE_UP_VALUES; i++)
        m->values[i] = (float)(i % 97) - 48;
    kvf_weight_walk(&m->config, NULL, add_entry, m);
}

static void free_made_up(made_up *m)
{
    kvf_tensor_set_close(m->files);
    free(m->values);
    free(m->experts);
}

static tensor_entry *entry_named(made_up *m, const char *name)
{
    size_t i = 0;
    while (i < m->n && strcmp(m->entries[i].name, name) != 0)
        i++;
    if (i == m->n)
        fail_msg("no entry %s", name);
    return &m->entries[i];
}

static kvf_status load_made_up_by(made_up *m, const kvf_backend *backend, const char *folder,
                                  test_device *device, kvf_weights *weights, kvf_error *error)
{
    write_entries(folder, "model.safetensors", m->entries, m->n);
    *device = make_device_of(backend);
    *error = (kvf_error){0};
    kvf_tensor_set_close(m->files);
    m->files = NULL;
    if (kvf_tensor_set_open(folder, &m->files, error) != KVF_OK)
        fail_msg("%s", error->message);
    return kvf_weights_load(&device->device, &m->config, folder, m->files, weights, error);
}

static kvf_status load_made_up(made_up *m, const char *folder, test_device *device,
                               kvf_weights *weights, kvf_error *error)
{
    return load_made_up_by(m, &test_backend, folder, device, weights, error);
}

/* Fails as wanted, and leaves nothing allocated. */
static void expect_refusal(made_up *m, const char *folder, kvf_status wanted, const char *parts)
{
    test_device device;
    kvf_weights weights;
    kvf_error error;
    kvf_status status = load_made_up(m, folder, &device, &weights, &error);
    assert_failed(parts, status, wanted, &error, parts);
    assert_int_equal(device.device.live_bytes[KVF_MEMORY_WEIGHT], 0);
    assert_null(weights.blocks);
}

static void test_all_float_dtypes_convert_exactly(void **state)
{
    static made_up m;
    test_device device;
    kvf_weights weights;
    kvf_error error;
    /* 1, -2, the least subnormal, the largest; -0, 1/3 rounded, 1.5, 0 */
    const uint16_t halfs[] = {0x3c00, 0xc000, 0x0001, 0x7bff, 0x8000, 0x3555, 0x3e00, 0};
    const float half_values[] = {1, -2, 0x1p-24f, 65504, -0.0f, 0x1.554p-2f, 1.5f, 0};
    const uint16_t brains[] = {0x3f80, 0xc000, 0x0001, 0x7f7f, 0x8000, 0x3eab, 0x3fc0, 0};
    const float brain_values[] = {1, -2, 0x1p-133f, 0x1.fep127f, -0.0f, 0x1.56p-2f, 1.5f, 0};
    const int32_t experts[16] = {1, 0, 1};
    make_up(&m);
    tensor_entry *half = entry_named(&m, "norm.weight");
    tensor_entry *brain = entry_named(&m, "layers.1.attn_norm.weight");
    tensor_entry *map = entry_named(&m, "layers.0.ffn.gate.tid2eid");
    strcpy(half->dtype, "F16");
    half->data = halfs;
    half->bytes = sizeof halfs;
    strcpy(brain->dtype, "BF16");
    brain->data = brains;
    brain->bytes = sizeof brains;
    strcpy(map->dtype, "I32");
    map->data = experts;
    map->bytes = sizeof experts;
    assert_int_equal(load_made_up(&m, *state, &device, &weights, &error), KVF_OK);
    assert_memory_equal(weights.norm, half_values, sizeof half_values);
    assert_memory_equal(weights.layers[1].attn_norm, brain_values, sizeof brain_values);
    assert_memory_equal(weights.layers[0].token_map, experts, sizeof experts);
    assert_memory_equal(weights.embed.data, m.values, 16 * 8 * 4);
    assert_int_equal(weights.layers[2].shared.w1.rows, 16); /* two shared experts of 8 */
    kvf_weights_free(&weights);
    free_made_up(&m);
}

static void test_tied_head_is_the_embedding(void **state)
{
    static made_up m;
    test_device device;
    kvf_weights weights;
    kvf_error error;
    make_up(&m);
    tensor_entry *head = entry_named(&m, "head.weight");
    m.config.tied_embeddings = true;
    expect_refusal(&m, *state, KVF_FILE_FORMAT, "\"head.weight\" is not part of the model");
    head->name[0] = '\0';
    assert_int_equal(load_made_up(&m, *state, &device, &weights, &error), KVF_OK);
    assert_ptr_equal(weights.head.data, weights.embed.data);
    assert_int_equal(weights.head.rows, 16);
    kvf_weights_free(&weights);
    m.config.tied_embeddings = false;
    expect_refusal(&m, *state, KVF_FILE_FORMAT, "no tensor \"head.weight\"");
    free_made_up(&m);
}

static void test_wrong_tensors_are_refused_by_name_and_shape(void **state)
{
    static made_up m;
    make_up(&m);
    tensor_entry *wkv = entry_named(&m, "layers.1.attn.wkv.weight");
    tensor_entry *bias = entry_named(&m, "layers.1.ffn.gate.bias");
    tensor_entry *map = entry_named(&m, "layers.0.ffn.gate.tid2eid");
    const tensor_entry good_wkv = *wkv;
    const tensor_entry good_bias = *bias;
    const tensor_entry good_map = *map;

    wkv->name[0] = '\0';
    expect_refusal(&m, *state, KVF_FILE_FORMAT,
                   "no tensor \"model.layers.1.attn.wkv.weight\" (nor \"layers.1.attn.wkv.weight\")"
                   "|[512, 8]");
    *wkv = good_wkv;
    wkv->shape[0] = 8;
    wkv->shape[1] = 512;
    expect_refusal(&m, *state, KVF_FILE_FORMAT,
                   "model.safetensors: tensor \"layers.1.attn.wkv.weight\" has shape [8, 512]; the "
                   "config asks for [512, 8]");
    wkv->n_dims = 3;
    wkv->shape[2] = 1;
    expect_refusal(&m, *state, KVF_FILE_FORMAT, "has shape [8, 512, 1]");
    *wkv = good_wkv;
    strcpy(wkv->dtype, "I32");
    expect_refusal(
        &m, *state, KVF_UNSUPPORTED,
        "\"layers.1.attn.wkv.weight\" is stored as I32; matrices of that type are not read");
    strcpy(wkv->dtype, "F8_E4M3");
    wkv->bytes /= 4;
    expect_refusal(&m, *state, KVF_FILE_FORMAT, "is stored as F8_E4M3, but has no scales");
    *wkv = good_wkv;

    strcpy(bias->name, "layers.1.ffn.gate.biass");
    expect_refusal(&m, *state, KVF_FILE_FORMAT, "no tensor \"model.layers.1.ffn.gate.bias\"");
    *bias = good_bias;
    strcpy(map->dtype, "F64");
    expect_refusal(&m, *state, KVF_UNSUPPORTED, "tid2eid\" is stored as F64; I64 or I32");
    *map = good_map;
    m.experts[7] = 2;
    expect_refusal(&m, *state, KVF_FILE_FORMAT,
                   "tid2eid\": value 7 is not the number of an expert");
    m.experts[7] = -1;
    expect_refusal(&m, *state, KVF_FILE_FORMAT,
                   "tid2eid\": value 7 is not the number of an expert");
    m.experts[7] = INT64_C(0x100000000);
    expect_refusal(&m, *state, KVF_FILE_FORMAT,
                   "tid2eid\": value 7 is not the number of an expert");
    free_made_up(&m);
}

static void test_nonfinite_weights_are_refused_by_name_and_place(void **state)
{
    static made_up m;
    float *bad = malloc(MADE_UP_VALUES * sizeof *bad);
    const uint16_t half_infinity[] = {0, 0, 0, 0, 0, 0, 0, 0x7c00};
    make_up(&m);
    assert_non_null(bad);
    tensor_entry *last = entry_named(&m, "layers.2.ffn.shared_experts.w2.weight");
    memcpy(bad, m.values, last->bytes);
    last->data = bad;
    bad[127] = NAN;
    expect_refusal(&m, *state, KVF_FILE_FORMAT,
                   "\"layers.2.ffn.shared_experts.w2.weight\": value 127 is not finite");
    bad[5] = -INFINITY;
    expect_refusal(&m, *state, KVF_FILE_FORMAT, "value 5 is not finite");
    /* An earlier tensor is named first, however many threads there are. */
    tensor_entry *norm = entry_named(&m, "norm.weight");
    const tensor_entry good_norm = *norm;
    strcpy(norm->dtype, "F16");
    norm->data = half_infinity;
    norm->bytes = sizeof half_infinity;
    expect_refusal(&m, *state, KVF_FILE_FORMAT, "\"norm.weight\": value 7 is not finite");
    /* Matrices that stay in the file are not read, vectors are. */
    test_device device;
    kvf_weights weights;
    kvf_error error;
    assert_failed("vector", load_made_up_by(&m, &stored_backend, *state, &device, &weights, &error),
                  KVF_FILE_FORMAT, &error, "\"norm.weight\": value 7 is not finite");
    *norm = good_norm;
    assert_int_equal(load_made_up_by(&m, &stored_backend, *state, &device, &weights, &error),
                     KVF_OK);
    const kvf_matrix *w2 = &weights.layers[2].shared.w2;
    float row[16];
    kvf_weight_get(w2->type)->decode(w2, 0, row);
    assert_true(row[5] == -INFINITY);
    kvf_weights_free(&weights);
    free(bad);
    free_made_up(&m);
}

static void test_surplus_and_quantised_tensors_are_refused(void **state)
{
    static made_up m;
    make_up(&m);
    tensor_entry *extra = &m.entries[m.n++];
    *extra = *entry_named(&m, "norm.weight");
    strcpy(extra->name, "layers.0.attn.compressor.ape"); /* of a window-only layer */
    expect_refusal(&m, *state, KVF_FILE_FORMAT,
                   "tensor \"layers.0.attn.compressor.ape\" is not part of the model");
    strcpy(extra->name, "model.norm.weight"); /* both styles at once */
    expect_refusal(&m, *state, KVF_FILE_FORMAT, "\"model.norm.weight\" is not part of the model");
    strcpy(extra->name, "layers.0.ffn.gate.bias"); /* of a hash-routed layer */
    expect_refusal(&m, *state, KVF_FILE_FORMAT, "\"layers.0.ffn.gate.bias\" is not part");
    strcpy(extra->name, "%s%n\\n");
    expect_refusal(&m, *state, KVF_FILE_FORMAT, "tensor \"%s%n?\" is not part of the model");
    strcpy(extra->name, "layers.0.attn.wkv.scale");
    expect_refusal(&m, *state, KVF_FILE_FORMAT, /* of a matrix that needs none */
                   "\"layers.0.attn.wkv.scale\" is not part of the model");
    strcpy(extra->name, "layers.0.attn.wkv.weight_scale_inv");
    expect_refusal(&m, *state, KVF_UNSUPPORTED, "scales of this name are not read");
    free_made_up(&m);
}

static void test_short_memory_at_any_allocation_leaves_nothing_behind(void **state)
{
    static made_up m;
    make_up(&m);
    kvf_tensor_set *files = NULL;
    write_entries(*state, "model.safetensors", m.entries, m.n);
    assert_int_equal(kvf_tensor_set_open(*state, &files, &(kvf_error){0}), KVF_OK);
    for (int allowed = 0; allowed < (int)m.n; allowed++) {
        test_device device = make_device();
        kvf_weights weights;
        kvf_error error = {0};
        device.allocations_left = allowed;
        kvf_status status =
            kvf_weights_load(&device.device, &m.config, *state, files, &weights, &error);
        assert_failed("memory", status, KVF_OUT_OF_MEMORY, &error, "no memory on the device");
        assert_int_equal(device.device.live_bytes[KVF_MEMORY_WEIGHT], 0);
    }
    kvf_tensor_set_close(files);
    free_made_up(&m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_tensor_of_a_csa_layer_is_in_its_place),
        cmocka_unit_test(test_tensors_outside_of_layers_and_of_other_layers_are_in_their_place),
        cmocka_unit_test(test_token_map_is_the_files_as_i32),
        cmocka_unit_test(test_device_bytes_are_what_the_device_gave_and_gets_back),
        cmocka_unit_test_setup_teardown(test_original_names_load_to_identical_weights, make_folder,
                                        remove_folder),
        cmocka_unit_test(test_only_names_of_prediction_heads_are_ignored),
        cmocka_unit_test(test_a_layer_past_the_last_predicts_or_is_cut_off),
        cmocka_unit_test_setup_teardown(test_all_float_dtypes_convert_exactly, make_folder,
                                        remove_folder),
        cmocka_unit_test_setup_teardown(test_tied_head_is_the_embedding, make_folder,
                                        remove_folder),
        cmocka_unit_test_setup_teardown(test_wrong_tensors_are_refused_by_name_and_shape,
                                        make_folder, remove_folder),
        cmocka_unit_test_setup_teardown(test_nonfinite_weights_are_refused_by_name_and_place,
                                        make_folder, remove_folder),
        cmocka_unit_test_setup_teardown(test_surplus_and_quantised_tensors_are_refused, make_folder,
                                        remove_folder),
        cmocka_unit_test_setup_teardown(test_short_memory_at_any_allocation_leaves_nothing_behind,
                                        make_folder, remove_folder),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
