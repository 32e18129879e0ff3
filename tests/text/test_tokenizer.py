"""src/text against reference.py, which shares no code with it, over vocabularies of its own."""

import argparse
import copy
import json
import os
import random
import re
import sys
import tempfile
import time
import unittest
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "oracle"))
import gguf
import make_fixture
import reference
import texts
import v4
from text_client import Probe

_parser = argparse.ArgumentParser()
_parser.add_argument("--probe", required=True)
_parser.add_argument("--downloads", help="of tests that need some")
_options, _rest = _parser.parse_known_args()
MARKERS = [text for text, _ in make_fixture.ADDED] + make_fixture.SPECIAL
SMALL = make_fixture.describe(3, 200)
DEEPEST = 64


def bytes_of(described, ids):
    """The bytes of ids that are no added tokens."""
    text_of = {id_: text for text, id_ in described["model"]["vocab"].items()}
    return b"".join(bytes(reference.BYTE[character] for character in text_of[id_]) for id_ in ids)


class TextTest(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory(prefix="kvfold-text-")
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)

    def probe(self, described, vocab=0):
        return Probe(_options.probe, v4.write(described, self.folder / "tokenizer.json"), vocab)

    def refused(self, path, *expected, vocab=0):
        with Probe(_options.probe, path, vocab) as probe:
            self.assertIsNotNone(probe.refused, f"was read; expected: {expected}")
            for text in expected:
                self.assertIn(text, probe.refused)
            return probe.refused

    def refused_json(self, described, *expected, vocab=0):
        return self.refused(v4.write(described, self.folder / "tokenizer.json"), *expected, vocab=vocab)


