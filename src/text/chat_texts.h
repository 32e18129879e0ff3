/*
 * The fixed English of the chat format. It belongs to the checkpoint and is not stored here: it
 * is read from encoding/encoding_dsv4.py (encoding_file.c), or from the chat template of a GGUF
 * (chat_template.c). What is not certain is as if it were missing. Internal.
 */
#ifndef KVF_TEXT_CHAT_TEXTS_H
#define KVF_TEXT_CHAT_TEXTS_H

#include "file/metadata.h"
#include "text/arena.h"
#include "text/span.h"

/* The two that differ in what a level of effort adds. */
typedef enum kvf_release {
    KVF_RELEASE_BY_TEXTS, /* 0731 where there are two texts of effort, else the preview */
    KVF_RELEASE_PREVIEW,  /* max adds the first */
    KVF_RELEASE_0731      /* high adds the first, max the second */
} kvf_release;

/* Where texts come from. */
typedef enum kvf_texts_source {
    KVF_TEXTS_NOWHERE,
    KVF_TEXTS_ENCODING_FILE,
    KVF_TEXTS_CHAT_TEMPLATE
} kvf_texts_source;

/* All zero: none. data is NULL where a text is missing. */
typedef struct kvf_chat_texts {
    kvf_arena arena;
    kvf_texts_source source;
    /*
     * Introduces tools. Slots in braces: {tool_schemas} at least once, {dsml_token},
     * {thinking_start_token}, {thinking_end_token}; {{ and }} are braces; nothing else.
     */
    kvf_span tools;
    kvf_span efforts[2]; /* what the preview's max and what 0731's max puts before a conversation */
} kvf_chat_texts;

#define KVF_ENCODING_FILE "encoding/encoding_dsv4.py"

/*
 * DIR/encoding/encoding_dsv4.py, or, where there is no such file or it has none of the texts as
 * plain strings, the chat template of the files (NULL: there are none). Without both *texts is
 * empty and the status KVF_OK; KVF_FILE_IO where the file cannot be read.
 */
kvf_status kvf_chat_texts_read(const char *dir, const kvf_tensor_set *files, kvf_chat_texts *texts,
                               kvf_error *error);
/* The same of such a file's content. KVF_OUT_OF_MEMORY is all that can fail. */
kvf_status kvf_chat_texts_of_python(const char *source, size_t bytes, kvf_chat_texts *texts,
                                    kvf_error *error);
/* The same of a GGUF's tokenizer.chat_template. */
kvf_status kvf_chat_texts_of_template(const char *source, size_t bytes, kvf_chat_texts *texts,
                                      kvf_error *error);
void kvf_chat_texts_free(kvf_chat_texts *texts);

/* The release that these texts are of. */
kvf_release kvf_chat_texts_release(const kvf_chat_texts *texts);

/* A slot of `tools`, or the text up to the next one. */
typedef enum kvf_text_slot {
    KVF_SLOT_TEXT, /* also a brace out of two */
    KVF_SLOT_SCHEMAS,
    KVF_SLOT_DSML,
    KVF_SLOT_THINK,
    KVF_SLOT_END_THINK,
    KVF_SLOT_BAD
} kvf_text_slot;
/* Takes the next part of a template from *rest, which is not empty; its text is in *part. */
kvf_text_slot kvf_slot_next(kvf_span *rest, kvf_span *part);

#endif
