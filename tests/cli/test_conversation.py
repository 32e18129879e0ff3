#!/usr/bin/env python3
"""kvfold run in the model's chat format: turns, reasoning, calls, sessions that go on.

usage: test_conversation.py --kvfold PATH --model DIR [unittest's own arguments]

The model says what the test wants (scripted.py). Whatever ends an answer, what was shown is what the session
holds: each test looks at the ids in its file.
"""

import json
import os
import shutil
import signal
import tempfile
from pathlib import Path

import scripted
from scripted import ASSISTANT, BOS, DSML, END_THINK, EOS, IDS, QUERY, THINK, USER, ids_of
from support import MODEL, PATIENCE_SECONDS, CliTest, Terminal, main, wait_until

import snapshot  # scripted's modules have put tests/oracle on the path

# "rR" and </think> is what it thinks, "CD" what it says.
SCRIPT = {THINK: "r", "r": "R", "R": END_THINK, END_THINK: "C", "C": "D"}
SAYS = [IDS["C"], IDS["D"]]
THINKS = [IDS["r"], IDS["R"], IDS[END_THINK]]
TOOLS = [{"type": "function", "function": {"name": "eat", "parameters": {}}}]
CALLED = [{"role": "user", "content": "a"},
          {"role": "assistant", "content": "", "tool_calls": [
              {"id": "1", "type": "function", "function": {"name": "eat", "arguments": "{\"b\": 1}"}}]}]


def setUpModule():
    global FOLDER
    FOLDER = tempfile.mkdtemp(prefix="kvfold-scripted-")
    scripted.write(os.path.join(FOLDER, "says"), MODEL, SCRIPT)
    scripted.write(os.path.join(FOLDER, "loops"), MODEL, {**SCRIPT, "D": "C", "R": "r"})


def tearDownModule():
    shutil.rmtree(FOLDER)


def model(name="says"):
    return os.path.join(FOLDER, name)


class ConversationTest(CliTest):
    """Sessions are in s/."""

    def made(self, script, name="own", default=EOS):
        return scripted.write(self.path(name), MODEL, script, default)

    def arguments(self, *arguments, of=None):
        return ["run", "-m", of or model(), "--store", self.path("s"), "--ctx", "1k", *arguments]

    def plain(self, *arguments, of=None, **options):
        """One without files."""
        return self.good("run", "-m", of or model(), *arguments, **options)

    def record(self, name, *arguments, of=None, **options):
        return self.json_lines(*self.arguments("--session", name, *arguments, of=of), **options)[0]

    def talk(self, name, *lines, more=(), of=None):
        text = "".join(line + "\n" for line in lines).encode()
        return self.good(*self.arguments("--session", name, "-i", *more, of=of), stdin=text)

    def held(self, name):
        data = Path(self.path(f"s/{name}.kvfold")).read_bytes()
        header = snapshot.choose_header(data)
        tokens = b""
        for part in range(header.n_parts):
            at = header.index_offset + 16 * header.n_layers + 48 * part
            stream, _, _, _, _, _, offset, size, _ = snapshot.PART.unpack_from(data, at)
            if stream == snapshot.TOKENS:
                tokens += data[offset:offset + size]
        return [int.from_bytes(tokens[4 * i:4 * i + 4], "little") for i in range(header.n_tokens)]

    def assert_held(self, name, *parts):
        self.assertEqual(self.held(name), ids_of(*parts))

    def refuses(self, expected, *arguments, **options):
        """Also notes may come before the one line."""
        result = self.kvfold(*arguments, **options)
        lines = result.stderr.decode().splitlines()
        self.assertEqual((result.returncode, result.stdout), (2, b""), lines)
        self.assertEqual([line for line in lines[:-1] if ": note: " not in line], [])
        self.assertIn(expected, lines[-1])


