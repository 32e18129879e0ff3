#!/usr/bin/env python3
"""How a run can end: what was shown is what its session holds, and a second Ctrl-C ends it at once.

usage: test_endings.py --kvfold PATH --model DIR [unittest's own arguments]
"""

import fcntl
import json
import os
import shutil
import signal
import subprocess
import time

from support import (KVFOLD, MODEL, PATIENCE_SECONDS, Terminal, environment, main, one_thread,
                     wait_until)
from test_sessions import PAGE, SENTENCE, SessionTest

PROMPT = "Once upon a time"
N_PROMPT = 1 + len(PROMPT)  # with BOS
SAMPLED = ["--temperature", "1.2", "--top-p", "0.95", "--seed", "11"]
LONG = 16 << 10  # tokens that take seconds in one chunk


class EndingTest(SessionTest):
    def run_arguments(self, name, *more):
        return ["run", "-m", MODEL, "--store", "s", "--session", name, *more]

    def uninterrupted(self, n_tokens, *more):
        return self.run_json("-p", PROMPT, "-n", n_tokens, "--ctx", "16k", *more)["tokens"]

    def model_that_ends_at(self, token):
        """The same weights; the ids that end a text are not part of a model's fingerprint."""
        shutil.copytree(MODEL, self.path("ends"))
        path = self.path("ends/generation_config.json")
        with open(path, encoding="utf-8") as file:
            settings = json.load(file)
        self.write("ends/generation_config.json", json.dumps({**settings, "eos_token_id": token}))
        return self.path("ends")

    def expect_held(self, name, shown, *more):
        """`shown` is all that the session holds behind the prompt, and it goes on from there."""
        self.assertEqual(self.show(name)["tokens"], N_PROMPT + len(shown))
        rest = self.run_json("--store", "s", "--session", name, "-n", 10, "--ctx", "16k")
        self.assertEqual(rest["resumed_tokens"], N_PROMPT + len(shown))
        self.assertEqual(shown + rest["tokens"], self.uninterrupted(len(shown) + 10, *more))


