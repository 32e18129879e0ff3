/* The two containers: shards of safetensors with an index and a config, and GGUF, whole or split.
 */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tools/checkpoint.h"

enum { PATH_BYTES = 4096, GGUF_ALIGNMENT = 32, N_TOKENS_OF_V4 = 129280, N_MERGES_OF_V4 = 127741 };

/* ---- Files -------------------------------------------------------------------------------- */

static FILE *open_file(const char *path)
{
    FILE *file = fopen(path, "wb");
    if (!file)
        give_up("%s: cannot be written", path);
    return file;
}

static void close_file(FILE *file, const char *path)
{
    const bool failed = ferror(file) != 0;
    if (fclose(file) != 0 || failed)
        give_up("%s: could not be written whole", path);
}

/* A header grows in memory: its length comes before it. */
typedef struct text {
    char *data;
    size_t bytes;
    FILE *stream;
} text;

static void text_open(text *t)
{
    t->stream = open_memstream(&t->data, &t->bytes);
    if (!t->stream)
        give_up("out of memory for a header");
}

static void text_close(text *t)
{
    if (fclose(t->stream) != 0)
        give_up("out of memory for a header");
}

static void pad(FILE *file, uint64_t bytes)
{
    static const uint8_t zeros[GGUF_ALIGNMENT];
    fwrite(zeros, 1, (size_t)bytes, file);
}

static uint64_t padding(uint64_t bytes, uint64_t alignment)
{
    return (alignment - bytes % alignment) % alignment;
}

/* Assigns files and offsets; returns the number of files. */
static uint32_t share_out(const checkpoint_job *job, tensor_list *list, uint64_t alignment)
{
    uint32_t file = 0;
    uint64_t offset = 0;
    for (size_t i = 0; i < list->n; i++) {
        tensor *t = &list->tensors[i];
        if (job->part_bytes && offset && offset + t->bytes > job->part_bytes) {
            file++;
            offset = 0;
        }
        t->file = file;
        t->offset = offset;
        offset += t->bytes + padding(t->bytes, alignment);
    }
    return file + 1;
}

/* The data of one file after its header; a sparse file is a header and a hole. */
static void write_data(const checkpoint_job *job, const tensor_list *list, uint32_t which,
                       uint64_t alignment, FILE *file, const char *path)
{
    const long header_bytes = ftell(file);
    uint64_t end = 0;
    for (size_t i = 0; i < list->n; i++) {
        const tensor *t = &list->tensors[i];
        if (t->file != which)
            continue;
        end = t->offset + t->bytes;
        if (job->sparse)
            continue;
        fill_tensor(t, job->seed, file);
        pad(file, padding(t->bytes, alignment));
    }
    if (job->sparse &&
        (fflush(file) != 0 || ftruncate(fileno(file), header_bytes + (off_t)end) != 0))
        give_up("%s: cannot be made %llu bytes long", path, (unsigned long long)end);
}

/* ---- Safetensors ----------------------------------------------------------------------------- */

static void shard_name(uint32_t which, uint32_t n, char *name, size_t name_bytes)
{
    snprintf(name, name_bytes, "model-%05u-of-%05u.safetensors", which + 1, n);
}