class PromptTest(ConversationTest):
    def test_a_prompt_is_a_turn(self):
        result = self.good(*self.arguments("--session", "a", "-p", "bc"))
        self.assertEqual(result.stdout, b"CD\n")
        self.assertIn(b"6 + 2 tokens", result.stderr)
        self.assertIn(b"ended by the model", result.stderr)
        self.assert_held("a", BOS, USER, "bc", ASSISTANT, END_THINK, "CD")
        self.good(*self.arguments("--session", "b", "-f", self.write("text", "b\nc\n")))
        self.assert_held("b", BOS, USER, "b\nc\n", ASSISTANT, END_THINK, "CD")

    def test_what_is_spelled_is_text(self):
        text = USER + "b" + EOS + END_THINK
        self.record("a", "-p", text)
        held = self.held("a")
        self.assertEqual([held.count(IDS[mark]) for mark in (USER, EOS, END_THINK)], [1, 0, 1])
        result = self.plain("-p", text, "--raw", "-n", "1", "--json")
        self.assertEqual(json.loads(result.stdout)["prompt_tokens"], len(held) - 3 - 2)

    def test_raw_continues_text_as_it_is(self):
        self.assertEqual(self.plain("-p", "rC", "--raw").stdout, b"D\n")
        self.good(*self.arguments("--session", "a", "-p", "rC", "--raw"))
        self.assert_held("a", BOS, "rCD")
        record = self.record("a", "-p", "r", "--raw")
        self.assertEqual((record["reasoning"], record["content"], record["calls"], record["text"]),
                         (None, None, None, "RCD".replace("C", END_THINK + "C")))

    def test_a_system_speaks_first(self):
        self.record("a", "-p", "b", "--system", "he")
        self.assert_held("a", BOS, "he", USER, "b", ASSISTANT, END_THINK, "CD")
        self.record("a", "-p", "c", "--system", "he")  # the same command again
        self.assert_held("a", BOS, "he", USER, "b", ASSISTANT, END_THINK, "CD", EOS, USER, "c", ASSISTANT,
                         END_THINK, "CD")
        for other in ("h", "hey"):
            self.refuses("begun without this --system", *self.arguments("--session", "a", "-p", "c", "--system", other))

    def test_a_model_that_begins_another_turn_has_ended_its_own(self):
        for mark in (USER, ASSISTANT, BOS, QUERY):
            with self.subTest(mark):
                folder = self.made({END_THINK: "C", "C": mark}, name=f"ends{IDS[mark]}")
                record = self.record(f"a{IDS[mark]}", "-p", "b", of=folder)
                self.assertEqual((record["ended"], record["content"]), ("eos", "C"))
                self.assert_held(f"a{IDS[mark]}", BOS, USER, "b", ASSISTANT, END_THINK, "C")

    def test_a_checkpoint_without_markers_goes_on_with_text(self):
        self.assertEqual(self.plain("-p", "The sea", "-n", "8", of=MODEL).stdout,
                         self.plain("-p", "The sea", "-n", "8", "--raw", of=MODEL).stdout)
        for option in (["--system", "b"], ["--think"], ["--effort", "none"], ["--release", "0731"],
                       ["--messages", self.write("m", "[]")]):
            prompt = [] if "--messages" in option else ["-p", "b"]
            self.refused(f"{option[0]} is for conversations" if prompt else "messages is empty",
                         "run", "-m", MODEL, *prompt, *option)

    def test_options_that_contradict_each_other(self):
        for expected, options in (
                ("--messages and -p", ["-p", "b", "--messages", "m"]),
                ("--messages and --ids", ["--ids", "i", "--messages", "m"]),
                ("--messages and --system", ["--system", "b", "--messages", "m"]),
                ("--think and --no-think", ["-p", "b", "--think", "--no-think"]),
                ("--effort", ["-p", "b", "--no-think", "--effort", "max"]),
                ("--effort: 'much'", ["-p", "b", "--effort", "much"]),
                ("--release: '0813'", ["-p", "b", "--release", "0813"]),
                ("--think is for conversations; --raw", ["-p", "b", "--raw", "--think"]),
                ("--system is for conversations; --ids", ["--ids", "i", "--system", "b"]),
                ("--stop is for text", ["--ids", "i", "--stop", "b"]),
                ("--stop: the value is empty", ["-p", "b", "--stop", ""]),
                ("--stop: at most 16", ["-p", "b", *["--stop", "x"] * 17]),
                ("both want standard input", ["-i", "--messages", "-"]),
                ("no prompt; give -p TEXT, -f FILE, --messages FILE", [])):
            with self.subTest(expected):
                self.refused(expected, "run", "-m", model(), *options)

    def test_a_prompt_that_does_not_fit(self):
        self.refuses("--ctx holds 5", "run", "-m", model(), "-p", "bc", "--ctx", "5")
        self.refuses("--ctx holds 9", "run", "-m", model(), "--ctx", "9", "--messages",
                     self.write("m", json.dumps([{"role": "user", "content": "b" * 7}])))

    def test_how_answers_are_drawn(self):
        folder = self.made(SCRIPT)
        for settings, options, temperature in (
                ({"do_sample": True, "temperature": 0.75, "top_p": 0.5}, [], 0.75),
                ({"do_sample": True}, [], 1),
                ({"do_sample": False, "temperature": 0.75}, [], 0),
                ({"do_sample": True, "temperature": 0.75}, ["--temperature", "0"], 0)):
            with self.subTest(settings=settings):
                Path(folder, "generation_config.json").write_text(json.dumps(settings), encoding="ascii")
                name = f"a{len(os.listdir(self.folder))}{temperature}{len(options)}{len(settings)}"
                self.record(name, "-p", "b", *options, of=folder)
                shown = self.json_lines("session", "show", name, "--store", "s")[0]
                self.assertEqual(shown["temperature"], temperature)
                self.record(name, "-p", "b", of=folder)  # as saved
                self.assertEqual(self.json_lines("session", "show", name, "--store", "s")[0], {**shown, **{
                    key: self.json_lines("session", "show", name, "--store", "s")[0][key]
                    for key in ("tokens", "bytes", "unused_bytes", "saves", "saved")}})
        for settings, expected in (({"temperature": -1}, '"temperature" is -1; a number from 0 to 100'),
                                   ({"top_p": "x"}, '"top_p" is "x"'), ({"do_sample": 1}, '"do_sample"')):
            Path(folder, "generation_config.json").write_text(json.dumps(settings), encoding="ascii")
            self.refused(expected, "run", "-m", folder, "-p", "b")
        Path(folder, "generation_config.json").write_text('{"temperature": 1, "top_k": 5}', encoding="ascii")
        self.assertIn(b"not followed: top_k", self.plain("-p", "b", of=folder).stderr)
        Path(folder, "generation_config.json").write_text("{}", encoding="ascii")
        self.refused("need --temperature above 0", "run", "-m", folder, "-p", "b", "--top-p", "0.5")


