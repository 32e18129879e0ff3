"""Anthropic's endpoints, as their clients use them."""

import json
import os
import unittest

import support
from support import ServerTest, message

BILLING = "x-anthropic-billing-header: cc_version=2.1.0; cch=%s;"


class Whole(ServerTest):
    def test_answer(self):
        answer = self.message("[say Hello!][cached 3]", model="claude-any")
        self.assertEqual(answer.status, 200, answer.body)
        body = answer.json()
        self.assertEqual((body["type"], body["role"], body["model"]), ("message", "assistant", "claude-any"))
        self.assertTrue(body["id"].startswith("msg_"))
        self.assertEqual(body["content"], [{"type": "text", "text": "Hello!"}])
        self.assertEqual((body["stop_reason"], body["stop_sequence"]), ("end_turn", None))
        n_prompt = 4 + len("[say Hello!][cached 3]")
        self.assertEqual(body["usage"], {"input_tokens": n_prompt - 3, "cache_creation_input_tokens": 0,
                                         "cache_read_input_tokens": 3, "output_tokens": 6})
        self.assertTrue(answer.headers["request-id"].startswith("req_"))

    def test_beta(self):
        self.assertEqual(self.server.post("/v1/messages?beta=true", message("[say a]")).status, 200)
        self.assertEqual(self.server.post("/v1/messages/count_tokens?beta=true", message("a")).status, 200)

    def test_thinking(self):
        for thinking in ({"type": "enabled", "budget_tokens": 1024}, {"type": "adaptive"}):
            content = self.message("[think hm][say yes]", thinking=thinking).json()["content"]
            self.assertEqual([block["type"] for block in content], ["thinking", "text"])
            self.assertEqual((content[0]["thinking"], content[1]["text"]), ("hm", "yes"))
            self.assertTrue(content[0]["signature"])
        for fields in ({}, {"thinking": {"type": "disabled"}}, {"output_config": {"effort": "high"}}):
            content = self.message("[think hm][say yes]", **fields).json()["content"]
            self.assertEqual(content, [{"type": "text", "text": "yes"}])
        hidden = self.message("[think hm][say yes]", thinking={"type": "enabled", "display": "omitted"}).json()["content"]
        self.assertEqual((hidden[0]["thinking"], hidden[1]["text"]), ("", "yes"))

    def test_signatures_differ_with_the_text(self):
        def signature(text):
            return self.message("[think %s][say a]" % text, thinking={"type": "enabled"}).json()["content"][0]["signature"]
        self.assertEqual(signature("one"), signature("one"))
        self.assertNotEqual(signature("one"), signature("two"))

    def test_stops(self):
        body = self.message("[say hello]", stop_sequences=["zz", "lo", "l"]).json()
        self.assertEqual(body["content"], [{"type": "text", "text": "he"}])
        self.assertEqual((body["stop_reason"], body["stop_sequence"]), ("stop_sequence", "l"))
        self.assertEqual(self.message("[say hello]", max_tokens=2).json()["stop_reason"], "max_tokens")

    def test_errors(self):
        for fields, param in (({"max_tokens": None}, "max_tokens"), ({"max_tokens": 0}, "max_tokens"),
                              ({"temperature": 1.5}, "temperature"), ({"top_k": -1}, "top_k"),
                              ({"thinking": {"type": "perhaps"}}, "thinking.type"), ({"thinking": {}}, "thinking.type"),
                              ({"stop_sequences": "a"}, "stop_sequences"), ({"stop_sequences": [1]}, "stop_sequences"),
                              ({"tools": [{"name": "f", "input_schema": {}}]}, "tools"),
                              ({"tool_choice": {"type": "any"}}, "tool_choice"), ({"mcp_servers": [{}]}, "mcp_servers"),
                              ({"output_config": {"format": {"type": "json_schema"}}},
                               "output_config.format"),
                              ({"output_config": {"effort": "max"}, "thinking": {"type": "enabled"}},
                               "output_config.effort"),
                              ({"system": 5}, "system"), ({"system": [{"type": "image"}]}, "system")):
            with self.subTest(fields=fields):
                answer = self.message("[say a]", **fields)
                self.refused(answer, 400, param)
                body = answer.json()
                self.assertEqual(body["type"], "error")
                self.assertEqual(body["error"]["type"], "invalid_request_error")
                self.assertEqual(body["request_id"], answer.headers["request-id"])

    def test_messages_that_are_wrong(self):
        image = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": ""}}
        for messages, param in (
                (None, "messages"), ([], "messages"), ([{"role": "user"}], "messages[0].content"),
                ([{"role": "system", "content": "a"}], "messages"), ([{"role": "tool", "content": "a"}], "messages"),
                ([{"role": "user", "content": "a"}, {"role": "system", "content": [image]}], "messages[1].content"),
                ([{"role": "user", "content": [image]}],
                                                                     "messages[0].content[0]"),
                ([{"role": "user", "content": "a"}, {"role": "assistant", "content": [image]}], "messages[1].content[0]"),
                ([{"role": "user", "content": []}], "messages[0].content"),
                ([{"role": "user", "content": [{"type": "text"}]}], "messages[0].content[0]"),
                ([{"role": "user", "content": [{"type": "document"}]}], "messages[0].content[0]"),
                ([{"role": "user", "content": [{"type": "tool_result", "content": "a"}]}], "messages[0].content[0]"),
                ([{"role": "user", "content": [{"type": "tool_result", "tool_use_id": "x", "content": [image]}]}],
                 "messages[0].content[0]"),
                ([{"role": "user", "content": [5]}], "messages[0].content[0]"), ([5], "messages[0].content")):
            with self.subTest(messages=messages):
                self.refused(self.server.post("/v1/messages", {"max_tokens": 5, "messages": messages}), 400, param)

    def test_what_the_scheduler_refuses(self):
        for end, status, kind in (("busy", 429, "rate_limit_error"), ("large", 400, "invalid_request_error"),
                                  ("memory", 503, "overloaded_error"), ("timed_out", 429, "rate_limit_error"),
                                  ("failed", 500, "api_error")):
            answer = self.message("[end %s]" % end)
            self.assertEqual((answer.status, answer.json()["error"]["type"]), (status, kind))

    def test_unknown_fields_are_ignored(self):
        answer = self.message("[say a]", metadata={"user_id": "u"}, service_tier="auto", betas=["x"], x={"y": 1},
                              context_management={"edits": []}, tools=[], tool_choice={"type": "auto"})
        self.assertEqual(answer.status, 200)


