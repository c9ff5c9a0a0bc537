"""nothing → labelled documents: the project's own corpus, expanded."""

from safety_ray.corpus.stage import CorpusConfig, run
from safety_ray.job import main

if __name__ == "__main__":
    main(CorpusConfig, run)
