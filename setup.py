"""Map the four folders to `palestra.*`; everything else is in pyproject.toml."""

from setuptools import find_packages, setup

FOLDERS = ("envs", "agents", "sandbox", "trainers")
packages = [f"palestra.{p}" for f in FOLDERS for p in find_packages(include=[f, f"{f}.*"])]
setup(
    packages=["palestra", "palestra.cli", *packages],
    package_dir={"palestra": "palestra"} | {f"palestra.{f}": f for f in FOLDERS},
)
