/* What a config's weights take on the device, before any file is opened. */
#include "model/model.h"

/* 4-byte values of one compressor: wkv and wgate, position bias, norm. */
static uint64_t compressor_values(kvf_layer layer, uint64_t width, uint64_t hidden)
{
    const uint64_t out = (layer.kind == KVF_LAYER_CSA ? 2 : 1) * width; /* Ca and Cb */
    return 2 * out * hidden + layer.ratio * out + width;
}

static uint64_t attention_values(const kvf_model_config *config, kvf_layer layer)
{
    const kvf_geometry *geometry = &config->geometry;
    const uint64_t hidden = config->hidden;
    const uint64_t q_rank = config->q_rank;
    const uint64_t heads_width = (uint64_t)geometry->n_heads * KVF_ROW_WIDTH;
    uint64_t values = q_rank * hidden + q_rank + heads_width * q_rank;    /* wq_a, q_norm, wq_b */
    values += KVF_ROW_WIDTH * hidden + KVF_ROW_WIDTH + geometry->n_heads; /* wkv, kv_norm, sinks */
    values += config->out_rank * heads_width;                             /* wo_a */
    values += hidden * config->n_out_groups * config->out_rank;           /* wo_b */
    if (layer.kind != KVF_LAYER_WINDOW)
        values += compressor_values(layer, KVF_ROW_WIDTH, hidden);
    if (layer.kind == KVF_LAYER_CSA)
        values += compressor_values(layer, KVF_INDEX_WIDTH, hidden) +
                  geometry->n_index_heads * (KVF_INDEX_WIDTH * q_rank + hidden);
    return values;
}

static uint64_t expert_values(const kvf_model_config *config, bool hash_routed)
{
    const uint64_t routing =
        hash_routed ? (uint64_t)config->geometry.vocab * config->n_experts_used : config->n_experts;
    const uint64_t ffns = (uint64_t)config->n_experts + config->n_shared_experts;
    return (uint64_t)config->n_experts * config->hidden + routing +
           ffns * 3 * config->expert_ffn * config->hidden;
}

uint64_t kvf_model_weight_bytes(const kvf_model_config *config)
{
    const uint64_t hidden = config->hidden;
    const uint64_t streams = config->n_streams;
    const uint64_t mixed = streams * (2 + streams);
    const uint64_t layer_mix =
        2 * (mixed * streams * hidden + mixed + 3);                      /* attention's, experts' */
    const uint64_t tables = config->tied_embeddings ? 1 : 2;             /* embed, head */
    uint64_t values = tables * config->geometry.vocab * hidden + hidden; /* and norm */
    values += streams * streams * hidden + streams + 1;                  /* hc_head */
    for (uint32_t i = 0; i < config->geometry.n_layers; i++)
        values += 2 * hidden + layer_mix + attention_values(config, config->geometry.layers[i]) +
                  expert_values(config, config->hash_routed[i]);
    return 4 * values;
}
