"""Strategies of mmengine's ``FlexibleRunner``."""

from .student_fsdp_strategy import StudentFSDPStrategy

__all__ = ['StudentFSDPStrategy']
