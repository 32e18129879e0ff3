#!/usr/bin/env python3
"""kvfold run: prompts, answers, what is refused, Ctrl-C. Its turns are in test_chat.py.

usage: test_run.py --kvfold PATH --model DIR [unittest's own arguments]
"""

import os
import shutil
import signal
import subprocess

from support import KVFOLD, MODEL, PATIENCE_SECONDS, CliTest, environment, main

RUN_KEYS = [
    "ctx", "profile", "isa", "backend", "resumed_tokens", "prompt_tokens", "answer_tokens", "ended",
    "prefill_tps", "decode_tps", "session_bytes", "tokens", "text",
    "reasoning", "content", "calls",
]


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
        self.assertEqual(line["answer_tokens"], 9 - 5)

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
        message = self.refused("this machine allows", "verify", *huge, "1000000")
        self.assertRegex(message, r"; --ctx \d+k? --chunk \d+ fits\n$")

    def test_a_damaged_checkpoint_is_refused(self):
        copy = self.path("copy")
        shutil.copytree(MODEL, copy)
        shard = os.path.join(copy, "model-00002-of-00003.safetensors")
        os.truncate(shard, os.path.getsize(shard) - 1000)
        for command in (["run", "-p", "a"], ["verify"], ["score", "-f", shard]):
            self.refused("model-00002-of-00003.safetensors", command[0], "-m", copy, *command[1:])
        self.write("copy/config.json", "{")
        self.refused("config.json", "plan", "-m", copy)


class InterruptTest(CliTest):
    def test_run_ends_its_answer_and_says_so(self):
        process = self.start("run", "-m", MODEL, "-p", "The ", "-n", "100000")
        first = process.stdout.read(1)
        process.send_signal(signal.SIGINT)
        rest, errors = process.communicate(timeout=PATIENCE_SECONDS)
        self.assertEqual(process.returncode, 130)
        self.assertTrue((first + rest).endswith(b"\n"))
        self.assertRegex(errors.decode(), r"^fold on .*; interrupted\n$")


if __name__ == "__main__":
    main()
