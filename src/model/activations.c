#include "model/activations.h"

#include <stdio.h>
#include <string.h>

#include "backend/backend.h"
#include "model/model.h"
#include "model/rope.h"

/* The shared buffer's parts begin at these, so that rows of vectors are aligned. */
#define PART_BYTES 64

static uint64_t expert_work_floats(const kvf_model_config *config, uint32_t chunk_tokens,
                                   const kvf_backend *backend)
{
    const kvf_experts_args args = {.n = chunk_tokens,
                                   .hidden = config->hidden,
                                   .ffn = config->expert_ffn,
                                   .shared_ffn = config->expert_ffn * config->n_shared_experts,
                                   .n_experts = config->n_experts,
                                   .top_k = config->n_experts_used};
    return (backend->experts_workspace_bytes(NULL, &args) + 3) / 4;
}

static uint64_t bytes_of(const kvf_activation *activation)
{
    return 4 * activation->shape[0] * activation->shape[1] * activation->shape[2];
}

/* Puts first .. end behind each other in the shared buffer; where they end. */
static uint64_t place(kvf_activation_layout *layout, int first, int end)
{
    uint64_t offset = 0;
    for (int i = first; i < end; i++) {
        layout->offsets[i] = offset;
        offset += (bytes_of(&layout->all[i]) + PART_BYTES - 1) / PART_BYTES * PART_BYTES;
    }
    return offset;
}

void kvf_activation_layout_of(const kvf_model_config *config, uint32_t chunk_tokens,
                              const kvf_backend *backend, kvf_activation_layout *layout)
{
    const kvf_geometry *geometry = &config->geometry;
    const uint64_t chunk = chunk_tokens;
    const uint64_t tile = chunk < KVF_ATTENTION_TOKENS ? chunk : KVF_ATTENTION_TOKENS;
    const uint64_t head = chunk < KVF_HEAD_TOKENS ? chunk : KVF_HEAD_TOKENS;
    const uint64_t streams = config->n_streams;
    const uint64_t used = config->n_experts_used;
    const kvf_activation all[KVF_ACT_COUNT] = {
        [KVF_ACT_STREAMS] = {"streams", {chunk, streams, config->hidden}},
        [KVF_ACT_INPUT] = {"input", {chunk, config->hidden, 1}},
        [KVF_ACT_OUTPUT] = {"output", {chunk, config->hidden, 1}},
        [KVF_ACT_MIX] = {"mix", {chunk, streams * (2 + streams), 1}},
        [KVF_ACT_POST] = {"mix_post", {chunk, streams, 1}},
        [KVF_ACT_COMB] = {"mix_comb", {chunk, streams, streams}},
        [KVF_ACT_ROPE] = {"rope", {8, chunk + 1, KVF_ROPE_PAIRS}},
        [KVF_ACT_WINDOW] = {"window", {chunk, KVF_ROW_WIDTH, 1}},
        [KVF_ACT_ROW_KV] = {"row_kv", {chunk, 2, KVF_ROW_WIDTH}},
        [KVF_ACT_ROW_GATE] = {"row_gate", {chunk, 2, KVF_ROW_WIDTH}},
        [KVF_ACT_INDEX_KV] = {"index_kv", {chunk, 2, KVF_INDEX_WIDTH}},
        [KVF_ACT_INDEX_GATE] = {"index_gate", {chunk, 2, KVF_INDEX_WIDTH}},
        [KVF_ACT_QUERY_RANK] = {"query_rank", {tile, config->q_rank, 1}},
        [KVF_ACT_QUERY] = {"query", {tile, geometry->n_heads, KVF_ROW_WIDTH}},
        [KVF_ACT_ATTENDED] = {"attended", {tile, geometry->n_heads, KVF_ROW_WIDTH}},
        [KVF_ACT_GROUPS] = {"out_groups", {tile, config->n_out_groups, config->out_rank}},
        [KVF_ACT_INDEX_QUERY] = {"index_query", {tile, geometry->n_index_heads, KVF_INDEX_WIDTH}},
        [KVF_ACT_INDEX_WEIGHTS] = {"index_weights", {tile, geometry->n_index_heads, 1}},
        [KVF_ACT_ROUTER] = {"router", {chunk, config->n_experts, 1}},
        [KVF_ACT_EXPERT_IDS] = {"expert_ids", {chunk, used, 1}},
        [KVF_ACT_EXPERT_WEIGHTS] = {"expert_weights", {chunk, used, 1}},
        [KVF_ACT_EXPERT_WORK] = {"expert_work",
                                 {expert_work_floats(config, chunk_tokens, backend), 1, 1}},
        /* A host that has the logits needs no excerpt of them. */
        [KVF_ACT_SAMPLED] = {"sampled",
                             {backend->addresses_host_memory ? 0 : head, sizeof(kvf_sampled) / 4,
                              1}},
        [KVF_ACT_LOGITS] = {"logits", {head, geometry->vocab, 1}},
    };
    memcpy(layout->all, all, sizeof all);
    for (int i = 0; i < KVF_ACT_KEPT; i++) {
        layout->bytes[i] = bytes_of(&all[i]);
        layout->offsets[i] = 0;
    }
    const uint64_t attention = place(layout, KVF_ACT_KEPT, KVF_ACT_ATTENTION_END);
    const uint64_t experts = place(layout, KVF_ACT_ATTENTION_END, KVF_ACT_EXPERTS_END);
    const uint64_t logits = place(layout, KVF_ACT_EXPERTS_END, KVF_ACT_COUNT);
    const uint64_t sublayer = attention > experts ? attention : experts;
    layout->bytes[KVF_ACT_KEPT] = sublayer > logits ? sublayer : logits;
}

uint32_t kvf_model_activations(const kvf_model_config *config, uint32_t chunk_tokens,
                               kvf_plan_buffer *buffers, uint32_t capacity)
{
    kvf_activation_layout layout;
    kvf_activation_layout_of(config, chunk_tokens, kvf_backend_get(0), &layout);
    for (uint32_t i = 0; buffers && i <= KVF_ACT_KEPT && i < capacity; i++) {
        kvf_plan_buffer *buffer = &buffers[i];
        const bool is_shared = i == KVF_ACT_KEPT;
        memset(buffer, 0, sizeof *buffer);
        snprintf(buffer->name, sizeof buffer->name, "model.%s",
                 is_shared ? "sublayer" : layout.all[i].name);
        snprintf(buffer->dtype, sizeof buffer->dtype, "f32");
        buffer->klass = KVF_MEMORY_ACTIVATION;
        buffer->n_dims = is_shared ? 1 : 3;
        buffer->shape[0] = layout.bytes[i] / 4;
        buffer->shape[1] = buffer->shape[2] = 1;
        if (!is_shared)
            memcpy(buffer->shape, layout.all[i].shape, sizeof layout.all[i].shape);
        buffer->bytes = layout.bytes[i];
    }
    return KVF_ACT_KEPT + 1;
}
