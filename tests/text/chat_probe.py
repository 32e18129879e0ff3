"""chat_probe for tests in Python: what it is asked and answers is in chat_probe.c."""
import argparse
import json
import subprocess
import sys
import unittest


class ChatTest(unittest.TestCase):
    command = ""

    def setUp(self):
        self.process = subprocess.Popen([self.command], stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def tearDown(self):
        self.process.stdin.close()
        self.process.stdout.close()
        self.assertEqual(self.process.wait(), 0, "exit status of the probe")

    def ask(self, **request):
        self.process.stdin.write(json.dumps(request).encode() + b"\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        self.assertTrue(answer, "the probe ended")
        return json.loads(answer)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--probe", required=True)
    arguments, rest = parser.parse_known_args()
    ChatTest.command = arguments.probe
    unittest.main(argv=[sys.argv[0]] + rest)
