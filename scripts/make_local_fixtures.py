"""Makes the fixtures of provider `local`: tiny checkpoints of each architecture with random weights, and what transformers
says of them (logits after each of the last positions of a prompt, and the greedy continuation), in 32-bit floats.

    python3 -m venv venv && venv/bin/pip install torch transformers gguf numpy
    venv/bin/python scripts/make_local_fixtures.py            # writes tests/fixtures/local/

tests/local.rs and src/backend/local/ hold the decoder to them: logits to 1e-4, continuations token for token.
"""

import json
import shutil
from pathlib import Path

import gguf
import numpy as np
import torch
import transformers as hf

OUT = Path(__file__).resolve().parent.parent / "tests" / "fixtures" / "local"
VOCABULARY = 96
CONTEXT = 128
PROMPT, CONTINUED = 24, 24

COMMON = dict(
    vocab_size=VOCABULARY, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=4,
    num_key_value_heads=2, max_position_embeddings=CONTEXT, bos_token_id=0, eos_token_id=0, pad_token_id=0,
)


def configs():
    """Name, configuration, and the model's class."""
    llama = dict(COMMON, tie_word_embeddings=True)
    yield "gpt2", hf.GPT2Config(vocab_size=VOCABULARY, n_embd=16, n_layer=2, n_head=4, n_positions=CONTEXT, bos_token_id=0, eos_token_id=0)
    yield "llama", hf.LlamaConfig(**llama)
    yield "llama3-rope", hf.LlamaConfig(
        **dict(COMMON, tie_word_embeddings=False, attention_bias=True, mlp_bias=True, head_dim=8),
        rope_parameters=dict(rope_type="llama3", rope_theta=10000.0, factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=16),
    )
    yield "llama-linear-rope", hf.LlamaConfig(**llama, rope_parameters=dict(rope_type="linear", rope_theta=500.0, factor=3.0))
    yield "mistral", hf.MistralConfig(**dict(COMMON, tie_word_embeddings=False), sliding_window=7)
    yield "qwen2", hf.Qwen2Config(**llama)
    yield "qwen3", hf.Qwen3Config(**llama, head_dim=8)
    yield "gemma", hf.GemmaConfig(**COMMON, head_dim=8)
    yield "gemma2", hf.Gemma2Config(**COMMON, head_dim=8, sliding_window=6, query_pre_attn_scalar=12, attn_logit_softcapping=5.0, final_logit_softcapping=3.0)
    yield "gemma3", hf.Gemma3TextConfig(
        **dict(COMMON, num_hidden_layers=3), head_dim=8, sliding_window=6, query_pre_attn_scalar=8,
        layer_types=["sliding_attention", "full_attention", "sliding_attention"],
        rope_parameters=dict(full_attention=dict(rope_type="linear", rope_theta=100000.0, factor=4.0), sliding_attention=dict(rope_type="default", rope_theta=1000.0)),
    )
    yield "phi", hf.PhiConfig(**dict(COMMON, num_key_value_heads=4), hidden_act="gelu_new")
    yield "phi3", hf.Phi3Config(**dict(COMMON, num_hidden_layers=2), sliding_window=9)


def tokenizer():
    """Byte-level BPE over printable ASCII without merges: small, and every prompt can be written by hand."""
    characters = [chr(code) for code in range(ord("!"), ord("~") + 1)] + ["Ġ"]
    vocab = {"<|end|>": 0, **{character: at + 1 for at, character in enumerate(characters)}}
    assert len(vocab) == VOCABULARY
    return {
        "version": "1.0", "truncation": None, "padding": None,
        "added_tokens": [dict(id=0, content="<|end|>", single_word=False, lstrip=False, rstrip=False, normalized=False, special=True)],
        "normalizer": None,
        "pre_tokenizer": dict(type="ByteLevel", add_prefix_space=False, trim_offsets=True, use_regex=True),
        "post_processor": None,
        "decoder": dict(type="ByteLevel", add_prefix_space=True, trim_offsets=True, use_regex=True),
        "model": dict(type="BPE", dropout=None, unk_token=None, continuing_subword_prefix=None, end_of_word_suffix=None,
                      fuse_unk=False, byte_fallback=False, vocab=vocab, merges=[]),
    }


def excite(model):
    """Larger weights than a fresh model has, so that softmaxes, caps and norms have something to do."""
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.dim() > 1:
                parameter.copy_(noise * (0.5 if "embed" in name or "wte" in name else 0.35))
            else:
                parameter.add_(noise * 0.2)


