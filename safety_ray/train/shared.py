"""Whether all processes of a training run see the same files in its folders."""

from __future__ import annotations

import contextlib
import secrets
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch.distributed as dist

from safety_ray.core.errors import UserError


class NotShared(UserError):
    """A folder is on a file system that some processes do not share. Every process raises this."""


@contextmanager
def marker(folder: str) -> Iterator[str]:
    """Write a file with a random name into `folder`, yield its name, and delete it at the end."""
    path = Path(folder) / f".shared-{secrets.token_hex(8)}"
    path.touch()
    try:
        yield path.name
    finally:
        with contextlib.suppress(OSError):
            path.unlink()


def check_seen(setting: str, folder: str, name: str) -> None:
    """Raise NotShared unless all processes, which all call this, see the file `name` in `folder`."""
    seen: list[tuple[bool, str]] = [(True, "")] * dist.get_world_size()
    dist.all_gather_object(seen, ((Path(folder) / name).exists(), socket.gethostname()))
    hosts = sorted({host for sees, host in seen if not sees})
    if hosts:
        raise NotShared(
            f"{setting}='{folder}': workers on {', '.join(hosts)} do not see the files that other nodes "
            "write there; give a folder on a file system that all nodes mount, such as NFS."
        )


def check_shared(setting: str, folder: str) -> None:
    """Create `folder`, and raise NotShared unless all processes see in it what rank 0 writes.

    All processes call this function. Raises NotShared in all of them as well if rank 0 cannot write.
    """
    with contextlib.ExitStack() as stack:
        written = ["", ""]  # name of the file, or the error
        if dist.get_rank() == 0:
            try:
                Path(folder).mkdir(parents=True, exist_ok=True)
                written[0] = stack.enter_context(marker(folder))
            except OSError as error:
                written[1] = f"{setting}='{folder}' cannot be written: {error}; give a folder that can."
        dist.broadcast_object_list(written)
        name, error_text = written
        if error_text:
            raise NotShared(error_text)
        check_seen(setting, folder, name)
