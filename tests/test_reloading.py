"""Noticing a new configuration: edits, links, files half written or gone; by the clock, on real files."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.task import Clock
from twisted.logger import formatEvent, globalLogPublisher

from ccrelay.reloading import WATCH_SECONDS, Reloads, Watch, look


class Watched:
    """A file under watch. ``changes``: how often it was said to be another one."""

    def __init__(self, path: Path, in_thread: Callable[..., Deferred[Any]] = maybeDeferred) -> None:
        self.clock = Clock()
        self.path = path
        self.changes = 0
        self.watch = Watch(self.clock, str(path), self._changed, in_thread)
        self.watch.start(look(str(path)))

    def _changed(self) -> None:
        self.changes += 1

    def looks(self, count: int) -> int:
        """The changes told after so many more looks at the file."""
        for _ in range(count):
            self.clock.advance(WATCH_SECONDS)
        return self.changes


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "relay.yaml"
    path.write_text("one")
    return path


def test_a_file_that_stays_is_no_news(file: Path) -> None:
    watched = Watched(file)
    assert watched.looks(5) == 0
    os.utime(file, ns=(0, file.stat().st_mtime_ns))  # somebody has read it
    assert watched.looks(5) == 0


def test_an_edit_is_told_once_after_the_file_has_settled(file: Path) -> None:
    watched = Watched(file)
    file.write_text("another")
    assert watched.looks(1) == 0
    assert watched.looks(5) == 1


def test_a_file_being_written_is_waited_for(file: Path) -> None:
    watched = Watched(file)
    for length in range(4, 9):
        file.write_text("x" * length)
        assert watched.looks(1) == 0
    assert watched.looks(1) == 1


def test_a_change_before_the_first_look_is_seen(file: Path) -> None:
    clock, told = Clock(), []
    watch = Watch(clock, str(file), lambda: told.append(1), maybeDeferred)
    before = look(str(file))
    file.write_text("while the daemon was starting")
    watch.start(before)
    for _ in range(3):
        clock.advance(WATCH_SECONDS)
    assert told == [1]


def test_a_file_that_was_read_meanwhile_is_no_news(file: Path) -> None:
    watched = Watched(file)
    file.write_text("another")
    watched.watch.read(look(str(file)))
    assert watched.looks(5) == 0


def test_a_swapped_link_is_a_change_wherever_it_stands_in_the_path(tmp_path: Path) -> None:
    """As a Kubernetes volume does it: the file's link leads through a folder's, which is replaced."""
    for version in ("v1", "v2"):
        (tmp_path / version).mkdir()
        (tmp_path / version / "relay.yaml").write_text("same length")
    (tmp_path / "..data").symlink_to("v1")
    (tmp_path / "relay.yaml").symlink_to("..data/relay.yaml")
    watched = Watched(tmp_path / "relay.yaml")
    (tmp_path / "next").symlink_to("v2")
    (tmp_path / "next").replace(tmp_path / "..data")
    assert watched.looks(3) == 1


def test_a_file_that_goes_is_waited_for_and_news_only_as_another_one(file: Path) -> None:
    watched = Watched(file)
    kept = file.rename(file.with_name("kept"))
    assert watched.looks(3) == 0
    kept.rename(file)
    assert watched.looks(3) == 0
    file.unlink()
    watched.looks(2)
    file.write_text("another")
    assert watched.looks(3) == 1


def test_one_look_at_a_time_and_none_after_the_end(file: Path) -> None:
    asked: list[Deferred[Any]] = []

    def slow(*_: object) -> Deferred[Any]:
        asked.append(Deferred())
        return asked[-1]

    watched = Watched(file, slow)
    watched.looks(5)
    assert len(asked) == 1
    watched.watch.stop()
    asked[0].callback((1, 2, 3, 4))
    assert (watched.looks(5), len(asked), watched.clock.getDelayedCalls()) == (0, 1, [])


def test_a_look_that_goes_wrong_is_told_and_not_the_last(file: Path) -> None:
    fails = [RuntimeError("no thread")]

    def in_thread(work: Callable[..., Any], *arguments: Any) -> Deferred[Any]:
        def run() -> Any:
            if fails:
                raise fails.pop()
            return work(*arguments)

        return maybeDeferred(run)

    said: list[str] = []
    observer: Any = lambda event: said.append(formatEvent(event))  # noqa: E731
    watched = Watched(file, in_thread)
    file.write_text("another")
    globalLogPublisher.addObserver(observer)
    try:
        assert watched.looks(4) == 1
    finally:
        globalLogPublisher.removeObserver(observer)
    assert any("could not look" in line for line in said)


def test_stopping_before_the_start_and_twice_is_harmless(file: Path) -> None:
    watch = Watch(Clock(), str(file), lambda: None, maybeDeferred)
    watch.stop()
    watch.start(None)
    watch.stop()
    watch.stop()


def test_the_count_of_reloads_keeps_the_last_error_until_one_succeeds() -> None:
    reloads = Reloads()
    reloads.failed(1.0, "bad")
    reloads.failed(2.0, "worse")
    assert reloads == Reloads(0, 2, 2.0, "worse")
    reloads.succeeded(3.0)
    assert reloads == Reloads(1, 2, 3.0, None)
