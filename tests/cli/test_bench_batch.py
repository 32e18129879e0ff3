#!/usr/bin/env python3
"""kvfold bench --stage batch as its users see it: its lines, its table and refusals.

usage: test_bench_batch.py --kvfold PATH --model DIR [unittest's own arguments]

Times are not judged: other tests run beside this one.
"""

from support import MODEL, CliTest, main


class BatchTest(CliTest):
    def measured(self, *arguments):
        return self.json_lines("bench", "--quick", "--runs", "2", "--stage", "batch", "-m",
                               MODEL, "--threads", "1", *arguments)

    def test_sessions_are_measured_at_every_context(self):
        lines = self.measured("--ctx", "500,1k")
        self.assertEqual([(line["ctx"], line["sessions"]) for line in lines],
                         [(500, 1), (500, 4), (1024, 1), (1024, 4)])
        for line in lines:
            self.assertEqual((line["stage"], line["profile"], line["threads"]),
                             ("batch", "fold", 1))
            self.assertLessEqual(line["p10_us"], line["median_us"])
            self.assertLessEqual(line["median_us"], line["p90_us"])
            self.assertAlmostEqual(line["tokens_per_second"],
                                   line["sessions"] * 1e6 / line["median_us"],
                                   delta=0.01 * line["tokens_per_second"])
            # models/tiny: 2 of 8 experts a token, different ones of one token
            self.assertEqual((line["experts"], line["experts_chosen"]), (8, 2 * line["sessions"]))
            self.assertGreaterEqual(line["experts_distinct"], 2)
            self.assertLessEqual(line["experts_distinct"], min(8, line["experts_chosen"]))

    def test_profiles_are_chosen_by_name(self):
        lines = self.measured("--ctx", "300", "--profile", "packed,legacy")
        self.assertEqual([line["profile"] for line in lines], ["legacy"] * 2 + ["packed"] * 2)

    def test_csv_has_the_columns_of_json(self):
        rows = self.csv_lines("bench", "--quick", "--runs", "1", "--stage", "batch", "-m",
                              MODEL, "--ctx", "200", "--threads", "1")
        self.assertEqual(list(rows[0]), list(self.measured("--ctx", "200")[0]))

    def test_people_get_a_table(self):
        text = self.good("bench", "--quick", "--runs", "1", "--stage", "batch", "-m", MODEL,
                         "--ctx", "200", "--threads", "1").stdout.decode()
        table = text[text.index("\nbatch on cpu/"):].strip().split("\n")[2:]
        self.assertEqual(table[0].split()[:3], ["profile", "context", "sessions"])
        self.assertEqual([line.split()[2] for line in table[1:]], ["1", "4"])
        self.assertIn(" 1.00 ", table[1])

    def test_what_cannot_be_is_refused(self):
        self.refused("--stage batch runs a model: name it with --model", "bench", "--stage",
                     "batch")
        self.refused("--csv: batch has other columns", "bench", "--stage", "batch,pack", "-m",
                     MODEL, "--csv")
        self.refused("--svg draws stages against contexts, not batch", "bench", "--stage", "batch",
                     "-m", MODEL, "--svg", "x.svg")
        result = self.kvfold("bench", "--quick", "--runs", "2", "--stage", "batch", "-m", MODEL,
                             "--ctx", "4")
        self.assertEqual(result.returncode, 2)
        self.assertIn(b"2 runs and more do not fit 4 tokens", result.stderr)
        self.refused("no stage 'batches'; there are: pack, ", "bench", "--stage", "batches")


if __name__ == "__main__":
    main()
