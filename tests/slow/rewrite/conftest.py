from rewrite_runs import by_a_model, scored

__all__ = ["by_a_model", "scored"]
