#include "model/activations.h"

#include <stdio.h>
#include <string.h>

#include "model/model.h"
#include "model/rope.h"

void kvf_activation_shapes(const kvf_model_config *config, uint32_t chunk_tokens,
                           kvf_activation activations[KVF_ACT_COUNT])
{
    const kvf_geometry *geometry = &config->geometry;
    const uint64_t chunk = chunk_tokens;
    const uint64_t streams = config->n_streams;
    const uint64_t shared_ffn = (uint64_t)config->expert_ffn * config->n_shared_experts;
    const uint64_t ffn = shared_ffn > config->expert_ffn ? shared_ffn : config->expert_ffn;
    const uint64_t used = config->n_experts_used;
    const kvf_activation all[KVF_ACT_COUNT] = {
        [KVF_ACT_STREAMS] = {"streams", {chunk, streams, config->hidden}},
        [KVF_ACT_INPUT] = {"input", {chunk, config->hidden, 1}},
        [KVF_ACT_OUTPUT] = {"output", {chunk, config->hidden, 1}},
        [KVF_ACT_MIX] = {"mix", {chunk, streams * (2 + streams), 1}},
        [KVF_ACT_POST] = {"mix_post", {chunk, streams, 1}},
        [KVF_ACT_COMB] = {"mix_comb", {chunk, streams, streams}},
        [KVF_ACT_QUERY_RANK] = {"query_rank", {chunk, config->q_rank, 1}},
        [KVF_ACT_QUERY] = {"query", {chunk, geometry->n_heads, KVF_ROW_WIDTH}},
        [KVF_ACT_ATTENDED] = {"attended", {chunk, geometry->n_heads, KVF_ROW_WIDTH}},
        [KVF_ACT_WINDOW] = {"window", {chunk, KVF_ROW_WIDTH, 1}},
        [KVF_ACT_GROUPS] = {"out_groups", {chunk, config->n_out_groups, config->out_rank}},
        [KVF_ACT_ROW_KV] = {"row_kv", {chunk, 2, KVF_ROW_WIDTH}},
        [KVF_ACT_ROW_GATE] = {"row_gate", {chunk, 2, KVF_ROW_WIDTH}},
        [KVF_ACT_INDEX_KV] = {"index_kv", {chunk, 2, KVF_INDEX_WIDTH}},
        [KVF_ACT_INDEX_GATE] = {"index_gate", {chunk, 2, KVF_INDEX_WIDTH}},
        [KVF_ACT_INDEX_QUERY] = {"index_query", {chunk, geometry->n_index_heads, KVF_INDEX_WIDTH}},
        [KVF_ACT_INDEX_WEIGHTS] = {"index_weights", {chunk, geometry->n_index_heads, 1}},
        [KVF_ACT_ROUTER] = {"router", {chunk, config->n_experts, 1}},
        [KVF_ACT_EXPERT_IDS] = {"expert_ids", {chunk, used, 1}},
        [KVF_ACT_EXPERT_WEIGHTS] = {"expert_weights", {chunk, used, 1}},
        [KVF_ACT_EXPERT_WORK] = {"expert_work",
                                 {kvf_experts_workspace_floats(chunk, config->hidden, ffn), 1, 1}},
        [KVF_ACT_LOGIT_INPUT] = {"logit_input", {chunk, config->hidden, 1}},
        [KVF_ACT_ROPE] = {"rope", {8, chunk + 1, KVF_ROPE_PAIRS}},
    };
    memcpy(activations, all, sizeof all);
}

uint32_t kvf_model_activations(const kvf_model_config *config, uint32_t chunk_tokens,
                               kvf_plan_buffer *buffers, uint32_t capacity)
{
    kvf_activation activations[KVF_ACT_COUNT];
    kvf_activation_shapes(config, chunk_tokens, activations);
    for (uint32_t i = 0; buffers && i < KVF_ACT_COUNT && i < capacity; i++) {
        kvf_plan_buffer *buffer = &buffers[i];
        memset(buffer, 0, sizeof *buffer);
        snprintf(buffer->name, sizeof buffer->name, "model.%s", activations[i].name);
        snprintf(buffer->dtype, sizeof buffer->dtype, "%s",
                 i == KVF_ACT_EXPERT_IDS ? "i32" : "f32");
        buffer->klass = KVF_MEMORY_ACTIVATION;
        buffer->n_dims = 3;
        memcpy(buffer->shape, activations[i].shape, sizeof activations[i].shape);
        buffer->bytes = kvf_activation_bytes(&activations[i]);
    }
    return KVF_ACT_COUNT;
}
