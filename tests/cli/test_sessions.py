#!/usr/bin/env python3
"""Sessions that outlive the process: run --session, run --store, kvfold session.

usage: test_sessions.py --kvfold PATH --model DIR [unittest's own arguments]
"""

import fcntl
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "oracle"))
import snapshot
from support import KVFOLD, MODEL, PATIENCE_SECONDS, CliTest, environment, main, wait_until

SENTENCE = "The harbour lay in the last of the light, and the boats came in one by one. "
DOCUMENT = 5 * SENTENCE
LONG_DOCUMENT = 20 * SENTENCE
SESSION_KEYS = [
    "name", "path", "tokens", "ctx", "profile", "grid", "bytes", "unused_bytes", "compressed",
    "checkpoints", "version", "saves", "saved", "model", "temperature",
]
PAGE = 4096
# No session is that short, but a file of 512 KiB that the thread sanitizer begins with is.
SHORT_BYTES = 600_000


class SessionTest(CliTest):
    """The folder of each test has its sessions in s/."""

    def run_json(self, *arguments, **options):
        return self.json_lines("run", "-m", MODEL, *arguments, **options)[0]

    def session(self, name, *arguments):
        return self.run_json("--store", "s", "--session", name, *arguments)

    def show(self, name):
        return self.json_lines("session", "show", name, "--store", "s")[0]

    def exported(self, name):
        """All that a session holds, as a new file: equal bytes for equal sessions."""
        result = self.kvfold("session", "export", name, name + ".export", "--store", "s")
        if b"no zstd" in result.stderr:
            self.skipTest("this build has no zstd")
        self.assertEqual(result.returncode, 0, result.stderr)
        with open(self.path(name + ".export"), "rb") as file:
            held = file.read()
        os.unlink(self.path(name + ".export"))  # none is replaced
        return held

    def wait_for(self, name):
        self.assertTrue(wait_until(lambda: os.path.exists(self.path(name))),
                        f"{name} did not appear")

    def damage(self, path, offset):
        with open(path, "r+b") as file:
            file.seek(offset)
            byte = file.read(1)
            file.seek(offset)
            file.write(bytes([byte[0] ^ 1]))


