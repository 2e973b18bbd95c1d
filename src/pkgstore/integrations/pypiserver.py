"""pypiserver with a store below it: as a WSGI app (`create_app`), or as a server (`serve`).

::

    gunicorn 'pkgstore.integrations.pypiserver:create_app("file:///srv/packages")'
    pkgstore serve /srv/packages -a . -P .
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import socket
import sys
from importlib import import_module
from socketserver import ThreadingMixIn
from typing import TYPE_CHECKING, Any, TypeAlias, cast
from wsgiref.simple_server import WSGIServer

import pypiserver  # type: ignore[import-untyped]
from pypiserver import bottle_wrapper as bottle
from pypiserver.__main__ import WsgiHandler, init_logging  # type: ignore[import-untyped]
from pypiserver.backend import BackendProxy  # type: ignore[import-untyped]
from pypiserver.config import RunConfig, get_parser  # type: ignore[import-untyped]

from pkgstore.config import split_url, suggest
from pkgstore.errors import Misconfigured
from pkgstore.integrations._pypi_backend import StoreBackend
from pkgstore.integrations._pypi_download import Downloads
from pkgstore.integrations._pypi_health import Health
from pkgstore.integrations._pypi_http import StoreErrors, guard_body
from pkgstore.opening import open_store
from pkgstore.store import Store

if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Callable, Sequence
    from wsgiref.types import WSGIApplication

    Place: TypeAlias = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]

_DOWNLOADS = "/packages/:filename#.*#"
_NO_FOLDER = os.sep
_NO_FOLDERS = "the packages are in the store, and no folder is given beside it"
_LINGER = 2.0
# What Bottle's "auto" runs, if it is there. pypiserver takes PasteDeploy, which has no server, for Paste.
_BETTER_SERVERS = ("waitress", "paste.httpserver", "twisted.web", "cherrypy", "cheroot")
_PATIENCE = 5.0
_OF_THE_SERVER = {
    "port": "--port",
    "host": "--interface",
    "server": "--server",
    "verbose": "--verbose",
    "log_file": "--log-file",
    "log_stream": "--log-stream",
    "log_frmt": "--log-frmt",
}


def create_app(store: Store | Place, *args: str, **overrides: Any) -> WSGIApplication:
    """Return pypiserver over a store, as a WSGI app that any server may run, in several processes and threads.

    ``store`` is an open store, which stays its caller's to close, or what `pkgstore.open` takes. ``args`` are options
    of `pypi-server run`, as on its command line: ``create_app(url, "--overwrite", "-P", "/etc/htpasswd")``.
    ``overrides`` are attributes of pypiserver's ``RunConfig``, such as ``auther``. Options of the server and of its log
    belong to the server that runs the app, and are refused here.

    Raises `Misconfigured`, and as `pkgstore.open` does.
    """
    options = _parsed(args)
    defaults = _parsed(())
    for name, option in _OF_THE_SERVER.items():
        if getattr(options, name) != getattr(defaults, name):
            raise Misconfigured(f"{option} has no effect on a WSGI app: give it to the server that runs the app")
    opened = store if isinstance(store, Store) else _opened(store)
    return _mounted(*_app(opened, options, overrides))


def serve(url: Place, argv: Sequence[str] = ()) -> None:
    """Serve the store at ``url``, which is what `pkgstore.open` takes, until interrupted.

    ``argv`` are options of `pypi-server run`.

    Raises `Misconfigured`, as `pkgstore.open` does, and OSError when the address cannot be listened on.
    """
    options = _parsed(argv)
    if options.server == "gevent":
        import_module("gevent.monkey").patch_all()
    with _opened(url) as store:
        app, config = _app(store, options, {})
        init_logging(level=config.log_level, filename=config.log_file, frmt=config.log_frmt, stream=config.log_stream)
        bottle.debug(config.verbosity > 1)
        if config.server_method == "gunicorn":
            # It reads sys.argv; it is configured by gunicorn.conf.py and GUNICORN_CMD_ARGS.
            sys.argv = ["gunicorn"]
        server, extra = _server(config.server_method)
        bottle.run(app=_mounted(app, config), host=config.host, port=config.port, server=server, **extra)


def _opened(url: Place) -> Store:
    """Open a store for a server, whose clients and workers do not wait as long as a program may."""
    urls = url if isinstance(url, (list, tuple)) else [cast("str | os.PathLike[str]", url)]
    is_timed = any("timeout" in split_url(each)[1] for each in urls)
    return open_store(url) if is_timed else open_store(url, timeout=_PATIENCE)


def _server(method: str) -> tuple[str, dict[str, Any]]:
    """Return Bottle's name of the server to run, and its options. None of them lets an upload block a download."""
    if method == "wsgiref" or (method == "auto" and not any(map(_can_import, _BETTER_SERVERS))):
        return "wsgiref", {"handler_class": WsgiHandler, "server_class": _ThreadingServer}
    return method, {}


