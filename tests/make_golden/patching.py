"""Recorded numbers in the place of random ones, while a case's code of the release runs."""

import contextlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any
from unittest import mock

import torch


@contextlib.contextmanager
def draws(name: str, values: Iterable[torch.Tensor]) -> Iterator[None]:
    """torch.NAME gives these tensors, one a call, whatever is asked for; all must be taken."""
    left = iter(values)
    with mock.patch.object(torch, name, lambda *args, **kwargs: next(left)):
        yield
    assert next(left, None) is None, f"fewer draws of torch.{name} than recorded"


def recorded(function: Callable, into: list[Any]) -> Callable:
    """The function, its results appended to a list."""

    def run(*args: Any, **kwargs: Any) -> Any:
        into.append(function(*args, **kwargs))
        return into[-1]

    return run
