"""The package list (kernels/, widgets/, apps/ and notebooks/ lie at the top, import as workbench.*) and
the CPU library: kernels/native/build.py compiles it; without a compiler the install goes on without it.
"""

import runpy
import sys
from pathlib import Path

from setuptools import Extension, find_namespace_packages, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext

MAPPED = ("kernels", "widgets", "apps", "notebooks")
NATIVE = runpy.run_path(str(Path(__file__).parent / "kernels" / "native" / "build.py"))

packages = find_namespace_packages(include=["workbench", "workbench.*"])
for name in MAPPED:
    found = find_namespace_packages(include=[name, f"{name}.*"])
    packages += [f"workbench.{p}" for p in found if "__pycache__" not in p and ".ipynb_" not in p]


class Library(build_ext):
    """One shared library with a plain C ABI, the same for every Python."""

    def build_extension(self, ext):
        target = Path(self.get_ext_fullpath(ext.name))
        if getattr(self, "editable_mode", False):  # the checkout is what is imported
            target = Path(__file__).parent / "kernels" / "native" / NATIVE["FILE"]
        try:
            NATIVE["build"](target)
        except NATIVE["BuildError"] as problem:
            print(f"warning: the CPU kernels were not compiled, torch's run instead: {problem}",
                  file=sys.stderr)

    def get_ext_filename(self, fullname):
        return str(Path(*fullname.split(".")[:-1], NATIVE["FILE"]))

    def get_outputs(self):  # what was not compiled is not missed
        return [o for o in super().get_outputs() if Path(o).exists()]

    def copy_extensions_to_source(self):
        if Path(self.get_ext_fullpath(self.extensions[0].name)).exists():
            super().copy_extensions_to_source()


class Wheel(bdist_wheel):
    """For one platform, for any Python 3."""

    def get_tag(self):
        return ("py3", "none", super().get_tag()[2])


setup(
    packages=packages,
    package_dir={"workbench": "workbench", **{f"workbench.{n}": n for n in MAPPED}},
    package_data={"": ["*.json", "*.jsonl", "*.safetensors", "*.txt", "*.md", "*.css", "*.js",
                       "*.html", "*.j2", "*.cpp", "*.h", "*.yaml", "*.ipynb", "*.parquet", "*.gz",
                       "py.typed"]},
    ext_modules=[Extension("workbench.kernels.native._native", sources=[], optional=True)],
    cmdclass={"build_ext": Library, "bdist_wheel": Wheel},
)
