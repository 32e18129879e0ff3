"""Stored weight types: every value from its bytes, as docs/WEIGHTS.md writes the formulas.

Values are Python floats, binary64, in which everything below is exact: an f16 is a whole
number of 2^-24 under 2^16 and is multiplied by integers of 12 bits in all at most, so that
products and their differences have at most 52 bits; an f32 scale (24 bits) times an fp8 code
(4 bits) has 28. The one rounding to binary32 is at the end, in f32_bytes. Where the formula
rounds twice in binary32, the first has nothing to round: no product of an f16 with those
integers needs more than 24 bits.
"""

import math
import struct
from array import array
from pathlib import Path

NAN = math.nan
GRIDS = Path(__file__).resolve().parent.parent.parent / "scripts" / "iq_grids.txt"
IQ4 = (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)
MXFP4 = (0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12)
E2M1 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0)
TILE = 128  # of fp8: rows and columns that share a scale
FP4_GROUP = 32


def f32_bytes(values):
    """Rounded to binary32 once; too large becomes infinite."""
    return array("f", values).tobytes()


def f16(block, at):
    return struct.unpack_from("<e", block, at)[0]


def u16(block, at):
    return block[at] | block[at + 1] << 8


def u32(block, at):
    return u16(block, at) | u16(block, at + 2) << 16


def i8(byte):
    return byte - 256 if byte > 127 else byte


def nibbles(codes):
    """Low nibbles of all bytes, then the high ones."""
    return [byte & 15 for byte in codes] + [byte >> 4 for byte in codes]


# ---- ggml's blocks of 32 ------------------------------------------------------------


def q8_0(b):
    d = f16(b, 0)
    return [d * i8(code) for code in b[2:34]]


def q4_0(b):
    d = f16(b, 0)
    return [d * (code - 8) for code in nibbles(b[2:18])]


def iq4_nl(b):
    d = f16(b, 0)
    return [d * IQ4[code] for code in nibbles(b[2:18])]


def mxfp4(b):
    scale = 2.0 ** (b[0] - 128)
    return [scale * MXFP4[code] for code in nibbles(b[1:17])]


# ---- K-quants: blocks of 256 ---------------------------------------------------------


