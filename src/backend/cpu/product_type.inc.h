/*
 * The products of one stored type. A template, included once per type by product.inc.h.
 *
 * Parameters:
 *   KVF_TYPE              the type's name, in front of its two functions:
 *     void NAME_open(&unit, bytes, scales, u)   unit u of a row, its scales made ready
 *     v16 NAME_group(&unit, g)                  its values 16 g .. + 16; g is a constant
 *   KVF_TYPE_UNIT         values of a unit: 16, 32, 128 or 256
 *   KVF_TYPE_BYTES        bytes of a unit
 *   KVF_TYPE_SCALE_ROWS   rows that share a row of the plane of scales; 0: no plane
 *   KVF_TYPE_SLOWLY       defined: for units[n_rows] of which NAME_is_plain(units, n_rows) is
 *                         false, v16 NAME_slowly(&unit, g) takes the place of NAME_group
 *   KVF_TYPE_NO_PAIRS     defined: two tokens are taken as four
 *
 * In a dot, group g of V16_BESIDE_ROWS rows is followed by their group g + 1: x is loaded once
 * for all of them, and additions to one sum do not wait for each other.
 *
 * With a few tokens a decoded group is multiplied with all of them while it is in a register: no
 * panel is written and read. Fewer rows are beside each other then, for their sums are more.
 *
 * Groups of a unit are unrolled, and what several of them have in common (codes of two of
 * them in one byte, a table) is written as if each had it alone: the compiler finds it.
 */
#define KVF_JOIN_(a, b) a##b
#define KVF_JOIN(a, b) KVF_JOIN_(a, b)
#define UNIT_OF KVF_JOIN(KVF_TYPE, _unit)
#define OPEN KVF_JOIN(KVF_TYPE, _open)
#define GROUP KVF_JOIN(KVF_TYPE, _group)
#define REST KVF_JOIN(KVF_TYPE, _rest)
#define DOT KVF_JOIN(KVF_TYPE, _dot)
#define DOT_ROWS KVF_JOIN(KVF_TYPE, _dot_rows)
#define ADD_UNIT KVF_JOIN(KVF_TYPE, _add_unit)
#define FEW KVF_JOIN(KVF_TYPE, _few)
#define FEW_ROWS KVF_JOIN(KVF_TYPE, _few_rows)
#define FEW_UNIT KVF_JOIN(KVF_TYPE, _few_unit)
#define DECODE KVF_JOIN(KVF_TYPE, _decode)
#define STORE KVF_JOIN(KVF_TYPE, _store)
#define UNIT_GROUPS (KVF_TYPE_UNIT / 16)

#ifdef KVF_TYPE_NO_PAIRS
#define TAKES_PAIRS false
#else
#define TAKES_PAIRS true
#endif

#ifdef KVF_TYPE_SLOWLY
#define SLOWLY KVF_JOIN(KVF_TYPE, _slowly)
#define IS_PLAIN KVF_JOIN(KVF_TYPE, _is_plain)
#define ADD_SLOWLY KVF_JOIN(KVF_TYPE, _add_slowly)
/* sum + the values of a unit times x. Opens it again: so the caller's stays in registers. */
static __attribute__((noinline)) v16 ADD_SLOWLY(const uint8_t *bytes, const uint8_t *scales,
                                                uint32_t u, const float *x, v16 sum)
{
    UNIT_OF unit;
    OPEN(&unit, bytes, scales, u);
    for (int g = 0; g < UNIT_GROUPS; g++)
        sum = v16_fma(SLOWLY(&unit, g), v16_load(x + 16 * g), sum);
    return sum;
}
#else
#define SLOWLY(unit, g) v16_set1(0.0f) /* never called */
#define IS_PLAIN(units, n_rows) true
#define ADD_SLOWLY(bytes, scales, u, x, sum) (sum)
#endif

/* The first groups of a unit, `stride` values from one to the next. */
static inline void STORE(const UNIT_OF *unit, const int n_groups, float *restrict values,
                         size_t stride)
{
    if (__builtin_expect(!IS_PLAIN(unit, 1), 0)) {
        for (int g = 0; g < n_groups; g++)
            v16_store(values + (size_t)g * stride, SLOWLY(unit, g));
        return;
    }
    KVF_UNROLL
    for (int g = 0; g < UNIT_GROUPS; g++)
        if (g < n_groups)
            v16_store(values + (size_t)g * stride, GROUP(unit, g));
}

