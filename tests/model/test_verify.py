#!/usr/bin/env python3
"""`kvfold verify`: four profiles, no differing bit, bytes as planned; chunks, threads, ISAs."""
import argparse
import json
import os
import re
import subprocess
import sys
import unittest

parser = argparse.ArgumentParser()
parser.add_argument("--kvfold", required=True)
parser.add_argument("--model", required=True)
parser.add_argument("--data")
parser.add_argument("--contexts", default="1k,16k")
parser.add_argument("--decode", type=int, default=64, help="tokens after the prompt")
parser.add_argument("--backend", default="cpu")
parser.add_argument("--isa", help="of the backend; its best one if not given")
parser.add_argument("--many", action="store_true", help="all combinations of a longer prompt")
options, rest = parser.parse_known_args()


NO_GPU = re.compile(r"no Metal GPU|the GPU (has no|does not support)|needs macOS|no NVIDIA (driver|GPU)")
SKIPPED = 77  # what CTest is told


def lines(*command):
    done = subprocess.run([options.kvfold, *command], capture_output=True, text=True)
    return done.returncode, [json.loads(line) for line in done.stdout.splitlines()], done.stderr


def usable_cores():
    # macOS has no affinity.
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


class Verify(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.status, cls.records, cls.stderr = lines("verify", "-m", options.model, "--ctx",
                                                    options.contexts, "--decode", str(options.decode),
                                                    "--backend", options.backend,
                                                    *(["--isa", options.isa] if options.isa else []),
                                                    "--json")
        if options.backend in ("metal", "cuda") and NO_GPU.search(cls.stderr):
            print(cls.stderr, file=sys.stderr)
            os._exit(SKIPPED)
        for r in cls.records:
            print(f"{r['ctx']:>6} {r['profile']:<7} {r['prefill_tps']:8.0f} prefill "
                  f"{r['decode_tps']:6.0f} decode tok/s, {r['differing_logits']} of "
                  f"{r['compared_logits']} logits differ", file=sys.stderr)

    def test_no_bit_differs_in_any_profile(self):
        self.assertEqual(self.status, 0, self.stderr)
        n_contexts = len(options.contexts.split(","))
        self.assertEqual(len(self.records), 4 * n_contexts)
        for r in self.records:
            with self.subTest(ctx=r["ctx"], profile=r["profile"]):
                self.assertEqual(r["differing_logits"], 0)
                self.assertEqual(r["max_abs_logit_diff"], 0)
                self.assertTrue(r["argmax_equal"])
                self.assertEqual(r["inexact_rows"], 0)

    def test_every_logit_was_compared_while_they_fit_a_gibibyte(self):
        for r in self.records:
            if r["profile"] == "legacy":
                continue
            positions = r["ctx"] if r["ctx"] * 320 * 4 <= 1 << 30 else -(-r["ctx"] // 4096)
            self.assertEqual(r["compared_logits"], (positions + options.decode) * 320)

    def test_session_and_scratch_bytes_are_the_plan_s(self):
        # session_bytes is of the prompt; scratch is sized for the decode steps too.
        for r in self.records:
            threads = usable_cores() if options.backend == "cpu" else 1
            plan = ["plan", "-m", options.model, "--backend", options.backend, "--profile",
                    r["profile"], "--threads", str(threads), "--json", "--ctx"]
            status, prompt, stderr = lines(*plan, str(r["ctx"]))
            self.assertEqual(status, 0, stderr)
            self.assertEqual(r["session_bytes"], prompt[0]["session_bytes"])
            _, whole, _ = lines(*plan, str(r["ctx"] + options.decode))
            self.assertEqual(r["scratch_peak_bytes"], whole[0]["scratch_bytes"])

    def test_fold_holds_less_than_packed_and_packed_less_than_tiled(self):
        for ctx in {r["ctx"] for r in self.records}:
            held = {r["profile"]: r["session_bytes"] for r in self.records if r["ctx"] == ctx}
            self.assertLess(held["fold"], held["packed"])
            self.assertLess(held["packed"], held["tiled"])
            self.assertLess(held["tiled"], held["legacy"])


@unittest.skipIf(options.backend != "cpu", "promised on the CPU alone")
class Combinations(unittest.TestCase):
    """Chunks that end inside and at the ends of windows and pages, one by one and at once."""

    def compare(self, n_lines, *arguments):
        status, records, stderr = lines("verify", "-m", options.model, *arguments, "--json")
        self.assertEqual(status, 0, stderr)
        self.assertGreaterEqual(len(records), n_lines)
        self.assertEqual({r["differing_logits"] for r in records}, {0})
        positions = int(arguments[1]) + int(arguments[3])
        self.assertEqual([r["compared_logits"] for r in records],
                         [0] + [320 * positions] * (len(records) - 1))
        return records

    def test_no_bit_differs_between_chunks_and_threads(self):
        self.compare(12, "--ctx", "300", "--decode", "8", "--chunks", "1,7,128", "--threads",
                     "1,2", "--profiles", "legacy,fold")

    def test_no_bit_differs_between_isas(self):
        records = self.compare(2, "--ctx", "140", "--decode", "2", "--chunks", "128", "--isas",
                               "all")
        self.assertEqual(len({r["isa"] for r in records}), len(records))

    @unittest.skipUnless(options.many, "minutes")
    def test_no_bit_differs_between_any_combinations(self):
        self.compare(16, "--ctx", "1000", "--decode", "30", "--chunks", "1,7,128,4096",
                     "--threads", "1,2,3", "--isas", "all")
        self.compare(48, "--ctx", "1500", "--decode", "30", "--chunks", "1,7,128,4096",
                     "--threads", "1,2,3", "--profiles", "legacy,tiled,packed,fold")


if __name__ == "__main__":
    unittest.main(argv=[sys.argv[0], *rest], verbosity=2)
