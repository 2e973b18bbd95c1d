"""What the demo shows while it runs: numbered steps, commands, and what they proved."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.tree import Tree

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from pkgstore import Store


class _Console(Console):
    def on_broken_pipe(self) -> None:
        raise


class Narrator:
    """Prints for people, in colour where there is a terminal."""

    def __init__(self) -> None:
        self._console = _Console(highlight=False, soft_wrap=True)
        self._steps = 0

    def title(self, text: str) -> None:
        self._console.print(f"[bold]{escape(text)}[/bold]")

    def step(self, text: str) -> None:
        self._steps += 1
        self._console.print(f"\n[bold cyan]{self._steps}[/bold cyan]  [bold]{escape(text)}[/bold]")

    def command(self, *words: str) -> None:
        self._console.print(f"   [dim]$ {escape(shlex.join(words))}[/dim]")

    def output(self, text: str) -> None:
        self._console.print(f"   [dim]| {escape(text)}[/dim]")

    def shows(self, text: str) -> None:
        self._console.print(f"   [green]ok[/green] {escape(text)}")

    def summary(self, lines: Sequence[str], end: str) -> None:
        self._console.print("\n[bold green]What this showed[/bold green]")
        for line in lines:
            self._console.print(f" - {escape(line)}")
        self._console.print(f"\n{escape(end)}")

    def tree(self, root: Path, store: Store) -> None:
        """Print the files below ``root``, each blob with the size and sha256 that the store knows."""
        blobs = {blob.key: blob for blob in store.list()}
        tree = Tree(f"{root.name}/", guide_style="dim")
        branches = {root: tree}
        for path in sorted(root.rglob("*")):
            blob = blobs.get(path.relative_to(root).as_posix())
            label = escape(path.name) + "/" * path.is_dir()
            if blob:
                label += f"  [dim]{blob.size} bytes[/dim]\n[dim]sha256[/dim] {blob.digests['sha256']}"
            branches[path] = branches[path.parent].add(label)
        self._console.print(tree, crop=False)
