"""Adds conf/ to the wheel as latentlab/conf. All other settings of the build are in pyproject.toml."""

from pathlib import Path
from shutil import copytree, rmtree

from setuptools import setup
from setuptools.command.build_py import build_py


class BuildWithConfigs(build_py):
    """Copies the modules, and then the configs. A development install reads the configs where they are."""

    def run(self) -> None:
        super().run()
        if not self.editable_mode:
            copy = Path(self.build_lib, "latentlab", "conf")
            rmtree(copy, ignore_errors=True)  # an earlier build may hold files that are gone
            copytree("conf", copy)


setup(cmdclass={"build_py": BuildWithConfigs})
