"""HTTP below the APIs: who may ask, limits, sockets that close, half-close, stall or come byte by byte."""

import json
import os
import random
import re
import socket
import stat
import struct
import subprocess
import tempfile
import time
import unittest

import support
from support import Connection, OPTIONS, ServerTest, chat, message, probe

CHAT = "/v1/chat/completions"
SOON_SECONDS = 2  # what is noticed within a second, and another for a busy machine


class Requests(ServerTest):
    def test_paths_and_methods(self):
        self.refused(self.server.get("/nothing"), 404)
        self.refused(self.server.get("/v1/models/"), 404)
        answer = self.server.get(CHAT)
        self.refused(answer, 405)
        self.assertEqual(answer.headers["allow"], "POST")
        self.refused(self.server.post("/health", {}), 405)
        self.refused(self.server.ask("BREW", "/health"), 405)
        self.assertEqual(self.server.ask("DELETE", "/v1/messages").json()["error"]["type"], "invalid_request_error")

    def test_head_is_get_without_a_body(self):
        answer = self.server.ask("HEAD", "/health")
        self.assertEqual(answer.status, 200)
        self.assertGreater(int(answer.headers["content-length"]), 0)

    def test_queries_are_no_part_of_the_path(self):
        self.assertEqual(self.server.get("/health?a=b").status, 200)

    def test_content_types(self):
        for kind, status in (("application/json", 200), ("application/json; charset=utf-8", 200),
                             ("Application/JSON", 200), ("text/plain", 415), ("application/jsonx", 415),
                             ("application/x-www-form-urlencoded", 415), (None, 415)):
            with self.subTest(kind=kind):
                answer = self.server.post(CHAT, chat("[say a]"), [("Content-Type", kind)])
                self.assertEqual(answer.status, status)

    def test_bodies_that_are_no_json(self):
        for body in (b"", b"{", b"[]", b"5", b"\"a\"", b"{\"a\": 1} x", b"\xff", b"{'a': 1}", b"{\"a\": 01}",
                     b"{\"messages\": [], \"messages\": []}", b"{\"a\": \"\\ud800\"}", b"{\"a\": \"\n\"}",
                     b"[" * 501 + b"]" * 501, b"{\"a\":" * 600 + b"1" + b"}" * 600, b"\0", b"{\"a\": NaN}"):
            for path in (CHAT, "/v1/messages", "/v1/completions", "/v1/messages/count_tokens", "/tokenize",
                         "/detokenize"):
                with self.subTest(body=body[:20], path=path):
                    answer = self.server.post(path, body)
                    self.assertEqual(answer.status, 400, answer.body)
                    self.assertTrue(answer.json()["error"]["message"])
                    self.assertEqual("type" in answer.json(), "messages" in path)

    def test_numbers_and_text_are_kept(self):
        body = b'{"messages": [{"role": "user", "content": "[say a\\u0000b]\\ud83d\\ude00"}], "x": 12345678901234567890}'
        self.assertEqual(self.server.post(CHAT, body).status, 200)

    def test_pipelined(self):
        connection = self.server.connect()
        connection.request("POST", CHAT, chat("[wait 100][say one]"))
        connection.request("POST", CHAT, chat("[say two]"))
        self.assertEqual(connection.answer().json()["choices"][0]["message"]["content"], "one")
        self.assertEqual(connection.answer().json()["choices"][0]["message"]["content"], "two")
        connection.close()

    def test_chunked_bodies(self):
        connection = self.server.connect()
        body = json.dumps(chat("[say a]")).encode()
        connection.send(("POST %s HTTP/1.1\r\nHost: %s\r\nContent-Type: application/json\r\n"
                         "Transfer-Encoding: chunked\r\n\r\n" % (CHAT, connection.host)).encode())
        for byte in body:
            connection.send(b"1\r\n%c\r\n" % byte)
        connection.send(b"0\r\n\r\n")
        self.assertEqual(connection.answer().status, 200)
        connection.close()

    def test_expect(self):
        connection = self.server.connect()
        body = json.dumps(chat("[say a]")).encode()
        connection.request("POST", CHAT, None, [("Expect", "100-continue"), ("Content-Type", "application/json"),
                                                ("Content-Length", str(len(body)))])
        self.assertEqual(connection.head()[0], 100)
        connection.send(body)
        self.assertEqual(connection.answer().status, 200)
        connection.close()

    def test_a_refused_request_leaves_its_connection(self):
        connection = self.server.connect()
        connection.request("POST", CHAT, b"x" * 1000, [("Content-Type", "text/plain")])
        self.assertEqual(connection.answer().status, 415)
        connection.request("GET", "/health")
        self.assertEqual(connection.answer().status, 200)
        connection.close()

    def test_old_http(self):
        connection = self.server.connect()
        connection.send(b"GET /health HTTP/1.0\r\nHost: localhost\r\n\r\n")
        self.assertEqual(connection.head()[0], 200)
        self.assertTrue(connection.is_closed(SOON_SECONDS))

    def test_headers_that_say_two_things(self):
        for lines, status in (("Host: localhost", 400), ("host: evil.example", 400),
                              ("Origin: http://localhost\r\nOrigin: http://localhost", 400),
                              ("Content-Length: 2\r\nContent-Length: 3", 400),
                              ("Content-Length: 2\r\nTransfer-Encoding: chunked", 400),
                              ("Transfer-Encoding: gzip", 501)):
            with self.subTest(lines=lines):
                connection = self.server.connect()
                connection.send(("GET /health HTTP/1.1\r\nHost: localhost\r\n%s\r\n\r\n{}" % lines).encode())
                self.refused(connection.answer(), status)
                connection.close()

    def test_what_is_no_http(self):
        connections = []
        for data in (b"hello\r\n\r\n", b"\x16\x03\x01\x02\x00\x01\x00", b"GET\r\n\r\n", b"\r\n\r\n\r\n", b"\0" * 100):
            connection = self.server.connect()
            connection.send(data)
            connection.socket.shutdown(socket.SHUT_WR)
            connections.append(connection)
        for connection in connections:
            self.assertTrue(connection.is_closed(5))
            connection.close()
        self.assertEqual(self.server.get("/health").status, 200)


