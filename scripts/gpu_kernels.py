#!/usr/bin/env python3
"""Makes the source that compiles a .metal file against the emulator, or against CUDA.

usage: gpu_kernels.py [--cuda] [--variant NAME] FILE.metal OUTPUT
           writes OUTPUT (.cc, with --cuda .cu); with NAME the library FILE.NAME.metal, for
           weights of that type
       gpu_kernels.py --cuda-list LIBRARY... OUTPUT
           writes OUTPUT.cu: the list of these libraries (FILE.metal, FILE.NAME.metal)
       gpu_kernels.py --check FILE...
           reports pointers without address space and words that Metal has not, in the
           headers they include too

The output includes the .metal file as it is and adds, for each kernel, a function that
calls it with what the attributes of its parameters ask for. For CUDA the file's text, its
headers in it, is in the output, changed where nvcc needs it: [[attributes]] are blanked,
tables at file scope are marked as the device's, 1.0h becomes half(1.0f). Lines keep their numbers.
"""
import argparse
import re
import sys
from pathlib import Path

COMMENT = re.compile(r'//[^\n]*|/\*.*?\*/|"(?:\\.|[^"\\\n])*"', re.DOTALL)
KERNEL = re.compile(r"(?:\[\[\s*max_total_threads_per_threadgroup\s*\(\s*(\w+)\s*\)\s*\]\]\s*)?"
                    r"\bkernel\s+void\s+(\w+)\s*\(")
ATTRIBUTE = re.compile(r"\[\[\s*(\w+)\s*(?:\(\s*(\d+)\s*\))?\s*\]\]")
SPACES = ("device", "constant", "threadgroup", "thread")
# A pointer or reference that is declared: words, then * or &, then a name and , ) = ; or [.
DECLARED = re.compile(
    r"(?<=[;{}(,\n])\s*((?:(?:const|volatile|static|inline|constexpr)\s+)*"
    r"(?:(?:device|constant|threadgroup|thread)\s+)?"
    r"(?:(?:const|volatile)\s+)*[A-Za-z_]\w*(?:\s*<[^<>;()]*>)?(?:\s+const)?)\s*"
    r"(\*|&)\s*(?:const\s+)?\w+\s*(?=[,)=;])")
# What Metal's specification takes out of C++14, and `double`.
NOT_METAL = re.compile(r"\b(catch|delete|double|dynamic_cast|goto|new|noexcept|register|"
                       r"thread_local|throw|try|typeid|virtual|long\s+long)\b")
NOT_TYPES = {"return", "else", "case", "delete", "new", "typename", "sizeof", "goto"}
# Attribute, and the element of kvf_emulated_thread (or its CUDA twin) it stands for.
PLACES = {
    "threadgroup_position_in_grid": ("group", 3),
    "threadgroups_per_grid": ("groups", 3),
    "thread_position_in_threadgroup": ("position", 3),
    "threads_per_threadgroup": ("threads", 3),
    "thread_position_in_grid": ("grid", 3),
    "thread_index_in_threadgroup": ("index", 1),
    "thread_index_in_simdgroup": ("lane", 1),
    "simdgroup_index_in_threadgroup": ("simd", 1),
}


class BadKernel(Exception):
    pass


def code_only(text):
    """The text with comments and literals blanked, line numbers kept."""
    return COMMENT.sub(lambda m: re.sub(r"[^\n]", " ", m.group()), text)


def split_parameters(text):
    """At the commas outside of brackets."""
    parts, depth, start = [], 0, 0
    for i, c in enumerate(text):
        if c in "([{<":
            depth += 1
        elif c in ")]}>":
            depth -= 1
        elif c == "," and depth == 0:
            parts.append(text[start:i])
            start = i + 1
    return parts + [text[start:]]


def closing(text, start):
    """Where the bracket closes that is open before start."""
    depth = 1
    for i in range(start, len(text)):
        depth += {"(": 1, ")": -1}.get(text[i], 0)
        if depth == 0:
            return i
    raise BadKernel("a ( that is never closed")


