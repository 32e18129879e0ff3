"""The tiny checkpoint as DeepSeek releases its own; shares no code with src/.

    form = released(checkpoint)             # FP8 with E8M0 scales, experts in FP4
    write("a", form.config, form.shards)
    write("b", form.twin_config, form.twin_shards)   # the same values, not packed

The twin has every value that the packed tensors stand for, in bf16 (all are exact in it) or,
where scales are no powers of two, in f32. Prediction heads (mtp.*) are there for being skipped.
"""
import json
import struct
from array import array
from collections import namedtuple
from pathlib import Path

# packed and twin: {name: (dtype, shape, data)}
Form = namedtuple("Form", "config packed twin_config twin")

TILE = 128  # rows and columns that share a scale in FP8
GROUP = 32  # values of a row that share one in FP4
F32_ONE = 127 << 23
MODEL_NAMES = {"embed_tokens.weight": "embed.weight", "hc_head.hc_fn": "hc_head_fn",
               "hc_head.hc_base": "hc_head_base", "hc_head.hc_scale": "hc_head_scale"}
FP8 = ("attn.wq_a.weight", "attn.wq_b.weight", "attn.wkv.weight", "attn.wo_a.weight",
       "attn.wo_b.weight", "attn.indexer.wq_b.weight", "ffn.shared_experts.w1.weight",
       "ffn.shared_experts.w2.weight", "ffn.shared_experts.w3.weight")
QUANTISATION = {"activation_scheme": "dynamic", "fmt": "e4m3", "quant_method": "fp8",
                "scale_fmt": "ue8m0", "weight_block_size": [128, 128]}


# ---- Numbers: bf16 as its 16 bits ------------------------------------------------------------

def bf16_of(value):
    """Of a value that bf16 has."""
    (bits,) = struct.unpack("<I", struct.pack("<f", value))
    assert bits & 0xFFFF == 0, value
    return bits >> 16


def value_of(bits):
    return struct.unpack("<f", struct.pack("<I", bits << 16))[0]


class Codes:
    """A small float: the values of its codes without the sign, ascending; the sign is the bit above."""

    def __init__(self, magnitudes, sign):
        self.sign = sign
        self.magnitudes = [bf16_of(value) for value in magnitudes]
        self.greatest = self.magnitudes[-1]
        # The nearest code of every bf16 without a sign, for a scale of 1. It is found once:
        # with a scale of 2^e it is that of the number whose exponent is less by e.
        nearest, code = [], 0
        for bits in range(0x7F80):
            value = value_of(bits)
            while code + 1 < len(magnitudes) and value - magnitudes[code] > magnitudes[code + 1] - value:
                code += 1
            nearest.append(code)
        self.nearest = nearest
        self.tables = {}

    def exponent(self, greatest):
        """The least e with which `greatest` is none too great; both as bits of bf16."""
        over = greatest >> 7 if greatest else 127
        return over - (self.greatest >> 7) + ((greatest & 0x7F) > (self.greatest & 0x7F))

    def of_scale(self, e):
        """(code of every bf16, bf16 of every code) at a scale of 2^e."""
        if e not in self.tables:
            shift, end, last = e << 7, len(self.nearest), len(self.magnitudes) - 1
            plain = [self.nearest[bits - shift] if 0 <= bits - shift < end else last if bits > shift else 0
                     for bits in range(1 << 15)]
            values = [bits + shift if bits else 0 for bits in self.magnitudes]
            assert all(0 <= bits < 0x7F80 for bits in values)
            values += [0] * (self.sign - len(values))  # codes that are no numbers are not used
            self.tables[e] = (plain + [code | self.sign for code in plain],
                              values + [bits | 0x8000 for bits in values])
        return self.tables[e]


E4M3 = Codes([m / 512 for m in range(8)] +
             [(8 + m) * 2.0 ** (e - 10) for e in range(1, 16) for m in range(8) if (e, m) != (15, 7)], 0x80)
E2M1 = Codes([0, 0.5, 1, 1.5, 2, 3, 4, 6], 8)


def e8m0(e):
    assert 0 <= e + 127 < 255
    return e + 127


# ---- Matrices ---------------------------------------------------------------------------------

def greatest(parts):
    return max(bits & 0x7FFF for bits in set().union(*parts))


def uneven(e, number):
    """2^e for each other tile, else an f32 near it that is no power of two."""
    return 2.0 ** e if number % 2 else struct.unpack("<f", struct.pack("<f", 2.0 ** e * (1 + (1 + number % 97) / 9973)))[0]


