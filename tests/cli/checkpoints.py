"""Checkpoints for the tests of the command: the tiny one taken apart, changed and written again.

    tensors = read(MODEL)                     # name: Tensor(dtype, shape, data)
    write_folder(path, MODEL, tensors)        # config.json and one model.safetensors
    write_gguf(path, MODEL, store=...)        # the same model as a GGUF
"""

import json
import os
import shutil
import struct
import sys
from collections import namedtuple
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "oracle"))
import gguf  # noqa: E402
import tiny_gguf  # noqa: E402

Tensor = namedtuple("Tensor", "dtype shape data")


def read(folder):
    found = {}
    for path in sorted(Path(folder).glob("*.safetensors")):
        content = path.read_bytes()
        (header_bytes,) = struct.unpack_from("<Q", content)
        data_at = 8 + header_bytes
        for name, entry in json.loads(content[8:data_at]).items():
            if name != "__metadata__":
                begin, end = entry["data_offsets"]
                found[name] = Tensor(entry["dtype"], entry["shape"],
                                     content[data_at + begin:data_at + end])
    return found


def header_of(tensors):
    """The header's entries, the data one after the other."""
    entries, at = {}, 0
    for name, tensor in tensors.items():
        entries[name] = {"dtype": tensor.dtype, "shape": list(tensor.shape),
                         "data_offsets": [at, at + len(tensor.data)]}
        at += len(tensor.data)
    return entries


def write_safetensors(path, tensors, entries=None, tail=b""):
    header = json.dumps(header_of(tensors) if entries is None else entries).encode()
    header += b" " * (-len(header) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(header)) + header)
        file.writelines(tensor.data for tensor in tensors.values())
        file.write(tail)


def write_folder(path, model, tensors, entries=None, tail=b""):
    os.mkdir(path)
    shutil.copy(os.path.join(model, "config.json"), path)
    write_safetensors(os.path.join(path, "model.safetensors"), tensors, entries, tail)
    return path


def gguf_parts(model, store=tiny_gguf.as_it_is):
    """Metadata and [(name, shape, type, data)]."""
    checkpoint = tiny_gguf.load(model)
    return tiny_gguf.metadata(checkpoint), tiny_gguf.tensors(checkpoint, store)


def write_gguf(path, model, store=tiny_gguf.as_it_is, extra=(), tail=b""):
    metadata, tensors = gguf_parts(model, store)
    gguf.write(path, metadata, [*tensors, *extra])
    with open(path, "ab") as file:
        file.write(tail)
    return path
