"""`run_oracle`, where others import it from."""

from oracle.search.run import run_oracle

__all__ = ["run_oracle"]
