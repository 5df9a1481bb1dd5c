"""configs/ is installed as vtl/configs, beside the package's own folders.

pyproject.toml can find packages or rename them, and not do both.
"""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["vtl", "vtl.*"]), "vtl.configs"],
    package_dir={"vtl.configs": "configs"},
)
