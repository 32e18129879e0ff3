#!/usr/bin/env python3
"""The least time that one decode step, and attention in it, can take on three Macs.

usage: metal_floor.py            prints the tables of docs/METAL.md
       metal_floor.py --write    puts them into docs/METAL.md
       metal_floor.py --check    status 1 unless docs/METAL.md has them as they are now

Arithmetic on DeepSeek-V4-Flash's geometry (docs/FORMAT.md 1 and 7) and on what is published of
the machines. Nothing is measured. Every byte is counted once, as if caches were perfect, and
every operation runs at the peak: real times are longer.
"""
import re
import sys
from pathlib import Path

PAGE = Path(__file__).resolve().parent.parent / "docs" / "METAL.md"
TABLE = re.compile(r"(<!-- scripts/metal_floor\.py (\w+) -->\n\n).*?(\n\n<!-- end -->)", re.DOTALL)

# Geometry: docs/FORMAT.md 1.
LAYERS = {"window": 2, "CSA": 21, "HCA": 20}
N_LAYERS = sum(LAYERS.values())
RATIO = {"CSA": 4, "HCA": 128}
HEADS = 64
INDEX_HEADS = 64
ROW_WIDTH = 512
INDEX_WIDTH = 128
TOP_K = 512
WINDOW_TOKENS = 128
CONTEXTS = {"8k": 8192, "96k": 98304, "1M": 1048576}
TOKEN_CONTEXTS = {"2k": 2048, "64k": 65536, "1M": 1048576}

# The matrices that a token is multiplied with, docs/FORMAT.md 1: values, by what they are of.
HIDDEN = 4096
Q_RANK = 1024
OUT_RANK, OUT_GROUPS = 1024, 8
EXPERT_FFN = 2048
N_EXPERTS, EXPERTS_USED = 256, 6
STREAMS = 4
VOCAB = 129280
EXPERT_MATRIX = HIDDEN * EXPERT_FFN  # gate, up, down each
ATTENTION = N_LAYERS * (
    HIDDEN * Q_RANK  # wq_a
    + Q_RANK * HEADS * ROW_WIDTH  # wq_b
    + HIDDEN * ROW_WIDTH  # wkv
    + HEADS * ROW_WIDTH * OUT_RANK  # wo_a: each group its own heads
    + OUT_GROUPS * OUT_RANK * HIDDEN)  # wo_b
COMPRESSORS = (
    LAYERS["CSA"] * (2 * HIDDEN * 2 * (ROW_WIDTH + INDEX_WIDTH)  # wkv, wgate; rows overlap: twice
                     + 2 * RATIO["CSA"] * (ROW_WIDTH + INDEX_WIDTH)  # ape
                     + Q_RANK * INDEX_HEADS * INDEX_WIDTH + HIDDEN * INDEX_HEADS)
    + LAYERS["HCA"] * (2 * HIDDEN * ROW_WIDTH + RATIO["HCA"] * ROW_WIDTH))
ROUTER = N_LAYERS * HIDDEN * N_EXPERTS
MIXES = (2 * N_LAYERS * STREAMS * (2 + STREAMS) + STREAMS) * STREAMS * HIDDEN
VECTORS = N_LAYERS * (2 * HIDDEN + Q_RANK + ROW_WIDTH + HEADS + N_EXPERTS)

# Bytes a value of a stored type: docs/WEIGHTS.md, a block's bytes over its values.
F32, F16, Q8_0 = 4, 2, 34 / 32
IQ2_XXS, Q2_K, Q4_K, MXFP4 = 66 / 256, 84 / 256, 144 / 256, 17 / 32
# Files of these names: how gate, up and down of routed experts are stored. The rest is the same.
FILES = {"q2": (IQ2_XXS, IQ2_XXS, Q2_K), "q4": (Q4_K, Q4_K, Q4_K), "MXFP4": (MXFP4, MXFP4, MXFP4)}

