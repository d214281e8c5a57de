"""Whose request it is."""

from __future__ import annotations


class HungUp(Exception):
    """The client is gone: nobody reads an answer."""


class Connection:
    """`lost` turns true when the client hangs up; read by the threads that answer."""

    __slots__ = ("lost",)

    def __init__(self) -> None:
        self.lost = False
