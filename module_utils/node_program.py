"""What the modules have in common that run one of the platform's own programs on a host.

Such a program has the command ``apply`` with ``--check`` and ``--json``. Its answer has ``changed``, ``message`` and
``cards``, each with its state before and after, and its exit status is 0 or says what is wrong.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

Card = dict[str, Any]


def apply(
    module: Any, arguments: Sequence[str], file_option: str, wanted: Mapping[str, Any] | None, advice: Mapping[int, str]
) -> dict[str, Any]:
    """Run the program of a module (``AnsibleModule``) and return its answer; the module fails where the program does.

    ``wanted`` is what the program's file holds after this run. Check mode hands it over by ``file_option``, because
    the file is not written then. ``advice`` says for an exit status what the operator can do.
    """
    command = [module.params["program"], "apply", "--json", *arguments]
    data = None
    if module.check_mode:
        command.append("--check")
        if wanted:
            command += [file_option, "/dev/stdin"]
            data = json.dumps(wanted)
    status, output, errors = module.run_command(command, data=data)
    try:
        answer: dict[str, Any] = json.loads(output)
    except ValueError:
        module.fail_json(msg=f"{' '.join(command)} ended with status {status}: {errors or output}", rc=status)
    if status != 0:
        message = str(answer.get("message", errors)).rstrip(".")
        module.fail_json(msg=f"{message}. {advice.get(status, '')}".rstrip(), rc=status, answer=answer)
    return answer


def diff_of(cards: Sequence[Card], lines: Callable[[Card, str], Sequence[str]]) -> list[dict[str, str]]:
    """Return Ansible's diff of the cards that change; ``lines`` gives a card's state ``before`` and ``after``."""
    diff = []
    for card in cards:
        if card["changed"]:
            header = " ".join(card[key] for key in ("name", "model", "address") if key in card)
            texts = {moment: "".join(f"{line}\n" for line in lines(card, moment)) for moment in ("before", "after")}
            diff.append({"before_header": header, "after_header": header, **texts})
    return diff
