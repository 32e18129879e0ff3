"""select against the oracle: the exact index score, ties, few visible rows, both stores."""

import itertools
import math
import random

import exact_f32 as f32
import oracle
from oracle import F32, FP4, GRID_FP4
from probe_client import INVALID_ARGUMENT, NONFINITE, OK, LibraryTest, main


def gaussian_row(rng, exponents=(0, 0)):
    row = []
    for _ in range(4):
        scale = 2.0 ** rng.uniform(*exponents)
        row += [f32.const(rng.gauss(0, scale)) for _ in range(32)]
    return row


def coarse_row(rng):
    """Only -1, 0 and 1, mostly 0: few different scores, many exact ties."""
    return [float(rng.choice((-1, 0, 0, 0, 0, 0, 1))) for _ in range(128)]


class Problem:
    """Queries, keys and weights, and the oracle's selection of them."""

    def __init__(self, n_heads, top_k, queries, keys, weights, n_visible):
        self.n_heads, self.top_k = n_heads, top_k
        self.queries, self.keys = queries, keys
        self.weights = [f32.const(w) if w else w for w in weights]
        self.n_visible = n_visible
        query_rows = [oracle.Fp4Row(row) for row in queries]
        key_rows = [oracle.Fp4Row(row) for row in keys]
        self.want = []
        for i, visible in enumerate(n_visible):
            heads = slice(i * n_heads, (i + 1) * n_heads)
            scores = [oracle.index_score(query_rows[heads], self.weights[heads], key)
                      for key in key_rows[:visible]]
            self.want.append(oracle.select(scores, top_k))

    def stores(self):
        """(pages of queries, pages of keys): both formats, several layouts."""
        def pages(rows, id_, page_rows, **options):
            return oracle.paged(rows, id_, page_rows, grid=GRID_FP4, **options)

        return [
            (pages(self.queries, FP4, 64), pages(self.keys, FP4, 64)),
            (pages(self.queries, F32, 64), pages(self.keys, F32, 64)),
            (pages(self.queries, FP4, 5), pages(self.keys, F32, 7, gap_bytes=4)),
            (pages(self.queries, F32, len(self.queries)), pages(self.keys, FP4, 64, reversed_table=True)),
            (pages(self.queries, FP4, 64), pages(self.keys, FP4, 3, gap_bytes=64)),
        ]


