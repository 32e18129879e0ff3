"""Speed of whole runs, and processor time: what the measurements of this folder share.

Runs that are compared take turns, in one order and then in the other, and only medians of such a series
are: a machine that others use changes its speed within minutes.
"""
import json
import os
import statistics
import subprocess
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PROMPT = ROOT / "models" / "prompt.txt"
FOLDER = ROOT / "models" / "tiny"


class Failed(Exception):
    """A run that did not end well; what it said."""


def prompt_text(n_tokens):
    """The bundled prompt, repeated: a token a byte, and one before it."""
    text = PROMPT.read_bytes()
    return (text * (n_tokens // len(text) + 1))[:n_tokens - 1]


def run(command, seconds):
    """What the command printed to stdout, and the most bytes that it had in memory."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as errors:
        process = subprocess.Popen([str(word) for word in command], stdout=out, stderr=errors,
                                   stdin=subprocess.DEVNULL)
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise Failed(f"not at its end after {seconds} s") from None
        errors.seek(0)
        out.seek(0)
        if process.returncode:
            lines = errors.read().decode(errors="replace").strip().splitlines()
            raise Failed(lines[-1] if lines else f"status {process.returncode}")
        return out.read().decode()


def run_kvfold(binary, model, n_tokens, n_decode, threads, seconds, options=()):
    """prefill_tps, decode_tps of a prompt of n_tokens and n_decode tokens after it."""
    with tempfile.NamedTemporaryFile() as prompt:
        prompt.write(prompt_text(n_tokens))
        prompt.flush()
        clean = {name: value for name, value in os.environ.items()
                 if not name.startswith(("DS4_", "KVFOLD_", "OMP_", "OPENBLAS_"))}
        command = ["env", "-i", *(f"{name}={value}" for name, value in clean.items()), binary, "run",
                   "-m", model, "-f", prompt.name, "-n", n_decode, "--ctx", n_tokens + n_decode,
                   "--threads", threads, "--json", *options]
        answer = json.loads(run(command, seconds))
    if answer["prompt_tokens"] != n_tokens:
        raise Failed(f"{answer['prompt_tokens']} tokens of prompt, not {n_tokens}")
    return answer


def in_turns(runners, n_rounds):
    """For each name the list of what its runner gave, all run n_rounds times; Failed passes on."""
    results = {name: [] for name in runners}
    for i in range(n_rounds):
        for name in list(runners) if i % 2 == 0 else reversed(runners):
            results[name].append(runners[name]())
    return results


def middle(values):
    return statistics.median(values)


def spread(values):
    """"123 (101 .. 150)": the median and the ends."""
    return f"{middle(values):.1f} ({min(values):.1f} .. {max(values):.1f})"


def print_table(heading, rows):
    """Columns as wide as they must be; all but the first aligned right."""
    widths = [max(len(row[i]) for row in [heading, *rows]) for i in range(len(heading))]
    for row in [heading, *rows]:
        print("  ".join(cell.ljust(width) if i == 0 else cell.rjust(width)
                        for i, (cell, width) in enumerate(zip(row, widths))).rstrip(), flush=True)


def add_arguments(parser):
    """What all comparisons take."""
    parser.add_argument("--ctx", default="1024,8192,32768", help="tokens of the prompts (%(default)s)")
    parser.add_argument("--decode", type=int, default=64, help="tokens after each (%(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="runs of each (%(default)s)")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)),
                        help="of each (%(default)s)")
    parser.add_argument("--limit", type=float, default=900, metavar="SECONDS",
                        help="a run that takes longer is ended (%(default)s)")


def threads(pid):
    """Seconds of processor time of each thread, by its id."""
    tick = os.sysconf("SC_CLK_TCK")
    found = {}
    for task in os.listdir("/proc/%d/task" % pid):
        with open("/proc/%d/task/%s/stat" % (pid, task), encoding="ascii") as file:
            fields = file.read().rsplit(")", 1)[1].split()
        found[task] = (int(fields[11]) + int(fields[12])) / tick
    return found
