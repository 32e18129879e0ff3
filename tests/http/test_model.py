"""kvfold serve with models/tiny: what only the model can show, and the command itself."""

import json
import os
import signal
import stat
import subprocess
import tempfile
import time
import unittest

import support
from support import OPTIONS, chat, message, serve

CHAT = "/v1/chat/completions"
EOS, END_THINK = 257, 261  # docs/CHAT.md


class Model(support.ServerTest):
    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.TemporaryDirectory()
        cls.server = serve(cls.folder.name, "--no-think").ready()

    @classmethod
    def tearDownClass(cls):
        status = cls.server.terminate()
        cls.folder.cleanup()
        if status != 0:
            raise AssertionError("the server ended with %d:\n%s" % (status, cls.server.log()[-3000:]))

    def content(self, **fields):
        answer = self.chat("What is a clock?", max_tokens=16, **fields)
        self.assertEqual(answer.status, 200, answer.body)
        return [choice["message"]["content"] for choice in answer.json()["choices"]]

    def test_streams_say_the_same(self):
        whole, = self.content()
        pieces = self.chat("What is a clock?", max_tokens=16, stream=True).pieces()
        self.assertEqual("".join(piece["choices"][0]["delta"].get("content", "") for piece in pieces), whole)
        body = self.message("What is a clock?", max_tokens=16).json()
        self.assertEqual(body["content"], [{"type": "text", "text": whole}])

    def test_seeds(self):
        one, = self.content(temperature=1, seed=5)
        two, = self.content(temperature=1, seed=6)
        self.assertEqual(self.content(temperature=1, seed=5), [one])
        self.assertEqual(self.content(temperature=1, seed=5, n=2), [one, two])
        self.assertNotEqual(one, two)
        self.assertEqual(self.content(temperature=1, seed=9, top_k=1), self.content())
        self.assertEqual(self.content(temperature=1, seed=9, top_p=0), self.content())

    def test_bias(self):
        self.assertEqual(self.content(logit_bias={str(ord("z")): 100}), ["z" * 16])
        first = self.content()[0][0]
        self.assertNotEqual(self.content(logit_bias={str(ord(first)): -100})[0][0], first)

    def test_penalties(self):
        plain, = self.content(logit_bias={str(ord("z")): 100})
        other, = self.content(logit_bias={str(ord("z")): 100}, frequency_penalty=2)
        self.assertEqual(plain, "z" * 16)
        self.assertEqual(other, "z" * 16)  # 2 a token is little against 100
        self.assertNotEqual(self.content(presence_penalty=2), self.content())

    def test_logprobs(self):
        answer = self.chat("What is a clock?", max_tokens=16, logprobs=True, top_logprobs=3).json()["choices"][0]
        text = bytes(byte for token in answer["logprobs"]["content"] for byte in token["bytes"])
        self.assertEqual(text.decode(errors="replace"), answer["message"]["content"])
        for token in answer["logprobs"]["content"]:
            values = [top["logprob"] for top in token["top_logprobs"]]
            self.assertEqual(len(values), 3)
            self.assertEqual(sorted(values, reverse=True), values)
            self.assertAlmostEqual(token["logprob"], values[0], delta=1e-6)  # greedy
            self.assertLessEqual(values[0], 0)

    def test_thinking(self):
        # The model knows no end of thinking: it is pushed to it.
        answer = self.chat("What is a clock?", max_tokens=40, think=True, logit_bias={str(END_THINK): 9}, temperature=1,
                           seed=3).json()
        message_, = [choice["message"] for choice in answer["choices"]]
        self.assertIn("reasoning_content", message_)
        self.assertGreaterEqual(answer["usage"]["completion_tokens_details"]["reasoning_tokens"],
                                len(message_["reasoning_content"].encode()) // 3)

    def test_a_conversation_is_not_read_again(self):
        for think in (False, True):
            messages = [{"role": "system", "content": "Of clocks and lamps. %s " % think * 20}]
            before = 0
            for turn in range(3):
                messages.append({"role": "user", "content": "Turn %d, what is it?" % turn})
                body = self.server.post(CHAT, {"messages": messages, "max_tokens": 30, "temperature": 0.9, "seed": turn,
                                               "think": think, "logit_bias": {str(END_THINK): 7} if think else {}}).json()
                said = body["choices"][0]["message"]
                usage = body["usage"]
                cached = usage["prompt_tokens_details"]["cached_tokens"]
                if turn > 0 and not think:
                    # All but the last token, which was drawn and never read.
                    self.assertEqual(cached, before + 29)
                elif turn > 0:
                    self.assertGreaterEqual(cached, before // 128 * 128 - 128)
                before = usage["prompt_tokens"]
                self.check_ids(messages, said, think)
                messages.append({"role": "assistant", **{key: said.get(key) for key in ("content", "reasoning_content")}})

    def check_ids(self, messages, said, think):
        """What the model drew is in the next prompt as it was, also where it was no text."""
        again = messages + [{"role": "assistant", "content": said["content"]}, {"role": "user", "content": "x"}]
        ids = self.server.post("/tokenize", {"messages": again, "think": think}).json()["tokens"]
        text = self.server.post("/detokenize", {"tokens": ids[:-4]}).json()["content"]
        self.assertEqual(text.rsplit("</think>", 1)[1].split("<\uff5cend")[0], said["content"])
        if not think:
            self.assertNotIn([0xef, 0xbf, 0xbd], [ids[i:i + 3] for i in range(len(ids))])

    def test_many_at_once(self):
        alone = [self.chat("Number %d" % i, max_tokens=12, temperature=1, seed=i).json()["choices"][0]["message"]["content"]
                 for i in range(6)]
        connections = []
        for i in range(6):
            connection = self.server.connect()
            connection.request("POST", CHAT, chat("Number %d" % i, max_tokens=12, temperature=1, seed=i, stream=i % 2 == 1))
            connections.append(connection)
        for i, connection in enumerate(connections):
            answer = connection.answer()
            if i % 2:
                text = "".join(piece["choices"][0]["delta"].get("content", "") for piece in answer.pieces())
            else:
                text = answer.json()["choices"][0]["message"]["content"]
            self.assertEqual(text, alone[i])
            connection.close()

    def test_too_long(self):
        answer = self.chat("a" * 200000)
        self.assertEqual(self.refused(answer, 400, "messages") != "", True)
        self.assertEqual(answer.json()["error"]["code"], "context_length_exceeded")
        self.refused(self.chat("a", max_tokens=10**9), 400, "messages")

    def test_aborts(self):
        before = self.server.metric("kvfold_cancelled_total")
        begun = self.server.metric("kvfold_jobs_total")
        connections = []
        for i in range(4):
            connection = self.server.connect()
            connection.request("POST", CHAT, chat("a" * 3000 + str(i), max_tokens=30000, stream=i % 2 == 0,
                                                  logit_bias={str(EOS): -100}))  # they do not end by themselves
            connections.append(connection)
        self.until(lambda: self.server.metric("kvfold_jobs_total") == begun + 4)
        for connection in connections:
            connection.close()
        self.until(lambda: self.server.metric("kvfold_cancelled_total") == before + 4)
        self.until(lambda: self.server.metric("kvfold_running") == 0)
        self.assertEqual(self.server.get("/slots").json()["slots"], [])


class Command(unittest.TestCase):
    def refused(self, expected, *arguments):
        result = subprocess.run([OPTIONS.kvfold, "serve", *arguments], capture_output=True, check=False, timeout=60)
        lines = result.stderr.decode().splitlines()
        self.assertEqual(result.returncode, 2, lines)
        self.assertTrue(lines[-1].startswith("kvfold: serve: "), lines)
        self.assertIn(expected, lines[-1])

    def test_options(self):
        with tempfile.TemporaryDirectory() as folder:
            def write(name, text):
                path = os.path.join(folder, name)
                with open(path, "w", encoding="utf-8") as file:
                    file.write(text)
                return path
            model = ("-m", OPTIONS.model, "--port", "0", "--store", folder)
            self.refused("no model")
            self.refused("--api-key", *model, "--host", "0.0.0.0")
            self.refused("--api-key", *model, "--host", "192.0.2.1")
            self.refused("choose one", *model, "--unix-socket", folder + "/s")
            self.refused("letters", *model, "--api-key", "a b")
            self.refused("has no keys", *model, "--api-key-file", write("none", "# nothing\n\n"))
            self.refused("letters", *model, "--api-key-file", write("odd", "good\nb\u00e4d\n"))
            self.refused("no-such", *model, "--api-key-file", folder + "/no-such")
            self.refused("--port", "-m", OPTIONS.model, "--port", "65536")
            self.refused("--ctx", *model, "--ctx", "2M")
            self.refused("--queue", *model, "--queue", "0")
            self.refused("choose one", *model, "--think", "--no-think")
            self.refused("--trace", *model, "--trace", folder + "/no/such")
            keys = write("keys", "key\n")
            self.refused("would replace", *model, "--trace", keys, "--api-key-file", keys)
            self.refused("would replace", *model, "--trace", os.path.join(OPTIONS.model, "config.json"))
            self.refused("cannot listen", "-m", OPTIONS.model, "--unix-socket", folder + "/no/such")
            self.refused("bytes", "-m", OPTIONS.model, "--unix-socket", folder + "/" + "s" * 200)
            self.refused("no-model", "-m", folder + "/no-model", "--port", "0")

    def test_keys_of_a_file(self):
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "keys")
            with open(path, "w", encoding="ascii") as file:
                file.write("# keys\nfirst\r\n\nsecond")
            server = serve(folder, "--api-key-file", path, "--api-key", "third").ready()
            for key, status in (("first", 200), ("second", 200), ("third", 200), ("# keys", 401), ("", 401)):
                self.assertEqual(server.get("/v1/models", [("x-api-key", key)]).status, status, key)
            self.assertEqual(server.terminate(), 0)

    def test_ends_in_order(self):
        for number in (signal.SIGINT, signal.SIGTERM):
            with tempfile.TemporaryDirectory() as folder:
                trace = os.path.join(folder, "trace")
                store = os.path.join(folder, "store")
                server = serve(store, "--trace", trace).ready()
                connection = server.connect()
                connection.request("POST", CHAT, chat("secret-question", max_tokens=30000, stream=True))
                self.assertEqual(connection.head()[0], 200)
                connection.chunk()
                server.process.send_signal(number)
                begun = time.monotonic()
                pieces = b""
                while True:
                    piece = connection.chunk()
                    if not piece:
                        break
                    pieces += piece
                self.assertIn(b"service_unavailable", pieces)
                self.assertEqual(server.end(), 0)
                self.assertLess(time.monotonic() - begun, support.PATIENCE_SECONDS)
                self.assertNotIn("secret-question", server.log())
                with open(trace, encoding="utf-8") as file:
                    self.assertIn("secret-question", file.read())
                self.assertEqual(stat.S_IMODE(os.stat(trace).st_mode), 0o600)
                for path, folders, files in os.walk(store):
                    self.assertEqual(stat.S_IMODE(os.stat(path).st_mode), 0o700, path)
                    for name in files:
                        self.assertEqual(stat.S_IMODE(os.stat(os.path.join(path, name)).st_mode), 0o600, name)
                    del folders

    def test_defaults(self):
        with tempfile.TemporaryDirectory() as folder:
            server = serve(folder, "--temperature", "1", "--alias", "my-model", "--max-tokens", "5").ready()
            self.assertEqual(server.get("/health").json()["model"], "my-model")
            body = server.post(CHAT, chat("a", think=False)).json()
            self.assertEqual(body["usage"]["completion_tokens"], 5)
            thought = server.post(CHAT, chat("a")).json()["choices"][0]["message"]
            self.assertTrue(thought["reasoning_content"])
            # Longer ones: five tokens are the same now and then.
            several = {json.dumps(server.post(CHAT, chat("a", think=False, max_tokens=40)).json()["choices"])
                       for _ in range(6)}
            self.assertGreater(len(several), 1)
            self.assertEqual(server.post("/v1/messages", message("a")).status, 200)
            self.assertEqual(server.terminate(), 0)


if __name__ == "__main__":
    support.main()
