"""CommonPool and DataComp-1B on the Hugging Face Hub, read in place: hf:// addresses pinned to a revision."""

from pipeline.remote import FIRST_PATIENCE_S, retried


def address(repo: str) -> str:
    """Where the parquet files of `mlfoundations/{repo}` are, as of now.

    The revision is resolved once and named in the address, so that every worker reads the same files, and a run that is
    continued after the repo has changed is told so instead of mixing the two.

    Raises:
        CurateError: the Hub can't be reached or does not have the repo.
    """
    from huggingface_hub import HfApi  # half a second, and most pools do without

    hub, name = HfApi(), f"mlfoundations/{repo}"
    revision = retried(
        lambda: hub.dataset_info(name, expand=["sha"], timeout=10).sha,
        f"{hub.endpoint}/datasets/{name}",
        FIRST_PATIENCE_S,
        hint=" (`hf auth login`; HF_ENDPOINT names another Hub)",
    )
    return f"hf://datasets/{name}@{revision}"
