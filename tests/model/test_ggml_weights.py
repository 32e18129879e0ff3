#!/usr/bin/env python3
"""A model in each of ggml's types gives the bits of a model of the decoded values in f32.

A random model in every type, in every matrix; blocks and values by tests/oracle. The tiny checkpoint
is in test_llamacpp.py.
"""
from scoring import ScoreTest, golden_ids, main
import gguf
import typed_gguf
import weight_oracle

IDS = golden_ids("p700")[:400]  # 100 compressed rows in the layer that selects 64; 3 in the other
SINGLE = 300  # of them one by one: 75 such rows


class RandomModel(ScoreTest):
    def check(self, kind):
        typed, plain = typed_gguf.random_forms(kind)
        with self.file("typed.gguf") as stored, self.file("plain.gguf") as decoded:
            gguf.write(stored, typed_gguf.random_metadata(), typed)
            gguf.write(decoded, typed_gguf.random_metadata(), plain)
            self.check_stored(stored, decoded, IDS, SINGLE, kind.name)


for block_type in weight_oracle.BLOCK_TYPES:
    if block_type.name != "f32":
        setattr(RandomModel, "test_" + block_type.name, lambda self, kind=block_type: self.check(kind))

if __name__ == "__main__":
    main()
