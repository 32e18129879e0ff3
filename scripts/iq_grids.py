#!/usr/bin/env python3
"""Writes src/shared/iq_grids.h, the code books of ggml's IQ types, from scripts/iq_grids.txt.

usage: iq_grids.py            prints the header
       iq_grids.py --write    writes it
       iq_grids.py --check    status 1 unless the file in the tree is what would be written

The text has a section a code book with the number of its entries and the CRC-32 of them as
little-endian 16-bit numbers; both are checked before anything is written.
"""
import re
import struct
import sys
import zlib
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
DATA = FOLDER / "iq_grids.txt"
HEADER = FOLDER.parent / "src" / "shared" / "iq_grids.h"
SECTION = re.compile(
    r"^\[(?P<name>\w+)\] entries=(?P<entries>\d+) coordinates=(?P<coordinates>\d+) bits=(?P<bits>\d+)"
    r" alphabet=(?P<alphabet>[\d,]+) crc32_of_le16=(?P<crc>[0-9a-f]{8})\n(?P<body>[0-9a-f\s]+)", re.MULTILINE)
PER_LINE = 8

TOP = """\
/*
 * Written by scripts/iq_grids.py from scripts/iq_grids.txt; do not edit.
 *
 * The code books of ggml's IQ types: Copyright (c) 2023-2026 The ggml authors, MIT licence
 * (NOTICE). An entry is packed as low as it goes, value j in its own two or three bits from
 * the lowest on, an index into the values named at the table; shared/iquant.h expands it. Each
 * book is a list of E(entry), for tables of other forms.
 */
#ifndef KVF_SHARED_IQ_GRIDS_H
#define KVF_SHARED_IQ_GRIDS_H

#include "shared/bits.h"

/* clang-format off */
#define KVF_IQ_ENTRY(entry) entry,
"""


def sections(text):
    for match in SECTION.finditer(text):
        numbers = [int(word, 16) for word in match["body"].split()]
        packed = struct.pack("<%dH" % len(numbers), *numbers)
        if len(numbers) != int(match["entries"]) or zlib.crc32(packed) != int(match["crc"], 16):
            sys.exit(f"{DATA}: {match['name']}: not the entries that its checksum is of")
        yield match, numbers


def header():
    parts = [TOP]
    for match, numbers in sections(DATA.read_text(encoding="ascii")):
        values = match["alphabet"].replace(",", " ")
        entries = f"KVF_{match['name'].upper()}_ENTRIES"
        lines = ["    " + " ".join(f"E(0x{n:04x})" for n in numbers[i:i + PER_LINE])
                 for i in range(0, len(numbers), PER_LINE)]
        parts.append(f"/* {match['coordinates']} values of {match['bits']} bits: {values} */\n"
                     + " \\\n".join([f"#define {entries}(E)"] + lines) + "\n"
                     f"KVF_SHARED_TABLE uint16_t kvf_{match['name']}_grid[{len(numbers)}] = "
                     f"{{{entries}(KVF_IQ_ENTRY)}};\n")
    return "\n".join(parts + ["/* clang-format on */", "#endif"]) + "\n"


def main():
    if sys.argv[1:] == ["--write"]:
        HEADER.write_text(header(), encoding="ascii")
    elif sys.argv[1:] == ["--check"]:
        if HEADER.read_text(encoding="ascii") != header():
            sys.exit(f"{HEADER} is not what scripts/iq_grids.py writes: scripts/iq_grids.py --write")
    elif sys.argv[1:]:
        sys.exit(__doc__)
    else:
        print(header(), end="")


if __name__ == "__main__":
    main()
