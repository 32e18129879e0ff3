#!/usr/bin/env python3
"""kvfold verify: its figures and tables, what makes it fail, Ctrl-C, the progress bar.

usage: test_verify.py --kvfold PATH --model DIR [unittest's own arguments]
"""

import array
import json
import os
import re
import shutil
import signal
import struct
import time

from support import MODEL, PATIENCE_SECONDS, PROFILES, VOCABULARY, CliTest, Terminal, main

VERIFY_KEYS = [
    "ctx", "profile", "isa", "backend", "threads", "chunk", "session_bytes", "reduction", "scratch_peak_bytes",
    "max_abs_logit_diff", "compared_logits", "differing_logits", "inexact_rows", "argmax_equal",
    "prefill_tps", "decode_tps",
]


def scale_tensor(folder, name, factor):
    """Multiplies one f32 tensor of a checkpoint in place."""
    with open(os.path.join(folder, "model.safetensors.index.json"), encoding="utf-8") as file:
        shard = os.path.join(folder, json.load(file)["weight_map"][name])
    with open(shard, "r+b") as file:
        header_bytes = struct.unpack("<Q", file.read(8))[0]
        tensor = json.loads(file.read(header_bytes))[name]
        assert tensor["dtype"] == "F32"
        start, end = tensor["data_offsets"]
        file.seek(8 + header_bytes + start)
        values = array.array("f", file.read(end - start))
        file.seek(8 + header_bytes + start)
        file.write(array.array("f", [factor * value for value in values]).tobytes())


class VerifyTest(CliTest):
    def test_all_profiles_give_the_same_bits(self):
        lines = self.json_lines("verify", "-m", MODEL, "--ctx", "150,700", "--chunk", "512")
        self.assertEqual([(line["ctx"], line["profile"]) for line in lines],
                         [(ctx, profile) for ctx in (150, 700) for profile in PROFILES])
        plans = {(plan["ctx"], plan["profile"]): plan["session_bytes"]
                 for plan in self.json_lines("plan", "-m", MODEL, "--ctx", "150,700")}
        for line in lines:
            self.assertEqual(list(line), VERIFY_KEYS)
            self.assertEqual(line["session_bytes"], plans[line["ctx"], line["profile"]])
            self.assertEqual(line["differing_logits"], 0)
            self.assertEqual(line["max_abs_logit_diff"], 0)
            self.assertEqual(line["inexact_rows"], 0)
            self.assertIs(line["argmax_equal"], True)
            base = line["profile"] == "legacy"
            self.assertEqual(line["compared_logits"],
                             0 if base else (line["ctx"] + 64) * VOCABULARY)
            legacy = plans[line["ctx"], "legacy"]
            self.assertAlmostEqual(line["reduction"], 1 - line["session_bytes"] / legacy)
            self.assertGreater(line["scratch_peak_bytes"], 0)
            self.assertGreater(min(line["prefill_tps"], line["decode_tps"]), 0)

    def test_the_table_and_csv_report_the_same_and_name_the_isa(self):
        arguments = ["verify", "-m", MODEL, "--ctx", "12", "--decode", "4", "--profile", "fold", "--isa", "scalar"]
        text = self.good(*arguments).stdout.decode()
        self.assertIn("cpu/scalar", text)
        self.assertIn("Equal: all 5,120 logits compared have the same bits", text)
        self.assertNotIn("tiled", text)
        rows = self.csv_lines(*arguments)
        self.assertEqual([row["profile"] for row in rows], ["legacy", "fold"])
        self.assertEqual(list(rows[0]), VERIFY_KEYS)

    def test_a_row_that_f16_cannot_hold_is_counted_and_fails(self):
        """Compressed rows 2^20 times larger: their block scales leave -15..7 (FORMAT.md 7)."""
        copy = self.path("copy")
        shutil.copytree(MODEL, copy)
        scale_tensor(copy, "model.layers.2.attn.compressor.norm.weight", 2.0 ** 20)
        result = self.kvfold("verify", "-m", copy, "--ctx", "150", "--json")
        self.assertEqual(result.returncode, 1, result.stderr.decode())
        lines = {line["profile"]: line
                 for line in map(json.loads, result.stdout.decode().splitlines())}
        self.assertGreater(lines["tiled"]["inexact_rows"], 0)
        self.assertGreater(lines["tiled"]["differing_logits"], 0)
        self.assertGreater(lines["tiled"]["max_abs_logit_diff"], 0)
        for profile in ("packed", "fold"):
            self.assertEqual(lines[profile]["differing_logits"], 0)
        result = self.kvfold("verify", "-m", copy, "--ctx", "150", "--profiles", "tiled")
        self.assertEqual(result.returncode, 1)
        self.assertIn(b"DIFFERENT:", result.stdout)
        self.assertIn(b"rows exactly in f16", result.stdout)

    def test_combinations_are_all_with_all_and_compared_with_the_first(self):
        lines = self.json_lines("verify", "-m", MODEL, "--ctx", "20,33", "--decode", "2",
                                "--chunks", "5,16", "--threads", "2,1", "--profiles", "legacy,fold")
        self.assertEqual([(line["ctx"], line["threads"], line["chunk"], line["profile"])
                          for line in lines],
                         [(ctx, threads, chunk, profile) for ctx in (20, 33) for threads in (2, 1)
                          for chunk in (5, 16) for profile in ("legacy", "fold")])
        for i, line in enumerate(lines):
            self.assertEqual(line["compared_logits"],
                             0 if i % 8 == 0 else (line["ctx"] + 2) * VOCABULARY, line)
            self.assertEqual(line["differing_logits"], 0)

    def test_combinations_are_of_fold_unless_profiles_are_asked_for(self):
        arguments = ["verify", "-m", MODEL, "--ctx", "16", "--decode", "1"]
        text = self.good(*arguments, "--chunks", "3,16").stdout.decode()
        self.assertIn("Equal: all 5,440 logits compared have the same bits as the first "
                      "combination's", text)
        for profile in ("legacy", "tiled", "packed"):
            self.assertNotIn(profile, text)
        rows = self.csv_lines(*arguments, "--threads", "1,2", "--profile", "tiled")
        self.assertEqual([(row["threads"], row["profile"]) for row in rows],
                         [("1", "tiled"), ("2", "tiled")])
        self.assertEqual(list(rows[0]), VERIFY_KEYS)
        text = self.good(*arguments, "--chunks", "3").stdout.decode()
        self.assertIn("Nothing was compared", text)

    def test_all_isas_are_those_of_this_machine_and_the_others_are_named(self):
        result = self.good("verify", "-m", MODEL, "--ctx", "4", "--decode", "1", "--isas", "all",
                           "--json", env={"KVFOLD_ISA": "none"})
        here = [json.loads(line)["isa"] for line in result.stdout.decode().splitlines()]
        known = ["scalar", "avx2", "avx512", "avx512vnni", "neon"]
        self.assertEqual(here, [isa for isa in known if isa in here])
        self.assertIn("scalar", here)
        message = result.stderr.decode()
        self.assertEqual(message.count("\n"), 1, message)
        for isa in known:
            self.assertIs(re.search(rf"\b{isa}\b", message) is None, isa in here, message)
        absent = [isa for isa in known if isa not in here][0]
        self.refused(absent, "verify", "-m", MODEL, "--isas", "scalar," + absent)

    def test_a_combination_that_differs_fails(self):
        """tiled rounds what f16 cannot hold: other bits than legacy in every combination."""
        copy = self.path("copy")
        shutil.copytree(MODEL, copy)
        scale_tensor(copy, "model.layers.2.attn.compressor.norm.weight", 2.0 ** 20)
        result = self.kvfold("verify", "-m", copy, "--ctx", "150", "--decode", "1", "--chunks",
                             "64,150", "--profiles", "legacy,tiled", "--json")
        self.assertEqual(result.returncode, 1, result.stderr.decode())
        for line in map(json.loads, result.stdout.decode().splitlines()):
            self.assertEqual(line["differing_logits"] > 0, line["profile"] == "tiled", line)

    def test_lists_that_make_no_sense_are_refused(self):
        for expected, *arguments in [
                ("--chunk and --chunks", "--chunk", "4", "--chunks", "4"),
                ("--isa and --isas", "--isa", "scalar", "--isas", "all"),
                ("'0' is outside 1 .. 64k", "--chunks", "4,0"),
                ("'' is not a number", "--chunks", "4,"),
                ("at most 16", "--chunks", ",".join(["9"] * 17)),
                ("at most 16", "--threads", ",".join(["1"] * 17)),
                ("'1025' is outside", "--threads", "1,1025"),
                ("no ISA 'sse'", "--isas", "scalar,sse"),
                ("no ISA ''", "--isas", "scalar,")]:
            self.refused(expected, "verify", "-m", MODEL, *arguments)
        self.refused("at most 1 ", "score", "-m", MODEL, "-f", "/dev/null", "--threads", "1,2")

    def test_contexts_beyond_the_model_and_empty_texts_are_refused(self):
        self.refused("model's maximum", "verify", "-m", MODEL, "--ctx", "1M")
        self.refused("empty", "verify", "-m", MODEL, "-f", self.write("empty", ""))


