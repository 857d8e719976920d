"""The outside ledger: an append-only list of acknowledged rows, kept apart from every database.

Each ledger is a file of lines `writer id`. A line may be there twice (a client that lost the answer sends it again), so
readers take it as a set. An answered append survives the end of the ledger's process, though not a power cut.
"""
import http.client
import http.server
import os
import pathlib
import re
import threading
import time
import urllib.parse

PATH = re.compile(r"/([a-z][a-z-]{0,40})")
LINES = re.compile(rb"(?:[\x21-\x7e]+ [0-9]+\n)+")


class Ledger:
    """The client: `append` returns only when the ledger has the rows."""

    def __init__(self, name, stopping):
        """`name`: the ledger's name; `stopping`: an event, set when the process has to end."""
        self.host = urllib.parse.urlsplit(os.environ["LEDGER_URL"]).netloc
        self.path = f"/{name}"
        self.stopping = stopping
        self.connection = None

    def append(self, writer, ids):
        """Tries until the ledger has taken every id; gives up only some seconds after the process was told to end."""
        body = "".join(f"{writer} {id}\n" for id in ids).encode()
        patience = 5
        while patience > 0:
            try:
                if self.connection is None:
                    self.connection = http.client.HTTPConnection(self.host, timeout=2)
                self.connection.request("POST", self.path, body)
                answer = self.connection.getresponse()
                answer.read()
                if answer.status == 204:
                    return
                problem = f"HTTP {answer.status}"
            except (OSError, http.client.HTTPException) as error:
                problem = error
            print(f"ledger does not answer, trying again: {problem}", flush=True)
            self.connection = None
            if self.stopping.wait(0.2):
                patience -= 1
                time.sleep(0.2)


def serve():
    """The service: POST appends lines to the ledger of that name, GET returns it, GET /healthz says that it runs."""
    directory = pathlib.Path(os.environ["LEDGER_DIRECTORY"])
    directory.mkdir(parents=True, exist_ok=True)
    lock = threading.Lock()

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def answer(self, status, body=b""):
            self.send_response(status)
            if status != 204:
                self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def file(self):
            match = PATH.fullmatch(self.path)
            return match and directory / match[1]

        def do_POST(self):
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            if self.file() is None or not LINES.fullmatch(body):
                return self.answer(400, b"POST /<ledger name> with lines of `writer id`\n")
            with lock, open(self.file(), "ab") as file:
                file.write(body)
            self.answer(204)

        def do_GET(self):
            if self.path == "/healthz":
                return self.answer(200, b"ok\n")
            if self.file() is None or not self.file().exists():
                return self.answer(404, b"no such ledger\n")
            with lock:
                content = self.file().read_bytes()
            self.answer(200, content)

        def log_message(self, *_):
            pass

    http.server.ThreadingHTTPServer(("", int(os.environ.get("PORT", "8080"))), Handler).serve_forever()
