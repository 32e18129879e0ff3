/*
 * simdgroup_matrix of 8 x 8 values, two a lane, in the places where Apple's GPUs have them.
 *
 * Order of sums: D[r][c] starts as C[r][c]; for k = 0 .. 7, in this order, it becomes
 * fma(A[r][k], B[k][c], D[r][c]) in f32; a D of halves is rounded once, at the end.
 * A matrix that was given no values is NaN.
 */
#ifndef KVF_EMULATED_MATRIX_H
#define KVF_EMULATED_MATRIX_H

namespace metal
{

/* Row and first of two columns of what a lane holds. */
inline uint matrix_row(uint lane)
{
    return ((lane / 4) & 4) + (lane / 2) % 4;
}
inline uint matrix_column(uint lane)
{
    return ((lane / 4) & 2) * 2 + (lane % 2) * 2;
}
template <class T, int Columns, int Rows> class simdgroup_matrix
{
    static_assert(Columns == 8 && Rows == 8, "matrices are 8 x 8");

  public:
    simdgroup_matrix() : elements_{T(__builtin_nanf("")), T(__builtin_nanf(""))}
    {
    }
    /* `value` on the diagonal, zeros elsewhere. */
    explicit simdgroup_matrix(T value)
    {
        const uint row = matrix_row(kvf_emulated_lane());
        const uint column = matrix_column(kvf_emulated_lane());
        elements_ = vec<T, 2>{row == column ? value : T(0), row == column + 1 ? value : T(0)};
    }
    thread vec<T, 2> &thread_elements()
    {
        return elements_;
    }

  private:
    vec<T, 2> elements_;
};

typedef simdgroup_matrix<float, 8, 8> simdgroup_float8x8;
typedef simdgroup_matrix<half, 8, 8> simdgroup_half8x8;

template <class T, int Columns, int Rows>
inline simdgroup_matrix<T, Columns, Rows> make_filled_simdgroup_matrix(T value)
{
    simdgroup_matrix<T, Columns, Rows> filled;
    filled.thread_elements() = vec<T, 2>{value, value};
    return filled;
}
template <class T, int Columns, int Rows>
inline simdgroup_matrix<T, Columns, Rows> make_diagonal_simdgroup_matrix(T value)
{
    return simdgroup_matrix<T, Columns, Rows>(value);
}

/* Loads and stores are one operation of the whole simdgroup, though no lane needs another. */
inline void matrix_pass(ulong elements_per_row, ulong2 origin, bool transpose, const char *what,
                        const char *file, int line)
{
    kvf_emulated_pass(elements_per_row, what, file, line);
    if (transpose && (origin.x != 0 || origin.y != 0))
        kvf_emulated_fail("a transposed matrix with an origin", file, line);
}

#define KVF_MATRIX_LOAD(space)                                                                     \
    template <class T>                                                                             \
    inline void simdgroup_load(thread simdgroup_matrix<T, 8, 8> &to, const space T *from,          \
                               ulong elements_per_row = 8, ulong2 origin = 0,                      \
                               bool transpose = false, KVF_SITE)                                   \
    {                                                                                              \
        matrix_pass(elements_per_row, origin, transpose, "simdgroup_load", file, line);            \
        const ulong row = matrix_row(kvf_emulated_lane());                                         \
        const ulong column = matrix_column(kvf_emulated_lane());                                   \
        if (transpose) {                                                                           \
            to.thread_elements()[0] = from[column * elements_per_row + row];                       \
            to.thread_elements()[1] = from[(column + 1) * elements_per_row + row];                 \
        } else {                                                                                   \
            const space T *line_start = from + (origin.y + row) * elements_per_row + origin.x;     \
            to.thread_elements()[0] = line_start[column];                                          \
            to.thread_elements()[1] = line_start[column + 1];                                      \
        }                                                                                          \
    }
KVF_MATRIX_LOAD(device)
KVF_MATRIX_LOAD(threadgroup)
#undef KVF_MATRIX_LOAD

#define KVF_MATRIX_STORE(space)                                                                    \
    template <class T>                                                                             \
    inline void simdgroup_store(simdgroup_matrix<T, 8, 8> matrix, space T *to,                     \
                                ulong elements_per_row = 8, ulong2 origin = 0,                     \
                                bool transpose = false, KVF_SITE)                                  \
    {                                                                                              \
        matrix_pass(elements_per_row, origin, transpose, "simdgroup_store", file, line);           \
        const ulong row = matrix_row(kvf_emulated_lane());                                         \
        const ulong column = matrix_column(kvf_emulated_lane());                                   \
        if (transpose) {                                                                           \
            to[column * elements_per_row + row] = matrix.thread_elements()[0];                     \
            to[(column + 1) * elements_per_row + row] = matrix.thread_elements()[1];               \
        } else {                                                                                   \
            space T *line_start = to + (origin.y + row) * elements_per_row + origin.x;             \
            line_start[column] = matrix.thread_elements()[0];                                      \
            line_start[column + 1] = matrix.thread_elements()[1];                                  \
        }                                                                                          \
    }
KVF_MATRIX_STORE(device)
KVF_MATRIX_STORE(threadgroup)
#undef KVF_MATRIX_STORE

template <class D, class A, class B, class C>
inline void simdgroup_multiply_accumulate(thread simdgroup_matrix<D, 8, 8> &d,
                                          simdgroup_matrix<A, 8, 8> a, simdgroup_matrix<B, 8, 8> b,
                                          simdgroup_matrix<C, 8, 8> c, KVF_SITE)
{
    const float given[3][2] = {{float(a.thread_elements()[0]), float(a.thread_elements()[1])},
                               {float(b.thread_elements()[0]), float(b.thread_elements()[1])},
                               {float(c.thread_elements()[0]), float(c.thread_elements()[1])}};
    const uint lane = kvf_emulated_lane();
    const float *sums = kvf_emulated_multiply(matrix_row(lane), matrix_column(lane), given[0],
                                              given[1], given[2], file, line);
    d.thread_elements() = vec<D, 2>{D(sums[0]), D(sums[1])};
}
template <class D, class A, class B>
inline void simdgroup_multiply(thread simdgroup_matrix<D, 8, 8> &d, simdgroup_matrix<A, 8, 8> a,
                               simdgroup_matrix<B, 8, 8> b, KVF_SITE)
{
    simdgroup_multiply_accumulate(d, a, b, make_filled_simdgroup_matrix<D, 8, 8>(D(0)), file, line);
}

} // namespace metal

#endif
