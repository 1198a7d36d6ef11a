"""FastAPI as most people serve a model: one handler, the work in its thread pool, two uvicorn processes."""

import sys
from typing import Any

import uvicorn
from fastapi import FastAPI, Request
from fastapi.concurrency import run_in_threadpool

from benchmarks.peers.model import served

app = FastAPI()
model = served()


@app.post("/predict")
async def predict(request: Request) -> dict[str, Any]:
    return await run_in_threadpool(model.answer, await request.body())


if __name__ == "__main__":
    uvicorn.run("benchmarks.peers.on_fastapi:app", port=int(sys.argv[1]), workers=2, access_log=False)
