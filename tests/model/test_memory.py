#!/usr/bin/env python3
"""Resident memory of `kvfold run` against the plan, and the time of a 16k prefill."""
import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import unittest

PROMPT_TOKENS = 16384
MAX_TOKENS = 8
ALLOWED_BEYOND_BYTES = 64 << 20
PREFILL_LIMIT_SECONDS = 60

parser = argparse.ArgumentParser()
parser.add_argument("--kvfold", required=True)
parser.add_argument("--model", required=True)
parser.add_argument("--data", required=True)
options, rest = parser.parse_known_args()


def run_measured(command):
    """Exit status, seconds and peak resident bytes of a child."""
    with open(os.devnull, "w") as null:
        begin = time.monotonic()
        child = subprocess.Popen(command, stdout=null, stderr=null)
        _, status, usage = os.wait4(child.pid, 0)
        return os.waitstatus_to_exitcode(status), time.monotonic() - begin, usage.ru_maxrss * 1024


class Memory(unittest.TestCase):
    def setUp(self):
        with open(options.data + "/val.txt", "rb") as file:
            text = file.read(PROMPT_TOKENS - 1)
        self.prompt = tempfile.NamedTemporaryFile(suffix=".txt")
        self.prompt.write(text)
        self.prompt.flush()

    def test_run_takes_what_the_plan_says_and_a_16k_prefill_under_a_minute(self):
        context = PROMPT_TOKENS + MAX_TOKENS
        plan = json.loads(subprocess.run(
            [options.kvfold, "plan", "-m", options.model, "--ctx", str(context), "--profile", "fold",
             "--threads", str(os.cpu_count()), "--json"],
            capture_output=True, text=True, check=True).stdout)
        files = sum(os.path.getsize(os.path.join(options.model, name))
                    for name in os.listdir(options.model) if name.endswith(".safetensors"))
        # Mapped bf16 and f32 shards, and their f32 copies: 14.6 M values, some f32 on disk.
        values = 14642809
        expected = plan["total_bytes"] + files + 4 * values
        status, seconds, resident = run_measured(
            [options.kvfold, "run", "-m", options.model, "-f", self.prompt.name, "--ctx",
             str(context), "-n", str(MAX_TOKENS)])
        print(f"plan + weights {expected / 1e6:.1f} MB, peak resident {resident / 1e6:.1f} MB, "
              f"{seconds:.1f} s for {context} tokens", file=sys.stderr)
        self.assertEqual(status, 0)
        self.assertLessEqual(resident, 1.1 * expected + ALLOWED_BEYOND_BYTES)
        self.assertGreaterEqual(resident, 0.5 * plan["allocated_bytes"])  # it did hold the cache
        self.assertLess(seconds, PREFILL_LIMIT_SECONDS)


if __name__ == "__main__":
    unittest.main(argv=[sys.argv[0], *rest], verbosity=2)
