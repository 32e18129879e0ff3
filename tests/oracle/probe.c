/*
 * A window onto the public header, and onto stored weight types, for tests in other languages.
 *
 *   format_probe [--backend NAME] [--isa NAME] [--threads N]
 *
 * opens one device and then answers requests from stdin on stdout until stdin ends.
 * Exit codes: 0 stdin ended between requests; 2 nonsense on the command line or in
 * a request (the reason is on stderr); 3 the device cannot be opened here.
 *
 * The messages: probe_wire.h.
 */
#include "probe_wire.h"

#include "weight/weight.h"

enum operation {
    OP_INFO = 1,
    OP_FORMAT = 2,
    OP_PACK = 3,
    OP_UNPACK = 4,
    OP_SELECT = 5,
    OP_ATTEND = 6,
    OP_PLAN = 7,
    OP_SESSION = 8,
    OP_SNAPSHOT = 9,
    OP_WEIGHT_TYPE = 10,
    OP_DECODE = 11
};

/* ---- Operations --------------------------------------------------------------- */

/* -> fields n_threads; blobs backend, isa, version. */
static void answer_info(exchange *x)
{
    expect_end(x);
    put_status(x, KVF_OK);
    put_field(x, kvf_device_n_threads(x->device));
    put_text(x, kvf_device_backend_name(x->device));
    put_text(x, kvf_device_isa_name(x->device));
    put_text(x, kvf_version_string());
}

/* fields format, width, page_rows -> fields row_bytes, page_bytes; blob name. */
static void answer_format(exchange *x)
{
    kvf_format_id format = (kvf_format_id)next_u32(x);
    uint32_t width = next_u32(x);
    uint32_t page_rows = next_u32(x);
    expect_end(x);
    put_status(x, KVF_OK);
    put_field(x, kvf_format_row_bytes(format, width));
    put_field(x, kvf_format_page_bytes(format, width, page_rows));
    put_text(x, kvf_format_name(format));
}

/*
 * fields view, stride, n_rows, grid, hadamard, first_row; blobs pages before, rows
 * -> fields inexact_rows, bad_row, bad_dim; blob pages after.
 */
static void answer_pack(exchange *x)
{
    kvf_pack_args args = {0};
    args.out = next_rows(x);
    uint8_t *memory = x->request.blobs[0].data;
    args.stride = next_u64(x);
    args.n_rows = next_u64(x);
    args.grid = (kvf_grid)next_u32(x);
    args.hadamard = next_bool(x);
    args.first_row = next_u64(x);
    if (args.stride < args.out.width) {
        nonsense("rows of %u overlap in a stride of %zu", args.out.width, args.stride);
    }
    args.rows = next_blob_of(x, product(product(args.n_rows, args.stride), sizeof(float)));
    expect_end(x);
    kvf_status status = kvf_pack(x->device, &args, &x->error);
    put_status(x, status);
    put_field(x, args.inexact_rows);
    put_field(x, args.bad_row);
    put_field(x, args.bad_dim);
    put_blob(x, memory, rows_bytes(&args.out));
}

/*
 * fields view, stride, n_rows, first_row; blobs pages, row_list (may be empty), out before
 * -> blob out after.
 */
static void answer_unpack(exchange *x)
{
    kvf_unpack_args args = {0};
    args.in = next_rows(x);
    args.stride = next_u64(x);
    args.n_rows = next_u64(x);
    args.first_row = next_u64(x);
    if (args.stride < args.in.width) {
        nonsense("rows of %u overlap in a stride of %zu", args.in.width, args.stride);
    }
    args.row_list = next_optional_blob_of(x, product(args.n_rows, sizeof(int32_t)));
    uint64_t out_bytes = product(product(args.n_rows, args.stride), sizeof(float));
    args.out = next_blob_of(x, out_bytes);
    expect_end(x);
    put_status(x, kvf_unpack(x->device, &args, &x->error));
    put_blob(x, args.out, out_bytes);
}

/*
 * fields n_queries, n_heads, top_k, view of queries, view of keys; blobs pages of
 * queries, pages of keys, head_weights, n_visible -> blobs list, list_len.
 */
