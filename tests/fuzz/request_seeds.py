"""Hand-made inputs of the fuzz target for requests; seeds.py writes them."""
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
