# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Proves that an agent is gone: while it lives, it may hold an extent open, and nothing can be consolidated."""

from __future__ import annotations

from ansible_collections.stowage.esxi.plugins.module_utils.ssh.session import Session
from ansible_collections.stowage.esxi.plugins.module_utils.transfer.errors import AgentStays

WAIT_SECONDS = 10

# $1 process id, $2 mark, $3 seconds until it is given up, $4 until it is killed. A process id may have gone to somebody
# else by now: what does not bear the mark is not ours. An agent that does not end by itself waits for storage, and KILL
# then ends it as that returns.
_PROVE = r"""
turn=0
while kill -0 "$1" 2>/dev/null; do
    if [ "$turn" -ge "$4" ] || [ "$turn" -ge "$3" ]; then
        # A list that was not to be had proves nothing.
        if list=$(ps -c 2>/dev/null) && [ -n "$list" ]; then
            printf '%s\n' "$list" | grep -F -- "$2" | grep -q "^ *$1 " || break
            [ "$4" -ge "$3" ] || kill -9 "$1" 2>/dev/null
        fi
    fi
    if [ "$turn" -ge "$3" ]; then
        echo there
        exit 0
    fi
    turn=$((turn + 1))
    sleep 1
done
echo gone
"""


def prove_gone(session: Session, pid: int, token: str, *, seconds: int = WAIT_SECONDS, kill_after: int = 2) -> None:
    """Waits for the end of the agent; one that stays is killed; ``AgentStays`` if even that does not end it."""
    answer = session.script(_PROVE, [str(pid), token, str(seconds), str(kill_after)], timeout_seconds=seconds + 30)
    if answer.stdout.strip() != "gone":
        raise AgentStays(host=session.endpoint.host, pid=pid, token=token, seconds=seconds)
