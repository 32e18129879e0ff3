"""Stored weight types against llama.cpp's own decoders. Skipped where those cannot be had."""

import random
import struct

import llamacpp
import weight_blocks
import weight_oracle
from probe_client import ONE_TARGET, LibraryTest, main

RANDOM_BLOCKS = 20_000  # ten times as many with --slow
# f32 is not decoded there; DeepSeek's types are not ggml's.
TYPES = [kind for kind in weight_oracle.BLOCK_TYPES if kind.name != "f32"]


class Llamacpp(LibraryTest):
    ggml = None

    def check_blocks(self, kind, what, data):
        want = self.ggml.decode(kind.name, data, len(data) // kind.size * kind.values)
        for probe in self.targets():
            weight_blocks.assert_same(self, kind, what, data, weight_blocks.ask_decode(probe, kind, data), want)

    def check(self, kind):
        rng = random.Random("llama.cpp " + kind.name)
        for what, data in weight_blocks.cases(rng, kind, RANDOM_BLOCKS * (10 if self.slow else 1), 1):
            self.check_blocks(kind, what, data)

    def test_names_and_sizes(self):
        for kind in weight_oracle.BLOCK_TYPES:
            self.assertEqual(self.ggml.type_of(kind.ggml_id), (kind.name, kind.values, kind.size))

    def test_q8_0_every_code_with_every_scale(self):
        codes = [bytes(range(first, first + 32)) for first in range(0, 256, 32)]
        data = b"".join(struct.pack("<H", d) + part for d in range(1 << 16) for part in codes)
        self.check_blocks(weight_blocks.BY_NAME["q8_0"], "every code with every scale", data)

    def test_the_oracle_agrees(self):
        # On fewer blocks: each is compared with our decoders on many more.
        for kind in TYPES:
            data = weight_blocks.random_blocks(random.Random(3), kind, 100)
            want = self.ggml.decode(kind.name, data, 100 * kind.values)
            weight_blocks.assert_same(self, kind, "the oracle", data, kind.decode(data), want)


for block_type in TYPES:
    setattr(Llamacpp, "test_" + block_type.name, lambda self, kind=block_type: self.check(kind))


def load(arguments):
    try:
        Llamacpp.ggml = llamacpp.Ggml(arguments.downloads)
    except llamacpp.Missing as reason:
        llamacpp.skip("oracle.weights_llamacpp: %s" % reason)


if __name__ == "__main__":
    main(ONE_TARGET, load)
