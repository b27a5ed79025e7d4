"""What applications do all day: pgbench, and an ORM's sessions. None of it may pin."""

from __future__ import annotations

import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from sqlalchemy import Engine, ForeignKey, create_engine, select
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, relationship
from suites import HOST, USER

CLIENTS = 8
TRANSACTIONS = 200
PGBENCH_SECONDS = 3
PROTOCOLS = ("simple", "extended", "prepared")
SCRIPTS = ("tpcb-like", "select-only")


class Base(DeclarativeBase):
    pass


class Account(Base):
    __tablename__ = "account"
    id: Mapped[int] = mapped_column(primary_key=True)
    owner: Mapped[str]
    entries: Mapped[list[Entry]] = relationship(back_populates="account")


class Entry(Base):
    __tablename__ = "entry"
    id: Mapped[int] = mapped_column(primary_key=True)
    account_id: Mapped[int] = mapped_column(ForeignKey("account.id"))
    amount: Mapped[int]
    account: Mapped[Account] = relationship(back_populates="entries")


def orm(port: int, database: str, programs: Path) -> None:
    """SQLAlchemy sessions of several threads: insert, read, update, delete, roll back."""
    engine = create_engine(
        f"postgresql+psycopg://{USER}@{HOST}:{port}/{database}?sslmode=disable", pool_size=CLIENTS
    )
    Base.metadata.create_all(engine)
    with ThreadPoolExecutor(CLIENTS) as executor:
        for _ in executor.map(_work, [engine] * CLIENTS, range(CLIENTS)):
            pass
    engine.dispose()


def _work(engine: Engine, number: int) -> None:
    with Session(engine) as session:
        session.add(Account(id=number, owner=f"owner {number}"))
        session.commit()
    for amount in range(TRANSACTIONS):
        with Session(engine) as session:
            account = session.get_one(Account, number)
            account.entries.append(Entry(amount=amount))
            session.commit()
        with Session(engine) as session:
            account = session.scalars(select(Account).where(Account.id == number)).one()
            entry = account.entries[-1]
            assert entry.account is account
            entry.amount += 1
            session.flush()
            if amount % 2:
                session.delete(entry)
                session.commit()
            else:
                session.rollback()
    with Session(engine) as session:
        assert len(session.get_one(Account, number).entries) == TRANSACTIONS // 2


def pgbench(port: int, database: str, programs: Path) -> None:
    """TPC-B and reads, by each of pgbench's protocols."""
    program = shutil.which("pgbench", path=programs) or shutil.which("pgbench")
    if program is None:
        raise SystemExit(f"no pgbench in {programs} or PATH: install PostgreSQL's client programs")
    command = [program, f"--host={HOST}", f"--port={port}", f"--username={USER}"]
    subprocess.run([*command, "--initialize", "--quiet", database], check=True, capture_output=True)
    for script in SCRIPTS:
        for protocol in PROTOCOLS:
            load = [f"--builtin={script}", f"--protocol={protocol}", f"--client={CLIENTS}"]
            done = subprocess.run(
                [*command, *load, f"--time={PGBENCH_SECONDS}", "--no-vacuum", database],
                capture_output=True,
                text=True,
            )
            if done.returncode != 0:
                raise SystemExit(f"pgbench {script} {protocol}: {done.stderr}")


LOADS = (pgbench, orm)