static void write_shard(const checkpoint_job *job, const tensor_list *list, uint32_t which,
                        uint32_t n)
{
    char name[64];
    char path[PATH_BYTES];
    text header;
    const char *comma = "";
    shard_name(which, n, name, sizeof name);
    snprintf(path, sizeof path, "%s/%s", job->out, name);
    text_open(&header);
    fputc('{', header.stream);
    for (size_t i = 0; i < list->n; i++) {
        const tensor *t = &list->tensors[i];
        if (t->file != which)
            continue;
        fprintf(header.stream, "%s\"%s\":{\"dtype\":\"%s\",\"shape\":[", comma, t->name,
                stored_types[t->type].dtype);
        for (uint32_t d = 0; d < t->n_dims; d++)
            fprintf(header.stream, "%s%llu", d ? "," : "", (unsigned long long)t->shape[d]);
        fprintf(header.stream, "],\"data_offsets\":[%llu,%llu]}", (unsigned long long)t->offset,
                (unsigned long long)(t->offset + t->bytes));
        comma = ",";
    }
    fputc('}', header.stream);
    text_close(&header);
    FILE *file = open_file(path);
    const uint64_t header_bytes = header.bytes + padding(header.bytes, 8);
    fwrite(&header_bytes, sizeof header_bytes, 1, file);
    fwrite(header.data, 1, header.bytes, file);
    for (uint64_t i = header.bytes; i < header_bytes; i++)
        fputc(' ', file);
    free(header.data);
    write_data(job, list, which, 1, file, path);
    close_file(file, path);
}

static void write_index(const checkpoint_job *job, const tensor_list *list, uint32_t n)
{
    char name[64];
    char path[PATH_BYTES];
    snprintf(path, sizeof path, "%s/model.safetensors.index.json", job->out);
    FILE *file = open_file(path);
    fprintf(file, "{\n  \"metadata\": {\"total_size\": %llu},\n  \"weight_map\": {\n",
            (unsigned long long)list->bytes);
    for (size_t i = 0; i < list->n; i++) {
        shard_name(list->tensors[i].file, n, name, sizeof name);
        fprintf(file, "    \"%s\": \"%s\"%s\n", list->tensors[i].name, name,
                i + 1 < list->n ? "," : "");
    }
    fprintf(file, "  }\n}\n");
    close_file(file, path);
}

static void write_config(const checkpoint_job *job)
{
    const model *m = &job->model;
    char path[PATH_BYTES];
    snprintf(path, sizeof path, "%s/config.json", job->out);
    FILE *file = open_file(path);
    fprintf(
        file,
        "{\n  \"architectures\": [\"DeepseekV4ForCausalLM\"], \"model_type\": \"deepseek_v4\",\n"
        "  \"attention_bias\": false, \"attention_dropout\": 0.0, \"bos_token_id\": 0,\n"
        "  \"eos_token_id\": 1, \"expert_dtype\": \"fp4\", \"hc_eps\": 1e-06, \"hc_mult\": 4,\n"
        "  \"hc_sinkhorn_iters\": 20, \"head_dim\": 512, \"hidden_act\": \"silu\",\n"
        "  \"index_head_dim\": 128, \"index_n_heads\": %u, \"index_topk\": %u,\n"
        "  \"initializer_range\": 0.02, \"max_position_embeddings\": 1048576,\n"
        "  \"n_shared_experts\": 1, \"norm_topk_prob\": true, \"num_experts_per_tok\": %u,\n",
        m->n_index_heads, m->top_k, m->n_used);
    fprintf(
        file,
        "  \"num_hash_layers\": %u, \"num_key_value_heads\": 1, \"num_nextn_predict_layers\": %u,\n"
        "  \"num_hidden_layers\": %u, \"num_attention_heads\": %u, \"hidden_size\": %u,\n"
        "  \"moe_intermediate_size\": %u, \"n_routed_experts\": %u, \"q_lora_rank\": %u,\n"
        "  \"o_lora_rank\": %u, \"o_groups\": %u, \"qk_rope_head_dim\": 64,\n"
        "  \"rms_norm_eps\": 1e-06, \"rope_theta\": 10000, \"compress_rope_theta\": 160000,\n"
        "  \"routed_scaling_factor\": %.1f, \"scoring_func\": \"sqrtsoftplus\",\n",
        m->n_hash_layers, m->has_mtp, m->n_layers, m->n_heads, m->hidden, m->expert_ffn,
        m->n_experts, m->q_rank, m->out_rank, m->n_out_groups, m->routed_scaling);
    fprintf(file,
            "  \"sliding_window\": 128, \"swiglu_limit\": 10.0, \"tie_word_embeddings\": false,\n"
            "  \"topk_method\": \"noaux_tc\", \"torch_dtype\": \"bfloat16\",\n"
            "  \"transformers_version\": \"4.57.1\", \"use_cache\": true, \"vocab_size\": %u,\n"
            "  \"rope_scaling\": {\"type\": \"yarn\", \"factor\": 16, \"beta_fast\": 32, "
            "\"beta_slow\": 1,\n    \"original_max_position_embeddings\": 65536},\n"
            "  \"quantization_config\": {\"quant_method\": \"fp8\", \"fmt\": \"e4m3\",\n"
            "    \"activation_scheme\": \"dynamic\", \"scale_fmt\": \"ue8m0\", "
            "\"weight_block_size\": [128, 128]},\n  \"compress_ratios\": [",
            m->vocab);
    for (uint32_t i = 0; i < m->n_layers; i++)
        fprintf(file, "%u, ", m->ratios[i]);
    fprintf(file, "0]\n}\n"); /* the last is of the layer that is not run */
    close_file(file, path);
}

