"""What the tests of stored weights share: the golden token ids, and logits of `kvfold score`."""
import argparse
import contextlib
import json
import math
import os
import struct
import subprocess
import sys
import tempfile
import unittest
from array import array

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "oracle"))
from fixtures import Safetensors  # noqa: E402

parser = argparse.ArgumentParser()
parser.add_argument("--kvfold", required=True)
parser.add_argument("--model", required=True)
parser.add_argument("--data", required=True)
parser.add_argument("--downloads", help="folder for what a test has to download (beside kvfold)")
parser.add_argument("--slow", action="store_true", help="all types, longer texts")
parser.add_argument("--tokens", type=int, default=13001, help="of the longest text")
options, rest = parser.parse_known_args()
KVFOLD = os.path.abspath(options.kvfold)
DOWNLOADS = options.downloads or os.path.join(os.path.dirname(KVFOLD), "downloads")


def golden_ids(name):
    """The token ids p300, p700 or p13001 of the goldens."""
    goldens = Safetensors(os.path.join(options.data, "goldens.safetensors"))
    start, end = goldens.header[name + ".ids"]["data_offsets"]
    return list(struct.unpack_from("<%di" % ((end - start) // 4), goldens.content, goldens.data_at + start))


class ScoreTest(unittest.TestCase):
    """Each class has a folder of its own."""

    @classmethod
    def setUpClass(cls):
        folder = tempfile.TemporaryDirectory(prefix="kvfold-weights-")
        cls.addClassCleanup(folder.cleanup)
        cls.folder = folder.name

    def path(self, name):
        return os.path.join(self.folder, name)

    @contextlib.contextmanager
    def file(self, name):
        """A path that is free again afterwards."""
        yield self.path(name)
        os.remove(self.path(name))

    def run_score(self, model, ids, logits_file, arguments):
        with self.file("ids") as ids_file:
            with open(ids_file, "w", encoding="ascii") as file:
                file.writelines("%d\n" % token for token in ids)
            # One thread: many of these runs decode, beside other tests.
            command = [KVFOLD, "score", "-m", model, "--ids", ids_file, "--window", str(len(ids)), "--logits",
                       logits_file, "--threads", "1", "--json", *arguments]
            return subprocess.run(command, capture_output=True, text=True, check=False)

    def score(self, model, ids, *arguments):
        """(logits of all positions as bytes, nats a token)"""
        with self.file("logits") as logits_file:
            done = self.run_score(model, ids, logits_file, arguments)
            self.assertEqual(done.returncode, 0, done.stderr)
            with open(logits_file, "rb") as file:
                return file.read(), json.loads(done.stdout.splitlines()[-1])["nats"]

    def refusal(self, model, ids, *arguments):
        """The message of a run that fails and leaves no logits."""
        done = self.run_score(model, ids, self.path("none"), arguments)
        self.assertEqual(done.returncode, 2, done.stderr)
        self.assertFalse(os.path.exists(self.path("none")))
        return done.stderr

    def assert_same_logits(self, got, want, what):
        if got == want:
            return
        self.assertEqual(len(got), len(want), what)
        pairs = list(zip(array("I", got), array("I", want)))
        differing = [i for i, (a, b) in enumerate(pairs) if a != b]
        self.fail("%s: %d of %d logits differ, the first is %d" % (what, len(differing), len(pairs), differing[0]))

    def check_stored(self, stored, decoded, ids, n_single, what, *arguments):
        """A model as it is stored gives the bits of the model of its decoded values: in one chunk,
        and the first n_single ids one by one. Returns logits and nats a token."""
        want, nats = self.score(decoded, ids, *arguments)
        self.assertTrue(all(map(math.isfinite, array("f", want))), what)
        row = len(want) // len(ids)
        self.assertEqual(len({want[at:at + row] for at in range(0, len(want), row)}), len(ids), what)
        got, _ = self.score(stored, ids, *arguments)
        self.assert_same_logits(got, want, what)
        got, _ = self.score(stored, ids[:n_single], "--chunk", "1", *arguments)
        self.assert_same_logits(got, want[:n_single * row], what + ", one by one")
        return want, nats


def main():
    unittest.main(argv=[sys.argv[0], *rest], verbosity=2)
