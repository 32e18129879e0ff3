"""A whole session of one layer against the oracle: compress, pack, select and attend.

Runs each stream of tokens through all four profiles and several chunkings; all of them
must give the oracle's rows, selections and outputs, bit by bit.
"""

import math
import random
import struct

import exact_f32 as f32
import oracle
import test_plan
from probe_client import (FOLD, LAYER_CSA, LAYER_HCA, LAYER_WINDOW, LEGACY, NONFINITE, OK, OP_PLAN,
                          OP_SESSION, PACKED, TILED, LibraryTest, f32_bytes, main, u32_bytes)

SCALE = f32.const(1 / math.sqrt(512.0))
EPS = f32.const(1e-6)
WINDOW_TOKENS = 64
RATIOS = {LAYER_WINDOW: 0, LAYER_CSA: 4, LAYER_HCA: 128}
PROFILES = (LEGACY, TILED, PACKED, FOLD)


def gaussians(rng, shape, scale=1.0):
    """Nested lists of f32 Gaussians."""
    if len(shape) == 1:
        return [f32.const(rng.gauss(0, scale)) for _ in range(shape[0])]
    return [gaussians(rng, shape[1:], scale) for _ in range(shape[0])]


class Compressor:
    """The learnt parts and the token values of one compressor."""

    def __init__(self, rng, kind, n_tokens, width):
        columns = (2 if kind == LAYER_CSA else 1) * width
        self.kind, self.ratio = kind, RATIOS[kind]
        self.kv = gaussians(rng, (n_tokens, columns))
        self.gate = gaussians(rng, (n_tokens, columns), 2.0)
        self.bias = gaussians(rng, (self.ratio, columns))
        self.norm_weight = [f32.const(rng.uniform(0.5, 1.5)) for _ in range(width)]

    def row(self, c, cosines, sines):
        return oracle.compressed_row(c, self.ratio, self.kind == LAYER_CSA, self.kv, self.gate, self.bias,
                                     self.norm_weight, EPS, cosines[c], sines[c])

    def blobs(self):
        return [f32_bytes(self.kv), f32_bytes(self.gate), f32_bytes(self.bias), f32_bytes([self.norm_weight])]


