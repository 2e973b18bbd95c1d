"""The public behaviour of pypiserver, asked of pypiserver itself and of our backend under it."""
