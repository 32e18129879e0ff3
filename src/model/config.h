/*
 * config.json of a DeepSeek-V4 checkpoint, in both key styles: the transformers
 * library's (layer_types, mlp_layer_types, compress_rates, rope_parameters) and the
 * original one (compress_ratios, n_hash_layers, rope_scaling); and a GGUF's metadata.
 */
#ifndef KVF_MODEL_CONFIG_H
#define KVF_MODEL_CONFIG_H

#include "file/tensor_set.h"
#include "kvfold.h"

typedef struct kvf_rope_config {
    double theta;
    bool yarn;
    double factor; /* the rest is YaRN's */
    double beta_fast;
    double beta_slow;
    double original_max_tokens;
} kvf_rope_config;

typedef struct kvf_model_config {
    kvf_geometry geometry;
    uint32_t hidden;
    uint32_t q_rank;       /* q_lora_rank */
    uint32_t n_out_groups; /* o_groups */
    uint32_t out_rank;     /* o_lora_rank, a group */
    uint32_t n_streams;    /* hc_mult */
    uint32_t sinkhorn_rounds;
    float hc_eps;
    float norm_eps;
    uint32_t n_experts;
    uint32_t n_experts_used;
    uint32_t n_shared_experts;
    uint32_t expert_ffn; /* moe_intermediate_size */
    float swiglu_limit;  /* 0: no limit */
    float routed_scaling;
    bool norm_top_k;
    bool tied_embeddings; /* the output head is the embedding */
    bool hash_routed[KVF_MAX_LAYERS];
    kvf_rope_config rope_window;   /* window-only layers */
    kvf_rope_config rope_compress; /* all others */
    int32_t bos_token;             /* -1: none */
    int32_t eos_tokens[8];
    uint32_t n_eos_tokens;
    /* Keys of config.json that nothing is known of, and that were passed over. */
    uint32_t n_unknown_keys;
    char unknown_keys[160]; /* "a, b": as many as it can hold */
} kvf_model_config;

/*
 * The config of the checkpoint at `path`: config.json in a folder or beside a safetensors file
 * (and eos ids of generation_config.json where it is there), or a GGUF's metadata. Missing, absurd
 * or contradictory values are KVF_FILE_FORMAT with the file, the key, the value and what would be
 * right, and both keys where two say different things. A value of which another is implemented, a
 * quantisation that is not read, and a key that nothing is known of where it may change the
 * model are KVF_UNSUPPORTED and named. Nothing to free.
 */
kvf_status kvf_config_load(const char *path, kvf_model_config *config, kvf_error *error);

/*
 * The same for files that are open. *json is config.json as it was read, mapped until the
 * caller unmaps it (file/file.h); of a GGUF it is empty.
 */
kvf_status kvf_config_of(const kvf_tensor_set *files, kvf_file *json, kvf_model_config *config,
                         kvf_error *error);

/* The same for text in memory; `where` names it in messages. */
kvf_status kvf_config_parse(const char *json, size_t json_bytes, const char *where,
                            kvf_model_config *config, kvf_error *error);

/*
 * The same from the metadata of a GGUF: ds4's keys and llama.cpp's. How many layers there
 * are besides those that predict further tokens, the tensors decide. KVF_UNSUPPORTED for
 * another architecture, and for one of two files that are no split file.
 */
kvf_status kvf_config_from_gguf(const kvf_tensor_set *set, kvf_model_config *config,
                                kvf_error *error);

#endif
