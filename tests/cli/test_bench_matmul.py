#!/usr/bin/env python3
"""kvfold bench --stage matmul as its users see it: its lines, its table and refusals.

usage: test_bench_matmul.py --kvfold PATH --model DIR [unittest's own arguments]

Times are not judged: other tests run beside this one.
"""

import json
import os

from support import CliTest, main

SPREADS = ["vector_bytes", "read_bytes", "read_share", "values_per_cycle", "ops_1024",
           "fma_share_1024", "ops_4096", "fma_share_4096"]
# docs/WEIGHTS.md: bits of a value, scales with it; those in a plane are one for 128 x 128 values.
BITS = {"f32": 32, "f16": 16, "bf16": 16, "fp8_e8m0": 8 + 8 / 128**2, "fp8_f32": 8 + 32 / 128**2,
        "fp4": 4.25, "q8_0": 8.5, "q4_0": 4.5, "q2_K": 84 / 32, "q3_K": 110 / 32, "q4_K": 4.5,
        "q5_K": 5.5, "q6_K": 210 / 32, "iq2_xxs": 66 / 32, "iq2_xs": 74 / 32, "iq2_s": 82 / 32,
        "iq3_xxs": 98 / 32, "iq3_s": 110 / 32, "iq4_nl": 4.5, "iq4_xs": 136 / 32, "mxfp4": 4.25}
MATRIX_VALUES = 128 * 4096  # with --quick


class MatmulTest(CliTest):
    def measured(self, *arguments, **options):
        return self.json_lines("bench", "--quick", "--runs", "1", "--stage", "matmul",
                               "--threads", "1", *arguments, **options)

    def test_every_type_is_measured_and_has_the_bits_of_its_blocks(self):
        lines = self.measured()
        self.assertEqual([line["type"] for line in lines], list(BITS))
        for line in lines:
            self.assertAlmostEqual(line["bits"], BITS[line["type"]], places=3)
            self.assertGreaterEqual(line["file_bytes"], 1 << 20)
            self.assertAlmostEqual(line["file_bytes"] * 8 % (BITS[line["type"]] * MATRIX_VALUES), 0)
            for key in SPREADS:
                self.assertGreater(line[key], 0, line["type"])
                self.assertLessEqual(line[key + "_p10"], line[key])
                self.assertLessEqual(line[key], line[key + "_p90"])
            self.assertGreater(line["clock_hz"], 1e7)
            self.assertEqual((line["stage"], line["threads"]), ("matmul", 1))
            if line["type"] != "f32":
                self.assertIsNone(line["sgemm_ratio_1024"])

    def test_types_and_isas_are_chosen_by_name(self):
        lines = self.measured("--type", "iq2_xxs,bf16")
        self.assertEqual([line["type"] for line in lines], ["bf16", "iq2_xxs"])
        lines = self.measured("--type", "f16", "--isa", f"scalar,{lines[0]['isa']}")
        self.assertEqual([line["type"] for line in lines], ["f16", "f16"])
        self.assertEqual(lines[0]["isa"], "scalar")

    def test_csv_has_the_columns_of_json(self):
        rows = self.csv_lines("bench", "--quick", "--runs", "1", "--stage", "matmul", "--type",
                              "q8_0,q4_0", "--threads", "1")
        self.assertEqual(list(rows[0]), list(self.measured("--type", "q8_0")[0]))
        self.assertEqual([row["type"] for row in rows], ["q8_0", "q4_0"])

    def test_people_get_a_table_whose_lines_are_in_line(self):
        text = self.good("bench", "--quick", "--runs", "1", "--stage", "matmul", "--type",
                         "f32,mxfp4", "--threads", "1").stdout.decode()
        head, *lines = text[text.index("type  "):].splitlines()
        self.assertEqual([line.split()[0] for line in lines], ["f32", "mxfp4"])
        for heading, cell in (("vector", 2), ("read", 3), ("share", 4)):
            end = head.index(heading) + len(heading)
            for line in lines:
                self.assertTrue(line[:end].endswith(line.split()[cell]), line)

    def test_the_file_is_made_in_the_folder_and_gone_afterwards(self):
        os.mkdir(self.path("weights"))
        self.measured("--type", "f16", "--dir", "weights")
        self.assertEqual(os.listdir(self.path("weights")), [])
        for folder in ("missing", os.devnull):
            result = self.kvfold("bench", "--quick", "--stage", "matmul", "--type", "f16", "--dir",
                                 folder, "--json")
            self.assertEqual((result.returncode, result.stdout), (2, b""))
            self.assertRegex(result.stderr.decode().splitlines()[-1],
                             rf"^kvfold: bench: matmul, f16: {folder}: a file of \d+ bytes could ")

    def test_it_is_no_part_of_all_stages_and_goes_along_with_others(self):
        result = self.good("bench", "--quick", "--runs", "1", "--stage", "matmul,pack", "--type",
                           "q6_K", "--threads", "1", "--profile", "fold", "--json")
        stages = [json.loads(line)["stage"] for line in result.stdout.decode().splitlines()]
        self.assertEqual(stages, ["pack", "pack_index", "matmul"])

    def test_what_does_not_go_together_is_refused(self):
        self.refused("--type and --dir only matter with --stage matmul", "bench", "--type", "f32")
        self.refused("--type and --dir only matter with --stage matmul", "bench", "--dir", ".",
                     "--stage", "pack")
        self.refused("--csv: matmul has other columns", "bench", "--stage", "pack,matmul", "--csv")
        self.refused("--svg draws against contexts", "bench", "--stage", "matmul", "--svg", "x.svg")
        self.refused("not of ref", "bench", "--stage", "matmul", "--backend", "ref")
        self.refused("--type: no type 'q2_k'; there are: f32, f16,", "bench", "--stage", "matmul",
                     "--type", "q2_k")
        self.refused("--type: no type ''", "bench", "--stage", "matmul", "--type", "f32,")


if __name__ == "__main__":
    main()
