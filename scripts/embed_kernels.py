#!/usr/bin/env python3
"""Makes the C source file that holds the GPU kernels as text (src/backend/gpu/sources.h).

usage: embed_kernels.py SRC_FOLDER OUTPUT

The headers that a file includes by "name" are put in its place, once each, since the
compiler that will read the text finds no files of ours; lists (.def) wherever they are
included. #line keeps its messages right.
backend/gpu/kernels.def says which files. With OUTPUT a folder, the texts themselves are
written there, for tests.
"""

import re
import sys
from pathlib import Path

BYTES_A_LINE = 16
INCLUDE = re.compile(r'^\s*#\s*include\s+"([^"]+)"')


def flattened(path, root, seen):
    """The file's lines with the project's headers in them, each once."""
    seen.append(path)
    lines = [f'#line 1 "{path.relative_to(root)}"']
    for number, line in enumerate(path.read_text(encoding="ascii").splitlines(), 1):
        include = INCLUDE.match(line)
        if not include:
            lines.append(line)
            continue
        header = root / include.group(1)
        if not header.is_file():
            sys.exit(f"{path}:{number}: error: {include.group(1)} is not in {root}")
        if header not in seen or header.suffix == ".def":
            lines += flattened(header, root, seen)
        lines.append(f'#line {number + 1} "{path.relative_to(root)}"')
    return lines


def text_of(path, root):
    # No option of MTLCompileOptions forbids contraction, the safe math mode neither: only this
    # does, from where it stands on, so that Metal's headers come before it and our text after.
    return "\n".join(["#include <metal_stdlib>", "#pragma METAL fp contract(off)",
                      *flattened(path, root, [])]) + "\n"


def array_of(name, text):
    data = text.encode("ascii") + b"\0"
    lines = ["    " + " ".join(f"{byte}," for byte in data[start:start + BYTES_A_LINE])
             for start in range(0, len(data), BYTES_A_LINE)]
    return "\n".join([f"static const char {name}[] = {{", *lines, "};"])


def main():
    if len(sys.argv) != 3:
        sys.exit(__doc__.strip())
    root = Path(sys.argv[1]).resolve()
    output = Path(sys.argv[2])
    folder = root / "backend" / "gpu"
    names = re.findall(r"^KVF_GPU_FILE\((\w+)\)", (folder / "kernels.def").read_text("ascii"),
                       re.MULTILINE)
    texts = {name: text_of(folder / f"{name}.metal", root) for name in names}
    if output.is_dir():
        for name, text in texts.items():
            (output / f"{name}.metal").write_text(text, encoding="ascii")
        return
    parts = ["/* Made by scripts/embed_kernels.py; changes are lost. */",
             '#include "backend/gpu/sources.h"', ""]
    parts += [array_of(f"{name}_source", text) for name, text in texts.items()]
    parts += ["", "const char *const kvf_gpu_sources[KVF_GPU_FILE_COUNT] = {"]
    parts += [f"    [KVF_GPU_FILE_{name}] = {name}_source," for name in texts]
    output.write_text("\n".join(parts) + "\n};\n", encoding="ascii")


if __name__ == "__main__":
    main()
