"""A file there and back by paramiko and by asyncssh. Arguments: port, key, login, file, and where each puts it back."""

import asyncio
import os
import stat
import sys

import asyncssh
import paramiko

PORT, KEY, LOGIN, FILE = int(sys.argv[1]), sys.argv[2], sys.argv[3], sys.argv[4]


def by_paramiko(back):
    client = paramiko.SSHClient()
    client.set_missing_host_key_policy(paramiko.AutoAddPolicy())
    client.connect("127.0.0.1", PORT, LOGIN, key_filename=KEY, allow_agent=False, look_for_keys=False)
    with client.open_sftp() as sftp:
        sftp.put(FILE, "paramiko-file")
        sftp.get("paramiko-file", back)
        sftp.posix_rename("paramiko-file", "paramiko renamed")
        assert "paramiko renamed" in sftp.listdir(".")
        sftp.symlink("paramiko renamed", "link")
        assert sftp.readlink("link") == "paramiko renamed" and stat.S_ISLNK(sftp.lstat("link").st_mode)
        with sftp.open("paramiko renamed", "a") as file:
            file.write(b"more")
        assert sftp.stat("link").st_size == os.stat(FILE).st_size + 4
        try:
            sftp.stat("no such file")
            raise AssertionError("it is not there")
        except FileNotFoundError:
            pass
    client.close()


async def by_asyncssh(back):
    async with asyncssh.connect(
        "127.0.0.1", PORT, username=LOGIN, client_keys=[KEY], known_hosts=None, config=None, agent_path=None
    ) as conn, conn.start_sftp_client() as sftp:
        await sftp.put(FILE, "asyncssh-file", preserve=True)
        await sftp.get("asyncssh-file", back)
        assert (await sftp.statvfs(".")).bsize > 0
        await sftp.link("asyncssh-file", "hard")
        assert (await conn.run("stat -c %h hard")).stdout == "2\n"
        await sftp.makedirs("a/b/c")
        # Many small files at once.
        await asyncio.gather(*(write(sftp, f"a/b/{number}") for number in range(200)))
        assert len(await sftp.glob("a/b/*")) == 201
        await sftp.rmtree("a")
        assert not await sftp.exists("a")


async def write(sftp, name):
    async with sftp.open(name, "w") as file:
        await file.write(name)


by_paramiko(sys.argv[5])
asyncio.run(by_asyncssh(sys.argv[6]))
