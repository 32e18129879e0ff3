"""Talks to format_probe and runs a test against every backend and ISA that it can open.

A test file calls `main()`; its cases derive from LibraryTest and loop over `self.targets()`.
"""

import argparse
import shlex
import struct
import subprocess
import sys
import unittest

OK, INVALID_ARGUMENT, NONFINITE, RANGE = 0, 10, 30, 31
LEGACY, TILED, PACKED, FOLD = range(4)
LAYER_WINDOW, LAYER_CSA, LAYER_HCA = range(3)

REQUEST_MAGIC = 0x5146564B
RESPONSE_MAGIC = 0x5246564B
OP_INFO, OP_FORMAT, OP_PACK, OP_UNPACK, OP_SELECT, OP_ATTEND, OP_PLAN, OP_SESSION, OP_SNAPSHOT = range(1, 10)
OP_WEIGHT_TYPE, OP_DECODE = 10, 11
EXIT_UNAVAILABLE = 3

# (backend, isa, threads). One of them runs on two threads; more would only make the tests slow.
DEFAULT_TARGETS = [
    ("ref", None, 1),
    ("cpu", "scalar", 1),
    ("cpu", "avx2", 2),
    ("cpu", "avx512", 1),
    ("cpu", "avx512vnni", 1),
    ("cpu", "neon", 2),
]
# For what no backend has a part in.
ONE_TARGET = [("ref", None, 1)]


class Response:
    def __init__(self, status, fields, blobs):
        self.status = status
        self.fields = fields
        self.message = blobs[0].decode()
        self.blobs = blobs[1:]


class Unavailable(Exception):
    """The machine or the build lacks this backend or ISA."""


class Probe:
    """One running format_probe."""

    def __init__(self, command, backend=None, isa=None, threads=None):
        arguments = shlex.split(command)
        for option, value in (("--backend", backend), ("--isa", isa), ("--threads", threads)):
            if value is not None:
                arguments += [option, str(value)]
        self.name = " ".join(arguments[1:])
        self.threads = threads
        self.process = subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        stderr=subprocess.PIPE)
        try:
            self.ask(OP_INFO)
        except (EOFError, BrokenPipeError):
            reason = self._end()
            if self.process.returncode == EXIT_UNAVAILABLE:
                raise Unavailable(reason) from None
            raise RuntimeError("%s does not answer: %s" % (" ".join(arguments), reason)) from None

    def close(self):
        """Ends the probe; whether it ended well, without a finding of a sanitizer for instance."""
        error = self._end()
        if self.process.returncode:
            print("%s: exit %d: %s" % (self.name, self.process.returncode, error), file=sys.stderr)
        return self.process.returncode == 0

    def _end(self):
        """Waits for the probe's end; what it said on stderr."""
        if self.process.stdin.closed:
            return ""
        try:
            self.process.stdin.close()
        except BrokenPipeError:
            pass  # it ended before it read what was sent last
        reason = self.process.stderr.read().decode().strip()
        self.process.stderr.close()
        self.process.stdout.close()
        self.process.wait()
        return reason

    def ask(self, operation, fields=(), blobs=()):
        out = self.process.stdin
        out.write(struct.pack("<4I", REQUEST_MAGIC, operation, len(fields), len(blobs)))
        out.write(struct.pack("<%dQ" % len(fields), *fields))
        out.write(struct.pack("<%dQ" % len(blobs), *map(len, blobs)))
        for blob in blobs:
            out.write(blob)
        out.flush()
        magic, status, n_fields, n_blobs = struct.unpack("<4I", self._read(16))
        assert magic == RESPONSE_MAGIC
        fields = struct.unpack("<%dQ" % n_fields, self._read(8 * n_fields))
        sizes = struct.unpack("<%dQ" % n_blobs, self._read(8 * n_blobs))
        return Response(status, fields, [self._read(size) for size in sizes])

    def _read(self, size):
        data = self.process.stdout.read(size)
        if len(data) != size:
            raise EOFError("the probe ended, with data left to read: " + self.name)
        return data

    # ---- Operations on oracle.Pages ----

    def pack(self, pages, rows, grid, hadamard=False, first_row=0, stride=None):
        """rows: f32 rows or their bytes, dense in `stride`. Does not change pages."""
        data = rows if isinstance(rows, bytes) else f32_bytes(rows, stride)
        stride = stride or pages.width
        n_rows = len(data) // (4 * stride)
        fields = view(pages) + [stride, n_rows, grid, int(hadamard), first_row]
        return self.ask(OP_PACK, fields, [bytes(pages.memory), data])

    def unpack(self, pages, n_rows, first_row=0, row_list=None, stride=None, before=None):
        """Returns the response; blob 0 is the memory of the rows."""
        stride = stride or pages.width
        before = bytes(4 * stride * n_rows) if before is None else before
        rows = b"" if row_list is None else struct.pack("<%di" % n_rows, *row_list)
        return self.ask(
            OP_UNPACK, view(pages) + [stride, n_rows, first_row], [bytes(pages.memory), rows, before]
        )

    def select(self, queries, keys, weights, n_visible, n_heads, top_k):
        """Returns (response, [selected rows of each query])."""
        response = self.ask(
            OP_SELECT,
            [len(n_visible), n_heads, top_k] + view(queries) + view(keys),
            [bytes(queries.memory), bytes(keys.memory), f32_bytes([weights]), u32_bytes(n_visible)],
        )
        lists = []
        if response.status == OK:
            flat = struct.unpack("<%di" % (len(n_visible) * top_k), response.blobs[0])
            lengths = struct.unpack("<%dI" % len(n_visible), response.blobs[1])
            for i, length in enumerate(lengths):
                places = flat[i * top_k : (i + 1) * top_k]
                assert length <= top_k and set(places[length:]) <= {-1}, places
                lists.append(list(places[:length]))
        return response, lists

    def weight_type(self, id_, rows, cols):
        """(name, fields) of a stored weight type, for a matrix of that size; None after the last id."""
        response = self.ask(OP_WEIGHT_TYPE, [id_, rows, cols])
        return (response.blobs[0].decode(), response.fields) if response.fields else None

    def decode(self, name, rows, cols, data, scales=b""):
        """The f32 values of a dense matrix of stored weights, as bytes."""
        return self.ask(OP_DECODE, [rows, cols], [name.encode(), data, scales]).blobs[0]


