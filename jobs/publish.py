"""rewritten ↔ the published form of SafeWeb, RefuseWeb and Moral Education."""

from safety_ray.job import main
from safety_ray.rewrite.publish_stage import PublishConfig, run

if __name__ == "__main__":
    main(PublishConfig, run)
