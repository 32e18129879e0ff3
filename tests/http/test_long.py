"""A long conversation: what is read again when it goes on, and when its last turn is another one; also after a restart."""

import tempfile
import unittest

import support
from support import OPTIONS, serve

TOKENS = OPTIONS.tokens or 32768  # bytes are tokens here
SPACING_TOKENS, CHECKPOINT_TOKENS = 8192, 128  # docs/SCHEDULER.md


class Long(unittest.TestCase):
    def ask(self, server, messages):
        """The message that was said, and the tokens that were read."""
        body = server.post("/v1/chat/completions", {"messages": messages, "max_tokens": 24, "think": False,
                                                    "logit_bias": support.bias_to_text()}).json()
        usage = body["usage"]
        self.assertGreaterEqual(usage["prompt_tokens"], TOKENS)
        return body["choices"][0]["message"], usage["prompt_tokens"] - usage["prompt_tokens_details"]["cached_tokens"]

    def go_on(self, server, messages, said, name):
        question = {"role": "user", "content": "And then, as %s asks?" % name}
        _, n_read = self.ask(server, [*messages, said, question])
        self.assertLess(n_read, 200)

    def edit(self, server, messages, name):
        """Another last question; the beginning of the last turn is the same, as it is where one corrects oneself."""
        question = messages[-1]["content"][:40] + name + messages[-1]["content"][40 + len(name):]
        _, n_read = self.ask(server, [*messages[:-1], {"role": "user", "content": question}])
        self.assertLess(n_read, len(question) + CHECKPOINT_TOKENS)
        self.assertLessEqual(n_read, SPACING_TOKENS)

    def edit_before(self, server, messages, name):
        """A place far before the end: from the checkpoint before it on."""
        text = messages[0]["content"]
        place = len(text) * 3 // 4
        system = {"role": "system", "content": text[:place] + name + text[place + len(name):]}
        _, n_read = self.ask(server, [system, *messages[1:]])
        self.assertLess(n_read, SPACING_TOKENS + TOKENS - place + 400)

    def test_conversation(self):
        with open(OPTIONS.model + "/../prompt.txt", encoding="ascii", errors="replace") as file:
            text = file.read().replace("\ufffd", "?")
        system = (text * (TOKENS // len(text) + 1))[:TOKENS]
        messages = [{"role": "system", "content": system}, {"role": "user", "content": "What is this about? " * 6}]
        with tempfile.TemporaryDirectory() as folder:
            server = serve(folder).ready()
            said, n_read = self.ask(server, messages)
            self.assertGreaterEqual(n_read, TOKENS)
            self.go_on(server, messages, said, "one")
            self.edit(server, messages, "-one-")
            self.assertEqual(server.terminate(), 0)
            for name in ("two", "three"):  # each after a restart
                server = serve(folder).ready()
                self.go_on(server, messages, said, name)
                self.edit(server, messages, "-%s-" % name)
                self.assertEqual(server.terminate(), 0)
            server = serve(folder).ready()
            self.edit_before(server, messages, "-four-")
            self.assertEqual(server.terminate(), 0)


if __name__ == "__main__":
    support.main()