static void answer_select(exchange *x)
{
    kvf_select_args args = {0};
    args.n_queries = next_u32(x);
    args.n_heads = next_u32(x);
    args.top_k = next_u32(x);
    args.queries = next_rows(x);
    args.keys = next_rows(x);
    args.head_weights =
        next_blob_of(x, product(product(args.n_queries, args.n_heads), sizeof(float)));
    args.n_visible = next_blob_of(x, product(args.n_queries, sizeof(uint32_t)));
    expect_end(x);
    uint64_t list_bytes = product(product(args.n_queries, args.top_k), sizeof(int32_t));
    uint64_t len_bytes = product(args.n_queries, sizeof(uint32_t));
    args.list = own(x, list_bytes);
    args.list_len = own(x, len_bytes);
    memset(args.list, 0xa5, (size_t)list_bytes);
    memset(args.list_len, 0xa5, (size_t)len_bytes);
    args.workspace_bytes = kvf_select_workspace_bytes(x->device, &args);
    args.workspace = own(x, args.workspace_bytes);
    put_status(x, kvf_select(x->device, &args, &x->error));
    put_blob(x, args.list, list_bytes);
    put_blob(x, args.list_len, len_bytes);
}

/* The masks and the list of attend; an empty blob is a NULL argument. */
static void next_row_choice(exchange *x, kvf_attend_args *args)
{
    uint64_t n = args->n_queries;
    args->n_visible = next_optional_blob_of(x, product(n, sizeof(uint32_t)));
    args->list = next_optional_blob_of(x, product(product(n, args->list_stride), sizeof(int32_t)));
    args->list_len = next_optional_blob_of(x, product(n, sizeof(uint32_t)));
    uint64_t mask_values = product(n, args->mask_stride);
    args->mask_f32 = next_optional_blob_of(x, product(mask_values, sizeof(float)));
    args->mask_f16 = next_optional_blob_of(x, product(mask_values, sizeof(uint16_t)));
    for (uint64_t i = 0; i < n && args->list_len; i++) {
        if (args->list_len[i] > args->list_stride) {
            nonsense("list_len[%" PRIu64 "] is longer than the stride", i);
        }
    }
    bool masked = args->mask_f32 || args->mask_f16;
    for (uint64_t i = 0; i < n && args->n_visible && masked; i++) {
        if (args->n_visible[i] > args->mask_stride) {
            nonsense("n_visible[%" PRIu64 "] is longer than the mask", i);
        }
    }
}

/*
 * fields n_queries, n_heads, scale, first_token, window_tokens, window_first,
 * list_stride, mask_stride, view of the window, view of the rows; blobs pages of the window, pages
 * of the rows, q, then (each may be empty) sinks, n_visible, list, list_len, mask_f32,
 * mask_f16 -> blobs out, lse.
 */
static void answer_attend(exchange *x)
{
    kvf_attend_args args = {0};
    args.n_queries = next_u32(x);
    args.n_heads = next_u32(x);
    args.scale = next_f32(x);
    args.first_token = next_u64(x);
    args.window_tokens = next_u32(x);
    args.window_first = next_u64(x);
    args.list_stride = next_u64(x);
    args.mask_stride = next_u64(x);
    args.window = next_rows(x);
    args.rows = next_rows(x);
    uint64_t n_heads = product(args.n_queries, args.n_heads);
    uint64_t out_bytes = product(n_heads, KVF_ROW_WIDTH * sizeof(float));
    uint64_t lse_bytes = product(n_heads, sizeof(float));
    args.q = next_blob_of(x, out_bytes);
    args.sinks = next_optional_blob_of(x, product(args.n_heads, sizeof(float)));
    next_row_choice(x, &args);
    expect_end(x);
    args.out = own(x, out_bytes);
    args.lse = own(x, lse_bytes);
    memset(args.out, 0xa5, (size_t)out_bytes);
    memset(args.lse, 0xa5, (size_t)lse_bytes);
    args.workspace_bytes = kvf_attend_workspace_bytes(x->device, &args);
    args.workspace = own(x, args.workspace_bytes);
    put_status(x, kvf_attend(x->device, &args, &x->error));
    put_blob(x, args.out, out_bytes);
    put_blob(x, args.lse, lse_bytes);
}

/*
 * fields n_layers (0: DeepSeek-V4-Flash, the other fields must be there but are not
 * used), vocab, n_heads, n_index_heads, top_k, window_tokens, max_tokens; blob
 * u32[n_layers][2]: kind, ratio.
 */