class Garbage(ServerTest):
    """Requests with bytes changed, gone, doubled: each gets an answer or the connection's end, and no more."""

    arguments = ("--head", 1, "--body", 2, "--grace", 0.5)
    SEEDS = [
        b"GET /v1/models/tiny?a=%%41 HTTP/1.1\r\nHost: localhost:80\r\nOrigin: http://localhost:80\r\n\r\n",
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: [::1]:80\r\nAuthorization: Bearer key\r\nx-api-key: k\r\n"
        b"Content-Type: application/json; charset=utf-8\r\nContent-Length: 61\r\nExpect: 100-continue\r\n\r\n"
        b'{"messages": [{"role": "user", "content": "[say a]"}], "n":2}',
        b"POST /v1/messages HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n"
        b'anthropic-version: 2023-06-01\r\n\r\n20\r\n{"max_tokens": 5, "messages": []\r\n1\r\n}\r\n0\r\n\r\n',
        b"OPTIONS * HTTP/1.0\r\nHost: localhost\r\nConnection: close\r\nCookie: a=b\r\n\r\n"]
    PIECES = [b"\r\n", b"\0", b"\xff", b":", b" ", b"[", b"%", b"9" * 30, b"Host: a\r\n", b"chunked", b"\r\n\r\n", b"/", b"{"]

    def changed(self, random):
        data = bytearray(random.choice(self.SEEDS))
        for _ in range(random.randrange(1, 6)):
            at = random.randrange(len(data))
            way = random.randrange(4)
            if way == 0:
                data[at] = random.randrange(256)
            elif way == 1:
                del data[at:at + random.randrange(1, 20)]
            elif way == 2:
                data[at:at] = data[at:at + random.randrange(1, 40)]
            else:
                data[at:at] = random.choice(self.PIECES)
            if not data:
                return b"x"
        return bytes(data)

    def test_requests(self):
        generator = random.Random(5)
        for _ in range(2):  # those that wait for the end of a time wait together
            connections = []
            for _ in range(200):
                connection = self.server.connect()
                data = self.changed(generator)
                connection.send(data)
                if generator.random() < 0.7:
                    connection.socket.shutdown(socket.SHUT_WR)
                connections.append((connection, data))
            for connection, data in connections:
                answer = b""
                try:
                    while piece := connection.socket.recv(65536):
                        answer += piece
                except ConnectionError:
                    pass
                self.assertTrue(not answer or answer.startswith(b"HTTP/1."), (data, answer[:100]))
                connection.close()
        self.until(lambda: self.server.metric("kvfold_http_connections") <= 1, 10)
        self.assertEqual(self.chat("[say a]").status, 200)


