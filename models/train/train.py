"""Trains `mite`, the small language model that comes with farthing, and writes it in Hugging Face form.

    pip install -r models/train/requirements.txt
    python3 models/train/train.py --out models/mite --minutes 60      # or --steps 8000

A Llama-style decoder: RMSNorm, rotary positions, SwiGLU, grouped-query attention, tied embeddings. Matrices are
trained with Muon, the rest with Adam. The learning rate is held and then falls in the last third, so that a run
can be prolonged from its state (--state, written every few minutes while the rate is held). Seeded throughout.
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

import corpus

CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "head_dim": 32,
    "hidden_act": "silu",
    "hidden_size": 128,
    "initializer_range": 0.02,
    "intermediate_size": 352,
    "max_position_embeddings": 512,
    "mlp_bias": False,
    "model_type": "llama",
    "num_attention_heads": 4,
    "num_hidden_layers": 5,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-5,
    "rope_scaling": None,
    "rope_theta": 10000.0,
    "tie_word_embeddings": True,
    "torch_dtype": "float16",
    "use_cache": True,
    "vocab_size": 640,
}
D, INNER, LAYERS, V = (CONFIG[k] for k in ("hidden_size", "intermediate_size", "num_hidden_layers", "vocab_size"))
H, KV, HD = (CONFIG[k] for k in ("num_attention_heads", "num_key_value_heads", "head_dim"))
SHAPES = [(32, 192, False), (12, 512, True)]  # rows, tokens, long documents
LONG_EVERY = 4


# The tokenizer.

def train_tokenizer(seed):
    """Byte-level BPE: any text can be written, every digit is a token, common words of the corpus are one."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)])
    tokenizer.decoder = decoders.ByteLevel()
    made = corpus.stream(seed)
    texts = ["".join(text for text, _ in next(made) if text != corpus.END) for _ in range(20000)]
    trainer = trainers.BpeTrainer(vocab_size=V, special_tokens=[corpus.END], show_progress=False,
                                  initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


class Rows:
    """Batches of documents: every row begins with a document, as a prompt does."""

    def __init__(self, tokenizer, seed, rows, width, long):
        self.tokenizer, self.rows, self.width = tokenizer, rows, width
        self.stream, self.made = corpus.stream(seed, long), []

    def fill(self):
        documents = [next(self.stream) for _ in range(4000)]
        # The empty line at the end is two tokens, as before another problem, and not one of its own.
        encoded = self.tokenizer.encode_batch(["".join(text for text, _ in d) + "x" for d in documents])
        tokens, weights = [], []
        for document, e in zip(documents, encoded):
            edges = np.cumsum([len(text) for text, _ in document])
            part = np.searchsorted(edges, [begin for begin, _ in e.offsets], side="right")
            part = part[:-1]
            tokens.append(np.array(e.ids[:-1], np.int64))
            weights.append(np.array([w for _, w in document], np.float32)[part])
        row, weight, size = [], [], 0
        for t, w in zip(tokens, weights):
            row.append(t), weight.append(w)
            size += len(t)
            if size > self.width:
                self.made.append((np.concatenate(row)[:self.width + 1], np.concatenate(weight)[:self.width + 1]))
                row, weight, size = [], [], 0

    def batch(self):
        while len(self.made) < self.rows:
            self.fill()
        took, self.made = self.made[:self.rows], self.made[self.rows:]
        return torch.from_numpy(np.stack([t for t, _ in took])), torch.from_numpy(np.stack([w for _, w in took]))


# The model. Matrices are kept as torch's `linear` wants them, those of all layers in one tensor.

def init(seed):
    r = torch.Generator().manual_seed(seed)

    def matrix(outputs, inputs, scale=1.0):
        return torch.randn(LAYERS, outputs, inputs, generator=r) * scale * inputs**-0.5

    shrink = (2 * LAYERS) ** -0.5
    params = {
        "embed": torch.randn(V, D, generator=r) * 0.02, "norm": torch.ones(D),
        "input_norm": torch.ones(LAYERS, D), "post_norm": torch.ones(LAYERS, D),
        "q": matrix(H * HD, D), "k": matrix(KV * HD, D), "v": matrix(KV * HD, D), "o": matrix(D, H * HD, shrink),
        "gate": matrix(INNER, D), "up": matrix(INNER, D), "down": matrix(D, INNER, shrink),
    }
    return {name: x.requires_grad_() for name, x in params.items()}


def rotations():
    angles = torch.arange(CONFIG["max_position_embeddings"])[:, None] / CONFIG["rope_theta"] ** (torch.arange(0, HD, 2) / HD)
    return angles.cos(), angles.sin()


def rotate(x, cos, sin):
    """Rotary positions, the two halves of a head rotated against each other."""
    a, b = x.chunk(2, -1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin], -1)


