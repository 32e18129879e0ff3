#!/usr/bin/env python3
"""Checks what the compiler does not: the house rules that a line of text can show.

usage: check_tree.py [ROOT]     prints one line per finding, exit status 1 if there is any
"""
import re
import shutil
import subprocess
import sys
from pathlib import Path

MAX_FILE_LINES = 800
MAX_FUNCTION_LINES = 70
MAX_DEVICE_LINES = 320  # of the file that names Apple's interface: it holds no logic
FOLDERS = ("include", "src", "tests", "bench", "scripts", "cmake", ".ci")
C_SUFFIXES = {".c", ".h"}
OTHER_C_SUFFIXES = {".m", ".metal", ".cc", ".cu"}
SOURCE_SUFFIXES = C_SUFFIXES | OTHER_C_SUFFIXES | {".def", ".py", ".sh", ".cmake", ".in"}
BUILD_FILES = ("CMakeLists.txt", "CMakePresets.json", "Makefile", "tests/CMakeLists.txt")
CLANG_FORMAT_VERSION = "14"  # others disagree with it about details

UNDONE = re.compile(r"\b(TODO|FIXME|XXX)\b")
# Each lets the compiler change the bits of a result.
UNSAFE_FLAGS = re.compile(r"-ffast-math|-Ofast|-funsafe-math-optimizations|-march=native")
# The library never ends the process, prints, or reads the environment; only the CLI may.
PROCESS_CALLS = re.compile(
    r"\b(exit|_exit|_Exit|quick_exit|abort|getenv|secure_getenv|setenv|putenv"
    r"|printf|vprintf|puts|putchar|perror)\s*\(|\b(stdout|stderr)\b")
# Of libm nothing whose last bit is its own affair: shared/math64.h has it. The command and the
# GPU backend, which has its own anyway, may.
INEXACT_CALLS = re.compile(
    r"\b(exp|exp2|exp10|expm1|log|log2|log10|log1p|logb|pow|cbrt|hypot|sin|cos|sincos|tan|asin|acos"
    r"|atan|atan2|sinh|cosh|tanh|asinh|acosh|atanh|erf|erfc|tgamma|lgamma)[fl]?\s*\(")
MAY_BE_INEXACT = (("src", "cli"), ("src", "backend", "gpu"))
COMMENT_OR_LITERAL = re.compile(
    r'//[^\n]*|/\*.*?\*/|"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])*\'', re.DOTALL)
MERGE_MARK = re.compile(r"(<{7}|={7}|>{7})( |$)")
INCLUDE = re.compile(r'^\s*#\s*include\s+"([^"]+)"', re.MULTILINE)
# What each folder of src/ may include, besides itself, kvfold.h, error.h and checksum.h.
LAYERS = {
    "shared": (),
    "format": ("shared/",),
    "weight": ("shared/",),
    "file": (),
    "text": ("file/",),
    "backend": ("shared/", "format/", "weight/"),
    "cache": ("shared/", "format/", "backend/backend.h"),
    "snapshot": ("shared/", "cache/", "backend/backend.h"),
    "model": ("shared/", "weight/", "file/", "backend/backend.h"),
    "engine": ("clock.h", "file/", "text/", "model/"),
    "server": ("clock.h", "file/", "text/", "model/", "engine/"),
    "cli": ("clock.h", "file/", "text/", "model/", "engine/", "server/", "bench/"),
}


def code_only(text):
    """C text with comments and literals blanked, line numbers kept."""
    return COMMENT_OR_LITERAL.sub(lambda m: re.sub(r"[^\n]", " ", m.group()), text)


def check_text(path, text):
    """Rules of every source file."""
    for number, line in enumerate(text.split("\n"), 1):
        if not line.isascii():
            yield number, "a character that is not ASCII"
        if "\t" in line:
            yield number, "a tab"
        if line != line.rstrip():
            yield number, "space at the end of the line"
        if UNDONE.search(line) and path.name != "check_tree.py":
            yield number, "left undone: " + line.strip()


