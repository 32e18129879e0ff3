"""Cases of the chat format, their prompts written by hand from its description.

A case: (rule, messages, settings, expected parts). In the expected list a Marker is an added token that
the format writes, a plain string is text. Messages that are a string are JSON as it goes over the
wire, where the spelling of numbers and strings counts.
"""


class Marker(str):
    pass


B = Marker("<\uff5cbegin\u2581of\u2581sentence\uff5c>")
E = Marker("<\uff5cend\u2581of\u2581sentence\uff5c>")
U = Marker("<\uff5cUser\uff5c>")
A = Marker("<\uff5cAssistant\uff5c>")
REMIND = Marker("<\uff5clatest_reminder\uff5c>")
TH = Marker("<think>")
ET = Marker("</think>")
M = Marker("\uff5cDSML\uff5c")

CHAT = {"thinking": False}
THINK = {"thinking": True}
KEEP = {"thinking": True, "drop_thinking": False}
NEW = {"thinking": True, "release": "0731", "encoding": "0731"}

# Texts in the place of a checkpoint's. TOOLS has every slot, one of them twice, and doubled braces.
TOOLS = ("## Tools of this test\n\nWrite <{dsml_token}tool_calls> to call one, e.g. {{\"k\": 1}}.\n"
         "Think between {thinking_start_token} and {thinking_end_token}.\n\n{tool_schemas}\n\n"
         "The \"last\" line isn't long; \u00e9, \u4f60\u597d \u2014 C:\\new\t</{dsml_token}tool_calls>\n")
STRONG = "Reasoning Effort: placeholder.\nA \"second\" line.\nThe third \u2014 isn't long.\n\n"
EXTREME = "Reasoning Effort: another.\nIts second \\ line.\nIts third.\n\n"


def tools_text(schemas):
    """TOOLS, filled."""
    return ["## Tools of this test\n\nWrite <", M, "tool_calls> to call one, e.g. {\"k\": 1}.\n"
            "Think between ", TH, " and ", ET, ".\n\n" + schemas + "\n\n"
            "The \"last\" line isn't long; \u00e9, \u4f60\u597d \u2014 C:\\new\t</", M, "tool_calls>\n"]


def user(content, **more):
    return {"role": "user", "content": content, **more}


def system(content, **more):
    return {"role": "system", "content": content, **more}


def developer(content, **more):
    return {"role": "developer", "content": content, **more}


def reminder(content, **more):
    return {"role": "latest_reminder", "content": content, **more}


def tool(content, call_id="", **more):
    return {"role": "tool", "tool_call_id": call_id, "content": content, **more}


def assistant(content="", reasoning=None, calls=None, **more):
    message = {"role": "assistant", "content": content, **more}
    if reasoning is not None:
        message["reasoning_content"] = reasoning
    if calls is not None:
        message["tool_calls"] = calls
    return message


def call(name, arguments, call_id=None):
    made = {"type": "function", "function": {"name": name, "arguments": arguments}}
    return made if call_id is None else {"id": call_id, **made}


def schema(name, **more):
    return {"type": "function", "function": {"name": name, **more}}


def invoke(name, *parameters):
    """An invoke as the format writes it; parameters are (key, "true" or "false", value)."""
    parts = ["<", M, 'invoke name="' + name + '">\n']
    for i, (key, is_string, value) in enumerate(parameters):
        parts += ["\n" if i else "", "<", M, 'parameter name="' + key + '" string="' + is_string
                  + '">' + value + "</", M, "parameter>"]
    return parts + ["\n</", M, "invoke>"]


def block(*invokes):
    parts = ["\n\n<", M, "tool_calls>\n"]
    for i, one in enumerate(invokes):
        parts += ["\n" if i else ""] + one
    return parts + ["\n</", M, "tool_calls>"]


FORMAT = "\n\n## Response Format:\n\nYou MUST strictly adhere to the following schema to reply:\n"
F_THEN_G = [call("f", '{"a":"s","n":3}', "1"), call("g", "{}", "2")]
F_THEN_G_TEXT = block(invoke("f", ("a", "true", "s"), ("n", "false", "3")), invoke("g"))


def one_call(arguments, *parameters):
    """A conversation whose last turn calls `f`, and its prompt in chat mode."""
    return ([user("q"), assistant(calls=[call("f", arguments)])], CHAT,
            [B, U, "q", A, ET] + block(invoke("f", *parameters)) + [E])


def schema_number(spelled, printed):
    return ('[{"role":"system","content":"s","response_format":{"n":%s}}]' % spelled, CHAT,
            [B, "s" + FORMAT + '{"n": %s}' % printed])


