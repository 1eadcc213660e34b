"""Ask a Triton for images all the time, over gRPC and HTTP: load.py MODEL DIGESTS, until /tmp/stop exists.

Runs in a pod of the serve image. Nothing is asked again. Prints
{"right": ..., "failed": ..., "seen": [...], "errors": [...]}.
"""

import json
import sys
import threading
import time
from pathlib import Path

from troika.errors import TroikaError
from troika.serving.client import Client

SECONDS_BETWEEN = 0.03
PORTS = {"grpc": 8001, "http": 8000}


def main(model: str, digests: set[str]) -> None:
    right, failed, seen, errors = [0], [0], set(), set()
    lock = threading.Lock()

    def ask(protocol: str) -> None:
        with Client(f"triton:{PORTS[protocol]}", protocol, timeout=30, model=model, retries=0) as client:
            number = 0
            while not Path("/tmp/stop").exists():
                number += 1
                try:
                    digest = client.generate(1, seed=number, labels=1).model_digest
                except TroikaError as error:
                    with lock:
                        failed[0] += 1
                        errors.add(f"{protocol}: {error}")
                    continue
                with lock:
                    seen.add(digest)
                    right[0] += digest in digests
                    failed[0] += digest not in digests
                time.sleep(SECONDS_BETWEEN)

    pool = [threading.Thread(target=ask, args=(protocol,)) for protocol in PORTS for _ in range(2)]
    for thread in pool:
        thread.start()
    print("asking", flush=True)
    for thread in pool:
        thread.join()
    counts = {"right": right[0], "failed": failed[0]}
    print(json.dumps({**counts, "seen": sorted(seen), "errors": sorted(errors)[:5]}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], set(sys.argv[2].split(",")))
