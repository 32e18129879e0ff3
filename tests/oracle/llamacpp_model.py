#!/usr/bin/env python3
"""Runs a GGUF in llama.cpp itself and writes its logits; a process of its own, since llama.cpp ends it on failure.

usage: llamacpp_model.py LIBRARIES MODEL IDS LOGITS N_GREEDY

IDS has one token id a line. LOGITS becomes the f32 logits of every position, of N_GREEDY more
likeliest tokens too; these tokens' ids are printed. One thread, f32 caches, no flash attention:
on two busy cores its own threads wait for each other without end, and with caches in f16 it is
another model.
"""
import ctypes
import struct
import sys
from pathlib import Path

BATCH = 512
# Of llama_context_params in the pinned release: places of numbers of 32 bits.
N_CTX, N_BATCH, N_UBATCH, N_THREADS, N_THREADS_BATCH, FLASH, TYPE_K, TYPE_V = 0, 4, 8, 28, 32, 52, 104, 108
DEFAULTS = {N_CTX: 512, N_BATCH: 2048, N_UBATCH: 512, N_THREADS: 4, N_THREADS_BATCH: 4, FLASH: -1, TYPE_K: 1, TYPE_V: 1}


class Params(ctypes.Structure):
    """Larger than any that is passed by value: the callee reads its part of it."""
    _fields_ = [("bytes", ctypes.c_ubyte * 1024)]

    def get(self, place):
        return struct.unpack_from("<i", self.bytes, place)[0]

    def set(self, place, value):
        struct.pack_into("<i", self.bytes, place, value)


class Batch(ctypes.Structure):
    _fields_ = [("n_tokens", ctypes.c_int32), ("token", ctypes.c_void_p), ("embd", ctypes.c_void_p),
                ("pos", ctypes.c_void_p), ("n_seq_id", ctypes.c_void_p), ("seq_id", ctypes.c_void_p),
                ("logits", ctypes.c_void_p)]


class Llama:
    def __init__(self, libraries, model, n_tokens):
        libraries = Path(libraries)
        ctypes.CDLL(str(libraries / "libggml-base.so"), ctypes.RTLD_GLOBAL)
        ggml = ctypes.CDLL(str(next(libraries.glob("libggml.v*.so"))), ctypes.RTLD_GLOBAL)
        self.library = library = ctypes.CDLL(str(next(libraries.glob("libllama.v*.so"))))
        ggml.ggml_backend_load_all_from_path(str(libraries).encode())
        library.llama_backend_init()
        library.llama_model_default_params.restype = library.llama_context_default_params.restype = Params
        library.llama_model_load_from_file.restype = library.llama_init_from_model.restype = ctypes.c_void_p
        library.llama_model_load_from_file.argtypes = [ctypes.c_char_p, Params]
        library.llama_init_from_model.argtypes = [ctypes.c_void_p, Params]
        library.llama_decode.argtypes = [ctypes.c_void_p, Batch]
        library.llama_get_logits.argtypes = library.llama_model_get_vocab.argtypes = [ctypes.c_void_p]
        library.llama_get_logits.restype = library.llama_model_get_vocab.restype = ctypes.c_void_p
        library.llama_vocab_n_tokens.argtypes = [ctypes.c_void_p]
        params = library.llama_context_default_params()
        for place, value in DEFAULTS.items():
            if params.get(place) != value:
                sys.exit("llama_context_params has %d at byte %d, not %d: its layout is another one"
                         % (params.get(place), place, value))
        for place, value in {N_CTX: -(-n_tokens // 256) * 256, N_BATCH: BATCH, N_UBATCH: BATCH, N_THREADS: 1,
                             N_THREADS_BATCH: 1, FLASH: 0, TYPE_K: 0, TYPE_V: 0}.items():
            params.set(place, value)
        loaded = library.llama_model_load_from_file(str(model).encode(), library.llama_model_default_params())
        if not loaded:
            sys.exit("llama.cpp does not load %s" % model)
        self.context = library.llama_init_from_model(loaded, params)
        if not self.context:
            sys.exit("llama.cpp makes no context for %s" % model)
        self.vocab = library.llama_vocab_n_tokens(library.llama_model_get_vocab(loaded))

    def logits(self, ids):
        """Those of all the ids, which follow what was given before; as bytes."""
        tokens, wanted = (ctypes.c_int32 * len(ids))(*ids), (ctypes.c_int8 * len(ids))(*[1] * len(ids))
        batch = Batch(len(ids), ctypes.addressof(tokens), None, None, None, None, ctypes.addressof(wanted))
        status = self.library.llama_decode(self.context, batch)
        if status:
            sys.exit("llama_decode: %d" % status)
        return ctypes.string_at(self.library.llama_get_logits(self.context), 4 * self.vocab * len(ids))


def main():
    libraries, model, ids_path, logits_path, n_greedy = sys.argv[1:]
    ids = [int(line) for line in Path(ids_path).read_text(encoding="ascii").split()]
    llama = Llama(libraries, model, len(ids) + int(n_greedy))
    with open(logits_path, "wb") as file:
        for at in range(0, len(ids), BATCH):
            last = llama.logits(ids[at:at + BATCH])
            file.write(last)
        for _ in range(int(n_greedy)):
            row = struct.unpack("<%df" % llama.vocab, last[-4 * llama.vocab:])
            print(row.index(max(row)))
            last = llama.logits([row.index(max(row))])
            file.write(last)


if __name__ == "__main__":
    main()