uint32_t write_safetensors(const checkpoint_job *job, tensor_list *list)
{
    const uint32_t n = share_out(job, list, 1);
    for (uint32_t i = 0; i < n; i++)
        write_shard(job, list, i, n);
    write_index(job, list, n);
    write_config(job);
    return n;
}

/* ---- GGUF ------------------------------------------------------------------------------------ */

enum {
    VALUE_U16 = 2,
    VALUE_U32 = 4,
    VALUE_I32 = 5,
    VALUE_F32 = 6,
    VALUE_BOOL = 7,
    VALUE_TEXT = 8,
    VALUE_ARRAY = 9
};

/* Entries are counted as they are written. */
typedef struct entries {
    FILE *stream;
    uint64_t n;
} entries;

static void put_u32(FILE *stream, uint32_t value)
{
    fwrite(&value, sizeof value, 1, stream);
}

static void put_u64(FILE *stream, uint64_t value)
{
    fwrite(&value, sizeof value, 1, stream);
}

static void put_text(FILE *stream, const char *value)
{
    put_u64(stream, strlen(value));
    fputs(value, stream);
}

static void put_key(entries *e, const char *key, uint32_t type)
{
    put_text(e->stream, key);
    put_u32(e->stream, type);
    e->n++;
}

/* Keys of the model are under "deepseek4.", others are given whole. */
static void put_model_key(entries *e, const char *key, uint32_t type)
{
    char whole[NAME_BYTES];
    snprintf(whole, sizeof whole, "deepseek4.%s", key);
    put_key(e, whole, type);
}

static void put_number(entries *e, const char *key, uint32_t value)
{
    put_model_key(e, key, VALUE_U32);
    put_u32(e->stream, value);
}

static void put_real(entries *e, const char *key, float value)
{
    put_model_key(e, key, VALUE_F32);
    fwrite(&value, sizeof value, 1, e->stream);
}

static void put_named_text(entries *e, const char *key, const char *value)
{
    put_key(e, key, VALUE_TEXT);
    put_text(e->stream, value);
}

static void put_array(entries *e, uint32_t type, uint64_t n)
{
    put_u32(e->stream, type);
    put_u64(e->stream, n);
}

