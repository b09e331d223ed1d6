"""`shoebox`, searching with the toy pipeline."""

import toy_pipeline

import search.run
from search.cli import main

search.run.PIPELINE = toy_pipeline.PIPELINE
main()
