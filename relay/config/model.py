"""The configuration as the admin writes it: every option, its default, and one sentence about it.

The sentences are the JSON Schema's descriptions and the comments of `config.yaml` (a test holds the two together).
Types only say what one option may be; what options must be to each other is in `rules`, and positions, variables
and YAML are `file`'s. Everything is frozen: a reload makes a new `Config`.
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, PrivateAttr, field_validator, model_validator

from relay.config.keymodel import GroupConfig, KeyConfig
from relay.config.keytable import KeyTable
from relay.config.storeaddress import StoreAddress, read_address
from relay.config.types import (
    LARGEST_COUNT,
    Address,
    AdminToken,
    Connections,
    Count,
    Day,
    Duration,
    FilePath,
    Hours,
    Name,
    NetworkAddress,
    Origin,
    PublicUrl,
    Rate,
    Section,
    Share,
    Silence,
    Size,
    Store,
    Text,
    TimeLimit,
    Workers,
)
from relay.config.upstreams import UpstreamConfig
from relay.config.values import Listen, read_network

# --- server, admin --------------------------------------------------------------------------------


class ServerTimeouts(Section):
    header: TimeLimit = Field(10.0, description="To receive the head of a request")
    body: TimeLimit = Field(30.0, description="To receive the rest of a request")
    keep_alive: TimeLimit = Field(75.0, description="An idle connection is closed after this")
    write_stall: TimeLimit = Field(
        60.0, description="A client that reads nothing is cut after this"
    )


class Drain(Section):
    delay: Duration = Field(0.0, description="Go on accepting calls for so long after SIGTERM")
    timeout: Duration = Field(
        600.0, description="Then let running answers end for at most this long"
    )


class Cors(Section):
    allow_origins: list[Origin] = Field(
        ["*"], description="Web pages that may call the API; [] for none"
    )


class Server(Section):
    listen: Address = Field(Listen("0.0.0.0", 8080), description="Address and port of the API")  # noqa: S104
    public_url: PublicUrl | None = Field(
        None, description="Where clients reach it through a proxy, without /v1 (default: as listen)"
    )
    workers: Workers = Field("auto", description="Processes that serve; auto is one per usable CPU")
    max_connections: Connections = Field(
        "auto", description="Of clients, per process; auto is just under half its open files"
    )
    max_body: Size = Field(32 * 1024 * 1024, description="Largest request body")
    cors: Cors = Field(Cors(), description="Calls from browsers")
    timeouts: ServerTimeouts = Field(ServerTimeouts(), description="Patience with clients")
    drain: Drain = Field(Drain(), description="How the relay stops")
    trusted_proxies: list[NetworkAddress] = Field(
        [read_network("127.0.0.1/32")],
        description="Proxies in front whose X-Forwarded-For is believed",
    )


class Admin(Section):
    listen: Address = Field(
        Listen("127.0.0.1", 8081),
        description="Address and port; beyond loopback a token is required",
    )
    token: AdminToken | None = Field(
        None, description="Needed to look, but for /livez and /readyz (default: none)"
    )

    @property
    def secret(self) -> str | None:
        return None if self.token is None else self.token.get_secret_value()


class State(Section):
    path: FilePath = Field(
        Path("state"), validate_default=True, description="Folder of budgets and usage (SQLite)"
    )
    retention: Duration = Field(
        90 * 86400.0, description="Calls are kept for so long, then their sums by day, for good"
    )


Open = Literal["open", "closed"]


class StoreFailure(Section):
    rates: Open = Field(
        "open", description="rpm, tpm, concurrent: open lets calls pass, closed refuses them"
    )
    budgets: Open = Field("closed", description="Limits per day and month: likewise")


# --- models ---------------------------------------------------------------------------------------


class Rates(Section):
    """What a token costs."""

    input: Rate = Field(description="US$ per million tokens of the prompt (required)")
    cached_input: Rate | None = Field(
        None, description="Of these, the ones the provider had cached (default: as input)"
    )
    output: Rate = Field(description="US$ per million tokens of the answer (required)")


Weekday = Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"]


class PriceWindow(Rates):
    days: list[Weekday] = Field(
        ["mon", "tue", "wed", "thu", "fri", "sat", "sun"],
        description="Days of the week, UTC (default: all)",
    )
    hours: list[Hours] = Field([(0, 1440)], description="Hours of these days, UTC (default: all)")
    except_dates: list[Day] = Field(
        [], description="Days without it, such as holidays (default: none)"
    )


class PriceConfig(Rates):
    windows: list[PriceWindow] = Field(
        [], description="Other prices at some hours, by the call's start (default: none)"
    )


class PoolEntry(Section):
    upstream: Name = Field(description="A name from upstreams (required)")
    model: Text | None = Field(
        None, description="What the upstream calls the model (default: the same name)"
    )
    tier: int = Field(0, ge=0, le=1000, description="Higher tiers serve when lower ones cannot")
    weight: int = Field(1, ge=0, le=1_000_000, description="Share within the tier; 0: nothing new")
    price: PriceConfig | None = Field(
        None, description="What it costs there (default: as the model's price)"
    )


class Hedge(Section):
    after: Silence = Field(description="Silence before a second attempt starts; or p95 (required)")
    budget: Share = Field(0.05, description="Of all calls, at most so many get one")


class Retry(Section):
    attempts: int = Field(3, ge=1, le=100, description="Upstreams tried for one call at most")
    budget: Share = Field(0.2, description="Of all attempts, at most so many are retries")


class Heartbeat(Section):
    interval: Duration = Field(
        15.0, description="A comment line after so much silence; 0s for none"
    )
    before_commit: bool = Field(
        False,
        description="Also before the first token: an early 200, after which errors are events",
    )


class ModelConfig(Section):
    """A name that clients ask for, and who answers."""

    pool: list[PoolEntry] = Field([], description="Upstreams that serve it (required, or static)")
    static: Text | None = Field(
        None, description="Or a fixed text, streamed as an answer (default: none)"
    )
    strategy: Literal["weighted", "least_inflight", "fastest", "prefix"] = Field(
        "least_inflight",
        description="Or weighted, fastest, prefix (same prompt to the same upstream)",
    )
    first_token: TimeLimit | None = Field(
        None, description="Silence before the first token (default: as the upstream's)"
    )
    hedge: Hedge | None = Field(
        None, description="Start a second attempt while the first is silent (default: off)"
    )
    retry: Retry = Field(
        Retry(), description="Further attempts after a failure, before the first token"
    )
    fallback: list[Name] = Field(
        [], description="Models that answer instead, in order (default: none)"
    )
    price: PriceConfig | None = Field(
        None, description="What it costs (default: nothing is counted)"
    )
    max_output: Count = Field(
        8192, description="Tokens reserved for an answer when the call names no limit"
    )
    image_tokens: int = Field(
        2000, ge=0, le=LARGEST_COUNT, description="Tokens reserved per image, sound or file"
    )
    heartbeat: Heartbeat = Field(Heartbeat(), description="Signs of life in silent streams")
    resume: Literal["deepseek-prefix", "continue-final-message"] | None = Field(
        None, description="Continue a stream that broke, on another upstream (default: off)"
    )

    def price_at(self, entry: PoolEntry) -> PriceConfig | None:
        """What this member of the pool takes, if anybody has said so."""
        return self.price if entry.price is None else entry.price


# --- observability --------------------------------------------------------------------------------


class Observability(Section):
    access_log: Literal["json", "off"] = Field(
        "json", description="A line per call on stdout, or off"
    )
    slow_first_token: TimeLimit = Field(
        0.8, description="A first token later than this counts as slow"
    )
    log_content: list[Name] = Field(
        [], description="Ids of keys whose prompts and answers are logged, for debugging"
    )

    @field_validator("log_content", mode="before")
    @classmethod
    def _names_keys(cls, value: Any) -> Any:
        if isinstance(value, bool):
            raise ValueError("must be a list of key ids, such as [my-app], or [] for none")
        return value


# --- the whole ------------------------------------------------------------------------------------


class Config(Section):
    """One reading of the file. Lives until the last call that started under it has ended."""

    _path: Path = PrivateAttr(Path("config.yaml"))
    _digest: str = PrivateAttr("")
    _whole: bool = PrivateAttr(False)
    _notices: list[str] = PrivateAttr(default_factory=list)
    _filed: KeyTable = PrivateAttr(default_factory=KeyTable)

    server: Server = Field(Server(), description="Where clients call")
    admin: Admin = Field(Admin(), description="Where you look: status page, metrics, health")
    state: State = Field(State(), description="What outlives a restart")
    quota_store: Store = Field(
        "embedded",
        repr=False,
        description="Where limits are counted: embedded, or redis://host:6379/0",
    )
    on_store_failure: StoreFailure = Field(
        StoreFailure(), description="What happens while that store is away"
    )
    upstreams: dict[Name, UpstreamConfig] = Field({}, description="Providers, by a name of yours")
    models: dict[Name, ModelConfig] = Field({}, description="Models, by the name clients ask for")
    keys: list[KeyConfig] = Field([], description="Who may call")
    groups: dict[Name, GroupConfig] = Field({}, description="Limits that several keys share")
    prices: dict[Name, PriceConfig] = Field({}, description="Models you only compare prices with")
    key_files: list[FilePath] = Field(
        [], description="More keys, one JSON object per line (default: none)"
    )
    observability: Observability = Field(Observability(), description="Logs and metrics")

    @model_validator(mode="before")
    @classmethod
    def _locate_state(cls, data: Any) -> Any:
        # A default is not validated with the file's folder at hand unless its section is written.
        unwritten = isinstance(data, dict) and not data.get("state")
        return {**data, "state": {}} if unwritten else data

    def stamp(
        self, path: Path, digest: str, whole: bool, filed: KeyTable, notices: list[str]
    ) -> None:
        """Says where this reading came from, and what its key files held; the reader does so once."""
        self._path, self._digest, self._whole = path, digest, whole
        self._filed, self._notices = filed, notices

    @property
    def path(self) -> Path:
        return self._path

    @property
    def digest(self) -> str:
        """SHA-256 of the file and its key files, in hex."""
        return self._digest

    @property
    def whole(self) -> bool:
        """The file ends with the end of a line: one that does not is taken for half of the next version."""
        return self._whole

    @property
    def notices(self) -> list[str]:
        """What the admin should know though it is no fault: left out, or not in effect yet."""
        return self._notices

    @property
    def filed(self) -> KeyTable:
        """The keys of `key_files`."""
        return self._filed

    @property
    def store_address(self) -> StoreAddress | None:
        """Of the store that several relays share; None where limits are counted in the relay."""
        return read_address(self.quota_store, self._path.parent)

    @cached_property
    def active_upstreams(self) -> dict[str, UpstreamConfig]:
        return {name: one for name, one in self.upstreams.items() if not one.left_out}

    def most_at_once(self, name: str) -> int | None:
        """`max_concurrent` for an upstream: the least that one of its account names, for they share it."""
        return self._most_of.get(self.upstreams[name].account or name)

    @cached_property
    def _most_of(self) -> dict[str, int]:
        """By account."""
        found: dict[str, int] = {}
        for name, one in self.active_upstreams.items():
            account, most = one.account or name, one.max_concurrent
            if most is not None:
                found[account] = min(most, found.get(account, most))
        return found
