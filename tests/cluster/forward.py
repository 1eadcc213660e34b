"""Pass connections of a listening socket on: forward.py DESCRIPTOR ADDRESS PORT.

A socket stays in the network namespace that it was made in, so a socket of the outside, inherited by this process
inside, leads in without a route between the two.
"""

import asyncio
import socket
import sys
from contextlib import suppress


async def main(descriptor: int, address: str, port: int) -> None:
    async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(1 << 16):
                writer.write(data)
                await writer.drain()
            writer.write_eof()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            inside_reader, inside_writer = await asyncio.open_connection(address, port)
        except OSError:
            writer.close()
            return
        await asyncio.gather(copy(reader, inside_writer), copy(inside_reader, writer))
        writer.close()
        inside_writer.close()

    server = await asyncio.start_server(serve, sock=socket.socket(fileno=descriptor))
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), sys.argv[2], int(sys.argv[3])))
