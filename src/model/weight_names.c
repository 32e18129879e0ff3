#include "model/weight_names.h"

#include "model/weights.h"

#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Sizes that shapes are made of. */
enum dim {
    DIM_NONE,
    DIM_VOCAB,
    DIM_HIDDEN,
    DIM_STREAMS,        /* n_streams */
    DIM_STREAMS_HIDDEN, /* n_streams * hidden */
    DIM_MIX,            /* n_streams * (2 + n_streams) */
    DIM_MIX_SCALES,     /* 3: pre, post, comb */
    DIM_ONE,
    DIM_Q_RANK,
    DIM_HEADS,
    DIM_Q,         /* n_heads * 512 */
    DIM_ROW,       /* 512 */
    DIM_OUT,       /* n_out_groups * out_rank */
    DIM_GROUP_Q,   /* n_heads / n_out_groups * 512 */
    DIM_RATIO,     /* of the layer */
    DIM_ROW_PARTS, /* parts * 512 */
    DIM_INDEX,     /* 128 */
    DIM_INDEX_PARTS,
    DIM_INDEX_HEADS,
    DIM_INDEX_Q, /* n_index_heads * 128 */
    DIM_EXPERTS,
    DIM_EXPERTS_USED,
    DIM_FFN,
    DIM_SHARED_FFN
};

/* In which layers a tensor is. */
enum when { ALWAYS, UNTIED, COMPRESSING, CSA_ONLY, HASH_ROUTED, SCORE_ROUTED };

/* What a tensor belongs to; the lines of one stand together in the table. */
enum scope { OF_MODEL, OF_LAYER, OF_EXPERT, OF_SHARED_EXPERTS };

/*
 * A tensor is one line. Names come after the prefixes of name_of() below. The offset is in
 * kvf_weights, kvf_layer_weights or kvf_expert_weights.
 */
struct spec {
    enum scope scope;
    const char *name;  /* DeepSeek's */
    const char *other; /* the transformers library's where it differs */
    const char *gguf;
    kvf_tensor_kind kind;
    enum dim rows;
    enum dim cols; /* DIM_NONE: one dimension */
    size_t offset;
    enum when when;
};

#define MODEL(member) offsetof(kvf_weights, member)
#define LAYER(member) offsetof(kvf_layer_weights, member)
#define EXPERT(member) offsetof(kvf_expert_weights, member)
#define VALUES KVF_TENSOR_VALUES
#define MATRIX KVF_TENSOR_MATRIX
#define MAP KVF_TENSOR_MAP

