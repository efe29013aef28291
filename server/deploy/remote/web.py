"""Bundles behind a web server, and the HTTP requests that a registry needs too.

It uses only the standard library: every redirect is checked before it is followed, and a reply is
read piece by piece, never beyond the requested length.
"""

from __future__ import annotations

import base64
import http.client
import netrc
import ssl
import urllib.error
import urllib.request
from collections.abc import Mapping
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from email.message import Message
from typing import Any
from urllib.parse import quote, urljoin, urlsplit

from server.deploy.remote.keeper import Body, FetchBroken
from server.deploy.remote.location import FetchRefused, check_web, is_address, is_local

TIMEOUT_S = 30.0  # longest wait for a byte
MOST_REDIRECTS = 5
REDIRECTS = (301, 302, 303, 307, 308)
PASSING = (408, 425, 429, 500, 502, 503, 504)  # statuses worth another attempt


class WebStatus(Exception):
    """A reply that is neither an answer nor a redirect."""

    def __init__(self, status: int, headers: Message, url: str) -> None:
        super().__init__(f"{_plain(url)} answered {status}")
        self.status, self.headers = status, headers


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_arguments: Any) -> None:
        return None


def _opener(proxies: Mapping[str, str] | None) -> urllib.request.OpenerDirector:
    opener = urllib.request.OpenerDirector()  # has no handler for file:, ftp: or data:
    for handler in (
        urllib.request.ProxyHandler(None if proxies is None else dict(proxies)),
        urllib.request.HTTPHandler(),
        urllib.request.HTTPSHandler(context=ssl.create_default_context()),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPErrorProcessor(),
        _NoRedirect(),
    ):
        opener.add_handler(handler)
    return opener


@dataclass(frozen=True, slots=True)
class Web:
    """GET over https, or http on this host. `https_proxy` is used for names, not for addresses."""

    timeout_s: float = TIMEOUT_S
    _direct: urllib.request.OpenerDirector = field(default_factory=lambda: _opener({}))
    _proxied: urllib.request.OpenerDirector = field(default_factory=lambda: _opener(None))

    def get(
        self, url: str, start: int = 0, headers: Mapping[str, str] | None = None, auth: str = ""
    ) -> Body:
        """The content from byte `start` on. `auth` is sent to this host only, not to the target of
        a redirect.

        Raises WebStatus, FetchRefused for a redirect that is not followed, FetchBroken.
        """
        check_web(url)
        asked = {"Accept-Encoding": "identity", **(headers or {})}
        if start:
            asked["Range"] = f"bytes={start}-"
        with ExitStack() as stack:
            response = stack.enter_context(self._followed(url, asked, auth))
            body = self._body(response, start, url)
            stack.pop_all()
        return body

    def _followed(
        self, url: str, headers: Mapping[str, str], auth: str
    ) -> http.client.HTTPResponse:
        at = url
        for _ in range(MOST_REDIRECTS + 1):
            with_auth = {"Authorization": auth} if auth and _origin(at) == _origin(url) else {}
            request = urllib.request.Request(at, headers={**headers, **with_auth})
            opener = self._direct if is_address(urlsplit(at).hostname or "") else self._proxied
            try:
                response: http.client.HTTPResponse = opener.open(request, timeout=self.timeout_s)
                return response
            except urllib.error.HTTPError as error:
                with error:
                    if error.code not in REDIRECTS:
                        raise _status(error, at) from None
                    at = _next(at, error.headers.get("Location", ""))
            except (http.client.HTTPException, OSError) as error:
                raise FetchBroken(f"{_plain(at)}: {self._why(error)}") from error
        raise FetchRefused(f"{_plain(url)}: more than {MOST_REDIRECTS} redirects")

    def _body(self, response: http.client.HTTPResponse, start: int, url: str) -> Body:
        if response.headers.get("Content-Encoding", "identity") != "identity":
            raise FetchRefused(f"{_plain(url)} is served compressed: serve the file as it is")
        if response.status not in (200, 206):
            raise FetchRefused(f"{_plain(url)} answered {response.status}")
        given = response.headers.get("Content-Range", "")
        if response.status == 206 and not given.startswith(f"bytes {start}-"):
            raise FetchRefused(f"{_plain(url)} answered byte {start} with {given[:60]!r}")

        def read(most: int) -> bytes:
            try:
                return response.read(most)
            except (http.client.HTTPException, OSError) as error:
                raise FetchBroken(f"{_plain(url)}: {self._why(error)}") from error

        return Body(start if response.status == 206 else 0, read, response.close)

    def _why(self, error: Exception) -> str:
        reason = getattr(error, "reason", error)
        if isinstance(reason, TimeoutError):
            return f"no byte within {self.timeout_s:g} s"
        return str(reason) or type(reason).__name__


