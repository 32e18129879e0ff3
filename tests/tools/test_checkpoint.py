#!/usr/bin/env python3
"""make_checkpoint and what is measured with its files.

usage: test_checkpoint.py --kvfold PATH --make PATH --open PATH --step PATH [unittest's arguments]
"""
import argparse
import json
import math
import os
import re
import resource
import struct
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

_parser = argparse.ArgumentParser()
for _name in ("--kvfold", "--make", "--open", "--step"):
    _parser.add_argument(_name, required=True, type=os.path.abspath)
_parser.add_argument("--downloads", help="of other tests")
OPTIONS, UNITTEST_ARGUMENTS = _parser.parse_known_args()

FORMS = ("deepseek", "q2", "q4", "mxfp4")
VOCABULARY = 320  # of the small model
# What has been published of the real files: tensors and their bytes.
PUBLISHED = {
    ("flash", "deepseek"): (69187, 159609485896), ("pro", "deepseek"): (145116, 864704792696),
    ("flash", "q2"): (1328, 86714775900), ("flash", "q4"): (1328, 164628167004),
}
MOST_BEYOND_BYTES = 100_000_000
MOST_SECONDS = 1.0


def run(*command):
    return subprocess.run([str(word) for word in command], capture_output=True, text=True,
                          timeout=300, check=False)


class CheckpointTest(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)

    def made(self, name, *arguments):
        """The path of a checkpoint that was made, and the tool's last line."""
        result = run(OPTIONS.make, *arguments, self.folder / name)
        self.assertEqual(result.returncode, 0, result.stderr)
        return self.folder / name, result.stdout.splitlines()[-1]

    def logits(self, model, *ids):
        (self.folder / "ids").write_text("".join(f"{i}\n" for i in ids), encoding="ascii")
        result = run(OPTIONS.kvfold, "score", "-m", model, "--ids", self.folder / "ids", "--logits",
                     self.folder / "logits", "--threads", "1")
        self.assertEqual(result.returncode, 0, result.stderr)
        data = (self.folder / "logits").read_bytes()
        return struct.unpack(f"<{len(data) // 4}f", data)

    def test_small_ones_of_each_form_run_with_finite_logits(self):
        for form in FORMS:
            with self.subTest(form):
                model, _ = self.made(form, "--form", form, "--model", "small")
                logits = self.logits(model, 7, 3, 300)
                self.assertEqual(len(logits) % VOCABULARY, 0)
                self.assertTrue(all(map(math.isfinite, logits)))
                self.assertGreater(max(logits), 0.1)
                self.assertLess(max(map(abs, logits)), 100)

    def test_parts_and_a_whole_file_are_the_same_model(self):
        for form in FORMS:
            with self.subTest(form):
                whole, line = self.made(form, "--form", form, "--model", "small")
                self.assertRegex(line, "1 file$")
                split, line = self.made(form + "_split", "--form", form, "--model", "small", "--part",
                                        "2M")
                n_files = int(re.search(r"(\d+) files$", line)[1])
                self.assertGreater(n_files, 2)
                if form != "deepseek":
                    split = self.folder / f"{form}_split-00002-of-{n_files:05}.gguf"
                self.assertEqual(self.logits(whole, 5, 6), self.logits(split, 5, 6))

    def test_the_seed_decides_the_bytes(self):
        files = [self.made(f"{i}", "--form", "q2", "--model", "small", *seed)[0].read_bytes()
                 for i, seed in enumerate(([], ["--seed", "1"], ["--seed", "2"]))]
        self.assertEqual(files[0], files[1])
        self.assertEqual(len(files[0]), len(files[2]))
        self.assertNotEqual(files[0], files[2])

    def test_layers_and_experts_are_what_is_asked_for(self):
        _, line = self.made("a", "--form", "mxfp4", "--model", "small", "--layers", "128,4")
        two = int(line.split()[1])
        model, line = self.made("b", "--form", "mxfp4", "--model", "small", "--layers", "128,4,0",
                                "--hash-layers", "0", "--experts", "3")
        # A window-only layer has no compressor; without the token's map there are biases instead.
        self.assertEqual(int(line.split()[1]) - two, 8 + 1 + 9 - 2 + 4 + 3 + 3 - 1 - 1)
        self.assertTrue(all(map(math.isfinite, self.logits(model, 1, 2))))

    def test_sparse_files_are_of_the_published_sizes(self):
        for (model, form), (n_tensors, n_bytes) in PUBLISHED.items():
            path, line = self.made(f"{model}-{form}", "--form", form, "--model", model, "--sparse",
                                   "--layers", "all", "--tokens")
            self.assertIn(f"{n_tensors} tensors, {n_bytes} bytes of data", line)
            files = [path] if path.is_file() else list(path.iterdir())
            self.assertGreater(sum(file.stat().st_size for file in files), n_bytes)
            self.assertLess(sum(file.stat().st_blocks * 512 for file in files), 40_000_000)

    def test_opening_reads_headers_alone(self):
        for form in FORMS:
            path, _ = self.made(form, "--form", form, "--sparse", "--layers", "all", "--tokens")
            before = resource.getrusage(resource.RUSAGE_CHILDREN)
            result = run(OPTIONS.open, path)
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            self.assertEqual(result.returncode, 0, result.stderr)
            measured = json.loads(result.stdout)
            self.assertGreater(measured["mapped_bytes"], 80e9)
            self.assertLess(measured["beyond_bytes"], MOST_BEYOND_BYTES)
            # The processor's time: the clock's is of the other tests too.
            self.assertLess(after.ru_utime - before.ru_utime, MOST_SECONDS)

    def test_a_step_is_measured_against_its_parts(self):
        for form in FORMS:
            with self.subTest(form):
                model, _ = self.made(form, "--form", form, "--model", "small")
                result = run(OPTIONS.step, "-m", model, "--quick", "--ctx", "40", "--steps", "3",
                             "--json", "--threads", "1")
                self.assertEqual(result.returncode, 0, result.stderr)
                measured = json.loads(result.stdout)
                for key in ("step_ms", "caches_ms", "expected_ms", "ratio", "share_of_bandwidth"):
                    self.assertGreater(measured[key], 0)
                # Two of eight experts are read and no embedding: less than the file has.
                self.assertGreater(measured["bytes"], 5e6)
                self.assertLess(measured["bytes"], 12e6)

    def test_wrong_arguments_are_refused_in_one_line(self):
        for expected, *arguments in (
                ("--form", "x"), ("there is no 'q3'", "--form", "q3", "x"),
                ("--model: there is no 'big'", "--form", "q2", "--model", "big", "x"),
                ("not a list of 0, 4 and 128", "--form", "q2", "--layers", "0,5", "x"),
                ("not a number", "--form", "q2", "--seed", "1x", "x"),
                ("a token takes 6", "--form", "q2", "--experts", "5", "x"),
                ("cannot be written", "--form", "q2", "--sparse", "/nonexistent/x")):
            result = run(OPTIONS.make, *arguments)
            self.assertEqual((result.returncode, result.stdout), (2, ""), arguments)
            self.assertEqual(result.stderr.count("\n"), 1)
            self.assertIn(expected, result.stderr)
        for tool in (OPTIONS.open, OPTIONS.step):
            self.assertEqual(run(tool).returncode, 2)
        self.assertIn("/nonexistent", run(OPTIONS.open, "/nonexistent").stderr)


if __name__ == "__main__":
    unittest.main(argv=[sys.argv[0], *UNITTEST_ARGUMENTS])