static kvf_geometry next_geometry(exchange *x)
{
    kvf_geometry geometry = {0};
    geometry.n_layers = next_u32(x);
    geometry.vocab = next_u32(x);
    geometry.n_heads = next_u32(x);
    geometry.n_index_heads = next_u32(x);
    geometry.top_k = next_u32(x);
    geometry.window_tokens = next_u32(x);
    geometry.max_tokens = next_u64(x);
    if (geometry.n_layers > KVF_MAX_LAYERS) {
        nonsense("%u layers", geometry.n_layers);
    }
    const uint32_t *layers = next_blob_of(x, geometry.n_layers * 2 * sizeof(uint32_t));
    for (uint32_t i = 0; i < geometry.n_layers; i++) {
        geometry.layers[i].kind = (kvf_layer_kind)layers[2 * i];
        geometry.layers[i].ratio = layers[2 * i + 1];
    }
    if (geometry.n_layers == 0) {
        kvf_geometry_v4_flash(&geometry);
    }
    return geometry;
}

/* fields profile, max_tokens, chunk_tokens, score_tile_tokens, grid_off. */
static kvf_session_options next_options(exchange *x)
{
    kvf_session_options options = {0};
    options.profile = (kvf_profile_id)next_u32(x);
    options.max_tokens = next_u64(x);
    options.chunk_tokens = next_u32(x);
    options.score_tile_tokens = next_u32(x);
    options.grid_off = next_bool(x);
    return options;
}

/* One buffer of a plan as it travels; strings are padded with zeros. */
typedef struct wire_buffer {
    char name[48];
    char dtype[12];
    uint32_t klass;
    uint64_t n_dims;
    uint64_t shape[4];
    uint64_t bytes;
    uint64_t held_bytes;
} wire_buffer;

/*
 * fields geometry, options, n_tokens; blob layers -> fields session_bytes,
 * allocated_bytes, snapshot_bytes, scratch_bytes, table_bytes, pool_bytes; blob
 * wire_buffer[n_buffers].
 */
static void answer_plan(exchange *x)
{
    kvf_geometry geometry = next_geometry(x);
    kvf_session_options options = next_options(x);
    options.backend = kvf_device_backend_name(x->device);
    uint64_t n_tokens = next_u64(x);
    expect_end(x);
    options.backend = kvf_device_backend_name(x->device); /* whose workspace is counted */
    kvf_plan plan = {0};
    kvf_status status = kvf_plan_make(&geometry, &options, n_tokens, &plan, &x->error);
    put_status(x, status);
    if (status != KVF_OK) {
        return;
    }
    put_field(x, plan.session_bytes);
    put_field(x, plan.allocated_bytes);
    put_field(x, plan.snapshot_bytes);
    put_field(x, plan.scratch_bytes);
    put_field(x, plan.table_bytes);
    put_field(x, plan.pool_bytes);
    wire_buffer *buffers = own(x, product(plan.n_buffers, sizeof *buffers));
    for (uint32_t i = 0; i < plan.n_buffers; i++) {
        const kvf_plan_buffer *from = &plan.buffers[i];
        wire_buffer *to = &buffers[i];
        memset(to, 0, sizeof *to);
        memcpy(to->name, from->name, strnlen(from->name, sizeof from->name));
        memcpy(to->dtype, from->dtype, strnlen(from->dtype, sizeof from->dtype));
        to->klass = (uint32_t)from->klass;
        to->n_dims = from->n_dims;
        memcpy(to->shape, from->shape, sizeof to->shape);
        to->bytes = from->bytes;
        to->held_bytes = from->held_bytes;
    }
    put_blob(x, buffers, plan.n_buffers * sizeof *buffers);
    kvf_plan_free(&plan);
}

/* ---- A session of one layer ----------------------------------------------------- */

