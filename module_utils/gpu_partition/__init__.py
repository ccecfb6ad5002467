"""GPU slices: what a card can become, what is declared, and what has to change.

Used on the control machine as ``module_utils.gpu_partition`` (and by plugins as ``ansible.module_utils.gpu_partition``)
and on nodes behind the program ``gpu-partition``. Standard library only; imports within the package are relative.
"""
