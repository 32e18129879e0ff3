"""Which GGUF files are read: the crafted ones, and whether the writer's files are."""
import sys
import unittest
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "oracle"))
import gguf
import gguf_cases
import tiny_gguf
from tensor_files import FileTest, main


class Gguf(FileTest):
    def test_crafted_files(self):
        for name, content in gguf_cases.cases().items():
            got = self.open(content)
            with self.subTest(name, answer=got.line):
                self.assertEqual(got.ok, name in gguf_cases.READ)

    def test_whole_files_of_the_writer(self):
        tensors = [(f"t{i}", (i % 3 + 1, 5, kind.values), name, bytes((i % 3 + 1) * 5 * kind.bytes))
                   for i, (name, kind) in enumerate(gguf.TYPES.items())]
        for alignment in (1, 8, 32, 4096):
            for version in (2, 3):
                got = self.open(gguf.contents({"general.architecture": gguf.text("x")}, tensors,
                                              alignment, version))
                self.assertEqual(got.line, f"ok {len(tensors)} 0")

    def test_split_files_of_the_writer(self):
        stem = str(self.folder / "split")
        parts = [[("a", (4,), "F32", bytes(16))], [], [("b", (2, 32), "Q8_0", bytes(68)),
                                                      ("c", (1,), "F16", bytes(2))]]
        for path in gguf.write_split(stem, {"general.architecture": gguf.text("x")}, parts, 64):
            self.assertEqual(self.ask("open", path).line, "ok 3 0")

    def test_the_tiny_checkpoint_has_the_same_weights_as_a_gguf(self):
        checkpoint = tiny_gguf.load(self.model)
        tensors = tiny_gguf.tensors(checkpoint)
        metadata = tiny_gguf.metadata(checkpoint)
        path = self.folder / "tiny.gguf"
        gguf.write(path, metadata, tensors)
        self.assertEqual(self.ask("compare", self.model, path).line, "ok 304 0")
        parts = gguf.write_split(str(self.folder / "tiny"), metadata, [tensors[::3], tensors[1::3],
                                                                      tensors[2::3]])
        self.assertEqual(self.ask("compare", self.model, parts[1]).line, "ok 304 0")
        # A layer that only predicts further tokens, as llama.cpp's converter writes it.
        key = "deepseek4.block_count"
        nextn = [("blk.6.nextn.eh_proj.weight", (2, 2), "F32", bytes(16)),
                 ("blk.6.attn_norm.weight", (2,), "F32", bytes(8))]
        gguf.write(path, {**metadata, key: gguf.u32(7)}, tensors + nextn)
        self.assertEqual(self.ask("compare", self.model, path).line, "ok 304 2")
        # What is missing and what differs is seen (all 304 were found above).
        for left_out in range(0, len(tensors), 29):
            gguf.write(path, metadata, tensors[:left_out] + tensors[left_out + 1:])
            got = self.ask("compare", self.model, path)
            self.assertFalse(got.ok)
            self.assertIn(f"no tensor \"{tensors[left_out][0]}\"", got.message)
        for changed in range(5, len(tensors), 43):
            name, shape, kind, data = tensors[changed]
            other = (name, shape, kind, data[:-1] + bytes([data[-1] ^ 1]))
            gguf.write(path, metadata, tensors[:changed] + [other] + tensors[changed + 1:])
            self.assertEqual(self.ask("compare", self.model, path).message, f"{name} differs")


if __name__ == "__main__":
    main()
