#!/usr/bin/env python3
"""What all commands of kvfold share: help, options, messages, the environment.

usage: test_cli.py --kvfold PATH --model DIR [unittest's own arguments]
"""

import os
import re
import subprocess
import unittest

from support import COMMANDS, KVFOLD, MODEL, PROFILES, CliTest, environment, main


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
        for text in ("k", "--1", "+8k", " 8k", "8k ", "8 k", "8kk", "8kB", "0x10", "1e3", "8.5k",
                     "0.1k", "8k,", ",8k", "8k,,16k", "1_000", "nan", "inf"):
            self.refused("is not a number", "plan", "-m", "v4-flash", "--ctx", text)
        for text in ("0", "-1", "-8k", "18446744073709551616", "99999999999999999999k",
                     "16777216T"):
            self.refused(f"'{text}' is outside 1 .. 1T", "plan", "-m", "v4-flash", "--ctx", text)
        self.refused("outside 1 .. 64k", "plan", "-m", "v4-flash", "--chunk", "65537")
        self.refused("outside 1 .. ", "run", "-m", MODEL, "-p", "a", "--threads", "0")
        self.refused("at most 1 value", "run", "-m", MODEL, "-p", "a", "--ctx", "1k,2k")
        self.refused("at most 64 values", "plan", "-m", "v4-flash", "--ctx", ",".join(["1k"] * 65))

    def test_fractions_are_decimal_numbers_in_their_range(self):
        def refused(expected, option, text):
            warm = [] if option == "--temperature" else ["--temperature", "1"]
            self.refused(f"{option}: '{text}' {expected}", "run", "-m", MODEL, "-p", "a", *warm,
                         option, text)
        for text in ("nan", "inf", ".", "0.5.5", "1,5", "1e", "1e+", "e3", "0x1", "+1", " 1", "1 "):
            refused("is not a number", "--temperature", text)
        for text in ("-0.5", "-1", "-1e-400", "1e9", "1e400", "100.001"):
            refused("is outside 0 .. 100", "--temperature", text)
        for text in ("1e-50", "1e-400", "0.0001e-45"):
            refused("is nearer to 0", "--min-p", text)
        refused("is outside 0 .. 1", "--top-p", "1.1")
        refused("is outside 0 .. 1", "--min-p", "-1e-3")

    def test_fractions_may_be_written_as_other_programs_write_them(self):
        run = ["run", "-m", MODEL, "-p", "The sea ", "-n", "24", "--seed", "7"]
        plain = self.good(*run, "--temperature", "0.75").stdout
        for text in ("7.5e-1", ".75", "75E-2", "0" * 70 + ".75", "0.75" + "0" * 70, "0.0075e+2"):
            self.assertEqual(self.good(*run, "--temperature", text).stdout, plain, text)
        self.assertNotEqual(self.good(*run, "--temperature", "1.75").stdout, plain)
        self.good("run", "-m", MODEL, "-p", "a", "-n", "1", "--temperature=-0")

    def test_numbers_are_never_cut(self):
        zeros = "0" * 70
        lines = self.json_lines("plan", "-m", "v4-flash", "--profile", "fold", "--ctx",
                                f"{zeros}1024,2k,{zeros}00003k")
        self.assertEqual([line["ctx"] for line in lines], [1024, 2048, 3072])
        for text in (f"{zeros}1024x", f"1k,{zeros}1.5", "9" * 80, f"{zeros}{'9' * 20}"):
            message = self.refused("...' is ", "plan", "-m", "v4-flash", "--ctx", text)
            self.assertLess(len(message), 200)
        lines = self.json_lines("plan", "-m", "v4-flash", "--ctx", "8k", "--memory",
                                f"{zeros}20G", "--weights", f"{zeros}3G")
        self.assertEqual(lines[-1]["memory_bytes"], 20 << 30)
        self.assertEqual(lines[-1]["weights_bytes"], 3 << 30)
        self.refused(f"'{'x' * 40}", "plan", "-m", "v4-flash", "--profiles", "fold," + "x" * 100)
        self.refused("'fold" + " " * 36, "bench", "--profiles", "fold" + " " * 60 + "!")

    def test_an_empty_value_is_refused_wherever_a_name_is_wanted(self):
        options = {
            "run": ["--model", "--backend", "--isa", "--profile", "--file", "--session", "--store"],
            "verify": ["--model", "--backend", "--isa", "--profiles", "--file"],
            "score": ["--model", "--backend", "--isa", "--profile", "--file", "--ids", "--logits"],
            "plan": ["--model", "--backend", "--profiles", "--svg", "--ctx"],
            "bench": ["--model", "--backend", "--isa", "--profiles", "--stage", "--svg"],
            "session": ["--store"],
        }
        for command, names in options.items():
            for name in names:
                self.refused(f"{name}: the value is empty", command, name, "")
        self.refused("--model: the value is empty", "run", "-m", "", "-p", "a")
        self.refused("--isa: the value is empty", "run", "-m", MODEL, "-p", "a", "--isa=")

    def test_an_option_is_not_taken_for_the_value_before_it(self):
        self.refused("--model needs a value; --json is an option", "plan", "-m", "--json")
        self.refused("--file needs a value; --ids is an option", "score", "--file", "--ids", "x")
        self.refused("--json/config.json", "plan", "--model=--json")
        self.refused("--frob/config.json", "plan", "-m", "--frob")  # a folder's name, if odd
        self.good("run", "-m", MODEL, "-n", "1", "-p", "--json")  # a prompt is any text

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
        self.refused("cpu, ref", "plan", "-m", "v4-flash", "--backend", "abacus")

    def test_missing_files_are_named(self):
        for command in COMMANDS:
            text = {"run": ["-p", "a"], "score": ["-f", "x"]}.get(command, [])
            self.refused("nosuchmodel", command, "-m", "nosuchmodel", *text)
        for command in ("run", "verify", "score"):
            self.refused("nosuchtext", command, "-m", MODEL, "-f", "nosuchtext")
        self.refused("nosuchids", "score", "-m", MODEL, "--ids", "nosuchids")

    def test_control_characters_stay_out_of_messages(self):
        self.refused("'a?b'", "a\nb")

    def test_control_characters_stay_out_of_headings(self):
        os.symlink(MODEL, self.path("a\x1b[1mb"))
        self.write("t\x1b[2mu", "text")
        for arguments in (["plan", "--ctx", "8"], ["bench", "--quick", "--stage", "pack"],
                          ["verify", "--ctx", "8", "--decode", "1", "-f", "t\x1b[2mu"],
                          ["verify", "--ctx", "8", "--decode", "1", "--chunks", "1,8"]):
            shown = self.good(arguments[0], "-m", "a\x1b[1mb", *arguments[1:]).stdout
            self.assertNotIn(b"\x1b", shown, arguments)
            self.assertIn(b"a?[1mb", shown, arguments)
            self.assertEqual(b"t?[2mu" in shown, "-f" in arguments, shown)

    @unittest.skipUnless(os.path.exists("/dev/full"), "a Linux device")
    def test_full_stdout_is_reported(self):
        with open("/dev/full", "wb") as full:
            result = subprocess.run([KVFOLD, "help"], stdout=full, stderr=subprocess.PIPE,
                                    env=environment(), check=False)
        self.assertEqual(result.returncode, 2)
        self.assertIn(b"standard output", result.stderr)


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


if __name__ == "__main__":
    main()
