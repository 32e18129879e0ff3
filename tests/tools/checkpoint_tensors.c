/* Which tensors a checkpoint has, by both families' names, and how each form stores them. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "tools/checkpoint.h"

/*
 * The rms of codes: q8_0 of -128..127; q2_K as d lo q - 1.5 d hi, with d lo q's mean taken off
 * by the last; q4_K likewise with 7.5; iq2_xxs of (0.5 + s) / 4 times {8, 25, 43}; e4m3
 * over all finite codes; e2m1, which mxfp4 doubles.
 */
const stored_type stored_types[N_STORED] = {
    [STORED_F32] = {"F32", 0, 1, 4, 0},        [STORED_F16] = {"F16", 1, 1, 2, 0},
    [STORED_BF16] = {"BF16", 30, 1, 2, 0},     [STORED_I32] = {"I32", 26, 1, 4, 0},
    [STORED_I64] = {"I64", 27, 1, 8, 0},       [STORED_FP8] = {"F8_E4M3", 0, 1, 1, 100},
    [STORED_FP4] = {"I8", 0, 1, 1, 2.9},       [STORED_E8M0] = {"F8_E8M0", 0, 1, 1, 0},
    [STORED_Q8_0] = {NULL, 8, 32, 34, 74},     [STORED_Q2_K] = {NULL, 10, 256, 84, 14},
    [STORED_Q4_K] = {NULL, 12, 256, 144, 258}, [STORED_IQ2_XXS] = {NULL, 16, 256, 66, 40},
    [STORED_MXFP4] = {NULL, 39, 32, 17, 5.9}};

/* ---- Models ------------------------------------------------------------------------- */

static const model models[] = {
    {.name = "flash",
     .hidden = 4096,
     .n_heads = 64,
     .q_rank = 1024,
     .n_out_groups = 8,
     .out_rank = 1024,
     .n_index_heads = 64,
     .top_k = 512,
     .expert_ffn = 2048,
     .n_experts = 256,
     .n_used = 6,
     .vocab = 129280,
     .routed_scaling = 1.5,
     .n_hash_layers = 3,
     .n_layers = 43,
     .has_mtp = true},
    {.name = "pro",
     .hidden = 7168,
     .n_heads = 128,
     .q_rank = 1536,
     .n_out_groups = 16,
     .out_rank = 1024,
     .n_index_heads = 64,
     .top_k = 1024,
     .expert_ffn = 3072,
     .n_experts = 384,
     .n_used = 6,
     .vocab = 129280,
     .routed_scaling = 2.5,
     .n_hash_layers = 3,
     .n_layers = 61,
     .has_mtp = true},
    /* The least that has blocks of 256 values and tiles of 128 everywhere. */
    {.name = "small",
     .hidden = 256,
     .n_heads = 4,
     .q_rank = 256,
     .n_out_groups = 2,
     .out_rank = 128,
     .n_index_heads = 8,
     .top_k = 16,
     .expert_ffn = 256,
     .n_experts = 8,
     .n_used = 2,
     .vocab = 320,
     .routed_scaling = 1.5,
     .n_hash_layers = 2,
     .n_layers = 4,
     .has_mtp = true},
};

/* Flash begins with two window-only layers, Pro with two of 128; then 4 and 128 take turns. */
static void set_ratios(model *m)
{
    const uint32_t first = strcmp(m->name, "pro") == 0 ? 128 : 0;
    for (uint32_t i = 0; i < m->n_layers; i++)
        m->ratios[i] = i < 2 ? first : i % 2 ? 128 : 4;
}

bool find_model(const char *name, model *found)
{
    for (size_t i = 0; i < sizeof models / sizeof *models; i++) {
        if (strcmp(models[i].name, name) == 0) {
            *found = models[i];
            set_ratios(found);
            return true;
        }
    }
    return false;
}

/* ---- How a form stores what ----------------------------------------------------------- */

typedef enum role {
    ROLE_EMBED,
    ROLE_HEAD,
    ROLE_NORM,   /* a vector about 1 */
    ROLE_VECTOR, /* a vector about 0 */
    ROLE_SCALE,  /* a vector about 0.5 */
    ROLE_HC,     /* hc_*_fn */
    ROLE_LINEAR, /* attention, shared experts */
    ROLE_PLAIN,  /* compressor, indexer's weights, router */
    ROLE_INDEX_Q,
    ROLE_APE,
    ROLE_MAP, /* tid2eid */
    ROLE_GATE_UP,
    ROLE_DOWN,
    N_ROLES
} role;

