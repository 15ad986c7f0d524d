"""A report that is served while its sweep is written."""

from __future__ import annotations

import http.client
import json
import threading
from typing import Any
from urllib.parse import urlencode

from written import Written

from rayconvai.analysis import serve


class Served:
    """The report of a sweep that is at work."""

    def __init__(self, sweep: Written) -> None:
        self.sweep, self.live = sweep, serve.Live(str(sweep.directory))
        self.server = serve.Server("127.0.0.1", 0, self.live)
        self.url = "http://{}:{}/".format(*self.server.address)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def get(self, path: str, host: str = "localhost") -> tuple[int, str]:
        connection = http.client.HTTPConnection(*self.server.address)
        connection.request("GET", path, headers={"Host": host})
        answer = connection.getresponse()
        return answer.status, answer.read().decode()

    def changes(self, **have: str) -> dict[str, Any]:
        answer: dict[str, Any] = json.loads(self.get(f"/changes?{urlencode(have)}")[1])
        return answer

    def end(self) -> None:
        self.server.shutdown()
        self.server.server_close()
