#!/usr/bin/env python3
"""kvfold and llama.cpp on the same GGUF in turns: models/tiny, prefill and decode at some lengths.

llama.cpp is that of the pinned npm package (tests/oracle/llamacpp.py). It is run once with each
combination of flash attention and cache type; the best of them for prefill and the best for decode are what
kvfold is compared with.

    tests/tools/compare_llamacpp.py --kvfold build/release/kvfold --downloads build/release/downloads
"""
import argparse
import ctypes
import json
import struct
import sys
import tempfile
import time
from pathlib import Path

import speed

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "oracle"))
import gguf
import llamacpp
import tiny_gguf

# Of llama_context_params in the pinned release: where numbers of 32 bits are, and what they are at first.
PLACES = {"n_ctx": (0, 512), "n_batch": (4, 2048), "n_ubatch": (8, 512), "threads": (28, 4),
          "threads_batch": (32, 4), "flash": (52, -1), "type_k": (104, 1), "type_v": (108, 1)}
CACHES = {"f32": 0, "f16": 1, "q8_0": 8}  # ggml's numbers
FLASH = {"both": (0, 1), "on": (1,), "off": (0,)}
BATCH = 2048


class Params(ctypes.Structure):
    """Larger than any that is passed by value: the callee reads its part of it."""
    _fields_ = [("bytes", ctypes.c_ubyte * 1024)]


class Batch(ctypes.Structure):
    _fields_ = [("n_tokens", ctypes.c_int32), ("token", ctypes.c_void_p), ("embd", ctypes.c_void_p),
                ("pos", ctypes.c_void_p), ("n_seq_id", ctypes.c_void_p), ("seq_id", ctypes.c_void_p),
                ("logits", ctypes.c_void_p)]


# ---- One run of llama.cpp, in a process of its own -----------------------------------------------


def load(libraries, model, settings):
    """The library and a context of it."""
    ctypes.CDLL(str(libraries / "libggml-base.so"), ctypes.RTLD_GLOBAL)
    ggml = ctypes.CDLL(str(next(libraries.glob("libggml.v*.so"))), ctypes.RTLD_GLOBAL)
    library = ctypes.CDLL(str(next(libraries.glob("libllama.v*.so"))))
    ggml.ggml_backend_load_all_from_path(str(libraries).encode())
    library.llama_backend_init()
    for name in ("llama_model_default_params", "llama_context_default_params"):
        getattr(library, name).restype = Params
    for name in ("llama_model_load_from_file", "llama_init_from_model"):
        getattr(library, name).restype = ctypes.c_void_p
    library.llama_model_load_from_file.argtypes = [ctypes.c_char_p, Params]
    library.llama_init_from_model.argtypes = [ctypes.c_void_p, Params]
    library.llama_decode.argtypes = [ctypes.c_void_p, Batch]
    library.llama_synchronize.argtypes = [ctypes.c_void_p]
    params = library.llama_context_default_params()
    for name, (place, default) in PLACES.items():
        if struct.unpack_from("<i", params.bytes, place)[0] != default:
            sys.exit("llama_context_params is laid out in another way than in the pinned release")
        struct.pack_into("<i", params.bytes, place, settings[name])
    loaded = library.llama_model_load_from_file(str(model).encode(),
                                                library.llama_model_default_params())
    context = loaded and library.llama_init_from_model(loaded, params)
    if not context:
        sys.exit("llama.cpp does not take this model with these settings")
    return library, context


def decode(library, context, ids):
    """Logits of the last id alone."""
    tokens = (ctypes.c_int32 * len(ids))(*ids)
    wanted = (ctypes.c_int8 * len(ids))(*[0] * (len(ids) - 1), 1)
    batch = Batch(len(ids), ctypes.addressof(tokens), None, None, None, None, ctypes.addressof(wanted))
    status = library.llama_decode(context, batch)
    library.llama_synchronize(context)
    if status:
        sys.exit(f"llama_decode gave {status}")


def child(libraries, model, job):
    """Prints prefill_tps and decode_tps."""
    job = json.loads(job)
    ids = [job["bos"], *speed.prompt_text(job["n_tokens"])]
    library, context = load(Path(libraries), model, job["settings"])
    started = time.monotonic()
    for at in range(0, len(ids), BATCH):
        decode(library, context, ids[at:at + BATCH])
    between = time.monotonic()
    for i in range(job["n_decode"]):
        decode(library, context, [ids[1 + i % 100]])
    ended = time.monotonic()
    print(json.dumps({"prefill_tps": len(ids) / (between - started),
                      "decode_tps": job["n_decode"] / (ended - between)}))


