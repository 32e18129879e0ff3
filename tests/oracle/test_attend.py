"""attend against the oracle, bit by bit: stores, row choices, sinks, windows, underflow."""

import math
import random
import struct

import exact_f32 as f32
import oracle
from oracle import F16, F32, FP8_BF16, FP8_F16, GRID_FP8, GRID_NONE
from probe_client import OP_ATTEND, OK, LibraryTest, f32_bytes, main, u32_bytes, view

SCALE = f32.const(1 / math.sqrt(512.0))
MASKED_F16 = 0xFC00  # -infinity
MODES = ("list", "mask_f32", "mask_f16", "none")


def grid_row(rng, scale=1.0):
    """A row of grid values that f16 holds exactly too, so that all stores hold the same."""
    row = [f32.const(rng.gauss(0, scale)) for _ in range(512)]
    for block in range(0, 448, 64):
        row[block + rng.randrange(64)] = f32.const(scale)  # keeps the block's scale up
    return oracle.Fp8Row(row).values()


class Problem:
    """One call: chosen[i] are the compressed rows that query i attends."""

    def __init__(self, q, n_heads, window, first_token, window_tokens, rows, chosen,
                 sinks=None, n_visible=None, scale=SCALE, after=0):
        self.q, self.n_heads, self.scale = q, n_heads, scale
        self.window, self.first_token, self.window_tokens = window, first_token, window_tokens
        self.rows, self.chosen, self.sinks = rows, chosen, sinks
        self.n_queries = len(chosen)
        # The window's last rows but `after` are those of the last query's token and before it.
        self.window_first = max(0, first_token + self.n_queries + after - len(window))
        self.n_visible = n_visible or [max(c) + 1 if c else 0 for c in chosen]

    def expected(self):
        """(bytes of out, [lse]); lse None where there is nothing to sum."""
        window = [oracle.row_units(row) for row in self.window]
        rows = [oracle.row_units(row) for row in self.rows]
        out, lse = [], []
        for i in range(self.n_queries):
            token = self.first_token + i
            seen = range(max(0, token - self.window_tokens + 1), token + 1) if self.window else []
            attended = [window[t - self.window_first] for t in seen] + [rows[r] for r in self.chosen[i]]
            for h in range(self.n_heads):
                sink = self.sinks[h] if self.sinks else None
                result = oracle.attend(self.q[i * self.n_heads + h], attended, self.scale, sink)
                out.append(result[0])
                lse.append(result[1])
        return f32_bytes(out), lse

    def request(self, probe, window_pages, row_pages, mode):
        list_stride = mask_stride = 0
        list_ = list_len = mask_f32 = mask_f16 = b""
        if mode == "list":
            list_stride, list_, list_len = self._list()
        elif mode != "none":
            mask_stride = len(self.rows) + 3
            masks = [[0 if r in c else 1 for r in range(mask_stride)] for c in self.chosen]
            flat = [bit for mask in masks for bit in mask]
            if mode == "mask_f32":
                mask_f32 = f32_bytes([[-math.inf if bit else 0.0 for bit in flat]])
            else:
                mask_f16 = struct.pack("<%dH" % len(flat), *(MASKED_F16 if bit else 0 for bit in flat))
        fields = [self.n_queries, self.n_heads, f32.to_bits(self.scale), self.first_token,
                  self.window_tokens, self.window_first, list_stride, mask_stride]
        sinks = f32_bytes([self.sinks]) if self.sinks else b""
        # The visible counts belong to the masked and the plain form; a list stands alone.
        visible = u32_bytes(self.n_visible) if self.rows and mode != "list" else b""
        return probe.ask(OP_ATTEND, fields + view(window_pages) + view(row_pages), [
            bytes(window_pages.memory), bytes(row_pages.memory), f32_bytes(self.q), sinks,
            visible, list_, list_len, mask_f32, mask_f16])

    def _list(self):
        """The rows with -1 entries sprinkled in, and places past the end that nobody may read."""
        rng = random.Random(len(self.rows))
        lists = []
        for chosen in self.chosen:
            entries = []
            for r in chosen:
                entries += [-1] * (rng.random() < 0.3) + [r]
            lists.append(entries + [-1] * (rng.random() < 0.5))
        stride = max(map(len, lists)) + 2
        flat = [r for entries in lists for r in entries + [0x7FFFFFF0] * (stride - len(entries))]
        return stride, struct.pack("<%di" % len(flat), *flat), u32_bytes([len(e) for e in lists])

    def all_chosen(self):
        return all(c == list(range(n)) for c, n in zip(self.chosen, self.n_visible))


def no_rows():
    return oracle.Pages(FP8_F16, 512, 64, 0)


def pages_of(rows, id_, page_rows=64, **options):
    # Plain formats store the rows as they are, also rows that are not on the grid.
    grid = GRID_NONE if id_ in (F32, F16) else GRID_FP8
    return oracle.paged(rows, id_, page_rows, grid, **options) if rows else no_rows()