def check_functions(code):
    """Length of each function: in the house style only its braces stand in column 0."""
    opened = None
    for number, line in enumerate(code.split("\n"), 1):
        if line.rstrip() == "{":
            opened = number
        elif line.startswith("}") and opened:
            length = number - opened + 1
            if length > MAX_FUNCTION_LINES:
                yield opened, f"a function of {length} lines, at most {MAX_FUNCTION_LINES}"
            opened = None


def check_layers(folder, text):
    allowed = (folder + "/", "kvfold.h", "error.h", "checksum.h", *LAYERS[folder])
    for match in INCLUDE.finditer(text):
        included = match.group(1)
        if "/" in included and not included.startswith(allowed):
            yield text.count("\n", 0, match.start(1)) + 1, f"src/{folder} must not know {included}"


def check_c(relative, text):
    """Rules of C files."""
    lines = text.count("\n")
    most = MAX_DEVICE_LINES if relative.suffix == ".m" else MAX_FILE_LINES
    if lines > most:
        yield lines, f"{lines} lines, at most {most}"
    if relative.parts[0] != "src":
        return
    code = code_only(text)
    yield from check_functions(code)
    if relative.parts[1] in LAYERS:
        yield from check_layers(relative.parts[1], text)
    if relative.parts[:2] != ("src", "cli"):
        for number, line in enumerate(code.split("\n"), 1):
            for match in PROCESS_CALLS.finditer(line):
                yield number, f"only src/cli may use {match.group().rstrip('( ')}"
    if relative.suffix != ".metal" and not any(relative.parts[:len(folder)] == folder
                                               for folder in MAY_BE_INEXACT):
        for number, line in enumerate(code.split("\n"), 1):
            for match in INEXACT_CALLS.finditer(line):
                yield number, (f"{match.group().rstrip('( ')} has other bits in another C library; "
                               "use shared/math64.h")


def check_build_file(text):
    for number, line in enumerate(text.split("\n"), 1):
        for match in UNSAFE_FLAGS.finditer(line):
            yield number, f"{match.group()} changes the bits of results"


def check_format(root, files):
    """clang-format, where the version that the style was written for is here."""
    tool = shutil.which("clang-format-" + CLANG_FORMAT_VERSION) or shutil.which("clang-format")
    version = subprocess.run([tool, "--version"], capture_output=True, text=True,
                             check=True).stdout if tool else "none"
    if not re.search(rf"version {CLANG_FORMAT_VERSION}\.", version):
        print(f"clang-format {CLANG_FORMAT_VERSION} is not here: format not checked")
        return []
    run = subprocess.run([tool, "--dry-run", *map(str, files)], cwd=root, capture_output=True,
                         text=True, check=False)
    unformatted = {line.split(":")[0] for line in run.stderr.splitlines() if ": warning: " in line}
    found = [f"{path}: not formatted; `make format` does it" for path in sorted(unformatted)]
    return found or ([run.stderr.strip()] if run.returncode else [])


def findings(root):
    files = sorted(path for folder in FOLDERS for path in (root / folder).rglob("*")
                   if path.is_file() and (path.suffix in SOURCE_SUFFIXES or path.parent.name == ".ci"))
    for path in files:
        relative = path.relative_to(root)
        text = path.read_text(encoding="utf-8")
        found = list(check_text(path, text))
        if path.suffix in C_SUFFIXES | OTHER_C_SUFFIXES:
            found += check_c(relative, text)
        for number, message in found:
            yield f"{relative}:{number}: {message}"
    for path in sorted([*root.glob("*.md"), *(root / "docs").glob("*.md")]):
        for number, line in enumerate(path.read_text(encoding="utf-8").split("\n"), 1):
            if MERGE_MARK.match(line):
                yield f"{path.relative_to(root)}:{number}: a mark of a merge"
    for path in [root / name for name in BUILD_FILES] + sorted((root / "cmake").iterdir()):
        for number, message in check_build_file(path.read_text(encoding="utf-8")):
            yield f"{path.relative_to(root)}:{number}: {message}"
    yield from check_format(root, [path.relative_to(root) for path in files
                                   if path.suffix in C_SUFFIXES])


def main():
    root = Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).parent.parent).resolve()
    found = list(findings(root))
    for line in found:
        print(line)
    print(f"{len(found)} findings")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
