import pyarrow as pa
import pytest
from documents import RECIPE_OF, labelled_documents, options
from rewrite_runs import documents_by_a_model, scored

from safety_ray.rewrite import tasks

__all__ = ["direct", "documents_by_a_model", "labelled", "scored"]


@pytest.fixture(scope="session")
def labelled() -> pa.Table:
    return labelled_documents()


@pytest.fixture(scope="session")
def direct(labelled: pa.Table) -> pa.Table:
    """Tasks of the first pass, with seed 5."""
    return tasks.from_documents(labelled, RECIPE_OF, options(5))
