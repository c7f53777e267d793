"""Tokens of those who chat, as whoever has their accounts would make them, and the file of keys that they are held against."""

import base64
import hashlib
import hmac
import json
import os
import time
from pathlib import Path


def text(raw):
    """As JSON Web Tokens write bytes."""
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


class Issuer:
    """Has a secret of its own, and the server a file with it."""

    def __init__(self, file=None):
        self.file = file and Path(file)
        self.secret = os.urandom(32)

    def publish(self):
        beside = self.file.with_suffix(".new")
        beside.write_text(json.dumps({"keys": [{"kty": "oct", "k": text(self.secret)}]}))
        beside.rename(self.file)

    def spoil(self):
        self.file.write_text("<html>503 Service Unavailable</html>")

    def token(self, user, seconds=3600):
        header, claims = {"alg": "HS256", "typ": "JWT"}, {"sub": user, "exp": int(time.time()) + seconds}
        signed = ".".join(text(json.dumps(part).encode()) for part in (header, claims))
        return f"{signed}.{text(hmac.digest(self.secret, signed.encode(), hashlib.sha256))}"