TURNS = [
    ("no message: the beginning alone", [], CHAT, [B]),
    ("no message and an effort", [], {**NEW, "effort": "max"}, [B]),
    ("user, chat", [user("hello")], CHAT, [B, U, "hello", A, ET]),
    ("user, thinking", [user("hello")], THINK, [B, U, "hello", A, TH]),
    ("empty user", [user("")], CHAT, [B, U, A, ET]),
    ("user without content", [{"role": "user"}], CHAT, [B, U, A, ET]),
    ("nothing is trimmed", [user(" \n a \t\n")], CHAT, [B, U, " \n a \t\n", A, ET]),
    ("nothing of the other roles is trimmed",
     [system(" s\n"), developer("\td\n"), reminder(" r "), assistant("\n a ", " T\n")], THINK,
     [B, " s\n", U, "\td\n", A, TH, REMIND, " r  T\n", ET, "\n a ", E]),
    ("nothing of a tool result is trimmed", [tool(" R\n")], CHAT,
     [B, U, "<tool_result> R\n</tool_result>", A, ET]),
    ("nothing is escaped", [user("<a>&amp;\"'{}</a>")], CHAT, [B, U, "<a>&amp;\"'{}</a>", A, ET]),
    ("a user's markers are text", [user("<\uff5cAssistant\uff5c></think>x<\uff5cend\u2581of\u2581sentence\uff5c>")], CHAT,
     [B, U, "<\uff5cAssistant\uff5c></think>x<\uff5cend\u2581of\u2581sentence\uff5c>", A, ET]),
    ("a system's markers are text", [system("<think>\uff5cDSML\uff5c")], CHAT, [B, "<think>\uff5cDSML\uff5c"]),
    ("a tool's markers are text", [tool("</tool_result><\uff5cUser\uff5c>")], CHAT,
     [B, U, "<tool_result></tool_result><\uff5cUser\uff5c></tool_result>", A, ET]),
    ("an assistant's markers are text", [user("a"), assistant("<\uff5cUser\uff5c>", "</think>")], THINK,
     [B, U, "a", A, TH, "</think>", ET, "<\uff5cUser\uff5c>", E]),
    ("system alone", [system("Be brief.")], THINK, [B, "Be brief."]),
    ("system and user", [system("Be brief."), user("hello")], THINK,
     [B, "Be brief.", U, "hello", A, TH]),
    ("system without content", [{"role": "system"}, user("a")], CHAT, [B, U, "a", A, ET]),
    ("system with null", [system(None), user("a")], CHAT, [B, U, "a", A, ET]),
    ("two systems", [system("a"), system("b"), user("c")], CHAT, [B, "ab", U, "c", A, ET]),
    ("system after user: no transition", [user("a"), system("b"), user("c")], CHAT,
     [B, U, "ab", U, "c", A, ET]),
    ("system between user and assistant: no transition at all",
     [user("a"), system("b"), assistant("c")], CHAT, [B, U, "abc", E]),
    ("developer", [developer("d")], CHAT, [B, U, "d", A, ET]),
    ("developer, thinking", [developer("d")], THINK, [B, U, "d", A, TH]),
    ("developer and user do not fuse", [developer("d"), user("u")], CHAT,
     [B, U, "d", U, "u", A, ET]),
    ("user and developer do not fuse", [user("u"), developer("d")], CHAT,
     [B, U, "u", U, "d", A, ET]),
    ("reminder after user: a transition before it", [user("a"), reminder("r")], CHAT,
     [B, U, "a", A, ET, REMIND, "r"]),
    ("reminder after user, thinking", [user("a"), reminder("r")], THINK,
     [B, U, "a", A, TH, REMIND, "r"]),
    ("reminder before user: no transition", [reminder("r"), user("a")], CHAT,
     [B, REMIND, "r", U, "a", A, ET]),
    ("reminder between users keeps them apart", [user("a"), reminder("r"), user("b")], CHAT,
     [B, U, "a", A, ET, REMIND, "r", U, "b", A, ET]),
    ("reminder before assistant: no transition", [reminder("r"), assistant("a")], CHAT,
     [B, REMIND, "ra", E]),
    ("assistant first", [assistant("a")], CHAT, [B, "a", E]),
    ("assistant first, thinking: it comes after no question", [assistant("a")], THINK,
     [B, ET, "a", E]),
    ("two assistants", [user("q"), assistant("a"), assistant("b")], CHAT,
     [B, U, "q", A, ET, "a", E, "b", E]),
    ("assistant last: no transition", [user("q"), assistant("a")], CHAT,
     [B, U, "q", A, ET, "a", E]),
    ("assistant with null", [user("q"), assistant(None)], CHAT, [B, U, "q", A, ET, E]),
    ("assistant without content", [user("q"), {"role": "assistant"}], CHAT, [B, U, "q", A, ET, E]),
    ("assistant without EOS", [user("q"), assistant("a", wo_eos=True)], CHAT,
     [B, U, "q", A, ET, "a"]),
    ("wo_eos false", [user("q"), assistant("a", wo_eos=False)], CHAT, [B, U, "q", A, ET, "a", E]),
    ("wo_eos after calls", [user("q"), assistant("a", calls=[call("g", "{}")], wo_eos=True)], CHAT,
     [B, U, "q", A, ET, "a"] + block(invoke("g"))),
    ("wo_eos of a user changes nothing", [user("q", wo_eos=True), assistant("a")], CHAT,
     [B, U, "q", A, ET, "a", E]),
]

