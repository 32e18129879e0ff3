/* What a session is opened with, of all that the user decides. */
#include "cli/options.h"

uint32_t cli_options_chunk_tokens(const cli_options *options, uint64_t context_tokens)
{
    return context_tokens < options->chunk_tokens ? (uint32_t)context_tokens
                                                  : options->chunk_tokens;
}

kvf_session_options cli_options_session(const cli_options *options, kvf_profile_id profile,
                                        uint64_t context_tokens)
{
    /* legacy scores the whole chunk at once by definition and fold has no tile. */
    const bool tiled = kvf_profile_get(profile)->score_tile_tokens > 0;
    return (kvf_session_options){
        .profile = profile,
        .max_tokens = context_tokens,
        .chunk_tokens = cli_options_chunk_tokens(options, context_tokens),
        .score_tile_tokens = tiled ? options->score_tile_tokens : 0,
        .grid_off = options->grid_off,
        .n_threads = options->n_threads,
        /* The command goes back by forks (chat.c); plan speaks of any program's session. */
        .checkpoint_count = options->counts_checkpoints ? 0 : KVF_NO_CHECKPOINTS,
    };
}
