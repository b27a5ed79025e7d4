"""The checks: ``nox`` runs those that a change must pass, ``nox -s NAME`` one of them."""

from __future__ import annotations

import nox

nox.options.default_venv_backend = "venv"
nox.options.sessions = ["lint", "types", "tests"]
nox.options.reuse_existing_virtualenvs = True

# The rooms that decide what every user's bytes become.
COVERED = "hyperdrive_client/protocol/*,hyperdrive_client/proxy/core/*"


@nox.session
def tests(session: nox.Session) -> None:
    """All tests, and the branches of protocol/ and proxy/core that they reach."""
    session.install("-e", ".[dev]")
    session.run("coverage", "erase")
    session.run("pytest", "--cov", "--cov-report=", *session.posargs)
    if not session.posargs:
        session.run("coverage", "report", f"--include={COVERED}", "--fail-under=95")


@nox.session
def lint(session: nox.Session) -> None:
    session.install("ruff>=0.8")
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")


@nox.session
def types(session: nox.Session) -> None:
    session.install("-e", ".[dev]")
    session.run("mypy")


@nox.session
def docs(session: nox.Session) -> None:
    """The documentation, into docs/_build/html; a warning is an error."""
    session.install("-e", ".[dev]")
    session.run("sphinx-build", "-W", "--keep-going", "-E", "docs", "docs/_build/html")


@nox.session
def demo(session: nox.Session) -> None:
    session.install("-e", ".[demo]")
    session.run("hyperdrive", "demo", *session.posargs)


@nox.session
def bench(session: nox.Session) -> None:
    """pgbench through the proxy beside PgBouncer and without either; see docs/benchmarks.md."""
    session.install("-e", ".[demo]")
    session.run("python", "benchmarks/pgbench.py", *session.posargs)


@nox.session
def isolation(session: nox.Session) -> None:
    """Fifty clients that must not notice each other; ``-- --seed N --requests N``."""
    session.install("-e", ".[demo]")
    with session.chdir("tests"):
        session.run("python", "-m", "isolation", *session.posargs)


@nox.session
def fuzz(session: nox.Session) -> None:
    """Wrong and random messages from both sides; ``-- --seed N --messages N --inputs N``."""
    session.install("-e", ".[demo]")
    with session.chdir("tests"):
        session.run("python", "-m", "fuzz", *session.posargs)
