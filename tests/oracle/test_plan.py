"""kvf_plan_make against section 8 of docs/FORMAT.md."""

import struct

import oracle
import snapshot
from oracle import F16, F32, FP4, FP8_F16
from probe_client import (FOLD, INVALID_ARGUMENT, LAYER_CSA, LAYER_HCA, LAYER_WINDOW, LEGACY, OK, OP_PLAN,
                          PACKED, TILED, LibraryTest, main)

# compressed rows, index rows, window rows: section 7
PROFILE_FORMATS = {LEGACY: (F32, F32, F32), TILED: (F16, F32, F32), PACKED: (FP8_F16, F32, F32),
                   FOLD: (FP8_F16, FP4, FP8_F16)}
TABLE = {  # section 8: legacy, tiled, packed, fold
    8192: (136750476, 91399564, 71912844, 44759436),
    16384: (249505164, 158803340, 119829900, 73580940),
    32768: (475014540, 293610892, 215664012, 131223948),
    65536: (926033292, 563225996, 407332236, 246509964),
    1048576: (14456595852, 8651679116, 6157378956, 3705090444),
}
FLASH_TOKENS = 1048576
CACHE_CLASS, SCRATCH_CLASS, TABLE_CLASS = 0, 1, 5
BUFFER = struct.Struct("<48s12sI7Q")
FLASH = None
TOKENS = sorted({0, 1, 2, 3, 4, 5, 7, 8, 126, 127, 128, 129, 131, 132, 255, 256, 257, 511, 512, 8191, 8192,
                 8193, 65535, 1000003, FLASH_TOKENS - 1, FLASH_TOKENS} | set(TABLE))


def held(id_, width, rows):
    return len(rows) * oracle.row_bytes(id_, width)


def allocated(id_, width, rows):
    """Pages that have one of these rows, which follow each other."""
    pages = rows[-1] // 64 - rows[0] // 64 + 1 if rows else 0
    return pages * oracle.page_bytes(id_, width, 64)


def window_rows(window_tokens, n_tokens):
    """Section 9.5: token t is row t, and the last ones are held."""
    return range(max(0, n_tokens - window_tokens), n_tokens)


