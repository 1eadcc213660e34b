"""What a container engine asks to learn whether a serving container is well: on the port that it serves on.

    python -m troika.serving.health

Exit status 1: it is not, or is not yet. Imports little, since it is run every few seconds.
"""

import json
import sys
import tempfile
from contextlib import closing
from http.client import HTTPConnection, HTTPException
from pathlib import Path

STATE_FILE = Path(tempfile.gettempdir()) / "troika-serve.json"
"""Written by container.py when the server is ready."""


def main() -> int:
    """Return the exit status."""
    try:
        port = int(json.loads(STATE_FILE.read_text(encoding="utf-8"))["http_port"])
        with closing(HTTPConnection("127.0.0.1", port, timeout=2)) as connection:
            connection.request("GET", "/v2/health/live")
            return int(connection.getresponse().status != 200)
    except (OSError, ValueError, KeyError, HTTPException):
        return 1


if __name__ == "__main__":
    sys.exit(main())
