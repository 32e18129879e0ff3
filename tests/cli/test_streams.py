#!/usr/bin/env python3
"""Standard streams that are closed, shared or of another kind, and lines of other systems.

usage: test_streams.py --kvfold PATH --model DIR [unittest's own arguments]
"""

import itertools
import os
import re
import signal
import subprocess
import sys
import time
import xml.etree.ElementTree

from support import (KVFOLD, MODEL, PATIENCE_SECONDS, VOCABULARY, CliTest, Terminal, environment,
                     main, one_thread)

CLOSINGS = ("<&-", ">&-", "2>&-")
RUN = ("run", "-m", MODEL, "-n", "3")


class ClosedTest(CliTest):
    def closed(self, descriptors, *arguments):
        """kvfold with those of 0, 1, 2 closed that descriptors has."""
        closings = " ".join(CLOSINGS[d] for d in descriptors)
        return subprocess.run(["sh", "-c", f'exec "$@" {closings}', "sh", KVFOLD,
                               *one_thread(arguments)], cwd=self.folder, env=environment(),
                              input=b"tide\n", stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                              check=False, timeout=PATIENCE_SECONDS)

    def each_set(self):
        for n in range(4):
            yield from itertools.combinations(range(3), n)

    def check_message(self, descriptors, result, expected):
        self.assertEqual(result.returncode, 2, descriptors)
        self.assertEqual(result.stdout, b"")
        if 2 not in descriptors:
            self.assertIn(expected, result.stderr)
            self.assertEqual(result.stderr.count(b"\n"), 1, result.stderr)

    def test_a_closed_stream_is_said_by_every_command_that_needs_it(self):
        text = self.write("text", b"The sea was calm, and the boats lay still.\n" * 4)
        reads = ([*RUN, "-f", "-"], [*RUN, "-i"], [*RUN, "-i", "-p", "a"],
                 ["score", "-m", MODEL, "-f", "-"], ["score", "-m", MODEL, "--ids", "-"],
                 ["verify", "-m", MODEL, "-f", "-", "--ctx", "64"])
        writes = ([*RUN, "-p", "a"], [*RUN, "-p", "a", "--json"], ["score", "-m", MODEL, "-f", text],
                  ["verify", "-m", MODEL, "--ctx", "64", "--profiles", "fold"],
                  ["plan", "-m", "v4-flash"], ["plan", "-m", "v4-flash", "--json"],
                  ["help"], ["--version"], ["run", "--help"], ["session", "--help"])
        for descriptors in self.each_set():
            for command in reads:
                if 0 in descriptors:
                    self.check_message(descriptors, self.closed(descriptors, *command),
                                       b"standard input is closed")
            for command in writes if 1 in descriptors else writes[4:]:
                result = self.closed(descriptors, *command)
                if 1 in descriptors:
                    self.check_message(descriptors, result, b"standard output is closed")
                else:
                    self.assertEqual(result.returncode, 0, (descriptors, command, result.stderr))
                    self.assertNotEqual(result.stdout, b"")

    def test_no_file_gets_what_was_meant_for_a_stream(self):
        text = self.write("text", b"The sea was calm, and the boats lay still.\n")
        self.good(*RUN, "-p", "a", "--store", "store", "--session", "one")
        for descriptors in self.each_set():
            if 1 not in descriptors:
                for name, command in (
                        ("a.f32", ["score", "-m", MODEL, "-f", text, "--logits", "a.f32"]),
                        ("a.svg", ["plan", "-m", "v4-flash", "--svg", "a.svg"])):
                    self.assertEqual(self.closed(descriptors, *command).returncode, 0, descriptors)
                    self.assertTrue(os.path.exists(self.path(name)))
                self.assertEqual(os.path.getsize(self.path("a.f32")), 4 * VOCABULARY * 44)
                xml.etree.ElementTree.parse(self.path("a.svg"))
                self.assertEqual(self.closed(descriptors, *RUN, "-p", "b", "--store", "store",
                                             "--session", "one").returncode, 0)
            # A lock is removed at the end; what went into it stays under its other name.
            self.write("store/one.lock", b"")
            os.link(self.path("store/one.lock"), self.path(f"lock{descriptors}"))
            # Refused when everything is open and loaded: the message goes to nobody.
            result = self.closed(descriptors, *RUN, "-p", "x" * 300, "--ctx", "16", "--store",
                                 "store", "--session", "one")
            self.assertEqual(result.returncode, 2)
            self.good("session", "show", "one", "--store", "store")
        for folder, _, names in os.walk(self.folder):
            for name in names:
                with open(os.path.join(folder, name), "rb") as file:
                    content = file.read()
                for message in (b"kvfold: ", b"fold on ", b"resumed ", b"tokens so far"):
                    self.assertNotIn(message, content, name)

    def test_nothing_is_removed_that_cannot_be_told(self):
        self.good(*RUN, "-p", "a", "--store", "store", "--session", "one")
        for descriptors in ((1,), (0, 1), (0, 1, 2)):
            result = self.closed(descriptors, "session", "rm", "one", "--store", "store")
            self.check_message(descriptors, result, b"standard output is closed")
        self.assertEqual(self.closed((0, 2), "session", "rm", "one", "--store",
                                     "store").returncode, 0)
        self.refused("one", "session", "show", "one", "--store", "store")


