"""Rules between options: what contradicts itself, and what does not."""

from __future__ import annotations

import pytest

from relay.config.file import ConfigErrors, loads


def faults(text: str) -> list[str]:
    with pytest.raises(ConfigErrors) as caught:
        loads(text.encode(), {})
    return [f"{fault.path}: {fault.message}" for fault in caught.value.faults]


POOLS = "upstreams: {up: {base_url: 'http://x'}, other: {kind: demo}}\n"
STRONG = "sk-0123456789-abcdef"
HASH = "sha256:" + "0" * 64

RULES = {
    "upstreams: {a: {}}": "upstreams.a.base_url: is required",
    "models: {m: {}}": "models.m: needs a pool of upstreams, or a static text",
    "models: {m: {pool: []}}": "models.m.pool: has no upstream",
    POOLS + "models: {m: {static: x, pool: [{upstream: up}]}}": "write either pool or static",
    POOLS + "models: {m: {pool: [{upstream: ohter}]}}": "did you mean 'other'?",
    POOLS + "models: {m: {pool: [{upstream: up}, {upstream: up}]}}": "same upstream and model as",
    POOLS + "models: {m: {pool: [{upstream: up, weight: 0}]}}": "has only weights of 0",
    "models: {m: {static: x, fallback: [n]}, nn: {static: y}}": "there is no model 'n'",
    "models: {m: {static: x, fallback: [m]}}": "leads in a circle: m -> m",
    "models: {a: {static: x, fallback: [b]}, b: {static: x, fallback: [c]}, "
    "c: {static: x, fallback: [b]}}": "models.c.fallback[0]: leads in a circle: b -> c -> b",
    "keys: [{id: a}, {id: a}]": "keys[1].id: 'a' is already the id of keys[0]",
    f"keys: [{{id: a, key: {STRONG}, hash: '{HASH}'}}]": "write either key or hash",
    f"keys: [{{id: a, hash: '{HASH}'}}, {{id: b, hash: '{HASH}'}}]": "keys[1].hash: is the same key",
    f"keys: [{{id: a, key: {STRONG}}}, {{id: b, key: {STRONG}}}]": "is the same key as that of keys[0]",
    "keys: [{id: a, group: team}]": "there is no group 'team'",
    "keys: [{id: a, limits: {models: {n: {rpm: 1}}}}]": "keys[0].limits.models.n: there is no model",
    "models: {nn: {static: x}}\ngroups: {g: {limits: {models: {n: {rpm: 1}}}}}": "did you mean 'nn'?",
    "keys: [{id: a, key: change-me-before-use}]": "is a placeholder",
    "keys: [{id: a, key: sk-your-api-key-here}]": "is a placeholder",
    "keys: [{id: a, key: sk-xxxxxxxxxxxxxxxxxxxx}]": "is a placeholder",
    "upstreams: {a: {base_url: 'http://x', api_keys: [YOUR_HOLYSHEEP_API_KEY]}}": "is a placeholder",
    "admin: {listen: '0.0.0.0:8081'}": "admin.listen: is open to other hosts: set admin.token",
    "admin: {listen: '[::]:8081'}": "set admin.token",
    "admin: {listen: '0.0.0.0:8081', token: short}": "admin.token: is shorter than 16",
    "server: {listen: '127.0.0.1:8081'}": "is also server.listen",
}


@pytest.mark.parametrize("text", RULES)
def test_options_that_contradict_each_other_are_a_fault(text: str) -> None:
    told = faults(text)

    assert len(told) == 1, told
    assert RULES[text] in told[0]


@pytest.mark.parametrize(
    "text",
    [
        f"admin: {{listen: '0.0.0.0:8081', token: {STRONG}}}",
        "admin: {listen: 'localhost:8081'}",
        "admin: {listen: '[::1]:0'}\nserver: {listen: '[::1]:0'}",
        POOLS
        + "models: {m: {pool: [{upstream: up, model: a}, {upstream: up, model: b, weight: 0}]}}",
        "models: {a: {static: x, fallback: [b, c]}, b: {static: x, fallback: [c]}, c: {static: x}}",
        "keys: [{id: a, key: ''}, {id: b, key: ''}]",
    ],
)
def test_options_that_agree_are_none(text: str) -> None:
    loads(text.encode(), {})