MERGING = [
    ("two users fuse", [user("a"), user("b")], CHAT, [B, U, "a\n\nb", A, ET]),
    ("an empty user among them still separates", [user("a"), user(""), user("b")], CHAT,
     [B, U, "a\n\n\n\nb", A, ET]),
    ("three users fuse, thinking", [user("a"), user("b"), user("c")], THINK,
     [B, U, "a\n\nb\n\nc", A, TH]),
    ("a tool result", [tool("R", "1")], CHAT, [B, U, "<tool_result>R</tool_result>", A, ET]),
    ("a tool result without a call before it", [user("a"), tool("R", "x")], CHAT,
     [B, U, "a\n\n<tool_result>R</tool_result>", A, ET]),
    ("a tool result without id", [{"role": "tool", "content": "R"}], CHAT,
     [B, U, "<tool_result>R</tool_result>", A, ET]),
    ("a tool result without content", [{"role": "tool", "tool_call_id": "1"}], CHAT,
     [B, U, "<tool_result></tool_result>", A, ET]),
    ("tool, user, tool", [tool("R"), user("u"), tool("S")], CHAT,
     [B, U, "<tool_result>R</tool_result>\n\nu\n\n<tool_result>S</tool_result>", A, ET]),
    ("a turn after a task is its own", [user("a", task="title"), user("b")], CHAT,
     [B, U, "a", U, "b", A, ET]),
    ("a tool result fuses even after a task", [user("a", task="title"), tool("R")], CHAT,
     [B, U, "a\n\n<tool_result>R</tool_result>", Marker("<\uff5ctitle\uff5c>")]),
    ("the task of a fused message is lost", [user("a"), user("b", task="title")], CHAT,
     [B, U, "a\n\nb", A, ET]),
    ("the task of a message after a tool result is lost", [tool("R"), user("b", task="title")], CHAT,
     [B, U, "<tool_result>R</tool_result>\n\nb", A, ET]),
    ("task null is none", [user("a", task=None), user("b")], CHAT, [B, U, "a\n\nb", A, ET]),
    ("tools of a user are lost", [user("a", tools=[schema("f")])], CHAT, [B, U, "a", A, ET]),
    ("tools of a user do not keep thoughts",
     [user("a"), assistant("b", "T"), user("c", tools=[schema("f")])], THINK,
     [B, U, "a", A, ET, "b", E, U, "c", A, TH]),
    ("response_format of a user is lost", [user("a", response_format={"a": 1})], CHAT,
     [B, U, "a", A, ET]),
    ("tools of a tool message are lost", [tool("R", tools=[schema("f")])], CHAT,
     [B, U, "<tool_result>R</tool_result>", A, ET]),
    ("parts of a user", [user([{"type": "text", "text": "a"}, {"type": "text", "text": "b"}])], CHAT,
     [B, U, "a\n\nb", A, ET]),
    ("parts of other types",
     [user([{"type": "image_url", "image_url": {"url": "x"}}, {"type": "text", "text": "b"}])], CHAT,
     [B, U, "[Unsupported image_url]\n\nb", A, ET]),
    ("no parts", [user([])], CHAT, [B, U, A, ET]),
    ("a part without text", [user([{"type": "text"}, {"type": "text", "text": "b"}])], CHAT,
     [B, U, "\n\nb", A, ET]),
    ("parts of a tool", [tool([{"type": "text", "text": "a"}, {"type": "audio"}])], CHAT,
     [B, U, "<tool_result>a\n\n[Unsupported audio]</tool_result>", A, ET]),
    ("a list and a string fuse", [user([{"type": "text", "text": "a"}]), user("b")], CHAT,
     [B, U, "a\n\nb", A, ET]),
]


def results(*texts):
    return "\n\n".join("<tool_result>" + one + "</tool_result>" for one in texts)


F_G = [user("q"), assistant(calls=F_THEN_G)]
F_G_TEXT = [B, U, "q", A, ET] + F_THEN_G_TEXT + [E]

SORTING = [
    ("results in the order of the calls", F_G + [tool("R2", "2"), tool("R1", "1"), user("and?")],
     THINK, F_G_TEXT + [U, results("R1", "R2") + "\n\nand?", A, TH]),
    ("texts keep their places", F_G + [tool("R2", "2"), user("t"), tool("R1", "1")], CHAT,
     F_G_TEXT + [U, results("R1") + "\n\nt\n\n" + results("R2"), A, ET]),
    ("an unknown id counts as the first call", F_G + [tool("R2", "2"), tool("RX", "x")], CHAT,
     F_G_TEXT + [U, results("RX", "R2"), A, ET]),
    ("equal places keep their order", F_G + [tool("RX", "x"), tool("R1", "1"), tool("RY", "y")],
     CHAT, F_G_TEXT + [U, results("RX", "R1", "RY"), A, ET]),
    ("the same id twice", F_G + [tool("a", "2"), tool("b", "1"), tool("c", "2")], CHAT,
     F_G_TEXT + [U, results("b", "a", "c"), A, ET]),
    ("calls of the last assistant only",
     F_G + [assistant(calls=[call("h", "{}", "2"), call("h", "{}", "1")]), tool("R1", "1"),
            tool("R2", "2")], CHAT,
     F_G_TEXT + block(invoke("h"), invoke("h")) + [E, U, results("R2", "R1"), A, ET]),
    ("an assistant without calls between", F_G + [assistant("w"), tool("R2", "2"), tool("R1", "1")],
     CHAT, F_G_TEXT + ["w", E, U, results("R1", "R2"), A, ET]),
    ("calls without ids", [user("q"), assistant(calls=[call("f", "{}"), call("g", "{}")]),
                           tool("b", "2"), tool("a", "1")], CHAT,
     [B, U, "q", A, ET] + block(invoke("f"), invoke("g")) + [E, U, results("b", "a"), A, ET]),
    ("results before the calls stay", [tool("R2", "2"), tool("R1", "1"), assistant(calls=F_THEN_G)],
     CHAT, [B, U, results("R2", "R1"), A, ET] + F_THEN_G_TEXT + [E]),
]

OLD_TURN = [user("hello"), assistant("Hello! I am DeepSeek.", "They greet."), user("1+1=?")]

