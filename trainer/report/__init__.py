"""How close an encoder comes, beside what needs no training to come as close: losses by zone, floors, retrieval, and
the pages that show them. It hands on RUN/report.json and what the artifact stores beside the weights."""