def _can_import(module: str) -> bool:
    try:
        import_module(module)
    except ImportError:
        return False
    return True


class _ThreadingServer(ThreadingMixIn, WSGIServer):
    """The standard library's server, with a thread for each request."""

    daemon_threads = True
    request_queue_size = 128

    def shutdown_request(self, request: Any) -> None:
        """Let a client that is still sending read the answer: closing at once would reset its connection."""
        with contextlib.suppress(OSError):
            request.shutdown(socket.SHUT_WR)
            request.settimeout(_LINGER)
            while request.recv(1 << 16):
                pass
        self.close_request(request)


def _app(store: Store, options: Namespace, overrides: dict[str, Any]) -> tuple[Any, Any]:
    """Return the Bottle app over a store, not mounted yet, and its configuration."""

    class StoreConfig(RunConfig):  # type: ignore[misc]
        def get_backend(self, arg: str) -> BackendProxy:
            return BackendProxy(StoreBackend(self, store))

    try:
        config = StoreConfig(**{**RunConfig.kwargs_from_namespace(options), **overrides})
    except SystemExit as exc:
        raise Misconfigured(" ".join(str(exc.code).split())) from None
    except OSError as exc:
        raise Misconfigured(f"cannot read the password file {options.passwords}: {exc.strerror or exc}") from exc
    try:
        app = pypiserver.setup_routes_from_config(pypiserver.app_from_config(config), config)
    except RuntimeError as exc:
        raise Misconfigured(f"--health-endpoint {config.health_endpoint}: {exc}") from None
    _replace(app, _DOWNLOADS, Downloads(config, store))
    _replace(app, config.health_endpoint, Health(store))
    app.add_hook("before_request", guard_body)
    app.install(StoreErrors())
    return app, config


def _replace(app: Any, rule: str, callback: Callable[..., Any]) -> None:
    (route,) = [route for route in app.routes if route.rule == rule]
    route.callback = callback
    route.reset()


def _mounted(app: Any, config: Any) -> WSGIApplication:
    if not config.server_base_url.strip("/"):
        return app  # type: ignore[no-any-return]
    root = bottle.Bottle()
    root.mount(config.server_base_url, app)
    return root  # type: ignore[no-any-return]


def _parsed(args: Sequence[str]) -> Namespace:
    """Return the options of `pypi-server run`. Raises `Misconfigured`; SystemExit after ``--help`` or ``--version``."""
    errors = io.StringIO()
    try:
        with contextlib.redirect_stderr(errors):
            # pypiserver wants a folder that is there; with one given, any other is refused.
            options: Namespace = get_parser().parse_args(["run", _NO_FOLDER, *args])
    except SystemExit as exc:
        if not exc.code:
            raise
        raise Misconfigured(_problem(errors.getvalue())) from None
    except OSError as exc:
        raise Misconfigured(f"cannot read {exc.filename}, which an option names: {exc.strerror}") from exc
    if len(options.package_directory) > 1:
        raise Misconfigured(_NO_FOLDERS)
    if options.backend_arg != "auto":
        raise Misconfigured("--backend has no effect here: the packages are in the store")
    return options


def _problem(errors: str) -> str:
    """Return what argparse found wrong, in one line, with the option that was probably meant."""
    problem = errors.rpartition("error: ")[2].strip() or "the options of pypi-server cannot be understood"
    unknown = re.search(r"unrecognized arguments: (\S+)", problem)
    if "package_directory" in problem or (unknown and not unknown.group(1).startswith("-")):
        return f"{problem}: {_NO_FOLDERS}"
    if not unknown:
        return problem
    page = io.StringIO()
    with contextlib.redirect_stdout(page), contextlib.suppress(SystemExit):
        get_parser().parse_args(["run", "--help"])
    return f"{problem}: {suggest(unknown.group(1).partition('=')[0], set(re.findall(r'--[a-z-]+', page.getvalue())))}"
