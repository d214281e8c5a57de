"""Whose request it is."""

from __future__ import annotations


class Connection:
    """`lost` turns true when the client hangs up; read by the threads that answer."""

    __slots__ = ("lost",)

    def __init__(self) -> None:
        self.lost = False
