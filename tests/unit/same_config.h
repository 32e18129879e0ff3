/* Whether two configs are of the same model. */
#ifndef KVF_TESTS_SAME_CONFIG_H
#define KVF_TESTS_SAME_CONFIG_H

#include "checkpoint_files.h"

#include "model/config.h"

static inline void assert_same_rope(const kvf_rope_config *a, const kvf_rope_config *b)
{
    assert_true(a->theta == b->theta);
    assert_int_equal(a->yarn, b->yarn);
    assert_true(a->factor == b->factor);
    assert_true(a->beta_fast == b->beta_fast);
    assert_true(a->beta_slow == b->beta_slow);
    assert_true(a->original_max_tokens == b->original_max_tokens);
}

static inline void assert_same_geometry(const kvf_geometry *a, const kvf_geometry *b)
{
    assert_int_equal(a->n_layers, b->n_layers);
    assert_int_equal(a->vocab, b->vocab);
    assert_int_equal(a->n_heads, b->n_heads);
    assert_int_equal(a->n_index_heads, b->n_index_heads);
    assert_int_equal(a->top_k, b->top_k);
    assert_int_equal(a->window_tokens, b->window_tokens);
    assert_int_equal(a->max_tokens, b->max_tokens);
    for (uint32_t i = 0; i < a->n_layers; i++) {
        assert_int_equal(a->layers[i].kind, b->layers[i].kind);
        assert_int_equal(a->layers[i].ratio, b->layers[i].ratio);
    }
}

/* All but the token ids. */
static inline void assert_same_model(const kvf_model_config *a, const kvf_model_config *b)
{
    assert_same_geometry(&a->geometry, &b->geometry);
    assert_int_equal(a->hidden, b->hidden);
    assert_int_equal(a->q_rank, b->q_rank);
    assert_int_equal(a->n_out_groups, b->n_out_groups);
    assert_int_equal(a->out_rank, b->out_rank);
    assert_int_equal(a->n_streams, b->n_streams);
    assert_int_equal(a->sinkhorn_rounds, b->sinkhorn_rounds);
    assert_true(a->hc_eps == b->hc_eps);
    assert_true(a->norm_eps == b->norm_eps);
    assert_int_equal(a->n_experts, b->n_experts);
    assert_int_equal(a->n_experts_used, b->n_experts_used);
    assert_int_equal(a->n_shared_experts, b->n_shared_experts);
    assert_int_equal(a->expert_ffn, b->expert_ffn);
    assert_true(a->swiglu_limit == b->swiglu_limit);
    assert_true(a->routed_scaling == b->routed_scaling);
    assert_int_equal(a->norm_top_k, b->norm_top_k);
    assert_int_equal(a->tied_embeddings, b->tied_embeddings);
    assert_memory_equal(a->hash_routed, b->hash_routed, sizeof a->hash_routed);
    assert_same_rope(&a->rope_window, &b->rope_window);
    assert_same_rope(&a->rope_compress, &b->rope_compress);
}

#endif