static const stored stored_as[N_ROLES][N_FORMS] = {
    /*               DeepSeek     ds4's 2 bits    ds4's 4 bits  llama.cpp's */
    [ROLE_EMBED] = {STORED_BF16, STORED_F16, STORED_F16, STORED_BF16},
    [ROLE_HEAD] = {STORED_BF16, STORED_Q8_0, STORED_Q8_0, STORED_BF16},
    [ROLE_NORM] = {STORED_BF16, STORED_F32, STORED_F32, STORED_F32},
    [ROLE_VECTOR] = {STORED_F32, STORED_F32, STORED_F32, STORED_F32},
    [ROLE_SCALE] = {STORED_F32, STORED_F32, STORED_F32, STORED_F32},
    [ROLE_HC] = {STORED_F32, STORED_F16, STORED_F16, STORED_F32},
    [ROLE_LINEAR] = {STORED_FP8, STORED_Q8_0, STORED_Q8_0, STORED_Q8_0},
    [ROLE_PLAIN] = {STORED_BF16, STORED_F16, STORED_F16, STORED_BF16},
    [ROLE_INDEX_Q] = {STORED_FP8, STORED_F16, STORED_F16, STORED_Q8_0},
    [ROLE_APE] = {STORED_F32, STORED_F16, STORED_F16, STORED_F32},
    [ROLE_MAP] = {STORED_I64, STORED_I32, STORED_I32, STORED_I32},
    [ROLE_GATE_UP] = {STORED_FP4, STORED_IQ2_XXS, STORED_Q4_K, STORED_MXFP4},
    [ROLE_DOWN] = {STORED_FP4, STORED_Q2_K, STORED_Q4_K, STORED_MXFP4}};

/* ---- Parts -------------------------------------------------------------------------- */

/* Lengths that depend on the model, and on the ratio of the layer. */
typedef enum dim {
    DIM_NONE,
    DIM_HIDDEN,
    DIM_STREAMS, /* 4 streams' hidden */
    DIM_MIX,     /* (2 + 4) x 4 */
    DIM_4,
    DIM_3,
    DIM_1,
    DIM_HEADS,
    DIM_QUERIES, /* 512 a head */
    DIM_Q_RANK,
    DIM_ROW,
    DIM_OUT,   /* ranks of all groups */
    DIM_GROUP, /* queries of a group */
    DIM_RATIO,
    DIM_PARTS_ROW, /* a row, two where windows overlap */
    DIM_INDEX_QUERIES,
    DIM_INDEX_HEADS,
    DIM_INDEX_ROW,
    DIM_INDEX_PARTS,
    DIM_EXPERTS,
    DIM_USED,
    DIM_FFN,
    DIM_VOCAB
} dim;

static uint64_t length_of(const model *m, dim d, uint32_t ratio)
{
    switch (d) {
    case DIM_HIDDEN: return m->hidden;
    case DIM_STREAMS: return 4ull * m->hidden;
    case DIM_MIX: return 24;
    case DIM_4: return 4;
    case DIM_3: return 3;
    case DIM_HEADS: return m->n_heads;
    case DIM_QUERIES: return 512ull * m->n_heads;
    case DIM_Q_RANK: return m->q_rank;
    case DIM_ROW: return 512;
    case DIM_OUT: return (uint64_t)m->n_out_groups * m->out_rank;
    case DIM_GROUP: return 512ull * m->n_heads / m->n_out_groups;
    case DIM_RATIO: return ratio;
    case DIM_PARTS_ROW: return ratio == 4 ? 1024 : 512;
    case DIM_INDEX_QUERIES: return 128ull * m->n_index_heads;
    case DIM_INDEX_HEADS: return m->n_index_heads;
    case DIM_INDEX_ROW: return 128;
    case DIM_INDEX_PARTS: return 256;
    case DIM_EXPERTS: return m->n_experts;
    case DIM_USED: return m->n_used;
    case DIM_FFN: return m->expert_ffn;
    case DIM_VOCAB: return m->vocab;
    case DIM_NONE:
    case DIM_1: return 1;
    }
    return 1;
}

/* Layers that have a part. */
typedef enum where { ALL_LAYERS, COMPRESSED, SPARSE, SCORED, HASHED } where;

typedef struct part_entry {
    const char *deepseek;
    const char *gguf;
    role role;
    dim rows; /* DIM_NONE: a vector of cols values */
    dim cols;
    where in;
} part_entry;

