"""A chat as people make it: both dialects, coming and going, mistakes, and members that read slowly."""

import asyncio
import contextlib
import json
import random
import socket

GROUPS = ("lobby", "dogs", "cats", "birds", "rust", "news")
WORDS = "samoyeds rock and so does everybody who is here tonight to talk about nothing much".split()


async def connect(address, receive_buffer=None):
    """A connection; one with a small receive buffer makes the server feel at once that its client does not read."""
    host, port = address.rsplit(":", 1)
    raw = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    raw.setblocking(False)
    if receive_buffer:
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    try:
        await asyncio.get_running_loop().sock_connect(raw, (host, int(port)))
        return await asyncio.open_connection(sock=raw, limit=1024 if receive_buffer else 2**20)
    except BaseException:
        raw.close()
        raise


def send(writer, kind, **fields):
    writer.write(json.dumps({kind: fields}).encode() + b"\n")


class Crowd:
    """Clients of one server, until it is left. With an issuer of tokens, those who give a name prove it."""

    def __init__(self, address, seed, issuer=None):
        self.address = address
        self.issuer = issuer
        self.random = random.Random(seed)
        self.tasks = []

    def add(self, what, *arguments, **named):
        self.tasks.append(asyncio.create_task(self.again(what, *arguments, **named)))

    async def again(self, what, *arguments, **named):
        """Comes back when the connection ends, after a while."""
        while True:
            with contextlib.suppress(OSError, EOFError, ValueError):
                await what(*arguments, **named)
            await asyncio.sleep(0.5)

    async def leave(self):
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        self.tasks.clear()

    def usual(self, people=24, pace=0.5):
        """An evening like any other."""
        for number in range(people):
            groups = self.random.sample(GROUPS, 3)
            if number % 3 == 0:
                self.add(self.classic, groups, pace)
            else:
                self.add(self.extended, f"user{number}", groups, pace)
        self.add(self.clumsy, pace)
        self.add(self.passer_by, pace)
        self.add(self.behind, pace)

    def named(self, user):
        """What somebody says in `Hello` who has a name."""
        return {"token": self.issuer.token(user)} if self.issuer else {"user": user}

    def text(self):
        return " ".join(self.random.choices(WORDS, k=self.random.randint(1, 30)))

    async def pause(self, pace):
        await asyncio.sleep(self.random.expovariate(1 / pace))

    async def classic(self, groups, pace):
        """Speaks the classic dialect, and now and then to a group that there is not."""
        reader, writer = await connect(self.address)
        async with reading(reader, writer):
            for group in groups:
                send(writer, "Join", group_name=group)
            for _ in range(self.random.randint(20, 80)):
                await self.pause(pace)
                nowhere = self.random.random() < 0.01
                send(writer, "Post", group_name="nowhere" if nowhere else self.random.choice(groups), message=self.text())

    async def extended(self, user, groups, pace):
        """Speaks the extended dialect, repeats some of its posts, asks, leaves and joins again."""
        reader, writer = await connect(self.address)
        async with reading(reader, writer):
            send(writer, "Hello", version=1, **self.named(user))
            for group in groups:
                send(writer, "Join", group_name=group, last=5)
            for number in range(self.random.randint(20, 80)):
                await self.pause(pace)
                group, chance = self.random.choice(groups), self.random.random()
                post = {"group_name": group, "message": self.text(), "id": f"{user}-{self.random.random()}"}
                send(writer, "Post", **post)
                if chance < 0.03:
                    send(writer, "Post", **post)
                elif chance < 0.06:
                    send(writer, "History", group_name=group, limit=10)
                    send(writer, "Members", group_name=group)
                    send(writer, "Groups")
                    send(writer, "Ping")
                elif chance < 0.10:
                    send(writer, "Leave", group_name=group)
                    send(writer, "Join", group_name=group, last=10)
                    send(writer, "Join", group_name=group)

    async def clumsy(self, pace):
        """Sends lines that are none, until it is thrown out."""
        reader, writer = await connect(self.address)
        async with reading(reader, writer) as ended:
            while not ended.is_set():
                writer.write(b'{"Join":{"group_name":}}\nnonsense\n')
                await self.pause(5 * pace)

    async def passer_by(self, pace):
        """Comes, says nothing, goes."""
        _, writer = await connect(self.address)
        await self.pause(pace)
        writer.close()

    async def behind(self, pace):
        """Reads slower than `busy` speaks, for a while."""
        async with contextlib.AsyncExitStack() as stack:
            reader, writer = await connect(self.address)
            await stack.enter_async_context(reading(reader, writer))
            slow, slow_writer = await connect(self.address, receive_buffer=4096)
            stack.callback(slow_writer.close)
            send(slow_writer, "Hello", version=1, **self.named("slow"))
            send(slow_writer, "Join", group_name="busy")
            send(writer, "Join", group_name="busy")
            for _ in range(600):
                send(writer, "Post", group_name="busy", message="x" * 2000)
                if self.random.random() < 0.05:
                    await asyncio.sleep(0.02)
            for _ in range(300):
                await asyncio.wait_for(slow.read(8192), 10)
                await asyncio.sleep(0.01)
            await self.pause(10 * pace)

    async def flood(self, group, size=8000, per_second=200):
        """Speaks much, into one group."""
        reader, writer = await connect(self.address)
        async with reading(reader, writer) as ended:
            send(writer, "Join", group_name=group)
            while not ended.is_set():
                for _ in range(10):
                    send(writer, "Post", group_name=group, message="y" * size)
                await writer.drain()
                await asyncio.sleep(10 / per_second)

    async def slow(self, group, bytes_per_second=300_000):
        """A member that reads, but slower than `flood` speaks. (Much slower, and it would look stalled: the kernel reports room for
        more only when a third of what it holds for the client has gone.)"""
        reader, writer = await connect(self.address, receive_buffer=16_384)
        try:
            send(writer, "Hello", version=1)
            send(writer, "Join", group_name=group)
            while got := await reader.read(16_384):
                await asyncio.sleep(len(got) / bytes_per_second)
        finally:
            writer.close()

    async def stalled(self, group):
        """A member that reads nothing."""
        _, writer = await connect(self.address, receive_buffer=4096)
        try:
            send(writer, "Join", group_name=group)
            await asyncio.sleep(20)
        finally:
            writer.close()

    async def mistaken(self, per_second=60):
        """Speaks into groups that there are not."""
        reader, writer = await connect(self.address)
        async with reading(reader, writer) as ended:
            while not ended.is_set():
                send(writer, "Post", group_name="nowhere", message="anybody?")
                await asyncio.sleep(1 / per_second)

    async def founder(self, per_second=20):
        """Founds groups without end."""
        reader, writer = await connect(self.address)
        async with reading(reader, writer) as ended:
            number = 0
            while not ended.is_set():
                number += 1
                send(writer, "Join", group_name=f"new{number}")
                await asyncio.sleep(1 / per_second)


@contextlib.asynccontextmanager
async def reading(reader, writer):
    """Reads and forgets all that comes, answering pings. What is yielded is set when the server has ended the connection."""
    ended = asyncio.Event()

    async def read():
        try:
            while line := await reader.readline():
                if line.startswith(b'{"Ping"'):
                    send(writer, "Pong")
        except (OSError, ValueError):
            pass
        finally:
            ended.set()

    task = asyncio.create_task(read())
    try:
        yield ended
    finally:
        task.cancel()
        writer.close()
