#!/usr/bin/env python3
"""What is in the process of the linked command, and what happens before its main.

usage: test_process.py --kvfold PATH --model DIR --preload PATH [unittest's own arguments]
"""

import argparse
import glob
import os
import re
import shutil
import subprocess
import tempfile
import unittest

_parser = argparse.ArgumentParser()
_parser.add_argument("--kvfold", required=True)
_parser.add_argument("--model", required=True)
_parser.add_argument("--preload", required=True)
_options, _unittest_arguments = _parser.parse_known_args()

KVFOLD = os.path.abspath(_options.kvfold)
TEXT = b"Bits do not depend on what was set before main."
OPENMP = re.compile(r"lib(gomp|i?omp\d*)\.(so|dylib)")


class ProcessTest(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.mkdtemp(prefix="kvfold-process-")
        self.addCleanup(shutil.rmtree, self.folder)

    def logits(self, command, **variables):
        text = os.path.join(self.folder, "text")
        out = os.path.join(self.folder, "logits")
        with open(text, "wb") as file:
            file.write(TEXT)
        run = subprocess.run([*command, "score", "-m", _options.model, "-f", text, "--logits", out,
                              "--threads", "2"], env=dict(os.environ, **variables),
                             stdout=subprocess.PIPE, stderr=subprocess.PIPE, check=False)
        self.assertEqual(run.returncode, 0, run.stderr.decode())
        with open(out, "rb") as file:
            logits = file.read()
        os.remove(out)
        self.assertTrue(logits)
        return logits

    @unittest.skipUnless(shutil.which("ldd"), "no ldd")
    def test_no_openmp_runtime_is_loaded(self):
        libraries = subprocess.run(["ldd", KVFOLD], capture_output=True, check=True).stdout.decode()
        self.assertIn("libc", libraries)
        self.assertNotRegex(libraries, OPENMP)

    def test_a_library_that_changes_the_environment_changes_no_bit(self):
        expected = self.logits([KVFOLD])
        self.assertTrue(self.logits([KVFOLD], LD_PRELOAD=_options.preload) == expected)

    @unittest.skipUnless(glob.glob("/lib*/ld-linux*.so.*"), "no loader by itself")
    def test_the_loader_may_start_it(self):
        loader = glob.glob("/lib64/ld-linux*.so.*") + glob.glob("/lib/ld-linux*.so.*")
        self.assertTrue(self.logits([loader[0], KVFOLD]) == self.logits([KVFOLD]))
        link = os.path.join(self.folder, "other-name")
        os.symlink(KVFOLD, link)
        self.assertTrue(self.logits([link]) == self.logits([KVFOLD]))
        run = subprocess.run([loader[0], KVFOLD, "--version"], capture_output=True, check=False)
        self.assertRegex(run.stdout, rb"^kvfold \d")


if __name__ == "__main__":
    unittest.main(argv=[__file__, *_unittest_arguments])
