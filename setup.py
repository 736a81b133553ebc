"""The packages of a wheel; pyproject.toml says the rest.

The DeepSpeed files lie beside the packages in a checkout, where people type ``ds_configs/zero3.json``. In a wheel they
lie in ``nepa_scale``: ``ds_configs`` would be a name of its own among all that is installed.
"""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["analysis*", "nepa_scale*", "sweeps*"]), "nepa_scale.ds_configs"],
    package_dir={"nepa_scale.ds_configs": "ds_configs"},
)
