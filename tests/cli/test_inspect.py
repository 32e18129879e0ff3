#!/usr/bin/env python3
"""kvfold inspect: its numbers against the files, what it finds with --check, what it refuses.

usage: test_inspect.py --kvfold PATH --model DIR [unittest's own arguments]
"""

import hashlib
import json
import os
import shutil
import struct

import checkpoints
from checkpoints import Tensor
from support import MODEL, CliTest, Terminal, main

NAN_F16, INFINITY_F16, ONE_F16 = b"\x00\x7e", b"\x00\xfc", b"\x00\x3c"
# ggml's blocks: bytes, and where their f16 scales are.
F16_SCALES = {
    "Q4_0": (32, 18, [0]), "Q8_0": (32, 34, [0]), "IQ4_NL": (32, 18, [0]),
    "Q2_K": (256, 84, [80, 82]), "Q3_K": (256, 110, [108]), "Q4_K": (256, 144, [0, 2]),
    "Q5_K": (256, 176, [0, 2]), "Q6_K": (256, 210, [208]), "IQ2_XXS": (256, 66, [0]),
    "IQ2_XS": (256, 74, [0]), "IQ2_S": (256, 82, [0]), "IQ3_XXS": (256, 98, [0]),
    "IQ3_S": (256, 110, [0]), "IQ4_XS": (256, 136, [0]),
}
KEYS = ["path", "container", "architecture", "name", "runs", "refused", "files", "mapped_bytes",
        "tensors", "tensor_bytes", "types", "skipped", "surplus", "geometry", "token_bytes",
        "copied_bytes", "fingerprint"]


def is_matrix(name, shape):
    return len(shape) == 2 and not name.endswith((".ape", ".tid2eid"))


def put(data, at, replacement):
    return data[:at] + replacement + data[at + len(replacement):]


