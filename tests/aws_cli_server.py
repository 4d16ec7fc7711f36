#!/usr/bin/env python3
"""The AWS CLI, loaded once. Starting it takes a second of CPU time, and the tests of provision-thing call it
hundreds of times. For each connection a copy of this process (fork) runs one command line.

A client sends the arguments, each with a NUL after it, and a second NUL at the end. The answer is a line with
exit code, length of the output and length of the errors, then these two. Prints its port.
"""

import os
import signal
import socket
import sys
import tempfile

from awscli.clidriver import create_clidriver


def run(connection):
    data = b""
    while not data.endswith(b"\0\0"):
        part = connection.recv(65536)
        if not part:
            return
        data += part
    args = data[:-2].decode().split("\0")
    files = [tempfile.TemporaryFile(), tempfile.TemporaryFile()]
    for descriptor, file in enumerate(files, 1):
        os.dup2(file.fileno(), descriptor)
    try:
        code = DRIVER.main(args)
    except SystemExit as end:
        code = end.code
    sys.stdout.flush()
    sys.stderr.flush()
    output, errors = (os.pread(file.fileno(), 1 << 20, 0) for file in files)
    connection.sendall(f"{code or 0} {len(output)} {len(errors)}\n".encode() + output + errors)


DRIVER = create_clidriver()
# What the first call loads.
null = os.open(os.devnull, os.O_WRONLY)
shown = os.dup(1)
os.dup2(null, 1)
DRIVER.main(["iot", "list-things"])
sys.stdout.flush()
os.dup2(shown, 1)
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
listener = socket.create_server(("127.0.0.1", 0))
print(listener.getsockname()[1], flush=True)
while True:
    client, _ = listener.accept()
    if os.fork() == 0:
        listener.close()
        run(client)
        os._exit(0)
    client.close()
