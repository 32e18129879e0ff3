#!/usr/bin/env python3
"""kvfold plan: its bytes, tables, files and the contexts that fit.

usage: test_plan.py --kvfold PATH --model DIR [unittest's own arguments]
"""

import json
import math
import os
import xml.etree.ElementTree

import checkpoints
from support import MODEL, PROFILES, SVG, CliTest, main

# docs/FORMAT.md 8: session bytes of DeepSeek-V4-Flash.
FORMAT_TABLE = {
    8192: (136750476, 91399564, 71912844, 44759436),
    16384: (249505164, 158803340, 119829900, 73580940),
    32768: (475014540, 293610892, 215664012, 131223948),
    65536: (926033292, 563225996, 407332236, 246509964),
    1048576: (14456595852, 8651679116, 6157378956, 3705090444),
}

PLAN_KEYS = [
    "ctx", "profile", "session_bytes", "allocated_bytes", "snapshot_bytes", "scratch_bytes",
    "table_bytes", "total_bytes", "checkpoint_bytes", "chunk_undo_bytes", "pool_bytes",
    "weights_mapped_bytes", "weights_copied_bytes", "weights", "buffers",
]


def v4_flash_tensors():
    """{(type, of the layer that predicts a further token): [tensors, bytes]} of the release."""
    hidden, heads, rank, groups, width, experts, vocabulary = 4096, 64, 1024, 8, 2048, 256, 129280
    sizes = {"BF16": 2, "F32": 4, "F8_E4M3": 1, "F8_E8M0": 1, "I64": 8, "I8": 1}
    found = {}

    def add(kind, *shape, count=1, extra=False):
        entry = found.setdefault((kind, extra), [0, 0])
        entry[0] += count
        entry[1] += count * math.prod(shape) * sizes[kind]

    def fp8(rows, columns, extra=False):
        add("F8_E4M3", rows, columns, extra=extra)
        add("F8_E8M0", rows // 128, columns // 128, extra=extra)

    def head(extra):
        add("BF16", hidden, extra=extra)
        for shape in ((4, 4 * hidden), (4,), (1,)):
            add("F32", *shape, extra=extra)

    def layer(ratio, hashed, extra=False):
        add("BF16", hidden, count=2, extra=extra)
        for shape in ((24, 4 * hidden), (24,), (3,)):
            add("F32", *shape, count=2, extra=extra)
        add("F32", heads, extra=extra)
        for shape in ((rank, hidden), (512 * heads, rank), (512, hidden),
                      (groups * 1024, 512 * heads // groups), (hidden, groups * 1024)):
            fp8(*shape, extra)
        add("BF16", rank, extra=extra)
        add("BF16", 512, extra=extra)
        if ratio == 4:
            fp8(64 * 128, rank)
            add("BF16", 64, hidden)
            for parts in (2 * 512, 2 * 128):
                add("F32", 4, parts)
                add("BF16", parts, hidden, count=2)
                add("BF16", parts // 2)
        elif ratio == 128:
            add("F32", 128, 512)
            add("BF16", 512, hidden, count=2)
            add("BF16", 512)
        add("BF16", experts, hidden, extra=extra)
        add(*(("I64", vocabulary, 6) if hashed else ("F32", experts)), extra=extra)
        for shape in ((width, hidden), (width, hidden), (hidden, width)):
            add("I8", shape[0], shape[1] // 2, count=experts, extra=extra)
            add("F8_E8M0", shape[0], shape[1] // 32, count=experts, extra=extra)
            fp8(*shape, extra)
    add("BF16", vocabulary, hidden, count=2)
    head(False)
    for i in range(43):
        layer(0 if i < 2 else 4 if i % 2 == 0 else 128, i < 3)
    layer(0, False, extra=True)
    head(True)
    add("BF16", hidden, count=2, extra=True)
    fp8(hidden, hidden, True)
    fp8(hidden, hidden, True)
    return found


class PlanTest(CliTest):
    def test_session_bytes_equal_the_format_to_the_byte(self):
        lines = self.json_lines("plan", "-m", "v4-flash", "--ctx",
                                ",".join(map(str, FORMAT_TABLE)))
        got = {(line["ctx"], line["profile"]): line["session_bytes"] for line in lines}
        expected = {(ctx, profile): held for ctx, row in FORMAT_TABLE.items()
                    for profile, held in zip(PROFILES, row)}
        self.assertEqual(got, expected)

    def test_json_has_the_documented_keys_and_totals_that_add_up(self):
        lines = self.json_lines("plan", "-m", "v4-flash", "--ctx", "1000,1M")
        self.assertEqual(len(lines), 8)
        for line in lines:
            self.assertEqual(list(line), PLAN_KEYS)
            for buffer in line["buffers"]:
                self.assertEqual(list(buffer), ["name", "dtype", "shape", "bytes"])
            self.assertEqual(sum(b["bytes"] for b in line["buffers"]), line["total_bytes"])
            self.assertGreater(line["total_bytes"],
                               line["allocated_bytes"] + line["table_bytes"] + line["scratch_bytes"])
            self.assertEqual([b["bytes"] for b in line["buffers"] if b["name"] == "tables"],
                             [line["table_bytes"]])
            self.assertGreaterEqual(line["allocated_bytes"], line["session_bytes"])

    def test_checkpoints_are_counted_beside_the_totals(self):
        lines = self.json_lines("plan", "-m", "v4-flash", "--ctx", "512,1M", "--profile", "fold")
        windows, halves, logits, state = 43 * 2 * 37440, 21 * 20480, 4 * 129280, 12206080
        for line, count in zip(lines, (4, 8)):
            self.assertEqual(line["checkpoint_bytes"], count * (windows + halves + logits))
            # Both ends of a long chunk may lie inside pages: 3 before it, 3 behind it, of which 2 are the plan's.
            self.assertEqual(line["chunk_undo_bytes"], 2 * windows + state + halves + logits)
            # As many pages as fit into 1 MiB, but one, of rows, of index rows and of two states.
            self.assertEqual(line["pool_bytes"], 27 * 37440 + 239 * 4352 + 15 * 65536 + 63 * 16384)

    def test_scratch_is_what_the_format_promises(self):
        lines = self.json_lines("plan", "-m", "v4-flash", "--ctx", "1M", "--chunk", "4096")
        scratch = {line["profile"]: line["scratch_bytes"] for line in lines}
        self.assertAlmostEqual(scratch["legacy"] / 1e9, 8.59, delta=0.1)
        self.assertAlmostEqual(scratch["packed"] / 1e9, 2.68, delta=0.1)
        self.assertLessEqual(scratch["fold"], 64 << 20)

    def test_default_contexts_end_at_the_models_maximum(self):
        contexts = sorted({line["ctx"] for line in self.json_lines("plan", "-m", "v4-flash")})
        self.assertEqual([c // 1024 for c in contexts], [8, 16, 32, 64, 96, 128, 256, 512, 1024])
        self.config_of_model("short", 40000)
        contexts = sorted({line["ctx"] for line in self.json_lines("plan", "-m", "short")})
        self.assertEqual(contexts, [8192, 16384, 32768])
        self.refused("40,000", "plan", "-m", "short", "--ctx", "8k,64k")

    def test_keys_of_the_config_that_nobody_knows_are_told_or_refused(self):
        folder = self.config_of_model("model", 1 << 20)
        with open(folder + "/config.json", encoding="utf-8") as file:
            config = json.load(file)

        def plan_with(**keys):
            self.write("model/config.json", json.dumps({**config, **keys}))
            return self.kvfold("plan", "-m", "model", "--ctx", "8k", "--json")
        plain = plan_with()
        self.assertEqual(plain.stderr, b"")
        told = plan_with(foo=1, bar={"rope": 2})
        self.assertEqual(told.stderr, b"kvfold: plan: note: config.json has 2 keys that nothing is "
                                      b"known of, passed over: foo, bar\n")
        self.assertEqual((told.returncode, told.stdout), (0, plain.stdout))
        refused = plan_with(attn_logit_softcapping=50)
        self.assertEqual((refused.returncode, refused.stdout), (2, b""))
        self.assertIn(b'"attn_logit_softcapping" is 50; nothing is known', refused.stderr)

    def test_csv_has_the_same_numbers(self):
        arguments = ["plan", "-m", "v4-flash", "--ctx", "8k,1M", "--profile", "fold,legacy"]
        lines = self.json_lines(*arguments)
        rows = self.csv_lines(*arguments)
        self.assertEqual(list(rows[0]), PLAN_KEYS[:-2])
        self.assertEqual(len(rows), len(lines))
        for row, line in zip(rows, lines):
            self.assertEqual(row, {key: str(line[key]) for key in PLAN_KEYS[:-2]})

    def test_tables_are_aligned_and_buffers_listed(self):
        text = self.good("plan", "-m", "v4-flash", "--ctx", "8k,1M", "--buffers").stdout.decode()
        table = text[text.index("Session bytes"):].splitlines()
        self.assertEqual(len({len(line) for line in table[1:4]}), 1)
        self.assertIn("14,456,595,852", table[3])
        self.assertIn("74.4%", table[3])
        self.assertRegex(text, r"layer\.2\.rows +cache +fp8_f16 +4096 x 64 x 512 +\d")

    def test_largest_context_is_the_largest(self):
        memory, weights = 20 << 30, 3 << 30
        line = next(line for line in self.json_lines(
            "plan", "-m", "v4-flash", "--ctx", "8k", "--profile", "legacy", "--memory", "20G",
            "--weights", "3G") if "largest_ctx" in line)
        self.assertEqual(line["memory_bytes"], memory)
        self.assertEqual(line["weights_bytes"], weights)
        largest = line["largest_ctx"]
        totals = [sum(line[key] for key in ("total_bytes", "checkpoint_bytes", "chunk_undo_bytes",
                                            "pool_bytes"))
                  for line in self.json_lines(
            "plan", "-m", "v4-flash", "--profile", "legacy", "--ctx", f"{largest},{largest + 1}")]
        self.assertLessEqual(totals[0], memory - weights)
        self.assertGreater(totals[1], memory - weights)

    def test_memory_counts_the_checkpoint_and_says_what_does_not_fit(self):
        line = self.json_lines("plan", "-m", MODEL, "--ctx", "1k", "--memory", "1G")[-1]
        files = sum(os.path.getsize(os.path.join(MODEL, name)) for name in os.listdir(MODEL)
                    if name.endswith(".safetensors"))
        plan = self.json_lines("plan", "-m", MODEL, "--ctx", "1k")[0]
        self.assertEqual(plan["weights_mapped_bytes"], files)
        self.assertEqual(line["weights_bytes"], files + plan["weights_copied_bytes"])
        text = self.good("plan", "-m", MODEL, "--ctx", "1k", "--memory", "1M").stdout.decode()
        self.assertIn("does not fit", text)

    def test_v4_flash_counts_the_release(self):
        line = self.json_lines("plan", "-m", "v4-flash", "--ctx", "8k", "--profile", "fold")[0]
        want, skipped = {}, [0, 0]
        for (kind, extra), (count, size) in v4_flash_tensors().items():
            entry = want.setdefault(kind, [0, 0])
            for numbers in (entry, skipped) if extra else (entry,):
                numbers[0] += count
                numbers[1] += size
        self.assertEqual({entry["type"]: [entry["tensors"], entry["bytes"]]
                          for entry in line["weights"]}, want)
        self.assertEqual(line["weights_mapped_bytes"], 159609485896)
        text = self.good("plan", "-m", "v4-flash", "--ctx", "8k").stdout.decode()
        self.assertIn(f"not run: mtp, {skipped[1] / 1e9:.3f} GB of them", text)
        self.assertRegex(text, r"all +69,187  159,609,485,896  159\.6 GB")

    def test_v4_flash_fits_with_weights_on_the_disk(self):
        def largest(*arguments):
            line = self.json_lines("plan", "-m", "v4-flash", "--ctx", "8k", "--profile", "fold",
                                   *arguments)[-1]
            return line["largest_ctx"], line["largest_ctx_from_disk"]
        self.assertEqual(largest("--memory", "24G"), (0, 1 << 20))
        beside, from_disk = largest("--memory", "150G")
        self.assertEqual((from_disk, 0 < beside <= 1 << 20), (1 << 20, True))
        self.assertEqual(largest("--memory", "24G", "--weights", "0"), (1 << 20, 1 << 20))
        text = self.good("plan", "-m", "v4-flash", "--memory", "24G").stdout.decode()
        self.assertIn("in 24G bytes beside 159.6 GB of weights\n  legacy  does not fit", text)
        self.assertIn("read from the disk", text)

    def test_weights_are_counted_as_they_are_stored(self):
        checkpoints.write_gguf(self.path("tiny.gguf"), MODEL)
        for path, files in ((MODEL, [os.path.join(MODEL, name) for name in os.listdir(MODEL)
                                     if name.endswith(".safetensors")]),
                            ("tiny.gguf", [self.path("tiny.gguf")])):
            plan = self.json_lines("plan", "-m", path, "--ctx", "1k", "--profile", "fold")[0]
            shown = json.loads(self.good("inspect", path, "--json").stdout)
            self.assertEqual(plan["weights"], shown["types"])
            self.assertEqual(plan["weights_mapped_bytes"], sum(map(os.path.getsize, files)))
            # Of vectors and tables, whatever they are stored as: 4 bytes a value.
            self.assertEqual(plan["weights_copied_bytes"], sum(
                4 * math.prod(tensor.shape) for name, tensor in checkpoints.read(MODEL).items()
                if len(tensor.shape) == 1 or name.endswith((".ape", ".tid2eid"))))

    def test_a_config_alone_is_planned_and_weights_that_are_damaged_are_told(self):
        folder = self.config_of_model("alone", 1 << 20)
        plan = self.kvfold("plan", "-m", folder, "--ctx", "8k", "--json")
        self.assertEqual(plan.stderr, b"")
        line = json.loads(plan.stdout.splitlines()[0])
        self.assertEqual((line["weights"], line["weights_mapped_bytes"]), ([], 0))
        self.write("alone/model.safetensors", b"\x10")
        plan = self.kvfold("plan", "-m", folder, "--ctx", "8k")
        self.assertEqual((plan.returncode, plan.stderr.count(b"\n")), (0, 1))
        self.assertIn(b"note: the weights are not counted: ", plan.stderr)
        self.refused("model.safetensors", "plan", "-m", folder, "--memory", "1G")

    def test_threads_and_tile_change_scratch_only_where_they_should(self):
        def scratch(*arguments, env=None):
            return {line["profile"]: line["scratch_bytes"] for line in self.json_lines(
                "plan", "-m", "v4-flash", "--ctx", "64k", *arguments, env=env)}
        plain = scratch()
        tiled = scratch(env={"DS4_INDEXER_SCORE_TILE": "1024"})
        for profile in PROFILES:
            more = 512 * (65536 // 4) * 4 if profile in ("tiled", "packed") else 0
            self.assertEqual(tiled[profile] - plain[profile], more, profile)
            self.assertGreater(scratch("--threads", "4")[profile], plain[profile])

    def test_workspaces_are_those_of_the_backend_that_was_asked_for(self):
        def buffers(*arguments):
            line, = self.json_lines("plan", "-m", "v4-flash", "--ctx", "64k", "--profile", "fold", *arguments)
            return {buffer["name"]: buffer["bytes"] for buffer in line["buffers"]}
        cpu, ref = buffers(), buffers("--backend", "ref")
        self.assertEqual(cpu, buffers("--backend", "cpu"))
        self.assertEqual({name for name in cpu if cpu[name] != ref[name]},
                         {"attend.workspace", "select.workspace"})
        # Maximum and denominator a head; the scores of a query's list: by one thread.
        self.assertEqual((ref["attend.workspace"], ref["select.workspace"]), (2 * 4 * 64, 4 * 512))
        self.assertEqual(buffers("--backend", "ref", "--threads", "4"), ref)
        self.refused("no backend 'gpu'", "plan", "-m", "v4-flash", "--backend", "gpu")

    def test_environment_does_not_narrow_a_plan(self):
        lines = self.json_lines("plan", "-m", "v4-flash", "--ctx", "8k",
                                env={"DS4_DISABLE_KV_OPTS": "1"})
        self.assertEqual([line["profile"] for line in lines], PROFILES)

    def test_svg_is_well_formed_with_a_labelled_line_a_profile(self):
        self.good("plan", "-m", "v4-flash", "--ctx", "1M,8k,8k,100000", "--svg", "chart.svg")
        root = xml.etree.ElementTree.parse(self.path("chart.svg")).getroot()
        lines = root.findall(SVG + "polyline")
        self.assertEqual([line.get("class") for line in lines], [f"line {p}" for p in PROFILES])
        for line in lines:
            points = [tuple(map(float, point.split(","))) for point in line.get("points").split()]
            self.assertEqual(len(points), 3)
            self.assertEqual(points, sorted(points))  # to the right ..
            self.assertGreater(points[0][1], points[-1][1])  # .. and up
        labels = [text.text for text in root.findall(SVG + "text")
                  if (text.get("class") or "").startswith("label")]
        self.assertEqual([label.split(",")[0] for label in labels], PROFILES)
        self.assertIn("prefers-color-scheme:dark", root.find(SVG + "style").text)
        self.assertEqual(os.listdir(self.folder), ["chart.svg"])

    def test_svg_of_one_context_and_of_a_strange_folder_is_well_formed(self):
        strange = self.path("a<b>&\"\N{SNOWMAN}")
        os.symlink(MODEL, strange)
        self.good("plan", "-m", strange, "--ctx", "4k", "--profile", "fold", "--svg", "one.svg")
        root = xml.etree.ElementTree.parse(self.path("one.svg")).getroot()
        self.assertEqual(len(root.findall(SVG + "polyline")), 1)

    def test_svg_ticks_are_powers_of_two_that_lie_in_the_plot(self):
        for contexts, expected in (("1", ["1", "2"]), ("2", ["1", "2", "4"]), ("3", ["2", "4"]),
                                   ("1000001,1000002", ["512k", "1M"]), ("1M", ["512k", "1M", "2M"]),
                                   ("1,2", ["1", "2"]), ("5k,7k", ["4k", "8k"])):
            self.good("plan", "-m", "v4-flash", "--ctx", contexts, "--svg", "ticks.svg")
            root = xml.etree.ElementTree.parse(self.path("ticks.svg")).getroot()
            ticks = [text for text in root.findall(SVG + "text") if text.get("class") == "tick"]
            across = [text for text in ticks if text.get("text-anchor") == "middle"]
            self.assertEqual([text.text for text in across], expected, contexts)
            places = [float(text.get("x")) for text in across]
            self.assertEqual(places, sorted(set(places)))
            self.assertTrue(84 <= places[0] and places[-1] <= 712, places)
            self.assertGreater(len(ticks) - len(across), 1)
        self.refused("outside 1", "plan", "-m", "v4-flash", "--ctx", "0", "--svg", "none.svg")

    def test_svg_of_a_long_path_keeps_its_title_on_the_page(self):
        self.config_of_model("x" * 200, 1 << 20)
        self.good("plan", "-m", "x" * 200, "--ctx", "8k", "--svg", "long.svg")
        root = xml.etree.ElementTree.parse(self.path("long.svg")).getroot()
        title = next(text.text for text in root.findall(SVG + "text") if text.get("class") == "title")
        self.assertEqual(title, "Session bytes against context: ..." + "x" * 40)
        self.assertIn("x" * 200, root.find(SVG + "title").text)

    def test_svg_that_cannot_be_written_leaves_nothing(self):
        result = self.kvfold("plan", "-m", "v4-flash", "--svg", "nosuchfolder/chart.svg")
        self.assertEqual(result.returncode, 2)
        self.assertIn(b"nosuchfolder/chart.svg", result.stderr)
        self.assertEqual(os.listdir(self.folder), [])
        self.assertEqual(self.kvfold("plan", "-m", "v4-flash", "--svg", "/dev/null").returncode, 2)


if __name__ == "__main__":
    main()