def two_bits(codes, i):
    """The 16 values of two bits from value i on: byte i % 32 of the half, pair of bits (i % 128) / 32."""
    at = 32 * (i // 128) + i % 32
    shift = 2 * (i % 128 // 32)
    return [byte >> shift & 3 for byte in codes[at : at + 16]]


def q2_K(b):
    d, dmin = f16(b, 80), f16(b, 82)
    out = []
    for i in range(0, 256, 16):
        scale = d * (b[i // 16] & 15)
        minimum = dmin * (b[i // 16] >> 4)
        values = [scale * v - minimum for v in range(4)]
        out += [values[v] for v in two_bits(b[16:80], i)]
    return out


def q3_K(b):
    high, codes, s, d = b[0:32], b[32:96], b[96:108], f16(b, 108)
    out = []
    for i in range(0, 256, 16):
        k = i // 16
        scale = (s[k % 8] >> 4 * (k // 8) & 15) + 16 * (s[8 + k % 4] >> 2 * (k // 4) & 3)
        values = [d * (scale - 32) * v for v in range(-4, 4)]
        bit = 1 << i // 32
        rows = zip(two_bits(codes, i), high[i % 32 : i % 32 + 16])
        out += [values[v + 4 if byte & bit else v] for v, byte in rows]
    return out


def six_bit_pairs(s):
    """(scale, minimum) of the eight sub-blocks of Q4_K and Q5_K."""
    first = [(s[j] & 63, s[j + 4] & 63) for j in range(4)]
    last = [((s[j + 4] & 15) + 16 * (s[j - 4] >> 6), (s[j + 4] >> 4) + 16 * (s[j] >> 6)) for j in range(4, 8)]
    return first + last


def q4_K(b):
    d, dmin, codes = f16(b, 0), f16(b, 2), b[16:144]
    out = []
    for j, (a, m) in enumerate(six_bit_pairs(b[4:16])):
        values = [d * a * v - dmin * m for v in range(16)]
        shift = 4 * (j % 2)
        out += [values[byte >> shift & 15] for byte in codes[32 * (j // 2) : 32 * (j // 2) + 32]]
    return out


def q5_K(b):
    d, dmin, high, codes = f16(b, 0), f16(b, 2), b[16:48], b[48:176]
    out = []
    for j, (a, m) in enumerate(six_bit_pairs(b[4:16])):
        values = [d * a * v - dmin * m for v in range(32)]
        shift = 4 * (j % 2)
        rows = zip(codes[32 * (j // 2) : 32 * (j // 2) + 32], high)
        out += [values[(byte >> shift & 15) + 16 * (top >> j & 1)] for byte, top in rows]
    return out


def q6_K(b):
    low, high, scales, d = b[0:128], b[128:192], b[192:208], f16(b, 208)
    out = []
    for i in range(0, 256, 16):
        half, g, k = i // 128, i % 128 // 32, i % 32
        scale = d * i8(scales[i // 16])
        lows = low[64 * half + 32 * (g % 2) + k :][:16]
        highs = high[32 * half + k :][:16]
        shift = 4 * (g // 2)
        out += [scale * ((x >> shift & 15) + 16 * (y >> 2 * g & 3) - 32) for x, y in zip(lows, highs)]
    return out


# ---- IQ types: code books ------------------------------------------------------------


def read_grids():
    """{name: list of tuples of values}: each entry has its indices into the alphabet from the lowest bits on."""
    grids = {}
    for line in GRIDS.read_text(encoding="ascii").splitlines():
        if line.startswith("["):
            words = line.split()
            settings = dict(word.split("=") for word in words[1:])
            alphabet = [int(value) for value in settings["alphabet"].split(",")]
            count, bits = int(settings["coordinates"]), int(settings["bits"])
            entries = grids[words[0].strip("[]")] = []
        elif line and not line.startswith("#"):
            for word in line.split():
                entry = int(word, 16)
                entries.append(tuple(alphabet[entry >> bits * j & (1 << bits) - 1] for j in range(count)))
    return grids


GRID = read_grids()
# Seven stored bits and their parity: the number of minus signs is even.
SIGNS = [t | (bin(t).count("1") & 1) << 7 for t in range(128)]


def signed(scale, entry, signs):
    return [-(scale * value) if signs >> j & 1 else scale * value for j, value in enumerate(entry)]


def iq2_xxs(b):
    d = f16(b, 0)
    out = []
    for at in range(2, 66, 8):
        word = u32(b, at + 4)
        scale = d * (0.5 + (word >> 28)) * 0.25
        for k in range(4):
            out += signed(scale, GRID["iq2_xxs"][b[at + k]], SIGNS[word >> 7 * k & 127])
    return out


def iq2_xs(b):
    d, scales = f16(b, 0), nibble_pairs(b[66:74])
    out = []
    for k in range(32):
        code = u16(b, 2 + 2 * k)
        out += signed(d * (0.5 + scales[k // 2]) * 0.25, GRID["iq2_xs"][code & 511], SIGNS[code >> 9])
    return out


def iq2_s(b):
    d, scales = f16(b, 0), nibble_pairs(b[74:82])
    out = []
    for k in range(32):
        index = b[2 + k] + 256 * (b[66 + k // 4] >> 2 * (k % 4) & 3)
        out += signed(d * (0.5 + scales[k // 2]) * 0.25, GRID["iq2_s"][index], b[34 + k])
    return out


def iq3_xxs(b):
    d = f16(b, 0)
    out = []
    for g in range(8):
        word = u32(b, 66 + 4 * g)
        scale = d * (0.5 + (word >> 28)) * 0.5
        for k in range(4):
            index = b[2 + 8 * g + 2 * k], b[2 + 8 * g + 2 * k + 1]
            entry = GRID["iq3_xxs"][index[0]] + GRID["iq3_xxs"][index[1]]
            out += signed(scale, entry, SIGNS[word >> 7 * k & 127])
    return out


def iq3_s(b):
    d, scales = f16(b, 0), nibble_pairs(b[106:110])
    out = []
    for k in range(64):
        index = b[2 + k] + 256 * (b[66 + k // 8] >> k % 8 & 1)
        out += signed(d * (1 + 2 * scales[k // 8]), GRID["iq3_s"][index], b[74 + k // 2] >> 4 * (k % 2))
    return out


def nibble_pairs(scales):
    """Low, high, low, high: the order of four-bit scales."""
    return [nibble for byte in scales for nibble in (byte & 15, byte >> 4)]


def iq4_xs(b):
    d, high, low = f16(b, 0), u16(b, 2), nibble_pairs(b[4:8])
    out = []
    for g in range(8):
        scale = d * (low[g] + 16 * (high >> 2 * g & 3) - 32)
        values = [scale * value for value in IQ4]
        out += [values[code] for code in nibbles(b[8 + 16 * g : 24 + 16 * g])]
    return out


# ---- Plain numbers -------------------------------------------------------------------


def f32(b):
    return list(struct.unpack("<f", b))


def half(b):
    return [f16(b, 0)]


def bf16(b):
    return list(struct.unpack("<f", b"\0\0" + b))


# ---- DeepSeek's: scales in a plane of their own --------------------------------------


def e4m3(code):
    exponent, mantissa = code >> 3 & 15, code & 7
    if exponent == 15 and mantissa == 7:
        return NAN
    value = math.ldexp(mantissa, -9) if exponent == 0 else math.ldexp(8 + mantissa, exponent - 10)
    return -value if code & 0x80 else value


E4M3 = [e4m3(code) for code in range(256)]


def e8m0(byte):
    return NAN if byte == 255 else 2.0 ** (byte - 127)


def fp8(cols, data, scales):
    """data: rows of `cols` codes; scales: a list of floats, ceil(cols / 128) a tile row."""
    per_row = -(-cols // TILE)
    out = []
    for row in range(len(data) // cols):
        for tile in range(per_row):
            scale = scales[row // TILE * per_row + tile]
            codes = data[row * cols + TILE * tile : min((row + 1) * cols, row * cols + TILE * tile + TILE)]
            out += [E4M3[code] * scale for code in codes]
    return out


def fp8_e8m0(cols, data, scales):
    return fp8(cols, data, [e8m0(byte) for byte in scales])


def fp8_f32(cols, data, scales):
    return fp8(cols, data, struct.unpack("<%df" % (len(scales) // 4), scales))


def fp4(cols, data, scales):
    """Two codes a byte, low nibble first, 32 a scale. Rows follow each other without a gap, as scales do."""
    assert cols % FP4_GROUP == 0
    codes = nibble_pairs(data)
    return [E2M1[code] * e8m0(scales[i // FP4_GROUP]) for i, code in enumerate(codes)]


class BlockType:
    """A type whose blocks stand for themselves."""

    def __init__(self, name, ggml_id, values, size, decode, scales=()):
        self.name = name
        self.ggml_id = ggml_id
        self.values = values
        self.size = size  # bytes
        self.decode_block = decode
        self.scales = scales  # offsets of f16 scales

    def decode(self, data):
        out = []
        for at in range(0, len(data), self.size):
            out += self.decode_block(data[at : at + self.size])
        return f32_bytes(out)


BLOCK_TYPES = [
    BlockType("f32", 0, 1, 4, f32),
    BlockType("f16", 1, 1, 2, half, (0,)),
    BlockType("bf16", 30, 1, 2, bf16),
    BlockType("q8_0", 8, 32, 34, q8_0, (0,)),
    BlockType("q4_0", 2, 32, 18, q4_0, (0,)),
    BlockType("q2_K", 10, 256, 84, q2_K, (80, 82)),
    BlockType("q3_K", 11, 256, 110, q3_K, (108,)),
    BlockType("q4_K", 12, 256, 144, q4_K, (0, 2)),
    BlockType("q5_K", 13, 256, 176, q5_K, (0, 2)),
    BlockType("q6_K", 14, 256, 210, q6_K, (208,)),
    BlockType("iq2_xxs", 16, 256, 66, iq2_xxs, (0,)),
    BlockType("iq2_xs", 17, 256, 74, iq2_xs, (0,)),
    BlockType("iq2_s", 22, 256, 82, iq2_s, (0,)),
    BlockType("iq3_xxs", 18, 256, 98, iq3_xxs, (0,)),
    BlockType("iq3_s", 21, 256, 110, iq3_s, (0,)),
    BlockType("iq4_nl", 20, 32, 18, iq4_nl, (0,)),
    BlockType("iq4_xs", 23, 256, 136, iq4_xs, (0,)),
    BlockType("mxfp4", 39, 32, 17, mxfp4),
]
