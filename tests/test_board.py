"""What the processes of one relay share: numbers, and bytes that are whole or the ones before."""

from __future__ import annotations

import os
import socket

import pytest

from relay.config.values import Listen
from relay.workers import sockets
from relay.workers.board import Board


def test_a_child_sees_what_its_parent_writes_and_the_parent_what_the_child_writes() -> None:
    board = Board(2)
    board.runs(1, 77)
    board.restarted()

    pid = os.fork()
    if not pid:
        fine = board.pids() == [0, 77] and board.restarts == 1 and board.accepted() is None
        board.accept(b"from the child" * 10_000)
        board.announce()
        os._exit(0 if fine else 1)
    _, status = os.waitpid(pid, 0)

    assert status == 0
    assert board.accepted() == b"from the child" * 10_000
    assert board.announced


def test_what_is_kept_is_the_latest_and_may_be_shorter() -> None:
    board = Board(1)
    for content in (b"first", b"the second", b"3", b""):
        board.accept(content)

        assert board.accepted() == content
    assert board.counted() is None


def test_a_port_of_workers_is_not_shared_with_another_relay() -> None:
    places = sockets.reserve(Listen("127.0.0.1", 0))
    mine = [sockets.worker_listeners(places)[0] for _ in range(2)]
    port = places[0][1][1]
    try:
        with pytest.raises(sockets.NoPort, match=rf"127\.0\.0\.1:{port}: address already in use"):
            sockets.reserve(Listen("127.0.0.1", port))
    finally:
        for each in mine:
            each.close()


def test_a_host_that_does_not_exist_is_told() -> None:
    with pytest.raises(sockets.NoPort, match=r"cannot listen on nowhere\.invalid:1"):
        sockets.reserve(Listen("nowhere.invalid", 1))


def test_both_families_of_a_name_are_listened_on() -> None:
    places = sockets.reserve(Listen("", 0))

    assert {family for family, _ in places} <= {socket.AF_INET, socket.AF_INET6}
    assert places