class Parameter:
    """One parameter of a kernel: `kind` is argument, threadgroup or place."""

    def __init__(self, text):
        match = ATTRIBUTE.search(text)
        if not match:
            raise BadKernel(f"no attribute: {' '.join(text.split())}")
        self.attribute, index = match.group(1), match.group(2)
        declaration = text[:match.start()] + text[match.end():]
        words = re.match(r"^\s*(.*?)\s*\b(\w+)\s*$", declaration, re.DOTALL)
        if not words:
            raise BadKernel(f"not understood: {' '.join(text.split())}")
        self.type = " ".join(words.group(1).split())
        self.index = int(index) if index else None
        self.kind = self.find_kind()

    def find_kind(self):
        if self.attribute in PLACES:
            return "place"
        if self.index is None:
            raise BadKernel(f"unknown attribute [[{self.attribute}]]")
        if self.attribute == "buffer" and self.index == 0:
            if not (self.type.startswith("constant ") and self.type.endswith("&")):
                raise BadKernel("buffer(0) is not a constant reference")
            return "argument"
        if self.attribute == "buffer":
            raise BadKernel("arrays are reached by addresses in the argument struct, not by "
                            f"[[buffer({self.index})]]")
        if self.attribute != "threadgroup":
            raise BadKernel(f"unknown attribute [[{self.attribute}]]")
        if not (self.type.startswith("threadgroup ") and self.type.endswith("*")):
            raise BadKernel(f"[[threadgroup({self.index})]] is {self.type}")
        return "threadgroup"

    def pointee(self):
        """The type without address space, const, and the last * or &."""
        plain = re.sub(r"\b(device|constant|threadgroup|const|volatile)\b", " ", self.type[:-1])
        return " ".join(plain.split())


class Kernel:
    def __init__(self, name, max_threads, parameters):
        self.name = name
        self.max_threads = max_threads or "0"
        self.parameters = [Parameter(p) for p in parameters]
        self.arrays = self.indices()
        arguments = [p for p in self.parameters if p.kind == "argument"]
        if len(arguments) != 1:
            raise BadKernel("no argument struct at buffer(0)")
        self.argument = arguments[0].pointee()

    def indices(self):
        """Threadgroup arrays in the order of their indices, which have no gaps."""
        found = sorted((p for p in self.parameters if p.kind == "threadgroup"),
                       key=lambda p: p.index)
        if [p.index for p in found] != list(range(len(found))):
            raise BadKernel("threadgroup indices are not 0, 1, ..")
        return found


def read_kernels(path):
    text = code_only(path.read_text(encoding="ascii"))
    kernels = []
    for match in KERNEL.finditer(text):
        inside = text[match.end():closing(text, match.end())]
        try:
            kernels.append(Kernel(match.group(2), match.group(1), split_parameters(inside)))
        except BadKernel as bad:
            line = text.count("\n", 0, match.start(2)) + 1
            sys.exit(f"{path}:{line}: error: kernel {match.group(2)}: {bad}")
    return kernels


def with_includes(path, seen):
    """The file and the project's headers that it includes, from a folder above it."""
    if path in seen:
        return
    seen.append(path)
    for name in re.findall(r'^\s*#\s*include\s+"([^"]+)"', path.read_text(encoding="ascii"),
                           re.MULTILINE):
        for folder in path.parents:
            if (folder / name).is_file():
                with_includes(folder / name, seen)
                break


