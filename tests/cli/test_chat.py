#!/usr/bin/env python3
"""kvfold run -i: turns, slash commands and keys, on a terminal and through a pipe.

usage: test_chat.py --kvfold PATH --model DIR [unittest's own arguments]
"""

from support import MODEL, CliTest, Terminal, main

CTRL_C = b"\x03"
CTRL_D = b"\x04"


class Chat(Terminal):
    """Someone who reads what is there and then types the next line."""

    def prompt(self):
        self.wait_for(rb"> $")

    def say(self, line):
        """Types a line at the prompt: a turn or a slash command."""
        self.prompt()
        self.type(line + b"\n")

    def summary(self):
        """What stands below an answer: tokens of the turn, of the answer, what ended it."""
        return self.wait_for(rb"fold on \S+: (\d+) \+ (\d+) tokens, [^\r\n]*; ([^\r\n]*)\r\n")


class ChatTest(CliTest):
    def chat(self, *arguments):
        chat = Chat("run", "-m", MODEL, "-i", *arguments)
        self.addCleanup(chat.close)
        return chat

    def test_turns_share_one_session_until_it_is_reset(self):
        chat = self.chat("-n", "4")
        chat.say(b"one")
        self.assertEqual(chat.summary().group(1, 2), (b"4", b"4"))  # BOS and three bytes
        chat.say(b"two")
        self.assertEqual(chat.summary().group(1), b"4")  # a line break and three
        chat.say(b"/stats")
        chat.wait_for(rb"fold on \S+: 16 of 65,536 tokens, cache ")
        chat.say(b"/reset")
        chat.say(b"/stats")
        chat.wait_for(rb": 0 of 65,536 tokens")
        chat.say(b"/help")
        chat.wait_for(rb"/reset +forget")
        chat.say(b"/frob")
        chat.wait_for(rb"unknown command /frob; there are /help")
        chat.say(b"/quit")
        self.assertEqual(chat.exit_status(), 0)

    def test_ctrl_c_ends_the_answer_keeps_the_session_and_then_quits(self):
        chat = self.chat("-p", "The sea ", "-n", "60000")
        chat.wait_for(rb"commands\.\r\n")
        chat.wait_for(rb"[a-z]{2}")  # of the answer
        chat.type(CTRL_C)
        turn = chat.summary()
        self.assertEqual(turn.group(3), b"interrupted")
        held = int(turn.group(1)) + int(turn.group(2))
        chat.say(b"/stats")
        self.assertEqual(int(chat.wait_for(rb": ([\d,]+) of").group(1).replace(b",", b"")), held)
        chat.prompt()
        chat.type(CTRL_C)
        self.assertEqual(chat.exit_status(), 0)

    def test_ctrl_d_leaves(self):
        chat = self.chat()
        chat.prompt()
        chat.type(CTRL_D)
        self.assertEqual(chat.exit_status(), 0)

    def test_a_full_context_is_said_and_the_session_stays(self):
        chat = self.chat("--ctx", "12", "-n", "100")
        chat.say(b"tide")
        self.assertEqual(chat.summary().group(3), b"the context is full")
        chat.say(b"more")
        chat.wait_for(rb"context is full: 12 of 12 tokens are held and this turn needs 5; /reset")
        chat.say(b"/reset")
        chat.say(b"tide")
        chat.summary()
        chat.say(b"/quit")
        self.assertEqual(chat.exit_status(), 0)

    def test_piped_turns_need_no_terminal(self):
        result = self.good("run", "-m", MODEL, "-i", "-n", "3", stdin=b"one\ntwo\n")
        self.assertEqual(result.stderr.count(b"fold on"), 2)
        self.assertNotIn(b"> ", result.stdout)

    def test_an_undone_turn_leaves_no_trace(self):
        def talk(*lines):
            text = "".join(line + "\n" for line in lines).encode()
            return self.good("run", "-m", MODEL, "-i", "-n", "20", stdin=text).stdout.splitlines()

        straight = talk("Tell me", "of the sea", "/stats")
        undone = talk("Tell me", "Nonsense", "/undo", "of the sea", "/stats")
        self.assertRegex(undone[2], rb"^back at 28 tokens$")  # with the last one that was answered
        self.assertEqual(undone[:1] + undone[3:], straight)

    def test_undo_and_retry_work_on_a_terminal(self):
        chat = self.chat("-n", "4")
        chat.say(b"/retry")
        chat.wait_for(rb"no turn to answer again")
        chat.say(b"one")
        chat.summary()
        chat.say(b"/retry")
        self.assertEqual(chat.summary().group(1, 2), (b"0", b"4"))
        chat.say(b"/undo")
        chat.wait_for(rb"back at 0 tokens")
        chat.say(b"/undo")
        chat.wait_for(rb"nothing is left to take back")
        chat.say(b"/quit")
        self.assertEqual(chat.exit_status(), 0)


if __name__ == "__main__":
    main()
