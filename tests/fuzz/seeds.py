#!/usr/bin/env python3
"""Writes the hand-made inputs of the fuzz targets, each named after what is odd about it.

usage: seeds.py [FOLDER]     FOLDER is corpus/ beside this file where it is not given

The other inputs of a corpus were found by libFuzzer and are named by their hashes.
"""
import json
import struct
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests/oracle"))
sys.path.insert(0, str(ROOT / "tests/text"))
import gguf as gguf_writer
import gguf_cases
import make_fixture
import tiny_gguf
import v4
from chat_seeds import answer, chat_texts, conversation, messages
from request_seeds import endpoints, request
PART = b"\xff"  # between parts of an input: see fuzz_config.c, fuzz_shards.c


def text(value):
    return json.dumps(value, separators=(",", ":")).encode()


def tensor(begin, end, shape=None, dtype="F32"):
    return {"dtype": dtype, "shape": [(end - begin) // 4] if shape is None else shape,
            "data_offsets": [begin, end]}


# ---- One safetensors file ---------------------------------------------------------

def shard(header, data_bytes=0, length=None):
    header = header if isinstance(header, bytes) else text(header)
    return struct.pack("<Q", len(header) if length is None else length) + header + bytes(data_bytes)


def safetensors():
    two = {"__metadata__": {"format": "pt"}, "a": tensor(0, 8), "b": tensor(8, 16, [2, 1], "F32")}
    dtypes = [("F16", 2), ("BF16", 2), ("I64", 8), ("I32", 4), ("U8", 1), ("F8_E4M3", 1),
              ("F8_E8M0", 1), ("BOOL", 1), ("F64", 8), ("C64", 8)]
    all_dtypes, end = {}, 0
    for name, size in dtypes:
        all_dtypes[name] = tensor(end, end + size, [1], name)
        end += size
    return {
        "two_tensors": shard(two, 16),
        "every_dtype": shard(all_dtypes, end),
        "half_bytes": shard({"a": tensor(0, 1, [2], "F4"), "b": tensor(1, 4, [4], "F6_E2M3")}, 4),
        "half_a_byte": shard({"a": tensor(0, 1, [1], "F4")}, 1),
        "nothing": b"",
        "seven_bytes": b"\1\0\0\0\0\0\0",
        "header_of_0": shard(b""),
        "no_tensors": shard({}),
        "no_tensors_but_data": shard({}, 4),
        "header_padded": shard(text(two) + b"  ", 16),
        "header_cut": shard(text(two)[:-9], length=len(text(two))),
        "header_1_past_the_file": shard({}, length=3),
        "header_of_2_64": shard({}, length=2**64 - 1),
        "header_of_2_64_less_8": shard({}, length=2**64 - 8),
        "header_of_100_MB": shard({}, length=100_000_000),
        "header_above_100_MB": shard({}, length=100_000_001),
        # cJSON before 1.7.18 reads the byte after the comma.
        "header_ends_after_a_comma": shard(b'{"a":1,'.rjust(4096 - 8)),
        "data_missing": shard(two, 15),
        "data_left_over": shard(two, 17),
        "overlap": shard({"a": tensor(0, 8), "b": tensor(4, 12)}, 12),
        "same_bytes_twice": shard({"a": tensor(0, 8), "b": tensor(0, 8)}, 8),
        "gap": shard({"a": tensor(0, 4), "b": tensor(8, 12)}, 12),
        "out_of_order": shard({"b": tensor(8, 12), "a": tensor(0, 8)}, 12),
        "empty_between": shard({"a": tensor(0, 4), "b": tensor(4, 4, [0]), "c": tensor(4, 8)}, 8),
        "empty_in_the_middle": shard({"a": tensor(0, 8), "b": tensor(4, 4, [0])}, 8),
        "empty_past_the_end": shard({"a": tensor(9, 9, [0])}),
        "ends_before_it_begins": shard(b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[4,0]}}', 4),
        "offsets_near_2_53": shard({"a": tensor(2**53 - 5, 2**53 - 1, [1])}),
        "offsets_near_2_64": shard({"a": tensor(2**64 - 4, 2**64, [1])}),
        "offset_negative": shard({"a": tensor(-4, 0, [1])}),
        "offset_fraction": shard(b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4.5]}}', 4),
        "offset_1e400": shard(b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,1e400]}}', 4),
        "offsets_three": shard(b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4,8]}}', 4),
        "shape_product_2_64": shard({"a": tensor(0, 0, [2**32, 2**32])}),
        "shape_bits_2_64": shard({"a": tensor(0, 0, [2**30, 2**29])}),
        "shape_2_64_times_0": shard({"a": tensor(0, 0, [2**52, 2**52, 0])}),
        "shape_scalar": shard({"a": tensor(0, 4, [])}, 4),
        "shape_8_dims": shard({"a": tensor(0, 4, [1] * 8)}, 4),
        "shape_9_dims": shard({"a": tensor(0, 4, [1] * 9)}, 4),
        "name_twice": shard(b'{"a":%s,"a":%s}' % (text(tensor(0, 4)), text(tensor(4, 8))), 8),
        "key_twice": shard(b'{"a":{"dtype":"F32","dtype":"I8","shape":[],"data_offsets":[0,4]}}', 4),
        "name_empty": shard({"": tensor(0, 4)}, 4),
        "name_long": shard({"\u00e4" * 400: tensor(0, 8)}, 4),
        "name_not_utf8": shard(b'{"\xc3\x28":1}'),
        "name_with_nul": shard(b'{"a\\u0000b":1}'),
        "name_of_controls": shard({"\x1b[2J\n\u0085": 1}),
        "dtype_unknown": shard({"a": tensor(0, 4, [1], "F33")}, 4),
        "dtype_long": shard({"a": tensor(0, 4, [1], "F" * 300)}, 4),
        "metadata_number": shard({"__metadata__": {"a": 1}}),
        "metadata_text": shard({"__metadata__": "pt"}),
        "entry_null": shard({"a": None}),
        "nested_999": shard(b'{"a":' + b"[" * 998 + b"]" * 998 + b"}"),
        "nested_1001": shard(b'{"a":' + b"[" * 1001 + b"]" * 1001 + b"}"),
        "array": shard([]),
        "two_objects": shard(b"{}{}"),
    }


