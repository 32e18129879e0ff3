#!/usr/bin/env python3
"""A conversation at true width with V4's vocabulary: saved, resumed, taken back, interrupted.

usage: test_conversation_npm.py --kvfold PATH --make PATH --downloads DIR [unittest's arguments]

The model has one layer of each kind and few experts, of random weights: what it says is tokens from anywhere
in the vocabulary. It takes 3 GB of disk and a minute.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tests" / "text"), str(ROOT / "tests" / "oracle")]
import npm_packages
import snapshot
import v4

_parser = argparse.ArgumentParser()
for _name in ("--kvfold", "--make", "--downloads"):
    _parser.add_argument(_name, required=True, type=os.path.abspath)
for _name in ("--open", "--step"):
    _parser.add_argument(_name, help="of other tests")
OPTIONS, UNITTEST_ARGUMENTS = _parser.parse_known_args()
BAR = v4.BAR
BOS, EOS = (f"<{BAR}{word}{v4.SPACE}of{v4.SPACE}sentence{BAR}>" for word in ("begin", "end"))
USER, ASSISTANT, THINK, END_THINK = f"<{BAR}User{BAR}>", f"<{BAR}Assistant{BAR}>", "<think>", "</think>"
QUESTIONS = ["Why is the sea salt?", "\u6d77\u4e3a\u4ec0\u4e48\u662f\u54b8\u7684\uff1f 12345", "Et l'\u00e9t\u00e9 ?"]


class Conversation(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        described = v4.load(OPTIONS.downloads)
        cls.special = {token["id"] for token in described["added_tokens"] if token["special"]}
        cls.holder = tempfile.TemporaryDirectory(prefix="kvfold-conversation-npm-")
        cls.folder = Path(cls.holder.name)
        cls.model = cls.folder / "model"
        subprocess.run([OPTIONS.make, "--form", "deepseek", "--experts", "8", cls.model], check=True,
                       stdout=subprocess.DEVNULL)
        v4.write(described, cls.model / "tokenizer.json")
        (cls.model / "generation_config.json").write_text(json.dumps(
            {"bos_token_id": 0, "eos_token_id": 1, "do_sample": True, "temperature": 1.0, "top_p": 0.98}),
            encoding="ascii")

    @classmethod
    def tearDownClass(cls):
        cls.holder.cleanup()

    def arguments(self, name, *more):
        return [OPTIONS.kvfold, "run", "-m", self.model, "--store", self.folder / "s", "--session", name, *more]

    def run_it(self, *command, text=""):
        result = subprocess.run([str(word) for word in command], input=text.encode(), capture_output=True,
                                timeout=300, check=False)
        self.assertEqual(result.returncode, 0, result.stderr.decode())
        return result

    def record(self, name, *more):
        return json.loads(self.run_it(*self.arguments(name, "--json", *more)).stdout)

    def ids(self, text):
        """Markers in it are tokens."""
        result = self.run_it(OPTIONS.kvfold, "tokenize", "-m", self.model, "--special", "--json", text=text)
        return json.loads(result.stdout)["ids"]

    def decoded(self, ids):
        result = self.run_it(OPTIONS.kvfold, "tokenize", "-m", self.model, "--decode",
                             text="\n".join(map(str, ids)))
        return result.stdout.decode()

    def held(self, name):
        data = (self.folder / f"s/{name}.kvfold").read_bytes()
        header = snapshot.choose_header(data)
        tokens = b""
        for part in range(header.n_parts):
            at = header.index_offset + 16 * header.n_layers + 48 * part
            stream, _, _, _, _, _, offset, size, _ = snapshot.PART.unpack_from(data, at)
            if stream == snapshot.TOKENS:
                tokens += data[offset:offset + size]
        return [int.from_bytes(tokens[4 * i:4 * i + 4], "little") for i in range(header.n_tokens)]

    def test_turns_are_saved_resumed_and_taken_back(self):
        expected = []
        states = []
        for no, question in enumerate(QUESTIONS):
            thinks = no == 1
            system = ["--system", "Be brief."] if no == 0 else []
            record = self.record("talk", "-p", question, "-n", "24", *system, "--think" if thinks else "--no-think")
            expected += self.ids((EOS if expected else BOS + "Be brief.") + USER + question + ASSISTANT +
                                 (THINK if thinks else END_THINK)) + record["tokens"]
            self.assertEqual(self.held("talk"), expected)
            self.assertEqual(record["answer_tokens"], 24)
            if not any(id_ in self.special for id_ in record["tokens"]):
                self.assertEqual(record["text"], self.decoded(record["tokens"]))
            if thinks and END_THINK not in record["text"]:
                self.assertEqual((record["reasoning"], record["content"]), (record["text"], ""))
            states.append(list(expected))
        self.assertGreater(len(set(expected)), 60)  # it says many things
        self.run_it(*self.arguments("talk", "-i"), text="/undo\n/stats\n")
        self.assertEqual(self.held("talk"), states[1])
        record = self.record("talk", "-n", "9")  # the answer before goes on, in its mode
        self.assertEqual(self.held("talk"), states[1] + record["tokens"])
        self.run_it(*self.arguments("talk", "-i"), text="/undo\n/undo\n")
        self.assertEqual(self.held("talk"), [])

    def test_an_answer_that_is_interrupted(self):
        command = [str(word) for word in self.arguments("cut", "-p", QUESTIONS[0], "-n", "4000", "--seed", "5")]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0)
        shown = b""
        while len(shown) < 60:
            shown += process.stdout.read(1)
        process.send_signal(signal.SIGINT)
        rest, errors = process.communicate(timeout=120)
        self.assertEqual(process.returncode, 130, errors.decode())
        prompt = self.ids(BOS + USER + QUESTIONS[0] + ASSISTANT + END_THINK)
        held = self.held("cut")
        self.assertEqual(held[:len(prompt)], prompt)
        answer = [id_ for id_ in held[len(prompt):] if id_ not in self.special]
        self.assertEqual((shown + rest).decode(), self.decoded(answer) + "\n")
        record = self.record("cut", "-p", QUESTIONS[1], "-n", "3")
        self.assertEqual(self.held("cut"), held + self.ids(EOS + USER + QUESTIONS[1] + ASSISTANT + END_THINK) +
                         record["tokens"])

    def test_a_stop_inside_of_a_token(self):
        """Every text of the answer's middle: what is shown is what is held."""
        whole = self.record("whole", "-p", QUESTIONS[2], "-n", "16", "--seed", "7")["text"]
        characters = [c for c in whole if c != "\ufffd"]
        for no, stop in enumerate(characters[8:20:3]):
            record = self.record(f"stop{no}", "-p", QUESTIONS[2], "-n", "16", "--seed", "7", "--stop", stop)
            self.assertEqual((record["ended"], record["text"]), ("stop", whole[:whole.index(stop)]))
            prompt = self.ids(BOS + USER + QUESTIONS[2] + ASSISTANT + END_THINK)
            held = self.held(f"stop{no}")
            self.assertEqual(held, prompt + record["tokens"])
            self.assertEqual(self.decoded([i for i in record["tokens"] if i not in self.special]),
                             record["text"])


if __name__ == "__main__":
    try:
        v4.packages(OPTIONS.downloads)
    except npm_packages.Missing as missing:
        npm_packages.skip(missing)
    unittest.main(argv=[sys.argv[0], *UNITTEST_ARGUMENTS])
