"""A chat client in the extended dialect, for tests: it keeps what it was told, and comes back when it is cut off."""

import json
import socket
import threading
import time


class Refused(Exception):
    """The server answered `Rejected`."""


class Client:
    """One connection, within TLS if there is a context and the name that the server's certificate is for. Not for several threads at once."""

    def __init__(self, address, user, timeout=10, tls=None, name=None):
        self.socket = socket.create_connection(address, timeout)
        if tls:
            self.socket = tls.wrap_socket(self.socket, server_hostname=name)
        self.lines = self.socket.makefile("rb")
        self.send("Hello", version=1, user=user)
        self.welcome = self.expect("Welcome")

    def send(self, kind, **fields):
        self.socket.sendall(json.dumps({kind: fields}).encode() + b"\n")

    def receive(self):
        """The next line, as its kind and its fields."""
        while True:
            line = self.lines.readline()
            if not line.endswith(b"\n"):
                raise ConnectionError("the server closed the connection")
            ((kind, fields),) = json.loads(line).items()
            if kind != "Ping":
                return kind, fields
            self.send("Pong")

    def expect(self, wanted):
        """The fields of the next line of this kind; messages and other lines before it are dropped."""
        while True:
            kind, fields = self.receive()
            if kind == wanted:
                return fields
            if kind in ("Rejected", "Error"):
                raise Refused(fields)

    def join(self, group, **where):
        self.send("Join", group_name=group, **where)
        return self.expect("Joined")

    def post(self, group, message, post_id):
        """Posts, and returns what says that the post is kept."""
        self.send("Post", group_name=group, message=message, id=post_id)
        return self.expect("Posted")

    def history(self, group):
        """All that the server has of a group."""
        messages, after = [], 0
        while True:
            self.send("History", group_name=group, after=after, limit=200)
            page = self.expect("History")
            messages += page["messages"]
            if not page["more"]:
                return messages
            after = page["messages"][-1]["seq"]

    def close(self):
        self.lines.close()
        self.socket.close()


def round_trip(address, group="round-trip"):
    """Two clients: what one posts, the other gets."""
    reader, writer = Client(address, "reader"), Client(address, "writer")
    reader.join(group)
    posted = writer.post(group, "hello", f"id-{time.time_ns()}")
    message = reader.expect("Message")
    assert (message["message"], message["sender"], message["seq"]) == ("hello", "writer", posted["seq"]), message
    reader.close()
    writer.close()


class Load:
    """Posts into a group, one post after the other, and reads it, as long as it is told to, through every interruption.

    A post is repeated with its id until it is answered; the reader resumes after the last message it saw.
    """

    def __init__(self, address, group):
        self.address, self.group = address, group
        self.acked = {}
        self.epochs = set()
        self.seen = {}
        self.problems = []
        self.reconnects = {"poster": 0, "reader": 0}
        self.resumed_without_loss = True
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._attempt, args=(work,), daemon=True) for work in (self._post, self._read)]

    def start(self):
        """Returns when the reader is a member and the first posts are answered."""
        for thread in self._threads:
            thread.start()
        deadline = time.monotonic() + 20
        while not (len(self.acked) > 5 and self.seen):
            assert time.monotonic() < deadline, f"the load does not start: {self.problems}"
            time.sleep(0.05)
        return self

    def progress(self, timeout=60):
        """Waits until posts are answered and read again that were not before this call."""
        acked, deadline = len(self.acked), time.monotonic() + timeout
        while len(self.acked) < acked + 10 or max(self.seen) < max(self.acked.values()) - 50:
            assert time.monotonic() < deadline, f"no progress: {len(self.acked)} acked, {len(self.seen)} seen; {self.problems}"
            time.sleep(0.05)

    def stop(self):
        self._stop.set()
        for thread in self._threads:
            thread.join(30)
            assert not thread.is_alive(), "a client of the load does not end"

    def verify(self, address=None):
        """Every acknowledged post is in the log under its number, once; and the reader saw it, if it is up to date."""
        assert not self.problems, self.problems
        client = Client(address or self.address, "judge")
        client.join(self.group)
        kept = {message["seq"]: message for message in client.history(self.group)}
        client.close()
        by_id = {message["id"]: seq for seq, message in kept.items()}
        assert len(by_id) == len(kept), "a post is in the log twice"
        lost = {post_id: seq for post_id, seq in self.acked.items() if by_id.get(post_id) != seq}
        assert not lost, f"{len(lost)} of {len(self.acked)} acknowledged posts are lost or moved: {sorted(lost.items())[:5]}"
        assert sorted(kept) == list(range(min(kept), max(kept) + 1)), "the numbers of the group have gaps"
        assert self.resumed_without_loss and len(self.epochs) == 1, f"epochs: {self.epochs}"
        first, last = min(self.seen), max(self.seen)
        missing = [seq for seq in range(first, last + 1) if seq not in self.seen]
        assert not missing, f"the reader never saw {missing[:5]}"

    def _attempt(self, work):
        """Runs `work` again and again, as a client that reconnects with a delay."""
        while not self._stop.is_set():
            try:
                work()
                return
            except (OSError, ValueError, Refused):
                time.sleep(0.2)
            except Exception as error:  # pylint: disable=broad-except
                self.problems.append(f"{work.__name__}: {error!r}")
                return

    def _post(self):
        client = Client(self.address, "poster", timeout=5)
        self.reconnects["poster"] += 1
        client.join(self.group)
        while not self._stop.is_set():
            post_id = f"p-{len(self.acked)}"
            posted = client.post(self.group, f"message {post_id}", post_id)
            self.acked[post_id] = posted["seq"]
            time.sleep(0.01)
        client.close()

    def _read(self):
        client = Client(self.address, "reader", timeout=5)
        self.reconnects["reader"] += 1
        if self.seen:
            joined = client.join(self.group, after=max(self.seen), epoch=next(iter(self.epochs)))
            self.resumed_without_loss &= joined["recovered"]
        else:
            joined = client.join(self.group)
        self.epochs.add(joined["epoch"])
        while not self._stop.is_set():
            kind, fields = client.receive()
            if kind == "Message":
                if fields["seq"] in self.seen:
                    self.problems.append(f"seq {fields['seq']} came twice")
                self.seen[fields["seq"]] = fields["message"]
            elif kind == "Lagged":
                self.problems.append(f"lost: {fields}")
        client.close()
