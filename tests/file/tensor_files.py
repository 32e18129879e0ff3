"""What the tests of files share: tensor_probe, a folder, and what is done with its answers."""
import argparse
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path


class Answer:
    def __init__(self, line):
        self.line = line
        self.ok = line.startswith("ok ")
        self.message = "" if self.ok else line.split(" ", 2)[2]


class FileTest(unittest.TestCase):
    probe = None
    slow = False
    model = None
    folder = None

    def ask(self, *words):
        self.probe.stdin.write(" ".join(map(str, words)) + "\n")
        self.probe.stdin.flush()
        line = self.probe.stdout.readline()
        self.assertTrue(line.endswith("\n"), f"the probe ended at {words}")
        return Answer(line.rstrip("\n"))

    def open(self, content):
        path = self.folder / "x.gguf"
        path.write_bytes(content)
        return self.ask("open", path)


def main(prepare=None):
    """Runs the tests of the file; prepare(arguments) goes first, where it is given."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--probe", required=True, help="tensor_probe")
    parser.add_argument("--downloads", help="folder for what a test has to download")
    parser.add_argument("--model", help="folder of the tiny checkpoint")
    parser.add_argument("--slow", action="store_true", help="more random cases")
    arguments, rest = parser.parse_known_args()
    FileTest.slow = arguments.slow
    FileTest.model = arguments.model
    if prepare:
        prepare(arguments)
    in_memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=in_memory if in_memory.is_dir() else None) as folder:
        FileTest.folder = Path(folder)
        FileTest.probe = subprocess.Popen([arguments.probe], stdin=subprocess.PIPE, text=True,
                                          stdout=subprocess.PIPE, errors="replace")
        program = unittest.main(argv=[sys.argv[0]] + rest, exit=False)
        FileTest.probe.stdin.close()
        ended_well = FileTest.probe.wait(60) == 0
    sys.exit(0 if program.result.wasSuccessful() and ended_well else 1)
