"""Texts that a tokenizer may get wrong."""

import random

LETTERS = [
    "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ", "etaoin shrdlu  ", "0123456789",
    "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~", " \t\n\r", " \n", "\r\n",
    "\x00\x01\x07\x08\x0b\x0c\x1b\x1c\x1d\x1e\x1f\x7f\x80\x85\x9f\xad",
    "\u00a0\u1680\u2000\u2003\u200a\u2028\u2029\u202f\u205f\u3000", "\u200b\u200c\u200d\u2060\ufeff\ufe0f\u180e",
    "\u00e9\u00fc\u00df\u00f1\u0153\u0142\u0130\u0131\u01c5", "\u0301\u0308\u0327\u20dd\u0488",
    "\u0391\u03b2\u03b3\u03a9\u1f80\u0436\u0414\u044f\u0451", "\u05d0\u05d1\u05b7\u0627\u0644\u0639\u064e\u0651",
    "\u0905\u0915\u0940\u094d\u093f\u0e01\u0e33\u0e49\u0f40\u0f72", "\uac00\ud55c\uae00\u1100\u1161\u11a8",
    "\u4e00\u4e2d\u6587\u5b57\u9fa5\u9fa4", "\u9fa6\u3005\u3007\u3400\u4dff\uf900\U00020000\U0002f800",
    "\u3040\u3041\u3042\u3097\u3099\u309b\u309c\u309d\u309f", "\u30a0\u30a2\u30f3\u30fb\u30fc\u30fd\u30ff\u31f0\uff71",
    "\u00b2\u00bd\u2160\u2460\u0663\u0966\u3021\u3220\U0001d7d8\U00010107", "\u2026\u201c\u201d\u2014\u00ab\u00bf\u3001\u3002\uff01\uff5c\u2581",
    "\u20ac\u2192\u2200\u2500\u00a9\u02c6\u00b4\U0001d6c1", "\U0001f600\U0001f468\u200d\U0001f469\U0001f3fd\U0001f1e9\U0001f1ea\u2764\ufe0f",
    "\ue000\uf8ff\U000f0000\u0378\uffff\ufdd0\U0001fffe\U0010ffff", "\u1c89\ua7cb\U00010d40\U00016d70\U0001ccf0",
]
WORDS = ["don't", "I'm", "we'll", "'tis", "the ", " and", "   word", "foo_bar", "x+=1;", "http://a.b/c?d=e", "</div>",
         "print(\"hi\")\n", "\n\n", "\t\treturn", "1234567", "3.14", "12,345.678", "\u4f60\u597d\uff0c\u4e16\u754c\uff01",
         "\u3053\u3093\u306b\u3061\u306f", "Stra\u00dfe", "na\u00efve", "e\u0301te\u0301", "....", "-----", "=====\n", "#include <a.h>\n"]


def _scalar(chooser, limit):
    code = chooser.randrange(limit)
    return chr(code if not 0xd800 <= code < 0xe000 else code - 0x800)


def make(seed, count, markers):
    """`count` texts, markers (texts of added tokens) and parts of such in some."""
    chooser = random.Random(seed)
    for _ in range(count):
        parts = []
        alphabets = chooser.sample(LETTERS, chooser.randint(1, 4))
        for _ in range(chooser.randint(1, 12)):
            what = chooser.random()
            if what < 0.55:
                alphabet = chooser.choice(alphabets)
                parts.append("".join(chooser.choices(alphabet, k=chooser.randint(1, 5))))
            elif what < 0.75:
                parts.append(chooser.choice(WORDS))
            elif what < 0.85:
                parts.append(_scalar(chooser, chooser.choice((0x800, 0x3400, 0x10000, 0x20000, 0x110000))))
            elif what < 0.9:
                parts.append(chooser.choice(alphabets)[0] * chooser.randint(2, 40))
            elif markers:
                marker = chooser.choice(markers)
                parts.append(marker if chooser.random() < 0.6 else marker[:chooser.randint(1, len(marker))])
        yield "".join(parts)


def scalars():
    """Every Unicode scalar value."""
    for code in range(0x110000):
        if not 0xd800 <= code < 0xe000:
            yield chr(code)
