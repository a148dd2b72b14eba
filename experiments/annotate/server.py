"""The page's requests: who may ask at all, and what is asked of the session."""

from __future__ import annotations

import secrets
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from experiments.annotate.session import Refused, Session
from lightning_vos.cli import last_message
from lightning_vos.palette import PALETTE

PAGE = Path(__file__).parent / "page"
MOST_JSON = 2**20  # bytes of a request that is no mask

HEADERS = {
    "content-security-policy": "default-src 'self'; img-src 'self' blob: data:; frame-ancestors 'none'",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "cross-origin-resource-policy": "same-origin",
}


def application(session: Session, token: str, port: int) -> ASGIApp:
    """The server of one session.

    Args:
        session: what it serves.
        token: first part of every address; who does not know it learns nothing.
        port: at which it is asked; another name of this machine in a request is refused, as names can be made to
            point here from any page (DNS rebinding).
    """
    api = [
        Route("/open", _open, methods=["POST"]),
        Route("/state", _state),
        Route("/frame/{t:int}", _frame),
        Route("/labels/{t:int}", _labels),
        Route("/given/{t:int}", _give, methods=["PUT", "DELETE"]),
        Route("/grow/{t:int}", _grow, methods=["POST"]),
        Route("/propagate", _propagate, methods=["POST"]),
        Route("/export", _export, methods=["POST"]),
        Route("/stop", _stop, methods=["POST"]),
    ]
    routes = [Mount(f"/{token}/api", routes=api), Mount(f"/{token}", StaticFiles(directory=PAGE, html=True))]
    handlers = {Refused: _refused, ValueError: _wrong, OSError: _failed, IndexError: _no_frame}
    app = Starlette(routes=routes, exception_handlers=handlers)  # type: ignore[arg-type]
    app.state.session = session
    return _Guard(app, token, (f"127.0.0.1:{port}", f"localhost:{port}"))


class _Guard:
    """Lets requests for this machine pass that know the token."""

    def __init__(self, app: ASGIApp, token: str, hosts: tuple[str, ...]) -> None:
        self.app, self.token, self.hosts = app, token, hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        origin = headers.get("origin", "").removeprefix("http://")
        known = secrets.compare_digest(scope["path"].split("/")[1].encode(), self.token.encode())
        if headers.get("host") not in self.hosts or (origin and origin not in self.hosts) or not known:
            response = JSONResponse({"error": "open the address that the program has printed"}, 403)
            await response(scope, receive, send)
            return

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] += [(name.encode(), value.encode()) for name, value in HEADERS.items()]
            await send(message)

        await self.app(scope, receive, with_headers)


def _session(request: Request) -> Session:
    session: Session = request.app.state.session
    return session


def _number(request: Request) -> int:
    t: int = request.path_params["t"]
    if t >= len(_session(request).movie.frame_names):
        raise IndexError
    return t


def _check_tab(request: Request) -> None:
    """Let the page that was opened last change something, and no other: it shows what is there."""
    if request.headers.get("x-tab") != _session(request).tab:
        raise Refused("this video was opened in another tab since; reload this page to go on here")


async def _body(request: Request, most: int) -> bytes:
    length = request.headers.get("content-length", "")
    if not length.isdecimal() or int(length) > most:
        raise ValueError(f"a request of {length or 'unknown many'} bytes; at most {most} are taken")
    return await request.body()


async def _json(request: Request) -> dict[str, Any]:
    _check_tab(request)
    await _body(request, MOST_JSON)
    said = await request.json()
    if not isinstance(said, dict):
        raise ValueError("not a JSON object")
    return said


async def _open(request: Request) -> Response:
    session = _session(request)
    session.propagation.prepare()
    session.tab = secrets.token_hex(8)
    height, width = session.movie.size
    about = {
        "tab": session.tab,
        "name": session.name,
        "out": str(session.out),
        "width": width,
        "height": height,
        "names": session.movie.frame_names,
        "seconds": [*session.movie.seconds],
        "palette": PALETTE.tolist(),
    }
    return JSONResponse(about)


def _state(request: Request) -> Response:
    since = request.query_params.get("since", "0")
    return JSONResponse(_session(request).state(int(since) if since.isdecimal() else 0))


def _frame(request: Request) -> Response:
    content = _session(request).pictures.jpeg(_number(request))
    return Response(content, media_type="image/jpeg", headers={"cache-control": "private, max-age=86400"})


def _labels(request: Request) -> Response:
    return _ids(_session(request).labels(_number(request)))


async def _give(request: Request) -> Response:
    _check_tab(request)
    session, t = _session(request), _number(request)
    height, width = session.movie.size
    labels = None
    if request.method == "PUT":
        content = await _body(request, height * width)
        if len(content) != height * width:
            raise ValueError(f"mask of frame {t}: {len(content)} bytes; give {height * width}, one for each pixel")
        labels = np.frombuffer(content, dtype=np.uint8).reshape(height, width)
    await run_in_threadpool(session.give, t, labels)
    return JSONResponse({})


async def _grow(request: Request) -> Response:
    said = await _json(request)
    strokes = [said.get(name, []) for name in ("inside", "outside")]
    points = [np.asarray(stroke, dtype=np.float64) for side in strokes for stroke in side]
    if any(p.ndim != 2 or p.shape[1] != 2 or not np.isfinite(p).all() or np.abs(p).max() > 1e5 for p in points):
        raise ValueError("a stroke is a list of points [x, y]")
    id_, width = int(said["object"]), int(said["width"])
    if not 1 <= id_ <= 254 or not 1 <= width <= 1000:
        raise ValueError(f"object {id_}, width {width}: ids are 1 to 254, widths 1 to 1000")
    grown = partial(_session(request).grow, _number(request), id_, strokes[0], strokes[1], width)
    labels = await run_in_threadpool(grown)
    return _ids(labels)


async def _propagate(request: Request) -> Response:
    said = await _json(request)
    until = said.get("until")
    _session(request).propagate(str(said.get("direction")), until if isinstance(until, int) else None)
    return JSONResponse({})


async def _export(request: Request) -> Response:
    await _json(request)
    _session(request).export()
    return JSONResponse({})


async def _stop(request: Request) -> Response:
    await _json(request)
    _session(request).stop()
    return JSONResponse({})


def _ids(labels: np.ndarray) -> Response:
    headers = {"cache-control": "no-store"}
    return Response(np.ascontiguousarray(labels).tobytes(), media_type="application/octet-stream", headers=headers)


def _refused(request: Request, error: Exception) -> Response:
    return JSONResponse({"error": str(error)}, 409)


def _wrong(request: Request, error: Exception) -> Response:
    return JSONResponse({"error": last_message(error)}, 422)


def _failed(request: Request, error: Exception) -> Response:
    return JSONResponse({"error": last_message(error)}, 507)


def _no_frame(request: Request, error: Exception) -> Response:
    return JSONResponse({"error": "the video has no such frame"}, 404)
