#include "text/prompt.h"

#include <stdlib.h>
#include <string.h>

void kvf_prompt_text(kvf_prompt *prompt, const void *text, size_t bytes)
{
    kvf_buffer_add(&prompt->text, text, bytes);
    prompt->failed = prompt->failed || prompt->text.failed;
}

void kvf_prompt_marker(kvf_prompt *prompt, const char *marker)
{
    const kvf_marker added = {prompt->text.bytes, strlen(marker)};
    if (prompt->n_markers == prompt->capacity) {
        const size_t larger = prompt->capacity ? 2 * prompt->capacity : 16;
        kvf_marker *moved = realloc(prompt->markers, larger * sizeof *moved);
        prompt->failed = prompt->failed || !moved;
        if (!moved)
            return;
        prompt->markers = moved;
        prompt->capacity = larger;
    }
    kvf_prompt_text(prompt, marker, added.bytes);
    if (!prompt->failed)
        prompt->markers[prompt->n_markers++] = added;
}

void kvf_prompt_free(kvf_prompt *prompt)
{
    kvf_buffer_free(&prompt->text);
    free(prompt->markers);
    *prompt = (kvf_prompt){.markers = NULL};
}
