"""Hand-made inputs of the fuzz targets for the chat format; seeds.py writes them."""
import json

import make_fixture  # seeds.py has put its folder on the path
from reference import CHARACTER

BAR = "\uff5c"
EOS = f"<{BAR}end\u2581of\u2581sentence{BAR}>"
DSML = f"{BAR}DSML{BAR}"
THINKING, KEEPING, LOW, HIGH, MAX, PREVIEW, RELEASE_0731, HAS_TEXTS, PYTHON = 1, 2, 4, 8, 12, 16, 32, 64, 128


def messages():
    def conversation(flags, *turns, context=0):
        return bytes([flags, context]) + json.dumps(turns).encode()

    def raw(text, flags=0):
        return bytes([flags, 0]) + text

    def call(name, arguments, call_id):
        return {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}

    user = {"role": "user", "content": "q"}
    answer = {"role": "assistant", "content": "a", "reasoning_content": "why"}
    calls = {"role": "assistant", "content": None,
             "tool_calls": [call("f", '{"a": "s", "n": [1.0, -0, 1e16]}', "1"), call("g", "{}", "2"),
                            call("h", "no JSON", "3")]}
    tools = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]
    parts = [{"type": "text", "text": "a"}, {"type": "image_url"}, {"type": "text"}]
    return {
        "nothing": raw(b""),
        "no_messages": conversation(0),
        "chat": conversation(0, user, answer, user),
        "thinking": conversation(THINKING, user, answer, user, answer),
        "thinking_kept": conversation(THINKING | KEEPING, user, answer, user),
        "context": conversation(THINKING, user, answer, user, context=2),
        "users_that_fuse": conversation(0, user, user, {"role": "user", "content": parts}),
        "results_sorted": conversation(0, calls, {"role": "tool", "tool_call_id": "3", "content": "c"}, user,
                                       {"role": "tool", "tool_call_id": "1", "content": parts}),
        "tools": conversation(THINKING | HAS_TEXTS, {"role": "system", "content": "s", "tools": tools,
                                                     "response_format": {"a": 1.5}}, user),
        "tools_in_own_words": conversation(0, {"role": "developer", "content": "d", "tools": tools}),
        "effort_low": conversation(THINKING | LOW | HAS_TEXTS, user),
        "effort_low_of_preview": conversation(THINKING | LOW | PREVIEW, user),
        "effort_high": conversation(THINKING | HIGH | RELEASE_0731 | HAS_TEXTS, user),
        "effort_max_without_text": conversation(THINKING | MAX, user),
        "old_developer": conversation(THINKING, {"role": "developer", "content": "d"}, answer, user),
        "reminder": conversation(THINKING, user, {"role": "latest_reminder", "content": "r"}, answer),
        "task": conversation(0, {"role": "user", "content": "q", "task": "title"}, answer),
        "action": conversation(THINKING, {"role": "user", "content": "q", "task": "action"}),
        "without_eos": conversation(0, user, {**answer, "wo_eos": True}),
        "unknown_role": conversation(0, {"role": "critic"}),
        "unknown_task": conversation(0, {"role": "user", "task": "x"}),
        "content_a_number": conversation(0, {"role": "user", "content": 1}),
        "arguments_an_array": conversation(0, {"role": "assistant", "tool_calls": [call("f", "[]", "1")]}),
        "call_without_function": conversation(0, {"role": "assistant", "tool_calls": [{}]}),
        "message_a_string": raw(b'["user"]'),
        "escapes": raw(rb'["\u0000\u00e9\ud83d\ude00\/\b\f\n\r\t\"\\", "' + "\u00e9\U0001f600".encode() + b'"]'),
        "half_a_pair": raw(rb'"\ud83d\u0041"'),
        "numbers": raw(b"[0, -0, -0.0, 1.0, 1e5, 1e16, 1e-5, 1e999, 5e-324, 123456789012345678901234567890, 0.1e1]"),
        "number_long": raw(b"0." + b"3" * 400 + b"e-300"),
        "words_of_python": raw(b"[NaN, Infinity, -Infinity]", PYTHON),
        "key_twice": raw(b'{"a": 1, "b": 2, "a": [3], "b": 4, "a": 5}'),
        "key_twice_python": raw(b'{"a": 1, "b": 2, "a": [3], "b": 4, "a": 5}', PYTHON),
        "many_keys": raw(json.dumps({str(i % 40): i for i in range(40)}).encode()),
        "byte_order_mark": raw(b"\xef\xbb\xbf[]"),
        "not_utf8": raw(b'["\xff"]'),
        "deep": raw(b"[" * 500 + b"]" * 500),
        "too_deep": raw(b"[" * 501 + b"]" * 501),
        "cut": raw(b'[{"role": "us'),
    }


