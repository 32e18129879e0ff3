"""Chat format: the reference against cases written by hand, then a probe program against the reference.

The probe (--probe PATH; without it that half is skipped) reads requests from stdin, one line of JSON
each, answers each with one line of JSON on stdout before it reads the next, and ends with status 0 at
the end of stdin. An invalid request is answered, never the end of the probe.

Rendering:
    {"messages": ANY, "thinking": BOOL, "release": "preview" | "0731",
     "effort": "none" | "low" | "high" | "max" | another string, "drop_thinking": BOOL,
     "encoding_file": PATH | null}
    -> {"parts": [["marker", "..."], ["text", "..."], ...]} or {"error": "a sentence"}
  marker: an added token that the format writes: BOS, EOS, User, Assistant, latest_reminder, the six
  task markers, <think>, </think>, and DSML (without the "<" or "</" before it, which is text), also
  where a slot of the tools template puts it. text: all else, also text in messages or in the
  checkpoint's texts that is spelled like a marker. Neighbours of the same kind are joined and empty
  parts dropped before the comparison, so each may come in pieces. encoding_file is the encoding_dsv4.py
  of the checkpoint; null: the checkpoint has none. The same path may have other contents in the next
  request. For what is invalid only that there is an error, not empty, is compared.

Parsing:
    {"answer": STRING, "thinking": BOOL, "cuts": [BYTE, ...]}
    -> {"reasoning": STRING, "content": STRING, "calls": [{"name": STRING, "arguments": STRING}, ...],
        "raw": STRING | null}
  answer: the model's text, markers spelled, with or without EOS at its end. cuts: where the UTF-8 bytes
  of the answer are cut to be fed piece by piece (ascending, equal ones make an empty piece, may lie
  inside a character); they may not change the result. reasoning, content: what lies before and after
  </think> (content alone, without thinking), up to the block of calls or the end; EOS is in none.
  Thinking without </think>: all of that is reasoning. arguments: JSON text,
  {"KEY": VALUE, "KEY": VALUE} with these separators; values of string="true" as a JSON string (like
  Python's json.dumps, ensure_ascii false), others as they stand. raw: null, or, where the block of
  calls deviates from the grammar (or stands in the reasoning, or is cut off), all from its two line
  breaks to the end without a last EOS; calls is [] then. A call's name ends at the first quote, ">" and
  line break, a parameter's key at the first quote before a space and string=", a value where its closing
  tag begins; a key that comes twice deviates.
"""

import argparse
import json
import os
import random
import re
import shlex
import subprocess
import sys
import tempfile
import unittest

import chat_cases
import chat_files
import chat_oracle
import chat_random

TEXTS = {
    None: {},
    "preview": {chat_oracle.TOOLS: chat_cases.TOOLS, chat_oracle.STRONG: chat_cases.STRONG},
    "0731": {chat_oracle.TOOLS: chat_cases.TOOLS, chat_oracle.STRONG: chat_cases.STRONG,
             chat_oracle.EXTREME: chat_cases.EXTREME},
}
DEFAULTS = {"release": "preview", "effort": "none", "drop_thinking": True, "encoding": None}
SLOW_FACTOR = 10


def as_text(messages):
    """What of a case goes over the wire."""
    return messages if isinstance(messages, str) else json.dumps(messages)


def reference(messages, settings, texts=None):
    """[[kind, text], ...] or None where there is no prompt."""
    settings = {**DEFAULTS, **settings}
    encoding = settings.pop("encoding")
    texts = TEXTS[encoding] if texts is None else texts
    try:
        parts = chat_oracle.render(json.loads(as_text(messages)), texts=texts, **settings)
    except chat_oracle.ChatError:
        return None
    return [list(part) for part in parts]


def handwritten(parts):
    pairs = [(chat_oracle.MARKER if isinstance(part, chat_cases.Marker) else chat_oracle.TEXT, part)
             for part in parts]
    return [list(part) for part in chat_oracle.join_parts(pairs)]


def expected_answer(case):
    return dict(zip(("reasoning", "content", "calls", "raw"), case[3:]))


