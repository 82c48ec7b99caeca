"""Who may talk to the server: hosts, sites, token; and the headers that protect the page."""

import secrets
from collections.abc import Awaitable, Callable
from urllib.parse import urlsplit

from fastapi import Request, Response
from fastapi.responses import JSONResponse

COOKIE = "aerialdreams-token"
SECURITY = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' blob: data:; base-uri 'none';"
    " form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}
Next = Callable[[Request], Awaitable[Response]]


def guard_requests(hosts: set[str], token: str) -> Callable[[Request, Next], Awaitable[Response]]:
    """Middleware: refuses requests for other hosts, from other sites, or without the token."""

    async def guard(request: Request, call_next: Next) -> Response:
        host = urlsplit(f"//{request.headers.get('host', '')}")
        origin = request.headers.get("origin")
        if hosts and host.hostname not in hosts:
            return JSONResponse({"detail": "this server is not for that host name"}, 421)
        if origin and urlsplit(origin).netloc != host.netloc:
            return JSONResponse({"detail": "requests of other sites are refused"}, 403)
        given = request.query_params.get("token") or request.cookies.get(COOKIE, "")
        given = request.headers.get("authorization", "").removeprefix("Bearer ") or given
        if token and not secrets.compare_digest(given.encode(), token.encode()):
            return JSONResponse(
                {"detail": "open the page with the address that the server printed"}, 401
            )
        response = await call_next(request)
        response.headers.update(SECURITY)
        if token and request.query_params.get("token"):
            response.set_cookie(COOKIE, token, httponly=True, samesite="strict")
        return response

    return guard
