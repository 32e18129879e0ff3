"""Proves the oracle: against hand-made facts, brute force and the model's golden fixtures."""

import argparse
import math
import os
import random
import struct
import sys
import unittest
from fractions import Fraction

import exact_f32 as f32
import fixtures
import oracle


def random_f32(rng):
    return f32.from_bits(rng.getrandbits(1) << 31 | rng.randrange(0x7F800000))


def nearest_f32(value):
    """The binary32 nearest to a positive Fraction, by bisection over all bit patterns."""
    low, high = 0, 0x7F7FFFFF
    while low < high:
        middle = (low + high + 1) // 2
        if Fraction(f32.from_bits(middle)) <= value:
            low = middle
        else:
            high = middle - 1
    below = value - Fraction(f32.from_bits(low))
    above = Fraction(f32.from_bits(low + 1)) - value
    return f32.from_bits(low if below < above or (below == above and low % 2 == 0) else low + 1)


class ExactF32(unittest.TestCase):
    def test_round_f32_is_the_nearest_pattern_with_ties_to_even(self):
        rng = random.Random(1)
        for _ in range(2000):
            bits = rng.randrange(0x7F000000)
            a, b = Fraction(f32.from_bits(bits)), Fraction(f32.from_bits(bits + 1))
            for value in (a, (a + b) / 2, (a * 2 + b) / 3, (a + b * 2) / 3):
                self.assertEqual(f32.to_bits(f32.round_f32(value)), f32.to_bits(nearest_f32(value)))

    def test_operations_equal_the_rounded_fraction(self):
        rng = random.Random(2)
        for _ in range(3000):
            a, b, c = (math.ldexp(rng.randrange(-(1 << 24), 1 << 24), rng.randrange(-80, 30))
                       for _ in range(3))
            fa, fb, fc = Fraction(a), Fraction(b), Fraction(c)
            self.assertEqual(f32.add(a, b), f32.round_f32(fa + fb))
            self.assertEqual(f32.mul(a, b), f32.round_f32(fa * fb))
            self.assertEqual(f32.fma(a, b, c), f32.round_f32(fa * fb + fc))
            if b:
                self.assertEqual(f32.div(a, b), f32.round_f32(fa / fb))

    def test_sqrt_is_the_nearest(self):
        rng = random.Random(3)
        for _ in range(2000):
            a = abs(random_f32(rng)) or 1.0
            root = f32.sqrt(a)
            low = (Fraction(f32.next_up(root, -1)) + Fraction(root)) / 2
            high = (Fraction(f32.next_up(root)) + Fraction(root)) / 2
            self.assertTrue(low * low <= a <= high * high)

    def test_signs_of_zero(self):
        for result in (f32.add(1.0, -1.0), f32.add(-0.0, 0.0), f32.fma(1.0, 1.0, -1.0),
                       f32.fma(-0.0, 1.0, 0.0), f32.mul(-0.0, -1.0)):
            self.assertEqual(f32.to_bits(result), 0)
        for result in (f32.add(-0.0, -0.0), f32.fma(-0.0, 1.0, -0.0), f32.mul(-0.0, 1.0),
                       f32.mul(math.ldexp(-1, -149), 0.25)):
            self.assertEqual(f32.to_bits(result), 0x80000000)

    def test_overflow_is_infinite(self):
        largest = f32.from_bits(0x7F7FFFFF)
        self.assertEqual(f32.add(largest, largest), math.inf)
        self.assertEqual(f32.round_f32(Fraction(2) ** 128 - Fraction(2) ** 103), math.inf)
        self.assertEqual(f32.round_f32(Fraction(2) ** 128 - Fraction(2) ** 103 - 1), largest)


class SmallFloats(unittest.TestCase):
    def test_known_values(self):
        self.assertEqual(oracle.E4M3.value(0x7E), 448)
        self.assertEqual(oracle.E4M3.value(0x01), 2.0**-9)
        self.assertEqual([oracle.E2M1.value(c) for c in range(8)], [0, 0.5, 1, 1.5, 2, 3, 4, 6])
        self.assertEqual(oracle.HALF.value(0x7BFF), 65504)

    def test_half_values_are_those_of_the_struct_module(self):
        for code in range(0x7C00):
            value = struct.unpack("<e", struct.pack("<H", code))[0]
            self.assertEqual(oracle.HALF.value(code), value)

    def test_bfloat_values_are_the_upper_half_of_f32(self):
        for code in range(0x7F80):
            self.assertEqual(oracle.BFLOAT.value(code), f32.from_bits(code << 16))

    def test_search_equals_brute_force_over_all_codes(self):
        rng = random.Random(4)
        for small in (oracle.E4M3, oracle.E2M1):
            for _ in range(1500):
                e = rng.randrange(-22, 60)
                x = f32.const(rng.choice((1, -1)) * rng.uniform(0, 500) * 2.0**e)
                self.assertEqual(small.encode(x, e), small.encode_by_brute_force(x, e))
            for code in range(small.max_code):
                tie = (small.value(code) + small.value(code + 1)) / 2
                for x in (tie, f32.next_up(tie), f32.next_up(tie, -1), -tie):
                    self.assertEqual(small.encode(x), small.encode_by_brute_force(x))

    def test_half_equals_the_struct_module(self):
        rng = random.Random(5)
        for _ in range(20000):
            x = f32.const(rng.uniform(-1, 1) * 2.0 ** rng.randrange(-26, 16))
            self.assertEqual(struct.pack("<H", oracle.HALF.encode(x)), struct.pack("<e", x))


