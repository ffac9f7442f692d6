"""Many sessions at once, each its own connection that echoes. Arguments: port, key, login, connections, bytes."""

import asyncio
import os
import sys

import asyncssh

PORT, KEY, LOGIN = int(sys.argv[1]), sys.argv[2], sys.argv[3]
CONNECTIONS, BYTES = int(sys.argv[4]), int(sys.argv[5])


async def open_one(gate):
    async with gate:
        return await asyncssh.connect(
            "127.0.0.1", PORT, username=LOGIN, client_keys=[KEY], known_hosts=None, config=None, agent_path=None
        )


async def main():
    # Half of the places there are for those who have not logged in.
    gate = asyncio.Semaphore(50)
    connections = await asyncio.gather(*(open_one(gate) for _ in range(CONNECTIONS)))

    async def echo(connection):
        data = os.urandom(BYTES)
        done = await connection.run("cat", input=data, encoding=None)
        assert done.stdout == data, (len(done.stdout), done.exit_status, done.stderr)

    await asyncio.gather(*map(echo, connections))
    for connection in connections:
        connection.close()
    print("done")


asyncio.run(main())
