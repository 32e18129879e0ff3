#!/usr/bin/env python3
"""Checkpoints as people have them: damaged, incomplete, lost while they are used, larger than
the memory, and with ids in the place of text.

usage: test_checkpoints.py --kvfold PATH --model DIR [--refusing-system PATH] [unittest's own]
"""

import json
import os
import shutil
import struct
import subprocess

import checkpoints
from checkpoints import Tensor, gguf
from support import (KVFOLD, MODEL, PATIENCE_SECONDS, REFUSING_SYSTEM, VOCABULARY, CliTest,
                     Terminal, environment, main, one_thread, wait_until)

SHARDS = [f"model-0000{i}-of-00003.safetensors" for i in (1, 2, 3)]
TOKENIZER = os.path.join(os.path.dirname(os.path.abspath(__file__)),
                         "../text/fixture/tokenizer.json")
IDS = "".join(f"{i * 37 % 256}\n" for i in range(40))


def replaced(data, old, new):
    """data with bytes that are there once replaced by as many."""
    assert data.count(old) == 1 and len(old) == len(new), (data.count(old), old, new)
    return data.replace(old, new)


class BadCheckpointTest(CliTest):
    """One clear line, status 2, nothing written."""

    def refuses(self, path, *expected):
        self.write("ids", IDS)
        before = sorted(os.listdir(self.folder))
        for command in (["score", "--ids", "ids", "--logits", "logits"],
                        ["run", "-p", "a", "--store", "store", "--session", "s"]):
            message = self.refused(expected[0], command[0], "-m", path, *command[1:])
            for part in expected[1:]:
                self.assertIn(part, message)
        self.assertEqual(sorted(os.listdir(self.folder)), before)

    # ---- Safetensors -------------------------------------------------------------------

    def copy(self):
        shutil.rmtree(self.path("copy"), ignore_errors=True)
        return shutil.copytree(MODEL, self.path("copy"))

    def test_shards_that_are_missing_or_cut(self):
        for shard in (SHARDS[0], SHARDS[2]):
            path = self.copy()
            os.remove(os.path.join(path, shard))
            self.refuses("copy", shard, "no such file")
        for shard, size in ((SHARDS[1], 1 << 20), (SHARDS[1], -1), (SHARDS[0], 100),
                            (SHARDS[2], 7), (SHARDS[2], 0)):
            path = os.path.join(self.copy(), shard)
            os.truncate(path, size if size >= 0 else os.path.getsize(path) + size)
            self.refuses("copy", shard)

    def folder_with(self, entries=None, **changes):
        """The tiny model in one file; a change is a tensor, or None: it is left out."""
        tensors = checkpoints.read(MODEL)
        for name, tensor in changes.items():
            if tensor is None:
                del tensors[name]
            else:
                tensors[name] = tensor
        if entries:
            header = checkpoints.header_of(tensors)
            entries(header)
            entries = header
        shutil.rmtree(self.path("one"), ignore_errors=True)
        return checkpoints.write_folder(self.path("one"), MODEL, tensors, entries)

    def test_headers_that_lie(self):
        first, second = "model.layers.1.attn.wq_a.weight", "model.layers.1.attn.wq_b.weight"

        def overlap(header):
            begin, end = header[first]["data_offsets"]
            size = header[second]["data_offsets"][1] - header[second]["data_offsets"][0]
            header[second]["data_offsets"] = [begin + 2, begin + 2 + size]
            del end

        def beyond(header):
            header[second]["data_offsets"] = [o + (1 << 40) for o in header[second]["data_offsets"]]

        def shape(header):
            header[first]["shape"] = header[first]["shape"][::-1]

        def count(header):
            header[first]["shape"] = [1 << 32, 1 << 31]

        for change, expected in ((overlap, "overlap"), (beyond, second), (shape, first),
                                 (count, first)):
            self.folder_with(change)
            self.refuses("one", expected)
        path = os.path.join(self.folder_with(), "model.safetensors")
        for length in (1 << 62, 1 << 26, 3):
            with open(path, "r+b") as file:
                file.write(struct.pack("<Q", length))
            self.refuses("one", "model.safetensors")

    def test_tensors_that_are_missing_or_of_no_use(self):
        name = "model.layers.3.attn.wo_a.weight"
        self.folder_with(**{name: None})
        self.refuses("one", name, "no tensor")
        self.folder_with(**{"model.layers.3.attn.wo_c.weight": Tensor("F32", [1], bytes(4))})
        self.refuses("one", "wo_c", "not part of the model")
        kind, shape, data = checkpoints.read(MODEL)[name]
        self.folder_with(**{name: Tensor("I16", shape, data)})
        self.refuses("one", name, "I16")
        self.assertEqual(kind, "BF16")
        bias = "model.layers.3.ffn.gate.bias"
        values = checkpoints.read(MODEL)[bias]
        self.folder_with(**{bias: values._replace(data=b"\x00\x00\xc0\x7f" + values.data[4:])})
        self.refuses("one", bias, "not finite")

    def test_a_model_that_the_config_cuts_is_refused(self):
        """Half of the layers give an answer, too; but not the model's."""
        with open(os.path.join(MODEL, "config.json"), encoding="utf-8") as file:
            whole = json.load(file)
        for n in (5, 2):
            self.folder_with()
            cut = {**whole, "num_hidden_layers": n, "layer_types": whole["layer_types"][:n],
                   "mlp_layer_types": whole["mlp_layer_types"][:n]}
            self.write("one/config.json", json.dumps(cut))
            self.refuses("one", f"layers.{n}.", f"more than the {n}")
            metadata, tensors = checkpoints.gguf_parts(MODEL)
            gguf.write(self.path("cut.gguf"), {**metadata, "deepseek4.block_count": gguf.u32(n)},
                       tensors)
            self.refuses("cut.gguf", f"blk.{n}.", f"more than the {n}")
        # A layer that predicts further tokens is not run, whatever else it has.
        for head in ("model.layers.6.eh_proj.weight", "layers.6.enorm.weight"):
            self.folder_with(**{head: Tensor("F32", [2], bytes(8)),
                                "model.layers.6.attn_norm.weight": Tensor("F32", [2], bytes(8))})
            self.good("score", "-m", "one", "--ids", "ids")

    def test_links_that_lead_nowhere(self):
        """Of a file that may be missing, too: it is there, and its content is not."""
        for name in ("config.json", "generation_config.json", "model.safetensors.index.json",
                     SHARDS[1]):
            path = os.path.join(self.copy(), name)
            os.remove(path)
            os.symlink("blobs/1234", path)
            self.refuses("copy", name, "is a link to a file that is not there")
        os.remove(os.path.join(self.copy(), "generation_config.json"))
        self.write("ids", IDS)
        self.good("score", "-m", "copy", "--ids", "ids")

    def test_planes_of_scales(self):
        matrix, expert = "model.layers.1.attn.wq_a", "model.layers.1.ffn.experts.3.w1"
        rows, columns = checkpoints.read(MODEL)[matrix + ".weight"].shape
        out, width = checkpoints.read(MODEL)[expert + ".weight"].shape
        codes = Tensor("F8_E4M3", [rows, columns], bytes(rows * columns))
        packed = Tensor("I8", [out, width // 2], bytes(out * width // 2))
        right = [-(-rows // 128), -(-columns // 128)]

        def scale(shape, kind="F8_E8M0", size=1):
            return Tensor(kind, shape, bytes(shape[0] * shape[1] * size))

        self.folder_with(**{matrix + ".weight": codes, matrix + ".scale": scale(right)})
        self.write("ids", IDS)
        self.good("score", "-m", "one", "--ids", "ids")
        for wrong, expected in ((scale([right[0] + 1, right[1]]), "shape"),
                                (scale(right[::-1]) if right[0] != right[1] else scale([1, 9]),
                                 "shape"),
                                (scale(right, "F16", 2), "F16"), (None, "scale")):
            changes = {matrix + ".weight": codes}
            if wrong:
                changes[matrix + ".scale"] = wrong
            self.folder_with(**changes)
            self.refuses("one", matrix, expected)
        for wrong in (scale([out, width // 32 + 1]), scale([-(-out // 128), -(-width // 128)]),
                      scale([out, width // 32], "F32", 4)):
            self.folder_with(**{expert + ".weight": packed, expert + ".scale": wrong})
            self.refuses("one", expert)

    def test_experts_that_do_not_exist(self):
        name = "model.layers.0.ffn.gate.tid2eid"
        table = checkpoints.read(MODEL)[name]
        self.assertEqual(table.dtype, "I64")
        for at, value in ((0, 8), (len(table.data) - 8, -1), (80, 1 << 40)):
            data = table.data[:at] + struct.pack("<q", value) + table.data[at + 8:]
            self.folder_with(**{name: table._replace(data=data)})
            self.refuses("one", name, "not the number of an expert")

    # ---- GGUF ------------------------------------------------------------------------------

    def test_ggufs_that_are_cut_or_lie(self):
        metadata, tensors = checkpoints.gguf_parts(MODEL)
        good = gguf.contents(metadata, tensors)
        name = tensors[0][0]
        info = gguf.info(name, tensors[0][1], gguf.TYPES[tensors[0][2]].id, 0)
        later = good.index(gguf.string(tensors[1][0])) + len(gguf.string(tensors[1][0]))
        offset_at = later + 4 + 8 * len(tensors[1][1]) + 4

        def with_offset(offset):
            return good[:offset_at] + struct.pack("<Q", offset) + good[offset_at + 8:]

        (offset,) = struct.unpack_from("<Q", good, offset_at)
        self.assertGreater(offset, 64)
        layers = gguf.entry("deepseek4.block_count", gguf.u32(6))
        hidden = gguf.entry("deepseek4.embedding_length", gguf.u32(256))
        cases = {
            "cut short": good[:-40000], "cut in the header": good[:5000], "cut in the magic": good[:3],
            "misaligned": with_offset(offset + 4), "overlapping": with_offset(offset - 32),
            "beyond the end": with_offset(1 << 40), "offset past 2^64": with_offset((1 << 64) - 32),
            "too many tensors": good[:8] + struct.pack("<Q", 1 << 60) + good[16:],
            "too many keys": good[:16] + struct.pack("<Q", 1 << 33) + good[24:],
            "one tensor more": good[:8] + struct.pack("<Q", len(tensors) + 1) + good[16:],
            "one tensor less": good[:8] + struct.pack("<Q", len(tensors) - 1) + good[16:],
            "more layers": replaced(good, layers, gguf.entry("deepseek4.block_count", gguf.u32(9))),
            "another width": replaced(good, hidden, gguf.entry("deepseek4.embedding_length",
                                                               gguf.u32(512))),
            "a type that is not read": replaced(good, info, gguf.info(
                name, tensors[0][1], gguf.TYPES["Q5_0"].id, 0)),
        }
        for what, content in cases.items():
            with self.subTest(what):
                self.write("bad.gguf", content)
                self.refuses("bad.gguf", "bad.gguf")

    def test_maps_and_architectures_of_ggufs(self):
        metadata, tensors = checkpoints.gguf_parts(MODEL)
        for value in (8, -1):
            changed = [(name, shape, kind, data[:40] + struct.pack("<i", value) + data[44:])
                       if "tid2eid" in name else (name, shape, kind, data)
                       for name, shape, kind, data in tensors]
            gguf.write(self.path("map.gguf"), metadata, changed)
            self.refuses("map.gguf", "tid2eid", "not the number of an expert")
        for architecture in ("deepseek2", "deepseek41", "llama"):
            gguf.write(self.path("map.gguf"),
                       {**metadata, "general.architecture": gguf.text(architecture)}, tensors)
            self.refuses("map.gguf", architecture)

    def split(self, stem, metadata, tensors):
        half = len(tensors) // 2
        os.makedirs(os.path.dirname(self.path(stem)))
        gguf.write_split(self.path(stem), metadata, [tensors[:half], tensors[half:]])
        return [f"{stem}-0000{i}-of-00002.gguf" for i in (1, 2)]

    def test_parts_that_are_missing_or_of_another_model(self):
        metadata, tensors = checkpoints.gguf_parts(MODEL)
        names = self.split("a/m", metadata, tensors)
        self.write("ids", IDS)
        for name in names:
            self.good("score", "-m", name, "--ids", "ids")
        other = self.split("b/m", metadata, tensors[:-1])
        for name in names:
            kept = self.path(name) + ".kept"
            os.rename(self.path(name), kept)
            for given in names:
                self.refuses(given, name, "no such file" if given != name else "")
            self.refuses("a", name)
            shutil.copy(self.path(other[names.index(name)]), self.path(name))
            self.refuses(names[0], name if name == names[1] else "a/m-0000", "split.")
            os.replace(kept, self.path(name))
        shutil.copy(self.path(names[1]), self.path(names[0]))
        self.refuses(names[0], names[0], "split.no")

    # ---- Memory ------------------------------------------------------------------------------

    def test_too_little_memory_is_refused_for_what_is_allocated_alone(self):
        if not REFUSING_SYSTEM:
            self.skipTest("no other /proc/meminfo can be shown here")
        message = self.refused("this machine allows", "run", "-m", MODEL, "-p", "a", "--ctx",
                               "1M", env=self.meminfo(64))
        self.assertRegex(message, r"needs \S+ .B, 6\d\d\.?\d* kB of them for the weights")
        self.assertRegex(message, r"--ctx \w+ --chunk \d+ fits\n$")

    def meminfo(self, megabytes):
        """The environment of a machine with so much memory left."""
        path = self.write("meminfo", f"MemTotal: {24 << 20} kB\nMemAvailable: {megabytes << 10} kB\n"
                                     "SwapFree: 0 kB\n")
        return {"LD_PRELOAD": REFUSING_SYSTEM, "KVF_TEST_MEMINFO": path}

    def test_texts_that_do_not_fit(self):
        """One word takes ten times the memory of as many bytes of words."""
        if not REFUSING_SYSTEM:
            self.skipTest("no other /proc/meminfo can be shown here")
        shutil.copy(TOKENIZER, self.copy())
        self.write("word", "a" * (3 << 20))
        self.write("words", "eat the tea " * (1 << 18))
        for arguments in (["tokenize", "-f", "word"], ["run", "--raw", "-f", "word"],
                          ["score", "-f", "word"]):
            self.refused("no memory for the tokens of ", arguments[0], "-m", "copy",
                         *arguments[1:], env=self.meminfo(100))
        for name, megabytes in (("words", 100), ("word", 4000)):
            self.good("tokenize", "-m", "copy", "-f", name, env=self.meminfo(megabytes))
        for arguments in (["tokenize"], ["run", "--raw"]):
            self.refused("no memory for the text of '/dev/zero': after its first", arguments[0],
                         "-m", "copy", *arguments[1:], "-f", "/dev/zero", env=self.meminfo(5))

    def test_weights_that_do_not_fit_are_read_from_the_disk(self):
        if not REFUSING_SYSTEM:
            self.skipTest("no other /proc/meminfo can be shown here")
        reads = json.loads(self.good("inspect", MODEL, "--json").stdout)["token_bytes"]["total"]
        self.write("ids", IDS)
        commands = (["run", "-p", "abc", "-n", "3", "--chunk", "8"],
                    ["score", "--ids", "ids", "--chunk", "8"],
                    ["verify", "--ctx", "16", "--decode", "2", "--chunk", "8"])
        for command, *arguments in commands:
            want = self.good(command, "-m", MODEL, *arguments)
            self.assertNotIn(b"disk", want.stderr)
            got = self.good(command, "-m", MODEL, *arguments, env=self.meminfo(45))
            notes = [line for line in got.stderr.decode().splitlines() if "disk" in line]
            self.assertEqual(len(notes), 1, got.stderr)
            self.assertRegex(notes[0], rf"^kvfold: {command}: note: 29\.4\d MB of weights do not "
                             r"fit the \S+ .B of memory that are left: a token reads "
                             rf"{reads / 1e6:.2f} MB of them, from the disk$")
            if command == "run":
                self.assertEqual(got.stdout, want.stdout)
        roomy = self.good("run", "-m", MODEL, "-p", "abc", "-n", "3", env=self.meminfo(4000))
        self.assertNotIn(b"disk", roomy.stderr)


class LostFileTest(CliTest):
    """A file of weights that somebody shortens while it is used."""

    def cuts(self, path):
        """Ways to shorten it: to nothing, in the middle, by less than a page."""
        size = os.path.getsize(path)
        return (0, size // 2, size - 1)

    def sessions(self):
        with open(self.path("store/s.kvfold"), "rb") as file:
            return file.read()

    def check_between_turns(self, path, file, size):
        shutil.rmtree(self.path("store"), ignore_errors=True)
        process = subprocess.Popen(
            [KVFOLD, *one_thread(["run", "-m", path, "-i", "-n", "4", "--store", "store",
                                  "--session", "s"])],
            cwd=self.folder, env=environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE)
        self.addCleanup(process.kill)
        process.stdin.write(b"one\n")
        process.stdin.flush()
        summary = process.stderr.readline()  # after it the turn is saved
        self.assertIn(b"4 tokens", summary)
        self.assertTrue(wait_until(lambda: os.path.exists(self.path("store/s.kvfold"))))
        before = self.sessions()
        os.truncate(file, size)
        _, errors = process.communicate(b"two\n", timeout=PATIENCE_SECONDS)
        message = errors.decode()
        self.assertEqual((process.returncode, message.count("\n")), (2, 1), message)
        self.assertIn(os.path.basename(file), message)
        self.assertIn("became shorter", message)
        self.assertEqual(self.sessions(), before)

    def test_between_two_turns(self):
        for i, size in enumerate(self.cuts(os.path.join(MODEL, SHARDS[1]))):
            copy = shutil.copytree(MODEL, self.path(f"copy{i}"))
            self.check_between_turns(copy, os.path.join(copy, SHARDS[1]), size)
        path = checkpoints.write_gguf(self.path("tiny.gguf"), MODEL)
        self.check_between_turns(path, path, 1 << 20)

    def check_in_a_prompt(self, path, file, size, *arguments):
        self.write("long", "The sea was calm. " * 40000)
        terminal = Terminal("run", "-m", path, "-f", self.path("long"), "-n", "4", "--chunk", "64",
                            *arguments)
        self.addCleanup(terminal.close)
        terminal.wait_for(rb"prefill \[[#.]+\] +\d+%")
        os.truncate(file, size)
        said = terminal.wait_for(rb"kvfold: run: ([^\r\n]*)\r\n").group(1).decode()
        self.assertEqual(terminal.exit_status(), 2)
        self.assertNotIn(b"kvfold:", terminal.seen)
        self.assertIn(os.path.basename(file), said)
        self.assertIn("became shorter", said)
        return said

    def test_in_a_long_prompt(self):
        for i, size in enumerate(self.cuts(os.path.join(MODEL, SHARDS[0]))):
            copy = shutil.copytree(MODEL, self.path(f"copy{i}"))
            said = self.check_in_a_prompt(copy, os.path.join(copy, SHARDS[0]), size)
            self.assertNotIn("saved", said)
        path = checkpoints.write_gguf(self.path("tiny.gguf"), MODEL)
        said = self.check_in_a_prompt(path, path, 4096, "--session", "s", "--store",
                                      self.path("store"))
        self.assertIn("what came after the last save is not saved", said)
        self.assertFalse(os.path.exists(self.path("store/s.kvfold")))

    def test_in_a_score_and_an_inspection(self):
        """Other commands and sums read the same mapping."""
        copy = shutil.copytree(MODEL, self.path("copy"))
        self.write("long", "The sea was calm. " * 40000)
        terminal = Terminal("score", "-m", copy, "-f", self.path("long"), "--window", "128")
        self.addCleanup(terminal.close)
        terminal.wait_for(rb"score \[[#.]+\]")
        os.truncate(os.path.join(copy, SHARDS[2]), 8192)
        terminal.wait_for(rb"kvfold: score: [^\r\n]*00003-of-00003[^\r\n]*became shorter")
        self.assertEqual(terminal.exit_status(), 2)


class IdsTest(CliTest):
    """Where text needs a tokenizer that cannot be read, ids do not."""

    def setUp(self):
        super().setUp()
        metadata, tensors = checkpoints.gguf_parts(MODEL)
        self.byte_level = self.path("bytes.gguf")
        gguf.write(self.byte_level, metadata, tensors)
        self.words = self.path("words.gguf")
        gguf.write(self.words, {**metadata, "tokenizer.ggml.model": gguf.text("gpt2")}, tensors)
        shutil.copytree(MODEL, self.path("words"))
        self.write("words/tokenizer.json", "{}")
        self.write("ids", IDS)

    def test_text_is_refused_and_ids_are_named(self):
        for path, reason in ((self.words, "tokenizer.ggml.pre"), ("words", "pre_tokenizer")):
            for arguments in (["run", "-p", "a"], ["run", "-i"], ["run", "-f", "ids"],
                              ["score", "-f", "ids"]):
                message = self.refused(reason, arguments[0], "-m", path, *arguments[1:])
                self.assertIn("--ids FILE", message)
            self.refused(reason, "verify", "-m", path)

    def test_ids_go_in_and_come_out(self):
        want = self.json_lines("run", "-m", MODEL, "--ids", "ids", "-n", "6")[0]
        self.assertEqual((want["prompt_tokens"], want["text"]), (40, None))
        for path in (self.byte_level, self.words, "words"):
            got = self.json_lines("run", "-m", path, "--ids", "ids", "-n", "6")[0]
            self.assertEqual(got["tokens"], want["tokens"])
            shown = self.good("run", "-m", path, "--ids", "ids", "-n", "6").stdout
            self.assertEqual(shown, "".join(f"{t}\n" for t in want["tokens"]).encode())
            piped = self.good("run", "-m", path, "--ids", "-", "-n", "6", stdin=IDS.encode())
            self.assertEqual(piped.stdout, shown)
            self.assertEqual(self.json_lines("score", "-m", path, "--ids", "ids")[0]["nats"],
                             self.json_lines("score", "-m", MODEL, "--ids", "ids")[0]["nats"])
        text = self.json_lines("run", "-m", self.byte_level, "-p", "The sea", "-n", "6")[0]
        self.assertIsNotNone(text["text"])

    def test_ids_are_the_text_that_they_stand_for(self):
        with open(os.path.join(MODEL, "config.json"), encoding="utf-8") as file:
            bos = json.load(file)["bos_token_id"]
        self.write("sea", "".join(f"{i}\n" for i in (bos, *b"The sea")))
        text = self.json_lines("run", "-m", MODEL, "-p", "The sea", "-n", "9")[0]
        ids = self.json_lines("run", "-m", MODEL, "--ids", "sea", "-n", "9")[0]
        self.assertEqual(ids["tokens"], text["tokens"])

    def test_a_session_goes_on_by_ids(self):
        session = ["run", "-m", self.words, "--store", "store", "--session", "s", "-n", "3"]
        first = self.good(*session, "--ids", "ids").stdout
        self.write("next", "5\n6\n")
        second = self.good(*session, "--ids", "next").stdout
        third = self.good(*session).stdout  # the answer goes on
        self.write("all", IDS + first.decode() + "5\n6\n" + second.decode())
        whole = self.good("run", "-m", self.words, "--ids", "all", "-n", "3").stdout
        self.assertEqual(third, whole)

    def test_what_is_no_id_is_refused(self):
        for content, expected in ((f"1\n{VOCABULARY}\n", "line 2"), ("1\n\n2\n", "line 2"),
                                  ("a", "line 1"), ("", "empty"), ("1\n" * 300, "--ctx")):
            self.write("bad", content)
            self.refused(expected, "run", "-m", self.words, "--ids", "bad", "--ctx", "256")
        self.refused("--ids", "run", "-m", self.words, "--ids", "ids", "-p", "a")
        self.refused("--ids", "run", "-m", self.words, "--ids", "ids", "-i")


if __name__ == "__main__":
    main()
