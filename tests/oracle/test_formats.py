"""pack and unpack against the oracle: every code, every scale boundary, every page layout."""

import math
import random
import struct

import exact_f32 as f32
import fixtures
import oracle
from oracle import (E2M1, E4M3, F16, F32, FP4, FP8_BF16, FP8_F16, GRID_FP4, GRID_FP8, GRID_NONE,
                    HALF)
from probe_client import INVALID_ARGUMENT, NONFINITE, OK, RANGE, LibraryTest, f32_bytes, main

FORMAT_NAMES = {F32: "f32", F16: "f16", FP8_F16: "fp8_f16", FP8_BF16: "fp8_bf16", FP4: "fp4"}
# Every (format, width, grid) that pack accepts.
STORES = [(FP8_F16, 512, GRID_FP8), (FP8_BF16, 512, GRID_FP8), (F32, 512, GRID_FP8),
          (F16, 512, GRID_FP8), (F32, 512, GRID_NONE), (F16, 512, GRID_NONE), (FP4, 128, GRID_FP4),
          (F32, 128, GRID_FP4), (F16, 128, GRID_FP4), (F32, 128, GRID_NONE), (F16, 128, GRID_NONE)]


def with_signs(values):
    return [s * v for v in values for s in (1.0, -1.0)]


def around(x, ulps=1):
    """x > 0 and its neighbours in f32."""
    return [f32.next_up(x, i) for i in range(-ulps, ulps + 1)]


def chunks(values, size):
    """Lists of `size`, the last one filled with zeros."""
    for i in range(0, len(values), size):
        part = values[i : i + size]
        yield part + [0.0] * (size - len(part))


def rows_of_blocks(blocks, blocks_a_row, tail=()):
    """Joins blocks to rows; missing blocks are zero."""
    size = len(blocks[0])
    for i in range(0, len(blocks), blocks_a_row):
        part = blocks[i : i + blocks_a_row]
        part = part + [[0.0] * size] * (blocks_a_row - len(part))
        yield [x for block in part for x in block] + list(tail)


def all_codes_and_ties(small):
    """Every value of a small format, every tie between two, and the neighbours of the ties."""
    magnitudes = [small.value(code) for code in range(small.max_code + 1)]
    values = magnitudes + [0.0]
    for low, high in zip(magnitudes, magnitudes[1:]):
        values += around((low + high) / 2)
    return with_signs(values)


def scaled_blocks(small, largest, block_size, exponents):
    """Blocks whose scale is pinned by their first value and that hold all codes and ties."""
    for e in exponents:
        pin = math.ldexp(largest, e)
        values = [math.ldexp(x, e) for x in all_codes_and_ties(small)]
        for part in chunks(values, block_size - 1):
            yield [pin] + part


def boundary_blocks(largest, block_size, exponents, rng):
    """Blocks with amax at and 1, 2 ulps beside largest * 2^e, hidden among smaller values."""
    for e in exponents:
        for amax in around(math.ldexp(largest, e), 2):
            block = [f32.const(rng.uniform(-1, 1) ** 3 * amax) for _ in range(block_size)]
            block[rng.randrange(block_size)] = 0.0
            block[rng.randrange(block_size)] = rng.choice((amax, -amax))
            yield block


def random_row(rng, width, exponents=(-8, 8)):
    """Gaussian values, each block at a scale of its own."""
    row = []
    while len(row) < width:
        scale = 2.0 ** rng.uniform(*exponents)
        row += [f32.const(rng.gauss(0, scale)) for _ in range(32)]
    return row


class FormatTest(LibraryTest):
    def check_store(self, rows, id_, grid, hadamard=False, what=""):
        """pack gives the oracle's bytes and unpack the oracle's values."""
        stored = [oracle.stored_row(row, id_, grid, hadamard) for row in rows]
        want = oracle.Pages(id_, len(rows[0]), 64, len(rows))
        for r, row in enumerate(stored):
            want.store(r, row)
        values = f32_bytes([row.values() for row in stored])
        data = f32_bytes(rows)
        empty = oracle.Pages(id_, len(rows[0]), 64, len(rows))
        what = "%s %s" % (FORMAT_NAMES[id_], what)
        for probe in self.targets():
            packed = probe.pack(empty, data, grid, hadamard)
            self.check_status(packed, OK)
            self.check_pages(want, packed.blobs[0], want.memory, what)
            self.assertEqual(packed.blobs[0], bytes(want.memory), what + " padding")
            unpacked = probe.unpack(want, len(rows))
            self.check_status(unpacked, OK)
            self.check_f32(unpacked.blobs[0], values, len(rows[0]), what)


