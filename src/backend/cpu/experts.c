/*
 * Routing and experts. Tokens are taken by tiles, and in a tile by expert, so that an
 * expert's weights are decoded once for all of its tokens. Two passes: gate and up of all
 * choices, then, for a few of the outputs at a time, down of all choices and their sum in
 * the order of each token's list, as ref/ spells it out.
 */
#include <string.h>

#include "backend/cpu/product.h"
#include "shared/activation.h"

#define MOST_USED_EXPERTS 64
/* Tokens x inputs x blocks of 16 rows for which the other threads are not asked. */
#define LEAST_THREADED_EXPERTS (1u << 10)

/* ---- Routing --------------------------------------------------------------------- */

/* The top_k experts by score + bias, highest first; equal: the lower expert. */
static void choose_experts(const kvf_route_args *args, const float *logits, int32_t *experts)
{
    float best[MOST_USED_EXPERTS];
    uint32_t n = 0;
    for (uint32_t e = 0; e < args->n_experts; e++) {
        const float score = kvf_route_score(logits[e]) + (args->bias ? args->bias[e] : 0.0f);
        uint32_t place = n;
        while (place > 0 && score > best[place - 1])
            place--;
        if (place >= args->top_k)
            continue;
        const uint32_t last = n < args->top_k ? n : args->top_k - 1;
        for (uint32_t i = last; i > place; i--) {
            best[i] = best[i - 1];
            experts[i] = experts[i - 1];
        }
        best[place] = score;
        experts[place] = (int32_t)e;
        n = n < args->top_k ? n + 1 : n;
    }
}

static void route_tokens(void *context, size_t first, size_t end, uint32_t thread)
{
    const kvf_route_args *args = context;
    (void)thread;
    for (size_t i = first; i < end; i++) {
        const float *logits = args->logits + i * args->n_experts;
        int32_t *experts = args->experts + i * args->top_k;
        float *weights = args->weights + i * args->top_k;
        if (args->token_map)
            memcpy(experts, args->token_map + (size_t)args->tokens[i] * args->top_k,
                   args->top_k * sizeof *experts);
        else
            choose_experts(args, logits, experts);
        float sum = 0.0f;
        for (uint32_t k = 0; k < args->top_k; k++) {
            weights[k] = kvf_route_score(logits[experts[k]]);
            sum += weights[k];
        }
        for (uint32_t k = 0; k < args->top_k; k++)
            weights[k] =
                (args->normalise ? weights[k] / (sum + 1e-20f) : weights[k]) * args->scaling;
    }
}

void kvf_cpu_route(kvf_device *device, const kvf_route_args *args)
{
    kvf_cpu_loop(device, args->n > 16, args->n, 0, route_tokens, (void *)args);
}

/* ---- A tile of tokens ------------------------------------------------------------ */

/*
 * A choice is a token's k-th expert, number token * top_k + k within the tile. The shared
 * expert is one more, after the routed ones, which every token has.
 */
typedef struct tile {
    const kvf_experts_args *args;
    const kvf_cpu_device *device;
    uint32_t first; /* token */
    uint32_t n;
    uint32_t n_experts; /* with the shared one */
    float *act;         /* [choices and, behind them, tokens][ffn]: gate and up, activated */
    int32_t *starts;    /* [n_experts + 1]: an expert's place in the two lists */
    int32_t *chosen;    /* [n_chosen]: the experts that have tokens here, ascending */
    uint32_t n_chosen;
    int32_t *choices; /* by expert, ascending */
    int32_t *tokens;  /* the token, within the tile, of each of them */
    uint32_t blocks;  /* of an expert's gate rows, for the widest one */
} tile;

static size_t widest_ffn(const kvf_experts_args *args)
{
    return args->ffn > args->shared_ffn ? args->ffn : args->shared_ffn;
}

static uint32_t tokens_of_tile(uint32_t n, uint32_t top_k)
{
    const uint32_t most = KVF_EXPERT_CHOICES / (top_k + 1);
    return n < most ? n : most;
}

size_t kvf_cpu_experts_workspace(const kvf_device *device, const kvf_experts_args *args)
{
    (void)device;
    const size_t n = tokens_of_tile(args->n, args->top_k);
    const size_t choices = n * (args->top_k + 1);
    return choices * widest_ffn(args) * sizeof(float) +
           (2 * choices + 2 * (args->n_experts + 2)) * sizeof(int32_t);
}