# Bytes of a row, an index row, a window row, an index query's head, a mask's value:
# docs/FORMAT.md 7. Scores are f32 wherever there is a mask.
PROFILES = {
    "legacy": (2048, 512, 2048, 512, 4),
    "tiled": (1024, 512, 2048, 512, 2),
    "packed": (584, 512, 2048, 512, 2),
    "fold": (584, 68, 584, 68, 0),
}
SCORE_BYTES = 4

# Apple publishes bandwidth (bytes/s) and cores, not clocks or FLOPS. Peak f32 = cores * 128
# lanes * 2 (a fused multiply-add) * clock; the clocks are those that others report.
MACHINES = {
    # name: (GPU cores, bandwidth, reported clock in Hz)
    "M3 Max": (40, 400e9, 1.398e9),
    "M3 Ultra": (80, 819e9, 1.398e9),
    "M5 Max": (40, 614e9, 1.74e9),
}
LANES_A_CORE = 128


def peak_flops(machine):
    cores, _, clock = MACHINES[machine]
    return cores * LANES_A_CORE * 2 * clock


def rows_of(tokens):
    """Rows that one query sees in a layer of each kind: window rows, visible, attended."""
    window = min(WINDOW_TOKENS, tokens)
    csa = tokens // RATIO["CSA"]
    return window, csa, min(TOP_K, csa), tokens // RATIO["HCA"]


def count_bytes(profile, tokens):
    """Bytes read and written by select and attend, by what they are of."""
    row, index_row, window_row, index_query, mask_value = PROFILES[profile]
    window, visible, listed, hca = rows_of(tokens)
    selecting = LAYERS["CSA"]
    matrix = SCORE_BYTES + mask_value if mask_value else 0  # each is written and read
    return {
        "index rows": selecting * visible * index_row,
        "scores, mask": selecting * visible * matrix * 2,
        "CSA rows": selecting * listed * row,
        "HCA rows": LAYERS["HCA"] * hca * row,
        "window": N_LAYERS * window * window_row,
        "queries, out": N_LAYERS * HEADS * ROW_WIDTH * 4 * 2
        + selecting * INDEX_HEADS * index_query,
    }


def count_operations(tokens):
    """Multiplications and additions of the dots and of the weighted sums, the same for all."""
    window, visible, listed, hca = rows_of(tokens)
    attended = N_LAYERS * window + LAYERS["CSA"] * listed + LAYERS["HCA"] * hca
    return {
        "select": LAYERS["CSA"] * visible * INDEX_HEADS * INDEX_WIDTH * 2,
        "attend": attended * HEADS * ROW_WIDTH * 2 * 2,
    }


def floor_seconds(machine, profile, tokens):
    """Bytes / bandwidth and operations / peak. The floor is the larger."""
    return (sum(count_bytes(profile, tokens).values()) / MACHINES[machine][1],
            sum(count_operations(tokens).values()) / peak_flops(machine))


def count_weights(file):
    """Bytes of weights that one token reads, by what they are of."""
    return {
        "routed experts": N_LAYERS * EXPERTS_USED * EXPERT_MATRIX * sum(FILES[file]),
        "attention": ATTENTION * Q8_0,
        "shared expert": N_LAYERS * 3 * EXPERT_MATRIX * Q8_0,
        "compressors, indexer": COMPRESSORS * F16,
        "router, mixes": (ROUTER + MIXES) * F16 + VECTORS * F32,
        "output": VOCAB * HIDDEN * Q8_0,
    }


def count_weight_operations():
    """A multiplication and an addition of each value."""
    values = (N_LAYERS * 3 * EXPERT_MATRIX * (EXPERTS_USED + 1) + ATTENTION + COMPRESSORS + ROUTER
              + MIXES + VOCAB * HIDDEN)
    return 2 * values


def token_seconds(machine, file, profile, tokens):
    """Bytes / bandwidth and operations / peak, of weights and of attention."""
    total = sum(count_weights(file).values()) + sum(count_bytes(profile, tokens).values())
    operations = count_weight_operations() + sum(count_operations(tokens).values())
    return total / MACHINES[machine][1], operations / peak_flops(machine)


