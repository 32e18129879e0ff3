#!/usr/bin/env python3
"""compare_commits at its smallest: that it measures what it says, and says why it cannot.

usage: test_compare.py --kvfold PATH [unittest's arguments]; times are not judged.
"""
import argparse
import subprocess
import sys
import unittest
from pathlib import Path

_parser = argparse.ArgumentParser()
_parser.add_argument("--kvfold", required=True, type=Path)
for _name in ("--make", "--open", "--step", "--downloads"):
    _parser.add_argument(_name, help="of other tests")
OPTIONS, UNITTEST_ARGUMENTS = _parser.parse_known_args()
HERE = Path(__file__).resolve().parent


def compare(*arguments):
    command = [sys.executable, HERE / "compare_commits.py", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)


class CompareTest(unittest.TestCase):
    def test_a_table_has_a_line_for_prefill_and_decode_of_each_length(self):
        result = compare(OPTIONS.kvfold, OPTIONS.kvfold, "--ctx", "64,40", "--decode", 3, "--rounds",
                         2, "--threads", 1)
        self.assertEqual(result.returncode, 0, result.stderr)
        lines = result.stdout.splitlines()
        self.assertIn("2 runs of each in turns, 1 threads, 3 tokens after each prompt", lines[0])
        self.assertEqual([line.split()[:2] for line in lines[2:]],
                         [["prefill", "64"], ["decode", "64"], ["prefill", "40"], ["decode", "40"]])

    def test_what_does_not_run_is_said_in_a_line(self):
        for binary, model, expected in (("/bin/false", "models/tiny", "status 1"),
                                        (OPTIONS.kvfold, "/nonexistent", "/nonexistent")):
            result = compare(binary, OPTIONS.kvfold, "-m", model, "--ctx", "40", "--rounds", 1)
            self.assertEqual((result.returncode, result.stdout), (1, ""))
            self.assertRegex(result.stderr, rf"^compare_commits: at 40 tokens: .*{expected}.*\n$")


if __name__ == "__main__":
    unittest.main(argv=[sys.argv[0], *UNITTEST_ARGUMENTS])
