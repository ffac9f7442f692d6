"""A client that lends its display once. Arguments: port, key, login."""

import sys

import paramiko

PORT, KEY, LOGIN = int(sys.argv[1]), sys.argv[2], sys.argv[3]


def take(channel, origin):
    print("came from", origin[0], flush=True)
    channel.close()


client = paramiko.SSHClient()
client.set_missing_host_key_policy(paramiko.AutoAddPolicy())
client.connect("127.0.0.1", PORT, LOGIN, key_filename=KEY, allow_agent=False, look_for_keys=False)
session = client.get_transport().open_session()
session.request_x11(single_connection=True, handler=take)
session.exec_command("echo $DISPLAY $XAUTHORITY; read go")
print(session.makefile().readline().strip(), flush=True)
sys.stdin.readline()
client.close()
