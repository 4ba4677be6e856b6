# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether a copy holds what its source holds: both read again on the host, by stock commands.

That a clone ended well is its own word. A sample costs the same for a disk of any size; ``full`` reads all of both.
What cannot be compared (a chain of deltas, a sparse copy, a base that the host keeps locked) is told with its reason,
never passed over. Sparse extents must at least hold every block that their own tables point at.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ansible_collections.stowage.esxi.plugins.module_utils.esxi.host import Host
from ansible_collections.stowage.esxi.plugins.module_utils.vmdk.chain import Chain

ENCRYPTED = "its source is encrypted"
BLOCK = 65536
# Boot sector, partition tables and the first partition's start lie in the head; the second copy of a GPT at the end.
EDGE_BLOCKS = 32
RANDOM_BLOCKS = 64
SLICE_BLOCKS = 1024

# Both files are hashed over all parts at once; only where the hashes differ is each part looked at. Lease and beat are
# touched before each part, since nothing else does while this reads, and slow storage takes longer than either lasts.
_COMPARE = r"""
source=$1 copy=$2 lease=$3 beat=$4
shift 4
sum=sha256sum
which sha256sum >/dev/null 2>&1 || sum=md5sum
part() { alive; dd if="$1" bs=65536 skip="${2%:*}" count="${2#*:}" 2>/dev/null || echo "unread $1 $2"; }
all() { file=$1; shift; for one in "$@"; do part "$file" "$one"; done; }
alive() { for sign in "$lease" "$beat"; do [ -z "$sign" ] || touch -c "$sign"; done; }
for file in "$source" "$copy"; do
    word=copy
    [ "$file" = "$copy" ] || word=source
    said=$(dd if="$file" of=/dev/null bs=512 count=1 2>&1) || { echo "unread $word ${said##*: }"; exit 0; }
done
whole=$(all "$source" "$@" | $sum)
# No answer at all would be equal to no answer.
[ -n "$whole" ] || { echo unhashed; exit 0; }
[ "$whole" = "$(all "$copy" "$@" | $sum)" ] && { echo same; exit 0; }
for one in "$@"; do
    said=$(dd if="$copy" of=/dev/null bs=65536 skip="${one%:*}" count="${one#*:}" 2>&1) ||
        { echo "unread copy ${said##*: }"; exit 0; }
    said=$(dd if="$source" of=/dev/null bs=65536 skip="${one%:*}" count="${one#*:}" 2>&1) ||
        { echo "unread source ${said##*: }"; exit 0; }
    [ "$(part "$source" "$one" | $sum)" = "$(part "$copy" "$one" | $sum)" ] || { echo "differs ${one%:*}"; exit 0; }
done
echo unsteady
"""

# A hosted sparse extent (little endian): magic at 0, capacity at 12, grain size at 20, grain directory at 56, all in
# sectors; then the directory, one entry a grain table of 512 entries, one entry a grain. Prints the capacity, and the
# end of the furthest grain.
_SPARSE = r"""
lease=$1 beat=$2
shift 2
words() { dd if="$1" bs=512 skip="$2" count="$3" 2>/dev/null | hexdump -v -e '1/4 "%u\n"'; }
for file in "$@"; do
    for sign in "$lease" "$beat"; do [ -z "$sign" ] || touch -c "$sign"; done
    set -- $(words "$file" 0 1)
    [ "$1" = 1447904331 ] || { echo bad; continue; }
    # 32-bit words: the disk of an extent is at most 2 GB.
    capacity=$4 grain=$6 directory=${15}
    tables=$(((capacity + grain * 512 - 1) / (grain * 512)))
    gt=$(words "$file" "$directory" $(((tables + 127) / 128)) | head -n "$tables" | awk '
        $1 { if (!n++ || $1 < low) low = $1; if ($1 > high) high = $1 }
        END { print NR, n + 0, low + 0, high + 0 }')
    set -- $gt
    last=cut
    if [ "$1" = "$tables" ]; then
        last=0
        # The tables lie side by side; where they do not, all that lies between them would be read as tables.
        count=$((($4 - $3) / 4 + 1))
        [ "$2" = 0 ] || [ "$2" = "$count" ] || { echo scattered; continue; }
        [ "$2" = 0 ] || last=$(words "$file" "$3" $((count * 4)) | awk -v want=$((count * 512)) '
            $1 > max { max = $1 } END { print NR == want ? max + 0 : "cut" }')
    fi
    echo "$capacity $grain $last"
done
"""