/* clang-format off */
static const struct spec specs[] = {
    {OF_MODEL, "embed.weight", "embed_tokens.weight", "token_embd.weight",
     MATRIX, DIM_VOCAB, DIM_HIDDEN, MODEL(embed), ALWAYS},
    {OF_MODEL, "norm.weight", NULL, "output_norm.weight",
     VALUES, DIM_HIDDEN, DIM_NONE, MODEL(norm), ALWAYS},
    {OF_MODEL, "hc_head_fn", "hc_head.hc_fn", "output_hc_fn.weight",
     MATRIX, DIM_STREAMS, DIM_STREAMS_HIDDEN, MODEL(hc_head.fn), ALWAYS},
    {OF_MODEL, "hc_head_base", "hc_head.hc_base", "output_hc_base.weight",
     VALUES, DIM_STREAMS, DIM_NONE, MODEL(hc_head.base), ALWAYS},
    {OF_MODEL, "hc_head_scale", "hc_head.hc_scale", "output_hc_scale.weight",
     VALUES, DIM_ONE, DIM_NONE, MODEL(hc_head.scale), ALWAYS},
    {OF_MODEL, "head.weight", NULL, "output.weight",
     MATRIX, DIM_VOCAB, DIM_HIDDEN, MODEL(head), UNTIED},

    {OF_LAYER, "attn_norm.weight", NULL, "attn_norm.weight",
     VALUES, DIM_HIDDEN, DIM_NONE, LAYER(attn_norm), ALWAYS},
    {OF_LAYER, "ffn_norm.weight", NULL, "ffn_norm.weight",
     VALUES, DIM_HIDDEN, DIM_NONE, LAYER(ffn_norm), ALWAYS},
    {OF_LAYER, "hc_attn_fn", NULL, "hc_attn_fn.weight",
     MATRIX, DIM_MIX, DIM_STREAMS_HIDDEN, LAYER(hc_attn.fn), ALWAYS},
    {OF_LAYER, "hc_attn_base", NULL, "hc_attn_base.weight",
     VALUES, DIM_MIX, DIM_NONE, LAYER(hc_attn.base), ALWAYS},
    {OF_LAYER, "hc_attn_scale", NULL, "hc_attn_scale.weight",
     VALUES, DIM_MIX_SCALES, DIM_NONE, LAYER(hc_attn.scale), ALWAYS},
    {OF_LAYER, "hc_ffn_fn", NULL, "hc_ffn_fn.weight",
     MATRIX, DIM_MIX, DIM_STREAMS_HIDDEN, LAYER(hc_ffn.fn), ALWAYS},
    {OF_LAYER, "hc_ffn_base", NULL, "hc_ffn_base.weight",
     VALUES, DIM_MIX, DIM_NONE, LAYER(hc_ffn.base), ALWAYS},
    {OF_LAYER, "hc_ffn_scale", NULL, "hc_ffn_scale.weight",
     VALUES, DIM_MIX_SCALES, DIM_NONE, LAYER(hc_ffn.scale), ALWAYS},
    {OF_LAYER, "attn.wq_a.weight", NULL, "attn_q_a.weight",
     MATRIX, DIM_Q_RANK, DIM_HIDDEN, LAYER(wq_a), ALWAYS},
    {OF_LAYER, "attn.q_norm.weight", NULL, "attn_q_a_norm.weight",
     VALUES, DIM_Q_RANK, DIM_NONE, LAYER(q_norm), ALWAYS},
    {OF_LAYER, "attn.wq_b.weight", NULL, "attn_q_b.weight",
     MATRIX, DIM_Q, DIM_Q_RANK, LAYER(wq_b), ALWAYS},
    {OF_LAYER, "attn.wkv.weight", NULL, "attn_kv.weight",
     MATRIX, DIM_ROW, DIM_HIDDEN, LAYER(wkv), ALWAYS},
    /* The transformers library's rename of the compressors' norms catches this one too. */
    {OF_LAYER, "attn.kv_norm.weight", "attn.norm.weight", "attn_kv_a_norm.weight",
     VALUES, DIM_ROW, DIM_NONE, LAYER(kv_norm), ALWAYS},
    {OF_LAYER, "attn.wo_a.weight", NULL, "attn_output_a.weight",
     MATRIX, DIM_OUT, DIM_GROUP_Q, LAYER(wo_a), ALWAYS},
    {OF_LAYER, "attn.wo_b.weight", NULL, "attn_output_b.weight",
     MATRIX, DIM_HIDDEN, DIM_OUT, LAYER(wo_b), ALWAYS},
    {OF_LAYER, "attn.attn_sink", NULL, "attn_sinks.weight",
     VALUES, DIM_HEADS, DIM_NONE, LAYER(sinks), ALWAYS},
    {OF_LAYER, "attn.compressor.wkv.weight", NULL, "attn_compressor_kv.weight",
     MATRIX, DIM_ROW_PARTS, DIM_HIDDEN, LAYER(rows.wkv), COMPRESSING},
    {OF_LAYER, "attn.compressor.wgate.weight", NULL, "attn_compressor_gate.weight",
     MATRIX, DIM_ROW_PARTS, DIM_HIDDEN, LAYER(rows.wgate), COMPRESSING},
    {OF_LAYER, "attn.compressor.ape", NULL, "attn_compressor_ape.weight",
     VALUES, DIM_RATIO, DIM_ROW_PARTS, LAYER(rows.ape), COMPRESSING},
    {OF_LAYER, "attn.compressor.norm.weight", NULL, "attn_compressor_norm.weight",
     VALUES, DIM_ROW, DIM_NONE, LAYER(rows.norm), COMPRESSING},
    {OF_LAYER, "attn.indexer.compressor.wkv.weight", NULL, "indexer_compressor_kv.weight",
     MATRIX, DIM_INDEX_PARTS, DIM_HIDDEN, LAYER(index.wkv), CSA_ONLY},
    {OF_LAYER, "attn.indexer.compressor.wgate.weight", NULL, "indexer_compressor_gate.weight",
     MATRIX, DIM_INDEX_PARTS, DIM_HIDDEN, LAYER(index.wgate), CSA_ONLY},
    {OF_LAYER, "attn.indexer.compressor.ape", NULL, "indexer_compressor_ape.weight",
     VALUES, DIM_RATIO, DIM_INDEX_PARTS, LAYER(index.ape), CSA_ONLY},
    {OF_LAYER, "attn.indexer.compressor.norm.weight", NULL, "indexer_compressor_norm.weight",
     VALUES, DIM_INDEX, DIM_NONE, LAYER(index.norm), CSA_ONLY},
    {OF_LAYER, "attn.indexer.wq_b.weight", NULL, "indexer.attn_q_b.weight",
     MATRIX, DIM_INDEX_Q, DIM_Q_RANK, LAYER(index_wq_b), CSA_ONLY},
    {OF_LAYER, "attn.indexer.weights_proj.weight", NULL, "indexer.proj.weight",
     MATRIX, DIM_INDEX_HEADS, DIM_HIDDEN, LAYER(index_weights), CSA_ONLY},
    {OF_LAYER, "ffn.gate.weight", NULL, "ffn_gate_inp.weight",
     MATRIX, DIM_EXPERTS, DIM_HIDDEN, LAYER(gate), ALWAYS},
    {OF_LAYER, "ffn.gate.bias", NULL, "exp_probs_b.bias",
     VALUES, DIM_EXPERTS, DIM_NONE, LAYER(gate_bias), SCORE_ROUTED},
    {OF_LAYER, "ffn.gate.tid2eid", NULL, "ffn_gate_tid2eid.weight",
     MAP, DIM_VOCAB, DIM_EXPERTS_USED, LAYER(token_map), HASH_ROUTED},

    /* GGUF has all experts of a layer in one tensor. */
    {OF_EXPERT, "w1.weight", NULL, "ffn_gate_exps.weight",
     MATRIX, DIM_FFN, DIM_HIDDEN, EXPERT(w1), ALWAYS},
    {OF_EXPERT, "w3.weight", NULL, "ffn_up_exps.weight",
     MATRIX, DIM_FFN, DIM_HIDDEN, EXPERT(w3), ALWAYS},
    {OF_EXPERT, "w2.weight", NULL, "ffn_down_exps.weight",
     MATRIX, DIM_HIDDEN, DIM_FFN, EXPERT(w2), ALWAYS},

    /* Several shared experts are stored as one, so many times as wide. */
    {OF_SHARED_EXPERTS, "w1.weight", NULL, "ffn_gate_shexp.weight",
     MATRIX, DIM_SHARED_FFN, DIM_HIDDEN, EXPERT(w1), ALWAYS},
    {OF_SHARED_EXPERTS, "w3.weight", NULL, "ffn_up_shexp.weight",
     MATRIX, DIM_SHARED_FFN, DIM_HIDDEN, EXPERT(w3), ALWAYS},
    {OF_SHARED_EXPERTS, "w2.weight", NULL, "ffn_down_shexp.weight",
     MATRIX, DIM_HIDDEN, DIM_SHARED_FFN, EXPERT(w2), ALWAYS},
};
/* clang-format on */

