"""The look-up of paths: every spelling that is served, and that no other reaches anything."""

from __future__ import annotations

import pytest

from relay.operations import OPERATIONS, Kind, find


@pytest.mark.parametrize(
    "path",
    [
        "/v1/chat/completions",
        "/chat/completions",
        "/beta/chat/completions",
        "//v1//chat///completions",
        "//chat/completions",
    ],
)
def test_chat_completions_are_found_under_every_base_url_an_app_may_have(path: str) -> None:
    found = find(path)

    assert found is not None
    assert found.operation.name == "chat_completions"
    assert found.operation.kind == Kind.CHAT
    assert found.operation.methods == ("POST",)
    assert found.tail is None


@pytest.mark.parametrize("path", ["/v1/models", "/models", "//v1/models"])
def test_the_list_of_models_names_no_model(path: str) -> None:
    found = find(path)

    assert found is not None
    assert found.operation.name == "models"
    assert found.tail is None


@pytest.mark.parametrize(
    ("path", "model"),
    [
        ("/v1/models/deepseek-chat", "deepseek-chat"),
        ("/models/deepseek-chat", "deepseek-chat"),
        ("/v1/models/deepseek-ai/DeepSeek-V3", "deepseek-ai/DeepSeek-V3"),
        ("/v1//models//a//b", "a/b"),
        ("/v1/models/a%2Fb", "a%2Fb"),
        ("/v1/models/gpt-4o/", "gpt-4o/"),
    ],
)
def test_a_models_name_is_the_rest_of_the_path_undecoded(path: str, model: str) -> None:
    found = find(path)

    assert found is not None
    assert found.operation.kind == Kind.MODELS
    assert found.tail == model


@pytest.mark.parametrize("name", ["livez", "readyz"])
def test_health_is_an_operation_of_its_own(name: str) -> None:
    found = find("/" + name)

    assert found is not None
    assert found.operation.name == name
    assert found.operation.kind == Kind.HEALTH


@pytest.mark.parametrize(
    "path",
    [
        "",
        "/",
        "*",
        "/v1",
        "/v1/chat/completions/",
        "/V1/chat/completions",
        "/v1/chat/completions;x",
        "/v1/chat/completions#x",
        "/v1/chat/completions%20",
        "/v1/%63hat/completions",
        "/v1/../v1/chat/completions",
        "/v1\\chat\\completions",
        "v1/chat/completions",
        "/v1/models/",
        "/v1/modelsx",
        "/metrics",
        "/livez/",
        "http://evil/v1/chat/completions",
        "/v1/completions",
    ],
)
def test_no_other_spelling_reaches_anything(path: str) -> None:
    assert find(path) is None


def test_a_path_leads_to_one_operation_only() -> None:
    paths = [path for row in OPERATIONS for path in row.paths]

    assert len(paths) == len(set(paths))
