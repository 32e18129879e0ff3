"""kvfold tokenize, and the commands that take text with a tokenizer.json."""

import json
import os
import random
import shutil
import subprocess

from support import CliTest, KVFOLD, MODEL, main

FIXTURE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "text", "fixture", "tokenizer.json")
THINK, USER = 308, 310  # of FIXTURE


class TokenizeTest(CliTest):
    def checkpoint(self, name="model", tokenizer=FIXTURE):
        """MODEL with a tokenizer of as many ids."""
        os.mkdir(self.path(name))
        for file in os.listdir(MODEL):
            os.symlink(os.path.join(MODEL, file), os.path.join(self.path(name), file))
        if tokenizer:
            os.symlink(tokenizer, os.path.join(self.path(name), "tokenizer.json"))
        return self.path(name)

    def ids(self, *arguments, **options):
        return [int(line) for line in self.good("tokenize", *arguments, **options).stdout.split()]

    def decode(self, ids, model=FIXTURE):
        return self.good("tokenize", "-m", model, "--decode", stdin="\n".join(map(str, ids)).encode()).stdout


class Command(TokenizeTest):
    def test_text_in_three_ways(self):
        text = "haooee eehaoo, \u00e9t\u00e9 \u4e2d\u6587\n"
        expected = self.ids("-m", FIXTURE, "-p", text)
        self.assertGreater(len(expected), 5)
        self.assertLess(len(expected), len(text.encode()))
        self.assertEqual(self.ids("-m", FIXTURE, "-f", self.write("t", text)), expected)
        self.assertEqual(self.ids("-m", FIXTURE, stdin=text.encode()), expected)
        self.assertEqual(self.ids("-m", FIXTURE, "-f", "-", stdin=text.encode()), expected)
        self.assertEqual(self.decode(expected), text.encode())

    def test_of_a_folder_with_and_without_weights(self):
        expected = self.ids("-m", FIXTURE, "-p", "eat")
        self.assertEqual(self.ids("-m", self.checkpoint(), "-p", "eat"), expected)
        os.mkdir(self.path("small"))
        os.symlink(FIXTURE, self.path("small/tokenizer.json"))
        os.symlink(os.path.join(MODEL, "config.json"), self.path("small/config.json"))
        self.assertEqual(self.ids("-m", self.path("small"), "-p", "eat"), expected)
        self.assertEqual(self.ids("-m", MODEL, "-p", "eat"), list(b"eat"))

    def test_added_tokens_are_found_where_that_is_asked_for(self):
        self.assertNotIn(THINK, self.ids("-m", FIXTURE, "-p", "<think>"))
        self.assertEqual(self.ids("-m", FIXTURE, "-p", "<think>", "--special"), [THINK])
        self.assertEqual(self.decode([THINK, 256]), "<think><\uff5cbegin\u2581of\u2581sentence\uff5c>".encode())

    def test_json(self):
        text = "eat \u00e9"
        record = json.loads(self.good("tokenize", "-m", FIXTURE, "-p", text, "--json").stdout)
        self.assertEqual(record, {"ids": self.ids("-m", FIXTURE, "-p", text)})
        back = self.good("tokenize", "-m", FIXTURE, "--decode", "--json", "-p", str(record["ids"])[1:-1]).stdout
        self.assertEqual(json.loads(back), {"text": text})
        self.assertEqual(json.loads(self.good("tokenize", "-m", FIXTURE, "-p", "", "--json").stdout), {"ids": []})

    def test_ids_have_anything_between_them(self):
        self.assertEqual(self.good("tokenize", "-m", MODEL, "--decode", "-p", " 104,\t105\r\n,33 ").stdout, b"hi!")
        self.assertEqual(self.good("tokenize", "-m", MODEL, "--decode", "-p", "").stdout, b"")
        # Half a character shows that it is one.
        self.assertEqual(self.good("tokenize", "-m", MODEL, "--decode", "-p", "195 104 195").stdout.decode(), "\ufffdh\ufffd")

    def test_ids_of_other_systems_and_what_is_none(self):
        for data in (b"104\r\n105\r\n", b"\xef\xbb\xbf104 105", b"\xef\xbb\xbf\n104\r105"):
            self.assertEqual(self.good("tokenize", "-m", MODEL, "--decode", stdin=data).stdout, b"hi", data)
        for data, shown in ((b"104\x00105", "'104?105'"), ("104".encode("utf-16"), "'??1?0?4?'"), (b"1\x1b[m", "'1?[m'"),
                            (b"104 \xef\xbb\xbf105", "'\ufeff105'")):
            self.refused(shown + " is not a token id", "tokenize", "-m", MODEL, "--decode", stdin=data)

    def test_bytes_that_are_no_text_have_ids(self):
        data = bytes(random.Random(1).choices(range(256), k=2000))
        ids = self.ids("-m", FIXTURE, stdin=data)
        with open(FIXTURE, encoding="utf-8") as file:
            self.assertLess(max(ids), len(json.load(file)["model"]["vocab"]))
        self.assertEqual(self.decode(ids).decode(), data.decode(errors="replace"))

    def test_what_is_wrong_is_said(self):
        for arguments, expected in [
                (("-m", FIXTURE, "-p", "a", "-f", "b"), "-p and -f"), (("-p", "a"), "no model"),
                (("-m", FIXTURE, "--decode", "-p", "320"), "'320'"), (("-m", FIXTURE, "--decode", "-p", "1 x"), "'x'"),
                (("-m", FIXTURE, "--decode", "-p", "-1"), "'-1'"),
                (("-m", FIXTURE, "--decode", "-p", "99999999999999999999999"), "is not a token id"),
                (("-m", FIXTURE, "--decode", "--special", "-p", "1"), "--special"),
                (("-m", FIXTURE, "-f", "nowhere"), "nowhere"), (("-m", self.path("nowhere")), "nowhere"),
                (("-m", self.path("nowhere.json"), "-p", "a"), "nowhere.json"), (("-m", FIXTURE, "-p", "a", "--csv"), "--csv"),
                (("-m", FIXTURE, "--decode=5"), "takes no value")]:
            self.refused(expected, "tokenize", *arguments)
        self.refused("--decode", "verify", "-m", MODEL, "--decode")

    def test_output_that_would_go_into_the_input_is_refused(self):
        for arguments in (("-f", "t"), (), ("-p", "a")):
            copy = shutil.copy(FIXTURE, self.path("tokenizer.json"))
            name = copy if "-p" in arguments else self.write("t", "eat")
            with open(self.path("t") if arguments == () else FIXTURE, "rb") as stdin, open(name, "ab") as stdout:
                result = subprocess.run([KVFOLD, "tokenize", "-m", copy, *arguments], cwd=self.folder, stdin=stdin,
                                        stdout=stdout, stderr=subprocess.PIPE, check=False)
            self.assertEqual(result.returncode, 2, arguments)
            self.assertIn(b"which is read", result.stderr)

    def test_a_tokenizer_that_is_not_that_of_the_model(self):
        with open(FIXTURE, encoding="utf-8") as file:
            described = json.load(file)
        last = described["added_tokens"].pop()
        other = self.write("other.json", json.dumps(described))
        model = self.checkpoint(tokenizer=other)
        for arguments in (("tokenize", "-m", model, "-p", "a"), ("run", "-m", model, "-p", "a", "--raw"),
                          ("score", "-m", model, "-f", self.write("t", "a text")), ("verify", "-m", model, "--ctx", "1k")):
            message = self.refused("another model's tokenizer", *arguments)
            self.assertIn(str(last["id"]), message)
            self.assertIn("320", message)

    def test_a_tokenizer_that_is_not_there_is_never_one_of_bytes(self):
        with open(FIXTURE, "rb") as file:
            half = self.write("h.json", file.read()[:4000])
        pointer = self.write("p.json", "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 6367146\n")
        for name, target in (("dangling", "nowhere.json"), ("pointer", pointer), ("half", half)):
            model = self.checkpoint(name, target)
            for arguments in (("tokenize", "-m", model, "-p", "a"), ("run", "-m", model, "-p", "a"),
                              ("score", "-m", model, "-f", self.write("t", "a text"))):
                self.assertIn("tokenizer.json", self.refused("tokenizer.json", *arguments))