static uint64_t dim_size(const kvf_model_config *config, const kvf_layer *layer, enum dim dim)
{
    const kvf_geometry *geometry = &config->geometry;
    const uint64_t streams = config->n_streams;
    const uint64_t parts = layer && layer->kind == KVF_LAYER_CSA ? 2 : 1;
    switch (dim) {
    case DIM_NONE: return 1;
    case DIM_VOCAB: return geometry->vocab;
    case DIM_HIDDEN: return config->hidden;
    case DIM_STREAMS: return streams;
    case DIM_STREAMS_HIDDEN: return streams * config->hidden;
    case DIM_MIX: return streams * (2 + streams);
    case DIM_MIX_SCALES: return 3;
    case DIM_ONE: return 1;
    case DIM_Q_RANK: return config->q_rank;
    case DIM_HEADS: return geometry->n_heads;
    case DIM_Q: return (uint64_t)geometry->n_heads * KVF_ROW_WIDTH;
    case DIM_ROW: return KVF_ROW_WIDTH;
    case DIM_OUT: return (uint64_t)config->n_out_groups * config->out_rank;
    case DIM_GROUP_Q: return (uint64_t)geometry->n_heads / config->n_out_groups * KVF_ROW_WIDTH;
    case DIM_RATIO: return layer->ratio;
    case DIM_ROW_PARTS: return parts * KVF_ROW_WIDTH;
    case DIM_INDEX: return KVF_INDEX_WIDTH;
    case DIM_INDEX_PARTS: return parts * KVF_INDEX_WIDTH;
    case DIM_INDEX_HEADS: return geometry->n_index_heads;
    case DIM_INDEX_Q: return (uint64_t)geometry->n_index_heads * KVF_INDEX_WIDTH;
    case DIM_EXPERTS: return config->n_experts;
    case DIM_EXPERTS_USED: return config->n_experts_used;
    case DIM_FFN: return config->expert_ffn;
    case DIM_SHARED_FFN: return (uint64_t)config->n_shared_experts * config->expert_ffn;
    }
    return 0;
}

