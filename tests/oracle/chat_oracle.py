"""DeepSeek V4's chat format, written from its description: messages to a prompt, an answer to its parts.

A prompt is a list of parts (kind, text). MARKER parts are added tokens that the format itself
writes; TEXT parts are everything else, also where a message spells a marker: text must be tokenized
without the added tokens, or a user could write another's turn.
"""

import ast
import json

MARKER, TEXT = "marker", "text"

BOS = "<\uff5cbegin\u2581of\u2581sentence\uff5c>"
EOS = "<\uff5cend\u2581of\u2581sentence\uff5c>"
USER = "<\uff5cUser\uff5c>"
ASSISTANT = "<\uff5cAssistant\uff5c>"
REMINDER = "<\uff5clatest_reminder\uff5c>"
THINK, END_THINK = "<think>", "</think>"
DSML = "\uff5cDSML\uff5c"
ACTION = "<\uff5caction\uff5c>"
TASKS = {name: "<\uff5c%s\uff5c>" % name for name in ("query", "authority", "domain", "title", "read_url")}

PREVIEW, RELEASE_0731 = "preview", "0731"
TOOLS, STRONG, EXTREME = "TOOLS_TEMPLATE", "STRONG", "EXTREME"  # the texts of a checkpoint
# Effort level -> the text that it adds, or None.
EFFORTS = {
    PREVIEW: {"none": None, "high": None, "max": STRONG},
    RELEASE_0731: {"none": None, "low": None, "high": STRONG, "max": EXTREME},
}


class ChatError(Exception):
    """Messages or settings that have no prompt."""


# ---- The checkpoint's texts ----


def read_texts(path):
    """The texts of an encoding file. The preview's has REASONING_EFFORT_MAX; 0731's has a dict
    REASONING_EFFORT_PROMPTS with the level names as keys."""
    values = {}
    with open(path, encoding="utf-8") as file:
        tree = ast.parse(file.read())
    for node in tree.body:
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        for target in targets:
            if isinstance(target, ast.Name) and getattr(node, "value", None) is not None:
                try:
                    values[target.id] = ast.literal_eval(node.value)
                except ValueError:
                    values.pop(target.id, None)
    texts = {}
    if TOOLS in values:
        texts[TOOLS] = values[TOOLS]
    if "REASONING_EFFORT_MAX" in values:
        texts[STRONG] = values["REASONING_EFFORT_MAX"]
    if "REASONING_EFFORT_PROMPTS" in values:
        texts[STRONG] = values["REASONING_EFFORT_PROMPTS"]["high"]
        texts[EXTREME] = values["REASONING_EFFORT_PROMPTS"]["max"]
    return texts


# ---- Parts ----


def join_parts(parts):
    """Neighbours of the same kind become one, empty ones go."""
    joined = []
    for kind, text in parts:
        if joined and joined[-1][0] == kind:
            joined[-1] = (kind, joined[-1][1] + text)
        elif text:
            joined.append((kind, text))
    return joined


def text_of(parts):
    return "".join(text for _, text in parts)


def text(string):
    return [(TEXT, string)]


def marker(string):
    return [(MARKER, string)]


def to_json(value):
    return json.dumps(value, ensure_ascii=False)


# ---- Steps 1 to 3: the list of turns ----


def as_string(content):
    """Content that may be a list of parts."""
    if not isinstance(content, list):
        return content
    return "\n\n".join(part.get("text", "") if part.get("type") == "text"
                       else "[Unsupported %s]" % part.get("type") for part in content)


def merged(messages):
    """Step 1. A turn of a user gets a list of blocks: ("text", content) or ("result", content, id)."""
    turns = []
    for message in messages:
        role = message.get("role")
        if role not in ("user", "tool"):
            turns.append(message)
            continue
        last = turns[-1] if turns and turns[-1].get("role") == "user" else None
        if role == "tool":
            block = ("result", as_string(message.get("content", "")), message.get("tool_call_id", ""))
        else:
            block = ("text", as_string(message.get("content", "")))
            if last and last.get("task") is not None:
                last = None
        if last:
            last["blocks"].append(block)
        else:
            kept = ("task",) if role == "user" else ()
            turns.append({"role": "user", "blocks": [block],
                          **{key: message[key] for key in kept if key in message}})
    return turns


def sort_results(turns):
    """Step 2, in place. Calls count from the last assistant turn that has any."""
    order = {}
    for turn in turns:
        if turn.get("role") == "assistant" and turn.get("tool_calls"):
            order = {call["id"]: i for i, call in enumerate(turn["tool_calls"]) if call.get("id")}
        elif turn.get("role") == "user":
            results = [block for block in turn["blocks"] if block[0] == "result"]
            results.sort(key=lambda block: order.get(block[2], 0))
            turn["blocks"] = [results.pop(0) if block[0] == "result" else block
                              for block in turn["blocks"]]


