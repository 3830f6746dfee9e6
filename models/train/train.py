"""Trains `mite`, the small language model that comes with farthing, and writes it in Hugging Face form.

    pip install -r models/train/requirements.txt
    python3 models/train/train.py --out models/mite --minutes 60      # or --steps 8000

A Llama-style decoder in JAX: RMSNorm, rotary positions, SwiGLU, grouped-query attention, tied embeddings. Matrices are
trained with Muon, the rest with Adam. The learning rate is held and then falls in the last third, so that a run
can be prolonged from its state (--state, written every few minutes). Seeded throughout.
"""

import argparse
import json
import pickle
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from safetensors.numpy import save_file
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
D, F, LAYERS, V = (CONFIG[k] for k in ("hidden_size", "intermediate_size", "num_hidden_layers", "vocab_size"))
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
        encoded = self.tokenizer.encode_batch(["".join(text for text, _ in d) for d in documents])
        tokens, weights = [], []
        for document, e in zip(documents, encoded):
            edges = np.cumsum([len(text) for text, _ in document])
            part = np.searchsorted(edges, [begin for begin, _ in e.offsets], side="right")
            tokens.append(np.array(e.ids, np.int32))
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
        return np.stack([t for t, _ in took]), np.stack([w for _, w in took])


# The model.

def init(seed):
    keys = iter(jax.random.split(jax.random.PRNGKey(seed), 1 + 7 * LAYERS))

    def matrix(inputs, outputs, scale=1.0):
        return jax.random.normal(next(keys), (inputs, outputs)) * scale * inputs**-0.5

    shrink = (2 * LAYERS) ** -0.5
    return {
        "embed": jax.random.normal(next(keys), (V, D)) * 0.02,
        "norm": jnp.ones(D),
        "layers": [{
            "input_norm": jnp.ones(D), "q": matrix(D, H * HD), "k": matrix(D, KV * HD), "v": matrix(D, KV * HD),
            "o": matrix(H * HD, D, shrink), "post_norm": jnp.ones(D), "gate": matrix(D, F), "up": matrix(D, F),
            "down": matrix(F, D, shrink)} for _ in range(LAYERS)],
    }


def rms_norm(x, gain):
    return x * jax.lax.rsqrt(jnp.mean(x * x, -1, keepdims=True) + CONFIG["rms_norm_eps"]) * gain


def rotate(x, positions):
    """Rotary positions, the two halves of a head rotated against each other. x: [.., tokens, heads, HD]"""
    angles = positions[..., None] / CONFIG["rope_theta"] ** (jnp.arange(0, HD, 2) / HD)
    cos, sin = jnp.cos(angles)[..., None, :], jnp.sin(angles)[..., None, :]
    a, b = jnp.split(x, 2, -1)
    return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], -1)