# ---- The comparison ---------------------------------------------------------------------------------


class Comparison:
    def __init__(self, options, folder):
        self.options = options
        self.libraries = llamacpp.folder(options.downloads).resolve()
        checkpoint = tiny_gguf.load(speed.FOLDER)
        self.bos = checkpoint.config["bos_token_id"]
        self.model = Path(folder) / "tiny.gguf"
        gguf.write(self.model, tiny_gguf.metadata(checkpoint), tiny_gguf.tensors(checkpoint))

    def kvfold(self, n_tokens):
        return speed.run_kvfold(self.options.kvfold, self.model, n_tokens, self.options.decode,
                                self.options.threads, self.options.limit)

    def llamacpp(self, n_tokens, way):
        flash, cache = way
        threads = self.options.threads
        settings = {"n_ctx": -(-(n_tokens + self.options.decode) // 256) * 256, "n_batch": BATCH,
                    "n_ubatch": 512, "threads": threads, "threads_batch": threads, "flash": flash,
                    "type_k": CACHES[cache], "type_v": CACHES[cache]}
        job = {"n_tokens": n_tokens, "n_decode": self.options.decode, "bos": self.bos,
               "settings": settings}
        return json.loads(speed.run([sys.executable, __file__, "--child", self.libraries, self.model,
                                     json.dumps(job)], self.options.limit).splitlines()[-1])

    def best_ways(self, n_tokens):
        """The best way for prefill and for decode, of one run each."""
        tried = {}
        for way in [(flash, cache) for flash in FLASH[self.options.flash] for cache in CACHES]:
            try:
                tried[way] = self.llamacpp(n_tokens, way)
            except speed.Failed as reason:
                print(f"llama.cpp, {describe(way)}, {n_tokens} tokens: {reason}", file=sys.stderr)
        if not tried:
            sys.exit(f"compare_llamacpp: llama.cpp runs in no way at {n_tokens} tokens")
        return {what: max(tried, key=lambda way, key=what + "_tps": tried[way][key])
                for what in ("prefill", "decode")}

    def compare(self, n_tokens):
        ways = self.best_ways(n_tokens)
        runners = {way: lambda way=way: self.llamacpp(n_tokens, way) for way in set(ways.values())}
        runners["kvfold"] = lambda: self.kvfold(n_tokens)
        results = speed.in_turns(runners, self.options.rounds)
        for what, way in ways.items():
            theirs, ours = ([result[what + "_tps"] for result in results[name]]
                            for name in (way, "kvfold"))
            yield [what, str(n_tokens), speed.spread(theirs), describe(way), speed.spread(ours),
                   f"{speed.middle(ours) / speed.middle(theirs):.2f}"]


def describe(way):
    return f"{'flash' if way[0] else 'no flash'}, {way[1]}"


def main():
    if sys.argv[1:2] == ["--child"]:
        child(*sys.argv[2:])
        return
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kvfold", required=True, type=Path)
    parser.add_argument("--downloads", required=True, help="the folder that llama.cpp's package is put into")
    parser.add_argument("--flash", choices=FLASH, default="both",
                        help="which of llama.cpp's attentions (both; at 32768 tokens off takes over 15 minutes)")
    speed.add_arguments(parser)
    options = parser.parse_args()
    rows = []
    try:
        with tempfile.TemporaryDirectory() as folder:
            comparison = Comparison(options, folder)
            for n_tokens in map(int, options.ctx.split(",")):
                rows += comparison.compare(n_tokens)
    except llamacpp.Missing as reason:
        llamacpp.skip(reason)
    except speed.Failed as reason:
        sys.exit(f"compare_llamacpp: {reason}")
    print(f"models/tiny as a GGUF of its own types, {options.rounds} runs of each in turns, "
          f"{options.threads} threads, {options.decode} tokens after each prompt;\n"
          "tokens a second, the median and the ends")
    speed.print_table(["", "tokens", "llama.cpp", "its way", "kvfold", "kvfold / llama.cpp"], rows)


if __name__ == "__main__":
    main()
