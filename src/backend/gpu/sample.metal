/*
 * What a host needs of a row of logits to draw a token (docs/SAMPLING.md): two passes. A threadgroup
 * a part of a row changes its logits and finds its highest and its sums; then one a row merges what
 * its parts have. Sums are in f32, of terms at most 1, in one order whatever the schedule.
 */
#include <metal_stdlib>

#include "backend/gpu/dense.h"
#include "backend/gpu/dense_math.h"
#include "backend/gpu/top.h"

using namespace metal;

/* The logits of a part. A token that cannot be drawn has the order 0, which no other one has. */
struct kvf_logit_source {
    device const float *values;
    device const uint *allowed; /* of the row; may be null: all are */
    uint first;                 /* id */
    uint count;

    inline uint n_segments() const
    {
        return 1;
    }
    inline uint n_orders(uint) const
    {
        return count;
    }
    inline bool is_drawable(uint i) const
    {
        const uint id = first + i;
        if (allowed && (allowed[id / 32] >> (id % 32) & 1) == 0)
            return false;
        return values[i] > -INFINITY; /* false for NaN */
    }
    inline uint order(uint, uint i) const
    {
        return is_drawable(i) ? kvf_order(values[i]) : 0;
    }
};

/* ---- Changes ----------------------------------------------------------------------- */

/* The order of host_sample.c, a rounding a step. */
static inline float penalised(device const kvf_sample_kernel_row *row, uint count, float logit)
{
    logit = logit > 0 ? logit / row->repeat_penalty : logit * row->repeat_penalty;
    if (count > 0) {
        const float each = row->frequency_penalty * float(count);
        logit = logit - (row->presence_penalty + each);
    }
    return logit;
}

/* A list has an id once, so that no two threads change one logit. Ends with a barrier. */
static inline void change_part(device const kvf_sample_kernel_row *row, device const float *given,
                               device float *changed, uint first, uint n, kvf_at at)
{
    device const kvf_token_use *uses = reinterpret_cast<device const kvf_token_use *>(row->uses);
    device const kvf_bias *bias = reinterpret_cast<device const kvf_bias *>(row->bias);
    for (uint i = at.thread_index; i < n; i += at.n_threads)
        changed[i] = given[i];
    threadgroup_barrier(mem_flags::mem_device);
    for (uint i = at.thread_index; i < row->n_uses; i += at.n_threads) {
        const uint place = uses[i].id - first;
        if (place < n)
            changed[place] = penalised(row, uses[i].count, changed[place]);
    }
    threadgroup_barrier(mem_flags::mem_device);
    for (uint i = at.thread_index; i < row->n_bias; i += at.n_threads) {
        const uint place = uint(bias[i].id) - first;
        if (place < n)
            changed[place] = changed[place] + bias[i].value;
    }
    threadgroup_barrier(mem_flags::mem_device);
}

/* ---- Counts, extremes, sums ----------------------------------------------------------- */

static inline bool is_finite(float value)
{
    return fabs(value) < INFINITY; /* false for NaN */
}

static inline kvf_sample_part no_part()
{
    kvf_sample_part part;
    part.n_drawable = 0;
    part.first_bad = KVF_SAMPLED_ALL_FINITE;
    part.highest_given = -INFINITY;
    part.highest = -INFINITY;
    part.given_sum = 0.0f;
    part.mass = 0.0f;
    return part;
}

static inline void join_extremes(thread kvf_sample_part &to, uint n_drawable, uint first_bad,
                                 float highest_given, float highest)
{
    to.n_drawable += n_drawable;
    to.first_bad = min(to.first_bad, first_bad);
    to.highest_given = max(to.highest_given, highest_given);
    to.highest = max(to.highest, highest);
}

/* Counts and extremes of all threads' values, for every thread. */
static inline kvf_sample_part find_extremes(thread const kvf_logit_source &source,
                                            device const float *given, threadgroup uint *work,
                                            kvf_at at)
{
    kvf_sample_part part = no_part();
    for (uint i = at.thread_index; i < source.count; i += at.n_threads) {
        const float value = given[i];
        const bool drawable = source.is_drawable(i);
        join_extremes(part, drawable ? 1 : 0,
                      is_finite(value) ? KVF_SAMPLED_ALL_FINITE : source.first + i,
                      value > -INFINITY ? value : -INFINITY,
                      drawable ? source.values[i] : -INFINITY);
    }
    for (uint apart = KVF_SIMD_WIDTH / 2; apart > 0; apart /= 2)
        join_extremes(part, simd_shuffle_xor(part.n_drawable, ushort(apart)),
                      simd_shuffle_xor(part.first_bad, ushort(apart)),
                      simd_shuffle_xor(part.highest_given, ushort(apart)),
                      simd_shuffle_xor(part.highest, ushort(apart)));
    if (at.lane == 0) {
        work[4 * at.simd] = part.n_drawable;
        work[4 * at.simd + 1] = part.first_bad;
        work[4 * at.simd + 2] = as_type<uint>(part.highest_given);
        work[4 * at.simd + 3] = as_type<uint>(part.highest);
    }
    threadgroup_barrier(mem_flags::mem_threadgroup);
    part = no_part();
    for (uint s = 0; s < at.n_threads / KVF_SIMD_WIDTH; s++)
        join_extremes(part, work[4 * s], work[4 * s + 1], as_type<float>(work[4 * s + 2]),
                      as_type<float>(work[4 * s + 3]));
    threadgroup_barrier(mem_flags::mem_threadgroup); /* work is used again */
    return part;
}