/* Everything that the tokens bring, whole; chunks are cut out of it. */
typedef struct session_input {
    kvf_layer layer;
    uint32_t n_heads;
    uint32_t n_index_heads;
    uint32_t top_k;
    uint32_t n_tokens;
    uint32_t n_chunks;
    const uint32_t *chunk_tokens; /* [n_chunks], their sum is n_tokens */
    const int32_t *tokens;
    const float *window;
    kvf_compressor_input rows;  /* pointers at token 0 */
    kvf_compressor_input index; /* used by CSA layers */
    kvf_rope_table row_rope;    /* from row 0 on */
    float *index_q;
    const float *head_weights;
    const float *q;
    const float *sinks;
    float *out;         /* [n_tokens][n_heads][512] */
    int32_t *selection; /* [n_tokens][top_k], unused places are -1 */
} session_input;

static uint64_t f32_bytes(uint64_t a, uint64_t b)
{
    return product(product(a, b), sizeof(float));
}

static kvf_compressor_input next_compressor(exchange *x, const session_input *in, uint64_t width)
{
    kvf_compressor_input c = {0};
    uint64_t columns = product(in->layer.kind == KVF_LAYER_CSA ? 2 : 1, width);
    c.kv = next_blob_of(x, f32_bytes(in->n_tokens, columns));
    c.gate = next_blob_of(x, f32_bytes(in->n_tokens, columns));
    c.position_bias = next_blob_of(x, f32_bytes(in->layer.ratio, columns));
    c.norm_weight = next_blob_of(x, f32_bytes(1, width));
    return c;
}

/*
 * fields n_tokens, n_chunks, norm_eps; blobs chunk_tokens, tokens, window, q, sinks;
 * for compressed layers kv, gate, position_bias, norm_weight, cosines, sines;
 * for CSA layers the index compressor's four, index_q, head_weights.
 */
static session_input next_session_input(exchange *x, const kvf_geometry *geometry)
{
    session_input in = {0};
    in.layer = geometry->layers[0];
    in.n_heads = geometry->n_heads;
    in.n_index_heads = geometry->n_index_heads;
    in.top_k = geometry->top_k;
    in.n_tokens = next_u32(x);
    in.n_chunks = next_u32(x);
    float eps = next_f32(x);
    in.chunk_tokens = next_blob_of(x, product(in.n_chunks, sizeof(uint32_t)));
    in.tokens = next_blob_of(x, product(in.n_tokens, sizeof(int32_t)));
    in.window = next_blob_of(x, f32_bytes(in.n_tokens, KVF_ROW_WIDTH));
    uint64_t q_bytes = f32_bytes(product(in.n_tokens, in.n_heads), KVF_ROW_WIDTH);
    in.q = next_blob_of(x, q_bytes);
    in.sinks = next_optional_blob_of(x, f32_bytes(1, in.n_heads));
    uint64_t sum = 0;
    for (uint32_t i = 0; i < in.n_chunks; i++) {
        sum += in.chunk_tokens[i];
    }
    if (sum != in.n_tokens || (in.layer.kind != KVF_LAYER_WINDOW && in.layer.ratio == 0)) {
        nonsense("chunks of %" PRIu64 " tokens in all, ratio %u", sum, in.layer.ratio);
    }
    if (in.layer.kind != KVF_LAYER_WINDOW) {
        uint64_t table_bytes = f32_bytes(in.n_tokens / in.layer.ratio, KVF_ROPE_WIDTH / 2);
        in.rows = next_compressor(x, &in, KVF_ROW_WIDTH);
        in.row_rope.cosines = next_blob_of(x, table_bytes);
        in.row_rope.sines = next_blob_of(x, table_bytes);
    }
    if (in.layer.kind == KVF_LAYER_CSA) {
        uint64_t n_queries = product(in.n_tokens, in.n_index_heads);
        in.index = next_compressor(x, &in, KVF_INDEX_WIDTH);
        in.index_q = next_blob_of(x, f32_bytes(n_queries, KVF_INDEX_WIDTH));
        in.head_weights = next_blob_of(x, f32_bytes(1, n_queries));
    }
    in.rows.norm_eps = eps;
    in.index.norm_eps = eps;
    in.out = own(x, q_bytes);
    in.selection = own(x, product(product(in.n_tokens, in.top_k), sizeof(int32_t)));
    memset(in.out, 0xa5, (size_t)q_bytes);
    memset(in.selection, 0xff, (size_t)in.n_tokens * in.top_k * sizeof(int32_t));
    expect_end(x);
    return in;
}