class GgufTest(ConversationTest):
    def gguf(self, **more):
        return scripted.write_gguf(self.path("model.gguf"), model(), more)

    def test_it_is_the_same_conversation(self):
        """Though all of the roles' markers are no text in it, and in whatever types it is stored."""
        file = self.gguf()
        stored = scripted.write_gguf(self.path("stored.gguf"), model(), store=scripted.as_q8_0)
        self.assertLess(os.path.getsize(stored), os.path.getsize(file) - (1 << 20))
        for name, of in (("folder", model()), ("file", file), ("stored", stored)):
            self.record(name, "-p", "b", "--think", "--system", "he", of=of)
            record = self.record(name, "-p", "c", of=of)
            self.assertEqual((record["reasoning"], record["content"], record["ended"]), ("rR", "CD", "eos"))
        self.assertEqual(self.held("file"), self.held("folder"))
        self.assertEqual(self.held("stored"), self.held("folder"))

    def test_its_template_has_words_for_efforts(self):
        template = "{%- set reasoning_effort_max = \"hah\\n\\n\" -%}"
        self.refuses("needs a text", "run", "-m", self.gguf(), "-p", "b", "--effort", "max")
        self.gguf(**{"tokenizer.chat_template": scripted.gguf.text(template)})  # of no structure that is known
        self.refuses("needs a text", "run", "-m", self.path("model.gguf"), "-p", "b", "--effort", "max")

    def test_how_answers_are_drawn(self):
        file = self.gguf(**{"general.sampling.temp": scripted.gguf.f32(0.5)})
        self.record("a", "-p", "b", of=file)
        self.assertEqual(self.json_lines("session", "show", "a", "--store", "s")[0]["temperature"], 0.5)
        self.gguf(**{"general.sampling.top_p": scripted.gguf.f32(1.5)})
        self.refused("general.sampling.top_p is 1.5", "run", "-m", file, "-p", "b")


class ThinkingTest(ConversationTest):
    def test_it_is_left_out_of_a_pipe_unless_asked_for(self):
        self.assertEqual(self.plain("-p", "b", "--think").stdout, b"CD\n")
        shown = self.plain("-p", "b", "--think", "--show-thinking")
        self.assertEqual(shown.stdout, b"<think>rR</think>\n\nCD\n")
        cut = self.plain("-p", "b", "--think", "-n", "2")
        self.assertEqual(cut.stdout, b"\n")
        self.assertIn(b"note: the answer ended in its reasoning", cut.stderr)
        self.assertEqual(self.plain("-p", "b", "--think", "-n", "2", "--show-thinking").stdout,
                         b"<think>rR</think>\n")

    def terminal(self, prepare, *arguments):
        shown = Terminal("run", "-m", model(), "-p", "b", "--think", *arguments, prepare=prepare)
        self.addCleanup(shown.close)
        self.assertEqual(shown.exit_status(), 0)
        return shown.seen

    def test_it_is_dim_on_a_terminal(self):
        def colours():
            os.environ.pop("NO_COLOR", None)
            os.environ["TERM"] = "xterm"

        def no_colours():
            colours()
            os.environ["NO_COLOR"] = "1"

        def dumb():
            colours()
            os.environ["TERM"] = "dumb"

        self.assertIn(b"\x1b[2mrR\x1b[0m\r\n\r\nCD\r\n", self.terminal(colours))
        self.assertIn(b"\x1b[2mrR\x1b[0m\r\n", self.terminal(colours, "-n", "2"))
        for plain in (no_colours, dumb):
            self.assertIn(b"<think>rR</think>\r\n\r\nCD\r\n", self.terminal(plain))

    def test_an_interrupt_leaves_no_terminal_dim(self):
        def colours():
            os.environ.pop("NO_COLOR", None)
            os.environ["TERM"] = "xterm"

        shown = Terminal("run", "-m", model("loops"), "-p", "b", "--think", "-n", "60000", "--ctx", "64k",
                         prepare=colours)
        self.addCleanup(shown.close)
        shown.wait_for(rb"rRrRrR")
        shown.type(b"\x03")
        self.assertEqual(shown.exit_status(), 130)
        self.assertIn(b"\x1b[0m\r\nfold on", shown.seen)

    def test_what_was_thought_is_held(self):
        self.record("a", "-p", "b", "--think")
        turn = [BOS, USER, "b", ASSISTANT, THINK, "rR", END_THINK, "CD"]
        self.assert_held("a", *turn)
        self.record("a", "-p", "c")  # it thinks again, and what was thought stays
        again = [*turn, EOS, USER, "c", ASSISTANT, THINK, "rR", END_THINK, "CD"]
        self.assert_held("a", *again)
        self.record("a", "-p", "d", "--no-think")
        self.assert_held("a", *again, EOS, USER, "d", ASSISTANT, END_THINK, "CD")
        self.assertEqual(self.record("a", "-p", "e")["reasoning"], "")

    def test_an_effort_means_thinking(self):
        record = self.record("a", "-p", "b", "--effort", "high")
        self.assertEqual(record["reasoning"], "rR")
        self.assertIn(b"--effort is that of the preview",
                      self.plain("-p", "b", "--effort", "high").stderr)
        self.assertNotIn(b"note", self.plain("-p", "b", "--effort", "high", "--release", "preview").stderr)
        self.assertNotIn(b"note", self.plain("-p", "b", "--think").stderr)
        self.refuses("begun with --effort high", *self.arguments("--session", "a", "-p", "c", "--effort", "max"))
        self.refuses("begun with --release preview", *self.arguments("--session", "a", "-p", "c", "--release", "0731"))
        self.assertEqual(self.record("a", "-p", "c", "--effort", "high")["reasoning"], "rR")

    def test_words_for_efforts_are_the_checkpoints(self):
        self.refuses("needs a text that comes with the checkpoint", "run", "-m", model(), "-p", "b", "--effort", "max")
        self.refuses("has no effort 'low'", "run", "-m", model(), "-p", "b", "--effort", "low")
        self.plain("-p", "b", "--effort", "low", "--release", "0731")
        folder = self.made(SCRIPT)
        os.mkdir(os.path.join(folder, "encoding"))
        words = Path(folder, "encoding", "encoding_dsv4.py")
        words.write_text('REASONING_EFFORT_MAX = "hah\\n\\n"\n', encoding="ascii")
        self.record("a", "-p", "b", "--effort", "max", "--system", "he", of=folder)
        turn = [BOS, "hah\n\nhe", USER, "b", ASSISTANT, THINK, "rR", END_THINK, "CD"]
        self.assert_held("a", *turn)
        self.record("a", "-p", "b", "--system", "he", "--no-think", of=folder)
        self.assert_held("a", *turn, EOS, USER, "b", ASSISTANT, END_THINK, "CD")
        words.write_text('REASONING_EFFORT_PROMPTS = {"high": "hah\\n\\n", "max": "nan\\n\\n"}\n', encoding="ascii")
        for effort, text in (("high", "hah\n\n"), ("max", "nan\n\n")):
            result = self.good(*self.arguments("--session", effort, "-p", "b", "--effort", effort, of=folder))
            self.assertNotIn(b"note: nothing", result.stderr)
            self.assert_held(effort, BOS, text, USER, "b", ASSISTANT, THINK, "rR", END_THINK, "CD")