class Select(LibraryTest):
    def check(self, problem):
        for queries, keys in problem.stores():
            for probe in self.targets():
                response, got = probe.select(queries, keys, problem.weights, problem.n_visible,
                                             problem.n_heads, problem.top_k)
                self.check_status(response, OK)
                for i, want in enumerate(problem.want):
                    what = "query %d, formats %d %d" % (i, queries.id, keys.id)
                    self.assertEqual(got[i], want, what)

    def random_problem(self, seed, n_heads, n_keys, n_visible, top_k, row=gaussian_row, weight=None):
        rng = random.Random(seed)
        n_rows = len(n_visible) * n_heads
        weight = weight or (lambda rng: rng.gauss(0, 1))
        return Problem(n_heads, top_k, [row(rng) for _ in range(n_rows)],
                       [row(rng) for _ in range(n_keys)], [weight(rng) for _ in range(n_rows)], n_visible)

    def test_random_8_heads(self):
        self.check(self.random_problem(1, 8, 230, [230, 229, 64], 40))

    def test_random_16_heads(self):
        self.check(self.random_problem(2, 16, 150, [150, 100], 64))

    def test_random_64_heads(self):
        self.check(self.random_problem(3, 64, 90, [90, 33], 16))

    def test_random_24_heads(self):
        self.check(self.random_problem(4, 24, 70, [70, 69], 8))

    def test_more_rows_than_a_score_tile(self):
        n_keys = 9000 if self.slow else 1300
        self.check(self.random_problem(5, 8, n_keys, [n_keys], 512))

    def test_few_visible_rows(self):
        self.check(self.random_problem(6, 8, 70, [0, 1, 2, 15, 16, 17, 63, 64, 65], 16))

    def test_one_row_wanted(self):
        self.check(self.random_problem(7, 8, 100, [100, 1, 0], 1))

    def test_more_wanted_than_there_are_rows(self):
        self.check(self.random_problem(8, 8, 20, [20, 7, 0], 512))

    def test_many_ties_take_the_lower_rows(self):
        problem = self.random_problem(9, 8, 300, [300, 299, 150], 77, coarse_row, lambda rng: 1.0)
        self.check(problem)
        # A real test of ties: at least one query must have its border inside a tie.
        self.assertTrue(any(self.border_is_tied(problem, i) for i in range(len(problem.n_visible))))

    @staticmethod
    def border_is_tied(problem, i):
        heads = slice(i * problem.n_heads, (i + 1) * problem.n_heads)
        queries = [oracle.Fp4Row(row) for row in problem.queries[heads]]
        scores = sorted((oracle.index_score(queries, problem.weights[heads], oracle.Fp4Row(key))
                         for key in problem.keys[: problem.n_visible[i]]), reverse=True)
        return scores[problem.top_k - 1] == scores[problem.top_k]

    def test_equal_rows_take_the_lower_ones(self):
        rng = random.Random(10)
        base = [gaussian_row(rng) for _ in range(3)]
        keys = [base[rng.randrange(3)] for _ in range(200)]
        queries = [gaussian_row(rng) for _ in range(8)]
        self.check(Problem(8, 90, queries, keys, [1.0] * 8, [200]))

    def test_zero_keys_all_tie_at_zero(self):
        rng = random.Random(11)
        keys = [[rng.choice((0.0, -0.0)) for _ in range(128)] for _ in range(100)]
        queries = [gaussian_row(rng) for _ in range(16)]
        weights = [-1.0] * 8 + [1.0] * 8  # scores of -0 and +0
        self.check(Problem(8, 30, queries, keys, weights, [100, 100]))

    def test_weights_below_zero_make_rows_that_score_nothing_win(self):
        self.check(self.random_problem(12, 8, 200, [200], 50, weight=lambda rng: -abs(rng.gauss(0, 1))))

    def test_zero_weights(self):
        self.check(self.random_problem(13, 8, 100, [100], 10, weight=lambda rng: rng.choice((0.0, -0.0))))

    def test_scales_far_apart(self):
        # The order of the four f32 additions decides bits when blocks differ by 2^20.
        for seed, span in ((14, (-12, 12)), (15, (-49, 49)), (16, (-3, 3))):
            rng = random.Random(seed)
            keys = [gaussian_row(rng, span) for _ in range(150)]
            queries = [gaussian_row(rng, span) for _ in range(16)]
            weights = [rng.gauss(0, 1) for _ in range(16)]
            self.check(Problem(8, 60, queries, keys, weights, [150, 149]))

    def test_scores_that_differ_by_their_roundings_only(self):
        # Keys are one key with its blocks permuted, and a query's four blocks are alike: all
        # scores are the same exact sum of terms far apart, added in another order. Which keys
        # win is decided by the roundings of every step of the score, and by nothing else.
        rng = random.Random(17)
        for n_heads, n_queries in ((8, 30), (16, 10), (64, 3)):
            blocks = [[f32.const(rng.gauss(0, 2.0**e)) for _ in range(32)] for e in (0, -15, -18, -20)]
            keys = [[x for block in order for x in block] for order in itertools.permutations(blocks)]
            queries = []
            for _ in range(n_queries * n_heads):
                # Like the largest block, so that most heads score above zero.
                queries.append([f32.const(x + rng.gauss(0, 1)) for x in blocks[0]] * 4)
            weights = [rng.gauss(0, 1) for _ in queries]
            self.check(Problem(n_heads, 12, queries, keys, weights, [24] * n_queries))

    def test_the_ends_of_the_exponent_range(self):
        # amax just above 6 * 2^-51 rounds to code 3 at e = -50: the stored value alone
        # would look like e = -51. Both stores must score it alike.
        rng = random.Random(18)
        low = f32.next_up(math.ldexp(6.0, -51))
        high = math.ldexp(6.0, 50)
        keys = []
        for _ in range(60):
            row = [0.0] * 128
            for block in range(4):
                amax = rng.choice((low, high, 0.0))
                for i in range(32):
                    row[32 * block + i] = amax * rng.choice((0.0, 0.5, -0.25, 1.0, -1.0))
            keys.append(row)
        keys = [row for row in keys if self.in_range(row)]
        queries = [rng.choice(keys) for _ in range(8)]
        weights = [rng.gauss(0, 1) for _ in range(8)]
        self.check(Problem(8, 20, queries, keys, weights, [len(keys)]))

    @staticmethod
    def in_range(row):
        try:
            oracle.Fp4Row(row)
        except oracle.RangeError:
            return False
        return True

    def test_weights_of_many_sizes(self):
        self.check(self.random_problem(19, 16, 120, [120], 30,
                                       weight=lambda rng: rng.gauss(0, 1) * 2.0 ** rng.randrange(-30, 11)))


class Refusals(LibraryTest):
    def test_bad_arguments(self):
        rng = random.Random(20)
        rows = [gaussian_row(rng) for _ in range(16)]
        pages = oracle.paged(rows, FP4, grid=GRID_FP4)
        wide = oracle.paged([[1.0] * 512] * 16, F32)
        for probe in self.targets():
            def status(queries, keys, n_heads, n_visible, weight=1.0, top_k=4):
                weights = [1.0] * (n_heads * len(n_visible) - 1) + [weight]
                return probe.select(queries, keys, weights, n_visible, n_heads, top_k)[0].status

            self.assertEqual(status(pages, pages, 8, [16, 16]), OK)
            self.assertEqual(status(pages, pages, 8, [16, 17]), INVALID_ARGUMENT)  # more than there are
            self.assertEqual(status(pages, pages, 12, [16]), INVALID_ARGUMENT)  # not a multiple of 8
            self.assertEqual(status(pages, pages, 8, [16, 16, 16]), INVALID_ARGUMENT)  # 24 query rows
            self.assertEqual(status(pages, wide, 8, [16]), INVALID_ARGUMENT)
            self.assertEqual(status(wide, pages, 8, [16]), INVALID_ARGUMENT)
            for bad in (math.nan, math.inf, -math.inf):
                self.assertEqual(status(pages, pages, 8, [16, 16], bad), NONFINITE)


if __name__ == "__main__":
    main()