class AttendTest(LibraryTest):
    def check(self, problem, formats=((FP8_F16, FP8_F16), (F32, F32), (F32, F16), (F32, FP8_F16))):
        """All row choices over the given (window, rows) formats give the oracle's bits."""
        want, lse = problem.expected()
        for window_format, row_format in formats:
            window = pages_of(problem.window, window_format)
            rows = pages_of(problem.rows, row_format, 3, reversed_table=True)
            for mode in MODES:
                if (mode == "none" and not problem.all_chosen()) or (mode != "none" and not problem.rows):
                    continue
                for probe in self.targets():
                    self.check_one(problem.request(probe, window, rows, mode), want, lse,
                                   "%s, formats %d %d" % (mode, window_format, row_format))

    def check_one(self, response, want, lse, what):
        self.check_status(response, OK)
        self.check_f32(response.blobs[0], want, 512, what)
        got_lse = struct.unpack("<%df" % len(lse), response.blobs[1])
        for got, value in zip(got_lse, lse):
            if value is not None:
                self.assertLessEqual(abs(got - value), 1e-5 * max(1, abs(value)), what)

    def random_problem(self, seed, n_heads=2, n_queries=1, n_rows=7, chosen=None, sinks=True,
                       window_rows=9, window_tokens=3, first_token=2, q_scale=1.0, row_scale=1.0, **more):
        rng = random.Random(seed)
        q = [[f32.const(rng.gauss(0, q_scale)) for _ in range(512)] for _ in range(n_queries * n_heads)]
        window = [grid_row(rng, row_scale) for _ in range(window_rows)] if window_tokens else []
        rows = [grid_row(rng, row_scale) for _ in range(n_rows)]
        if chosen is None:
            chosen = [sorted(rng.sample(range(n_rows), rng.randrange(n_rows + 1))) for _ in range(n_queries)]
        sinks = [f32.const(rng.gauss(0, 2)) for _ in range(n_heads)] if sinks else None
        return Problem(q, n_heads, window, first_token, window_tokens, rows, chosen, sinks, **more)


class RowChoices(AttendTest):
    def test_some_rows_with_sinks(self):
        self.check(self.random_problem(1, n_queries=3, n_rows=10, n_visible=[10, 9, 10], chosen=[
            [0, 3, 4, 9], [1, 8], [2, 3, 4, 5, 6]]))

    def test_some_rows_without_sinks(self):
        self.check(self.random_problem(2, n_queries=2, n_rows=10, n_visible=[10, 8], chosen=[
            [5], [0, 7]], sinks=False))

    def test_all_visible_rows(self):
        self.check(self.random_problem(3, n_queries=3, n_rows=9, chosen=[
            list(range(n)) for n in (9, 4, 0)], n_visible=[9, 4, 0]))

    def test_all_visible_rows_without_sinks_and_window(self):
        self.check(self.random_problem(4, n_rows=8, chosen=[list(range(8))], sinks=False, window_tokens=0))

    def test_one_row_alone_is_its_value(self):
        problem = self.random_problem(5, n_rows=1, chosen=[[0]], sinks=False, window_tokens=0)
        self.assertEqual(problem.expected()[0], f32_bytes([[x + 0.0 for x in problem.rows[0]]] * 2))
        self.check(problem)

    def test_no_row_chosen(self):
        self.check(self.random_problem(6, n_rows=4, chosen=[[]], n_visible=[4]))
        self.check(self.random_problem(7, n_rows=4, chosen=[[]], n_visible=[4], window_tokens=0))
        self.check(self.random_problem(8, n_rows=4, chosen=[[]], n_visible=[0], window_tokens=0))

    def test_nothing_to_attend_gives_zero(self):
        for n_visible in ([0], [4]):
            problem = self.random_problem(9, n_rows=4, chosen=[[]], n_visible=n_visible,
                                          sinks=False, window_tokens=0)
            self.assertEqual(problem.expected()[0], bytes(2 * 2048))
            self.check(problem)

    def test_fp8_bf16_rows(self):
        # Its tail holds other values than f16's: the whole problem is made of them.
        problem = self.random_problem(10, n_queries=2, n_rows=6, n_visible=[6, 6],
                                      chosen=[[1, 2, 5], [0, 3]])
        for rows in (problem.window, problem.rows):
            rows[:] = [oracle.Fp8Row(row, oracle.BFLOAT).values() for row in rows]
        self.check(problem, ((FP8_BF16, FP8_BF16), (F32, FP8_BF16), (F32, F32)))

    def test_more_rows_than_any_tile(self):
        problem = self.random_problem(11, n_heads=1, n_rows=300, chosen=[list(range(300))],
                                      window_rows=128, window_tokens=128, first_token=127)
        self.check(problem, ((FP8_F16, FP8_F16), (F32, F16)))

    def test_many_heads(self):
        self.check(self.random_problem(12, n_heads=67, n_rows=4, window_tokens=2, first_token=5,
                                       chosen=[list(range(4))]), ((FP8_F16, FP8_F16),))


