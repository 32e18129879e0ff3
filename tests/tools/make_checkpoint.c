/*
 * Writes checkpoints of V4's real shapes with random blocks in them: what true widths cost is
 * measured with them, as the real weights cannot be had everywhere. `make_checkpoint --help`.
 */
#include <errno.h>
#include <getopt.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tools/checkpoint.h"

static const char help[] =
    "Usage: make_checkpoint --form FORM [OPTION]... OUT\n"
    "\n"
    "Writes a checkpoint in the shapes of DeepSeek-V4 with random blocks for weights. Its\n"
    "activations stay finite; it has learned nothing. OUT is a folder (deepseek) or a file.\n"
    "\n"
    "      --form FORM      deepseek: FP8 and FP4 safetensors, an index, config.json\n"
    "                       q2, q4: a GGUF of ds4's types (IQ2_XXS and Q2_K, or Q4_K experts)\n"
    "                       mxfp4: a GGUF as llama.cpp converts it\n"
    "      --model NAME     flash (default), pro, or small, a few MB for tests\n"
    "      --layers LIST    ratios of the layers; default 0,4,128,4, the first two of them routed\n"
    "                       by token: one of each kind. all: the model's own, and in safetensors\n"
    "                       the one that predicts further tokens\n"
    "      --hash-layers N  layers routed by token, from the first on\n"
    "      --experts N      experts a layer; default: the model's own, or 32 where all files\n"
    "                       would together take more than half of this machine's memory\n"
    "      --part BYTES     files of at most so many bytes (more where one tensor has more);\n"
    "                       suffixes k, M, G (1024); default: as the real ones are, 3500M for\n"
    "                       safetensors (pro 13G), and one file for GGUF\n"
    "      --sparse         the true headers, and holes for data: takes no room on the disk\n"
    "      --seed N         of the random blocks (1): the same file again for the same options\n"
    "      --tokens         GGUF: a made-up vocabulary of V4's size, for a header of true size\n"
    "  -h, --help           this\n"
    "\n"
    "The last line of the output says what was written: tensors, their bytes, files.\n"
    "Exit status: 0, or 2 with one line that says why not.\n"
    "\n"
    "  make_checkpoint --form q2 --sparse --layers all --tokens flash-q2.gguf\n"
    "  make_checkpoint --form mxfp4 --part 2G mxfp4.gguf\n";

void give_up(const char *format, ...)
{
    va_list args;
    va_start(args, format);
    fputs("make_checkpoint: ", stderr);
    vfprintf(stderr, format, args);
    fputs("\n", stderr);
    va_end(args);
    exit(2);
}

/* ---- Options ---------------------------------------------------------------------------- */

typedef struct choices {
    const char *layers;
    uint64_t n_hash_layers;
    bool hash_given;
    uint64_t n_experts; /* 0: not given */
    bool part_given;
} choices;

static uint64_t parse_number(const char *option, const char *value, uint64_t least, uint64_t most)
{
    char *end;
    errno = 0;
    const unsigned long long number = strtoull(value, &end, 10);
    const int shift = *end == 'k' ? 10 : *end == 'M' ? 20 : *end == 'G' ? 30 : 0;
    if (shift)
        end++;
    if (errno || end == value || *end || value[0] == '-' || number > most >> shift ||
        number << shift < least)
        give_up("%s: '%s' is not a number from %llu to %llu", option, value,
                (unsigned long long)least, (unsigned long long)most);
    return number << shift;
}

static form parse_form(const char *name)
{
    static const char *const names[N_FORMS] = {"deepseek", "q2", "q4", "mxfp4"};
    for (int i = 0; i < N_FORMS; i++)
        if (strcmp(names[i], name) == 0)
            return (form)i;
    give_up("--form: there is no '%s'; there are deepseek, q2, q4 and mxfp4", name);
}

static void parse_ratios(const char *list, model *m)
{
    m->n_layers = 0;
    for (const char *at = list; *at; at += *at == ',') {
        char *end;
        const unsigned long ratio = strtoul(at, &end, 10);
        if (end == at || (*end && *end != ',') || (ratio != 0 && ratio != 4 && ratio != 128))
            give_up("--layers: '%s' is not a list of 0, 4 and 128, nor 'all'", list);
        if (m->n_layers == MOST_LAYERS)
            give_up("--layers: more than %d layers", MOST_LAYERS);
        m->ratios[m->n_layers++] = (uint32_t)ratio;
        at = end;
    }
    if (m->n_layers == 0)
        give_up("--layers: no layer");
}

