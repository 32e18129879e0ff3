#!/usr/bin/env python3
"""The fingerprint that sessions carry is the one that docs/FORMAT.md 10.6 describes, computed
by another implementation from the same files, and one of version 1 is still known."""
import argparse
import json
import os
import random
import shutil
import struct
import subprocess
import sys
import tempfile
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "oracle"))
import fingerprint  # noqa: E402

parser = argparse.ArgumentParser()
parser.add_argument("--kvfold", required=True)
parser.add_argument("--model", required=True)
parser.add_argument("--data", required=True)
options, rest = parser.parse_known_args()


class Fingerprint(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        # Nearly all of the time: once for all models with these weights.
        cls.numbers = fingerprint.tensor_numbers(options.model)
        cls.full_numbers = fingerprint.tensor_numbers(options.model, fingerprint.FULL)
        with open(os.path.join(options.model, "config.json"), encoding="utf-8") as file:
            cls.config = json.load(file)

    def kvfold(self, *arguments):
        done = subprocess.run([os.path.abspath(options.kvfold), *arguments], capture_output=True, text=True,
                              check=False)
        self.assertEqual(done.returncode, 0, done.stderr)
        return done.stdout

    def check(self, config):
        """A model of these weights with another configuration, and a session of it."""
        with tempfile.TemporaryDirectory() as folder:
            model = os.path.join(folder, "model")
            store = os.path.join(folder, "store")
            os.mkdir(model)
            for name in os.listdir(options.model):
                if name != "config.json":
                    os.symlink(os.path.abspath(os.path.join(options.model, name)), os.path.join(model, name))
            with open(os.path.join(model, "config.json"), "w", encoding="utf-8") as file:
                json.dump(config, file)
            self.kvfold("run", "-m", model, "-p", "a", "-n", "1", "--threads", "1", "--store", store, "--session", "s")
            shown = json.loads(self.kvfold("session", "show", "s", "--store", store, "--json"))
        self.assertEqual(shown["model"], "%016x" % fingerprint.fingerprint(config, self.numbers))
        return shown["model"]

    def test_of_the_model_and_of_others_with_its_weights(self):
        ropes = self.config["rope_parameters"]
        models = [self.config,
                  {**self.config, "rms_norm_eps": 1e-5},
                  {**self.config, "rope_parameters": {**ropes, "compress": {**ropes["compress"], "beta_fast": 31.0}}}]
        self.assertEqual(len({self.check(model) for model in models}), len(models))

    def test_what_decides_no_result_does_not_count(self):
        self.check({**self.config, "max_position_embeddings": 65536})

    def inspected(self, path):
        return json.loads(self.kvfold("inspect", path, "--json", "--check"))

    def test_the_full_sum_is_version_1(self):
        shown = self.inspected(options.model)
        self.assertEqual(shown["full_sum"],
                         "%016x" % fingerprint.fingerprint(self.config, self.full_numbers, fingerprint.FULL))
        self.assertEqual(shown["fingerprint"], "%016x" % fingerprint.fingerprint(self.config, self.numbers))

    def test_samples_of_long_tensors(self):
        """Lengths on both sides of where another sample is taken, and changes inside and outside of samples."""
        mib, random_bytes = 1 << 20, random.Random(7).randbytes
        data = {b"mtp.%d" % n: random_bytes(n) for n in (mib, mib + 1, 4 * mib - 1, 4 * mib, 9 * mib + 5)}
        where, length = b"mtp.%d" % (9 * mib + 5), 9 * mib + 5
        middle = (length - 4096) // 3  # the second of four samples
        changes = {"none": (), "first": ((0, True),), "last": ((length - 1, True),),
                   "middle": ((middle, True),), "between": ((middle - 1, False),), "after": ((middle + 4096, False),)}
        numbers = {}
        for change, edits in changes.items():
            changed = bytearray(data[where])
            for at, _ in edits:
                changed[at] ^= 1
            tensors = {**data, where: bytes(changed)}
            with tempfile.TemporaryDirectory() as model:
                self.write_model(model, tensors)
                shown = self.inspected(model)["fingerprint"]
            found = [(name, "U8", [len(content)], content) for name, content in tensors.items()]
            numbers[change] = shown
            with self.subTest(change):
                own = sorted([*fingerprint.tensors(options.model), *found])
                self.assertEqual(shown, "%016x" % fingerprint.fingerprint(
                    self.config, fingerprint.numbers_of(own) if change == "none" else
                    self.with_others(fingerprint, own, found)))
                self.assertEqual(shown == numbers["none"], all(not seen for _, seen in edits))

    def test_very_many_small_tensors_are_sampled_too(self):
        """All of up to 256 KiB have over 2^28 bytes, those of up to 128 KiB (one too, by a byte) are read whole."""
        sizes = [256 << 10] * 1025 + [(128 << 10) + 1, 128 << 10]
        data = {b"mtp.%d" % i: bytes([i % 251]) * size for i, size in enumerate(sizes)}
        found = [(name, "U8", [len(content)], content) for name, content in data.items()]
        with tempfile.TemporaryDirectory() as model:
            self.write_model(model, data)
            shown = self.inspected(model)["fingerprint"]
            expected = fingerprint.numbers_of([*fingerprint.tensors(options.model), *found])
            self.assertEqual(shown, "%016x" % fingerprint.fingerprint(self.config, expected))
            with open(os.path.join(model, "more.safetensors"), "r+b") as file:  # the two smaller ones
                end = file.seek(0, os.SEEK_END)
                for back, seen in (((128 << 10) + (64 << 10), False), (64 << 10, True)):
                    file.seek(end - back)
                    file.write(b"\xff")
                    file.flush()
                    self.assertEqual(self.inspected(model)["fingerprint"] != shown, seen, back)

    def with_others(self, oracle, own, found):
        """Numbers of the model's tensors, which were summed, with those of others in their places."""
        names = {name for name, *_ in found}
        if not hasattr(self, "summed"):
            type(self).summed = {entry[0]: oracle.numbers_of([entry]) for entry in own if entry[0] not in names}
        return b"".join(self.summed.get(entry[0]) or oracle.numbers_of([entry]) for entry in own)

    def write_model(self, folder, tensors):
        """The model and more tensors, in one file more."""
        for name in os.listdir(options.model):
            shutil.copy(os.path.join(options.model, name), folder)
        header, at = {}, 0
        for name, data in tensors.items():
            header[name.decode()] = {"dtype": "U8", "shape": [len(data)], "data_offsets": [at, at + len(data)]}
            at += len(data)
        text = json.dumps(header).encode()
        with open(os.path.join(folder, "more.safetensors"), "wb") as file:
            file.write(struct.pack("<Q", len(text)) + text + b"".join(tensors.values()))
        with open(os.path.join(folder, "model.safetensors.index.json"), "r+", encoding="utf-8") as file:
            index = json.load(file)
            index["weight_map"].update({name.decode(): "more.safetensors" for name in tensors})
            file.seek(0)
            json.dump(index, file)
            file.truncate()

    # ---- Sessions of version 1 -------------------------------------------------------------

    def patch(self, path, number, version):
        """Gives a saved session another fingerprint: both headers, and their checksums."""
        with open(path, "r+b") as file:
            for page in (0, 4096):
                file.seek(page)
                header = bytearray(file.read(4096))
                struct.pack_into("<Q", header, 40, number)
                struct.pack_into("<I", header, 128 + 36, version)
                struct.pack_into("<Q", header, 4088, fingerprint.checksum(bytes(header[:4088])))
                file.seek(page)
                file.write(header)

    def run_session(self, store, status=0):
        done = subprocess.run([os.path.abspath(options.kvfold), "run", "-m", options.model, "-p", "a", "-n", "2",
                               "--threads", "1", "--store", store, "--session", "s"], capture_output=True, text=True,
                              check=False)
        self.assertEqual(done.returncode, status, done.stderr)
        return done

    def test_a_session_of_version_1_goes_on_and_is_version_2_then(self):
        full = fingerprint.fingerprint(self.config, self.full_numbers, fingerprint.FULL)
        sampled = fingerprint.fingerprint(self.config, self.numbers)
        with tempfile.TemporaryDirectory() as store:
            path = os.path.join(store, "s.kvfold")
            self.run_session(store)
            shutil.copy(path, path + ".kept")
            want = self.run_session(store)
            self.assertNotIn("earlier version", want.stderr)
            shutil.copy(path + ".kept", path)
            self.patch(path, full, 0)
            got = self.run_session(store)
            self.assertIn("s was saved by an earlier version", got.stderr)
            self.assertEqual(got.stdout, want.stdout)
            self.assertIn("%016x" % sampled, self.kvfold("session", "show", "s", "--store", store))
            self.assertNotIn("earlier version", self.run_session(store).stderr)
            for number, version in ((full ^ 1, 0), (sampled, 0), (full, 2), (sampled ^ 1, 2), (full, 1 << 20)):
                shutil.copy(path + ".kept", path)
                self.patch(path, number, version)
                done = self.run_session(store, status=2)
                self.assertIn("was saved with model %016x" % number, done.stderr)


if __name__ == "__main__":
    unittest.main(argv=[sys.argv[0], *rest])