class SessionTest(ConversationTest):
    def test_plain_text_stays_plain(self):
        self.record("a", "-p", "rC", "--raw")
        result = self.good(*self.arguments("--session", "a", "-p", "C"))
        self.assertIn(b"note: the session a is plain text", result.stderr)
        self.assert_held("a", BOS, "rCDCD")
        self.refused("the session a is plain text; --think", *self.arguments("--session", "a", "-p", "b", "--think"))
        self.refused("the session a is plain text; --messages",
                     *self.arguments("--session", "a", "--messages", self.write("m", json.dumps(CALLED[:1]))))

    def test_a_conversation_stays_one(self):
        self.record("a", "-p", "b")
        self.refused("the session a is a conversation; --raw", *self.arguments("--session", "a", "-p", "b", "--raw"))
        bare = self.path("bare")
        shutil.copytree(model(), bare, symlinks=True)
        os.unlink(os.path.join(bare, "tokenizer.json"))
        self.refused("is a conversation, and the model's vocabulary has no markers",
                     *self.arguments("--session", "a", "-p", "b", of=bare))
        self.write("ids", f"{IDS['C']}\n")
        self.good(*self.arguments("--session", "a", "--ids", self.path("ids")))
        self.assert_held("a", BOS, USER, "b", ASSISTANT, END_THINK, "CDCD")
        self.assertEqual(self.record("a", "-p", "b")["content"], "CD")  # it is still a conversation

    def test_settings_of_a_later_version_are_refused(self):
        self.record("a", "-p", "b")
        path = Path(self.path("s/a.kvfold"))
        data = bytearray(path.read_bytes())
        for at in (0, snapshot.PAGE):
            data[at + 128 + 40] = 9
            data[at + 4088:at + 4096] = snapshot.checksum(bytes(data[at:at + 4088])).to_bytes(8, "little")
        path.write_bytes(data)
        self.refused("a later one wrote it", *self.arguments("--session", "a", "-p", "b"))

    def test_an_answer_goes_on(self):
        for first in range(1, 5):
            with self.subTest(first):
                part = self.record(f"a{first}", "-p", "b", "--think", "-n", first)
                rest = self.record(f"a{first}")
                self.assertEqual(part["reasoning"] + rest["reasoning"], "rR")
                self.assertEqual(part["content"] + rest["content"], "CD")
                self.assert_held(f"a{first}", BOS, USER, "b", ASSISTANT, THINK, "rR", END_THINK, "CD")
        self.assertEqual(self.record("a1")["tokens"], [])  # it had ended

    def test_a_turn_behind_an_answer_that_was_cut(self):
        self.record("a", "-p", "b", "--think", "-n", "1")
        self.record("a", "-p", "c", "--no-think", "-n", "1")
        self.assert_held("a", BOS, USER, "b", ASSISTANT, THINK, "r", EOS, USER, "c", ASSISTANT, END_THINK, "C")

    def test_a_prompt_that_was_interrupted(self):
        text = "b" * 600
        self.write("prompt", text)
        more = ["--store", "s", "--session", "a", "--chunk", "8", "--save-every", "1", "--ctx", "2k"]
        process = self.start("run", "-m", model(), "-f", "prompt", "--system", "he" * 700, *more)
        self.assertTrue(wait_until(lambda: os.path.exists(self.path("s/a.kvfold"))))
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=PATIENCE_SECONDS)
        self.assertEqual(process.returncode, 130, errors)
        whole = ids_of(BOS, "he" * 700, USER, text, ASSISTANT, END_THINK)
        n_held = len(self.held("a"))
        self.assertTrue(0 < n_held < len(whole), n_held)
        shutil.copy(self.path("s/a.kvfold"), self.path("s/b.kvfold"))
        rest = self.record("a", "-f", "prompt", "--system", "he" * 700, "--ctx", "2k")
        self.assertEqual((rest["resumed_tokens"], rest["prompt_tokens"]), (n_held, len(whole) - n_held))
        self.assertEqual(self.held("a"), whole + SAYS)
        shutil.copy(self.path("s/b.kvfold"), self.path("s/c.kvfold"))
        other = self.good(*self.arguments("--session", "b", "-p", "c", "--ctx", "2k"))
        self.assertIn(b"ends inside a prompt that was interrupted", other.stderr)
        behind = ids_of("\n\nc") if USER in self.marks(whole[:n_held]) else ids_of(USER, "c")
        self.assertEqual(self.held("b"), whole[:n_held] + behind + ids_of(ASSISTANT, END_THINK) + SAYS)
        self.talk("c", "/quit", more=["-p", "c", "--ctx", "2k"])
        self.assertEqual(self.held("c"), self.held("b"))

    def marks(self, held):
        return [mark for mark in (USER, ASSISTANT, EOS) if IDS[mark] in held]

    def test_an_answer_that_is_interrupted(self):
        loops = model("loops")
        for think, begin in ((["--no-think"], [END_THINK, "C"]), (["--think"], [THINK, "r"])):
            name = think[0][2:4]
            process = self.start(*self.arguments("--session", name, "-p", "b", "-n", "60000", "--ctx", "64k",
                                                 "--show-thinking", *think, of=loops))
            shown = process.stdout.read(20)
            process.send_signal(signal.SIGINT)
            rest, errors = process.communicate(timeout=PATIENCE_SECONDS)
            self.assertEqual(process.returncode, 130, errors)
            shown = (shown + rest).decode().rstrip("\n").replace("<think>", "").replace("</think>", "")
            held = [BOS, USER, "b", ASSISTANT, begin[0], shown]
            self.assert_held(name, *held)
            self.assertEqual(shown[0], begin[1])
            part = self.record(name, "-n", "4", of=loops)
            self.assertEqual(part["reasoning" if "--think" in think else "content"], part["text"])
            self.assert_held(name, *held, part["text"])
            self.record(name, "-p", "c", "-n", "1", "--no-think", of=loops)
            self.assert_held(name, *held, part["text"], EOS, USER, "c", ASSISTANT, END_THINK, "C")


