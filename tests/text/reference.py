"""Byte-level BPE as DeepSeek's tokenizer.json means it: written from its description (docs/TEXT.md), to be
read, not to be quick. Shares no code with src/text; its classes are scripts/unicode_classes.txt."""

import re
from pathlib import Path

TEXT = Path(__file__).resolve().parents[2] / "scripts" / "unicode_classes.txt"


def _classes():
    """Each class of the file as the inside of a set of a regular expression."""
    found = {}
    for line in TEXT.read_text(encoding="ascii").splitlines():
        if line.startswith("["):
            name = line.strip("[]")
        elif not line.startswith("#"):
            for word in line.split():
                ends = [rf"\U{int(end, 16):08x}" for end in word.split("-")]
                found[name] = found.get(name, "") + "-".join(ends)
    return found


_OF = _classes()
_L, _M, _N, _S = _OF["letter"], _OF["mark"], _OF["number"], _OF["space"]
_PS = _OF["punctuation"] + _OF["symbol"]
PATTERNS = [re.compile(pattern) for pattern in (
    f"[{_N}]{{1,3}}",
    "[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+",
    rf"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{{|}}~][A-Za-z]+|[^\r\n{_L}{_PS}]?[{_L}{_M}]+| ?[{_PS}]+[\r\n]*"
    rf"|[{_S}]*[\r\n]+|[{_S}]+(?![^{_S}])|[{_S}]+")]
_SELF = [*range(33, 127), *range(161, 173), *range(174, 256)]
BYTE = {chr(byte): byte for byte in _SELF}
BYTE.update({chr(256 + no): byte for no, byte in enumerate(b for b in range(256) if b not in _SELF)})
CHARACTER = {byte: character for character, byte in BYTE.items()}


def split(text, pattern):
    """The matches of the pattern, and what is between them."""
    at = 0
    for match in pattern.finditer(text):
        yield from (part for part in (text[at:match.start()], match[0]) if part)
        at = match.end()
    if text[at:]:
        yield text[at:]


class Tokenizer:
    def __init__(self, described):
        """described: tokenizer.json as json.load gives it."""
        model = described["model"]
        self.vocab = model["vocab"]
        merges = [merge.split(" ") if isinstance(merge, str) else merge for merge in model["merges"]]
        self.ranks = {tuple(merge): rank for rank, merge in enumerate(merges)}
        self.added = {token["content"]: token["id"] for token in described["added_tokens"]}
        self.passes = [self._alternatives(t["content"] for t in described["added_tokens"]
                                          if t["normalized"] == normalized) for normalized in (False, True)]

    @staticmethod
    def _alternatives(texts):
        longest_first = sorted(map(re.escape, texts), key=len, reverse=True)
        return re.compile("|".join(longest_first) or "(?!)")

    def piece(self, text):
        symbols = [CHARACTER[byte] for byte in text.encode()]
        while len(symbols) > 1:
            pairs = list(zip(symbols, symbols[1:]))
            rank, at = min((self.ranks.get(pair, len(self.ranks)), at) for at, pair in enumerate(pairs))
            if rank == len(self.ranks):
                break
            symbols[at:at + 2] = ["".join(pairs[at])]
        return [self.vocab[symbol] for symbol in symbols]

    def plain(self, text):
        pieces = [text]
        for pattern in PATTERNS:
            pieces = [part for piece in pieces for part in split(piece, pattern)]
        return [id_ for piece in pieces for id_ in self.piece(piece)]

    def encode(self, text, added=False):
        parts = [(text, False)]
        for pattern in self.passes if added else []:
            parts = [(part, is_added or pattern.fullmatch(part) is not None) for whole, is_added in parts
                     for part in ([whole] if is_added else split(whole, pattern))]
        return [id_ for part, is_added in parts for id_ in ([self.added[part]] if is_added else self.plain(part))]
