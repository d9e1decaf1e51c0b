"""Paths of Azure's clients, which name the model before the API."""

from __future__ import annotations

__all__ = ["AZURE", "translate"]

AZURE = "/openai/"
"""The beginning of all of them."""
_DEPLOYMENTS = f"{AZURE}deployments/"
_APIS = ("/chat/completions", "/completions", "/embeddings")


def translate(path: str) -> tuple[str, str]:
    """A path of Azure's as OpenAI has it, and the deployment that it names.

    ``/openai/deployments/llama/chat/completions`` is ``/v1/chat/completions`` of the model ``llama``;
    ``/openai/v1/responses`` and ``/openai/responses`` are ``/v1/responses``.

    Returns:
        The path, and the name; that is empty where the body names the model.
    """
    if not path.startswith(_DEPLOYMENTS):
        return "/v1/" + path.removeprefix(AZURE).removeprefix("v1/"), ""
    rest = path.removeprefix(_DEPLOYMENTS)
    for api in _APIS:
        name = rest.removesuffix(api)
        if name and name != rest:
            return f"/v1{api}", name
    return path, ""
