"""Whether all processes of a training run see the same files in its folders."""

from __future__ import annotations

import contextlib
import secrets
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import torch.distributed as dist

from safety_ray.core import filesystem
from safety_ray.core.errors import UserError


class NotShared(UserError):
    """A folder is on a file system that some processes do not share. Every process raises this."""


@contextmanager
def marker(folder: str) -> Iterator[str]:
    """Write a file with a random name into `folder`, yield its name, and delete it at the end."""
    name = f".shared-{secrets.token_hex(8)}"
    fs, root = filesystem.find(folder)
    fs.pipe_file(f"{root}/{name}", b"")
    try:
        yield name
    finally:
        with contextlib.suppress(OSError):
            fs.rm_file(f"{root}/{name}")


def check_seen(setting: str, folder: str, name: str) -> None:
    """Raise NotShared unless all processes, which all call this, see the file `name` in `folder`."""
    fs, root = filesystem.find(folder)
    fs.invalidate_cache()
    seen: list[tuple[bool, str]] = [(True, "")] * dist.get_world_size()
    dist.all_gather_object(seen, (bool(fs.exists(f"{root}/{name}")), socket.gethostname()))
    hosts = sorted({host for sees, host in seen if not sees})
    if hosts:
        raise NotShared(
            f"{setting}='{folder}': workers on {', '.join(hosts)} do not see the files that other nodes "
            "write there; give a folder on a file system that all nodes mount, such as NFS, or the URL of an "
            "object storage."
        )


def check_shared(setting: str, folder: str) -> None:
    """Create `folder`, and raise NotShared unless all processes see in it what rank 0 writes.

    All processes call this function. Raises NotShared in all of them as well if rank 0 cannot write.
    """
    with contextlib.ExitStack() as stack:
        written = ["", ""]  # name of the file, or the error
        if dist.get_rank() == 0:
            try:
                fs, root = filesystem.find(folder)
                fs.makedirs(root, exist_ok=True)
                written[0] = stack.enter_context(marker(folder))
            except Exception as error:  # clients of storage raise many types, and the others wait
                written[1] = f"{setting}='{folder}' cannot be written: {error}; give a folder that can."
        dist.broadcast_object_list(written)
        name, error_text = written
        if error_text:
            raise NotShared(error_text)
        check_seen(setting, folder, name)
