"""scored + rewritten → Data Safety Report Card."""

from safety_ray.job import main
from safety_ray.report.stage import ReportConfig, run

if __name__ == "__main__":
    main(ReportConfig, run)