class Stream:
    """All that n_tokens bring to one layer, and the oracle's answer for it."""

    def __init__(self, seed, kind, n_tokens, n_heads=1, n_index_heads=8, top_k=3):
        rng = random.Random(seed)
        self.kept_blobs = None
        self.kind, self.ratio, self.n_tokens = kind, RATIOS[kind], n_tokens
        self.n_heads, self.n_index_heads, self.top_k = n_heads, n_index_heads, top_k
        self.window = gaussians(rng, (n_tokens, 512))
        self.q = gaussians(rng, (n_tokens * n_heads, 512))
        self.sinks = gaussians(rng, (n_heads,))
        self.n_rows = n_tokens // self.ratio if self.ratio else 0
        angles = [[rng.uniform(0, 6) for _ in range(32)] for _ in range(self.n_rows)]
        self.cosines = [[f32.const(math.cos(a)) for a in row] for row in angles]
        self.sines = [[f32.const(math.sin(a)) for a in row] for row in angles]
        if kind != LAYER_WINDOW:
            self.rows = Compressor(rng, kind, n_tokens, 512)
        if kind == LAYER_CSA:
            self.index = Compressor(rng, kind, n_tokens, 128)
            self.index_q = gaussians(rng, (n_tokens * n_index_heads, 128))
            self.head_weights = gaussians(rng, (n_tokens * n_index_heads,))
        self.compute()

    def compute(self):
        """Rows before and after the grid, index rows, and each token's selection."""
        self.want_rows, self.want_index = [], []
        if self.kind != LAYER_WINDOW:
            self.raw_rows = [self.rows.row(c, self.cosines, self.sines) for c in range(self.n_rows)]
            self.want_rows = [oracle.Fp8Row(row).values() for row in self.raw_rows]
        self.want_selection = [list(range(self.visible(t))) for t in range(self.n_tokens)]
        if self.kind == LAYER_CSA:
            self.raw_index = [self.index.row(c, self.cosines, self.sines) for c in range(self.n_rows)]
            keys = [oracle.Fp4Row(oracle.hadamard(row)) for row in self.raw_index]
            self.want_index = [key.values() for key in keys]
            self.want_selection = [self.select(t, keys[: self.visible(t)]) for t in range(self.n_tokens)]

    def visible(self, t):
        return (t + 1) // self.ratio if self.ratio else 0

    def select(self, t, keys):
        heads = slice(t * self.n_index_heads, (t + 1) * self.n_index_heads)
        queries = [oracle.Fp4Row(oracle.hadamard(row)) for row in self.index_q[heads]]
        scores = [oracle.index_score(queries, self.head_weights[heads], key) for key in keys]
        return oracle.select(scores, self.top_k)

    def output(self, t):
        """The attention outputs of token t, one list a head."""
        seen = range(max(0, t - WINDOW_TOKENS + 1), t + 1)
        attended = [oracle.row_units(oracle.Fp8Row(self.window[s]).values()) for s in seen]
        attended += [oracle.row_units(self.want_rows[r]) for r in self.want_selection[t]]
        return [oracle.attend(self.q[t * self.n_heads + h], attended, SCALE, self.sinks[h])[0]
                for h in range(self.n_heads)]

    def layer_blob(self):
        return u32_bytes([self.kind, self.ratio])

    def opened_as(self, profile, chunks, grid_off=False):
        """The fields of the geometry and of the session's options."""
        geometry = [1, 320, self.n_heads, self.n_index_heads, self.top_k, WINDOW_TOKENS, 4096]
        return geometry + [profile, 1024, max(chunks), 0, int(grid_off)]

    def ask_plan(self, probe, profile, chunks):
        return probe.ask(OP_PLAN, self.opened_as(profile, chunks) + [self.n_tokens], [self.layer_blob()])

    def token_blobs(self):
        """What all tokens bring; made once, it is the same for every profile and chunking."""
        if self.kept_blobs:
            return self.kept_blobs
        blobs = [u32_bytes(range(self.n_tokens)), f32_bytes(self.window), f32_bytes(self.q),
                 f32_bytes([self.sinks])]
        if self.kind != LAYER_WINDOW:
            blobs += self.rows.blobs() + [f32_bytes(self.cosines), f32_bytes(self.sines)]
        if self.kind == LAYER_CSA:
            blobs += self.index.blobs() + [f32_bytes(self.index_q), f32_bytes([self.head_weights])]
        self.kept_blobs = blobs
        return blobs

    def run(self, probe, profile, chunks, grid_off=False):
        blobs = [self.layer_blob(), u32_bytes(chunks)] + self.token_blobs()
        tokens = [self.n_tokens, len(chunks), f32.to_bits(EPS)]
        return probe.ask(OP_SESSION, self.opened_as(profile, chunks, grid_off) + tokens, blobs)


