"""`python -m traceward`, which launchers of several processes take: `torchrun -m traceward train RUN.toml`."""

from traceward.cli import main

main()
