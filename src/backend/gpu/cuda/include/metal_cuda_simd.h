/* Barriers, functions of a simdgroup (all 32 lanes take part), matrices, for nvcc. */
#ifndef KVF_METAL_CUDA_SIMD_H
#define KVF_METAL_CUDA_SIMD_H

namespace metal
{

enum class mem_flags : uint { mem_none = 0, mem_device = 1, mem_threadgroup = 2, mem_texture = 4 };

KVF_DEVICE mem_flags operator|(mem_flags a, mem_flags b)
{
    return mem_flags(uint(a) | uint(b));
}
KVF_DEVICE void threadgroup_barrier(mem_flags)
{
    __syncthreads();
}
KVF_DEVICE void simdgroup_barrier(mem_flags)
{
    __syncwarp();
}

KVF_DEVICE uint kvf_cuda_index()
{
    return (threadIdx.z * blockDim.y + threadIdx.y) * blockDim.x + threadIdx.x;
}
KVF_DEVICE uint kvf_cuda_lane()
{
    return kvf_cuda_index() % 32;
}
KVF_DEVICE uint kvf_cuda_simd()
{
    return kvf_cuda_index() / 32;
}
#define KVF_PLACE(name, from)                                                                      \
    KVF_DEVICE uint3 name()                                                                        \
    {                                                                                              \
        return uint3(from.x, from.y, from.z);                                                      \
    }
KVF_PLACE(kvf_cuda_group, blockIdx)
KVF_PLACE(kvf_cuda_groups, gridDim)
KVF_PLACE(kvf_cuda_position, threadIdx)
KVF_PLACE(kvf_cuda_threads, blockDim)
#undef KVF_PLACE
KVF_DEVICE uint3 kvf_cuda_grid()
{
    return kvf_cuda_group() * kvf_cuda_threads() + kvf_cuda_position();
}

constexpr uint all_lanes = 0xffffffffu;

/* f on the 32-bit words of a value. */
template <class T, class F> KVF_DEVICE T by_words(T value, F f)
{
    constexpr int n = (sizeof(T) + 3) / 4;
    uint words[n] = {};
    memcpy(words, &value, sizeof(T));
    for (int i = 0; i < n; i++)
        words[i] = f(words[i]);
    memcpy(&value, words, sizeof(T));
    return value;
}
template <class T> KVF_DEVICE T simd_shuffle(T value, ushort lane)
{
    return by_words(value, [=](uint w) { return __shfl_sync(all_lanes, w, lane); });
}
template <class T> KVF_DEVICE T simd_shuffle_xor(T value, ushort mask)
{
    return by_words(value, [=](uint w) { return __shfl_xor_sync(all_lanes, w, mask); });
}
template <class T> KVF_DEVICE T simd_shuffle_down(T value, ushort delta)
{
    return by_words(value, [=](uint w) { return __shfl_down_sync(all_lanes, w, delta); });
}
template <class T> KVF_DEVICE T simd_shuffle_up(T value, ushort delta)
{
    return by_words(value, [=](uint w) { return __shfl_up_sync(all_lanes, w, delta); });
}
template <class T> KVF_DEVICE T simd_broadcast(T value, ushort lane)
{
    return simd_shuffle(value, lane);
}
template <class T> KVF_DEVICE T simd_broadcast_first(T value)
{
    return simd_shuffle(value, 0);
}

/* Pairs at distance 16, 8, 4, 2, 1, as in the emulator. */
#define KVF_REDUCTION(name, expression)                                                            \
    template <class T> KVF_DEVICE T name(T a)                                                      \
    {                                                                                              \
        for (int distance = 16; distance >= 1; distance /= 2) {                                    \
            const T b = simd_shuffle_xor(a, ushort(distance));                                     \
            a = T(expression);                                                                     \
        }                                                                                          \
        return a;                                                                                  \
    }
KVF_REDUCTION(simd_sum, a + b)
KVF_REDUCTION(simd_product, a *b)
KVF_REDUCTION(simd_min, metal::min(a, b))
KVF_REDUCTION(simd_max, metal::max(a, b))
KVF_REDUCTION(simd_and, a &b)
KVF_REDUCTION(simd_or, a | b)
KVF_REDUCTION(simd_xor, a ^ b)
#undef KVF_REDUCTION

template <class T> KVF_DEVICE T simd_prefix_inclusive_sum(T value)
{
    T sum = T(0);
    for (uint i = 0; i < 32; i++) {
        const T other = simd_shuffle(value, ushort(i));
        if (i <= kvf_cuda_lane())
            sum = T(sum + other);
    }
    return sum;
}
template <class T> KVF_DEVICE T simd_prefix_exclusive_sum(T value)
{
    T sum = T(0);
    for (uint i = 0; i < 31; i++) {
        const T other = simd_shuffle(value, ushort(i));
        if (i < kvf_cuda_lane())
            sum = T(sum + other);
    }
    return sum;
}

class simd_vote
{
  public:
    typedef ulong vote_t;

    KVF_DEVICE explicit simd_vote(vote_t bits = 0) : bits_(bits)
    {
    }
    KVF_DEVICE explicit operator vote_t() const
    {
        return bits_;
    }
    KVF_DEVICE bool all() const
    {
        return bits_ == all_lanes;
    }
    KVF_DEVICE bool any() const
    {
        return bits_ != 0;
    }

