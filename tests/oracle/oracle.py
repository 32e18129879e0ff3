"""The arithmetic of docs/FORMAT.md, written from its text and from nothing else.

Slow and plain on purpose: it is what the library is compared with, bit by bit. Rounding to
a storage format is a search for the nearest value, a scale is found by comparing exact
integers, and every binary32 operation is exact_f32's.
"""

import math
import struct
from bisect import bisect_right
from fractions import Fraction

import exact_f32 as f32

ROW_WIDTH = 512
NOPE_WIDTH = 448
ROPE_WIDTH = 64
INDEX_WIDTH = 128
FP8_BLOCK = 64
FP4_BLOCK = 32
PAGE_QUANTUM_BYTES = 576  # FP8 pages are padded to a multiple of it

F32, F16, FP8_F16, FP8_BF16, FP4 = range(5)
GRID_NONE, GRID_FP8, GRID_FP4 = range(3)

# ---- Small floating-point formats ----------------------------------------------------


class SmallFloat:
    """A binary format by its definition: the value of every code, and a search for the nearest.

    max_code is the last finite magnitude code; codes above it are NaN or infinity.
    """

    def __init__(self, exponent_bits, mantissa_bits, bias, max_code):
        self.mantissa_bits = mantissa_bits
        self.bias = bias
        self.max_code = max_code
        self.sign_bit = 1 << (exponent_bits + mantissa_bits)
        self.unit_exponent = 1 - bias - mantissa_bits  # all values are multiples of 2^this
        self.magnitudes = [self._magnitude(code) for code in range(max_code + 1)]

    def _magnitude(self, code):
        exponent, mantissa = divmod(code, 1 << self.mantissa_bits)
        if exponent == 0:
            return mantissa  # subnormal
        return ((1 << self.mantissa_bits) + mantissa) << (exponent - 1)

    def value(self, code):
        """The value of a finite code, a float; keeps the sign of zero."""
        magnitude = math.ldexp(self.magnitudes[code & ~self.sign_bit], self.unit_exponent)
        return -magnitude if code & self.sign_bit else magnitude

    def encode(self, x, scale_exponent=0):
        """The code nearest to x * 2^-scale_exponent; ties to the even code; saturates."""
        code = self._nearest(abs(f32.units(x)), f32.UNIT_EXPONENT - scale_exponent)
        return code | self.sign_bit if f32.is_negative(x) else code

    def _nearest(self, n, exponent):
        """The magnitude code nearest to n * 2^exponent."""
        lift = exponent - self.unit_exponent
        if lift >= 0:
            n <<= lift
            lift = 0
        # Now n * 2^lift is in the units of self.magnitudes, lift <= 0.
        low = bisect_right(self.magnitudes, n >> -lift) - 1
        if low == self.max_code:
            return low
        twice = 2 * n
        midpoint = (self.magnitudes[low] + self.magnitudes[low + 1]) << -lift
        if twice == midpoint:
            return low + (low & 1)
        return low + 1 if twice > midpoint else low

    def encode_by_brute_force(self, x, scale_exponent=0):
        """encode again, by the distance to each of all values: proves the search above."""
        exact = abs(Fraction(x)) / Fraction(2) ** scale_exponent
        step = Fraction(2) ** self.unit_exponent
        code = min(
            range(self.max_code + 1),
            key=lambda c: (abs(exact - self.magnitudes[c] * step), c & 1),
        )
        return code | self.sign_bit if f32.is_negative(x) else code


E4M3 = SmallFloat(4, 3, 7, 0x7E)  # e4m3fn: 0x7f is NaN, the largest value is 448
E2M1 = SmallFloat(2, 1, 1, 7)  # 0 .5 1 1.5 2 3 4 6
HALF = SmallFloat(5, 10, 15, 0x7BFF)
BFLOAT = SmallFloat(8, 7, 127, 0x7F7F)

# ---- Scales -----------------------------------------------------------------------------

FP8_MAX = 448
FP4_MAX = 6
FP8_FLOOR = f32.const(Fraction(1, 10000))  # 1e-4f
FP4_FLOOR = math.ldexp(6.0, -126)
FP4_MAX_EXPONENT = 50  # beyond it a nonzero block is refused


def scale_exponent(block, largest, floor):
    """The smallest e with max(|x|, floor) <= largest * 2^e, by exact comparison."""
    amax = f32.units(max(floor, max(abs(x) for x in block)))
    lift = -f32.UNIT_EXPONENT

    def fits(e):
        return amax <= largest << (e + lift)  # e >= -126 for both floors

    e = amax.bit_length() - lift
    while fits(e - 1):
        e -= 1
    while not fits(e):
        e += 1
    return e


def scaled(value, e):
    """value * 2^e rounded once to f32 (exact for every stored value)."""
    return f32.from_units(_scale_units(f32.units(value), e)) if value else value