class Scales(unittest.TestCase):
    def test_smallest_exponent_that_fits(self):
        rng = random.Random(6)
        rules = ((oracle.FP8_MAX, oracle.FP8_FLOOR), (oracle.FP4_MAX, oracle.FP4_FLOOR))
        for largest, floor in rules:
            for _ in range(3000):
                amax = max(abs(random_f32(rng)), floor)
                e = oracle.scale_exponent([amax], largest, floor)
                self.assertLessEqual(Fraction(amax), largest * Fraction(2) ** e)
                self.assertGreater(Fraction(amax), largest * Fraction(2) ** (e - 1))

    def test_bit_rule_of_the_text_gives_the_same(self):
        rng = random.Random(7)
        for _ in range(5000):
            amax = abs(random_f32(rng))
            mantissa, exponent = math.frexp(amax)
            mantissa, exponent = mantissa * 2, exponent - 1
            if amax >= oracle.FP8_FLOOR:
                e = exponent - 8 if mantissa <= 1.75 else exponent - 7
                self.assertEqual(oracle.scale_exponent([amax], 448, oracle.FP8_FLOOR), e)
            if amax >= oracle.FP4_FLOOR:
                e = exponent - 2 if mantissa <= 1.5 else exponent - 1
                self.assertEqual(oracle.scale_exponent([amax], 6, oracle.FP4_FLOOR), e)


class Exp(unittest.TestCase):
    def test_exp_of_zero_is_one_and_far_below_is_zero(self):
        self.assertEqual(oracle.exp(0.0), 1.0)
        self.assertEqual(oracle.exp(f32.next_up(87.0) * -1), 0.0)
        self.assertGreater(oracle.exp(-87.0), 2.0**-126)

    def test_exp_is_within_two_ulps(self):
        rng = random.Random(8)
        for _ in range(3000):
            x = f32.const(-(rng.uniform(0, 87) ** rng.choice((1, 0.1))))
            got, want = oracle.exp(x), math.exp(x)
            ulp = f32.next_up(got) - got
            self.assertLess(abs(got - want), 2 * ulp)


class Attention(unittest.TestCase):
    def test_attend_is_a_softmax(self):
        rng = random.Random(9)
        rows = [[f32.const(rng.gauss(0, 1)) for _ in range(512)] for _ in range(4)]
        q = [f32.const(rng.gauss(0, 1)) for _ in range(512)]
        scale = f32.const(1 / math.sqrt(512.0))
        out, lse = oracle.attend(q, [oracle.row_units(r) for r in rows], scale, 0.5)
        scores = [sum(a * b for a, b in zip(q, r)) * scale for r in rows]
        total = math.exp(0.5) + sum(math.exp(s) for s in scores)
        self.assertAlmostEqual(lse, math.log(total), places=5)
        for i in range(512):
            want = sum(math.exp(s) * r[i] for s, r in zip(scores, rows)) / total
            self.assertAlmostEqual(out[i], want, places=5)


@unittest.skipUnless(os.path.exists(fixtures.GOLDENS), "the golden fixtures are not here")
class Goldens(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.goldens = fixtures.Safetensors(fixtures.GOLDENS)

    def check_bits(self, got, want):
        self.assertEqual(struct.pack("<%df" % len(got), *got), struct.pack("<%df" % len(want), *want))

    def test_fp8_grid_is_the_fixture_to_the_last_bit(self):
        pairs = (("unit.kv_in", "unit.kv_out"), ("qat.p300.l2.rows_before", "qat.p300.l2.rows_used"),
                 ("qat.p300.l0.kv_before", "qat.p300.l0.kv_used"))
        for before, after in pairs:
            for row, want in zip(self.goldens.rows(before), self.goldens.rows(after)):
                self.check_bits(oracle.Fp8Row(row).values(), want)

    def test_fp4_grid_is_the_fixture_to_the_last_bit(self):
        rows = zip(self.goldens.rows("unit.ix_hadamard"), self.goldens.rows("unit.ix_e2m1_of_hadamard"))
        for row, want in rows:
            self.check_bits(oracle.Fp4Row(row).values(), want)

    def test_hadamard_is_the_fixture_up_to_the_order_of_its_sums(self):
        rows = zip(self.goldens.rows("unit.ix_in"), self.goldens.rows("unit.ix_hadamard"))
        for row, want in rows:
            tolerance = 1e-6 * math.sqrt(sum(x * x for x in row))
            for got, value in zip(oracle.hadamard(row), want):
                self.assertLessEqual(abs(got - value), tolerance)


if __name__ == "__main__":
    # The oracle stands alone; --probe is accepted because all tests of the folder get it.
    parser = argparse.ArgumentParser()
    parser.add_argument("--probe")
    parser.add_argument("--downloads")
    unittest.main(argv=[sys.argv[0]] + parser.parse_known_args()[1])
