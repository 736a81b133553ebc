"""Weights in and out: the authors' Hugging Face layout, folders that timm loads, and finished runs.

``python -m nepa_scale.weights import SOURCE OUT_DIR``, ``... export RUN_OR_DIR OUT_DIR layout=timm|authors``,
``... check DIR [IMAGE ...]``, ``... evaluate``, ``... speed`` and ``... push``.
"""
