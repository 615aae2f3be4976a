"""A relay with something of everything: scripted providers with moods, models that depend on them, keys with limits,
and callers who use all of it. What each fault makes of it is in `faults`."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Coroutine, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime, timedelta
from itertools import cycle
from typing import Any

from tests.rig import RelayProcess, Request, Reset, Upstream, config
from tests.rig import scripts as say
from tests.rig.raw_client import chat
from tests.rig.relay_process import Fields
from tests.rig.scripts import Pause, Script, Send, Step

USAGE = {
    "prompt_tokens": 100,
    "completion_tokens": 20,
    "total_tokens": 120,
    "prompt_tokens_details": {"cached_tokens": 40},
    "completion_tokens_details": {"reasoning_tokens": 5},
}


TEMPO = {"slow": (1.0, 0.01), "busy": (0.1, 0.1), "endless": (0.02, 10.0)}
"""By mood: seconds before the first event, and after each."""


class Provider:
    """A scripted upstream with a mood, which may change at any time.

    `well`, `slow` (a second to think), `busy` (nearly a second an answer), `endless` (a minute an answer), `failing`
    (500), `flaky` (500 to one in seven), `throttling` (429 to one in three), `rejecting` (401), `brittle` (hangs up on
    one in ten).
    """

    def __init__(self, mood: str = "well") -> None:
        self.mood = mood
        self.upstream = Upstream(self._script)
        self._tenths = cycle(range(10))
        self._sevenths = cycle(range(7))
        self._thirds = cycle(range(3))

    def _script(self, request: Request) -> Script:
        if request.head.startswith(b"GET"):
            return say.plain(200, {"object": "list", "data": []})
        match self.mood:
            case "failing":
                return say.error(500)
            case "flaky" if next(self._sevenths) == 0:
                return say.error(500)
            case "throttling" if next(self._thirds) == 0:
                return say.error(429, headers=b"Retry-After: 2\r\n")
            case "rejecting":
                return say.error(401, code="invalid_api_key")
            case "brittle" if next(self._tenths) == 0:
                return say.sse(say.EVENTS[:3], Reset())
        return self._answer(request)

    def _answer(self, request: Request) -> Script:
        thinks, writes = TEMPO.get(self.mood, (0.02, 0.005))
        if not request.json().get("stream"):
            return [Pause(thinks), *say.plain(200, say.completion() | {"usage": USAGE})]
        steps: list[Step] = [Send(say.SSE_HEAD), Pause(thinks)]
        for item in (*say.EVENTS[:-1], say.usage_event(USAGE), say.DONE):
            steps += [Send(say.frame(item)), Pause(writes)]
        return [*steps, Send(say.LAST_CHUNK)]


PROVIDERS = (
    *(
        "main",
        "spare",
        "lazy",
        "narrow",
        "fragile",
        "thinker",
        "unlucky",
        "paced",
        "locked",
        "lost",
    ),
)
"""`spare` stands behind most of them."""

PRICE = {"input": 2, "cached_input": 1, "output": 8}


def key_of(name: str) -> str:
    return f"sk-{name}-0123456789abcdefghijkl"


def fields(providers: dict[str, Provider], workers: int) -> Fields:
    """A configuration in which every series has something to count."""

    def model(*pool: str, **more: object) -> Fields:
        members = [{"upstream": name, "tier": tier} for tier, name in enumerate(pool)]
        retry = {"attempts": 3, "budget": "100%"}
        return {"pool": members, "price": PRICE, "retry": retry} | more

    upstreams: dict[str, Any] = {
        name: {"base_url": each.upstream.base_url, "probe": {"interval": "1s"}}
        for name, each in providers.items()
    }
    upstreams["narrow"] |= {"max_concurrent": 4, "queue": {"max_calls": 12}}
    soon = datetime.now(UTC) + timedelta(days=3)  # noqa: TID251  a key that expires soon, whenever that is
    return config(
        upstreams,
        {
            "chat": model("main", "spare"),
            "quick": model("lazy", "spare", hedge={"after": "50ms", "budget": "100%"}),
            "narrow": model("narrow"),
            "fragile": model("fragile"),
            "thinker": model("thinker"),
            "unlucky": model("unlucky", retry={"attempts": 2, "budget": "0.1%"}),
            "paced": model("paced", "spare"),
            "locked": model("locked", "spare"),
            "sealed": model("locked"),
            "lost": model("lost", fallback=["chat"]),
        },
        [
            {"id": "shop", "key": key_of("shop"), "limits": {"rpm": 100_000, "tpm": 10_000_000}},
            {"id": "trial", "key": key_of("trial"), "expires": soon.isoformat(timespec="seconds")},
            {"id": "spender", "key": key_of("spender"), "limits": {"requests_per_day": 40}},
            {"id": "saver", "key": key_of("saver"), "limits": {"tokens_per_month": 10**9}},
            {"id": "hasty", "key": key_of("hasty"), "limits": {"rpm": 2, "concurrent": 100}},
            {"id": "counted", "key": key_of("counted"), "limits": {"rpm": 2, "shadow": True}},
        ],
        server={"workers": workers},
    )


@asynccontextmanager
async def standing(names: Sequence[str] = PROVIDERS) -> AsyncIterator[dict[str, Provider]]:
    """All providers, each on a port of its own, which it keeps."""
    async with AsyncExitStack() as stack:
        providers = {name: Provider() for name in names}
        for provider in providers.values():
            await stack.enter_async_context(provider.upstream)
        yield providers


class Callers:
    """People who call a relay again and again until they are told to stop. What comes of it is not theirs to judge."""

    def __init__(self, relay: RelayProcess) -> None:
        self.relay = relay
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self, model: str, key: str, count: int = 1, pause: float = 0.2, **more: Any) -> None:
        """So many at once, each `pause` seconds after its last answer."""
        for _ in range(count):
            self.add(self._call(model, key, pause, more))

    def add(self, calls: Coroutine[None, None, None]) -> None:
        """Somebody who calls in a way of their own."""
        self._tasks.add(asyncio.get_running_loop().create_task(calls))

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks.clear()

    async def _call(self, model: str, key: str, pause: float, more: Fields) -> None:
        while True:
            # A relay that is stopped, or whose worker dies, is what some of this is about.
            with contextlib.suppress(OSError, EOFError, TimeoutError):
                await chat(self.relay.address, key=key_of(key), model=model, timeout=15, **more)
            await asyncio.sleep(pause)

    def usual(self) -> None:
        """Every model, streamed and plain, and every key but the one that spends its day."""
        for model in ("chat", "quick", "fragile", "thinker", "unlucky", "paced", "locked", "lost"):
            self.start(model, "shop", 2)
        self.start("narrow", "shop")
        self.start("sealed", "shop", pause=2)
        self.start("chat", "shop", pause=0.5, stream=False)
        self.start("chat", "trial", pause=1)
        self.start("no-such-model", "shop", pause=1)
        for key in ("saver", "hasty", "counted"):
            self.start("chat", key, pause=0.5)