/* The n < KVF_TYPE_UNIT values behind the last whole unit, zeros after them. */
static inline void REST(weight_place place, uint32_t u, uint32_t n, float *values)
{
    uint8_t bytes[KVF_TYPE_BYTES] = {0};
    memcpy(bytes, place.data + (size_t)u * KVF_TYPE_BYTES,
           (size_t)n * KVF_TYPE_BYTES / KVF_TYPE_UNIT);
    UNIT_OF unit;
    OPEN(&unit, bytes, place.scales, u);
    STORE(&unit, (int)(n + 15) / 16, values, 16);
    memset(values + n, 0, (KVF_TYPE_UNIT - n) * sizeof *values); /* where 0 x scale is not 0 */
}

/* sums += the values of unit u of n_rows rows times x. */
static inline __attribute__((always_inline)) void ADD_UNIT(const uint8_t *const *bytes,
                                                           const weight_place *place, uint32_t u,
                                                           const int n_rows, const float *x,
                                                           v16 *sums)
{
    UNIT_OF units[V16_BESIDE_ROWS];
    KVF_UNROLL
    for (int r = 0; r < n_rows; r++)
        OPEN(&units[r], bytes[r], place[r].scales, u);
    if (__builtin_expect(!IS_PLAIN(units, n_rows), 0)) {
        for (int r = 0; r < n_rows; r++)
            sums[r] = ADD_SLOWLY(bytes[r], place[r].scales, u, x, sums[r]);
        return;
    }
    KVF_UNROLL
    for (int g = 0; g < UNIT_GROUPS; g++) {
        const v16 values = v16_load(x + 16 * g);
        KVF_UNROLL
        for (int r = 0; r < n_rows; r++)
            sums[r] = v16_fma(GROUP(&units[r], g), values, sums[r]);
    }
}

/* n_rows dots with x[cols]; `rest` as in kvf_product_kernels. */
static inline __attribute__((always_inline)) void DOT_ROWS(const kvf_matrix *matrix, uint32_t row,
                                                           const int n_rows, const float *x,
                                                           const float *rest, float *out)
{
    v16 sums[KVF_DOT_ROWS];
    weight_place place[KVF_DOT_ROWS];
    const uint8_t *bytes[KVF_DOT_ROWS];
    KVF_UNROLL
    for (int r = 0; r < n_rows; r++) {
        sums[r] = v16_set1(0.0f);
        place[r] = place_of_row(matrix, row + (uint32_t)r, KVF_TYPE_SCALE_ROWS);
        bytes[r] = place[r].data;
    }
    const uint32_t n_units = matrix->cols / KVF_TYPE_UNIT;
    const size_t ahead_bytes = KVF_DOT_ROWS * matrix->row_bytes; /* the next call's */
    for (uint32_t u = 0; u < n_units; u++) {
        const float *values = x + (size_t)u * KVF_TYPE_UNIT;
        KVF_UNROLL
        for (int r = 0; n_rows > 1 && r < n_rows; r++)
            prefetch_ahead(bytes[r], ahead_bytes, KVF_TYPE_BYTES);
        KVF_UNROLL
        for (int r = 0; r < n_rows; r += V16_BESIDE_ROWS)
            ADD_UNIT(bytes + r, place + r, u, n_rows < V16_BESIDE_ROWS ? n_rows : V16_BESIDE_ROWS,
                     values, sums + r);
        KVF_UNROLL
        for (int r = 0; r < n_rows; r++) {
            bytes[r] += KVF_TYPE_BYTES;
            __asm__("" : "+r"(bytes[r])); /* a register of its own, no sum of others */
        }
    }
    const uint32_t n_rest = matrix->cols % KVF_TYPE_UNIT;
    rest += n_units * KVF_TYPE_UNIT - matrix->cols / 128 * 128;
    for (int r = 0; n_rest && r < n_rows; r++) {
        float values[KVF_TYPE_UNIT];
        REST(place[r], n_units, n_rest, values);
        for (uint32_t g = 0; 16 * g < n_rest; g++)
            sums[r] = v16_fma(v16_load(values + 16 * g), v16_load(rest + 16 * g), sums[r]);
    }
    KVF_UNROLL
    for (int r = 0; r < n_rows; r++)
        out[r] = v16_sum(sums[r]);
}

