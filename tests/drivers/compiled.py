"""The drivers whose programs are built: rust-postgres, pgjdbc and pgx.

Each function builds below ``folder``, which is nobody else's, and returns the program's command, to
which its options and a case are appended. Raises :class:`drivers.debian.MissingError` for tools
that are not there and cannot be had, and for what they say if they fail.
"""

from __future__ import annotations

import gzip
import re
import shutil
from pathlib import Path

from drivers.debian import install, run, unpack

PROGRAMS = Path(__file__).parent
PGX = "golang-github-jackc-pgx-v5-dev"


def rust_postgres(folder: Path) -> list[str]:
    """Offline, with Debian's crates; they are of the edition 2024, which needs Rust 1.85."""
    cargo = install("cargo", "cargo")
    registry = unpack(folder, ["librust-postgres-dev"], r"librust-.*") / "usr/share/cargo/registry"
    (crate,) = registry.glob("postgres-[0-9]*")
    # cargo writes Cargo.lock beside the manifest.
    package = shutil.copytree(PROGRAMS / "rust", folder / "package", dirs_exist_ok=True)
    run(
        cargo,
        "build",
        "--offline",
        *("--config", 'source.crates-io.replace-with="debian"'),
        *("--config", f'source.debian.directory="{registry}"'),
        cwd=package,
        environment={
            "CARGO_TARGET_DIR": str(folder / "target"),
            "DRIVER_VERSION": crate.name.removeprefix("postgres-"),
        },
    )
    return [str(folder / "target" / "debug" / "driver")]


def pgjdbc(folder: Path) -> list[str]:
    javac = install("javac", "default-jdk-headless")
    root = unpack(folder, ["libpostgresql-jdbc-java"], "libpostgresql-jdbc-java")
    archive = root / "usr/share/java/postgresql.jar"
    classes = folder / "classes"
    source = PROGRAMS / "java" / "Pgjdbc.java"
    run(javac, "-Xlint:all", "-Werror", "-cp", str(archive), "-d", str(classes), str(source))
    return [install("java", "default-jre-headless"), "-cp", f"{archive}:{classes}", "Pgjdbc"]


def pgx(folder: Path) -> list[str]:
    """With Debian's sources and its Go, and without a module: nothing is fetched."""
    root = unpack(folder, [PGX, "golang-go"], r"golang-.*")
    with gzip.open(root / f"usr/share/doc/{PGX}/changelog.Debian.gz", "rt") as changelog:
        version = re.search(r"\(([0-9.]+)", changelog.readline())
    if version is None:
        raise ValueError(f"the changelog of {PGX} does not begin with a version")
    (toolchain,) = (root / "usr/lib").glob("go-[0-9]*")
    program = folder / "pgx"
    run(
        str(toolchain / "bin" / "go"),
        "build",
        *("-ldflags", f"-X main.version={version[1]}"),
        *("-o", str(program)),
        str(PROGRAMS / "go" / "pgx.go"),
        environment={
            "CGO_ENABLED": "0",
            "GO111MODULE": "off",
            "GOCACHE": str(folder / "gocache"),
            "GOPATH": str(root / "usr/share/gocode"),
            "GOROOT": str(toolchain),
            "GOTELEMETRY": "off",
        },
    )
    return [str(program)]