class StopTest(ConversationTest):
    def stopped(self, script, *stops, more=()):
        """What is shown and held, as text, with these stops."""
        self.count = getattr(self, "count", 0) + 1
        folder = self.made(script, name=f"model{self.count}")
        arguments = [word for stop in stops for word in ("--stop", stop)]
        name = f"a{self.count}"
        result = self.good(*self.arguments("--session", name, "-p", "b", *arguments, *more, of=folder))
        record = self.json_lines("run", "-m", folder, "-p", "b", *arguments, *more)[0]
        held = self.held(name)
        self.assertEqual(held[:5], ids_of(BOS, USER, "b", ASSISTANT, THINK if "--think" in more else END_THINK))
        self.assertEqual(held[5:], record["tokens"])
        self.assertEqual(record["content"], result.stdout.decode()[:-1])
        return result.stdout.decode()[:-1], held[5:], record["ended"]

    def test_what_is_shown_is_what_is_held(self):
        letters = {END_THINK: "q", "q": "w", "w": "x", "x": "y", "y": "z"}
        for stops, shown in (("x",), "qw"), (("xy",), "qw"), (("wxyz",), "q"), (("q",), ""), (("z", "y"), "qwx"), (
                ("xyA", "yz"), "qwx"), (("zA",), "qwxyz"), (("wxyzA", "yz"), "qwx"):
            with self.subTest(stops):
                ended = "eos" if shown == "qwxyz" else "stop"
                self.assertEqual(self.stopped(letters, *stops), (shown, ids_of(shown), ended))

    def test_a_stop_inside_of_a_token(self):
        script = {END_THINK: "q", "q": "haoo", "haoo": "z"}
        for stop, shown in (("ooz", "qha"), ("aoo", "qh"), ("o", "qha"), ("qh", ""), ("z", "qhaoo")):
            with self.subTest(stop):
                self.assertEqual(self.stopped(script, stop), (shown, ids_of("q", shown[1:]) if shown else [], "stop"))

    def test_reasoning_has_none(self):
        self.assertEqual(self.stopped(SCRIPT, "R", "r", more=["--think"])[::2], ("CD", "eos"))
        self.assertEqual(self.stopped(SCRIPT, "D", more=["--think"]), ("C", ids_of("rR", END_THINK, "C"), "stop"))

    def test_a_conversation_goes_on_behind_one(self):
        result = self.talk("a", "b", "c", more=["--stop", "D"])
        self.assertEqual(result.stdout, b"C\nC\n")
        self.assert_held("a", BOS, USER, "b", ASSISTANT, END_THINK, "C", EOS, USER, "c", ASSISTANT, END_THINK, "C")
        self.assertEqual(self.plain("-p", "b", "--raw", "--stop", "D", of=self.made({"b": "C", "C": "D"})).stdout,
                         b"C\n")


