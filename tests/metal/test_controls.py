#!/usr/bin/env python3
"""The DS4_* controls and --profile choose on metal what they choose on cpu.

usage: test_controls.py --kvfold PROGRAM --model FOLDER
"""
import argparse
import json
import os
import subprocess
import unittest

parser = argparse.ArgumentParser()
parser.add_argument("--kvfold", required=True)
parser.add_argument("--model", required=True)
options = parser.parse_args()

PACKED = {"DS4_METAL_FP8_KV_STORE": "1"}
LEGACY = {"DS4_DISABLE_KV_OPTS": "1"}


def run(environment, *arguments):
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("DS4_", "KVFOLD_"))}
    done = subprocess.run([options.kvfold, "run", "-m", options.model, "--backend", "emulated", "-p",
                           "ab", "-n", "2", "--json", *arguments],
                          env={**clean, **environment}, capture_output=True, text=True)
    return done.returncode, done.stdout, done.stderr


class Controls(unittest.TestCase):
    def chosen(self, environment, *arguments):
        status, out, error = run(environment, *arguments)
        self.assertEqual(status, 0, error)
        record = json.loads(out.splitlines()[-1])
        self.assertEqual((record["backend"], record["isa"]), ("emulated", "generic"))
        return record["profile"]

    def test_each_control_chooses_its_profile(self):
        self.assertEqual(self.chosen({}), "fold")
        self.assertEqual(self.chosen(PACKED), "packed")
        self.assertEqual(self.chosen({**PACKED, **LEGACY}), "legacy")
        self.assertEqual(self.chosen({**PACKED, "DS4_INDEXER_SCORE_TILE": "1"}), "packed")

    def test_profile_overrides_the_controls(self):
        self.assertEqual(self.chosen(LEGACY, "--profile", "tiled"), "tiled")

    def test_an_isa_of_the_cpu_is_refused(self):
        status, _, error = run({}, "--isa", "avx2")
        self.assertEqual(status, 2)
        self.assertIn("avx2", error)


if __name__ == "__main__":
    unittest.main(argv=["test_controls.py"], verbosity=2)