class SessionTest(LibraryTest):
    def check(self, stream, chunkings, tokens):
        """All profiles and chunkings; the outputs of `tokens` are compared with the oracle's."""
        outputs = {t: f32_bytes(stream.output(t)) for t in tokens}
        whole = None
        for chunks in chunkings:
            assert sum(chunks) == stream.n_tokens
            for profile in PROFILES:
                for probe in self.targets():
                    response = stream.run(probe, profile, chunks)
                    self.check_status(response, OK)
                    what = "profile %d, chunks %s" % (profile, chunks)
                    self.check_rows(stream, response, what)
                    self.check_bytes(stream, probe, profile, chunks, response, what)
                    token_bytes = len(outputs[tokens[0]])
                    for t, want in outputs.items():
                        got = response.blobs[0][t * token_bytes : (t + 1) * token_bytes]
                        self.check_f32(got, want, 512, "%s, token %d" % (what, t))
                    # What the oracle did not compute must still be the same everywhere.
                    whole = whole or response.blobs[0]
                    self.assertEqual(response.blobs[0], whole, what)

    def check_raw_rows(self, stream, chunks):
        """Without a grid the last bit of compress is seen, which the grid mostly hides."""
        for probe in self.targets():
            response = stream.run(probe, LEGACY, chunks, grid_off=True)
            self.check_status(response, OK)
            self.check_f32(response.blobs[2], f32_bytes(stream.raw_rows), 512, "raw rows")
            if stream.kind == LAYER_CSA:
                self.check_f32(response.blobs[3], f32_bytes(stream.raw_index), 128, "raw index rows")

    def check_rows(self, stream, response, what):
        self.assertEqual(response.fields[:3], (stream.n_tokens, len(stream.want_rows), len(stream.want_index)))
        _, selection, rows, index_rows = response.blobs
        self.check_f32(rows, f32_bytes(stream.want_rows), 512, what + ", rows")
        self.check_f32(index_rows, f32_bytes(stream.want_index), 128, what + ", index rows")
        if stream.kind == LAYER_CSA:
            flat = struct.unpack("<%di" % (stream.n_tokens * stream.top_k), selection)
            for t, want in enumerate(stream.want_selection):
                got = list(flat[t * stream.top_k : (t + 1) * stream.top_k])
                self.assertEqual(got, want + [-1] * (stream.top_k - len(want)), "%s, token %d" % (what, t))

    def check_bytes(self, stream, probe, profile, chunks, response, what):
        """Held, allocated and scratch bytes are those of the plan."""
        _, _, _, held, allocated, inexact, scratch = response.fields
        layers = [(stream.kind, stream.ratio)]
        want = test_plan.fixed_bytes(layers, 320, stream.n_tokens)
        want += test_plan.cache_rows_bytes(profile, layers, WINDOW_TOKENS, stream.n_tokens, test_plan.held)
        self.assertEqual(held, want, what)
        self.assertEqual(inexact, 0, what)
        response = stream.ask_plan(probe, profile, chunks)
        plan = test_plan.Plan(response)
        self.assertEqual((held, allocated), (plan.session_bytes, plan.allocated_bytes), what)
        if probe.threads == 1:  # the plan is that of one thread
            self.assertEqual(scratch, plan.scratch_bytes, what)


class Sessions(SessionTest):
    def test_window_layer(self):
        stream = Stream(1, LAYER_WINDOW, 150, n_heads=2)
        chunkings = ([150], [1] * 150, [100, 1, 49], [70, 80])
        self.check(stream, chunkings, [0, 1, 63, 64, 99, 149])

    def test_csa_layer(self):
        stream = Stream(2, LAYER_CSA, 30, n_heads=2)
        chunkings = ([30], [1] * 30, [3, 1, 4, 2, 7, 13], [5, 25])
        self.check(stream, chunkings, [0, 3, 4, 11, 18, 29])
        self.check_raw_rows(stream, [13, 17])

    def test_hca_layer(self):
        stream = Stream(3, LAYER_HCA, 259)
        chunkings = ([259], [127, 1, 1, 130], [200, 59], [64, 64, 64, 64, 3])
        self.check(stream, chunkings, [126, 127, 254, 255, 258])
        self.check_raw_rows(stream, [200, 59])

    def test_a_value_that_is_not_finite_is_refused(self):
        stream = Stream(4, LAYER_CSA, 8)
        stream.window[5][77] = math.nan
        for probe in self.targets():
            for profile in PROFILES:
                response = stream.run(probe, profile, [4, 4])
                self.check_status(response, NONFINITE)
                self.assertRegex(response.message, r"\b0\b.*\b77\b", "names layer and dimension")


if __name__ == "__main__":
    main()
