#include "model/weight_names.h"

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
enum when { ALWAYS, COMPRESSING, CSA_ONLY, HASH_ROUTED, SCORE_ROUTED };

struct spec {
    const char *name;  /* after the prefix; the original style's */
    const char *other; /* the transformers library's where it differs */
    kvf_weight_kind kind;
    enum dim rows;
    enum dim cols; /* DIM_NONE: one dimension */
    size_t offset;
    enum when when;
};

#define IN(type, member) offsetof(type, member)

/* clang-format off */
static const struct spec model_specs[] = {
    {"embed.weight", "model.embed_tokens.weight", KVF_WEIGHT_MATRIX, DIM_VOCAB, DIM_HIDDEN,
     IN(kvf_weights, embed), ALWAYS},
    {"norm.weight", "model.norm.weight", KVF_WEIGHT_VALUES, DIM_HIDDEN, DIM_NONE,
     IN(kvf_weights, norm), ALWAYS},
    {"hc_head_fn", "model.hc_head.hc_fn", KVF_WEIGHT_VALUES, DIM_STREAMS, DIM_STREAMS_HIDDEN,
     IN(kvf_weights, hc_head.fn), ALWAYS},
    {"hc_head_base", "model.hc_head.hc_base", KVF_WEIGHT_VALUES, DIM_STREAMS, DIM_NONE,
     IN(kvf_weights, hc_head.base), ALWAYS},
    {"hc_head_scale", "model.hc_head.hc_scale", KVF_WEIGHT_VALUES, DIM_ONE, DIM_NONE,
     IN(kvf_weights, hc_head.scale), ALWAYS},
};

/* Not there in a checkpoint with tied embeddings. */
static const struct spec head_spec = {
    "head.weight", NULL, KVF_WEIGHT_MATRIX, DIM_VOCAB, DIM_HIDDEN, IN(kvf_weights, head), ALWAYS};

