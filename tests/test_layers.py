"""Imports point down, and heavy ones wait until they are needed."""

import ast
import subprocess
import sys
from pathlib import Path

import pkgstore

ROOT = Path(pkgstore.__file__).parent

# From the bottom up; modules of one row do not import each other unless they are of one family.
ROWS = [
    ["errors"],
    ["driver", "keys"],
    ["config", "extras", "hashing", "spread"],
    ["bodies", "crypt", "reading", "drivers", "registry"],
    ["calls", "outfile"],
    ["accounts", "control", "ledger"],
    ["holder"],
    ["tending"],
    ["granting"],
    ["bundle", "cache", "catalog", "lease", "quota"],
    ["reencryption"],
    ["store"],
    ["pair", "reopening"],
    ["opening"],
    ["__init__"],
    ["archive", "transfer", "trash", "verify"],
    ["prune"],
    ["testing", "integrations"],
    ["doctor"],
    ["cli", "demo"],
    ["__main__"],
]
RANK = {name: rank for rank, row in enumerate(ROWS) for name in row}


def family(module: str) -> str:
    """Return the name by which a module of ours stands in ROWS: its first part below the package."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else "__init__"


def imports(path: Path) -> set[str]:
    """Return our modules that a file imports, also those it imports only for its annotations."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            if node.module == "pkgstore":
                below = {alias.name for alias in node.names}
                found |= {f"pkgstore.{name}" if name in RANK else "pkgstore" for name in below}
            else:
                found.add(node.module)
    return {each for each in found if each.split(".")[0] == "pkgstore"}


def violations(root: Path) -> list[str]:
    """Return every import that does not point down."""
    found = []
    for path in sorted(root.rglob("*.py")):
        relative = path.relative_to(root)
        importer = relative.parts[0].removesuffix(".py")
        for module in imports(path):
            imported = family(module)
            if imported != importer and RANK[imported] >= RANK[importer]:
                found.append(f"{relative} imports {module}")
    return found


# For annotations alone: an error carries the blob that it is about.
ALLOWED = ["errors.py imports pkgstore.driver"]


def test_imports_point_down() -> None:
    assert violations(ROOT) == ALLOWED


def test_an_import_that_points_up_is_seen(tmp_path: Path) -> None:
    (tmp_path / "keys.py").write_text("from pkgstore.store import Store\n")
    (tmp_path / "drivers").mkdir()
    (tmp_path / "drivers" / "local.py").write_text("def late():\n    import pkgstore\n")
    assert violations(tmp_path) == ["drivers/local.py imports pkgstore", "keys.py imports pkgstore.store"]


def test_no_cycle_at_import_time() -> None:
    for path in sorted(ROOT.glob("*.py")):
        if path.stem not in {"__init__", "__main__", "cli", "demo"}:
            subprocess.run([sys.executable, "-c", f"import pkgstore.{path.stem}"], check=True)


def test_importing_pkgstore_is_light() -> None:
    heavy = {"asyncio", "click", "concurrent.futures", "email", "http", "importlib.metadata", "multiprocessing"}
    heavy |= {"pathlib", "pypiserver", "rich", "socket", "ssl", "subprocess", "urllib.request"}
    heavy |= {"pkgstore.drivers.local", "pkgstore.drivers.memory"}
    code = "import sys; before = set(sys.modules); import pkgstore; print(*set(sys.modules) - before)"
    shown = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    loaded = set(shown.stdout.split())
    assert "pkgstore.store" in loaded
    assert loaded & heavy == set()
