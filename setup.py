"""The package list: kernels/, widgets/ and apps/ lie at the top and import as workbench.*."""

from setuptools import find_namespace_packages, setup

MAPPED = ("kernels", "widgets", "apps")

packages = find_namespace_packages(include=["workbench", "workbench.*"])
for name in MAPPED:
    packages += [f"workbench.{p}" for p in find_namespace_packages(include=[name, f"{name}.*"])]

setup(
    packages=packages,
    package_dir={"workbench": "workbench", **{f"workbench.{n}": n for n in MAPPED}},
    package_data={"": ["*.json", "*.jsonl", "*.safetensors", "*.txt", "*.md", "*.css", "*.js",
                       "*.html", "*.j2", "*.cpp", "*.h", "*.yaml", "py.typed"]},
)
