"""A local HTTP server that sends files as good and bad servers do."""

import threading
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class FileServer(BaseHTTPRequestHandler):
    """Sends the file of a path such as /cut-ranges/a.txt. Its first folder says how the server behaves."""

    files: dict[str, bytes]
    requests: list[str]

    def do_HEAD(self):
        self.answer(body=False)

    def do_GET(self):
        self.answer(body=True)

    def answer(self, body):
        _, behaviour, name = self.path.partition("?")[0].split("/", 2)
        self.requests.append(f"{self.command} {behaviour} {self.headers.get('Range', '')}".strip())
        if behaviour.isdigit():
            self.send_error(int(behaviour))
        else:
            self.reply(behaviour, self.files[name], body)

    def reply(self, behaviour, content, body):
        requested = self.headers.get("Range") if "ranges" in behaviour else None
        begin, end = 0, len(content)
        if requested:
            begin, last = map(int, requested.removeprefix("bytes=").split("-"))
            end = min(last + 1, end)
            if behaviour == "lost-ranges" and begin >= len(content) // 2:
                return self.send_error(416)
        self.send_response(206 if requested else 200)
        if requested:
            self.send_header("Content-Range", f"bytes {begin}-{end - 1}/{len(content)}")
        part = content[begin:end]
        if requested and behaviour in ("short-ranges", "lost-ranges"):
            part = part[: (len(part) + 1) // 2]
        if body and behaviour.startswith("endless") and requested != "bytes=0-0":  # a test for ranges
            return self.send_endlessly()
        if behaviour != "unsized":
            self.send_header("Content-Length", str(len(part)))
        if behaviour == "encoded":
            self.send_header("Content-Encoding", "gzip")
        self.end_headers()
        if body:
            self.send(behaviour, part)

    def send(self, behaviour, part):
        half = len(part) // 2
        if behaviour in ("cut", "cut-ranges") and len(part) > 1:
            self.wfile.write(part[:half])
        elif behaviour in ("silent", "silent-ranges") and len(part) > 1:
            self.wfile.write(part[:half])
            self.server.released.wait(10)
        else:
            self.wfile.write(part)

    def send_endlessly(self):
        self.end_headers()
        for _ in range(1000):  # 1 GB, or until the client closes the connection
            self.wfile.write(bytes(1 << 20))
            self.requests.append("a megabyte")

    def log_message(self, *args):
        pass

    def finish(self):
        with suppress(BrokenPipeError, ConnectionResetError):
            super().finish()


class QuietServer(ThreadingHTTPServer):
    def handle_error(self, request, client_address):
        """Print nothing when the client is gone. Any other error makes the test of the client fail."""


@contextmanager
def serving(files):
    """Serve files, and yield the address of the server and the list of requests that it receives."""
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
