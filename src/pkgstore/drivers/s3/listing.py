"""Listings, parsed by the C parser of the standard library."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, TypeAlias
from urllib.parse import unquote
from xml.etree import ElementTree
from xml.parsers import expat

from pkgstore.driver import MediumError
from pkgstore.errors import Misconfigured, Unavailable

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from email.message import Message

    from pkgstore.drivers.s3.bucket import Bucket

    Object: TypeAlias = tuple[str, int, float, str]


def objects(bucket: Bucket, prefix: str) -> Iterator[Object]:
    """Yield (key, size in bytes, mtime, ETag) of the objects below ``prefix``, as the endpoint sorts them."""
    query = {"list-type": "2", "prefix": prefix, "encoding-type": "url"}
    while True:
        with bucket.talking():
            body = bucket.request("GET", query=query, action="LIST").read()
        try:
            root, found, fields = _page(body)
        except (expat.ExpatError, ValueError) as exc:
            raise _unreadable(bucket, exc) from exc
        _check_is_s3(bucket, root)
        encoded = fields.get("EncodingType") == "url"
        for name, size, modified, etag in found:
            if encoded and ("%" in name or "+" in name):
                name = unquote(name.replace("+", " "))
            if not name.startswith(prefix):
                raise MediumError(
                    Unavailable,
                    f"{bucket.endpoint} lists what was not asked for",
                    "see its log",
                )
            yield name, int(size), datetime.fromisoformat(modified).timestamp(), etag.strip('"')
        token = fields.get("NextContinuationToken")
        if fields.get("IsTruncated") != "true":
            return
        if not token or token == query.get("continuation-token"):
            raise cut_off(bucket)
        query["continuation-token"] = token


def _page(body: bytes) -> tuple[str, list[tuple[str, str, str, str]], dict[str, str]]:
    """Return the root's name, (key, size, modified, ETag) of each object, and the other fields of a page.

    Without a tree: to build one, and to search it, takes longer than all else that a listing needs.
    """
    found: list[tuple[str, str, str, str]] = []
    fields: dict[str, str] = {}
    root = text = ""

    def start(name: str, _: object) -> None:
        nonlocal root, text
        root, text = root or name, ""

    def data(said: str) -> None:
        nonlocal text
        text += said

    def end(name: str) -> None:
        if name == "Contents":
            take = fields.pop
            modified = take("LastModified", "1970-01-01T00:00:00Z")
            found.append((take("Key", ""), take("Size", "0"), modified, take("ETag", "")))
        else:
            fields[name] = text

    parser = expat.ParserCreate()
    parser.buffer_text = True
    parser.StartElementHandler, parser.CharacterDataHandler, parser.EndElementHandler = start, data, end
    parser.Parse(body, True)
    return root, found, fields


def by_key(found: Iterable[Object], prefix: str) -> Iterator[Object]:
    """Sort by key what an endpoint lists folder by folder: `a/x` before `a-x`.

    What begins with the name of one folder right below ``prefix`` is held until the listing has gone past it.
    """
    held: list[Object] = []
    first = ""
    for each in found:
        name = each[0][len(prefix) :].partition("/")[0]
        if not name.startswith(first) or not held:
            yield from sorted(held)
            held, first = [], name
        held.append(each)
    yield from sorted(held)


def document(bucket: Bucket, query: dict[str, str], action: str) -> tuple[ElementTree.Element, Message]:
    """Return the document that a GET of the bucket answers, and the answer's head."""
    with bucket.talking():
        answer = bucket.request("GET", query=query, action=action)
        body = answer.read()
    try:
        root = ElementTree.fromstring(body)
    except ElementTree.ParseError as exc:
        raise _unreadable(bucket, exc) from exc
    _check_is_s3(bucket, root.tag)
    return root, answer.headers


def cut_off(bucket: Bucket) -> MediumError:
    """Return the error for a listing that says that there is more, and not where."""
    return MediumError(
        Unavailable, f"{bucket.endpoint} cut a listing off without saying how it goes on", "use another service"
    )


def _unreadable(bucket: Bucket, exc: Exception) -> MediumError:
    return MediumError(
        Unavailable, f"{bucket.endpoint} answered a listing that cannot be read ({exc})", "check endpoint_url"
    )


def _check_is_s3(bucket: Bucket, root: str) -> None:
    if not root.endswith("Result"):
        raise MediumError(
            Misconfigured, f"{bucket.endpoint} answered a listing that is none of S3", "check endpoint_url"
        )
