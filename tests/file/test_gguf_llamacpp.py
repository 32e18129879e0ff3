"""What kvfold reads of GGUF files against what llama.cpp reads. Skipped where that cannot be had.

kvfold reads no file that llama.cpp refuses, but for tensors in another order and gaps between
them; and it says which of a few reasons it has where it refuses what llama.cpp reads.
"""
import ctypes
import os
import random
import signal
import struct
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "oracle"))
import gguf
import gguf_cases
import llamacpp
from tensor_files import FileTest, main

MUTATIONS = 600  # fifty times as many with --slow
# What llama.cpp reads and kvfold does not.
STRICTER = ("has a dimension of 0", "has 0 dimensions", "2^63 or more", "2^64 or more",
            "has a bool that is neither", "is truncated: tensor ", "a byte that is not ASCII",
            "the tensor's name before byte", "the key before byte")


class InitParams(ctypes.Structure):
    _fields_ = [("no_alloc", ctypes.c_bool), ("context", ctypes.c_void_p)]


class Reader(llamacpp.Ggml):
    """gguf_init_from_file in a process of its own each time: it ends the process on some files."""

    def __init__(self, downloads):
        super().__init__(downloads)
        self.library.gguf_init_from_file.restype = ctypes.c_void_p
        self.library.gguf_init_from_file.argtypes = [ctypes.c_char_p, InitParams]

    def reads(self, path):
        child = os.fork()
        if child == 0:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
            signal.alarm(20)
            opened = self.library.gguf_init_from_file(str(path).encode(), InitParams(True, None))
            os._exit(0 if opened else 1)
        return os.waitpid(child, 0)[1] == 0


def tidy(content):
    """The same file with its tensors' data one after the other, in order; no two of them differ else."""
    at = 24
    n_tensors, n_entries = struct.unpack_from("<QQ", content, 8)
    widths = {number: struct.calcsize(layout) for number, layout in gguf.SCALARS.values()}
    alignment = gguf.ALIGNMENT

    def skip_text(at):
        return at + 8 + struct.unpack_from("<Q", content, at)[0]

    for _ in range(n_entries):
        key_end = skip_text(at)
        key = content[at + 8:key_end]
        (kind,) = struct.unpack_from("<I", content, key_end)
        at, count = key_end + 4, 1
        if key == b"general.alignment":
            (alignment,) = struct.unpack_from("<I", content, at)
        if kind == gguf.ARRAY:
            kind, count = struct.unpack_from("<IQ", content, at)
            at += 12
        if kind == gguf.TEXT:
            for _ in range(count):
                at = skip_text(at)
        else:
            at += count * widths[kind]
    out, offset = bytearray(content[:at]), 0
    blocks = {kind.id: kind for kind in gguf.TYPES.values()}
    for _ in range(n_tensors):
        begin = at
        at = skip_text(at)
        (n_dims,) = struct.unpack_from("<I", content, at)
        dims = struct.unpack_from(f"<{n_dims}Q", content, at + 4)
        at += 4 + 8 * n_dims
        (kind,) = struct.unpack_from("<I", content, at)
        at += 12
        out += content[begin:at - 8] + struct.pack("<Q", offset)
        length = blocks[kind].bytes
        for i, dim in enumerate(dims):
            length *= dim if i else dim // blocks[kind].values
        offset += length + -length % alignment
    return bytes(out) + bytes(-len(out) % alignment) + bytes(offset)


def sample(rng):
    """A file with something of everything in its header."""
    metadata = {"general.architecture": gguf.text("deepseek4"), "x.u": gguf.u32(7),
                "x.texts": gguf.array([gguf.text("one"), gguf.text("")]),
                "x.numbers": gguf.array([gguf.i32(i) for i in range(3)]),
                "x.truth": gguf.boolean(1), "x.f": gguf.f32(1.5)}
    names = rng.sample(sorted(gguf.TYPES), 4)
    tensors = [(f"blk.{i}", (1 + i, gguf.TYPES[name].values), name,
                bytes((1 + i) * gguf.TYPES[name].bytes)) for i, name in enumerate(names)]
    return gguf.contents(metadata, tensors, rng.choice((8, 32, 64)))


def mutate(rng, content):
    data = bytearray(content)
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        header = min(len(data), 640)
        at = rng.randrange(header)
        how = rng.randrange(6)
        if how == 0:
            data[at] = rng.randrange(256)
        elif how == 1:
            data[at] ^= 1 << rng.randrange(8)
        elif how == 2:
            value = rng.choice((0, 1, 2, 8, 9, 31, 32, 33, 63, 64, 255, 2**31, 2**32 - 1, 2**62, 2**63, 2**64 - 1))
            width = rng.choice((1, 4, 8))
            data[at:at + width] = struct.pack("<Q", value)[:width]
        elif how == 3:
            del data[at:at + rng.choice((1, 4, 8))]
        elif how == 4:
            data[at:at] = bytes(rng.choice((1, 4, 8)))
        else:
            source = rng.randrange(header)
            length = rng.choice((4, 8, 16))
            data[at:at + length] = data[source:source + length]
    if rng.randrange(20) == 0:
        del data[rng.randrange(len(data)):]
    return bytes(data)


class GgufLlamacpp(FileTest):
    reader = None

    def compare(self, what, content):
        """Whether kvfold reads it."""
        ours = self.open(content)
        path = self.folder / "x.gguf"
        theirs = self.reader.reads(path)
        if ours.ok and not theirs:
            path.write_bytes(tidy(content))
            theirs = self.reader.reads(path)
        if ours.ok != theirs and not (theirs and any(reason in ours.message for reason in STRICTER)):
            kept = Path("refused.gguf").resolve()
            kept.write_bytes(content)
            self.fail(f"{what}: kvfold says \"{ours.line}\", llama.cpp "
                      f"{'reads' if theirs else 'refuses'} it; it is kept in {kept}")
        return ours.ok

    def test_crafted_files(self):
        for name, content in gguf_cases.cases().items():
            with self.subTest(name):
                self.compare(name, content)

    def test_sizes_of_types(self):
        for name, kind in gguf.TYPES.items():
            theirs, values, size = self.reader.type_of(kind.id)
            self.assertEqual((theirs.upper(), values, size), (name, kind.values, kind.bytes))

    def test_mutations(self):
        rng = random.Random("gguf")
        n_read = 0
        count = MUTATIONS * (50 if self.slow else 1)
        for i in range(count):
            n_read += self.compare(f"mutation {i}", mutate(rng, sample(rng)))
        self.assertGreater(n_read, count // 20)  # neither all nor none
        self.assertLess(n_read, count - count // 20)


def load(arguments):
    try:
        GgufLlamacpp.reader = Reader(arguments.downloads)
    except llamacpp.Missing as reason:
        llamacpp.skip(f"file.gguf_llamacpp: {reason}")


if __name__ == "__main__":
    main(load)
