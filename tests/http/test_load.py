"""Many clients at once, some of which leave, read slowly or send half a request: what becomes of the others.

Each of a few requests is answered alone first; under load every answer that is finished has to be the same. Prints what
was done, the processor time of each thread of the server and its memory.
"""

import asyncio
import collections
import json
import os
import random
import sys
import time
import unittest
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1] / "tools"))
import speed
import support
from support import OPTIONS

SECONDS = OPTIONS.seconds or 25
CLIENTS, PROMPTS, TOKENS = 64, 24, 40
LEFT_OPEN = 100  # connections with half a request that nobody goes on with
SESSIONS_MB = 48
GROWTH_MB = 24  # of the process beside its sessions, from a third of the time on; twice what is seen
WAYS = ("whole", "abort", "reset", "slow", "half", "stall", "open")
WEIGHTS = (55, 12, 8, 8, 8, 4, 5)


def body(number, stream):
    """Few beginnings, so that what one request has read is another's."""
    return json.dumps({"messages": [{"role": "system", "content": "Number %d. " % (number % 5) * 40},
                                    {"role": "user", "content": "Say what %d is." % number}],
                       "max_tokens": TOKENS, "temperature": 1, "seed": number, "think": False,
                       "stream": stream}).encode()


def request(data, length=None):
    return (b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            b"Connection: close\r\nContent-Length: %d\r\n\r\n" % (length or len(data))) + data


def chunks(rest):
    content = b""
    while rest:
        size, _, rest = rest.partition(b"\r\n")
        n = int(size or b"0", 16)
        if n == 0:
            break
        content, rest = content + rest[:n], rest[n + 2:]
    return content


def text_of(answer, stream):
    """Status and text; None where the answer is not finished."""
    head, _, rest = answer.partition(b"\r\n\r\n")
    if not head:
        return 0, None
    status = int(head.split()[1])
    if status != 200:
        return status, None
    if b"chunked" in head:
        rest = chunks(rest)
    if not stream:
        return 200, json.loads(rest)["choices"][0]["message"]["content"]
    if b"[DONE]" not in rest:
        return 200, None
    text = ""
    for line in rest.decode().splitlines():
        if line.startswith("data: {"):
            piece = json.loads(line[6:])
            if "error" in piece:
                return 500, None
            text += piece["choices"][0]["delta"].get("content", "")
    return 200, text


async def read_all(reader, slowly):
    answer = b""
    while piece := await reader.read(64 if slowly else 65536):
        answer += piece
        if slowly:
            await asyncio.sleep(0.02)
    return answer


class Clients:
    def __init__(self, address, pid):
        self.host, self.port = address.rsplit(":", 1)
        self.pid = pid
        self.expected = {}
        self.counts = collections.Counter()
        self.wrong = []
        self.left_open = []
        self.memory_mb = []  # (seconds since the start, of the process)

    async def ask(self, number, stream, way):
        """One request; status and text where it waits for the answer, else None."""
        reader, writer = await asyncio.open_connection(self.host, int(self.port))
        data = body(number, stream)
        if way == "open" and len(self.left_open) < LEFT_OPEN:
            writer.write(request(data)[:random.randrange(len(data))])
            self.left_open.append(writer)
            return None
        try:
            if way == "stall":
                writer.write(request(data[:20], len(data)))
                await asyncio.sleep(random.uniform(0.1, 2))
                return None
            writer.write(request(data))
            if way == "half":
                writer.write_eof()
            if way in ("abort", "reset"):
                await asyncio.sleep(random.uniform(0, 3) if way == "abort" else 0)
                writer.transport.abort()
                return None
            return text_of(await read_all(reader, way == "slow"), stream)
        finally:
            writer.close()

    async def client(self, until):
        while time.monotonic() < until:
            number = random.randrange(PROMPTS)
            stream = random.random() < 0.6
            way, = random.choices(WAYS, WEIGHTS)
            try:
                result = await self.ask(number, stream, way)
            except (OSError, ValueError, KeyError) as error:
                self.wrong.append((way, number, stream, repr(error)))
                continue
            self.counts[way] += 1
            if result is not None and result != (200, self.expected[number]):
                self.wrong.append((way, number, stream, result))

    async def look(self, begun, until):
        while time.monotonic() < until:
            self.memory_mb.append((time.monotonic() - begun, memory_mb(self.pid)))
            await asyncio.sleep(0.5)

    async def run(self):
        for number in range(PROMPTS):
            status, self.expected[number] = await self.ask(number, False, "whole")
            assert status == 200, status
        begun = time.monotonic()
        until = begun + SECONDS
        await asyncio.gather(self.look(begun, until), *(self.client(until) for _ in range(CLIENTS)))
        for writer in self.left_open:
            writer.close()


def memory_mb(pid):
    with open("/proc/%d/statm" % pid, encoding="ascii") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGESIZE") / 1e6


@unittest.skipUnless(os.path.isdir("/proc/self/task"), "the system does not say what a process uses")
class Load(support.ServingTest):
    def check_memory(self, server, clients):
        self.assertLessEqual(server.metric("kvfold_most_bytes"), server.metric("kvfold_memory_bytes"))
        self.assertGreater(server.metric("kvfold_evicted_total"), 0)  # else memory was never short
        early = max(mb for seconds, mb in clients.memory_mb if seconds < SECONDS / 3)
        late = max(mb for seconds, mb in clients.memory_mb if seconds >= SECONDS / 3)
        print("memory, MB: %.0f in the first third, %.0f later" % (early, late))
        self.assertLess(late - early, GROWTH_MB)

    def test_load(self):
        random.seed(7)
        server = self.serve(self.folder(), "--queue", 256, "--memory", "%dM" % SESSIONS_MB, "--ctx", 8192)
        clients = Clients(server.address, server.process.pid)
        before = speed.threads(server.process.pid)
        asyncio.run(clients.run())
        used = sorted((seconds - before.get(task, 0) for task, seconds in speed.threads(server.process.pid).items()),
                      reverse=True)
        print("done:", dict(clients.counts))
        print("processor seconds of the threads:", " ".join("%.2f" % one for one in used))
        self.assertEqual(clients.wrong[:5], [], server.log()[-3000:])
        for way in WAYS:
            self.assertGreater(clients.counts[way], 0, way)
        # Nothing is left of anybody.
        self.until(lambda: server.metric("kvfold_http_connections") <= 1)
        self.until(lambda: server.metric("kvfold_running") + server.metric("kvfold_queued") == 0)
        self.assertEqual(server.metric("kvfold_http_requests"), 1)
        self.assertEqual(server.metric("kvfold_failed_total"), 0)
        self.check_memory(server, clients)
        self.assertEqual(server.terminate(), 0)
        for line in server.log().splitlines():
            self.assertRegex(line, r"kvfold: serve: note: (POST|GET) \S+ (200|0|408) ")


if __name__ == "__main__":
    support.main()