def unqualified(path):
    """Pointers and references without address space, foreign words: file:line: messages."""
    text = code_only(path.read_text(encoding="ascii"))
    # What Metal does not see.
    text = re.sub(r"#if !defined\(__METAL_VERSION__\).*?#endif",
                  lambda m: re.sub(r"[^\n]", " ", m.group()), text, flags=re.DOTALL)
    text = re.sub(r"#.*", lambda m: " " * len(m.group()), text)
    for match in DECLARED.finditer(text):
        words = match.group(1).split()
        if set(words) & set(SPACES) or words[0] in NOT_TYPES or len(words) == 0:
            continue
        # `a * b` in an expression looks like a declaration; types are few and known by shape.
        kind = re.sub(r"<.*", "", [w for w in words if w not in ("const", "volatile", "static",
                                                                 "inline", "constexpr")][0])
        if not re.match(r"^(void|bool|float|half|double|size_t|T|A|B"
                        r"|(u?(char|short|int|long))|(u?(char|short|int|long)|half|float)[234]"
                        r"|u?int(8|16|32|64)_t|\w+_t|kvf_\w+|simdgroup_\w+|atomic_\w+"
                        r"|packed_\w+)$", kind) or (kind in ("A", "B", "T") and
                                                    f"class {kind}" not in text and
                                                    f"typename {kind}" not in text):
            continue
        line = text.count("\n", 0, match.start(1)) + 1
        yield f"{path}:{line}: error: '{' '.join(words)} {match.group(2)}' has no address space"
    for match in NOT_METAL.finditer(text):
        line = text.count("\n", 0, match.start()) + 1
        yield f"{path}:{line}: error: Metal has no '{match.group(1)}'"


def place(parameter, cuda):
    name, size = PLACES[parameter.attribute]
    if cuda:
        return f"kvf_cuda_{name}()"
    if name == "grid":
        parts = [f"at->group[{d}] * at->threads[{d}] + at->position[{d}]"
                 for d in range(3)]
    else:
        parts = [f"at->{name}[{d}]" for d in range(3)] if size == 3 else [f"at->{name}"]
    if size == 1:
        return f"({parameter.type})" + parts[0]
    width = int(parameter.type[-1]) if parameter.type[-1] in "23" else 1
    element = {"ui": "metal::uint", "us": "metal::ushort"}[parameter.type[:2]]
    return f"metal::vec<{element}, {width}>{{{', '.join(f'({element})({p})' for p in parts[:width])}}}"


def argument(p, cuda):
    if p.kind == "place":
        return place(p, cuda)
    if p.kind == "argument":
        return f"*({p.type[:-1].strip()} *)call->arguments"
    return f"({p.type})call->shared[{p.index}]"


def defines(variant):
    """What stands before a text that is compiled for a type of weights."""
    return [f"#define KVF_W kvf_weight_{variant}"] if variant else []


def library_name(path, variant):
    return f"{path.stem}.{variant}.metal" if variant else path.name


def symbol(library):
    """Of a library's list of kernels: products.q8_0.metal is products_q8_0."""
    return re.sub(r"\W", "_", library.removesuffix(".metal"))


def emulator_source(path, kernels, variant):
    library = library_name(path, variant)
    name = symbol(library)
    out = ["#include <metal_stdlib>", "#include <metal_simdgroup_matrix>", *defines(variant),
           "namespace {",
           f'#include "{path.resolve()}"', ""]
    for k in kernels:
        values = ",\n           ".join(argument(p, False) for p in k.parameters)
        out += [f"void launch_{k.name}(const kvf_emulated_call *call,",
                "    const kvf_emulated_thread *at)", "{", "    (void)call;",
                "    (void)at;", f"    {k.name}({values});", "}", ""]
    out += ["const kvf_emulated_kernel kernels[] = {"]
    for k in kernels:
        out.append(f'    {{"{k.name}", launch_{k.name}, sizeof({k.argument}), '
                   f"{len(k.arrays)}, {k.max_threads}}},")
    out += ["};", "const kvf_emulated_library library = {",
            f'    "{library}", kernels, {len(kernels)}, KVF_EMULATOR_CHECKED}};',
            '__attribute__((section("kvf_emulated"), used, retain))',
            f"const kvf_emulated_library *const library_{name} = &library;", "} // namespace", ""]
    return "\n".join(out)


def flattened(path, seen):
    """The file with the project's headers in it, each once; <..> includes stay."""
    lines = []
    seen.append(path)
    for number, line in enumerate(path.read_text(encoding="ascii").split("\n"), 1):
        include = re.match(r'^\s*#\s*include\s+"([^"]+)"', line)
        if not include:
            lines.append(line)
            continue
        found = next((folder / include.group(1) for folder in path.parents
                      if (folder / include.group(1)).is_file()), None)
        if not found:
            sys.exit(f"{path}:{number}: error: {include.group(1)} is not found")
        if found not in seen or found.suffix == ".def":
            lines += [f'#line 1 "{found}"', flattened(found, seen),
                      f'#line {number + 1} "{path}"']
    return "\n".join(lines)