def chat_texts():
    def python(text):
        return b"\0" + text.encode()

    def template(text):
        return b"\1" + text.encode()

    slots = "{dsml_token}{thinking_start_token}{thinking_end_token}{{{tool_schemas}}}"
    return {
        "nothing": python(""),
        "tools": python(f'"""doc"""\nimport re\n\nTOOLS_TEMPLATE: str = """# a\n{slots}\n"""\n'),
        "preview": python('REASONING_EFFORT_MAX = (\n    "a\\n"  # c\n    \'b\\u00e9\'\n)\n'),
        "0731": python('REASONING_EFFORT_PROMPTS: Dict[str, str] = {\n    "low": "",\n    "high": ("a" "b"),\n'
                       '    "max": "c",\n}\n'),
        "two_names": python("REASONING_EFFORT_HIGH = 'a'\nREASONING_EFFORT_MAX = 'b'\n"),
        "escapes": python(r"""TOOLS_TEMPLATE = '{tool_schemas}\
\\\'\"\a\b\f\n\r\t\v\x41\101\u00e9\U0001F600\d'"""),
        "crlf": python("TOOLS_TEMPLATE = '''{tool_schemas}\r\n'''\r\n"),
        "assigned_twice": python("TOOLS_TEMPLATE = '{tool_schemas}'\nTOOLS_TEMPLATE = ''\n"),
        "not_a_literal": python("TOOLS_TEMPLATE = '{tool_schemas}' % x\n"),
        "unknown_slot": python("TOOLS_TEMPLATE = '{x}{tool_schemas}'\n"),
        "brace_open": python("TOOLS_TEMPLATE = '{tool_schemas}{'\n"),
        "string_open": python("TOOLS_TEMPLATE = '''{tool_schemas}"),
        "bracket_open": python("TOOLS_TEMPLATE = ('{tool_schemas}'\n"),
        "named_escape": python("TOOLS_TEMPLATE = '\\N{BULLET}{tool_schemas}'\n"),
        "surrogate": python("TOOLS_TEMPLATE = '\\ud800{tool_schemas}'\n"),
        "ends_in_backslash": python("TOOLS_TEMPLATE = '\\"),
        "template_of_nothing": template(""),
        "template_not_utf8": b"\1Reasoning Effort: \xff",
        "template": template("{%- macro render_tools(tools) -%}\n## A\n<{{ dsml_token }}tool_calls>\n"
                             "{%- for tool in tools -%}\n{{ tool | tojson }}\n{%- endfor -%}\n{%- endmacro -%}"),
    }


