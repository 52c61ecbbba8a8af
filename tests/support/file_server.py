"""A server on this machine that gives files by HTTP in the ways that servers do, the bad ones too."""

import threading
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class FileServer(BaseHTTPRequestHandler):
    """The first folder of a path says how the file behind it is given."""

    files: dict[str, bytes]
    requests: list[str]

    def do_HEAD(self):
        self.give(body=False)

    def do_GET(self):
        self.give(body=True)

    def give(self, body):
        _, how, name = self.path.partition("?")[0].split("/", 2)
        self.requests.append(f"{self.command} {how} {self.headers.get('Range', '')}".strip())
        if how.isdigit():
            self.send_error(int(how))
        else:
            self.reply(how, self.files[name], body)

    def reply(self, how, content, body):
        asked = self.headers.get("Range") if "ranges" in how else None
        begin, end = 0, len(content)
        if asked:
            begin, last = map(int, asked.removeprefix("bytes=").split("-"))
            end = min(last + 1, end)
            if how == "lost-ranges" and begin >= len(content) // 2:
                return self.send_error(416)
        self.send_response(206 if asked else 200)
        if asked:
            self.send_header("Content-Range", f"bytes {begin}-{end - 1}/{len(content)}")
        part = content[begin:end]
        if asked and how in ("short-ranges", "lost-ranges"):
            part = part[: (len(part) + 1) // 2]
        if body and how.startswith("endless") and asked != "bytes=0-0":  # which asks whether it gives parts
            return self.send_endlessly()
        if how != "unsized":
            self.send_header("Content-Length", str(len(part)))
        if how == "encoded":
            self.send_header("Content-Encoding", "gzip")
        self.end_headers()
        if body:
            self.send(how, part)

    def send(self, how, part):
        half = len(part) // 2
        if how in ("cut", "cut-ranges") and len(part) > 1:
            self.wfile.write(part[:half])
        elif how in ("silent", "silent-ranges") and len(part) > 1:
            self.wfile.write(part[:half])
            self.server.released.wait(10)
        else:
            self.wfile.write(part)

    def send_endlessly(self):
        self.end_headers()
        for _ in range(1000):  # 1 GB, or until nobody reads it
            self.wfile.write(bytes(1 << 20))
            self.requests.append("a megabyte")

    def log_message(self, *args):
        pass

    def finish(self):
        with suppress(BrokenPipeError, ConnectionResetError):
            super().finish()


class QuietServer(ThreadingHTTPServer):
    def handle_error(self, request, client_address):
        """The client has gone; any other error makes the client's test fail."""


@contextmanager
def served(files):
    """The address of a server of these files, and the requests that it was sent."""
    handler = type("Served", (FileServer,), {"files": files, "requests": []})
    server = QuietServer(("127.0.0.1", 0), handler)
    server.released = threading.Event()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", handler.requests
    finally:
        server.released.set()
        server.shutdown()
        thread.join()
        server.server_close()
