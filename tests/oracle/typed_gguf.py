"""Checkpoints as GGUF with a stored type in their matrices, and beside them their decoded values in f32.

    typed, plain = forms(checkpoint, kind, encode, decode)

Two checkpoints: the tiny one, whose experts are padded with zeros where rows of 96 cannot be divided
into blocks, and a random one whose matrices all have rows of 256 or a multiple.
"""
import math
import random
import struct

import gguf
import tiny_deepseek
import tiny_gguf
import weight_oracle

# Tables, not matrices.
TABLES = ("compressor_ape.weight", "ffn_gate_tid2eid.weight")
NAME_OF_ID = {kind.id: name for name, kind in gguf.TYPES.items()}


def f32_of(dtype, data):
    return {"F32": bytes, "BF16": tiny_deepseek.widened}[dtype](data)


def is_matrix(name, shape):
    return len(shape) > 1 and not name.endswith(TABLES)


# ---- The tiny checkpoint --------------------------------------------------------------------

def with_expert_width(checkpoint, width):
    """Experts that are `width` wide. The new rows of w1 and w3 are zero, so that silu(0) * 0 meets
    the new columns of w2: the function is the same."""
    old = checkpoint.config["moe_intermediate_size"]
    if width == old:
        return checkpoint
    tensors = dict(checkpoint.tensors)
    for name, (dtype, shape, data) in tensors.items():
        if "experts." not in name:
            continue
        value_bytes = len(data) // (shape[0] * shape[1])
        if ".w2." in name:
            row, zeros = old * value_bytes, bytes((width - old) * value_bytes)
            data = b"".join(data[at:at + row] + zeros for at in range(0, len(data), row))
            shape = (shape[0], width)
        else:
            data += bytes((width - old) * shape[1] * value_bytes)
            shape = (width, shape[1])
        tensors[name] = (dtype, shape, data)
    return tiny_gguf.Checkpoint({**checkpoint.config, "moe_intermediate_size": width}, tensors)