def for_cuda(text):
    """Attributes blanked; tables of the file's scope marked as the device's; 1.0h spelt out."""
    text = re.sub(r"\[\[[^\[\]]*\]\]", lambda m: re.sub(r"[^\n]", " ", m.group()), text)
    text = re.sub(r"(?m)^((static\s+)?constant|KVF_SHARED_TABLE)\b", "KVF_ON_DEVICE const", text)
    return re.sub(r"\b(\d+\.\d*|\.\d+)h\b", r"half(\1f)", text)


def cuda_argument(p):
    if p.kind == "place":
        return f"{p.type}({place(p, True)})"
    if p.kind == "argument":
        return "args"
    return f"({p.type})(shared + call.offsets[{p.index}])"


def cuda_source(path, kernels, variant):
    library = library_name(path, variant)
    name = symbol(library)
    text = flattened(path.resolve(), [])
    out = ['#include "metal_cuda.h"', *defines(variant), f"namespace metal {{ namespace file_{name} {{",
           f'#line 1 "{path.resolve()}"', for_cuda(text),
           f'#line 1 "{name}.cu"']
    for k in kernels:
        values = ", ".join(cuda_argument(p) for p in k.parameters)
        # Without the attribute 256 threads are sure, as on Apple's GPUs.
        threads = k.max_threads if k.max_threads != "0" else "256"
        out += [f"__global__ void __launch_bounds__({threads}) launch_{k.name}("
                f"const __grid_constant__ {k.argument} args, const __grid_constant__ kvf_cuda_call call)",
                "{", "    extern __shared__ __align__(16) unsigned char shared[];",
                "    (void)shared;", "    (void)call;", f"    {k.name}({values});", "}"]
    out += ["#undef static", "#undef inline", "#undef constant", "#undef device", "#undef thread",
            "static const kvf_cuda_kernel kernels[] = {"]
    for k in kernels:
        out.append(f'    {{"{k.name}", (const void *)launch_{k.name}, sizeof({k.argument}), '
                   f"{len(k.arrays)}}},")
    out += ["};", f'extern "C" const kvf_cuda_library kvf_cuda_library_{name} = {{"{library}", kernels, '
            f"{len(kernels)}, {int('kvf_wait_for_earlier' in text)}}};", "} }", ""]
    return "\n".join(out)


def cuda_list(libraries):
    names = [symbol(library) for library in libraries]
    return "\n".join(['#include "metal_cuda_launch.h"', 'extern "C" {',
                      *[f"extern const kvf_cuda_library kvf_cuda_library_{n};" for n in names],
                      "extern const kvf_cuda_library *const kvf_cuda_libraries[];",
                      "const kvf_cuda_library *const kvf_cuda_libraries[] = {",
                      *[f"    &kvf_cuda_library_{n}," for n in names], "    nullptr};", "}", ""])


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--cuda", action="store_true")
    parser.add_argument("--cuda-list", action="store_true")
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--variant", default="")
    parser.add_argument("files", nargs="+", type=Path)
    arguments = parser.parse_args()
    if arguments.check:
        files = []
        for path in arguments.files:
            with_includes(path.resolve(), files)
        findings = [f for path in files for f in unqualified(path)]
        print("\n".join(findings), end="\n" if findings else "")
        sys.exit(1 if findings else 0)
    if arguments.cuda_list:
        *libraries, output = arguments.files
        output.write_text(cuda_list([str(library) for library in libraries]), encoding="ascii")
        return
    source, output = arguments.files
    kernels = read_kernels(source)
    if not kernels:
        sys.exit(f"{source}: error: no kernels")
    make = cuda_source if arguments.cuda else emulator_source
    output.write_text(make(source, kernels, arguments.variant), encoding="ascii")


if __name__ == "__main__":
    main()
