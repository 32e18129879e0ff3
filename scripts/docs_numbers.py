#!/usr/bin/env python3
"""Writes the tables of `kvfold plan` into docs/: what lies between a pair of comments.

usage: docs_numbers.py [--check] KVFOLD     --check: writes nothing, status 1 if a table is old

A table begins after the line `<!-- scripts/docs_numbers.py NAME -->` and ends before
`<!-- end -->`.
"""
import json
import re
import subprocess
import sys
from pathlib import Path

DOCS = Path(__file__).resolve().parent.parent / "docs"
PROFILES = ("legacy", "tiled", "packed", "fold")
TABLE = re.compile(r"(<!-- scripts/docs_numbers\.py (\w+) -->\n\n).*?(\n\n<!-- end -->)", re.DOTALL)
GROWS_WITH = {
    "chunk.tokens": "chunk",
    "chunk.window": "chunk",
    "chunk.findings": "layers, sessions",
    "attend.workspace": "threads, rows attended",
    "select.workspace": "threads",
    "select.queries": "chunk",
    "select.list": "chunk",
    "select.list_len": "chunk",
    "select.scores": "context, chunk (packed: 512)",
    "select.mask": "context, chunk",
}


class Plan:
    """What `kvfold plan -m v4-flash` says; each invocation is run once."""

    def __init__(self, kvfold):
        self.kvfold = kvfold
        self.outputs = {}

    def text(self, *options):
        if options not in self.outputs:
            command = (self.kvfold, "plan", "-m", "v4-flash", *options)
            self.outputs[options] = subprocess.run(command, capture_output=True, text=True,
                                                   check=True).stdout
        return self.outputs[options]

    def records(self, *options):
        """By profile, for one context."""
        lines = self.text("--json", *options).splitlines()
        return {record["profile"]: record for record in map(json.loads, lines)}

    def buffers(self, *options):
        """Bytes of each buffer, by profile and name."""
        return {profile: {buffer["name"]: buffer["bytes"] for buffer in record["buffers"]}
                for profile, record in self.records(*options).items()}


def table(header, rows):
    """Markdown; numbers to the right."""
    right = [isinstance(cell, int) for cell in rows[0]]
    lines = [header, ["---:" if is_right else "---" for is_right in right]]
    lines += [[f"{cell:,}" if isinstance(cell, int) else cell for cell in row] for row in rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def quoted(text):
    return "\n".join("    " + line if line else "" for line in text.rstrip().split("\n"))


def session(plan):
    text = plan.text("--ctx", "8k,16k,32k,64k,1M")
    return quoted(text[text.index("Session bytes"):].split("\n\n")[0])


def totals(plan):
    keys = ("session_bytes", "allocated_bytes", "snapshot_bytes")
    return table(("T", "profile") + keys, [
        (tokens, profile) + tuple(plan.records("--ctx", str(tokens))[profile][key] for key in keys)
        for tokens in (8192, 1048576) for profile in ("legacy", "fold")])


def by_chunk(plan, key):
    return table(("profile", "chunk 4096", "chunk 512"), [
        (profile, plan.records("--ctx", "1M")[profile][key],
         plan.records("--ctx", "1M", "--chunk", "512")[profile][key]) for profile in PROFILES])


def scratch(plan):
    return by_chunk(plan, "scratch_bytes")


def everything(plan):
    return by_chunk(plan, "total_bytes")


def threads(plan):
    counts = ("1", "4", "16")
    by_count = [plan.records("--ctx", "1M", "--threads", count) for count in counts]
    return table(("profile", "1 thread", "4 threads", "16 threads"), [
        (profile,) + tuple(records[profile]["scratch_bytes"] for records in by_count)
        for profile in PROFILES])


def buffers(plan):
    of = plan.buffers("--ctx", "1M")
    return table(("buffer", "legacy", "packed", "fold", "grows with"), [
        (f"`{name}`",) + tuple(of[profile].get(name, 0) for profile in ("legacy", "packed", "fold"))
        + (why,) for name, why in GROWS_WITH.items()])


def select(plan):
    long, short = plan.buffers("--ctx", "1M"), plan.buffers("--ctx", "8k")
    return table(("buffer", "fold, 8k", "fold, 1M", "legacy, 8k", "legacy, 1M"), [
        (f"`{name}`",) + tuple(of[profile].get(name, 0) for profile in ("fold", "legacy")
                               for of in (short, long))
        for name in GROWS_WITH if name.startswith("select.")])


def largest(plan):
    text = plan.text("--ctx", "8k", "--memory", "96G", "--weights", "80G")
    return quoted(text[text.index("Largest context"):])


def main():
    arguments = sys.argv[1:]
    check = "--check" in arguments
    if check:
        arguments.remove("--check")
    if len(arguments) != 1:
        sys.exit(__doc__)
    plan = Plan(arguments[0])
    makers = {maker.__name__: maker for maker in (session, totals, scratch, everything, threads,
                                                  buffers, select, largest)}
    old = []
    for page in sorted(DOCS.glob("*.md")):
        text = page.read_text(encoding="utf-8")
        new = TABLE.sub(lambda m: m.group(1) + makers[m.group(2)](plan) + m.group(3), text)
        if new != text:
            old.append(page.name)
            if not check:
                page.write_text(new, encoding="utf-8")
    for name in old:
        print(f"docs/{name}: {'old' if check else 'written'}")
    sys.exit(1 if check and old else 0)


if __name__ == "__main__":
    main()
