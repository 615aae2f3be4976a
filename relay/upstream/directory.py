"""Where a reload finds the endpoints and accounts again that it names, with all that is remembered of them."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from random import Random

from relay.upstream.account import Account
from relay.upstream.address import Address, parse, seed
from relay.upstream.breaker import Breaker
from relay.upstream.endpoint import Endpoint, Listener

_Key = tuple[str, Address | None, str | None, str, Path | None, bool]


class Directory:
    """Finds endpoints and accounts again after a reload. Lives as long as the process."""

    def __init__(
        self,
        listener: Listener | None = None,
        rng: Random | None = None,
        *,
        shared_out: bool = False,
    ) -> None:
        """`shared_out`: of an account's permits nothing is ours before it is granted (see `shares`)."""
        self._listener = listener
        self._shared_out = shared_out
        self._rng = rng or Random()  # noqa: S311  jitter is no secret
        self._endpoints: dict[_Key, Endpoint] = {}
        self._accounts: dict[str, Account] = {}

    def endpoint(
        self,
        *,
        upstream: str,
        base_url: str | None,
        credential: str | None = None,
        account: str | None = None,
        max_concurrent: int | None = None,
        connect: float = 3.0,
        first_token: float = 30.0,
        idle: float = 60.0,
        answer: float = 600.0,
        total: float = 1800.0,
        ca_file: Path | None = None,
        demo: bool = False,
    ) -> Endpoint:
        """The endpoint, remembered or new, with these settings and its parks freed.

        Raises ValueError for a `base_url` that is not one. Another account or `ca_file` makes another endpoint.
        """
        address = parse(base_url) if base_url is not None else None
        if address is None and not demo:
            raise ValueError("base_url is required")
        account = account or upstream
        key = (upstream, address, credential, account, ca_file, demo)
        endpoint = self._endpoints.get(key)
        if endpoint is None:
            endpoint = self._endpoints[key] = Endpoint(
                upstream,
                self._label(upstream),
                self._accounts.get(account) or self._account(account),
                address,
                credential,
                Breaker(self._rng),
                self._listener,
            )
            endpoint.ca_file = ca_file
            endpoint.demo = demo
            endpoint.seed = seed(upstream, endpoint.authority, endpoint.base_path, credential)
        endpoint.connect = connect
        endpoint.first_token = first_token
        endpoint.idle = idle
        endpoint.answer = answer
        endpoint.total = total
        endpoint.max_concurrent = max_concurrent
        endpoint.bound()
        endpoint.freed()
        return endpoint

    def keep(self, endpoints: Iterable[Endpoint]) -> list[Endpoint]:
        """Forgets all others, and returns them: their attempts run on, their idle connections may be closed."""
        kept = set(endpoints)
        gone = [endpoint for endpoint in self._endpoints.values() if endpoint not in kept]
        self._endpoints = {key: e for key, e in self._endpoints.items() if e in kept}
        used = {endpoint.account.name for endpoint in kept}
        self._accounts = {name: a for name, a in self._accounts.items() if name in used}
        return gone

    def _account(self, name: str) -> Account:
        account = self._accounts[name] = Account(name)
        if self._shared_out:
            account.share = 0
        return account

    def _label(self, upstream: str) -> str:
        taken = {endpoint.label for endpoint in self._endpoints.values()}
        label, number = upstream, 1
        while label in taken:
            number += 1
            label = f"{upstream}#{number}"
        return label
