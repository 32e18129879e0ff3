#!/usr/bin/env python3
"""The kvfold binary as its users see it: options, messages, exit statuses, tables, files, Ctrl-C.

usage: test_cli.py --kvfold PATH --model DIR [unittest's own arguments]

Needs nothing but Python's standard library. DIR is models/tiny; its vocabulary is bytes and
a few special ids.
"""

import argparse
import array
import csv
import io
import json
import math
import os
import pty
import re
import select
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time
import unittest
import xml.etree.ElementTree

KVFOLD = None  # set by main
MODEL = None
PATIENCE_SECONDS = 60  # for anything that should take a moment

PROFILES = ["legacy", "tiled", "packed", "fold"]
COMMANDS = ["run", "verify", "score", "plan"]
VOCABULARY = 320
BOS = 256

# docs/FORMAT.md 8: session bytes of DeepSeek-V4-Flash.
FORMAT_TABLE = {
    8192: (136750476, 91399564, 71912844, 44759436),
    16384: (249505164, 158803340, 119829900, 73580940),
    32768: (475014540, 293610892, 215664012, 131223948),
    65536: (926033292, 563225996, 407332236, 246509964),
    1048576: (14456595852, 8651679116, 6157378956, 3705090444),
}

VERIFY_KEYS = [
    "ctx", "profile", "isa", "backend", "session_bytes", "reduction", "scratch_peak_bytes",
    "max_abs_logit_diff", "compared_logits", "differing_logits", "inexact_rows", "argmax_equal",
    "prefill_tps", "decode_tps",
]
PLAN_KEYS = [
    "ctx", "profile", "session_bytes", "allocated_bytes", "snapshot_bytes", "scratch_bytes",
    "total_bytes", "checkpoint_bytes", "chunk_undo_bytes", "buffers",
]
RUN_KEYS = [
    "ctx", "profile", "isa", "backend", "resumed_tokens", "prompt_tokens", "answer_tokens", "ended",
    "prefill_tps", "decode_tps", "session_bytes", "tokens", "text",
]


def one_thread(arguments):
    """Arguments with --threads 1 put first: quick on a machine that is busy with other tests."""
    command, *rest = map(str, arguments)
    return [command, "--threads", "1", *rest] if command in COMMANDS else [command, *rest]


def environment(changes=None):
    """This process's environment without kvfold's own variables, plus changes."""
    clean = {name: value for name, value in os.environ.items()
             if not name.startswith(("DS4_", "KVFOLD_"))}
    clean.update(changes or {})
    return clean


