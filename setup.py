"""The package list: kernels/, widgets/, apps/ and notebooks/ lie at the top, import as workbench.*."""

from setuptools import find_namespace_packages, setup

MAPPED = ("kernels", "widgets", "apps", "notebooks")

packages = find_namespace_packages(include=["workbench", "workbench.*"])
for name in MAPPED:
    found = find_namespace_packages(include=[name, f"{name}.*"])
    packages += [f"workbench.{p}" for p in found if "__pycache__" not in p and ".ipynb_" not in p]

setup(
    packages=packages,
    package_dir={"workbench": "workbench", **{f"workbench.{n}": n for n in MAPPED}},
    package_data={"": ["*.json", "*.jsonl", "*.safetensors", "*.txt", "*.md", "*.css", "*.js",
                       "*.html", "*.j2", "*.cpp", "*.h", "*.yaml", "*.ipynb", "*.parquet", "*.gz",
                       "py.typed"]},
)
