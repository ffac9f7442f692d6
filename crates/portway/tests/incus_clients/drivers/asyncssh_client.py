"""asyncssh against the gateway: statuses, bytes, signals, refusals. Arguments: port, key, login."""

import asyncio
import hashlib
import os
import sys

import asyncssh

PORT, KEY, LOGIN = int(sys.argv[1]), sys.argv[2], sys.argv[3]


def connect(**more):
    return asyncssh.connect(
        "127.0.0.1", PORT, username=LOGIN, client_keys=[KEY], known_hosts=None, config=None, agent_path=None, **more
    )


async def statuses(conn):
    """Every status there is, over one connection, eight at a time."""
    gate = asyncio.Semaphore(8)

    async def one(status):
        async with gate:
            done = await conn.run(f"exit {status}")
            assert done.exit_status == status, (status, done.exit_status, done.stderr)

    await asyncio.gather(*(one(status) for status in range(256)))


async def signalled(conn):
    """A signal goes in, and how it ended comes out: by name, or 128 and its number."""
    for name, number in [("TERM", 15), ("KILL", 9), ("INT", 2), ("HUP", 1)]:
        process = await conn.create_process("echo up; while :; do sleep 0.1; done")
        assert await process.stdout.readline() == "up\n"
        process.send_signal(name)
        done = await asyncio.wait_for(process.wait(), 30)
        assert done.exit_status == 128 + number or done.exit_signal[0] == name, (name, done.exit_status, done.exit_signal)
    process = await conn.create_process("trap 'echo caught; exit 5' USR1; echo up; while :; do sleep 0.1; done")
    assert await process.stdout.readline() == "up\n"
    process.send_signal("USR1")
    done = await asyncio.wait_for(process.wait(), 30)
    assert (done.stdout, done.exit_status) == ("caught\n", 5), done
    done = await conn.run("kill -TERM $$")
    assert done.exit_status == 143 or done.exit_signal[0] == "TERM", done


async def apart(conn):
    """Both outputs and the input keep their bytes."""
    data = os.urandom(1 << 20)
    done = await conn.run("cat; echo error >&2", input=data, encoding=None)
    assert done.stdout == data and done.stderr == b"error\n", (len(done.stdout), done.stderr)
    done = await conn.run("cat >&2", input=data, encoding=None)
    assert done.stderr == data and done.stdout == b"", (len(done.stderr), done.stdout)


async def refused(conn):
    """What is not served is refused with a word, and the connection lives on."""
    try:
        await conn.run("", subsystem="no-such-subsystem")
        raise AssertionError("a subsystem that does not exist")
    except asyncssh.ChannelOpenError:
        pass
    assert (await conn.run("echo on")).stdout == "on\n"


async def many(conn):
    """A hundred channels of one connection, all open at once."""

    async def one(number):
        process = await conn.create_process("cat", encoding=None)
        process.stdin.write(b"%d" % number)
        return process, number

    opened = await asyncio.gather(*(one(number) for number in range(100)))
    for process, number in opened:
        process.stdin.write_eof()
        assert await process.stdout.read() == b"%d" % number
        await process.wait()


async def main():
    async with connect() as conn:
        for part in [statuses, signalled, apart, refused, many]:
            try:
                await asyncio.wait_for(part(conn), 120)
            except BaseException as error:
                raise RuntimeError(part.__name__) from error
    # New keys in the middle of a stream.
    async with connect(rekey_bytes=1 << 16) as conn:
        data = os.urandom(2 << 20)
        done = await conn.run("cat", input=data, encoding=None)
        assert hashlib.sha256(done.stdout).digest() == hashlib.sha256(data).digest()
    # A client that says nothing of ed25519 or curve25519.
    async with connect(kex_algs=["diffie-hellman-group16-sha512"], encryption_algs=["aes256-ctr"]) as conn:
        assert (await conn.run("echo old")).stdout == "old\n"
    print("done")


asyncio.run(main())