class InspectTest(CliTest):
    def inspected(self, path, *arguments, status=0):
        """The JSON object; one line on stderr where the status is 2."""
        result = self.kvfold("inspect", path, "--json", *arguments)
        message = result.stderr.decode()
        self.assertEqual(result.returncode, status, message)
        self.assertEqual(message.count("\n"), 1 if status == 2 else 0, message)
        return json.loads(result.stdout)

    def tiny_numbers(self, shown, tensors):
        """What the object says of the tiny model, counted from its tensors."""
        types = {}
        for tensor in tensors.values():
            count, size = types.get(tensor.dtype, (0, 0))
            types[tensor.dtype] = (count + 1, size + len(tensor.data))
        self.assertEqual({t["type"]: (t["tensors"], t["bytes"]) for t in shown["types"]}, types)
        self.assertEqual(shown["tensor_bytes"], sum(size for _, size in types.values()))

    def test_numbers_are_those_of_the_files(self):
        tensors = checkpoints.read(MODEL)
        shown = self.inspected(MODEL)
        self.assertEqual(list(shown), KEYS)
        self.tiny_numbers(shown, tensors)
        self.assertEqual(shown["tensors"], len(tensors))
        files = [name for name in os.listdir(MODEL) if name.endswith(".safetensors")]
        self.assertEqual(shown["files"], len(files))
        self.assertEqual(shown["mapped_bytes"],
                         sum(os.path.getsize(os.path.join(MODEL, name)) for name in files))
        experts, layers, head, copied = 0, 0, 0, 0
        for name, tensor in tensors.items():
            if not is_matrix(name, tensor.shape):
                copied += 4 * max(1, tensor.shape[0]) * (tensor.shape[1:] or [1])[0]
            elif ".ffn.experts." in name:
                experts += len(tensor.data)
            elif ".layers." in name:
                layers += len(tensor.data)
            elif "embed" in name:
                head += len(tensor.data) // tensor.shape[0]
            else:
                head += len(tensor.data)
        self.assertEqual(shown["copied_bytes"], copied)
        with open(os.path.join(MODEL, "config.json"), encoding="utf-8") as file:
            config = json.load(file)
        used = experts * config["num_experts_per_tok"] // config["n_routed_experts"]
        self.assertEqual(shown["token_bytes"], {"layers": layers, "experts": used, "head": head,
                                                "total": layers + used + head})
        self.assertEqual((shown["container"], shown["architecture"], shown["runs"],
                          shown["refused"], shown["surplus"], shown["skipped"]),
                         ("safetensors", "deepseek_v4", True, None, [], []))

    def test_a_gguf_reads_the_same_bytes_a_token(self):
        path = checkpoints.write_gguf(self.path("tiny.gguf"), MODEL)
        shown, other = self.inspected(path), self.inspected(MODEL)
        for key in ("geometry", "token_bytes", "copied_bytes", "runs"):
            self.assertEqual(shown[key], other[key], key)
        self.assertEqual((shown["container"], shown["architecture"], shown["name"]),
                         ("gguf", "deepseek4", "tiny"))
        self.assertNotEqual(shown["fingerprint"], other["fingerprint"])
        self.assertEqual(self.inspected(self.folder)["fingerprint"], shown["fingerprint"])

    def test_what_is_not_run_is_counted_apart(self):
        extra = [("blk.6.nextn.eh_proj.weight", (4, 32), "F32", bytes(512)),
                 ("blk.7.attn_norm.weight", (8,), "F32", bytes(32)),
                 ("mtp.0.norm.weight", (8,), "F32", bytes(32))]
        shown = self.inspected(checkpoints.write_gguf(self.path("x.gguf"), MODEL, extra=extra))
        self.assertEqual(shown["skipped"], [{"what": "mtp", "tensors": 1, "bytes": 32},
                                            {"what": "layers past the last", "tensors": 2,
                                             "bytes": 544}])
        tensors = checkpoints.read(MODEL)
        tensors["model.mtp.0.e_proj.weight"] = Tensor("BF16", [2, 2], bytes(8))
        tensors["dspark.x"] = Tensor("F32", [1], bytes(4))
        shown = self.inspected(checkpoints.write_folder(self.path("st"), MODEL, tensors))
        self.assertEqual(shown["skipped"], [{"what": "mtp", "tensors": 1, "bytes": 8},
                                            {"what": "dspark", "tensors": 1, "bytes": 4}])
        text = self.good("inspect", "st").stdout.decode()
        self.assertIn("not run: mtp, 1 tensors", text)
        self.assertIn("runs here", text)

    # ---- --check and --sha256 ---------------------------------------------------------

    def test_a_good_checkpoint_passes(self):
        shown = self.inspected(MODEL, "--check", "--sha256")
        self.assertEqual(list(shown), [*KEYS, "faults", "full_sum", "sha256"])
        self.assertEqual(shown["faults"], [])
        for entry in shown["sha256"]:
            with open(entry["file"], "rb") as file:
                self.assertEqual(hashlib.sha256(file.read()).hexdigest(), entry["sha256"])
        self.assertEqual(len(shown["sha256"]), shown["files"])
        self.assertEqual(self.inspected(MODEL, "--sha256")["sha256"], shown["sha256"])

    def faults(self, path):
        shown = self.inspected(path, "--check", status=1)
        return {fault["tensor"]: (fault["count"], fault["what"]) for fault in shown["faults"]}

    def test_values_that_are_no_numbers_are_counted_by_tensor(self):
        tensors = checkpoints.read(MODEL)
        matrix = "model.layers.3.attn.wo_b.weight"
        wide = "model.layers.0.hc_attn_fn"
        fp8, fp4 = "model.layers.1.attn.wq_a", "model.layers.2.ffn.experts.5.w2"
        rows, columns = tensors[fp8 + ".weight"].shape
        out, width = tensors[fp4 + ".weight"].shape
        self.assertEqual((rows % 128, columns % 128, width % 32), (0, 0, 0))
        bf16 = tensors[matrix].data
        for at, bits in ((0, b"\x80\x7f"), (100, b"\xc0\xff"), (len(bf16) - 2, b"\x80\xff")):
            bf16 = put(bf16, at, bits)
        tensors[matrix] = tensors[matrix]._replace(data=bf16)
        f32 = put(tensors[wide].data, 8, struct.pack("<ff", float("inf"), float("nan")))
        tensors[wide] = tensors[wide]._replace(data=f32)
        codes = bytes(range(256)) * (rows * columns // 256)  # each has 0x7f and 0xff once
        n_scales = rows * columns // 128 // 128
        tensors[fp8 + ".weight"] = Tensor("F8_E4M3", [rows, columns], codes)
        tensors[fp8 + ".scale"] = Tensor("F8_E8M0", [rows // 128, columns // 128],
                                         put(bytes(n_scales), n_scales - 1, b"\xff"))
        tensors[fp4 + ".weight"] = Tensor("I8", [out, width // 2], b"\xff" * (out * width // 2))
        tensors[fp4 + ".scale"] = Tensor("U8", [out, width // 32],
                                         put(bytes(out * width // 32), 7, b"\xff\xff"))
        found = self.faults(checkpoints.write_folder(self.path("bad"), MODEL, tensors))
        self.assertEqual(found, {
            matrix: (3, "values that are not finite"), wide: (2, "values that are not finite"),
            fp8 + ".weight": (2 * rows * columns // 256, "NaN codes"),
            fp8 + ".scale": (1, "scales of 255, NaN"), fp4 + ".scale": (2, "scales of 255, NaN")})
        result = self.kvfold("inspect", "bad", "--check")
        self.assertEqual((result.returncode, result.stderr), (1, b""))
        self.assertIn(fp8 + ".scale: 1 scales of 255, NaN", result.stdout.decode())

    def test_scales_of_every_ggml_type(self):
        """Blocks of zeros and scales of one; the first, one inside and the last are damaged."""
        names = [f"blk.{layer}.{stem}.weight" for layer in range(6)
                 for stem in ("attn_q_a", "attn_kv", "ffn_gate_inp")][:len(F16_SCALES)]
        kinds = dict(zip(names, F16_SCALES))
        expected = {}

        def blocks(kind, shape):
            values, size, scales = F16_SCALES[kind]
            block = bytearray(size)
            for at in scales:
                block[at:at + 2] = ONE_F16
            return bytes(block) * (shape[0] * shape[1] // values)

        metadata, tensors = checkpoints.gguf_parts(MODEL)
        stored = []
        for name, shape, kind, data in tensors:
            if name in kinds:
                kind = kinds[name]
                _, size, scales = F16_SCALES[kind]
                data = blocks(kind, shape)
                damaged = sorted({0, len(data) // size // 2, len(data) // size - 1})
                for block in damaged:
                    data = put(data, block * size + scales[-1],
                               NAN_F16 if block % 2 else INFINITY_F16)
                data = put(data, scales[0], NAN_F16)
                expected[name] = (len(damaged) + len(scales) - 1, "f16 scales that are not finite")
            elif name == "output.weight":
                kind, block = "MXFP4", b"\x7f" + bytes(16)
                data = put(block * (shape[0] * shape[1] // 32), 17, b"\xff")
                expected[name] = (1, "scales of 255, which no encoder writes")
            stored.append((name, shape, kind, data))
        checkpoints.gguf.write(self.path("types.gguf"), metadata, stored)
        self.assertEqual(len(expected), len(F16_SCALES) + 1)
        self.assertEqual(self.faults("types.gguf"), expected)

    def test_bytes_behind_the_last_tensor_are_told_and_found(self):
        checkpoints.write_gguf(self.path("x.gguf"), MODEL, tail=bytes(70000))
        surplus = self.inspected("x.gguf")["surplus"]
        self.assertEqual(len(surplus), 1)
        self.assertGreaterEqual(surplus[0]["bytes"], 70000 - 31)
        self.assertEqual(self.kvfold("inspect", "x.gguf", "--check").returncode, 1)

    # ---- --memory -----------------------------------------------------------------------

    def test_memory_fits_with_and_without_the_weights(self):
        shown = self.inspected(MODEL, "--memory", "150M")
        weights = shown["mapped_bytes"] + shown["copied_bytes"]
        self.assertEqual(shown["memory_bytes"], 150 << 20)
        self.assertGreater(shown["largest_ctx_from_disk"], shown["largest_ctx"])
        more = self.inspected(MODEL, "--memory", str((150 << 20) + shown["mapped_bytes"]))
        self.assertEqual(more["largest_ctx"], shown["largest_ctx_from_disk"])
        less = self.inspected(MODEL, "--memory", str(weights - 1))
        self.assertEqual(less["largest_ctx"], 0)
        text = self.good("inspect", MODEL, "--memory", "20M").stdout.decode()
        self.assertIn("no tokens with all weights in memory", text)
        self.assertGreater(self.inspected(MODEL, "--memory", "auto")["memory_bytes"], 0)

    # ---- What it refuses ---------------------------------------------------------------------

    def test_the_rest_is_printed_of_what_does_not_run(self):
        tensors = checkpoints.read(MODEL)
        for name in ("model.layers.2.attn.wkv.weight", "model.layers.4.ffn.experts.7.w3.weight"):
            del tensors[name]
        checkpoints.write_folder(self.path("part"), MODEL, tensors)
        shown = self.inspected("part", status=2)
        self.assertEqual((shown["runs"], shown["fingerprint"]), (False, None))
        self.assertIn("layers.2.attn.wkv.weight", shown["refused"])
        self.tiny_numbers(shown, tensors)
        result = self.kvfold("inspect", "part")
        self.assertEqual(result.stderr.decode(), f"kvfold: inspect: {shown['refused']}\n")
        self.assertIn("2 weights are missing or refused", result.stdout.decode())
        run = self.refused(shown["refused"], "run", "-m", "part", "-p", "a")
        self.assertEqual(run, f"kvfold: run: {shown['refused']}\n")

    def test_another_architecture_is_named(self):
        tensors = {"x": Tensor("F32", [2], bytes(8))}
        checkpoints.write_folder(self.path("other"), MODEL, tensors)
        with open(os.path.join(MODEL, "config.json"), encoding="utf-8") as file:
            config = json.load(file)
        config["model_type"] = "deepseek_v41"
        self.write("other/config.json", json.dumps(config))
        shown = self.inspected("other", status=2)
        self.assertEqual((shown["architecture"], shown["geometry"], shown["tensors"]),
                         ("deepseek_v41", None, 1))
        gguf = checkpoints.gguf
        gguf.write(self.path("v3.gguf"), {"general.architecture": gguf.text("deepseek2")},
                   [("x", (2,), "F32", bytes(8))])
        shown = self.inspected("v3.gguf", status=2)
        self.assertEqual(shown["architecture"], "deepseek2")
        self.assertIn("deepseek2", shown["refused"])

    def test_what_cannot_be_opened_is_one_line(self):
        self.write("text", "no tensors")
        self.write("half.gguf", b"GGUF\x03\0\0\0")
        os.mkdir(self.path("empty"))
        for path in ("missing", "text", "half.gguf", "empty"):
            self.refused(path, "inspect", path)
        self.refused("no model", "inspect")
        self.refused("unexpected argument", "inspect", MODEL, MODEL)
        self.refused("--check", "run", "--check")
        shutil.copytree(MODEL, self.path("copy"))
        os.remove(self.path("copy/model-00002-of-00003.safetensors"))
        self.refused("model-00002-of-00003.safetensors", "inspect", "copy", "--json")

    def test_the_bar_counts_bytes(self):
        """Of a file that is mostly a hole, large enough for the bar to be seen."""
        tensors, hole = checkpoints.read(MODEL), 1 << 28
        entries = checkpoints.header_of(tensors)
        end = max(entry["data_offsets"][1] for entry in entries.values())
        entries["mtp.x"] = {"dtype": "U8", "shape": [hole], "data_offsets": [end, end + hole]}
        path = checkpoints.write_folder(self.path("big"), MODEL, tensors, entries)
        file = os.path.join(path, "model.safetensors")
        os.truncate(file, os.path.getsize(file) + hole)
        terminal = Terminal("inspect", path, "--check", "--sha256")
        self.addCleanup(terminal.close)
        terminal.wait_for(rb"check \[[#.]+\] +\d+%  [\d.]+ .?B/s  \S+ left")
        terminal.wait_for(rb"runs here")
        self.assertEqual(terminal.exit_status(), 0)


if __name__ == "__main__":
    main()
