"""A model that says what a test wants: the tiny one, in which a token decides alone what comes next.

Attention and experts are switched off, so that a layer leaves the token's embedding as it is: a one in a
column of its own, among zeros. The output head knows which token comes behind which column.
"""

import array
import json
import os
import struct
import sys
from pathlib import Path

import checkpoints

TEXT = Path(__file__).resolve().parent.parent / "text"
sys.path.insert(0, str(TEXT))
import gguf  # noqa: E402  (checkpoints has put its folder on the path)
import v4  # noqa: E402
from reference import BYTE, Tokenizer  # noqa: E402

FIXTURE = TEXT / "fixture" / "tokenizer.json"
ONE = struct.pack("<H", 0x3F80)  # as bf16
N_IDS, WIDTH = 320, 256  # of the tiny model
BAR = "\uff5c"
BOS, EOS = (f"<{BAR}{word}\u2581of\u2581sentence{BAR}>" for word in ("begin", "end"))
USER, ASSISTANT, QUERY = (f"<{BAR}{word}{BAR}>" for word in ("User", "Assistant", "query"))
DSML, THINK, END_THINK = f"{BAR}DSML{BAR}", "<think>", "</think>"


def _vocabulary():
    """Ids by text: what bytes mean, and markers as they are."""
    described = json.loads(FIXTURE.read_text(encoding="utf-8"))
    found = {}
    for token, id_ in described["model"]["vocab"].items():
        if all(character in BYTE for character in token):
            found[bytes(BYTE[character] for character in token).decode("latin-1")] = id_
    found.update((added["content"], added["id"]) for added in described["added_tokens"])
    return found


IDS = _vocabulary()
REFERENCE = Tokenizer(json.loads(FIXTURE.read_text(encoding="utf-8")))


def ids_of(*parts):
    """Of markers, and of texts in which there are none."""
    return [id_ for part in parts for id_ in ([IDS[part]] if part in REFERENCE.added else REFERENCE.plain(part))]


def _matrix(ones):
    """[N_IDS][WIDTH] with a one at each (row, column)."""
    data = bytearray(2 * N_IDS * WIDTH)
    for row, column in ones:
        at = 2 * (row * WIDTH + column)
        data[at:at + 2] = ONE
    return bytes(data)


def as_q8_0(name, dtype, shape, data):
    """Matrices of zeros and ones, which Q8_0 holds exactly (a scale of 1); the rest as it is."""
    words = array.array("H", data) if dtype == "BF16" and len(shape) > 1 else [2]
    if not set(words) <= {0, 0x3F80}:
        return checkpoints.tiny_gguf.as_it_is(name, dtype, shape, data)
    codes = bytes(word != 0 for word in words)
    blocks = (codes[at:at + 32] for at in range(0, len(codes), 32))
    return "Q8_0", b"".join(struct.pack("<H", 0x3C00 if any(block) else 0) + block for block in blocks)


def write_gguf(path, folder, more=None, store=checkpoints.tiny_gguf.as_it_is):
    """The folder's model as llama.cpp converts it: to that, what looks like a marker is one of control."""
    described = json.loads(FIXTURE.read_text(encoding="utf-8"))
    tokens, types, merges = v4.gguf_keys(described)
    types = [3 if kind == 4 and text.startswith(f"<{BAR}") else kind for text, kind in zip(tokens, types)]
    metadata, tensors = checkpoints.gguf_parts(folder, store)
    metadata.update({"tokenizer.ggml.model": gguf.text("gpt2"), "tokenizer.ggml.pre": gguf.text("deepseek-v3"),
                     "tokenizer.ggml.tokens": gguf.array(map(gguf.text, tokens)),
                     "tokenizer.ggml.token_type": gguf.array(map(gguf.i32, types)),
                     "tokenizer.ggml.merges": gguf.array(map(gguf.text, merges)), **(more or {})})
    gguf.write(path, metadata, tensors)
    return path


def write(path, model, follows, default=EOS):
    """A folder. `follows`: what comes behind a token, both by text; behind others `default` does."""
    columns = {IDS[token]: column for column, token in enumerate(follows, 1)}
    ones = {"model.embed_tokens.weight": [(id_, columns.get(id_, 0)) for id_ in range(N_IDS)],
            "head.weight": [(IDS[default], 0),
                            *((IDS[token], column) for column, token in enumerate(follows.values(), 1))]}
    tensors = checkpoints.read(model)
    for name, tensor in tensors.items():
        if name in ones:
            tensors[name] = tensor._replace(data=_matrix(ones[name]))
        elif name == "model.norm.weight":
            tensors[name] = tensor._replace(data=struct.pack("<f", 1) * WIDTH)
        elif name.endswith(("wo_b.weight", "w2.weight")):
            tensors[name] = tensor._replace(data=bytes(len(tensor.data)))
    checkpoints.write_folder(path, model, tensors)
    os.symlink(FIXTURE, os.path.join(path, "tokenizer.json"))
    return path
