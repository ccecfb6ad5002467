#!/usr/bin/python
"""Module `vgpu_devices`: make the virtual GPUs of a hypervisor host as /etc/vgpu-devices/devices.json declares them."""

from __future__ import annotations

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.node_program import apply, diff_of

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
    answer = apply(module, ("--sysfs", module.params["sysfs"]), "--config", module.params["devices"], ADVICE)
    module.exit_json(
        changed=answer["changed"],
        cards=answer["cards"],
        msg=answer["message"],
        diff=diff_of(answer["cards"], lambda card, moment: card[moment]),
    )


if __name__ == "__main__":
    main()