static const part_entry top_parts[] = {
    {"embed.weight", "token_embd.weight", ROLE_EMBED, DIM_VOCAB, DIM_HIDDEN, ALL_LAYERS},
    {"head.weight", "output.weight", ROLE_HEAD, DIM_VOCAB, DIM_HIDDEN, ALL_LAYERS},
    {"norm.weight", "output_norm.weight", ROLE_NORM, DIM_NONE, DIM_HIDDEN, ALL_LAYERS},
    {"hc_head_fn", "output_hc_fn.weight", ROLE_HC, DIM_4, DIM_STREAMS, ALL_LAYERS},
    {"hc_head_base", "output_hc_base.weight", ROLE_VECTOR, DIM_NONE, DIM_4, ALL_LAYERS},
    {"hc_head_scale", "output_hc_scale.weight", ROLE_SCALE, DIM_NONE, DIM_1, ALL_LAYERS},
};

/* clang-format off */
static const part_entry layer_parts[] = {
    {"attn_norm.weight", "attn_norm.weight", ROLE_NORM, DIM_NONE, DIM_HIDDEN, ALL_LAYERS},
    {"ffn_norm.weight", "ffn_norm.weight", ROLE_NORM, DIM_NONE, DIM_HIDDEN, ALL_LAYERS},
    {"hc_attn_fn", "hc_attn_fn.weight", ROLE_HC, DIM_MIX, DIM_STREAMS, ALL_LAYERS},
    {"hc_attn_base", "hc_attn_base.weight", ROLE_VECTOR, DIM_NONE, DIM_MIX, ALL_LAYERS},
    {"hc_attn_scale", "hc_attn_scale.weight", ROLE_SCALE, DIM_NONE, DIM_3, ALL_LAYERS},
    {"hc_ffn_fn", "hc_ffn_fn.weight", ROLE_HC, DIM_MIX, DIM_STREAMS, ALL_LAYERS},
    {"hc_ffn_base", "hc_ffn_base.weight", ROLE_VECTOR, DIM_NONE, DIM_MIX, ALL_LAYERS},
    {"hc_ffn_scale", "hc_ffn_scale.weight", ROLE_SCALE, DIM_NONE, DIM_3, ALL_LAYERS},
    {"attn.attn_sink", "attn_sinks.weight", ROLE_VECTOR, DIM_NONE, DIM_HEADS, ALL_LAYERS},
    {"attn.wq_a.weight", "attn_q_a.weight", ROLE_LINEAR, DIM_Q_RANK, DIM_HIDDEN, ALL_LAYERS},
    {"attn.q_norm.weight", "attn_q_a_norm.weight", ROLE_NORM, DIM_NONE, DIM_Q_RANK, ALL_LAYERS},
    {"attn.wq_b.weight", "attn_q_b.weight", ROLE_LINEAR, DIM_QUERIES, DIM_Q_RANK, ALL_LAYERS},
    {"attn.wkv.weight", "attn_kv.weight", ROLE_LINEAR, DIM_ROW, DIM_HIDDEN, ALL_LAYERS},
    {"attn.kv_norm.weight", "attn_kv_a_norm.weight", ROLE_NORM, DIM_NONE, DIM_ROW, ALL_LAYERS},
    {"attn.wo_a.weight", "attn_output_a.weight", ROLE_LINEAR, DIM_OUT, DIM_GROUP, ALL_LAYERS},
    {"attn.wo_b.weight", "attn_output_b.weight", ROLE_LINEAR, DIM_HIDDEN, DIM_OUT, ALL_LAYERS},
    {"attn.compressor.ape", "attn_compressor_ape.weight", ROLE_APE, DIM_RATIO, DIM_PARTS_ROW, COMPRESSED},
    {"attn.compressor.wkv.weight", "attn_compressor_kv.weight", ROLE_PLAIN, DIM_PARTS_ROW, DIM_HIDDEN, COMPRESSED},
    {"attn.compressor.wgate.weight", "attn_compressor_gate.weight", ROLE_PLAIN, DIM_PARTS_ROW, DIM_HIDDEN, COMPRESSED},
    {"attn.compressor.norm.weight", "attn_compressor_norm.weight", ROLE_NORM, DIM_NONE, DIM_ROW, COMPRESSED},
    {"attn.indexer.wq_b.weight", "indexer.attn_q_b.weight", ROLE_INDEX_Q, DIM_INDEX_QUERIES, DIM_Q_RANK, SPARSE},
    {"attn.indexer.weights_proj.weight", "indexer.proj.weight", ROLE_PLAIN, DIM_INDEX_HEADS, DIM_HIDDEN, SPARSE},
    {"attn.indexer.compressor.ape", "indexer_compressor_ape.weight", ROLE_APE, DIM_4, DIM_INDEX_PARTS, SPARSE},
    {"attn.indexer.compressor.wkv.weight", "indexer_compressor_kv.weight", ROLE_PLAIN, DIM_INDEX_PARTS, DIM_HIDDEN, SPARSE},
    {"attn.indexer.compressor.wgate.weight", "indexer_compressor_gate.weight", ROLE_PLAIN, DIM_INDEX_PARTS, DIM_HIDDEN, SPARSE},
    {"attn.indexer.compressor.norm.weight", "indexer_compressor_norm.weight", ROLE_NORM, DIM_NONE, DIM_INDEX_ROW, SPARSE},
    {"ffn.gate.weight", "ffn_gate_inp.weight", ROLE_PLAIN, DIM_EXPERTS, DIM_HIDDEN, ALL_LAYERS},
    {"ffn.gate.bias", "exp_probs_b.bias", ROLE_VECTOR, DIM_NONE, DIM_EXPERTS, SCORED},
    {"ffn.gate.tid2eid", "ffn_gate_tid2eid.weight", ROLE_MAP, DIM_VOCAB, DIM_USED, HASHED},
    {"ffn.shared_experts.w1.weight", "ffn_gate_shexp.weight", ROLE_LINEAR, DIM_FFN, DIM_HIDDEN, ALL_LAYERS},
    {"ffn.shared_experts.w2.weight", "ffn_down_shexp.weight", ROLE_LINEAR, DIM_HIDDEN, DIM_FFN, ALL_LAYERS},
    {"ffn.shared_experts.w3.weight", "ffn_up_shexp.weight", ROLE_LINEAR, DIM_FFN, DIM_HIDDEN, ALL_LAYERS},
};

