#!/usr/bin/env python3
"""The fingerprint that sessions carry is the one that docs/FORMAT.md 10.6 describes, computed
by another implementation from the same files."""
import argparse
import json
import os
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


if __name__ == "__main__":
    unittest.main(argv=[sys.argv[0], *rest])
