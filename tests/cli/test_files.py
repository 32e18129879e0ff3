#!/usr/bin/env python3
"""Files of a run: inputs without end or of any size, and outputs that are inputs.

usage: test_files.py --kvfold PATH --model DIR [unittest's own arguments]
"""

import os
import resource
import shutil
import socket
import stat
import subprocess
import threading
import unittest

from support import KVFOLD, MODEL, PATIENCE_SECONDS, CliTest, environment, main, one_thread

GB = 1 << 30
TEXT = b"A lamp on the far side of the bay turns and turns. "


def limit_addresses():
    """What takes in all of an endless input ends soon, in an error that is not the expected one."""
    resource.setrlimit(resource.RLIMIT_AS, (2 * GB, 2 * GB))


class InputTest(CliTest):
    def kvfold(self, *arguments, env=None, stdin=b""):
        """With 2 GB of addresses; stdin may be a file."""
        kind = {"input": stdin} if isinstance(stdin, bytes) else {"stdin": stdin}
        return subprocess.run([KVFOLD, *one_thread(arguments)], cwd=self.folder,
                              env=environment(env), stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                              check=False, preexec_fn=limit_addresses, timeout=PATIENCE_SECONDS,
                              **kind)

    def endless_pipe(self, name):
        """A named pipe into which is written for as long as somebody reads."""
        os.mkfifo(self.path(name))

        def feed():
            try:
                with open(self.path(name), "wb", buffering=0) as pipe:
                    while True:
                        pipe.write(b"1\n" * 65536)
            except BrokenPipeError:
                pass
        threading.Thread(target=feed, daemon=True).start()
        return name

    def sparse(self, name, size):
        self.write(name, b"")
        os.truncate(self.path(name), size)
        return name

    def test_prompts_are_read_no_further_than_a_context(self):
        run = ["run", "-m", MODEL, "-n", "1"]
        for name in ("/dev/zero", self.sparse("big", 20 * GB), self.endless_pipe("pipe")):
            self.refused("more than 1,048,576 tokens, and the model takes no more", *run, "-f", name)
        self.refused("more than 5,000 tokens, and --ctx holds no more", *run, "-f", "/dev/zero",
                     "--ctx", "5000")
        with open("/dev/zero", "rb") as zeros:
            self.refused("more than 64 tokens", *run, "-f", "-", "--ctx", "64", stdin=zeros)
        self.refused("has 65 tokens", *run, "-f", self.write("fits", b"x" * 64), "--ctx", "64")
        self.good(*run, "-f", self.write("fits", b"x" * 63), "--ctx", "64")

    def test_verify_takes_the_part_of_a_text_that_it_needs(self):
        verify = ["verify", "-m", MODEL, "--ctx", "20", "--decode", "2", "--profiles", "fold"]
        for name in (self.sparse("big", 20 * GB), self.endless_pipe("pipe")):
            self.good(*verify, "-f", name)

    def test_score_reads_a_window_at_a_time(self):
        def figures(*arguments, **options):
            line = self.json_lines("score", "-m", MODEL, "--window", "32", *arguments, **options)[0]
            del line["tps"]
            return line
        text = TEXT * 3
        whole = figures("-f", self.write("text", text))
        self.assertEqual((whole["windows"], whole["dropped"]), divmod(len(text), 31))
        self.assertEqual(figures("-f", "-", stdin=text), whole)
        with open(self.write("late", b"skipped" + text), "rb") as late:
            os.lseek(late.fileno(), 7, os.SEEK_SET)
            self.assertEqual(figures("-f", "-", stdin=late), whole)
        ids = "".join(f"{i}\r\n" for i in text).encode()[:-2]  # the last without its line break
        by_file = figures("--ids", self.write("ids", ids))
        self.assertEqual((by_file["windows"], by_file["dropped"]), divmod(len(text), 32))
        self.assertEqual(figures("--ids", "-", stdin=ids), by_file)

    def test_score_holds_one_window_of_a_text_without_end(self):
        process = subprocess.Popen([KVFOLD, *one_thread(["score", "-m", MODEL, "--window", "32",
                                                         "--logits", "out", "-f",
                                                         self.endless_pipe("pipe")])],
                                   cwd=self.folder, env=environment(), stdout=subprocess.PIPE,
                                   stderr=subprocess.PIPE, preexec_fn=limit_addresses)
        self.addCleanup(process.kill)
        with self.assertRaises(subprocess.TimeoutExpired):
            process.wait(2)
        process.send_signal(2)
        self.assertIn(b"interrupted", process.communicate(timeout=PATIENCE_SECONDS)[1])
        self.assertEqual(process.returncode, 130)
        self.assertEqual(os.listdir(self.folder), ["pipe"])
        for option in ("-f", "--ids"):
            result = self.kvfold("score", "-m", MODEL, option, "/dev/zero")
            self.assertEqual(result.returncode, 2)
        self.refused("is a device", "score", "-m", MODEL, "-f", "/dev/zero")
        self.refused("is empty", "score", "-m", MODEL, "-f", "/dev/null")
        self.refused("line 1, '" + "?" * 44 + "...', is not", "score", "-m", MODEL, "--ids",
                     self.sparse("big", 20 * GB))
        self.refused("line 1, '" + "1" * 44 + "...', is not", "score", "-m", MODEL, "--ids",
                     self.write("one", b"1" * 99))

    def test_what_is_no_text_is_named(self):
        os.mkdir(self.path("folder"))
        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind(self.path("socket"))
            for name, why in (("folder", "it is a folder"), ("socket", "cannot open"),
                              ("nowhere", "No such file")):
                for command in (["run", "-f"], ["verify", "-f"], ["score", "-f"], ["score", "--ids"]):
                    self.assertIn(f"'{name}'", self.refused(why, command[0], "-m", MODEL,
                                                            command[1], name))

    def test_a_file_that_grows_is_refused(self):
        text = self.write("text", TEXT * 40)
        process = self.start("score", "-m", MODEL, "-f", text, "--window", "32", "--logits", "out")
        while not [name for name in os.listdir(self.folder) if name.startswith("out.")]:
            self.assertIsNone(process.poll())
        with open(text, "ab") as file:
            file.write(TEXT * 10000)
        errors = process.communicate(timeout=PATIENCE_SECONDS)[1]
        self.assertEqual(process.returncode, 2)
        self.assertRegex(errors.decode(), r"^kvfold: score: '.*text' changed while it was read.*\n$")
        self.assertEqual(os.listdir(self.folder), ["text"])

    def test_json_files_are_not_read_to_find_that_they_are_large(self):
        model = shutil.copytree(MODEL, self.path("model"))
        for name in ("model.safetensors.index.json", "generation_config.json", "config.json"):
            os.truncate(os.path.join(model, name), GB)
            self.refused(f"{name}: 1073741824 bytes of JSON; at most 100000000 are read", "run",
                         "-m", model, "-p", "a")
            os.unlink(os.path.join(model, name))
            os.mkfifo(os.path.join(model, name))
            self.refused(f"{name}: is not a regular file", "run", "-m", model, "-p", "a")
            os.unlink(os.path.join(model, name))
            shutil.copy(os.path.join(MODEL, name), model)