def attend(q, k, v, mask):
    """q: [B, S, H, HD]; k, v: [B, T, KV, HD]; mask: [.., S, T]"""
    batch, s = q.shape[:2]
    q = q.reshape(batch, s, KV, H // KV, HD)
    scores = jnp.einsum("bsghd,btgd->bghst", q, k) * HD**-0.5
    scores = jax.nn.softmax(jnp.where(mask, scores, -1e9), -1)
    return jnp.einsum("bghst,btgd->bsghd", scores, v).reshape(batch, s, H * HD)


def mlp(x, layer):
    return (jax.nn.silu(x @ layer["gate"]) * (x @ layer["up"])) @ layer["down"]


def forward(params, tokens, keep=False):
    """Logits of every position, and with `keep` the keys and values of every layer."""
    x, positions, kept = params["embed"][tokens], jnp.arange(tokens.shape[1]), []
    mask = jnp.tril(jnp.ones((tokens.shape[1],) * 2, bool))
    for layer in params["layers"]:
        y = rms_norm(x, layer["input_norm"])
        q, k, v = ((y @ layer[m]).reshape(*y.shape[:2], -1, HD) for m in "qkv")
        q, k = rotate(q, positions), rotate(k, positions)
        kept.append((k, v))
        x = x + attend(q, k, v, mask) @ layer["o"]
        x = x + mlp(rms_norm(x, layer["post_norm"]), layer)
    logits = rms_norm(x, params["norm"]) @ params["embed"].T
    return (logits, kept) if keep else logits


def loss(params, tokens, weights):
    each = optax.softmax_cross_entropy_with_integer_labels(forward(params, tokens[:, :-1]), tokens[:, 1:])
    return (each * weights[:, 1:]).sum() / weights[:, 1:].sum()


# Training.

def optimizer():
    kinds = lambda params: jax.tree.map_with_path(  # noqa: E731
        lambda path, x: "muon" if x.ndim == 2 and path[0].key == "layers" else "adam", params)
    return optax.chain(optax.clip_by_global_norm(1.0), optax.partition({
        "muon": optax.contrib.muon(0.02, weight_decay=0.01, consistent_rms=None),
        "adam": optax.adam(4e-3, b1=0.9, b2=0.98)}, kinds))


def rate(progress, step):
    """Of the learning rate: warm up, hold, fall in the last third."""
    return min(1.0, (step + 1) / 100) * min(1.0, max(0.0, 1 - progress) / 0.35 + 0.01)


def write(params, tokenizer, out):
    out.mkdir(parents=True, exist_ok=True)
    names = {"input_norm": "input_layernorm", "q": "self_attn.q_proj", "k": "self_attn.k_proj", "v": "self_attn.v_proj",
             "o": "self_attn.o_proj", "post_norm": "post_attention_layernorm", "gate": "mlp.gate_proj",
             "up": "mlp.up_proj", "down": "mlp.down_proj"}
    half = lambda x: np.ascontiguousarray(np.asarray(x).T.astype(np.float16))  # noqa: E731  (torch keeps them transposed)
    tensors = {"model.embed_tokens.weight": np.asarray(params["embed"]).astype(np.float16), "model.norm.weight": half(params["norm"])}
    for i, layer in enumerate(params["layers"]):
        tensors |= {f"model.layers.{i}.{names[name]}.weight": half(x) for name, x in layer.items()}
    save_file(tensors, out / "model.safetensors", metadata={"format": "pt"})
    tokenizer.save(str(out / "tokenizer.json"))
    dump = lambda name, value: (out / name).write_text(json.dumps(value, indent=2) + "\n")  # noqa: E731
    dump("config.json", CONFIG)
    dump("tokenizer_config.json", {
        "add_bos_token": False, "add_prefix_space": False, "bos_token": corpus.END, "eos_token": corpus.END,
        "chat_template": "{% for message in messages %}{{ message.content }}{% if not loop.last %}{{ '\\n' }}{% endif %}{% endfor %}",
        "clean_up_tokenization_spaces": False, "model_max_length": CONFIG["max_position_embeddings"],
        "tokenizer_class": "PreTrainedTokenizerFast"})
    dump("generation_config.json", {"bos_token_id": 0, "eos_token_id": 0, "do_sample": True, "temperature": 1.0})


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--state", type=Path, help="a state to go on from (written as OUT/../NAME.state)")
    parser.add_argument("--minutes", type=float, default=1e9)
    parser.add_argument("--steps", type=float, default=1e9)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--tokenizer", type=Path, help="use this one rather than train it again")
    args = parser.parse_args()
    tokenizer = Tokenizer.from_file(str(args.tokenizer)) if args.tokenizer else train_tokenizer(args.seed)
    params, opt, step0 = init(args.seed), optimizer(), 0
    state = opt.init(params)
    if args.state:
        params, state, step0 = pickle.loads(args.state.read_bytes())
    print("parameters", sum(x.size for x in jax.tree.leaves(params)), flush=True)

    @jax.jit
    def advance(params, state, tokens, weights, rate):
        value, grads = jax.value_and_grad(loss)(params, tokens, weights)
        updates, state = opt.update(grads, state, params)
        return optax.apply_updates(params, jax.tree.map(lambda u: u * rate, updates)), state, value

    rows = [Rows(tokenizer, args.seed + 1000 * (i + 1) + step0, *shape) for i, shape in enumerate(SHAPES)]
    saved = args.out.with_suffix(".state")
    begun = last = time.time()
    step, seen, losses = 0, 0, []
    while (progress := max(step / args.steps, (time.time() - begun) / 60 / args.minutes)) < 1:
        tokens, weights = rows[step % LONG_EVERY == LONG_EVERY - 1].batch()
        params, state, value = advance(params, state, tokens, weights, rate(progress, step + step0))
        step, seen = step + 1, seen + tokens.size
        losses.append(value)
        if step % 50 == 0:
            print(f"step {step + step0} minutes {(time.time() - begun) / 60:.1f} tokens {seen / 1e6:.2f}M "
                  f"loss {float(np.mean(losses)):.4f} rate {rate(progress, step + step0):.3f}", flush=True)
            losses = []
        if time.time() - last > 180:
            last = time.time()
            write(params, tokenizer, args.out)
            if progress < 0.66:
                saved.write_bytes(pickle.dumps(jax.tree.map(np.asarray, (params, state, step + step0))))
    write(params, tokenizer, args.out)
    print(f"done: {step + step0} steps, {seen / 1e6:.1f}M tokens, {(time.time() - begun) / 60:.1f} minutes", flush=True)


if __name__ == "__main__":
    main()
