"""A chat client in the extended dialect, for tests: it keeps what it was told, and comes back when it is cut off."""

import json
import socket
import threading
import time


class Refused(Exception):
    """The server answered `Rejected`."""


class Client:
    """One connection, within TLS if there is a context and the name that the server's certificate is for. Not for several threads at once."""

    def __init__(self, address, user, timeout=10, tls=None, name=None, token=None):
        self.socket = socket.create_connection(address, timeout)
        if tls:
            self.socket = tls.wrap_socket(self.socket, server_hostname=name)
        self.lines = self.socket.makefile("rb")
        # What `GoingAway` said, once it has come.
        self.going_away = None
        self.send("Hello", version=1, user=user, **({"token": token} if token else {}))
        self.welcome = self.expect("Welcome")

    def send(self, kind, **fields):
        self.socket.sendall(json.dumps({kind: fields}).encode() + b"\n")

    def receive(self):
        """The next line, as its kind and its fields."""
        while True:
            line = self.lines.readline()
            if not line.endswith(b"\n"):
                raise ConnectionError("the server closed the connection")
            try:
                ((kind, fields),) = json.loads(line).items()
            except (ValueError, AttributeError) as error:
                # An address may lead to somebody else for a moment.
                raise ConnectionError(f"no line of the protocol: {line[:80]!r}") from error
            if kind == "GoingAway":
                self.going_away = fields
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

    def cut(self):
        """Ends the connection; another thread that waits for a line is told."""
        try:
            self.socket.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass

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
    """Clients that post into a group, each one post after the other, and clients that read it, as long as they are told to, through every interruption.

    A post is repeated with its id until it is answered; a reader resumes after the last message it saw. Who is told to go away goes, and comes back when it was told to.
    `address` is where all connect, or a function that is asked before each connection, with the client's name and how many it has had.
    """

    def __init__(self, address, group, posters=1, readers=1, pause=0.01):
        self.address, self.group, self.pause = address, group, pause
        self.acked = {}
        self.epochs = set()
        # What each reader saw, in the order in which it came.
        self.seen = {f"reader-{number}": {} for number in range(readers)}
        self.problems = []
        # The longest time, in seconds, for which each client was not served: a poster from its wish to post to the answer, a reader from one message to the next.
        self.unserved = {}
        self.resumed_without_loss = True
        self._hush, self._stop = threading.Event(), threading.Event()
        self._readers = {}
        works = [(self._post, f"poster-{number}") for number in range(posters)] + [(self._read, name) for name in self.seen]
        self.reconnects = {name: 0 for _, name in works}
        self._threads = [threading.Thread(target=self._attempt, args=each, daemon=True) for each in works]
        self._posters = self._threads[:posters]

    def start(self):
        """Returns when the readers are members and the first posts of each poster are answered."""
        for thread in self._threads:
            thread.start()
        deadline = time.monotonic() + 20
        while not (len(self.acked) > 5 and all(self.reconnects.values()) and all(self.seen.values())):
            assert time.monotonic() < deadline, f"the load does not start: {self.problems}"
            time.sleep(0.05)
        return self

    def progress(self, timeout=60):
        """Waits until posts are answered and read again that were not before this call."""
        acked, deadline = len(self.acked), time.monotonic() + timeout
        while len(self.acked) < acked + 10 or min(max(seen) for seen in self.seen.values()) < max(self.acked.values()) - 50:
            assert time.monotonic() < deadline, f"no progress: {len(self.acked)} acked, {[len(seen) for seen in self.seen.values()]} seen; {self.problems}"
            time.sleep(0.05)

    def stop(self):
        """Ends the posting, and the reading once all that was answered is read."""
        self._hush.set()
        self._join(self._posters)
        deadline = time.monotonic() + 30
        while min(max(seen) for seen in self.seen.values()) < max(self.acked.values()):
            if time.monotonic() > deadline:
                self.problems.append(f"not all readers saw what was acknowledged: {[max(seen) for seen in self.seen.values()]} of {max(self.acked.values())}")
                break
            time.sleep(0.05)
        self.abandon()
        self._join(self._threads)

    def abandon(self):
        """Has all clients end soon, wherever they are."""
        self._hush.set()
        self._stop.set()
        for client in list(self._readers.values()):
            client.cut()

    def _join(self, threads):
        for thread in threads:
            thread.join(30)
            assert not thread.is_alive(), f"a client of the load does not end: {self.problems}"

    def verify(self, *addresses):
        """Every acknowledged post is in the log under its number, once; every reader saw what it is up to date with, in that order; and every address tells the same."""
        assert not self.problems, self.problems
        kept = None
        for address in addresses or [self._where("judge", 0)]:
            client = Client(address, "judge")
            client.join(self.group)
            history = {message["seq"]: message for message in client.history(self.group)}
            client.close()
            assert kept in (None, history), f"{address} tells another history than the first"
            kept = history
        by_id = {message["id"]: seq for seq, message in kept.items()}
        assert len(by_id) == len(kept), "a post is in the log twice"
        lost = {post_id: seq for post_id, seq in self.acked.items() if by_id.get(post_id) != seq}
        assert not lost, f"{len(lost)} of {len(self.acked)} acknowledged posts are lost or moved: {sorted(lost.items())[:5]}"
        assert sorted(kept) == list(range(min(kept), max(kept) + 1)), "the numbers of the group have gaps"
        assert self.resumed_without_loss and len(self.epochs) == 1, f"epochs: {self.epochs}"
        for name, seen in self.seen.items():
            assert list(seen) == list(range(min(seen), max(seen) + 1)), f"{name} saw gaps, or another order"
            other = [seq for seq, text in seen.items() if kept[seq]["message"] != text]
            assert not other, f"{name} saw something else than the log has at {other[:5]}"

    def _where(self, name, times):
        return self.address(name, times) if callable(self.address) else self.address

    def _attempt(self, work, name):
        """Runs `work` again and again, as a client that reconnects with a delay."""
        state = {"since": None, "posted": 0}
        stop = self._stop if work == self._read else self._hush
        while not stop.is_set():
            try:
                client = Client(self._where(name, self.reconnects[name]), name, timeout=10)
                self.reconnects[name] += 1
                try:
                    work(client, name, state)
                finally:
                    client.close()
                # Told to go away, and when to come back.
                pause = (client.going_away or {}).get("reconnect_after_ms", 0) / 1000
            except (OSError, ValueError, Refused):
                pause = 0.2
            except Exception as error:  # pylint: disable=broad-except
                self.problems.append(f"{name}: {error!r}")
                return
            state["since"] = state["since"] or time.monotonic()
            stop.wait(pause)

    def _served(self, name, state):
        if state["since"] is not None:
            self.unserved[name] = max(self.unserved.get(name, 0), time.monotonic() - state["since"])

    def _post(self, client, name, state):
        client.join(self.group)
        while not self._hush.is_set() and not client.going_away:
            state["since"] = state["since"] or time.monotonic()
            post_id = f"{name}-{state['posted']}"
            try:
                posted = client.post(self.group, f"message {post_id}", post_id)
            except Refused as refused:
                (fields,) = refused.args
                if not isinstance(fields, dict) or "retry_after_ms" not in fields:
                    raise
                self._hush.wait(fields["retry_after_ms"] / 1000)
                continue
            self.acked[post_id] = posted["seq"]
            state["posted"] += 1
            self._served(name, state)
            state["since"] = None
            self._hush.wait(self.pause)

    def _read(self, client, name, state):
        seen = self.seen[name]
        if seen:
            joined = client.join(self.group, after=max(seen), epoch=next(iter(self.epochs)))
            self.resumed_without_loss &= joined["recovered"]
        else:
            joined = client.join(self.group)
        self.epochs.add(joined["epoch"])
        self._readers[name] = client
        while not self._stop.is_set() and not client.going_away:
            kind, fields = client.receive()
            if kind == "Message":
                if fields["seq"] in seen:
                    self.problems.append(f"{name}: seq {fields['seq']} came twice")
                seen[fields["seq"]] = fields["message"]
                self._served(name, state)
                state["since"] = time.monotonic()
            elif kind == "Lagged":
                self.problems.append(f"{name}: lost: {fields}")