static const kvf_expert_weights *expert_of(const tile *t, uint32_t expert)
{
    return expert < t->args->n_experts ? &t->args->routed[expert] : &t->args->shared;
}

/* Choices sorted by expert: counted, then placed. */
static void sort_choices(tile *t)
{
    const kvf_experts_args *args = t->args;
    const uint32_t n_choices = t->n * args->top_k;
    const int32_t *experts = args->experts + (size_t)t->first * args->top_k;
    int32_t *starts = t->starts;
    memset(starts, 0, (t->n_experts + 1) * sizeof *starts);
    for (uint32_t c = 0; c < n_choices; c++)
        starts[experts[c] + 1]++;
    if (args->shared_ffn)
        starts[args->n_experts + 1] = (int32_t)t->n;
    for (uint32_t e = 0; e < t->n_experts; e++)
        starts[e + 1] += starts[e];
    for (uint32_t c = 0; c < n_choices; c++) {
        const int32_t place = starts[experts[c]]++;
        t->choices[place] = (int32_t)c;
        t->tokens[place] = (int32_t)(c / args->top_k);
    }
    for (uint32_t i = 0; args->shared_ffn && i < t->n; i++) {
        const int32_t place = starts[args->n_experts]++;
        t->choices[place] = (int32_t)(n_choices + i);
        t->tokens[place] = (int32_t)i;
    }
    memmove(starts + 1, starts, t->n_experts * sizeof *starts);
    starts[0] = 0;
    t->n_chosen = 0;
    for (uint32_t e = 0; e < t->n_experts; e++)
        if (starts[e] < starts[e + 1])
            t->chosen[t->n_chosen++] = (int32_t)e;
}

/* ---- Gate and up ------------------------------------------------------------------- */

/* Rows row .. + n_rows of gate and up of one expert for all of its tokens. */
static void activate_block(const tile *t, uint32_t expert, uint32_t row, kvf_product_space *space)
{
    const kvf_experts_args *args = t->args;
    const kvf_cpu_kernels *kernels = t->device->kernels;
    const kvf_expert_weights *weights = expert_of(t, expert);
    const size_t ffn = widest_ffn(args);
    const uint32_t left = weights->w1.rows - row;
    const uint32_t n_rows = left < KVF_PRODUCT_ROWS ? left : KVF_PRODUCT_ROWS;
    for (int32_t begin = t->starts[expert]; begin < t->starts[expert + 1];
         begin += KVF_PRODUCT_TOKENS) {
        const int32_t n = t->starts[expert + 1] - begin;
        const kvf_product_tokens tokens = {.in = args->in + (size_t)t->first * args->hidden,
                                           .stride = args->hidden,
                                           .list = t->tokens + begin,
                                           .n = n < KVF_PRODUCT_TOKENS ? (uint32_t)n
                                                                       : KVF_PRODUCT_TOKENS};
        kvf_product_block(kernels, &weights->w1, row, n_rows, &tokens, space, space->out[0][0],
                          KVF_PRODUCT_ROWS);
        kvf_product_block(kernels, &weights->w3, row, n_rows, &tokens, space, space->out[1][0],
                          KVF_PRODUCT_ROWS);
        kernels->swiglu(&space->out[0][0][0], &space->out[1][0][0], args->limit,
                        (size_t)tokens.n * KVF_PRODUCT_ROWS);
        for (uint32_t i = 0; i < tokens.n; i++)
            memcpy(t->act + (size_t)t->choices[begin + (int32_t)i] * ffn + row, space->out[0][i],
                   n_rows * sizeof(float));
    }
}

static void activate_items(void *context, size_t first, size_t end, uint32_t thread)
{
    const tile *t = context;
    for (size_t item = first; item < end; item++) {
        const uint32_t expert = (uint32_t)t->chosen[item / t->blocks];
        const uint32_t row = (uint32_t)(item % t->blocks) * KVF_PRODUCT_ROWS;
        if (row < expert_of(t, expert)->w1.rows)
            activate_block(t, expert, row, &t->device->spaces[thread]);
    }
}

/* ---- Down -------------------------------------------------------------------------- */

