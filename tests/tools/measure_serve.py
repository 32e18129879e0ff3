#!/usr/bin/env python3
"""What a server adds to the engine: its first byte, its processor time, the pauses of a running answer.

usage: measure_serve.py --kvfold PATH --model DIR [--streams 1,4,16] [--tokens 200] [--ctx 32768] [--threads 2]

Prints, on a server that has nothing else to do:
- from the sending of a request (its connection is open) to the first byte and to the first token of the answer;
- of so many answers at once, tokens a second, and the processor time of all threads but the engine's as a
  share of the engine's;
- of one answer, the time between two of its tokens while a prompt of --ctx tokens is read.
"""

import argparse
import asyncio
import json
import signal
import statistics
import subprocess
import sys
import tempfile
import time

import speed

N_FIRST = 50


def request(prompt, tokens, seed):
    data = json.dumps({"prompt": prompt, "max_tokens": tokens, "temperature": 1, "seed": seed, "stream": True}).encode()
    return (b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            b"Connection: close\r\nContent-Length: %d\r\n\r\n" % len(data)) + data


async def stream(port, prompt, tokens, seed=0):
    """Seconds from the sending to the first byte, and to each piece of the answer."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 20)
    start = time.perf_counter()
    writer.write(request(prompt, tokens, seed))
    first, rest, times = None, b"", []
    while piece := await reader.read(65536):
        now = time.perf_counter() - start
        first = first or now
        *lines, rest = (rest + piece).split(b"\n")
        times += [now for line in lines if line.startswith(b'data: {')]
    writer.close()
    return first, times


def spread(name, values, unit="ms", scale=1e3):
    values = sorted(value * scale for value in values)
    if not values:
        print("%-34s nothing came" % name)
        return
    print("%-34s median %8.2f, p90 %8.2f, most %8.2f %s" %
          (name, statistics.median(values), values[len(values) * 9 // 10], values[-1], unit))


async def first_bytes(port):
    found = []
    for number in range(N_FIRST):
        found.append(await stream(port, "The first byte of number %d is" % number, 1))
        await asyncio.sleep(0.02)
    spread("first byte", [first for first, _ in found])
    spread("first token", [times[0] for _, times in found if times])


async def many(port, n, options, pid):
    before, start = speed.threads(pid), time.perf_counter()
    answers = await asyncio.gather(*(stream(port, "Once there was a %d" % i, options.tokens, i) for i in range(n)))
    took = time.perf_counter() - start
    used = sorted((seconds - before.get(task, 0) for task, seconds in speed.threads(pid).items()), reverse=True)
    engine = sum(used[:options.threads])  # its workers are as busy as it is
    print("%2d at once: %7.1f tokens/s, all but the engine's threads %4.1f%% of these" %
          (n, sum(len(times) for _, times in answers) / took, 100 * sum(used[options.threads:]) / engine))


async def pauses(port, options):
    text = "What is said here is of no use to anyone. "
    running = asyncio.create_task(stream(port, "Tell a very long story about a", 8 * options.tokens, 1))
    await asyncio.sleep(1)
    _, read = await stream(port, (text * (options.ctx // len(text) + 1))[:options.ctx], 1)
    _, times = await running
    gaps = [later - sooner for sooner, later in zip(times, times[1:])]
    alone = [gap for gap, at in zip(gaps, times) if at < 0.9]
    print("a prompt of %d tokens read in %.1f s beside an answer of %d tokens" % (options.ctx, read[0], len(times)))
    spread("between tokens, before it came", alone)
    spread("between tokens, while it was read", [gap for gap, at in zip(gaps, times) if 1 < at < 1 + read[0]])


async def measure(port, options, pid):
    await first_bytes(port)
    for n in options.streams:
        await many(port, n, options, pid)
    await pauses(port, options)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n", maxsplit=1)[0])
    parser.add_argument("--kvfold", required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--streams", default="1,4,16", type=lambda text: [int(one) for one in text.split(",")])
    for name, value in (("tokens", 200), ("ctx", 32768), ("threads", 2)):
        parser.add_argument("--" + name, type=int, default=value)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryFile() as errors:
        process = subprocess.Popen([options.kvfold, "serve", "-m", options.model, "--port", "0", "--store", folder,
                                    "--threads", str(options.threads)], stdout=subprocess.PIPE, stderr=errors)
        port = int(process.stdout.readline().decode().rsplit(":", 1)[1])
        process.stdout.readline()
        asyncio.run(measure(port, options, process.pid))
        process.send_signal(signal.SIGINT)
        return process.wait(60)


if __name__ == "__main__":
    sys.exit(main())