/* Both sums of a part, whose extremes are known; thread 0 has them. */
static inline void find_sums(thread const kvf_logit_source &source, device const float *given,
                             float temperature, thread kvf_sample_part &part,
                             threadgroup uint *work, kvf_at at)
{
    const bool sums_given = is_finite(part.highest_given);
    const bool sums_mass = is_finite(part.highest) && temperature > 0.0f;
    float given_sum = 0.0f;
    float mass = 0.0f;
    for (uint i = at.thread_index; i < source.count; i += at.n_threads) {
        if (sums_given && given[i] > -INFINITY)
            given_sum += kvf_exp(given[i] - part.highest_given);
        if (sums_mass && source.is_drawable(i))
            mass += kvf_exp((source.values[i] - part.highest) / temperature);
    }
    for (uint apart = KVF_SIMD_WIDTH / 2; apart > 0; apart /= 2) {
        given_sum += simd_shuffle_xor(given_sum, ushort(apart));
        mass += simd_shuffle_xor(mass, ushort(apart));
    }
    if (at.lane == 0) {
        work[2 * at.simd] = as_type<uint>(given_sum);
        work[2 * at.simd + 1] = as_type<uint>(mass);
    }
    threadgroup_barrier(mem_flags::mem_threadgroup);
    for (uint s = 0; at.thread_index == 0 && s < at.n_threads / KVF_SIMD_WIDTH; s++) {
        part.given_sum += as_type<float>(work[2 * s]);
        part.mass += as_type<float>(work[2 * s + 1]);
    }
}

/* ---- The kernels ----------------------------------------------------------------------- */

/* group.x: rows, group.y: parts of KVF_SAMPLE_PART_VALUES logits. */
[[max_total_threads_per_threadgroup(KVF_TOP_THREADS)]] kernel void kvf_sample_parts(
    constant kvf_sample_kernel_args &args [[buffer(0)]],
    threadgroup uint *top [[threadgroup(0)]], threadgroup uint *work [[threadgroup(1)]],
    uint3 group [[threadgroup_position_in_grid]], uint thread_index [[thread_index_in_threadgroup]],
    uint lane [[thread_index_in_simdgroup]], uint simd [[simdgroup_index_in_threadgroup]])
{
    const kvf_at at = {thread_index, KVF_TOP_THREADS, lane, simd};
    device const kvf_sample_kernel_row *row =
        reinterpret_cast<device const kvf_sample_kernel_row *>(args.rows) + group.x;
    const uint first = group.y * KVF_SAMPLE_PART_VALUES;
    const uint n = min(args.vocab - first, uint(KVF_SAMPLE_PART_VALUES));
    const ulong begin = ulong(group.x) * args.vocab + first;
    device const float *given = reinterpret_cast<device const float *>(args.logits) + begin;
    device float *changed = reinterpret_cast<device float *>(args.changed) + begin;
    const ulong slot = ulong(group.x) * args.n_parts + group.y;
    device uint *orders =
        reinterpret_cast<device uint *>(args.orders) + slot * KVF_SAMPLED_MOST;
    device uint *ids = reinterpret_cast<device uint *>(args.ids) + slot * KVF_SAMPLED_MOST;
    if (row->has_changes)
        change_part(row, given, changed, first, n, at);
    kvf_logit_source source;
    source.values = given;
    if (row->has_changes)
        source.values = changed;
    source.allowed = reinterpret_cast<device const uint *>(row->allowed);
    source.first = first;
    source.count = n;
    kvf_sample_part part = find_extremes(source, given, work, at);
    find_sums(source, given, row->temperature, part, work, at);
    kvf_threshold threshold = {0, 0}; /* all that can be drawn */
    if (n > KVF_SAMPLED_MOST)
        threshold = kvf_find_kth(source, KVF_SAMPLED_MOST,
                                 reinterpret_cast<threadgroup atomic_uint *>(top), at);
    kvf_kept kept = kvf_keep_nothing();
    for (uint chunk = 0; chunk < n; chunk += at.n_threads) {
        const uint i = chunk + thread_index;
        const uint order = i < n ? source.order(0, i) : 0;
        uint place = 0;
        if (kvf_keep(order > threshold.order, order == threshold.order && order != 0,
                     threshold.left, top + KVF_TOP_SUMS, at, kept, place)) {
            orders[place] = order;
            ids[place] = first + i;
        }
    }
    if (thread_index == 0) {
        device kvf_sample_part *out = reinterpret_cast<device kvf_sample_part *>(args.parts) + slot;
        out->n_drawable = part.n_drawable;
        out->first_bad = part.first_bad;
        out->highest_given = part.highest_given;
        out->highest = part.highest;
        out->given_sum = part.given_sum;
        out->mass = part.mass;
        reinterpret_cast<device uint *>(args.counts)[slot] = kvf_kept_total(kept, threshold.left);
    }
}

