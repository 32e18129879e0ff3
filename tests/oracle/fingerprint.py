"""The fingerprint of a model, from section 10.6 of docs/FORMAT.md and nothing else."""

import json
import mmap
import os
import struct

from snapshot import KIND_CSA, KIND_HCA, KIND_WINDOW, checksum

FULL, SAMPLED = 1, 2  # versions
LAYER_TYPES = {"sliding_attention": (KIND_WINDOW, None),
               "compressed_sparse_attention": (KIND_CSA, "compressed_sparse_attention"),
               "heavily_compressed_attention": (KIND_HCA, "heavily_compressed_attention")}
INTEGERS = ("hidden_size", "q_lora_rank", "o_groups", "o_lora_rank", "hc_mult", "hc_sinkhorn_iters",
            "n_routed_experts", "num_experts_per_tok", "n_shared_experts", "moe_intermediate_size",
            "norm_topk_prob", "tie_word_embeddings", "num_hidden_layers", "vocab_size", "num_attention_heads",
            "index_n_heads", "index_topk", "sliding_window")


def u64(*numbers):
    return struct.pack("<%dQ" % len(numbers), *numbers)


def f64(*numbers):
    return struct.pack("<%dd" % len(numbers), *numbers)


def as_f32(number):
    return struct.unpack("<f", struct.pack("<f", number))[0]


def rope(entry):
    numbers = f64(entry["rope_theta"])
    if entry["rope_type"] != "yarn":
        return numbers + u64(0) + f64(0, 0, 0, 0)
    return numbers + u64(1) + f64(entry["factor"], entry["beta_fast"], entry["beta_slow"],
                                  entry["original_max_position_embeddings"])


def config_checksum(config):
    """The keys of the transformers library."""
    content = u64(*(int(config[key]) for key in INTEGERS))
    for layer, mlp in zip(config["layer_types"], config["mlp_layer_types"]):
        kind, rate = LAYER_TYPES[layer]
        content += u64(kind, config["compress_rates"][rate] if rate else 0, int(mlp == "hash_moe"))
    for key in ("hc_eps", "rms_norm_eps", "swiglu_limit", "routed_scaling_factor"):
        content += f64(as_f32(config[key]))
    ropes = config["rope_parameters"]
    return checksum(content + rope(ropes["main"]) + rope(ropes["compress"]))


def tensors(folder):
    """(name, dtype's name, shape, data) of all safetensors files there."""
    for entry in os.listdir(folder):
        if not entry.endswith(".safetensors"):
            continue
        with open(os.path.join(folder, entry), "rb") as file:
            content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        (header_bytes,) = struct.unpack_from("<Q", content)
        at = 8 + header_bytes
        header = json.loads(content[8:at])
        for name, about in header.items():
            if name != "__metadata__":
                begin, end = about["data_offsets"]
                yield name.encode(), about["dtype"], about["shape"], content[at + begin : at + end]


def whole_limit(sizes):
    """Tensors of at most so many bytes are summed whole in version 2."""
    for shift in range(20, 12, -1):
        if sum(size for size in sizes if size <= 1 << shift) <= 256 << 20:
            return 1 << shift
    return 1 << 12


def sample(data, limit):
    """What version 2 takes of a tensor's data."""
    if len(data) <= limit:
        return data
    n = 2 + len(data) // (4 << 20)
    places = [i * (len(data) - 4096) // (n - 1) for i in range(n)]
    return b"".join(data[place : place + 4096] for place in places)


def tensor_numbers(folder, version=SAMPLED):
    return numbers_of(tensors(folder), version)


def numbers_of(found, version=SAMPLED):
    """found: (name, type's name, shape, data) of all tensors."""
    numbers = b""
    found = sorted(found)
    limit = whole_limit([len(data) for _, _, _, data in found])
    for name, dtype, shape, data in found:
        summed = checksum(sample(data, limit) if version == SAMPLED else data)
        numbers += u64(checksum(name), checksum(dtype.encode()), len(shape), *shape, summed)
    return numbers


def fingerprint(config, numbers, version=SAMPLED):
    """numbers: tensor_numbers of the model's folder, of the same version."""
    return checksum(u64(version, config_checksum(config)) + numbers) or 1
