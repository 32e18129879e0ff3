#!/usr/bin/env python3
"""Limits of the process: refused before weights are read, with what fits, which then runs.

usage: test_limits.py --kvfold PATH --model DIR [unittest's own arguments]
"""

import os
import re
import resource
import subprocess
import sys
import tempfile
import unittest

import checkpoints
from support import KVFOLD, MODEL, PATIENCE_SECONDS, CliTest, environment, main, one_thread

MB = 1 << 20
TEXT = b"Over the bay the lamp went round, and nobody who saw it spoke. " * 16  # 1,008 bytes


def own_group():
    """A cgroup of version 1 or 2 that may be made here, and its file for the limit, or None."""
    for base, name in (("/sys/fs/cgroup/memory", "memory.limit_in_bytes"),
                       ("/sys/fs/cgroup", "memory.max")):
        try:
            group = tempfile.mkdtemp(prefix="kvfold-", dir=base)
        except OSError:
            continue
        if os.path.exists(os.path.join(group, name)):
            return group, os.path.join(group, name)
        os.rmdir(group)
    return None


class LimitTest(CliTest):
    def limited(self, before, *arguments):
        """kvfold in a process that `before` was called in."""
        return subprocess.run([KVFOLD, *one_thread(arguments)], cwd=self.folder, env=environment(),
                              stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                              stderr=subprocess.PIPE, check=False, preexec_fn=before,
                              timeout=2 * PATIENCE_SECONDS)

    def refused_by(self, expected, before, *arguments):
        """The refusal names the limit; what it advises runs. Returns the advised options."""
        result = self.limited(before, *arguments)
        message = result.stderr.decode()
        self.assertEqual(result.returncode, 2, message)
        self.assertEqual((result.stdout, message.count("\n")), (b"", 1), message)
        self.assertIn(expected, message)
        advice = re.search(r"; (--.*) (?:fits|needs .*)$", message.strip())
        self.assertTrue(advice, message)
        words, kept, rest = advice.group(1).split(), [], list(map(str, arguments))
        while rest:
            word = rest.pop(0)
            if word in words[::2]:
                rest.pop(0)
            else:
                kept.append(word)
        result = self.limited(before, *kept, *words)
        self.assertEqual(result.returncode, 0, (words, result.stderr))
        return words


