"""A web server on this machine, for downloads."""

import http.server
import threading
from contextlib import contextmanager


class QuietHandler(http.server.BaseHTTPRequestHandler):
    def log_message(self, *_):
        pass


@contextmanager
def serving(handler, **attributes):
    """A server with an ``url``, which notes its ``requests``; ``attributes`` are for its handler."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        vars(server).update(requests=[], daemon_threads=True, **attributes)
        server.url = f"http://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()