THINKING = [
    ("an old turn loses its thoughts", OLD_TURN, THINK,
     [B, U, "hello", A, ET, "Hello! I am DeepSeek.", E, U, "1+1=?", A, TH]),
    ("an old turn keeps them", OLD_TURN, KEEP,
     [B, U, "hello", A, TH, "They greet.", ET, "Hello! I am DeepSeek.", E, U, "1+1=?", A, TH]),
    ("chat mode writes no thoughts", OLD_TURN, CHAT,
     [B, U, "hello", A, ET, "Hello! I am DeepSeek.", E, U, "1+1=?", A, ET]),
    ("chat mode writes none with drop_thinking off", OLD_TURN,
     {"thinking": False, "drop_thinking": False},
     [B, U, "hello", A, ET, "Hello! I am DeepSeek.", E, U, "1+1=?", A, ET]),
    ("the answer to the last question keeps them", OLD_TURN + [assistant("2", "Easy.")], THINK,
     [B, U, "hello", A, ET, "Hello! I am DeepSeek.", E, U, "1+1=?", A, TH, "Easy.", ET, "2", E]),
    ("absent reasoning is empty", [user("a"), assistant("b")], THINK,
     [B, U, "a", A, TH, ET, "b", E]),
    ("null reasoning is empty", [user("a"), assistant("b", None, reasoning_content=None)], THINK,
     [B, U, "a", A, TH, ET, "b", E]),
    ("tools of the system keep thoughts", [system("s", tools=[schema("f")])] + OLD_TURN,
     {**THINK, "encoding": "preview"},
     [B, "s\n\n"] + tools_text('{"name": "f"}')
     + [U, "hello", A, TH, "They greet.", ET, "Hello! I am DeepSeek.", E, U, "1+1=?", A, TH]),
    ("empty tools keep nothing", [system("s", tools=[])] + OLD_TURN, THINK,
     [B, "s", U, "hello", A, ET, "Hello! I am DeepSeek.", E, U, "1+1=?", A, TH]),
    ("tools of an old developer keep thoughts and the developer",
     [developer("d", tools=[schema("f")]), assistant("a", "T"), user("u")],
     {**THINK, "encoding": "preview"},
     [B, U, "d\n\n"] + tools_text('{"name": "f"}')
     + [A, TH, "T", ET, "a", E, U, "u", A, TH]),
    ("an old developer vanishes", [developer("d"), assistant("a", "T"), user("u")], THINK,
     [B, "a", E, U, "u", A, TH]),
    ("an old developer stays in chat mode", [developer("d"), assistant("a"), user("u")], CHAT,
     [B, U, "d", A, ET, "a", E, U, "u", A, ET]),
    ("an old developer stays with drop_thinking off", [developer("d"), user("u")], KEEP,
     [B, U, "d", U, "u", A, TH]),
    ("an old empty developer vanishes", [developer(""), user("u")], THINK, [B, U, "u", A, TH]),
    ("the last developer is the last question", [user("u"), assistant("a", "T"), developer("d")],
     THINK, [B, U, "u", A, ET, "a", E, U, "d", A, TH]),
    ("an old unknown role vanishes", [{"role": "critic", "content": "x"}, user("u")], THINK,
     [B, U, "u", A, TH]),
    ("users around a vanished message stay two turns", [user("a"), developer("d"), user("b")], THINK,
     [B, U, "a", U, "b", A, TH]),
    ("an old system and reminder stay", [system("s"), reminder("r"), user("u")], THINK,
     [B, "s", REMIND, "r", U, "u", A, TH]),
    ("an old question before a reminder gets no thoughts", [user("a"), reminder("r"), user("b")],
     THINK, [B, U, "a", A, ET, REMIND, "r", U, "b", A, TH]),
    ("an old question before a reminder, kept", [user("a"), reminder("r"), user("b")], KEEP,
     [B, U, "a", A, TH, REMIND, "r", U, "b", A, TH]),
    ("no question: all thoughts stay", [system("s"), assistant("a", "T"), assistant("b", "V")], THINK,
     [B, "sT", ET, "a", E, "V", ET, "b", E]),
    ("a tool result is a question", [user("u"), assistant("a", "T", [call("g", "{}", "1")]),
                                     tool("R", "1")], THINK,
     [B, U, "u", A, ET, "a"] + block(invoke("g")) + [E, U, results("R"), A, TH]),
]

TASKS = [
    ("task " + name, [user("u", task=name)], CHAT, [B, U, "u", Marker("<\uff5c%s\uff5c>" % name)])
    for name in ("query", "authority", "domain", "title", "read_url")
] + [
    ("task title, thinking", [user("u", task="title")], THINK, [B, U, "u", Marker("<\uff5ctitle\uff5c>")]),
    ("task action, chat", [user("u", task="action")], CHAT,
     [B, U, "u", A, ET, Marker("<\uff5caction\uff5c>")]),
    ("task action, thinking", [user("u", task="action")], THINK,
     [B, U, "u", A, TH, Marker("<\uff5caction\uff5c>")]),
    ("task action of an old question, thinking",
     [user("u", task="action"), assistant("Search"), user("v")], THINK,
     [B, U, "u", A, TH, Marker("<\uff5caction\uff5c>"), "Search", E, U, "v", A, TH]),
    ("the answer to a task has no thoughts", [user("u", task="title"), assistant("t", "T")], THINK,
     [B, U, "u", Marker("<\uff5ctitle\uff5c>"), "t", E]),
    ("nor with drop_thinking off", [user("u", task="title"), assistant("t", "T")], KEEP,
     [B, U, "u", Marker("<\uff5ctitle\uff5c>"), "t", E]),
    ("the second answer has", [user("u", task="title"), assistant("t", "T"), assistant("a", "V")],
     THINK, [B, U, "u", Marker("<\uff5ctitle\uff5c>"), "t", E, "V", ET, "a", E]),
    ("a task before a system writes nothing", [user("u", task="title"), system("s")], CHAT,
     [B, U, "us"]),
    ("a task before a reminder", [user("u", task="title"), reminder("r")], CHAT,
     [B, U, "u", Marker("<\uff5ctitle\uff5c>"), REMIND, "r"]),
    ("task of a developer", [developer("d", task="domain")], CHAT,
     [B, U, "d", Marker("<\uff5cdomain\uff5c>")]),
    ("task of a system", [system("s", task="title")], CHAT, [B, "s", Marker("<\uff5ctitle\uff5c>")]),
    ("task of an assistant", [user("u"), assistant("a", task="query")], CHAT,
     [B, U, "u", A, ET, "a", E, Marker("<\uff5cquery\uff5c>")]),
]

