"""The tiny checkpoint as a GGUF, by the names and keys of ds4 and llama.cpp; shares no code with src/.

    checkpoint = load("models/tiny")
    gguf.write("tiny.gguf", metadata(checkpoint), tensors(checkpoint))

tensors() takes a function that stores each tensor in another type.
"""
import json
import re
import struct
from collections import namedtuple
from pathlib import Path

import gguf

Checkpoint = namedtuple("Checkpoint", "config tensors")  # tensors: name: (dtype, shape, data)

MODEL_NAMES = {
    "embed_tokens.weight": "token_embd.weight", "norm.weight": "output_norm.weight",
    "head.weight": "output.weight", "hc_head.hc_fn": "output_hc_fn.weight",
    "hc_head.hc_base": "output_hc_base.weight", "hc_head.hc_scale": "output_hc_scale.weight",
}
LAYER_NAMES = {
    "attn_norm.weight": "attn_norm.weight", "ffn_norm.weight": "ffn_norm.weight",
    "attn.wq_a.weight": "attn_q_a.weight", "attn.q_norm.weight": "attn_q_a_norm.weight",
    "attn.wq_b.weight": "attn_q_b.weight", "attn.wkv.weight": "attn_kv.weight",
    "attn.norm.weight": "attn_kv_a_norm.weight", "attn.attn_sink": "attn_sinks.weight",
    "attn.wo_a.weight": "attn_output_a.weight", "attn.wo_b.weight": "attn_output_b.weight",
    "attn.compressor.wkv.weight": "attn_compressor_kv.weight",
    "attn.compressor.wgate.weight": "attn_compressor_gate.weight",
    "attn.compressor.ape": "attn_compressor_ape.weight",
    "attn.compressor.norm.weight": "attn_compressor_norm.weight",
    "attn.indexer.wq_b.weight": "indexer.attn_q_b.weight",
    "attn.indexer.weights_proj.weight": "indexer.proj.weight",
    "attn.indexer.compressor.wkv.weight": "indexer_compressor_kv.weight",
    "attn.indexer.compressor.wgate.weight": "indexer_compressor_gate.weight",
    "attn.indexer.compressor.ape": "indexer_compressor_ape.weight",
    "attn.indexer.compressor.norm.weight": "indexer_compressor_norm.weight",
    "ffn.gate.weight": "ffn_gate_inp.weight", "ffn.gate.bias": "exp_probs_b.bias",
    "ffn.gate.tid2eid": "ffn_gate_tid2eid.weight",
    "ffn.shared_experts.w1.weight": "ffn_gate_shexp.weight",
    "ffn.shared_experts.w2.weight": "ffn_down_shexp.weight",
    "ffn.shared_experts.w3.weight": "ffn_up_shexp.weight",
    **{f"hc_{kind}_{part}": f"hc_{kind}_{part}.weight"
       for kind in ("attn", "ffn") for part in ("fn", "base", "scale")},
}
EXPERT_NAMES = {"w1": "ffn_gate_exps.weight", "w2": "ffn_down_exps.weight",
                "w3": "ffn_up_exps.weight"}
EXPERT = re.compile(r"ffn\.experts\.(\d+)\.(w[123])\.weight")


def load(folder):
    folder = Path(folder)
    found = {}
    for path in sorted(folder.glob("*.safetensors")):
        content = path.read_bytes()
        (header_bytes,) = struct.unpack_from("<Q", content)
        data_at = 8 + header_bytes
        for name, entry in json.loads(content[8:data_at]).items():
            if name != "__metadata__":
                begin, end = entry["data_offsets"]
                found[name.removeprefix("model.")] = (entry["dtype"], tuple(entry["shape"]),
                                                      content[data_at + begin:data_at + end])
    return Checkpoint(json.loads((folder / "config.json").read_text(encoding="utf-8")), found)


