"""What the library saved, read by snapshot.py and compared with the oracle."""

import itertools
import os
import random
import struct
import tempfile
import unittest

import exact_f32 as f32
import oracle
import snapshot
from probe_client import (FOLD, LAYER_CSA, LAYER_HCA, LAYER_WINDOW, OK, OP_SNAPSHOT, LibraryTest, f32_bytes, main,
                          u32_bytes)
from test_session import EPS, PROFILES, WINDOW_TOKENS, Stream


class Checksum(unittest.TestCase):
    def test_own_xxh3_is_the_package_s(self):
        if not snapshot.xxhash:
            self.skipTest("no xxhash package")
        rng = random.Random(1)
        for size in [*range(260), 1023, 1024, 1025, 1088, 4088, 5000]:
            data = rng.randbytes(size)
            self.assertEqual(snapshot.xxh3_own(data), snapshot.xxhash.xxh3_64_intdigest(data))

    def test_every_byte_counts(self):
        # Whether the values are XXH3's is seen by the library's files, which carry them.
        for size in (1, 3, 4, 8, 9, 16, 17, 64, 128, 129, 240, 241, 1025, 2049):
            data = bytearray(size)
            seen = {snapshot.xxh3_own(bytes(data))}
            for at in range(size):
                data[at] = 1
                seen.add(snapshot.xxh3_own(bytes(data)))
                data[at] = 0
            self.assertEqual(len(seen), size + 1)


