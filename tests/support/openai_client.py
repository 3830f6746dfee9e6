"""Drives the mock endpoint with the official `openai` Python client, unchanged, and says what it saw as one JSON object.

Usage: openai_client.py BASE_URL KEY
"""

import json
import sys
import time
import urllib.request

import openai
from openai import OpenAI

BASE, KEY = sys.argv[1], sys.argv[2]
ROOT = BASE.removesuffix("/v1")
PROBLEM = "Ann has 12 apples, buys 3 bags of 7 and gives 5 away. How many apples has she? Think step by step."
MESSAGES = [{"role": "user", "content": PROBLEM}]
MODEL = "mock-small"


def control(method, path, body=None):
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(ROOT + path, data=data, method=method)
    with urllib.request.urlopen(request, timeout=10) as reply:
        text = reply.read()
    return json.loads(text) if text else None


def error_of(call):
    """The class of the error that a call ends with, its code, and how often the endpoint was asked."""
    before = control("GET", "/ledger")["requests"]
    try:
        call()
    except openai.OpenAIError as error:
        name, code = type(error).__name__, getattr(error, "code", None)
    else:
        name, code = None, None
    return [name, code, control("GET", "/ledger")["requests"] - before]


client = OpenAI(base_url=BASE, api_key=KEY, max_retries=0, timeout=10)
seen = {"version": openai.__version__}

# Chat, n, stop, max_tokens, seed.
one = client.chat.completions.create(model=MODEL, messages=MESSAGES)
seen["chat"] = [one.object, one.model, one.choices[0].message.role, one.choices[0].finish_reason]
seen["usage"] = one.usage.total_tokens == one.usage.prompt_tokens + one.usage.completion_tokens > 0
three = client.chat.completions.create(model=MODEL, messages=MESSAGES, n=3, temperature=1.0, seed=7)
seen["n"] = [choice.index for choice in three.choices]
short = client.chat.completions.create(model=MODEL, messages=MESSAGES, max_tokens=3)
seen["max_tokens"] = [short.choices[0].finish_reason, short.usage.completion_tokens]
stopped = client.chat.completions.create(model=MODEL, messages=MESSAGES, temperature=0, stop=["12"])
seen["stop"] = "12" not in stopped.choices[0].message.content
seen["text"] = client.completions.create(model=MODEL, prompt=PROBLEM, max_tokens=4).object

# Streams: the same text as in one piece.
greedy = client.chat.completions.create(model=MODEL, messages=MESSAGES, temperature=0)
stream = client.chat.completions.create(
    model=MODEL, messages=MESSAGES, temperature=0, stream=True, stream_options={"include_usage": True}
)
pieces, usage, reason = [], None, None
for chunk in stream:
    usage = chunk.usage or usage
    for choice in chunk.choices:
        pieces.append(choice.delta.content or "")
        reason = choice.finish_reason or reason
same = "".join(pieces) == greedy.choices[0].message.content
seen["stream"] = [same, len(pieces) > 3, usage is not None and usage.total_tokens == greedy.usage.total_tokens]
seen["stream"].append(reason == greedy.choices[0].finish_reason)

# Responses.
response = client.responses.create(model=MODEL, input=PROBLEM, instructions="Be brief.", max_output_tokens=60)
seen["responses"] = [response.object, bool(response.output_text), response.usage.output_tokens > 0]

# Models.
seen["models"] = sorted(model.id for model in client.models.list())
seen["model"] = client.models.retrieve(MODEL).id