def metadata(checkpoint):
    """What llama.cpp's converter writes of the config, and what it needs besides."""
    config = checkpoint.config
    kinds = {"sliding_attention": 0, "compressed_sparse_attention": 4,
             "heavily_compressed_attention": 128}
    ratios = [kinds[kind] for kind in config["layer_types"]]
    rope = config["rope_parameters"]
    yarn = rope["compress"]
    numbers = {
        "block_count": len(ratios), "context_length": config["max_position_embeddings"],
        "embedding_length": config["hidden_size"], "vocab_size": config["vocab_size"],
        "feed_forward_length": config["moe_intermediate_size"],
        "attention.head_count": config["num_attention_heads"], "attention.head_count_kv": 1,
        "attention.key_length": config["head_dim"], "attention.value_length": config["head_dim"],
        "attention.q_lora_rank": config["q_lora_rank"],
        "attention.output_lora_rank": config["o_lora_rank"],
        "attention.output_group_count": config["o_groups"],
        "attention.sliding_window": config["sliding_window"],
        "attention.indexer.head_count": config["index_n_heads"],
        "attention.indexer.key_length": config["index_head_dim"],
        "attention.indexer.top_k": config["index_topk"],
        "rope.dimension_count": 64,
        "rope.scaling.original_context_length": yarn["original_max_position_embeddings"],
        "expert_count": config["n_routed_experts"],
        "expert_used_count": config["num_experts_per_tok"],
        "expert_shared_count": config["n_shared_experts"],
        "expert_feed_forward_length": config["moe_intermediate_size"],
        "expert_gating_func": 4, "leading_dense_block_count": 0,
        "hash_layer_count": config["mlp_layer_types"].count("hash_moe"),
        "hyper_connection.count": config["hc_mult"],
        "hyper_connection.sinkhorn_iterations": config["hc_sinkhorn_iters"],
    }
    reals = {
        "attention.layer_norm_rms_epsilon": config["rms_norm_eps"],
        "attention.compress_rope_freq_base": yarn["rope_theta"],
        "rope.freq_base": rope["main"]["rope_theta"], "rope.scaling.factor": yarn["factor"],
        "rope.scaling.yarn_beta_fast": yarn["beta_fast"],
        "rope.scaling.yarn_beta_slow": yarn["beta_slow"],
        "expert_weights_scale": config["routed_scaling_factor"],
        "hyper_connection.epsilon": config["hc_eps"],
    }
    own = {**{key: gguf.u32(value) for key, value in numbers.items()},
           **{key: gguf.f32(value) for key, value in reals.items()},
           "rope.scaling.type": gguf.text("yarn"),
           "expert_weights_norm": gguf.boolean(config["norm_topk_prob"]),
           "attention.compress_ratios": gguf.array(map(gguf.i32, ratios)),
           "swiglu_clamp_exp": gguf.array([gguf.f32(config["swiglu_limit"])] * len(ratios))}
    return {"general.architecture": gguf.text("deepseek4"), "general.name": gguf.text("tiny"),
            "tokenizer.ggml.model": gguf.text("none"),
            "tokenizer.ggml.bos_token_id": gguf.u32(config["bos_token_id"]),
            "tokenizer.ggml.eos_token_id": gguf.u32(config["eos_token_id"]),
            **{"deepseek4." + key: value for key, value in own.items()}}


def as_it_is(_name, dtype, _shape, data):
    """GGUF has no use for I64 in token maps: ds4 and llama.cpp write I32."""
    if dtype != "I64":
        return dtype, data
    count = len(data) // 8
    return "I32", struct.pack(f"<{count}i", *struct.unpack(f"<{count}q", data))


def tensors(checkpoint, store=as_it_is):
    """[(name, shape, type, data)]; store(name, dtype, shape, data) gives type and data of each."""
    listed, experts = [], {}
    for name, (dtype, shape, data) in checkpoint.tensors.items():
        if name in MODEL_NAMES:
            listed.append((MODEL_NAMES[name], dtype, shape, data))
            continue
        layer, rest = re.fullmatch(r"layers\.(\d+)\.(.*)", name).groups()
        expert = EXPERT.fullmatch(rest)
        if expert:
            whole = f"blk.{layer}.{EXPERT_NAMES[expert[2]]}"
            experts.setdefault(whole, {})[int(expert[1])] = (dtype, shape, data)
        else:
            listed.append((f"blk.{layer}.{LAYER_NAMES[rest]}", dtype, shape, data))
    for name, parts in experts.items():
        dtype, shape, _ = parts[0]
        listed.append((name, dtype, (len(parts), *shape),
                       b"".join(parts[i][2] for i in range(len(parts)))))
    stored = []
    for name, dtype, shape, data in listed:
        type_name, data = store(name, dtype, shape, data)
        stored.append((name, shape, type_name, data))
    return stored
