"""Hand-made inputs of the fuzz targets for requests; seeds.py writes them."""
import json

CHAT, COMPLETION, MESSAGES, COUNT, TOKENIZE = range(5)
THINKS, TWICE = 16, 32


def request():
    def body(flags, **fields):
        return bytes([flags]) + json.dumps(fields).encode()

    user = {"role": "user", "content": "q"}
    said = {"role": "assistant", "content": "a", "reasoning_content": "why"}
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{\"a\": 1}"}}
    blocks = [{"type": "thinking", "thinking": "why", "signature": "s"}, {"type": "redacted_thinking", "data": "d"},
              {"type": "text", "text": "a", "cache_control": {"type": "ephemeral"}},
              {"type": "tool_use", "id": "t", "name": "f", "input": {"a": [1.0, None]}}]
    result = [{"type": "tool_result", "tool_use_id": "t", "is_error": True, "content": [{"type": "text", "text": "r"}]},
              {"type": "text", "text": "and?"}]
    system = [{"type": "text", "text": "x-anthropic-billing-header: a"}, {"type": "text", "text": "s"}]
    return {
        "nothing": bytes([CHAT]),
        "no_object": bytes([CHAT]) + b"[]",
        "chat": body(CHAT | TWICE, model="m", messages=[user, said, user], stream=True,
                     stream_options={"include_usage": True}, n=2, seed=-5, stop=["a", "b"], max_tokens=5,
                     logprobs=True, top_logprobs=3, logit_bias={"97": -100, "319": 1.5}, temperature=0.5, top_p=0.9,
                     top_k=-1, min_p=0.1, presence_penalty=1, frequency_penalty=-1, repeat_penalty=1.1),
        "thinking": body(CHAT, messages=[{"role": "developer", "content": "s"}, user], thinking={"type": "enabled"},
                         reasoning_effort="low", chat_template_kwargs={"thinking": True}, think="high",
                         reasoning={"effort": "none"}),
        "efforts": body(CHAT | THINKS, messages=[user], reasoning_effort="max"),
        "goes_on": body(CHAT | THINKS | TWICE, messages=[user, said]),
        "assistant_alone": body(CHAT | THINKS | TWICE, messages=[said]),
        "results": body(CHAT, messages=[user, {"role": "assistant", "tool_calls": [call]},
                                        {"role": "tool", "tool_call_id": "c", "content": "r"}]),
        "image": body(CHAT, messages=[{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "image_url"}]}]),
        "unsupported": body(CHAT, messages=[user], tools=[{"type": "function"}], response_format={"type": "text"}),
        "text": body(COMPLETION, prompt="once", logprobs=2, max_completion_tokens=3.0),
        "ids": body(COMPLETION, prompt=[[1, 2, 256]], stop="a"),
        "messages": body(MESSAGES | TWICE, model="c", max_tokens=9, system=system, stop_sequences=["z"], top_k=5,
                         messages=[user, {"role": "assistant", "content": blocks}, {"role": "user", "content": result}],
                         thinking={"type": "enabled", "budget_tokens": 1024, "display": "omitted"},
                         output_config={"effort": "medium"}, tool_choice={"type": "auto"}, tools=[]),
        "prefill": body(MESSAGES, max_tokens=9, messages=[user, {"role": "assistant", "content": "a"}]),
        "count": body(COUNT, messages=[user], system="s"),
        "tokenize": body(TOKENIZE | THINKS, messages=[user]),
    }


KEYED, LOCAL, LOADING, LEAVING = 1, 2, 4, 8


def endpoints():
    user = {"role": "user", "content": "hello there"}
    thinks = {"thinking": {"type": "enabled"}}

    def head(line, *headers, flags=0, host="localhost:8080", body=b""):
        lines = [line, *(["Host: " + host] if host else []), *headers, "", ""]
        return bytes([flags]) + "\r\n".join(lines).encode() + body

    def post(path, *headers, flags=0, **fields):
        return head("POST " + path, "Content-Type: application/json", *headers, flags=flags,
                    body=json.dumps(fields).encode())

    chat, messages, text = "/v1/chat/completions", "/v1/messages", "/v1/completions"
    return {
        **{path.strip("/").replace("/", "_"): head("GET " + path)
           for path in ("/health", "/metrics", "/slots", "/v1/models", "/v1/models/tiny", "/v1/models/none", "/none")},
        "anthropic_models": head("GET /v1/models?limit=5", "anthropic-version: 2023-06-01"),
        "head": head("HEAD /health"),
        "method": head("BREW /v1/messages"),
        "preflight": head("OPTIONS " + chat, "Origin: https://chat.example", flags=KEYED),
        "loading": post(chat, flags=LOADING, messages=[user]),
        "loading_health": head("GET /health", flags=LOADING),
        "no_host": head("GET /health", host=None),
        "local": head("GET /slots", flags=LOCAL, host="anything"),
        "address": head("GET /v1/models", host="[::1]:80"),
        "other_host": head("GET /v1/models", host="evil.example"),
        "allowed_host": head("GET /v1/models", host="KVFOLD.example."),
        "own_origin": head("GET /v1/models", "Origin: http://localhost:8080"),
        "other_origin": head("GET /v1/models", "Origin: https://evil.example"),
        "key": head("GET /v1/models", "Authorization: Bearer  one-key", flags=KEYED),
        "api_key": head("GET /v1/models", "x-api-key: other", flags=KEYED),
        "wrong_key": post(messages, "x-api-key: one-keyone-key", flags=KEYED),
        "type": head("POST " + chat, "Content-Type: text/plain", body=b"{}"),
        "chat": post(chat, messages=[user], n=2, logprobs=True, top_logprobs=4, stop=["e t"], seed=3),
        "chat_stream": post(chat, messages=[user], stream=True, stream_options={"include_usage": True}, n=2, **thinks),
        "chat_leaving": post(chat, flags=LEAVING, messages=[user], stream=True),
        "text": post(text, prompt="once upon", logprobs=3, max_tokens=6),
        "text_stream": post(text, prompt=[1, 2, 195, 169], logprobs=5, stream=True, n=3),
        "messages": post(messages, max_tokens=9, messages=[user], **thinks),
        "messages_stream": post(messages, max_tokens=99, messages=[user], stream=True, stop_sequences=["llo"]),
        "refused": post(chat, messages=[{"role": "user", "content": "twelve chars"[:11]}], stream=True),
        "count": post(messages + "/count_tokens", messages=[user]),
        "tokenize": post("/tokenize", content="a\u00e9<think>", add_special=True, parse_special=True),
        "tokenize_messages": post("/tokenize", messages=[user]),
        "detokenize": post("/detokenize", tokens=[104, 105, 255, 260, 319]),
        "detokenize_wrong": post("/detokenize", tokens=[320]),
        "temperature": post(messages, max_tokens=1, messages=[user], temperature=7),
    }