class HeldTest(EndingTest):
    def test_a_full_context(self):
        for name, sampler in (("greedy", []), ("sampled", SAMPLED)):
            with self.subTest(name):
                line = self.session(name, "-p", PROMPT, "-n", 50, "--ctx", 30, *sampler)
                self.assertEqual((line["ended"], line["answer_tokens"]),
                                 ("context_full", 30 - N_PROMPT))
                self.expect_held(name, line["tokens"], *sampler)

    def test_a_context_without_a_place_for_an_answer(self):
        line = self.session("a", "-p", PROMPT, "-n", 5, "--ctx", N_PROMPT)
        self.assertEqual((line["ended"], line["tokens"]), ("context_full", []))
        again = self.session("a", "-n", 5, "--ctx", N_PROMPT)
        self.assertEqual((again["ended"], again["tokens"]), ("context_full", []))
        self.expect_held("a", [])

    def test_one_token_and_the_limit_at_the_context_s_end(self):
        line = self.session("a", "-p", PROMPT, "-n", 1, "--ctx", N_PROMPT + 1)
        self.assertEqual((line["ended"], len(line["tokens"])), ("max_tokens", 1))
        self.expect_held("a", line["tokens"])

    def test_a_text_that_the_model_ends(self):
        expected = self.uninterrupted(30)
        line = self.session("plain", "-p", PROMPT, "-n", 30)
        end = line["tokens"].index(ord("c"))
        model = self.model_that_ends_at(ord("c"))
        arguments = ["run", "-m", model, "--store", "s", "--session", "a"]
        first = self.json_lines(*arguments, "-p", PROMPT, "-n", 30)[0]
        self.assertEqual((first["ended"], first["tokens"]), ("eos", expected[:end]))
        # What ends the text is not part of it, so the text ends there again.
        again = self.json_lines(*arguments, "-n", 30)[0]
        self.assertEqual((again["ended"], again["tokens"]), ("eos", []))
        self.expect_held("a", expected[:end])

    def test_signals(self):
        for name, sampler in (("SIGINT", SAMPLED), ("SIGTERM", []), ("SIGHUP", SAMPLED),
                              ("SIGXCPU", []), ("SIGUSR1", SAMPLED), ("SIGALRM", [])):
            with self.subTest(name):
                process = self.start(*self.run_arguments(name, "-p", PROMPT, "-n", 60000, "--ctx",
                                                         "64k", *sampler))
                first = process.stdout.read(7)
                process.send_signal(getattr(signal, name))
                rest, stderr = process.communicate(timeout=PATIENCE_SECONDS)
                self.assertEqual(process.returncode, 130, stderr)
                self.expect_held(name, list((first + rest)[:-1]), *sampler)

    def test_an_interrupt_of_an_answer_as_json(self):
        # Nothing is seen of the answer before its end: it has begun when the prompt is there.
        process = self.start(*self.run_arguments("a", "-p", PROMPT, "-n", 60000, "--ctx", "64k",
                                                 "--json"))
        time.sleep(1.5)
        process.send_signal(signal.SIGINT)
        stdout, stderr = process.communicate(timeout=PATIENCE_SECONDS)
        self.assertEqual(process.returncode, 130, stderr)
        line = json.loads(stdout)
        if line["prompt_tokens"] < N_PROMPT or not line["tokens"]:
            self.skipTest("the machine was too slow to be interrupted in the answer")
        self.expect_held("a", line["tokens"])

    def test_an_output_that_takes_nothing(self):
        """A disk that is full; the answer as text, and as JSON after many tokens."""
        # The last one is longer than what is written at once: its reason comes before its end.
        for name, n, more in (("text", 20, SAMPLED), ("json", 20, ["--json", *SAMPLED]),
                              ("long", 1500, ["--json"])):
            with self.subTest(name), open("/dev/full", "wb") as full:
                result = subprocess.run(
                    [KVFOLD, *one_thread(self.run_arguments(name, "-p", PROMPT, "-n", n, *more))],
                    cwd=self.folder, env=environment(), stdout=full, stderr=subprocess.PIPE,
                    check=False, timeout=PATIENCE_SECONDS)
                self.assertEqual(result.returncode, 2, result.stderr)
                self.assertEqual(result.stderr.count(b"cannot write to standard output: No space"), 1)
                self.expect_held(name, [], *(SAMPLED if SAMPLED[0] in more else []))

    def test_a_reader_that_leaves(self):
        process = self.start(*self.run_arguments("a", "-p", PROMPT, "-n", 60000, "--ctx", "64k"))
        read = b"".join(process.stdout.read(1) for _ in range(5))
        process.stdout.close()
        self.assertIn(b"cannot write to standard output: Broken pipe", process.stderr.read())
        process.stderr.close()
        self.assertEqual(process.wait(PATIENCE_SECONDS), 2)
        held = self.show("a")["tokens"] - N_PROMPT  # the pipe may have held some that nobody read
        expected = self.uninterrupted(held + 5)
        self.assertEqual(list(read), expected[:5])
        self.assertGreaterEqual(held, 5)
        self.assertEqual(self.session("a", "-n", 5)["tokens"], expected[held:])

    def test_an_error_after_a_token_was_shown(self):
        """The token is part of the text although it could not be computed, and comes first later."""
        self.session("a", "-p", 20 * SENTENCE, "-n", 1)
        path = self.path("s/a.kvfold")
        shutil.copy(path, self.path("good"))
        shutil.copy(path, self.path("s/b.kvfold"))
        expected = self.session("b", "-n", 12)["tokens"]
        size = os.path.getsize(path)
        for offset in range(2 * PAGE, size, size // 40):
            shutil.copy(self.path("good"), path)
            self.damage(path, offset)
            result = self.kvfold(*self.run_arguments("a", "-n", 3))
            if result.returncode == 2 and result.stdout:  # of a part that is read when it is needed
                break
        self.assertEqual(result.stdout, bytes(expected[:1]) + b"\n")
        self.assertEqual(result.stderr.count(b"are damaged"), 1, result.stderr)
        self.assertEqual(self.show("a")["tokens"], 1 + len(20 * SENTENCE) + 1 + 1)
        self.damage(path, offset)  # whole again
        rest = self.session("a", "-n", 11)
        self.assertEqual(rest["resumed_tokens"], 1 + len(20 * SENTENCE) + 1 + 1)
        self.assertEqual(rest["tokens"], expected[1:])
        self.session("b", "-n", 1)
        self.session("a", "-n", 1)
        self.assertEqual(self.exported("a"), self.exported("b"))


class TurnTest(EndingTest):
    """The same in a conversation, and what is taken back after it."""

    def talk(self, name, *lines, options=()):
        result = self.good(*self.run_arguments(name, "-i", "-n", 12, *options),
                           stdin="".join(line + "\n" for line in lines).encode())
        return result.stdout.decode().splitlines()

    def test_a_full_context_holds_what_it_shows_and_is_taken_back(self):
        small, large = ("--ctx", 20), ("--ctx", "1k")
        shown = self.talk("full", "Once upon a", options=small)[0]
        self.assertEqual(self.show("full")["tokens"], 20)
        self.assertEqual(len(shown), 20 - 1 - len("Once upon a"))
        self.talk("retried", "Once upon a", "/retry", "/retry", options=small)
        self.assertEqual(self.exported("retried"), self.exported("full"))
        self.talk("undone", "Once upon a", "/undo", options=small)
        self.assertEqual(self.show("undone")["tokens"], 0)
        # With room the conversation goes on as if it had been there all the time.
        self.talk("full", "and", options=large)
        self.talk("whole", "Once upon a", "and", options=(*large, "-n", 8))
        self.talk("parts", "Once upon a", options=(*large, "-n", 8))
        self.talk("parts", "and", options=large)
        self.assertEqual(self.show("full")["tokens"], 20 + len("\nand") + 12)
        self.assertEqual(self.exported("full"), self.exported("parts"))

    def test_a_turn_that_the_model_ends(self):
        model = self.model_that_ends_at(ord("e"))
        lines = self.kvfold("run", "-m", model, "-i", "-n", 50, "--store", "s", "--session", "a",
                            stdin=b"Once upon a\n/retry\nand\n")
        self.assertEqual(lines.stderr.count(b"ended by the model"), 3, lines.stderr)
        first, again, second = lines.stdout.decode().split("\n")[:3]
        self.assertEqual(first, again)
        held = self.json_lines("session", "show", "a", "--store", "s")[0]["tokens"]
        self.assertEqual(held, 1 + len("Once upon a" + first + "\nand" + second))

    def test_a_turn_that_nothing_would_hold_is_told_so(self):
        arguments = ["run", "-m", MODEL, "-i", "-n", "2", "--ctx", "12"]
        for before in (b"", b"one\n"):
            result = self.good(*arguments, stdin=before + b"a turn too long\n")
            self.assertIn(b"tokens and an empty context has 12; shorten it", result.stderr)
            self.assertNotIn(b"/reset", result.stderr)
        result = self.good(*arguments, stdin=b"one two\nthree\n")
        self.assertIn(b"/reset starts anew", result.stderr)


class AgainTest(EndingTest):
    """A second signal ends at once what the first does not."""

    def long_chunk(self, *arguments):
        """A process inside one chunk that takes seconds."""
        self.write("long", (SENTENCE * (1 + LONG // len(SENTENCE)))[:LONG])
        process = self.start(*arguments, "-f", "long", "--chunk", LONG)
        time.sleep(1.5)
        self.assertIsNone(process.poll(), process.stderr)
        return process

    def expect_end(self, process, *signals):
        for number in signals:
            self.assertIsNone(process.poll())
            process.send_signal(number)
            time.sleep(0.3)
        started = time.monotonic()
        _, stderr = process.communicate(timeout=PATIENCE_SECONDS)
        self.assertLess(time.monotonic() - started, 1)
        self.assertEqual(process.returncode, 130, stderr)
        self.assertRegex(stderr, rb"(^|\n)kvfold: ended at once [^\n]*\n$")

    def test_a_prompt_without_a_session(self):
        process = self.long_chunk("run", "-m", MODEL, "-n", 1)
        self.expect_end(process, signal.SIGINT, signal.SIGINT)

    def test_a_session_is_as_it_was_saved_and_nothing_is_left_beside_it(self):
        self.session("a", "-p", "x", "-n", 3)
        before = self.exported("a")
        for signals in ((signal.SIGINT, signal.SIGINT), (signal.SIGTERM, signal.SIGTERM),
                        (signal.SIGTERM, signal.SIGINT)):
            with self.subTest(signals):
                process = self.long_chunk(*self.run_arguments("a", "-n", 1))
                self.assertIn("a.lock", os.listdir(self.path("s")))
                self.expect_end(process, *signals)
                self.assertEqual(os.listdir(self.path("s")), ["a.kvfold"])
                self.assertEqual(self.exported("a"), before)

    def test_score_leaves_no_part_of_its_output(self):
        process = self.long_chunk("score", "-m", MODEL, "--window", LONG, "--logits", "out")
        self.assertEqual(len(os.listdir(self.folder)), 2)
        self.expect_end(process, signal.SIGINT, signal.SIGINT)
        self.assertEqual(os.listdir(self.folder), ["long"])

    def test_the_first_of_another_signal_leaves_nothing_either(self):
        for number in (signal.SIGTERM, signal.SIGQUIT, signal.SIGUSR2):
            process = self.long_chunk("score", "-m", MODEL, "--window", LONG, "--logits", "out")
            process.send_signal(number)
            process.communicate(timeout=PATIENCE_SECONDS)
            self.assertEqual(process.returncode, -number)
            self.assertEqual(os.listdir(self.folder), ["long"])

    def test_verify(self):
        process = self.long_chunk("verify", "-m", MODEL, "--ctx", LONG)
        process.send_signal(signal.SIGINT)
        time.sleep(0.3)
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=5)
        self.assertEqual(process.returncode, 130)

    def test_a_terminal_that_closes_may_say_so_twice(self):
        process = self.start(*self.run_arguments("a", "-p", PROMPT, "-n", 60000, "--ctx", "64k"))
        process.stdout.read(1)
        process.send_signal(signal.SIGHUP)
        time.sleep(0.005)  # not as one with the first, and before all is saved
        process.send_signal(signal.SIGHUP)
        _, stderr = process.communicate(timeout=PATIENCE_SECONDS)
        self.assertEqual(process.returncode, 130)
        self.assertIn(b"saved as a", stderr)

    def test_sessions_and_plans_have_nothing_to_finish(self):
        """Each waits for somebody to read its output."""
        self.session("a", "-p", "x", "-n", 1)
        for arguments in (["session", "check", "--store", "s"], ["session", "list", "--store", "s"],
                          ["plan", "-m", MODEL]):
            with self.subTest(arguments):
                reader, writer = os.pipe()
                fcntl.fcntl(writer, fcntl.F_SETFL, os.O_NONBLOCK)
                while True:  # until it takes no more
                    try:
                        os.write(writer, b"x" * 4096)
                    except BlockingIOError:
                        break
                fcntl.fcntl(writer, fcntl.F_SETFL, 0)
                process = subprocess.Popen([KVFOLD, *one_thread(arguments)], cwd=self.folder,
                                           env=environment(), stdout=writer,
                                           stderr=subprocess.PIPE)
                self.addCleanup(process.kill)
                time.sleep(1)
                process.send_signal(signal.SIGINT)
                _, stderr = process.communicate(timeout=PATIENCE_SECONDS)
                self.assertEqual((process.returncode, stderr), (130, b"kvfold: interrupted\n"))
                os.close(reader)
                os.close(writer)

    def test_on_a_terminal_the_next_line_is_a_new_one(self):
        self.write("long", (SENTENCE * (1 + LONG // len(SENTENCE)))[:LONG])
        terminal = Terminal("run", "-m", MODEL, "-f", self.path("long"), "--chunk", LONG)
        self.addCleanup(terminal.close)
        terminal.wait_for(rb"prefill ")
        time.sleep(0.7)  # into the chunk, before which the first would be enough
        terminal.type(b"\x03")
        time.sleep(0.3)
        terminal.type(b"\x03")
        self.assertEqual(terminal.exit_status(), 130)
        self.assertRegex(terminal.seen, rb"\r\nkvfold: ended at once [^\r\n]*\r\n$")


class ChangedTest(EndingTest):
    """Files that others change while they are in use."""

    def chat(self, *arguments):
        shutil.copytree(MODEL, self.path("m"))
        process = subprocess.Popen(
            [KVFOLD, *one_thread(["run", "-m", "m", "-i", "-n", 4, "--store", "s", *arguments])],
            cwd=self.folder, env=environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE)
        self.addCleanup(process.kill)
        return process

    def test_a_model_that_changed_between_two_turns(self):
        process = self.chat("--session", "a")
        process.stdin.write(b"one\n")
        process.stdin.flush()
        self.assertTrue(wait_until(lambda: os.path.exists(self.path("s/a.kvfold"))))
        shard = self.path("m/model-00002-of-00003.safetensors")
        shutil.copy(shard, shard + ".new")
        os.rename(shard + ".new", shard)
        _, stderr = process.communicate(b"two\n", timeout=PATIENCE_SECONDS)
        self.assertEqual(process.returncode, 2)
        self.assertIn(b"the session is not saved: m/model-00002-of-00003.safetensors: has been "
                      b"replaced by another file since it was opened", stderr)
        self.assertEqual(self.show("a")["tokens"], 1 + len("one") + 4)

    def test_a_session_that_is_shortened_while_it_is_in_use(self):
        """Its rows are read from the file when they are needed."""
        self.session("a", "-p", 20 * SENTENCE, "-n", 1)
        process = self.chat("--session", "a")
        process.stderr.readline()  # it was resumed
        os.truncate(self.path("s/a.kvfold"), 0)
        _, stderr = process.communicate(b"two\n", timeout=PATIENCE_SECONDS)
        self.assertEqual(process.returncode, 2, stderr)
        self.assertRegex(stderr, rb"kvfold: [^\n]*shortened[^\n]*\n$")
        self.assertEqual(os.listdir(self.path("s")), ["a.kvfold"])


if __name__ == "__main__":
    main()
