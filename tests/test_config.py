"""The configuration as a document: the reference file, the schema, rules between options, notices."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from ipaddress import ip_network
from pathlib import Path
from textwrap import dedent
from typing import Any, NamedTuple

import pytest
import yaml  # noqa: TID251  the reference is looked at as a document
from pydantic.fields import FieldInfo

from relay.config.file import ConfigErrors, loads
from relay.config.model import Config
from relay.config.schema import render, schema
from relay.config.types import Section
from relay.config.upstreams import Probe
from relay.config.values import Listen, read_public_url

ROOT = Path(__file__).resolve().parents[1]
SHIPPED = (ROOT / "config.yaml").read_text("utf-8")
LIVE = {
    "HOLYSHEEP_API_KEY": "sk-from-the-provider",
    "HOLYSHEEP_BASE_URL": "https://other.example/v1/",
    "RELAY_API_KEY": "sk-0123456789-client",
    "MAX_CONCURRENT": "7",
    "RATE_LIMIT": "60",
    "QUOTA_STORE": "embedded",
}


def read(text: str, env: Mapping[str, str] | None = None) -> Config:
    return loads(dedent(text).encode(), env or {}, Path("config.yaml"))


def faults(text: str) -> list[str]:
    with pytest.raises(ConfigErrors) as caught:
        read(text)
    return [f"{fault.path}: {fault.message}" for fault in caught.value.faults]


# --- the reference file ---------------------------------------------------------------------------


def everything() -> str:
    """The shipped file with every option that is commented out switched on."""
    option = r"^( *)# (?!yaml-)( *(?:- )?[A-Za-z0-9_.-]+:(?: .*)?)$"
    return re.sub(option, r"\1\2", SHIPPED, flags=re.MULTILINE)


class Mention(NamedTuple):
    """The first place in the file where an option of a section stands."""

    section: type[Section]
    name: str
    value: Any
    line: int

    @property
    def field(self) -> FieldInfo:
        return self.section.model_fields[self.name]


def mentions() -> list[Mention]:
    found: dict[tuple[type[Section], str], Mention] = {}

    def walk(node: yaml.Node, value: Any) -> None:
        if isinstance(node, yaml.MappingNode):
            for name_node, child in node.value:
                name = name_node.value
                if isinstance(value, Section):
                    inner, line = getattr(value, name), name_node.start_mark.line
                    mention = Mention(type(value), name, inner, line)
                    found.setdefault((type(value), name), mention)
                else:
                    inner = value[name]
                walk(child, inner)
        elif isinstance(node, yaml.SequenceNode) and value and isinstance(value[0], Section):
            for child, inner in zip(node.value, value, strict=True):
                walk(child, inner)

    root = yaml.compose(everything(), Loader=yaml.SafeLoader)
    assert root is not None
    walk(root, read_everything())
    return list(found.values())


def read_everything() -> Config:
    text = everything().replace("./company-ca.pem", str(ROOT / "LICENSE"))
    # An empty file, which is a key file without keys.
    text = text.replace("./keys.jsonl", str(ROOT / "relay" / "py.typed"))
    return read(text, {"RELAY_ADMIN_TOKEN": "a-token-of-the-admin"})


def sections(base: type[Section] = Section) -> Iterator[type[Section]]:
    for section in base.__subclasses__():
        yield section
        yield from sections(section)


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("https://Relay.Example.com/", "https://relay.example.com"),
        ("http://10.0.0.7:8080/Team/relay/", "http://10.0.0.7:8080/Team/relay"),
        ("http://[::1]:8080", "http://[::1]:8080"),
    ],
)
def test_a_public_address_is_an_origin_and_perhaps_a_path(written: str, read: str) -> None:
    assert read_public_url(written) == read


def test_a_public_address_with_a_credential_is_refused_and_not_repeated() -> None:
    with pytest.raises(ValueError, match="holds a credential") as refused:
        read_public_url("https://admin:hunter2@relay.example.com")

    assert "hunter2" not in str(refused.value)


def test_the_shipped_file_begins_with_the_line_that_gives_editors_the_schema() -> None:
    first = SHIPPED.splitlines()[0]

    assert first == "# yaml-language-server: $schema=docs/config.schema.json"
    assert (ROOT / "docs" / "config.schema.json").is_file()


def test_the_shipped_file_serves_the_demo_without_any_variable() -> None:
    config = read(SHIPPED)

    assert [*config.active_upstreams] == ["demo"]
    assert [key.digest for key in config.keys if key.digest] == []
    assert any("deepseek-chat is served by the demo" in notice for notice in config.notices)


def test_the_shipped_file_serves_the_provider_when_its_variables_are_set() -> None:
    config = read(SHIPPED, LIVE)

    upstream = config.active_upstreams["holysheep"]
    (key,) = [key for key in config.keys if key.digest is not None]
    assert [one.get_secret_value() for one in upstream.api_keys] == ["sk-from-the-provider"]
    assert upstream.base_url == "https://other.example/v1"
    assert upstream.max_concurrent == 7
    assert key.limits.rpm == 60
    assert not any("demo" in notice or "left out" in notice for notice in config.notices)


def test_every_option_stands_in_the_shipped_file() -> None:
    # The base of sections that share options (a price's) counts as its heirs.
    mentioned = {(base, one.name) for one in mentions() for base in one.section.__mro__}

    missing = {
        f"{section.__name__}.{name}"
        for section in sections()
        for name in section.model_fields
        if (section, name) not in mentioned
    }

    assert not missing


def test_every_option_stands_there_with_its_default_or_says_what_that_is() -> None:
    def has_sections(value: Any) -> bool:
        inner = [*value.values()] if isinstance(value, dict) else value
        return bool(inner) and isinstance(inner, list) and isinstance(inner[0], Section)

    wrong = [
        f"{one.section.__name__}.{one.name}"
        for one in mentions()
        if one.value != one.field.default
        and not isinstance(one.value, Section)
        and not has_sections(one.value)
        and not re.search(r"\((?:default: .*|required.*)\)", one.field.description or "")
    ]

    assert not wrong


def test_every_option_is_explained_in_the_words_of_its_description() -> None:
    lines = SHIPPED.splitlines()

    wrong = [
        f"line {one.line + 1}: {one.section.__name__}.{one.name}"
        for one in mentions()
        if not lines[one.line].endswith(f"# {one.field.description}")
        and lines[one.line - 1].strip() != f"# {one.field.description}"
    ]

    assert not wrong


def test_every_option_has_a_description() -> None:
    silent = [
        f"{section.__name__}.{name}"
        for section in sections()
        for name, field in section.model_fields.items()
        if not field.description
    ]

    assert not silent


def test_the_schema_in_the_repository_is_the_one_of_the_code() -> None:
    committed = (ROOT / "docs" / "config.schema.json").read_text("utf-8")

    assert committed == render(), "run: relay schema > docs/config.schema.json"


def test_the_schema_lets_a_variable_stand_for_a_number_and_shows_defaults_as_written() -> None:
    made = schema()["$defs"]

    rpm, drain = made["Limits"]["properties"]["rpm"], made["Drain"]["properties"]["timeout"]
    assert [*rpm["anyOf"][0]] == ["maximum", "minimum", "type"]
    assert rpm["anyOf"][1] == {"$ref": "#/$defs/Variable"}
    assert drain["default"] == "10m"


# --- values ---------------------------------------------------------------------------------------


def test_an_empty_file_means_the_defaults_of_the_design() -> None:
    config = read("")

    server = config.server
    assert (server.listen, config.admin.listen) == (
        Listen("0.0.0.0", 8080),
        Listen("127.0.0.1", 8081),
    )
    assert (server.workers, server.max_body) == ("auto", 32 * 1024 * 1024)
    assert server.max_connections == "auto"
    assert server.trusted_proxies == [ip_network("127.0.0.1/32")]
    assert (server.drain.delay, server.drain.timeout) == (0, 600)
    assert config.observability.slow_first_token == 0.8
    assert (config.on_store_failure.rates, config.on_store_failure.budgets) == ("open", "closed")


def test_an_option_without_a_value_counts_as_not_written() -> None:
    config = read("server:\n  # listen: x\ngroups:\nmodels: {m: {static: x, price: }}\n")

    assert config.model_dump() == read("models: {m: {static: x}}\n").model_dump()


@pytest.mark.parametrize(
    ("option", "written", "value"),
    [
        ("server.listen", "':8080'", Listen("0.0.0.0", 8080)),
        ("server.listen", "'[::1]:0'", Listen("::1", 0)),
        ("server.listen", "localhost:80", Listen("localhost", 80)),
        ("server.max_body", "64KiB", 65536),
        ("server.max_body", "1000", 1000),
        ("server.workers", "3", 3),
        ("server.max_connections", "auto", "auto"),
        ("server.max_connections", "5000", 5000),
        ("server.timeouts.header", "250ms", 0.25),
        ("server.timeouts.header", "1h30m", 5400.0),
        ("server.drain.delay", "0", 0.0),
        ("observability.slow_first_token", "1.5s", 1.5),
    ],
)
def test_values_are_read_as_an_admin_means_them(option: str, written: str, value: object) -> None:
    *path, name = option.split(".")
    text = "".join(f"{part}: {{" for part in path) + f"{name}: {written}" + "}" * len(path)

    found: Any = read(text)
    for part in (*path, name):
        found = getattr(found, part)

    assert found == value
    assert type(found) is type(value)


def test_an_upstream_is_asked_itself_only_if_that_is_wanted() -> None:
    config = read(
        """
        upstreams:
          off: {base_url: 'http://x'}
          on: {base_url: 'http://x', probe: {}}
          own: {base_url: 'http://x', probe: {interval: 1s, path: /v2/health}}
        """
    )

    probes = {name: upstream.probe for name, upstream in config.upstreams.items()}

    assert probes == {
        "off": None,
        "on": Probe(),
        "own": Probe.model_validate({"interval": "1s", "path": "/v2/health"}),
    }


@pytest.mark.parametrize(
    "written",
    [
        *(
            "server: {listen: '0.0.0.0'}",
            "server: {listen: 'a:99999'}",
            "server: {listen: '[x]:1'}",
        ),
        *("server: {max_body: 0}", "server: {max_body: 1.5MiB}", "server: {workers: 0}"),
        *("server: {workers: true}", "server: {timeouts: {header: 5}}"),
        *("server: {max_connections: 0}", "server: {max_connections: many}"),
        *("server: {timeouts: {header: -5s}}", "server: {timeouts: {header: 0s}}"),
        *("server: {public_url: relay.example.com}", "server: {public_url: 'ftp://x'}"),
        *("server: {public_url: 'https://x/?q'}", "server: {public_url: 'https://x/a/../b'}"),
        *("server: {public_url: 'https://x:0'}", "server: {public_url: 'https://x:99999'}"),
        *("server: {public_url: 'https://x;y'}", 'server: {public_url: "https://x/a\'b"}'),
        *("server: {public_url: 'https://u:p@x'}", "server: {public_url: 'https://x/v1'}"),
        *(
            "server: {cors: {allow_origins: [example.com]}}",
            "server: {trusted_proxies: [10.0.0.1/8]}",
        ),
        *("models: {m: {static: x, retry: {budget: 101%}}}", "models: {m: {static: 5}}"),
        *(
            "models: {m: {static: x, max_output: 1.0}}",
            "models: {m: {static: x, max_output: true}}",
        ),
        *(
            "models: {m: {static: x, price: {input: .nan, output: 1}}}",
            "models: {a b: {static: x}}",
        ),
        *("keys: [{id: a, expires: 2030-02-30}]", "keys: [{id: a, hash: 'sha256:12'}]"),
        *(
            "keys: [{id: a b}]",
            "keys: [{id: a, limits: {rpm: 0}}]",
            "keys: [{id: a, models: ['']}]",
        ),
        *(
            "keys: [{id: a, limits: {usd_per_day: .inf}}]",
            "keys: [{id: a, key: 1234567890123456789}]",
        ),
        *(
            "keys: [{id: a, key: a-key-with-ümlauts}]",
            "quota_store: postgres://x",
            "key_files: ['']",
        ),
        *("upstreams: {a: {base_url: 'ftp://x'}}", "upstreams: {a: {base_url: 'http://u:p@x'}}"),
        *("upstreams: {a: {base_url: 'http://x/?q'}}", "upstreams: {a: {base_url: 'http://[::1'}}"),
        "upstreams: {a: {base_url: 'http://x', api_keys: ['a b']}}",
        "upstreams: {a: {base_url: 'http://x', ca_file: nowhere.pem}}",
        "upstreams: {a: {base_url: 'http://x', probe: {interval: 999ms}}}",
        "upstreams: {a: {base_url: 'http://x', probe: {path: models}}}",
        "upstreams: {a: {base_url: 'http://x', probe: {path: /a/../admin}}}",
        "upstreams: {a: {base_url: 'http://x', probe: {path: '/models?key=1'}}}",
        "upstreams: {a: {base_url: 'http://x', probe: 5}}",
    ],
)
def test_a_value_that_cannot_be_meant_is_one_fault(written: str) -> None:
    assert len(faults(written)) == 1


@pytest.mark.parametrize("value", ["true", "false"])
def test_logged_contents_are_no_switch_but_a_list_of_keys(value: str) -> None:
    (fault,) = faults(f"observability: {{log_content: {value}}}")

    said = "must be a list of key ids, such as [my-app], or [] for none"
    assert fault.startswith(f"observability.log_content: {said}")