# ---- An index and its shards --------------------------------------------------------

def shards():
    empty = tensor(0, 0, [0])

    def parts(weight_map, *headers):
        index = weight_map if isinstance(weight_map, bytes) else text({"weight_map": weight_map})
        return PART.join([index, *(h if isinstance(h, bytes) else text(h) for h in headers)])

    return {
        "two_shards": parts({"x": "a", "y": "b"}, {"x": empty}, {"y": empty}),
        "with_metadata": parts(text({"metadata": {"total_size": 0}, "weight_map": {"x": "a"}}),
                               {"__metadata__": {}, "x": empty}),
        "no_index": b"",
        "no_weight_map": parts(b"{}"),
        "no_entries": parts({}),
        "shard_missing": parts({"x": "a", "y": "b"}, {"x": empty}),
        "shard_damaged": parts({"x": "a"}, b"{"),
        "in_both": parts({"x": "a", "y": "b"}, {"x": empty}, {"x": empty, "y": empty}),
        "in_the_other": parts({"x": "a", "y": "b"}, {"y": empty}, {"x": empty}),
        "not_in_the_index": parts({"x": "a"}, {"x": empty, "y": empty}),
        "not_in_a_shard": parts({"x": "a", "y": "a"}, {"x": empty}),
        "key_twice": parts(b'{"weight_map":{"x":"a","x":"b"}}', {"x": empty}, {"x": empty}),
        "long_names_in_both": parts({"\u00e4" * 300: "a", "y": "b"}, {"\u00e4" * 300: empty},
                                    {"\u00e4" * 300: empty}),
        "path_absolute": parts({"x": "/etc/passwd"}),
        "path_up": parts({"x": ".."}),
        "path_up_and_down": parts({"x": "../b"}),
        "path_here": parts({"x": "."}),
        "path_empty": parts({"x": ""}),
        "path_too_long": parts({"x": "a" * 300}),
        "path_null": parts({"x": None}),
        "shard_is_the_index": parts({"x": "model.safetensors.index.json"}),
    }


# ---- config.json --------------------------------------------------------------------

# The names of DeepSeek's own code.
ORIGINAL = {
    "vocab_size": 320, "dim": 256, "moe_inter_dim": 96, "n_layers": 6, "n_hash_layers": 1,
    "n_heads": 8, "n_routed_experts": 8, "n_shared_experts": 1, "n_activated_experts": 2,
    "score_func": "sqrtsoftplus", "route_scale": 1.5, "swiglu_limit": 10, "q_lora_rank": 128,
    "head_dim": 512, "rope_head_dim": 64, "norm_eps": 1e-06, "o_groups": 2, "o_lora_rank": 128,
    "window_size": 128, "compress_ratios": [0, 0, 4, 128, 4, 128], "compress_rope_theta": 160000,
    "original_seq_len": 65536, "rope_theta": 10000, "rope_factor": 16, "beta_fast": 32,
    "beta_slow": 1, "index_n_heads": 16, "index_head_dim": 128, "index_topk": 64, "hc_mult": 4,
    "hc_sinkhorn_iters": 20, "hc_eps": 1e-06, "dtype": "bf16", "expert_dtype": None,
}


