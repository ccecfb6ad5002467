#!/usr/bin/python
"""Module `vgpu_devices`: make the virtual GPUs of a hypervisor host as /etc/vgpu-devices/devices.json declares them."""

from __future__ import annotations

import json
from typing import Any

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = r"""
module: vgpu_devices
short_description: Make the virtual GPUs of a hypervisor host
description:
  - Runs the program C(vgpu-devices) of the role vgpu_host, which changes only the devices that differ.
options:
  program:
    description: Path of the program.
    type: path
    default: /usr/local/sbin/vgpu-devices
  devices:
    description: What the file of devices holds after this run. Check mode goes by it, as the file is not written then.
    type: dict
  sysfs:
    description: Where sysfs is.
    type: path
    default: /sys
attributes:
  check_mode:
    support: full
  diff_mode:
    support: full
"""

EXAMPLES = r"""
- name: Make the devices
  vgpu_devices:
"""

RETURN = r"""
cards:
  description: Each card with its devices before and after.
  returned: success
  type: list
"""

# Exit statuses of the program, as its help lists them.
ADVICE = {
    2: "correct the cards with backend vgpu in gpu_partition_cards",
    3: "shut these virtual machines down, or take their devices away from them, and run this again",
    5: "look at the host driver: lsmod, systemctl status nvidia-vgpud nvidia-vgpu-mgr, journalctl -k -g nvidia",
}


def diff_of(cards: list[dict[str, Any]]) -> list[dict[str, str]]:
    """Return Ansible's diff: for each card that changes its devices before and after, one a line."""
    return [
        {
            "before_header": f"{card['name']} {card['address']}",
            "after_header": f"{card['name']} {card['address']}",
            "before": "".join(f"{device}\n" for device in card["before"]),
            "after": "".join(f"{device}\n" for device in card["after"]),
        }
        for card in cards
        if card["changed"]
    ]


def main() -> None:
    """Run the program and hand its answer to Ansible."""
    module = AnsibleModule(
        argument_spec={
            "program": {"type": "path", "default": "/usr/local/sbin/vgpu-devices"},
            "devices": {"type": "dict"},
            "sysfs": {"type": "path", "default": "/sys"},
        },
        supports_check_mode=True,
    )
    command = [module.params["program"], "apply", "--json", "--sysfs", module.params["sysfs"]]
    devices = None
    if module.check_mode:
        command.append("--check")
        if module.params["devices"]:
            command += ["--config", "/dev/stdin"]
            devices = json.dumps(module.params["devices"])
    status, output, errors = module.run_command(command, data=devices)
    try:
        answer = json.loads(output)
    except ValueError:
        module.fail_json(msg=f"{' '.join(command)} ended with status {status}: {errors or output}", rc=status)
    if status != 0:
        advice = ADVICE.get(status, "")
        message = str(answer.get("message", errors)).rstrip(".")
        module.fail_json(msg=f"{message}. {advice}".rstrip(), rc=status, answer=answer)
    module.exit_json(
        changed=answer["changed"], cards=answer["cards"], msg=answer["message"], diff=diff_of(answer["cards"])
    )


if __name__ == "__main__":
    main()