class OutputTest(CliTest):
    def test_a_reader_that_leaves_early_ends_the_command(self):
        for command in (["plan", "-m", "v4-flash", "--json"], [*RUN, "-p", "a", "-n", "5000"],
                        ["verify", "-m", MODEL, "--ctx", ",".join(["64"] * 60), "--json"]):
            for ignores in (False, True):
                started = time.monotonic()
                process = subprocess.Popen(
                    [KVFOLD, *one_thread(command)], env=environment(), stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE, restore_signals=not ignores)
                self.addCleanup(process.kill)
                process.stdout.read(1)
                process.stdout.close()
                errors = process.stderr.read()
                process.stderr.close()
                status = process.wait(PATIENCE_SECONDS)
                self.assertIn(status, (2,) if ignores else (2, -signal.SIGPIPE), errors)
                self.assertLess(time.monotonic() - started, 20)
                self.assertEqual(errors.count(b"standard output"), ignores, errors)

    def test_output_that_does_not_block_is_waited_for(self):
        expected = self.good("plan", "-m", "v4-flash", "--json").stdout
        self.assertGreater(len(expected), 1 << 17)  # more than a pipe holds
        ours, theirs = os.pipe()
        os.set_blocking(theirs, False)
        process = subprocess.Popen([KVFOLD, *one_thread(["plan", "-m", "v4-flash", "--json"])],
                                   env=environment(), stdout=theirs, stderr=subprocess.PIPE)
        self.addCleanup(process.kill)
        os.close(theirs)
        time.sleep(0.5)
        with os.fdopen(ours, "rb") as stream:
            self.assertEqual(stream.read(), expected)
        self.assertEqual(process.communicate()[1], b"")
        self.assertEqual(process.returncode, 0)


