#!/usr/bin/env python3
"""Where there is no NVIDIA GPU, or no driver for it, the command says so: one line, status 2.

usage: test_no_driver.py --kvfold BINARY --model FOLDER    (status 77: there is one)
"""
import argparse
import subprocess
import sys

SKIPPED = 77


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--kvfold", required=True)
    parser.add_argument("--model", required=True)
    options = parser.parse_args()
    done = subprocess.run([options.kvfold, "run", "-m", options.model, "--backend", "cuda", "-p",
                           "a", "-n", "1"], capture_output=True, text=True, timeout=120, check=False)
    if done.returncode == 0:
        print("there is an NVIDIA GPU here")
        return SKIPPED
    lines = done.stderr.splitlines()
    good = (done.returncode == 2 and done.stdout == "" and len(lines) == 1 and
            ("no NVIDIA driver was found" in lines[0] or "there is no NVIDIA GPU" in lines[0]))
    print(f"status {done.returncode}: {done.stderr.strip()}")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
