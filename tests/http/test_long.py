"""A long conversation: what is read again when it goes on, and when its last turn is another one; also after a restart."""

import support
from support import OPTIONS

TOKENS = OPTIONS.tokens or 32768  # bytes are tokens here
SPACING_TOKENS, CHECKPOINT_TOKENS = 8192, 128  # docs/SCHEDULER.md
MOST_ANSWERED = 24
support.PATIENCE_SECONDS = 1500  # one answer is most of the test


class Long(support.ServingTest):
    def ask(self, server, messages):
        """The message that was said, and the tokens that were read."""
        body = server.post("/v1/chat/completions", {"messages": messages, "max_tokens": MOST_ANSWERED, "think": False,
                                                    "logit_bias": support.bias_to_text()}).json()
        usage = body["usage"]
        self.assertGreaterEqual(usage["prompt_tokens"], TOKENS)
        return body["choices"][0]["message"], usage["prompt_tokens"] - usage["prompt_tokens_details"]["cached_tokens"]

    def go_on(self, server, messages, said, name):
        question = {"role": "user", "content": "And then, as %s asks?" % name}
        answer, n_read = self.ask(server, [*messages, said, question])
        self.assertLess(n_read, 200)
        return question, answer

    def edit(self, server, messages, at, name):
        """The turn at that place is another one, from its middle on, and the last."""
        text = messages[at]["content"]
        other = text[:len(text) // 2] + name + text[len(text) // 2 + len(name):]
        _, n_read = self.ask(server, [*messages[:at], {"role": "user", "content": other}])
        self.assertLessEqual(n_read, SPACING_TOKENS)
        return n_read

    def check(self, server, messages, said, name):
        question, answer = self.go_on(server, messages, said, name)
        whole = [*messages, said, question, answer]
        # A later turn is taken up at the end of the prompt before it, the first one at a checkpoint in the system's text.
        n_read = self.edit(server, whole, 3, "-%s-" % name)
        self.assertLess(n_read, CHECKPOINT_TOKENS + 2 * MOST_ANSWERED + len(question["content"]))
        if TOKENS >= SPACING_TOKENS:
            self.edit(server, whole, 1, "-%s-" % name)

    def test_conversation(self):
        with open(OPTIONS.model + "/../prompt.txt", encoding="ascii", errors="replace") as file:
            text = file.read().replace("\ufffd", "?")
        # Its end is far behind the last checkpoint that is taken for its length alone.
        n_system = TOKENS + SPACING_TOKENS - 500 if TOKENS >= SPACING_TOKENS else TOKENS
        system = (text * (n_system // len(text) + 1))[:n_system]
        messages = [{"role": "system", "content": system}, {"role": "user", "content": "What is this about? " * 6}]
        folder = self.folder()
        server = self.serve(folder)
        said, n_read = self.ask(server, messages)
        self.assertGreaterEqual(n_read, TOKENS)
        self.check(server, messages, said, "one")
        self.assertEqual(server.terminate(), 0)
        for name in ("two", "three"):  # each after a restart
            server = self.serve(folder)
            self.check(server, messages, said, name)
            self.assertEqual(server.terminate(), 0)


if __name__ == "__main__":
    support.main()
