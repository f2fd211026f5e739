"""The door for clients: passes on what SuperNodes ask of a SuperLink, and nothing else.

Flower serves SuperNodes, the command line and running apps on one address. Whoever reaches it with
the authority's certificate can start runs. So the SuperLink stays on 127.0.0.1, and clients are
given this gate's address, where `/v1/fleet/` and `/health` alone answer. A web server that you have
does the same: docs/deployment.md has the lines for nginx.

    python deploy/client_gate.py HOST PORT SUPERLINK_PORT CERTIFICATES
"""

import ssl
import sys
from pathlib import Path

import httpx
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

OF_ONE_CONNECTION = {
    *("connection", "keep-alive", "transfer-encoding", "te", "trailer", "upgrade", "host"),
    *("content-length", "content-encoding", "proxy-authorization", "proxy-authenticate"),
}
"""Headers that are not passed on."""
SECONDS = 600.0
"""The longest that the SuperLink may take to answer."""


def gate(superlink: str, authority: Path) -> Starlette:
    """Return the application that passes requests on to a SuperLink.

    Args:
        superlink: address, such as https://127.0.0.1:8000.
        authority: certificate that the SuperLink's is checked by.
    """
    trusted = ssl.create_default_context(cafile=str(authority))
    client = httpx.AsyncClient(base_url=superlink, verify=trusted, timeout=SECONDS)

    async def pass_on(request: Request) -> Response:
        # Paths are those of the routes below: nothing that a client writes becomes another one.
        headers = [(k, v) for k, v in request.headers.items() if k not in OF_ONE_CONNECTION]
        try:
            answer = await client.request(
                request.method, request.scope["path"], headers=headers, content=await request.body()
            )
        except httpx.TransportError:
            return Response(status_code=503)  # SuperNodes try again: it may be restarting
        kept = {k: v for k, v in answer.headers.items() if k not in OF_ONE_CONNECTION}
        return Response(answer.content, answer.status_code, kept)

    return Starlette(
        routes=[
            Route("/v1/fleet/{method:str}", pass_on, methods=["POST"]),
            Route("/health", pass_on, methods=["GET"]),
        ]
    )


def main() -> None:
    """Serve until the process is ended."""
    host, port, superlink_port, folder = sys.argv[1:]
    certificates = Path(folder)
    uvicorn.run(
        gate(f"https://127.0.0.1:{superlink_port}", certificates / "ca.crt"),
        host=host,
        port=int(port),
        ssl_certfile=str(certificates / "server.crt"),
        ssl_keyfile=str(certificates / "server.key"),
        log_level="warning",
    )


if __name__ == "__main__":
    main()