def last_question(turns):
    return max((i for i, turn in enumerate(turns) if turn.get("role") in ("user", "developer")),
               default=-1)


def without_old_thoughts(turns):
    """Step 3's filter."""
    last = last_question(turns)
    kept = []
    for i, turn in enumerate(turns):
        role = turn.get("role")
        if i >= last or role in ("system", "user", "latest_reminder"):
            kept.append(turn)
        elif role == "assistant":
            kept.append({key: turn[key] for key in turn if key != "reasoning_content"})
    return kept


# ---- Step 5: one turn ----


def tools_block(tools, texts):
    """The slots may stand anywhere in the template; doubled braces are single ones."""
    if TOOLS not in texts:
        raise ChatError("the checkpoint brings no text for tools")
    if not all(isinstance(tool, dict) and isinstance(tool.get("function"), dict) for tool in tools):
        raise ChatError("a tool has no function")
    schemas = "\n".join(to_json(tool["function"]) for tool in tools)
    slots = {"tool_schemas": (TEXT, schemas), "dsml_token": (MARKER, DSML),
             "thinking_start_token": (MARKER, THINK), "thinking_end_token": (MARKER, END_THINK)}
    parts, rest = [], texts[TOOLS]
    while rest:
        at = min((i for i in (rest.find("{"), rest.find("}")) if i >= 0), default=len(rest))
        parts += text(rest[:at])
        rest = rest[at:]
        if rest[:2] in ("{{", "}}"):
            parts += text(rest[0])
            rest = rest[2:]
        elif rest:
            name, _, rest = rest[1:].partition("}")
            parts.append(slots[name])
    return parts


def appendices(turn, texts):
    parts = []
    if turn.get("tools"):
        parts += text("\n\n") + tools_block(turn["tools"], texts)
    if turn.get("response_format"):
        parts += text("\n\n## Response Format:\n\nYou MUST strictly adhere to the following schema to "
                      "reply:\n" + to_json(turn["response_format"]))
    return parts


def parameter(key, value):
    is_string = isinstance(value, str)
    return (text("<") + marker(DSML)
            + text('parameter name="%s" string="%s">' % (key, "true" if is_string else "false"))
            + text(value if is_string else to_json(value))
            + text("</") + marker(DSML) + text("parameter>"))


def invocation(call):
    function = call["function"]
    try:
        arguments = json.loads(function["arguments"])
    except ValueError:
        arguments = {"arguments": function["arguments"]}
    if not isinstance(arguments, dict):
        raise ChatError("arguments are no JSON object")
    parts = text("<") + marker(DSML) + text('invoke name="%s">\n' % function["name"])
    for i, (key, value) in enumerate(arguments.items()):
        parts += text("\n" if i else "") + parameter(key, value)
    return parts + text("\n</") + marker(DSML) + text("invoke>")


def calls_block(calls):
    parts = text("\n\n<") + marker(DSML) + text("tool_calls>\n")
    for i, call in enumerate(calls):
        parts += text("\n" if i else "") + invocation(call)
    return parts + text("\n</") + marker(DSML) + text("tool_calls>")


def user_turn(turn):
    blocks = ["<tool_result>%s</tool_result>" % block[1] if block[0] == "result" else block[1]
              for block in turn["blocks"]]
    return marker(USER) + text("\n\n".join(blocks))


def assistant_turn(turn, with_reasoning):
    parts = []
    if with_reasoning:
        parts += text(turn.get("reasoning_content") or "") + marker(END_THINK)
    parts += text(turn.get("content") or "")
    if turn.get("tool_calls"):
        parts += calls_block(turn["tool_calls"])
    return parts + ([] if turn.get("wo_eos") else marker(EOS))


def render_turn(turns, i, thinking, drop_thinking, texts):
    turn, role = turns[i], turns[i].get("role")
    if role == "system":
        return text(turn.get("content") or "") + appendices(turn, texts)
    if role == "developer":
        if not turn.get("content"):
            raise ChatError("a developer message is empty")
        return marker(USER) + text(turn["content"]) + appendices(turn, texts)
    if role == "user":
        return user_turn(turn)
    if role == "latest_reminder":
        return marker(REMINDER) + text(turn.get("content") or "")
    if role == "assistant":
        after_task = i > 0 and turns[i - 1].get("task") is not None
        kept = not drop_thinking or i > last_question(turns)
        return assistant_turn(turn, thinking and not after_task and kept)
    raise ChatError("unknown role %s" % role)


