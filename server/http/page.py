"""The page at `/` for a browser: what this server is, its state, its paths. To watch a server, use
the console."""

from __future__ import annotations

from html import escape

from server.api.snapshot_messages import ServerIdentity
from server.types import EngineSnapshot

PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<title>Trefoil {server}</title>
<h1>Trefoil {version} on {server}</h1>
<p>One server for text, image and audio requests: one pipeline, one forward pass, one stamp.</p>
<p>State: <b>{state}</b> {reason}</p>
<p>Stamp: <code>{stamp}</code> {name}</p>
<ul>
<li><code>POST /v1/predict</code>: a form of text, image and audio parts</li>
<li><code>/v1/models, /v1/embeddings, /v1/chat/completions</code>: as OpenAI's clients ask</li>
<li><code>/v2/models/trefoil/infer</code>: the Open Inference Protocol</li>
<li><a href="/livez">/livez</a>, <a href="/readyz">/readyz</a>,
<a href="/startupz">/startupz</a>, <a href="/metrics">/metrics</a></li>
</ul>
<p>docs/http.md describes these paths. To watch this server: <code>console {listen}</code></p>
</html>
"""


def page(identity: ServerIdentity, now: EngineSnapshot, stamp: tuple[str, str], listen: str) -> str:
    """`stamp` is (hex, name), empty for a caller who may not read it."""
    values = {
        "server": identity.name,
        "version": identity.version,
        "state": now.state,
        "reason": now.reason,
        "stamp": stamp[0] or "for callers with a role",
        "name": stamp[1],
        "listen": listen,
    }
    return PAGE.format(**{name: escape(value) for name, value in values.items()})