class NamedTest(SessionTest):
    def test_an_answer_in_parts_is_the_answer_in_one(self):
        for sampler in ([], ["--temperature", "0.9", "--top-p", "0.9", "--seed", "7"]):
            kind = "sampled" if sampler else "greedy"
            context = ["--ctx", "1k"]
            plain = self.run_json("-p", "The sea was", "-n", "30", *context, *sampler)
            whole = self.session(kind + "-whole", "-p", "The sea was", "-n", "30", *context,
                                 *sampler)
            first = self.session(kind, "-p", "The sea was", "-n", "11", *context, *sampler)
            second = self.session(kind, "-n", "1")
            third = self.session(kind, "-n", "18", *context)
            self.assertEqual(whole["tokens"], plain["tokens"])
            self.assertEqual(first["tokens"] + second["tokens"] + third["tokens"],
                             plain["tokens"], kind)
            self.assertEqual([part["resumed_tokens"] for part in (first, second, third)],
                             [0, 12 + 11, 12 + 12])
            self.assertEqual(self.show(kind)["saves"], 3)
            # Rows, states, logits, sampler: every bit.
            self.assertEqual(self.exported(kind), self.exported(kind + "-whole"), kind)

    def test_a_prompt_is_appended_to_the_text_so_far(self):
        self.session("tale", "-p", "One ", "-n", "3")
        before = self.show("tale")["tokens"]
        answer = self.session("tale", "-p", "two\n", "-n", "2")
        self.assertEqual(answer["prompt_tokens"], 4)  # no BOS, no line break
        self.assertEqual(answer["resumed_tokens"], before)
        self.assertEqual(self.show("tale")["tokens"], before + 4 + 2)
        text = self.good("session", "show", "tale", "--store", "s").stdout.decode()
        self.assertRegex(text, r'ends with  "One ...two ')

    def test_checkpoints_are_shown(self):
        """Of files that another program wrote, as docs/FORMAT.md says."""
        layers = [(snapshot.KIND_WINDOW, 0), (snapshot.KIND_CSA, 4), (snapshot.KIND_HCA, 16)]
        os.makedirs(self.path("s"), exist_ok=True)
        for name, places, shown in (("none", [], None), ("one", [64], "64 tokens (1 checkpoint)"),
                                    ("many", list(range(64, 900, 64)),
                                     "64, 128, .., 448, 512, 576, 640, 704, 768, 832, 896 tokens (14 checkpoints)")):
            Path(self.path("s"), name + ".kvfold").write_bytes(snapshot.build(3, layers, 97, 64, 1000, places))
            self.assertEqual(self.show(name)["checkpoints"], len(places))
            self.assertEqual(self.show(name)["version"], 2)
            text = self.good("session", "show", name, "--store", "s").stdout.decode()
            self.assertEqual("back to" in text, bool(places))
            if places:
                self.assertIn("back to    " + shown, text)
            self.good("session", "check", name, "--store", "s")

    def test_the_sampler_is_saved_and_can_be_changed(self):
        self.session("dice", "-p", "a", "-n", "2", "--temperature", "0.5", "--seed", "3")
        self.session("dice", "-n", "2")
        self.assertEqual(self.show("dice")["temperature"], 0.5)
        self.session("dice", "-n", "2", "--top-p", "0.5")  # without repeating --temperature
        self.session("dice", "-n", "2", "--temperature", "0")
        self.assertEqual(self.show("dice")["temperature"], 0)

    def test_every_setting_of_the_sampler_is_saved(self):
        """Also at the ends of what is accepted: the second part has what the first was given."""
        for name, sampler, shown in (
                ("nucleus", ["--top-p", "0", "--seed", "0"], "top-p 0, min-p 0"),
                ("share", ["--min-p", "1", "--seed", 2**64 - 1], "top-p 1, min-p 1"),
                ("all", ["--top-p", "1", "--min-p", "0", "--seed", 2**64 - 1], "top-p 1, min-p 0"),
                ("small", ["--top-p", "0.000001", "--min-p", "0.000001"], "min-p 1e-06"),
                ("hot", ["--temperature", "100", "--seed", "0"], "temperature 100")):
            sampler = ["--temperature", "1.5", *sampler]
            with self.subTest(name):
                plain = self.run_json("-p", "The sea", "-n", "9", *sampler)
                parts = [self.session(name, "-p", "The sea", "-n", "4", *sampler),
                         self.session(name, "-n", "5")]
                self.assertEqual(parts[0]["tokens"] + parts[1]["tokens"], plain["tokens"])
                text = self.good("session", "show", name, "--store", "s").stdout.decode()
                self.assertRegex(text, f"sampler .*{shown}")

    def test_settings_that_have_no_effect_yet_are_kept(self):
        # Nothing is drawn at temperature 0: the settings wait for another one.
        self.session("a", "-p", "The sea", "-n", "4", "--top-p", "0.7", "--min-p", "0.2", "--seed",
                     "9")
        self.session("a", "-n", "1")
        later = self.session("a", "-n", "9", "--temperature", "1.5")
        self.session("b", "-p", "The sea", "-n", "5")
        given = self.session("b", "-n", "9", "--temperature", "1.5", "--top-p", "0.7", "--min-p",
                             "0.2", "--seed", "9")
        self.assertEqual(later["tokens"], given["tokens"])

    def test_the_context_and_the_grid_are_saved(self):
        self.session("a", "-p", "x", "-n", "1", "--ctx", "3k", "--grid", "off")
        self.session("a", "-n", "1")
        shown = self.show("a")
        self.assertEqual((shown["ctx"], shown["grid"], shown["profile"]), (3072, False, "legacy"))

    def test_another_profile_goes_on_with_the_same_values(self):
        plain = self.run_json("-p", "The sea was", "-n", "20")
        first = self.session("a", "-p", "The sea was", "-n", "10", "--profile", "legacy")
        kept = self.session("a", "-n", "5")
        self.assertEqual(kept["profile"], "legacy")
        folded = self.session("a", "-n", "5", "--profile", "fold")
        self.assertEqual(first["tokens"] + kept["tokens"] + folded["tokens"], plain["tokens"])
        self.assertEqual(self.show("a")["profile"], "fold")

    def test_another_model_is_refused(self):
        self.session("a", "-p", "x", "-n", "1")
        os.mkdir(self.path("other"))
        for name in os.listdir(MODEL):
            shutil.copy(os.path.join(MODEL, name), self.path("other"))
        shard = next(name for name in sorted(os.listdir(MODEL)) if "00003" in name)
        path = os.path.join(self.path("other"), shard)
        self.damage(path, os.path.getsize(path) - 1000)
        self.refused("was saved with model", "run", "-m", "other", "--store", "s", "--session",
                     "a", "-n", "1")

    def test_a_conversation_is_taken_up_again(self):
        arguments = ["run", "-m", MODEL, "-i", "-n", "4", "--session", "talk", "--store", "s"]
        self.good(*arguments, stdin=b"Hello\nsailor\n")
        held = self.show("talk")["tokens"]
        result = self.good(*arguments, stdin=b"/stats\nand now\n")
        self.assertIn(f"resumed talk: {held} tokens so far", result.stderr.decode())
        self.assertIn(f": {held} of", result.stdout.decode())
        self.assertEqual(self.show("talk")["tokens"], held + len("\nand now") + 4)
        # The same turns in one process.
        arguments[arguments.index("talk")] = "one"
        self.good(*arguments, stdin=b"Hello\nsailor\nand now\n")
        self.assertEqual(self.exported("one"), self.exported("talk"))

    def test_where_sessions_are(self):
        home = {"HOME": self.path("home"), "XDG_DATA_HOME": ""}
        data = dict(home, XDG_DATA_HOME=self.path("data"))
        for env, folder in ((home, "home/.local/share"), (data, "data"),
                            (dict(home, XDG_DATA_HOME="relative"), "home/.local/share")):
            self.good("run", "-m", MODEL, "--session", "a", "-p", "x", "-n", "1", env=env)
            self.assertTrue(os.path.exists(self.path(folder + "/kvfold/sessions/a.kvfold")))
            self.assertIn(b"a ", self.good("session", "list", env=env).stdout)
        self.refused("--store DIR", "session", "list", env={"HOME": "", "XDG_DATA_HOME": ""})

    def test_one_process_at_a_time(self):
        self.session("a", "-p", "x", "-n", "1")
        with open(self.path("s/a.lock"), "w", encoding="ascii") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            self.refused("in use by another process", "run", "-m", MODEL, "--store", "s",
                         "--session", "a")
            self.refused("in use by another process", "session", "rm", "a", "--store", "s")
        # The file of a lock whose process is gone is none.
        self.session("a", "-n", "1")
        self.assertEqual(os.listdir(self.path("s")), ["a.kvfold"])

    def test_damage_is_seen_before_it_is_used(self):
        self.session("a", "-p", DOCUMENT, "-n", "1")
        path = self.path("s/a.kvfold")
        self.damage(path, 2 * PAGE)  # the first part: token ids
        self.refused("a.kvfold", "run", "-m", MODEL, "--store", "s", "--session", "a", "-n", "1")
        self.damage(path, 2 * PAGE)
        self.damage(path, self.show("a")["bytes"] // 2)
        self.refused("a.kvfold", "run", "-m", MODEL, "--store", "s", "--session", "a", "-n", "1",
                     "--verify-snapshot")


class InterruptTest(SessionTest):
    ARGUMENTS = ["--chunk", "8", "--save-every", "1", "--store", "s", "--session", "long"]

    def test_a_prompt_that_was_interrupted_goes_on_where_it_was(self):
        self.write("prompt", LONG_DOCUMENT)
        arguments = ["-m", MODEL, "-f", "prompt", "-n", "3", *self.ARGUMENTS]
        process = self.start("run", *arguments, "--json")
        self.wait_for("s/long.kvfold")
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=PATIENCE_SECONDS)
        self.assertEqual(process.returncode, 130, errors)
        self.assertIn(b"give it again to go on", errors)
        held = self.show("long")["tokens"]
        self.assertTrue(0 < held < len(LONG_DOCUMENT), held)
        rest = self.json_lines("run", *arguments)[0]
        self.assertEqual(rest["resumed_tokens"], held)
        self.assertEqual(rest["prompt_tokens"], len(LONG_DOCUMENT) + 1 - held)
        plain = self.run_json("-f", "prompt", "-n", "3", "--chunk", "8")
        self.assertEqual(rest["tokens"], plain["tokens"])

    def test_a_process_that_is_killed_loses_little_and_leaves_no_lock(self):
        self.write("prompt", LONG_DOCUMENT)
        process = self.start("run", "-m", MODEL, "-f", "prompt", *self.ARGUMENTS)
        self.wait_for("s/long.kvfold")
        process.kill()
        process.communicate()
        held = self.show("long")["tokens"]
        self.assertGreater(held, 0)
        other = self.good("run", "-m", MODEL, "-p", "another", "-n", "1", *self.ARGUMENTS)
        self.assertIn(b"ends inside a prompt that was interrupted", other.stderr)
        self.assertEqual(self.show("long")["tokens"], held + len("another") + 1)

    def test_a_stored_prompt_goes_on_after_an_interrupt(self):
        self.write("prompt", LONG_DOCUMENT)
        arguments = ["-m", MODEL, "-f", "prompt", "-n", "1", "--chunk", "8", "--store", "s"]
        process = self.start("run", *arguments, "--json")
        self.wait_for("s/prefixes")
        time.sleep(1)
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=PATIENCE_SECONDS)
        stored = self.json_lines("session", "list", "--store", "s")
        if process.returncode == 0 or not stored:
            self.skipTest("the machine was too quick or too slow to be interrupted in the prompt")
        rest = self.json_lines("run", *arguments)[0]
        self.assertEqual(rest["resumed_tokens"], stored[0]["tokens"])