class Encoding(TextTest):
    def test_the_fixture_is_what_its_script_writes(self):
        self.assertEqual(make_fixture.FIXTURE.read_text(encoding="utf-8"), make_fixture.fixture())

    def test_ids_are_those_of_the_reference(self):
        for seed, merged in ((1, 52), (2, 300), (3, 1500)):
            described = make_fixture.describe(seed, merged)
            expected = reference.Tokenizer(described)
            with self.probe(described) as probe:
                for text in texts.make(seed, 1000, MARKERS):
                    for added in (False, True):
                        self.assertEqual(probe.encode(text, added), expected.encode(text, added), (text, added))

    def test_pieces_are_those_of_the_reference(self):
        described = make_fixture.describe_pairs(1)
        expected = reference.Tokenizer(described)
        with self.probe(described) as probe:
            for text in texts.make(12, 3000, []):
                self.assertEqual(probe.encode(text), expected.encode(text), text)

    def test_ids_of_long_pieces_are_those_of_the_reference(self):
        chooser = random.Random(1)
        for seed in range(3):
            described = make_fixture.describe(seed, 700)
            expected = reference.Tokenizer(described)
            with self.probe(described) as probe:
                for length in [*range(40, 60), *range(60, 500, 20)]:
                    text = "".join(chooser.choices("etaoinshrdlu\u00e9", k=length))
                    self.assertEqual(probe.encode(text), expected.encode(text), text)

    def test_ids_of_cjk_texts(self):
        # Only so ranked (of 3 in 4) some characters are known to be whole before anything else is joined (whole.h).
        alphabet = make_fixture.CJK * 4 + "\u4e02\u30fc\u3043e 1\u2014\n"
        n_whole = 0
        for seed in range(40):
            described = make_fixture.describe(seed, 30 + 3 * seed, make_fixture.CJK.encode(), make_fixture.CJK,
                                              trained=seed % 4 > 0)
            expected = reference.Tokenizer(described)
            n_whole += sum(len(expected.encode(character)) == 1 for character in make_fixture.CJK)
            chooser = random.Random(seed)
            with self.probe(described) as probe:
                for length in [*range(1, 60), 100, 150, 400]:
                    text = "".join(chooser.choices(alphabet, k=length))
                    self.assertEqual(probe.encode(text), expected.encode(text), text)
        self.assertGreater(n_whole, 100)

    def test_a_merge_with_a_character_may_rank_before_those_that_make_it(self):
        # Three characters that begin alike; the first one becomes a token last, and would take the second.
        c, d, e = (character.encode() for character in make_fixture.CJK[:3])
        described = make_fixture.describe_merges([(c[:1], c[1:2]), (c[:2], d[2:]), (c[:2], e[2:]), (c, d), (d, e), (c[:2], c[2:])])
        with self.probe(described) as probe:
            self.assertIsNone(probe.refused)
            for text in (c + d + e, c + d, d + c + d + e):
                self.assertEqual(probe.encode(text), reference.Tokenizer(described).encode(text.decode()))

    def test_each_character_alone_and_between_letters(self):
        described = make_fixture.describe_pairs(2)
        expected = reference.Tokenizer(described)
        with self.probe(described) as probe:
            # All of what the patterns name, and each 97th of the rest.
            codes = [*range(0x3200), *range(0x9f90, 0x9fb0), *range(0x3200, 0x110000, 97)]
            for code in codes:
                if not 0xd800 <= code < 0xe000:
                    for text in (chr(code), f"e{chr(code)}t {chr(code)}\n"):
                        self.assertEqual(probe.encode(text), expected.encode(text), text)

    def test_pairs_are_merges_too(self):
        as_pairs = copy.deepcopy(SMALL)
        as_pairs["model"]["merges"] = [merge.split(" ") for merge in SMALL["model"]["merges"]]
        with self.probe(SMALL) as probe:
            expected = [probe.encode(text) for text in texts.make(9, 200, [])]
        with self.probe(as_pairs) as probe:
            self.assertEqual([probe.encode(text) for text in texts.make(9, 200, [])], expected)

    def test_bytes_that_are_no_text_are_kept(self):
        with self.probe(SMALL) as probe:
            for text in texts.make(5, 500, []):
                data = text.encode()
                for at in (1, len(data) // 2, len(data) - 1):
                    for wrong in (data[at:], data[:at], data[:at] + b"\xff" + data[at:], b"\xed\xa0\x80" + data,
                                  data + b"\xf4\x90\x80\x80", b"\xc0\x80" + data):
                        self.assertEqual(bytes_of(SMALL, probe.encode(wrong)), wrong)

    def test_a_cut_text_has_the_ids_of_the_whole(self):
        n_cut = 0
        with self.probe(make_fixture.describe_pairs(3)) as probe:
            for text in texts.make(6, 1500, []):
                data = text.encode()
                whole = probe.encode(data)
                for length in {len(data), len(data) * 2 // 3, len(data) // 2, 3}:
                    cut = probe.cut(data[:length])
                    n_cut += cut > 0
                    self.assertLess(cut, max(length, 1))
                    self.assertEqual(probe.encode(data[:cut]) + probe.encode(data[cut:]), whole, (data, length, cut))
        self.assertGreater(n_cut, 3000)

    def test_markers_of_a_prompt_and_nothing_else_are_added_tokens(self):
        vocab = {token["content"]: token["id"] for token in SMALL["added_tokens"]}
        with self.probe(SMALL) as probe:
            plain = probe.encode("see <think> there")
            self.assertNotIn(vocab["<think>"], plain)
            self.assertEqual(probe.encode_prompt([["<think>"], "see <think> ", "there", ["</think>"], ["</think>"]]),
                             [vocab["<think>"], *plain, vocab["</think>"], vocab["</think>"]])
            # Two texts side by side are one.
            self.assertEqual(probe.encode_prompt(["eta", "oin"]), probe.encode("etaoin"))
            self.assertEqual(probe.encode_prompt([]), [])

    def test_long_pieces_take_no_longer_than_their_length(self):
        described = make_fixture.describe(3, 1500)
        n = 100000
        with self.probe(described) as probe:
            for character in ("e", " ", "-", "\n", "0", "\u4e2d", "\u00e9", "\u3042", "\U0001f600", "\x00"):
                started = time.monotonic()
                ids = probe.encode(character * n)
                self.assertLess(time.monotonic() - started, 5, character)
                self.assertEqual(bytes_of(described, ids), character.encode() * n)


class Decoding(TextTest):
    def test_text_comes_back_token_by_token(self):
        with self.probe(SMALL) as probe:
            for text in texts.make(7, 500, MARKERS):
                self.assertEqual(probe.decode(probe.encode(text, True)).decode(), text)

    def test_bytes_that_are_no_character_are_replaced_as_python_does(self):
        # Python replaces each longest part that could have begun a character, as well.
        with self.probe(SMALL) as probe:
            for text in texts.make(8, 300, []):
                data = text.encode()
                for at in (1, 2, len(data) // 2, len(data) - 1):
                    for wrong in (data[at:], data[:at], data[:at] + b"\x80" + data[at:], data[:at] + b"\xf0\x9f" + data[at:],
                                  data[:at] + b"\xe0\x80\xf4\x90\xed\xa0\xc1\xf8" + data[at:]):
                        self.assertEqual(probe.decode(probe.encode(wrong)).decode(), wrong.decode(errors="replace"))

    def test_special_tokens_can_be_left_out(self):
        with self.probe(SMALL) as probe:
            ids = probe.encode(make_fixture.SPECIAL[0] + "eta<think>" + make_fixture.SPECIAL[1], True)
            self.assertEqual(probe.decode(ids, skip_special=True).decode(), "eta<think>")
            self.assertEqual(probe.kinds([ids[0], ids[1], ids[-2], -1, probe.n_ids, 1 << 30]), [3, 1, 2, 0, 0, 0])


def with_key(described, path, value):
    """A copy with another value (None.__class__: without the key) at a path of keys."""
    changed = copy.deepcopy(described)
    *way, last = path
    inner = changed
    for key in way:
        inner = inner[key]
    if value is Ellipsis:
        del inner[last]
    else:
        inner[last] = value
    return changed


class Refusals(TextTest):
    def test_other_kinds_are_named_by_what_differs(self):
        splits = ("pre_tokenizer", "pretokenizers")
        first = ("added_tokens", 0)
        cases = [
            (("truncation",), {"max_length": 5}, "truncation"), (("padding",), {"strategy": "x"}, "padding"),
            (("normalizer",), {"type": "NFC"}, "normalizer"),
            (("normalizer", "normalizers"), [{"type": "NFKC"}], "normalizer"),
            (("pre_tokenizer",), None, "pre_tokenizer"), (("pre_tokenizer",), Ellipsis, "pre_tokenizer"),
            (("pre_tokenizer",), {"type": "ByteLevel"}, "pre_tokenizer"),
            ((*splits, 0, "pattern", "Regex"), "\\p{N}", "pretokenizers[0].pattern.Regex"),
            ((*splits, 1, "pattern", "Regex"), "[a-z]+", "pretokenizers[1].pattern.Regex"),
            ((*splits, 2, "pattern"), {"String": "x"}, "pretokenizers[2].pattern"),
            ((*splits, 2, "behavior"), "Removed", "pretokenizers[2].behavior"),
            ((*splits, 0, "invert"), True, "pretokenizers[0].invert"),
            ((*splits, 3, "add_prefix_space"), True, "pretokenizers[3].add_prefix_space"),
            ((*splits, 3, "use_regex"), True, "pretokenizers[3].use_regex"),
            ((*splits, 3), Ellipsis, "pretokenizers[3]"),
            ((*splits,), SMALL["pre_tokenizer"]["pretokenizers"] + [{"type": "Digits"}], "pretokenizers[4]"),
            (("post_processor",), {"type": "TemplateProcessing"}, "post_processor"),
            (("decoder",), {"type": "WordPiece"}, "decoder"), (("decoder",), Ellipsis, "decoder"),
            (("model", "type"), "Unigram", "Unigram"), (("model", "type"), Ellipsis, "model.type"),
            (("model", "dropout"), 0.1, "dropout"), (("model", "unk_token"), "<unk>", "unk_token"),
            (("model", "continuing_subword_prefix"), "##", "continuing_subword_prefix"),
            (("model", "end_of_word_suffix"), "</w>", "end_of_word_suffix"),
            (("model", "byte_fallback"), True, "byte_fallback"), (("model", "ignore_merges"), True, "ignore_merges"),
            (("model", "new_flag"), False, "new_flag"), (("new_part",), None, "new_part"),
            ((*first, "lstrip"), True, "lstrip"), ((*first, "rstrip"), True, "rstrip"),
            ((*first, "single_word"), True, "single_word"), ((*first, "normalized"), Ellipsis, "normalized"),
            ((*first, "id"), "0", "\"id\""), ((*first, "id"), -1, "\"id\""), ((*first, "content"), Ellipsis, "content"),
            ((*first, "content"), "", "0 bytes"), ((*first, "content"), "x" * 300, "300 bytes"),
            (("model", "vocab"), Ellipsis, "model.vocab"), (("model", "merges"), Ellipsis, "model.merges"),
            (("model", "vocab"), [], "an object"), (("model", "merges"), {}, "an array"),
        ]
        for path, value, expected in cases:
            with self.subTest(path=path, value=value):
                self.refused_json(with_key(SMALL, path, value), expected)

    def test_what_makes_no_difference_is_read(self):
        for path, value in [(("normalizer",), None), (("post_processor",), None), (("version",), Ellipsis),
                            (("model", "ignore_merges"), False), (("model", "continuing_subword_prefix"), ""),
                            (("truncation",), Ellipsis), (("model", "fuse_unk"), True), (("added_tokens",), [])]:
            changed = with_key(SMALL, path, value)
            if path == ("added_tokens",):
                for text in make_fixture.SPECIAL:  # they are no bytes
                    id_ = changed["model"]["vocab"].pop(text)
                    changed["model"]["vocab"]["e" * 13 + str(id_)] = id_
            with self.subTest(path=path), self.probe(changed) as probe:
                self.assertIsNone(probe.refused)

    def test_a_vocabulary_that_does_not_hold_together_is_refused(self):
        vocab = SMALL["model"]["vocab"]
        n = len(vocab)
        merge = SMALL["model"]["merges"][0]
        left, right = merge.split(" ")
        free = max(token["id"] for token in SMALL["added_tokens"]) + 1
        cases = [
            (("model", "vocab", "e"), vocab["t"], "two tokens"), (("model", "vocab", "e"), Ellipsis, "no token has the id"),
            (("model", "vocab", "e"), -1, "a whole number"), (("model", "vocab", "e"), 1.5, "a whole number"),
            (("model", "vocab", "e"), 1 << 40, "id"), (("model", "vocab", "e"), "1", "a whole number"),
            (("model", "vocab", "\u2581x"), free, "not written as bytes"), (("model", "vocab", ""), free, "0 bytes"),
            (("model", "merges", 0), "e", "not two tokens"), (("model", "merges", 0), "e t a", "not two tokens"),
            (("model", "merges", 0), merge + "zzz", "does not have"), (("model", "merges", 0), ["e"], "two tokens"),
            (("model", "merges", 0), [left, right, "e"], "two tokens"), (("model", "merges", 0), 5, "an array"),
            (("model", "merges", 1), merge, "twice"), (("model", "vocab", left + right), Ellipsis, "no token has the id"),
            (("added_tokens", 4, "content"), "<think>", "twice"), (("added_tokens", 4, "id"), n, "two tokens"),
            (("added_tokens", 4, "id"), 0, "two tokens"), (("added_tokens", 0, "content"), "else", "two tokens"),
            (("added_tokens", 4, "content"), "e", "the same text"),
            (("added_tokens", 5, "content"), left + right, "the same text"),
            (("added_tokens", 4, "id"), free + 3, "no token has the id"), (("added_tokens", 4, "id"), 1 << 33, "\"id\""),
        ]
        for path, value, expected in cases:
            with self.subTest(path=path, value=value):
                self.refused_json(with_key(SMALL, path, value), expected)

    def test_another_models_tokenizer_names_both_numbers(self):
        n = len(SMALL["model"]["vocab"]) + len(make_fixture.ADDED)
        with self.probe(SMALL, vocab=n) as probe:
            self.assertEqual((probe.refused, probe.n_ids), (None, n))
        for rows in (n - 1, n + 1, 129280):
            self.refused_json(SMALL, f"{n} tokens", f"{rows} rows", vocab=rows)

    def test_files_that_are_not_all_there(self):
        path = self.folder / "tokenizer.json"
        whole = v4.write(SMALL, path).read_bytes()
        for length in {*range(0, len(whole) - 1, 613), 1, len(whole) - 1}:
            path.write_bytes(whole[:length])
            self.refused(path, "not all there")
        for number in list(re.finditer(rb": \d{3}", whole))[20:200:10]:  # the beginning of an id is one, too
            path.write_bytes(whole[:number.end() - 1])
            self.refused(path, "not all there")
        for value in (b"true", b"false", b"null", b"-1.5e-7"):  # cut inside of one
            for length in range(1, len(value)):
                end = value[:length]
                path.write_bytes(b'{"version": ' + end)
                self.refused(path, "not all there")
        path.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
        self.refused(path, "git-lfs")
        path.unlink()
        self.refused(path, "tokenizer.json")
        path.mkdir()
        self.refused(path, "no regular file")

    def test_hostile_json(self):
        path = self.folder / "tokenizer.json"
        text = json.dumps(SMALL)
        cases = [
            (b"[" * 100000, "an object"), (b'{"version":' + b"[" * 100000, "less nesting"),
            (b'{"version":' + b"[" * DEEPEST + b"]" * DEEPEST + b",", "a string"), (b"\x00", "an object"),
            (text.encode() + b"x", "the end"), (text.encode() + b"\x00", "the end"),
            (text.replace('"e":', '"\\u0000":').encode(), "an escape"), (text.replace('"e":', '"\\ud800":').encode(), "an escape"),
            (text.replace('"e":', '"\\udc00":').encode(), "an escape"), (text.replace('"e":', '"\xff":').encode("latin-1"), "UTF-8"),
            (text.replace('"e":', '"\n":').encode(), "rest of a string"), (text.replace('"e":', '"\\x":').encode(), "an escape"),
            (text.replace('"e":', '"e"').encode(), "':'"), (text.replace('"e": ', '"e": 0').encode(), "a whole number"),
            (text.replace('"version": "1.0"', '"version": 01').encode(), "a number"),
            (text.replace('"version": "1.0"', '"version": tru').encode(), "a value"),
            (text.replace('"version": "1.0"', '"decoder": null').encode(), "decoder"),
            (text.replace('"version": "1.0"', '"truncation": null').encode(), "twice"),
        ]
        for data, expected in cases:
            path.write_bytes(data)
            with self.subTest(data=data[:60]):
                self.refused(path, expected)


class Checkpoints(TextTest):
    """Which tokenizer a folder or a file has."""

    def test_bytes_are_for_small_vocabularies_without_a_tokenizer(self):
        for vocab in (256, 320, 512):
            with Probe(_options.probe, self.folder, vocab) as probe:
                self.assertEqual((probe.refused, probe.n_ids), (None, vocab))
                self.assertEqual(probe.encode(b"a\xff"), [97, 255])
                self.assertEqual(probe.kinds([255, 256, vocab - 1]), [1, 0 if vocab > 256 else 0, 1 if vocab == 256 else 0])
        for vocab in (513, 129280):
            self.refused(self.folder, "is missing", str(vocab), vocab=vocab)
        self.refused(self.folder, "255", vocab=255)

    def test_a_tokenizer_that_cannot_be_read_is_not_passed_over(self):
        path = self.folder / "tokenizer.json"
        os.symlink("nowhere.json", path)
        self.refused(self.folder, "a link to a file that is not there", vocab=320)
        path.unlink()
        os.symlink("tokenizer.json", path)
        self.refused(self.folder, "tokenizer.json", vocab=320)
        path.unlink()
        path.write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
        self.refused(self.folder, "git-lfs", vocab=320)
        path.write_bytes(b"")
        self.refused(self.folder, "empty", vocab=320)


class Gguf(TextTest):
    def keys(self, described=None, **changes):
        tokens, types, merges = v4.gguf_keys(described or SMALL)
        values = {
            "general.architecture": gguf.text("deepseek4"), "tokenizer.ggml.model": gguf.text("gpt2"),
            "tokenizer.ggml.pre": gguf.text("joyai-llm"), "tokenizer.ggml.tokens": gguf.array(map(gguf.text, tokens)),
            "tokenizer.ggml.token_type": gguf.array(map(gguf.i32, types)),
            "tokenizer.ggml.merges": gguf.array(map(gguf.text, merges))}
        for name, value in changes.items():
            values["tokenizer.ggml." + name] = value
        return {key: value for key, value in values.items() if value is not None}

    def write(self, keys):
        path = self.folder / "model.gguf"
        gguf.write(str(path), keys, [("x.weight", (1, 32), "F32", bytes(128))])
        return path

    def n_ids(self):
        return len(SMALL["model"]["vocab"]) + len(make_fixture.ADDED)

    def test_ids_are_those_of_the_same_tokenizer_json(self):
        for pre in ("joyai-llm", "deepseek-v3"):
            path = self.write(self.keys(pre=gguf.text(pre)))
            with self.probe(SMALL) as from_json, Probe(_options.probe, path, self.n_ids()) as probe:
                self.assertEqual((probe.refused, probe.n_ids), (None, self.n_ids()))
                for text in texts.make(11, 300, MARKERS):
                    for added in (False, True):
                        self.assertEqual(probe.encode(text, added), from_json.encode(text, added), text)

    def test_any_part_of_a_split_file_has_the_tokenizer_of_the_first(self):
        tensor = lambda name: (name, (1, 32), "F32", bytes(128))
        paths = gguf.write_split(str(self.folder / "m"), self.keys(), [[tensor("a.weight")], [tensor("b.weight")],
                                                                       [tensor("c.weight")]])
        with self.probe(SMALL) as from_json:
            expected = from_json.encode("eta <think>", True)
        for path in paths:
            with Probe(_options.probe, path, self.n_ids()) as probe:
                self.assertEqual((probe.refused, probe.encode("eta <think>", True)), (None, expected))

    def test_fewer_tokens_than_rows_are_padding_and_more_an_error(self):
        path = self.write(self.keys())
        with Probe(_options.probe, path, self.n_ids() + 7) as probe:
            self.assertEqual(probe.n_ids, self.n_ids() + 7)
            self.assertEqual(probe.kinds([self.n_ids() - 1, self.n_ids(), self.n_ids() + 6]), [2, 0, 0])
        self.refused(path, f"{self.n_ids()} tokens", f"{self.n_ids() - 1} rows", vocab=self.n_ids() - 1)

    def test_unused_tokens_have_no_text(self):
        tokens, types, _ = v4.gguf_keys(SMALL)
        path = self.write(self.keys(tokens=gguf.array(map(gguf.text, tokens + ["[PAD1]", "[PAD2]"])),
                                    token_type=gguf.array(map(gguf.i32, types + [5, 5]))))
        with Probe(_options.probe, path, self.n_ids() + 2) as probe:
            self.assertEqual(probe.kinds([self.n_ids() + 1]), [0])
            self.assertEqual(probe.decode([self.n_ids(), *probe.encode("e")]), b"e")
            self.assertNotIn(self.n_ids(), probe.encode("[PAD1]", True))

    def test_other_kinds_and_damage_are_named(self):
        tokens, types, merges = v4.gguf_keys(SMALL)
        as_texts = lambda values: gguf.array(map(gguf.text, values))
        cases = [
            ({"model": gguf.text("llama")}, "tokenizer.ggml.model", "llama"), ({"model": gguf.u32(1)}, "tokenizer.ggml.model"),
            ({"pre": gguf.text("gpt-2")}, "tokenizer.ggml.pre", "gpt-2"), ({"pre": None}, "tokenizer.ggml.pre"),
            ({"model": None}, "tokenizer.ggml.model"),
            ({"tokens": None}, "tokenizer.ggml.tokens"), ({"token_type": None}, "tokenizer.ggml.token_type"),
            ({"merges": None}, "tokenizer.ggml.merges"), ({"tokens": gguf.text("a")}, "an array"),
            ({"merges": gguf.array([gguf.u32(1)])}, "an array of strings"),
            ({"token_type": gguf.array(map(gguf.i32, types[1:]))}, "token_type", str(len(types) - 1)),
            ({"token_type": gguf.array(map(gguf.i32, [6] + types[1:]))}, "type 6"),
            ({"token_type": gguf.array(map(gguf.i32, [-1] + types[1:]))}, "type"),
            ({"tokens": as_texts([tokens[1]] + tokens[1:])}, "twice"), ({"tokens": as_texts([b"\xff"] + tokens[1:])}, "bytes"),
            ({"tokens": as_texts([""] + tokens[1:])}, "0 bytes"), ({"merges": as_texts(merges + merges[:1])}, "twice"),
            ({"merges": as_texts(["zz zz"])}, "does not have"), ({"merges": as_texts(["e"])}, "not two tokens"),
            ({"model": gguf.text("none")}, "tokenizer.ggml.model", "none"),
            ({"pre": gguf.text("joyai-llm\0")}, "\"joyai-llm?\""), ({"model": gguf.text("gp\0t2")}, "\"gp?t2\""),
            ({"tokens": as_texts([*tokens[:-1], tokens[1]])}, "the same text"),
        ]
        for changes, *expected in cases:
            with self.subTest(changes=list(changes), expected=expected):
                self.refused(self.write(self.keys(**changes)), *expected, vocab=self.n_ids())

    def test_none_is_a_vocabulary_of_bytes_or_nothing(self):
        for model in (gguf.text("none"), None):
            path = self.write({key: value for key, value in self.keys(model=model).items()
                               if key in ("general.architecture", "tokenizer.ggml.model")})
            with Probe(_options.probe, path, 320) as probe:
                self.assertEqual((probe.refused, probe.encode("a")), (None, [97]))
            self.refused(path, "is missing", vocab=129280)


if __name__ == "__main__":
    unittest.main(argv=[sys.argv[0], *_rest])
