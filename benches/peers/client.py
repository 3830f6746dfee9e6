"""One peer asks one endpoint: `client.py PEER BASE_URL REQUESTS CONCURRENCY WORK_FOLDER`, in the venv of that peer.

Prints one line of JSON: seconds and CPU seconds of the asking alone (interpreter start and imports left out).
"""

import asyncio
import json
import logging
import os
import resource
import sys
import time

PEER, BASE, COUNT, WIDTH, WORK = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), sys.argv[5]
MODEL = os.environ.get("FARTHING_BENCH_MODEL", "gpt-4o-mini")
QUESTION = "Question {}: which of the following four statements is true, and why? Answer in one short sentence."
PROMPTS = [QUESTION.format(number) for number in range(COUNT)]
os.environ.update(OPENAI_API_KEY="none", OPENAI_BASE_URL=BASE, LITELLM_LOCAL_MODEL_COST_MAP="True")


def cpu():
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def report(run):
    """Runs it and prints what it took; it returns how many answers there were."""
    wall, used = time.perf_counter(), cpu()
    answers = run()
    took = {"seconds": time.perf_counter() - wall, "cpu": cpu() - used}
    assert answers == COUNT, f"{answers} answers to {COUNT} requests"
    print(json.dumps(took))


def side_by_side(ask):
    """Asks all prompts by a coroutine, so many at once."""

    async def run():
        gate = asyncio.Semaphore(WIDTH)

        async def one(prompt):
            async with gate:
                return await ask(prompt)

        answers = await asyncio.gather(*[one(prompt) for prompt in PROMPTS])
        return sum(bool(answer) for answer in answers)

    report(lambda: asyncio.run(run()))


def openai():
    import openai

    client = openai.AsyncOpenAI(http_client=openai.DefaultAioHttpClient(), max_retries=0)

    async def ask(prompt):
        message = {"role": "user", "content": prompt}
        reply = await client.chat.completions.create(model=MODEL, messages=[message], temperature=0, max_tokens=64)
        return reply.choices[0].message.content

    side_by_side(ask)


def litellm():
    import litellm

    litellm.suppress_debug_info = True

    async def ask(prompt):
        message = {"role": "user", "content": prompt}
        reply = await litellm.acompletion(
            model="openai/" + MODEL, api_base=BASE, messages=[message], temperature=0, max_tokens=64
        )
        return reply.choices[0].message.content

    side_by_side(ask)


def sammo():
    from sammo.runners import OpenAIChat
    from sammo.throttler import AtMost

    logging.disable(logging.CRITICAL)
    config = {"api_key": "none", "base_url": BASE}
    runner = OpenAIChat(model_id=MODEL, api_config=config, cache=None, rate_limit=[AtMost(100_000, "calls", 1)])

    async def ask(prompt):
        return (await runner.generate_text(prompt, max_tokens=64, randomness=0)).value

    side_by_side(ask)


def lmwrapper():
    from pathlib import Path

    from lmwrapper.batch_config import CompletionWindow
    from lmwrapper.caching import set_cache_dir
    from lmwrapper.openai_wrapper import OpenAiModelNames, get_open_ai_lm
    from lmwrapper.structs import LmPrompt

    set_cache_dir(Path(WORK))
    model = get_open_ai_lm(OpenAiModelNames.gpt_4o_mini)
    prompts = [LmPrompt(prompt, max_tokens=64, temperature=0.0, cache=False) for prompt in PROMPTS]
    answers = lambda: model.predict_many(prompts, completion_window=CompletionWindow.ASAP)  # noqa: E731
    report(lambda: sum(bool(answer.completion_text) for answer in answers()))


def prompto():
    from prompto.experiment import Experiment
    from prompto.settings import Settings

    os.makedirs(WORK + "/input", exist_ok=True)
    with open(WORK + "/input/asked.jsonl", "w") as file:
        for number, prompt in enumerate(PROMPTS):
            parameters = {"temperature": 0, "max_tokens": 64}
            row = {"id": number, "api": "openai", "model_name": MODEL, "prompt": prompt, "parameters": parameters}
            file.write(json.dumps(row) + "\n")
    logging.disable(logging.CRITICAL)
    settings = Settings(data_folder=WORK, max_queries=10**9, max_attempts=1)
    experiment = Experiment("asked.jsonl", settings)
    report(lambda: len(asyncio.run(experiment.process())[0]))


def inspect():
    from inspect_ai import Task, eval
    from inspect_ai.dataset import MemoryDataset, Sample
    from inspect_ai.scorer import includes
    from inspect_ai.solver import generate

    os.environ.update(BENCH_API_KEY="none", BENCH_BASE_URL=BASE)
    data = MemoryDataset([Sample(input=prompt, target="second", id=at) for at, prompt in enumerate(PROMPTS)])
    task = Task(dataset=data, solver=generate(), scorer=includes())

    def run():
        settings = {"max_connections": WIDTH, "max_samples": WIDTH, "max_tokens": 64, "temperature": 0.0}
        logs = eval(task, model="openai-api/bench/" + MODEL, display="none", log_dir=WORK, **settings)
        return len(logs[0].samples)

    report(run)


globals()[PEER]()
