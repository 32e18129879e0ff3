/* Names, which stages there are, and what each must do at least. */
#include "bench/case.h"

#include "bench/peer.h"
#include "bench/stages.h"
#include "cache/layout.h"

static const char *const stage_names[BENCH_STAGE_COUNT] = {
    [BENCH_PACK] = "pack",
    [BENCH_PACK_INDEX] = "pack_index",
    [BENCH_SELECT] = "select",
    [BENCH_ATTEND_CSA] = "attend_csa",
    [BENCH_ATTEND_CSA_COLD] = "attend_csa_cold",
    [BENCH_ATTEND_HCA] = "attend_hca",
    [BENCH_ATTEND_HCA_COLD] = "attend_hca_cold",
    [BENCH_LAYER] = "layer",
    [BENCH_STEP] = "step"};

const char *bench_stage_name(bench_stage stage)
{
    return stage_names[stage];
}

const char *bench_profile_name(bench_profile profile)
{
    if (profile == BENCH_LIST)
        return "list";
    return profile == BENCH_OPENBLAS ? "openblas" : kvf_profile_get((kvf_profile_id)profile)->name;
}

const kvf_profile *bench_profile_storage(bench_profile profile)
{
    return kvf_profile_get(profile < BENCH_LIST ? (kvf_profile_id)profile : KVF_PROFILE_LEGACY);
}

uint32_t bench_first_layer(const kvf_geometry *geometry, kvf_layer_kind kind)
{
    uint32_t i = 0;
    while (i < geometry->n_layers && geometry->layers[i].kind != kind)
        i++;
    return i;
}

uint64_t bench_layer_rows(const bench_input *input, kvf_layer_kind kind)
{
    const uint32_t layer = bench_first_layer(input->geometry, kind);
    return layer == input->geometry->n_layers
               ? 0
               : kvf_layer_rows(input->geometry->layers[layer], input->context_tokens);
}

/* ---- Which there are ----------------------------------------------------------- */

typedef struct stage_entry {
    kvf_status (*open)(const bench_input *input, bench_case **out, kvf_error *error);
    uint64_t (*bytes)(const bench_input *input);
    kvf_layer_kind needs; /* a layer of this kind with at least one row */
    bool has_peer;        /* the peer selects and attends; it packs nothing, has no sessions .. */
    bool has_list;        /* .. and rows are packed for `list` as they are for legacy */
} stage_entry;

static const stage_entry stages[BENCH_STAGE_COUNT] = {
    [BENCH_PACK] = {bench_pack_open, bench_pack_bytes, KVF_LAYER_CSA, false, false},
    [BENCH_PACK_INDEX] = {bench_pack_open, bench_pack_bytes, KVF_LAYER_CSA, false, false},
    [BENCH_SELECT] = {bench_select_open, bench_select_bytes, KVF_LAYER_CSA, true, true},
    [BENCH_ATTEND_CSA] = {bench_attend_open, bench_attend_bytes, KVF_LAYER_CSA, true, true},
    [BENCH_ATTEND_CSA_COLD] = {bench_attend_open, bench_attend_bytes, KVF_LAYER_CSA, true, true},
    [BENCH_ATTEND_HCA] = {bench_attend_open, bench_attend_bytes, KVF_LAYER_HCA, true, true},
    [BENCH_ATTEND_HCA_COLD] = {bench_attend_open, bench_attend_bytes, KVF_LAYER_HCA, true, true},
    [BENCH_LAYER] = {bench_session_open, bench_session_bytes, KVF_LAYER_CSA, false, true},
    [BENCH_STEP] = {bench_session_open, bench_session_bytes, KVF_LAYER_WINDOW, false, true}};

bool bench_input_exists(const bench_input *input)
{
    const stage_entry *stage = &stages[input->stage];
    if (stage->needs != KVF_LAYER_WINDOW && bench_layer_rows(input, stage->needs) == 0)
        return false;
    if (input->profile == BENCH_OPENBLAS)
        return stage->has_peer && bench_peer_available();
    return input->profile != BENCH_LIST || stage->has_list;
}

uint64_t bench_input_bytes(const bench_input *input)
{
    return stages[input->stage].bytes(input);
}

kvf_status bench_case_open(const bench_input *input, bench_case **out, kvf_error *error)
{
    return stages[input->stage].open(input, out, error);
}

/* ---- Work ---------------------------------------------------------------------- */

static double row_bytes(kvf_format_id format, uint32_t width)
{
    return (double)kvf_format_row_bytes(format, width);
}

bench_work bench_select_work(bench_profile profile, const kvf_geometry *geometry, uint64_t rows,
                             uint32_t n_queries)
{
    const kvf_profile *storage = bench_profile_storage(profile);
    const double scores = (double)rows * n_queries;
    const double ops = scores * geometry->n_index_heads * KVF_INDEX_WIDTH * 2;
    bench_work work = {.bytes = (double)rows * row_bytes(storage->index_format, KVF_INDEX_WIDTH)};
    if (storage->index_format == KVF_FORMAT_FP4)
        work.int8_ops = ops;
    else
        work.fma_ops = ops;
    const bool masked = profile < BENCH_LIST && storage->mask != KVF_MASK_NONE;
    if (masked || profile == BENCH_OPENBLAS)
        work.bytes += scores * (4 + 4); /* a score is written and read */
    if (masked)
        work.bytes += scores * (storage->mask == KVF_MASK_F32 ? 4 : 2);
    return work;
}

bench_work bench_attend_work(bench_profile profile, const kvf_geometry *geometry, uint64_t rows,
                             bool selected)
{
    const kvf_profile *storage = bench_profile_storage(profile);
    const bool masked = selected && profile < BENCH_LIST && storage->mask != KVF_MASK_NONE;
    const bool dense = masked && storage->mask == KVF_MASK_F32; /* computes every row */
    uint64_t attended = rows;
    if (selected && !dense && attended > geometry->top_k)
        attended = geometry->top_k;
    bench_work work = {.bytes = (double)geometry->window_tokens *
                                    row_bytes(storage->window_format, KVF_ROW_WIDTH) +
                                (double)attended * row_bytes(storage->row_format, KVF_ROW_WIDTH)};
    if (masked)
        work.bytes += (double)rows * (dense ? 4 : 2);
    /* A dot and a weighted sum for every row, head and value. */
    work.fma_ops =
        (double)(geometry->window_tokens + attended) * geometry->n_heads * KVF_ROW_WIDTH * (2 + 2);
    return work;
}
