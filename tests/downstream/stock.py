"""pypiserver as it is, for gunicorn: `tests.downstream.stock:create_app("/srv/packages", "-a", ".")`."""

from __future__ import annotations

from typing import Any

import pypiserver
from pypiserver.bottle_wrapper import Bottle
from pypiserver.config import Config


def create_app(folder: str, *arguments: str) -> Any:
    """Return the app over a folder, with options of `pypi-server run`."""
    # The backend that looks at the folder for each request: with a cache, workers would not agree.
    config = Config.from_args(["run", folder, "--backend", "simple-dir", *arguments])
    app = pypiserver.setup_routes_from_config(pypiserver.app_from_config(config), config)
    if not config.server_base_url.strip("/"):
        return app
    root = Bottle()
    root.mount(config.server_base_url, app)
    return root