/* The compressor input as it looks from token `first` on. */
static kvf_compressor_input advance(kvf_compressor_input c, size_t first, kvf_layer_kind kind,
                                    size_t width)
{
    size_t columns = (kind == KVF_LAYER_CSA ? 2 : 1) * width;
    c.kv += first * columns;
    c.gate += first * columns;
    return c;
}

static kvf_status append_chunk(kvf_session *session, const session_input *in, size_t first,
                               kvf_error *error)
{
    kvf_append_args args = {0};
    args.window = in->window + first * KVF_ROW_WIDTH;
    if (in->layer.kind != KVF_LAYER_WINDOW) {
        size_t first_row = first / in->layer.ratio;
        args.rows = advance(in->rows, first, in->layer.kind, KVF_ROW_WIDTH);
        args.row_rope.cosines = in->row_rope.cosines + first_row * (KVF_ROPE_WIDTH / 2);
        args.row_rope.sines = in->row_rope.sines + first_row * (KVF_ROPE_WIDTH / 2);
    }
    if (in->layer.kind == KVF_LAYER_CSA) {
        args.index = advance(in->index, first, in->layer.kind, KVF_INDEX_WIDTH);
    }
    return kvf_session_append(session, 0, &args, error);
}

static kvf_status run_chunk(kvf_session *session, const session_input *in, size_t first,
                            uint32_t n_tokens, kvf_error *error)
{
    kvf_status status = kvf_session_begin(session, in->tokens + first, n_tokens, error);
    if (status == KVF_OK) {
        status = append_chunk(session, in, first, error);
    }
    if (status == KVF_OK && in->layer.kind == KVF_LAYER_CSA) {
        size_t head = first * in->n_index_heads;
        status = kvf_session_select(session, 0, (kvf_chunk_span){0, n_tokens},
                                    in->index_q + head * KVF_INDEX_WIDTH, in->head_weights + head,
                                    error);
        for (uint32_t i = 0; i < n_tokens && status == KVF_OK; i++) {
            uint32_t n;
            status = kvf_session_selection(session, i, in->selection + (first + i) * in->top_k, &n,
                                           error);
        }
    }
    if (status == KVF_OK) {
        size_t at = first * in->n_heads * KVF_ROW_WIDTH;
        status = kvf_session_attend(session, 0, (kvf_chunk_span){0, n_tokens}, in->q + at,
                                    in->sinks, in->out + at, error);
    }
    return status == KVF_OK ? kvf_session_commit(session, error) : status;
}

/* The rows that the session holds, as f32. */
static kvf_status put_rows(exchange *x, kvf_rows rows)
{
    kvf_unpack_args args = {0};
    args.in = rows;
    args.n_rows = rows.n_rows;
    args.stride = rows.width;
    uint64_t bytes = f32_bytes(rows.n_rows, rows.width);
    args.out = own(x, bytes);
    kvf_status status = rows.n_rows ? kvf_unpack(x->device, &args, &x->error) : KVF_OK;
    put_blob(x, args.out, bytes);
    return status;
}

/*
 * fields geometry of one layer, options, input; blobs layers, input -> fields
 * n_tokens, n_rows, n_index_rows, held_bytes, allocated_bytes, inexact_rows,
 * scratch_bytes; blobs out, selection, rows as f32, index rows as f32.
 */
static void answer_session(exchange *x)
{
    kvf_geometry geometry = next_geometry(x);
    kvf_session_options options = next_options(x);
    if (geometry.n_layers != 1) {
        nonsense("a session of %u layers", geometry.n_layers);
    }
    session_input in = next_session_input(x, &geometry);
    kvf_session *session = NULL;
    kvf_status status = kvf_session_open(x->device, &geometry, &options, &session, &x->error);
    size_t first = 0;
    for (uint32_t i = 0; i < in.n_chunks && status == KVF_OK; i++) {
        status = run_chunk(session, &in, first, in.chunk_tokens[i], &x->error);
        first += in.chunk_tokens[i];
    }
    put_status(x, status);
    if (status == KVF_OK) {
        bool compressed = in.layer.kind != KVF_LAYER_WINDOW;
        kvf_rows none = {.width = KVF_ROW_WIDTH};
        kvf_rows rows = compressed ? kvf_session_rows(session, 0) : none;
        kvf_rows index_rows =
            in.layer.kind == KVF_LAYER_CSA ? kvf_session_index_rows(session, 0) : none;
        put_field(x, kvf_session_n_tokens(session));
        put_field(x, rows.n_rows);
        put_field(x, index_rows.n_rows);
        put_field(x, kvf_session_held_bytes(session));
        put_field(x, kvf_session_allocated_bytes(session));
        put_field(x, kvf_session_inexact_rows(session));
        put_field(x, kvf_session_scratch_bytes(session));
        put_blob(x, in.out, f32_bytes(product(in.n_tokens, in.n_heads), KVF_ROW_WIDTH));
        put_blob(x, in.selection, f32_bytes(in.n_tokens, in.top_k));
        kvf_status unpacked = put_rows(x, rows);
        if (unpacked == KVF_OK) {
            unpacked = put_rows(x, index_rows);
        }
        x->response.word = (uint32_t)unpacked;
    }
    kvf_session_close(session);
}