class JsonTest(ConversationTest):
    def test_its_parts(self):
        record = self.record("a", "-p", "b", "--think")
        self.assertEqual({key: record[key] for key in ("text", "reasoning", "content", "calls", "tokens", "ended")},
                         {"text": "rR</think>CD", "reasoning": "rR", "content": "CD", "calls": [],
                          "tokens": THINKS + SAYS, "ended": "eos"})

    def test_calls(self):
        """The answer comes as ids, so that the model need not know how."""
        arguments = ["b", 1]
        call = ["e", "\n\n<", DSML, "tool_calls>\n<", DSML, "invoke name=\"eat\">\n<", DSML,
                "parameter name=\"b\" string=\"false\">1</", DSML, "parameter>\n</", DSML, "invoke>\n</", DSML]
        end = "tool_calls>"
        self.record("a", "-p", "b", "-n", "1", of=self.made({}))
        for name, ids in (("whole", ids_of(*call, end)), ("cut", ids_of(*call)), ("bad", ids_of(*call, "x>"))):
            shutil.copy(self.path("s/a.kvfold"), self.path(f"s/{name}.kvfold"))
            self.write("ids", "".join(f"{id_}\n" for id_ in ids))
            self.good(*self.arguments("--session", name, "--ids", "ids", of=self.path("own")))
            record = self.record(name, of=self.path("own"))
            shown = self.good(*self.arguments("--session", name, of=self.path("own"))).stdout.decode()
            if name == "whole":
                self.assertEqual(record["calls"], [{"id": "call_0", "type": "function", "function": {
                    "name": "eat", "arguments": json.dumps(dict([arguments]))}}])
                self.assertEqual(shown, 'tool call: eat {"b": 1}\n')
                # What it says can be given back.
                self.write("m", json.dumps([CALLED[0], {"role": "assistant", "content": "e",
                                                        "tool_calls": record["calls"]},
                                            {"role": "tool", "tool_call_id": "call_0", "content": "d"}]))
                again = self.record(name, "--messages", "m", of=self.path("own"))
                self.assertEqual(again["ended"], "eos")
            else:
                self.assertEqual(record["calls"], [])


