#!/usr/bin/env python3
"""Many clients at once, some of which leave, read slowly or send half a request: what becomes of the others.

usage: load.py --kvfold PATH --model DIR [--clients 64] [--seconds 60] [--prompts 12] [--tokens 40]

Each of a few requests is answered alone first; under load every answer that is finished has to be the same.
Prints what was done, the processor time of each thread of the server and its memory. Exit status 1 where an
answer was another one, or the server did not end in order.
"""

import argparse
import asyncio
import collections
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time

ERRORS_THAT_ARE_FINE = (429, 503)


def body(number, options, stream):
    return json.dumps({"messages": [{"role": "system", "content": "Number %d. " % (number % 3) * 40},
                                    {"role": "user", "content": "Say what %d is." % number}],
                       "max_tokens": options.tokens, "temperature": 1, "seed": number, "think": False,
                       "stream": stream}).encode()


def request(data, length=None):
    return (b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            b"Connection: close\r\nContent-Length: %d\r\n\r\n" % (length or len(data))) + data


def text_of(answer, stream):
    """Status and text; None where the answer is not finished."""
    head, _, rest = answer.partition(b"\r\n\r\n")
    if not head:
        return 0, None
    status = int(head.split()[1])
    if status != 200:
        return status, None
    if b"chunked" in head:
        content = b""
        while rest:
            size, _, rest = rest.partition(b"\r\n")
            if not size:
                break
            n = int(size, 16)
            content, rest = content + rest[:n], rest[n + 2:]
            if n == 0:
                break
        rest = content
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


async def ask(port, number, options, stream, way):
    """One request. way: how it goes: whole, abort, slow, half, stall."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    data = body(number, options, stream)
    try:
        if way == "stall":
            writer.write(request(data[:20], len(data)))
            await asyncio.sleep(random.uniform(0.1, 2))
            return way, None
        writer.write(request(data))
        if way == "half":
            writer.write_eof()
        if way == "abort":
            await asyncio.sleep(random.uniform(0, 3))
            writer.transport.abort()
            return way, None
        answer = b""
        while True:
            if way == "slow":
                await asyncio.sleep(0.02)
            piece = await reader.read(64 if way == "slow" else 65536)
            if not piece:
                break
            answer += piece
        return way, text_of(answer, stream)
    finally:
        writer.close()


async def client(port, options, expected, counts, until):
    while time.monotonic() < until:
        number = random.randrange(options.prompts)
        stream = random.random() < 0.6
        way = random.choices(("whole", "abort", "slow", "half", "stall"), (60, 20, 8, 8, 4))[0]
        try:
            way, result = await ask(port, number, options, stream, way)
        except OSError as error:
            counts["%s: %s" % (way, error)] += 1
            continue
        if result is None:
            counts[way] += 1
            continue
        status, text = result
        counts["%s %d" % (way, status)] += 1
        if text is not None and text != expected[number]:
            counts["WRONG"] += 1
            print("wrong:", way, number, repr(text), repr(expected[number]))
        elif status not in (200, *ERRORS_THAT_ARE_FINE) or (status == 200 and text is None):
            counts["WRONG"] += 1


def threads(pid):
    """Seconds of processor time of each thread, the most first."""
    tick = os.sysconf("SC_CLK_TCK")
    found = []
    for task in os.listdir("/proc/%d/task" % pid):
        with open("/proc/%d/task/%s/stat" % (pid, task), encoding="ascii") as file:
            fields = file.read().rsplit(")", 1)[1].split()
        found.append((int(fields[11]) + int(fields[12])) / tick)
    return sorted(found, reverse=True)


def memory_mb(pid):
    with open("/proc/%d/status" % pid, encoding="ascii") as file:
        return {line.split()[0]: int(line.split()[1]) // 1000 for line in file if line.startswith(("VmRSS", "VmHWM"))}


async def drive(port, options, pid):
    expected = {}
    for number in range(options.prompts):
        _, (status, text) = await ask(port, number, options, False, "whole")
        assert status == 200, status
        expected[number] = text
    before = threads(pid)
    counts = collections.Counter()
    until = time.monotonic() + options.seconds
    await asyncio.gather(*(client(port, options, expected, counts, until) for _ in range(options.clients)))
    after = threads(pid)
    return counts, [later - sooner for later, sooner in zip(after, before)]


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n", maxsplit=1)[0])
    parser.add_argument("--kvfold", required=True)
    parser.add_argument("--model", required=True)
    for name, value in (("clients", 64), ("seconds", 60), ("prompts", 12), ("tokens", 40)):
        parser.add_argument("--" + name, type=int, default=value)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryFile() as errors:
        process = subprocess.Popen([options.kvfold, "serve", "-m", options.model, "--port", "0", "--store", folder,
                                    "--queue", "256", "--threads", "1"], stdout=subprocess.PIPE, stderr=errors)
        port = int(process.stdout.readline().decode().rsplit(":", 1)[1])
        process.stdout.readline()
        counts, used = asyncio.run(drive(port, options, process.pid))
        print("done:", dict(counts))
        print("processor seconds of the threads: %s; all but the first: %.1f%% of it" %
              (" ".join("%.2f" % one for one in used), 100 * sum(used[1:]) / max(used[0], 0.01)))
        print("memory, MB:", memory_mb(process.pid))
        process.send_signal(signal.SIGINT)
        status = process.wait(60)
        print("ended with", status)
    return 1 if counts["WRONG"] or status else 0


if __name__ == "__main__":
    sys.exit(main())