class WithAModel(TokenizeTest):
    """models/tiny knows nothing of these tokens: what comes out is nonsense, and the same as by ids."""

    def test_ids_that_end_a_text_are_no_text(self):
        model = self.checkpoint()
        with open(os.path.join(MODEL, "config.json"), encoding="utf-8") as file:
            config = json.load(file)
        for changes, expected in (({"bos_token_id": 5}, "the bos_token_id is 5"), ({"eos_token_id": 319}, None),
                                  ({"eos_token_id": [257, 0]}, "the eos_token_id is 0"), ({"eos_token_id": []}, None)):
            for name in ("config.json", "generation_config.json"):
                os.remove(os.path.join(model, name)) if os.path.lexists(os.path.join(model, name)) else None
            self.write("model/config.json", json.dumps({**config, **changes}))
            if not expected:
                self.good("run", "-m", model, "--raw", "-p", "a", "-n", 2)
                continue
            for arguments in (("run", "--raw", "-p", "a"), ("score", "-f", self.write("t", "a text"))):
                self.assertIn("token of plain text", self.refused(expected, arguments[0], "-m", model, *arguments[1:]))
            self.good("run", "-m", model, "--ids", self.write("ids", "1\n2\n"), "-n", 2)

    def test_run_takes_text_as_it_takes_ids(self):
        model = self.checkpoint()
        text = "the tea \u4e2d <think>"
        ids = [256, *self.ids("-m", model, "-p", text)]
        self.assertNotIn(THINK, ids)
        answered = self.json_lines("run", "-m", model, "--raw", "-p", text, "-n", 20)[0]
        by_ids = self.json_lines("run", "-m", model, "--ids", self.write("ids", "\n".join(map(str, ids))), "-n", 20)[0]
        self.assertEqual(answered["tokens"], by_ids["tokens"])
        self.assertEqual(answered["prompt_tokens"], len(ids))
        self.assertEqual(answered["text"].encode(), self.decode(answered["tokens"]))
        self.assertIsNone(by_ids["text"])
        streamed = self.good("run", "-m", model, "--raw", "-p", text, "-n", 20).stdout
        self.assertEqual(streamed, answered["text"].encode() + b"\n")

    def test_a_streamed_answer_is_whole_characters(self):
        model = self.checkpoint()
        for seed in range(3):
            options = ("run", "-m", model, "--raw", "-p", "eat", "-n", 40, "--temperature", 5, "--seed", seed)
            record = self.json_lines(*options)[0]
            streamed = self.good(*options).stdout.decode()
            self.assertEqual(streamed.replace("\0", "\ufffd"), record["text"] + "\n")  # cJSON has no NUL

    def test_without_raw_a_text_is_a_turn_of_a_conversation(self):
        model = self.checkpoint()
        n_raw, n_turn = (self.json_lines("run", "-m", model, *raw, "-p", "eat", "-n", "1")[0]["prompt_tokens"]
                         for raw in (["--raw"], []))
        self.assertEqual(n_turn, n_raw + 3)  # who speaks, who answers and how

    def test_a_conversation_and_a_session(self):
        model = self.checkpoint()
        first = self.json_lines("run", "-m", model, "--raw", "-p", "eat the tea", "-n", 5, "--store", "s", "--session", "a")[0]
        again = self.json_lines("run", "-m", model, "--raw", "-p", " and", "-n", 5, "--store", "s", "--session", "a")[0]
        self.assertEqual(again["resumed_tokens"], first["prompt_tokens"] + 5)
        self.assertEqual(again["prompt_tokens"], len(self.ids("-m", model, "-p", " and")))
        said = self.good("run", "-m", model, "--raw", "-i", "-n", 4, stdin=b"eat\nthe tea\n/stats\n").stdout.decode()
        n_tokens = 1 + len(self.ids("-m", model, "-p", "eat")) + 4 + len(self.ids("-m", model, "-p", "\nthe tea")) + 4
        self.assertIn(f"{n_tokens} of ", said)

    def test_a_prompt_is_measured_in_tokens(self):
        model = self.checkpoint()
        text = "haooee ooe " * 40
        n = len(self.ids("-m", model, "-p", text)) + 1
        self.assertLess(n, len(text))
        self.good("run", "-m", model, "--raw", "-p", text, "--ctx", n + 1, "-n", 1)
        self.refused("--ctx", "run", "-m", model, "--raw", "-p", text, "--ctx", n - 1, "-n", 1)
        self.refused("--ctx", "run", "-m", model, "--raw", "-f", self.write("t", text * 100), "--ctx", 8, "-n", 1)

    def test_score_reads_text_as_it_reads_ids(self):
        model = self.checkpoint()
        text = "".join(random.Random(2).choices(["haooee ", "the", " tea\n", "\u4e2d\u6587", "12 ", "<think>", ".\n\n", "  ", "\u00e9"],
                                                k=400))
        ids = self.ids("-m", model, "-p", text)
        by_text = self.json_lines("score", "-m", model, "-f", self.write("t", text), "--window", 129)[0]
        windows = [ids[at:at + 128] for at in range(0, len(ids), 128)]
        self.assertEqual(by_text["dropped"], len(windows[-1]))
        with_bos = [id_ for window in windows[:-1] for id_ in [256, *window]]
        by_ids = self.json_lines("score", "-m", model, "--ids", self.write("i", "\n".join(map(str, with_bos))),
                                 "--window", 129)[0]
        for key in ("windows", "tokens", "bytes", "nats", "bits_per_byte"):
            self.assertEqual(by_text[key], by_ids[key], key)
        with open(FIXTURE, encoding="utf-8") as file:  # a character of a token's writing is a byte
            lengths = {id_: len(token) for token, id_ in json.load(file)["model"]["vocab"].items()}
        self.assertEqual(by_text["bytes"], sum(lengths[id_] for window in windows[:-1] for id_ in window))

    def test_score_of_a_text_that_is_longer_than_a_block(self):
        model = self.checkpoint()
        # Around 64 KiB, where it is read in parts: what a part alone would encode otherwise.
        text = "o" * 65520 + " 123456haooee\n\n  \u4e2d\u6587"
        self.assertLess(len(text.encode()) - (1 << 16), 30)
        ids = self.ids("-m", model, "-f", self.write("t", text))
        record = self.json_lines("score", "-m", model, "-f", self.path("t"), "--window", 512)[0]
        windows = len(ids) // 511
        self.assertEqual((record["windows"], record["dropped"]), (windows, len(ids) - windows * 511))
        with_bos = [id_ for at in range(windows) for id_ in [256, *ids[at * 511:at * 511 + 511]]]
        by_ids = self.json_lines("score", "-m", model, "--ids", self.write("i", "\n".join(map(str, with_bos))),
                                 "--window", 512)[0]
        self.assertEqual(record["nats"], by_ids["nats"])

    def test_verify_takes_text(self):
        lines = self.json_lines("verify", "-m", self.checkpoint(), "--ctx", 200, "--profiles", "fold", "--decode", 3)
        self.assertEqual([line["differing_logits"] for line in lines], [0] * len(lines))

    def test_a_session_is_shown_without_its_tokenizer(self):
        model = self.checkpoint()
        self.good("run", "-m", model, "--raw", "-p", "eat", "-n", 3, "--store", "s", "--session", "a")
        self.assertIn(b"ends with", self.good("session", "show", "a", "--store", "s").stdout)


if __name__ == "__main__":
    main()
