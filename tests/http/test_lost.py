"""The server on a device that has memory and a queue of its own (tests/far), and that is lost while requests run."""

import json
import os

import support
from support import chat, message

CHAT, MESSAGES = "/v1/chat/completions", "/v1/messages"
FAR = ("--backend", "far", "--isa", "cpu", "--no-think")
LONG = {"logit_bias": {"257": -100}, "max_tokens": 3000}  # none ends by itself
CONVERSATION = [{"role": "user", "content": "Tell me of clocks, and of all that people have made of them. " * 4}]


class Lost(support.ServingTest):
    def ask(self, server, messages):
        body = server.post(CHAT, {"messages": messages, "max_tokens": 12, "logit_bias": support.bias_to_text()}).json()
        return body["choices"][0]["message"], body["usage"]["prompt_tokens_details"]["cached_tokens"]

    def begin(self, server):
        """Streams and whole answers of both APIs that run, and two that wait: [(connection, path, streams)]."""
        asked = []
        for path, body in ((CHAT, chat("chat", **LONG)), (MESSAGES, message("message", max_tokens=3000))):
            for streams in (True, False):
                connection = server.connect()
                connection.request("POST", path, {**body, "stream": streams})
                asked.append((connection, path, streams))
        self.until(lambda: server.metric("kvfold_running") == 2)
        self.until(lambda: server.metric("kvfold_queued") == 2)
        return asked

    def check_end(self, connection, path, streams):
        answer = connection.answer()
        connection.close()
        if streams and answer.status == 200:
            events = [event for event in answer.events() if event != (None, "[DONE]")]
            body = json.loads(events[-1][1])
            self.assertEqual(events[-1][0], "error" if path == MESSAGES else None)
        else:
            self.assertEqual(answer.status, 500, answer.body)
            body = answer.json()
        self.assertEqual(body["error"]["type"], "api_error" if path == MESSAGES else "server_error")
        self.assertIn("lost", body["error"]["message"])

    def test_lost(self):
        folder = self.folder()
        switch = os.path.join(folder, "lost")
        store = os.path.join(folder, "store")
        server = self.serve(store, *FAR, "--parallel", 2, environment={"KVF_FAR_LOST_WHEN": switch})
        self.assertEqual(server.get("/health").json()["status"], "ok")
        said, _ = self.ask(server, CONVERSATION)
        self.until(lambda: server.metric("kvfold_stored_tokens") > 200)
        asked = self.begin(server)
        with open(switch, "w", encoding="ascii"):
            pass
        for one in asked:
            self.check_end(*one)
        health = server.get("/health")
        self.assertEqual((health.status, health.json()["status"]), (503, "failed"))
        self.assertIn("lost", health.json()["error"])
        answer = server.post(CHAT, chat("again"))
        self.assertEqual(answer.status, 503)
        self.assertIn("retry-after", answer.headers)
        self.assertEqual(server.metric("kvfold_running"), 0)
        self.assertEqual(server.terminate(), 0)
        self.assertEqual(sum("lost" in line for line in server.log().splitlines()), 1, server.log())
        # What is on the disk is taken up, and goes on as it would have.
        goes_on = [*CONVERSATION, said, {"role": "user", "content": "And lamps?"}]
        server = self.serve(store, *FAR)
        again, cached = self.ask(server, goes_on)
        self.assertGreater(cached, 200)
        self.assertEqual(server.terminate(), 0)
        server = self.serve(os.path.join(folder, "fresh"), *FAR)
        self.assertEqual(self.ask(server, goes_on), (again, 0))
        self.assertEqual(server.terminate(), 0)


if __name__ == "__main__":
    support.main()