class EndTest(SessionTest):
    """Whatever ends a run, what there was is saved."""

    def arguments(self, name, *more):
        return ["run", "-m", MODEL, "--store", "s", "--session", name, *more]

    def test_a_process_that_is_asked_to_end_saves_first(self):
        for name in ("SIGTERM", "SIGHUP"):
            with self.subTest(name):
                process = self.start(*self.arguments(name, "-p", "Once upon", "-n", "60000"))
                answer = process.stdout.read(20)  # it has begun
                process.send_signal(getattr(signal, name))
                rest, stderr = process.communicate(timeout=PATIENCE_SECONDS)
                self.assertEqual(process.returncode, 130, stderr)
                self.assertIn(b"saved as " + name.encode(), stderr)
                self.assertEqual(self.show(name)["tokens"],
                                 1 + len("Once upon") + len(answer + rest) - len("\n"))
        self.assertEqual(sorted(os.listdir(self.path("s"))), ["SIGHUP.kvfold", "SIGTERM.kvfold"])

    def test_a_conversation_that_is_asked_to_end_leaves(self):
        process = subprocess.Popen([KVFOLD, *self.arguments("a", "-i", "-n", "4")],
                                   cwd=self.folder, env=environment(), stdin=subprocess.PIPE,
                                   stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        self.addCleanup(process.kill)
        process.stdin.write(b"one\n")
        process.stdin.flush()
        self.assertTrue(b"".join(process.stdout.read(1) for _ in range(5)).endswith(b"\n"))
        self.assertTrue(wait_until(lambda: os.path.exists(self.path("s/a.kvfold"))))
        process.send_signal(signal.SIGTERM)
        process.stdin.close()
        self.assertEqual(process.wait(PATIENCE_SECONDS), 130)
        self.assertEqual(self.show("a")["tokens"], 1 + len("one") + 4)
        process.stdout.close()
        process.stderr.close()

    def test_an_answer_that_nobody_reads_is_saved(self):
        process = self.start(*self.arguments("a", "-p", "Once upon", "-n", "60000"))
        for _ in range(5):
            process.stdout.read(1)
        process.stdout.close()
        stderr = process.stderr.read()
        process.stderr.close()
        self.assertEqual(process.wait(PATIENCE_SECONDS), 2, stderr)
        self.assertIn(b"cannot write to standard output", stderr)
        self.assertGreaterEqual(self.show("a")["tokens"], 1 + len("Once upon") + 5)

    def test_a_full_disk_ends_no_conversation(self):
        def short_files():
            resource.setrlimit(resource.RLIMIT_FSIZE, (SHORT_BYTES, SHORT_BYTES))
        result = subprocess.run([KVFOLD, *self.arguments("a", "-i", "-n", "4", "--threads", "1")],
                                input=b"one\ntwo\n/stats\n", cwd=self.folder, env=environment(),
                                capture_output=True, check=False, preexec_fn=short_files)
        self.assertEqual(result.returncode, 2, result.stderr)
        self.assertEqual(result.stderr.count(b"the session is not saved: "), 2)
        self.assertIn(b": 16 of 65,536 tokens", result.stdout)
        self.assertEqual(os.listdir(self.path("s")), [])

    def test_names_of_one_file_share_its_lock(self):
        self.good(*self.arguments("a", "-p", "one", "-n", "2"))
        os.symlink("a.kvfold", self.path("s/b.kvfold"))
        process = self.start(*self.arguments("a", "-n", "60000"))
        process.stdout.read(1)
        self.refused("in use by another process", *self.arguments("b", "-n", "1"))
        process.kill()
        process.communicate()
        self.assertIn(b"removed the link b", self.good("session", "rm", "b", "--store", "s").stdout)
        self.assertGreater(self.show("a")["tokens"], 0)

    def test_after_a_save_that_failed_no_line_says_that_all_was_saved(self):
        def short_files():
            resource.setrlimit(resource.RLIMIT_FSIZE, (1700000, 1700000))
        result = subprocess.run([KVFOLD, *self.arguments("a", "-i", "-n", "4", "--threads", "1")],
                                input=b"one\n" + 9 * b"two and more\n", cwd=self.folder,
                                env=environment(), capture_output=True, check=False,
                                preexec_fn=short_files)
        self.assertEqual(result.returncode, 2, result.stderr)
        self.assertIn(b"the session is not saved: ", result.stderr)
        self.assertNotIn(b"saved as", result.stderr)
        self.good("session", "check", "a", "--store", "s")

    def test_a_link_is_saved_through_and_must_lead_somewhere(self):
        self.good(*self.arguments("a", "-p", "one", "-n", "2"))
        os.rename(self.path("s/a.kvfold"), self.path("elsewhere"))
        os.symlink(self.path("elsewhere"), self.path("s/a.kvfold"))
        self.good(*self.arguments("a", "-p", "two", "-n", "2"))
        self.assertTrue(os.path.islink(self.path("s/a.kvfold")))
        self.assertEqual(self.show("a")["tokens"], 1 + len("onetwo") + 4)
        os.unlink(self.path("elsewhere"))
        self.refused("a link that leads nowhere", *self.arguments("a", "-p", "x", "-n", "1"))


class TakingBackTest(SessionTest):
    """/undo and /retry, in a conversation with a name."""

    def talk(self, name, *lines, options=()):
        result = self.good("run", "-m", MODEL, "-i", "-n", "12", "--store", "s", "--session", name,
                           *options, stdin="".join(line + "\n" for line in lines).encode())
        return result.stdout.decode()

    def test_a_conversation_that_went_back_is_one_that_never_went_there(self):
        first, wrong, right = "Tell me of the harbour", "Nonsense " * 40, "And of the boats"
        self.talk("straight", first, right)
        self.talk("undone", first, wrong, "/undo", right)
        self.talk("twice", first, wrong, wrong, "/undo", "/undo", right)
        self.talk("reset", first, "/reset", "/undo", right)
        self.talk("retried", first, "/retry", "/retry", right, "/retry")
        self.talk("later", first)
        self.talk("later", wrong, "/undo", right)
        straight = self.exported("straight")
        for name in ("undone", "twice", "reset", "retried", "later"):
            with self.subTest(name):
                self.assertEqual(self.exported(name), straight)

    def test_what_is_taken_back_is_saved_at_once_and_cheaply(self):
        self.talk("a", 60 * SENTENCE)  # long enough that its rows are most of the file
        whole = self.show("a")
        self.talk("b", 60 * SENTENCE)
        self.talk("a", "even more", "/undo")
        after = self.show("a")
        self.assertEqual(self.exported("a"), self.exported("b"))
        self.assertEqual(after["tokens"], whole["tokens"])
        # Two appends, of the turn and of the undo, and no new file.
        self.assertEqual(after["saves"], whole["saves"] + 2)

    def test_retry_draws_another_answer(self):
        sampled = ("--temperature", "1.5")
        lines = self.talk("a", "The sea", "/retry", options=sampled).splitlines()
        self.assertEqual(len(lines), 2)
        self.assertNotEqual(lines[0], lines[1])
        lines = self.talk("b", "The sea", "/retry").splitlines()
        self.assertEqual(lines[0], lines[1])

    def test_as_much_as_is_kept_can_be_taken_back(self):
        output = self.talk("a", *"123456789", *9 * ["/undo"], "/stats")
        self.assertEqual(output.count("back at"), 8)
        self.assertEqual(output.count("nothing is left to take back"), 1)
        self.assertIn(f": {1 + 1 + 12} of 65,536 tokens", output)
        self.assertEqual(self.show("a")["tokens"], 14)
        self.assertIn("no turn to answer again", self.talk("a", "/retry"))

    def test_a_conversation_of_nothing_is_empty(self):
        for name, lines in (("undone", ("one", "/undo")), ("reset", ("one", "/reset"))):
            with self.subTest(name):
                self.talk(name, *lines)
                self.assertEqual(self.show(name)["tokens"], 0)
                self.refused(f"the session {name} is empty", "run", "-m", MODEL, "--store", "s",
                             "--session", name)
                self.talk(name, "Tell me")
                self.talk(name + "2", "Tell me")
                self.assertEqual(self.exported(name), self.exported(name + "2"))


class StoreTest(SessionTest):
    def ask(self, text, *arguments):
        return self.run_json("-p", text, "-n", "5", "--store", "s", *arguments)

    def test_the_longest_stored_beginning_is_taken(self):
        first = self.ask(DOCUMENT)
        self.assertEqual(first["resumed_tokens"], 0)
        again = self.ask(DOCUMENT)
        self.assertEqual((again["resumed_tokens"], again["prompt_tokens"]), (len(DOCUMENT) + 1, 0))
        self.assertEqual(again["tokens"], first["tokens"])
        longer = self.ask(DOCUMENT + "Who was it?")
        self.assertEqual(longer["resumed_tokens"], len(DOCUMENT) + 1)
        self.assertEqual(longer["prompt_tokens"], len("Who was it?"))
        self.assertEqual(self.ask("x" + DOCUMENT)["resumed_tokens"], 0)
        prefixes = self.json_lines("session", "list", "--store", "s")
        self.assertEqual(sorted(line["tokens"] for line in prefixes),
                         [len(DOCUMENT) + 1, len(DOCUMENT) + 2])

    def test_a_text_with_many_questions_is_read_twice_at_most(self):
        questions = ["How many boats were there in it?" * 5, "Who saw?" * 20, "When was it?" * 16]
        found = [self.ask(DOCUMENT + question)["resumed_tokens"] for question in questions]
        self.assertEqual(found, [0, 0, len(DOCUMENT) + 1])

    def test_a_resumed_prompt_has_the_bits_of_the_same_chunks(self):
        cut = 512 - 1  # with BOS a whole number of chunks
        text = LONG_DOCUMENT[:700]
        plain = self.run_json("-p", text, "-n", "20", "--chunk", "256", "--ctx", "2k")
        self.ask(text[:cut], "--chunk", "256")
        resumed = self.run_json("-p", text, "-n", "20", "--chunk", "256", "--ctx", "2k", "--store",
                                "s")
        self.assertEqual(resumed["resumed_tokens"], 512)
        self.assertEqual(resumed["tokens"], plain["tokens"])

    def test_a_damaged_prefix_costs_time_and_not_the_answer(self):
        first = self.ask(DOCUMENT)
        name = os.listdir(self.path("s/prefixes"))
        path = self.path("s/prefixes/" + next(n for n in name if n.endswith(".kvfold")))
        self.damage(path, os.path.getsize(path) // 2)
        result = self.good("run", "-m", MODEL, "-p", DOCUMENT, "-n", "5", "--store", "s",
                           "--json")
        self.assertIn(b"warning: ", result.stderr)
        self.assertIn(f'"tokens":{first["tokens"]}'.replace(" ", ""), result.stdout.decode())
        again = self.ask(DOCUMENT)  # it was stored anew
        self.assertEqual(again["resumed_tokens"], len(DOCUMENT) + 1)

    def test_the_budget(self):
        result = self.good("run", "-m", MODEL, "-p", DOCUMENT, "-n", "1", "--store", "s",
                           "--store-max", "100k")
        self.assertIn(b"not stored: ", result.stderr)
        self.assertEqual(self.json_lines("session", "list", "--store", "s"), [])
        for text in (DOCUMENT, "x" + DOCUMENT, "y" + DOCUMENT):
            self.ask(text, "--store-max", "5M")
        lines = self.json_lines("session", "list", "--store", "s")
        self.assertEqual(len(lines), 2)
        self.assertLessEqual(sum(line["bytes"] for line in lines), 5 << 20)

    def test_a_full_disk_costs_the_file_and_not_the_answer(self):
        def short_files():  # a longer one raises SIGXFSZ, which ends a process that lets it
            resource.setrlimit(resource.RLIMIT_FSIZE, (SHORT_BYTES, SHORT_BYTES))
        for arguments, status, message in (([], 0, b"warning: not stored: "),
                                           (["--session", "a"], 2, b"the session is not saved: ")):
            result = subprocess.run(
                [KVFOLD, "run", "--threads", "1", "-m", MODEL, "-p", DOCUMENT, "-n", "5",
                 "--store", "s", *arguments], cwd=self.folder, env=environment(),
                capture_output=True, check=False, preexec_fn=short_files)
            self.assertEqual(result.returncode, status, result.stderr)
            self.assertIn(message, result.stderr)
            self.assertGreaterEqual(len(result.stdout), 5)
        self.assertEqual(self.json_lines("session", "list", "--store", "s"), [])

    def test_small_prompts_are_not_worth_a_file(self):
        self.good("run", "-m", MODEL, "-p", "The sea", "-n", "1", "--store", "s")
        self.assertEqual(self.json_lines("session", "list", "--store", "s"), [])


class CommandTest(SessionTest):
    def test_list_show_check_and_rm(self):
        self.refused("there is no folder s", "session", "list", "--store", "s")
        self.session("b", "-p", "x", "-n", "1")
        self.session("a.1", "-p", DOCUMENT, "-n", "1")
        self.run_json("-p", DOCUMENT, "-n", "1", "--store", "s")
        lines = self.json_lines("session", "list", "--store", "s")
        self.assertEqual([line["name"] for line in lines[:2]], ["a.1", "b"])
        self.assertRegex(lines[2]["name"], r"^prefixes/[0-9a-f]{16}$")
        for line in lines:
            self.assertEqual(list(line), SESSION_KEYS)
            self.assertEqual(line["bytes"], os.path.getsize(self.path(line["path"])))
        self.assertEqual(lines[0]["tokens"], len(DOCUMENT) + 2)
        table = self.good("session", "list", "--store", "s").stdout.decode().splitlines()
        self.assertEqual(len(table), 4)
        self.assertEqual(len({line.rstrip().rindex(" ") for line in table[1:]}), 1)
        checked = self.json_lines("session", "check", "--store", "s")
        self.assertEqual([line["good"] for line in checked], [True] * 3)
        self.assertEqual([line["temperature"] for line in lines], [0, 0, None])
        self.write("s/b.kvfold.saving", b"")  # what a killed process left
        removed = self.good("session", "rm", "b", lines[2]["name"], "--store", "s").stdout.decode()
        self.assertIn("removed b, ", removed)
        self.assertEqual([line["name"] for line in
                          self.json_lines("session", "list", "--store", "s")], ["a.1"])
        self.assertEqual(sorted(os.listdir(self.path("s"))), ["a.1.kvfold", "prefixes"])
        self.refused("no session 'b'", "session", "rm", "b", "--store", "s")

    def test_links_are_removed_wherever_they_lead(self):
        self.session("good", "-p", "x", "-n", "1")
        os.symlink("nowhere", self.path("s/dangling.kvfold"))
        os.symlink("loop.kvfold", self.path("s/loop.kvfold"))
        os.symlink("/dev/null", self.path("s/device.kvfold"))
        self.write("s/dangling.kvfold.saving", b"mine")
        self.refused("is a link that leads nowhere", "session", "show", "dangling", "--store", "s")
        self.assertIn(b"leads nowhere", self.good("session", "list", "--store", "s").stderr)
        for name in ("dangling", "loop", "device"):
            removed = self.good("session", "rm", name, "--store", "s").stdout.decode()
            self.assertEqual(removed, f"removed the link {name}, and not what it leads to\n")
            self.refused(f"no session '{name}'", "session", "rm", name, "--store", "s")
        self.assertEqual(sorted(os.listdir(self.path("s"))),
                         ["dangling.kvfold.saving", "good.kvfold"])

    def test_a_file_that_no_save_left_is_nobody_s_to_overwrite(self):
        self.session("a", "-p", "x", "-n", "1")
        self.session("a", "-n", "1")
        shutil.copy(self.path("s/a.kvfold"), self.path("s/b.kvfold.saving"))  # somebody's copy
        self.write("s/c.kvfold.saving", b"notes\n")
        self.write("file.saving", b"notes\n")
        def written():
            infos = [os.stat(self.path(name)) for name in ("s/b.kvfold.saving",
                                                           "s/c.kvfold.saving", "file.saving")]
            return [(info.st_size, info.st_ino, info.st_mtime_ns) for info in infos]
        before = written()
        for name in "bc":
            self.refused(f"s/{name}.kvfold.saving is there and no save left it", "run", "-m", MODEL,
                         "--store", "s", "--session", name, "-p", "x", "-n", "1")
        result = self.kvfold("session", "export", "a", "file", "--store", "s")
        if b"no zstd" not in result.stderr:
            self.assertIn(b"file.saving: is there and no save left it", result.stderr)
            self.assertEqual(result.returncode, 2)
        self.write("s/a.kvfold.saving", b"notes\n")
        self.good("session", "rm", "a", "--store", "s")
        self.assertEqual(sorted(os.listdir(self.path("s"))),
                         ["a.kvfold.saving", "b.kvfold.saving", "c.kvfold.saving"])
        self.assertEqual(written(), before)

    def test_an_empty_prompt_is_answered_only_where_a_text_goes_on(self):
        self.write("nothing", b"")
        run = ["run", "-m", MODEL, "-n", "3"]
        for empty in (["-p", ""], ["-f", "nothing"], ["-f", "-"]):
            self.refused("the prompt is empty", *run, *empty)
            self.refused("the prompt is empty", *run, *empty, "--store", "s")
            self.refused("the prompt is empty, and the session a is not there yet", *run, *empty,
                         "--store", "s", "--session", "a")
        self.session("a", "-p", "x", "-n", "1")
        self.session("b", "-p", "x", "-n", "1")
        for empty in (["-p", ""], ["-f", "nothing"]):
            self.assertEqual(self.session("a", "-n", "3", *empty)["tokens"],
                             self.session("b", "-n", "3")["tokens"])
        self.assertEqual(self.good(*run, "-i", "-p", "", stdin=b"").stderr, b"")

    def test_a_folder_whose_name_is_no_text_can_be_listed(self):
        folder = os.fsencode(self.path("s")) + b"\xff\xc3"
        self.good("run", "-m", MODEL, "--store", os.fsdecode(folder), "--session", "a", "-p", "x",
                  "-n", "1")
        line = self.json_lines("session", "list", "--store", os.fsdecode(folder))[0]
        self.assertTrue(line["path"].endswith("s\ufffd\ufffd/a.kvfold"), line["path"])

    def test_check_finds_damage(self):
        self.session("a", "-p", DOCUMENT, "-n", "1")
        self.session("b", "-p", "x", "-n", "1")
        self.damage(self.path("s/a.kvfold"), self.show("a")["bytes"] // 2)
        result = self.kvfold("session", "check", "--store", "s")
        self.assertEqual(result.returncode, 1)
        lines = result.stdout.decode().splitlines()
        self.assertRegex(lines[0], "^a: .*a.kvfold: ")
        self.assertRegex(lines[1], "^b: good")
        self.write("s/c.kvfold", b"something else")
        result = self.good("session", "list", "--store", "s")
        self.assertIn(b"c.kvfold", result.stderr)
        self.assertEqual(self.kvfold("session", "check", "c", "--store", "s").returncode, 1)

    def test_an_exported_session_can_be_put_back(self):
        self.session("a", "-p", DOCUMENT, "-n", "5")
        self.write("s/b.kvfold", self.exported("a"))
        self.assertLess(os.path.getsize(self.path("s/b.kvfold")), self.show("a")["bytes"])
        self.assertTrue(self.show("b")["compressed"])
        self.assertEqual(self.session("b", "-n", "9")["tokens"],
                         self.session("a", "-n", "9")["tokens"])
        self.write("notes", b"mine" * 4000)
        self.refused("not replaced", "session", "export", "a", "notes", "--store", "s")
        self.refused("there is no session", "session", "export", "z", "z.export", "--store", "s")

    def test_wrong_arguments(self):
        self.refused("no action; there are list, show, check, rm and export", "session")
        self.refused("did you mean list?", "session", "lits")
        self.refused("'frobnicate'; there are", "session", "frobnicate")
        self.refused("usage: kvfold session show NAME...", "session", "show")
        self.refused("usage: kvfold session list", "session", "list", "a")
        self.refused("usage: kvfold session export NAME FILE", "session", "export", "a")
        self.refused("rm has no --json", "session", "rm", "a", "--json")
        self.refused("does not apply here; it belongs to kvfold run", "session", "list",
                     "--session", "a")
        for name in ("../a", "a/b", ".a", "-a", "a b", "a\n", "\u00e9", "a" * 65, "prefixes/a"):
            self.refused("name", "run", "-m", MODEL, "-p", "x", "--session=" + name)
        self.refused("'../a' ", "session", "show", "../a", "--store", "s")
        run = ["run", "-m", MODEL]
        self.refused("give a prompt to begin it", *run, "--session", "a", "--store", "s")
        self.refused("--store-max only matters with --store", *run, "-p", "x", "--store-max", "1G")
        self.refused("--save-every only matters with", *run, "-p", "x", "--save-every", "5")
        self.refused("--verify-snapshot only matters with", *run, "-p", "x", "--verify-snapshot")
        self.refused("give --session NAME as well", *run, "-i", "--store", "s")
        self.refused("outside 1 .. 86,400", *run, "-p", "x", "--session", "a", "--save-every",
                     "0")
        self.write("file", b"")
        self.refused("file", *run, "-p", "x", "--store", "file")
        self.refused("file", *run, "-p", "x", "--session", "a", "--store", "file/s")

    def test_a_session_that_is_too_long_says_so(self):
        self.session("a", "-p", DOCUMENT, "-n", "1")
        self.refused("the session with the prompt has", "run", "-m", MODEL, "--session", "a",
                     "--store", "s", "-p", "x", "--ctx", "256")

    def test_help_names_everything(self):
        text = self.good("session", "--help").stdout.decode()
        self.assertEqual(text, self.good("help", "session").stdout.decode())
        for word in ("list", "show", "check", "rm", "export", "--store", "--json", "Examples"):
            self.assertIn(word, text)
        for word in ("--session", "--store", "--store-max", "--save-every", "--verify-snapshot"):
            self.assertIn(word, self.good("run", "--help").stdout.decode())
        self.assertLessEqual(max(map(len, text.splitlines())), 92)


if __name__ == "__main__":
    main()