static const struct spec layer_specs[] = {
    {"attn_norm.weight", NULL, KVF_WEIGHT_VALUES, DIM_HIDDEN, DIM_NONE,
     IN(kvf_layer_weights, attn_norm), ALWAYS},
    {"ffn_norm.weight", NULL, KVF_WEIGHT_VALUES, DIM_HIDDEN, DIM_NONE,
     IN(kvf_layer_weights, ffn_norm), ALWAYS},
    {"hc_attn_fn", NULL, KVF_WEIGHT_VALUES, DIM_MIX, DIM_STREAMS_HIDDEN,
     IN(kvf_layer_weights, hc_attn.fn), ALWAYS},
    {"hc_attn_base", NULL, KVF_WEIGHT_VALUES, DIM_MIX, DIM_NONE,
     IN(kvf_layer_weights, hc_attn.base), ALWAYS},
    {"hc_attn_scale", NULL, KVF_WEIGHT_VALUES, DIM_MIX_SCALES, DIM_NONE,
     IN(kvf_layer_weights, hc_attn.scale), ALWAYS},
    {"hc_ffn_fn", NULL, KVF_WEIGHT_VALUES, DIM_MIX, DIM_STREAMS_HIDDEN,
     IN(kvf_layer_weights, hc_ffn.fn), ALWAYS},
    {"hc_ffn_base", NULL, KVF_WEIGHT_VALUES, DIM_MIX, DIM_NONE,
     IN(kvf_layer_weights, hc_ffn.base), ALWAYS},
    {"hc_ffn_scale", NULL, KVF_WEIGHT_VALUES, DIM_MIX_SCALES, DIM_NONE,
     IN(kvf_layer_weights, hc_ffn.scale), ALWAYS},
    {"attn.wq_a.weight", NULL, KVF_WEIGHT_MATRIX, DIM_Q_RANK, DIM_HIDDEN,
     IN(kvf_layer_weights, wq_a), ALWAYS},
    {"attn.q_norm.weight", NULL, KVF_WEIGHT_VALUES, DIM_Q_RANK, DIM_NONE,
     IN(kvf_layer_weights, q_norm), ALWAYS},
    {"attn.wq_b.weight", NULL, KVF_WEIGHT_MATRIX, DIM_Q, DIM_Q_RANK,
     IN(kvf_layer_weights, wq_b), ALWAYS},
    {"attn.wkv.weight", NULL, KVF_WEIGHT_MATRIX, DIM_ROW, DIM_HIDDEN,
     IN(kvf_layer_weights, wkv), ALWAYS},
    /* The transformers library's rename of the compressors' norms catches this one too. */
    {"attn.kv_norm.weight", "attn.norm.weight", KVF_WEIGHT_VALUES, DIM_ROW, DIM_NONE,
     IN(kvf_layer_weights, kv_norm), ALWAYS},
    {"attn.wo_a.weight", NULL, KVF_WEIGHT_MATRIX, DIM_OUT, DIM_GROUP_Q,
     IN(kvf_layer_weights, wo_a), ALWAYS},
    {"attn.wo_b.weight", NULL, KVF_WEIGHT_MATRIX, DIM_HIDDEN, DIM_OUT,
     IN(kvf_layer_weights, wo_b), ALWAYS},
    {"attn.attn_sink", NULL, KVF_WEIGHT_VALUES, DIM_HEADS, DIM_NONE,
     IN(kvf_layer_weights, sinks), ALWAYS},
    {"attn.compressor.wkv.weight", NULL, KVF_WEIGHT_MATRIX, DIM_ROW_PARTS, DIM_HIDDEN,
     IN(kvf_layer_weights, rows.wkv), COMPRESSING},
    {"attn.compressor.wgate.weight", NULL, KVF_WEIGHT_MATRIX, DIM_ROW_PARTS, DIM_HIDDEN,
     IN(kvf_layer_weights, rows.wgate), COMPRESSING},
    {"attn.compressor.ape", NULL, KVF_WEIGHT_VALUES, DIM_RATIO, DIM_ROW_PARTS,
     IN(kvf_layer_weights, rows.ape), COMPRESSING},
    {"attn.compressor.norm.weight", NULL, KVF_WEIGHT_VALUES, DIM_ROW, DIM_NONE,
     IN(kvf_layer_weights, rows.norm), COMPRESSING},
    {"attn.indexer.compressor.wkv.weight", NULL, KVF_WEIGHT_MATRIX, DIM_INDEX_PARTS, DIM_HIDDEN,
     IN(kvf_layer_weights, index.wkv), CSA_ONLY},
    {"attn.indexer.compressor.wgate.weight", NULL, KVF_WEIGHT_MATRIX, DIM_INDEX_PARTS, DIM_HIDDEN,
     IN(kvf_layer_weights, index.wgate), CSA_ONLY},
    {"attn.indexer.compressor.ape", NULL, KVF_WEIGHT_VALUES, DIM_RATIO, DIM_INDEX_PARTS,
     IN(kvf_layer_weights, index.ape), CSA_ONLY},
    {"attn.indexer.compressor.norm.weight", NULL, KVF_WEIGHT_VALUES, DIM_INDEX, DIM_NONE,
     IN(kvf_layer_weights, index.norm), CSA_ONLY},
    {"attn.indexer.wq_b.weight", NULL, KVF_WEIGHT_MATRIX, DIM_INDEX_Q, DIM_Q_RANK,
     IN(kvf_layer_weights, index_wq_b), CSA_ONLY},
    {"attn.indexer.weights_proj.weight", NULL, KVF_WEIGHT_MATRIX, DIM_INDEX_HEADS, DIM_HIDDEN,
     IN(kvf_layer_weights, index_weights), CSA_ONLY},
    {"ffn.gate.weight", NULL, KVF_WEIGHT_MATRIX, DIM_EXPERTS, DIM_HIDDEN,
     IN(kvf_layer_weights, gate), ALWAYS},
    {"ffn.gate.bias", NULL, KVF_WEIGHT_VALUES, DIM_EXPERTS, DIM_NONE,
     IN(kvf_layer_weights, gate_bias), SCORE_ROUTED},
    {"ffn.gate.tid2eid", NULL, KVF_WEIGHT_MAP, DIM_VOCAB, DIM_EXPERTS_USED,
     IN(kvf_layer_weights, token_map), HASH_ROUTED},
};

static const struct spec expert_specs[] = {
    {"w1.weight", NULL, KVF_WEIGHT_MATRIX, DIM_FFN, DIM_HIDDEN,
     IN(kvf_expert_weights, w1), ALWAYS},
    {"w3.weight", NULL, KVF_WEIGHT_MATRIX, DIM_FFN, DIM_HIDDEN,
     IN(kvf_expert_weights, w3), ALWAYS},
    {"w2.weight", NULL, KVF_WEIGHT_MATRIX, DIM_HIDDEN, DIM_FFN,
     IN(kvf_expert_weights, w2), ALWAYS},
};

/* Several shared experts are stored as one, so many times as wide. */
static const struct spec shared_specs[] = {
    {"w1.weight", NULL, KVF_WEIGHT_MATRIX, DIM_SHARED_FFN, DIM_HIDDEN,
     IN(kvf_expert_weights, w1), ALWAYS},
    {"w3.weight", NULL, KVF_WEIGHT_MATRIX, DIM_SHARED_FFN, DIM_HIDDEN,
     IN(kvf_expert_weights, w3), ALWAYS},
    {"w2.weight", NULL, KVF_WEIGHT_MATRIX, DIM_HIDDEN, DIM_SHARED_FFN,
     IN(kvf_expert_weights, w2), ALWAYS},
};
/* clang-format on */