def random_texts(rng):
    """Texts of a checkpoint in which anything may stand between the slots."""
    slots = ["{tool_schemas}", "{dsml_token}", "{thinking_start_token}", "{thinking_end_token}", "{{", "}}"]
    tools = ["{tool_schemas}"]
    for _ in range(rng.randrange(12)):
        text = chat_random.words(rng).replace("{", "").replace("}", "")
        tools.insert(rng.randrange(len(tools) + 1), rng.choice(slots) if rng.random() < 0.4 else text)
    return {chat_oracle.TOOLS: "".join(tools) + "\n",
            chat_oracle.STRONG: "Reasoning Effort: " + chat_random.words(rng) + "{x}\n\n",
            chat_oracle.EXTREME: "Reasoning Effort: \u00e9" + chat_random.words(rng) + "\n\n"}


def file_source(kind, texts, rng):
    return chat_files.source(kind, texts[chat_oracle.TOOLS], texts[chat_oracle.STRONG],
                             texts[chat_oracle.EXTREME], rng)


def answers(rng):
    """An answer with calls, as it was rendered or with something changed; and whether thinking."""
    thinking = rng.random() < 0.5
    messages = [{"role": "assistant", "content": rng.choice(("", "Hi.", "\u00e9\n")),
                 "reasoning_content": "T\n", "tool_calls": plain_calls(rng)}]
    parts = chat_oracle.render(messages, thinking)
    answer = chat_oracle.text_of(parts)[len(chat_oracle.BOS):]
    for _ in range(rng.choice((0, 0, 1, 1, 2))):
        answer = chat_random.mutated(answer, rng, chat_random.ANSWER_PIECES)
    return answer, thinking


def plain_calls(rng):
    made = []
    for _ in range(rng.randrange(3)):
        arguments = {key: chat_random.value(rng) for key in ("a", "b", "\u00e9") if rng.random() < 0.6}
        made.append({"function": {"name": rng.choice(("f", "get_x")),
                                  "arguments": chat_random.spelled(arguments, rng)}})
    return made


# Where the grammar leaves open what deviates: white space that shows only where nothing follows, no call
# at all, EOS or an end of a parameter inside, a name that runs into other tags.
OPEN = re.compile(r'">\n</\uff5cDSML\uff5cinvoke|invoke name="[^\n]*">\n\n+<\uff5cDSML\uff5cparameter'
                  r'|invoke(?! name=)\s*name=|tool_calls>\n*</\uff5cDSML\uff5ctool_calls|[^<]/\uff5cDSML\uff5cparameter'
                  r'|<\uff5cend\u2581of\u2581sentence\uff5c>.|parameter name="[^>]*string="[^>]*string="'
                  r'|name="(?:(?!">\n|" string="(?:true|false)">).)*?\uff5cDSML\uff5c', re.DOTALL)


class Reference(unittest.TestCase):
    def test_cases(self):
        for rule, messages, settings, parts in chat_cases.CASES:
            with self.subTest(rule):
                self.assertEqual(reference(messages, settings), handwritten(parts))

    def test_errors(self):
        for rule, messages, settings in chat_cases.ERRORS:
            with self.subTest(rule):
                self.assertIsNone(reference(messages, settings))

    def test_answers(self):
        for case in chat_cases.ANSWERS:
            with self.subTest(case[0]):
                self.assertEqual(chat_oracle.parse(case[1], case[2]), expected_answer(case))

    def test_examples_have_the_prompts_and_the_markers_of_their_tokens(self):
        for messages, settings, prompt, ids in chat_cases.TOKENS:
            parts = reference(messages, settings)
            self.assertEqual(chat_oracle.text_of(parts), prompt)
            markers = "".join(text for kind, text in parts if kind == chat_oracle.MARKER)
            names = {number: name for name, number in chat_cases.MARKER_IDS.items()}
            self.assertEqual(markers, "".join(names[i] for i in ids if i in names))

    def test_rules_have_names_of_their_own(self):
        for cases in (chat_cases.CASES, chat_cases.ERRORS, chat_cases.ANSWERS):
            names = [case[0] for case in cases]
            self.assertEqual(sorted(names), sorted(set(names)))

    def test_files_hold_their_texts(self):
        rng = random.Random(1)
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "encoding_dsv4.py")
            for _ in range(100):
                texts = random_texts(rng)
                for kind in ("preview", "0731"):
                    with open(path, "w", encoding="utf-8", newline="") as file:
                        file.write(file_source(kind, texts, rng))
                    want = dict(texts)
                    if kind == "preview":
                        del want[chat_oracle.EXTREME]
                    self.assertEqual(chat_oracle.read_texts(path), want)

    def test_an_answer_gives_back_the_calls_of_its_prompt(self):
        rng = random.Random(2)
        for _ in range(500):
            calls = plain_calls(rng)
            messages = [{"role": "assistant", "content": "c", "reasoning_content": "r",
                         "tool_calls": calls}]
            answer = chat_oracle.text_of(chat_oracle.render(messages, True))[len(chat_oracle.BOS):]
            if answer.count("</\uff5cDSML\uff5cparameter>") != answer.count("<\uff5cDSML\uff5cparameter "):
                continue
            got = chat_oracle.parse(answer, True)
            self.assertIsNone(got["raw"])
            for one, call in zip(got["calls"], calls):
                self.assertEqual(json.loads(one["arguments"]), json.loads(call["function"]["arguments"]))