class OutputTest(CliTest):
    def setUp(self):
        super().setUp()
        self.text = self.write("text", TEXT)
        os.link(self.text, self.path("hard"))
        os.symlink("text", self.path("soft"))
        os.mkdir(self.path("sub"))
        os.symlink("../soft", self.path("sub/twice"))

    def unchanged(self, name="text", content=TEXT):
        with open(self.path(name), "rb") as file:
            self.assertEqual(file.read(), content)

    def test_logits_replace_no_input_by_any_name(self):
        for name in ("text", "./text", "sub/../text", "hard", "soft", "sub/twice", self.text):
            self.refused("is read", "score", "-m", MODEL, "-f", "text", "--logits", name)
            self.refused("is read", "score", "-m", MODEL, "-f", name, "--logits", "text")
            self.unchanged()
        ids = self.write("ids", b"256\n1\n2\n")
        self.refused("'ids', which is read", "score", "-m", MODEL, "--ids", "ids", "--logits", ids)
        with open(self.text, "rb") as text:
            result = subprocess.run([KVFOLD, "score", "-m", MODEL, "-f", "-", "--logits", "hard"],
                                    cwd=self.folder, stdin=text, stderr=subprocess.PIPE, check=False)
        self.assertEqual(result.returncode, 2)
        self.assertIn(b"standard input, which is read", result.stderr)
        self.unchanged("hard")

    def test_no_output_replaces_a_part_of_the_model(self):
        model = shutil.copytree(MODEL, self.path("model"))
        shard = "model-00002-of-00003.safetensors"
        os.link(os.path.join(model, shard), self.path("blob"))
        with open(os.path.join(model, "config.json"), "rb") as file:
            config = file.read()
        for command in (["score", "-f", "text", "--logits"], ["plan", "--svg"], ["bench", "--svg"]):
            for name in ("model/config.json", "blob", "model/" + shard,
                         "model/model.safetensors.index.json", "model/generation_config.json"):
                self.refused("would replace the model's", command[0], "-m", "model", *command[1:],
                             name)
        self.unchanged("model/config.json", config)
        # Of a split file one part is named, the others are read beside it.
        for part in ("whole-00001-of-00002.gguf", "whole-00002-of-00002.gguf"):
            shutil.copy(self.path("text"), self.path(part))
        for model_path in ("whole-00001-of-00002.gguf", self.path("whole-00001-of-00002.gguf"), "."):
            self.refused("would replace the model's whole-00002-of-00002.gguf", "plan", "-m",
                         model_path, "--svg", "whole-00002-of-00002.gguf")
        # Results may lie in the folder, and be replaced there.
        for _ in range(2):
            self.good("plan", "-m", "model", "--svg", "model/plan.svg")

    def test_standard_output_is_no_input(self):
        def run(*arguments, mode="ab", to="text", stdin=None):
            with open(self.path(to), mode) as output:
                result = subprocess.run([KVFOLD, *one_thread(arguments)], cwd=self.folder,
                                        stdout=output, stderr=subprocess.PIPE, stdin=stdin,
                                        env=environment(), check=False, timeout=PATIENCE_SECONDS)
            self.assertEqual(result.returncode, 2, result.stderr)
            self.assertEqual(result.stderr.count(b"\n"), 1)
            return result.stderr
        for command in (["score", "-f", "hard"], ["verify", "-f", "soft"], ["run", "-f", "text"]):
            self.assertIn(b"standard output goes to", run(command[0], "-m", MODEL, *command[1:]))
            self.unchanged()
        with open(self.text, "rb") as turns:  # every answer would be a turn
            self.assertIn(b"standard input", run("run", "-m", MODEL, "-i", stdin=turns))
        self.unchanged()
        shutil.copytree(MODEL, self.path("model"))
        self.assertIn(b"config.json", run("plan", "-m", "model", to="model/config.json"))
        # Two outputs that are one file.
        self.assertIn(b"where standard output goes", run("plan", "-m", MODEL, "--svg", "chart",
                                                         to="chart"))
        self.assertIn(b"where standard output goes", run("score", "-m", MODEL, "-f", "text",
                                                         "--logits", "out", to="out"))

    def test_a_sessions_files_are_no_prompts(self):
        self.good("run", "-m", MODEL, "-p", "a", "-n", "1", "--session", "tale", "--store", "s")
        with open(self.path("s/tale.kvfold"), "rb") as file:
            saved = file.read()
        for name in ("tale.kvfold", "tale.kvfold.saving", "tale.lock"):
            prompt = self.path("s/" + name)
            if name != "tale.kvfold":
                os.link(self.text, prompt)
            self.refused("which is read", "run", "-m", MODEL, "-f", prompt, "-n", "1", "--session",
                         "tale", "--store", "s")
            self.assertTrue(os.path.exists(prompt))
        self.unchanged("s/tale.kvfold", saved)
        self.unchanged("s/tale.lock")
        for action in (["show", "tale"], ["check"]):
            with open(self.path("s/tale.kvfold"), "ab") as output:
                result = subprocess.run([KVFOLD, "session", *action, "--store", "s"], check=False,
                                        cwd=self.folder, stdout=output, stderr=subprocess.PIPE)
            self.assertEqual(result.returncode, 2, result.stderr)
        self.unchanged("s/tale.kvfold", saved)

    def test_what_is_replaced_keeps_its_permissions_and_links_to_it(self):
        old = self.write("out", "old")
        os.chmod(old, 0o640)
        os.symlink("../out", self.path("sub/link"))
        self.good("score", "-m", MODEL, "-f", "text", "--logits", "sub/link")
        self.assertTrue(os.path.islink(self.path("sub/link")))
        self.assertFalse(os.path.islink(old))
        self.assertGreater(os.path.getsize(old), 1000)
        self.assertEqual(stat.S_IMODE(os.stat(old).st_mode), 0o640)
        self.assertEqual(sorted(os.listdir(self.path("sub"))), ["link", "twice"])

    def test_what_cannot_be_written_is_found_before_the_work(self):
        os.symlink("nowhere/at-all", self.path("lost"))
        os.mkfifo(self.path("pipe"))
        for name, why in (("lost", "leads nowhere"), ("sub", "not a regular file"),
                          ("pipe", "not a regular file"), ("/dev/full", "not a regular file"),
                          ("", "is empty"), ("-", "no name"), ("nofolder/x", "No such file"),
                          ("x" * 254, "File name too long"), ("text/x", "Not a directory")):
            for command in (["score", "-f", "text", "--logits"], ["plan", "--svg"],
                            ["bench", "--svg"]):
                self.refused(why, command[0], "-m", MODEL, *command[1:], name)


if __name__ == "__main__":
    main()
