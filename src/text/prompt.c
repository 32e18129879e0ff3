#include "text/prompt.h"

#include <stdint.h>
#include <stdlib.h>

void kvf_prompt_add_text(kvf_prompt *prompt, kvf_span text)
{
    kvf_buffer_add_text(&prompt->text, text);
}

void kvf_prompt_add_marker(kvf_prompt *prompt, kvf_span marker)
{
    if (prompt->n_markers == prompt->capacity_markers) {
        const size_t capacity = prompt->n_markers < 32 ? 32 : 2 * prompt->n_markers;
        kvf_marker *grown = capacity > SIZE_MAX / 2 / sizeof *grown
                                ? NULL
                                : realloc(prompt->markers, capacity * sizeof *grown);
        if (!grown) {
            prompt->text.failed = true;
            return;
        }
        prompt->markers = grown;
        prompt->capacity_markers = capacity;
    }
    prompt->markers[prompt->n_markers++] = (kvf_marker){prompt->text.bytes, marker.bytes};
    kvf_buffer_add_text(&prompt->text, marker);
}

void kvf_prompt_free(kvf_prompt *prompt)
{
    kvf_buffer_free(&prompt->text);
    free(prompt->markers);
    *prompt = (kvf_prompt){0};
}
