#!/usr/bin/env python3
"""kvfold bench as its users see it: what it measures, its lines, files and refusals.

usage: test_bench.py --kvfold PATH --model DIR [unittest's own arguments]

Times are not judged: other tests run beside this one.
"""

import json
import os
import re
import xml.etree.ElementTree

from support import MODEL, SVG, CliTest, main

KEYS = [
    "stage", "rows", "queries", "profile", "isa", "backend", "threads", "median_us", "p10_us",
    "p90_us", "bytes", "ops", "limit", "limit_share",
]
STORED = ["legacy", "tiled", "packed", "fold"]
# Which profiles each stage has.
STAGES = {
    "pack": STORED,
    "pack_index": STORED,
    "select": STORED + ["list", "openblas"],
    "attend_csa": STORED + ["list", "openblas"],
    "attend_csa_cold": STORED + ["list", "openblas"],
    "attend_hca": STORED + ["list", "openblas"],
    "attend_hca_cold": STORED + ["list", "openblas"],
    "layer": STORED + ["list"],
    "step": STORED + ["list"],
}
# docs/FORMAT.md 1: DeepSeek-V4-Flash.
HEADS, INDEX_HEADS, TOP_K, WINDOW = 64, 64, 512, 128


class BenchTest(CliTest):
    def good(self, *arguments, **options):
        return super().good("bench", "--quick", *arguments, **options)

    def refused(self, expected, *arguments, **options):
        message = super().refused(expected, "bench", *arguments, **options)
        self.assertTrue(message.startswith("kvfold: bench: "), message)

    def has_openblas(self):
        return b"no OpenBLAS" not in self.good("--stage", "pack", "--profile", "fold", "-m", MODEL,
                                               "--ctx", "1k").stdout