class Probe:
    def __init__(self, command):
        self.errors = tempfile.TemporaryFile()
        self.process = subprocess.Popen(shlex.split(command), stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE, stderr=self.errors)

    def ask_line(self, line):
        try:
            self.process.stdin.write(line + b"\n")
            self.process.stdin.flush()
            answer = self.process.stdout.readline()
        except BrokenPipeError:
            answer = b""
        if not answer:
            raise EOFError("the probe ended: " + self.said())
        return json.loads(answer)

    def ask(self, request):
        return self.ask_line(json.dumps(request).encode())

    def said(self):
        self.process.wait()
        self.errors.seek(0)
        return self.errors.read().decode("utf-8", "replace")

    def close(self):
        """(exit status, what it said on stderr)"""
        self.process.stdin.close()
        self.process.stdout.close()
        said = self.said()
        self.errors.close()
        return self.process.returncode, said


class AgainstProbe(unittest.TestCase):
    command = None
    slow = False

    @classmethod
    def setUpClass(cls):
        if not cls.command:
            raise unittest.SkipTest("no --probe: nothing to compare with the reference")
        cls.folder = tempfile.TemporaryDirectory(prefix="chat \u00fc ")
        cls.paths = {None: None}
        for kind in ("preview", "0731"):
            cls.paths[kind] = cls.write(kind + ".py", file_source(kind, TEXTS["0731"], random.Random(3)))

    @classmethod
    def tearDownClass(cls):
        cls.folder.cleanup()

    def setUp(self):
        self.probe = Probe(self.command)

    def tearDown(self):
        self.assertEqual(self.probe.close(), (0, ""), "exit status and stderr of the probe")

    @classmethod
    def write(cls, name, data):
        path = os.path.join(cls.folder.name, name)
        with open(path, "wb") as file:
            file.write(data if isinstance(data, bytes) else data.encode())
        return path

    def count(self, number):
        return number * (SLOW_FACTOR if self.slow else 1)

    def ask(self, messages, settings, path=None):
        settings = {**DEFAULTS, **settings}
        encoding = settings.pop("encoding")
        settings["encoding_file"] = path or self.paths[encoding]
        line = '{"messages": %s, %s' % (as_text(messages), json.dumps(settings)[1:])
        return self.probe.ask_line(line.encode()), line

    def check(self, messages, settings, want, path=None):
        """want: parts, or None for an error."""
        response, line = self.ask(messages, settings, path)
        if want is None:
            self.assertTrue(response.get("error"), "an error is due: " + line)
            self.assertNotIn("parts", response, line)
            return
        self.assertIn("parts", response, "%s: %s" % (response, line))
        got = [list(part) for part in chat_oracle.join_parts(response["parts"])]
        self.assertEqual(got, want, line)

    def check_answer(self, answer, thinking, cuts, want):
        response = self.probe.ask({"answer": answer, "thinking": thinking, "cuts": cuts})
        self.assertEqual(response, want, "%r, thinking %s, cuts %s" % (answer, thinking, cuts))

    def test_cases(self):
        for rule, messages, settings, parts in chat_cases.CASES:
            with self.subTest(rule):
                self.check(messages, settings, handwritten(parts))

    def test_errors(self):
        for rule, messages, settings in chat_cases.ERRORS:
            with self.subTest(rule):
                self.check(messages, settings, None)

    def test_random_conversations(self):
        rng = random.Random(4)
        for _ in range(self.count(4000)):
            messages, settings = chat_random.conversation(rng)
            self.check(messages, settings, reference(messages, settings))

    def test_random_files(self):
        rng = random.Random(5)
        messages = [{"role": "system", "content": "s", "tools": [chat_cases.schema("{f}")]},
                    {"role": "user", "content": "u"}]
        for _ in range(self.count(200)):
            texts = random_texts(rng)
            kind, effort = rng.choice((("preview", "max"), ("0731", "high"), ("0731", "max")))
            settings = {"thinking": True, "release": kind, "effort": effort}
            path = self.write("encoding_dsv4.py", file_source(kind, texts, rng))
            try:
                self.check(messages, settings, reference(messages, settings, texts), path)
            except AssertionError:
                with open(path, encoding="utf-8") as file:
                    print(file.read(), file=sys.stderr)
                raise

    def test_unusual_files_are_read_right_or_refused(self):
        messages = [{"role": "system", "content": "s", "tools": [chat_cases.schema("f")]}]
        for rule, source, text in chat_files.UNUSUAL:
            with self.subTest(rule):
                path = self.write("unusual.py", source)
                response, line = self.ask(messages, chat_cases.CHAT, path)
                if text is chat_files.ABSENT:
                    self.assertTrue(response.get("error") or response.get("parts"), line)
                elif text is None or "error" in response:
                    self.assertTrue(response.get("error"), line)
                else:
                    want = reference(messages, chat_cases.CHAT, {chat_oracle.TOOLS: text})
                    self.check(messages, chat_cases.CHAT, want, path)

    def test_a_file_that_is_cut_anywhere_is_read_right_or_refused(self):
        source = file_source("0731", TEXTS["0731"], random.Random(6)).encode()
        messages = [{"role": "system", "content": "s", "tools": [chat_cases.schema("f")]}]
        settings = {"thinking": True, "release": "0731", "effort": "max"}
        want = reference(messages, {**settings, "encoding": "0731"})
        for size in range(0, len(source), 1 if self.slow else 17):
            response, _ = self.ask(messages, settings, self.write("cut.py", source[:size]))
            if "error" not in response:
                got = [list(part) for part in chat_oracle.join_parts(response["parts"])]
                self.assertEqual(got, want, "cut at %d" % size)

    def test_a_file_that_does_not_exist(self):
        missing = os.path.join(self.folder.name, "missing.py")
        messages = [{"role": "system", "content": "s", "tools": [chat_cases.schema("f")]}]
        self.check(messages, chat_cases.CHAT, None, missing)
        self.check([chat_cases.user("u")], {"thinking": True, "effort": "max"}, None, missing)
        self.check(messages, chat_cases.CHAT, None, self.folder.name)

    def test_answers_in_any_pieces(self):
        rng = random.Random(7)
        for case in chat_cases.ANSWERS:
            with self.subTest(case[0]):
                size = len(case[1].encode())
                for cuts in [[], list(range(size + 1)), [0, 0, size, size]] + [[i] for i in range(size)]:
                    self.check_answer(case[1], case[2], cuts, expected_answer(case))
                for _ in range(5):
                    self.check_answer(case[1], case[2], chat_random.cuts(case[1], rng),
                                      expected_answer(case))

    def test_random_answers(self):
        rng = random.Random(8)
        for _ in range(self.count(3000)):
            answer, thinking = answers(rng)
            if OPEN.search(answer):
                continue
            self.check_answer(answer, thinking, chat_random.cuts(answer, rng),
                              chat_oracle.parse(answer, thinking))

    def test_what_is_open_does_not_end_the_probe(self):
        """What has no one right answer: prompts or errors, whole where they can be told."""
        lone = '[{"role":"user","content":"a\\ud800b"}]'
        deep = '[{"role":"system","content":"s","response_format":%s%s}]' % ("[" * 50000, "]" * 50000)
        inner = json.dumps('{"a":%s%s}' % ("[" * 50000, "]" * 50000))
        call = '[{"role":"assistant","tool_calls":[{"function":{"name":"f","arguments":%s}}]}]'
        double = json.dumps('{"a":1,"a":2}')
        for messages in (lone, deep, call % inner, call % double, call % '"[1]"', call % '"NaN"',
                         call % '{"a":1}', call % "null", '[{"role":"assistant","tool_calls":[{}]}]',
                         '[{"role":"assistant","tool_calls":{}}]', '[{"role":"assistant","tool_calls":[1]}]',
                         '[{"role":"user","content":null}]', '[{"role":"user","content":3}]',
                         '[{"role":"user","content":[3]}]', '[{"role":"user","content":{}}]',
                         '[{"role":"system","content":[]}]', '[{"role":"system","tools":3}]',
                         '[{"role":"system","content":"s","tools":[3]}]',
                         '[{"role":"user","content":"u","task":3}]', '[{"role":"tool","tool_call_id":3}]',
                         '[{"role":"latest_reminder"}]', '[{"role":"user","role":"system"}]'):
            response, line = self.ask(messages, {"thinking": True, "encoding": "preview"})
            self.assertTrue(response.get("error") or response.get("parts"), line[:200])

    def test_a_zero_character_is_kept_or_refused(self):
        for messages in ('[{"role":"user","content":"a\\u0000b"}]',
                         '[{"role":"system","content":"s","response_format":{"a\\u0000b":"c\\u0000d"}}]',
                         '[{"role":"assistant","tool_calls":[{"function":{"name":"f","arguments":'
                         '"{\\"a\\":\\"x\\\\u0000y\\"}"}}]}]'):
            response, _ = self.ask(messages, chat_cases.CHAT)
            if not response.get("error"):
                self.check(messages, chat_cases.CHAT, reference(messages, chat_cases.CHAT))

    def test_tools_without_a_text_show_the_schemas_or_are_refused(self):
        messages = [{"role": "system", "content": "s", "tools": [chat_cases.schema("f", n=1.0)]},
                    {"role": "user", "content": "u"}]
        response, _ = self.ask(messages, chat_cases.CHAT)
        if not response.get("error"):
            text = chat_oracle.text_of(response["parts"])
            self.assertIn('\n{"name": "f", "n": 1.0}\n', text)
            self.assertIn("\uff5cDSML\uff5ctool_calls>", text)
            self.assertTrue(text.startswith(chat_oracle.BOS + "s\n\n"), text)
            self.assertTrue(text.endswith("\n<\uff5cUser\uff5c>u<\uff5cAssistant\uff5c></think>"), text)

    def test_long_conversations(self):
        c = chat_cases
        self.check([c.user("x" * 3000000)], c.CHAT, handwritten([c.B, c.U, "x" * 3000000, c.A, c.ET]))
        self.check([c.user("a"), c.assistant("b")] * 10000, c.CHAT,
                   handwritten([c.B] + [c.U, "a", c.A, c.ET, "b", c.E] * 10000))
        ids = [str(i) for i in range(3000)]
        calls = [c.call("f", "{}", i) for i in ids]
        self.check([c.assistant(calls=calls)] + [c.tool(i, i) for i in reversed(ids)], c.CHAT,
                   handwritten([c.B] + c.block(*[c.invoke("f")] * 3000)
                               + [c.E, c.U, c.results(*ids), c.A, c.ET]))

    def test_bad_requests_are_answered(self):
        for line in (b"", b"x", b"{", b"[]", b"null", b"{}", b'{"messages": []', b'{"answer": 1}',
                     b'{"answer": "a", "thinking": false, "cuts": [9]}', b"\xff",
                     b'{"answer": "ab", "thinking": false, "cuts": [2, 1]}'):
            self.assertTrue(self.probe.ask_line(line).get("error"), line)
        self.check([chat_cases.user("hello")], chat_cases.CHAT,
                   [["marker", "<\uff5cbegin\u2581of\u2581sentence\uff5c><\uff5cUser\uff5c>"], ["text", "hello"],
                    ["marker", "<\uff5cAssistant\uff5c></think>"]])


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--probe", help="the program to compare, or a command that runs it")
    parser.add_argument("--slow", action="store_true", help="more random cases")
    arguments, rest = parser.parse_known_args()
    AgainstProbe.command = arguments.probe
    AgainstProbe.slow = arguments.slow
    unittest.main(argv=[sys.argv[0]] + rest)


if __name__ == "__main__":
    main()