APPENDICES = [
    ("tools of the system", [system("s", tools=[schema("f", description="d"), schema("g")]), user("u")],
     {**CHAT, "encoding": "preview"},
     [B, "s\n\n"] + tools_text('{"name": "f", "description": "d"}\n{"name": "g"}')
     + [U, "u", A, ET]),
    ("tools of a system without content", [system("", tools=[schema("g")])],
     {**CHAT, "encoding": "preview"}, [B, "\n\n"] + tools_text('{"name": "g"}')),
    ("tools of a developer", [developer("d", tools=[schema("g")])],
     {**CHAT, "encoding": "preview"},
     [B, U, "d\n\n"] + tools_text('{"name": "g"}') + [A, ET]),
    ("the encoding file of 0731 has the same text for tools", [system("s", tools=[schema("g")])],
     {**NEW, "thinking": False}, [B, "s\n\n"] + tools_text('{"name": "g"}')),
    ("only the function of a tool", [system("s", tools=[{"type": "function", "strict": True,
                                                         "function": {"b": 1, "a": [None, True]}}])],
     {**CHAT, "encoding": "preview"}, [B, "s\n\n"] + tools_text('{"b": 1, "a": [null, true]}')),
    ("a schema's markers and slots are text",
     [system("s", tools=[schema("<think>{dsml_token}{{\uff5cDSML\uff5c")])],
     {**CHAT, "encoding": "preview"},
     [B, "s\n\n"] + tools_text('{"name": "<think>{dsml_token}{{\uff5cDSML\uff5c"}')),
    ("response_format of the system", [system("s", response_format={"type": "object"}), user("u")],
     CHAT, [B, "s" + FORMAT + '{"type": "object"}', U, "u", A, ET]),
    ("response_format of a developer", [developer("d", response_format={"a": []})], CHAT,
     [B, U, "d" + FORMAT + '{"a": []}', A, ET]),
    ("an empty response_format is none", [system("s", response_format={})], CHAT, [B, "s"]),
    ("tools, then response_format",
     [system("s", tools=[schema("g")], response_format={"a": 1})], {**CHAT, "encoding": "preview"},
     [B, "s\n\n"] + tools_text('{"name": "g"}') + [FORMAT + '{"a": 1}']),
]

EFFORTS = [
    ("preview none", [user("u")], {**THINK, "effort": "none"}, [B, U, "u", A, TH]),
    ("preview high adds nothing", [user("u")], {**THINK, "effort": "high", "encoding": "preview"},
     [B, U, "u", A, TH]),
    ("preview high needs no file", [user("u")], {**THINK, "effort": "high"}, [B, U, "u", A, TH]),
    ("preview max", [user("u")], {**THINK, "effort": "max", "encoding": "preview"},
     [B, STRONG, U, "u", A, TH]),
    ("preview max in chat mode", [user("u")], {**CHAT, "effort": "max", "encoding": "preview"},
     [B, U, "u", A, ET]),
    ("0731 none", [user("u")], {**NEW, "effort": "none"}, [B, U, "u", A, TH]),
    ("0731 low adds nothing", [user("u")], {**NEW, "effort": "low"}, [B, U, "u", A, TH]),
    ("0731 low needs no file", [user("u")], {**NEW, "effort": "low", "encoding": None},
     [B, U, "u", A, TH]),
    ("0731 high", [user("u")], {**NEW, "effort": "high"}, [B, STRONG, U, "u", A, TH]),
    ("0731 max", [user("u")], {**NEW, "effort": "max"}, [B, EXTREME, U, "u", A, TH]),
    ("0731 max in chat mode", [user("u")], {**NEW, "thinking": False, "effort": "max"},
     [B, U, "u", A, ET]),
    ("0731 max in chat mode needs no file", [user("u")],
     {**NEW, "thinking": False, "effort": "max", "encoding": None}, [B, U, "u", A, ET]),
    ("before the system's own text", [system("s"), user("u")], {**NEW, "effort": "high"},
     [B, STRONG + "s", U, "u", A, TH]),
    ("before an assistant", [assistant("a", "T")], {**NEW, "effort": "high"},
     [B, STRONG + "T", ET, "a", E]),
    ("once", [user("u"), assistant("a", "T"), user("v")], {**NEW, "effort": "max"},
     [B, EXTREME, U, "u", A, ET, "a", E, U, "v", A, TH]),
    ("before the first message that is left", [developer("d"), user("u")],
     {**NEW, "effort": "high"}, [B, STRONG, U, "u", A, TH]),
]

