"""Tests of several files run at once (`make test`), but those that measure time, which have the machine to themselves.

The processes of a run take turns by locks on two files: whoever enters goes through the door, and many are in the room
together. A test marked `alone` keeps the door shut, waits until the room is empty, and opens it when it is done; so it
waits for nobody who came after it.
"""

from __future__ import annotations

import fcntl
import os
import sys
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from tests.page.browser import Chromium

FOLDER = "RELAY_TESTS_TURNS"
"""The variable by which the first process of a run tells the others where the files are."""


def pytest_configure(config: pytest.Config) -> None:
    if FOLDER not in os.environ:
        folder = TemporaryDirectory(prefix="relay-tests-")
        os.environ[FOLDER] = folder.name
        config.add_cleanup(folder.cleanup)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    with _turn(alone=item.get_closest_marker("alone") is not None):
        return (yield)


@contextmanager
def _turn(*, alone: bool) -> Iterator[None]:
    with (
        _locked("door", fcntl.LOCK_EX) as door,
        _locked("room", fcntl.LOCK_EX if alone else fcntl.LOCK_SH),
    ):
        if not alone:
            fcntl.flock(door, fcntl.LOCK_UN)
        yield


@contextmanager
def _locked(name: str, way: int) -> Iterator[int]:
    file = os.open(Path(os.environ[FOLDER]) / name, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(file, way)
        yield file
    finally:
        os.close(file)


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Which test failed is told at once: of a run that somebody ends, or that hangs, it is all there is."""
    if report.failed and "PYTEST_XDIST_WORKER" not in os.environ:
        sys.stdout.write(f"\n{report.outcome}: {report.nodeid}, {report.when}\n")


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chromium]:
    """One browser program for the tests of a file; each opens windows of its own."""
    with Chromium(tmp_path_factory.mktemp("chromium")) as started:
        yield started
