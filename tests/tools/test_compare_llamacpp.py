#!/usr/bin/env python3
"""compare_llamacpp at its smallest. Skipped where llama.cpp's libraries cannot be had.

usage: test_compare_llamacpp.py --kvfold PATH --downloads DIR; times are not judged.
"""
import argparse
import subprocess
import sys
from pathlib import Path

_parser = argparse.ArgumentParser()
_parser.add_argument("--kvfold", required=True)
_parser.add_argument("--downloads", required=True)
OPTIONS, _ = _parser.parse_known_args()
EXIT_SKIPPED = 77


def main():
    command = [sys.executable, str(Path(__file__).resolve().parent / "compare_llamacpp.py"), "--kvfold",
               OPTIONS.kvfold, "--downloads", OPTIONS.downloads, "--ctx", "40", "--decode", "2",
               "--rounds", "1", "--threads", "1"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=500, check=False)
    print(result.stdout, result.stderr, sep="", end="")
    if result.returncode == EXIT_SKIPPED:
        sys.exit(EXIT_SKIPPED)
    lines = [line.split() for line in result.stdout.splitlines()[3:]]
    if result.returncode or [line[:2] for line in lines] != [["prefill", "40"], ["decode", "40"]]:
        sys.exit(f"status {result.returncode}, and not a line for prefill and one for decode")
    if any(not float(line[-1]) > 0 for line in lines):
        sys.exit("a ratio is not above 0")


if __name__ == "__main__":
    main()