/* The layers that were asked for; with all of them the layer for further tokens comes along. */
static void choose_layers(const choices *chosen, model *m)
{
    if (strcmp(chosen->layers, "all") != 0) {
        parse_ratios(chosen->layers, m);
        m->has_mtp = false;
        m->n_hash_layers = 2;
    }
    if (chosen->hash_given)
        m->n_hash_layers = (uint32_t)chosen->n_hash_layers;
    if (m->n_hash_layers > m->n_layers)
        m->n_hash_layers = m->n_layers;
}

/* Fewer experts where files that are to be filled would not stay in memory beside a session. */
static void choose_experts(const choices *chosen, checkpoint_job *job)
{
    const uint32_t few = 32;
    tensor_list list;
    if (chosen->n_experts) {
        job->model.n_experts = (uint32_t)chosen->n_experts;
        if (job->model.n_experts < job->model.n_used)
            give_up("--experts: a token takes %u of them", job->model.n_used);
        return;
    }
    if (job->sparse || job->model.n_experts <= few)
        return;
    list_tensors(job, &list);
    free(list.tensors);
    const uint64_t memory = (uint64_t)sysconf(_SC_PHYS_PAGES) * (uint64_t)sysconf(_SC_PAGE_SIZE);
    if (list.bytes <= memory / 2)
        return;
    printf("%u experts a layer, not %u: %.1f GB would be more than half of this machine's memory\n",
           few, job->model.n_experts, (double)list.bytes * 1e-9);
    job->model.n_experts = few;
}

static void parse(int argc, char **argv, checkpoint_job *job, choices *chosen)
{
    enum { FORM = 256, MODEL, LAYERS, HASH, EXPERTS, PART, SPARSE, SEED, TOKENS };
    static const struct option options[] = {{"form", required_argument, NULL, FORM},
                                            {"model", required_argument, NULL, MODEL},
                                            {"layers", required_argument, NULL, LAYERS},
                                            {"hash-layers", required_argument, NULL, HASH},
                                            {"experts", required_argument, NULL, EXPERTS},
                                            {"part", required_argument, NULL, PART},
                                            {"sparse", no_argument, NULL, SPARSE},
                                            {"seed", required_argument, NULL, SEED},
                                            {"tokens", no_argument, NULL, TOKENS},
                                            {"help", no_argument, NULL, 'h'},
                                            {NULL, 0, NULL, 0}};
    bool has_form = false;
    int id;
    while ((id = getopt_long(argc, argv, "h", options, NULL)) != -1) {
        switch (id) {
        case FORM:
            job->form = parse_form(optarg);
            has_form = true;
            break;
        case MODEL:
            if (!find_model(optarg, &job->model))
                give_up("--model: there is no '%s'; there are flash, pro and small", optarg);
            break;
        case LAYERS: chosen->layers = optarg; break;
        case HASH:
            chosen->n_hash_layers = parse_number("--hash-layers", optarg, 0, MOST_LAYERS);
            chosen->hash_given = true;
            break;
        case EXPERTS: chosen->n_experts = parse_number("--experts", optarg, 1, 4096); break;
        case PART:
            job->part_bytes = parse_number("--part", optarg, 1, UINT64_C(1) << 60);
            chosen->part_given = true;
            break;
        case SPARSE: job->sparse = true; break;
        case SEED: job->seed = parse_number("--seed", optarg, 0, UINT64_MAX); break;
        case TOKENS: job->has_tokens = true; break;
        case 'h': fputs(help, stdout); exit(0);
        default: exit(2); /* getopt_long has said why */
        }
    }
    if (!has_form || argc - optind != 1)
        give_up("--form FORM and one OUT are needed; --help says more");
    job->out = argv[optind];
}

int main(int argc, char **argv)
{
    checkpoint_job job = {.seed = 1};
    choices chosen = {.layers = "0,4,128,4"};
    tensor_list list;
    find_model("flash", &job.model);
    parse(argc, argv, &job, &chosen);
    choose_layers(&chosen, &job.model);
    choose_experts(&chosen, &job);
    if (job.form == FORM_DEEPSEEK && !chosen.part_given)
        job.part_bytes =
            strcmp(job.model.name, "pro") == 0 ? UINT64_C(13) << 30 : UINT64_C(3500) << 20;
    if (job.form == FORM_DEEPSEEK && mkdir(job.out, 0777) != 0 && errno != EEXIST)
        give_up("%s: cannot be made: %s", job.out, strerror(errno));
    list_tensors(&job, &list);
    const uint32_t n_files =
        job.form == FORM_DEEPSEEK ? write_safetensors(&job, &list) : write_gguf(&job, &list);
    printf("%s: %zu tensors, %llu bytes of data, %u file%s%s\n", job.out, list.n,
           (unsigned long long)list.bytes, n_files, n_files == 1 ? "" : "s",
           job.sparse ? ", holes for data" : "");
    free(list.tensors);
    return 0;
}
