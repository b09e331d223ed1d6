"""Ask one study or several: filters, fronts, knees, as typed records or as a pandas frame.

    from search import query

    small = query.select("sst2", where="latency_ms < 5 and deployed_bytes < 1.5e6")
    for trial in small.front():                 # feasible finished trials that no other of them dominates
        print(trial.study, trial.number, trial.record.quality)
    small.front(["quality", "latency_ms", "deployed_bytes"]).frame()        # a pandas frame
    small.within("1%").records                  # the smallest of those that lose at most 1 % of the best quality
    query.select(["sst2", "sst2-imdb"]).front(each=True)                    # a front for each study
    query.select("sst2", device="cortex-a76").knee()                        # timed again, without training

Conditions are those of `search.query.grammar`; names are those of `search.fields`.
"""

from search.query.selection import SelectedTrial, Selection, load, select, tolerance
from search.query.table import TrialTable

__all__ = ["SelectedTrial", "Selection", "TrialTable", "load", "select", "tolerance"]
