"""The model's context length: what is said where it is exceeded, and what is known before anything is tokenized."""

from __future__ import annotations

from dynamo_tasks.engines.text.threads import INLINE
from dynamo_tasks.engines.text.tokenizer import Tokenizer
from dynamo_tasks.errors import ContextLengthError

__all__ = ["check_text", "too_long"]


def check_text(text: str, tokenizer: Tokenizer, longest: int, param: str) -> None:
    """Refuse a long text that surely has too many tokens; tokenizing it would take seconds.

    Args:
        text: To be tokenized.
        tokenizer: Of the model.
        longest: The model's context length; 0 = no limit.
        param: The field that it came in.

    Raises:
        ContextLengthError: It has.
    """
    if not longest or len(text) <= INLINE:
        return
    least = tokenizer.least_tokens(text)
    if least > longest:
        raise too_long(longest, least, param=param, at_least=True)


def too_long(
    longest: int, prompt: int, answer: int = 0, *, param: str, at_least: bool = False
) -> ContextLengthError:
    """The error, in the words by which clients of OpenAI's API know it.

    Args:
        longest: The model's context length.
        prompt: Tokens of the prompt.
        answer: Tokens that the answer may have.
        param: The field at fault.
        at_least: The prompt has that many or more.
    """
    where = "at least " if at_least else ""
    asked = f"your request has {where}{prompt} tokens"
    if answer:
        asked = f"you requested {prompt + answer} tokens ({prompt} in the prompt, {answer} in the completion)"
    return ContextLengthError(
        f"This model's maximum context length is {longest} tokens. However, {asked}. "
        "Please reduce the length of the prompt or of the completion.",
        param=param,
    )
