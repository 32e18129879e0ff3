"""Which GGUF files are read: the crafted ones, and whether the writer's files are."""
import sys
import unittest
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "oracle"))
import gguf
import gguf_cases
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
            self.assertEqual(self.ask(path).line, "ok 3 0")


if __name__ == "__main__":
    main()