class LinesTest(BenchTest):
    def test_every_stage_has_every_profile_with_exactly_the_keys(self):
        result = self.good("-m", MODEL, "--ctx", "512,2k", "--threads", "1", "--json")
        self.assertIn(b"Peaks of ", result.stderr)  # the machine, but not among the lines
        lines = [json.loads(line) for line in result.stdout.decode().splitlines()]
        found = {}
        for line in lines:
            self.assertEqual(list(line), KEYS)
            found.setdefault(line["stage"], {}).setdefault(
                (line["rows"], line["queries"]), []).append(line["profile"])
        without = [] if self.has_openblas() else ["openblas"]
        self.assertEqual(list(found), list(STAGES))
        for stage, sizes in found.items():
            queries = {1, 8, 512} if stage == "select" else {1}
            self.assertEqual({n for _, n in sizes}, queries, stage)
            self.assertEqual(len(sizes), 2 * len(queries), stage)
            for profiles in sizes.values():
                self.assertEqual(profiles, [p for p in STAGES[stage] if p not in without], stage)

    def test_lines_are_plausible(self):
        for line in self.json_lines("-m", MODEL, "--ctx", "2k", "--threads", "1"):
            self.assertGreater(line["p10_us"], 0)
            self.assertLessEqual(line["p10_us"], line["median_us"])
            self.assertLessEqual(line["median_us"], line["p90_us"])
            self.assertGreater(line["bytes"], 0)
            self.assertGreater(line["limit_share"], 0)
            self.assertIn(line["limit"], ("int8", "fma", "bandwidth"))
            self.assertEqual(line["threads"], 1)
            peer = line["profile"] == "openblas"
            self.assertEqual(line["backend"], "openblas" if peer else "cpu")

    def test_work_is_that_of_v4_flash(self):
        ctx = 4096
        rows = ctx // 4
        lines = {(line["stage"], line["queries"], line["profile"]): line
                 for line in self.json_lines("--ctx", ctx, "--stage", "select,attend_csa,pack",
                                             "--profile", "legacy,packed,fold,list")}
        score_ops = rows * INDEX_HEADS * 128 * 2
        self.assertEqual(lines["select", 8, "fold"]["ops"], 8 * score_ops)
        self.assertEqual(lines["select", 8, "list"]["ops"], 8 * score_ops)
        self.assertEqual(lines["select", 1, "fold"]["bytes"], rows * 68)
        self.assertEqual(lines["select", 1, "list"]["bytes"], rows * 512)
        self.assertEqual(lines["select", 1, "legacy"]["bytes"], rows * (512 + 8 + 4))
        self.assertEqual(lines["select", 512, "fold"]["limit"], "int8")
        self.assertEqual(lines["select", 512, "list"]["limit"], "fma")
        row_ops = HEADS * 512 * 4
        self.assertEqual(lines["attend_csa", 1, "fold"]["ops"], (WINDOW + TOP_K) * row_ops)
        self.assertEqual(lines["attend_csa", 1, "fold"]["bytes"], (WINDOW + TOP_K) * 584)
        self.assertEqual(lines["attend_csa", 1, "list"]["bytes"], (WINDOW + TOP_K) * 2048)
        self.assertEqual(lines["attend_csa", 1, "packed"]["bytes"],
                         WINDOW * 2048 + TOP_K * 584 + rows * 2)
        self.assertEqual(lines["attend_csa", 1, "legacy"]["ops"], (WINDOW + rows) * row_ops)
        self.assertEqual(lines["pack", 1, "fold"]["bytes"], rows * (2048 + 584))
        self.assertEqual(lines["pack_index", 1, "fold"]["bytes"], rows * (512 + 68))

    def test_a_stage_is_named_by_itself_or_by_its_first_word(self):
        def stages(names):
            lines = self.json_lines("-m", MODEL, "--ctx", "512", "--profile", "fold", "--stage",
                                    names)
            return sorted({line["stage"] for line in lines})
        self.assertEqual(stages("attend_hca_cold"), ["attend_hca_cold"])
        self.assertEqual(stages("attend"), [s for s in sorted(STAGES) if s.startswith("attend")])
        self.assertEqual(stages("step,layer"), ["layer", "step"])

    def test_csv_has_the_same_columns(self):
        rows = self.csv_lines("-m", MODEL, "--ctx", "512", "--stage", "layer")
        self.assertEqual(list(rows[0]), KEYS)
        self.assertEqual([row["profile"] for row in rows], STAGES["layer"])

    def test_each_isa_is_measured_and_named(self):
        best = self.json_lines("-m", MODEL, "--ctx", "512", "--stage", "layer", "--profile",
                               "fold")[0]["isa"]
        lines = self.json_lines("-m", MODEL, "--ctx", "512", "--stage", "layer", "--profile",
                                "fold", "--isa", f"scalar,{best}")
        self.assertEqual([line["isa"] for line in lines], ["scalar", best])
        lines = self.json_lines("-m", MODEL, "--ctx", "512", "--stage", "layer", "--profile",
                                "fold", env={"KVFOLD_ISA": "scalar"})
        self.assertEqual([line["isa"] for line in lines], ["scalar"])

    def test_the_reference_backend_is_measured_too(self):
        lines = self.json_lines("-m", MODEL, "--ctx", "512", "--stage", "layer", "--backend",
                                "ref")
        self.assertEqual({line["backend"] for line in lines}, {"ref"})
        self.assertEqual([line["profile"] for line in lines], STAGES["layer"])

    def test_the_environment_selects_openblas_kernels(self):
        if not self.has_openblas():
            self.skipTest("this build has no OpenBLAS")
        if os.uname().machine != "x86_64":
            self.skipTest("the names of kernels are x86's")
        for core in ("Haswell", "Nehalem"):
            line = self.json_lines("-m", MODEL, "--ctx", "512", "--stage", "attend_csa",
                                   "--profile", "openblas", env={"OPENBLAS_CORETYPE": core})[0]
            self.assertEqual((line["profile"], line["isa"]), ("openblas", core))

    def test_what_does_not_fit_is_left_out_and_said(self):
        self.config_of_model("long", 1 << 30)
        # Every CSA layer has 2^28 rows of 2048 + 512 bytes: 687 GB.
        result = self.good("-m", "long", "--ctx", "512,1G", "--stage", "step", "--profile",
                           "legacy", "--json")
        lines = [json.loads(line) for line in result.stdout.decode().splitlines()]
        self.assertEqual([(line["stage"], line["rows"]) for line in lines], [("step", 128)])
        skipped = [line for line in result.stderr.decode().splitlines() if "left out" in line]
        self.assertEqual(len(skipped), 1)
        self.assertRegex(skipped[0],
                         r"^kvfold: bench: left out: step, legacy at 1G, .* needs \d\.\d+ TB")