/* What the parts of a row have together, but for its tokens. One thread. */
static inline void join_parts(device const kvf_sample_part *parts, uint n_parts, float temperature,
                              device kvf_sampled *out)
{
    kvf_sample_part all = no_part();
    for (uint p = 0; p < n_parts; p++)
        join_extremes(all, parts[p].n_drawable, parts[p].first_bad, parts[p].highest_given,
                      parts[p].highest);
    for (uint p = 0; p < n_parts; p++) {
        if (is_finite(all.highest_given) && is_finite(parts[p].highest_given))
            all.given_sum +=
                parts[p].given_sum * kvf_exp(parts[p].highest_given - all.highest_given);
        if (is_finite(all.highest) && is_finite(parts[p].highest) && temperature > 0.0f)
            all.mass += parts[p].mass * kvf_exp((parts[p].highest - all.highest) / temperature);
    }
    out->n_drawable = all.n_drawable;
    out->first_bad = all.first_bad;
    out->highest_given = all.highest_given;
    out->given_sum = all.given_sum;
    out->mass = all.mass;
    out->unused[0] = 0;
    out->unused[1] = 0;
}

/* group.x: rows. The highest of all parts, sorted by how many come before each. */
[[max_total_threads_per_threadgroup(KVF_TOP_THREADS)]] kernel void kvf_sample_merge(
    constant kvf_sample_kernel_args &args [[buffer(0)]],
    threadgroup uint *top [[threadgroup(0)]], threadgroup uint *list [[threadgroup(1)]],
    uint3 group [[threadgroup_position_in_grid]], uint thread_index [[thread_index_in_threadgroup]],
    uint lane [[thread_index_in_simdgroup]], uint simd [[simdgroup_index_in_threadgroup]])
{
    const kvf_at at = {thread_index, KVF_TOP_THREADS, lane, simd};
    device const kvf_sample_kernel_row *row =
        reinterpret_cast<device const kvf_sample_kernel_row *>(args.rows) + group.x;
    device kvf_sampled *out = reinterpret_cast<device kvf_sampled *>(args.out) + group.x;
    const ulong slot = ulong(group.x) * args.n_parts;
    device const uint *orders =
        reinterpret_cast<device const uint *>(args.orders) + slot * KVF_SAMPLED_MOST;
    device const uint *ids =
        reinterpret_cast<device const uint *>(args.ids) + slot * KVF_SAMPLED_MOST;
    device const uint *counts = reinterpret_cast<device const uint *>(args.counts) + slot;
    const kvf_parts_source source = {orders, counts, args.n_parts, 1, KVF_SAMPLED_MOST};
    uint total = 0;
    for (uint part = 0; part < args.n_parts; part++)
        total += counts[part];
    kvf_threshold threshold = {0, 0};
    if (total > KVF_SAMPLED_MOST)
        threshold = kvf_find_kth(source, KVF_SAMPLED_MOST,
                                 reinterpret_cast<threadgroup atomic_uint *>(top), at);
    kvf_kept kept = kvf_keep_nothing();
    for (uint part = 0; part < args.n_parts; part++) {
        const ulong i = ulong(part) * KVF_SAMPLED_MOST + thread_index;
        const uint order = thread_index < counts[part] ? orders[i] : 0;
        uint place = 0;
        if (kvf_keep(order > threshold.order, order == threshold.order && order != 0,
                     threshold.left, top + KVF_TOP_SUMS, at, kept, place)) {
            list[place] = order;
            list[KVF_SAMPLED_MOST + place] = ids[i];
        }
    }
    threadgroup_barrier(mem_flags::mem_threadgroup);
    const uint n = kvf_kept_total(kept, threshold.left);
    device const float *given =
        reinterpret_cast<device const float *>(args.logits) + ulong(group.x) * args.vocab;
    device const float *changed =
        reinterpret_cast<device const float *>(args.changed) + ulong(group.x) * args.vocab;
    if (thread_index < n) {
        const uint order = list[thread_index];
        const uint id = list[KVF_SAMPLED_MOST + thread_index];
        uint place = 0; /* the list ascends by id, so equal ones before it come first */
        for (uint i = 0; i < n; i++)
            place += list[i] > order || (list[i] == order && i < thread_index) ? 1 : 0;
        out->tokens[place].id = id;
        out->tokens[place].logit = row->has_changes ? changed[id] : given[id];
        out->tokens[place].given = given[id];
    } else if (thread_index < KVF_SAMPLED_MOST) {
        out->tokens[thread_index].id = 0;
        out->tokens[thread_index].logit = 0.0f;
        out->tokens[thread_index].given = 0.0f;
    }
    if (thread_index == 0) {
        out->n = n;
        join_parts(reinterpret_cast<device const kvf_sample_part *>(args.parts) + slot,
                   args.n_parts, row->temperature, out);
    }
}