# ---- Step 6 ----


def transition(turns, i, thinking, drop_thinking):
    if i + 1 < len(turns) and turns[i + 1].get("role") not in ("assistant", "latest_reminder"):
        return []
    task = turns[i].get("task")
    if task == "action":
        return marker(ASSISTANT) + marker(THINK if thinking else END_THINK) + marker(ACTION)
    if task is not None:
        if task not in TASKS:
            raise ChatError("unknown task %s" % task)
        return marker(TASKS[task])
    if turns[i].get("role") not in ("user", "developer"):
        return []
    opens = thinking and (not drop_thinking or i >= last_question(turns))
    return marker(ASSISTANT) + marker(THINK if opens else END_THINK)


def effort_text(release, effort, thinking, texts):
    levels = EFFORTS.get(release)
    if levels is None or effort not in levels:
        raise ChatError("release %s has no effort %s" % (release, effort))
    name = levels[effort]
    if not thinking or name is None:
        return ""
    if name not in texts:
        raise ChatError("the checkpoint brings no text for effort %s" % effort)
    return texts[name]


def render(messages, thinking, release=PREVIEW, effort="none", drop_thinking=True, texts=None):
    """The prompt's parts, joined."""
    texts = texts or {}
    if not isinstance(messages, list) or not all(isinstance(m, dict) for m in messages):
        raise ChatError("messages are no array of objects")
    prefix = effort_text(release, effort, thinking, texts)
    turns = merged(messages)
    sort_results(turns)
    if any(turn.get("tools") for turn in turns):
        drop_thinking = False
    if thinking and drop_thinking:
        turns = without_old_thoughts(turns)
    parts = marker(BOS)
    for i in range(len(turns)):
        parts += text(prefix if i == 0 else "")
        parts += render_turn(turns, i, thinking, drop_thinking, texts)
        parts += transition(turns, i, thinking, drop_thinking)
    return join_parts(parts)


# ---- An answer ----

BLOCK = "\n\n<" + DSML + "tool_calls"


class Deviation(Exception):
    pass


class Scanner:
    def __init__(self, string):
        self.rest = string

    def take(self, string):
        """Whether the rest begins with it; then it is consumed."""
        found = self.rest.startswith(string)
        if found:
            self.rest = self.rest[len(string):]
        return found

    def expect(self, string):
        if not self.take(string):
            raise Deviation

    def until(self, string):
        before, found, after = self.rest.partition(string)
        if not found:
            raise Deviation
        self.rest = after
        return before


def scan_parameter(scan):
    """(key, JSON text) of what follows the name of the tag. The value ends where its closing tag begins."""
    scan.expect(' name="')
    key, _, rest = scan.until("</" + DSML + "parameter").partition('" string="')
    scan.expect(">\n")
    is_string, ended, value = rest.partition('">')
    if not ended or DSML in key or is_string not in ("true", "false"):
        raise Deviation
    return key, to_json(value) if is_string == "true" else value


def scan_invoke(scan):
    scan.expect(' name="')
    name, inside = scan.until('">\n'), {}
    if DSML in name:
        raise Deviation
    while scan.take("<" + DSML + "parameter"):
        key, value = scan_parameter(scan)
        if key in inside:
            raise Deviation
        inside[key] = value
    if not inside:
        scan.expect("\n")
    scan.expect("</" + DSML + "invoke>\n")
    members = ["%s: %s" % (to_json(key), inside[key]) for key in inside]
    return {"name": name, "arguments": "{" + ", ".join(members) + "}"}


def scan_calls(string):
    scan = Scanner(string)
    scan.expect(BLOCK + ">\n")
    calls = []
    while scan.take("<" + DSML + "invoke"):
        calls.append(scan_invoke(scan))
    scan.expect("</" + DSML + "tool_calls>")
    if scan.rest:
        raise Deviation
    return calls


def parse(answer, thinking):
    """A dict of reasoning, content, calls and raw; raw is None, or the block of calls as it stands,
    where it is not exactly what the format says."""
    if answer.endswith(EOS):
        answer = answer[:-len(EOS)]
    before, block, after = answer.partition(BLOCK)
    reasoning, ended, content = before.partition(END_THINK) if thinking else ("", True, before)
    calls, raw = [], None
    if block:
        raw = block + after
        try:
            if ended:
                calls, raw = scan_calls(raw), None
        except Deviation:
            pass
    return {"reasoning": reasoning, "content": content, "calls": calls, "raw": raw}
