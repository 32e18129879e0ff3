#!/usr/bin/env python3
"""run --store where room is short, folders that cannot lock, and names that are long or odd.

usage: test_store.py --kvfold PATH --model DIR [--refusing-system PATH] [unittest's arguments]
"""

import errno
import fcntl
import os
import signal
import time

from support import MODEL, CliTest, main, refusing

SENTENCE = "The harbour lay in the last of the light, and the boats came in one by one. "
MANUAL = 4 * SENTENCE


def question(number):
    """As long as a state is worth, and like no other from its first letter on."""
    return chr(ord("a") + number) + 2 * SENTENCE


class StoreCase(CliTest):
    def run_store(self, text, *arguments, n=2, **options):
        return self.good("run", "-m", MODEL, "-p", text, "-n", n, "--store", "s", *arguments,
                         **options)

    def ask(self, text, *arguments, **options):
        """How many tokens were found."""
        result = self.run_store(text, "--json", *arguments, **options).stdout
        return int(result.split(b'"resumed_tokens":')[1].split(b",")[0])

    def bytes_of(self, text):
        """What the store holds for it alone; the store is empty afterwards."""
        self.ask(text)
        states = [entry for entry in os.scandir(self.path("s/prefixes"))
                  if entry.name.endswith(".kvfold")]
        size = max(entry.stat().st_size for entry in states)
        for entry in os.scandir(self.path("s/prefixes")):
            os.unlink(entry.path)
        return size

    def held_bytes(self):
        return sum(entry.stat().st_size for entry in os.scandir(self.path("s/prefixes")))


class RoomTest(StoreCase):
    def test_room_for_one_state_is_enough_for_what_prompts_share(self):
        most = self.bytes_of(MANUAL + question(0))
        found = [self.ask(MANUAL + question(i), "--store-max", most) for i in range(4)]
        self.assertEqual(found, [0, 0] + 2 * [len(MANUAL) + 1])
        self.assertLessEqual(self.held_bytes(), most)

    def test_a_conversation_goes_on_in_room_for_one_state(self):
        most = self.bytes_of(MANUAL + question(0) + question(1))
        texts = [MANUAL, MANUAL + question(0), MANUAL + question(0) + question(1)]
        found = [self.ask(text, "--store-max", most) for text in texts]
        self.assertEqual(found, [0] + [len(text) + 1 for text in texts[:-1]])

    def test_a_prompt_is_found_again_though_its_answer_has_no_room(self):
        most = self.bytes_of(MANUAL)
        for expected in (0, len(MANUAL) + 1, len(MANUAL) + 1):
            result = self.run_store(MANUAL, "--store-max", most, "--json", n=150)
            self.assertIn(b'"resumed_tokens":%d,' % expected, result.stdout)
            self.assertEqual(result.stderr.count(b"not stored: "), 1, result.stderr)

    def test_what_has_no_room_is_said(self):
        result = self.run_store(MANUAL, "--store-max", "10k")
        self.assertEqual(result.stderr.count(b"not stored: "), 1, result.stderr)
        self.assertIn(b"--store-max, 10.24 kB, is less than the smallest state takes", result.stderr)
        most = self.bytes_of(MANUAL + question(0))
        result = self.run_store(16 * MANUAL, "--store-max", most)
        self.assertIn(b"are more than --store-max", result.stderr)
        self.assertEqual(os.listdir(self.path("s/prefixes")), ["lock"])
        self.ask(MANUAL, "--store-max", most)
        self.ask(MANUAL, "--store-max", most)
        result = self.run_store(MANUAL + question(0), "--store-max", most)
        self.assertIn(b"which stay for other prompts", result.stderr)