class ReportTest(BenchTest):
    def test_people_get_the_machine_and_a_table_a_stage_with_ratios(self):
        text = self.good("-m", MODEL, "--ctx", "2k", "--stage", "layer,attend_csa", "--profile",
                         "legacy,fold,list").stdout.decode()
        self.assertIn("CPU: ", text)
        self.assertRegex(text, r"Peer: (OpenBLAS \S+ with its \S+ kernels|none)")
        self.assertRegex(text, r"(?m)^ +1 +[\d.]+ Gop/s +[\d.]+ Gop/s +[\d.]+ GB/s$")
        tables = re.split(r"\n(?=attend_csa on |attend_csa_cold on |layer on )", text)[1:]
        self.assertEqual(len(tables), 3)
        for table in tables:
            lines = table.rstrip().splitlines()
            self.assertRegex(lines[0], r" on cpu/\w+, \d+ threads?$")
            self.assertIn("x legacy", lines[1])
            self.assertEqual([line.split()[3] for line in lines[2:5]], ["legacy", "fold", "list"])
            self.assertRegex(lines[3], r"% +\d+\.\d\d +\d+\.\d\d *$")  # x legacy, x list

    def test_svg_has_time_and_bytes_of_each_stage_a_line_a_profile(self):
        profiles = ["legacy", "fold", "list"]
        self.good("-m", MODEL, "--ctx", "2k,512,1k", "--stage", "layer,step", "--profile",
                  ",".join(profiles), "--svg", "chart.svg")
        root = xml.etree.ElementTree.parse(self.path("chart.svg")).getroot()
        self.assertEqual(os.listdir(self.folder), ["chart.svg"])
        charts = root.findall(SVG + "g")
        titles = [chart.find(SVG + "text").text for chart in charts]
        self.assertEqual([re.sub(", 1 query.*", "", title) for title in titles],
                         ["Time of layer", "Bytes of layer", "Time of step", "Bytes of step"])
        for chart in charts:
            lines = chart.findall(SVG + "polyline")
            self.assertEqual([line.get("class") for line in lines], [f"line {p}" for p in profiles])
            for line in lines:
                self.assertEqual(len(line.get("points").split()), 3)

    def test_help_explains_the_options(self):
        text = self.kvfold("bench", "--help").stdout.decode()
        self.assertEqual(text, self.kvfold("help", "bench").stdout.decode())
        for word in ("--stage", "--profile", "--ctx", "--isa", "--threads", "--runs", "--quick",
                     "--svg", "--json", "--csv", "OPENBLAS_CORETYPE", *STAGES["layer"], *KEYS,
                     "Examples\n"):
            self.assertIn(word, text)


class RefusalTest(BenchTest):
    def test_wrong_arguments_are_refused_by_name(self):
        self.refused("--stage: no stage 'frobnicate'; there are: pack,", "--stage", "frobnicate")
        self.refused("--stage: no stage ''", "--stage", "pack,")
        self.refused("--stage: no stage 'sel'", "--stage", "sel")
        self.refused("--profile: no profile 'folded'; there are: legacy,", "--profile", "folded")
        self.refused("--runs: '0' is outside 1 .. 200", "--runs", "0")
        self.refused("--runs", "--runs", "201")
        self.refused("--ctx 2,097,152 is more than the model's maximum", "--ctx", "2M")
        self.refused("--isa", "--isa", "scalar,")
        self.refused("no ISA 'sse9'", "--isa", "scalar,sse9")
        self.refused("(KVFOLD_ISA asked for it)", env={"KVFOLD_ISA": "sse9"})
        self.refused("no backend 'gpu'", "--backend", "gpu")
        self.refused("choose one", "--json", "--csv")
        self.refused("choose one", "--profile", "fold", "--profiles", "fold")
        self.refused("--quick takes no value", "--quick=yes")
        self.refused("--stage needs a value", "--stage")
        self.refused("does not apply here", "--chunk", "4")
        self.refused("unexpected argument 'surplus'", "surplus")
        self.refused("config.json", "-m", "/nonexistent")

    def test_a_model_that_has_no_such_context_is_refused(self):
        self.refused("more than the model's maximum", "-m", MODEL, "--ctx", "1G")


if __name__ == "__main__":
    main()
