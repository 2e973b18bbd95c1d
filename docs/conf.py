"""Sphinx configuration."""

import pkgstore

project = "pkgstore"
author = "The pkgstore developers"
project_copyright = "2026, The pkgstore developers"
version = release = pkgstore.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc"]
exclude_patterns = ["_build"]
default_role = "py:obj"
html_theme = "furo"
html_title = "pkgstore"
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_type_aliases = {"BodyLike": "BodyLike"}
myst_enable_extensions = ["deflist"]
myst_heading_anchors = 3
