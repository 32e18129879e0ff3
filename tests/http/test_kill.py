"""kill -9 at random moments while clients ask: what was counted as stored is there afterwards, and right.

Text is asked for that is sent back as the same ids (support.bias_to_text), so that an answer is known in advance.
"""

import os
import random
import tempfile
import threading
import time

import support
from support import OPTIONS, serve

ROUNDS = OPTIONS.rounds or 100
CONVERSATIONS, TURNS, ANSWER = 4, 3, 24
ROUNDS_A_FOLDER = 4  # in the first sessions are new, later they are taken up again
MOST_SECONDS = 1.2  # from a start to its kill


def question(number, turn):
    begin = "A text of which several requests have the beginning, long enough to be kept. " * 3
    return (begin if turn == 0 else "") + "Now of number %d, turn %d: %s" % (number, turn, chr(97 + number + turn) * 90)


def ask(server, prompt, number, turn):
    """The text, and how many tokens were not read again."""
    body = server.post("/v1/completions", {"prompt": prompt, "max_tokens": ANSWER, "temperature": 0.9,
                                           "seed": 100 * number + turn, "logit_bias": support.bias_to_text()}).json()
    return body["choices"][0]["text"], body["usage"]["prompt_tokens_details"]["cached_tokens"]


def expect():
    """(number, turn) to (prompt, answer), each answered without anything that was kept of earlier turns."""
    expected = {}
    with tempfile.TemporaryDirectory() as folder:
        server = serve(folder).ready()
        for number in range(CONVERSATIONS):
            prompt = ""
            for turn in range(TURNS):
                prompt += question(number, turn)
                text, _ = ask(server, prompt, number, turn)
                expected[number, turn] = prompt, text
                prompt += text
        if server.terminate() != 0:
            raise RuntimeError(server.log())
    with tempfile.TemporaryDirectory() as folder:
        server = serve(folder).ready()
        for number in range(CONVERSATIONS):  # the longest first
            prompt, text = expected[number, TURNS - 1]
            fresh, cached = ask(server, prompt, number, TURNS - 1)
            if fresh != text or cached > len(question(0, 0)):
                raise RuntimeError("a fresh run of %d says %r, not %r" % (number, fresh, text))
        server.terminate()
    return expected


class Load:
    """Clients that ask until the server is gone, and one that reads what it counts."""

    def __init__(self, server, expected, generator):
        self.server = server
        self.expected = expected
        self.stored_tokens = 0
        self.wrong = []
        self.ends = False
        seeds = [generator.random() for _ in range(CONVERSATIONS)]
        self.threads = [threading.Thread(target=self.run, args=(self.talk, number, random.Random(seed)))
                        for number, seed in enumerate(seeds)]
        self.threads.append(threading.Thread(target=self.run, args=(self.count,)))
        for thread in self.threads:
            thread.start()

    def run(self, what, *arguments):
        while not self.ends:
            try:
                what(*arguments)
            except (OSError, EOFError, ValueError):  # it was killed
                time.sleep(0.01)

    def talk(self, number, generator):
        for turn in range(TURNS):
            prompt, text = self.expected[number, turn]
            if generator.random() < 0.2:  # one that leaves
                connection = self.server.connect()
                connection.request("POST", "/v1/completions", {"prompt": prompt + "x" * 200, "max_tokens": 500})
                time.sleep(generator.random() * 0.1)
                connection.close()
            answer, _ = ask(self.server, prompt, number, turn)
            if answer != text:
                self.wrong.append((number, turn, answer))

    def count(self):
        self.stored_tokens = max(self.stored_tokens, self.server.metric("kvfold_stored_tokens"))
        time.sleep(0.01)

    def end(self):
        self.ends = True
        for thread in self.threads:
            thread.join()


class Kill(support.ServingTest):
    def check_after(self, folder, expected, stored_tokens):
        """The tokens that were not read again."""
        server = self.serve(folder)
        self.assertGreaterEqual(server.metric("kvfold_stored_tokens"), stored_tokens)
        cached = 0
        for number in range(CONVERSATIONS):
            prompt, text = expected[number, TURNS - 1]
            answer, n = ask(server, prompt, number, TURNS - 1)
            self.assertEqual(answer, text)
            cached += n
        self.assertEqual(server.terminate(), 0)
        self.assertEqual([name for name in os.listdir(os.path.join(folder, "served")) if "saving" in name], [])
        for line in server.log().splitlines():  # nothing was passed over, forgotten or not kept
            self.assertRegex(line, r"kvfold: serve: note: (POST|GET) \S+ 200 ")
        return cached

    def test_kills(self):
        expected = expect()
        generator = random.Random(1)
        most = 0
        for first in range(0, ROUNDS, ROUNDS_A_FOLDER):
            folder = self.folder()
            for number in range(first, min(first + ROUNDS_A_FOLDER, ROUNDS)):
                with self.subTest(round=number):
                    server = self.serve(folder)
                    load = Load(server, expected, generator)
                    if number % 2 == 1:  # else it may be before anything was stored
                        self.until(lambda load=load: load.stored_tokens > 0)
                    time.sleep(generator.random() * MOST_SECONDS)
                    server.kill()
                    load.end()
                    self.assertEqual(load.wrong, [])
                    cached = self.check_after(folder, expected, load.stored_tokens)
                    self.assertTrue(cached > 0 or load.stored_tokens == 0)
                    most = max(most, load.stored_tokens)
        self.assertGreater(most, 0)  # else nothing was shown


if __name__ == "__main__":
    support.main()
