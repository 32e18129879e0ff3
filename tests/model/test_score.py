#!/usr/bin/env python3
"""`kvfold score` on held-out text gives the bits per byte of another implementation."""
import argparse
import json
import subprocess
import sys
import unittest

parser = argparse.ArgumentParser()
parser.add_argument("--kvfold", required=True)
parser.add_argument("--model", required=True)
parser.add_argument("--data", required=True)
options, rest = parser.parse_known_args()


class Score(unittest.TestCase):
    def score(self, *arguments):
        command = [options.kvfold, "score", "-m", options.model, "-f", options.data + "/val.txt",
                   "--window", "4096", "--json", *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        return json.loads(done.stdout.splitlines()[-1])

    def check(self, semantics, *arguments):
        with open(options.data + "/val_bpb.json") as file:
            expected = json.load(file)
        result = self.score(*arguments)
        print(f"{semantics}: {result['bits_per_byte']:.5f} bits per byte, "
              f"expected {expected['mean'][semantics]:.5f}", file=sys.stderr)
        self.assertEqual(result["windows"], len(expected["windows"]))
        self.assertAlmostEqual(result["bits_per_byte"], expected["mean"][semantics], delta=0.0005)

    def test_grids_off_matches_hf(self):
        self.check("hf", "--grid", "off")

    def test_grids_on_matches_qat(self):
        self.check("qat")


if __name__ == "__main__":
    unittest.main(argv=[sys.argv[0], *rest], verbosity=2)
