"""Drives the installed openai package through a relay and prints what it met, as one JSON object.

Runs in an environment of its own (openai 1.x, 2.x, 3.x), so it imports nothing of the project, and nothing of the
SDK is typed here: the three majors differ. It is told where to go by `BASE_URL` and `API_KEY`; its argument names
the scenario.
"""

import asyncio
import importlib
import json
import os
import sys
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

openai: Any = importlib.import_module("openai")

MESSAGES = [{"role": "user", "content": "Say hello."}]
MODEL = os.environ.get("MODEL", "m")
CALL = {"model": MODEL, "messages": MESSAGES}


def client() -> Any:
    return openai.OpenAI(base_url=os.environ["BASE_URL"], api_key=os.environ["API_KEY"])


def async_client() -> Any:
    return openai.AsyncOpenAI(base_url=os.environ["BASE_URL"], api_key=os.environ["API_KEY"])


def dumped(items: Iterable[Any]) -> list[Any]:
    return [item.model_dump(exclude_unset=True) for item in items]


def failure(error: Exception) -> dict[str, Any]:
    found = {
        name: getattr(error, name, None) for name in ("code", "type", "status_code", "request_id")
    }
    return found | {
        "class": type(error).__name__,
        "is_api_error": isinstance(error, openai.APIError),
        "message": str(error),
    }


def streamed(**more: Any) -> list[Any]:
    with client().chat.completions.create(stream=True, **CALL | more) as stream:
        return dumped(stream)


async def async_streamed(**more: Any) -> list[Any]:
    async with async_client() as own:
        stream = await own.chat.completions.create(stream=True, **CALL | more)
        return dumped([item async for item in stream])


def in_each_way(**more: Any) -> dict[str, Any]:
    return {
        "sync": streamed(**more),
        "async": asyncio.run(async_streamed(**more)),
        "with_usage": streamed(stream_options={"include_usage": True}, **more),
    }


def stream() -> dict[str, Any]:
    return in_each_way() | {"models": [model.id for model in client().models.list()]}


def streams() -> dict[str, Any]:
    """Each of `PROMPTS`, a JSON list, in each way."""
    return {
        prompt: in_each_way(messages=[{"role": "user", "content": prompt}])
        for prompt in json.loads(os.environ["PROMPTS"])
    }


def plain() -> dict[str, Any]:
    async def in_async() -> Any:
        async with async_client() as own:
            return await own.chat.completions.create(**CALL)

    raw = client().chat.completions.with_raw_response.create(**CALL)
    return {
        "sync": raw.parse().model_dump(exclude_unset=True),
        "async": asyncio.run(in_async()).model_dump(exclude_unset=True),
        "request_id": raw.headers["x-request-id"],
        "remaining": raw.headers.get("x-ratelimit-remaining-requests"),
    }


def broken() -> dict[str, Any]:
    """Streams that the relay had to break off, one for each of `MODELS`: what each client raises, None for nothing."""
    models = os.environ["MODELS"].split(",")
    shared = client()

    def in_sync(model: str) -> Any:
        seen = 0
        try:
            for _ in shared.chat.completions.create(model=model, stream=True, messages=MESSAGES):
                seen += 1
        except Exception as error:
            return failure(error) | {"seen": seen}
        return None

    async def in_async(own: Any, model: str) -> Any:
        seen = 0
        try:
            async for _ in await own.chat.completions.create(
                model=model, stream=True, messages=MESSAGES
            ):
                seen += 1
        except Exception as error:
            return failure(error) | {"seen": seen}
        return None

    async def every() -> list[Any]:
        async with async_client() as own:
            return await asyncio.gather(*(in_async(own, model) for model in models))

    with ThreadPoolExecutor(8) as pool:
        return {
            "sync": dict(zip(models, pool.map(in_sync, models), strict=True)),
            "async": dict(zip(models, asyncio.run(every()), strict=True)),
        }


def refused() -> dict[str, Any] | None:
    """A call that is answered with an error."""
    try:
        client().chat.completions.create(**CALL)
    except openai.APIError as error:
        return failure(error)
    return None


def load() -> dict[str, Any]:
    """`CALLS` streams, `CONCURRENCY` at a time: how each ended."""

    async def one(own: Any, gate: asyncio.Semaphore) -> str:
        async with gate:
            seen = 0
            try:
                async for _ in await own.chat.completions.create(stream=True, **CALL):
                    seen += 1
            except openai.APIError:
                return "raised after tokens" if seen else "raised before tokens"
            return "whole"

    async def every() -> list[str]:
        gate = asyncio.Semaphore(int(os.environ["CONCURRENCY"]))
        async with async_client() as own:
            calls = [one(own, gate) for _ in range(int(os.environ["CALLS"]))]
            return await asyncio.gather(*calls)

    ends = asyncio.run(every())
    return {end: ends.count(end) for end in set(ends)}


SCENARIOS: dict[str, Callable[[], Any]] = {
    "stream": stream,
    "streams": streams,
    "plain": plain,
    "broken": broken,
    "refused": refused,
    "load": load,
}

if __name__ == "__main__":
    result = {"version": openai.__version__, "result": SCENARIOS[sys.argv[1]]()}
    sys.stdout.write(json.dumps(result))