static void put_numbers_of_model(const checkpoint_job *job, entries *e)
{
    const model *m = &job->model;
    const bool ds4 = job->form != FORM_MXFP4;
    put_number(e, "block_count", m->n_layers);
    put_number(e, "context_length", 1048576);
    put_number(e, "embedding_length", m->hidden);
    put_number(e, "vocab_size", m->vocab);
    put_number(e, "feed_forward_length", m->expert_ffn);
    put_number(e, "attention.head_count", m->n_heads);
    put_number(e, "attention.head_count_kv", 1);
    put_number(e, "attention.key_length", 512);
    put_number(e, "attention.value_length", 512);
    put_number(e, "attention.q_lora_rank", m->q_rank);
    put_number(e, "attention.output_lora_rank", m->out_rank);
    put_number(e, "attention.output_group_count", m->n_out_groups);
    put_number(e, "attention.sliding_window", 128);
    put_real(e, "attention.layer_norm_rms_epsilon", 1e-6f);
    put_real(e, "attention.compress_rope_freq_base", 160000);
    put_number(e, "attention.indexer.head_count", m->n_index_heads);
    put_number(e, "attention.indexer.key_length", 128);
    put_number(e, "attention.indexer.top_k", m->top_k);
    put_number(e, "rope.dimension_count", 64);
    put_real(e, "rope.freq_base", 10000);
    put_real(e, "rope.scaling.factor", 16);
    put_real(e, "rope.scaling.yarn_beta_fast", 32);
    put_real(e, "rope.scaling.yarn_beta_slow", 1);
    put_number(e, "rope.scaling.original_context_length", 65536);
    put_number(e, "expert_count", m->n_experts);
    put_number(e, "expert_used_count", m->n_used);
    put_number(e, "expert_shared_count", 1);
    put_number(e, "expert_feed_forward_length", m->expert_ffn);
    put_real(e, "expert_weights_scale", (float)m->routed_scaling);
    put_number(e, "expert_gating_func", 4);
    put_number(e, "hash_layer_count", m->n_hash_layers);
    put_number(e, "leading_dense_block_count", 0);
    put_number(e, "hyper_connection.count", 4);
    put_number(e, "hyper_connection.sinkhorn_iterations", 20);
    put_real(e, "hyper_connection.epsilon", 1e-6f);
    put_number(e, "nextn_predict_layers", ds4); /* ds4's say 1 and have none */
}

static void put_layers_of_model(const checkpoint_job *job, entries *e)
{
    const model *m = &job->model;
    const bool ds4 = job->form != FORM_MXFP4;
    const float limit = 10;
    put_model_key(e, "rope.scaling.type", VALUE_TEXT);
    put_text(e->stream, "yarn");
    put_model_key(e, "expert_weights_norm", VALUE_BOOL);
    fputc(1, e->stream);
    put_model_key(e, "attention.compress_ratios", VALUE_ARRAY);
    put_array(e, VALUE_I32, m->n_layers + ds4);
    for (uint32_t i = 0; i < m->n_layers; i++)
        put_u32(e->stream, m->ratios[i]);
    if (ds4)
        put_u32(e->stream, 0);
    for (int i = 0; i < (ds4 ? 1 : 2); i++) { /* ds4's have no limit for shared experts */
        put_model_key(e, i ? "swiglu_clamp_shexp" : "swiglu_clamp_exp", VALUE_ARRAY);
        put_array(e, VALUE_F32, m->n_layers);
        for (uint32_t k = 0; k < m->n_layers; k++)
            fwrite(&limit, sizeof limit, 1, e->stream);
    }
}

/* As many tokens and merges as V4 has, about as long: nothing that text could be split with. */
static void put_tokens(entries *e)
{
    char token[32];
    put_key(e, "tokenizer.ggml.tokens", VALUE_ARRAY);
    put_array(e, VALUE_TEXT, N_TOKENS_OF_V4);
    for (uint32_t i = 0; i < N_TOKENS_OF_V4; i++) {
        snprintf(token, sizeof token, "t%06u", i);
        put_text(e->stream, token);
    }
    put_key(e, "tokenizer.ggml.token_type", VALUE_ARRAY);
    put_array(e, VALUE_I32, N_TOKENS_OF_V4);
    for (uint32_t i = 0; i < N_TOKENS_OF_V4; i++)
        put_u32(e->stream, 1);
    put_key(e, "tokenizer.ggml.merges", VALUE_ARRAY);
    put_array(e, VALUE_TEXT, N_MERGES_OF_V4);
    for (uint32_t i = 0; i < N_MERGES_OF_V4; i++) {
        snprintf(token, sizeof token, "a%05u b%u", i, i % 10);
        put_text(e->stream, token);
    }
}