/* Of every expert; a GGUF has all experts of a layer in one tensor. */
static const part_entry expert_parts[] = {
    {"w1.weight", "ffn_gate_exps.weight", ROLE_GATE_UP, DIM_FFN, DIM_HIDDEN, ALL_LAYERS},
    {"w2.weight", "ffn_down_exps.weight", ROLE_DOWN, DIM_HIDDEN, DIM_FFN, ALL_LAYERS},
    {"w3.weight", "ffn_up_exps.weight", ROLE_GATE_UP, DIM_FFN, DIM_HIDDEN, ALL_LAYERS},
};

/* What the layer that predicts further tokens has besides; all are under "mtp.0.". */
static const part_entry mtp_parts[] = {
    {"e_proj.weight", NULL, ROLE_LINEAR, DIM_HIDDEN, DIM_HIDDEN, ALL_LAYERS},
    {"h_proj.weight", NULL, ROLE_LINEAR, DIM_HIDDEN, DIM_HIDDEN, ALL_LAYERS},
    {"enorm.weight", NULL, ROLE_NORM, DIM_NONE, DIM_HIDDEN, ALL_LAYERS},
    {"hnorm.weight", NULL, ROLE_NORM, DIM_NONE, DIM_HIDDEN, ALL_LAYERS},
    {"norm.weight", NULL, ROLE_NORM, DIM_NONE, DIM_HIDDEN, ALL_LAYERS},
    {"hc_head_fn", NULL, ROLE_HC, DIM_4, DIM_STREAMS, ALL_LAYERS},
    {"hc_head_base", NULL, ROLE_VECTOR, DIM_NONE, DIM_4, ALL_LAYERS},
    {"hc_head_scale", NULL, ROLE_SCALE, DIM_NONE, DIM_1, ALL_LAYERS},
};
/* clang-format on */
#define COUNT(parts) (sizeof(parts) / sizeof *(parts))

/* ---- The list ------------------------------------------------------------------------- */

/* A layer, or what is in none; its tensors' names begin with `prefix`. */
typedef struct place {
    const char *prefix;
    uint32_t ratio;
    bool hashed;
} place;

static bool has_part(const place *p, where w)
{
    switch (w) {
    case COMPRESSED: return p->ratio != 0;
    case SPARSE: return p->ratio == 4;
    case SCORED: return !p->hashed;
    case HASHED: return p->hashed;
    default: return true;
    }
}

static tensor *add(tensor_list *list)
{
    if (list->n == list->capacity) {
        list->capacity = list->capacity ? 2 * list->capacity : 1024;
        list->tensors = realloc(list->tensors, list->capacity * sizeof *list->tensors);
        if (!list->tensors)
            give_up("out of memory for %zu tensors", list->capacity);
    }
    tensor *added = &list->tensors[list->n++];
    memset(added, 0, sizeof *added);
    return added;
}

static void count_bytes(tensor_list *list, tensor *t)
{
    const stored_type *type = &stored_types[t->type];
    uint64_t n = 1;
    for (uint32_t i = 0; i < t->n_dims; i++)
        n *= t->shape[i];
    t->bytes = n / type->values * type->bytes;
    list->bytes += t->bytes;
}

