#!/usr/bin/env python3
"""How many threads kvfold runs with: --threads, OMP_NUM_THREADS, what the process may use."""

import os
import re
import subprocess
import unittest

from support import KVFOLD, MODEL, PATIENCE_SECONDS, CliTest, environment, main


class ThreadsTest(CliTest):
    def run_with(self, *arguments, cpus=None, **variables):
        """(threads, what was said) of a run with these arguments, on these processors."""
        command = [KVFOLD, "verify", "-m", MODEL, "--ctx", "64", "--decode", "1", "--profiles",
                   "fold", *arguments]
        result = subprocess.run(command, env=environment(variables), capture_output=True,
                                check=False, timeout=PATIENCE_SECONDS,
                                preexec_fn=cpus and (lambda: os.sched_setaffinity(0, cpus)))
        self.assertEqual(result.returncode, 0, result.stderr.decode())
        found = re.search(r", (\d+) threads?,", result.stdout.decode().splitlines()[0])
        return int(found.group(1)), result.stderr.decode()

    def threads(self, *arguments, **options):
        n_threads, said = self.run_with(*arguments, **options)
        self.assertNotIn("OMP_NUM_THREADS", said)
        return n_threads

    def test_the_option_wins_then_the_variable_then_the_processors(self):
        one = {min(os.sched_getaffinity(0))}
        self.assertEqual(self.threads(cpus=one), 1)
        self.assertEqual(self.threads(cpus=one, OMP_NUM_THREADS="3"), 3)
        self.assertEqual(self.threads("--threads", "2", cpus=one, OMP_NUM_THREADS="3"), 2)
        self.assertEqual(self.threads("--threads", "2", OMP_NUM_THREADS="nonsense"), 2)

    def test_the_first_of_a_list_counts(self):
        for value, expected in (("2,4", 2), ("1, 2", 1), (" 3 ", 3), ("3 ,1", 3), ("02", 2)):
            self.assertEqual(self.threads(OMP_NUM_THREADS=value), expected, value)

    def test_an_empty_variable_is_none(self):
        one = {min(os.sched_getaffinity(0))}
        self.assertEqual(self.threads(cpus=one, OMP_NUM_THREADS=""), 1)

    def test_nonsense_is_said_and_ignored(self):
        one = {min(os.sched_getaffinity(0))}
        for value in ("0", "-1", "two", "2x", "1.5", "2k", ",2", "1025", "9" * 40, "4;2"):
            n_threads, said = self.run_with(cpus=one, OMP_NUM_THREADS=value)
            self.assertEqual(n_threads, 1, value)
            notes = [line for line in said.splitlines() if "OMP_NUM_THREADS" in line]
            self.assertEqual(len(notes), 1, said)
            self.assertIn("1 to 1024", notes[0])

    def test_other_variables_of_openmp_mean_nothing(self):
        self.assertEqual(self.threads("--threads", "2", OMP_THREAD_LIMIT="1", OMP_DYNAMIC="true",
                                      OMP_MAX_ACTIVE_LEVELS="0", OMP_PROC_BIND="true"), 2)

    def test_a_plan_does_not_depend_on_the_variable(self):
        plans = [self.good("plan", "-m", "v4-flash", "--ctx", "8k", env=env).stdout
                 for env in ({}, {"OMP_NUM_THREADS": "64"}, {"OMP_NUM_THREADS": "nonsense"})]
        self.assertEqual(plans[0], plans[1])
        self.assertEqual(plans[0], plans[2])

    def test_the_largest_number_is_served(self):
        self.assertEqual(self.threads("--threads", "1024"), 1024)
        for value in ("0", "1025", "2k"):
            self.refused("outside 1 .. 1k", "verify", "-m", MODEL, "--threads", value)

    def test_more_threads_than_processors_make_the_same_text(self):
        one = {min(os.sched_getaffinity(0))}
        answers = set()
        for n_threads in ("1", "2", "9", "40"):
            run = subprocess.run([KVFOLD, "run", "-m", MODEL, "-p", "word " * 80, "-n", "4",
                                  "--threads", n_threads], env=environment(), capture_output=True,
                                 check=True, timeout=PATIENCE_SECONDS,
                                 preexec_fn=lambda: os.sched_setaffinity(0, one))
            answers.add(run.stdout)
        self.assertEqual(len(answers), 1)

    def test_help_says_where_the_number_comes_from(self):
        for command in ("run", "verify", "score", "bench"):
            text = self.good("help", command).stdout.decode()
            self.assertIn("OMP_NUM_THREADS", text)
            self.assertIn("quota", text)


if __name__ == "__main__":
    main()
