"""What no server of large tensors can do without, and nothing else: receive the bytes over loopback TCP into memory
that is already there, copy them once (memcpy, as into a batch), run the model on that copy, send its output from where
it lies. With ``--no-model`` the model is left out: the bare transport, which echoes or answers four bytes.

HTTP only so far that the same client can call it: one connection, one request at a time, a content length.
"""

from __future__ import annotations

import argparse
import socket

import numpy as np
from compute import Model


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--bytes", type=int, required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--no-model", action="store_true")
    args = parser.parse_args()
    model = None if args.no_model else Model(args.model, args.threads)
    echoes = "echo" in args.model
    received = np.empty(args.bytes, np.uint8)
    slot = np.empty_like(received)
    rows = slot.view(np.float32).reshape(1, -1)
    with socket.create_server(("127.0.0.1", args.port)) as server:
        while True:
            connection, _ = server.accept()
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with connection:
                while receive(connection, memoryview(received)):
                    np.copyto(slot, received)
                    if model is not None:
                        output = model.predict(rows).view(np.uint8).reshape(-1)
                    else:
                        output = slot if echoes else slot[:4]
                    head = f"HTTP/1.1 200 OK\r\ncontent-length: {output.nbytes}\r\n\r\n"
                    connection.sendall(head.encode())
                    connection.sendall(output.data)


def receive(connection: socket.socket, body: memoryview) -> bool:
    """Reads one request of exactly ``len(body)`` bytes; returns whether there was one."""
    head = b""
    while b"\r\n\r\n" not in head:
        data = connection.recv(1 << 16)
        if not data:
            return False
        head += data
    early = head.partition(b"\r\n\r\n")[2]
    body[: len(early)] = early
    filled = len(early)
    while filled < len(body):
        count = connection.recv_into(body[filled:])
        if count == 0:
            return False
        filled += count
    return True


if __name__ == "__main__":
    main()
