"""Kubernetes quantities as a Function has them: memory in Mi or Gi, CPU in cores or thousandths. Pure."""

import math

MIB_PER_GIB = 1024
MILLIS_PER_CPU = 1000


def memory_mb(quantity: str) -> int:
    """MiB of `128Mi` or `2Gi`."""
    number, unit = int(quantity[:-2]), quantity[-2:]
    return number * (MIB_PER_GIB if unit == "Gi" else 1)


def memory_quantity(megabytes: int) -> str:
    """`128Mi` from 128."""
    return f"{megabytes}Mi"


def cpu_millis(quantity: str | int) -> int:
    """Thousandths of a CPU of `500m`, `1.5`, `2` or 2; a fraction of one counts as one."""
    text = str(quantity)
    return int(text[:-1]) if text.endswith("m") else math.ceil(round(float(text) * MILLIS_PER_CPU, 6))


def cpu_quantity(millis: int) -> str:
    """`500m` from 500, `2` from 2000."""
    return str(millis // MILLIS_PER_CPU) if millis % MILLIS_PER_CPU == 0 else f"{millis}m"
