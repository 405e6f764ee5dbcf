"""What the standalone app adds around the gradio page: scripts, styles, the language, and a password where asked."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import re
import secrets
from collections.abc import Awaitable, Callable, MutableMapping
from http.cookies import CookieError, SimpleCookie
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

from modelsmith_webui.hosts.standalone import StandaloneHost
from modelsmith_webui.tab.texts import translations

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

ROOT = Path(__file__).resolve().parents[2]
ASSETS: dict[str, tuple[Path, str]] = {
    "standalone.js": (Path(__file__).parent / "assets" / "standalone.js", "text/javascript"),
    "standalone.css": (Path(__file__).parent / "assets" / "standalone.css", "text/css"),
    # In the order in which a webui loads them; what hangs on its own selectors is left out.
    **{
        path.name: (path, "text/javascript")
        for path in sorted((ROOT / "javascript").glob("modelsmith*.js"))
        if path.name != "modelsmith_vae.js"
    },
    "style.css": (ROOT / "style.css", "text/css"),
}
ASSET_PREFIX = "/modelsmith/assets/"
COOKIE = "modelsmith_session"

# gradio's page asks other machines for fonts and for a script that only embedded pages need; neither is wanted here.
_FOREIGN = re.compile(
    r"<(?:link|script|meta)\b[^>]*(?:fonts\.googleapis|fonts\.gstatic|cdnjs\.cloudflare|opengraph|raw\.githubusercontent)"
    r"[^>]*>(?:\s*</script>)?",
    re.IGNORECASE,
)


def head_html(language: str) -> str:
    """What goes into the page's head: the language's table before the scripts, as the webuis have it."""
    table = json.dumps(translations(language), ensure_ascii=False).replace("</", "<\\/")
    parts = [f"<script>window.localization = {table}; window.modelsmithLanguage = {json.dumps(language)};</script>"]
    parts += [f'<link rel="stylesheet" href=".{ASSET_PREFIX}{name}">' for name in ASSETS if name.endswith(".css")]
    parts += [f'<script src=".{ASSET_PREFIX}{name}" defer></script>' for name in ASSETS if name.endswith(".js")]
    return "".join(parts)


def with_head(page: bytes, language: str) -> bytes:
    """The gradio page with our head, and without what it would fetch from other machines."""
    text = _FOREIGN.sub("", page.decode("utf-8"))
    return text.replace("</head>", head_html(language) + "</head>", 1).encode("utf-8")


class PageWithHead:
    """ASGI middleware: puts the head into the page at "/" and takes the language from its ``__lang``."""

    def __init__(self, app: App, host: StandaloneHost) -> None:
        self.app, self.host = app, host

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] != "/" or scope["method"] != "GET":
            await self.app(scope, receive, send)
            return
        wanted = parse_qs(scope["query_string"].decode("latin-1"), keep_blank_values=True).get("__lang")
        if wanted is not None:
            self.host.chosen_language = wanted[-1] if translations(wanted[-1]) else ""
        language = self.host.chosen_language
        scope["headers"] = [(name, value) for name, value in scope["headers"] if name != b"accept-encoding"]
        held: list[Message] = []
        body = bytearray()

        async def collect(message: Message) -> None:
            if message["type"] == "http.response.start":
                held.append(message)
            elif message["type"] == "http.response.body":
                body.extend(message.get("body", b""))
                if not message.get("more_body"):
                    await self._answer(held[0], bytes(body), language, send)

        await self.app(scope, receive, collect)

    async def _answer(self, start: Message, body: bytes, language: str, send: Send) -> None:
        headers = [(name, value) for name, value in start["headers"] if name.lower() != b"content-length"]
        if any(name.lower() == b"content-type" and value.startswith(b"text/html") for name, value in headers):
            body = with_head(body, language)
        headers += [(b"content-length", str(len(body)).encode()), (b"cache-control", b"no-store")]
        await send({**start, "headers": headers})
        await send({"type": "http.response.body", "body": body})


class PasswordWall:
    """ASGI middleware: nothing is answered without the password, by HTTP basic authentication and then a cookie.

    The cookie is there because not every browser sends basic credentials with a websocket, which gradio 3 uses.
    """

    def __init__(self, app: App, password: str) -> None:
        self.app = app
        self._password = password.encode()
        self._session = hmac.new(secrets.token_bytes(32), b"session", hashlib.sha256).hexdigest()

    def _allowed(self, headers: dict[bytes, bytes]) -> bool:
        try:
            cookie = SimpleCookie(headers.get(b"cookie", b"").decode("latin-1")).get(COOKIE)
        except CookieError:
            cookie = None
        if cookie is not None and hmac.compare_digest(cookie.value, self._session):
            return True
        kind, _, given = headers.get(b"authorization", b"").partition(b" ")
        if kind.lower() != b"basic":
            return False
        try:
            password = base64.b64decode(given, validate=True).partition(b":")[2]
        except ValueError:
            return False
        return hmac.compare_digest(password, self._password)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        if not self._allowed(dict(scope["headers"])):
            await _refuse(scope, receive, send)
            return

        async def with_cookie(message: Message) -> None:
            if message["type"] == "http.response.start":
                cookie = f"{COOKIE}={self._session}; Path=/; HttpOnly; SameSite=Strict".encode()
                message = {**message, "headers": [*message["headers"], (b"set-cookie", cookie)]}
            await send(message)

        await self.app(scope, receive, with_cookie)


async def _refuse(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.close", "code": 1008})
        return
    body = b"Modelsmith: password needed"
    headers = [
        (b"www-authenticate", b'Basic realm="Modelsmith", charset="UTF-8"'),
        (b"content-type", b"text/plain"),
        (b"content-length", str(len(body)).encode()),
    ]
    await send({"type": "http.response.start", "status": 401, "headers": headers})
    await send({"type": "http.response.body", "body": body})