CALLS = [
    ("calls after content", [user("q"), assistant("Let me.", calls=F_THEN_G)], CHAT,
     [B, U, "q", A, ET, "Let me."] + F_THEN_G_TEXT + [E]),
    ("calls after thoughts", [user("q"), assistant("", "T", F_THEN_G)], THINK,
     [B, U, "q", A, TH, "T", ET] + F_THEN_G_TEXT + [E]),
    ("the bytes of a block", [user("q"), assistant(calls=F_THEN_G)], CHAT,
     [B, U, "q", A, ET, "\n\n<", M, "tool_calls>\n<", M, "invoke name=\"f\">\n<", M,
      "parameter name=\"a\" string=\"true\">s</", M, "parameter>\n<", M,
      "parameter name=\"n\" string=\"false\">3</", M, "parameter>\n</", M, "invoke>\n<", M,
      "invoke name=\"g\">\n\n</", M, "invoke>\n</", M, "tool_calls>", E]),
    ("no calls in the list", [user("q"), assistant("a", calls=[])], CHAT, [B, U, "q", A, ET, "a", E]),
    ("calls null", [user("q"), assistant("a", tool_calls=None)], CHAT, [B, U, "q", A, ET, "a", E]),
    ("names and keys are not escaped",
     [user("q"), assistant(calls=[call('a"<b>', '{"k\\"<":"v"}')])], CHAT,
     [B, U, "q", A, ET] + block(invoke('a"<b>', ('k"<', "true", "v"))) + [E]),
] + [("arguments: " + name,) + one_call(*rest) for name, *rest in [
    ("none", "{}"),
    ("spaces around", " \t\r\n{ \"a\" : 1 } ", ("a", "false", "1")),
    ("a string raw", '{"a":"1\\n\\"2\\""}', ("a", "true", '1\n"2"')),
    ("an empty string", '{"a":""}', ("a", "true", "")),
    ("an empty key", '{"":0}', ("", "false", "0")),
    ("escapes in a string", '{"a":"\\u00e9\\u4f60\\ud83d\\ude00\\/\\b"}', ("a", "true", "\u00e9\u4f60\U0001f600/\b")),
    ("words", '{"t":true,"f":false,"n":null}', ("t", "false", "true"), ("f", "false", "false"),
     ("n", "false", "null")),
    ("order kept", '{"z":1,"a":2,"m":3}', ("z", "false", "1"), ("a", "false", "2"),
     ("m", "false", "3")),
    ("nested", '{"o":{"b":[1,2,{"c":"\u00e9"}],"a":{}},"l":[]}',
     ("o", "false", '{"b": [1, 2, {"c": "\u00e9"}], "a": {}}'), ("l", "false", "[]")),
    ("strings inside", '{"l":["\\n\\t\\r\\b\\f\\u0001\\u001f\\u007f\\"\\\\\\/"]}',
     ("l", "false", '["\\n\\t\\r\\b\\f\\u0001\\u001f\x7f\\"\\\\/"]')),
    ("not ASCII inside", '{"l":["\\u00e9", "\\u2028", "\\ud83d\\ude00"]}',
     ("l", "false", '["\u00e9", "\u2028", "\U0001f600"]')),
    ("markers inside", '{"a":"<\uff5cUser\uff5c>","b":["</think>"]}', ("a", "true", "<\uff5cUser\uff5c>"),
     ("b", "false", '["</think>"]')),
    ("1.0 stays", '{"a":1.0}', ("a", "false", "1.0")),
    ("1.50", '{"a":1.50}', ("a", "false", "1.5")),
    ("0.1", '{"a":0.1}', ("a", "false", "0.1")),
    ("-0.0", '{"a":-0.0}', ("a", "false", "-0.0")),
    ("-0", '{"a":-0}', ("a", "false", "0")),
    ("1e2", '{"a":1e2}', ("a", "false", "100.0")),
    ("1E+15", '{"a":1E+15}', ("a", "false", "1000000000000000.0")),
    ("1e16", '{"a":1e16}', ("a", "false", "1e+16")),
    ("1.5e22", '{"a":1.5e22}', ("a", "false", "1.5e+22")),
    ("1e100", '{"a":1e100}', ("a", "false", "1e+100")),
    ("1e-4", '{"a":1e-4}', ("a", "false", "0.0001")),
    ("1e-5", '{"a":1e-5}', ("a", "false", "1e-05")),
    ("the shortest digits", '{"a":0.30000000000000004441}', ("a", "false", "0.30000000000000004")),
    ("5e-324", '{"a":5e-324}', ("a", "false", "5e-324")),
    ("the largest double", '{"a":1.7976931348623157e308}', ("a", "false", "1.7976931348623157e+308")),
    ("2^53 + 1", '{"a":9007199254740993}', ("a", "false", "9007199254740993")),
    ("a long integer", '{"a":-123456789012345678901234567890}',
     ("a", "false", "-123456789012345678901234567890")),
    ("no JSON", "x = 1", ("arguments", "true", "x = 1")),
    ("empty", "", ("arguments", "true", "")),
    ("cut off", '{"a":', ("arguments", "true", '{"a":')),
    ("more after it", "{} x", ("arguments", "true", "{} x")),
    ("two values", "{}{}", ("arguments", "true", "{}{}")),
    ("a last comma", '{"a":1,}', ("arguments", "true", '{"a":1,}')),
    ("apostrophes", "{'a':1}", ("arguments", "true", "{'a':1}")),
    ("a key without quotes", "{a:1}", ("arguments", "true", "{a:1}")),
    ("a zero before digits", '{"a":01}', ("arguments", "true", '{"a":01}')),
    ("a plus", '{"a":+1}', ("arguments", "true", '{"a":+1}')),
    ("a point at the end", '{"a":1.}', ("arguments", "true", '{"a":1.}')),
    ("a point at the start", '{"a":.5}', ("arguments", "true", '{"a":.5}')),
    ("an exponent without digits", '{"a":1e}', ("arguments", "true", '{"a":1e}')),
    ("hex", '{"a":0x1}', ("arguments", "true", '{"a":0x1}')),
    ("a raw line break in a string", '{"a":"1\n2"}', ("arguments", "true", '{"a":"1\n2"}')),
    ("a raw tab in a string", '{"a":"1\t2"}', ("arguments", "true", '{"a":"1\t2"}')),
    ("an unknown escape", '{"a":"\\x41"}', ("arguments", "true", '{"a":"\\x41"}')),
    ("a short escape", '{"a":"\\u12"}', ("arguments", "true", '{"a":"\\u12"}')),
    ("a comment", "{} // c", ("arguments", "true", "{} // c")),
    ("a no-break space", "{\u00a0}", ("arguments", "true", "{\u00a0}")),
    ("a form feed", "{\f}", ("arguments", "true", "{\f}")),
    ("True", '{"a":True}', ("arguments", "true", '{"a":True}')),
    ("markers and no JSON", "</\uff5cDSML\uff5cinvoke>", ("arguments", "true", "</\uff5cDSML\uff5cinvoke>")),
]]

