# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Proves that an agent is gone: while it lives, it may hold an extent open, and nothing can be consolidated."""

from __future__ import annotations

from collections.abc import Sequence

from ansible_collections.stowage.esxi.plugins.module_utils.ssh.session import Session
from ansible_collections.stowage.esxi.plugins.module_utils.transfer.errors import AgentStays

WAIT_SECONDS = 10

# $1 seconds until it is given up, $2 until it is killed, then the process id and the mark of each. A process id may
# have gone to somebody else by now: what does not bear the mark is not ours. An agent that does not end by itself waits
# for storage, and KILL then ends it as that returns. Most end within a moment, for which not every host can sleep.
_PROVE = r"""
seconds=$1 patience=$2
shift 2
turn=0 moment=0
while :; do
    count=$#
    while [ "$count" -gt 0 ]; do
        pid=$1 mark=$2
        shift 2
        count=$((count - 2))
        kill -0 "$pid" 2>/dev/null || continue
        if [ "$moment" -ge 20 ] && { [ "$turn" -ge "$patience" ] || [ "$turn" -ge "$seconds" ]; }; then
            # A list that was not to be had proves nothing.
            if list=$(ps -c 2>/dev/null) && [ -n "$list" ]; then
                printf '%s\n' "$list" | grep -F -- "$mark" | grep -q "^ *$pid " || continue
                [ "$patience" -ge "$seconds" ] || kill -9 "$pid" 2>/dev/null
            fi
        fi
        set -- "$@" "$pid" "$mark"
    done
    [ $# -gt 0 ] || break
    if [ "$moment" -lt 20 ] && usleep 50000 2>/dev/null; then
        moment=$((moment + 1))
        continue
    fi
    moment=20
    if [ "$turn" -ge "$seconds" ]; then
        echo "there $1"
        exit 0
    fi
    turn=$((turn + 1))
    sleep 1
done
echo gone
"""


def prove_gone(
    session: Session, agents: Sequence[tuple[int, str]], *, seconds: int = WAIT_SECONDS, kill_after: int = 2
) -> None:
    """Waits for the end of all agents (process id and token); those that stay are killed; ``AgentStays`` names the
    first that even that does not end."""
    if not agents:
        return
    words = [str(seconds), str(kill_after), *(str(word) for agent in agents for word in agent)]
    answer = session.script(_PROVE, words, timeout_seconds=seconds + 30).stdout.split()
    if answer != ["gone"]:
        pid, token = next((one for one in agents if [str(one[0])] == answer[1:]), agents[0])
        raise AgentStays(host=session.endpoint.host, pid=pid, token=token, seconds=seconds)
