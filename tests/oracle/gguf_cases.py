"""Small GGUF files, right and wrong ones, each named after what is odd about it.

Fuzzing starts from them (tests/fuzz/seeds.py), and what kvfold and llama.cpp make of them is
compared (test_gguf.py).
"""
import struct

import gguf
from gguf import Value, array, boolean, entry, f32, header, i32, info, padding, text, u8, u32, u64

ARCHITECTURE = entry("general.architecture", text("x"))
F32, Q8_0 = gguf.TYPES["F32"].id, gguf.TYPES["Q8_0"].id


def file(entries=(), infos=(), data=b"", alignment=32, version=3, n_entries=None, n_tensors=None,
         magic=gguf.MAGIC):
    head = header(len(infos) if n_tensors is None else n_tensors,
                  len(entries) if n_entries is None else n_entries, version, magic)
    head += b"".join(entries) + b"".join(infos)
    return head + (padding(len(head), alignment) if infos else b"") + data


def two(second, first=0, names=("a", "b"), data=256, **changes):
    """Two tensors of 32 f32."""
    infos = [info(names[0], [32], F32, first), info(names[1], [32], F32, second)]
    return file(**{"entries": [ARCHITECTURE], "infos": infos, "data": bytes(data), **changes})


def one(shape, type_number=F32, offset=0, data=128, name="a", **changes):
    return file(**{"entries": [ARCHITECTURE], "infos": [info(name, shape, type_number, offset)],
                   "data": bytes(data), **changes})


def keyed(*entries, **changes):
    return two(128, entries=[ARCHITECTURE, *entries], **changes)


def cases():
    nested = Value(gguf.ARRAY, struct.pack("<IQ", gguf.ARRAY, 1) + struct.pack("<IQ", 4, 1) + bytes(4))
    alignment = "general.alignment"
    every_type, offset, infos = [], 0, []
    for name, kind in gguf.TYPES.items():
        infos.append(info(name, [1, kind.values], kind.id, offset))
        offset += kind.bytes + len(padding(kind.bytes, 32))
    every_type = file([ARCHITECTURE], infos, bytes(offset))
    every_value = [entry(name, gguf._scalar(name)(1)) for name in gguf.SCALARS]
    return {
        "plain": two(128),
        "every_type": every_type,
        "every_value": keyed(*every_value, entry("texts", array([text("a"), text(""), text(b"\xff")])),
                             entry("bools", array([boolean(1), boolean(0)])),
                             entry("floats", array([f32(1.5)] * 3))),
        "gap": two(160, data=288),
        "gap_first": two(160, first=32, data=288),
        "second_first": two(0, first=128),
        "overlap": two(0),
        "overlap_by_a_part": two(96),
        "trailing_bytes": two(128, data=1000),
        "data_cut": two(128, data=200),
        "no_data": two(128, data=0),
        "last_padding_missing": one([3], data=12),
        "key_twice": keyed(ARCHITECTURE),
        "name_twice": two(128, names=("a", "a")),
        "name_of_63": two(128, names=("n" * 63, "b")),
        "name_of_64": two(128, names=("n" * 64, "b")),
        "name_empty": one([32], name=""),
        "dimensions_0": one([]),
        "dimensions_4": one([1, 1, 1, 32]),
        "dimensions_5": one([1, 1, 1, 1, 32]),
        "dimension_of_0": one([0, 32]),
        "row_of_0": one([32, 0]),
        "product_of_2_63": one([2**31, 2**32]),
        "product_of_2_64": one([2**32, 2**32]),
        "bytes_of_2_64": one([2**62]),
        "alignment_64": keyed(entry(alignment, u32(64)), alignment=64),
        "alignment_8": keyed(entry(alignment, u32(8)), alignment=8),
        "alignment_24": keyed(entry(alignment, u32(24))),
        "alignment_0": keyed(entry(alignment, u32(0))),
        "alignment_u64": keyed(entry(alignment, u64(32))),
        "alignment_i32": keyed(entry(alignment, i32(32))),
        "alignment_text": keyed(entry(alignment, text("32"))),
        "nested_array": keyed(entry("k", nested)),
        "empty_array": keyed(entry("k", gguf.array_of_none())),
        "empty_array_of_texts": keyed(entry("k", gguf.array_of_none(gguf.TEXT))),
        "empty_array_of_type_13": keyed(entry("k", gguf.array_of_none(13))),
        "bool_2": keyed(entry("k", Value(7, b"\2"))),
        "type_13": keyed(entry("k", Value(13, bytes(8)))),
        "array_of_2_61_texts": keyed(entry("k", Value(gguf.ARRAY, struct.pack("<IQ", gguf.TEXT, 2**61)))),
        "array_of_2_64_bytes": keyed(entry("k", Value(gguf.ARRAY, struct.pack("<IQ", 0, 2**64 - 1)))),
        "text_of_2_64": keyed(entry("k", Value(gguf.TEXT, struct.pack("<Q", 2**64 - 1)))),
        "key_empty": keyed(entry("", u32(0))),
        "key_with_nul": keyed(entry("a\0b", u8(0))),
        "key_not_ascii": keyed(entry("\u00e4", u8(0))),
        "type_4": one([32], 4),
        "type_31": one([32], 31),
        "type_38": one([32], 38),
        "type_99": one([32], 99),
        "type_2_32": one([32], 2**32 - 1),
        "q8_0_of_33": one([33], Q8_0),
        "q8_0_of_64": one([2, 64], Q8_0, data=136),
        "offset_odd": two(129, data=512),
        "offset_of_2_64": two(2**64 - 32),
        "version_2": two(128, version=2),
        "version_1": two(128, version=1),
        "version_4": two(128, version=4),
        "version_0": two(128, version=0),
        "big_endian": two(128, version=3 << 24),
        "magic": two(128, magic=b"GGUE"),
        "keys_of_2_60": two(128, n_entries=2**60),
        "keys_one_more": two(128, n_entries=2),
        "tensors_of_2_60": two(128, n_tensors=2**60),
        "tensors_one_more": two(128, n_tensors=3),
        "tensors_one_fewer": two(128, n_tensors=1),
        "no_tensors": file([ARCHITECTURE]),
        "no_tensors_but_data": file([ARCHITECTURE], data=bytes(100)),
        "nothing_at_all": file(),
        "header_cut": two(128)[:40],
        "header_of_23": two(128)[:23],
        "info_cut": two(128)[:100],
    }


# What kvfold reads. llama.cpp reads more, refused here: a dimension of 0, no dimensions, a
# product of 2^64, a bool that is neither 0 nor 1; and a header whose data were cut off,
# which it finds later. It refuses gaps and any order but the file's.
READ = {
    "plain", "every_type", "every_value", "gap", "gap_first", "second_first", "trailing_bytes",
    "last_padding_missing", "name_of_63", "dimensions_4", "alignment_64", "alignment_8",
    "empty_array", "empty_array_of_texts", "q8_0_of_64", "version_2", "tensors_one_fewer", "no_tensors",
    "no_tensors_but_data", "nothing_at_all",
}
