"""Ask over gRPC as fast as Python can, until a file appears: python grpc_load.py PORT REQUEST ANSWERS STOP THREADS

REQUEST is a file with the bytes of a ModelInferRequest, ANSWERS a folder with the bytes of answers that are right.
Prints {"right": ..., "wrong": ..., "failed": ..., "seen": [...], "errors": [...]}.
"""

import json
import sys
import threading
from collections import Counter
from pathlib import Path

import grpc


def main() -> None:
    port, request, answers, stop, threads = sys.argv[1:]
    message = Path(request).read_bytes()
    right = {path.read_bytes(): path.name for path in Path(answers).iterdir()}
    counts: Counter[str] = Counter()
    seen: set[str] = set()
    errors: set[str] = set()

    def ask() -> None:
        mine: Counter[str] = Counter()
        # One connection for each thread, as many applications have them.
        options = [("grpc.use_local_subchannel_pool", 1)]
        with grpc.insecure_channel(f"127.0.0.1:{port}", options) as channel:
            infer = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
            while mine.total() % 50 or not Path(stop).exists():
                try:
                    answer = infer(message, timeout=20)
                except grpc.RpcError as error:
                    mine["failed"] += 1
                    errors.add(str(error.details()))  # type: ignore[attr-defined]
                    continue
                name = right.get(answer)
                mine["right" if name else "wrong"] += 1
                seen.add(name or "")
        counts.update(mine)

    pool = [threading.Thread(target=ask) for _ in range(int(threads))]
    for thread in pool:
        thread.start()
    for thread in pool:
        thread.join()
    totals = {key: counts[key] for key in ("right", "wrong", "failed")}
    print(json.dumps({**totals, "seen": sorted(seen), "errors": sorted(errors)[:5]}))


if __name__ == "__main__":
    main()
