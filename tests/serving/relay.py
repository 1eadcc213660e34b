"""A relay of TCP connections before a real server, which can do what a network or a dying node does."""

import socket
import threading
import time
from contextlib import suppress
from typing import Self


class Relay:
    """Listens on `port` inside a `with` block, and sends all on to another port of this machine."""

    def __init__(self, target: int) -> None:
        self._target = target
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._sockets: list[socket.socket] = []
        self._frozen: set[socket.socket] = set()
        self.connections = 0
        self.drip = False
        """Whether answers come one byte at a time, five in a second."""

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.refuse()

    def freeze(self) -> None:
        """Say nothing any more to those who are connected, as a node that has vanished; serve new ones."""
        self._frozen.update(self._sockets)

    def refuse(self) -> None:
        """End all connections, and refuse new ones."""
        # A listener that another thread waits on takes one connection more unless it is shut down.
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for one in self._sockets:
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()
        self._sockets = []

    def serve_again(self) -> None:
        """Undo `refuse`, on the same port."""
        self._listener = socket.create_server(("127.0.0.1", self.port))
        self.__enter__()

    def _accept(self, listener: socket.socket) -> None:
        with suppress(OSError):
            while True:
                near, _ = listener.accept()
                far = socket.create_connection(("127.0.0.1", self._target))
                self.connections += 1
                self._sockets += [near, far]
                threading.Thread(target=self._pump, args=(near, far, False), daemon=True).start()
                threading.Thread(target=self._pump, args=(far, near, True), daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket, is_answer: bool) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                if source in self._frozen:
                    return
                if is_answer and self.drip:
                    for byte in data:
                        sink.sendall(bytes([byte]))
                        time.sleep(0.2)
                else:
                    sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)