class LockTest(StoreCase):
    SESSION = ["run", "-m", MODEL, "-p", "hi", "-n", "2", "--store", "s", "--session", "a"]

    def test_a_folder_without_locks_is_said_and_can_be_used(self):
        for number in (errno.ENOLCK, errno.EOPNOTSUPP):
            none = refusing(f"flock:{number}")
            message = self.refused(os.strerror(number), *self.SESSION, env=none)
            self.assertIn("s/a.lock", message)
            self.assertIn("--no-lock", message)
            self.assertNotIn("in use", message)
            self.good(*self.SESSION, "--no-lock", env=none)
            self.refused(os.strerror(number), "session", "rm", "a", "--store", "s", env=none)
            self.good("session", "rm", "a", "--store", "s", "--no-lock", env=none)
            result = self.run_store(MANUAL, env=none)
            self.assertIn(f"not stored: s/prefixes/lock: cannot be locked: {os.strerror(number)}",
                          result.stderr.decode())
        self.ask(MANUAL, "--no-lock", env=none)
        self.assertEqual(self.ask(MANUAL, "--no-lock", env=none), len(MANUAL) + 1)

    def test_a_lock_that_is_held_is_respected_all_the_same(self):
        self.good(*self.SESSION)
        with open(self.path("s/a.lock"), "w", encoding="ascii") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            self.refused("in use by another process", *self.SESSION, "--no-lock")

    def test_signals_and_missing_syncs_fail_nothing(self):
        for calls in ("flock:4,fsync:4", "fsync:22"):
            self.good(*self.SESSION, env=refusing(calls))
            self.good("session", "check", "a", "--store", "s")
        result = self.kvfold(*self.SESSION, env=refusing("fsync:5"))
        self.assertEqual(result.returncode, 2)
        self.assertIn(os.strerror(errno.EIO).encode(), result.stderr)
        self.good("session", "check", "a", "--store", "s")

    def test_no_lock_alone_is_refused(self):
        self.refused("--no-lock only matters with", "run", "-m", MODEL, "-p", "x", "--no-lock")

    def test_a_wait_for_the_store_is_said_and_can_be_ended(self):
        self.ask(MANUAL)
        with open(self.path("s/prefixes/lock"), "w", encoding="ascii") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            started = time.monotonic()
            process = self.start("run", "-m", MODEL, "-p", MANUAL + question(0), "-n", "2",
                                 "--store", "s")
            line = b""
            while b"waiting for it" not in line:
                line = process.stderr.readline()
                self.assertTrue(line, "it did not say that it waits")
            self.assertGreaterEqual(time.monotonic() - started, 1)
            process.send_signal(signal.SIGINT)
            rest = process.communicate(timeout=60)[1]
            self.assertEqual(process.returncode, 130, rest)
            self.assertNotIn(b"waiting for it", rest)
            self.assertIn(b"not stored: ", rest)
            process = self.start("run", "-m", MODEL, "-p", MANUAL + question(0), "-n", "2",
                                 "--store", "s")
            while b"waiting for it" not in process.stderr.readline():
                pass
        rest = process.communicate(timeout=60)[1]  # the lock is free now
        self.assertEqual(process.returncode, 0, rest)
        self.assertIn(b"stored: the first", rest)


class NameTest(CliTest):
    """The reason is there whatever the path is."""

    def expect_reason(self, number, *arguments):
        message = self.kvfold(*arguments).stderr.decode()
        self.assertEqual(message.count("\n"), 1, message)
        self.assertIn(os.strerror(number), message)
        self.assertIn("...", message)
        self.assertLess(len(message), 1100)

    def test_a_long_path_leaves_room_for_the_reason(self):
        deep = "/".join(["d" * 200] * 19) + "/" + "e" * 150
        for path, number in ((deep, errno.ENOENT), (deep + "x" * 200, errno.ENAMETOOLONG)):
            self.expect_reason(number, "run", "-m", MODEL, "-f", path)
            self.expect_reason(number, "run", "-m", path, "-p", "x")
            self.expect_reason(number, "plan", "-m", MODEL, "--ctx", "8k", "--svg", path)
        self.expect_reason(errno.ENAMETOOLONG, "run", "-m", MODEL, "-p", "x", "-n", "1", "--store",
                           deep + "x" * 200)

    def test_a_folder_that_is_deep_is_used(self):
        top = "d" * 200
        folder = "/".join([top] * 18)
        self.good("run", "-m", MODEL, "-p", "x", "-n", "1", "--store", folder, "--session", "a")
        path = os.path.join(self.folder, folder)
        current = os.open(self.folder, os.O_RDONLY)
        for _ in range(18):
            following = os.open(top, os.O_RDONLY, dir_fd=current)
            os.close(current)
            current = following
        with open(os.open("a.kvfold", os.O_RDWR, dir_fd=current), "r+b") as file:
            file.write(b"x" * 9000)
        os.close(current)
        self.assertGreater(len(path), 3600)
        for arguments in (["run", "-m", MODEL, "-p", "x", "-n", "1", "--session", "a"],
                          ["session", "show", "a"]):
            message = self.refused("is not a kvfold snapshot", *arguments, "--store", folder)
            self.assertIn("a.kvfold", message)
            self.assertIn("...", message)

    def test_what_would_move_a_terminal_is_not_shown(self):
        bad = os.fsdecode(b"s\x1b[31m\nx\xff\xc2\x9b")
        shown = "s?[31m?x??"
        self.refused(shown, "run", "-m", MODEL, "-f", bad)
        self.refused(shown, "run", "-m", bad, "-p", "x")
        self.refused(shown, "session", "list", "--store", bad)
        self.good("run", "-m", MODEL, "-p", "x", "-n", "1", "--store", bad, "--session", "a")
        with open(os.path.join(os.fsencode(self.folder), os.fsencode(bad), b"a.kvfold"),
                  "r+b") as file:
            file.seek(20000)
            file.write(b"damage" * 200)
        for arguments in (["session", "check", "a"], ["session", "check", "a", "--json"],
                          ["session", "show", "a"], ["session", "export", "a", bad + "x"]):
            result = self.kvfold(*arguments, "--store", bad)
            for text in (result.stdout, result.stderr):
                self.assertFalse(set(text.decode()) & set("\x1b\x7f\x9b"), arguments)
                self.assertLessEqual(text.count(b"\n"), 9, arguments)


if __name__ == "__main__":
    main()
