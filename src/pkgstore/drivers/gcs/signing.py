"""URLs that serve an object for a while, signed as Google Cloud Storage asks (V4)."""

from __future__ import annotations

import hashlib
import json
import math
from base64 import b64decode, b64encode
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

from pkgstore.driver import MediumError
from pkgstore.drivers.gcs.errors import parsed
from pkgstore.errors import Denied, Unavailable, Unsupported

if TYPE_CHECKING:
    from collections.abc import Callable

    from pkgstore.drivers.gcs.access import Access
    from pkgstore.drivers.gcs.client import Client

_ALGORITHM = "GOOG4-RSA-SHA256"
_SIGNING_SERVICE = "https://iamcredentials.googleapis.com"
_LONGEST = 7 * 24 * 3600


def signed_url(client: Client, name: str, expires: float) -> str:
    """Return a URL that serves an object for ``expires`` seconds to whoever has it."""
    if not 0 < expires <= _LONGEST:
        raise MediumError(Unsupported, f"a URL cannot be good for {expires} seconds", "ask for up to seven days")
    email, sign = _signer(client.access)
    now = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
    scope = f"{now[:8]}/auto/storage/goog4_request"
    query = {
        "X-Goog-Algorithm": _ALGORITHM,
        "X-Goog-Credential": f"{email}/{scope}",
        "X-Goog-Date": now,
        "X-Goog-Expires": str(math.ceil(expires)),
        "X-Goog-SignedHeaders": "host",
    }
    if client.project is not None:
        query["userProject"] = client.project
    pairs = "&".join(f"{field}={quote(value, safe='')}" for field, value in sorted(query.items()))
    path = client.plain(name)
    host = urlsplit(client.origin).netloc
    request = "\n".join(["GET", path, pairs, f"host:{host}", "", "host", "UNSIGNED-PAYLOAD"])
    text = "\n".join([_ALGORITHM, now, scope, hashlib.sha256(request.encode()).hexdigest()])
    return f"{client.origin}{path}?{pairs}&X-Goog-Signature={sign(text.encode()).hex()}"


def _signer(access: Access) -> tuple[str, Callable[[bytes], bytes]]:
    """Return whose signature it is, and what makes it: a key that is at hand, or Google's own signing service."""
    if access.anonymous:
        raise MediumError(Unsupported, "nobody's access signs no URLs", "give the credentials of a service account")
    from google.auth.credentials import Signing

    access.token()  # the name of a machine's account is not known before
    source: Any = access.source()
    if isinstance(source, Signing):
        return str(source.signer_email), lambda text: access.asking(lambda _: source.sign_bytes(text))
    email = getattr(source, "service_account_email", None)
    if not email:
        raise MediumError(
            Unsupported,
            "these credentials have no key to sign with, and belong to no service account",
            "give a service account's, or those of a federation that impersonates one",
        )
    return str(email), lambda text: _signed_by_google(access.for_signing(), str(email), text)


def _signed_by_google(access: Access, email: str, text: bytes) -> bytes:
    """Return the signature that the service of IAM makes for an account."""
    headers = {"Authorization": f"Bearer {access.token()}", "Content-Type": "application/json"}
    content = json.dumps({"payload": b64encode(text).decode()}).encode()
    url = f"{_SIGNING_SERVICE}/v1/projects/-/serviceAccounts/{quote(email)}:signBlob"
    answer = access.asking(lambda request: request(url, method="POST", body=content, headers=headers))
    if answer.status == 200:
        return b64decode(json.loads(answer.data)["signedBlob"])
    said = parsed(answer.status, answer.data).message
    if answer.status in (401, 403):
        raise MediumError(
            Denied,
            f"{email} may not have Google sign for it ({said})",
            "enable the IAM Credentials API, and grant it roles/iam.serviceAccountTokenCreator on itself",
        )
    raise MediumError(Unavailable, f"the signing service answered {answer.status} ({said})", "try again")