class Windows(AttendTest):
    def test_window_alone(self):
        self.check(self.random_problem(21, n_queries=3, n_rows=0, chosen=[[]] * 3, first_token=10))

    def test_first_tokens_see_a_shorter_window(self):
        self.check(self.random_problem(22, n_queries=5, n_heads=1, n_rows=2, chosen=[[0, 1]] * 5,
                                       first_token=0))

    def test_view_begins_and_ends_anywhere(self):
        for window_rows, first_token, window_tokens, after in (
                (128, 126, 4, 0), (8, 1003, 5, 0), (13, 5 * 13 - 2, 7, 2), (140, 1000, 128, 3), (30, 3, 7, 9)):
            self.check(self.random_problem(23, n_queries=4, n_heads=1, n_rows=0, chosen=[[]] * 4,
                                           window_rows=window_rows, first_token=first_token,
                                           window_tokens=window_tokens, after=after))

    def test_tokens_beyond_32_bits(self):
        self.check(self.random_problem(24, n_queries=2, n_heads=1, n_rows=0, chosen=[[]] * 2,
                                       first_token=2**40 + 3, window_tokens=4))


class Extremes(AttendTest):
    def test_large_scores_leave_one_row(self):
        for q_scale in (30.0, 1000.0):
            self.check(self.random_problem(31, q_scale=q_scale, n_rows=8, chosen=[list(range(8))]))

    def test_huge_scores(self):
        self.check(self.random_problem(32, q_scale=1e30, n_rows=6, chosen=[list(range(6))], sinks=False))

    def test_zero_queries_weigh_rows_alike(self):
        self.check(self.random_problem(33, q_scale=0.0, n_rows=6, chosen=[list(range(6))]))

    def exp_rows(self, values):
        """Rows whose scores are the given values, each with a dimension that it alone fills."""
        rows = [[0.0] * 512 for _ in values]
        for i, (row, value) in enumerate(zip(rows, values)):
            row[0] = value
            row[1 + i] = 1.0
        return rows, [[1.0] + [0.0] * 511]

    def test_differences_at_the_border_of_exp(self):
        border = [-f32.next_up(87.0, i) for i in range(-3, 4)]
        rows, q = self.exp_rows([0.0, -40.0, -86.0, -88.0, -104.0, -1e10] + border)
        for sinks in ([0.0], None, [-87.0], [5.0]):
            problem = Problem(q, 1, [], 0, 0, rows, [list(range(len(rows)))], sinks, scale=1.0)
            self.check(problem, ((F32, F32),))

    def test_exp_all_over_its_range(self):
        # Output 1 + i is exp(value i) / d, so every one of 511 exponentials is seen.
        for seed in range(10 if self.slow else 1):
            rng = random.Random(40 + seed)
            values = [0.0] + [-rng.uniform(0, 88) for _ in range(200)]
            values += [-(2.0 ** rng.uniform(-30, 2)) for _ in range(310)]
            rows, q = self.exp_rows([f32.const(x) for x in values])
            problem = Problem(q, 1, [], 0, 0, rows, [list(range(511))], scale=1.0)
            self.check(problem, ((F32, F32),))

    def test_products_that_underflow(self):
        # A sink far above makes p about 2^-100 .. 2^-125, f32 rows hold values down to
        # 2^-149: p * v is subnormal or less, of both signs, and -0 must not come out.
        rng = random.Random(34)
        rows = [[math.ldexp(rng.choice((-1, 1)) * rng.randrange(1, 1 << 24), rng.randrange(-149, -20))
                 for _ in range(512)] for _ in range(6)]
        rows[0] = [-f32.from_bits(1)] * 512
        q = [[f32.const(rng.gauss(0, 1)) for _ in range(512)] for _ in range(3)]
        for chosen in ([[0]], [list(range(6))], [[0, 4]]):
            problem = Problem(q, 3, [], 0, 0, rows, chosen, [70.0, 80.0, 86.5], n_visible=[6])
            self.check(problem, ((F32, F32),))

    def test_sinks_far_below_and_above(self):
        for sink in (-1000.0, -87.5, 0.0, 50.0, 1000.0):
            problem = self.random_problem(35, n_heads=1, n_rows=5, chosen=[[0, 2, 4]], n_visible=[5])
            problem.sinks = [sink]
            self.check(problem)

    def test_subnormal_dots(self):
        rng = random.Random(36)
        rows = [[f32.const(rng.gauss(0, 2.0**-100)) for _ in range(512)] for _ in range(5)]
        q = [[f32.const(rng.gauss(0, 2.0**-40)) for _ in range(512)]]
        self.check(Problem(q, 1, [], 0, 0, rows, [list(range(5))], [0.25]), ((F32, F32),))


if __name__ == "__main__":
    main()
