"""Encoding files of a checkpoint, as Python source: the same texts in many spellings.

Constants stand where the released files have them: TOOLS_TEMPLATE in both; REASONING_EFFORT_MAX in the
preview's; a dict REASONING_EFFORT_PROMPTS, from level to text, in that of 0731.
"""

import ast

ESCAPES = {"\n": "\\n", "\t": "\\t", "\r": "\\r", "\\": "\\\\", "\0": "\\x00"}


def plain_character(c, rng, quote):
    """A character inside quotes, escaped where it has to be and sometimes where not."""
    if c in ESCAPES and not (c in "\n\t" and len(quote) == 3 and rng.random() < 0.7):
        return ESCAPES[c]
    if c == quote[0]:
        return "\\" + c
    if rng.random() < 0.03:
        code = ord(c)
        forms = ["\\U%08x" % code]
        if code < 0x10000:
            forms.append("\\u%04X" % code)
        if code < 0x100:
            forms.append("\\x%02x" % code)
        return rng.choice(forms)
    return "\\'" if c == "'" and rng.random() < 0.2 else c


def literal(text, rng, quotes=('"', "'", '"""', "'''")):
    quote = rng.choice(quotes)
    out = []
    for c in text:
        if len(quote) == 3 and rng.random() < 0.02:
            out.append("\\\n")
        out.append(plain_character(c, rng, quote))
    return rng.choice(("", "", "", "u")) + quote + "".join(out) + quote


def expression(text, rng):
    """A literal, or some in parentheses with comments and line breaks between."""
    if rng.random() < 0.4:
        return literal(text, rng)
    pieces = []
    while text:
        size = rng.randrange(1, 60)
        pieces.append(literal(text[:size], rng))
        text = text[size:]
    between = ["\n    ", " ", "\n", "  # isn't a \"quote\"\n    ", "\n\n\t"]
    out = "(" + rng.choice(between)
    for piece in pieces or ['""']:
        out += piece + rng.choice(between)
    return out + ")"


DECOYS = ['OLD_TOOLS_TEMPLATE = "wrong"', 'TOOLS_TEMPLATE_SHORT: str = "wrong"',
          '# TOOLS_TEMPLATE = "wrong"', "# it's a comment with one quote",
          '"""TOOLS_TEMPLATE = "wrong" in a string\nTOOLS_TEMPLATE = "wrong"\n"""',
          "note = 'TOOLS_TEMPLATE = \"wrong\"'", 'REASONING_EFFORT_MAX_OLD = ("wrong")',
          '"""REASONING_EFFORT_MAX = "wrong"\n"""', "VALID = {'TOOLS_TEMPLATE': \"wrong\"}",
          "def render(tools):\n    return TOOLS_TEMPLATE.format(tool_schemas=tools)",
          'same = None == "wrong"', "import json"]


def decoys(rng):
    return "\n\n".join(rng.sample(DECOYS, rng.randrange(4))) + "\n\n"


def assignment(name, value, rng, kind="str"):
    return name + rng.choice(("", ": " + kind)) + rng.choice((" = ", "=", "  =  ")) + value + "\n\n"


def source(kind, tools, strong, extreme, rng):
    """An encoding file of "preview" or "0731"."""
    parts = [assignment("TOOLS_TEMPLATE", expression(tools, rng), rng)]
    if kind == "preview":
        parts.append(assignment("REASONING_EFFORT_MAX", expression(strong, rng), rng))
    else:
        entries = ['    %s: %s,\n' % (literal(level, rng, ('"', "'")), expression(text, rng))
                   for level, text in (("low", ""), ("high", strong), ("max", extreme))]
        parts.append(assignment("REASONING_EFFORT_PROMPTS", "{\n" + "".join(entries) + "}", rng,
                                "Dict[str, str]"))
        parts.append('DEFAULT_REASONING_EFFORT = "low"\n\n')
    rng.shuffle(parts)
    made = '"""Reads a chat."""\n\nfrom typing import Dict\n\n'
    for part in parts:
        made += decoys(rng) + part
    made += decoys(rng)
    ast.parse(made)
    return made