class Snapshots(LibraryTest):
    def save(self, probe, stream, profile, chunks):
        """Saves after each chunk; (the file's bytes, saves that appended)."""
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "session").encode()
            tokens = [stream.n_tokens, len(chunks), f32.to_bits(EPS)]
            fields = stream.opened_as(profile, chunks) + [0, len(path)] + tokens
            blobs = [stream.layer_blob(), path, u32_bytes(chunks)] + stream.token_blobs()
            response = probe.ask(OP_SNAPSHOT, fields, blobs)
            self.check_status(response, OK)
            self.assertEqual(os.listdir(folder), ["session"])
            with open(path, "rb") as file:
                data = file.read()
        self.assertEqual(len(data), response.fields[1])
        return data, response.fields[0]

    def check_checkpoints(self, saved, stream, chunks, what):
        """One behind each chunk that ends where one can be; the last 8."""
        ends, alignment = list(itertools.accumulate(chunks)), stream.ratio or 1
        places = [end for end in ends if end % alignment == 0][-8:]
        self.assertEqual([checkpoint.n_tokens for checkpoint in saved.checkpoints], places, what)
        for checkpoint in saved.checkpoints:
            place = checkpoint.n_tokens
            window = [oracle.Fp8Row(row).values() for row in stream.window[max(0, place - WINDOW_TOKENS) : place]]
            self.check_f32(f32_bytes(checkpoint.window(0)), f32_bytes(window), 512, "%s, at %d" % (what, place))
            halves = checkpoint.halves()
            self.assertEqual(len(halves), 2 if stream.kind == LAYER_CSA else 0)
            for (_, width), tokens in halves.items():
                compressor = stream.rows if width == 512 else stream.index
                for t, (kv, gate) in zip(range(place - stream.ratio, place), tokens):
                    want = f32_bytes([compressor.kv[t][:width], compressor.gate[t][:width]])
                    self.assertEqual(f32_bytes([kv, gate]), want, "%s, halves of token %d" % (what, t))

    def check(self, stream, profile, data, what):
        saved = snapshot.Snapshot(data)
        header = saved.header
        self.assertEqual((header.profile, header.n_tokens, header.n_layers, header.vocab, header.window_tokens),
                         (profile, stream.n_tokens, 1, 320, WINDOW_TOKENS), what)
        self.assertEqual((header.n_heads, header.n_index_heads, header.top_k, header.max_tokens),
                         (stream.n_heads, stream.n_index_heads, stream.top_k, 1024), what)
        self.assertEqual(header.fingerprint, 0x1122334455667788)
        self.assertEqual(header.program, bytes(range(1, 65)))
        self.assertEqual(saved.layers, [(stream.kind, stream.ratio, len(stream.want_rows), len(stream.want_index))])
        self.assertEqual(saved.tokens, list(range(stream.n_tokens)))
        self.assertEqual(saved.logits, [0.25 * i for i in range(320)])
        window = [oracle.Fp8Row(row).values() for row in stream.window[-WINDOW_TOKENS:]]
        self.check_f32(f32_bytes(saved.window(0)), f32_bytes(window), 512, what + ", window")
        if stream.kind != LAYER_WINDOW:
            self.check_f32(f32_bytes(saved.rows(0, snapshot.ROWS)), f32_bytes(stream.want_rows), 512, what)
            self.check_state(saved, snapshot.ROW_STATE, stream.rows, stream)
        if stream.kind == LAYER_CSA:
            self.check_f32(f32_bytes(saved.rows(0, snapshot.INDEX_ROWS)), f32_bytes(stream.want_index), 128, what)
            self.check_state(saved, snapshot.INDEX_STATE, stream.index, stream)

    def check_state(self, saved, place, compressor, stream):
        """Section 9.3: the tokens of the open window, kv then gate."""
        data = saved.streams[place, 0]
        slots = stream.ratio * (2 if stream.kind == LAYER_CSA else 1)
        slot_bytes = saved.state_bytes(place, 0) // slots
        for t in range(stream.n_tokens // stream.ratio * stream.ratio, stream.n_tokens):
            want = f32_bytes([compressor.kv[t], compressor.gate[t]])
            self.assertEqual(data[t % slots * slot_bytes :][:slot_bytes], want, "slot of token %d" % t)

    def check_stream(self, stream, chunkings):
        layers = [(stream.kind, stream.ratio)]
        probes = list(self.targets())
        for profile in PROFILES:
            for chunks in chunkings:
                # The backends' files are compared elsewhere; here each profile has another one.
                data, n_appended = self.save(probes[profile % len(probes)], stream, profile, chunks)
                what = "profile %d, chunks %s" % (profile, chunks)
                self.check(stream, profile, data, what)
                self.check_checkpoints(snapshot.Snapshot(data), stream, chunks, what)
                if len(chunks) == 1:
                    there = [] if stream.ratio and stream.n_tokens % stream.ratio else [stream.n_tokens]
                    want = snapshot.file_bytes(profile, layers, 320, WINDOW_TOKENS, stream.n_tokens, there)
                    self.assertEqual(len(data), want, what)
                    self.assertEqual(n_appended, 0)

    def test_window_layer(self):
        self.check_stream(Stream(11, LAYER_WINDOW, 150), ([150], [100, 50], [14] * 10 + [10]))

    def test_csa_layer(self):
        self.check_stream(Stream(12, LAYER_CSA, 30), ([30], [7, 1, 22], [4] * 7 + [2]))

    def test_hca_layer(self):
        self.check_stream(Stream(13, LAYER_HCA, 259), ([259], [200, 3, 56], [128, 131]))

    def test_a_save_that_appends_is_read_like_another(self):
        stream = Stream(14, LAYER_HCA, 140)
        probe = next(self.targets())
        data, n_appended = self.save(probe, stream, FOLD, [136, 1, 1, 2])
        self.assertGreater(n_appended, 0)
        self.check(stream, FOLD, data, "appended")
        # Either header is enough, and one that is damaged says so.
        for at in (0, snapshot.PAGE):
            broken = bytearray(data)
            broken[at + 24] ^= 1
            self.check(stream, FOLD, bytes(broken), "header at %d damaged" % at)

    def test_what_is_built_here_is_read_here(self):
        layers = [(snapshot.KIND_WINDOW, 0), (snapshot.KIND_CSA, 4), (snapshot.KIND_HCA, 16)]
        for profile in PROFILES:
            for n_tokens, places in ((0, []), (63, [16]), (1100, [64, 80, 1088])):
                data = snapshot.build(profile, layers, 97, 128, n_tokens, places)
                self.assertEqual(len(data), snapshot.file_bytes(profile, layers, 97, 128, n_tokens, places))
                saved = snapshot.Snapshot(data)
                self.assertEqual([checkpoint.n_tokens for checkpoint in saved.checkpoints], places)

    def test_files_of_version_1_are_read(self):
        folder = os.path.join(os.path.dirname(__file__), "../cache/v1")
        for name, profile in (("fold", 3), ("tiled", 1)):  # those that are not compressed
            with open(os.path.join(folder, name + ".kvfold"), "rb") as file:
                saved = snapshot.Snapshot(file.read())
            self.assertEqual((saved.header.version, saved.header.profile, saved.header.n_tokens), (1, profile, 150))
            self.assertEqual((len(saved.window(0)), saved.checkpoints), (128, []))

    def test_damage_is_found(self):
        probe = next(self.targets())
        data, _ = self.save(probe, Stream(15, LAYER_CSA, 9), FOLD, [9])
        header = snapshot.choose_header(data)
        parts_at = header.index_offset + 16 + 24 * header.n_checkpoints
        (offset,) = struct.unpack_from("<Q", data, parts_at + 24)
        for at in (offset, header.index_offset):
            broken = bytearray(data)
            broken[at] ^= 1
            with self.assertRaises(snapshot.Damaged):
                snapshot.Snapshot(bytes(broken))
        with self.assertRaises(snapshot.Damaged):
            snapshot.Snapshot(data[:-1])


if __name__ == "__main__":
    main()