/* X.scale beside X.weight, one for 128 x 128 values of FP8 or 32 of a row of FP4. */
static void add_scales(tensor_list *list, const tensor *weight, uint64_t rows, uint64_t cols)
{
    const tensor of = *weight; /* the list may move */
    tensor *scales = add(list);
    const int stem = (int)(strlen(of.name) - strlen("weight"));
    snprintf(scales->name, NAME_BYTES, "%.*sscale", stem, of.name);
    scales->type = STORED_E8M0;
    scales->scaled = of.type;
    scales->rms = of.rms;
    scales->n_dims = 2;
    scales->shape[0] = of.type == STORED_FP8 ? (rows + 127) / 128 : rows;
    scales->shape[1] = of.type == STORED_FP8 ? (cols + 127) / 128 : (cols + 31) / 32;
    count_bytes(list, scales);
}

/*
 * Values have a variance of 1 / cols, so that a product is about as large as what goes in;
 * what is about 1 or 0.5 differs from it by little.
 */
static void set_values(const model *m, role r, uint64_t cols, tensor *t)
{
    t->mean = r == ROLE_NORM ? 1 : r == ROLE_SCALE ? 0.5 : 0;
    t->rms = r == ROLE_NORM || r == ROLE_SCALE || r == ROLE_VECTOR || r == ROLE_APE
                 ? 0.1
                 : 1 / sqrt((double)cols);
    if (r == ROLE_EMBED)
        t->rms = 1;
    t->map_limit = m->n_experts;
}

static void add_part(const checkpoint_job *job, const place *at, const part_entry *part,
                     uint64_t n_together, tensor_list *list)
{
    if (!has_part(at, part->in))
        return;
    const uint64_t rows = length_of(&job->model, part->rows, at->ratio);
    const uint64_t cols = length_of(&job->model, part->cols, at->ratio);
    tensor *t = add(list);
    snprintf(t->name, NAME_BYTES, "%s%s", at->prefix,
             job->form == FORM_DEEPSEEK ? part->deepseek : part->gguf);
    t->type = stored_as[part->role][job->form];
    if (n_together)
        t->shape[t->n_dims++] = n_together;
    if (part->rows != DIM_NONE)
        t->shape[t->n_dims++] = rows;
    t->shape[t->n_dims++] = t->type == STORED_FP4 ? cols / 2 : cols;
    set_values(&job->model, part->role, cols, t);
    count_bytes(list, t);
    if (t->type == STORED_FP8 || t->type == STORED_FP4)
        add_scales(list, t, rows, cols);
}

static void add_parts(const checkpoint_job *job, const place *at, const part_entry *parts, size_t n,
                      tensor_list *list)
{
    for (size_t i = 0; i < n; i++)
        add_part(job, at, &parts[i], 0, list);
}

static void add_experts(const checkpoint_job *job, const place *at, tensor_list *list)
{
    if (job->form != FORM_DEEPSEEK) {
        for (size_t i = 0; i < COUNT(expert_parts); i++)
            add_part(job, at, &expert_parts[i], job->model.n_experts, list);
        return;
    }
    for (uint32_t i = 0; i < job->model.n_experts; i++) {
        char prefix[NAME_BYTES];
        const place expert = {prefix, at->ratio, at->hashed};
        snprintf(prefix, sizeof prefix, "%sffn.experts.%u.", at->prefix, i);
        add_parts(job, &expert, expert_parts, COUNT(expert_parts), list);
    }
}

void list_tensors(const checkpoint_job *job, tensor_list *list)
{
    const model *m = &job->model;
    const place top = {"", 0, false};
    memset(list, 0, sizeof *list);
    add_parts(job, &top, top_parts, COUNT(top_parts), list);
    for (uint32_t i = 0; i < m->n_layers; i++) {
        char prefix[NAME_BYTES];
        const place layer = {prefix, m->ratios[i], i < m->n_hash_layers};
        snprintf(prefix, sizeof prefix, job->form == FORM_DEEPSEEK ? "layers.%u." : "blk.%u.", i);
        add_parts(job, &layer, layer_parts, COUNT(layer_parts), list);
        add_experts(job, &layer, list);
    }
    if (job->form == FORM_DEEPSEEK && m->has_mtp) {
        const place mtp = {"mtp.0.", 0, false};
        add_parts(job, &mtp, layer_parts, COUNT(layer_parts), list);
        add_experts(job, &mtp, list);
        add_parts(job, &mtp, mtp_parts, COUNT(mtp_parts), list);
    }
}
