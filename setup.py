"""Packaging; the tools' settings are in setup.cfg."""

from __future__ import annotations

from pathlib import Path

from setuptools import find_packages, setup

setup(
    name="scaletorch",
    version="0.1.0",
    description="A compiler-style parallelization planner for PyTorch.",
    long_description=Path(__file__).with_name("README.md").read_text(
        encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11",
    packages=find_packages(include=[
        "scaletorch", "scaletorch.*", "planner", "planner.*", "passes",
        "passes.*"
    ]),
    package_data={
        "planner.cluster": ["presets/*.yaml"],
        "planner.explain.page": ["page.*"],
    },
    entry_points={
        "planner.models": ["scaletorch = scaletorch.models.named"],
    },
    install_requires=[
        "torch>=2.13,<2.14",
        "numpy",
        "networkx",
        "pyyaml",
        "sympy",
        "tqdm",
        "packaging",
        "scipy",
        "safetensors",
    ],
    extras_require={
        "data": ["datasets", "pillow", "tokenizers"],
        "test": ["transformers", "hypothesis"],
        "dev": [
            "flake8",
            "isort",
            "yapf",
            "mkdocs",
            "mypy",
            "pre-commit",
            "types-PyYAML",
            "types-tqdm",
            "types-networkx",
        ],
    },
)
