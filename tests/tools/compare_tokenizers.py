#!/usr/bin/env python3
"""Speed of src/text and of the tokenizers library (Rust) on the same text, one string a paragraph, ids only.

usage: compare_tokenizers.py --measure MEASURE_TEXT --downloads DIR [--bytes N] [--text NAME=FILE]...

Takes turns, five times, each on one thread with the cache that it comes with, and prints the median of
each text. Without --text: English and code from Python's own library and this tree, and Chinese, of which
nothing is at hand, of the vocabulary's words, rare ones rarely, in sentences. The ids of both must be as
many (tests/text compares them one by one).
"""
import argparse
import ast
import bisect
import itertools
import os
import random
import statistics
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests/text"))
import v4
import reference

import npm_packages

ROUNDS = 5


def python_files():
    return sorted(Path(sysconfig.get_paths()["stdlib"]).rglob("*.py"))


def english(n_bytes):
    """This tree's pages, and what Python's library says of itself."""
    yield from (path.read_text(encoding="utf-8") for path in sorted((ROOT / "docs").glob("*.md")))
    yield (ROOT / "tests/model/val.txt").read_text(encoding="utf-8")
    for path in python_files():
        try:
            tree = ast.parse(path.read_bytes())
        except (SyntaxError, ValueError):
            continue
        for node in ast.walk(tree):
            if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)) and ast.get_docstring(node):
                yield ast.get_docstring(node) + "\n\n"


def code(n_bytes):
    for path in sorted((ROOT / "src").rglob("*.[ch]")) + python_files():
        try:
            yield path.read_text(encoding="utf-8") + "\n\n"
        except UnicodeDecodeError:
            pass


def chinese(n_bytes, described):
    chooser = random.Random(1)
    words = []
    for token in described["model"]["vocab"]:
        try:
            word = bytes(map(reference.BYTE.__getitem__, token)).decode()
        except (KeyError, UnicodeDecodeError):
            continue
        if word and all("\u4e00" <= character <= "\u9fa5" for character in word):
            words.append(word)
    weights = list(itertools.accumulate(1 / (no + 10) for no in range(len(words))))
    draw = lambda: words[bisect.bisect(weights, chooser.random() * weights[-1])]
    while True:
        sentences = ("".join(draw() for _ in range(chooser.randint(3, 12))) + chooser.choice("\uff0c\uff0c\u3002\u3001\uff1b")
                     for _ in range(chooser.randint(5, 25)))
        yield "".join(sentences) + "\n\n"


def write_text(path, parts, n_bytes):
    """Parts up to n_bytes, again and again where they are fewer."""
    data = b""
    for part in parts:
        data += part.encode()
        if len(data) >= n_bytes:
            break
    data = data[:n_bytes].decode(errors="ignore").encode()
    path.write_bytes(data)
    return path


def run(command):
    environment = {**os.environ, "TOKENIZERS_PARALLELISM": "false", "RAYON_NUM_THREADS": "1"}
    output = subprocess.run(list(map(str, command)), check=True, text=True, stdout=subprocess.PIPE, env=environment).stdout
    return {name: float(value) for name, value in map(str.split, output.splitlines())}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--measure", required=True)
    parser.add_argument("--downloads", required=True)
    parser.add_argument("--bytes", type=int, default=10_000_000)
    parser.add_argument("--text", action="append", default=[])
    options = parser.parse_args()
    try:
        packages = v4.packages(options.downloads)
    except npm_packages.Missing as reason:
        npm_packages.skip(reason)
    described = v4.load(options.downloads)
    with tempfile.TemporaryDirectory(prefix="kvfold-text-speed-") as folder:
        folder = Path(folder)
        tokenizer = v4.write(described, folder / "tokenizer.json")
        files = dict(text.split("=", 1) for text in options.text)
        if not files:
            each = options.bytes // 3
            made = {"English": english(each), "code": code(each), "Chinese": chinese(each, described)}
            files = {name: write_text(folder / name, parts, each) for name, parts in made.items()}
            (folder / "all").write_bytes(b"\n\n".join(path.read_bytes() for path in files.values()))
            files["all"] = folder / "all"
        for name, path in files.items():
            ours, theirs = [], []
            for _ in range(ROUNDS):
                ours.append(run([options.measure, tokenizer, path, 3]))
                theirs.append(run(["node", ROOT / "tests/text/rust_tokenizer.mjs", packages, tokenizer, "time", path]))
            assert ours[0]["ids"] == theirs[0]["ids"], (ours[0], theirs[0])
            rate = lambda runs, key: Path(path).stat().st_size / 1e6 / statistics.median(one[key] for one in runs)
            print(f"{name:10} {Path(path).stat().st_size:10} bytes, {ours[0]['ids']:9.0f} ids: "
                  f"{rate(ours, 'first_s'):6.1f} MB/s ({rate(ours, 'least_s'):6.1f} again), the library "
                  f"{rate(theirs, 'least_s'):5.2f} MB/s: {rate(ours, 'first_s') / rate(theirs, 'least_s'):5.1f} times")
        print(f"opening: {statistics.median(one['open_s'] for one in ours) * 1e3:.0f} ms, the library "
              f"{statistics.median(one['open_s'] for one in theirs) * 1e3:.0f} ms")
    return 0


if __name__ == "__main__":
    sys.exit(main())