  private:
    vote_t bits_;
};
KVF_DEVICE simd_vote simd_ballot(bool predicate)
{
    return simd_vote(__ballot_sync(all_lanes, predicate));
}
KVF_DEVICE bool simd_any(bool predicate)
{
    return __any_sync(all_lanes, predicate);
}
KVF_DEVICE bool simd_all(bool predicate)
{
    return __all_sync(all_lanes, predicate);
}
KVF_DEVICE bool simd_is_first()
{
    return kvf_cuda_lane() == 0;
}

/* ---- Matrices: places and order of sums as in the emulator ---------------------------- */

KVF_DEVICE uint matrix_row(uint lane)
{
    return ((lane / 4) & 4) + (lane / 2) % 4;
}
KVF_DEVICE uint matrix_column(uint lane)
{
    return ((lane / 4) & 2) * 2 + (lane % 2) * 2;
}
KVF_DEVICE uint matrix_lane(uint row, uint column)
{
    return ((row & 4) + ((column & 4) / 2)) * 4 + (row % 4) * 2 + (column & 2) / 2;
}

template <class T, int Columns, int Rows> class simdgroup_matrix
{
    static_assert(Columns == 8 && Rows == 8, "matrices are 8 x 8");

  public:
    simdgroup_matrix() = default;
    KVF_DEVICE explicit simdgroup_matrix(T value)
    {
        const uint row = matrix_row(kvf_cuda_lane()), column = matrix_column(kvf_cuda_lane());
        elements_ = vec<T, 2>(row == column ? value : T(0.0f), row == column + 1 ? value : T(0.0f));
    }
    KVF_DEVICE vec<T, 2> &thread_elements()
    {
        return elements_;
    }
    KVF_DEVICE const vec<T, 2> &thread_elements() const
    {
        return elements_;
    }

  private:
    vec<T, 2> elements_;
};
typedef simdgroup_matrix<float, 8, 8> simdgroup_float8x8;
typedef simdgroup_matrix<half, 8, 8> simdgroup_half8x8;

template <class T, int Columns, int Rows>
KVF_DEVICE simdgroup_matrix<T, Columns, Rows> make_filled_simdgroup_matrix(T value)
{
    simdgroup_matrix<T, Columns, Rows> filled;
    filled.thread_elements() = vec<T, 2>(value, value);
    return filled;
}
template <class T, int Columns, int Rows>
KVF_DEVICE simdgroup_matrix<T, Columns, Rows> make_diagonal_simdgroup_matrix(T value)
{
    return simdgroup_matrix<T, Columns, Rows>(value);
}
template <class T>
KVF_DEVICE void simdgroup_load(simdgroup_matrix<T, 8, 8> &to, const T *from,
                               ulong elements_per_row = 8, ulong2 origin = ulong2(0ul),
                               bool transpose = false)
{
    const ulong row = matrix_row(kvf_cuda_lane()), column = matrix_column(kvf_cuda_lane());
    from += origin.y * elements_per_row + origin.x;
    const ulong step = transpose ? elements_per_row : 1;
    from += transpose ? column * elements_per_row + row : row * elements_per_row + column;
    to.thread_elements() = vec<T, 2>(from[0], from[step]);
}
template <class T>
KVF_DEVICE void simdgroup_store(simdgroup_matrix<T, 8, 8> matrix, T *to, ulong elements_per_row = 8,
                                ulong2 origin = ulong2(0ul), bool transpose = false)
{
    const ulong row = matrix_row(kvf_cuda_lane()), column = matrix_column(kvf_cuda_lane());
    to += origin.y * elements_per_row + origin.x;
    const ulong step = transpose ? elements_per_row : 1;
    to += transpose ? column * elements_per_row + row : row * elements_per_row + column;
    to[0] = matrix.thread_elements().x;
    to[step] = matrix.thread_elements().y;
}
template <class D, class A, class B, class C>
KVF_DEVICE void
simdgroup_multiply_accumulate(simdgroup_matrix<D, 8, 8> &d, simdgroup_matrix<A, 8, 8> a,
                              simdgroup_matrix<B, 8, 8> b, simdgroup_matrix<C, 8, 8> c)
{
    const uint row = matrix_row(kvf_cuda_lane()), column = matrix_column(kvf_cuda_lane());
    float x = float(c.thread_elements().x), y = float(c.thread_elements().y);
    for (uint k = 0; k < 8; k++) {
        const vec<A, 2> left = simd_shuffle(a.thread_elements(), ushort(matrix_lane(row, k)));
        const vec<B, 2> right = simd_shuffle(b.thread_elements(), ushort(matrix_lane(k, column)));
        x = __fmaf_rn(float(k % 2 ? left.y : left.x), float(right.x), x);
        y = __fmaf_rn(float(k % 2 ? left.y : left.x), float(right.y), y);
    }
    d.thread_elements() = vec<D, 2>(D(x), D(y));
}
template <class D, class A, class B>
KVF_DEVICE void simdgroup_multiply(simdgroup_matrix<D, 8, 8> &d, simdgroup_matrix<A, 8, 8> a,
                                   simdgroup_matrix<B, 8, 8> b)
{
    simdgroup_multiply_accumulate(d, a, b, make_filled_simdgroup_matrix<D, 8, 8>(D(0.0f)));
}

} // namespace metal

#endif