def config():
    modern = json.loads((ROOT / "models/tiny/config.json").read_text(encoding="utf-8"))
    generation = (ROOT / "models/tiny/generation_config.json").read_bytes()

    def changed(**changes):
        return text({**ORIGINAL, **changes})

    def reroped(**changes):
        rope = modern["rope_parameters"]
        return text({**modern, "rope_theta": None, "compress_rope_theta": None,
                     "rope_parameters": {**rope, "compress": {**rope["compress"], **changes}}})

    largest = {
        "n_layers": 256, "compress_ratios": [4] * 256, "vocab_size": 2**24, "dim": 65536,
        "n_heads": 1024, "window_size": 65536, "max_seq_len": 2**30, "index_n_heads": 1024,
        "index_topk": 65536, "q_lora_rank": 65536, "o_groups": 1024, "o_lora_rank": 65536,
        "hc_mult": 8, "n_routed_experts": 4096, "n_activated_experts": 64, "n_shared_experts": 64,
        "moe_inter_dim": 65536, "original_seq_len": 2**26,
    }
    ratio = {"compress_ratios": [0, 4, 128]}
    return {
        "modern": text(modern),
        "original": changed(),
        "with_generation": text(modern) + PART + generation,
        "generation_empty": changed() + PART,
        "generation_array": changed() + PART + b"[]",
        "generation_many_ids": changed() + PART + text({"eos_token_id": list(range(9))}),
        "nothing": b"",
        "ends_after_a_comma": b'{"a":1,',
        "ends_in_an_escape": b'{"a":"\\u12',
        "nested_1001": b'{"a":' + b"[" * 1001 + b"]" * 1001 + b"}",
        "byte_order_mark": b"\xef\xbb\xbf{}",
        "key_twice": changed()[:-1] + b',"dim":256}',
        "names_disagree": changed(hidden_size=512),
        "names_agree": changed(hidden_size=256),
        "largest": changed(**largest),
        "largest_window_layers": changed(**{**largest, "compress_ratios": [0] * 256}),
        "one_layer": changed(n_layers=1, compress_ratios=[0]),
        "layers_0": changed(n_layers=0),
        "layers_257": changed(n_layers=257, compress_ratios=[0] * 257),
        "layers_more_than_ratios": changed(n_layers=7),
        "ratio_3": changed(n_layers=3, compress_ratios=[0, 4, 3]),
        "rates_odd": text({**modern, "compress_rates": {"compressed_sparse_attention": 3,
                                                        "heavily_compressed_attention": 1024}}),
        "rates_1": text({**modern, "compress_rates": {"compressed_sparse_attention": 1}}),
        "kinds_disagree": text({**modern, **ratio}),
        "top_k_65537": changed(index_topk=65537),
        "vocab_1": changed(vocab_size=1),
        "eos_outside": changed(eos_token_id=320),
        "eos_negative": changed(eos_token_id=-1),
        "window_not_a_page": changed(window_size=100),
        "heads_in_3_groups": changed(o_groups=3),
        "whole_number_as_fraction": changed(dim=256.5),
        "number_1e400": changed().replace(b'"dim":256', b'"dim":1e400'),
        "number_as_text": changed(dim="256"),
        "number_with_400_digits": changed().replace(b'"dim":256', b'"dim":' + b"1" * 400),
        "theta_1": changed(rope_theta=1, compress_rope_theta=1),
        "theta_1_modern": reroped(rope_theta=1),
        "theta_just_above_1": changed(compress_rope_theta=1.0000000000000002),
        "theta_1e12": changed(rope_theta=1e12, compress_rope_theta=1e12, rope_factor=1e6),
        "yarn_of_1_token": changed(original_seq_len=1),
        "yarn_betas_swapped": changed(beta_fast=1, beta_slow=32),
        "yarn_betas_small": changed(beta_fast=0.001, beta_slow=0.001),
        "yarn_betas_large": changed(beta_fast=1e6, beta_slow=1e6),
        "yarn_scaled": reroped(attention_factor=1.5),
        "rope_type_number": reroped(rope_type=7),
        "longer_than_stretched": changed(max_seq_len=2**20 + 1),
        "key_unknown": changed(foo=1, bar=None, **{"b\n": False}),
        "key_unknown_of_a_part": changed(attn_softcap=50.0),
        "keys_unknown_many": changed(**{f"z{i}": i for i in range(200)}),
        "said_twice": text({**modern, "rope_scaling": modern["rope_parameters"]["compress"]
                            | {"rope_theta": None}}),
        "said_twice_differently": text({**modern, "rope_scaling": {
            "type": "yarn", "factor": 4, "original_max_position_embeddings": 65536}}),
        "rope_flat_without_length": changed(original_seq_len=None),
        "rope_default_with_factor": reroped(rope_type="default"),
        "number_of_64": changed()[:-1] + b',"x":' + b"1" * 64 + b"}",
        "number_with_zeros": changed()[:-1] + b',"x":007}',
        "number_cut": changed()[:-1] + b',"x":1e}',
        "number_at_the_end": b'{"a":-',
        "quantised": changed(quantization_config={"quant_method": "fp8"}),
        "quantised_array": changed(quantization_config=[1]),
        "quantised_text": changed(quantization_config="fp8"),
        "architecture_text": changed(architectures="DeepseekV4ForCausalLM"),
        "architectures_none": changed(architectures=[]),
        "long_value": changed(dtype="\u00e4" * 400),
        "control_characters": changed(dtype="\x1b[2J\r\n\u0085"),
    }