class MessagesTest(ConversationTest):
    def messages(self, *messages, name="m", **more):
        return self.write(name, json.dumps({"messages": messages, **more} if more else list(messages)))

    def test_a_conversation_that_a_program_wrote(self):
        path = self.messages({"role": "system", "content": "he"}, {"role": "user", "content": "b"},
                             {"role": "assistant", "content": "e"}, {"role": "user", "content": "c"})
        record = self.record("a", "--messages", path)
        self.assertEqual(record["content"], "CD")
        held = [BOS, "he", USER, "b", ASSISTANT, END_THINK, "e", EOS, USER, "c", ASSISTANT, END_THINK, "CD"]
        self.assert_held("a", *held)
        piped = self.plain("--messages", "-", stdin=Path(path).read_bytes())
        self.assertEqual(piped.stdout, b"CD\n")
        # The session goes on.
        self.record("a", "-p", "d")
        self.assert_held("a", *held, EOS, USER, "d", ASSISTANT, END_THINK, "CD")

    def test_what_the_session_holds_is_not_read_again(self):
        turns = [{"role": "user", "content": "b"}]
        first = self.record("a", "--messages", self.messages(*turns))
        turns += [{"role": "assistant", "content": "CD"}, {"role": "user", "content": "c"}]
        second = self.record("a", "--messages", self.messages(*turns))
        n_first = first["prompt_tokens"] + first["answer_tokens"]
        self.assertEqual((second["resumed_tokens"], second["prompt_tokens"]), (n_first, 5))
        held = self.held("a")
        turns[1]["content"] = "e"  # it was told otherwise
        result = self.good(*self.arguments("--session", "a", "--messages", self.messages(*turns)))
        self.assertIn(b"went on otherwise", result.stderr)
        self.assert_held("a", BOS, USER, "b", ASSISTANT, END_THINK, "e", EOS, USER, "c", ASSISTANT, END_THINK, "CD")
        self.assertNotEqual(self.held("a"), held)
        # All that is asked is held, and more.
        self.record("a", "--messages", self.messages(turns[0]))
        self.assert_held("a", BOS, USER, "b", ASSISTANT, END_THINK, "CD")

    def test_tools(self):
        result = self.good(*self.arguments("--session", "a", "--messages", self.messages(
            *CALLED, {"role": "tool", "tool_call_id": "1", "content": "d"}, tools=TOOLS, stream=True, n=1),
            "--ctx", "4k"))
        self.assertIn(b"besides messages and tools, passed over: stream, n", result.stderr)
        self.assertIn(b"kvfold's own words are used", result.stderr)
        held = self.held("a")
        self.assertGreater(len(held), 500)  # that say how tools are called
        self.assertEqual(held[0], IDS[BOS])
        end = ids_of(EOS, USER, "<tool_result>d</tool_result>", ASSISTANT, END_THINK, "CD")
        self.assertEqual(held[-len(end):], end)

    def test_an_answer_that_has_begun(self):
        record = self.record("a", "--messages", self.messages(
            {"role": "user", "content": "b"}, {"role": "assistant", "content": "C", "wo_eos": True}))
        self.assertEqual(record["content"], "D")
        self.assert_held("a", BOS, USER, "b", ASSISTANT, END_THINK, "CD")

    def test_a_task(self):
        folder = self.made({QUERY: "C", "C": "D", END_THINK: "D"})
        self.record("a", "--messages", self.messages({"role": "user", "content": "b", "task": "query"}), of=folder)
        self.assert_held("a", BOS, USER, "b", QUERY, "CD")
        self.record("a", "-p", "c", of=folder)
        self.assert_held("a", BOS, USER, "b", QUERY, "CD", EOS, USER, "c", ASSISTANT, END_THINK, "D")

    def test_a_conversation_goes_on_behind_it(self):
        result = self.talk("a", "c", more=["--messages", self.messages({"role": "user", "content": "b"})])
        self.assertEqual(result.stdout, b"CD\nCD\n")
        self.assert_held("a", BOS, USER, "b", ASSISTANT, END_THINK, "CD", EOS, USER, "c", ASSISTANT, END_THINK, "CD")

    def test_a_stored_beginning_is_found(self):
        long = {"role": "user", "content": "b" * 300}
        arguments = ["run", "-m", model(), "--store", "s", "--json", "--messages"]
        self.good(*arguments, self.messages(long))
        second = json.loads(self.good(*arguments, self.messages(
            long, {"role": "assistant", "content": "e"}, {"role": "user", "content": "c"})).stdout)
        self.assertEqual(second["resumed_tokens"], 304)

    def test_what_no_model_could_answer(self):
        user = {"role": "user", "content": "b"}
        for expected, written in (
                ("the JSON ends", "["), ("instead of a value", "hello"), ("a string", '"b"'), ("messages is missing", "{}"),
                ("empty", "[]"), ("messages[0].role", [{"role": "robot", "content": "b"}]),
                ("messages[1].role", [user, {"role": "function", "content": "b"}]),
                ("messages[0].content is a number", [{"role": "user", "content": 7}]),
                ("messages[1].tool_calls[0]", [*CALLED, user]), ("messages[1].tool_calls[0]", CALLED),
                ("messages[2].tool_call_id", [*CALLED, {"role": "tool", "tool_call_id": "2", "content": "d"}]),
                ("messages[1]", [user, {"role": "tool", "tool_call_id": "2", "content": "d"}]),
                ("nothing is left to answer", [user, {"role": "assistant", "content": "e"}]),
                ("tools[0].function is missing", {"messages": [user], "tools": [{"type": "function"}]}),
                ("latest_reminder", [{"role": "latest_reminder", "content": "b"}, user])):
            with self.subTest(expected, written=written):
                path = self.write("m", written if isinstance(written, str) else json.dumps(written))
                self.refuses(expected, "run", "-m", model(), "--messages", path)
        self.refused("No such file", "run", "-m", model(), "--messages", self.path("none"))
        self.refuses("UTF-8", "run", "-m", model(), "--messages", self.write("m", b'["\xff"]'))


