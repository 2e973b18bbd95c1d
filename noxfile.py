"""What developers and CI run; `nox --list` tells what there is. Each session has an environment of its own."""

import nox

nox.needs_version = ">=2025.2.9"
nox.options.sessions = ["lint", "typing", "tests"]
nox.options.default_venv_backend = "uv|virtualenv"

GROUPS = nox.project.load_toml("pyproject.toml")


def install(session: nox.Session, *groups: str) -> None:
    """Install pkgstore as its users do, from a built wheel and with every extra, and the groups' own tools."""
    session.install(".[all]", *nox.project.dependency_groups(GROUPS, *groups))


@nox.session
def tests(session: nox.Session) -> None:
    """All tests but `labs` and `downstream`: conformance, mutants, real clients over real sockets."""
    install(session, "test")
    session.run(
        "python",
        "-m",
        "pytest",
        "--numprocesses=2",
        "--dist=loadgroup",
        "--ignore=tests/downstream",
        "--ignore=tests/labs",
        *session.posargs,
    )


@nox.session
def labs(session: nox.Session) -> None:
    """Power cuts (PKGSTORE_CUTS), NFS clients, Samba (PKGSTORE_LABS=full), replicas (PKGSTORE_SOAK_SECONDS)."""
    install(session, "test")
    session.run("python", "-m", "pytest", "-s", "tests/labs", *session.posargs)


@nox.session
def downstream(session: nox.Session) -> None:
    """The public behaviour of pypiserver, on our backend under gunicorn, and on its own for comparison."""
    install(session, "test")
    session.run("python", "-m", "pytest", "tests/downstream", *session.posargs)


@nox.session
def lint(session: nox.Session) -> None:
    """Style."""
    session.install(*nox.project.dependency_groups(GROUPS, "lint"))
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")


@nox.session
def typing(session: nox.Session) -> None:
    """Types: the source, strictly, and a file of intended uses."""
    install(session, "typing")
    session.run("mypy")


@nox.session
def docs(session: nox.Session) -> None:
    """Build the documentation; warnings are errors. Its examples run with the tests."""
    install(session, "docs")
    session.run("sphinx-build", "--fail-on-warning", "--keep-going", "--quiet", "docs", "docs/_build", *session.posargs)


@nox.session
def bench(session: nox.Session) -> None:
    """Measure against the peers, in one run: writes benchmarks/report.md. `-- --quick` for a first look."""
    install(session, "bench")
    session.run("python", "benchmarks/run.py", *session.posargs)