NUMBERS = [("JSON number %s" % spelled,) + schema_number(spelled, printed) for spelled, printed in [
    ("1", "1"), ("-1", "-1"), ("1.0", "1.0"), ("-0", "0"), ("-0.0", "-0.0"), ("100000.00", "100000.0"),
    ("1e5", "100000.0"), ("1E16", "1e+16"), ("123456789012345680.0", "1.2345678901234568e+17"),
    ("0.00001", "1e-05"), ("18446744073709551616", "18446744073709551616"),
    ("9223372036854775807", "9223372036854775807"), ("3.14159", "3.14159"), ("2.5e-8", "2.5e-08"),
]] + [
    ("JSON strings", '[{"role":"system","content":"s","response_format":{"\\u00e9\\n":"\\u0007\\/\u00e9\\"\\\\"}}]',
     CHAT, [B, "s" + FORMAT + '{"\u00e9\\n": "\\u0007/\u00e9\\"\\\\"}']),
    ("escapes in a message", '[{"role":"us\\u0065r","content":"\\u00e9\\ud83d\\ude00\\/\\n"}]', CHAT,
     [B, U, "\u00e9\U0001f600/\n", A, ET]),
]

CASES = (TURNS + MERGING + SORTING + THINKING + TASKS + APPENDICES + EFFORTS + CALLS + NUMBERS)

# (rule, messages, settings)
ERRORS = [
    ("messages an object", {}, CHAT),
    ("messages a string", "\"user\"", CHAT),
    ("messages null", "null", CHAT),
    ("a message a string", '["user"]', CHAT),
    ("a message null", "[null]", CHAT),
    ("a message an array", "[[]]", CHAT),
    ("unknown role", [{"role": "critic", "content": "x"}], CHAT),
    ("unknown role, thinking", [user("u"), {"role": "critic", "content": "x"}], THINK),
    ("old unknown role in chat mode", [{"role": "critic", "content": "x"}, user("u")], CHAT),
    ("old unknown role with drop_thinking off", [{"role": "critic", "content": "x"}, user("u")], KEEP),
    ("no role", [{"content": "x"}], CHAT),
    ("role a number", [{"role": 1, "content": "x"}], CHAT),
    ("role of other case", [{"role": "User", "content": "x"}], CHAT),
    ("role with a space", [{"role": "user ", "content": "x"}], CHAT),
    ("developer empty", [developer("")], CHAT),
    ("developer without content", [{"role": "developer"}], CHAT),
    ("developer null", [developer(None)], THINK),
    ("unknown task", [user("u", task="poem")], CHAT),
    ("unknown task, thinking", [user("u", task="Title")], THINK),
    ("empty task", [user("u", task="")], CHAT),
    ("preview has no low", [user("u")], {**THINK, "effort": "low", "encoding": "preview"}),
    ("unknown effort", [user("u")], {**THINK, "effort": "medium", "encoding": "preview"}),
    ("unknown effort of 0731", [user("u")], {**NEW, "effort": "medium"}),
    ("empty effort", [user("u")], {**NEW, "effort": ""}),
    ("unknown release", [user("u")], {**THINK, "release": "0999"}),
    ("max without a file", [user("u")], {**THINK, "effort": "max"}),
    ("0731 high without a file", [user("u")], {**NEW, "effort": "high", "encoding": None}),
    ("0731 max, only the preview's text", [user("u")], {**NEW, "effort": "max", "encoding": "preview"}),
    ("a tool without function", [system("s", tools=[{"name": "f"}])],
     {**CHAT, "encoding": "preview"}),
]

BLOCK_F = ('\n\n<\uff5cDSML\uff5ctool_calls>\n<\uff5cDSML\uff5cinvoke name="f">\n'
           '<\uff5cDSML\uff5cparameter name="a" string="true">s</\uff5cDSML\uff5cparameter>\n'
           '<\uff5cDSML\uff5cparameter name="n" string="false">3</\uff5cDSML\uff5cparameter>\n</\uff5cDSML\uff5cinvoke>\n'
           '</\uff5cDSML\uff5ctool_calls>')
BLOCK_FG = BLOCK_F.replace("</\uff5cDSML\uff5ctool_calls>",
                           '<\uff5cDSML\uff5cinvoke name="g">\n\n</\uff5cDSML\uff5cinvoke>\n</\uff5cDSML\uff5ctool_calls>')
CALL_F = {"name": "f", "arguments": '{"a": "s", "n": 3}'}
CALL_G = {"name": "g", "arguments": "{}"}


def valued(value, is_string="true"):
    return ('\n\n<\uff5cDSML\uff5ctool_calls>\n<\uff5cDSML\uff5cinvoke name="f">\n<\uff5cDSML\uff5cparameter name="a" string="%s">'
            '%s</\uff5cDSML\uff5cparameter>\n</\uff5cDSML\uff5cinvoke>\n</\uff5cDSML\uff5ctool_calls>' % (is_string, value))


def arguments(text):
    return [{"name": "f", "arguments": text}]