def _scale_units(n, e):
    return n << e if e >= 0 else f32.round_units(n, -e)


# ---- Rows -----------------------------------------------------------------------------


class RangeError(Exception):
    """A nonzero FP4 block whose scale exponent is outside -50 .. 50."""

    def __init__(self, dimension):
        super().__init__(dimension)
        self.dimension = dimension


class Fp8Row:
    """A row of 512 on the FP8 grid: 448 codes, 64 rope codes, 7 scale exponents."""

    def __init__(self, row, rope_format=HALF):
        self.exponents = []
        self.codes = []
        for start in range(0, NOPE_WIDTH, FP8_BLOCK):
            block = row[start : start + FP8_BLOCK]
            e = scale_exponent(block, FP8_MAX, FP8_FLOOR)
            self.exponents.append(e)
            self.codes += [E4M3.encode(x, e) for x in block]
        self.rope_format = rope_format
        self.rope = [rope_format.encode(x) for x in row[NOPE_WIDTH:]]

    def data_bytes(self):
        return bytes(self.codes) + struct.pack("<64H", *self.rope)

    def scale_bytes(self):
        return bytes(e + 127 for e in self.exponents) + b"\0"

    def values(self):
        nope = [
            scaled(E4M3.value(code), self.exponents[i // FP8_BLOCK])
            for i, code in enumerate(self.codes)
        ]
        return nope + [self.rope_format.value(code) for code in self.rope]


class Fp4Row:
    """A row of 128 on the FP4 grid: 128 codes, 4 scale exponents. Raises RangeError."""

    def __init__(self, row):
        self.exponents = []
        self.codes = []
        for start in range(0, INDEX_WIDTH, FP4_BLOCK):
            block = row[start : start + FP4_BLOCK]
            e = scale_exponent(block, FP4_MAX, FP4_FLOOR)
            if abs(e) > FP4_MAX_EXPONENT and any(block):
                raise RangeError(start)
            self.exponents.append(e)
            self.codes += [E2M1.encode(x, e) for x in block]

    def data_bytes(self):
        pairs = zip(self.codes[0::2], self.codes[1::2])
        return bytes(even | odd << 4 for even, odd in pairs)

    def scale_bytes(self):
        return bytes(e + 127 for e in self.exponents)

    def values(self):
        return [
            scaled(E2M1.value(code), self.exponents[i // FP4_BLOCK])
            for i, code in enumerate(self.codes)
        ]

    def doubled(self):
        """The doubled code values with sign: whole numbers up to 12."""
        return [int(2 * E2M1.value(code)) for code in self.codes]


class PlainRow:
    """A row stored value by value: f32 as it is, or f16 rounded to nearest."""

    def __init__(self, row, id_):
        self.half = id_ == F16
        self.row = [HALF.encode(x) for x in row] if self.half else list(row)

    def data_bytes(self):
        return struct.pack("<%d%s" % (len(self.row), "H" if self.half else "f"), *self.row)

    def scale_bytes(self):
        return b""

    def values(self):
        return [HALF.value(code) for code in self.row] if self.half else self.row


HADAMARD_FACTOR = f32.const(Fraction("0.08838834764831845"))


def hadamard(row):
    """Hadamard-128 as 7 butterfly stages of f32 additions and one multiplication."""
    row = list(row)
    stride = 1
    while stride < INDEX_WIDTH:
        for start in range(0, INDEX_WIDTH, 2 * stride):
            for i in range(start, start + stride):
                a, b = row[i], row[i + stride]
                row[i], row[i + stride] = f32.add(a, b), f32.sub(a, b)
        stride *= 2
    return [f32.mul(x, HADAMARD_FACTOR) for x in row]


def stored_row(row, id_, grid, with_hadamard=False):
    """What kvf_pack stores for one row: an object with data_bytes, scale_bytes and values."""
    if with_hadamard:
        row = hadamard(row)
    if id_ == FP8_F16:
        return Fp8Row(row, HALF)
    if id_ == FP8_BF16:
        return Fp8Row(row, BFLOAT)
    if id_ == FP4:
        return Fp4Row(row)
    if grid == GRID_FP8:
        row = Fp8Row(row).values()
    elif grid == GRID_FP4:
        row = Fp4Row(row).values()
    return PlainRow(row, id_)


# ---- Pages ----------------------------------------------------------------------------


def row_parts(id_, width):
    """(data bytes, scale bytes) of one row."""
    if id_ in (FP8_F16, FP8_BF16):
        return NOPE_WIDTH + 2 * ROPE_WIDTH, 8
    if id_ == FP4:
        return INDEX_WIDTH // 2, INDEX_WIDTH // FP4_BLOCK
    return width * (4 if id_ == F32 else 2), 0


def row_bytes(id_, width):
    return sum(row_parts(id_, width))


def page_bytes(id_, width, page_rows):
    content = page_rows * row_bytes(id_, width)
    if id_ in (FP8_F16, FP8_BF16):
        content = -(-content // PAGE_QUANTUM_BYTES) * PAGE_QUANTUM_BYTES
    return content


class Pages:
    """Rows in memory, as kvf_rows describes them. reversed_table: pages through a table."""

    def __init__(self, id_, width, page_rows, n_rows, gap_bytes=0, reversed_table=False, fill=0):
        self.id, self.width, self.page_rows, self.n_rows = id_, width, page_rows, n_rows
        self.stride = page_bytes(id_, width, page_rows) + gap_bytes
        self.n_pages = -(-n_rows // page_rows)
        self.reversed_table = reversed_table
        self.memory = bytearray([fill]) * (self.n_pages * self.stride)

    def spans(self, r):
        """The byte ranges (data, scales) of row r within the memory."""
        page, slot = divmod(r, self.page_rows)
        if self.reversed_table:
            page = self.n_pages - 1 - page
        data, scales = row_parts(self.id, self.width)
        base = page * self.stride
        data_at = base + slot * data
        scales_at = base + self.page_rows * data + slot * scales
        return (data_at, data_at + data), (scales_at, scales_at + scales)

    def store(self, r, stored):
        for (start, end), part in zip(self.spans(r), (stored.data_bytes(), stored.scale_bytes())):
            assert len(part) == end - start
            self.memory[start:end] = part


def paged(rows, id_, page_rows=64, grid=GRID_NONE, **options):
    """Pages that hold these f32 rows (a list of lists), packed by this oracle."""
    pages = Pages(id_, len(rows[0]), page_rows, len(rows), **options)
    for r, row in enumerate(rows):
        pages.store(r, stored_row(row, id_, grid))
    return pages


# ---- Index score and select -----------------------------------------------------------


def index_score(queries, weights, key):
    """The score of one key (an Fp4Row) by the query heads (Fp4Rows) and unscaled weights."""
    n_heads = len(queries)
    factor = f32.const(1 / math.sqrt(n_heads * 128.0))
    lanes = [0.0] * 8
    for h, query in enumerate(queries):
        s = max(_head_score(query, key), 0.0)
        lanes[h % 8] = f32.fma(f32.mul(weights[h], factor), s, lanes[h % 8])
    a = lanes
    low = f32.add(f32.add(a[0], a[1]), f32.add(a[2], a[3]))
    high = f32.add(f32.add(a[4], a[5]), f32.add(a[6], a[7]))
    return f32.add(low, high)


def _head_score(query, key):
    terms = []
    for b in range(INDEX_WIDTH // FP4_BLOCK):
        span = slice(b * FP4_BLOCK, (b + 1) * FP4_BLOCK)
        d = sum(x * y for x, y in zip(_doubled(query)[span], _doubled(key)[span]))
        x = query.exponents[b] + key.exponents[b] - 2
        terms.append(scaled(float(d), x) if d else 0.0)
    return f32.add(f32.add(f32.add(terms[0], terms[1]), terms[2]), terms[3])


def _doubled(row):
    """row.doubled(), kept on the row: a key is scored against many queries."""
    if not hasattr(row, "kept_doubled"):
        row.kept_doubled = row.doubled()
    return row.kept_doubled


def select(scores, top_k):
    """The rows of the top_k highest scores, equal scores by lower row, ascending."""
    # -0 == +0 in Python's comparison, as the text asks.
    order = sorted(range(len(scores)), key=lambda r: (-scores[r], r))
    return sorted(order[:top_k])


# ---- exp and attention ------------------------------------------------------------------

# Values in units from here on: signs of zero do not matter in attention (FORMAT.md 9.2
# ends with + 0) and integers are quicker than floats.
ONE = f32.units(1.0)
SHIFT = -f32.UNIT_EXPONENT


def _hex(text):
    return f32.units(float.fromhex(text))


EXP_LOWEST = f32.units(-87.0)
EXP_LOG2_E = _hex("0x1.715476p+0")
EXP_MAGIC = _hex("0x1.8p+23")
EXP_LN2_HIGH = _hex("-0x1.62e430p-1")
EXP_LN2_LOW = _hex("0x1.05c610p-29")
EXP_POLYNOMIAL = [
    _hex(c)
    for c in ("0x1.6ac752p-10", "0x1.123de0p-7", "0x1.555858p-5", "0x1.55548cp-3", "0x1.fffffcp-2")
]


def fma_units(a, b, c):
    return f32.round_units(a * b + (c << SHIFT), SHIFT)


def exp_units(x):
    """FORMAT.md 9.1, for x <= 0."""
    assert x <= 0
    if x < EXP_LOWEST:
        return 0
    n = f32.round_units(fma_units(x, EXP_LOG2_E, EXP_MAGIC) - EXP_MAGIC, 0)
    r = fma_units(n, EXP_LN2_HIGH, x)
    r = fma_units(n, EXP_LN2_LOW, r)
    q = EXP_POLYNOMIAL[0]
    for coefficient in EXP_POLYNOMIAL[1:]:
        q = fma_units(q, r, coefficient)
    squared = f32.round_units(r * r, SHIFT)
    y = f32.round_units(fma_units(squared, q, r) + ONE, 0)
    halvings = -(n >> SHIFT)
    assert 0 <= halvings <= 126
    result = y >> halvings
    assert result << halvings == y, "exp never rounds in its last step"
    return result


def exp(x):
    return f32.from_units(exp_units(f32.units(x)))


def lane_dot_units(a, b):
    """The dot of FORMAT.md 9.2 step 1: 16 lanes of fma, then a tree."""
    lanes = [0] * 16
    for i in range(len(a)):
        lanes[i % 16] = fma_units(a[i], b[i], lanes[i % 16])
    for half in (8, 4, 2, 1):
        for lane in range(half):
            lanes[lane] = f32.round_units(lanes[lane] + lanes[lane + half], 0)
    return lanes[0]


def row_units(row):
    return [f32.units(x) for x in row]


def attend(q, rows, scale, sink=None):
    """One query head over rows (unit lists); (output floats, m + ln(d) or None).

    A masked row of the dense form is one that is left out here: its p is 0 and adds nothing.
    """
    if not rows and sink is None:
        return [0.0] * len(q), None
    q = row_units(q)
    scale = f32.units(scale)
    scores = [f32.round_units(lane_dot_units(q, row) * scale, SHIFT) for row in rows]
    sink_units = [] if sink is None else [f32.units(sink)]
    m = max(scores + sink_units)
    assert abs(m) < f32.OVERFLOW_UNITS, "the text does not cover an overflowing score"
    d = exp_units(f32.round_units(sink_units[0] - m, 0)) if sink_units else 0
    acc = [0] * len(q)
    for s, row in zip(scores, rows):
        p = exp_units(f32.round_units(s - m, 0))
        d = f32.round_units(d + p, 0)
        acc = [fma_units(p, v, a) for v, a in zip(row, acc)]
    out = [f32.from_units(f32.div_units(a, d)) + 0.0 for a in acc]
    return out, f32.from_units(m) + math.log(f32.from_units(d))


# ---- Compressor -------------------------------------------------------------------------


def pool(candidates):
    """One dimension: [(kv, gate with bias)] in order of token -> the pooled value."""
    m = max(gate for _, gate in candidates)
    total, weighted = 0.0, 0.0
    for kv, gate in candidates:
        p = exp(f32.sub(gate, m))
        total = f32.add(total, p)
        weighted = f32.add(weighted, f32.mul(p, kv))
    return f32.div(weighted, total)


def rms_norm(row, weight, eps):
    n = row_units(row)
    mean = f32.div(f32.from_units(lane_dot_units(n, n)), float(len(row)))
    r = f32.div(1.0, f32.sqrt(f32.add(mean, eps)))
    return [f32.mul(f32.mul(x, r), w) for x, w in zip(row, weight)]


def rope(row, cosines, sines):
    """Rotates the trailing 64 values, interleaved pairs."""
    row = list(row)
    start = len(row) - ROPE_WIDTH
    for i in range(ROPE_WIDTH // 2):
        x, y = row[start + 2 * i], row[start + 2 * i + 1]
        c, s = cosines[i], sines[i]
        row[start + 2 * i] = f32.sub(f32.mul(x, c), f32.mul(y, s))
        row[start + 2 * i + 1] = f32.add(f32.mul(x, s), f32.mul(y, c))
    return row


def compressed_row(c, ratio, overlap, kv, gate, bias, norm_weight, eps, cosines, sines):
    """Compressed row c before its grid; kv and gate are [token][parts * width].

    overlap (CSA): parts is 2, the first halves of the window before and the second halves
    of window c; else (HCA) all tokens of window c.
    """
    width = len(norm_weight)
    places = []  # (token, first column)
    if overlap:
        places += [(t, 0) for t in range(max(0, (c - 1) * ratio), c * ratio)]
    places += [(t, width if overlap else 0) for t in range(c * ratio, (c + 1) * ratio)]
    pooled = []
    for i in range(width):
        candidates = [
            (kv[t][column + i], f32.add(gate[t][column + i], bias[t % ratio][column + i]))
            for t, column in places
        ]
        pooled.append(pool(candidates))
    return rope(rms_norm(pooled, norm_weight, eps), cosines, sines)