def cache_rows_bytes(profile, layers, window_tokens, n_tokens, size):
    """All rows of a session of these (kind, ratio) layers, counted by `size`."""
    total = 0
    for kind, ratio in layers:
        row, index, window = PROFILE_FORMATS[profile]
        rows = range(n_tokens // ratio if ratio else 0)
        total += size(row, 512, rows) + size(window, 512, window_rows(window_tokens, n_tokens))
        if kind == LAYER_CSA:
            total += size(index, 128, rows)
    return total


def table_bytes(layers, window_tokens, max_tokens, chunk):
    """8 bytes for every page there can be: of a window, from the oldest row that a chunk's first token sees
    to its last token's; of the others, those of the whole context. No table is empty."""
    chunk = max(min(chunk, max_tokens), 1)
    window = max(-(-(first + chunk) // 64) - (first - window_tokens) // 64
                 for first in range(window_tokens, window_tokens + 64))
    total = 0
    for kind, ratio in layers:
        pages = max(len(range(0, max_tokens // ratio, 64)) if ratio else 0, 1)
        total += 8 * (window + {LAYER_WINDOW: 0, LAYER_HCA: 1, LAYER_CSA: 2}[kind] * pages)
    return total


SLAB_BYTES = 1 << 20


def pool_bytes(profile, layers):
    """docs/MEMORY.md, Slabs: of each size of page all but one of those that fit into a slab. The last
    sizes are of states (9.3) and of what checkpoints keep of them: the first halves of a window."""
    rows, index, window = PROFILE_FORMATS[profile]
    sizes = {oracle.page_bytes(window, 512, 64)}
    halves = 0
    for kind, ratio in layers:
        parts = 2 if kind == LAYER_CSA else 1
        if kind != LAYER_WINDOW:
            sizes |= {oracle.page_bytes(rows, 512, 64), ratio * parts * 2 * parts * 512 * 4}
        if kind == LAYER_CSA:
            sizes |= {oracle.page_bytes(index, 128, 64), ratio * parts * 2 * parts * 128 * 4}
            halves += ratio * 2 * (512 + 128) * 4
    return sum((SLAB_BYTES // size - 1) * size for size in sizes | {halves} if 0 < size <= SLAB_BYTES // 8)


def compressor_state_bytes(layers):
    """Section 9.3: a ring of slots, each kv and gate of parts * width values."""
    total = 0
    for kind, ratio in layers:
        if kind == LAYER_CSA:
            total += 2 * ratio * (2 * 2 * 512 + 2 * 2 * 128) * 4
        elif kind == LAYER_HCA:
            total += ratio * 2 * 512 * 4
    return total


def fixed_bytes(layers, vocab, n_tokens):
    return 52 + 4 * vocab + 8 * len(layers) + 4 * n_tokens + compressor_state_bytes(layers)


FLASH_LAYERS = [(LAYER_WINDOW, 0)] * 2 + [(LAYER_CSA, 4), (LAYER_HCA, 128)] * 20 + [(LAYER_CSA, 4)]


class Plan:
    def __init__(self, response):
        (self.session_bytes, self.allocated_bytes, self.snapshot_bytes, self.scratch_bytes,
         self.table_bytes, self.pool_bytes) = response.fields
        self.buffers = []
        for name, dtype, klass, n_dims, *rest in BUFFER.iter_unpack(response.blobs[0]):
            shape, (bytes_, held_bytes) = rest[:4][:n_dims], rest[4:]
            self.buffers.append((name.rstrip(b"\0").decode(), dtype.rstrip(b"\0").decode(), klass, shape,
                                 bytes_, held_bytes))


def ask_plan(probe, profile, n_tokens, layers=FLASH, max_tokens=FLASH_TOKENS, vocab=320, chunk=4096,
             window_tokens=128):
    geometry = [len(layers or ()), vocab, 64, 64, 512, window_tokens, FLASH_TOKENS]
    flat = [x for layer in layers or () for x in layer]
    return probe.ask(OP_PLAN, geometry + [profile, max_tokens, chunk, 0, 0, n_tokens],
                     [struct.pack("<%dI" % len(flat), *flat)])


class Flash(LibraryTest):
    def plans(self):
        for probe in self.targets():
            for profile in PROFILE_FORMATS:
                for n_tokens in TOKENS:
                    response = ask_plan(probe, profile, n_tokens)
                    self.check_status(response, OK)
                    yield profile, n_tokens, Plan(response)

    def test_session_bytes_are_the_table(self):
        for profile, n_tokens, plan in self.plans():
            if n_tokens in TABLE:
                self.assertEqual(plan.session_bytes, TABLE[n_tokens][profile])

    def test_session_bytes_are_the_formula(self):
        self.assertEqual(compressor_state_bytes(FLASH_LAYERS), 12206080)
        for profile, n_tokens, plan in self.plans():
            want = fixed_bytes(FLASH_LAYERS, 129280, n_tokens)
            want += cache_rows_bytes(profile, FLASH_LAYERS, 128, n_tokens, held)
            self.assertEqual(plan.session_bytes, want, "profile %d, %d tokens" % (profile, n_tokens))

    def test_totals_are_the_sums_of_the_buffers(self):
        for profile, n_tokens, plan in self.plans():
            what = "profile %d, %d tokens" % (profile, n_tokens)
            cache = [b for b in plan.buffers if b[2] == CACHE_CLASS]
            scratch = [b for b in plan.buffers if b[2] == SCRATCH_CLASS]
            self.assertEqual(sum(b[5] for b in plan.buffers), plan.session_bytes, what)
            self.assertEqual(sum(b[4] for b in cache), plan.allocated_bytes, what)
            self.assertEqual(sum(b[4] for b in scratch), plan.scratch_bytes, what)
            self.assertEqual({b[5] for b in scratch} - {0}, set(), what)
            tables = [b for b in plan.buffers if b[2] == TABLE_CLASS]
            self.assertEqual([(b[0], b[1], b[3], b[4], b[5]) for b in tables],
                             [("tables", "u64", [plan.table_bytes // 8], plan.table_bytes, 0)], what)
            self.assertEqual(len(cache) + len(scratch) + 1, len(plan.buffers))

    def test_snapshot_bytes_are_those_of_section_10(self):
        for profile, n_tokens, plan in self.plans():
            kept = list(range(128, n_tokens + 1, 128))[-8:]  # by default
            saved = snapshot.saved_checkpoints(kept)
            want = snapshot.file_bytes(profile, FLASH_LAYERS, 129280, 128, n_tokens, saved)
            self.assertEqual(plan.snapshot_bytes, want, "profile %d, %d tokens" % (profile, n_tokens))

    def test_row_buffers_are_whole_pages(self):
        names = {F32: "f32", F16: "f16", FP8_F16: "fp8_f16", FP4: "fp4"}
        for profile, n_tokens, plan in self.plans():
            row, index, window = PROFILE_FORMATS[profile]
            buffers = {b[0]: b for b in plan.buffers}
            self.assertEqual(len(buffers), len(plan.buffers), "buffer names differ")
            for layer, (kind, ratio) in enumerate(FLASH_LAYERS):
                rows = range(n_tokens // ratio if ratio else 0)
                expected = [("window", window, 512, window_rows(128, n_tokens))]
                if kind != LAYER_WINDOW:
                    expected.append(("rows", row, 512, rows))
                if kind == LAYER_CSA:
                    expected.append(("index_rows", index, 128, rows))
                for name, id_, width, numbers in expected:
                    _, dtype, klass, _, bytes_, held_bytes = buffers["layer.%d.%s" % (layer, name)]
                    want = (names[id_], CACHE_CLASS, allocated(id_, width, numbers), held(id_, width, numbers))
                    self.assertEqual((dtype, klass, bytes_, held_bytes), want, name)

    def test_tables_have_an_address_for_every_page_of_the_context(self):
        # docs/MEMORY.md: 43 windows of 67 pages, 2 * 21 of 4096, 20 of 128.
        self.assertEqual(table_bytes(FLASH_LAYERS, 128, FLASH_TOKENS, 4096), 1419784)
        for probe in self.targets():
            for max_tokens in (0, 1, 3, 4, 255, 256, 257, 4096, 8193, FLASH_TOKENS):
                for window_tokens in (64, 128):
                    for chunk in (1, 2, 64, 65, 66, 4096):
                        response = ask_plan(probe, FOLD, 0, FLASH_LAYERS, max_tokens=max_tokens, chunk=chunk,
                                            window_tokens=window_tokens)
                        self.check_status(response, OK)
                        self.assertEqual(Plan(response).table_bytes,
                                         table_bytes(FLASH_LAYERS, window_tokens, max_tokens, chunk),
                                         "%d tokens, chunks of %d" % (max_tokens, chunk))

    def test_slabs_have_less_than_one_slab_of_each_size_free(self):
        csa, hca = LAYER_CSA, LAYER_HCA
        mixed = [(LAYER_WINDOW, 0), (csa, 4), (hca, 128), (csa, 4), (hca, 16), (csa, 8)]
        for probe in self.targets():
            for profile in PROFILE_FORMATS:
                for layers in (FLASH, FLASH_LAYERS[:2], [(csa, 4)], [(hca, 128)], [(csa, 1), (hca, 32)], mixed):
                    for n_tokens in (0, 1000):
                        response = ask_plan(probe, profile, n_tokens, layers, max_tokens=4096)
                        self.check_status(response, OK)
                        self.assertEqual(Plan(response).pool_bytes, pool_bytes(profile, layers or FLASH_LAYERS),
                                         "%d %s" % (profile, layers))

    def test_padding_is_what_the_pages_add(self):
        for profile, n_tokens, plan in self.plans():
            tokens = next(b for b in plan.buffers if b[0] == "tokens")
            self.assertEqual(tokens[5], 4 * n_tokens)
            self.assertGreaterEqual(tokens[4], tokens[5])
            want = fixed_bytes(FLASH_LAYERS, 129280, 0) + tokens[4]
            want += cache_rows_bytes(profile, FLASH_LAYERS, 128, n_tokens, allocated)
            self.assertEqual(plan.allocated_bytes, want, "profile %d, %d tokens" % (profile, n_tokens))

    def test_scratch_of_fold_is_small_and_grows_with_attended_rows_only(self):
        # HCA attends all of its rows, at 4 bytes a row and head; nothing else may grow.
        without_hca = [layer for layer in FLASH_LAYERS if layer[0] != LAYER_HCA]
        for probe in self.targets():
            def scratch(layers, n_tokens):
                return Plan(ask_plan(probe, FOLD, n_tokens, layers, max_tokens=n_tokens)).scratch_bytes

            self.assertLessEqual(scratch(FLASH, FLASH_TOKENS), 64 << 20)
            self.assertEqual(scratch(without_hca, 65536), scratch(without_hca, FLASH_TOKENS))

    def test_window_rows_of_a_chunk_are_those_that_it_leaves_behind(self):
        # Pages that lie wholly behind what was held before a chunk and before what is held after it.
        def passing(window_tokens, chunk):
            most = 0
            for first in range(window_tokens, window_tokens + 64):
                end = first + chunk
                most = max(most, (end - window_tokens) // 64 - -(-first // 64))
            return most

        for probe in self.targets():
            for profile, (_, _, window) in PROFILE_FORMATS.items():
                for window_tokens in (64, 128):
                    for chunk in (1, 64, 127, 128, 191, 192, 200, 4096):
                        response = ask_plan(probe, profile, 5000, [(LAYER_WINDOW, 0)], chunk=chunk,
                                            window_tokens=window_tokens)
                        self.check_status(response, OK)
                        buffers = {b[0]: b for b in Plan(response).buffers}
                        pages = passing(window_tokens, chunk)
                        self.assertEqual(buffers["chunk.window"][3:5],
                                         ([pages * 64, 512], pages * oracle.page_bytes(window, 512, 64)))

    def test_scratch_of_legacy_and_packed_is_that_of_the_text(self):
        for probe in self.targets():
            for profile, gigabytes in ((LEGACY, 8.59), (PACKED, 2.68)):
                scratch = Plan(ask_plan(probe, profile, FLASH_TOKENS)).scratch_bytes
                self.assertAlmostEqual(scratch / 1e9, gigabytes, delta=0.1)

    def test_more_tokens_than_the_session_holds_are_refused(self):
        for probe in self.targets():
            self.check_status(ask_plan(probe, FOLD, 1001, max_tokens=1000), INVALID_ARGUMENT)
            self.check_status(ask_plan(probe, FOLD, 0, max_tokens=FLASH_TOKENS + 1), INVALID_ARGUMENT)
            self.check_status(ask_plan(probe, 4, 0), INVALID_ARGUMENT)


class OtherGeometries(LibraryTest):
    def test_formula_of_small_models(self):
        models = ([(LAYER_WINDOW, 0)], [(LAYER_CSA, 4)], [(LAYER_HCA, 128)],
                  [(LAYER_WINDOW, 0)] * 2 + [(LAYER_CSA, 4), (LAYER_HCA, 128)] * 2)
        for probe in self.targets():
            for layers in models:
                for window_tokens in (64, 128):
                    for profile in PROFILE_FORMATS:
                        for n_tokens in (0, 1, 3, 4, 63, 64, 127, 128, 129, 256, 300, 70000):
                            response = ask_plan(probe, profile, n_tokens, layers, window_tokens=window_tokens)
                            self.check_status(response, OK)
                            want = fixed_bytes(layers, 320, n_tokens)
                            want += cache_rows_bytes(profile, layers, window_tokens, n_tokens, held)
                            self.assertEqual(Plan(response).session_bytes, want)


if __name__ == "__main__":
    main()