class Limits(ServerTest):
    arguments = ("--head", 1, "--body", 3, "--grace", 1, "--idle", 60)
    MOST = 64 << 20

    def test_large_head(self):
        answer = self.server.get("/health", [("X-Large", "x" * 40000)])
        self.refused(answer, 431)
        answer = self.server.get("/v1/messages", [("X-Large", "x" * 40000)])
        self.refused(answer, 431)
        self.assertEqual(answer.json()["type"], "error")

    def test_declared_body(self):
        for n in (self.MOST + 1, 10**12, 10**18):
            connection = self.server.connect()
            connection.request("POST", CHAT, None, [("Content-Type", "application/json"), ("Content-Length", str(n))])
            self.refused(connection.answer(), 413)
            connection.close()

    def test_declared_body_that_is_sent_all_the_same(self):
        connection = self.server.connect()
        connection.request("POST", "/v1/messages", None, [("Content-Type", "application/json"),
                                                          ("Content-Length", str(self.MOST + 1))])
        for _ in range(8):
            connection.send(b" " * (1 << 20))
        answer = connection.answer()
        self.refused(answer, 413)
        self.assertEqual(answer.json()["error"]["type"], "request_too_large")
        connection.close()

    def test_chunked_body(self):
        connection = self.server.connect()
        connection.request("POST", CHAT, None, [("Content-Type", "application/json"), ("Transfer-Encoding", "chunked")])
        piece = b"100000\r\n" + b" " * (1 << 20) + b"\r\n"
        try:
            for _ in range(66):
                connection.send(piece)
        except ConnectionError:
            pass
        self.refused(connection.answer(), 413)
        connection.close()

    def test_a_large_body_is_taken(self):
        self.refused(self.server.post("/v1/messages", b" " * (32 << 20)), 400)

    def test_slow_bodies(self):
        begun = time.monotonic()
        silent, slow = self.server.connect(), self.server.connect()
        for connection in (silent, slow):
            connection.request("POST", CHAT, None, [("Content-Type", "application/json"), ("Content-Length", "1000")])
        slow.socket.settimeout(0.3)
        answer = None
        while answer is None and time.monotonic() - begun < 5:
            try:
                answer = slow.answer()
            except socket.timeout:
                slow.send(b" ")
        for one in (answer, silent.answer()):
            self.refused(one, 408)
        self.assertLess(time.monotonic() - begun, 3)
        silent.close()
        slow.close()

    def test_slow_heads(self):
        connection = self.server.connect()
        begun = time.monotonic()
        try:
            for byte in b"GET /health HTTP/1.1\r\nHost: localhost\r\nX-A: " + b"a" * 1000:
                connection.send(bytes([byte]))
                time.sleep(0.05)
        except ConnectionError:
            pass
        self.assertLess(time.monotonic() - begun, 5)

    def test_idle_connections(self):
        connection = self.server.connect()
        connection.request("GET", "/health")
        connection.answer()
        self.assertTrue(connection.is_closed(3))

    def test_a_long_answer_is_no_slow_head(self):
        self.assertEqual(self.chat("[wait 1500][say a]").status, 200)


class Connections(ServerTest):
    arguments = ("--connections", 4)

    def test_no_more_than_that(self):
        first = [self.server.connect() for _ in range(4)]
        for connection in first:
            connection.request("GET", "/health")
            connection.answer()
        last = self.server.connect()
        last.request("GET", "/health")
        last.socket.settimeout(0.3)
        with self.assertRaises(socket.timeout):
            last.answer()
        first.pop().close()
        last.socket.settimeout(10)
        self.assertEqual(last.answer().status, 200)
        for connection in first + [last]:
            connection.close()


