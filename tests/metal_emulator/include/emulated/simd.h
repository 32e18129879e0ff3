/*
 * Barriers and the functions of a simdgroup. All existing lanes of the simdgroup have to
 * meet in one call of one line; the machine reports it where they do not. Sums, minima and
 * maxima are butterflies: lane i with lane i ^ 16, then 8, 4, 2, 1; all lanes get the same.
 */
#ifndef KVF_EMULATED_SIMD_H
#define KVF_EMULATED_SIMD_H

/* The caller's place, as last parameters that no kernel gives. */
#define KVF_SITE const char *file = __builtin_FILE(), int line = __builtin_LINE()

namespace metal
{

enum class mem_flags : uint { mem_none = 0, mem_device = 1, mem_threadgroup = 2, mem_texture = 4 };

constexpr mem_flags operator|(mem_flags a, mem_flags b)
{
    return mem_flags(uint(a) | uint(b));
}

inline void threadgroup_barrier(mem_flags flags, KVF_SITE)
{
    kvf_emulated_threadgroup_barrier(uint(flags), file, line);
}
inline void simdgroup_barrier(mem_flags flags, KVF_SITE)
{
    kvf_emulated_simdgroup_barrier(uint(flags), file, line);
}

/* What all lanes gave. */
template <class T> struct lanes {
    unsigned char *given;

    T operator[](uint lane) const
    {
        T value;
        __builtin_memcpy(&value, given + 16 * lane, sizeof(T));
        return value;
    }

    /* make() of all lanes, the same for all of them: the first to come does it. */
    template <class Make> T once(Make make) const
    {
        T value;
        uint *const has_result = (uint *)(given + KVF_EMULATED_HAS_RESULT);
        if (*has_result == 0) {
            value = make();
            __builtin_memcpy(given + KVF_EMULATED_RESULT, &value, sizeof(T));
            *has_result = 1;
        } else {
            __builtin_memcpy(&value, given + KVF_EMULATED_RESULT, sizeof(T));
        }
        return value;
    }
};

template <class T> inline lanes<T> exchange(T value, const char *what, const char *file, int line)
{
    static_assert(sizeof(T) <= 16, "a lane gives at most 16 bytes");
    ulong words[2] = {0, 0};
    __builtin_memcpy(words, &value, sizeof(T));
    return lanes<T>{kvf_emulated_exchange(words[0], words[1], what, file, line)};
}

/* The value of `lane`; a lane that does not exist is an error where no other is said. */
template <class T>
inline T pick(lanes<T> all, uint lane, const char *what, const char *file, int line)
{
    if (lane >= kvf_emulated_n_lanes())
        kvf_emulated_fail(what, file, line);
    return all[lane];
}

template <class T> inline T simd_shuffle(T value, ushort lane, KVF_SITE)
{
    const lanes<T> all = exchange(value, "simd_shuffle", file, line);
    return pick(all, lane, "simd_shuffle from a lane that does not exist", file, line);
}
template <class T> inline T simd_shuffle_xor(T value, ushort mask, KVF_SITE)
{
    const lanes<T> all = exchange(value, "simd_shuffle_xor", file, line);
    return pick(all, kvf_emulated_lane() ^ mask, "simd_shuffle_xor from a lane that does not exist",
                file, line);
}
/* Lanes whose source would lie beyond the last keep their own value. */
template <class T> inline T simd_shuffle_down(T value, ushort delta, KVF_SITE)
{
    const lanes<T> all = exchange(value, "simd_shuffle_down", file, line);
    const uint from = kvf_emulated_lane() + delta;
    return from < kvf_emulated_n_lanes() ? all[from] : value;
}
template <class T> inline T simd_shuffle_up(T value, ushort delta, KVF_SITE)
{
    const lanes<T> all = exchange(value, "simd_shuffle_up", file, line);
    const uint lane = kvf_emulated_lane();
    return lane >= delta ? all[lane - delta] : value;
}
template <class T> inline T simd_broadcast(T value, ushort lane, KVF_SITE)
{
    const lanes<T> all = exchange(value, "simd_broadcast", file, line);
    return pick(all, lane, "simd_broadcast from a lane that does not exist", file, line);
}
template <class T> inline T simd_broadcast_first(T value, KVF_SITE)
{
    return exchange(value, "simd_broadcast_first", file, line)[0];
}

/* Adds, say, over all lanes: pairs at distance 16, 8, 4, 2, 1. */
template <class T, class Op> inline T butterfly(lanes<T> all, Op op)
{
    const uint n = kvf_emulated_n_lanes();
    T values[32];
    bool there[32];
    for (uint i = 0; i < 32; i++) {
        there[i] = i < n;
        values[i] = there[i] ? all[i] : T(0);
    }
    for (uint distance = 16; distance >= 1; distance /= 2) {
        for (uint i = 0; i < distance; i++) {
            if (there[i] && there[i + distance])
                values[i] = op(values[i], values[i + distance]);
        }
    }
    return values[0];
}

#define KVF_REDUCTION(name, expression)                                                            \
    template <class T> inline T name(T value, KVF_SITE)                                            \
    {                                                                                              \
        const lanes<T> all = exchange(value, #name, file, line);                                   \
        return all.once([&] { return butterfly(all, [](T a, T b) { return T(expression); }); });   \
    }
KVF_REDUCTION(simd_sum, a + b)
KVF_REDUCTION(simd_product, a *b)
KVF_REDUCTION(simd_min, metal::min(a, b))
KVF_REDUCTION(simd_max, metal::max(a, b))
KVF_REDUCTION(simd_and, a &b)
KVF_REDUCTION(simd_or, a | b)
KVF_REDUCTION(simd_xor, a ^ b)
#undef KVF_REDUCTION

/* Sums of the lanes below, in ascending order. */
template <class T> inline T simd_prefix_exclusive_sum(T value, KVF_SITE)
{
    const lanes<T> all = exchange(value, "simd_prefix_exclusive_sum", file, line);
    T sum = T(0);
    for (uint i = 0; i < kvf_emulated_lane(); i++)
        sum = T(sum + all[i]);
    return sum;
}
template <class T> inline T simd_prefix_inclusive_sum(T value, KVF_SITE)
{
    const lanes<T> all = exchange(value, "simd_prefix_inclusive_sum", file, line);
    T sum = T(0);
    for (uint i = 0; i <= kvf_emulated_lane(); i++)
        sum = T(sum + all[i]);
    return sum;
}

class simd_vote
{
  public:
    typedef ulong vote_t;

    explicit constexpr simd_vote(vote_t bits = 0) : bits_(bits)
    {
    }
    explicit constexpr operator vote_t() const
    {
        return bits_;
    }
    bool all() const
    {
        return bits_ == (~0ul >> (64 - kvf_emulated_n_lanes()));
    }
    bool any() const
    {
        return bits_ != 0;
    }

  private:
    vote_t bits_;
};

inline ulong ballot(lanes<uint> all)
{
    return all.once([&] {
        uint bits = 0;
        for (uint i = 0; i < kvf_emulated_n_lanes(); i++)
            bits |= all[i] << i;
        return bits;
    });
}
inline simd_vote simd_ballot(bool predicate, KVF_SITE)
{
    return simd_vote(ballot(exchange(uint(predicate), "simd_ballot", file, line)));
}
inline bool simd_any(bool predicate, KVF_SITE)
{
    return simd_vote(ballot(exchange(uint(predicate), "simd_any", file, line))).any();
}
inline bool simd_all(bool predicate, KVF_SITE)
{
    return simd_vote(ballot(exchange(uint(predicate), "simd_all", file, line))).all();
}
inline bool simd_is_first()
{
    return kvf_emulated_lane() == 0;
}

} // namespace metal

#endif
