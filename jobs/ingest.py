"""web files → documents."""

from safety_ray.ingest.stage import IngestConfig, run
from safety_ray.job import main

if __name__ == "__main__":
    main(IngestConfig, run)