class Peers(ServerTest):
    """Whether who asked is still there. Most waits are longer than the test may take."""

    arguments = ("--stir", 0.5, "--idle", 2)

    def cancelled(self):
        return self.server.metric("kvfold_cancelled_total")

    def check_noticed(self, connections, reset=False):
        """All are closed, and what they asked for is cancelled."""
        before = self.cancelled()
        begun = time.monotonic()
        for connection in connections:
            if reset:
                connection.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            connection.close()
        self.until(lambda: self.cancelled() == before + len(connections), 5)
        self.assertLess(time.monotonic() - begun, SOON_SECONDS)

    def ask_all(self, texts):
        """Each text of each API, streaming and not: [(connection, streams)]."""
        asked = []
        for text in texts:
            for path, ask in ((CHAT, chat), ("/v1/messages", message)):
                for streams in (False, True):
                    connection = self.server.connect()
                    connection.request("POST", path, ask(text, stream=streams))
                    asked.append((connection, streams))
        return asked

    def test_closed(self):
        for reset in (False, True):
            asked = self.ask_all(["[queue 9000]", "[wait 9000]", "[say %s][each 300]" % ("a" * 50)])
            time.sleep(0.4)
            self.check_noticed([connection for connection, _ in asked], reset)

    def test_closed_while_its_body_waits_to_be_read(self):
        before = self.cancelled()
        jobs = self.server.metric("kvfold_jobs_total")
        busy = [self.server.connect() for _ in range(4)]  # one thread reads all of them
        for connection in busy:
            connection.request("POST", "/tokenize", b'{"content": "a", "x": [' + b"1, " * 1300000 + b"1]}")
        gone = self.server.connect()
        gone.request("POST", CHAT, chat("[wait 9000]"))
        time.sleep(0.1)
        gone.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        gone.close()
        self.until(lambda: self.server.metric("kvfold_jobs_total") == jobs + 1)
        self.until(lambda: self.cancelled() == before + 1, SOON_SECONDS)
        for connection in busy:
            self.assertEqual(connection.answer().status, 200)
            connection.close()

    def test_closed_before_all_of_a_body(self):
        connection = self.server.connect()
        body = json.dumps(chat("[say a]")).encode()
        connection.request("POST", CHAT, None, [("Content-Type", "application/json"),
                                                ("Content-Length", str(len(body) + 1))])
        connection.send(body)
        connection.close()
        self.until(lambda: self.server.metric("kvfold_http_requests") <= 1, 2)

    def test_half_closed(self):
        asked = self.ask_all(["[wait 1200][say yes]", "[queue 1200][say yes]", "[say yes][each 300]"])
        for connection, _ in asked:
            connection.socket.shutdown(socket.SHUT_WR)
        for connection, streams in asked:
            answer = connection.answer()
            self.assertEqual(answer.status, 200)
            if streams:
                self.assertIn(answer.pieces()[-1].get("type"), (None, "message_stop"))
                self.assertEqual(len(re.findall(b'"(?:content|text)": "[yes]"', answer.body)), 3)
            else:
                self.assertIn("yes", json.dumps(answer.json()))
            self.assertTrue(connection.is_closed(2))
            connection.close()

    def test_a_request_without_work_may_be_half_closed(self):
        connection = self.server.connect()
        connection.request("GET", "/v1/models")
        connection.socket.shutdown(socket.SHUT_WR)
        self.assertEqual(connection.answer().status, 200)

    def test_signs_of_life(self):
        asked = self.ask_all(["[queue 1600][say a]", "[wait 1600][say a]"])
        answers = [connection.answer() for connection, streams in asked if streams]
        for answer in answers:
            is_message = b"message_start" in answer.body
            self.assertGreaterEqual(answer.body.count(b"event: ping\n" if is_message else b": still"), 2)
            self.assertEqual(answer.body.count(b'"a"'), 1)
        self.assertEqual(len(answers), 4)
        for connection, streams in asked:
            if not streams:
                self.assertEqual(connection.answer().status, 200)
            connection.close()

    def test_heads_come_before_the_prompt_is_read(self):
        connection = self.server.connect()
        begun = time.monotonic()
        connection.request("POST", CHAT, chat("[wait 9000]", stream=True))
        self.assertEqual(connection.head()[0], 200)
        self.assertLess(time.monotonic() - begun, 0.3)
        self.check_noticed([connection])

    def test_an_error_behind_a_sign_of_life_is_an_event(self):
        asked = self.ask_all(["[queue 1200][end timed_out]"])
        chat_whole, chat_stream, message_whole, message_stream = [connection.answer() for connection, _ in asked]
        self.assertEqual((chat_stream.status, message_stream.status), (200, 200))
        self.assertEqual(chat_stream.pieces()[-1]["error"]["code"], "rate_limit_exceeded")
        self.assertEqual(message_stream.events()[-1][0], "error")
        self.refused(chat_whole, 429)
        self.refused(message_whole, 429)
        for connection, _ in asked:
            connection.close()

    def test_who_reads_nothing_is_given_up(self):
        connection = Connection.__new__(Connection)
        connection.socket = socket.socket()
        connection.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        host, port = self.server.address.rsplit(":", 1)
        connection.socket.connect((host, int(port)))
        connection.host, connection.rest = self.server.address, b""
        # Some 20 MB, more than any socket holds.
        connection.request("POST", CHAT, chat("[say %s]" % ("a" * 1000), stream=True, n=64))
        self.until(lambda: self.server.metric("kvfold_http_requests") > 1)
        self.until(lambda: self.server.metric("kvfold_http_requests") <= 1, 10)
        connection.close()