def norm(x, gain):
    return F.rms_norm(x, (D,), gain, CONFIG["rms_norm_eps"])


def layer_of(params, i, x, cos, sin, attend):
    """One layer. `attend(q, k, v)` has [batch, heads, tokens, HD] of each, and does what is to be done with a cache."""
    batch, tokens = x.shape[:2]
    y = norm(x, params["input_norm"][i])
    weight = torch.cat([params["q"][i], params["k"][i], params["v"][i]])
    q, k, v = F.linear(y, weight).view(batch, tokens, H + 2 * KV, HD).transpose(1, 2).split([H, KV, KV], 1)
    y = attend(rotate(q, cos, sin), rotate(k, cos, sin), v)
    x = x + F.linear(y.transpose(1, 2).reshape(batch, tokens, H * HD), params["o"][i])
    gate, up = F.linear(norm(x, params["post_norm"][i]), torch.cat([params["gate"][i], params["up"][i]])).chunk(2, -1)
    return x + F.linear(F.silu(gate) * up, params["down"][i])


def causal(q, k, v):
    groups = H // KV
    return F.scaled_dot_product_attention(q, k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1), is_causal=True)


def loss(params, tokens, weights, cos, sin):
    x = F.embedding(tokens[:, :-1], params["embed"])
    for i in range(LAYERS):
        x = layer_of(params, i, x, cos, sin, causal)
    logits = F.linear(norm(x, params["norm"]), params["embed"])
    each = F.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten(), reduction="none")
    weights = weights[:, 1:].flatten()
    return (each * weights).sum() / weights.sum()


# Training.

class Optimizer:
    """Muon for the matrices of the layers (their momentum made orthogonal), Adam for the rest."""

    def __init__(self, params):
        self.params, self.step = params, 0
        self.state = {f"{kind}.{name}": torch.zeros_like(x) for name, x in params.items() for kind in ("first", "second")
                      if kind == "first" or x.dim() < 3}

    @torch.no_grad()
    def update(self, rate):
        self.step += 1
        for name, x in self.params.items():
            first, g = self.state[f"first.{name}"], x.grad
            if x.dim() == 3:
                first.lerp_(g, 0.05)
                x.mul_(1 - 0.02 * 0.01 * rate)
                x.sub_(orthogonal(g.lerp(first, 0.95)), alpha=0.02 * rate * max(1, x.shape[1] / x.shape[2]) ** 0.5)
            else:
                second = self.state[f"second.{name}"]
                first.lerp_(g, 0.1)
                second.lerp_(g * g, 0.02)
                size = (second / (1 - 0.98**self.step)).sqrt_().add_(1e-8)
                x.sub_(first / (1 - 0.9**self.step) / size, alpha=4e-3 * rate)
            x.grad = None


def orthogonal(x):
    """Nearly: five Newton-Schulz steps bring the singular values of each matrix close to 1."""
    tall = x.shape[1] > x.shape[2]
    x = x.transpose(1, 2) if tall else x
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(5):
        a = x @ x.transpose(1, 2)
        x = 3.4445 * x + (-4.7750 * a + 2.0315 * a @ a) @ x
    return x.transpose(1, 2) if tall else x


def rate(progress, step):
    """Of the learning rate: warm up, hold, fall in the last third."""
    return min(1.0, (step + 1) / 100) * min(1.0, max(0.0, 1 - progress) / 0.35 + 0.01)


NAMES = {"input_norm": "input_layernorm", "q": "self_attn.q_proj", "k": "self_attn.k_proj", "v": "self_attn.v_proj",
         "o": "self_attn.o_proj", "post_norm": "post_attention_layernorm", "gate": "mlp.gate_proj", "up": "mlp.up_proj",
         "down": "mlp.down_proj"}