def view(pages):
    """The six fields of an oracle.Pages."""
    return [pages.id, pages.width, pages.page_rows, pages.n_rows, pages.stride,
            int(pages.reversed_table)]


def f32_bytes(rows, stride=None):
    """Rows of floats as bytes; a longer stride is filled with NaN, which nothing may read."""
    parts = []
    for row in rows:
        parts.append(struct.pack("<%df" % len(row), *row))
        if stride:
            parts.append(b"\xff\xff\xff\xff" * (stride - len(row)))
    return b"".join(parts)


def u32_bytes(values):
    return struct.pack("<%dI" % len(values), *values)


class LibraryTest(unittest.TestCase):
    opened = []
    slow = False
    target = None
    probe_command = ""

    def targets(self):
        for probe in self.opened:
            self.target = probe.name
            yield probe
        self.target = None

    def _formatMessage(self, msg, standardMsg):
        """Every failure inside a loop over targets() names the target."""
        message = super()._formatMessage(msg, standardMsg)
        return "%s: %s" % (self.target, message) if self.target else message

    def check_status(self, response, status):
        self.assertEqual(response.status, status, response.message)
        if status != OK:
            self.assertTrue(response.message, "a failure comes with a sentence")

    def check_f32(self, got, want, width, what=""):
        """Compares the bits of rows, naming the first value that differs."""
        if got == want:
            return
        self.assertEqual(len(got), len(want), what)
        at = next(i for i in range(0, len(want), 4) if got[i : i + 4] != want[i : i + 4]) // 4
        count = sum(got[i : i + 4] != want[i : i + 4] for i in range(0, len(want), 4))
        (g,), (w,) = (struct.unpack_from("<f", data, 4 * at) for data in (got, want))
        where = "row %d, dimension %d" % (at // width, at % width)
        self.fail(self._formatMessage(what, "%d values differ, the first in %s: got %s, expected %s"
                                      % (count, where, g.hex(), w.hex())))

    def check_pages(self, pages, got, want, what=""):
        """Compares the rows' bytes, naming the first that differs."""
        for r in range(pages.n_rows):
            for part, (start, end) in zip(("data", "scales"), pages.spans(r)):
                if got[start:end] != want[start:end]:
                    i = next(i for i in range(start, end) if got[i] != want[i])
                    where = "%s byte %d of row %d" % (part, i - start, r)
                    self.fail(self._formatMessage(what, "%s: got 0x%02x, expected 0x%02x"
                                                  % (where, got[i], want[i])))


def open_targets(arguments, targets):
    if arguments.backend or arguments.isa:
        targets = [(arguments.backend or "cpu", arguments.isa, arguments.threads or 1)]
    for backend, isa, threads in targets:
        threads = arguments.threads or threads
        try:
            LibraryTest.opened.append(Probe(arguments.probe, backend, isa, threads))
        except Unavailable as reason:
            print("skipped: %s %s: %s" % (backend, isa, reason), file=sys.stderr)
    if not LibraryTest.opened:
        sys.exit("nothing to test: the probe opens no backend asked for")


def main(targets=tuple(DEFAULT_TARGETS), prepare=None):
    """Runs the tests of the file on the targets; prepare(arguments) goes first, where it is given."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--probe", required=True, help="format_probe, or a command that runs it")
    parser.add_argument("--backend", help="only this backend")
    parser.add_argument("--isa", help="only this ISA")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--downloads", help="folder for what a test has to download")
    parser.add_argument("--slow", action="store_true", help="more random cases")
    arguments, rest = parser.parse_known_args()
    LibraryTest.slow = arguments.slow
    LibraryTest.probe_command = arguments.probe
    if prepare:
        prepare(arguments)
    open_targets(arguments, targets)
    program = unittest.main(argv=[sys.argv[0]] + rest, exit=False)
    ended_well = [probe.close() for probe in LibraryTest.opened]
    sys.exit(0 if program.result.wasSuccessful() and all(ended_well) else 1)

