#!/usr/bin/env bash
# usage: demo.sh KVFOLD     the main job on the bundled checkpoint, models/tiny
# The four cache profiles side by side, the plan of a full-size model, and one long prompt
# whose hidden number must be found.
set -euo pipefail
cd "$(dirname "$0")/.."

kvfold=${1:?usage: demo.sh KVFOLD}
model=models/tiny
contexts=1k,4k
prompts=tests/model/needle_eval.jsonl
needle_tokens=16384

bold='' green='' red='' plain=''
if [ -t 1 ] && [ -z "${NO_COLOR:-}" ]; then
    bold=$'\e[1m' green=$'\e[32m' red=$'\e[31m' plain=$'\e[0m'
fi

heading() {
    printf '\n%s== %s ==%s\n%s\n\n' "$bold" "$1" "$plain" "$2"
}

# type_out ARGUMENTS...: shows a command as one would type it.
type_out() {
    printf '%s$ kvfold %s%s\n' "$bold" "$*" "$plain"
}

heading "One model, four caches" \
    "The same prompt under each profile. Fewer bytes, and not one bit of any logit differs."
type_out verify -m "$model" --ctx "$contexts"
"$kvfold" verify -m "$model" --ctx "$contexts"

heading "What that means for DeepSeek-V4-Flash" \
    "Bytes of one session, by arithmetic alone; no weights are needed."
type_out plan --model v4-flash --ctx 8k,64k,1M
"$kvfold" plan --model v4-flash --ctx 8k,64k,1M

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
# The first prompt of that length to a file, its question and answer on two lines.
python3 - "$prompts" "$needle_tokens" "$work/prompt.txt" >"$work/case.txt" <<'PYTHON'
import json, sys
prompts, length, out = sys.argv[1], int(sys.argv[2]), sys.argv[3]
case = next(c for c in map(json.loads, open(prompts)) if c["length"] == length)
with open(out, "w") as file:
    file.write(case["prompt"])
print(case["prompt"][case["prompt"].rindex("What is"):].strip())
print(case["expected"])
PYTHON
{ read -r question && read -r expected; } <"$work/case.txt"

heading "A number hidden in $needle_tokens tokens" "$question"
type_out run -m "$model" -f prompt.txt -n 5
"$kvfold" run -m "$model" -f "$work/prompt.txt" -n 5 >"$work/answer.txt"
found=$(tr -cd '[:print:]' <"$work/answer.txt")
echo "$found"

printf '\nexpected %s, found %s: ' "$expected" "${found:-nothing}"
if [ "$found" != "$expected" ]; then
    printf '%swrong%s\n' "$red" "$plain"
    exit 1
fi
printf '%sright%s\n' "$green" "$plain"
