"""kdnb: knowledge distillation for driving perception, as notebooks and a small library."""

__version__ = "0.1.0"
