"""Who asks: token endpoints, metadata server and signing service, beside the fake of Google Cloud Storage."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import secrets
import time
import urllib.parse
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa

ALL = {f"storage.objects.{verb}" for verb in ("get", "list", "create", "delete", "update")}
_AUDIENCE = "https://oauth2.googleapis.com/token"
_JWT_GRANT = "urn:ietf:params:oauth:grant-type:jwt-bearer"
_EXCHANGE_GRANT = "urn:ietf:params:oauth:grant-type:token-exchange"
_INSTANCE = "/computeMetadata/v1/instance/service-accounts"


class Identity:
    """Accounts, what they may do, and the tokens that they were given."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self.accounts: dict[str, tuple[rsa.RSAPrivateKey, set[str]]] = {}
        self.tokens: dict[str, tuple[str, float]] = {}
        self.subjects: dict[str, str] = {}
        self.machine = ""
        self.lifetime = 3600
        self.handed_out = 0

    # -- what tests ask for -------------------------------------------------------------------------------------------

    def account(self, email: str, key: str, permissions: list[str] | None = None) -> None:
        """Make an account, with its private key in PEM."""
        private = serialization.load_pem_private_key(key.encode(), None)
        assert isinstance(private, rsa.RSAPrivateKey)
        self.accounts[email] = (private, set(permissions) if permissions is not None else set(ALL))

    def subject(self, token: str, email: str) -> None:
        """Let a token of another provider be exchanged for one of an account."""
        self.subjects[token] = email

    def machine_account(self, email: str) -> None:
        """Make an account that of the machine; the metadata server hands out its tokens."""
        self.machine = email

    def token(self, email: str) -> str:
        """Hand out a token."""
        token = f"ya29.{secrets.token_hex(16)}"
        self.tokens[token] = (email, time.time() + self.lifetime)
        self.handed_out += 1
        return token

    def set_lifetime(self, seconds: int) -> None:
        """Hand out tokens that are good for so long."""
        self.lifetime = seconds

    def revoke(self) -> None:
        """Make every token invalid."""
        self.tokens.clear()

    def count(self) -> int:
        """Return how many tokens were handed out."""
        return self.handed_out

    # -- what the storage asks ----------------------------------------------------------------------------------------

    def whose(self, authorization: str) -> tuple[str, set[str]] | None:
        """Return whose token it is and what they may do; None for a token that is not valid."""
        email, until = self.tokens.get(authorization.removeprefix("Bearer "), ("", 0.0))
        if until < time.time() or email not in self.accounts:
            return None
        return email, self.accounts[email][1]

    def refused_signature(self, path: str, host: str, query: dict[str, str]) -> str:
        """Say what is wrong with a signed URL; nothing when it is good."""
        query = dict(query)
        signature = bytes.fromhex(query.pop("X-Goog-Signature"))
        email, _, scope = query["X-Goog-Credential"].partition("/")
        stamp, lasts = query["X-Goog-Date"], int(query["X-Goog-Expires"])
        if not 0 < lasts <= 604800:
            return "X-Goog-Expires is out of range"
        if scope != f"{stamp[:8]}/auto/storage/goog4_request" or query["X-Goog-SignedHeaders"] != "host":
            return "wrong scope or headers"
        pairs = [f"{urllib.parse.quote(k, safe='~')}={urllib.parse.quote(v, safe='~')}" for k, v in query.items()]
        request = "\n".join(["GET", path, "&".join(sorted(pairs)), f"host:{host}", "", "host", "UNSIGNED-PAYLOAD"])
        text = "\n".join([query["X-Goog-Algorithm"], stamp, scope, hashlib.sha256(request.encode()).hexdigest()])
        try:
            public = self.accounts[email][0].public_key()
            public.verify(signature, text.encode(), padding.PKCS1v15(), hashes.SHA256())
        except (KeyError, InvalidSignature):
            return "The request signature we calculated does not match the signature you provided."
        return ""

    # -- its own endpoints --------------------------------------------------------------------------------------------

    def answer(self, method: str, target: str, headers: Any, body: bytes) -> tuple[int, object]:
        """Return the status and content of an answer; status 0 for what is not asked here."""
        path = target.partition("?")[0]
        form = dict(urllib.parse.parse_qsl(body.decode())) if path in ("/token", "/sts") else {}
        if path == "/token" and method == "POST":
            return self._exchanged(form)
        if path == "/sts" and method == "POST":
            return self._federated(form)
        signing = re.fullmatch(r"/v1/projects/-/serviceAccounts/([^/]+):signBlob", urllib.parse.unquote(path))
        if signing and method == "POST":
            return self._signed(signing[1], headers, json.loads(body))
        if path.startswith("/computeMetadata/") or (path == "/" and headers.get("Metadata-Flavor")):
            return self._metadata(path, headers)
        return 0, None

    def _granted(self, email: str) -> tuple[int, object]:
        return 200, {"access_token": self.token(email), "expires_in": self.lifetime, "token_type": "Bearer"}

    def _exchanged(self, form: dict[str, str]) -> tuple[int, object]:
        head, claims, signature = form["assertion"].split(".")
        told = json.loads(_decoded(claims))
        try:
            key = self.accounts[told["iss"]][0].public_key()
            key.verify(_decoded(signature), f"{head}.{claims}".encode(), padding.PKCS1v15(), hashes.SHA256())
        except (KeyError, InvalidSignature):
            return 400, {"error": "invalid_grant", "error_description": "Invalid JWT Signature."}
        now = time.time()
        good = json.loads(_decoded(head))["alg"] == "RS256" and form["grant_type"] == _JWT_GRANT
        good = good and told["aud"] == _AUDIENCE and told["iat"] <= now + 60 and now < told["exp"] <= told["iat"] + 3600
        if not good or "devstorage" not in told["scope"]:
            return 400, {"error": "invalid_grant", "error_description": "Invalid JWT."}
        return self._granted(told["iss"])

    def _federated(self, form: dict[str, str]) -> tuple[int, object]:
        if form["grant_type"] != _EXCHANGE_GRANT or form["subject_token"] not in self.subjects:
            return 400, {"error": "invalid_grant", "error_description": "The subject token is not valid."}
        status, granted = self._granted(self.subjects[form["subject_token"]])
        assert isinstance(granted, dict)
        return status, {**granted, "issued_token_type": "urn:ietf:params:oauth:token-type:access_token"}

    def _signed(self, email: str, headers: Any, request: dict[str, str]) -> tuple[int, object]:
        if self.whose(headers.get("Authorization", "")) is None:
            return 401, {"error": {"code": 401, "message": "Invalid Credentials"}}
        key = self.accounts[email][0]
        signature = key.sign(base64.b64decode(request["payload"]), padding.PKCS1v15(), hashes.SHA256())
        return 200, {"keyId": "1", "signedBlob": base64.b64encode(signature).decode()}

    def _metadata(self, path: str, headers: Any) -> tuple[int, object]:
        if not self.machine or headers.get("Metadata-Flavor") != "Google":
            return 404, {}
        account = {"email": self.machine, "aliases": ["default"], "scopes": ["storage"]}
        known: dict[str, Any] = {
            "/": {},
            f"{_INSTANCE}/default/": account,
            f"{_INSTANCE}/{self.machine}/": account,
            "/computeMetadata/v1/project/project-id": b"project",
            "/computeMetadata/v1/universe/universe-domain": b"googleapis.com",
        }
        if path in (f"{_INSTANCE}/default/token", f"{_INSTANCE}/{self.machine}/token"):
            return self._granted(self.machine)
        return (200, known[path]) if path in known else (404, {})


def _decoded(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
