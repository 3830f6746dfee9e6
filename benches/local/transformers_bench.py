"""The work of benches/local/main.rs done by transformers on the same checkpoint: python transformers_bench.py FOLDER"""

import sys
import time

import torch
import transformers as hf

SAMPLES, TOKENS = 64, 96
folder = sys.argv[1]
torch.set_num_threads(2)
tokenizer = hf.AutoTokenizer.from_pretrained(folder)
model = hf.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
tokenizer.pad_token = tokenizer.eos_token
tokenizer.padding_side = "left"


def prompt(number):
    return "".join(f"{number * 7 + at} + {at * 3} = " for at in range(12))


def measure(samples, rounds):
    said, began, busy = 0, time.time(), time.process_time()
    for turn in range(rounds):
        batch = tokenizer([prompt(turn * samples + at) for at in range(samples)], return_tensors="pt", padding=True)
        batch.pop("token_type_ids", None)
        with torch.no_grad():
            out = model.generate(**batch, do_sample=True, temperature=1.0, top_k=0, min_new_tokens=TOKENS, max_new_tokens=TOKENS, pad_token_id=0)
        said += samples * (out.shape[1] - batch["input_ids"].shape[1])
    seconds, busy = time.time() - began, time.process_time() - busy
    print(f"{samples:3} at a time: {said} tokens in {seconds:.2} s: {said / seconds:.0f} tokens/s ({busy:.2f} s of the processor: {2 * said / busy:.0f} tokens/s on two cores of its own)")


measure(SAMPLES, 1)
measure(SAMPLES, 4)
measure(1, 4)
