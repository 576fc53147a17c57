"""CommonPool and DataComp-1B on the Hugging Face Hub, read in place: hf:// addresses pinned to a revision."""

from metadata.errors import CurateError


def address(repo: str) -> str:
    """Where the parquet files of `mlfoundations/{repo}` are, as of now.

    The revision is resolved once and named in the address, so that every worker, and a run continued next week, reads
    the same files.

    Raises:
        CurateError: the Hub can't be reached or does not have the repo.
    """
    import httpx
    import huggingface_hub
    from huggingface_hub.errors import HfHubHTTPError

    name = f"mlfoundations/{repo}"
    try:
        revision = huggingface_hub.HfApi().dataset_info(name, timeout=30).sha
    except (HfHubHTTPError, httpx.HTTPError, OSError) as error:
        endpoint = huggingface_hub.constants.ENDPOINT
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise CurateError(
            f"{endpoint}/datasets/{name}: the Hub did not answer for it ({reason}), but its list of files is needed. "
            f"Check the network and HF_ENDPOINT, log in with `hf auth login` if it asks for that, and try again."
        ) from error
    return f"hf://datasets/{name}@{revision}"