def fitting(checkpoint, kind):
    """The checkpoint with experts as wide as blocks of the type need them."""
    old = checkpoint.config["moe_intermediate_size"]
    return with_expert_width(checkpoint, -(-old // kind.values) * kind.values)


def forms(checkpoint, kind, encode, decode):
    """(typed, plain): lists of tensors for gguf.write.

    encode(kind, data of f32, values a row) gives blocks, decode(kind, data) f32. Matrices whose
    rows are no whole blocks are of q8_0 instead.
    """
    q8_0 = next(other for other in weight_oracle.BLOCK_TYPES if other.name == "q8_0")
    typed, plain = [], []
    for name, shape, type_name, data in tiny_gguf.tensors(checkpoint):
        if type_name in ("F32", "BF16"):
            type_name, data = "F32", f32_of(type_name, data)
        stored = decoded = (name, shape, type_name, data)
        if is_matrix(name, shape):
            used = kind if shape[-1] % kind.values == 0 else q8_0
            packed = encode(used, data, shape[-1])
            stored = (name, shape, NAME_OF_ID[used.ggml_id], packed)
            decoded = (name, shape, "F32", decode(used, packed))
        typed.append(stored)
        plain.append(decoded)
    return typed, plain


# ---- The random checkpoint -------------------------------------------------------------------

UNIT = 256  # values that are drawn at once: whole blocks of every type
POOL = 512  # such units a type; matrices are made of them
CONFIG = {
    "max_position_embeddings": 1048576, "hidden_size": 256, "vocab_size": 320, "moe_intermediate_size": 256,
    "num_attention_heads": 2, "head_dim": 512, "q_lora_rank": 256, "o_lora_rank": 256, "o_groups": 2,
    "sliding_window": 128, "index_n_heads": 8, "index_head_dim": 128, "index_topk": 64, "n_routed_experts": 4,
    "num_experts_per_tok": 2, "n_shared_experts": 1, "hc_mult": 4, "hc_sinkhorn_iters": 20, "hc_eps": 1e-6,
    "rms_norm_eps": 1e-6, "routed_scaling_factor": 1.5, "norm_topk_prob": True, "swiglu_limit": 10.0,
    "bos_token_id": 256, "eos_token_id": 257, "mlp_layer_types": ["hash_moe", "moe", "moe"],
    "layer_types": ["sliding_attention", "compressed_sparse_attention", "heavily_compressed_attention"],
    "rope_parameters": {
        "main": {"rope_theta": 10000.0},
        "compress": {"rope_theta": 160000.0, "factor": 16.0, "beta_fast": 32.0, "beta_slow": 1.0,
                     "original_max_position_embeddings": 65536}},
}
EXPERTS, USED = CONFIG["n_routed_experts"], CONFIG["num_experts_per_tok"]
# Of every layer.
SHAPES = {
    "attn_q_a": (256, 256), "attn_q_b": (1024, 256), "attn_kv": (512, 256), "attn_output_a": (512, 512),
    "attn_output_b": (256, 512), "hc_attn_fn": (24, 1024), "hc_ffn_fn": (24, 1024), "ffn_gate_inp": (EXPERTS, 256),
    "ffn_gate_exps": (EXPERTS, 256, 256), "ffn_up_exps": (EXPERTS, 256, 256), "ffn_down_exps": (EXPERTS, 256, 256),
    "ffn_gate_shexp": (256, 256), "ffn_up_shexp": (256, 256), "ffn_down_shexp": (256, 256),
}
VECTORS = {"attn_norm": 256, "ffn_norm": 256, "attn_q_a_norm": 256, "attn_kv_a_norm": 512, "attn_sinks": 2,
           "hc_attn_base": 24, "hc_attn_scale": 3, "hc_ffn_base": 24, "hc_ffn_scale": 3}


def shapes():
    """{name: shape} of all matrices, then of all tables and vectors."""
    matrices = {"token_embd.weight": (320, 256), "output.weight": (320, 256), "output_hc_fn.weight": (4, 1024)}
    others = {"output_norm.weight": (256,), "output_hc_base.weight": (4,), "output_hc_scale.weight": (1,)}
    for layer, kind in enumerate(CONFIG["layer_types"]):
        prefix = f"blk.{layer}."
        matrices.update({f"{prefix}{name}.weight": shape for name, shape in SHAPES.items()})
        others.update({f"{prefix}{name}.weight": (size,) for name, size in VECTORS.items()})
        parts, ratio = {"s": (0, 0), "c": (2, 4), "h": (1, 128)}[kind[0]]
        compressors = [("attn_compressor", 512)] * (ratio > 0) + [("indexer_compressor", 128)] * (ratio == 4)
        for name, width in compressors:
            for part in ("kv", "gate"):
                matrices[f"{prefix}{name}_{part}.weight"] = (parts * width, 256)
            others[f"{prefix}{name}_ape.weight"] = (ratio, parts * width)
            others[f"{prefix}{name}_norm.weight"] = (width,)
        if ratio == 4:
            matrices[prefix + "indexer.attn_q_b.weight"] = (8 * 128, 256)
            matrices[prefix + "indexer.proj.weight"] = (8, 256)
        if CONFIG["mlp_layer_types"][layer] == "moe":
            others[prefix + "exp_probs_b.bias"] = (EXPERTS,)
    return matrices, others


def with_scales(rng, kind, data, size):
    """The blocks with other scales: f16 of about that size and either sign; an exponent for mxfp4."""
    data = bytearray(data)
    for block in range(0, len(data), kind.size):
        for at in kind.scales:
            value = size * rng.uniform(0.5, 1.5) * rng.choice((1, 1, 1, -1))
            struct.pack_into("<e", data, block + at, value)
        if kind.name == "mxfp4":
            data[block] = 128 + round(math.log2(size)) + rng.choice((-1, 0, 0, 1))
    return bytes(data)


def unit_pool(rng, kind, wanted):
    """[(blocks, f32)] of UNIT values each, of the root mean square `wanted`."""
    count = POOL * UNIT
    if kind.values == 1:
        values = [rng.gauss(0, wanted) for _ in range(count)]
        wide = struct.pack(f"<{count}f", *values)
        data = {"f32": lambda: wide, "f16": lambda: struct.pack(f"<{count}e", *values),
                "bf16": lambda: tiny_deepseek.as_bf16("F32", wide)}[kind.name]()
    else:
        data = rng.getrandbits(8 * count // kind.values * kind.size).to_bytes(count // kind.values * kind.size, "little")
        sample = kind.decode(with_scales(rng, kind, data[:kind.size * (8 * UNIT // kind.values)], 1.0))
        values = struct.unpack(f"<{len(sample) // 4}f", sample)
        data = with_scales(rng, kind, data, wanted / math.sqrt(sum(v * v for v in values) / len(values)))
    decoded = kind.decode(data)
    step = UNIT // kind.values * kind.size
    return [(data[n * step:(n + 1) * step], decoded[n * UNIT * 4:(n + 1) * UNIT * 4]) for n in range(POOL)]


def random_vector(rng, name, count):
    """Of the size that such a vector has in a model."""
    if "norm" in name:
        values = [rng.uniform(0.5, 1.5) for _ in range(count)]
    elif "scale" in name:
        values = [rng.uniform(0.1, 0.5) for _ in range(count)]
    else:
        values = [rng.gauss(0, 0.5) for _ in range(count)]
    return struct.pack(f"<{count}f", *values)


def random_forms(kind, seed=1):
    """(typed, plain) of a model whose every matrix is of random blocks of the type."""
    rng = random.Random(f"{seed} {kind.name}")
    pool = unit_pool(rng, kind, 1 / 16)  # products of 256 values keep the size of what they are of
    matrices, others = shapes()
    typed, plain = [], []
    for name, shape in matrices.items():
        units = rng.choices(pool, k=math.prod(shape) // UNIT)
        typed.append((name, shape, NAME_OF_ID[kind.ggml_id], b"".join(blocks for blocks, _ in units)))
        plain.append((name, shape, "F32", b"".join(decoded for _, decoded in units)))
    same = [(name, shape, "F32", random_vector(rng, name, math.prod(shape))) for name, shape in others.items()]
    ids = [rng.randrange(EXPERTS) for _ in range(CONFIG["vocab_size"] * USED)]
    same.append(("blk.0.ffn_gate_tid2eid.weight", (CONFIG["vocab_size"], USED), "I32", struct.pack(f"<{len(ids)}i", *ids)))
    return typed + same, plain + same


def random_metadata():
    return tiny_gguf.metadata(tiny_gguf.Checkpoint(CONFIG, {}))
