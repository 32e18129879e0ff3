"""Random conversations, and answers of a model, that a chat format has to get right."""

import json
import struct

WORDS = ["", "", "a", "hello", " ", "\n", "\n\n", "\t", "\u00e9", "\u4f60\u597d", "\U0001f600", "e\u0301", "\u2028", "\ufeff",
         "<\uff5cUser\uff5c>", "<\uff5cAssistant\uff5c>", "</think>", "<think>", "<\uff5cend\u2581of\u2581sentence\uff5c>", "\uff5cDSML\uff5c",
         "</\uff5cDSML\uff5cparameter>", "<tool_result>", "</tool_result>", "{tool_schemas}", "{{", "}", "%s",
         "\\", "\"", "'", "/", "\x01", "\x7f", "\r", "&lt;", "1+1=?", "Be brief.", "x" * 300]
KEYS = ["a", "b", "name", "k k", "\u00e9", "", "n", "x\"y", "<b>"]
IDS = ["1", "2", "3", "call_4", "\u00e9", ""]
TASKS = ["action", "query", "authority", "domain", "title", "read_url"]


class Spelled(str):
    """JSON text that stands for itself."""


def words(rng, most=4):
    return "".join(rng.choice(WORDS) for _ in range(rng.randrange(most)))


# ---- JSON in many spellings ----


def number(rng):
    kind = rng.randrange(5)
    if kind == 0:
        return rng.randrange(-20, 1000)
    if kind == 1:
        return Spelled(rng.choice(("-0", "-0.0", "0.0", "1.0", "1e2", "1E-7", "12.50", "1.5e+3", "1e16",
                                   "1e15", "0.0001", "0.00001", "123456789.123456789")))
    if kind == 2:
        return rng.randrange(-10**rng.randrange(1, 40), 10**rng.randrange(1, 40))
    if kind == 3:
        return round(rng.uniform(-1000, 1000), rng.randrange(6))
    while True:
        value = struct.unpack("<d", struct.pack("<Q", rng.getrandbits(64)))[0]
        if abs(value) < 1e308:
            return Spelled("%.17e" % value)


def value(rng, depth=0):
    kind = rng.randrange(8 if depth < 3 else 6)
    if kind < 2:
        return words(rng)
    if kind < 4:
        return number(rng)
    if kind < 6:
        return rng.choice((True, False, None))
    if kind == 6:
        return [value(rng, depth + 1) for _ in range(rng.randrange(4))]
    return mapping(rng, depth + 1)


def mapping(rng, depth=0):
    return {rng.choice(KEYS): value(rng, depth) for _ in range(rng.randrange(4))}


def spelled_string(string, rng):
    out = []
    for c in string:
        if c == "/" and rng.random() < 0.3:
            out.append("\\/")
        elif rng.random() < 0.03:
            units = c.encode("utf-16-be")
            out += ["\\u%04x" % int.from_bytes(units[i : i + 2], "big")
                    for i in range(0, len(units), 2)]
        else:
            out.append(json.dumps(c, ensure_ascii=rng.random() < 0.2)[1:-1])
    return '"' + "".join(out) + '"'


def spelled(thing, rng):
    """JSON text of a value, on one line."""
    def gap():
        return rng.choice(("", "", "", " ", "\t", "  "))
    if isinstance(thing, Spelled):
        return str(thing)
    if isinstance(thing, str):
        return spelled_string(thing, rng)
    if isinstance(thing, list):
        return "[" + gap() + ",".join(gap() + spelled(x, rng) + gap() for x in thing) + "]"
    if isinstance(thing, dict):
        return "{" + gap() + ",".join(gap() + spelled_string(k, rng) + gap() + ":" + gap()
                                      + spelled(x, rng) + gap() for k, x in thing.items()) + "}"
    return json.dumps(thing)


# ---- Messages ----


class Unsettled(Exception):
    """JSON on which readers may differ."""


def settled(text):
    """Whether `text` is a JSON object, or no JSON at all, beyond doubt."""
    def refuse(_):
        raise Unsettled

    def pairs(items):
        if len({key for key, _ in items}) != len(items):
            raise Unsettled
        return dict(items)

    def finite(digits):
        if abs(float(digits)) == float("inf"):
            raise Unsettled
        return float(digits)
    try:
        found = json.loads(text, parse_constant=refuse, object_pairs_hook=pairs, parse_float=finite)
        json.dumps(found, ensure_ascii=False).encode()
    except (Unsettled, UnicodeEncodeError):
        return False
    except ValueError:
        return True
    return isinstance(found, dict) and "\\u0000" not in text