def pack_fp8(shape, data, scales):
    """(codes, plane of scales, decoded bf16 or, with scales in f32, f32) of a bf16 matrix."""
    rows, cols = shape
    values = array("H", data)
    codes = bytearray(rows * cols)
    decoded = array("f" if scales == "F32" else "H", bytes(rows * cols * (4 if scales == "F32" else 2)))
    plane = []
    for top in range(0, rows, TILE):
        for left in range(0, cols, TILE):
            right = min(left + TILE, cols)
            spans = [(row * cols + left, row * cols + right) for row in range(top, min(top + TILE, rows))]
            e = E4M3.exponent(greatest([values[a:b] for a, b in spans]))
            encode, decode = E4M3.of_scale(e)
            plane.append(e)
            if scales == "F32":
                plane[-1] = uneven(e, len(plane))
                decode = [value_of(bits) * 2.0 ** -e * plane[-1] for bits in decode]
            for a, b in spans:
                codes[a:b] = bytes(map(encode.__getitem__, values[a:b]))
                decoded[a:b] = array(decoded.typecode, map(decode.__getitem__, codes[a:b]))
    packed = bytes(map(e8m0, plane)) if scales == "F8_E8M0" else struct.pack(f"<{len(plane)}f", *plane)
    return bytes(codes), packed, decoded.tobytes()


def pack_fp4(shape, data):
    values = array("H", data)
    packed, plane, decoded = bytearray(), bytearray(), array("H")
    for at in range(0, len(values), GROUP):
        group = values[at:at + GROUP]
        e = E2M1.exponent(greatest([group]))
        encode, decode = E2M1.of_scale(e)
        codes = list(map(encode.__getitem__, group))
        packed += bytes([low | high << 4 for low, high in zip(codes[::2], codes[1::2])])
        plane.append(e8m0(e))
        decoded.extend(map(decode.__getitem__, codes))
    return bytes(packed), bytes(plane), decoded.tobytes()


