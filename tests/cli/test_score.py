#!/usr/bin/env python3
"""kvfold score: its figures, ids, logits and refusals, Ctrl-C.

usage: test_score.py --kvfold PATH --model DIR [unittest's own arguments]
"""

import array
import math
import os
import shutil
import signal

from support import MODEL, PATIENCE_SECONDS, VOCABULARY, CliTest, main, wait_until

BOS = 256


class ScoreTest(CliTest):
    TEXT = b"It was a calm night, and the lamp turned; nobody on the shore was awake to see it. "

    def test_the_figures_follow_from_the_logits(self):
        text = self.write("text", self.TEXT)
        window, n_bytes = 32, len(self.TEXT)
        n_windows = n_bytes // (window - 1)
        line = self.json_lines("score", "-m", MODEL, "-f", text, "--window", window, "--chunk", "9",
                               "--logits", "out.f32")[0]
        self.assertEqual(line["windows"], n_windows)
        self.assertEqual(line["dropped"], n_bytes % (window - 1))
        self.assertEqual(line["bytes"], n_windows * (window - 1))
        logits = array.array("f")
        with open(self.path("out.f32"), "rb") as file:
            logits.frombytes(file.read())
        self.assertEqual(len(logits), n_windows * window * VOCABULARY)
        nats = 0.0
        for position in range(n_windows * window):
            w, t = divmod(position, window)
            if t + 1 < window:
                row = logits[position * VOCABULARY:(position + 1) * VOCABULARY]
                nats += math.log(math.fsum(map(math.exp, row)))
                nats -= row[self.TEXT[w * (window - 1) + t]]
        self.assertAlmostEqual(line["nats"], nats / line["tokens"], places=9)
        self.assertAlmostEqual(line["perplexity"], math.exp(nats / line["tokens"]), places=6)
        self.assertAlmostEqual(line["bits_per_byte"], nats / math.log(2) / line["bytes"], places=9)
        self.assertLess(line["bits_per_byte"], 6)  # it did read the text
        self.assertEqual(sorted(os.listdir(self.folder)), ["out.f32", "text"])

    def test_ids_mean_the_same_as_the_text(self):
        text = self.write("text", self.TEXT)
        ids = self.write("ids", "".join(f"{i}\n" for i in [BOS, *self.TEXT]))
        by_text = self.json_lines("score", "-m", MODEL, "-f", text, "--logits", "a.f32")[0]
        by_ids = self.json_lines("score", "-m", MODEL, "--ids", ids, "--logits", "b.f32")[0]
        for line in (by_text, by_ids):
            del line["tps"]
        self.assertEqual(by_text, by_ids)
        with open(self.path("a.f32"), "rb") as a, open(self.path("b.f32"), "rb") as b:
            self.assertEqual(a.read(), b.read())

    def test_ids_may_come_from_any_system(self):
        ids = [str(i) for i in [BOS, *self.TEXT]]
        score = ["score", "-m", MODEL, "--ids"]

        def nats(content):
            return self.json_lines(*score, self.write("ids", content))[0]["nats"]

        plain = nats("\n".join(ids) + "\n")
        for end in ("\n", "\r\n", "\r"):
            for mark in ("", "\ufeff"):
                self.assertEqual(nats(mark + end.join(ids) + end), plain)
                self.assertEqual(nats(mark + end.join(ids)), plain)
        self.assertEqual(nats("\n".join("0" * 50 + i for i in ids)), plain)

    def test_what_is_dropped_is_said(self):
        text = self.write("text", self.TEXT)
        output = self.good("score", "-m", MODEL, "-f", text, "--window", 32).stdout.decode()
        self.assertRegex(output, rf"{len(self.TEXT) % 31} bytes dropped at the end")
        self.assertRegex(output, r"bits per byte +\d\.\d{4}\n")
        rows = self.csv_lines("score", "-m", MODEL, "-f", text)
        self.assertEqual(rows[0]["dropped"], "0")  # shorter than a window: one window

    def test_bad_ids_are_named_by_line_and_leave_no_file(self):
        for line, shown, content in (
                (2, "x", "256\nx\n"), (2, "320", "256\n320\n"), (1, "-1", "-1\n"),
                (3, "", "1\n2\n\n3\n"), (1, "1 2", "1 2\n"), (2, "2?3", "1\r2\0003\r4"),
                (2, "9" * 44 + "...", "1\n" + "9" * 60 + "\n"), (3, "1e2", "1\r\n2\r\n1e2\r\n"),
                (2, "0x10", "1\n0x10\n"), (2, "+5", "1\n+5\n"), (2, "5 ", "1\n5 \n")):
            ids = self.write("ids", content)
            self.refused(f"line {line}, '{shown}', is not a token id", "score", "-m", MODEL,
                         "--ids", ids, "--logits", "out.f32")
        self.refused("2 are needed", "score", "-m", MODEL, "--ids", self.write("ids", "256\n"))
        self.refused("empty", "score", "-m", MODEL, "-f", self.write("text", ""))
        self.assertEqual(sorted(os.listdir(self.folder)), ["ids", "text"])

    def test_blocks_of_a_file_of_ids_end_anywhere(self):
        block = 65536  # as much is read at once
        for end in ("\n", "\r\n", "\r"):
            # Every place in a line, and in the one that is none, is a block's end once.
            for zeros in range(1, len("12" + end) + 1):
                lines = ["0" * zeros + "7", *["12"] * (block // len("12" + end))]
                ids = self.write("ids", end.join([*lines, "12 34", "5", ""]))
                self.refused(f"line {len(lines) + 1}, '12 34', is not", "score", "-m", MODEL, "--ids",
                             ids)
            start = "8" + end
            for before in range(6):
                first = "0" * (block - before - len(start) - len("1" + end)) + "1" + end
                ids = self.write("ids", first + start + "12 34" + end)
                self.assertEqual(os.path.getsize(ids), block - before + 5 + len(end))
                self.refused("line 3, '12 34', is not", "score", "-m", MODEL, "--ids", ids)
        self.refused("line 1, '??5', is not", "score", "-m", MODEL, "--ids",
                     self.write("ids", b"\xef\xbb5\n6\n"))
        self.refused("line 1, '???5', is not", "score", "-m", MODEL, "--ids",
                     self.write("ids", b"\xef\xbb\xbf\xef\xbb\xbf5\n6\n"))
        self.refused("is empty", "score", "-m", MODEL, "--ids", self.write("ids", b"\xef\xbb\xbf"))

    def test_logits_that_cannot_be_written_are_refused_and_an_old_file_survives(self):
        text = self.write("text", self.TEXT)
        score = ["score", "-m", MODEL, "-f", text, "--logits"]
        self.refused("nosuchfolder", *score, "nosuchfolder/out.f32")
        self.refused("not a regular file", *score, "/dev/null")
        old = self.write("out.f32", "old")
        os.truncate(shutil.copytree(MODEL, self.path("copy")) + "/model-00001-of-00003.safetensors",
                    99)
        self.refused("model-00001", "score", "-m", "copy", "-f", text, "--logits", "out.f32")
        with open(old, "rb") as file:
            self.assertEqual(file.read(), b"old")
        self.assertEqual(sorted(os.listdir(self.folder)), ["copy", "out.f32", "text"])


class InterruptTest(CliTest):
    def test_score_leaves_no_file(self):
        text = self.write("text", b"tide " * 40000)
        process = self.start("score", "-m", MODEL, "-f", text, "--chunk", "16", "--logits", "o.f32")
        wait_until(lambda: any(
            name.startswith("o.f32.") and os.path.getsize(self.path(name)) > 0
            for name in os.listdir(self.folder)))
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=PATIENCE_SECONDS)
        self.assertEqual(process.returncode, 130)
        self.assertEqual(output, b"")
        self.assertIn(b"interrupted; no logits were written", errors)
        self.assertEqual(os.listdir(self.folder), ["text"])


if __name__ == "__main__":
    main()
