"""Many channels on one connection, as editors have them. Arguments: port, key, login."""

import asyncio
import os
import sys

import asyncssh

PORT, KEY, LOGIN = int(sys.argv[1]), sys.argv[2], sys.argv[3]


async def commands(conn):
    async def one(number):
        done = await conn.run("cat; echo $LC_EDITOR", input=f"{number}\n", env={"LC_EDITOR": f"e{number}"})
        assert done.stdout == f"{number}\ne{number}\n", done.stdout

    await asyncio.gather(*(one(number) for number in range(40)))


async def files(conn):
    """Written beside and moved over the old one, as editors save."""
    async with conn.start_sftp_client() as sftp:
        home = await sftp.realpath(".")
        space = await sftp.statvfs(home)
        assert space.bsize > 0 and space.bavail > 0

        async def one(number):
            name, text = f"{home}/file{number}", os.urandom(50_000 + number)
            for _ in range(2):
                async with sftp.open(f"{name}.new", "wb") as file:
                    await file.write(text)
                await sftp.posix_rename(f"{name}.new", name)
            async with sftp.open(name, "rb") as file:
                assert await file.read() == text, number

        await asyncio.gather(*(one(number) for number in range(20)))
        names = [name for name in await sftp.listdir(home) if name.startswith("file")]
        assert len(names) == 20, names


async def ways(conn):
    """Connections to a server inside, and one back from there."""
    server = await conn.create_process("python3 -u -c '" + """
import socket, threading
listener = socket.create_server(("127.0.0.1", 0))
print(listener.getsockname()[1])
while True:
    one, _ = listener.accept()
    threading.Thread(target=lambda one=one: (one.sendall(one.recv(100)), one.close())).start()
""" + "'")
    port = int(await server.stdout.readline())

    async def one(number):
        reader, writer = await conn.open_connection("localhost", port)
        writer.write(b"%d" % number)
        assert await reader.read() == b"%d" % number
        writer.close()

    await asyncio.gather(*(one(number) for number in range(40)))
    server.terminate()

    async def back(reader, writer):
        writer.write((await reader.read()).upper())
        writer.write_eof()

    listener = await conn.start_server(lambda *_: back, "127.0.0.1", 0)
    assert listener.get_port() > 0
    asked = f"import socket; s = socket.create_connection(('127.0.0.1', {listener.get_port()})); s.sendall(b'back'); " \
        "s.shutdown(1); print(s.recv(100).decode())"
    done = await conn.run(f'python3 -c "{asked}"')
    assert done.stdout == "BACK\n", (done.stdout, done.stderr)
    listener.close()
    await listener.wait_closed()
    listener = await conn.start_unix_server(lambda: back, "/tmp/back.sock")
    asked = "import socket; s = socket.socket(socket.AF_UNIX); s.connect('/tmp/back.sock'); s.sendall(b'unix'); " \
        "s.shutdown(1); print(s.recv(100).decode())"
    done = await conn.run(f'python3 -c "{asked}"')
    assert done.stdout == "UNIX\n", (done.stdout, done.stderr)
    listener.close()


async def refused(conn):
    """Why there is no connection is said by its number (RFC 4254, section 5.1), before it is one."""
    for host, port, code in [("127.0.0.1", 9, 2), ("no-such-name.invalid", 80, 2), ("127.0.0.1", 70_000, 2)]:
        try:
            await conn.open_connection(host, port)
            raise AssertionError((host, port))
        except asyncssh.ChannelOpenError as error:
            assert error.code == code, (host, port, error.code, error.reason)
    try:
        await conn.open_unix_connection("/no/such.sock")
        raise AssertionError("a socket that is not")
    except asyncssh.ChannelOpenError as error:
        assert error.code == 2, (error.code, error.reason)


async def terminal(conn):
    process = await conn.create_process("stty size; read line; echo \"<$line>\"; stty size",
                                        term_type="xterm-256color", term_size=(100, 30))
    assert await process.stdout.readline() == "30 100\r\n"
    process.change_terminal_size(120, 40)
    process.stdin.write("typed\n")
    rest = await process.stdout.read()
    assert "<typed>" in rest and "40 120" in rest, rest


async def main():
    async with asyncssh.connect("127.0.0.1", PORT, username=LOGIN, client_keys=[KEY], known_hosts=None, config=None,
                                agent_path=None) as conn:
        await asyncio.wait_for(asyncio.gather(*(part(conn) for part in [commands, files, ways, terminal])), 120)
        await asyncio.wait_for(refused(conn), 60)
    print("done")


asyncio.run(main())
