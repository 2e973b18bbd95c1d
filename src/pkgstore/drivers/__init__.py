"""One module per medium. Each has a `connect` function; see `pkgstore.registry`."""