# Sources of TOOLS_TEMPLATE that a reader may refuse, but not read as another text. None: to refuse.
# ABSENT: no text, so that words of one's own will do.
ABSENT = object()
UNUSUAL = [
    ("raw string", 'TOOLS_TEMPLATE = r"""a\\n{tool_schemas}"""\n', "a\\n{tool_schemas}"),
    ("octal escape", 'TOOLS_TEMPLATE = "\\101\\12{tool_schemas}"\n', "A\n{tool_schemas}"),
    ("named escape", 'TOOLS_TEMPLATE = "\\N{BULLET}{tool_schemas}"\n', "\u2022{tool_schemas}"),
    ("unknown escape", 'TOOLS_TEMPLATE = "\\d{tool_schemas}"\n', "\\d{tool_schemas}"),
    ("other escapes", 'TOOLS_TEMPLATE = "\\a\\b\\f\\v{tool_schemas}"\n', "\a\b\f\v{tool_schemas}"),
    ("sum", 'TOOLS_TEMPLATE = "a" + "{tool_schemas}"\n', "a{tool_schemas}"),
    ("call", 'TOOLS_TEMPLATE = "aXb{tool_schemas}".replace("X", "Y")\n', "aYb{tool_schemas}"),
    ("formatted string", 'X = 1\nTOOLS_TEMPLATE = f"{X}{{tool_schemas}}"\n', "1{tool_schemas}"),
    ("bytes", 'TOOLS_TEMPLATE = b"{tool_schemas}"\n', None),
    ("line ends of Windows", 'TOOLS_TEMPLATE = """a\r\nb{tool_schemas}"""\r\n', "a\nb{tool_schemas}"),
    ("line joined outside", 'TOOLS_TEMPLATE = "a" \\\n    "{tool_schemas}"\n', "a{tool_schemas}"),
    ("assigned twice", 'TOOLS_TEMPLATE = "a"\nTOOLS_TEMPLATE = "b{tool_schemas}"\n', "b{tool_schemas}"),
    ("two names", 'T = TOOLS_TEMPLATE = "b{tool_schemas}"\n', "b{tool_schemas}"),
    ("tuple", 'TOOLS_TEMPLATE = "a{tool_schemas}",\n', None),
    ("inside a function", 'def f():\n    TOOLS_TEMPLATE = "a{tool_schemas}"\n', ABSENT),
    ("declared only", "TOOLS_TEMPLATE: str\n", ABSENT),
    ("not closed", 'TOOLS_TEMPLATE = "a{tool_schemas}\n', None),
    ("not closed, three quotes", 'TOOLS_TEMPLATE = """a{tool_schemas}\n', None),
    ("not closed, parentheses", 'TOOLS_TEMPLATE = ("a{tool_schemas}"\n', None),
    ("a number", "TOOLS_TEMPLATE = 3\n", None),
    ("nothing", "", ABSENT),
    ("an unknown slot", 'TOOLS_TEMPLATE = "{other}{tool_schemas}"\n', None),
    ("a slot without a name", 'TOOLS_TEMPLATE = "{}{tool_schemas}"\n', None),
    ("a brace that is not closed", 'TOOLS_TEMPLATE = "{tool_schemas} {"\n', None),
    ("a brace that is not opened", 'TOOLS_TEMPLATE = "{tool_schemas} }"\n', None),
    ("half a surrogate", 'TOOLS_TEMPLATE = "\\ud800{tool_schemas}"\n', None),
    ("beyond Unicode", 'TOOLS_TEMPLATE = "\\U00110000{tool_schemas}"\n', None),
    ("a short escape", 'TOOLS_TEMPLATE = "\\x4{tool_schemas}"\n', None),
    ("not UTF-8", b'TOOLS_TEMPLATE = "\xff{tool_schemas}"\n', None),
]
