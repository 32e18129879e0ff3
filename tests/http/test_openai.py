"""OpenAI's endpoints, as their clients use them: fields, pieces of streams, errors."""

import json
import unittest

import support
from support import ServerTest, chat


class Whole(ServerTest):
    def test_answer(self):
        answer = self.chat("[say Hello!][cached 3]", model="any-name")
        self.assertEqual(answer.status, 200)
        body = answer.json()
        self.assertEqual(body["object"], "chat.completion")
        self.assertTrue(body["id"].startswith("chatcmpl-"))
        self.assertEqual(body["model"], "any-name")
        choice, = body["choices"]
        self.assertEqual(choice["message"]["role"], "assistant")
        self.assertEqual(choice["message"]["content"], "Hello!")
        self.assertEqual(choice["finish_reason"], "stop")
        usage = body["usage"]
        self.assertEqual(usage["prompt_tokens"], 1 + 1 + len("[say Hello!][cached 3]") + 2)
        self.assertEqual(usage["completion_tokens"], 6)
        self.assertEqual(usage["total_tokens"], usage["prompt_tokens"] + 6)
        self.assertEqual(usage["prompt_tokens_details"]["cached_tokens"], 3)
        self.assertEqual(usage["prompt_cache_hit_tokens"], 3)
        self.assertEqual(usage["prompt_cache_miss_tokens"], usage["prompt_tokens"] - 3)
        self.assertEqual(answer.headers["content-type"], "application/json")
        self.assertTrue(answer.headers["x-request-id"].startswith("req_"))

    def test_model_is_named_where_the_request_does_not(self):
        self.assertEqual(self.chat("[say a]").json()["model"], "tiny")

    def test_thinking(self):
        for fields in ({"think": True}, {"thinking": {"type": "enabled"}}, {"thinking": True},
                       {"reasoning_effort": "high"}, {"reasoning_effort": "medium"}, {"reasoning_effort": "low"},
                       {"chat_template_kwargs": {"thinking": True}}, {"chat_template_kwargs": {"enable_thinking": True}},
                       {"reasoning": {"effort": "high"}}, {"model": "deepseek-reasoner"}, {"think": "high"},
                       {"enable_thinking": True}):
            with self.subTest(fields=fields):
                message = self.chat("[think hm, so][say yes]", **fields).json()["choices"][0]["message"]
                self.assertEqual(message["reasoning_content"], "hm, so")
                self.assertEqual(message["content"], "yes")
        for fields in ({}, {"think": False}, {"thinking": {"type": "disabled"}}, {"reasoning_effort": "none"},
                       {"reasoning_effort": "minimal"}, {"model": "deepseek-chat"},
                       {"reasoning_effort": "high", "thinking": {"type": "disabled"}},
                       {"chat_template_kwargs": {"thinking": False}}):
            with self.subTest(fields=fields):
                message = self.chat("[think hm, so][say yes]", **fields).json()["choices"][0]["message"]
                self.assertNotIn("reasoning_content", message)
                self.assertEqual(message["content"], "yes")

    def test_thinking_tokens_are_counted(self):
        usage = self.chat("[think abcd][say yes]", think=True).json()["usage"]
        self.assertEqual(usage["completion_tokens"], 4 + 1 + 3)
        self.assertEqual(usage["completion_tokens_details"]["reasoning_tokens"], 5)

    def test_an_effort_that_needs_a_text_is_refused(self):
        for level in ("max", "huge"):
            for fields, param in (({"reasoning_effort": level}, "reasoning_effort"), ({"think": level}, "think"),
                                  ({"reasoning": {"effort": level}}, "reasoning.effort"),
                                  ({"chat_template_kwargs": {"reasoning_effort": level}},
                                   "chat_template_kwargs.reasoning_effort")):
                self.refused(self.chat("[say a]", **fields), 400, param)

    def test_stops(self):
        for stop, content in (("lo", "hel"), (["x", "l"], "he"), (["zz"], "hello"), ("", "hello"), ([], "hello"),
                              (None, "hello"), (["hello"], ""), ("\u00e9", "hello")):
            with self.subTest(stop=stop):
                choice = self.chat("[say hello]", stop=stop).json()["choices"][0]
                self.assertEqual(choice["message"]["content"], content)
                self.assertEqual(choice["finish_reason"], "stop")

    def test_a_stop_is_not_looked_for_in_reasoning(self):
        message = self.chat("[think a lo b][say hello]", stop="lo", think=True).json()["choices"][0]["message"]
        self.assertEqual((message["reasoning_content"], message["content"]), ("a lo b", "hel"))

    def test_max_tokens(self):
        for fields in ({"max_tokens": 3}, {"max_completion_tokens": 3}, {"max_tokens": 9, "max_completion_tokens": 3},
                       {"max_tokens": 3.0}):
            with self.subTest(fields=fields):
                choice = self.chat("[say hello]", **fields).json()["choices"][0]
                self.assertEqual(choice["message"]["content"], "hel")
                self.assertEqual(choice["finish_reason"], "length")
        self.assertEqual(self.chat("[say hello][end context]").json()["choices"][0]["finish_reason"], "length")

    def test_several_choices(self):
        body = self.chat("[say a]", n=3).json()
        self.assertEqual([choice["message"]["content"] for choice in body["choices"]], ["a", "a1", "a2"])
        self.assertEqual([choice["index"] for choice in body["choices"]], [0, 1, 2])
        self.assertEqual(body["usage"]["completion_tokens"], 5)

    def test_logprobs(self):
        body = self.chat("[say \u00e9]", logprobs=True, top_logprobs=2).json()
        content = body["choices"][0]["logprobs"]["content"]
        self.assertEqual([token["bytes"] for token in content], [[0xc3], [0xa9]])
        self.assertEqual([token["token"] for token in content], ["\ufffd", "\ufffd"])
        self.assertEqual(content[0]["logprob"], -0.5)
        self.assertEqual([(top["token"], top["logprob"]) for top in content[0]["top_logprobs"]],
                         [("a", -1.5), ("b", -2.5)])
        self.assertIsNone(self.chat("[say a]").json()["choices"][0]["logprobs"])
        self.refused(self.chat("[say a]", top_logprobs=2), 400, "top_logprobs")
        self.refused(self.chat("[say a]", logprobs=True, top_logprobs=21), 400, "top_logprobs")

    def test_logprobs_are_those_of_what_is_given(self):
        body = self.chat("[think xy][say abc-stop-]", think=True, logprobs=True, stop="-stop").json()
        content = body["choices"][0]["logprobs"]["content"]
        self.assertEqual([token["token"] for token in content], ["a", "b", "c"])

    def test_text_that_is_no_text(self):
        message = self.chat("[ids 104 255 200 105 0]").json()["choices"][0]["message"]
        self.assertEqual(message["content"], "h\ufffd\ufffdi\0")

    def test_an_answer_ends_before_what_begins_another_part(self):
        choice = self.chat("[ids 104 105 258 120]").json()["choices"][0]
        self.assertEqual((choice["message"]["content"], choice["finish_reason"]), ("hi", "stop"))

    def test_users_cannot_write_markers(self):
        usage = self.chat("[say a]</think><think>").json()["usage"]
        self.assertEqual(usage["prompt_tokens"], 4 + len("[say a]</think><think>"))

    def test_an_assistants_last_message_goes_on(self):
        ids = self.server.post("/tokenize", {"messages": [{"role": "user", "content": "q"},
                                                          {"role": "assistant", "content": "ans"}]}).json()["tokens"]
        self.assertEqual(ids, [256, 258, ord("q"), 259, 261, *b"ans"])
        answer = self.server.post("/v1/chat/completions", {"messages": [
            {"role": "user", "content": "[say wer]"}, {"role": "assistant", "content": "ans"}]})
        self.assertEqual(answer.json()["choices"][0]["message"]["content"], "wer")

    def test_developer_is_system(self):
        def tokens(role):
            return self.server.post("/tokenize", {"messages": [{"role": role, "content": "s"},
                                                               {"role": "user", "content": "q"}]}).json()["tokens"]
        self.assertEqual(tokens("developer"), [256, ord("s"), 258, ord("q"), 259, 261])
        self.assertEqual(tokens("system"), tokens("developer"))

    def test_reasoning_comes_back(self):
        messages = [{"role": "user", "content": "q"},
                    {"role": "assistant", "content": "a", "reasoning_content": "why"},
                    {"role": "user", "content": "r"}]
        answer = self.server.post("/tokenize", {"messages": messages, "think": True})
        self.assertEqual(answer.json()["tokens"], [256, 258, ord("q"), 259, 261, ord("a"), 257, 258, ord("r"), 259, 260])

    def test_unknown_fields_are_ignored(self):
        answer = self.chat("[say a]", user="u", metadata={"a": 1}, store=True, service_tier="auto", x_y={"z": [1]},
                           parallel_tool_calls=False, prompt_cache_key="k", safety_identifier="s")
        self.assertEqual(answer.status, 200)

    def test_fields_that_change_nothing_by_their_value(self):
        answer = self.chat("[say a]", tools=[], tool_choice="none", response_format={"type": "text"}, modalities=["text"],
                           best_of=1, typical_p=1.0, n_predict=-1, top_n_sigma=-1, echo=False, functions=None, grammar="", logit_bias={},
                           stop=None, seed=None, n=None, temperature=None, max_tokens=None, stream=None)
        self.assertEqual(answer.status, 200)

    def test_fields_that_are_not_supported(self):
        for field, value in (("tools", [{"type": "function", "function": {"name": "f"}}]), ("tool_choice", "required"),
                             ("functions", [{"name": "f"}]), ("response_format", {"type": "json_object"}),
                             ("modalities", ["text", "audio"]), ("audio", {"voice": "a"}), ("best_of", 2),
                             ("mirostat", 1), ("typical_p", 0.9), ("grammar", "root ::= a"), ("ignore_eos", True),
                             ("guided_json", {}), ("verbosity", "low"), ("web_search_options", {"a": 1}),
                             ("stop_token_ids", [1]), ("n_predict", 5), ("include_stop_str_in_output", True),
                             ("top_n_sigma", 1.5)):
            with self.subTest(field=field):
                if not value:
                    continue
                message = self.refused(self.chat("[say a]", **{field: value}), 400, field)
                self.assertIn(field, message)

    def test_fields_that_are_wrong(self):
        for field, value in (("temperature", 2.1), ("temperature", -0.1), ("temperature", "1"), ("top_p", 1.5),
                             ("top_k", 1.5), ("top_k", -2), ("min_p", -1), ("n", 0), ("n", 65), ("n", 1e99),
                             ("max_tokens", 0), ("max_tokens", -1), ("max_tokens", 1.5), ("max_tokens", "9"),
                             ("max_completion_tokens", 10**30), ("presence_penalty", 3), ("frequency_penalty", -3),
                             ("repeat_penalty", 0), ("seed", "a"), ("seed", 1.5), ("seed", 2**70), ("stream", 1),
                             ("stop", 5), ("stop", [5]), ("stop", ["a"] * 17), ("stop", "a\0b"), ("stop", "a" * 1025),
                             ("logit_bias", []), ("logit_bias", {"a": 1}), ("logit_bias", {"320": 1}),
                             ("logit_bias", {"-1": 1}), ("logit_bias", {"5": 101}),
                             ("logit_bias", {"5x": 1}), ("logit_bias", {"5.0": 1}), ("logit_bias", {"": 1}),
                             ("logit_bias", {" 5": 1}), ("logit_bias", {"18446744073709551621": 1}), ("logit_bias", {"5": "x"}),
                             ("logprobs", 1), ("think", 5), ("thinking", {"type": "maybe"}), ("thinking", 1),
                             ("model", 5)):
            with self.subTest(field=field, value=value):
                answer = self.chat("[say a]", **{field: value})
                self.assertEqual(answer.status, 400)
                self.assertTrue(answer.json()["error"]["param"].startswith(field), answer.body)
        answer = self.chat("[say a]", stream_options={"include_usage": 3})
        self.refused(answer, 400, "stream_options.include_usage")
        self.refused(self.chat("[say a]", stream_options=3), 400, "stream_options")

    def test_values_at_their_limits(self):
        answer = self.chat("[say a]", temperature=2, top_p=0, top_k=-1, min_p=1, n=64, seed=-2**63, presence_penalty=-2,
                           frequency_penalty=2, logit_bias={"319": -100, "0": 100}, stop=["a" * 1024] * 16)
        self.assertEqual(answer.status, 200)
        self.assertEqual(self.chat("[say a]", seed=2**63 - 1).status, 200)

    def test_messages_that_are_wrong(self):
        for messages, param in (
                (None, "messages"), ([], "messages"), ("hello", "messages"), ([5], "messages"), ([{}], "messages"),
                ([{"role": "nobody", "content": "a"}], "messages"), ([{"role": "system", "content": "a"}], "messages"),
                ([{"role": "user", "content": 5}], "messages"),
                ([{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:"}}]}],
                 "messages[0].content[0].type"),
                ([{"role": "user", "content": "a"}, {"role": "user", "content": [
                    {"type": "text", "text": "a"}, {"type": "input_audio"}]}], "messages[1].content[1].type"),
                ([{"role": "tool", "tool_call_id": "x", "content": "a"}], "messages"),
                ([{"role": "user", "content": "a"}, {"role": "assistant", "tool_calls": [
                    {"id": "c", "function": {"name": "f", "arguments": "{}"}}]}, {"role": "user", "content": "b"}],
                 "messages")):
            with self.subTest(messages=messages):
                self.refused(self.server.post("/v1/chat/completions", {"messages": messages}), 400, param)

    def test_calls_in_earlier_messages(self):
        answer = self.server.post("/v1/chat/completions", {"messages": [
            {"role": "user", "content": "a"},
            {"role": "assistant", "content": None, "tool_calls": [
                {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{\"a\": 1}"}}]},
            {"role": "tool", "tool_call_id": "c", "content": "result"}, {"role": "user", "content": "[say ok]"}]})
        self.assertEqual(answer.json()["choices"][0]["message"]["content"], "ok")

    def test_what_the_scheduler_refuses(self):
        for end, status in (("busy", 429), ("large", 400), ("invalid", 400), ("stopping", 503), ("memory", 503),
                            ("timed_out", 429), ("failed", 500), ("shutdown", 503)):
            with self.subTest(end=end):
                answer = self.chat("[end %s]" % end)
                self.assertEqual(answer.status, status, answer.body)
                self.assertEqual("retry-after" in answer.headers, status in (429, 503))
        self.assertEqual(self.chat("[end large]").json()["error"]["code"], "context_length_exceeded")

    def test_queue_timeout_of_a_stream_is_a_status(self):
        answer = self.chat("[queue 50][end timed_out]", stream=True)
        self.assertEqual(answer.status, 429)
        self.assertIn("retry-after", answer.headers)


class Few(ServerTest):
    arguments = ("--parallel", 3)

    def test_no_more_choices_than_run_at_once(self):
        self.assertEqual(len(self.chat("[say a]", n=3).json()["choices"]), 3)
        for n in (4, 64):
            self.assertIn("from 1 to 3", self.refused(self.chat("[say a]", n=n), 400, "n"))


class Stream(ServerTest):
    def stream(self, text, **fields):
        answer = self.chat(text, stream=True, **fields)
        self.assertEqual(answer.status, 200)
        self.assertTrue(answer.headers["content-type"].startswith("text/event-stream"))
        return answer

    def test_pieces(self):
        answer = self.stream("[say h\u00e9!]")
        self.assertEqual(answer.events()[-1], (None, "[DONE]"))
        pieces = answer.pieces()
        self.assertEqual({piece["object"] for piece in pieces}, {"chat.completion.chunk"})
        self.assertEqual(len({piece["id"] for piece in pieces}), 1)
        deltas = [piece["choices"][0]["delta"] for piece in pieces]
        self.assertEqual(deltas, [{"role": "assistant", "content": "h"}, {"content": "\u00e9"}, {"content": "!"}, {}])
        self.assertEqual([piece["choices"][0]["finish_reason"] for piece in pieces], [None, None, None, "stop"])
        self.assertFalse(any("usage" in piece for piece in pieces))

    def test_usage_comes_last_where_it_is_asked_for(self):
        pieces = self.stream("[say ab][cached 2]", stream_options={"include_usage": True}).pieces()
        self.assertEqual([piece["usage"] for piece in pieces[:-1]], [None] * 3)
        self.assertEqual(pieces[-1]["choices"], [])
        self.assertEqual(pieces[-1]["usage"]["completion_tokens"], 2)
        self.assertEqual(pieces[-1]["usage"]["prompt_tokens_details"]["cached_tokens"], 2)

    def test_reasoning(self):
        deltas = [piece["choices"][0]["delta"] for piece in self.stream("[think ab][say c]", think=True).pieces()]
        self.assertEqual(deltas, [{"role": "assistant", "reasoning_content": "a"}, {"reasoning_content": "b"},
                                  {"content": "c"}, {}])

    def test_a_stop_is_not_shown_in_part(self):
        pieces = self.stream("[say ab-st-stop-c]", stop="-stop-").pieces()
        self.assertEqual("".join(piece["choices"][0]["delta"].get("content", "") for piece in pieces), "ab-st")
        self.assertEqual(pieces[-1]["choices"][0]["finish_reason"], "stop")

    def test_what_was_held_back_comes_at_the_end(self):
        pieces = self.stream("[say ab-sto]", stop="-stop-").pieces()
        self.assertEqual("".join(piece["choices"][0]["delta"].get("content", "") for piece in pieces), "ab-sto")

    def test_nothing_at_all(self):
        deltas = [piece["choices"][0]["delta"] for piece in self.stream("").pieces()]
        self.assertEqual(deltas, [{"role": "assistant", "content": ""}])

    def test_several_choices(self):
        texts = {}
        for piece in self.stream("[say ab]", n=2).pieces():
            choice = piece["choices"][0]
            texts[choice["index"]] = texts.get(choice["index"], "") + choice["delta"].get("content", "")
        self.assertEqual(texts, {0: "ab", 1: "ab1"})

    def test_logprobs(self):
        pieces = self.stream("[say ab-sto]", logprobs=True, top_logprobs=1, stop="-stop-").pieces()
        tokens = [token["token"] for piece in pieces
                  for token in (piece["choices"][0]["logprobs"] or {"content": []})["content"]]
        self.assertEqual("".join(tokens), "ab-sto")

    def test_a_later_error_is_an_event(self):
        answer = self.stream("[say ab][end failed]")
        events = [data for _, data in answer.events() if data]
        error = json.loads(events[-2])["error"]
        self.assertEqual(error["type"], "server_error")
        self.assertEqual(events[-1], "[DONE]")

    def test_connection_is_used_again(self):
        connection = self.server.connect()
        for i in range(3):
            connection.request("POST", "/v1/chat/completions", chat("[say %d]" % i, stream=True))
            self.assertEqual(connection.answer().pieces()[0]["choices"][0]["delta"]["content"], str(i))
        connection.close()


class Completions(ServerTest):
    def ask(self, **fields):
        return self.server.post("/v1/completions", fields)

    # Without a user's turn all of the prompt is looked through for commands.
    def test_text(self):
        body = self.ask(prompt="[say hello]").json()
        self.assertEqual(body["object"], "text_completion")
        self.assertEqual(body["choices"][0]["text"], "hello")
        self.assertEqual(body["usage"]["prompt_tokens"], 1 + len("[say hello]"))

    def test_ids(self):
        for prompt in (list(b"[say hello]"), [list(b"[say hello]")], ["[say hello]"]):
            self.assertEqual(self.ask(prompt=prompt).json()["choices"][0]["text"], "hello")

    def test_wrong_prompts(self):
        for prompt in (None, 5, [], [[]], [320], [-1], [1.5], ["a", "b"], {"a": 1}, [1, "a"]):
            with self.subTest(prompt=prompt):
                self.refused(self.ask(prompt=prompt), 400, "prompt")
        self.refused(self.ask(prompt="a", echo=True), 400, "echo")
        self.refused(self.ask(prompt="a", suffix="b"), 400, "suffix")

    def test_logprobs(self):
        logprobs = self.ask(prompt="[say h\u00e9y]", logprobs=2).json()["choices"][0]["logprobs"]
        self.assertEqual(logprobs["tokens"], ["h", "\ufffd", "\ufffd", "y"])
        self.assertEqual(logprobs["token_logprobs"], [-0.5] * 4)
        self.assertEqual(logprobs["top_logprobs"][0], {"a": -1.5, "b": -2.5})
        self.assertEqual(logprobs["text_offset"], [0, 1, 2, 2])

    def test_stream(self):
        answer = self.ask(prompt="[say ab]", stream=True, stream_options={"include_usage": True}, max_tokens=1)
        pieces = answer.pieces()
        self.assertEqual([piece["choices"][0]["text"] for piece in pieces[:-1]], ["a", ""])
        self.assertEqual(pieces[-2]["choices"][0]["finish_reason"], "length")
        self.assertEqual(pieces[-1]["usage"]["completion_tokens"], 1)
        self.assertEqual(answer.events()[-1][1], "[DONE]")

    def test_stops_and_choices(self):
        body = self.ask(prompt="[say abc]", stop=["c"], n=2).json()
        self.assertEqual([choice["text"] for choice in body["choices"]], ["ab", "ab"])


class Others(ServerTest):
    arguments = ("--alias", "first", "--alias", "second")

    def test_models(self):
        body = self.server.get("/v1/models").json()
        self.assertEqual([model["id"] for model in body["data"]], ["first", "second"])
        self.assertEqual(self.server.get("/v1/models/second").json()["object"], "model")
        self.refused(self.server.get("/v1/models/third"), 404, "model")
        self.assertEqual(self.chat("[say a]", model="third").status, 200)

    def test_health(self):
        body = self.server.get("/health").json()
        self.assertEqual((body["status"], body["model"]), ("ok", "first"))

    def test_slots(self):
        self.assertEqual(self.server.get("/slots").json()["slots"], [])

    def test_metrics(self):
        before = self.server.metric('kvfold_http_requests_total{method="POST",path="/tokenize",status="200"}')
        self.server.post("/tokenize", {"content": "a"})
        self.until(lambda: self.server.metric(
            'kvfold_http_requests_total{method="POST",path="/tokenize",status="200"}') == before + 1)
        text = self.server.get("/metrics").body.decode()
        for line in text.splitlines():
            self.assertRegex(line, r"^(# (HELP|TYPE) \w+ .*|\w+(\{[^}]*\})? [0-9.e+-]+)$")

    def test_tokenize(self):
        self.assertEqual(self.server.post("/tokenize", {"content": "a\u00e9"}).json(),
                         {"tokens": [97, 0xc3, 0xa9], "count": 3})
        self.assertEqual(self.server.post("/tokenize", {"prompt": "a", "add_special": True}).json()["tokens"], [256, 97])
        self.assertEqual(self.server.post("/tokenize", {"content": "<think>"}).json()["count"], 7)
        self.assertEqual(self.server.post("/tokenize", {"content": "<think>", "parse_special": True}).json()["tokens"],
                         [260])
        self.refused(self.server.post("/tokenize", {}), 400, "content")
        self.refused(self.server.post("/tokenize", {"content": 5}), 400, "content")

    def test_detokenize(self):
        self.assertEqual(self.server.post("/detokenize", {"tokens": [97, 0xc3, 0xa9, 0xff]}).json(),
                         {"content": "a\u00e9\ufffd"})
        self.refused(self.server.post("/detokenize", {"tokens": [320]}), 400, "tokens")
        self.refused(self.server.post("/detokenize", {}), 400, "tokens")


if __name__ == "__main__":
    support.main()
