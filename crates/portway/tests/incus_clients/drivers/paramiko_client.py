"""paramiko against the gateway. Arguments: port, key, login."""

import sys

import paramiko

PORT, KEY, LOGIN = int(sys.argv[1]), sys.argv[2], sys.argv[3]

client = paramiko.SSHClient()
client.set_missing_host_key_policy(paramiko.AutoAddPolicy())
client.connect("127.0.0.1", PORT, LOGIN, key_filename=KEY, allow_agent=False, look_for_keys=False)
for status in [0, 1, 42, 126, 127, 128, 254, 255]:
    stdin, stdout, stderr = client.exec_command(f"echo out; echo err >&2; exit {status}")
    assert (stdout.read(), stderr.read()) == (b"out\n", b"err\n")
    assert stdout.channel.recv_exit_status() == status
# A large standard error that is read only after all of standard output.
stdin, stdout, stderr = client.exec_command("head -c 1000000 /dev/zero >&2; echo out")
assert stdout.read() == b"out\n"
assert stderr.read() == bytes(1000000)
# A terminal, and its size.
channel = client.get_transport().open_session()
channel.get_pty("vt100", 101, 33)
channel.exec_command("stty size; echo $TERM")
text = b""
while piece := channel.recv(4096):
    text += piece
assert text == b"33 101\r\nvt100\r\n", text
# A key of the client's that is no good. Its second try on a connection begins with a service request, which russh leaves
# unanswered: the right key needs a connection of its own.
transport = paramiko.Transport(("127.0.0.1", PORT))
transport.start_client()
try:
    transport.auth_publickey(LOGIN, paramiko.ECDSAKey.generate())
    raise AssertionError("a key nobody knows")
except paramiko.AuthenticationException:
    pass
transport.close()
transport = paramiko.Transport(("127.0.0.1", PORT))
transport.start_client()
transport.auth_publickey(LOGIN, paramiko.Ed25519Key.from_private_key_file(KEY))
channel = transport.open_session()
channel.exec_command("exit 3")
assert channel.recv_exit_status() == 3
transport.close()
client.close()
print("done")