/* layer is NULL for the model's own tensors. */
static bool is_wanted(const kvf_model_config *config, const uint32_t *layer, enum when when)
{
    if (when == ALWAYS || when == UNTIED)
        return when == ALWAYS || !config->tied_embeddings;
    const kvf_layer_kind kind = config->geometry.layers[*layer].kind;
    switch (when) {
    case COMPRESSING: return kind != KVF_LAYER_WINDOW;
    case CSA_ONLY: return kind == KVF_LAYER_CSA;
    case HASH_ROUTED: return config->hash_routed[*layer];
    case SCORE_ROUTED: return !config->hash_routed[*layer];
    default: return false;
    }
}

/* What all tensors of one walk share, and where it is. */
struct walk {
    const kvf_model_config *config;
    kvf_weight_fn *visit;
    void *user;
    uint32_t layer;
    uint32_t expert;
};

/* The names in all styles. */
static void name_of(const struct walk *walk, const struct spec *spec, kvf_weight *weight)
{
    char prefix[64] = "";
    char *deepseek = weight->names[KVF_NAMES_DEEPSEEK];
    char *transformers = weight->names[KVF_NAMES_TRANSFORMERS];
    char *gguf = weight->names[KVF_NAMES_GGUF];
    const char *experts = spec->scope == OF_EXPERT ? "ffn.experts." : "ffn.shared_experts.";
    const size_t bytes = sizeof weight->names[0];
    if (spec->scope == OF_EXPERT)
        snprintf(prefix, sizeof prefix, "layers.%u.%s%u.", walk->layer, experts, walk->expert);
    else if (spec->scope == OF_SHARED_EXPERTS)
        snprintf(prefix, sizeof prefix, "layers.%u.%s", walk->layer, experts);
    else if (spec->scope == OF_LAYER)
        snprintf(prefix, sizeof prefix, "layers.%u.", walk->layer);
    snprintf(deepseek, bytes, "%s%s", prefix, spec->name);
    /* The head is beside the model there, not in it. */
    snprintf(transformers, bytes, "%s%s%s", spec->when == UNTIED ? "" : "model.", prefix,
             spec->other ? spec->other : spec->name);
    if (spec->scope == OF_MODEL)
        snprintf(gguf, bytes, "%s", spec->gguf);
    else
        snprintf(gguf, bytes, "blk.%u.%s", walk->layer, spec->gguf);
}

