"""IEEE binary32 arithmetic on exact integers: every result is the exact value, rounded once.

A float here is a Python float that holds a binary32 value. Inside the operations it is a
whole number of "units" of 2^-149, the smallest binary32 subnormal: every finite binary32
number is a whole number of units, so sums and products are exact integers and a rounding is
one shift. Nothing relies on the machine's own binary32 arithmetic.
"""

import math
import struct
from fractions import Fraction

UNIT_EXPONENT = -149  # of the smallest subnormal
SIGNIFICAND_BITS = 24
OVERFLOW_UNITS = 1 << (128 - UNIT_EXPONENT)  # 2^128, the first power of two that is not finite


def from_bits(bits):
    """The binary32 value of a 32-bit pattern."""
    return struct.unpack("<f", struct.pack("<I", bits))[0]


def to_bits(x):
    """The 32-bit pattern of a binary32 value."""
    return struct.unpack("<I", struct.pack("<f", x))[0]


def next_up(x, steps=1):
    """The binary32 number `steps` above a finite x > 0 (below it, for negative steps)."""
    return from_bits(to_bits(x) + steps)


def is_negative(x):
    """Whether the sign bit is set; true for -0."""
    return math.copysign(1.0, x) < 0


def units(x):
    """The integer n with x == n * 2^-149."""
    return int(math.ldexp(x, -UNIT_EXPONENT))


def from_units(n):
    """The float of n units; n must be a binary32 value (infinite when it overflowed)."""
    if abs(n) >= OVERFLOW_UNITS:
        return math.copysign(math.inf, n)
    return math.ldexp(n, UNIT_EXPONENT)


def round_units(n, shift):
    """Rounds n * 2^-(149 + shift) to binary32, ties to even; the result is in units.

    Overflow is left as a number of at least 2^128: from_units makes it infinite.
    """
    magnitude = abs(n)
    drop = max(shift, magnitude.bit_length() - SIGNIFICAND_BITS)
    if drop <= 0:
        return n << -shift
    kept = magnitude >> drop
    rest = magnitude - (kept << drop)
    half = 1 << (drop - 1)
    if rest > half or (rest == half and kept & 1):
        kept += 1
    kept <<= drop - shift
    return -kept if n < 0 else kept


def round_f32(value):
    """Rounds a Fraction to binary32, ties to even. Zero is +0."""
    # Long enough that the quotient keeps all bits of the result and one below them; what
    # is left of the division is only ever "something more", which the last bit records.
    shift = 64 + max(0, value.denominator.bit_length() - abs(value.numerator).bit_length())
    shift = max(shift, -UNIT_EXPONENT + 2)
    quotient, rest = divmod(abs(value.numerator) << shift, value.denominator)
    sticky = quotient << 1 | (1 if rest else 0)
    rounded = round_units(sticky, shift + 1 + UNIT_EXPONENT)
    return from_units(-rounded if value < 0 else rounded)


def add(a, b):
    n = units(a) + units(b)
    if n == 0:
        return a + b  # an exact zero: only its sign is asked, +0 unless both are -0
    return from_units(round_units(n, 0))


def sub(a, b):
    return add(a, -b)


def mul(a, b):
    n = units(a) * units(b)
    result = from_units(round_units(abs(n), -UNIT_EXPONENT))
    return -result if is_negative(a) != is_negative(b) else result


def fma(a, b, c):
    """a * b + c, rounded once."""
    product = units(a) * units(b)
    n = product + (units(c) << -UNIT_EXPONENT)
    if n == 0:
        if product:
            return 0.0  # cancelled: +0 in round to nearest
        zero = -0.0 if is_negative(a) != is_negative(b) else 0.0
        return zero + c
    result = from_units(round_units(abs(n), -UNIT_EXPONENT))
    return -result if n < 0 else result


def div_units(a, b):
    """a / b of unit counts, rounded once, in units; b > 0."""
    # 2^-149 cancels; 330 more bits than the longest operand difference keep the quotient.
    shift = 330 + b.bit_length()
    quotient, rest = divmod(abs(a) << shift, b)
    rounded = round_units(quotient << 1 | (1 if rest else 0), shift + 1 + UNIT_EXPONENT)
    return -rounded if a < 0 else rounded


def div(a, b):
    """a / b for finite a and nonzero b."""
    result = from_units(div_units(abs(units(a)), abs(units(b))))
    return -result if is_negative(a) != is_negative(b) else result


def sqrt(a):
    """Square root of a > 0, rounded once."""
    # n units = n * 2^-149; an even exponent is needed, and 2 * 64 bits below for the rounding.
    n = units(a) << (1 + 2 * 64)
    root = math.isqrt(n)
    sticky = root << 1 | (1 if root * root != n else 0)
    # sqrt(n * 2^-(150 + 128)) = root * 2^-139
    return from_units(round_units(sticky, 139 + 1 + UNIT_EXPONENT))


def const(value):
    """The binary32 nearest to a Fraction, an int or a Python float."""
    return round_f32(Fraction(value))
