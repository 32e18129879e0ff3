#!/usr/bin/env python3
"""What docs/METAL.md tells the first person with a Mac to run says what that page says, here on the emulated GPU.

usage: test_first_run.py --kvfold PROGRAM --model FOLDER

Of small sizes: the emulator takes half a second a token.
"""
import argparse
import json
import re
import subprocess
import unittest
from pathlib import Path

parser = argparse.ArgumentParser()
parser.add_argument("--kvfold", required=True)
parser.add_argument("--model", required=True)
options = parser.parse_args()

PAGE = Path(__file__).resolve().parent.parent.parent / "docs" / "METAL.md"


def kvfold(*arguments):
    return subprocess.run([options.kvfold, arguments[0], "-m", options.model, "--backend", "emulated",
                           *arguments[1:]], capture_output=True, text=True, check=False, timeout=600)


class FirstRun(unittest.TestCase):
    def good(self, *arguments):
        done = kvfold(*arguments)
        self.assertEqual(done.returncode, 0, done.stderr)
        return done.stdout + done.stderr

    def test_the_page_has_the_commands_that_are_run_here(self):
        told = re.findall(r"^\| `kvfold ([^`]*)`", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
        self.assertEqual([line.split()[0] for line in told], ["run", "verify", "bench", "run"])
        for line in told:
            self.assertIn(" --backend metal", line)

    def test_run_says_what_ran(self):
        self.assertRegex(self.good("run", "-p", "The sea ", "-n", "3"), r"fold on emulated/generic: 9 \+ 3 tokens")

    def test_verify_says_that_all_are_equal(self):
        said = self.good("verify", "--ctx", "40", "--decode", "2", "--profile", "tiled,fold")
        self.assertRegex(said, r"Equal: all [\d,]+ logits compared have the same bits as legacy's\.")

    def test_bench_times_passes_alone(self):
        lines = [json.loads(line) for line in self.good("bench", "--json", "--quick", "--ctx", "64").splitlines()
                 if line.startswith("{")]
        self.assertEqual([line["sessions"] for line in lines], [1, 4])
        for line in lines:
            self.assertEqual((line["stage"], line["backend"], line["isa"]), ("batch", "emulated", "generic"))
            self.assertGreater(line["tokens_per_second"], 0)

    def test_bench_refuses_what_it_cannot_time(self):
        refused = kvfold("bench", "--stage", "select")
        self.assertEqual(refused.returncode, 2)
        self.assertIn("--stage batch times passes of a model there", refused.stderr)
        self.assertEqual(refused.stderr.count("\n"), 1)

    def test_a_drawn_answer_is_the_same_again(self):
        drawn = ("run", "-p", "ab", "-n", "4", "--json", "--temperature", "0.8", "--top-p", "0.9", "--seed", "7")
        first, second = (json.loads(self.good(*drawn).splitlines()[0])["tokens"] for _ in range(2))
        self.assertEqual(first, second)
        self.assertEqual(len(first), 4)


if __name__ == "__main__":
    unittest.main(argv=["test_first_run.py"], verbosity=2)