@dataclass(frozen=True)
class Verdict:
    """What was compared, in words for manifest and record; `differs` is why the copy is not its source."""

    verified: str = ""
    differs: str = ""


def flat_extent(chain: Chain) -> tuple[str, str]:
    """The one file that holds the whole disk byte by byte, or why there is none."""
    if chain.encrypted:
        return "", ENCRYPTED
    if len(chain.links) > 1:
        return "", f"its source is a chain of {len(chain.links)} links"
    descriptor = chain.top.descriptor
    if descriptor.kind != "flat" or len(descriptor.extents) != 1 or descriptor.extents[0].offset:
        return "", f"its source is not one flat extent (kind {descriptor.kind})"
    return chain.top.extent_paths[0], ""


def sample(capacity_bytes: int, seed: str) -> list[tuple[int, int]]:
    """Head, tail, and one random block in each of equal stretches between, as (block, count); the same for a seed."""
    blocks = -(-capacity_bytes // BLOCK)
    if blocks <= 2 * EDGE_BLOCKS + RANDOM_BLOCKS:
        return [(0, blocks)]
    chance = random.Random(seed)
    inner = blocks - 2 * EDGE_BLOCKS
    cuts = [EDGE_BLOCKS + inner * number // RANDOM_BLOCKS for number in range(RANDOM_BLOCKS + 1)]
    picked = [(chance.randrange(low, high), 1) for low, high in zip(cuts, cuts[1:])]
    return [(0, EDGE_BLOCKS), *picked, (blocks - EDGE_BLOCKS, EDGE_BLOCKS)]


def slices(capacity_bytes: int) -> list[tuple[int, int]]:
    blocks = -(-capacity_bytes // BLOCK)
    return [(start, min(SLICE_BLOCKS, blocks - start)) for start in range(0, blocks, SLICE_BLOCKS)]


def compare(
    host: Host,
    source: str,
    copy: str,
    calls: Sequence[Sequence[tuple[int, int]]],
    signs: tuple[str, str],
    beat: Callable[[int], None],
    whole: bool,
) -> Verdict:
    """Reads these parts of both, one list a call; `beat` gets the blocks done after each.

    `signs` are the job's lease and the watchdog's beat (or nothing), which the host keeps fresh meanwhile.
    """
    done = 0
    for parts in calls:
        words = [f"{start}:{count}" for start, count in parts]
        said = host.session.script(_COMPARE, [source, copy, *signs, *words], timeout_seconds=300).stdout.strip()
        kind, _blank, rest = said.partition(" ")
        if said.startswith("unread source"):
            return Verdict(f"not compared: the host does not let its source be read ({rest[len('source ') :]})")
        if kind == "unhashed":
            return Verdict("not compared: the host has neither sha256sum nor md5sum")
        if kind == "unread":
            return Verdict(differs=f"the copy cannot be read ({rest[len('copy ') :]})")
        if kind == "differs" and rest.isdigit():
            return Verdict(differs=f"other bytes at or after offset {int(rest) * BLOCK}")
        if kind != "same":
            return Verdict(differs=f"two readings of the same blocks did not agree ({said or 'the host said nothing'})")
        done += sum(count for _start, count in parts)
        beat(done)
    return Verdict("full" if whole else f"sample of {done} blocks of {BLOCK >> 10} KiB")


def sparse_fault(host: Host, extents: Sequence[tuple[str, int, int]], signs: tuple[str, str]) -> str:
    """Why one of these (path, sectors, bytes) is not a whole sparse extent, or nothing."""
    for start in range(0, len(extents), 40):
        part = extents[start : start + 40]
        paths = [path for path, _sectors, _size in part]
        answer = host.session.script(_SPARSE, [*signs, *paths], timeout_seconds=300)
        lines = answer.stdout.split("\n")
        for (path, sectors, size), line in zip(part, lines):
            reason = _sparse_reason(line.split(), sectors, size)
            if reason:
                return f"its extent {path} {reason}"
    return ""


def _sparse_reason(words: Sequence[str], sectors: int, size: int) -> str:
    if list(words) == ["scattered"]:
        return ""
    if len(words) != 3 or not words[0].isdigit() or not words[1].isdigit():
        return "is not a sparse extent"
    if not words[2].isdigit():
        return "ends within its own tables"
    capacity, grain, last = (int(word) for word in words)
    if capacity < sectors:
        return f"is made for {capacity} sectors instead of {sectors}"
    # The last grain of a disk that is not a multiple of grains need not be written out in full.
    end = last + (grain if capacity % grain == 0 else 1)
    return f"has {size} bytes, and its tables point to {end * 512}" if last and size < end * 512 else ""
