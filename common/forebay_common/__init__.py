"""What crosses a process boundary: function spec, invocation record, reply frames, Redis keys, queue protocol."""

__version__ = "0.1.0"