def answer():
    def spelled(text, thinking=0, step=0):
        return bytes([2 | thinking, step]) + text.encode()

    def tokens(*parts, thinking=0, step=0):  # text and markers in turns
        return bytes([thinking, step]) + b"\xff".join(part.encode() for part in parts)

    block = (f'\n\n<{DSML}tool_calls>\n<{DSML}invoke name="f">\n<{DSML}parameter name="a" string="true">s"\n'
             f'</{DSML}parameter>\n<{DSML}parameter name="n" string="false">[1]</{DSML}parameter>\n</{DSML}invoke>\n'
             f'<{DSML}invoke name="g">\n\n</{DSML}invoke>\n</{DSML}tool_calls>')
    return {
        "nothing": spelled(""),
        "content": spelled("Hi." + EOS),
        "reasoning": spelled("Well.</think>Hi." + EOS, 1),
        "unfinished": spelled("Well.</thin", 1),
        "calls": spelled("Hi." + block + EOS, step=2),
        "calls_after_reasoning": spelled("a</think>" + block, 1),
        "calls_in_reasoning": spelled("a" + block + "</think>", 1),
        "calls_cut": spelled(block[:-3]),
        "calls_and_more": spelled(block + "x"),
        "no_calls": spelled(f"\n\n<{DSML}tool_calls>\n</{DSML}tool_calls>"),
        "parameter_twice": spelled(block.replace('"n"', '"a"')),
        "value_no_json": spelled(block.replace("[1]", "[1")),
        "line_breaks": spelled("\n\n\n\n<\n\n<" + DSML + "\n\n\n<" + DSML + "tool_\n" + block),
        "end_twice": spelled("a" + EOS + EOS + "b" + EOS),
        "half_markers": spelled(f"<<{BAR}<{BAR}end\u2581of<</think<{BAR}DSM{BAR}{DSML}", 1),
        "tokens": tokens("a", "</think>", "b", "<x>", "\n\n<", DSML, "tool_calls>\n</", DSML, "tool_calls>", EOS,
                         thinking=1),
        "tokens_spelled": tokens("a</think>" + EOS, "</think>", block, EOS, thinking=1, step=3),
    }


def conversation():
    """Held ids and an answer's, of the small tokenizer; bytes are ids by its vocabulary."""
    described = json.loads(make_fixture.fixture())
    vocabulary = described["model"]["vocab"]
    added = {token["content"]: token["id"] for token in described["added_tokens"]}
    bos, eos, user, assistant, query = (added[f"<{BAR}{name}{BAR}>"] for name in (
        "begin\u2581of\u2581sentence", "end\u2581of\u2581sentence", "User", "Assistant", "query"))
    think, end_think, dsml = added["<think>"], added["</think>"], added[DSML]
    chat, thinking, stops = 1, 2, 4

    def ids(parts):
        for part in parts:
            yield from [part] if isinstance(part, int) else (vocabulary[CHARACTER[b]] for b in part.encode())

    def case(flags, held, said, stop=b"\0"):
        held, said = list(ids(held)), list(ids(said))
        return bytes([flags, len(held)]) + stop + b"".join(id_.to_bytes(2, "little") for id_ in held + said)

    turn = [bos, user, "a", assistant]
    call = ["\n\n<", dsml, "tool_calls>\n<", dsml, 'invoke name="f">\n<', dsml, 'parameter name="k" string="true">v</',
            dsml, "parameter>\n</", dsml, "invoke>\n</", dsml, "tool_calls>"]
    return {
        "nothing": case(chat, [], []),
        "answer": case(chat, [*turn, end_think], ["the tea", eos]),
        "reasoning": case(chat | thinking, [*turn, think], ["he", end_think, "ate"]),
        "goes_on": case(chat | thinking, [*turn, think, "he\n\n"], ["\n", end_think, "ate"]),
        "calls": case(chat, [*turn, end_think], ["e", *call, eos]),
        "calls_go_on": case(chat, [*turn, end_think, "e", *call[:5]], call[5:]),
        "stop": case(chat | stops, [*turn, end_think], ["the tea"], b"t"),
        "stop_at_the_end": case(chat | stops, [*turn, end_think], ["ehet"], b"t"),
        "stop_in_reasoning": case(chat | thinking | stops, [*turn, think], ["tea", end_think, "the"], b"t"),
        "question": case(chat, [bos, user, "half"], ["e"]),
        "task": case(chat, [bos, user, "a", query], ["e"]),
        "no_mode": case(chat | thinking, turn, ["e"]),
        "plain": case(stops, ["the"], ["tea", end_think], b"a"),
        "between": case(chat, [*turn, end_think, "e", eos, "he"], ["e"]),
        "markers": case(chat, [eos, user, assistant, assistant, bos, user], [user, bos, eos, eos, think]),
    }
