#!/usr/bin/env python3
"""Small tokenizers of the kind that src/text reads, with merges that have nothing to do with a language.

usage: make_fixture.py --write   writes fixture/tokenizer.json
       make_fixture.py --check   status 1 unless the file is what would be written

It has as many ids as models/tiny, so that both together are a checkpoint; 256 and 257 are the model's begin
and end of a text. test_tokenizer.py makes larger ones.
"""

import json
import random
import sys
from pathlib import Path

from reference import CHARACTER

FIXTURE = Path(__file__).resolve().parent / "fixture" / "tokenizer.json"
BAR, SPACE = "\uff5c", "\u2581"
SPLITS = [
    "\\p{N}{1,3}",
    "[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+",
    "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\r\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+"
    "| ?[\\p{P}\\p{S}]+[\r\n]*|\\s*[\r\n]+|\\s+(?!\\S)|\\s+",
]
SPECIAL = [f"<{BAR}begin{SPACE}of{SPACE}sentence{BAR}>", f"<{BAR}end{SPACE}of{SPACE}sentence{BAR}>",
           f"<{BAR}{SPACE}pad{SPACE}{BAR}>"]
# (text, whether it is looked for after the others); some begin or end alike, to tell the rules apart.
ADDED = [("<think>", True), ("</think>", True), (f"<{BAR}User{BAR}>", True), (f"{BAR}DSML{BAR}", True),
         ("<dsml:", True), ("<dsml:calls", True), ("ab<", False), ("b<think>x", True), ("\u00e9\u00e9", False),
         (" two words ", True), (f"<{BAR}Assistant{BAR}>", True), (f"<{BAR}query{BAR}>", True)]
# Characters of a few bytes, so that many share the first two, or the last.
CJK = "".join(bytes((first, second, third)).decode() for first in (0xe4, 0xe5) for second in (0xb8, 0xbc)
              for third in (0x80, 0x81, 0x87))
# Bytes that meet often in texts.py, so that merges of them are used.
FEW = [*b"etahn ", *"\u4e2d".encode()]
COMMON = [*b"etaoinshrdlu ETAI\n.-=0123", 0xc3, 0xa9, 0xe4, 0xb8, 0xad, 0xe3, 0x81, 0x82, 0xf0, 0x9f, 0x98]


def pairs_of_characters(chooser, characters):
    """Pairs that make most of the characters, from either end, and between them some of parts of two."""
    written = [character.encode().decode("latin-1") for character in characters]
    pairs = []
    for c in chooser.sample(written, len(written)):
        if chooser.random() < 0.3:
            left, right = chooser.choice(written), chooser.choice(written)
            pairs.append(chooser.choice([(left[2], right[0]), (left[1:], right[0]), (left[2], right[:2])]))
        if chooser.random() < 0.9:
            pairs += chooser.choice([[(c[0], c[1]), (c[:2], c[2])], [(c[1], c[2]), (c[0], c[1:])]])
    known = set(map(chr, range(256)))
    kept = []
    for left, right in dict.fromkeys(pairs):
        if left in known and right in known:
            kept.append((left, right))
            known.add(left + right)
    return kept


def merges_of(chooser, count, common, first):
    """Pairs that make `count` tokens and, now and then, one that is there already in another way."""
    known = {chr(byte): None for byte in range(256)}  # a token as its bytes in Latin-1
    known.update((left + right, None) for left, right in first)
    pool = [chr(byte) for byte in common] + [left + right for left, right in first]
    pairs = dict.fromkeys(first)
    made = len(known) - 256
    while made < count:
        left, right = chooser.choice(pool), chooser.choice(pool)
        if (left, right) in pairs or len(left + right) > 12:
            continue
        pairs[left, right] = None
        whole = left + right
        if whole not in known:
            known[whole] = None
            pool.append(whole)
            made += 1
        for at in range(1, len(whole)):  # the same token from other sides
            other = whole[:at], whole[at:]
            if other not in pairs and other[0] in known and other[1] in known and chooser.random() < 0.5:
                pairs[other] = None
    return list(pairs), [token for token in known if len(token) > 1]


def describe_pairs(seed):
    """Of the same kind, with a merge for every two bytes: the ids show where pieces begin and end."""
    chooser = random.Random(seed)
    pairs = [(chr(left), chr(right)) for left in range(256) for right in range(256)]
    chooser.shuffle(pairs)
    return _describe(chooser, pairs, [left + right for left, right in pairs])


def describe_merges(merges):
    """Of the same kind, with these merges of bytes, the first of the lowest rank."""
    pairs = [(left.decode("latin-1"), right.decode("latin-1")) for left, right in merges]
    return _describe(random.Random(1), pairs, list(dict.fromkeys(left + right for left, right in pairs)))


def describe(seed, n_merged, common=tuple(COMMON), characters="", trained=False, first=()):
    """tokenizer.json as json.load would give it: bytes, three special tokens, merged and added ones.
    Pairs in `first`, and characters, become tokens first. trained: a merge ranks behind those that make its tokens; else anywhere."""
    chooser = random.Random(seed)
    pairs, merged = merges_of(chooser, n_merged, common, [*first, *pairs_of_characters(chooser, characters)])
    if not trained:
        chooser.shuffle(pairs)  # rank has nothing to do with length or id
    return _describe(chooser, pairs, merged)


def _describe(chooser, pairs, merged):
    written = {chr(byte): character for byte, character in CHARACTER.items()}
    write = lambda token: "".join(written[byte] for byte in token)
    vocab = [write(chr(byte)) for byte in chooser.sample(range(256), 256)] + SPECIAL + [write(t) for t in merged]
    # One that the vocabulary has would be the vocabulary's token: no such file is read.
    known = set(vocab)
    added_tokens = [(text, later) for text, later in ADDED if text not in known]
    flags = {"single_word": False, "lstrip": False, "rstrip": False}
    added = [{"id": 256 + no, "content": text, **flags, "normalized": False, "special": True}
             for no, text in enumerate(SPECIAL)]
    added += [{"id": len(vocab) + no, "content": text, **flags, "normalized": later, "special": False}
              for no, (text, later) in enumerate(added_tokens)]
    split = lambda pattern: {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    return {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": added,
        "normalizer": {"type": "Sequence", "normalizers": []},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [*map(split, SPLITS), byte_level]},
        "post_processor": byte_level, "decoder": byte_level,
        "model": {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
                  "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False,
                  "vocab": {token: id_ for id_, token in enumerate(vocab)},
                  "merges": [f"{write(left)} {write(right)}" for left, right in pairs]}}


def fixture():
    doubled = [("o" * n, "o" * n) for n in (1, 2, 4, 8, 16, 32)]  # long texts of few tokens
    described = describe(1, 320 - 256 - len(SPECIAL) - len(ADDED), FEW, first=doubled)
    return json.dumps(described, ensure_ascii=False, indent=1) + "\n"


if __name__ == "__main__":
    if sys.argv[1:] == ["--write"]:
        FIXTURE.parent.mkdir(exist_ok=True)
        FIXTURE.write_text(fixture(), encoding="utf-8")
    elif sys.argv[1:] != ["--check"] or FIXTURE.read_text(encoding="utf-8") != fixture():
        sys.exit(f"{FIXTURE} is not what make_fixture.py --write writes")
