/*
 * measure_step -m PATH: what a decode step of a checkpoint takes, against what it must: for
 * each stored type the bytes of its matrices over the speed that `bench --stage matmul` measures
 * for it, and what `bench --stage step` measures for the caches (append, select, attend), all in
 * the same run. Made for the checkpoints of make_checkpoint. --help says more.
 */
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bench/matmul.h"
#include "bench/measure.h"
#include "clock.h"
#include "error.h"
#include "model/model.h"
#include "weight/weight.h"

static const char help[] =
    "Usage: measure_step -m PATH [OPTION]...\n"
    "\n"
    "  -m PATH          the checkpoint\n"
    "      --ctx N      tokens before the steps (512)\n"
    "      --steps N    steps, 2 to 200 (20)\n"
    "      --threads N  of the device (all)\n"
    "      --isa NAME   of its kernels (the best)\n"
    "      --dir DIR    where a file of weights may go for a while (/tmp)\n"
    "      --quick      little of everything, to see that it works\n"
    "      --json       one line of JSON instead of text\n"
    "\n"
    "Speeds of the types are measured before and after the steps; their mean counts. Exit\n"
    "status 2, with one line that says why, where anything fails.\n";

typedef struct settings {
    const char *path;
    const char *folder;
    uint32_t context_tokens;
    uint32_t n_steps;
    uint64_t file_bytes;
    uint32_t n_rounds;
    uint32_t rows; /* of the matrices that speeds are measured with */
    kvf_device_options device;
    bool json;
} settings;

/* What a step reads of one stored type, and how fast that goes. */
typedef struct type_cost {
    uint64_t bytes;
    double speed; /* bytes a second, 0: not measured yet */
    double read;
} type_cost;

typedef struct report {
    type_cost types[KVF_WEIGHT_COUNT];
    bench_spread step_seconds;
    double cache_seconds;
} report;

static void give_up(const char *reason)
{
    fprintf(stderr, "measure_step: %s\n", reason);
    exit(2);
}

static void require(kvf_status status, const kvf_error *error)
{
    if (status != KVF_OK)
        give_up(error->message);
}

/* ---- What a step reads ------------------------------------------------------------------- */

static void count(report *r, const kvf_matrix *matrix, uint32_t times)
{
    if (matrix->data) {
        const kvf_weight_type *type = kvf_weight_get(matrix->type);
        r->types[matrix->type].bytes +=
            times * (kvf_weight_bytes(type, matrix->rows, matrix->cols) +
                     kvf_weight_scales_of(type, matrix->rows, matrix->cols).bytes);
    }
}

static void count_expert(report *r, const kvf_expert_weights *expert, uint32_t times)
{
    count(r, &expert->w1, times);
    count(r, &expert->w2, times);
    count(r, &expert->w3, times);
}

static void count_layer(report *r, const kvf_layer_weights *layer, uint32_t n_used)
{
    const kvf_matrix *const matrices[] = {
        &layer->hc_attn.fn,    &layer->hc_ffn.fn, &layer->wq_a,        &layer->wq_b,
        &layer->wkv,           &layer->wo_a,      &layer->wo_b,        &layer->rows.wkv,
        &layer->rows.wgate,    &layer->index.wkv, &layer->index.wgate, &layer->index_wq_b,
        &layer->index_weights, &layer->gate};
    for (size_t i = 0; i < sizeof matrices / sizeof *matrices; i++)
        count(r, matrices[i], 1);
    count_expert(r, &layer->routed[0], n_used);
    count_expert(r, &layer->shared, 1);
}

static void count_model(report *r, const kvf_model *model)
{
    for (uint32_t i = 0; i < model->config.geometry.n_layers; i++)
        count_layer(r, &model->weights.layers[i], model->config.n_experts_used);
    count(r, &model->weights.hc_head.fn, 1);
    count(r, &model->weights.head, 1);
}

/* ---- Speeds -------------------------------------------------------------------------------- */

static void measure_types(const settings *s, kvf_device *device, report *r)
{
    for (uint32_t i = 0; i < KVF_WEIGHT_COUNT; i++) {
        const bench_matmul_input input = {.device = device,
                                          .type = (kvf_weight_id)i,
                                          .rows = s->rows,
                                          .folder = s->folder,
                                          .file_bytes = s->file_bytes,
                                          .n_rounds = s->n_rounds,
                                          .vector_only = true};
        bench_matmul_result result;
        kvf_error error;
        bool agrees;
        if (!r->types[i].bytes)
            continue;
        require(bench_matmul_measure(&input, &agrees, &result, &error), &error);
        if (!agrees)
            give_up(error.message);
        const double share = r->types[i].speed > 0 ? 0.5 : 1; /* the second of two */
        r->types[i].speed = share * result.vector_bytes.median + (1 - share) * r->types[i].speed;
        r->types[i].read = share * result.read_bytes.median + (1 - share) * r->types[i].read;
    }
}