def tiles(size):
    return -(-size // TILE)


def as_bf16(dtype, data):
    """Rounded to nearest, ties to even."""
    if dtype == "BF16":
        return data
    bits = array("I", data)
    return array("H", [(b + 0x7FFF + (b >> 16 & 1)) >> 16 for b in bits]).tobytes()


def widened(data):
    """f32 of bf16."""
    wide = bytearray(2 * len(data))
    wide[2::4], wide[3::4] = data[::2], data[1::2]
    return bytes(wide)


# ---- The checkpoint ----------------------------------------------------------------------------

def named(name):
    return MODEL_NAMES.get(name, name.replace("attn.norm.", "attn.kv_norm."))


def heads(packed):
    """One layer and its own parts under mtp.0, as the released files have them; all bytes 0x7f: NaN."""
    own = {"attn_norm.weight": "enorm.weight", "ffn_norm.weight": "hnorm.weight"}
    made = {}
    for name, (dtype, shape, data) in packed.items():
        if name.startswith("layers.1."):
            rest = name[len("layers.1."):]
            made["mtp.0." + rest] = made["mtp.0." + own.get(rest, rest)] = (dtype, shape, b"\x7f" * len(data))
        elif name.startswith("hc_head") or name == "norm.weight":
            made["mtp.0." + name] = (dtype, shape, b"\x7f" * len(data))
    for name in ("e_proj", "h_proj"):
        made[f"mtp.0.{name}.weight"] = ("F8_E4M3", (256, 256), b"\x7f" * 256 * 256)
        made[f"mtp.0.{name}.scale"] = ("F8_E8M0", (2, 2), b"\x7f" * 4)
    return made


def released(checkpoint, scales="F8_E8M0", experts="fp4"):
    """scales: F8_E8M0, or F32 as the base models have them, which then need no powers of two.
    experts: fp4 or fp8."""
    packed, twin = {}, {}
    for name, (dtype, shape, data) in sorted(checkpoint.tensors.items()):
        name, part = named(name), name.split(".", 2)[-1]
        is_expert = ".experts." in name
        if not is_expert and part not in FP8:
            if name.endswith("norm.weight"):
                dtype, data = "BF16", as_bf16(dtype, data)
            packed[name] = twin[name] = (dtype, shape, data)
            continue
        scale = name.removesuffix(".weight") + ".scale"
        if is_expert and experts == "fp4":
            codes, plane, decoded = pack_fp4(shape, data)
            packed[name] = ("I8", (shape[0], shape[1] // 2), codes)
            packed[scale] = ("F8_E8M0", (shape[0], shape[1] // GROUP), plane)
            twin[name] = ("BF16", shape, decoded)
        else:
            codes, plane, decoded = pack_fp8(shape, data, scales)
            packed[name] = ("F8_E4M3", shape, codes)
            packed[scale] = (scales, (tiles(shape[0]), tiles(shape[1])), plane)
            twin[name] = ("F32" if scales == "F32" else "BF16", shape, decoded)
    packed.update(heads(packed))
    plain = config(checkpoint)
    return Form({**plain, "expert_dtype": experts, "quantization_config": QUANTISATION}, packed, plain, twin)


def config(checkpoint):
    """config.json under DeepSeek's keys, of weights that are not packed."""
    own = checkpoint.config
    kinds = {"sliding_attention": 0, "compressed_sparse_attention": 4, "heavily_compressed_attention": 128}
    yarn = own["rope_parameters"]["compress"]
    same = ("architectures", "attention_bias", "attention_dropout", "bos_token_id", "eos_token_id", "hc_eps", "hc_mult",
            "hc_sinkhorn_iters", "head_dim", "hidden_act", "hidden_size", "index_head_dim", "index_n_heads",
            "index_topk", "initializer_range", "max_position_embeddings", "model_type", "moe_intermediate_size",
            "n_routed_experts", "n_shared_experts", "norm_topk_prob", "num_attention_heads", "num_experts_per_tok",
            "num_hidden_layers", "num_key_value_heads", "o_groups", "o_lora_rank", "q_lora_rank", "qk_rope_head_dim",
            "rms_norm_eps", "rope_theta", "compress_rope_theta", "routed_scaling_factor", "scoring_func",
            "sliding_window", "swiglu_limit", "tie_word_embeddings", "use_cache", "vocab_size")
    return {**{key: own[key] for key in same},
            "compress_ratios": [kinds[kind] for kind in own["layer_types"]] + [0],
            "num_hash_layers": own["mlp_layer_types"].count("hash_moe"), "num_nextn_predict_layers": 1,
            "rope_scaling": {"type": "yarn", "factor": yarn["factor"], "beta_fast": yarn["beta_fast"],
                             "beta_slow": yarn["beta_slow"],
                             "original_max_position_embeddings": yarn["original_max_position_embeddings"]},
            "topk_method": "noaux_tc", "torch_dtype": "bfloat16", "transformers_version": "4.57.1"}


def inference_config(checkpoint):
    """inference/config.json: its keys, and neither epsilon."""
    own = config(checkpoint)
    names = {"vocab_size": "vocab_size", "hidden_size": "dim", "moe_intermediate_size": "moe_inter_dim",
             "num_hidden_layers": "n_layers", "num_hash_layers": "n_hash_layers",
             "num_nextn_predict_layers": "n_mtp_layers", "num_attention_heads": "n_heads",
             "n_routed_experts": "n_routed_experts", "n_shared_experts": "n_shared_experts",
             "num_experts_per_tok": "n_activated_experts", "scoring_func": "score_func",
             "routed_scaling_factor": "route_scale", "swiglu_limit": "swiglu_limit", "q_lora_rank": "q_lora_rank",
             "head_dim": "head_dim", "qk_rope_head_dim": "rope_head_dim", "o_groups": "o_groups",
             "o_lora_rank": "o_lora_rank", "sliding_window": "window_size", "compress_ratios": "compress_ratios",
             "rope_theta": "rope_theta", "compress_rope_theta": "compress_rope_theta",
             "index_n_heads": "index_n_heads", "index_head_dim": "index_head_dim", "index_topk": "index_topk",
             "hc_mult": "hc_mult", "hc_sinkhorn_iters": "hc_sinkhorn_iters"}
    yarn = own["rope_scaling"]
    return {**{new: own[old] for old, new in names.items()},
            "original_seq_len": yarn["original_max_position_embeddings"], "rope_factor": yarn["factor"],
            "beta_fast": yarn["beta_fast"], "beta_slow": yarn["beta_slow"],
            "dtype": "fp8", "scale_fmt": "ue8m0", "expert_dtype": "fp4"}


# ---- Files --------------------------------------------------------------------------------------

def safetensors(tensors, padding):
    """padding: spaces after the header, so that the data may begin at any address."""
    entries, at = {}, 0
    for name, (dtype, shape, data) in tensors:
        entries[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [at, at + len(data)]}
        at += len(data)
    header = json.dumps(entries).encode()
    header += b" " * (-len(header) % 8 + padding)
    return struct.pack("<Q", len(header)) + header + b"".join(data for *_, (_, _, data) in tensors)


def write(folder, config_json, tensors):
    """Three shards with an index: the embedding alone, then the rest in turn; one begins at an odd address."""
    folder = Path(folder)
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config_json), encoding="utf-8")
    rest = [item for item in tensors.items() if item[0] != "embed.weight"]
    shards = [[("embed.weight", tensors["embed.weight"])], rest[::2], rest[1::2]]
    places = {}
    for number, shard in enumerate(shards):
        name = f"model-{number + 1:05}-of-{len(shards):05}.safetensors"
        (folder / name).write_bytes(safetensors(shard, padding=3 * (number == 1)))
        places.update({tensor: name for tensor, _ in shard})
    total = sum(len(data) for _, _, data in tensors.values())
    index = {"metadata": {"total_size": total}, "weight_map": places}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