static void DOT(const kvf_matrix *matrix, uint32_t first_row, uint32_t n_rows, const float *x,
                const float *rest, float *out)
{
    uint32_t r = 0;
    for (; r + KVF_DOT_ROWS <= n_rows; r += KVF_DOT_ROWS)
        DOT_ROWS(matrix, first_row + r, KVF_DOT_ROWS, x, rest, out + r);
    for (; r < n_rows; r++)
        DOT_ROWS(matrix, first_row + r, 1, x, rest, out + r);
}

/* sums[r][t] += the values of unit u of n_rows rows times x[t][at ..]. */
static inline __attribute__((always_inline)) void
FEW_UNIT(const uint8_t *const *bytes, const weight_place *place, uint32_t u, const int n_rows,
         const float *const *x, const int n_tokens, v16 (*sums)[KVF_FEW_TOKENS])
{
    const size_t at = (size_t)u * KVF_TYPE_UNIT;
    UNIT_OF units[V16_FEW_ROWS];
    KVF_UNROLL
    for (int r = 0; r < n_rows; r++)
        OPEN(&units[r], bytes[r], place[r].scales, u);
    if (__builtin_expect(!IS_PLAIN(units, n_rows), 0)) {
        KVF_UNROLL
        for (int r = 0; r < n_rows; r++)
            KVF_UNROLL
        for (int t = 0; t < n_tokens; t++)
            sums[r][t] = ADD_SLOWLY(bytes[r], place[r].scales, u, x[t] + at, sums[r][t]);
        return;
    }
    KVF_UNROLL
    for (int g = 0; g < UNIT_GROUPS; g++) {
        v16 values[V16_FEW_ROWS];
        KVF_UNROLL
        for (int r = 0; r < n_rows; r++)
            values[r] = GROUP(&units[r], g);
        KVF_UNROLL
        for (int t = 0; t < n_tokens; t++) {
            const v16 token = v16_load(x[t] + at + 16 * g);
            KVF_UNROLL
            for (int r = 0; r < n_rows; r++)
                sums[r][t] = v16_fma(values[r], token, sums[r][t]);
        }
    }
}

/* n_rows rows times n_tokens tokens, both constants. */
static inline __attribute__((always_inline)) void
FEW_ROWS(const kvf_matrix *matrix, uint32_t row, const int n_rows, const float *const *x,
         const float *const *rest, const int n_tokens, float (*out)[KVF_FEW_TOKENS])
{
    v16 sums[V16_FEW_ROWS][KVF_FEW_TOKENS];
    weight_place place[V16_FEW_ROWS];
    const uint8_t *bytes[V16_FEW_ROWS];
    KVF_UNROLL
    for (int r = 0; r < n_rows; r++) {
        KVF_UNROLL
        for (int t = 0; t < n_tokens; t++)
            sums[r][t] = v16_set1(0.0f);
        place[r] = place_of_row(matrix, row + (uint32_t)r, KVF_TYPE_SCALE_ROWS);
        bytes[r] = place[r].data;
    }
    const uint32_t n_units = matrix->cols / KVF_TYPE_UNIT;
    const size_t ahead_bytes = V16_FEW_ROWS * matrix->row_bytes; /* the next rows' */
    for (uint32_t u = 0; u < n_units; u++) {
        KVF_UNROLL
        for (int r = 0; r < n_rows; r++)
            prefetch_ahead(bytes[r], ahead_bytes, KVF_TYPE_BYTES);
        FEW_UNIT(bytes, place, u, n_rows, x, n_tokens, sums);
        KVF_UNROLL
        for (int r = 0; r < n_rows; r++) {
            bytes[r] += KVF_TYPE_BYTES;
            __asm__("" : "+r"(bytes[r])); /* a register of its own, no sum of others */
        }
    }
    const uint32_t n_rest = matrix->cols % KVF_TYPE_UNIT;
    const uint32_t rest_at = n_units * KVF_TYPE_UNIT - matrix->cols / 128 * 128;
    KVF_UNROLL /* sums that a variable counts would lie in memory */
        for (int r = 0; r < n_rows; r++)
    {
        float values[KVF_TYPE_UNIT];
        if (n_rest == 0)
            break;
        REST(place[r], n_units, n_rest, values);
        KVF_UNROLL
        for (int t = 0; t < n_tokens; t++)
            for (uint32_t g = 0; 16 * g < n_rest; g++)
                sums[r][t] = v16_fma(v16_load(values + 16 * g),
                                     v16_load(rest[t] + rest_at + 16 * g), sums[r][t]);
    }
    KVF_UNROLL
    for (int r = 0; r < n_rows; r++)
        KVF_UNROLL
    for (int t = 0; t < n_tokens; t++)
        out[r][t] = v16_sum(sums[r][t]);
}