# ---- Tokens and ids --------------------------------------------------------------------

def tokenizer():
    def ids(vocab, lines, flags=0):
        return bytes([flags]) + struct.pack("<I", vocab - 1)[:3] + lines

    return {
        "text": ids(320, b"Hello, caf\xc3\xa9.\n", 3),
        "bytes": ids(320, bytes(range(256)), 3),
        "tokenizer_json": ids(320, b"a", 4),
        "vocab_255": ids(255, b"a"),
        "no_bos": ids(320, b"a", 2),
        "nothing": ids(320, b"", 3),
        "ids": ids(320, b"0\n17\n319\n"),
        "ids_crlf": ids(320, b"0\r\n319\r\n"),
        "ids_without_last_break": ids(320, b"1\n2"),
        "ids_ends_in_cr": ids(320, b"1\r"),
        "ids_cr_alone": ids(320, b"1\r2"),
        "ids_byte_order_mark": ids(320, b"\xef\xbb\xbf1\n2"),
        "ids_half_a_mark": ids(320, b"\xef\xbb1\n2"),
        "ids_cr_twice": ids(320, b"1\r\r\n2"),
        "ids_zeros": ids(320, b"0000000000000000000000000000000000000319"),
        "ids_vocab": ids(320, b"320"),
        "ids_2_64": ids(2**24, b"18446744073709551617\n"),
        "ids_largest": ids(2**24, b"16777215\n"),
        "ids_of_one": ids(1, b"0\n0\n0"),
        "ids_empty_line": ids(320, b"1\n\n2\n"),
        "ids_negative": ids(320, b"-1\n"),
        "ids_space": ids(320, b"1 \n"),
        "ids_nul": ids(320, b"1\0\n"),
    }


# ---- Command lines -------------------------------------------------------------------

COMMANDS = ("run", "verify", "score", "plan", "bench")


def units():
    def line(command, *arguments):
        return bytes([COMMANDS.index(command)]) + b"".join(a.encode() + b"\0" for a in arguments)

    many = ",".join(str(i) for i in range(1, 66))
    return {
        "run": line("run", "-m", "d", "-p", "Hi", "--temperature", "0.7", "--top-p=.9", "--seed",
                    "18446744073709551615", "-n", "1k"),
        "verify": line("verify", "-m", "d", "--ctx", "1k,8k", "--profiles", "packed,fold"),
        "score": line("score", "-m", "d", "--ids", "f", "--window", "2", "--csv"),
        "plan": line("plan", "-m", "v4-flash", "--memory", "96G", "--weights", "0"),
        "bench": line("bench", "--stage", "attend", "--runs", "200", "--quick", "--isa", "avx2"),
        "environment": line("run", "-m", "d", "-p", "x", "DS4_DISABLE_KV_OPTS=1",
                            "DS4_METAL_FP8_KV_STORE=1", "DS4_INDEXER_SCORE_TILE=512",
                            "KVFOLD_ISA=scalar"),
        "environment_threads": line("run", "-m", "d", "-p", "x", "OMP_NUM_THREADS= 12 ,2"),
        "environment_threads_bad": line("score", "-m", "d", "-f", "x", "OMP_NUM_THREADS=12x"),
        "environment_bad": line("plan", "-m", "d", "DS4_DISABLE_KV_OPTS=yes",
                                "DS4_INDEXER_SCORE_TILE=0"),
        "help": line("plan", "--help"),
        "help_in_a_cluster": line("run", "-ih"),
        "nothing": line("run"),
        "numbers": line("run", "8k", "1M", "16T", "16777216T", "18446744073709551615",
                        "18446744073709551616", "1.5k", "8kk", "0x10", "-1", "+1", " 1", "1 "),
        "numbers_wrapping": line("run", "16777217T", "36028797018963969T", "17179869184G"),
        "fractions": line("run", "0.7", ".5", "1.", ".", "1e-3", "0" * 39 + ".1", "1.00000001",
                          "0.99999999999", "nan", "inf"),
        "fractions_with_exponents": line("run", "1e-3", "-0.5", "1E+2", "1e", "1e+", "e1", "-e",
                                         "1e400", "1e-400", "-0e0", "0e999", "0" * 70 + ".5"),
        "contexts_64": line("plan", "-m", "d", "--ctx", ",".join(["1"] * 64)),
        "contexts_65": line("plan", "-m", "d", "--ctx", many),
        "contexts_with_gaps": line("plan", "-m", "d", "--ctx", "8k,,16k,"),
        "context_of_2_40": line("verify", "-m", "d", "--ctx", "1T,1099511627777"),
        "entry_cut_at_64": line("plan", "-m", "d", "--ctx", "0" * 62 + "8k,1"),
        "entry_of_100": line("plan", "-m", "d", "--ctx", "1," + "0" * 97 + "8kx"),
        "value_empty": line("run", "-m", "", "-p", "x"),
        "value_is_an_option": line("run", "-m", "--json", "-p", "x"),
        "stage_empty": line("bench", "--stage", ""),
        "stage_long": line("bench", "--stage", "x" * 250),
        "profile_unknown": line("run", "-m", "d", "--profile", "x" * 250),
        "ambiguous": line("run", "--m", "1"),
        "abbreviated": line("run", "--mod", "d", "--prom", "x"),
        "unknown_near": line("plan", "--thraeds=2"),
        "unknown_long": line("plan", "--" + "x" * 250),
        "unknown_letter": line("plan", "-\u00e4"),
        "elsewhere": line("plan", "--seed", "1"),
        "value_missing": line("plan", "-m"),
        "value_unwanted": line("plan", "--json=1"),
        "dashes": line("plan", "--", "--json"),
        "dash": line("plan", "-"),
        "grid_off": line("run", "-m", "d", "-p", "x", "--grid", "off", "--profile", "fold"),
    }


