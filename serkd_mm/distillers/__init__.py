"""The model that combines student, teacher, views and losses by config."""

from .relation_distiller import RelationDistiller

__all__ = ['RelationDistiller']
