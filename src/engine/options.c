#include "engine/options.h"

#include <stdarg.h>
#include <stdio.h>

uint32_t kvf_engine_chunk_tokens(const kvf_engine_options *options, uint64_t context_tokens)
{
    return context_tokens < options->chunk_tokens ? (uint32_t)context_tokens
                                                  : options->chunk_tokens;
}

kvf_session_options kvf_engine_session_options(const kvf_engine_options *options,
                                               kvf_profile_id profile, uint64_t context_tokens)
{
    /* legacy scores the whole chunk at once by definition and fold has no tile. */
    const bool tiled = kvf_profile_get(profile)->score_tile_tokens > 0;
    return (kvf_session_options){
        .profile = profile,
        .max_tokens = context_tokens,
        .chunk_tokens = kvf_engine_chunk_tokens(options, context_tokens),
        .score_tile_tokens = tiled ? options->score_tile_tokens : 0,
        .grid_off = options->grid_off,
        .backend = options->backend,
        .n_threads = options->n_threads,
        /* The engine goes back by forks (generate.h); plan speaks of any program's session. */
        .checkpoint_count = options->counts_checkpoints ? 0 : KVF_NO_CHECKPOINTS,
    };
}

void kvf_engine_note(const kvf_engine_events *events, bool is_warning, const char *format, ...)
{
    char text[1024];
    va_list arguments;
    if (!events->note)
        return;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    events->note(events->user, is_warning, text);
}

bool kvf_engine_stopped(const kvf_engine_events *events)
{
    return events->stopped && events->stopped(events->user);
}

void kvf_engine_temporary(const kvf_engine_events *events, const char *path, bool is_there)
{
    if (events->temporary)
        events->temporary(events->user, path, is_there);
}