/* Append, select and attend of all layers for one token, as bench measures it. */
static double measure_caches(const settings *s, const kvf_model *model)
{
    const bench_peaks any = {.n_threads = 1, .fma_ops = 1, .int8_ops = 1, .read_bytes = 1};
    const bench_sampling sampling = {.min_runs = s->n_rounds, .max_runs = s->n_rounds};
    const bench_input input = {.device = model->device,
                               .geometry = &model->config.geometry,
                               .stage = BENCH_STEP,
                               .profile = BENCH_FOLD,
                               .context_tokens = s->context_tokens,
                               .n_queries = 1,
                               .cold_bytes = s->file_bytes / 512 * 512,
                               .max_runs = s->n_rounds};
    bench_expected expected = {0};
    bench_result result;
    kvf_error error;
    bool agrees;
    require(bench_measure(&input, &any, &sampling, &expected, &agrees, &result, &error), &error);
    bench_expected_free(&expected);
    return result.median_us * 1e-6;
}

/* ---- Steps ------------------------------------------------------------------------------------
 */

/* Gives every page its place in the page table, which the first token to need it pays otherwise. */
static void touch(const kvf_model *model)
{
    const kvf_tensor_file *file;
    volatile uint8_t kept = 0;
    for (uint32_t i = 0; (file = kvf_tensor_set_file(model->files, i)); i++)
        for (uint64_t at = 0; at < file->map.bytes; at += 4096)
            kept = (uint8_t)(kept ^ ((const uint8_t *)file->map.data)[at]);
}

static bench_spread run_steps(const settings *s, kvf_model *model)
{
    enum { CHUNK = 512 };
    const kvf_session_options options = {.profile = KVF_PROFILE_FOLD,
                                         .max_tokens = s->context_tokens + s->n_steps + 1,
                                         .chunk_tokens = CHUNK,
                                         .checkpoint_count = KVF_NO_CHECKPOINTS};
    double *seconds = calloc(s->n_steps, sizeof *seconds);
    int32_t tokens[CHUNK];
    kvf_session *session;
    kvf_batch *batch;
    kvf_error error;
    uint32_t drawn = 1;
    if (!seconds)
        give_up("out of memory");
    require(kvf_model_open_session(model, &options, &session, &error), &error);
    require(kvf_batch_open(model->device, &model->config.geometry, &options, &batch, &error),
            &error);
    for (uint32_t done = 0; done < s->context_tokens;) {
        const uint32_t left = s->context_tokens - done;
        const uint32_t n = left < CHUNK ? left : CHUNK;
        for (uint32_t i = 0; i < n; i++) {
            drawn = drawn * 1664525u + 1013904223u;
            tokens[i] = (int32_t)((drawn >> 8) % model->config.geometry.vocab);
        }
        kvf_batch_item item = {.session = session, .ids = tokens, .n = n};
        require(kvf_model_forward(model, batch, &item, 1, &error), &error);
        done += n;
    }
    for (uint32_t i = 0; i <= s->n_steps; i++) { /* one more, to warm up */
        const double started = kvf_seconds();
        kvf_batch_item item = {.session = session, .ids = &tokens[i % 7], .n = 1};
        require(kvf_model_forward(model, batch, &item, 1, &error), &error);
        if (i > 0)
            seconds[i - 1] = kvf_seconds() - started;
    }
    kvf_session_close(session);
    kvf_batch_close(batch);
    const bench_spread spread = bench_spread_of(seconds, s->n_steps);
    free(seconds);
    return spread;
}

/* ---- The report --------------------------------------------------------------------------------
 */