class Access(ServerTest):
    arguments = ("--key", "one-key", "--key", "other-key", "--allow-host", "kvfold.example", "--cors",
                 "https://chat.example")
    KEY = ("Authorization", "Bearer one-key")

    def test_keys(self):
        for path in ("/v1/models", "/metrics", "/slots", "/v1/models/tiny", "/nothing"):
            self.assertEqual(self.server.get(path).status, 401)
        for path in (CHAT, "/v1/messages", "/tokenize"):
            self.assertEqual(self.server.post(path, {}).status, 401)
        self.assertEqual(self.server.get("/health").status, 200)
        for header in (self.KEY, ("x-api-key", "other-key"), ("authorization", "bearer  one-key"), ("X-API-Key", "one-key")):
            self.assertEqual(self.server.get("/v1/models", [header]).status, 200, header)
        for header in (("Authorization", "Bearer one"), ("Authorization", "Bearer one-keyx"), ("Authorization", "one-key"),
                       ("x-api-key", ""), ("Authorization", "Basic one-key"), ("Authorization", "Bearer "),
                       ("x-api-key", "one-keyone-key")):
            answer = self.server.get("/v1/models", [header])
            self.assertEqual(answer.status, 401, header)
            self.assertEqual(answer.json()["error"]["code"], "invalid_api_key")
        error = self.server.post("/v1/messages", {}).json()
        self.assertEqual((error["type"], error["error"]["type"]), ("error", "authentication_error"))

    def test_hosts(self):
        port = self.server.address.rsplit(":", 1)[1]
        for host in ("localhost", "localhost:" + port, "LOCALHOST", "127.0.0.1", "127.1.2.3:5", "[::1]:80", "kvfold.example",
                     "KVFOLD.example:443", "localhost."):
            self.assertEqual(self.server.get("/v1/models", [("Host", host), self.KEY]).status, 200, host)
        for host in ("evil.example", "localhost.evil.example", "10.0.0.1", "", "[::2]", "127.0.0.1.evil.example", "[", ":80",
                     "kvfold.example.evil"):
            for path in ("/v1/models", "/health"):
                self.assertEqual(self.server.get(path, [("Host", host), self.KEY]).status, 403, host)
        connection = self.server.connect()
        connection.send(b"GET /health HTTP/1.0\r\n\r\n")
        self.assertEqual(connection.head()[0], 403)

    def test_origins(self):
        host = self.server.address
        for origin in ("http://" + host, "https://" + host, "https://chat.example"):
            answer = self.server.get("/v1/models", [("Origin", origin), self.KEY])
            self.assertEqual(answer.status, 200, origin)
            self.assertEqual(answer.headers.get("access-control-allow-origin"),
                             origin if "chat" in origin else None)
        for origin in ("https://evil.example", "null", "", "http://" + host + ".evil.example", "file://", "http://localhost",
                       "http://chat.example", "https://chat.example.evil"):
            answer = self.server.get("/v1/models", [("Origin", origin), self.KEY])
            self.assertEqual(answer.status, 403, origin)
            self.assertNotIn("access-control-allow-origin", answer.headers)

    def test_preflight(self):
        answer = self.server.ask("OPTIONS", CHAT, headers=[("Origin", "https://chat.example"),
                                                           ("Access-Control-Request-Method", "POST")])
        self.assertEqual(answer.status, 204)
        self.assertEqual(answer.headers["access-control-allow-origin"], "https://chat.example")
        self.assertIn("x-api-key", answer.headers["access-control-allow-headers"])
        self.assertEqual(self.server.ask("OPTIONS", CHAT, headers=[("Origin", "https://evil.example")]).status, 403)

    def test_errors_can_be_read_by_an_allowed_page(self):
        answer = self.server.get("/v1/models", [("Origin", "https://chat.example")])
        self.assertEqual(answer.status, 401)
        self.assertEqual(answer.headers["access-control-allow-origin"], "https://chat.example")