def table(header, rows):
    """Markdown, all but the first column to the right."""
    lines = [header, ["---"] + ["---:"] * (len(header) - 1), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def bytes_table():
    parts = list(count_bytes("fold", 1))
    rows = []
    for context, tokens in CONTEXTS.items():
        for profile in PROFILES:
            counted = count_bytes(profile, tokens)
            rows.append([f"{context} {profile}"] + [f"{counted[p] / 1e6:,.2f}" for p in parts]
                        + [f"{sum(counted.values()) / 1e6:,.2f}"])
    return table(["MB a step"] + parts + ["all"], rows)


def operations_table():
    rows = []
    for context, tokens in CONTEXTS.items():
        counted = count_operations(tokens)
        rows.append([context] + [f"{n / 1e9:,.2f}" for n in counted.values()]
                    + [f"{sum(counted.values()) / 1e9:,.2f}"])
    return table(["10^9 operations a step", "select", "attend", "all"], rows)


def machines_table():
    rows = []
    for machine, (cores, bandwidth, clock) in MACHINES.items():
        peak = peak_flops(machine)
        rows.append([machine, str(cores), f"{bandwidth / 1e9:,.0f} GB/s", f"{clock / 1e6:,.0f} MHz",
                     f"{peak / 1e12:.1f} TFLOPS", f"{peak / bandwidth:.0f}"])
    return table(["machine", "GPU cores", "bandwidth", "clock (reported)", "f32 peak (derived)",
                  "operations a byte"], rows)


def floor_table():
    header = ["least ms a step (bytes, operations)"] + list(MACHINES)
    rows = []
    for context, tokens in CONTEXTS.items():
        for profile in PROFILES:
            cells = []
            for machine in MACHINES:
                limits = [seconds * 1e3 for seconds in floor_seconds(machine, profile, tokens)]
                cells.append(f"{max(limits):.2f} ({limits[0]:.2f}, {limits[1]:.2f})")
            rows.append([f"{context} {profile}"] + cells)
    return table(header, rows)


def weights_table():
    parts = list(count_weights("q2"))
    rows = []
    for file in FILES:
        counted = count_weights(file)
        rows.append([file] + [f"{counted[p] / 1e9:.3f}" for p in parts]
                    + [f"{sum(counted.values()) / 1e9:.3f}"])
    return table(["GB a token"] + parts + ["all"], rows)


def token_table():
    rows = []
    for context, tokens in TOKEN_CONTEXTS.items():
        for file in FILES:
            cells = []
            for machine in MACHINES:
                by_bytes, by_operations = token_seconds(machine, file, "fold", tokens)
                seconds = max(by_bytes, by_operations)
                cells.append(f"{seconds * 1e3:.1f} ms, {1 / seconds:.0f}/s "
                             f"({by_operations * 1e3:.1f})")
            rows.append([f"{context} {file}"] + cells)
    return table(["least time a token, tokens/s (operations alone, ms)"] + list(MACHINES), rows)


TABLES = {
    "weights": weights_table,
    "token": token_table,
    "machines": machines_table,
    "bytes": bytes_table,
    "operations": operations_table,
    "floor": floor_table,
}


def main():
    if sys.argv[1:] not in ([], ["--write"], ["--check"]):
        sys.exit(__doc__.strip().split("\n\n")[1])
    if not sys.argv[1:]:
        print("\n\n".join(make() for make in TABLES.values()))
        return
    page = PAGE.read_text(encoding="utf-8")
    if set(TABLES) != {name for _, name, _ in TABLE.findall(page)}:
        sys.exit(f"{PAGE.name} should have the tables {', '.join(TABLES)}")
    new = TABLE.sub(lambda m: m.group(1) + TABLES[m.group(2)]() + m.group(3), page)
    if sys.argv[1] == "--write":
        PAGE.write_text(new, encoding="utf-8")
    elif new != page:
        sys.exit(f"{PAGE.name} is older than its tables: run scripts/metal_floor.py --write")


if __name__ == "__main__":
    main()
