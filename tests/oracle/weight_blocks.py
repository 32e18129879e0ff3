"""Blocks to test stored weight types with, and the comparison of decoded values."""

import struct
from array import array

import weight_oracle

F32_BYTES = 4
CHUNK_BYTES = 1024  # compared at once
F16_EDGES = [sign | bits for sign in (0, 0x8000)
             for bits in (0, 1, 2, 0x3FF, 0x400, 0x401, 0x3C00, 0x3C01, 0x7BFF, 0x7C00, 0x7C01, 0x7E00, 0x7FFF)]


# ---- Numbers -----------------------------------------------------------------------


def random_f16(rng):
    """Bits of an f16, of every kind: half of them ordinary, the rest where decoders go wrong."""
    kind = rng.randrange(12)
    sign = rng.getrandbits(1) << 15
    if kind < 4:
        return rng.getrandbits(16)
    if kind < 8:  # what scales of weights look like: 2^-14 to 2
        return sign | rng.randrange(1 << 10, 16 << 10)
    if kind == 8:
        return sign | rng.randrange(1, 1 << 10)  # subnormal
    if kind == 9:
        return sign | rng.choice((0, 1, 0x3FF, 0x400, 0x7BFF))  # zero and the ends
    if kind == 10:
        return sign | 0x7C00  # infinity
    return sign | 0x7C00 | rng.randrange(1, 1 << 10)  # NaN


def random_f32(rng):
    """Bits of an f32 scale: ordinary, subnormal, huge, powers of two, zero, infinite, NaN."""
    sign = rng.getrandbits(1) << 31
    kind = rng.randrange(8)
    if kind < 2:
        return rng.getrandbits(32)
    if kind < 4:
        return sign | rng.randrange(100, 130) << 23 | rng.getrandbits(23)
    if kind == 4:
        return sign | rng.randrange(0, 255) << 23  # a power of two, or zero
    if kind == 5:
        return sign | rng.getrandbits(23)  # subnormal
    if kind == 6:
        return sign | rng.randrange(245, 255) << 23 | rng.getrandbits(23)  # overflows with a code
    return sign | rng.choice((0, 1, 0x7F7FFFFF, 0x7F800000, 0x7FC00000, 0x7F800001))


def random_bytes(rng, count):
    return bytearray(rng.getrandbits(8 * count).to_bytes(count, "little"))


# ---- Blocks of ggml's types ---------------------------------------------------------


def put_u16(data, at, size, values):
    """values[n] at byte `at` of block n."""
    packed = struct.pack("<%dH" % len(values), *values)
    data[at::size] = packed[0::2]
    data[at + 1 :: size] = packed[1::2]


def random_blocks(rng, kind, count):
    """Bytes of `count` blocks: anything, and f16 scales of every kind."""
    data = random_bytes(rng, count * kind.size)
    for at in kind.scales:
        put_u16(data, at, kind.size, [random_f16(rng) for _ in range(count)])
    return bytes(data)


def byte_sweep(rng, kind, rounds=4):
    """Every byte of the block with every value, `rounds` times, among random others; ordinary scales."""
    data = bytearray(256 * rounds * kind.size)
    for at in range(kind.size):
        data[at :: kind.size] = bytes(v for _ in range(rounds) for v in rng.sample(range(256), 256))
    for at in kind.scales:
        scales = [rng.getrandbits(1) << 15 | rng.randrange(1 << 10, 16 << 10) for _ in range(256 * rounds)]
        put_u16(data, at, kind.size, scales)
    return bytes(data)


def scale_sweep(rng, kind, step=1):
    """Every step-th of the 65,536 f16, and the ends, in each place of an f16; all codes or random ones."""
    scales = list(range(0, 1 << 16, step)) + (F16_EDGES if step > 1 else [])
    data = random_bytes(rng, len(scales) * kind.size)
    if kind.values == 32 and kind.size == 18:  # nibbles: all of them, low and high
        for k in range(16):
            data[2 + k :: kind.size] = bytes([k | (15 - k) << 4]) * len(scales)
    for at in kind.scales:
        put_u16(data, at, kind.size, scales)
        rng.shuffle(scales)
    return bytes(data)


