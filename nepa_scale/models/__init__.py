"""The NEPA backbone on timm's ``Eva``, and its loss. Imports ``config`` and ``data``."""