class CliTest(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.mkdtemp(prefix="kvfold-cli-")
        self.addCleanup(shutil.rmtree, self.folder)

    def path(self, name):
        return os.path.join(self.folder, name)

    def write(self, name, data):
        with open(self.path(name), "wb") as file:
            file.write(data if isinstance(data, bytes) else data.encode())
        return self.path(name)

    def kvfold(self, *arguments, env=None, stdin=b""):
        command = [KVFOLD, *one_thread(arguments)] if arguments else [KVFOLD]
        return subprocess.run(command, input=stdin, cwd=self.folder, env=environment(env),
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE, check=False,
                              timeout=10 * PATIENCE_SECONDS)

    def good(self, *arguments, **options):
        result = self.kvfold(*arguments, **options)
        self.assertEqual(result.returncode, 0, result.stderr.decode())
        return result

    def json_lines(self, *arguments, **options):
        output = self.good(*arguments, "--json", **options).stdout.decode()
        return [json.loads(line) for line in output.splitlines()]

    def refused(self, expected, *arguments, **options):
        """Exit status 2, nothing on stdout, one line on stderr that has `expected` in it."""
        result = self.kvfold(*arguments, **options)
        message = result.stderr.decode()
        self.assertEqual(result.returncode, 2, f"{arguments}: {message}")
        self.assertEqual(result.stdout, b"", arguments)
        self.assertEqual(message.count("\n"), 1, message)
        self.assertTrue(message.startswith("kvfold: "), message)
        self.assertIn(expected, message)


class HelpTest(CliTest):
    def test_overview_names_every_command(self):
        for arguments in (["help"], ["--help"], ["-h"]):
            text = self.good(*arguments).stdout.decode()
            for command in COMMANDS:
                self.assertIn(f"\n  {command} ", text)

    def test_version_is_the_headers(self):
        header = os.path.join(os.path.dirname(os.path.abspath(__file__)), "../../include/kvfold.h")
        with open(header, encoding="utf-8") as file:
            numbers = re.findall(r"#define KVF_VERSION_(?:MAJOR|MINOR|PATCH) (\d+)", file.read())
        self.assertEqual(self.good("--version").stdout.decode(), f"kvfold {'.'.join(numbers)}\n")

    def test_every_command_explains_its_options_and_gives_examples(self):
        own = {
            "run": ["--prompt", "--file", "--interactive", "--max-tokens", "--temperature",
                    "--top-p", "--min-p", "--seed", "--ctx", "--grid", "--isa", "--threads"],
            "verify": ["--profiles", "--ctx", "--file", "--csv", "--isa", "--backend"],
            "score": ["--window", "--ids", "--logits", "--grid", "--csv", "--isa"],
            "plan": ["--memory", "--weights", "--svg", "--buffers", "--csv", "--ctx"],
        }
        for command, options in own.items():
            text = self.good(command, "--help").stdout.decode()
            self.assertEqual(text, self.good("help", command).stdout.decode())
            self.assertEqual(text, self.good(command, "-h").stdout.decode())
            self.assertIn("Examples\n", text)
            for option in options + ["--model", "--profile", "--chunk", "--json", "--help"]:
                self.assertIn(option, text, command)
            self.assertLessEqual(max(map(len, text.splitlines())), 92)


class UsageTest(CliTest):
    def test_unknown_words_are_named_with_the_nearest_known_one(self):
        self.refused("no command")
        self.refused("did you mean run?", "rnu")
        self.refused("'frobnicate'", "frobnicate")
        self.refused("did you mean --version?", "--versoin")
        self.refused("did you mean verify?", "help", "verfy")
        self.refused("--modle; did you mean --model?", "run", "--modle", "x")
        self.refused("--chnuk; did you mean --chunk?", "plan", "--chnuk=4")
        self.refused("unknown option --frobnicate", "score", "--frobnicate")
        self.refused("unknown option -q", "run", "-q")

    def test_options_are_used_as_they_are_meant(self):
        self.refused("--model needs a value", "run", "-m")
        self.refused("--json takes no value", "plan", "--json=yes")
        self.refused("--svg does not apply here; it belongs to kvfold plan", "run", "--svg", "a")
        self.refused("ambiguous", "run", "--m", "x")
        self.refused("unexpected argument 'surplus'", "plan", "-m", "v4-flash", "surplus")
        self.refused("no model", "run", "-p", "x")
        self.refused("choose one", "plan", "-m", "v4-flash", "--json", "--csv")
        self.refused("choose one", "plan", "-m", "v4-flash", "--profile=fold", "--profiles=fold")
        self.refused("no prompt", "run", "-m", MODEL)
        self.refused("-p and -f", "run", "-m", MODEL, "-p", "a", "-f", "b")
        self.refused("standard input", "run", "-m", MODEL, "-i", "-f", "-")
        self.refused("--json", "run", "-m", MODEL, "-i", "--json")
        self.refused("no text", "score", "-m", MODEL)
        self.refused("-f and --ids", "score", "-m", MODEL, "-f", "a", "--ids", "b")
        self.refused("--temperature above 0", "run", "-m", MODEL, "-p", "a", "--top-p", "0.5")
        self.refused("--memory", "plan", "-m", "v4-flash", "--weights", "1G")
        self.refused("--grid off needs --profile legacy", "run", "-m", MODEL, "-p", "a",
                     "--grid", "off", "--profile", "fold")
        self.refused("neither 'on' nor 'off'", "run", "-m", MODEL, "-p", "a", "--grid", "of")

    def test_sizes_are_strict(self):
        for text in ("", "k", "-1", "+8k", " 8k", "8 k", "8kk", "8kB", "0x10", "1e3", "8.5k", "8k,",
                     ",8k", "8k,,16k", "1_000"):
            self.refused("--ctx", "plan", "-m", "v4-flash", "--ctx", text)
        for text in ("0", "18446744073709551616", "99999999999999999999k", "16777216T"):
            self.refused("outside 1 .. 1T", "plan", "-m", "v4-flash", "--ctx", text)
        self.refused("outside 1 .. 64k", "plan", "-m", "v4-flash", "--chunk", "65537")
        self.refused("outside 1 .. 4k", "run", "-m", MODEL, "-p", "a", "--threads", "0")
        self.refused("at most 1 context", "run", "-m", MODEL, "-p", "a", "--ctx", "1k,2k")
        self.refused("at most 64 context", "plan", "-m", "v4-flash", "--ctx", ",".join(["1k"] * 65))
        for text in ("-1", "nan", "inf", "1e9", "", ".", "0.5.5", "1,5"):
            self.refused("--temperature", "run", "-m", MODEL, "-p", "a", "--temperature", text)
        self.refused("outside 0 .. 1", "run", "-m", MODEL, "-p", "a", "--temperature", "1",
                     "--top-p", "1.1")

    def test_suffixes_are_powers_of_1024_in_either_case(self):
        lines = self.json_lines("plan", "-m", "v4-flash", "--profile", "fold", "--ctx",
                                "8k,8K,8192,1M,1m,1048576")
        self.assertEqual([line["ctx"] for line in lines], [8192] * 3 + [1048576] * 3)

    def test_unknown_names_list_what_there_is(self):
        self.refused("legacy, tiled, packed, fold", "run", "-m", MODEL, "-p", "a", "--profile", "x")
        self.refused("'bar'", "verify", "-m", MODEL, "--profiles", "fold,bar")
        self.refused("mmx", "verify", "-m", MODEL, "--isa", "mmx")
        self.refused("KVFOLD_ISA", "verify", "-m", MODEL, env={"KVFOLD_ISA": "mmx"})
        self.refused("cpu, ref", "run", "-m", MODEL, "-p", "a", "--backend", "abacus")

    def test_missing_files_are_named(self):
        for command in COMMANDS:
            text = {"run": ["-p", "a"], "score": ["-f", "x"]}.get(command, [])
            self.refused("nosuchmodel", command, "-m", "nosuchmodel", *text)
        for command in ("run", "verify", "score"):
            self.refused("nosuchtext", command, "-m", MODEL, "-f", "nosuchtext")
        self.refused("nosuchids", "score", "-m", MODEL, "--ids", "nosuchids")

    def test_control_characters_stay_out_of_messages(self):
        self.refused("'a?b'", "a\nb")

    @unittest.skipUnless(os.path.exists("/dev/full"), "a Linux device")
    def test_full_stdout_is_reported(self):
        with open("/dev/full", "wb") as full:
            result = subprocess.run([KVFOLD, "help"], stdout=full, stderr=subprocess.PIPE,
                                    env=environment(), check=False)
        self.assertEqual(result.returncode, 2)
        self.assertIn(b"standard output", result.stderr)


class PlanTest(CliTest):
    def test_session_bytes_equal_the_format_to_the_byte(self):
        lines = self.json_lines("plan", "-m", "v4-flash", "--ctx",
                                ",".join(map(str, FORMAT_TABLE)))
        got = {(line["ctx"], line["profile"]): line["session_bytes"] for line in lines}
        expected = {(ctx, profile): held for ctx, row in FORMAT_TABLE.items()
                    for profile, held in zip(PROFILES, row)}
        self.assertEqual(got, expected)

    def test_json_has_the_documented_keys_and_totals_that_add_up(self):
        lines = self.json_lines("plan", "-m", "v4-flash", "--ctx", "1000,1M")
        self.assertEqual(len(lines), 8)
        for line in lines:
            self.assertEqual(list(line), PLAN_KEYS)
            for buffer in line["buffers"]:
                self.assertEqual(list(buffer), ["name", "dtype", "shape", "bytes"])
            self.assertEqual(sum(b["bytes"] for b in line["buffers"]), line["total_bytes"])
            self.assertGreater(line["total_bytes"], line["allocated_bytes"] + line["scratch_bytes"])
            self.assertGreaterEqual(line["allocated_bytes"], line["session_bytes"])

    def test_checkpoints_are_counted_beside_the_totals(self):
        lines = self.json_lines("plan", "-m", "v4-flash", "--ctx", "512,1M", "--profile", "fold")
        rings, halves, logits, state = 43 * 2 * 37440, 21 * 20480, 4 * 129280, 12206080
        for line, count in zip(lines, (4, 8)):
            self.assertEqual(line["checkpoint_bytes"], count * (rings + halves + logits))
            self.assertEqual(line["chunk_undo_bytes"], rings + state + halves + logits)

    def test_scratch_is_what_the_format_promises(self):
        lines = self.json_lines("plan", "-m", "v4-flash", "--ctx", "1M", "--chunk", "4096")
        scratch = {line["profile"]: line["scratch_bytes"] for line in lines}
        self.assertAlmostEqual(scratch["legacy"] / 1e9, 8.59, delta=0.1)
        self.assertAlmostEqual(scratch["packed"] / 1e9, 2.68, delta=0.1)
        self.assertLessEqual(scratch["fold"], 64 << 20)

    def test_default_contexts_end_at_the_models_maximum(self):
        contexts = sorted({line["ctx"] for line in self.json_lines("plan", "-m", "v4-flash")})
        self.assertEqual([c // 1024 for c in contexts], [8, 16, 32, 64, 96, 128, 256, 512, 1024])
        os.mkdir(self.path("short"))
        with open(os.path.join(MODEL, "config.json"), encoding="utf-8") as file:
            config = json.load(file)
        config["max_position_embeddings"] = 40000
        self.write("short/config.json", json.dumps(config))
        contexts = sorted({line["ctx"] for line in self.json_lines("plan", "-m", "short")})
        self.assertEqual(contexts, [8192, 16384, 32768])
        self.refused("40,000", "plan", "-m", "short", "--ctx", "8k,64k")

    def test_csv_has_the_same_numbers(self):
        arguments = ["plan", "-m", "v4-flash", "--ctx", "8k,1M", "--profile", "fold,legacy"]
        lines = self.json_lines(*arguments)
        rows = list(csv.DictReader(io.StringIO(self.good(*arguments, "--csv").stdout.decode())))
        self.assertEqual(list(rows[0]), PLAN_KEYS[:-1])
        self.assertEqual(len(rows), len(lines))
        for row, line in zip(rows, lines):
            self.assertEqual(row, {key: str(line[key]) for key in PLAN_KEYS[:-1]})

    def test_tables_are_aligned_and_buffers_listed(self):
        text = self.good("plan", "-m", "v4-flash", "--ctx", "8k,1M", "--buffers").stdout.decode()
        table = text[text.index("Session bytes"):].splitlines()
        self.assertEqual(len({len(line) for line in table[1:4]}), 1)
        self.assertIn("14,456,595,852", table[3])
        self.assertIn("74.4%", table[3])
        self.assertRegex(text, r"layer\.2\.rows +cache +fp8_f16 +4096 x 64 x 512 +\d")

    def test_largest_context_is_the_largest(self):
        memory, weights = 20 << 30, 3 << 30
        line = next(line for line in self.json_lines(
            "plan", "-m", "v4-flash", "--ctx", "8k", "--profile", "legacy", "--memory", "20G",
            "--weights", "3G") if "largest_ctx" in line)
        self.assertEqual(line["memory_bytes"], memory)
        self.assertEqual(line["weights_bytes"], weights)
        largest = line["largest_ctx"]
        totals = [sum(line[key] for key in ("total_bytes", "checkpoint_bytes", "chunk_undo_bytes"))
                  for line in self.json_lines(
            "plan", "-m", "v4-flash", "--profile", "legacy", "--ctx", f"{largest},{largest + 1}")]
        self.assertLessEqual(totals[0], memory - weights)
        self.assertGreater(totals[1], memory - weights)

    def test_memory_counts_the_checkpoint_and_says_what_does_not_fit(self):
        line = self.json_lines("plan", "-m", MODEL, "--ctx", "1k", "--memory", "1G")[-1]
        files = sum(os.path.getsize(os.path.join(MODEL, name)) for name in os.listdir(MODEL)
                    if name.endswith(".safetensors"))
        self.assertGreater(line["weights_bytes"], 2 * files)
        self.assertLess(line["weights_bytes"], 4 * files)
        text = self.good("plan", "-m", MODEL, "--ctx", "1k", "--memory", "1M").stdout.decode()
        self.assertIn("does not fit", text)

    def test_threads_and_tile_change_scratch_only_where_they_should(self):
        def scratch(*arguments, env=None):
            return {line["profile"]: line["scratch_bytes"] for line in self.json_lines(
                "plan", "-m", "v4-flash", "--ctx", "64k", *arguments, env=env)}
        plain = scratch()
        tiled = scratch(env={"DS4_INDEXER_SCORE_TILE": "1024"})
        for profile in PROFILES:
            more = 512 * (65536 // 4) * 4 if profile in ("tiled", "packed") else 0
            self.assertEqual(tiled[profile] - plain[profile], more, profile)
            self.assertGreater(scratch("--threads", "4")[profile], plain[profile])

    def test_environment_does_not_narrow_a_plan(self):
        lines = self.json_lines("plan", "-m", "v4-flash", "--ctx", "8k",
                                env={"DS4_DISABLE_KV_OPTS": "1"})
        self.assertEqual([line["profile"] for line in lines], PROFILES)

    def test_svg_is_well_formed_with_a_labelled_line_a_profile(self):
        self.good("plan", "-m", "v4-flash", "--ctx", "1M,8k,8k,100000", "--svg", "chart.svg")
        root = xml.etree.ElementTree.parse(self.path("chart.svg")).getroot()
        space = "{http://www.w3.org/2000/svg}"
        lines = root.findall(space + "polyline")
        self.assertEqual([line.get("class") for line in lines], [f"line {p}" for p in PROFILES])
        for line in lines:
            points = [tuple(map(float, point.split(","))) for point in line.get("points").split()]
            self.assertEqual(len(points), 3)
            self.assertEqual(points, sorted(points))  # to the right ..
            self.assertGreater(points[0][1], points[-1][1])  # .. and up
        labels = [text.text for text in root.findall(space + "text")
                  if (text.get("class") or "").startswith("label")]
        self.assertEqual([label.split(",")[0] for label in labels], PROFILES)
        self.assertIn("prefers-color-scheme:dark", root.find(space + "style").text)
        self.assertEqual(os.listdir(self.folder), ["chart.svg"])

    def test_svg_of_one_context_and_of_a_strange_folder_is_well_formed(self):
        strange = self.path("a<b>&\"\N{SNOWMAN}")
        os.symlink(MODEL, strange)
        self.good("plan", "-m", strange, "--ctx", "4k", "--profile", "fold", "--svg", "one.svg")
        root = xml.etree.ElementTree.parse(self.path("one.svg")).getroot()
        self.assertEqual(len(root.findall("{http://www.w3.org/2000/svg}polyline")), 1)

    def test_svg_that_cannot_be_written_leaves_nothing(self):
        result = self.kvfold("plan", "-m", "v4-flash", "--svg", "nosuchfolder/chart.svg")
        self.assertEqual(result.returncode, 2)
        self.assertIn(b"nosuchfolder/chart.svg", result.stderr)
        self.assertEqual(os.listdir(self.folder), [])
        self.assertEqual(self.kvfold("plan", "-m", "v4-flash", "--svg", "/dev/null").returncode, 2)


class EnvironmentTest(CliTest):
    def profile(self, *arguments, **variables):
        line = self.json_lines("run", "-m", MODEL, "-p", "a", "-n", "1", *arguments,
                               env=variables)[0]
        return line["profile"]

    def test_controls_select_the_profiles_of_the_format(self):
        legacy, packed = {"DS4_DISABLE_KV_OPTS": "1"}, {"DS4_METAL_FP8_KV_STORE": "1"}
        self.assertEqual(self.profile(), "fold")
        self.assertEqual(self.profile(**legacy), "legacy")
        self.assertEqual(self.profile(**packed), "packed")
        self.assertEqual(self.profile(**legacy, **packed), "legacy")
        self.assertEqual(self.profile(DS4_DISABLE_KV_OPTS="0", **packed), "packed")
        self.assertEqual(self.profile(DS4_DISABLE_KV_OPTS=""), "fold")

    def test_the_option_wins(self):
        both = {"DS4_DISABLE_KV_OPTS": "1", "DS4_METAL_FP8_KV_STORE": "1"}
        for profile in PROFILES:
            self.assertEqual(self.profile("--profile", profile, **both), profile)

    def test_grid_off_means_legacy_whatever_the_environment_says(self):
        self.assertEqual(self.profile("--grid", "off"), "legacy")
        self.assertEqual(self.profile("--grid", "off", DS4_METAL_FP8_KV_STORE="1"), "legacy")

    def test_nonsense_is_refused_by_name(self):
        for name, value in (("DS4_DISABLE_KV_OPTS", "yes"), ("DS4_METAL_FP8_KV_STORE", "2"),
                            ("DS4_INDEXER_SCORE_TILE", "0"), ("DS4_INDEXER_SCORE_TILE", "many")):
            self.refused(name, "run", "-m", MODEL, "-p", "a", env={name: value})

    def test_the_isa_can_be_forced_and_is_reported(self):
        run = ["run", "-m", MODEL, "-p", "a", "-n", "1"]
        scalar = {"KVFOLD_ISA": "scalar"}
        result = self.good(*run, env=scalar)
        self.assertIn(b"fold on cpu/scalar:", result.stderr)
        self.assertEqual(self.json_lines(*run, "--isa", "scalar")[0]["isa"], "scalar")
        best = self.json_lines(*run)[0]["isa"]
        self.assertEqual(self.json_lines(*run, "--isa", best, env=scalar)[0]["isa"], best)


class RunTest(CliTest):
    def test_the_prompt_comes_from_an_option_a_file_or_standard_input(self):
        text = "The sea is \xe9 ".encode("latin-1")
        answers = []
        file = self.write("prompt", text)
        for source in (["-p", text], ["-f", file], ["-f", "-"]):
            arguments = ["run", "-m", MODEL, "-n", "8", *source]
            result = subprocess.run([KVFOLD, *arguments], input=text, env=environment(),
                                    capture_output=True, check=True)
            answers.append(result.stdout)
            self.assertRegex(result.stderr.decode(),
                             r"^fold on cpu/\w+: 14 \+ 8 tokens, prefill [\d.,]+ tok/s, "
                             r"decode [\d.,]+ tok/s, cache [\d.]+ MB; ended by --max-tokens\n$")
        self.assertEqual(len(set(answers)), 1)

    def test_json_has_the_tokens_and_the_streamed_text(self):
        arguments = ["run", "-m", MODEL, "-p", "In the beginning ", "-n", "12"]
        line = self.json_lines(*arguments)[0]
        self.assertEqual(list(line), RUN_KEYS)
        self.assertEqual(line["prompt_tokens"], 18)
        self.assertEqual(line["answer_tokens"], len(line["tokens"]))
        self.assertEqual(line["ended"], "max_tokens")
        self.assertEqual(line["ctx"], 1024)
        streamed = self.good(*arguments).stdout
        self.assertEqual(bytes(line["tokens"]) + b"\n", streamed)
        self.assertEqual(line["text"] + "\n", streamed.decode(errors="replace"))

    def test_chunks_of_any_size_give_the_whole_prompt(self):
        for chunk in ("1", "7", "4096"):
            line = self.json_lines("run", "-m", MODEL, "-p", "x" * 40, "-n", "2", "--chunk",
                                   chunk)[0]
            self.assertEqual(line["prompt_tokens"], 41)

    def test_equal_seeds_give_equal_answers_and_others_do_not(self):
        def answer(seed):
            return self.json_lines("run", "-m", MODEL, "-p", "Once ", "-n", "24", "--temperature",
                                   "1.5", "--top-p", "0.99", "--min-p", "0.001", "--seed",
                                   seed)[0]["tokens"]
        self.assertEqual(answer(7), answer(7))
        self.assertNotEqual(answer(7), answer(8))

    def test_a_full_context_ends_the_answer(self):
        line = self.json_lines("run", "-m", MODEL, "-p", "tide", "-n", "50", "--ctx", "9")[0]
        self.assertEqual(line["ended"], "context_full")
        self.assertEqual(line["answer_tokens"], 9 - 5 + 1)  # the last needs no place

    def test_prompts_that_do_not_fit_are_refused(self):
        self.refused("the prompt has 5 tokens and --ctx holds 4", "run", "-m", MODEL, "-p", "tide",
                     "--ctx", "4")
        self.refused("more than the model's maximum", "run", "-m", MODEL, "-p", "a", "--ctx", "2M")
        long = self.write("long", b"x" * (1 << 20))
        self.refused("1,048,577 tokens, the model takes at most 1,048,576", "run", "-m", MODEL,
                     "-f", long)

    def test_memory_that_cannot_be_had_is_refused_with_what_would_fit(self):
        machine_bytes = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        if machine_bytes > 100e9:
            self.skipTest("this machine holds what the test asks for")
        huge = ["-m", MODEL, "--chunk", "64k", "--ctx"]
        self.refused("--profile fold needs", "run", *huge, "1M", "-p", "a", "--profile", "legacy")
        self.refused("the largest context that fits is", "verify", *huge, "1000000")

    def test_a_damaged_checkpoint_is_refused(self):
        copy = self.path("copy")
        shutil.copytree(MODEL, copy)
        shard = os.path.join(copy, "model-00002-of-00003.safetensors")
        os.truncate(shard, os.path.getsize(shard) - 1000)
        for command in (["run", "-p", "a"], ["verify"], ["score", "-f", shard]):
            self.refused("model-00002-of-00003.safetensors", command[0], "-m", copy, *command[1:])
        self.write("copy/config.json", "{")
        self.refused("config.json", "plan", "-m", copy)


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
        arguments = ["verify", "-m", MODEL, "--ctx", "64", "--profile", "fold", "--isa", "scalar"]
        text = self.good(*arguments).stdout.decode()
        self.assertIn("cpu/scalar", text)
        self.assertIn("Equal: all 40,960 logits compared have the same bits", text)
        self.assertNotIn("tiled", text)
        rows = list(csv.DictReader(io.StringIO(self.good(*arguments, "--csv").stdout.decode())))
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

    def test_contexts_beyond_the_model_and_empty_texts_are_refused(self):
        self.refused("model's maximum", "verify", "-m", MODEL, "--ctx", "1M")
        self.refused("empty", "verify", "-m", MODEL, "-f", self.write("empty", ""))


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

    def test_what_is_dropped_is_said(self):
        text = self.write("text", self.TEXT)
        output = self.good("score", "-m", MODEL, "-f", text, "--window", 32).stdout.decode()
        self.assertRegex(output, rf"{len(self.TEXT) % 31} bytes dropped at the end")
        self.assertRegex(output, r"bits per byte +\d\.\d{4}\n")
        rows = list(csv.DictReader(io.StringIO(self.good(
            "score", "-m", MODEL, "-f", text, "--csv").stdout.decode())))
        self.assertEqual(rows[0]["dropped"], "0")  # shorter than a window: one window

    def test_bad_ids_are_named_by_line_and_leave_no_file(self):
        for line, content in ((2, "256\nx\n"), (2, "256\n320\n"), (1, "-1\n"), (3, "1\n2\n\n3\n"),
                              (1, "1 2\n"), (2, "1\n99999999999999999999\n")):
            ids = self.write("ids", content)
            self.refused(f"line {line} is not a token id", "score", "-m", MODEL, "--ids", ids,
                         "--logits", "out.f32")
        self.refused("2 are needed", "score", "-m", MODEL, "--ids", self.write("ids", "256\n"))
        self.refused("empty", "score", "-m", MODEL, "-f", self.write("text", ""))
        self.assertEqual(sorted(os.listdir(self.folder)), ["ids", "text"])

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
    def start(self, *arguments):
        process = subprocess.Popen([KVFOLD, *one_thread(arguments)], cwd=self.folder,
                                   env=environment(), stdout=subprocess.PIPE,
                                   stderr=subprocess.PIPE)
        self.addCleanup(process.kill)
        return process

    def test_run_ends_its_answer_and_says_so(self):
        process = self.start("run", "-m", MODEL, "-p", "The ", "-n", "100000")
        first = process.stdout.read(1)
        process.send_signal(signal.SIGINT)
        rest, errors = process.communicate(timeout=PATIENCE_SECONDS)
        self.assertEqual(process.returncode, 130)
        self.assertTrue((first + rest).endswith(b"\n"))
        self.assertRegex(errors.decode(), r"^fold on .*; interrupted\n$")

    def test_score_leaves_no_file(self):
        text = self.write("text", b"tide " * 40000)
        process = self.start("score", "-m", MODEL, "-f", text, "--chunk", "16", "--logits", "o.f32")
        deadline = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < deadline and not any(
                name.startswith("o.f32.") and os.path.getsize(self.path(name)) > 0
                for name in os.listdir(self.folder)):
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=PATIENCE_SECONDS)
        self.assertEqual(process.returncode, 130)
        self.assertEqual(output, b"")
        self.assertIn(b"interrupted; no logits were written", errors)
        self.assertEqual(os.listdir(self.folder), ["text"])

    def test_verify_stops(self):
        process = self.start("verify", "-m", MODEL, "--ctx", "900k", "--chunk", "64", "--json",
                             "--profiles", "fold")
        time.sleep(1)
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=PATIENCE_SECONDS)
        self.assertEqual((process.returncode, output), (130, b""), errors)
        self.assertEqual(errors, b"kvfold: verify: interrupted\n")


class Terminal:
    """kvfold on a terminal of its own, so that Ctrl-C is a key and the bar is drawn."""

    def __init__(self, *arguments):
        self.pid, self.master = pty.fork()
        if self.pid == 0:
            try:
                os.execve(KVFOLD, [KVFOLD, *one_thread(arguments)], environment())
            finally:
                os._exit(127)
        self.seen = b""
        self.status = None

    def wait_for(self, pattern):
        """Reads until the pattern appears, forgets everything up to its end, returns the match."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not (match := re.search(pattern, self.seen)):
            if not self.read(deadline - time.monotonic()):
                raise AssertionError(f"{pattern} did not appear in {self.seen[-2000:]}")
        self.seen = self.seen[match.end():]
        return match

    def read(self, seconds):
        """Reads what there is; false when nothing comes any more."""
        if seconds <= 0 or not select.select([self.master], [], [], seconds)[0]:
            return False
        try:
            data = os.read(self.master, 65536)
        except OSError:  # the other end is closed
            return False
        self.seen += data
        return bool(data)

    def type(self, data):
        os.write(self.master, data)

    def exit_status(self):
        """Reads to the end. The process has closed the terminal then, so it is about to exit."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while self.read(deadline - time.monotonic()):
            pass
        while self.status is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.status = os.waitstatus_to_exitcode(status)
            elif time.monotonic() > deadline:
                raise AssertionError(f"it did not exit; last seen: {self.seen[-2000:]}")
            else:
                time.sleep(0.01)
        return self.status

    def close(self):
        if self.status is None:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
        os.close(self.master)


class ChatTest(CliTest):
    SUMMARY = rb"fold on \S+: (\d+) \+ (\d+) tokens, [^\r\n]*; ([^\r\n]*)\r\n"

    def chat(self, *arguments):
        terminal = Terminal("run", "-m", MODEL, "-i", *arguments)
        self.addCleanup(terminal.close)
        return terminal

    def test_turns_share_one_session_until_it_is_reset(self):
        chat = self.chat("-n", "4")
        chat.wait_for(rb"> $")
        chat.type(b"one\n")
        turn = chat.wait_for(self.SUMMARY)
        self.assertEqual(turn.group(1, 2), (b"4", b"4"))  # BOS and three bytes
        chat.wait_for(rb"> $")
        chat.type(b"two\n")
        self.assertEqual(chat.wait_for(self.SUMMARY).group(1), b"4")  # a line break and three
        chat.wait_for(rb"> $")
        chat.type(b"/stats\n")
        chat.wait_for(rb"fold on \S+: 16 of 65,536 tokens, cache ")
        chat.type(b"/reset\n")
        chat.wait_for(rb"> $")
        chat.type(b"/stats\n")
        chat.wait_for(rb": 0 of 65,536 tokens")
        chat.type(b"/help\n")
        chat.wait_for(rb"/reset +forget")
        chat.type(b"/frob\n")
        chat.wait_for(rb"unknown command /frob; there are /help")
        chat.type(b"/quit\n")
        self.assertEqual(chat.exit_status(), 0)

    def test_ctrl_c_ends_the_answer_keeps_the_session_and_then_quits(self):
        chat = self.chat("-p", "The sea ", "-n", "60000")
        chat.wait_for(rb"commands\.\r\n")
        chat.wait_for(rb"[a-z]{2}")  # of the answer
        chat.type(b"\x03")
        turn = chat.wait_for(self.SUMMARY)
        self.assertEqual(turn.group(3), b"interrupted")
        held = int(turn.group(1)) + int(turn.group(2))
        chat.wait_for(rb"> $")
        chat.type(b"/stats\n")
        self.assertEqual(int(chat.wait_for(rb": ([\d,]+) of").group(1).replace(b",", b"")), held)
        chat.wait_for(rb"> $")
        chat.type(b"\x03")
        self.assertEqual(chat.exit_status(), 0)

    def test_ctrl_d_leaves(self):
        chat = self.chat()
        chat.wait_for(rb"> $")
        chat.type(b"\x04")
        self.assertEqual(chat.exit_status(), 0)

    def test_a_full_context_is_said_and_the_session_stays(self):
        chat = self.chat("--ctx", "12", "-n", "100")
        chat.wait_for(rb"> $")
        chat.type(b"tide\n")
        self.assertEqual(chat.wait_for(self.SUMMARY).group(3), b"the context is full")
        chat.wait_for(rb"> $")
        chat.type(b"more\n")
        chat.wait_for(rb"context is full: 13 of 12 tokens are held and this turn needs 5; /reset")
        chat.type(b"/reset\n")
        chat.wait_for(rb"> $")
        chat.type(b"tide\n")
        chat.wait_for(self.SUMMARY)
        chat.type(b"/quit\n")
        self.assertEqual(chat.exit_status(), 0)

    def test_piped_turns_need_no_terminal(self):
        result = self.good("run", "-m", MODEL, "-i", "-n", "3", stdin=b"one\ntwo\n")
        self.assertEqual(result.stderr.count(b"fold on"), 2)
        self.assertNotIn(b"> ", result.stdout)


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
        self.assertTrue(after_last_bar.startswith(b" left\r\x1b[K"), after_last_bar[:40])

    def test_nothing_is_drawn_elsewhere(self):
        result = self.good("verify", "-m", MODEL, "--ctx", "64", "--profiles", "fold")
        self.assertEqual(result.stderr, b"")


def main():
    global KVFOLD, MODEL
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kvfold", required=True)
    parser.add_argument("--model", required=True)
    known, rest = parser.parse_known_args()
    KVFOLD = os.path.abspath(known.kvfold)
    MODEL = os.path.abspath(known.model)
    unittest.main(argv=[sys.argv[0], *rest])


if __name__ == "__main__":
    main()
