"""What NATS does by itself: a core request, and a JetStream publish with its ack, one after the other, from the plainest client."""

import json
import multiprocessing
import socket
import time

PAYLOAD = b"x" * 128


class Client:
    """A connection that speaks just enough of the protocol."""

    def __init__(self, url):
        host, port = url.removeprefix("nats://").rsplit(":", 1)
        self.socket = socket.create_connection((host, int(port)), timeout=10)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.left = b""
        self.line()  # INFO
        self.socket.sendall(b'CONNECT {"verbose":false,"pedantic":false,"headers":true,"no_responders":true}\r\nPING\r\n')
        while self.line() != b"PONG":
            pass

    def more(self):
        data = self.socket.recv(65536)
        if not data:
            raise OSError("NATS closed the connection")
        self.left += data

    def line(self):
        while b"\r\n" not in self.left:
            self.more()
        line, self.left = self.left.split(b"\r\n", 1)
        return line

    def subscribe(self, subject):
        self.socket.sendall(b"SUB %s 1\r\nPING\r\n" % subject)
        while self.line() != b"PONG":
            pass

    def publish(self, subject, reply, payload):
        self.socket.sendall(b"PUB %s %s %d\r\n%s\r\n" % (subject, reply, len(payload), payload))

    def message(self):
        """The next message: where an answer is to go, and the payload."""
        while True:
            words = self.line().split(b" ")
            if words[0] == b"PING":
                self.socket.sendall(b"PONG\r\n")
            if words[0] in (b"MSG", b"HMSG"):
                size = int(words[-1])
                while len(self.left) < size + 2:
                    self.more()
                payload, self.left = self.left[:size], self.left[size + 2 :]
                has_reply = len(words) == (5 if words[0] == b"MSG" else 6)
                return words[3] if has_reply else b"", payload

    def ask(self, subject, payload):
        """A request, and its answer."""
        self.publish(subject, self.inbox, payload)
        return self.message()[1]

    def open_inbox(self):
        self.inbox = b"_INBOX.bench.%d" % time.monotonic_ns()
        self.subscribe(self.inbox)


def answer(url, ready):
    client = Client(url)
    client.subscribe(b"bench.request")
    ready.set()
    while True:
        reply, payload = client.message()
        client.socket.sendall(b"PUB %s %d\r\n%s\r\n" % (reply, len(payload), payload))


def paced(rate, seconds, do):
    """Does it at a rate, one after the other; answers how long after it was due each was done, in milliseconds, so that a stall shows in all that it held up."""
    times = []
    begun = time.perf_counter()
    while (due := begun + len(times) / rate) < begun + seconds:
        time.sleep(max(0, due - time.perf_counter()))
        do()
        times.append((time.perf_counter() - due) * 1e3)
    return sorted(times)


def requests(urls, rate, seconds, around):
    """Core requests, answered by another process at another server where there are several. `around` is what it is measured in."""
    context = multiprocessing.get_context("fork")
    ready = context.Event()
    answerer = context.Process(target=answer, args=(urls[-1], ready), daemon=True)
    answerer.start()
    try:
        if not ready.wait(10):
            raise OSError("nobody answers at NATS")
        client = Client(urls[0])
        client.open_inbox()
        time.sleep(0.2)  # Interest spreads between servers.
        with around:
            return paced(rate, seconds, lambda: client.ask(b"bench.request", PAYLOAD))
    finally:
        answerer.terminate()
        answerer.join()


def publishes(urls, replicas, rate, seconds, around):
    """JetStream publishes into a stream of files, each with its ack."""
    client = Client(urls[0])
    client.open_inbox()
    stream = {"name": "bench", "subjects": ["bench.stream"], "storage": "file", "num_replicas": replicas, "max_msgs": 10_000}
    made = json.loads(client.ask(b"$JS.API.STREAM.CREATE.bench", json.dumps(stream).encode()))
    if "error" in made:
        raise OSError(f"JetStream: {made['error']}")

    def publish():
        if b'"seq"' not in (ack := client.ask(b"bench.stream", PAYLOAD)):
            raise OSError(f"JetStream: {ack.decode(errors='replace')}")

    with around:
        return paced(rate, seconds, publish)
