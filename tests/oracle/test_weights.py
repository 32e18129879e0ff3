"""Stored weight types against the oracle: random blocks, every code, every scale, scale planes."""

import random
import struct

import weight_blocks
import weight_oracle
from probe_client import ONE_TARGET, LibraryTest, main

RANDOM_BLOCKS = 10_000
SCALE_STEP = 61  # of the 65,536 f16 in blocks of 256, but for --slow; blocks of 32 have them all


class Types(LibraryTest):
    # Name, values and bytes of a block; rows and columns of a scale of the plane, its bytes.
    EXPECTED = [(kind.name, kind.values, kind.size, 0, 0, 0) for kind in weight_oracle.BLOCK_TYPES] + [
        ("fp8_e8m0", 1, 1, 128, 128, 1), ("fp8_f32", 1, 1, 128, 128, 4), ("fp4", 32, 16, 1, 32, 1)]

    def listed(self, probe, rows, cols):
        """{name: fields} of all types."""
        types = {}
        while found := probe.weight_type(len(types), rows, cols):
            types[found[0]] = found[1]
        return types

    def test_the_list(self):
        for probe in self.targets():
            found = self.listed(probe, 1, 256)
            self.assertEqual(sorted((name, *fields[:5]) for name, fields in found.items()), sorted(self.EXPECTED))

    def test_bytes_of_rows_and_of_matrices(self):
        for probe in self.targets():
            for rows, cols in ((1, 256), (7, 4096), (129280, 7168), (2**32 - 1, 2**32 - 256)):
                found = self.listed(probe, rows, cols)
                for name, values, size, scale_rows, scale_cols, scale_bytes in self.EXPECTED:
                    row_bytes = cols // values * size
                    total = rows * row_bytes
                    plane = [0, 0, 0, 0]
                    if scale_bytes:
                        high, wide = -(-rows // scale_rows), -(-cols // scale_cols)
                        plane = [high, wide, wide * scale_bytes, high * wide * scale_bytes]
                    if total >= 2**64:
                        total, plane = 0, [0, 0, 0, 0]
                    self.assertEqual(list(found[name][5:]), [row_bytes, total] + plane, (name, rows, cols))

    def test_sizes_that_no_matrix_has(self):
        for probe in self.targets():
            for name, fields in self.listed(probe, 3, 0).items():
                self.assertEqual(fields[5:], (0,) * 6, name)
            for rows, cols in ((0, 256), (2**32, 256), (2**63, 256), (2**64 - 1, 2**32 - 256)):
                for name, fields in self.listed(probe, rows, cols).items():
                    self.assertEqual(fields[6:], (0,) * 5, (name, rows, cols))
            for cols in (2**32, 2**32 + 256, 2**63, 2**64 - 256):
                for name, fields in self.listed(probe, 3, cols).items():
                    self.assertEqual(fields[5:], (0,) * 6, (name, cols))
            for cols in (1, 16, 31, 33, 96, 128, 255, 257, 2**32 - 1):
                for name, fields in self.listed(probe, 3, cols).items():
                    whole = cols % fields[0] == 0
                    self.assertEqual(fields[5] != 0, whole, (name, cols))
                    self.assertEqual(fields[6] != 0, whole, (name, cols))


class Blocks(LibraryTest):
    def check(self, name):
        kind = weight_blocks.BY_NAME[name]
        rng = random.Random("weights " + name)
        for what, data in weight_blocks.cases(rng, kind, RANDOM_BLOCKS, 1 if self.slow else SCALE_STEP):
            want = kind.decode(data)
            for probe in self.targets():
                weight_blocks.assert_same(self, kind, what, data, weight_blocks.ask_decode(probe, kind, data), want)


for block_type in weight_oracle.BLOCK_TYPES:
    setattr(Blocks, "test_" + block_type.name, lambda self, name=block_type.name: self.check(name))


class Planes(LibraryTest):
    """DeepSeek's types: codes in rows, scales in a plane beside them."""

    def check(self, name, rows, cols, data, scales):
        want = weight_oracle.f32_bytes(getattr(weight_oracle, name)(cols, data, scales))
        for probe in self.targets():
            got = probe.decode(name, rows, cols, data, scales)
            at = weight_blocks.first_difference(got, want)
            if at is not None:
                self.fail("%s %d x %d: row %d, column %d: got %r, expected %r" % (
                    name, rows, cols, at // cols, at % cols, weight_blocks.f32_at(got, at),
                    weight_blocks.f32_at(want, at)))

    def f32_scales(self, rng, count):
        return struct.pack("<%dI" % count, *(weight_blocks.random_f32(rng) for _ in range(count)))

    def test_fp8_every_code_with_every_scale_byte(self):
        # Two rows of a tile row, half of the codes each, and a tile for each scale.
        row = [bytes(range(first, first + 128)) * 256 for first in (0, 128)]
        self.check("fp8_e8m0", 2, 128 * 256, b"".join(row), bytes(range(256)))

    def test_fp8_every_code_with_f32_scales_at_the_ends(self):
        ends = (0, 1, 2, 0x007FFFFF, 0x00800000, 0x33800000, 0x3F800000, 0x3F800001, 0x40490FDB, 0x7B000000,
                0x7B800000, 0x7F000000, 0x7F7FFFFF, 0x7F800000, 0x7F800001, 0x7FC00000)
        scales = struct.pack("<32I", *(sign | bits for sign in (0, 1 << 31) for bits in ends))
        row = [bytes(range(first, first + 128)) * 32 for first in (0, 128)]
        self.check("fp8_f32", 2, 128 * 32, b"".join(row), scales)

    def test_fp8_random_segments_of_a_tile(self):
        rng = random.Random("fp8")
        cols = 128 * RANDOM_BLOCKS // 2
        data = bytes(weight_blocks.random_bytes(rng, 2 * cols))
        self.check("fp8_f32", 2, cols, data, self.f32_scales(rng, RANDOM_BLOCKS // 2))
        self.check("fp8_e8m0", 2, cols, data, bytes(weight_blocks.random_bytes(rng, RANDOM_BLOCKS // 2)))

    def test_fp8_planes_whose_last_tiles_are_not_whole(self):
        rng = random.Random("tiles")
        for rows in (1, 127, 128, 129, 257):
            for cols in (1, 96, 127, 128, 129, 300):
                count = -(-rows // 128) * -(-cols // 128)
                data = bytes(weight_blocks.random_bytes(rng, rows * cols))
                self.check("fp8_f32", rows, cols, data, self.f32_scales(rng, count))
                self.check("fp8_e8m0", rows, cols, data, bytes(weight_blocks.random_bytes(rng, count)))

    def test_fp4_every_pair_of_codes_with_every_scale_byte(self):
        # 256 pairs in 16 groups of 32 values, for each scale byte a row.
        self.check("fp4", 256, 512, bytes(range(256)) * 256, bytes(b for b in range(256) for _ in range(16)))

    def test_fp4_random_groups(self):
        rng = random.Random("fp4")
        for rows, groups in ((RANDOM_BLOCKS // 8, 8), (3, 1), (1, 5), (130, 3)):
            data = bytes(weight_blocks.random_bytes(rng, rows * groups * 16))
            self.check("fp4", rows, groups * 32, data, bytes(weight_blocks.random_bytes(rng, rows * groups)))


class TheTestItself(LibraryTest):
    """A comparison that cannot fail proves nothing."""

    def test_differences_are_found(self):
        kind = weight_blocks.BY_NAME["q8_0"]
        data = weight_blocks.random_blocks(random.Random(1), kind, 64)
        want = bytearray(kind.decode(data))
        for at in (0, 1023, 1024, len(want) - 4):
            changed = bytearray(want)
            struct.pack_into("<I", changed, at // 4 * 4, struct.unpack_from("<I", want, at // 4 * 4)[0] ^ 1)
            # A NaN whose payload changed is still a NaN.
            expected = None if weight_blocks.is_nan(struct.unpack_from("<I", want, at // 4 * 4)[0]) else at // 4
            self.assertEqual(weight_blocks.first_difference(bytes(changed), bytes(want)), expected)
        self.assertEqual(weight_blocks.first_difference(struct.pack("<f", -0.0), struct.pack("<f", 0.0)), 0)
        self.assertEqual(weight_blocks.first_difference(b"\0\0\xc0\x7f", b"\1\0\xc0\xff"), None)
        self.assertEqual(weight_blocks.first_difference(b"\0\0\xc0\x7f", b"\0\0\x80\x7f"), 0)
        self.assertEqual(weight_blocks.first_difference(b"", b"\0\0\0\0"), 0)

    def test_random_scales_are_of_every_kind(self):
        rng = random.Random(2)
        halves = [weight_blocks.random_f16(rng) & 0x7FFF for _ in range(1000)]
        self.assertTrue(0 in halves and 0x7C00 in halves)
        self.assertGreater(sum(0 < h < 0x400 for h in halves), 50)
        self.assertGreater(sum(h > 0x7C00 for h in halves), 50)


if __name__ == "__main__":
    main(ONE_TARGET)
