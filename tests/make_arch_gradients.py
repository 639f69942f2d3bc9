"""Makes tests/golden/arch/<name>/gradients.f32: importance of every matrix of every tiny model there,
by automatic differentiation in double precision.

    venv/bin/python tests/make_arch_gradients.py tests/golden/arch

(see make_arch_vectors.py for the environment). Two samples: the tokens of tokens.i32, and the same
backwards. The loss of a sample is the mean cross entropy of its next tokens; gradients are cleared
between samples. For each matrix, layer by layer, in the order of MATRICES (experts one after the
other): for each input column the sum over samples and rows of |gradient * weight|, then the same of
the squared gradient. Little-endian.
"""
import pathlib
import sys

import numpy
import torch
import transformers

MATRICES = [
    "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj",
    "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj", "self_attn.qkv_proj", "mlp.gate_up_proj",
    "mlp.gate", "mlp.experts.gate", "mlp.experts.up", "mlp.experts.down"]


def matrices_of(layer):
    """Name and function from a layer's parameters (or their gradients) to [experts x rows x
    columns]."""
    known = dict(layer.named_parameters())
    for name in MATRICES:
        if name + ".weight" in known:
            yield name, known[name + ".weight"], lambda x: x[None]
        elif "mlp.experts.gate_up_proj" in known and name.startswith("mlp.experts."):
            fused = known["mlp.experts.gate_up_proj"]
            half = fused.shape[1] // 2
            if name == "mlp.experts.down":
                yield name, known["mlp.experts.down_proj"], lambda x: x
            elif name == "mlp.experts.gate":
                yield name, fused, lambda x, half=half: x[:, :half]
            else:
                yield name, fused, lambda x, half=half: x[:, half:]


def double_everything():
    """transformers asks for float32 in norms, softmax and rotary positions: it gets doubles."""
    torch.float32 = torch.float = torch.float64
    torch.Tensor.float = torch.Tensor.double


def load(folder):
    return transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float64, attn_implementation="eager",
        experts_implementation="eager").eval()


def gradients(folder, model):
    tokens = numpy.fromfile(folder / "tokens.i32", "<i4").astype("int64")
    sums = {}
    losses = []
    for ids in (tokens, tokens[::-1].copy()):
        model.zero_grad()
        ids = torch.from_numpy(ids)
        logits = model(ids[None]).logits[0]
        assert logits.dtype == torch.float64
        loss = torch.nn.functional.cross_entropy(logits[:-1], ids[1:])
        loss.backward()
        losses.append(loss.item())
        for number, layer in enumerate(model.model.layers):
            for name, weight, part in matrices_of(layer):
                # An expert that no token reached has no gradient.
                grad = torch.zeros_like(weight) if weight.grad is None else weight.grad
                product = part(grad * weight.detach()).abs().sum(1).flatten()
                square = part(grad).square().sum(1).flatten()
                key = (number, name)
                pair = torch.stack([product, square])
                sums[key] = sums.get(key, 0) + pair
    values = torch.cat([pair.flatten() for pair in sums.values()])
    values.numpy().astype("<f4").tofile(folder / "gradients.f32")
    print(f"{folder.name}: {len(sums)} matrices, {values.numel()} values, losses {losses}")


models = [(path, load(path)) for path in sorted(pathlib.Path(sys.argv[1]).iterdir()) if path.is_dir()]
double_everything()
for entry in models:
    gradients(*entry)
