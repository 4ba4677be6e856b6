# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import posixpath
from collections.abc import Callable
from dataclasses import dataclass

from ansible_collections.stowage.esxi.plugins.module_utils.vmdk.descriptor import Descriptor, parse_descriptor
from ansible_collections.stowage.esxi.plugins.module_utils.vmdk.errors import (
    BrokenChain,
    ChainLoop,
    ChainTooDeep,
    MissingLink,
)

# What ESXi itself allows (KB 1025279): a longer chain is damaged or made by hand.
MAX_LINKS = 32


@dataclass(frozen=True)
class Link:
    path: str
    descriptor: Descriptor

    @property
    def extent_paths(self) -> tuple[str, ...]:
        """Absolute paths of the extents; ESXi reads a relative name beside the descriptor."""
        folder = posixpath.dirname(self.path)
        return tuple(posixpath.join(folder, name) for name in self.descriptor.files)


@dataclass(frozen=True)
class Chain:
    """A disk as it is read: the top link first, the base last."""

    links: tuple[Link, ...]

    @property
    def top(self) -> Link:
        return self.links[0]

    @property
    def base(self) -> Link:
        return self.links[-1]

    @property
    def capacity_bytes(self) -> int:
        return self.top.descriptor.capacity_bytes

    @property
    def paths(self) -> tuple[str, ...]:
        return tuple(link.path for link in self.links)

    @property
    def extent_paths(self) -> tuple[str, ...]:
        return tuple(path for link in self.links for path in link.extent_paths)

    @property
    def encrypted(self) -> bool:
        """Whether its descriptors name keys, without which its bytes say nothing."""
        words = (f"{key}={value}".lower() for link in self.links for key, value in link.descriptor.ddb.items())
        return any("crypt" in word for word in words)

    @property
    def cids(self) -> tuple[str, ...]:
        return tuple(link.descriptor.cid for link in self.links)


def parent_path(path: str, descriptor: Descriptor) -> str:
    return posixpath.normpath(posixpath.join(posixpath.dirname(path), descriptor.parent_hint or ""))


def read_chain(read_text: Callable[[str], str], path: str, resolve: Callable[[str], str] = posixpath.normpath) -> Chain:
    """Follow the parents from `path` to the base.

    `read_text` gives the text of a descriptor and may raise anything for one that cannot be read: for the top it is
    passed on, for a parent it becomes MissingLink. `resolve` gives a parent's path its one canonical form.
    """
    links = [Link(path, parse_descriptor(read_text(path), path))]
    seen = {posixpath.normpath(path)}
    while links[-1].descriptor.is_delta:
        child = links[-1]
        if not child.descriptor.parent_hint:
            raise MissingLink(path=path, child=child.path, parent="(unnamed)", reason="it has no parentFileNameHint")
        parent = resolve(parent_path(child.path, child.descriptor))
        if parent in seen:
            raise ChainLoop(path=path, parent=parent)
        if len(links) == MAX_LINKS:
            raise ChainTooDeep(path=path, limit=MAX_LINKS)
        seen.add(parent)
        try:
            text = read_text(parent)
        except Exception as error:
            raise MissingLink(path=path, child=child.path, parent=parent, reason=str(error)) from error
        link = Link(parent, parse_descriptor(text, parent))
        if link.descriptor.cid != child.descriptor.parent_cid:
            raise BrokenChain(
                path=path,
                child=child.path,
                wanted=child.descriptor.parent_cid,
                parent=parent,
                found=link.descriptor.cid,
            )
        links.append(link)
    return Chain(tuple(links))
