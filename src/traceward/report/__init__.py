"""From a run directory to one HTML page that needs nothing else: `build.build_report`. No torch here."""