/* slots[choice][16]: rows row .. + n_rows of down of one expert. */
static void down_block(const tile *t, uint32_t expert, uint32_t row, uint32_t n_rows,
                       kvf_product_space *space)
{
    const kvf_expert_weights *weights = expert_of(t, expert);
    for (int32_t begin = t->starts[expert]; begin < t->starts[expert + 1];
         begin += KVF_PRODUCT_TOKENS) {
        const int32_t n = t->starts[expert + 1] - begin;
        const kvf_product_tokens tokens = {.in = t->act,
                                           .stride = widest_ffn(t->args),
                                           .list = t->choices + begin,
                                           .n = n < KVF_PRODUCT_TOKENS ? (uint32_t)n
                                                                       : KVF_PRODUCT_TOKENS};
        kvf_product_block(t->device->kernels, &weights->w2, row, n_rows, &tokens, space,
                          space->out[0][0], KVF_PRODUCT_ROWS);
        for (uint32_t i = 0; i < tokens.n; i++)
            memcpy(space->slots[t->choices[begin + (int32_t)i]], space->out[0][i],
                   sizeof space->out[0][i]);
    }
}

/* A token's outputs: from zero, its experts in the order of its list, then the shared one. */
static void add_choices(const tile *t, uint32_t token, uint32_t row, uint32_t n_rows,
                        const kvf_product_space *space)
{
    const kvf_experts_args *args = t->args;
    const float *weights = args->weights + (size_t)(t->first + token) * args->top_k;
    float sums[KVF_PRODUCT_ROWS] = {0};
    for (uint32_t k = 0; k < args->top_k; k++)
        for (uint32_t r = 0; r < KVF_PRODUCT_ROWS; r++)
            sums[r] += weights[k] * space->slots[token * args->top_k + k][r];
    for (uint32_t r = 0; args->shared_ffn && r < KVF_PRODUCT_ROWS; r++)
        sums[r] += space->slots[t->n * args->top_k + token][r];
    memcpy(args->out + (size_t)(t->first + token) * args->hidden + row, sums,
           n_rows * sizeof *sums);
}

static void down_items(void *context, size_t first, size_t end, uint32_t thread)
{
    const tile *t = context;
    kvf_product_space *space = &t->device->spaces[thread];
    for (size_t item = first; item < end; item++) {
        const uint32_t row = (uint32_t)item * KVF_PRODUCT_ROWS;
        const uint32_t left = t->args->hidden - row;
        const uint32_t n_rows = left < KVF_PRODUCT_ROWS ? left : KVF_PRODUCT_ROWS;
        for (uint32_t i = 0; i < t->n_chosen; i++)
            down_block(t, (uint32_t)t->chosen[i], row, n_rows, space);
        for (uint32_t token = 0; token < t->n; token++)
            add_choices(t, token, row, n_rows, space);
    }
}

void kvf_cpu_experts(kvf_device *device, const kvf_experts_args *args)
{
    const uint32_t most = tokens_of_tile(args->n, args->top_k);
    const size_t most_choices = (size_t)most * (args->top_k + 1);
    tile t = {.args = args,
              .device = (const kvf_cpu_device *)device,
              .n_experts = args->n_experts + (args->shared_ffn ? 1 : 0),
              .act = args->workspace,
              .blocks = (uint32_t)((widest_ffn(args) + KVF_PRODUCT_ROWS - 1) / KVF_PRODUCT_ROWS)};
    t.choices = (int32_t *)(void *)(args->workspace + most_choices * widest_ffn(args));
    t.tokens = t.choices + most_choices;
    t.starts = t.tokens + most_choices;
    t.chosen = t.starts + args->n_experts + 2;
    const size_t n_down = (args->hidden + KVF_PRODUCT_ROWS - 1) / KVF_PRODUCT_ROWS;
    for (t.first = 0; t.first < args->n; t.first += t.n) {
        t.n = args->n - t.first < most ? args->n - t.first : most;
        sort_choices(&t);
        const bool threaded = (uint64_t)t.n * args->hidden * t.blocks >= LEAST_THREADED_EXPERTS;
        kvf_cpu_loop(device, threaded, (size_t)t.n_chosen * t.blocks, 1, activate_items, &t);
        kvf_cpu_loop(device, threaded, n_down, 1, down_items, &t);
    }
}
