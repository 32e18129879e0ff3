#!/usr/bin/env python3
"""`kvfold score` on held-out text gives the bits per byte of another implementation.

Of the text's 48 windows the first 12; all with --whole, N with --windows N.
"""
import argparse
import json
import subprocess
import sys
import tempfile
import unittest

parser = argparse.ArgumentParser()
parser.add_argument("--kvfold", required=True)
parser.add_argument("--model", required=True)
parser.add_argument("--data", required=True)
parser.add_argument("--whole", action="store_true")
parser.add_argument("--windows", type=int, default=12)
options, rest = parser.parse_known_args()


WINDOW_BYTES = 4095  # and BOS


class Score(unittest.TestCase):
    def score(self, text, *arguments):
        command = [options.kvfold, "score", "-m", options.model, "-f", text, "--window", "4096",
                   "--json", *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        return json.loads(done.stdout.splitlines()[-1])

    def check(self, column, *arguments):
        with open(options.data + "/val_bpb.json") as file:
            windows = json.load(file)["windows"]
        with open(options.data + "/val.txt", "rb") as file:
            text = file.read()
        if not options.whole:
            windows = windows[:options.windows]
            text = text[:options.windows * WINDOW_BYTES]
        expected = sum(window[column] for window in windows) / len(windows)
        with tempfile.NamedTemporaryFile() as file:
            file.write(text)
            file.flush()
            result = self.score(file.name, *arguments)
        print(f"{result['bits_per_byte']:.5f} bits per byte, expected {expected:.5f}",
              file=sys.stderr)
        self.assertEqual(result["windows"], len(windows))
        self.assertAlmostEqual(result["bits_per_byte"], expected, delta=0.0005)

    def test_grids_off_matches_hf(self):
        self.check(0, "--grid", "off")

    def test_grids_on_matches_qat(self):
        self.check(1)


if __name__ == "__main__":
    unittest.main(argv=[sys.argv[0], *rest], verbosity=2)