# ---- GGUF, whole and split --------------------------------------------------------------

def gguf():
    """See fuzz_gguf.c: 0 and a file, or 1, the length of the first part and both parts."""
    def part(number, count=2, total=2, first=(), tensors="ab"):
        keys = {"split.no": gguf_writer.u16(number), "split.count": gguf_writer.u16(count),
                "split.tensors.count": gguf_writer.i32(total)}
        return gguf_writer.contents({**dict(first), **keys},
                                    [(tensors[number % 2], [4], "F32", bytes(16))])

    def split(first, second):
        return struct.pack("<BH", 1, len(first)) + first + second

    named = {"general.architecture": gguf_writer.text("x")}
    other = {"general.architecture": gguf_writer.text("y")}
    seeds = {name: b"\0" + content for name, content in gguf_cases.cases().items()}
    tiny = tiny_gguf.metadata(tiny_gguf.Checkpoint(
        json.loads((ROOT / "models/tiny/config.json").read_text(encoding="utf-8")), {}))
    small = [("output_hc_scale.weight", [1], "F32", bytes(4)),
             ("blk.0.attn_norm.weight", [256], "BF16", bytes(512)),
             ("blk.0.exp_probs_b.bias", [8], "F32", bytes(32)),
             ("blk.6.nextn.eh_proj.weight", [2], "F32", bytes(8))]
    described = make_fixture.describe(1, 3)
    described["added_tokens"] = described["added_tokens"][:5]
    tokens, types, merges = v4.gguf_keys(described)
    tokenizer_keys = {
        "tokenizer.ggml.model": gguf_writer.text("gpt2"), "tokenizer.ggml.pre": gguf_writer.text("joyai-llm"),
        "tokenizer.ggml.tokens": gguf_writer.array(map(gguf_writer.text, tokens)),
        "tokenizer.ggml.token_type": gguf_writer.array(map(gguf_writer.i32, types)),
        "tokenizer.ggml.merges": gguf_writer.array(map(gguf_writer.text, merges))}
    return seeds | {
        "tokenizer": b"\0" + gguf_writer.contents(tokenizer_keys, small[:1]),
        "tokenizer_llama": b"\0" + gguf_writer.contents({"tokenizer.ggml.model": gguf_writer.text("llama")}, small[:1]),
        "config": b"\0" + gguf_writer.contents(tiny, []),
        "config_and_tensors": b"\0" + gguf_writer.contents(tiny, small),
        "split": split(part(0, first=named), part(1)),
        "split_named_twice": split(part(0, first=named), part(1, first=named)),
        "split_of_another_model": split(part(0, first=named), part(1, first=other)),
        "split_number": split(part(0), part(0)),
        "split_count": split(part(0), part(1, count=3)),
        "split_total": split(part(0, total=3), part(1, total=3)),
        "split_totals_differ": split(part(0), part(1, total=3)),
        "split_name_twice": split(part(0), part(1, tensors="aa")),
        "split_without_keys": split(gguf_cases.file(), part(1)),
        "split_second_empty": split(part(0), b""),
        "whole_that_says_part": b"\0" + part(1),
    }


# ---- Saved sessions --------------------------------------------------------------------

TILED, PACKED, FOLD, COMPRESSED, GRID_OFF, EMPTY, TWICE, INTERRUPTED = range(1, 9)  # 0: legacy
CHECKPOINTS, CHECKPOINTS_TWICE, OF_VERSION_1 = range(240, 243)
N_CHECKPOINTS, STATE = 48, 49
FIRST, SECOND, AFTER, LONGER = 1, 2, 4, 8
(VERSION, PROFILE, LAYERS, VOCAB, N_TOKENS, CONTEXT, FLAGS, N_PARTS, GENERATION, INDEX,
 INDEX_BYTES, END, HEADS, INDEX_HEADS, TOP_K, WINDOW, MODEL_TOKENS) = (
    2, 3, 4, 5, 6, 8, 12, 13, 14, 16, 18, 22, 26, 27, 28, 29, 30)  # offsets in words
STREAM, LAYER, FIRST_PAGE, PAGES, CODEC, ZERO, OFFSET, STORED, CHECKSUM = range(9)


