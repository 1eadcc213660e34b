"""FastAPI with a hand-written micro-batcher: what waits when a worker is free becomes one run."""

import asyncio
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager

import numpy as np
import uvicorn
from fastapi import FastAPI, Request, Response
from generator import Generator

WORKERS, MAX_ROWS = 2, 64
model, port = sys.argv[1], int(sys.argv[2])
sessions = [Generator(model) for _ in range(WORKERS)]
pool = ThreadPoolExecutor(WORKERS)
queue: "asyncio.Queue[tuple[np.ndarray, asyncio.Future]]"


async def work(generator: Generator) -> None:
    """Take what waits, run it, hand it out."""
    left = None
    while True:
        batch = [left or await queue.get()]
        left, count = None, len(batch[0][0])
        while not queue.empty():
            item = queue.get_nowait()
            if count + len(item[0]) > MAX_ROWS:
                left = item
                break
            batch.append(item)
            count += len(item[0])
        rows = np.concatenate([rows for rows, _ in batch])
        images = await asyncio.get_running_loop().run_in_executor(pool, generator, rows)
        start = 0
        for rows, done in batch:
            done.set_result(images[start : start + len(rows)].tobytes())
            start += len(rows)


@asynccontextmanager
async def lifespan(_: FastAPI):
    """Start the workers."""
    global queue
    queue = asyncio.Queue()
    tasks = [asyncio.create_task(work(generator)) for generator in sessions]
    yield
    for task in tasks:
        task.cancel()


app = FastAPI(lifespan=lifespan)


@app.post("/generate")
async def generate(request: Request) -> Response:
    """Rows in, bytes out."""
    rows = np.frombuffer(await request.body(), dtype=np.int64).reshape(-1, 2)
    done = asyncio.get_running_loop().create_future()
    await queue.put((rows, done))
    return Response(await done, media_type="application/octet-stream")


@app.get("/ready")
async def ready() -> Response:
    """For the benchmark."""
    return Response()


uvicorn.run(app, host="127.0.0.1", port=port, log_level="error", access_log=False)
