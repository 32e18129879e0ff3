/* The texts inside a GGUF's tokenizer.chat_template. */
#include "text/chat_texts.h"

#include "error.h"

kvf_status kvf_chat_texts_of_template(const char *source, size_t bytes, kvf_chat_texts *texts,
                                      kvf_error *error)
{
    (void)source;
    (void)bytes;
    *texts = (kvf_chat_texts){.source = KVF_TEXTS_NOWHERE};
    return kvf_ok(error);
}
