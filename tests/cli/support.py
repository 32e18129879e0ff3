"""What the tests of the kvfold binary share.

usage: test_NAME.py --kvfold PATH --model DIR [--refusing-system PATH] [--backend NAME[/ISA]]
                    [unittest's own arguments]

DIR is models/tiny; its vocabulary is bytes and a few special ids. Nothing is needed but
Python's standard library.
"""

import argparse
import csv
import fcntl
import io
import json
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
import termios
import time
import unittest

# Read on import, so that every file has the two paths as constants.
_parser = argparse.ArgumentParser(description="Tests the kvfold binary.",
                                  epilog="Other arguments are unittest's.")
_parser.add_argument("--kvfold", required=True, metavar="PATH")
_parser.add_argument("--model", required=True, metavar="DIR")
_parser.add_argument("--refusing-system", metavar="PATH",
                     help="refusing_system.c as a library; without it what needs it is skipped")
_parser.add_argument("--backend", metavar="NAME[/ISA]", help="that `run` uses, in the place of cpu")
_options, _unittest_arguments = _parser.parse_known_args()

KVFOLD = os.path.abspath(_options.kvfold)
MODEL = os.path.abspath(_options.model)
REFUSING_SYSTEM = _options.refusing_system and os.path.abspath(_options.refusing_system)
PATIENCE_SECONDS = 60  # for anything that should take a moment

PROFILES = ["legacy", "tiled", "packed", "fold"]
COMMANDS = ["run", "verify", "score", "plan"]  # each on one thread, see below
VOCABULARY = 320  # of MODEL
SVG = "{http://www.w3.org/2000/svg}"


def one_thread(arguments):
    """Arguments with --threads 1, and the backend, put first: quick on a machine that is busy with
    other tests."""
    command, *rest = map(str, arguments)
    if command == "run" and _options.backend:
        backend, *isa = _options.backend.split("/")
        rest = ["--backend", backend, *(f"--isa={name}" for name in isa), *rest]
    return [command, "--threads", "1", *rest] if command in COMMANDS else [command, *rest]


def environment(changes=None):
    """This process's environment without what selects profiles, kernels, threads, plus changes."""
    clean = {name: value for name, value in os.environ.items()
             if not name.startswith(("DS4_", "KVFOLD_", "OPENBLAS_", "OMP_"))}
    clean.update(changes or {})
    return clean


def wait_until(condition):
    """Whether it came true before patience ran out."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def refusing(calls):
    """Changes to the environment with which these calls fail: "flock:37" (refusing_system.c)."""
    if not REFUSING_SYSTEM:
        raise unittest.SkipTest("no calls can be refused here")
    return {"LD_PRELOAD": REFUSING_SYSTEM, "KVF_TEST_REFUSE": calls}


class CliTest(unittest.TestCase):
    """Each test has a folder of its own, in which kvfold runs."""

    def setUp(self):
        self.folder = tempfile.mkdtemp(prefix="kvfold-cli-")
        self.addCleanup(shutil.rmtree, self.folder)

    def path(self, name):
        return os.path.join(self.folder, name)

    def write(self, name, data):
        with open(self.path(name), "wb") as file:
            file.write(data if isinstance(data, bytes) else data.encode())
        return self.path(name)

    def config_of_model(self, name, max_tokens):
        """A folder with MODEL's config.json alone and another largest context."""
        os.mkdir(self.path(name))
        with open(os.path.join(MODEL, "config.json"), encoding="utf-8") as file:
            config = json.load(file)
        config["max_position_embeddings"] = max_tokens
        rope = config["rope_parameters"]["compress"]  # which must be stretched to as many
        rope["factor"] = max(rope["factor"], max_tokens / rope["original_max_position_embeddings"])
        self.write(name + "/config.json", json.dumps(config))
        return self.path(name)

    def kvfold(self, *arguments, env=None, stdin=b""):
        command = [KVFOLD, *one_thread(arguments)] if arguments else [KVFOLD]
        return subprocess.run(command, input=stdin, cwd=self.folder, env=environment(env),
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE, check=False,
                              timeout=10 * PATIENCE_SECONDS)

    def start(self, *arguments):
        """kvfold in the background; killed at the end of the test if it still runs."""
        # Without a buffer: communicate() would pass over what read() had fetched beyond its bytes.
        process = subprocess.Popen([KVFOLD, *one_thread(arguments)], cwd=self.folder,
                                   env=environment(), stdout=subprocess.PIPE,
                                   stderr=subprocess.PIPE, bufsize=0)
        self.addCleanup(process.kill)
        return process

    def good(self, *arguments, **options):
        result = self.kvfold(*arguments, **options)
        self.assertEqual(result.returncode, 0, result.stderr.decode())
        return result

    def json_lines(self, *arguments, **options):
        output = self.good(*arguments, "--json", **options).stdout.decode()
        return [json.loads(line) for line in output.splitlines()]

    def csv_lines(self, *arguments, **options):
        output = self.good(*arguments, "--csv", **options).stdout.decode()
        return list(csv.DictReader(io.StringIO(output)))

    def refused(self, expected, *arguments, **options):
        """Exit status 2, nothing on stdout, one line on stderr, returned, that has `expected`."""
        result = self.kvfold(*arguments, **options)
        message = result.stderr.decode()
        self.assertEqual(result.returncode, 2, f"{arguments}: {message}")
        self.assertEqual(result.stdout, b"", arguments)
        self.assertEqual(message.count("\n"), 1, message)
        self.assertTrue(message.startswith("kvfold: "), message)
        self.assertIn(expected, message)
        return message


class Terminal:
    """kvfold on a terminal of its own, so that Ctrl-C is a key and the bar is drawn."""

    def __init__(self, *arguments, columns=80, prepare=None):
        """prepare: what the process does before it becomes kvfold."""
        self.pid, self.master = pty.fork()
        if self.pid == 0:
            try:
                size = struct.pack("HHHH", 24, columns, 0, 0)
                fcntl.ioctl(1, termios.TIOCSWINSZ, size)
                if prepare:
                    prepare()
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


def main():
    """Runs the tests of the file that was started."""
    unittest.main(argv=[sys.argv[0], *_unittest_arguments])
