"""Reads the model's golden fixtures (safetensors), f32 tensors only."""

import json
import os
import struct

GOLDENS = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "model", "goldens.safetensors")


class Safetensors:
    def __init__(self, path):
        with open(path, "rb") as file:
            self.content = file.read()
        (header_bytes,) = struct.unpack_from("<Q", self.content)
        self.header = json.loads(self.content[8 : 8 + header_bytes])
        self.data_at = 8 + header_bytes

    def rows(self, name):
        """An f32 tensor as a list of rows of its last dimension."""
        entry = self.header[name]
        assert entry["dtype"] == "F32"
        start, end = entry["data_offsets"]
        width = entry["shape"][-1]
        flat = struct.unpack_from("<%df" % ((end - start) // 4), self.content, self.data_at + start)
        return [list(flat[i : i + width]) for i in range(0, len(flat), width)]
