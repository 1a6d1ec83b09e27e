"""Taking fields out of the inside of a request body, by the paths that ``core.pairs`` speaks of."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from ccrelay.core.json_spans import Span, Walker, refuse_crowded, remove, text_of
from ccrelay.core.model import Edit
from ccrelay.errors import MalformedBody

Paths = dict[str, Any]
"""Paths as a tree: each name with the tree below it; an empty one ends a path."""


def nested_edits(body: bytes, paths: Collection[str]) -> tuple[Edit, ...]:
    """The edits that take the members at ``paths`` out of ``body``; none where there is nothing to take out.

    body: a complete one. paths: dotted, of two names or more; an array stands for each of its elements. The result is
    sorted and disjoint, and what it leaves is valid JSON. Raises MalformedBody if the body is not JSON, nested too deep
    or crowded.
    """
    wanted = [path for path in paths if b'"%s"' % path.rpartition(".")[2].encode("ascii") in body]
    if not wanted:  # nearly always, and a search costs a hundredth of a walk
        return ()
    tree: Paths = {}
    for path in wanted:
        if not any(path.startswith(shorter + ".") for shorter in wanted):
            place = tree
            for name in path.split("."):
                place = place.setdefault(name, {})
    refuse_crowded(body)
    edits: list[Edit] = []
    try:
        _visit(Walker(text_of(body)), tree, edits)
    except RecursionError:
        raise MalformedBody("The request body is nested too deep to be read") from None
    return tuple(sorted(edits, key=lambda edit: edit.start))


def _visit(walker: Walker, tree: Paths, edits: list[Edit]) -> None:
    """Step over the value ahead; what ``tree`` names in it joins ``edits``."""
    if walker.first == "[":
        for _ in walker.elements():
            _visit(walker, tree, edits)
    elif walker.first == "{":
        _visit_object(walker, tree, edits)
    else:
        walker.value()


def _visit_object(walker: Walker, tree: Paths, edits: list[Edit]) -> None:
    spans: list[Span] = []
    doomed: set[int] = set()
    for name, start in walker.members():
        below = tree.get(name)
        if below:
            _visit(walker, below, edits)
        else:
            walker.value()
            if below is not None:
                doomed.add(len(spans))
        spans.append((start, walker.position))
    edits.extend(remove(spans, doomed))
