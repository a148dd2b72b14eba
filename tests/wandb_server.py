"""As much of W&B's server as uploading a run needs, and what it has been sent."""

from __future__ import annotations

import contextlib
import gzip
import json
import threading
from collections import defaultdict
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Server(ThreadingHTTPServer):
    """Answers ``wandb``; of every run it keeps what the real one keeps.

    Attributes:
        history: run id -> line number -> what was logged. A line that is sent again goes over the one before.
        operations: names of the GraphQL operations that were asked for.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.history: dict[str, dict[int, dict[str, Any]]] = defaultdict(dict)
        self.operations: list[str] = []

    @property
    def url(self) -> str:
        """For ``WANDB_BASE_URL``."""
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(BaseHTTPRequestHandler):
    server: Server

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        data = {} if self.path.startswith("/upload") else json.loads(body or b"{}")
        if self.path.startswith("/upload"):
            self.answer({})
        elif self.path.endswith("/file_stream"):
            run = self.path.split("/")[-2]
            sent = data.get("files", {}).get("wandb-history.jsonl", {"offset": 0, "content": []})
            for number, line in enumerate(sent["content"], sent["offset"]):
                self.server.history[run][number] = json.loads(line)
            self.answer({"exitcode": None, "limits": {}})
        else:
            self.answer({"data": self.queried(data.get("query", ""), data.get("variables") or {})})

    do_PUT = do_POST

    def do_GET(self) -> None:
        self.answer({})

    def queried(self, query: str, variables: dict[str, Any]) -> dict[str, Any]:
        name = "".join(query.split("(")[0].split("{")[0].split()[-1:])
        self.server.operations.append(name)
        project = {"id": "p", "name": "lightning-vos", "entity": {"id": "e", "name": "me"}}
        run = str(variables.get("name") or variables.get("run") or "")
        if name == "UpsertBucket":
            bucket = {"id": run, "name": run, "displayName": run, "project": project, "historyLineCount": 0}
            return {"upsertBucket": {"bucket": bucket, "inserted": not self.server.history[run]}}
        if name == "RunResumeStatus":
            lines = self.server.history.get(run, {})
            known = {
                "id": run,
                "name": run,
                "displayName": run,
                "summaryMetrics": "{}",
                "historyLineCount": len(lines),
                "eventsLineCount": 0,
                "logLineCount": 0,
                "historyTail": json.dumps([json.dumps(lines[max(lines)])]) if lines else "[]",
                "eventsTail": "[]",
                "config": "{}",
                "tags": [],
                "wandbConfig": '{"t": 1}',
            }
            return {"model": {**project, "bucket": known if lines else None}}
        if name == "CreateRunFiles":
            files = [{"name": file, "uploadUrl": f"{self.server.url}/upload"} for file in variables["files"]]
            return {"createRunFiles": {"runID": run, "uploadHeaders": [], "files": files}}
        if name == "Viewer":
            return {"viewer": {"id": "v", "entity": "me", "username": "me", "flags": "{}", "teams": {"edges": []}}}
        return {}

    def answer(self, content: dict[str, Any]) -> None:
        body = json.dumps(content).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: Any) -> None:
        """Nothing on standard error."""


@contextlib.contextmanager
def wandb_server() -> Iterator[Server]:
    """A server on a port of its own."""
    server = Server()
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