class Sizes(LibraryTest):
    def test_bytes_of_rows_and_pages(self):
        for probe in self.targets():
            for id_, width, _ in STORES:
                for page_rows in (1, 3, 7, 63, 64, 65, 1000):
                    response = probe.ask(2, [id_, width, page_rows])
                    want = (oracle.row_bytes(id_, width), oracle.page_bytes(id_, width, page_rows))
                    self.assertEqual(response.fields, want)
                    self.assertEqual(response.blobs[0].decode(), FORMAT_NAMES[id_])

    def test_widths_that_a_format_does_not_have(self):
        for probe in self.targets():
            for id_, width in ((FP8_F16, 128), (FP8_BF16, 128), (FP4, 512), (F32, 0), (F16, 64), (9, 512)):
                self.assertEqual(probe.ask(2, [id_, width, 64]).fields, (0, 0))


class Fp8Codes(FormatTest):
    def test_all_codes_and_ties_at_several_scales(self):
        blocks = list(scaled_blocks(E4M3, 448.0, 64, (-22, -15, -3, 0, 7, 60, 119)))
        rows = list(rows_of_blocks(blocks, 7, [0.0] * 64))
        for id_ in (FP8_F16, FP8_BF16, F32):
            self.check_store(rows, id_, GRID_FP8)

    def test_scale_boundary_of_every_exponent(self):
        rng = random.Random(21)
        blocks = list(boundary_blocks(448.0, 64, range(-22, 120), rng))
        rng.shuffle(blocks)
        self.check_store(list(rows_of_blocks(blocks, 7, [1.0] * 64)), FP8_F16, GRID_FP8)

    def test_scale_at_and_below_the_floor(self):
        rng = random.Random(22)
        blocks = []
        for amax in around(oracle.FP8_FLOOR, 2) + [0.0, 1e-5, 2.0**-31, 2.0**-32, 2.0**-126, 2.0**-149]:
            amax = f32.const(amax)
            block = [f32.const(rng.uniform(-1, 1) * amax) for _ in range(64)]
            block[rng.randrange(64)] = amax
            blocks.append(block)
        self.check_store(list(rows_of_blocks(blocks, 7, [-0.0] * 64)), FP8_F16, GRID_FP8)

    def test_zeros_keep_their_sign(self):
        row = with_signs([0.0] * 256)
        row[3] = -f32.from_bits(1)
        for id_, _, grid in STORES[:6]:
            self.check_store([row], id_, grid)

    def test_decode_of_every_code_at_every_scale(self):
        finite = [c for c in range(256) if c & 0x7F != 0x7F] + [0, 0]
        blocks = [(e, finite[i : i + 64]) for e in range(-22, 120) for i in range(0, 256, 64)]
        pages = oracle.Pages(FP8_F16, 512, 64, len(blocks) // 7)
        values = []
        for r in range(pages.n_rows):
            (data, _), (scales, _) = pages.spans(r)
            for b, (e, codes) in enumerate(blocks[7 * r : 7 * r + 7]):
                pages.memory[data + 64 * b : data + 64 * b + 64] = bytes(codes)
                pages.memory[scales + b] = e + 127
                values += [oracle.scaled(E4M3.value(c), e) for c in codes]
            values += [0.0] * 64
        for probe in self.targets():
            response = probe.unpack(pages, pages.n_rows)
            self.check_f32(response.blobs[0], f32_bytes([values]), 512)

    def test_random_rows(self):
        rng = random.Random(23)
        rows = [random_row(rng, 512, (-20, 14)) for _ in range(2000 if self.slow else 60)]
        for id_, _, grid in STORES[:3]:
            self.check_store(rows, id_, grid)

    def test_golden_fixture(self):
        goldens = fixtures.Safetensors(fixtures.GOLDENS)
        rows, want = goldens.rows("unit.kv_in"), f32_bytes(goldens.rows("unit.kv_out"))
        for id_ in (FP8_F16, F32):
            pages = oracle.Pages(id_, 512, 64, len(rows))
            for probe in self.targets():
                pages.memory = probe.pack(pages, rows, GRID_FP8).blobs[0]
                self.check_f32(probe.unpack(pages, len(rows)).blobs[0], want, 512)


class Rope(FormatTest):
    def test_all_f16_patterns_through_f16_rows(self):
        self.check_all_patterns(oracle.Pages(F16, 512, 64, 128), 0)

    def test_all_f16_patterns_through_the_rope_tail(self):
        self.check_all_patterns(oracle.Pages(FP8_F16, 512, 64, 1024), 448)

    def check_all_patterns(self, pages, first):
        """Unpacks all 65,536 patterns, packs the finite ones back to the same bytes."""
        count = 512 - first
        for r in range(pages.n_rows):
            (_, end), (scales, scales_end) = pages.spans(r)
            patterns = range(r * count, (r + 1) * count)
            pages.memory[end - 2 * count : end] = struct.pack("<%dH" % count, *patterns)
            pages.memory[scales:scales_end] = b"\x69" * 7 + b"\0" if first else b""
        for probe in self.targets():
            response = probe.unpack(pages, pages.n_rows)
            rows = [list(row) for row in struct.iter_unpack("<512f", response.blobs[0])]
            tails = [x for row in rows for x in row[first:]]
            for pattern, x in enumerate(tails):
                magnitude = pattern & 0x7FFF
                if magnitude > 0x7C00:
                    self.assertTrue(math.isnan(x), hex(pattern))
                    continue
                want = math.inf if magnitude == 0x7C00 else HALF.value(magnitude)
                want = -want if pattern >> 15 else want
                self.assertEqual(f32.to_bits(x), f32.to_bits(want), hex(pattern))
            finite = [row for row in rows if all(map(math.isfinite, row))]
            self.assertEqual(len(finite), pages.n_rows * 62 // 64)
            again = oracle.Pages(pages.id, 512, 64, len(finite))
            packed = probe.pack(again, finite, GRID_FP8 if first else GRID_NONE).blobs[0]
            patterns = [p for p in range(65536) if p & 0x7C00 != 0x7C00]
            for r in range(again.n_rows):
                (_, end), _ = again.spans(r)
                got = struct.unpack("<%dH" % count, packed[end - 2 * count : end])
                self.assertEqual(got, tuple(patterns[r * count : (r + 1) * count]))

    def test_ties_between_all_f16_neighbours(self):
        step = 1 if self.slow else 7
        self.check_store(list(chunks(self.ties(HALF, step), 512)), F16, GRID_NONE)
        tails = chunks(self.ties(HALF, 3 * step), 64)
        self.check_store([[1.0] * 448 + tail for tail in tails], FP8_F16, GRID_FP8)

    def test_ties_between_bf16_neighbours(self):
        tails = chunks(self.ties(oracle.BFLOAT, 5 if self.slow else 19), 64)
        self.check_store([[1.0] * 448 + tail for tail in tails], FP8_BF16, GRID_FP8)

    def test_bf16_is_rounded_from_f32_and_not_from_f16(self):
        # 1 + 2^-8 + 2^-12 is above a bf16 tie; f16 keeps 10 bits, drops the 2^-12 and
        # makes it a tie.
        x = 1 + 2.0**-8 + 2.0**-12
        self.assertEqual(oracle.BFLOAT.encode(x), 0x3F81)
        self.check_store([[1.0] * 448 + [x, -x] * 32], FP8_BF16, GRID_FP8)

    @staticmethod
    def ties(small, step):
        """Every step-th tie of a format and its f32 neighbours."""
        values = []
        for code in range(0, small.max_code, step):
            low, high = small.value(code), small.value(code + 1)
            tie = f32.from_units((f32.units(low) + f32.units(high)) // 2)
            values += around(tie) if tie else [tie]
        return with_signs(values)

    def test_f16_saturates(self):
        large = around(65504.0, 2) + around(65520.0, 2) + around(65536.0, 2)
        large += [1e10, f32.from_bits(0x7F7FFFFF)]
        tail = [f32.const(x) for x in with_signs(large)]
        self.check_store([[1.0] * 448 + tail + [0.0] * (64 - len(tail))], FP8_F16, GRID_FP8)


class Fp4Codes(FormatTest):
    def test_all_codes_and_ties_at_several_scales(self):
        blocks = list(scaled_blocks(E2M1, 6.0, 32, (-50, -49, -15, -1, 0, 1, 7, 49, 50)))
        rows = list(rows_of_blocks(blocks, 4))
        for id_ in (FP4, F32):
            self.check_store(rows, id_, GRID_FP4)

    def test_scale_boundary_of_every_exponent(self):
        rng = random.Random(31)
        # The last values still inside: above 6 * 2^-51 and at 6 * 2^50.
        blocks = list(boundary_blocks(6.0, 32, range(-50, 50), rng))
        for amax in around(math.ldexp(6.0, -51), 2)[3:] + around(math.ldexp(6.0, 50), 2)[:3]:
            blocks.append([amax] + [0.0] * 31)
        rng.shuffle(blocks)
        self.check_store(list(rows_of_blocks(blocks, 4)), FP4, GRID_FP4)

    def test_zeros_keep_their_sign(self):
        self.check_store([with_signs([0.0] * 64), [-0.0] * 64 + [1.0] * 64], FP4, GRID_FP4)

    def test_decode_of_every_code_at_every_scale(self):
        exponents = [-126] + list(range(-50, 51)) + [0, 0]
        pages = oracle.Pages(FP4, 128, 64, len(exponents) // 4)
        values = []
        for r in range(pages.n_rows):
            (data, end), (scales, scales_end) = pages.spans(r)
            codes = [i % 16 for i in range(128)]
            for i, e in enumerate(exponents[4 * r : 4 * r + 4]):
                values += [oracle.scaled(E2M1.value(c), e) for c in codes[32 * i : 32 * i + 32]]
            pages.memory[data:end] = bytes(a | b << 4 for a, b in zip(codes[::2], codes[1::2]))
            pages.memory[scales:scales_end] = bytes(e + 127 for e in exponents[4 * r : 4 * r + 4])
        for probe in self.targets():
            response = probe.unpack(pages, pages.n_rows)
            self.check_f32(response.blobs[0], f32_bytes([values]), 128)

    def test_random_rows_with_and_without_hadamard(self):
        rng = random.Random(32)
        rows = [random_row(rng, 128, (-30, 30)) for _ in range(1000 if self.slow else 50)]
        for id_, _, grid in STORES[6:]:
            for hadamard in (False, True):
                self.check_store(rows, id_, grid, hadamard, "hadamard=%s" % hadamard)

    def test_hadamard_alone(self):
        rng = random.Random(33)
        rows = [random_row(rng, 128, span) for span in ((0, 0), (-140, -120), (-60, 60)) for _ in range(8)]
        for hot in (0, 1, 77, 127):
            rows.append([1.0 if i == hot else -0.0 for i in range(128)])
        rows += [[-0.0] * 128, [0.0] * 128, [1.0] * 128, with_signs([1e-39] * 64)]
        rows = [[f32.const(x) if x else x for x in row] for row in rows]
        self.check_store(rows, F32, GRID_NONE, True)

    def test_golden_fixture(self):
        goldens = fixtures.Safetensors(fixtures.GOLDENS)
        rows = goldens.rows("unit.ix_hadamard")
        want = f32_bytes(goldens.rows("unit.ix_e2m1_of_hadamard"))
        for id_ in (FP4, F32):
            pages = oracle.Pages(id_, 128, 64, len(rows))
            for probe in self.targets():
                pages.memory = probe.pack(pages, rows, GRID_FP4).blobs[0]
                self.check_f32(probe.unpack(pages, len(rows)).blobs[0], want, 128)


class InexactRows(LibraryTest):
    def test_rows_that_f16_cannot_hold_are_counted(self):
        rng = random.Random(41)
        rows = [random_row(rng, 512, (-2, 8)) for _ in range(5)]
        small, large = list(rows[0]), list(rows[0])
        small[64:128] = [1e-4, 1e-9, 0.0, -3e-8] * 16  # the scale is 2^-22, codes below 2^-24
        large[128:192] = [448.0 * 256] * 64  # above 65504
        small = [f32.const(x) for x in small]
        for grid, bad in ((GRID_FP8, [small, large]), (GRID_NONE, [small, large, rows[1]])):
            good = [oracle.Fp8Row(row).values() for row in rows]
            pages = oracle.Pages(F16, 512, 64, len(good) + len(bad))
            for probe in self.targets():
                self.assertEqual(probe.pack(pages, good + bad, grid).fields[0], len(bad))

    def test_formats_of_the_grid_hold_it_exactly(self):
        rng = random.Random(42)
        rows = [random_row(rng, 512, (-20, 20)) for _ in range(5)]
        for id_ in (F32, FP8_F16):
            pages = oracle.Pages(id_, 512, 64, len(rows))
            for probe in self.targets():
                self.assertEqual(probe.pack(pages, rows, GRID_FP8).fields[0], 0)


class Layouts(LibraryTest):
    PACKED_ROWS = 5

    def setUp(self):
        rng = random.Random(51)
        self.rows = {w: [random_row(rng, w) for _ in range(self.PACKED_ROWS)] for w in (512, 128)}

    def test_rows_land_in_their_places_and_nothing_else_is_touched(self):
        for id_, width, grid in STORES:
            stored = [oracle.stored_row(row, id_, grid) for row in self.rows[width]]
            for page_rows in (1, 3, 64, 65):
                for gap, table in ((0, False), (64, False), (0, True)):
                    for fill in (0, 0xA5):
                        self.check_layout((id_, width, grid), stored, page_rows, gap, table, fill)

    def check_layout(self, store, stored, page_rows, gap, table, fill):
        id_, width, grid = store
        n_rows = 2 * page_rows + 3
        pages = oracle.Pages(id_, width, page_rows, n_rows, gap, table, fill)
        want = oracle.Pages(id_, width, page_rows, n_rows, gap, table, fill)
        first_row = 3 * n_rows - 2  # the first two rows are the view's last, then it wraps
        for i, row in enumerate(stored):
            want.store((first_row + i) % n_rows, row)
        what = "%s pages of %d, gap %d, table %s, fill %d" % (FORMAT_NAMES[id_], page_rows, gap, table, fill)
        content = oracle.row_bytes(id_, width) * page_rows
        page_bytes = oracle.page_bytes(id_, width, page_rows)
        for probe in self.targets():
            stride = width + 3
            response = probe.pack(pages, self.rows[width], grid, first_row=first_row, stride=stride)
            self.check_status(response, OK)
            got = response.blobs[0]
            self.check_pages(want, got, want.memory, what)
            for start in range(0, len(got), pages.stride):
                padding = got[start + content : start + page_bytes]
                self.assertLessEqual(set(padding), {0, fill}, what)
                beyond = got[start + page_bytes : start + pages.stride]
                self.assertEqual(set(beyond), {fill} if gap else set(), what)

    def test_unpack_by_range_and_by_list(self):
        for id_, width, grid in STORES:
            for page_rows in (1, 3, 64):
                for table in (False, True):
                    self.check_unpack(id_, width, grid, page_rows, table)

    def check_unpack(self, id_, width, grid, page_rows, table):
        pages = oracle.Pages(id_, width, page_rows, self.PACKED_ROWS, 128, table, 0xA5)
        stored = [oracle.stored_row(row, id_, grid) for row in self.rows[width]]
        for r, row in enumerate(stored):
            pages.store(r, row)
        gap = b"\xee\xee\xee\x7e"
        stride = width + 2
        for row_list, first in ((None, 0), (None, 2), ([4, 0, 0, 3, 4, 1], 0), ([], 0)):
            rows = range(first, self.PACKED_ROWS) if row_list is None else row_list
            want = b"".join(f32_bytes([stored[r].values()]) + 2 * gap for r in rows)
            for probe in self.targets():
                got = probe.unpack(pages, len(rows), first, row_list, stride, gap * stride * len(rows))
                self.check_status(got, OK)
                self.check_f32(got.blobs[0], want, stride, FORMAT_NAMES[id_])

    def test_rows_outside_the_view_are_refused(self):
        pages = oracle.paged(self.rows[512], FP8_F16, grid=GRID_FP8)
        last = self.PACKED_ROWS - 1
        for probe in self.targets():
            for row_list in ([0, last + 1], [-1], [0x7FFFFFFF]):
                self.check_status(probe.unpack(pages, len(row_list), 0, row_list), INVALID_ARGUMENT)
            self.check_status(probe.unpack(pages, 2, last), INVALID_ARGUMENT)
            self.check_status(probe.unpack(pages, 1, 2**64 - 1), INVALID_ARGUMENT)


class Refusals(LibraryTest):
    def check_refused(self, probe, pages, data, grid, hadamard, status, where):
        response = probe.pack(pages, data, grid, hadamard)
        self.check_status(response, status)
        self.check_other_rows(response, pages)
        self.assertEqual(response.fields[1:], where)

    def check_other_rows(self, response, pages):
        """The call's rows may hold anything; what lies between and behind them is as it was."""
        memory = bytearray(response.blobs[0])
        for row in range(pages.n_rows):
            for start, end in pages.spans(row):
                memory[start:end] = pages.memory[start:end]
        self.assertEqual(memory, pages.memory)

    def test_nan_and_infinity_are_refused_and_no_other_row_changes(self):
        rng = random.Random(61)
        patterns = (0x7F800000, 0xFF800000, 0x7FC00000, 0x7F800001, 0xFFFFFFFF)
        for id_, width, grid in STORES:
            n_rows = 67
            row = f32_bytes([random_row(rng, width)])
            pages = oracle.Pages(id_, width, 64, n_rows, fill=0xA5)
            for dimension in (0, 1, 15, 63, 64, width - 65, width - 64, width - 1):
                bad_row = rng.randrange(n_rows)
                data = bytearray(row * n_rows)
                struct.pack_into("<I", data, 4 * (bad_row * width + dimension), rng.choice(patterns))
                hadamard = width == 128 and rng.random() < 0.5
                for probe in self.targets():
                    self.check_refused(probe, pages, bytes(data), grid, hadamard, NONFINITE,
                                       (bad_row, dimension))

    def test_fp4_blocks_out_of_range_are_refused_and_no_other_row_changes(self):
        beyond = (f32.next_up(math.ldexp(6.0, 50)), math.ldexp(6.0, -51), math.ldexp(6.0, -52),
                  math.ldexp(1.0, 100), math.ldexp(1.0, -120), f32.from_bits(0x7F7FFFFF))
        for id_ in (FP4, F32, F16):
            pages = oracle.Pages(id_, 128, 64, 3, fill=0xA5)
            for amax in beyond:
                for block in range(4):
                    rows = [[1.0] * 128 for _ in range(3)]
                    rows[1][32 * block : 32 * block + 32] = [0.0] * 31 + [-amax]
                    for probe in self.targets():
                        self.check_refused(probe, pages, f32_bytes(rows), GRID_FP4, False, RANGE,
                                           (1, 32 * block))

    def test_a_hadamard_transform_that_overflows_is_refused(self):
        largest = f32.from_bits(0x7F7FFFFF)
        for id_, grid in ((FP4, GRID_FP4), (F32, GRID_FP4)):
            pages = oracle.Pages(id_, 128, 64, 2, fill=0xA5)
            rows = [[1.0] * 128, [largest] * 128]
            for probe in self.targets():
                response = probe.pack(pages, rows, grid, True)
                self.assertIn(response.status, (NONFINITE, RANGE))
                self.check_other_rows(response, pages)
                self.assertEqual(response.fields[1], 1)


if __name__ == "__main__":
    main()
