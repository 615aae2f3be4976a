"""What a relay says when it is ready: one log line for machines, a page of text for the person who started it."""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path

from relay import __version__, notify
from relay.observe import logs
from relay.observe.logs import Shown
from relay.snapshot import Snapshot

log = logs.get("app")

Fields = dict[str, "str | int | float | bool | list[str] | None"]


def reachable(bound: str) -> str:
    """The address as a client on this host would write it: every-interface addresses become loopback."""
    host, _, port = bound.rpartition(":")
    return f"{ {'0.0.0.0': '127.0.0.1', '[::]': '[::1]'}.get(host, host) }:{port}"


def curl(bound: str, key: str, model: str) -> str:
    """A command that streams, ready to paste. It calls this host past all proxies: the demo's key is good here only."""
    body = json.dumps(
        {"model": model, "stream": True, "messages": [{"role": "user", "content": "Hello!"}]}
    )
    return (
        f"curl -N http://{reachable(bound)}/v1/chat/completions "
        f"-H 'Authorization: Bearer {key}' -H 'Content-Type: application/json' -d '{body}'"
    )


def ready_fields(snapshot: Snapshot, listen: str, admin: str, demo_key: str | None) -> Fields:
    """The fields of the `ready` line."""
    config = snapshot.config
    fields: Fields = {
        "listen": listen,
        "admin": admin,
        "version": __version__,
        "config": str(config.path),
        "digest": config.digest[:12],
        "models": list(snapshot.routes),
        "notices": list(config.notices),
    }
    if config.server.public_url is not None:
        fields["public_url"] = config.server.public_url
    if demo_key is not None and snapshot.demo_models:
        fields["demo_key"] = Shown(demo_key)
        fields["demo_models"] = list(snapshot.demo_models)
        fields["curl"] = Shown(curl(listen, demo_key, snapshot.demo_models[0]))
    fields["status_page"] = f"http://{reachable(admin)}/"
    fields["metrics"] = f"http://{reachable(admin)}/metrics"
    return fields


def announce(
    snapshot: Snapshot, listen: str, admin: str, demo_key: str | None, *, human: bool
) -> None:
    """Says once that the relay serves, and where."""
    notify.tell(notify.READY)
    fields = ready_fields(snapshot, listen, admin, demo_key)
    if human:
        sys.stderr.write(welcome(fields) + "\n")
        sys.stderr.flush()
    else:
        log.info("ready", **fields)


def written(host: str, port: int) -> str:
    """An address as it is written in the configuration."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def welcome(fields: Fields) -> str:
    """The same as text."""
    listen, admin = str(fields["listen"]), str(fields["admin"])
    # So that it can be pasted: after `make run` the command is not on the PATH.
    beside = Path(sys.prefix, "bin", "relay")
    me = "relay" if shutil.which("relay") or not beside.exists() else os.path.relpath(beside)
    here = f"http://{reachable(listen)}/v1"
    public = fields.get("public_url")
    lines = [
        "",
        f"  relay {fields['version']} is ready",
        "",
        f"  API         {here if public is None else f'{public}/v1   (here: {here})'}",
        f"  status      http://{reachable(admin)}/",
        f"  metrics     http://{reachable(admin)}/metrics",
        f"  config      {fields['config']}",
    ]
    if "demo_key" in fields:
        models = fields["demo_models"]
        names = ", ".join(models) if isinstance(models, list) else ""
        lines += [
            "",
            f"  demo key    {fields['demo_key']}   (this run only, from this machine only; models: {names})",
            "",
            "  Stream something:",
            "",
            f"    {fields['curl']}",
        ]
    lines += [
        "",
        f"  Next: {me} check · {me} keys new --id my-app --models 'deepseek-*' · {me} schema",
        "",
        "",
    ]
    return "\n".join(lines)
