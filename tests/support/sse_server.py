"""A small OpenAI-like SSE server in a thread, with the habits and faults of real ones."""

import json
import socket
import socketserver
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Script:
    """What the server does; tests change it."""

    def __init__(self, **changes):
        self.tokens = 8
        self.delay_s = 0.0
        self.first_delay_s = 0.0
        self.usage = True
        self.done = True
        self.status = 200
        self.error_event = False
        self.close_after = 0
        self.cut_after_events = None
        self.split = 0
        self.tokens_per_event = 1
        self.requests = []
        self.connections = 0
        self.__dict__.update(changes)

    def events(self):
        chunk = {"id": "x", "object": "chat.completion.chunk", "usage": None}
        yield {**chunk, "choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}}]}
        for start in range(0, self.tokens, self.tokens_per_event):
            text = '"a",\n\n' * min(self.tokens_per_event, self.tokens - start)
            yield {**chunk, "choices": [{"index": 0, "delta": {"content": text}}]}
        if self.error_event:
            yield {"error": {"message": "engine died"}}
        yield {**chunk, "choices": [{"index": 0, "delta": {}, "finish_reason": "length"}]}
        if self.usage:
            details = {"completion_tokens_details": {"reasoning_tokens": 0}}
            yield {**chunk, "choices": [], "usage": {"completion_tokens": self.tokens, **details}}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def setup(self):
        super().setup()
        self.server.script.connections += 1
        self.answered = 0

    def log_message(self, *args):
        pass

    def do_POST(self):
        script = self.server.script
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        script.requests.append(body)
        self.answered += 1
        if script.status != 200:
            self._plain(script.status, {"error": {"message": "no"}})
        elif body.get("stream"):
            self._stream(script)
        else:
            self._plain(200, {"usage": {"completion_tokens": script.tokens}})
        if script.close_after and self.answered >= script.close_after:
            self.close_connection = True  # without a "connection: close" header: the client must notice

    def _plain(self, status, value):
        data = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _stream(self, script):
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        time.sleep(script.first_delay_s)
        for number, event in enumerate(script.events()):
            if number == script.cut_after_events:
                self.close_connection = True
                self.connection.shutdown(socket.SHUT_RDWR)
                return
            self._chunk(b"id: 1-%d\ndata: %b\n\n" % (number, json.dumps(event).encode()))
            if number:
                time.sleep(script.delay_s)
        self._chunk(b"data: [DONE]\n\n" if script.done else b": bye\n\n")
        self.wfile.write(b"0\r\n\r\n")

    def _chunk(self, data):
        framed = b"%x\r\n%b\r\n" % (len(data), data)
        step = self.server.script.split or len(framed)
        for at in range(0, len(framed), step):
            self.wfile.write(framed[at : at + step])
            self.wfile.flush()


class Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 512

    def server_bind(self):
        # HTTPServer's own looks up the host's name, which may take seconds.
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = self.server_address

    def handle_error(self, request, client_address):
        """A client that leaves is no news."""


@contextmanager
def fake_server(**changes):
    server = Server(("127.0.0.1", 0), Handler)
    server.script = Script(**changes)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", server.script
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