/* What a snapshot keeps besides: logits 0, 0.25, 0.5 .., bytes 1, 2, 3 .., a fingerprint. */
static void leave_marks(kvf_session *session, uint32_t vocab)
{
    for (uint32_t i = 0; i < vocab; i++) {
        kvf_session_logits(session)[i] = 0.25f * (float)i;
    }
    for (int i = 0; i < KVF_CALLER_STATE_BYTES; i++) {
        kvf_session_caller_state(session)[i] = (uint8_t)(i + 1);
    }
    kvf_session_set_model_fingerprint(session, 0x1122334455667788u);
}

/*
 * The same session, saved after every chunk, with a checkpoint where there can be one: fields and
 * blobs as before, with the field `compress` and the blob path between options and input -> fields
 * saves that appended, bytes of the file.
 */
static void answer_snapshot(exchange *x)
{
    kvf_geometry geometry = next_geometry(x);
    kvf_session_options options = next_options(x);
    const kvf_save_options save = {.compress = next_bool(x)};
    uint64_t path_bytes = next_u64(x);
    char *path = own(x, product(path_bytes, 1) + 1);
    memcpy(path, next_blob_of(x, path_bytes), (size_t)path_bytes);
    path[path_bytes] = '\0';
    session_input in = next_session_input(x, &geometry);
    kvf_session *session = NULL;
    kvf_save_report report = {0};
    kvf_status status = kvf_session_open(x->device, &geometry, &options, &session, &x->error);
    size_t first = 0;
    uint64_t n_appended = 0;
    for (uint32_t i = 0; i < in.n_chunks && status == KVF_OK; i++) {
        status = run_chunk(session, &in, first, in.chunk_tokens[i], &x->error);
        first += in.chunk_tokens[i];
        if (status == KVF_OK) {
            leave_marks(session, geometry.vocab);
            if (first % kvf_session_checkpoint_alignment(session) == 0) {
                status = kvf_session_checkpoint(session, &x->error);
            }
        }
        if (status == KVF_OK) {
            status = kvf_session_save(session, path, &save, &report, &x->error);
        }
        n_appended += report.appended;
    }
    put_status(x, status);
    put_field(x, n_appended);
    put_field(x, report.file_bytes);
    kvf_session_close(session);
}

/* ---- Stored weights -------------------------------------------------------------- */

/*
 * fields id, rows, cols -> fields block_values, block_bytes, scale_rows, scale_cols,
 * scale_bytes, row_bytes, bytes, rows, cols, stride and bytes of the scale plane; blob name.
 * After the last id: no fields.
 */
static void answer_weight_type(exchange *x)
{
    const kvf_weight_type *type = kvf_weight_get((kvf_weight_id)next_u32(x));
    uint64_t rows = next_u64(x);
    uint64_t cols = next_u64(x);
    expect_end(x);
    put_status(x, KVF_OK);
    if (!type) {
        return;
    }
    kvf_weight_scales scales = kvf_weight_scales_of(type, rows, cols);
    const uint64_t fields[] = {type->block_values,
                               type->block_bytes,
                               type->scale_rows,
                               type->scale_cols,
                               type->scale_bytes,
                               kvf_weight_row_bytes(type, cols),
                               kvf_weight_bytes(type, rows, cols),
                               scales.rows,
                               scales.cols,
                               scales.stride_bytes,
                               scales.bytes};
    for (size_t i = 0; i < sizeof fields / sizeof *fields; i++) {
        put_field(x, fields[i]);
    }
    put_text(x, type->name);
}

