#!/usr/bin/env python3
"""Two builds of kvfold on the same model in turns: prefill and decode, medians and their ratio.

    git worktree add ../before COMMIT
    cd ../before && cmake --preset release && ninja -C build/release kvfold_cli && cd -
    tests/tools/compare_commits.py ../before/build/release/kvfold build/release/kvfold
"""
import argparse
import sys

import speed


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("before", help="a kvfold")
    parser.add_argument("after", help="another")
    parser.add_argument("-m", "--model", default=speed.FOLDER, help="models/tiny")
    speed.add_arguments(parser)
    options = parser.parse_args()
    rows = []
    for n_tokens in map(int, options.ctx.split(",")):
        def runner(binary, n_tokens=n_tokens):
            return lambda: speed.run_kvfold(binary, options.model, n_tokens, options.decode,
                                            options.threads, options.limit)
        try:
            results = speed.in_turns({"before": runner(options.before), "after": runner(options.after)},
                                     options.rounds)
        except speed.Failed as reason:
            sys.exit(f"compare_commits: at {n_tokens} tokens: {reason}")
        for what in ("prefill", "decode"):
            before, after = ([result[what + "_tps"] for result in results[name]]
                             for name in ("before", "after"))
            ratios = [b / a for a, b in zip(before, after)]
            rows.append([what, str(n_tokens), speed.spread(before), speed.spread(after),
                         f"{speed.middle(after) / speed.middle(before):.2f}",
                         f"{min(ratios):.2f} .. {max(ratios):.2f}"])
    print(f"{options.rounds} runs of each in turns, {options.threads} threads, {options.decode} tokens "
          "after each prompt; tokens a second, the median and the ends")
    speed.print_table(["", "tokens", "before", "after", "after / before", "of neighbours"], rows)


if __name__ == "__main__":
    main()