def _status(error: urllib.error.HTTPError, url: str) -> Exception:
    if error.code in PASSING:
        return FetchBroken(f"{_plain(url)} answered {error.code}")
    return WebStatus(error.code, error.headers, url)


def _next(at: str, location: str) -> str:
    """The target of a redirect. Raises FetchRefused."""
    if not location:
        raise FetchRefused(f"{_plain(at)} redirects to nowhere")
    to = urljoin(at, location)
    check_led(at, to)
    return to


def check_led(at: str, to: str) -> None:
    """Check that content fetched from one place may lead to the other. Raises FetchRefused: the web
    must not lead to a file, to plaintext, or to a loopback or link-local address."""
    try:
        check_web(to)
        host, from_host = urlsplit(to).hostname or "", urlsplit(at).hostname or ""
    except (FetchRefused, ValueError) as error:
        raise FetchRefused(f"{_plain(at)} leads to a place not fetched from: {error}") from None
    if is_local(host) and not is_local(from_host):
        raise FetchRefused(f"{_plain(at)} leads to {host}, which is this host or its link")


def read_whole(body: Body, most: int, what: str) -> bytes:
    """The whole body, which is then closed. Raises FetchRefused for more than `most` bytes."""
    content = bytearray()
    with closing(body):
        while len(content) <= most and (piece := body.read(min(65536, most + 1 - len(content)))):
            content += piece
    if len(content) > most:
        raise FetchRefused(f"{what} is larger than {most} bytes")
    return bytes(content)


def _plain(url: str) -> str:
    """The URL without its query, as the target of a redirect is often signed in the query."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def _origin(url: str) -> tuple[str, str]:
    parts = urlsplit(url)
    return parts.scheme, parts.netloc


@dataclass(frozen=True, slots=True)
class WebDirectory:
    """A directory on a web server. Credentials come from ~/.netrc, by host."""

    web: Web
    url: str

    def small(self, name: str, most: int) -> bytes | None:
        try:
            return read_whole(self._get(name, 0), most, name)
        except WebStatus as error:
            if error.status in (404, 410):
                return None
            raise _refused(error) from None

    def open(self, name: str, start: int) -> Body:
        try:
            return self._get(name, start)
        except WebStatus as error:
            raise _refused(error) from None

    def _get(self, name: str, start: int) -> Body:
        return self.web.get(f"{self.url}/{quote(name)}", start, auth=_basic(self.url))


def _refused(error: WebStatus) -> FetchRefused:
    hint = {401: ": put the credentials into ~/.netrc", 404: ": it is missing there"}
    return FetchRefused(f"{error}{hint.get(error.status, '')}")


def _basic(url: str) -> str:
    host = urlsplit(url).hostname or ""
    try:
        found = netrc.netrc().authenticators(host)
    except FileNotFoundError:
        return ""
    except (netrc.NetrcParseError, OSError) as error:
        raise FetchRefused(f"~/.netrc cannot be read: {error}") from None
    if found is None:
        return ""
    return "Basic " + base64.b64encode(f"{found[0]}:{found[2]}".encode()).decode()
