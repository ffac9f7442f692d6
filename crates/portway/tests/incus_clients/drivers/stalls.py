"""A channel that stalls among a hundred, and a client that ignores its window. Arguments: port, key, login."""

import asyncio
import os
import sys

import asyncssh

PORT, KEY, LOGIN = int(sys.argv[1]), sys.argv[2], sys.argv[3]
# Below what makes a channel crowded, and far above its window.
STALLED_BYTES = 8 << 20
GREEDY_BYTES = 32 << 20


async def connect():
    return await asyncssh.connect(
        "127.0.0.1", PORT, username=LOGIN, client_keys=[KEY], known_hosts=None, config=None, agent_path=None
    )


async def echo(connection, count):
    data = os.urandom(count)
    done = await connection.run("cat", input=data, encoding=None)
    assert done.stdout == data, (len(done.stdout), done.exit_status, done.stderr)


async def one_of_a_hundred():
    connection = await connect()
    stalled = await connection.create_process("sleep 1000", encoding=None)
    stalled.stdin.write(bytes(STALLED_BYTES))
    await stalled.stdin.drain()
    await asyncio.gather(*(echo(connection, 100_000) for _ in range(99)))
    connection.close()
    await connection.wait_closed()


async def greedy():
    connection, other = await connect(), await connect()
    process = await connection.create_process("sleep 1000", encoding=None)
    # As if it had been given leave for all of it.
    process.channel._send_window = 1 << 40
    process.stdin.write(bytes(GREEDY_BYTES))
    await asyncio.wait_for(connection.wait_closed(), 60)
    await echo(other, 100_000)
    other.close()
    await other.wait_closed()


async def main():
    await one_of_a_hundred()
    await greedy()
    print("done")


asyncio.run(main())