def snapshot():
    """Recipes: see fuzz_snapshot.c."""
    def recipe(base, *edits, sealed=True, other=0):
        return bytes([base, sealed | other << 1]) + b"".join(edits)

    def edit(operation, place, value, flags=0):
        return struct.pack("<BBHQ", operation, flags, place, value % 2**64)

    def word(field, value, flags=0):
        return edit(0, field, value, flags)

    def long(field, value, flags=0):
        return edit(1, field, value, flags)

    def layer(number, field, value):
        return edit(2, number * 4 + field, value)

    def checkpoint(number, field, value):
        return edit(2, 2 * 4 + number * 6 + field, value)

    def part(number, field, value, flags=0):
        return edit(3, number * 16 + field, value, flags)

    def data(offset, value, flags=0):
        return edit(4, offset // 8, value, flags)

    def cut(to_bytes):
        return edit(5, 0, to_bytes)

    def longer(more_bytes):
        return edit(5, 0, more_bytes, LONGER)

    def bomb(number, unpacked_bytes):
        return edit(6, number * 16, unpacked_bytes - 1)

    def copy_part(to, source):
        return edit(7, to * 16, source)

    seeds = {f"base_{base}": recipe(base, other=other, sealed=False)
             for base, other in zip(range(9), (3, 0, 1, 2, 3, 0, 0, 1, 2))}
    seeds |= {f"base_{base}_sealed": recipe(base, other=other)
              for base, other in zip(range(9), (2, 3, 0, 1, 2, 1, 2, 3, 3))}
    return seeds | {
        "length_0": recipe(FOLD, cut(0)),
        "length_of_headers": recipe(FOLD, cut(8192)),
        "length_of_headers_less_1": recipe(FOLD, cut(8191)),
        "length_less_1_page": recipe(FOLD, cut(0x3c000)),
        "length_more": recipe(FOLD, longer(5000)),
        "version_0": recipe(FOLD, word(VERSION, 0)),
        "version_3": recipe(FOLD, word(VERSION, 3)),
        "version_1": recipe(OF_VERSION_1),
        "version_1_called_2": recipe(OF_VERSION_1, word(VERSION, 2)),
        "version_1_with_checkpoints": recipe(CHECKPOINTS, word(VERSION, 1)),
        "checkpoints": recipe(CHECKPOINTS, sealed=False),
        "checkpoints_saved_twice": recipe(CHECKPOINTS_TWICE),
        "checkpoints_another_profile": recipe(CHECKPOINTS, other=1),
        "checkpoints_0": recipe(CHECKPOINTS, word(N_CHECKPOINTS, 0)),
        "checkpoints_fewer": recipe(CHECKPOINTS, word(N_CHECKPOINTS, 2)),
        "checkpoints_too_many": recipe(CHECKPOINTS, word(N_CHECKPOINTS, 65545)),
        "checkpoints_2_32_less_1": recipe(CHECKPOINTS, word(N_CHECKPOINTS, 2**32 - 1)),
        "state_4": recipe(CHECKPOINTS, word(STATE, 4)),
        "logits_unknown": recipe(CHECKPOINTS, word(STATE, 2)),
        "checkpoint_between": recipe(CHECKPOINTS, checkpoint(0, 0, 73)),
        "checkpoint_at_0": recipe(CHECKPOINTS, checkpoint(0, 0, 0)),
        "checkpoint_twice": recipe(CHECKPOINTS, checkpoint(1, 0, 72)),
        "checkpoint_past_the_end": recipe(CHECKPOINTS, checkpoint(2, 0, 144)),
        "checkpoint_2_63": recipe(CHECKPOINTS, checkpoint(2, 1, 2**31)),
        "checkpoint_for_nothing": recipe(CHECKPOINTS, checkpoint(0, 4, 0)),
        "checkpoint_reason_4": recipe(CHECKPOINTS, checkpoint(0, 4, 4)),
        "checkpoint_damaged": recipe(CHECKPOINTS, *(data(0x40000 + 4096 * i, 5) for i in range(15)), sealed=False),
        "checkpoint_of_nans": recipe(CHECKPOINTS, *(data(0x40000 + 4096 * i, 2**64 - 1) for i in range(15))),
        "profile_4": recipe(FOLD, word(PROFILE, 4)),
        "profile_of_others": recipe(FOLD, word(PROFILE, 2)),
        "layers_0": recipe(FOLD, word(LAYERS, 0)),
        "layers_257": recipe(FOLD, word(LAYERS, 257)),
        "layers_2_32_less_1": recipe(FOLD, word(LAYERS, 2**32 - 1)),
        "vocab_0": recipe(FOLD, word(VOCAB, 0)),
        "vocab_2_32_less_1": recipe(FOLD, word(VOCAB, 2**32 - 1)),
        "vocab_smaller_than_ids": recipe(FOLD, word(VOCAB, 2)),
        "tokens_2_62": recipe(FOLD, long(N_TOKENS, 2**62), long(CONTEXT, 2**62),
                              long(MODEL_TOKENS, 2**62)),
        "tokens_2_31": recipe(FOLD, long(N_TOKENS, 2**31), long(CONTEXT, 2**31),
                              long(MODEL_TOKENS, 2**31)),
        "tokens_more_than_context": recipe(FOLD, long(N_TOKENS, 5000)),
        "tokens_71": recipe(FOLD, long(N_TOKENS, 71)),
        "tokens_0": recipe(FOLD, long(N_TOKENS, 0)),
        "context_2_31": recipe(FOLD, long(CONTEXT, 2**31), long(MODEL_TOKENS, 2**31)),
        "context_as_long_as_it_is": recipe(FOLD, long(CONTEXT, 70)),
        "context_0": recipe(EMPTY, long(CONTEXT, 0)),
        "flags_2": recipe(FOLD, word(FLAGS, 2)),
        "grid_off_but_packed": recipe(FOLD, word(FLAGS, 1)),
        "grid_on_but_off": recipe(GRID_OFF, word(FLAGS, 0), other=3),
        "parts_0": recipe(FOLD, word(N_PARTS, 0)),
        "parts_2_32_less_1": recipe(FOLD, word(N_PARTS, 2**32 - 1),
                                    long(INDEX_BYTES, 32 + 48 * (2**32 - 1))),
        "generation_0": recipe(FOLD, long(GENERATION, 0)),
        "generation_2_64_less_1": recipe(FOLD, long(GENERATION, 2**64 - 1)),
        "generation_2_64_less_2": recipe(FOLD, long(GENERATION, 2**64 - 2)),
        "generation_2_64_less_3": recipe(FOLD, long(GENERATION, 2**64 - 3)),
        "index_near_2_64": recipe(FOLD, long(INDEX, 2**64 - 4096)),
        "index_in_header": recipe(FOLD, long(INDEX, 4096)),
        "index_over_parts": recipe(FOLD, long(INDEX, 8192)),
        "index_odd": recipe(FOLD, long(INDEX, 8193)),
        "index_bytes_near_2_64": recipe(FOLD, long(INDEX_BYTES, 2**64 - 1)),
        "end_0": recipe(FOLD, long(END, 0)),
        "end_odd": recipe(FOLD, long(END, 200001)),
        "end_near_2_64": recipe(FOLD, long(END, 2**64 - 4096)),
        "heads_0": recipe(FOLD, word(HEADS, 0)),
        "heads_1024": recipe(FOLD, word(HEADS, 1024)),
        "index_heads_9": recipe(FOLD, word(INDEX_HEADS, 9)),
        "index_heads_1024": recipe(FOLD, word(INDEX_HEADS, 1024)),
        "top_k_0": recipe(FOLD, word(TOP_K, 0)),
        "top_k_65536": recipe(FOLD, word(TOP_K, 65536)),
        "window_128": recipe(FOLD, word(WINDOW, 128)),
        "window_65": recipe(FOLD, word(WINDOW, 65)),
        "headers_disagree": recipe(FOLD, long(CONTEXT, 2048, FIRST)),
        "headers_of_two_saves": recipe(FOLD, long(GENERATION, 7, SECOND),
                                       long(CONTEXT, 2048, SECOND)),
        "header_first_damaged": recipe(TWICE, word(40, 1, FIRST | AFTER)),
        "header_second_damaged": recipe(TWICE, word(40, 1, SECOND | AFTER)),
        "headers_damaged": recipe(TWICE, word(40, 1, AFTER)),
        "magic_missing": recipe(FOLD, word(0, 0)),
        "older_header_damaged": recipe(INTERRUPTED, word(40, 1, SECOND | AFTER)),
        "newer_header_damaged": recipe(INTERRUPTED, word(40, 1, FIRST | AFTER)),
        "kind_3": recipe(FOLD, layer(0, 0, 3)),
        "kind_window_but_rows": recipe(FOLD, layer(0, 0, 0)),
        "ratio_0": recipe(FOLD, layer(0, 1, 0)),
        "ratio_1": recipe(FOLD, layer(0, 1, 1)),
        "ratio_2_31": recipe(FOLD, layer(1, 1, 2**31)),
        "rows_one_more": recipe(FOLD, layer(0, 2, 36)),
        "part_stream_9": recipe(FOLD, part(2, STREAM, 9)),
        "part_layer_2": recipe(FOLD, part(2, LAYER, 2)),
        "part_layer_2_31": recipe(FOLD, part(2, LAYER, 2**31)),
        "part_first_page_1": recipe(FOLD, part(2, FIRST_PAGE, 1)),
        "part_pages_0": recipe(FOLD, part(2, PAGES, 0)),
        "part_pages_2_32_less_1": recipe(FOLD, part(2, PAGES, 2**32 - 1)),
        "part_codec_2": recipe(FOLD, part(2, CODEC, 2)),
        "part_not_zero": recipe(FOLD, part(2, ZERO, 1)),
        "part_offset_near_2_64": recipe(FOLD, part(2, OFFSET, 2**64 - 4096)),
        "part_offset_in_header": recipe(FOLD, part(2, OFFSET, 4096)),
        "part_offset_odd": recipe(FOLD, part(2, OFFSET, 16385)),
        "part_over_the_end": recipe(FOLD, longer(65535), part(7, OFFSET, 0x3d000)),
        "part_stored_near_2_64": recipe(FOLD, part(2, STORED, 2**64 - 1)),
        "part_overlaps": recipe(FOLD, part(2, OFFSET, 8192)),
        "part_twice": recipe(FOLD, copy_part(3, 2)),
        "part_in_place_of_another": recipe(FOLD, part(6, OFFSET, 16384)),
        "part_damaged": recipe(FOLD, data(16384, 1, AFTER)),
        "part_checksum": recipe(FOLD, part(2, CHECKSUM, 1, AFTER)),
        "not_zstd": recipe(FOLD, part(0, CODEC, 1), part(0, STORED, 100)),
        "zstd_of_0": recipe(FOLD, part(0, CODEC, 1), part(0, STORED, 0)),
        "zstd_right_size": recipe(FOLD, bomb(0, 4096)),
        "zstd_too_small": recipe(FOLD, bomb(0, 4095)),
        "zstd_too_large": recipe(FOLD, bomb(0, 4097)),
        "zstd_bomb": recipe(FOLD, bomb(0, 16 << 20)),
        "zstd_bomb_of_rows": recipe(FOLD, bomb(2, 16 << 20)),
        "zstd_damaged": recipe(COMPRESSED, data(8200, 0), other=0),
        "id_negative": recipe(FOLD, data(8192, 2**64 - 1)),
        "id_of_vocab": recipe(FOLD, data(8192, 97)),
        "ids_behind_the_last": recipe(FOLD, data(8192 + 280, 2**64 - 1)),
        "logits_nan": recipe(FOLD, data(12288, 0x7fc000007fc00000)),
        "rows_nan": recipe(FOLD, data(16384, 2**64 - 1), data(16384 + 64, 2**64 - 1)),
        "rows_nan_legacy": recipe(0, data(16384, 0x7fc000007fc00000), other=3),
        "rows_infinite_legacy": recipe(0, data(16384, 0x7f8000007f800000), other=3),
        "rows_nan_tiled": recipe(TILED, data(16384, 0x7e007e007e007e00), other=2),
    }


# ---- tokenizer.json ------------------------------------------------------------------------

def tokenizer_json():
    """As small as one can be: libFuzzer changes what has up to 4096 bytes."""
    whole = make_fixture.describe(1, 3)
    whole["added_tokens"] = whole["added_tokens"][:5]

    def text(part=None, **changes):
        described = {**whole, **changes} if part is None else {**whole, part: {**whole[part], **changes}}
        return json.dumps(described, ensure_ascii=False, separators=(",", ":")).encode()

    merges = [merge.split(" ") for merge in whole["model"]["merges"]]
    vocab = whole["model"]["vocab"]
    plain = text()
    assert len(plain) < 4096
    return {
        "plain": plain,
        "pairs": text("model", merges=merges),
        "escapes": json.dumps(whole, separators=(",", ":")).encode(),
        "lines": json.dumps(whole, ensure_ascii=False, indent=1).encode(),
        "byte_order_mark": b"\xef\xbb\xbf" + plain,
        "cut": plain[:2000],
        "empty": b"",
        "lfs": b"version https://git-lfs.github.com/spec/v1\n",
        "no_model": text(model=None),
        "model_first": json.dumps({"model": whole["model"], **whole}, ensure_ascii=False, separators=(",", ":")).encode(),
        "normalizer": text(normalizer={"type": "NFC"}),
        "no_split": text(pre_tokenizer={"type": "ByteLevel"}),
        "unknown_key": text(other=1),
        "id_twice": text("model", vocab={**vocab, "e": 0}),
        "id_large": text("model", vocab={**vocab, "e": 1 << 31}),
        "merge_unknown": text("model", merges=["e zz"]),
        "merge_of_three": text("model", merges=[["e", "e", "e"]]),
        "added_id_large": text(added_tokens=[{**whole["added_tokens"][0], "id": 1 << 40}]),
        "added_of_300": text(added_tokens=whole["added_tokens"] + [{**whole["added_tokens"][0], "id": 262, "content": "x" * 300}]),
        "deep": b'{"version":' + b"[" * 3000,
        "surrogate": plain.replace(b'"e":', b'"\\ud800":'),
        "nul": plain.replace(b'"e":', b'"\\u0000":'),
    }


def main():
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent / "corpus"
    for make in (safetensors, shards, config, tokenizer, tokenizer_json, units, gguf, snapshot,
                 messages, chat_texts, answer, conversation, request, endpoints):
        folder = target / make.__name__
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in make().items():
            (folder / name).write_bytes(content)
    return 0


if __name__ == "__main__":
    sys.exit(main())
