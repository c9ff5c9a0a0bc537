"""scored → audit."""

from safety_ray.job import main
from safety_ray.score.audit_stage import AuditConfig, run

if __name__ == "__main__":
    main(AuditConfig, run)
