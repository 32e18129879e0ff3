#!/usr/bin/env python3
"""Code that Metal refuses, the emulator's headers must refuse too, for the same reason.

usage: test_refused.py COMPILER FLAG...     exit status 1 where something was accepted
"""
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
SOURCE = HERE / "kernels" / "refused" / "spaces.metal"
# What clang says of each KVF_REFUSED of that file.
SAYS = {
    1: "no matching function for call to 'first'",
    2: "no matching function for call to 'fill'",
    3: "cannot initialize a variable of type 'const float *' with an lvalue of type "
       "'device float const *'",
    4: "const",
    5: "cannot initialize a variable of type 'device float *' with an lvalue of type "
       "'device float const *'",
    6: "to 'device float *' changes address space of pointer",
    7: "no matching function for call to 'simdgroup_load'",
    8: "no matching function for call to 'min'",
}
# gpu_kernels.py: signatures that are not as agreed, and the complaint.
SIGNATURES = {
    "kernel void k(uint lane [[thread_index_in_simdgroup]]) {}": "no argument struct at buffer(0)",
    "kernel void k(constant A &a [[buffer(0)]], threadgroup float *x [[threadgroup(1)]]) {}":
        "threadgroup indices are not 0, 1, ..",
    "kernel void k(constant A &a [[buffer(0)]], float *x [[threadgroup(0)]]) {}":
        "[[threadgroup(0)]] is float *",
    "kernel void k(constant A &a [[buffer(0)]], device float *x [[buffer(1)]]) {}":
        "arrays are reached by addresses in the argument struct, not by [[buffer(1)]]",
    "kernel void k(constant A &a [[buffer(0)]], uint lane) {}": "no attribute: uint lane",
    "kernel void k(constant A &a [[buffer(0)]], uint x [[thread_index_in_warp]]) {}":
        "unknown attribute [[thread_index_in_warp]]",
}
# gpu_kernels.py --check: declarations, and whether they lack an address space or have a
# word that Metal has not.
DECLARATIONS = {
    "inline void f(float *x) {}": True,
    "inline void f(thread float *x) {}": False,
    "inline void f(device const uchar *x, const half4 &y) {}": True,
    "inline float f(float a, float b) { return a * b; }": False,
    "void f() { kvf_args *p = 0; }": True,
    "void f() { device kvf_args *p = 0; x = uint(n) * m; }": False,
    "inline float f(float x) { double y = x; return float(y); }": True,
    "inline float f(float news) { again: if (news < 1.0f) goto again; return news; }": True,
    "inline float f(float news) { return news; /* double, goto */ }": False,
}


def compiles(compiler, flags, refused):
    command = [compiler, *flags, f"-DKVF_REFUSED={refused}", "-fsyntax-only", "-xc++", str(SOURCE)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    return done.returncode == 0, done.stderr


def gpu_kernels(folder, text, *options):
    source = Path(folder) / "x.metal"
    source.write_text("\n" + text + "\n", encoding="ascii")
    outputs = [] if options else [str(Path(folder) / "x.cc")]
    done = subprocess.run([sys.executable, ROOT / "scripts" / "gpu_kernels.py", *options, source, *outputs],
                          capture_output=True, text=True, timeout=60, check=False)
    return done.returncode == 0, done.stdout + done.stderr


def findings(compiler, flags):
    good, message = compiles(compiler, flags, 0)
    if not good:
        yield f"refused what is right:\n{message}"
    for refused, says in SAYS.items():
        good, message = compiles(compiler, flags, refused)
        if good:
            yield f"KVF_REFUSED={refused} was accepted"
        elif says not in message:
            yield f"KVF_REFUSED={refused} was refused for another reason:\n{message}"
    with tempfile.TemporaryDirectory() as folder:
        for text, says in SIGNATURES.items():
            good, message = gpu_kernels(folder, text)
            if good or f"x.metal:2: error: kernel k: {says}" not in message:
                yield f"{text}: {message}"
        for text, lacking in DECLARATIONS.items():
            good, message = gpu_kernels(folder, text, "--check")
            if good == lacking or ("x.metal:2: error: " in message) != lacking:
                yield f"{text}: {message}"


def main():
    found = list(findings(sys.argv[1], sys.argv[2:]))
    print("\n".join(found) or f"{len(SAYS) + len(SIGNATURES) + len(DECLARATIONS)} refusals checked")
    sys.exit(1 if found else 0)


if __name__ == "__main__":
    main()
