/* How a checkpoint's makers mean its answers to be drawn. Internal. */
#ifndef KVF_ENGINE_DEFAULTS_H
#define KVF_ENGINE_DEFAULTS_H

#include "file/tensor_set.h"

/* What the checkpoint does not say is as kvfold has it: greedy, nothing cut off. */
typedef struct kvf_draw_defaults {
    float temperature;     /* 0 .. 100; 0: greedy */
    float top_p;           /* 0 .. 1 */
    float min_p;           /* 0 .. 1 */
    bool are_there;        /* the checkpoint says any of them */
    char passed_over[136]; /* what it says besides and nothing here follows, "top_k, .."; or "" */
} kvf_draw_defaults;

/*
 * Of safetensors: generation_config.json beside them. do_sample, where it is there, decides whether
 * anything is drawn: false is greedy, true without a temperature is 1; without it a temperature
 * says so itself. Of a GGUF: its keys general.sampling.temp, top_p and min_p. Neither need be
 * there. (The ids that end an answer are the config's, model/config.h.)
 *   KVF_FILE_FORMAT: no JSON, a value that is no number or out of range, do_sample that is no
 * truth value; the file, the key and the value are named. KVF_FILE_IO, KVF_OUT_OF_MEMORY.
 */
kvf_status kvf_draw_defaults_read(const kvf_tensor_set *files, kvf_draw_defaults *defaults,
                                  kvf_error *error);
/* The same of the text of a generation_config.json; `where` names it in messages. */
kvf_status kvf_draw_defaults_parse(const char *text, size_t bytes, const char *where,
                                   kvf_draw_defaults *defaults, kvf_error *error);

#endif