#define COUNT(array) (sizeof(array) / sizeof *(array))

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

static bool is_wanted(const kvf_model_config *config, uint32_t layer, enum when when)
{
    const kvf_layer_kind kind = config->geometry.layers[layer].kind;
    switch (when) {
    case ALWAYS: return true;
    case COMPRESSING: return kind != KVF_LAYER_WINDOW;
    case CSA_ONLY: return kind == KVF_LAYER_CSA;
    case HASH_ROUTED: return config->hash_routed[layer];
    case SCORE_ROUTED: return !config->hash_routed[layer];
    }
    return false;
}

/* What all tensors of one walk share. */
struct walk {
    const kvf_model_config *config;
    kvf_weight_fn *visit;
    void *user;
};

/* Visits one tensor. prefix is without "model."; layer is NULL for the model's own tensors. */
static kvf_status visit_spec(const struct walk *walk, const struct spec *spec,
                             const kvf_layer *layer, const char *prefix, void *base)
{
    kvf_weight weight = {.kind = spec->kind, .n_dims = spec->cols == DIM_NONE ? 1 : 2};
    const char *other = spec->other ? spec->other : spec->name;
    snprintf(weight.names[0], sizeof weight.names[0], "%s%s", prefix, spec->name);
    snprintf(weight.names[1], sizeof weight.names[1], "%s%s%s", layer ? "model." : "", prefix,
             other);
    weight.shape[0] = dim_size(walk->config, layer, spec->rows);
    weight.shape[1] = dim_size(walk->config, layer, spec->cols);
    weight.target = base ? (char *)base + spec->offset : NULL;
    return walk->visit(walk->user, &weight);
}

static kvf_status visit_experts(const struct walk *walk, uint32_t layer, kvf_layer_weights *weights)
{
    const kvf_model_config *config = walk->config;
    const kvf_layer *kind = &config->geometry.layers[layer];
    char prefix[64];
    kvf_status status = KVF_OK;
    for (uint32_t expert = 0; expert < config->n_experts; expert++) {
        snprintf(prefix, sizeof prefix, "layers.%u.ffn.experts.%u.", layer, expert);
        for (size_t i = 0; i < COUNT(expert_specs) && status == KVF_OK; i++)
            status = visit_spec(walk, &expert_specs[i], kind, prefix,
                                weights ? &weights->routed[expert] : NULL);
    }
    snprintf(prefix, sizeof prefix, "layers.%u.ffn.shared_experts.", layer);
    for (size_t i = 0; i < COUNT(shared_specs) && config->n_shared_experts > 0; i++)
        if (status == KVF_OK)
            status =
                visit_spec(walk, &shared_specs[i], kind, prefix, weights ? &weights->shared : NULL);
    return status;
}

kvf_status kvf_weight_walk(const kvf_model_config *config, kvf_weights *weights,
                           kvf_weight_fn *visit, void *user)
{
    const struct walk walk = {config, visit, user};
    kvf_status status = KVF_OK;
    for (size_t i = 0; i < COUNT(model_specs) && status == KVF_OK; i++)
        status = visit_spec(&walk, &model_specs[i], NULL, "", weights);
    if (status == KVF_OK && !config->tied_embeddings)
        status = visit_spec(&walk, &head_spec, NULL, "", weights);
    for (uint32_t layer = 0; layer < config->geometry.n_layers && status == KVF_OK; layer++) {
        kvf_layer_weights *target = weights ? &weights->layers[layer] : NULL;
        char prefix[32];
        snprintf(prefix, sizeof prefix, "layers.%u.", layer);
        for (size_t i = 0; i < COUNT(layer_specs) && status == KVF_OK; i++)
            if (is_wanted(config, layer, layer_specs[i].when))
                status = visit_spec(&walk, &layer_specs[i], &config->geometry.layers[layer], prefix,
                                    target);
        if (status == KVF_OK)
            status = visit_experts(&walk, layer, target);
    }
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

bool kvf_weight_is_ignored(const kvf_model_config *config, const char *name)
{
    starts_with(&name, "model.");
    if (starts_with(&name, "mtp."))
        return true;
    if (!starts_with(&name, "layers.") || *name < '0' || *name > '9')
        return false;
    char *end = NULL;
    unsigned long layer = strtoul(name, &end, 10); /* too many digits: ULONG_MAX */
    return *end == '.' && layer >= config->geometry.n_layers;
}
