"""Data sets of Kaggle, by its own client."""

from __future__ import annotations

import contextlib
import errno
import sys
from functools import partial
from pathlib import Path
from typing import Any

from proj.errors import DataError, MissingExtra, Unreachable, disk_error
from proj.fetch import download
from proj.fetch.hub import ADD_EXTRA

ACCOUNT = (401, 403)  # also Kaggle's answer to a data set that is private or not there


def page(repo: str) -> str:
    """Where a browser gets the data set."""
    return f"https://www.kaggle.com/datasets/{repo}"


def snapshot(repo: str, version: str | None, inside: str, timeout_s: float, advice: str) -> Path:
    """The folder, in Kaggle's own cache, that holds the data set `repo`; or the file `inside` of it, when given.

    KAGGLE_API_TOKEN, ~/.kaggle and KAGGLEHUB_CACHE are honoured; a public data set needs no account. Raises
    MissingExtra, DataError (no such data set or file), Unreachable (no answer, or an account is asked for).
    """
    called = f"kaggle://{repo}" + (f"@{version}" if version else "")
    by_hand = f"get it in a browser: {page(repo)}; {advice}"
    # The client prints to stdout, which is for data.
    with contextlib.redirect_stdout(sys.stderr):
        try:
            import kagglehub
            from kagglesdk import kaggle_env  # type: ignore[import-untyped]
        except ImportError:
            raise MissingExtra("Kaggle's client is not installed", found=f"{called} needs it", next=ADD_EXTRA) from None
        endpoint = kaggle_env.get_endpoint(kaggle_env.get_env())
        # The client itself has no time limit.
        if why := download.answers(endpoint, timeout_s / 2):
            raise Unreachable(f"{called} cannot be fetched from {endpoint}", found=why, next=by_hand)
        _quiet(kagglehub)
        try:
            handle = f"{repo}/versions/{version}" if version else repo
            return Path(kagglehub.dataset_download(handle, path=inside or None))
        except Exception as e:  # the client's, its HTTP library's and zipfile's
            raise _said(e, called, endpoint, by_hand) from None


def _quiet(kagglehub: Any) -> None:
    """No moving bar where there is no terminal, and no lines beside our own."""
    import logging

    from tqdm import tqdm

    logging.getLogger("kagglehub").setLevel(logging.WARNING)
    kagglehub.clients.tqdm = partial(tqdm, disable=None)


def _said(e: Exception, called: str, endpoint: str, by_hand: str) -> Exception:
    """What the client's error means."""
    reason = next(iter(str(e).strip().splitlines()), "") or type(e).__name__
    status = getattr(getattr(e, "response", None), "status_code", None)
    if status == 404:
        return DataError(f"{called} is not there", found=reason, next=by_hand)
    if status in ACCOUNT or type(e).__name__ == "UnauthenticatedError":
        return Unreachable(
            f"{called} cannot be fetched without a Kaggle account that may see it",
            found=reason,
            next=f"put the account's token into KAGGLE_API_TOKEN, or {by_hand}",
        )
    if isinstance(e, OSError) and e.errno in {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES}:
        return disk_error(e, f"{called} cannot be saved")
    return Unreachable(f"{called} cannot be fetched from {endpoint}", found=reason, next=by_hand)
