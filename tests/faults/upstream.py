#!/usr/bin/env python3
"""The upstream of a fault: writes each request that it got to a file before it answers (the truth that
the record is compared with), and behaves as badly as the file of its mode says.

    upstream.py LOG MODE_FILE      prints its port, and ends with its standard input

Modes: ok · slow (0.2 to 10 s) · cut (resets in the midst of a body) · silent (never answers) ·
bad (no HTTP at all)
"""

import asyncio
import base64
import hashlib
import os
import random
import socket
import struct
import sys
import time

LOG, MODE = os.open(sys.argv[1], os.O_CREAT | os.O_APPEND | os.O_WRONLY), sys.argv[2]
TEXT = b"served\n"


def mode():
    try:
        with open(MODE) as file:
            return file.read().strip() or "ok"
    except OSError:
        return "ok"


async def body_of(reader, headers):
    if headers.get("transfer-encoding", "").lower() == "chunked":
        while size := int((await reader.readline()).split(b";")[0], 16):
            await reader.readexactly(size + 2)
        await reader.readline()
    elif length := int(headers.get("content-length", 0)):
        while length:
            piece = await reader.read(min(length, 65536))
            if not piece:
                raise ConnectionError
            length -= len(piece)


def reset(writer):
    raw = writer.get_extra_info("socket")
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


async def web_socket(reader, writer, headers):
    digest = hashlib.sha1((headers["sec-websocket-key"] + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11").encode()).digest()
    writer.write(b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\nsec-websocket-accept: "
                 + base64.b64encode(digest) + b"\r\n\r\n")
    while True:
        head = await reader.readexactly(2)
        mask, masked = await reader.readexactly(4), await reader.readexactly(head[1] & 127)
        if head[0] & 15 == 8:
            return
        body = bytes(b ^ mask[i % 4] for i, b in enumerate(masked))
        writer.write(struct.pack("!BB", 0x81, len(body)) + body)
        await writer.drain()


async def events(writer):
    writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
    while True:
        writer.write(b"9\r\ndata: x\n\n\r\n")
        await writer.drain()
        await asyncio.sleep(0.2)


async def connection(reader, writer):
    try:
        while True:
            first, *rest = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")[:-2]
            headers = {k.lower(): v.strip() for k, v in (line.split(":", 1) for line in rest)}
            method, path, _ = first.split(" ")
            os.write(LOG, f"{time.time() * 1000:.0f} {method} {path}\n".encode())
            if path.startswith("/ws"):
                return await web_socket(reader, writer, headers)
            if path.startswith("/events"):
                return await events(writer)
            now = mode()
            if now == "silent":
                await asyncio.sleep(60)
                return
            if now == "bad":
                writer.write(b"this is no HTTP\r\n\r\n")
                await writer.drain()
                return
            if now == "cut":
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\nhalf of it")
                await writer.drain()
                await asyncio.sleep(0.01)
                return reset(writer)
            await body_of(reader, headers)
            if now == "slow":
                await asyncio.sleep(random.choice((0.2, 0.2, 0.5, 1.0, 10.0)))
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%s" % (len(TEXT), TEXT))
            await writer.drain()
    except (OSError, ValueError, asyncio.IncompleteReadError):
        pass
    finally:
        writer.close()


async def main():
    server = await asyncio.start_server(connection, "127.0.0.1", int(sys.argv[3]) if len(sys.argv) > 3 else 0, backlog=4096, limit=1 << 20)
    print(server.sockets[0].getsockname()[1], flush=True)
    loop = asyncio.get_running_loop()
    await loop.run_in_executor(None, sys.stdin.buffer.read)
    os._exit(0)


asyncio.run(main())
