"""Joining a cluster: who is no head, or does not answer, is found out at once."""

from __future__ import annotations

import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from rayconvai.errors import ClusterError
from rayconvai.train.cluster import ray_cluster


def test_an_address_where_something_else_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    server = HTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{server.server_port}")
    try:
        with pytest.raises(ClusterError, match="does not answer as a head does"), ray_cluster():
            pass
    finally:
        server.shutdown()
        server.server_close()