static void print_report(const settings *s, const kvf_model *model, const report *r)
{
    double expected = r->cache_seconds;
    double bytes = 0;
    double loading = 0; /* seconds that loading the weights alone would take */
    for (int i = 0; i < KVF_WEIGHT_COUNT; i++) {
        const type_cost *type = &r->types[i];
        if (!type->bytes)
            continue;
        bytes += (double)type->bytes;
        expected += (double)type->bytes / type->speed;
        loading += (double)type->bytes / type->read;
        if (!s->json)
            printf("%-9s %10.1f MB %8.2f GB/s %9.3f ms\n", kvf_weight_get((kvf_weight_id)i)->name,
                   (double)type->bytes * 1e-6, type->speed * 1e-9,
                   (double)type->bytes / type->speed * 1e3);
    }
    const bench_spread *step = &r->step_seconds;
    if (s->json) {
        printf("{\"isa\": \"%s\", \"threads\": %u, \"context\": %u, \"bytes\": %.0f, "
               "\"step_ms\": %.4f, \"step_ms_p10\": %.4f, \"step_ms_p90\": %.4f, "
               "\"caches_ms\": %.4f, \"expected_ms\": %.4f, \"ratio\": %.4f, "
               "\"share_of_bandwidth\": %.4f}\n",
               kvf_device_isa_name(model->device), kvf_device_n_threads(model->device),
               s->context_tokens, bytes, step->median * 1e3, step->p10 * 1e3, step->p90 * 1e3,
               r->cache_seconds * 1e3, expected * 1e3, step->median / expected,
               loading / step->median);
        return;
    }
    printf("caches: append, select, attend %22.3f ms\n", r->cache_seconds * 1e3);
    printf("expected %44.3f ms\n", expected * 1e3);
    printf("step on %s, %u threads, %u tokens before it: %.3f ms (%.3f .. %.3f), %.2f times as "
           "much; %.0f%% of the time is what loading %.2f GB takes\n",
           kvf_device_isa_name(model->device), kvf_device_n_threads(model->device),
           s->context_tokens, step->median * 1e3, step->p10 * 1e3, step->p90 * 1e3,
           step->median / expected, 100 * loading / step->median, bytes * 1e-9);
}

/* ---- Options -----------------------------------------------------------------------------------
 */

static uint32_t parse_count(const char *text, uint32_t least, uint32_t most)
{
    char *end;
    const unsigned long number = strtoul(text, &end, 10);
    if (end == text || *end || number < least || number > most)
        give_up("a number of an option is out of range; --help says which there are");
    return (uint32_t)number;
}

static void parse(int argc, char **argv, settings *s)
{
    enum { CTX = 256, STEPS, THREADS, ISA, DIR, QUICK, JSON };
    static const struct option options[] = {{"ctx", required_argument, NULL, CTX},
                                            {"steps", required_argument, NULL, STEPS},
                                            {"threads", required_argument, NULL, THREADS},
                                            {"isa", required_argument, NULL, ISA},
                                            {"dir", required_argument, NULL, DIR},
                                            {"quick", no_argument, NULL, QUICK},
                                            {"json", no_argument, NULL, JSON},
                                            {"help", no_argument, NULL, 'h'},
                                            {NULL, 0, NULL, 0}};
    int id;
    while ((id = getopt_long(argc, argv, "m:h", options, NULL)) != -1) {
        switch (id) {
        case 'm': s->path = optarg; break;
        case CTX: s->context_tokens = parse_count(optarg, 1, 1u << 20); break;
        case STEPS: s->n_steps = parse_count(optarg, 2, BENCH_MAX_RUNS); break;
        case THREADS: s->device.n_threads = parse_count(optarg, 1, KVF_MAX_THREADS); break;
        case ISA: s->device.isa = optarg; break;
        case DIR: s->folder = optarg; break;
        case QUICK:
            s->file_bytes = 1u << 20;
            s->n_rounds = 3;
            s->rows = BENCH_MATMUL_QUICK_ROWS;
            break;
        case JSON: s->json = true; break;
        case 'h': fputs(help, stdout); exit(0);
        default: exit(2); /* getopt_long has said why */
        }
    }
    if (!s->path || optind != argc)
        give_up("-m PATH is needed, and nothing but options besides; --help says more");
}

int main(int argc, char **argv)
{
    settings s = {.folder = "/tmp",
                  .context_tokens = 512,
                  .n_steps = 20,
                  .n_rounds = 10,
                  .rows = BENCH_MATMUL_ROWS};
    bench_machine machine;
    kvf_model *model;
    kvf_device *device;
    kvf_error error;
    report r = {0};
    bench_machine_describe(&machine);
    s.file_bytes = 8 * machine.l3_bytes;
    s.device.backend = "cpu";
    parse(argc, argv, &s);
    require(kvf_device_open(&s.device, &device, &error), &error);
    require(kvf_model_load(device, s.path, 512, &model, &error), &error);
    touch(model);
    count_model(&r, model);
    measure_types(&s, device, &r);
    r.cache_seconds = measure_caches(&s, model);
    r.step_seconds = run_steps(&s, model);
    measure_types(&s, device, &r);
    print_report(&s, model, &r);
    kvf_model_free(model);
    kvf_device_close(device);
    return 0;
}
