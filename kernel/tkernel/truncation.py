"""What is kept of a conversation that is longer than `cutoff_len`.

A policy is a function of the turns' lengths `(prompt, reply)` in tokens, most important first, and the
number of tokens there is room for. It returns how many tokens to keep of each, from the start.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from tkernel.errors import TkError

Lengths = tuple[int, int]
Policy = Callable[[Sequence[Lengths], int], list[Lengths]]


def proportional(turns: Sequence[Lengths], room: int) -> list[Lengths]:
    """Turn by turn, the prompt and the reply of a turn that does not fit share the room (LLaMA-Factory's rule).

    A reply shorter than half the room is kept whole; else a prompt shorter than half of it is kept
    whole; else both are cut in proportion.
    """
    kept = []
    for prompt, reply in turns:
        if room <= 0:
            kept.append((0, 0))
            continue
        if reply * 2 < room:
            most = room
        elif prompt * 2 < room:
            most = room - prompt
        else:
            most = int(room * (reply / (prompt + reply)))
        keep_reply = min(most, reply)
        keep_prompt = min(max(room - keep_reply, 0), prompt)
        kept.append((keep_prompt, keep_reply))
        room -= keep_prompt + keep_reply
    return kept


POLICIES: Mapping[str, Policy] = {"proportional": proportional}


def policy(name: str) -> Policy:
    """The policy called `name` (key `truncation`).

    Raises:
        TkError: there is none; the message lists those there are.
    """
    if name not in POLICIES:
        raise TkError(
            f"there is no truncation policy {name!r}",
            hint=f"`truncation` is one of: {', '.join(sorted(POLICIES))}.",
        )
    return POLICIES[name]
