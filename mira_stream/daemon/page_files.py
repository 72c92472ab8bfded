"""The status page at `/`: a few files of the package, kept in memory, and what a browser may do with them."""

from importlib.resources import files

from aiohttp import web
from aiohttp.typedefs import Handler

_KINDS = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
# Its own files and the status, and nothing else: text that found its way into the page could still not run, since
# Trusted Types without a policy refuse every way to make markup or code of a string.
_PAGE_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'"
)


def add_page(app: web.Application) -> None:
    """Serve the page at `/` and its files below `/page/`."""
    for file in files("mira_stream.daemon").joinpath("page").iterdir():
        kind = _KINDS.get(f".{file.name.rpartition('.')[2]}")
        if kind is not None:
            path = "/" if file.name == "index.html" else f"/page/{file.name}"
            app.router.add_get(path, _serve(file.read_bytes(), kind))


def _serve(body: bytes, kind: str) -> Handler:
    headers = {"Content-Security-Policy": _PAGE_POLICY} if kind == "text/html" else {}

    async def serve(_: web.Request) -> web.Response:
        return web.Response(body=body, content_type=kind, charset="utf-8", headers=headers)

    return serve
