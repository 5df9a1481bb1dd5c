"""Several devices of one CPU, for processes that tests start."""

import os


def xla_flags(num_devices: int) -> str:
    """The XLA_FLAGS of this process, which compile fast, and the number of devices."""
    count = f"--xla_force_host_platform_device_count={num_devices}"
    return f"{os.environ.get('XLA_FLAGS', '')} {count}".strip()


def environment(num_devices: int) -> dict[str, str]:
    """The environment of a process with so many CPU devices."""
    return os.environ | {"XLA_FLAGS": xla_flags(num_devices), "JAX_PLATFORMS": "cpu"}