/* Visits the tensors of a scope; base is what their offsets are in, or NULL. */
static kvf_status visit_scope(const struct walk *walk, enum scope scope, void *base)
{
    const uint32_t *layer = scope == OF_MODEL ? NULL : &walk->layer;
    const kvf_layer *kind = layer ? &walk->config->geometry.layers[*layer] : NULL;
    kvf_status status = KVF_OK;
    for (size_t i = 0; i < sizeof specs / sizeof *specs && status == KVF_OK; i++) {
        const struct spec *spec = &specs[i];
        if (spec->scope != scope || !is_wanted(walk->config, layer, spec->when))
            continue;
        kvf_weight weight = {.kind = spec->kind, .n_dims = spec->cols == DIM_NONE ? 1 : 2};
        name_of(walk, spec, &weight);
        weight.shape[0] = dim_size(walk->config, kind, spec->rows);
        weight.shape[1] = dim_size(walk->config, kind, spec->cols);
        weight.n_stacked = scope == OF_EXPERT ? walk->config->n_experts : 0;
        weight.place = scope == OF_EXPERT ? walk->expert : 0;
        weight.target = base ? (char *)base + spec->offset : NULL;
        status = walk->visit(walk->user, &weight);
    }
    return status;
}

static kvf_status visit_layer(struct walk *walk, kvf_layer_weights *weights)
{
    kvf_status status = visit_scope(walk, OF_LAYER, weights);
    for (walk->expert = 0; walk->expert < walk->config->n_experts && status == KVF_OK;
         walk->expert++)
        status = visit_scope(walk, OF_EXPERT, weights ? &weights->routed[walk->expert] : NULL);
    if (status == KVF_OK && walk->config->n_shared_experts > 0)
        status = visit_scope(walk, OF_SHARED_EXPERTS, weights ? &weights->shared : NULL);
    return status;
}

kvf_status kvf_weight_walk(const kvf_model_config *config, kvf_weights *weights,
                           kvf_weight_fn *visit, void *user)
{
    struct walk walk = {config, visit, user, 0, 0};
    kvf_status status = visit_scope(&walk, OF_MODEL, weights);
    for (; walk.layer < config->geometry.n_layers && status == KVF_OK; walk.layer++)
        status = visit_layer(&walk, weights ? &weights->layers[walk.layer] : NULL);
    return status;
}

static bool starts_with(const char **text, const char *prefix)
{
    size_t bytes = strlen(prefix);
    if (strncmp(*text, prefix, bytes) != 0)
        return false;
    *text += bytes;
    return true;
}

/* The layer that a tensor is of, and what its name is in there. */
static bool layer_of(const char *name, unsigned long *layer, const char **rest)
{
    starts_with(&name, "model.");
    if (!starts_with(&name, "layers.") && !starts_with(&name, "blk."))
        return false;
    if (*name < '0' || *name > '9')
        return false;
    char *end = NULL;
    *layer = strtoul(name, &end, 10); /* too many digits: ULONG_MAX */
    *rest = end + 1;
    return *end == '.';
}

bool kvf_weight_is_ignored(const kvf_model_config *config, const char *name)
{
    const char *own = name;
    const char *rest;
    unsigned long layer;
    starts_with(&own, "model.");
    if (starts_with(&own, "mtp.") || starts_with(&own, "dspark."))
        return true;
    return layer_of(name, &layer, &rest) && layer >= config->geometry.n_layers;
}

kvf_next_layer kvf_weight_next_layer(const kvf_model_config *config, const char *name)
{
    /* llama.cpp's, then those of V3 and V4: they join an embedding to a hidden state. */
    static const char *const predicting[] = {"nextn.",  "eh_proj.", "enorm.",      "hnorm.",
                                             "e_proj.", "h_proj.",  "shared_head."};
    const char *rest;
    unsigned long layer;
    if (!layer_of(name, &layer, &rest) || layer != config->geometry.n_layers)
        return KVF_NEXT_NOT;
    for (size_t i = 0; i < sizeof predicting / sizeof *predicting; i++)
        if (starts_with(&rest, predicting[i]))
            return KVF_NEXT_PREDICTS;
    return KVF_NEXT_LAYER;
}
