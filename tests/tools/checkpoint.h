/*
 * What a checkpoint is made of, for make_checkpoint: shares no code with src, so that a
 * mistake there about names, shapes or sizes is not made here as well.
 */
#ifndef KVF_TOOLS_CHECKPOINT_H
#define KVF_TOOLS_CHECKPOINT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

enum { MOST_LAYERS = 64, NAME_BYTES = 80 };

/* Who wrote the file: DeepSeek, ds4's quantiser with 2 or 4 bits, llama.cpp's converter. */
typedef enum form { FORM_DEEPSEEK, FORM_Q2, FORM_Q4, FORM_MXFP4, N_FORMS } form;

typedef struct model {
    const char *name;
    uint32_t hidden;
    uint32_t n_heads;
    uint32_t q_rank;
    uint32_t n_out_groups;
    uint32_t out_rank;
    uint32_t n_index_heads;
    uint32_t top_k;
    uint32_t expert_ffn;
    uint32_t n_experts;
    uint32_t n_used;
    uint32_t vocab;
    double routed_scaling;
    uint32_t n_hash_layers;
    uint32_t n_layers;
    uint32_t ratios[MOST_LAYERS];
    bool has_mtp; /* DeepSeek's form has a layer that predicts further tokens, and is not run */
} model;

typedef enum stored {
    STORED_F32,
    STORED_F16,
    STORED_BF16,
    STORED_I32,
    STORED_I64,
    STORED_FP8,
    STORED_FP4, /* named I8, a row half as long */
    STORED_E8M0,
    STORED_Q8_0,
    STORED_Q2_K,
    STORED_Q4_K,
    STORED_IQ2_XXS,
    STORED_MXFP4,
    N_STORED
} stored;

typedef struct stored_type {
    const char *dtype; /* in safetensors; NULL: never there */
    uint32_t gguf;     /* number in a GGUF */
    uint32_t values;   /* of a block, and its bytes */
    uint32_t bytes;
    double rms; /* of the values that uniformly random codes give at a scale of 1; 0: no codes */
} stored_type;
extern const stored_type stored_types[N_STORED];

typedef struct tensor {
    char name[NAME_BYTES];
    stored type;
    uint32_t n_dims;
    uint64_t shape[3]; /* values of the last dimension lie side by side */
    double mean;
    double rms;         /* of the values about the mean; E8M0: of the values that it scales */
    stored scaled;      /* E8M0: the type that it scales */
    uint32_t map_limit; /* maps: numbers are below it */
    uint64_t bytes;
    uint32_t file;
    uint64_t offset; /* in the file's data */
} tensor;

typedef struct tensor_list {
    tensor *tensors; /* [n], owned */
    size_t n;
    size_t capacity;
    uint64_t bytes; /* of all of them */
} tensor_list;

/* What is asked for. */
typedef struct checkpoint_job {
    model model;
    form form;
    const char *out;
    uint64_t
        part_bytes; /* of a shard or a part, at most, unless one tensor is larger; 0: one file */
    uint64_t seed;
    bool sparse;
    bool has_tokens; /* GGUF: a vocabulary of made-up tokens, for a header of the true size */
} checkpoint_job;

/* checkpoint_tensors.c: false for an unknown name. */
bool find_model(const char *name, model *found);
/* Lists all tensors in the order of the file. Ends the process where memory runs out. */
void list_tensors(const checkpoint_job *job, tensor_list *list);

/* checkpoint_fill.c: writes the tensor's bytes, which depend on its name and the seed alone. */
void fill_tensor(const tensor *t, uint64_t seed, FILE *file);

/* checkpoint_files.c: return the number of files. */
uint32_t write_safetensors(const checkpoint_job *job, tensor_list *list);
uint32_t write_gguf(const checkpoint_job *job, tensor_list *list);

/* Prints "make_checkpoint: ..." and ends the process with status 2. */
#if defined(__GNUC__)
__attribute__((format(printf, 1, 2), noreturn))
#endif
void give_up(const char *format, ...);

#endif
