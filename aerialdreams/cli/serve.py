"""`aerialdreams serve`: the page on which masks are drawn, and its HTTP API."""

import argparse
import contextlib
import secrets
import signal
import socket
import sys
import tempfile
from pathlib import Path
from typing import Any

from aerialdreams.cli.arguments import add_model_names, non_negative
from aerialdreams.cli.masks import resolve_models
from aerialdreams.errors import UserError
from aerialdreams.paths import DATASET, SEGMENTER
from aerialdreams.pipeline.environment import quick_imports

LOOPBACK = ("127.0.0.1", "localhost", "::1")


def add_parser(subparsers: Any) -> None:
    """Add the subcommand."""
    parser = subparsers.add_parser(
        "serve",
        help="open a local page to draw masks and generate images",
        description="Serve a page to draw land cover, generate and edit images, and an HTTP API"
        " (described at /openapi.json). Nothing is loaded from the network.",
    )
    parser.add_argument(
        "--host",
        default="127.0.0.1",
        help="address to listen on (default 127.0.0.1); others than this machine's own need a"
        " token, which is printed",
    )
    parser.add_argument("--port", type=non_negative, default=8000, help="port (default 8000)")
    parser.add_argument("--token", default="", help="token to ask for; default with --host: random")
    parser.add_argument("--no-token", action="store_true", help="let everybody in")
    add_model_names(parser)
    parser.add_argument(
        "--judge", type=Path, default=SEGMENTER, help="segmenter that checks images, if it exists"
    )
    parser.add_argument(
        "--dataset", type=Path, default=DATASET, help="dataset to load patches from, if it exists"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> str:
    """Serve until interrupted.

    Raises:
        UserError: the model is missing, or the address cannot be listened on.
    """
    with quick_imports():
        import uvicorn

        from aerialdreams.serve.app import create_app
        from aerialdreams.serve.studio import Studio

    resolve_models(args)
    try:
        with socket.create_server((args.host, args.port)):
            pass
    except OSError as error:
        raise UserError(
            f"--host, --port: {args.host}:{args.port}: {error.strerror}; name another port"
        ) from None
    local = args.host in LOOPBACK
    token = args.token or ("" if local or args.no_token else secrets.token_urlsafe(16))
    studio = Studio(args.controlnet, args.base, args.judge)
    # uvicorn shuts down in order, then raises the signal again, which must not skip the cleaning.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(0))
    with tempfile.TemporaryDirectory(prefix="aerialdreams-") as folder:
        hosts = set(LOOPBACK) if local else set()
        app = create_app(studio, Path(folder), args.dataset, hosts, token)
        query = f"?token={token}" if token else ""
        print(f"Open http://{args.host}:{args.port}/{query}  (Ctrl+C stops)", flush=True)
        with contextlib.suppress(KeyboardInterrupt):  # the way to stop it
            uvicorn.run(app, host=args.host, port=args.port, log_level="warning", ws="none")
    return "stopped"
