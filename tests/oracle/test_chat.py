"""Chat format: the reference against cases written by hand, then a probe program against the reference.

The probe (--probe PATH; without it that half is skipped) reads requests from stdin, one line of JSON
each, answers each with one line of JSON on stdout before it reads the next, and ends with status 0 at
the end of stdin. An invalid request is answered, never the end of the probe.

Rendering:
    {"messages": ANY, "thinking": BOOL, "release": "preview" | "0731",
     "effort": "none" | "low" | "high" | "max" | another string, "drop_thinking": BOOL,
     "encoding_file": PATH | null}
    -> {"parts": [["marker", "..."], ["text", "..."], ...]} or {"error": "a sentence"}
  marker: an added token that the format writes: BOS, EOS, User, Assistant, latest_reminder, the six
  task markers, <think>, </think>, and DSML (without the "<" or "</" before it, which is text), also
  where a slot of the tools template puts it. text: all else, also text in messages or in the
  checkpoint's texts that is spelled like a marker. Neighbours of the same kind are joined and empty
  parts dropped before the comparison, so each may come in pieces. encoding_file is the encoding_dsv4.py
  of the checkpoint; null: the checkpoint has none. The same path may have other contents in the next
  request. For what is invalid only that there is an error, not empty, is compared.

Parsing:
    {"answer": STRING, "thinking": BOOL, "cuts": [BYTE, ...]}
    -> {"reasoning": STRING, "content": STRING, "calls": [{"name": STRING, "arguments": STRING}, ...],
        "raw": STRING | null}
  answer: the model's text, markers spelled, with or without EOS at its end. cuts: where the UTF-8 bytes
  of the answer are cut to be fed piece by piece (ascending, equal ones make an empty piece, may lie
  inside a character); they may not change the result. reasoning, content: what lies before and after
  </think> (content alone, without thinking), up to the block of calls or the end; EOS is in none.
  Thinking without </think>: all of that is reasoning. arguments: JSON text,
  {"KEY": VALUE, "KEY": VALUE} with these separators; values of string="true" as a JSON string (like
  Python's json.dumps, ensure_ascii false), others as they stand. raw: null, or, where the block of
  calls deviates from the grammar (or stands in the reasoning, or is cut off), all from its two line
  breaks to the end without a last EOS; calls is [] then.
"""