def arguments(rng):
    while True:
        text = spelled(mapping(rng), rng)
        if rng.random() < 0.1:
            text = words(rng)
        for _ in range(rng.choice((0, 0, 0, 1, 2))):
            text = mutated(text, rng, ("{", "}", ",", ":", '"', "\\", "0", ".", "-", "\n", "e", "\u00e9", "n"))
        if settled(text):
            return text


def mutated(text, rng, pieces):
    at = rng.randrange(len(text) + 1)
    end = min(len(text), at + rng.choice((0, 0, 1, 1, 2, 8)))
    return text[:at] + (rng.choice(pieces) if rng.random() < 0.6 else "") + text[end:]


def content(rng):
    if rng.random() < 0.8:
        return words(rng)
    return [{"type": "text", "text": words(rng)} if rng.random() < 0.7
            else {"type": rng.choice(("image_url", "file", "\u00e9"))} for _ in range(rng.randrange(4))]


def calls(rng):
    made = []
    for _ in range(rng.randrange(4)):
        call = {"type": "function", "function": {"name": rng.choice(KEYS), "arguments": arguments(rng)}}
        if rng.random() < 0.9:
            call["id"] = rng.choice(IDS)
        made.append(call)
    return made


def appendices(rng, with_tools):
    made = {}
    if with_tools and rng.random() < 0.3:
        made["tools"] = [{"type": "function", "function": mapping(rng)}
                         for _ in range(rng.randrange(3))]
    if rng.random() < 0.2:
        made["response_format"] = mapping(rng)
    return made


def message(rng, with_tools, dull):
    role = rng.choice(("user", "user", "user", "tool", "tool", "assistant", "assistant", "assistant",
                       "system", "latest_reminder", "developer"))
    if not dull and rng.random() < 0.03:
        role = "critic"
    made = {"role": role, "content": words(rng)}
    if role in ("user", "tool"):
        made["content"] = content(rng)
        made.update(appendices(rng, True) if rng.random() < 0.1 else {})
    if role == "tool":
        made["tool_call_id"] = rng.choice(IDS)
    if role in ("system", "developer"):
        made.update(appendices(rng, with_tools))
    if role == "developer" and (dull or rng.random() < 0.9):
        made["content"] += "d"
    if role == "assistant":
        made["content"] = rng.choice((words(rng), words(rng), None))
        if rng.random() < 0.7:
            made["reasoning_content"] = rng.choice((words(rng), None, "thoughts"))
        if rng.random() < 0.4:
            made["tool_calls"] = calls(rng)
    if role in ("user", "assistant") and rng.random() < 0.1:
        made["wo_eos"] = rng.random() < 0.7
    if role in ("user", "developer") and rng.random() < 0.15:
        made["task"] = rng.choice(TASKS + [None])
    items = list(made.items())
    rng.shuffle(items)
    return dict(items)


def conversation(rng):
    """(JSON text of messages, settings)."""
    encoding = rng.choice(("preview", "0731", None))
    release = encoding or rng.choice(("preview", "0731"))
    efforts = ["none", "high", "max"] if release == "preview" else ["none", "low", "high", "max"]
    settings = {"thinking": rng.random() < 0.7, "release": release, "encoding": encoding,
                "effort": rng.choice(efforts), "drop_thinking": rng.random() < 0.7}
    if encoding is None:
        settings["effort"] = "none"
    dull = rng.random() < 0.8
    messages = [message(rng, encoding is not None, dull)
                for _ in range(rng.choice((1, 2, 3, 4, 6, 9, 14)))]
    return spelled(messages, rng), settings


# ---- Answers ----

ANSWER_PIECES = ["<", "</", "\uff5cDSML\uff5c", "\n", ">", '"', " ", "invoke", "parameter", "tool_calls", "x", "\u00e9",
                 "</think>", "\n\n<\uff5cDSML\uff5ctool_calls>\n", '<\uff5cDSML\uff5cinvoke name="f">\n', "true", "false"]


def cuts(answer, rng):
    size = len(answer.encode())
    few = sorted(rng.randrange(size + 1) for _ in range(rng.randrange(6)))
    return rng.choice((few, few, [], list(range(size + 1))))
