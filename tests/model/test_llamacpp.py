#!/usr/bin/env python3
"""The tiny checkpoint in ggml's types: the bits of the decoded values, and llama.cpp's own answers.

Every matrix is of the type (in types with blocks of 256 the two whose rows are 128 long are of
q8_0, and experts are padded with zeros to 256). llama.cpp's library makes the blocks and decodes
them; llama.cpp runs the decoded values in f32, since its products with packed weights round what
they multiply; kvfold runs the file of the type. Without llama.cpp's libraries all of it is skipped.

With --slow all types and the whole text, 13,001 ids, or --tokens of them.
"""
import math
import os
import subprocess
import sys
from array import array

from scoring import DOWNLOADS, ScoreTest, golden_ids, main, options
import gguf
import llamacpp
import tiny_gguf
import typed_gguf
import weight_oracle

SAMPLE = ("f32", "q8_0", "q4_K", "iq2_xxs", "mxfp4")  # each has another form of scales
IDS = golden_ids("p13001")[:options.tokens if options.slow else 400]
SINGLE = 600 if options.slow else 160  # of them one by one
N_GREEDY = 32
MODEL_PY = os.path.join(os.path.dirname(os.path.abspath(llamacpp.__file__)), "llamacpp_model.py")
MEAN_BOUND = 3e-4  # nats; 0.9e-4 to 2.4e-4 measured at 13,001 ids
# A tie of two index scores selects another row: 6 to 51 of 13,000 positions, up to 0.8 nats each with weights
# of 2 bits, whose mean with them is 3.4e-4.
FAR = 1e-2
FAR_SHARE = 0.005
WHOLE_MEAN_BOUND = 4e-4
ARGMAX_BOUND = 0.995
TIE = 0.01  # two logits that a last bit may put in another order


def nats(row, token):
    greatest = max(row)
    return greatest + math.log(math.fsum(math.exp(x - greatest) for x in row)) - row[token]


def likeliest(row):
    return row.index(max(row))


class Llamacpp(ScoreTest):
    ggml = None
    libraries = None

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.checkpoint = tiny_gguf.load(options.model)

    def run_llamacpp(self, model):
        """(logits of IDS and of N_GREEDY likeliest ids after them, those ids)"""
        with self.file("llama.ids") as ids_file, self.file("llama.logits") as logits_file:
            with open(ids_file, "w", encoding="ascii") as file:
                file.writelines("%d\n" % token for token in IDS)
            done = subprocess.run([sys.executable, MODEL_PY, self.libraries, model, ids_file, logits_file,
                                   str(N_GREEDY)], capture_output=True, text=True, check=False)
            self.assertEqual(done.returncode, 0, done.stderr[-2000:])
            with open(logits_file, "rb") as file:
                return file.read(), [int(line) for line in done.stdout.split()]

    def compare(self, got, want, greedy, what):
        """Logits of kvfold and of llama.cpp for IDS + greedy."""
        width = len(want) // 4 // (len(IDS) + N_GREEDY)
        got, want = (array("f", data) for data in (got, want))
        rows = [(got[at:at + width], want[at:at + width]) for at in range(0, len(want), width)]
        text = rows[:len(IDS)]
        apart = [abs(nats(a, token) - nats(b, token)) for (a, b), token in zip(text, IDS[1:])]
        same = sum(likeliest(a) == likeliest(b) for a, b in text) / len(text)
        mean = math.fsum(apart) / len(apart)
        far = [one for one in apart if one > FAR]
        near = (math.fsum(apart) - math.fsum(far)) / (len(apart) - len(far))
        nll = math.fsum(nats(b, token) for (_, b), token in zip(text, IDS[1:])) / len(apart)
        print("%s: NLL %.3f, mean |difference| %.1e, largest %.1e, argmax equal %.2f%%; %d beyond %g, "
              "the mean of the others %.1e" % (what, nll, mean, max(apart), 100 * same, len(far), FAR, near),
              file=sys.stderr)
        self.assertLessEqual(near, MEAN_BOUND, what)
        self.assertLessEqual(mean, WHOLE_MEAN_BOUND, what)
        self.assertLessEqual(len(far), max(1, FAR_SHARE * len(apart)), what)
        self.assertGreaterEqual(same, ARGMAX_BOUND, what)
        # kvfold was given llama.cpp's ids: up to the first difference its own are the same.
        for (a, _), token in zip(rows[len(IDS) - 1:], greedy):
            if likeliest(a) != token:
                best = sorted(a)[-2:]
                print("%s: another greedy id, the best logits are %r" % (what, best), file=sys.stderr)
                self.assertLessEqual(best[1] - best[0], TIE, what)
                break

    def encode(self, kind, data, per_row):
        return data if kind.name == "f32" else self.ggml.encode(kind.ggml_id, data, per_row)

    def decode(self, kind, data):
        return self.ggml.decode(kind.name, data, len(data) // kind.size * kind.values)

    def check(self, kind):
        checkpoint = typed_gguf.fitting(self.checkpoint, kind)
        typed, plain = typed_gguf.forms(checkpoint, kind, self.encode, self.decode)
        with self.file("typed.gguf") as stored, self.file("plain.gguf") as decoded:
            gguf.write(stored, tiny_gguf.metadata(checkpoint), typed)
            gguf.write(decoded, tiny_gguf.metadata(checkpoint), plain)
            want, greedy = self.run_llamacpp(decoded)
            self.assertEqual(len(greedy), N_GREEDY)
            got, _ = self.check_stored(stored, decoded, IDS + greedy, SINGLE, kind.name, "--grid", "off")
        self.compare(got, want, greedy, kind.name)


for block_type in weight_oracle.BLOCK_TYPES:
    if options.slow or block_type.name in SAMPLE:
        setattr(Llamacpp, "test_" + block_type.name, lambda self, kind=block_type: self.check(kind))

if __name__ == "__main__":
    try:
        Llamacpp.ggml = llamacpp.Ggml(DOWNLOADS)
        Llamacpp.libraries = str(llamacpp.folder(DOWNLOADS))
    except llamacpp.Missing as reason:
        llamacpp.skip("model.llamacpp: %s" % reason)
    main()
