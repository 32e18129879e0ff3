"""What the tests of the server share: a probe that runs it, and HTTP by hand.

usage: test_NAME.py --probe PATH --kvfold PATH --model DIR --downloads DIR [--rounds N] [--seconds N] [--tokens N]
                    [unittest's own arguments]

--rounds, --seconds and --tokens are how much a long test does (test_kill.py, test_load.py, test_long.py).

The probe's answers stand in the prompts (fake_scheduler.c): "[say hello]".
"""

import argparse
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
import unittest

_parser = argparse.ArgumentParser(epilog="Other arguments are unittest's.")
for _name in ("probe", "kvfold", "model", "downloads"):
    _parser.add_argument("--" + _name, required=True)
for _name in ("rounds", "seconds", "tokens"):
    _parser.add_argument("--" + _name, type=int)
OPTIONS, _unittest_arguments = _parser.parse_known_args()
PATIENCE_SECONDS = 150  # for anything that should take a moment, on a machine with much else to do


def main():
    unittest.main(argv=[sys.argv[0], *_unittest_arguments], warnings="ignore")


class Answer:
    """A response: status, headers (lower case), body."""

    def __init__(self, status, headers, body):
        self.status = status
        self.headers = headers
        self.body = body

    def json(self):
        return json.loads(self.body)

    def events(self):
        """Of a stream: (name or None, data) of each event; comments are (None, None)."""
        found = []
        for block in self.body.decode().split("\n\n"):
            name = data = None
            for line in block.split("\n"):
                if line.startswith("event: "):
                    name = line[7:]
                elif line.startswith("data: "):
                    data = line[6:]
            if block:
                found.append((name, data))
        return found

    def pieces(self):
        """The events that are JSON."""
        return [json.loads(data) for _, data in self.events() if data and data != "[DONE]"]


class Connection:
    """A socket to the server, and one request at a time on it."""

    def __init__(self, address):
        if address.startswith("/"):
            self.socket = socket.socket(socket.AF_UNIX)
            self.host = "localhost"
        else:
            host, port = address.rsplit(":", 1)
            host = host.strip("[]")
            self.socket = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
            self.host = address
            address = (host, int(port))
        self.socket.settimeout(PATIENCE_SECONDS)
        self.socket.connect(address)
        self.rest = b""

    def close(self):
        self.socket.close()

    def send(self, data):
        self.socket.sendall(data)

    def request(self, method, path, body=None, headers=(), head_only=False):
        """Sends one; body is bytes, or what becomes JSON."""
        lines = ["%s %s HTTP/1.1" % (method, path)]
        names = [name.lower() for name, _ in headers]
        if "host" not in names:
            lines.append("Host: " + self.host)
        lines += ["%s: %s" % pair for pair in headers if pair[1] is not None]
        if body is not None and not isinstance(body, bytes):
            body = json.dumps(body).encode()
        if body is not None:
            if "content-type" not in names:
                lines.append("Content-Type: application/json")
            if "content-length" not in names:
                lines.append("Content-Length: %d" % len(body))
        head = "\r\n".join(lines + ["", ""]).encode()
        self.send(head if head_only else head + (body or b""))

    def _more(self):
        data = self.socket.recv(65536)
        self.rest += data
        return bool(data)

    def read_until(self, mark):
        while mark not in self.rest:
            if not self._more():
                raise EOFError("the connection ended: %r" % self.rest[:500])
        part, self.rest = self.rest.split(mark, 1)
        return part

    def _read(self, n):
        while len(self.rest) < n:
            if not self._more():
                raise EOFError("the connection ended")
        part, self.rest = self.rest[:n], self.rest[n:]
        return part

    def head(self):
        """The status and headers of the next response."""
        lines = self.read_until(b"\r\n\r\n").decode("latin-1").split("\r\n")
        headers = {}
        for line in lines[1:]:
            name, value = line.split(":", 1)
            headers[name.lower()] = value.strip()
        return int(lines[0].split()[1]), headers

    def chunk(self):
        """The next chunk of a body; b"" is its end."""
        n = int(self.read_until(b"\r\n"), 16)
        data = self._read(n)
        self.read_until(b"\r\n")
        return data

    def answer(self, has_body=True):
        status, headers = self.head()
        if not has_body or status == 204:
            return Answer(status, headers, b"")
        if headers.get("transfer-encoding") == "chunked":
            body = b""
            while True:
                data = self.chunk()
                if not data:
                    return Answer(status, headers, body)
                body += data
        return Answer(status, headers, self._read(int(headers["content-length"])))

    def is_closed(self, seconds):
        """Whether the server closes it in that time."""
        self.socket.settimeout(seconds)
        try:
            while self.socket.recv(65536):
                pass
            return True
        except socket.timeout:
            return False
        except ConnectionError:
            return True
        finally:
            self.socket.settimeout(PATIENCE_SECONDS)