static void FEW(const kvf_matrix *matrix, uint32_t first_row, uint32_t n_rows,
                const float *const *x, const float *const *rest, uint32_t n_tokens,
                float (*out)[KVF_FEW_TOKENS])
{
    for (uint32_t r = 0; r < n_rows; r += V16_FEW_ROWS) {
        const uint32_t row = first_row + r;
        if (n_rows - r < V16_FEW_ROWS)
            FEW_ROWS(matrix, row, 1, x, rest, V16_FEW_TOKENS, out + r);
        else if (n_tokens == 2 && TAKES_PAIRS)
            FEW_ROWS(matrix, row, V16_FEW_ROWS, x, rest, 2, out + r);
        else if (n_tokens <= 4)
            FEW_ROWS(matrix, row, V16_FEW_ROWS, x, rest, 4, out + r);
        else
            FEW_ROWS(matrix, row, V16_FEW_ROWS, x, rest, V16_FEW_TOKENS, out + r);
    }
}

/* Values first_col .. + 16 n_groups of a row into a panel; past the row's end they are 0. */
static void DECODE(const kvf_matrix *matrix, uint32_t row, uint32_t first_col, uint32_t n_groups,
                   float *panel)
{
    const weight_place place = place_of_row(matrix, row, KVF_TYPE_SCALE_ROWS);
    const uint32_t left = matrix->cols - first_col;
    const uint32_t n_whole =
        left < 16 * n_groups ? left / KVF_TYPE_UNIT : 16 * n_groups / KVF_TYPE_UNIT;
    const uint32_t first = first_col / KVF_TYPE_UNIT;
    for (uint32_t u = 0; u < n_whole; u++) {
        UNIT_OF unit;
        OPEN(&unit, place.data + (size_t)(first + u) * KVF_TYPE_BYTES, place.scales, first + u);
        STORE(&unit, UNIT_GROUPS, panel + (size_t)u * UNIT_GROUPS * V16_TILE_ROWS * 16,
              V16_TILE_ROWS * 16);
    }
    const uint32_t n_rest = n_whole * UNIT_GROUPS < n_groups ? left % KVF_TYPE_UNIT : 0;
    if (n_rest) {
        float values[KVF_TYPE_UNIT];
        REST(place, first + n_whole, n_rest, values);
        for (uint32_t g = 0; 16 * g < n_rest; g++)
            v16_store(panel + ((size_t)n_whole * UNIT_GROUPS + g) * V16_TILE_ROWS * 16,
                      v16_load(values + 16 * g));
    }
}

#undef UNIT_OF
#undef OPEN
#undef GROUP
#undef REST
#undef DOT
#undef DOT_ROWS
#undef DECODE
#undef STORE
#undef SLOWLY
#undef IS_PLAIN
#undef ADD_SLOWLY
#undef ADD_UNIT
#undef FEW
#undef FEW_ROWS
#undef FEW_UNIT
#undef TAKES_PAIRS
#undef UNIT_GROUPS
#undef KVF_TYPE
#undef KVF_TYPE_UNIT
#undef KVF_TYPE_BYTES
#undef KVF_TYPE_SCALE_ROWS
#undef KVF_TYPE_SLOWLY
#undef KVF_TYPE_NO_PAIRS