static void put_metadata(const checkpoint_job *job, entries *e)
{
    put_named_text(e, "general.architecture", "deepseek4");
    put_named_text(e, "general.name", "random blocks in the shapes of DeepSeek-V4");
    put_numbers_of_model(job, e);
    put_layers_of_model(job, e);
    put_named_text(e, "tokenizer.ggml.model", "none");
    for (uint32_t i = 0; i < 2; i++) {
        put_key(e, i ? "tokenizer.ggml.eos_token_id" : "tokenizer.ggml.bos_token_id", VALUE_U32);
        put_u32(e->stream, i);
    }
    if (job->has_tokens)
        put_tokens(e);
}

static void put_split(entries *e, uint32_t which, uint32_t n, size_t n_tensors)
{
    const uint16_t numbers[2] = {(uint16_t)which, (uint16_t)n};
    for (int i = 0; i < 2; i++) {
        put_key(e, i ? "split.count" : "split.no", VALUE_U16);
        fwrite(&numbers[i], sizeof numbers[i], 1, e->stream);
    }
    put_key(e, "split.tensors.count", VALUE_I32);
    put_u32(e->stream, (uint32_t)n_tensors);
}

/* Names, shapes, types and places of the tensors of one file; returns how many. */
static uint64_t put_infos(const tensor_list *list, uint32_t which, FILE *stream)
{
    uint64_t n = 0;
    for (size_t i = 0; i < list->n; i++) {
        const tensor *t = &list->tensors[i];
        if (t->file != which)
            continue;
        put_text(stream, t->name);
        put_u32(stream, t->n_dims);
        for (uint32_t d = t->n_dims; d-- > 0;) /* the other way round */
            put_u64(stream, t->shape[d]);
        put_u32(stream, stored_types[t->type].gguf);
        put_u64(stream, t->offset);
        n++;
    }
    return n;
}

/* OUT, or OUT less ".gguf" and "-00001-of-00002.gguf". */
static void part_path(const checkpoint_job *job, uint32_t which, uint32_t n, char *path)
{
    const size_t length = strlen(job->out);
    const bool has_ending = length > 5 && strcmp(job->out + length - 5, ".gguf") == 0;
    if (n == 1)
        snprintf(path, PATH_BYTES, "%s", job->out);
    else
        snprintf(path, PATH_BYTES, "%.*s-%05u-of-%05u.gguf", (int)(length - (has_ending ? 5 : 0)),
                 job->out, which + 1, n);
}

static void write_part(const checkpoint_job *job, const tensor_list *list, uint32_t which,
                       uint32_t n)
{
    char path[PATH_BYTES];
    text metadata;
    text infos;
    part_path(job, which, n, path);
    text_open(&metadata);
    entries e = {metadata.stream, 0};
    if (which == 0)
        put_metadata(job, &e);
    if (n > 1)
        put_split(&e, which, n, list->n);
    text_close(&metadata);
    text_open(&infos);
    const uint64_t n_tensors = put_infos(list, which, infos.stream);
    text_close(&infos);
    FILE *file = open_file(path);
    fputs("GGUF", file);
    put_u32(file, 3);
    put_u64(file, n_tensors);
    put_u64(file, e.n);
    fwrite(metadata.data, 1, metadata.bytes, file);
    fwrite(infos.data, 1, infos.bytes, file);
    pad(file, padding(24 + metadata.bytes + infos.bytes, GGUF_ALIGNMENT));
    free(metadata.data);
    free(infos.data);
    write_data(job, list, which, GGUF_ALIGNMENT, file, path);
    close_file(file, path);
}

uint32_t write_gguf(const checkpoint_job *job, tensor_list *list)
{
    const uint32_t n = share_out(job, list, GGUF_ALIGNMENT);
    for (uint32_t i = 0; i < n; i++)
        write_part(job, list, i, n);
    return n;
}
