"""llama.cpp's own libraries, from the npm package that npm/package-lock.json pins by its checksum."""

import ctypes
from pathlib import Path

import npm_packages
from npm_packages import Missing, skip  # for those who use the libraries

__all__ = ["Ggml", "Missing", "folder", "skip"]
PINS = Path(__file__).resolve().parent / "npm"
LIBRARIES = Path("@node-llama-cpp/linux-x64/bins/linux-x64")


def folder(downloads):
    """The folder with llama.cpp's libraries, below the folder `downloads`."""
    return npm_packages.folder(PINS, downloads, "llamacpp", "llama.cpp's libraries") / LIBRARIES


class Ggml:
    """libggml-base: ggml's types, their sizes, decoders and encoders."""

    def __init__(self, downloads):
        libraries = folder(downloads)
        try:
            self.library = ctypes.CDLL(str(libraries / "libggml-base.so"))
        except OSError as reason:
            raise Missing("llama.cpp's library does not load here: %s" % reason) from None
        self.library.ggml_type_name.restype = ctypes.c_char_p
        self.library.ggml_type_size.restype = ctypes.c_size_t
        self.library.ggml_blck_size.restype = ctypes.c_int64

    def type_of(self, id_):
        """(name, values a block, bytes a block)"""
        library = self.library
        return library.ggml_type_name(id_).decode(), library.ggml_blck_size(id_), library.ggml_type_size(id_)

    def decode(self, name, data, count):
        """`count` values as bytes of f32."""
        if name == "f32":
            return data
        rows = {"f16": "ggml_fp16_to_fp32_row", "bf16": "ggml_bf16_to_fp32_row"}
        function = getattr(self.library, rows.get(name, "dequantize_row_" + name))
        function.argtypes = [ctypes.c_char_p, ctypes.c_void_p, ctypes.c_int64]
        function.restype = None
        out = (ctypes.c_float * count)()
        function(data, ctypes.addressof(out), count)
        return bytes(out)

    def encode(self, id_, data, per_row):
        """Blocks of f32 data in rows of per_row, chosen with all columns as important as any other."""
        function = self.library.ggml_quantize_chunk
        function.argtypes = [ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64,
                             ctypes.c_int64, ctypes.c_void_p]
        function.restype = ctypes.c_size_t
        _, values, size = self.type_of(id_)
        count = len(data) // 4
        out = ctypes.create_string_buffer(count // values * size)
        importance = (ctypes.c_float * per_row)(*[1.0] * per_row)  # some types cannot do without
        written = function(id_, data, ctypes.addressof(out), 0, count // per_row, per_row, ctypes.addressof(importance))
        assert written == len(out), (id_, written)
        return out.raw
