"""rayconvai: a Ray-based, scalable experimentation platform for conversational AI."""

__version__ = "0.1.0"