def write(params, tokenizer, out):
    out.mkdir(parents=True, exist_ok=True)
    tensors = {"model.embed_tokens.weight": params["embed"], "model.norm.weight": params["norm"]}
    tensors |= {f"model.layers.{i}.{theirs}.weight": params[ours][i] for ours, theirs in NAMES.items() for i in range(LAYERS)}
    save_file({name: x.detach().half().contiguous() for name, x in tensors.items()}, out / "model.safetensors", {"format": "pt"})
    tokenizer.save(str(out / "tokenizer.json"))
    dump = lambda name, value: (out / name).write_text(json.dumps(value, indent=2) + "\n")  # noqa: E731
    dump("config.json", CONFIG)
    dump("tokenizer_config.json", {
        "add_bos_token": False, "add_prefix_space": False, "bos_token": corpus.END, "eos_token": corpus.END,
        "chat_template": "{% for message in messages %}{{ message.content }}{% if not loop.last %}{{ '\\n' }}{% endif %}{% endfor %}",
        "clean_up_tokenization_spaces": False, "model_max_length": CONFIG["max_position_embeddings"],
        "tokenizer_class": "PreTrainedTokenizerFast"})
    dump("generation_config.json", {"bos_token_id": 0, "eos_token_id": 0, "do_sample": True, "temperature": 1.0})


def read(out):
    """The parameters that `write` has written, in full precision."""
    tensors = {name: x.float() for name, x in load_file(out / "model.safetensors").items()}
    params = {ours: torch.stack([tensors[f"model.layers.{i}.{theirs}.weight"] for i in range(LAYERS)])
              for ours, theirs in NAMES.items()}
    return params | {"embed": tensors["model.embed_tokens.weight"], "norm": tensors["model.norm.weight"]}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--state", type=Path, help="a state to go on from (written as OUT.state)")
    parser.add_argument("--minutes", type=float, default=1e9)
    parser.add_argument("--steps", type=float, default=1e9)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--tokenizer", type=Path, help="use this one rather than train it again")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    tokenizer = Tokenizer.from_file(str(args.tokenizer)) if args.tokenizer else train_tokenizer(args.seed)
    params, first = init(args.seed), 0
    optimizer = Optimizer(params)
    if args.state:
        state = torch.load(args.state)
        for name, x in state["params"].items():
            params[name].data.copy_(x)
        optimizer.state, optimizer.step, first = state["state"], state["step"], state["step"]
    print("parameters", sum(x.numel() for x in params.values()), flush=True)
    compiled, (cos, sin) = torch.compile(loss, dynamic=False), rotations()
    rows = [Rows(tokenizer, args.seed + 1000 * (i + 1) + first, *shape) for i, shape in enumerate(SHAPES)]
    saved = args.out.with_suffix(".state")
    begun = last = time.time()
    step, seen, losses = 0, 0, []
    while (progress := max(step / args.steps, (time.time() - begun) / 60 / args.minutes)) < 1:
        tokens, weights = rows[step % LONG_EVERY == LONG_EVERY - 1].batch()
        width = tokens.shape[1] - 1
        value = compiled(params, tokens, weights, cos[:width], sin[:width])
        value.backward()
        optimizer.update(rate(progress, optimizer.step))
        step, seen = step + 1, seen + tokens.numel()
        losses.append(value.item())
        if step % 100 == 0:
            print(f"step {optimizer.step} minutes {(time.time() - begun) / 60:.1f} tokens {seen / 1e6:.2f}M "
                  f"loss {np.mean(losses):.4f} rate {rate(progress, optimizer.step):.3f} cpu {time.process_time():.0f}", flush=True)
            losses = []
        if time.time() - last > 120:
            last = time.time()
            write(params, tokenizer, args.out)
            if progress < 0.65:
                torch.save({"params": params, "state": optimizer.state, "step": optimizer.step}, saved)
    write(params, tokenizer, args.out)
    print(f"done: {optimizer.step} steps, {seen / 1e6:.1f}M tokens, {(time.time() - begun) / 60:.1f} minutes", flush=True)


if __name__ == "__main__":
    main()