class TalkTest(ConversationTest):
    def test_turns(self):
        result = self.talk("a", "b", "/think", "c", "/nothink", "d", more=["--show-thinking"])
        self.assertEqual(result.stdout.splitlines(), [
            b"CD", b"answers begin with reasoning now", b"<think>rR</think>", b"", b"CD",
            b"answers are without reasoning now", b"CD"])
        self.assert_held("a", BOS, USER, "b", ASSISTANT, END_THINK, "CD", EOS, USER, "c", ASSISTANT, THINK, "rR",
                         END_THINK, "CD", EOS, USER, "d", ASSISTANT, END_THINK, "CD")

    def test_settings_are_saved_by_themselves(self):
        self.talk("a", "b", "/think")
        self.assertEqual(self.record("a", "-p", "c")["reasoning"], "rR")

    def test_a_system(self):
        self.talk("a", "/system  he ha", "b", "/system nee", "/system", "c", "/system hen", "d")
        self.assert_held("a", BOS, "he ha", USER, "b", ASSISTANT, END_THINK, "CD", EOS, USER, "c", ASSISTANT,
                         END_THINK, "CD", EOS, "hen", USER, "d", ASSISTANT, END_THINK, "CD")
        self.talk("b", "c", more=["--system", "he", "-p", "b"])
        self.assert_held("b", BOS, "he", USER, "b", ASSISTANT, END_THINK, "CD", EOS, USER, "c", ASSISTANT, END_THINK,
                         "CD")

    def test_a_file_is_a_turn(self):
        self.write("a file", "b\n/quit\n")
        self.talk("a", "/read a file")
        self.assert_held("a", BOS, USER, "b\n/quit\n", ASSISTANT, END_THINK, "CD")
        self.write("empty", "")
        self.write("long", "b" * 70000)
        for line, expected in (("/read none", b"No such file"), ("/read", b"needs the name"),
                               ("/read -", b"needs the name"), ("/read empty", b"is empty"),
                               ("/read long", b"more than the context")):
            result = self.kvfold(*self.arguments("-i", "--session", "a"), stdin=f"{line}\nb\n".encode())
            self.assertEqual(result.returncode, 2, line)
            self.assertIn(expected, result.stderr)
            self.assert_held("a", BOS, USER, "b\n/quit\n", ASSISTANT, END_THINK, "CD")

    def test_a_mistake_on_a_terminal_is_none(self):
        talk = Terminal(*self.arguments("-i", "--session", "a"))
        self.addCleanup(talk.close)
        for line, answer in ((b"/read none", rb"No such file"), (b"/help", rb"/think +answers begin"),
                             (b"/frob", rb"there are /help.*?/system and /quit"), (b"b", rb"CD\r\n"),
                             (b"/stats", rb"of 1,024 tokens.*; answers without reasoning")):
            talk.wait_for(rb"> $")
            talk.type(line + b"\n")
            talk.wait_for(answer)
        talk.wait_for(rb"> $")
        talk.type(b"/quit\n")
        self.assertEqual(talk.exit_status(), 0)

    def test_turns_are_taken_back(self):
        first = [BOS, USER, "b", ASSISTANT, END_THINK, "CD"]
        result = self.talk("a", "b", "/think", "c", "/undo")
        self.assertIn(b"back at 7 tokens", result.stdout)
        self.assert_held("a", *first)
        self.talk("a", "d")  # it thinks: that was no part of the turn
        self.assert_held("a", *first, EOS, USER, "d", ASSISTANT, THINK, "rR", END_THINK, "CD")

    def test_turns_of_before_are_taken_back(self):
        first = [BOS, USER, "b", ASSISTANT, END_THINK, "CD"]
        self.talk("a", "b", "/system hen", "c", "/think", "d")
        result = self.talk("a", "e", "/undo", "/undo", "/stats")
        self.assertEqual(result.stdout.count(b"back at"), 2)
        self.assert_held("a", *first, EOS, "hen", USER, "c", ASSISTANT, END_THINK, "CD")
        result = self.talk("a", "/undo", "f")
        self.assert_held("a", *first, EOS, USER, "f", ASSISTANT, THINK, "rR", END_THINK, "CD")
        result = self.talk("a", "/undo", "/undo", "/undo", "/stats")
        self.assertIn(b"nothing is left to take back", result.stdout)
        self.assertIn(b": 0 of", result.stdout)

    def test_an_answer_is_given_again(self):
        first = [BOS, USER, "b", ASSISTANT, THINK]
        self.talk("a", "b", more=["--think", "-n", "3"])
        self.talk("a", "/retry", more=["-n", "4"])
        self.assert_held("a", *first, "rR", END_THINK, "C")
        self.talk("a", "/retry", "/retry", "/undo", more=["-n", "9"])
        self.assertEqual(self.held("a"), [])
        self.talk("a", "/retry", "b", "/nothink", "/retry")
        self.assert_held("a", *first, "rR", END_THINK, "CD")

    def test_all_is_forgotten(self):
        self.talk("a", "b", "/reset", "c")
        self.assert_held("a", BOS, USER, "c", ASSISTANT, END_THINK, "CD")

    def test_plain_text_has_no_turns_of_anybody(self):
        result = self.talk("a", "rC", "/think", "/system b", "/help", "C", more=["--raw"])
        self.assertEqual(result.stdout.count(b"this is plain text"), 2)
        self.assertNotIn(b"/system", result.stdout)
        self.assert_held("a", BOS, "rCD\nCD")

    def test_a_turn_that_does_not_fit(self):
        result = self.talk("a", "/system he", "b" * 30, "b", more=["--ctx", "20"])
        self.assertIn(b"empty context has 20", result.stderr)
        self.assert_held("a", BOS, "he", USER, "b", ASSISTANT, END_THINK, "CD")

    def test_ctrl_c_ends_an_answer_alone(self):
        talk = Terminal(*self.arguments("-i", "--session", "a", "-n", "60000", "--ctx", "64k", of=model("loops")))
        self.addCleanup(talk.close)
        talk.wait_for(rb"> $")
        talk.type(b"b\n")
        shown = talk.wait_for(rb"C(?:DC|CD|D)+").group()
        talk.type(b"\x03")
        talk.wait_for(rb"interrupted")
        talk.wait_for(rb"> $")
        talk.type(b"/think\n")
        talk.wait_for(rb"> $")
        talk.type(b"/quit\n")
        self.assertEqual(talk.exit_status(), 0)
        held = self.held("a")
        begin = ids_of(BOS, USER, "b", ASSISTANT, END_THINK)
        self.assertEqual(held[:len(begin)], begin)
        self.assertGreaterEqual(len(held), len(begin) + len(shown))
        self.talk("a", "c", more=["-n", "1"], of=model("loops"))
        self.assertEqual(self.held("a"), held + ids_of(EOS, USER, "c", ASSISTANT, THINK, "r"))


if __name__ == "__main__":
    main()