class Prompt(ServerTest):
    """What of a request is in the prompt, by the number of its tokens."""

    def count(self, messages, **fields):
        if isinstance(messages, str):
            messages = [{"role": "user", "content": messages}]
        answer = self.server.post("/v1/messages/count_tokens", {"messages": messages, **fields})
        self.assertEqual(answer.status, 200, answer.body)
        self.assertEqual(list(answer.json()), ["input_tokens"])
        return answer.json()["input_tokens"]

    def test_text(self):
        self.assertEqual(self.count("abc"), 7)
        self.assertEqual(self.count([{"role": "user", "content": [{"type": "text", "text": "abc"}]}]), 7)

    def test_system(self):
        self.assertEqual(self.count("a", system="xyz"), 8)
        blocks = [{"type": "text", "text": "x", "cache_control": {"type": "ephemeral"}}, {"type": "text", "text": "y"}]
        self.assertEqual(self.count("a", system=blocks), 5 + len("x\n\ny"))
        self.assertEqual(self.count("a", system=[]), 5)

    def test_many_blocks(self):
        n = 30000
        blocks = [{"type": "text", "text": "x"}] * n
        joined = 3 * n - 2
        self.assertEqual(self.count("a", system=blocks), 5 + joined)
        self.assertEqual(self.count([{"role": "user", "content": "a"}, {"role": "assistant", "content": blocks},
                                     {"role": "user", "content": "a"}]), 10 + joined)
        status = "/proc/%d/status" % self.server.process.pid
        if os.path.exists(status):
            with open(status, encoding="ascii") as file:
                most_kb, = [int(line.split()[1]) for line in file if line.startswith("VmHWM")]
            self.assertLess(most_kb, 300000)  # not all of the text before it for each block

    def test_a_system_among_the_messages(self):
        user = {"role": "user", "content": "a"}
        for content in ("xyz", [{"type": "text", "text": "xyz", "cache_control": {"type": "ephemeral"}}]):
            system = {"role": "system", "content": content}
            # In the user's turn, whether that ends or goes on there; as the first, the system's own.
            self.assertEqual(self.count([user, system]), self.count([user, {"role": "user", "content": "xyz"}]))
            self.assertEqual(self.count([user, system, user]), self.count([user, {"role": "user", "content": "xyz"}, user]))
            self.assertEqual(self.count([system, user]), self.count("a", system="xyz"))
        self.assertEqual(self.count([user, {"role": "system", "content": [{"type": "text", "text": BILLING % "0"}]}]), 5)

    def test_billing_headers_are_dropped(self):
        blocks = [{"type": "text", "text": BILLING % "0123"}, {"type": "text", "text": "x"}]
        self.assertEqual(self.count("a", system=blocks), 6)
        self.assertEqual(self.count("a", system=[{"type": "text", "text": "an " + BILLING % "0"}]),
                         5 + len("an " + BILLING % "0"))

    def test_thinking_blocks_come_back(self):
        def messages(*blocks):
            return [{"role": "user", "content": "q"}, {"role": "assistant", "content": list(blocks)},
                    {"role": "user", "content": "r"}]
        thinking = {"type": "thinking", "thinking": "why", "signature": "kvfold00"}
        redacted = {"type": "redacted_thinking", "data": "abc"}
        text = {"type": "text", "text": "ans"}
        plain = self.count(messages(text))
        self.assertEqual(self.count(messages(thinking, text)), plain)
        self.assertEqual(self.count(messages(redacted, text)), plain)
        self.assertEqual(self.count(messages(thinking, text), thinking={"type": "enabled"}), plain)

    def test_results_of_tools(self):
        def messages(**fields):
            return [{"role": "user", "content": "q"},
                    {"role": "assistant", "content": [{"type": "tool_use", "id": "t1", "name": "f", "input": {"a": 1}}]},
                    {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t1", **fields}]}]
        empty = self.count(messages())
        self.assertEqual(self.count(messages(content="abc")), empty + 3)
        self.assertEqual(self.count(messages(content=[{"type": "text", "text": "abc"}])), empty + 3)
        self.assertEqual(self.count(messages(content="abc", is_error=False)), empty + 3)
        self.assertEqual(self.count(messages(content="abc", is_error=True)), empty + 3 + len("Error: "))

    def test_a_call_without_its_result_is_refused(self):
        answer = self.server.post("/v1/messages/count_tokens", {"messages": [
            {"role": "user", "content": "q"},
            {"role": "assistant", "content": [{"type": "tool_use", "id": "t1", "name": "f", "input": {}}]},
            {"role": "user", "content": "r"}]})
        self.refused(answer, 400, "messages")

    def test_an_assistants_last_message_goes_on(self):
        self.assertEqual(self.count([{"role": "user", "content": "q"}, {"role": "assistant", "content": "abc"}]), 8)


class Stream(ServerTest):
    def stream(self, text, **fields):
        answer = self.message(text, stream=True, **fields)
        self.assertEqual(answer.status, 200)
        events = [(name, json.loads(data)) for name, data in answer.events()]
        for name, data in events:
            self.assertEqual(name, data["type"])
        return [data for _, data in events]

    def test_events(self):
        events = self.stream("[say h\u00e9][cached 2]")
        self.assertEqual([event["type"] for event in events],
                         ["message_start", "content_block_start", "content_block_delta", "content_block_delta",
                          "content_block_stop", "message_delta", "message_stop"])
        start = events[0]["message"]
        self.assertEqual((start["content"], start["stop_reason"], start["role"]), ([], None, "assistant"))
        self.assertEqual(start["usage"]["cache_read_input_tokens"], 2)
        self.assertEqual(start["usage"]["input_tokens"], 4 + len("[say h\u00e9][cached 2]".encode()) - 2)
        self.assertEqual(events[1]["content_block"], {"type": "text", "text": ""})
        self.assertEqual([event["delta"] for event in events[2:4]],
                         [{"type": "text_delta", "text": "h"}, {"type": "text_delta", "text": "\u00e9"}])
        self.assertEqual(events[5]["delta"], {"stop_reason": "end_turn", "stop_sequence": None})
        self.assertEqual(events[5]["usage"]["output_tokens"], 3)

    def test_thinking(self):
        events = self.stream("[think hm][say yes]", thinking={"type": "enabled", "budget_tokens": 2000})
        blocks = [event["content_block"]["type"] for event in events if event["type"] == "content_block_start"]
        self.assertEqual(blocks, ["thinking", "text"])
        deltas = [(event["index"], event["delta"]["type"]) for event in events if event["type"] == "content_block_delta"]
        self.assertEqual(deltas, [(0, "thinking_delta")] * 2 + [(0, "signature_delta")] + [(1, "text_delta")] * 3)
        whole = self.message("[think hm][say yes]", thinking={"type": "enabled"}).json()["content"][0]
        signature, = [event["delta"]["signature"] for event in events if event.get("delta", {}).get("signature")]
        self.assertEqual(signature, whole["signature"])

    def test_stop(self):
        events = self.stream("[say abcd]", stop_sequences=["c"])
        self.assertEqual(events[-2]["delta"], {"stop_reason": "stop_sequence", "stop_sequence": "c"})

    def test_nothing_at_all(self):
        self.assertEqual([event["type"] for event in self.stream("")],
                         ["message_start", "message_delta", "message_stop"])

    def test_a_later_error_is_an_event(self):
        events = self.stream("[say ab][end failed]")
        self.assertEqual(events[-1]["type"], "error")
        self.assertEqual(events[-1]["error"]["type"], "api_error")


class Models(ServerTest):
    def test_form(self):
        headers = [("anthropic-version", "2023-06-01")]
        body = self.server.get("/v1/models", headers).json()
        self.assertEqual([model["id"] for model in body["data"]], ["tiny"])
        self.assertEqual((body["has_more"], body["first_id"], body["last_id"]), (False, "tiny", "tiny"))
        model = self.server.get("/v1/models/tiny", headers).json()
        self.assertEqual((model["type"], model["display_name"]), ("model", "tiny"))
        self.assertRegex(model["created_at"], r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$")
        self.assertEqual(self.server.get("/v1/models/none", headers).json()["error"]["type"], "not_found_error")


class Recorded(ServerTest):
    """Requests of the shape that Claude Code sends."""

    def test_title(self):
        answer = self.server.post("/v1/messages?beta=true", {
            "model": "claude-haiku-4-5-20251001", "max_tokens": 32000, "stream": True, "temperature": 1,
            "messages": [{"role": "user", "content": [{"type": "text", "text": "[say {\"title\": \"x\"}]",
                                                       "cache_control": {"type": "ephemeral"}}]}],
            "system": [{"type": "text", "text": BILLING % "ab1"},
                       {"type": "text", "text": "Write a title.", "cache_control": {"type": "ephemeral"}}],
            "tools": [], "metadata": {"user_id": "user_1_account__session_2"}},
            [("anthropic-version", "2023-06-01"), ("anthropic-beta", "interleaved-thinking-2025-05-14"),
             ("x-app", "cli"), ("User-Agent", "claude-cli/2.1.0 (external, cli)"),
             ("anthropic-dangerous-direct-browser-access", "true"), ("X-Stainless-Retry-Count", "0")])
        self.assertEqual(answer.status, 200)
        text = "".join(piece["delta"]["text"] for piece in answer.pieces() if piece["type"] == "content_block_delta")
        self.assertEqual(text, "{\"title\": \"x\"}")

    def test_first_turn(self):
        fields = {
            "model": "claude-opus-5-5", "max_tokens": 32000, "stream": True,
            "messages": [
                {"role": "user", "content": [{"type": "text", "text": "<system-reminder>\nx\n</system-reminder>"},
                                             {"type": "text", "text": "[think so][say hello]"}]},
                {"role": "system", "content": [{"type": "text", "text": "# Environment\n - Platform: linux",
                                                "cache_control": {"type": "ephemeral"}}]}],
            "system": [{"type": "text", "text": "x-anthropic-billing-header: cc_version=2.1.332.0b8; cc_entrypoint=sdk-cli;"},
                       {"type": "text", "text": "You are an agent.", "cache_control": {"type": "ephemeral"}},
                       {"type": "text", "text": "\nDo what is asked.", "cache_control": {"type": "ephemeral"}}],
            "metadata": {"user_id": "{\"device_id\":\"1\",\"account_uuid\":\"\",\"session_id\":\"2\"}"},
            "thinking": {"type": "adaptive", "display": "omitted"}, "output_config": {"effort": "medium"},
            "context_management": {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]}}
        headers = [("anthropic-version", "2023-06-01"), ("x-app", "cli"), ("User-Agent", "claude-cli/2.1.332 (external, sdk-cli)"),
                   ("anthropic-beta", "claude-code-20250219,interleaved-thinking-2025-05-14,context-management-2025-06-27,"
                                      "effort-2025-11-24"),
                   ("anthropic-dangerous-direct-browser-access", "true"), ("X-Claude-Code-Session-Id", "2"),
                   ("Accept-Encoding", "gzip, deflate, br, zstd")]
        answer = self.server.post("/v1/messages?beta=true", {**fields, "tools": []}, headers)
        self.assertEqual(answer.status, 200, answer.body)
        deltas = [piece["delta"] for piece in answer.pieces() if piece["type"] == "content_block_delta"]
        self.assertEqual("".join(delta.get("text", "") for delta in deltas), "hello")
        self.assertNotIn("thinking_delta", [delta["type"] for delta in deltas])
        tools = [{"name": "Bash", "description": "runs it", "input_schema": {"type": "object"}}]
        self.refused(self.server.post("/v1/messages?beta=true", {**fields, "tools": tools}, headers), 400, "tools")

    def test_quota(self):
        answer = self.server.post("/v1/messages?beta=true", {
            "model": "claude-haiku-4-5-20251001", "max_tokens": 1, "messages": [{"role": "user", "content": "quota"}],
            "metadata": {"user_id": "u"}})
        self.assertEqual(answer.status, 200)

    def test_turn(self):
        answer = self.server.post("/v1/messages?beta=true", {
            "model": "claude-opus-4-6", "max_tokens": 32000, "stream": True,
            "thinking": {"type": "enabled", "budget_tokens": 31999},
            "context_management": {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]},
            "output_config": {"effort": "medium"},
            "system": [{"type": "text", "text": BILLING % "ab2"}, {"type": "text", "text": "You are an agent."}],
            "messages": [
                {"role": "user", "content": [{"type": "text", "text": "<system-reminder>\nx\n</system-reminder>"},
                                             {"type": "text", "text": "first"}]},
                {"role": "assistant", "content": [
                    {"type": "thinking", "thinking": "hm", "signature": "kvfold0"}, {"type": "text", "text": "done"},
                    {"type": "tool_use", "id": "toolu_1", "name": "Bash", "input": {"command": "ls"}}]},
                {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "toolu_1", "is_error": False,
                                              "content": "a\nb", "cache_control": {"type": "ephemeral"}}]},
                {"role": "assistant", "content": [{"type": "text", "text": "two files"}]},
                {"role": "user", "content": [{"type": "text", "text": "[think so][say good]"}]}]})
        self.assertEqual(answer.status, 200)
        blocks = [piece["content_block"]["type"] for piece in answer.pieces() if piece["type"] == "content_block_start"]
        self.assertEqual(blocks, ["thinking", "text"])


if __name__ == "__main__":
    support.main()