def code_books(kind):
    """Every index and every pattern of signs in every place that the byte sweep does not force."""
    d = struct.pack("<e", 0.0625)
    name, data = kind.name, b""
    if name in ("iq2_xxs", "iq3_xxs"):
        for first in range(0, 128, 8):  # a group for each pattern, at all four places at once
            words = [s | s << 7 | s << 14 | s << 21 | (s & 15) << 28 for s in range(first, first + 8)]
            if name == "iq2_xxs":
                data += d + b"".join(bytes((s, s + 1, s + 2, s + 3)) + struct.pack("<I", w)
                                     for s, w in zip(range(first, first + 8), words))
            else:
                data += d + bytes(range(64)) + struct.pack("<8I", *words)
    elif name == "iq2_xs":  # index and signs are one number
        for first in range(0, 1 << 16, 32):
            codes = struct.pack("<32H", *range(first, first + 32))
            data += d + codes + bytes((first + 29 * k & 255 for k in range(8)))
    elif name == "iq2_s":
        for first in range(0, 1024, 32):
            index = range(first, first + 32)
            high = bytes([first >> 8 | first >> 8 << 2 | first >> 8 << 4 | first >> 8 << 6] * 8)
            data += d + bytes(i & 255 for i in index) + bytes(7 * i & 255 for i in index) + high + bytes(range(8))
    elif name == "iq3_s":
        for first in range(0, 512, 64):
            index = range(first, first + 64)
            high = bytes([255 if first >> 8 else 0] * 8)
            data += d + bytes(i & 255 for i in index) + high + bytes(index[::2][k] & 255 for k in range(32)) + bytes(4)
    return data


def every_code(kind, edges):
    """q8_0: every code with every scale of `edges`; mxfp4: every code with every exponent."""
    if kind.name == "q8_0":
        codes = [bytes(range(first, first + 32)) for first in range(0, 256, 32)]
        return b"".join(struct.pack("<H", d) + part for d in edges for part in codes)
    if kind.name == "mxfp4":
        codes = bytes(k | (15 - k) << 4 for k in range(16))
        return b"".join(bytes([exponent]) + codes for exponent in range(256))
    return b""


def plain_numbers(rng, kind, count):
    """f16, bf16: all of them; f32: all signs and exponents with mantissas at the ends, and random ones."""
    if kind.size == 2:
        return struct.pack("<65536H", *range(1 << 16))
    ends = [top << 23 | mantissa for top in range(512) for mantissa in (0, 1, 0x400000, 0x7FFFFF)]
    return struct.pack("<%dI" % (len(ends) + count), *ends, *(rng.getrandbits(32) for _ in range(count)))


def cases(rng, kind, random_count, scale_step):
    """(what, data) for a BlockType."""
    if kind.values == 1:
        yield "all numbers", plain_numbers(rng, kind, random_count)
        return
    yield "random blocks", random_blocks(rng, kind, random_count)
    yield "every value of every byte", byte_sweep(rng, kind)
    if kind.scales:
        yield "every scale", scale_sweep(rng, kind, 1 if kind.values == 32 else scale_step)
    for what, data in (("code books", code_books(kind)), ("every code", every_code(kind, F16_EDGES))):
        if data:
            yield what, data


# ---- Comparing -----------------------------------------------------------------------


def is_nan(bits):
    return bits & 0x7FFFFFFF > 0x7F800000


def first_difference(got, want):
    """Index of the first f32 that differs, or None. A NaN equals a NaN, all else to the bit."""
    if len(got) != len(want):
        return min(len(got), len(want)) // F32_BYTES
    for at in range(0, len(want), CHUNK_BYTES):
        a, b = got[at : at + CHUNK_BYTES], want[at : at + CHUNK_BYTES]
        if a == b:
            continue
        for i, (x, y) in enumerate(zip(array("I", a), array("I", b))):
            if x != y and not (is_nan(x) and is_nan(y)):
                return at // F32_BYTES + i
    return None


def f32_at(data, i):
    return struct.unpack_from("<f", data, F32_BYTES * i)[0] if F32_BYTES * i < len(data) else None


def describe(kind, data, index, got, want):
    block = index // kind.values
    return "value %d of block %d (%s): got %r, expected %r" % (
        index % kind.values, block, data[block * kind.size : (block + 1) * kind.size].hex(),
        f32_at(got, index), f32_at(want, index))


def assert_same(test, kind, what, data, got, want):
    at = first_difference(got, want)
    if at is not None:
        test.fail("%s, %s: %s" % (kind.name, what, describe(kind, data, at, got, want)))


def ask_decode(probe, kind, data):
    """Our values of the blocks, which are given as a matrix of rows of several blocks."""
    blocks = len(data) // kind.size
    per_row = next(n for n in (16, 5, 4, 1) if blocks % n == 0)
    return probe.decode(kind.name, blocks // per_row, per_row * kind.values, data)


BY_NAME = {kind.name: kind for kind in weight_oracle.BLOCK_TYPES}