class Lost(ServerTest):
    """The device is: test_lost.py has the real thing."""

    def test_health_says_it(self):
        self.assertEqual(self.server.get("/health").status, 200)
        self.refused(self.chat("[end lost]"), 500)
        for method in ("GET", "HEAD"):
            self.assertEqual(self.server.ask(method, "/health").status, 503)
        health = self.server.get("/health").json()
        self.assertEqual((health["status"], health["model"]), ("failed", "tiny"))
        self.assertIn("lost", health["error"])
        answer = self.message("[say a]")
        self.assertEqual((answer.status, answer.json()["error"]["type"]), (503, "overloaded_error"))
        self.assertIn("retry-after", answer.headers)
        self.assertEqual(self.server.get("/v1/models").status, 200)


class Starting(unittest.TestCase):
    def test_loading(self):
        server = probe("--load", 1)
        try:
            answer = server.get("/health")
            while answer.json().get("stage") == "starting":
                answer = server.get("/health")
            self.assertEqual(answer.status, 503)
            body = answer.json()
            self.assertEqual((body["status"], body["stage"], body["model"]), ("loading", "waiting", "tiny"))
            self.assertTrue(0 <= body["progress"] <= 1)
            for path in (CHAT, "/v1/messages", "/tokenize"):
                answer = server.post(path, chat("[say a]"))
                self.assertEqual(answer.status, 503)
                self.assertIn("retry-after", answer.headers)
            self.assertEqual(server.get("/slots").status, 503)
            self.assertEqual(server.get("/metrics").status, 200)
            self.assertEqual(server.get("/v1/models").status, 200)
            server.ready()
            self.assertEqual(server.get("/health").status, 200)
        finally:
            self.assertEqual(server.end(), 0)

    def test_unix_socket(self):
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "socket")
            server = probe("--unix", path).ready()
            self.assertEqual(server.address, path)
            self.assertEqual(stat.S_IMODE(os.stat(path).st_mode), 0o600)
            self.assertEqual(server.post(CHAT, chat("[say a]"), [("Host", "anything")]).status, 200)
            connection = server.connect()
            connection.request("POST", CHAT, chat("[wait 9000]"))
            time.sleep(0.3)
            connection.close()
            deadline = time.monotonic() + SOON_SECONDS
            while server.metric("kvfold_cancelled_total") == 0:
                self.assertLess(time.monotonic(), deadline)
                time.sleep(0.02)
            # A second one is refused, and leaves the first one alone.
            other = subprocess.run([OPTIONS.probe, OPTIONS.model, "--unix", path], capture_output=True, check=False)
            self.assertEqual(other.returncode, 1)
            self.assertIn(b"cannot listen on", other.stderr)
            self.assertEqual(server.get("/health").status, 200)
            self.assertEqual(server.end(), 0)
            self.assertFalse(os.path.exists(path))
            # What a killed one left is no obstacle; a file that is none of a server's is.
            left = socket.socket(socket.AF_UNIX)
            left.bind(path)
            left.close()
            server = probe("--unix", path).ready()
            self.assertEqual(server.end(), 0)
            with open(path, "w", encoding="ascii") as file:
                file.write("mine")
            other = subprocess.run([OPTIONS.probe, OPTIONS.model, "--unix", path], capture_output=True, check=False)
            self.assertEqual(other.returncode, 1)
            with open(path, encoding="ascii") as file:
                self.assertEqual(file.read(), "mine")

    def test_a_port_that_is_taken(self):
        server = probe().ready()
        port = server.address.rsplit(":", 1)[1]
        other = subprocess.run([OPTIONS.probe, OPTIONS.model, "--port", port], capture_output=True, check=False)
        self.assertEqual(other.returncode, 1)
        self.assertIn(("127.0.0.1 port %s" % port).encode(), other.stderr)
        self.assertEqual(server.end(), 0)

    def test_a_host_for_others_needs_keys(self):
        for host in ("0.0.0.0", "::", "example.invalid"):
            other = subprocess.run([OPTIONS.probe, OPTIONS.model, "--host", host], capture_output=True, check=False)
            self.assertEqual(other.returncode, 1, host)
            self.assertIn(b"keys", other.stderr)
        server = probe("--host", "0.0.0.0", "--key", "k").ready()
        server.address = server.address.replace("0.0.0.0", "127.0.0.1")
        self.assertEqual(server.get("/v1/models").status, 401)
        self.assertEqual(server.get("/v1/models", [("x-api-key", "k")]).status, 200)
        self.assertEqual(server.end(), 0)

    def test_ending_while_requests_run(self):
        server = probe().ready()
        waiting = []
        for fields in ({}, {"stream": True}):
            for text in ("[wait 9000]", "[queue 9000]", "[say %s][each 200]" % ("a" * 100)):
                connection = server.connect()
                connection.request("POST", CHAT, chat(text, **fields))
                waiting.append((connection, fields, text))
        time.sleep(0.5)
        begun = time.monotonic()
        self.assertEqual(server.end(), 0)
        self.assertLess(time.monotonic() - begun, 3)
        for connection, fields, text in waiting:
            answer = connection.answer()
            if "stream" in fields and "queue" not in text:
                self.assertEqual(answer.pieces()[-1]["error"]["code"], "service_unavailable")
            else:
                self.assertEqual(answer.status, 503, text)

    def test_prompts_are_written_nowhere_but_to_a_trace(self):
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "trace")
            server = probe("--trace", path, "--key", "secret-key").ready()
            server.post(CHAT, chat("[think hm][say answer-word] question-word", think=True), [("x-api-key", "secret-key")])
            server.post(CHAT, b"{\"messages\": \"wrong-word\"}", [("x-api-key", "secret-key")])
            server.post(CHAT + "/query-word?a=secret-query", b"{}", [("x-api-key", "secret-key")])
            self.assertEqual(server.end(), 0)
            log = server.log()
            for word in ("answer-word", "question-word", "wrong-word", "secret"):
                self.assertNotIn(word, log)
            with open(path, encoding="utf-8") as file:
                lines = sorted(map(json.loads, file), key=lambda line: (line["request"], line["event"] == "answer"))
            self.assertEqual([line["event"] for line in lines], ["request", "answer", "request"])
            self.assertIn("question-word", lines[0]["body"])
            choice, = lines[1]["choices"]
            self.assertEqual((choice["reasoning"], choice["content"], choice["end"]), ("hm", "answer-word", "eos"))
            self.assertEqual(lines[0]["request"], lines[1]["request"])
            self.assertNotIn("secret", json.dumps(lines))


if __name__ == "__main__":
    support.main()
