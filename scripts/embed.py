#!/usr/bin/env python3
"""Makes a C source file that holds a text file's bytes as an array (see src/cli/text.h).

usage: embed.py INPUT OUTPUT
"""

import sys

BYTES_A_LINE = 16


def main():
    if len(sys.argv) != 3:
        sys.exit(__doc__.strip().splitlines()[-1])
    with open(sys.argv[1], "rb") as source:
        data = source.read()
    if not data:
        sys.exit(f"embed.py: {sys.argv[1]} is empty")
    lines = [
        "    " + " ".join(f"{byte}," for byte in data[start:start + BYTES_A_LINE])
        for start in range(0, len(data), BYTES_A_LINE)
    ]
    with open(sys.argv[2], "w", encoding="ascii") as target:
        target.write("/* Made by scripts/embed.py; changes are lost. */\n")
        target.write('#include "cli/text.h"\n\n')
        target.write("const unsigned char cli_bundled_text[] = {\n")
        target.write("\n".join(lines) + "\n};\n")
        target.write("const size_t cli_bundled_text_bytes = sizeof cli_bundled_text;\n")


if __name__ == "__main__":
    main()
