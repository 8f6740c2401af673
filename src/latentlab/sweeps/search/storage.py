"""Where the trials of a search are kept, shared by its workers; see conf/hydra/sweeper/storage."""

from pathlib import Path

from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock

# How long a worker waits for another one's write.
PATIENCE = 60


def sqlite(path: str) -> BaseStorage:
    """An SQLite file, for workers of one machine."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    return RDBStorage(f"sqlite:///{path}", engine_kwargs={"connect_args": {"timeout": PATIENCE}})


def journal(path: str) -> BaseStorage:
    """A journal file, for workers that share a file system."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    return JournalStorage(JournalFileBackend(path, lock_obj=JournalFileOpenLock(path)))


def server(url: str) -> BaseStorage:
    """A database server, such as postgresql://user@host/name; its driver is installed apart."""
    return RDBStorage(url)