def reference(model):
    """A prompt, the logits of its last positions and of the last step, and the greedy continuation. The prompt is the first
    random one after which no step is nearly a tie and none ends the text."""
    for seed in range(11, 1000):
        generator = torch.Generator().manual_seed(seed)
        prompt = torch.randint(1, VOCABULARY, (1, PROMPT), generator=generator)
        ids = prompt
        steps = []
        with torch.no_grad():
            for _ in range(CONTINUED):
                logits = model(ids, use_cache=False).logits[0]
                if not steps:
                    last = logits[-3:]
                steps.append(logits[-1])
                ids = torch.cat([ids, logits[-1].argmax().reshape(1, 1)], dim=1)
        margin = min(float(step.topk(2).values[0] - step.topk(2).values[1]) for step in steps)
        continuation = ids[0, PROMPT:].tolist()
        if margin > 2e-3 and 0 not in continuation:
            break
    else:
        raise SystemExit("no prompt is good")
    rounded = lambda row: [round(float(value), 6) for value in row]
    return dict(
        prompt=prompt[0].tolist(), continuation=continuation, logits=[rounded(row) for row in last],
        final_logits=rounded(steps[-1]), transformers=hf.__version__, torch=torch.__version__,
    )


def write_gguf(path, model, kind, file_type):
    """The Llama checkpoint as a GGUF file, heads in GGUF's order, matrices in `file_type`."""
    config, state = model.config, model.state_dict()
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    head = config.hidden_size // config.num_attention_heads
    writer.add_rope_dimension_count(head)
    writer.add_rope_freq_base(10000.0)
    # One token is made of two others here: GGUF cannot say that there are no merges.
    vocab = sorted(tokenizer()["model"]["vocab"].items(), key=lambda entry: entry[1])
    vocab = [("th" if token == "~" else token, at) for token, at in vocab]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("default")
    writer.add_token_list([token for token, _ in vocab])
    writer.add_token_types([3] + [1] * (len(vocab) - 1))
    writer.add_token_merges(["t h"])
    writer.add_eos_token_id(0)
    writer.add_bos_token_id(0)
    writer.add_add_bos_token(False)
    writer.add_chat_template("{% for message in messages %}{{ message.content }}{% endfor %}")

    def permuted(weight, heads):
        return weight.reshape(heads, 2, weight.shape[0] // heads // 2, *weight.shape[1:]).swapaxes(1, 2).reshape(weight.shape)

    names = {"self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output",
             "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down", "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm"}
    for name, tensor in state.items():
        weight = tensor.float().numpy()
        if name == "lm_head.weight":
            continue
        if name == "model.embed_tokens.weight":
            new = "token_embd.weight"
        elif name == "model.norm.weight":
            new = "output_norm.weight"
        else:
            _, _, layer, *part, end = name.split(".")
            part = ".".join(part)
            if part.endswith("q_proj"):
                weight = permuted(weight, config.num_attention_heads)
            if part.endswith("k_proj"):
                weight = permuted(weight, config.num_key_value_heads)
            new = f"blk.{layer}.{names[part]}.{end}"
        if weight.ndim == 1 or kind == "f32":
            writer.add_tensor(new, weight.astype(np.float32))
        elif kind == "f16":
            writer.add_tensor(new, weight.astype(np.float16))
        else:
            writer.add_tensor(new, gguf.quants.quantize(weight.astype(np.float32), file_type), raw_dtype=file_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def main():
    shutil.rmtree(OUT, ignore_errors=True)
    OUT.mkdir(parents=True)
    (OUT / "tokenizer.json").write_text(json.dumps(tokenizer(), ensure_ascii=False, separators=(",", ":")))
    for name, config in configs():
        config._attn_implementation = "eager"
        torch.manual_seed(3)
        model = hf.AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval().float()
        excite(model)
        model.tie_weights()
        folder = OUT / name
        model.save_pretrained(folder)
        (folder / "reference.json").write_text(json.dumps(reference(model)))
        for extra in folder.glob("*"):
            if extra.name not in ("config.json", "model.safetensors", "generation_config.json", "reference.json"):
                extra.unlink()
    # GGUF: a Llama whose rows are whole blocks of 32, in 32 bits and in Q8_0.
    torch.manual_seed(5)
    config = hf.LlamaConfig(**dict(COMMON, hidden_size=32, intermediate_size=32, tie_word_embeddings=True))
    model = hf.AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval().float()
    excite(model)
    model.tie_weights()
    folder = OUT / "gguf"
    folder.mkdir()
    write_gguf(folder / "f32.gguf", model, "f32", None)
    (folder / "f32.json").write_text(json.dumps(reference(model)))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() > 1:
                weight = parameter.numpy()
                # Quantizing a permuted matrix is the same by rows.
                back = gguf.quants.dequantize(gguf.quants.quantize(weight, gguf.GGMLQuantizationType.Q8_0), gguf.GGMLQuantizationType.Q8_0)
                parameter.copy_(torch.from_numpy(back))
    write_gguf(folder / "q8_0.gguf", model, "q8_0", gguf.GGMLQuantizationType.Q8_0)
    (folder / "q8_0.json").write_text(json.dumps(reference(model)))
    size = sum(path.stat().st_size for path in OUT.rglob("*") if path.is_file())
    print(f"{size / 1e3:.0f} kB under {OUT}")


if __name__ == "__main__":
    main()