class LinesTest(CliTest):
    def answers(self, data, *arguments):
        return self.good(*RUN, "-i", *arguments, stdin=data).stdout

    def test_lines_of_every_system_are_the_same_turns(self):
        plain = self.answers(b"one\ntwo words\n/stats\n/quit\nnever\n")
        self.assertIn(b"of 65,536 tokens", plain)
        for end in (b"\n", b"\r\n", b"\r"):
            for mark in (b"", b"\xef\xbb\xbf"):
                lines = mark + end.join((b"one", b"two words", b"/stats", b"/quit", b"never"))
                self.assertEqual(self.answers(lines + end), plain, (end, mark))
        self.assertEqual(self.answers(b"one\r\n\r\n\n\rtwo words\n/stats \t\r\n/quit "), plain)
        for data in (b"one\ntwo words", b"one\r\ntwo words", b"one\rtwo words\r"):
            self.assertEqual(self.answers(data + b"\n/stats"), plain, data)
        self.assertEqual(self.answers(b""), b"")
        self.assertEqual(self.answers(b"\xef\xbb\xbf"), b"")
        # Only before the first line is it a mark.
        self.assertNotEqual(self.answers(b"\n\xef\xbb\xbfone\n"), self.answers(b"one\n"))

    def test_a_line_may_come_in_pieces(self):
        long = b"tide " * 1000
        whole = self.good(*RUN, "-i", "--ctx", "64", stdin=b"one\ntwo\n" + long + b"\n")
        process = subprocess.Popen([KVFOLD, *one_thread([*RUN, "-i", "--ctx", "64"])], env=environment(),
                                   stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                   stderr=subprocess.PIPE)
        self.addCleanup(process.kill)
        for piece in (b"o", b"ne\r", b"\n", b"two", b"\r", long[:4500], long[4500:], b"\n"):
            process.stdin.write(piece)
            process.stdin.flush()
            time.sleep(0.1)
        output, errors = process.communicate()
        self.assertEqual(output, whole.stdout)
        self.assertIn(b"this turn needs 5,001", whole.stderr)  # with the line break before it
        self.assertIn(b"this turn needs 5,001", errors)
        self.assertEqual(process.returncode, 0)

    def test_a_prompt_in_a_file_is_taken_to_the_byte(self):
        def tokens(data):
            return self.json_lines(*RUN, "-f", self.write("prompt", data))[0]["prompt_tokens"]
        for data in (b"a\r\nb\r\n", b"\xef\xbb\xbfa", b"a\0b", b"a\rb"):
            self.assertEqual(tokens(data), len(data) + 1)

    def test_what_is_no_text_is_refused(self):
        def refused(data, expected, n_answers):
            result = self.kvfold(*RUN, "-i", "--ctx", "64", stdin=data)
            self.assertEqual(result.returncode, 2, data[:20])
            self.assertIn(expected, result.stderr)
            self.assertEqual(result.stderr.count(b"fold on"), n_answers)
        refused("one\ntwo\n".encode("utf-16"), b"line 1 of standard input holds a NUL", 0)
        refused(b"one\n/quit\0\ntwo\n", b"line 2 of standard input holds a NUL", 1)
        refused(b"one\ntw\0o\nthree\n", b"line 2 of standard input holds a NUL", 1)
        refused(b"one\r\n" + b"x" * (64 * 256 + 1), b"line 2 of standard input is longer than", 1)
        # One that is too long for the context alone can be followed by others.
        result = self.good(*RUN, "-i", "--ctx", "64", stdin=b"x" * 5000 + b"\none\n")
        self.assertIn(b"this turn needs 5,001", result.stderr)
        self.assertEqual(result.stderr.count(b"fold on"), 1)

    def test_input_without_an_end_is_not_read_for_ever(self):
        with open("/dev/zero", "rb") as zero:
            result = subprocess.run([KVFOLD, *one_thread([*RUN, "-i", "--ctx", "1k"])], stdin=zero,
                                    stdout=subprocess.PIPE, stderr=subprocess.PIPE, check=False,
                                    env=environment(), timeout=PATIENCE_SECONDS)
        self.assertEqual(result.returncode, 2)
        self.assertIn(b"line 1 of standard input is longer", result.stderr)

    def test_of_a_line_no_more_than_a_context_is_kept(self):
        def peak_kb(n_bytes):
            """With a line of so many bytes before another; what was said."""
            process = subprocess.Popen([KVFOLD, *one_thread([*RUN, "-i", "--ctx", "300k"])],
                                       env=environment(), stdin=subprocess.PIPE,
                                       stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
            self.addCleanup(process.kill)
            for _ in range(n_bytes >> 20):
                process.stdin.write(b"x" * (1 << 20))
            process.stdin.write(b"\r\none\n")
            process.stdin.close()
            errors = process.stderr.read()
            process.stderr.close()
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
            self.assertEqual(process.returncode, 0, errors)
            return usage.ru_maxrss // (1024 if sys.platform == "darwin" else 1), errors
        least, _ = peak_kb(0)
        most, errors = peak_kb(60 << 20)
        self.assertIn(b"this turn needs 62,914,561 tokens", errors)
        self.assertEqual(errors.count(b"fold on"), 1)
        self.assertLess(most, least + 8 * 1024)
        # A command may be longer than a context.
        result = self.good(*RUN, "-i", "--ctx", "2", stdin=b"one\n/reset" + b" " * 99 + b"\n/none\n")
        self.assertIn(b"unknown command /none", result.stdout)
        self.assertNotIn(b"unknown command /reset", result.stdout)
        # What is no command is shown, but not done by the terminal.
        for line, shown in ((b"/\x1b[31mred", b"/?[31mred;"), (b"/\xff\x07", b"/??;"),
                            (b"/" + "\u00e9".encode() * 40, b"/" + "\u00e9".encode() * 29 + b"?;")):
            self.assertIn(b"unknown command " + shown, self.answers(line + b"\n"))

    def test_what_cannot_be_read_is_said_with_the_reason(self):
        folder = os.open(self.folder, os.O_RDONLY)
        writable = os.open(self.path("file"), os.O_WRONLY | os.O_CREAT)
        for stdin, of_lines, of_text in (
                (folder, b"Is a directory", b"it is a folder"),
                (writable, b"Bad file descriptor", b"Bad file descriptor")):
            for command, expected in (([*RUN, "-i"], of_lines), ([*RUN, "-f", "-"], of_text)):
                result = subprocess.run([KVFOLD, *one_thread(command)], stdin=stdin, check=False,
                                        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                        env=environment(), timeout=PATIENCE_SECONDS)
                self.assertEqual(result.returncode, 2, command)
                self.assertIn(expected, result.stderr)
        os.close(folder)
        os.close(writable)


class SharedTest(CliTest):
    def test_input_that_does_not_block_is_waited_for(self):
        def ask(*arguments):
            theirs, ours = os.pipe()
            os.set_blocking(theirs, False)
            process = subprocess.Popen([KVFOLD, *one_thread([*RUN, *arguments])], stdin=theirs,
                                       stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                       env=environment())
            self.addCleanup(process.kill)
            os.close(theirs)
            for piece in (b"on", b"e\n", b"two\n"):
                time.sleep(0.3)
                os.write(ours, piece)
            os.close(ours)
            output, errors = process.communicate(timeout=PATIENCE_SECONDS)
            self.assertEqual(process.returncode, 0, errors)
            return output
        self.assertEqual(ask("-i"), self.good(*RUN, "-i", stdin=b"one\ntwo\n").stdout)
        self.assertEqual(ask("-f", "-"), self.good(*RUN, "-f", "-", stdin=b"one\ntwo\n").stdout)

    def test_a_terminal_that_does_not_block_is_waited_for(self):
        terminal = Terminal(*RUN, "-i", prepare=lambda: os.set_blocking(0, False))
        self.addCleanup(terminal.close)
        terminal.wait_for(rb"> $")
        time.sleep(0.3)
        terminal.type(b"one\n")
        terminal.wait_for(rb"fold on [^\n]*\n")
        terminal.wait_for(rb"> $")
        terminal.type(b"/quit\n")
        self.assertEqual(terminal.exit_status(), 0)

    def test_a_nul_on_a_terminal_costs_the_line_alone(self):
        terminal = Terminal(*RUN, "-i")
        self.addCleanup(terminal.close)
        terminal.wait_for(rb"> $")
        terminal.type(b"o\0ne\n")
        terminal.wait_for(rb"line 1 of standard input holds a NUL byte")
        terminal.wait_for(rb"> $")
        terminal.type(b"one\n")
        terminal.wait_for(rb"fold on [^\n]*: 4 \+ 3 tokens")
        terminal.wait_for(rb"> $")
        terminal.type(b"/quit\n")
        self.assertEqual(terminal.exit_status(), 0)

    def test_a_job_in_the_background_says_why_it_cannot_read(self):
        def to_the_background():
            child = os.fork()
            if child:
                os._exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) & 0xff)
            os.setpgid(0, 0)
            signal.signal(signal.SIGTTIN, signal.SIG_IGN)  # or it would stop: that is no error
        terminal = Terminal(*RUN, "-i", prepare=to_the_background)
        self.addCleanup(terminal.close)
        terminal.wait_for(rb"> $")
        terminal.type(b"one\n")
        terminal.wait_for(re.escape(os.strerror(5).encode()))
        self.assertEqual(terminal.exit_status(), 2)


if __name__ == "__main__":
    main()
