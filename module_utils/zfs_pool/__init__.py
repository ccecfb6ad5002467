"""ZFS pools: what is declared, how much it holds, and what has to change.

Used on the control machine as ``module_utils.zfs_pool`` (and by plugins and modules as
``ansible.module_utils.zfs_pool``). Standard library only; imports within the package are relative.
"""
