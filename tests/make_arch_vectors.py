"""Makes tests/golden/arch/<name>/: a tiny random model of every architecture that the forward pass
knows, with that architecture's real configuration fields, and the logits that transformers computes
for it in float32 with eager attention.

    python -m venv venv && venv/bin/pip install torch transformers numpy
    venv/bin/python tests/make_arch_vectors.py tests/golden/arch

Weights are drawn from a normal distribution of a fixed seed, rounded to bfloat16 and stored as such
(norms stay float32), so a file is about 100 KB or less. tokens.i32 holds the input ids of one sequence,
logits.f32 the logits of every position, [tokens x vocabulary], little-endian.
"""
import json
import pathlib
import sys

import torch
import transformers

VOCAB = 64
TOKENS = 40
COMMON = dict(
    vocab_size=VOCAB, hidden_size=48, intermediate_size=64, num_hidden_layers=2,
    num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=128,
    rms_norm_eps=1e-5, hidden_act="silu", tie_word_embeddings=False,
    bos_token_id=1, eos_token_id=2, pad_token_id=0)


def rope(kind, theta=10000.0, **more):
    return {"rope_type": kind, "rope_theta": theta, **more}


LONG = [1.0 + 0.5 * i for i in range(6)]
SHORT = [1.0 + 0.05 * i for i in range(6)]
CASES = {
    "llama": ("Llama", {}),
    "llama3-rope": ("Llama", dict(rope_parameters=rope(
        "llama3", 500000.0, factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
        original_max_position_embeddings=32))),
    "llama-linear": ("Llama", dict(rope_parameters=rope("linear", factor=4.0))),
    "llama-yarn": ("Llama", dict(rope_parameters=rope(
        "yarn", factor=4.0, original_max_position_embeddings=32))),
    "mistral": ("Mistral", dict(sliding_window=12, head_dim=16)),
    "mixtral": ("Mixtral", dict(num_local_experts=4, num_experts_per_tok=2, intermediate_size=40,
                                sliding_window=None)),
    "qwen2": ("Qwen2", dict(tie_word_embeddings=True)),
    "qwen2-yarn": ("Qwen2", dict(rope_parameters=rope(
        "yarn", 1000000.0, factor=4.0, original_max_position_embeddings=32,
        attention_factor=1.3))),
    "qwen3": ("Qwen3", dict(head_dim=16, tie_word_embeddings=True)),
    "qwen3moe": ("Qwen3Moe", dict(
        head_dim=16, num_experts=6, num_experts_per_tok=3, moe_intermediate_size=32,
        norm_topk_prob=True, decoder_sparse_step=1)),
    "qwen3moe-share": ("Qwen3Moe", dict(
        head_dim=16, num_experts=6, num_experts_per_tok=3, moe_intermediate_size=32,
        norm_topk_prob=False, decoder_sparse_step=1)),
    "phi3": ("Phi3", dict(sliding_window=16)),
    "phi3-longrope": ("Phi3", dict(
        sliding_window=None, original_max_position_embeddings=32,
        rope_parameters=rope("longrope", long_factor=LONG, short_factor=SHORT,
                             original_max_position_embeddings=32))),
    "phi3-shortrope": ("Phi3", dict(
        sliding_window=None, original_max_position_embeddings=64,
        rope_parameters=rope("longrope", long_factor=LONG, short_factor=SHORT,
                             original_max_position_embeddings=64))),
    "gemma2": ("Gemma2", dict(
        head_dim=16, num_hidden_layers=3, query_pre_attn_scalar=16, sliding_window=8,
        attn_logit_softcapping=50.0, final_logit_softcapping=30.0, tie_word_embeddings=True,
        hidden_activation="gelu_pytorch_tanh")),
    "gemma3": ("Gemma3", dict(
        head_dim=16, num_hidden_layers=7, hidden_size=32, intermediate_size=48,
        query_pre_attn_scalar=16, sliding_window=8, tie_word_embeddings=True,
        hidden_activation="gelu_pytorch_tanh",
        rope_parameters={"full_attention": rope("linear", 1000000.0, factor=8.0),
                         "sliding_attention": rope("default", 10000.0)})),
}


def make(name, root):
    kind, changes = CASES[name]
    prefix = "Gemma3Text" if kind == "Gemma3" else kind
    settings = {**COMMON, **changes}
    if kind.startswith("Gemma"):
        settings.pop("hidden_act")
    config = getattr(transformers, prefix + "Config")(**settings)
    config._attn_implementation = "eager"
    torch.manual_seed(20240611)
    model = getattr(transformers, kind + "ForCausalLM")(config).eval()
    # Numbers of the size that trained models have: scores and gates that are neither 0 nor extreme.
    for key, weight in model.state_dict().items():
        if weight.dim() == 1:
            noise = torch.randn(weight.shape) * 0.1
            weight.copy_(noise if "bias" in key or kind.startswith("Gemma") else 1.0 + noise)
        else:
            weight.copy_(torch.randn(weight.shape) * (1.5 / weight.shape[-1] ** 0.5))
            weight.copy_(weight.bfloat16().float())
    tokens = torch.randint(3, VOCAB, (1, TOKENS))
    with torch.no_grad():
        logits = model(tokens).logits[0]
    folder = root / name
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder)
    store(folder / "model.safetensors")
    (folder / "generation_config.json").unlink(missing_ok=True)
    tokens[0].int().numpy().astype("<i4").tofile(folder / "tokens.i32")
    logits.numpy().astype("<f4").tofile(folder / "logits.f32")
    print(f"{name}: {(folder / 'model.safetensors').stat().st_size} bytes, "
          f"logits up to {logits.abs().max():.3f}, std {logits.std():.3f}")


def store(path):
    """Matrices become bfloat16, which loses nothing; they were rounded before the forward pass."""
    from safetensors.torch import load_file, save_file
    tensors = load_file(path)
    save_file({k: (v.bfloat16() if v.dim() > 1 else v).contiguous() for k, v in tensors.items()},
              path, metadata={"format": "pt"})


def main():
    root = pathlib.Path(sys.argv[1])
    for name in CASES:
        make(name, root)
    versions = {"torch": torch.__version__, "transformers": transformers.__version__}
    (root / "versions.json").write_text(json.dumps(versions) + "\n")


main()
