/* Relaxed atomics of 32 bits in device and threadgroup memory. */
#ifndef KVF_EMULATED_ATOMICS_H
#define KVF_EMULATED_ATOMICS_H

namespace metal
{

enum memory_order { memory_order_relaxed };

struct atomic_uint {
    uint value;
};
struct atomic_int {
    int value;
};

template <class A> struct atomic_value;
template <> struct atomic_value<atomic_uint> {
    using type = uint;
    static constexpr kvf_emulated_atomic_op min = KVF_ATOMIC_MIN_UNSIGNED;
    static constexpr kvf_emulated_atomic_op max = KVF_ATOMIC_MAX_UNSIGNED;
};
template <> struct atomic_value<atomic_int> {
    using type = int;
    static constexpr kvf_emulated_atomic_op min = KVF_ATOMIC_MIN_SIGNED;
    static constexpr kvf_emulated_atomic_op max = KVF_ATOMIC_MAX_SIGNED;
};
template <class A> using value_t = typename atomic_value<A>::type;

#define KVF_ATOMIC(space, name, op)                                                                \
    template <class A>                                                                             \
    inline value_t<A> name(volatile space A *object, value_t<A> operand, memory_order)             \
    {                                                                                              \
        return value_t<A>(kvf_emulated_atomic(op, (volatile void *)object, uint(operand)));        \
    }

#define KVF_ATOMICS(space)                                                                         \
    KVF_ATOMIC(space, atomic_exchange_explicit, KVF_ATOMIC_EXCHANGE)                               \
    KVF_ATOMIC(space, atomic_fetch_add_explicit, KVF_ATOMIC_ADD)                                   \
    KVF_ATOMIC(space, atomic_fetch_sub_explicit, KVF_ATOMIC_SUB)                                   \
    KVF_ATOMIC(space, atomic_fetch_min_explicit, atomic_value<A>::min)                             \
    KVF_ATOMIC(space, atomic_fetch_max_explicit, atomic_value<A>::max)                             \
    KVF_ATOMIC(space, atomic_fetch_and_explicit, KVF_ATOMIC_AND)                                   \
    KVF_ATOMIC(space, atomic_fetch_or_explicit, KVF_ATOMIC_OR)                                     \
    KVF_ATOMIC(space, atomic_fetch_xor_explicit, KVF_ATOMIC_XOR)                                   \
    template <class A>                                                                             \
    inline value_t<A> atomic_load_explicit(const volatile space A *object, memory_order)           \
    {                                                                                              \
        return value_t<A>(kvf_emulated_atomic(KVF_ATOMIC_LOAD, (volatile void *)object, 0));       \
    }                                                                                              \
    template <class A>                                                                             \
    inline void atomic_store_explicit(volatile space A *object, value_t<A> desired, memory_order)  \
    {                                                                                              \
        kvf_emulated_atomic(KVF_ATOMIC_STORE, (volatile void *)object, uint(desired));             \
    }                                                                                              \
    template <class A>                                                                             \
    inline bool atomic_compare_exchange_weak_explicit(volatile space A *object,                    \
                                                      value_t<A> *expected, value_t<A> desired,    \
                                                      memory_order, memory_order)                  \
    {                                                                                              \
        return kvf_emulated_atomic_swap((volatile void *)object, (uint *)expected, uint(desired)); \
    }
KVF_ATOMICS(device)
KVF_ATOMICS(threadgroup)
#undef KVF_ATOMICS
#undef KVF_ATOMIC

} // namespace metal

#endif
