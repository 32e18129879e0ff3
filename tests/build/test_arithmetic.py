#!/usr/bin/env python3
"""Flags of the user's that break arithmetic change nothing that is compiled.

usage: test_arithmetic.py --source DIR --compiler PATH [unittest's own arguments]

The project is configured with such flags, wherever CMake takes flags from, and a few of its
sources are compiled: the objects are those of a build without them, byte for byte.
"""

import argparse
import os
import shutil
import subprocess
import tempfile
import unittest

_parser = argparse.ArgumentParser()
_parser.add_argument("--source", required=True)
_parser.add_argument("--compiler", required=True)
_options, _unittest_arguments = _parser.parse_known_args()

# Sources that a compiler would change if it were let: sums, divisions, NaN, roots, exp.
SOURCES = ["src/backend/cpu/dense.c", "src/backend/cpu/experts.c", "src/backend/cpu/pack.c",
           "src/backend/ref/attend.c", "src/backend/cpu/kernels_scalar.c",
           "src/backend/cpu/products_scalar.c"]
HEADER = "src/arithmetic.h"


def compiler_takes(flag):
    with tempfile.TemporaryDirectory() as folder:
        source = os.path.join(folder, "a.c")
        with open(source, "w", encoding="utf-8") as file:
            file.write("int main(void) { return 0; }\n")
        return subprocess.run([_options.compiler, "-Werror", flag, "-c", source, "-o",
                               os.path.join(folder, "a.o")], capture_output=True,
                              check=False).returncode == 0


class FlagsTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.mkdtemp(prefix="kvfold-build-")
        cls.addClassCleanup(shutil.rmtree, cls.folder)
        cls.plain = cls.build("plain")

    @classmethod
    def build(cls, name, *definitions, **variables):
        """The objects of SOURCES in a build that is configured so."""
        build = os.path.join(cls.folder, name)
        environment = {key: value for key, value in os.environ.items()
                       if key not in ("CFLAGS", "LDFLAGS")}
        environment.update(variables)
        configure = ["cmake", "-G", "Ninja", "-S", _options.source, "-B", build,
                     "-DCMAKE_C_COMPILER=" + _options.compiler, "-DCMAKE_BUILD_TYPE=Release",
                     "-DCMAKE_C_FLAGS_RELEASE=-O2", "-DKVF_ZSTD=none",
                     "-DKVF_CLI=OFF", "-DKVF_TESTS=OFF", *definitions]
        objects = ["CMakeFiles/kvfold_objects.dir/" + source + ".o" for source in SOURCES]
        for command in (configure, ["cmake", "--build", build, "--target", *objects]):
            run = subprocess.run(command, env=environment, stdout=subprocess.PIPE,
                                 stderr=subprocess.STDOUT, check=False)
            if run.returncode:
                raise AssertionError(run.stdout.decode())
        contents = []
        for path in objects:
            with open(os.path.join(build, path), "rb") as file:
                contents.append(file.read())
        return contents

    def unchanged(self, name, *definitions, **variables):
        for source, got, expected in zip(SOURCES, self.build(name, *definitions, **variables),
                                         self.plain):
            self.assertEqual(got, expected, f"{name}: {source} is compiled to something else")

    def test_flags_for_all_builds(self):
        flags = ["-ffast-math", "-ffp-contract=fast", "-fno-signed-zeros"]
        self.unchanged("all", "-DCMAKE_C_FLAGS=" + " ".join(flags))

    def test_single_flags_one_after_the_other(self):
        # Each switches on what another one would switch off again.
        flags = ["-funsafe-math-optimizations", "-ffinite-math-only", "-fassociative-math",
                 "-fno-trapping-math", "-freciprocal-math", "-fno-signed-zeros",
                 "-fsingle-precision-constant", "-fexcess-precision=fast", "-mfpmath=387",
                 "-fapprox-func", "-fdenormal-fp-math=positive-zero", "-fveclib=libmvec"]
        self.unchanged("single", "-DCMAKE_C_FLAGS=" + " ".join(filter(compiler_takes, flags)))

    def test_flags_of_the_build_type(self):
        self.unchanged("type", "-DCMAKE_C_FLAGS_RELEASE=-Ofast -O2 -ffp-contract=fast")

    def test_flags_of_the_environment(self):
        self.unchanged("environment", CFLAGS="-Ofast -O2 -ffast-math", LDFLAGS="-ffast-math")

    def test_flags_after_the_projects_own_are_refused(self):
        header = os.path.join(_options.source, HEADER)
        flags = ["-ffast-math", "-ffinite-math-only", "-m32", "-mfpmath=387"]
        refused = [flag for flag in flags if compiler_takes(flag)]
        self.assertIn("-ffast-math", refused)
        with tempfile.TemporaryDirectory() as folder:
            source = os.path.join(folder, "a.c")
            with open(source, "w", encoding="utf-8") as file:
                file.write("int main(void) { return 0; }\n")
            command = [_options.compiler, "-fsyntax-only", "-include", header, source]
            self.assertEqual(subprocess.run(command, check=False).returncode, 0)
            for flag in refused:
                run = subprocess.run([*command, flag], stderr=subprocess.PIPE, check=False)
                self.assertNotEqual(run.returncode, 0, flag)
                self.assertIn(b"compile ", run.stderr, flag)


if __name__ == "__main__":
    unittest.main(argv=[__file__, *_unittest_arguments])