# Files and batches.
lines = [
    {"custom_id": f"line-{i}", "method": "POST", "url": "/v1/chat/completions",
     "body": {"model": MODEL, "messages": MESSAGES, "max_tokens": 40, "n": 2}}
    for i in range(5)
]
lines[3]["body"]["temperature"] = 9
file = client.files.create(
    file=("lines.jsonl", "\n".join(map(json.dumps, lines)).encode()), purpose="batch"
)
seen["file"] = [file.object, file.purpose, client.files.retrieve(file.id).filename]
batch = client.batches.create(
    input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h", metadata={"who": "test"}
)
statuses = [batch.status]
control("POST", "/clock/advance", {"seconds": 0.5})
statuses.append(client.batches.retrieve(batch.id).status)
control("POST", "/clock/advance", {"seconds": 60})
batch = client.batches.retrieve(batch.id)
statuses.append(batch.status)
seen["batch"] = [statuses, batch.request_counts.completed, batch.request_counts.failed, batch.metadata]
good = [json.loads(line) for line in client.files.content(batch.output_file_id).text.splitlines()]
bad = [json.loads(line) for line in client.files.content(batch.error_file_id).text.splitlines()]
seen["results"] = [
    sorted(line["custom_id"] for line in good),
    [len(line["response"]["body"]["choices"]) for line in good],
    [[line["custom_id"], line["response"]["status_code"]] for line in bad],
]
second = client.batches.create(input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h")
second = client.batches.cancel(second.id)
seen["cancel"] = second.status
seen["list"] = [entry.id for entry in client.batches.list(limit=1)] == [second.id, batch.id]
seen["delete"] = client.files.delete(file.id).deleted

# Errors, by class, with the number of requests that the client made.
retrying = client.with_options(max_retries=2)


def chat(of=client, **more):
    return of.chat.completions.create(**{"model": MODEL, "messages": MESSAGES, **more})


errors = {"key": error_of(lambda: chat(client.with_options(api_key="wrong-key")))}
errors["model"] = error_of(lambda: chat(model="gpt-none"))
errors["bad"] = error_of(lambda: chat(temperature=9))
for fault in [
    "context_length_exceeded", "403", "409", "422", "rate_limit:seconds=0", "insufficient_quota", "500", "529",
    "reset", "close", "cut", "hang",
]:
    hurry = retrying.with_options(timeout=1)
    errors[fault] = error_of(lambda: chat(hurry, extra_headers={"x-mock-fault": fault}))
seen["errors"] = errors

# What passes is retried: two failures, then an answer.
control("POST", "/faults", {"faults": ["rate_limit:seconds=1:first=1", "503:first=2"]})
before, begin = control("GET", "/ledger")["requests"], time.monotonic()
again = chat(retrying)
seen["retried"] = [bool(again.choices), control("GET", "/ledger")["requests"] - before, time.monotonic() - begin >= 1]
control("DELETE", "/faults")

# Odd replies that are none of the client's errors.
filtered = chat(extra_headers={"x-mock-fault": "content_filter"})
refused = chat(extra_headers={"x-mock-fault": "refusal"})
none = chat(extra_headers={"x-mock-fault": "no_usage"})


def streamed(client=client, **more):
    """What a stream brings: the text and the refusal of each choice, and why each ended."""
    texts, refusals, reasons = {}, {}, {}
    for chunk in chat(client, stream=True, **more):
        for choice in chunk.choices:
            texts[choice.index] = texts.get(choice.index, "") + (choice.delta.content or "")
            refusals[choice.index] = refusals.get(choice.index, "") + (choice.delta.refusal or "")
            reasons[choice.index] = choice.finish_reason or reasons.get(choice.index)
    return texts, refusals, reasons


# Streams of several choices, of refusals and of what the filter took; errors before a stream and in the middle of it.
texts, _, reasons = streamed(n=2, temperature=1.0, seed=7)
whole = chat(n=2, temperature=1.0, seed=7)
seen["streams"] = [[texts[choice.index] == choice.message.content for choice in whole.choices], sorted(reasons)]
texts, refusals, reasons = streamed(extra_headers={"x-mock-fault": "refusal"})
seen["stream_refusal"] = [texts[0], refusals[0] == refused.choices[0].message.refusal, reasons[0]]
_, _, reasons = streamed(extra_headers={"x-mock-fault": "content_filter"})
seen["stream_filter"] = reasons[0]
seen["stream_errors"] = {
    fault: error_of(lambda: streamed(client.with_options(timeout=1), extra_headers={"x-mock-fault": fault}))
    for fault in ["rate_limit:seconds=0", "500", "context_length_exceeded"]
}
seen["stream_key"] = error_of(lambda: streamed(client.with_options(api_key="wrong-key")))
seen["odd"] = [filtered.choices[0].finish_reason, bool(refused.choices[0].message.refusal), none.usage]
print(json.dumps(seen))
