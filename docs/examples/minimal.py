#!/usr/bin/env python3
"""A client of tertulia to begin with: posts each line of its input, and prints seq, sender and text of each message.

    python3 minimal.py HOST PORT USER GROUP [FILE]

When the connection is lost it connects again, and misses and repeats nothing, neither of what it reads nor of what it posts:
docs/protocol.md, "Joining and resuming" and "Posting once". It ends when its input has ended and all of it is answered.
FILE has a token of USER, where the server asks for one; another one may stand there when that has expired.
"""

import json
import os
import random
import select
import socket
import sys
import time


class ComeBack(Exception):
    """The server says after how many milliseconds to connect again."""


class Client:
    def __init__(self, host, port, user, group, token_file=None):
        self.address, self.user, self.group, self.token_file = (host, int(port)), user, group, token_file
        self.epoch, self.seen = None, 0  # Which life of the group it is, and the newest message of it that we have.
        self.posts, self.count, self.prefix = [], 0, f"{random.getrandbits(64):x}"  # Those without an answer, oldest first.
        self.input, self.input_ended, self.failures = b"", False, 0

    def run(self):
        while self.posts or not self.input_ended:
            # Clients that lost the same server are not to come back all in one moment.
            pause = random.uniform(0.5, 1) * min(10, 0.1 * 2 ** min(self.failures, 7))
            self.failures += 1
            try:
                with socket.create_connection(self.address, timeout=10) as self.socket:
                    self.converse()
            except ComeBack as error:
                pause = error.args[0] / 1000
            except OSError as error:
                print(error, file=sys.stderr, flush=True)
            time.sleep(pause)

    def converse(self):
        self.head, self.sent, self.silence, rest, finished = None, False, 30, b"", False
        with open(self.token_file or os.devnull, encoding="utf-8") as file:  # Anew each time.
            token = file.read().strip()
        self.say("Hello", version=1, user=self.user, **({"token": token} if token else {}))
        self.say("Join", group_name=self.group, **({} if self.epoch is None else {"after": self.seen, "epoch": self.epoch}))
        while True:
            # Nothing is posted before all that was missed is there: a post that got no answer may be among it.
            may_post = self.head is not None and self.seen >= self.head
            if may_post and self.posts and not self.sent:
                self.say("Post", **self.posts[0])
                self.sent = True
            if self.input_ended and not self.posts and not finished:
                self.socket.shutdown(socket.SHUT_WR)  # What is still to come comes, and then the server closes.
                finished = True
            wants_input = may_post and not self.posts and not self.input_ended
            ready, _, _ = select.select([self.socket, sys.stdin] if wants_input else [self.socket], [], [], self.silence)
            if not ready:
                raise TimeoutError("the server is silent")
            if sys.stdin in ready:
                self.take_input()
            if self.socket in ready:
                some = self.socket.recv(65536)
                if not some:  # What is left in `rest` was cut off, and is no line.
                    return
                *lines, rest = (rest + some).split(b"\n")
                for line in lines:
                    ((kind, fields),) = json.loads(line).items()
                    self.on_line(kind, fields)

    def say(self, kind, **fields):
        self.socket.sendall(json.dumps({kind: fields}).encode() + b"\n")

    def take_input(self):
        some = os.read(sys.stdin.fileno(), 65536)
        *texts, self.input = (self.input + some).split(b"\n")
        if not some:
            self.input_ended = True
            texts += [self.input] if self.input else []
        for text in texts:
            self.count += 1
            post_id = f"{self.prefix}-{self.count}"
            self.posts.append({"group_name": self.group, "message": text.decode(errors="replace"), "id": post_id})

    def on_line(self, kind, fields):
        waits = self.posts[0]["id"] if self.posts else ""
        if kind == "Welcome":
            self.failures, self.silence = 0, 2 * fields["heartbeat"] / 1000
        elif kind == "Ping":
            self.say("Pong")
        elif kind == "Joined":
            if self.epoch is None:
                self.seen = fields["head"]
            elif fields["epoch"] != self.epoch or fields["head"] < self.seen:
                self.seen = 0  # It is another group now, or an older copy of it: it comes from its beginning.
            self.epoch, self.head = fields["epoch"], fields["head"]
        elif kind == "Lagged":
            self.seen = fields["last"]
            print(f"{fields['first']} to {fields['last']} are gone", file=sys.stderr, flush=True)
        elif kind == "Message":
            self.seen = fields["seq"]
            text = "(removed)" if fields.get("removed") else repr(fields["message"])  # Texts that `removes` names are not to be shown any more.
            print(fields["seq"], fields["sender"], text, sep="\t", flush=True)
            if (fields["sender"], fields.get("id")) == (self.user, waits):
                self.answered()
        elif kind == "Posted" and fields.get("id") == waits:
            self.answered()
        elif kind == "GoingAway":
            raise ComeBack(fields["reconnect_after_ms"])
        elif kind == "Rejected" and fields["code"] != "draining":  # Then `GoingAway` comes as well.
            if "retry_after_ms" in fields:
                raise ComeBack(fields["retry_after_ms"])  # Then it is sent again, a post under the same id.
            if fields["code"] == "unauthenticated" and self.epoch is not None:  # It has expired: there may be another one soon.
                raise ConnectionError(fields["message"])
            if fields.get("request") != "Post":
                sys.exit(f"{fields['code']}: {fields['message']}")
            print(f"not posted: {fields['message']}", file=sys.stderr, flush=True)
            self.answered()
        elif kind in ("Left", "Error"):
            sys.exit(f"{kind}: {fields}")

    def answered(self):
        self.posts.pop(0)
        self.sent = False


if __name__ == "__main__":
    if len(sys.argv) not in (5, 6):
        sys.exit(__doc__)
    Client(*sys.argv[1:]).run()
