"""Which bundles lie under an address, the one written last first.

    gs://bucket/prefix    the bucket's own list (Cloud Storage's JSON API, objects.list)
    https:// http://      the page that a web server makes of a folder, and each bundle.json's Last-Modified

A bundle's bundle.json is written last, so that one which is there has all that it names beside it.
"""

from __future__ import annotations

import re
from datetime import datetime
from email.utils import parsedate_to_datetime
from html.parser import HTMLParser
from urllib.parse import quote, unquote, urljoin

import httpx

from proj.errors import Unreachable
from proj.fetch.download import shown, web_url

MOST_PAGES = 50  # of a thousand objects each
MOST_FOLDERS = 50  # of a web page, those that it names last: each is asked for its date


def newest_first(base: str, *, timeout_s: float, advice: str) -> list[str]:
    """Addresses of the folders directly under `base` that hold a bundle.json, or a bundle/ with one.

    Empty where there is none, or the server makes no lists. Raises Unreachable.
    """
    try:
        with httpx.Client(follow_redirects=True, headers={"User-Agent": "proj"}, timeout=timeout_s) as client:
            found = _in_bucket(client, base, advice) if base.startswith("gs://") else _on_web(client, base)
    except (httpx.HTTPError, httpx.InvalidURL) as e:
        raise Unreachable(f"{shown(base)} cannot be listed", found=str(e) or type(e).__name__, next=advice) from None
    return [address for _, address in sorted(found, reverse=True)]


def _in_bucket(client: httpx.Client, base: str, advice: str) -> list[tuple[str, str]]:
    """Times (ISO 8601, as the API gives them) and addresses."""
    bucket, _, prefix = base.removeprefix("gs://").partition("/")
    prefix = f"{prefix.strip('/')}/" if prefix else ""
    wanted = re.compile(re.escape(prefix) + r"([^/]+(/bundle)?)/bundle\.json")
    api = web_url("gs://").rstrip("/") + f"/storage/v1/b/{quote(bucket, safe='')}/o"
    query = {"prefix": prefix, "fields": "items(name,updated),nextPageToken", "maxResults": "1000"}
    found: list[tuple[str, str]] = []
    for _ in range(MOST_PAGES):
        answer = client.get(api, params=query)
        if answer.status_code in {401, 403}:
            raise Unreachable(
                f"{base} may not be listed", found=f"the server answers {answer.status_code}", next=advice
            )
        said = _json(answer)
        for item in said.get("items") or []:
            if match := wanted.fullmatch(str(item.get("name", ""))):
                found.append((str(item.get("updated", "")), f"gs://{bucket}/{prefix}{match[1]}"))
        if not said.get("nextPageToken"):
            break
        query["pageToken"] = str(said["nextPageToken"])
    return found


def _json(answer: httpx.Response) -> dict[str, list[dict[str, object]]]:
    try:
        said = answer.json() if answer.status_code == 200 else {}
    except ValueError:
        said = {}
    return said if isinstance(said, dict) else {}


def _on_web(client: httpx.Client, base: str) -> list[tuple[datetime, str]]:
    page = client.get(f"{base}/")
    if page.status_code != 200 or "html" not in page.headers.get("content-type", ""):
        return []
    found = []
    for folder in _links(page.text, f"{base}/")[-MOST_FOLDERS:]:
        for address in (folder, f"{folder}/bundle"):
            answer = client.head(f"{address}/bundle.json")
            if answer.status_code == 200:
                found.append((_date(answer.headers.get("last-modified", "")), address))
                break
    return found


def _date(text: str) -> datetime:
    try:
        return parsedate_to_datetime(text)
    except ValueError:  # without a date, or a strange one: the oldest
        return parsedate_to_datetime("Thu, 01 Jan 1970 00:00:00 GMT")


def _links(page: str, base: str) -> list[str]:
    """The folders directly below `base` that a page links to, in its order, without their last slash."""
    hrefs: list[str] = []

    class Links(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            hrefs.extend(value for name, value in attrs if tag == "a" and name == "href" and value)

    Links().feed(page)
    below = [urljoin(base, href) for href in hrefs]
    names = [url.removeprefix(base).removesuffix("/") for url in below if url.startswith(base) and url.endswith("/")]
    return [
        base + name for name in dict.fromkeys(names) if name and unquote(name) not in {".", ".."} and "/" not in name
    ]