@unittest.skipUnless(sys.platform.startswith("linux"), "ulimit -d and -v are Linux's")
class ProcessTest(LimitTest):
    least = {}  # of each limit: MB that a process has at its start, and that the smallest run needs

    def refusal(self, kind, limit, *arguments):
        """The MB that a run needs, and those that the limit leaves it."""
        result = self.limited(lambda: resource.setrlimit(kind, (limit * MB, limit * MB)), "run",
                              "-m", MODEL, "-p", "a", "-n", "1", *arguments)
        match = re.search(rb" needs ([0-9.]+) (.)B.* allows .*, of which ([0-9.]+) (.)B are left",
                          result.stderr)
        self.assertTrue(match, result.stderr)
        needed, unit, left, left_unit = match.groups()
        scale = {b"G": 1e9, b"M": 1e6, b"k": 1e3}
        return float(needed) * scale[unit] / MB, float(left) * scale[left_unit] / MB

    def limit(self, kind, size, of_all=False):
        """Sets a limit that leaves so many MB more than the smallest run needs, or than nothing."""
        if kind not in self.least:
            has = 3000 - self.refusal(kind, 3000, "--ctx", "1M", "--profile", "legacy")[1]
            needs = self.refusal(kind, int(has) + 8, "--ctx", "1k", "--chunk", "128")[0]
            self.least[kind] = int(has), int(needs)
        has, needs = self.least[kind]
        limit = (has + size + (0 if of_all else needs)) * MB
        return lambda: resource.setrlimit(kind, (limit, limit))

    def data(self, size, of_all=False):
        return self.limit(resource.RLIMIT_DATA, size, of_all)

    def addresses(self, size):
        return self.limit(resource.RLIMIT_AS, size)

    def test_run_under_a_data_limit(self):
        self.write("text", TEXT)
        run = ["run", "-m", MODEL, "-f", "text", "-n", "2", "--profile", "legacy", "--ctx", "128k"]
        for size, expected in ((400, ["--profile"]), (100, ["--ctx", "--chunk"])):
            words = self.refused_by("data limit (ulimit -d)", self.data(size), *run)
            self.assertEqual(words[::2], expected)

    def test_score_and_verify_count_their_logits(self):
        self.write("text", TEXT * 2)
        self.refused_by("data limit", self.data(20), "score", "-m", MODEL, "-f", "text",
                        "--window", "2k")
        self.refused_by("data limit", self.data(20), "verify", "-m", MODEL, "--ctx", "2k",
                        "--decode", "2", "--profiles", "fold")

    def test_mapped_files_count_as_addresses_only(self):
        # 500 MB more that are mapped and never read.
        tensors, unused = checkpoints.read(MODEL), 500 * MB
        entries = checkpoints.header_of(tensors)
        end = max(entry["data_offsets"][1] for entry in entries.values())
        entries["mtp.x"] = {"dtype": "U8", "shape": [unused], "data_offsets": [end, end + unused]}
        model = checkpoints.write_folder(self.path("model"), MODEL, tensors, entries)
        file = os.path.join(model, "model.safetensors")
        os.truncate(file, os.path.getsize(file) + unused)
        run = ["run", "-m", model, "-p", "tide", "-n", "2", "--ctx", "8k", "--chunk", "256"]
        data = self.limited(self.data(100), *run)
        self.assertEqual(data.returncode, 0, data.stderr)
        addresses = self.limited(self.addresses(100), *run)
        self.assertEqual(addresses.returncode, 2)
        self.assertIn(b"address limit (ulimit -v)", addresses.stderr)
        self.assertEqual(addresses.stderr.count(b"\n"), 1)
        run[2] = MODEL
        self.assertEqual(self.limited(self.addresses(100), *run).returncode, 0)
        self.refused_by("address limit (ulimit -v)", self.addresses(5), "run", "-m", MODEL, "-p",
                        "a", "-n", "2", "--ctx", "8k")

    def test_a_conversation_counts_the_states_it_keeps(self):
        def allowed(size, *arguments):
            result = self.limited(self.data(size), "run", "-m", MODEL, "-p", "a", "-n", "1",
                                  "--ctx", "64k", "--chunk", "128", *arguments)
            return result.returncode == 0
        size = next(size for size in range(0, 300, 4) if allowed(size))
        self.assertFalse(allowed(size, "-i"))

    def test_what_needs_little_ends_under_any_limit(self):
        for kind in (resource.RLIMIT_DATA, resource.RLIMIT_AS):
            has = self.refusal(kind, 3000, "--ctx", "1M", "--profile", "legacy")[1]
            for share in (0.4, 0.9, 1.1):
                # Below 3 MB the dynamic loader itself may die, which is not ours to say.
                limit = max(3, int((3000 - has) * share)) * MB
                for arguments in (["--version"], ["help"], ["plan", "-m", MODEL], ["session", "--store", "s"],
                                  ["run", "-m", MODEL, "-p", "a", "--chunk", "0"]):
                    result = self.limited(lambda: resource.setrlimit(kind, (limit, limit)), *arguments)
                    if b"error while loading" not in result.stderr:
                        self.assertIn(result.returncode, (0, 2), result.stderr)

    def test_when_nothing_fits_that_is_said(self):
        result = self.limited(self.data(-30), "run", "-m", MODEL, "-p", "a")
        self.assertEqual(result.returncode, 2)
        self.assertRegex(result.stderr.decode(), r"^kvfold: run: .*ulimit -d.* no --ctx.*\n$")

    def test_bench_leaves_out_what_does_not_fit(self):
        result = self.limited(self.data(300, True), "bench", "-m", MODEL, "--quick", "--threads", "1",
                              "--ctx", "256k", "--stage", "step", "--profile", "legacy")
        self.assertEqual(result.returncode, 0, result.stderr)
        self.assertRegex(result.stderr.decode(), r"left out: step, legacy at 256k.*\(ulimit -d\)")
        result = self.limited(self.data(40, True), "bench", "-m", MODEL, "--quick", "--threads", "1")
        self.assertEqual((result.returncode, result.stdout), (2, b""))
        self.assertIn(b"(ulimit -d)", result.stderr)

    def test_plan_says_what_a_run_is_allowed(self):
        limit = self.data(200)
        lines = self.limited(limit, "plan", "-m", MODEL, "--ctx", "1k", "--chunk", "256",
                             "--profile", "legacy", "--memory", "auto", "--csv").stdout.decode()
        context = int(lines.split()[-1].split(",")[-1])
        self.assertGreater(context, 4096)
        run = ["run", "-m", MODEL, "-p", "a", "-n", "1", "--chunk", "256", "--profile", "legacy"]
        self.assertEqual(self.limited(limit, *run, "--ctx", context - 2048).returncode, 0)
        self.assertEqual(self.limited(limit, *run, "--ctx", context + 2048).returncode, 2)
        self.refused("--memory auto", "plan", "-m", "v4-flash", "--memory", "auto")
        self.refused("--memory auto", "plan", "-m", MODEL, "--memory", "auto", "--weights", "1G")


class GroupTest(LimitTest):
    def setUp(self):
        super().setUp()
        group = own_group()
        if not group:
            self.skipTest("no cgroup can be made here")
        self.group, self.file = group
        self.addCleanup(os.rmdir, self.group)

    def enter(self):
        with open(os.path.join(self.group, "cgroup.procs"), "w", encoding="ascii") as file:
            file.write(str(os.getpid()))

    def test_a_group_that_is_too_small_is_named(self):
        with open(self.file, "w", encoding="ascii") as file:
            file.write(str(90 * MB))
        self.write("text", TEXT)
        words = self.refused_by(self.group, self.enter, "run", "-m", MODEL, "-f", "text", "-n", "2",
                                "--profile", "legacy", "--ctx", "64k")
        self.assertEqual(words[::2], ["--ctx", "--chunk"])
        self.write("text", TEXT * 3)
        self.refused_by(self.group, self.enter, "score", "-m", MODEL, "-f", "text", "--window", "3k")


if __name__ == "__main__":
    main()
