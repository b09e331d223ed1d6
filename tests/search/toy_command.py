"""`shoebox`, searching with the toy pipeline."""

import sys

import toy_pipeline

import search.cluster.jobs
import search.run
from search.cli import main

search.run.PIPELINE = toy_pipeline.PIPELINE
search.cluster.jobs.ENTRY = (sys.executable, __file__)
main()