# (rule, answer, thinking, reasoning, content, calls, raw)
ANSWERS = [
    ("content", "Hi.<\uff5cend\u2581of\u2581sentence\uff5c>", False, "", "Hi.", [], None),
    ("content without EOS", "Hi.", False, "", "Hi.", [], None),
    ("nothing", "", False, "", "", [], None),
    ("EOS alone", "<\uff5cend\u2581of\u2581sentence\uff5c>", False, "", "", [], None),
    ("thoughts", "T</think>Hi.<\uff5cend\u2581of\u2581sentence\uff5c>", True, "T", "Hi.", [], None),
    ("no thoughts", "</think>Hi.", True, "", "Hi.", [], None),
    ("thoughts alone", "T</think>", True, "T", "", [], None),
    ("spaces stay", " T\n</think>\n\n Hi. \n", True, " T\n", "\n\n Hi. \n", [], None),
    ("unfinished thoughts", "T and", True, "T and", "", [], None),
    ("unfinished thoughts that may yet end", "T</thin", True, "T</thin", "", [], None),
    ("not ASCII", "\u00e9\u4f60</think>\U0001f600", True, "\u00e9\u4f60", "\U0001f600", [], None),
    ("half an EOS is content", "Hi.<\uff5cend\u2581of", False, "", "Hi.<\uff5cend\u2581of", [], None),
    ("half a block is content", "Hi.\n\n<\uff5cDSML\uff5ctool", False, "", "Hi.\n\n<\uff5cDSML\uff5ctool", [], None),
    ("line breaks before other text", "a\n\n<b>\n\n", False, "", "a\n\n<b>\n\n", [], None),
    ("a call", "Hi." + BLOCK_F + "<\uff5cend\u2581of\u2581sentence\uff5c>", False, "", "Hi.", [CALL_F], None),
    ("a call without EOS", "Hi." + BLOCK_F, False, "", "Hi.", [CALL_F], None),
    ("a call without content", BLOCK_F, False, "", "", [CALL_F], None),
    ("two calls after thoughts", "T</think>" + BLOCK_FG, True, "T", "", [CALL_F, CALL_G], None),
    ("a third line break is content", "Hi.\n" + BLOCK_F, False, "", "Hi.\n", [CALL_F], None),
    ("a string's JSON", valued('a"\\\n\t\u00e9/'), False, "", "", arguments('{"a": "a\\"\\\\\\n\\t\u00e9/"}'), None),
    ("an empty value", valued(""), False, "", "", arguments('{"a": ""}'), None),
    ("JSON stays as it stands", valued('{"b":[1,2.50]}', "false"), False, "", "",
     arguments('{"a": {"b":[1,2.50]}}'), None),
    ("a value with tags", valued("<b></b>\n<tool_result>"), False, "", "",
     arguments('{"a": "<b></b>\\n<tool_result>"}'), None),
    ("a value like the end of a string", valued('" string="true">x'), False, "", "",
     arguments('{"a": "\\" string=\\"true\\">x"}'), None),
] + [
    ("deviation: " + name, "T</think>Hi." + raw + "<\uff5cend\u2581of\u2581sentence\uff5c>", True, "T", "Hi.", [], raw)
    for name, raw in [
        ("text after the block", BLOCK_F + "more"),
        ("a line break after the block", BLOCK_F + "\n"),
        ("cut in a value", BLOCK_F[:90]),
        ("cut before the end", BLOCK_F[:-1]),
        ("cut at the start", "\n\n<\uff5cDSML\uff5ctool_calls"),
        ("no line break after the first tag", BLOCK_F.replace("tool_calls>\n", "tool_calls>", 1)),
        ("another name of the block", BLOCK_F.replace("tool_calls>\n", "tool_calls2>\n", 1)),
        ("no name", BLOCK_F.replace('invoke name="f"', "invoke")),
        ("string neither true nor false", BLOCK_F.replace('"false"', '"False"')),
        ("no string", BLOCK_F.replace(' string="true"', "")),
        ("a parameter twice", BLOCK_F.replace('name="n"', 'name="a"')),
        ("text between parameters", BLOCK_F.replace("parameter>\n<", "parameter>\n \n<", 1)),
        ("no line break after a parameter", BLOCK_F.replace("parameter>\n<", "parameter><", 1)),
        ("text between calls", BLOCK_FG.replace("invoke>\n<", "invoke>\nand\n<", 1)),
        ("no end of a call", BLOCK_F.replace("</\uff5cDSML\uff5cinvoke>\n", "")),
        ("the second call is bad", BLOCK_FG.replace('invoke name="g"', "invoke g")),
    ]
] + [
    ("calls in the thoughts", "T" + BLOCK_F + "<\uff5cend\u2581of\u2581sentence\uff5c>", True, "T", "", [], BLOCK_F),
    ("calls before the thoughts end", "T" + BLOCK_F + "</think>Hi.", True, "T", "", [],
     BLOCK_F + "</think>Hi."),
]

# The examples with their tokens of V4's tokenizer: (messages, settings, prompt, ids).
TOKENS = [
    ([user("hello")], CHAT, "<\uff5cbegin\u2581of\u2581sentence\uff5c><\uff5cUser\uff5c>hello<\uff5cAssistant\uff5c></think>",
     [0, 128803, 33310, 128804, 128822]),
    ([system("Be brief."), user("hello")], THINK,
     "<\uff5cbegin\u2581of\u2581sentence\uff5c>Be brief.<\uff5cUser\uff5c>hello<\uff5cAssistant\uff5c><think>",
     [0, 7153, 9708, 16, 128803, 33310, 128804, 128821]),
    (OLD_TURN, THINK,
     "<\uff5cbegin\u2581of\u2581sentence\uff5c><\uff5cUser\uff5c>hello<\uff5cAssistant\uff5c></think>Hello! I am DeepSeek."
     "<\uff5cend\u2581of\u2581sentence\uff5c><\uff5cUser\uff5c>1+1=?<\uff5cAssistant\uff5c><think>",
     [0, 128803, 33310, 128804, 128822, 19923, 3, 342, 1030, 22651, 4374, 1465, 16, 1, 128803, 19, 13,
      19, 127252, 128804, 128821]),
    ([user("a"), user("b")], CHAT, "<\uff5cbegin\u2581of\u2581sentence\uff5c><\uff5cUser\uff5c>a\n\nb<\uff5cAssistant\uff5c></think>",
     [0, 128803, 67, 271, 68, 128804, 128822]),
]
MARKER_IDS = {B: 0, E: 1, U: 128803, A: 128804, TH: 128821, ET: 128822, M: 128825, REMIND: 128828,
              "<\uff5caction\uff5c>": 128829, "<\uff5cquery\uff5c>": 128830, "<\uff5cauthority\uff5c>": 128831,
              "<\uff5cdomain\uff5c>": 128832, "<\uff5ctitle\uff5c>": 128836, "<\uff5cread_url\uff5c>": 128845}
