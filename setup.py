"""What pyproject.toml cannot say: plain JAX by default, and configs/ as the package segjax.configs.

The bounds of all versions are in requirements*.txt, and nowhere else.
"""

from pathlib import Path

from setuptools import find_packages, setup


def read(name: str) -> list[str]:
    """The requirements in a file."""
    lines = (line.partition("#")[0].strip() for line in Path(name).read_text().splitlines())
    return [line for line in lines if line]


def of(requirements: list[str], *packages: str) -> list[str]:
    """Those of some packages."""
    return [line for line in requirements if line.startswith(packages)]


core, test, onnx = (read(f"requirements{name}.txt") for name in ("", "-test", "-onnx"))
setup(
    packages=[*find_packages(include=["segjax", "segjax.*"]), "segjax.configs"],
    package_dir={"segjax.configs": "configs"},
    install_requires=[line.replace("jax[cuda12]", "jax") for line in core],
    extras_require={
        "cuda12": of(core, "jax["),
        # All but jax2onnx, whose own requirements do not go with those of segjax.
        "onnx": [line for line in onnx if line not in of(onnx, "jax2onnx")],
        "geo": of(test, "rasterio", "pyshp"),
        "medical": of(test, "nibabel", "pydicom"),
        "sweep": of(test, "optuna"),
        "weights": of(test, "h5py", "safetensors"),
        "dev": test,
    },
)
