#!/usr/bin/env python3
"""The text that Apple's compiler will be given: whole by itself, every kernel in it, errors
at the line of the file that a person edits.

usage: test_embedded.py CLANG++ FLAG..
"""
import re
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
EMULATOR = ROOT / "tests" / "metal_emulator"
DEF = (ROOT / "src/backend/gpu/kernels.def").read_text(encoding="ascii")
FILES = re.findall(r"^KVF_GPU_FILE\((\w+)\)", DEF, re.MULTILINE)
KERNELS = re.findall(r"^KVF_GPU_KERNEL\((\w+), (\w+)\)", DEF, re.MULTILINE)
COMPILER = sys.argv[1]
# Without the folder of our headers: only <metal_..> may be looked for. Metal 3 is C++14 and
# has no double: 0.5 is a float there. The stand-in's own headers are not held to that.
IN_ITS_PLACE = {f"-I{ROOT}/src": [], "-std=c++17": ["-std=c++14", "-Werror", "-Wdouble-promotion"],
                f"-I{EMULATOR}/include": ["-isystem", f"{EMULATOR}/include"]}
FLAGS = [new for flag in sys.argv[2:] for new in IN_ITS_PLACE.get(flag, [flag])]


def compile_text(folder, name):
    source = folder / f"{name}.cc"
    options = ["--variant", "any"] if name == "products" else []
    subprocess.run([sys.executable, ROOT / "scripts/gpu_kernels.py", *options,
                    folder / f"{name}.metal", source], check=True)
    return subprocess.run([COMPILER, *FLAGS, "-Wno-unknown-pragmas",
                           "-DKVF_EMULATOR_CHECKED=0", "-fsyntax-only", source],
                          capture_output=True, text=True, cwd=folder)


class Embedded(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.TemporaryDirectory()
        subprocess.run([sys.executable, ROOT / "scripts/embed_kernels.py", ROOT / "src",
                        cls.folder.name], check=True)
        cls.texts = {p.stem: p.read_text(encoding="ascii")
                     for p in Path(cls.folder.name).glob("*.metal")}

    @classmethod
    def tearDownClass(cls):
        cls.folder.cleanup()

    def test_there_is_a_text_of_every_file(self):
        self.assertEqual(sorted(self.texts), sorted(FILES))

    def test_every_kernel_is_in_its_file(self):
        self.assertGreater(len(KERNELS), 0)
        for file, kernel in KERNELS:
            self.assertRegex(self.texts[file], rf"\bkernel\s+void\s+kvf_{kernel}\b")

    def test_nothing_of_ours_is_left_to_include(self):
        for name, text in self.texts.items():
            self.assertNotRegex(text, r'(?m)^\s*#\s*include\s+"', name)

    def test_contraction_is_off_before_the_first_line_of_ours(self):
        for name, text in self.texts.items():
            self.assertTrue(text.startswith("#include <metal_stdlib>\n"
                                            "#pragma METAL fp contract(off)\n#line 1 "), name)
            self.assertEqual(text.count("#pragma METAL"), 1, name)

    def test_every_text_compiles_by_itself(self):
        for name in self.texts:
            done = compile_text(Path(self.folder.name), name)
            self.assertEqual(done.returncode, 0, done.stderr)

    def test_what_is_younger_than_cpp14_is_refused(self):
        text = self.texts["norm"].replace("if (row >= args.n)", "if constexpr (sizeof(row) == 8)")
        self.assertNotEqual(text, self.texts["norm"])
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "norm.metal").write_text(text, encoding="ascii")
            done = compile_text(Path(folder), "norm")
        self.assertIn("constexpr if is a C++17 extension", done.stderr)

    def test_a_literal_of_double_is_refused(self):
        text = self.texts["norm"].replace("1.0f / sqrt(", "1.0 / sqrt(")
        self.assertNotEqual(text, self.texts["norm"])
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "norm.metal").write_text(text, encoding="ascii")
            done = compile_text(Path(folder), "norm")
        self.assertIn("increases floating-point precision", done.stderr)

    def test_an_error_is_at_the_line_of_its_file(self):
        source = (ROOT / "src/backend/gpu/norm.metal").read_text(encoding="ascii")
        lines = source.splitlines()
        line = next(i for i, text in enumerate(lines) if text.startswith("{")) + 2
        with tempfile.TemporaryDirectory() as folder:
            text = self.texts["norm"].replace(lines[line - 1], lines[line - 1] + " tile;")
            self.assertNotEqual(text, self.texts["norm"])
            (Path(folder) / "norm.metal").write_text(text, encoding="ascii")
            done = compile_text(Path(folder), "norm")
            self.assertRegex(done.stderr, rf"backend/gpu/norm\.metal:{line}:\d+: error: ")


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1], verbosity=2)
