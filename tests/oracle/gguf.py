"""Writes GGUF files, whole and split, from the text of the format; shares no code with src/.

    write("m.gguf", {"general.architecture": text("x"), "x.block_count": u32(2)},
          [("token_embd.weight", (320, 256), "F16", data)])

A shape is given as numpy and safetensors have it, the values of the last dimension side by
side; the file has it the other way round. The pieces (header, entry, info) are there by
themselves for files that are wrong on purpose.
"""
import struct
from collections import namedtuple

MAGIC = b"GGUF"
VERSION = 3
ALIGNMENT = 32

# Number in the file, values of a block, bytes of a block.
Type = namedtuple("Type", "id values bytes")
TYPES = {name: Type(*numbers) for name, numbers in {
    "F32": (0, 1, 4), "F16": (1, 1, 2), "BF16": (30, 1, 2), "F64": (28, 1, 8),
    "I8": (24, 1, 1), "I16": (25, 1, 2), "I32": (26, 1, 4), "I64": (27, 1, 8),
    "Q4_0": (2, 32, 18), "Q4_1": (3, 32, 20), "Q5_0": (6, 32, 22), "Q5_1": (7, 32, 24),
    "Q8_0": (8, 32, 34), "Q8_1": (9, 32, 36),
    "Q2_K": (10, 256, 84), "Q3_K": (11, 256, 110), "Q4_K": (12, 256, 144), "Q5_K": (13, 256, 176),
    "Q6_K": (14, 256, 210), "Q8_K": (15, 256, 292),
    "IQ2_XXS": (16, 256, 66), "IQ2_XS": (17, 256, 74), "IQ3_XXS": (18, 256, 98),
    "IQ1_S": (19, 256, 50), "IQ4_NL": (20, 32, 18), "IQ3_S": (21, 256, 110), "IQ2_S": (22, 256, 82),
    "IQ4_XS": (23, 256, 136), "IQ1_M": (29, 256, 56),
    "TQ1_0": (34, 256, 54), "TQ2_0": (35, 256, 66),
    "MXFP4": (39, 32, 17), "NVFP4": (40, 64, 36), "Q1_0": (41, 128, 18), "Q2_0": (42, 64, 18),
}.items()}


# ---- Values of the metadata: the number of the type and the bytes -----------------------

Value = namedtuple("Value", "type data")
SCALARS = {"u8": (0, "<B"), "i8": (1, "<b"), "u16": (2, "<H"), "i16": (3, "<h"), "u32": (4, "<I"),
           "i32": (5, "<i"), "f32": (6, "<f"), "bool": (7, "<B"), "u64": (10, "<Q"),
           "i64": (11, "<q"), "f64": (12, "<d")}
TEXT, ARRAY = 8, 9


def _scalar(name):
    number, layout = SCALARS[name]
    return lambda value: Value(number, struct.pack(layout, value))


u8, i8, u16, i16 = _scalar("u8"), _scalar("i8"), _scalar("u16"), _scalar("i16")
u32, i32, u64, i64 = _scalar("u32"), _scalar("i32"), _scalar("u64"), _scalar("i64")
f32, f64, boolean = _scalar("f32"), _scalar("f64"), _scalar("bool")


def string(text):
    """Length and bytes, as keys and names are written too."""
    data = text if isinstance(text, bytes) else text.encode()
    return struct.pack("<Q", len(data)) + data


def text(value):
    return Value(TEXT, string(value))


def array(values):
    """Of Values that are all of one type; one of none is array_of_none."""
    values = list(values)
    assert values and all(value.type == values[0].type for value in values)
    return _array(values[0].type, values)


def array_of_none(type_number=SCALARS["u32"][0]):
    return _array(type_number, [])


def _array(type_number, values):
    return Value(ARRAY, struct.pack("<IQ", type_number, len(values)) +
                 b"".join(value.data for value in values))


# ---- Pieces of a file ---------------------------------------------------------------------

def header(n_tensors, n_entries, version=VERSION, magic=MAGIC):
    return magic + struct.pack("<IQQ", version, n_tensors, n_entries)


def entry(key, value):
    return string(key) + struct.pack("<I", value.type) + value.data


def info(name, shape, type_number, offset):
    """shape has the last dimension's values side by side."""
    return (string(name) + struct.pack("<I", len(shape)) +
            struct.pack(f"<{len(shape)}Q", *reversed(shape)) +
            struct.pack("<IQ", type_number, offset))


def padding(length, alignment):
    return bytes(-length % alignment)


def tensor_bytes(shape, type_name):
    count = 1
    for dim in shape:
        count *= dim
    kind = TYPES[type_name]
    assert shape[-1] % kind.values == 0, f"rows of {shape[-1]} in {type_name}"
    return count // kind.values * kind.bytes


# ---- Files ----------------------------------------------------------------------------------

def contents(metadata, tensors, alignment=ALIGNMENT, version=VERSION):
    """A file: metadata {key: Value}, tensors [(name, shape, name of the type, data)]."""
    if alignment != ALIGNMENT:
        metadata = {**metadata, "general.alignment": u32(alignment)}
    parts = [header(len(tensors), len(metadata), version)]
    parts += [entry(key, value) for key, value in metadata.items()]
    offset = 0
    for name, shape, type_name, data in tensors:
        assert len(data) == tensor_bytes(shape, type_name), name
        parts.append(info(name, shape, TYPES[type_name].id, offset))
        offset += len(data) + len(padding(len(data), alignment))
    head = b"".join(parts)
    body = b"".join(bytes(data) + padding(len(data), alignment) for *_, data in tensors)
    return head + (padding(len(head), alignment) + body if tensors else b"")


def write(path, metadata, tensors, alignment=ALIGNMENT, version=VERSION):
    with open(path, "wb") as file:
        file.write(contents(metadata, tensors, alignment, version))


def split_name(stem, number, count):
    """number counts from 1."""
    return f"{stem}-{number:05}-of-{count:05}.gguf"


def write_split(stem, metadata, parts, alignment=ALIGNMENT):
    """parts is a list of lists of tensors; all metadata go to the first. Returns the paths."""
    total = sum(map(len, parts))
    paths = []
    for number, tensors in enumerate(parts):
        keys = {"split.no": u16(number), "split.count": u16(len(parts)),
                "split.tensors.count": i32(total)}
        paths.append(split_name(stem, number + 1, len(parts)))
        write(paths[-1], {**(metadata if number == 0 else {}), **keys}, tensors, alignment)
    return paths