class Server:
    """A process that serves, with whatever prints its address and then "ready"."""

    def __init__(self, command, environment=None):
        self.last_log = ""
        self.errors = tempfile.TemporaryFile()
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        stderr=self.errors, env=environment)
        self.address = self.process.stdout.readline().decode().strip().split("http://")[-1]
        self.address = self.address.split("listening on ")[-1]

    def ready(self):
        line = self.process.stdout.readline()
        if b"ready" not in line:
            raise RuntimeError("%r: %s" % (line, self.log()))
        return self

    def log(self):
        if self.errors.closed:
            return self.last_log
        self.errors.seek(0)
        return self.errors.read().decode()

    def terminate(self):
        """Tells it to end in order; its exit status."""
        self.process.terminate()
        return self.end()

    def kill(self):
        """With no moment to do anything."""
        self.process.kill()
        self.end()

    def end(self):
        """Of one that ends when its input does, or was told to; its exit status."""
        self.process.stdin.close()
        try:
            return self.process.wait(PATIENCE_SECONDS)
        finally:
            self.process.kill()
            self.process.stdout.close()
            self.last_log = self.log()
            self.errors.close()

    def connect(self):
        return Connection(self.address)

    def ask(self, method, path, body=None, headers=()):
        connection = self.connect()
        try:
            connection.request(method, path, body, headers)
            return connection.answer(method != "HEAD")
        finally:
            connection.close()

    def get(self, path, headers=()):
        return self.ask("GET", path, headers=headers)

    def post(self, path, body, headers=()):
        return self.ask("POST", path, body, headers)

    def metric(self, name):
        for line in self.get("/metrics").body.decode().splitlines():
            if line.startswith(name + " ") or line.startswith(name + "{"):
                return float(line.split()[-1])
        return 0.0


def serve(folder, *arguments, environment=()):
    """The command, with one thread, on any free port; what it keeps is in the folder."""
    return Server([OPTIONS.kvfold, "serve", "-m", OPTIONS.model, "--port", "0", "--threads", "1", "--store", folder,
                   *map(str, arguments)], {**os.environ, **dict(environment)})


def probe(*arguments):
    return Server([OPTIONS.probe, OPTIONS.model, *map(str, arguments)])


class ServingTest(unittest.TestCase):
    """Servers of a test's own, which are gone at its end in any case."""

    def folder(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        return folder.name

    def serve(self, folder, *arguments, environment=()):
        server = serve(folder, *arguments, environment=environment)
        self.addCleanup(server.kill)
        return server.ready()

    def until(self, condition, seconds=PATIENCE_SECONDS):
        deadline = time.monotonic() + seconds
        while not condition():
            self.assertLess(time.monotonic(), deadline, "it did not come true in time")
            time.sleep(0.02)


class ServerTest(ServingTest):
    """One probe for the tests of a class."""

    arguments = ()

    @classmethod
    def setUpClass(cls):
        cls.server = probe(*cls.arguments).ready()

    @classmethod
    def tearDownClass(cls):
        status = cls.server.end()
        if status != 0:
            raise AssertionError("the server ended with %d:\n%s" % (status, cls.server.log()[-3000:]))

    def chat(self, text, **fields):
        return self.server.post("/v1/chat/completions", chat(text, **fields))

    def message(self, text, **fields):
        return self.server.post("/v1/messages", message(text, **fields))

    def refused(self, answer, status, param=None):
        """An error object of either API; its message."""
        self.assertEqual(answer.status, status, answer.body)
        error = answer.json()["error"]
        self.assertEqual(error["param"], param, answer.body)
        self.assertTrue(error["type"] and error["message"])
        return error["message"]


def bias_to_text():
    """A logit_bias that leaves ASCII and the end: what is said is the same bytes when it is sent back."""
    text = {10, *range(32, 127), 257}  # of models/tiny: bytes, then marks (docs/CHAT.md)
    return {str(token): -100 for token in range(320) if token not in text}


def chat(text, **fields):
    return {"messages": [{"role": "user", "content": text}], **fields}


def message(text, **fields):
    return {"max_tokens": 1000, "messages": [{"role": "user", "content": text}], **fields}