/* blob name; fields rows, cols; blobs data, scales (empty: none) -> blob values. */
static void answer_decode(exchange *x)
{
    char name[32] = {0};
    blob text = next_blob(x);
    if (text.bytes < sizeof name) {
        memcpy(name, text.data, (size_t)text.bytes);
    }
    kvf_matrix matrix = {0};
    if (!kvf_weight_find(name, &matrix.type)) {
        nonsense("no weight type %s", name);
    }
    const kvf_weight_type *type = kvf_weight_get(matrix.type);
    matrix.rows = next_u32(x);
    matrix.cols = next_u32(x);
    matrix.row_bytes = kvf_weight_row_bytes(type, matrix.cols);
    kvf_weight_scales scales = kvf_weight_scales_of(type, matrix.rows, matrix.cols);
    matrix.scale_stride = scales.stride_bytes;
    matrix.data = next_blob_of(x, kvf_weight_bytes(type, matrix.rows, matrix.cols));
    matrix.scales = next_blob_of(x, scales.bytes);
    expect_end(x);
    uint64_t bytes = f32_bytes(matrix.rows, matrix.cols);
    float *out = own(x, bytes);
    memset(out, 0xa5, (size_t)bytes);
    for (uint32_t row = 0; row < matrix.rows; row++) {
        type->decode(&matrix, row, out + (size_t)row * matrix.cols);
    }
    put_status(x, KVF_OK);
    put_blob(x, out, bytes);
}

/* ---- Main loop -------------------------------------------------------------------- */

static void answer(exchange *x)
{
    switch (x->request.word) {
    case OP_INFO: answer_info(x); break;
    case OP_FORMAT: answer_format(x); break;
    case OP_PACK: answer_pack(x); break;
    case OP_UNPACK: answer_unpack(x); break;
    case OP_SELECT: answer_select(x); break;
    case OP_ATTEND: answer_attend(x); break;
    case OP_PLAN: answer_plan(x); break;
    case OP_SESSION: answer_session(x); break;
    case OP_SNAPSHOT: answer_snapshot(x); break;
    case OP_WEIGHT_TYPE: answer_weight_type(x); break;
    case OP_DECODE: answer_decode(x); break;
    default: nonsense("no operation %u", x->request.word);
    }
}

static void serve(kvf_device *device)
{
    for (;;) {
        exchange x = {.device = device};
        bool more = read_request(&x);
        if (more) {
            answer(&x);
            write_response(&x);
        }
        for (uint32_t i = 0; i < x.n_owned; i++) {
            free(x.owned[i]);
        }
        if (!more) {
            return;
        }
    }
}

static kvf_device_options parse_arguments(int argc, char **argv)
{
    kvf_device_options options = {0};
    for (int i = 1; i < argc; i += 2) {
        if (i + 1 == argc) {
            nonsense("%s needs a value", argv[i]);
        }
        if (strcmp(argv[i], "--backend") == 0) {
            options.backend = argv[i + 1];
        } else if (strcmp(argv[i], "--isa") == 0) {
            options.isa = argv[i + 1];
        } else if (strcmp(argv[i], "--threads") == 0) {
            char *end = NULL;
            unsigned long n_threads = strtoul(argv[i + 1], &end, 10);
            if (*argv[i + 1] < '0' || *argv[i + 1] > '9' || *end != '\0' || n_threads > 1024) {
                nonsense("--threads %s", argv[i + 1]);
            }
            options.n_threads = (uint32_t)n_threads;
        } else {
            nonsense("unknown option %s", argv[i]);
        }
    }
    return options;
}

int main(int argc, char **argv)
{
    kvf_device_options options = parse_arguments(argc, argv);
    kvf_device *device = NULL;
    kvf_error error = {0};
    kvf_status status = kvf_device_open(&options, &device, &error);
    if (status != KVF_OK) {
        fprintf(stderr, "format_probe: %s\n", error.message);
        return status == KVF_UNSUPPORTED ? 3 : 2;
    }
    serve(device);
    kvf_device_close(device);
    return 0;
}