class InterruptTest(CliTest):
    def test_verify_stops(self):
        process = self.start("verify", "-m", MODEL, "--ctx", "900k", "--chunk", "64", "--json",
                             "--profiles", "fold")
        time.sleep(1)
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=PATIENCE_SECONDS)
        self.assertEqual((process.returncode, output), (130, b""), errors)
        self.assertEqual(errors, b"kvfold: verify: interrupted\n")


class ProgressTest(CliTest):
    def test_a_terminal_gets_a_bar_that_is_cleared(self):
        terminal = Terminal("verify", "-m", MODEL, "--ctx", "200", "--profiles", "fold",
                            "--chunk", "16")
        self.addCleanup(terminal.close)
        self.assertEqual(terminal.exit_status(), 0)
        bars = re.findall(rb"(legacy|fold) 200 \[[#.]{24}\] +\d+%  \S+ tok/s  \S+ left",
                          terminal.seen)
        self.assertEqual(set(bars), {b"legacy", b"fold"})
        after_last_bar = terminal.seen[terminal.seen.rindex(b" left"):]
        self.assertRegex(after_last_bar, rb"\A left *\r *\r")
        self.assertNotIn(b"\x1b", terminal.seen)  # a terminal may know no escape sequences

    def test_a_bar_never_wraps_and_leaves_no_rest_behind(self):
        for columns in (1, 17, 0):  # 0: a terminal that does not know its own
            terminal = Terminal("verify", "-m", MODEL, "--ctx", "200", "--profiles", "fold",
                                "--chunk", "16", columns=columns)
            self.addCleanup(terminal.close)
            self.assertEqual(terminal.exit_status(), 0)
            line, most = b"", 0
            for part in re.split(rb"(\r(?!\n))", terminal.seen):
                if b"\n" in part:
                    break  # the table
                line = part + line[len(part):]  # written over what stands there
                most = max(most, len(part))
            self.assertLess(most, columns or 81, columns)
            self.assertEqual(line.strip(), b"", columns)

    def test_nothing_is_drawn_elsewhere(self):
        result = self.good("verify", "-m", MODEL, "--ctx", "64", "--profiles", "fold")
        self.assertEqual(result.stderr, b"")


if __name__ == "__main__":
    main()
