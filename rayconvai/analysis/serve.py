"""A report that goes with its sweep: ``report --serve`` shows the page, which asks for what has changed.

On 127.0.0.1 unless told otherwise. The journal is read anew only when it has grown.
"""

from __future__ import annotations

import ipaddress
import json
import sys
import threading
import time
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qsl, urlsplit

from rayconvai.analysis.load import Sweep
from rayconvai.analysis.render import now, sections, whole_page
from rayconvai.errors import ConfigError, RayconvaiError
from rayconvai.sweep.store import open_store

_POLL = 3000
"""Milliseconds from one question of a page to the next."""
SHARE = 5
"""Telling the story anew takes at most one part in so many of the time: the machine may be training."""


class Live:
    """The newest report of a sweep, shared by all who look at it.

    Raises:
        SweepError: there is no sweep, or its journal is damaged.
    """

    def __init__(self, place: str) -> None:
        self.place, self.store = place, open_store(place)
        self.lock = threading.Lock()
        self.not_before = 0.0
        self.error = ""
        self.read()

    def read(self) -> None:
        began = time.monotonic()
        # Asked for before the journal is read: what comes in between is seen the next time.
        self.seen = self._standing()
        sweep = Sweep(self.place)
        self.name, self.sections, self.made = sweep.name, sections(sweep), now()
        self.not_before = time.monotonic() + (time.monotonic() - began) * SHARE

    def look(self) -> None:
        """Read the journal again if it has grown, or if its driver has come or gone."""
        with self.lock:
            try:
                if time.monotonic() >= self.not_before and self._standing() != self.seen:
                    self.read()
                self.error = ""
            except RayconvaiError as error:
                self.error = str(error)

    def _standing(self) -> object:
        return self.store.segments(), self.store.holder()


class _Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        live, address = self.server.live, urlsplit(self.path)
        if not self.server.knows(self.headers.get("Host", "")):
            self.send_error(403)
        elif address.path == "/":
            live.look()
            self._answer("text/html", whole_page(live.name, live.sections, live=_POLL))
        elif address.path == "/changes":
            live.look()
            have = dict(parse_qsl(address.query))
            changed = [
                {"id": section.id, "version": section.version, "html": section.html}
                for section in live.sections
                if have.get(section.id) != section.version
            ]
            self._answer("application/json", json.dumps({"sections": changed, "made": live.made, "error": live.error}))
        else:
            self.send_error(404)

    def _answer(self, kind: str, text: str) -> None:
        data = text.encode()
        self.send_response(200)
        self.send_header("Content-Type", f"{kind}; charset=utf-8")
        self.send_header("Content-Length", str(len(data)))
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: object) -> None:
        """A page that asks every few seconds is nothing to tell of."""


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, host: str, port: int, live: Live) -> None:
        self.live = live
        super().__init__((host, port), _Handler)

    @property
    def address(self) -> tuple[str, int]:
        host, port = self.server_address[:2]
        return str(host), int(port)

    def knows(self, host: str) -> bool:
        """Refuse, on a machine's own address, names by which another page might have led a browser here."""
        return not _is_loopback(self.address[0]) or _is_loopback(urlsplit(f"//{host}").hostname or "")


def serve(place: str, host: str, port: int) -> None:
    """Show the report of a sweep until Ctrl-C.

    Raises:
        SweepError: there is no sweep, or its journal is damaged.
        ConfigError: it cannot listen there.
    """
    live = Live(place)
    try:
        server = Server(host, port, live)
    except OSError as error:
        raise ConfigError(f"cannot listen at {host}:{port}: {error.strerror}; try another: --port 0") from error
    host, port = server.address
    if not _is_loopback(host):
        print(f"warning: whoever can reach {host}:{port} can read the report", file=sys.stderr)
    with server, suppress(KeyboardInterrupt):
        print(f"report of {place}: http://{host}:{port}/  (Ctrl-C ends it)", flush=True)
        server.serve_forever()


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
