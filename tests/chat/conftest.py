import hypothesis
from token_rows import tokenizer

hypothesis.settings.register_profile("untimed", deadline=None)
hypothesis.settings.load_profile("untimed")

__all__ = ["tokenizer"]
